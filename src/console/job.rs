//! Jobs: what the console asks Redis for its requests, step by step, and what the replies mean to them.

use super::api::{Ask, Recall, Response, account_changed, account_refused, changed};
use crate::hash::hash128;
use crate::json::Json;
use crate::ledger::commands::LedgerCommands;
use crate::ledger::explain::{Question, explain};
use crate::ledger::fault::{Fault, garbage};
use crate::ledger::keys::session_account;
use crate::ledger::resp::{Value, Values};
use crate::ledger::source::ScriptRef;
use crate::ledger::view::{Pool, text};
use crate::printable::ascii;

/// How many accounts of a pool are shown at most.
const MOST_ACCOUNTS: usize = 5_000;
/// How many accounts a pool may have to be shown with their counters: a filter has no more one by one (`metrics.max_accounts`).
const MOST_COUNTED: usize = 64;
/// How often, and for how long, the console checks for the answer to a question, in ms: workers poll once per
/// `control.poll_ms`.
const RECALL_MS: (u64, u64) = (150, 2_500);

/// Accounts in one page of `inspect`: Redis does nothing else meanwhile.
const PAGE: u64 = 100;
/// How long the question itself is kept, in ms.
const QUESTION_MS: u64 = 5_000;

/// The streams that get a job's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// All who share the poll that is under way.
    Poll,
    Stream(u32),
}

/// The work that one request, or all that share a poll, needs of Redis.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) owner: Owner,
    /// When the answer to a question is read again.
    pub(super) deadline_ms: Option<u64>,
    /// Its command is on its way, or was: Redis may have done it.
    pub(super) sent: bool,
    pub(super) wants: Wants,
    /// A poll: the pool that is read; else the one that is asked for.
    pub(super) pool: usize,
    /// Where its scan goes on, and what it brought so far.
    pub(super) cursor: String,
    pub(super) seen: Pool,
    pub(super) question: Question,
    /// The value of the key that holds the session. Whether the session is over is known with the pool's time.
    pub(super) sessions: Vec<u8>,
    pub(super) ask: Option<Ask>,
    /// The answer as far as it is written.
    pub(super) json: Json,
    /// A poll: the accounts whose counters are shown next, by the index of their pool.
    pub(super) shown: Vec<(usize, String)>,
}

/// What a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// All pools, one after the other.
    Poll,
    Explain(Part),
    /// One change.
    Change,
    /// A worker's answer to a question.
    Recall(Step),
}

/// How far an explanation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Another scan is under way, or must not begin yet.
    Turn,
    /// The session's account, the scope's cooldowns, and then all accounts.
    Session,
    Scope,
    Accounts,
}

/// How far a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is put into Redis.
    Put,
    /// The answer's key is read; for the last time when the time is over, in ms.
    Read { until_ms: u64 },
    /// Nothing is under way until the job's deadline.
    Rest { until_ms: u64 },
}

impl Job {
    pub(super) fn changes(&self) -> bool {
        self.sent && self.wants == Wants::Change
    }

    /// Only one at a time reads accounts.
    pub(super) fn scans(&self) -> bool {
        match self.wants {
            Wants::Poll | Wants::Explain(Part::Session | Part::Scope | Part::Accounts) => true,
            Wants::Explain(Part::Turn) | Wants::Change | Wants::Recall(_) => false,
        }
    }
}

/// What an error says cannot be there.
pub(super) fn what_stands(reply: &[u8]) -> String {
    let said = match Values::new(reply).value() {
        Some(Value::Error(error)) => garbage(error),
        Some(_) | None => None,
    };
    ascii(said.unwrap_or(b"a value of another kind"))
}

impl Job {
    pub(super) fn new(owner: Owner, wants: Wants) -> Self {
        Self {
            owner,
            deadline_ms: None,
            sent: false,
            wants,
            pool: 0,
            cursor: String::new(),
            seen: Pool::default(),
            question: Question::default(),
            sessions: Vec::new(),
            ask: None,
            json: Json::default(),
            shown: Vec::new(),
        }
    }

