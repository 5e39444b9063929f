//! The plugin configuration: JSON in, a checked [`Role`] out, or every error found.
//!
//! Each concept has a file with its model and its reader. A reader names each field once, with its default and its rule;
//! [`fields`] notes every error and goes on. The words that a setting takes are those of its enum, by serde's derive.
//!
//! Nothing here talks to the host: environment variables come in as a function.

mod console;
mod cooldown;
mod error;
mod fields;
mod gray;
mod pool;
mod queue;
mod redis;
mod rules;
mod scheduler;
pub mod structpb;
mod tenant;
mod upstream;
mod value_source;

pub use console::Console;
pub use cooldown::{Cooldown, WaitForm, WaitHeader, WaitStep};
pub use error::{Error, Errors};
pub use gray::{Gray, GrayMode, GrayOverride};
pub use pool::{Account, MOST_ACCOUNTS, Match, MatchValue, Pace, Pool, PoolMatch, SetHeaders};
pub use queue::{OnSaturated, Otherwise, Queue};
pub use redis::{Breaker, Redis};
pub(crate) use rules::is_name;
pub use scheduler::{
    Affinity, Config, Failing, Failover, LeaseTimes, Metrics, OnFailure, PriorityMode, Score,
    Traditional,
};
pub use tenant::{TenantLimits, TenantName, Tenants};
pub use upstream::{Action, AnswerRule, DISABLE_MS, Upstream};
pub use value_source::ValueSource;

use error::Path;
use fields::{Collector, Cursor};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;

/// What one plugin instance is told to be.
#[derive(Debug)]
pub enum Role {
    /// The HTTP filter that takes, holds and releases slots.
    Scheduler(Box<Config>),
    /// The network filter that strips and adds gRPC frames.
    Bridge,
    /// The HTTP filter ahead of an upstream, which sees each try of a request.
    Upstream,
    /// The HTTP filter that serves the operator's page and its JSON.
    Console(Box<Console>),
}

/// A value that never shows in logs.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads a plugin configuration: JSON text, or a `google.protobuf.Struct` in its binary form. `env` returns what an
/// environment variable holds.
///
/// # Errors
/// All that is wrong with it; values of variables are never among them.
pub fn parse(json: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Role, Errors> {
    // A Struct begins with the tag of its first field, a line feed.
    let document = match json.first() {
        Some(b'\n') => structpb::decode(json),
        Some(_) => None,
        // A Struct without fields is no bytes at all, and so is a configuration that is not there.
        None => Some(Value::Object(Map::new())),
    };
    match document {
        Some(document) => parse_struct(&document, env),
        None => {
            let document = serde_json::from_slice(json);
            read(&document.map_err(not_json)?, false, env)
        }
    }
}

fn not_json(error: serde_json::Error) -> Errors {
    Errors(vec![Error {
        path: String::new(),
        problem: format!("not JSON: {error}"),
    }])
}

/// Reads what a `google.protobuf.Struct` holds. Envoy (1.40) makes a string of every number in its YAML that has a
/// fraction, an exponent or more than 31 bits, so a number may be its text here.
///
/// # Errors
/// As [`parse`].
pub fn parse_struct(
    document: &Value,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Role, Errors> {
    read(document, true, env)
}

fn read(
    document: &Value,
    numbers_as_text: bool,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Role, Errors> {
    let mut collector = Collector {
        errors: vec![],
        properties: vec![],
        numbers_as_text,
        env,
    };
    let role = role(Cursor {
        path: Path::Root,
        value: document,
        collector: &mut collector,
    });
    if collector.errors.is_empty() {
        Ok(role)
    } else {
        Err(Errors(collector.errors))
    }
}

fn role(at: Cursor<'_, '_>) -> Role {
    let mut f = at.fields();
    if f.map.is_some_and(Map::is_empty) {
        let rule = "is empty: it needs a role, scheduler, bridge, upstream or console";
        f.collector.error(&f.path, rule);
        return Role::Bridge;
    }
    f.needs(&["role"]);
    let kind = f.word("role", Kind::Scheduler);
    let alone = match kind {
        Kind::Bridge => Some((Role::Bridge, "is not a field of role bridge")),
        Kind::Upstream => Some((Role::Upstream, "is not a field of role upstream")),
        Kind::Scheduler | Kind::Console => None,
    };
    if let Some((role, problem)) = alone {
        let names = f.map.into_iter().flat_map(Map::keys);
        for name in names.filter(|name| *name != "role") {
            f.error(name, problem);
        }
        return role;
    }
    f.needs(&["pools"]);
    // A console has these as the scheduler's own, so that a file may write each once and refer to it.
    let says_gray = f.map.is_some_and(|map| map.contains_key("gray"));
    let redis = redis::read(f.object("redis"));
    let gray = gray::read(f.object("gray"));
    let score = scheduler::score(f.object("score"));
    if kind == Kind::Console {
        let gray = says_gray.then_some(gray.basis_points);
        return Role::Console(Box::new(console::read(f, redis, gray, score.random)));
    }
    Role::Scheduler(Box::new(scheduler::read(f, redis, gray, score)))
}

/// `role`.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Scheduler,
    Bridge,
    Upstream,
    Console,
}
