//! What became of a request, in the access log and in its span.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use slotgate::request::gray::Bucketer;

use crate::world::{SOON, World, config};
use support::*;

/// The line about the request of this id.
#[track_caller]
fn line(envoy: &Envoy, id: &str) -> Value {
    let find = || {
        let lines = envoy.stdout();
        let mut lines = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["request_id"] == id)
    };
    eventually_some(SOON, find)
}

/// A configuration whose requests keep the id that they are given.
fn logging(accounts: &[(&str, u32)]) -> EnvoyConfig {
    config(accounts)
        .manager(|manager| manager["preserve_external_request_id"] = json!(true))
        .plugin(|plugin| plugin["gray"]["percent"] = json!(50))
}

/// A session that is in, or out, at 50 %, and its bucket.
fn session(inside: bool) -> (String, String) {
    let all = (0..).map(|number: u32| format!("session-{number}"));
    let mut buckets = all.map(|session| (Bucketer::new("").bucket(session.as_bytes()), session));
    let (bucket, session) = buckets
        .find(|(bucket, _)| (*bucket < 5_000) == inside)
        .expect("one");
    (session, bucket.to_string())
}

#[test]
fn every_way_of_a_request_is_logged() {
    let world = World::start(logging(&[("a", 1)]));
    let ((inside, in_bucket), (outside, out_bucket)) = (session(true), session(false));
    let get = |id: &str, session: &str| {
        let headers = [("x-request-id", id), ("x-session-id", session)];
        world.client().get("/echo", &headers)
    };
    let granted = get("granted", &inside);
    let seen = line(&world.envoy, "granted");
    let lease = granted.json()["headers"]["x-slotgate-lease"].clone();
    assert!(lease.is_string());
    let expect = |seen: &Value, words: [&str; 5]| {
        let names = ["path", "reason", "pool", "account", "bucket"];
        let own = names.map(|name| seen[name].as_str().unwrap_or("-"));
        assert_eq!(own, words, "{seen}");
    };
    expect(&seen, ["atomic", "-", "demo", "a", &in_bucket]);
    assert_eq!(seen["lease"], lease);
    let acquire_ms: f64 = seen["acquire_ms"]
        .as_str()
        .expect("text")
        .parse()
        .expect("ms");
    let duration_ms = seen["duration_ms"].as_f64().expect("a number");
    assert!(
        acquire_ms > 0.0 && acquire_ms <= duration_ms + 1.0,
        "{seen}"
    );

    get("out", &outside);
    let seen = line(&world.envoy, "out");
    expect(
        &seen,
        ["traditional", "out_of_percentage", "demo", "-", &out_bucket],
    );
    assert_eq!(
        (&seen["lease"], &seen["acquire_ms"]),
        (&json!(null), &json!(null))
    );

    let held = world
        .client()
        .open("/sse?events=100000", &[("x-session-id", &inside)]);
    assert_eq!(get("saturated", &inside).status, 429);
    let seen = line(&world.envoy, "saturated");
    expect(&seen, ["rejected", "saturated", "demo", "-", &in_bucket]);
    assert!(
        seen["acquire_ms"].is_string(),
        "it waited for the answer: {seen}"
    );
    assert_eq!(seen["status"], 429);
    drop(held);
    world.assert_all_free();
}

