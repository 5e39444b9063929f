use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::root;

const HTTP_WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const NETWORK_WASM: &str = "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm";
const MANAGER: &str = concat!(
    "type.googleapis.com/envoy.extensions.filters.network",
    ".http_connection_manager.v3.HttpConnectionManager"
);
const INTERNAL_UPSTREAM: &str = "envoy.transport_sockets.internal_upstream";

/// The cluster that leads to Redis; every other one with real addresses leads to upstreams.
const REDIS_CLUSTER: &str = "redis";

/// What a running Envoy can be given anew, from a file that it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// LDS: all listeners with an address; the old ones drain.
    Listeners,
    /// ECDS: the filter alone; its listener and the connections stay.
    Filter,
}

impl Watched {
    pub(super) fn file(self) -> &'static str {
        match self {
            Watched::Listeners => "listeners.json",
            Watched::Filter => "filter.json",
        }
    }

    /// Stats that count updates taken and refused.
    pub(super) fn stats(self) -> [&'static str; 2] {
        match self {
            Watched::Listeners => [
                "listener_manager.lds.update_success",
                "listener_manager.lds.update_rejected",
            ],
            Watched::Filter => [
                "extension_config_discovery.http_filter.slotgate.update_success",
                "extension_config_discovery.http_filter.slotgate.update_rejected",
            ],
        }
    }
}

/// An Envoy bootstrap as JSON, and how to run it. Ports and addresses are filled in when it is started.
#[derive(Clone, Debug)]
pub struct EnvoyConfig {
    pub document: Value,
    pub(super) workers: u32,
    pub(super) log_level: String,
    pub(super) component_log_level: String,
    pub(super) watched: Option<Watched>,
    pub(super) args: Vec<String>,
}

impl EnvoyConfig {
    /// `envoy/slotgate.yaml`, with the wasm that was built here.
    pub fn from_example() -> EnvoyConfig {
        EnvoyConfig::from_file("envoy/slotgate.yaml")
    }

    /// A YAML file, by its path from the project's root.
    pub fn from_file(path: &str) -> EnvoyConfig {
        let document = read_yaml(path);
        EnvoyConfig::from_document(document).built_wasm()
    }

    /// With the wasm that was built here, wherever the file says it is.
    pub fn built_wasm(self) -> EnvoyConfig {
        let wasm =
            std::env::var_os("SLOTGATE_WASM").map_or("target/slotgate.wasm".into(), PathBuf::from);
        self.wasm(&wasm)
    }

