//! Pools: which one serves a request, and the choice of an account on this worker's own counts.

pub mod rests;
pub mod state;

use crate::config::{
    Account, Config, Match, MatchValue, Pool, PoolMatch, PriorityMode, Score, Traditional,
};
use crate::hash::hash128;
use crate::request::headers::Headers;
use crate::request::view::View;
use crate::units::{UNIT, millionths};
use state::State;

/// The worst priority that there is.
const MOST_PRIORITY: u32 = 1_000_000;
/// The best and the worst priority of a pool whose accounts are the ledger's, where it does not say.
const UNLISTED: (u32, u32) = (0, 10);

/// More than any score, and less than what a double counts exactly: as in `ledger.lua`.
pub const BEHIND: f64 = 4_503_599_627_370_496.0;

/// The pool that serves a request: the first one with a rule that fits, else the one without rules.
#[must_use]
pub fn select<'a>(pools: &[Pool], request: impl Into<View<'a>>) -> Option<usize> {
    let request = request.into();
    pools.iter().position(|pool| {
        pool.rules.is_empty() || pool.rules.iter().any(|rule| takes(rule, request))
    })
}

/// Whether one of the request's values is what the rule wants.
fn takes(rule: &PoolMatch, request: View) -> bool {
    let found = request.find(&rule.source, &mut |value| is(&rule.value, value));
    wants(&rule.value, found.is_some())
}

/// Whether one of the header's values is what the rule wants.
#[must_use]
pub fn fits(rule: &Match, headers: Headers) -> bool {
    let mut values = headers.all(&rule.header);
    wants(&rule.value, values.any(|value| is(&rule.value, value)))
}

fn wants(wanted: &MatchValue, found: bool) -> bool {
    found != matches!(wanted, MatchValue::Present(false))
}

fn is(wanted: &MatchValue, value: &[u8]) -> bool {
    match wanted {
        MatchValue::Exact(text) => value == text.as_bytes(),
        MatchValue::Prefix(text) => value.starts_with(text.as_bytes()),
        MatchValue::Suffix(text) => value.ends_with(text.as_bytes()),
        MatchValue::Present(_) => true,
    }
}

/// The priority's part of each account's score, in millionths, in the order of `accounts`.
///
#[must_use]
pub fn bases(accounts: &[Account], scale: Scale) -> Vec<u64> {
    let accounts = accounts.iter();
    accounts
        .map(|account| scale.base(account.priority))
        .collect()
}

/// What priorities add to a score, as the ledger is told it for accounts that an operator changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// The best priority that an account may have.
    pub best: u32,
    /// The worst.
    pub worst: u32,
    /// How many steps add `weight`.
    pub span: u32,
    /// In millionths.
    pub weight: u64,
}

impl Scale {
    /// Weighted: priority normalised to 0 (the best of the pool) ..1 (the worst), times its weight.
    /// Strict: each priority begins above all that load and chance can add to the one before.
    #[must_use]
    pub fn of(pool: &Pool, score: Score, mode: PriorityMode) -> Self {
        let mut range = pool.priority_range;
        if range.is_none() && pool.accounts_are_ledgers && mode == PriorityMode::Weighted {
            let (best, worst) = listed(&pool.accounts).unwrap_or(UNLISTED);
            range = Some((best.min(UNLISTED.0), worst.max(UNLISTED.1)));
        }
        Self::between(range, &pool.accounts, score, mode)
    }

    /// For priorities between the best and the worst; `None`: of these accounts.
    #[must_use]
    pub fn between(
        range: Option<(u32, u32)>,
        accounts: &[Account],
        score: Score,
        mode: PriorityMode,
    ) -> Self {
        let (best, worst) = range.or_else(|| listed(accounts)).unwrap_or(UNLISTED);
        if mode == PriorityMode::Strict {
            return Self {
                best,
                worst: range.map_or(MOST_PRIORITY, |_| worst),
                span: 1,
                weight: millionths(score.load + score.random + 1.0),
            };
        }
        Self {
            best,
            worst,
            span: worst.saturating_sub(best).max(1),
            weight: millionths(score.priority),
        }
    }

