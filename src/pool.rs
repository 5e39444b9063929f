//! Pools: which one serves a request, and the choice of an account on this worker's own counts.

use crate::config::{Account, Config, Match, MatchValue, Pool, PriorityMode, Score};
use crate::gray;
use crate::headers::Headers;
use std::collections::BTreeMap;

/// Scores are whole numbers in the ledger, this many to the unit.
pub const UNIT: f64 = 1e6;

/// The pool that serves a request: the first one with a rule that fits, else the one without rules.
#[must_use]
pub fn select(pools: &[Pool], headers: Headers) -> Option<usize> {
    pools
        .iter()
        .position(|pool| pool.rules.is_empty() || pool.rules.iter().any(|rule| fits(rule, headers)))
}

fn fits(rule: &Match, headers: Headers) -> bool {
    let mut values = headers.all(&rule.header);
    match &rule.value {
        MatchValue::Exact(text) => values.any(|value| value == text.as_bytes()),
        MatchValue::Prefix(text) => values.any(|value| value.starts_with(text.as_bytes())),
        MatchValue::Suffix(text) => values.any(|value| value.ends_with(text.as_bytes())),
        MatchValue::Present(wanted) => values.next().is_some() == *wanted,
    }
}

/// The priority's part of each account's score, in millionths, in the order of `accounts`.
///
/// Weighted: priority normalised to 0 (the best present) ..1 (the worst), times its weight.
/// Strict: each tier begins above all that load and chance can add to the one before.
#[must_use]
pub fn bases(accounts: &[Account], score: Score, mode: PriorityMode) -> Vec<u64> {
    let mut tiers: Vec<u32> = accounts.iter().map(|account| account.priority).collect();
    tiers.sort_unstable();
    tiers.dedup();
    let best = tiers.first().copied().unwrap_or(0);
    let span = tiers
        .last()
        .copied()
        .unwrap_or(0)
        .saturating_sub(best)
        .max(1);
    let base = |priority: u32| match mode {
        PriorityMode::Weighted => {
            score.priority * f64::from(priority.saturating_sub(best)) / f64::from(span)
        }
        PriorityMode::Strict => {
            let tier = tiers.partition_point(|other| *other < priority);
            f64::from(u32::try_from(tier).unwrap_or(u32::MAX)) * (score.load + score.random + 1.0)
        }
    };
    accounts
        .iter()
        .map(|account| millionths(base(account.priority)))
        .collect()
}

/// A score, or a part of one, as the ledger writes it.
#[must_use]
pub fn millionths(value: f64) -> u64 {
    (value * UNIT).round() as u64
}

/// Tells which account a request names by itself: the one whose `set_headers` it carries, value for value.
#[derive(Debug)]
pub struct Names {
    /// Names of headers that some account sets, those with the most first.
    groups: Vec<Vec<String>>,
    /// Hash of a group and its values → account by index, the first of those that set the same.
    by_values: BTreeMap<Box<[u8]>, u32>,
    /// The same first one for each account, by index.
    same: Vec<u32>,
}

impl Names {
    /// Reads every account once.
    #[must_use]
    pub fn new(pool: &Pool) -> Self {
        let mut groups: Vec<Vec<String>> = Vec::new();
        for account in &pool.accounts {
            let headers = &account.set_headers;
            if !headers.is_empty() && !groups.iter().any(|group| are(group, headers)) {
                let more = groups
                    .iter()
                    .take_while(|group| group.len() > headers.len());
                groups.insert(
                    more.count(),
                    headers.iter().map(|(name, _)| name.clone()).collect(),
                );
            }
        }
        let mut by_values = BTreeMap::new();
        let mut same = Vec::with_capacity(pool.accounts.len());
        for (index, account) in (0..).zip(&pool.accounts) {
            let headers = &account.set_headers;
            let group = groups.iter().position(|group| are(group, headers));
            same.push(group.map_or(index, |group| {
                let mut key = Key::of(group);
                for (_, value) in headers {
                    key.push(value.as_bytes());
                }
                first(&mut by_values, key.hashed(), index)
            }));
        }
        Self {
            groups,
            by_values,
            same,
        }
    }

    /// The account that the request names.
    #[must_use]
    pub fn named(&self, headers: Headers) -> Option<u32> {
        (0..).zip(&self.groups).find_map(|(index, group)| {
            let mut key = Key::of(index);
            for name in group {
                key.push(headers.get(name)?);
            }
            self.by_values.get(&key.hashed()).copied()
        })
    }

