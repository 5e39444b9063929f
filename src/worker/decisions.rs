//! The last decisions of one worker, for whoever asks which way a request went.

use crate::config::Config;
use crate::request::lease::LeaseId;
use crate::request::verdict::Verdict;
use std::collections::VecDeque;
use std::fmt::Write;

/// How many decisions are remembered; a power of two.
pub const REMEMBERED: u32 = 1024;
/// Why a request may be known to nobody.
pub const FORGETS: &str = "each worker remembers its last 1024 decisions, answers when control.poll_ms is in 100..=2000, and forgets all when Envoy ends or the configuration changes";
/// How many bytes of a request id are remembered: an id that Envoy makes up has 36.
const ID: usize = 36;

/// A request, and what was decided on it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Which request of this worker: an older one may have had this place.
    number: u32,
    id: [u8; ID],
    /// Of the whole id.
    id_length: usize,
    /// `None`: nothing but an override, or no pool.
    bucket: Option<u16>,
    /// What the bucket was compared with, in basis points.
    share: u16,
    start_ms: u64,
    decided: Option<(u64, Verdict)>,
    /// Its pool, when it has left an account of it.
    left: Option<usize>,
}

/// A request that waits in the queue.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// Its number, as [`DecisionLog::open`] returned it.
    pub number: u32,
    /// Its pool.
    pub pool: Option<usize>,
    /// The lease that will hold its slot.
    pub lease: LeaseId,
}

/// Which of the requests that wait is meant.
#[derive(Debug, Clone, Copy)]
pub enum Sought<'a> {
    /// The one of this number.
    Number(u32),
    /// The one that waits for this lease.
    Lease(&'a [u8]),
}

impl Sought<'_> {
    /// Whether this is the one.
    #[must_use]
    pub fn is(self, waits: &Waits) -> bool {
        match self {
            Self::Number(number) => waits.number == number,
            Self::Lease(lease) => waits.lease.as_bytes() == lease,
        }
    }
}

/// A try of a request that was refused, or got no answer.
#[derive(Debug, Clone, Copy)]
struct Try {
    /// The request's number.
    number: u32,
    /// By its index.
    account: u32,
    /// What the account answered, if it did.
    status: Option<u16>,
    /// When it ended.
    at_ms: u64,
}

/// A ring of decisions: a new one takes the place of the oldest.
#[derive(Debug, Default)]
pub struct DecisionLog {
    entries: Vec<Entry>,
    next: u32,
    /// Oldest first, no more than there are decisions.
    tries: VecDeque<Try>,
}

impl DecisionLog {
    /// Begins with a request. Returns its number.
    pub fn open(&mut self, now_ms: u64, bucket: Option<u16>, share: u16) -> u32 {
        let number = self.next;
        self.next = number.wrapping_add(1);
        match self.entries.get_mut(place(number)) {
            // The rest of the old one stays, and is not read.
            Some(entry) => {
                entry.number = number;
                entry.id_length = 0;
                entry.bucket = bucket;
                entry.share = share;
                entry.start_ms = now_ms;
                entry.decided = None;
                entry.left = None;
            }
            None => self.entries.push(Entry {
                number,
                id: [0; ID],
                id_length: 0,
                bucket,
                share,
                start_ms: now_ms,
                decided: None,
                left: None,
            }),
        }
        number
    }

    fn entry(&mut self, number: u32) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(place(number))?;
        (entry.number == number).then_some(entry)
    }

    /// What the last request that began is called.
    pub fn identify(&mut self, id: &[u8]) {
        if let Some(entry) = self.entry(self.next.wrapping_sub(1)) {
            entry.id_length = id.len();
            // The usual length, in one go.
            if let Some(id) = id.first_chunk::<ID>() {
                entry.id = *id;
            } else {
                for (place, byte) in entry.id.iter_mut().zip(id) {
                    *place = *byte;
                }
            }
        }
    }

    /// What was decided on a request, if it is still remembered.
    pub fn close(&mut self, now_ms: u64, number: u32, verdict: Verdict) {
        if let Some(entry) = self.entry(number) {
            entry.decided = Some((now_ms, verdict));
        }
    }

    /// A request left its account for another one of its pool: what was decided holds no more.
    pub fn reopen(&mut self, number: u32, pool: Option<usize>) {
        if let Some(entry) = self.entry(number) {
            entry.decided = None;
            entry.left = pool;
        }
    }

    /// A request was refused by an account with this status, or got no answer from it.
    pub fn add_try(&mut self, at_ms: u64, number: u32, account: u32, status: Option<u16>) {
        if self.tries.len() >= REMEMBERED as usize {
            self.tries.pop_front();
        }
        self.tries.push_back(Try {
            number,
            account,
            status,
            at_ms,
        });
    }

    /// The answer to a question, `NONCE request ID` or `NONCE lease ID`: one JSON object; `None`: not remembered, or no
    /// question. Of several the last one. `waiting` finds a request among those that wait in the queue.
    #[must_use]
    pub fn answer(
        &self,
        now_ms: u64,
        question: &[u8],
        config: &Config,
        waiting: &dyn Fn(Sought) -> Option<Waits>,
    ) -> Option<String> {
        let mut words = question.splitn(3, |byte| *byte == b' ');
        let (nonce, kind, id) = (words.next()?, words.next()?, words.next()?);
        let nonce = std::str::from_utf8(nonce).ok()?;
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let waits = (kind == b"lease").then(|| waiting(Sought::Lease(id)));
        let waits = waits.flatten();
        let is_asked = |entry: &&Entry| match kind {
            b"request" => {
                !id.is_empty()
                    && entry.id_length == id.len()
                    && entry.id.iter().zip(id).all(|(own, asked)| own == asked)
            }
            b"lease" => match (entry.decided, waits) {
                (Some((_, verdict)), _) => verdict
                    .holds()
                    .is_some_and(|(lease, _)| lease.as_bytes() == id),
                (None, waits) => waits.is_some_and(|waits| waits.number == entry.number),
            },
            _ => false,
        };
        let found = self.entries.iter().filter(is_asked);
        // Numbers may have begun again at 0.
        let entry = found.min_by_key(|entry| self.next.wrapping_sub(entry.number))?;
        let waits = match entry.decided {
            Some(_) => None,
            None => waits.or_else(|| waiting(Sought::Number(entry.number))),
        };
        let tries = self.tries.iter();
        let tries = tries.filter(|one| one.number == entry.number && one.at_ms >= entry.start_ms);
        Some(told(entry, waits, tries, nonce, now_ms, config))
    }
}

