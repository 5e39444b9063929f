//! Leases of requests that have tried accounts before.

use super::rig::Rig;
use crate::pipe::{Answer, account};
use slotgate::config::TenantLimits;
use slotgate::ledger::commands::{Mode, Place, SyncAccount, Terms};

const TERMS: Terms = Terms {
    limits: TenantLimits {
        max_concurrency: 0,
        max_waiting: 0,
        weight: 1,
    },
    cookie: 1,
    place: Place::Last,
};

#[test]
fn none_of_them_is_given() {
    let mut rig = Rig::new();
    rig.pipe.tried = vec!["a", "b"];
    for _ in 0..3 {
        assert_eq!(rig.take().1, "c");
    }
    // Two accounts have free slots, and none is for this one.
    let lease = rig.mint();
    let answer = rig.pipe.acquire(lease, Mode::Take, None);
    assert!(matches!(answer, Ok(Answer::Saturated(_))), "{answer:?}");
    assert_eq!(rig.free(), "a b");
    rig.pipe.tried.clear();
    assert_ne!(rig.take().1, "c");
    rig.ledger.assert_consistent();
}

#[test]
fn nor_in_a_large_pool() {
    let mut rig = Rig::bare(&[]);
    let names: Vec<String> = (0..200).map(|i| format!("a{i:03}")).collect();
    // The first are the best by far.
    let list: Vec<SyncAccount> = names
        .iter()
        .enumerate()
        .map(|(i, id)| SyncAccount {
            base: if i < 9 { 0 } else { 100_000 + i as u64 % 7 },
            ..account(id, 1_000)
        })
        .collect();
    rig.pipe.sync(1, 1, Some(&list)).unwrap();
    let tried = [
        "a000", "a001", "a002", "a003", "a004", "a005", "a006", "a007", "a008",
    ];
    for weight in [0, 10, 200_000] {
        rig.pipe.random = weight;
        for count in 1..=9 {
            rig.pipe.tried = tried[..count].to_vec();
            for _ in 0..20 {
                let (_, account) = rig.take();
                assert!(!rig.pipe.tried.contains(&account.as_str()), "{account}");
            }
        }
    }
    rig.ledger.assert_consistent();
}

#[test]
fn a_session_stays_bound_where_it_is() {
    let mut rig = Rig::new();
    let session = [7; 16];
    rig.pinned("a");
    let with = Some((&session, 60_000));
    let lease = rig.mint();
    let Ok(Answer::Granted(first)) = rig.pipe.acquire(lease, Mode::Take, with) else {
        panic!()
    };
    let bound = rig.pipe.bound(&session);
    assert_eq!(bound.as_deref(), Some(first.as_str()));
    rig.pipe.tried = vec![if first == "b" { "b" } else { "c" }];
    let lease = rig.mint();
    let Ok(Answer::Granted(second)) = rig.pipe.acquire(lease, Mode::Take, with) else {
        panic!()
    };
    assert_ne!(first, second);
    assert_eq!(rig.pipe.bound(&session), bound);
    rig.pipe.tried.clear();
    let lease = rig.mint();
    assert_eq!(
        rig.pipe.acquire(lease, Mode::Take, with),
        Ok(Answer::Granted(first))
    );
}

#[test]
fn a_lease_that_holds_a_slot_of_one_holds_it_still() {
    let mut rig = Rig::new();
    let (lease, account) = rig.take();
    rig.pipe.tried = vec!["a", "b", "c"];
    assert_eq!(rig.pipe.take(lease), account);
}

#[test]
fn it_waits_as_since_it_came_unless_a_tried_one_is_free() {
    let mut rig = Rig::new();
    rig.pipe.waiting.most = 2;
    rig.pipe.waiting.vouched_ms = 60_000;
    let join = |rig: &mut Rig, place| {
        let lease = rig.mint();
        let terms = Terms { place, ..TERMS };
        let answer = rig.pipe.acquire(lease, Mode::Join(terms), None).unwrap();
        (lease, answer)
    };
    let holders: Vec<_> = rig.fill().into_iter().map(|(lease, _)| lease).collect();
    let (first, answer) = join(&mut rig, Place::Last);
    assert!(matches!(answer, Answer::Waits(_)));
    let (second, _) = join(&mut rig, Place::Last);
    // As many wait as may, and it came before all of them.
    let (_, answer) = join(&mut rig, Place::Last);
    assert!(matches!(answer, Answer::QueueFull(_)), "{answer:?}");
    rig.pipe.tried = vec!["a"];
    let (later, answer) = join(&mut rig, Place::Since(5_000));
    assert!(matches!(answer, Answer::Waits(_)), "{answer:?}");
    let served: Vec<String> = holders[..3]
        .iter()
        .map(|holder| {
            rig.pipe.release(&[*holder]).unwrap();
            rig.pipe.handed[0].1.clone()
        })
        .collect();
    let expected = [later, first, second].map(|lease| lease.to_string());
    assert_eq!(served, expected);

    // A slot of the tried one is free, for another one: who waited would be given that.
    let mut rig = Rig::new();
    rig.pipe.waiting.most = 2;
    let holders = rig.fill();
    let of_a = holders.iter().find(|(_, account)| account == "a").unwrap();
    rig.pipe.release(&[of_a.0]).unwrap();
    rig.pipe.tried = vec!["a"];
    let (_, answer) = join(&mut rig, Place::Since(0));
    assert!(matches!(answer, Answer::Saturated(_)), "{answer:?}");
    assert_eq!(rig.free(), "a");
}
