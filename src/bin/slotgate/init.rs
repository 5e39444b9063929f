//! `slotgate init`: an Envoy configuration from a short file, or from answers.

mod clusters;
mod fields;
mod filter;
pub mod marked;
mod plan;
mod pools;
mod reader;
pub mod rules;
mod text;
mod wizard;
mod write;

use crate::problem::{Exit, Problem};
use crate::show::Lines;
use crate::words::count;
use crate::{Answer, check, read};
use plan::Plan;
use serde::Deserialize;
use serde_json::{Value, json};
use slotgate::config::parse_struct;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The file that the answers are written to.
const ANSWERS: &str = "pools.yaml";

/// The arguments of `slotgate init`.
#[derive(Debug)]
pub struct Asked {
    /// `pools.yaml`, or `-`; `None`: ask.
    pub file: Option<String>,
    pub output: Option<String>,
    pub fragment: bool,
    pub check: bool,
    pub force: bool,
}

pub fn run(asked: &Asked) -> Result<Answer, Problem> {
    let usual = match asked.fragment {
        true => "fragment.yaml",
        false => "envoy.yaml",
    };
    let output = asked.output.as_deref().unwrap_or(usual);
    if asked.check && output == "-" {
        return Err(Problem::usage(
            "--check compares a file: --output - is none",
        ));
    }
    let (name, text) = match &asked.file {
        Some(file) if file == "-" => (ANSWERS.to_owned(), read(file)?),
        Some(file) => (base_name(file), read(file)?),
        None if asked.check => return Err(Problem::usage("--check needs pools.yaml")),
        None => {
            if !asked.force {
                free(ANSWERS)?;
                free(output)?;
            }
            let wizard = wizard::Wizard {
                answers: std::io::stdin().lock(),
                questions: std::io::stderr(),
            };
            (ANSWERS.to_owned(), wizard.ask(asked.fragment)?)
        }
    };
    let shown = asked.file.as_deref().unwrap_or(ANSWERS);
    let plan = reader::plan(&text, asked.fragment).map_err(|mistakes| {
        let what = format!(
            "{shown} has {}; nothing was written",
            count(mistakes.len() as u64, "error")
        );
        let listed = mistakes.iter().map(|mistake| {
            let plan::Mistake { place, path, problem } = mistake;
            let text = format!("{shown}:{mistake}");
            json!({"line": place.line, "column": place.column, "path": path, "problem": problem, "text": text})
        });
        Problem::new(Exit::Wrong, "pools", what).with(listed.collect())
    })?;
    let written = write::text(&plan, &name, asked.fragment);
    let refused = refused(output, &written)?;
    if !refused.is_empty() {
        let what = format!("what {shown} makes is refused; nothing was written");
        return Err(Problem::new(Exit::Wrong, "pools", what).with(refused));
    }
    if asked.check {
        return compare(output, shown, &written);
    }
    if asked.file.is_none() {
        put(ANSWERS, &text, asked.force)?;
    }
    if output == "-" {
        let mut lines = Lines::default();
        written.lines().for_each(|line| lines.line(line));
        return Ok(Answer {
            text: lines,
            json: json!(null),
            exit: Exit::Done,
        });
    }
    put(output, &written, asked.force)?;
    Ok(done(&plan, asked, output))
}

/// The errors that the filter's own parser and `slotgate check` find in the configuration that was written.
fn refused(output: &str, written: &str) -> Result<Vec<Value>, Problem> {
    let mut errors = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(written) {
        match Value::deserialize(document) {
            Ok(document) => configurations(&document, &mut errors),
            Err(error) => errors.push(json!({"text": error.to_string()})),
        }
    }
    if errors.is_empty() {
        let file = (output.to_owned(), written.to_owned());
        let options = check::Options {
            require_env: false,
            strict: false,
        };
        let found = check::run(&[file], options, None)?;
        if found.exit != Exit::Done {
            errors.push(json!({"text": format!("slotgate check {output}"), "found": found.json}));
        }
    }
    Ok(errors)
}

