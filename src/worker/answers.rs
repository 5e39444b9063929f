//! Verdicts of paused requests on their way to the host: a bounded number in each round of the event loop.

use super::output::Answer;
use super::request::{LaterTry, RequestId};
use crate::request::verdict::{Logged, Verdict};
use std::collections::VecDeque;

/// How many paused requests are told their verdict in one round of Envoy's event loop. Those that Envoy answers itself it
/// settles nested in one another: behind the shipped filters 300 overflow the VM's stack on Envoy 1.40.0, 400 on 1.36.4, and
/// other filters need stack too. With 8, 16, 64 or 256 it serves equally many requests/s.
pub const SETTLED_PER_ROUND: usize = 32;

/// The verdicts that were not handed out yet.
#[derive(Debug)]
pub(super) struct Answers {
    /// Oldest first.
    queue: VecDeque<(RequestId, Verdict, Option<Logged>)>,
    /// How many may still be handed out in this round.
    may_settle: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            may_settle: SETTLED_PER_ROUND,
        }
    }
}

impl Answers {
    pub(super) fn push(&mut self, id: RequestId, verdict: Verdict, log: Option<Logged>) {
        self.queue.push_back((id, verdict, log));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A round of the event loop is over: more verdicts may be handed out.
    pub(super) fn refill(&mut self) {
        self.may_settle = SETTLED_PER_ROUND;
    }

    /// The next verdict to be handed out, if one may be. `waits`: whether a request is still there, and which try of it waits
    /// if that is not the first.
    pub(super) fn next(
        &mut self,
        mut waits: impl FnMut(RequestId) -> Option<Option<Box<LaterTry>>>,
    ) -> Option<Answer> {
        let may_settle = self.may_settle.checked_sub(1)?;
        loop {
            let (request, verdict, log) = self.queue.pop_front()?;
            // Its client may have left meanwhile.
            if let Some(later) = waits(request) {
                self.may_settle = may_settle;
                return Some(Answer {
                    request,
                    verdict,
                    log,
                    later,
                });
            }
        }
    }
}
