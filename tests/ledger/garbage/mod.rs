//! One pool's trouble is its own: whatever stands in a pool's keys, another pool serves, and after a recount and a sync the
//! pool is right again, or what is wrong with it is named.

mod large_pools;
mod passes;
mod queue;
mod rig;
mod scripts;
mod types;
mod values;
