//! Faults under load: several Envoys, one Redis behind a proxy that can break replies, an upstream that counts.
//!
//! Each fault is one row of a table: what it cost, and what was left of it. `make chaos` runs them all, `make test` a
//! few; `CHAOS=frozen make chaos` those whose name contains that word.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod faults;
mod load;
mod refusals;
mod row;
mod world;

use std::time::Duration;

use faults::FAULTS;
use row::Row;
use support::allow_open_files;

/// Those that break most in the shortest time.
const SHORT: [&str; 7] = [
    "Redis restarted empty",
    "Redis frozen",
    "connections killed at 20 Hz",
    "replies cut by a reset",
    "Envoy killed",
    "a queue, and FLUSHALL, ten times",
    "a queue, and Envoy killed",
];

#[test]
fn a_few_faults() {
    run(|name| SHORT.contains(&name));
}

#[test]
#[ignore = "minutes: make chaos"]
fn every_fault() {
    let wanted = std::env::var("CHAOS").unwrap_or_default();
    run(|name| name.contains(&wanted));
}

#[test]
fn accounts_that_refuse() {
    storm_of_refusals(Duration::from_secs(6));
}

#[test]
#[ignore = "a minute: make chaos"]
fn every_fault_while_accounts_refuse() {
    let wanted = std::env::var("CHAOS").unwrap_or_default();
    if refusals::NAME.contains(&wanted) {
        storm_of_refusals(Duration::from_secs(60));
    }
}

fn storm_of_refusals(length: Duration) {
    let (row, broken) = refusals::storm(length);
    println!("{}\n{row}", Row::HEAD);
    assert!(broken.is_empty(), "{broken:#?}");
}

fn run(wanted: impl Fn(&str) -> bool) {
    allow_open_files();
    println!("{}", Row::HEAD);
    let mut broken = Vec::new();
    for fault in FAULTS.iter().filter(|fault| wanted(fault.name)) {
        let row = row::measure(fault);
        println!("{row}");
        broken.extend(row.broken_promises());
    }
    println!("{}", Row::FOOT);
    assert!(broken.is_empty(), "{broken:#?}");
}
