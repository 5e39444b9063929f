//! The internal listener with the bridge, and the cluster behind it, where Redis is.

use super::breakers;
use super::documents::{dig, field, kind, list, step, text};
use super::finding::{self, Finding, Severity};
use super::pipe::{addresses, endpoints, error, listener_names};
use super::plugin::wasm_filter;
use super::setup::{Piece, Setup};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const REDIS_PROXY: &str = "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy";

/// The internal listener of this name, with the bridge and what is behind it.
pub fn through(setup: &Setup, cluster: &Piece, name: &str, found: &mut Vec<Finding>) {
    let at = "load_assignment";
    let listener = setup
        .listeners
        .iter()
        .find(|listener| listener.name() == name);
    let Some(listener) = listener else {
        let internal = |listener: &&Piece| field(listener.value, "internal_listener").is_some();
        let other = setup.listeners.iter().find(internal);
        found.push(match (other, setup.has_all_listeners()) {
            (Some(other), _) => error(
                cluster,
                at,
                format!(
                    "there is no listener {name}; the internal one is {} ({})",
                    other.name(),
                    other.at
                ),
            ),
            (None, true) => error(
                cluster,
                at,
                format!("there is no internal listener {name} with the bridge"),
            )
            .add("static_resources.listeners", finding::bridge_listener(name)),
            (None, false) => Finding::new(
                Severity::Elsewhere,
                cluster.file,
                cluster.path(at),
                format!("listener {name} with the bridge"),
            ),
        });
        return;
    };
    if field(listener.value, "internal_listener").is_none() {
        found.push(
            error(
                listener,
                "internal_listener",
                "is not set: the pipe can't reach a listener with an address",
            )
            .add(format!("listener {name}"), "internal_listener: {}\n"),
        );
    }
    let mut chains = list(listener.value, "filter_chains", &listener.at);
    if let Some((chain, name)) = field(listener.value, "default_filter_chain") {
        chains.push((chain, listener.path(&name)));
    }
    if chains.is_empty() {
        found.push(
            error(
                listener,
                "filter_chains",
                "has no filter: the bridge is missing",
            )
            .add(
                format!("listener {name}"),
                "filter_chains: [{filters: []}]\n",
            ),
        );
    }
    for (chain, at) in chains {
        let chain = Piece {
            value: chain,
            file: listener.file,
            at,
        };
        filters(setup, &chain, found);
    }
}

/// The filters of the pipe's listener.
fn filters(setup: &Setup, chain: &Piece, found: &mut Vec<Finding>) {
    let all = list(chain.value, "filters", &chain.at);
    let of =
        |value: &Value| field(value, "typed_config").map(|(config, _)| kind(config).to_owned());
    let is_bridge = |value: &Value, at: &str| {
        let ours = setup.plugins.iter().any(|plugin| {
            // Another role is said elsewhere.
            plugin.file == chain.file && plugin.at.starts_with(&format!("{at}."))
        });
        let (wasm, _) = field(value, "typed_config").unwrap_or((&Value::Null, String::new()));
        ours || (wasm_filter(wasm).is_some() && discovered(value))
    };
    let bridge = all.iter().position(|(value, at)| is_bridge(value, at));
    let proxy = all
        .iter()
        .position(|(value, _)| matches!(of(value).as_deref(), Some(TCP_PROXY | REDIS_PROXY)));
    let under = format!("{}.filters", chain.at);
    match (bridge, proxy) {
        (None, _) if all.iter().any(|(value, _)| discovered(value)) => {}
        (None, _) => found.push(
            error(
                chain,
                "filters",
                "the bridge is missing: Redis gets gRPC frames, and no request ever gets a slot",
            )
            .add(format!("{under}, before the others"), finding::bridge()),
        ),
        (Some(bridge), Some(proxy)) if bridge > proxy => found.push(error(
            chain,
            "filters",
            "the bridge must stand before the proxy: Envoy wants that one last",
        )),
        (Some(_), _) => {}
    }
    let Some((proxy, at)) = proxy.and_then(|place| all.get(place)) else {
        found.push(
            error(
                chain,
                "filters",
                "nothing leads on to Redis: tcp_proxy is missing",
            )
            .add(format!("{under}, last"), finding::tcp_proxy()),
        );
        return;
    };
    let Some((config, name)) = field(proxy, "typed_config") else {
        return;
    };
    let mut at = at.clone();
    step(&mut at, &name);
    let proxy = Piece {
        value: config,
        file: chain.file,
        at,
    };
    behind(setup, &proxy, found);
}

