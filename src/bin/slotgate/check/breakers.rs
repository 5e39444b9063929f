//! Envoy's circuit breakers: below the accounts' limits they stop requests that have a slot, and too low they stop the pipe.

use super::documents::{dig, list, text};
use super::finding::{Finding, Severity};
use super::order::{inner, managers};
use super::routes::{Account, Route, accounts, names_set, taken};
use super::setup::{Piece, Setup};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What Envoy takes where nothing is set.
const OWN: u64 = 1024;
/// More workers than most machines have. Each has one connection to Redis, and one more for a console.
const WORKERS: u64 = 128;

/// A cluster's name, and the priority of the requests that get there.
type Reached = (String, &'static str);

/// Clusters of accounts whose bounds are below the accounts' limits.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    // By pool and account: two managers may have the same.
    let mut leading: BTreeMap<Reached, BTreeMap<String, u64>> = BTreeMap::new();
    for manager in managers(setup) {
        let accounts = accounts(manager.plugin);
        let set = names_set(&accounts);
        let inside = inner(setup, &manager);
        for one in std::iter::once(&manager).chain(&inside) {
            let piece = one.piece;
            for (host, at) in list(piece.value, "route_config.virtual_hosts", &piece.at) {
                let routes = list(host, "routes", &at);
                let routes: Vec<Route> = routes
                    .into_iter()
                    .map(|(value, at)| Route { value, at })
                    .collect();
                for account in &accounts {
                    for cluster in reached(&routes, account, &set) {
                        let limits = leading.entry(cluster).or_default();
                        limits.insert(account.name.clone(), account.limit);
                    }
                }
            }
        }
    }
    let clusters = setup.by_name();
    for ((name, priority), limits) in leading {
        if let Some(cluster) = clusters.get(name.as_str()) {
            let slots = limits
                .values()
                .fold(0, |all: u64, limit| all.saturating_add(*limit));
            found.extend(below(cluster, priority, slots));
        }
    }
}

/// Where an account's requests may get.
fn reached(routes: &[Route], account: &Account, set: &BTreeSet<&str>) -> Vec<Reached> {
    let mut clusters = Vec::new();
    for route in taken(routes, account, set) {
        let priority = route.priority();
        let names = route.clusters(account).into_iter();
        clusters.extend(names.map(|name| (name, priority)));
    }
    clusters
}

/// The bounds of a cluster for requests of this priority.
pub fn thresholds<'v>(cluster: &'v Value, priority: &str) -> Option<&'v Value> {
    let all = list(cluster, "circuit_breakers.thresholds", "");
    let of = |(threshold, _): &(&Value, String)| match text(threshold, "priority") {
        "" => priority == "DEFAULT",
        written => written == priority,
    };
    all.into_iter().find(of).map(|(threshold, _)| threshold)
}

/// A bound of a cluster; the second: whether it is written there.
fn bound(cluster: &Value, priority: &str, name: &str) -> (u64, bool) {
    let value = thresholds(cluster, priority).and_then(|value| dig(value, name));
    let number = value.and_then(|value| match value {
        Value::String(text) => text.parse().ok(),
        _ => value.as_u64(),
    });
    (number.unwrap_or(OWN), number.is_some())
}

fn below(cluster: &Piece, priority: &str, slots: u64) -> Option<Finding> {
    let options = "typed_extension_protocol_options";
    let options = dig(cluster.value, options)
        .and_then(|all| all.get("envoy.extensions.upstreams.http.v3.HttpProtocolOptions"));
    let only = options.and_then(|options| dig(options, "explicit_http_config"));
    // Many requests on one connection.
    let one_connection = only.is_some_and(|only| {
        ["http2_protocol_options", "http3_protocol_options"]
            .iter()
            .any(|name| dig(only, name).is_some())
    });
    let (mut low, mut by_default) = (Vec::new(), Vec::new());
    for name in ["max_connections", "max_pending_requests", "max_requests"] {
        match bound(cluster.value, priority, name) {
            _ if one_connection && name == "max_connections" => {}
            (value, _) if value >= slots => {}
            (value, true) => low.push(format!("{name} is {value}")),
            (_, false) => by_default.push(name),
        }
    }
    if !by_default.is_empty() {
        low.push(format!(
            "Envoy's own bound is {OWN} ({})",
            by_default.join(", ")
        ));
    }
    if low.is_empty() {
        return None;
    }
    let problem = format!(
        "the accounts that lead here have {slots} slots, and {}: requests with a slot wait for Envoy, or get its 503",
        low.join("; ")
    );
    let with = match priority {
        "DEFAULT" => String::new(),
        _ => format!("priority: {priority}, "),
    };
    // As many again go the traditional way in the worst case.
    let all = slots.saturating_mul(2).min(u64::from(u32::MAX));
    let lines = format!(
        "circuit_breakers:\n  thresholds:\n  - {{{with}max_connections: {all}, max_pending_requests: {all}, max_requests: {all}}}\n"
    );
    let path = cluster.path("circuit_breakers");
    let finding = Finding::new(Severity::Warning, cluster.file, path, problem);
    Some(finding.add(format!("cluster {}", cluster.name()), lines))
}

/// The cluster of the pipe, or the one behind the bridge.
pub fn on_the_way(cluster: &Piece, is_redis: bool, found: &mut Vec<Finding>) {
    let mut say = |severity, problem: String| {
        let path = cluster.path("circuit_breakers");
        let lines = format!(
            "circuit_breakers:\n  thresholds:\n  - {{max_connections: {OWN}, max_pending_requests: {OWN}}}\n"
        );
        let finding = Finding::new(severity, cluster.file, path, problem);
        found.push(finding.add(format!("cluster {}", cluster.name()), lines));
    };
    let (pending, _) = bound(cluster.value, "DEFAULT", "max_pending_requests");
    if pending == 0 {
        let problem =
            "max_pending_requests is 0: nothing may wait for a connection, so the pipe never opens";
        return say(Severity::Error, problem.to_owned());
    }
    let (connections, _) = bound(cluster.value, "DEFAULT", "max_connections");
    if is_redis && connections < WORKERS {
        let severity = match connections {
            0 => Severity::Error,
            _ => Severity::Warning,
        };
        let problem = format!(
            "max_connections is {connections}: each of Envoy's workers needs one, and each console as many; those that get none give no slot"
        );
        say(severity, problem);
    }
}
