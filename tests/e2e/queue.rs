//! Requests that wait for a slot instead of being refused, over one and over several Envoys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::world::{SOON, World, assert_sound, config, way};
use support::*;

/// The example with a queue before these accounts.
fn queued(accounts: &[(&str, u32)], change: impl Fn(&mut Value)) -> EnvoyConfig {
    config(accounts).plugin(|plugin| {
        plugin["saturated"] = json!({"action": "queue", "queue": {"max_wait_ms": 60_000}});
        change(plugin);
    })
}

/// Requests on their way, and the order in which they were answered.
#[derive(Default)]
struct Answers {
    order: Arc<Mutex<Vec<usize>>>,
    requests: Vec<JoinHandle<Result<Reply, Error>>>,
}

impl Answers {
    fn send(&mut self, client: Client, request: Request) {
        let (number, order) = (self.requests.len(), Arc::clone(&self.order));
        self.requests.push(spawn(async move {
            let reply = client.sending(request).await;
            order.lock().unwrap().push(number);
            reply
        }));
    }

    /// All replies in the order they were asked for, and that of the answers.
    fn wait(self) -> (Vec<Reply>, Vec<usize>) {
        let replies = wait(async {
            let mut replies = Vec::new();
            for request in self.requests {
                replies.push(request.await.expect("it panicked").expect("an answer"));
            }
            replies
        });
        let order = self.order.lock().unwrap().clone();
        (replies, order)
    }
}

impl World {
    /// How many requests wait, of all Envoys, as the ledger has it.
    fn waiting(&self) -> usize {
        let key = self.ledger.key("queue");
        self.redis.run("ZLEXCOUNT", &[&key, "[w:", "(w;"])
    }

    #[track_caller]
    fn eventually_waits(&self, count: usize) {
        let seen = poll(SOON, || (self.waiting() == count).then_some(()));
        assert!(seen.is_some(), "{} wait, not {count}", self.waiting());
    }

    /// Nobody waits, and nothing of it is left.
    #[track_caller]
    fn assert_nobody_waits(&self) {
        let key = self.ledger.key("queue");
        let left: Vec<String> = self.redis.run("ZRANGE", &[&key, "0", "-1"]);
        assert!(left.is_empty(), "{left:?}");
        self.assert_all_free();
    }
}

/// How many places each answer was off.
fn places_off(order: &[usize]) -> usize {
    let off = order.iter().enumerate();
    off.map(|(place, number)| place.abs_diff(*number))
        .max()
        .unwrap_or(0)
}

#[test]
fn eighty_requests_for_four_slots_are_served_in_order_over_two_envoys() {
    let accounts = [("a", 2), ("b", 2)];
    let world = World::start(queued(&accounts, |_| {}).workers(2));
    let other = world.another(queued(&accounts, |_| {}).workers(2));
    let clients = [world.client(), other.client()];
    for client in clients {
        // Every worker has its pipe open.
        client.load(40, 4, |_| Request::get("/"));
    }
    let before = world.upstream.snapshot().requests as usize;
    let mut answers = Answers::default();
    let start = Instant::now();
    for number in 0..80 {
        answers.send(clients[number % 2], Request::get("/delay?ms=100"));
        // The order is that of the ledger.
        let arrived = || world.upstream.snapshot().requests as usize - before + world.waiting();
        eventually(SOON, || arrived() > number);
    }
    let (replies, order) = answers.wait();
    let took = start.elapsed();
    assert!(
        replies.iter().all(|reply| way(reply) == (200, "atomic")),
        "{replies:?}"
    );
    assert!(places_off(&order) <= 3, "{order:?}");
    let seen = world.upstream.snapshot();
    for (account, _) in accounts {
        assert_eq!(seen.account(account).most, 2, "{seen:?}");
    }
    // 20 rounds of 100 ms is the least there can be.
    println!("slots busy {:.0} %", 200.0 / took.as_secs_f64());
    assert_eq!(world.counter("queue.requests;outcome=timed_out"), 0);
    world.assert_nobody_waits();
    assert_sound(&other);
}

