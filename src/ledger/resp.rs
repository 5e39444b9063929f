//! RESP2, the Redis protocol: commands out, replies in, read where they lie.
//!
//! Our own because in the wasm a maintained crate costs more than the rest of a reply's handling; the figures are in
//! `docs/decisions/resp-reader.md`. Source: the Redis serialization protocol specification.

/// No reply may be longer, in bytes.
pub const MAX_REPLY: usize = 1 << 20;
/// No reply may nest deeper or hold more values.
const MAX_VALUES: usize = 1 << 16;

/// Bytes that are no RESP2 reply, or one beyond the bounds above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A bulk string argument behind a command's head.
pub fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    push_length(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// A bulk string argument made of two parts.
pub fn push_bulk_of(out: &mut Vec<u8>, first: &[u8], second: &[u8]) {
    push_length(out, b'$', first.len().saturating_add(second.len()));
    out.extend_from_slice(first);
    out.extend_from_slice(second);
    out.extend_from_slice(b"\r\n");
}

/// A whole number as a bulk string argument.
pub fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let text = decimal(number, &mut digits);
    push_bulk(out, text);
}

/// The head of a command: how many arguments follow, its name included.
pub fn push_array(out: &mut Vec<u8>, arguments: usize) {
    push_length(out, b'*', arguments);
}

/// A whole command of which the hot path knows nothing.
#[inline(never)]
pub fn push_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    push_array(out, arguments.len());
    push_bulks(out, arguments);
}

/// Arguments behind a command's head.
#[inline(never)]
pub fn push_bulks(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    for argument in arguments {
        push_bulk(out, argument);
    }
}

