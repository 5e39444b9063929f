//! YAML whose every value knows its line and column.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use std::fmt;

/// No file of this form is deeper; what is read here is walked by recursion.
const MOST_LEVELS: usize = 16;

/// Line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value.
#[derive(Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug)]
pub enum Value {
    /// Text, a number, a bool; an empty one that was not quoted is nothing.
    Scalar(String),
    /// Nothing at all: `name:`, `~` or `null`.
    Nothing,
    List(Vec<Node>),
    /// In the file's order. A name may come twice.
    Map(Vec<(Name, Node)>),
}

/// A field's name.
#[derive(Debug)]
pub struct Name {
    pub place: Place,
    pub text: String,
}

impl Value {
    /// For messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Scalar(_) => "a single value",
            Value::Nothing => "nothing",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

/// A list or an object whose end has not come yet.
enum Open {
    List(Place, Vec<Node>),
    /// With the name whose value is expected.
    Map(Place, Vec<(Name, Node)>, Option<Name>),
}

impl Open {
    fn put(&mut self, node: Node) -> Result<(), Fault> {
        match self {
            Open::List(_, nodes) => nodes.push(node),
            Open::Map(_, fields, name) => match name.take() {
                Some(name) => fields.push((name, node)),
                None => {
                    let Value::Scalar(text) = node.value else {
                        let what = format!("a field's name is {}", node.value.kind());
                        return Err((node.place, what));
                    };
                    let place = node.place;
                    *name = Some(Name { place, text });
                }
            },
        }
        Ok(())
    }

    fn close(self) -> Node {
        match self {
            Open::List(place, nodes) => Node {
                place,
                value: Value::List(nodes),
            },
            Open::Map(place, fields, _) => Node {
                place,
                value: Value::Map(fields),
            },
        }
    }
}

/// Where, and what is wrong.
pub type Fault = (Place, String);

/// The one document of a text; `None`: there is none.
pub fn read(text: &str) -> Result<Option<Node>, Fault> {
    let mut open: Vec<Open> = Vec::new();
    let mut whole = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| syntax(&error))?;
        let place = start(span);
        let node = match event {
            Event::Scalar(text, style, _, _) => Node {
                place,
                value: scalar(text.into_owned(), style),
            },
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if open.len() >= MOST_LEVELS {
                    return Err((place, "nested too deep".into()));
                }
                open.push(match event {
                    Event::SequenceStart(..) => Open::List(place, Vec::new()),
                    _ => Open::Map(place, Vec::new(), None),
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(closed) => closed.close(),
                None => continue,
            },
            Event::Alias(_) => return Err((place, "an alias; write the value itself".into())),
            Event::DocumentStart(_) if whole.is_some() => {
                return Err((place, "a second document; one is read".into()));
            }
            Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::StreamStart
            | Event::StreamEnd
            | Event::Nothing => continue,
        };
        match open.last_mut() {
            Some(around) => around.put(node)?,
            None => whole = Some(node),
        }
    }
    Ok(whole)
}

fn scalar(text: String, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    match text.as_str() {
        "" | "~" | "null" if plain => Value::Nothing,
        _ => Value::Scalar(text),
    }
}

fn start(span: Span) -> Place {
    Place {
        line: span.start.line(),
        column: span.start.col().saturating_add(1),
    }
}

fn syntax(error: &ScanError) -> Fault {
    let at = error.marker();
    let place = Place {
        line: at.line(),
        column: at.col().saturating_add(1),
    };
    (place, format!("not YAML: {}", error.info()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_place() {
        let node = read("# a comment\na: 1\nlist:\n- {b: x, c: [1, 'null']}\n").unwrap();
        let Value::Map(fields) = node.unwrap().value else {
            panic!()
        };
        let places: Vec<String> = fields
            .iter()
            .map(|(name, node)| format!("{} {} {}", name.text, name.place, node.place))
            .collect();
        // A list that is not indented begins with its first element.
        assert_eq!(places, ["a 2:1 2:4", "list 3:1 4:3"]);
        let Some((
            _,
            Node {
                value: Value::List(items),
                ..
            },
        )) = fields.get(1)
        else {
            panic!()
        };
        let Some(Node {
            value: Value::Map(inner),
            ..
        }) = items.first()
        else {
            panic!()
        };
        let c = inner.get(1).unwrap();
        assert_eq!(
            (c.0.place.to_string(), c.1.place.to_string()),
            ("4:10".into(), "4:13".into())
        );
    }

    #[test]
    fn what_cannot_be_read_has_a_place() {
        for (text, expected) in [
            ("a: [1", "not YAML"),
            ("a: 1\n---\nb: 2\n", "a second document"),
            ("a: &x 1\nb: *x\n", "an alias"),
            ("? [1]\n: 2\n", "a field's name is a list"),
            ("a: 'x\n", "not YAML"),
            (&"[".repeat(100_000), "not YAML"),
            (&format!("{}x\n", "- ".repeat(20)), "nested too deep"),
        ] {
            let (place, what) = read(text).unwrap_err();
            assert!(what.contains(expected), "{place}: {what}");
            assert!(place.line >= 1 && place.column >= 1);
        }
        assert!(read("").unwrap().is_none());
        assert!(read("# nothing\n").unwrap().is_none());
    }
}
