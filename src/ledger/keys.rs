//! Every key format there is.
//!
//! All keys of a pool are `<key_prefix>:{<pool>}:<name>`. The braces are a hash tag: Redis Cluster hashes only what
//! stands between them, so a pool's keys live on one shard and a script may use them together.

use super::resp::whole;
use crate::hash::{hex, tag};

/// The eight keys that every script is given first, in this order (`lua/ledger.lua` names them).
pub const COMMON: [&str; 8] = [
    "accounts", "free", "used", "leases", "owner", "cooldown", "queue", "tenants",
];

/// A key of a pool by its name.
#[must_use]
pub fn key(prefix: &str, pool: &str, name: &str) -> String {
    format!("{prefix}:{{{pool}}}:{name}")
}

/// The operator's overrides of a pool.
#[must_use]
pub fn control(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "control")
}

/// What operators have set of a pool's accounts.
#[must_use]
pub fn roster(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "roster")
}

/// What was changed in a pool, and by whom.
#[must_use]
pub fn changes(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "changes")
}

/// How many keys hold the sessions of a pool.
pub const SESSION_KEYS: u16 = 1 << 14;

/// What each of these keys begins with; four hex digits follow ([`session_digits`]).
#[must_use]
pub fn session_prefix(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "session:")
}

/// Which of these keys holds the session of this hash, as four hex digits.
#[must_use]
pub fn session_digits(hash: &[u8; 16]) -> [u8; 4] {
    let [first, second, ..] = *hash;
    let mut digits = [0; 4];
    hex(
        u64::from(u16::from_be_bytes([first, second]) % SESSION_KEYS),
        &mut digits,
    );
    digits
}

/// What names the session among those of its key: the second half of its hash, in hex.
#[must_use]
pub fn session_tag(hash: &[u8; 16]) -> [u8; 16] {
    tag(hash)
}

/// The account that a session is bound to at `now_ms` of Redis TIME, from the value of its key (`acquire.lua`, Sessions).
#[must_use]
pub fn session_account<'a>(value: &'a [u8], hash: &[u8; 16], now_ms: u64) -> Option<&'a [u8]> {
    let tag = session_tag(hash);
    let mut sessions = value.split(|byte| *byte == b'=');
    let found = sessions.find_map(|session| session.strip_prefix(&tag))?;
    let mut words = found.get(1..)?.split(|byte| *byte == b' ');
    let (account, until_ms) = words.next().zip(words.next())?;
    (whole(until_ms)? > now_ms).then_some(account)
}

/// What the key of a scope's cooldowns begins with; the scope's hash in 32 hex digits follows.
#[must_use]
pub fn scope_prefix(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "cooldown:")
}

/// What someone asks about a request.
#[must_use]
pub fn question(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "question")
}

/// What a worker answered.
#[must_use]
pub fn answer(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "answer")
}

/// What each worker answered to a question for all of them.
#[must_use]
pub fn answers(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "answers")
}

/// The channel on which scripts say what is granted to leases of this worker that wait. It is no key.
#[must_use]
pub fn channel(prefix: &str, worker: u64) -> String {
    format!("{prefix}:grants:{worker:016x}")
}

/// The reconcile pass under way.
#[must_use]
pub fn pass(prefix: &str, pool: &str) -> String {
    key(prefix, pool, "pass")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        assert_eq!(
            key("slotgate", "claude", "leases"),
            "slotgate:{claude}:leases"
        );
        assert_eq!(control("sg", "a.b"), "sg:{a.b}:control");
        assert_eq!(session_prefix("sg", "p"), "sg:{p}:session:");
        let hash: [u8; 16] = std::array::from_fn(|at| 0xf0 | at as u8);
        assert_eq!(&session_digits(&hash), b"30f1");
        assert_eq!(&session_tag(&hash), b"f8f9fafbfcfdfeff");
        assert_eq!(question("sg", "p"), "sg:{p}:question");
        assert_eq!(answer("sg", "p"), "sg:{p}:answer");
        assert_eq!(channel("sg", 0xab), "sg:grants:00000000000000ab");
    }
}
