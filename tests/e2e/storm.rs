//! Hundreds and thousands of requests at the same moment: everyone is answered, no VM traps, and those who hold a slot keep it.
//!
//! Envoy carries out what a callback settles after the callback, nested in it. Settled without a bound, some 400 requests
//! that Envoy answers in place overflow the VM's stack (proxy-wasm-cpp-host#326).

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::world::{World, config};
use support::*;

const HOLDERS: usize = 20;
const TTL_MS: u64 = 2_000;
/// More slots than any storm has requests.
const ROOM: u32 = 50_000;

const ONE_CONNECTION: Protocol = Protocol::Http2 { streams: 1_000 };

struct Storm {
    workers: u32,
    /// Slots beyond those that the holders have.
    free: u32,
    protocol: Protocol,
    requests: usize,
    /// Redis stands still while they arrive, and goes on then.
    frozen: bool,
}

/// On a full pool, over one connection, on one worker.
const FULL: Storm = Storm {
    workers: 1,
    free: 0,
    protocol: ONE_CONNECTION,
    requests: 600,
    frozen: false,
};

impl Storm {
    /// How many of each status there were. The holders have kept their slots meanwhile, for longer than a lease lives.
    #[track_caller]
    fn statuses(self, change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) -> BTreeMap<u16, usize> {
        allow_open_files();
        let limit = HOLDERS as u32 + self.free;
        let base = config(&[("a", limit)])
            .plugin(|plugin| {
                plugin["lease"] = json!({"ttl_ms": TTL_MS, "renew_interval_ms": TTL_MS / 4});
                plugin["redis"]["max_pending"] = json!(100_000);
            })
            .workers(self.workers)
            .log_levels("warning", "wasm:info");
        let world = World::start(change(base.without_circuit_breakers()));
        let held: Vec<_> = (0..HOLDERS)
            .map(|_| world.client().start("/hang", &[]))
            .collect();
        eventually(PATIENCE, || {
            world.ledger.live() == HOLDERS && world.upstream.snapshot().now == HOLDERS
        });
        let leases = world.ledger.owner();

        let client = world.client();
        if self.frozen {
            world.redis.sigstop();
        }
        let storm = std::thread::spawn(move || {
            client.burst(self.protocol, self.requests, |_| {
                Request::get("/status/200")
            })
        });
        if self.frozen {
            sleep(Duration::from_millis(1_000));
            world.redis.sigcont();
        }
        let replies = storm.join().expect("the storm passes");

        sleep(Duration::from_millis(TTL_MS + TTL_MS / 2));
        let now = world.ledger.state();
        now.assert_consistent();
        let kept = leases.keys().filter(|lease| {
            now.leases
                .get(*lease)
                .is_some_and(|expiry| *expiry > now.now_ms)
        });
        assert_eq!(kept.count(), HOLDERS, "the holders keep their leases");
        assert_eq!(now.live(), HOLDERS, "and nobody else has one");
        let seen = world.upstream.snapshot();
        assert!(seen.account("a").most <= limit as usize, "{seen:?}");
        drop(held);
        world.assert_all_free();
        world.upstream.forget();
        let mut hung = replies.iter().filter_map(|reply| reply.as_ref().err());
        if let Some(error) = hung.next() {
            panic!(
                "{} of {} without an answer: {error}",
                hung.count() + 1,
                self.requests
            );
        }
        count_statuses(&replies)
    }
}

fn rejecting(config: EnvoyConfig) -> EnvoyConfig {
    config.plugin(|plugin| plugin["saturated"] = json!({"action": "reject"}))
}

/// Envoy answers `/status` itself, whoever has a slot.
fn answered_by_envoy(config: EnvoyConfig) -> EnvoyConfig {
    config.manager(|manager| {
        let direct = json!({"match": {"prefix": "/status"}, "direct_response": {"status": 418}});
        let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
        routes.as_array_mut().expect("routes").insert(0, direct);
    })
}

