//! A slotgate plugin in a document: what the filter is handed, and what it says of it.

use super::documents::{Syntax, dig, kind, list, step, text};
use serde_json::Value;
use slotgate::config::{Error, Role, parse, parse_struct};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

const HTTP: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
const NETWORK: &str = "envoy.extensions.filters.network.wasm.v3.Wasm";

/// A plugin's configuration and what stands around it.
#[derive(Debug)]
pub struct Plugin {
    /// `http`, `network`; `None`: a configuration by itself.
    pub filter: Option<&'static str>,
    /// The plugin's name in Envoy.
    pub name: String,
    /// Its file's place among the files.
    pub file: usize,
    /// Where the configuration stands in the file.
    pub at: String,
    pub handed: Handed,
    /// Its role, as far as it says one.
    pub role: Option<String>,
    /// The environment variables that the VM sees; `None`: unknown, as for a configuration by itself.
    pub environment: Option<Environment>,
    /// `config` of the wasm filter: name, VM, failure policy.
    pub config: Value,
}

/// The configuration in the form in which Envoy hands it to the filter.
#[derive(Debug)]
pub enum Handed {
    /// A `google.protobuf.Struct` of this content.
    Struct(Value),
    /// Text, which should be JSON.
    Text(String),
}

/// `vm_config.environment_variables`
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub host_env_keys: BTreeSet<String>,
    pub key_values: BTreeMap<String, String>,
}

/// The filter's own judgement of one plugin's configuration.
#[derive(Debug)]
pub struct Verdict {
    pub role: Option<&'static str>,
    pub errors: Vec<Error>,
    pub hints: Vec<String>,
    /// Variables that are not set here and will have to be where Envoy runs.
    pub unset: BTreeSet<String>,
}

impl Plugin {
    /// Whether requests take slots here.
    pub fn takes_slots(&self) -> bool {
        self.filter == Some("http") && !matches!(self.role(), "console" | "bridge" | "upstream")
    }

    /// Its role, or nothing.
    pub fn role(&self) -> &str {
        self.role.as_deref().unwrap_or_default()
    }

    /// Its configuration as it is written, as far as it can be read.
    pub fn written(&self) -> Value {
        match &self.handed {
            Handed::Struct(value) => value.clone(),
            Handed::Text(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        }
    }

    /// Where its fields stand: empty, or a path with a dot behind it.
    pub fn value_at(&self) -> String {
        match (self.at.is_empty(), self.config.is_object()) {
            (true, _) => String::new(),
            (false, true) => format!("{}.value.", self.at),
            (false, false) => format!("{}.", self.at),
        }
    }

    /// The cluster that leads to Redis.
    pub fn pipe_cluster(&self) -> String {
        let written = self.written();
        match text(&written, "redis.pipe_cluster") {
            "" => "slotgate_pipe".to_owned(),
            name => name.to_owned(),
        }
    }

    /// A configuration by itself.
    pub fn alone(file: usize, value: &Value) -> Self {
        Self {
            filter: None,
            name: String::new(),
            file,
            at: String::new(),
            handed: Handed::Text(value.to_string()),
            role: None,
            environment: None,
            config: Value::Null,
        }
    }

    /// The plugin of a wasm filter's `config`; `None`: it is another's.
    pub fn of(
        filter: &'static str,
        config: &Value,
        file: usize,
        at: &str,
        syntax: Syntax,
    ) -> Option<Self> {
        let configuration = config.get("configuration").unwrap_or(&Value::Null);
        let kind = text(configuration, "@type");
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
            if syntax == Syntax::Yaml {
                as_envoy_reads_yaml(&mut value);
            }
            handed = Handed::Struct(value);
        }
        // Its own names, or a role that is ours: other plugins have other configurations.
        let named = [
            "name",
            "root_id",
            "vm_config.vm_id",
            "vm_config.code.local.filename",
        ]
        .iter()
        .any(|path| text(config, path).contains("slotgate"));
        if !named && !is_role(role.as_deref()) {
            return None;
        }
        Some(Self {
            filter: Some(filter),
            name: text(config, "name").to_owned(),
            file,
            at: format!("{at}.configuration"),
            handed,
            role,
            environment: Some(environment(config)),
            config: config.clone(),
        })
    }

    /// The plugins of an object of Kubernetes that a control plane makes filters of: Istio's WasmPlugin, Envoy Gateway's
    /// EnvoyExtensionPolicy.
    pub fn of_kubernetes(value: &Value, file: usize, at: &str) -> Vec<Self> {
        let made = |inner: &Value, path: &str, config: &str, name: &str, env: Environment| {
            let written = dig(inner, config).unwrap_or(&Value::Null);
            let role = text(written, "role").to_owned();
            if !name.contains("slotgate") && !is_role(Some(&role)) {
                return None;
            }
            let mut at = at.to_owned();
            step(&mut at, &format!("{path}.{config}"));
            Some(Self {
                filter: Some("http"),
                name: name.to_owned(),
                file,
                at,
                handed: Handed::Text(written.to_string()),
                role: Some(role).filter(|role| !role.is_empty()),
                environment: Some(env),
                config: Value::Null,
            })
        };
        match text(value, "kind") {
            "WasmPlugin" => {
                let mut environment = Environment::default();
                for (variable, _) in list(value, "spec.vmConfig.env", "") {
                    let name = text(variable, "name").to_owned();
                    if text(variable, "valueFrom") == "HOST" {
                        environment.host_env_keys.insert(name);
                    } else {
                        let value = text(variable, "value").to_owned();
                        environment.key_values.insert(name, value);
                    }
                }
                let name = match text(value, "spec.pluginName") {
                    "" => text(value, "metadata.name"),
                    name => name,
                };
                let spec = dig(value, "spec").unwrap_or(&Value::Null);
                let plugin = made(spec, "spec", "pluginConfig", name, environment);
                plugin.into_iter().collect()
            }
            "EnvoyExtensionPolicy" => list(value, "spec.wasm", "")
                .into_iter()
                .filter_map(|(wasm, path)| {
                    let keys = list(wasm, "env.hostKeys", "").into_iter();
                    let keys = keys.filter_map(|(key, _)| key.as_str().map(str::to_owned));
                    let environment = Environment {
                        host_env_keys: keys.collect(),
                        key_values: BTreeMap::new(),
                    };
                    made(wasm, &path, "config", text(wasm, "name"), environment)
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

fn is_role(role: Option<&str>) -> bool {
    matches!(role, Some("scheduler" | "bridge" | "upstream" | "console"))
}

/// Has the filter's own parser judge a plugin; with its role if there is no error.
pub fn look_at(plugin: &Plugin, require_env: bool) -> (Verdict, Option<Role>) {
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
                Role::Upstream => "upstream",
                Role::Console(_) => "console",
            };
            (Some(name), Vec::new(), Some(role))
        }
        Err(errors) => (None, errors.0, None),
    };
    let verdict = Verdict {
        role,
        errors,
        hints,
        unset: unset.into_inner(),
    };
    (verdict, parsed)
}

/// The `config` of a wasm filter, and where it stands: in its own message, or in a TypedStruct.
pub fn wasm_filter(value: &Value) -> Option<(&'static str, &Value, &'static str)> {
    let filter = match kind(value) {
        HTTP => "http",
        NETWORK => "network",
        _ => return None,
    };
    match value.get("type_url") {
        Some(_) => Some((filter, value.pointer("/value/config")?, ".value.config")),
        None => Some((filter, value.get("config")?, ".config")),
    }
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
