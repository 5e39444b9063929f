//! Pools: which one serves a request, and the choice of an account on this worker's own counts.

use crate::config::{Account, Config, Match, MatchValue, Pool, PriorityMode, Score};
use crate::headers::Headers;
use std::collections::BTreeMap;

/// Scores are whole numbers in the ledger, this many to the unit.
pub const UNIT: f64 = 1e6;
/// More than any score, and less than what a double counts exactly: as in `ledger.lua`.
pub const BEHIND: f64 = 4_503_599_627_370_496.0;

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

/// One pool as a worker uses it: its accounts by id, and its own counts.
#[derive(Debug)]
pub struct Counts {
    by_id: BTreeMap<Box<[u8]>, u32>,
    bases: Vec<u64>,
    /// Requests of this worker that use each account now, whichever path chose it.
    used: Vec<u32>,
}

impl Counts {
    /// All at 0.
    #[must_use]
    pub fn new(pool: &Pool, config: &Config) -> Self {
        Self {
            by_id: (0..)
                .zip(&pool.accounts)
                .map(|(index, account)| (account.id.as_bytes().into(), index))
                .collect(),
            bases: bases(&pool.accounts, config.score, config.priority_mode),
            used: vec![0; pool.accounts.len()],
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
        if let Some(used) = self.used.get_mut(account as usize) {
            *used = used.saturating_add(1);
        }
    }

    /// One request less.
    pub fn down(&mut self, account: u32) {
        if let Some(used) = self.used.get_mut(account as usize) {
            *used = used.saturating_sub(1);
        }
    }

    /// The best enabled account with room in this worker's share, by the same score as the ledger's; `None`: all full.
    /// Those that `behind` names come after all others.
    pub fn choose(
        &self,
        pool: &Pool,
        score: Score,
        share: u32,
        random: &mut fastrand::Rng,
        behind: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let weight = score.random * UNIT;
        let mut best = None;
        let mut best_score = f64::INFINITY;
        for (((index, account), used), base) in
            (0..).zip(&pool.accounts).zip(&self.used).zip(&self.bases)
        {
            let most = account
                .max_concurrency
                .checked_div(share)
                .unwrap_or(1)
                .max(1);
            if !account.enabled || *used >= most {
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
