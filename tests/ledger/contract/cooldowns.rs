//! Accounts that rest, in all scopes or in one, and accounts behind the others.

use super::rig::Rig;
use crate::pipe::{Answer, account};
use slotgate::ledger::commands::{AccountReport, Mode};
use slotgate::ledger::fault::Fault;
use std::time::Duration;

#[test]
fn cooldowns_only_ever_extend_and_end() {
    let mut rig = Rig::new();
    let long = rig.pipe.cooldown("a", 60_000).unwrap();
    assert!(long > 59_000, "{long}");
    assert!(
        rig.pipe.cooldown("a", 1_000).unwrap() > 59_000,
        "never shorter"
    );
    assert_eq!(rig.free(), "b c");
    assert_eq!(rig.pipe.cooldown("zz", 1_000), Err(Fault::NoAccount));
    // A lease it had before goes on; a release doesn't free it.
    let lease = rig.pinned("a");
    rig.pipe.release(&[lease]).unwrap();
    assert_eq!(rig.free(), "b c");
    // Kept through a new revision.
    rig.pipe
        .sync(2, 2, Some(&[account("a", 1), account("b", 1)]))
        .unwrap();
    assert_eq!(rig.free(), "b");
    rig.pipe.cooldown("b", 20).unwrap();
    let lease = rig.mint();
    let Ok(Answer::Saturated(retry_after_ms)) = rig.pipe.acquire(lease, Mode::Take, None) else {
        panic!()
    };
    assert!(
        (1..=20).contains(&retry_after_ms),
        "the first cooldown's end: {retry_after_ms}"
    );
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(rig.take().1, "b");
}

#[test]
fn who_is_refused_is_told_when_a_cooldown_ends_not_when_one_is_behind_no_more() {
    let mut rig = Rig::new();
    for account in ["a", "b", "c"] {
        rig.pipe.cooldown(account, 40_000).unwrap();
    }
    rig.pipe.heard("b", AccountReport::Behind(5_000)).unwrap();
    let lease = rig.mint();
    let answer = rig.pipe.acquire(lease, Mode::Take, None);
    assert!(
        matches!(answer, Ok(Answer::Saturated(39_000..=40_000))),
        "{answer:?}"
    );
}

/// However many are behind: those that take no lease for another reason too.
#[test]
fn who_is_refused_is_told_when_a_cooldown_ends_among_many_that_are_behind() {
    let mut rig = Rig::bare(&[]);
    let ids: Vec<String> = (0..40).map(|number| format!("a{number}")).collect();
    let accounts: Vec<_> = ids.iter().map(|id| account(id, 1)).collect();
    rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
    for id in &ids {
        rig.pipe.heard(id, AccountReport::Behind(20_000)).unwrap();
        rig.pipe.cooldown(id, 40_000).unwrap();
    }
    let lease = rig.mint();
    let answer = rig.pipe.acquire(lease, Mode::Take, None);
    assert!(
        matches!(answer, Ok(Answer::Saturated(38_000..=40_000))),
        "{answer:?}"
    );
}

#[test]
fn an_account_that_cools_in_one_scope_serves_the_others() {
    let mut rig = Rig::new();
    let (scope, session) = ([5; 16], [6; 16]);
    let with = Some((&session, 60_000));
    let bound = rig.mint();
    assert_eq!(
        rig.pipe
            .acquire_in(bound, Mode::Take, with, Some(&scope), 1),
        rig.pipe.acquire_in(bound, Mode::Take, None, None, 1),
        "asked again it has the same"
    );
    let account = rig.ledger.owner()[bound.as_str()].clone();
    rig.pipe.release(&[bound]).unwrap();
    assert!(
        rig.pipe
            .cooldown_in(&account, 60_000, Some(&scope))
            .unwrap()
            > 59_000
    );
    assert_eq!(rig.free(), "a b c", "for the others it is free");
    for _ in 0..20 {
        let lease = rig.mint();
        let Ok(Answer::Granted(other)) =
            rig.pipe
                .acquire_in(lease, Mode::Take, with, Some(&scope), 1)
        else {
            panic!("two accounts are left")
        };
        assert_ne!(
            other, account,
            "neither by choice nor by the session's binding"
        );
        rig.pipe.release(&[lease]).unwrap();
    }
    let lease = rig.mint();
    assert_eq!(
        rig.pipe.acquire_in(lease, Mode::Take, with, None, 1),
        Ok(Answer::Granted(account.clone())),
        "outside the scope the session still has it"
    );
    rig.pipe.release(&[lease]).unwrap();
}

#[test]
fn an_account_behind_is_taken_when_no_other_can_be() {
    let mut rig = Rig::new();
    let hash = [1; 16];
    let lease = rig.mint();
    let Ok(Answer::Granted(own)) = rig.pipe.acquire(lease, Mode::Take, Some((&hash, 60_000)))
    else {
        panic!()
    };
    rig.pipe.release(&[lease]).unwrap();
    rig.pipe.heard(&own, AccountReport::Behind(60_000)).unwrap();
    assert!(rig.pipe.heard(&own, AccountReport::Behind(1_000)).unwrap() > 59_000);
    let slots = |id: &str| ["a", "b", "c"].iter().position(|one| *one == id).unwrap() + 1;
    let mut last = Vec::new();
    for n in 0..6 {
        let lease = rig.mint();
        let Ok(Answer::Granted(account)) =
            rig.pipe.acquire(lease, Mode::Take, Some((&hash, 60_000)))
        else {
            panic!()
        };
        // Its own session spills, and is not bound anew.
        assert_eq!(account == own, n >= 6 - slots(&own), "{n}: {account}");
        last.push(lease);
    }
    rig.pipe.release(&last).unwrap();
    for account in ["a", "b", "c"] {
        rig.pipe.heard(account, AccountReport::Behind(30)).unwrap();
    }
    // All are: as if none were.
    let lease = rig.mint();
    assert_eq!(
        rig.pipe.acquire(lease, Mode::Take, Some((&hash, 60_000))),
        Ok(Answer::Granted(own.clone()))
    );
    rig.pipe.release(&[lease]).unwrap();
    assert_eq!(rig.pipe.control("thaw", &own, None).unwrap().1, "");
    std::thread::sleep(Duration::from_millis(35));
    rig.take();
    let state = rig.ledger.state();
    assert!(state.cooldown.is_empty(), "{state:?}");
    assert!(state.free.values().all(|score| *score < 1e9), "{state:?}");
}
