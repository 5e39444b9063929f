//! Acquires on their way: those that wait to be sent together, their deadlines, and those that a lost pipe took along.

use super::command::{AcquireCommand, Command};
use super::context::Context;
use crate::ledger::commands::{self, Acquired};
use crate::ledger::fault::Fault;
use crate::request::admission::Reason;
use crate::request::lease::LeaseId;
use std::collections::VecDeque;

/// Leases in one acquire command: Redis does nothing else meanwhile.
const BATCH: usize = 32;
/// How many acquires of a lost pipe fail, and how many deadlines pass, at a time.
pub(super) const PORTION: usize = 1024;

/// When an acquire's request stops waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    due_ms: u64,
    pub(super) slot: usize,
    pub(super) lease: LeaseId,
}

/// An acquire that will have no answer.
#[derive(Debug)]
pub(super) struct LostAcquire {
    pub(super) acquire: AcquireCommand,
    pub(super) reason: Reason,
    /// Whether Redis may have taken the lease.
    pub(super) in_doubt: bool,
}

/// The acquires of a worker.
#[derive(Debug, Default)]
pub(super) struct Acquires {
    /// They wait for the end of this round of the event loop, and for the pipe to be ready.
    queue: Vec<AcquireCommand>,
    /// Oldest first. Entries of requests that moved on are skipped.
    deadlines: VecDeque<Deadline>,
    /// Acquires that a lost pipe took along, until their requests are told.
    lost: VecDeque<LostAcquire>,
    /// Leases under way, beyond one for each command.
    extra: usize,
}

impl Acquires {
    /// How many leases wait to be sent, or are under way beyond one for each command.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len().saturating_add(self.extra)
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// When the first deadline passes, in ms.
    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        self.deadlines.front().map(|deadline| deadline.due_ms)
    }

    /// Sends an acquire at the end of this round.
    pub(super) fn push(&mut self, acquire: AcquireCommand) {
        self.queue.push(acquire);
    }

    /// Sends an acquire at the end of this round; its request waits no longer than `acquire_timeout_ms`.
    pub(super) fn push_with_deadline(&mut self, cx: &Context, acquire: AcquireCommand) {
        let patience_ms = cx.config.redis.acquire_timeout_ms;
        self.deadlines.push_back(Deadline {
            due_ms: cx.now_ms.saturating_add(patience_ms),
            slot: acquire.slot,
            lease: acquire.lease,
        });
        self.queue.push(acquire);
    }

    /// Sends what waits and is still wanted, in as few commands as it can.
    pub(super) fn send(&mut self, cx: &mut Context, wanted: impl Fn(&AcquireCommand) -> bool) {
        // A request that left meanwhile took nothing and needs nothing.
        self.queue.retain(wanted);
        while let Some(shape) = self.queue.iter().map(AcquireCommand::shape).min() {
            let is_alike = |acquire: &AcquireCommand| acquire.shape() == shape;
            let alike = if self.queue.iter().all(is_alike) {
                std::mem::take(&mut self.queue)
            } else {
                let alike = self.queue.extract_if(.., |acquire| is_alike(acquire));
                alike.collect()
            };
            // Each of these leaves out other accounts.
            let batch = if shape.4 { 1 } else { BATCH };
            if alike.len() <= batch {
                cx.commands.push_back(Command::Acquire(alike));
                continue;
            }
            for leases in alike.chunks(batch) {
                let leases = leases.to_vec();
                cx.commands.push_back(Command::Acquire(leases));
            }
        }
    }

    /// An acquire command went out.
    pub(super) fn on_sent(&mut self, leases: usize) {
        self.extra = self.extra.saturating_add(leases.saturating_sub(1));
    }

    /// An acquire command was answered, whatever the answer.
    pub(super) fn on_answered(&mut self, leases: usize) {
        self.extra = self.extra.saturating_sub(leases.saturating_sub(1));
    }

    /// The next deadline that has passed.
    pub(super) fn next_due(&mut self, now_ms: u64) -> Option<Deadline> {
        let deadline = self.deadlines.front().copied();
        let due = deadline.filter(|deadline| deadline.due_ms <= now_ms)?;
        self.deadlines.pop_front();
        Some(due)
    }

    /// Acquires under way were lost with the pipe; `fails`: so are those that have not been sent.
    pub(super) fn on_pipe_lost(&mut self, sent: Vec<AcquireCommand>, fails: bool) {
        self.extra = 0;
        self.lost
            .extend(sent.into_iter().map(|acquire| LostAcquire {
                acquire,
                reason: Reason::PipeLost,
                in_doubt: true,
            }));
        if fails {
            let queue = std::mem::take(&mut self.queue).into_iter();
            self.lost.extend(queue.map(|acquire| LostAcquire {
                acquire,
                reason: Reason::PipeDown,
                in_doubt: false,
            }));
        }
    }

    /// The next lost one, to be told.
    pub(super) fn next_lost(&mut self) -> Option<LostAcquire> {
        self.lost.pop_front()
    }
}

/// Reads the answer to an acquire command.
pub(super) fn read<'a>(
    leases: &[AcquireCommand],
    reply: &'a [u8],
) -> Result<(u64, impl Iterator<Item = Acquired<'a>> + Clone + use<'a>), Fault> {
    use super::command::AcquireKind::Record;
    let recorded = leases
        .first()
        .is_some_and(|acquire| matches!(acquire.kind, Record(_)));
    let (epoch, answers) = commands::acquired(reply, leases.len())?;
    // `force` never answers it.
    let refused = |answer| matches!(answer, Acquired::Saturated { .. });
    if recorded && answers.clone().any(refused) {
        return Err(Fault::Mismatch);
    }
    Ok((epoch, answers))
}