fn push_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    // One append for each of the usual lengths: this is a good part of an acquire's time here.
    match length {
        0..=9 => out.extend_from_slice(&[kind, digit(length), b'\r', b'\n']),
        10..=99 => {
            let (tens, ones) = (digit(length / 10), digit(length % 10));
            out.extend_from_slice(&[kind, tens, ones, b'\r', b'\n']);
        }
        _ => {
            let mut digits = [0; 20];
            out.push(kind);
            out.extend_from_slice(decimal(length as u64, &mut digits));
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Of a number below 10.
fn digit(number: usize) -> u8 {
    b'0' | (number as u8)
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' | (number % 10) as u8;
        number /= 10;
        start = at;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

/// The length of the first complete reply in `bytes`; `None`: more bytes are needed.
///
/// # Errors
/// [`Malformed`] as soon as the bytes cannot become a reply.
pub fn reply_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut left: usize = 1;
    let mut values: usize = 0;
    while left > 0 {
        values = values.saturating_add(1);
        if values > MAX_VALUES {
            return Err(Malformed);
        }
        left = left.saturating_sub(1);
        let Some((kind, line)) = cursor.line()? else {
            return Ok(None);
        };
        match kind {
            b'+' | b'-' => {}
            b':' => {
                signed(line)?;
            }
            b'$' => {
                if let Some(length) = length(line)? {
                    match cursor.take(length)? {
                        Some(_) => {}
                        None => return Ok(None),
                    }
                }
            }
            b'*' => left = left.saturating_add(length(line)?.unwrap_or(0)),
            _ => return Err(Malformed),
        }
    }
    Ok(Some(cursor.at))
}

/// One value of a reply. An array's values follow it, one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// `+OK`
    Simple(&'a [u8]),
    /// `-NOSCRIPT …`
    Error(&'a [u8]),
    /// `:1`
    Integer(i64),
    /// `$3 …`
    Bulk(&'a [u8]),
    /// `$-1` or `*-1`
    Nil,
    /// `*2`, then as many values
    Array(usize),
}

/// Reads the values of one complete reply in order.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a>(Cursor<'a>);

impl<'a> Values<'a> {
    /// `reply` as measured by [`reply_length`].
    #[must_use]
    pub fn new(reply: &'a [u8]) -> Self {
        Self(Cursor {
            bytes: reply,
            at: 0,
        })
    }

    /// The next value; `None` behind the last.
    pub fn value(&mut self) -> Option<Value<'a>> {
        let (kind, line) = self.0.line().ok()??;
        match kind {
            b'+' => Some(Value::Simple(line)),
            b'-' => Some(Value::Error(line)),
            b':' => signed(line).ok().map(Value::Integer),
            b'$' => match length(line).ok()? {
                None => Some(Value::Nil),
                Some(length) => self.0.take(length).ok()?.map(Value::Bulk),
            },
            b'*' => Some(length(line).ok()?.map_or(Value::Nil, Value::Array)),
            _ => None,
        }
    }

    /// The next value if it is a bulk string.
    pub fn bulk(&mut self) -> Option<&'a [u8]> {
        match self.value()? {
            Value::Bulk(bytes) => Some(bytes),
            Value::Simple(_)
            | Value::Error(_)
            | Value::Integer(_)
            | Value::Nil
            | Value::Array(_) => None,
        }
    }

    /// The next value if it is a whole number of 0 or more, as an integer or written out.
    pub fn number(&mut self) -> Option<u64> {
        match self.value()? {
            Value::Integer(number) => u64::try_from(number).ok(),
            Value::Bulk(text) => whole(text),
            Value::Simple(_) | Value::Error(_) | Value::Nil | Value::Array(_) => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The type byte and what stands before the line's end.
    fn line(&mut self) -> Result<Option<(u8, &'a [u8])>, Malformed> {
        let Some((kind, rest)) = self.bytes.get(self.at..).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        if !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*') {
            return Err(Malformed);
        }
        let Some(end) = rest.iter().position(|byte| *byte == b'\r') else {
            return if rest.len() > MAX_REPLY {
                Err(Malformed)
            } else {
                Ok(None)
            };
        };
        match rest.get(end.saturating_add(1)) {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(Malformed),
        }
        self.at = self.at.saturating_add(end).saturating_add(3);
        Ok(Some((*kind, rest.get(..end).unwrap_or_default())))
    }

    /// A bulk string's bytes, with the line's end behind them.
    fn take(&mut self, length: usize) -> Result<Option<&'a [u8]>, Malformed> {
        let end = self.at.saturating_add(length);
        let Some(bytes) = self.bytes.get(self.at..end) else {
            return Ok(None);
        };
        match (self.bytes.get(end), self.bytes.get(end.saturating_add(1))) {
            (Some(b'\r'), Some(b'\n')) => {
                self.at = end.saturating_add(2);
                Ok(Some(bytes))
            }
            (None, _) | (Some(b'\r'), None) => Ok(None),
            (Some(_), _) => Err(Malformed),
        }
    }
}

fn signed(line: &[u8]) -> Result<i64, Malformed> {
    let (negative, digits) = match line.split_first() {
        Some((b'-', digits)) => (true, digits),
        Some((b'+', digits)) => (false, digits),
        Some(_) | None => (false, line),
    };
    let number = i64::try_from(whole(digits).ok_or(Malformed)?).map_err(|_| Malformed)?;
    Ok(if negative {
        number.saturating_neg()
    } else {
        number
    })
}

/// Digits alone, at least one.
pub(super) fn whole(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// A length; `None` for -1.
fn length(line: &[u8]) -> Result<Option<usize>, Malformed> {
    match signed(line)? {
        -1 => Ok(None),
        number => usize::try_from(number)
            .ok()
            .filter(|length| *length <= MAX_REPLY)
            .map(Some)
            .ok_or(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &[&[u8]] = &[
        b"+OK\r\n",
        b"-NOSCRIPT No matching script.\r\n",
        b":-12\r\n",
        b"$0\r\n\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*3\r\n$7\r\ngranted\r\n$6\r\nacct-1\r\n$4\r\n\r\n\r\n\r\n",
        b"*2\r\n*2\r\n:1\r\n+a\r\n*1\r\n$-1\r\n",
    ];

    #[test]
    fn split_at_every_byte() {
        for reply in REPLIES {
            for end in 0..reply.len() {
                assert_eq!(
                    reply_length(&reply[..end]),
                    Ok(None),
                    "{:?} cut at {end}",
                    String::from_utf8_lossy(reply)
                );
            }
            let mut two = reply.to_vec();
            two.extend_from_slice(b"+more\r\n");
            assert_eq!(reply_length(&two), Ok(Some(reply.len())));
        }
    }

    #[test]
    fn values_in_order() {
        let mut values = Values::new(REPLIES[7]);
        assert_eq!(values.value(), Some(Value::Array(3)));
        assert_eq!(values.bulk(), Some(&b"granted"[..]));
        assert_eq!(values.bulk(), Some(&b"acct-1"[..]));
        assert_eq!(values.bulk(), Some(&b"\r\n\r\n"[..]));
        assert_eq!(values.value(), None);
        assert_eq!(Values::new(b":17\r\n").number(), Some(17));
        assert_eq!(Values::new(b"$2\r\n17\r\n").number(), Some(17));
        assert_eq!(Values::new(b":-1\r\n").number(), None);
    }

    #[test]
    fn refuses_what_is_no_reply() {
        let garbage: [&[u8]; 11] = [
            b"HTTP/1.1 400\r\n",
            b"\0",
            b"$x\r\n",
            b"$-2\r\n",
            b":\r\n",
            b"+a\rb\r\n",
            b"$1\r\nab\r\n",
            b"$1\r\na\rb",
            b"$9999999\r\n",
            b"*9999999\r\n",
            b"*2\r\n?\r\n",
        ];
        for bytes in garbage {
            assert_eq!(
                reply_length(bytes),
                Err(Malformed),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        assert_eq!(reply_length(&b"*1\r\n".repeat(MAX_VALUES)), Err(Malformed));
    }

    #[test]
    fn command_bytes() {
        let mut out = Vec::new();
        push_array(&mut out, 3);
        push_bulk(&mut out, b"GET");
        push_number(&mut out, 0);
        push_number(&mut out, u64::MAX);
        assert_eq!(
            out,
            b"*3\r\n$3\r\nGET\r\n$1\r\n0\r\n$20\r\n18446744073709551615\r\n"
        );
    }

    proptest::proptest! {
        /// Whatever arrives: no panic, and a length never beyond the bytes; what is measured can be read to its end.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::sample::select(b"+-:$*0123456789\r\n".as_slice()), proptest::prelude::any::<u8>()
            ], 0..64)) {
            if let Ok(Some(length)) = reply_length(&bytes) {
                assert!(length <= bytes.len());
                let mut values = Values::new(&bytes[..length]);
                while values.value().is_some() {}
                assert_eq!(values.0.at, length);
            }
        }
    }
}
