//! Make targets, and the commands and options of the command line.

use super::{Names, all_shown, documents, none, read};
use std::collections::BTreeMap;
use std::process::Command;

/// Name and what `make help` says of it.
fn targets() -> BTreeMap<String, String> {
    let makefile = read("Makefile");
    let rules = makefile
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| name.starts_with(char::is_alphabetic));
    let helped = rules
        .filter_map(|(name, rest)| Some((name.to_owned(), rest.split_once("## ")?.1.to_owned())));
    helped.collect()
}

#[test]
fn make_targets() {
    let targets = targets();
    let (mut found, mut shown) = (vec![], Names::new());
    for document in documents() {
        for (number, line) in document.commands() {
            let Some(rest) = line.strip_prefix("make ") else {
                continue;
            };
            let (name, said) = rest.split_once(' ').unwrap_or((rest, ""));
            shown.insert(name.to_owned());
            let at = document.at(number);
            let Some(help) = targets.get(name) else {
                found.push(format!("{at}: make {name}: there is no such target"));
                continue;
            };
            // Of the output of `make help`, perhaps cut short, every line begins with `make` and has spaces to align it.
            let is_help = document.name.ends_with("development.md") && rest.contains("  ");

            let said = said.trim();
            let cut = said.strip_suffix('…').map(str::trim_end);
            if is_help && said != help && !cut.is_some_and(|cut| help.starts_with(cut)) {
                found.push(format!("{at}: make {name}: make help says: {help}"));
            }
        }
    }
    none(&found);
    all_shown("make", &targets.into_keys().collect(), &shown);
}

/// A command, its subcommands and its options, as its help tells them.
#[derive(Default)]
struct Help {
    options: Names,
    below: BTreeMap<String, Help>,
}

fn help(path: &[&str]) -> Help {
    let out = Command::new(env!("CARGO_BIN_EXE_slotgate"))
        .args(path)
        .arg("--help")
        .output()
        .unwrap();
    assert!(out.status.success(), "slotgate {path:?} --help");
    let (mut help, mut of_commands) = (Help::default(), false);
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        if !line.starts_with(' ') {
            of_commands = line == "Commands:";
        }
        let word = line.split_whitespace().next().unwrap_or_default();
        if of_commands && line.starts_with("  ") && !line.starts_with("   ") && word != "help" {
            help.below
                .insert(word.to_owned(), self::help(&[path, &[word]].concat()));
        }
        let option = line.trim_start();
        if !of_commands && option.starts_with('-') {
            let words = option
                .split([' ', ',', '['])
                .filter(|word| word.starts_with("--"));
            help.options.extend(words.map(str::to_owned));
        }
    }
    help
}

impl Help {
    /// What is wrong with a command's words; adds the whole command to `shown` when it is one.
    fn check(&self, words: &[&str], shown: &mut Names) -> Result<&Self, String> {
        let (mut here, mut path) = (self, String::new());
        for word in words {
            if let Some(below) = here.below.get(*word) {
                here = below;
                path = format!("{path} {word}");
            } else if !word.starts_with('-') && !here.below.is_empty() {
                return Err(format!("slotgate{path} has no command {word}"));
            }
        }
        if here.below.is_empty() {
            shown.insert(path.trim().to_owned());
        }
        let mut options = words.iter().filter(|word| word.starts_with("--"));
        match options.find(|option| !here.options.contains(**option)) {
            Some(option) => Err(format!("slotgate{path} has no option {option}")),
            None => Ok(here),
        }
    }

    fn all(&self, path: &str, commands: &mut Names, options: &mut Names) {
        let own = self
            .options
            .iter()
            .filter(|option| !["--help", "--version"].contains(&option.as_str()));
        options.extend(own.cloned());
        if self.below.is_empty() {
            commands.insert(path.trim().to_owned());
        }
        for (name, below) in &self.below {
            below.all(&format!("{path} {name}"), commands, options);
        }
    }
}

/// Options of other programs.
const FOREIGN: [&str; 4] = [
    "--component-log-level",
    "--drain-time-s",
    "--mode",
    "--update",
];

#[test]
fn commands_and_options() {
    let help = help(&[]);
    let (mut commands, mut options) = Default::default();
    help.all("", &mut commands, &mut options);
    let (mut found, mut shown, mut shown_options) = (vec![], Names::new(), Names::new());
    for document in documents() {
        // The commands of a row or line so far: options that follow are theirs.
        let (mut row, mut of_row): (usize, Vec<&Help>) = (0, vec![]);
        for (number, line) in document.commands() {
            if row != number {
                (row, of_row) = (number, vec![]);
            }
            let words: Vec<&str> = line
                .split_whitespace()
                .take_while(|word| !["|", "#", ">", "&&", ";"].contains(word))
                .collect();
            let known = match words[..] {
                ["slotgate", "…", ..] => continue,
                ["slotgate", ref words @ ..] => {
                    help.check(words, &mut shown).map(|help| of_row.push(help))
                }
                [option, ..] if option.starts_with("--") && !FOREIGN.contains(&option) => {
                    let is_of = |help: &&&Help| help.options.contains(option);
                    let in_table = document
                        .prose
                        .iter()
                        .any(|(n, line)| *n == number && line.starts_with('|'));
                    let known = match in_table && !of_row.is_empty() {
                        true => of_row.iter().any(|help| is_of(&help)),
                        false => options.contains(option),
                    };
                    known
                        .then_some(())
                        .ok_or(format!("no option {option} here"))
                }
                _ => continue,
            };
            shown_options.extend(
                words
                    .iter()
                    .filter(|word| word.starts_with("--"))
                    .map(|word| (*word).to_owned()),
            );
            if let Err(why) = known {
                found.push(format!("{}: {line}: {why}", document.at(number)));
            }
        }
    }
    none(&found);
    all_shown("slotgate", &commands, &shown);
    all_shown("option", &options, &shown_options);
}
