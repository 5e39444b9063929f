//! Who takes part: the percentage, shadow mode, and the local choice of the others.

use std::time::{Duration, Instant};

use serde_json::json;
use slotgate::request::gray::Bucketer;

use crate::world::{SOON, World, config, way};
use support::*;

const SESSION: &str = "x-session-id";

fn percent(percent: f64) -> EnvoyConfig {
    config(&[("a", 50), ("b", 50)]).plugin(|plugin| plugin["gray"]["percent"] = json!(percent))
}

#[test]
fn at_0_percent_and_without_looks_redis_is_left_alone() {
    let world = World::start(percent(0.0).workers(2).plugin(|plugin| {
        plugin["control"] = json!({"poll_ms": 0});
    }));
    let replies = world.client().load(50, 5, |number| {
        Request::get("/").header(SESSION, format!("session-{number}"))
    });
    for reply in replies {
        assert_eq!(way(&reply.expect("a response")), (200, "traditional"));
    }
    world.eventually_counts("requests;outcome=traditional;reason=out_of_percentage", 50);
    assert_eq!(
        world.envoy.stat("cluster.redis.upstream_cx_total"),
        Some(0),
        "no pipe"
    );
    assert_eq!(
        world.redis.run::<Vec<String>>("KEYS", &["*"]),
        Vec::<String>::new()
    );
}

/// The share is what was set, and every session is where the documented hash puts it.
#[test]
fn at_30_percent_the_sessions_in_are_those_of_the_hash() {
    let world = World::start(percent(30.0).plugin(|plugin| plugin["gray"]["salt"] = json!("s")));
    let session = |number: usize| format!("session-{number}");
    let replies = world.client().load(1_000, 10, move |number| {
        Request::get("/").header(SESSION, session(number))
    });
    let gate = Bucketer::new("s");
    let mut inside = 0;
    for (number, reply) in replies.into_iter().enumerate() {
        let is_in = gate.bucket(session(number).as_bytes()) < 3_000;
        inside += usize::from(is_in);
        let expected = if is_in { "atomic" } else { "traditional" };
        assert_eq!(
            way(&reply.expect("a response")),
            (200, expected),
            "session {number}"
        );
    }
    assert!((250..=350).contains(&inside), "{inside} of 1000");
    world.eventually_counts("requests;outcome=atomic", inside as u64);
    world.assert_all_free();
}

/// By request id, or by chance where there is none; never all of them in one bucket.
#[test]
fn requests_without_a_session_are_shared_out_too() {
    for generate in [true, false] {
        let config =
            percent(10.0).manager(|manager| manager["generate_request_id"] = json!(generate));
        let world = World::start(config);
        let replies = world
            .client()
            .load(500, 10, |_| Request::get("/").header(SESSION, ""));
        let inside = replies
            .into_iter()
            .filter(|reply| way(reply.as_ref().expect("a response")).1 == "atomic")
            .count();
        assert!(
            (25..=85).contains(&inside),
            "{inside} of 500, with request ids: {generate}"
        );
    }
    // The same id again, the same answer.
    let world = World::start(percent(50.0));
    for id in ["one", "two", "three", "four", "five", "six"] {
        let reply = world.client().get("/echo", &[("x-request-id", id)]);
        let seen = reply.json()["headers"]["x-request-id"].clone();
        let is_in = Bucketer::new("").bucket(seen.as_str().expect("an id").as_bytes()) < 5_000;
        assert_eq!(reply.header("x-slotgate-path") == "atomic", is_in, "{seen}");
    }
}

/// A valid token puts its request in or out; without it the header says nothing. It never goes any further.
#[test]
fn an_override_needs_its_token() {
    for (share, answers) in [
        (
            0.0,
            [
                ("t0ken:on", "atomic"),
                ("t0kem:on", "traditional"),
                (":on", "traditional"),
            ],
        ),
        (
            100.0,
            [
                ("t0ken:off", "traditional"),
                ("t0kem:off", "atomic"),
                ("off", "atomic"),
            ],
        ),
    ] {
        let world = World::start(percent(share).env("TOKEN", "t0ken").plugin(|plugin| {
            plugin["gray"]["override"] = json!({"header": "x-my-gray", "token_env": "TOKEN"});
        }));
        for (value, expected) in answers {
            let reply = world.client().get("/echo", &[("x-my-gray", value)]);
            assert_eq!(way(&reply), (200, expected), "{share} {value}");
            assert_eq!(reply.json()["headers"].get("x-my-gray"), None, "{value}");
        }
    }
}

