//! Configurations that are refused, and those that replace another while it serves.

use std::time::Duration;

use serde_json::json;

use crate::world::{SOON, World, accounts_json, assert_sound, config, way};
use support::*;

#[test]
fn a_bad_configuration_is_refused_with_every_reason() {
    let upstream = Upstream::start();
    let refused =
        |config: EnvoyConfig| Envoy::start_expecting_failure(config.upstream(upstream.addr()));
    let log = refused(config(&[("a", 0), ("a", 1)]).plugin(|plugin| {
        plugin["gray"]["percent"] = json!(101);
        plugin["grey"] = json!({});
        plugin["lease"]["ttl_ms"] = json!("15s");
        plugin["redis"]["password_env"] = json!("NOT_SET");
    }));
    for reason in [
        "configuration: gray.percent: 101 is not in 0..=100",
        "configuration: grey: unknown field",
        "configuration: lease.ttl_ms: \"15s\" is not a number",
        "configuration: redis.password_env: ",
        "configuration: pools[0].accounts[0].max_concurrency: 0 is not in 1..=100000",
        "configuration: pools[0].accounts[1].id: \"a\" is already used by pools[0].accounts[0]",
    ] {
        assert!(log.contains(reason), "{reason:?} is not in: {log}");
    }
    let log = refused(config(&[("a", 1)]).bridge(|bridge| bridge["cluster"] = json!("redis")));
    assert!(
        log.contains("configuration: cluster: is not a field of role bridge"),
        "{log}"
    );
    let log = refused(config(&[("a", 1)]).bridge(|bridge| *bridge = json!({"role": "brigde"})));
    assert!(log.contains("configuration: role: "), "{log}");
}

/// Percentages and slots of one more revision.
fn revision(revision: u32, accounts: &[(&str, u32)]) -> EnvoyConfig {
    config(accounts)
        .plugin(|plugin| plugin["pools"][0]["revision"] = json!(revision))
        .listeners_from_file()
}

#[test]
fn a_bad_update_leaves_the_old_configuration_serving() {
    let world = World::start(revision(1, &[("a", 2)]));
    let mut stream = world.client().open("/sse?events=100000", &[]);
    let pushed = revision(2, &[("a", 0)]);
    let log = world
        .envoy
        .reconfigure(pushed)
        .expect_err("it must be refused");
    assert!(
        log.contains("pools[0].accounts[0].max_concurrency: 0 is not in"),
        "{log}"
    );
    stream.events(3);
    for _ in 0..5 {
        assert_eq!(way(&world.get("/")), (200, "atomic"));
    }
    assert_eq!(world.ledger.state().meta["#revision"], "1");
    // The last request's release may still be on its way.
    eventually(PATIENCE, || world.ledger.live() == 1);
    drop(stream);
    world.assert_all_free();
    // And it can still be replaced by a good one.
    world
        .envoy
        .reconfigure(placed(&world, revision(3, &[("b", 1)])))
        .expect("a good one");
    eventually(SOON, || world.get("/").header("x-slotgate-account") == "b");
    world.assert_all_free();
}

/// What `World::start` fills in, for a configuration that is pushed later.
fn placed(world: &World, config: EnvoyConfig) -> EnvoyConfig {
    config
        .redis(world.redis.addr())
        .upstream(world.upstream.addr())
}

/// How many pipes Redis serves.
fn pipes(world: &World) -> usize {
    let clients: String = world.redis.run("CLIENT", &["LIST"]);
    clients.matches("name=slotgate").count()
}

/// The percentage is 0 by override. No request of the next configuration goes by the configured 100, with Redis or without.
#[test]
fn a_push_keeps_what_an_operator_set() {
    let settings = |number| {
        revision(number, &[("a", 5)]).workers(2).plugin(|plugin| {
            plugin["failure"] = json!({"action": "reject"});
        })
    };
    let world = World::start(settings(1));
    world
        .redis
        .run::<()>("HSET", &[&world.ledger.key("control"), "percent", "0"]);
    // Each worker has its share of the connections.
    let said = || world.envoy.log().matches("=> 0.00 % (override)").count();
    eventually(SOON, || {
        world.get("/");
        said() == 2
    });
    for number in 2..5 {
        if number == 4 {
            world.redis.kill();
        }
        world
            .envoy
            .reconfigure(placed(&world, settings(number)))
            .expect("a good one");
        for _ in 0..200 {
            assert_eq!(way(&world.get("/")), (200, "traditional"), "push {number}");
        }
    }
    assert_eq!(said(), 2, "what stays in force is not said again");
}

