//! Why each account of a pool would or would not be taken now, for the console and the command line.

use super::chance::chances;
use super::view::{Account, DISABLED, DRAINED, Pool, duration, quoted};
use crate::json::Json;
use crate::pool::state::State;

/// The outcome of the next acquire.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// It takes the session's own account.
    Bound(String),
    /// The lowest score wins.
    Score,
    /// No account can take a lease.
    Saturated,
}

/// The session and the scope of the request that is asked about.
#[derive(Debug, Default)]
pub struct Question {
    /// The session, and the account it is bound to.
    pub session: Option<(String, Option<String>)>,
    /// The scope whose own cooldowns count too.
    pub scope: Option<String>,
    /// Until when accounts cool in the scope, in ms of Redis TIME.
    pub scope_until_ms: Vec<(String, u64)>,
    /// Full weight of chance, in millionths.
    pub random: u64,
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
    /// The session and the scope that were asked about.
    pub question: &'a Question,
    /// The outcome of the next acquire.
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
        .iter()
        .map(|account| Line {
            account,
            against: against(account, question, pool.now_ms),
            chance: 0.0,
            bound: bound_to == Some(account.id.as_str()),
            keeps: match account.state {
                State::Free | State::Behind | State::Full | State::Probe | State::Probing => true,
                State::Paced | State::Cooling | State::Disabled => {
                    account.flags & (DISABLED | DRAINED) == 0
                }
                State::Drained | State::Removed => false,
            },
        })
        .collect();
    // One that is behind spills, unless all that are free are behind.
    let others = pool.accounts.iter().any(|account| match account.state {
        State::Free | State::Probe => true,
        State::Behind
        | State::Full
        | State::Probing
        | State::Disabled
        | State::Drained
        | State::Paced
        | State::Cooling
        | State::Removed => false,
    });
    let bound = lines.iter_mut().find(|line| {
        line.bound && line.against.is_empty() && !(line.account.state == State::Behind && others)
    });
    let next = if let Some(bound) = bound {
        bound.chance = 1.0;
        Next::Bound(bound.account.id.clone())
    } else {
        let mut free = Vec::new();
        for line in &lines {
            if line.against.is_empty() {
                free.push((line.account.id.as_str(), line.account.rank()));
            }
        }
        let mut chances = chances(&free, question.random).into_iter();
        for line in &mut lines {
            if line.against.is_empty() {
                line.chance = chances.next().unwrap_or(0.0);
            }
        }
        if free.is_empty() {
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
    let mut say = |parts: &[&str]| reasons.push(parts.concat());
    if account.state == State::Removed {
        say(&["no longer configured, its last leases finish"]);
    }
    let out_of_use = account.out_of_use();
    if account.flags & DISABLED != 0 && !account.is_off_for_good() {
        let by_operator = account
            .set
            .as_ref()
            .is_some_and(|set| set.enabled == Some(false));
        let by = if by_operator {
            "by an operator"
        } else {
            "in the configuration"
        };
        say(&["disabled ", by]);
    }
    if account.flags & DRAINED != 0 {
        say(&["drained by an operator"]);
    }
    if let Some(why) = &out_of_use {
        say(&[why]);
    } else if account.state == State::Paced {
        let left = duration(account.cooling_ms);
        say(&[
            "out of pace (",
            &account.pace,
            "), its next turn comes in ",
            &left,
        ]);
    } else if account.cooling_ms > 0 {
        say(&["cooling for ", &duration(account.cooling_ms), " more"]);
    }
    let mut left_ms = 0;
    for (id, until_ms) in &question.scope_until_ms {
        if *id == account.id {
            left_ms = until_ms.saturating_sub(now_ms);
        }
    }
    if let (Some(scope), true) = (&question.scope, left_ms > 0) {
        let left = duration(left_ms);
        say(&["cooling for ", &left, " more in scope ", &quoted(scope)]);
    }
    if account.state == State::Probing {
        say(&["it has cooled, and a probe is under way"]);
    }
    if account.used >= account.max {
        let (used, max) = (account.used.to_string(), account.max.to_string());
        let adapts = match account.adapts_up_to {
            Some(most) => [", a limit that adapts up to ", &most.to_string()].concat(),
            None => String::new(),
        };
        say(&[&used, " of ", &max, " slots used", &adapts]);
    }
    reasons
}

impl Explained<'_> {
    /// As both show it.
    pub fn write(&self, json: &mut Json) {
        let pool = self.pool;
        json.raw("{").name("pool").text(&pool.name);
        json.name("redis_time_ms").number(pool.now_ms);
        json.name("revision").number(pool.revision);
        json.name("percent_override").percent(pool.percent);
        json.name("expired_leases").number(pool.expired);
        pool.write_queue(json);
        json.name("session");
        match &self.question.session {
            None => json.raw("null"),
            Some((_, bound)) => {
                let stays = self.lines.iter().any(|line| line.bound && line.keeps);
                json.raw("{")
                    .name("bound_to")
                    .text_or_null(bound.as_deref());
                json.name("stays_bound").flag(stays).raw("}")
            }
        };
        let (outcome, account) = match &self.next {
            Next::Bound(account) => ("bound", Some(account.as_str())),
            Next::Score => ("score", None),
            Next::Saturated => ("saturated", None),
        };
        json.name("next").raw("{").name("outcome").text(outcome);
        json.name("account").text_or_null(account).raw("}");
        json.name("accounts").raw("[");
        for line in &self.lines {
            line.write(json, self.question.random);
        }
        json.raw("]").raw("}");
    }
}

impl Line<'_> {
    fn write(&self, json: &mut Json, random: u64) {
        let account = self.account;
        let lowest = account.score();
        account.write(json);
        json.name("score").raw("{").name("priority");
        json.millionths(account.priority_part).name("load");
        json.millionths(account.load_part).name("random").raw("[");
        json.millionths(0).millionths(random).raw("]").name("sum");
        json.raw("[").millionths(lowest);
        json.millionths(lowest.saturating_add(random))
            .raw("]")
            .raw("}");
        json.name("bound").flag(self.bound);
        json.name("can_take").flag(self.against.is_empty());
        json.name("against").raw("[");
        for reason in &self.against {
            json.text(reason);
        }
        json.raw("]").name("chance").share(self.chance).raw("}");
    }
}
