//! Between two tries: what a request leaves that ends, or whose Envoy changes, after a refusal and before the next account.

use std::time::Duration;

use serde_json::json;

use super::{
    assert_nothing_left, assert_tried, in_order, rested, routes, wait_until_rested, watched,
};
use crate::trap::with_trap;
use crate::world::{SOON, World};
use support::*;

const PATH: &str = "/refuse?accounts=a&delay_ms=500";

/// Waits until account `a` has refused a request that was sent to [`PATH`], and Redis stands still: it waits for `b`.
#[track_caller]
fn between(world: &World) {
    let retries = || world.envoy.stat("cluster.acct_1.upstream_rq_retry");
    let before = retries();
    eventually(SOON, || world.upstream.seen() == 1);
    world.redis.sigstop();
    eventually(SOON, || retries() > before);
    // The retry's own pause of a millisecond.
    std::thread::sleep(Duration::from_millis(50));
}

fn active(world: &World) -> Option<u64> {
    world.envoy.stat("http.http.downstream_rq_active")
}

/// It was refused once, it never reached anyone else, and everything works.
#[track_caller]
fn assert_over(world: &World) {
    assert_nothing_left(world);
    assert_tried(world, &["a"]);
    rested(world);
    let reply = world.get("/refuse?accounts=a");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_tried(world, &["a", "b"]);
    rested(world);
}

#[track_caller]
fn assert_served(world: &World, mut client: RawConnection) {
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_tried(world, &["a", "b"]);
    drop(client);
    assert_nothing_left(world);
}

#[test]
fn the_client_leaves() {
    let world = watched(in_order(&["a", "b", "c"]));
    for leave in [drop, RawConnection::reset] {
        let client = world.client().start(PATH, &[]);
        between(&world);
        leave(client);
        eventually(SOON, || active(&world) == Some(0));
        world.redis.sigcont();
        assert_over(&world);
    }
    // In the middle of its body.
    let mut client = world.client().raw();
    client.send(b"POST /refuse?accounts=a&early=1&delay_ms=500 HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\nhello");
    between(&world);
    client.send(&[b'x'; 100_000]);
    drop(client);
    eventually(SOON, || active(&world) == Some(0));
    world.redis.sigcont();
    assert_over(&world);
}

#[test]
fn the_routes_time_is_over() {
    let world = watched(routes(in_order(&["a", "b", "c"]), |route| {
        if route["route"].is_object() {
            route["route"]["timeout"] = json!("2s");
        }
    }));
    let mut client = world.client().start(PATH, &[]);
    between(&world);
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    world.eventually_counts("failover;outcome=exhausted", 1);
    eventually(SOON, || active(&world) == Some(0));
    world.redis.sigcont();
    assert_over(&world);
}

/// The try after the one whose time was over waits for the same answer.
#[test]
fn a_trys_time_is_over() {
    let world = watched(routes(in_order(&["a", "b", "c"]), |route| {
        if route["route"].is_object() {
            let policy = &mut route["route"]["retry_policy"];
            policy["per_try_timeout"] = json!("2s");
            policy["retry_on"] = json!("retriable-headers,reset");
        }
    }));
    let retries = || world.envoy.stat("cluster.acct_1.upstream_rq_retry");
    let client = world.client().start(PATH, &[]);
    between(&world);
    let before = retries();
    eventually(SOON, || retries() > before);
    world.redis.sigcont();
    assert_served(&world, client);
    rested(&world);

    let mut client = world.client().start(PATH, &[]);
    between(&world);
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    world.redis.sigcont();
    assert_over(&world);
}

#[test]
fn redis_does_not_answer() {
    let world = watched(in_order(&["a", "b", "c"]).plugin(|plugin| {
        plugin["redis"]["acquire_timeout_ms"] = json!(1_000);
    }));
    let mut client = world.client().start(PATH, &[]);
    between(&world);
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    assert!(head.contains("retry-after: 7"), "{head}");
    world.redis.sigcont();
    drop(client);
    assert_nothing_left(&world);
    assert_tried(&world, &["a"]);

    // And when it comes back with nothing.
    rested(&world);
    let mut client = world.client().start(PATH, &[]);
    between(&world);
    world.redis.sigcont();
    world.redis.kill();
    let head = client.read_head();
    world.redis.start_again();
    // It may have been quick enough.
    assert!(
        ["HTTP/1.1 429", "HTTP/1.1 200"]
            .iter()
            .any(|line| head.starts_with(line)),
        "{head}"
    );
    drop(client);
    rested(&world);
}

#[test]
fn envoy_is_drained() {
    let world = watched(in_order(&["a", "b", "c"]));
    let client = world.client().start(PATH, &[]);
    between(&world);
    world.envoy.admin_post("/drain_listeners?graceful");
    std::thread::sleep(Duration::from_millis(200));
    world.redis.sigcont();
    assert_served(&world, client);
}

#[test]
fn envoy_is_killed() {
    let world = watched(in_order(&["a", "b", "c"]).plugin(|plugin| {
        plugin["lease"] = json!({"ttl_ms": 2_000, "renew_interval_ms": 500});
    }));
    let client = world.client().start(PATH, &[]);
    between(&world);
    world.envoy.kill();
    world.redis.sigcont();
    drop(client);
    eventually(SOON, || world.ledger.live() == 0);
    let another = world.another(in_order(&["a", "b", "c"]));
    eventually(SOON, || {
        let reply = another.client().get("/refuse?accounts=a", &[]);
        reply.status == 200 && world.ledger.is_empty()
    });
    world.ledger.assert_consistent();
}

