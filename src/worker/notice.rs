//! What an operator should read in the log.

use crate::ledger::fault::Fault;
use crate::pipe::down::Down;
use crate::pipe::greeting::Refusal;
use crate::pool::state::State;
use crate::request::admission::Reason;
use crate::upstream::answer::Status;
use std::fmt;

/// How many reasons are remembered as said. Others are not said meanwhile.
const MOST_SAID: usize = 8;
/// How many accounts are named in one notice.
const NAMED: usize = 10;

/// What an operator should read, once for each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The pipe serves again.
    PipeReady,
    /// The pipe is down, and why.
    PipeDown(Down),
    /// The pipe is down because the server refused a part of the greeting, or can't serve us now.
    PipeRefused(Down, Refusal),
    /// The pipe is down, and never served since this worker began: what leads to Redis may be set up wrongly.
    PipeNeverServed {
        /// Why.
        why: Down,
        /// The cluster of the pipe.
        cluster: String,
    },
    /// Envoy opens no stream through this cluster.
    PipeUnopened {
        /// Its name.
        cluster: String,
    },
    /// Acquires failed too often in a row, the last of them so, with this error of Redis.
    BreakerOpened(Reason, Option<Fault>),
    /// Acquires are answered again.
    BreakerClosed,
    /// A pool's accounts were put in force.
    Replaced {
        /// The pool's name.
        pool: String,
        /// The revision.
        revision: u64,
    },
    /// Redis holds a higher revision than this configuration.
    Newer {
        /// The pool's name.
        pool: String,
        /// The revision configured here.
        revision: u64,
        /// The revision in force.
        in_force: u64,
    },
    /// Redis holds other accounts under the same revision.
    Differs {
        /// The pool's name.
        pool: String,
        /// The revision.
        revision: u64,
    },
    /// Redis would not take the accounts.
    SyncFailed {
        /// The pool's name.
        pool: String,
        /// How.
        fault: Fault,
    },
    /// A pool's counts were not what its leases say, and were mended.
    Drift {
        /// The pool's name.
        pool: String,
        /// How many entries were wrong.
        entries: u64,
    },
    /// A pool's keys hold what cannot be there; a recount mends it, as far as it can be derived.
    Garbage {
        /// The pool's name.
        pool: String,
        /// Key, field, and what it is not.
        what: String,
    },
    /// Another percentage of the gray release is in force.
    Percent {
        /// The pool's name.
        pool: String,
        /// The override before, in basis points.
        old: Option<u16>,
        /// The override now, in basis points.
        new: Option<u16>,
        /// What holds without one, in basis points.
        configured: u16,
    },
    /// Other accounts are drained.
    Drained {
        /// The pool's name.
        pool: String,
        /// Those before, their ids with a space between.
        old: String,
        /// Those now, the same way.
        new: String,
    },
    /// Something in the operator's overrides is ignored: what was in force before goes on.
    Ignored {
        /// The pool's name.
        pool: String,
        /// What it is.
        what: Ignored,
    },
    /// Leases expired although their streams live.
    Lost {
        /// The pool's name.
        pool: String,
        /// How many.
        leases: usize,
    },
    /// An account's answer took it out of use.
    Disabled {
        /// The pool's name.
        pool: String,
        /// The account's id.
        account: String,
        /// The answer.
        status: Status,
        /// For how long, in ms; 0: until an operator says otherwise.
        for_ms: u64,
    },
    /// An account takes leases otherwise than before, after what this worker saw of it.
    Account {
        /// The pool's name.
        pool: String,
        /// The account's id.
        account: String,
        /// Its state now.
        state: State,
        /// For how long, in ms; 0: until something else happens.
        for_ms: u64,
    },
    /// Envoy was told to try a refused request again, and did not.
    NotRetried {
        /// The pool's name.
        pool: String,
    },
}

/// What is ignored of an operator's overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// A percentage that is no number of basis points.
    Percent,
    /// Drained accounts, because there are too many.
    Drained,
    /// All of it: the key is of another type.
    All,
}

