//! The pools of a configuration, compared with those in force in Redis.

use super::documents::text;
use super::plugin::{Plugin, look_at};
use crate::problem::Problem;
use crate::server::{Login, Server};
use crate::words::count;
use serde_json::{Value, json};
use slotgate::config::{Config, Pool as Configured, Role};
use slotgate::ledger::view::{DISABLED, Pool};
use slotgate::pool::state::State;
use slotgate::pool::{Scale, bases};
use slotgate::worker::digest;
use std::collections::BTreeMap;

/// How many accounts a message names.
const NAMED: usize = 5;

/// Where Redis is.
#[derive(Debug, Clone, Copy)]
pub struct Ledger<'a> {
    /// Otherwise 127.0.0.1:6379.
    pub url: Option<&'a str>,
    /// Otherwise the usual variable, or the configuration's.
    pub password_env: Option<&'a str>,
}

/// A scheduler's configuration, and where its pools are written.
#[derive(Debug)]
pub struct Scheduler {
    pub file: usize,
    pub at: String,
    pub config: Box<Config>,
    password_env: String,
}

/// One pool, here and in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub pool: String,
    /// The path of its revision.
    pub at: String,
    /// The revision here.
    pub configured: u64,
    /// The revision in force; `None`: the pool is not there.
    pub in_force: Option<u64>,
    /// How the accounts differ; empty: they are the same.
    pub accounts: Vec<String>,
}

impl Difference {
    /// Whether what is configured is kept from being in force.
    pub fn is_kept_out(&self) -> bool {
        self.in_force
            .is_some_and(|in_force| in_force >= self.configured)
            && !self.accounts.is_empty()
    }

    /// The difference as a sentence, and what to do about it.
    pub fn text(&self) -> String {
        let Self {
            pool,
            configured,
            accounts,
            ..
        } = self;
        let mut named = accounts.iter().take(NAMED).cloned().collect::<Vec<_>>();
        if let Some(more) = accounts.len().checked_sub(NAMED).filter(|more| *more > 0) {
            named.push(format!("{more} more"));
        }
        let named = named.join("; ");
        let Some(in_force) = self.in_force else {
            return format!(
                "pool {pool}: not in Redis yet; the first request puts revision {configured} in force"
            );
        };
        let next = in_force.saturating_add(1);
        if in_force < *configured {
            return format!(
                "pool {pool}: revision {configured} is not in force yet, Redis holds revision {in_force}; the next Envoy with this configuration puts it in force"
            );
        }
        match (accounts.is_empty(), in_force == *configured) {
            (true, true) => format!("pool {pool}: revision {configured} is in force"),
            (true, false) => format!(
                "pool {pool}: Redis holds revision {in_force} with the same accounts; a change here needs revision {next}"
            ),
            (false, true) => format!(
                "pool {pool}: Redis keeps other accounts under revision {in_force} ({named}); set revision: {next} to put these in force"
            ),
            (false, false) => format!(
                "pool {pool}: revision {configured} is ignored, Redis holds revision {in_force} ({named}); set revision: {next} to put these in force"
            ),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "pool": self.pool,
            "configured": self.configured,
            "in_force": self.in_force,
            "kept_out": self.is_kept_out(),
            "accounts": self.accounts,
            "text": self.text(),
        })
    }
}

/// The schedulers among plugins, those that are right.
pub fn schedulers<'p>(plugins: impl Iterator<Item = &'p Plugin>) -> Vec<Scheduler> {
    plugins
        .filter_map(|plugin| match look_at(plugin, false).1 {
            Some(Role::Scheduler(config)) => Some(Scheduler {
                file: plugin.file,
                at: plugin.value_at(),
                config,
                password_env: text(&plugin.written(), "redis.password_env").to_owned(),
            }),
            Some(Role::Bridge | Role::Upstream | Role::Console(_)) | None => None,
        })
        .collect()
}