/// The old configuration's second try goes on with it, by LDS and by ECDS.
#[test]
fn a_configuration_is_pushed() {
    type Change = fn(EnvoyConfig) -> EnvoyConfig;
    for (name, from_file) in [
        ("listeners", EnvoyConfig::listeners_from_file as Change),
        ("filter", EnvoyConfig::filter_from_file),
    ] {
        let revision = |number: u32, ids: &[&str]| {
            from_file(
                in_order(ids)
                    .plugin(|plugin| plugin["pools"][0]["revision"] = json!(number))
                    .args(&["--drain-time-s", "5"]),
            )
        };
        let world = watched(revision(1, &["a", "b", "c"]));
        let placed = |config: EnvoyConfig| {
            config
                .redis(world.redis.addr())
                .upstream(world.upstream.addr())
        };
        let client = world.client().start(PATH, &[]);
        between(&world);
        let pushed = world
            .envoy
            .reconfigure(placed(revision(2, &["a", "b", "c"])));
        pushed.unwrap_or_else(|log| panic!("{name}: {log}"));
        world.redis.sigcont();
        assert_served(&world, client);
        rested(&world);
        // The new configuration does it as well.
        assert_eq!(world.get("/refuse?accounts=a").status, 200);
        assert_tried(&world, &["a", "b"]);
        rested(&world);

        // A client that leaves after the push.
        let client = world.client().start(PATH, &[]);
        between(&world);
        let pushed = world
            .envoy
            .reconfigure(placed(revision(3, &["a", "b", "c"])));
        pushed.unwrap_or_else(|log| panic!("{name}: {log}"));
        drop(client);
        eventually(SOON, || active(&world) == Some(0));
        world.redis.sigcont();
        assert_over(&world);

        // The account that it would get is no more.
        let mut client = world.client().start(PATH, &[]);
        between(&world);
        let pushed = world.envoy.reconfigure(placed(revision(4, &["a", "d"])));
        pushed.unwrap_or_else(|log| panic!("{name}: {log}"));
        world.redis.sigcont();
        let head = client.read_head();
        println!("{name}: {head}");
        assert!(
            ["HTTP/1.1 429", "HTTP/1.1 200"]
                .iter()
                .any(|line| head.starts_with(line)),
            "{name}: {head}"
        );
        let seen = world.upstream.take_seen();
        for one in &seen {
            assert_eq!(one.owner.as_ref(), Some(&one.account), "{seen:?}");
            assert_eq!(one.key, format!("Bearer key-of-{}", one.account));
        }
        drop(client);
        assert_nothing_left(&world);
        wait_until_rested(&world);
        eventually(SOON, || {
            let reply = world.get("/refuse?accounts=a");
            wait_until_rested(&world);
            reply.status == 200 && reply.header("x-slotgate-account") == "d"
        });
        assert_nothing_left(&world);
    }
}

/// Another request's fault takes the VM along. What waits in it hangs until Envoy's own time-out; its lease expires.
#[test]
fn the_vm_is_lost_and_made_anew() {
    let dir = Dir::temporary();
    let wasm = dir.join("trap.wasm");
    std::fs::write(&wasm, with_trap("proxy_on_request_body")).expect("a file");
    let config = routes(in_order(&["a", "b", "c"]), |route| {
        if route["route"].is_object() {
            route["route"]["timeout"] = json!("3s");
        }
    });
    let config = config
        .plugin(|plugin| plugin["lease"] = json!({"ttl_ms": 2_000, "renew_interval_ms": 500}))
        .wasm(&wasm);
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let envoy = Envoy::start(config.redis(redis.addr()).upstream(upstream.addr()));
    let ledger = Ledger::new(&redis, "slotgate", "demo");
    upstream.watch(&ledger);
    let mut client = envoy.client().start(PATH, &[]);
    eventually(SOON, || upstream.seen() == 1);
    redis.sigstop();
    let retries = || envoy.stat("cluster.acct_1.upstream_rq_retry");
    eventually(SOON, || retries() == Some(1));
    let trapped = envoy.client().send(Request::post("/", "a body"));
    println!("{trapped:?}");
    redis.sigcont();
    let head = client.read_head();
    println!("{head}");
    assert!(head.starts_with("HTTP/1.1 50"), "{head}");
    drop(client);
    let active = || envoy.stat("http.http.downstream_rq_active");
    eventually(SOON, || active() == Some(0));
    // The next request after a moment gets a new VM, and in it both halves find one another again.
    eventually(SOON, || {
        upstream.take_seen();
        let reply = envoy.client().get("/refuse?accounts=a", &[]);
        reply.status == 200 && reply.header("x-slotgate-account") == "b"
    });
    let seen = upstream.take_seen();
    for one in &seen {
        assert_eq!(one.owner.as_ref(), Some(&one.account), "{seen:?}");
    }
    eventually(SOON, || ledger.live() == 0);
    eventually(SOON, || {
        envoy.client().get("/refuse?accounts=", &[]);
        ledger.is_empty()
    });
    ledger.assert_consistent();
    assert!(envoy.is_running());
}
