//! `slotgate check`: every slotgate configuration in a file, through the filter's own parser.

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::show::Lines;
use crate::words::{count, quoted};
use serde_json::{Value, json};
use slotgate::config::{Config, Error, GrayMode, Role, parse, parse_struct};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What `slotgate bucket` wants of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gray {
    pub basis_points: u16,
    pub salt: String,
    pub mode: GrayMode,
}

/// How the file is written: Envoy reads numbers in YAML in a way of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    Json,
    Yaml,
}

/// A plugin's configuration and what stands around it.
#[derive(Debug)]
struct Plugin {
    /// `http`, `network`; `None`: a configuration by itself.
    filter: Option<&'static str>,
    /// The plugin's name in Envoy.
    name: String,
    /// Where the configuration stands in the file.
    at: String,
    handed: Handed,
    /// Its role, as far as it says one.
    role: Option<String>,
    /// What the VM sees of the environment; `None`: unknown, as for a configuration by itself.
    environment: Option<Environment>,
}

/// What the filter is handed.
#[derive(Debug)]
enum Handed {
    /// A `google.protobuf.Struct` of this content.
    Struct(Value),
    /// Text, which should be JSON.
    Text(String),
}

/// `vm_config.environment_variables`
#[derive(Debug, Default)]
struct Environment {
    host_env_keys: BTreeSet<String>,
    key_values: BTreeMap<String, String>,
}

/// What the filter says of one plugin.
#[derive(Debug)]
struct Finding {
    role: Option<&'static str>,
    errors: Vec<Error>,
    hints: Vec<String>,
    /// Variables that are not set here and will have to be where Envoy runs.
    unset: BTreeSet<String>,
}

pub fn run(file: &str, text: &str, require_env: bool) -> Result<Answer, Problem> {
    let (plugins, mut warnings) = plugins(file, text)?;
    let mut out = Lines::default();
    let (mut errors, mut documents) = (0_u64, Vec::new());
    if !plugins.iter().any(Plugin::takes_slots) {
        warnings.clear();
    }
    for plugin in &plugins {
        let (finding, _) = look_at(plugin, require_env);
        errors = errors.saturating_add(finding.errors.len() as u64);
        describe(&mut out, file, plugin, &finding);
        let found: Vec<Value> = finding.errors.iter().map(listed).collect();
        documents.push(json!({
            "filter": plugin.filter,
            "name": plugin.name,
            "at": plugin.at,
            "role": finding.role,
            "errors": found,
            "hints": finding.hints,
            "unset_variables": finding.unset,
        }));
    }
    for warning in &warnings {
        out.line(&format!("{file}: warning: {warning}"));
    }
    let warnings: Vec<Value> = warnings.iter().map(listed).collect();
    let exit = if errors == 0 { Exit::Done } else { Exit::Wrong };
    Ok(Answer {
        text: out,
        json: json!({"file": file, "ok": errors == 0, "plugins": documents, "warnings": warnings}),
        exit,
    })
}

/// `gray` of the file's scheduler.
pub fn gray(file: &str, text: &str) -> Result<Gray, Problem> {
    let of = |config: &Config| Gray {
        basis_points: config.gray.basis_points,
        salt: config.gray.salt.clone(),
        mode: config.gray.mode,
    };
    one(file, text, &of, "gray")
}

/// `score.random` of the file's scheduler.
pub fn random_weight(file: &str, text: &str) -> Result<f64, Problem> {
    one(file, text, &|config| config.score.random, "score.random")
}

