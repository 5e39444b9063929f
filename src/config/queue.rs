//! `saturated`: what happens when no account has a free slot.

use super::fields::Fields;
use serde::Deserialize;

/// `saturated.action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSaturated {
    /// Answer 429 with `retry-after`.
    Reject,
    /// Send it the traditional way.
    Traditional,
    /// Let it wait for its turn.
    Queue(Queue),
}

impl OnSaturated {
    /// How requests wait; `None`: they do not.
    #[must_use]
    pub fn queue(self) -> Option<Queue> {
        match self {
            Self::Queue(queue) => Some(queue),
            Self::Reject | Self::Traditional => None,
        }
    }

    /// Whether a request that finds no slot, and does not wait or no longer, is answered 429.
    #[must_use]
    pub fn rejects(self) -> bool {
        match self {
            Self::Reject => true,
            Self::Traditional => false,
            Self::Queue(queue) => queue.otherwise == Otherwise::Reject,
        }
    }
}

/// `saturated.queue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How long a request waits at most, in ms, 1..=3600000.
    pub max_wait_ms: u64,
    /// How many requests of a pool wait at once over all Envoys, 1..=100000.
    pub max_waiting: u32,
    /// What happens to a request that waited too long, or finds too many waiting.
    pub otherwise: Otherwise,
}

/// `saturated.queue.otherwise`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// Answer 429 with `retry-after`.
    Reject,
    /// Send it the traditional way.
    Traditional,
}

/// The words of `saturated.action`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Reject,
    Traditional,
    Queue,
}

/// What happens, and for how long a worker that was told that a pool is full refuses by itself, in ms.
pub(super) fn saturated(mut f: Fields<'_, '_>) -> (OnSaturated, u64) {
    let action = f.word("action", Action::Reject);
    let refuse_ms = f.int("refuse_ms", 5, 0..=1_000);
    // Checked with any action, as `traditional.share` is with any mode.
    let queue = queue(f.object("queue"));
    f.reject_unknown();
    match action {
        Action::Reject => (OnSaturated::Reject, refuse_ms),
        Action::Traditional => (OnSaturated::Traditional, refuse_ms),
        // Each takes its place in the queue.
        Action::Queue => (OnSaturated::Queue(queue), 0),
    }
}

fn queue(mut f: Fields<'_, '_>) -> Queue {
    let queue = Queue {
        max_wait_ms: f.int("max_wait_ms", 30_000, 1..=3_600_000),
        max_waiting: f.int("max_waiting", 1_000, 1..=100_000),
        otherwise: f.word("otherwise", Otherwise::Reject),
    };
    f.reject_unknown();
    queue
}
