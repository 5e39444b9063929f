//! `envoy/sidecar.yaml`: an application behind it, and upstream accounts before it, each by TLS under its own name.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::world::{SOON, way};
use support::*;

const ACCOUNTS: [(&str, &str); 2] = [
    ("account_one", "one.api.example.com"),
    ("account_two", "two.api.example.com"),
];

/// An upstream that only talks TLS, and shows the name it was asked by as `x-sni`.
fn behind_tls(upstream: &Upstream, certificates: &[Certificate; 2]) -> Envoy {
    let config = EnvoyConfig::plain(upstream.addr()).manager(|manager| {
        manager["route_config"]["request_headers_to_add"] =
            json!([{"header": {"key": "x-sni", "value": "%REQUESTED_SERVER_NAME%"}}]);
    });
    Envoy::start(config.edit(|document| {
        let listener = &mut document["static_resources"]["listeners"][0];
        listener["listener_filters"] = json!([{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
        }]);
        let plain = listener["filter_chains"][0].take();
        let chain = |((_, name), made): (&(&str, &str), &Certificate)| {
            let mut chain = plain.clone();
            chain["name"] = json!(name);
            chain["filter_chain_match"] = json!({"server_names": [name]});
            chain["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "common_tls_context": {"tls_certificates": [{
                        "certificate_chain": {"filename": made.certificate},
                        "private_key": {"filename": made.key},
                    }]},
                },
            });
            chain
        };
        let chains: Vec<Value> = ACCOUNTS.iter().zip(certificates).map(chain).collect();
        listener["filter_chains"] = json!(chains);
    }))
}

/// As an operator does: written beside, moved into place.
fn write_key(dir: &Dir, account: &str, key: &str) {
    let example = std::fs::read_to_string(root().join("envoy/secrets/account_one.yaml"));
    let file = example
        .expect("the example")
        .replace("account_one", account)
        .replace("Bearer change-me", key);
    assert!(file.contains(key));
    std::fs::write(dir.join("fresh"), file).expect("a file");
    std::fs::rename(dir.join("fresh"), dir.join(&format!("{account}.yaml"))).expect("moved");
}

fn sidecar(
    redis: &Redis,
    app: &Upstream,
    outside: &Envoy,
    made: &[Certificate; 2],
    keys: &Dir,
) -> Envoy {
    let mut config = EnvoyConfig::from_file("envoy/sidecar.yaml")
        .plugin(|plugin| plugin["redis"]["acquire_timeout_ms"] = json!(20_000))
        .redis(redis.addr())
        .cluster("app", app.addr());
    for ((account, _), made) in ACCOUNTS.iter().zip(made) {
        write_key(keys, account, &format!("Bearer first-{account}"));
        config = config.edit_cluster(account, |cluster| {
            let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
            endpoint["address"]["socket_address"] =
                json!({"address": "127.0.0.1", "port_value": outside.addr().port()});
            let tls = &mut cluster["transport_socket"]["typed_config"]["common_tls_context"];
            tls["validation_context"]["trusted_ca"] = json!({"filename": made.certificate});
            let options = &mut cluster["typed_extension_protocol_options"]
                ["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
            let injector = &mut options["http_filters"][0]["typed_config"];
            injector["credential"]["typed_config"]["credential"]["sds_config"]["path_config_source"] =
                json!({"path": keys.join(&format!("{account}.yaml")), "watched_directory": {"path": keys.path()}});
        });
    }
    Envoy::start(config)
}

#[test]
fn both_ways() {
    let (redis, app, upstream) = (Redis::start(), Upstream::start(), Upstream::start());
    let (dir, keys) = (Dir::temporary(), Dir::temporary());
    let made = ACCOUNTS.map(|(_, name)| Certificate::make(&dir, name));
    let outside = behind_tls(&upstream, &made);
    let envoy = sidecar(&redis, &app, &outside, &made, &keys);
    let [inbound, outbound] = envoy.addrs()[..] else {
        panic!("two listeners")
    };
    let (inbound, outbound) = (Client::new(inbound), Client::new(outbound));

    // Inbound: the application's own limit.
    assert_eq!(inbound.get("/", &[]).status, 200);
    let held: Vec<_> = (0..20)
        .map(|_| inbound.open("/sse?events=100000", &[]))
        .collect();
    let ledger = Ledger::new(&redis, "slotgate", "app");
    assert_eq!(ledger.live(), 20);
    assert_eq!(inbound.get("/", &[]).status, 429);
    drop(held);
    eventually(SOON, || ledger.is_empty());
    assert_eq!(app.snapshot().accounts["app"].most, 20);

    // Outbound: whatever the application says of itself, each account gets its own key under its own name.
    let seen = |session: &str| {
        let headers = [
            ("authorization", "Bearer of-the-application"),
            ("x-upstream", "account_one"),
            ("x-session-id", session),
        ];
        let reply = outbound.get("/echo", &headers);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["headers"].clone()
    };
    let (mut used, mut session) = (BTreeSet::new(), 0);
    eventually(SOON, || {
        session += 1;
        let headers = seen(&format!("session-{session}"));
        let name = headers["x-sni"].as_str().expect("a name").to_owned();
        let account = ACCOUNTS
            .iter()
            .find(|(_, other)| *other == name)
            .expect("one of them")
            .0;
        assert_eq!(headers["authorization"], format!("Bearer first-{account}"));
        assert_eq!(headers["host"], name);
        let told: Vec<_> = headers
            .as_object()
            .expect("headers")
            .keys()
            .filter(|name| name.starts_with("x-slotgate") || *name == "x-upstream")
            .collect();
        assert!(told.is_empty(), "the upstream learns {told:?}");
        used.insert(account);
        used.len() == 2
    });
    let ledger = Ledger::new(&redis, "slotgate", "upstream");
    let held: Vec<_> = (0..15)
        .map(|_| outbound.open("/sse?events=100000", &[]))
        .collect();
    assert_eq!((ledger.used("one"), ledger.used("two")), (5, 10));
    assert_eq!(outbound.get("/", &[]).status, 429);

    // A key is changed while streams run: they go on, the next request has the new one.
    for (account, _) in ACCOUNTS {
        write_key(&keys, account, &format!("Bearer second-{account}"));
    }
    for mut stream in held {
        stream.events(1);
    }
    eventually(SOON, || ledger.is_empty());
    eventually(SOON, || {
        let key = seen("alice")["authorization"].clone();
        key.as_str()
            .is_some_and(|key| key.starts_with("Bearer second-account_"))
    });
    // No slot, no account, no key: the application is told, and nothing leaves.
    redis.kill();
    let before = upstream.snapshot().requests;
    let reply = outbound.get("/", &[]);
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["error"]["type"], "slotgate_unavailable");
    assert_eq!(upstream.snapshot().requests, before);
    assert_eq!(way(&inbound.get("/", &[])).0, 200);
    // slotgate has never had a key to log.
    assert!(!envoy.log_contains("first-") && !envoy.log_contains("second-"));
}
