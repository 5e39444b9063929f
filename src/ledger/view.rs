//! A pool as an operator sees it: what `inspect.lua` answers, and why each account would or would not be taken now. The
//! console and the command line say the same because both say it from here.

use super::chance::chances;
use super::commands::Override;
use super::fault::Fault;
use super::resp::{Value, Values, whole};
use crate::json::Json;
use crate::pool::BEHIND;
use std::collections::BTreeMap;

/// A flag of an account's record in `ledger.lua`: the configuration disables it.
pub const DISABLED: u64 = 1;
const DRAINED: u64 = 2;

/// The state of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The account takes leases.
    Free,
    /// The account takes leases only when no other does: it failed too often.
    Behind,
    /// All its slots are used.
    Full,
    /// The account has cooled, and takes one lease as a probe.
    Probe,
    /// The probe is under way.
    Probing,
    /// Not enabled in the configuration, or an answer took it out of use.
    Disabled,
    /// An operator drained it.
    Drained,
    /// It has had as many requests as it may for now.
    Paced,
    /// After upstream pushback.
    Cooling,
    /// No longer configured; its last leases finish.
    Removed,
}

impl State {
    const ALL: [Self; 10] = [
        Self::Free,
        Self::Behind,
        Self::Full,
        Self::Probe,
        Self::Probing,
        Self::Disabled,
        Self::Drained,
        Self::Paced,
        Self::Cooling,
        Self::Removed,
    ];

    /// As `inspect.lua` says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Behind => "behind",
            Self::Full => "full",
            Self::Probe => "probe",
            Self::Probing => "probing",
            Self::Disabled => "disabled",
            Self::Drained => "drained",
            Self::Paced => "paced",
            Self::Cooling => "cooling",
            Self::Removed => "removed",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str().as_bytes() == name)
    }
}

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
        // No page but the first says anything of a queue.
        let has_queue = match values.value() {
            Some(Value::Array(9)) => false,
            Some(Value::Array(10)) => true,
            other => return Err(Fault::in_place_of(other)),
        };
        let next = self.head_and_rows(&mut values).ok_or(Fault::Garbage)?;
        if has_queue {
            self.queue(&mut values).ok_or(Fault::Garbage)?;
        }
        Ok(next)
    }

    fn queue(&mut self, values: &mut Values) -> Option<()> {
        if values.value()? != Value::Array(3) {
            return None;
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
        json.raw("]");
        if let Some(error) = &self.error {
            json.name("error").text(error);
        }
        json.raw("}");
    }

    /// Who waits, as `status` and `explain` show it.
    #[inline(never)]
    fn write_queue(&self, json: &mut Json) {
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
    fn write(&self, json: &mut Json) {
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
    fn score(&self) -> u64 {
        self.priority_part.saturating_add(self.load_part)
    }

    /// The number by which accounts are compared: the lowest is chosen.
    fn rank(&self) -> u64 {
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

/// The outcome of the next acquire.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// It takes the session's own account.
    Bound(String),
    /// The lowest score wins.
    Score,
    /// No account can take a lease.
    Saturated,
}

/// The session and the scope of the request that is asked about.
#[derive(Debug, Default)]
pub struct Question {
    /// The session, and the account it is bound to.
    pub session: Option<(String, Option<String>)>,
    /// The scope whose own cooldowns count too.
    pub scope: Option<String>,
    /// Until when accounts cool in the scope, in ms of Redis TIME.
    pub scope_until_ms: Vec<(String, u64)>,
    /// Full weight of chance, in millionths.
    pub random: u64,
}

/// An account and what is to be said of it.
#[derive(Debug)]
pub struct Line<'a> {
    /// The account.
    pub account: &'a Account,
    /// Why it can't take a lease; empty: it can.
    pub against: Vec<String>,
    /// How likely it is the next.
    pub chance: f64,
    /// Whether the session is bound to it.
    pub bound: bool,
    /// Whether a session bound to it stays so while it can't be taken: acquire.lua's rule.
    pub keeps: bool,
}

/// Why each account of a pool would or would not be taken now.
#[derive(Debug)]
pub struct Explained<'a> {
    /// The pool.
    pub pool: &'a Pool,
    /// The session and the scope that were asked about.
    pub question: &'a Question,
    /// The outcome of the next acquire.
    pub next: Next,
    /// Each account.
    pub lines: Vec<Line<'a>>,
}

/// Judges every account.
#[must_use]
pub fn explain<'a>(pool: &'a Pool, question: &'a Question) -> Explained<'a> {
    let bound_to = question
        .session
        .as_ref()
        .and_then(|(_, bound)| bound.as_deref());
    let mut lines: Vec<Line> = pool
        .accounts
        .iter()
        .map(|account| Line {
            account,
            against: against(account, question, pool.now_ms),
            chance: 0.0,
            bound: bound_to == Some(account.id.as_str()),
            keeps: match account.state {
                State::Free | State::Behind | State::Full | State::Probe | State::Probing => true,
                State::Paced | State::Cooling | State::Disabled => {
                    account.flags & (DISABLED | DRAINED) == 0
                }
                State::Drained | State::Removed => false,
            },
        })
        .collect();
    // One that is behind spills, unless all that are free are behind.
    let others = pool.accounts.iter().any(|account| match account.state {
        State::Free | State::Probe => true,
        State::Behind
        | State::Full
        | State::Probing
        | State::Disabled
        | State::Drained
        | State::Paced
        | State::Cooling
        | State::Removed => false,
    });
    let bound = lines.iter_mut().find(|line| {
        line.bound && line.against.is_empty() && !(line.account.state == State::Behind && others)
    });
    let next = if let Some(bound) = bound {
        bound.chance = 1.0;
        Next::Bound(bound.account.id.clone())
    } else {
        let mut free = Vec::new();
        for line in &lines {
            if line.against.is_empty() {
                free.push((line.account.id.as_str(), line.account.rank()));
            }
        }
        let mut chances = chances(&free, question.random).into_iter();
        for line in &mut lines {
            if line.against.is_empty() {
                line.chance = chances.next().unwrap_or(0.0);
            }
        }
        if free.is_empty() {
            Next::Saturated
        } else {
            Next::Score
        }
    };
    Explained {
        pool,
        question,
        next,
        lines,
    }
}

/// Every reason why it can't take a lease.
fn against(account: &Account, question: &Question, now_ms: u64) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut say = |parts: &[&str]| reasons.push(parts.concat());
    if account.state == State::Removed {
        say(&["no longer configured, its last leases finish"]);
    }
    let out_of_use = account.out_of_use();
    if account.flags & DISABLED != 0 && !account.is_off_for_good() {
        let by_operator = account
            .set
            .as_ref()
            .is_some_and(|set| set.enabled == Some(false));
        let by = if by_operator {
            "by an operator"
        } else {
            "in the configuration"
        };
        say(&["disabled ", by]);
    }
    if account.flags & DRAINED != 0 {
        say(&["drained by an operator"]);
    }
    if let Some(why) = &out_of_use {
        say(&[why]);
    } else if account.state == State::Paced {
        let left = duration(account.cooling_ms);
        say(&[
            "out of pace (",
            &account.pace,
            "), its next turn comes in ",
            &left,
        ]);
    } else if account.cooling_ms > 0 {
        say(&["cooling for ", &duration(account.cooling_ms), " more"]);
    }
    let mut left_ms = 0;
    for (id, until_ms) in &question.scope_until_ms {
        if *id == account.id {
            left_ms = until_ms.saturating_sub(now_ms);
        }
    }
    if let (Some(scope), true) = (&question.scope, left_ms > 0) {
        let left = duration(left_ms);
        say(&["cooling for ", &left, " more in scope ", &quoted(scope)]);
    }
    if account.state == State::Probing {
        say(&["it has cooled, and a probe is under way"]);
    }
    if account.used >= account.max {
        let (used, max) = (account.used.to_string(), account.max.to_string());
        let adapts = match account.adapts_up_to {
            Some(most) => [", a limit that adapts up to ", &most.to_string()].concat(),
            None => String::new(),
        };
        say(&[&used, " of ", &max, " slots used", &adapts]);
    }
    reasons
}

