//! `envoy/kubernetes/`: the bootstrap merged as Envoy Gateway does it, with the listener, routes and clusters that it makes of
//! the resources, and run. No cluster and no Envoy Gateway: what it makes of them is written down here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::world::{SOON, way};
use support::*;

const FOLDER: &str = "envoy/kubernetes/envoy-gateway";
const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// Of the EnvoyExtensionPolicy `slotgate/slotgate`.
const EXTENSION: &str = "envoyextensionpolicy/slotgate/slotgate/wasm/0";
const PASSWORD: &str = "of-the-test";
const TOKEN: &str = "a token of enough bytes";

pub fn documents(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let documents = text.split("\n---\n");
    documents
        .map(|document| serde_yaml_ng::from_str(document).unwrap_or_else(|e| panic!("{path}: {e}")))
        .collect()
}

/// All resources of the folder, by kind: there is one of each.
fn resources() -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for file in ["proxy", "gateway", "filter", "console", "reload"] {
        for resource in documents(&format!("{FOLDER}/{file}.yaml")) {
            let kind = resource["kind"].as_str().expect("a kind").to_owned();
            assert!(found.insert(kind, resource).is_none());
        }
    }
    found
}

/// As protobuf merges: what is a list grows, what is a message is merged, the rest is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(mut from)) => into.append(&mut from),
        (into, from) => *into = from,
    }
}

/// The HTTP listener of the Gateway, with what ClientTrafficPolicy, EnvoyExtensionPolicy and HTTPRoute put into it.
fn listener(all: &BTreeMap<String, Value>, sha256: &str) -> Value {
    let client = &all["ClientTrafficPolicy"]["spec"];
    let removed = client["headers"]["earlyRequestHeaders"]["remove"]
        .as_array()
        .expect("headers");
    let mutations: Vec<_> = removed.iter().map(|name| json!({"remove": name})).collect();
    let wasm = &all["EnvoyExtensionPolicy"]["spec"]["wasm"][0];
    assert_eq!(wasm["code"]["type"], "Image");
    let filter_name = format!("envoy.filters.http.wasm/{EXTENSION}");
    // On no route by itself: each route of the policy's target switches it on.
    let filter = json!({"name": filter_name, "disabled": true, "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": wasm["name"],
            "root_id": wasm["rootID"],
            "vm_config": {
                "vm_id": EXTENSION,
                "runtime": "envoy.wasm.runtime.v8",
                "environment_variables": {"host_env_keys": wasm["env"]["hostKeys"]},
                "code": {"remote": {
                    "sha256": sha256,
                    "http_uri": {"uri": "http://envoy-gateway/slotgate.wasm", "cluster": "wasm_cluster", "timeout": "10s"},
                    "retry_policy": {"num_retries": 10},
                }},
            },
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": wasm["config"].to_string(),
            },
        },
    }});
    let router = json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        "suppress_envoy_headers": true,
    }});
    let route = |(number, rule): (usize, &Value)| {
        let matched = &rule["matches"][0];
        let headers = matched["headers"].as_array().cloned().unwrap_or_default();
        let headers: Vec<_> = headers
            .iter()
            .map(|header| json!({"name": header["name"], "string_match": {"exact": header["value"]}}))
            .collect();
        json!({
            "match": {"prefix": "/", "headers": headers},
            "route": {"cluster": cluster_name(number), "timeout": rule["timeouts"]["request"]},
            "typed_per_filter_config": {&filter_name: {
                "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                "config": {},
            }},
        })
    };
    let rules = all["HTTPRoute"]["spec"]["rules"].as_array().expect("rules");
    let routes: Vec<_> = rules.iter().enumerate().map(route).collect();
    let manager = json!({
        "@type": MANAGER,
        "stat_prefix": "http-10080",
        "use_remote_address": true,
        "normalize_path": true,
        "merge_slashes": true,
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "stream_idle_timeout": client["timeout"]["http"]["streamIdleTimeout"],
        "early_header_mutation_extensions": [{
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                "mutations": mutations,
            },
        }],
        "http_filters": [filter, router],
        "route_config": {"name": "slotgate/slotgate/http", "virtual_hosts": [
            {"name": "slotgate/slotgate/http/*", "domains": ["*"], "routes": routes},
        ]},
    });
    json!({
        "name": "slotgate/slotgate/http",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 10080}},
        "per_connection_buffer_limit_bytes": 32768,
        "default_filter_chain": {"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]},
    })
}

