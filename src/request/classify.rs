//! What a request is, read from its headers and properties: its pool, its session, and whether it is in the gray release.

use super::gray::{Bucketer, Choice, session};
use super::view::View;
pub use crate::config::TenantName;
use crate::config::{Config, GrayMode, TenantLimits, Tenants, Traditional};
use crate::hash::hash128;

/// What is read of a request that has a pool.
#[derive(Debug)]
pub struct Class {
    /// In the gray release or out of it.
    pub choice: Choice,
    /// Its bucket, if that decided.
    pub bucket: Option<u16>,
    /// The hash of its session; only of those that need one.
    pub session: Option<[u8; 16]>,
    /// The hash of what it cools an account for, if not for all.
    pub scope: Option<Box<[u8; 16]>>,
    /// Whose request it is; only of those that may get an account from us.
    pub tenant: Option<Box<Tenant>>,
}

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant {
    /// Stands for the value that named it, which is kept nowhere.
    pub name: TenantName,
    /// What it may take.
    pub limits: TenantLimits,
}

/// Reads the request. `share` is the percentage of the pool's sessions that is in, in basis points; `random` decides for a request
/// with neither session nor id.
#[must_use]
pub fn classify(
    config: &Config,
    bucketer: &Bucketer,
    request: View,
    share: u16,
    random: u64,
) -> Class {
    let session = session(&config.gray.session, request);
    let (choice, bucket) = bucketer.choose(&config.gray, share, request.headers(), session, random);
    let is_in = choice == Choice::In;
    let local = config.traditional != Traditional::Passthrough;
    Class {
        choice,
        bucket,
        // A request that is out needs no affinity, and its hash costs more than the decision.
        session: session
            .filter(|_| is_in && config.affinity.ttl_ms > 0)
            .map(hash128),
        // A request that gets no account from us cannot start a cooldown.
        scope: if is_in || local {
            scope(config, request)
        } else {
            None
        },
        tenant: match &config.tenant {
            Some(tenants) if is_in || local => tenant(tenants, request),
            Some(_) | None => None,
        },
    }
}

/// Whether requests in the gray release are only compared with what they do without it.
#[must_use]
pub fn is_shadow(config: &Config) -> bool {
    config.gray.mode == GrayMode::Shadow
}

/// Whether a request of this content type is a gRPC request, as Envoy sees it.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    let suffix = content_type.strip_prefix(b"application/grpc");
    suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(b"+"))
}

#[inline(never)]
fn scope(config: &Config, request: View) -> Option<Box<[u8; 16]>> {
    let value = request.filled(config.cooldown.scope.as_ref()?)?;
    Some(Box::new(hash128(value)))
}

#[inline(never)]
fn tenant(tenants: &Tenants, request: View) -> Option<Box<Tenant>> {
    let name = Tenants::name(session(&tenants.source, request)?);
    let limits = tenants.limits_of(&name);
    Some(Box::new(Tenant { name, limits }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_request_is_known_by_its_content_type() {
        for (content_type, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpc; charset=utf-8", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(content_type.as_bytes()), is, "{content_type}");
        }
    }
}
