//! `acquire.lua`: choose an account for each of some leases, and take them.

use super::{LedgerCommands, array, handed, number_in, push_hashed};
use crate::config::TenantLimits;
use crate::ledger::fault::Fault;
use crate::ledger::keys;
use crate::ledger::resp::{Value, Values, push_bulk, push_bulk_of, push_number, whole};
use crate::ledger::source::{Script, ScriptRef};
use crate::request::lease::LeaseId;

/// What Redis needs for a session key beside its name and its value: an entry in each of two tables, which may just have
/// doubled, an object, the last digits of the name. Measured, rounded up: `tests/ledger/sessions.rs` proves the sum.
const SESSION_KEY_BYTES: u64 = 160;

/// What an acquire should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode<'a> {
    /// Choose and take.
    Take,
    /// Choose, write nothing.
    Dry,
    /// Record a lease of this account whatever its count.
    Force(&'a str),
    /// Choose and take, or wait for a slot.
    Join(Terms),
}

/// How a lease waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What its tenant may take; without a tenant only the weight counts.
    pub limits: TenantLimits,
    /// The caller's number for it, which comes back with the grant.
    pub cookie: u64,
    /// Where it stands if it waits.
    pub place: Place,
}

/// The place of a lease in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Behind all others.
    Last,
    /// As if it had waited for so long already, in ms; it is let in however many wait.
    Since(u64),
    /// Where it stood before.
    At(Order),
}

/// Where a lease stands in the queue, as the ledger said it: 19 digits, the lower the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order([u8; 19]);

impl Order {
    /// Its digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn read(digits: &[u8]) -> Option<Self> {
        let order = <[u8; 19]>::try_from(digits).ok()?;
        order.iter().all(u8::is_ascii_digit).then_some(Self(order))
    }
}

/// How leases wait that find no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting<'a> {
    /// How many may wait in this pool; 0: none.
    pub most: u32,
    /// For how long each of them waits without being asked for again, in ms.
    pub vouched_ms: u64,
    /// Where grants are said.
    pub channel: &'a str,
}

/// Arguments of `acquire.lua`, beside the leases.
#[derive(Debug)]
pub struct Acquire<'a> {
    /// The leases' time to live, in ms.
    pub ttl_ms: u64,
    /// Fresh random bits, 31 of them used.
    pub seed: u32,
    /// Weight of the random part, in millionths.
    pub random: u64,
    /// How long sessions are remembered, in ms.
    pub session_ttl_ms: u64,
    /// How much of Redis' memory a pool's sessions may take, in MB of 2^20 bytes.
    pub session_mb: u64,
    /// For [`Mode::Join`].
    pub waiting: Waiting<'a>,
    /// The accounts that these leases' requests have tried and do not want again, at most 9; only to take or to join.
    pub tried: &'a [&'a str],
}

