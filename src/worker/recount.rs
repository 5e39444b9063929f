//! Recounts: every pool's counts are proven in turn, and one that holds what cannot be there has its turn soon.

use super::command::Command;
use super::context::Context;
use super::counters::Counter;
use super::notice::{Notice, Said};
use crate::ledger::commands::{self, Reconciled};
use crate::ledger::fault::Fault;
use crate::printable;

/// Every pool's counts are proven once in this long, in ms.
const EVERY_MS: u64 = 60_000;
/// Steps of a recount are this far apart, in ms.
const STEP_MS: u64 = 20;
/// A pool that holds what cannot be there is recounted after this long, in ms, at first and at most: each time in a row that
/// it is not right afterwards, after twice as long.
const MEND_MS: (u64, u64) = (100, 60_000);
/// A recount has mended a pool when an acquire was answered as it should be this long after it, in ms.
const MENDED_MS: u64 = 1_000;
/// What cannot be there is said again when it was not seen for this long, in ms: longer than from one recount to the next.
const SAID_MS: u64 = 150_000;

/// What is known of one pool's recounts.
#[derive(Debug)]
struct State {
    /// What cannot be there, as far as it was said.
    said: Said<String>,
    /// It is to be recounted soon.
    suspect: bool,
    /// A recount out of turn comes no sooner, in ms.
    mend_due_ms: u64,
    /// How long after the last one that is at least, in ms.
    mend_wait_ms: u64,
    /// When an acquire was last answered as it should be, in ms.
    right_ms: u64,
}

impl State {
    /// Whether the last recount out of turn helped.
    fn was_mended(&self) -> bool {
        let ended_ms = self.mend_due_ms.saturating_sub(self.mend_wait_ms);
        self.right_ms >= ended_ms.saturating_add(MENDED_MS)
    }

    /// The next recount out of turn comes no sooner, in ms.
    fn mend_due_ms(&self) -> u64 {
        if self.was_mended() {
            0
        } else {
            self.mend_due_ms
        }
    }

    /// A recount out of turn has ended.
    fn mended(&mut self, now_ms: u64) {
        let long_ago = now_ms.saturating_sub(self.mend_due_ms) > MEND_MS.1;
        let anew = long_ago || self.was_mended();
        let wait_ms = if anew { MEND_MS.0 } else { self.mend_wait_ms };
        self.mend_wait_ms = wait_ms.saturating_mul(2).min(MEND_MS.1);
        self.mend_due_ms = now_ms.saturating_add(self.mend_wait_ms);
    }
}

/// How far the recount of a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// It has not begun.
    Planned,
    /// It has; `mends`: something was seen before that cannot be there.
    Begun { mends: bool },
}

/// A pool's turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    due_ms: u64,
    pool: usize,
}

/// The recounts of all pools, one after the other.
#[derive(Debug)]
pub(super) struct Recounts {
    pools: Vec<State>,
    turn: Turn,
    progress: Progress,
    /// A step is on its way.
    under_way: bool,
    /// The turn is out of turn; then this is the one that comes after it.
    next: Option<Turn>,
}

impl Recounts {
    pub(super) fn new(pools: usize) -> Self {
        let state = || State {
            said: Said::default(),
            suspect: false,
            mend_due_ms: 0,
            mend_wait_ms: MEND_MS.0,
            right_ms: 0,
        };
        Self {
            pools: (0..pools).map(|_| state()).collect(),
            turn: Turn { due_ms: 0, pool: 0 },
            progress: Progress::Planned,
            under_way: false,
            next: None,
        }
    }

