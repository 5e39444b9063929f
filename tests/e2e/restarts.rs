//! Redis that loses its data, its scripts or its connections under load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::Load;
use crate::world::{SOON, World, best_within, config, way};
use support::*;

/// Renewed often, so that leases are soon taken up again.
fn renewing(accounts: &[(&str, u32)]) -> EnvoyConfig {
    config(accounts).plugin(|plugin| plugin["lease"]["renew_interval_ms"] = json!(500))
}

fn steady(world: &World) -> Load {
    Load::start(world.client(), 8, || Request::get("/delay?ms=3"))
}

/// No request failed. Answers how many went each way.
#[track_caller]
fn assert_none_failed(load: Load) -> BTreeMap<String, usize> {
    let mut ways = BTreeMap::new();
    for reply in load.stop() {
        let reply = reply.expect("a response");
        let (status, way) = way(&reply);
        assert_eq!(status, 200, "{}", reply.text());
        *ways.entry(way.to_owned()).or_default() += 1;
    }
    ways
}

fn open(world: &World, count: usize) -> Vec<EventStream> {
    (0..count)
        .map(|_| {
            let stream = world
                .client()
                .open("/sse?events=1000000&interval_ms=20", &[]);
            assert_eq!(stream.header("x-slotgate-path"), "atomic");
            stream
        })
        .collect()
}

fn leases(world: &World) -> BTreeSet<String> {
    world.ledger.owner().into_keys().collect()
}

#[test]
fn redis_killed_and_started_again_empty_under_load() {
    let world = World::start(renewing(&[("a", 50), ("b", 50)]).workers(2));
    let mut streams = open(&world, 6);
    let held = leases(&world);
    assert_eq!(held.len(), 6);
    let load = steady(&world);
    best_within(Duration::from_secs(2), || {
        world.redis.kill();
        for _ in 0..20 {
            assert_eq!(world.get("/").status, 200);
        }
        world.redis.start_again();
        let back = Instant::now();
        while world.get("/").header("x-slotgate-path") != "atomic" {
            assert!(back.elapsed() < PATIENCE, "it never recovers");
        }
        back.elapsed()
    });
    // Accounts are in force again, and so are the leases of the streams, each by its own id.
    eventually(SOON, || held.is_subset(&leases(&world)));
    assert_eq!(world.ledger.state().accounts.len(), 2);
    world.eventually_counts("lease.readopted", 6);
    for stream in &mut streams {
        stream.events(3);
    }
    let ways = assert_none_failed(load);
    assert!(ways["atomic"] > 10, "{ways:?}");
    eventually(SOON, || leases(&world) == held);
    world.ledger.assert_consistent();
    drop(streams);
    world.assert_all_free();
    assert_eq!(world.counter("lease.release_dropped"), 0);
}

/// What Redis loses while it runs is put back without a request noticing: not even by going another way.
#[test]
fn redis_forgets_under_load() {
    for (command, argument) in [("SCRIPT", &["FLUSH"][..]), ("FLUSHALL", &[])] {
        let world = World::start(renewing(&[("a", 50), ("b", 50)]).workers(2));
        let mut streams = open(&world, 4);
        let held = leases(&world);
        let load = steady(&world);
        for _ in 0..20 {
            world.redis.run::<()>(command, argument);
            std::thread::sleep(Duration::from_millis(50));
        }
        let ways = assert_none_failed(load);
        assert_eq!(
            ways.keys().collect::<Vec<_>>(),
            ["atomic"],
            "{command}: {ways:?}"
        );
        eventually(SOON, || leases(&world) == held);
        world.ledger.assert_consistent();
        for stream in &mut streams {
            stream.events(3);
        }
        drop(streams);
        world.assert_all_free();
        assert_eq!(world.counters("pipe.lost"), 0, "{command}");
    }
}

#[test]
fn every_connection_killed_again_and_again_under_load() {
    let world = World::start(renewing(&[("a", 50), ("b", 50)]).workers(2));
    let mut streams = open(&world, 4);
    let held = leases(&world);
    let load = steady(&world);
    for _ in 0..20 {
        world
            .redis
            .run::<u64>("CLIENT", &["KILL", "TYPE", "normal"]);
        std::thread::sleep(Duration::from_millis(75));
    }
    let ways = assert_none_failed(load);
    assert!(ways["atomic"] > 10, "{ways:?}");
    eventually(SOON, || leases(&world) == held);
    for stream in &mut streams {
        stream.events(3);
    }
    // Not each time: after a few in a row the pipe is opened again less eagerly.
    assert!(world.counters("pipe.lost") >= 10);
    assert_eq!(world.counter("lease.lost"), 0);
    drop(streams);
    world.assert_all_free();
}

/// Releases wait for Redis: its data is still there when it is back, and with it leases whose streams have ended.
#[test]
fn streams_that_end_while_redis_is_gone() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let world = World::with_redis(redis, config(&[("a", 5)]));
    let streams = open(&world, 5);
    world.redis.kill();
    drop(streams);
    eventually(SOON, || world.upstream.snapshot().now == 0);
    world.redis.start_again();
    world.assert_all_free();
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    world.assert_all_free();
}

/// Acquires that nobody waits for any more, on connections that are gone, in a Redis that runs them nevertheless.
#[test]
fn redis_stands_still_while_clients_come_and_go() {
    // The pipe is given up in the same moment as the acquires on it.
    let world = World::start(config(&[("a", 50)]).workers(2).plugin(|plugin| {
        plugin["redis"] = json!({"acquire_timeout_ms": 300, "command_timeout_ms": 300});
    }));
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    for round in 0..3 {
        world.redis.sigstop();
        let client = world.client();
        let staying: Vec<_> = (0..10)
            .map(|_| spawn(client.sending(Request::get("/"))))
            .collect();
        let leaving: Vec<_> = (0..10).map(|_| client.start("/hang", &[])).collect();
        eventually(SOON, || {
            world.envoy.stat("http.http.downstream_rq_total") >= Some(20 * (round + 1))
        });
        drop(leaving);
        for reply in staying {
            let reply = wait(reply).expect("a task").expect("a response");
            assert_eq!(way(&reply), (200, "traditional"));
        }
        world.redis.sigcont();
        eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
        world.assert_all_free();
    }
}

/// Everything at once: clients that leave, connections that break, and a Redis that is killed but keeps its data.
#[test]
fn clients_that_leave_while_redis_comes_and_goes() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let world = World::with_redis(redis, renewing(&[("a", 50), ("b", 50)]).workers(2));
    let client = world.client();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let lanes: Vec<_> = (0..10_u64)
        .map(|lane| {
            let stopped = stopped.clone();
            spawn(async move {
                let mut round = lane;
                while !*stopped.borrow() {
                    round += 1;
                    let path = ["/delay?ms=3", "/sse?events=3&interval_ms=1", "/hang"];
                    let request = client.sending(Request::get(path[round as usize % 3]));
                    let patience = Duration::from_micros((lane * 977 + round * 1_511) % 20_000);
                    let _ = tokio::time::timeout(patience, request).await;
                }
            })
        })
        .collect();
    for _ in 0..3 {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(50));
            world
                .redis
                .run::<u64>("CLIENT", &["KILL", "TYPE", "normal"]);
        }
        world.redis.kill();
        std::thread::sleep(Duration::from_millis(100));
        world.redis.start_again();
    }
    stop.send(true).expect("the lanes run");
    wait(async move {
        for lane in lanes {
            lane.await.expect("a lane panicked");
        }
    });
    world.assert_all_free();
    assert_eq!(world.counter("lease.release_dropped"), 0);
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    world.assert_all_free();
}