/// What all schedulers of a file agree on.
fn one<T: PartialEq>(
    file: &str,
    text: &str,
    of: &dyn Fn(&Config) -> T,
    what: &str,
) -> Result<T, Problem> {
    let mut found: Option<T> = None;
    for plugin in plugins(file, text)?.0 {
        let (finding, role) = look_at(&plugin, false);
        match role {
            Some(Role::Scheduler(config)) => {
                let this = of(&config);
                if found.as_ref().is_some_and(|other| *other != this) {
                    return Err(Problem::usage(format!(
                        "{file} has schedulers with different {what}"
                    ))
                    .hint("a file with the one that is meant"));
                }
                found = Some(this);
            }
            Some(Role::Bridge | Role::Console(_)) => {}
            None => {
                return Err(Problem::new(
                    Exit::Wrong,
                    "configuration",
                    format!("{file} has {}", count(finding.errors.len() as u64, "error")),
                )
                .hint(format!("slotgate check {file}")));
            }
        }
    }
    found.ok_or_else(|| {
        Problem::new(
            Exit::Wrong,
            "configuration",
            format!("{file} has no scheduler"),
        )
        .hint("the file with the HTTP filter's configuration")
    })
}

fn describe(text: &mut Lines, file: &str, plugin: &Plugin, finding: &Finding) {
    let name = match plugin.filter {
        Some(filter) => format!("{file}: {filter} filter {}", quoted(&plugin.name)),
        None => file.to_owned(),
    };
    let role = finding
        .role
        .map(|role| format!(", role {role}"))
        .unwrap_or_default();
    let verdict = if finding.errors.is_empty() {
        "OK".to_owned()
    } else {
        count(finding.errors.len() as u64, "error")
    };
    text.line(&format!("{name}{role}: {verdict}"));
    if !finding.errors.is_empty() && !plugin.at.is_empty() {
        text.line(&format!("  at {}", plugin.at));
    }
    for error in &finding.errors {
        text.line(&format!("  {error}"));
    }
    for hint in &finding.hints {
        text.line(&format!("  try: {hint}"));
    }
    if !finding.unset.is_empty() {
        let names: Vec<&str> = finding.unset.iter().map(String::as_str).collect();
        text.line(&format!(
            "  not set here, so not checked: {}",
            names.join(", ")
        ));
    }
}

fn listed(error: &Error) -> Value {
    json!({"path": error.path, "problem": error.problem, "text": error.to_string()})
}

fn look_at(plugin: &Plugin, require_env: bool) -> (Finding, Option<Role>) {
    let unset = RefCell::new(BTreeSet::new());
    let not_passed = RefCell::new(BTreeSet::new());
    // A value that passes every rule stands in for one that can't be known here.
    let unknown = || Some("unknown-before-it-runs".to_owned());
    let env = |name: &str| {
        if let Some(environment) = &plugin.environment {
            if let Some(value) = environment.key_values.get(name) {
                return Some(value.clone());
            }
            if !environment.host_env_keys.contains(name) {
                not_passed.borrow_mut().insert(name.to_owned());
                return None;
            }
        }
        match std::env::var(name) {
            Ok(value) if !value.is_empty() => Some(value),
            _ if require_env => None,
            _ => {
                unset.borrow_mut().insert(name.to_owned());
                unknown()
            }
        }
    };
    let parsed = match &plugin.handed {
        Handed::Struct(content) => parse_struct(content, &env),
        Handed::Text(text) => parse(text.as_bytes(), &env),
    };
    let hints: Vec<String> = not_passed
        .borrow()
        .iter()
        .map(|name| {
            format!("add {name} to vm_config.environment_variables.host_env_keys: a VM sees no other variables")
        })
        .collect();
    let (role, errors, parsed) = match parsed {
        Ok(role) => {
            let name = match role {
                Role::Scheduler(_) => "scheduler",
                Role::Bridge => "bridge",
                Role::Console(_) => "console",
            };
            (Some(name), Vec::new(), Some(role))
        }
        Err(errors) => (None, errors.0, None),
    };
    let finding = Finding {
        role,
        errors,
        hints,
        unset: unset.into_inner(),
    };
    (finding, parsed)
}

impl Plugin {
    fn takes_slots(&self) -> bool {
        self.filter == Some("http") && self.role.as_deref() != Some("console")
    }
}

