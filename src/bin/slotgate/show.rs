//! Bars, columns and colours.

use std::io::IsTerminal;

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
    pub fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Off => text.to_owned(),
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// How full something is.
pub fn bar(used: u64, of: u64) -> String {
    let full = used.saturating_mul(BAR).div_ceil(of.max(1)).min(BAR);
    let repeat = |part: &str, times: u64| part.repeat(usize::try_from(times).unwrap_or(0));
    repeat("█", full) + &repeat("·", BAR.saturating_sub(full))
}

/// Lines of cells, each column as wide as its widest cell, two spaces between. The first line is the heading.
pub fn columns(lines: &[Vec<String>]) -> String {
    let wide = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len)).map(wide).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            row.push_str(cell);
            row.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()).saturating_add(2)));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}
