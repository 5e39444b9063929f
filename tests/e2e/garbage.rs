//! Whatever stands in one pool's keys, the other pool goes on, and the bad one is right again soon.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{SOON, World, accounts_json, config, way};
use support::*;

/// After so long of being right, a pool is mended for the worker that recounted it: a second, and a little for the recount's
/// end.
const MENDED: Duration = Duration::from_millis(1_500);

/// Pools `demo` and, for requests with `x-pool`, `small`.
fn two_pools() -> EnvoyConfig {
    config(&[("a", 50)]).plugin(|plugin| {
        let mut small = plugin["pools"][0].clone();
        small["name"] = json!("small");
        small["match"] = json!([{"header": "x-pool", "exact": "small"}]);
        small["accounts"] = accounts_json(&[("s", 3), ("t", 5)]);
        plugin["pools"].as_array_mut().unwrap().insert(0, small);
    })
}

/// With a console that shows both.
fn start() -> World {
    let world = World::start(two_pools().console(|plugin| {
        plugin["pools"] = json!(["demo", "small"]);
    }));
    world.assert_serves();
    assert_eq!(small(&world), (200, "atomic".to_owned()));
    world
}

fn small(world: &World) -> (u16, String) {
    let reply = world.client().get("/", &[("x-pool", "small")]);
    (reply.status, reply.header("x-slotgate-path").to_owned())
}

