//! Carries what each pool's shadow counted to Envoy's stats, beside the sums over all pools.

use super::calls::{self, Metric};
use crate::config::{Config, GrayMode};
use crate::worker::{Shadow, Worker};

/// Envoy's metrics for each pool, and what they hold of this worker so far; none when nothing is shadowed.
#[derive(Debug)]
pub struct ShadowMetrics(Vec<([Option<u32>; 6], [u64; 6])>);

impl ShadowMetrics {
    /// Defines them.
    pub fn define(config: &Config) -> Self {
        let shadowed = config
            .pools
            .iter()
            .filter(|_| config.gray.mode == GrayMode::Shadow);
        let ids = shadowed.map(|pool| {
            let id = |name| {
                let name = ["slotgate.pool.", &pool.name, ".shadow.", name].concat();
                calls::define_metric(Metric::Counter, &name).ok()
            };
            (Shadow::NAMES.map(id), [0; 6])
        });
        Self(ids.collect())
    }

    /// Sends what was counted since the last time.
    pub fn send(&mut self, worker: &Worker) {
        for (pool, (ids, sent)) in self.0.iter_mut().enumerate() {
            let now = worker.shadow(pool).copied().unwrap_or_default().all();
            for ((id, sent), now) in ids.iter().zip(sent).zip(now) {
                let more = now.saturating_sub(*sent);
                // Envoy refuses an increment of 0.
                if let (Some(id), true) = (id, more > 0) {
                    calls::increment(*id, i64::try_from(more).unwrap_or(i64::MAX));
                }
                *sent = now;
            }
        }
    }
}
