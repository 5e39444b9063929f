//! The Redis state of a pool: its keys, its scripts, and the bytes on the wire.

pub mod chance;
pub mod changes;
pub mod commands;
pub mod explain;
pub mod fault;
pub mod keys;
pub mod resp;
pub mod source;
pub mod view;
