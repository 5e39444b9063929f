//! `slotgate status` and `slotgate watch`.

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::server::Server;
use crate::show::{Colours, bar, columns};
use crate::words::{clock, count, document, percent};
use serde_json::{Value, json};
use slotgate::ledger::view::{Account, Pool, State, duration};
use std::cmp::Reverse;
use std::io::IsTerminal;
use std::time::Duration;

pub fn read(server: &mut Server, named: &[String]) -> Result<Vec<Pool>, Problem> {
    let mut problem = None;
    let mut pools = Vec::new();
    for name in server.some_pools(named)? {
        match server.pool(&name) {
            Ok(pool) => pools.push(pool),
            // The others are shown all the same.
            Err(garbage) if garbage.kind == "garbage" => {
                let mut pool = Pool::default();
                pool.name = name;
                pool.error = Some(garbage.what.clone());
                pools.push(pool);
                problem = Some(garbage);
            }
            Err(other) => return Err(other),
        }
    }
    match problem {
        Some(problem) if pools.iter().all(|pool| pool.error.is_some()) => Err(problem),
        Some(_) | None => Ok(pools),
    }
}

/// Whether all could be read.
pub fn exit(pools: &[Pool]) -> Exit {
    if pools.iter().any(|pool| pool.error.is_some()) {
        Exit::Wrong
    } else {
        Exit::Done
    }
}

pub fn json(pools: &[Pool]) -> Value {
    let pools: Vec<Value> = pools
        .iter()
        .map(|pool| document(|json| pool.write(json, false)))
        .collect();
    json!({"pools": pools})
}

/// All pools; at most `rows` accounts of each.
pub fn text(pools: &[Pool], rows: Option<usize>, colours: Colours) -> String {
    let tables: Vec<String> = pools
        .iter()
        .map(|pool| table(pool, rows, colours))
        .collect();
    tables.join("\n")
}

/// One pool: a line about it, then a line for each account.
fn table(pool: &Pool, rows: Option<usize>, colours: Colours) -> String {
    if let Some(error) = &pool.error {
        return format!("{error}\n");
    }
    let total = |of: fn(&Account) -> u64| {
        pool.accounts
            .iter()
            .fold(0_u64, |sum, account| sum.saturating_add(of(account)))
    };
    let mut text = format!(
        "pool {}  {}/{} slots  {} live",
        pool.name,
        total(|account| account.used),
        total(|account| account.max),
        count(pool.live, "lease"),
    );
    if pool.expired > 0 {
        text.push_str(&format!(", {} expired", pool.expired));
    }
    let share = match pool.percent {
        Some(set) => format!("{} % by override", percent(set)),
        None if pool.ignored => "by no override: Redis holds one that is no percentage".to_owned(),
        None => "as configured".to_owned(),
    };
    text.push_str(&format!("  revision {}  gray {share}\n", pool.revision));

    let mut shown: Vec<&Account> = pool.accounts.iter().collect();
    let most = rows.unwrap_or(shown.len());
    let cut = shown.len() > most;
    if cut {
        shown.sort_by_cached_key(|account| (account.state == State::Free, Reverse(load(account))));
        shown.truncate(most);
    }
    let mut lines = vec![["account", "used", "", "state"].map(str::to_owned).to_vec()];
    for account in &shown {
        lines.push(vec![
            account.id.clone(),
            format!("{}/{}", account.used, account.max),
            bar(account.used, account.max),
            colours.paint(colour(account.state), &state(account)),
        ]);
    }
    text.push_str(&columns(&lines));
    if cut {
        let rest = pool.accounts.len().saturating_sub(most);
        text.push_str(&format!("… and {rest} more\n"));
    }
    text
}

/// In thousandths.
fn load(account: &Account) -> u64 {
    account
        .used
        .saturating_mul(1_000)
        .checked_div(account.max)
        .unwrap_or(0)
}

fn state(account: &Account) -> String {
    match account.state {
        State::Cooling => format!("cooling, {} left", duration(account.cooling_ms)),
        State::Behind => "free, behind the others".to_owned(),
        State::Probe => "free for one probe".to_owned(),
        State::Probing => "a probe is under way".to_owned(),
        State::Free | State::Full | State::Disabled | State::Drained | State::Removed => {
            account.state.as_str().to_owned()
        }
    }
}

fn colour(state: State) -> &'static str {
    match state {
        State::Free => "32",
        State::Full | State::Behind | State::Probe => "33",
        State::Cooling | State::Probing => "31",
        State::Disabled | State::Drained | State::Removed => "2",
    }
}

/// The arguments of `watch`.
#[derive(Debug)]
pub struct Watch {
    pub pools: Vec<String>,
    pub rows: Option<usize>,
    pub interval: f64,
    pub count: Option<u64>,
    pub json: bool,
}

/// Looks again and again, also past failures: Redis comes back. On a terminal each look replaces the one before.
pub fn watch(open: &dyn Fn() -> Result<Server, Problem>, watch: &Watch) -> Result<Answer, Problem> {
    let in_place = std::io::stdout().is_terminal() && !watch.json;
    let mut server = None;
    let mut looks: u64 = 0;
    loop {
        let look = look(&mut server, open, watch, in_place);
        looks = looks.saturating_add(1);
        let last = watch.count.is_some_and(|count| looks >= count);
        match look {
            Ok(text) if in_place => {
                crate::say(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))?
            }
            Ok(text) => crate::say(&text)?,
            Err(problem) if last || problem.exit == Exit::Usage => return Err(problem),
            Err(problem) => {
                server = None;
                if in_place {
                    crate::say(&format!("\x1b[H\x1b[J{}", problem.text()))?;
                } else {
                    problem.report(watch.json);
                }
            }
        }
        if last {
            return Ok(Answer {
                text: String::new(),
                json: Value::Null,
                exit: Exit::Done,
            });
        }
        std::thread::sleep(Duration::from_secs_f64(watch.interval));
    }
}

fn look(
    server: &mut Option<Server>,
    open: &dyn Fn() -> Result<Server, Problem>,
    watch: &Watch,
    in_place: bool,
) -> Result<String, Problem> {
    let server = match server {
        Some(server) => server,
        None => server.insert(open()?),
    };
    let pools = read(server, &watch.pools)?;
    if watch.json {
        return Ok(format!("{}\n", json(&pools)));
    }
    let rows = watch
        .rows
        .or_else(|| in_place.then(|| rows_each(pools.len())).flatten());
    let time = pools.first().map_or(0, |pool| pool.now_ms);
    let gap = if in_place { "" } else { "\n" };
    Ok(format!(
        "{} UTC  {}\n{}{gap}",
        clock(time),
        server.name,
        text(&pools, rows, Colours::for_stdout())
    ))
}

/// How many accounts of each pool the terminal can show: beside a line for all there are four for each pool.
fn rows_each(pools: usize) -> Option<usize> {
    let (_, height) = terminal_size::terminal_size()?;
    let each = usize::from(height.0).saturating_sub(2).checked_div(pools)?;
    Some(each.saturating_sub(4).max(1))
}
