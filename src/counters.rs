//! What a worker counts. Plain numbers here; `host::metrics` carries them to Envoy's stats.

use crate::admission::{Path, Reason};

/// One thing counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Requests sent on, by path; those of [`Path::Traditional`] are counted by reason instead.
    Forwarded(Path),
    /// Requests sent on as they were, by reason.
    Traditional(Reason),
    /// Requests answered by us, by reason.
    Rejected(Reason),
    /// Leases that a release found alive.
    Released,
    /// Leases renewed.
    Renewed,
    /// Leases that Redis had forgotten and counts again.
    Readopted,
    /// Leases found expired at their renewal, their slot someone else's.
    Lost,
    /// Releases sent for acquires whose outcome nobody knows.
    InDoubt,
    /// Grants whose request had left.
    LateGrant,
    /// Releases given up because too many waited; those leases end by expiry.
    Dropped,
    /// Entries of the ledger that a reconcile pass found wrong.
    Drift,
    /// Cooldowns asked for.
    Cooldown,
    /// Shadow: would have been granted.
    ShadowGranted,
    /// Shadow: would have been refused.
    ShadowSaturated,
    /// Shadow: the ledger had no answer.
    ShadowFailed,
    /// Times the pipe became ready.
    PipeReady,
    /// Times the pipe broke, or could not be opened.
    PipeLost,
    /// Times the breaker opened.
    BreakerOpened,
    /// Times it closed again.
    BreakerClosed,
    /// Replies that were not the answer to what was asked.
    PipeMismatch,
    /// Error replies from Redis.
    RedisError,
}

const PLAIN: [(Counter, &str); 20] = [
    (
        Counter::Forwarded(Path::Atomic),
        "slotgate.forwarded.atomic",
    ),
    (Counter::Forwarded(Path::Local), "slotgate.forwarded.local"),
    (Counter::Released, "slotgate.lease.released"),
    (Counter::Renewed, "slotgate.lease.renewed"),
    (Counter::Readopted, "slotgate.lease.readopted"),
    (Counter::Lost, "slotgate.lease.lost"),
    (Counter::InDoubt, "slotgate.lease.in_doubt"),
    (Counter::LateGrant, "slotgate.lease.late_grant"),
    (Counter::Dropped, "slotgate.lease.release_dropped"),
    (Counter::Drift, "slotgate.drift"),
    (Counter::Cooldown, "slotgate.cooldown"),
    (Counter::ShadowGranted, "slotgate.shadow.granted"),
    (Counter::ShadowSaturated, "slotgate.shadow.saturated"),
    (Counter::ShadowFailed, "slotgate.shadow.failed"),
    (Counter::PipeReady, "slotgate.pipe.ready"),
    (Counter::PipeLost, "slotgate.pipe.lost"),
    (Counter::BreakerOpened, "slotgate.breaker.opened"),
    (Counter::BreakerClosed, "slotgate.breaker.closed"),
    (Counter::PipeMismatch, "slotgate.pipe.mismatch"),
    (Counter::RedisError, "slotgate.redis_error"),
];

const REASONS: usize = Reason::ALL.len();
/// How many counters there are.
pub const COUNT: usize = PLAIN.len() + 2 * REASONS;

/// The counters of one worker, since it began.
#[derive(Debug, Clone)]
pub struct Counters([u64; COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; COUNT])
    }
}

impl Counters {
    /// One more.
    pub fn add(&mut self, counter: Counter) {
        self.add_many(counter, 1);
    }

    /// So many more.
    pub fn add_many(&mut self, counter: Counter, more: u64) {
        if let Some(count) = self.0.get_mut(index(counter)) {
            *count = count.saturating_add(more);
        }
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(index(counter)).copied().unwrap_or(0)
    }

    /// All of them, in the order of [`names`].
    #[must_use]
    pub fn all(&self) -> &[u64; COUNT] {
        &self.0
    }
}

/// The counters' names in Envoy's stats, in order.
pub fn names() -> impl Iterator<Item = String> {
    let by_reason = |way: &'static str| {
        Reason::ALL.map(move |reason| format!("slotgate.{way}.{}", reason.as_str()))
    };
    PLAIN
        .iter()
        .map(|(_, name)| (*name).to_string())
        .chain(by_reason("traditional"))
        .chain(by_reason("rejected"))
}

fn index(counter: Counter) -> usize {
    let reason = |reason: Reason| {
        Reason::ALL
            .iter()
            .position(|other| *other == reason)
            .unwrap_or(0)
    };
    match counter {
        Counter::Traditional(why) => PLAIN.len().saturating_add(reason(why)),
        Counter::Rejected(why) => PLAIN
            .len()
            .saturating_add(REASONS)
            .saturating_add(reason(why)),
        plain => PLAIN
            .iter()
            .position(|(other, _)| *other == plain)
            .unwrap_or(COUNT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_its_own_place_and_name() {
        let mut counters = Counters::default();
        let reasons = Reason::ALL
            .into_iter()
            .flat_map(|why| [Counter::Traditional(why), Counter::Rejected(why)]);
        for counter in PLAIN.iter().map(|(counter, _)| *counter).chain(reasons) {
            assert_eq!(counters.get(counter), 0, "{counter:?}");
            counters.add(counter);
        }
        assert_eq!(counters.all(), &[1; COUNT]);
        let names: std::collections::HashSet<_> = names().collect();
        assert_eq!(names.len(), COUNT);
        assert!(names.contains("slotgate.traditional.pipe_down"));
    }
}