fn cluster_name(rule: usize) -> String {
    format!("httproute/slotgate/slotgate/rule/{rule}")
}

/// The patch of `reload.yaml`, as its path finds its place.
fn patch(listener: &mut Value, policy: &Value) {
    let change = &policy["spec"]["jsonPatches"][0];
    assert_eq!(change["name"], listener["name"]);
    let operation = &change["operation"];
    assert_eq!(operation["op"], "add");
    let path = operation["jsonPath"].as_str().expect("a path");
    let name = path
        .strip_prefix("..http_filters[?(@.name=='")
        .and_then(|rest| rest.strip_suffix("')].typed_config.config"))
        .expect("a path of this form");
    let manager = &mut listener["default_filter_chain"]["filters"][0]["typed_config"];
    let filters = manager["http_filters"].as_array_mut().expect("filters");
    let filter = filters.iter_mut().find(|filter| filter["name"] == name);
    let config = &mut filter.expect("the path leads to a filter")["typed_config"]["config"];
    config[operation["path"].as_str().expect("a field")] = operation["value"].clone();
}

/// What the proxy runs. `sha256` is the wasm's, as Envoy Gateway has pulled it.
pub fn gateway(sha256: &str, patched: bool) -> EnvoyConfig {
    let all = resources();
    let bootstrap = &all["EnvoyProxy"]["spec"]["bootstrap"];
    assert_eq!(bootstrap["type"], "Merge");
    let text = bootstrap["value"].as_str().expect("a bootstrap");
    let own: Value = serde_yaml_ng::from_str(text).expect("the bootstrap is YAML");
    let mut http = listener(&all, sha256);
    if patched {
        patch(&mut http, &all["EnvoyPatchPolicy"]);
    }
    let limits = &all["BackendTrafficPolicy"]["spec"]["circuitBreaker"];
    let rules = all["HTTPRoute"]["spec"]["rules"]
        .as_array()
        .expect("rules")
        .len();
    let clusters = (0..rules).map(|rule| {
        let name = cluster_name(rule);
        json!({
            "name": name,
            "circuit_breakers": {"thresholds": [{
                "max_connections": limits["maxConnections"],
                "max_pending_requests": limits["maxPendingRequests"],
                "max_requests": limits["maxParallelRequests"],
            }]},
            "load_assignment": {"cluster_name": name},
        })
    });
    let clusters: Vec<_> = clusters.collect();
    EnvoyConfig::from_file("tests/deploy/envoy_gateway.yaml")
        .edit(|document| merge(document, own))
        .built_wasm()
        // From xDS; first, so that its port is. Its wasm is fetched, that of the bridge and the console is the mounted file.
        .edit(|document| {
            let resources = &mut document["static_resources"];
            resources["listeners"]
                .as_array_mut()
                .expect("it")
                .insert(0, http);
            resources["clusters"]
                .as_array_mut()
                .expect("it")
                .extend(clusters);
        })
        .plugin(|plugin| plugin["redis"]["acquire_timeout_ms"] = json!(20_000))
}

fn wasm() -> std::path::PathBuf {
    root().join(std::env::var_os("SLOTGATE_WASM").unwrap_or("target/slotgate.wasm".into()))
}

pub fn sha256(path: &Path) -> String {
    let sum = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("sha256sum");
    String::from_utf8_lossy(&sum.stdout[..64]).into_owned()
}

