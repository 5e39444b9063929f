//! Lease ids: one request's name for its hold on a slot.

use crate::config::TenantName;
use crate::hash::hex;
use std::fmt;

/// 24 bytes of `[0-9a-f]`: 16 that tell the worker, 8 that count its requests. Where the request has a tenant, a dot and
/// the tenant's name follow. Known before the acquire is sent, so that a reply that never comes can still be answered by a
/// release. Aligned, since ids are copied everywhere: that takes 2 kB off the wasm.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(align(8))]
pub struct LeaseId([u8; LeaseId::LEN_WITH_TENANT]);

impl LeaseId {
    /// Length in bytes of an id without a tenant.
    pub const LEN: usize = 24;

    /// Length in bytes of an id with a tenant.
    pub const LEN_WITH_TENANT: usize = 41;

    /// The id as it goes to Redis and into headers.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self.0.split_first_chunk::<{ Self::LEN }>() {
            Some((plain, [0, ..])) => plain,
            Some(_) | None => &self.0,
        }
    }

    /// The same, as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Mints the lease ids of one worker.
#[derive(Debug)]
pub struct LeaseIds {
    worker: u64,
    next: u32,
}

impl LeaseIds {
    /// `worker` must differ between any two workers alive at once: 64 random bits.
    #[must_use]
    pub fn new(worker: u64) -> Self {
        Self { worker, next: 0 }
    }

    /// The next id, for a request of this tenant.
    pub fn mint(&mut self, tenant: Option<&TenantName>) -> LeaseId {
        let mut id = [0; LeaseId::LEN_WITH_TENANT];
        let (plain, of_tenant) = id.split_at_mut_checked(LeaseId::LEN).unwrap_or_default();
        if let Some((worker, count)) = plain.split_first_chunk_mut::<16>() {
            hex(self.worker, worker);
            hex(u64::from(self.next), count);
        }
        if let Some((name, [dot, rest @ ..])) = tenant.zip(Some(of_tenant)) {
            *dot = b'.';
            for (to, from) in rest.iter_mut().zip(name) {
                *to = *from;
            }
        }
        self.next = self.next.wrapping_add(1);
        if self.next == 0 {
            self.worker = self.worker.wrapping_add(1);
        }
        LeaseId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hex_and_all_different() {
        let mut ids = LeaseIds::new(0x0123_4567_89ab_cdef);
        assert_eq!(ids.mint(None).as_str(), "0123456789abcdef00000000");
        assert_eq!(ids.mint(None).as_str(), "0123456789abcdef00000001");
        ids.next = u32::MAX;
        assert_eq!(ids.mint(None).as_str(), "0123456789abcdefffffffff");
        assert_eq!(ids.mint(None).as_str(), "0123456789abcdf000000000");
    }

    #[test]
    fn an_id_names_its_tenant() {
        let mut ids = LeaseIds::new(0x0123_4567_89ab_cdef);
        let plain = ids.mint(None);
        let gold = ids.mint(Some(b"fedcba9876543210"));
        assert_eq!(gold.as_str(), "0123456789abcdef00000001.fedcba9876543210");
        assert_eq!(gold.as_bytes(), gold.as_str().as_bytes());
        assert_eq!(
            gold.as_bytes().get(LeaseId::LEN + 1..),
            Some(&b"fedcba9876543210"[..])
        );
        assert_eq!(gold.as_bytes().len(), LeaseId::LEN_WITH_TENANT);
        assert_eq!(plain.as_bytes().len(), LeaseId::LEN);
        assert_eq!(plain.as_bytes().get(LeaseId::LEN + 1..), None);
        let again = |tenant| LeaseIds::new(0x0123_4567_89ab_cdef).mint(tenant);
        assert_eq!(plain, again(None));
        assert_ne!(plain, again(Some(b"fedcba9876543210")));
    }
}
