//! What others decide with: Limitador behind Envoy's own filter, and LiteLLM's proxy.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::json;
use support::*;

/// A server of somebody else's, once it listens on its port.
pub fn started(mut command: Command, port: Port) -> (Port, Process) {
    let program = command.get_program().to_owned();
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::start(command);
    eventually(PATIENCE, || {
        assert!(process.exited().is_none(), "{program:?} ended at once");
        std::net::TcpStream::connect(port.addr()).is_ok()
    });
    (port, process)
}

/// The library limitador, as a rate-limit service.
pub fn start_limitador(redis: &Redis, storage: &str) -> (Port, Process) {
    let port = Port::free();
    let mut command = Command::new(root().join("target/limitador/release/bench-limitador"));
    let redis = format!("redis://{}", redis.addr());
    command.args([&port.addr().to_string(), storage, &redis]);
    started(command, port)
}

/// Envoy's filter asks the service at `addr` before each request, and refuses if it gets no answer.
pub fn rate_limit(config: EnvoyConfig, addr: SocketAddr) -> EnvoyConfig {
    config
        .manager(|manager| {
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            filters.insert(0, json!({
                "name": "envoy.filters.http.ratelimit",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
                    "domain": "bench",
                    "timeout": "1s",
                    "failure_mode_deny": true,
                    "rate_limit_service": {
                        "grpc_service": {"envoy_grpc": {"cluster_name": "limitador"}},
                        "transport_api_version": "V3",
                    },
                },
            }));
            let account = json!({"generic_key": {"descriptor_key": "account", "descriptor_value": "one"}});
            manager["route_config"]["virtual_hosts"][0]["rate_limits"] = json!([{"actions": [account]}]);
        })
        .edit(|document| {
            const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            let cluster = json!({
                "name": "limitador",
                "load_assignment": {"cluster_name": "limitador", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                    {"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}}}}]}]},
                "typed_extension_protocol_options": {OPTIONS: {
                    "@type": format!("type.googleapis.com/{OPTIONS}"),
                    "explicit_http_config": {"http2_protocol_options": {}},
                }},
            });
            document["static_resources"]["clusters"].as_array_mut().expect("clusters").push(cluster);
        })
}

/// LiteLLM's proxy: without an Envoy, and without a database. `limit`: requests at once for each key, counted in Redis.
pub fn start_litellm(redis: &Redis, upstream: &Upstream, limit: Option<u32>) -> (Port, Process) {
    let port = Port::free();
    let dir = Dir::temporary();
    let model = json!({"model": "openai/bench", "api_base": format!("http://{}/v1", upstream.addr()), "api_key": "none"});
    let mut settings = json!({
        "custom_auth": "auth.user_api_key_auth",
        // Without a key for its administrator it would not start.
        "dangerously_permit_weak_or_unset_master_key": true,
    });
    if limit.is_some() {
        settings["coordination_redis"] = json!({"host": "127.0.0.1", "port": redis.port()});
    }
    let config = json!({
        "model_list": [{"model_name": "bench", "litellm_params": model}],
        "general_settings": settings,
    });
    std::fs::write(dir.join("config.yaml"), config.to_string()).expect("a file");
    std::fs::write(dir.join("auth.py"), include_str!("auth.py")).expect("a file");
    let mut command = Command::new(root().join(".venv/litellm/bin/litellm"));
    command
        .current_dir(dir.path())
        .args(["--config", "config.yaml", "--host", "127.0.0.1"])
        .args(["--port", &port.number().to_string(), "--num_workers", "1"])
        .env("MAX_PARALLEL_REQUESTS", limit.unwrap_or(0).to_string())
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("LITELLM_MODE", "PRODUCTION")
        .env("LITELLM_LOG", "ERROR");
    started(command, port)
}
