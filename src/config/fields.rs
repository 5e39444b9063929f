//! Reads the fields of a document, notes every error and goes on.
//!
//! All readers return something, so that one error never hides the next; the whole is thrown away when there was any. Readers
//! that are called from many places are kept out of line, which takes 13 kB off the wasm. `docs/decisions/configuration.md` says why serde's
//! derived readers do not do this.

use super::Secret;
use super::error::{Error, Path, closest, cut, quoted, shown};
use super::rules::{NAME, Rule, has_control_bytes, header_name};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

/// The error of a derived reader that does not know a word: the words that it knows.
#[derive(Debug)]
struct NotOneOf(&'static [&'static str]);

impl fmt::Display for NotOneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::error::Error for NotOneOf {}

impl de::Error for NotOneOf {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, words: &'static [&'static str]) -> Self {
        Self(words)
    }
}

/// What all readers share.
pub(super) struct Collector<'d> {
    pub(super) errors: Vec<Error>,
    /// Paths of the properties named so far.
    pub(super) properties: Vec<Vec<u8>>,
    /// A number may be its text.
    pub(super) numbers_as_text: bool,
    pub(super) env: &'d dyn Fn(&str) -> Option<String>,
}

impl Collector<'_> {
    #[inline(never)]
    pub(super) fn error(&mut self, path: &Path<'_>, problem: impl fmt::Display) {
        self.errors.push(Error {
            path: path.to_string(),
            problem: problem.to_string(),
        });
    }
}

/// A value and where it is. Its readers return `None` after they have noted an error.
pub(super) struct Cursor<'a, 'd> {
    pub(super) path: Path<'a>,
    pub(super) value: &'d Value,
    pub(super) collector: &'a mut Collector<'d>,
}

impl<'a, 'd> Cursor<'a, 'd> {
    #[inline(never)]
    pub(super) fn error(&mut self, what: impl fmt::Display) {
        self.collector.error(&self.path, what);
    }

    #[inline(never)]
    pub(super) fn refuse<T>(&mut self, rule: impl fmt::Display) -> Option<T> {
        self.error(format!("{} {rule}", shown(self.value)));
        None
    }

    pub(super) fn number(&mut self, range: RangeInclusive<f64>) -> Option<f64> {
        let number = match self.value.as_str() {
            Some(text) if self.collector.numbers_as_text => {
                let number = serde_json::from_slice::<Value>(text.as_bytes());
                number.ok().and_then(|number| number.as_f64())
            }
            Some(_) | None => self.value.as_f64(),
        };
        match number {
            None => self.refuse("is not a number"),
            Some(number) if range.contains(&number) => Some(number),
            // Every bound is a whole number. Written out as floats they would bring 15 kB of code.
            Some(_) => {
                let (low, high) = (*range.start() as i64, *range.end() as i64);
                self.refuse(format!("is not in {low}..={high}"))
            }
        }
    }

    /// Goes by way of f64, since a protobuf Struct writes 10 as 10.0 and may write 3600000 as 3.6e6; no bound is above
    /// 2^53-1, so nothing in range is rounded. The range must fit `T`.
    #[inline(never)]
    pub(super) fn int<T: TryFrom<u64>>(&mut self, range: RangeInclusive<u64>) -> Option<T> {
        let number = self.number(*range.start() as f64..=*range.end() as f64)?;
        if number.fract() != 0.0 {
            return self.refuse("is not a whole number");
        }
        T::try_from(number as u64).ok()
    }

    pub(super) fn basis_points(&mut self) -> Option<u16> {
        let exact = self.number(0.0..=100.0)? * 100.0;
        if (exact - exact.round()).abs() > 1e-6 {
            return self.refuse("has more than two decimals");
        }
        Some(exact.round() as u16)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        self.value
            .as_bool()
            .or_else(|| self.refuse("is not true or false"))
    }

