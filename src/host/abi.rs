//! The functions Envoy calls: proxy-wasm ABI 0.2.1, as far as slotgate needs it.
//!
//! They are not the Rust SDK's: `docs/decisions/host-layer.md` has the reasons and the figures.
//!
//! Envoy may call back while one of them runs: a send that finds the pipe closed reports its trailing metadata at once. What
//! is not exported is never called; what is looks its context up and lets the map go before it runs.
//!
//! And a pause is [`STOP_ALL`], which the SDK can't say: it holds the body back as well, of any size, whatever
//! `allow_on_headers_stop_iteration` says. Only the console's requests wait for their bodies.

use super::bridge::Bridge;
use super::console::Request;
use super::http::Http;
use super::root::{Root, RootRole};
use super::upstream::Try;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::rc::Rc;

/// Envoy goes on.
const CONTINUE: u32 = 0;
/// A network filter's data, or a body, stays where it is; headers wait for the body.
const STOP: u32 = 1;
/// `FilterDataStatus::StopIterationNoBuffer`: the body goes nowhere.
const STOP_NO_BUFFER: u32 = 3;
/// `FilterHeadersStatus::StopAllIterationAndWatermark`: headers, body and trailers wait, and the client is slowed down.
const STOP_ALL: u32 = 4;
/// Done; 0: `proxy_done` is called later.
const DONE: u32 = 1;

/// What Envoy calls a context: a plugin configuration, or one stream of it.
#[derive(Clone)]
enum Context {
    Root(Rc<Root>),
    Http(Rc<Http>),
    Bridge(Rc<Bridge>),
    Console(Rc<Request>),
    Upstream(Rc<Try>),
}

thread_local! {
    /// Whether a console was ever configured here: a scheduler's bodies are not worth looking up a context.
    static SERVES_CONSOLE: Cell<bool> = const { Cell::new(false) };
    /// Whether a scheduler that reads the first events of answers was ever configured here: for others a body is not worth
    /// looking up a context.
    static READS_EVENTS: Cell<bool> = const { Cell::new(false) };
    /// Those that Envoy has created and not deleted.
    static CONTEXTS: RefCell<BTreeMap<u32, Context>> = const { RefCell::new(BTreeMap::new()) };
}

/// Nothing is called while the map is borrowed, so it is always there.
fn contexts<R>(act: impl FnOnce(&mut BTreeMap<u32, Context>) -> R) -> Option<R> {
    CONTEXTS
        .try_with(|contexts| Some(act(&mut *contexts.try_borrow_mut().ok()?)))
        .ok()?
}

fn context(id: u32) -> Option<Context> {
    contexts(|contexts| contexts.get(&id).cloned())?
}

fn root(id: u32) -> Option<Rc<Root>> {
    match context(id)? {
        Context::Root(root) => Some(root),
        Context::Http(_) | Context::Bridge(_) | Context::Console(_) | Context::Upstream(_) => None,
    }
}

fn bridge(id: u32) -> Option<Rc<Bridge>> {
    match context(id)? {
        Context::Bridge(bridge) => Some(bridge),
        Context::Root(_) | Context::Http(_) | Context::Console(_) | Context::Upstream(_) => None,
    }
}

