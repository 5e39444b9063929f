//! `slotgate explain`: why each account would or would not be taken now.

use crate::Answer;
use crate::chance::chances;
use crate::problem::{Exit, Problem};
use crate::server::{Account, Pool, Server, State};
use crate::show::columns;
use crate::words::{count, duration, percent, quoted};
use serde_json::{Value, json};
use slotgate::gray::hash128;
use slotgate::ledger::keys;
use slotgate::pool::{BEHIND, UNIT};
use std::collections::BTreeMap;

/// The flags of an account's record in `ledger.lua`.
const DISABLED: u64 = 1;
const DRAINED: u64 = 2;

/// What the next acquire would do.
#[derive(Debug, Clone, PartialEq)]
enum Next {
    /// It takes the session's own account.
    Bound(String),
    /// The lowest score wins.
    Score,
    /// No account can take a lease.
    Saturated,
}

/// What is known beside the pool.
struct Question<'a> {
    session: Option<(&'a str, Option<String>)>,
    scope: Option<&'a str>,
    /// How long each account cools in the scope, in ms.
    scope_cooling: BTreeMap<String, u64>,
    /// Full weight of chance.
    random: f64,
}

/// An account and what is to be said of it.
struct Line<'a> {
    account: &'a Account,
    /// Why it can't take a lease; empty: it can.
    against: Vec<String>,
    chance: f64,
    bound: bool,
    /// Whether a session bound to it stays so while it can't be taken: acquire.lua's rule.
    keeps: bool,
}

pub fn run(
    server: &mut Server,
    pool: &str,
    session: Option<&str>,
    scope: Option<&str>,
    random: f64,
) -> Result<Answer, Problem> {
    let snapshot = server.pool(pool)?;
    let session = match session {
        None => None,
        Some(session) => {
            let key = hashed(&keys::session_prefix(&server.prefix, pool), session);
            Some((session, server.ask(redis::cmd("GET").arg(key))?))
        }
    };
    let mut scope_cooling = BTreeMap::new();
    if let Some(scope) = scope {
        let key = hashed(&keys::scope_prefix(&server.prefix, pool), scope);
        let mut range = redis::cmd("ZRANGE");
        range.arg(key).arg(0).arg(-1).arg("WITHSCORES");
        let untils: Vec<(String, f64)> = server.ask(&range)?;
        for (account, until) in untils {
            let left = (until as u64).saturating_sub(snapshot.now_ms);
            if left > 0 {
                scope_cooling.insert(account, left);
            }
        }
    }
    let question = Question {
        session,
        scope,
        scope_cooling,
        random,
    };
    let flags = flags(server, &snapshot)?;
    let (next, lines) = judge(&snapshot, &question, &flags);
    Ok(Answer {
        text: text(&snapshot, &question, &next, &lines),
        json: answer(&snapshot, &question, &next, &lines),
        exit: Exit::Done,
    })
}

/// A key that ends in a hash, as the filter writes it.
fn hashed(prefix: &str, text: &str) -> String {
    hash128(text.as_bytes())
        .iter()
        .fold(prefix.to_owned(), |key, byte| format!("{key}{byte:02x}"))
}

/// `inspect` names one reason for each account; the records of those it holds back name all.
fn flags(server: &mut Server, pool: &Pool) -> Result<BTreeMap<String, u64>, Problem> {
    let held: Vec<&str> = pool
        .accounts
        .iter()
        .filter(|account| match account.state {
            State::Free | State::Behind | State::Full | State::Probe | State::Probing => false,
            State::Disabled | State::Drained | State::Cooling | State::Removed => true,
        })
        .map(|account| account.id.as_str())
        .collect();
    let mut flags = BTreeMap::new();
    for page in held.chunks(500) {
        let key = keys::key(&server.prefix, &pool.name, "accounts");
        let records: Vec<Option<String>> = server.ask(redis::cmd("HMGET").arg(key).arg(page))?;
        for (id, record) in page.iter().zip(records) {
            let last = record
                .as_deref()
                .and_then(|record| record.rsplit(' ').next()?.parse().ok());
            flags.insert((*id).to_owned(), last.unwrap_or(0));
        }
    }
    Ok(flags)
}

