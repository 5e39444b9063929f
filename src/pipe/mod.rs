//! The connection to Redis: how it is opened, begun, read and given up, and how its bytes are framed on their way through
//! Envoy.

pub mod backoff;
pub mod connection;
pub mod down;
pub mod frames;
pub mod greeting;
