//! An account that an answer took out of use: for a time and then a probe, or until an operator lets it go.

use super::rig::{Rig, pass};
use crate::pipe::{Answer, account};
use slotgate::ledger::commands::{AccountReport, Mode, SyncAccount, Synced};
use slotgate::ledger::fault::Fault;
use std::time::Duration;

fn disable(rig: &mut Rig, account: &str, for_ms: u64) -> Result<u64, Fault> {
    let report = AccountReport::Disable(for_ms, 401.into());
    rig.pipe.heard(account, report)
}

/// Why, since when, until when; `None`: no answer took it out of use.
fn off(rig: &Rig, account: &str) -> Option<(String, u64, u64)> {
    let field = format!("#off:{account}");
    let text = rig.ledger.state().meta.get(&field)?.clone();
    let words: Vec<&str> = text.split(' ').collect();
    let [why, since, until] = words[..] else {
        panic!("{text}")
    };
    Some((why.into(), since.parse().unwrap(), until.parse().unwrap()))
}

fn flags(rig: &Rig, account: &str) -> u32 {
    let record = rig.ledger.state().accounts[account].clone();
    record.rsplit(' ').next().unwrap().parse().unwrap()
}

fn state(rig: &mut Rig, account: &str) -> String {
    rig.pipe.inspect().unwrap()[account].1.clone()
}

#[test]
fn for_a_time_and_then_until_a_probe_passes() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 3)])).unwrap();
    let (before, _) = rig.take();
    assert_eq!(disable(&mut rig, "a", 30), Ok(1));
    assert_eq!(disable(&mut rig, "a", 30), Ok(0), "the others' answers");
    assert_eq!(
        (flags(&rig, "a"), state(&mut rig, "a")),
        (4, "disabled".into())
    );
    let (why, since, until) = off(&rig, "a").unwrap();
    assert!(
        why == "401" && (30..60).contains(&(until - since)),
        "{since} {until}"
    );
    let lease = rig.mint();
    let refused = rig.pipe.acquire(lease, Mode::Take, None);
    assert!(
        matches!(refused, Ok(Answer::Saturated(1..=30))),
        "{refused:?}"
    );
    std::thread::sleep(Duration::from_millis(40));
    // Its probe is refused again: the same time once more, and it was out of use all the while.
    let (probe, _) = rig.take();
    assert!(rig.pipe.probes);
    assert_eq!(state(&mut rig, "a"), "probing");
    assert_eq!(disable(&mut rig, "a", 20), Ok(2));
    assert_eq!(off(&rig, "a").unwrap().1, since);
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(probe)), Ok(0));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(state(&mut rig, "a"), "probe");
    assert!(off(&rig, "a").is_some());
    rig.pipe.release(&[probe]).unwrap();
    let (probe, _) = rig.take();
    assert_eq!(pass(&mut rig), 0);
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(probe)), Ok(1));
    assert_eq!((off(&rig, "a"), flags(&rig, "a")), (None, 0));
    // Then it is news again.
    assert_eq!(disable(&mut rig, "a", 60_000), Ok(1));
    assert!(rig.pipe.control("thaw", "a", None).unwrap().0.len() > 10);
    assert_eq!((off(&rig, "a"), flags(&rig, "a")), (None, 0));
    rig.pipe.release(&[before, probe]).unwrap();
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn until_an_operator_lets_it_go() {
    let mut rig = Rig::new();
    assert_eq!(disable(&mut rig, "b", 0), Ok(1));
    assert_eq!(disable(&mut rig, "b", 0), Ok(0));
    assert_eq!(disable(&mut rig, "b", 60_000), Ok(0), "nothing shortens it");
    assert_eq!(
        (flags(&rig, "b"), state(&mut rig, "b")),
        (1, "disabled".into())
    );
    assert_eq!(off(&rig, "b").unwrap().2, 0);
    assert_eq!(rig.free(), "a c");
    assert_eq!(pass(&mut rig), 0);
    // A new revision does not let it go.
    let list = [account("a", 1), account("b", 4), account("c", 3)];
    assert_eq!(rig.pipe.sync(2, 2, Some(&list)), Ok(Synced::Replaced));
    assert_eq!((rig.free().as_str(), flags(&rig, "b")), ("a c", 1));
    assert_eq!(
        rig.pipe.control("thaw", "b", None),
        Ok(("0".into(), String::new()))
    );
    assert_eq!((off(&rig, "b"), flags(&rig, "b")), (None, 0));
    assert_eq!(rig.free(), "a b c");
    assert_eq!(rig.pipe.control("thaw", "b", None), Ok(Default::default()));

    // One that was out of use for a time, and whose probe is under way.
    assert_eq!(disable(&mut rig, "b", 1), Ok(1));
    std::thread::sleep(Duration::from_millis(3));
    let probe = rig.pinned("b");
    assert_eq!(disable(&mut rig, "b", 0), Ok(2));
    rig.pipe.heard("b", AccountReport::Passed(probe)).unwrap();
    assert_eq!(off(&rig, "b").unwrap().2, 0);
    assert!(flags(&rig, "b") & 1 == 1);
    rig.pipe.release(&[probe]).unwrap();
    rig.pipe.control("thaw", "b", None).unwrap();
    assert_eq!((off(&rig, "b"), flags(&rig, "b")), (None, 0));
    rig.ledger.assert_consistent();
}

