//! Role `upstream`, one try of a request: host callbacks → events of the worker that gave the request its slot.
//!
//! It runs in the upstream filters of the accounts' clusters, in the scheduler's VM. Events may leave the effective context at
//! a request, and arm ticks in the name of whoever is called: `Shared::with_other` sees to both.

use super::calls::{self, Map};
use super::clock::unix_time;
use super::root::Shared;
use crate::request::headers::Headers;
use crate::upstream::answer::Status;
use crate::worker::RequestId;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The response header that makes Envoy's router try again.
pub const MARK: &str = "x-slotgate-retry";
/// The property by which a try finds its request.
const REQUEST: &str = "slotgate.request";

/// Tells the tries of a request, which the host calls now, whose it is. `root_id`: the scheduler's number.
pub fn tell_tries(root_id: u32, request: RequestId, is_grpc: bool) {
    let Ok(slot) = u32::try_from(request.slot) else {
        return;
    };
    let numbers = [root_id, slot, request.stream, is_grpc.into()];
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    calls::set_property(REQUEST, &bytes);
}

/// What [`tell_tries`] said.
fn told() -> Option<(u32, RequestId, bool)> {
    let bytes = calls::property(REQUEST.as_bytes());
    let mut numbers = bytes.chunks_exact(4).map_while(|bytes| {
        let bytes = bytes.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    });
    let (root_id, slot, stream) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let slot = usize::try_from(slot).ok()?;
    Some((root_id, RequestId { slot, stream }, numbers.next()? != 0))
}

/// One try.
pub struct Try {
    id: u32,
    /// The request and its scheduler, where it may try another account.
    request: RefCell<Option<(Rc<Shared>, RequestId)>>,
    is_grpc: Cell<bool>,
    answered: Cell<bool>,
}

thread_local! {
    /// Whether it was said that the scheduler is in another VM.
    static SAID: Cell<bool> = const { Cell::new(false) };
}

impl Try {
    /// Before its headers.
    pub fn new(id: u32) -> Self {
        Self {
            id,
            request: RefCell::new(None),
            is_grpc: Cell::new(false),
            answered: Cell::new(false),
        }
    }

    fn request(&self) -> Option<(Rc<Shared>, RequestId)> {
        self.request.try_borrow().ok()?.clone()
    }

    /// Returns whether the try goes out at once. `scheduler` finds one in this VM by its number.
    pub fn on_request_headers(&self, scheduler: impl FnOnce(u32) -> Option<Rc<Shared>>) -> bool {
        // Without failover, or without a slot, there is nothing to find.
        let Some((root_id, request, is_grpc)) = told() else {
            return true;
        };
        let Some(shared) = scheduler(root_id) else {
            if SAID.try_with(|said| said.replace(true)) == Ok(false) {
                log::warn!(
                    "no other account is tried: role upstream and role scheduler need one vm_id, one code and one vm_config, so that they share a VM"
                );
            }
            return true;
        };
        self.is_grpc.set(is_grpc);
        let goes = shared.ask(|worker| worker.is_first_try(request).then_some(()));
        let goes = goes.is_some()
            || shared.with_other(self.id, |worker, now_ms| {
                worker.on_try(now_ms, request, self.id)
            }) != Some(false);
        if let Ok(mut place) = self.request.try_borrow_mut() {
            *place = Some((shared, request));
        }
        goes
    }

    /// The upstream's answer.
    pub fn on_response_headers(&self) {
        self.answered.set(true);
        // An upstream has no say in this.
        calls::remove_header(Map::Response, MARK.as_bytes());
        let Some((shared, request)) = self.request() else {
            return;
        };
        let header = |name| calls::header(Map::Response, name);
        let status = Status::read(&header(":status"), self.is_grpc.get(), || {
            header("grpc-status")
        });
        let refused = shared.ask(|worker| status.filter(|one| worker.may_refuse(request, *one)));
        let Some(status) = refused else {
            return;
        };
        let serialized = calls::headers(Map::Response);
        let now_unix_s = unix_time().as_secs();
        let again = shared.with_other(self.id, |worker, now_ms| {
            let headers = Headers::new(&serialized);
            worker.on_try_answered(now_ms, request, status, headers, now_unix_s)
        });
        if again == Some(true) {
            calls::set_header(Map::Response, MARK, b"1");
        }
    }

    /// The try is over, however it ended.
    pub fn on_done(&self) {
        if self.answered.get() {
            return;
        }
        if let Some((shared, request)) = self.request() {
            shared.with_other(self.id, |worker, now_ms| {
                worker.on_try_unanswered(now_ms, request, self.id);
            });
        }
    }
}
