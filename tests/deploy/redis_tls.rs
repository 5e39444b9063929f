//! Redis that takes no connection without TLS and a client certificate, by `envoy/redis/tls.yaml`.

use serde_json::json;

use crate::world::{SOON, World, config, way};
use support::*;

const NAME: &str = "redis.example.com";

fn through_tls(port: &Port, client: &Certificate, trusted: &Certificate) -> EnvoyConfig {
    let config = config(&[("a", 5)]).redis_as("envoy/redis/tls.yaml");
    config.edit_cluster("redis", |redis| {
        let context = &mut redis["transport_socket"]["typed_config"]["common_tls_context"];
        context["tls_certificates"][0] = json!({
            "certificate_chain": {"filename": client.certificate},
            "private_key": {"filename": client.key},
        });
        context["validation_context"]["trusted_ca"] = json!({"filename": trusted.certificate});
        let mut address = redis["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
            ["address"]["socket_address"]
            .take();
        // Nobody here answers for the name, which the certificate still must have.
        address["address"] = json!("127.0.0.1");
        address["port_value"] = json!(port.number());
        redis["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] =
            address;
    })
}

/// `World::with_redis` would point Envoy at the port without TLS, which is for the test alone.
fn world(redis: Redis, config: EnvoyConfig) -> World {
    let upstream = Upstream::start();
    World {
        envoy: Envoy::start(config.upstream(upstream.addr())),
        ledger: Ledger::new(&redis, "slotgate", "demo"),
        redis,
        upstream,
    }
}

#[test]
fn tls_with_client_certificates() {
    let dir = Dir::temporary();
    let [server, client, stranger] =
        [NAME, "client", "stranger"].map(|name| Certificate::make(&dir, name));
    let other_name = Certificate::make(&dir, "other.example.com");
    let redis = |port: &Port, shown: &Certificate| {
        let path = |path: &std::path::Path| path.to_str().expect("a path").to_owned();
        let port = port.number().to_string();
        let (key, own) = (path(&shown.key), path(&shown.certificate));
        let args = [
            ["--tls-port", &port],
            ["--tls-key-file", &key],
            ["--tls-cert-file", &own],
            ["--tls-ca-cert-file", &path(&client.certificate)],
            ["--tls-auth-clients", "yes"],
        ];
        Redis::start_with(args.as_flattened())
    };

    let port = Port::free();
    let good = world(redis(&port, &server), through_tls(&port, &client, &server));
    eventually(SOON, || way(&good.get("/")) == (200, "atomic"));
    for _ in 0..5 {
        good.assert_serves();
    }
    good.assert_all_free();
    assert_eq!(good.counters("pipe.lost"), 0);
    assert!(good.envoy.stat("cluster.redis.ssl.handshake") >= Some(1));

    // A client that Redis does not know, a server that Envoy does not trust, one of another name.
    let wrong = [
        (&server, &stranger, &server),
        (&stranger, &client, &server),
        (&other_name, &client, &other_name),
    ];
    for (shown, presented, trusted) in wrong {
        let port = Port::free();
        let world = world(redis(&port, shown), through_tls(&port, presented, trusted));
        let refused = || {
            assert_eq!(way(&world.get("/")), (200, "traditional"));
            world.counter("pipe.lost;reason=closed") >= 2
        };
        eventually(SOON, refused);
        assert_eq!(world.redis.run::<i64>("DBSIZE", &[]), 0);
        assert!(world.envoy.log_contains("pipe to Redis is down"));
    }
}
