//! `overrides.lua`: an operator's overrides, and how full the accounts are.

use super::{LedgerCommands, array, number_in};
use crate::ledger::fault::Fault;
use crate::ledger::resp::{Value, Values, push_bulk, push_number, whole};
use crate::ledger::source::{Script, ScriptRef};
use crate::pool::Seen;
use crate::pool::state::State;

/// The reply of `overrides.lua`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrides<'a> {
    /// The percentage of the gray release, by override.
    pub percent: Override,
    /// Ids of the drained accounts, a space between; `None`: too many.
    pub drained: Option<&'a [u8]>,
    used: &'a [u8],
    /// What someone asks about a request; empty: nothing.
    pub question: &'a [u8],
    /// Of how many accounts a configuration says otherwise than an operator.
    pub accounts_set: u64,
}

/// An override as Redis has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Not set: what is configured holds.
    Absent,
    /// In basis points, 0..=10000.
    BasisPoints(u16),
    /// Someone wrote something else there.
    Malformed,
}

impl Override {
    /// Reads it; empty is none.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        match whole(text).and_then(|points| u16::try_from(points).ok()) {
            Some(points) if points <= 10_000 => Self::BasisPoints(points),
            Some(_) | None if text.is_empty() => Self::Absent,
            Some(_) | None => Self::Malformed,
        }
    }
}

impl<'a> Overrides<'a> {
    /// Each account as it is there; none of a large pool.
    pub fn seen(&self) -> impl Iterator<Item = Seen<'a>> {
        let mut words = self.used.split(|byte| *byte == b' ');
        std::iter::from_fn(move || {
            Some(Seen {
                id: words.next()?,
                used: whole(words.next()?)?,
                max_concurrency: whole(words.next()?)?,
                state: State::of(words.next()?),
            })
        })
    }
}

impl LedgerCommands {
    /// `overrides.lua`: the overrides with at most `drained` drained accounts, and the use of at most `used` accounts.
    pub fn overrides(&self, out: &mut Vec<u8>, by: ScriptRef, drained: u64, used: u64) {
        self.head(out, Script::Overrides, by, 3, 2);
        for key in [&self.control, &self.question, &self.roster] {
            push_bulk(out, key.as_bytes());
        }
        push_number(out, drained);
        push_number(out, used);
    }
}

/// Reads the reply of `overrides.lua`.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn overrides(reply: &[u8]) -> Result<Overrides<'_>, Fault> {
    let mut values = Values::new(reply);
    array(&mut values, 5..=5)?;
    let percent = Override::of(values.bulk().ok_or(Fault::Mismatch)?);
    let drained = match values.value() {
        Some(Value::Bulk(ids)) => Some(ids),
        Some(Value::Nil) => None,
        Some(Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Array(_)) | None => {
            return Err(Fault::Mismatch);
        }
    };
    let (used, question) = values.bulk().zip(values.bulk()).ok_or(Fault::Mismatch)?;
    Ok(Overrides {
        percent,
        drained,
        used,
        question,
        accounts_set: number_in(&mut values)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::words;
    use super::*;

    #[test]
    fn its_words_tell_how_much() {
        let said = words(|commands, out, by| commands.overrides(out, by, 5, 6));
        assert_eq!(said, "x:{p}:control x:{p}:question x:{p}:roster | 5 6");
    }

    #[test]
    fn a_reply_is_read_as_it_stands() {
        let reply =
            "*5\r\n$4\r\n2500\r\n$3\r\na b\r\n$18\r\na 1 2 free b 0 3 ?\r\n$1\r\nq\r\n:3\r\n";
        let all = overrides(reply.as_bytes()).unwrap();
        assert_eq!(all.percent, Override::BasisPoints(2500));
        assert_eq!(all.drained, Some(&b"a b"[..]));
        let seen = |id, used, max_concurrency, state| Seen {
            id,
            used,
            max_concurrency,
            state,
        };
        let expected = [
            seen(&b"a"[..], 1, 2, Some(State::Free)),
            seen(&b"b"[..], 0, 3, None),
        ];
        assert!(all.seen().eq(expected));
        assert_eq!((all.question, all.accounts_set), (&b"q"[..], 3));
        let many = reply.replace("$3\r\na b", "$-1");
        assert_eq!(overrides(many.as_bytes()).unwrap().drained, None);
        let wrong = reply.replace("$3\r\na b", ":3");
        assert_eq!(overrides(wrong.as_bytes()), Err(Fault::Mismatch));
        for (text, expected) in [
            ("", Override::Absent),
            ("0", Override::BasisPoints(0)),
            ("10000", Override::BasisPoints(10_000)),
            ("10001", Override::Malformed),
            ("65537", Override::Malformed),
            ("?", Override::Malformed),
        ] {
            assert_eq!(Override::of(text.as_bytes()), expected, "{text}");
        }
    }
}
