//! The verdict on a request, the rejection that its client gets, and the line of the access log.

use super::admission::{Path, Reason};
use super::classify::is_grpc;
use super::headers::Headers;
use super::lease::LeaseId;

/// The gRPC status of a request for which no slot is free.
const RESOURCE_EXHAUSTED: i32 = 8;
/// The gRPC status of a request that could not ask for a slot.
const UNAVAILABLE: i32 = 14;

/// The decision on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Forward {
        /// Which way.
        path: Path,
        /// Why not by the ledger.
        reason: Option<Reason>,
        /// Its pool, by index, if one fits it.
        pool: Option<usize>,
        /// The lease, and the account by index.
        holds: Option<(LeaseId, u32)>,
    },
    /// 429.
    Saturated {
        /// Its pool, by index, if one fits it.
        pool: Option<usize>,
        /// Why.
        reason: Reason,
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
    /// 503.
    Unavailable {
        /// Its pool, by index, if one fits it.
        pool: Option<usize>,
        /// Why.
        reason: Reason,
    },
    /// An account refused it and no other one can take it: the client gets what that account said ([`Refused`]).
    Exhausted {
        /// Its pool, by index, if one fits it.
        pool: Option<usize>,
        /// Why no other account can take it.
        reason: Reason,
        /// When to come back, in ms, should the account have said nothing of that.
        retry_after_ms: Option<u64>,
    },
}

impl Verdict {
    /// The lease and the account that the request uses, if any.
    #[must_use]
    pub fn holds(self) -> Option<(LeaseId, u32)> {
        match self {
            Self::Forward { holds, .. } => holds,
            Self::Saturated { .. } | Self::Unavailable { .. } | Self::Exhausted { .. } => None,
        }
    }

    /// Its pool, by index, if one fits it.
    #[must_use]
    pub fn pool(self) -> Option<usize> {
        match self {
            Self::Forward { pool, .. }
            | Self::Saturated { pool, .. }
            | Self::Unavailable { pool, .. }
            | Self::Exhausted { pool, .. } => pool,
        }
    }

    /// Why the ledger gave it no slot, if it did not.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Forward { reason, .. } => reason,
            Self::Saturated { reason, .. }
            | Self::Unavailable { reason, .. }
            | Self::Exhausted { reason, .. } => Some(reason),
        }
    }

    /// What the client of a request that does not go on is told; `None` for one that does. `pool` is the pool's name,
    /// `content_type` the request's.
    #[must_use]
    pub fn rejection(self, pool: &str, content_type: &[u8]) -> Option<Rejection> {
        let (status, grpc_status, kind, message, retry_after_s) = match self {
            Self::Forward { .. } => return None,
            Self::Saturated {
                reason,
                retry_after_ms,
                ..
            } => (
                429,
                RESOURCE_EXHAUSTED,
                match reason {
                    Reason::TenantLimit => "slotgate_tenant_limit",
                    _ => "slotgate_saturated",
                },
                match reason {
                    Reason::TenantLimit => {
                        "this tenant uses as many accounts of the pool as it may"
                    }
                    Reason::QueueTimeout => "no account of the pool came free in time",
                    Reason::WaitingFull => "too many requests wait for an account of the pool",
                    _ => "every account of the pool is in use",
                },
                Some(retry_after_ms.div_ceil(1000).max(1)),
            ),
            Self::Unavailable { .. } => (
                503,
                UNAVAILABLE,
                "slotgate_unavailable",
                "no slot could be taken",
                None,
            ),
            Self::Exhausted { retry_after_ms, .. } => (
                503,
                UNAVAILABLE,
                "slotgate_exhausted",
                "the account refused this request, and no other one of the pool can take it",
                retry_after_ms.map(|ms| ms.div_ceil(1000).max(1)),
            ),
        };
        let retry_after = retry_after_s.map(|seconds| seconds.to_string());
        let mut headers: Vec<(&[u8], &[u8])> = vec![];
        let mut body = message.to_owned();
        if !is_grpc(content_type) {
            let error = serde_json::json!({"type": kind, "message": message, "pool": pool});
            body = serde_json::json!({"error": error}).to_string();
            headers.push((b"content-type", b"application/json"));
        }
        if let Some(seconds) = &retry_after {
            headers.push((b"retry-after", seconds.as_bytes()));
        }
        Some(Rejection {
            status,
            grpc_status,
            kind,
            retry_after_s,
            headers: Headers::serialize(&headers),
            body,
        })
    }

    /// The same for a request that an account has refused: what would be a rejection is [`Verdict::Exhausted`].
    #[must_use]
    pub fn of_later_try(self) -> Self {
        let (pool, reason, retry_after_ms) = match self {
            Self::Forward { .. } | Self::Exhausted { .. } => return self,
            Self::Saturated {
                pool,
                reason,
                retry_after_ms,
            } => (pool, reason, Some(retry_after_ms)),
            Self::Unavailable { pool, reason } => (pool, reason, None),
        };
        Self::Exhausted {
            pool,
            reason,
            retry_after_ms,
        }
    }

    /// Which way the request goes; `None` when it does not go on.
    #[must_use]
    pub fn path(self) -> Option<Path> {
        match self {
            Self::Forward { path, .. } => Some(path),
            Self::Saturated { .. } | Self::Unavailable { .. } | Self::Exhausted { .. } => None,
        }
    }
}

