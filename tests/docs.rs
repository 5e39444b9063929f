//! The documents beside the code. Links lead somewhere; commands, settings, metrics, alerts and files that are shown exist;
//! and each of the former that exists is shown somewhere.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

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

// --- links

/// As GitHub makes them.
fn anchors(document: &Document) -> Names {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = document.prose.iter().filter_map(|(_, line)| {
        let title = line.trim_start_matches('#');
        (line.len() != title.len()).then_some(title.strip_prefix(' ')?)
    });
    let slug = |title: &str| -> String {
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.flat_map(char::to_lowercase)
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings
        .map(|title| {
            let slug = slug(title.trim());
            let times = seen.entry(slug.clone()).or_default();
            *times += 1;
            if *times == 1 {
                slug
            } else {
                format!("{slug}-{}", *times - 1)
            }
        })
        .collect()
}

/// `a/b/../c` is `a/c`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                assert!(plain.pop(), "{} leaves the repository", path.display())
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Why a link leads nowhere.
fn dead(
    anchors: &BTreeMap<PathBuf, Names>,
    path: &Path,
    anchor: Option<&str>,
) -> Option<&'static str> {
    let path = plain(path);
    if !root().join(&path).exists() {
        return Some("there is no such file");
    }
    let known = |anchor| {
        anchors
            .get(&path)
            .is_some_and(|known| known.contains(anchor))
    };
    (!anchor.is_none_or(known)).then_some("there is no such heading")
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    let anchors = documents
        .iter()
        .map(|d| (d.name.clone(), anchors(d)))
        .collect();
    let mut found = vec![];
    let mut seen = 0;
    for document in &documents {
        for (number, line) in &document.prose {
            for link in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                if link.contains("://") {
                    continue;
                }
                seen += 1;
                let (file, anchor) = link
                    .split_once('#')
                    .map_or((link, None), |(f, a)| (f, Some(a)));
                let here = &document.name;
                let path = if file.is_empty() {
                    here.clone()
                } else {
                    here.parent().unwrap().join(file)
                };
                if let Some(why) = dead(&anchors, &path, anchor) {
                    found.push(format!("{}: {link}: {why}", document.at(*number)));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} links");
    // And what the rest of the repository says of the documents: `docs/x.md#y`.
    for (name, text) in texts(&["src", "lua", "tests", "envoy", "scripts"]) {
        if name.ends_with("docs.rs") {
            continue;
        }
        for rest in text.split("docs/").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"/._-#".contains(c));
            let link = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
            let (file, anchor) = link
                .split_once('#')
                .map_or((link, None), |(f, a)| (f, Some(a)));
            if file.ends_with(".md")
                && let Some(why) = dead(&anchors, &Path::new("docs").join(file), anchor)
            {
                found.push(format!("{}: docs/{link}: {why}", name.display()));
            }
        }
    }
    none(&found);
}

