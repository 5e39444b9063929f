//! The tests' own tools, tested without the filter.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use serde_json::json;
use support::*;

const ACCOUNT: &str = "x-slotgate-account";

#[test]
fn upstream_counts_requests_held_at_once_by_account() {
    let upstream = Upstream::start();
    let client = Client::new(upstream.addr());
    let mut held: Vec<_> = (0..5)
        .map(|_| client.open("/sse?events=1000&interval_ms=20", &[(ACCOUNT, "a")]))
        .collect();
    let other = client.open("/sse?events=1000&interval_ms=20", &[]);
    assert_eq!(
        upstream.snapshot().account("a"),
        AccountCount {
            now: 5,
            most: 5,
            total: 5
        }
    );
    assert_eq!(
        upstream.snapshot().account("-"),
        AccountCount {
            now: 1,
            most: 1,
            total: 1
        }
    );
    held.truncate(2);
    drop(other);
    eventually(PATIENCE, || upstream.snapshot().now == 2);
    held.clear();
    eventually(PATIENCE, || upstream.snapshot().now == 0);
    assert_eq!(
        upstream.snapshot().account("a"),
        AccountCount {
            now: 0,
            most: 5,
            total: 5
        }
    );
    upstream.forget();
    assert_eq!(upstream.snapshot().account("a"), AccountCount::default());
}

#[test]
fn a_request_counts_no_more_once_its_client_has_the_whole_response() {
    let upstream = Upstream::start();
    let client = Client::new(upstream.addr());
    for path in [
        "/",
        "/echo",
        "/delay?ms=1",
        "/status/503",
        "/sse?events=3&interval_ms=1",
        "/nowhere",
    ] {
        for _ in 0..20 {
            client.get(path, &[(ACCOUNT, "a")]);
            assert_eq!(upstream.snapshot().account("a").now, 0, "{path}");
        }
    }
    assert_eq!(upstream.snapshot().account("a").most, 1);
}

#[test]
fn abandoned_requests_are_not_counted_beside_their_successors() {
    const HELD: usize = 20;
    let upstream = Upstream::start();
    let client = Client::new(upstream.addr());
    for _ in 0..5 {
        let first: Vec<_> = (0..HELD)
            .map(|_| client.start("/hang", &[(ACCOUNT, "a")]))
            .collect();
        eventually(PATIENCE, || {
            let count = upstream.snapshot().account("a");
            (count.now, count.most) == (HELD, HELD)
        });
        // Connected ahead, so that only the requests arrive while the upstream sleeps, and it
        // learns of the others' ends right behind them.
        let mut second: Vec<_> = (0..HELD).map(|_| client.start("/stats", &[])).collect();
        for connection in &mut second {
            connection.read_head();
            connection.read();
        }
        while_support_sleeps(|| {
            for connection in &mut second {
                connection.send(b"GET / HTTP/1.1\r\nhost: test\r\nx-slotgate-account: a\r\n\r\n");
            }
            for (number, connection) in first.into_iter().enumerate() {
                if number % 2 == 0 {
                    drop(connection)
                } else {
                    connection.reset()
                }
            }
        });
        second
            .iter_mut()
            .for_each(|connection| assert!(connection.read_head().contains("200 OK")));
        eventually(PATIENCE, || upstream.snapshot().now == 0);
    }
    assert_eq!(upstream.snapshot().account("a").most, HELD);
}

/// Both threads of the support's runtime stand still meanwhile, so that what happens reaches the upstream all at once.
fn while_support_sleeps(act: impl FnOnce()) {
    let awake = Arc::new(Barrier::new(3));
    let (asleep, fell_asleep) = mpsc::channel();
    for _ in 0..2 {
        let (asleep, awake) = (asleep.clone(), Arc::clone(&awake));
        spawn(async move {
            let _ = asleep.send(());
            awake.wait();
        });
    }
    for _ in 0..2 {
        // One thread may have taken both tasks, while the other one waits for work: something new wakes it.
        while fell_asleep.recv_timeout(Duration::from_millis(5)).is_err() {
            spawn(async {});
        }
    }
    act();
    awake.wait();
}