/// What an account said when it refused a request: all but the body, which is gone when another account is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u32,
    /// The `grpc-status`, if there is one.
    pub grpc_status: Option<i32>,
    /// The headers, without those that are about the body or the connection, in the layout of [`Headers`].
    pub headers: Vec<u8>,
}

impl Refused {
    /// Keeps what may be passed on of a response.
    #[must_use]
    pub fn new(status: u32, headers: Headers) -> Self {
        let grpc_status = headers.get("grpc-status");
        let grpc_status = grpc_status.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let kept = headers.iter().filter(|(name, _)| {
            let is_of_body = name.starts_with(b"content-") || name.starts_with(b"grpc-");
            let is_of_connection = matches!(
                *name,
                b"transfer-encoding" | b"connection" | b"keep-alive" | b"trailer" | b"upgrade"
            );
            let is_own = name.starts_with(b":") || name.starts_with(b"x-slotgate-");
            !is_of_body && !is_of_connection && !is_own
        });
        let kept: Vec<_> = kept.collect();
        Self {
            status,
            grpc_status,
            headers: Headers::serialize(&kept),
        }
    }
}

/// The answer to a request that does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The HTTP status.
    pub status: u32,
    /// The `grpc-status`: Envoy answers a gRPC request with 200 and this one, and with the body as `grpc-message`.
    pub grpc_status: i32,
    /// What the body and Envoy's details call it.
    pub kind: &'static str,
    /// When to come back, in s.
    pub retry_after_s: Option<u64>,
    /// Its headers, in the layout of [`Headers`].
    pub headers: Vec<u8>,
    /// JSON, or plain words for a gRPC client.
    pub body: String,
}

impl Rejection {
    /// The same with what an account said: its status and its headers, among them its `retry-after`.
    #[must_use]
    pub fn as_refused(self, refused: &Refused) -> Self {
        let said = Headers::new(&refused.headers);
        let own = Headers::new(&self.headers);
        let own = own
            .iter()
            .filter(|(name, _)| !said.iter().any(|(other, _)| other == *name));
        let headers: Vec<_> = own.chain(said.iter()).collect();
        Self {
            status: refused.status,
            grpc_status: refused.grpc_status.unwrap_or(self.grpc_status),
            headers: Headers::serialize(&headers),
            ..self
        }
    }
}

