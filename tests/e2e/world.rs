//! One Envoy with the filter, its Redis and its upstream.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::*;

/// Much less than a lease's time to live here, much more than a release takes.
pub const SOON: Duration = Duration::from_secs(10);

/// The example with one pool of these accounts and patience for a busy machine: no acquire times out by itself.
pub fn config(accounts: &[(&str, u32)]) -> EnvoyConfig {
    EnvoyConfig::from_example().plugin(|plugin| {
        plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
        plugin["lease"] = json!({"ttl_ms": 60_000, "renew_interval_ms": 20_000});
        plugin["pools"][0]["accounts"] = accounts_json(accounts);
    })
}

/// Ids and slots, every one with a route of its own.
pub fn accounts_json(accounts: &[(&str, u32)]) -> Value {
    let account = |(id, slots): &(&str, u32)| json!({"id": id, "max_concurrency": slots, "set_headers": {"x-upstream": "acct_1"}});
    accounts.iter().map(account).collect()
}

/// Everything a test needs; stopped on drop, Envoy first.
pub struct World {
    pub envoy: Envoy,
    pub redis: Redis,
    pub upstream: Upstream,
    pub ledger: Ledger,
}

impl World {
    pub fn start(config: EnvoyConfig) -> World {
        World::with_redis(Redis::start(), config)
    }

    pub fn with_redis(redis: Redis, config: EnvoyConfig) -> World {
        let upstream = Upstream::start();
        let envoy = Envoy::start(config.redis(redis.addr()).upstream(upstream.addr()));
        let ledger = Ledger::new(&redis, "slotgate", "demo");
        World {
            envoy,
            redis,
            upstream,
            ledger,
        }
    }

    /// One more Envoy before the same Redis and upstream.
    pub fn another(&self, config: EnvoyConfig) -> Envoy {
        Envoy::start(
            config
                .redis(self.redis.addr())
                .upstream(self.upstream.addr()),
        )
    }

    pub fn client(&self) -> Client {
        self.envoy.client()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.client().get(path, &[])
    }

    /// One of the filter's counters. It reaches Envoy's stats a moment after what it counts.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        self.envoy
            .filter_stat(name)
            .unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// The same for a family of counters, over all its reasons.
    #[track_caller]
    pub fn counters(&self, family: &str) -> u64 {
        let prefix = format!("{family};");
        let stats = self.envoy.filter_stats();
        let counts: Vec<_> = stats
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .collect();
        assert!(!counts.is_empty(), "no counters {family}");
        counts.iter().map(|(_, count)| **count).sum()
    }

    #[track_caller]
    pub fn eventually_counts(&self, name: &str, least: u64) {
        let seen = poll(SOON, || (self.counter(name) >= least).then_some(()));
        assert!(
            seen.is_some(),
            "{name} is {}, not {least}",
            self.counter(name)
        );
    }

    /// The next request takes a slot by the ledger.
    #[track_caller]
    pub fn assert_serves(&self) {
        let reply = self.get("/");
        assert_eq!(way(&reply), (200, "atomic"), "{}", reply.text());
    }

    /// Every slot comes free soon, and the books agree.
    #[track_caller]
    pub fn assert_all_free(&self) {
        if poll(SOON, || self.ledger.is_empty().then_some(())).is_none() {
            assert_sound(&self.envoy);
            panic!("slots are still held: {:#?}", self.ledger.state());
        }
        let state = self.ledger.state();
        state.assert_consistent();
        assert!(
            state.free.keys().eq(state.accounts.keys()),
            "not all accounts are free: {state:#?}"
        );
    }

    /// How long until nothing is held any more, from now.
    #[track_caller]
    pub fn time_until_free(&self) -> Duration {
        let start = Instant::now();
        while !self.ledger.is_empty() {
            assert!(
                start.elapsed() < SOON,
                "still held: {:#?}",
                self.ledger.state()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        start.elapsed()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_sound(&self.envoy);
        }
    }
}

/// No VM has trapped, and Envoy did not crash.
#[track_caller]
pub fn assert_sound(envoy: &Envoy) {
    let log = envoy.log();
    for sign in ["panicked", "Uncaught", "Function: proxy_", "Caught "] {
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains(sign))
            .take(5)
            .collect();
        assert!(lines.is_empty(), "Envoy's log says: {lines:#?}");
    }
}

/// Status and path of a reply.
pub fn way(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.header("x-slotgate-path"))
}

/// Repeats a measurement until one is within the limit: a busy machine is slow at times, a fault always.
#[track_caller]
pub fn best_within(limit: Duration, mut measure: impl FnMut() -> Duration) {
    let mut measured = Vec::new();
    for _ in 0..5 {
        measured.push(measure());
        if measured.last().is_some_and(|time| *time <= limit) {
            return;
        }
    }
    panic!("never within {limit:?}: {measured:?}");
}
