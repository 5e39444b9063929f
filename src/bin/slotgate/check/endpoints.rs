//! Clusters whose endpoint a header of the account chooses, by Envoy's policy `override_host`.

use super::documents::{dig, field, list, text};
use super::finding::{Finding, Severity};
use super::order::{Manager, inner, managers};
use super::routes::{Account, Route, accounts, kept_from_clients, names_set, taken};
use super::setup::{Piece, Setup};
use serde_json::Value;
use std::collections::BTreeSet;

const POLICY: &str = ".override_host.v3.OverrideHost";
/// How many names a message lists.
const NAMED: usize = 5;

/// A cluster's policy, where it goes by a header.
struct Chooses<'d> {
    header: String,
    config: &'d Value,
    at: String,
}

/// The policy of a cluster by which a header names the endpoint.
fn chooses<'d>(cluster: &Piece<'d>) -> Option<Chooses<'d>> {
    let policies = list(cluster.value, "load_balancing_policy.policies", &cluster.at);
    policies.into_iter().find_map(|(policy, at)| {
        let config = dig(policy, "typed_extension_config.typed_config")?;
        if !text(config, "@type").ends_with(POLICY) {
            return None;
        }
        let sources = list(config, "override_host_sources", "");
        let mut headers = sources.iter().map(|(source, _)| text(source, "header"));
        let header = headers.find(|header| !header.is_empty())?;
        Some(Chooses {
            header: header.to_ascii_lowercase(),
            config,
            at: format!("{at}.typed_extension_config.typed_config"),
        })
    })
}

/// The header by which a cluster chooses the endpoint.
pub fn header_of(cluster: &Piece) -> Option<String> {
    chooses(cluster).map(|chooses| chooses.header)
}

/// All that leads a request with a slot to another endpoint than its account's.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    let clusters = setup.by_name();
    for manager in managers(setup) {
        let accounts = accounts(manager.plugin);
        let set = names_set(&accounts);
        let mut seen = BTreeSet::new();
        let inside = inner(setup, &manager);
        let all = std::iter::once(&manager).chain(&inside);
        let hosts = all.flat_map(|one| {
            let hosts = list(one.piece.value, "route_config.virtual_hosts", &one.piece.at);
            hosts.into_iter().map(move |(host, at)| (one, host, at))
        });
        for (one, host, at) in hosts {
            let routes = list(host, "routes", &at).into_iter();
            let routes: Vec<Route> = routes.map(|(value, at)| Route { value, at }).collect();
            for account in &accounts {
                for route in taken(&routes, account, &set) {
                    for name in route.clusters(account) {
                        let Some(cluster) = clusters.get(name.as_str()) else {
                            continue;
                        };
                        let Some(chooses) = chooses(cluster) else {
                            continue;
                        };
                        if seen.insert(route.at.clone()) {
                            found.extend(tries_again(one, host, route, &name));
                        }
                        if seen.insert(name.clone()) {
                            of_cluster(&manager, cluster, &chooses, &accounts, found);
                        }
                    }
                }
            }
        }
    }
}

/// A retry policy: the second try goes where the fallback leads.
fn tries_again(manager: &Manager, host: &Value, route: &Route, cluster: &str) -> Option<Finding> {
    let (action, name) = field(route.value, "route")?;
    let policy = field(action, "retry_policy").or_else(|| field(host, "retry_policy"));
    let (policy, written) = policy?;
    if text(policy, "retry_on").is_empty() {
        return None;
    }
    let problem = format!(
        "a second try does not go to the account's endpoint: Envoy takes an address of the header once, and then the fallback_policy of cluster {cluster}"
    );
    let at = format!("{}.{name}.{written}", route.at);
    Some(Finding::new(
        Severity::Warning,
        manager.piece.file,
        at,
        problem,
    ))
}

fn of_cluster(
    manager: &Manager,
    cluster: &Piece,
    chooses: &Chooses,
    accounts: &[Account],
    found: &mut Vec<Finding>,
) {
    let (header, name) = (&chooses.header, cluster.name());
    let mut say = |severity, inner: &str, problem: String| {
        let at = format!("{}.{inner}", chooses.at);
        found.push(Finding::new(severity, cluster.file, at, problem));
    };
    let lacks = |account: &&Account| account.value(header).is_none();
    if accounts.iter().all(|account| lacks(&account)) {
        let problem = format!(
            "no account sets {header}: the fallback_policy chooses the endpoint of each request"
        );
        return say(Severity::Error, "override_host_sources", problem);
    }
    if let Some(account) = accounts.iter().find(lacks) {
        let problem = format!(
            "{} does not set {header}: the fallback_policy chooses the endpoint of its requests",
            account.name
        );
        say(Severity::Warning, "override_host_sources", problem);
    }
    let fallbacks = list(chooses.config, "fallback_policy.policies", "");
    let none = fallbacks.iter().any(|(policy, _)| {
        let policy = dig(policy, "typed_extension_config.typed_config");
        policy.is_some_and(|policy| {
            text(policy, "@type").ends_with(".subset.v3.Subset")
                && matches!(text(policy, "fallback_policy"), "" | "NO_FALLBACK")
        })
    });
    if !none {
        let problem = format!(
            "a request whose {header} is no endpoint of cluster {name} goes to any of them, whose own limit it is not counted for; a policy subset with fallback_policy: NO_FALLBACK gives it 503"
        );
        say(Severity::Note, "fallback_policy", problem);
    }
    if let Some(known) = addresses(cluster) {
        let lost = accounts.iter().filter_map(|account| {
            let value = account.value(header)?;
            // Envoy takes several addresses, with a comma between. A variable's value is not known here.
            let mut addresses = value.split(',').map(str::trim);
            let is_lost = !value.contains("${") && addresses.all(|one| !known.contains(one));
            is_lost.then(|| format!("{value} of {}", account.name))
        });
        let mut lost: Vec<String> = lost.collect();
        if !lost.is_empty() {
            let more = lost.len().saturating_sub(NAMED);
            lost.truncate(NAMED);
            if more > 0 {
                lost.push(format!("{more} more"));
            }
            let problem = format!("no endpoint is {}", lost.join(", "));
            let at = cluster.path("load_assignment");
            found.push(Finding::new(Severity::Warning, cluster.file, at, problem));
        }
    }
    kept_from_clients(manager, header, found);
}

/// The endpoints of a cluster as the policy names them; `None`: they are not all written here.
fn addresses(cluster: &Piece) -> Option<BTreeSet<String>> {
    if !matches!(text(cluster.value, "type"), "" | "STATIC")
        || dig(cluster.value, "cluster_type").is_some()
    {
        return None;
    }
    let mut all = BTreeSet::new();
    for (group, _) in list(cluster.value, "load_assignment.endpoints", "") {
        for (endpoint, _) in list(group, "lb_endpoints", "") {
            let socket = dig(endpoint, "endpoint.address.socket_address")?;
            let port = match dig(socket, "port_value")? {
                Value::String(port) => port.clone(),
                port => port.to_string(),
            };
            let address = text(socket, "address");
            all.insert(match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            });
        }
    }
    Some(all)
}
