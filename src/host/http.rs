//! Role `scheduler`, one request: host callbacks → events of the worker.

use super::calls::{self, Map};
use super::root::{Shared, apply, unix_time};
use crate::headers::Headers;
use std::cell::Cell;
use std::rc::Rc;

/// One HTTP stream.
pub struct Http {
    id: u32,
    shared: Rc<Shared>,
    /// The request's slot in the worker, once its headers were seen.
    slot: Cell<Option<usize>>,
}

impl Http {
    /// Before its headers.
    pub fn new(id: u32, shared: Rc<Shared>) -> Self {
        Self {
            id,
            shared,
            slot: Cell::new(None),
        }
    }

    /// Answers whether the request goes on at once.
    pub fn on_request_headers(&self) -> bool {
        self.shared.done_reading();
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
        let Some((slot, forward)) = event else {
            return true;
        };
        self.slot.set(Some(slot));
        forward.unwrap_or(false)
    }

    /// The upstream's answer, or Envoy's own, is on its way to the client.
    pub fn on_response_headers(&self) {
        let Some(slot) = self.slot.get() else {
            return;
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
