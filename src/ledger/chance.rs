//! How likely each account is to be chosen, from the score's formula.

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
pub fn chances(accounts: &[(&str, u64)], weight: u64) -> Vec<f64> {
    let mut likely = vec![0.0; accounts.len()];
    let Some(first) = accounts.iter().map(|(_, score)| *score).min() else {
        return likely;
    };
    if weight == 0 {
        let best = accounts.iter().filter(|(_, score)| *score == first).min();
        for (account, likely) in accounts.iter().zip(&mut likely) {
            *likely = f64::from(u8::from(Some(account) == best));
        }
        return likely;
    }
    let weight = weight as f64;
    let steps = WORK
        .checked_div(accounts.len())
        .unwrap_or(STEPS)
        .clamp(200, STEPS);
    // The more accounts, the closer to `first` the winner lies: steps grow from there.
    let at = |step: usize| {
        let share = step as f64 / steps as f64;
        weight * share * share * share
    };
    let mut sum = 0.0;
    for step in 0..steps {
        let (low, high) = (at(step), at(step.saturating_add(1)));
        let s = (low + high) / 2.0;
        // What is left of an account's range above `s`, as a share; `None`: it has no part yet.
        let left = |score: u64| {
            let left = 1.0 - (s - score.saturating_sub(first) as f64) / weight;
            (left < 1.0).then_some(left)
        };
        let lefts = || accounts.iter().map(|(_, score)| left(*score));
        let survive: f64 = lefts().flatten().product();
        for (left, likely) in lefts().zip(&mut likely) {
            if let Some(left) = left {
                let part = survive / left * (high - low);
                *likely += part;
                sum += part;
            }
        }
        if survive < OVER {
            break;
        }
    }
    for likely in &mut likely {
        *likely /= sum;
    }
    likely
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
        assert!(chances(&[], 1).is_empty());
        close(&chances(&[("a", 7)], 200_000), &[1.0]);
        close(
            &chances(&[("a", 0), ("b", 0), ("c", 0)], 200_000),
            &[1.0 / 3.0; 3],
        );
        // Half a weight behind: wins half of the half in which the other draws high, 1/8.
        close(
            &chances(&[("a", 100_000), ("b", 0)], 200_000),
            &[0.125, 0.875],
        );
        close(&chances(&[("a", 200_000), ("b", 0)], 200_000), &[0.0, 1.0]);
        close(
            &chances(&[("b", 5), ("a", 5), ("c", 6)], 0),
            &[0.0, 1.0, 0.0],
        );
        // Thousands alike, and a few that have no part.
        let mut many = vec![("", 3); 5_000];
        many.extend([("", 300_000); 10]);
        let many = chances(&many, 200_000);
        close(&many[4_999..5_001], &[0.0002, 0.0]);
        assert!((many.iter().sum::<f64>() - 1.0).abs() < 1e-9);
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
        for (likely, won) in chances(&accounts, 200_000).iter().zip(won) {
            assert!((likely - won).abs() < 0.005, "{likely} is not {won}");
        }
    }
}
