//! The way to Redis: extension, cluster of the pipe, internal listener, bridge, cluster behind it.

use super::documents::{dig, field, kind, list, step, text};
use super::finding::{self, Finding, Severity};
use super::plugin::{Plugin, wasm_filter};
use super::setup::{Piece, Setup};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

const EXTENSION: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
const TCP_POOL: &str = "envoy.extensions.upstreams.http.tcp.v3.TcpConnectionPoolProto";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const REDIS_PROXY: &str = "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy";

/// All that is wrong on the way to Redis.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    let mut asked = BTreeSet::new();
    for plugin in &setup.plugins {
        misplaced(setup, plugin, found);
        let asks = plugin.filter == Some("http") && plugin.role() != "bridge";
        if asks && asked.insert(plugin.pipe_cluster()) {
            way(setup, plugin, &plugin.pipe_cluster(), found);
        }
    }
    if asked.is_empty() {
        return;
    }
    extension(setup, found);
    same_vm(setup, found);
}

fn error(piece: &Piece, inner: &str, problem: impl Into<String>) -> Finding {
    Finding::new(Severity::Error, piece.file, piece.path(inner), problem)
}

/// A role in a place where it does nothing.
fn misplaced(setup: &Setup, plugin: &Plugin, found: &mut Vec<Finding>) {
    let finding =
        |problem: &str| Finding::new(Severity::Error, plugin.file, plugin.at.clone(), problem);
    let problem = match (plugin.filter, plugin.role()) {
        (Some("http"), "bridge") => {
            "role bridge is for the network filter of the internal listener: this HTTP filter takes no slots"
        }
        (Some("network"), "scheduler" | "console") => {
            "only role bridge can be a network filter: what goes to Redis is not translated here"
        }
        (Some("network"), "bridge") => {
            let inside = setup.listeners.iter().find(|listener| {
                listener.file == plugin.file && plugin.at.starts_with(&format!("{}.", listener.at))
            });
            match inside {
                Some(listener) if field(listener.value, "internal_listener").is_none() => {
                    "the bridge is in a listener with an address: it belongs in the internal listener of the pipe, and breaks every connection here"
                }
                Some(_) | None => return,
            }
        }
        _ => return,
    };
    found.push(finding(problem));
}

fn extension(setup: &Setup, found: &mut Vec<Finding>) {
    let Some(bootstrap) = &setup.bootstrap else {
        return;
    };
    let has = setup.extensions.iter().any(|extension| {
        field(extension.value, "typed_config").is_some_and(|(value, _)| kind(value) == EXTENSION)
    });
    let internal = setup
        .listeners
        .iter()
        .any(|listener| field(listener.value, "internal_listener").is_some());
    if !has && internal {
        let problem = "no extension envoy.bootstrap.internal_listener: Envoy refuses the internal listener of the pipe";
        found.push(
            error(bootstrap, "bootstrap_extensions", problem)
                .add("bootstrap_extensions", finding::internal_listener()),
        );
    }
}

/// The cluster of the pipe, and what it leads to.
fn way(setup: &Setup, plugin: &Plugin, name: &str, found: &mut Vec<Finding>) {
    let at = format!("{}.value.redis.pipe_cluster", plugin.at);
    let Some(cluster) = setup.cluster(name) else {
        let through = |cluster: &&Piece| !listener_names(cluster.value).is_empty();
        let other = setup.clusters.iter().find(through);
        let finding = match (other, setup.has_all_clusters()) {
            (Some(other), _) => Finding::new(
                Severity::Error,
                plugin.file,
                at,
                format!(
                    "there is no cluster {name}; the one that leads to an internal listener is {} ({})",
                    other.name(),
                    other.at
                ),
            ),
            (None, true) => Finding::new(
                Severity::Error,
                plugin.file,
                at,
                format!("there is no cluster {name}, which leads to Redis by way of the bridge"),
            )
            .add("static_resources.clusters", finding::pipe(name, name)),
            // A filter by itself may stand anywhere.
            (None, false)
                if setup.managers.is_empty()
                    && setup.patches.is_empty()
                    && plugin.config.is_object() =>
            {
                return;
            }
            (None, false) => Finding::new(
                Severity::Elsewhere,
                plugin.file,
                at,
                format!("cluster {name} and the bridge behind it"),
            ),
        };
        found.push(finding);
        return;
    };
    let mut others = setup.clusters.iter().filter(|other| other.name() != name);
    let right = others.find(|other| !listener_names(other.value).is_empty());
    if let (Some(other), true) = (right, listener_names(cluster.value).is_empty()) {
        let problem = format!(
            "cluster {name} does not lead to the bridge; the one that leads to an internal listener is {} ({})",
            other.name(),
            other.at
        );
        found.push(Finding::new(Severity::Error, plugin.file, at, problem));
        return;
    }
    tcp_pool(cluster, name, found);
    let listeners = listener_names(cluster.value);
    if listeners.is_empty() {
        let addresses = addresses(cluster.value);
        let problem = match addresses.first() {
            Some(address) => format!(
                "leads to {address} and not to the internal listener with the bridge: Redis would get gRPC frames"
            ),
            None => {
                "has no endpoint: it must lead to the internal listener with the bridge".to_owned()
            }
        };
        found.push(
            error(cluster, "load_assignment", problem)
                .add(format!("cluster {name}"), endpoint_lines(name)),
        );
        return;
    }
    for listener in listeners {
        through(setup, cluster, listener, found);
    }
}

