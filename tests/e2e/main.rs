//! The filter in a real Envoy, before a real Redis and an upstream that counts.
//!
//! Every test asserts what can be seen from outside: leases in Redis, statuses, headers at either end, counters in
//! Envoy's stats. Leases live for a minute unless a test says otherwise, so that no slot comes free by expiry.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod load;
mod world;

mod aborts;
mod access_log;
mod account_changes;
mod accounts;
mod answers;
mod configuration;
mod console;
mod control;
mod culprits;
mod doctor;
mod edges;
mod exports;
mod failover;
mod failover_clusters;
mod garbage;
mod gray;
mod greeting;
mod grpc;
mod headers;
mod limits;
mod metrics;
mod no_answer;
mod queue;
mod redis_faults;
mod restarts;
mod rules;
mod set_headers;
mod storm;
mod streams;
mod trap;
mod tutorial;
mod upstream_faults;
mod version;
