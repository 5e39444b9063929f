//! The demo: slotgate in a real Envoy, before a real Redis and an upstream that counts.
//!
//! `run` sends it more requests than it has slots, shows what happens, and says whether every promise was kept.
//! `up` leaves it running on fixed ports.

#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod run;
mod table;
mod up;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use support::{EnvoyConfig, spawn};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    match command.as_deref() {
        Some("run") => run::run(),
        Some("up") => up::up(),
        _ => {
            eprintln!("usage: demo run|up");
            ExitCode::from(2)
        }
    }
}

/// What the demo needs to know of the example's configuration.
struct Pool {
    name: String,
    key_prefix: String,
    /// Account id and its slots.
    accounts: Vec<(String, usize)>,
}

impl Pool {
    /// The first pool, which takes every request of the demo.
    fn of(config: &EnvoyConfig) -> Pool {
        let mut plugin = Value::Null;
        let _ = config.clone().plugin(|value| plugin = value.clone());
        let pool = &plugin["pools"][0];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let account = |account: &Value| {
            let slots = account["max_concurrency"]
                .as_u64()
                .expect("max_concurrency");
            (
                text(&account["id"]).expect("an account's id"),
                slots as usize,
            )
        };
        Pool {
            name: text(&pool["name"]).expect("the pool's name"),
            key_prefix: text(&plugin["redis"]["key_prefix"]).unwrap_or("slotgate".into()),
            accounts: pool["accounts"]
                .as_array()
                .expect("accounts")
                .iter()
                .map(account)
                .collect(),
        }
    }
}

/// The configuration with the operator's console, whose token is `token`.
fn with_console(config: EnvoyConfig, token: &str) -> EnvoyConfig {
    let mut plugin = Value::Null;
    let config = config.plugin(|value| plugin = value.clone());
    config
        .console(|console| {
            console["token_env"] = "SLOTGATE_CONSOLE_TOKEN".into();
            console["gray"] = plugin["gray"].clone();
        })
        .env("SLOTGATE_CONSOLE_TOKEN", token)
}

/// The one in the environment, or a new one.
fn console_token() -> String {
    let given = std::env::var("SLOTGATE_CONSOLE_TOKEN").ok();
    given.filter(|given| !given.is_empty()).unwrap_or_else(|| {
        let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        format!("{:016x}{:016x}", random(), random())
    })
}

/// Becomes true when someone wants the demo to end: Ctrl-C or SIGTERM.
fn on_stop() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let stop = Arc::clone(&stop);
        spawn(async move {
            signal(kind).expect("signals can be caught").recv().await;
            stop.store(true, Ordering::Relaxed);
        });
    }
    stop
}
