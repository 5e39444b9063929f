//! The scheduler's configuration.

use super::cooldown::{self, Cooldown};
use super::error::Path;
use super::fields::Fields;
use super::pool::{self, Pool, SetHeaders};
use super::queue::{self, OnSaturated};
use super::tenant::{self, Tenants};
use super::upstream::{self, Upstream};
use super::{Gray, Redis};
use crate::hash::{hash128, tag};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The scheduler's whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// How to reach Redis.
    pub redis: Redis,
    /// Who is in the gray release.
    pub gray: Gray,
    /// How long a lease lasts and how often it is renewed.
    pub lease: LeaseTimes,
    /// Weights of the score.
    pub score: Score,
    /// How priorities enter the score.
    pub priority_mode: PriorityMode,
    /// How sessions keep their account.
    pub affinity: Affinity,
    /// What to do when no account has a free slot.
    pub saturated: OnSaturated,
    /// For how long a worker that was just told that a pool is full refuses by itself, in ms, 0..=1000.
    pub refuse_ms: u64,
    /// Whose requests are told apart; `None`: nobody's.
    pub tenant: Option<Tenants>,
    /// What to do when the ledger cannot answer.
    pub failure: OnFailure,
    /// How requests that don't take a slot by the ledger are sent on.
    pub traditional: Traditional,
    /// Whether requests that go the traditional way get `x-slotgate-path`.
    pub traditional_path_header: bool,
    /// Request headers set on those that fit no pool. Each pool has what is set on its own.
    pub traditional_headers: SetHeaders,
    /// What counts as upstream pushback and how long it lasts.
    pub cooldown: Cooldown,
    /// What an upstream's answers mean, where that is not as usual.
    pub upstream: Upstream,
    /// How often the operator's overrides are looked at, in ms, 100..=60000; 0: never.
    pub poll_ms: u64,
    /// When an account that fails fast is put behind the others.
    pub failing: Failing,
    /// How low an account's limit may fall that adapts to pushback, 1..=100000; `None`: none does.
    pub adaptive: Option<u32>,
    /// How often a request that an account refused tries another one.
    pub failover: Failover,
    /// Whether the client is told path and account.
    pub response_headers: bool,
    /// Whether the access log is told of each request.
    pub access_log: bool,
    /// How much is shown one by one.
    pub metrics: Metrics,
    /// The pools, at least one; at most the last one without match rules.
    pub pools: Vec<Pool>,
    /// The properties that are read of each request, as paths whose parts are joined by zero bytes.
    pub properties: Vec<Vec<u8>>,
    /// Another one for each other configuration, 16 hex digits; of its text alone, not of the variables it names.
    pub digest: String,
}

impl Config {
    /// The id of an account, by its indices.
    #[must_use]
    pub fn account_id(&self, pool: usize, account: u32) -> Option<&str> {
        let accounts = &self.pools.get(pool)?.accounts;
        let account = accounts.get(account as usize)?;
        Some(account.id.as_str())
    }
}

fn digest(map: &Map<String, Value>) -> String {
    let text = serde_json::to_vec(map).unwrap_or_default();
    let digits = tag(&hash128(&text));
    digits.into_iter().map(char::from).collect()
}

