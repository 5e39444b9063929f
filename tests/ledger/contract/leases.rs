//! Taking a lease, renewing it and giving it back; what becomes of one that nobody gives back.

use super::rig::Rig;
use crate::pipe::{Answer, account};
use slotgate::ledger::commands::{Mode, Reconciled, Renewed, SyncAccount};
use slotgate::ledger::fault::Fault;
use slotgate::request::lease::LeaseId;
use std::collections::BTreeSet;
use std::time::Duration;
use support::eventually;

#[test]
fn acquire_fills_every_slot_and_no_more() {
    let mut rig = Rig::new();
    let mut taken: Vec<String> = rig.fill().into_iter().map(|(_, account)| account).collect();
    taken.sort();
    assert_eq!(taken, ["a", "b", "b", "c", "c", "c"]);
    assert_eq!(rig.free(), "");
    let lease = rig.mint();
    let Ok(Answer::Saturated(retry_after_ms)) = rig.pipe.acquire(lease, Mode::Take, None) else {
        panic!()
    };
    assert!((1..=1000).contains(&retry_after_ms), "{retry_after_ms}");
    assert_eq!(rig.ledger.live(), 6);
    rig.ledger.assert_consistent();
}

#[test]
fn acquire_and_release_are_idempotent_by_lease_id() {
    let mut rig = Rig::new();
    let (lease, account) = rig.take();
    for _ in 0..3 {
        assert_eq!(rig.pipe.take(lease), account);
    }
    assert_eq!(rig.ledger.live(), 1);
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    assert_eq!(rig.pipe.release(&[lease]), Ok(0));
    let unknown = rig.mint();
    assert_eq!(rig.pipe.release(&[unknown]), Ok(0));
    assert_eq!(rig.free(), "a b c");
    assert!(
        rig.ledger.state().used.values().all(|used| *used == 0),
        "never below 0"
    );
    rig.ledger.assert_consistent();
}

#[test]
fn a_batch_of_releases() {
    let mut rig = Rig::new();
    let leases: Vec<LeaseId> = rig.fill().into_iter().map(|(lease, _)| lease).collect();
    let unknown = rig.mint();
    assert_eq!(
        rig.pipe
            .release(&[leases[0], unknown, leases[1], leases[0]]),
        Ok(2)
    );
    assert_eq!(rig.ledger.live(), 4);
    rig.ledger.assert_consistent();
}

#[test]
fn expired_leases_are_reaped_by_whoever_comes_next() {
    let mut rig = Rig::new();
    rig.set_time_to_live(1);
    rig.fill();
    rig.set_time_to_live(60_000);
    eventually(Duration::from_secs(5), || {
        let state = rig.ledger.state();
        state.leases.values().all(|expiry| *expiry < state.now_ms)
    });
    // Nobody is refused for a lease that is over.
    let taken: BTreeSet<String> = rig
        .fill()
        .iter()
        .map(|(lease, _)| lease.to_string())
        .collect();
    let state = rig.ledger.state();
    assert_eq!(state.leases.keys().cloned().collect::<BTreeSet<_>>(), taken);
    state.assert_consistent();
}

#[test]
fn a_bounded_number_is_reaped_even_when_nobody_needs_it() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 1000)])).unwrap();
    rig.set_time_to_live(2_000);
    for _ in 0..100 {
        rig.take();
    }
    rig.set_time_to_live(60_000);
    eventually(Duration::from_secs(5), || {
        let state = rig.ledger.state();
        state.leases.values().all(|expiry| *expiry < state.now_ms)
    });
    let (mut left, mut taken) = (rig.ledger.state().leases.len(), 0);
    assert_eq!(left, 100);
    while left > taken {
        rig.take();
        taken += 1;
        let now = rig.ledger.state().leases.len();
        assert!(now + 32 >= left, "{left} to {now} in one call");
        left = now;
        assert!(taken < 100, "they share the work");
    }
    rig.ledger.assert_consistent();
}

