//! The ledger's commands, a file for each script: its arguments, their bytes for the pipe, its reply.

mod account;
mod acquire;
mod control;
mod cooldown;
mod handed;
mod inspect;
mod overrides;
mod question;
mod reconcile;
mod release;
mod renew;
mod sync;

pub use account::{Change, Terms as AccountTerms};
pub use acquire::{Acquire, Acquired, Asked, Mode, Order, Place, Terms, Waiting, acquired};
pub use cooldown::AccountReport;
pub use handed::{Handed, released};
pub use overrides::{Override, Overrides, overrides};
pub use reconcile::{Reconciled, Recount, Step, reconciled};
pub use renew::{Renewed, renewed};
pub use sync::{Part, Sync, SyncAccount, Synced, swept, synced};

use super::fault::Fault;
use super::keys;
use super::resp::{Value, Values, push_array, push_bulk, push_bulk_of, push_number, whole};
use super::source::{Script, ScriptRef};

/// How long leases and cooldowns of one Envoy last at most, in ms; 0: it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Longest {
    /// A lease, without renewal.
    pub ttl_ms: u64,
    /// A cooldown, or a time behind the others.
    pub cooldown_ms: u64,
}

/// The keys of one pool, ready to be copied into commands.
#[derive(Debug)]
pub struct LedgerCommands {
    common: Vec<u8>,
    control: String,
    changes: String,
    roster: String,
    session_prefix: String,
    scope_prefix: String,
    pass: String,
    question: String,
    answer: String,
    answers: String,
}

impl LedgerCommands {
    /// Formats them once.
    #[must_use]
    pub fn new(prefix: &str, pool: &str) -> Self {
        let mut common = Vec::new();
        for name in keys::COMMON {
            push_bulk(&mut common, keys::key(prefix, pool, name).as_bytes());
        }
        Self {
            common,
            control: keys::control(prefix, pool),
            changes: keys::changes(prefix, pool),
            roster: keys::roster(prefix, pool),
            session_prefix: keys::session_prefix(prefix, pool),
            scope_prefix: keys::scope_prefix(prefix, pool),
            pass: keys::pass(prefix, pool),
            question: keys::question(prefix, pool),
            answer: keys::answer(prefix, pool),
            answers: keys::answers(prefix, pool),
        }
    }

    fn head(
        &self,
        out: &mut Vec<u8>,
        script: Script,
        by: ScriptRef,
        extra_keys: usize,
        arguments: usize,
    ) {
        let all_keys = keys::COMMON.len().saturating_add(extra_keys);
        push_array(out, all_keys.saturating_add(arguments).saturating_add(3));
        match by {
            ScriptRef::Sha(shas) => {
                push_bulk(out, b"EVALSHA");
                let sha = Script::ALL
                    .iter()
                    .zip(&shas.0)
                    .find(|(other, _)| **other == script);
                push_bulk(out, sha.map_or(&[][..], |(_, sha)| sha));
            }
            ScriptRef::Source => {
                push_bulk(out, b"EVAL");
                push_bulk(out, script.source().as_bytes());
            }
        }
        push_number(out, all_keys as u64);
        out.extend_from_slice(&self.common);
    }
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

/// What [`push_hashed`] writes, by itself.
fn hashed(prefix: &str, hash: &[u8; 16]) -> Vec<u8> {
    let mut key = prefix.as_bytes().to_vec();
    for byte in hash {
        let mut pair = [0; 2];
        crate::hash::hex(u64::from(*byte), &mut pair);
        key.extend_from_slice(&pair);
    }
    key
}

/// A key that ends in a hash: nobody's own text stands in Redis.
fn push_hashed(out: &mut Vec<u8>, prefix: &str, hash: &[u8; 16]) {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hash) {
        crate::hash::hex(u64::from(*byte), pair);
    }
    push_bulk_of(out, prefix.as_bytes(), &digits);
}

#[cfg(test)]
mod tests {
    use super::super::source::Shas;
    use super::*;

    /// The words of one command after its script and its eight keys, a space between. The command has as many as it says.
    pub fn words(encode: impl FnOnce(&LedgerCommands, &mut Vec<u8>, ScriptRef)) -> String {
        let mut out = Vec::new();
        let shas = Shas([[b'f'; 40]; Script::ALL.len()]);
        let commands = LedgerCommands::new("x", "p");
        encode(&commands, &mut out, ScriptRef::Sha(&shas));
        let mut values = Values::new(&out);
        let Some(Value::Array(count)) = values.value() else {
            panic!("no command");
        };
        let mut words: Vec<_> = std::iter::from_fn(|| values.bulk())
            .map(|word| String::from_utf8(word.to_vec()).unwrap())
            .collect();
        assert_eq!(words.len(), count);
        if words[0] == "EVALSHA" {
            let keys = words[2].parse::<usize>().unwrap();
            let names = keys::COMMON.map(|name| keys::key("x", "p", name));
            assert_eq!(words[3..11], names);
            let arguments = words.split_off(keys.saturating_add(3));
            let more = words.split_off(11);
            words = more
                .into_iter()
                .chain(["|".into()])
                .chain(arguments)
                .collect();
        }
        words.join(" ")
    }

    #[test]
    fn a_script_goes_by_its_sha_or_whole() {
        let mut out = Vec::new();
        LedgerCommands::new("x", "p").release(&mut out, ScriptRef::Source, [].into_iter());
        let source = Script::Release.source();
        let begin = format!(
            "*11\r\n$4\r\nEVAL\r\n${}\r\n{source}\r\n$1\r\n8\r\n",
            source.len()
        );
        assert!(out.starts_with(begin.as_bytes()));
        let mut shas = Shas([[b'0'; 40]; Script::ALL.len()]);
        let place = Script::ALL
            .iter()
            .position(|script| *script == Script::Renew);
        shas.0[place.unwrap()] = [b'a'; 40];
        out.clear();
        LedgerCommands::new("x", "p").renew(&mut out, ScriptRef::Sha(&shas), 1, [].into_iter());
        let begin = format!("*12\r\n$7\r\nEVALSHA\r\n$40\r\n{}\r\n", "a".repeat(40));
        assert!(out.starts_with(begin.as_bytes()));
    }

    #[test]
    fn numbers_are_whole() {
        assert_eq!(number(b":7\r\n"), Ok(7));
        assert_eq!(number(b":-1\r\n"), Err(Fault::Garbage));
        assert_eq!(number(b"$1\r\n7\r\n"), Err(Fault::Mismatch));
        assert_eq!(number(b"-NOACCOUNT a\r\n"), Err(Fault::NoAccount));
    }
}
