//! What clients and upstreams are told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{World, config, way};
use support::*;

#[track_caller]
fn assert_rejection(reply: &Reply, status: u16, kind: &str) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "application/json");
    let body = reply.json();
    assert_eq!(body["error"]["type"], kind);
    assert_eq!(body["error"]["pool"], "demo");
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "{body}");
    let shape = json!({"error": {"type": kind, "message": message, "pool": "demo"}});
    assert_eq!(body, shape);
}

#[test]
fn saturated_is_429_with_retry_after() {
    let world = World::start(config(&[("a", 1)]));
    let held = world.client().open("/sse?events=100000", &[]);
    for request in [
        Request::get("/"),
        Request::post("/echo", "a body"),
        Request::get("/").header("accept", "text/html"),
    ] {
        let reply = world.client().send(request).expect("a response");
        assert_rejection(&reply, 429, "slotgate_saturated");
        let seconds: u32 = reply.header("retry-after").parse().expect("whole seconds");
        assert!(seconds >= 1);
        assert_eq!(reply.header("x-slotgate-path"), "");
    }
    // The connection is good for another try.
    let mut connection = world.client().raw();
    connection.send(b"HEAD / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(connection.read_head().starts_with("HTTP/1.1 429"));
    drop(held);
    world.assert_all_free();
    connection.send(b"HEAD / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(connection.read_head().starts_with("HTTP/1.1 200"));
    world.eventually_counts("requests;outcome=rejected;reason=saturated", 4);
    assert_eq!(
        world.upstream.snapshot().requests,
        2,
        "none of the refused ones"
    );
}

#[test]
fn saturated_may_go_the_traditional_way() {
    let config =
        config(&[("a", 1)]).plugin(|plugin| plugin["saturated"] = json!({"action": "traditional"}));
    let world = World::start(config);
    let held = world.client().open("/sse?events=100000", &[]);
    for _ in 0..3 {
        assert_eq!(way(&world.get("/")), (200, "traditional"));
        assert_eq!(world.ledger.live(), 1);
    }
    drop(held);
    world.assert_all_free();
    world.assert_serves();
    world.eventually_counts("requests;outcome=traditional;reason=saturated", 3);
}

#[test]
fn unavailable_may_be_503() {
    let world = World::start(config(&[("a", 2)]).plugin(|plugin| {
        plugin["failure"] = json!({"action": "reject"});
        plugin["redis"]["acquire_timeout_ms"] = json!(100);
        plugin["redis"]["command_timeout_ms"] = json!(1_000);
    }));
    // Redis stands still: the acquire times out.
    world.redis.sigstop();
    assert_rejection(&world.get("/"), 503, "slotgate_unavailable");
    world.redis.sigcont();
    eventually(PATIENCE, || world.get("/").status == 200);
    // Redis is gone.
    world.redis.kill();
    for _ in 0..5 {
        assert_rejection(&world.get("/"), 503, "slotgate_unavailable");
    }
    world.redis.start_again();
    eventually(Duration::from_secs(2), || world.get("/").status == 200);
    assert!(world.upstream.snapshot().path("traditional") == 0);
    world.assert_all_free();
}

/// Path, account and lease, and whatever the account's configuration sets in place of what the client sent.
#[test]
fn the_upstream_is_told_path_account_and_lease() {
    let world = World::start(
        config(&[("a", 1)])
            .env("API_KEY", "5ecret")
            .plugin(|plugin| {
                let headers = json!({
                    "x-upstream": "acct_1",
                    "authorization": "Bearer ${API_KEY}",
                    ":authority": "a.example.com",
                    "x-fixed": "one",
                });
                plugin["pools"][0]["accounts"][0]["set_headers"] = headers;
                plugin["saturated"] = json!({"action": "traditional"});
            }),
    );
    let mut held = world.client().open("/sse?events=100000", &[]);
    held.events(1);
    let owner = world.ledger.owner();
    let seen = world.upstream.last_headers();
    let told = |name: &str| {
        let values: Vec<_> = seen
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        values.join(", ")
    };
    assert_eq!(
        (told("x-slotgate-path"), told("x-slotgate-account")),
        ("atomic".into(), "a".into())
    );
    assert_eq!(
        owner.get(&told("x-slotgate-lease")).map(String::as_str),
        Some("a")
    );

    let forged = [
        ("x-slotgate-path", "forged"),
        ("x-slotgate-account", "forged"),
        ("x-slotgate-lease", "forged"),
        ("x-slotgate-gray", "forged:off"),
        ("x-slotgate-anything", "forged"),
        ("X-SlotGate-Path", "forged"),
        ("x-upstream", "forged"),
        ("authorization", "forged"),
        ("x-fixed", "forged"),
        ("x-own", "kept"),
    ];
    let headers = |reply: &Reply| reply.json()["headers"].clone();
    let send = |path: &str| {
        let request = forged
            .iter()
            .fold(Request::get(path), |request, (name, value)| {
                // Twice: each of them must go.
                request.header(name, value).header(name, value)
            });
        world.client().send(request).expect("a response")
    };
    let own = |headers: &Value| -> Vec<String> {
        let names = headers.as_object().unwrap().keys();
        names
            .filter(|name| name.starts_with("x-slotgate-"))
            .cloned()
            .collect()
    };
    let traditional = headers(&send("/echo"));
    assert_eq!(own(&traditional), ["x-slotgate-path"]);
    assert_eq!(traditional["x-slotgate-path"], "traditional");
    assert_eq!(traditional["x-fixed"], "forged, forged", "left as it is");
    drop(held);
    world.assert_all_free();

    let atomic = headers(&send("/echo"));
    assert_eq!(
        own(&atomic),
        ["x-slotgate-account", "x-slotgate-lease", "x-slotgate-path"]
    );
    assert_eq!(atomic["x-slotgate-path"], "atomic");
    assert_eq!(atomic["x-slotgate-account"], "a");
    assert_eq!(atomic["x-slotgate-lease"].as_str().map(str::len), Some(24));
    assert_eq!(atomic["authorization"], "Bearer 5ecret");
    assert_eq!(atomic["host"], "a.example.com");
    assert_eq!(
        (&atomic["x-fixed"], &atomic["x-own"]),
        (&json!("one"), &json!("kept, kept"))
    );

    // The secret is nowhere but in that header.
    assert!(!world.envoy.log_contains("5ecret"));
    for key in world.redis.run::<Vec<String>>("KEYS", &["*"]) {
        let dump: Vec<u8> = world.redis.run("DUMP", &[&key]);
        assert!(!dump.windows(6).any(|part| part == b"5ecret"), "{key}");
    }
}

#[test]
fn the_client_is_told_only_if_configured() {
    let quiet = World::start(
        config(&[("a", 1)]).plugin(|plugin| plugin["response_headers"] = json!(false)),
    );
    let reply = quiet.get("/");
    assert_eq!(reply.status, 200);
    let names: Vec<_> = reply
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-slotgate"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(quiet.upstream.snapshot().path("atomic"), 1);

    let open = World::start(config(&[("a", 1)]));
    let reply = open.get("/status/404");
    assert_eq!(
        (way(&reply), reply.header("x-slotgate-account")),
        ((404, "atomic"), "a")
    );
    assert_eq!(reply.header("x-slotgate-lease"), "", "nobody's business");
}