#[test]
fn full_queue_time_out_and_what_the_client_is_told() {
    let world = World::start(queued(&[("a", 1)], |plugin| {
        plugin["saturated"]["queue"] = json!({"max_wait_ms": 400, "max_waiting": 1});
    }));
    let holder = world.client().open("/sse?events=1000&interval_ms=50", &[]);
    let mut answers = Answers::default();
    answers.send(world.client(), Request::get("/"));
    world.eventually_waits(1);
    let refused = world.get("/");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["type"], "slotgate_saturated");
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=300).contains(&seconds));
    let (replies, _) = answers.wait();
    assert_eq!(replies[0].status, 429);
    assert!(
        replies[0].text().contains("in time"),
        "{}",
        replies[0].text()
    );
    world.eventually_counts("queue.requests;outcome=timed_out", 1);
    world.eventually_counts("queue.requests;outcome=refused", 1);
    world.eventually_counts("requests;outcome=rejected;reason=queue_timeout", 1);
    world.eventually_counts("requests;outcome=rejected;reason=waiting_full", 1);
    drop(holder);
    world.assert_nobody_waits();
}

#[test]
fn otherwise_the_traditional_way() {
    let world = World::start(queued(&[("a", 1)], |plugin| {
        plugin["saturated"]["queue"] = json!({"max_wait_ms": 200, "otherwise": "traditional"});
    }));
    let holder = world.client().open("/sse?events=1000&interval_ms=50", &[]);
    assert_eq!(way(&world.get("/")), (200, "traditional"));
    drop(holder);
    world.assert_nobody_waits();
}

#[test]
fn who_leaves_while_waiting_takes_its_place_along() {
    let world = World::start(queued(&[("a", 1)], |_| {}));
    let holder = world.client().open("/sse?events=1000&interval_ms=50", &[]);
    let left: Vec<_> = (0..5).map(|_| world.client().start("/", &[])).collect();
    world.eventually_waits(5);
    let mut answers = Answers::default();
    answers.send(world.client(), Request::get("/"));
    world.eventually_waits(6);
    for connection in left {
        connection.reset();
    }
    world.eventually_waits(1);
    world.eventually_counts("queue.requests;outcome=left", 5);
    drop(holder);
    let (replies, _) = answers.wait();
    assert_eq!(way(&replies[0]), (200, "atomic"));
    world.assert_nobody_waits();
}

#[test]
fn waiters_of_a_killed_envoy_take_no_slots() {
    let world = World::start(queued(&[("a", 1)], |_| {}));
    let other = world.another(queued(&[("a", 1)], |_| {}));
    let holder = world.client().open("/sse?events=1000&interval_ms=50", &[]);
    let _waits: Vec<_> = (0..30).map(|_| other.client().start("/", &[])).collect();
    world.eventually_waits(30);
    let mut answers = Answers::default();
    answers.send(world.client(), Request::get("/"));
    world.eventually_waits(31);
    other.kill();
    // They stand ahead of it until nobody vouches for them any more.
    world.eventually_waits(1);
    drop(holder);
    let (replies, _) = answers.wait();
    assert_eq!(way(&replies[0]), (200, "atomic"));
    world.assert_nobody_waits();
}

#[test]
fn a_flushed_ledger_has_its_waiters_again_in_their_order() {
    let world = World::start(queued(&[("a", 1)], |_| {}));
    let holder = world.client().open("/sse?events=1000&interval_ms=20", &[]);
    let mut answers = Answers::default();
    for number in 1..=8 {
        answers.send(world.client(), Request::get("/delay?ms=20"));
        world.eventually_waits(number);
    }
    world.redis.run::<()>("FLUSHALL", &[]);
    drop(holder);
    let (replies, order) = answers.wait();
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(places_off(&order) <= 1, "{order:?}");
    world.assert_nobody_waits();
}

