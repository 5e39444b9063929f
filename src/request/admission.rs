//! One request, from its headers to its end: the state machine at the heart of slotgate.
//!
//! Pure: [`Phase::step`] takes an [`Event`] and gives the next phase and the [`Effects`] to carry out. A lease is
//! released in one place for each way it can end, and only here.

use crate::config::{OnFailure, OnSaturated, Traditional};
use crate::request::lease::LeaseId;

/// The state of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Headers not decided on yet.
    Idle,
    /// Its acquire is on the way; the request is paused.
    Acquiring {
        /// The lease asked for.
        lease: LeaseId,
    },
    /// No slot was free: it waits for its turn in the ledger's queue, still paused.
    Waiting {
        /// The lease that will hold the slot.
        lease: LeaseId,
    },
    /// It uses an account, until its stream ends.
    Holding {
        /// The lease that holds the slot.
        lease: LeaseId,
        /// The account, by its index in the configuration.
        account: u32,
        /// Whether the ledger or this worker chose the account.
        path: Path,
    },
    /// It goes the traditional way and holds nothing.
    Traditional(Reason),
    /// It was answered by us and holds nothing.
    Rejected(Reason),
    /// Its stream is over.
    Done,
}

/// Which way a request went, as told to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The ledger chose the account and took the slot.
    Atomic,
    /// Left as it was.
    Traditional,
    /// This worker chose the account on its own counts.
    Local,
}

impl Path {
    /// The name of the path in `x-slotgate-path`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Atomic => "atomic",
            Self::Traditional => "traditional",
            Self::Local => "local",
        }
    }
}

