//! The documents beside the code. Links lead somewhere; commands, settings, metrics, alerts and files that are shown exist;
//! and each of the former that exists is shown somewhere.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod commands;
mod links;
mod metrics;
mod settings;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

type Names = BTreeSet<String>;

/// One Markdown file.
struct Document {
    /// From the repository's root.
    name: PathBuf,
    /// Lines outside of code blocks, with their number.
    prose: Vec<(usize, String)>,
    /// Lines of code blocks.
    code: Vec<(usize, String)>,
    /// Code blocks in YAML.
    yaml: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: impl AsRef<Path>) -> String {
    let name = name.as_ref();
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{}: {e}", name.display()))
}

/// Files below a folder, from the repository's root; not what is built, fetched or left by a run.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root()).unwrap().to_owned();
        if ["target", ".venv", ".git", ".run"]
            .iter()
            .any(|not| name.ends_with(not))
        {
            continue;
        }
        if path.is_dir() {
            found.extend(files(name.to_str().unwrap()));
        } else {
            found.push(name);
        }
    }
    found
}

/// The text of all files below some folders that are text.
fn texts(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let files = folders.iter().flat_map(|folder| files(folder));
    files
        .filter_map(|name| {
            Some((
                name.clone(),
                std::fs::read_to_string(root().join(name)).ok()?,
            ))
        })
        .collect()
}

fn documents() -> Vec<Document> {
    let names = files("")
        .into_iter()
        .filter(|name| name.extension().is_some_and(|e| e == "md"));
    let documents: Vec<_> = names.map(Document::read).collect();
    assert!(documents.len() > 10, "only {}", documents.len());
    documents
}

impl Document {
    fn read(name: PathBuf) -> Self {
        let text = read(&name);
        let (mut prose, mut code, mut yaml) = (vec![], vec![], vec![]);
        let mut block: Option<(bool, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let line = (number + 1, line.to_owned());
            match (line.1.strip_prefix("```"), block.take()) {
                (Some(language), None) => block = Some((language == "yaml", String::new())),
                (Some(_), Some((true, text))) => yaml.push(text),
                (Some(_), Some((false, _))) => {}
                (None, Some((is_yaml, text))) => {
                    block = Some((is_yaml, text + &line.1 + "\n"));
                    code.push(line);
                }
                (None, None) => {
                    let even = line.1.matches('`').count() % 2 == 0;
                    assert!(even, "{}:{}: a span goes on", name.display(), line.0);
                    prose.push(line);
                }
            }
        }
        assert!(block.is_none(), "{}: a block has no end", name.display());
        Self {
            name,
            prose,
            code,
            yaml,
        }
    }

    /// What stands between backticks outside of blocks.
    fn spans(&self) -> impl Iterator<Item = (usize, &str)> {
        self.prose.iter().flat_map(|(number, line)| {
            line.split('`')
                .skip(1)
                .step_by(2)
                .map(|span| (*number, span))
        })
    }

    /// All that could be typed: spans, and lines of blocks without a prompt.
    fn commands(&self) -> impl Iterator<Item = (usize, &str)> {
        let code = self
            .code
            .iter()
            .map(|(number, line)| (*number, line.strip_prefix("$ ").unwrap_or(line)));
        self.spans().chain(code)
    }

    fn at(&self, number: usize) -> String {
        format!("{}:{number}", self.name.display())
    }
}

/// Fails with all that was found.
#[track_caller]
fn none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Those of `code` that are in no document.
#[track_caller]
fn all_shown(kind: &str, code: &Names, shown: &Names) {
    assert!(code.len() > 3, "{kind}: only {code:?} found in the code");
    let missing = code.difference(shown);
    none(
        &missing
            .map(|name| format!("{kind} {name} is in no document"))
            .collect::<Vec<_>>(),
    );
}
