//! HTTP/2, gRPC, websockets, server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame};
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{account, assert_nothing_left, assert_tried, in_order, rested, watched};
use crate::edges::speaking;
use crate::world::{SOON, World};
use support::*;

/// Speaks HTTP/2 to its upstream. `in_order` has put the second half there already.
fn http2(ids: &[&str]) -> World {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let config = in_order(ids);
    let halves = config.clone().document["static_resources"]["clusters"].clone();
    let config = speaking(config, "http2_protocol_options", json!({}));
    watched(config.edit(|document| {
        let clusters = document["static_resources"]["clusters"].as_array_mut();
        let halves = halves.as_array().expect("clusters");
        for (cluster, half) in clusters.expect("clusters").iter_mut().zip(halves) {
            let half = &half["typed_extension_protocol_options"][OPTIONS]["http_filters"];
            let options = cluster.get_mut("typed_extension_protocol_options");
            if let (Some(options), true) = (options, half.is_array()) {
                options[OPTIONS]["http_filters"] = half.clone();
            }
        }
    }))
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

impl Answer {
    fn get(&self, name: &str) -> &str {
        let value = self.headers.get(name).or(self.trailers.get(name));
        value.map_or("", |value| value.to_str().expect("text"))
    }
}

/// One call over HTTP/2.
fn call<B>(world: &World, path: &str, content_type: &str, body: B) -> Result<Answer, Error>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let addr = world.envoy.addr();
    let request = hyper::Request::post(format!("http://{addr}{path}"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(body)
        .expect("a request");
    wait(async move {
        let whole = async move {
            let tcp = TcpStream::connect(addr).await?;
            let handshake =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
            let (mut sender, connection) = handshake.await?;
            spawn(connection);
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = body.collect().await?;
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                trailers: body.trailers().cloned().unwrap_or_default(),
                body: body.to_bytes(),
            })
        };
        let whole = tokio::time::timeout(PATIENCE, whole).await;
        whole.unwrap_or_else(|_| Err("no whole answer in time".into()))
    })
}

fn message() -> Full<Bytes> {
    Full::new(Bytes::from_static(b"\0\0\0\0\x02hi"))
}

/// A body that comes as it is given.
struct Slow(mpsc::UnboundedReceiver<Bytes>);

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = self.0.poll_recv(cx);
        bytes.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[test]
fn http2_on_both_sides() {
    let world = http2(&["a", "b", "c"]);
    for early in [0, 1] {
        for length in [0, 1_000, 300_000, 10_000_000] {
            for (refuse, tried) in [("a", &["a", "b"][..]), ("a,b", &["a", "b", "c"])] {
                let path = format!("/refuse?accounts={refuse}&early={early}");
                let body = Full::new(Bytes::from(vec![b'x'; length]));
                let answer = call(&world, &path, "text/plain", body).expect("an answer");
                let text = String::from_utf8_lossy(&answer.body);
                assert_eq!(answer.status, 200, "{length}, early {early}: {text}");
                let seen: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(seen["body_length"], length);
                assert_tried(&world, tried);
                rested(&world);
            }
        }
    }
    // Many streams of one connection at once: the account's slots are fewer.
    let replies = world
        .client()
        .burst(Protocol::Http2 { streams: 10 }, 10, |_| {
            Request::post("/refuse?tries=1&delay_ms=20", vec![b'x'; 1_000])
        });
    for reply in replies {
        let reply = reply.expect("an answer");
        assert!([200, 429].contains(&reply.status), "{}", reply.text());
    }
    let seen = world.upstream.take_seen();
    assert!(seen.iter().all(|seen| seen.http2), "{seen:?}");
    for one in seen {
        assert_eq!(one.owner.as_ref(), Some(&one.account), "{one:?}");
        assert_eq!(one.key, format!("Bearer key-of-{}", one.account));
    }
    assert_nothing_left(&world);
}

