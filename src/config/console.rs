//! The console's configuration.

use super::fields::Fields;
use super::rules::{HOST, NAME, Rule};
use super::{Redis, Secret};
use crate::units::millionths;
use std::ops::RangeInclusive;

/// The console's whole configuration, checked.
#[derive(Debug)]
pub struct Console {
    /// How to reach Redis.
    pub redis: Redis,
    /// The pools it shows, by name, at least one.
    pub pools: Vec<String>,
    /// Who may change something says this; `None`: nobody may.
    pub token: Option<Secret>,
    /// Host names it may be called by, lower case, beside `localhost` and plain addresses.
    pub hosts: Vec<String>,
    /// The share that the schedulers are configured with, in basis points, to be shown.
    pub gray: Option<u16>,
    /// `score.random` in millionths, for explain.
    pub random: u64,
}

/// A console's token that can't be guessed has at least this many bytes.
const SHORTEST_TOKEN: usize = 16;

pub(super) fn read(mut f: Fields<'_, '_>, redis: Redis, gray: Option<u16>, random: f64) -> Console {
    let console = Console {
        redis,
        gray,
        random: millionths(random),
        pools: texts(&mut f, "pools", 1..=1_000, NAME),
        token: f.secret("token_env"),
        hosts: texts(&mut f, "hosts", 0..=64, HOST),
    };
    let short = |token: &Secret| token.0.len() < SHORTEST_TOKEN;
    if console.token.as_ref().is_some_and(short) {
        f.error(
            "token_env",
            format!("its variable holds less than {SHORTEST_TOKEN} bytes"),
        );
    }
    f.reject_unknown();
    console
}

#[inline(never)]
fn texts(
    f: &mut Fields<'_, '_>,
    name: &'static str,
    count: RangeInclusive<usize>,
    rule: Rule,
) -> Vec<String> {
    f.list(name, count, |mut at| at.text(rule))
        .unwrap_or_default()
}
