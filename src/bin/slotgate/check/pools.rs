//! Pools beside each other: one account in two pools, one pool with two sets of accounts.

use super::documents::{list, text};
use super::finding::{Finding, Severity};
use super::plugin::Plugin;
use super::setup::Setup;
use serde_json::Value;
use std::collections::BTreeMap;

/// Headers that say who pays.
const KEYS: [&str; 5] = [
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "proxy-authorization",
];

/// Where something was seen first.
struct Seen {
    pool: String,
    account: String,
    at: String,
}

/// All that pools do to each other.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    let mut keys: BTreeMap<String, Seen> = BTreeMap::new();
    let mut pools: BTreeMap<String, (Value, String)> = BTreeMap::new();
    let schedulers = setup
        .plugins
        .iter()
        .filter(|plugin| plugin.role() == "scheduler");
    for plugin in schedulers {
        let written = plugin.written();
        let root = plugin.value_at();
        let root = root.trim_end_matches('.');
        let prefix = text(&written, "redis.key_prefix").to_owned();
        for (pool, at) in list(&written, "pools", root) {
            let name = text(pool, "name").to_owned();
            same_pool(
                plugin,
                pool,
                &at,
                format!("{prefix} {name}"),
                &mut pools,
                found,
            );
            for (account, at) in list(pool, "accounts", &at) {
                same_key(plugin, (&name, account), &at, &mut keys, found);
            }
        }
    }
}

/// The same pool elsewhere, under the same revision, with other accounts.
fn same_pool(
    plugin: &Plugin,
    pool: &Value,
    at: &str,
    key: String,
    pools: &mut BTreeMap<String, (Value, String)>,
    found: &mut Vec<Finding>,
) {
    let name = text(pool, "name");
    let revision = pool.get("revision").and_then(Value::as_u64).unwrap_or(1);
    let mut ledgers: Vec<Value> = list(pool, "accounts", "")
        .into_iter()
        .map(|(account, _)| {
            let mut account = account.clone();
            if let Some(account) = account.as_object_mut() {
                account.remove("set_headers");
            }
            account
        })
        .collect();
    ledgers.sort_by_key(|account| text(account, "id").to_owned());
    let this = Value::Array(ledgers);
    match pools.get(&format!("{key} {revision}")) {
        Some((other, before)) if *other != this => found.push(Finding::new(
            Severity::Warning,
            plugin.file,
            at,
            format!(
                "pool {name} has other accounts at {before} under the same revision {revision}: Redis keeps those that come first"
            ),
        )),
        Some(_) => {}
        None => {
            pools.insert(format!("{key} {revision}"), (this, at.to_owned()));
        }
    }
}

/// One key of an upstream in two places: each counts on its own.
fn same_key(
    plugin: &Plugin,
    (pool, account): (&str, &Value),
    at: &str,
    keys: &mut BTreeMap<String, Seen>,
    found: &mut Vec<Finding>,
) {
    let headers = account.get("set_headers").and_then(Value::as_object);
    let Some(headers) = headers.filter(|headers| !headers.is_empty()) else {
        return;
    };
    let all: BTreeMap<String, &str> = headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_ascii_lowercase(),
                value.as_str().unwrap_or_default(),
            )
        })
        .collect();
    let key = all.iter().find(|(name, _)| KEYS.contains(&name.as_str()));
    // Other headers may differ: the upstream counts by the key.
    let (what, identity) = match key {
        Some((name, value)) => (format!("the same {name}"), format!("{name} {value}")),
        None => ("the same headers".to_owned(), format!("{all:?}")),
    };
    let id = text(account, "id").to_owned();
    match keys.get(&identity) {
        // The same account, written twice, or one that shares headers which say nothing of a key.
        Some(seen) if seen.pool == pool && (seen.account == id || key.is_none()) => {}
        Some(seen) => {
            let place = match seen.pool == pool {
                true => format!("account {} of the same pool", seen.account),
                false => format!("account {} of pool {}", seen.account, seen.pool),
            };
            found.push(Finding::new(
                Severity::Warning,
                plugin.file,
                format!("{at}.set_headers"),
                format!(
                    "account {id} of pool {pool} sets {what} as {place} ({}): each pool counts on its own, so the upstream may see both limits at once",
                    seen.at
                ),
            ));
        }
        None => {
            let (pool, at) = (pool.to_owned(), at.to_owned());
            let account = id;
            keys.insert(identity, Seen { pool, account, at });
        }
    }
}