/// What the access log says of a request beside its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    /// Its bucket; `None` when that did not decide: it fits no pool, or an override was given.
    pub bucket: Option<u16>,
    /// How long it waited for its acquire's outcome, in µs; `None` when it did not.
    pub acquire_us: Option<u64>,
}

impl Logged {
    /// The wait as text, in ms with three decimals.
    #[must_use]
    pub fn acquire_ms(&self) -> Option<String> {
        let us = self.acquire_us?;
        // Three digits behind a one, which then goes.
        let (whole, rest) = (us / 1000, (us % 1000).saturating_add(1000));
        let (mut text, rest) = (whole.to_string(), rest.to_string());
        text.push('.');
        text.push_str(rest.get(1..).unwrap_or_default());
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(verdict: Verdict, content_type: &str) -> Rejection {
        let rejection = verdict.rejection("demo", content_type.as_bytes());
        rejection.expect("it does not go on")
    }

    fn saturated(retry_after_ms: u64) -> Verdict {
        Verdict::Saturated {
            reason: Reason::Saturated,
            pool: Some(0),
            retry_after_ms,
        }
    }

    const NO_SLOT: Verdict = Verdict::Unavailable {
        pool: Some(0),
        reason: Reason::TimedOut,
    };

    #[test]
    fn one_that_goes_on_is_not_rejected() {
        let verdict = Verdict::Forward {
            path: Path::Atomic,
            reason: None,
            pool: Some(0),
            holds: None,
        };
        assert_eq!(verdict.rejection("demo", b"application/grpc"), None);
    }

    #[test]
    fn saturated_is_429_or_resource_exhausted() {
        let http = rejection(saturated(1), "text/plain");
        assert_eq!((http.status, http.kind), (429, "slotgate_saturated"));
        let headers = Headers::new(&http.headers);
        let headers: Vec<_> = headers.iter().collect();
        assert_eq!(
            headers,
            [
                (&b"content-type"[..], &b"application/json"[..]),
                (b"retry-after", b"1")
            ]
        );
        assert_eq!(
            http.body,
            r#"{"error":{"message":"every account of the pool is in use","pool":"demo","type":"slotgate_saturated"}}"#
        );
        let grpc = rejection(saturated(1), "application/grpc+proto");
        assert_eq!(grpc.grpc_status, 8);
        assert_eq!(grpc.body, "every account of the pool is in use");
        let headers = Headers::new(&grpc.headers);
        let headers: Vec<_> = headers.iter().collect();
        assert_eq!(headers, [(&b"retry-after"[..], &b"1"[..])]);
    }

    #[test]
    fn retry_after_is_whole_seconds_and_at_least_one() {
        for (ms, s) in [
            (0, 1),
            (1, 1),
            (1000, 1),
            (1001, 2),
            (u64::MAX, u64::MAX / 1000 + 1),
        ] {
            assert_eq!(
                rejection(saturated(ms), "").retry_after_s,
                Some(s),
                "{ms} ms"
            );
        }
    }

    #[test]
    fn unavailable_is_503_or_unavailable_without_retry_after() {
        let http = rejection(NO_SLOT, "");
        assert_eq!((http.status, http.kind), (503, "slotgate_unavailable"));
        assert_eq!(Headers::new(&http.headers).get("retry-after"), None);
        assert_eq!(
            http.body,
            r#"{"error":{"message":"no slot could be taken","pool":"demo","type":"slotgate_unavailable"}}"#
        );
        let grpc = rejection(NO_SLOT, "application/grpc");
        assert_eq!((grpc.grpc_status, grpc.retry_after_s), (14, None));
        assert_eq!(Headers::new(&grpc.headers).iter().count(), 0);
        assert_eq!(grpc.body, "no slot could be taken");
    }

    #[test]
    fn a_verdict_says_why() {
        assert_eq!(saturated(1).reason(), Some(Reason::Saturated));
        assert_eq!(NO_SLOT.reason(), Some(Reason::TimedOut));
    }
}
