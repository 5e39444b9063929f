//! A VM that traps, by a fault put into it: what `docs/operations.md` says of that, and the metric that `envoy/alerts.yaml` watches.

use std::time::Duration;

use serde_json::json;

use crate::world::{SOON, config, way};
use support::*;

/// The built filter, but the callback of this name traps.
pub fn with_trap(name: &str) -> Vec<u8> {
    let path =
        std::env::var_os("SLOTGATE_WASM").map_or(root().join("target/slotgate.wasm"), Into::into);
    let mut wasm = std::fs::read(path).expect("a built filter");
    let (mut imported, mut index, mut bodies) = (0, None, Vec::new());
    for payload in wasmparser::Parser::new(0).parse_all(&wasm) {
        match payload.expect("a module") {
            wasmparser::Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let wasmparser::TypeRef::Func(_) = import.expect("an import").ty {
                        imported += 1;
                    }
                }
            }
            wasmparser::Payload::ExportSection(section) => {
                for export in section {
                    let export = export.expect("an export");
                    if export.name == name {
                        index = Some(export.index as usize);
                    }
                }
            }
            wasmparser::Payload::CodeSectionEntry(body) => bodies.push(body.range()),
            _ => {}
        }
    }
    let body = bodies[index.expect("the callback") - imported].clone();
    let code = &mut wasm[body.start as usize..body.end as usize];
    // No locals, `unreachable`, as many `nop` as fit, `end`.
    code.fill(0x01);
    code[..2].fill(0x00);
    *code.last_mut().expect("a body") = 0x0b;
    wasm
}

#[test]
fn a_trapped_vm_is_replaced_and_counted_and_its_leases_expire() {
    let dir = Dir::temporary();
    let wasm = dir.join("trap.wasm");
    std::fs::write(&wasm, with_trap("proxy_on_request_body")).expect("a file");
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let config = config(&[("a", 1), ("b", 1)])
        .plugin(|plugin| plugin["lease"] = json!({"ttl_ms": 2_000, "renew_interval_ms": 500}))
        .wasm(&wasm);
    let envoy = Envoy::start(config.redis(redis.addr()).upstream(upstream.addr()));
    let ledger = Ledger::new(&redis, "slotgate", "demo");
    let counted = |what: &str| {
        let name = format!("envoy_wasm_vm_reload_{what}{{plugin=\"slotgate\"}} ");
        let stats = envoy.admin_get("/stats/prometheus");
        let line = stats.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name}: {stats}"))
            .parse::<u64>()
            .expect("a number")
    };
    let open = || {
        envoy
            .client()
            .open("/sse?events=1000000&interval_ms=20", &[])
    };

    let mut stream = open();
    stream.events(1);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(ledger.live(), 1, "renewed for as long as the VM lives");
    assert_eq!((counted("success"), counted("failure")), (0, 0));

    let trapped = envoy.client().send(Request::post("/", "a body"));
    assert_eq!(trapped.expect("an answer").status, 503);
    assert!(envoy.log_contains("Function: proxy_on_request_body failed"));
    // The next request after a moment gets a new VM. The stream that held its slot in the old one goes on.
    let served = || {
        let reply = envoy.client().get("/", &[]);
        reply.status != 503 || !reply.text().is_empty()
    };
    eventually(SOON, served);
    assert_eq!((counted("success"), counted("failure")), (1, 0));
    // Its lease and the trapped request's expire.
    eventually(SOON, || ledger.live() == 0);
    stream.events(50);
    // Two slots, and three streams that use them: until the old one ends.
    let mut more = [open(), open()];
    for one in &mut more {
        one.events(1);
    }
    stream.events(1);
    assert_eq!(ledger.live(), 2);
    let reply = envoy.client().get("/", &[]);
    assert_eq!(reply.status, 429, "{}", reply.text());
    drop(stream);
    drop(more);
    eventually(SOON, || ledger.is_empty());
    ledger.assert_consistent();
    assert_eq!(way(&envoy.client().get("/", &[])), (200, "atomic"));
    assert_eq!((counted("success"), counted("failure")), (1, 0));
}