fn status(world: &World) -> Value {
    let console = Client::new(world.envoy.addrs()[1]);
    let reply = console.get("/api/status", &[("host", "localhost")]);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn pools(status: &Value) -> Vec<String> {
    let pools = status["pools"].as_array().unwrap().iter();
    pools
        .map(|pool| pool["pool"].as_str().unwrap().to_owned())
        .collect()
}

/// A key, how it is broken: a command and its arguments.
type Kind<'a> = (&'a str, &'a str, &'a [&'a str]);

/// Breaks the pool `small` in all these ways, one after the other: the other pool serves, and it is right again soon. All of
/// `said` is in the log, which says eight different things of a pool and no more until a recount finds nothing.
#[track_caller]
fn assert_its_own(kinds: &[Kind], said: &[&str]) {
    let world = start();
    let ledger = Ledger::new(&world.redis, "slotgate", "small");
    let key = |name: &str| ledger.key(name);
    // Both reach Envoy's stats a moment after the first answer.
    world.eventually_counts("pipe.ready", 1);
    let ready = world.counter("pipe.ready");
    for &(command, name, rest) in kinds {
        let what = format!("{command} {name} {:.60}", rest.join(" "));
        for id in rest.iter().filter(|id| id.len() > 64) {
            // With a record, so that only its length is wrong.
            world
                .redis
                .run::<()>("HSET", &[&key("accounts"), id, "9 0 0 0"]);
        }
        let key = key(name);
        let mut arguments = vec![key.as_str()];
        arguments.extend(rest);
        world.redis.run::<()>(command, &arguments);
        // An Envoy that connects afterwards serves the other pool too, and at once.
        for _ in 0..20 {
            world.assert_serves();
        }
        assert_eq!(pools(&status(&world)), ["demo", "small"], "{what}");
        if rest[0] == "#revision" {
            // No request reads it, so it is mended by the next recount, once a minute, or by who connects.
            assert_eq!(small(&world).1, "atomic");
            let error = status(&world)["pools"][1]["error"].clone();
            let named = error == json!("accounts #revision: not a whole number");
            // The minute's recount may come just now.
            let stands: Option<String> = world.redis.run("HGET", &[&key, "#revision"]);
            let was_mended = error.is_null() && stands.as_deref() != Some("abc");
            assert!(named || was_mended, "{error}, {stands:?}");
            world.another(two_pools()).client().get("/", &[]);
        }
        let mended = poll(SOON, || {
            // Traditional at worst, or for a moment refused: there is no account until the sync.
            assert!([200, 429].contains(&small(&world).0), "{what}");
            world.assert_serves();
            let right = small(&world).1 == "atomic"
                && ledger
                    .try_state()
                    .is_ok_and(|state| state.accounts.len() == 2);
            (right && status(&world)["pools"][1]["error"].is_null()).then_some(())
        });
        assert!(
            mended.is_some(),
            "{what}: {:#?}\n{}",
            ledger.try_state(),
            world.envoy.log_tail(20)
        );
        // What breaks within a second of its recount counts as not mended: each next recount would wait twice as long.
        std::thread::sleep(MENDED);
        assert_eq!(small(&world), (200, "atomic".to_owned()), "{what}");
    }
    assert!(
        poll(SOON, || ledger.is_empty().then_some(())).is_some(),
        "{:#?}",
        ledger.state()
    );
    ledger.assert_consistent();
    for said in said {
        assert!(
            world.envoy.log_contains(said),
            "{said}: {}",
            world.envoy.log_tail(40)
        );
    }
    world.eventually_counts("garbage", 5);
    world.eventually_counts("redis_error;reason=garbage", 4);
    let of = |name: &str| world.envoy.stat(&format!("wasmcustom.slotgate.{name}"));
    assert_eq!(of("garbage;pool=demo"), Some(0));
    assert_eq!(world.counters("pipe.lost"), 0);
    assert_eq!(world.counter("pipe.ready"), ready);
    assert_eq!(world.counter("breaker.opened"), 0);
    let refused = "requests;outcome=traditional;reason=refused;pool=demo";
    assert_eq!(of(refused), Some(0));
}

#[test]
fn one_pools_garbage_is_its_own() {
    // Longer than a reply may be; and long enough for a reply to many acquires.
    let long = ["x".repeat(1_100_000), "y".repeat(33_000)];
    // `#wake` is put right without a word.
    assert_its_own(
        &[
            ("HSET", "accounts", &["#revision", "abc"]),
            ("HSET", "accounts", &["#epoch", "abc"]),
            ("HSET", "accounts", &["#wake", "abc"]),
            ("ZADD", "free", &["-9e15", "ghost"]),
            (
                "HSET",
                "accounts",
                &["s", "not a record", "t", "\u{1b}[31m"],
            ),
            ("ZADD", "free", &["-9e15", &long[0], "-8e15", &long[1]]),
            ("HSET", "used", &["s", "many", "t", "many"]),
        ],
        &[
            "accounts #epoch: not a whole number",
            "free ghost",
            "not an account with a record",
        ],
    );
}

#[test]
fn one_pools_garbage_of_another_type_is_its_own() {
    // A key that is empty anyway is put right without a word.
    assert_its_own(
        &[
            ("SET", "accounts", &["text"]),
            ("SET", "free", &["text"]),
            ("SET", "used", &["text"]),
            ("SET", "leases", &["text"]),
        ],
        &["accounts is no hash"],
    );
}

/// What is broken before an Envoy connects keeps its pipe from nothing.
#[test]
fn an_envoy_that_connects_to_garbage_serves() {
    let world = start();
    let small_key = |name: &str| Ledger::new(&world.redis, "slotgate", "small").key(name);
    for (command, name, rest) in [
        ("HSET", "accounts", &["#revision", "abc"][..]),
        ("HSET", "accounts", &["#epoch", "abc"]),
        ("SET", "used", &["text"]),
        ("SET", "accounts", &["text"]),
        // An operator's key is not mended, and the pool serves nevertheless.
        ("SET", "control", &["text"]),
    ] {
        let key = small_key(name);
        let mut arguments = vec![key.as_str()];
        arguments.extend(rest);
        world.redis.run::<()>(command, &arguments);
        let fresh = world.another(two_pools());
        let reply = fresh.client().get("/", &[]);
        assert_eq!(way(&reply), (200, "atomic"), "{command} {name} {rest:?}");
        let mended = poll(SOON, || {
            let reply = fresh.client().get("/", &[("x-pool", "small")]);
            (way(&reply) == (200, "atomic")).then_some(())
        });
        assert!(
            mended.is_some(),
            "{command} {name} {rest:?}: {}",
            fresh.log_tail(20)
        );
        let lost: u64 = fresh
            .filter_stats()
            .iter()
            .filter(|(name, _)| name.starts_with("pipe.lost"))
            .map(|(_, count)| count)
            .sum();
        assert_eq!(lost, 0, "{command} {name}");
    }
}
