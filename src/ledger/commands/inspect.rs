//! `inspect.lua`: every account, page by page. [`crate::ledger::view::Pool::page`] reads its reply.

use super::LedgerCommands;
use crate::ledger::resp::push_bulks;
use crate::ledger::source::{Script, ScriptRef};

impl LedgerCommands {
    /// `inspect.lua`
    pub fn inspect(&self, out: &mut Vec<u8>, by: ScriptRef, cursor: &str, count: u64) {
        self.head(out, Script::Inspect, by, 3, 2);
        let count = count.to_string();
        let arguments = [&self.control, &self.roster, &self.changes, cursor, &count];
        push_bulks(out, &arguments.map(str::as_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::words;

    #[test]
    fn its_words_are_where_it_goes_on_and_how_far() {
        let said = words(|commands, out, by| commands.inspect(out, by, "12", 100));
        assert_eq!(said, "x:{p}:control x:{p}:roster x:{p}:changes | 12 100");
    }
}
