//! Safe wrappers around the host calls slotgate uses, none of which can panic.
//!
//! The SDK's own wrappers panic on any status they don't expect, and on header bytes that aren't UTF-8; a panic here strands
//! every paused request of the worker. Signatures are those of the proxy-wasm ABI 0.2.1.

use crate::printable::harmless;
use crate::request::headers::Headers;
use log::LevelFilter;
use std::cell::Cell;
use std::ptr::null_mut;

/// The level of last words.
pub const CRITICAL: u32 = 5;

/// A status other than OK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostError(#[allow(dead_code, reason = "shown in debug logs")] u32);

/// Which header map.
#[derive(Debug, Clone, Copy)]
pub enum Map {
    /// The request's headers.
    Request = 0,
    /// The response's headers.
    Response = 2,
}

/// Which buffer.
#[derive(Debug, Clone, Copy)]
pub enum Buffer {
    /// A request's body.
    RequestBody = 0,
    /// A part of an answer's body.
    ResponseBody = 1,
    /// Network filter: towards Redis.
    Downstream = 2,
    /// Network filter: from Redis.
    Upstream = 3,
    /// A message of the gRPC stream.
    Grpc = 5,
    /// The plugin configuration.
    Configuration = 7,
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_get_log_level(level: *mut u32) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        most: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(
        kind: u32,
        start: usize,
        length: usize,
        data: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        version: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        data: *const u8,
        size: usize,
        version: u32,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_grpc_stream(
        service: *const u8,
        service_size: usize,
        name: *const u8,
        name_size: usize,
        method: *const u8,
        method_size: usize,
        metadata: *const u8,
        metadata_size: usize,
        token: *mut u32,
    ) -> u32;
    fn proxy_grpc_send(token: u32, message: *const u8, size: usize, end: u32) -> u32;
    fn proxy_grpc_cancel(token: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_size: usize, token: *mut u32) -> u32;
    fn proxy_enqueue_shared_queue(token: u32, data: *const u8, size: usize) -> u32;
    fn proxy_dequeue_shared_queue(token: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_done() -> u32;
}

fn ok(status: u32) -> Result<(), HostError> {
    if status == 0 {
        Ok(())
    } else {
        Err(HostError(status))
    }
}

/// Bytes that the host allocated for us with `proxy_on_memory_allocate`; empty when it gave none.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Vec<u8> {
    let (mut data, mut size) = (null_mut(), 0);
    if call(&mut data, &mut size) != 0 || data.is_null() {
        return Vec::new();
    }
    // SAFETY: `proxy_on_memory_allocate` hands out boxed slices of exactly the size asked for, and the host has filled it.
    unsafe { Vec::from_raw_parts(data, size, size) }
}

/// One line of Envoy's log, whatever the message holds; 0: trace, 5: critical.
pub fn log(level: u32, message: &str) {
    let message = harmless(message);
    // SAFETY: the pointer lives across the call.
    let _ = unsafe { proxy_log(level, message.as_ptr(), message.len()) };
}

/// The level Envoy logs this plugin at.
pub fn log_level() -> LevelFilter {
    let mut level = 2;
    // SAFETY: `level` lives across the call.
    let status = unsafe { proxy_get_log_level(&mut level) };
    match (status, level) {
        (0, 0) => LevelFilter::Trace,
        (0, 1) => LevelFilter::Debug,
        (0, 3) => LevelFilter::Warn,
        (0, 4) => LevelFilter::Error,
        (0, CRITICAL) => LevelFilter::Off,
        _ => LevelFilter::Info,
    }
}

/// `on_tick` of this plugin's root, at one time.
#[derive(Debug, Default)]
pub struct Ticker(Cell<Option<u64>>);

impl Ticker {
    /// It comes then, in ms, or at the time before that which it was to come at anyway: a tick that comes too early costs
    /// less than a host call for every request.
    pub fn arm(&self, now_ms: u64, wake_ms: u64) {
        if self.0.get().is_none_or(|armed_ms| wake_ms < armed_ms) {
            self.0.set(Some(wake_ms));
            let period_ms = wake_ms.saturating_sub(now_ms).max(1);
            set_tick_period(u32::try_from(period_ms).unwrap_or(u32::MAX));
        }
    }

