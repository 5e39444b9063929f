//! Another account within the same request: role `upstream` in the accounts' clusters, routes that try again, and accounts
//! that choose the route.

use super::breakers::thresholds;
use super::documents::{dig, field, list, step, text};
use super::endpoints::header_of;
use super::finding::{self, Finding, Severity};
use super::order::{Manager, kind_of, managers};
use super::plugin::Plugin;
use super::routes::{Account, Route, accounts, cluster_header, holds, names_set, taken};
use super::setup::{Piece, Setup};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CODEC: &str = ".upstream_codec.v3.UpstreamCodec";
/// The response header by which role `upstream` has Envoy try again.
const MARK: &str = "x-slotgate-retry";

/// A route that accounts' requests may take.
struct Way<'r, 'd> {
    route: &'r Route<'d>,
    /// Its virtual host.
    host: &'d Value,
    clusters: BTreeSet<String>,
}

/// A cluster's name, and the priority of the requests that get there → the slots of its accounts.
type Slots = BTreeMap<(String, &'static str), BTreeMap<String, u64>>;

/// All that keeps a refused request from another account, or gives it one that it must not have.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    let managers = managers(setup);
    let schedulers = || {
        let all = setup.plugins.iter();
        all.filter(|plugin| plugin.role() == "scheduler")
    };
    for manager in &managers {
        if let Some(attempts) = attempts(manager.plugin) {
            around(setup, manager, attempts, found);
        }
    }
    let is_known = |plugin: &Plugin| {
        let mut known = managers.iter();
        known.any(|manager| std::ptr::eq(manager.plugin, plugin))
    };
    for plugin in schedulers().filter(|plugin| plugin.filter == Some("http") && !is_known(plugin)) {
        if attempts(plugin).is_some() {
            let what =
                "for failover, role upstream in the accounts' clusters, and routes that try again";
            let at = plugin.at.clone();
            found.push(Finding::new(Severity::Elsewhere, plugin.file, at, what));
        }
    }
    if schedulers().next().is_some() && schedulers().all(|plugin| attempts(plugin).is_none()) {
        for half in setup
            .plugins
            .iter()
            .filter(|plugin| plugin.role() == "upstream")
        {
            let problem =
                "role upstream does nothing while failover.max_attempts is 1, as it is by default";
            let at = half.at.clone();
            found.push(Finding::new(Severity::Note, half.file, at, problem));
        }
    }
}

/// `failover.max_attempts`, where a request may try another account.
fn attempts(plugin: &Plugin) -> Option<u64> {
    let written = plugin.written();
    let attempts = dig(&written, "failover.max_attempts").and_then(number);
    attempts.filter(|attempts| *attempts > 1)
}

/// A whole number, which YAML may hold as text.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        _ => value.as_u64(),
    }
}