fn judge<'a>(
    pool: &'a Pool,
    question: &Question,
    flags: &BTreeMap<String, u64>,
) -> (Next, Vec<Line<'a>>) {
    let bound_to = question
        .session
        .as_ref()
        .and_then(|(_, bound)| bound.as_deref());
    let mut lines: Vec<Line> = pool
        .accounts
        .iter()
        .map(|account| {
            let flags = flags.get(&account.id).copied().unwrap_or(0);
            Line {
                account,
                against: against(account, question, flags),
                chance: 0.0,
                bound: bound_to == Some(account.id.as_str()),
                keeps: match account.state {
                    State::Free | State::Behind | State::Full | State::Probe | State::Probing => {
                        true
                    }
                    State::Cooling => flags & (DISABLED | DRAINED) == 0,
                    State::Disabled | State::Drained | State::Removed => false,
                },
            }
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
        | State::Cooling
        | State::Removed => false,
    });
    let bound = lines.iter_mut().find(|line| {
        line.bound && line.against.is_empty() && !(line.account.state == State::Behind && others)
    });
    if let Some(bound) = bound {
        bound.chance = 1.0;
        return (Next::Bound(bound.account.id.clone()), lines);
    }
    let free: Vec<(&str, u64)> = lines
        .iter()
        .filter(|line| line.against.is_empty())
        .map(|line| (line.account.id.as_str(), rank(line.account)))
        .collect();
    if free.is_empty() {
        return (Next::Saturated, lines);
    }
    let chances = chances(&free, question.random * UNIT);
    let free = lines.iter_mut().filter(|line| line.against.is_empty());
    for (line, chance) in free.zip(chances) {
        line.chance = chance;
    }
    (Next::Score, lines)
}

/// Without its random part.
fn score(account: &Account) -> u64 {
    account.priority_part.saturating_add(account.load_part)
}

/// What accounts are chosen by.
fn rank(account: &Account) -> u64 {
    let last = if account.state == State::Behind {
        BEHIND as u64
    } else {
        0
    };
    score(account).saturating_add(last)
}

/// Every reason why it can't take a lease.
fn against(account: &Account, question: &Question, flags: u64) -> Vec<String> {
    let mut reasons = Vec::new();
    if account.state == State::Removed {
        reasons.push("no longer configured, its last leases finish".to_owned());
    }
    if flags & DISABLED != 0 || account.state == State::Disabled {
        reasons.push("disabled in the configuration".to_owned());
    }
    if flags & DRAINED != 0 || account.state == State::Drained {
        reasons.push("drained by an operator".to_owned());
    }
    if account.cooling_ms > 0 {
        reasons.push(format!("cooling for {} more", duration(account.cooling_ms)));
    }
    if let (Some(scope), Some(left)) = (question.scope, question.scope_cooling.get(&account.id)) {
        reasons.push(format!(
            "cooling for {} more in scope {}",
            duration(*left),
            quoted(scope)
        ));
    }
    if account.state == State::Probing {
        reasons.push("it has cooled, and a probe is under way".to_owned());
    }
    if account.used >= account.max {
        reasons.push(format!("{} of {} slots used", account.used, account.max));
    }
    reasons
}

/// A score's part as in the configuration.
fn unit(millionths: u64) -> f64 {
    millionths as f64 / UNIT
}