    /// It has come; what it brings about may arm the next.
    pub fn come(&self, act: impl FnOnce()) {
        self.0.set(None);
        act();
        if self.0.get().is_none() {
            set_tick_period(0);
        }
    }
}

/// Calls `on_tick` of this plugin's root each time this period has passed, in ms; 0: never.
fn set_tick_period(period_ms: u32) {
    // SAFETY: numbers only.
    let _ = unsafe { proxy_set_tick_period_milliseconds(period_ms) };
}

/// A whole buffer, at most `most` bytes of it.
pub fn buffer(kind: Buffer, most: usize) -> Vec<u8> {
    // SAFETY: both pointers live across the call.
    returned(|data, size| unsafe { proxy_get_buffer_bytes(kind as u32, 0, most, data, size) })
}

/// Replaces the first `length` bytes of a buffer; 0: puts the bytes in front.
pub fn set_buffer(kind: Buffer, length: usize, bytes: &[u8]) -> Result<(), HostError> {
    // SAFETY: `bytes` lives across the call.
    ok(unsafe { proxy_set_buffer_bytes(kind as u32, 0, length, bytes.as_ptr(), bytes.len()) })
}

/// All headers, in the layout of [`crate::request::headers`].
pub fn headers(map: Map) -> Vec<u8> {
    // SAFETY: both pointers live across the call.
    returned(|data, size| unsafe { proxy_get_header_map_pairs(map as u32, data, size) })
}

/// One header's value; empty when it is missing.
pub fn header(map: Map, name: &str) -> Vec<u8> {
    // SAFETY: all pointers live across the call.
    returned(|data, size| unsafe {
        proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size)
    })
}

/// Sets a header, replacing every value it had.
pub fn set_header(map: Map, name: &str, value: &[u8]) {
    // SAFETY: all pointers live across the call.
    let _ = unsafe {
        proxy_replace_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    };
}

/// Removes every value of a header.
pub fn remove_header(map: Map, name: &[u8]) {
    // SAFETY: the pointer lives across the call.
    let _ = unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) };
}

/// A property of the stream; its path's parts are joined by zero bytes. Empty when there is none.
pub fn property(path: &[u8]) -> Vec<u8> {
    // SAFETY: all pointers live across the call.
    returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

/// The value that any worker of this VM's id has shared last under this key; empty when none has. It outlives
/// configurations.
pub fn shared(key: &str) -> Vec<u8> {
    let mut version = 0;
    // SAFETY: all pointers live across the call.
    returned(|data, size| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &mut version)
    })
}

/// Puts something there for all workers, whatever is there.
pub fn share(key: &str, bytes: &[u8]) {
    // SAFETY: all pointers live across the call.
    let _ =
        unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), bytes.as_ptr(), bytes.len(), 0) };
}