fn place(number: u32) -> usize {
    (number & REMEMBERED.wrapping_sub(1)) as usize
}

/// Nothing that stands in it needs to be escaped: names and ids of the configuration, words of our own, numbers.
fn told<'a>(
    entry: &Entry,
    waits: Option<Waits>,
    tries: impl Iterator<Item = &'a Try>,
    nonce: &str,
    now_ms: u64,
    config: &Config,
) -> String {
    let decided = entry.decided;
    let (way, reason, pool) = match decided.map(|(_, verdict)| verdict) {
        None => match waits {
            Some(waits) => ("waiting", None, waits.pool),
            None => ("undecided", None, entry.left),
        },
        Some(Verdict::Forward {
            path, reason, pool, ..
        }) => (path.as_str(), reason.map(|reason| reason.as_str()), pool),
        Some(
            Verdict::Saturated { pool, reason, .. }
            | Verdict::Unavailable { pool, reason }
            | Verdict::Exhausted { pool, reason, .. },
        ) => ("rejected", Some(reason.as_str()), pool),
    };
    let pool = pool.and_then(|pool| config.pools.get(pool));
    let holds = decided.and_then(|(_, verdict)| verdict.holds());
    let account = holds.and_then(|(_, account)| pool?.accounts.get(account as usize));
    let lease = holds.map(|(lease, _)| lease);
    let lease = lease.or(waits.map(|waits| waits.lease));
    let mut text = String::from("{");
    for (name, value) in [
        ("nonce", Some(nonce)),
        ("way", Some(way)),
        ("reason", reason),
        ("pool", pool.map(|pool| pool.name.as_str())),
        ("account", account.map(|account| account.id.as_str())),
        ("lease", lease.as_ref().map(LeaseId::as_str)),
    ] {
        text.push('"');
        text.push_str(name);
        text.push_str("\":");
        let quote = if value.is_some() { "\"" } else { "" };
        for part in [quote, value.unwrap_or("null"), quote, ","] {
            text.push_str(part);
        }
    }
    let decided_ms = decided.map_or(now_ms, |(at_ms, _)| at_ms);
    let numbers = [
        ("bucket", entry.bucket.map(u64::from)),
        ("below", Some(u64::from(entry.share))),
        ("waited_ms", Some(decided_ms.saturating_sub(entry.start_ms))),
        ("ago_ms", Some(now_ms.saturating_sub(decided_ms))),
    ];
    for (name, number) in numbers {
        // Writing to a string can't fail.
        let _ = match number {
            Some(number) => write!(text, "\"{name}\":{number},"),
            None => write!(text, "\"{name}\":null,"),
        };
    }
    // Refused ones only: of most requests nothing is said here.
    let mut began_ms = entry.start_ms;
    let mut first = true;
    for one in tries {
        text.push_str(if first { "\"tries\":[" } else { "," });
        first = false;
        let account = pool.and_then(|pool| pool.accounts.get(one.account as usize));
        let account = account.map_or("", |account| &account.id);
        let took_ms = one.at_ms.saturating_sub(began_ms);
        began_ms = one.at_ms;
        let status = one.status.map_or(0, u32::from);
        let _ = write!(
            text,
            "{{\"account\":\"{account}\",\"status\":{status},\"ms\":{took_ms}}}"
        );
    }
    if first {
        text.pop();
    } else {
        text.push(']');
    }
    text.push('}');
    text
}
