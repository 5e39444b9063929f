//! `slotgate account`: accounts that change while everything runs.

use crate::Answer;
use crate::init::marked::{self, Node, Place, Value};
use crate::init::rules::whole;
use crate::problem::{Exit, Problem};
use crate::server::Server;
use crate::show::{Cell, Lines};
use crate::words::{count, document, name, quoted};
use serde_json::json;
use slotgate::ledger::commands::{AccountTerms, Change};
use slotgate::ledger::view::{Account, Set, duration};
use std::collections::BTreeMap;

/// Accounts in one call: Redis does nothing else meanwhile.
const TOGETHER: usize = 50;
/// How many changes are told one by one.
const TOLD: usize = 20;

/// What arguments say of an account.
pub struct Given {
    pub id: String,
    pub max_concurrency: Option<String>,
    pub priority: Option<String>,
    pub enabled: Option<bool>,
    pub pace: Option<String>,
}

impl Given {
    /// As the ledger is told it. `new`: it may be a new account.
    pub fn terms(self, new: bool) -> Result<AccountTerms, Problem> {
        name("account", &self.id)?;
        let number = |option: &str, text: Option<String>, least, most| match text {
            None => Ok(String::new()),
            Some(text) => match whole(&text, least, most) {
                Ok(number) => Ok(number.to_string()),
                Err(rule) => Err(Problem::usage(format!("--{option} {rule}"))),
            },
        };
        let pace = self.pace.as_deref().map(pace).transpose();
        let pace = pace.map_err(|rule| Problem::usage(format!("--pace {rule}")))?;
        let terms = AccountTerms {
            id: self.id,
            max_concurrency: number("max-concurrency", self.max_concurrency, 1, 100_000)?,
            priority: number("priority", self.priority, 0, 1_000_000)?,
            disabled: disabled(self.enabled),
            pace: pace.unwrap_or_default(),
        };
        let says_nothing = AccountTerms {
            id: terms.id.clone(),
            ..AccountTerms::default()
        };
        if terms == says_nothing {
            let what = if new {
                "a new account needs --max-concurrency"
            } else {
                "nothing to set"
            };
            return Err(Problem::usage(what)
                .hint("--max-concurrency, --priority, --enable, --disable or --pace"));
        }
        Ok(terms)
    }
}

fn disabled(enabled: Option<bool>) -> String {
    match enabled {
        Some(true) => "0".to_owned(),
        Some(false) => "1".to_owned(),
        None => String::new(),
    }
}

/// `50/60s`, `50/60s/10` or `none`, as the ledger has it.
fn pace(text: &str) -> Result<String, String> {
    if text == "none" {
        return Ok("none".to_owned());
    }
    let rule = || {
        format!(
            "{} is not requests/time or requests/time/burst, like 50/60s/10, nor none",
            quoted(text)
        )
    };
    let mut parts = text.split('/');
    let (requests, time) = parts.next().zip(parts.next()).ok_or_else(rule)?;
    let burst = parts.next().unwrap_or("1");
    if parts.next().is_some() {
        return Err(rule());
    }
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let per_ms = units.into_iter().find_map(|(unit, ms)| {
        let number = time.strip_suffix(unit)?.parse::<u64>().ok()?;
        number.checked_mul(ms)
    });
    pace_of(
        whole(requests, 1, 1_000_000)?,
        per_ms.ok_or_else(rule)?,
        whole(burst, 1, 1_000_000)?,
    )
}

fn pace_of(requests: u64, per_ms: u64, burst: u64) -> Result<String, String> {
    if !(1..=86_400_000).contains(&per_ms) {
        return Err(format!("{per_ms} ms is not in 1..=86400000 ms"));
    }
    if burst > requests {
        return Err(format!(
            "a burst of {burst} is more than the {requests} requests"
        ));
    }
    Ok(format!("{requests}/{per_ms}/{burst}"))
}

/// The accounts of arguments that name nothing else.
pub fn named(ids: &[String]) -> Result<Vec<AccountTerms>, Problem> {
    let mut all: Vec<AccountTerms> = Vec::new();
    for id in ids {
        name("account", id)?;
        if all.iter().all(|other| other.id != *id) {
            all.push(AccountTerms {
                id: id.clone(),
                ..AccountTerms::default()
            });
        }
    }
    Ok(all)
}