/// Why a request did not take a slot by the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its bucket is out of the percentage, or an override says so.
    OutOfPercentage,
    /// No pool's rules fit it.
    NoPool,
    /// `gray.mode` is `shadow`.
    Shadow,
    /// The pipe to Redis is down.
    PipeDown,
    /// Acquires failed too often in a row.
    BreakerOpen,
    /// Too many commands wait already.
    QueueFull,
    /// No reply within `acquire_timeout_ms`.
    TimedOut,
    /// The pipe broke before the reply.
    PipeLost,
    /// Redis answered with an error.
    Refused,
    /// Redis named an account that this configuration doesn't have.
    UnknownAccount,
    /// No account can take a lease.
    Saturated,
    /// It waited for a slot as long as it may.
    QueueTimeout,
    /// As many requests wait for a slot as may.
    WaitingFull,
    /// Its tenant holds as many leases as it may.
    TenantLimit,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::OutOfPercentage,
        Self::NoPool,
        Self::Shadow,
        Self::PipeDown,
        Self::BreakerOpen,
        Self::QueueFull,
        Self::TimedOut,
        Self::PipeLost,
        Self::Refused,
        Self::UnknownAccount,
        Self::Saturated,
        Self::QueueTimeout,
        Self::WaitingFull,
        Self::TenantLimit,
    ];

    /// The name of the reason in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfPercentage => "out_of_percentage",
            Self::NoPool => "no_pool",
            Self::Shadow => "shadow",
            Self::PipeDown => "pipe_down",
            Self::BreakerOpen => "breaker_open",
            Self::QueueFull => "queue_full",
            Self::TimedOut => "timed_out",
            Self::PipeLost => "pipe_lost",
            Self::Refused => "refused",
            Self::UnknownAccount => "unknown_account",
            Self::Saturated => "saturated",
            Self::QueueTimeout => "queue_timeout",
            Self::WaitingFull => "waiting_full",
            Self::TenantLimit => "tenant_limit",
        }
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It takes no part: out of the percentage, no pool, or shadowed.
    Out(Reason),
    /// It is in, and its acquire is queued.
    In(LeaseId),
    /// It is in, and no acquire can be sent.
    Unavailable(Reason),
    /// The lease is held.
    Granted {
        /// The account, by its index in the configuration.
        account: u32,
    },
    /// It takes no lease, and does not wait for one.
    Saturated {
        /// Why: no slot is free, too many wait, or its tenant is at its cap.
        reason: Reason,
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
    /// No slot is free, and it stands in the queue.
    Waits,
    /// It stood in the queue for as long as it may.
    WaitedTooLong {
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
    /// The acquire failed.
    Failed {
        /// How.
        reason: Reason,
        /// Whether Redis may have taken the lease nevertheless.
        in_doubt: bool,
    },
    /// This worker chose an account itself.
    ChosenLocally {
        /// The lease to record.
        lease: LeaseId,
        /// The account, by its index in the configuration.
        account: u32,
    },
    /// This worker found no room in any account.
    FullLocally,
    /// The upstream itself answered with a status of `cooldown.statuses`.
    Pushback {
        /// For how long the account should rest, in ms.
        cooldown_ms: u64,
    },
    /// The account refused it or could not be reached: it asks for another one.
    TriesAgain {
        /// The lease asked for.
        lease: LeaseId,
    },
    /// The same, and it can ask for none.
    TriesNoMore(Reason),
    /// The stream is over, however it ended.
    Ended,
}

impl Event {
    /// The account that was chosen here, by its index.
    #[must_use]
    pub fn account_chosen_locally(self) -> Option<u32> {
        match self {
            Self::ChosenLocally { account, .. } => Some(account),
            Self::Out(_)
            | Self::In(_)
            | Self::Unavailable(_)
            | Self::Granted { .. }
            | Self::Saturated { .. }
            | Self::Waits
            | Self::WaitedTooLong { .. }
            | Self::Failed { .. }
            | Self::FullLocally
            | Self::Pushback { .. }
            | Self::TriesAgain { .. }
            | Self::TriesNoMore(_)
            | Self::Ended => None,
        }
    }
}

/// An action that a step asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Let the request go on with this account's headers, or as it is.
    Forward {
        /// Which way it goes.
        path: Path,
        /// The lease and the account it uses, if any.
        holds: Option<(LeaseId, u32)>,
    },
    /// Answer 429.
    RejectSaturated {
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
    /// Answer 503.
    RejectUnavailable,
    /// Choose an account on this worker's own counts; answered by `ChosenLocally` or `FullLocally`.
    ChooseLocally,
    /// Count one more request of this worker on the account.
    CountUp {
        /// The account, by its index in the configuration.
        account: u32,
    },
    /// Tell the ledger of a lease, without waiting.
    Record {
        /// The lease.
        lease: LeaseId,
        /// The account, by its index in the configuration.
        account: u32,
    },
    /// Stop new leases of the account for a while.
    Cool {
        /// The account, by its index in the configuration.
        account: u32,
        /// For how long, in ms.
        cooldown_ms: u64,
    },
    /// End the lease in the ledger.
    Release {
        /// The lease.
        lease: LeaseId,
        /// Whether the acquire may still be on its way.
        in_doubt: bool,
    },
    /// Count one request of this worker less on the account.
    CountDown {
        /// The account, by its index in the configuration.
        account: u32,
    },
}

/// What the configuration says about the ways out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// When no account has a free slot.
    pub saturated: OnSaturated,
    /// When the ledger cannot answer.
    pub failure: OnFailure,
    /// How requests go that don't take a slot by the ledger.
    pub traditional: Traditional,
}

impl Policy {
    /// For a request that has tried an account already: it has that account's headers, so it goes on with a slot or not at all.
    #[must_use]
    pub fn of_later_try(self) -> Self {
        Self {
            saturated: OnSaturated::Reject,
            failure: OnFailure::Reject,
            traditional: Traditional::Passthrough,
        }
    }
}

/// At most three effects, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects([Option<Effect>; 3]);

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Effect>, 3>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

const NONE: Effects = Effects([None; 3]);

const fn one(effect: Effect) -> Effects {
    Effects([Some(effect), None, None])
}

const fn two(first: Effect, second: Effect) -> Effects {
    Effects([Some(first), Some(second), None])
}

const fn three(first: Effect, second: Effect, third: Effect) -> Effects {
    Effects([Some(first), Some(second), Some(third)])
}

impl Phase {
    /// The lease it holds, and the account by its index.
    #[must_use]
    pub fn holds(self) -> Option<(LeaseId, u32)> {
        match self {
            Self::Holding { lease, account, .. } => Some((lease, account)),
            Self::Idle
            | Self::Acquiring { .. }
            | Self::Waiting { .. }
            | Self::Traditional(_)
            | Self::Rejected(_)
            | Self::Done => None,
        }
    }

