//! The connection to Redis: how it begins, how its bytes are framed on their way through Envoy, and why it is down.

pub mod down;
pub mod frames;
pub mod greeting;