#[test]
fn every_load_is_counted_exactly() {
    let upstream = Upstream::start();
    let client = Client::new(upstream.addr());
    let replies = client.load(400, 40, |number| {
        let id = if number % 2 == 0 { "even" } else { "odd" };
        Request::get("/delay?ms=5")
            .header(ACCOUNT, id)
            .header("x-slotgate-path", "atomic")
    });
    assert_eq!(count_statuses(&replies), [(200, 400)].into());
    let seen = upstream.snapshot();
    assert_eq!(
        (seen.requests, seen.now, seen.path("atomic")),
        (400, 0, 400)
    );
    assert_eq!(
        (seen.account("even").total, seen.account("odd").total),
        (200, 200)
    );
    assert!(seen.account("even").most <= 40);
    let stats = client.get("/stats", &[]).json();
    assert_eq!(stats["accounts"]["even"]["total"], 200);
    assert_eq!(
        upstream.snapshot().requests,
        400,
        "/stats itself is not counted"
    );
}

#[test]
fn upstream_behaves_as_its_paths_say() {
    let upstream = Upstream::start();
    let client = Client::new(upstream.addr());

    let reply = client.get("/status/429?retry-after=3", &[]);
    assert_eq!((reply.status, reply.header("retry-after")), (429, "3"));

    let request = Request::post("/echo?x=1", "hello")
        .header("x-two", "1")
        .header("x-two", b"\xff");
    let echo = client.send(request).unwrap().json();
    let path_and_length = (
        echo["method"].as_str(),
        echo["path"].as_str(),
        &echo["body_length"],
    );
    assert_eq!(
        path_and_length,
        (Some("POST"), Some("/echo?x=1"), &json!(5))
    );
    assert_eq!(echo["headers"]["x-two"], "1, \u{fffd}");
    assert_eq!(
        upstream
            .last_headers()
            .get_all("x-two")
            .iter()
            .next_back()
            .unwrap()
            .as_bytes(),
        b"\xff"
    );

    let mut stream = client.open("/sse?events=2&interval_ms=1", &[]);
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert_eq!(stream.events(3)[2], "[DONE]");
    assert_eq!(stream.next_event().unwrap(), None);

    let mut stream = client.open("/reset-mid?events=2&interval_ms=20", &[]);
    stream.events(2);
    assert!(stream.next_event().is_err());

    for path in ["/reset", "/reset-mid?events=1"] {
        let mut raw = client.start(path, &[]);
        let ended = std::iter::repeat_with(|| raw.try_read())
            .find(|read| !matches!(read, Ok(bytes) if !bytes.is_empty()));
        assert_eq!(
            ended.unwrap().unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset,
            "{path}"
        );
    }
    assert!(client.send(Request::get("/reset")).is_err());

    let (status, mut socket) = client.websocket("/ws", &[(ACCOUNT, "ws")]);
    socket.send(b"\x00ping\xff");
    assert_eq!(
        (status, socket.read_exact(6)),
        (101, b"\x00ping\xff".to_vec())
    );
    assert_eq!(upstream.snapshot().account("ws").now, 1);
    drop(socket);
    eventually(PATIENCE, || upstream.snapshot().now == 0);
}

#[test]
fn upstream_refuses_and_accepts_again() {
    let upstream = Upstream::start();
    let client = Client::new(upstream.addr());
    let mut stream = client.open("/sse?events=1000&interval_ms=10", &[]);
    let (_, _socket) = client.websocket("/ws", &[]);
    upstream.refuse();
    assert_eq!(upstream.snapshot().now, 0);
    assert!(client.send(Request::get("/")).is_err());
    assert!((0..1000).any(|_| stream.next_event().is_err()));
    upstream.accept_again();
    assert_eq!(client.get("/", &[]).status, 200);
}

