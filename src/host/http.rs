//! Role `scheduler`, one request: host callbacks → events of the worker.

use super::calls::{self, Map};
use super::clock::unix_time;
use super::root::Shared;
use super::verdict::{respond, write_filter_state};
use crate::request::admission::Path;
use crate::request::classify::is_grpc;
use crate::request::headers::Headers;
use crate::request::view::View;
use crate::upstream::failing::{self, Source};
use std::cell::Cell;
use std::rc::Rc;

/// One HTTP stream.
pub struct Http {
    id: u32,
    shared: Rc<Shared>,
    /// The request's slot in the worker, while something may still happen to it there.
    slot: Cell<Option<usize>>,
    /// Which way it went without one.
    path: Cell<Option<Path>>,
    /// Whether it is a gRPC request: only for those the answer's `grpc-status` is asked for.
    is_grpc: Cell<bool>,
}

impl Http {
    /// Before its headers.
    pub fn new(id: u32, shared: Rc<Shared>) -> Self {
        Self {
            id,
            shared,
            slot: Cell::new(None),
            path: Cell::new(None),
            is_grpc: Cell::new(false),
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
            let (slot, verdict) = worker.on_request(now_ms, id, View::new(headers, &properties));
            if let Some(request_id) = request_id {
                worker.identify(request_id);
            }
            match verdict {
                Some(verdict) if verdict.holds().is_none() => self.path.set(verdict.path()),
                Some(_) | None => self.slot.set(Some(slot)),
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
        match (self.slot.get(), self.path.get()) {
            (Some(slot), _) => self.on_held_response((slot, self.id)),
            (None, Some(path)) if self.shared.response_headers() => show(path, None),
            (None, _) => {}
        }
    }

    fn on_held_response(&self, request: (usize, u32)) {
        let heard = self.shared.look(|worker| {
            let (path, account) = worker.path(request)?;
            if worker.config().response_headers {
                show(path, account);
            }
            account?;
            let header = |name| calls::header(Map::Response, name);
            let status = failing::judged_status(&header(":status"), self.is_grpc.get(), || {
                header("grpc-status")
            })?;
            worker.wants_response(request, status).then_some(status)
        });
        if let Some(status) = heard {
            let answer = (
                Source::of(&calls::property(b"response\0code_details")),
                status,
            );
            let serialized = calls::headers(Map::Response);
            let headers = Headers::new(&serialized);
            let now_unix_s = unix_time().as_secs();
            self.shared.with(self.id, |worker, now_ms| {
                worker.on_response(now_ms, request, answer, headers, now_unix_s);
            });
        }
    }

    /// The stream is over, however it ended.
    pub fn on_done(&self) {
        if let Some(slot) = self.slot.take() {
            self.shared.with(self.id, |worker, now_ms| {
                worker.on_end(now_ms, (slot, self.id))
            });
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
