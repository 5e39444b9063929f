//! Accounts that give no answer: by a connection refused, a reset, or silence.

use serde_json::json;

use super::{account, assert_nothing_left, assert_tried, in_order, rested, routes, watched};
use crate::world::SOON;
use support::*;

fn policy(config: EnvoyConfig, name: &'static str, value: &'static str) -> EnvoyConfig {
    routes(config, |route| {
        if route["route"].is_object() {
            route["route"]["retry_policy"][name] = json!(value);
        }
    })
}

#[test]
fn nobody_listens() {
    let world = watched(in_order(&["a", "b", "c"]));
    assert_eq!(account(&world.get("/refuse?accounts=")), "a");
    assert_tried(&world, &["a"]);
    assert_nothing_left(&world);
    world.upstream.refuse();
    // Nobody answers whichever account it has. Envoy connects for a later try while that waits for its slot.
    let reply = world.get("/refuse?accounts=");
    assert_eq!(reply.status, 503);
    assert_nothing_left(&world);
    world.eventually_counts("failover;outcome=exhausted", 1);
    assert_eq!(world.counter("cooldown"), 0);
    assert_tried(&world, &[]);
    world.upstream.accept_again();
    eventually(SOON, || world.get("/refuse?accounts=").status == 200);
    assert_nothing_left(&world);
}

#[test]
fn a_reset_is_tried_again_where_the_route_says_so() {
    let retry_on = "retriable-headers,connect-failure,refused-stream,reset";
    let world = watched(policy(in_order(&["a", "b", "c"]), "retry_on", retry_on));
    for (refuse, tried) in [("a", &["a", "b"][..]), ("a,b", &["a", "b", "c"])] {
        for length in [0, 300_000] {
            let path = format!("/refuse?accounts={refuse}&how=reset");
            let reply = world.client().post(&path, &[], vec![b'x'; length]);
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(reply.json()["body_length"], length);
            assert_tried(&world, tried);
            assert_nothing_left(&world);
        }
    }
    let reply = world.get("/refuse?accounts=a,b,c&how=reset");
    assert_eq!(reply.status, 503);
    assert_tried(&world, &["a", "b", "c"]);
    assert_nothing_left(&world);
    assert_eq!(world.counter("cooldown"), 0);
}

#[test]
fn a_slow_account_is_left_when_its_time_is_over() {
    let retry_on = "retriable-headers,connect-failure,refused-stream,reset";
    let config = policy(in_order(&["a", "b", "c"]), "retry_on", retry_on);
    let world = watched(policy(config, "per_try_timeout", "0.5s"));
    for (refuse, tried) in [("a", &["a", "b"][..]), ("a,b", &["a", "b", "c"])] {
        let reply = world.get(&format!("/refuse?accounts={refuse}&how=hang"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_tried(&world, tried);
        rested(&world);
    }
    let reply = world.get("/refuse?accounts=a,b,c&how=hang");
    assert_eq!(reply.status, 504);
    assert_tried(&world, &["a", "b", "c"]);
    assert_nothing_left(&world);
}

/// An answer that is late is still an answer.
#[test]
fn slow_refusals_are_refusals() {
    let world = watched(in_order(&["a", "b", "c"]));
    let reply = world.get("/refuse?accounts=a,b&delay_ms=300");
    assert_eq!((reply.status, account(&reply)), (200, "c".into()));
    assert_tried(&world, &["a", "b", "c"]);
    assert_nothing_left(&world);
}

/// The upstream's own word, whoever passes it on.
#[test]
fn where_all_refuse_what_the_upstream_said_arrives() {
    for status in [429, 503, 529] {
        for ids in [&["a", "b", "c"][..], &["a", "b"], &["a"]] {
            let world = watched(in_order(ids));
            let path = format!("/refuse?accounts=a,b,c&status={status}");
            let reply = world.client().post(&path, &[], "hello");
            assert_eq!(reply.status, status, "{ids:?}");
            assert_eq!(reply.header("retry-after"), "7");
            assert_eq!(reply.header("x-ratelimit-limit"), "10");
            assert_eq!(reply.header("x-slotgate-retry"), "");
            let is_last = ids.len() == 3;
            let said = reply.text();
            assert_eq!(said == "{\"error\": \"busy\"}", is_last, "{said}");
            assert_eq!(said.contains("slotgate_exhausted"), !is_last, "{said}");
            assert_tried(&world, ids);
            assert_nothing_left(&world);
            let outcome = if is_last { "exhausted" } else { "no_other" };
            world.eventually_counts(&format!("failover;outcome={outcome}"), 1);
        }
    }
}
