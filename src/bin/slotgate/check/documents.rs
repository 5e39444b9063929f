//! Files as documents: JSON, YAML of several parts, and the texts that Kubernetes objects hold.

use crate::problem::{Exit, Problem};
use serde::Deserialize;
use serde_json::Value;

/// How a document is written: Envoy reads numbers in YAML in a way of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    Json,
    Yaml,
}

/// One document of a file.
#[derive(Debug)]
pub struct Document {
    /// Its file's place among the files.
    pub file: usize,
    /// Where it is in the file: empty, `[1]` for the second document, `data.envoy.yaml` for a text in a ConfigMap.
    pub at: String,
    pub value: Value,
    pub syntax: Syntax,
}

impl Document {
    /// Whether it is an object of Kubernetes.
    pub fn is_kubernetes(&self) -> bool {
        let has = |name: &str| self.value.get(name).is_some_and(Value::is_string);
        has("apiVersion") && has("kind")
    }
}

/// All documents of a file's text, at least one.
pub fn read(file: usize, name: &str, text: &str) -> Result<Vec<Document>, Problem> {
    let unreadable = |what: &str, error: String| {
        Problem::new(
            Exit::Wrong,
            "syntax",
            format!("{name} is not {what}: {error}"),
        )
    };
    let json_error = match serde_json::from_str(text) {
        Ok(value) => {
            // Envoy goes by the name.
            let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
            let syntax = if yaml { Syntax::Yaml } else { Syntax::Json };
            return Ok(with_texts(vec![Document {
                file,
                at: String::new(),
                value,
                syntax,
            }]));
        }
        Err(error) => error,
    };
    if name.ends_with(".json") {
        return Err(unreadable("JSON", json_error.to_string()));
    }
    let mut values = parts(text).map_err(|error| unreadable("YAML", error.to_string()))?;
    // A part of comments alone, as before the first `---`.
    if values.len() > 1 {
        values.retain(|value| !value.is_null());
    }
    let alone = values.len() < 2;
    let documents = values.into_iter().enumerate().map(|(place, value)| {
        let at = if alone {
            String::new()
        } else {
            format!("[{place}]")
        };
        let syntax = Syntax::Yaml;
        Document {
            file,
            at,
            value,
            syntax,
        }
    });
    let mut documents: Vec<Document> = documents.collect();
    if documents.is_empty() {
        documents.push(Document {
            file,
            at: String::new(),
            value: Value::Null,
            syntax: Syntax::Yaml,
        });
    }
    Ok(with_texts(documents))
}

/// The parts of a YAML text. By way of YAML's own values: they refuse a key that stands there twice.
fn parts(text: &str) -> Result<Vec<Value>, serde_yaml_ng::Error> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|part| serde_yaml_ng::Value::deserialize(part).and_then(serde_yaml_ng::from_value))
        .collect()
}

/// The documents, and those that texts in objects of Kubernetes hold: `data` of a ConfigMap, the bootstrap of an EnvoyProxy.
fn with_texts(documents: Vec<Document>) -> Vec<Document> {
    let mut all = Vec::new();
    for document in documents {
        let mut inside = Vec::new();
        if document.is_kubernetes() {
            texts(
                &document,
                &document.value,
                &mut document.at.clone(),
                &mut inside,
            );
        }
        all.push(document);
        all.append(&mut inside);
    }
    all
}

fn texts(document: &Document, value: &Value, at: &mut String, found: &mut Vec<Document>) {
    let length = at.len();
    match value {
        Value::String(text) if text.contains('\n') => {
            let values = parts(text).unwrap_or_default();
            let several = values.len() > 1;
            for (place, value) in values.into_iter().enumerate() {
                if !(value.is_object() || value.is_array()) {
                    continue;
                }
                let at = match several {
                    true => format!("{at}[{place}]"),
                    false => at.clone(),
                };
                found.push(Document {
                    file: document.file,
                    at,
                    value,
                    syntax: Syntax::Yaml,
                });
            }
        }
        Value::Object(map) => {
            for (name, value) in map {
                step(at, name);
                texts(document, value, at, found);
                at.truncate(length);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                at.push_str(&format!("[{index}]"));
                texts(document, value, at, found);
                at.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// One name further in a path.
pub fn step(at: &mut String, name: &str) {
    if !at.is_empty() {
        at.push('.');
    }
    at.push_str(name);
}

/// A field by its name in Envoy's API, which may be written in camel case too; and how it is written.
pub fn field<'v>(value: &'v Value, name: &str) -> Option<(&'v Value, String)> {
    let map = value.as_object()?;
    if let Some(found) = map.get(name) {
        return Some((found, name.to_owned()));
    }
    let mut camel = String::new();
    let mut upper = false;
    for char in name.chars() {
        match char {
            '_' => upper = true,
            _ if std::mem::take(&mut upper) => camel.push(char.to_ascii_uppercase()),
            _ => camel.push(char),
        }
    }
    map.get(&camel).map(|found| (found, camel))
}

/// The value at a path of names, each as for [`field`], with a number for an element.
pub fn dig<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, name| match value {
        Value::Array(values) => values.get(name.parse::<usize>().ok()?),
        _ => field(value, name).map(|(found, _)| found),
    })
}

/// The same, as text; empty when there is none.
pub fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    dig(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The elements of the list at a path, each with the path that leads to it from `at`.
pub fn list<'v>(value: &'v Value, path: &str, at: &str) -> Vec<(&'v Value, String)> {
    let mut at = at.to_owned();
    let mut value = value;
    for name in path.split('.') {
        let Some((next, name)) = field(value, name) else {
            return Vec::new();
        };
        step(&mut at, &name);
        value = next;
    }
    let elements = value.as_array().map(Vec::as_slice).unwrap_or_default();
    elements
        .iter()
        .enumerate()
        .map(|(index, element)| (element, format!("{at}[{index}]")))
        .collect()
}

/// The last part of a message's type: `envoy.extensions.filters.http.router.v3.Router`. Of a TypedStruct, what it stands for.
pub fn kind(value: &Value) -> &str {
    let of = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = match of("type_url") {
        "" => of("@type"),
        inner => inner,
    };
    kind.rsplit('/').next().unwrap_or(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_and_texts() {
        let text = "# comment\n---\na: 1\n---\napiVersion: v1\nkind: ConfigMap\ndata:\n  envoy.yaml: |\n    b: 2\n    c: [3]\n  plain: one line\n";
        let documents = read(7, "x.yaml", text).unwrap();
        let seen: Vec<(&str, &Value)> = documents
            .iter()
            .map(|document| (document.at.as_str(), &document.value))
            .collect();
        assert_eq!(seen[0], ("[0]", &json!({"a": 1})));
        assert_eq!(seen[1].0, "[1]");
        assert_eq!(seen[2], ("[1].data.envoy.yaml", &json!({"b": 2, "c": [3]})));
        assert_eq!(seen.len(), 3);
        assert!(read(0, "x.yaml", "a: 1\na: 2\n").is_err());
        assert_eq!(read(0, "x.yaml", "").unwrap()[0].value, Value::Null);
    }

    #[test]
    fn either_case() {
        let value = json!({"loadAssignment": {"endpoints": [{"x": "y"}]}});
        assert_eq!(text(&value, "load_assignment.endpoints.0.x"), "y");
        let found = list(&value, "load_assignment.endpoints", "c");
        assert_eq!(found[0].1, "c.loadAssignment.endpoints[0]");
    }
}