/// Around one scheduler: its accounts' routes and clusters.
fn around(setup: &Setup, manager: &Manager, attempts: u64, found: &mut Vec<Finding>) {
    let accounts = accounts(manager.plugin);
    let set = names_set(&accounts);
    let at = &manager.piece.at;
    let hosts: Vec<(&Value, Vec<Route>)> =
        list(manager.piece.value, "route_config.virtual_hosts", at)
            .into_iter()
            .map(|(host, at)| {
                let routes = list(host, "routes", &at).into_iter();
                let routes = routes.map(|(value, at)| Route { value, at });
                (host, routes.collect())
            })
            .collect();
    let all = || hosts.iter().flat_map(|(_, routes)| routes);
    let mut chosen = chosen_by_account(manager, all(), &accounts);
    chosen.extend(endpoint_by_account(setup, manager, &hosts, &accounts, &set));
    if !chosen.is_empty() {
        // It must be off there: the rest would only lead to a key at the wrong host.
        return found.extend(chosen);
    }
    let mut ways: BTreeMap<&str, Way> = BTreeMap::new();
    let mut slots = Slots::new();
    for (host, routes) in &hosts {
        for account in &accounts {
            for route in taken(routes, account, &set) {
                let way = ways.entry(&route.at).or_insert_with(|| Way {
                    route,
                    host,
                    clusters: BTreeSet::new(),
                });
                for cluster in route.clusters(account) {
                    way.clusters.insert(cluster.clone());
                    let limits = slots.entry((cluster, route.priority())).or_default();
                    limits.insert(account.name.clone(), account.limit);
                }
            }
        }
    }
    let clusters = setup.by_name();
    let mut seen = BTreeSet::new();
    for ((name, priority), limits) in &slots {
        let Some(cluster) = clusters.get(name.as_str()) else {
            if !setup.has_all_clusters() && seen.insert(name) {
                let what = format!("role upstream in the HTTP filters of cluster {name}");
                let file = manager.piece.file;
                found.push(Finding::new(Severity::Elsewhere, file, at.clone(), what));
            }
            continue;
        };
        if seen.insert(name) {
            half(setup, manager, cluster, attempts, found);
        }
        let all = limits.values();
        let slots = all.fold(0, |all: u64, limit| all.saturating_add(*limit));
        found.extend(retries_at_once(cluster, priority, slots));
    }
    for way in ways.values() {
        let options = way.clusters.iter().filter_map(|name| {
            let cluster = clusters.get(name.as_str())?;
            options(cluster).map(|(options, _)| options)
        });
        tries_again(manager, way, options, attempts, found);
    }
    let bodies = ways.values().filter_map(|way| bodies(setup, manager, way));
    found.extend(bodies);
}

/// Accounts of one pool that differ in what chooses the route.
fn chosen_by_account<'r, 'd: 'r>(
    manager: &Manager,
    routes: impl Iterator<Item = &'r Route<'d>>,
    accounts: &[Account],
) -> Vec<Finding> {
    let mut pools: BTreeMap<&str, Vec<&Account>> = BTreeMap::new();
    for account in accounts {
        pools.entry(&account.pool).or_default().push(account);
    }
    let mut found = Vec::new();
    let mut said = BTreeSet::new();
    for route in routes {
        let by_header = cluster_header(route);
        let conditions = list(route.value, "match.headers", &route.at);
        for (pool, accounts) in &pools {
            let mut say = |header: &str, at: String, what: &str| {
                if !said.insert((pool.to_string(), header.to_owned())) {
                    return;
                }
                let problem = format!(
                    "the accounts of pool {pool} differ in {header}, which chooses the {what}: a later try keeps that of the first, so another account's key would go to the first one's host; failover: {{max_attempts: 1}}, one cluster for all accounts of a pool, or a listener inside Envoy that chooses it for each try, as in envoy/clusters.yaml"
                );
                let file = manager.piece.file;
                found.push(Finding::new(Severity::Error, file, at, problem));
            };
            if let Some(header) = &by_header
                && differ(accounts.iter().map(|account| account.value(header)))
            {
                let at = format!("{}.route.cluster_header", route.at);
                say(header, at, "cluster");
            }
            for (condition, at) in &conditions {
                let header = text(condition, "name").to_ascii_lowercase();
                let values = || accounts.iter().map(|account| account.value(&header));
                // What cannot be told is as different as the values.
                let fits = values().map(|value| match holds(condition, value) {
                    Some(fits) => (Some(fits), None),
                    None => (None, value),
                });
                if differ(fits) {
                    say(&header, at.clone(), "route");
                }
            }
        }
    }
    found
}

