//! A slot is held for as long as its stream lives, and no longer.

use std::time::Duration;

use serde_json::json;

use crate::world::{SOON, World, best_within, config, way};
use support::*;

#[test]
fn held_while_the_response_streams_and_free_within_100_ms_after() {
    let world = World::start(config(&[("a", 1)]));
    best_within(Duration::from_millis(100), || {
        let mut stream = world.client().open("/sse?events=20&interval_ms=20", &[]);
        let mut held = 0;
        for event in stream.events(20) {
            let state = world.ledger.state();
            if state.live() == 1 && state.used["a"] == 1 && state.free.is_empty() {
                held += 1;
            } else {
                // This test may be late, the filter not early.
                assert_eq!(world.upstream.snapshot().now, 0, "at {event}: {state:#?}");
            }
        }
        assert!(held > 0);
        assert_eq!(stream.events(1), ["[DONE]"]);
        assert_eq!(stream.next_event().expect("a good end"), None);
        world.time_until_free()
    });
    world.assert_all_free();
}

/// The slot comes free by the response's end, not when its connection closes.
#[test]
fn requests_on_one_connection_hold_a_slot_each_for_their_own_time() {
    let world = World::start(config(&[("a", 1)]));
    let mut connection = world.client().raw();
    for round in 0..10 {
        connection.send(b"GET /status/204 HTTP/1.1\r\nhost: test\r\n\r\n");
        let head = connection.read_head();
        assert!(head.starts_with("HTTP/1.1 204"), "{round}: {head}");
        world.time_until_free();
    }
    // Pipelined ones follow one another, each with a slot of its own.
    connection.send(&b"GET /status/204 HTTP/1.1\r\nhost: test\r\n\r\n".repeat(3));
    for _ in 0..3 {
        let head = connection.read_head();
        assert!(head.starts_with("HTTP/1.1 204"), "{head}");
    }
    assert_eq!(world.upstream.snapshot().path("atomic"), 13);
    world.assert_all_free();
}

#[test]
fn a_websocket_holds_its_slot_until_it_is_closed() {
    let world = World::start(config(&[("a", 1)]));
    let (status, mut socket) = world.client().websocket("/ws", &[]);
    assert_eq!(status, 101);
    for _ in 0..5 {
        socket.send(b"ping");
        assert_eq!(socket.read_exact(4), b"ping");
        assert_eq!(world.ledger.live(), 1);
    }
    assert_eq!(world.get("/").status, 429);
    drop(socket);
    world.assert_all_free();

    // The other side closes it.
    let (status, _socket) = world.client().websocket("/ws", &[]);
    assert_eq!((status, world.ledger.live()), (101, 1));
    world.upstream.refuse();
    world.assert_all_free();
}

/// 3 MB is more than any buffer of Envoy's.
const BODY: usize = 3 << 20;

/// With the second an operator lets bodies go on while headers wait: a filter must say that it means both.
fn both_ways(slots: u32) -> [(&'static str, EnvoyConfig); 2] {
    let config = config(&[("a", slots)]).manager(|manager| {
        manager["http_protocol_options"]["enable_trailers"] = json!(true);
    });
    let headers_stop_alone = config.clone().manager(|manager| {
        manager["http_filters"][0]["typed_config"]["config"]["allow_on_headers_stop_iteration"] =
            json!(true);
    });
    [
        ("headers stop all", config),
        ("headers stop alone", headers_stop_alone),
    ]
}

#[test]
fn every_method_and_any_body() {
    for (name, config) in both_ways(1) {
        let world = World::start(config);
        let head = Request::new("HEAD", "/", Default::default());
        let reply = world.client().send(head).expect("a response to HEAD");
        assert_eq!((way(&reply), reply.body.len()), ((200, "atomic"), 0));
        world.time_until_free();
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            for length in [0, 1, BODY] {
                let request = Request::new(method, "/echo", vec![7; length].into());
                let reply = world.client().send(request).expect("a response");
                assert_eq!(
                    way(&reply),
                    (200, "atomic"),
                    "{name}, {method} of {length}: {}",
                    reply.text()
                );
                let seen = reply.json();
                assert_eq!(
                    (&seen["method"], &seen["body_length"]),
                    (&json!(method), &json!(length))
                );
                world.time_until_free();
            }
        }
        world.assert_all_free();
    }
}

/// Redis stands still, and with it the requests: not a byte goes out unadmitted.
#[test]
fn nothing_goes_out_before_the_grant() {
    for (name, config) in both_ways(3) {
        let world = World::start(config);
        world.assert_serves();
        world.upstream.forget();
        world.redis.sigstop();
        let client = world.client();
        let bodies = [vec![], vec![7; 10], vec![7; BODY]];
        let whole = bodies.map(|body| spawn(client.sending(Request::post("/echo", body))));
        let mut chunked = client.raw();
        chunked.send(b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n");
        chunked.send(b"trailer: x-t\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n");
        let active = || world.envoy.stat("http.http.downstream_rq_active");
        eventually(SOON, || active() == Some(4));
        // Were they let go, they would be there within this time.
        std::thread::sleep(Duration::from_millis(300));
        let seen = world.upstream.snapshot();
        assert_eq!((active(), seen.requests), (Some(4), 0), "{name}");
        world.redis.sigcont();
        let chunked = chunked.read_head();
        let whole = whole.map(|reply| wait(reply).expect("a task").expect("a response").status);
        // Three slots: at most one of the four finds none.
        let served = whole.iter().filter(|status| **status == 200).count()
            + usize::from(chunked.starts_with("HTTP/1.1 200"));
        assert!(served >= 3, "{name}: {whole:?} {chunked}");
        assert_eq!(world.upstream.snapshot().path("atomic"), served as u64);
        world.assert_all_free();
    }
}
