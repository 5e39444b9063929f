//! Routes: whether each account's header leads somewhere, and nobody else can set it.

use super::documents::{dig, field, list, text};
use super::finding::{self, Finding, Severity};
use super::order::{BY_PATTERN, Manager, managers, removed};
use super::plugin::Plugin;
use super::setup::Setup;
use serde_json::Value;
use std::collections::BTreeSet;

/// How many names a message lists.
const NAMED: usize = 5;
/// Statuses that say an account has had enough.
const PUSHBACK: [u64; 3] = [429, 503, 529];

/// One route with its path.
struct Route<'d> {
    value: &'d Value,
    at: String,
}

/// What an account sets.
struct Account {
    name: String,
    headers: Vec<(String, String)>,
}

/// All that is wrong with the routes.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    for manager in managers(setup) {
        let accounts = accounts(manager.plugin);
        let mut routing = BTreeSet::new();
        let mut strange = Vec::new();
        let mut own = false;
        for (host, at) in list(
            manager.piece.value,
            "route_config.virtual_hosts",
            &manager.piece.at,
        ) {
            let routes: Vec<Route> = list(host, "routes", &at)
                .into_iter()
                .map(|(value, at)| Route { value, at })
                .collect();
            hidden(&manager, &routes, &accounts, found);
            for route in &routes {
                reached(setup, &manager, route, &accounts, found);
                lasts(&manager, route, found);
                routing.extend(read_by(route).filter(|header| is_set(&accounts, header)));
                own |= read_by(route).any(|header| is_own(&header));
                strange.extend(by_another_header(&manager, route, &accounts));
            }
        }
        // Where one route is the accounts', the others may be anybody's.
        if routing.is_empty() && !own {
            found.append(&mut strange);
        }
        if field(manager.piece.value, "rds").is_some() {
            found.push(Finding::new(
                Severity::Elsewhere,
                manager.piece.file,
                manager.piece.path("rds"),
                "its routes",
            ));
        }
        for header in routing {
            kept_from_clients(&manager, &header, found);
        }
    }
}

fn accounts(plugin: &Plugin) -> Vec<Account> {
    let written = plugin.written();
    let mut all = Vec::new();
    for (pool, _) in list(&written, "pools", "") {
        for (account, _) in list(pool, "accounts", "") {
            let id = text(account, "id");
            let mut headers = Vec::new();
            for holder in [pool, account] {
                let map = holder.get("set_headers").and_then(Value::as_object);
                for (name, value) in map.into_iter().flatten() {
                    let name = name.to_ascii_lowercase();
                    let value = value.as_str().unwrap_or_default();
                    headers.retain(|(other, _)| *other != name);
                    headers.push((name, value.replace("${account}", id)));
                }
            }
            let name = format!("{id} of pool {}", text(pool, "name"));
            all.push(Account { name, headers });
        }
    }
    all
}

/// Whether slotgate sets it: an account's header, or its own.
fn is_set(accounts: &[Account], header: &str) -> bool {
    let mut names = accounts.iter().flat_map(|account| &account.headers);
    names.any(|(name, _)| name == header)
}

fn is_own(header: &str) -> bool {
    matches!(
        header,
        "x-slotgate-account" | "x-slotgate-lease" | "x-slotgate-path"
    )
}

/// The header by which a route chooses its cluster.
fn cluster_header(route: &Route) -> Option<String> {
    let header = text(route.value, "route.cluster_header");
    (!header.is_empty()).then(|| header.to_ascii_lowercase())
}

/// Headers that a route reads.
fn read_by(route: &Route) -> impl Iterator<Item = String> {
    let matched = list(route.value, "match.headers", "")
        .into_iter()
        .map(|(header, _)| text(header, "name").to_ascii_lowercase())
        .collect::<Vec<_>>();
    matched.into_iter().chain(cluster_header(route))
}

/// A route that an earlier one hides.
fn hidden(manager: &Manager, routes: &[Route], accounts: &[Account], found: &mut Vec<Finding>) {
    let takes_all = |route: &&Route| {
        let conditions = dig(route.value, "match").and_then(Value::as_object);
        conditions.is_some_and(|conditions| conditions.len() == 1)
            && text(route.value, "match.prefix") == "/"
    };
    let Some(first) = routes.iter().find(takes_all) else {
        return;
    };
    let later = routes
        .iter()
        .skip_while(|route| route.at != first.at)
        .skip(1);
    for route in later {
        let ours = read_by(route).any(|header| is_set(accounts, &header) || is_own(&header));
        let (severity, what) = match ours {
            true => (Severity::Error, "no account's request gets here"),
            false => (Severity::Warning, "no request gets here"),
        };
        let problem = format!("{what}: {} before it takes all", first.at);
        found.push(Finding::new(
            severity,
            manager.piece.file,
            route.at.clone(),
            problem,
        ));
    }
}

