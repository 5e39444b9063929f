//! The operator's overrides: each pool's key is polled, and what it holds is put in force.

use super::command::Command;
use super::context::Context;
use super::counters::Counter;
use super::notice::{Ignored, Notice};
use crate::ledger::commands::{self, Override, Overrides as InLedger};
use crate::ledger::fault::Fault;
use crate::pool::state::State;

/// How many polls are on their way at once: with many pools, all of them at once would delay every acquire.
const MOST_POLLS: usize = 8;

/// When a pool is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Poll {
    /// No request came by so far.
    #[default]
    Never,
    /// At this time, in ms.
    Due(u64),
    /// The poll is on its way.
    Sent,
}

/// The overrides in force in a pool. They stay so while Redis is away.
#[derive(Debug, Default)]
struct Control {
    poll: Poll,
    /// In basis points; `None`: as configured.
    percent: Option<u16>,
    /// Ids with a space between.
    drained: String,
    /// Of how many accounts an operator says otherwise than a configuration.
    accounts_set: u64,
    /// What the last poll had to ignore, so that it is said once: the percentage, the drains.
    ignored: [Option<Ignored>; 2],
    /// The last question, answered or not ours to answer.
    question: Vec<u8>,
}

/// The overrides of all pools.
#[derive(Debug)]
pub(super) struct Overrides {
    pools: Vec<Control>,
    /// When the next poll is due, in ms; `None` before the first request.
    due_ms: Option<u64>,
    under_way: usize,
}

impl Overrides {
    pub(super) fn new(pools: usize) -> Self {
        Self {
            pools: (0..pools).map(|_| Control::default()).collect(),
            due_ms: None,
            under_way: 0,
        }
    }

