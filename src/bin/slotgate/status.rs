//! `slotgate status` and `slotgate watch`.

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::server::Server;
use crate::show::{Cell, Colours, Lines, bar};
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
            Err(other) if other.is_of_one_pool() => {
                let mut pool = Pool::default();
                pool.error = Some(other.named(&name));
                pool.name = name;
                pools.push(pool);
                problem = Some(other);
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
pub fn text(pools: &[Pool], rows: Option<usize>, colours: Colours) -> Lines {
    let mut text = Lines::default();
    for (place, pool) in pools.iter().enumerate() {
        if place > 0 {
            text.line("");
        }
        table(&mut text, pool, rows, colours);
    }
    text
}

/// One pool: a line about it, then a line for each account.
fn table(text: &mut Lines, pool: &Pool, rows: Option<usize>, colours: Colours) {
    if let Some(error) = &pool.error {
        return text.line(error);
    }
    let total = |of: fn(&Account) -> u64| {
        pool.accounts
            .iter()
            .fold(0_u64, |sum, account| sum.saturating_add(of(account)))
    };
    let mut head = format!(
        "pool {}  {}/{} slots  {} live",
        pool.name,
        total(|account| account.used),
        total(|account| account.max),
        count(pool.live, "lease"),
    );
    if pool.expired > 0 {
        head.push_str(&format!(", {} expired", pool.expired));
    }
    let share = match pool.percent {
        Some(set) => format!("{} % by override", percent(set)),
        None if pool.ignored => "by no override: Redis holds one that is no percentage".to_owned(),
        None => "as configured".to_owned(),
    };
    head.push_str(&format!("  revision {}  gray {share}", pool.revision));
    text.line(&head);

    let mut shown: Vec<&Account> = pool.accounts.iter().collect();
    let most = rows.unwrap_or(shown.len());
    let cut = shown.len() > most;
    if cut {
        shown.sort_by_cached_key(|account| (account.state == State::Free, Reverse(load(account))));
        shown.truncate(most);
    }
    let mut lines = vec![["account", "used", "", "state"].map(Cell::from).to_vec()];
    for account in &shown {
        lines.push(vec![
            Cell::from(&account.id),
            format!("{}/{}", account.used, account.max).into(),
            bar(account.used, account.max).into(),
            colours.paint(colour(account.state), &state(account)),
        ]);
    }
    text.table(&lines);
    if cut {
        let rest = pool.accounts.len().saturating_sub(most);
        text.line(&format!("… and {rest} more"));
    }
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
                crate::say(&text.in_place())?;
            }
            Ok(text) => crate::say(&text)?,
            Err(problem) if last || problem.exit == Exit::Usage => return Err(problem),
            Err(problem) => {
                server = None;
                if in_place {
                    crate::say(&problem.text().in_place())?;
                } else {
                    problem.report(watch.json);
                }
            }
        }
        if last {
            return Ok(Answer {
                text: Lines::default(),
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
) -> Result<Lines, Problem> {
    let server = match server {
        Some(server) => server,
        None => server.insert(open()?),
    };
    let pools = read(server, &watch.pools)?;
    if watch.json {
        return Ok(Lines::json(&json(&pools), false));
    }
    let rows = watch
        .rows
        .or_else(|| in_place.then(|| rows_each(pools.len())).flatten());
    let time = pools.first().map_or(0, |pool| pool.now_ms);
    let mut lines = Lines::of(&format!("{} UTC  {}", clock(time), server.name));
    lines.append(&text(&pools, rows, Colours::for_stdout()));
    if !in_place {
        lines.line("");
    }
    Ok(lines)
}

/// How many accounts of each pool the terminal can show: beside a line for all there are four for each pool.
fn rows_each(pools: usize) -> Option<usize> {
    let (_, height) = terminal_size::terminal_size()?;
    let each = usize::from(height.0).saturating_sub(2).checked_div(pools)?;
    Some(each.saturating_sub(4).max(1))
}