#[test]
fn renew_keeps_a_lease_and_says_when_it_is_lost() {
    let mut rig = Rig::new();
    rig.set_time_to_live(60_000);
    let (kept, account) = rig.take();
    let before = rig.ledger.state().leases[kept.as_str()];
    rig.set_time_to_live(120_000);
    let epoch = rig.pipe.epoch;
    assert_eq!(
        rig.pipe.renew(&[(kept, &account, epoch)]),
        Ok(vec![Renewed::Renewed])
    );
    assert!(rig.ledger.state().leases[kept.as_str()] >= before + 60_000.0);
    // Reaped, and its account is full again: the slot is someone else's.
    let gone = rig.mint();
    rig.pinned("a");
    assert_eq!(
        rig.pipe
            .renew(&[(gone, "a", epoch), (kept, &account, epoch)]),
        Ok(vec![Renewed::Lost, Renewed::Renewed])
    );
    // Reaped, and there is room: taken again.
    assert_eq!(
        rig.pipe.renew(&[(gone, "b", epoch)]),
        Ok(vec![Renewed::Readopted])
    );
    assert_eq!(rig.ledger.owner()[gone.as_str()], "b");
    rig.ledger.assert_consistent();
}

#[test]
fn after_data_loss_leases_are_readopted_even_above_the_limit() {
    let mut rig = Rig::new();
    let (old, _) = (rig.mint(), ());
    let epoch = rig.pipe.epoch;
    let _: () = rig.redis.run("FLUSHALL", &[]);
    assert_eq!(rig.pipe.renew(&[(old, "a", epoch)]), Err(Fault::NoPool));
    assert_eq!(rig.pipe.acquire(old, Mode::Take, None), Err(Fault::NoPool));
    rig.pipe.seed = 77;
    rig.pipe.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    rig.take();
    assert_eq!(
        rig.pipe.renew(&[(old, "a", epoch)]),
        Ok(vec![Renewed::Readopted])
    );
    assert_eq!(
        rig.ledger.used("a"),
        2,
        "the stream is there, so it is counted"
    );
    assert_eq!(rig.free(), "");
    // Of the new epoch, it would have been lost.
    let other = rig.mint();
    let epoch = rig.pipe.epoch;
    assert_eq!(
        rig.pipe.renew(&[(other, "a", epoch)]),
        Ok(vec![Renewed::Lost])
    );
    rig.ledger.assert_consistent();
}

#[test]
fn a_session_keeps_its_account_and_spills_without_rebinding() {
    let mut rig = Rig::new();
    let session = [7; 16];
    let with = Some((&session, 60_000));
    let bind = |rig: &mut Rig| {
        let lease = rig.mint();
        match rig.pipe.acquire(lease, Mode::Take, with) {
            Ok(Answer::Granted(account)) => (lease, account),
            other => panic!("{other:?}"),
        }
    };
    let (_, bound) = bind(&mut rig);
    let slots = if bound == "a" {
        1
    } else if bound == "b" {
        2
    } else {
        3
    };
    for _ in 1..slots {
        assert_eq!(bind(&mut rig).1, bound);
    }
    let (_, spilled) = bind(&mut rig);
    assert_ne!(spilled, bound);
    assert_eq!(rig.pipe.bound(&session), Some(bound.clone()), "still bound");
    let key = rig.ledger.key("session:0707");
    assert!(rig.redis.run::<i64>("PTTL", &[&key]) > 50_000);
    // Gone from the configuration: bound anew.
    let rest: Vec<SyncAccount> = [account("a", 1), account("b", 2), account("c", 3)]
        .into_iter()
        .filter(|a| a.id != bound)
        .collect();
    rig.pipe.sync(2, 2, Some(&rest)).unwrap();
    let (_, now) = bind(&mut rig);
    assert_ne!(now, bound);
    assert_eq!(rig.pipe.bound(&session), Some(now));
    // Without a session nothing is written.
    let keys = rig.redis.run::<Vec<String>>("KEYS", &["*session*"]);
    rig.take();
    assert_eq!(rig.redis.run::<Vec<String>>("KEYS", &["*session*"]), keys);
}

#[test]
fn dry_writes_nothing() {
    let mut rig = Rig::new();
    rig.set_time_to_live(1);
    rig.take();
    std::thread::sleep(Duration::from_millis(5));
    let dump = |rig: &Rig| {
        let state = rig.ledger.state();
        (
            state.accounts,
            format!(
                "{:?}{:?}{:?}{:?}",
                state.free, state.used, state.leases, state.cooldown
            ),
        )
    };
    let before = dump(&rig);
    let session = [1; 16];
    for with in [None, Some((&session, 1_000))] {
        let lease = rig.mint();
        assert!(matches!(
            rig.pipe.acquire(lease, Mode::Dry, with),
            Ok(Answer::Granted(_))
        ));
    }
    assert_eq!(dump(&rig), before);
    assert!(
        rig.redis
            .run::<Vec<String>>("KEYS", &["*session*"])
            .is_empty()
    );
}

