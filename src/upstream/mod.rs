//! What the responses of an upstream mean for its account: how long it should rest, whether it fails, whether it is out of use.

pub mod answer;
pub mod cooldown;
pub mod events;
pub mod failing;
