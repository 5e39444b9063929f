//! Problems: an exit code, a message, and a hint for what to try.

use crate::show::Lines;
use serde_json::{Value, json};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Done,
    /// Errors were found, or what was named isn't there.
    Wrong,
    /// The arguments or a file can't be read; clap uses the same code.
    Usage,
    /// Redis can't be asked, or refuses.
    Redis,
    /// Nobody reads the output any more: the end, but no failure.
    ReaderGone,
    /// Ended by Ctrl-C.
    Interrupted,
}

impl Exit {
    /// As the shell sees it.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done | Exit::ReaderGone => 0,
            Exit::Wrong => 1,
            Exit::Usage => 2,
            Exit::Redis => 3,
            Exit::Interrupted => 130,
        }
    }
}

/// An error. Nothing was changed then.
#[derive(Debug)]
pub struct Problem {
    pub exit: Exit,
    /// For programs: one word.
    pub kind: &'static str,
    /// The message: the fault and its place.
    pub what: String,
    /// A hint for what to try.
    pub hint: Option<String>,
    /// The single faults, if there are several: objects with a `text`.
    pub parts: Vec<Value>,
}

impl Problem {
    pub fn new(exit: Exit, kind: &'static str, what: impl Into<String>) -> Self {
        Self {
            exit,
            kind,
            what: what.into(),
            hint: None,
            parts: Vec::new(),
        }
    }

    /// An argument that no command could follow.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "argument", what)
    }

    /// With what to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With what it is made of.
    pub fn with(mut self, parts: Vec<Value>) -> Self {
        self.parts = parts;
        self
    }

    /// Whether it may be one pool's alone: then the others are not left out for it.
    pub fn is_of_one_pool(&self) -> bool {
        matches!(
            self.kind,
            "garbage" | "not_understood" | "no_pool" | "refused"
        )
    }

    /// The message, with the pool's name in it.
    pub fn named(&self, pool: &str) -> String {
        match self.what.contains(&format!("pool {pool}")) {
            true => self.what.clone(),
            false => format!("pool {pool}: {}", self.what),
        }
    }

    /// To standard error.
    pub fn report(&self, as_json: bool) {
        let text = if as_json {
            let mut error = json!({"kind": self.kind, "message": self.what, "try": self.hint});
            if let (Some(error), false) = (error.as_object_mut(), self.parts.is_empty()) {
                error.insert("errors".to_owned(), self.parts.clone().into());
            }
            Lines::json(&json!({ "error": error }), false)
        } else {
            self.text()
        };
        text.report();
    }

    /// For people.
    pub fn text(&self) -> Lines {
        let mut text = Lines::default();
        for part in &self.parts {
            text.line(part.get("text").and_then(Value::as_str).unwrap_or_default());
        }
        text.line(&format!("error: {}", self.what));
        if let Some(hint) = &self.hint {
            text.line(&format!("  try: {hint}"));
        }
        text
    }
}
