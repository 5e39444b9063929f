//! Everything in the library outside `src/host/` is pure: no host call, no clock, no randomness of its own, no input or
//! output.
//! It looks at formatted text, line by line: `cargo fmt --check` runs first.

// A panic here is a red test, no more.
#![allow(clippy::arithmetic_side_effects, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What pure code does not mention.
const IMPURE: &[&str] = &[
    "proxy_wasm",
    "std::time",
    "Instant",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::thread",
    "Rng::new",
    "Rng::default",
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
    "dbg!",
    "unsafe",
];

/// Modules of std that could hide in a group: `use std::{fmt, time::Duration}`.
const IMPURE_STD: &[&str] = &["time", "env", "fs", "net", "thread"];

/// All that pure code may use of fastrand: the type, and a generator from a seed that came in as an argument.
const PURE_FASTRAND: &[&str] = &["fastrand::Rng", "fastrand::Rng::with_seed"];

#[test]
fn everything_outside_src_host_is_pure() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    let mut found = Vec::new();
    let mut pure = 0;
    for file in files {
        let name = file.strip_prefix(&src).unwrap();
        // The command line is a program of its own: it reads files, and asks Redis.
        if name.starts_with("host") || name.starts_with("bin") {
            continue;
        }
        pure += 1;
        for (line, what) in impure(&fs::read_to_string(&file).unwrap()) {
            found.push(format!("src/{}:{line}: {what}", name.display()));
        }
    }
    assert!(pure > 1, "no source found");
    let found = found.join("\n");
    assert!(
        found.is_empty(),
        "belongs in src/host, or comes in as an argument:\n{found}"
    );
}

#[test]
fn what_is_impure_is_found() {
    for code in [
        "use proxy_wasm::types::Action;",
        "use std::time;",
        "let now = Instant::now();",
        "fn at(t: SystemTime) {}",
        "use std::{fmt, time::Duration};",
        "use std::{\n    fmt,\n    thread,\n};",
        "let home = std::env::var(\"HOME\");",
        "let url = \"http://x\"; dbg!(url);",
        "    println!(\"{x}\"); // why",
        "fastrand::u64(..)",
        "fastrand::Rng::new()",
        "Rng::new()",
        "use fastrand::{Rng, u64};",
        "unsafe { f() }",
        "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n\nfn g() {\n    dbg!(1)\n}",
        "#[cfg(test)]\nuse x;\ndbg!(1)",
    ] {
        assert!(!impure(code).is_empty(), "not found: {code}");
    }
    assert_eq!(impure("\n\nuse std::fs;"), [(3, "std::fs".to_owned())]);
}

#[test]
fn what_is_pure_is_left_alone() {
    for code in [
        "//! No proxy_wasm here.\n/// Not even std::time.\nfn f() {}",
        "let x = 1; // unlike println!",
        "struct Instantly;\nfn time_ms() {}",
        "use std::{fmt, mem};\nfn time() {}",
        "use core::time::Duration;",
        "use fastrand::Rng;\nlet mut rng = Rng::with_seed(seed);",
        "fn pick(rng: &mut fastrand::Rng) -> u64 {",
        "let rng = fastrand::Rng::with_seed(seed);",
        "#![deny(unsafe_op_in_unsafe_fn)]",
        "fn f() {}\n\n#[cfg(test)]\n#[allow(clippy::x)]\nmod tests {\n    fn f() {\n        println!();\n    }\n}\n",
    ] {
        assert_eq!(impure(code), [], "in: {code}");
    }
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Line number and name of each impure thing.
fn impure(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_std_group = false;
    for (number, line) in code(source) {
        found.extend(
            IMPURE
                .iter()
                .filter(|word| mentions(line, word))
                .map(|word| (number, (*word).to_owned())),
        );
        for (start, _) in line.match_indices("fastrand::") {
            let rest = &line[start..];
            let path = &rest[..rest.find(|c| !in_path(c)).unwrap_or(rest.len())];
            if !PURE_FASTRAND.contains(&path) {
                found.push((number, path.to_owned()));
            }
        }
        let group = if in_std_group {
            Some(line)
        } else {
            line.split_once("std::{").map(|(_, group)| group)
        };
        if let Some(group) = group {
            found.extend(
                IMPURE_STD
                    .iter()
                    .filter(|word| mentions(group, word))
                    .map(|m| (number, format!("std::{m}"))),
            );
            in_std_group = !group.contains(';');
        }
    }
    found
}

/// The lines, with their numbers, that are neither comments nor in a `#[cfg(test)]` module.
fn code(source: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = source.lines().zip(1..).peekable();
    while let Some((line, number)) = lines.next() {
        if line == "#[cfg(test)]" {
            while lines.next_if(|(next, _)| next.starts_with("#[")).is_some() {}
            if lines
                .next_if(|(next, _)| next.starts_with("mod ") && next.ends_with('{'))
                .is_some()
            {
                lines.by_ref().find(|(next, _)| *next == "}");
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push((number, line.split(" // ").next().unwrap()));
        }
    }
    kept
}

/// Whether `word` stands in `line`, not as a part of a longer word.
fn mentions(line: &str, word: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(in_word) && !line[start + word.len()..].starts_with(in_word)
    })
}

fn in_path(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == ':'
}
