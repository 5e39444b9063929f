//! A pool as an operator sees it: what `inspect.lua` answers. The console and the command line say the same because both say
//! it from here.

use super::changes::Changed;
use super::commands::Override;
use super::fault::Fault;
use super::resp::{Value, Values, whole};
use crate::json::Json;
use crate::pool::BEHIND;
use crate::pool::state::State;
use std::collections::BTreeMap;

/// A flag of an account's record in `ledger.lua`: the configuration disables it.
pub const DISABLED: u64 = 1;
/// The same of one that an operator drained.
pub(super) const DRAINED: u64 = 2;

/// One account, as the next acquire would see it. Parts of the score are in millionths.
#[derive(Debug)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// Its slots.
    pub max: u64,
    /// Its live leases, and expired ones that are not cleared away yet.
    pub used: u64,
    /// The priority's part of its score.
    pub priority_part: u64,
    /// The load's part.
    pub load_part: u64,
    /// The last reason against it that `inspect.lua` names.
    pub state: State,
    /// How long it cools, or waits for its turn, in ms; 0: it doesn't.
    pub cooling_ms: u64,
    /// All that its record says against it.
    pub flags: u64,
    /// What an operator has set of it, whatever its configuration says.
    pub set: Option<Set>,
    /// `requests/ms/burst`; empty: it has no pace.
    pub pace: String,
    /// How far its limit may rise, which adapts; `None`: it does not.
    pub adapts_up_to: Option<u64>,
    /// What took it out of use, until that has proven otherwise or an operator let it go.
    pub off: Option<Off>,
}

/// Why an account is out of use, although its configuration has it enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Off {
    /// The answer: its status, or `grpc-` and its `grpc-status`.
    pub why: String,
    /// When it came, in ms of Redis TIME.
    pub since_ms: u64,
    /// Whether that holds until an operator lets the account go.
    pub for_good: bool,
}

impl Off {
    /// As `inspect.lua` says it: `401 1700000000000 1700000600000`; `None`: no answer took the account out of use.
    #[must_use]
    pub fn read(said: &[u8]) -> Option<Self> {
        let (why, times) = std::str::from_utf8(said).ok()?.split_once(' ')?;
        let (since_ms, until_ms) = times.split_once(' ')?;
        Some(Self {
            why: why.to_owned(),
            since_ms: since_ms.parse().ok()?,
            for_good: until_ms == "0",
        })
    }
}

/// What an operator has set of an account; of what is `None`, nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Set {
    /// Slots.
    pub max_concurrency: Option<u64>,
    /// Lower is preferred.
    pub priority: Option<u64>,
    /// Whether it takes leases.
    pub enabled: Option<bool>,
    /// `requests/ms/burst`, or `none`.
    pub pace: Option<String>,
}

impl Set {
    /// As `inspect.lua` says it: `<max> <priority> <disabled> <pace>`, each - if it is not set.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let mut words = text
            .split(' ')
            .map(|word| Some(word).filter(|word| *word != "-"));
        let [max, priority, disabled, pace] =
            [words.next()?, words.next()?, words.next()?, words.next()?];
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
        let set = Self {
            max_concurrency: number(max),
            priority: number(priority),
            enabled: disabled.map(|disabled| disabled != "1"),
            pace: pace.map(str::to_owned),
        };
        Some(set).filter(|set| *set != Self::default())
    }

    /// In words: `max_concurrency 5, priority 1, enabled, pace 60/60000/10`, of what is set.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut say = |parts: &[&str]| {
            if !text.is_empty() {
                text.push_str(", ");
            }
            parts.iter().for_each(|part| text.push_str(part));
        };
        if let Some(slots) = self.max_concurrency {
            say(&["max_concurrency ", &slots.to_string()]);
        }
        if let Some(priority) = self.priority {
            say(&["priority ", &priority.to_string()]);
        }
        if let Some(enabled) = self.enabled {
            say(&[if enabled { "enabled" } else { "disabled" }]);
        }
        if let Some(pace) = &self.pace {
            say(&["pace ", pace]);
        }
        text
    }

    /// As status and console show it.
    #[inline(never)]
    pub fn write(&self, json: &mut Json) {
        json.raw("{").name("max_concurrency");
        json.number_or_null(self.max_concurrency);
        json.name("priority").number_or_null(self.priority);
        json.name("enabled");
        match self.enabled {
            Some(enabled) => json.flag(enabled),
            None => json.raw("null"),
        };
        json.name("pace").text_or_null(self.pace.as_deref());
        json.raw("}");
    }
}

/// What one tenant has in a pool.
#[derive(Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name, 16 hex digits.
    pub name: String,
    /// Its live leases, and expired ones that are not cleared away yet.
    pub leases: u64,
    /// How many of its requests wait for a slot.
    pub waiting: u64,
    /// How long the first of them has waited, in ms.
    pub longest_wait_ms: u64,
}

