//! Requests as nobody should send them: none may trap the VM, and each is served or refused like any other.

use std::time::Duration;

use serde_json::json;

use crate::world::{World, config, way};
use support::*;

/// Every place that a session, an override or a pool is read from.
fn curious() -> EnvoyConfig {
    config(&[("a", 50)])
        .env("TOKEN", "t0ken")
        .plugin(|plugin| {
            plugin["gray"]["session"] =
                json!([{"header": "x-session-id"}, {"cookie": "sid"}, {"query": "session"}]);
            plugin["gray"]["override"] = json!({"token_env": "TOKEN"});
            let mut rest = plugin["pools"][0].clone();
            rest["name"] = json!("rest");
            plugin["pools"][0]["match"] = json!([{"header": "x-model", "prefix": "no-such-"}]);
            plugin["pools"].as_array_mut().expect("pools").push(rest);
        })
        .manager(|manager| {
            manager["max_request_headers_kb"] = json!(8_192);
            manager["common_http_protocol_options"] = json!({"max_headers_count": 5_000});
        })
}

#[track_caller]
fn assert_pipe_never_broke(world: &World) {
    world.eventually_counts("pipe.ready", 1);
    assert_eq!(
        (world.counter("pipe.ready"), world.counters("pipe.lost")),
        (1, 0)
    );
}

#[test]
fn odd_headers_are_served() {
    let world = World::start(curious());
    let long = "x".repeat(60_000);
    let high: Vec<u8> = (0x80..=0xff).collect();
    let get = || Request::get("/echo");
    let many = |name: &'static str, value: &[u8], times: usize| {
        (0..times).fold(get(), |request, _| request.header(name, value))
    };
    let names = [
        "x-session-id",
        "cookie",
        "x-request-id",
        "x-slotgate-gray",
        "x-model",
        "x-other",
    ];
    let mut requests = vec![
        (
            "60 kB in all",
            (0..60).fold(get(), |r, _| r.header("x-filling", &long[..1_000])),
        ),
        (
            "a cookie of nothing but signs",
            get().header("cookie", "=;;=;sid;=sid=;;sid==;"),
        ),
        ("many cookies", many("cookie", b"sid=\xff", 100)),
        (
            "a long query",
            Request::get(Box::leak(format!("/echo?session={long}").into_boxed_str())),
        ),
        (
            "an odd query",
            Request::get("/echo?&&=&session&session==&?session=#session=x"),
        ),
        (
            "1000 own headers",
            many("x-slotgate-lease", b"forged", 1_000),
        ),
        (
            "a valid token and more",
            get().header("x-slotgate-gray", b"t0ken\xff:on"),
        ),
    ];
    for name in names {
        requests.push((name, get().header(name, &long)));
        requests.push((name, get().header(name, &high)));
        requests.push((name, get().header(name, "")));
        requests.push((name, many(name, b"", 3)));
        requests.push((name, many(name, b"\xff\xfe", 500)));
        requests.push((
            name,
            get()
                .header(name, "")
                .header(name, "second")
                .header(name, &high),
        ));
    }
    for (what, request) in requests {
        let reply = world
            .client()
            .send(request)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(way(&reply), (200, "atomic"), "{what}: {}", reply.text());
    }
    // What isn't ours arrives as it was sent.
    let request = get()
        .header("x-own", &high)
        .header("x-own", "")
        .header("x-own", &long);
    assert_eq!(
        world.client().send(request).expect("a response").status,
        200
    );
    let seen: Vec<_> = world
        .upstream
        .last_headers()
        .get_all("x-own")
        .iter()
        .cloned()
        .collect();
    assert_eq!(seen, [high.as_slice(), b"", long.as_bytes()]);
    assert_pipe_never_broke(&world);
    assert!(Ledger::new(&world.redis, "slotgate", "rest").is_empty());
}

/// An own header's name of any length, and names that only look like ours.
#[test]
fn odd_names() {
    let world = World::start(curious());
    let long: &'static str =
        Box::leak(format!("x-slotgate-{}", "y".repeat(30_000)).into_boxed_str());
    let request = Request::get("/echo")
        .header(long, "forged")
        .header("x-slotgate-", "forged")
        .header("x-slotgate", "kept")
        .header("x-slotgatex", "kept");
    let reply = world.client().send(request).expect("a response");
    assert_eq!(way(&reply), (200, "atomic"));
    let headers = reply.json()["headers"].clone();
    assert_eq!(
        (headers.get(long), headers.get("x-slotgate-")),
        (None, None)
    );
    assert_eq!(
        (&headers["x-slotgate"], &headers["x-slotgatex"]),
        (&json!("kept"), &json!("kept"))
    );
    assert_pipe_never_broke(&world);
}

/// What Envoy refuses before the filter sees it, or in the middle.
#[test]
fn requests_that_are_none() {
    let world = World::start(curious());
    for bytes in [
        &b"\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: test\r\n\r\n",
        b"CONNECT test:1 HTTP/1.1\r\nhost: test:1\r\n\r\n",
        b"GET /\xff\xfe?session=\xff HTTP/1.1\r\nhost: test\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: test\r\nx-session-id: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: test\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nnot a chunk\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut raw = world.client().raw();
        raw.set_read_timeout(Duration::from_millis(200));
        raw.send(bytes);
        // An answer or none: some of these might go on.
        raw.read_head();
    }
    assert_eq!(way(&world.get("/")), (200, "atomic"));
    assert_pipe_never_broke(&world);
    let rest = Ledger::new(&world.redis, "slotgate", "rest");
    eventually(PATIENCE, || rest.is_empty());
    rest.assert_consistent();
}
