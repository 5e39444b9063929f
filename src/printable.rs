//! Text that someone else wrote, made harmless where it leaves: on a terminal, in a log, in JSON.

use std::borrow::Cow;

/// Whether a character may command a terminal, forge a line, or be unseen or change the order of what is seen: C0, DEL,
/// C1, the separators of lines and paragraphs, and Unicode's controls of direction and width.
#[must_use]
#[inline(never)]
pub fn is_harmful(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// One line of the same text, with an escape such as `\n` or `\u{1b}` for each harmful character.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len());
    for char in text.chars() {
        if is_harmful(char) {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
    Cow::Owned(line)
}

/// The longest part of a server's words that is repeated, in bytes.
pub const MOST_ASCII: usize = 200;

/// Bytes of any kind as printable ASCII with escapes such as `\x1b`, cut with dots after [`MOST_ASCII`] bytes.
#[must_use]
pub fn ascii(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let escaped = match byte {
            b' '..=b'~' => 1,
            _ => 4,
        };
        if text.len().saturating_add(escaped) > MOST_ASCII {
            text.push_str("...");
            break;
        }
        if escaped == 1 {
            text.push(char::from(*byte));
        } else {
            text.extend(byte.escape_ascii().map(char::from));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_harmful_character_is_escaped_and_nothing_else() {
        for (text, line) in [
            ("", ""),
            ("acct-1 größer 日本 – 🦀 \\n", "acct-1 größer 日本 – 🦀 \\n"),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\u{0}"),
            ("\x1b]0;x\x07\x7f", "\\u{1b}]0;x\\u{7}\\u{7f}"),
            ("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            ("\u{202e}a\u{2066}\u{200f}", "\\u{202e}a\\u{2066}\\u{200f}"),
            (
                "\u{2028}\u{2029}\u{feff}\u{200b}",
                "\\u{2028}\\u{2029}\\u{feff}\\u{200b}",
            ),
        ] {
            assert_eq!(harmless(text), line);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_left_is_harmless(text in "\\PC*|.*|[\0-\u{2fff}]*") {
            let line = harmless(&text);
            assert!(!line.contains(is_harmful));
            assert_eq!(harmless(&line), line);
        }
    }
}
