//! The commands that a worker sends.

use crate::config::TenantLimits;
use crate::ledger::commands::{AccountReport, Place};
use crate::request::lease::LeaseId;

/// Accounts in one sync command: Redis does nothing else for 2 to 6 ms (docs/ledger.md#a-large-pool).
pub(super) const SYNC_PART: usize = 500;

/// A command on its way.
#[derive(Debug)]
pub(super) enum Command {
    /// Leases of one shape.
    Acquire(Vec<AcquireCommand>),
    Release {
        pool: usize,
        releases: Vec<PendingRelease>,
    },
    Renew {
        pool: usize,
        leases: Vec<HeldLease>,
    },
    Sync {
        pool: usize,
        step: SyncStep,
        digest: u64,
    },
    /// One step of a recount; `soon`: the pool holds what cannot be there.
    Recount {
        pool: usize,
        soon: bool,
    },
    /// Reads the operator's overrides.
    Poll {
        pool: usize,
    },
    /// The answer to someone's question: about a request, or about this worker.
    Answer {
        pool: usize,
        text: String,
        about: About,
    },
    /// Tells the ledger what a response means for an account.
    Report {
        slot: usize,
        pool: usize,
        account: u32,
        report: AccountReport,
    },
}

impl Command {
    /// The pool whose keys it is about.
    pub(super) fn pool(&self) -> usize {
        match self {
            Self::Acquire(leases) => leases.first().map_or(0, |acquire| acquire.pool),
            Self::Release { pool, .. }
            | Self::Renew { pool, .. }
            | Self::Sync { pool, .. }
            | Self::Recount { pool, .. }
            | Self::Poll { pool }
            | Self::Answer { pool, .. }
            | Self::Report { pool, .. } => *pool,
        }
    }

    /// One of the many steps that put a large pool in force: nobody waits for them.
    pub(super) fn is_part(&self) -> bool {
        match self {
            Self::Sync { step, .. } => match step {
                SyncStep::From(_)
                | SyncStep::Sweep { .. }
                | SyncStep::Last { .. }
                | SyncStep::Stray(_) => true,
                SyncStep::Ask | SyncStep::Whole => false,
            },
            Self::Acquire(_)
            | Self::Release { .. }
            | Self::Renew { .. }
            | Self::Recount { .. }
            | Self::Poll { .. }
            | Self::Answer { .. }
            | Self::Report { .. } => false,
        }
    }
}

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// The one worker that knows it answers.
    Request,
    /// Every worker answers.
    Worker,
}

/// What a sync command carries.
#[derive(Debug, Clone)]
pub(super) enum SyncStep {
    /// Nothing: are the accounts wanted?
    Ask,
    /// All accounts.
    Whole,
    /// Some accounts of a large pool, from this one on.
    From(usize),
    /// The accounts that have vanished, and where the scan goes on.
    Sweep { cursor: String, gone: Vec<String> },
    /// The last that has vanished.
    Last { gone: Vec<String> },
    /// An account in the ledger that nobody configured.
    Stray(String),
}

/// One request's wish for a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct AcquireCommand {
    pub(super) pool: usize,
    pub(super) slot: usize,
    pub(super) lease: LeaseId,
    pub(super) kind: AcquireKind,
    pub(super) session: Option<[u8; 16]>,
    pub(super) scope: Option<[u8; 16]>,
    /// What its tenant may take.
    pub(super) limits: TenantLimits,
    /// Where it stands in the queue, if it must wait.
    pub(super) place: Place,
    /// Whether accounts were tried before, which it must not get.
    pub(super) again: bool,
}

impl AcquireCommand {
    /// The properties that all acquires of one command must share. Sorted by them, dry acquires come first.
    pub(super) fn shape(&self) -> (u8, usize, bool, bool, bool) {
        let mode = match self.kind {
            AcquireKind::Dry | AcquireKind::DryBeside(_) => 0,
            AcquireKind::Take | AcquireKind::Bind => 1,
            AcquireKind::Record(_) => 2,
        };
        (
            mode,
            self.pool,
            self.session.is_some(),
            self.scope.is_some(),
            self.again,
        )
    }
}

/// The purpose of an acquire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcquireKind {
    Take,
    /// The lease was granted while it waited: its session may have to be bound to the account.
    Bind,
    /// Only asked: nobody knows which account the traditional way takes.
    Dry,
    /// Only asked, to be compared with this account, which the traditional way takes.
    DryBeside(u32),
    Record(u32),
}

/// A lease to be renewed.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldLease {
    pub(super) slot: usize,
    pub(super) lease: LeaseId,
    pub(super) account: u32,
    /// The ledger's epoch at the grant; 0 when the lease isn't known to be recorded.
    pub(super) epoch: u64,
}

/// A lease that must end. Its release waits to be sent, or is under way and may have to be sent again.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingRelease {
    pub(super) due_ms: u64,
    pub(super) pool: usize,
    pub(super) lease: LeaseId,
    /// The lease has expired by then, in ms: nothing is left to release.
    pub(super) over_ms: u64,
    pub(super) turn: Turn,
}

/// Where a release is in being sent once or twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A copy of it may be kept when it is sent.
    First,
    /// A copy of it waits already, to be sent after it.
    FirstOfTwo,
    /// No copy of it is kept when it is sent.
    Last,
}
