//! How many requests an account gets in a time.

use super::rig::{JOIN, Rig, pass};
use crate::pipe::{Answer, account};
use slotgate::config::Pace;
use slotgate::ledger::commands::{AccountReport, Mode, SyncAccount, Synced};
use std::time::{Duration, Instant};
use support::{PATIENCE, eventually};

fn paced(id: &str, max: u32, (requests, per_ms, burst): (u32, u64, u32)) -> SyncAccount<'_> {
    SyncAccount {
        pace: Some(Pace {
            requests,
            per_ms,
            burst,
        }),
        ..account(id, max)
    }
}

#[test]
fn an_account_out_of_pace_waits_for_its_next_turn() {
    let mut rig = Rig::bare(&[]);
    let accounts = [paced("a", 100, (10, 2_000, 3))];
    assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Replaced));
    let begin = Instant::now();
    for _ in 0..3 {
        assert_eq!(rig.take().1, "a");
    }
    assert_eq!(rig.pipe.inspect().unwrap()["a"], (3, "paced".to_owned()));
    let lease = rig.mint();
    let answer = rig.pipe.acquire(lease, Mode::Take, None).unwrap();
    // One turn every 200 ms; what is told is whole ms.
    assert!(
        matches!(answer, Answer::Saturated(ms) if (1..=201).contains(&ms)),
        "{answer:?}"
    );
    // Ends of leases give no turn back.
    let all: Vec<_> = rig.ledger.owner().into_keys().collect();
    assert_eq!(all.len(), 3);
    let mut granted = 3;
    eventually(PATIENCE, || {
        let lease = rig.mint();
        if rig.pipe.acquire(lease, Mode::Take, None) == Ok(Answer::Granted("a".into())) {
            granted += 1;
        }
        granted == 8
    });
    // 3 at once, and 5 more turns of 200 ms.
    assert!(
        begin.elapsed() >= Duration::from_millis(990),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn those_of_one_call_keep_the_pace_together() {
    let mut rig = Rig::bare(&[]);
    let accounts = [
        paced("a", 100, (1, 60_000, 1)),
        paced("b", 100, (4, 600_000, 4)),
        account("c", 2),
    ];
    assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Replaced));
    let leases: Vec<_> = (0..12).map(|_| rig.mint()).collect();
    let asked: Vec<_> = leases
        .iter()
        .map(|lease| super::rig::plain(*lease))
        .collect();
    let answers = rig.pipe.acquire_all(&asked, 0, 1).unwrap();
    let granted = |id: &str| {
        answers
            .iter()
            .filter(|one| **one == Answer::Granted(id.into()))
            .count()
    };
    assert_eq!(
        (granted("a"), granted("b"), granted("c")),
        (1, 4, 2),
        "{answers:?}"
    );
    assert_eq!(rig.free(), "");
    // What is recorded whatever the pace shuts the account for no longer than one turn more.
    for _ in 0..50 {
        rig.pinned("a");
    }
    let until = rig.ledger.state().cooldown["a"] - rig.ledger.state().now_ms;
    assert!((60_000.0..=120_000.0).contains(&until), "{until}");
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn a_turn_that_comes_serves_who_waits() {
    let mut rig = Rig::bare(&[]);
    let accounts = [paced("a", 100, (10, 1_000, 1))];
    assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Replaced));
    rig.pipe.waiting.most = 10;
    let leases: Vec<_> = (0..5).map(|_| rig.mint()).collect();
    let begin = Instant::now();
    for lease in &leases {
        rig.pipe.acquire(*lease, JOIN, None).unwrap();
    }
    // Each turn goes to who came first, whoever asks.
    eventually(PATIENCE, || {
        let owners = rig.pipe.owners(&leases);
        let served = owners.iter().take_while(|owner| *owner == "a").count();
        assert!(
            owners
                .iter()
                .skip(served)
                .all(|owner| owner.starts_with('~')),
            "{owners:?}"
        );
        let last = *leases.last().unwrap();
        rig.pipe.acquire(last, JOIN, None).unwrap();
        served == 5
    });
    assert!(
        begin.elapsed() >= Duration::from_millis(390),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn a_pace_that_changes_holds_at_once_and_garbage_is_none() {
    let mut rig = Rig::bare(&[]);
    let accounts = [paced("a", 100, (1, 600_000, 1))];
    assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Replaced));
    rig.take();
    assert_eq!(rig.free(), "");
    // An operator lets it go on.
    rig.pipe.control("thaw", "a", None).unwrap();
    assert_eq!(rig.free(), "a");
    rig.take();
    assert_eq!(rig.free(), "");
    let accounts = [account("a", 100)];
    assert_eq!(rig.pipe.sync(2, 2, Some(&accounts)), Ok(Synced::Replaced));
    rig.pipe.control("thaw", "a", None).unwrap();
    for _ in 0..5 {
        rig.take();
    }
    assert_eq!(rig.free(), "a");
    // What is no pace holds nothing up, and a recount takes it out.
    let key = rig.ledger.key("accounts");
    for garbage in ["x", "1/0/1 5", "0/1/1 5", "1/1/1"] {
        rig.redis
            .run::<u32>("HSET", &[&key, "#metered", "1", "#pace:a", garbage]);
        rig.take();
        assert_eq!(pass(&mut rig), 1, "{garbage}");
        assert_eq!(rig.pipe.sync(2, 2, Some(&accounts)), Ok(Synced::Replaced));
    }
}

#[test]
fn a_probe_that_takes_the_last_turn_passes_all_the_same() {
    let mut rig = Rig::bare(&[]);
    let accounts = [paced("a", 100, (1, 60_000, 1))];
    assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Replaced));
    let disable = AccountReport::Disable(1, 401.into());
    assert_eq!(rig.pipe.heard("a", disable), Ok(1));
    std::thread::sleep(Duration::from_millis(5));
    let lease = rig.take().0;
    assert!(rig.pipe.probes);
    // It is out of pace, which no answer said.
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(lease)), Ok(1));
    let state = rig.ledger.state();
    assert_eq!(rig.pipe.inspect().unwrap()["a"], (1, "paced".to_owned()));
    assert!(state.cooldown["a"] - state.now_ms > 50_000.0);
    assert_eq!(pass(&mut rig), 0);
    rig.pipe.control("thaw", "a", None).unwrap();
    rig.take();
    assert!(!rig.pipe.probes);
    // One that was pushed back meanwhile has not passed.
    rig.pipe.control("thaw", "a", None).unwrap();
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(1))
        .unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let lease = rig.take().0;
    rig.pipe
        .heard("a", AccountReport::Cool(600_000, None))
        .unwrap();
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(lease)), Ok(0));
}
