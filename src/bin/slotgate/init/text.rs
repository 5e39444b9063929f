//! YAML as text: lines with their indentation, scalars and addresses.

use super::plan::{Endpoint, Plan};
use std::collections::BTreeSet;

/// Lines, each with its indentation.
#[derive(Default)]
pub struct Text(pub String);

impl Text {
    pub fn line(&mut self, at: usize, text: &str) {
        if !text.is_empty() {
            self.0.push_str(&" ".repeat(at));
            self.0.push_str(text);
        }
        self.0.push('\n');
    }

    /// Lines that are indented already, further in.
    pub fn put(&mut self, at: usize, lines: &str) {
        for line in lines.lines() {
            self.line(at, line);
        }
    }
}

/// A fragment without the comment at its top, which says where it goes.
pub fn body(fragment: &str) -> &str {
    let mut rest = fragment;
    while let Some((line, after)) = rest.split_once('\n')
        && (line.starts_with('#') || line.is_empty())
    {
        rest = after;
    }
    rest
}

/// Leaves each name once: Envoy takes no variable twice.
pub fn once(names: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
}

pub fn filename(plan: &Plan) -> String {
    format!("filename: {}", scalar(&plan.wasm))
}

/// `{address: …, port_value: …}`
pub fn socket(at: &Endpoint) -> String {
    format!("{{{}}}", pair(at))
}

pub fn pair(at: &Endpoint) -> String {
    format!("address: {}, port_value: {}", scalar(&at.host), at.port)
}

/// Text as YAML reads it back: plain where nothing else can be read into it.
pub fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let begins = text.starts_with(|char: char| char.is_ascii_alphabetic() || char == '/');
    let plain = text
        .chars()
        .all(|char| char.is_ascii_alphanumeric() || "._-/".contains(char));
    let address = text.parse::<std::net::Ipv4Addr>().is_ok();
    let word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    match address || (begins && plain && !word) {
        true => text.to_owned(),
        false => double(text),
    }
}

/// In double quotes. The text is printable ASCII.
pub fn double(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_stay_text() {
        for text in [
            "one",
            "1",
            "1e3",
            "true",
            "No",
            "~",
            "null",
            "0x1f",
            "a.b-c",
            ".nan",
            "-",
            "a: b",
            "x#y",
            "",
            "10.0.0.1",
            "::1",
            "a\"b\\c",
            "account_p/1",
            "/etc/x",
        ] {
            let read: Result<serde_json::Value, _> = serde_yaml_ng::from_str(&scalar(text));
            assert_eq!(read.ok(), Some(serde_json::json!(text)), "{text}");
        }
    }
}
