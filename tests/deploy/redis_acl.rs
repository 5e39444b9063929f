//! The user that `docs/ledger.md` and `envoy/docker-compose.yaml` make for the filter, and its password.

use serde_json::json;

use crate::world::{SOON, World, config, way};
use support::*;

/// A world whose filter logs in as a user with these rights.
fn with_rights(rules: &[String], change: impl Fn(&mut serde_json::Value)) -> World {
    let redis = Redis::start();
    let words: Vec<&str> = ["SETUSER", "slotgate"]
        .into_iter()
        .chain(rules.iter().map(String::as_str))
        .collect();
    redis.run::<()>("ACL", &words);
    World::with_redis(
        redis,
        config(&[("a", 2), ("b", 2)])
            .env("REDIS_PASSWORD", "secret")
            .plugin(|plugin| {
                plugin["redis"]["username"] = json!("slotgate");
                plugin["redis"]["password_env"] = json!("REDIS_PASSWORD");
                plugin["redis"]["database"] = json!(1);
                plugin["lease"] = json!({"ttl_ms": 2_000, "renew_interval_ms": 300});
                change(plugin);
            }),
    )
}

/// Redis keeps an account of everything that it has denied.
fn assert_nothing_denied(world: &World) {
    let denied: Vec<redis::Value> = world.redis.run("ACL", &["LOG"]);
    assert!(denied.is_empty(), "{denied:?}");
}

/// Slots taken, renewed, released, and an account that cools.
fn exercise(world: &World) {
    let get = |path: &str| world.client().get(path, &[("x-session-id", "s")]);
    eventually(SOON, || way(&get("/")) == (200, "atomic"));
    let held = world.client().open("/sse?events=100000", &[]);
    world.eventually_counts("lease.renewed", 2);
    assert_eq!(way(&get("/status/429?retry-after=1")), (429, "atomic"));
    world.eventually_counts("cooldown", 1);
    drop(held);
    world.eventually_counts("lease.released", 3);
}

/// Fills all slots, and is served by the one that comes free.
fn wait_for_a_slot(world: &World) {
    let ledger = &world.ledger;
    let held: Vec<_> = (0..4)
        .map(|_| world.client().open("/sse?events=100000", &[]))
        .collect();
    assert!(held.iter().all(|stream| stream.status == 200));
    let client = world.client();
    let waits = std::thread::spawn(move || client.get("/", &[]));
    let key = ledger.key("queue");
    let waiting = || {
        let mut redis = world.redis.connect();
        let _: () = redis::cmd("SELECT").arg(1).query(&mut redis).unwrap();
        let count = redis::cmd("ZCARD").arg(&key).query::<usize>(&mut redis);
        count.unwrap() > 0
    };
    eventually(SOON, waiting);
    drop(held);
    assert_eq!(way(&waits.join().unwrap()), (200, "atomic"));
}

#[test]
fn the_least_rights_suffice() {
    let world = with_rights(&acl_rules(), |plugin| {
        plugin["saturated"] = json!({"action": "queue"});
    });
    exercise(&world);
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    wait_for_a_slot(&world);
    assert_nothing_denied(&world);
    assert!(!world.envoy.log_contains("secret"));
}

/// The rights of a user from before there was a queue.
fn without_a_queue(rule: &&String) -> bool {
    let only_for_it = [
        "+zrangebylex",
        "+zlexcount",
        "+publish",
        "+subscribe",
        "&slotgate:*",
    ];
    !only_for_it.contains(&rule.as_str())
}

#[test]
fn a_pool_without_a_queue_needs_no_rights_for_it() {
    let rules: Vec<_> = acl_rules()
        .iter()
        .filter(without_a_queue)
        .cloned()
        .collect();
    assert_eq!(rules.len() + 5, acl_rules().len());
    let world = with_rights(&rules, |_| {});
    exercise(&world);
    assert_nothing_denied(&world);
}

#[test]
fn who_may_not_listen_is_served_by_the_heartbeat() {
    let kept = |rule: &&String| !["+publish", "+subscribe", "&slotgate:*"].contains(&rule.as_str());
    let rules: Vec<_> = acl_rules().iter().filter(kept).cloned().collect();
    let world = with_rights(&rules, |plugin| {
        plugin["saturated"] = json!({"action": "queue"});
    });
    exercise(&world);
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    wait_for_a_slot(&world);
    assert_eq!(world.envoy.filter_stat("queue.workers_listening"), Some(0));
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
