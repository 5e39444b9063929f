//! `pools`: which requests a pool takes, its accounts, and the headers that are set.

use super::error::{Path, quoted};
use super::fields::{Cursor, Fields};
use super::rules::{MATCH_VALUE, header_name};
use super::value_source::{self, ValueSource};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// No pool has more accounts.
pub const MOST_ACCOUNTS: usize = 100_000;

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// Name; `[A-Za-z0-9._-]{1,64}`, unique.
    pub name: String,
    /// Any of these sends a request here; empty: takes what is left.
    pub rules: Vec<PoolMatch>,
    /// Request headers set for every account of the pool; an account's own come first.
    pub set_headers: SetHeaders,
    /// Request headers set on those that go the traditional way: the pool's own, and what `traditional` says for all.
    pub traditional_headers: SetHeaders,
    /// A higher one replaces the accounts in Redis; 1..=2^53-1.
    pub revision: u64,
    /// Whether operators put the accounts into the ledger; then those here are what an empty pool begins with.
    pub accounts_are_ledgers: bool,
    /// The best and the worst priority that an account may have; `None`: those of the accounts here.
    pub priority_range: Option<(u32, u32)>,
    /// The accounts, at least one unless they are the ledger's; then a worker adds those that the ledger names.
    pub accounts: Vec<Account>,
    /// How many of them the configuration lists.
    pub listed: usize,
}

/// One entry of `pools[].match`.
#[derive(Debug, PartialEq, Eq)]
pub struct PoolMatch {
    /// Where the value comes from.
    pub source: ValueSource,
    /// What it must be.
    pub value: MatchValue,
}

/// A condition on a response's headers.
#[derive(Debug, PartialEq, Eq)]
pub struct Match {
    /// Header name, lower case.
    pub header: String,
    /// What its value must be.
    pub value: MatchValue,
}

/// How a value is compared, byte by byte.
#[derive(Debug, PartialEq, Eq)]
pub enum MatchValue {
    /// The whole value.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Whether it is there (`true`) or not (`false`).
    Present(bool),
}

/// Headers to set: lower-case names in order, and values that the account's id may be part of.
#[derive(Default, Clone)]
pub struct SetHeaders(Vec<(String, Vec<String>)>);

/// Header values may come from the environment: only their names are shown.
impl fmt::Debug for SetHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl SetHeaders {
    /// Names and values, with the account's id filled in.
    pub fn iter(&self, account: &str) -> impl Iterator<Item = (&str, String)> {
        let all = self.0.iter();
        all.map(move |(name, parts)| (name.as_str(), parts.join(account)))
    }

    /// These, and those of `others` whose names are not among them.
    fn or(mut self, others: &Self) -> Self {
        for (name, parts) in &others.0 {
            add_missing(&mut self.0, name, || parts.clone());
        }
        self
    }
}

/// Adds a header to those that are sorted by name, unless it is there. Sorting them all would take 16 kB of the wasm.
fn add_missing<T>(headers: &mut Vec<(String, T)>, name: &str, value: impl FnOnce() -> T) {
    if let Err(place) = headers.binary_search_by(|(own, _)| own.as_str().cmp(name)) {
        headers.push((name.to_owned(), value()));
        if let Some(tail) = headers.get_mut(place..) {
            tail.rotate_right(1);
        }
    }
}

impl Pool {
    /// The pool's headers for an account, but for those that the account sets itself.
    pub fn headers_for(&self, account: &Account) -> impl Iterator<Item = (&str, String)> {
        let own = &account.set_headers;
        let all = self.set_headers.iter(&account.id);
        all.filter(move |(name, _)| own.iter().all(|(own, _)| own != name))
    }

    /// The headers that tell one account from another, sorted by name: its own, and the pool's that hold its id.
    #[must_use]
    pub fn headers_by_account(&self, account: &Account) -> Vec<(String, String)> {
        let mut headers = account.set_headers.clone();
        let of_pool = self.set_headers.0.iter();
        for (name, parts) in of_pool.filter(|(_, parts)| parts.len() > 1) {
            add_missing(&mut headers, name, || parts.join(&account.id));
        }
        headers
    }
}