#[test]
fn grpc_calls() {
    const GRPC: &str = "application/grpc";
    let world = http2(&["a", "b", "c"]);
    // One answer, and many.
    for messages in [1, 100] {
        let path = format!("/refuse?grpc=8&accounts=a&then=grpc&messages={messages}");
        let answer = call(&world, &path, GRPC, message()).expect("an answer");
        assert_eq!((answer.status, answer.get("grpc-status")), (200, "0"));
        assert_eq!(answer.body.len(), messages * 10);
        assert_tried(&world, &["a", "b"]);
        rested(&world);
    }
    // 14 is a failure of the account, and no refusal: a gRPC client tries that again by itself.
    let path = "/refuse?grpc=14&accounts=a";
    let answer = call(&world, path, GRPC, message()).expect("an answer");
    assert_eq!((answer.status, answer.get("grpc-status")), (200, "14"));
    assert_tried(&world, &["a"]);
    rested(&world);
    // A status in real trailers comes after the answer has begun.
    let path = "/refuse?then=grpc&status=8";
    let answer = call(&world, path, GRPC, message()).expect("an answer");
    assert_eq!(answer.get("grpc-status"), "8");
    assert_tried(&world, &["a"]);
    rested(&world);
    let path = "/refuse?grpc=8&accounts=a,b,c";
    let answer = call(&world, path, GRPC, message()).expect("an answer");
    assert_eq!((answer.status, answer.get("grpc-status")), (200, "8"));
    assert_tried(&world, &["a", "b", "c"]);
    rested(&world);
    // A call whose client still speaks when it is refused.
    for tried in [&["a", "b"][..], &["a", "b", "c"]] {
        let (speak, said) = mpsc::unbounded_channel();
        speak.send(Bytes::from(vec![0; 1_000])).expect("it listens");
        let refuse = tried[..tried.len() - 1].join(",");
        let path = format!("/refuse?accounts={refuse}&status=429&early=1");
        let answer = std::thread::scope(|scope| {
            let answer = scope.spawn(|| call(&world, &path, GRPC, Slow(said)));
            eventually(SOON, || world.upstream.seen() == tried.len());
            speak.send(Bytes::from(vec![0; 1_000])).expect("it listens");
            drop(speak);
            answer.join().expect("no panic").expect("an answer")
        });
        let seen: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(seen["body_length"], 2_000);
        assert_tried(&world, tried);
        rested(&world);
    }
    drop(world);
    // No third account: the upstream's word, and slotgate's message.
    let world = http2(&["a", "b"]);
    let path = "/refuse?grpc=8&accounts=a,b";
    let answer = call(&world, path, GRPC, message()).expect("an answer");
    assert_eq!((answer.status, answer.get("grpc-status")), (200, "8"));
    assert_eq!(
        answer.get("grpc-message"),
        "the account refused this request, and no other one of the pool can take it"
    );
    assert_tried(&world, &["a", "b"]);
    assert_nothing_left(&world);
}

#[test]
fn a_websocket_that_is_refused_at_first() {
    let world = watched(in_order(&["a", "b", "c"]));
    for (refuse, tried) in [("a", &["a", "b"][..]), ("a,b", &["a", "b", "c"])] {
        let path = format!("/refuse?accounts={refuse}&then=ws");
        let (status, mut socket) = world.client().websocket(&path, &[]);
        assert_eq!(status, 101);
        for _ in 0..3 {
            socket.send(b"ping");
            assert_eq!(socket.read_exact(4), b"ping");
        }
        assert_tried(&world, tried);
        assert_eq!(world.ledger.live(), 1);
        let owner = world.ledger.owner();
        assert_eq!(
            owner.values().next().map(String::as_str),
            tried.last().copied()
        );
        drop(socket);
        rested(&world);
    }
    let path = "/refuse?accounts=a,b,c&then=ws";
    let (status, _socket) = world.client().websocket(path, &[]);
    assert_eq!(status, 429);
    assert_tried(&world, &["a", "b", "c"]);
    assert_nothing_left(&world);
}

/// Each event comes when it was sent, and the first as soon as without another account to try.
#[test]
fn server_sent_events() {
    const APART: Duration = Duration::from_millis(400);
    let path = |refuse: &str| {
        let apart = APART.as_millis();
        format!("/refuse?accounts={refuse}&then=sse&events=3&interval_ms={apart}")
    };
    let with = watched(in_order(&["a", "b", "c"]));
    let without = watched(in_order(&["a", "b", "c"]).plugin(|plugin| {
        plugin["failover"] = json!({"max_attempts": 1});
    }));
    let first = |world: &World, refuse: &str| {
        let begin = Instant::now();
        let mut stream = world.client().open(&path(refuse), &[]);
        assert_eq!(stream.status, 200);
        stream.events(1);
        let first = begin.elapsed();
        drop(stream);
        rested(world);
        first
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (mut kept, mut refused, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..9 {
        alone.push(first(&without, ""));
        kept.push(first(&with, ""));
        refused.push(first(&with, "a"));
    }
    let (kept, refused, alone) = (median(kept), median(refused), median(alone));
    println!("first event: {alone:?} without, {kept:?} with it, {refused:?} once refused");
    // It is not held back until the next one, whatever else the machine has to do.
    assert!(kept < alone + APART / 4, "{kept:?}, {alone:?}");
    assert!(refused < alone + APART / 2, "{refused:?}, {alone:?}");
    let mut stream = with.client().open(&path("a"), &[]);
    assert_eq!(stream.events(4).last().map(String::as_str), Some("[DONE]"));
    assert_eq!(stream.header("x-slotgate-account"), "b");
    assert!(!account(&with.get("/refuse?accounts=")).is_empty());
    drop(stream);
    assert_nothing_left(&with);
}
