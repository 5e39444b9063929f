//! Another account within the same request: what each of its tries brings about.
//!
//! The host tells of a try three times: it begins, it is answered, it ends. A refusal tells Envoy to try again, and the try
//! after it asks the ledger for another account's slot before it goes out.

use super::command::AcquireKind;
use super::context::Context;
use super::counters::Counter;
use super::notice::Notice;
use super::parts::Parts;
use super::request::{Probe, Request, RequestId, Tries, TryEnd};
use super::requests::Requests;
use crate::request::admission::{Event, Phase};
use crate::request::headers::Headers;
use crate::request::verdict::{Refused, Verdict};
use crate::upstream::answer::{Meaning, Status, may_mean, meaning};
use crate::upstream::failing::Source;

/// What a try that begins must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Go out at once, with the account that the request holds.
    Go,
    /// Wait for the answer that is on its way.
    Wait,
    /// Ask for another account of this pool.
    Ask(usize),
}

impl Requests {
    /// The accounts that a request has tried, by their index.
    pub(super) fn tried(&self, slot: usize) -> &[u32] {
        let tries = self.slab.get(slot).and_then(|one| one.tries.as_deref());
        tries.map_or(&[], |tries| &tries.tried)
    }

    fn tries(&mut self, id: RequestId) -> Option<&mut Tries> {
        let request = self.slab.get_mut(id.slot);
        let request = request.filter(|request| request.stream == id.stream)?;
        Some(request.tries.get_or_insert_default())
    }

    /// Whether an answer of this status may be a refusal, for a request that may try another account.
    pub(super) fn may_refuse(&self, cx: &Context, id: RequestId, status: Status) -> bool {
        let request = self.get(id);
        let holds = request.is_some_and(|request| request.phase.holds().is_some());
        holds && cx.config.failover.is_on() && may_mean(&cx.config, status, &Meaning::is_refusal)
    }

    /// Why a request tries no other account; `None`: it does.
    fn tries_no_more(&self, cx: &Context, request: &Request) -> Option<Counter> {
        let failover = cx.config.failover;
        let tried = request.tries.as_ref().map_or(0, |tries| tries.tried.len());
        let age_us = cx.now_us.saturating_sub(request.came_us);
        if tried.saturating_add(1) >= failover.max_attempts {
            Some(Counter::FailoverExhausted)
        } else if age_us / 1000 >= failover.budget_ms {
            Some(Counter::FailoverOverBudget)
        } else {
            None
        }
    }

    /// An account refused a try. Returns whether Envoy should try again.
    pub(super) fn on_refused(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        status: u16,
        refused: Refused,
    ) -> bool {
        let Some(request) = self.get(id) else {
            return false;
        };
        let (pool, number) = (request.pool, request.number);
        let over = self.tries_no_more(cx, request);
        if let Some((_, account)) = request.phase.holds() {
            self.note_try(cx, (pool, number), account, Some(status));
        }
        if let Some(tries) = self.tries(id) {
            tries.judged = true;
            tries.ended = over.is_none().then_some(TryEnd::Refused);
            tries.refused = Some(refused);
        }
        if let Some(why) = over {
            self.count_outcome(cx, id, why);
        }
        over.is_none()
    }

    /// Counts what came of a request that an account refused or did not answer, once.
    fn count_outcome(&mut self, cx: &mut Context, id: RequestId, outcome: Counter) {
        let pool = self.get(id).and_then(|request| request.pool);
        let tries = self.tries(id);
        if tries.is_some_and(|tries| !std::mem::replace(&mut tries.counted, true)) {
            cx.count_in(pool, outcome);
        }
    }

    /// Envoy tries a request that got no answer again, and it may try no other account: it goes out with the one that it has.
    fn goes_again(&mut self, cx: &mut Context, id: RequestId, why: Counter) {
        let Some(request) = self.get(id) else {
            return;
        };
        let (pool, number) = (request.pool, request.number);
        let Some((_, account)) = request.phase.holds() else {
            return;
        };
        self.note_try(cx, (pool, number), account, None);
        if let Some(pool) = pool {
            self.count_failure(cx, (id.slot, pool), account);
        }
        if let Some(tries) = self.tries(id) {
            tries.ended = None;
        }
        self.count_outcome(cx, id, why);
    }

