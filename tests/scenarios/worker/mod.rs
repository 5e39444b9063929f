//! The worker's transition table: what each event does in each state of the pipe, and every deadline. A file for each part
//! of the worker; `rig` is the worker that they all drive.

mod acquires;
mod breaker;
mod cooldowns;
mod decisions;
mod disabled;
mod failover;
mod full;
mod garbage;
mod greeting;
mod large_pools;
mod metrics;
mod overrides;
mod pipe;
mod reconcile;
mod releases;
mod renewals;
mod requests;
mod rig;
mod shadow;
mod storm;
mod sync;
mod together;
mod waiters;
