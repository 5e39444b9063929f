//! A pool as an operator sees it: what `inspect.lua` answers, and why each account would or would not be taken now. The
//! console and the command line say the same because both say it from here.

use super::chance::chances;
use super::resp::{Value, Values};
use super::script::Fault;
use crate::pool::UNIT;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// The flags of an account's record in `ledger.lua`.
const DISABLED: u64 = 1;
const DRAINED: u64 = 2;

/// What an account does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes leases.
    Free,
    /// All its slots are used.
    Full,
    /// Not enabled in the configuration.
    Disabled,
    /// An operator drained it.
    Drained,
    /// After upstream pushback.
    Cooling,
    /// No longer configured; its last leases finish.
    Removed,
}

impl State {
    const ALL: [Self; 6] = [
        Self::Free,
        Self::Full,
        Self::Disabled,
        Self::Drained,
        Self::Cooling,
        Self::Removed,
    ];

    /// As `inspect.lua` says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Full => "full",
            Self::Disabled => "disabled",
            Self::Drained => "drained",
            Self::Cooling => "cooling",
            Self::Removed => "removed",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str().as_bytes() == name)
    }
}

/// One account, as the next acquire would see it. Parts of the score are in millionths.
#[derive(Debug)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// Its slots.
    pub max: u64,
    /// Its live leases, and expired ones that are not cleared away yet.
    pub used: u64,
    /// The priority's part of its score.
    pub priority_part: u64,
    /// The load's part.
    pub load_part: u64,
    /// The last reason against it that `inspect.lua` names.
    pub state: State,
    /// How long it cools, in ms; 0: it doesn't.
    pub cooling_ms: u64,
    /// All that its record says against it.
    pub flags: u64,
}

/// One pool.
#[derive(Debug, Default)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Redis TIME in ms.
    pub now_ms: u64,
    /// The revision in force.
    pub revision: u64,
    /// The ledger's epoch.
    pub epoch: u64,
    /// Leases that have not expired.
    pub live: u64,
    /// Those that have, and are not cleared away yet.
    pub expired: u64,
    /// The operator's percentage, in basis points.
    pub percent: Option<u16>,
    /// By id.
    pub accounts: BTreeMap<String, Account>,
}

impl Pool {
    /// Takes in one page of `inspect.lua`. Answers the cursor of the next; `None`: this was the last.
    ///
    /// # Errors
    /// The [`Fault`] that stands in its place.
    pub fn page(&mut self, reply: &[u8]) -> Result<Option<String>, Fault> {
        let mut values = Values::new(reply);
        match values.value() {
            Some(Value::Array(8)) => {}
            Some(Value::Error(error)) => return Err(Fault::of(error)),
            Some(
                Value::Simple(_)
                | Value::Integer(_)
                | Value::Bulk(_)
                | Value::Nil
                | Value::Array(_),
            )
            | None => return Err(Fault::Mismatch),
        }
        self.head_and_rows(&mut values).ok_or(Fault::Mismatch)
    }

    fn head_and_rows(&mut self, values: &mut Values) -> Option<Option<String>> {
        let cursor = text(values.bulk()?)?;
        self.now_ms = values.number()?;
        self.revision = match values.value()? {
            Value::Bulk(digits) => std::str::from_utf8(digits).ok()?.parse().ok()?,
            Value::Nil => 0,
            Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Array(_) => {
                return None;
            }
        };
        self.epoch = values.number()?;
        let leases = values.number()?;
        self.expired = values.number()?;
        self.live = leases.saturating_sub(self.expired);
        self.percent = match values.value()? {
            Value::Bulk(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            Value::Nil => None,
            Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Array(_) => {
                return None;
            }
        };
        let Value::Array(rows) = values.value()? else {
            return None;
        };
        for _ in 0..rows {
            if values.value()? != Value::Array(8) {
                return None;
            }
            let account = Account {
                id: text(values.bulk()?)?,
                max: values.number()?,
                used: values.number()?,
                priority_part: values.number()?,
                load_part: values.number()?,
                state: State::of(values.bulk()?)?,
                cooling_ms: values.number()?.saturating_sub(self.now_ms),
                flags: values.number()?,
            };
            // A scan may show one twice.
            self.accounts.insert(account.id.clone(), account);
        }
        Some((cursor != "0").then_some(cursor))
    }

    /// As `status` shows it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let accounts: Vec<Json> = self.accounts.values().map(Account::to_json).collect();
        json!({
            "pool": self.name,
            "redis_time_ms": self.now_ms,
            "revision": self.revision,
            "epoch": self.epoch,
            "leases": {"live": self.live, "expired": self.expired},
            "percent_override": self.percent.map(percent),
            "accounts": accounts,
        })
    }
}

impl Account {
    fn to_json(&self) -> Json {
        json!({
            "id": self.id,
            "state": self.state.as_str(),
            "used": self.used,
            "max_concurrency": self.max,
            "cooling_ms": self.cooling_ms,
        })
    }

    /// Its score without the random part.
    fn score(&self) -> u64 {
        self.priority_part.saturating_add(self.load_part)
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// What the next acquire would do.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// It takes the session's own account.
    Bound(String),
    /// The lowest score wins.
    Score,
    /// No account can take a lease.
    Saturated,
}

/// What is known beside the pool.
#[derive(Debug, Default)]
pub struct Question {
    /// The session, and the account it is bound to.
    pub session: Option<(String, Option<String>)>,
    /// The scope whose own cooldowns count too.
    pub scope: Option<String>,
    /// Until when accounts cool in the scope, in ms of Redis TIME.
    pub scope_until_ms: BTreeMap<String, u64>,
    /// Full weight of chance.
    pub random: f64,
}

/// An account and what is to be said of it.
#[derive(Debug)]
pub struct Line<'a> {
    /// The account.
    pub account: &'a Account,
    /// Why it can't take a lease; empty: it can.
    pub against: Vec<String>,
    /// How likely it is the next.
    pub chance: f64,
    /// Whether the session is bound to it.
    pub bound: bool,
    /// Whether a session bound to it stays so while it can't be taken: acquire.lua's rule.
    pub keeps: bool,
}