/// Whether a filter comes by discovery.
fn discovered(value: &Value) -> bool {
    field(value, "config_discovery").is_some()
}

/// Checks the cluster behind the bridge, which must be Redis.
fn behind(setup: &Setup, proxy: &Piece, found: &mut Vec<Finding>) {
    let is_tcp = kind(proxy.value) == TCP_PROXY;
    let (path, name) = match is_tcp {
        true => ("cluster", text(proxy.value, "cluster")),
        false => {
            let path = "prefix_routes.catch_all_route.cluster";
            (path, text(proxy.value, path))
        }
    };
    if is_tcp && dig(proxy.value, "idle_timeout").is_none() {
        let problem =
            "not set, so Envoy closes the pipe when it was silent for an hour; 0s turns that off";
        found.push(Finding::new(
            Severity::Warning,
            proxy.file,
            proxy.path("idle_timeout"),
            problem,
        ));
    }
    // Several clusters, or one by a rule.
    if name.is_empty() {
        return;
    }
    let Some(redis) = setup.cluster(name) else {
        if setup.has_all_clusters() {
            let problem = format!("there is no cluster {name}: the bridge leads nowhere");
            found.push(
                error(proxy, path, problem).add("static_resources.clusters", finding::redis(name)),
            );
        } else {
            let problem = format!("cluster {name}, where Redis is");
            found.push(Finding::new(
                Severity::Elsewhere,
                proxy.file,
                proxy.path(path),
                problem,
            ));
        }
        return;
    };
    if !listener_names(redis.value).is_empty() {
        let problem = format!("cluster {name} leads back into an internal listener, not to Redis");
        found.push(error(proxy, path, problem));
        return;
    }
    if is_tcp {
        breakers::on_the_way(redis, true, found);
    }
    let addresses = addresses(redis.value);
    let discovers = matches!(text(redis.value, "type"), "EDS" | "ORIGINAL_DST")
        || field(redis.value, "cluster_type").is_some();
    if endpoints(redis.value).is_empty() && !discovers {
        let problem = "has no endpoint: it must hold Redis' address";
        found.push(
            error(redis, "load_assignment", problem)
                .add("static_resources.clusters", finding::redis(name)),
        );
    }
    let own = own_addresses(setup);
    for address in addresses {
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let is_static = matches!(text(redis.value, "type"), "" | "STATIC") && !discovers;
        if is_static && host.parse::<IpAddr>().is_err() {
            let problem = format!(
                "{address} is a name, which a cluster of type STATIC does not look up: type: STRICT_DNS"
            );
            found.push(
                error(redis, "load_assignment", problem)
                    .add(format!("cluster {name}"), "type: STRICT_DNS\n"),
            );
        }
        if own.contains(&address) {
            let problem = format!("{address} is this Envoy's own listener, not Redis");
            found.push(error(redis, "load_assignment", problem));
        }
    }
}

/// Where this Envoy itself listens, on the loopback interface or on all.
fn own_addresses(setup: &Setup) -> BTreeSet<String> {
    let mut own = BTreeSet::new();
    let bootstrap = setup.bootstrap.as_ref();
    let admin = bootstrap.and_then(|bootstrap| dig(bootstrap.value, "admin.address"));
    let listeners = setup
        .listeners
        .iter()
        .filter_map(|listener| dig(listener.value, "address"));
    for address in listeners.chain(admin) {
        let Some(port) = dig(address, "socket_address.port_value") else {
            continue;
        };
        let host = text(address, "socket_address.address");
        let host = if host == "0.0.0.0" { "127.0.0.1" } else { host };
        own.insert(format!("{host}:{port}"));
    }
    own
}