#[test]
fn shadow_counts_and_takes_nothing() {
    let shadow = || config(&[("a", 1)]).plugin(|plugin| plugin["gray"]["mode"] = json!("shadow"));
    let world = World::start(shadow());
    let mut stream = world.client().open("/sse?events=100000", &[(SESSION, "s")]);
    stream.events(1);
    assert_eq!(stream.header("x-slotgate-path"), "traditional");
    for _ in 0..5 {
        assert_eq!(way(&world.get("/")), (200, "traditional"));
    }
    world.eventually_counts("shadow.granted", 6);
    let state = world.ledger.state();
    assert!(
        state.leases.is_empty() && state.owner.is_empty(),
        "{state:#?}"
    );
    assert_eq!(
        world.redis.run::<Vec<String>>("KEYS", &["*session*"]),
        Vec::<String>::new()
    );

    // Another Envoy enforces, and its lease is what the shadow sees.
    let enforcing = world.another(config(&[("a", 1)]));
    let held = enforcing.client().open("/sse?events=100000", &[]);
    assert_eq!(way(&world.get("/")), (200, "traditional"));
    world.eventually_counts("shadow.saturated", 1);
    drop((held, stream));
    world.assert_all_free();
}

/// What one pool's shadow counted: granted, saturated, failed; agreed, differed, unknown.
fn shadow_of(world: &World, pool: &str) -> [u64; 6] {
    [
        "granted",
        "saturated",
        "failed",
        "agreed",
        "differed",
        "unknown",
    ]
    .map(|name| {
        let name = format!("wasmcustom.slotgate.shadow.{name};pool={pool}");
        world.envoy.stat(&name).expect("a counter")
    })
}

/// In the order of `accounts` whatever chance says, so that every figure is exact.
fn in_order(accounts: &[&str], slots: u32) -> serde_json::Value {
    let account = |(priority, id): (u32, &&str)| {
        json!({"id": id, "max_concurrency": slots, "priority": priority,
            "set_headers": {"x-account": format!("key-of-{id}")}})
    };
    (1..).zip(accounts).map(account).collect()
}

/// A client that chose its account itself goes on as it is, and the shadow says how often it would have been given that one.
#[test]
fn a_shadow_counts_per_pool_how_often_it_agrees_with_the_clients_own_choice() {
    let world = World::start(config(&[("a", 1)]).workers(2).plugin(|plugin| {
        plugin["gray"]["mode"] = json!("shadow");
        plugin["score"] = json!({"priority": 1, "load": 0, "random": 0});
        plugin["pools"] = json!([
            {"name": "chat", "match": [{"header": "x-model", "exact": "chat"}], "accounts": in_order(&["a", "b"], 9)},
            {"name": "rest", "accounts": in_order(&["c"], 9)},
        ]);
    }));
    let replies = world.client().load(400, 8, |number| {
        let own = ["key-of-a", "key-of-b", "nobody's", "key-of-c"][number % 4];
        let model = if number % 4 == 3 { "other" } else { "chat" };
        Request::get("/echo")
            .header("x-account", own)
            .header("x-model", model)
    });
    for (number, reply) in replies.into_iter().enumerate() {
        let reply = reply.expect("a response");
        assert_eq!(way(&reply), (200, "traditional"));
        let own = ["key-of-a", "key-of-b", "nobody's", "key-of-c"][number % 4];
        assert_eq!(reply.json()["headers"]["x-account"], own, "left as it is");
    }
    world.eventually_counts("shadow.granted", 400);
    let (chat, rest) = (shadow_of(&world, "chat"), shadow_of(&world, "rest"));
    println!("granted, saturated, failed; agreed, differed, unknown: chat {chat:?}, rest {rest:?}");
    assert_eq!(chat, [300, 0, 0, 100, 100, 100]);
    assert_eq!(rest, [100, 0, 0, 100, 0, 0]);
    for (name, all) in [("agreed", 200), ("differed", 100), ("unknown", 100)] {
        assert_eq!(world.counter(&format!("shadow.{name}")), all);
    }
    assert!(world.ledger.is_empty());
}

/// The worker's own choice knows its own requests only, the shadow those of the fleet.
#[test]
fn a_shadow_counts_how_often_it_agrees_with_the_local_choice() {
    let settings = || {
        config(&[("a", 1)]).plugin(|plugin| {
            plugin["score"] = json!({"priority": 1, "load": 0, "random": 0});
            plugin["pools"][0]["accounts"] = in_order(&["a", "b"], 1);
            for account in plugin["pools"][0]["accounts"]
                .as_array_mut()
                .expect("accounts")
            {
                account["set_headers"]["x-upstream"] = json!("acct_1");
            }
        })
    };
    let world = World::start(settings().plugin(|plugin| {
        plugin["gray"]["mode"] = json!("shadow");
        plugin["traditional"] = json!({"mode": "local"});
    }));
    let local = |count: usize, held: usize| {
        for _ in 0..count {
            let reply = world.get("/");
            assert_eq!(way(&reply), (200, "local"));
            assert_eq!(reply.header("x-slotgate-account"), "a");
            // Its lease is gone before the next one asks.
            eventually(SOON, || world.ledger.live() == held);
        }
    };
    local(10, 0);
    world.eventually_counts("shadow.agreed", 10);
    let enforcing = world.another(settings());
    let other = enforcing.client().open("/sse?events=100000", &[]);
    assert_eq!(other.header("x-slotgate-account"), "a");
    local(5, 1);
    world.eventually_counts("shadow.differed", 5);
    assert_eq!(shadow_of(&world, "demo"), [15, 0, 0, 10, 5, 0]);
    drop(other);
    world.assert_all_free();
}

