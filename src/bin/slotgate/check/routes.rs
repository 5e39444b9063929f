//! Routes: whether each account's header leads somewhere, and nobody else can set it.

use super::documents::{dig, field, list, text};
use super::finding::{self, Finding, Severity};
use super::order::{BY_PATTERN, Manager, inner, managers, removed};
use super::plugin::Plugin;
use super::setup::Setup;
use serde_json::Value;
use std::collections::BTreeSet;

/// How many names a message lists.
const NAMED: usize = 5;
/// Ids of accounts that only the ledger has: as a variable's, the value of a header that holds one is not known here.
const UNKNOWN: [&str; 2] = ["${account}", "${account 2}"];
/// Statuses that say an account has had enough.
const PUSHBACK: [u64; 3] = [429, 503, 529];

/// One route with its path.
pub struct Route<'d> {
    pub value: &'d Value,
    pub at: String,
}

impl Route<'_> {
    /// The priority of its requests.
    pub fn priority(&self) -> &'static str {
        match text(self.value, "route.priority") {
            "HIGH" => "HIGH",
            _ => "DEFAULT",
        }
    }

    /// The clusters to which it leads an account's requests.
    pub fn clusters(&self, account: &Account) -> Vec<String> {
        let weighted = list(self.value, "route.weighted_clusters.clusters", "");
        let by_header = cluster_header(self).and_then(|header| account.value(&header));
        let names = std::iter::once(text(self.value, "route.cluster"))
            .chain(by_header)
            .chain(weighted.iter().map(|(cluster, _)| text(cluster, "name")));
        let names = names.filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }
}

/// An account: the headers that it sets, and how many requests at a time it takes.
pub struct Account {
    pub name: String,
    pub pool: String,
    pub limit: u64,
    id: String,
    headers: Vec<(String, String)>,
}

impl Account {
    /// What a header of its requests is, by the name in small letters.
    pub fn value(&self, name: &str) -> Option<&str> {
        match name {
            "x-slotgate-account" => Some(&self.id),
            "x-slotgate-path" => Some("atomic"),
            _ => {
                let mut headers = self.headers.iter();
                let found = headers.find(|(other, _)| other == name);
                found.map(|(_, value)| value.as_str())
            }
        }
    }
}

/// Whether an account's requests have what a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    Yes,
    /// It is the client's to say.
    May,
    No,
}

/// The names of all headers that accounts set.
pub fn names_set(accounts: &[Account]) -> BTreeSet<&str> {
    let headers = accounts.iter().flat_map(|account| &account.headers);
    headers.map(|(name, _)| name.as_str()).collect()
}

/// A route's condition on a header, beside an account. What cannot be told of a header that slotgate sets is a no.
fn fits(condition: &Value, account: &Account, set: &BTreeSet<&str>) -> Fits {
    let name = text(condition, "name").to_ascii_lowercase();
    if !set.contains(name.as_str()) && !is_own(&name) {
        return Fits::May;
    }
    let fits = holds(condition, account.value(&name)) == Some(true);
    match fits && dig(condition, "invert_match").is_none() {
        true => Fits::Yes,
        false => Fits::No,
    }
}

/// Whether a condition on a header holds for this value of it, before it is inverted; `None`: that cannot be told.
pub fn holds(condition: &Value, value: Option<&str>) -> Option<bool> {
    let of = |paths: [&str; 2]| {
        let mut texts = paths.iter().map(|path| text(condition, path));
        texts.find(|text| !text.is_empty())
    };
    let present = dig(condition, "present_match").and_then(Value::as_bool);
    match (
        of(["string_match.exact", "exact_match"]),
        of(["string_match.prefix", "prefix_match"]),
        present,
    ) {
        (Some(exact), _, _) => Some(value == Some(exact)),
        (_, Some(prefix), _) => Some(value.is_some_and(|value| value.starts_with(prefix))),
        (_, _, Some(present)) => Some(value.is_some() == present),
        (None, None, None) => None,
    }
}