/// One lease of an acquire. Those of one command have the same mode, and all of them a session or none, a scope or none.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The lease to take.
    pub lease: LeaseId,
    /// What to do.
    pub mode: Mode<'a>,
    /// The session's hash.
    pub session: Option<&'a [u8; 16]>,
    /// The hash of the scope, a model say, whose own cooldowns count too.
    pub scope: Option<&'a [u8; 16]>,
}

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
    /// It waits for a slot.
    Waits {
        /// Where.
        order: Order,
        /// When to come back if it gives up, in ms.
        retry_after_ms: u64,
        /// When the next cooldown of the pool ends, in ms from now; 0: none is under way.
        wake_ms: u64,
    },
    /// As many wait as may.
    QueueFull {
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
    /// Its tenant holds as many leases as it may.
    TenantFull {
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
}

impl<'a> Acquired<'a> {
    /// Reads what is no number.
    fn of_text(text: &'a [u8]) -> Option<Self> {
        match text.first() {
            Some(b'~' | b'!') => {}
            Some(_) | None => {
                let (account, probes) = handed::account(text);
                return Some(Self::Granted { account, probes });
            }
        }
        let mut words = text.split(|byte| *byte == b' ');
        let (what, retry_after_ms) = (words.next()?, whole(words.next()?)?);
        Some(match what {
            b"!full" => Self::QueueFull { retry_after_ms },
            b"!tenant" => Self::TenantFull { retry_after_ms },
            _ => Self::Waits {
                order: Order::read(what.strip_prefix(b"~")?)?,
                retry_after_ms,
                wake_ms: whole(words.next()?)?,
            },
        })
    }
}

impl LedgerCommands {
    /// `acquire.lua`
    pub fn acquire<'a>(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        acquire: &Acquire<'_>,
        leases: impl ExactSizeIterator<Item = Asked<'a>> + Clone,
    ) {
        let Some(first) = leases.clone().next() else {
            return;
        };
        let (mode, words) = match first.mode {
            Mode::Take => ("take", 1),
            Mode::Dry => ("dry", 1),
            Mode::Force(_) => ("force", 2),
            Mode::Join(_) => ("join", 2),
        };
        let sessions = usize::from(first.session.is_some());
        let keys = usize::from(first.scope.is_some()).saturating_add(sessions);
        let tags = leases.len().saturating_add(1).saturating_mul(sessions);
        self.head(
            out,
            Script::Acquire,
            by,
            leases.len().saturating_mul(keys),
            leases
                .len()
                .saturating_mul(words)
                .saturating_add(tags)
                .saturating_add(5),
        );
        for scope in leases.clone().filter_map(|asked| asked.scope) {
            push_hashed(out, &self.scope_prefix, scope);
        }
        for session in leases.clone().filter_map(|asked| asked.session) {
            push_bulk_of(
                out,
                self.session_prefix.as_bytes(),
                &keys::session_digits(session),
            );
        }
        push_number(out, acquire.ttl_ms);
        push_number(out, u64::from(acquire.seed >> 1));
        push_number(out, acquire.random);
        match (first.mode, acquire.tried) {
            (Mode::Join(_), tried) => {
                let Waiting {
                    most,
                    vouched_ms,
                    channel,
                } = acquire.waiting;
                let mode = format!("join {most} {vouched_ms} {channel}");
                push_bulk(out, without(mode, tried).as_bytes());
            }
            (Mode::Take | Mode::Dry | Mode::Force(_), []) => push_bulk(out, mode.as_bytes()),
            (Mode::Take | Mode::Dry | Mode::Force(_), tried) => {
                push_bulk(out, without(mode.to_owned(), tried).as_bytes());
            }
        }
        push_number(out, acquire.session_ttl_ms.saturating_mul(sessions as u64));
        for asked in leases.clone() {
            push_bulk(out, asked.lease.as_bytes());
        }
        for asked in leases.clone() {
            match asked.mode {
                Mode::Force(account) => push_bulk(out, account.as_bytes()),
                Mode::Join(terms) => push_terms(out, terms),
                Mode::Take | Mode::Dry => {}
            }
        }
        if sessions > 0 {
            push_number(out, self.session_bytes(acquire.session_mb));
        }
        for session in leases.filter_map(|asked| asked.session) {
            push_bulk(out, &keys::session_tag(session));
        }
    }

    /// How long the value of one session key may be, so that all of them together take no more memory than this.
    fn session_bytes(&self, session_mb: u64) -> u64 {
        // A MB is 2^20 bytes, and there are 2^14 keys.
        let share = session_mb.saturating_mul(1 << 6);
        let key = self.session_prefix.len() as u64;
        let left = share.saturating_sub(SESSION_KEY_BYTES.saturating_add(key));
        // The allocator rounds up to one of four sizes for each power of two. A string has six bytes beside its text.
        let fine = left.checked_ilog2().unwrap_or(0).saturating_sub(2);
        let size = left >> fine << fine;
        size.saturating_sub(6).clamp(100, 32_768)
    }
}

/// A mode, and the accounts that were tried.
#[inline(never)]
fn without(mut mode: String, tried: &[&str]) -> String {
    if !tried.is_empty() {
        mode.push_str(" not");
    }
    for account in tried {
        mode.push(' ');
        mode.push_str(account);
    }
    mode
}

