//! The scripts' replies, read into types.

use super::fault::Fault;
use super::resp::{Value, Values, whole};

/// What `acquire.lua` says of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired<'a> {
    /// It holds a slot of this account.
    Granted {
        /// The account's id.
        account: &'a [u8],
        /// Whether the account has cooled, and wants to know whether this lease passes.
        probes: bool,
    },
    /// No account can take a lease.
    Saturated {
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
    /// The account named is not in the pool.
    NoAccount,
}

/// What `renew.lua` says of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It lives on.
    Renewed,
    /// It was gone and is counted again.
    Readopted,
    /// Its slot is someone else's.
    Lost,
}

/// What `sync.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// The accounts are wanted.
    Wanted,
    /// They are in force now.
    Replaced,
    /// They were in force already.
    Current,
    /// A higher revision is in force.
    Newer(u64),
    /// Other accounts are in force under the same revision.
    Differs,
    /// The next part is wanted.
    Part,
    /// Someone else puts these in force just now, or a higher revision's.
    Coming,
}

/// Reads the reply to an acquire of `leases` leases: the ledger's epoch at that moment, and one answer each.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn acquired(
    reply: &[u8],
    leases: usize,
) -> Result<(u64, impl Iterator<Item = Acquired<'_>> + Clone), Fault> {
    let mut values = Values::new(reply);
    let length = leases.saturating_add(1);
    array(&mut values, length..=length)?;
    let epoch = number_in(&mut values)?;
    let answers = std::iter::from_fn(move || values.value()).map_while(|value| match value {
        Value::Bulk(text) => {
            let account = text.strip_suffix(b":probe");
            Some(Acquired::Granted {
                account: account.unwrap_or(text),
                probes: account.is_some(),
            })
        }
        Value::Integer(wait_ms) => Some(Acquired::Saturated {
            retry_after_ms: u64::try_from(wait_ms).unwrap_or(1),
        }),
        Value::Nil => Some(Acquired::NoAccount),
        Value::Simple(_) | Value::Error(_) | Value::Array(_) => None,
    });
    if answers.clone().count() != leases {
        return Err(Fault::Mismatch);
    }
    Ok((epoch, answers))
}

/// Reads the reply to a release, or to a cooldown: a number.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn number(reply: &[u8]) -> Result<u64, Fault> {
    match Values::new(reply).value() {
        Some(Value::Integer(number)) => u64::try_from(number).map_err(|_| Fault::Garbage),
        other => Err(Fault::in_place_of(other)),
    }
}

/// Reads the reply to a renew of `leases` leases: the epoch, and one answer each.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn renewed(reply: &[u8], leases: usize) -> Result<(u64, impl Iterator<Item = Renewed>), Fault> {
    let mut values = Values::new(reply);
    array(&mut values, 2..=2)?;
    let epoch = number_in(&mut values)?;
    let letters = values.bulk().ok_or(Fault::Mismatch)?;
    if letters.len() != leases || !letters.iter().all(|letter| b"ral".contains(letter)) {
        return Err(Fault::Mismatch);
    }
    let answers = letters.iter().map(|letter| match letter {
        b'r' => Renewed::Renewed,
        b'a' => Renewed::Readopted,
        _ => Renewed::Lost,
    });
    Ok((epoch, answers))
}

/// Reads the reply to a sync: what came of it, and the epoch.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn synced(reply: &[u8]) -> Result<Synced, Fault> {
    let mut values = Values::new(reply);
    array(&mut values, 3..=3)?;
    let answer = values.bulk().ok_or(Fault::Mismatch)?;
    let revision = number_in(&mut values)?;
    match answer {
        b"wanted" => Ok(Synced::Wanted),
        b"replaced" => Ok(Synced::Replaced),
        b"current" => Ok(Synced::Current),
        b"newer" => Ok(Synced::Newer(revision)),
        b"differs" => Ok(Synced::Differs),
        b"part" => Ok(Synced::Part),
        b"coming" => Ok(Synced::Coming),
        _ => Err(Fault::Mismatch),
    }
}

