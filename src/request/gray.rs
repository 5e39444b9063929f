//! Which requests are in the gray release: session → bucket → in or out.
//!
//! The bucket, so that any language can compute it:
//! `key = SipHash-2-4-128(key: 16 zero bytes, salt)`, its 16 output bytes as they come;
//! `bucket = SipHash-2-4-64(key, session) mod 10000`, the hash as an unsigned number.
//! A request is in when `bucket < percent * 100`, so a session in at 10 % stays in at 20 %.

use crate::config::{Gray, ValueSource};
use crate::hash::hash128;
use crate::request::headers::Headers;
use crate::request::view::View;
use siphasher::sip;
use std::num::NonZeroU64;

/// Number of buckets.
pub const BUCKETS: NonZeroU64 = NonZeroU64::new(10_000).unwrap();

/// Why a request is in or out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// By its bucket, or by a valid override.
    In,
    /// By its bucket, or by a valid override.
    Out,
}

/// The compiled form of [`Gray`].
#[derive(Debug)]
pub struct Bucketer {
    key: [u8; 16],
}

impl Bucketer {
    /// Derives the hash key from the salt.
    #[must_use]
    pub fn new(salt: &str) -> Self {
        Self {
            key: hash128(salt.as_bytes()),
        }
    }

    /// The bucket of a session, 0..10000.
    #[must_use]
    pub fn bucket(&self, session: &[u8]) -> u16 {
        let hash = sip::SipHasher24::new_with_key(&self.key).hash(session);
        of(hash)
    }

    /// Whether a request is in or out at this percentage, in basis points, and its bucket, unless an override decided. `random`
    /// is used for a request with neither session nor request id.
    #[must_use]
    pub fn choose(
        &self,
        gray: &Gray,
        basis_points: u16,
        headers: Headers,
        session: Option<&[u8]>,
        random: u64,
    ) -> (Choice, Option<u16>) {
        if let Some(forced) = forced(gray, headers) {
            return (forced, None);
        }
        let bucket = match session.or_else(|| headers.filled("x-request-id")) {
            Some(key) => self.bucket(key),
            None => of(random),
        };
        let choice = if bucket < basis_points {
            Choice::In
        } else {
            Choice::Out
        };
        (choice, Some(bucket))
    }
}

fn of(hash: u64) -> u16 {
    u16::try_from(hash % BUCKETS).unwrap_or(0)
}

/// The request's session: the first value that isn't empty, of the first configured source that has one.
#[must_use]
pub fn session<'a>(sources: &[ValueSource], request: impl Into<View<'a>>) -> Option<&'a [u8]> {
    let request = request.into();
    sources.iter().find_map(|source| request.filled(source))
}

/// What the first valid `<token>:on` or `<token>:off` asks for.
fn forced(gray: &Gray, headers: Headers) -> Option<Choice> {
    let rule = gray.gray_override.as_ref()?;
    headers.all(&rule.header).find_map(|value| {
        let (token, choice) = match (value.strip_suffix(b":on"), value.strip_suffix(b":off")) {
            (Some(token), _) => (token, Choice::In),
            (None, Some(token)) => (token, Choice::Out),
            (None, None) => return None,
        };
        same(token, rule.token.0.as_bytes()).then_some(choice)
    })
}

/// Compares without telling by its time how much was right.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .fold(0, |difference, (x, y)| difference | (x ^ y))
            == 0
}