/// The last lines of the pipe's cluster.
fn endpoint_lines(name: &str) -> String {
    let text = finding::pipe(name, "slotgate_pipe");
    let from = text.find("  load_assignment:").unwrap_or(0);
    let lines = text.get(from..).unwrap_or_default().lines();
    lines
        .map(|line| format!("{}\n", line.get(2..).unwrap_or_default()))
        .collect()
}

fn tcp_pool(cluster: &Piece, name: &str, found: &mut Vec<Finding>) {
    let pool = dig(cluster.value, "upstream_config.typed_config");
    if pool.is_some_and(|pool| kind(pool) == TCP_POOL) {
        return;
    }
    let text = finding::pipe(name, name);
    let to = text.find("  transport_socket:").unwrap_or(text.len());
    let lines = text.get(..to).unwrap_or_default().lines().skip(1);
    let lines: String = lines
        .map(|line| format!("{}\n", line.get(2..).unwrap_or_default()))
        .collect();
    let problem =
        "has no upstream_config for TCP: HTTP instead of plain bytes would arrive at the bridge";
    found.push(error(cluster, "upstream_config", problem).add(format!("cluster {name}"), lines));
}

/// The internal listener of this name, with the bridge and what is behind it.
fn through(setup: &Setup, cluster: &Piece, name: &str, found: &mut Vec<Finding>) {
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
    let chains = list(listener.value, "filter_chains", &listener.at);
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

/// What is behind the bridge.
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
    let addresses = addresses(redis.value);
    let discovers = matches!(text(redis.value, "type"), "EDS" | "ORIGINAL_DST")
        || field(redis.value, "cluster_type").is_some();
    if addresses.is_empty() && !discovers {
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

/// The internal listeners that a cluster leads to.
fn listener_names(cluster: &Value) -> Vec<&str> {
    endpoints(cluster)
        .into_iter()
        .map(|endpoint| {
            text(
                endpoint,
                "endpoint.address.envoy_internal_address.server_listener_name",
            )
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// Hosts with their ports that a cluster leads to.
fn addresses(cluster: &Value) -> Vec<String> {
    endpoints(cluster)
        .into_iter()
        .filter_map(|endpoint| {
            let address = dig(endpoint, "endpoint.address.socket_address")?;
            let port = dig(address, "port_value")?;
            Some(format!("{}:{port}", text(address, "address")))
        })
        .collect()
}

fn endpoints(cluster: &Value) -> Vec<&Value> {
    list(cluster, "load_assignment.endpoints", "")
        .into_iter()
        .flat_map(|(locality, _)| list(locality, "lb_endpoints", ""))
        .map(|(endpoint, _)| endpoint)
        .collect()
}

/// VMs that the bridge shares.
fn same_vm(setup: &Setup, found: &mut Vec<Finding>) {
    let vm = |plugin: &Plugin| text(&plugin.config, "vm_config.vm_id").to_owned();
    let of = |role: &'static str| {
        setup
            .plugins
            .iter()
            .filter(move |plugin| plugin.role() == role)
    };
    for (role, whose) in [
        ("bridge", ["scheduler", "console"]),
        ("console", ["scheduler", "scheduler"]),
    ] {
        for plugin in of(role).filter(|plugin| plugin.config.is_object()) {
            let shares = |other: &&str| {
                let mut others = of_role(setup, other);
                others.any(|other| other.config.is_object() && vm(other) == vm(plugin))
            };
            if let Some(other) = whose.iter().find(|other| shares(other)) {
                let at = plugin.at.trim_end_matches(".configuration");
                found.push(Finding::new(
                    Severity::Warning,
                    plugin.file,
                    format!("{at}.vm_config.vm_id"),
                    format!("is the {other}'s too: a fault in one VM would take the other along"),
                ));
            }
        }
    }
}

fn of_role<'s>(setup: &'s Setup, role: &str) -> impl Iterator<Item = &'s Plugin> {
    let role = role.to_owned();
    setup
        .plugins
        .iter()
        .filter(move |plugin| plugin.role() == role)
}
