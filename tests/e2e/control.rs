//! What an operator sets in Redis reaches every worker of every Envoy, under load, and survives their restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::Commands;
use serde_json::json;
use slotgate::ledger::keys::COMMON;
use slotgate::ledger::source::Script;
use slotgate::request::gray::Bucketer;
use tokio::task::JoinHandle;

use crate::world::{SOON, World, config, way};
use support::*;

/// By when every worker must follow.
const FOLLOW: Duration = Duration::from_secs(2);
/// Between two changes; no multiple of the time between two looks, so that each change falls elsewhere between them.
const STEP: Duration = Duration::from_millis(2_370);
const SESSION: &str = "x-session-id";

/// One of control.lua's verbs. Answers when Redis had done it.
#[track_caller]
fn control(world: &World, verb: &str, subject: &str) -> Instant {
    let mut redis = world.redis.client().get_connection().expect("a connection");
    let names = COMMON.iter().chain(&["control"]);
    let keys: Vec<_> = names.map(|name| world.ledger.key(name)).collect();
    let mut call = redis::cmd("EVAL");
    call.arg(Script::Control.source()).arg(keys.len()).arg(keys);
    let _: Vec<String> = call
        .arg(verb)
        .arg(subject)
        .query(&mut redis)
        .expect("it is carried out");
    Instant::now()
}

/// One answer: when its request was sent, its session's bucket, the way it went and the account it got.
struct Seen {
    start: Instant,
    bucket: u16,
    path: String,
    account: String,
}

/// Requests of many sessions to several Envoys, each on a connection of its own, so that all workers have some.
struct Load {
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<Vec<Seen>>>,
}

impl Load {
    fn start(envoys: &[&Envoy]) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let lanes = envoys
            .iter()
            .flat_map(|envoy| (0..4).map(|lane| (envoy.client(), lane)))
            .map(|(client, lane)| {
                let stop = Arc::clone(&stop);
                spawn(async move {
                    let (gate, mut all, mut number) =
                        (Bucketer::new(""), Vec::new(), lane * 1_000_000);
                    while !stop.load(Ordering::Relaxed) {
                        number += 1;
                        let session = format!("session-{number}");
                        let bucket = gate.bucket(session.as_bytes());
                        let start = Instant::now();
                        let request = Request::get("/delay?ms=5").header(SESSION, session);
                        let reply = client.sending(request).await.expect("a response");
                        assert_eq!(reply.status, 200, "{}", reply.text());
                        all.push(Seen {
                            start,
                            bucket,
                            path: reply.header("x-slotgate-path").into(),
                            account: reply.header("x-slotgate-account").into(),
                        });
                    }
                    all
                })
            })
            .collect();
        Load { stop, lanes }
    }

    fn stop(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        wait(async {
            let mut all = Vec::new();
            for lane in self.lanes {
                all.extend(lane.await.expect("no lane panics"));
            }
            all
        })
    }
}

/// How long after `set` the last request was sent that was not decided by what was set, of those before `until`.
fn slowest(seen: &[Seen], set: Instant, until: Instant, right: impl Fn(&Seen) -> bool) -> Duration {
    let after = || seen.iter().filter(|one| (set..until).contains(&one.start));
    assert!(after().count() > 100, "no load: {}", after().count());
    let wrong = after().filter(|one| !right(one)).map(|one| one.start - set);
    wrong.max().unwrap_or_default()
}

/// So many workers have said it, each once.
#[track_caller]
fn said_by_each_worker(envoy: &Envoy, text: &str) {
    let count = || {
        envoy
            .log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    };
    eventually(SOON, || count() >= 2);
    assert_eq!(count(), 2, "{text}: once for each worker");
}

#[test]
fn every_worker_follows_the_percentage_under_load_and_it_survives_a_restart() {
    let settings = || {
        config(&[("a", 500), ("b", 500)])
            .workers(2)
            .plugin(|plugin| plugin["gray"]["percent"] = json!(10))
    };
    let world = World::start(settings());
    let other = world.another(settings());
    let load = Load::start(&[&world.envoy, &other]);
    std::thread::sleep(STEP);
    let mut changes = Vec::new();
    for (subject, points) in [("10000", 10_000), ("0", 0), ("", 1_000)] {
        changes.push((control(&world, "percent", subject), points));
        std::thread::sleep(STEP);
    }
    let end = Instant::now();
    let seen = load.stop();
    let ends = changes.iter().skip(1).map(|(set, _)| *set).chain([end]);
    for ((set, points), until) in changes.iter().zip(ends) {
        let took = slowest(&seen, *set, until, |one| {
            (one.path == "atomic") == (one.bucket < *points)
        });
        println!(
            "{} %: the slowest of 4 workers followed after {took:?}, {} requests in all",
            points / 100,
            seen.len()
        );
        assert!(took < FOLLOW, "{points}: {took:?}");
    }
    for text in [
        "gray percentage 10.00 % (configured) => 100.00 % (override)",
        "gray percentage 100.00 % (override) => 0.00 % (override)",
        "gray percentage 0.00 % (override) => 10.00 % (configured)",
    ] {
        let line = format!("pool demo: {text}");
        said_by_each_worker(&world.envoy, &line);
        said_by_each_worker(&other, &line);
    }

    // Redis keeps it for an Envoy that was not there.
    control(&world, "percent", "10000");
    other.kill();
    let again = world.another(settings());
    let start = Instant::now();
    let session = (0..)
        .map(|number| format!("s{number}"))
        .find(|session| Bucketer::new("").bucket(session.as_bytes()) >= 1_000)
        .expect("one that is out at 10 %");
    eventually(FOLLOW, || {
        way(&again.client().get("/", &[(SESSION, &session)])) == (200, "atomic")
    });
    println!("after a restart: in force after {:?}", start.elapsed());
    assert!(again.log_contains("gray percentage 10.00 % (configured) => 100.00 % (override)"));
    world.assert_all_free();
}