/// The accounts of a file. Every mistake is told at once, each with its line.
pub fn from_file(file: &str, text: &str) -> Result<Vec<AccountTerms>, Problem> {
    let mut reader = Reader::default();
    let accounts = match marked::read(text) {
        Ok(Some(node)) => reader.file(&node),
        Ok(None) => Vec::new(),
        Err((place, problem)) => {
            reader.mistake(place, "", problem);
            Vec::new()
        }
    };
    let mistakes = reader.mistakes;
    if mistakes.is_empty() && !accounts.is_empty() {
        return Ok(accounts);
    }
    let shown = if file == "-" { "standard input" } else { file };
    let what = if mistakes.is_empty() {
        format!("{shown} has no accounts; nothing was changed")
    } else {
        let count = count(mistakes.len() as u64, "mistake");
        format!("{shown} has {count}; nothing was changed")
    };
    let listed = mistakes.into_iter().map(|(place, path, problem)| {
        let text = format!("{shown}:{place}: {path}{}{problem}", if path.is_empty() { "" } else { ": " });
        json!({"line": place.line, "column": place.column, "path": path, "problem": problem, "text": text})
    });
    Err(Problem::new(Exit::Wrong, "accounts", what)
        .hint("accounts: [{id: key-1, max_concurrency: 10, priority: 1, enabled: true, pace: {requests: 50, per_ms: 60000}}]")
        .with(listed.collect()))
}

#[derive(Default)]
struct Reader {
    mistakes: Vec<(Place, String, String)>,
    ids: BTreeMap<String, usize>,
}

impl Reader {
    fn mistake(&mut self, place: Place, path: &str, problem: impl Into<String>) {
        self.mistakes.push((place, path.to_owned(), problem.into()));
    }

    fn file(&mut self, node: &Node) -> Vec<AccountTerms> {
        let list = match &node.value {
            Value::Map(fields) => {
                for (name, _) in fields.iter().filter(|(name, _)| name.text != "accounts") {
                    let problem =
                        format!("{} is no field here; it is `accounts`", quoted(&name.text));
                    self.mistake(name.place, "", problem);
                }
                fields
                    .iter()
                    .find(|(name, _)| name.text == "accounts")
                    .map(|(_, list)| list)
            }
            _ => Some(node),
        };
        let Some(list) = list else {
            return Vec::new();
        };
        let Value::List(nodes) = &list.value else {
            self.mistake(
                list.place,
                "accounts",
                format!("{}, not a list", list.value.kind()),
            );
            return Vec::new();
        };
        let numbered = nodes.iter().enumerate();
        numbered
            .map(|(index, node)| self.account(node, &format!("accounts[{index}]")))
            .collect()
    }

    fn account(&mut self, node: &Node, path: &str) -> AccountTerms {
        let mut terms = AccountTerms::default();
        let Value::Map(fields) = &node.value else {
            self.mistake(
                node.place,
                path,
                format!("{}, not an object", node.value.kind()),
            );
            return terms;
        };
        for (index, (name, node)) in fields.iter().enumerate() {
            let path = format!("{path}.{}", name.text);
            let read = if fields
                .iter()
                .take(index)
                .any(|(other, _)| other.text == name.text)
            {
                Err("is there twice".to_owned())
            } else {
                self.field(&mut terms, &name.text, node)
            };
            if let Err(problem) = read {
                self.mistake(node.place, &path, problem);
            }
        }
        if terms.id.is_empty() {
            if fields.iter().all(|(name, _)| name.text != "id") {
                self.mistake(node.place, path, "has no id");
            }
        } else if let Some(line) = self.ids.insert(terms.id.clone(), node.place.line) {
            self.mistake(
                node.place,
                path,
                format!("{} is in line {line} already", quoted(&terms.id)),
            );
        }
        terms
    }

