//! Upstreams that fail, filters that answer in their place, and accounts that rest after pushback.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{SOON, World, best_within, config, way};
use support::*;

const AT_ONCE: Duration = Duration::from_millis(100);

/// Answers of Envoy's own, behind slotgate: by a filter, or by the route.
fn with_local_replies(config: EnvoyConfig) -> EnvoyConfig {
    config.manager(|manager| {
        let fault = json!({
            "name": "envoy.filters.http.fault",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "abort": {"http_status": 503, "percentage": {"numerator": 100}},
                "headers": [{"name": "x-fault", "present_match": true}],
            },
        });
        let denied = json!({"header": {"name": "x-denied", "present_match": true}});
        let rbac = json!({
            "name": "envoy.filters.http.rbac",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {
                    "action": "DENY",
                    "policies": {"p": {"permissions": [denied], "principals": [{"any": true}]}},
                },
            },
        });
        let filters = manager["http_filters"].as_array_mut().expect("filters");
        filters.insert(1, fault);
        filters.insert(2, rbac);
        let direct = json!({"match": {"prefix": "/direct"}, "direct_response": {"status": 418}});
        let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
        routes.as_array_mut().expect("routes").insert(0, direct);
    })
}

#[test]
fn an_answer_that_is_not_the_upstreams_ends_the_lease() {
    let world = World::start(with_local_replies(config(&[("a", 1)])));
    for (path, header, status) in [
        ("/reset", "x-none", 503),
        ("/", "x-fault", 503),
        ("/", "x-denied", 403),
        ("/direct", "x-none", 418),
        ("/status/500", "x-none", 500),
    ] {
        best_within(AT_ONCE, || {
            let reply = world.client().get(path, &[(header, "1")]);
            assert_eq!(way(&reply), (status, "atomic"), "{path} {header}");
            assert_eq!(reply.header("x-slotgate-account"), "a", "{path} {header}");
            world.time_until_free()
        });
    }
    world.assert_all_free();
    world.assert_serves();
}

#[test]
fn an_upstream_that_breaks_off_or_refuses_ends_the_lease() {
    let world = World::start(config(&[("a", 1)]));
    best_within(AT_ONCE, || {
        let mut stream = world
            .client()
            .open("/reset-mid?events=3&interval_ms=200", &[]);
        stream.events(2);
        assert_eq!(world.ledger.live(), 1);
        while let Ok(event) = stream.next_event() {
            assert!(event.is_some(), "the reset was taken for an end");
        }
        world.time_until_free()
    });
    let _stream = world.client().open("/sse?events=100000", &[]);
    world.upstream.refuse();
    world.assert_all_free();
    for _ in 0..3 {
        assert_eq!(way(&world.get("/")), (503, "atomic"));
        world.time_until_free();
    }
    world.assert_all_free();
    // None of these was the account's own word.
    assert_eq!(world.counter("cooldown"), 0);
    world.upstream.accept_again();
    world.assert_serves();
}

