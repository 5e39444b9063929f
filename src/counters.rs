//! What a worker counts. Plain numbers here; `host::metrics` carries them to Envoy's stats.

use crate::admission::Reason;
use crate::ledger::script::Fault;
use crate::worker::Down;

/// One thing counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Requests sent on with a slot that the ledger gave.
    Atomic,
    /// Requests sent on with a slot chosen here.
    Local,
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
    /// Looks at the operator's overrides that found one to be ignored.
    ControlIgnored,
    /// Headers of pushback that say how long in no form known.
    CooldownMalformed,
    /// Leases granted to probe an account that has cooled.
    Probe,
    /// Those of them that succeeded.
    ProbePassed,
    /// Times an account that fails fast was put behind the others.
    Behind,
    /// Shadow: would have been granted.
    ShadowGranted,
    /// Shadow: would have been refused.
    ShadowSaturated,
    /// Shadow: the ledger had no answer.
    ShadowFailed,
    /// Shadow: the account it would have been granted is the one that the traditional way takes.
    ShadowAgreed,
    /// Shadow: it is another one.
    ShadowDiffered,
    /// Shadow: nobody knows which account the traditional way takes.
    ShadowUnknown,
    /// Times the pipe became ready.
    PipeReady,
    /// Times the pipe broke, or could not be opened, by why.
    PipeLost(Down),
    /// Times the breaker opened.
    BreakerOpened,
    /// Times it closed again.
    BreakerClosed,
    /// Error replies from Redis, by kind.
    RedisError(Fault),
}

/// Those without a reason, in the order of [`index`].
const PLAIN: [&str; 25] = [
    "forwarded.atomic",
    "forwarded.local",
    "lease.released",
    "lease.renewed",
    "lease.readopted",
    "lease.lost",
    "lease.in_doubt",
    "lease.late_grant",
    "lease.release_dropped",
    "drift",
    "cooldown",
    "shadow.granted",
    "shadow.saturated",
    "shadow.failed",
    "pipe.ready",
    "breaker.opened",
    "breaker.closed",
    "control.ignored",
    "shadow.agreed",
    "shadow.differed",
    "shadow.unknown",
    "cooldown_malformed",
    "probe.sent",
    "probe.passed",
    "behind",
];
const TRADITIONAL: usize = PLAIN.len();
const REJECTED: usize = TRADITIONAL + Reason::ALL.len();
const PIPE_LOST: usize = REJECTED + Reason::ALL.len();
const REDIS_ERROR: usize = PIPE_LOST + Down::NAMES.len();
/// How many counters there are.
pub const COUNT: usize = REDIS_ERROR + Fault::ALL.len();

/// The counters of one worker, since it began.
#[derive(Debug, Clone)]
pub struct Counters {
    counts: [u64; COUNT],
    /// All together: comparing this is enough to see whether anything was counted.
    total: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            counts: [0; COUNT],
            total: 0,
        }
    }
}

impl Counters {
    /// One more.
    pub fn add(&mut self, counter: Counter) {
        self.add_many(counter, 1);
    }

    /// So many more.
    pub fn add_many(&mut self, counter: Counter, more: u64) {
        if let Some(count) = self.counts.get_mut(index(counter)) {
            *count = count.saturating_add(more);
            self.total = self.total.saturating_add(more);
        }
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counts.get(index(counter)).copied().unwrap_or(0)
    }

    /// How much was counted, of all kinds together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// All of them, in the order of [`names`].
    #[must_use]
    pub fn all(&self) -> &[u64; COUNT] {
        &self.counts
    }
}

/// The counters' names in Envoy's stats, in order.
pub fn names() -> impl Iterator<Item = String> {
    let by_reason = |family: &'static str| {
        Reason::ALL.map(move |reason| format!("{family}.{}", reason.as_str()))
    };
    let plain = PLAIN.iter().map(|name| (*name).to_string());
    plain
        .chain(by_reason("traditional"))
        .chain(by_reason("rejected"))
        .chain(Down::NAMES.map(|why| format!("pipe.lost.{why}")))
        .chain(Fault::ALL.map(|fault| format!("redis_error.{}", fault.as_str())))
        .map(|name| format!("slotgate.{name}"))
}

/// A counter's place.
fn index(counter: Counter) -> usize {
    let of = |first: usize, place: usize| first.saturating_add(place);
    match counter {
        Counter::Atomic => 0,
        Counter::Local => 1,
        Counter::Released => 2,
        Counter::Renewed => 3,
        Counter::Readopted => 4,
        Counter::Lost => 5,
        Counter::InDoubt => 6,
        Counter::LateGrant => 7,
        Counter::Dropped => 8,
        Counter::Drift => 9,
        Counter::Cooldown => 10,
        Counter::ShadowGranted => 11,
        Counter::ShadowSaturated => 12,
        Counter::ShadowFailed => 13,
        Counter::PipeReady => 14,
        Counter::BreakerOpened => 15,
        Counter::BreakerClosed => 16,
        Counter::ControlIgnored => 17,
        Counter::ShadowAgreed => 18,
        Counter::ShadowDiffered => 19,
        Counter::ShadowUnknown => 20,
        Counter::CooldownMalformed => 21,
        Counter::Probe => 22,
        Counter::ProbePassed => 23,
        Counter::Behind => 24,
        Counter::Traditional(why) => of(TRADITIONAL, why as usize),
        Counter::Rejected(why) => of(REJECTED, why as usize),
        Counter::PipeLost(why) => of(PIPE_LOST, why.place()),
        Counter::RedisError(fault) => of(REDIS_ERROR, fault as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_a_place_and_a_name_of_its_own() {
        let names: Vec<_> = names().collect();
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!((names.len(), distinct.len()), (COUNT, COUNT));
        let is = |counter, name: &str| assert_eq!(names[index(counter)], name);
        is(Counter::Local, "slotgate.forwarded.local");
        is(Counter::Dropped, "slotgate.lease.release_dropped");
        is(Counter::BreakerClosed, "slotgate.breaker.closed");
        for reason in Reason::ALL {
            let why = reason.as_str();
            is(
                Counter::Traditional(reason),
                &format!("slotgate.traditional.{why}"),
            );
            is(
                Counter::Rejected(reason),
                &format!("slotgate.rejected.{why}"),
            );
        }
        for fault in Fault::ALL {
            let name = format!("slotgate.redis_error.{}", fault.as_str());
            is(Counter::RedisError(fault), &name);
        }
        is(Counter::PipeLost(Down::Closed), "slotgate.pipe.lost.closed");
        let wrong = Down::WrongServer(Fault::ReadOnly);
        is(Counter::PipeLost(wrong), "slotgate.pipe.lost.wrong_server");
    }

    #[test]
    fn counting() {
        let mut counters = Counters::default();
        counters.add(Counter::Lost);
        counters.add_many(Counter::Lost, 2);
        assert_eq!(counters.get(Counter::Lost), 3);
        assert_eq!(counters.all().iter().sum::<u64>(), 3);
    }
}
