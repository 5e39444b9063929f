//! The pieces of one Envoy's configuration, wherever they are written: a bootstrap, resources of xDS, patches of Istio.

use super::documents::{Document, dig, field, kind, list, step, text};
use super::finding::{Finding, Severity};
use super::plugin::{Plugin, wasm_filter};
use serde_json::Value;
use std::collections::BTreeMap;

/// Names at the top of a bootstrap.
const BOOTSTRAP: [&str; 6] = [
    "static_resources",
    "staticResources",
    "dynamic_resources",
    "dynamicResources",
    "bootstrap_extensions",
    "bootstrapExtensions",
];

/// A part of the configuration, and where it is written.
#[derive(Debug, Clone)]
pub struct Piece<'d> {
    pub value: &'d Value,
    pub file: usize,
    pub at: String,
}

impl<'d> Piece<'d> {
    fn new(document: &Document, value: &'d Value, at: &str) -> Self {
        Self {
            value,
            file: document.file,
            at: at.to_owned(),
        }
    }

    /// Its name in Envoy.
    pub fn name(&self) -> &'d str {
        text(self.value, "name")
    }

    /// The path of something in it.
    pub fn path(&self, inner: &str) -> String {
        let mut at = self.at.clone();
        step(&mut at, inner);
        at
    }
}

/// The parts of one Envoy's configuration, as far as they are known.
#[derive(Debug, Default)]
pub struct Setup<'d> {
    /// A whole bootstrap: what is not in it is missing.
    pub bootstrap: Option<Piece<'d>>,
    /// Whether more listeners, or more clusters, come by xDS or from files that are not here.
    pub more_listeners: bool,
    pub more_clusters: bool,
    /// Elements of `bootstrap_extensions`.
    pub extensions: Vec<Piece<'d>>,
    pub listeners: Vec<Piece<'d>>,
    pub clusters: Vec<Piece<'d>>,
    /// HTTP connection managers: their typed configurations.
    pub managers: Vec<Piece<'d>>,
    /// Istio's patches.
    pub patches: Vec<Piece<'d>>,
    pub plugins: Vec<Plugin>,
    /// Wasm filters that are not slotgate.
    pub others: usize,
    /// Fields that send more requests than slotgate counts.
    pub beside: Vec<(Piece<'d>, &'static str)>,
    /// What to say of a fragment.
    pub fragment: Option<Finding>,
}

impl<'d> Setup<'d> {
    /// Whether there is anything of Envoy in it.
    pub fn is_envoy(&self) -> bool {
        self.bootstrap.is_some()
            || self.others > 0
            || !(self.listeners.is_empty()
                && self.clusters.is_empty()
                && self.managers.is_empty()
                && self.patches.is_empty())
    }

