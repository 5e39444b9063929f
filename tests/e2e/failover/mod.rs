//! A request that an account refuses takes another account's slot and goes out again.

mod between;
mod bodies;
mod crowd;
mod protocols;
mod share;
mod unreachable;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{SOON, World, assert_sound, config, way};
use support::*;

/// Accounts with a key each, and so many tries.
fn tries(accounts: &[(&str, u32)], attempts: u32) -> EnvoyConfig {
    config(accounts)
        .plugin(|plugin| {
            for account in plugin["pools"][0]["accounts"]
                .as_array_mut()
                .expect("accounts")
            {
                let id = account["id"].as_str().expect("an id").to_owned();
                account["set_headers"]["authorization"] = json!(format!("Bearer key-of-{id}"));
                account["set_headers"][format!("x-only-{id}")] = json!("1");
            }
            plugin["response_headers"] = json!(true);
        })
        .failover(attempts)
}

fn account(reply: &Reply) -> String {
    reply.header("x-slotgate-account").to_owned()
}

/// What an account that served saw: its own key and no other's.
fn assert_own_headers(seen: &Value) {
    let (account, headers) = (&seen["account"], &seen["headers"]);
    let account = account.as_str().expect("an account");
    assert_eq!(headers["authorization"], format!("Bearer key-of-{account}"));
    for id in ["a", "b", "c"] {
        assert_eq!(
            headers[format!("x-only-{id}")].is_null(),
            id != account,
            "{seen}"
        );
    }
    assert!(headers["x-slotgate-retry"].is_null(), "{seen}");
}

/// These accounts, each preferred to those behind it. None rests for long, and none is put behind for its refusals.
fn in_order(ids: &[&str]) -> EnvoyConfig {
    let accounts: Vec<_> = ids.iter().map(|id| (*id, 5)).collect();
    tries(&accounts, 3)
        .plugin(|plugin| {
            plugin["priority_mode"] = json!("strict");
            plugin["cooldown"] = json!({"max_ms": 50, "default_ms": 50});
            plugin["failing"] = json!({"percent": 0, "consecutive": 1_000_000});
            let accounts = plugin["pools"][0]["accounts"].as_array_mut();
            for (priority, account) in accounts.expect("accounts").iter_mut().enumerate() {
                account["priority"] = json!(priority);
            }
        })
        .manager(|manager| {
            manager["route_config"]["virtual_hosts"][0]["include_request_attempt_count"] =
                json!(true);
        })
}

/// Changes each route's action and its retry policy.
fn routes(config: EnvoyConfig, change: impl Fn(&mut Value)) -> EnvoyConfig {
    config.manager(|manager| {
        let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
        for route in routes.as_array_mut().expect("routes") {
            change(route);
        }
    })
}

/// Whose upstream notes every try.
fn watched(config: EnvoyConfig) -> World {
    let world = World::start(config);
    world.upstream.watch(&world.ledger);
    world
}

/// The upstream saw these accounts since the last call, in this order, each with its own key and a lease of its own.
#[track_caller]
fn assert_tried(world: &World, accounts: &[&str]) {
    let seen = world.upstream.take_seen();
    let tried: Vec<_> = seen.iter().map(|seen| seen.account.as_str()).collect();
    assert_eq!(tried, accounts);
    for one in &seen {
        assert_eq!(
            one.key,
            format!("Bearer key-of-{}", one.account),
            "{seen:?}"
        );
        assert_eq!(one.owner.as_ref(), Some(&one.account), "{seen:?}");
    }
    let leases: BTreeSet<_> = seen.iter().map(|seen| &seen.lease).collect();
    assert_eq!(leases.len(), accounts.len(), "{seen:?}");
}

/// No lease, no count, and the books agree.
#[track_caller]
fn assert_nothing_left(world: &World) {
    eventually(SOON, || world.ledger.is_empty());
    world.ledger.assert_consistent();
    eventually(SOON, || world.upstream.snapshot().now == 0);
}