    /// When a poll is due, in ms, while the pipe serves.
    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        self.due_ms.filter(|_| self.under_way < MOST_POLLS)
    }

    /// The percentage set for a pool, in basis points.
    pub(super) fn percent(&self, pool: usize) -> Option<u16> {
        self.pools.get(pool)?.percent
    }

    /// Of how many of a pool's accounts an operator says otherwise than its configuration.
    pub(super) fn accounts_set(&self, pool: usize) -> u64 {
        self.pools
            .get(pool)
            .map_or(0, |control| control.accounts_set)
    }

    /// A request of a pool came. Returns whether the pool is polled from now on, which needs the pipe.
    pub(super) fn begin(&mut self, cx: &Context, pool: usize) -> bool {
        let control = self.pools.get_mut(pool);
        let Some(control) = control.filter(|control| control.poll == Poll::Never) else {
            return false;
        };
        if cx.config.poll_ms == 0 {
            return false;
        }
        control.poll = Poll::Due(cx.now_ms);
        self.due_ms = Some(cx.now_ms);
        true
    }

    /// The pipe is ready: every pool that was polled before is polled at once.
    pub(super) fn on_ready(&mut self, cx: &mut Context) {
        for control in &mut self.pools {
            if control.poll != Poll::Never {
                control.poll = Poll::Due(cx.now_ms);
            }
        }
        self.due_ms = Some(cx.now_ms);
        self.under_way = 0;
        self.on_tick(cx);
    }

    /// Polls every pool that has had a request when that is due.
    pub(super) fn on_tick(&mut self, cx: &mut Context) {
        if cx.config.poll_ms == 0 {
            (0..cx.pools.len()).for_each(|pool| end_rests_by_clock(cx, pool));
        }
        if self.due_ms.is_none_or(|due_ms| due_ms > cx.now_ms) {
            return;
        }
        self.due_ms = None;
        for (pool, control) in self.pools.iter_mut().enumerate() {
            match control.poll {
                Poll::Due(due_ms) if due_ms <= cx.now_ms && self.under_way < MOST_POLLS => {
                    control.poll = Poll::Sent;
                    self.under_way = self.under_way.saturating_add(1);
                    cx.commands.push_back(Command::Poll { pool });
                }
                Poll::Due(due_ms) => self.due_ms = earlier(self.due_ms, due_ms),
                Poll::Never | Poll::Sent => {}
            }
        }
    }

    fn plan_next(&mut self, cx: &Context, pool: usize, sent_ms: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        let due_ms = cx.now_ms.max(sent_ms.saturating_add(cx.config.poll_ms));
        if let Some(control) = self.pools.get_mut(pool) {
            control.poll = Poll::Due(due_ms);
            self.due_ms = earlier(self.due_ms, due_ms);
        }
    }

    /// A poll was answered. Returns the question about a request that it brought, if it is a new one.
    pub(super) fn on_reply(
        &mut self,
        cx: &mut Context,
        pool: usize,
        sent_ms: u64,
        reply: &[u8],
    ) -> Result<Option<Vec<u8>>, Fault> {
        let polled = commands::overrides(reply)?;
        self.plan_next(cx, pool, sent_ms);
        self.note_ignored(
            cx,
            pool,
            [
                (polled.percent == Override::Malformed).then_some(Ignored::Percent),
                polled.drained.is_none().then_some(Ignored::Drained),
            ],
        );
        let said = cx.output.notices.len();
        self.apply_overrides(cx, pool, &polled);
        if cx.output.notices.len() > said {
            cx.output.overrides.push((pool, reply.to_vec()));
        }
        cx.change_table(pool, |table| table.see(polled.seen()));
        end_rests(cx, pool, sent_ms, &polled);
        let Some(control) = self.pools.get_mut(pool) else {
            return Ok(None);
        };
        if polled.question == control.question.as_slice() {
            return Ok(None);
        }
        control.question = polled.question.to_vec();
        Ok(Some(polled.question.to_vec()))
    }

    /// A poll failed, and is not repeated at once.
    pub(super) fn on_failed(&mut self, cx: &mut Context, pool: usize, sent_ms: u64, fault: Fault) {
        self.plan_next(cx, pool, sent_ms);
        // Any other is of the moment, and counted.
        if matches!(
            fault,
            Fault::Unknown | Fault::Garbage | Fault::Denied | Fault::Forbidden
        ) {
            self.note_ignored(cx, pool, [Some(Ignored::All), None]);
        }
    }

    fn note_ignored(&mut self, cx: &mut Context, pool: usize, ignored: [Option<Ignored>; 2]) {
        let Some(control) = self.pools.get_mut(pool) else {
            return;
        };
        let before = std::mem::replace(&mut control.ignored, ignored);
        for (what, before) in ignored.into_iter().zip(before) {
            let Some(what) = what else { continue };
            cx.count_in(pool, Counter::ControlIgnored);
            if before != Some(what) {
                let pool = cx.pool_name(pool);
                cx.notice(Notice::Ignored { pool, what });
            }
        }
    }

    /// Puts the overrides in force, and says what that changed.
    fn apply_overrides(&mut self, cx: &mut Context, pool: usize, polled: &InLedger) {
        let configured = cx.config.gray.basis_points;
        let name = cx.pool_name(pool);
        let Some(control) = self.pools.get_mut(pool) else {
            return;
        };
        control.accounts_set = polled.accounts_set;
        let old = control.percent;
        let new = match polled.percent {
            Override::Absent => None,
            Override::BasisPoints(points) => Some(points),
            Override::Malformed => old,
        };
        if new != old {
            control.percent = new;
            cx.notice(Notice::Percent {
                pool: name.clone(),
                old,
                new,
                configured,
            });
        }
        if let Some(drained) = polled.drained
            && drained != control.drained.as_bytes()
        {
            let new = String::from_utf8(drained.to_vec()).unwrap_or_default();
            let old = std::mem::replace(&mut control.drained, new.clone());
            if let Some(view) = cx.pools.get_mut(pool) {
                view.table.drain(drained);
            }
            cx.notice(Notice::Drained {
                pool: name,
                old,
                new,
            });
        }
    }

    /// Before the first request: what any worker last saw of this pool, so that a new configuration does not begin without the
    /// operator's overrides. It was said when it was new.
    pub(super) fn restore(&mut self, cx: &mut Context, pool: usize, seen: &[u8]) {
        if let Ok(polled) = commands::overrides(seen) {
            let said = cx.output.notices.len();
            self.apply_overrides(cx, pool, &polled);
            cx.output.notices.truncate(said);
        }
    }
}

/// Says of accounts whose rest was said that it is over, as the ledger tells them.
fn end_rests(cx: &mut Context, pool: usize, sent_ms: u64, polled: &InLedger) {
    if cx.pools.get(pool).is_none_or(|view| !view.rests.any()) {
        return;
    }
    let mut told = false;
    for seen in polled.seen() {
        told = true;
        if let Some(state) = seen.state
            && let Some(view) = cx.pools.get_mut(pool)
            && let Some(account) = view.table.index(seen.id)
            && view.rests.see(account, state, sent_ms)
        {
            cx.say_state(pool, account, State::Free, 0);
        }
    }
    if !told {
        end_rests_by_clock(cx, pool);
    }
}

/// Says that rests are over by this worker's clock, where the ledger does not tell the states of accounts.
fn end_rests_by_clock(cx: &mut Context, pool: usize) {
    let view = cx.pools.get_mut(pool);
    let Some(view) = view.filter(|view| view.rests.any()) else {
        return;
    };
    for account in view.rests.over_by_clock(cx.now_ms) {
        cx.say_state(pool, account, State::Free, 0);
    }
}

fn earlier(one: Option<u64>, other_ms: u64) -> Option<u64> {
    Some(one.map_or(other_ms, |one_ms| one_ms.min(other_ms)))
}