    /// When the next step is due, in ms, while the pipe serves.
    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        (!self.under_way).then_some(self.turn.due_ms)
    }

    /// The pipe is ready.
    pub(super) fn on_ready(&mut self, cx: &mut Context) {
        if self.progress == (Progress::Begun { mends: true }) {
            self.suspect(self.turn.pool);
        }
        // Not all at once: the workers of a fleet become ready together when Redis comes back.
        let due_ms = cx.now_ms.saturating_add(cx.random.u64(..EVERY_MS));
        self.turn = Turn { due_ms, pool: 0 };
        self.progress = Progress::Planned;
        self.under_way = false;
        self.next = None;
        self.plan_next(cx);
    }

    /// Sends the next step when it is due.
    pub(super) fn on_tick(&mut self, cx: &mut Context) {
        if self.under_way || self.turn.due_ms > cx.now_ms {
            return;
        }
        self.under_way = true;
        let pool = self.turn.pool;
        if let (Progress::Planned, Some(state)) = (self.progress, self.pools.get_mut(pool)) {
            // What is seen from now on may lie where the recount has been already, and needs another one.
            let mends = std::mem::take(&mut state.suspect);
            self.progress = Progress::Begun { mends };
        }
        let soon = self.next.is_some();
        cx.commands.push_back(Command::Recount { pool, soon });
    }

    fn suspect(&mut self, pool: usize) {
        if let Some(state) = self.pools.get_mut(pool) {
            state.suspect = true;
        }
    }

    /// A pool holds what cannot be there: said once, counted, and its recount comes soon; less soon each time that it was
    /// in vain.
    #[inline(never)]
    pub(super) fn see_garbage(&mut self, cx: &mut Context, pool: usize, what: &[u8]) {
        self.note_garbage(cx, pool, what);
        self.suspect(pool);
        self.plan_next(cx);
    }

    /// Counts and says what cannot be there, where nothing is left to be mended.
    pub(super) fn note_garbage(&mut self, cx: &mut Context, pool: usize, what: &[u8]) {
        cx.count_in(pool, Counter::Garbage);
        let what = printable::ascii(what);
        if let Some(state) = self.pools.get_mut(pool)
            && state.said.is_news(cx.now_ms, SAID_MS, &what)
        {
            let pool = cx.pool_name(pool);
            cx.notice(Notice::Garbage { pool, what });
        }
    }

    /// An acquire was answered as it should be.
    pub(super) fn see_right(&mut self, cx: &Context, pool: usize) {
        if let Some(state) = self.pools.get_mut(pool) {
            state.right_ms = cx.now_ms;
        }
    }

    /// Between two recounts, a pool that holds what cannot be there has its turn.
    fn plan_next(&mut self, cx: &mut Context) {
        if self.next.is_some() || self.progress != Progress::Planned {
            return;
        }
        let suspects = self.pools.iter().enumerate();
        let first = suspects
            .filter(|(_, state)| state.suspect)
            .min_by_key(|(_, state)| state.mend_due_ms());
        if let Some((pool, state)) = first {
            // Not all workers at once.
            let soon_ms = cx.now_ms.saturating_add(cx.random.u64(..MEND_MS.0));
            let due_ms = soon_ms.max(state.mend_due_ms());
            if due_ms < self.turn.due_ms {
                self.next = Some(self.turn);
                self.turn = Turn { due_ms, pool };
            }
        }
    }

    /// A step was answered. Returns what is in force, a revision and its digest, if it was the last step and said so.
    pub(super) fn on_reply(
        &mut self,
        cx: &mut Context,
        pool: usize,
        reply: &[u8],
    ) -> Result<Option<(u64, Option<u64>)>, Fault> {
        let step = commands::reconciled(reply)?;
        if !step.found.is_empty() {
            self.note_garbage(cx, pool, step.found);
        }
        match step.state {
            Reconciled::Working(_) => {
                self.under_way = false;
                self.turn.due_ms = cx.now_ms.saturating_add(STEP_MS);
                return Ok(None);
            }
            Reconciled::Done(0) => {
                if let Some(state) = self.pools.get_mut(pool) {
                    state.said = Said::default();
                }
            }
            Reconciled::Done(entries) => {
                cx.counters.add_in(pool, Counter::Drift, entries);
                let pool = cx.pool_name(pool);
                cx.notice(Notice::Drift { pool, entries });
            }
            // Another worker's recount may be past it, or that worker may be gone.
            Reconciled::Elsewhere if self.progress == (Progress::Begun { mends: true }) => {
                self.suspect(pool);
            }
            Reconciled::Elsewhere => {}
        }
        self.end(cx, pool);
        Ok(step.in_force)
    }

    /// A step failed, and is not sent again: the recount has ended.
    pub(super) fn on_failed(&mut self, cx: &mut Context, pool: usize) {
        if self.progress == (Progress::Begun { mends: true }) {
            self.suspect(pool);
        }
        self.end(cx, pool);
    }

    fn end(&mut self, cx: &mut Context, pool: usize) {
        self.under_way = false;
        self.progress = Progress::Planned;
        self.turn = match self.next.take() {
            Some(next) => {
                if let Some(state) = self.pools.get_mut(pool) {
                    state.mended(cx.now_ms);
                }
                Turn {
                    due_ms: next.due_ms.max(cx.now_ms),
                    ..next
                }
            }
            // One pool after the other, so that each has its turn once in the interval.
            None => {
                let pools = self.pools.len().max(1);
                let every_ms = EVERY_MS.checked_div(pools as u64).unwrap_or(EVERY_MS);
                let next = pool.saturating_add(1);
                Turn {
                    due_ms: cx.now_ms.saturating_add(every_ms),
                    pool: if next < pools { next } else { 0 },
                }
            }
        };
        self.plan_next(cx);
    }
}
