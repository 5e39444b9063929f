//! Whom an acquire chooses: the distribution, against the score's formula evaluated for every account.

use crate::pipe::Pipe;
use slotgate::config::{Account, PriorityMode, Score};
use slotgate::ledger::commands::{Acquired, acquired};
use slotgate::ledger::commands::{Mode, SyncAccount};
use slotgate::pool::{Scale, bases};
use slotgate::request::lease::LeaseIds;
use std::collections::BTreeMap;
use support::Redis;

const SCORE: Score = Score {
    priority: 0.5,
    load: 0.3,
    random: 0.2,
};
const WEIGHT: f64 = 200_000.0;
const LOAD: u64 = 300_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priorities {
    Equal,
    Tiers,
    Strict,
}

/// A pool with its accounts' loads, and how often each was chosen.
struct Sample {
    /// Score without its random part; `None`: full.
    bases: Vec<Option<u64>>,
    chosen: Vec<u32>,
}

/// Sets up a pool of this many accounts in which this share of the slots is in use, unevenly, and asks whom `draws`
/// acquires would get.
fn sample(redis: &Redis, accounts: usize, load: f64, priorities: Priorities, draws: u32) -> Sample {
    let mut pipe = Pipe::open(redis, "p");
    pipe.command(&[b"FLUSHALL"]);
    let mut random = fastrand::Rng::with_seed(accounts as u64 ^ (load * 100.0) as u64);
    let configured: Vec<Account> = (0..accounts)
        .map(|n| Account {
            id: format!("acct-{n}"),
            max_concurrency: [5, 10, 20][n % 3],
            priority: if priorities == Priorities::Equal {
                1
            } else {
                [1, 2, 5][random.usize(..3)]
            },
            enabled: true,
            pace: None,
            set_headers: Vec::new(),
        })
        .collect();
    let mode = if priorities == Priorities::Strict {
        PriorityMode::Strict
    } else {
        PriorityMode::Weighted
    };
    let priority_parts = bases(&configured, Scale::between(None, &configured, SCORE, mode));
    let list: Vec<SyncAccount> = configured
        .iter()
        .zip(&priority_parts)
        .map(|(account, base)| SyncAccount {
            id: &account.id,
            max_concurrency: account.max_concurrency,
            base: *base,
            enabled: true,
            pace: None,
        })
        .collect();
    pipe.sync(1, 1, Some(&list)).unwrap();
    pipe.ttl_ms = 3_600_000;
    let mut ids = LeaseIds::new(1);
    let mut scores = Vec::new();
    let (mut out, mut commands) = (Vec::new(), 0);
    for (account, base) in configured.iter().zip(priority_parts) {
        let max = account.max_concurrency;
        let used = (0..max).filter(|_| random.f64() < load).count() as u64;
        for _ in 0..used {
            pipe.encode_acquire(&mut out, ids.mint(None), Mode::Force(&account.id), 1);
            commands += 1;
        }
        scores.push((used < u64::from(max)).then(|| base + LOAD * used / u64::from(max)));
    }
    pipe.exchange_many(&out, commands, |_| {});
    if scores.iter().all(Option::is_none) {
        // At 95 % of a small pool all may be full: one slot free is the smallest choice there is.
        return sample(redis, accounts, load - 0.05, priorities, draws);
    }
    let mut chosen = vec![0; accounts];
    for round in 0..draws.div_ceil(100) {
        // Leases that share a call share some of its reads.
        let together = [1, 10][round as usize % 2];
        let mut out = Vec::new();
        for _ in 0..100 / together {
            let leases: Vec<_> = (0..together).map(|_| ids.mint(None)).collect();
            pipe.encode_acquires(&mut out, &leases, Mode::Dry, random.u32(..));
        }
        pipe.exchange_many(&out, 100 / together, |reply| {
            for answer in acquired(reply, together).unwrap().1 {
                let Acquired::Granted { account, .. } = answer else {
                    panic!("{answer:?}")
                };
                let account: usize = std::str::from_utf8(&account[5..]).unwrap().parse().unwrap();
                chosen[account] += 1;
            }
        });
    }
    Sample {
        bases: scores,
        chosen,
    }
}

/// How likely each account has the least base + WEIGHT · u of all, by integration over where the least one lies.
fn exhaustive(bases: &[Option<u64>]) -> Vec<f64> {
    let first = bases.iter().flatten().min().copied().unwrap() as f64;
    // The more accounts, the closer to `first` the winner lies: steps grow from there.
    const STEPS: usize = 4_000;
    let at = |step: usize| first + WEIGHT * (step as f64 / STEPS as f64).powi(3);
    let mut likely = vec![0.0; bases.len()];
    for step in 0..STEPS {
        let (low, high) = (at(step), at(step + 1));
        let s = (low + high) / 2.0;
        let mut survive = 1.0;
        for base in bases.iter().flatten() {
            survive *= 1.0 - ((s - *base as f64) / WEIGHT).clamp(0.0, 1.0);
        }
        for (likely, base) in likely.iter_mut().zip(bases) {
            if let Some(base) = base
                && s > *base as f64
            {
                *likely += survive / (WEIGHT - (s - *base as f64)) * (high - low);
            }
        }
    }
    let sum: f64 = likely.iter().sum();
    assert!((sum - 1.0).abs() < 0.01, "integrates to {sum}");
    likely.iter().map(|likely| likely / sum).collect()
}

