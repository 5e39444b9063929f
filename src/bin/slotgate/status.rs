//! `slotgate status` and `slotgate watch`.

use crate::check::Difference;
use crate::problem::{Exit, Problem};
use crate::queue;
use crate::server::Server;
use crate::show::{Cell, Colours, Lines, bar};
use crate::words::{count, document, percent};
use serde_json::{Value, json};
use slotgate::ledger::view::{Account, Pool, duration};
use slotgate::pool::state::State;
use std::cmp::Reverse;

/// The order of a pool's accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Sort {
    /// By their ids
    #[default]
    Name,
    /// Those that use most of their slots first
    Use,
    /// Those that take no leases first
    State,
}

impl Sort {
    /// The next one, as a key chooses it.
    pub fn next(self) -> Self {
        match self {
            Self::Name => Self::Use,
            Self::Use => Self::State,
            Self::State => Self::Name,
        }
    }

    fn apply(self, accounts: &mut [&Account]) {
        match self {
            // As they come.
            Self::Name => {}
            Self::Use => accounts.sort_by_cached_key(|account| Reverse(load(account))),
            Self::State => accounts.sort_by_cached_key(|account| {
                (account.state == State::Free, Reverse(load(account)))
            }),
        }
    }
}

/// How pools are shown.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// At most so many accounts of each.
    pub rows: Option<usize>,
    /// The tenant that was asked for, by its value.
    pub tenant: Option<&'a str>,
    pub sort: Sort,
    pub colours: Colours,
    /// The terminal's columns.
    pub width: Option<usize>,
}

/// The pools that are named, or all; of their tenants only the one of this value, if there is one.
pub fn read(
    server: &mut Server,
    named: &[String],
    tenant: Option<&str>,
) -> Result<Vec<Pool>, Problem> {
    let mut problem = None;
    let mut pools = Vec::new();
    for name in server.some_pools(named)? {
        let seen = server.pool(&name).and_then(|mut pool| {
            if let Some(tenant) = tenant {
                queue::only(server, &mut pool, tenant)?;
            }
            Ok(pool)
        });
        match seen {
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

/// The text with what is configured and not in force, where that is known.
pub fn with(mut text: Lines, differences: &[Difference]) -> Lines {
    if !differences.is_empty() {
        text.line("");
    }
    for difference in differences {
        text.line(&difference.text());
    }
    text
}

/// The same for programs.
pub fn json_with(pools: &[Pool], differences: &[Difference]) -> Value {
    let mut document = json(pools);
    if !differences.is_empty() {
        let configured = differences.iter().map(Difference::json).collect();
        if let Some(document) = document.as_object_mut() {
            document.insert("configured".to_owned(), configured);
        }
    }
    document
}

pub fn json(pools: &[Pool]) -> Value {
    let pools: Vec<Value> = pools
        .iter()
        .map(|pool| document(|json| pool.write(json, false)))
        .collect();
    json!({"pools": pools})
}

/// All pools.
pub fn text(pools: &[Pool], view: View) -> Lines {
    let mut text = Lines::default();
    for (place, pool) in pools.iter().enumerate() {
        if place > 0 {
            text.line("");
        }
        table(&mut text, pool, view);
        if pool.error.is_none() {
            queue::tenants(&mut text, pool, view.rows, view.tenant);
        }
    }
    text
}

/// One pool: a line about it, then a line for each account.
fn table(text: &mut Lines, pool: &Pool, view: View) {
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
    if pool.accounts_are_ledgers {
        head.push_str("  accounts from the ledger");
    }
    text.line(&head);
    queue::head(text, pool);

    let mut shown: Vec<&Account> = pool.accounts.iter().collect();
    let most = view.rows.unwrap_or(shown.len());
    let cut = shown.len() > most;
    // Where not all have room, those come first that may be looked for.
    let sort = match view.sort {
        Sort::Name if cut => Sort::State,
        sort => sort,
    };
    sort.apply(&mut shown);
    shown.truncate(most);
    let used = |account: &Account| format!("{}/{}", account.used, account.max);
    // What is beside the bar.
    let widest = |of: &dyn Fn(&Account) -> usize, heading: usize| {
        let widths = shown.iter().map(|account| of(account));
        widths.max().unwrap_or(0).max(heading).saturating_add(2)
    };
    let beside = widest(&|account| account.id.len(), 7)
        .saturating_add(widest(&|account| used(account).len(), 4))
        .saturating_add(widest(
            &|account| state(account, pool.accounts_are_ledgers).len(),
            5,
        ));
    let room = view
        .width
        .map_or(BAR, |width| width.saturating_sub(beside).min(BAR));
    let with_bar = room >= LEAST_BAR;
    let row = |id: Cell, used: String, bar: String, state: Cell| {
        let bar = with_bar.then(|| Cell::from(bar));
        [Some(id), Some(used.into()), bar, Some(state)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    let mut lines = vec![row(
        "account".into(),
        "used".to_owned(),
        String::new(),
        "state".into(),
    )];
    for account in &shown {
        lines.push(row(
            Cell::from(&account.id),
            used(account),
            bar(account.used, account.max, room),
            view.colours
                .paint(colour(account), &state(account, pool.accounts_are_ledgers)),
        ));
    }
    text.table(&lines);
    if cut {
        let rest = pool.accounts.len().saturating_sub(most);
        text.line(&format!("… and {rest} more"));
    }
}

/// A bar's cells, and how few still say something.
const BAR: usize = 20;
const LEAST_BAR: usize = 4;

/// In thousandths.
fn load(account: &Account) -> u64 {
    account
        .used
        .saturating_mul(1_000)
        .checked_div(account.max)
        .unwrap_or(0)
}

fn state(account: &Account, is_ledgers: bool) -> String {
    let set = match account.set {
        Some(_) if !is_ledgers => ", set by an operator",
        _ => "",
    };
    let mut said = state_words(account);
    if let Some(most) = account.adapts_up_to.filter(|most| *most != account.max) {
        said.push_str(&format!(", adapted, up to {most}"));
    }
    said.push_str(set);
    said
}

fn state_words(account: &Account) -> String {
    match account.state {
        State::Disabled => account
            .out_of_use()
            .unwrap_or_else(|| account.state.as_str().to_owned()),
        State::Cooling => format!("cooling, {} left", duration(account.cooling_ms)),
        State::Paced => format!("out of pace, {} left", duration(account.cooling_ms)),
        State::Behind => "free, behind the others".to_owned(),
        State::Probe => "free for one probe".to_owned(),
        State::Probing => "a probe is under way".to_owned(),
        State::Free | State::Full | State::Drained | State::Removed => {
            account.state.as_str().to_owned()
        }
    }
}

fn colour(account: &Account) -> &'static str {
    match account.state {
        State::Free => "32",
        State::Full | State::Behind | State::Paced | State::Probe => "33",
        State::Cooling | State::Probing => "31",
        State::Disabled if account.off.is_some() => "31",
        State::Disabled | State::Drained | State::Removed => "2",
    }
}
