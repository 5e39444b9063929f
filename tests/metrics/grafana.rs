//! The dashboard by Grafana's own schema.
//!
//! `grafana/` holds what is needed of the JSON schemas of Grafana 11.6, the version in `envoy/docker-compose.yaml`: from
//! <https://github.com/grafana/grafana-foundation-sdk>, branch `v11.6.x+cog-v0.0.x`, folder `jsonschema`, as they are (Apache-2.0).

use boon::{Compiler, Schemas};
use serde_json::Value;

use crate::run;
use support::root;

/// What is wrong with a value, by a definition of one of the schemas.
fn faults(schema: &str, definition: &str, value: &Value) -> Option<String> {
    let path = root().join(format!("tests/metrics/grafana/{schema}.jsonschema.json"));
    let text = std::fs::read(path).expect("a schema");
    let url = format!("file:///{schema}.json");
    let mut compiler = Compiler::new();
    let resource = serde_json::from_slice(&text).expect("JSON");
    compiler.add_resource(&url, resource).expect("a resource");
    let mut schemas = Schemas::new();
    let place = format!("{url}#/definitions/{definition}");
    let index = compiler
        .compile(&place, &mut schemas)
        .expect("a definition");
    let verdict = schemas.validate(value, index);
    verdict.err().map(|error| format!("{error:#}"))
}

fn schema_of(panel: &Value) -> &'static str {
    match panel["type"].as_str() {
        Some("timeseries") => "timeseries",
        Some("state-timeline") => "statetimeline",
        other => panic!("no schema for {other:?}"),
    }
}

#[test]
fn the_dashboard_is_what_grafanas_schema_says() {
    let dashboard = run::dashboard();
    let mut found = Vec::from_iter(faults("dashboard", "Dashboard", &dashboard));
    // What the dashboard's schema leaves open: what a kind of panel adds, and the queries.
    let panels = run::panels();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let schema = schema_of(panel);
        let custom = &panel["fieldConfig"]["defaults"]["custom"];
        found.extend(faults(schema, "Options", &panel["options"]));
        found.extend(faults(schema, "FieldConfig", custom));
        for target in panel["targets"].as_array().expect("targets") {
            found.extend(faults("prometheus", "dataquery", target));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A check that takes everything is none.
#[test]
fn what_grafana_does_not_know_is_found() {
    let panels = run::panels();
    let mut panel = panels[1].clone();
    let schema = schema_of(&panel);
    panel["options"]["legend"]["place"] = "bottom".into();
    assert!(faults(schema, "Options", &panel["options"]).is_some());
    let mut dashboard = run::dashboard();
    dashboard["refresh"] = 10.into();
    assert!(faults("dashboard", "Dashboard", &dashboard).is_some());
}