/// `/status` goes to a cluster without a healthy host.
fn without_a_host(config: EnvoyConfig) -> EnvoyConfig {
    config
        .edit(|document| {
            let clusters = document["static_resources"]["clusters"].as_array_mut();
            clusters.expect("clusters").push(json!({
                "name": "nobody",
                "load_assignment": {"cluster_name": "nobody"},
                "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
                // The upstream knows no such path.
                "health_checks": [{
                    "timeout": "1s",
                    "interval": "60s",
                    "unhealthy_threshold": 1,
                    "healthy_threshold": 1,
                    "http_health_check": {"path": "/healthy"},
                }],
            }));
        })
        .manager(|manager| {
            let nobody = json!({"match": {"prefix": "/status"}, "route": {"cluster": "nobody"}});
            let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
            routes.as_array_mut().expect("routes").insert(0, nobody);
        })
}

#[test]
fn refused_by_a_full_pool() {
    assert_eq!(FULL.statuses(rejecting), BTreeMap::from([(429, 600)]));
}

/// Those that come after the first answer are refused in their own callbacks.
#[test]
fn refused_by_a_worker_that_knows_the_pool_is_full() {
    for requests in [3_000, 10_000] {
        let storm = Storm { requests, ..FULL };
        let knowing = |config: EnvoyConfig| {
            config.plugin(|plugin| {
                plugin["saturated"] = json!({"action": "reject", "refuse_ms": 1_000});
            })
        };
        assert_eq!(storm.statuses(knowing), BTreeMap::from([(429, requests)]));
    }
}

#[test]
fn refused_over_connections_of_their_own() {
    let storm = Storm {
        protocol: Protocol::Http1,
        requests: 1_000,
        ..FULL
    };
    assert_eq!(storm.statuses(rejecting), BTreeMap::from([(429, 1_000)]));
}

#[test]
fn refused_by_many_workers() {
    for workers in [2, 4] {
        let protocol = Protocol::Http2 { streams: 500 };
        let storm = Storm {
            workers,
            protocol,
            requests: 2_000,
            ..FULL
        };
        assert_eq!(storm.statuses(rejecting), BTreeMap::from([(429, 2_000)]));
    }
}

/// Each filter of its own takes some of the stack that the answers are nested on.
#[test]
fn refused_ahead_of_many_filters() {
    let many_filters = |config: EnvoyConfig| {
        config.manager(|manager| {
            let script =
                "function envoy_on_response(handle) handle:headers():add('x-lua', '1') end";
            let lua = |place: usize| {
                json!({
                    "name": format!("lua-{place}"),
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                        "default_source_code": {"inline_string": script},
                    },
                })
            };
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            filters.splice(0..0, (0..12).map(lua));
        })
    };
    let statuses = FULL.statuses(|config| many_filters(rejecting(config)));
    assert_eq!(statuses, BTreeMap::from([(429, 600)]));
}

#[test]
fn sent_on_by_a_full_pool() {
    let traditional = |config: EnvoyConfig| {
        config.plugin(|plugin| plugin["saturated"] = json!({"action": "traditional"}))
    };
    let statuses = FULL.statuses(|config| answered_by_envoy(traditional(config)));
    assert_eq!(statuses, BTreeMap::from([(418, 600)]));
    let statuses = FULL.statuses(|config| without_a_host(traditional(config)));
    assert_eq!(statuses, BTreeMap::from([(503, 600)]));
}

#[test]
fn granted_and_answered_by_envoy() {
    let storm = Storm { free: ROOM, ..FULL };
    assert_eq!(
        storm.statuses(answered_by_envoy),
        BTreeMap::from([(418, 600)])
    );
}

#[test]
fn granted_without_a_healthy_host() {
    let storm = Storm { free: ROOM, ..FULL };
    assert_eq!(storm.statuses(without_a_host), BTreeMap::from([(503, 600)]));
}

