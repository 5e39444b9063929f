//! The counters of a worker and of each of its pools. Plain numbers here; `host::metrics` carries them to Envoy's stats.

use crate::ledger::fault::Fault;
use crate::pipe::down::Down;
use crate::request::admission::Reason;

/// One thing counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Requests sent on with a slot that the ledger gave.
    Atomic,
    /// Requests sent on with a slot chosen here.
    Local,
    /// Requests sent on with a slot chosen here, by why the ledger was not asked, or gave none.
    LocalFor(Reason),
    /// Requests sent on as they were, by reason.
    Traditional(Reason),
    /// Requests answered by us, by reason.
    Rejected(Reason),
    /// Requests in the gray release, by bucket or override; whatever became of them.
    In,
    /// Requests out of the gray release.
    Out,
    /// Leases that a release found alive.
    Released,
    /// Leases renewed.
    Renewed,
    /// Leases that Redis had forgotten and counts again.
    Readopted,
    /// Leases found expired at their renewal, their slot someone else's.
    Lost,
    /// Releases sent for acquires whose outcome nobody knows; each once, however often it is sent.
    InDoubt,
    /// Grants whose request had left.
    LateGrant,
    /// Releases given up because too many waited; those leases end by expiry.
    Dropped,
    /// Entries of the ledger that a recount found wrong.
    Drift,
    /// Cooldowns asked for.
    Cooldown,
    /// Looks at the operator's overrides that found one to be ignored.
    ControlIgnored,
    /// Headers of pushback that say how long in no form known.
    CooldownMalformed,
    /// Leases granted to probe an account that has cooled.
    Probe,
    /// Probes that succeeded.
    ProbePassed,
    /// Times an account that fails fast was put behind the others.
    Behind,
    /// Replies that say that the pool holds what cannot be there.
    Garbage,
    /// Times an answer took an account out of use.
    Disabled,
    /// Times an answer said that its account is out of pace.
    OutOfPace,
    /// Pushback that an account's adaptive limit was told of.
    AdaptivePushback,
    /// Requests that waited in the queue and were given a slot.
    QueueGranted,
    /// Requests that waited in the queue for as long as they may.
    QueueTimedOut,
    /// Requests whose client left while they waited in the queue.
    QueueLeft,
    /// Requests that waited in the queue when Redis was lost for too long, or refused them.
    QueueFailed,
    /// Requests that were not let into the queue, since as many wait as may.
    QueueRefused,
    /// Requests that another account served than the first.
    FailoverServed,
    /// Requests that were refused as often as they may try.
    FailoverExhausted,
    /// Requests that were refused when it was too late for another try.
    FailoverOverBudget,
    /// Requests that were refused and got no slot of another account.
    FailoverNoOther,
    /// Requests that were refused and that Envoy did not try again.
    FailoverNotRetried,
    /// Shadow: would have been granted.
    ShadowGranted,
    /// Shadow: would have been refused.
    ShadowSaturated,
    /// Shadow: the ledger had no answer.
    ShadowFailed,
    /// Shadow: the account it would have been granted is the one that the traditional way takes.
    ShadowAgreed,
    /// Shadow: the traditional way takes another account than the one it would have been granted.
    ShadowDiffered,
    /// Shadow: nobody knows which account the traditional way takes.
    ShadowUnknown,
    /// Times the pipe became ready.
    PipeReady,
    /// Times the pipe broke, or could not be opened, by why.
    PipeLost(Down),
    /// Times the breaker opened.
    BreakerOpened,
    /// Times the breaker closed again.
    BreakerClosed,
    /// Error replies from Redis, by kind.
    RedisError(Fault),
}

