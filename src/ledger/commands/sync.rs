//! `sync.lua`: put a pool's accounts in force.

use super::{LedgerCommands, Longest, array, number_in};
use crate::config::Pace;
use crate::ledger::fault::Fault;
use crate::ledger::resp::{Values, push_bulk, push_bulks, push_number};
use crate::ledger::source::{Script, ScriptRef};
use crate::pool::Scale;

/// Arguments of `sync.lua`.
#[derive(Debug)]
pub struct Sync<'a> {
    /// The configuration's revision.
    pub revision: u64,
    /// Tells apart two configurations with one revision.
    pub digest: u64,
    /// The epoch to begin with when Redis holds none, below 2^53.
    pub epoch: u64,
    /// Full weight of the load, in millionths.
    pub load: u64,
    /// What priorities add to a score.
    pub scale: Scale,
    /// Whether the accounts are the ledger's: then those here are what an empty pool begins with.
    pub accounts_are_ledgers: bool,
    /// How low limits may fall that adapt; 0: none does.
    pub adaptive: u32,
    /// The accounts; `None` only asks whether they are wanted.
    pub accounts: Option<&'a [SyncAccount<'a>]>,
    /// Who asks, and how much of it this is.
    pub part: Part<'a>,
    /// How long this Envoy's leases and cooldowns last at most.
    pub longest: Longest,
    /// The worker's name.
    pub by: &'a str,
}

/// One account of a sync.
#[derive(Debug, Clone, Copy)]
pub struct SyncAccount<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its slots.
    pub max_concurrency: u32,
    /// The priority's part of its score, in millionths.
    pub base: u64,
    /// Whether it takes leases.
    pub enabled: bool,
    /// How many requests it may get in a time.
    pub pace: Option<Pace>,
}

