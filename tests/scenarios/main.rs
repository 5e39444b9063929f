//! The pure core: one request's and one worker's whole transition tables, and who is in the gray release.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod admission;
mod console;
mod gray;
mod pool;
mod simulator;
mod sources;
mod tenants;
mod values;
mod worker;

/// A checked scheduler configuration from what differs from the smallest one.
pub fn config(change: impl FnOnce(&mut serde_json::Value)) -> slotgate::config::Config {
    let mut json = serde_json::json!({
        "role": "scheduler",
        "gray": {"percent": 100},
        "control": {"poll_ms": 0},
        "pools": [{"name": "p", "accounts": [
            {"id": "a", "max_concurrency": 2, "set_headers": {"x-upstream": "a"}},
            {"id": "b", "max_concurrency": 4, "set_headers": {"x-upstream": "b"}},
        ]}],
    });
    change(&mut json);
    match slotgate::config::parse(json.to_string().as_bytes(), &|name| {
        (name == "TOKEN").then(|| "t0k".into())
    }) {
        Ok(slotgate::config::Role::Scheduler(config)) => *config,
        other => panic!("{other:?}"),
    }
}
