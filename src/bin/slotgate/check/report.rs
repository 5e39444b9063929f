//! The report on one file, for people and for programs.

use super::finding::{Finding, Severity};
use super::ledger::Difference;
use super::plugin::{Plugin, Verdict};
use crate::show::Lines;
use crate::words::{count, quoted};
use serde_json::{Value, json};
use slotgate::config::Error;

/// The report on one file.
#[derive(Debug, Default)]
pub struct Report {
    pub plugins: Vec<(Plugin, Verdict)>,
    pub findings: Vec<Finding>,
    /// Pools beside what is in force.
    pub pools: Vec<Difference>,
}

impl Report {
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        let all = self.findings.iter();
        all.filter(move |finding| finding.severity == severity)
    }

    /// Errors of the plugins and of what is around them.
    pub fn errors(&self) -> usize {
        let plugins = self.plugins.iter().map(|(_, verdict)| verdict.errors.len());
        let own = self.of(Severity::Error).count();
        plugins.sum::<usize>().saturating_add(own)
    }
}

/// For people: each plugin, then what is wrong around them.
pub fn describe(text: &mut Lines, file: &str, report: &Report) {
    for (plugin, verdict) in &report.plugins {
        describe_plugin(text, file, plugin, verdict);
    }
    if report.plugins.is_empty() && report.findings.is_empty() {
        text.line(&format!("{file}: no slotgate filter of its own: OK"));
    }
    for (severity, word) in [
        (Severity::Error, "error"),
        (Severity::Warning, "warning"),
        (Severity::Note, "note"),
    ] {
        for finding in report.of(severity) {
            text.line(&format!("{file}: {word}: {finding}"));
            if let Some(add) = &finding.add {
                text.line(&format!("  add to {}:", add.under));
                for line in add.lines.lines() {
                    text.line(&format!("    {line}"));
                }
            }
        }
    }
    for pool in report.pools.iter().filter(|pool| !pool.is_kept_out()) {
        text.line(&format!("{file}: {}", pool.text()));
    }
    for finding in report.of(Severity::Elsewhere) {
        text.line(&format!(
            "{file}: not here, so not checked: {}",
            finding.problem
        ));
    }
}

fn describe_plugin(text: &mut Lines, file: &str, plugin: &Plugin, verdict: &Verdict) {
    let name = match plugin.filter {
        Some(filter) => format!("{file}: {filter} filter {}", quoted(&plugin.name)),
        None => file.to_owned(),
    };
    let role = verdict
        .role
        .map(|role| format!(", role {role}"))
        .unwrap_or_default();
    let outcome = if verdict.errors.is_empty() {
        "OK".to_owned()
    } else {
        count(verdict.errors.len() as u64, "error")
    };
    text.line(&format!("{name}{role}: {outcome}"));
    if !verdict.errors.is_empty() && !plugin.at.is_empty() {
        text.line(&format!("  at {}", plugin.at));
    }
    for error in &verdict.errors {
        text.line(&format!("  {error}"));
    }
    for hint in &verdict.hints {
        text.line(&format!("  try: {hint}"));
    }
    if !verdict.unset.is_empty() {
        let names: Vec<&str> = verdict.unset.iter().map(String::as_str).collect();
        text.line(&format!(
            "  not set here, so not checked: {}",
            names.join(", ")
        ));
    }
}

/// For programs.
pub fn document(file: &str, report: &Report, ok: bool) -> Value {
    let plugins: Vec<Value> = report
        .plugins
        .iter()
        .map(|(plugin, verdict)| {
            let errors: Vec<Value> = verdict.errors.iter().map(listed).collect();
            json!({
                "filter": plugin.filter,
                "name": plugin.name,
                "at": plugin.at,
                "role": verdict.role,
                "errors": errors,
                "hints": verdict.hints,
                "unset_variables": verdict.unset,
            })
        })
        .collect();
    let pools: Vec<Value> = report.pools.iter().map(Difference::json).collect();
    let all = |severity| -> Vec<Value> { report.of(severity).map(Finding::listed).collect() };
    json!({
        "file": file,
        "ok": ok,
        "plugins": plugins,
        "errors": all(Severity::Error),
        "warnings": all(Severity::Warning),
        "notes": all(Severity::Note),
        "not_checked": all(Severity::Elsewhere),
        "pools": pools,
    })
}

fn listed(error: &Error) -> Value {
    json!({"path": error.path, "problem": error.problem, "text": error.to_string()})
}
