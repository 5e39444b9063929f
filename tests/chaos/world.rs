//! Three Envoys before the same Redis and upstream.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use support::*;

pub const ENVOYS: usize = 3;
pub const LEASE_TTL_MS: u64 = 3_000;
pub const RENEW_INTERVAL_MS: u64 = 1_000;

/// Accounts and their limits.
pub type Accounts = &'static [(&'static str, u32)];

pub struct World {
    pub nodes: Vec<Node>,
    pub redis: Redis,
    /// Redis' own.
    pub clock: Clock,
    pub proxy: FaultProxy,
    pub upstream: Upstream,
    pub ledger: Ledger,
    accounts: Accounts,
    /// Whether requests wait for a slot.
    queue: bool,
    /// What is otherwise in its configuration.
    change: fn(EnvoyConfig) -> EnvoyConfig,
}

/// One Envoy, which may be restarted on its ports.
pub struct Node {
    listener: Port,
    admin: Port,
    pub envoy: Option<Envoy>,
}

impl World {
    pub fn start(
        redis_args: &[&str],
        accounts: Accounts,
        queue: bool,
        change: fn(EnvoyConfig) -> EnvoyConfig,
    ) -> World {
        let clock = Clock::running();
        let redis = Redis::start_at(&clock, redis_args);
        let nodes = (0..ENVOYS).map(|_| Node {
            listener: Port::free(),
            admin: Port::free(),
            envoy: None,
        });
        let mut world = World {
            nodes: nodes.collect(),
            proxy: FaultProxy::start(redis.addr()),
            ledger: Ledger::new(&redis, "slotgate", "demo"),
            upstream: Upstream::start(),
            redis,
            clock,
            accounts,
            queue,
            change,
        };
        for node in 0..ENVOYS {
            world.start_envoy(node);
        }
        world
    }

    /// The example with leases that are short, and everything else as it comes.
    pub fn config(&self, revision: u32, percent: u32, accounts: Accounts) -> EnvoyConfig {
        let accounts: Value = accounts
            .iter()
            .map(|(id, limit)| json!({"id": id, "max_concurrency": limit, "set_headers": {"x-upstream": "acct_1"}}))
            .collect();
        let config = EnvoyConfig::from_example()
            .plugin(|plugin| {
                plugin["lease"] =
                    json!({"ttl_ms": LEASE_TTL_MS, "renew_interval_ms": RENEW_INTERVAL_MS});
                plugin["gray"]["percent"] = json!(percent);
                if self.queue {
                    // A crowd's acquires take longer than that of one.
                    plugin["redis"]["acquire_timeout_ms"] = json!(1_000);
                    plugin["saturated"] =
                        json!({"action": "queue", "queue": {"max_waiting": 100_000}});
                }
                plugin["pools"][0]["revision"] = json!(revision);
                plugin["pools"][0]["accounts"] = accounts.clone();
            })
            .without_circuit_breakers()
            .manager(|manager| {
                let storm =
                    json!({"match": {"prefix": "/storm"}, "direct_response": {"status": 204}});
                let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut();
                routes.expect("routes").insert(0, storm);
            })
            .redis(self.proxy.addr())
            .upstream(self.upstream.addr())
            .log_levels("warning", "wasm:info")
            .listeners_from_file()
            // Whoever waits, and is served then, must have the time; and a stream on slow cores takes longer than it says.
            .args(&["--drain-time-s", if self.queue { "10" } else { "4" }]);
        (self.change)(config)
    }

    pub fn start_envoy(&mut self, node: usize) {
        let config = self.config(1, 100, self.accounts);
        let node = &mut self.nodes[node];
        let (listener, admin) = (
            Port::fixed(node.listener.number()),
            Port::fixed(node.admin.number()),
        );
        node.envoy = Some(Envoy::start_in(
            Dir::temporary(),
            Some(listener),
            admin,
            config,
        ));
    }

    pub fn envoy(&self, node: usize) -> &Envoy {
        self.nodes[node].envoy.as_ref().expect("it runs")
    }

    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.listener.addr()).collect()
    }

    /// The filter's counters, of all Envoys that run.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for envoy in self.nodes.iter().filter_map(|node| node.envoy.as_ref()) {
            for (name, value) in envoy.filter_stats() {
                *all.entry(name).or_default() += value;
            }
        }
        all
    }

    /// The filter's warnings so far, of the Envoy that has most.
    pub fn warnings(&self) -> usize {
        let envoys = self.nodes.iter().filter_map(|node| node.envoy.as_ref());
        let count = |envoy: &Envoy| {
            envoy
                .log()
                .lines()
                .filter(|line| line.contains("[warning]") && line.contains("slotgate"))
                .count()
        };
        envoys.map(count).max().unwrap_or_default()
    }

    /// By how many the upstream saw an account used above its limit, at worst.
    pub fn over(&self, limits: Accounts) -> usize {
        let seen = self.upstream.snapshot();
        let over =
            |(id, limit): &(&str, u32)| seen.account(id).most.saturating_sub(*limit as usize);
        limits.iter().map(over).max().unwrap_or_default()
    }
}