    /// What a try that begins must do. `context` is the host's number of it.
    fn turn(&mut self, cx: &mut Context, id: RequestId, context: u32) -> Turn {
        let Some(request) = self.get(id).filter(|request| request.tries.is_some()) else {
            return Turn::Go;
        };
        let (phase, pool) = (request.phase, request.pool);
        let over = self.tries_no_more(cx, request);
        let Some(tries) = self.tries(id) else {
            return Turn::Go;
        };
        let turn = match (phase, tries.ended) {
            // One that has no slot must not go out, whatever Envoy's retry policy says.
            (Phase::Acquiring { .. } | Phase::Waiting { .. } | Phase::Rejected(_), _) => Turn::Wait,
            (Phase::Holding { .. }, Some(TryEnd::Refused)) => pool.map_or(Turn::Go, Turn::Ask),
            (Phase::Holding { .. }, Some(TryEnd::Unanswered)) if over.is_none() => {
                pool.map_or(Turn::Go, Turn::Ask)
            }
            // It was granted while no try was there.
            (Phase::Holding { account, .. }, _)
                if !tries.tried.is_empty() && tries.has_headers_of != Some(account) =>
            {
                Turn::Wait
            }
            (Phase::Idle | Phase::Holding { .. } | Phase::Traditional(_) | Phase::Done, _) => {
                Turn::Go
            }
        };
        tries.waits = (turn != Turn::Go).then_some(context);
        let is_unanswered = tries.ended == Some(TryEnd::Unanswered);
        if let (Turn::Go, true, Some(why)) = (turn, is_unanswered, over) {
            self.goes_again(cx, id, why);
        }
        turn
    }

    /// Gives a try the verdict that was reached while none was there.
    fn repeat_verdict(&mut self, id: RequestId) {
        let Some(request) = self.get(id) else {
            return;
        };
        let pool = request.pool;
        let verdict = match request.phase {
            Phase::Holding {
                lease,
                account,
                path,
            } => Verdict::Forward {
                path,
                reason: None,
                pool,
                holds: Some((lease, account)),
            },
            Phase::Rejected(reason) => Verdict::Exhausted {
                pool,
                reason,
                retry_after_ms: None,
            },
            Phase::Idle
            | Phase::Acquiring { .. }
            | Phase::Waiting { .. }
            | Phase::Traditional(_)
            | Phase::Done => return,
        };
        self.answer(id, verdict);
    }

    /// A request leaves its account for another one: what was known of its lease is over.
    fn leave_account(&mut self, cx: &mut Context, id: RequestId) {
        let Some(request) = self.get(id) else {
            return;
        };
        let (pool, number) = (request.pool, request.number);
        let Some((_, account)) = request.phase.holds() else {
            return;
        };
        let Some(tries) = self.tries(id) else {
            return;
        };
        let unanswered = tries.ended.take() == Some(TryEnd::Unanswered);
        tries.judged = false;
        tries.tried.push(account);
        if let (true, Some(pool)) = (unanswered, pool) {
            self.note_try(cx, (Some(pool), number), account, None);
            self.count_failure(cx, (id.slot, pool), account);
        }
        self.decisions.reopen(number, pool);
    }

    /// Until when a request that has tried an account may wait for another one, in ms; `None`: as long as any.
    pub(super) fn waits_until_ms(&self, cx: &Context, slot: usize) -> Option<u64> {
        let request = self.slab.get(slot)?;
        let age_ms = cx.now_us.saturating_sub(request.came_us) / 1000;
        let left_ms = cx.config.failover.budget_ms.saturating_sub(age_ms);
        request
            .is_later_try()
            .then_some(cx.now_ms.saturating_add(left_ms))
    }

    /// A new lease is asked for.
    fn begin_lease(&mut self, slot: usize) {
        if let Some(request) = self.slab.get_mut(slot) {
            request.acquire_sent = false;
            request.epoch = 0;
            request.lost = false;
            request.probe = Probe::No;
        }
    }

    /// A try is over without an answer.
    pub(super) fn on_try_unanswered(&mut self, cx: &Context, id: RequestId, context: u32) {
        let Some(request) = self.get(id) else {
            return;
        };
        let holds = request.phase.holds().is_some();
        if request.tries.is_none() && !(holds && cx.config.failover.is_on()) {
            return;
        }
        if let Some(tries) = self.tries(id) {
            if tries.waits == Some(context) {
                tries.waits = None;
            } else if holds {
                tries.ended.get_or_insert(TryEnd::Unanswered);
            }
        }
    }

