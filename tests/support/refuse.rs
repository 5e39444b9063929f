//! What an upstream refuses, and what it saw of each request.
//!
//! `/refuse` refuses a request if one of these says so, and answers others with what it saw of them:
//!
//! | in its query | |
//! |---|---|
//! | `accounts=a,b` | `x-slotgate-account` is one of them |
//! | `key=K` | so is `authorization`, without `Bearer` |
//! | `tries=N` | one of the first N tries, by Envoy's `x-envoy-attempt-count` |
//! | `percent=P&number=N` | by chance, drawn from the request's number and the try's, so always the same |
//! | `status=429` | with this status |
//! | `grpc=8` | as a gRPC server does, in headers alone; `0`: none is refused |
//! | `how=reset`, `how=hang` | by a reset, or never |
//! | `early=1` | before the request's body has come |
//! | `then=sse` | the others get what `/sse` answers |
//! | `delay_ms=M` | so much later |
//!
//! A key of one account beside the name of another one gets 418.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode, Version};
use serde_json::json;

use super::upstream::{Counted, Hold, headers_json, whole};
use super::upstream_io::Line;
use super::{Error, Ledger};

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub http2: bool,
    /// `x-slotgate-account`.
    pub account: String,
    /// `x-slotgate-lease`.
    pub lease: String,
    /// `authorization`.
    pub key: String,
    /// Whose the lease was at that moment; `None`: nobody's any more, or Redis did not say.
    pub owner: Option<String>,
}

fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name);
    value.map_or_else(String::new, |value| {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    })
}

/// Asks the ledger past the filter whose a lease is.
pub(super) struct Owners {
    client: redis::Client,
    key: String,
    idle: Mutex<Vec<redis::Connection>>,
}

impl Owners {
    pub(super) fn new(ledger: &Ledger) -> Owners {
        Owners {
            client: ledger.client(),
            key: ledger.key("owner"),
            idle: Mutex::default(),
        }
    }

    pub(super) async fn look(
        self: &Arc<Self>,
        path: &str,
        version: Version,
        headers: &HeaderMap,
    ) -> Seen {
        let lease = text(headers, "x-slotgate-lease");
        let (owners, asked) = (Arc::clone(self), lease.clone());
        let owner = tokio::task::spawn_blocking(move || owners.ask(&asked));
        Seen {
            path: path.to_owned(),
            http2: version == Version::HTTP_2,
            account: text(headers, "x-slotgate-account"),
            lease,
            key: text(headers, "authorization"),
            owner: owner.await.unwrap_or_default(),
        }
    }

    fn ask(&self, lease: &str) -> Option<String> {
        // A Redis that stands still holds the request back: not for ever.
        const PATIENCE: Duration = Duration::from_secs(5);
        if lease.is_empty() {
            return None;
        }
        let idle = self.idle.lock().unwrap().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.client.get_connection_with_timeout(PATIENCE).ok()?,
        };
        connection.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut ask = redis::cmd("HGET");
        ask.arg(&self.key).arg(lease);
        let owner: Option<String> = ask.query(&mut connection).ok()?;
        self.idle.lock().unwrap().push(connection);
        // A reconcile pass leaves a mark behind it.
        owner.map(|owner| owner.split(':').next().unwrap_or_default().to_owned())
    }
}

/// Whether a try of a request is among so many of a hundred: always the same ones, by SplitMix64's mixer.
pub fn drawn(number: u64, attempt: u64, percent: u64) -> bool {
    let mut draw = (number << 8 | attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    draw = (draw ^ draw >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    draw = (draw ^ draw >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (draw ^ draw >> 31) % 1_000 < 10 * percent
}

/// What a request to `/refuse` asks for.
pub(super) struct Asked {
    query: Vec<(String, String)>,
    account: String,
    is_confused: bool,
    refused: bool,
}

impl Asked {
    pub(super) fn of(query: &[(String, String)], headers: &HeaderMap) -> Asked {
        let account = text(headers, "x-slotgate-account");
        let key = text(headers, "authorization");
        let of = key.strip_prefix("Bearer key-of-");
        let mut asked = Asked {
            query: query.to_vec(),
            is_confused: !account.is_empty() && of.is_some_and(|of| of != account),
            account,
            refused: false,
        };
        let attempt = text(headers, "x-envoy-attempt-count").parse().unwrap_or(1);
        let named = asked.says("accounts").split(',');
        let by_name = !asked.account.is_empty() && named.into_iter().any(|id| id == asked.account);
        let bare = key.trim_start_matches("Bearer ");
        let by_key = !key.is_empty() && asked.says("key") == bare;
        let by_try = attempt <= asked.number("tries");
        let by_chance = drawn(asked.number("number"), attempt, asked.number("percent"));
        let can = asked.says("grpc") != "0";
        asked.refused = can && (by_name || by_key || by_try || by_chance);
        asked
    }

    fn says(&self, name: &str) -> &str {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    fn number(&self, name: &str) -> u64 {
        self.says(name).parse().unwrap_or_default()
    }

    /// Whether the answer does not wait for the body.
    pub(super) fn is_early(&self) -> bool {
        self.is_confused || self.refused && self.number("early") > 0
    }

    /// The path that says what a request gets which is not refused.
    pub(super) fn then(&self) -> Option<String> {
        let then = self.says("then");
        (!self.refused && !then.is_empty()).then(|| format!("/{then}"))
    }

    pub(super) async fn answer(
        &self,
        head: &Parts,
        body_length: usize,
        line: &Line,
        hold: Hold,
    ) -> Result<Response<Counted>, Error> {
        if self.is_confused {
            let text = format!("another's key, {}\n", self.account);
            return Ok(whole(StatusCode::IM_A_TEAPOT, text, Some(hold)));
        }
        if self.refused && self.says("how") == "hang" {
            std::future::pending::<()>().await;
        }
        if self.refused && self.says("how") == "reset" {
            line.reset_on_close();
            return Err("reset as asked".into());
        }
        let grpc = self.says("grpc");
        let mut said: Vec<(&'static str, &str)> = vec![("x-slotgate-retry", "mine")];
        let mut response = if !grpc.is_empty() {
            let status = if self.refused { grpc } else { "0" };
            said.extend([
                ("content-type", "application/grpc"),
                ("grpc-status", status),
            ]);
            said.push(("x-told", &self.account));
            whole(StatusCode::OK, String::new(), Some(hold))
        } else if self.refused {
            let status = match self.number("status") {
                0 => StatusCode::TOO_MANY_REQUESTS,
                status => StatusCode::from_u16(u16::try_from(status)?)?,
            };
            said.extend([("retry-after", "7"), ("x-ratelimit-limit", "10")]);
            whole(status, "{\"error\": \"busy\"}".into(), Some(hold))
        } else {
            let seen = json!({
                "account": self.account,
                "method": head.method.as_str(),
                "headers": headers_json(&head.headers),
                "body_length": body_length,
            });
            whole(StatusCode::OK, seen.to_string(), Some(hold))
        };
        for (name, value) in said {
            let value = HeaderValue::from_str(value)?;
            response.headers_mut().insert(name, value);
        }
        Ok(response)
    }
}
