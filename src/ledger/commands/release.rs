//! `release.lua`: end leases. It returns how many of them were live ([`super::number`]).

use super::LedgerCommands;
use crate::ledger::resp::push_bulk;
use crate::ledger::source::{Script, ScriptRef};
use crate::request::lease::LeaseId;

impl LedgerCommands {
    /// `release.lua`
    pub fn release(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        leases: impl ExactSizeIterator<Item = LeaseId>,
    ) {
        self.head(out, Script::Release, by, 0, leases.len());
        for lease in leases {
            push_bulk(out, lease.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::words;
    use crate::request::lease::LeaseIds;

    #[test]
    fn its_words_are_the_leases() {
        let mut ids = LeaseIds::new(1);
        let leases = [ids.mint(None), ids.mint(None)];
        let [a, b] = leases.map(|lease| String::from_utf8(lease.as_bytes().to_vec()).unwrap());
        let said = words(|commands, out, by| commands.release(out, by, leases.into_iter()));
        assert_eq!(said, format!("| {a} {b}"));
    }
}