/// One pool.
#[derive(Debug, Default)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Redis TIME in ms.
    pub now_ms: u64,
    /// The revision in force.
    pub revision: u64,
    /// The ledger's epoch.
    pub epoch: u64,
    /// Leases that hold a slot and have not expired.
    pub live: u64,
    /// Those that have, and are not cleared away yet.
    pub expired: u64,
    /// The operator's percentage, in basis points.
    pub percent: Option<u16>,
    /// Whether something else stands in its place, which filters ignore.
    pub ignored: bool,
    /// A value in the pool's keys that cannot be there; nothing else of the pool is known then.
    pub error: Option<String>,
    /// How many requests wait for a slot.
    pub waiting: u64,
    /// How long the first of them has waited, in ms.
    pub longest_wait_ms: u64,
    /// Fifty at most, those of whom most wait first.
    pub tenants: Vec<Tenant>,
    /// What was changed last, the newest first, ten at most.
    pub changes: Vec<Changed>,
    /// Whether the accounts are the operators', and no configuration's.
    pub accounts_are_ledgers: bool,
    /// In no order.
    pub accounts: Vec<Account>,
    /// The place of each account by its id: a scan may show an account twice.
    places: BTreeMap<String, usize>,
}

impl Pool {
    /// Takes in one page of `inspect.lua`. Returns the cursor of the next; `None`: this was the last.
    ///
    /// # Errors
    /// The [`Fault`] that stands in its place.
    pub fn page(&mut self, reply: &[u8]) -> Result<Option<String>, Fault> {
        let mut values = Values::new(reply);
        // No page but the first says who waits, and what was changed.
        let is_first = match values.value() {
            Some(Value::Array(9)) => false,
            Some(Value::Array(11)) => true,
            other => return Err(Fault::in_place_of(other)),
        };
        let next = self.head_and_rows(&mut values).ok_or(Fault::Garbage)?;
        if is_first {
            self.queue(&mut values).ok_or(Fault::Garbage)?;
            self.changes(&mut values).ok_or(Fault::Garbage)?;
        }
        Ok(next)
    }

    fn changes(&mut self, values: &mut Values) -> Option<()> {
        let Value::Array(lines) = values.value()? else {
            return None;
        };
        self.changes.clear();
        for _ in 0..lines {
            self.changes.extend(Changed::read(values.bulk()?));
        }
        Some(())
    }

    fn queue(&mut self, values: &mut Values) -> Option<()> {
        match values.value()? {
            Value::Array(3) => {}
            // The user may not ask for it.
            Value::Array(0) => return Some(()),
            _ => return None,
        }
        self.waiting = values.number()?;
        self.longest_wait_ms = values.number()?;
        let Value::Array(tenants) = values.value()? else {
            return None;
        };
        self.tenants.clear();
        for _ in 0..tenants {
            if values.value()? != Value::Array(4) {
                return None;
            }
            self.tenants.push(Tenant {
                name: text(values.bulk()?)?,
                leases: values.number()?,
                waiting: values.number()?,
                longest_wait_ms: values.number()?,
            });
        }
        Some(())
    }

    fn head_and_rows(&mut self, values: &mut Values) -> Option<Option<String>> {
        let cursor = text(values.bulk()?)?;
        self.now_ms = values.number()?;
        self.revision = match values.value()? {
            Value::Bulk(digits) => std::str::from_utf8(digits).ok()?.parse().ok()?,
            Value::Nil => 0,
            Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Array(_) => {
                return None;
            }
        };
        self.epoch = values.number()?;
        let leases = values.number()?;
        self.expired = values.number()?;
        self.live = leases.saturating_sub(self.expired);
        self.set_percent(match values.value()? {
            Value::Bulk(text) => text,
            Value::Nil => b"",
            Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Array(_) => {
                return None;
            }
        });
        let Value::Array(rows) = values.value()? else {
            return None;
        };
        for _ in 0..rows {
            if values.value()? != Value::Array(12) {
                return None;
            }
            let account = Account {
                id: text(values.bulk()?)?,
                max: values.number()?,
                used: values.number()?,
                priority_part: values.number()?,
                load_part: values.number()?,
                state: State::of(values.bulk()?)?,
                cooling_ms: values.number()?.saturating_sub(self.now_ms),
                flags: values.number()?,
                set: Set::of(&text(values.bulk()?)?),
                pace: text(values.bulk()?)?,
                off: Off::read(values.bulk()?),
                adapts_up_to: whole(values.bulk()?),
            };
            self.put(account);
        }
        self.accounts_are_ledgers = values.bulk()? == b"ledger";
        Some((cursor != "0").then_some(cursor))
    }

    /// Takes in the operator's percentage as it stands in Redis; empty: none.
    pub fn set_percent(&mut self, text: &[u8]) {
        let percent = Override::of(text);
        self.ignored = percent == Override::Malformed;
        self.percent = match percent {
            Override::BasisPoints(points) => Some(points),
            Override::Absent | Override::Malformed => None,
        };
    }

