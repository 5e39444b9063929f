//! What is shown of the metrics, beside the table of metrics: lists of reasons, and the dashboard's choices of data source, Envoy and pool.
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

fn dashboard() -> Value {
    let text = read("envoy/grafana/dashboards/slotgate.json");
    serde_json::from_str(&text).unwrap()
}

/// Whoever chooses an Envoy sees that one's series alone, in every panel; and whoever chooses a pool sees that pool's alone, in
/// every panel whose metric knows pools. What recording rules make knows pools, and no Envoys.
#[test]
fn every_panel_that_can_obeys_the_choice_of_envoy_and_pool() {
    let all = metrics();
    let mut found = Vec::new();
    expressions(&dashboard(), &mut found);
    let (mut envoys, mut pools) = (0, 0);
    for (title, expression) in found {
        let starts = ["slotgate_", "slotgate:", "envoy_wasm_"];
        let starts = starts.map(|start| expression.match_indices(start));
        for (at, start) in starts.into_iter().flatten() {
            let rest = &expression[at..];
            let of_name = |char: char| char.is_ascii_alphanumeric() || "_:".contains(char);
            let end = rest.find(|char| !of_name(char)).unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let labels = rest
                .strip_prefix('{')
                .and_then(|rest| rest.split('}').next());
            let obeys = |label: &str| {
                let choice = format!("{label}=~\"${label}\"");
                labels.is_some_and(|labels| labels.split(',').any(|label| label == choice))
            };
            let recorded = start == "slotgate:";
            if !recorded {
                assert!(obeys("instance"), "{title}: {name}: {expression}");
                envoys += 1;
            }
            let knows_pools = if recorded {
                !name.ends_with(":objective")
            } else if start == "envoy_wasm_" {
                false
            } else {
                let base = name.strip_suffix("_bucket").unwrap_or(name);
                let row = all.get(base).unwrap_or_else(|| panic!("{title}: {base}"));
                row.labels.split(", ").any(|label| label == "pool")
            };
            if knows_pools {
                assert!(obeys("pool"), "{title}: {name}: {expression}");
                pools += 1;
            }
        }
    }
    assert!(envoys > 50 && pools > 40, "{envoys}, {pools}");
}

/// What Envoy itself counts and an alert reads is on the dashboard too.
#[test]
fn envoys_own_counters_have_a_panel() {
    let alerts = read("envoy/alerts.yaml");
    let names = alerts.match_indices("envoy_wasm_vm_").map(|(at, _)| {
        let rest = &alerts[at..];
        rest.split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
            .next()
            .unwrap()
    });
    let names: BTreeSet<&str> = names.collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let mut found = Vec::new();
    expressions(&dashboard(), &mut found);
    let asked = |name: &str| {
        found
            .iter()
            .any(|(_, expression)| expression.contains(name))
    };
    assert!(names.iter().all(|name| asked(name)), "{names:?}");
}

/// Every `datasource` of a dashboard.
fn data_sources<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("datasource"));
            fields.values().for_each(|field| data_sources(field, found));
        }
        Value::Array(values) => values.iter().for_each(|value| data_sources(value, found)),
        _ => {}
    }
}

/// Each panel, each query and each list of choices asks the data source that was chosen.
#[test]
fn every_query_obeys_the_choice_of_data_source() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["datasource", "instance", "pool"]
    );
    let chosen = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    let panels = dashboard["panels"].as_array().unwrap();
    let panels = panels.iter().filter(|panel| panel["type"] != "row");
    let targets = panels
        .clone()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    for asks in panels.chain(targets).chain(&variables[1..]) {
        assert_eq!(asks["datasource"], chosen, "{asks}");
    }
    let mut found = Vec::new();
    data_sources(&dashboard, &mut found);
    assert!(found.iter().all(|source| **source == chosen), "{found:?}");
}

/// The states that the panel has words and colours for are those that the metric has numbers for.
#[test]
fn the_panel_of_states_knows_every_state() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut panels = panels.iter();
    let panel = panels
        .find(|panel| panel["type"] == "state-timeline")
        .unwrap();
    let mappings = panel["fieldConfig"]["defaults"]["mappings"][0]["options"].as_object();
    let texts = mappings.unwrap().iter();
    let texts: BTreeMap<usize, &str> = texts
        .map(|(value, to)| (value.parse().unwrap(), to["text"].as_str().unwrap()))
        .collect();
    let wanted = State::ALL.iter().map(|state| state.as_str());
    let wanted: BTreeMap<usize, &str> = std::iter::once("not known")
        .chain(wanted)
        .enumerate()
        .collect();
    assert_eq!(texts, wanted);
}

/// The numbers of panels and alerts that the document names.
#[test]
fn panels_and_alerts_are_counted() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let rows = panels.iter().filter(|panel| panel["type"] == "row").count();
    let alerts = read("envoy/alerts.yaml");
    let alerts = alerts.matches("- alert: ").count();
    let text = read("docs/observability.md");
    for shown in [
        format!("{} panels in {rows} rows", panels.len() - rows),
        format!("{alerts} alerts"),
    ] {
        assert!(text.contains(&shown), "not said: {shown}");
    }
}
