//! The dashboard's and the alerts' queries, by a real Prometheus that scrapes real Envoys under load.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod picture;
mod prometheus;
mod run;

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use prometheus::{program, query_of};
use run::Run;
use support::{Dir, PATIENCE, eventually_some, root};

/// What a healthy run has no data for: queries that show only what is not 0, and shares of nothing.
const MAY_BE_EMPTY: [&str; 3] = [
    "Not decided by a grant, by reason",
    "Pipe and Redis errors",
    "Shadow: agrees with the traditional choice",
];

fn promtool(arguments: &[&str]) {
    let output = Command::new(program("promtool")).args(arguments).output();
    let output = output.expect("promtool runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn promtool_takes_the_configuration_and_the_rules_and_each_alert_fires_when_it_should() {
    let path = |name: &str| root().join(name).display().to_string();
    promtool(&["check", "config", &path("envoy/prometheus.yaml")]);
    promtool(&["check", "rules", "--lint-fatal", &path("envoy/alerts.yaml")]);
    let dir = Dir::temporary();
    let cases = std::fs::read_to_string(path("tests/metrics/alerts.yaml")).expect("the file");
    let file = dir.join("alerts.yaml");
    std::fs::write(&file, cases.replace("ALERTS", &path("envoy/alerts.yaml"))).expect("a file");
    promtool(&["test", "rules", &file.display().to_string()]);
}

/// Every query of the dashboard parses and has data; every alert's rule is healthy, and those whose cause is there fire.
#[test]
fn every_query_has_data_under_load() {
    let mut run = Run::start();
    run.load(90);
    run.wait(8);
    run.override_percent(80);
    run.push_back(2);
    run.wait(8);
    let range = run.range();
    for panel in run::panels() {
        for target in panel["targets"].as_array().expect("targets") {
            let title = panel["title"].as_str().expect("a title");
            let series = run.prometheus.range(&query_of(target), range);
            let points = series.iter().flat_map(|series| &series.points);
            let known = points.filter(|(_, value)| value.is_finite()).count();
            assert!(
                known > 0 || MAY_BE_EMPTY.contains(&title),
                "{title}: no data for {}",
                target["expr"]
            );
        }
    }
    // What was done is what is seen.
    let value = |expr: &str| run.prometheus.value(expr);
    assert_eq!(
        value("max(slotgate_gray_asked_basis_points)"),
        Some(8_000.0)
    );
    assert_eq!(
        value("sum(max by (account) (slotgate_account_limit))"),
        Some(35.0)
    );
    assert!(value("sum(max by (account) (slotgate_account_used))") > Some(0.0));
    assert!(value("sum(slotgate_cooldown)") >= Some(1.0));
    assert!(value("sum(slotgate_requests{reason=\"saturated\"})") > Some(0.0));
    assert!(value("sum(slotgate_failover)") >= Some(1.0));
    assert!(value("sum(slotgate_account_refused{account=\"acct-1\"})") >= Some(1.0));
    for outcome in ["granted", "timed_out"] {
        let ended = format!("sum(slotgate_queue_requests{{outcome=\"{outcome}\"}})");
        assert!(value(&ended) > Some(0.0), "{outcome}");
    }
    let p99 = "histogram_quantile(0.99, sum by (le) (rate(slotgate_acquire_us_bucket[15s])))";
    let p99_us = value(p99).expect("a latency");
    assert!((50.0..60_000_000.0).contains(&p99_us), "{p99_us} µs");

    run.redis.kill();
    let firing = || {
        let rules = run.prometheus.get("/api/v1/rules");
        let rules = rules["data"]["groups"][0]["rules"].as_array().cloned();
        let rules = rules.filter(|rules| rules.len() == 10)?;
        let state = |name: &str| {
            let rule = rules.iter().find(|rule| rule["name"] == name);
            rule.map(|rule| rule["state"].as_str().unwrap_or_default().to_owned())
        };
        let healthy = rules.iter().all(|rule| rule["health"] == "ok");
        // The one of the pool needs five minutes.
        let pending = state("SlotgatePoolSaturated")? == "pending";
        let firing = state("SlotgatePipeDown")? == "firing";
        let quiet = ["SlotgateDrift", "SlotgateLeasesLost"];
        let quiet = quiet
            .iter()
            .all(|name| state(name).as_deref() == Some("inactive"));
        (healthy && pending && firing && quiet).then_some(())
    };
    eventually_some(PATIENCE, firing);
}

/// The picture in `docs/observability.md`: `make dashboard`.
#[test]
#[ignore = "takes three minutes, and writes a file"]
fn picture_of_a_run() {
    let mut run = Run::start();
    run.load(14);
    run.wait(40);
    run.override_percent(80);
    run.wait(30);
    run.push_back(3);
    run.wait(25);
    run.load(60);
    run.wait(30);
    run.load(16);
    run.wait(15);
    run.redis.pause(Duration::from_secs(4));
    run.wait(40);
    let range = run.range();
    let ask = |target: &Value| run.prometheus.range(&query_of(target), range);
    let svg = picture::draw(&run::panels(), range, ask);
    std::fs::write(root().join("envoy/grafana/run.svg"), svg).expect("a picture");
}
