//! The page: its files, and what the console serves of them.

use super::*;
use slotgate::printable::is_harmful;
use std::collections::BTreeMap;

const NO_LONGER: usize = 120;

/// Every file of the page, by its name.
fn files() -> BTreeMap<String, String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/console/page");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let text = std::fs::read_to_string(file.path()).unwrap();
            (file.file_name().into_string().unwrap(), text)
        })
        .collect()
}

fn modules() -> BTreeMap<String, String> {
    let mut modules = files();
    modules.retain(|name, _| name.ends_with(".js"));
    assert!(modules.len() > 1);
    modules
}

fn served(path: &str) -> Response {
    match ask(&mut console(), 0, 1, "GET", path, true) {
        NextStep::Answer(response) if response.status == 200 => response,
        other => panic!("{path}: {other:?}"),
    }
}

/// A module's lines without what is only for readers, and without its imports.
fn code(module: &str) -> String {
    let lines = module.lines().map(str::trim_start);
    let kept = lines.filter(|line| {
        !["//", "import "]
            .iter()
            .any(|start| line.starts_with(start))
    });
    let plain = kept.map(|line| line.strip_prefix("export ").unwrap_or(line));
    plain
        .filter(|line| !line.is_empty())
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The names that a module declares at its top, each with whether others may import it.
fn top_names(module: &str) -> Vec<(String, bool)> {
    let mut names = Vec::new();
    for line in module.lines() {
        let exported = line.strip_prefix("export ");
        let plain = exported.unwrap_or(line);
        let plain = plain.strip_prefix("async ").unwrap_or(plain);
        let name = ["function ", "const ", "let "]
            .iter()
            .find_map(|kind| plain.strip_prefix(kind));
        if let Some(name) = name {
            let name = name.split(|c: char| !in_name(c)).next().unwrap();
            assert!(!name.is_empty(), "a name of its own: {line}");
            names.push((name.to_owned(), exported.is_some()));
        } else {
            assert_eq!(exported, None, "not understood where they are joined");
        }
    }
    names
}

/// The names that a module imports, each with the module it is from.
fn imports(module: &str) -> Vec<(&str, &str)> {
    let mut imports = Vec::new();
    for line in module.lines().filter(|line| line.starts_with("import")) {
        let parts = line.strip_prefix("import { ").and_then(|rest| {
            let (names, from) = rest.strip_suffix("\";")?.split_once(" } from \"./")?;
            Some((names.split(", "), from))
        });
        let (names, from) = parts.unwrap_or_else(|| panic!("import {{ a, b }} from: {line}"));
        imports.extend(names.map(|name| (name, from)));
    }
    imports
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Whether a name is used, not as another's property or as a part of a longer name.
fn uses(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(start, _)| {
        let (before, after) = (&code[..start], &code[start + name.len()..]);
        !before.ends_with(|c| in_name(c) || c == '.' && !before.ends_with("..."))
            && !after.starts_with(in_name)
    })
}

#[test]
fn no_line_is_too_long_and_each_file_says_first_what_it_is() {
    for (name, text) in files() {
        for (line, number) in text.lines().zip(1..) {
            let length = line.chars().count();
            assert!(length <= NO_LONGER, "{name}:{number} has {length}");
        }
        let first = text.trim_start_matches("<!doctype html>\n");
        let says = ["// ", "/* ", "<!-- "]
            .iter()
            .any(|start| first.starts_with(start));
        assert!(says, "{name} begins with no comment");
    }
}

#[test]
fn a_visit_takes_three_requests_and_nothing_for_readers_is_sent() {
    let index = served("/");
    assert!(index.body.starts_with("<!doctype html>\n<html"));
    let parts = ["href=\"/", "src=\"/"].map(|attribute| index.body.matches(attribute).count());
    assert_eq!(parts, [1, 1]);
    for (path, named, content_type) in [
        (
            "/style.css",
            "href=\"/style.css\"",
            "text/css; charset=utf-8",
        ),
        (
            "/main.js",
            "type=\"module\" src=\"/main.js\"",
            "text/javascript; charset=utf-8",
        ),
    ] {
        assert!(index.body.contains(named), "{named}");
        assert_eq!(served(path).content_type, content_type);
    }
    for path in ["/", "/style.css", "/main.js"] {
        for line in served(path).body.lines() {
            let for_readers = ["//", "/*", "<!--", " "]
                .iter()
                .any(|start| line.starts_with(start));
            assert!(!for_readers && !line.is_empty(), "{path}: {line:?}");
        }
    }
}

#[test]
fn modules_are_served_as_one_script_each_after_what_it_imports() {
    let script = served("/main.js").body;
    let modules = modules();
    let place = |name: &str| {
        let text = modules.get(name).unwrap_or_else(|| panic!("no {name}"));
        let place = script.find(&code(text));
        place.unwrap_or_else(|| panic!("{name} is not served"))
    };
    let length: usize = modules.values().map(|text| code(text).len()).sum();
    assert_eq!(script.len(), length, "something else is served too");
    for (name, text) in &modules {
        for (imported, from) in imports(text) {
            assert!(place(from) < place(name), "{name} comes before {from}");
            let exported = (imported.to_owned(), true);
            assert!(
                top_names(&modules[from]).contains(&exported),
                "{name}: {imported}"
            );
            assert!(uses(&code(text), imported), "{name} needs no {imported}");
        }
    }
}

#[test]
fn modules_share_no_name_and_import_what_they_call() {
    let modules = modules();
    let mut known = BTreeMap::new();
    for (module, text) in &modules {
        // A text over several lines would lose its indentation.
        let odd = text.lines().find(|line| line.matches('`').count() % 2 == 1);
        assert_eq!(odd, None, "{module}");
        for (name, exported) in top_names(text) {
            let imported = |(_, text): (_, &String)| imports(text).contains(&(&name, module));
            assert_eq!(modules.iter().any(imported), exported, "{module}: {name}");
            let other = known.insert(name.clone(), module);
            assert_eq!(other, None, "{module} has a {name} too");
        }
    }
    for (module, text) in &modules {
        for (name, from) in &known {
            let here = *from == module || imports(text).contains(&(name, from));
            let called = uses(&code(text), &format!("{name}("));
            assert!(here || !called, "{module} does not import {name}");
        }
    }
}

#[test]
fn what_the_script_looks_for_is_on_the_page() {
    let (script, index) = (served("/main.js").body, served("/").body);
    let ids: Vec<&str> = script
        .split("\"#")
        .skip(1)
        .map(|rest| rest.split(|c| !in_name(c)).next().unwrap())
        .collect();
    assert!(ids.len() > 9);
    for id in ids {
        assert!(index.contains(&format!("id=\"{id}\"")), "{id}");
    }
}

#[test]
fn all_text_of_the_page_leaves_in_one_place() {
    let script = served("/main.js").body;
    assert_eq!(script.matches("textContent = ").count(), 1);
    for way in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "setHTML",
        "createContextualFragment",
        "createTextNode",
        "DOMParser",
        "nodeValue",
        "setAttribute",
        "document.write",
        "document.title",
        "eval(",
        "Function(",
        ".innerText =",
        ".href",
        ".src",
    ] {
        assert!(!script.contains(way), "{way}");
    }
}

#[test]
fn the_page_escapes_what_everything_else_escapes() {
    let dom = &modules()["dom.js"];
    let (_, class) = dom.split_once("const harmful = /[").unwrap();
    let (class, _) = class.split_once("]/g;").unwrap();
    let char = |text: &str| {
        let digits = text.strip_prefix(['x', 'u']).unwrap_or(text);
        u32::from_str_radix(digits, 16).unwrap()
    };
    let ranges: Vec<_> = class
        .split('\\')
        .skip(1)
        .map(|part| (char(part.trim_end_matches('-')), part.ends_with('-')))
        .collect();
    for char in '\0'..=char::MAX {
        let code = u32::from(char);
        let listed = ranges.iter().enumerate().any(|(place, (first, to))| {
            let last = if *to { ranges[place + 1].0 } else { *first };
            (*first..=last).contains(&code)
        });
        assert_eq!(listed, is_harmful(char), "{char:?}");
    }
}
