//! Carries a worker's counters to Envoy's stats, in batches.

use super::calls;
use crate::counters::{COUNT, Counters, names};

/// Envoy's counters, defined once per configuration, and what they hold so far.
#[derive(Debug)]
pub struct Metrics {
    ids: Vec<Option<u32>>,
    sent: [u64; COUNT],
}

impl Metrics {
    /// Defines them.
    pub fn define() -> Self {
        Self {
            ids: names()
                .map(|name| calls::define_counter(&name).ok())
                .collect(),
            sent: [0; COUNT],
        }
    }

    /// Whether there is something to send.
    pub fn is_behind(&self, counters: &Counters) -> bool {
        self.sent != *counters.all()
    }

    /// Sends what was counted since the last time.
    pub fn send(&mut self, counters: &Counters) {
        for ((id, sent), now) in self.ids.iter().zip(&mut self.sent).zip(counters.all()) {
            let more = now.saturating_sub(*sent);
            // Envoy refuses an increment of 0.
            if let (Some(id), true) = (id, more > 0) {
                calls::increment(*id, i64::try_from(more).unwrap_or(i64::MAX));
            }
            *sent = *now;
        }
    }
}
