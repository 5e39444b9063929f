//! `account.lua`: an operator's change of accounts. The console and the command line read its replies themselves.

use super::LedgerCommands;
use crate::ledger::resp::{push_bulk, push_bulks};
use crate::ledger::source::{Script, ScriptRef};

/// What an operator does with accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Puts accounts in, or sets what they have.
    Add,
    /// Sets what accounts have that are there.
    Set,
    /// Takes accounts away.
    Remove,
    /// Forgets what was set of accounts.
    Reset,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Add, Self::Set, Self::Remove, Self::Reset];

    /// As the answers of console and command line call it.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::Add => "account_add",
            Self::Set => "account_set",
            Self::Remove => "account_remove",
            Self::Reset => "account_reset",
        }
    }

    /// As `account.lua` and the command line call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Set => "set",
            Self::Remove => "remove",
            Self::Reset => "reset",
        }
    }
}

/// An account's id, and what is set of it, as text; empty: it stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Its id.
    pub id: String,
    /// Slots.
    pub max_concurrency: String,
    /// Lower is preferred.
    pub priority: String,
    /// 1: it takes no leases; 0: it does.
    pub disabled: String,
    /// `requests/ms/burst`, or `none`.
    pub pace: String,
}

impl LedgerCommands {
    /// `account.lua`; `only_check`: nothing is written; `who` asks for it, by a name of up to 64 bytes.
    pub fn account(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        change: Change,
        only_check: bool,
        accounts: &[Terms],
        who: &str,
    ) {
        let puts = matches!(change, Change::Add | Change::Set);
        let words = accounts.len().saturating_mul(if puts { 5 } else { 1 });
        self.head(out, Script::Account, by, 3, words.saturating_add(2));
        for key in [&self.control, &self.roster, &self.changes] {
            push_bulk(out, key.as_bytes());
        }
        let check = if only_check { "check-" } else { "" };
        let verb = [check, change.as_str()].concat();
        push_bulks(out, &[verb.as_bytes(), who.as_bytes()]);
        for terms in accounts {
            push_bulk(out, terms.id.as_bytes());
            let set = [
                &terms.max_concurrency,
                &terms.priority,
                &terms.disabled,
                &terms.pace,
            ];
            for word in set.into_iter().filter(|_| puts) {
                let word = if word.is_empty() { "-" } else { word };
                push_bulk(out, word.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::words;
    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let terms = Terms {
            id: "a".to_owned(),
            max_concurrency: "7".to_owned(),
            ..Terms::default()
        };
        let accounts = [terms];
        let keys = "x:{p}:control x:{p}:roster x:{p}:changes";
        for (change, only_check, expected) in [
            (Change::Add, false, "add me a 7 - - -"),
            (Change::Set, true, "check-set me a 7 - - -"),
            (Change::Remove, false, "remove me a"),
            (Change::Reset, false, "reset me a"),
        ] {
            let said = words(|commands, out, by| {
                commands.account(out, by, change, only_check, &accounts, "me");
            });
            assert_eq!(said, format!("{keys} | {expected}"));
        }
    }
}
