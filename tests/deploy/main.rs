//! slotgate where people run it: Redis behind TLS, Sentinel or Cluster, sidecars, Istio, and every example that is shipped.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[path = "../chaos/load.rs"]
mod load;
#[path = "../e2e/world.rs"]
mod world;

mod endpoints;
mod envoy_gateway;
mod examples;
mod folders;
mod istio;
mod llm;
mod redis_acl;
mod redis_cluster;
mod redis_sentinel;
mod redis_tls;
mod sidecar;
mod timeouts;
mod upgrade;
