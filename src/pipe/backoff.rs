//! How long to wait before a lost connection is opened again.

use fastrand::Rng;

/// First and longest wait, in ms.
const WAIT_MS: (u64, u64) = (25, 1000);
/// How many short-lived connections in a row are opened again at once before they count as failures.
const SHORT_LIVED: u32 = 3;

/// How a connection ended, as far as the next wait depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It never served.
    Unserved,
    /// It served, and the other side closed it.
    Closed,
    /// It served until something else was wrong.
    Dropped {
        /// Whether the next connection will most likely end the same way.
        keeps: bool,
    },
}

/// The failures so far.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    short_lived: u32,
}

impl Backoff {
    /// How many attempts in a row have failed since the connection last served for a while.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A connection ended that had served for `served_ms`. Returns how long to wait, in ms: up to half is cut off at random,
    /// because all workers of a fleet lose their connections together.
    pub fn wait_ms(&mut self, end: End, served_ms: u64, random: &mut Rng) -> u64 {
        let (first_ms, longest_ms) = WAIT_MS;
        let lasted = end != End::Unserved && served_ms >= longest_ms;
        match end {
            _ if lasted => {
                self.failures = u32::from(end == End::Dropped { keeps: true });
                self.short_lived = 0;
            }
            // A few times in a row is bad luck, and worth waiting for; then it is a server that does not want us.
            End::Closed => {
                self.short_lived = self.short_lived.saturating_add(1);
                self.failures = self.short_lived.saturating_sub(SHORT_LIVED);
            }
            End::Unserved | End::Dropped { .. } => {
                self.failures = self.failures.saturating_add(1);
            }
        }
        let wait_ms = first_ms
            .saturating_mul(1 << self.failures.min(6))
            .min(longest_ms);
        random.u64(wait_ms / 2..=wait_ms)
    }
}
