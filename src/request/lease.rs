//! Lease ids: one request's name for its hold on a slot.

use std::fmt;

/// 24 bytes of `[0-9a-f]`: 16 that tell the worker, 8 that count its requests. Known before the acquire is sent, so
/// that a reply that never comes can still be answered by a release.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId([u8; LeaseId::LEN]);

impl LeaseId {
    /// Length in bytes.
    pub const LEN: usize = 24;

    /// The id as it goes to Redis and into headers.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
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

    /// The next id.
    pub fn mint(&mut self) -> LeaseId {
        let mut id = [0; LeaseId::LEN];
        if let Some((worker, count)) = id.split_first_chunk_mut::<16>() {
            hex(self.worker, worker);
            hex(u64::from(self.next), count);
        }
        self.next = self.next.wrapping_add(1);
        if self.next == 0 {
            self.worker = self.worker.wrapping_add(1);
        }
        LeaseId(id)
    }
}

/// Writes `value` in lower-case hex, right-aligned, zeros in front.
pub fn hex(mut value: u64, out: &mut [u8]) {
    for byte in out.iter_mut().rev() {
        let digit = (value & 15) as u8;
        *byte = if digit < 10 {
            b'0' | digit
        } else {
            b'W'.wrapping_add(digit)
        };
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hex_and_all_different() {
        let mut ids = LeaseIds::new(0x0123_4567_89ab_cdef);
        assert_eq!(ids.mint().as_str(), "0123456789abcdef00000000");
        assert_eq!(ids.mint().as_str(), "0123456789abcdef00000001");
        ids.next = u32::MAX;
        assert_eq!(ids.mint().as_str(), "0123456789abcdefffffffff");
        assert_eq!(ids.mint().as_str(), "0123456789abcdf000000000");
    }
}