    fn field(&mut self, terms: &mut AccountTerms, name: &str, node: &Node) -> Result<(), String> {
        if name == "pace" {
            terms.pace = match &node.value {
                Value::Map(fields) => {
                    let mut parts = [None, None, Some(1)];
                    for (part, node) in fields {
                        let place = ["requests", "per_ms", "burst"]
                            .iter()
                            .position(|known| *known == part.text);
                        let slot = place.and_then(|place| parts.get_mut(place));
                        let slot = slot.ok_or_else(|| {
                            format!("{} is no field of a pace", quoted(&part.text))
                        })?;
                        *slot = Some(
                            whole(scalar(node)?, 1, 86_400_000)
                                .map_err(|rule| format!("{}: {rule}", part.text))?,
                        );
                    }
                    let [Some(requests), Some(per_ms), Some(burst)] = parts else {
                        return Err("needs requests and per_ms".to_owned());
                    };
                    if requests > 1_000_000 {
                        return Err(format!("requests: {requests} is not in 1..=1000000"));
                    }
                    pace_of(requests, per_ms, burst)?
                }
                _ => pace(scalar(node)?)?,
            };
            return Ok(());
        }
        let text = scalar(node)?;
        match name {
            "id" => {
                crate::init::rules::name(text)?;
                text.clone_into(&mut terms.id);
            }
            "max_concurrency" => terms.max_concurrency = whole(text, 1, 100_000)?.to_string(),
            "priority" => terms.priority = whole(text, 0, 1_000_000)?.to_string(),
            "enabled" => {
                let enabled = text
                    .parse::<bool>()
                    .map_err(|_| format!("{} is neither true nor false", quoted(text)))?;
                terms.disabled = disabled(Some(enabled));
            }
            _ => {
                return Err(
                    "is no field of an account: id, max_concurrency, priority, enabled, pace"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

fn scalar(node: &Node) -> Result<&str, String> {
    match &node.value {
        Value::Scalar(text) => Ok(text),
        other => Err(format!("{}, not a single value", other.kind())),
    }
}

/// Changes accounts. Those of one call are changed together; all are checked before any is.
pub fn put(
    server: &mut Server,
    pool: &Option<String>,
    change: Change,
    accounts: &[AccountTerms],
) -> Result<Answer, Problem> {
    let pool = server.one_pool(pool.as_deref())?;
    if accounts.len() > TOGETHER {
        for some in accounts.chunks(TOGETHER) {
            server.account(&pool, change, true, some)?;
        }
    }
    let mut text = Lines::default();
    let (mut rows, mut counts) = (Vec::new(), BTreeMap::<String, u64>::new());
    for some in accounts.chunks(TOGETHER) {
        let changed = server
            .account(&pool, change, false, some)
            .map_err(|mut problem| {
                if !rows.is_empty() {
                    problem.what = format!("{}; {} were changed before", problem.what, rows.len());
                }
                problem
            })?;
        for (terms, (what, before, now)) in some.iter().zip(changed) {
            if accounts.len() <= TOLD {
                text.line(&told(&terms.id, &pool, &what, &before, &now));
            }
            rows.push(json!({
                "account": terms.id, "outcome": what, "changed": what != "same" && what != "missing",
                "before": shown(&before), "now": shown(&now),
            }));
            let number = counts.entry(what).or_default();
            *number = number.saturating_add(1);
        }
    }
    if accounts.len() > TOLD {
        let parts: Vec<String> = counts
            .iter()
            .map(|(what, number)| format!("{number} {what}"))
            .collect();
        text.line(&format!("pool {pool}: {}", parts.join(", ")));
    }
    Ok(Answer {
        text,
        json: json!({"action": change.action(), "pool": pool, "accounts": rows}),
        exit: Exit::Done,
    })
}

/// How an account was or is; null: not there.
fn shown(text: &str) -> serde_json::Value {
    match Set::of(text) {
        Some(set) => document(|json| set.write(json)),
        None => json!(null),
    }
}

/// What came of one account's change, in words.
fn told(account: &str, pool: &str, what: &str, before: &str, now: &str) -> String {
    let place = format!("{account} of pool {pool}");
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let (before, now) = (words(before), words(now));
    let said = |place: usize, word: &str| match (place, word) {
        (1 | 3, "-") => "none set".to_owned(),
        (2, "1") => "disabled".to_owned(),
        (2, _) => "enabled".to_owned(),
        (_, word) => word.to_owned(),
    };
    let names = ["max_concurrency", "priority", "", "pace"];
    let mut changes = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let (Some(old), Some(new)) = (before.get(index), now.get(index)) else {
            continue;
        };
        if old != new {
            let (old, new) = (said(index, old), said(index, new));
            changes.push(format!("{name} {old} -> {new}").trim_start().to_owned());
        }
    }
    match what {
        "added" => format!(
            "{place} is added, with {} slots",
            now.first().map_or("", String::as_str)
        ),
        "removed" => {
            format!("{place} is removed: it takes no new leases, and those that live finish")
        }
        "missing" => format!("{place} was not there"),
        "same" => format!("{place} was so already"),
        "reset" if changes.is_empty() => format!("{place} is reset"),
        "reset" => format!("{place} is reset: {}", changes.join(", ")),
        _ if changes.is_empty() => format!("{place} is changed"),
        _ => format!("{place}: {}", changes.join(", ")),
    }
}

/// Every account of a pool.
pub fn list(server: &mut Server, pool: Option<&str>) -> Result<Answer, Problem> {
    let pool = server.one_pool(pool)?;
    let seen = server.pool(&pool)?;
    let from = if seen.accounts_are_ledgers {
        "accounts from the ledger"
    } else {
        "accounts from the configuration"
    };
    let mut text = Lines::of(&format!(
        "pool {pool}  {}  {from}  revision {}",
        count(seen.accounts.len() as u64, "account"),
        seen.revision
    ));
    let mut lines: Vec<Vec<Cell>> = vec![
        ["account", "used", "state", "pace", "set by an operator"]
            .map(Cell::from)
            .into(),
    ];
    for account in &seen.accounts {
        let state = match account.cooling_ms {
            0 => account.state.as_str().to_owned(),
            left => format!("{} {}", account.state.as_str(), duration(left)),
        };
        lines.push(vec![
            Cell::from(&account.id),
            format!("{}/{}", account.used, account.max).into(),
            state.into(),
            if account.pace.is_empty() {
                "-"
            } else {
                &account.pace
            }
            .to_owned()
            .into(),
            set_words(account).into(),
        ]);
    }
    text.table(&lines);
    Ok(Answer {
        text,
        json: document(|json| seen.write(json, false)),
        exit: Exit::Done,
    })
}

/// What an operator has set of an account.
pub fn set_words(account: &Account) -> String {
    let set = account.set.as_ref();
    set.map_or_else(|| "-".to_owned(), Set::text)
}