fn distance(likely: &[f64], chosen: &[f64]) -> f64 {
    likely
        .iter()
        .zip(chosen)
        .map(|(likely, chosen)| (likely - chosen).abs())
        .sum::<f64>()
        / 2.0
}

/// Total variation distance between formula and choice. Accounts with the same score are alike to the formula; taken
/// together, 20,000 draws suffice to tell; account by account it takes a million for a pool of 1,000.
fn measure(redis: &Redis, accounts: usize, load: f64, priorities: Priorities, each: bool) -> f64 {
    let draws = if each {
        1_000 * accounts.max(100) as u32
    } else {
        20_000
    };
    let sample = sample(redis, accounts, load, priorities, draws);
    let likely = exhaustive(&sample.bases);
    let drawn: u32 = sample.chosen.iter().sum();
    let chosen: Vec<f64> = sample
        .chosen
        .iter()
        .map(|count| f64::from(*count) / f64::from(drawn))
        .collect();
    for (base, chosen) in sample.bases.iter().zip(&sample.chosen) {
        assert!(base.is_some() || *chosen == 0, "a full account was chosen");
    }
    if each {
        return distance(&likely, &chosen);
    }
    let mut alike: BTreeMap<u64, (f64, f64, Vec<f64>)> = BTreeMap::new();
    for ((base, likely), chosen) in sample.bases.iter().zip(&likely).zip(&chosen) {
        if let Some(base) = base {
            let entry = alike.entry(*base).or_default();
            entry.0 += likely;
            entry.1 += chosen;
            entry.2.push(*chosen * f64::from(drawn));
        }
    }
    // Within a group each is as likely: Pearson's statistic stays within five standard deviations of its mean.
    for (base, (_, _, counts)) in &alike {
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        if mean >= 5.0 && counts.len() > 1 {
            let free = (counts.len() - 1) as f64;
            let statistic: f64 = counts
                .iter()
                .map(|count| (count - mean).powi(2) / mean)
                .sum();
            assert!(
                statistic < free + 5.0 * (2.0 * free).sqrt() + 5.0,
                "score {base}: {statistic} of {free}"
            );
        }
    }
    let (likely, chosen): (Vec<f64>, Vec<f64>) = alike.values().map(|(l, c, _)| (*l, *c)).unzip();
    distance(&likely, &chosen)
}

fn every_case(each: bool) {
    let redis = Redis::start();
    println!("priorities accounts load: total variation distance");
    let mut worst: f64 = 0.0;
    for priorities in [Priorities::Equal, Priorities::Tiers, Priorities::Strict] {
        for accounts in [3, 10, 100, 1_000] {
            for load in [0.0, 0.3, 0.7, 0.95] {
                let distance = measure(&redis, accounts, load, priorities, each);
                println!("{priorities:?} {accounts} {load}: {distance:.4}");
                assert!(
                    distance <= 0.03,
                    "{priorities:?} {accounts} {load}: {distance}"
                );
                worst = worst.max(distance);
            }
        }
    }
    println!("worst: {worst:.4}");
}

#[test]
fn the_choice_follows_the_formula() {
    every_case(false);
}

/// Who gets what when so many leases are asked for on idle accounts of few slots: how often each outcome was seen, by how many
/// leases each account has at the end, and by the last lease's account.
fn outcomes(pipe: &mut Pipe, leases: usize, together: bool) -> [BTreeMap<String, f64>; 2] {
    const ROUNDS: usize = 20_000;
    let seed = u64::from(together);
    let (mut ids, mut random) = (LeaseIds::new(seed), fastrand::Rng::with_seed(seed));
    let mut seen = [BTreeMap::new(), BTreeMap::new()];
    for _ in 0..ROUNDS / 100 {
        let (mut out, mut replies) = (Vec::new(), 0);
        for _ in 0..100 {
            let all: Vec<_> = (0..leases).map(|_| ids.mint(None)).collect();
            for part in all.chunks(if together { leases } else { 1 }) {
                pipe.encode_acquires(&mut out, part, Mode::Take, random.u32(..));
                replies += 1;
            }
            pipe.encode(&mut out, |keys, out, by| {
                keys.release(out, by, all.iter().copied())
            });
            replies += 1;
        }
        let mut chosen: Vec<String> = Vec::new();
        pipe.exchange_many(&out, replies, |reply| {
            if reply.starts_with(b":") {
                assert_eq!(chosen.len(), leases);
                let last = chosen.last().unwrap().clone();
                chosen.sort();
                for (seen, outcome) in seen.iter_mut().zip([chosen.join(" "), last]) {
                    *seen.entry(outcome).or_default() += 1.0 / ROUNDS as f64;
                }
                chosen.clear();
                return;
            }
            let part = if together { leases } else { 1 };
            for answer in acquired(reply, part).unwrap().1 {
                let Acquired::Granted { account, .. } = answer else {
                    panic!("{answer:?}")
                };
                chosen.push(String::from_utf8(account.to_vec()).unwrap());
            }
        });
    }
    seen
}

