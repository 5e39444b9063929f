//! What is printed: lines, tables, bars and colours.

use serde_json::Value;
use slotgate::printable::{harmless, is_harmful};
use std::io::{IsTerminal, Write};

const BAR: u64 = 20;

/// Whether states are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    Off,
    On,
}

impl Colours {
    /// On a terminal, unless NO_COLOR is set (no-color.org).
    pub fn for_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !unwanted {
            Self::On
        } else {
            Self::Off
        }
    }

    /// The text in the colour of an SGR code.
    pub fn paint(self, code: &'static str, text: &str) -> Cell {
        let code = (self == Self::On).then_some(code);
        Cell {
            code,
            ..Cell::from(text)
        }
    }
}

/// How full something is.
pub fn bar(used: u64, of: u64) -> String {
    let full = used.saturating_mul(BAR).div_ceil(of.max(1)).min(BAR);
    let repeat = |part: &str, times: u64| part.repeat(usize::try_from(times).unwrap_or(0));
    repeat("█", full) + &repeat("·", BAR.saturating_sub(full))
}

/// What is printed: nothing else can be. It is written line by line, so that no text from elsewhere commands the terminal,
/// forges a line or hides something in one.
#[derive(Debug, Default)]
pub struct Lines(String);

impl Lines {
    /// A single line.
    pub fn of(text: &str) -> Self {
        let mut lines = Self::default();
        lines.line(text);
        lines
    }

    /// A document on a line of its own, or on many.
    pub fn json(document: &Value, pretty: bool) -> Self {
        let text = if pretty {
            format!("{document:#}\n")
        } else {
            format!("{document}\n")
        };
        // Strings alone hold such characters, and the line feeds are none of theirs.
        let is_safe = |char: char| char == '\n' || !is_harmful(char);
        let escaped = |char: char| match is_safe(char) {
            true => char.to_string(),
            false => format!("\\u{:04x}", u32::from(char)),
        };
        Self(text.chars().map(escaped).collect())
    }

    /// One line more.
    pub fn line(&mut self, text: &str) {
        self.0.push_str(&harmless(text));
        self.0.push('\n');
    }

    /// To standard error.
    pub fn report(&self) {
        // Nobody is left to be told that this failed.
        let _ = std::io::stderr().write_all(self.as_bytes());
    }

    /// Other lines behind these.
    pub fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    /// Lines of cells, each column as wide as its widest cell, two spaces between. The first line is the heading.
    pub fn table(&mut self, lines: &[Vec<Cell>]) {
        let wide = |column: usize| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len)).map(wide).collect();
        for line in lines {
            let mut row = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                let gap = width.saturating_sub(cell.text.chars().count());
                match cell.code {
                    Some(code) => row.push_str(&format!("\x1b[{code}m{}\x1b[0m", cell.text)),
                    None => row.push_str(&cell.text),
                }
                row.push_str(&" ".repeat(gap.saturating_add(2)));
            }
            self.0.push_str(row.trim_end());
            self.0.push('\n');
        }
    }

    /// The same in place of what the terminal shows.
    pub fn in_place(&self) -> Self {
        Self(format!("\x1b[H{}\x1b[J", self.0.replace('\n', "\x1b[K\n")))
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A table's cell.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    /// Its colour: an SGR code.
    code: Option<&'static str>,
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text = harmless(text.as_ref()).into_owned();
        Self { text, code: None }
    }
}
