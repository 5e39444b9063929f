//! The host edge: the only place that talks to Envoy. It translates callbacks into events and effects into host calls,
//! and decides nothing.

mod bridge;
mod calls;
mod http;
mod metrics;
mod root;

/// Registers the root context with the host.
pub fn start() {
    proxy_wasm::set_root_context(|id| Box::new(root::Root::new(id)));
}
