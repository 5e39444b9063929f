//! What each script promises, one by one.

mod accounts;
mod adaptive;
mod arguments;
mod changes;
mod control;
mod cooldowns;
mod cost;
mod disabled;
mod leases;
mod paces;
mod probes;
mod queue;
mod reconcile;
mod rig;
mod states;
mod sync;
mod tried;
mod wrong_types;
