//! How likely each account is to be chosen, from the score's formula.

use std::collections::BTreeMap;

/// Most steps of the integration, and about how much work all of them may be: a worker of Envoy stands still for it.
const STEPS: usize = 4_000;
const WORK: usize = 400_000;
/// What is left when all but certainly someone has won.
const OVER: f64 = 1e-9;

/// The probability of each account to have the least `score + weight · u` of all, `u` even in 0..1 for each; scores and
/// weight in millionths. By integration over where the least one lies, so it is the same at every call.
///
/// Without a weight chance has no part: as in the ledger, the first id among the lowest scores is taken.
#[must_use]
pub fn chances(accounts: &[(&str, u64)], weight: f64) -> Vec<f64> {
    let Some(first) = accounts.iter().map(|(_, score)| *score).min() else {
        return Vec::new();
    };
    if weight <= 0.0 {
        let best = accounts.iter().filter(|(_, score)| *score == first).min();
        return accounts
            .iter()
            .map(|account| f64::from(u8::from(Some(account) == best)))
            .collect();
    }
    // Accounts with one score are alike. Those `weight` behind can't win: at best they draw level.
    let mut alike: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (_, score) in accounts {
        if ((score.saturating_sub(first)) as f64) < weight {
            alike.entry(*score).or_default().0 += 1.0;
        }
    }
    let steps = WORK
        .checked_div(alike.len())
        .unwrap_or(STEPS)
        .clamp(200, STEPS);
    // The more accounts, the closer to `first` the winner lies: steps grow from there.
    let at = |step: usize| weight * (step as f64 / steps as f64).powi(3);
    let mut sum = 0.0;
    for step in 0..steps {
        let (low, high) = (at(step), at(step.saturating_add(1)));
        let s = (low + high) / 2.0;
        // What is left of each account's range above `s`, as a share.
        let left = |score: u64| 1.0 - ((s - score.saturating_sub(first) as f64) / weight).max(0.0);
        // Those behind `s` have no part yet.
        let reached = first.saturating_add(s as u64);
        let survive: f64 = alike
            .range(..=reached)
            .map(|(score, (number, _))| number * left(*score).ln())
            .sum::<f64>()
            .exp();
        for (score, (number, likely)) in alike.range_mut(..=reached) {
            let part = survive / left(*score) * (high - low);
            *likely += part;
            sum += part * *number;
        }
        if survive < OVER {
            break;
        }
    }
    accounts
        .iter()
        .map(|(_, score)| alike.get(score).map_or(0.0, |(_, likely)| likely / sum))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 0.001,
                "{found} is not {expected}"
            );
        }
    }

    #[test]
    fn known_cases() {
        assert!(chances(&[], 1.0).is_empty());
        close(&chances(&[("a", 7)], 200_000.0), &[1.0]);
        close(
            &chances(&[("a", 0), ("b", 0), ("c", 0)], 200_000.0),
            &[1.0 / 3.0; 3],
        );
        // Half a weight behind: wins half of the half in which the other draws high, 1/8.
        close(
            &chances(&[("a", 100_000), ("b", 0)], 200_000.0),
            &[0.125, 0.875],
        );
        close(
            &chances(&[("a", 200_000), ("b", 0)], 200_000.0),
            &[0.0, 1.0],
        );
        close(
            &chances(&[("b", 5), ("a", 5), ("c", 6)], 0.0),
            &[0.0, 1.0, 0.0],
        );
    }

    #[test]
    fn as_many_draws_say() {
        let scores = [0, 30_000, 60_000, 60_000, 150_000, 190_000, 400_000];
        let accounts: Vec<(&str, u64)> = scores.iter().map(|score| ("", *score)).collect();
        let mut random = fastrand::Rng::with_seed(1);
        let mut won = [0.0; 7];
        for _ in 0..200_000 {
            let drawn = scores.map(|score| score as f64 + 200_000.0 * random.f64());
            let least = drawn.iter().copied().fold(f64::INFINITY, f64::min);
            won[drawn.iter().position(|score| *score == least).unwrap()] += 1.0 / 200_000.0;
        }
        for (likely, won) in chances(&accounts, 200_000.0).iter().zip(won) {
            assert!((likely - won).abs() < 0.005, "{likely} is not {won}");
        }
    }
}