/// Nothing is left, and the first account takes requests again: the end of its rest is found by whoever comes next.
#[track_caller]
fn rested(world: &World) {
    assert_nothing_left(world);
    wait_until_rested(world);
    eventually(SOON, || {
        let reply = world.get("/refuse?accounts=");
        account(&reply) == "a"
    });
    assert_nothing_left(world);
    world.upstream.take_seen();
}

/// The three accounts, which rest for as long as the tests look at.
fn three(change: impl Fn(&mut Value)) -> World {
    World::start(tries(&[("a", 5), ("b", 5), ("c", 5)], 3).plugin(change))
}

/// No account rests any more.
fn wait_until_rested(world: &World) {
    let key = world.ledger.key("cooldown");
    eventually(SOON, || {
        let now: Vec<u64> = world.redis.run("TIME", &[]);
        let now_ms = (now[0] * 1_000 + now[1] / 1_000).to_string();
        let until: Vec<String> = world.redis.run("ZRANGEBYSCORE", &[&key, &now_ms, "+inf"]);
        // One that fails often stands behind the others for half a minute, and takes leases meanwhile.
        until.iter().all(|who| who.starts_with("behind:"))
    });
}

#[test]
fn another_account_serves() {
    let world = three(|plugin| plugin["cooldown"] = json!({"max_ms": 50}));
    for status in [429, 503, 529] {
        for body in [0, 1_000, 300_000, 10_000_000] {
            let path = format!("/refuse?accounts=a,b&status={status}");
            let request = Request::post(&path, vec![b'x'; body]);
            let reply = world.client().send(request).expect("an answer");
            assert_eq!(way(&reply), (200, "atomic"), "{}", reply.text());
            assert_eq!(account(&reply), "c");
            assert_eq!(reply.header("x-slotgate-retry"), "");
            let seen = reply.json();
            assert_eq!(seen["body_length"], body);
            assert_own_headers(&seen);
            wait_until_rested(&world);
        }
    }
    eventually(SOON, || world.ledger.live() == 0);
    world.ledger.assert_consistent();
    let snapshot = world.upstream.snapshot();
    assert!(snapshot.account("a").most > 0 && snapshot.account("b").most > 0);
    world.eventually_counts("failover;outcome=served", 1);
    assert_eq!(world.counter("requests;outcome=atomic"), 12);
}

#[test]
fn where_all_refuse_the_client_gets_what_the_upstream_said() {
    let world = three(|_| {});
    let path = "/refuse?accounts=a,b,c&status=429";
    // The last try's answer passes as it is; the mark of an upstream does not.
    let reply = world.client().post(path, &[], "hello");
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (429, "{\"error\": \"busy\"}")
    );
    assert_eq!(reply.header("retry-after"), "7");
    assert_eq!(reply.header("x-ratelimit-limit"), "10");
    assert_eq!(reply.header("x-slotgate-retry"), "");
    assert_eq!(world.upstream.snapshot().requests, 3);
    world.eventually_counts("failover;outcome=exhausted", 1);
    eventually(SOON, || world.ledger.live() == 0);

    // Two accounts, three tries: none is left for the third.
    let world = World::start(tries(&[("a", 5), ("b", 5)], 3));
    let reply = world.client().post(path, &[], "hello");
    assert_eq!(reply.status, 429);
    assert_eq!(reply.json()["error"]["type"], "slotgate_exhausted");
    assert_eq!(reply.header("retry-after"), "7");
    assert_eq!(reply.header("x-ratelimit-limit"), "10");
    assert_eq!(reply.header("x-slotgate-retry"), "");
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(world.upstream.snapshot().requests, 2);
    world.eventually_counts("failover;outcome=no_other", 1);
    eventually(SOON, || world.ledger.live() == 0);
}