/// The routes that an account's requests may take.
pub fn taken<'r, 'd>(
    routes: &'r [Route<'d>],
    account: &Account,
    set: &BTreeSet<&str>,
) -> Vec<&'r Route<'d>> {
    let mut taken = Vec::new();
    for route in routes {
        let conditions = list(route.value, "match.headers", "");
        let mut conditions = conditions
            .iter()
            .map(|(header, _)| fits(header, account, set));
        let worst = conditions.try_fold(Fits::Yes, |worst, fits| match fits {
            Fits::No => None,
            Fits::May => Some(Fits::May),
            Fits::Yes => Some(worst),
        });
        let Some(fits) = worst else { continue };
        taken.push(route);
        if fits == Fits::Yes && takes_all(route) {
            break;
        }
    }
    taken
}

/// All that is wrong with the routes.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    for manager in managers(setup) {
        let accounts = accounts(manager.plugin);
        let mut routing = BTreeSet::new();
        let mut strange = Vec::new();
        let mut own = false;
        let inside = inner(setup, &manager);
        for one in std::iter::once(&manager).chain(&inside) {
            let piece = one.piece;
            for (host, at) in list(piece.value, "route_config.virtual_hosts", &piece.at) {
                let routes: Vec<Route> = list(host, "routes", &at)
                    .into_iter()
                    .map(|(value, at)| Route { value, at })
                    .collect();
                hidden(one, &routes, &accounts, found);
                for route in &routes {
                    reached(setup, one, route, &accounts, found);
                    lasts(one, route, found);
                    routing.extend(read_by(route).filter(|header| is_set(&accounts, header)));
                    own |= read_by(route).any(|header| is_own(&header));
                    strange.extend(by_another_header(one, route, &accounts));
                }
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

pub fn accounts(plugin: &Plugin) -> Vec<Account> {
    let written = plugin.written();
    let mut all = Vec::new();
    for (pool, _) in list(&written, "pools", "") {
        for (account, _) in list(pool, "accounts", "") {
            let id = text(account, "id");
            let name = format!("{id} of pool {}", text(pool, "name"));
            all.push(account_of(pool, account, id, name));
        }
        // Those that an operator adds are known by the pool's headers alone. Two, because they differ by their ids.
        if text(pool, "accounts_from") == "ledger" {
            for id in UNKNOWN {
                let name = format!("an account of pool {}", text(pool, "name"));
                all.push(account_of(pool, &Value::Null, id, name));
            }
        }
    }
    all
}

fn account_of(pool: &Value, account: &Value, id: &str, name: String) -> Account {
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
    let limit = account.get("max_concurrency").and_then(Value::as_u64);
    Account {
        id: id.to_owned(),
        name,
        pool: text(pool, "name").to_owned(),
        limit: limit.unwrap_or(0),
        headers,
    }
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
pub fn cluster_header(route: &Route) -> Option<String> {
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

/// Whether a route takes every path, and every request that has its headers.
fn takes_all(route: &Route) -> bool {
    let conditions = dig(route.value, "match").and_then(Value::as_object);
    let only = |conditions: &serde_json::Map<String, Value>| {
        let mut names = conditions.keys();
        names.all(|name| name == "prefix" || name == "headers")
    };
    conditions.is_some_and(only) && text(route.value, "match.prefix") == "/"
}

/// A route that an earlier one hides.
fn hidden(manager: &Manager, routes: &[Route], accounts: &[Account], found: &mut Vec<Finding>) {
    let first =
        |route: &&Route| takes_all(route) && list(route.value, "match.headers", "").is_empty();
    let Some(first) = routes.iter().find(first) else {
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
    // Not one after the other: there may be as many clusters as accounts.
    let clusters = setup.by_name();
    let lost: Vec<&Account> = accounts
        .iter()
        .filter(|account| {
            let mut headers = account.headers.iter();
            headers.any(|(name, value)| {
                *name == header && !value.contains("${") && !clusters.contains_key(value.as_str())
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
    let set = names_set(accounts);
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

/// Warns of timeouts that end a stream on this route, and of retries.
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
pub fn kept_from_clients(manager: &Manager, header: &str, found: &mut Vec<Finding>) {
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
