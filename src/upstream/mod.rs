//! What the responses of an upstream mean for its account: how long it should rest, and whether it fails.

pub mod cooldown;
pub mod failing;
