//! `upstream`: what an upstream's answers mean where the usual meaning is not wanted.

use super::error::{Path, quoted};
use super::fields::{Cursor, Fields};
use super::pool::{Match, MatchValue, match_value};
use super::rules::{MATCH_VALUE, header_name};
use serde::Deserialize;

/// How long an account that refuses its key is out of use, in ms, where nothing else is said.
pub const DISABLE_MS: u64 = 600_000;

/// `upstream`.
#[derive(Debug)]
pub struct Upstream {
    /// The first that fits says what an answer means; without one it means what is usual.
    pub rules: Vec<AnswerRule>,
    /// Whether a stream of events that begins with an error is one.
    pub sse_errors: bool,
}

impl Upstream {
    /// The longest time that an answer takes an account out of use, in ms.
    #[must_use]
    pub fn longest_disable_ms(&self) -> u64 {
        let times = self.rules.iter().map(|rule| match rule.action {
            Action::Disable { for_ms } => for_ms,
            Action::Cooldown | Action::Failing | Action::Ignore => 0,
        });
        times.fold(DISABLE_MS, u64::max)
    }
}

/// One entry of `upstream.rules`: it fits an answer that meets all its conditions.
#[derive(Debug, PartialEq, Eq)]
pub struct AnswerRule {
    /// HTTP statuses; empty: any.
    pub status: Vec<u16>,
    /// Values of `grpc-status`; empty: any, and none at all.
    pub grpc_status: Vec<u16>,
    /// What all these headers of the answer must be.
    pub headers: Vec<Match>,
    /// What the answer brings about.
    pub action: Action,
}

/// `upstream.rules[].action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The account is out of use, for all workers.
    Disable {
        /// For how long, in ms, and afterwards it probes; 0: until an operator says otherwise.
        for_ms: u64,
    },
    /// Pushback, as of a status of `cooldown.statuses`.
    Cooldown,
    /// A failure, as `failing` counts them.
    Failing,
    /// It says nothing of its account.
    Ignore,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Disable,
    Cooldown,
    Failing,
    Ignore,
}

pub(super) fn read(mut f: Fields<'_, '_>) -> Upstream {
    let rules = f.list("rules", 0..=64, rule).unwrap_or_default();
    let sse_errors = f.flag("sse_errors", false);
    f.reject_unknown();
    Upstream { rules, sse_errors }
}

fn rule(at: Cursor<'_, '_>) -> Option<AnswerRule> {
    let mut f = at.fields();
    let numbers = |f: &mut Fields<'_, '_>, name, range: std::ops::RangeInclusive<u64>| {
        let read = |mut at: Cursor<'_, '_>| at.int(range.clone());
        f.list(name, 1..=500, read).unwrap_or_default()
    };
    let status = numbers(&mut f, "status", 100..=599);
    let grpc_status = numbers(&mut f, "grpc_status", 1..=16);
    let headers = headers(f.object("header"));
    let has_condition = |map: &serde_json::Map<_, _>| {
        let conditions = ["status", "header", "grpc_status"];
        conditions.iter().any(|name| map.contains_key(*name))
    };
    if !f.map.is_none_or(has_condition) {
        let what = "needs at least one of status, header, grpc_status";
        f.collector.error(&f.path, what);
    }
    f.needs(&["action"]);
    let word = f.at("action").and_then(|mut at| at.word());
    let for_ms = f.int("for_ms", DISABLE_MS, 0..=86_400_000);
    let has_time = f.map.is_some_and(|map| map.contains_key("for_ms"));
    if has_time && word.is_some_and(|word| word != Word::Disable) {
        f.error("for_ms", "is only for action disable");
    }
    f.reject_unknown();
    Some(AnswerRule {
        status,
        grpc_status,
        headers,
        action: match word? {
            Word::Disable => Action::Disable { for_ms },
            Word::Cooldown => Action::Cooldown,
            Word::Failing => Action::Failing,
            Word::Ignore => Action::Ignore,
        },
    })
}

/// `header`: a value for each name, its text or an object as in `pools[].match`.
fn headers(f: Fields<'_, '_>) -> Vec<Match> {
    let mut rules: Vec<Match> = vec![];
    let Some(map) = f.map else {
        return rules;
    };
    if !(1..=16).contains(&map.len()) {
        let what = format!("has {} entries, not 1..=16", map.len());
        f.collector.error(&f.path, what);
    }
    for (name, value) in map {
        let path = Path::Field(&f.path, name);
        let mut at = Cursor {
            path,
            value,
            collector: f.collector,
        };
        let value = if at.value.is_object() {
            let mut f = at.fields();
            let value = match_value(&mut f);
            f.reject_unknown();
            value
        } else {
            at.text(MATCH_VALUE).map(MatchValue::Exact)
        };
        let rule = match header_name(name) {
            Err(rule) => Some(rule),
            Ok(header) if header.starts_with(':') => Some("is a pseudo header"),
            Ok(header) if rules.iter().any(|rule| rule.header == header) => {
                Some("is there twice: header names have no case")
            }
            Ok(header) => {
                rules.extend(value.map(|value| Match { header, value }));
                None
            }
        };
        if let Some(rule) = rule {
            let what = format!("{} {rule}", quoted(name));
            f.collector.error(&f.path, what);
        }
    }
    rules
}
