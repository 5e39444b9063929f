//! Spares requests the wait while the ledger fails: after failures in a row no acquire is sent, but for a probe now and
//! then. Half open is no state of its own: a probe is let through and the breaker stays open until it is answered in time.

use crate::config;
use fastrand::Rng;

/// One worker's breaker; closed at first.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Failures since the last success.
    failures: u32,
    /// When the last one was counted, in ms.
    failed_ms: u64,
    /// Open, and the next probe is let through at this time, in ms.
    probe_ms: Option<u64>,
}

impl Breaker {
    /// Whether no acquire is sent but a probe now and then.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.probe_ms.is_some()
    }

    /// Whether an acquire may be sent now; it is the probe when the breaker is open.
    pub fn admits(&mut self, now_ms: u64, settings: config::Breaker, random: &mut Rng) -> bool {
        let admitted = self.probe_ms.is_none_or(|probe_ms| probe_ms <= now_ms);
        if admitted && self.probe_ms.is_some() {
            self.open(now_ms, settings, random);
        }
        admitted
    }

    /// An acquire was answered in time. Returns whether that closed the breaker.
    pub fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.probe_ms.take().is_some()
    }

    /// An acquire failed. Those that fail within `together_ms` of one counted are the same failure, or one hiccup would
    /// open the breaker of a busy worker. Returns whether that opened it.
    pub fn failed(
        &mut self,
        now_ms: u64,
        together_ms: u64,
        settings: config::Breaker,
        random: &mut Rng,
    ) -> bool {
        if self.probe_ms.is_some()
            || self.failures > 0 && now_ms.saturating_sub(self.failed_ms) < together_ms
        {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.failed_ms = now_ms;
        let opens = self.failures >= settings.failures;
        if opens {
            self.open(now_ms, settings, random);
        }
        opens
    }

    fn open(&mut self, now_ms: u64, settings: config::Breaker, random: &mut Rng) {
        // Cut short at random: the workers of a fleet open together.
        let wait_ms = random.u64(settings.open_ms / 2..=settings.open_ms);
        self.probe_ms = Some(now_ms.saturating_add(wait_ms));
    }
}