#[test]
fn redis_is_killed_stopped_paused_and_restarted() {
    let redis = Redis::start();
    redis.run::<()>("SET", &["key", "value"]);
    assert_eq!(redis.run::<String>("GET", &["key"]), "value");

    let port = redis.port();
    redis.kill();
    assert!(!redis.is_running() && redis.try_connect().is_err());
    redis.start_again();
    assert_eq!(
        (redis.port(), redis.run::<Option<String>>("GET", &["key"])),
        (port, None)
    );

    let quick = || {
        let connection = redis.connect();
        connection
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        connection
    };
    let mut waiting = quick();
    redis.sigstop();
    assert!(redis::cmd("PING").query::<String>(&mut waiting).is_err());
    redis.sigcont();
    let mut waiting = quick();
    redis.pause(Duration::from_secs(600));
    assert!(
        redis::cmd("GET")
            .arg("key")
            .query::<Option<String>>(&mut waiting)
            .is_err()
    );
    redis.start_again();
    redis.run::<()>("PING", &[]);
}

#[test]
fn redis_takes_arguments_and_leaves_nothing_behind() {
    let redis = Redis::start_with(&[
        "--requirepass",
        "secret",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]);
    redis.run::<()>("SET", &["key", "kept"]);
    redis.start_again();
    assert_eq!(redis.run::<String>("GET", &["key"]), "kept");
    let folder = redis
        .run::<Vec<String>>("CONFIG", &["GET", "dir"])
        .remove(1);
    let process = format!("/proc/{}", redis.pid());
    assert!(std::path::Path::new(&folder).exists() && std::path::Path::new(&process).exists());
    drop(redis);
    assert!(!std::path::Path::new(&folder).exists() && !std::path::Path::new(&process).exists());
}

#[test]
fn ledger_reads_a_pool_and_sees_what_does_not_add_up() {
    let redis = Redis::start();
    let ledger = Ledger::new(&redis, "slotgate", "p");
    assert!(ledger.is_empty());
    ledger.assert_consistent();
    let key = |name: &str| format!("slotgate:{{p}}:{name}");
    redis.run::<()>(
        "HSET",
        &[&key("accounts"), "a", "2 0 0 0", "#revision", "1"],
    );
    redis.run::<()>("ZADD", &[&key("free"), "5", "a"]);
    redis.run::<()>("HSET", &[&key("used"), "a", "1", "b", "0"]);
    redis.run::<()>("ZADD", &[&key("leases"), "1", "expired"]);
    redis.run::<()>("HSET", &[&key("owner"), "expired", "a"]);
    let state = ledger.state();
    state.assert_consistent();
    assert_eq!(
        (
            state.live(),
            state.leases.len(),
            ledger.used("a"),
            ledger.is_empty()
        ),
        (0, 1, 1, false)
    );
    assert_eq!(
        (
            state.meta["#revision"].as_str(),
            state.accounts.len(),
            ledger.free()
        ),
        ("1", 1, ["a".into()].into())
    );

    redis.run::<()>("HSET", &[&key("used"), "a", "2"]);
    let drifted = ledger.clone();
    assert!(std::panic::catch_unwind(move || drifted.assert_consistent()).is_err());
    redis.run::<()>("HSET", &[&key("used"), "a", "1"]);
    redis.run::<()>("ZADD", &[&key("leases"), "99999999999999", "ownerless"]);
    assert_eq!(ledger.live(), 1);
    assert!(std::panic::catch_unwind(move || ledger.assert_consistent()).is_err());
    redis.kill();
}