/// A stream of the old configuration keeps its lease and releases it; what comes later follows the new one.
#[test]
fn a_good_update_mid_stream() {
    let world = World::start(revision(1, &[("a", 5), ("gone", 5)]).workers(2));
    let mut streams: Vec<_> = (0..10)
        .map(|_| world.client().open("/sse?events=100000", &[]))
        .collect();
    assert_eq!(world.get("/").status, 429);
    let held = world.ledger.owner();
    assert_eq!(held.len(), 10);

    let pushed = revision(2, &[("a", 6), ("b", 2)]);
    world
        .envoy
        .reconfigure(placed(&world, pushed))
        .expect("a good one");
    // One more slot of `a`, two of `b`, none of an account that is no more.
    let fresh = eventually_some(SOON, || {
        let stream = world.client().open("/sse?events=100000", &[]);
        (stream.status == 200).then_some(stream)
    });
    let mut fresh = vec![fresh];
    fresh.extend((0..2).map(|_| world.client().open("/sse?events=100000", &[])));
    let mut used: Vec<_> = fresh
        .iter()
        .map(|stream| stream.header("x-slotgate-account"))
        .collect();
    used.sort_unstable();
    assert_eq!(used, ["a", "b", "b"]);
    assert_eq!(world.get("/").status, 429);
    let state = world.ledger.state();
    state.assert_consistent();
    assert_eq!(
        (state.meta["#revision"].as_str(), state.leases.len()),
        ("2", 13)
    );
    assert!(
        held.iter()
            .all(|(lease, account)| state.owner.get(lease) == Some(account))
    );

    for stream in &mut streams {
        stream.events(3);
    }
    drop(streams);
    eventually(SOON, || world.ledger.live() == 3);
    assert_eq!(
        world.ledger.state().accounts.len(),
        2,
        "the last lease takes its account along"
    );
    drop(fresh);
    world.assert_all_free();
    assert_eq!(world.upstream.snapshot().path("traditional"), 0);
}

/// ECDS: another configuration for the filter alone. Its connections stay, and streams of the old one for as long as they
/// like: their leases are renewed long after, and released.
#[test]
fn a_filter_replaced_under_its_streams() {
    let filter = |number, percent, accounts| {
        revision(number, accounts)
            .plugin(|plugin| {
                plugin["lease"] = json!({"ttl_ms": 1_500, "renew_interval_ms": 500});
                plugin["gray"]["percent"] = json!(percent);
            })
            .filter_from_file()
    };
    let world = World::start(filter(1, 100, &[("a", 5), ("gone", 5)]).workers(2));
    let push = |config| {
        world
            .envoy
            .reconfigure(placed(&world, config))
            .expect("a good one")
    };
    let open = |count| -> Vec<_> {
        let open = |_| {
            world
                .client()
                .open("/sse?events=100000&interval_ms=50", &[])
        };
        (0..count).map(open).collect()
    };
    let mut old = open(10);
    let held = world.ledger.owner();
    assert_eq!((held.len(), world.get("/").status), (10, 429));

    push(filter(2, 100, &[("a", 6), ("b", 2)]));
    eventually(SOON, || world.get("/").status == 200);
    let mut new = open(3);
    assert!(new.iter().all(|stream| stream.status == 200));
    assert_eq!(world.get("/").status, 429);
    // Three lifetimes of a lease.
    std::thread::sleep(Duration::from_millis(4_500));
    let state = world.ledger.state();
    state.assert_consistent();
    assert_eq!(state.live(), 13);
    assert!(
        held.iter()
            .all(|(lease, account)| state.owner.get(lease) == Some(account))
    );
    assert_eq!(
        world.counter("lease.lost") + world.counter("lease.readopted"),
        0
    );
    for stream in old.iter_mut().chain(&mut new) {
        stream.events(3);
    }
    old.truncate(5);
    eventually(SOON, || world.ledger.live() == 8);

    push(filter(3, 0, &[("a", 6)]));
    eventually(SOON, || way(&world.get("/")) == (200, "traditional"));
    std::thread::sleep(Duration::from_millis(3_000));
    assert_eq!(world.ledger.live(), 8);
    drop((old, new));
    eventually(SOON, || world.ledger.live() == 0);

    push(filter(4, 100, &[("c", 2)]));
    eventually(SOON, || world.get("/").header("x-slotgate-account") == "c");
    world.assert_all_free();
    // Configurations without streams are gone, and their pipes with them.
    eventually(SOON, || pipes(&world) <= 2);
    assert_eq!(world.counter("lease.lost"), 0);
}