/// All slotgate configurations in a file, at least one, and what around them an operator may not have meant.
fn plugins(file: &str, text: &str) -> Result<(Vec<Plugin>, Vec<Error>), Problem> {
    let (document, syntax) = document(file, text)?;
    let mut found = Search {
        plugins: Vec::new(),
        warnings: Vec::new(),
        others: 0,
        syntax,
    };
    found.walk(&document, &mut String::new());
    if !found.plugins.is_empty() {
        return Ok((found.plugins, found.warnings));
    }
    let is_envoy = found.others > 0
        || [
            "static_resources",
            "dynamic_resources",
            "resources",
            "@type",
        ]
        .iter()
        .any(|name| document.get(name).is_some());
    if is_envoy {
        return Err(Problem::new(
            Exit::Wrong,
            "configuration",
            format!("{file} is a configuration of Envoy without a slotgate filter"),
        )
        .hint("slotgate is a filter of type envoy.extensions.filters.http.wasm.v3.Wasm whose configuration has a role"));
    }
    // Neither has to be an object: the filter's parser says so itself.
    let alone = Plugin {
        filter: None,
        name: String::new(),
        at: String::new(),
        handed: Handed::Text(document.to_string()),
        role: None,
        environment: None,
    };
    Ok((vec![alone], Vec::new()))
}

/// The file's one document. What isn't JSON is YAML, of which JSON is nearly a part.
fn document(file: &str, text: &str) -> Result<(Value, Syntax), Problem> {
    let unreadable = |what: &str, error: String| {
        Problem::new(
            Exit::Wrong,
            "syntax",
            format!("{file} is not {what}: {error}"),
        )
    };
    let json_error = match serde_json::from_str(text) {
        Ok(document) => {
            // Envoy goes by the name.
            let yaml = file.ends_with(".yaml") || file.ends_with(".yml");
            return Ok((document, if yaml { Syntax::Yaml } else { Syntax::Json }));
        }
        Err(error) => error,
    };
    if file.ends_with(".json") {
        return Err(unreadable("JSON", json_error.to_string()));
    }
    // By way of YAML's own values: they refuse a key that stands there twice.
    serde_yaml_ng::from_str::<serde_yaml_ng::Value>(text)
        .and_then(serde_yaml_ng::from_value)
        .map(|document| (document, Syntax::Yaml))
        .map_err(|error| unreadable("YAML", error.to_string()))
}

struct Search {
    plugins: Vec<Plugin>,
    warnings: Vec<Error>,
    /// Wasm filters that are not slotgate.
    others: usize,
    syntax: Syntax,
}

