//! `envoy/istio/`, merged into a gateway's configuration as istiod does it, and run. No cluster and no istiod: what they
//! make of the resources is written down here, in `apply`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::envoy_gateway::{documents, redis, variables, with_variables};
use crate::world::{SOON, way};
use support::*;

const REDIS: &str = "outbound|6379||redis.slotgate.svc.cluster.local";
const HTTP_WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// The resources of a file that select a gateway with these labels.
fn selected(path: &str, labels: &Value) -> Vec<Value> {
    let fits = |resource: &Value| {
        let spec = &resource["spec"];
        let wanted = match resource["kind"].as_str() {
            Some("EnvoyFilter") => &spec["workloadSelector"]["labels"],
            Some("WasmPlugin") => &spec["selector"]["matchLabels"],
            other => panic!("{other:?}"),
        };
        let wanted = wanted.as_object().expect("labels");
        wanted.iter().all(|(name, value)| labels[name] == *value)
    };
    let mut found = documents(path);
    found.retain(fits);
    found
}

/// Puts a resource into a gateway's configuration. The kinds of patches that the examples have, and no others.
fn apply(document: &mut Value, resource: &Value) {
    if resource["kind"] == "WasmPlugin" {
        return insert_filter(document, plugin_filter(resource));
    }
    for change in resource["spec"]["configPatches"]
        .as_array()
        .expect("patches")
    {
        assert_eq!(change["match"]["context"], "GATEWAY");
        let value = change["patch"]["value"].clone();
        let kind = change["applyTo"].as_str().expect("a kind");
        match (kind, change["patch"]["operation"].as_str()) {
            ("CLUSTER", Some("ADD")) => list(document, "clusters").push(value),
            ("LISTENER", Some("ADD")) => list(document, "listeners").push(value),
            ("NETWORK_FILTER", Some("MERGE")) => {
                let filter = &change["match"]["listener"]["filterChain"]["filter"];
                assert_eq!(filter["name"], value["name"]);
                for listener in list(document, "listeners") {
                    let filter = &mut listener["filter_chains"][0]["filters"][0];
                    if filter["name"] == value["name"] {
                        let fields = value["typed_config"].as_object().expect("a message");
                        for (name, field) in fields {
                            filter["typed_config"][name] = field.clone();
                        }
                    }
                }
            }
            ("HTTP_FILTER", Some("INSERT_BEFORE")) => {
                let filter = &change["match"]["listener"]["filterChain"]["filter"];
                assert_eq!(filter["subFilter"]["name"], "envoy.filters.http.router");
                insert_filter(document, value);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn list<'a>(document: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    document["static_resources"][name]
        .as_array_mut()
        .expect("a list")
}

/// Before the router of every HTTP listener, which is where a plugin without a phase goes too.
fn insert_filter(document: &mut Value, filter: Value) {
    for listener in list(document, "listeners") {
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        let filters = manager.get_mut("http_filters");
        if let Some(filters) = filters.and_then(Value::as_array_mut) {
            let place = filters.len() - 1;
            assert_eq!(filters[place]["name"], "envoy.filters.http.router");
            filters.insert(place, filter.clone());
        }
    }
}

/// The extension that istiod makes of a plugin: its configuration as JSON in a string, no `vm_id`.
fn plugin_filter(resource: &Value) -> Value {
    let spec = &resource["spec"];
    let variables = spec["vmConfig"]["env"].as_array().expect("variables");
    let (of_host, own): (Vec<_>, Vec<_>) = variables
        .iter()
        .partition(|variable| variable["valueFrom"] == "HOST");
    let of_host: Vec<_> = of_host.iter().map(|variable| &variable["name"]).collect();
    let env: serde_json::Map<String, Value> = own
        .iter()
        .map(|one| {
            (
                one["name"].as_str().expect("a name").to_owned(),
                one["value"].clone(),
            )
        })
        .collect();
    let name = format!(
        "{}.{}",
        resource["metadata"]["namespace"]
            .as_str()
            .expect("a namespace"),
        resource["metadata"]["name"].as_str().expect("a name")
    );
    json!({"name": name, "typed_config": {"@type": HTTP_WASM, "config": {
        "name": name,
        "root_id": spec["pluginName"],
        "failure_policy": spec["failStrategy"],
        "vm_config": {
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": spec["url"].as_str().expect("a URL").trim_start_matches("file://")}},
            "environment_variables": {"key_values": env, "host_env_keys": of_host},
        },
        "configuration": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": spec["pluginConfig"].to_string(),
        },
    }}})
}

/// The resources of a file, by kind.
fn of_kind(path: &str, kind: &str) -> Vec<Value> {
    let mut found = documents(path);
    found.retain(|resource| resource["kind"] == kind);
    assert!(!found.is_empty(), "{kind} in {path}");
    found
}

/// The variables of the gateway with these labels, which mounts the wasm where the filter and the bridge look for it.
fn variables_of_gateway(labels: &Value) -> BTreeSet<String> {
    let deployments = of_kind("envoy/istio/gateway.yaml", "Deployment");
    let deployment = deployments
        .iter()
        .find(|one| one["spec"]["selector"]["matchLabels"] == *labels);
    let template = &deployment.expect("a gateway of these labels")["spec"]["template"];
    for (name, value) in labels.as_object().expect("labels") {
        assert_eq!(template["metadata"]["labels"][name], *value);
    }
    let container = &template["spec"]["containers"][0];
    let mount = &container["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/lib/slotgate");
    assert_eq!(mount["name"], template["spec"]["volumes"][0]["name"]);
    variables(container)
}

/// The routes that istiod makes of the VirtualService, to the clusters that it makes of the ServiceEntries.
fn apply_routes(document: &mut Value) {
    let file = "envoy/istio/routes.yaml";
    let entries = of_kind(file, "ServiceEntry");
    let hosts: BTreeSet<_> = entries
        .iter()
        .map(|entry| &entry["spec"]["hosts"][0])
        .map(Value::to_string)
        .collect();
    let rules = of_kind(file, "DestinationRule");
    let ruled: BTreeSet<_> = rules
        .iter()
        .map(|rule| rule["spec"]["host"].to_string())
        .collect();
    assert_eq!(hosts, ruled);
    let service = &of_kind(file, "VirtualService")[0]["spec"];
    let gateway = &of_kind(file, "Gateway")[0];
    assert_eq!(service["gateways"][0], gateway["metadata"]["name"]);
    let route = |rule: &Value| {
        let to = &rule["route"][0]["destination"];
        assert!(hosts.contains(&to["host"].to_string()), "{to}");
        let matched = rule["match"][0]["headers"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        let headers: Vec<_> = matched
            .iter()
            .map(|(name, value)| json!({"name": name, "string_match": value}))
            .collect();
        assert_eq!(rule["retries"]["attempts"], 0);
        json!({
            "match": {"prefix": "/", "headers": headers},
            "route": {
                "cluster": format!("outbound|{}||{}", to["port"]["number"], to["host"].as_str().expect("a host")),
                "timeout": rule["timeout"],
                "host_rewrite_literal": rule["rewrite"]["authority"],
            },
        })
    };
    let routes: Vec<_> = service["http"]
        .as_array()
        .expect("rules")
        .iter()
        .map(route)
        .collect();
    let named: BTreeSet<_> = routes
        .iter()
        .map(|route| route["route"]["cluster"].clone().to_string())
        .collect();
    let clusters = list(document, "clusters");
    let there: BTreeSet<_> = clusters
        .iter()
        .map(|cluster| cluster["name"].to_string())
        .collect();
    assert!(named.is_subset(&there), "{named:?} in {there:?}");
    let manager =
        &mut list(document, "listeners")[0]["filter_chains"][0]["filters"][0]["typed_config"];
    manager["route_config"]["virtual_hosts"][0]["routes"] = json!(routes);
}

pub fn gateway(filter: &str, version: &str) -> EnvoyConfig {
    let labels = json!({"istio": "ingressgateway", "version": version});
    let resources = [
        selected("envoy/istio/pipe.yaml", &labels),
        selected(filter, &labels),
    ]
    .concat();
    assert_eq!(resources.len(), 2, "one of each file");
    let config = EnvoyConfig::from_file("tests/deploy/istio.yaml")
        .edit(|document| {
            for resource in &resources {
                apply(document, resource);
            }
            apply_routes(document);
        })
        .built_wasm();
    with_variables(config, &variables_of_gateway(&labels))
        .plugin(|plugin| plugin["redis"]["acquire_timeout_ms"] = json!(20_000))
}

fn start(config: EnvoyConfig, redis: &Redis, upstream: &Upstream) -> Envoy {
    Envoy::start(
        config
            .upstream(upstream.addr())
            .cluster(REDIS, redis.addr()),
    )
}

/// How many of 400 sessions took a slot.
fn atomic(envoy: &Envoy) -> usize {
    let sessions = (0..400).map(|number| format!("session-{number}"));
    sessions
        .filter(|session| {
            let reply = envoy.client().get("/echo", &[("x-session-id", session)]);
            assert_eq!(reply.status, 200);
            let told = &reply.json()["headers"];
            // Each account has its own host, and so have the requests without one.
            let host = match told["x-slotgate-account"].as_str() {
                Some(account) => format!("{account}.api.example.com"),
                None => "api.example.com".to_owned(),
            };
            assert_eq!(told["host"], host);
            told["x-slotgate-path"] == "atomic"
        })
        .count()
}

fn run(filter: &str, as_istiod: impl Fn(EnvoyConfig) -> EnvoyConfig) {
    let (redis, upstream) = (redis(), Upstream::start());
    let [stable, canary] = ["stable", "canary"]
        .map(|version| start(as_istiod(gateway(filter, version)), &redis, &upstream));
    // The percentage is the workload's own: 5 % of the sessions here, all of them there.
    let share = atomic(&stable);
    assert!((10..=30).contains(&share), "{share} of 400");
    assert_eq!(atomic(&canary), 400);
    // The pool is one.
    let ledger = Ledger::new(&redis, "slotgate", "demo");
    eventually(SOON, || ledger.is_empty());
    let held: Vec<_> = (0..15)
        .map(|_| canary.client().open("/sse?events=100000", &[]))
        .collect();
    assert_eq!((ledger.used("acct-1"), ledger.used("acct-2")), (5, 10));
    assert_eq!(canary.client().get("/", &[]).status, 429);
    drop(held);
    eventually(SOON, || ledger.is_empty());
    // Istio's list lets the filter's counters through, and not those of the cluster Redis.
    assert!(canary.filter_stat("requests;outcome=atomic") >= Some(415));
    let stats = canary.stats();
    assert!(
        !stats
            .keys()
            .any(|name| name.starts_with("cluster.outbound|6379"))
    );
    for envoy in [&stable, &canary] {
        crate::world::assert_sound(envoy);
    }
}

#[test]
fn envoy_filters() {
    run("envoy/istio/filter.yaml", |config| config);
}

/// Which istiod sends by ECDS.
#[test]
fn wasm_plugins() {
    run("envoy/istio/wasmplugin.yaml", EnvoyConfig::filter_from_file);
}

/// The filter and the bridge are one module: what it imports and exports is what the two lists name, together.
#[test]
fn the_listed_capabilities_are_the_modules() {
    let file = std::env::var("SLOTGATE_WASM").unwrap_or_else(|_| "target/slotgate.wasm".into());
    let module = std::fs::read(root().join(file)).expect("the wasm");
    let mut has = BTreeSet::new();
    for part in wasmparser::Parser::new(0).parse_all(&module) {
        match part.expect("a module") {
            wasmparser::Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    has.insert(import.expect("an import").name.to_owned());
                }
            }
            wasmparser::Payload::ExportSection(exports) => {
                let names = exports.into_iter().map(|export| export.expect("it").name);
                // Envoy does not restrict the allocator.
                let callbacks = names.filter(|name| name.starts_with("proxy_on_"));
                has.extend(
                    callbacks
                        .map(str::to_owned)
                        .filter(|name| name != "proxy_on_memory_allocate"),
                );
            }
            _ => {}
        }
    }
    let mut listed = BTreeSet::new();
    for file in ["envoy/istio/filter.yaml", "envoy/istio/pipe.yaml"] {
        let text = std::fs::read_to_string(root().join(file)).expect(file);
        let after = text.split_once("allowed_capabilities:\n").expect(file).1;
        let lines = after.lines().map(|line| line.trim().strip_suffix(": {}"));
        listed.extend(lines.map_while(|name| name).map(str::to_owned));
    }
    // std's own way out of a panic, what only a console needs, and what only `upstream.sse_errors` does.
    for other in [
        "fd_write",
        "proc_exit",
        "proxy_get_metric",
        "proxy_on_request_body",
        "proxy_on_response_body",
    ] {
        assert!(has.remove(other), "{other}");
    }
    assert_eq!(listed, has);
}

/// With no more capabilities than the examples list, everything still works: cooldowns, renewals, refusals, aborts, updates.
/// With one less it does not.
#[test]
fn the_listed_capabilities_suffice() {
    let (redis, upstream) = (redis(), Upstream::start());
    let config = || {
        gateway("envoy/istio/filter.yaml", "canary").plugin(|plugin| {
            plugin["lease"] = json!({"ttl_ms": 2_000, "renew_interval_ms": 300});
            plugin["pools"][0]["accounts"] = json!([{"id": "acct-1", "max_concurrency": 2}]);
            plugin["cooldown"] = json!({"default_ms": 300});
        })
    };
    let envoy = start(config(), &redis, &upstream);
    let ledger = Ledger::new(&redis, "slotgate", "demo");
    let counter = |name: &str| envoy.filter_stat(name).unwrap_or(0);
    let get = |path: &str| {
        envoy
            .client()
            .get(path, &[("x-session-id", "s"), ("x-slotgate-lease", "mine")])
    };
    let mut held = envoy.client().open("/sse?events=100000", &[]);
    let other = envoy.client().open("/sse?events=100000", &[]);
    assert_eq!(get("/").status, 429);
    drop(other);
    eventually(SOON, || ledger.live() == 1);
    assert_eq!(get("/").status, 200);
    let told = upstream.last_headers();
    assert_eq!(told["x-slotgate-account"], "acct-1");
    assert!(
        told.get_all("x-slotgate-lease")
            .iter()
            .all(|lease| lease != "mine")
    );
    eventually(SOON, || counter("lease.renewed") >= 8);
    held.events(1);
    assert_eq!(get("/status/429").status, 429);
    eventually(SOON, || counter("cooldown") == 1);
    eventually(SOON, || get("/").status == 200);
    // A connection that breaks is opened again.
    redis.run::<()>("CLIENT", &["KILL", "TYPE", "normal"]);
    eventually(SOON, || counter("pipe.lost;reason=closed") == 1);
    eventually(SOON, || {
        get("/").status == 200 && counter("pipe.ready") == 2
    });
    drop(held);
    eventually(SOON, || ledger.is_empty());
    crate::world::assert_sound(&envoy);

    let without = |capability: &str| {
        config().edit(|document| {
            let listeners = list(document, "listeners");
            let manager = &mut listeners[0]["filter_chains"][0]["filters"][0]["typed_config"];
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            let slotgate = filters
                .iter_mut()
                .find(|filter| filter["name"] == "slotgate");
            let config = &mut slotgate.expect("it")["typed_config"]["config"];
            let allowed = &mut config["capability_restriction_config"]["allowed_capabilities"];
            let allowed = allowed.as_object_mut().expect("a map");
            allowed.remove(capability).expect("it was listed");
        })
    };
    // Those of an older list: acquires wait for ticks then.
    for capability in ["proxy_register_shared_queue", "proxy_on_queue_ready"] {
        let envoy = start(without(capability), &redis, &upstream);
        let get = || way(&envoy.client().get("/", &[])).0;
        eventually(SOON, || {
            get() == 200 && upstream.last_headers()["x-slotgate-path"] == "atomic"
        });
        let warnings = envoy
            .log()
            .matches("no callback from Envoy's shared queue")
            .count();
        assert_eq!(warnings, 1, "{capability}");
        for _ in 0..20 {
            assert_eq!(get(), 200);
            assert_eq!(upstream.last_headers()["x-slotgate-path"], "atomic");
        }
        eventually(SOON, || ledger.is_empty());
    }
    let envoy = start(without("proxy_grpc_stream"), &redis, &upstream);
    assert_eq!(way(&envoy.client().get("/", &[])).0, 200);
    assert_eq!(upstream.last_headers()["x-slotgate-path"], "traditional");
}
