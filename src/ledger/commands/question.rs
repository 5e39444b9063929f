//! Plain commands without a script: what someone asks the workers about a request, what they answer, and what the console
//! reads to explain a choice.

use super::{LedgerCommands, hashed};
use crate::ledger::keys;
use crate::ledger::resp::{
    push_array, push_bulk, push_bulk_of, push_bulks, push_command, push_number,
};

impl LedgerCommands {
    /// A plain SET for a while: a question to the workers, which `overrides.lua` shows them.
    pub fn put_question(&self, out: &mut Vec<u8>, text: &str, keep_ms: u64) {
        set_for(out, &self.question, text, keep_ms);
    }

    /// The same of what a worker answers.
    pub fn answer(&self, out: &mut Vec<u8>, text: &str, keep_ms: u64) {
        set_for(out, &self.answer, text, keep_ms);
    }

    /// `LPUSH` of what each worker answers; who asks takes the list away.
    pub fn add_answer(&self, out: &mut Vec<u8>, text: &str) {
        push_command(out, &[b"LPUSH", self.answers.as_bytes(), text.as_bytes()]);
    }

    /// `GET` of what a worker answered.
    pub fn read_answer(&self, out: &mut Vec<u8>) {
        push_command(out, &[b"GET", self.answer.as_bytes()]);
    }

    /// `GET` of the key that holds a session ([`keys::session_account`] reads it).
    pub fn session(&self, out: &mut Vec<u8>, session: &[u8; 16]) {
        push_array(out, 2);
        push_bulk(out, b"GET");
        push_bulk_of(
            out,
            self.session_prefix.as_bytes(),
            &keys::session_digits(session),
        );
    }

    /// `ZRANGE` of a scope's cooldowns.
    pub fn scope(&self, out: &mut Vec<u8>, scope: &[u8; 16]) {
        let key = hashed(&self.scope_prefix, scope);
        push_command(out, &[b"ZRANGE", &key, b"0", b"-1", b"WITHSCORES"]);
    }
}

fn set_for(out: &mut Vec<u8>, key: &str, text: &str, keep_ms: u64) {
    push_array(out, 5);
    push_bulks(out, &[b"SET", key.as_bytes(), text.as_bytes(), b"PX"]);
    push_number(out, keep_ms);
}

#[cfg(test)]
mod tests {
    use super::super::tests::words;

    #[test]
    fn these_are_plain_commands() {
        let said = words(|commands, out, _| commands.put_question(out, "q", 5));
        assert_eq!(said, "SET x:{p}:question q PX 5");
        let said = words(|commands, out, _| commands.answer(out, "a", 6));
        assert_eq!(said, "SET x:{p}:answer a PX 6");
        let said = words(|commands, out, _| commands.add_answer(out, "a"));
        assert_eq!(said, "LPUSH x:{p}:answers a");
        let said = words(|commands, out, _| commands.read_answer(out));
        assert_eq!(said, "GET x:{p}:answer");
        let said = words(|commands, out, _| commands.session(out, &[0xab; 16]));
        assert_eq!(said, "GET x:{p}:session:2bab");
        let said = words(|commands, out, _| commands.scope(out, &[0xab; 16]));
        let hash = "ab".repeat(16);
        assert_eq!(
            said,
            format!("ZRANGE x:{{p}}:cooldown:{hash} 0 -1 WITHSCORES")
        );
    }
}
