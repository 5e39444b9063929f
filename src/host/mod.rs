//! The host edge: the only place that talks to Envoy. It translates callbacks into events and effects into host calls,
//! and decides nothing.

mod abi;
mod bridge;
mod calls;
mod clock;
mod console;
mod http;
mod logger;
mod loop_end;
mod metrics;
mod root;
mod stream;
mod upstream;
mod verdict;