/// Whether accounts' headers lead to this route, and on to a cluster.
fn reached(
    setup: &Setup,
    manager: &Manager,
    route: &Route,
    accounts: &[Account],
    found: &mut Vec<Finding>,
) {
    let file = manager.piece.file;
    let mut say = |severity, at: String, problem: String| {
        found.push(Finding::new(severity, file, at, problem));
    };
    let at = |inner: &str| format!("{}.{inner}", route.at);
    for (header, path) in list(route.value, "match.headers", &route.at) {
        let name = text(header, "name").to_ascii_lowercase();
        let wanted = ["exact_match", "string_match.exact"]
            .iter()
            .map(|path| text(header, path))
            .find(|wanted| !wanted.is_empty());
        let Some(wanted) = wanted.filter(|_| is_set(accounts, &name)) else {
            continue;
        };
        let sets = |account: &Account| {
            let mut headers = account.headers.iter();
            headers
                .any(|(other, value)| *other == name && (value == wanted || value.contains("${")))
        };
        if !accounts.iter().any(sets) {
            let problem =
                format!("no account sets {name} to {wanted}: no request with a slot gets here");
            say(Severity::Warning, path, problem);
        }
    }
    let cluster = text(route.value, "route.cluster");
    if !cluster.is_empty() && setup.cluster(cluster).is_none() && setup.has_all_clusters() {
        let problem = format!("there is no cluster {cluster}: Envoy refuses this route");
        say(Severity::Error, at("route.cluster"), problem);
    }
    let Some(header) = cluster_header(route) else {
        return;
    };
    let at = at("route.cluster_header");
    if is_own(&header) {
        return;
    }
    if !is_set(accounts, &header) {
        return;
    }
    if !setup.has_all_clusters() {
        return;
    }
    let lost: Vec<&Account> = accounts
        .iter()
        .filter(|account| {
            let mut headers = account.headers.iter();
            headers.any(|(name, value)| {
                *name == header && !value.contains("${") && setup.cluster(value).is_none()
            })
        })
        .collect();
    if lost.is_empty() {
        return;
    }
    let all = lost.len() == accounts.len();
    let severity = if all {
        Severity::Error
    } else {
        Severity::Warning
    };
    let mut names: Vec<String> = lost
        .iter()
        .take(NAMED)
        .map(|account| {
            let mut headers = account.headers.iter();
            let value = headers.find(|(name, _)| *name == header);
            let cluster = value.map_or("", |(_, value)| value.as_str());
            format!("{cluster} for {}", account.name)
        })
        .collect();
    if let Some(more) = lost.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    let problem = format!(
        "there is no cluster {}: such requests get 503",
        names.join(", ")
    );
    say(severity, at, problem);
}

/// A route whose cluster is named by a header that is no account's, although accounts set some.
fn by_another_header(manager: &Manager, route: &Route, accounts: &[Account]) -> Option<Finding> {
    let header = cluster_header(route)?;
    let set: BTreeSet<&str> = accounts
        .iter()
        .flat_map(|account| account.headers.iter().map(|(name, _)| name.as_str()))
        .collect();
    if set.is_empty() || set.contains(header.as_str()) || is_own(&header) {
        return None;
    }
    let names: Vec<&str> = set.into_iter().collect();
    let problem = format!(
        "no account sets {header}, so this route leads nobody to an account; they set {}",
        names.join(", ")
    );
    Some(Finding::new(
        Severity::Error,
        manager.piece.file,
        format!("{}.route.cluster_header", route.at),
        problem,
    ))
}

/// What ends a stream on this route, or tries it again.
fn lasts(manager: &Manager, route: &Route, found: &mut Vec<Finding>) {
    let Some((action, name)) = field(route.value, "route") else {
        return;
    };
    let mut warn = |inner: &str, problem: String| {
        let at = format!("{}.{name}.{inner}", route.at);
        found.push(Finding::new(
            Severity::Warning,
            manager.piece.file,
            at,
            problem,
        ));
    };
    if field(action, "timeout").is_none() {
        let problem = "not set, so Envoy ends every answer after 15 s; 0s turns that off";
        warn("timeout", problem.to_owned());
    }
    let idle = text(action, "idle_timeout");
    if !matches!(idle, "" | "0s") {
        let problem = format!(
            "cuts a stream that is silent for {idle}, whatever stream_idle_timeout is; 0s turns that off"
        );
        warn("idle_timeout", problem);
    }
    let codes = list(action, "retry_policy.retriable_status_codes", "");
    let on = text(action, "retry_policy.retry_on");
    let pushes = codes
        .iter()
        .filter_map(|(code, _)| code.as_u64())
        .find(|code| PUSHBACK.contains(code));
    if let Some(code) = pushes.filter(|_| on.contains("retriable-status-codes")) {
        let problem =
            format!("a {code} is tried again with the same account, which has just refused");
        warn("retry_policy", problem);
    }
}

/// Whether a client's own header is taken away before slotgate sees the request.
fn kept_from_clients(manager: &Manager, header: &str, found: &mut Vec<Finding>) {
    if is_own(header) {
        return;
    }
    let early = list(
        manager.piece.value,
        "early_header_mutation_extensions",
        &manager.piece.at,
    );
    let early = early.iter().map(|(extension, _)| *extension);
    let mut taken = early.chain(manager.before()).flat_map(removed);
    if taken.any(|taken| taken == header || taken == BY_PATTERN) {
        return;
    }
    let path = "early_header_mutation_extensions";
    found.push(
        Finding::new(
            Severity::Warning,
            manager.piece.file,
            manager.piece.path(path),
            format!("does not take {header} off requests: a client that sends it chooses an account without a slot"),
        )
        .add(
            format!("{} of the HTTP connection manager", path),
            finding::header_mutation(header),
        ),
    );
}