    /// One listener and one cluster, nothing of slotgate: Envoy alone.
    pub fn plain(upstream: SocketAddr) -> EnvoyConfig {
        let manager = json!({
            "@type": MANAGER,
            "stat_prefix": "plain",
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}],
            }]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        });
        let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
        EnvoyConfig::from_document(json!({"static_resources": {
            "listeners": [{
                "name": "http",
                "address": socket_address(upstream),
                "filter_chains": [{"filters": [filter]}],
            }],
            "clusters": [{
                "name": "upstream",
                "load_assignment": {"cluster_name": "upstream", "endpoints": endpoints(upstream)},
            }],
        }}))
    }

    fn from_document(document: Value) -> EnvoyConfig {
        EnvoyConfig {
            document,
            workers: 1,
            log_level: "warning".into(),
            component_log_level: "wasm:debug".into(),
            watched: None,
            args: Vec::new(),
        }
    }

    /// Changes anything.
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> EnvoyConfig {
        change(&mut self.document);
        self
    }

    /// Changes the scheduler's plugin configuration, in every filter that has one.
    #[track_caller]
    pub fn plugin(mut self, mut change: impl FnMut(&mut Value)) -> EnvoyConfig {
        let mut found = false;
        each(&mut self.document, HTTP_WASM, &mut |filter| {
            if filter["config"]["configuration"]["value"]["role"] == "upstream" {
                return;
            }
            found = true;
            edit_plugin(&mut filter["config"]["configuration"], &mut change);
        });
        assert!(found, "no HTTP wasm filter to configure");
        self
    }

    /// Changes the bridge's plugin configuration.
    #[track_caller]
    pub fn bridge(mut self, mut change: impl FnMut(&mut Value)) -> EnvoyConfig {
        let mut found = false;
        each(&mut self.document, NETWORK_WASM, &mut |filter| {
            found = true;
            edit_plugin(&mut filter["config"]["configuration"], &mut change);
        });
        assert!(found, "no network wasm filter to configure");
        self
    }

    /// With the operator's console of `envoy/console.yaml` on one more listener, the last. `plugin` changes its listener
    /// afterwards as well: call this behind it.
    #[track_caller]
    pub fn console(mut self, mut change: impl FnMut(&mut Value)) -> EnvoyConfig {
        let mut listeners = read_yaml("envoy/console.yaml");
        each(&mut listeners, HTTP_WASM, &mut |filter| {
            edit_plugin(&mut filter["config"]["configuration"], &mut change);
        });
        let fresh = listeners.as_array_mut().expect("listeners");
        self.document["static_resources"]["listeners"]
            .as_array_mut()
            .expect("listeners")
            .append(fresh);
        self.built_wasm()
    }

    /// Gives the scheduler's VM an environment variable.
    #[track_caller]
    pub fn env(mut self, name: &str, value: &str) -> EnvoyConfig {
        each(&mut self.document, HTTP_WASM, &mut |filter| {
            filter["config"]["vm_config"]["environment_variables"]["key_values"][name] =
                json!(value);
        });
        self
    }

    /// Puts values in the place of the names of the host's variables that VMs see.
    pub fn host_env(mut self, value: impl Fn(&str) -> String) -> EnvoyConfig {
        each(&mut self.document, HTTP_WASM, &mut |filter| {
            let variables = &mut filter["config"]["vm_config"]["environment_variables"];
            let names = variables["host_env_keys"].take();
            let names = names.as_array().into_iter().flatten();
            let values: serde_json::Map<String, Value> = names
                .map(|name| {
                    let name = name.as_str().expect("a name");
                    (name.to_owned(), value(name).into())
                })
                .collect();
            if !values.is_empty() {
                *variables = json!({"key_values": values});
            }
        });
        self
    }

    /// Changes every HTTP connection manager: routes, timeouts, upgrades, filters.
    pub fn manager(mut self, mut change: impl FnMut(&mut Value)) -> EnvoyConfig {
        each(&mut self.document, MANAGER, &mut change);
        self
    }

    /// Lets requests try this many accounts: role `upstream` ahead of each cluster of an upstream, and routes that try again.
    pub fn failover(self, max_attempts: u32) -> EnvoyConfig {
        let mut half = Value::Null;
        let found =
            self.plugin(|plugin| plugin["failover"] = json!({"max_attempts": max_attempts}));
        let found = found.manager(|manager| {
            let filters = manager["http_filters"].as_array().expect("filters");
            let wasm = filters.iter().find(|filter| filter["name"] == "slotgate");
            half = wasm.expect("the filter").clone();
            let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
            for route in routes.as_array_mut().expect("routes") {
                if !route["route"].is_object() {
                    continue;
                }
                route["request_body_buffer_limit"] = json!(16 << 20);
                route["route"]["retry_policy"] = json!({
                    "retry_on": "retriable-headers,connect-failure,refused-stream",
                    "retriable_headers": [{"name": "x-slotgate-retry", "present_match": true}],
                    "num_retries": max_attempts - 1,
                    "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
                });
            }
        });
        half["name"] = json!("slotgate_upstream");
        half["typed_config"]["config"]["name"] = json!("slotgate_upstream");
        half["typed_config"]["config"]["root_id"] = json!("slotgate_upstream");
        half["typed_config"]["config"]["configuration"]["value"] = json!({"role": "upstream"});
        let codec = "envoy.filters.http.upstream_codec";
        let codec = json!({"name": codec, "typed_config": {
            "@type": format!("type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"),
        }});
        const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        found.edit(|document| {
            let clusters = document["static_resources"]["clusters"].as_array_mut();
            for cluster in clusters.expect("clusters") {
                let name = cluster["name"].as_str().unwrap_or_default();
                if !name.starts_with("acct_") && name != "traditional" {
                    continue;
                }
                let most = json!({"max_retries": 100_000});
                cluster["circuit_breakers"] = json!({"thresholds": [most]});
                let options = &mut cluster["typed_extension_protocol_options"][OPTIONS];
                options["@type"] = json!(format!("type.googleapis.com/{OPTIONS}"));
                if options["explicit_http_config"].is_null() {
                    options["explicit_http_config"] = json!({"http_protocol_options": {}});
                }
                options["http_filters"] = json!([half, codec]);
            }
        })
    }

    /// Envoy's own limits would refuse a crowd: 1,024 requests for each cluster.
    pub fn without_circuit_breakers(mut self) -> EnvoyConfig {
        let most = 1_000_000;
        let threshold =
            json!({"max_connections": most, "max_pending_requests": most, "max_requests": most});
        for cluster in self.clusters() {
            cluster["circuit_breakers"] = json!({"thresholds": [threshold]});
        }
        self
    }

    /// Lets websockets through.
    pub fn websockets(self) -> EnvoyConfig {
        self.manager(|manager| manager["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]))
    }

    /// Neither writes it nor says anything for it: for measurements.
    pub fn without_access_log(self) -> EnvoyConfig {
        self.manager(|manager| manager["access_log"] = json!([]))
            .plugin(|plugin| plugin["access_log"] = json!(false))
    }

    pub fn redis(self, addr: SocketAddr) -> EnvoyConfig {
        self.cluster(REDIS_CLUSTER, addr)
    }

    /// Reaches Redis as one of `envoy/redis/` does: its clusters in the place of `redis`, its filters in `tcp_proxy`'s.
    /// Addresses are the file's own: `redis_nodes` sets them.
    #[track_caller]
    pub fn redis_as(mut self, path: &str) -> EnvoyConfig {
        let mut part = read_yaml(path);
        let clusters = self.clusters();
        let place = clusters
            .iter()
            .position(|cluster| cluster["name"] == REDIS_CLUSTER)
            .expect("a cluster redis");
        let fresh = part["clusters"].as_array_mut().expect("clusters");
        clusters.splice(place..=place, std::mem::take(fresh));
        if let Some(fresh) = part.get_mut("filters").and_then(Value::as_array_mut) {
            let listeners = self.document["static_resources"]["listeners"].as_array_mut();
            let pipe = listeners
                .expect("listeners")
                .iter_mut()
                .find(|listener| listener.get("internal_listener").is_some());
            let filters = pipe.expect("the pipe's listener")["filter_chains"][0]["filters"]
                .as_array_mut()
                .expect("filters");
            filters.truncate(1);
            filters.append(fresh);
        }
        self
    }

    /// Gives the cluster `redis` several addresses.
    #[track_caller]
    pub fn redis_nodes(self, addrs: &[SocketAddr]) -> EnvoyConfig {
        let all: Vec<Value> = addrs
            .iter()
            .map(|addr| json!({"endpoint": {"address": socket_address(*addr)}}))
            .collect();
        self.edit_cluster(REDIS_CLUSTER, |cluster| {
            cluster["load_assignment"]["endpoints"] = json!([{"lb_endpoints": all}]);
        })
    }

    /// Changes anything of one cluster.
    #[track_caller]
    pub fn edit_cluster(mut self, name: &str, change: impl FnOnce(&mut Value)) -> EnvoyConfig {
        let cluster = self
            .clusters()
            .iter_mut()
            .find(|cluster| cluster["name"] == name);
        change(cluster.unwrap_or_else(|| panic!("no cluster {name}")));
        self
    }

    /// Points every cluster that is neither Redis nor inside Envoy at this address.
    pub fn upstream(mut self, addr: SocketAddr) -> EnvoyConfig {
        for cluster in self.clusters() {
            // One with a type of its own finds its endpoints itself.
            let is_plain = !is_internal(cluster) && cluster.get("cluster_type").is_none();
            if cluster["name"] != REDIS_CLUSTER && is_plain {
                cluster["load_assignment"]["endpoints"] = endpoints(addr);
            }
        }
        self
    }

    /// Points one cluster at this address.
    #[track_caller]
    pub fn cluster(self, name: &str, addr: SocketAddr) -> EnvoyConfig {
        self.edit_cluster(name, |cluster| {
            cluster["load_assignment"]["endpoints"] = endpoints(addr);
        })
    }

    /// Another wasm file; a path that is not absolute counts from the project's root.
    pub fn wasm(mut self, path: &Path) -> EnvoyConfig {
        let path = root().join(path);
        for kind in [HTTP_WASM, NETWORK_WASM] {
            each(&mut self.document, kind, &mut |filter| {
                filter["config"]["vm_config"]["code"] = json!({"local": {"filename": &path}});
            });
        }
        self
    }

    /// Puts Envoy's redis_proxy in tcp_proxy's place behind the bridge.
    #[track_caller]
    pub fn redis_proxy(mut self) -> EnvoyConfig {
        let listeners = self.document["static_resources"]["listeners"].as_array_mut();
        let pipe = listeners
            .expect("listeners")
            .iter_mut()
            .find(|listener| listener["name"] == "slotgate_pipe");
        let pipe = pipe.expect("the pipe's listener");
        pipe["filter_chains"][0]["filters"][1] = json!({
            "name": "envoy.filters.network.redis_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
                "stat_prefix": "redis",
                "settings": {"op_timeout": "1s"},
                "prefix_routes": {"catch_all_route": {"cluster": REDIS_CLUSTER}},
            },
        });
        self
    }

    /// Takes slotgate out and leaves the rest: the same Envoy for comparison.
    pub fn without_wasm(mut self) -> EnvoyConfig {
        each(&mut self.document, MANAGER, &mut |manager| {
            if let Some(filters) = manager["http_filters"].as_array_mut() {
                filters.retain(|filter| filter["typed_config"]["@type"] != HTTP_WASM);
            }
        });
        let resources = &mut self.document["static_resources"];
        if let Some(listeners) = resources["listeners"].as_array_mut() {
            listeners.retain(|listener| listener.get("internal_listener").is_none());
        }
        if let Some(clusters) = resources["clusters"].as_array_mut() {
            clusters.retain(|cluster| !is_internal(cluster));
        }
        self
    }

    /// Number of worker threads; 1 unless told.
    pub fn workers(mut self, workers: u32) -> EnvoyConfig {
        self.workers = workers;
        self
    }

    /// Command line options of its own: `&["--drain-time-s", "1"]`.
    pub fn args(mut self, args: &[&str]) -> EnvoyConfig {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// As for Envoy's options `-l` and `--component-log-level`; `warning` and `wasm:debug` unless told.
    pub fn log_levels(mut self, level: &str, components: &str) -> EnvoyConfig {
        self.log_level = level.into();
        self.component_log_level = components.into();
        self
    }

    /// Envoy watches a file for its listeners, so that `Envoy::reconfigure` can push another configuration. A bad one
    /// at the start doesn't end Envoy then.
    pub fn listeners_from_file(mut self) -> EnvoyConfig {
        self.watched = Some(Watched::Listeners);
        self
    }

    /// The same for slotgate's filter alone.
    pub fn filter_from_file(mut self) -> EnvoyConfig {
        self.watched = Some(Watched::Filter);
        self
    }

    /// Takes out what is watched, as the resources of its file, and puts a reference to the file in its place.
    pub(super) fn take_watched(&mut self, watched: Watched, dir: &Path) -> Vec<Value> {
        let source = json!({"path_config_source": {
            "path": dir.join(watched.file()),
            "watched_directory": {"path": dir},
        }});
        match watched {
            Watched::Listeners => {
                let mut resources: Vec<Value> = self
                    .outer_listeners()
                    .map(|listener| listener.take())
                    .collect();
                for listener in &mut resources {
                    listener["@type"] =
                        json!("type.googleapis.com/envoy.config.listener.v3.Listener");
                }
                // Internal ones stay: whatever leads to them refers to them by name.
                if let Some(listeners) =
                    self.document["static_resources"]["listeners"].as_array_mut()
                {
                    listeners.retain(|listener| !listener.is_null());
                }
                self.document["dynamic_resources"] = json!({"lds_config": source});
                resources
            }
            Watched::Filter => {
                let mut resources = Vec::new();
                each(&mut self.document, MANAGER, &mut |manager| {
                    let filters = manager["http_filters"].as_array_mut().expect("filters");
                    for filter in filters {
                        if filter["typed_config"]["@type"] == HTTP_WASM {
                            resources.push(json!({
                                "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                                "name": filter["name"],
                                "typed_config": filter["typed_config"].take(),
                            }));
                            *filter = json!({
                                "name": filter["name"],
                                "config_discovery": {"config_source": source, "type_urls": [HTTP_WASM]},
                            });
                        }
                    }
                });
                resources
            }
        }
    }

    /// Paths of the wasm files it needs.
    pub(super) fn wasm_files(&mut self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for kind in [HTTP_WASM, NETWORK_WASM] {
            each(&mut self.document, kind, &mut |filter| {
                let file = filter["config"]["vm_config"]["code"]["local"]["filename"].as_str();
                files.extend(file.map(PathBuf::from));
            });
        }
        files
    }

    /// Listeners that have a real address.
    pub(super) fn outer_listeners(&mut self) -> impl Iterator<Item = &mut Value> {
        let listeners = self.document["static_resources"]["listeners"]
            .as_array_mut()
            .expect("listeners");
        listeners
            .iter_mut()
            .filter(|listener| listener.get("internal_listener").is_none())
    }

    fn clusters(&mut self) -> &mut Vec<Value> {
        self.document["static_resources"]["clusters"]
            .as_array_mut()
            .expect("clusters")
    }
}

fn read_yaml(path: &str) -> Value {
    let text = std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(super) fn socket_address(addr: SocketAddr) -> Value {
    json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}})
}

fn endpoints(addr: SocketAddr) -> Value {
    json!([{"lb_endpoints": [{"endpoint": {"address": socket_address(addr)}}]}])
}

fn is_internal(cluster: &Value) -> bool {
    cluster["transport_socket"]["name"] == INTERNAL_UPSTREAM
}

/// Every message of that type, wherever it is.
fn each(value: &mut Value, kind: &str, act: &mut dyn FnMut(&mut Value)) {
    if value.get("@type").is_some_and(|found| found == kind) {
        act(value);
    }
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| each(value, kind, act)),
        Value::Object(map) => map.values_mut().for_each(|value| each(value, kind, act)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A plugin configuration is written as a Struct, or as a StringValue of JSON.
fn edit_plugin(configuration: &mut Value, change: &mut dyn FnMut(&mut Value)) {
    let value = &mut configuration["value"];
    if let Some(text) = value.as_str() {
        let mut plugin: Value =
            serde_yaml_ng::from_str(text).expect("the plugin configuration is JSON or YAML");
        change(&mut plugin);
        *value = plugin.to_string().into();
    } else {
        change(value);
    }
}
