//! When leases are renewed: a sweep over all requests, in steps that are spread over each interval.

use super::command::{Command, HeldLease};
use super::context::Context;
use crate::ledger::commands::{self, Renewed};
use crate::ledger::fault::Fault;
use std::ops::Range;

/// Renewals are spread over this many steps of each interval.
const STEPS: u64 = 64;
/// After the pipe became ready, one round of steps is this quick, in ms: Redis may have lost what it knew.
const QUICK_STEP_MS: u64 = 10;
/// Leases in one renewal command.
const BATCH: usize = 100;

/// Where the sweep is.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    due_ms: u64,
    step: u64,
    /// How many slots there were when the round began.
    slots: usize,
}

impl Renewals {
    /// When the next step is due, in ms, while there are requests.
    pub(super) fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// The first request of all came: the sweep begins now.
    pub(super) fn begin(&mut self, cx: &Context) {
        self.due_ms = cx.now_ms;
    }

    /// The pipe is ready: a round begins now.
    pub(super) fn on_ready(&mut self, cx: &Context) {
        self.due_ms = cx.now_ms;
        self.step = 0;
    }

    /// How old a lease must be to be renewed, in ms.
    pub(super) fn young_ms(&self, cx: &Context) -> u64 {
        cx.config.lease.renew_interval_ms / 2
    }

    /// The slots whose turn it is, if a step is due. Each slot's turn comes once in an interval.
    pub(super) fn next_step(
        &mut self,
        cx: &Context,
        slots: usize,
        ready_ms: u64,
    ) -> Option<Range<usize>> {
        if self.due_ms > cx.now_ms {
            return None;
        }
        let since_ms = cx.now_ms.saturating_sub(ready_ms);
        let step_ms = (cx.config.lease.renew_interval_ms / STEPS).max(1);
        let step_ms = if since_ms < QUICK_STEP_MS.saturating_mul(STEPS) {
            step_ms.min(QUICK_STEP_MS)
        } else {
            step_ms
        };
        self.due_ms = self.due_ms.saturating_add(step_ms);
        // Slots that a growing slab got since the round began are looked at in its last step.
        if self.step == 0 {
            self.slots = slots;
        }
        let part = |step: u64| {
            usize::try_from(step.saturating_mul(self.slots as u64) / STEPS).unwrap_or(0)
        };
        let next = self.step.saturating_add(1);
        let end = if next < STEPS { part(next) } else { slots };
        let range = part(self.step)..end;
        self.step = next % STEPS;
        Some(range)
    }

    /// All steps that were due are done. Ticks come late on a busy machine: no step is due sooner than now.
    pub(super) fn catch_up(&mut self, cx: &Context) {
        self.due_ms = self.due_ms.max(cx.now_ms);
    }

    /// How many steps may be made in one tick: as many as are due, or every round would be longer.
    pub(super) fn steps_in_a_tick() -> u64 {
        STEPS
    }

    /// Sends the renewal of these leases, by pool.
    pub(super) fn send(&self, cx: &mut Context, due: Vec<Vec<HeldLease>>) {
        for (pool, held) in due.into_iter().enumerate() {
            for leases in held.chunks(BATCH) {
                let leases = leases.to_vec();
                cx.commands.push_back(Command::Renew { pool, leases });
            }
        }
    }
}

/// Reads the answer to a renewal: the epoch, and one answer for each lease.
pub(super) fn read(
    leases: &[HeldLease],
    reply: &[u8],
) -> Result<(u64, impl Iterator<Item = Renewed>), Fault> {
    commands::renewed(reply, leases.len())
}
