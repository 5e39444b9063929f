//! The commands that a worker has under way.

use crate::ledger::commands::AccountReport;
use crate::ledger::source::Script;
use crate::request::admission::Reason;
use crate::request::lease::LeaseId;

/// A command on its way.
#[derive(Debug)]
pub(super) enum Command {
    Auth,
    Select,
    SetName,
    Load(Script),
    Version,
    /// Leases of one shape.
    Acquire {
        leases: Vec<AcquireCommand>,
        tries: u8,
    },
    Release {
        pool: usize,
        releases: Vec<PendingRelease>,
        tries: u8,
    },
    Renew {
        pool: usize,
        leases: Vec<(usize, LeaseId)>,
        tries: u8,
    },
    Sync {
        pool: usize,
        step: SyncStep,
        tries: u8,
    },
    Reconcile {
        pool: usize,
        tries: u8,
    },
    Look {
        pool: usize,
        tries: u8,
    },
    Answer {
        pool: usize,
        text: String,
    },
    Cooldown {
        slot: usize,
        pool: usize,
        account: u32,
        heard: AccountReport,
        tries: u8,
    },
}

impl Command {
    /// Whose ledger it is about.
    pub(super) fn pool(&self) -> Option<usize> {
        match self {
            Self::Auth | Self::Select | Self::SetName | Self::Version | Self::Load(_) => None,
            Self::Acquire { leases, .. } => leases.first().map(|acquire| acquire.pool),
            Self::Release { pool, .. }
            | Self::Renew { pool, .. }
            | Self::Sync { pool, .. }
            | Self::Reconcile { pool, .. }
            | Self::Look { pool, .. }
            | Self::Answer { pool, .. }
            | Self::Cooldown { pool, .. } => Some(*pool),
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
            Self::Auth
            | Self::Select
            | Self::SetName
            | Self::Version
            | Self::Load(_)
            | Self::Acquire { .. }
            | Self::Release { .. }
            | Self::Renew { .. }
            | Self::Reconcile { .. }
            | Self::Look { .. }
            | Self::Answer { .. }
            | Self::Cooldown { .. } => false,
        }
    }
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
    /// What has vanished of what was shown, and where to look on.
    Sweep { cursor: String, gone: Vec<String> },
    /// The last that has vanished.
    Last { gone: Vec<String> },
    /// An account in the ledger that nobody configured.
    Stray(String),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct AcquireCommand {
    pub(super) pool: usize,
    pub(super) slot: usize,
    pub(super) lease: LeaseId,
    pub(super) kind: AcquireKind,
    pub(super) session: Option<[u8; 16]>,
    pub(super) scope: Option<[u8; 16]>,
}

impl AcquireCommand {
    /// What must be the same of all in one command; what is only asked comes first.
    pub(super) fn shape(&self) -> (u8, usize, bool, bool) {
        let mode = match self.kind {
            AcquireKind::Dry | AcquireKind::DryBeside(_) => 0,
            AcquireKind::Take => 1,
            AcquireKind::Record(_) => 2,
        };
        (
            mode,
            self.pool,
            self.session.is_some(),
            self.scope.is_some(),
        )
    }
}

/// An acquire that a lost pipe took along.
#[derive(Debug)]
pub(super) struct LostAcquire {
    pub(super) acquire: AcquireCommand,
    pub(super) reason: Reason,
    /// Whether Redis may have taken the lease.
    pub(super) in_doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcquireKind {
    Take,
    /// Only asked: nobody knows which account the traditional way takes.
    Dry,
    /// Only asked, to be compared with this account, which the traditional way takes.
    DryBeside(u32),
    Record(u32),
}

/// A lease that must end and whose release could not be sent, or may have been too early.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingRelease {
    pub(super) due_ms: u64,
    pub(super) pool: usize,
    pub(super) lease: LeaseId,
    /// It has ended by itself by then, in ms.
    pub(super) over_ms: u64,
    /// Sent once already; this is the second time.
    pub(super) sent: bool,
}
