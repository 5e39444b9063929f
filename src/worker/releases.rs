//! Releases on their way: those that wait to be sent together, and those that must be sent once more.
//!
//! A release goes out again in three cases: it may have overtaken its acquire ([`Releases::on_tick`]), Redis refused it
//! ([`Releases::on_failed`]), or the pipe broke before its reply ([`Releases::on_pipe_lost`]). Where only the script or the pool
//! was missing, `replies` repeats the same command, and this part does not hear of it.

use super::command::{Command, PendingRelease, Turn};
use super::context::Context;
use super::counters::Counter;
use crate::ledger::commands::{self, Handed};
use crate::ledger::fault::Fault;
use crate::request::lease::LeaseId;
use std::collections::VecDeque;

/// A release in doubt is sent again after this long, in ms: the first may have overtaken the acquire.
const AGAIN_MS: u64 = 1000;
/// A release waits this long for an acquire to go with, in ms.
const LINGER_MS: u64 = 1;
/// After it was last heard that somebody waits for a slot, releases do not linger for this long, in ms. Longer than most
/// requests last: where slots are handed on, each release says so itself.
const CROWDED_MS: u64 = 10_000;
/// Leases in one release command.
const BATCH: usize = 100;
/// How many releases are sent again at a time.
const PORTION: usize = 1024;

/// The pipe as a release finds it.
#[derive(Debug, Clone, Copy)]
pub(super) enum PipeState {
    /// It does not serve.
    Away,
    /// It serves, and none has served before it.
    Ready,
    /// It serves since then, in ms, and another one served before it.
    Reopened { ready_ms: u64 },
}

/// The releases of a worker.
#[derive(Debug, Default)]
pub(super) struct Releases {
    /// Releases that wait for an acquire to go with.
    batch: Vec<PendingRelease>,
    /// Until when the batch may wait, in ms.
    linger_ms: u64,
    /// Somebody waits for what the batch frees: it goes at the end of this round.
    urgent: bool,
    /// Until when somebody is taken to wait, in ms.
    crowded_until_ms: u64,
    /// They are sent when they are due and the pipe is ready.
    retries: VecDeque<PendingRelease>,
    /// How many of the retries, from the front, are due in any order: they were put there while the pipe was away.
    unordered: usize,
}

