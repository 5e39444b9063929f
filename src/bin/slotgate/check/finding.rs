//! Findings: a problem, how bad it is, and the lines that would mend it.

use serde_json::{Value, json};
use std::fmt;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It keeps every request from its slot, or from the account whose slot it is.
    Error,
    /// Envoy runs, and does something else than one might think.
    Warning,
    /// It is as it may be meant; here is what it means.
    Note,
    /// It is written elsewhere, so it was not checked.
    Elsewhere,
}

/// One thing to say of a set-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// Its file's place among the files.
    pub file: usize,
    /// Where in the file.
    pub path: String,
    pub problem: String,
    /// Lines that are missing in the file.
    pub add: Option<Add>,
}

/// Lines to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Where.
    pub under: String,
    /// YAML.
    pub lines: String,
}

impl Finding {
    pub fn new(
        severity: Severity,
        file: usize,
        path: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            file,
            path: path.into(),
            problem: problem.into(),
            add: None,
        }
    }

    /// With the lines that are missing.
    pub fn add(mut self, under: impl Into<String>, lines: impl Into<String>) -> Self {
        self.add = Some(Add {
            under: under.into(),
            lines: lines.into(),
        });
        self
    }

    /// For programs.
    pub fn listed(&self) -> Value {
        let add = self.add.as_ref();
        let add = add.map(|add| json!({"under": add.under, "lines": add.lines}));
        match add {
            Some(add) => {
                json!({"path": self.path, "problem": self.problem, "text": self.to_string(), "add": add})
            }
            None => json!({"path": self.path, "problem": self.problem, "text": self.to_string()}),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

/// A piece of `envoy/fragments/`, without its comments.
fn fragment(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

/// An element of `bootstrap_extensions`.
pub fn internal_listener() -> String {
    fragment(include_str!(
        "../../../../envoy/fragments/internal_listener.yaml"
    ))
}

/// The cluster of the pipe, of this name, to the internal listener of that name.
pub fn pipe(name: &str, listener: &str) -> String {
    fragment(include_str!("../../../../envoy/fragments/pipe.yaml"))
        .replace(
            "server_listener_name: slotgate_pipe",
            "server_listener_name: \u{0}",
        )
        .replace("slotgate_pipe", name)
        .replace('\u{0}', listener)
}

/// The internal listener with the bridge.
pub fn bridge_listener(name: &str) -> String {
    fragment(include_str!("../../../../envoy/fragments/bridge.yaml"))
        .replace("- name: slotgate_pipe\n", &format!("- name: {name}\n"))
}

/// The bridge alone: an element of the listener's filters.
pub fn bridge() -> String {
    let text = bridge_listener("");
    let from = text.find("    - name: slotgate_bridge").unwrap_or(0);
    let to = text.find("    - name: envoy.filters.network.tcp_proxy");
    let part = text.get(from..to.unwrap_or(text.len())).unwrap_or_default();
    outdented(part, 4)
}

/// The filter behind the bridge.
pub fn tcp_proxy() -> String {
    let text = bridge_listener("");
    let from = text.find("    - name: envoy.filters.network.tcp_proxy");
    outdented(text.get(from.unwrap_or(0)..).unwrap_or_default(), 4)
}

/// The HTTP filter.
pub fn filter() -> String {
    fragment(include_str!("../../../../envoy/fragments/filter.yaml"))
}

/// The cluster behind the bridge.
pub fn redis(name: &str) -> String {
    fragment(include_str!("../../../../envoy/fragments/redis.yaml"))
        .replace("name: redis\n", &format!("name: {name}\n"))
}

/// An element of `early_header_mutation_extensions` that takes these headers away.
pub fn header_mutation(header: &str) -> String {
    fragment(include_str!(
        "../../../../envoy/fragments/header_mutation.yaml"
    ))
    .replace("remove: x-upstream", &format!("remove: {header}"))
}

/// `stats_config`
pub fn stats() -> String {
    fragment(include_str!("../../../../envoy/fragments/stats.yaml"))
}

/// An element of the upstream filters of a cluster: role `upstream` in the VM of this configuration. Values of variables are
/// not said again.
pub fn upstream(vm_config: &Value) -> String {
    let text = fragment(include_str!("../../../../envoy/fragments/upstream.yaml"));
    let mut vm = vm_config.clone();
    let values = vm.pointer_mut("/environment_variables/key_values");
    for value in values.and_then(Value::as_object_mut).into_iter().flatten() {
        *value.1 = "as there".into();
    }
    let (from, to) = (
        text.find("      vm_config:\n"),
        text.find("      configuration:\n"),
    );
    let written = serde_yaml_ng::to_string(&json!({"vm_config": vm}));
    match (from, to, written) {
        (Some(from), Some(to), Ok(written)) if vm.is_object() => {
            let vm: String = written
                .lines()
                .map(|line| format!("      {line}\n"))
                .collect();
            let (before, after) = (text.get(..from), text.get(to..));
            format!(
                "{}{vm}{}",
                before.unwrap_or_default(),
                after.unwrap_or_default()
            )
        }
        _ => text,
    }
}

/// The last of a cluster's upstream filters.
pub const UPSTREAM_CODEC: &str = "\
- name: envoy.filters.http.upstream_codec
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
";

/// `retry_policy` of a route.
pub fn retry_policy(retries: u64) -> String {
    let text = fragment(include_str!(
        "../../../../envoy/fragments/retry_policy.yaml"
    ))
    .replace("num_retries: 2\n", &format!("num_retries: {retries}\n"));
    let lines: String = text.lines().map(|line| format!("  {line}\n")).collect();
    format!("retry_policy:\n{lines}")
}

fn outdented(text: &str, by: usize) -> String {
    text.lines()
        .map(|line| format!("{}\n", line.get(by..).unwrap_or_default()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is YAML that says what it is for.
    #[test]
    fn lines_are_what_is_missing() {
        for (lines, path, wanted) in [
            (
                internal_listener(),
                "/0/name",
                "envoy.bootstrap.internal_listener",
            ),
            (pipe("a", "b"), "/0/name", "a"),
            (pipe("a", "b"), "/0/load_assignment/cluster_name", "a"),
            (
                pipe("a", "b"),
                "/0/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/envoy_internal_address/server_listener_name",
                "b",
            ),
            (bridge_listener("c"), "/0/name", "c"),
            (
                bridge_listener("c"),
                "/0/filter_chains/0/filters/0/name",
                "slotgate_bridge",
            ),
            (
                bridge(),
                "/0/typed_config/config/configuration/value/role",
                "bridge",
            ),
            (tcp_proxy(), "/0/typed_config/cluster", "redis"),
            (redis("d"), "/0/name", "d"),
            (redis("d"), "/0/load_assignment/cluster_name", "d"),
            (
                header_mutation("x-key"),
                "/0/typed_config/mutations/0/remove",
                "x-key",
            ),
            (filter(), "/0/name", "slotgate"),
            (
                upstream(&Value::Null),
                "/0/typed_config/config/vm_config/vm_id",
                "slotgate",
            ),
            (
                upstream(&json!({"vm_id": "x", "code": {}})),
                "/0/typed_config/config/vm_config/vm_id",
                "x",
            ),
            (
                UPSTREAM_CODEC.to_owned(),
                "/0/name",
                "envoy.filters.http.upstream_codec",
            ),
            (
                retry_policy(4),
                "/retry_policy/retriable_headers/0/name",
                "x-slotgate-retry",
            ),
            (stats(), "/stats_tags/0/tag_name", "pool"),
        ] {
            let value: Value = serde_yaml_ng::from_str(&lines).unwrap();
            assert_eq!(value.pointer(path), Some(&json!(wanted)), "{lines}");
        }
    }
}