/// Each scheduler's pools beside what Redis holds, with the file's place.
pub fn compare(
    ledger: Ledger,
    schedulers: &[Scheduler],
) -> Result<Vec<(usize, Difference)>, Problem> {
    let mut servers: BTreeMap<String, Server> = BTreeMap::new();
    let mut all = Vec::new();
    for scheduler in schedulers {
        let redis = &scheduler.config.redis;
        let login = Login {
            username: Some(redis.username.clone()).filter(|name| !name.is_empty()),
            password_env: scheduler.password_env.clone(),
            database: i64::from(redis.database),
        };
        let key = format!("{} {} {}", redis.key_prefix, redis.database, redis.username);
        let server = match servers.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Server::open_as(
                ledger.url,
                ledger
                    .password_env
                    .unwrap_or(crate::arguments::PASSWORD_ENV),
                &redis.key_prefix,
                &login,
            )?),
        };
        for (place, pool) in scheduler.config.pools.iter().enumerate() {
            let held = match server.pool(&pool.name) {
                Ok(held) => Some(held),
                Err(problem) if problem.kind == "no_pool" => None,
                Err(problem) => return Err(problem),
            };
            let digest = match &held {
                Some(_) => server.digest(&pool.name)?,
                None => None,
            };
            let difference = difference(scheduler, place, pool, held.as_ref(), digest);
            all.push((scheduler.file, difference));
        }
    }
    Ok(all)
}

/// The pools that were read, beside what is configured.
pub fn differences(
    server: &mut Server,
    schedulers: &[Scheduler],
    held: &[Pool],
) -> Result<Vec<Difference>, Problem> {
    let mut all = Vec::new();
    for scheduler in schedulers {
        for (place, pool) in scheduler.config.pools.iter().enumerate() {
            let mut readable = held.iter().filter(|held| held.error.is_none());
            let Some(held) = readable.find(|held| held.name == pool.name) else {
                continue;
            };
            let digest = server.digest(&pool.name)?;
            all.push(difference(scheduler, place, pool, Some(held), digest));
        }
    }
    Ok(all)
}

fn difference(
    scheduler: &Scheduler,
    place: usize,
    pool: &Configured,
    held: Option<&Pool>,
    in_force: Option<u64>,
) -> Difference {
    let config = &scheduler.config;
    let mut accounts = Vec::new();
    if let Some(held) = held.filter(|_| in_force != Some(digest(pool, config))) {
        accounts = differing(pool, config, held);
        if accounts.is_empty() {
            accounts.push("other weights".to_owned());
        }
    }
    Difference {
        pool: pool.name.clone(),
        at: format!("{}pools[{place}].revision", scheduler.at),
        configured: pool.revision,
        in_force: held.map(|held| held.revision),
        accounts,
    }
}

/// How each account differs.
fn differing(pool: &Configured, config: &Config, held: &Pool) -> Vec<String> {
    let there: BTreeMap<&str, _> = held
        .accounts
        .iter()
        .filter(|account| account.state != State::Removed)
        .map(|account| (account.id.as_str(), account))
        .collect();
    let mut said = Vec::new();
    let bases = bases(
        &pool.accounts,
        Scale::of(pool, config.score, config.priority_mode),
    );
    let mut here = BTreeMap::new();
    for (account, base) in pool.accounts.iter().zip(bases) {
        here.insert(account.id.as_str(), ());
        let Some(other) = there.get(account.id.as_str()) else {
            said.push(format!("{} is only here", account.id));
            continue;
        };
        let mut what = Vec::new();
        if other.max != u64::from(account.max_concurrency) {
            what.push(format!(
                "{} in force, {} here",
                count(other.max, "slot"),
                account.max_concurrency
            ));
        }
        if other.priority_part != base {
            what.push("another priority".to_owned());
        }
        if !other.is_off_for_good() && (other.flags & DISABLED != 0) == account.enabled {
            let state = |enabled: bool| if enabled { "enabled" } else { "disabled" };
            what.push(format!(
                "{} in force, {} here",
                state(!account.enabled),
                state(account.enabled)
            ));
        }
        if !what.is_empty() {
            said.push(format!("{}: {}", account.id, what.join(", ")));
        }
    }
    for id in there.keys().filter(|id| !here.contains_key(*id)) {
        said.push(format!("{id} is only in force"));
    }
    said
}
