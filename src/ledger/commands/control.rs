//! `control.lua`: what an operator changes by hand. The console and the command line read its two words themselves.

use super::LedgerCommands;
use crate::ledger::keys;
use crate::ledger::resp::{push_bulk_of, push_bulks};
use crate::ledger::source::{Script, ScriptRef};

impl LedgerCommands {
    /// `control.lua`; `session` is the session's hash, for `unbind`, which has no other subject; `who` asks for it, by a name
    /// of up to 64 bytes.
    pub fn control(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        verb: &str,
        subject: &str,
        session: Option<&[u8; 16]>,
        who: &str,
    ) {
        let extra_keys = usize::from(session.is_some()).saturating_add(2);
        self.head(out, Script::Control, by, extra_keys, 3);
        push_bulks(out, &[self.control.as_bytes(), self.changes.as_bytes()]);
        let tag = session.map(keys::session_tag);
        if let Some(session) = session {
            push_bulk_of(
                out,
                self.session_prefix.as_bytes(),
                &keys::session_digits(session),
            );
        }
        let subject = tag.as_ref().map_or(subject.as_bytes(), |tag| tag);
        push_bulks(out, &[verb.as_bytes(), subject, who.as_bytes()]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::words;

    #[test]
    fn a_session_is_named_by_its_key_and_its_tag() {
        let said = words(|commands, out, by| commands.control(out, by, "drain", "a", None, "me"));
        assert_eq!(said, "x:{p}:control x:{p}:changes | drain a me");
        let hash = Some(&[0xab; 16]);
        let said = words(|commands, out, by| commands.control(out, by, "unbind", "", hash, ""));
        let tag = "ab".repeat(8);
        assert_eq!(
            said,
            format!("x:{{p}}:control x:{{p}}:changes x:{{p}}:session:2bab | unbind {tag} ")
        );
    }
}
