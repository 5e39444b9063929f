//! Clients that leave: the slot is free again at once, whenever they go.

use std::time::Duration;

use serde_json::json;

use crate::world::{SOON, World, best_within, config};
use support::*;

/// What a client has sent when it leaves, and what must have happened by then.
struct Leaving {
    when: &'static str,
    sent: &'static str,
    held: bool,
    answered: bool,
}

const LEAVING: [Leaving; 5] = [
    Leaving {
        when: "within its headers",
        sent: "GET /hang HTTP/1.1\r\nhost: te",
        held: false,
        answered: false,
    },
    Leaving {
        when: "before the response",
        sent: "GET /hang HTTP/1.1\r\nhost: test\r\n\r\n",
        held: true,
        answered: false,
    },
    Leaving {
        when: "within its body",
        sent: "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\nonly the beginning",
        held: true,
        answered: false,
    },
    Leaving {
        when: "within its chunked body",
        sent: "POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        held: true,
        answered: false,
    },
    Leaving {
        when: "within the response",
        sent: "GET /sse?events=100000 HTTP/1.1\r\nhost: test\r\n\r\n",
        held: true,
        answered: true,
    },
];

/// Well below a second: a release that is only sent the second time, to be safe, is no release at once.
const AT_ONCE: Duration = Duration::from_millis(100);

#[test]
fn a_client_that_leaves_frees_its_slot_at_once() {
    let world = World::start(config(&[("a", 1)]));
    world.assert_serves();
    for case in &LEAVING {
        for leave in [drop, RawConnection::reset] {
            best_within(AT_ONCE, || {
                let mut client = world.client().raw();
                client.send(case.sent.as_bytes());
                if case.held {
                    eventually(SOON, || world.upstream.snapshot().now == 1);
                    assert_eq!(world.ledger.live(), 1, "{}", case.when);
                }
                if case.answered {
                    assert!(client.read_head().starts_with("HTTP/1.1 200"));
                }
                leave(client);
                world.time_until_free()
            });
            eventually(SOON, || world.upstream.snapshot().now == 0);
        }
    }
    world.assert_all_free();
    world.assert_serves();
}

/// The grant comes when nobody waits for it any more.
#[test]
fn a_client_that_leaves_while_acquiring_leaves_nothing_behind() {
    let world = World::start(config(&[("a", 5)]));
    world.assert_serves();
    for leave in [drop, RawConnection::reset] {
        let late = world.counter("lease.late_grant");
        world.redis.sigstop();
        let clients: Vec<_> = (0..5).map(|_| world.client().start("/hang", &[])).collect();
        let active = || world.envoy.stat("http.http.downstream_rq_active");
        eventually(SOON, || active() == Some(5));
        clients.into_iter().for_each(leave);
        eventually(SOON, || active() == Some(0));
        world.redis.sigcont();
        // The acquires did run, and their releases behind them.
        world.eventually_counts("lease.late_grant", late + 5);
        assert!(world.ledger.is_empty(), "{:?}", world.ledger.state());
    }
    assert_eq!(
        world.upstream.snapshot().requests,
        1,
        "none of them was sent on"
    );
    world.assert_all_free();
}

/// Before the worker's first request has even a pipe.
#[test]
fn a_client_that_leaves_while_the_pipe_opens_leaves_nothing_behind() {
    let world = World::start(config(&[("a", 1)]));
    world.redis.sigstop();
    let client = world.client().start("/hang", &[]);
    let active = || world.envoy.stat("http.http.downstream_rq_active");
    eventually(SOON, || active() == Some(1));
    drop(client);
    eventually(SOON, || active() == Some(0));
    world.redis.sigcont();
    world.assert_serves();
    world.assert_all_free();
}

