//! Carries a worker's counters to Envoy's stats, in batches.

use super::calls::{self, Metric};
use crate::counters::{Counter, Counters, names};

/// Envoy's metrics, defined once per configuration, and what they hold of this worker so far.
#[derive(Debug)]
pub struct Metrics {
    ids: Vec<Option<u32>>,
    breaker_open: Option<u32>,
    sent: Counters,
}

impl Metrics {
    /// Defines them.
    pub fn define() -> Self {
        let counter = |name: String| calls::define_metric(Metric::Counter, &name).ok();
        Self {
            ids: names().map(counter).collect(),
            breaker_open: calls::define_metric(Metric::Gauge, "slotgate.breaker.open").ok(),
            sent: Counters::default(),
        }
    }

    /// Whether there is something to send.
    pub fn is_behind(&self, counters: &Counters) -> bool {
        self.sent.total() != counters.total()
    }

    /// Sends what was counted since the last time.
    pub fn send(&mut self, counters: &Counters) {
        let before = is_open(&self.sent);
        for ((id, sent), now) in self.ids.iter().zip(self.sent.all()).zip(counters.all()) {
            increment(*id, now.saturating_sub(*sent));
        }
        self.sent = counters.clone();
        self.show_open(is_open(counters).saturating_sub(before));
    }

    /// Sends the last of it; a worker that is no more has no open breaker.
    pub fn end(&mut self, counters: &Counters) {
        self.send(counters);
        self.show_open(is_open(counters).saturating_neg());
    }

    fn show_open(&self, more: i64) {
        // Envoy refuses an increment of 0.
        if let (Some(id), true) = (self.breaker_open, more != 0) {
            calls::increment(id, more);
        }
    }
}

fn increment(id: Option<u32>, more: u64) {
    if let (Some(id), true) = (id, more > 0) {
        calls::increment(id, i64::try_from(more).unwrap_or(i64::MAX));
    }
}

/// 1 while the breaker is open, else 0.
fn is_open(counters: &Counters) -> i64 {
    let opened = counters.get(Counter::BreakerOpened);
    i64::from(opened > counters.get(Counter::BreakerClosed))
}