/// Answered at once by the filter itself, late, of no pool, chosen by the worker.
#[test]
fn the_ways_without_the_ledger_are_logged_too() {
    let world = World::start(logging(&[("a", 5)]).plugin(|plugin| {
        plugin["gray"]["percent"] = json!(100);
        plugin["redis"]["acquire_timeout_ms"] = json!(300);
        plugin["failure"] = json!({"action": "reject"});
        plugin["pools"][0]["match"] = json!([{"header": "x-model", "present": true}]);
    }));
    let get = |id: &str| {
        world
            .client()
            .get("/", &[("x-request-id", id), ("x-model", "m")])
    };
    eventually(SOON, || get("warm").status == 200);
    world.client().get("/", &[("x-request-id", "stray")]);
    let seen = line(&world.envoy, "stray");
    assert_eq!(
        (&seen["path"], &seen["reason"]),
        (&json!("traditional"), &json!("no_pool"))
    );
    assert_eq!(
        (&seen["pool"], &seen["bucket"]),
        (&json!(null), &json!(null))
    );

    world.redis.sigstop();
    assert_eq!(get("late").status, 503);
    let seen = line(&world.envoy, "late");
    assert_eq!(
        (&seen["path"], &seen["reason"]),
        (&json!("rejected"), &json!("timed_out"))
    );
    let acquire_ms: f64 = seen["acquire_ms"]
        .as_str()
        .expect("text")
        .parse()
        .expect("ms");
    assert!(acquire_ms >= 299.0, "{seen}");
    world.redis.sigcont();
    world.redis.kill();
    let down = || {
        let id = format!("down-{:?}", std::time::Instant::now());
        get(&id);
        line(&world.envoy, &id)
    };
    eventually(SOON, || {
        let seen = down();
        seen["path"] == "rejected" && seen["reason"] == "pipe_down" && seen["acquire_ms"].is_null()
    });
    let local = world.another(logging(&[("a", 5)]).plugin(|plugin| {
        plugin["gray"]["percent"] = json!(0);
        plugin["traditional"] = json!({"mode": "local"});
    }));
    local.client().get("/", &[("x-request-id", "local")]);
    let seen = line(&local, "local");
    assert_eq!(
        (&seen["path"], &seen["account"]),
        (&json!("local"), &json!("a"))
    );
    assert!(
        seen["lease"].is_string() && seen["acquire_ms"].is_null(),
        "{seen}"
    );
}

#[test]
fn the_tries_of_a_refused_request_are_counted() {
    let config = logging(&[("a", 5), ("b", 5)]).plugin(|plugin| {
        plugin["gray"]["percent"] = json!(100);
        // `a` is tried first as long as it has not refused anything.
        plugin["cooldown"] = json!({"max_ms": 1, "probe": false});
        plugin["priority_mode"] = json!("strict");
        plugin["pools"][0]["accounts"][1]["priority"] = json!(2);
    });
    let config = config.failover(3).manager(|manager| {
        let format = &mut manager["access_log"][0]["typed_config"]["log_format"]["json_format"];
        format["tries"] = json!("%FILTER_STATE(wasm.slotgate.tries:PLAIN)%");
    });
    let world = World::start(config);
    let get = |id: &str, refused: &str| {
        let path = format!("/refuse?accounts={refused}");
        world.client().get(&path, &[("x-request-id", id)])
    };
    let expect = |id: &str, words: [&str; 4]| {
        let seen = line(&world.envoy, id);
        let own =
            ["path", "reason", "account", "tries"].map(|name| seen[name].as_str().unwrap_or("-"));
        assert_eq!(own, words, "{seen}");
        seen
    };
    assert_eq!(get("once", "").status, 200);
    expect("once", ["atomic", "-", "a", "-"]);
    let served = get("served", "a");
    let seen = expect("served", ["atomic", "-", "b", "2"]);
    assert_eq!(seen["lease"], served.json()["headers"]["x-slotgate-lease"]);
    // None served it: the account is still said that was tried last.
    assert_eq!(get("refused", "a,b").status, 429);
    let seen = line(&world.envoy, "refused");
    let own = ["path", "reason"].map(|name| seen[name].as_str().unwrap_or("-"));
    assert_eq!(own, ["rejected", "saturated"], "{seen}");
    assert!(
        seen["account"].is_string() && seen["lease"].is_string(),
        "{seen}"
    );
    assert!(seen["tries"].is_null(), "{seen}");
}

#[test]
fn without_the_setting_nothing_is_said() {
    let world = World::start(logging(&[("a", 5)]).plugin(|plugin| {
        plugin
            .as_object_mut()
            .expect("an object")
            .remove("access_log");
    }));
    world.client().get("/", &[("x-request-id", "quiet")]);
    let seen = line(&world.envoy, "quiet");
    for name in [
        "path",
        "reason",
        "pool",
        "account",
        "lease",
        "bucket",
        "acquire_ms",
    ] {
        assert!(seen.get(name).is_some_and(Value::is_null), "{name}: {seen}");
    }
}

