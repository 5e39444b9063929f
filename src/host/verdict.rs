//! A verdict → what the host does with its request.

use super::calls::{self, Map};
use crate::config::Config;
use crate::request::admission::Reason;
use crate::request::headers::Headers;
use crate::request::verdict::{Logged, Verdict};
use crate::upstream::failing;

/// Carries out a verdict on the effective context. Answers whether the request goes on.
pub fn respond(config: &Config, stream: u32, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Forward {
            path,
            reason,
            pool,
            holds,
        } => {
            calls::set_header(Map::Request, "x-slotgate-path", path.as_str().as_bytes());
            let account = holds.and_then(|(lease, index)| {
                Some((
                    lease,
                    config.pools.get(*pool)?.accounts.get(index as usize)?,
                ))
            });
            if let Some((lease, account)) = account {
                calls::set_header(Map::Request, "x-slotgate-account", account.id.as_bytes());
                calls::set_header(Map::Request, "x-slotgate-lease", lease.as_bytes());
                for (name, value) in &account.set_headers {
                    calls::set_header(Map::Request, name, value.as_bytes());
                }
            }
            log::debug!(
                "stream {stream}: {} account={} reason={}",
                path.as_str(),
                account.map_or("-", |(_, account)| &account.id),
                reason.map_or("-", |reason| reason.as_str())
            );
            true
        }
        Verdict::Saturated {
            pool,
            retry_after_ms,
        } => {
            let seconds = retry_after_ms.div_ceil(1000).max(1).to_string();
            log::debug!("stream {stream}: saturated, retry after {seconds} s");
            let text = "every account of the pool is in use";
            reject(
                config,
                *pool,
                (429, 8),
                "slotgate_saturated",
                text,
                Some(&seconds),
            );
            false
        }
        Verdict::Unavailable { pool, reason } => {
            log::debug!("stream {stream}: unavailable reason={}", reason.as_str());
            reject(
                config,
                *pool,
                (503, 14),
                "slotgate_unavailable",
                "no slot could be taken",
                None,
            );
            false
        }
    }
}

/// Sets the filter state that access logs read, on the effective context.
pub fn write_filter_state(config: &Config, verdict: &Verdict, logged: &Logged) {
    let (path, reason, pool) = match *verdict {
        Verdict::Forward {
            path, reason, pool, ..
        } => (path.as_str(), reason, pool),
        Verdict::Saturated { pool, .. } => ("rejected", Some(Reason::Saturated), pool),
        Verdict::Unavailable { pool, reason } => ("rejected", Some(reason), pool),
    };
    calls::set_property("slotgate.path", path.as_bytes());
    if let Some(reason) = reason {
        calls::set_property("slotgate.reason", reason.as_str().as_bytes());
    }
    let pool = config.pools.get(pool);
    if let Some(pool) = pool {
        calls::set_property("slotgate.pool", pool.name.as_bytes());
    }
    if let Some((lease, index)) = verdict.holds() {
        let account = pool.and_then(|pool| pool.accounts.get(index as usize));
        let account = account.map_or("", |account| &account.id);
        calls::set_property("slotgate.account", account.as_bytes());
        calls::set_property("slotgate.lease", lease.as_bytes());
    }
    if let Some(bucket) = logged.bucket {
        calls::set_property("slotgate.bucket", bucket.to_string().as_bytes());
    }
    if let Some(text) = logged.acquire_ms() {
        calls::set_property("slotgate.acquire_ms", text.as_bytes());
    }
}

fn reject(
    config: &Config,
    pool: usize,
    (status, grpc_status): (u32, i32),
    kind: &str,
    message: &str,
    retry_after: Option<&str>,
) {
    let mut headers: Vec<(&[u8], &[u8])> = vec![];
    let mut body = message.to_owned();
    // Envoy makes a gRPC answer of it, and the body its message.
    if !failing::is_grpc(&calls::header(Map::Request, "content-type")) {
        let pool = config.pools.get(pool).map_or("", |pool| pool.name.as_str());
        let error = serde_json::json!({"type": kind, "message": message, "pool": pool});
        body = serde_json::json!({"error": error}).to_string();
        headers.push((b"content-type", b"application/json"));
    }
    if let Some(seconds) = retry_after {
        headers.push((b"retry-after", seconds.as_bytes()));
    }
    let headers = Headers::serialize(&headers);
    calls::respond(status, &headers, body.as_bytes(), kind, grpc_status);
}