    /// The part of a score for this priority, in millionths; as `base_of` in `accounts.lua`.
    #[must_use]
    pub fn base(self, priority: u32) -> u64 {
        let above = u64::from(priority.saturating_sub(self.best)).saturating_mul(self.weight);
        let span = u64::from(self.span.max(1));
        let doubled = above.saturating_mul(2).saturating_add(span);
        doubled.checked_div(span.saturating_mul(2)).unwrap_or(0)
    }
}

/// The best and the worst priority of these accounts.
fn listed(accounts: &[Account]) -> Option<(u32, u32)> {
    let all = || accounts.iter().map(|account| account.priority);
    all().min().zip(all().max())
}

/// Tells which account a request names by itself: the one whose headers it carries, value for value.
#[derive(Debug)]
pub struct RoutedAccounts {
    /// Names of the headers that an account sets, each set of them once.
    groups: Vec<Vec<String>>,
    /// Hash of a group and its values → account by index, the first of those that set the same.
    by_values: Index,
    /// That first one for each account, by index.
    same: Vec<u32>,
}

impl RoutedAccounts {
    /// Reads every account once.
    #[must_use]
    pub fn new(pool: &Pool) -> Self {
        let mut groups: Vec<Vec<String>> = Vec::new();
        let mut by_values = Index::new(pool.accounts.len());
        let mut same = Vec::new();
        for (index, account) in (0..).zip(&pool.accounts) {
            let headers = pool.headers_by_account(account);
            if !headers.is_empty() && !groups.iter().any(|group| sets(group, &headers)) {
                groups.push(headers.iter().map(|(name, _)| name.clone()).collect());
            }
            let key = set_by(&groups, &headers);
            same.push(key.map_or(index, |key| by_values.first(key, index)));
        }
        Self {
            groups,
            by_values,
            same,
        }
    }

    /// The account that the request names; of several the one that sets the most headers.
    #[must_use]
    pub fn routed_to(&self, headers: Headers) -> Option<u32> {
        let mut best = None;
        let mut most = 0;
        for (index, group) in self.groups.iter().enumerate() {
            let mut key = Key::of(index);
            let all = group.iter().all(|name| {
                let value = headers.get(name);
                key.push(value.unwrap_or_default());
                value.is_some()
            });
            let named = self.by_values.get(&key.hashed()).filter(|_| all);
            if named.is_some() && group.len() > most {
                best = named;
                most = group.len();
            }
        }
        best
    }

    /// Whether an account sets the very headers of the one that was named.
    #[must_use]
    pub fn same_headers(&self, account: u32, named: u32) -> bool {
        self.same.get(account as usize) == Some(&named)
    }
}

/// Accounts beyond the bound share the last place.
fn shown_of(shown: &mut [AccountGauges], account: u32) -> Option<&mut AccountGauges> {
    let last = shown.len().saturating_sub(1);
    shown.get_mut(last.min(account as usize))
}

/// Accounts by a key, as a table of hashes with room: one comparison finds most. A tree costs more for each grant, and three
/// times the code.
#[derive(Debug)]
struct Index {
    entries: Vec<(Box<[u8]>, u32)>,
    /// Place of the hash, or one of the next → its entry's number from 1 on; 0: none. A power of two of them.
    places: Vec<u32>,
}

impl Index {
    /// An empty table with room for `most` keys.
    fn new(most: usize) -> Self {
        Self {
            entries: Vec::new(),
            places: vec![0; most.saturating_mul(2).next_power_of_two()],
        }
    }

    fn get(&self, key: &[u8]) -> Option<u32> {
        self.find(key).ok()
    }