    /// The lease that it has asked for and not been given so far.
    #[must_use]
    pub fn awaits(self) -> Option<LeaseId> {
        match self {
            Self::Acquiring { lease } | Self::Waiting { lease } => Some(lease),
            Self::Idle
            | Self::Holding { .. }
            | Self::Traditional(_)
            | Self::Rejected(_)
            | Self::Done => None,
        }
    }

    /// Why it goes without the ledger, or was answered by us.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Traditional(reason) | Self::Rejected(reason) => Some(reason),
            Self::Idle
            | Self::Acquiring { .. }
            | Self::Waiting { .. }
            | Self::Holding { .. }
            | Self::Done => None,
        }
    }

    /// Which way it was sent on; `None` when it was not, or not yet.
    #[must_use]
    pub fn path(self) -> Option<Path> {
        match self {
            Self::Holding { path, .. } => Some(path),
            Self::Traditional(_) => Some(Path::Traditional),
            Self::Idle
            | Self::Acquiring { .. }
            | Self::Waiting { .. }
            | Self::Rejected(_)
            | Self::Done => None,
        }
    }

    /// The next phase, and what to do. An event that has no meaning in a phase changes nothing.
    #[must_use]
    pub fn step(self, event: Event, policy: &Policy) -> (Self, Effects) {
        match (self, event) {
            (Self::Idle, Event::Out(reason)) => traditional(reason, policy),
            (Self::Idle, Event::In(lease)) => (Self::Acquiring { lease }, NONE),
            (Self::Idle, Event::Unavailable(reason)) => failed(reason, policy),

            (Self::Acquiring { lease } | Self::Waiting { lease }, Event::Granted { account }) => (
                Self::Holding {
                    lease,
                    account,
                    path: Path::Atomic,
                },
                two(
                    Effect::CountUp { account },
                    Effect::Forward {
                        path: Path::Atomic,
                        holds: Some((lease, account)),
                    },
                ),
            ),
            (
                Self::Idle | Self::Acquiring { .. } | Self::Waiting { .. },
                Event::Saturated {
                    reason,
                    retry_after_ms,
                },
            ) => saturated(reason, retry_after_ms, policy),
            (Self::Acquiring { lease }, Event::Waits) => (Self::Waiting { lease }, NONE),
            (Self::Waiting { lease }, Event::WaitedTooLong { retry_after_ms }) => {
                let (phase, Effects([way_out, ..])) =
                    saturated(Reason::QueueTimeout, retry_after_ms, policy);
                let in_doubt = false;
                let release = Some(Effect::Release { lease, in_doubt });
                (phase, Effects([release, way_out, None]))
            }
            (
                Self::Acquiring { lease } | Self::Waiting { lease },
                Event::Failed { reason, in_doubt },
            ) => {
                let (phase, Effects([way_out, ..])) = failed(reason, policy);
                let release = in_doubt.then_some(Effect::Release { lease, in_doubt });
                (phase, Effects([release, way_out, None]))
            }
            (Self::Waiting { lease }, Event::Ended) => (
                Self::Done,
                one(Effect::Release {
                    lease,
                    in_doubt: false,
                }),
            ),
            (Self::Acquiring { lease }, Event::Ended) => (
                Self::Done,
                one(Effect::Release {
                    lease,
                    in_doubt: true,
                }),
            ),

            // A grant nobody waits for any more. Its release is on the way since the request left; this one is free.
            (
                Self::Holding { .. }
                | Self::Idle
                | Self::Traditional(_)
                | Self::Rejected(_)
                | Self::Done,
                Event::Granted { .. },
            ) => (self, NONE),

            (Self::Traditional(_), Event::ChosenLocally { lease, account }) => (
                Self::Holding {
                    lease,
                    account,
                    path: Path::Local,
                },
                three(
                    Effect::CountUp { account },
                    Effect::Record { lease, account },
                    Effect::Forward {
                        path: Path::Local,
                        holds: Some((lease, account)),
                    },
                ),
            ),
            (Self::Traditional(reason), Event::FullLocally) if policy.saturated.rejects() => (
                Self::Rejected(match reason {
                    Reason::QueueTimeout | Reason::WaitingFull => reason,
                    _ => Reason::Saturated,
                }),
                one(Effect::RejectSaturated {
                    retry_after_ms: 1000,
                }),
            ),
            (Self::Traditional(reason), Event::FullLocally) => {
                (Self::Traditional(reason), one(AS_IT_IS))
            }

            (Self::Holding { account, .. }, Event::Pushback { cooldown_ms }) => (
                self,
                one(Effect::Cool {
                    account,
                    cooldown_ms,
                }),
            ),
            (
                Self::Holding {
                    lease: held,
                    account,
                    ..
                },
                Event::TriesAgain { lease },
            ) => (
                Self::Acquiring { lease },
                two(
                    Effect::CountDown { account },
                    Effect::Release {
                        lease: held,
                        in_doubt: false,
                    },
                ),
            ),
            (Self::Holding { lease, account, .. }, Event::TriesNoMore(reason)) => (
                Self::Rejected(reason),
                three(
                    Effect::CountDown { account },
                    Effect::Release {
                        lease,
                        in_doubt: false,
                    },
                    Effect::RejectUnavailable,
                ),
            ),
            (Self::Holding { lease, account, .. }, Event::Ended) => (
                Self::Done,
                two(
                    Effect::CountDown { account },
                    Effect::Release {
                        lease,
                        in_doubt: false,
                    },
                ),
            ),

            (Self::Idle | Self::Traditional(_) | Self::Rejected(_) | Self::Done, Event::Ended) => {
                (Self::Done, NONE)
            }
            (
                Self::Acquiring { .. }
                | Self::Waiting { .. }
                | Self::Holding { .. }
                | Self::Traditional(_)
                | Self::Rejected(_)
                | Self::Done,
                Event::Out(_) | Event::In(_) | Event::Unavailable(_),
            )
            | (
                Self::Holding { .. } | Self::Traditional(_) | Self::Rejected(_) | Self::Done,
                Event::Saturated { .. } | Event::Failed { .. },
            )
            | (Self::Idle, Event::Failed { .. })
            | (
                Self::Idle
                | Self::Waiting { .. }
                | Self::Holding { .. }
                | Self::Traditional(_)
                | Self::Rejected(_)
                | Self::Done,
                Event::Waits,
            )
            | (
                Self::Idle
                | Self::Acquiring { .. }
                | Self::Holding { .. }
                | Self::Traditional(_)
                | Self::Rejected(_)
                | Self::Done,
                Event::WaitedTooLong { .. },
            )
            | (
                Self::Idle
                | Self::Acquiring { .. }
                | Self::Waiting { .. }
                | Self::Holding { .. }
                | Self::Rejected(_)
                | Self::Done,
                Event::ChosenLocally { .. } | Event::FullLocally,
            )
            | (
                Self::Idle
                | Self::Acquiring { .. }
                | Self::Waiting { .. }
                | Self::Traditional(_)
                | Self::Rejected(_)
                | Self::Done,
                Event::Pushback { .. } | Event::TriesAgain { .. } | Event::TriesNoMore(_),
            ) => (self, NONE),
        }
    }
}

const AS_IT_IS: Effect = Effect::Forward {
    path: Path::Traditional,
    holds: None,
};

fn traditional(reason: Reason, policy: &Policy) -> (Phase, Effects) {
    let effect = match (policy.traditional, reason) {
        // Without a pool there is nothing to choose from.
        (Traditional::Passthrough, _) | (Traditional::Local { .. }, Reason::NoPool) => AS_IT_IS,
        (Traditional::Local { .. }, _) => Effect::ChooseLocally,
    };
    (Phase::Traditional(reason), one(effect))
}

/// No lease, and no place in the queue. A tenant may not go around its cap by the traditional way.
fn saturated(reason: Reason, retry_after_ms: u64, policy: &Policy) -> (Phase, Effects) {
    if policy.saturated.rejects() || reason == Reason::TenantLimit {
        let effect = Effect::RejectSaturated { retry_after_ms };
        (Phase::Rejected(reason), one(effect))
    } else {
        traditional(reason, policy)
    }
}

fn failed(reason: Reason, policy: &Policy) -> (Phase, Effects) {
    match policy.failure {
        OnFailure::Traditional => traditional(reason, policy),
        OnFailure::Reject => (Phase::Rejected(reason), one(Effect::RejectUnavailable)),
    }
}