#[test]
fn forced_leases_are_counted_above_the_limit() {
    let mut rig = Rig::new();
    let leases: Vec<LeaseId> = (0..3).map(|_| rig.pinned("a")).collect();
    assert_eq!(rig.ledger.used("a"), 3);
    assert_eq!(rig.free(), "b c");
    rig.pipe.release(&leases[..2]).unwrap();
    assert_eq!(rig.free(), "b c", "drains down");
    rig.pipe.release(&leases[2..]).unwrap();
    assert_eq!(rig.free(), "a b c");
    let lease = rig.mint();
    assert_eq!(
        rig.pipe.acquire(lease, Mode::Force("zz"), None),
        Err(Fault::NoAccount)
    );
    assert!(rig.ledger.is_empty());
    rig.ledger.assert_consistent();
}

#[test]
fn the_best_score_wins() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.random = 0;
    let accounts = [
        SyncAccount {
            base: 500_000,
            ..account("worse", 10)
        },
        account("small", 2),
        account("large", 10),
        SyncAccount {
            enabled: false,
            ..account("off", 10)
        },
    ];
    rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
    let mut taken: Vec<String> = (0..12).map(|_| rig.take().1).collect();
    // By load: the large one takes five for each of the small one's.
    assert_eq!(
        taken[..6]
            .iter()
            .filter(|account| *account == "large")
            .count(),
        5,
        "{taken:?}"
    );
    taken.sort();
    taken.dedup();
    assert_eq!(taken, ["large", "small"], "the worse priority last");
    assert_eq!(rig.take().1, "worse");
    assert_eq!(rig.free(), "worse");
}

#[test]
fn freeing_works_when_memory_is_full_and_acquire_is_refused() {
    let mut rig = Rig::new();
    let (lease, account) = rig.take();
    let epoch = rig.pipe.epoch;
    let _: String = rig.redis.run("CONFIG", &["SET", "maxmemory", "1"]);
    let other = rig.mint();
    assert_eq!(
        rig.pipe.acquire(other, Mode::Take, None),
        Err(Fault::OutOfMemory)
    );
    assert_eq!(
        rig.pipe.renew(&[(lease, &account, epoch)]),
        Ok(vec![Renewed::Renewed])
    );
    assert!(rig.pipe.cooldown("c", 1000).is_ok());
    assert!(rig.pipe.control("drain", "b", None).is_ok());
    let mut steps = 0;
    while let Reconciled::Working(_) = rig.pipe.reconcile("one", 1000, 10).expect("a step") {
        steps += 1;
    }
    assert!(steps > 3, "a whole pass");
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    let _: String = rig.redis.run("CONFIG", &["SET", "maxmemory", "0"]);
    assert!(rig.ledger.is_empty());
    rig.ledger.assert_consistent();
}

#[test]
fn a_lease_without_owner_is_cleared_away_when_it_is_over() {
    let mut rig = Rig::new();
    let _: i64 = rig
        .redis
        .run("ZADD", &[&rig.ledger.key("leases"), "1", "stray"]);
    rig.fill();
    let lease = rig.mint();
    assert!(matches!(
        rig.pipe.acquire(lease, Mode::Take, None),
        Ok(Answer::Saturated(_))
    ));
    assert!(!rig.ledger.state().leases.contains_key("stray"));
    rig.ledger.assert_consistent();
}

#[test]
fn a_running_stream_is_counted_even_on_an_account_that_takes_no_more() {
    let mut rig = Rig::new();
    rig.pipe.control("drain", "b", None).unwrap();
    let lease = rig.mint();
    let epoch = rig
        .pipe
        .sync(1, 1, None)
        .map(|_| rig.ledger.state().meta["#epoch"].parse().unwrap())
        .unwrap();
    assert_eq!(
        rig.pipe.renew(&[(lease, "b", epoch)]),
        Ok(vec![Renewed::Readopted])
    );
    assert_eq!((rig.ledger.used("b"), rig.free().as_str()), (1, "a c"));
}
