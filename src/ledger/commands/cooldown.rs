//! `cooldown.lua`: what responses mean for an account. It returns a number ([`super::number`]).

use super::{LedgerCommands, push_hashed};
use crate::ledger::resp::{push_bulk, push_number};
use crate::ledger::source::{Script, ScriptRef};
use crate::request::lease::LeaseId;

/// What a response means for an account, as `cooldown.lua` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountReport {
    /// The account takes no new leases for this time, in ms; with a scope's hash, only in that scope.
    Cool(u64, Option<[u8; 16]>),
    /// The account takes no new leases for this time, in ms, and afterwards one at a time until one has passed.
    CoolThenProbe(u64),
    /// The account takes leases only when no other can, for this time, in ms.
    Behind(u64),
    /// This lease has passed: no more probes, if it was the one.
    Passed(LeaseId),
}

impl LedgerCommands {
    /// `cooldown.lua`
    pub fn cooldown(&self, out: &mut Vec<u8>, by: ScriptRef, account: &str, heard: AccountReport) {
        let (length_ms, what, scope, lease) = match heard {
            AccountReport::Cool(length_ms, scope) => (length_ms, None, scope, None),
            AccountReport::CoolThenProbe(length_ms) => (length_ms, Some("probe"), None, None),
            AccountReport::Behind(length_ms) => (length_ms, Some("behind"), None, None),
            AccountReport::Passed(lease) => (0, Some("passed"), None, Some(lease)),
        };
        let words = usize::from(what.is_some()).saturating_add(usize::from(lease.is_some()));
        let arguments = words.saturating_add(2);
        let scope_keys = usize::from(scope.is_some());
        self.head(out, Script::Cooldown, by, scope_keys, arguments);
        if let Some(scope) = scope {
            push_hashed(out, &self.scope_prefix, &scope);
        }
        push_bulk(out, account.as_bytes());
        push_number(out, length_ms);
        if let Some(what) = what {
            push_bulk(out, what.as_bytes());
        }
        if let Some(lease) = lease {
            push_bulk(out, lease.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::words;
    use super::*;
    use crate::request::lease::LeaseIds;

    #[test]
    fn each_report_has_its_words() {
        let lease = LeaseIds::new(1).mint();
        let name = String::from_utf8(lease.as_bytes().to_vec()).unwrap();
        let scoped = format!("x:{{p}}:cooldown:{} | a 5", "ab".repeat(16));
        for (report, expected) in [
            (AccountReport::Cool(5, None), "| a 5".to_owned()),
            (AccountReport::Cool(5, Some([0xab; 16])), scoped),
            (AccountReport::CoolThenProbe(5), "| a 5 probe".to_owned()),
            (AccountReport::Behind(5), "| a 5 behind".to_owned()),
            (AccountReport::Passed(lease), format!("| a 0 passed {name}")),
        ] {
            let said = words(|commands, out, by| commands.cooldown(out, by, "a", report));
            assert_eq!(said, expected);
        }
    }
}
