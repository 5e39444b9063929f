//! Role `scheduler`, one request: host callbacks → events of the worker.

use super::calls::{self, Map};
use super::root::{Shared, apply, unix_time};
use crate::headers::Headers;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use std::rc::Rc;

/// One HTTP stream.
pub struct Http {
    id: u32,
    shared: Rc<Shared>,
    /// The request's slot in the worker, once its headers were seen.
    slot: Option<usize>,
}

impl Http {
    /// Before its headers.
    pub fn new(id: u32, shared: Rc<Shared>) -> Self {
        Self {
            id,
            shared,
            slot: None,
        }
    }

    /// With `allow_on_headers_stop_iteration` a pause in the headers stops the headers alone.
    fn pause_while_acquiring(&self) -> Action {
        let acquiring = self.slot.is_some_and(|slot| {
            self.shared
                .with(self.id, |worker, _| worker.is_acquiring((slot, self.id)))
        });
        if acquiring {
            Action::Pause
        } else {
            Action::Continue
        }
    }
}

impl Context for Http {
    fn on_done(&mut self) -> bool {
        if let Some(slot) = self.slot.take() {
            self.shared.with(self.id, |worker, now_ms| {
                worker.on_end(now_ms, (slot, self.id))
            });
        }
        true
    }
}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let serialized = calls::headers(Map::Request);
        let headers = Headers::new(&serialized);
        let id = self.id;
        let (slot, forward) = self.shared.with(id, |worker, now_ms| {
            let own = worker
                .config()
                .gray
                .gray_override
                .as_ref()
                .map(|rule| rule.header.as_bytes());
            for (name, _) in headers.iter() {
                if name.starts_with(b"x-slotgate-") || Some(name) == own {
                    calls::remove_header(Map::Request, name);
                }
            }
            let (slot, verdict) = worker.on_request(now_ms, id, headers);
            (
                slot,
                verdict.map(|verdict| apply(worker.config(), id, &verdict)),
            )
        });
        self.slot = Some(slot);
        match forward {
            Some(true) => Action::Continue,
            Some(false) | None => Action::Pause,
        }
    }

    fn on_http_request_body(&mut self, _size: usize, _end: bool) -> Action {
        self.pause_while_acquiring()
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        self.pause_while_acquiring()
    }

    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        let Some(slot) = self.slot else {
            return Action::Continue;
        };
        let request = (slot, self.id);
        self.shared.with(self.id, |worker, now_ms| {
            let Some((path, account)) = worker.path(request) else {
                return;
            };
            if worker.config().response_headers {
                calls::set_header(Map::Response, "x-slotgate-path", path.as_str().as_bytes());
                if let Some(account) = account {
                    calls::set_header(Map::Response, "x-slotgate-account", account.as_bytes());
                }
            }
            let status = std::str::from_utf8(&calls::header(Map::Response, ":status"))
                .ok()
                .and_then(|s| s.parse().ok());
            if let Some(status) = status
                && account.is_some()
                && worker.config().cooldown.statuses.contains(&status)
                // An answer of Envoy's own says nothing about the account.
                && calls::property(b"response\0code_details") == b"via_upstream"
            {
                let retry_after = calls::header(Map::Response, "retry-after");
                worker.on_response(
                    now_ms,
                    request,
                    status,
                    Some(&retry_after),
                    unix_time().as_secs(),
                );
            }
        });
        Action::Continue
    }
}