fn text(pool: &Pool, question: &Question, next: &Next, lines: &[Line]) -> String {
    let share = match pool.percent {
        Some(set) => format!(", gray {} % by override", percent(set)),
        None => String::new(),
    };
    let mut text = format!("pool {}, revision {}{share}\n", pool.name, pool.revision);
    let mut rows = vec![
        [
            "account", "state", "used", "priority", "load", "random", "chance", "now",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for line in lines {
        let account = line.account;
        let chance = if line.against.is_empty() {
            format!("{:.1} %", line.chance * 100.0)
        } else {
            "–".to_owned()
        };
        rows.push(vec![
            account.id.clone(),
            account.state.as_str().to_owned(),
            format!("{}/{}", account.used, account.max),
            format!("{:.3}", unit(account.priority_part)),
            format!("+ {:.3}", unit(account.load_part)),
            format!("+ 0..{}", question.random),
            chance,
            reason(line, next),
        ]);
    }
    text.push_str(&columns(&rows));
    if let Some((session, bound)) = &question.session {
        text.push_str(&binding(session, bound.as_deref(), lines));
    }
    text.push_str(&match next {
        Next::Bound(account) => format!("next: {account}, the session's own\n"),
        Next::Score => "next: the lowest sum wins\n".to_owned(),
        Next::Saturated => {
            "next: saturated, so saturated.action: 429, or on without a slot\n".to_owned()
        }
    });
    if *next == Next::Saturated && pool.expired > 0 {
        text.push_str(&format!(
            "{} not cleared away yet: the next request does that first, and may find a slot\n",
            count(pool.expired, "expired lease")
        ));
    }
    text
}

fn reason(line: &Line, next: &Next) -> String {
    if !line.against.is_empty() {
        return format!("no: {}", line.against.join("; "));
    }
    match next {
        Next::Bound(_) if line.bound => "yes: the session is bound to it".to_owned(),
        Next::Bound(account) => format!("no: the session goes to {account}"),
        Next::Score if line.chance == 0.0 && line.account.state == State::Behind => {
            "no: it failed too often, and others can take it".to_owned()
        }
        Next::Score if line.chance == 0.0 => "no: another's sum is always lower".to_owned(),
        Next::Score if line.chance > 0.999_999 => "yes: no other's sum can be lower".to_owned(),
        Next::Score => "if its sum is the lowest".to_owned(),
        Next::Saturated => String::new(),
    }
}

/// What the session's binding means now.
fn binding(session: &str, bound: Option<&str>, lines: &[Line]) -> String {
    let session = quoted(session);
    let Some(bound) = bound else {
        return format!("session {session} is bound to no account\n");
    };
    let line = lines.iter().find(|line| line.bound);
    let fate = match line {
        None => "which is gone: the next lease binds it anew",
        Some(line)
            if line.against.is_empty()
                && (line.chance > 0.0 || line.account.state != State::Behind) =>
        {
            return format!("session {session} is bound to {bound}\n");
        }
        Some(line) if line.against.is_empty() => {
            "which is behind the others: another serves this request, and the session stays bound"
        }
        Some(line) if line.keeps => {
            "which can't take it now: another serves this request, and the session stays bound"
        }
        Some(_) => "which takes no leases: the next lease binds it anew",
    };
    format!("session {session} is bound to {bound}, {fate}\n")
}

fn answer(pool: &Pool, question: &Question, next: &Next, lines: &[Line]) -> Value {
    let accounts: Vec<Value> = lines
        .iter()
        .map(|line| {
            let account = line.account;
            let lowest = unit(score(account));
            json!({
                "id": account.id,
                "state": account.state.as_str(),
                "used": account.used,
                "max_concurrency": account.max,
                "cooling_ms": account.cooling_ms,
                "score": {
                    "priority": unit(account.priority_part),
                    "load": unit(account.load_part),
                    "random": [0.0, question.random],
                    "sum": [lowest, lowest + question.random],
                },
                "bound": line.bound,
                "can_take": line.against.is_empty(),
                "against": line.against,
                "chance": line.chance,
            })
        })
        .collect();
    let (outcome, account) = match next {
        Next::Bound(account) => ("bound", Some(account)),
        Next::Score => ("score", None),
        Next::Saturated => ("saturated", None),
    };
    let session = question.session.as_ref().map(|(_, bound)| {
        let stays = lines.iter().any(|line| line.bound && line.keeps);
        json!({"bound_to": bound, "stays_bound": stays})
    });
    json!({
        "pool": pool.name,
        "redis_time_ms": pool.now_ms,
        "revision": pool.revision,
        "percent_override": pool.percent.map(percent),
        "expired_leases": pool.expired,
        "session": session,
        "next": {"outcome": outcome, "account": account},
        "accounts": accounts,
    })
}
