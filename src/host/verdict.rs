//! A verdict → what the host does with its request.

use super::calls::{self, Map};
use crate::config::{Account, Config};
use crate::request::admission::Path;
use crate::request::verdict::{Logged, Refused, Rejection, Verdict};
use crate::worker::LaterTry;

/// Carries out a verdict on a later try of a request, on the effective context. Returns whether the try goes on.
pub fn respond_later(config: &Config, stream: u32, verdict: &Verdict, later: &LaterTry) -> bool {
    let pool = verdict.pool().and_then(|pool| config.pools.get(pool));
    let Verdict::Forward {
        path,
        holds: Some((lease, index)),
        ..
    } = verdict
    else {
        log::debug!(
            "stream {stream}: exhausted reason={}",
            verdict.reason().map_or("-", |reason| reason.as_str())
        );
        reject(config, verdict, later.refused.as_ref());
        return false;
    };
    let account = |index: u32| pool?.accounts.get(index as usize);
    let (before, now) = (later.before.and_then(account), account(*index));
    let is_there = |name: &str| !calls::header(Map::Request, name).is_empty();
    // What the route has taken off since the first try stays off.
    if is_there("x-slotgate-account") {
        let id = now.map_or("", |account| &account.id);
        calls::set_header(Map::Request, "x-slotgate-path", path.as_str().as_bytes());
        calls::set_header(Map::Request, "x-slotgate-account", id.as_bytes());
        calls::set_header(Map::Request, "x-slotgate-lease", lease.as_bytes());
    }
    let headers = |account: Option<&Account>| -> Vec<(String, String)> {
        let Some((pool, account)) = pool.zip(account) else {
            return Vec::new();
        };
        let of_pool = pool.headers_for(account);
        let of_pool = of_pool.map(|(name, value)| (name.to_owned(), value));
        of_pool.chain(account.set_headers.iter().cloned()).collect()
    };
    let (old, new) = (headers(before), headers(now));
    let value_in = |headers: &[(String, String)], name: &str| {
        let header = headers.iter().rfind(|(other, _)| other == name);
        header.map(|(_, value)| value.clone())
    };
    for (name, _) in &old {
        match value_in(&new, name) {
            None => calls::remove_header(Map::Request, name.as_bytes()),
            Some(value) if value_in(&old, name).as_ref() != Some(&value) && is_there(name) => {
                calls::set_header(Map::Request, name, value.as_bytes());
            }
            Some(_) => {}
        }
    }
    for (name, value) in &new {
        if value_in(&old, name).is_none() {
            calls::set_header(Map::Request, name, value.as_bytes());
        }
    }
    log::debug!(
        "stream {stream}: {} account={} after={}",
        path.as_str(),
        now.map_or("-", |account| &account.id),
        before.map_or("-", |account| &account.id),
    );
    true
}

/// Carries out a verdict on the effective context. Returns whether the request goes on.
pub fn respond(config: &Config, stream: u32, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Forward {
            path,
            reason,
            pool,
            holds,
        } => {
            if *path != Path::Traditional || config.traditional_path_header {
                calls::set_header(Map::Request, "x-slotgate-path", path.as_str().as_bytes());
            }
            let pool = pool.and_then(|pool| config.pools.get(pool));
            let account = holds.and_then(|(lease, index)| {
                let pool = pool?;
                Some((lease, pool, pool.accounts.get(index as usize)?))
            });
            if let Some((lease, pool, account)) = account {
                calls::set_header(Map::Request, "x-slotgate-account", account.id.as_bytes());
                calls::set_header(Map::Request, "x-slotgate-lease", lease.as_bytes());
                for (name, value) in pool.headers_for(account) {
                    calls::set_header(Map::Request, name, value.as_bytes());
                }
                for (name, value) in &account.set_headers {
                    calls::set_header(Map::Request, name, value.as_bytes());
                }
            } else if holds.is_none() {
                let without_pool = &config.traditional_headers;
                let headers = pool.map_or(without_pool, |pool| &pool.traditional_headers);
                for (name, value) in headers.iter("") {
                    calls::set_header(Map::Request, name, value.as_bytes());
                }
            }
            log::debug!(
                "stream {stream}: {} account={} reason={}",
                path.as_str(),
                account.map_or("-", |(.., account)| &account.id),
                reason.map_or("-", |reason| reason.as_str())
            );
            true
        }
        Verdict::Saturated { .. } => {
            if let Some(rejection) = reject(config, verdict, None) {
                let seconds = rejection.retry_after_s.unwrap_or_default();
                log::debug!("stream {stream}: saturated, retry after {seconds} s");
            }
            false
        }
        Verdict::Unavailable { reason, .. } => {
            log::debug!("stream {stream}: unavailable reason={}", reason.as_str());
            reject(config, verdict, None);
            false
        }
        // Only of later tries.
        Verdict::Exhausted { .. } => false,
    }
}

/// Sets the filter state that access logs read, on the effective context.
pub fn write_filter_state(config: &Config, verdict: &Verdict, logged: &Logged) {
    let path = verdict.path().map_or("rejected", Path::as_str);
    calls::set_property("slotgate.path", path.as_bytes());
    if let Some(reason) = verdict.reason() {
        calls::set_property("slotgate.reason", reason.as_str().as_bytes());
    }
    let pool = verdict.pool().and_then(|pool| config.pools.get(pool));
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

/// Answers the request of the effective context, unless it goes on.
fn reject(config: &Config, verdict: &Verdict, refused: Option<&Refused>) -> Option<Rejection> {
    let pool = verdict.pool().and_then(|pool| config.pools.get(pool));
    let pool = pool.map_or("", |pool| &pool.name);
    let mut rejection = verdict.rejection(pool, &calls::header(Map::Request, "content-type"))?;
    if let Some(refused) = refused {
        rejection = rejection.as_refused(refused);
    }
    calls::respond(
        rejection.status,
        &rejection.headers,
        rejection.body.as_bytes(),
        rejection.kind,
        rejection.grpc_status,
    );
    Some(rejection)
}
