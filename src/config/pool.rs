//! `pools`: which requests a pool takes, and its accounts.

use super::error::{Path, quoted};
use super::fields::{Cursor, Fields};
use super::rules::{MATCH_VALUE, header_name};
use std::collections::BTreeMap;
use std::fmt;

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// Name; `[A-Za-z0-9._-]{1,64}`, unique.
    pub name: String,
    /// Any of these sends a request here; empty: takes what is left.
    pub rules: Vec<Match>,
    /// A higher one replaces the accounts in Redis; 1..=2^53-1.
    pub revision: u64,
    /// The accounts, at least one.
    pub accounts: Vec<Account>,
}

/// One entry of `pools[].match`, or a condition on a response's headers.
#[derive(Debug, PartialEq, Eq)]
pub struct Match {
    /// Header name, lower case.
    pub header: String,
    /// What its value must be.
    pub value: MatchValue,
}

/// How a header's value is compared, byte by byte.
#[derive(Debug, PartialEq, Eq)]
pub enum MatchValue {
    /// The whole value.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Whether the header is there (`true`) or not (`false`).
    Present(bool),
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
    /// Request headers set when this account was chosen, lower-case names, variables filled in.
    pub set_headers: Vec<(String, String)>,
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
            .field("set_headers", &headers)
            .finish()
    }
}

pub(super) fn read_all(f: &mut Fields<'_, '_>) -> Vec<Pool> {
    let mut after = f.count("pools").unwrap_or(0);
    let mut names = BTreeMap::new();
    let pools = f.list("pools", 1..=1_000, |at| {
        after = after.saturating_sub(1);
        let mut f = at.fields();
        f.needs(&["name", "accounts"]);
        if after > 0 && f.count("match") == Some(0) {
            f.error(
                "match",
                "is empty, but only the last pool may take the rest",
            );
        }
        let mut ids = BTreeMap::new();
        let pool = Pool {
            name: f.unique("name", &mut names),
            rules: f.list("match", 0..=64, match_rule).unwrap_or_default(),
            revision: f.int("revision", 1, 1..=9_007_199_254_740_991),
            accounts: f
                .list("accounts", 1..=100_000, |at| Some(account(at, &mut ids)))
                .unwrap_or_default(),
        };
        f.reject_unknown();
        Some(pool)
    });
    pools.unwrap_or_default()
}

pub(super) fn match_rule(at: Cursor<'_, '_>) -> Option<Match> {
    let mut f = at.fields();
    f.needs(&["header"]);
    let header = f.at("header").and_then(|mut at| at.header());
    let value = f
        .one_of(&["exact", "prefix", "suffix", "present"])
        .and_then(|(name, mut at)| match name {
            "exact" => at.text(MATCH_VALUE).map(MatchValue::Exact),
            "prefix" => at.text(MATCH_VALUE).map(MatchValue::Prefix),
            "suffix" => at.text(MATCH_VALUE).map(MatchValue::Suffix),
            _ => at.flag().map(MatchValue::Present),
        });
    f.reject_unknown();
    Some(Match {
        header: header?,
        value: value?,
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
        set_headers: set_headers(f.object("set_headers")),
    };
    f.reject_unknown();
    account
}

fn set_headers(f: Fields<'_, '_>) -> Vec<(String, String)> {
    let mut headers = BTreeMap::new();
    for (name, value) in f.map.into_iter().flatten() {
        let value = Cursor {
            path: Path::Field(&f.path, name),
            value,
            collector: f.collector,
        }
        .filled_in()
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
    headers.into_iter().collect()
}