/// For as long as it asks, and then it serves again.
#[test]
fn an_account_that_pushes_back_rests() {
    let world = World::start(config(&[("a", 2), ("b", 2)]));
    let resting = |id: &str| world.ledger.state().cooldown.contains_key(id);
    let asked = Instant::now();
    let first = world.get("/status/429?retry-after=2");
    assert_eq!(way(&first), (429, "atomic"));
    let cold = first.header("x-slotgate-account").to_owned();
    let warm = if cold == "a" { "b" } else { "a" };
    eventually(Duration::from_secs(1), || resting(&cold));
    for _ in 0..20 {
        assert_eq!(world.get("/").header("x-slotgate-account"), warm);
    }
    // Both at rest: refused, and told when to come again.
    assert_eq!(
        world
            .get("/status/529?retry-after=2")
            .header("x-slotgate-account"),
        warm
    );
    eventually(Duration::from_secs(1), || resting(warm));
    if asked.elapsed() < Duration::from_millis(1_500) {
        let refused = world.get("/");
        assert_eq!(refused.status, 429);
        let seconds: u32 = refused
            .header("retry-after")
            .parse()
            .expect("whole seconds");
        assert!((1..=2).contains(&seconds), "{seconds}");
    }
    let served = eventually_some(PATIENCE, || {
        let reply = world.get("/");
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(served.header("x-slotgate-account"), cold);
    let rested = asked.elapsed();
    assert!(
        (Duration::from_millis(1_990)..Duration::from_secs(4)).contains(&rested),
        "asked for 2 s, rested {rested:?}"
    );
    eventually(PATIENCE, || {
        world.get("/").status == 200 && world.ledger.free().len() == 2
    });
    world.assert_all_free();
}

/// Which answers make an account rest, and for how long at most.
#[test]
fn only_the_upstreams_own_pushback_counts_and_within_bounds() {
    let cooldown = json!({"statuses": [429, 503], "default_ms": 7_000, "max_ms": 20_000});
    let accounts = [("a", 1), ("b", 1), ("c", 1), ("d", 1)];
    let world = World::start(
        with_local_replies(config(&accounts))
            .plugin(|plugin| plugin["cooldown"] = cooldown.clone()),
    );
    for (path, headers) in [
        ("/status/529", &[][..]),
        ("/status/500?retry-after=9", &[]),
        ("/status/200?retry-after=9", &[]),
        ("/", &[("x-fault", "1")]),
        ("/reset", &[]),
    ] {
        let reply = world.client().get(path, headers);
        assert_eq!(reply.header("x-slotgate-path"), "atomic");
        world.time_until_free();
        let state = world.ledger.state();
        assert!(state.cooldown.is_empty(), "{path}: {state:#?}");
    }
    assert_eq!(world.counter("cooldown"), 0);
    // What the upstream asks for, and how long the rest is, in ms. Each serves by an account that doesn't rest yet.
    for (path, length) in [
        ("/status/429", 7_000.0),
        ("/status/503?retry-after=soon", 7_000.0),
        ("/status/503?retry-after=3", 3_000.0),
        ("/status/429?retry-after=99999999999999999999", 20_000.0),
    ] {
        let account = world.get(path).header("x-slotgate-account").to_owned();
        let left = eventually_some(Duration::from_secs(2), || {
            let state = world.ledger.state();
            state
                .cooldown
                .get(&account)
                .map(|until| until - state.now_ms)
        });
        assert!(left <= length && left > length - 2_000.0, "{path}: {left}");
    }
}

/// Each header that says how long, the more specific before the others; one that can't be read is counted and passed over.
#[test]
fn an_account_rests_for_as_long_as_any_of_the_headers_says() {
    let accounts = ["a", "b", "c", "d", "e", "f"].map(|id| (id, 1));
    let world = World::start(config(&accounts));
    let now_s = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_secs();
    let reset = now_s + 40;
    for (query, length) in [
        ("retry-after-ms=20500&retry-after=300".to_owned(), 20_500.0),
        (
            "retry-after=30&anthropic-ratelimit-unified-reset=1".to_owned(),
            30_000.0,
        ),
        (
            format!("retry-after=soon&anthropic-ratelimit-unified-reset={reset}"),
            40_000.0,
        ),
        (
            "anthropic-ratelimit-unified-reset=2999-01-01T00:00:00Z".to_owned(),
            600_000.0,
        ),
        (
            "x-ratelimit-reset-requests=20ms&x-ratelimit-reset-tokens=1m0.5s".to_owned(),
            60_500.0,
        ),
        ("x-ratelimit-reset-requests=never".to_owned(), 5_000.0),
    ] {
        let reply = world.get(&format!("/status/429?{query}"));
        let account = reply.header("x-slotgate-account").to_owned();
        let left = eventually_some(Duration::from_secs(2), || {
            let state = world.ledger.state();
            state
                .cooldown
                .get(&account)
                .map(|until| until - state.now_ms)
        });
        assert!(
            left <= length && left > length - 3_000.0,
            "{query}: {left} of {length}"
        );
    }
    world.eventually_counts("cooldown", 6);
    world.eventually_counts("cooldown_malformed", 2);
}

/// So many requests at once, all slow to be answered; how many were served, and the most at once that the upstream saw.
fn at_once(world: &World, requests: usize) -> (usize, usize) {
    world.upstream.forget();
    let replies = world
        .client()
        .load(requests, requests, |_| Request::get("/delay?ms=400"));
    let statuses = count_statuses(&replies);
    let served = statuses.get(&200).copied().unwrap_or(0);
    assert_eq!(
        served + statuses.get(&429).copied().unwrap_or(0),
        requests,
        "{statuses:?}"
    );
    (served, world.upstream.snapshot().account("a").most)
}

fn cool(world: &World, path: &str) {
    assert_eq!(world.get(path).header("x-slotgate-account"), "a");
    eventually(SOON, || !world.ledger.state().cooldown.is_empty());
    world.time_until_free();
}

/// What is over is ended by the next request, which is refused if another comes first.
fn wait_until_cooled(world: &World) {
    eventually(SOON, || {
        let state = world.ledger.state();
        state.cooldown.values().all(|until| *until <= state.now_ms)
    });
}

#[test]
fn after_its_rest_an_account_is_probed_by_one_request_at_a_time() {
    let world = World::start(config(&[("a", 4)]));
    cool(&world, "/status/429?retry-after-ms=300");
    wait_until_cooled(&world);
    // The probe is pushed back: it rests again, and nobody else was let in.
    cool(&world, "/status/429?retry-after-ms=300");
    wait_until_cooled(&world);
    // A failure is no verdict: the next one probes.
    assert_eq!(way(&world.get("/status/500")), (500, "atomic"));
    world.time_until_free();
    assert_eq!(at_once(&world, 8), (1, 1), "one probe");
    world.eventually_counts("probe.passed", 1);
    assert_eq!(at_once(&world, 8), (4, 4), "all slots");
    assert_eq!(world.counter("probe.sent"), 3);
    assert_eq!(world.counter("probe.passed"), 1);
    world.assert_all_free();
}

#[test]
fn without_probes_all_slots_are_used_at_once_again() {
    let world = World::start(
        config(&[("a", 4)]).plugin(|plugin| plugin["cooldown"] = json!({"probe": false})),
    );
    cool(&world, "/status/429?retry-after-ms=300");
    wait_until_cooled(&world);
    assert_eq!(at_once(&world, 8), (4, 4));
    assert_eq!(world.counter("probe.sent"), 0);
    // By the worker that said that it rests, when its look shows that it is over.
    let said = |state: &str| {
        let line = format!("pool demo: account a is {state}");
        world.envoy.log().matches(&line).count()
    };
    eventually(SOON, || said("free") > 0);
    assert_eq!((said("cooling for 300 ms"), said("free")), (1, 1));
    world.assert_all_free();
}

#[test]
fn an_account_rests_for_one_model_alone() {
    let world = World::start(config(&[("a", 2)]).plugin(|plugin| {
        plugin["cooldown"] = json!({"scope": {"header": "x-model"}});
    }));
    let ask = |path: &str, model: &str| {
        let reply = world.client().get(path, &[("x-model", model)]);
        world.time_until_free();
        reply.status
    };
    let rests = Instant::now();
    assert_eq!(ask("/status/429?retry-after-ms=2500", "opus"), 429);
    let pattern = world.ledger.key("cooldown:*");
    eventually(SOON, || {
        !world
            .redis
            .run::<Vec<String>>("KEYS", &[&pattern])
            .is_empty()
    });
    let refused = ask("/", "opus");
    if rests.elapsed() < Duration::from_millis(2_400) {
        assert_eq!(refused, 429);
    }
    assert_eq!(ask("/", "haiku"), 200);
    assert_eq!(ask("/", ""), 200);
    // The account itself does not cool.
    let cooling = world.ledger.state().cooldown;
    assert!(
        cooling.keys().all(|who| who.starts_with("scope:")),
        "{cooling:?}"
    );
    eventually(SOON, || ask("/", "opus") == 200);
    assert!(rests.elapsed() > Duration::from_millis(2_400));
    world.assert_all_free();
}

/// The share of the requests that the account which fails at once gets, of 600, in percent. What makes it fail is a header
/// of its own.
fn share_of_the_failing(
    failing: serde_json::Value,
    (header, fails_by): (&'static str, &'static str),
) -> (u64, u64) {
    let accounts = [("a", 10), ("b", 10), ("bad", 10)];
    let world = World::start(config(&accounts).plugin(|plugin| {
        plugin["failing"] = failing.clone();
        plugin["pools"][0]["accounts"][2]["set_headers"][header] = json!(fails_by);
    }));
    let replies = world
        .client()
        .load(600, 10, |_| Request::get("/delay?ms=60"));
    let of_bad = |reply: &Reply| reply.header("x-slotgate-account") == "bad";
    let replies: Vec<Reply> = replies.into_iter().map(|r| r.expect("a reply")).collect();
    for reply in &replies {
        assert_eq!(reply.header("x-slotgate-path"), "atomic");
        assert_eq!(reply.status >= 500, of_bad(reply), "{}", reply.status);
    }
    let bad = replies.iter().filter(|reply| of_bad(reply)).count() as u64;
    world.assert_all_free();
    (bad * 100 / 600, world.counter("behind"))
}

#[test]
fn an_account_that_fails_at_once_does_not_attract_the_traffic() {
    let ways = [
        (":path", "/status/500"),
        (":path", "/reset"),
        ("x-upstream", "no_such_cluster"),
    ];
    let (before, _) = share_of_the_failing(json!({"percent": 0}), ways[0]);
    for fails_by in ways {
        let (after, behind) = share_of_the_failing(json!({}), fails_by);
        println!("{fails_by:?}: {before} % without, {after} % with; put behind {behind} times");
        assert!(before > 60, "it attracts: {before} %");
        assert!(after < 20, "put behind: {after} %");
        assert!(behind >= 1);
    }
}

/// Ten requests a second over eight workers, one after the other, for an account that is preferred and refuses every
/// connection: no worker sees twenty failures in ten seconds.
#[test]
fn at_a_slow_rate_over_many_workers_too() {
    let accounts = [("a", 10), ("b", 10), ("bad", 10)];
    let world = World::start(config(&accounts).workers(8).plugin(|plugin| {
        for (account, priority) in [(0, 2), (1, 2), (2, 1)] {
            plugin["pools"][0]["accounts"][account]["priority"] = json!(priority);
        }
        plugin["pools"][0]["accounts"][2]["set_headers"][":path"] = json!("/reset");
    }));
    let statuses: Vec<u16> = (0..80)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            world.get("/").status
        })
        .collect();
    let failed = statuses.iter().filter(|status| **status >= 500).count();
    println!(
        "{failed} of 80 failed; put behind {} times",
        world.counter("behind")
    );
    assert!((5..=4 * 8 + 1).contains(&failed), "{statuses:?}");
    assert!(statuses[40..].iter().all(|status| *status == 200));
}