/// A pool's counters without a reason, and their names: `lease.lost` is `slotgate_lease_lost` in Prometheus. The
/// number that [`place`] gives a counter is its line here, from 0.
const POOL: &[(Counter, &str)] = &[
    (Counter::Atomic, "requests;outcome=atomic"),
    (Counter::Local, "requests;outcome=local"),
    (Counter::In, "gray.requests;choice=in"),
    (Counter::Out, "gray.requests;choice=out"),
    (Counter::Released, "lease.released"),
    (Counter::Renewed, "lease.renewed"),
    (Counter::Readopted, "lease.readopted"),
    (Counter::Lost, "lease.lost"),
    (Counter::InDoubt, "lease.in_doubt"),
    (Counter::LateGrant, "lease.late_grant"),
    (Counter::Dropped, "lease.release_dropped"),
    (Counter::Drift, "drift"),
    (Counter::Cooldown, "cooldown"),
    (Counter::ControlIgnored, "control.ignored"),
    (Counter::ShadowGranted, "shadow.granted"),
    (Counter::ShadowSaturated, "shadow.saturated"),
    (Counter::ShadowFailed, "shadow.failed"),
    (Counter::ShadowAgreed, "shadow.agreed"),
    (Counter::ShadowDiffered, "shadow.differed"),
    (Counter::ShadowUnknown, "shadow.unknown"),
    (Counter::CooldownMalformed, "cooldown_malformed"),
    (Counter::Probe, "probe.sent"),
    (Counter::ProbePassed, "probe.passed"),
    (Counter::Behind, "behind"),
    (Counter::Garbage, "garbage"),
    (Counter::QueueGranted, "queue.requests;outcome=granted"),
    (Counter::QueueTimedOut, "queue.requests;outcome=timed_out"),
    (Counter::QueueLeft, "queue.requests;outcome=left"),
    (Counter::QueueFailed, "queue.requests;outcome=failed"),
    (Counter::QueueRefused, "queue.requests;outcome=refused"),
    (Counter::FailoverServed, "failover;outcome=served"),
    (Counter::FailoverExhausted, "failover;outcome=exhausted"),
    (Counter::FailoverOverBudget, "failover;outcome=over_budget"),
    (Counter::FailoverNoOther, "failover;outcome=no_other"),
    (Counter::FailoverNotRetried, "failover;outcome=not_retried"),
    (Counter::Disabled, "disabled"),
    (Counter::OutOfPace, "out_of_pace"),
    (Counter::AdaptivePushback, "adaptive.pushback"),
];
const TRADITIONAL: usize = POOL.len();
const REJECTED: usize = TRADITIONAL + Reason::ALL.len();
const LOCAL: usize = REJECTED + Reason::ALL.len();
/// How many counters a pool has.
pub const IN_POOL: usize = LOCAL + Reason::ALL.len();

/// The same of a worker's own.
const WORKER: &[(Counter, &str)] = &[
    (Counter::PipeReady, "pipe.ready"),
    (Counter::BreakerOpened, "breaker.opened"),
    (Counter::BreakerClosed, "breaker.closed"),
];
const PIPE_LOST: usize = WORKER.len();
const REDIS_ERROR: usize = PIPE_LOST + Down::NAMES.len();
/// How many counters a worker has of its own.
pub const IN_WORKER: usize = REDIS_ERROR + Fault::ALL.len();

/// The label of pools that have no counters of their own, of requests of no pool, and of accounts beyond the bound. No pool
/// or account can be called so.
pub const OTHER: &str = "(other)";

/// The counters of one worker, since it began.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Counts that belong to no pool.
    pub worker: [u64; IN_WORKER],
    /// By pool; the last one counts for all pools that have no place, and for requests of no pool.
    pub pools: Vec<[u64; IN_POOL]>,
    /// How many requests wait in the queue now, by pool in the same way.
    pub waiting: Vec<u64>,
    /// How many requests wait in the queues of all pools together.
    pub waiting_in_all: u64,
    /// Changes with everything counted: comparing this is enough to see whether anything was.
    total: u64,
}

impl Counters {
    /// All counters at 0, with a place for each of this many pools and one for all others.
    #[must_use]
    pub fn new(pools: usize) -> Self {
        Self {
            worker: [0; IN_WORKER],
            pools: vec![[0; IN_POOL]; pools.saturating_add(1)],
            waiting: vec![0; pools.saturating_add(1)],
            waiting_in_all: 0,
            total: 0,
        }
    }

