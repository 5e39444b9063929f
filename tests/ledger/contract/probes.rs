//! After a cooldown one request probes the account: one of many that race for it, until one passes.

use super::rig::{Rig, pass};
use crate::pipe::{Answer, Pipe, account};
use slotgate::ledger::commands::{AccountReport, Mode};
use slotgate::request::lease::{LeaseId, LeaseIds};
use std::time::Duration;

/// Many ask at the same moment, on connections of their own: one of them probes.
#[test]
fn of_many_that_race_for_a_probe_one_gets_it() {
    const RACERS: u64 = 12;
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 50)])).unwrap();
    let mut ids = LeaseIds::new(77);
    for _ in 0..10 {
        rig.pipe
            .heard("a", AccountReport::CoolThenProbe(1))
            .unwrap();
        std::thread::sleep(Duration::from_millis(3));
        let barrier = std::sync::Barrier::new(RACERS as usize);
        let racers: Vec<(Pipe, LeaseId)> = (0..RACERS)
            .map(|_| (Pipe::open(&rig.redis, "p"), ids.mint(None)))
            .collect();
        let won: Vec<(LeaseId, bool)> = std::thread::scope(|scope| {
            let race = |(mut pipe, lease): (Pipe, LeaseId)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let answer = pipe.acquire(lease, Mode::Take, None);
                    (lease, matches!(answer, Ok(Answer::Granted(_))), pipe.probes)
                })
            };
            let threads: Vec<_> = racers.into_iter().map(race).collect();
            let answers = threads.into_iter().map(|thread| thread.join().unwrap());
            answers
                .filter(|(_, granted, _)| *granted)
                .map(|(lease, _, probes)| (lease, probes))
                .collect()
        });
        let [(probe, true)] = won[..] else {
            panic!("{won:?}")
        };
        assert_eq!(rig.ledger.live(), 1);
        rig.ledger.assert_consistent();
        rig.pipe.release(&[probe]).unwrap();
    }
}

#[test]
fn a_probe_goes_on_until_one_passes() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 3)])).unwrap();
    let saturated = |rig: &mut Rig| {
        let lease = rig.mint();
        matches!(
            rig.pipe.acquire(lease, Mode::Take, None),
            Ok(Answer::Saturated(_))
        )
    };
    // One that holds from before goes on beside the probe, and its end lets no second one in.
    let (before, _) = rig.take();
    let (other, _) = rig.take();
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(5))
        .unwrap();
    assert!(saturated(&mut rig), "it cools");
    std::thread::sleep(Duration::from_millis(8));
    let (probe, _) = rig.take();
    assert!(rig.pipe.probes);
    rig.pipe.release(&[before, other]).unwrap();
    assert!(saturated(&mut rig));
    // Released without a word: the next one's turn. A verdict of the first comes too late.
    rig.pipe.release(&[probe]).unwrap();
    let (second, _) = rig.take();
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(probe)), Ok(0));
    // Whoever asks again is told again, in whatever way it asks.
    for mode in [Mode::Take, Mode::Force("a")] {
        let again = rig.pipe.acquire(second, mode, None);
        assert_eq!(again, Ok(Answer::Granted("a".into())));
        assert!(rig.pipe.probes);
    }
    assert!(saturated(&mut rig));
    // Pushed back: it cools again, for at least as long, and the old probe's success means nothing.
    assert!(
        rig.pipe
            .heard("a", AccountReport::CoolThenProbe(20))
            .unwrap()
            <= 20
    );
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(second)), Ok(0));
    std::thread::sleep(Duration::from_millis(25));
    // One that is never released expires.
    rig.set_time_to_live(20);
    rig.take();
    assert!(rig.pipe.probes);
    rig.set_time_to_live(10_000);
    assert!(saturated(&mut rig));
    std::thread::sleep(Duration::from_millis(25));
    let (third, _) = rig.take();
    assert!(rig.pipe.probes);
    // A new revision changes nothing about it, and no pass finds anything wrong.
    rig.pipe.sync(2, 2, Some(&[account("a", 4)])).unwrap();
    assert!(saturated(&mut rig));
    assert_eq!(pass(&mut rig), 0);
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(third)), Ok(1));
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(third)), Ok(0));
    // Beside the second and the third.
    for _ in 0..2 {
        rig.take();
        assert!(!rig.pipe.probes);
    }
    // Data lost: nothing is left of it.
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(1))
        .unwrap();
    rig.redis.run::<()>("FLUSHALL", &[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 4)])).unwrap();
    rig.take();
    assert!(!rig.pipe.probes);
    rig.take();
}

