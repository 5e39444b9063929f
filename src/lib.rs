//! slotgate: an Envoy WebAssembly filter that takes one concurrency slot of the best upstream account for each request,
//! holds it as a renewed lease until the stream completes, and releases it.
//!
//! Everything outside [`host`] is pure: no host call, no clock, no randomness of its own.
#![cfg_attr(
    not(test),
    deny(
        clippy::disallowed_macros,
        clippy::disallowed_methods,
        clippy::string_slice
    )
)]

pub mod admission;
pub mod breaker;
pub mod bridge;
pub mod config;
pub mod console;
pub mod cooldown;
pub mod counters;
pub mod failing;
pub mod gray;
pub mod headers;
mod host;
pub mod json;
pub mod lease;
pub mod ledger;
pub mod memory;
pub mod pool;
pub mod printable;
pub mod structpb;
pub mod worker;