impl Search {
    fn walk(&mut self, value: &Value, at: &mut String) {
        let length = at.len();
        match value {
            Value::Object(map) => {
                let plugins = self.plugins.len();
                if let Some((filter, config, place)) = wasm_filter(value) {
                    self.filter(filter, config, &format!("{at}{place}"));
                }
                for (name, value) in map {
                    if !at.is_empty() {
                        at.push('.');
                    }
                    at.push_str(name);
                    self.walk(value, at);
                    if let Some(what) = one_slot(name, value) {
                        self.warn(at.clone(), what);
                    }
                    at.truncate(length);
                }
                let mut inside = self.plugins.iter().skip(plugins);
                if cuts_silent_streams(value) && inside.any(Plugin::takes_slots) {
                    self.warn(
                        format!("{at}.stream_idle_timeout"),
                        "not set, so Envoy cuts a stream that is silent for 5 minutes; 0s turns that off",
                    );
                }
            }
            Value::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    at.push_str(&format!("[{index}]"));
                    self.walk(value, at);
                    at.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn warn(&mut self, path: String, problem: &str) {
        let problem = problem.to_owned();
        self.warnings.push(Error { path, problem });
    }

    fn filter(&mut self, filter: &'static str, config: &Value, at: &str) {
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str);
        let configuration = config.get("configuration").unwrap_or(&Value::Null);
        let kind = configuration
            .get("@type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let value = configuration.get("value").unwrap_or(&Value::Null);
        let mut handed = Handed::Text(String::new());
        let mut role = value.get("role").and_then(Value::as_str).map(str::to_owned);
        if let (true, Some(json)) = (
            kind.ends_with("google.protobuf.StringValue"),
            value.as_str(),
        ) {
            handed = Handed::Text(json.to_owned());
            role = serde_json::from_str::<Value>(json)
                .ok()
                .and_then(|value| Some(value.get("role")?.as_str()?.to_owned()));
        } else if kind.ends_with("google.protobuf.Struct") {
            let mut value = value.clone();
            if self.syntax == Syntax::Yaml {
                as_envoy_reads_yaml(&mut value);
            }
            handed = Handed::Struct(value);
        }
        // Its own names, or a role that is ours: other plugins have other configurations.
        let named = [
            "/name",
            "/root_id",
            "/vm_config/vm_id",
            "/vm_config/code/local/filename",
        ]
        .iter()
        .filter_map(|pointer| text(pointer))
        .any(|text| text.contains("slotgate"));
        if !named && !matches!(role.as_deref(), Some("scheduler" | "bridge" | "console")) {
            self.others = self.others.saturating_add(1);
            return;
        }
        self.plugins.push(Plugin {
            filter: Some(filter),
            name: text("/name").unwrap_or_default().to_owned(),
            at: format!("{at}.configuration"),
            handed,
            role,
            environment: Some(environment(config)),
        });
    }
}

/// What Envoy does by this field that sends more requests than slotgate counts.
fn one_slot(name: &str, value: &Value) -> Option<&'static str> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool) == Some(true);
    match name {
        "hedge_policy" | "hedgePolicy"
            if flag("hedge_on_per_try_timeout") || flag("hedgeOnPerTryTimeout") =>
        {
            Some("hedging sends several requests at once with one slot's account")
        }
        "request_mirror_policies" | "requestMirrorPolicies" if value != &json!([]) => {
            Some("a mirrored request carries the account's headers and has no slot of its own")
        }
        _ => None,
    }
}

/// Whether this is an HTTP connection manager that ends what is silent for 5 minutes, as Envoy does by itself.
fn cuts_silent_streams(value: &Value) -> bool {
    let kind = value.get("@type").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.ends_with(".http_connection_manager.v3.HttpConnectionManager"))
        && value.get("stream_idle_timeout").is_none()
        && value.get("streamIdleTimeout").is_none()
}

/// The `config` of a wasm filter, and where it stands: in its own message, or in a TypedStruct.
fn wasm_filter(value: &Value) -> Option<(&'static str, &Value, &'static str)> {
    let kind = |name: &str| {
        let kind = value.get(name)?.as_str()?;
        [
            ("http", "envoy.extensions.filters.http.wasm.v3.Wasm"),
            ("network", "envoy.extensions.filters.network.wasm.v3.Wasm"),
        ]
        .into_iter()
        .find(|(_, message)| kind.ends_with(message))
        .map(|(filter, _)| filter)
    };
    if let Some(filter) = kind("@type") {
        return Some((filter, value.get("config")?, ".config"));
    }
    let filter = kind("type_url")?;
    Some((filter, value.pointer("/value/config")?, ".value.config"))
}

fn environment(config: &Value) -> Environment {
    let at = |name: &str| config.pointer(&format!("/vm_config/environment_variables/{name}"));
    Environment {
        host_env_keys: at("host_env_keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        key_values: at("key_values")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    }
}

/// In YAML, Envoy (1.40, `ValueUtil::loadFromYaml`) takes a scalar for a number only if it is a whole one of 32 bits, and
/// hands every other number over as a string; here it is spelled anew, 1e1 as 10.0.
fn as_envoy_reads_yaml(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(as_envoy_reads_yaml),
        Value::Array(values) => values.iter_mut().for_each(as_envoy_reads_yaml),
        Value::Number(number) => {
            let whole = number.as_i64();
            if whole.is_none_or(|whole| i32::try_from(whole).is_err()) {
                *value = Value::String(number.to_string());
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
