//! What Envoy itself does to a request on its way: one lease for each client's request, whatever becomes of it.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{SOON, World, config, way};
use support::*;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// More than any buffer or window on the way.
const HUGE: usize = 64 << 20;

/// Changes what every route does with its requests.
fn routed(config: EnvoyConfig, fields: Value) -> EnvoyConfig {
    config.manager(|manager| {
        let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
        for route in routes.as_array_mut().expect("routes") {
            for (name, value) in fields.as_object().expect("fields") {
                route["route"][name] = value.clone();
            }
        }
    })
}

/// What every cluster that leads to an upstream speaks.
pub fn speaking(config: EnvoyConfig, protocol: &str, options: Value) -> EnvoyConfig {
    config.edit(|document| {
        let clusters = document["static_resources"]["clusters"].as_array_mut();
        for cluster in clusters.expect("clusters") {
            if cluster["name"] == "acct_1" || cluster["name"] == "traditional" {
                let mut explicit = json!({});
                explicit[protocol] = options.clone();
                cluster["typed_extension_protocol_options"][HTTP_OPTIONS] = json!({
                    "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
                    "explicit_http_config": explicit,
                });
            }
        }
    })
}

#[test]
fn a_request_that_the_router_retries_has_one_lease() {
    let retries = json!({"retry_on": "5xx,reset", "num_retries": 3});
    let world = World::start(routed(
        config(&[("a", 1)]),
        json!({"retry_policy": retries}),
    ));
    for (path, status) in [("/status/500", 500), ("/reset", 503)] {
        world.upstream.forget();
        let reply = world.get(path);
        assert_eq!(way(&reply), (status, "atomic"), "{path}");
        let seen = world.upstream.snapshot();
        assert_eq!((seen.requests, seen.account("a").most), (4, 1), "{path}");
        world.assert_all_free();
    }
    world.eventually_counts("lease.released", 2);
    assert_eq!(world.counter("requests;outcome=atomic"), 2);
    world.assert_serves();
}