impl Explained<'_> {
    /// As both show it.
    pub fn write(&self, json: &mut Json) {
        let pool = self.pool;
        json.raw("{").name("pool").text(&pool.name);
        json.name("redis_time_ms").number(pool.now_ms);
        json.name("revision").number(pool.revision);
        json.name("percent_override").percent(pool.percent);
        json.name("expired_leases").number(pool.expired);
        pool.write_queue(json);
        json.name("session");
        match &self.question.session {
            None => json.raw("null"),
            Some((_, bound)) => {
                let stays = self.lines.iter().any(|line| line.bound && line.keeps);
                json.raw("{")
                    .name("bound_to")
                    .text_or_null(bound.as_deref());
                json.name("stays_bound").flag(stays).raw("}")
            }
        };
        let (outcome, account) = match &self.next {
            Next::Bound(account) => ("bound", Some(account.as_str())),
            Next::Score => ("score", None),
            Next::Saturated => ("saturated", None),
        };
        json.name("next").raw("{").name("outcome").text(outcome);
        json.name("account").text_or_null(account).raw("}");
        json.name("accounts").raw("[");
        for line in &self.lines {
            line.write(json, self.question.random);
        }
        json.raw("]").raw("}");
    }
}

impl Line<'_> {
    fn write(&self, json: &mut Json, random: u64) {
        let account = self.account;
        let lowest = account.score();
        account.write(json);
        json.name("score").raw("{").name("priority");
        json.millionths(account.priority_part).name("load");
        json.millionths(account.load_part).name("random").raw("[");
        json.millionths(0).millionths(random).raw("]").name("sum");
        json.raw("[").millionths(lowest);
        json.millionths(lowest.saturating_add(random))
            .raw("]")
            .raw("}");
        json.name("bound").flag(self.bound);
        json.name("can_take").flag(self.against.is_empty());
        json.name("against").raw("[");
        for reason in &self.against {
            json.text(reason);
        }
        json.raw("]").name("chance").share(self.chance).raw("}");
    }
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
