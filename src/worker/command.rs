//! The commands that a worker sends, and how they are written.

use super::context::Context;
use crate::config::{Config, Pool};
use crate::ledger::commands::{
    AccountReport, Acquire, Asked, Longest, Mode, Part, Step, Sync, SyncAccount,
};
use crate::ledger::source::ScriptRef;
use crate::pool::AccountTable;
use crate::request::lease::LeaseId;
use crate::units::millionths;

/// Accounts in one sync command: Redis does nothing else for 2 to 6 ms (docs/ledger.md#a-large-pool).
pub(super) const SYNC_PART: usize = 500;
/// About how many entries one step of a recount looks at.
const RECOUNT_ENTRIES: u64 = 500;
/// Another worker takes the recounts over when the one that makes them was silent for this long, in ms; longer than it rests
/// between two of them.
const RECOUNT_SILENCE_MS: u64 = 90_000;
/// How many drained accounts of a pool are followed, and of how many accounts the use is known; of larger pools none.
const POLLED: (u64, u64) = (1000, 64);
/// How long an answer to someone's question is kept, in ms.
const ANSWER_MS: u64 = 10_000;

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
    Answer {
        pool: usize,
        text: String,
    },
    /// What a response said of an account.
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

/// One request's wish for a lease.
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

/// What an acquire is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcquireKind {
    Take,
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
    /// No copy of it is kept when it is sent: this is its second time, or the second time is planned already.
    pub(super) second_planned: bool,
}

/// Writes a command for Redis.
pub(super) fn write(cx: &mut Context, command: &Command, out: &mut Vec<u8>, script: ScriptRef) {
    let (config, random) = (&cx.config, &mut cx.random);
    let Some(view) = cx.pools.get(command.pool()) else {
        return;
    };
    let keys = &view.keys;
    let account_id = |pool: usize, account: u32| {
        let pool = config.pools.get(pool);
        let account = pool.and_then(|pool| pool.accounts.get(account as usize));
        account.map_or("", |account| account.id.as_str())
    };
    match command {
        Command::Acquire(leases) => {
            let arguments = Acquire {
                ttl_ms: config.lease.ttl_ms,
                seed: random.u32(..),
                random: millionths(config.score.random),
                session_ttl_ms: config.affinity.ttl_ms,
                session_mb: config.affinity.max_mb,
            };
            let leases = leases.iter().map(|acquire| Asked {
                lease: acquire.lease,
                mode: match acquire.kind {
                    AcquireKind::Take => Mode::Take,
                    AcquireKind::Dry | AcquireKind::DryBeside(_) => Mode::Dry,
                    AcquireKind::Record(account) => Mode::Force(account_id(acquire.pool, account)),
                },
                session: acquire.session.as_ref(),
                scope: acquire.scope.as_ref(),
            });
            keys.acquire(out, script, &arguments, leases);
        }
        Command::Release { releases, .. } => {
            let leases = releases.iter().map(|release| release.lease);
            keys.release(out, script, leases);
        }
        Command::Renew { pool, leases } => {
            let leases = leases
                .iter()
                .map(|held| (held.lease, account_id(*pool, held.account), held.epoch));
            keys.renew(out, script, config.lease.ttl_ms, leases);
        }
        Command::Sync { pool, step, digest } => {
            let Some(pool) = config.pools.get(*pool) else {
                return;
            };
            let (part, range) = match step {
                SyncStep::Ask => (Part::Whole, None),
                SyncStep::Whole => (Part::Whole, Some((0, usize::MAX))),
                SyncStep::From(0) => (Part::First, Some((0, SYNC_PART))),
                SyncStep::From(from) => (Part::More, Some((*from, SYNC_PART))),
                SyncStep::Sweep { cursor, gone } => (Part::Sweep(cursor, gone), None),
                SyncStep::Last { gone } => (Part::Last(gone), None),
                SyncStep::Stray(id) => (Part::Stray(std::slice::from_ref(id)), None),
            };
            let accounts = range.map(|(from, most)| sync_accounts(pool, &view.table, from, most));
            let arguments = Sync {
                revision: pool.revision,
                digest: *digest,
                epoch: u64::from(random.u32(1..)),
                load: millionths(config.score.load),
                accounts: accounts.as_deref(),
                part,
                longest: longest(config),
                by: &cx.name,
            };
            keys.sync(out, script, &arguments);
        }
        Command::Recount { soon, .. } => {
            let step = Step {
                worker: &cx.name,
                silence_ms: RECOUNT_SILENCE_MS,
                count: RECOUNT_ENTRIES,
                longest: longest(config),
                soon: *soon,
            };
            keys.reconcile(out, script, &step);
        }
        Command::Poll { .. } => {
            let (drained, used) = POLLED;
            keys.overrides(out, script, drained, used);
        }
        Command::Answer { text, .. } => keys.answer(out, text, ANSWER_MS),
        Command::Report {
            pool,
            account,
            report,
            ..
        } => keys.cooldown(out, script, account_id(*pool, *account), *report),
    }
}

fn sync_accounts<'a>(
    pool: &'a Pool,
    table: &AccountTable,
    from: usize,
    most: usize,
) -> Vec<SyncAccount<'a>> {
    let accounts = pool.accounts.iter().zip(table.bases());
    let accounts = accounts.skip(from).take(most);
    accounts
        .map(|(account, base)| SyncAccount {
            id: &account.id,
            max_concurrency: account.max_concurrency,
            base: *base,
            enabled: account.enabled,
        })
        .collect()
}

fn longest(config: &Config) -> Longest {
    let behind_ms = match config.failing.percent {
        0 => 0,
        _ => config.failing.behind_ms,
    };
    Longest {
        ttl_ms: config.lease.ttl_ms,
        cooldown_ms: config.cooldown.max_ms.max(behind_ms),
    }
}
