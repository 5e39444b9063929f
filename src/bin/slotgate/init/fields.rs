//! Fields of `pools.yaml`: each is taken once and checked by a rule; all mistakes are collected.

use super::marked::{Name, Node, Place, Value};
use super::plan::Mistake;
use crate::words::near;
use slotgate::printable::ascii;
use std::collections::BTreeMap;

/// Reads one file and collects its mistakes.
pub struct Reader {
    pub mistakes: Vec<Mistake>,
    pub fragment: bool,
    /// Whose key each variable is: an account in two pools would have twice its limit.
    pub keys: BTreeMap<String, String>,
    /// Whose port each is.
    pub ports: BTreeMap<u16, String>,
}

/// An object's fields, each taken once.
pub struct Fields<'n> {
    pub path: String,
    pub place: Place,
    pub left: Vec<(&'n Name, &'n Node)>,
    /// The names that were asked for, to suggest one of them for a name that is unknown.
    pub known: Vec<&'static str>,
}

/// A field.
#[derive(Clone)]
pub struct Field<'n> {
    pub path: String,
    pub node: &'n Node,
}

impl<'n> Fields<'n> {
    pub fn take(&mut self, name: &'static str) -> Option<Field<'n>> {
        self.known.push(name);
        let at = self.left.iter().position(|(other, _)| other.text == name)?;
        let (_, node) = self.left.remove(at);
        // Written without a value is as good as not written.
        let path = joined(&self.path, name);
        (!matches!(node.value, Value::Nothing)).then_some(Field { path, node })
    }
}

pub fn joined(path: &str, name: &str) -> String {
    match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    }
}

impl Reader {
    pub fn mistake(&mut self, place: Place, path: &str, problem: impl Into<String>) {
        self.mistakes.push(Mistake {
            place,
            path: path.to_owned(),
            problem: problem.into(),
        });
    }

    pub fn fields<'n>(&mut self, node: &'n Node, path: &str) -> Option<Fields<'n>> {
        let Value::Map(all) = &node.value else {
            let problem = format!("{} where an object is expected", node.value.kind());
            self.mistake(node.place, path, problem);
            return None;
        };
        let mut left: Vec<(&Name, &Node)> = Vec::new();
        for (name, value) in all {
            if left.iter().any(|(other, _)| other.text == name.text) {
                let path = joined(path, &shown(&name.text));
                self.mistake(name.place, &path, "is there twice");
                continue;
            }
            left.push((name, value));
        }
        Some(Fields {
            path: path.to_owned(),
            place: node.place,
            left,
            known: Vec::new(),
        })
    }

    /// All fields were asked for: those that are left are mistakes.
    pub fn end(&mut self, fields: Fields<'_>) {
        for (name, _) in &fields.left {
            let hint = near(&name.text, fields.known.iter().copied());
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let path = joined(&fields.path, &shown(&name.text));
            self.mistake(name.place, &path, format!("unknown field{hint}"));
        }
    }

    pub fn required<'n>(
        &mut self,
        fields: &mut Fields<'n>,
        name: &'static str,
    ) -> Option<Field<'n>> {
        let field = fields.take(name);
        if field.is_none() {
            let path = joined(&fields.path, name);
            self.mistake(fields.place, &path, "is required");
        }
        field
    }

    /// Applies a rule to a field's text; a text that breaks it is a mistake.
    pub fn value<T>(
        &mut self,
        field: &Field<'_>,
        rule: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let result = match &field.node.value {
            Value::Scalar(text) => rule(text),
            other => Err(format!("{} where a single value is expected", other.kind())),
        };
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.mistake(field.node.place, &field.path, problem);
                None
            }
        }
    }

    pub fn optional<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        rule: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let field = fields.take(name)?;
        self.value(&field, rule)
    }

    pub fn list<'n>(&mut self, field: &Field<'n>) -> Vec<Field<'n>> {
        let Value::List(nodes) = &field.node.value else {
            let problem = format!("{} where a list is expected", field.node.value.kind());
            self.mistake(field.node.place, &field.path, problem);
            return Vec::new();
        };
        if nodes.is_empty() {
            self.mistake(field.node.place, &field.path, "is empty");
        }
        let of = |(index, node)| Field {
            path: format!("{}[{index}]", field.path),
            node,
        };
        nodes.iter().enumerate().map(of).collect()
    }
}

/// A name from the file for a message: nobody's control characters.
pub fn shown(text: &str) -> String {
    ascii(text.as_bytes())
}
