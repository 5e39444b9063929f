//! Text files as one text, without what is only for readers: comments, indentation, empty lines. They are joined while this is
//! compiled, so that no build carries more.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "all of it runs while this is compiled, and would stop that"
)]

/// What is left out of the lines' beginnings, by how it begins and ends. Space and empty lines always are.
pub type Omitted = [(&'static str, &'static str)];

/// Files as one text: `joined!(omitted, [text, text])`, all of them constants.
macro_rules! joined {
    ($omitted:expr, $files:expr) => {{
        const BYTES: [u8; $crate::joined::join(&$files, &$omitted, &mut [])] = {
            let mut bytes = [0; $crate::joined::join(&$files, &$omitted, &mut [])];
            $crate::joined::join(&$files, &$omitted, &mut bytes);
            bytes
        };
        const TEXT: &str = match str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => panic!("not UTF-8"),
        };
        TEXT
    }};
}
pub(crate) use joined;

/// Copies the files' lines without what is left out, and returns the number of bytes. With an empty `into` it only counts.
pub const fn join(files: &[&str], omitted: &Omitted, into: &mut [u8]) -> usize {
    let (mut file, mut length) = (0, 0);
    while file < files.len() {
        let text = files[file].as_bytes();
        let mut at = 0;
        while at < text.len() {
            // Here a line begins.
            let next = after_omitted(text, at, omitted);
            if next > at {
                at = next;
                continue;
            }
            let mut ends = false;
            while !ends {
                ends = at >= text.len() || text[at] == b'\n';
                if !into.is_empty() {
                    into[length] = if ends { b'\n' } else { text[at] };
                }
                length += 1;
                at += 1;
            }
        }
        file += 1;
    }
    length
}

/// Returns where that ends which is left out and begins at `at`; `at` itself if nothing does.
const fn after_omitted(text: &[u8], at: usize, omitted: &Omitted) -> usize {
    if text[at] == b' ' || text[at] == b'\n' {
        return at + 1;
    }
    let mut n = 0;
    while n < omitted.len() {
        let (begin, end) = omitted[n];
        if begins(text, at, begin.as_bytes()) {
            return after(text, at, end.as_bytes());
        }
        n += 1;
    }
    at
}

/// Returns where the next `end` ends, from `at` on. A text without it is not compiled.
const fn after(text: &[u8], mut at: usize, end: &[u8]) -> usize {
    while !begins(text, at, end) {
        if at == text.len() {
            panic!("what is left out has no end");
        }
        at += 1;
    }
    at + end.len()
}

/// Returns whether `word` is at `at`.
const fn begins(text: &[u8], at: usize, word: &[u8]) -> bool {
    let mut n = 0;
    while n < word.len() && at + n < text.len() && text[at + n] == word[n] {
        n += 1;
    }
    n == word.len()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_lines_that_are_code_are_left() {
        const LUA: &str = joined!([("--", "\n")], [" -- c\n\n  a = 1 -- d", "--\nab\n  c"]);
        assert_eq!(LUA, "a = 1 -- d\nab\nc\n");
        const JS: &str = joined!(
            [("/*", "*/"), ("import ", ";"), ("export ", " ")],
            [
                "import {\n  a } from 'b';\nexport const c = 1; /* d\n",
                "/* e\n f */ g // h\n"
            ]
        );
        assert_eq!(JS, "const c = 1; /* d\ng // h\n");
    }
}
