//! Links and names of files lead somewhere, and the Chinese README says the same.

use super::{Document, Names, all_shown, documents, none, root, texts};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

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
        // This very file has examples.
        if name.ends_with("docs/links.rs") {
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

/// Whoever looks for a suite or for a part of a worker finds it in docs/development.md.
#[test]
fn suites_and_parts_are_in_the_tables() {
    let development = Document::read("docs/development.md".into());
    let firsts: Names = development
        .prose
        .iter()
        .filter_map(|(_, line)| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned))
        .collect();
    let names = |folder: &str| -> Names {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let suites = paths.filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            let is_suite = path.join("main.rs").exists() || path.join("Cargo.toml").exists();
            match path.extension() {
                Some(kind) if kind == "rs" => Some(name),
                _ => is_suite.then(|| name + "/"),
            }
        });
        suites.collect()
    };
    let suites: Names = names("tests")
        .iter()
        .map(|name| format!("tests/{name}"))
        .collect();
    // It is tested with what it tests.
    let own: Names = ["tests/support_selftest.rs".to_owned()].into();
    all_shown(
        "suite",
        &suites.difference(&own).cloned().collect(),
        &firsts,
    );
    all_shown("part", &names("src/worker"), &firsts);
}
