//! What the module exports: what Envoy may call.

use support::*;

/// Envoy calls what is exported. It calls back with a gRPC stream's metadata in the middle of another call
/// (`proxy_on_grpc_receive_initial_metadata`, `proxy_on_grpc_receive_trailing_metadata`), and pays for every other call.
const EXPORTS: [&str; 18] = [
    "_initialize",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_done",
    "proxy_on_downstream_data",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
    "proxy_on_memory_allocate",
    "proxy_on_queue_ready",
    "proxy_on_request_body",
    "proxy_on_request_headers",
    "proxy_on_response_body",
    "proxy_on_response_headers",
    "proxy_on_tick",
    "proxy_on_upstream_data",
];

#[test]
fn the_module_exports_what_it_uses_and_nothing_else() {
    let path =
        std::env::var_os("SLOTGATE_WASM").map_or(root().join("target/slotgate.wasm"), Into::into);
    let wasm = std::fs::read(path).expect("a built filter");
    let mut exports = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(&wasm) {
        if let wasmparser::Payload::ExportSection(section) = payload.expect("a module") {
            let names = section.into_iter().map(|export| export.expect("it").name);
            exports.extend(names.map(str::to_owned));
        }
    }
    exports.sort();
    assert_eq!(exports, EXPORTS);
}