/// What the configuration says holds, and is not undone by an operator who lets the account go.
#[test]
fn one_that_the_configuration_disables() {
    let mut rig = Rig::new();
    let with = |enabled| {
        [
            account("a", 1),
            SyncAccount {
                enabled,
                ..account("b", 2)
            },
        ]
    };
    rig.pipe.sync(2, 2, Some(&with(false))).unwrap();
    for for_ms in [0, 60_000] {
        assert_eq!(disable(&mut rig, "b", for_ms), Ok(0));
        assert_eq!(off(&rig, "b"), None);
    }
    rig.pipe.sync(3, 3, Some(&with(true))).unwrap();
    assert_eq!(disable(&mut rig, "b", 0), Ok(1));
    rig.pipe.sync(4, 4, Some(&with(false))).unwrap();
    assert_eq!(off(&rig, "b"), None);
    rig.pipe.control("thaw", "b", None).unwrap();
    assert_eq!((flags(&rig, "b"), rig.free().as_str()), (1, "a"));
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn one_that_is_removed() {
    let mut rig = Rig::new();
    disable(&mut rig, "b", 0).unwrap();
    disable(&mut rig, "c", 60_000).unwrap();
    let held = rig.pinned("b");
    rig.pipe.sync(2, 2, Some(&[account("a", 1)])).unwrap();
    assert_eq!((off(&rig, "b"), off(&rig, "c")), (None, None));
    // Its last lease is answered.
    assert_eq!(disable(&mut rig, "b", 0), Ok(0));
    assert_eq!(off(&rig, "b"), None);
    assert_eq!(disable(&mut rig, "c", 0), Err(Fault::NoAccount));
    rig.pipe.release(&[held]).unwrap();
    rig.ledger.assert_consistent();
    assert_eq!(pass(&mut rig), 0);
}

/// Older scripts know nothing of it: what they take away is put back, what they leave behind goes, and nobody broke anything.
#[test]
fn a_recount_after_older_scripts() {
    let mut rig = Rig::new();
    let accounts = rig.ledger.key("accounts");
    disable(&mut rig, "b", 0).unwrap();
    disable(&mut rig, "c", 60_000).unwrap();
    let record = rig.ledger.state().accounts["b"].replace(" 1", " 0");
    rig.redis.run::<()>("HSET", &[&accounts, "b", &record]);
    assert_eq!(pass(&mut rig), 0);
    assert_eq!((flags(&rig, "b"), rig.free().as_str()), (1, "a"));
    // As an older `thaw` does it.
    rig.redis.run::<()>("HDEL", &[&accounts, "#probe:c"]);
    rig.redis
        .run::<()>("ZREM", &[&rig.ledger.key("cooldown"), "c"]);
    rig.redis.run::<()>("HDEL", &[&accounts, "#wake"]);
    let record = rig.ledger.state().accounts["c"].replace(" 4", " 0");
    rig.redis.run::<()>("HSET", &[&accounts, "c", &record]);
    rig.redis
        .run::<()>("ZADD", &[&rig.ledger.key("free"), "0", "c"]);
    assert_eq!(state(&mut rig, "c"), "free");
    assert_eq!(disable(&mut rig, "c", 60_000), Ok(1), "it was back");
    rig.pipe.control("thaw", "c", None).unwrap();
    rig.redis
        .run::<()>("HSET", &[&accounts, "#off:c", "401 5 6"]);
    assert_eq!(pass(&mut rig), 0);
    assert_eq!(off(&rig, "c"), None);
}

/// Garbage in it is named; where nobody knows who disabled the account, whoever configured it says so again.
#[test]
fn a_recount_mends_what_is_none() {
    let mut rig = Rig::new();
    let accounts = rig.ledger.key("accounts");
    disable(&mut rig, "b", 0).unwrap();
    for (account, wanted) in [("a", Ok(Synced::Current)), ("b", Ok(Synced::Wanted))] {
        let field = format!("#off:{account}");
        rig.redis.run::<()>("HSET", &[&accounts, &field, "many 5"]);
        assert_eq!(pass(&mut rig), 1, "{account}");
        assert_eq!(rig.ledger.state().meta.get(&field), None);
        assert_eq!(rig.pipe.sync(1, 1, None), wanted, "{account}");
    }
    let list = [account("a", 1), account("b", 2), account("c", 3)];
    rig.pipe.sync(1, 1, Some(&list)).unwrap();
    assert_eq!(rig.free(), "a b c");
}

/// As many accounts as a worker asks for, each with all that may be said of it.
#[test]
fn how_full_the_accounts_are_is_told_of_all() {
    let mut rig = Rig::bare(&[]);
    let ids: Vec<String> = (0..64).map(|number| format!("a{number}")).collect();
    let list: Vec<_> = ids.iter().map(|id| account(id, 1)).collect();
    rig.pipe.sync(1, 1, Some(&list)).unwrap();
    for id in &ids {
        disable(&mut rig, id, 60_000).unwrap();
    }
    let (_, _, used) = rig.pipe.look(10, 64).unwrap();
    assert_eq!(used.split(' ').count(), 64 * 2);
}