impl Releases {
    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.retries.is_empty()
    }

    /// Whether some are to go at the end of this round.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// It was heard that somebody waits for a slot.
    pub(super) fn see_waiting(&mut self, now_ms: u64) {
        self.crowded_until_ms = now_ms.saturating_add(CROWDED_MS);
    }

    /// When some are due, in ms.
    pub(super) fn next_wake_ms(&self, is_ready: bool) -> Option<u64> {
        let batch_ms = (!self.batch.is_empty()).then_some(self.linger_ms);
        let retry = self.retries.front().filter(|_| is_ready);
        let retry_ms = retry.map(|release| match self.unordered {
            0 => release.due_ms,
            _ => 0,
        });
        batch_ms.into_iter().chain(retry_ms).min()
    }

    /// A request's lease ends: sends the release, or keeps it until the pipe is ready.
    pub(super) fn end(
        &mut self,
        cx: &mut Context,
        pool: usize,
        lease: LeaseId,
        in_doubt: bool,
        pipe: PipeState,
    ) {
        if in_doubt {
            cx.count_in(pool, Counter::InDoubt);
        }
        let release = PendingRelease {
            due_ms: cx.now_ms,
            pool,
            lease,
            over_ms: cx.now_ms.saturating_add(cx.config.lease.ttl_ms),
            turn: Turn::First,
        };
        let again = match pipe {
            PipeState::Away => return self.keep(cx, release),
            PipeState::Ready => in_doubt,
            // After the acquire on the same connection nothing is in doubt, but what an older connection still carries is.
            PipeState::Reopened { ready_ms } => {
                in_doubt || cx.now_ms.saturating_sub(ready_ms) < AGAIN_MS
            }
        };
        self.push(cx, release, again);
    }

    /// Sends a release, with others if it can. `again`: it should go out a second time, [`AGAIN_MS`] later, so a copy is kept unless
    /// this is the second time.
    fn push(&mut self, cx: &mut Context, release: PendingRelease, again: bool) {
        let due_ms = cx.now_ms.saturating_add(AGAIN_MS);
        let mut sent = PendingRelease { due_ms, ..release };
        if again && release.turn == Turn::First {
            sent.turn = Turn::Last;
            if self.has_room(cx) {
                self.retries.push_back(sent);
                sent.turn = Turn::FirstOfTwo;
            }
        }
        if self.batch.is_empty() {
            self.linger_ms = cx.now_ms.saturating_add(LINGER_MS);
            self.urgent = cx.now_ms < self.crowded_until_ms;
        }
        self.batch.push(sent);
        if self.batch.len() >= BATCH {
            self.send_batch(cx);
        }
    }

    /// Sends the releases that wait, one command for each pool.
    pub(super) fn send_batch(&mut self, cx: &mut Context) {
        self.urgent = false;
        while let Some(pool) = self.batch.first().map(|release| release.pool) {
            let batch = std::mem::take(&mut self.batch);
            let of_pool = |release: &PendingRelease| release.pool == pool;
            let (releases, others) = if batch.iter().all(of_pool) {
                (batch, Vec::new())
            } else {
                batch.into_iter().partition(of_pool)
            };
            self.batch = others;
            cx.commands.push_back(Command::Release { pool, releases });
        }
    }

    fn has_room(&self, cx: &Context) -> bool {
        self.retries.len() < cx.config.redis.max_pending.saturating_mul(4)
    }

    /// Keeps a release to be sent later. Without room it is given up, and counted if no other copy of it is left.
    #[inline(never)]
    fn keep(&mut self, cx: &mut Context, release: PendingRelease) {
        if self.has_room(cx) {
            self.retries.push_back(release);
        } else if release.turn != Turn::FirstOfTwo {
            cx.count_in(release.pool, Counter::Dropped);
        }
    }

    /// Sends a portion of the kept releases that are due, and the batch. A kept one goes out for the first time if its
    /// lease ended while the pipe was away, else again.
    pub(super) fn on_tick(&mut self, cx: &mut Context) {
        // They are due in order, but for those that were put in front before the pipe broke.
        for _ in 0..self.retries.len().min(PORTION) {
            let Some(release) = self.retries.pop_front() else {
                break;
            };
            let unordered = self.unordered > 0;
            self.unordered = self.unordered.saturating_sub(1);
            if release.over_ms <= cx.now_ms {
                continue;
            }
            if release.due_ms > cx.now_ms && unordered {
                self.retries.push_back(release);
                continue;
            }
            if release.due_ms > cx.now_ms {
                self.retries.push_front(release);
                break;
            }
            self.push(cx, release, true);
        }
        self.send_batch(cx);
    }

    /// The pipe is ready again.
    pub(super) fn on_ready(&mut self, cx: &mut Context) {
        self.unordered = self.retries.len();
        self.on_tick(cx);
    }

    /// Reads the reply to a release of this many leases, and what it handed on.
    pub(super) fn on_reply<'a>(
        &self,
        cx: &mut Context,
        pool: usize,
        leases: usize,
        reply: &'a [u8],
    ) -> Result<impl Iterator<Item = Handed<'a>> + use<'a>, Fault> {
        let (ended, handed) = commands::released(reply)?;
        // A reply that is not ours to believe must not count more than was asked.
        let ended = ended.min(leases as u64);
        cx.counters.add_in(pool, Counter::Released, ended);
        Ok(handed)
    }

    /// Releases that Redis would not take are sent again later.
    pub(super) fn on_failed(&mut self, cx: &mut Context, releases: Vec<PendingRelease>) {
        let due_ms = cx.now_ms.saturating_add(AGAIN_MS);
        for release in releases {
            let turn = match release.turn {
                Turn::First | Turn::Last => Turn::Last,
                Turn::FirstOfTwo => Turn::FirstOfTwo,
            };
            let again = PendingRelease {
                due_ms,
                turn,
                ..release
            };
            self.keep(cx, again);
        }
    }

    /// Releases under way were lost with the pipe: they are sent again as soon as it is back, those that wait too. One that was
    /// to be sent a second time stays as it is.
    pub(super) fn on_pipe_lost(&mut self, cx: &mut Context, sent: Vec<PendingRelease>) {
        self.retries.retain(|release| release.over_ms > cx.now_ms);
        let due_ms = cx.now_ms;
        self.urgent = false;
        let batch = std::mem::take(&mut self.batch);
        for release in batch.into_iter().chain(sent) {
            self.keep(cx, PendingRelease { due_ms, ..release });
        }
    }
}