/// Sets a property of the effective context's stream: its filter state `wasm.<name>`.
pub fn set_property(name: &str, value: &[u8]) {
    // SAFETY: all pointers live across the call.
    let _ = unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

/// Lets the paused request of the effective context go on.
pub fn resume_request() -> Result<(), HostError> {
    // SAFETY: numbers only.
    ok(unsafe { proxy_continue_stream(0) })
}

/// Closes the connection of the effective context's network filter.
pub fn close_downstream() {
    // SAFETY: numbers only.
    let _ = unsafe { proxy_close_stream(2) };
}

/// Answers the request of the effective context. `headers` in the layout of [`crate::request::headers`]. A gRPC request gets a 200
/// with this `grpc_status` and the body as `grpc-message` instead; −1: what Envoy makes of the status.
pub fn respond(status: u32, headers: &[u8], body: &[u8], details: &str, grpc_status: i32) {
    // SAFETY: all pointers live across the call.
    let _ = unsafe {
        proxy_send_local_response(
            status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status,
        )
    };
}

/// Opens a gRPC stream to what a serialized `GrpcService` names. It belongs to the context that is called now, whose
/// callbacks its messages and its end come to.
pub fn grpc_stream(service: &[u8]) -> Result<u32, HostError> {
    let (name, method, metadata) = ("slotgate", "pipe", Headers::serialize(&[]));
    let mut token = 0;
    // SAFETY: all pointers live across the call.
    ok(unsafe {
        proxy_grpc_stream(
            service.as_ptr(),
            service.len(),
            name.as_ptr(),
            name.len(),
            method.as_ptr(),
            method.len(),
            metadata.as_ptr(),
            metadata.len(),
            &mut token,
        )
    })?;
    Ok(token)
}

/// Sends one message on a gRPC stream.
pub fn grpc_send(token: u32, message: &[u8]) -> Result<(), HostError> {
    // SAFETY: the pointer lives across the call.
    ok(unsafe { proxy_grpc_send(token, message.as_ptr(), message.len(), 0) })
}

/// Drops a gRPC stream, also one that the other side closed: the host keeps a dangling entry for those.
pub fn grpc_cancel(token: u32) {
    // SAFETY: numbers only.
    let _ = unsafe { proxy_grpc_cancel(token) };
}

/// Makes the following calls act on another context.
pub fn set_effective_context(context: u32) -> Result<(), HostError> {
    // SAFETY: numbers only.
    ok(unsafe { proxy_set_effective_context(context) })
}

/// What a metric is to Envoy.
#[derive(Debug, Clone, Copy)]
pub enum Metric {
    /// It only grows.
    Counter = 0,
    /// It goes up and down.
    Gauge = 1,
    /// How often which values were seen.
    Histogram = 2,
}

/// Defines a metric.
pub fn define_metric(kind: Metric, name: &str) -> Result<u32, HostError> {
    let mut id = 0;
    // SAFETY: all pointers live across the call.
    ok(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) })?;
    Ok(id)
}

/// Adds to a metric, a counter takes no less than 1; `by` must not be 0.
pub fn increment(id: u32, by: i64) {
    // SAFETY: numbers only.
    let _ = unsafe { proxy_increment_metric(id, by) };
}

/// One value more of a histogram, or a gauge's value for all workers.
pub fn record(id: u32, value: u64) {
    // SAFETY: numbers only.
    let _ = unsafe { proxy_record_metric(id, value) };
}

/// What a metric holds, of all workers together.
pub fn metric(id: u32) -> u64 {
    let mut value = 0;
    // SAFETY: `value` lives across the call.
    let _ = unsafe { proxy_get_metric(id, &mut value) };
    value
}

/// Opens a queue of this root's. What is put into it calls `on_queue_ready` here, whoever had the name last.
pub fn open_queue(name: &str) -> Result<u32, HostError> {
    let mut token = 0;
    // SAFETY: all pointers live across the call.
    ok(unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &mut token) })?;
    Ok(token)
}

/// Puts an empty message into a queue: `on_queue_ready` is called when Envoy's event loop has done all it woke up for.
pub fn enqueue(queue: u32) -> Result<(), HostError> {
    // SAFETY: an empty slice's pointer is valid for no bytes.
    ok(unsafe { proxy_enqueue_shared_queue(queue, [].as_ptr(), 0) })
}

/// Takes a message out of a queue.
pub fn dequeue(queue: u32) {
    // SAFETY: both pointers live across the call.
    returned(|data, size| unsafe { proxy_dequeue_shared_queue(queue, data, size) });
}

/// Tells the host that a root which answered `false` to `on_done` is done.
pub fn done() {
    // SAFETY: numbers only.
    let _ = unsafe { proxy_done() };
}
