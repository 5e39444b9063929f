//! What each script promises, one by one.

mod arguments;
mod control;
mod cooldowns;
mod cost;
mod leases;
mod probes;
mod reconcile;
mod rig;
mod sync;
mod wrong_types;