/// Accounts of one pool that differ in what chooses the endpoint.
fn endpoint_by_account(
    setup: &Setup,
    manager: &Manager,
    hosts: &[(&Value, Vec<Route>)],
    accounts: &[Account],
    set: &BTreeSet<&str>,
) -> Vec<Finding> {
    let clusters = setup.by_name();
    let mut found = Vec::new();
    let mut said = BTreeSet::new();
    for account in accounts {
        let routes = hosts
            .iter()
            .flat_map(|(_, routes)| taken(routes, account, set));
        for route in routes {
            for name in route.clusters(account) {
                let header = clusters.get(name.as_str()).and_then(|one| header_of(one));
                let Some(header) = header else { continue };
                let pool = accounts.iter().filter(|other| other.pool == account.pool);
                if !differ(pool.map(|one| one.value(&header))) {
                    continue;
                }
                if said.insert((account.pool.clone(), name.clone())) {
                    let pool = &account.pool;
                    let problem = format!(
                        "the accounts of pool {pool} differ in {header}, which chooses the endpoint of cluster {name}: a later try goes where that cluster's fallback_policy leads, not to its account; failover: {{max_attempts: 1}}, or a listener inside Envoy that leads each try there, as in envoy/clusters.yaml"
                    );
                    let at = format!("{}.route", route.at);
                    let file = manager.piece.file;
                    found.push(Finding::new(Severity::Error, file, at, problem));
                }
            }
        }
    }
    found
}

fn differ<T: PartialEq>(mut all: impl Iterator<Item = T>) -> bool {
    let first = all.next();
    all.any(|other| Some(other) != first)
}

/// A cluster's options for HTTP, and where they are.
fn options<'d>(cluster: &Piece<'d>) -> Option<(&'d Value, String)> {
    let (all, name) = field(cluster.value, "typed_extension_protocol_options")?;
    let mut at = cluster.path(&name);
    step(&mut at, OPTIONS);
    all.get(OPTIONS).map(|options| (options, at))
}

/// The upstream filters of a cluster, each with its path: its own, or else those of the router.
struct Filters<'d> {
    file: usize,
    /// Where they are, or would be.
    at: String,
    all: Vec<(&'d Value, String)>,
}

fn filters<'d>(manager: &Manager<'_, 'd>, cluster: &Piece<'d>) -> Filters<'d> {
    let own = options(cluster).map(|(options, at)| list(options, "http_filters", &at));
    if let Some(all) = own.filter(|all| !all.is_empty()) {
        let at = cluster.path("typed_extension_protocol_options");
        let file = cluster.file;
        return Filters { file, at, all };
    }
    let is_router =
        |(filter, _): &&(&Value, String)| kind_of(filter).ends_with(".router.v3.Router");
    let of_router = manager.filters.iter().find(is_router);
    let of_router =
        of_router.map(|(router, at)| list(router, "typed_config.upstream_http_filters", at));
    match of_router.filter(|all| !all.is_empty()) {
        Some(all) => Filters {
            file: manager.piece.file,
            at: manager.piece.path("http_filters"),
            all,
        },
        None => Filters {
            file: cluster.file,
            at: cluster.path("typed_extension_protocol_options"),
            all: Vec::new(),
        },
    }
}

