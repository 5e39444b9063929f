//! The Redis state of a pool: its keys, its scripts, and the bytes on the wire.

pub mod chance;
pub mod keys;
pub mod resp;
pub mod script;
pub mod view;