pub(super) fn read(mut f: Fields<'_, '_>, redis: Redis, gray: Gray, score: Score) -> Config {
    let mut traditional_headers = SetHeaders::default();
    // Read with the others of their blocks, so that errors come in the order of the document.
    let (refuse_ms, traditional_path_header);
    let config = Config {
        redis,
        gray,
        score,
        lease: lease(f.object("lease")),
        priority_mode: f.word("priority_mode", PriorityMode::Weighted),
        affinity: {
            let mut f = f.object("affinity");
            let affinity = Affinity {
                ttl_ms: f.int("ttl_ms", 3_600_000, 0..=2_592_000_000),
                max_mb: f.int("max_mb", 8, 7..=256),
            };
            f.reject_unknown();
            affinity
        },
        saturated: {
            let action;
            (action, refuse_ms) = queue::saturated(f.object("saturated"));
            action
        },
        refuse_ms,
        tenant: tenant::read(&mut f),
        failure: {
            let mut f = f.object("failure");
            let action = f.word("action", OnFailure::Traditional);
            f.reject_unknown();
            action
        },
        traditional: {
            let way;
            (way, traditional_path_header) =
                traditional(f.object("traditional"), &mut traditional_headers);
            way
        },
        traditional_path_header,
        cooldown: cooldown::read(f.object("cooldown")),
        upstream: upstream::read(f.object("upstream")),
        poll_ms: {
            let mut f = f.object("control");
            let poll_ms: u64 = f.int("poll_ms", 1_000, 0..=60_000);
            if (1..100).contains(&poll_ms) {
                f.error(
                    "poll_ms",
                    format!("{poll_ms} is neither 0 nor in 100..=60000"),
                );
            }
            f.reject_unknown();
            poll_ms
        },
        failing: failing(f.object("failing")),
        adaptive: adaptive(f.object("adaptive")),
        failover: failover(f.object("failover")),
        response_headers: f.flag("response_headers", false),
        access_log: f.flag("access_log", false),
        metrics: metrics(f.object("metrics")),
        pools: pool::read_all(&mut f, &traditional_headers),
        traditional_headers,
        properties: std::mem::take(&mut f.collector.properties),
        digest: f.map.map(digest).unwrap_or_default(),
    };
    if let Traditional::Local { .. } = config.traditional {
        let pools = Path::Field(&f.path, "pools");
        for (index, pool) in config.pools.iter().enumerate() {
            if pool.accounts_are_ledgers {
                let what = "ledger: with traditional.mode local each worker chooses from the accounts listed here";
                let pool = Path::Index(&pools, index);
                let at = Path::Field(&pool, "accounts_from");
                f.collector.error(&at, what);
            }
        }
    }
    f.reject_unknown();
    config
}

/// `adaptive`.
fn adaptive(mut f: Fields<'_, '_>) -> Option<u32> {
    f.map?;
    let least = f.int("min", 1, 1..=100_000);
    f.reject_unknown();
    Some(least)
}

/// `lease`.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    /// A lease not renewed for this long is over, in ms.
    pub ttl_ms: u64,
    /// Time between renewals, in ms; at most half of `ttl_ms`.
    pub renew_interval_ms: u64,
}

fn lease(mut f: Fields<'_, '_>) -> LeaseTimes {
    let before = f.error_count();
    let ttl_ms: u64 = f.int("ttl_ms", 15_000, 1_000..=3_600_000);
    let renew_interval_ms = f.int("renew_interval_ms", 5_000.min(ttl_ms / 3), 100..=1_800_000);
    if f.error_count() == before && renew_interval_ms > ttl_ms / 2 {
        let rule = format!("{renew_interval_ms} is more than half of lease.ttl_ms ({ttl_ms})");
        f.error("renew_interval_ms", rule);
    }
    f.reject_unknown();
    LeaseTimes {
        ttl_ms,
        renew_interval_ms,
    }
}

/// `score`: weights, each 0..=1000; not all 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Weight of the priority.
    pub priority: f64,
    /// Weight of used / max.
    pub load: f64,
    /// Weight of the random part.
    pub random: f64,
}

pub(super) fn score(mut f: Fields<'_, '_>) -> Score {
    let before = f.error_count();
    let [priority, load, random] =
        [("priority", 0.5), ("load", 0.3), ("random", 0.2)].map(|(name, default)| {
            f.at(name)
                .and_then(|mut at| at.number(0.0..=1_000.0))
                .unwrap_or(default)
        });
    if f.error_count() == before && priority == 0.0 && load == 0.0 && random == 0.0 {
        f.collector
            .error(&f.path, "priority, load and random are all 0");
    }
    f.reject_unknown();
    Score {
        priority,
        load,
        random,
    }
}

