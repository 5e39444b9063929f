//! Pools that had no free slot a moment ago: for as long as `saturated.refuse_ms` says, their requests are told here what the
//! ledger last said, so that clients which come back at once do not keep Redis busy with the same answer.

use super::command::{AcquireCommand, AcquireKind};
use super::context::Context;
use crate::config::TenantLimits;
use crate::ledger::commands::Acquired;

/// What is known of one pool.
#[derive(Debug, Clone, Copy, Default)]
struct Full {
    /// Until when its requests are refused here, in ms.
    until_ms: u64,
    /// When they are to come back, in ms.
    retry_after_ms: u64,
    /// When this worker last gave a slot of it back, in ms. Answers to what was asked before say nothing of that slot.
    freed_ms: Option<u64>,
}

/// The pools of a worker, by index.
#[derive(Debug)]
pub(super) struct FullPools(Vec<Full>);

impl FullPools {
    pub(super) fn new(pools: usize) -> Self {
        Self(vec![Full::default(); pools])
    }

    /// When a request is to come back, in ms, if it is refused without being asked for; `None`: the ledger decides. A tenant
    /// at its cap is refused for another reason than this one, so the ledger decides on all that have caps.
    pub(super) fn refuses(&self, cx: &Context, pool: usize, limits: TenantLimits) -> Option<u64> {
        let full = self.0.get(pool)?;
        let refuses = cx.now_ms < full.until_ms && limits.max_concurrency == 0;
        refuses.then_some(full.retry_after_ms)
    }

    /// The ledger answered an acquire that was sent at `sent_ms`. Only one that could have had any account tells of the whole
    /// pool, and only in time.
    pub(super) fn see(
        &mut self,
        cx: &Context,
        acquire: &AcquireCommand,
        answer: Acquired,
        sent_ms: u64,
    ) {
        let Acquired::Saturated { retry_after_ms } = answer else {
            return;
        };
        let any = acquire.kind == AcquireKind::Take && acquire.scope.is_none() && !acquire.again;
        let in_time = cx.now_ms.saturating_sub(sent_ms) < cx.config.redis.acquire_timeout_ms;
        let Some(full) = self.0.get_mut(acquire.pool) else {
            return;
        };
        let is_older = full.freed_ms.is_some_and(|freed_ms| sent_ms <= freed_ms);
        if any && in_time && !is_older {
            let refuse_ms = cx.config.refuse_ms.min(retry_after_ms);
            full.until_ms = cx.now_ms.saturating_add(refuse_ms);
            full.retry_after_ms = retry_after_ms;
        }
    }

    /// This worker gives a slot of the pool back.
    pub(super) fn forget(&mut self, pool: usize, now_ms: u64) {
        if let Some(full) = self.0.get_mut(pool) {
            full.until_ms = 0;
            full.freed_ms = Some(now_ms);
        }
    }

    /// The ledger cannot be asked: what it said is worth nothing any more.
    pub(super) fn forget_all(&mut self) {
        for full in &mut self.0 {
            full.until_ms = 0;
        }
    }
}