/// Where a sweep goes on, 0: it is over; and the ids that it has shown. For the reply that [`synced`] reads as a part's.
pub fn swept(reply: &[u8]) -> (&str, impl Iterator<Item = &str>) {
    let mut values = Values::new(reply);
    let _ = (values.value(), values.value());
    let mut word = || std::str::from_utf8(values.bulk().unwrap_or_default()).unwrap_or_default();
    let (cursor, ids) = (word(), word());
    (cursor, ids.split(' ').filter(|id| !id.is_empty()))
}

/// What `reconcile.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconciled {
    /// Another worker runs the passes.
    Elsewhere,
    /// The pass goes on; the drift found so far.
    Working(u64),
    /// The pass is over; the drift found and mended.
    Done(u64),
}

/// One step of a recount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recount<'a> {
    /// How far it is.
    pub state: Reconciled,
    /// What it found that cannot be there, with keys and fields; empty: nothing.
    pub found: &'a [u8],
    /// The revision in force, 0: none, and its digest; `None`: it was not said.
    pub in_force: Option<(u64, Option<u64>)>,
}

/// Reads the reply to a reconcile.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn reconciled(reply: &[u8]) -> Result<Recount<'_>, Fault> {
    let mut values = Values::new(reply);
    let length = array(&mut values, 2..=5)?;
    let state = values.bulk().ok_or(Fault::Mismatch)?;
    let drift = number_in(&mut values)?;
    let state = match state {
        b"elsewhere" => Reconciled::Elsewhere,
        b"working" => Reconciled::Working(drift),
        b"done" => Reconciled::Done(drift),
        _ => return Err(Fault::Mismatch),
    };
    let (mut found, mut in_force) = (&[][..], None);
    if length == 5 {
        found = values.bulk().ok_or(Fault::Mismatch)?;
        let (revision, digest) = values.bulk().zip(values.bulk()).ok_or(Fault::Mismatch)?;
        in_force = Some((whole(revision).unwrap_or(0), whole(digest)));
    }
    Ok(Recount {
        state,
        found,
        in_force,
    })
}

/// What `look.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked<'a> {
    /// The share of the gray release by override.
    pub percent: Override,
    /// Ids of the drained accounts, a space between; `None`: too many.
    pub drained: Option<&'a [u8]>,
    used: &'a [u8],
    /// What someone asks about a request; empty: nothing.
    pub question: &'a [u8],
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

impl<'a> Looked<'a> {
    /// Each account's id, how many of its slots are used, and how many it has; of none in a large pool.
    pub fn used(&self) -> impl Iterator<Item = (&'a [u8], u64, u64)> {
        let mut words = self.used.split(|byte| *byte == b' ');
        std::iter::from_fn(move || {
            Some((words.next()?, whole(words.next()?)?, whole(words.next()?)?))
        })
    }
}

/// Reads the reply to a look.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn looked(reply: &[u8]) -> Result<Looked<'_>, Fault> {
    let mut values = Values::new(reply);
    array(&mut values, 4..=4)?;
    let percent = Override::of(values.bulk().ok_or(Fault::Mismatch)?);
    let drained = match values.value() {
        Some(Value::Bulk(ids)) => Some(ids),
        Some(Value::Nil) => None,
        Some(Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Array(_)) | None => {
            return Err(Fault::Mismatch);
        }
    };
    let (used, question) = values.bulk().zip(values.bulk()).ok_or(Fault::Mismatch)?;
    Ok(Looked {
        percent,
        drained,
        used,
        question,
    })
}

/// A number where the ledger's own stand. One of the right shape with something else in it is the pool's fault.
fn number_in(values: &mut Values) -> Result<u64, Fault> {
    match values.value() {
        Some(Value::Bulk(text)) => whole(text).ok_or(Fault::Garbage),
        Some(Value::Integer(number)) => u64::try_from(number).map_err(|_| Fault::Garbage),
        other => Err(Fault::in_place_of(other)),
    }
}

fn array(values: &mut Values, length: std::ops::RangeInclusive<usize>) -> Result<usize, Fault> {
    match values.value() {
        Some(Value::Array(found)) if length.contains(&found) => Ok(found),
        other => Err(Fault::in_place_of(other)),
    }
}
