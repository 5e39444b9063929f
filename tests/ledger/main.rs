//! The scripts' contract, against a real Redis, by way of the filter's own encoders and readers.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod choice;
mod cluster;
mod contract;
mod garbage;
mod model;
mod pipe;
mod sessions;
mod whole;
