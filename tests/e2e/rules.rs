//! Answers that mean something else: a revoked key, and what `upstream.rules` say.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{World, config};
use support::*;

/// How long an account is out of use here.
const FOR_MS: u64 = 3_000;

/// One answer, as its client saw it.
struct Seen {
    at: Duration,
    status: u16,
    account: String,
}

/// Three accounts at 50 requests a second over two Envoys of two workers each, and one key is revoked: how many requests that
/// costs, how many its probe, and that the account is back when the key works again.
#[test]
fn a_revoked_key_costs_a_few_requests() {
    let config = || {
        config(&[("a", 50), ("b", 50), ("c", 50)])
            .workers(2)
            .plugin(|plugin| {
                plugin["upstream"] = json!({"rules": [
                    {"status": [401], "action": "disable", "for_ms": FOR_MS}]});
            })
    };
    let world = World::start(config());
    let other = world.another(config());
    const WELL: &str = "/refuse?accounts=&delay_ms=60";
    const REVOKED: &str = "/refuse?accounts=b&status=401&delay_ms=60";
    let (phase, stop) = (AtomicU8::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let seen: Mutex<Vec<Seen>> = Mutex::default();
    let count = |status: u16, account: &str, from: Duration| {
        let seen = seen.lock().unwrap();
        let those = seen.iter().filter(|one| {
            one.at >= from && one.status == status && (account.is_empty() || one.account == account)
        });
        those.count()
    };
    std::thread::scope(|scope| {
        for n in 0..10_u64 {
            let client = if n % 2 == 0 {
                world.client()
            } else {
                other.client()
            };
            let (phase, stop, seen) = (&phase, &stop, &seen);
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(20 * n));
                while !stop.load(Ordering::Relaxed) {
                    let next = Instant::now() + Duration::from_millis(200);
                    let path = match phase.load(Ordering::Relaxed) {
                        1 => REVOKED,
                        _ => WELL,
                    };
                    let reply = client.get(path, &[]);
                    seen.lock().unwrap().push(Seen {
                        at: began.elapsed(),
                        status: reply.status,
                        account: reply.header("x-slotgate-account").to_owned(),
                    });
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(PATIENCE, || count(200, "b", Duration::ZERO) >= 10);
            phase.store(1, Ordering::Relaxed);
            eventually(PATIENCE, || count(401, "b", Duration::ZERO) > 0);
            let first = began.elapsed();
            // Those that were under way come back.
            std::thread::sleep(Duration::from_millis(700));
            let cost = count(401, "b", Duration::ZERO);
            let until = first + Duration::from_millis(FOR_MS - 200);
            std::thread::sleep(until.saturating_sub(began.elapsed()));
            let late = count(401, "b", Duration::ZERO) - cost;
            let rate = count(200, "", first) as f64 / (began.elapsed() - first).as_secs_f64();
            println!(
                "a revoked key costs {cost} requests from its first 401 on, and {late} until its probe; {rate:.0} requests/s on the others"
            );
            assert!((1..=12).contains(&cost), "{cost}");
            assert_eq!(late, 0, "no more go there");
            // Its probe, and none beside it.
            eventually(PATIENCE, || count(401, "b", until) > 0);
            std::thread::sleep(Duration::from_millis(1_500));
            let probes = count(401, "b", until);
            println!("its probe costs {probes}");
            assert_eq!(probes, 1);
            phase.store(2, Ordering::Relaxed);
            let repaired = began.elapsed();
            eventually(PATIENCE, || count(200, "b", repaired) > 20);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    let seen = seen.into_inner().unwrap();
    let odd = seen.iter().filter(|one| !matches!(one.status, 200 | 401));
    assert_eq!(odd.count(), 0);
    assert!(
        seen.iter()
            .all(|one| one.status == 200 || one.account == "b")
    );
    // Once for each time that it was taken out of use, over both Envoys.
    let disabled = |envoy: &Envoy| envoy.filter_stat("disabled").unwrap_or(0);
    eventually(PATIENCE, || disabled(&world.envoy) + disabled(&other) == 2);
    let logs = [world.envoy.log(), other.log()].concat();
    assert_eq!(logs.matches("account b answered 401").count(), 1, "{logs}");
    let meta = world.ledger.state().meta;
    assert!(!meta.contains_key("#off:b"), "{meta:?}");
}

/// Until an operator says so, by the header that tells it from a request's own fault.
#[test]
fn a_rule_by_a_header_until_an_operator_lets_it_go() {
    let world = World::start(config(&[("a", 5)]).plugin(|plugin| {
        plugin["upstream"] = json!({"rules": [
            {"status": [403], "header": {"x-why": {"prefix": "content"}}, "action": "ignore"},
            {"status": [403], "action": "disable", "for_ms": 0}]});
    }));
    for _ in 0..3 {
        assert_eq!(world.get("/status/403?x-why=content-policy").status, 403);
    }
    assert_eq!(world.get("/").status, 200);
    assert_eq!(world.get("/status/403?x-why=key").status, 403);
    eventually(PATIENCE, || world.get("/").status == 429);
    let off = world.ledger.state().meta["#off:a"].clone();
    assert!(off.starts_with("403 ") && off.ends_with(" 0"), "{off}");
    assert_eq!(world.counter("cooldown"), 0);
    let state = world.ledger.state();
    assert!(
        state.free.is_empty() && state.accounts["a"].ends_with(" 1"),
        "{state:#?}"
    );
}

/// What a good answer says of the rate limit holds all Envoy's workers back until then, without a refusal.
#[test]
fn an_account_out_of_pace_waits_for_its_next_turn() {
    let world = World::start(config(&[("a", 5)]).plugin(|plugin| {
        plugin["cooldown"] = json!({"headers": [
            {"name": "x-reset", "form": "duration", "always": true, "when": {"header": "x-left", "exact": "0"}}]});
    }));
    assert_eq!(world.get("/status/200?x-left=1&x-reset=60s").status, 200);
    assert_eq!(world.get("/").status, 200);
    assert_eq!(world.get("/status/200?x-left=0&x-reset=2s").status, 200);
    let told = Instant::now();
    eventually(PATIENCE, || world.get("/").status == 429);
    eventually(PATIENCE, || world.get("/").status == 200);
    assert!(
        told.elapsed() > Duration::from_millis(1_900),
        "{:?}",
        told.elapsed()
    );
    let meta = world.ledger.state().meta;
    assert!(!meta.contains_key("#probe:a"), "{meta:?}");
    world.eventually_counts("out_of_pace", 1);
    assert_eq!(
        (world.counter("cooldown"), world.counter("probe.sent")),
        (0, 0)
    );
}

/// A 200 whose first event is an error counts, and goes to the client as it is.
#[test]
fn a_stream_that_begins_with_an_error() {
    let with = |sse_errors: bool| {
        World::start(config(&[("a", 5)]).plugin(|plugin| {
            plugin["cooldown"] = json!({"default_ms": 60_000});
            plugin["failing"] = json!({"consecutive": 3});
            plugin["upstream"] = json!({"sse_errors": sse_errors});
        }))
    };
    let off = with(false);
    let world = with(true);
    for world in [&off, &world] {
        let mut stream = world.client().open("/sse?events=3&interval_ms=5", &[]);
        assert_eq!(stream.events(3).len(), 3);
        for _ in 0..3 {
            let reply = world.get("/sse-error?type=api_error");
            assert_eq!(reply.status, 200);
            assert!(
                reply.text().ends_with(
                    "\"message\":\"no\",\"type\":\"api_error\"},\"type\":\"error\"}\n\n"
                ),
                "{}",
                reply.text()
            );
        }
        let reply = world.get("/sse-error?type=overloaded_error");
        assert_eq!(reply.status, 200);
    }
    world.eventually_counts("behind", 1);
    world.eventually_counts("cooldown", 1);
    eventually(PATIENCE, || world.get("/").status == 429);
    assert_eq!((off.counter("behind"), off.counter("cooldown")), (0, 0));
    assert_eq!(off.get("/").status, 200);
    for world in [&off, &world] {
        world.time_until_free();
    }
}

/// What it costs that Envoy calls the filter for each part of a body, read or not: `SSE=off` or `SSE=on`, and `SLOTGATE_WASM` for
/// another module.
#[test]
#[ignore = "a measurement"]
fn what_a_part_of_a_body_costs() {
    const STREAMS: usize = 40;
    const EVENTS: u64 = 2_000;
    let reads = std::env::var("SSE").is_ok_and(|text| text == "on");
    let world = World::start(config(&[("a", 50)]).plugin(|plugin| {
        if reads {
            plugin["upstream"] = json!({"sse_errors": true});
        }
    }));
    assert_eq!(world.get("/").status, 200);
    let path = format!("/sse?events={EVENTS}&interval_ms=1");
    for _ in 0..3 {
        let before = Usage::of(world.envoy.pid()).cpu_s;
        std::thread::scope(|scope| {
            for _ in 0..STREAMS {
                scope.spawn(|| world.get(&path));
            }
        });
        let used = Usage::of(world.envoy.pid()).cpu_s - before;
        let each = used * 1e6 / (STREAMS as f64 * EVENTS as f64);
        println!("{each:.2} us of Envoy's CPU for each event");
    }
}
