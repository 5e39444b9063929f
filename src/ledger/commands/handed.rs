//! A slot that was handed on to a lease that waited, as `queue.lua` says it.

use super::array;
use crate::ledger::fault::Fault;
use crate::ledger::resp::{Value, Values, whole};

/// A waiting lease's grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed<'a> {
    /// The number that its worker gave it.
    pub cookie: u64,
    /// The lease's id.
    pub lease: &'a [u8],
    /// The account's id.
    pub account: &'a [u8],
    /// Whether the account has cooled, and wants to know whether this lease passes.
    pub probes: bool,
    /// The ledger's epoch.
    pub epoch: u64,
}

impl<'a> Handed<'a> {
    /// Reads `<cookie> <lease id> <account id>[:probe] <epoch>`; `None`: it is something else.
    #[must_use]
    pub fn read(text: &'a [u8]) -> Option<Self> {
        let mut words = text.split(|byte| *byte == b' ');
        let cookie = whole(words.next()?)?;
        let lease = words.next()?;
        let (account, probes) = self::account(words.next()?);
        let epoch = whole(words.next()?)?;
        words.next().is_none().then_some(Self {
            cookie,
            lease,
            account,
            probes,
            epoch,
        })
    }
}

/// An account's id as it is granted, and whether the lease probes it.
pub(super) fn account(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b":probe") {
        Some(account) => (account, true),
        None => (text, false),
    }
}

/// Reads the reply to a release: how many leases were live, and what was handed on because of it.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn released(reply: &[u8]) -> Result<(u64, impl Iterator<Item = Handed<'_>>), Fault> {
    let mut values = Values::new(reply);
    let mut grants = 0;
    if reply.first() == Some(&b'*') {
        grants = array(&mut values, 1..=1000)?.saturating_sub(1);
    }
    let live = match values.value() {
        Some(Value::Integer(number)) => u64::try_from(number).map_err(|_| Fault::Garbage)?,
        other => return Err(Fault::in_place_of(other)),
    };
    let handed = std::iter::from_fn(move || values.bulk());
    Ok((live, handed.take(grants).filter_map(Handed::read)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_and_what_it_handed_on() {
        let (live, mut handed) = released(b":3\r\n").unwrap();
        assert_eq!((live, handed.next()), (3, None));
        let (live, handed) =
            released(b"*4\r\n:1\r\n$9\r\n7 l1 a 90\r\n$3\r\n7 l\r\n$15\r\n8 l2 b:probe 90\r\n")
                .unwrap();
        let grant = |cookie, lease, account, probes| Handed {
            cookie,
            lease,
            account,
            probes,
            epoch: 90,
        };
        assert_eq!(live, 1);
        assert_eq!(
            handed.collect::<Vec<_>>(),
            [
                grant(7, &b"l1"[..], &b"a"[..], false),
                grant(8, b"l2", b"b", true)
            ]
        );
        assert_eq!(released(b"-NOSCRIPT\r\n").err(), Some(Fault::NoScript));
        assert_eq!(released(b"*1\r\n$1\r\na\r\n").err(), Some(Fault::Mismatch));
    }

    #[test]
    fn what_is_no_grant() {
        for text in [
            "",
            "1",
            "1 l a",
            "x l a 1",
            "1 l a x",
            "1 l a 1 2",
            "1  a 1 1",
        ] {
            let read = Handed::read(text.as_bytes());
            assert_eq!(read, None, "{text}");
        }
    }
}