#[test]
fn envoy_without_the_filter_serves_the_example() {
    let upstream = Upstream::start();
    let config = EnvoyConfig::from_example()
        .without_wasm()
        .upstream(upstream.addr());
    let envoy = Envoy::start(config.workers(2).listeners_from_file());
    serves(&envoy, &upstream);

    let pushed = EnvoyConfig::from_example()
        .without_wasm()
        .manager(|manager| {
            manager["route_config"]["virtual_hosts"][0]["routes"] =
                json!([{"match": {"prefix": "/"}, "direct_response": {"status": 418}}]);
        });
    envoy.reconfigure(pushed).unwrap();
    eventually(PATIENCE, || envoy.client().get("/", &[]).status == 418);
    let bad = EnvoyConfig::from_example()
        .without_wasm()
        .manager(|manager| manager["stat_prefix"] = json!(""));
    assert!(envoy.reconfigure(bad).is_err());
    assert_eq!(envoy.client().get("/", &[]).status, 418);
}

#[test]
fn envoy_starts_plain_and_is_stopped() {
    let upstream = Upstream::start();
    let envoy = Envoy::start(EnvoyConfig::plain(upstream.addr()).websockets());
    serves(&envoy, &upstream);
    envoy.terminate();
    assert!(envoy.wait_exit(PATIENCE).unwrap().success());
    assert!(envoy.log_contains("caught ENVOY_SIGTERM"));

    let envoy = Envoy::start(EnvoyConfig::plain(upstream.addr()));
    envoy.kill();
    assert!(!envoy.is_running());
    assert!(envoy.client().send(Request::get("/")).is_err());
}

#[test]
fn envoy_refuses_a_bad_configuration() {
    let upstream = Upstream::start();
    let config =
        EnvoyConfig::plain(upstream.addr()).edit(|document| document["no_such_field"] = json!(1));
    let log = Envoy::start_expecting_failure(config);
    assert!(log.contains("no_such_field"), "{log}");
}

#[test]
fn plugin_configurations_are_edited_as_struct_and_as_text() {
    let filter = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config";
    let config = EnvoyConfig::from_example()
        .env("NAME", "value")
        .bridge(|bridge| bridge["seen"] = json!(true));
    config
        .clone()
        .bridge(|bridge| assert_eq!(*bridge, json!({"role": "bridge", "seen": true})));
    let seen = &config.document.pointer(filter).unwrap()["config"];
    assert_eq!(
        seen["vm_config"]["environment_variables"]["key_values"]["NAME"],
        "value"
    );

    let as_text = config.clone().edit(|document| {
        let plugin = &mut document.pointer_mut(filter).unwrap()["config"]["configuration"];
        let text = plugin["value"].to_string();
        *plugin =
            json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text});
    });
    for form in [config, as_text] {
        let changed = form.plugin(|plugin| plugin["gray"]["percent"] = json!(12.34));
        assert_eq!(changed.document.to_string().matches("12.34").count(), 1);
        changed.plugin(|plugin| {
            assert_eq!(
                (&plugin["role"], &plugin["gray"]["percent"]),
                (&json!("scheduler"), &json!(12.34))
            )
        });
    }
}

/// Requests, streams, aborted ones and websockets go through, and every one is counted and ended.
fn serves(envoy: &Envoy, upstream: &Upstream) {
    let client = envoy.client();
    assert_eq!(
        client.get("/echo", &[("x-a", "1")]).json()["headers"]["x-a"],
        "1"
    );
    let mut stream = client.open("/sse?events=100000&interval_ms=5", &[(ACCOUNT, "a")]);
    stream.events(3);
    assert_eq!(upstream.snapshot().account("a").now, 1);
    drop(stream);
    eventually(PATIENCE, || upstream.snapshot().account("a").now == 0);
    let (status, mut socket) = client.websocket("/ws", &[]);
    socket.send(b"ping");
    assert_eq!((status, socket.read_exact(4)), (101, b"ping".to_vec()));
    assert_eq!(client.get("/reset", &[]).status, 503);
    assert!(
        envoy
            .stat("http.no_such_manager.downstream_rq_total")
            .is_none()
    );
    let total: u64 = envoy
        .stats()
        .iter()
        .filter(|(name, _)| name.ends_with("downstream_rq_total"))
        .map(|s| s.1)
        .sum();
    assert!(total >= 4, "{total}");
}