    /// Whether an account sets the very headers of the one that was named.
    #[must_use]
    pub fn is(&self, account: u32, named: u32) -> bool {
        self.same.get(account as usize) == Some(&named)
    }
}

/// Accounts beyond the bound share the last place.
fn shown_of(shown: &mut [Shown], account: u32) -> Option<&mut Shown> {
    let last = shown.len().saturating_sub(1);
    shown.get_mut(last.min(account as usize))
}

/// The index that stands for the key: that of the first one who had it. Out of line: the tree's code is large.
#[inline(never)]
fn first(indices: &mut BTreeMap<Box<[u8]>, u32>, key: Box<[u8]>, index: u32) -> u32 {
    *indices.entry(key).or_insert(index)
}

/// Whether these are the names of the headers.
fn are(names: &[String], headers: &[(String, String)]) -> bool {
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
        gray::hash128(&self.0).into()
    }
}

/// One pool as a worker uses it: its accounts by id, and its own counts.
#[derive(Debug)]
pub struct Counts {
    by_id: BTreeMap<Box<[u8]>, u32>,
    bases: Vec<u64>,
    /// Requests of this worker that use each account now, whichever path chose it.
    used: Vec<u32>,
    /// Accounts that an operator has drained, as last seen.
    drained: Vec<bool>,
    shown: Vec<Shown>,
    /// How often that was seen in the ledger.
    seen: u64,
}

/// How full an account is, in the whole fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The account, by its index in the configuration.
    pub account: u32,
    /// Live leases.
    pub used: u64,
    /// Its slots.
    pub max_concurrency: u64,
}

/// What is shown of one account, or of several together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Requests of this worker that used it so far.
    pub requests: u64,
    /// Those that use it now.
    pub held: u64,
    /// Live leases in the ledger, as last seen.
    pub used: u64,
    /// Slots: as the ledger had them when last seen, before that as configured.
    pub max_concurrency: u64,
}

impl Counts {
    /// All at 0.
    #[must_use]
    pub fn new(pool: &Pool, config: &Config) -> Self {
        let mut by_id = BTreeMap::new();
        let most = config.metrics.max_accounts.saturating_add(1);
        let mut shown = vec![Shown::default(); pool.accounts.len().min(most)];
        for (index, account) in (0..).zip(&pool.accounts) {
            first(&mut by_id, account.id.as_bytes().into(), index);
            if let Some(shown) = shown_of(&mut shown, index) {
                let slots = u64::from(account.max_concurrency);
                shown.max_concurrency = shown.max_concurrency.saturating_add(slots);
            }
        }
        Self {
            by_id,
            bases: bases(&pool.accounts, config.score, config.priority_mode),
            used: vec![0; pool.accounts.len()],
            drained: vec![false; pool.accounts.len()],
            shown,
            seen: 0,
        }
    }

    /// What is shown of the accounts, in order, and how often they were seen in the ledger. One more than the bound stands
    /// for all beyond it.
    #[must_use]
    pub fn shown(&self) -> (&[Shown], u64) {
        (&self.shown, self.seen)
    }

    /// Takes what the ledger said of all accounts.
    pub fn see(&mut self, usage: &[Usage]) {
        self.seen = self.seen.wrapping_add(1);
        for shown in &mut self.shown {
            (shown.used, shown.max_concurrency) = (0, 0);
        }
        for one in usage {
            if let Some(shown) = shown_of(&mut self.shown, one.account) {
                shown.used = shown.used.saturating_add(one.used);
                shown.max_concurrency = shown.max_concurrency.saturating_add(one.max_concurrency);
            }
        }
    }

    /// The index of an account that Redis named.
    #[must_use]
    pub fn index(&self, id: &[u8]) -> Option<u32> {
        self.by_id.get(id).copied()
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

    /// The best enabled account that is not drained, with room in this worker's share, by the same score as the ledger's; `None`: all full.
    pub fn choose(
        &self,
        pool: &Pool,
        score: Score,
        share: u32,
        random: &mut fastrand::Rng,
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
            if !account.enabled || *drained || *used >= most {
                continue;
            }
            let load = f64::from(*used) / f64::from(most);
            let mine = *base as f64 + score.load * UNIT * load + weight * random.f64();
            if mine < best_score {
                best_score = mine;
                best = Some(index);
            }
        }
        best
    }
}
