//! Pools that had no free slot a moment ago: their requests are refused here for as long as `saturated.refuse_ms` says, so that
//! clients which come back at once do not keep Redis busy with the same answer.

use super::command::{AcquireCommand, AcquireKind};
use super::context::Context;
use crate::config::TenantLimits;
use crate::ledger::commands::Acquired;

/// What was heard last of a pool that is full.
#[derive(Debug, Clone, Copy, Default)]
struct Full {
    until_ms: u64,
    retry_after_ms: u64,
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
        let refuses = cx.now_ms < full.until_ms && limits == TenantLimits::NONE;
        refuses.then_some(full.retry_after_ms)
    }

    /// The ledger answered an acquire. Only one that could have had any account tells of the whole pool.
    pub(super) fn see(&mut self, cx: &Context, acquire: &AcquireCommand, answer: Acquired) {
        let any = acquire.kind == AcquireKind::Take && acquire.scope.is_none() && !acquire.again;
        let Acquired::Saturated { retry_after_ms } = answer else {
            return;
        };
        if let (true, Some(full)) = (any, self.0.get_mut(acquire.pool)) {
            full.until_ms = cx.now_ms.saturating_add(cx.config.refuse_ms);
            full.retry_after_ms = retry_after_ms;
        }
    }

    /// This worker gives a slot of the pool back.
    pub(super) fn forget(&mut self, pool: usize) {
        if let Some(full) = self.0.get_mut(pool) {
            full.until_ms = 0;
        }
    }
}
