//! Whether memory stays what it is: `make bench-memory` sends five million requests, each with its acquire and release,
//! from clients that leave in the middle of one now and then, and shows Envoy's and Redis' memory on the way.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use serde_json::json;
use std::process::{Command, Stdio};
use support::{Envoy, EnvoyConfig, Ledger, PATIENCE, Redis, Usage, eventually};

/// Resident memory, in MB.
fn resident(pid: u32) -> f64 {
    Usage::of(pid).resident / 1e6
}

fn main() {
    let requests: u64 = std::env::var("REQUESTS").map_or(5_000_000, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("REQUESTS: {text:?}"))
    });
    let redis = Redis::start();
    let config = EnvoyConfig::from_example()
        .without_access_log()
        .plugin(|plugin| {
            plugin["pools"][0]["accounts"] = (0..100)
                .map(|n| json!({"id": format!("a{n}"), "max_concurrency": 10, "set_headers": {"x-upstream": "acct_1"}}))
                .collect();
        })
        .manager(|manager| {
            manager["route_config"]["virtual_hosts"][0]["routes"] =
                json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]);
        })
        .redis(redis.addr())
        .log_levels("warning", "wasm:warning");
    let envoy = Envoy::start(config);
    let ledger = Ledger::new(&redis, "slotgate", "demo");
    let counter = |name: &str| envoy.filter_stat(name).unwrap_or_default();
    let sent = || {
        envoy
            .stat("http.http.downstream_rq_completed")
            .unwrap_or_default()
    };
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>10}",
        "requests", "granted", "released", "Envoy MB", "Redis MB"
    );
    let (mut envoy_mb, mut next) = (Vec::new(), 0);
    while sent() < requests {
        let status = Command::new("wrk")
            .args(["-t1", "-c64", "-d10s", &format!("http://{}/", envoy.addr())])
            .stdout(Stdio::null())
            .status()
            .expect("wrk");
        assert!(status.success(), "wrk: {status}");
        eventually(PATIENCE, || ledger.is_empty());
        if sent() >= next {
            envoy_mb.push(resident(envoy.pid()));
            println!(
                "{:>10} {:>10} {:>10} {:>10.1} {:>10.1}",
                sent(),
                counter("requests;outcome=atomic"),
                counter("lease.released"),
                envoy_mb.last().unwrap(),
                resident(redis.pid())
            );
            next += requests / 10;
        }
    }
    // What it needs for so many requests at once it has after the first part.
    let (first, last) = (envoy_mb[1], envoy_mb.last().unwrap());
    println!("Envoy after the first tenth: {first:.1} MB, at the end: {last:.1} MB");
    assert!(*last <= first * 1.05 + 2.0, "it grows");
}