    /// Doubles the places when half of them are taken.
    fn grow(&mut self) {
        if self.entries.len().saturating_mul(2) < self.places.len() {
            return;
        }
        let twice = self.places.len().saturating_mul(2);
        self.places = vec![0; twice];
        for (key, index) in std::mem::take(&mut self.entries) {
            self.first(key, index);
        }
    }

    /// The index of the first account that has this key; without one the key gets `index`.
    fn first(&mut self, key: Box<[u8]>, index: u32) -> u32 {
        match self.find(&key) {
            Ok(first) => first,
            Err(free) => {
                self.entries.push((key, index));
                if let Some(place) = self.places.get_mut(free) {
                    *place = u32::try_from(self.entries.len()).unwrap_or(0);
                }
                index
            }
        }
    }

    /// The index of the key, else a free place for it.
    fn find(&self, key: &[u8]) -> Result<u32, usize> {
        // FNV-1a: ids are short, and an operator's own.
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mask = self.places.len().wrapping_sub(1);
        let mut place = (hash ^ (hash >> 32)) as usize & mask;
        loop {
            let number = self
                .places
                .get(place)
                .and_then(|number| number.checked_sub(1));
            match number.and_then(|number| self.entries.get(number as usize)) {
                Some((known, index)) if **known == *key => return Ok(*index),
                Some(_) => place = place.wrapping_add(1) & mask,
                None => return Err(place),
            }
        }
    }
}

/// The key of what an account sets; `None`: nothing.
#[inline(never)]
fn set_by(groups: &[Vec<String>], headers: &[(String, String)]) -> Option<Box<[u8]>> {
    let mut key = Key::of(groups.iter().position(|group| sets(group, headers))?);
    for (_, value) in headers {
        key.push(value.as_bytes());
    }
    Some(key.hashed())
}

/// Whether these are the names of the headers.
fn sets(names: &[String], headers: &[(String, String)]) -> bool {
    names.len() == headers.len()
        && names
            .iter()
            .zip(headers)
            .all(|(name, (own, _))| name == own)
}

/// A group and its values, each told apart from its neighbours by its length.
struct Key(Vec<u8>);

impl Key {
    fn of(group: usize) -> Self {
        Self(group.to_le_bytes().into())
    }

    fn push(&mut self, value: &[u8]) {
        self.0.extend_from_slice(&value.len().to_le_bytes());
        self.0.extend_from_slice(value);
    }

    /// Keys of accounts are values that may be secret: what is kept is their hash.
    fn hashed(&self) -> Box<[u8]> {
        hash128(&self.0).into()
    }
}

/// One pool as a worker uses it: its accounts by id, and its own counts.
#[derive(Debug)]
pub struct AccountTable {
    by_id: Index,
    bases: Vec<u64>,
    /// Requests of this worker that use each account now, whichever path chose it.
    used: Vec<u32>,
    /// Accounts that an operator has drained, as last seen.
    drained: Vec<bool>,
    /// Until when each account cools, in ms, as far as this worker was told by its upstream; empty when nothing is chosen here and no
    /// account can be out of pace.
    cool_until_ms: Vec<u64>,
    shown: Vec<AccountGauges>,
    /// How many accounts are in each state, in the order of [`State::ALL`], as last seen in the ledger.
    states: [u64; State::ALL.len()],
    /// How often that was seen in the ledger.
    seen: u64,
}

/// The gauges of one account, or of all beyond the bound together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AccountGauges {
    /// Requests of this worker that used it so far.
    pub requests: u64,
    /// Those that it refused or did not answer, where another account may be tried.
    pub refused: u64,
    /// Those that use it now.
    pub held: u64,
    /// Live leases in the ledger, as last seen.
    pub used: u64,
    /// Slots: as the ledger had them when last seen, before that as configured.
    pub max_concurrency: u64,
    /// Cooldowns that this worker asked for.
    pub cooldowns: u64,
    /// Answers that were failures, and requests without any.
    pub failed: u64,
    /// The place of its state in [`State::ALL`] from 1 on, as last seen; 0: not seen so far.
    pub state: u64,
}