    /// A request that tried more than one account, or was refused, has its answer. Returns whether that was judged already.
    pub(super) fn on_last_answer(&mut self, cx: &mut Context, id: RequestId, status: u16) -> bool {
        let Some(request) = self.get(id) else {
            return false;
        };
        let Some(tries) = request.tries.as_deref() else {
            return false;
        };
        let (pool, judged, ended) = (request.pool, tries.judged, tries.ended);
        let is_later = request.is_later_try();
        let holds = request.phase.holds();
        if judged && ended == Some(TryEnd::Refused) {
            self.count_outcome(cx, id, Counter::FailoverNotRetried);
            if let Some(pool) = pool {
                let name = cx.pool_name(pool);
                if self.not_retried.is_news(cx.now_ms, NOT_RETRIED_MS, &pool) {
                    cx.notice(Notice::NotRetried { pool: name });
                }
            }
        } else if !judged && is_later && ended.is_none() && status < 500 {
            self.count_outcome(cx, id, Counter::FailoverServed);
        } else if !judged && ended == Some(TryEnd::Unanswered) && is_later {
            if let Some(((_, account), pool)) = holds.zip(pool) {
                refused(cx, pool, account);
            }
            self.count_outcome(cx, id, Counter::FailoverExhausted);
        }
        judged
    }

    /// Envoy gave up on a request while it waited for its next account.
    pub(super) fn on_answer_between(&mut self, cx: &mut Context, id: RequestId) {
        let request = self.get(id).filter(|request| request.is_later_try());
        let waits = request.is_some_and(|request| {
            matches!(
                request.phase,
                Phase::Acquiring { .. } | Phase::Waiting { .. }
            )
        });
        if waits {
            self.count_outcome(cx, id, Counter::FailoverExhausted);
        }
    }

    /// Counts a try that an account refused or did not answer, and notes it in the decision log.
    fn note_try(
        &mut self,
        cx: &mut Context,
        (pool, number): (Option<usize>, u32),
        account: u32,
        status: Option<u16>,
    ) {
        if let Some(pool) = pool {
            refused(cx, pool, account);
        }
        self.decisions.add_try(cx.now_ms, number, account, status);
    }
}

/// Counts a try that an account refused or did not answer.
fn refused(cx: &mut Context, pool: usize, account: u32) {
    cx.change_table(pool, |table| table.refused(account));
}

/// How long it is not said again that a refused request was not tried again, in ms.
const NOT_RETRIED_MS: u64 = 600_000;

impl Parts {
    /// A try begins. Returns whether it goes out at once; else it waits, and gets its verdict like a paused request.
    pub(super) fn on_try(&mut self, id: RequestId, context: u32) -> bool {
        match self.requests.turn(&mut self.cx, id, context) {
            Turn::Go => return true,
            Turn::Wait => self.requests.repeat_verdict(id),
            Turn::Ask(pool) => self.ask_again(id, pool),
        }
        false
    }

    /// Gives the account back and asks for another one.
    fn ask_again(&mut self, id: RequestId, pool: usize) {
        self.requests.leave_account(&mut self.cx, id);
        // Ahead of the acquire: what the account did is known first.
        self.send_commands();
        match self.available() {
            Err(reason) => self.settle(id.slot, Event::TriesNoMore(reason)),
            Ok(()) => {
                let lease = self.requests.mint_for(id.slot);
                self.step(id.slot, Event::TriesAgain { lease });
                self.requests.begin_lease(id.slot);
                let kind = AcquireKind::Take;
                let acquire = self.requests.acquire(&self.cx, pool, id.slot, lease, kind);
                self.acquires.push_with_deadline(&self.cx, acquire);
            }
        }
    }

    /// A try of a request was answered with this status, which may be a refusal ([`Requests::may_refuse`]). Returns whether Envoy
    /// should try again.
    pub(super) fn on_try_answered(
        &mut self,
        id: RequestId,
        status: Status,
        headers: Headers,
        now_unix_s: u64,
    ) -> bool {
        if !meaning(&self.cx.config, status, headers).is_refusal() {
            return false;
        }
        let refused = Refused::new(status.judged().into(), headers);
        let answer = (Source::Upstream, status);
        self.requests
            .on_response(&mut self.cx, id, answer, headers, now_unix_s);
        let status = status.judged();
        let again = self.requests.on_refused(&mut self.cx, id, status, refused);
        self.send_commands();
        again
    }
}