    /// Counts one more, for the worker.
    pub fn add(&mut self, counter: Counter) {
        self.add_in(None, counter, 1);
    }

    /// Counts `more` for a pool, or for requests of none.
    pub fn add_in(&mut self, pool: impl Into<Option<usize>>, counter: Counter, more: u64) {
        self.add_to(pool.into(), counter, more);
    }

    /// So many requests more wait in a pool's queue, or fewer.
    pub fn wait(&mut self, pool: Option<usize>, more: i64) {
        let row = self.row(pool);
        if let Some(waiting) = self.waiting.get_mut(row) {
            *waiting = waiting.saturating_add_signed(more);
        }
        self.waiting_in_all = self.waiting_in_all.saturating_add_signed(more);
        self.touch();
    }

    /// The row of a pool's counters, or that of requests of no pool.
    fn row(&self, pool: Option<usize>) -> usize {
        let last = self.pools.len().saturating_sub(1);
        pool.map_or(last, |pool| pool.min(last))
    }

    #[inline(never)]
    fn add_to(&mut self, pool: Option<usize>, counter: Counter, more: u64) {
        let count = match place(counter) {
            Place::Worker(index) => self.worker.get_mut(index),
            Place::Pool(index) => {
                let row = self.row(pool);
                let pool = self.pools.get_mut(row);
                pool.and_then(|counts| counts.get_mut(index))
            }
        };
        if let Some(count) = count {
            *count = count.saturating_add(more);
        }
        self.total = self.total.wrapping_add(more);
    }

    /// Something changed that is no counter, but shown beside them.
    pub fn touch(&mut self) {
        self.total = self.total.wrapping_add(1);
    }

    /// How many so far, of all pools together.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        match place(counter) {
            Place::Worker(index) => self.worker.get(index).copied().unwrap_or(0),
            Place::Pool(index) => self.pools.iter().filter_map(|pool| pool.get(index)).sum(),
        }
    }

    /// Another number whenever something was counted or touched.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// The names of a worker's own counters in Envoy's stats, in order. A label is `;name=value`.
#[must_use]
pub fn worker_names() -> Vec<String> {
    let mut names: Vec<_> = WORKER.iter().map(|(_, name)| name_of(&[name])).collect();
    for why in Down::NAMES {
        names.push(name_of(&["pipe.lost;reason=", why]));
    }
    for fault in Fault::ALL {
        names.push(name_of(&["redis_error;reason=", fault.as_str()]));
    }
    names
}

/// The names of a pool's counters, in order.
#[must_use]
pub fn pool_names(pool: &str) -> Vec<String> {
    let names = POOL
        .iter()
        .map(|(_, name)| name_of(&[name, ";pool=", pool]));
    let mut names: Vec<_> = names.collect();
    for name in [
        "requests;outcome=traditional;reason=",
        "requests;outcome=rejected;reason=",
        // A metric of its own: those with `outcome=local` are each counted there already.
        "local.requests;reason=",
    ] {
        for why in Reason::ALL {
            names.push(name_of(&[name, why.as_str(), ";pool=", pool]));
        }
    }
    names
}

/// A metric's name from its parts.
#[inline(never)]
#[must_use]
pub fn name_of(parts: &[&str]) -> String {
    let mut name = String::from("slotgate.");
    for part in parts {
        name.push_str(part);
    }
    name
}

/// Where a counter's number is kept: its index in [`Counters::worker`] or in a pool's row of [`Counters::pools`].
enum Place {
    Worker(usize),
    Pool(usize),
}

