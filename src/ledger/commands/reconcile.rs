//! `reconcile.lua`: one step of a recount.

use super::{LedgerCommands, Longest, array, number_in};
use crate::ledger::fault::Fault;
use crate::ledger::resp::{Values, push_bulk, push_number, whole};
use crate::ledger::source::{Script, ScriptRef};

/// Arguments of `reconcile.lua`.
#[derive(Debug)]
pub struct Step<'a> {
    /// Who asks.
    pub worker: &'a str,
    /// How long it may be silent, in ms.
    pub silence_ms: u64,
    /// About how many entries to look at.
    pub count: u64,
    /// How long this Envoy's leases and cooldowns last at most.
    pub longest: Longest,
    /// Whether the pool holds what cannot be there.
    pub soon: bool,
}

/// The reply of `reconcile.lua`.
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

impl LedgerCommands {
    /// `reconcile.lua`
    pub fn reconcile(&self, out: &mut Vec<u8>, by: ScriptRef, step: &Step) {
        let soon = usize::from(step.soon);
        self.head(out, Script::Reconcile, by, 3, soon.saturating_add(5));
        for key in [&self.pass, &self.control, &self.roster] {
            push_bulk(out, key.as_bytes());
        }
        push_bulk(out, step.worker.as_bytes());
        push_number(out, step.silence_ms);
        push_number(out, step.count);
        push_number(out, step.longest.ttl_ms);
        push_number(out, step.longest.cooldown_ms);
        if step.soon {
            push_bulk(out, b"soon");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::super::tests::words;
    use super::*;

    #[test]
    fn its_words_tell_who_asks_and_how_much() {
        for (soon, last) in [(false, ""), (true, " soon")] {
            let step = Step {
                worker: "w",
                silence_ms: 1,
                count: 2,
                longest: Longest {
                    ttl_ms: 3,
                    cooldown_ms: 4,
                },
                soon,
            };
            let said = words(|commands, out, by| commands.reconcile(out, by, &step));
            assert_eq!(
                said,
                format!("x:{{p}}:pass x:{{p}}:control x:{{p}}:roster | w 1 2 3 4{last}")
            );
        }
    }

    #[test]
    fn a_reply_of_an_older_script_says_less() {
        let step = reconciled(b"*2\r\n$7\r\nworking\r\n:3\r\n").unwrap();
        assert_eq!(step.state, Reconciled::Working(3));
        assert_eq!((step.found, step.in_force), (&b""[..], None));
        let long = "*5\r\n$4\r\ndone\r\n:3\r\n$1\r\nx\r\n$1\r\n4\r\n$1\r\n5\r\n";
        let step = reconciled(long.as_bytes()).unwrap();
        assert_eq!(step.state, Reconciled::Done(3));
        assert_eq!((step.found, step.in_force), (&b"x"[..], Some((4, Some(5)))));
        let none = long.replace("$1\r\n4\r\n$1\r\n5", "$0\r\n\r\n$0\r\n");
        let step = reconciled(none.as_bytes()).unwrap();
        assert_eq!(step.in_force, Some((0, None)));
        let elsewhere = reconciled(b"*2\r\n$9\r\nelsewhere\r\n:0\r\n");
        assert_eq!(elsewhere.map(|step| step.state), Ok(Reconciled::Elsewhere));
        assert_eq!(
            reconciled(b"*2\r\n$4\r\nsoon\r\n:0\r\n"),
            Err(Fault::Mismatch)
        );
    }
}
