//! `slotgate doctor` and the workers of several Envoys.

use std::process::Command;

use serde_json::{Value, json};

use crate::world::{SOON, World, config, way};
use support::*;

/// Two workers that look every 100 ms.
fn watched(limit: u32) -> EnvoyConfig {
    config(&[("a", limit)]).workers(2).plugin(|plugin| {
        plugin["control"] = json!({"poll_ms": 100});
    })
}

impl World {
    fn doctor(&self) -> (i32, Value) {
        self.doctor_of(&[])
    }

    fn doctor_of(&self, more: &[&str]) -> (i32, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_slotgate"))
            .args(["--json", "doctor", "--wait", "1.5"])
            .args(more)
            .env("SLOTGATE_REDIS", self.redis.addr().to_string())
            .output()
            .expect("the program runs");
        let said = serde_json::from_slice(&output.stdout);
        let said = said.unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code().expect("an exit code"), said)
    }
}

impl World {
    /// Whether the doctor finds this, as `harm kind`, and a figure that an alert reads has grown.
    #[track_caller]
    fn both_tell(&self, kind: &str, counted: &dyn Fn(&Envoy) -> bool) {
        let found = |said: &Value| {
            let mut findings = said["findings"].as_array().unwrap().iter();
            findings.any(|one| format!("{} {}", one["harm"], one["kind"]).replace('"', "") == kind)
        };
        let mut last = Value::Null;
        let told = poll(SOON, || {
            last = self.doctor().1;
            found(&last).then_some(())
        });
        assert!(told.is_some(), "{kind}: {last}");
        let grown = poll(SOON, || counted(&self.envoy).then_some(()));
        assert!(grown.is_some(), "{kind}: {:#?}", self.envoy.filter_stats());
    }
}

fn at_least(name: &'static str) -> impl Fn(&Envoy) -> bool {
    move |envoy| envoy.filter_stat(name) >= Some(1)
}

/// The findings that are about workers: `harm kind`.
fn about_workers(said: &Value) -> Vec<String> {
    let findings = said["findings"].as_array().unwrap().iter();
    let kinds = [
        "no_worker",
        "ignored",
        "revisions",
        "versions",
        "configurations",
    ];
    let findings = findings.filter(|one| kinds.contains(&one["kind"].as_str().unwrap()));
    let named = findings.map(|one| format!("{} {}", one["harm"], one["kind"]).replace('"', ""));
    named.collect()
}

/// Every worker has a request, and with it begins to look.
fn reach_all(envoy: &Envoy) {
    let replies = envoy
        .client()
        .load(60, 20, |_| Request::get("/delay?ms=20"));
    assert!(replies.iter().all(Result::is_ok));
}

#[test]
fn every_worker_is_counted_and_what_differs_is_told() {
    let world = World::start(watched(50));
    let same = world.another(watched(50));
    reach_all(&world.envoy);
    reach_all(&same);
    // A worker may have had no request so far, however many there were.
    eventually(SOON, || {
        reach_all(&world.envoy);
        reach_all(&same);
        let (code, said) = world.doctor();
        assert_eq!(code, 0, "{said}");
        assert_eq!(about_workers(&said), [""; 0], "{said}");
        let workers = said["workers"].as_array().unwrap();
        let version = |one: &Value| one["version"] == slotgate::VERSION;
        assert!(workers.iter().all(version), "{said}");
        workers.len() == 4
    });
    let few = |number: &str| {
        let (code, said) = world.doctor_of(&["--workers", number]);
        let findings = said["findings"].as_array().unwrap().iter();
        let few = findings.filter(|one| one["kind"] == "few_workers");
        let few = few.map(|one| (one["harm"].clone(), one["text"].clone()));
        (code, few.collect::<Vec<_>>())
    };
    eventually(SOON, || few("4") == (0, vec![]));
    let text = json!("4 of 5 workers answered within 1.5 s");
    eventually(SOON, || {
        few("5") == (1, vec![(json!("requests"), text.clone())])
    });
    // Another limit under the same revision: it is not in force, and what is needed is said.
    let other = world.another(watched(49));
    reach_all(&other);
    eventually(SOON, || {
        let (code, said) = world.doctor();
        about_workers(&said) == ["limits ignored", "advice configurations"] && code == 1
    });
    drop(other);
    drop(same);
    let gone = |said: &Value| said["workers"].as_array().unwrap().len() <= 2;
    eventually(SOON, || gone(&world.doctor().1));
}

/// What goes wrong at night, and what tells of it: the table in `docs/operations.md`.
mod faults {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn redis_is_slow() {
        let world = World::start(watched(50).plugin(|plugin| {
            plugin["redis"]["acquire_timeout_ms"] = json!(5);
        }));
        world.get("/");
        let mut busy = world.redis.connect();
        let until = Instant::now() + Duration::from_secs(8);
        let slow = std::thread::spawn(move || {
            let work = "local s = redis.call('TIME') repeat local t = redis.call('TIME') \
                        until (t[1] - s[1]) * 1e6 + t[2] - s[2] > 30000";
            while Instant::now() < until {
                let _: redis::Value = redis::cmd("EVAL")
                    .arg(work)
                    .arg(0)
                    .query(&mut busy)
                    .unwrap();
            }
        });
        while !slow.is_finished() && world.counters("requests;outcome=traditional") == 0 {
            world.get("/");
        }
        world.both_tell("requests slow", &|envoy| {
            let stats = envoy.filter_stats();
            let mut late = stats
                .iter()
                .filter(|(name, _)| name.contains("outcome=traditional"));
            late.any(|(_, count)| *count > 0)
        });
        slow.join().unwrap();
    }