#[test]
fn clients_that_leave_at_any_moment() {
    let limits = [("a", 20), ("b", 20)];
    let world = World::start(config(&limits).workers(4));
    let client = world.client();
    let lanes: Vec<_> = (0..20_u64)
        .map(|lane| {
            spawn(async move {
                for round in 0..25 {
                    let path = ["/delay?ms=3", "/sse?events=3&interval_ms=1", "/hang"];
                    let request = client.sending(Request::get(path[round as usize % 3]));
                    let patience = Duration::from_micros((lane * 977 + round * 1_511) % 25_000);
                    // The connection is dropped with the future.
                    let _ = tokio::time::timeout(patience, request).await;
                }
            })
        })
        .collect();
    wait(async {
        for lane in lanes {
            lane.await.expect("a lane panicked");
        }
    });
    eventually(SOON, || world.upstream.snapshot().now == 0);
    world.assert_all_free();
    for (id, limit) in limits {
        assert!(world.upstream.snapshot().account(id).most <= limit as usize);
    }
    let seen = world.upstream.snapshot().requests;
    assert!(seen > 50, "only {seen} stayed long enough to say anything");
    assert_eq!(world.counter("lease.release_dropped"), 0);
}

/// HTTP/2: a stream is reset, its connection and its neighbours live on.
#[test]
fn a_reset_stream_among_others_on_one_connection() {
    let world = World::start(config(&[("a", 3)]));
    let mut connection = world.client().raw();
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    connection.send(&frame(4, 0, 0, &[]));
    for stream in [1, 3, 5] {
        connection.send(&get_hang(stream));
    }
    eventually(SOON, || world.ledger.live() == 3);
    assert_eq!(world.get("/").status, 429);
    connection.send(&frame(3, 0, 3, &8_u32.to_be_bytes()));
    eventually(SOON, || world.ledger.live() == 2);
    world.assert_serves();
    connection.send(&get_hang(7));
    eventually(SOON, || world.upstream.snapshot().now == 3);
    assert_eq!(world.ledger.live(), 3);
    drop(connection);
    world.assert_all_free();
}

/// RFC 9113, 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HEADERS that end headers and stream; `:method: GET` and `:scheme: http` by index, the rest as literals.
fn get_hang(stream: u32) -> Vec<u8> {
    frame(1, 5, stream, b"\x82\x86\x04\x05/hang\x01\x04test")
}

/// The timeouts that Envoy itself ends a stream by.
#[test]
fn envoy_gives_up_a_stream() {
    let world = World::start(config(&[("a", 1)]).manager(|manager| {
        let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
        for (path, field) in [("/hang", "timeout"), ("/sse", "idle_timeout")] {
            let mut route = routes[0].clone();
            route["match"]["prefix"] = json!(path);
            route["route"][field] = json!("0.3s");
            routes.as_array_mut().expect("routes").insert(0, route);
        }
        manager["request_headers_timeout"] = json!("0.3s");
    }));
    assert_eq!(world.get("/hang").status, 504);
    world.assert_all_free();
    let mut stream = world.client().open("/sse?events=2&interval_ms=100000", &[]);
    assert_eq!((stream.events(1).len(), world.ledger.live()), (1, 1));
    assert!(stream.next_event().is_err(), "idle for too long");
    world.assert_all_free();
    let mut slow = world.client().raw();
    slow.send(b"GET / HTTP/1.1\r\nhost:");
    assert!(slow.read_head().starts_with("HTTP/1.1 408"));
    world.assert_all_free();
    world.assert_serves();
}

/// The same while the request waits for its grant: Envoy's answer is the only one.
#[test]
fn envoy_gives_up_a_request_that_acquires() {
    let world = World::start(
        config(&[("a", 1)]).manager(|manager| manager["stream_idle_timeout"] = json!("0.3s")),
    );
    world.assert_serves();
    world.redis.sigstop();
    let mut connection = world.client().start("/hang", &[]);
    let head = connection.read_head();
    assert!(
        head.starts_with("HTTP/1.1 408") || head.starts_with("HTTP/1.1 504"),
        "{head}"
    );
    world.redis.sigcont();
    world.eventually_counts("lease.late_grant", 1);
    world.assert_all_free();
    assert_eq!(world.upstream.snapshot().requests, 1);
    world.assert_serves();
}
