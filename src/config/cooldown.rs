//! `cooldown`: what counts as upstream pushback and how long it lasts.

use super::error::{Path, quoted};
use super::fields::{Collector, Cursor, Fields};
use super::pool::{Match, match_rule};
use super::value_source::{self, ValueSource};
use serde::Deserialize;

/// `cooldown`.
#[derive(Debug)]
pub struct Cooldown {
    /// Upstream statuses that mean pushback; empty: no cooldowns.
    pub statuses: Vec<u16>,
    /// Used when the upstream names no time, in ms.
    pub default_ms: u64,
    /// No cooldown is longer, in ms.
    pub max_ms: u64,
    /// Whether an account that has cooled takes one request at a time until one succeeded.
    pub probe: bool,
    /// Where the value comes from for which alone an account cools; `None`: it cools for all.
    pub scope: Option<ValueSource>,
    /// What is asked how long, in this order, at least one; the first that says anything wins.
    pub headers: Vec<WaitStep>,
}

impl Cooldown {
    /// Whether a header of every answer may say that an account is out of pace.
    #[must_use]
    pub fn paces(&self) -> bool {
        self.headers.iter().any(|step| step.always)
    }
}

/// One entry of `cooldown.headers`.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitStep {
    /// Statuses it is asked for; empty: for all.
    pub only: Vec<u16>,
    /// Whether it is read of answers too that are no pushback: the account is out of pace.
    pub always: bool,
    /// The headers; of several the one that says the longest counts.
    pub headers: Vec<WaitHeader>,
}

impl WaitStep {
    /// Whether it is asked for an answer of this status.
    #[must_use]
    pub fn is_read_of(&self, status: u16) -> bool {
        self.only.is_empty() || self.only.contains(&status)
    }
}

/// A response header that says how long an account should rest.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitHeader {
    /// Its name, lower case.
    pub name: String,
    /// How it says so.
    pub form: WaitForm,
    /// It counts only for a response whose headers fit this.
    pub when: Option<Match>,
}

/// `cooldown.headers[].form`. Numbers may have decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitForm {
    /// Milliseconds from now.
    Ms,
    /// Seconds from now.
    Seconds,
    /// RFC 9110, 10.2.3: seconds from now, or a date.
    SecondsOrDate,
    /// As Go prints one, and with days: `1d2h3m4.5s`; a bare number is seconds.
    Duration,
    /// Seconds since 1970, ms if it has twelve digits or more; or RFC 3339.
    UnixS,
    /// Milliseconds since 1970.
    UnixMs,
    /// RFC 3339.
    Rfc3339,
    /// `ratelimit` or `ratelimit-reset` of the IETF drafts.
    Ratelimit,
}

pub(super) fn read(mut f: Fields<'_, '_>) -> Cooldown {
    let before = f.error_count();
    let max_ms = f.int("max_ms", 600_000, 1..=86_400_000);
    let default_ms = f.int("default_ms", 5_000.min(max_ms), 1..=86_400_000);
    if f.error_count() == before && default_ms > max_ms {
        f.error(
            "default_ms",
            format!("{default_ms} is more than cooldown.max_ms ({max_ms})"),
        );
    }
    let statuses = f
        .list("statuses", 0..=500, status)
        .unwrap_or_else(|| vec![429, 503, 529]);
    let probe = f.flag("probe", true);
    let mut scope = f.object("scope");
    let source = value_source::read(&mut scope);
    scope.reject_unknown();
    let headers = wait_steps(&mut f).unwrap_or_else(default_wait_steps);
    f.reject_unknown();
    Cooldown {
        statuses,
        default_ms,
        max_ms,
        probe,
        scope: source,
        headers,
    }
}

/// `cooldown.headers` where the configuration does not say otherwise.
fn default_wait_steps() -> Vec<WaitStep> {
    let document = serde_json::from_slice(include_bytes!("../upstream/cooldown_headers.json"));
    let mut collector = Collector {
        errors: vec![],
        properties: vec![],
        numbers_as_text: false,
        env: &|_| None,
    };
    let at = Cursor {
        path: Path::Root,
        value: &document.unwrap_or_default(),
        collector: &mut collector,
    };
    wait_steps(&mut at.fields()).unwrap_or_default()
}

#[inline(never)]
fn wait_steps(f: &mut Fields<'_, '_>) -> Option<Vec<WaitStep>> {
    let before = f.error_count();
    let steps = f.list("headers", 1..=64, wait_step)?;
    if f.error_count() > before {
        return Some(steps);
    }
    let mut seen: Vec<(usize, &WaitStep, &WaitHeader)> = vec![];
    for (index, step) in steps.iter().enumerate() {
        for header in &step.headers {
            let mut earlier = seen.iter();
            let same = earlier.find(|(_, other, same)| {
                *same == header && other.only == step.only && other.always == step.always
            });
            if let Some((first, ..)) = same {
                let list = Path::Field(&f.path, "headers");
                let name = quoted(&header.name);
                let what = format!(
                    "{name} is read the same way by {}",
                    Path::Index(&list, *first)
                );
                f.collector.error(&Path::Index(&list, index), what);
            }
            seen.push((index, step, header));
        }
    }
    Some(steps)
}

fn wait_step(at: Cursor<'_, '_>) -> Option<WaitStep> {
    let mut f = at.fields();
    let only = f.list("only", 1..=500, status).unwrap_or_default();
    let always = f.flag("always", false);
    let is_list = matches!(f.one_of(&["name", "longest_of"]), Some(("longest_of", _)));
    let headers = if is_list {
        f.list("longest_of", 2..=16, |at| {
            let mut f = at.fields();
            f.needs(&["name"]);
            let header = wait_header(&mut f);
            f.reject_unknown();
            header
        })
    } else {
        wait_header(&mut f).map(|header| vec![header])
    };
    f.reject_unknown();
    Some(WaitStep {
        only,
        always,
        headers: headers.unwrap_or_default(),
    })
}

fn status(mut at: Cursor<'_, '_>) -> Option<u16> {
    at.int(100..=599)
}

#[inline(never)]
fn wait_header(f: &mut Fields<'_, '_>) -> Option<WaitHeader> {
    f.needs(&["form"]);
    let name = f.at("name").and_then(|mut at| at.header());
    let form = f.at("form").and_then(|mut at| at.word());
    let when = f.at("when").and_then(match_rule);
    for (field, header) in [
        ("name", name.as_ref()),
        ("when", when.as_ref().map(|when| &when.header)),
    ] {
        // A response has none of those that a configuration may name.
        if let Some(header) = header.filter(|header| header.starts_with(':')) {
            f.error(field, format!("{header:?} is a pseudo header"));
        }
    }
    Some(WaitHeader {
        name: name?,
        form: form?,
        when,
    })
}
