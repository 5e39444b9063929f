//! Role `scheduler`, one request: host callbacks → events of the worker.

use super::calls::{self, Buffer, Map};
use super::clock::unix_time;
use super::root::Shared;
use super::upstream::{MARK, tell_tries};
use super::verdict::{respond, write_filter_state};
use crate::request::admission::Path;
use crate::request::classify::is_grpc;
use crate::request::headers::Headers;
use crate::request::view::View;
use crate::upstream::answer::Status;
use crate::upstream::events::{self, FirstEvent, StreamError};
use crate::upstream::failing::Source;
use crate::worker::RequestId;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// One HTTP stream.
pub struct Http {
    id: u32,
    shared: Rc<Shared>,
    /// The request in the worker, while something may still happen to it there.
    request: Cell<Option<RequestId>>,
    /// Which way it went when nothing can.
    path: Cell<Option<Path>>,
    /// Whether it is a gRPC request: only for those the answer's `grpc-status` is asked for.
    is_grpc: Cell<bool>,
    /// Rarely there: a stream of events whose first one has not come so far.
    stream: RefCell<Option<Box<EventStream>>>,
}

/// An answer that is judged when its first event has come.
struct EventStream {
    source: Source,
    /// Its headers, as [`Headers`] has them.
    headers: Vec<u8>,
    now_unix_s: u64,
    /// What has come so far.
    text: Vec<u8>,
}

impl Http {
    /// Before its headers.
    pub fn new(id: u32, shared: Rc<Shared>) -> Self {
        Self {
            id,
            shared,
            request: Cell::new(None),
            path: Cell::new(None),
            is_grpc: Cell::new(false),
            stream: RefCell::new(None),
        }
    }

    /// Returns whether the request goes on at once.
    pub fn on_request_headers(&self) -> bool {
        let serialized = calls::headers(Map::Request);
        let headers = Headers::new(&serialized);
        let id = self.id;
        let event = self.shared.with(id, |worker, now_ms| {
            let own = worker
                .config()
                .gray
                .gray_override
                .as_ref()
                .map(|rule| rule.header.as_bytes());
            let mut request_id = None;
            for (name, value) in headers.iter() {
                if name == b"x-request-id" && !value.is_empty() {
                    request_id = request_id.or(Some(value));
                }
                if name == b"content-type" {
                    self.is_grpc.set(is_grpc(value));
                }
                if name.starts_with(b"x-slotgate-") || Some(name) == own {
                    calls::remove_header(Map::Request, name);
                }
            }
            let properties = worker.config().properties.iter();
            let properties: Vec<_> = properties.map(|path| calls::property(path)).collect();
            let (request, verdict) = worker.on_request(now_ms, id, View::new(headers, &properties));
            if let Some(request_id) = request_id {
                worker.identify(request_id);
            }
            match verdict {
                Some(verdict) if verdict.holds().is_none() => self.path.set(verdict.path()),
                Some(_) | None => {
                    self.request.set(Some(request));
                    if worker.config().failover.is_on() {
                        tell_tries(self.shared.root_id, request, self.is_grpc.get());
                    }
                }
            }
            let logged = worker.output().log.take();
            if let (Some(verdict), Some(logged)) = (&verdict, &logged) {
                write_filter_state(worker.config(), verdict, logged);
            }
            verdict.is_some_and(|verdict| respond(worker.config(), id, &verdict))
        });
        event.unwrap_or(true)
    }

    /// The upstream's answer, or Envoy's own, is on its way to the client.
    pub fn on_response_headers(&self) {
        match (self.request.get(), self.path.get()) {
            (Some(request), _) => self.on_held_response(request),
            (None, Some(path)) if self.shared.response_headers() => show(path, None),
            (None, _) => {}
        }
    }

    fn on_held_response(&self, request: RequestId) {
        let heard = self.shared.ask(|worker| {
            let Some((path, account)) = worker.path(request) else {
                worker.on_answer_between(request);
                return None;
            };
            if worker.config().response_headers {
                show(path, account);
            }
            if worker.config().failover.is_on() {
                calls::remove_header(Map::Response, MARK.as_bytes());
                let tries = worker.tries(request);
                if tries > 1 && worker.config().access_log {
                    calls::set_property("slotgate.tries", tries.to_string().as_bytes());
                }
            }
            account?;
            let header = |name| calls::header(Map::Response, name);
            let status = Status::read(&header(":status"), self.is_grpc.get(), || {
                header("grpc-status")
            })?;
            let is_stream = worker.config().upstream.sse_errors
                && status.http == 200
                && events::is_stream(&header("content-type"));
            let wanted = is_stream || worker.wants_response(request, status);
            wanted.then_some((status, is_stream))
        });
        if let Some((status, is_stream)) = heard {
            let source = Source::of(&calls::property(b"response\0code_details"));
            let serialized = calls::headers(Map::Response);
            let now_unix_s = unix_time().as_secs();
            if is_stream {
                if let Ok(mut stream) = self.stream.try_borrow_mut() {
                    *stream = Some(Box::new(EventStream {
                        source,
                        headers: serialized,
                        now_unix_s,
                        text: Vec::new(),
                    }));
                }
                return;
            }
            let answer = (source, status);
            let headers = Headers::new(&serialized);
            self.shared.with(self.id, |worker, now_ms| {
                worker.on_response(now_ms, request, answer, headers, now_unix_s);
            });
        }
    }

    /// A part of the answer's body has come, `size` bytes of it, and goes on to the client.
    pub fn on_response_body(&self, size: usize, is_end: bool) {
        let Ok(Some(mut stream)) = self.stream.try_borrow_mut().map(|mut place| place.take())
        else {
            return;
        };
        let room = events::MOST.saturating_sub(stream.text.len());
        let part = calls::buffer(Buffer::ResponseBody, size.min(room));
        stream.text.extend_from_slice(&part);
        match events::first_event(&stream.text) {
            FirstEvent::Error(error) => self.judge(&stream, Some(error)),
            FirstEvent::Good => self.judge(&stream, None),
            FirstEvent::More if is_end => self.judge(&stream, None),
            FirstEvent::More => {
                if let Ok(mut place) = self.stream.try_borrow_mut() {
                    *place = Some(stream);
                }
            }
        }
    }

    fn judge(&self, stream: &EventStream, error: Option<StreamError>) {
        let Some(request) = self.request.get() else {
            return;
        };
        self.shared.with(self.id, |worker, now_ms| {
            let headers = Headers::new(&stream.headers);
            let answer = (stream.source, error);
            worker.on_first_event(now_ms, request, answer, headers, stream.now_unix_s);
        });
    }

    /// The stream is over, however it ended.
    pub fn on_done(&self) {
        // One that ended before its first event is an answer like others.
        if let Ok(Some(stream)) = self.stream.try_borrow_mut().map(|mut place| place.take()) {
            self.judge(&stream, None);
        }
        if let Some(request) = self.request.take() {
            self.shared
                .with(self.id, |worker, now_ms| worker.on_end(now_ms, request));
        }
    }
}

/// Tells the client.
fn show(path: Path, account: Option<&str>) {
    calls::set_header(Map::Response, "x-slotgate-path", path.as_str().as_bytes());
    if let Some(account) = account {
        calls::set_header(Map::Response, "x-slotgate-account", account.as_bytes());
    }
}