/// Takes what an OpenTelemetry exporter posts.
fn collector() -> (std::net::SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let addr = listener.local_addr().expect("its address");
    let posted = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&posted);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let all = Arc::clone(&all);
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                while let Ok(length) = stream.read(&mut buffer) {
                    if length == 0 {
                        return;
                    }
                    all.lock().unwrap().extend_from_slice(&buffer[..length]);
                    // One answer to each request: its head is never cut here.
                    if buffer.starts_with(b"POST") {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                    }
                }
            });
        }
    });
    (addr, posted)
}

/// Values of a string attribute in an OTLP message: `KeyValue{1: key, 2: AnyValue{1: text}}`.
fn attributes(message: &[u8], key: &str) -> Vec<String> {
    let mut head = vec![0x0a, key.len() as u8];
    head.extend_from_slice(key.as_bytes());
    let places = (0..message.len()).filter(|at| message[*at..].starts_with(&head));
    let value = |at: usize| {
        let rest = &message[at + head.len()..];
        assert_eq!(
            (rest[0], rest[2]),
            (0x12, 0x0a),
            "an AnyValue with a string"
        );
        String::from_utf8_lossy(&rest[4..4 + usize::from(rest[3])]).into_owned()
    };
    places.map(value).collect()
}

/// `envoy/tracing.yaml` as it is shipped, but for the collector's address.
#[test]
fn a_span_carries_the_same_words() {
    let (addr, posted) = collector();
    let text = std::fs::read_to_string(root().join("envoy/tracing.yaml")).expect("the file");
    let part: Value = serde_yaml_ng::from_str(&text).expect("YAML");
    let upstream = Upstream::start();
    let redis = Redis::start();
    let start = |with_values: bool| {
        let mut tracing = part["manager"]["tracing"].clone();
        let tags = tracing["custom_tags"].as_array_mut().expect("tags");
        tags.retain(|tag| with_values || tag.get("value").is_none());
        let mut collector = part["clusters"][0].clone();
        // An address instead of a name.
        collector["type"] = json!("STATIC");
        let config = logging(&[("a", 1)])
            .manager(|manager| manager["tracing"] = tracing.clone())
            .edit(|document| {
                let clusters = &mut document["static_resources"]["clusters"];
                clusters.as_array_mut().expect("clusters").push(collector);
            });
        let config = config.redis(redis.addr()).upstream(upstream.addr());
        Envoy::start(config.cluster("collector", addr))
    };
    let envoy = start(false);
    let can = !envoy.version().starts_with("1.36.");
    let envoy = if can { start(true) } else { envoy };
    let (inside, bucket) = session(true);
    let headers = [("x-session-id", inside.as_str())];
    let reply = envoy.client().get("/echo", &headers);
    let lease = reply.json()["headers"]["x-slotgate-lease"].clone();
    let held = envoy.client().open("/sse?events=100000", &headers);
    assert_eq!(envoy.client().get("/", &headers).status, 429);
    let seen = |key: &str| attributes(&posted.lock().unwrap(), key);
    let least = if can { 2 } else { 1 };
    eventually(Duration::from_secs(20), || {
        seen("slotgate.path").len() + seen("slotgate.outcome").len() > least
    });
    assert_eq!(seen("slotgate.path")[0], "atomic");
    assert_eq!(seen("slotgate.account")[0], "a");
    assert_eq!(seen("slotgate.lease")[0], lease.as_str().expect("a lease"));
    if can {
        eventually(SOON, || {
            seen("slotgate.outcome").contains(&"rejected".to_owned())
        });
        assert_eq!(seen("slotgate.outcome")[0], "atomic");
        assert!(seen("slotgate.reason").contains(&"saturated".to_owned()));
        assert_eq!(seen("slotgate.pool")[0], "demo");
        assert_eq!(seen("slotgate.bucket")[0], bucket);
        let acquire_ms: f64 = seen("slotgate.acquire_ms")[0].parse().expect("ms");
        assert!(acquire_ms > 0.0);
    }
    drop(held);
}
