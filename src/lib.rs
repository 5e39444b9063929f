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

pub mod config;
pub mod console;
pub mod hash;
mod host;
mod joined;
pub mod json;
pub mod ledger;
pub mod pipe;
pub mod pool;
pub mod printable;
pub mod request;
pub mod units;
pub mod upstream;
pub mod worker;

/// The version of this build: the package's, or what `SLOTGATE_VERSION` held while it was compiled. What is released
/// has the git revision in it, as in `0.2.0+1a2b3c4d5e6f`.
pub const VERSION: &str = match option_env!("SLOTGATE_VERSION") {
    Some(version) if !version.is_empty() => version,
    _ => env!("CARGO_PKG_VERSION"),
};