/// What is shown in Chinese is what is shown in English, but for comments; and what is promised is as much.
#[test]
fn the_chinese_readme_shows_the_same() {
    let [english, chinese] =
        ["README.md", "README.zh-CN.md"].map(|name| Document::read(name.into()));
    let code = |document: &Document| -> Vec<String> {
        let lines = document.code.iter();
        let bare = lines.map(|(_, line)| match line.split_once(" # ") {
            Some((code, _)) => code.trim_end().to_owned(),
            None => line.clone(),
        });
        bare.collect()
    };
    assert_eq!(code(&chinese), code(&english));
    let sections = |document: &Document| -> Vec<usize> {
        let mut items = vec![];
        for (_, line) in &document.prose {
            if line.starts_with("## ") {
                items.push(0);
            } else if line.starts_with("- ") || line.starts_with("| ") {
                *items.last_mut().unwrap() += 1;
            }
        }
        // The table of documents is not in it.
        items.pop();
        items
    };
    assert_eq!(sections(&chinese), sections(&english));
    // Names in backticks are not translated.
    let names = |document: &Document| -> Names {
        document.spans().map(|(_, span)| span.to_owned()).collect()
    };
    let (chinese, english) = (names(&chinese), names(&english));
    let unknown = chinese.difference(&english);
    none(
        &unknown
            .map(|name| format!("`{name}` is not in README.md"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn files_that_are_named_exist() {
    let mut found = vec![];
    for document in documents() {
        // What a change was called when it was made may have gone since.
        if document.name == Path::new("CHANGELOG.md") {
            continue;
        }
        for (number, span) in document.spans() {
            let first = span.split('/').next().unwrap_or_default();
            let path = span
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            let ours = ["src", "lua", "tests", "scripts", "envoy", "docs", ".ci"].contains(&first);
            if path && ours && !span.contains("NAME") && !root().join(span).exists() {
                found.push(format!(
                    "{}: {span}: there is no such file",
                    document.at(number)
                ));
            }
        }
    }
    none(&found);
}

// --- make

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

// --- the command line

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

// --- settings

/// A scheduler's or a console's configuration with one value put at a path: `a.b[].c`.
fn document(role: &str, path: &str, value: Value) -> Value {
    let mut value = value;
    for part in path.rsplit('.').filter(|part| !part.is_empty()) {
        let name = part.trim_end_matches("[]");
        value = if name == part { value } else { json!([value]) };
        value = json!({ name: value });
    }
    let mut all = match role {
        "console" => json!({"pools": ["p"]}),
        _ => json!({"pools": [{"name": "p", "accounts": [{"id": "a", "max_concurrency": 1}]}]}),
    };
    all.as_object_mut()
        .unwrap()
        .extend(value.as_object().unwrap().clone());
    all["role"] = json!(role);
    all
}

fn errors(document: &Value) -> Vec<String> {
    let result = slotgate::config::parse_struct(document, &|_| Some("x".repeat(20)));
    let errors = result.err().map(|errors| errors.0).unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

/// Which of some words are fields of the object at a path; `None`: there is no object.
fn fields<'w>(role: &str, path: &str, words: &'w Names) -> Option<Vec<&'w str>> {
    const NO_FIELD: &str = "zzz_no_field";
    let all: Map<String, Value> = words
        .iter()
        .map(|word| (word.clone(), Value::Null))
        .chain([(NO_FIELD.into(), Value::Null)])
        .collect();
    let errors = errors(&document(role, path, Value::Object(all)));
    let at = if path.is_empty() {
        String::new()
    } else {
        format!("{}.", path.replace("[]", "[0]"))
    };
    let unknown = |word: &str| {
        errors
            .iter()
            .any(|error| error.starts_with(&format!("{at}{word}: unknown field")))
    };
    unknown(NO_FIELD).then(|| {
        words
            .iter()
            .map(String::as_str)
            .filter(|word| !unknown(word))
            .collect()
    })
}

/// Path → whether it is an object or a list of objects, with all below it; returns whether the path itself is one. Found by
/// asking the parser about every word of its source.
fn settings(role: &str, path: &str, words: &Names, found: &mut BTreeMap<String, bool>) -> bool {
    let fields = fields(role, path, words);
    for field in fields.iter().flatten() {
        let path = format!("{path}.{field}").trim_start_matches('.').to_owned();
        let object = settings(role, &path, words, found);
        let list = settings(role, &format!("{path}[]"), words, found);
        *found.entry(path).or_default() |= object || list;
    }
    fields.is_some()
}

fn words_of_the_parser() -> Names {
    let sources = texts(&["src"]);
    let own = sources
        .iter()
        .filter(|(name, _)| name.starts_with("src/config"));
    let words =
        own.flat_map(|(_, text)| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    words
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect()
}

/// As it stands in a document: `a[0].b: 5` is `a[].b`.
fn path_in(span: &str) -> String {
    let end = span.find([':', ' ', '=']).unwrap_or(span.len());
    span[..end]
        .chars()
        .filter(|c| !c.is_ascii_digit())
        .collect()
}

#[test]
fn settings_are_those_of_the_reference() {
    let words = words_of_the_parser();
    let mut known = BTreeMap::new();
    for role in ["scheduler", "console"] {
        settings(role, "", &words, &mut known);
    }
    assert!(known.len() > 50, "only {known:?}");
    let reference = Document::read("docs/configuration.md".into());
    // Rows of tables that begin with `| field |`: path → row.
    let (mut rows, mut in_table, mut found) = (BTreeMap::new(), false, vec![]);
    for (number, line) in &reference.prose {
        in_table = line.starts_with("| field |") || in_table && line.starts_with('|');
        let Some((path, rest)) = line
            .strip_prefix("| `")
            .filter(|_| in_table)
            .and_then(|row| row.split_once('`'))
        else {
            continue;
        };
        if !known.contains_key(path) {
            found.push(format!(
                "{}: {path}: there is no such setting",
                reference.at(*number)
            ));
        }
        rows.insert(path.to_owned(), rest.to_owned());
    }
    // A setting has its row, or the row of something around it names it.
    let shown = |path: &str| {
        rows.contains_key(path) || {
            let last = path.rsplit('.').next().unwrap();
            let mut around = path
                .match_indices('.')
                .map(|(at, _)| path[..at].trim_end_matches("[]"));
            around.any(|around| {
                rows.get(around)
                    .is_some_and(|row| row.contains(&format!("`{last}`")))
            })
        }
    };
    let values = known.iter().filter(|(_, holds_more)| !**holds_more);
    let missing = values.filter(|(path, _)| !shown(path.as_str()));
    found
        .extend(missing.map(|(path, _)| format!("setting {path} is not in docs/configuration.md")));
    // And wherever else one is named with its object.
    let plain: Names = known.keys().map(|path| path.replace("[]", "")).collect();
    for document in documents() {
        for (number, span) in document.spans() {
            let path = path_in(span);
            let object = path.split(['.', '[']).next().unwrap();
            let file = [".lua", ".rs", ".yaml"]
                .iter()
                .any(|end| path.ends_with(end));
            if path.contains('.')
                && known.get(object) == Some(&true)
                && !file
                && !plain.contains(&path.replace("[]", ""))
            {
                found.push(format!(
                    "{}: {span}: there is no such setting",
                    document.at(number)
                ));
            }
        }
    }
    none(&found);
}

/// Every object with a `role`.
fn plugins<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) if map.contains_key("role") => found.push(value),
        Value::Object(map) => map.values().for_each(|value| plugins(value, found)),
        Value::Array(list) => list.iter().for_each(|value| plugins(value, found)),
        _ => {}
    }
}

/// What `slotgate init` says of a file that it does not take.
fn init(pools: &str) -> Result<(), String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_slotgate"))
        .args(["init", "-", "--fragment", "--output", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(pools.as_bytes()).unwrap();
    drop(input);
    let out = child.wait_with_output().unwrap();
    match out.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

#[test]
fn fields_of_pools_yaml_are_shown() {
    let source = read("src/bin/slotgate/init/plan.rs");
    let source: Vec<&str> = source.split_whitespace().collect();
    let source = source.join(" ").replace("( ", "(");
    let asked = ["take(\"", "fields, \""]
        .iter()
        .flat_map(|before| source.split(before).skip(1));
    let names: Names = asked
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect();
    let deployment = Document::read("docs/deployment.md".into());
    let words = |text: &str| -> Names {
        let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        words.map(str::to_owned).collect()
    };
    let blocks = deployment.yaml.iter().map(String::as_str);
    let spans = deployment.spans().map(|(_, span)| span);
    let shown: Names = blocks.chain(spans).flat_map(words).collect();
    assert!(names.len() > 20, "{names:?}");
    all_shown("field", &names, &shown);
}

#[test]
fn configurations_that_are_shown_are_taken() {
    let mut seen = 0;
    for document in documents() {
        for text in &document.yaml {
            let value: Value = serde_yaml_ng::from_str(text)
                .unwrap_or_else(|e| panic!("{}: {e}:\n{text}", document.name.display()));
            let mut found = vec![];
            plugins(&value, &mut found);
            // A pools.yaml.
            let is_pools_file = text.contains("limit:");
            let pools = value.get("pools").filter(|_| value.get("role").is_none());
            let pools = pools.filter(|_| !is_pools_file);
            let pools = pools.map(|pools| self::document("scheduler", "pools", pools.clone()));
            if value.get("pools").is_some() && is_pools_file {
                seen += 1;
                init(text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", document.name.display()));
            }
            let part = value
                .get("cooldown")
                .map(|part| self::document("scheduler", "cooldown", part.clone()));
            found.extend(part.iter().chain(&pools));
            for plugin in found {
                seen += 1;
                assert_eq!(
                    errors(plugin),
                    [""; 0],
                    "{}: {plugin}",
                    document.name.display()
                );
            }
        }
    }
    assert!(seen >= 3, "only {seen}");
}

// --- metrics and alerts

/// Names of `slotgate_…` as Prometheus knows them. Those that `host::metrics` writes itself are read from its text, there with or
/// without what `account` puts before; `tests/e2e/metrics.rs` compares with what a real Envoy says.
fn metrics() -> (Names, Vec<[String; 2]>) {
    use slotgate::worker::{counters, output::Gauges};
    let gauges = Gauges::NAMES.map(|name| counters::name_of(&[name]));
    let all = counters::worker_names()
        .into_iter()
        .chain(counters::pool_names("p"))
        .chain(gauges);
    let name = |name: &str| name.split(';').next().unwrap().replace('.', "_");
    let host = texts(&["src/host"]).into_iter().flat_map(|(_, text)| {
        let kinds = text.split("Metric::").skip(1).filter_map(|rest| {
            let (kind, rest) = rest.split_once(", \"")?;
            kind.chars()
                .all(char::is_alphabetic)
                .then(|| rest.split('"').next().map(str::to_owned))?
        });
        kinds
            .map(|found| {
                ["slotgate_", "slotgate_account_"].map(|prefix| prefix.to_owned() + &name(&found))
            })
            .collect::<Vec<_>>()
    });
    (all.map(|found| name(&found)).collect(), host.collect())
}

#[test]
fn metrics_are_those_of_the_table() {
    let (own, of_host) = metrics();
    assert!(of_host.len() >= 6, "{of_host:?}");
    let shown: Names = documents()
        .iter()
        .flat_map(|document| {
            document
                .spans()
                .map(|(_, span)| span.to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let table: Names = read("docs/observability.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `slotgate_")?.split_once('`')?.0))
        .map(|name| format!("slotgate_{name}"))
        .collect();
    all_shown("metric", &own, &table);
    let hidden = of_host
        .iter()
        .filter(|names| !names.iter().any(|name| table.contains(name)));
    none(
        &hidden
            .map(|names| {
                format!(
                    "metric {} is not in docs/observability.md",
                    names.join(" or ")
                )
            })
            .collect::<Vec<_>>(),
    );
    // Other names of this form are clusters, error types and the like.
    let code: String = texts(&["src", "envoy"])
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let label = |name: &str| {
        own.iter()
            .any(|own| name.starts_with(&format!("{own}_outcome_")))
    };
    let exists = |name: &str| {
        own.contains(name) || label(name) || of_host.iter().flatten().any(|known| known == name)
    };
    let of_table = table.iter().filter(|name| !exists(name));
    let elsewhere = shown.iter().filter(|span| {
        let is_name = span.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_name && span.starts_with("slotgate_") && !exists(span) && !code.contains(span.as_str())
    });
    none(
        &of_table
            .chain(elsewhere)
            .map(|name| format!("{name}: there is no such metric, and nothing else of that name"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn alerts_are_those_of_the_runbook() {
    let alerts = read("envoy/alerts.yaml");
    let alerts: Names = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect();
    let operations = Document::read("docs/operations.md".into());
    let (mut found, mut shown) = (vec![], Names::new());
    for document in documents().iter().chain([&operations]) {
        for (number, span) in document.spans() {
            if span.starts_with("Slotgate") && span.chars().all(char::is_alphanumeric) {
                if !alerts.contains(span) {
                    found.push(format!(
                        "{}: {span}: there is no such alert",
                        document.at(number)
                    ));
                }
                if document.name == operations.name {
                    shown.insert(span.to_owned());
                }
            }
        }
    }
    none(&found);
    all_shown("alert", &alerts, &shown);
}