/// One account.
pub struct Account {
    /// Id; `[A-Za-z0-9._-]{1,64}`, unique in the pool.
    pub id: String,
    /// Slots, 1..=100000.
    pub max_concurrency: u32,
    /// Lower is preferred, 0..=1000000.
    pub priority: u32,
    /// Whether it takes new leases.
    pub enabled: bool,
    /// How many requests it may get in a time.
    pub pace: Option<Pace>,
    /// Request headers set when this account was chosen, lower-case names, variables filled in.
    pub set_headers: Vec<(String, String)>,
}

impl Account {
    /// An account that the ledger named.
    pub(crate) fn named(id: String) -> Self {
        Self {
            id,
            max_concurrency: 0,
            priority: 0,
            enabled: true,
            pace: None,
            set_headers: Vec::new(),
        }
    }
}

/// `accounts[].pace`: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// So many requests, 1..=1000000,
    pub requests: u32,
    /// in this time, in ms, 1..=86400000;
    pub per_ms: u64,
    /// and at most so many at once, 1..=requests.
    pub burst: u32,
}

/// As the ledger has it: `<requests>/<per_ms>/<burst>`.
impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.requests, self.per_ms, self.burst)
    }
}

/// Whose the accounts of a pool are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AccountsFrom {
    Config,
    Ledger,
}

/// Header values may come from the environment: only their names are shown.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.set_headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Account")
            .field("id", &self.id)
            .field("max_concurrency", &self.max_concurrency)
            .field("priority", &self.priority)
            .field("enabled", &self.enabled)
            .field("pace", &self.pace)
            .field("set_headers", &headers)
            .finish()
    }
}

/// `all` are the headers of `traditional`.
pub(super) fn read_all(f: &mut Fields<'_, '_>, all: &SetHeaders) -> Vec<Pool> {
    let mut after = f.count("pools").unwrap_or(0);
    let mut names = BTreeMap::new();
    let pools = f.list("pools", 1..=1_000, |at| {
        after = after.saturating_sub(1);
        let mut f = at.fields();
        let from = f.word("accounts_from", AccountsFrom::Config);
        let accounts_are_ledgers = from == AccountsFrom::Ledger;
        f.needs(&["name"]);
        if !accounts_are_ledgers {
            f.needs(&["accounts"]);
        }
        if after > 0 && f.count("match") == Some(0) {
            f.error(
                "match",
                "is empty, but only the last pool may take the rest",
            );
        }
        let mut ids = BTreeMap::new();
        let mut pool = Pool {
            name: f.unique("name", &mut names),
            rules: f.list("match", 0..=64, pool_match).unwrap_or_default(),
            revision: f.int("revision", 1, 1..=9_007_199_254_740_991),
            set_headers: set_headers(f.object("set_headers"), true),
            traditional_headers: {
                let mut f = f.object("traditional");
                let own = set_headers(f.object("set_headers"), false);
                f.reject_unknown();
                own.or(all)
            },
            accounts_are_ledgers,
            priority_range: f.at("priority_range").and_then(priority_range),
            accounts: f
                .list("accounts", 1..=MOST_ACCOUNTS, |at| {
                    Some(account(at, &mut ids))
                })
                .unwrap_or_default(),
            listed: 0,
        };
        pool.listed = pool.accounts.len();
        if let Some((best, worst)) = pool.priority_range {
            for (index, account) in pool.accounts.iter().enumerate() {
                let priority = account.priority;
                if priority < best || priority > worst {
                    let accounts = Path::Field(&f.path, "accounts");
                    let account = Path::Index(&accounts, index);
                    let what =
                        format!("{priority} is not in {best}..={worst}, its pool's priority_range");
                    f.collector.error(&Path::Field(&account, "priority"), what);
                }
            }
        }
        f.reject_unknown();
        Some(pool)
    });
    pools.unwrap_or_default()
}