    /// Whether its next step is a command for Redis. Steps that have nothing to ask are passed over.
    pub(super) fn needs_redis(&mut self) -> bool {
        if self.wants == Wants::Explain(Part::Session) && self.question.session.is_none() {
            self.wants = Wants::Explain(Part::Scope);
        }
        if self.wants == Wants::Explain(Part::Scope) && self.question.scope.is_none() {
            self.wants = Wants::Explain(Part::Accounts);
        }
        if let Wants::Recall(Step::Rest { until_ms }) = self.wants {
            self.wants = Wants::Recall(Step::Read { until_ms });
        }
        match self.wants {
            Wants::Explain(Part::Turn) => false,
            Wants::Change => self.ask.is_some(),
            Wants::Poll | Wants::Explain(_) | Wants::Recall(_) => true,
        }
    }

    /// Writes the command of its next step.
    pub(super) fn write(&self, keys: &LedgerCommands, out: &mut Vec<u8>, script: ScriptRef) {
        let hash = |text: Option<&str>| text.map(|text| hash128(text.as_bytes()));
        let question = &self.question;
        match (self.wants, &self.ask) {
            (Wants::Explain(Part::Turn), _) | (Wants::Change, None) => {}
            (Wants::Recall(Step::Put), ask) => {
                let recall = ask.as_ref().and_then(|ask| ask.recall.as_ref());
                let question = recall.map(Recall::question).unwrap_or_default();
                keys.put_question(out, &question, QUESTION_MS);
            }
            (Wants::Recall(Step::Read { .. } | Step::Rest { .. }), _) => keys.read_answer(out),
            (Wants::Explain(Part::Session), _) => {
                let session = question.session.as_ref();
                let hash = hash(session.map(|(session, _)| session.as_str()));
                keys.session(out, &hash.unwrap_or_default());
            }
            (Wants::Explain(Part::Scope), _) => {
                let hash = hash(question.scope.as_deref());
                keys.scope(out, &hash.unwrap_or_default());
            }
            (Wants::Poll | Wants::Explain(Part::Accounts), _) => {
                let cursor = match self.cursor.as_str() {
                    "" => "0",
                    cursor => cursor,
                };
                keys.inspect(out, script, cursor, PAGE);
            }
            (
                Wants::Change,
                Some(Ask {
                    terms: Some((change, terms)),
                    by,
                    ..
                }),
            ) => keys.account(out, script, *change, false, std::slice::from_ref(terms), by),
            (Wants::Change, Some(ask)) => {
                let session = hash(ask.session.as_deref());
                let session = session.as_ref();
                keys.control(out, script, ask.action.1, &ask.subject, session, &ask.by);
            }
        }
    }

