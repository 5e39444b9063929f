//! How a worker's commands are written for Redis.

use super::command::{About, AcquireKind, Command, SYNC_PART, SyncStep};
use super::context::Context;
use super::waiters::VOUCHED_MS;
use crate::config::{Config, Pool};
use crate::ledger::commands::{
    Acquire, Asked, Longest, Mode, Part, Step, Sync, SyncAccount, Terms, Waiting,
};
use crate::ledger::source::ScriptRef;
use crate::pool::AccountTable;
use crate::pool::Scale;
use crate::units::millionths;

/// About how many entries one step of a recount looks at.
const RECOUNT_ENTRIES: u64 = 500;
/// Another worker takes the recounts over when the one that makes them was silent for this long, in ms; longer than it rests
/// between two of them.
const RECOUNT_SILENCE_MS: u64 = 90_000;
/// How many drained accounts of a pool are followed, and of how many accounts the use is known; of larger pools none.
const POLLED: (u64, u64) = (1000, 64);
/// How long an answer to someone's question is kept, in ms.
const ANSWER_MS: u64 = 10_000;

/// Writes a command for Redis.
/// `tried`: the accounts that the request in a slot has tried.
pub(super) fn write<'a>(
    cx: &mut Context,
    command: &Command,
    tried: impl Fn(usize) -> &'a [u32],
    out: &mut Vec<u8>,
    script: ScriptRef,
) {
    let (config, random) = (&cx.config, &mut cx.random);
    let Some(view) = cx.pools.get(command.pool()) else {
        return;
    };
    let keys = &view.keys;
    let account_id = |pool, account| config.account_id(pool, account).unwrap_or_default();
    match command {
        Command::Acquire(leases) => {
            // Caps are counted where there is no queue, too.
            let joins = config.saturated.queue().is_some() || config.tenant.is_some();
            let again = leases.first().filter(|acquire| acquire.again);
            let tried = again.map_or(&[][..], |acquire| tried(acquire.slot));
            let tried = tried
                .iter()
                .map(|account| account_id(command.pool(), *account));
            let tried: Vec<_> = tried.collect();
            let arguments = Acquire {
                tried: &tried,
                ttl_ms: config.lease.ttl_ms,
                seed: random.u32(..),
                random: millionths(config.score.random),
                session_ttl_ms: config.affinity.ttl_ms,
                session_mb: config.affinity.max_mb,
                waiting: Waiting {
                    most: config
                        .saturated
                        .queue()
                        .map_or(0, |queue| queue.max_waiting),
                    vouched_ms: VOUCHED_MS,
                    channel: &cx.channel,
                },
            };
            let leases = leases.iter().map(|acquire| Asked {
                lease: acquire.lease,
                mode: match acquire.kind {
                    AcquireKind::Take | AcquireKind::Bind if joins => Mode::Join(Terms {
                        limits: acquire.limits,
                        cookie: acquire.slot as u64,
                        place: acquire.place,
                    }),
                    AcquireKind::Take | AcquireKind::Bind => Mode::Take,
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
                scale: Scale::of(pool, config.score, config.priority_mode),
                accounts_are_ledgers: pool.accounts_are_ledgers,
                adaptive: config.adaptive.unwrap_or(0),
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
        Command::Answer { text, about, .. } => match about {
            About::Request => keys.answer(out, text, ANSWER_MS),
            About::Worker => keys.add_answer(out, text),
        },
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
    let accounts = accounts.take(pool.listed).skip(from).take(most);
    accounts
        .map(|(account, base)| SyncAccount {
            id: &account.id,
            max_concurrency: account.max_concurrency,
            base: *base,
            enabled: account.enabled,
            pace: account.pace,
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
        cooldown_ms: config
            .cooldown
            .max_ms
            .max(behind_ms)
            .max(config.upstream.longest_disable_ms()),
    }
}
