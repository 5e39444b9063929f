//! gRPC: what a client is told that gets no slot, and what the answer of an upstream says that refuses.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use crate::edges::speaking;
use crate::world::{SOON, World, config};
use support::*;

fn http2(config: EnvoyConfig) -> EnvoyConfig {
    speaking(config, "http2_protocol_options", json!({}))
}

/// The answer to one call: status, headers, and whether anything came after them.
fn call(world: &World, path: &str, content_type: &str) -> (u16, HeaderMap, bool) {
    let addr = world.envoy.addr();
    let request = hyper::Request::post(format!("http://{addr}{path}"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
        .expect("a request");
    wait(async move {
        let tcp = TcpStream::connect(addr).await.expect("a connection");
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
        let (mut sender, connection) = handshake.await.expect("HTTP/2");
        spawn(connection);
        let response = sender.send_request(request).await.expect("a response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.expect("a whole body");
        let more = body.trailers().is_some() || !body.to_bytes().is_empty();
        (status, headers, more)
    })
}

fn get<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().expect("text"))
}

#[test]
fn a_client_that_is_refused_gets_resource_exhausted() {
    let world = World::start(http2(config(&[("a", 1)])));
    let held = world.client().open("/sse?events=100000", &[]);
    for content_type in ["application/grpc", "application/grpc+proto"] {
        let (status, headers, more) = call(&world, "/grpc", content_type);
        assert_eq!((status, more), (200, false), "trailers only: {headers:?}");
        assert_eq!(get(&headers, "grpc-status"), "8");
        assert_eq!(
            get(&headers, "grpc-message"),
            "every account of the pool is in use"
        );
        assert_eq!(get(&headers, "content-type"), "application/grpc");
        let seconds: u32 = get(&headers, "retry-after").parse().expect("seconds");
        assert!(seconds >= 1);
    }
    // Whoever does not speak gRPC gets what it always got.
    for content_type in ["application/json", "application/grpc-web"] {
        let (status, headers, more) = call(&world, "/grpc", content_type);
        assert_eq!((status, more), (429, true));
        assert_eq!(get(&headers, "content-type"), "application/json");
        assert!(!headers.contains_key("grpc-status"));
    }
    drop(held);
    world.assert_all_free();
    world.eventually_counts("requests;outcome=rejected;reason=saturated", 4);
}

#[test]
fn a_client_without_a_ledger_gets_unavailable() {
    let world = World::start(http2(config(&[("a", 2)])).plugin(|plugin| {
        plugin["failure"] = json!({"action": "reject"});
        plugin["redis"]["acquire_timeout_ms"] = json!(100);
        plugin["redis"]["command_timeout_ms"] = json!(1_000);
    }));
    // It waits for Redis first: the answer comes from outside of the request's own callbacks.
    world.redis.sigstop();
    let (status, headers, more) = call(&world, "/grpc", "application/grpc");
    world.redis.sigcont();
    assert_eq!((status, more), (200, false));
    assert_eq!(get(&headers, "grpc-status"), "14");
    assert_eq!(get(&headers, "grpc-message"), "no slot could be taken");
    assert_eq!(get(&headers, "content-type"), "application/grpc");
    assert_eq!(get(&headers, "retry-after"), "");
}

/// How long the account rests, in ms, if it does.
fn rests(world: &World, account: &str) -> Option<f64> {
    let state = world.ledger.state();
    let until = state.cooldown.get(account)?;
    Some(until - state.now_ms)
}

#[test]
fn an_upstream_that_is_exhausted_rests() {
    let world = World::start(http2(config(&[("a", 1), ("b", 1), ("c", 1)])));
    let refused = "/grpc-only?grpc-status=8";
    for (path, content_type, length) in [
        (
            format!("{refused}&retry-after=30"),
            "application/grpc",
            30_000.0,
        ),
        (
            format!("{refused}&grpc-retry-pushback-ms=20000"),
            "application/grpc+proto",
            20_000.0,
        ),
        (refused.to_owned(), "application/grpc", 5_000.0),
    ] {
        let (status, headers, more) = call(&world, &path, content_type);
        assert_eq!((status, more), (200, false));
        assert_eq!(get(&headers, "grpc-status"), "8", "passed on as it is");
        let account = get(&headers, "x-slotgate-account").to_owned();
        let left = eventually_some(SOON, || rests(&world, &account));
        assert!(
            left <= length && left > length - 3_000.0,
            "{path}: {left} of {length}"
        );
    }
    world.eventually_counts("cooldown", 3);
}

#[test]
fn what_else_grpc_says_starts_no_rest() {
    let world = World::start(http2(config(&[("a", 1)])));
    for (path, content_type) in [
        (
            "/grpc-only?grpc-status=14&retry-after=30",
            "application/grpc",
        ),
        (
            "/grpc-only?grpc-status=13&retry-after=30",
            "application/grpc",
        ),
        ("/grpc-only?grpc-status=0", "application/grpc"),
        // The header means nothing to whoever does not speak gRPC.
        (
            "/grpc-only?grpc-status=8&retry-after=30",
            "application/json",
        ),
        // After a message it is too late: the status comes in real trailers.
        ("/grpc?messages=1&status=8", "application/grpc"),
    ] {
        call(&world, path, content_type);
        world.assert_all_free();
        assert_eq!(rests(&world, "a"), None, "{path}");
    }
    assert_eq!(world.counter("cooldown"), 0);
}

/// The upstream's own word, and Envoy's where nobody listens: a gRPC client gets a 200 for that too.
#[test]
fn an_account_that_is_unavailable_is_put_behind() {
    for fails_by in ["upstream", "envoy"] {
        let accounts = [("a", 1), ("bad", 1)];
        let world = World::start(http2(config(&accounts)).plugin(|plugin| {
            plugin["failing"] = json!({"consecutive": 3, "behind_ms": 60_000});
            plugin["pools"][0]["accounts"][0]["priority"] = json!(2);
            let bad = &mut plugin["pools"][0]["accounts"][1]["set_headers"];
            if fails_by == "upstream" {
                bad[":path"] = json!("/grpc-only?grpc-status=14");
            } else {
                bad["x-upstream"] = json!("no_such_cluster");
            }
        }));
        let accounts: Vec<String> = (0..6)
            .map(|_| {
                let (status, headers, _) = call(&world, "/grpc", "application/grpc");
                assert_eq!(status, 200);
                world.assert_all_free();
                get(&headers, "x-slotgate-account").to_owned()
            })
            .collect();
        assert_eq!(accounts, ["bad", "bad", "bad", "a", "a", "a"], "{fails_by}");
        world.eventually_counts("behind", 1);
        assert_eq!(world.counter("cooldown"), 0);
    }
}
