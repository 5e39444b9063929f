//! What is wrong with a configuration: where, and which rule is broken.

use serde_json::Value;
use std::fmt;

/// One error of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Where it is: `pools[0].name`; `configuration`: the document itself; empty: it is no document.
    pub path: String,
    /// The value and the rule that it breaks.
    pub problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

/// Every error found in one configuration, at least one.
#[derive(Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Where a value is in the document; written out only for an error.
pub(super) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => f.write_str("configuration"),
            Path::Field(Path::Root, name) => f.write_str(&cut(&name.escape_debug().to_string())),
            Path::Field(parent, name) => {
                write!(f, "{parent}.{}", cut(&name.escape_debug().to_string()))
            }
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value for an error. Arrays and objects are not written out: a secret may be in them.
#[inline(never)]
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
        // From a Struct every number is a float: 0 is shown as it was written, not as 0.0.
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.abs() < 1e16 && float.fract() == 0.0 => (float as i64).to_string(),
            _ => number.to_string(),
        },
        Value::Null | Value::Bool(_) => value.to_string(),
    }
}

pub(super) fn quoted(text: &str) -> String {
    cut(&format!("{text:?}"))
}

pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The name that differs least, if only one short run of letters does.
pub(super) fn closest<'n>(wrong: &str, names: &[&'n str]) -> Option<&'n str> {
    let candidates = names.iter().filter_map(|name| {
        let (shorter, longer) = (wrong.len().min(name.len()), wrong.len().max(name.len()));
        let head = wrong
            .bytes()
            .zip(name.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        let tails = wrong
            .bytes()
            .rev()
            .zip(name.bytes().rev())
            .take(shorter.saturating_sub(head));
        let same = head.saturating_add(tails.take_while(|(a, b)| a == b).count());
        let different = longer.saturating_sub(same);
        (different <= same.min(4)).then_some((different, *name))
    });
    candidates.min().map(|(_, name)| name)
}
