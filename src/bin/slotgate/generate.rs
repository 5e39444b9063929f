//! Shell completions and manual pages, written from the same definition as the help, so that they can't differ from it.
//!
//! The folder is laid out as a prefix such as `/usr/local` is, so that installing them is copying it.

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::show::Lines;
use clap::Command;
use clap_complete::{Generator, Shell};
use std::path::{Path, PathBuf};

/// Where each shell looks for the completions of a program, below a prefix.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/slotgate"),
    (Shell::Zsh, "share/zsh/site-functions/_slotgate"),
    (Shell::Fish, "share/fish/vendor_completions.d/slotgate.fish"),
];

/// Where `man` looks for commands, below a prefix.
const MANUAL: &str = "share/man/man1";

/// Writes all of them below `folder`, and says which files these are.
pub fn run(command: Command, folder: &Path) -> Result<Answer, Problem> {
    let mut command = without_hidden(command);
    let mut files = Vec::new();
    command.build();
    for (shell, name) in SHELLS {
        let mut text = Vec::new();
        shell
            .try_generate(&command, &mut text)
            .map_err(|error| unwritten(&folder.join(name), &error))?;
        files.push((folder.join(name), text));
    }
    pages(&command, &folder.join(MANUAL), &mut files)?;
    let mut lines = Lines::default();
    for (path, text) in &files {
        write(path, text)?;
        lines.line(&path.display().to_string());
    }
    Ok(Answer {
        text: lines,
        json: serde_json::Value::Null,
        exit: Exit::Done,
    })
}

/// A copy without what the help doesn't show either: clap's generator for zsh would list it.
fn without_hidden(command: Command) -> Command {
    let shown: Vec<Command> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .cloned()
        .collect();
    let mut copy = Command::new("slotgate")
        .bin_name("slotgate")
        .version(slotgate::VERSION)
        .arg_required_else_help(true)
        .args(command.get_arguments())
        .subcommands(shown);
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    if let Some(after) = command.get_after_help() {
        copy = copy.after_help(after.clone());
    }
    copy
}

/// One page for the program and one for each of its commands, those below them too.
fn pages(
    command: &Command,
    folder: &Path,
    files: &mut Vec<(PathBuf, Vec<u8>)>,
) -> Result<(), Problem> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let path = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .source(format!("slotgate {}", slotgate::VERSION))
        .manual("slotgate")
        .render(&mut text)
        .map_err(|error| unwritten(&path, &error))?;
    files.push((path, text));
    let shown = command
        .get_subcommands()
        .filter(|below| below.get_name() != "help");
    for below in shown {
        pages(below, folder, files)?;
    }
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> Result<(), Problem> {
    path.parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| unwritten(path, &error))
}

fn unwritten(path: &Path, error: &std::io::Error) -> Problem {
    let message = format!("{} can't be written: {error}", path.display());
    Problem::new(Exit::Usage, "output", message)
}
