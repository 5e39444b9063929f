//! The way to Redis: the extension, the cluster of the pipe and its name; roles and VMs.

use super::documents::{dig, field, kind, list, text};
use super::finding::{self, Finding, Severity};
use super::plugin::Plugin;
use super::setup::{Piece, Setup};
use super::{breakers, bridge};
use serde_json::Value;
use std::collections::BTreeSet;

const EXTENSION: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
const TCP_POOL: &str = "envoy.extensions.upstreams.http.tcp.v3.TcpConnectionPoolProto";

/// All that is wrong on the way to Redis.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    let mut asked = BTreeSet::new();
    for plugin in &setup.plugins {
        misplaced(setup, plugin, found);
        let asks = plugin.filter == Some("http") && !matches!(plugin.role(), "bridge" | "upstream");
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

pub fn error(piece: &Piece, inner: &str, problem: impl Into<String>) -> Finding {
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
        (Some("network"), "scheduler" | "upstream" | "console") => {
            "only role bridge can be a network filter: what goes to Redis is not translated here"
        }
        (Some("http"), "upstream") => {
            let mut filters = setup.managers.iter();
            let beside = filters.any(|manager| {
                let filters = list(manager.value, "http_filters", &manager.at);
                let own = |at: &str| plugin.at == format!("{at}.typed_config.config.configuration");
                manager.file == plugin.file && filters.iter().any(|(_, at)| own(at))
            });
            if !beside {
                return;
            }
            "role upstream is for the upstream filters of the accounts' clusters: here it sees no try"
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
    breakers::on_the_way(cluster, false, found);
    let listeners = listener_names(cluster.value);
    if listeners.is_empty() && text(cluster.value, "type") == "EDS" {
        found.push(Finding::new(
            Severity::Elsewhere,
            cluster.file,
            cluster.path("eds_cluster_config"),
            format!("the endpoints of cluster {name}"),
        ));
        return;
    }
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
        bridge::through(setup, cluster, listener, found);
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

/// The internal listeners that a cluster leads to.
pub fn listener_names(cluster: &Value) -> Vec<&str> {
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
pub fn addresses(cluster: &Value) -> Vec<String> {
    endpoints(cluster)
        .into_iter()
        .filter_map(|endpoint| {
            let address = dig(endpoint, "endpoint.address.socket_address")?;
            let port = dig(address, "port_value")?;
            Some(format!("{}:{port}", text(address, "address")))
        })
        .collect()
}

pub fn endpoints(cluster: &Value) -> Vec<&Value> {
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
