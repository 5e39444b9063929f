//! What the filter costs, beside Envoy without it, a filter that does nothing, and other ways to reach Redis:
//! `make bench` prints a table and writes target/bench.json. `ROUNDS=9 ROWS=webdis make bench` runs some rows longer,
//! those that have one of these words, with `;` between them; `ROWS==slotgate` is the very one.
//! With the argument `peers`, as in `make bench-peers`: beside what others decide with, to target/bench-peers.json.
//!
//! Every set-up has an Envoy and a Redis of its own, started before the first measurement; the rounds go through all rows
//! in turn, and each figure is the median of its rounds.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[path = "filter/paced.rs"]
mod paced;
#[path = "filter/peers.rs"]
mod peers;
#[path = "../ledger/pipe.rs"]
mod pipe;
#[path = "filter/rows.rs"]
mod rows;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use rows::{Row, Running};
use serde_json::{Value, json};
use support::{Usage, root};

/// Latency is measured at this rate, in requests/s.
const RATE: u32 = 1_000;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}: {text:?}"))
    })
}

/// Name → one figure for each round.
type Figures = BTreeMap<&'static str, Vec<f64>>;

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// As much as the clients can send, for a while.
fn flood(row: &Row, running: &Running, seconds: usize) -> BTreeMap<&'static str, f64> {
    let seconds = seconds as u64 * row.long;
    let redis = running.answering_redis();
    let traffic = redis.map(rows::traffic);
    let before = running.cpu_s();
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{}", row.connections)])
        .args([&format!("-d{seconds}s"), "--timeout=10s", "--latency", "-s"])
        .arg(root().join("tests/bench/wrk.lua"))
        .arg(format!("http://{}/", running.addr))
        .args(["--", row.request])
        .output()
        .expect("wrk runs (make setup installs it)");
    let after = running.cpu_s();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{'));
    let seen: Value = serde_json::from_str(line.expect("wrk's summary")).expect("JSON");
    let figure = |name: &str| seen[name].as_f64().expect("a number");
    let failed = figure("failed");
    // webdis drops some; of the others none fails.
    let most = if running.is_webdis() {
        figure("requests") / 50.0
    } else {
        0.0
    };
    assert!(failed <= most, "{}: requests failed: {seen}", row.name);
    let refused = if row.refused { figure("requests") } else { 0.0 };
    assert_eq!(figure("refused"), refused, "{}: {seen}", row.name);
    let requests = figure("requests");
    let us = |process: usize| (after[process] - before[process]) * 1e6 / requests;
    let mut figures = BTreeMap::from([
        ("requests/s", requests / figure("seconds")),
        ("p50 ms", figure("p50")),
        ("p99 ms", figure("p99")),
        ("p99.9 ms", figure("p999")),
        ("Redis us", us(1)),
        ("beside us", us(2)),
    ]);
    if let Some(envoy) = &running.envoy {
        figures.insert("Envoy us", us(0));
        figures.insert("Envoy MB", Usage::of(envoy.pid()).peak / 1e6);
    }
    if let (Some(redis), Some(traffic)) = (redis, traffic) {
        let after = rows::traffic(redis);
        figures.insert("commands", (after.0 - traffic.0) / requests);
        figures.insert("bytes", (after.1 - traffic.1) / requests);
    }
    figures
}

/// What a decision adds to the same without one: medians less medians.
fn compare(rows: &[&Row], figures: &mut [Figures]) {
    const PROCESSES: [&str; 3] = ["Envoy us", "beside us", "Redis us"];
    let of = |figures: &Figures, name: &str| figures.get(name).map_or(0.0, |all| median(all));
    for at in 0..rows.len() {
        let beside = rows
            .iter()
            .position(|row| Some(row.name) == rows[at].beside);
        let Some(beside) = beside else { continue };
        let added = |name| of(&figures[at], name) - of(&figures[beside], name);
        let added = [
            ("added p50 ms", added("p50 ms")),
            ("added p99 ms", added("p99 ms")),
            ("decision us", PROCESSES.map(added).iter().sum()),
        ];
        figures[at].extend(added.map(|(name, value)| (name, vec![value])));
    }
}

const COLUMNS: &[(&str, usize)] = &[
    ("requests/s", 0),
    ("p50 ms", 2),
    ("p99 ms", 2),
    ("p99.9 ms", 2),
    ("Envoy us", 1),
    ("Redis us", 1),
    ("beside us", 1),
    ("commands", 1),
    ("bytes", 0),
    ("Envoy MB", 0),
    ("start ms", 0),
    ("paced p50 ms", 3),
    ("paced p99 ms", 3),
];

const PEER_COLUMNS: &[(&str, usize)] = &[
    ("requests/s", 0),
    ("p50 ms", 2),
    ("p99 ms", 2),
    ("added p50 ms", 2),
    ("added p99 ms", 2),
    ("Envoy us", 1),
    ("beside us", 1),
    ("Redis us", 1),
    ("decision us", 1),
    ("commands", 1),
];

fn main() {
    let (all, columns, file) = match std::env::args().nth(1).as_deref() {
        Some("peers") => (rows::PEERS, PEER_COLUMNS, "target/bench-peers.json"),
        _ => (rows::ROWS, COLUMNS, "target/bench.json"),
    };
    let wanted = std::env::var("ROWS").unwrap_or_default();
    let wanted: Vec<_> = wanted.split(';').collect();
    let rows: Vec<&Row> = all
        .iter()
        .filter(|row| {
            let is = |part: &&str| match part.strip_prefix('=') {
                Some(name) => row.name == name,
                None => row.name.contains(part),
            };
            wanted.iter().any(is)
        })
        .collect();
    let running = rows::start(&rows);
    let mut figures: Vec<Figures> = vec![Figures::new(); rows.len()];
    for (row, running) in rows.iter().zip(&running) {
        flood(row, running, 1);
    }
    for _ in 0..number("ROUNDS", 5) {
        for ((row, running), figures) in rows.iter().zip(&running).zip(&mut figures) {
            figures
                .entry("start ms")
                .or_default()
                .push(running.start_ms);
            for (name, value) in flood(row, running, number("SECONDS", 2)) {
                figures.entry(name).or_default().push(value);
            }
            if row.paced {
                let (p50, p99) = paced::latency(running.addr, RATE, Duration::from_secs(2));
                figures.entry("paced p50 ms").or_default().push(p50);
                figures.entry("paced p99 ms").or_default().push(p99);
            }
        }
    }
    for (row, running) in rows.iter().zip(&running) {
        running.check(row);
    }

    compare(&rows, &mut figures);

    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    println!("| row | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    let mut json_rows = Vec::new();
    for (row, figures) in rows.iter().zip(&figures) {
        let cell = |(name, digits): &(&str, usize)| {
            let values = figures.get(name);
            values.map_or("–".into(), |values| {
                format!("{:.*}", *digits, median(values))
            })
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        println!("| {} | {} |", row.name, cells.join(" | "));
        let medians: BTreeMap<_, _> = figures
            .iter()
            .map(|(name, values)| (name, median(values)))
            .collect();
        json_rows.push(json!({"row": row.name, "medians": medians, "rounds": figures}));
    }
    let machine = machine();
    println!(
        "{machine}; us: CPU time per request; bytes: in and out of Redis per request; paced: at {RATE} requests/s,"
    );
    println!(
        "counted from when a request was due; beside: what decides beside Envoy, or in its place."
    );
    let path = root().join(file);
    let document = json!({"machine": machine, "rows": json_rows});
    std::fs::write(&path, format!("{document:#}")).expect("the file can be written");
    println!("written to {file}");
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |name| {
        name.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {model}")
}
