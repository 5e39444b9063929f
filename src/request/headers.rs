//! A view of one header map as the host hands it over, without copying it.
//!
//! Layout (proxy-wasm ABI 0.2.1): a little-endian `u32` count, then for each header two `u32` lengths, then for each header
//! its name, a zero byte, its value, a zero byte. A value may hold bytes of any kind.

/// A serialized header map. One that is cut short simply ends early.
#[derive(Clone, Copy)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Wraps what the host returned.
    #[must_use]
    pub fn new(serialized: &'a [u8]) -> Self {
        Self(serialized)
    }

    /// Names and values in the order they were sent, pseudo headers included. Envoy's names are lower case.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let count = u32_at(self.0, 0).unwrap_or(0);
        let lengths = self.0.get(4..).unwrap_or_default();
        let mut rest = lengths.get(count.saturating_mul(8)..).unwrap_or_default();
        let mut pairs = lengths.chunks_exact(8).take(count);
        std::iter::from_fn(move || {
            let pair = pairs.next()?;
            let name = split(&mut rest, u32_at(pair, 0)?)?;
            let value = split(&mut rest, u32_at(pair, 4)?)?;
            Some((name, value))
        })
    }

    /// The first value of a header, by its lower-case name.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|(n, _)| *n == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// The first value of a header that is not empty: the header may be there twice.
    #[must_use]
    pub fn filled(self, name: &str) -> Option<&'a [u8]> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// Every value of a header.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(n, _)| *n == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// The bytes as the host would hand them over: for tests and simulations.
    #[must_use]
    pub fn serialize(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = u32::try_from(pairs.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes()
            .to_vec();
        for (name, value) in pairs {
            out.extend(length(name));
            out.extend(length(value));
        }
        for (name, value) in pairs {
            out.extend_from_slice(name);
            out.push(0);
            out.extend_from_slice(value);
            out.push(0);
        }
        out
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let (four, _) = bytes.get(at..)?.split_first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*four)).ok()
}

/// Takes `length` bytes and the zero byte after them.
fn split<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left.get(1..)?;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_serialized() {
        let bytes = Headers::serialize(&[
            (b":path", b"/a"),
            (b"x", b"\xff\0"),
            (b"e", b""),
            (b"x", b"2"),
        ]);
        let headers = Headers::new(&bytes);
        assert_eq!(headers.iter().count(), 4);
        assert_eq!(headers.get("x"), Some(&b"\xff\0"[..]));
        assert_eq!(headers.get("e"), Some(&b""[..]));
        assert_eq!(headers.get("none"), None);
        assert_eq!(headers.filled("e"), None);
        let twice = Headers::serialize(&[(b"x", b""), (b"x", b"2"), (b"x", b"3")]);
        assert_eq!(Headers::new(&twice).filled("x"), Some(&b"2"[..]));
        assert_eq!(headers.all("x").collect::<Vec<_>>(), [&b"\xff\0"[..], b"2"]);
    }

    #[test]
    fn a_map_cut_anywhere_ends_early() {
        let bytes = Headers::serialize(&[(b"name", b"value"), (b"other", b"")]);
        for end in 0..bytes.len() {
            assert!(
                Headers::new(&bytes[..end]).iter().count() < 2,
                "cut at {end}"
            );
        }
        assert_eq!(Headers::new(&[255; 64]).iter().count(), 0);
    }
}
