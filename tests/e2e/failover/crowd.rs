//! A thousand streams of one connection that are refused at the same time: what they are told is told at once, too.

use serde_json::json;

use super::{assert_nothing_left, in_order, watched};
use crate::world::{SOON, World, assert_sound};
use support::*;

const CROWD: usize = 1_000;

fn world(ids: &[&str]) -> World {
    allow_open_files();
    let config = in_order(ids)
        .plugin(|plugin| {
            plugin["redis"]["acquire_timeout_ms"] = json!(30_000);
            let accounts = plugin["pools"][0]["accounts"].as_array_mut();
            for account in accounts.expect("accounts") {
                account["max_concurrency"] = json!(CROWD);
            }
        })
        .edit(|document| {
            let clusters = document["static_resources"]["clusters"].as_array_mut();
            for cluster in clusters.expect("clusters") {
                let most = json!({"max_connections": 1e6, "max_pending_requests": 1e6, "max_requests": 1e6, "max_retries": 1e6});
                cluster["circuit_breakers"] = json!({"thresholds": [most]});
            }
        });
    let world = watched(config);
    world.assert_serves();
    world.upstream.take_seen();
    world
}

fn send(client: Client, path: &str) -> Vec<Result<Reply, Error>> {
    let path = path.to_owned();
    let protocol = Protocol::Http2 { streams: CROWD };
    client.burst(protocol, CROWD, move |_| Request::get(&path))
}

#[track_caller]
fn assert_all(world: &World, replies: Vec<Result<Reply, Error>>, status: u16, text: &str) {
    let counts = count_statuses(&replies);
    assert_eq!(counts.get(&status), Some(&CROWD), "{counts:?}");
    for reply in replies.into_iter().flatten() {
        assert!(reply.text().contains(text), "{}", reply.text());
    }
    assert_sound(&world.envoy);
    assert_nothing_left(world);
    for one in world.upstream.take_seen() {
        assert_eq!(one.owner.as_ref(), Some(&one.account), "{one:?}");
        assert_eq!(one.key, format!("Bearer key-of-{}", one.account), "{one:?}");
    }
}

#[test]
fn all_go_to_another_account() {
    let world = world(&["a", "b", "c"]);
    let replies = send(world.client(), "/refuse?accounts=a&delay_ms=1000");
    assert_all(&world, replies, 200, "\"account\":\"");
}

#[test]
fn none_finds_another_account() {
    let world = world(&["a", "b"]);
    let path = "/refuse?accounts=a,b&delay_ms=1000";
    let replies = send(world.client(), path);
    assert_all(&world, replies, 429, "slotgate_exhausted");
}

/// They wait for Redis, and it is gone.
#[test]
fn redis_answers_none_of_them() {
    let world = world(&["a", "b"]);
    let client = world.client();
    let path = "/refuse?accounts=a,b&delay_ms=6000";
    let replies = std::thread::spawn(move || send(client, path));
    eventually(PATIENCE, || world.upstream.seen() >= CROWD);
    world.redis.sigstop();
    eventually(PATIENCE, || world.upstream.snapshot().now == 0);
    world.redis.kill();
    let replies = replies.join().expect("no panic");
    world.redis.start_again();
    assert_all(&world, replies, 429, "slotgate_exhausted");
    eventually(SOON, || {
        world.get("/").header("x-slotgate-path") == "atomic"
    });
    assert_nothing_left(&world);
}
