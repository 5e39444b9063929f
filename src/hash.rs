//! Hashes that stand for values whose own text is kept nowhere.

use siphasher::sip128;

/// SipHash-2-4-128 under a key of zeros, as bytes. Also names sessions in Redis, where their own text has no business.
#[must_use]
pub fn hash128(bytes: &[u8]) -> [u8; 16] {
    sip128::SipHasher24::new().hash(bytes).as_bytes()
}

/// The second half of a hash, in hex.
#[must_use]
pub fn tag(hash: &[u8; 16]) -> [u8; 16] {
    let [.., a, b, c, d, e, f, g, h] = *hash;
    let mut digits = [0; 16];
    hex(u64::from_be_bytes([a, b, c, d, e, f, g, h]), &mut digits);
    digits
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