/// How much a sync carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// All accounts, or none.
    Whole,
    /// The first of them.
    First,
    /// Some more.
    More,
    /// All have been sent: takes these ids away, and shows what else is there, from this cursor on.
    Sweep(&'a str, &'a [String]),
    /// Takes these ids away, and puts the rest in force.
    Last(&'a [String]),
    /// Takes these ids away, which nobody configured, from the accounts in force.
    Stray(&'a [String]),
}

/// The reply of `sync.lua`.
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

impl LedgerCommands {
    /// `sync.lua`
    pub fn sync(&self, out: &mut Vec<u8>, by: ScriptRef, sync: &Sync) {
        let accounts = sync.accounts.unwrap_or_default();
        let (part, cursor, ids) = match sync.part {
            Part::Whole => ("whole", None, &[][..]),
            Part::First => ("first", None, &[][..]),
            Part::More => ("more", None, &[][..]),
            Part::Sweep(cursor, ids) => ("sweep", Some(cursor), ids),
            Part::Last(ids) => ("last", None, ids),
            Part::Stray(ids) => ("stray", None, ids),
        };
        let arguments = accounts.len().saturating_mul(4).saturating_add(ids.len());
        let head = 9_usize.saturating_add(usize::from(cursor.is_some()));
        self.head(out, Script::Sync, by, 3, arguments.saturating_add(head));
        for key in [&self.control, &self.roster, &self.changes] {
            push_bulk(out, key.as_bytes());
        }
        push_number(out, sync.revision);
        push_number(out, sync.digest);
        push_number(out, sync.epoch);
        let Scale {
            best,
            worst,
            span,
            weight,
        } = sync.scale;
        let from = if sync.accounts_are_ledgers {
            "ledger"
        } else {
            "config"
        };
        let load = format!(
            "{} {best} {worst} {span} {weight} {from} {}",
            sync.load, sync.adaptive
        );
        push_bulk(out, load.as_bytes());
        push_bulk(out, b"@");
        push_number(out, sync.longest.ttl_ms);
        push_number(out, sync.longest.cooldown_ms);
        push_bulks(out, &[sync.by.as_bytes(), part.as_bytes()]);
        if let Some(cursor) = cursor {
            push_bulk(out, cursor.as_bytes());
        }
        for account in accounts {
            push_bulk(out, account.id.as_bytes());
            push_number(out, u64::from(account.max_concurrency));
            push_number(out, account.base);
            match account.pace {
                None => push_number(out, u64::from(!account.enabled)),
                Some(pace) => {
                    let disabled = u64::from(!account.enabled);
                    push_bulk(out, format!("{disabled} {pace}").as_bytes());
                }
            }
        }
        for id in ids {
            push_bulk(out, id.as_bytes());
        }
    }
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

#[cfg(test)]
mod tests {
    use super::super::tests::words;
    use super::*;

    fn said(part: Part, accounts: Option<&[SyncAccount]>) -> String {
        let sync = Sync {
            revision: 1,
            digest: 2,
            epoch: 3,
            load: 4,
            scale: Scale {
                best: 1,
                worst: 2,
                span: 1,
                weight: 9,
            },
            accounts_are_ledgers: false,
            adaptive: 0,
            accounts,
            part,
            longest: Longest {
                ttl_ms: 5,
                cooldown_ms: 6,
            },
            by: "w",
        };
        words(|commands, out, by| commands.sync(out, by, &sync))
    }

    #[test]
    fn each_part_has_its_words() {
        let account = SyncAccount {
            id: "a",
            max_concurrency: 7,
            base: 8,
            enabled: true,
            pace: None,
        };
        let accounts = [
            account,
            SyncAccount {
                enabled: false,
                pace: Some(Pace {
                    requests: 50,
                    per_ms: 60_000,
                    burst: 10,
                }),
                ..account
            },
        ];
        let ids = ["b".to_owned(), "c".to_owned()];
        let begin = "x:{p}:control x:{p}:roster x:{p}:changes | 1 2 3 4 1 2 1 9 config 0 @ 5 6 w";
        assert_eq!(said(Part::Whole, None), format!("{begin} whole"));
        for (part, name) in [
            (Part::Whole, "whole"),
            (Part::First, "first"),
            (Part::More, "more"),
        ] {
            assert_eq!(
                said(part, Some(&accounts)),
                format!("{begin} {name} a 7 8 0 a 7 8 1 50/60000/10")
            );
        }
        assert_eq!(
            said(Part::Sweep("9", &ids), None),
            format!("{begin} sweep 9 b c")
        );
        assert_eq!(said(Part::Last(&ids), None), format!("{begin} last b c"));
        assert_eq!(said(Part::Stray(&ids), None), format!("{begin} stray b c"));
    }

    #[test]
    fn a_reply_is_a_word_and_the_revision_in_force() {
        for (word, expected) in [
            ("wanted", Synced::Wanted),
            ("replaced", Synced::Replaced),
            ("current", Synced::Current),
            ("newer", Synced::Newer(7)),
            ("differs", Synced::Differs),
            ("part", Synced::Part),
            ("coming", Synced::Coming),
        ] {
            let reply = format!("*3\r\n${}\r\n{word}\r\n$1\r\n7\r\n$1\r\n8\r\n", word.len());
            assert_eq!(synced(reply.as_bytes()), Ok(expected));
        }
        let reply = b"*3\r\n$4\r\nsoon\r\n$1\r\n7\r\n$1\r\n8\r\n";
        assert_eq!(synced(reply), Err(Fault::Mismatch));
        let (cursor, ids) = swept(b"*3\r\n$4\r\npart\r\n$2\r\n12\r\n$3\r\na b\r\n");
        assert_eq!(cursor, "12");
        assert!(ids.eq(["a", "b"]));
        let (cursor, mut ids) = swept(b"*3\r\n$4\r\npart\r\n$1\r\n0\r\n$0\r\n\r\n");
        assert_eq!((cursor, ids.next()), ("0", None));
    }
}
