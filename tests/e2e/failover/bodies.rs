//! Whatever a request carries goes to the account that serves it, once and whole.

use hyper::body::Bytes;
use serde_json::json;

use super::{account, assert_tried, in_order, rested, routes, watched};
use crate::world::SOON;
use support::*;

/// Up to Envoy 1.37 a body takes twice its length.
fn config() -> EnvoyConfig {
    routes(in_order(&["a", "b", "c"]), |route| {
        if route["route"].is_object() {
            route["request_body_buffer_limit"] = json!(32 << 20);
        }
    })
}

/// Who refuses, and who is tried.
const CASES: [(&str, &[&str]); 3] = [("", &["a"]), ("a", &["a", "b"]), ("a,b", &["a", "b", "c"])];

#[test]
fn every_method_and_any_body() {
    let world = watched(config());
    for (refuse, tried) in CASES {
        for early in [0, 1] {
            for (method, length) in [
                ("GET", 0),
                ("HEAD", 0),
                ("POST", 0),
                ("POST", 1_000),
                ("POST", 300_000),
                ("POST", 10_000_000),
            ] {
                let path = format!("/refuse?accounts={refuse}&early={early}");
                let request = Request::new(method, &path, vec![b'x'; length].into());
                let reply = world.client().send(request).expect("an answer");
                let case = format!("{method} of {length}, early {early}: {}", reply.text());
                assert_eq!(reply.status, 200, "{case}");
                assert_eq!(account(&reply), *tried.last().expect("one"), "{case}");
                assert_tried(&world, tried);
                if method == "HEAD" {
                    assert!(reply.body.is_empty(), "{case}");
                } else {
                    let seen = reply.json();
                    assert_eq!(seen["method"], method);
                    assert_eq!(seen["body_length"], length, "{case}");
                }
                rested(&world);
            }
        }
    }
}

/// Status, headers, and a body of the length that they say.
fn read_reply(connection: &mut RawConnection) -> (u16, String) {
    let head = connection.read_head();
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let body = connection.read_exact(length.unwrap_or_else(|| panic!("no length: {head}")));
    let status = status.unwrap_or_else(|| panic!("no status: {head}"));
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn body_length(text: &str) -> u64 {
    let seen: serde_json::Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    seen["body_length"].as_u64().expect("a length")
}

/// In two halves: the second leaves when the accounts have refused the first.
#[test]
fn a_chunked_body_that_is_not_over_when_it_is_refused() {
    let world = watched(config());
    let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length));
    for (refuse, tried) in CASES {
        for length in [10, 100_000, 1_000_000] {
            let mut client = world.client().raw();
            client.send(
                format!(
                    "POST /refuse?accounts={refuse}&early=1 HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n{}",
                    chunk(length)
                )
                .as_bytes(),
            );
            eventually(SOON, || world.upstream.seen() == tried.len());
            client.send(format!("{}0\r\n\r\n", chunk(length)).as_bytes());
            let (status, body) = read_reply(&mut client);
            assert_eq!(status, 200, "{body}");
            assert_eq!(body_length(&body), 2 * length as u64);
            assert_tried(&world, tried);
            rested(&world);
        }
    }
    // Refused by all while it is under way.
    let mut client = world.client().raw();
    let head = "POST /refuse?accounts=a,b,c&early=1 HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    client.send(format!("{head}{}", chunk(1_000)).as_bytes());
    assert_eq!(
        read_reply(&mut client),
        (429, "{\"error\": \"busy\"}".into())
    );
    assert_tried(&world, &["a", "b", "c"]);
    rested(&world);
}

#[test]
fn a_client_that_expects_100_continue() {
    let head = |refuse: &str| {
        format!(
            "POST /refuse?accounts={refuse} HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n"
        )
    };
    let world = watched(config());
    for (refuse, tried) in CASES {
        let mut client = world.client().raw();
        client.send(head(refuse).as_bytes());
        assert!(client.read_head().starts_with("HTTP/1.1 100"));
        client.send(&[b'x'; 1_000]);
        let (status, body) = read_reply(&mut client);
        assert_eq!((status, body_length(&body)), (200, 1_000));
        assert_tried(&world, tried);
        rested(&world);
    }
    drop(world);
    // Where the upstream is asked, its 100 is the begin of an answer: a refusal after it is the client's.
    let world = watched(config().manager(|manager| manager["proxy_100_continue"] = json!(true)));
    for (refuse, status) in [("", 200), ("a", 429)] {
        let mut client = world.client().raw();
        client.send(head(refuse).as_bytes());
        assert!(client.read_head().starts_with("HTTP/1.1 100"));
        client.send(&[b'x'; 1_000]);
        assert_eq!(read_reply(&mut client).0, status, "{refuse}");
        assert_tried(&world, &["a"]);
        rested(&world);
    }
    world.eventually_counts("failover;outcome=not_retried", 1);
}

/// Without a buffer of its own a route keeps as much as a connection does: 1 MB.
#[test]
fn a_body_larger_than_the_buffer_passes_the_refusal_on() {
    let world = watched(routes(in_order(&["a", "b", "c"]), |route| {
        if let Some(route) = route.as_object_mut() {
            route.remove("request_body_buffer_limit");
        }
    }));
    for length in [1_000, 300_000, 10_000_000] {
        let is_kept = length < 1_000_000;
        let body = Bytes::from(vec![b'x'; length]);
        let request = Request::post("/refuse?accounts=a", body);
        let reply = world.client().send(request).expect("an answer");
        if is_kept {
            assert_eq!(reply.status, 200, "{length}: {}", reply.text());
            assert_eq!(reply.json()["body_length"], length);
            assert_tried(&world, &["a", "b"]);
        } else {
            let said = (reply.status, reply.text(), reply.header("retry-after"));
            assert_eq!(said, (429, "{\"error\": \"busy\"}".into(), "7"));
            assert_tried(&world, &["a"]);
        }
        assert_eq!(reply.header("x-slotgate-retry"), "");
        rested(&world);
    }
    world.eventually_counts("failover;outcome=not_retried", 1);
    // Refused before it has outgrown the buffer, it may reach the next account, whole.
    for _ in 0..5 {
        let request = Request::post("/refuse?accounts=a&early=1", vec![b'x'; 10_000_000]);
        let reply = world.client().send(request).expect("an answer");
        println!("{} {}", reply.status, reply.text());
        match reply.status {
            200 => assert_eq!(reply.json()["body_length"], 10_000_000),
            429 => assert_eq!(reply.header("retry-after"), "7"),
            other => panic!("{other}: {}", reply.text()),
        }
        world.upstream.take_seen();
        rested(&world);
    }
}
