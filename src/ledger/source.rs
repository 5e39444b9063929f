//! The scripts' sources, as they are sent to Redis.

use crate::joined::joined;

/// One Lua file of `lua/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Choose an account and take a lease.
    Acquire,
    /// End leases.
    Release,
    /// Keep leases alive.
    Renew,
    /// Put a pool's accounts in force.
    Sync,
    /// Stop new leases of an account for a while.
    Cooldown,
    /// Prove and mend the counts, one step of a pass.
    Reconcile,
    /// See the operator's overrides.
    Overrides,
    /// An operator's change.
    Control,
    /// An operator's change of accounts.
    Account,
    /// Show every account.
    Inspect,
}

/// A file of `lua/` without what is only for readers.
macro_rules! code_of {
    ($file:literal) => {
        joined!([("--", "\n")], [include_str!(concat!("../../lua/", $file))])
    };
}

/// What stands in front of every script.
const LEDGER: &str = code_of!("ledger.lua");
/// What stands behind it in those that can free a slot.
const QUEUE: &str = code_of!("queue.lua");
/// What stands behind these in those that note what was changed.
const CHANGES: &str = code_of!("changes.lua");
/// What stands behind the first in those that tell the states of accounts.
const STATE: &str = code_of!("state.lua");
/// What stands behind the queue in those that put accounts in or take them away.
const ACCOUNTS: &str = code_of!("accounts.lua");

impl Script {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Acquire,
        Self::Release,
        Self::Renew,
        Self::Sync,
        Self::Cooldown,
        Self::Reconcile,
        Self::Overrides,
        Self::Control,
        Self::Account,
        Self::Inspect,
    ];

    /// Those that the filter itself runs, in the order they are loaded.
    pub const FILTER: [Self; 7] = [
        Self::Acquire,
        Self::Release,
        Self::Renew,
        Self::Sync,
        Self::Cooldown,
        Self::Reconcile,
        Self::Overrides,
    ];

    /// Its flags, and its code. What frees or keeps a slot must run when memory is full.
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Acquire => ("", code_of!("acquire.lua")),
            Self::Release => (" flags=allow-oom", code_of!("release.lua")),
            Self::Renew => (" flags=allow-oom", code_of!("renew.lua")),
            Self::Sync => ("", code_of!("sync.lua")),
            Self::Cooldown => (" flags=allow-oom", code_of!("cooldown.lua")),
            Self::Reconcile => (" flags=allow-oom", code_of!("reconcile.lua")),
            Self::Overrides => (" flags=no-writes", code_of!("overrides.lua")),
            Self::Control => (" flags=allow-oom", code_of!("control.lua")),
            Self::Account => (" flags=allow-oom", code_of!("account.lua")),
            Self::Inspect => (" flags=no-writes", code_of!("inspect.lua")),
        }
    }

    /// The files it is made of, in order, without `.lua`.
    #[must_use]
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Acquire => &["ledger", "queue", "acquire"],
            Self::Release => &["ledger", "queue", "release"],
            Self::Renew => &["ledger", "queue", "renew"],
            Self::Sync => &["ledger", "queue", "accounts", "changes", "sync"],
            Self::Cooldown => &["ledger", "queue", "cooldown"],
            Self::Reconcile => &["ledger", "queue", "accounts", "reconcile"],
            Self::Overrides => &["ledger", "state", "overrides"],
            Self::Control => &["ledger", "queue", "changes", "control"],
            Self::Account => &["ledger", "queue", "accounts", "changes", "account"],
            Self::Inspect => &["ledger", "state", "inspect"],
        }
    }

    /// What is sent to Redis: the `#!lua` line and the files, without what is only for readers.
    #[must_use]
    pub fn source(self) -> String {
        let (flags, own) = self.parts();
        let with = |file, code| {
            if self.files().contains(&file) {
                code
            } else {
                ""
            }
        };
        let (queue, accounts) = (with("queue", QUEUE), with("accounts", ACCOUNTS));
        let (changes, state) = (with("changes", CHANGES), with("state", STATE));
        [
            "#!lua", flags, "\n", LEDGER, queue, accounts, changes, state, own,
        ]
        .concat()
    }
}

/// The script that only `slotgate doctor` runs: what does not fit together in a pool's keys.
#[must_use]
pub fn audit() -> String {
    ["#!lua flags=no-writes\n", LEDGER, code_of!("audit.lua")].concat()
}

/// The SHA-1 of a script in hex, as `SCRIPT LOAD` answers it.
pub type Sha = [u8; 40];

/// The SHA of each script, in the order of [`Script::ALL`].
#[derive(Debug, Clone)]
pub struct Shas(pub [Sha; Script::ALL.len()]);

/// How a script is named in a command.
#[derive(Debug, Clone, Copy)]
pub enum ScriptRef<'a> {
    /// `EVALSHA`
    Sha(&'a Shas),
    /// `EVAL`, which also loads it: the answer to NOSCRIPT.
    Source,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_the_files_code() {
        for script in Script::ALL {
            let name = format!("{script:?}").to_lowercase();
            let read = |name: &&str| std::fs::read_to_string(format!("lua/{name}.lua")).unwrap();
            let files: String = script.files().iter().map(read).collect();
            let code = files
                .lines()
                .map(|line| line.trim_start_matches(' '))
                .filter(|line| !line.is_empty() && !line.starts_with("--"));
            let source = script.source();
            let mut lines = source.lines();
            assert!(lines.next().unwrap().starts_with("#!lua"));
            assert!(lines.eq(code), "{name}");
        }
    }
}
