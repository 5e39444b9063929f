//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Since 1970.
pub fn unix_time() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
