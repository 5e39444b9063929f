//! Output for people: lines, tables, bars and colours.

use serde_json::Value;
use slotgate::printable::{harmless, is_harmful};
use std::io::{IsTerminal, Write};

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

/// How full something is, in so many cells.
pub fn bar(used: u64, of: u64, cells: usize) -> String {
    let cells = cells as u64;
    let full = used.saturating_mul(cells).div_ceil(of.max(1)).min(cells);
    let repeat = |part: &str, times: u64| part.repeat(usize::try_from(times).unwrap_or(0));
    repeat("█", full) + &repeat("·", cells.saturating_sub(full))
}

/// The text that is printed: nothing else can be. It is written line by line, so that no text from elsewhere commands the terminal,
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

    /// How many lines there are.
    pub fn count(&self) -> usize {
        self.0.matches('\n').count()
    }

    /// The same in so many columns: a longer line goes on in the next, behind its last gap of two spaces if it has one. A
    /// terminal would break it anywhere, and the lines would be more than were counted.
    pub fn of_width(&self, width: usize) -> Self {
        let mut out = String::new();
        for line in self.0.lines() {
            wrap(&mut out, line, width.max(MOST_INDENT.saturating_add(1)));
        }
        Self(out)
    }

    /// The first so many lines; the last of them says how many are left out.
    pub fn of_height(&self, height: usize) -> Self {
        let all = self.count();
        if all <= height {
            return Self(self.0.clone());
        }
        let kept = height.saturating_sub(1);
        let mut out: String = self.0.split_inclusive('\n').take(kept).collect();
        out.push_str(&format!("… {} more\n", all.saturating_sub(kept)));
        Self(out)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// How far the rest of a line is put in.
const MOST_INDENT: usize = 2;

/// One line in as many as it takes. Colours take no room, and are not cut.
fn wrap(out: &mut String, line: &str, width: usize) {
    let begin = out.len();
    let (mut column, mut start) = (0_usize, begin);
    // Where the line may end: before this byte of `out` goes a line feed.
    let mut gap = None;
    let mut in_colour = false;
    for char in line.chars() {
        in_colour |= char == '\x1b';
        if !in_colour {
            if column == width {
                let rest = match gap.take() {
                    Some(at) => out.split_off(at),
                    None => String::new(),
                };
                let rest = rest.trim_start();
                out.truncate(out.trim_end_matches(' ').len().max(start));
                out.push('\n');
                start = out.len();
                out.push_str("  ");
                out.push_str(rest);
                column = MOST_INDENT.saturating_add(visible(rest));
            }
            // Not the spaces where it was cut.
            if char == ' ' && start > begin && out.len() == start.saturating_add(MOST_INDENT) {
                continue;
            }
            column = column.saturating_add(1);
        }
        out.push(char);
        in_colour &= char != 'm';
        if !in_colour
            && out
                .get(start..)
                .is_some_and(|line| line.ends_with("  ") && line.trim() != "")
        {
            gap = Some(out.len());
        }
    }
    out.push('\n');
}

/// How many columns a text takes.
fn visible(text: &str) -> usize {
    let mut in_colour = false;
    let mut columns = 0_usize;
    for char in text.chars() {
        in_colour |= char == '\x1b';
        columns = columns.saturating_add(usize::from(!in_colour));
        in_colour &= char != 'm';
    }
    columns
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_in_the_next() {
        let fitted = |text: &str, width| {
            let mut lines = Lines::default();
            lines.line(text);
            lines.of_width(width).0
        };
        assert_eq!(
            fitted("pool demo  19/35 slots", 40),
            "pool demo  19/35 slots\n"
        );
        assert_eq!(
            fitted(
                "pool demo  19/35 slots  3 leases live  gray as configured",
                24
            ),
            "pool demo  19/35 slots\n  3 leases live\n  gray as configured\n"
        );
        assert_eq!(fitted("ab cd  ef", 5), "ab cd\n  ef\n");
        // Without a gap anywhere.
        assert_eq!(fitted("abcdefgh", 5), "abcde\n  fgh\n");
        let painted = Lines("ab\x1b[32mcdef\x1b[0mgh\n".to_owned()).of_width(5).0;
        assert_eq!(painted, "ab\x1b[32mcde\n  f\x1b[0mgh\n");
        for line in painted.lines() {
            assert!(visible(line) <= 5, "{line:?}");
        }
    }

    #[test]
    fn no_more_lines_than_fit() {
        let mut lines = Lines::default();
        for number in 0..5 {
            lines.line(&number.to_string());
        }
        assert_eq!(lines.of_height(5).0, "0\n1\n2\n3\n4\n");
        assert_eq!(lines.of_height(3).0, "0\n1\n… 3 more\n");
        assert_eq!(lines.of_height(3).count(), 3);
    }

    #[test]
    fn bars() {
        assert_eq!(bar(1, 2, 4), "██··");
        assert_eq!(bar(1, 100, 4), "█···");
        assert_eq!(bar(9, 2, 4), "████");
        assert_eq!(bar(0, 0, 0), "");
    }
}