/// An account as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Its id.
    pub id: &'a [u8],
    /// How many of its slots are used.
    pub used: u64,
    /// How many it has.
    pub max_concurrency: u64,
    /// `None`: something in the ledger keeps it from being told.
    pub state: Option<State>,
}

impl AccountTable {
    /// All at 0.
    #[must_use]
    pub fn new(pool: &Pool, config: &Config) -> Self {
        let most = config.metrics.max_accounts.saturating_add(1);
        let mut shown = vec![AccountGauges::default(); pool.accounts.len().min(most)];
        let mut by_id = Index::new(pool.accounts.len());
        for (index, account) in (0..).zip(&pool.accounts) {
            by_id.first(account.id.as_bytes().into(), index);
            if let Some(shown) = shown_of(&mut shown, index) {
                let slots = u64::from(account.max_concurrency);
                shown.max_concurrency = shown.max_concurrency.saturating_add(slots);
            }
        }
        Self {
            by_id,
            bases: bases(
                &pool.accounts,
                Scale::of(pool, config.score, config.priority_mode),
            ),
            used: vec![0; pool.accounts.len()],
            drained: vec![false; pool.accounts.len()],
            cool_until_ms: match config.traditional {
                Traditional::Local { .. } => vec![0; pool.accounts.len()],
                Traditional::Passthrough if config.cooldown.paces() => {
                    vec![0; pool.accounts.len()]
                }
                Traditional::Passthrough => Vec::new(),
            },
            shown,
            states: [0; State::ALL.len()],
            seen: 0,
        }
    }

    /// The gauges of the accounts, in order, and how often they were read from the ledger. The accounts beyond the bound have
    /// the last place together.
    #[must_use]
    pub fn shown(&self) -> (&[AccountGauges], u64) {
        (&self.shown, self.seen)
    }

    /// How many accounts were in each state when last seen, in the order of [`State::ALL`].
    #[must_use]
    pub fn states(&self) -> &[u64; State::ALL.len()] {
        &self.states
    }

    /// Counts a request that an account refused or did not answer.
    pub fn refused(&mut self, account: u32) {
        if let Some(shown) = shown_of(&mut self.shown, account) {
            shown.refused = shown.refused.saturating_add(1);
        }
    }

    /// Counts an answer that is a failure, or none.
    pub fn failed(&mut self, account: u32) {
        if let Some(shown) = shown_of(&mut self.shown, account) {
            shown.failed = shown.failed.saturating_add(1);
        }
    }

    /// Counts a cooldown that was asked for.
    pub fn cooled(&mut self, account: u32) {
        if let Some(shown) = shown_of(&mut self.shown, account) {
            shown.cooldowns = shown.cooldowns.saturating_add(1);
        }
    }

