//! What an upstream's answers say of its account: how long it should rest, and whether it fails.

pub mod cooldown;
pub mod failing;