#[test]
fn tries_that_time_out_share_one_lease() {
    let policy = json!({"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "0.2s"});
    let world = World::start(routed(
        config(&[("a", 1)]),
        json!({"retry_policy": policy, "timeout": "10s"}),
    ));
    assert_eq!(way(&world.get("/hang")), (504, "atomic"));
    assert_eq!(world.upstream.snapshot().requests, 3);
    world.assert_all_free();
    world.assert_serves();
    world.eventually_counts("lease.released", 2);
    assert_eq!(world.counter("requests;outcome=atomic"), 2);
}

/// Envoy sends the redirected request through its filters anew.
#[test]
fn a_redirect_within_envoy_needs_no_second_slot() {
    let policy = json!({"max_internal_redirects": 3});
    let world = World::start(routed(
        config(&[("a", 1)]),
        json!({"internal_redirect_policy": policy}),
    ));
    for _ in 0..5 {
        let reply = world.get("/status/302?location=http://test/echo");
        assert_eq!(way(&reply), (200, "atomic"), "{}", reply.text());
        assert_eq!(reply.json()["path"], "/echo");
        world.assert_all_free();
    }
    assert_eq!(world.upstream.snapshot().account("a").most, 1);
    assert_eq!(world.upstream.snapshot().requests, 10);
}

#[test]
fn a_mirrored_request_takes_no_slot_of_its_own() {
    let mirror = json!([{"cluster": "traditional"}]);
    let mirrored = Upstream::start();
    let world = World::start(config(&[("a", 1)]));
    let mirroring = routed(
        config(&[("a", 1)]),
        json!({"request_mirror_policies": mirror}),
    );
    let envoy = Envoy::start(
        mirroring
            .redis(world.redis.addr())
            .upstream(world.upstream.addr())
            .cluster("traditional", mirrored.addr()),
    );
    for _ in 0..5 {
        let reply = envoy.client().post("/echo", &[], "a body");
        assert_eq!(way(&reply), (200, "atomic"));
        world.assert_all_free();
    }
    eventually(SOON, || mirrored.snapshot().requests == 5);
    // With the account's headers: wherever it goes, it uses the account.
    let headers = mirrored.last_headers();
    assert_eq!(headers["x-slotgate-account"], "a");
    assert_eq!(world.upstream.snapshot().account("a").most, 1);
    let released = || envoy.filter_stat("lease.released");
    eventually(SOON, || released() == Some(5));
}

/// Documented, and `slotgate check` warns of it: hedging uses an account beyond its slots.
#[test]
fn hedged_requests_share_one_slot() {
    let policy = json!({"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "0.2s"});
    let hedge = json!({"hedge_on_per_try_timeout": true});
    let world = World::start(routed(
        config(&[("a", 1)]),
        json!({"retry_policy": policy, "hedge_policy": hedge}),
    ));
    assert_eq!(way(&world.get("/delay?ms=1500")), (200, "atomic"));
    let seen = world.upstream.snapshot().account("a");
    assert!((2..=3).contains(&seen.most), "{seen:?}");
    world.assert_all_free();
    world.eventually_counts("lease.released", 1);
    assert_eq!(world.counter("requests;outcome=atomic"), 1);
}

#[test]
fn grpc_with_trailers() {
    let world = World::start(speaking(
        config(&[("a", 1)]),
        "http2_protocol_options",
        json!({}),
    ));
    let addr = world.envoy.addr();
    for (messages, status) in [(3, 0), (0, 7), (100, 13)] {
        let path = format!("http://{addr}/grpc?messages={messages}&status={status}");
        let (headers, body, trailers) = wait(async move {
            let tcp = TcpStream::connect(addr).await.expect("a connection");
            let handshake =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
            let (mut sender, connection) = handshake.await.expect("HTTP/2");
            spawn(connection);
            let request = hyper::Request::post(path)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
                .expect("a request");
            let response = sender.send_request(request).await.expect("a response");
            let headers = response.headers().clone();
            let body = response.into_body().collect().await.expect("a whole body");
            let trailers = body.trailers().cloned();
            (headers, body.to_bytes(), trailers)
        });
        assert_eq!(headers["x-slotgate-path"], "atomic");
        assert_eq!(body.len(), messages * 10);
        let trailers = trailers.unwrap_or(headers);
        assert_eq!(trailers["grpc-status"], status.to_string());
        world.assert_all_free();
    }
    assert_eq!(world.upstream.snapshot().account("a").total, 3);
}

#[test]
fn a_client_that_waits_for_100_continue() {
    let world = World::start(config(&[("a", 1)]));
    world.assert_serves();
    let mut client = world.client().raw();
    client.send(
        b"POST /echo HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
    );
    assert!(client.read_head().starts_with("HTTP/1.1 100"));
    eventually(SOON, || world.ledger.live() == 1);
    client.send(b"hello");
    assert!(client.read_head().starts_with("HTTP/1.1 200"));
    world.assert_all_free();
}

/// 103 with links, then the response: an upstream of its own, for `Upstream` can't say it.
#[test]
fn an_upstream_that_sends_early_hints() {
    let hinting = Port::free();
    let addr = hinting.addr();
    let listener = wait(async move { TcpListener::bind(addr).await }).expect("a listener");
    spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn(async move {
                let mut request = [0; 4096];
                while matches!(stream.read(&mut request).await, Ok(1..)) {
                    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
                    let response = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    let both = format!("{hints}{response}");
                    if stream.write_all(both.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let world = World::start(config(&[("a", 1)]));
    let envoy = Envoy::start(
        config(&[("a", 1)])
            .manager(|manager| manager["proxy_100_continue"] = json!(true))
            .redis(world.redis.addr())
            .upstream(addr),
    );
    for _ in 0..3 {
        let reply = envoy.client().get("/", &[]);
        assert_eq!(
            (way(&reply), reply.text().as_str()),
            ((200, "atomic"), "ok")
        );
        world.assert_all_free();
    }
}

#[test]
fn responses_without_a_body() {
    let world = World::start(config(&[("a", 1)]));
    for path in ["/status/204", "/status/304", "/bytes?length=0"] {
        let reply = world.get(path);
        assert_eq!(reply.header("x-slotgate-path"), "atomic", "{path}");
        assert!(reply.body.is_empty(), "{path}");
        world.assert_all_free();
    }
}

#[test]
fn huge_bodies_pass_and_hold_their_slot() {
    let world = World::start(config(&[("a", 1)]));
    let reply = world.client().post("/echo", &[], vec![7; HUGE]);
    assert_eq!(way(&reply), (200, "atomic"));
    assert_eq!(reply.json()["body_length"], HUGE);
    world.assert_all_free();

    let path = format!("/bytes?length={HUGE}");
    let reply = world.get(&path);
    assert_eq!((way(&reply), reply.body.len()), ((200, "atomic"), HUGE));
    world.assert_all_free();

    // One that stops reading holds its slot, and one that leaves in the middle gives it back.
    let mut client = world.client().start(&path, &[]);
    assert!(client.read_head().starts_with("HTTP/1.1 200"));
    assert_eq!(client.read_exact(1 << 20).len(), 1 << 20);
    assert_eq!(world.ledger.live(), 1);
    assert_eq!(world.get("/").status, 429);
    drop(client);
    world.assert_all_free();
    let mut client = world.client().raw();
    client.send(
        format!("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {HUGE}\r\n\r\n").as_bytes(),
    );
    client.send(&vec![7; 1 << 20]);
    eventually(SOON, || world.ledger.live() == 1);
    drop(client);
    world.assert_all_free();
}

/// One Envoy asks the other by HTTP/3.
#[test]
fn http3_downstream() {
    const QUIC: &str = "type.googleapis.com/envoy.extensions.transport_sockets.quic.v3";
    let dir = Dir::temporary();
    let made = Certificate::make(&dir, "localhost");
    let (key, certificate) = (
        json!({"filename": made.key}),
        json!({"filename": made.certificate}),
    );
    let tls = json!({"common_tls_context": {
        "alpn_protocols": ["h3"],
        "tls_certificates": [{"private_key": key, "certificate_chain": certificate.clone()}],
    }});
    let server = config(&[("a", 2)])
        .edit(|document| {
            let listener = &mut document["static_resources"]["listeners"][0];
            listener["address"] = json!({"socket_address": {"protocol": "UDP"}});
            listener["udp_listener_config"] = json!({"quic_options": {}});
            listener["filter_chains"][0]["transport_socket"] = json!({
                "name": "envoy.transport_sockets.quic",
                "typed_config": {"@type": format!("{QUIC}.QuicDownstreamTransport"), "downstream_tls_context": tls},
            });
        })
        .manager(|manager| manager["codec_type"] = json!("HTTP3"));
    let world = World::start(server);
    let tls = json!({
        "sni": "localhost",
        "common_tls_context": {
            "alpn_protocols": ["h3"],
            "validation_context": {"trusted_ca": certificate},
        },
    });
    let client = EnvoyConfig::plain(world.envoy.addr()).edit(|document| {
        let cluster = &mut document["static_resources"]["clusters"][0];
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.quic",
            "typed_config": {"@type": format!("{QUIC}.QuicUpstreamTransport"), "upstream_tls_context": tls},
        });
        cluster["typed_extension_protocol_options"][HTTP_OPTIONS] = json!({
            "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
            "explicit_http_config": {"http3_protocol_options": {}},
        });
    });
    let client = Envoy::start(client);
    let get = |path: &str| client.client().get(path, &[]);
    eventually(SOON, || way(&get("/")) == (200, "atomic"));
    assert_eq!(
        client.stat("cluster.upstream.upstream_cx_http3_total"),
        Some(1)
    );
    world.assert_all_free();
    let reply = client.client().post("/echo", &[], vec![7; 3 << 20]);
    assert_eq!(reply.json()["body_length"], 3 << 20);
    world.assert_all_free();
    // Streams of one connection: two hold a slot, a third gets none; one leaves.
    let open = || client.client().open("/sse?events=100000", &[]);
    let (first, second) = (open(), open());
    assert_eq!(get("/").status, 429);
    drop(first);
    eventually(SOON, || world.ledger.live() == 1);
    assert_eq!(way(&get("/")), (200, "atomic"));
    drop(second);
    world.assert_all_free();
}
