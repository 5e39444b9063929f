//! `slotgate explain`: why each account would or would not be taken now.

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::server::Server;
use crate::show::{Cell, Lines};
use crate::words::{count, document, percent, text as as_text};
use slotgate::hash::hash128;
use slotgate::ledger::explain::{Explained, Line, Next, Question, explain};
use slotgate::ledger::keys;
use slotgate::ledger::view::quoted;
use slotgate::pool::state::State;
use slotgate::units::{UNIT, millionths};

pub fn run(
    server: &mut Server,
    pool: &str,
    session: Option<&str>,
    scope: Option<&str>,
    random: f64,
) -> Result<Answer, Problem> {
    let snapshot = server.pool(pool)?;
    let mut question = Question {
        scope: scope.map(str::to_owned),
        random: millionths(random),
        ..Question::default()
    };
    if let Some(session) = session {
        let hash = hash128(session.as_bytes());
        let mut key = keys::session_prefix(&server.prefix, pool).into_bytes();
        key.extend(keys::session_digits(&hash));
        let value: Option<Vec<u8>> = server.ask_of(pool, redis::cmd("GET").arg(key))?;
        let value = value.unwrap_or_default();
        let bound = keys::session_account(&value, &hash, snapshot.now_ms);
        let bound = bound.map(|account| String::from_utf8_lossy(account).into_owned());
        question.session = Some((session.to_owned(), bound));
    }
    if let Some(scope) = scope {
        let key = hashed(&keys::scope_prefix(&server.prefix, pool), scope);
        let mut range = redis::cmd("ZRANGE");
        range.arg(key).arg(0).arg(-1).arg("WITHSCORES");
        let untils: Vec<(Vec<u8>, f64)> = server.ask_of(pool, &range)?;
        question.scope_until_ms = untils
            .into_iter()
            .map(|(account, until)| (as_text(&account), until as u64))
            .collect();
    }
    let explained = explain(&snapshot, &question);
    Ok(Answer {
        text: text(&explained),
        json: document(|json| explained.write(json)),
        exit: Exit::Done,
    })
}

/// A key that ends in a hash, as the filter writes it.
fn hashed(prefix: &str, text: &str) -> String {
    hash128(text.as_bytes())
        .iter()
        .fold(prefix.to_owned(), |key, byte| format!("{key}{byte:02x}"))
}

/// A score's part as in the configuration.
fn unit(millionths: u64) -> f64 {
    millionths as f64 / UNIT
}

fn text(explained: &Explained) -> Lines {
    let Explained {
        pool,
        question,
        next,
        lines,
    } = explained;
    let share = match pool.percent {
        Some(set) => format!(", gray {} % by override", percent(set)),
        None => String::new(),
    };
    let mut text = Lines::of(&format!(
        "pool {}, revision {}{share}",
        pool.name, pool.revision
    ));
    let mut rows = vec![
        [
            "account", "state", "used", "priority", "load", "random", "chance", "now",
        ]
        .map(Cell::from)
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
            Cell::from(&account.id),
            account.state.as_str().into(),
            format!("{}/{}", account.used, account.max).into(),
            format!("{:.3}", unit(account.priority_part)).into(),
            format!("+ {:.3}", unit(account.load_part)).into(),
            format!("+ 0..{}", unit(question.random)).into(),
            chance.into(),
            reason(line, next).into(),
        ]);
    }
    text.table(&rows);
    if let Some((session, bound)) = &question.session {
        text.line(&binding(session, bound.as_deref(), lines));
    }
    text.line(&match next {
        Next::Bound(account) => format!("next: {account}, the session's own"),
        Next::Score => "next: the lowest sum wins".to_owned(),
        Next::Saturated => match pool.waiting {
            0 => "next: saturated, so saturated.action: 429, on without a slot, or it waits"
                .to_owned(),
            others => format!(
                "next: saturated, so saturated.action: 429, on without a slot, or it waits behind {}",
                count(others, "other")
            ),
        },
    });
    if *next != Next::Saturated && pool.waiting > 0 {
        text.line(&format!(
            "{} can use none of these now",
            count(pool.waiting, "waiting request")
        ));
    }
    if *next == Next::Saturated && pool.expired > 0 {
        text.line(&format!(
            "{} not cleared away yet: the next request does that first, and may find a slot",
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

/// A sentence about the account that the session is bound to: whether it can be taken now.
fn binding(session: &str, bound: Option<&str>, lines: &[Line]) -> String {
    let session = quoted(session);
    let Some(bound) = bound else {
        return format!("session {session} is bound to no account");
    };
    let line = lines.iter().find(|line| line.bound);
    let fate = match line {
        None => "which is gone: the next lease binds it anew",
        Some(line)
            if line.against.is_empty()
                && (line.chance > 0.0 || line.account.state != State::Behind) =>
        {
            return format!("session {session} is bound to {bound}");
        }
        Some(line) if line.against.is_empty() => {
            "which is behind the others: another serves this request, and the session stays bound"
        }
        Some(line) if line.keeps => {
            "which can't take it now: another serves this request, and the session stays bound"
        }
        Some(_) => "which takes no leases: the next lease binds it anew",
    };
    format!("session {session} is bound to {bound}, {fate}")
}
