//! Whether the ledger's tests notice: each guard (the condition of an `if`, `elseif`, `while` or `until`) of each script is
//! inverted, then taken out, and the tests must fail. `make mutate`; some minutes. Arguments choose scripts,
//! in this order: `acquire.lua release.lua`.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

/// Longer than this, and a mutant counts as noticed: it made a script run for ever. A part of the tests takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for all tests together, without a mutant.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(900);

/// The tests that must notice, the quick ones first. Before them come those that have the file's name in theirs.
const PARTS: [&str; 4] = ["contract::", "model::", "garbage::", "whole::"];
/// And of what acquires are made of.
const PARTS_OF_ACQUIRES: [&str; 2] = ["sessions::", "choice::"];

struct Mutant {
    file: String,
    line: usize,
    what: String,
    source: String,
}

/// The condition of every `if … then`, `elseif … then`, `while … do` and `until …`, as byte ranges.
fn guards(source: &str) -> Vec<std::ops::Range<usize>> {
    let code: String = source
        .split_inclusive('\n')
        .map(|line| match line.find("--") {
            // Comments keep their length, so that places stay what they are.
            Some(at) => format!("{}{}\n", &line[..at], " ".repeat(line.len() - at - 1)),
            None => line.into(),
        })
        .collect();
    let mut found = Vec::new();
    for (begin, end) in [("if ", " then"), ("while ", " do\n"), ("until ", "\n")] {
        for (at, _) in code.match_indices(begin) {
            let before = &code[..at];
            let word = before.ends_with("else")
                || before.ends_with(char::is_whitespace)
                || before.is_empty();
            if let (true, Some(length)) = (word, code[at..].find(end)) {
                found.push(at + begin.len()..at + length);
            }
        }
    }
    found
}

fn mutants(folder: &Path, chosen: &[String]) -> Vec<Mutant> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort_by_key(|path| {
        let same = |name: &String| path.ends_with(name);
        (chosen.iter().position(same), path.clone())
    });
    let mut all = Vec::new();
    for path in files {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        if !chosen.is_empty() && !chosen.contains(&file) {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for guard in guards(&source) {
            let condition = &source[guard.clone()];
            let line = source[..guard.start].lines().count();
            for (what, instead) in [
                ("inverted", format!("not ({condition})")),
                ("taken out", "false".into()),
            ] {
                let mut mutated = source.clone();
                mutated.replace_range(guard.clone(), &instead);
                let condition = condition.split_whitespace().collect::<Vec<_>>().join(" ");
                all.push(Mutant {
                    file: file.clone(),
                    line,
                    what: format!("{condition}: {what}"),
                    source: mutated,
                });
            }
        }
    }
    all
}

/// Whether these tests pass with the scripts of `folder`.
fn pass(tests: &Path, folder: &Path, filter: &str, patience: Duration) -> bool {
    let mut child = Command::new(tests)
        .args([filter, "--test-threads=2"])
        .env("LUA", folder)
        .env("MODEL_SEQUENCES", "60")
        .env("MODEL_SEED", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the tests start");
    let (failed, first) = mpsc::channel();
    let said = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in said.lines().map_while(Result::ok) {
            if line.ends_with("... FAILED") {
                failed.send(()).ok();
            }
        }
    });
    let began = Instant::now();
    let passed = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.success();
        }
        // The others need not end. What they started ends with them.
        if first.recv_timeout(Duration::from_millis(20)).is_ok() || began.elapsed() > patience {
            child.kill().unwrap();
            child.wait().unwrap();
            break false;
        }
    };
    reader.join().unwrap();
    passed
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["test", "--test", "ledger", "--no-run"])
        .current_dir(root)
        .output()
        .expect("cargo");
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    let tests = said
        .split("(")
        .last()
        .and_then(|rest| rest.split(')').next())
        .expect("the tests' path");
    // A copy of its own: a build meanwhile would take it away.
    let copy = std::env::temp_dir().join(format!("slotgate-ledger-tests-{}", std::process::id()));
    std::fs::copy(root.join(tests), &copy).expect("the tests' program");
    let tests = copy;
    let lua = root.join("lua");
    assert!(
        pass(&tests, &lua, "", PATIENCE_FOR_ALL),
        "the tests fail without any mutant"
    );
    let all = mutants(&lua, &chosen);
    let next = Mutex::new(all.iter());
    let survivors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in 0..2 {
            let (next, survivors, tests, lua) = (&next, &survivors, &tests, &lua);
            scope.spawn(move || {
                let folder = std::env::temp_dir()
                    .join(format!("slotgate-mutant-{}-{lane}", std::process::id()));
                std::fs::create_dir_all(&folder).unwrap();
                loop {
                    let Some(mutant) = next.lock().unwrap().next() else {
                        break;
                    };
                    for entry in std::fs::read_dir(lua).unwrap() {
                        let path = entry.unwrap().path();
                        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
                    }
                    std::fs::write(folder.join(&mutant.file), &mutant.source).unwrap();
                    let own = mutant.file.trim_end_matches(".lua");
                    let acquires = ["acquire", "ledger", "queue"].contains(&own);
                    let more = if acquires {
                        &PARTS_OF_ACQUIRES[..]
                    } else {
                        &[]
                    };
                    let mut parts = [&[own], &PARTS[..], more].concat().into_iter();
                    let lived = parts.all(|part| pass(tests, &folder, part, PATIENCE));
                    let verdict = if lived { "SURVIVED" } else { "noticed" };
                    println!(
                        "{verdict:8} {}:{} {}",
                        mutant.file, mutant.line, mutant.what
                    );
                    if lived {
                        survivors
                            .lock()
                            .unwrap()
                            .push(format!("{}:{} {}", mutant.file, mutant.line, mutant.what));
                    }
                }
                std::fs::remove_dir_all(&folder).unwrap();
            });
        }
    });
    std::fs::remove_file(&tests).unwrap();
    let survivors = survivors.into_inner().unwrap();
    let share = 100.0 * (all.len() - survivors.len()) as f64 / all.len().max(1) as f64;
    println!("{} mutants, {share:.1} % noticed", all.len());
    for survivor in &survivors {
        println!("survived: {survivor}");
    }
    std::process::exit(i32::from(!survivors.is_empty()));
}
