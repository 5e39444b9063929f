//! Many clients of the console at once: they wait for one another, and nobody else does.

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::*;

/// A console and a data path on one worker.
fn one_worker() -> Rig {
    Rig::with(
        |plugin| plugin["token_env"] = json!("CONSOLE_TOKEN"),
        |config| config.workers(1),
    )
}

/// What 32 clients get that ask again at once, while a hundred requests pass the data path: answers by status, and in how
/// many seconds.
fn flood(rig: &Rig, make: fn() -> Request) -> (std::collections::BTreeMap<u16, usize>, f64) {
    let start = Instant::now();
    let client = Client::new(rig.console);
    let asking: Vec<_> = (0..32)
        .map(|_| {
            spawn(async move {
                let mut replies = Vec::new();
                while start.elapsed() < Duration::from_secs(2) {
                    replies.push(client.sending(make()).await);
                }
                replies
            })
        })
        .collect();
    for _ in 0..100 {
        rig.world.assert_serves();
    }
    let mut replies = Vec::new();
    for one in asking {
        replies.extend(wait(async { one.await.unwrap() }));
    }
    (count_statuses(&replies), start.elapsed().as_secs_f64())
}

#[test]
fn clients_that_ask_as_fast_as_they_can_are_slowed_down() {
    let rig = one_worker();
    // Every quarter of a second a look for all, but for those who came first.
    let (got, seconds) = flood(&rig, || get("/api/status"));
    println!("status: {got:?} in {seconds:.1} s");
    assert_eq!(got.keys().collect::<Vec<_>>(), [&200]);
    assert!((got[&200] as f64) < 32.0 * (seconds * 4.0 + 2.0), "{got:?}");
    assert!(got[&200] >= 64, "{got:?}");
    // Answers that cost no look: 15 at once, then one in 16 ms.
    for make in [
        || get("/style.css"),
        || get("/nothing"),
        || post("drain", r#"{"account": "a"}"#),
        || Request::get("/").header("host", "evil.example"),
        || post("explain", "["),
    ] {
        let (got, seconds) = flood(&rig, make);
        println!("{got:?} in {seconds:.1} s");
        let all: usize = got.values().sum();
        assert!((all as f64) < seconds * 62.5 + 48.0, "{got:?}");
        assert!(all >= 48 && !got.contains_key(&0), "{got:?}");
    }
    // Explanations one after the other; the page still sees what it shows.
    let (got, seconds) = flood(&rig, || post("explain", "{}"));
    println!("explain: {got:?} in {seconds:.1} s");
    assert!(got[&200] > 8 && !got.contains_key(&0), "{got:?}");
    assert_eq!(rig.status()["pools"][0]["pool"], "demo");
}

#[test]
fn slow_bodies_lock_nobody_out() {
    let rig = one_worker();
    let head = |action: &str| {
        format!(
            "POST /api/{action} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n",
            rig.console
        )
    };
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut raw = Client::new(rig.console).raw();
        raw.send(head("explain").as_bytes());
        raw.send(b"{");
        slow.push(raw);
    }
    // Who has no token is not even waited for.
    let mut raw = Client::new(rig.console).raw();
    raw.send(head("drain").as_bytes());
    assert!(raw.read_head().contains(" 401 "));
    // Most of the slow ones have given way already, or none would be left to the others.
    assert_eq!(rig.get("/api/status").status, 200);
    assert_eq!(rig.send(post("explain", "{}")).status, 200);
    assert_eq!(rig.done("drain", &json!({"account": "a"}))["changed"], true);
    for mut raw in slow {
        let said = raw.read_head();
        assert!(said.contains(" 408 "), "{said}");
    }
}

/// Requests of one HTTP/2 connection, all there at once, and what became of them.
fn burst(rig: &Rig, path: &str, many: usize) -> std::collections::BTreeMap<u16, usize> {
    let (addr, uri) = (rig.console, format!("http://localhost:9902{path}"));
    wait(async move {
        let tcp = TcpStream::connect(addr).await.expect("a connection");
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
        let (sender, connection) = handshake.await.expect("HTTP/2");
        spawn(connection);
        let all: Vec<_> = (0..many)
            .map(|_| {
                let (mut sender, uri) = (sender.clone(), uri.clone());
                spawn(async move {
                    let request = hyper::Request::get(uri)
                        .body(Full::new(Bytes::new()))
                        .expect("a request");
                    let response = sender.send_request(request).await.expect("an answer");
                    let (head, body) = response.into_parts();
                    // Read to its end: a body that is dropped is a reset, and Envoy counts those.
                    body.collect().await.expect("a whole body");
                    head.status.as_u16()
                })
            })
            .collect();
        let mut got = std::collections::BTreeMap::new();
        for one in all {
            *got.entry(one.await.expect("no panic")).or_default() += 1;
        }
        got
    })
}

#[test]
fn a_thousand_at_once_on_one_connection_are_all_answered() {
    let rig = one_worker();
    for path in ["/api/status", "/main.js", "/nothing"] {
        let got = burst(&rig, path, 1_000);
        println!("{path}: {got:?}");
        assert_eq!(got.values().sum::<usize>(), 1_000);
    }
    // While Redis is silent, all who wait are told at once.
    rig.world.redis.pause(Duration::from_millis(2_500));
    let got = burst(&rig, "/api/status", 1_000);
    println!("silent: {got:?}");
    assert_eq!(got, [(503, 1_000)].into());
    eventually(SOON, || rig.get("/api/status").status == 200);
    assert!(!rig.world.envoy.log().contains("Maximum call stack"));
    rig.world.assert_serves();
}