    /// Takes what the ledger said of all accounts; nothing: it did not.
    pub fn see<'a>(&mut self, accounts: impl Iterator<Item = Seen<'a>>) {
        self.seen = self.seen.wrapping_add(1);
        self.states = Default::default();
        let mut first = true;
        for seen in accounts {
            let state = seen.state.map(|state| state as usize);
            if let Some(count) = state.and_then(|state| self.states.get_mut(state)) {
                *count = count.saturating_add(1);
            }
            let Some(account) = self.by_id.get(seen.id) else {
                continue;
            };
            if std::mem::take(&mut first) {
                for shown in &mut self.shown {
                    (shown.used, shown.max_concurrency, shown.state) = (0, 0, 0);
                }
            }
            if let Some(shown) = shown_of(&mut self.shown, account) {
                shown.used = shown.used.saturating_add(seen.used);
                let max_concurrency = seen.max_concurrency;
                shown.max_concurrency = shown.max_concurrency.saturating_add(max_concurrency);
                shown.state = state.map_or(0, |state| state.saturating_add(1) as u64);
            }
        }
    }

    /// The index of an account that Redis named.
    #[must_use]
    pub fn index(&self, id: &[u8]) -> Option<u32> {
        self.by_id.get(id)
    }

    /// Adds an account that only the ledger has; nothing is chosen from those here. `most`: how many gauges there may be.
    pub fn add(&mut self, id: &str, most: usize) -> u32 {
        let index = u32::try_from(self.used.len()).unwrap_or(u32::MAX);
        self.by_id.grow();
        self.by_id.first(id.as_bytes().into(), index);
        self.bases.push(0);
        self.used.push(0);
        self.drained.push(false);
        if self.shown.len() < most {
            self.shown.push(AccountGauges::default());
        }
        index
    }

    /// The priority's part of the score, in millionths, by index.
    #[must_use]
    pub fn bases(&self) -> &[u64] {
        &self.bases
    }

    /// One request more.
    pub fn up(&mut self, account: u32) {
        if let Some(shown) = shown_of(&mut self.shown, account) {
            shown.requests = shown.requests.saturating_add(1);
            shown.held = shown.held.saturating_add(1);
        }
        if let Some(used) = self.used.get_mut(account as usize) {
            *used = used.saturating_add(1);
        }
    }

    /// One request less.
    pub fn down(&mut self, account: u32) {
        if let Some(shown) = shown_of(&mut self.shown, account) {
            shown.held = shown.held.saturating_sub(1);
        }
        if let Some(used) = self.used.get_mut(account as usize) {
            *used = used.saturating_sub(1);
        }
    }

    /// The account takes no request of this worker's own choice until then; that only ever extends.
    pub fn cool(&mut self, account: u32, until_ms: u64) {
        if let Some(until) = self.cool_until_ms.get_mut(account as usize) {
            *until = until_ms.max(*until);
        }
    }

    /// Until when it takes none, in ms; 0: it never cooled.
    #[must_use]
    pub fn cools_until_ms(&self, account: u32) -> u64 {
        let until = self.cool_until_ms.get(account as usize);
        until.copied().unwrap_or(0)
    }

    /// Puts the operator's drains in force: ids with a space between. Those of no account here are left out.
    pub fn drain(&mut self, ids: &[u8]) {
        self.drained.fill(false);
        for id in ids.split(|byte| *byte == b' ') {
            let index = self.index(id).map(|index| index as usize);
            if let Some(drained) = index.and_then(|index| self.drained.get_mut(index)) {
                *drained = true;
            }
        }
    }

    /// The best enabled account that is neither drained nor cooling, with room in this worker's share, by the same score as the
    /// ledger's; `None`: there is none. Those that `behind` names come after all others.
    pub fn choose(
        &self,
        now_ms: u64,
        pool: &Pool,
        score: Score,
        share: u32,
        random: &mut fastrand::Rng,
        behind: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let weight = score.random * UNIT;
        let mut best = None;
        let mut best_score = f64::INFINITY;
        let accounts = (0..).zip(&pool.accounts).zip(&self.used).zip(&self.bases);
        for ((((index, account), used), base), drained) in accounts.zip(&self.drained) {
            let most = account
                .max_concurrency
                .checked_div(share)
                .unwrap_or(1)
                .max(1);
            let until_ms = self.cool_until_ms.get(index as usize);
            let cools = until_ms.is_some_and(|until_ms| now_ms < *until_ms);
            if !account.enabled || *drained || cools || *used >= most {
                continue;
            }
            let load = f64::from(*used) / f64::from(most);
            let last = if behind(index) { BEHIND } else { 0.0 };
            let mine = *base as f64 + last + score.load * UNIT * load + weight * random.f64();
            if mine < best_score {
                best_score = mine;
                best = Some(index);
            }
        }
        best
    }
}