#[test]
fn a_raised_limit_and_the_end_of_a_cooldown_serve_waiters() {
    let world = World::start(queued(&[("a", 1)], |_| {}));
    let _holder = world.client().open("/sse?events=1000&interval_ms=50", &[]);
    let mut answers = Answers::default();
    for number in 1..=5 {
        answers.send(world.client(), Request::get("/"));
        world.eventually_waits(number);
    }
    let raised = queued(&[("a", 6)], |plugin| {
        plugin["pools"][0]["revision"] = json!(2)
    });
    let other = world.another(raised);
    assert_eq!(way(&other.client().get("/", &[])), (200, "atomic"));
    let (replies, _) = answers.wait();
    assert!(replies.iter().all(|reply| way(reply) == (200, "atomic")));
    assert_sound(&other);

    let world = World::start(queued(&[("a", 1)], |plugin| {
        plugin["cooldown"] = json!({"default_ms": 700, "probe": false});
    }));
    assert_eq!(world.get("/status/429").status, 429);
    let start = Instant::now();
    assert_eq!(way(&world.get("/")), (200, "atomic"));
    println!(
        "served {:?} after a cooldown of 700 ms began",
        start.elapsed()
    );
    world.eventually_counts("queue.requests;outcome=granted", 1);
    world.assert_nobody_waits();
}

#[test]
fn without_push_the_heartbeat_finds_grants() {
    let world = World::start(queued(&[("a", 1)], |_| {}));
    let other = world.another(queued(&[("a", 1)], |_| {}));
    let mut holder = world.client().open("/sse?events=5&interval_ms=20", &[]);
    let mut answers = Answers::default();
    answers.send(other.client(), Request::get("/"));
    world.eventually_waits(1);
    // Whoever listens is dropped, and dropped again.
    let _: i64 = world.redis.run("CLIENT", &["KILL", "TYPE", "pubsub"]);
    while holder.next_event().is_ok_and(|event| event.is_some()) {}
    let (replies, _) = answers.wait();
    assert_eq!(way(&replies[0]), (200, "atomic"));
    world.assert_nobody_waits();
}

#[test]
fn tenants_have_caps_and_share_what_comes_free() {
    let world = World::start(queued(&[("a", 2)], |plugin| {
        plugin["tenant"] = json!({
            "source": [{"header": "x-tenant"}],
            "max_concurrency": 1,
            "overrides": [{"tenant": "gold", "max_concurrency": 0}],
        });
    }));
    let as_tenant = |tenant: &str| Request::get("/delay?ms=100").header("x-tenant", tenant);
    let mut answers = Answers::default();
    for _ in 0..6 {
        answers.send(world.client(), as_tenant("greedy"));
    }
    world.eventually_waits(5);
    // A slot is free that the greedy one may not take.
    let reply = world.client().send(as_tenant("other")).unwrap();
    assert_eq!(way(&reply), (200, "atomic"));
    assert!(world.waiting() >= 3, "it did not stand behind them");
    let (replies, _) = answers.wait();
    assert!(replies.iter().all(|reply| way(reply) == (200, "atomic")));
    world.assert_nobody_waits();
    let tenants: BTreeMap<String, String> =
        world.redis.run("HGETALL", &[&world.ledger.key("tenants")]);
    let counts: Vec<_> = tenants.keys().filter(|name| name.len() == 16).collect();
    assert!(counts.is_empty(), "{tenants:?}");
}

#[test]
fn a_tenant_at_its_cap_is_refused_where_nobody_waits() {
    let world = World::start(config(&[("a", 5)]).plugin(|plugin| {
        plugin["tenant"] = json!({"source": [{"header": "x-tenant"}], "max_concurrency": 1});
    }));
    let path = "/sse?events=1000&interval_ms=50";
    let holder = world.client().open(path, &[("x-tenant", "t")]);
    let refused = world.client().get("/", &[("x-tenant", "t")]);
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["type"], "slotgate_tenant_limit");
    assert_eq!(
        way(&world.client().get("/", &[("x-tenant", "u")])),
        (200, "atomic")
    );
    assert_eq!(way(&world.get("/")), (200, "atomic"));
    drop(holder);
    world.assert_nobody_waits();
}

#[test]
fn two_thousand_wait_at_once_and_all_are_served() {
    let world = World::start(
        queued(&[("a", 50)], |plugin| {
            plugin["saturated"]["queue"]["max_waiting"] = json!(100_000);
            plugin["redis"]["max_pending"] = json!(100_000);
        })
        .without_circuit_breakers()
        .without_access_log(),
    );
    let replies = world
        .client()
        .burst(Protocol::Http2 { streams: 100 }, 2_000, |_| {
            Request::get("/delay?ms=20")
        });
    let statuses = count_statuses(&replies);
    assert_eq!(statuses, BTreeMap::from([(200, 2_000)]));
    let most = world.upstream.snapshot().account("a").most;
    assert!((40..=50).contains(&most), "{most} of 50 slots at once");
    world.assert_nobody_waits();
}

