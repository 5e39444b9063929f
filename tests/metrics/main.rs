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

mod grafana;
mod picture;
mod prometheus;
mod run;

use std::collections::BTreeSet;
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

/// How many alerts there are.
const ALERTS: usize = 26;

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

/// Each alert is seen to fire, and seen not to.
#[test]
fn no_alert_is_without_its_cases() {
    let yaml = |name: &str| -> serde_yaml_ng::Value {
        let text = std::fs::read_to_string(root().join(name)).expect("the file");
        serde_yaml_ng::from_str(&text).expect("YAML")
    };
    let list = |of: &serde_yaml_ng::Value| of.as_sequence().cloned().unwrap_or_default();
    let text = |of: &serde_yaml_ng::Value| of.as_str().map(str::to_owned);
    let rules = list(&yaml("envoy/alerts.yaml")["groups"]).into_iter();
    let rules = rules.flat_map(|group| list(&group["rules"]));
    let alerts: BTreeSet<String> = rules.filter_map(|rule| text(&rule["alert"])).collect();
    assert_eq!(alerts.len(), ALERTS);
    let tests = list(&yaml("tests/metrics/alerts.yaml")["tests"]).into_iter();
    let cases = tests.flat_map(|test| list(&test["alert_rule_test"]));
    let cases: Vec<_> = cases.collect();
    for fires in [true, false] {
        let of = cases
            .iter()
            .filter(|case| list(&case["exp_alerts"]).is_empty() != fires);
        let tried: BTreeSet<String> = of.filter_map(|case| text(&case["alertname"])).collect();
        assert_eq!(alerts, tried, "fires: {fires}");
    }
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
    let panels = run::panels();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
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
    // Of the requests that want a slot some get none, since all accounts are full.
    for (rate, most) in [
        ("slots_missed", "slots_wanted"),
        ("acquires_late", "acquires"),
    ] {
        let rate = format!("sum(slotgate:{rate}:rate5m) <= sum(slotgate:{most}:rate5m)");
        assert!(value(&rate) >= Some(0.0), "{rate}");
    }
    assert!(value("sum(slotgate:slots:burn5m)") > Some(1.0));
    let p99 = "histogram_quantile(0.99, sum by (le) (rate(slotgate_acquire_us_bucket[15s])))";
    let p99_us = value(p99).expect("a latency");
    assert!((50.0..60_000_000.0).contains(&p99_us), "{p99_us} µs");

    run.redis.kill();
    let firing = || {
        let rules = run.prometheus.get("/api/v1/rules");
        let groups = rules["data"]["groups"].as_array()?.iter();
        let rules = groups.filter_map(|group| group["rules"].as_array());
        let rules: Vec<&Value> = rules.flatten().collect();
        let alerts = rules.iter().filter(|rule| rule["type"] == "alerting");
        assert_eq!(alerts.count(), ALERTS);
        let state = |name: &str| {
            let rule = rules.iter().find(|rule| rule["name"] == name);
            rule.map(|rule| rule["state"].as_str().unwrap_or_default().to_owned())
        };
        let healthy = rules.iter().all(|rule| rule["health"] == "ok");
        // The one of the pool needs five minutes.
        let pending = state("SlotgatePoolSaturated")? == "pending";
        let firing = state("SlotgatePipeDown")? == "firing";
        let quiet = [
            "SlotgateDrift",
            "SlotgateLeasesLost",
            "SlotgateAccountsIgnored",
            "SlotgateNoTargets",
            "SlotgateTargetGone",
        ];
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