    pub(super) fn string(&mut self) -> Option<&'d str> {
        self.value
            .as_str()
            .or_else(|| self.refuse("is not a string"))
    }

    /// A word that `T` knows: its derived reader has them all.
    pub(super) fn word<T: DeserializeOwned>(&mut self) -> Option<T> {
        let word = StrDeserializer::new(self.value.as_str().unwrap_or_default());
        T::deserialize(word).map_or_else(|NotOneOf(words)| self.not_one_of(words), Some)
    }

    #[inline(never)]
    fn not_one_of<T>(&mut self, words: &[&str]) -> Option<T> {
        self.refuse(format!("is not one of {}", words.join(", ")))
    }

    pub(super) fn text(&mut self, (holds, rule): Rule) -> Option<String> {
        let text = self.string()?;
        if holds(text) {
            Some(text.to_owned())
        } else {
            self.refuse(rule)
        }
    }

    #[inline(never)]
    pub(super) fn array(&mut self, count: RangeInclusive<usize>) -> Option<&'d [Value]> {
        let Some(entries) = self.value.as_array() else {
            return self.refuse("is not an array");
        };
        if !count.contains(&entries.len()) {
            let (least, most) = (count.start(), count.end());
            self.error(format!(
                "has {} entries, not {least}..={most}",
                entries.len()
            ));
        }
        Some(entries)
    }

    #[inline(never)]
    pub(super) fn header(&mut self) -> Option<String> {
        header_name(self.string()?).map_or_else(|rule| self.refuse(rule), Some)
    }

    /// What the variable holds. Neither that nor an impossible name is shown: people put the secret itself there.
    pub(super) fn variable(&mut self, name: &str) -> Option<String> {
        let names_one = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name.starts_with(|c: char| !c.is_ascii_digit());
        if !names_one {
            self.error("does not name a variable: [A-Za-z_][A-Za-z0-9_]*");
            return None;
        }
        let value = (self.collector.env)(name).filter(|value| !value.is_empty());
        match value {
            None => self.error(format!("variable {} is not set or empty", cut(name))),
            Some(value) if has_control_bytes(&value) => {
                self.error(format!("variable {} holds a control byte", cut(name)));
            }
            value => return value,
        }
        None
    }

    /// The text with every `${NAME}` replaced, cut wherever that is the name `cut` instead of a variable's. It is never shown,
    /// for it may be a secret as it is.
    pub(super) fn filled_in(&mut self, cut: Option<&str>) -> Option<Vec<String>> {
        let mut rest = self.string()?;
        let mut parts = vec![];
        let mut text = String::new();
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else {
                self.error("holds ${ without }");
                break;
            };
            text.push_str(before);
            if cut == Some(name) {
                parts.push(std::mem::take(&mut text));
            } else {
                text.push_str(&self.variable(name).unwrap_or_default());
            }
            rest = after;
        }
        text.push_str(rest);
        parts.push(text);
        if parts.iter().any(|part| has_control_bytes(part)) {
            self.error("holds a control byte");
        }
        Some(parts)
    }

    #[inline(never)]
    pub(super) fn fields(mut self) -> Fields<'a, 'd> {
        let map = self
            .value
            .as_object()
            .or_else(|| self.refuse("is not an object"));
        Fields {
            path: self.path,
            map,
            asked: vec![],
            collector: self.collector,
        }
    }
}

/// An object's fields; those that no reader asked for are unknown. `map` is `None` when there is no object: all is default then.
pub(super) struct Fields<'a, 'd> {
    pub(super) path: Path<'a>,
    pub(super) map: Option<&'d Map<String, Value>>,
    pub(super) asked: Vec<&'static str>,
    pub(super) collector: &'a mut Collector<'d>,
}

