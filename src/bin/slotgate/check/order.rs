//! The HTTP connection manager around the filter: the filters' order, and what cuts a stream or holds a slot too long.

use super::documents::{dig, field, kind, list, text};
use super::finding::{self, Finding, Severity};
use super::pipe::listener_names;
use super::plugin::Plugin;
use super::setup::{Piece, Setup};
use serde_json::Value;

/// Filters that may refuse a request: behind slotgate they do it with a slot in hand.
const REFUSERS: [&str; 9] = [
    ".ext_authz.v3.ExtAuthz",
    ".jwt_authn.v3.JwtAuthentication",
    ".rbac.v3.RBAC",
    ".ratelimit.v3.RateLimit",
    ".local_ratelimit.v3.LocalRateLimit",
    ".oauth2.v3.OAuth2",
    ".basic_auth.v3.BasicAuth",
    ".api_key_auth.v3.ApiKeyAuth",
    ".csrf.v3.CsrfPolicy",
];

/// An HTTP connection manager whose requests take slots.
#[derive(Debug)]
pub struct Manager<'s, 'd> {
    pub piece: &'s Piece<'d>,
    pub plugin: &'s Plugin,
    /// Its filters, with their paths.
    pub filters: Vec<(&'d Value, String)>,
    /// Which of them slotgate is.
    pub place: usize,
}

impl Manager<'_, '_> {
    fn finding(&self, severity: Severity, place: usize, problem: impl Into<String>) -> Finding {
        let at = self.filters.get(place).map_or("", |(_, at)| at);
        Finding::new(severity, self.piece.file, at, problem)
    }

    /// The filters before slotgate.
    pub fn before(&self) -> impl Iterator<Item = &Value> {
        self.filters
            .iter()
            .take(self.place)
            .map(|(value, _)| *value)
    }