/// Role `upstream` in the filters of a cluster.
fn half(
    setup: &Setup,
    manager: &Manager,
    cluster: &Piece,
    attempts: u64,
    found: &mut Vec<Finding>,
) {
    let filters = filters(manager, cluster);
    let is_codec = |filter: &Value| kind_of(filter).ends_with(CODEC);
    let halves: Vec<&Plugin> = setup
        .plugins
        .iter()
        .filter(|plugin| plugin.role() == "upstream" && plugin.file == filters.file)
        .filter(|plugin| {
            let mut all = filters.all.iter();
            all.any(|(_, at)| plugin.at.starts_with(&format!("{at}.")))
        })
        .collect();
    let name = cluster.name();
    let Some(first) = halves.first() else {
        let discovers =
            |(filter, _): &(&Value, String)| field(filter, "config_discovery").is_some();
        if filters.all.iter().any(discovers) {
            let what = format!("role upstream in the HTTP filters of cluster {name}");
            let finding = Finding::new(Severity::Elsewhere, filters.file, filters.at, what);
            return found.push(finding);
        }
        let problem = format!(
            "no filter with role upstream in its http_filters: no other account is ever tried, although failover.max_attempts is {attempts}"
        );
        let vm = dig(&manager.plugin.config, "vm_config");
        let mut lines = finding::upstream(vm.unwrap_or(&Value::Null));
        if filters.all.is_empty() {
            lines.push_str(finding::UPSTREAM_CODEC);
        }
        let under = format!("http_filters of {OPTIONS} in cluster {name}, before the others");
        let finding = Finding::new(Severity::Warning, filters.file, filters.at, problem);
        return found.push(finding.add(under, lines));
    };
    if let Some((last, at)) = filters.all.last()
        && !is_codec(last)
    {
        let problem = "is the last of the upstream filters, which must be envoy.filters.http.upstream_codec: Envoy refuses this cluster";
        let finding = Finding::new(Severity::Error, filters.file, at.clone(), problem);
        let under = format!("http_filters of {OPTIONS} in cluster {name}, last");
        found.push(finding.add(under, finding::UPSTREAM_CODEC));
    }
    if !halves
        .iter()
        .any(|half| other_vm(half, manager.plugin).is_empty())
    {
        let differs = other_vm(first, manager.plugin);
        let verb = if differs.len() == 1 { "is" } else { "are" };
        let problem = format!(
            "{} {verb} not the scheduler's ({}), so the two have no VM in common, and no other account is ever tried",
            differs.join(", "),
            manager.plugin.at.trim_end_matches(".configuration")
        );
        let at = first.at.trim_end_matches(".configuration");
        let at = format!("{at}.vm_config");
        found.push(Finding::new(Severity::Warning, first.file, at, problem));
    }
}

/// What of a VM's configuration differs.
fn other_vm(half: &Plugin, scheduler: &Plugin) -> Vec<&'static str> {
    let (one, other) = (&half.config, &scheduler.config);
    let is_other = |name: &&str| {
        let at = format!("vm_config.{name}");
        dig(one, &at) != dig(other, &at)
    };
    let names = ["vm_id", "runtime", "code", "configuration"].into_iter();
    let mut differs: Vec<&str> = names.filter(is_other).collect();
    if half.environment != scheduler.environment {
        differs.push("environment_variables");
    }
    differs
}

/// Envoy's own bound of retries at once.
fn retries_at_once(cluster: &Piece, priority: &str, slots: u64) -> Option<Finding> {
    let bounds = thresholds(cluster.value, priority);
    let is_set = |name: &str| bounds.is_some_and(|bounds| dig(bounds, name).is_some());
    if is_set("max_retries") || is_set("retry_budget") {
        return None;
    }
    let problem = "has no max_retries, so Envoy tries only 3 requests again at once here: the others get the refusal";
    let with = match priority {
        "DEFAULT" => String::new(),
        _ => format!("priority: {priority}, "),
    };
    let slots = slots.clamp(1, u64::from(u32::MAX));
    let lines = format!("circuit_breakers:\n  thresholds:\n  - {{{with}max_retries: {slots}}}\n");
    let path = cluster.path("circuit_breakers");
    let finding = Finding::new(Severity::Warning, cluster.file, path, problem);
    Some(finding.add(format!("cluster {}", cluster.name()), lines))
}

