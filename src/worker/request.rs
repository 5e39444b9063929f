//! One request as its worker knows it.

use crate::config::{TenantLimits, TenantName};
use crate::ledger::commands::Place;
use crate::request::admission::Phase;
use crate::request::classify::Tenant;
use crate::request::lease::LeaseId;
use crate::request::verdict::Refused;

/// The name of a request in events. A slot is used again; the stream tells whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Its place among the worker's requests.
    pub slot: usize,
    /// The host's number of its stream.
    pub stream: u32,
}

/// The meaning of a response for an account that has cooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// Nothing, as far as the ledger said.
    No,
    /// The request's lease probes, or may do so: what the ledger said of that was lost.
    Awaits,
    /// The response was good before the ledger said anything.
    Early,
    /// The response was good, and the ledger has yet to hear it.
    Passed,
}

/// A try after a request's first, which waits for another account's slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaterTry {
    /// The host's number of the try.
    pub context: u32,
    /// The account whose headers the request has, by its index.
    pub before: Option<u32>,
    /// What the account said that refused it last, if any did.
    pub refused: Option<Refused>,
}

/// How a try ended, if it did and another account may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TryEnd {
    /// The account refused it, and Envoy was told to try again.
    Refused,
    /// Nothing came from the upstream.
    Unanswered,
}

/// What became of the tries of a request.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// The accounts that refused it or could not be reached, by their index, oldest first.
    pub(super) tried: Vec<u32>,
    /// How the try under way ended.
    pub(super) ended: Option<TryEnd>,
    /// Whether the answer of the try under way was seen, and was a refusal.
    pub(super) judged: bool,
    /// Whether what came of it was counted.
    pub(super) counted: bool,
    /// The host's number of the try that waits for its slot.
    pub(super) waits: Option<u32>,
    /// The account whose headers the request has, by its index; `None`: that of its first try.
    pub(super) has_headers_of: Option<u32>,
    /// What the account said that refused it last.
    pub(super) refused: Option<Refused>,
}

impl Tries {
    /// A verdict goes to the try that waits for it; `None`: none does.
    pub(super) fn hand_out(&mut self, phase: Phase) -> Option<Box<LaterTry>> {
        let context = self.waits.take()?;
        let before = self.has_headers_of.or(self.tried.first().copied());
        if let Some((_, account)) = phase.holds() {
            self.has_headers_of = Some(account);
        }
        Some(Box::new(LaterTry {
            context,
            before,
            refused: self.refused.clone(),
        }))
    }
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) stream: u32,
    /// In the decision log.
    pub(super) number: u32,
    /// `None`: no pool's rules fit it.
    pub(super) pool: Option<usize>,
    pub(super) phase: Phase,
    pub(super) session: Option<[u8; 16]>,
    /// Rarely there, so it takes little room; so does the scope.
    pub(super) tenant: Option<Box<Tenant>>,
    /// In what it cools an account down.
    pub(super) scope: Option<Box<[u8; 16]>>,
    /// The ledger's epoch at the grant; 0 when the lease isn't known to be recorded.
    pub(super) epoch: u64,
    /// When the lease was last known to be good for a whole time to live, in ms.
    pub(super) renewed_ms: u64,
    /// Whether Redis was ever told of the lease.
    pub(super) acquire_sent: bool,
    /// Whether it was said already that the lease is lost.
    pub(super) lost: bool,
    pub(super) probe: Probe,
    /// Its bucket, if that decided.
    pub(super) bucket: Option<u16>,
    /// When it came, in µs.
    pub(super) came_us: u64,
    /// Rarely there: what an account's refusal brings about.
    pub(super) tries: Option<Box<Tries>>,
}

impl Request {
    /// Whether an account was tried before the one that it asks for or holds.
    pub(super) fn is_later_try(&self) -> bool {
        let tries = self.tries.as_deref();
        tries.is_some_and(|tries| !tries.tried.is_empty())
    }

    pub(super) fn scope(&self) -> Option<[u8; 16]> {
        self.scope.as_deref().copied()
    }

    /// The name of its tenant.
    pub(super) fn tenant(&self) -> Option<&TenantName> {
        self.tenant.as_deref().map(|tenant| &tenant.name)
    }

    /// What its tenant may take.
    pub(super) fn limits(&self) -> TenantLimits {
        let tenant = self.tenant.as_deref();
        tenant.map_or(TenantLimits::NONE, |tenant| tenant.limits)
    }

    /// Where it stands if it must wait for a slot.
    pub(super) fn place(&self, now_us: u64) -> Place {
        if self.is_later_try() {
            Place::Since(now_us.saturating_sub(self.came_us) / 1000)
        } else {
            Place::Last
        }
    }

    /// Whether it holds this very lease.
    pub(super) fn holds(&self, lease: LeaseId) -> bool {
        let held = self.phase.holds();
        held.is_some_and(|(held, _)| held == lease)
    }
}