    /// The filters behind slotgate, with their places.
    fn behind(&self) -> impl Iterator<Item = (usize, &Value)> {
        let all = self.filters.iter().enumerate();
        all.skip(self.place.saturating_add(1))
            .map(|(place, (value, _))| (place, *value))
    }
}

/// The type of a filter's configuration, by the last part of its name.
pub fn kind_of(filter: &Value) -> &str {
    field(filter, "typed_config").map_or("", |(config, _)| kind(config))
}

/// The managers whose requests take slots.
pub fn managers<'s, 'd>(setup: &'s Setup<'d>) -> Vec<Manager<'s, 'd>> {
    let mut found = Vec::new();
    for piece in &setup.managers {
        let filters = list(piece.value, "http_filters", &piece.at);
        let plugin_at = |at: &str| {
            let inside = format!("{at}.");
            setup
                .plugins
                .iter()
                .find(|plugin| plugin.file == piece.file && plugin.at.starts_with(&inside))
                .filter(|plugin| plugin.takes_slots())
        };
        let ours = filters
            .iter()
            .enumerate()
            .find_map(|(place, (_, at))| Some((place, plugin_at(at)?)));
        if let Some((place, plugin)) = ours {
            found.push(Manager {
                piece,
                plugin,
                filters,
                place,
            });
        }
    }
    found
}

/// The managers inside this Envoy that a manager's requests go on to: those behind internal listeners.
pub fn inner<'s, 'd>(setup: &'s Setup<'d>, manager: &Manager<'s, 'd>) -> Vec<Manager<'s, 'd>> {
    let mut names: Vec<&str> = Vec::new();
    for (host, _) in list(manager.piece.value, "route_config.virtual_hosts", "") {
        for (route, _) in list(host, "routes", "") {
            let cluster = setup.cluster(text(route, "route.cluster"));
            let listeners = cluster.map(|cluster| listener_names(cluster.value));
            names.extend(listeners.unwrap_or_default());
        }
    }
    let is_led_to = |piece: &&Piece| {
        let mut listeners = setup.listeners.iter();
        listeners.any(|listener| {
            names.contains(&listener.name())
                && listener.file == piece.file
                && piece.at.starts_with(&format!("{}.", listener.at))
        })
    };
    let known = managers(setup);
    let is_known = |piece: &Piece| known.iter().any(|one| std::ptr::eq(one.piece, piece));
    let found = setup.managers.iter().filter(is_led_to);
    let found = found.filter(|piece| !is_known(piece));
    found
        .map(|piece| Manager {
            piece,
            plugin: manager.plugin,
            filters: list(piece.value, "http_filters", &piece.at),
            place: 0,
        })
        .collect()
}

/// All that is wrong with the filters around slotgate.
pub fn look(setup: &Setup, found: &mut Vec<Finding>) {
    if !(setup.managers.is_empty() && setup.patches.is_empty()) {
        for plugin in &setup.plugins {
            vm(plugin, found);
        }
    }
    if !setup.plugins.iter().any(Plugin::takes_slots) {
        return nobody(setup, found);
    }
    for (piece, what) in &setup.beside {
        found.push(Finding::new(
            Severity::Warning,
            piece.file,
            piece.at.clone(),
            *what,
        ));
    }
    for manager in managers(setup) {
        filters(setup, &manager, found);
        timeouts(&manager, found);
        for inner in inner(setup, &manager) {
            timeouts(&inner, found);
        }
    }
    for patch in &setup.patches {
        patched(setup, patch, found);
    }
    stats(setup, found);
}

/// The way to Redis is there, and no filter that goes it.
fn nobody(setup: &Setup, found: &mut Vec<Finding>) {
    let Some(bootstrap) = setup
        .bootstrap
        .as_ref()
        .filter(|_| setup.has_all_listeners())
    else {
        return;
    };
    // One in a wrong place, or with a wrong role, is said elsewhere.
    if setup
        .plugins
        .iter()
        .all(|plugin| plugin.filter == Some("network") || plugin.role() == "upstream")
    {
        found.push(
            Finding::new(
                Severity::Error,
                bootstrap.file,
                bootstrap.path("static_resources.listeners"),
                "no HTTP connection manager has the slotgate filter: no request takes a slot",
            )
            .add("http_filters, before the router", finding::filter()),
        );
    }
}

fn filters(setup: &Setup, manager: &Manager, found: &mut Vec<Finding>) {
    let ours = manager.filters.get(manager.place);
    let ours = ours.map_or(&Value::Null, |(value, _)| *value);
    if dig(ours, "disabled").and_then(Value::as_bool) == Some(true) {
        found.push(manager.finding(
            Severity::Warning,
            manager.place,
            "is disabled: requests take slots only on routes that turn it on",
        ));
    }
    let router = |filter: &Value| kind_of(filter).ends_with(".router.v3.Router");
    if manager.before().any(router) {
        found.push(manager.finding(
            Severity::Error,
            manager.place,
            "stands behind the router, which must be the last filter: move it before the router",
        ));
    }
    let routed = account_headers(manager.plugin);
    for (place, filter) in manager.behind() {
        let kind = kind_of(filter);
        if kind.ends_with(".json_to_metadata.v3.JsonToMetadata") && reads_metadata(manager.plugin) {
            found.push(manager.finding(
                Severity::Warning,
                place,
                "stands behind slotgate, which reads its metadata before it is there: move it before slotgate",
            ));
        }
        if kind.ends_with(".buffer.v3.Buffer") {
            found.push(manager.finding(
                Severity::Warning,
                place,
                "stands behind slotgate: a slot is held while a slow client still sends the body; move it before slotgate",
            ));
        }
        if REFUSERS.iter().any(|refuser| kind.ends_with(refuser)) {
            found.push(manager.finding(
                Severity::Warning,
                place,
                "stands behind slotgate: a request that it refuses, or waits for, has taken a slot; move it before slotgate",
            ));
        }
        for header in removed(filter).filter(|header| routed.contains(header)) {
            found.push(manager.finding(
                Severity::Error,
                place,
                format!("stands behind slotgate and takes {header} away, by which the account is known: move it before slotgate"),
            ));
        }
        let again = setup.plugins.iter().find(|plugin| {
            let at = manager.filters.get(place).map_or("", |(_, at)| at.as_str());
            plugin.file == manager.piece.file
                && plugin.takes_slots()
                && plugin.at.starts_with(&format!("{at}."))
        });
        if again.is_some() {
            found.push(manager.finding(
                Severity::Warning,
                place,
                "is a second slotgate in these filters: each request takes two slots",
            ));
        }
    }
}

/// Stands for headers that are taken off by a pattern.
pub const BY_PATTERN: &str = "*";

/// The headers that a `header_mutation` filter, or its early form, takes off a request.
pub fn removed(filter: &Value) -> impl Iterator<Item = String> {
    let mut all = Vec::new();
    for path in [
        "typed_config.mutations",
        "typed_config.mutations.request_mutations",
    ] {
        all.extend(list(filter, path, ""));
    }
    let names =
        all.into_iter().map(
            |(mutation, _)| match field(mutation, "remove_on_match").is_some() {
                true => BY_PATTERN.to_owned(),
                false => text(mutation, "remove").to_ascii_lowercase(),
            },
        );
    let names: Vec<String> = names.collect();
    names.into_iter().filter(|name| !name.is_empty())
}

/// The headers that accounts of this plugin set.
pub fn account_headers(plugin: &Plugin) -> Vec<String> {
    let written = plugin.written();
    let mut names: Vec<String> = Vec::new();
    let maps = |value: &Value| {
        let map = value.get("set_headers").and_then(Value::as_object);
        let names = map.into_iter().flatten();
        names
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect::<Vec<_>>()
    };
    for (pool, _) in list(&written, "pools", "") {
        names.extend(maps(pool));
        for (account, _) in list(pool, "accounts", "") {
            names.extend(maps(account));
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Whether the plugin reads metadata of the request, as `json_to_metadata` writes it.
fn reads_metadata(plugin: &Plugin) -> bool {
    fn any(value: &Value) -> bool {
        match value {
            Value::Object(map) => map.iter().any(|(name, value)| {
                let property = name == "property"
                    && value
                        .as_str()
                        .is_some_and(|path| path.starts_with("metadata"));
                property || any(value)
            }),
            Value::Array(values) => values.iter().any(any),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
    any(&plugin.written())
}

fn timeouts(manager: &Manager, found: &mut Vec<Finding>) {
    if dig(manager.piece.value, "stream_idle_timeout").is_none() {
        found.push(Finding::new(
            Severity::Warning,
            manager.piece.file,
            manager.piece.path("stream_idle_timeout"),
            "not set, so Envoy cuts a stream that is silent for 5 minutes; 0s turns that off",
        ));
    }
}

/// One of Istio's patches.
fn patched(setup: &Setup, patch: &Piece, found: &mut Vec<Finding>) {
    let inside = format!("{}.", patch.at);
    let ours = setup
        .plugins
        .iter()
        .find(|plugin| plugin.file == patch.file && plugin.at.starts_with(&inside));
    let Some(plugin) = ours.filter(|plugin| plugin.takes_slots()) else {
        return;
    };
    let operation = text(patch.value, "patch.operation");
    let before = text(
        patch.value,
        "match.listener.filterChain.filter.subFilter.name",
    );
    let problem = match (text(patch.value, "applyTo"), operation) {
        ("HTTP_FILTER", "INSERT_BEFORE" | "INSERT_FIRST" | "REPLACE" | "MERGE") => return,
        ("HTTP_FILTER", "INSERT_AFTER") if before != "envoy.filters.http.router" => return,
        ("HTTP_FILTER", _) => {
            "puts the filter behind the router, which must be the last: operation INSERT_BEFORE"
        }
        ("EXTENSION_CONFIG", _) => return,
        (_, _) => "puts an HTTP filter where none can be: applyTo HTTP_FILTER",
    };
    found.push(Finding::new(
        Severity::Error,
        plugin.file,
        patch.path("patch.operation"),
        problem,
    ));
}

/// Warns of a VM that is not restarted after a failure, and of a console that gets no bodies.
fn vm(plugin: &Plugin, found: &mut Vec<Finding>) {
    if !plugin.config.is_object() {
        return;
    }
    let at = plugin.at.trim_end_matches(".configuration");
    if text(&plugin.config, "failure_policy") != "FAIL_RELOAD" {
        found.push(Finding::new(
            Severity::Warning,
            plugin.file,
            format!("{at}.failure_policy"),
            "is not FAIL_RELOAD: after a fault in the VM it stays away until Envoy is started again",
        ));
    }
    let waits = dig(&plugin.config, "allow_on_headers_stop_iteration").and_then(Value::as_bool);
    if plugin.role() == "console" && waits != Some(true) {
        found.push(Finding::new(
            Severity::Warning,
            plugin.file,
            format!("{at}.allow_on_headers_stop_iteration"),
            "is not true: the console's bodies never arrive, and every change gets 408",
        ));
    }
}

/// Labels of the metrics.
fn stats(setup: &Setup, found: &mut Vec<Finding>) {
    let Some(bootstrap) = &setup.bootstrap else {
        return;
    };
    let tags = list(bootstrap.value, "stats_config.stats_tags", "");
    let ours = |(tag, _): &(&Value, String)| text(tag, "regex").contains("wasmcustom");
    if !tags.iter().any(ours) {
        found.push(
            Finding::new(
                Severity::Warning,
                bootstrap.file,
                bootstrap.path("stats_config.stats_tags"),
                "has none of slotgate's: its metrics keep their labels in their names",
            )
            .add("stats_config", finding::stats()),
        );
    }
}