#[test]
fn granted_and_served() {
    let storm = Storm { free: ROOM, ..FULL };
    assert_eq!(
        storm.statuses(|config| config),
        BTreeMap::from([(200, 600)])
    );
}

#[test]
fn settled_together_when_redis_goes_on() {
    let protocol = Protocol::Http2 { streams: 1_000 };
    let storm = || Storm {
        protocol,
        requests: 3_000,
        frozen: true,
        ..FULL
    };
    assert_eq!(storm().statuses(rejecting), BTreeMap::from([(429, 3_000)]));
    let granted = Storm {
        free: ROOM,
        ..storm()
    };
    assert_eq!(
        granted.statuses(answered_by_envoy),
        BTreeMap::from([(418, 3_000)])
    );
}

#[test]
fn refused_together_while_redis_stands_still() {
    let impatient = |config: EnvoyConfig| {
        config.plugin(|plugin| {
            plugin["redis"]["acquire_timeout_ms"] = json!(400);
            plugin["failure"] = json!({"action": "reject"});
            plugin["saturated"] = json!({"action": "reject"});
        })
    };
    let storm = Storm {
        requests: 3_000,
        frozen: true,
        ..FULL
    };
    let statuses = storm.statuses(impatient);
    let refused = statuses.get(&503).copied().unwrap_or_default();
    assert!(refused >= 1_000, "{statuses:?}");
    assert_eq!(
        refused + statuses.get(&429).copied().unwrap_or_default(),
        3_000,
        "{statuses:?}"
    );
}

/// While many are refused, requests that take no slot come by with bodies: each body arrives whole.
#[test]
fn bodies_of_others_arrive_meanwhile() {
    const BODY: usize = 40_000;
    let config = config(&[("a", 1)]).plugin(|plugin| {
        plugin["pools"][0]["match"] = json!([{"header": "x-model", "exact": "m"}]);
    });
    let world = World::start(config.without_circuit_breakers());
    let held = world.client().start("/hang", &[("x-model", "m")]);
    eventually(PATIENCE, || world.ledger.live() == 1);
    let protocol = Protocol::Http2 { streams: 250 };
    let replies = world
        .client()
        .burst(protocol, 1_500, |number| match number % 3 {
            0 => Request::post("/echo", vec![b'x'; BODY]),
            _ => Request::get("/").header("x-model", "m"),
        });
    for (number, reply) in replies.iter().enumerate() {
        let reply = reply
            .as_ref()
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        match number % 3 {
            0 => assert_eq!(
                (reply.status, reply.json()["body_length"].as_u64()),
                (200, Some(BODY as u64))
            ),
            _ => assert_eq!(reply.status, 429),
        }
    }
    drop(held);
    world.assert_all_free();
}

/// The requests of a configuration that ends are settled by it, as before.
#[test]
fn settled_together_after_another_configuration_came() {
    const REQUESTS: usize = 2_000;
    let base = || {
        answered_by_envoy(config(&[("a", ROOM)]).without_circuit_breakers()).listeners_from_file()
    };
    let world = World::start(base());
    world.assert_serves();
    world.redis.sigstop();
    let client = world.client();
    let storm = std::thread::spawn(move || {
        client.burst(ONE_CONNECTION, REQUESTS, |_| Request::get("/status/200"))
    });
    sleep(Duration::from_millis(500));
    let pushed = base().plugin(|plugin| plugin["pools"][0]["revision"] = json!(2));
    let pushed = pushed
        .redis(world.redis.addr())
        .upstream(world.upstream.addr());
    world
        .envoy
        .reconfigure(pushed)
        .unwrap_or_else(|log| panic!("refused: {log}"));
    world.redis.sigcont();
    let replies = storm.join().expect("the storm passes");
    assert_eq!(count_statuses(&replies), BTreeMap::from([(418, REQUESTS)]));
    world.assert_all_free();
    world.assert_serves();
}