    /// What a reply means to it: an answer, or `None` when it needs more. `pool` is the name of the pool it is at.
    pub(super) fn hear(
        &mut self,
        now_ms: u64,
        pool: &str,
        pools: usize,
        reply: &[u8],
    ) -> Result<Option<Response>, Fault> {
        let mut values = Values::new(reply);
        match self.wants {
            Wants::Explain(Part::Turn) => return Err(Fault::Mismatch),
            Wants::Explain(Part::Session) => {
                match values.value() {
                    Some(Value::Bulk(sessions)) => self.sessions = sessions.to_vec(),
                    Some(Value::Nil) => {}
                    other => return Err(Fault::in_place_of(other)),
                }
                self.wants = Wants::Explain(Part::Scope);
                return Ok(None);
            }
            Wants::Explain(Part::Scope) => {
                match values.value() {
                    Some(Value::Array(_)) => {}
                    other => return Err(Fault::in_place_of(other)),
                }
                while let Some(account) = values.bulk() {
                    let until_ms = values.number().unwrap_or(0);
                    let account = text(account).unwrap_or_default();
                    self.question.scope_until_ms.push((account, until_ms));
                }
                self.wants = Wants::Explain(Part::Accounts);
                return Ok(None);
            }
            Wants::Change => {
                let value = values.value();
                if let Some(ask) = self.ask.as_ref().filter(|ask| ask.terms.is_some()) {
                    if let Some(Value::Error(error)) = value
                        && let Some(refused) = account_refused(&ascii(error))
                    {
                        return Ok(Some(refused));
                    }
                    match (value, values.value()) {
                        (Some(Value::Array(1)), Some(Value::Array(3))) => {}
                        (other, _) => return Err(Fault::in_place_of(other)),
                    }
                    let mut word = || text(values.bulk()?);
                    let words = word().zip(word()).zip(word());
                    let ((what, before), now) = words.ok_or(Fault::Mismatch)?;
                    return Ok(Some(account_changed(ask, pool, [&what, &before, &now])));
                }
                match value {
                    Some(Value::Array(2)) => {}
                    other => return Err(Fault::in_place_of(other)),
                }
                // What stood there before may be anything.
                let mut word = || Some(String::from_utf8_lossy(values.bulk()?).into_owned());
                let both = word().zip(word()).zip(self.ask.as_ref());
                let ((old, new), ask) = both.ok_or(Fault::Mismatch)?;
                return Ok(Some(changed(ask, pool, &old, &new)));
            }
            Wants::Recall(step) => return self.recall(now_ms, step, values.value()),
            Wants::Poll | Wants::Explain(Part::Accounts) => {}
        }
        let mut more = false;
        match self.seen.page(reply) {
            Ok(None) => {}
            Ok(Some(_)) if self.seen.accounts.len() >= MOST_ACCOUNTS => more = true,
            Ok(Some(cursor)) => {
                self.cursor = cursor;
                return Ok(None);
            }
            // No filter has created it so far.
            Err(Fault::NoPool) if self.wants == Wants::Poll => {}
            // The others are shown all the same.
            Err(Fault::Garbage) if self.wants == Wants::Poll => {
                self.seen = Pool::default();
                self.seen.error = Some(what_stands(reply));
            }
            Err(fault) => return Err(fault),
        }
        let mut seen = std::mem::take(&mut self.seen);
        pool.clone_into(&mut seen.name);
        self.cursor.clear();
        if self.wants != Wants::Poll {
            if let Some((session, bound)) = &mut self.question.session {
                let hash = hash128(session.as_bytes());
                *bound = session_account(&self.sessions, &hash, seen.now_ms).and_then(text);
            }
            explain(&seen, &self.question).write(&mut self.json);
        } else {
            seen.write(&mut self.json, more);
            if seen.accounts.len() <= MOST_COUNTED {
                let ids = seen.accounts.iter();
                let ids = ids.map(|account| (self.pool, account.id.clone()));
                self.shown.extend(ids);
            }
            self.pool = self.pool.saturating_add(1);
            if self.pool < pools {
                return Ok(None);
            }
            self.json.raw("]").raw("}");
        }
        Ok(Some(Response::json(std::mem::take(&mut self.json))))
    }

    fn recall(
        &mut self,
        now_ms: u64,
        step: Step,
        value: Option<Value>,
    ) -> Result<Option<Response>, Fault> {
        let (rest_ms, most_ms) = RECALL_MS;
        let ask = self.ask.as_ref();
        let recall = ask.and_then(|ask| ask.recall.as_ref());
        let (recall, until_ms) = match (step, value, recall) {
            (Step::Put, Some(Value::Simple(b"OK")), Some(recall)) => {
                (recall, now_ms.saturating_add(most_ms))
            }
            (Step::Read { until_ms }, Some(Value::Nil), Some(recall)) => (recall, until_ms),
            (Step::Read { until_ms }, Some(Value::Bulk(answer)), Some(recall)) => {
                if let Some(told) = recall.told(answer) {
                    return Ok(Some(told));
                }
                (recall, until_ms)
            }
            (_, other, _) => return Err(Fault::in_place_of(other)),
        };
        if now_ms >= until_ms {
            return Ok(Some(recall.forgotten()));
        }
        self.wants = Wants::Recall(Step::Rest { until_ms });
        self.deadline_ms = Some(now_ms.saturating_add(rest_ms));
        Ok(None)
    }
}
