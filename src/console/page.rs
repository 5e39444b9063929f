//! The page's files, as the console serves them: `index.html`, `style.css`, and all modules joined into one `main.js`, so
//! that a visit costs three requests.
//!
//! The files work as they are. They are joined while this is compiled, which also takes out what is only for readers:
//! comments, indentation, empty lines. `tests/scenarios/console/page.rs` checks that the modules can be joined.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "all of it runs while this is compiled, and would stop that"
)]

/// Files as one text, joined while this is compiled.
macro_rules! joined {
    ($files:expr) => {{
        const BYTES: [u8; join(&$files, &mut [])] = {
            let mut bytes = [0; join(&$files, &mut [])];
            join(&$files, &mut bytes);
            bytes
        };
        match str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => panic!("not UTF-8"),
        }
    }};
}

/// The document.
pub const INDEX: &str = joined!([include_str!("page/index.html")]);
/// Its look.
pub const STYLE: &str = joined!([include_str!("page/style.css")]);
/// Its behaviour. Each module comes after those that it imports.
pub const SCRIPT: &str = joined!([
    include_str!("page/dom.js"),
    include_str!("page/notice.js"),
    include_str!("page/api.js"),
    include_str!("page/changes.js"),
    include_str!("page/explain.js"),
    include_str!("page/counters.js"),
    include_str!("page/account.js"),
    include_str!("page/pools.js"),
    include_str!("page/main.js"),
]);

/// Copies the files' lines without what [`skipped`] finds, and returns the number of bytes. With an empty `into` it only
/// counts.
const fn join(files: &[&str], into: &mut [u8]) -> usize {
    let (mut file, mut length) = (0, 0);
    while file < files.len() {
        let text = files[file].as_bytes();
        let mut at = 0;
        while at < text.len() {
            // Here a line begins.
            let next = skipped(text, at);
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

/// Returns where a comment, an import, `export ` or space ends that begins at `at`; `at` itself if there is none.
const fn skipped(text: &[u8], at: usize) -> usize {
    if text[at] == b' ' || text[at] == b'\n' {
        at + 1
    } else if begins(text, at, b"//") {
        past(text, at, b"\n")
    } else if begins(text, at, b"/*") {
        past(text, at, b"*/")
    } else if begins(text, at, b"<!--") {
        past(text, at, b"-->")
    } else if begins(text, at, b"import ") {
        past(text, at, b";")
    } else if begins(text, at, b"export ") {
        past(text, at, b" ")
    } else {
        at
    }
}

/// Returns where the next `end` ends, from `at` on. A text without it is not compiled.
const fn past(text: &[u8], mut at: usize, end: &[u8]) -> usize {
    while !begins(text, at, end) {
        if at == text.len() {
            panic!("a comment or an import without an end");
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