#[test]
fn a_bad_filter_leaves_the_old_one_serving() {
    let filter = |number, accounts| revision(number, accounts).filter_from_file();
    let world = World::start(filter(1, &[("a", 2)]));
    let refused = world.envoy.reconfigure(filter(2, &[("a", 0)]));
    let log = refused.expect_err("it must be refused");
    assert!(
        log.contains("pools[0].accounts[0].max_concurrency: 0 is not in"),
        "{log}"
    );
    for _ in 0..5 {
        assert_eq!(way(&world.get("/")), (200, "atomic"));
    }
    world.assert_all_free();
}

/// Accounts under new names: whoever asks first finds them in force already.
#[test]
fn the_first_requests_of_a_new_configuration_use_its_accounts() {
    let world = World::start(revision(1, &[("old", 50)]));
    for number in 2..12 {
        let name = format!("new-{number}");
        world
            .envoy
            .reconfigure(placed(&world, revision(number, &[(&name, 50)])))
            .expect("a good one");
        eventually(SOON, || {
            let reply = world.get("/");
            assert_eq!(way(&reply), (200, "atomic"), "revision {number}");
            reply.header("x-slotgate-account") == name
        });
    }
    world.assert_all_free();
}

/// The old configuration goes when its listener has drained, and takes its pipe along.
#[test]
fn an_old_configuration_leaves_nothing_behind() {
    let quickly = |config: EnvoyConfig| config.args(&["--drain-time-s", "1"]);
    let world = World::start(quickly(revision(1, &[("a", 5)])));
    let mut stream = world.client().open("/sse?events=100000", &[]);
    stream.events(1);
    assert_eq!((world.ledger.live(), pipes(&world)), (1, 1));
    let pushed = quickly(revision(2, &[("a", 5)]));
    world
        .envoy
        .reconfigure(placed(&world, pushed))
        .expect("a good one");
    eventually(SOON, || {
        world.assert_serves();
        pipes(&world) == 2
    });
    // Envoy ends the stream with its listener; its slot is free at once, not at expiry.
    while let Ok(Some(_)) = stream.next_event() {}
    world.assert_all_free();
    eventually(SOON, || pipes(&world) == 1);
    world.assert_serves();
    world.assert_all_free();
}

/// The same while Redis is away: the release waits for it, and the old configuration with it.
#[test]
fn an_old_configuration_that_cannot_reach_redis() {
    let quickly = |config: EnvoyConfig| config.args(&["--drain-time-s", "1"]);
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let world = World::with_redis(redis, quickly(revision(1, &[("a", 5)])));
    let mut stream = world.client().open("/sse?events=100000", &[]);
    stream.events(1);
    world.redis.kill();
    let pushed = quickly(revision(2, &[("a", 5)]));
    world
        .envoy
        .reconfigure(placed(&world, pushed))
        .expect("a good one");
    while let Ok(Some(_)) = stream.next_event() {}
    world.redis.start_again();
    world.assert_all_free();
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    eventually(SOON, || pipes(&world) == 1);
    world.assert_all_free();
}

/// A configuration that goes takes its open breaker along.
#[test]
fn an_open_breaker_ends_with_its_configuration() {
    let started = revision(1, &[("a", 5)]).plugin(|plugin| {
        plugin["redis"] = json!({"command_timeout_ms": 60_000, "breaker": {"failures": 1, "open_ms": 60_000}});
    });
    let world = World::start(started.args(&["--drain-time-s", "1"]));
    eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
    world.redis.sigstop();
    world.get("/");
    eventually(SOON, || world.counter("breaker.open") == 1);
    world.redis.sigcont();
    world
        .envoy
        .reconfigure(placed(&world, revision(2, &[("a", 6)])))
        .expect("a good one");
    eventually(SOON, || world.counter("breaker.open") == 0);
    world.assert_serves();
    world.assert_all_free();
}

/// A graceful drain before a shutdown: what runs, runs on.
#[test]
fn a_drained_envoy_keeps_its_running_streams() {
    let world = World::start(config(&[("a", 1)]));
    let mut stream = world
        .client()
        .open("/sse?events=100000&interval_ms=20", &[]);
    let drained = world.envoy.admin_post("/drain_listeners?graceful");
    assert_eq!(drained.status, 200);
    for event in stream.events(30) {
        assert_eq!(world.ledger.live(), 1, "{event}");
    }
    drop(stream);
    world.assert_all_free();
}

