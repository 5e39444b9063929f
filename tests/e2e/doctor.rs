//! `slotgate doctor` and the workers of several Envoys.

use std::process::Command;

use serde_json::{Value, json};

use crate::world::{SOON, World, config};
use support::*;

/// Two workers that look every 100 ms.
fn watched(limit: u32) -> EnvoyConfig {
    config(&[("a", limit)]).workers(2).plugin(|plugin| {
        plugin["control"] = json!({"poll_ms": 100});
    })
}

impl World {
    fn doctor(&self) -> (i32, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_slotgate"))
            .args(["--json", "doctor", "--wait", "1.5"])
            .env("SLOTGATE_REDIS", self.redis.addr().to_string())
            .output()
            .expect("the program runs");
        let said = serde_json::from_slice(&output.stdout);
        let said = said.unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code().expect("an exit code"), said)
    }
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
