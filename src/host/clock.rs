//! The wall clock.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// Since 1970.
pub fn unix_time() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A seed that no other root has: two draws of the standard library's hash seed, which the host fills with random bytes, and
/// the clock.
pub fn random_seed(root_id: u32) -> u64 {
    RandomState::new().hash_one(root_id) ^ unix_time().as_nanos() as u64
}
