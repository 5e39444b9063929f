//! The ledger written down a second time, plainly and without Redis, and random commands that compare the two after every
//! step: answers, and the whole state.

mod adaptive;
mod ledger;
mod operator;
mod pace;
mod pair;
mod queue;
mod steps;

use self::ledger::LOAD;
use self::pair::Pair;
use self::steps::{Listed, Step, steps};
use crate::pipe::PREFIX;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use slotgate::ledger::commands::{Mode, Reconciled, SyncAccount};
use slotgate::ledger::fault::Fault;
use std::collections::BTreeMap;
use support::Ledger;

/// Runs sequences of 100 random steps each, and shrinks one that fails.
fn run(sequences: u32) -> u64 {
    let seed = std::env::var("MODEL_SEED").ok().map_or_else(
        || {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
        },
        |text| text.parse().expect("MODEL_SEED is a number"),
    );
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: sequences,
        failure_persistence: None,
        max_shrink_iters: std::env::var("LUA").map_or(500, |_| 0),
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let pair = std::cell::RefCell::new(Pair::new());
    let sequence = proptest::collection::vec(steps(), 100);
    let result = runner.run(&sequence, |steps| {
        let mut pair = pair.borrow_mut();
        pair.reset();
        // Most sequences should begin with accounts.
        let accounts = [
            (2, 0, true, None),
            (1, 0, true, None),
            (3, 250_000, true, Some([4, 2_000, 2])),
            (1, 0, false, None),
            (0, 0, true, None),
        ];
        let first = Step::Sync {
            revision: 0,
            accounts: accounts.map(Listed::new).into(),
            ledgers: false,
            adaptive: 1,
        };
        for (at, step) in std::iter::once(&first).chain(&steps).enumerate() {
            if let Err(error) = pair.apply(step) {
                let (model, said) = (&pair.model, &pair.said);
                return Err(TestCaseError::fail(format!(
                    "step {at}, {step:?}: {error}\nnow {model:?}\nhanded on {said}"
                )));
            }
        }
        // What a doctor looks at, whatever was done.
        let found = pair.pipe.audit();
        if found.is_empty() {
            return Ok(());
        }
        Err(TestCaseError::fail(format!(
            "audit: {found:?}\nnow {:?}",
            pair.model
        )))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => {
            let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
            panic!(
                "MODEL_SEED={seed}\n{why}\nafter the shortest such steps:\n{}",
                steps.join("\n")
            );
        }
        Err(error) => panic!("MODEL_SEED={seed}\n{error}"),
    }
    pair.into_inner().checks
}

#[test]
fn the_ledger_does_what_the_model_does() {
    let sequences =
        std::env::var("MODEL_SEQUENCES").map_or(500, |text| text.parse().expect("a number"));
    let checks = run(sequences);
    println!("{checks} states compared");
    assert!(checks >= u64::from(sequences) * 100);
}

proptest! {
    #![proptest_config(Config { cases: 60, failure_persistence: None, ..Config::default() })]

    /// What anyone may break by hand, one pass puts right, and counts; while it runs, life goes on.
    #[test]
    fn reconcile_mends_what_was_broken(
        taken in 3_usize..12,
        broken in proptest::collection::vec((0_usize..9, 0_usize..4, 1_u32..5), 1..5),
        count in 1_u64..6,
    ) {
        let mut pair = Pair::new();
        pair.reset();
        let accounts = [("a", 3), ("b", 4), ("c", 5)];
        let list: Vec<SyncAccount> =
            accounts.iter().map(|(id, max)| SyncAccount { id, max_concurrency: *max, base: 0, enabled: true , pace: None}).collect();
        pair.pipe.sync(1, 1, Some(&list)).unwrap();
        pair.pipe.ttl_ms = 60_000;
        let ids = pair.ids.clone();
        for lease in &ids[..taken] {
            pair.pipe.acquire_in(*lease, Mode::Take, None, None, 2).unwrap();
        }
        let ledger = Ledger::new(&pair.redis, PREFIX, "p");
        let key = |name: &str| ledger.key(name);
        for (how, which, by) in broken {
            let account = accounts[which % 3].0;
            let lease = ids[which].to_string();
            let by = by.to_string();
            let command: Vec<&str> = match how {
                0 => vec!["HINCRBY", "used", account, &by],
                1 => vec!["HINCRBY", "used", account, "-2"],
                2 => vec!["HDEL", "used", account],
                3 => vec!["ZADD", "leases", "1900000000000", "stray"],
                4 => vec!["HSET", "owner", "stray2", account],
                5 => vec!["ZREM", "free", account],
                6 => vec!["ZADD", "free", "0", "nobody"],
                7 => vec!["HDEL", "owner", &lease],
                _ => vec!["HSET", "used", "nobody", &by],
            };
            let mut arguments = vec![command[0].as_bytes().to_vec(), key(command[1]).into_bytes()];
            arguments.extend(command[2..].iter().map(|part| part.as_bytes().to_vec()));
            let parts: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            pair.pipe.command(&parts);
        }
        let mut drift = None;
        for step in 0..10_000 {
            match pair.pipe.reconcile("one", 5_000, count).unwrap() {
                Reconciled::Done(found) => {
                    drift = Some(found);
                    break;
                }
                other => prop_assert!(matches!(other, Reconciled::Working(_)), "{other:?}"),
            }
            let lease = ids[12 + step % 8];
            let answer = pair.pipe.acquire_in(lease, Mode::Take, None, None, 2);
            // What was put into `free` by hand is no account.
            prop_assert!(matches!(answer, Ok(_) | Err(Fault::Garbage)), "{answer:?}");
            pair.pipe.release(&[lease]).unwrap();
        }
        prop_assert!(drift.is_some(), "the pass never ended");
        let state = pair.pipe.state();
        let mut owned: BTreeMap<String, i64> = BTreeMap::new();
        for owner in state.owner.values() {
            *owned.entry(owner.clone()).or_insert(0) += 1;
        }
        prop_assert_eq!(state.leases.keys().collect::<Vec<_>>(), state.owner.keys().collect::<Vec<_>>());
        let used: BTreeMap<String, i64> = state.used.into_iter().filter(|(_, used)| *used != 0).collect();
        prop_assert_eq!(&used, &owned);
        let free: BTreeMap<String, f64> = accounts
            .iter()
            .map(|(id, max)| (*id, *max, owned.get(*id).copied().unwrap_or(0)))
            .filter(|(_, max, used)| *used < i64::from(*max))
            .map(|(id, max, used)| (id.to_string(), (LOAD as i64 * used / i64::from(max)) as f64))
            .collect();
        prop_assert_eq!(state.free, free);
        prop_assert_eq!(pair.pipe.audit(), Vec::<String>::new());
    }
}