impl Notice {
    /// Whether an operator must act.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        match self {
            Self::PipeReady
            | Self::BreakerClosed
            | Self::Replaced { .. }
            | Self::Percent { .. }
            | Self::Account { .. }
            | Self::Drained { .. } => false,
            Self::PipeDown(_)
            | Self::PipeRefused(..)
            | Self::PipeNeverServed { .. }
            | Self::PipeUnopened { .. }
            | Self::BreakerOpened(..)
            | Self::Newer { .. }
            | Self::Differs { .. }
            | Self::SyncFailed { .. }
            | Self::Drift { .. }
            | Self::Garbage { .. }
            | Self::Ignored { .. }
            | Self::Lost { .. }
            | Self::Disabled { .. }
            | Self::NotRetried { .. } => true,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PipeReady => f.write_str("pipe to Redis is ready"),
            Self::PipeDown(why) => is_down(f, *why),
            Self::PipeNeverServed { why, cluster } => {
                is_down(f, *why)?;
                let look_at = match why {
                    Down::Stuck => "is the bridge before tcp_proxy in the internal listener",
                    Down::Mismatch => "is it Redis that answers, without TLS, behind the bridge",
                    Down::Closed
                    | Down::Unopened
                    | Down::Auth
                    | Down::Select
                    | Down::Load
                    | Down::Refused
                    | Down::WrongServer(_) => {
                        "is there an internal listener with the bridge, and Redis at the address of the cluster behind it"
                    }
                };
                write!(
                    f,
                    "; it never served through cluster {cluster}: {look_at}? `slotgate check` on Envoy's configuration tells"
                )
            }
            Self::PipeRefused(_, refusal) => write!(f, "pipe to Redis is down: {refusal}"),
            Self::PipeUnopened { cluster } => write!(
                f,
                "pipe to Redis is down: Envoy opens no stream through cluster {cluster} (redis.pipe_cluster); is there such a cluster, with an endpoint?"
            ),
            Self::BreakerOpened(reason, fault) => {
                write!(f, "breaker is open: acquires fail ({}", reason.as_str())?;
                if let Some(fault) = fault {
                    write!(f, ": {}", fault.as_str())?;
                }
                f.write_str("), from now on only a probe is sent")
            }
            Self::BreakerClosed => f.write_str("breaker is closed: acquires are answered again"),
            Self::Replaced { pool, revision } => write!(
                f,
                "pool {pool}: accounts of revision {revision} are in force"
            ),
            Self::Newer {
                pool,
                revision,
                in_force,
            } => write!(
                f,
                "pool {pool}: revision {revision} is ignored, Redis holds revision {in_force}; raise pools[].revision to replace it"
            ),
            Self::Differs { pool, revision } => write!(
                f,
                "pool {pool}: Redis holds other accounts under revision {revision}; raise pools[].revision to replace them"
            ),
            Self::SyncFailed { pool, fault } => {
                let fault = fault.as_str();
                write!(f, "pool {pool}: Redis did not take the accounts ({fault})")
            }
            Self::Drift { pool, entries } => {
                write!(
                    f,
                    "pool {pool}: {entries} entries of the ledger were wrong and were mended; did someone edit it?"
                )
            }
            Self::Garbage { pool, what } => write!(
                f,
                "pool {pool}: Redis holds what cannot be there: {what}; a recount mends what can be derived"
            ),
            Self::Percent {
                pool,
                old,
                new,
                configured,
            } => {
                write!(f, "pool {pool}: gray percentage ")?;
                share(f, *old, *configured)?;
                f.write_str(" => ")?;
                share(f, *new, *configured)
            }
            Self::Drained { pool, old, new } => {
                write!(f, "pool {pool}: drained accounts ")?;
                list(f, old, new)?;
                f.write_str(" => ")?;
                list(f, new, old)
            }
            Self::Ignored { pool, what } => {
                write!(f, "pool {pool}: ignored in the key control: ")?;
                f.write_str(match what {
                    Ignored::Percent => "percent, not a whole number of basis points in 0..=10000",
                    Ignored::Drained => "drains, more than 1000",
                    Ignored::All => "everything, it is no hash or may not be read",
                })
            }
            Self::Disabled {
                pool,
                account,
                status,
                for_ms,
            } => {
                let (kind, number) = status.said();
                write!(
                    f,
                    "pool {pool}: account {account} answered {kind}{number} and is out of use "
                )?;
                match for_ms {
                    0 => f.write_str("until an operator lets it go"),
                    ms => write!(f, "for {ms} ms, then it takes one request as a probe"),
                }?;
                f.write_str("; was its key revoked? `slotgate cooldown clear` ends this at once")
            }
            Self::Account {
                pool,
                account,
                state,
                for_ms,
            } => {
                let state = state.as_str();
                write!(f, "pool {pool}: account {account} is {state}")?;
                match for_ms {
                    0 => Ok(()),
                    ms => write!(f, " for {ms} ms"),
                }
            }
            Self::NotRetried { pool } => write!(
                f,
                "pool {pool}: Envoy did not try a refused request again, so its client got the refusal; has the route a retry_policy with x-slotgate-retry and enough num_retries, the cluster enough max_retries, and the route a request_body_buffer_limit for its bodies?"
            ),
            Self::Lost { pool, leases } => {
                write!(
                    f,
                    "pool {pool}: {leases} leases expired while their streams live; their slots may be used twice"
                )
            }
        }
    }
}