#[test]
fn in_one_command_as_one_after_the_other() {
    let redis = Redis::start();
    // All outcomes of a few accounts, which become full on the way; of many accounts, most of which are drawn from together,
    // only whose the last lease is.
    for (accounts, leases, apart, compared) in
        [(3, 5, 0, 0), (4, 6, 50_000, 0), (24, 12, 10_000, 1)]
    {
        let mut pipe = Pipe::open(&redis, &format!("p{accounts}"));
        let names: Vec<String> = (0..accounts).map(|n| format!("a{n}")).collect();
        let list: Vec<SyncAccount> = (0..accounts)
            .map(|n| SyncAccount {
                id: &names[n],
                max_concurrency: [1, 2, 3][n % 3],
                base: apart * n as u64,
                enabled: true,
                pace: None,
            })
            .collect();
        pipe.sync(1, 1, Some(&list)).unwrap();
        let (one, several) = (
            outcomes(&mut pipe, leases, true)[compared].clone(),
            outcomes(&mut pipe, leases, false)[compared].clone(),
        );
        let all: Vec<_> = one.keys().chain(several.keys()).collect();
        let share = |seen: &BTreeMap<String, f64>| {
            let mut all = all.clone();
            all.sort();
            all.dedup();
            all.into_iter()
                .map(|outcome| seen.get(outcome).copied().unwrap_or_default())
                .collect::<Vec<_>>()
        };
        let distance = distance(&share(&one), &share(&several));
        println!("{accounts} accounts, {leases} leases: {distance:.4}");
        assert!(
            distance <= 0.03,
            "{accounts} accounts, {leases} leases: {distance}"
        );
    }
}

/// Minutes long: part of `make soak`.
#[test]
#[ignore = "make soak"]
fn the_choice_follows_the_formula_account_by_account() {
    every_case(true);
}

/// Draws `choice.svg`, the picture in `docs/concepts.md`: ten accounts, formula beside choice.
#[test]
#[ignore = "make soak"]
fn picture() {
    use std::fmt::Write;
    let redis = Redis::start();
    let (width, height, bar) = (290.0, 130.0, 11.0);
    let mut svg = String::from(
        "<svg xmlns='http://www.w3.org/2000/svg' width='900' height='390' font-family='sans-serif' font-size='12'>\n\
         <rect width='900' height='390' fill='#fff'/>\n",
    );
    for (column, priorities) in [Priorities::Equal, Priorities::Tiers, Priorities::Strict]
        .into_iter()
        .enumerate()
    {
        for (row, load) in [0.3, 0.7].into_iter().enumerate() {
            let sample = sample(&redis, 10, load, priorities, 100_000);
            let likely = exhaustive(&sample.bases);
            let drawn: u32 = sample.chosen.iter().sum();
            let chosen: Vec<f64> = sample
                .chosen
                .iter()
                .map(|n| f64::from(*n) / f64::from(drawn))
                .collect();
            let (x, y) = (
                15.0 + column as f64 * width,
                50.0 + row as f64 * (height + 40.0),
            );
            let apart = distance(&likely, &chosen);
            let name = format!("{priorities:?}").to_lowercase();
            writeln!(svg, "<text x='{x}' y='{:.0}' fill='#222'>{name}, load {load}: distance {apart:.3}</text>", y - 6.0).unwrap();
            writeln!(
                svg,
                "<line x1='{x}' y1='{0}' x2='{1}' y2='{0}' stroke='#888'/>",
                y + height,
                x + width - 20.0
            )
            .unwrap();
            for (account, (likely, chosen)) in likely.iter().zip(&chosen).enumerate() {
                for (side, (share, fill)) in [(*likely, "#9aa4b1"), (*chosen, "#d9622b")]
                    .into_iter()
                    .enumerate()
                {
                    let left = x + account as f64 * 26.0 + side as f64 * bar;
                    let tall = share * height;
                    writeln!(
                        svg,
                        "<rect x='{left:.1}' y='{:.1}' width='{bar}' height='{tall:.1}' fill='{fill}'/>",
                        y + height - tall
                    )
                    .unwrap();
                }
            }
        }
    }
    svg.push_str(
        "<text x='15' y='20' fill='#222'>Share of acquires per account, ten accounts, 100,000 draws: \
         <tspan fill='#6b7684'>grey: the formula</tspan>, <tspan fill='#d9622b'>orange: what the ledger chose</tspan></text>\n</svg>\n",
    );
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ledger/choice.svg");
    std::fs::write(path, svg).unwrap();
}