fn place(counter: Counter) -> Place {
    let of = |first: usize, place: usize| first.saturating_add(place);
    Place::Pool(match counter {
        Counter::Atomic => 0,
        Counter::Local => 1,
        Counter::In => 2,
        Counter::Out => 3,
        Counter::Released => 4,
        Counter::Renewed => 5,
        Counter::Readopted => 6,
        Counter::Lost => 7,
        Counter::InDoubt => 8,
        Counter::LateGrant => 9,
        Counter::Dropped => 10,
        Counter::Drift => 11,
        Counter::Cooldown => 12,
        Counter::ControlIgnored => 13,
        Counter::ShadowGranted => 14,
        Counter::ShadowSaturated => 15,
        Counter::ShadowFailed => 16,
        Counter::ShadowAgreed => 17,
        Counter::ShadowDiffered => 18,
        Counter::ShadowUnknown => 19,
        Counter::CooldownMalformed => 20,
        Counter::Probe => 21,
        Counter::ProbePassed => 22,
        Counter::Behind => 23,
        Counter::Garbage => 24,
        Counter::QueueGranted => 25,
        Counter::QueueTimedOut => 26,
        Counter::QueueLeft => 27,
        Counter::QueueFailed => 28,
        Counter::QueueRefused => 29,
        Counter::FailoverServed => 30,
        Counter::FailoverExhausted => 31,
        Counter::FailoverOverBudget => 32,
        Counter::FailoverNoOther => 33,
        Counter::FailoverNotRetried => 34,
        Counter::Disabled => 35,
        Counter::OutOfPace => 36,
        Counter::AdaptivePushback => 37,
        Counter::Traditional(why) => of(TRADITIONAL, why as usize),
        Counter::Rejected(why) => of(REJECTED, why as usize),
        Counter::LocalFor(why) => of(LOCAL, why as usize),
        Counter::PipeReady => return Place::Worker(0),
        Counter::BreakerOpened => return Place::Worker(1),
        Counter::BreakerClosed => return Place::Worker(2),
        Counter::PipeLost(why) => return Place::Worker(of(PIPE_LOST, why.place())),
        Counter::RedisError(fault) => return Place::Worker(of(REDIS_ERROR, fault as usize)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_a_place_and_a_name_of_its_own() {
        let worker = worker_names();
        let pool = pool_names("p");
        assert_eq!((worker.len(), pool.len()), (IN_WORKER, IN_POOL));
        let distinct: std::collections::HashSet<_> = worker.iter().chain(&pool).collect();
        assert_eq!(distinct.len(), IN_WORKER + IN_POOL);
        let is = |counter, expected: &str| {
            let name = match place(counter) {
                Place::Worker(index) => worker[index].clone(),
                Place::Pool(index) => pool[index].replace(";pool=p", ""),
            };
            assert_eq!(name, format!("slotgate.{expected}"));
        };
        for (counter, name) in POOL.iter().chain(WORKER) {
            is(*counter, name);
        }
        is(Counter::Dropped, "lease.release_dropped");
        is(Counter::ShadowUnknown, "shadow.unknown");
        is(Counter::BreakerClosed, "breaker.closed");
        for reason in Reason::ALL {
            let why = reason.as_str();
            let traditional = format!("requests;outcome=traditional;reason={why}");
            is(Counter::Traditional(reason), &traditional);
            let rejected = format!("requests;outcome=rejected;reason={why}");
            is(Counter::Rejected(reason), &rejected);
            let local = format!("local.requests;reason={why}");
            is(Counter::LocalFor(reason), &local);
        }
        for fault in Fault::ALL {
            let name = format!("redis_error;reason={}", fault.as_str());
            is(Counter::RedisError(fault), &name);
        }
        is(Counter::PipeLost(Down::Closed), "pipe.lost;reason=closed");
        let wrong = Down::WrongServer(Fault::ReadOnly);
        is(Counter::PipeLost(wrong), "pipe.lost;reason=wrong_server");
    }

    #[test]
    fn counting() {
        let mut counters = Counters::new(1);
        counters.add_in(0, Counter::Lost, 1);
        counters.add_in(1, Counter::Lost, 2);
        counters.add_in(7, Counter::Lost, 3);
        counters.add_in(None, Counter::Lost, 1);
        counters.add(Counter::PipeReady);
        assert_eq!(counters.get(Counter::Lost), 7);
        assert_eq!(counters.get(Counter::PipeReady), 1);
        let by_pool: Vec<u64> = counters
            .pools
            .iter()
            .map(|pool| pool.iter().sum())
            .collect();
        assert_eq!(by_pool, [1, 6], "the last one is the others'");
        assert_eq!(counters.total(), 8);
    }
}
