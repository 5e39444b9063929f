//! What becomes of a request, and what the access log says of it.

use super::admission::{Path, Reason};
use super::lease::LeaseId;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Forward {
        /// Which way.
        path: Path,
        /// Why not by the ledger.
        reason: Option<Reason>,
        /// Its pool, by index.
        pool: usize,
        /// The lease, and the account by index.
        holds: Option<(LeaseId, u32)>,
    },
    /// 429.
    Saturated {
        /// Its pool, by index.
        pool: usize,
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
    /// 503.
    Unavailable {
        /// Its pool, by index.
        pool: usize,
        /// Why.
        reason: Reason,
    },
}

impl Verdict {
    /// The lease and the account that the request uses, if any.
    #[must_use]
    pub fn holds(self) -> Option<(LeaseId, u32)> {
        match self {
            Self::Forward { holds, .. } => holds,
            Self::Saturated { .. } | Self::Unavailable { .. } => None,
        }
    }

    /// Which way the request goes; `None` when it does not go on.
    #[must_use]
    pub fn path(self) -> Option<Path> {
        match self {
            Self::Forward { path, .. } => Some(path),
            Self::Saturated { .. } | Self::Unavailable { .. } => None,
        }
    }
}

/// What the access log says of a request beside its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    /// Its bucket; `None` when that did not decide: it fits no pool, or an override was given.
    pub bucket: Option<u16>,
    /// How long it waited for its acquire's outcome, in µs; `None` when it did not.
    pub acquire_us: Option<u64>,
}

impl Logged {
    /// The wait as text, in ms with three decimals.
    #[must_use]
    pub fn acquire_ms(&self) -> Option<String> {
        let us = self.acquire_us?;
        // Three digits behind a one, which then goes.
        let (whole, rest) = (us / 1000, (us % 1000).saturating_add(1000));
        let (mut text, rest) = (whole.to_string(), rest.to_string());
        text.push('.');
        text.push_str(rest.get(1..).unwrap_or_default());
        Some(text)
    }
}