#[test]
fn bodies_and_time_outs_while_waiting() {
    let config = queued(&[("a", 1)], |_| {}).manager(|manager| {
        let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut();
        for route in routes.expect("routes") {
            if route["route"].is_object() {
                route["route"]["timeout"] = json!("1s");
            }
        }
    });
    let world = World::start(config);
    // It may last for as long as it answers: the route's time-out would end it.
    let holder = world.client().start("/hang", &[]);
    eventually(SOON, || world.upstream.snapshot().now == 1);
    let mut answers = Answers::default();
    let body = vec![b'x'; 3_000_000];
    answers.send(world.client(), Request::post("/echo", body.clone()));
    answers.send(world.client(), Request::get("/"));
    let begin = Instant::now();
    let (replies, _) = answers.wait();
    // The holder ends after a second; whoever waited has a second of its own from then on.
    assert!(
        replies.iter().all(|reply| way(reply) == (200, "atomic")),
        "{replies:?}"
    );
    assert_eq!(replies[0].json()["body_length"], body.len());
    println!("waited and served in {:?}", begin.elapsed());
    drop(holder);
    world.assert_nobody_waits();

    let idle = queued(&[("a", 1)], |_| {}).manager(|manager| {
        manager["stream_idle_timeout"] = json!("1s");
    });
    let world = World::start(idle);
    let holder = world.client().open("/sse?events=1000&interval_ms=50", &[]);
    let reply = world.get("/");
    assert_eq!(reply.status, 504, "Envoy's own patience ends the wait");
    world.eventually_counts("queue.requests;outcome=left", 1);
    drop(holder);
    world.assert_nobody_waits();
}

#[test]
fn a_pushed_configuration_keeps_who_waits() {
    let started = queued(&[("a", 1)], |_| {}).listeners_from_file();
    let world = World::start(started);
    let mut holder = world.client().open("/sse?events=40&interval_ms=50", &[]);
    let mut answers = Answers::default();
    for number in 1..=3 {
        answers.send(world.client(), Request::get("/"));
        world.eventually_waits(number);
    }
    let pushed = queued(&[("a", 1)], |plugin| {
        plugin["gray"]["salt"] = json!("other")
    })
    .redis(world.redis.addr())
    .upstream(world.upstream.addr());
    world.envoy.reconfigure(pushed).expect("it is taken");
    answers.send(world.client(), Request::get("/"));
    while holder.next_event().is_ok_and(|event| event.is_some()) {}
    let (replies, order) = answers.wait();
    assert!(
        replies.iter().all(|reply| way(reply) == (200, "atomic")),
        "{replies:?}"
    );
    assert!(places_off(&order) <= 1, "{order:?}");
    world.assert_nobody_waits();
}

#[test]
fn a_crowd_of_one_tenant_delays_another_by_one_service() {
    let world = World::start(
        queued(&[("a", 2)], |plugin| {
            plugin["tenant"] = json!({"source": [{"header": "x-tenant"}]});
        })
        .without_circuit_breakers(),
    );
    let path = "/delay?ms=100";
    let crowd = world.client();
    let crowd = std::thread::spawn(move || {
        crowd.burst(Protocol::Http2 { streams: 100 }, 300, move |_| {
            Request::get(path).header("x-tenant", "crowd")
        })
    });
    eventually(SOON, || world.waiting() > 200);
    let begin = Instant::now();
    let reply = world
        .client()
        .send(Request::get(path).header("x-tenant", "one"))
        .unwrap();
    let waited = begin.elapsed();
    assert_eq!(way(&reply), (200, "atomic"));
    let left = world.waiting();
    assert!(left > 100, "the crowd was served first: {left} wait");
    println!("served in {waited:?}, {left} of the crowd still wait");
    let replies = crowd.join().unwrap();
    assert_eq!(count_statuses(&replies), BTreeMap::from([(200, 300)]));
    world.assert_nobody_waits();
}
