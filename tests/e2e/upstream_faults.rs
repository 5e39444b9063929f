//! Upstreams that fail, filters that answer in their place, and accounts that rest after pushback.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;
use crate::world::{World, best_within, config, way};

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
    let first = world.get("/status/429?retry-after=2");
    let asked = Instant::now();
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