    /// Takes in one account.
    pub fn put(&mut self, account: Account) {
        let place = self.places.entry(account.id.clone());
        let place = *place.or_insert(self.accounts.len());
        match self.accounts.get_mut(place) {
            Some(seen) => *seen = account,
            None => self.accounts.push(account),
        }
    }

    /// As `status` shows it; `more`: it has more accounts than that.
    pub fn write(&self, json: &mut Json, more: bool) {
        json.raw("{").name("pool").text(&self.name);
        json.name("redis_time_ms").number(self.now_ms);
        json.name("revision").number(self.revision);
        json.name("epoch").number(self.epoch);
        json.name("leases").raw("{").name("live").number(self.live);
        json.name("expired").number(self.expired).raw("}");
        json.name("percent_override").percent(self.percent);
        self.write_queue(json);
        let from = if self.accounts_are_ledgers {
            "ledger"
        } else {
            "config"
        };
        json.name("accounts_from").text(from);
        json.name("more").flag(more);
        json.name("accounts").raw("[");
        for account in &self.accounts {
            account.write(json);
            json.raw("}");
        }
        json.raw("]").name("changes").raw("[");
        for change in &self.changes {
            change.write(json);
        }
        json.raw("]");
        if let Some(error) = &self.error {
            json.name("error").text(error);
        }
        json.raw("}");
    }

    /// Who waits, as `status` and `explain` show it.
    #[inline(never)]
    pub(super) fn write_queue(&self, json: &mut Json) {
        json.name("queue").raw("{");
        write_waiting(json, self.waiting, self.longest_wait_ms);
        json.name("tenants").raw("[");
        for tenant in &self.tenants {
            json.raw("{").name("tenant").text(&tenant.name);
            json.name("leases").number(tenant.leases);
            write_waiting(json, tenant.waiting, tenant.longest_wait_ms);
            json.raw("}");
        }
        json.raw("]").raw("}");
    }
}

fn write_waiting(json: &mut Json, waiting: u64, longest_wait_ms: u64) {
    json.name("waiting").number(waiting);
    json.name("longest_wait_ms").number(longest_wait_ms);
}

impl Account {
    /// Its object, not closed.
    #[inline(never)]
    pub(super) fn write(&self, json: &mut Json) {
        json.raw("{").name("id").text(&self.id);
        json.name("state").text(self.state.as_str());
        json.name("used").number(self.used);
        json.name("max_concurrency").number(self.max);
        json.name("cooling_ms").number(self.cooling_ms);
        let pace = Some(self.pace.as_str()).filter(|pace| !pace.is_empty());
        json.name("pace").text_or_null(pace);
        json.name("adapts_up_to").number_or_null(self.adapts_up_to);
        json.name("set");
        match &self.set {
            Some(set) => set.write(json),
            None => {
                json.raw("null");
            }
        }
        json.name("out_of_use");
        match &self.off {
            None => json.raw("null"),
            Some(off) => {
                json.raw("{").name("why").text(&off.why);
                json.name("since_ms").number(off.since_ms).name("left_ms");
                if off.for_good {
                    json.raw("null")
                } else {
                    json.number(self.cooling_ms)
                };
                json.raw("}")
            }
        };
    }

    /// Whether an answer took it out of use until an operator lets it go.
    #[must_use]
    pub fn is_off_for_good(&self) -> bool {
        self.off.as_ref().is_some_and(|off| off.for_good)
    }

    /// What took it out of use, and for how much longer; `None`: nothing did, or its time is over and it probes.
    #[must_use]
    pub fn out_of_use(&self) -> Option<String> {
        let off = self.off.as_ref()?;
        let until = if off.for_good {
            "until an operator ends it".to_owned()
        } else if self.cooling_ms > 0 {
            [&duration(self.cooling_ms), " left"].concat()
        } else {
            return None;
        };
        Some(["disabled after ", &off.why, ", ", &until].concat())
    }

    /// Its score without the random part.
    pub(super) fn score(&self) -> u64 {
        self.priority_part.saturating_add(self.load_part)
    }

    /// The number by which accounts are compared: the lowest is chosen.
    pub(super) fn rank(&self) -> u64 {
        let last = if self.state == State::Behind {
            BEHIND as u64
        } else {
            0
        };
        self.score().saturating_add(last)
    }
}

/// UTF-8 as a string of its own.
pub(crate) fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// Text that someone else wrote, in quotes, without control characters, and not too long.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// A length of time in the two units that matter.
#[must_use]
pub fn duration(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    let two = |more: u64, unit: &str, less: u64, small: &str| {
        [&more.to_string(), unit, &less.to_string(), small].concat()
    };
    match seconds {
        0..=59 => {
            let tenths = ms.saturating_add(50) / 100;
            two(tenths / 10, ".", tenths % 10, " s")
        }
        60..=3_599 => two(seconds / 60, " min ", seconds % 60, " s"),
        _ => two(seconds / 3_600, " h ", seconds % 3_600 / 60, " min"),
    }
}
