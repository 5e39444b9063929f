//! `renew.lua`: keep leases alive, and take up again those that Redis no longer knows.

use super::{LedgerCommands, array, number_in};
use crate::ledger::fault::Fault;
use crate::ledger::resp::{Values, push_bulk, push_number};
use crate::ledger::source::{Script, ScriptRef};
use crate::request::lease::LeaseId;

/// What `renew.lua` says of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The lease lives on.
    Renewed,
    /// The lease was gone and is counted again.
    Readopted,
    /// Its slot is someone else's.
    Lost,
}

impl LedgerCommands {
    /// `renew.lua`; each lease with its account's id and its epoch.
    pub fn renew<'a>(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        ttl_ms: u64,
        leases: impl ExactSizeIterator<Item = (LeaseId, &'a str, u64)>,
    ) {
        self.head(
            out,
            Script::Renew,
            by,
            0,
            leases.len().saturating_mul(3).saturating_add(1),
        );
        push_number(out, ttl_ms);
        for (lease, account, epoch) in leases {
            push_bulk(out, lease.as_bytes());
            push_bulk(out, account.as_bytes());
            push_number(out, epoch);
        }
    }
}

/// Reads the reply to a renew of `leases` leases: the epoch, and one answer each.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn renewed(reply: &[u8], leases: usize) -> Result<(u64, impl Iterator<Item = Renewed>), Fault> {
    let mut values = Values::new(reply);
    array(&mut values, 2..=2)?;
    let epoch = number_in(&mut values)?;
    let letters = values.bulk().ok_or(Fault::Mismatch)?;
    if letters.len() != leases || !letters.iter().all(|letter| b"ral".contains(letter)) {
        return Err(Fault::Mismatch);
    }
    let answers = letters.iter().map(|letter| match letter {
        b'r' => Renewed::Renewed,
        b'a' => Renewed::Readopted,
        _ => Renewed::Lost,
    });
    Ok((epoch, answers))
}

#[cfg(test)]
mod tests {
    use super::super::tests::words;
    use super::*;
    use crate::request::lease::LeaseIds;

    #[test]
    fn each_lease_has_its_account_and_epoch() {
        let lease = LeaseIds::new(1).mint(None);
        let name = String::from_utf8(lease.as_bytes().to_vec()).unwrap();
        let leases = [(lease, "a", 5), (lease, "b", 6)];
        let said = words(|commands, out, by| commands.renew(out, by, 10, leases.into_iter()));
        assert_eq!(said, format!("| 10 {name} a 5 {name} b 6"));
    }

    #[test]
    fn a_reply_has_a_letter_for_each_lease() {
        let (epoch, answers) = renewed(b"*2\r\n$1\r\n4\r\n$3\r\nral\r\n", 3).unwrap();
        assert_eq!(epoch, 4);
        assert!(answers.eq([Renewed::Renewed, Renewed::Readopted, Renewed::Lost]));
        for wrong in ["$2\r\nra", "$3\r\nrax", "+ral"] {
            let reply = format!("*2\r\n$1\r\n4\r\n{wrong}\r\n");
            assert_eq!(
                renewed(reply.as_bytes(), 3).err(),
                Some(Fault::Mismatch),
                "{wrong}"
            );
        }
    }
}
