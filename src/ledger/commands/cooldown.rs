//! `cooldown.lua`: what responses mean for an account. It returns a number ([`super::number`]).

use super::{LedgerCommands, push_hashed};
use crate::ledger::resp::{push_bulk, push_bulk_of, push_number};
use crate::ledger::source::{Script, ScriptRef};
use crate::request::lease::LeaseId;
use crate::upstream::answer::Status;

/// What a response means for an account, as `cooldown.lua` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountReport {
    /// The account takes no new leases for this time, in ms; with a scope's hash, only in that scope.
    Cool(u64, Option<[u8; 16]>),
    /// The account takes no new leases for this time, in ms, and afterwards one at a time until one has passed.
    CoolThenProbe(u64),
    /// The account takes leases only when no other can, for this time, in ms.
    Behind(u64),
    /// The account is out of use for this time, in ms, and probes afterwards, 0: until an operator says otherwise; because of
    /// this answer.
    Disable(u64, Status),
    /// The account pushed back a request whose lease it had for this time, in ms: its limit falls, where limits adapt.
    Less(u64),
    /// This lease has passed: no more probes, if it was the one.
    Passed(LeaseId),
}

impl LedgerCommands {
    /// `cooldown.lua`
    pub fn cooldown(&self, out: &mut Vec<u8>, by: ScriptRef, account: &str, heard: AccountReport) {
        let (length_ms, what, scope) = match heard {
            AccountReport::Cool(length_ms, scope) => (length_ms, None, scope),
            AccountReport::CoolThenProbe(length_ms) => (length_ms, Some("probe"), None),
            AccountReport::Behind(length_ms) => (length_ms, Some("behind"), None),
            AccountReport::Disable(length_ms, _) => (length_ms, Some("disable"), None),
            AccountReport::Less(age_ms) => (age_ms, Some("less"), None),
            AccountReport::Passed(_) => (0, Some("passed"), None),
        };
        let more = matches!(heard, AccountReport::Disable(..) | AccountReport::Passed(_));
        let words = usize::from(what.is_some()).saturating_add(usize::from(more));
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
        match heard {
            AccountReport::Passed(lease) => push_bulk(out, lease.as_bytes()),
            AccountReport::Disable(_, status) => {
                let (kind, number) = status.said();
                push_bulk_of(out, kind.as_bytes(), number.to_string().as_bytes());
            }
            AccountReport::Cool(..)
            | AccountReport::CoolThenProbe(_)
            | AccountReport::Less(_)
            | AccountReport::Behind(_) => {}
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
        let lease = LeaseIds::new(1).mint(None);
        let name = String::from_utf8(lease.as_bytes().to_vec()).unwrap();
        let grpc = Status {
            http: 200,
            grpc: Some(16),
        };
        let scoped = format!("x:{{p}}:cooldown:{} | a 5", "ab".repeat(16));
        for (report, expected) in [
            (AccountReport::Cool(5, None), "| a 5".to_owned()),
            (AccountReport::Cool(5, Some([0xab; 16])), scoped),
            (AccountReport::CoolThenProbe(5), "| a 5 probe".to_owned()),
            (AccountReport::Behind(5), "| a 5 behind".to_owned()),
            (AccountReport::Less(5), "| a 5 less".to_owned()),
            (AccountReport::Passed(lease), format!("| a 0 passed {name}")),
            (
                AccountReport::Disable(0, 401.into()),
                "| a 0 disable 401".to_owned(),
            ),
            (
                AccountReport::Disable(7, grpc),
                "| a 7 disable grpc-16".to_owned(),
            ),
        ] {
            let said = words(|commands, out, by| commands.cooldown(out, by, "a", report));
            assert_eq!(said, expected);
        }
    }
}