/// `[best, worst]`.
fn priority_range(mut at: Cursor<'_, '_>) -> Option<(u32, u32)> {
    let [best, worst] = at.array(2..=2)? else {
        return None;
    };
    let mut bound = |index, value| {
        Cursor {
            path: Path::Index(&at.path, index),
            value,
            collector: at.collector,
        }
        .int::<u32>(0..=1_000_000)
    };
    let (best, worst) = bound(0, best).zip(bound(1, worst))?;
    if best > worst {
        at.error(format!(
            "{best} is more than {worst}: the best priority comes first"
        ));
        return None;
    }
    Some((best, worst))
}

fn pace(mut f: Fields<'_, '_>) -> Option<Pace> {
    f.map?;
    f.needs(&["requests", "per_ms"]);
    let before = f.error_count();
    let pace = Pace {
        requests: f.int("requests", 1, 1..=1_000_000),
        per_ms: f.int("per_ms", 60_000, 1..=86_400_000),
        burst: f.int("burst", 1, 1..=1_000_000),
    };
    if f.error_count() == before && pace.burst > pace.requests {
        let (burst, requests) = (pace.burst, pace.requests);
        f.error(
            "burst",
            format!("{burst} is more than requests ({requests})"),
        );
    }
    f.reject_unknown();
    Some(pace)
}

fn pool_match(at: Cursor<'_, '_>) -> Option<PoolMatch> {
    let mut f = at.fields();
    let source = value_source::read(&mut f);
    let value = match_value(&mut f);
    f.reject_unknown();
    Some(PoolMatch {
        source: source?,
        value: value?,
    })
}

pub(super) fn match_rule(at: Cursor<'_, '_>) -> Option<Match> {
    let mut f = at.fields();
    f.needs(&["header"]);
    let header = f.at("header").and_then(|mut at| at.header());
    let value = match_value(&mut f);
    f.reject_unknown();
    Some(Match {
        header: header?,
        value: value?,
    })
}

#[inline(never)]
pub(super) fn match_value(f: &mut Fields<'_, '_>) -> Option<MatchValue> {
    f.one_of(&["exact", "prefix", "suffix", "present"])
        .and_then(|(name, mut at)| match name {
            "exact" => at.text(MATCH_VALUE).map(MatchValue::Exact),
            "prefix" => at.text(MATCH_VALUE).map(MatchValue::Prefix),
            "suffix" => at.text(MATCH_VALUE).map(MatchValue::Suffix),
            _ => at.flag().map(MatchValue::Present),
        })
}

fn account(at: Cursor<'_, '_>, ids: &mut BTreeMap<String, usize>) -> Account {
    let mut f = at.fields();
    f.needs(&["id", "max_concurrency"]);
    let account = Account {
        id: f.unique("id", ids),
        max_concurrency: f.int("max_concurrency", 1, 1..=100_000),
        priority: f.int("priority", 1, 0..=1_000_000),
        enabled: f.flag("enabled", true),
        pace: pace(f.object("pace")),
        set_headers: {
            let SetHeaders(headers) = set_headers(f.object("set_headers"), false);
            let joined = headers.into_iter();
            joined.map(|(name, parts)| (name, parts.concat())).collect()
        },
    };
    f.reject_unknown();
    account
}

/// `of_pool`: `${account}` in a value is the account's id.
pub(super) fn set_headers(f: Fields<'_, '_>, of_pool: bool) -> SetHeaders {
    let mut headers = BTreeMap::new();
    for (name, value) in f.map.into_iter().flatten() {
        let value = Cursor {
            path: Path::Field(&f.path, name),
            value,
            collector: f.collector,
        }
        .filled_in(of_pool.then_some("account"))
        .unwrap_or_default();
        let rule = match header_name(name) {
            Err(rule) => Some(rule),
            Ok(header) if header.starts_with("x-slotgate-") => {
                Some("begins with x-slotgate-, the filter's own")
            }
            Ok(header) => headers
                .insert(header, value)
                .map(|_| "is there twice: header names have no case"),
        };
        if let Some(rule) = rule {
            f.collector
                .error(&f.path, format!("{} {rule}", quoted(name)));
        }
    }
    SetHeaders(headers.into_iter().collect())
}