#[test]
fn an_account_that_cannot_be_reached_costs_nobody_a_request() {
    let world = three(|_| {});
    // A connection that breaks before the answer is no refusal: whether it is tried again is the route's to say.
    let reply = world.get("/refuse?accounts=a,b,c&how=reset");
    assert_eq!(reply.status, 503);
    assert_eq!(world.upstream.snapshot().requests, 1);
    world.upstream.refuse();
    let reply = world.get("/refuse?accounts=");
    assert_eq!(reply.status, 503);
    world.upstream.accept_again();
    eventually(SOON, || {
        way(&world.get("/refuse?accounts=")) == (200, "atomic")
    });
    eventually(SOON, || world.ledger.live() == 0);
}

#[test]
fn with_one_attempt_all_is_as_before() {
    let world = World::start(tries(&[("a", 5), ("b", 5)], 2).plugin(|plugin| {
        plugin["failover"] = json!({"max_attempts": 1});
    }));
    let reply = world.get("/refuse?accounts=a,b");
    assert_eq!((reply.status, world.upstream.snapshot().requests), (429, 1));
    assert_eq!(world.counter("failover;outcome=exhausted"), 0);
}

/// Refusals, bodies, clients that leave, a Redis that stalls, connections that break: all at once.
#[test]
fn a_storm_of_refusals_leaves_nothing() {
    let world = World::start(
        tries(&[("a", 20), ("b", 20), ("c", 20)], 3).plugin(|plugin| {
            plugin["cooldown"] = json!({"max_ms": 5, "default_ms": 5});
            plugin["failing"] = json!({"percent": 0});
            plugin["redis"]["acquire_timeout_ms"] = json!(500);
        }),
    );
    let end = Instant::now() + Duration::from_secs(8);
    let clients: Vec<_> = (0..40_u64)
        .map(|number| {
            let client = world.client();
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(number);
                let mut statuses = BTreeMap::new();
                while Instant::now() < end {
                    let accounts = ["", "a", "b", "c", "a,b", "b,c", "a,b,c"];
                    let accounts = random.choice(accounts).unwrap();
                    let how = if random.u8(..) < 20 { "reset" } else { "" };
                    let status = random.choice([429, 503, 529]).unwrap();
                    let delay_ms = random.u64(0..10);
                    let path = format!(
                        "/refuse?accounts={accounts}&status={status}&how={how}&delay_ms={delay_ms}"
                    );
                    if random.u8(..) < 40 {
                        let connection = client.start(&path, &[]);
                        std::thread::sleep(Duration::from_millis(random.u64(0..8)));
                        connection.reset();
                        continue;
                    }
                    let body = random.choice([0, 0, 1_000, 300_000]).unwrap();
                    let request = Request::post(&path, vec![b'x'; body]);
                    let status = client.send(request).map_or(0, |reply| reply.status);
                    *statuses.entry(status).or_insert(0_u32) += 1;
                }
                statuses
            })
        })
        .collect();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(1_200));
        world.redis.sigstop();
        std::thread::sleep(Duration::from_millis(300));
        world.redis.sigcont();
    }
    let mut statuses = BTreeMap::new();
    for client in clients {
        for (status, count) in client.join().expect("no client panics") {
            *statuses.entry(status).or_insert(0) += count;
        }
    }
    println!("{statuses:?}");
    assert!(statuses[&200] > 100, "{statuses:?}");
    // No key with another account's name, no request without an answer.
    for status in statuses.keys() {
        assert!([200, 429, 503, 529].contains(status), "{statuses:?}");
    }
    assert_sound(&world.envoy);
    eventually(SOON, || world.ledger.live() == 0);
    world.ledger.assert_consistent();
    assert!(world.ledger.state().used.values().all(|used| *used == 0));
    let snapshot = world.upstream.snapshot();
    for id in ["a", "b", "c"] {
        assert!(snapshot.account(id).most <= 20, "{id}: {snapshot:?}");
    }
    assert!(world.counter("failover;outcome=served") > 0);
    wait_until_rested(&world);
    world.assert_serves();
}

