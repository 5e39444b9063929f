//! What is shown of the metrics, beside the table of metrics: lists of reasons, and the dashboard's choice of pool.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use slotgate::ledger::fault::Fault;
use slotgate::pool::state::State;
use slotgate::worker::counters::pool_names;

fn read(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(file)).unwrap()
}

/// A row of the table of metrics.
#[derive(Debug)]
struct Row {
    kind: String,
    labels: String,
    last: String,
}

/// The table of metrics, by name.
fn metrics() -> BTreeMap<String, Row> {
    let text = read("docs/observability.md");
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let name = cells.first()?.strip_prefix("| `slotgate_")?;
        let name = format!("slotgate_{}", name.trim_end_matches('`'));
        let row = Row {
            kind: cells.get(1)?.to_string(),
            labels: cells.get(2)?.to_string(),
            last: cells.last()?.trim_end_matches(" |").to_owned(),
        };
        Some((name, row))
    });
    let rows: BTreeMap<String, Row> = rows.collect();
    assert!(rows.len() > 30, "{rows:?}");
    rows
}

fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// How many series a pool and an account have, as *How many series* says.
#[test]
fn the_series_of_a_pool_and_of_an_account_are_counted() {
    let all = metrics();
    let with = |labels: &str, kind: &str| {
        let rows = all.values();
        rows.filter(|row| row.labels == labels && row.kind == kind)
            .count()
    };
    let states = with("pool, state", "gauge") * State::ALL.len();
    let pool = pool_names("p").len() + with("pool", "gauge") + states;
    assert_eq!(with("pool", "histogram"), 2);
    let account = with("pool, account", "gauge") + with("pool, account", "counter");
    let text = read("docs/observability.md");
    let shown = format!("A pool has {pool} series and two histograms, an account {account}.");
    assert!(text.contains(&shown), "not said: {shown}");
}

#[test]
fn every_error_of_redis_is_listed() {
    let all = metrics();
    let cell = &all["slotgate_redis_error"].last;
    let wanted: BTreeSet<&str> = Fault::ALL.iter().map(|fault| fault.as_str()).collect();
    assert_eq!(quoted(cell), wanted);
}

fn expressions(panel: &Value, found: &mut Vec<(String, String)>) {
    let title = panel["title"].as_str().unwrap_or_default();
    for target in panel["targets"].as_array().into_iter().flatten() {
        let text = target["expr"].as_str().unwrap().to_owned();
        found.push((title.to_owned(), text));
    }
    for inner in panel["panels"].as_array().into_iter().flatten() {
        expressions(inner, found);
    }
}

/// Whoever chooses a pool sees that pool's alone, in every panel whose metric knows pools.
#[test]
fn every_panel_that_can_obeys_the_choice_of_pool() {
    let all = metrics();
    let text = read("envoy/grafana/dashboards/slotgate.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let mut asked = 0;
    for (title, expression) in found {
        for (at, _) in expression.match_indices("slotgate_") {
            let rest = &expression[at..];
            let end = rest.find(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
            let end = end.unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let base = name.strip_suffix("_bucket").unwrap_or(name);
            let row = all.get(base).unwrap_or_else(|| panic!("{title}: {base}"));
            if row.labels.split(", ").any(|label| label == "pool") {
                let inside = rest
                    .strip_prefix('{')
                    .and_then(|rest| rest.split('}').next());
                let obeys = inside.is_some_and(|labels| labels.contains("pool=~\"$pool\""));
                assert!(obeys, "{title}: {name} of all pools: {expression}");
                asked += 1;
            }
        }
    }
    assert!(asked > 20, "{asked}");
}