impl<'d> Fields<'_, 'd> {
    #[inline(never)]
    pub(super) fn error(&mut self, name: &str, what: impl fmt::Display) {
        self.collector.error(&Path::Field(&self.path, name), what);
    }

    /// Grows with every error: rules about two fields are silent when one of them is wrong by itself.
    pub(super) fn error_count(&self) -> usize {
        self.collector.errors.len()
    }

    /// Notes each field that must be there and is not.
    #[inline(never)]
    pub(super) fn needs(&mut self, names: &[&str]) {
        for name in names {
            if self.map.is_some_and(|map| !map.contains_key(*name)) {
                self.error(name, "is required");
            }
        }
    }

    #[inline(never)]
    pub(super) fn at(&mut self, name: &'static str) -> Option<Cursor<'_, 'd>> {
        self.asked.push(name);
        let value = self.map?.get(name)?;
        Some(Cursor {
            path: Path::Field(&self.path, name),
            value,
            collector: self.collector,
        })
    }

    #[inline(never)]
    pub(super) fn int<T: TryFrom<u64>>(
        &mut self,
        name: &'static str,
        default: T,
        range: RangeInclusive<u64>,
    ) -> T {
        self.at(name)
            .and_then(|mut at| at.int(range))
            .unwrap_or(default)
    }

    #[inline(never)]
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        self.at(name)
            .and_then(|mut at| at.flag())
            .unwrap_or(default)
    }

    #[inline(never)]
    pub(super) fn text(&mut self, name: &'static str, default: &str, rule: Rule) -> String {
        self.at(name)
            .and_then(|mut at| at.text(rule))
            .unwrap_or_else(|| default.to_owned())
    }

    /// What the variable named here holds; `None` when none is named.
    pub(super) fn secret(&mut self, name: &'static str) -> Option<Secret> {
        let mut at = self.at(name)?;
        let variable = at.string().filter(|variable| !variable.is_empty())?;
        at.variable(variable).map(Secret)
    }

    /// A word that `T` knows.
    pub(super) fn word<T: DeserializeOwned>(&mut self, name: &'static str, default: T) -> T {
        self.at(name)
            .and_then(|mut at| at.word())
            .unwrap_or(default)
    }

    /// A name that no other entry of the same array has; `seen` has the entry that had it first.
    pub(super) fn unique(
        &mut self,
        name: &'static str,
        seen: &mut BTreeMap<String, usize>,
    ) -> String {
        let Some(text) = self.at(name).and_then(|mut at| at.text(NAME)) else {
            return String::new();
        };
        if let Path::Index(list, index) = self.path {
            let first = *seen.entry(text.clone()).or_insert(index);
            if first != index {
                self.error(
                    name,
                    format!(
                        "{} is already used by {}",
                        quoted(&text),
                        Path::Index(list, first)
                    ),
                );
            }
        }
        text
    }

    #[inline(never)]
    pub(super) fn object(&mut self, name: &'static str) -> Fields<'_, 'd> {
        self.asked.push(name);
        let path = Path::Field(&self.path, name);
        match self.map.and_then(|map| map.get(name)) {
            Some(value) => Cursor {
                path,
                value,
                collector: self.collector,
            }
            .fields(),
            None => Fields {
                path,
                map: None,
                asked: vec![],
                collector: self.collector,
            },
        }
    }

    /// How many entries an array has, 0 when it is not there; `None` when it is something else.
    pub(super) fn count(&self, name: &str) -> Option<usize> {
        self.map?
            .get(name)
            .map_or(Some(0), |value| value.as_array().map(Vec::len))
    }

    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        mut read: impl FnMut(Cursor<'_, 'd>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut at = self.at(name)?;
        let entries = at.array(count)?;
        let read = |(index, value)| {
            read(Cursor {
                path: Path::Index(&at.path, index),
                value,
                collector: at.collector,
            })
        };
        Some(entries.iter().enumerate().filter_map(read).collect())
    }

    /// The one field of these that is there.
    pub(super) fn one_of(
        &mut self,
        names: &[&'static str],
    ) -> Option<(&'static str, Cursor<'_, 'd>)> {
        self.asked.extend(names);
        let map = self.map?;
        let mut given = names.iter().filter(|name| map.contains_key(**name));
        match (given.next(), given.next()) {
            (Some(name), None) => Some((name, self.at(name)?)),
            _ => {
                self.collector.error(
                    &self.path,
                    format!("needs exactly one of {}", names.join(", ")),
                );
                None
            }
        }
    }

    /// Notes each field that no reader asked for.
    #[inline(never)]
    pub(super) fn reject_unknown(self) {
        for name in self.map.into_iter().flat_map(Map::keys) {
            if !self.asked.contains(&name.as_str()) {
                let hint =
                    closest(name, &self.asked).map(|known| format!(" (did you mean {known}?)"));
                let path = Path::Field(&self.path, name);
                self.collector
                    .error(&path, format!("unknown field{}", hint.unwrap_or_default()));
            }
        }
    }
}