    /// Takes a document in.
    pub fn add(&mut self, document: &'d Document) {
        let value = &document.value;
        if document.is_kubernetes() {
            let plugins = Plugin::of_kubernetes(value, document.file, &document.at);
            self.plugins.extend(plugins);
        }
        if is_bootstrap(value) {
            let dynamic = |name: &str| dig(value, &format!("dynamic_resources.{name}")).is_some();
            self.more_listeners |= dynamic("lds_config");
            self.more_clusters |= dynamic("cds_config");
            self.bootstrap = Some(Piece::new(document, value, &document.at));
        }
        for (value, at) in list(value, "bootstrap_extensions", &document.at) {
            self.extensions.push(Piece::new(document, value, &at));
        }
        for (path, clusters) in [
            ("static_resources.clusters", true),
            ("clusters", true),
            ("static_resources.listeners", false),
            ("listeners", false),
        ] {
            for (value, at) in list(value, path, &document.at) {
                let piece = Piece::new(document, value, &at);
                match clusters {
                    true => self.clusters.push(piece),
                    false => self.listeners.push(piece),
                }
            }
        }
        // A list of listeners, to be put into a bootstrap.
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            if field(value, "filter_chains").is_some() {
                let at = format!("{}[{index}]", document.at);
                self.listeners.push(Piece::new(document, value, &at));
            }
        }
        self.walk(document, value, &mut document.at.clone());
    }

    /// Takes the second part of a fragment in, as `slotgate init --fragment` writes it: the rest of the manager, and more
    /// listeners and clusters, are in what it is merged into.
    pub fn add_of_manager(&mut self, document: &'d Document) {
        self.add(document);
        let piece = Piece::new(document, &document.value, &document.at);
        self.managers.push(piece);
        self.more_listeners = true;
        self.more_clusters = true;
        self.fragment = Some(Finding::new(
            Severity::Elsewhere,
            document.file,
            "",
            "what this fragment is merged into; check that as well",
        ));
    }

    fn walk(&mut self, document: &'d Document, value: &'d Value, at: &mut String) {
        let length = at.len();
        match value {
            Value::Object(map) => {
                self.object(document, value, at);
                for (name, value) in map {
                    step(at, name);
                    self.walk(document, value, at);
                    if let Some(what) = one_slot(name, value) {
                        self.beside.push((Piece::new(document, value, at), what));
                    }
                    at.truncate(length);
                }
            }
            Value::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    at.push_str(&format!("[{index}]"));
                    self.walk(document, value, at);
                    at.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn object(&mut self, document: &'d Document, value: &'d Value, at: &str) {
        if let Some((filter, config, place)) = wasm_filter(value) {
            let at = format!("{at}{place}");
            let at = at.trim_start_matches('.');
            match Plugin::of(filter, config, document.file, at, document.syntax) {
                Some(plugin) => self.plugins.push(plugin),
                None => self.others = self.others.saturating_add(1),
            }
        }
        let piece = Piece::new(document, value, at);
        let kind = kind(value);
        if kind.ends_with(".http_connection_manager.v3.HttpConnectionManager") {
            self.managers.push(piece);
        } else if kind == "envoy.config.cluster.v3.Cluster" {
            self.clusters.push(piece);
        } else if kind == "envoy.config.listener.v3.Listener" {
            self.listeners.push(piece);
        } else if let Some(applies) = value.get("applyTo").and_then(Value::as_str) {
            let inner = value.pointer("/patch/value").unwrap_or(&Value::Null);
            let inner = Piece::new(document, inner, &piece.path("patch.value"));
            match applies {
                "CLUSTER" => self.clusters.push(inner),
                "LISTENER" => self.listeners.push(inner),
                _ => {}
            }
            self.patches.push(piece);
        } else if let (Some(operation), true) =
            (value.get("operation"), value.get("type").is_some())
        {
            // A patch of Envoy Gateway's EnvoyPatchPolicy.
            let kind = text(value, "type").rsplit('/').next().unwrap_or_default();
            let inner = operation.get("value").unwrap_or(&Value::Null);
            let inner = Piece::new(document, inner, &piece.path("operation.value"));
            let whole = field(inner.value, "name").is_some();
            match kind {
                "envoy.config.cluster.v3.Cluster" if whole => self.clusters.push(inner),
                "envoy.config.listener.v3.Listener" if whole => self.listeners.push(inner),
                _ => {}
            }
        }
    }

    /// Whether no connection manager is one that clients reach.
    pub fn has_only_inner_managers(&self) -> bool {
        let is_inner = |manager: &Piece| {
            let mut listeners = self.listeners.iter();
            listeners.any(|listener| {
                field(listener.value, "internal_listener").is_some()
                    && listener.file == manager.file
                    && manager.at.starts_with(&format!("{}.", listener.at))
            })
        };
        self.managers.iter().all(is_inner)
    }

    /// A cluster by its name.
    pub fn cluster(&self, name: &str) -> Option<&Piece<'d>> {
        self.clusters.iter().find(|cluster| cluster.name() == name)
    }

    /// All clusters by their names: for those who look up many.
    pub fn by_name(&self) -> BTreeMap<&'d str, &Piece<'d>> {
        let pairs = self.clusters.iter().rev();
        pairs.map(|cluster| (cluster.name(), cluster)).collect()
    }

    /// Whether a cluster that is not here is missing, and not just written elsewhere.
    pub fn has_all_clusters(&self) -> bool {
        self.bootstrap.is_some() && !self.more_clusters
    }

    /// The same of a listener.
    pub fn has_all_listeners(&self) -> bool {
        self.bootstrap.is_some() && !self.more_listeners
    }
}

/// Whether a document is the beginning of an Envoy.
pub fn is_bootstrap(value: &Value) -> bool {
    BOOTSTRAP.iter().any(|name| value.get(name).is_some())
}

/// Whether a document is a part of an HTTP connection manager, by itself.
pub fn is_of_manager(document: &Document) -> bool {
    let value = &document.value;
    kind(value).is_empty() && !is_bootstrap(value) && field(value, "http_filters").is_some()
}

/// Why a field of a route makes Envoy send more requests than slotgate counts, if it does.
fn one_slot(name: &str, value: &Value) -> Option<&'static str> {
    let flag = |name: &str| dig(value, name).and_then(Value::as_bool) == Some(true);
    match name {
        "hedge_policy" | "hedgePolicy" if flag("hedge_on_per_try_timeout") => {
            Some("hedging sends several requests at once with one slot's account")
        }
        "request_mirror_policies" | "requestMirrorPolicies"
            if value.as_array().is_none_or(|policies| !policies.is_empty()) =>
        {
            Some("a mirrored request carries the account's headers and has no slot of its own")
        }
        _ => None,
    }
}