/// Why each account of a pool would or would not be taken now.
#[derive(Debug)]
pub struct Explained<'a> {
    /// The pool.
    pub pool: &'a Pool,
    /// What was asked.
    pub question: &'a Question,
    /// What the next acquire would do.
    pub next: Next,
    /// Each account.
    pub lines: Vec<Line<'a>>,
}

/// Judges every account.
#[must_use]
pub fn explain<'a>(pool: &'a Pool, question: &'a Question) -> Explained<'a> {
    let bound_to = question
        .session
        .as_ref()
        .and_then(|(_, bound)| bound.as_deref());
    let mut lines: Vec<Line> = pool
        .accounts
        .values()
        .map(|account| Line {
            account,
            against: against(account, question, pool.now_ms),
            chance: 0.0,
            bound: bound_to == Some(account.id.as_str()),
            keeps: match account.state {
                State::Free | State::Full => true,
                State::Cooling => account.flags & (DISABLED | DRAINED) == 0,
                State::Disabled | State::Drained | State::Removed => false,
            },
        })
        .collect();
    let bound = lines
        .iter_mut()
        .find(|line| line.bound && line.against.is_empty());
    let next = if let Some(bound) = bound {
        bound.chance = 1.0;
        Next::Bound(bound.account.id.clone())
    } else {
        let free = || lines.iter().filter(|line| line.against.is_empty());
        let scores: Vec<(&str, u64)> = free()
            .map(|line| (line.account.id.as_str(), line.account.score()))
            .collect();
        let chances = chances(&scores, question.random * UNIT);
        let free = lines.iter_mut().filter(|line| line.against.is_empty());
        for (line, chance) in free.zip(&chances) {
            line.chance = *chance;
        }
        if chances.is_empty() {
            Next::Saturated
        } else {
            Next::Score
        }
    };
    Explained {
        pool,
        question,
        next,
        lines,
    }
}

/// Every reason why it can't take a lease.
fn against(account: &Account, question: &Question, now_ms: u64) -> Vec<String> {
    let mut reasons = Vec::new();
    if account.state == State::Removed {
        reasons.push("no longer configured, its last leases finish".to_owned());
    }
    if account.flags & DISABLED != 0 {
        reasons.push("disabled in the configuration".to_owned());
    }
    if account.flags & DRAINED != 0 {
        reasons.push("drained by an operator".to_owned());
    }
    if account.cooling_ms > 0 {
        reasons.push(format!("cooling for {} more", duration(account.cooling_ms)));
    }
    let until_ms = question.scope_until_ms.get(&account.id).copied();
    let left_ms = until_ms.unwrap_or(0).saturating_sub(now_ms);
    if let (Some(scope), true) = (&question.scope, left_ms > 0) {
        reasons.push(format!(
            "cooling for {} more in scope {}",
            duration(left_ms),
            quoted(scope)
        ));
    }
    if account.used >= account.max {
        reasons.push(format!("{} of {} slots used", account.used, account.max));
    }
    reasons
}

impl Explained<'_> {
    /// As both show it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let random = self.question.random;
        let accounts: Vec<Json> = self
            .lines
            .iter()
            .map(|line| {
                let account = line.account;
                let lowest = unit(account.score());
                let mut json = account.to_json();
                if let Json::Object(fields) = &mut json {
                    let score = json!({
                        "priority": unit(account.priority_part),
                        "load": unit(account.load_part),
                        "random": [0.0, random],
                        "sum": [lowest, lowest + random],
                    });
                    fields.extend([
                        ("score".to_owned(), score),
                        ("bound".to_owned(), line.bound.into()),
                        ("can_take".to_owned(), line.against.is_empty().into()),
                        ("against".to_owned(), line.against.clone().into()),
                        ("chance".to_owned(), line.chance.into()),
                    ]);
                }
                json
            })
            .collect();
        let (outcome, account) = match &self.next {
            Next::Bound(account) => ("bound", Some(account)),
            Next::Score => ("score", None),
            Next::Saturated => ("saturated", None),
        };
        let session = self.question.session.as_ref().map(|(_, bound)| {
            let stays = self.lines.iter().any(|line| line.bound && line.keeps);
            json!({"bound_to": bound, "stays_bound": stays})
        });
        json!({
            "pool": self.pool.name,
            "redis_time_ms": self.pool.now_ms,
            "revision": self.pool.revision,
            "percent_override": self.pool.percent.map(percent),
            "expired_leases": self.pool.expired,
            "session": session,
            "next": {"outcome": outcome, "account": account},
            "accounts": accounts,
        })
    }
}

/// A score's part as in the configuration.
#[must_use]
pub fn unit(millionths: u64) -> f64 {
    millionths as f64 / UNIT
}

/// Basis points as a percentage: `12.5`.
#[must_use]
pub fn percent(basis_points: u16) -> f64 {
    f64::from(basis_points) / 100.0
}

/// Text that someone else wrote, in quotes, without control characters, and not too long.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// A length of time in the two units that matter.
#[must_use]
pub fn duration(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    match seconds {
        0..=59 => format!("{:.1} s", ms as f64 / 1_000.0),
        60..=3_599 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}