/// The first listener fills the pools of one VM, the second has its own plugin beside it: neither sees the other's.
#[test]
fn two_listeners_with_their_own_configurations() {
    let world = World::start(config(&[("a", 1)]).edit(|document| {
        let listeners = document["static_resources"]["listeners"]
            .as_array_mut()
            .expect("listeners");
        let mut second = listeners[0].clone();
        second["name"] = json!("second");
        let text = second
            .to_string()
            .replace("\"name\":\"demo\"", "\"name\":\"other\"")
            .replace("\"id\":\"a\"", "\"id\":\"z\"");
        listeners.push(serde_json::from_str(&text).expect("JSON"));
    }));
    let second = Client::new(world.envoy.addrs()[1]);
    let first_held = world.client().open("/sse?events=100000", &[]);
    let second_held = second.open("/sse?events=100000", &[]);
    assert_eq!(first_held.header("x-slotgate-account"), "a");
    assert_eq!(second_held.header("x-slotgate-account"), "z");
    assert_eq!(
        (world.get("/").status, second.get("/", &[]).status),
        (429, 429)
    );
    let other = Ledger::new(&world.redis, "slotgate", "other");
    assert_eq!((world.ledger.live(), other.live()), (1, 1));
    drop(first_held);
    world.assert_all_free();
    assert_eq!(
        (way(&world.get("/")), second.get("/", &[]).status),
        ((200, "atomic"), 429)
    );
    drop(second_held);
    eventually(SOON, || other.is_empty());
}

#[test]
fn other_prefixes_and_databases() {
    let world = World::start(config(&[("a", 1)]).plugin(|plugin| {
        plugin["redis"]["key_prefix"] = json!("sg:v2");
        plugin["redis"]["database"] = json!(3);
        plugin["pools"][0]["accounts"] = accounts_json(&[("a", 1)]);
    }));
    let held = world
        .client()
        .open("/sse?events=100000", &[("x-session-id", "s")]);
    assert_eq!(held.header("x-slotgate-path"), "atomic");
    assert!(world.ledger.state().accounts.is_empty());
    let mut connection = world.redis.connect();
    redis::cmd("SELECT")
        .arg(3)
        .exec(&mut connection)
        .expect("SELECT");
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query(&mut connection)
        .expect("KEYS");
    assert!(keys.len() >= 4, "{keys:?}");
    assert!(
        keys.iter().all(|key| key.starts_with("sg:v2:{demo}:")),
        "{keys:?}"
    );
    drop(held);
    let live = || -> usize {
        redis::cmd("ZCARD")
            .arg("sg:v2:{demo}:leases")
            .query(&mut connection)
            .expect("ZCARD")
    };
    let mut live = live;
    eventually(Duration::from_secs(10), || live() == 0);
    assert_sound(&world.envoy);
}

/// More bytes at once than any buffer on the way to Redis holds.
#[test]
fn a_pool_of_20_000_accounts() {
    let names: Vec<String> = (0..20_000)
        .map(|number| format!("account-{number:05}"))
        .collect();
    let accounts: Vec<_> = names.iter().map(|name| (name.as_str(), 3)).collect();
    let world = World::start(config(&accounts));
    for _ in 0..2 {
        let replies = world.client().load(50, 10, |_| Request::get("/delay?ms=1"));
        for reply in replies {
            assert_eq!(way(&reply.expect("a response")), (200, "atomic"));
        }
        // Those came by while the accounts were put in force in parts.
        eventually(PATIENCE, || world.ledger.state().accounts.len() == 20_000);
        // Redis loses its data, and no request notices.
        world.redis.run::<()>("FLUSHALL", &[]);
    }
    world.assert_serves();
    eventually(PATIENCE, || world.ledger.state().accounts.len() == 20_000);
    assert_eq!(world.counters("pipe.lost"), 0);
    world.assert_all_free();
}

/// Something else that finds its way to the internal listener is shown the door, and the pipe beside it is not disturbed.
#[test]
fn the_bridge_refuses_what_is_no_pipe() {
    let world = World::start(
        config(&[("a", 5)])
            .edit(|document| {
                let clusters = document["static_resources"]["clusters"].as_array_mut();
                let clusters = clusters.expect("clusters");
                let pipe = clusters
                    .iter()
                    .find(|cluster| cluster["name"] == "slotgate_pipe");
                let mut stray = pipe.expect("the pipe's cluster").clone();
                stray["name"] = json!("stray");
                stray
                    .as_object_mut()
                    .expect("an object")
                    .remove("upstream_config");
                clusters.push(stray);
            })
            .manager(|manager| {
                let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
                let stray = json!({"match": {"prefix": "/stray"}, "route": {"cluster": "stray"}});
                routes.as_array_mut().expect("routes").insert(0, stray);
            }),
    );
    for _ in 0..5 {
        assert_eq!(way(&world.get("/stray")), (503, "atomic"));
        world.assert_serves();
    }
    assert!(
        world
            .envoy
            .log_contains("bridge: not a stream of gRPC frames")
    );
    assert_eq!(
        (world.counter("pipe.ready"), world.counters("pipe.lost")),
        (1, 0)
    );
    world.assert_all_free();
}
