//! `redis`: how to reach the ledger.

use super::Secret;
use super::error::quoted;
use super::fields::Fields;
use super::rules::{CLUSTER, KEY_PREFIX, USERNAME};

/// `redis`: how to reach the ledger.
#[derive(Debug)]
pub struct Redis {
    /// Name of the cluster that leads to the bridge; 1..=125 bytes of printable ASCII.
    pub pipe_cluster: String,
    /// How long a request waits for its acquire, in ms.
    pub acquire_timeout_ms: u64,
    /// How long the oldest command may wait before the pipe is reset, in ms; at least `acquire_timeout_ms`.
    pub command_timeout_ms: u64,
    /// Greatest number of commands waiting for their reply, or for the pipe, at once.
    pub max_pending: usize,
    /// When to stop asking.
    pub breaker: Breaker,
    /// First part of every key; `[A-Za-z0-9._:-]{1,64}`.
    pub key_prefix: String,
    /// Logical database, 0..=15.
    pub database: u8,
    /// ACL user; empty: the default user.
    pub username: String,
    /// The password itself, read from the variable named by `password_env`; empty: no AUTH.
    pub password: Secret,
}

/// `redis.breaker`: when acquires that fail are no longer sent.
#[derive(Debug, Clone, Copy)]
pub struct Breaker {
    /// How many must fail in a row.
    pub failures: u32,
    /// How long until one is sent as a probe, in ms; up to half of it is cut off at random.
    pub open_ms: u64,
}

pub(super) fn read(mut f: Fields<'_, '_>) -> Redis {
    let before = f.error_count();
    let acquire_timeout_ms = f.int("acquire_timeout_ms", 50, 1..=60_000);
    // A default must not contradict what the document says, so it gives way; the same in `lease` and `cooldown`.
    let command_timeout_ms = f.int(
        "command_timeout_ms",
        acquire_timeout_ms.max(1_000),
        1..=60_000,
    );
    if f.error_count() == before && command_timeout_ms < acquire_timeout_ms {
        let rule = format!(
            "{command_timeout_ms} is less than redis.acquire_timeout_ms ({acquire_timeout_ms})"
        );
        f.error("command_timeout_ms", rule);
    }
    let before = f.error_count();
    let username = f.text("username", "", USERNAME);
    let password = f.secret("password_env");
    // Without a password there is no AUTH, and Redis would take the commands as the default user's.
    if f.error_count() == before && !username.is_empty() && password.is_none() {
        f.error(
            "username",
            format!("{} needs redis.password_env", quoted(&username)),
        );
    }
    let redis = Redis {
        pipe_cluster: f.text("pipe_cluster", "slotgate_pipe", CLUSTER),
        acquire_timeout_ms,
        command_timeout_ms,
        max_pending: f.int("max_pending", 4_096, 16..=1_000_000),
        breaker: breaker(f.object("breaker")),
        key_prefix: f.text("key_prefix", "slotgate", KEY_PREFIX),
        database: f.int("database", 0, 0..=15),
        username,
        password: password.unwrap_or_default(),
    };
    f.reject_unknown();
    redis
}

fn breaker(mut f: Fields<'_, '_>) -> Breaker {
    let breaker = Breaker {
        failures: f.int("failures", 5, 1..=1_000),
        open_ms: f.int("open_ms", 1_000, 1..=60_000),
    };
    f.reject_unknown();
    breaker
}