#[test]
fn a_host_that_refuses_connections_is_passed_over() {
    let dead = Port::free();
    let address = dead.addr();
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let config = tries(&[("a", 50), ("b", 50), ("c", 50)], 3)
        .redis(redis.addr())
        .upstream(upstream.addr())
        .edit_cluster("acct_1", |cluster| {
            let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
            let endpoints = endpoints.as_array_mut().expect("endpoints");
            let mut other = endpoints[0].clone();
            other["endpoint"]["address"]["socket_address"]["port_value"] = json!(address.port());
            endpoints.push(other);
        });
    let ledger = Ledger::new(&redis, "slotgate", "demo");
    let world = World {
        envoy: Envoy::start(config),
        redis,
        upstream,
        ledger,
    };
    for _ in 0..20 {
        let reply = world.get("/refuse?accounts=");
        // By turns: one host refuses, and the other serves the next try, of another account.
        assert_eq!(way(&reply), (200, "atomic"), "{}", reply.text());
        assert_own_headers(&reply.json());
    }
    world.eventually_counts("failover;outcome=served", 1);
    assert_eq!(world.counter("cooldown"), 0);
    eventually(SOON, || world.ledger.live() == 0);
}

#[test]
fn a_refusal_in_grpc_is_one_too() {
    let world = three(|plugin| plugin["cooldown"] = json!({"max_ms": 50, "default_ms": 50}));
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let reply = world
        .client()
        .post("/refuse?grpc=8&accounts=a,b", &headers, vec![0; 5]);
    assert_eq!(
        (reply.header("grpc-status"), reply.header("x-told")),
        ("0", "c")
    );
    wait_until_rested(&world);
    let path = "/refuse?grpc=8&accounts=a,b,c";
    let reply = world.client().post(path, &headers, vec![0; 5]);
    assert_eq!((reply.status, reply.header("grpc-status")), (200, "8"));
    eventually(SOON, || world.ledger.live() == 0);
}

#[test]
fn a_later_try_waits_for_its_turn() {
    let world = World::start(tries(&[("a", 1), ("b", 1)], 2).plugin(|plugin| {
        plugin["saturated"] = json!({"action": "queue"});
    }));
    let holder = world.client().open("/sse?events=1000&interval_ms=50", &[]);
    let held = world.upstream.last_headers()["x-slotgate-account"].clone();
    let other = if held == "a" { "b" } else { "a" };
    let client = world.client();
    let path = format!("/refuse?accounts={other}");
    let waits = std::thread::spawn(move || client.get(&path, &[]));
    let key = world.ledger.key("queue");
    eventually(SOON, || {
        let waiting: u64 = world.redis.run("ZLEXCOUNT", &[&key, "[w:", "(w;"]);
        waiting == 1
    });
    drop(holder);
    let reply = waits.join().expect("it panicked");
    assert_eq!(way(&reply), (200, "atomic"));
    assert_eq!(reply.header("x-slotgate-account"), held);
    eventually(SOON, || world.ledger.live() == 0);
}

#[test]
fn a_stream_that_has_begun_is_never_tried_again() {
    let world = three(|_| {});
    let mut stream = world.client().open("/reset-mid?events=3", &[]);
    assert_eq!(stream.events(3).len(), 3);
    assert!(stream.next_event().is_err());
    assert_eq!(world.upstream.snapshot().requests, 1);
    eventually(SOON, || world.ledger.live() == 0);
    world.assert_all_free();
}

#[test]
fn a_half_in_another_vm_is_named_once_and_requests_go_on_as_before() {
    let config = tries(&[("a", 5), ("b", 5)], 2).edit_cluster("acct_1", |cluster| {
        let options = &mut cluster["typed_extension_protocol_options"];
        let options = options
            .as_object_mut()
            .expect("options")
            .values_mut()
            .next()
            .unwrap();
        options["http_filters"][0]["typed_config"]["config"]["vm_config"]["vm_id"] = json!("x");
    });
    let world = World::start(config);
    for _ in 0..3 {
        assert_eq!(world.get("/refuse?accounts=a,b").status, 429);
    }
    let log = world.envoy.log();
    assert_eq!(log.matches("need one vm_id").count(), 1, "{log}");
}
