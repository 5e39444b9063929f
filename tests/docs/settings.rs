//! Settings of the filter and fields of `pools.yaml`.

use super::{Document, Names, all_shown, documents, none, read, texts};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

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
    let files = ["reader.rs", "pools.rs"].map(|file| read(format!("src/bin/slotgate/init/{file}")));
    let source = files.join("\n");
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
            let parts = ["cooldown", "saturated", "tenant", "failover"].map(|name| {
                let part = value.get(name)?;
                Some(self::document("scheduler", name, part.clone()))
            });
            found.extend(parts.iter().flatten().chain(&pools));
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
