//! The user that `docs/ledger.md` and `envoy/docker-compose.yaml` make for the filter, and its password.

use serde_json::json;

use crate::world::{SOON, World, config, way};
use support::*;

#[test]
fn the_least_rights_suffice() {
    let redis = Redis::start();
    let rules = acl_rules();
    let words: Vec<&str> = ["SETUSER", "slotgate"]
        .into_iter()
        .chain(rules.iter().map(String::as_str))
        .collect();
    redis.run::<()>("ACL", &words);
    let world = World::with_redis(
        redis,
        config(&[("a", 2), ("b", 2)])
            .env("REDIS_PASSWORD", "secret")
            .plugin(|plugin| {
                plugin["redis"]["username"] = json!("slotgate");
                plugin["redis"]["password_env"] = json!("REDIS_PASSWORD");
                plugin["redis"]["database"] = json!(1);
                plugin["lease"] = json!({"ttl_ms": 2_000, "renew_interval_ms": 300});
            }),
    );
    let get = |path: &str| world.client().get(path, &[("x-session-id", "s")]);
    eventually(SOON, || way(&get("/")) == (200, "atomic"));
    let held = world.client().open("/sse?events=100000", &[]);
    world.eventually_counts("lease.renewed", 2);
    assert_eq!(way(&get("/status/429?retry-after=1")), (429, "atomic"));
    world.eventually_counts("cooldown", 1);
    drop(held);
    world.eventually_counts("lease.released", 3);
    // Redis keeps an account of everything that it has denied.
    let denied: Vec<redis::Value> = world.redis.run("ACL", &["LOG"]);
    assert!(denied.is_empty(), "{denied:?}");
    assert!(!world.envoy.log_contains("secret"));
}

#[test]
fn compose_gives_the_same_rights() {
    let compose = std::fs::read_to_string(root().join("envoy/docker-compose.yaml")).expect("it");
    let compose = rules_in(&compose, "--user slotgate ", "networks:");
    let page = acl_rules();
    let password = |rule: &&String| !rule.starts_with('>');
    assert!(
        compose
            .iter()
            .filter(password)
            .eq(page.iter().filter(password)),
        "{compose:?} is not {page:?}"
    );
}