/// What a proxy's container has in its environment, which the tests' Envoy has not: the variables by their values instead
/// of by their names.
pub fn with_variables(config: EnvoyConfig, set: &BTreeSet<String>) -> EnvoyConfig {
    fn each(value: &mut Value, set: &BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(keys) = map.remove("host_env_keys") {
                    let pairs = keys.as_array().expect("names").iter().map(|key| {
                        let key = key.as_str().expect("a name").to_owned();
                        assert!(set.contains(&key), "{key} is not set in the container");
                        let value = if key.contains("TOKEN") {
                            TOKEN
                        } else {
                            PASSWORD
                        };
                        (key, json!(value))
                    });
                    let mut pairs: serde_json::Map<_, _> = pairs.collect();
                    if let Some(Value::Object(others)) = map.remove("key_values") {
                        pairs.extend(others);
                    }
                    map.insert("key_values".into(), pairs.into());
                }
                map.values_mut().for_each(|value| each(value, set));
            }
            Value::Array(values) => values.iter_mut().for_each(|value| each(value, set)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    config.edit(|document| each(document, set))
}

/// The names in a container's `env`.
pub fn variables(container: &Value) -> BTreeSet<String> {
    let env = container["env"].as_array().expect("variables").iter();
    env.map(|one| one["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// A Redis with the user that `redis.yaml` makes.
pub fn redis() -> Redis {
    let redis = Redis::start();
    let rules = rules_of_the_deployment();
    let password = format!(">{PASSWORD}");
    let rules = rules.iter().map(|rule| {
        if rule.starts_with('>') {
            &password
        } else {
            rule
        }
    });
    let words: Vec<&str> = ["SETUSER", "slotgate"]
        .into_iter()
        .chain(rules.map(String::as_str))
        .collect();
    redis.run::<()>("ACL", &words);
    redis
}

fn rules_of_the_deployment() -> Vec<String> {
    let text =
        std::fs::read_to_string(root().join("envoy/kubernetes/redis/redis.yaml")).expect("it");
    rules_in(&text, "--user slotgate ", "ports:")
}

#[test]
fn the_deployment_gives_the_documented_rights() {
    let password = |rule: &&String| !rule.starts_with('>');
    let (own, page) = (rules_of_the_deployment(), acl_rules());
    assert!(
        own.iter().filter(password).eq(page.iter().filter(password)),
        "{own:?} is not {page:?}"
    );
}

/// The whole of it: slots by account, the routes that the accounts lead to, the console, Envoy Gateway's own metrics page.
#[test]
fn the_merged_result_runs() {
    let file = wasm();
    let server = FileServer::start(std::fs::read(&file).expect("make wasm"));
    let proxy = &resources()["EnvoyProxy"]["spec"]["provider"]["kubernetes"]["envoyDeployment"];
    let set = variables(&proxy["container"]);
    for patched in [false, true] {
        let (redis, admin) = (redis(), Port::free());
        let upstreams = [(); 3].map(|()| Upstream::start());
        let mut config = with_variables(gateway(&sha256(&file), patched), &set)
            .cluster("redis", redis.addr())
            .cluster("wasm_cluster", server.addr())
            .cluster("prometheus_stats", admin.addr());
        for (rule, upstream) in upstreams.iter().enumerate() {
            config = config.cluster(&cluster_name(rule), upstream.addr());
        }
        let envoy = Envoy::start_in(Dir::temporary(), None, admin, config);
        let [_, stats, console] = envoy.addrs()[..] else {
            panic!("three listeners");
        };
        let ledger = Ledger::new(&redis, "slotgate", "demo");
        let get = || envoy.client().get("/", &[("x-session-id", "s")]);
        // The wasm is fetched when the listener is there.
        let on_its_way = |path: &str| {
            upstreams.iter().any(|one| {
                let told = one.last_headers();
                told.get("x-slotgate-path").is_some_and(|own| own == path)
            })
        };
        eventually(SOON, || get().status == 200 && on_its_way("atomic"));
        eventually(SOON, || ledger.is_empty());

        // A client that names an account gets none by it.
        let held: Vec<_> = (0..15)
            .map(|number| {
                let session = format!("session-{number}");
                let headers = [
                    ("x-session-id", session.as_str()),
                    ("x-slotgate-account", "acct-1"),
                ];
                envoy.client().open("/sse?events=100000", &headers)
            })
            .collect();
        assert!(held.iter().all(|stream| stream.status == 200));
        assert_eq!((ledger.used("acct-1"), ledger.used("acct-2")), (5, 10));
        let reply = envoy.client().get("/", &[("x-slotgate-account", "acct-1")]);
        assert_eq!(way(&reply).0, 429);
        // Each account's streams are where its rule of the route leads.
        assert_eq!(
            [0, 1, 2].map(|rule| upstreams[rule].snapshot().now),
            [5, 10, 0]
        );

        // The console, by its Service's name and with its token.
        let ask = |request: Request| {
            let host = "slotgate-console.envoy-gateway-system.svc.cluster.local:9902";
            Client::new(console)
                .send(request.header("host", host))
                .expect("a reply")
        };
        let status = ask(Request::get("/api/status"));
        assert_eq!(status.status, 200, "{}", status.text());
        assert_eq!(status.json()["pools"][0]["leases"]["live"], 15);
        let drain = Request::post("/api/drain", r#"{"pool": "demo", "account": "acct-1"}"#)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {TOKEN}"));
        assert_eq!(ask(drain).status, 200);

        // Envoy Gateway's own is still there, and has the filter's metrics with their labels.
        let page = Client::new(stats).get("/stats/prometheus", &[]).text();
        assert!(
            page.contains("slotgate_account_held{pool=\"demo\",account=\"acct-2\"}"),
            "{page}"
        );
        drop(held);
        eventually(SOON, || ledger.is_empty());
        crate::world::assert_sound(&envoy);
        let denied = redis.run::<Vec<redis::Value>>("ACL", &["LOG"]);
        assert!(denied.is_empty(), "{denied:?}");
    }
}

/// Of each folder for Kustomize: what it lists is there, what is there is listed, and what the pods mount and read is made
/// in their namespace.
#[test]
fn kustomizations_are_complete() {
    let proxies = |folder: &str| match folder {
        "envoy/istio" => "istio-ingress",
        _ => "envoy-gateway-system",
    };
    for folder in ["envoy/istio", FOLDER, "envoy/kubernetes/redis"] {
        let text =
            std::fs::read_to_string(root().join(folder).join("kustomization.yaml")).expect(folder);
        let own: Value = serde_yaml_ng::from_str(&text).expect(folder);
        let listed = own["resources"].as_array().expect("resources");
        let listed: BTreeSet<_> = listed
            .iter()
            .map(|one| one.as_str().expect("a path"))
            .collect();
        for name in &listed {
            let mut path = root().join(folder).join(name);
            if path.is_dir() {
                path.push("kustomization.yaml");
            }
            assert!(path.is_file(), "{folder}: {name}");
        }
        // An alternative is named in a comment.
        for entry in std::fs::read_dir(root().join(folder))
            .expect(folder)
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let named = listed.contains(name.as_str()) || text.contains(&name);
            assert!(name == "kustomization.yaml" || named, "{folder}: {name}");
        }
        let made = |kind: &str| -> BTreeSet<(String, String)> {
            let generators = own[kind].as_array().cloned().unwrap_or_default();
            let name = |one: &Value, field: &str| one[field].as_str().expect(field).to_owned();
            generators
                .iter()
                .map(|one| (name(one, "namespace"), name(one, "name")))
                .collect()
        };
        let (secrets, maps) = (made("secretGenerator"), made("configMapGenerator"));
        let files = listed.iter().filter(|name| name.ends_with(".yaml"));
        let mut seen = 0;
        for resource in files.flat_map(|name| documents(&format!("{folder}/{name}"))) {
            let namespace = match resource["kind"].as_str() {
                // Its pods run where Envoy Gateway runs them.
                Some("EnvoyProxy") => proxies(folder).to_owned(),
                _ => resource["metadata"]["namespace"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            };
            let mut used = vec![];
            named_in(&resource, &mut used);
            for (kind, name) in used {
                let of = if kind == "secretKeyRef" {
                    &secrets
                } else {
                    &maps
                };
                assert!(
                    of.contains(&(namespace.clone(), name.clone())),
                    "{folder}: {kind} {name} in {namespace}"
                );
                seen += 1;
            }
        }
        assert!(seen > 0, "{folder}");
    }
    // Both sides of the login have one password.
    let password = |folder: &str| {
        let text =
            std::fs::read_to_string(root().join(folder).join("kustomization.yaml")).expect(folder);
        let line = text
            .lines()
            .find_map(|line| line.split_once("[password="))
            .expect("a password");
        line.1.split(']').next().expect("it ends").to_owned()
    };
    assert_eq!(password("envoy/istio"), password("envoy/kubernetes/redis"));
    assert_eq!(password(FOLDER), password("envoy/kubernetes/redis"));
}

/// Every Secret that is read and ConfigMap that is mounted.
fn named_in(value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if ["secretKeyRef", "configMap"].contains(&name.as_str()) {
                    into.push((
                        name.clone(),
                        value["name"].as_str().expect("a name").to_owned(),
                    ));
                }
                named_in(value, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| named_in(value, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