/// The pipe is down, and why.
fn is_down(f: &mut fmt::Formatter<'_>, why: Down) -> fmt::Result {
    f.write_str("pipe to Redis is down: ")?;
    f.write_str(match why {
        Down::Closed => "the connection was closed or refused",
        Down::Unopened => "Envoy opened no stream",
        Down::Stuck => "no reply within redis.command_timeout_ms",
        Down::Mismatch => "a reply was not the answer to what was asked",
        Down::Auth => "AUTH was not answered with OK",
        Down::Select => "SELECT was not answered with OK",
        Down::Load => "SCRIPT LOAD was not answered with a digest",
        Down::Refused => "the connection was refused",
        Down::WrongServer(fault) => {
            return write!(f, "this Redis can't serve us ({})", fault.as_str());
        }
    })
}

/// A percentage, and where it comes from.
fn share(f: &mut fmt::Formatter<'_>, set: Option<u16>, configured: u16) -> fmt::Result {
    let points = set.unwrap_or(configured);
    write!(f, "{}.{:02} % (", points / 100, points % 100)?;
    f.write_str(match set {
        Some(_) => "override)",
        None => "configured)",
    })
}

/// Ids of accounts: the first few, those that are not among the others before the rest.
fn list(f: &mut fmt::Formatter<'_>, ids: &str, others: &str) -> fmt::Result {
    f.write_str(if ids.is_empty() { "none" } else { "" })?;
    let mut place = 0_usize;
    for known in [false, true] {
        for id in ids.split(' ') {
            if others.split(' ').any(|other| other == id) == known {
                if place < NAMED {
                    f.write_str(if place > 0 { ", " } else { "" })?;
                    f.write_str(id)?;
                }
                place = place.saturating_add(1);
            }
        }
    }
    match place.saturating_sub(NAMED) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

/// Notices that were logged, so that none is repeated while its cause goes on; and when each cause was last seen, in ms.
#[derive(Debug)]
pub(super) struct Said<T>(Vec<(u64, T)>);

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone + PartialEq> Said<T> {
    /// Whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this has not been said, or was not seen for so long, in ms.
    pub(super) fn is_news(&mut self, now_ms: u64, forget_ms: u64, what: &T) -> bool {
        self.0
            .retain(|(seen_ms, _)| now_ms.saturating_sub(*seen_ms) < forget_ms);
        if let Some((seen_ms, _)) = self.0.iter_mut().find(|(_, said)| said == what) {
            *seen_ms = now_ms;
            return false;
        }
        let room = self.0.len() < MOST_SAID;
        if room {
            self.0.push((now_ms, what.clone()));
        }
        room
    }
}