    #[test]
    fn redis_is_full() {
        let world = World::start(watched(50));
        world.assert_serves();
        let used: String = world.redis.run("INFO", &["memory"]);
        let used = used
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        world
            .redis
            .run::<()>("CONFIG", &["SET", "maxmemory", used.unwrap()]);
        for _ in 0..5 {
            world.get("/");
        }
        world.both_tell(
            "requests memory",
            &at_least("redis_error;reason=out_of_memory"),
        );
    }

    #[test]
    fn redis_evicts() {
        let world = World::start(watched(50));
        let held = world.client().open("/sse?events=100000", &[]);
        let evict = [("maxmemory-policy", "allkeys-random"), ("maxmemory", "1")];
        for (name, value) in evict {
            world.redis.run::<()>("CONFIG", &["SET", name, value]);
        }
        // Each command that needs memory throws some keys away; then there is room again.
        let mut redis = world.redis.connect();
        let accounts = world.ledger.key("accounts");
        eventually(SOON, || {
            let _ = redis::cmd("SET").arg("x").arg("y").query::<()>(&mut redis);
            world.redis.run::<u32>("EXISTS", &[&accounts]) == 0
        });
        world.redis.run::<()>("CONFIG", &["SET", "maxmemory", "0"]);
        // Whoever comes next puts the accounts in force again, or a recount did: neither is an error that is counted.
        world.both_tell("limits evicted", &|_| true);
        world.assert_serves();
        drop(held);
    }

    #[test]
    fn redis_refuses_what_the_filter_needs() {
        let world = World::start(watched(50));
        world.assert_serves();
        world
            .redis
            .run::<()>("ACL", &["SETUSER", "default", "-zadd"]);
        for _ in 0..5 {
            world.get("/");
        }
        world.both_tell("requests denied", &at_least("redis_error;reason=forbidden"));
    }

    #[test]
    fn the_bridge_is_missing() {
        let world = World::start(watched(50).edit(|document| {
            let listeners = document["static_resources"]["listeners"]
                .as_array_mut()
                .unwrap();
            listeners.retain(|listener| listener["name"] != "slotgate_pipe");
        }));
        assert_eq!(way(&world.get("/")).1, "traditional");
        world.both_tell("requests no_pool", &at_least("pipe.workers_down"));
        assert!(
            world.envoy.log_contains("slotgate_pipe"),
            "the log names the cluster"
        );
    }

    #[test]
    fn a_key_is_revoked() {
        let world = World::start(watched(50));
        let refused = world.get("/status/401");
        assert_eq!(refused.status, 401);
        world.both_tell("requests disabled", &at_least("disabled"));
        eventually(SOON, || {
            world.envoy.filter_stat("accounts;state=disabled") == Some(1)
        });
    }

    #[test]
    fn a_tenant_floods() {
        let world = World::start(watched(2).plugin(|plugin| {
            plugin["tenant"] = json!({"source": [{"header": "x-tenant"}], "max_waiting": 3});
            plugin["saturated"] = json!({"action": "queue", "queue": {"max_wait_ms": 20_000}});
        }));
        let held: Vec<_> = (0..2)
            .map(|_| world.client().open("/sse?events=100000", &[]))
            .collect();
        let client = world.client();
        let flood = std::thread::spawn(move || {
            client.load(30, 30, |_| Request::get("/").header("x-tenant", "noisy"))
        });
        world.both_tell("advice waiting", &|envoy| {
            envoy.filter_stat("requests;outcome=rejected;reason=waiting_full") >= Some(20)
        });
        drop(held);
        flood.join().unwrap();
    }

    #[test]
    fn a_configuration_is_ignored() {
        let world = World::start(watched(50));
        world.assert_serves();
        let other = world.another(watched(49));
        reach_all(&other);
        world.both_tell("limits ignored", &|_| {
            other.filter_stat("accounts.ignored") == Some(1)
        });
    }

    #[test]
    fn an_envoy_stands_still() {
        let world = World::start(watched(50));
        let other = world.another(watched(50));
        reach_all(&other);
        let workers = || world.doctor().1["workers"].as_array().unwrap().len();
        eventually(SOON, || workers() > 0);
        other.signal(libc::SIGSTOP);
        eventually(SOON, || workers() == 0);
        world.both_tell("advice no_worker", &|_| true);
        other.signal(libc::SIGCONT);
    }

    #[test]
    fn a_clock_was_moved() {
        let clock = Clock::running();
        let world = World::with_redis(Redis::start_at(&clock, &[]), watched(50));
        world.assert_serves();
        clock.shift(-3_600_000);
        world.both_tell("advice clock", &|_| true);
        world.assert_serves();
    }
}