#[test]
fn a_pass_mends_probes_and_accounts_behind() {
    let mut rig = Rig::new();
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(1))
        .unwrap();
    rig.pipe.heard("b", AccountReport::Behind(60_000)).unwrap();
    std::thread::sleep(Duration::from_millis(3));
    let (lease, taken) = rig.take();
    assert_ne!(taken, "b");
    let (accounts, free) = (rig.ledger.key("accounts"), rig.ledger.key("free"));
    let other = rig.pinned("c");
    rig.pipe.release(&[other]).unwrap();
    if taken == "a" {
        assert_eq!(pass(&mut rig), 0, "its probe is under way");
        rig.pipe.release(&[lease]).unwrap();
    }
    assert_eq!(pass(&mut rig), 0, "it waits for a probe");
    // As an older version's release leaves it: it waits no longer.
    rig.redis.run::<()>("ZREM", &[&free, "a"]);
    assert_eq!(pass(&mut rig), 1);
    assert!(!rig.ledger.state().meta.contains_key("#probe:a"));
    assert_eq!(rig.ledger.state().accounts["a"], "1 300000 0 0");
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(60_000))
        .unwrap();
    rig.redis
        .run::<()>("ZREM", &[&rig.ledger.key("cooldown"), "a"]);
    rig.redis.run::<()>("HDEL", &[&accounts, "#probe:a"]);
    assert_eq!(pass(&mut rig), 1, "it does not cool");
    rig.redis
        .run::<()>("ZREM", &[&rig.ledger.key("cooldown"), "behind:b"]);
    assert_eq!(pass(&mut rig), 1, "it is not behind");
    assert_eq!(rig.ledger.state().free["b"], 0.0);
    assert_eq!(pass(&mut rig), 0);
}

/// What only an older version's scripts leave: they know no probes.
#[test]
fn a_pass_clears_away_probes_of_accounts_that_are_gone() {
    let mut rig = Rig::new();
    let accounts = rig.ledger.key("accounts");
    rig.redis
        .run::<()>("HSET", &[&accounts, "#probe:gone", "x", "#probe:b", ""]);
    rig.redis.run::<()>("HDEL", &[&accounts, "b"]);
    assert_eq!(
        pass(&mut rig),
        1,
        "b is still in free, the rest is no count"
    );
    let meta = rig.ledger.state().meta;
    assert!(
        !meta.keys().any(|name| name.starts_with("#probe:")),
        "{meta:?}"
    );
}

/// An older version's recount takes the flag of an account that probes for wrong, and counts it: this one only puts it back.
#[test]
fn a_pass_that_ends_what_an_older_one_did_to_a_probe_finds_no_drift() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 3)])).unwrap();
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(1))
        .unwrap();
    std::thread::sleep(Duration::from_millis(3));
    let (probe, _) = rig.take();
    let accounts = rig.ledger.key("accounts");
    let record = |rig: &Rig| rig.redis.run::<String>("HGET", &[&accounts, "a"]);
    let probing = record(&rig);
    let old = probing.replacen(" 4", " 0", 1);
    assert_ne!(old, probing);
    for _ in 0..2 {
        rig.redis.run::<()>("HSET", &[&accounts, "a", &old]);
        rig.redis
            .run::<()>("ZADD", &[&rig.ledger.key("free"), "100000", "a"]);
        assert_eq!(pass(&mut rig), 0);
        assert_eq!(record(&rig), probing);
        assert_eq!(rig.free(), "");
    }
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(probe)), Ok(1));
    // Without a probe it is wrong as ever.
    rig.redis.run::<()>("HSET", &[&accounts, "a", &probing]);
    assert_eq!(pass(&mut rig), 1);
}