fn push_terms(out: &mut Vec<u8>, terms: Terms) {
    let TenantLimits {
        max_concurrency,
        max_waiting,
        weight,
    } = terms.limits;
    let mut words =
        format!("{max_concurrency} {max_waiting} {weight} {} ", terms.cookie).into_bytes();
    match &terms.place {
        Place::Last => words.push(b'-'),
        Place::Since(ms) => {
            words.extend_from_slice(format!("+{}", ms.min(&999_999_999)).as_bytes())
        }
        Place::At(order) => words.extend_from_slice(order.as_bytes()),
    }
    push_bulk(out, &words);
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
        Value::Bulk(text) => Acquired::of_text(text),
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

#[cfg(test)]
mod tests {
    use super::super::tests::words;
    use super::*;
    use crate::request::lease::LeaseIds;

    #[test]
    fn each_lease_has_its_words() {
        let acquire = Acquire {
            ttl_ms: 10,
            seed: 7,
            random: 8,
            session_ttl_ms: 9,
            session_mb: 8,
            waiting: Waiting {
                most: 6,
                vouched_ms: 5,
                channel: "c",
            },
            tried: &[],
        };
        let mut ids = LeaseIds::new(1);
        let (a, b) = (ids.mint(None), ids.mint(None));
        let said = |mode: [Mode; 2], session, scope| {
            let leases = [a, b].into_iter().zip(mode);
            let leases: Vec<_> = leases
                .map(|(lease, mode)| Asked {
                    lease,
                    mode,
                    session,
                    scope,
                })
                .collect();
            words(|commands, out, by| commands.acquire(out, by, &acquire, leases.iter().copied()))
        };
        let names = [a, b].map(|lease| String::from_utf8(lease.as_bytes().to_vec()).unwrap());
        let names = names.join(" ");
        assert_eq!(
            said([Mode::Take; 2], None, None),
            format!("| 10 3 8 take 0 {names}")
        );
        assert_eq!(
            said([Mode::Dry; 2], None, None),
            format!("| 10 3 8 dry 0 {names}")
        );
        assert_eq!(
            said([Mode::Force("k"), Mode::Force("l")], None, None),
            format!("| 10 3 8 force 0 {names} k l")
        );
        let hash = [0xab; 16];
        let scope = format!("x:{{p}}:cooldown:{}", "ab".repeat(16));
        let scope = format!("{scope} {scope}");
        let session = "x:{p}:session:2bab x:{p}:session:2bab";
        assert_eq!(
            said([Mode::Take; 2], None, Some(&hash)),
            format!("{scope} | 10 3 8 take 0 {names}")
        );
        let tag = "ab".repeat(8);
        assert_eq!(
            said([Mode::Take; 2], Some(&hash), Some(&hash)),
            format!("{scope} {session} | 10 3 8 take 9 {names} 314 {tag} {tag}")
        );
    }

    #[test]
    fn a_reply_has_an_answer_for_each_lease() {
        let reply = b"*5\r\n$1\r\n4\r\n$1\r\na\r\n$7\r\nb:probe\r\n:30\r\n$-1\r\n";
        let (epoch, answers) = acquired(reply, 4).unwrap();
        assert_eq!(epoch, 4);
        let granted = |account, probes| Acquired::Granted { account, probes };
        let expected = [
            granted(&b"a"[..], false),
            granted(&b"b"[..], true),
            Acquired::Saturated { retry_after_ms: 30 },
            Acquired::NoAccount,
        ];
        assert!(answers.eq(expected));
        assert_eq!(acquired(reply, 3).err(), Some(Fault::Mismatch));
        assert_eq!(
            acquired(b"*2\r\n$1\r\n4\r\n+a\r\n", 1).err(),
            Some(Fault::Mismatch)
        );
        assert_eq!(
            acquired(b"*2\r\n$1\r\nx\r\n:1\r\n", 1).err(),
            Some(Fault::Garbage)
        );
        assert_eq!(acquired(b"-NOPOOL none\r\n", 1).err(), Some(Fault::NoPool));
    }
}
