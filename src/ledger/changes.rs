//! What was changed in a pool lately, and by whom, from the lines of `lua/changes.lua`.

use super::view::Set;
use crate::json::Json;

/// How long the name of who changes something may be, in bytes.
const MOST_NAME: usize = 64;

/// No script has written a longer line, in bytes; `inspect.lua` leaves these out too.
const MOST_LINE: usize = 512;
/// No script has written a time from here on, and nobody can show it as a date.
const YEAR_10000_MS: u64 = 253_402_300_800_000;

/// Whether a change can be noted under this name.
#[must_use]
pub fn is_name(by: &str) -> bool {
    by.len() <= MOST_NAME && !by.chars().any(char::is_control)
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// When, in ms of Redis TIME.
    pub at_ms: u64,
    /// The name that an operator has given; empty: none, or a configuration.
    pub by: String,
    /// What was done.
    pub what: String,
    /// To what: an account, or how many of them; empty: to the pool.
    pub subject: String,
    before: String,
    now: String,
}

impl Changed {
    /// Reads a line; `None`: no script has written it.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        if line.len() > MOST_LINE {
            return None;
        }
        let mut words = line.split(|byte| *byte == b'\t').map(printed);
        let at_ms = words.next()?.parse().ok();
        let at_ms = at_ms.filter(|at_ms| *at_ms < YEAR_10000_MS)?;
        Some(Self {
            at_ms,
            by: words.next()?,
            what: words.next()?,
            subject: words.next()?,
            before: words.next()?,
            now: words.next()?,
        })
    }

    /// What was done, in words.
    #[must_use]
    pub fn text(&self) -> String {
        let (subject, now) = (self.subject.as_str(), said(&self.what, &self.now));
        let was = match said(&self.what, &self.before) {
            before if before.is_empty() => before,
            before => [", was ", &before].concat(),
        };
        let parts = match self.what.as_str() {
            "percent" => ["gray share ", &now, &was],
            "revision" => ["revision ", &now, &was],
            "drain" => [subject, " drained", ""],
            "undrain" => [subject, " takes requests again", ""],
            "thaw" => ["cooldown of ", subject, " ended"],
            "unbind" => ["a session of ", subject, " unbound"],
            "changed" | "added" if !now.is_empty() => {
                [subject, ": ", &[now.as_str(), was.as_str()].concat()]
            }
            "removed" => [subject, " removed", &was],
            what => [subject, " ", what],
        };
        parts.concat()
    }

    /// As `status` and `log` show it.
    #[inline(never)]
    pub fn write(&self, json: &mut Json) {
        json.raw("{").name("at_ms").number(self.at_ms);
        let named = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        json.name("by").text_or_null(named(&self.by).as_deref());
        json.name("what").text(&self.what).name("subject");
        json.text_or_null(named(&self.subject).as_deref());
        json.name("text").text(&self.text()).raw("}");
    }
}

/// Text as it may be shown: a name may be cut within a character.
fn printed(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.chars().filter(|letter| !letter.is_control());
    text.collect()
}

/// A value before or after, in words; empty: there is none.
fn said(what: &str, value: &str) -> String {
    match (what, value) {
        ("percent", "") => "as configured".to_owned(),
        ("percent", points) => match points.parse() {
            Ok(points) => {
                let mut json = Json::default();
                json.percent(Some(points));
                let text = json.into_text();
                [text.strip_suffix(".0").unwrap_or(&text), " %"].concat()
            }
            Err(_) => points.to_owned(),
        },
        (_, value) => match Set::of(value) {
            Some(set) => set.text(),
            None => value.to_owned(),
        },
    }
}