/// A route's retry policy, its virtual host's, or its clusters'.
fn tries_again<'v>(
    manager: &Manager,
    way: &Way<'_, 'v>,
    options: impl Iterator<Item = &'v Value>,
    attempts: u64,
    found: &mut Vec<Finding>,
) {
    let Some((action, name)) = field(way.route.value, "route") else {
        return;
    };
    let at = |inner: &str| format!("{}.{name}.{inner}", way.route.at);
    let file = manager.piece.file;
    let lines = finding::retry_policy(attempts.saturating_sub(1));
    let add = |finding: Finding| finding.add(format!("{}.{name}", way.route.at), lines.clone());
    let mut holders = [action, way.host].into_iter().chain(options);
    let Some((policy, _)) = holders.find_map(|holder| field(holder, "retry_policy")) else {
        let problem = format!(
            "not set, so a refused request is not tried again, although failover.max_attempts is {attempts}"
        );
        let finding = Finding::new(Severity::Warning, file, at("retry_policy"), problem);
        return found.push(add(finding));
    };
    let on: BTreeSet<&str> = text(policy, "retry_on").split(',').map(str::trim).collect();
    let marks = list(policy, "retriable_headers", "");
    let marked = |(header, _): &(&Value, String)| text(header, "name").eq_ignore_ascii_case(MARK);
    let lacks = match (on.contains("retriable-headers"), marks.iter().any(marked)) {
        (true, true) => None,
        (false, _) => Some(("retry_on", "retriable-headers".to_owned())),
        (true, false) => Some((
            "retriable_headers",
            format!("{{name: {MARK}, present_match: true}}"),
        )),
    };
    if let Some((inner, what)) = lacks {
        let problem = format!(
            "has no {what}, so a refused request is not tried again, although failover.max_attempts is {attempts}"
        );
        let at = at(&format!("retry_policy.{inner}"));
        return found.push(add(Finding::new(Severity::Warning, file, at, problem)));
    }
    let written = dig(policy, "num_retries").and_then(number);
    let retries = written.unwrap_or(1);
    if retries < attempts.saturating_sub(1) {
        let is = match written {
            Some(retries) => format!("is {retries}"),
            None => "not set, so 1".to_owned(),
        };
        let tries = retries.saturating_add(1);
        let problem = format!(
            "{is}: a request is tried {tries} times at most, not failover.max_attempts, {attempts}"
        );
        let at = at("retry_policy.num_retries");
        found.push(Finding::new(Severity::Warning, file, at, problem));
    }
    // These mean a connection that fails as well.
    let any = ["5xx", "gateway-error", "reset"]
        .iter()
        .any(|word| on.contains(word));
    let lacking = ["connect-failure", "refused-stream"].into_iter();
    let lacking: Vec<&str> = lacking.filter(|word| !any && !on.contains(word)).collect();
    if !lacking.is_empty() {
        let problem = format!(
            "has no {}: a request that could not be sent is not tried with another account",
            lacking.join(" and no ")
        );
        let at = at("retry_policy.retry_on");
        found.push(Finding::new(Severity::Note, file, at, problem));
    }
}

/// How much of a body is kept for another try.
fn bodies(setup: &Setup, manager: &Manager, way: &Way) -> Option<Finding> {
    field(way.route.value, "route")?;
    let is_set = |holder: &Value| {
        let names = [
            "request_body_buffer_limit",
            "per_request_buffer_limit_bytes",
        ];
        names.iter().any(|name| field(holder, name).is_some())
    };
    if is_set(way.route.value) || is_set(way.host) {
        return None;
    }
    let listener = setup.listeners.iter().find(|listener| {
        let inside = format!("{}.", listener.at);
        listener.file == manager.piece.file && manager.piece.at.starts_with(&inside)
    });
    let limit = listener.and_then(|listener| {
        dig(listener.value, "per_connection_buffer_limit_bytes").and_then(number)
    });
    let limit = match limit {
        Some(limit) => format!("{limit} bytes, the listener's per_connection_buffer_limit_bytes"),
        None => "1 MiB, Envoy's own per_connection_buffer_limit_bytes".to_owned(),
    };
    let problem = format!(
        "not set, so a request is tried again only while its body fits into {limit}: with a larger one the client gets the refusal"
    );
    Some(Finding::new(
        Severity::Note,
        manager.piece.file,
        format!("{}.request_body_buffer_limit", way.route.at),
        problem,
    ))
}