/// `priority_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityMode {
    /// Priority is normalised to 0..1 in the pool and weighted.
    Weighted,
    /// A better priority always wins while it has a free slot.
    Strict,
}

/// `affinity`.
#[derive(Debug, Clone, Copy)]
pub struct Affinity {
    /// How long a session keeps its account after its last lease, in ms; 0: no affinity.
    pub ttl_ms: u64,
    /// How much of Redis' memory the sessions of one pool may take, in MB of 2^20 bytes, 7..=256.
    pub max_mb: u64,
}

/// `failure.action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Send it the traditional way.
    Traditional,
    /// Answer 503.
    Reject,
}

/// `traditional`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traditional {
    /// Leave the request as it is.
    Passthrough,
    /// Choose an account on this worker's own counts; each worker may use `max_concurrency / share`, at least 1.
    Local {
        /// How many workers share the accounts, 1..=100000.
        share: u32,
    },
}

/// How requests go the traditional way, and whether `x-slotgate-path` is set on them.
fn traditional(mut f: Fields<'_, '_>, headers: &mut SetHeaders) -> (Traditional, bool) {
    let path_header = f.flag("path_header", true);
    let mode = f.word("mode", TraditionalMode::Passthrough);
    let share = f.int("share", 1, 1..=100_000);
    *headers = pool::set_headers(f.object("set_headers"), false);
    f.reject_unknown();
    let way = match mode {
        TraditionalMode::Passthrough => Traditional::Passthrough,
        TraditionalMode::Local => Traditional::Local { share },
    };
    (way, path_header)
}

/// `traditional.mode`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum TraditionalMode {
    Passthrough,
    Local,
}

/// `failing`.
#[derive(Debug, Clone, Copy)]
pub struct Failing {
    /// Share of the answers that are failures, in percent 0..=100; 0: no account is put behind.
    pub percent: u32,
    /// How long after a first failure the other answers count, in ms.
    pub window_ms: u64,
    /// How many answers there must be for the share to count.
    pub min_requests: u32,
    /// How many failures in a row are enough, however long they take.
    pub consecutive: u32,
    /// How long the account is behind, in ms.
    pub behind_ms: u64,
}

fn failing(mut f: Fields<'_, '_>) -> Failing {
    let failing = Failing {
        percent: f.int("percent", 50, 0..=100),
        window_ms: f.int("window_ms", 10_000, 100..=3_600_000),
        min_requests: f.int("min_requests", 20, 1..=1_000_000),
        consecutive: f.int("consecutive", 5, 1..=1_000_000),
        behind_ms: f.int("behind_ms", 30_000, 1..=86_400_000),
    };
    f.reject_unknown();
    failing
}

/// `failover`.
#[derive(Debug, Clone, Copy)]
pub struct Failover {
    /// How many accounts a request tries in all, 1..=10; 1: it tries no other.
    pub max_attempts: usize,
    /// No further try begins later than this after the request came, in ms.
    pub budget_ms: u64,
}

impl Failover {
    /// Whether a request may try another account.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.max_attempts > 1
    }
}

fn failover(mut f: Fields<'_, '_>) -> Failover {
    let failover = Failover {
        max_attempts: f.int("max_attempts", 1, 1..=10),
        budget_ms: f.int("budget_ms", 30_000, 1..=3_600_000),
    };
    f.reject_unknown();
    failover
}

/// `metrics`: how much is shown one by one.
#[derive(Debug, Clone, Copy)]
pub struct Metrics {
    /// Pools with counters of their own, the first ones, 0..=1000.
    pub max_pools: usize,
    /// Accounts of each such pool with counters of their own, the first ones, 0..=10000.
    pub max_accounts: usize,
}

fn metrics(mut f: Fields<'_, '_>) -> Metrics {
    let metrics = Metrics {
        max_pools: f.int("max_pools", 20, 0..=1_000),
        max_accounts: f.int("max_accounts", 64, 0..=10_000),
    };
    f.reject_unknown();
    metrics
}