#[test]
fn shadow_never_waits() {
    let world =
        World::start(config(&[("a", 1)]).plugin(|plugin| plugin["gray"]["mode"] = json!("shadow")));
    // Neither for a pipe that is opening, nor for one that serves, nor for a Redis that is gone.
    let quick = |what: &str| {
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(way(&world.get("/")), (200, "traditional"), "{what}");
        }
        // Had one waited, it would have been for 20 seconds.
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{what}: {:?}",
            start.elapsed()
        );
    };
    world.redis.sigstop();
    quick("opening");
    world.redis.sigcont();
    world.eventually_counts("shadow.granted", 1);
    world.redis.sigstop();
    quick("paused");
    world.redis.sigcont();
    world.eventually_counts("shadow.granted", 21);
    world.redis.kill();
    quick("gone");
    world.eventually_counts("shadow.failed", 10);
}

fn local(accounts: &[(&str, u32)]) -> EnvoyConfig {
    config(accounts).plugin(|plugin| {
        plugin["gray"]["percent"] = json!(0);
        plugin["traditional"] = json!({"mode": "local"});
        plugin["lease"]["renew_interval_ms"] = json!(500);
    })
}

/// Chosen by each Envoy on its own, counted by all in one ledger, even above the limit.
#[test]
fn a_local_choice_is_recorded_in_the_ledger() {
    let world = World::start(local(&[("a", 2)]));
    let other = world.another(local(&[("a", 2)]));
    let enforcing = world.another(config(&[("a", 2)]));
    let open = |client: Client| {
        let stream = client.open("/sse?events=100000", &[]);
        assert_eq!(
            (stream.status, stream.header("x-slotgate-path")),
            (200, "local")
        );
        assert_eq!(stream.header("x-slotgate-account"), "a");
        stream
    };
    let first: Vec<_> = (0..2).map(|_| open(world.client())).collect();
    eventually(SOON, || world.ledger.live() == 2);
    assert_eq!(
        enforcing.client().get("/", &[]).status,
        429,
        "the ledger counts them"
    );
    assert_eq!(world.get("/").status, 429, "this worker counts its own");
    let second: Vec<_> = (0..2).map(|_| open(other.client())).collect();
    eventually(SOON, || world.ledger.live() == 4);
    let state = world.ledger.state();
    state.assert_consistent();
    assert_eq!((state.used["a"], state.free.len()), (4, 0));
    assert_eq!(world.upstream.snapshot().account("a").now, 4);
    drop(first);
    eventually(SOON, || world.ledger.live() == 2);
    assert_eq!(enforcing.client().get("/", &[]).status, 429, "still full");
    drop(second);
    world.assert_all_free();
    assert_eq!(way(&enforcing.client().get("/", &[])), (200, "atomic"));
}

#[test]
fn a_local_choice_needs_no_redis() {
    let world = World::start(local(&[("a", 3)]));
    assert_eq!(way(&world.get("/")), (200, "local"));
    world.assert_all_free();
    world.redis.kill();
    let mut streams: Vec<_> = (0..3)
        .map(|_| world.client().open("/sse?events=100000", &[]))
        .collect();
    for stream in &streams {
        assert_eq!(
            (stream.status, stream.header("x-slotgate-path")),
            (200, "local")
        );
    }
    assert_eq!(world.get("/").status, 429);
    // One ends unrecorded; the others are told to Redis when it is back.
    streams.pop();
    world.redis.start_again();
    eventually(SOON, || {
        world
            .ledger
            .try_state()
            .is_ok_and(|state| state.live() == 2)
    });
    world.ledger.assert_consistent();
    assert_eq!(way(&world.get("/")), (200, "local"));
    drop(streams);
    world.assert_all_free();
    // Why, beside how many.
    world.eventually_counts("requests;outcome=local", 5);
    world.eventually_counts("local.requests;reason=out_of_percentage", 5);
    assert_eq!(world.counters("local.requests"), 5);
}

/// Each worker may use its share of the slots.
#[test]
fn a_local_choice_keeps_to_its_share() {
    let world = World::start(local(&[("a", 4)]).plugin(|plugin| {
        plugin["traditional"]["share"] = json!(2);
    }));
    let streams: Vec<_> = (0..2)
        .map(|_| world.client().open("/sse?events=100000", &[]))
        .collect();
    assert!(streams.iter().all(|stream| stream.status == 200));
    assert_eq!(world.get("/").status, 429);
    drop(streams);
    world.assert_all_free();
}