/// The percentage can be raised from nothing, and while Redis is away the last one holds.
#[test]
fn from_0_percent_and_through_an_outage() {
    let world =
        World::start(config(&[("a", 5)]).plugin(|plugin| plugin["gray"]["percent"] = json!(0)));
    assert_eq!(way(&world.get("/")), (200, "traditional"));
    world.eventually_counts("pipe.ready", 1);
    control(&world, "percent", "10000");
    eventually(FOLLOW, || way(&world.get("/")) == (200, "atomic"));
    world.redis.kill();
    let failed = world.counters("requests;outcome=traditional");
    let before = world.counter("requests;outcome=traditional;reason=out_of_percentage");
    for _ in 0..20 {
        assert_eq!(way(&world.get("/")), (200, "traditional"));
    }
    eventually(SOON, || {
        world.counters("requests;outcome=traditional") >= failed + 20
    });
    assert_eq!(
        world.counter("requests;outcome=traditional;reason=out_of_percentage"),
        before,
        "all 20 were in, and fell back"
    );
}

#[test]
fn what_is_malformed_in_redis_changes_nothing() {
    let world = World::start(config(&[("a", 5)]));
    world.assert_serves();
    let key = world.ledger.key("control");
    let mut redis = world.redis.client().get_connection().expect("a connection");
    let _: () = redis.hset(&key, "percent", "12.5").expect("set");
    world.eventually_counts("control.ignored", 2);
    world.assert_serves();
    let _: () = redis.hset(&key, "percent", "0").expect("set");
    eventually(FOLLOW, || way(&world.get("/")).1 == "traditional");
    let _: () = redis.del(&key).expect("deleted");
    let _: () = redis.set(&key, "10000").expect("set");
    world.eventually_counts("control.ignored", 4);
    assert_eq!(way(&world.get("/")).1, "traditional", "0 % still");
    let _: () = redis.del(&key).expect("deleted");
    eventually(FOLLOW, || way(&world.get("/")).1 == "atomic");
    let log = world.envoy.log();
    for (text, times) in [
        ("ignored in the key control: percent, not a whole number", 1),
        ("ignored in the key control: everything", 1),
        ("gray percentage", 2),
    ] {
        let lines = log.lines().filter(|line| line.contains(text));
        assert_eq!(lines.count(), times, "{text}");
    }
}

#[test]
fn every_worker_follows_a_drain_where_it_chooses_by_itself() {
    let settings = || {
        config(&[("a", 500), ("b", 500)])
            .workers(2)
            .plugin(|plugin| {
                plugin["gray"]["percent"] = json!(0);
                plugin["traditional"] = json!({"mode": "local"});
            })
    };
    let world = World::start(settings());
    let other = world.another(settings());
    let load = Load::start(&[&world.envoy, &other]);
    std::thread::sleep(STEP);
    let drained = control(&world, "drain", "a");
    std::thread::sleep(STEP);
    let undrained = control(&world, "undrain", "a");
    std::thread::sleep(STEP);
    let seen = load.stop();
    assert!(seen.iter().all(|one| one.path == "local"));
    let of_a = |from: Instant, until: Option<Instant>| {
        let during = seen
            .iter()
            .filter(|one| one.start >= from && until.is_none_or(|until| one.start < until));
        let (a, all) = during.fold((0, 0), |(a, all), one| {
            (a + usize::from(one.account == "a"), all + 1)
        });
        a as f64 / f64::from(all)
    };
    let took = slowest(&seen, drained, undrained, |one| one.account == "b");
    println!("drained: the slowest of 4 workers followed after {took:?}");
    assert!(took < FOLLOW, "{took:?}");
    assert_eq!(of_a(drained + FOLLOW, Some(undrained)), 0.0);
    let share = of_a(undrained + FOLLOW, None);
    println!(
        "undrained: {:.0} % of the requests use it again",
        share * 100.0
    );
    assert!((0.25..0.75).contains(&share), "{share}");
    for text in [
        "pool demo: drained accounts none => a",
        "pool demo: drained accounts a => none",
    ] {
        said_by_each_worker(&world.envoy, text);
        said_by_each_worker(&other, text);
    }
    world.assert_all_free();
}
