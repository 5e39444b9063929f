//! A pool's accounts: which revision is in force, and what becomes of leases when an account changes.

use super::rig::Rig;
use crate::pipe::{account, source, text};
use slotgate::ledger::commands::{Renewed, Synced};
use slotgate::ledger::keys::COMMON;
use slotgate::ledger::source::Script;
use slotgate::request::lease::LeaseId;

#[test]
fn sync_goes_by_revision() {
    let mut rig = Rig::bare(&[]);
    let [one, two] = [[account("a", 1)], [account("b", 1)]];
    assert_eq!(rig.pipe.sync(5, 1, None), Ok(Synced::Wanted));
    assert_eq!(rig.pipe.sync(5, 1, Some(&one)), Ok(Synced::Replaced));
    assert_eq!(rig.pipe.sync(5, 1, None), Ok(Synced::Current));
    assert_eq!(rig.pipe.sync(5, 1, Some(&one)), Ok(Synced::Current));
    assert_eq!(rig.pipe.sync(5, 2, Some(&two)), Ok(Synced::Differs));
    assert_eq!(rig.pipe.sync(4, 2, Some(&two)), Ok(Synced::Newer(5)));
    assert_eq!(rig.free(), "a");
    let epoch = rig.ledger.state().meta["#epoch"].clone();
    assert_eq!(rig.pipe.sync(6, 2, Some(&two)), Ok(Synced::Replaced));
    assert_eq!(rig.free(), "b");
    assert_eq!(rig.ledger.state().meta["#epoch"], epoch, "no data was lost");
}

#[test]
fn a_lowered_limit_drains_a_raised_one_frees_at_once() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 4)])).unwrap();
    let leases: Vec<LeaseId> = (0..4).map(|_| rig.take().0).collect();
    rig.pipe.sync(2, 2, Some(&[account("a", 2)])).unwrap();
    rig.pipe.release(&leases[..2]).unwrap();
    assert_eq!(rig.free(), "", "2 of 2");
    rig.pipe.release(&leases[2..3]).unwrap();
    assert_eq!(rig.free(), "a");
    rig.take();
    assert_eq!(rig.free(), "");
    rig.pipe.sync(3, 3, Some(&[account("a", 3)])).unwrap();
    assert_eq!(rig.free(), "a");
    rig.ledger.assert_consistent();
}

#[test]
fn a_removed_account_lets_its_leases_finish() {
    let mut rig = Rig::bare(&[]);
    rig.pipe
        .sync(1, 1, Some(&[account("a", 2), account("b", 1)]))
        .unwrap();
    let lease = rig.pinned("a");
    rig.pipe.sync(2, 2, Some(&[account("b", 1)])).unwrap();
    assert_eq!(rig.free(), "b");
    assert_eq!(rig.ledger.used("a"), 1);
    let epoch = rig.pipe.epoch;
    assert_eq!(
        rig.pipe.renew(&[(lease, "a", epoch)]),
        Ok(vec![Renewed::Renewed])
    );
    rig.pipe.release(&[lease]).unwrap();
    let state = rig.ledger.state();
    assert_eq!(
        state.accounts.keys().collect::<Vec<_>>(),
        ["b"],
        "and the record goes with the last one"
    );
    assert!(!state.used.contains_key("a"));
    // Configured again while a lease lives, it is an account like any other.
    let lease = rig.pinned("b");
    rig.pipe.sync(3, 3, Some(&[account("c", 1)])).unwrap();
    rig.pipe.sync(4, 4, Some(&[account("b", 2)])).unwrap();
    assert_eq!(rig.free(), "b");
    rig.pipe.release(&[lease]).unwrap();
    assert_eq!(rig.ledger.state().accounts["b"], "2 300000 0 0");
    rig.ledger.assert_consistent();
}

#[test]
fn drained_accounts_stay_drained_through_a_sync() {
    let mut rig = Rig::bare(&[]);
    let _: i64 = rig
        .redis
        .run("HSET", &[&rig.ledger.key("control"), "drain:a", "1"]);
    rig.pipe
        .sync(1, 1, Some(&[account("a", 1), account("b", 1)]))
        .unwrap();
    assert_eq!(rig.free(), "b");
}

#[test]
fn a_lost_pool_leaves_no_ghosts_behind() {
    let mut rig = Rig::new();
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("accounts")]);
    rig.pipe.sync(1, 1, Some(&[account("b", 2)])).unwrap();
    assert_eq!(rig.free(), "b");
}

/// An older version says no range of priorities: then there is none, and no priority can be set.
#[test]
fn a_range_of_priorities_is_that_of_the_sync_in_force() {
    let mut rig = Rig::new();
    let scale = |rig: &Rig| rig.ledger.state().meta.get("#scale").cloned();
    assert!(scale(&rig).is_some());
    let source = source(Script::Sync);
    let names = COMMON.into_iter().chain(["control", "roster", "changes"]);
    let keys: Vec<String> = names.map(|name| rig.ledger.key(name)).collect();
    let ask = |rig: &mut Rig, arguments: &[&str]| {
        let mut words: Vec<&[u8]> = vec![b"EVAL", source.as_bytes(), b"11"];
        words.extend(keys.iter().map(|key| key.as_bytes()));
        words.extend(arguments.iter().map(|word| word.as_bytes()));
        text(&rig.pipe.command(&words))
    };
    let asked = ask(&mut rig, &["2", "2", "1", "0"]);
    assert!(asked.contains("wanted"), "{asked}");
    assert!(scale(&rig).is_some(), "a question changes nothing");
    let put = ask(&mut rig, &["2", "2", "1", "0", "a", "1", "0", "0"]);
    assert!(put.contains("replaced"), "{put}");
    assert_eq!(scale(&rig), None);
}
