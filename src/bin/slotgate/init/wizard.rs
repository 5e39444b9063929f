//! Questions instead of a file: their answers are written as a `pools.yaml`.

use super::plan::{Layout, Upstream};
use super::rules;
use crate::problem::{Exit, Problem};
use crate::show::Lines;
use std::io::{BufRead, Write};

/// Who answers.
pub struct Wizard<R, W> {
    pub answers: R,
    /// Questions are not output.
    pub questions: W,
}

impl<R: BufRead, W: Write> Wizard<R, W> {
    /// The text of a `pools.yaml`.
    pub fn ask(mut self, fragment: bool) -> Result<String, Problem> {
        self.say("An empty answer takes what stands in brackets.");
        let layout = self.one(
            "Layout: one-host (many keys for one host), cluster-per-account or sidecar",
            Some("one-host"),
            rules::layout,
        )?;
        let one_host = layout == Layout::OneHost;
        let shared = match one_host {
            true => Some(self.one(
                "Upstream: https://host, or http://host:port",
                None,
                upstream,
            )?),
            false => None,
        };
        let redis = self.one("Redis: host:port", Some("127.0.0.1:6379"), |text| {
            rules::endpoint(text, Some(6379)).map(|at| at.to_string())
        })?;
        let port = if layout == Layout::Sidecar {
            "10001"
        } else {
            "10000"
        };
        let listen = match fragment {
            true => None,
            false => Some(self.one("Port that clients call", Some(port), |text| {
                rules::listen(text).map(|_| text.to_owned())
            })?),
        };
        let pool = self.one("Name of the pool", Some("main"), rules::name)?;
        let mut accounts = String::new();
        loop {
            let question = match accounts.is_empty() {
                true => "Account: a name for it",
                false => "Next account (empty: no more)",
            };
            let more = self.maybe(question, accounts.is_empty(), rules::name)?;
            let Some(id) = more else { break };
            let limit = self.one("  requests at a time", None, rules::limit)?;
            accounts.push_str(&format!("  - {{id: {}, limit: {limit}", text_of(&id)));
            let (hint, needed) = match one_host {
                true => ("  variable that holds its key", true),
                false => ("  variable that holds its key (empty: none)", false),
            };
            if let Some(key) = self.maybe(hint, needed, rules::variable)? {
                accounts.push_str(&format!(", key_env: {key}"));
            }
            if !one_host {
                let host = self.one(
                    "  its upstream: https://host, or http://host:port",
                    None,
                    upstream,
                )?;
                accounts.push_str(&format!(", upstream: {host}"));
            }
            accounts.push_str("}\n");
        }
        // Without an upstream for all there is nowhere for the others to go.
        let share = match one_host {
            true => self.one(
                "Per cent of the sessions that take slots",
                Some("100"),
                |text| rules::percentage(text).map(|_| text.to_owned()),
            )?,
            false => "100".to_owned(),
        };
        let mut text = format!("layout: {}\n", layout.name());
        if let Some(shared) = shared {
            text.push_str(&format!("upstream: {shared}\n"));
        }
        text.push_str(&format!("redis: {:?}\n", redis));
        if let Some(listen) = listen {
            text.push_str(&format!("listen: {:?}\n", listen));
        }
        text.push_str(&format!("percent: {share}\n"));
        text.push_str(&format!("pools:\n- name: {}\n", text_of(&pool)));
        text.push_str("  revision: 1 # raise it when accounts or limits change\n  accounts:\n");
        Ok(text + &accounts)
    }

    /// Asks until the answer fits.
    fn one<T>(
        &mut self,
        question: &str,
        usual: Option<&str>,
        rule: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Problem> {
        loop {
            let answer = self.answer(question, usual)?;
            match rule(&answer) {
                Ok(value) => return Ok(value),
                Err(why) => self.say(&format!("  {why}")),
            }
        }
    }

    /// The same, where an empty answer may be one too.
    fn maybe(
        &mut self,
        question: &str,
        needed: bool,
        rule: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Option<String>, Problem> {
        self.one(question, None, |text| match text.is_empty() && !needed {
            true => Ok(None),
            false => rule(text).map(Some),
        })
    }

    fn answer(&mut self, question: &str, usual: Option<&str>) -> Result<String, Problem> {
        let hint = usual.map(|usual| format!(" [{usual}]")).unwrap_or_default();
        let _ = write!(self.questions, "{question}{hint}: ");
        let _ = self.questions.flush();
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).map_err(|error| {
            Problem::new(
                Exit::Usage,
                "answers",
                format!("an answer can't be read: {error}"),
            )
        })?;
        if read == 0 {
            let what = format!("no answer to \"{question}\"; nothing was written");
            return Err(Problem::new(Exit::Usage, "answers", what).hint("slotgate init pools.yaml"));
        }
        let line = line.trim();
        Ok(match (line.is_empty(), usual) {
            (true, Some(usual)) => usual.to_owned(),
            _ => line.to_owned(),
        })
    }

    fn say(&mut self, text: &str) {
        // Nobody may be looking any more; the answers say so then.
        let _ = self.questions.write_all(Lines::of(text).as_bytes());
    }
}

fn upstream(text: &str) -> Result<String, String> {
    match rules::upstream(text)? {
        Upstream::Host { .. } => Ok(text.to_owned()),
        Upstream::Cluster(name) => Ok(name),
    }
}

/// Names may look like numbers.
fn text_of(name: &str) -> String {
    match name.starts_with(|char: char| char.is_ascii_alphabetic()) {
        true => name.to_owned(),
        false => format!("{name:?}"),
    }
}
