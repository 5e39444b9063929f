//! Numbers as the ledger writes them.

/// Scores are whole numbers in the ledger, this many to the unit.
pub const UNIT: f64 = 1e6;

/// A score, or a part of one, as the ledger writes it.
#[must_use]
pub fn millionths(value: f64) -> u64 {
    (value * UNIT).round() as u64
}