/// The errors of all configurations of slotgate in a document.
fn configurations(value: &Value, errors: &mut Vec<Value>) {
    match value {
        Value::Object(map) if map.contains_key("role") => {
            // Stands in for what only Envoy's environment knows.
            let env = |_: &str| Some("unknown-before-it-runs".to_owned());
            if let Err(found) = parse_struct(value, &env) {
                errors.extend(
                    found
                        .0
                        .iter()
                        .map(|error| json!({"text": error.to_string()})),
                );
            }
        }
        Value::Object(map) => map.values().for_each(|value| configurations(value, errors)),
        Value::Array(values) => values
            .iter()
            .for_each(|value| configurations(value, errors)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn done(plan: &Plan, asked: &Asked, output: &str) -> Answer {
    let mut lines = Lines::default();
    if asked.file.is_none() {
        lines.line(&format!(
            "{ANSWERS}: written; change it and run `slotgate init {ANSWERS} --force`"
        ));
    }
    lines.line(&format!("{output}: written, layout {}", plan.layout.name()));
    let variables = write::variables(plan);
    if !variables.is_empty() {
        lines.line(&format!(
            "  Envoy's environment must hold: {}",
            variables.join(", ")
        ));
    }
    match asked.fragment {
        true => lines.line("  next: merge it into your configuration, then `slotgate check` that"),
        false => lines.line(&format!("  next: envoy -c {output}")),
    }
    Answer {
        text: lines,
        json: json!({"file": output, "layout": plan.layout.name(), "fragment": asked.fragment, "variables": variables}),
        exit: Exit::Done,
    }
}

/// Whether the file is what would be written.
fn compare(output: &str, source: &str, expected: &str) -> Result<Answer, Problem> {
    let there = read(output)?;
    let same = there == expected;
    let mut lines = Lines::default();
    let mut line = None;
    if same {
        lines.line(&format!("{output}: as {source} says"));
    } else {
        let equal = there
            .lines()
            .zip(expected.lines())
            .take_while(|(a, b)| a == b);
        let at = equal.count();
        line = Some(at.saturating_add(1));
        lines.line(&format!(
            "{output}:{}: differs from what {source} gives",
            at.saturating_add(1)
        ));
        let side = |text: &str| {
            text.lines()
                .nth(at)
                .unwrap_or("(the end)")
                .trim_start()
                .to_owned()
        };
        lines.line(&format!("  there:    {}", side(&there)));
        lines.line(&format!("  expected: {}", side(expected)));
    }
    Ok(Answer {
        text: lines,
        json: json!({"file": output, "same": same, "line": line}),
        exit: if same { Exit::Done } else { Exit::Wrong },
    })
}

/// The last part of a path: where the file lies is not part of what is written.
fn base_name(file: &str) -> String {
    let name = Path::new(file).file_name().and_then(|name| name.to_str());
    let safe = |name: &&str| {
        name.chars()
            .all(|char| char.is_ascii_alphanumeric() || "._-".contains(char))
    };
    name.filter(safe).unwrap_or(ANSWERS).to_owned()
}

fn exists(file: &str) -> Problem {
    Problem::new(
        Exit::Usage,
        "exists",
        format!("{file} is there already; nothing was written"),
    )
    .hint("--output with another name, or --force")
}

/// An error if the file is there.
fn free(file: &str) -> Result<(), Problem> {
    match file != "-" && std::fs::symlink_metadata(file).is_ok() {
        true => Err(exists(file)),
        false => Ok(()),
    }
}

fn put(file: &str, text: &str, force: bool) -> Result<(), Problem> {
    let opened = match force {
        true => OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(file),
        false => OpenOptions::new().write(true).create_new(true).open(file),
    };
    let written = opened.and_then(|mut open| {
        let written = open.write_all(text.as_bytes());
        if written.is_err() && !force {
            // Half of it would be in the way of the next try.
            let _ = std::fs::remove_file(file);
        }
        written
    });
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(file),
        _ => Problem::new(
            Exit::Usage,
            "file",
            format!("{file} can't be written: {error}"),
        ),
    })
}