#[cfg(target_os = "wasi")]
unsafe extern "C" {
    fn __wasm_call_ctors();
}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the host calls it once, before anything else.
    #[cfg(target_os = "wasi")]
    unsafe {
        __wasm_call_ctors();
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// Memory for what a host call returns; `calls::returned` takes it over.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut MaybeUninit<u8> {
    Box::into_raw(Box::<[u8]>::new_uninit_slice(size)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, root_id: u32) {
    let created = match root(root_id).map(|root| root.role()) {
        None => Some(Context::Root(Rc::new(Root::new(id)))),
        Some(RootRole::Scheduler(shared)) => {
            if shared.reads_events() {
                let _ = READS_EVENTS.try_with(|reads| reads.set(true));
            }
            Some(Context::Http(Rc::new(Http::new(id, shared))))
        }
        Some(RootRole::Bridge) => Some(Context::Bridge(Rc::default())),
        Some(RootRole::Upstream) => Some(Context::Upstream(Rc::new(Try::new(id)))),
        Some(RootRole::Console(shared)) => {
            let _ = SERVES_CONSOLE.try_with(|serves| serves.set(true));
            Some(Context::Console(Rc::new(Request::new(id, shared))))
        }
        Some(RootRole::Nothing) => None,
    };
    if let Some(created) = created {
        contexts(|contexts| contexts.insert(id, created));
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(id: u32, size: usize) -> u32 {
    root(id).is_some_and(|root| root.on_configure(size)).into()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(id: u32) {
    if let Some(root) = root(id) {
        root.on_tick();
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(id: u32, queue: u32) {
    if let Some(root) = root(id) {
        root.on_queue_ready(queue);
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32, _count: u32, end: u32) -> u32 {
    match context(id) {
        Some(Context::Http(http)) => match http.on_request_headers() {
            true => CONTINUE,
            false => STOP_ALL,
        },
        Some(Context::Console(request)) => match request.on_request_headers(end != 0) {
            true => STOP,
            false => STOP_ALL,
        },
        Some(Context::Upstream(one)) => {
            match one.on_request_headers(|root_id| root(root_id)?.shared()) {
                true => CONTINUE,
                false => STOP_ALL,
            }
        }
        Some(Context::Bridge(bridge)) => {
            bridge.on_request();
            CONTINUE
        }
        Some(Context::Root(_)) | None => CONTINUE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(id: u32, size: usize, end: u32) -> u32 {
    if SERVES_CONSOLE.try_with(Cell::get) != Ok(true) {
        return CONTINUE;
    }
    match context(id) {
        Some(Context::Console(request)) => match request.on_request_body(size, end != 0) {
            true => STOP,
            false => STOP_NO_BUFFER,
        },
        Some(Context::Root(_) | Context::Http(_) | Context::Bridge(_) | Context::Upstream(_))
        | None => CONTINUE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: u32, _count: u32, _end: u32) -> u32 {
    match context(id) {
        Some(Context::Http(http)) => http.on_response_headers(),
        Some(Context::Upstream(one)) => one.on_response_headers(),
        Some(Context::Root(_) | Context::Bridge(_) | Context::Console(_)) | None => {}
    }
    CONTINUE
}

/// It only looks on: nothing is held back.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(id: u32, size: usize, end: u32) -> u32 {
    if READS_EVENTS.try_with(Cell::get) == Ok(true)
        && let Some(Context::Http(http)) = context(id)
    {
        http.on_response_body(size, end != 0);
    }
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(id: u32, token: u32, size: usize) {
    if let Some(root) = root(id) {
        root.on_pipe_message(token, size);
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(id: u32, token: u32, status: u32) {
    if let Some(root) = root(id) {
        root.on_pipe_close(token, status);
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_downstream_data(id: u32, size: usize, _end: u32) -> u32 {
    match bridge(id).is_none_or(|bridge| bridge.on_downstream_data(size)) {
        true => CONTINUE,
        false => STOP,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_upstream_data(id: u32, size: usize, _end: u32) -> u32 {
    match bridge(id).is_none_or(|bridge| bridge.on_upstream_data(size)) {
        true => CONTINUE,
        false => STOP,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(id: u32) -> u32 {
    match context(id) {
        Some(Context::Root(root)) => root.on_done().into(),
        Some(Context::Http(http)) => {
            http.on_done();
            DONE
        }
        Some(Context::Console(request)) => {
            request.on_done();
            DONE
        }
        Some(Context::Bridge(bridge)) => {
            bridge.on_done();
            DONE
        }
        Some(Context::Upstream(one)) => {
            one.on_done();
            DONE
        }
        None => DONE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(id: u32) {
    // Dropped only when the map is free again.
    let gone = contexts(|contexts| contexts.remove(&id));
    if let Some(Some(Context::Root(_))) = gone {
        // In the map's borrow: Envoy calls nothing back for a metric.
        contexts(|contexts| {
            for context in contexts.values() {
                if let Context::Root(root) = context {
                    root.set_metrics_again();
                }
            }
        });
    }
}
