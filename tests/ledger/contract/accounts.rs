//! Accounts that change while everything runs.

use super::rig::{JOIN, Rig, pass};
use crate::pipe::{Answer, SCALE, account, text};
use slotgate::ledger::commands::{AccountTerms, Change, Mode, Part, Synced};
use slotgate::ledger::fault::Fault;

fn terms(id: &str, set: [&str; 4]) -> AccountTerms {
    let [max_concurrency, priority, disabled, pace] = set.map(str::to_owned);
    AccountTerms {
        id: id.to_owned(),
        max_concurrency,
        priority,
        disabled,
        pace,
    }
}

fn slots(id: &str, max: &str) -> AccountTerms {
    terms(id, [max, "", "", ""])
}

fn id(id: &str) -> AccountTerms {
    terms(id, [""; 4])
}

/// A pool whose accounts are the ledger's, which began with a, b and c.
fn ledgers() -> Rig {
    let mut rig = Rig::bare(&[]);
    rig.pipe.accounts_are_ledgers = true;
    let accounts = [account("a", 1), account("b", 2), account("c", 3)];
    assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Replaced));
    rig
}

fn record(rig: &Rig, account: &str) -> String {
    let state = rig.ledger.state();
    state.accounts.get(account).cloned().unwrap_or_default()
}

#[test]
fn what_an_operator_sets_holds_whatever_the_configuration_says_until_it_is_reset() {
    let mut rig = Rig::new();
    let set = |rig: &mut Rig, terms: AccountTerms| rig.pipe.change(Change::Set, false, &[terms]);
    let said = set(&mut rig, terms("b", ["7", "5", "", ""]));
    assert_eq!(said.unwrap(), ["changed [2 - 0 -] [7 5 0 -]"]);
    assert_eq!(record(&rig, "b"), "7 300000 250000 0");
    let again = set(&mut rig, terms("b", ["7", "", "", ""]));
    assert_eq!(again.unwrap(), ["same [7 5 0 -] [7 5 0 -]"]);
    // Only what is set stays so.
    let accounts = [account("a", 4), account("b", 9), account("d", 1)];
    assert_eq!(rig.pipe.sync(2, 2, Some(&accounts)), Ok(Synced::Replaced));
    assert_eq!(record(&rig, "b"), "7 300000 250000 0");
    assert_eq!(record(&rig, "a"), "4 300000 0 0");
    assert_eq!(pass(&mut rig), 0);
    let off = set(&mut rig, terms("b", ["", "", "1", ""]));
    assert_eq!(off.unwrap(), ["changed [7 5 0 -] [7 5 1 -]"]);
    assert_eq!(rig.free(), "a d");
    assert_eq!(pass(&mut rig), 0);
    let back = rig.pipe.change(Change::Reset, false, &[id("b")]);
    assert_eq!(back.unwrap(), ["reset [7 5 1 -] [9 - 0 -]"]);
    assert_eq!(record(&rig, "b"), "9 300000 0 0");
    assert_eq!(rig.free(), "a b d");
    let again = rig.pipe.change(Change::Reset, false, &[id("b")]);
    assert_eq!(again.unwrap(), ["same [9 - 0 -] [9 - 0 -]"]);
    // With an account that is no longer configured it is forgotten.
    set(&mut rig, slots("d", "5")).unwrap();
    assert_eq!(
        rig.pipe.sync(3, 3, Some(&accounts[..2])),
        Ok(Synced::Replaced)
    );
    assert_eq!(rig.pipe.sync(4, 4, Some(&accounts)), Ok(Synced::Replaced));
    assert_eq!(record(&rig, "d"), "1 300000 0 0");
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn what_is_so_already_may_be_set_too_and_a_reset_forgets_it() {
    let mut rig = Rig::new();
    let sync = |rig: &mut Rig, revision: u64, max: u32| {
        let accounts = [account("a", 1), account("b", max)];
        let synced = rig.pipe.sync(revision, revision, Some(&accounts));
        assert_eq!(synced, Ok(Synced::Replaced));
    };
    let said = rig.pipe.change(Change::Set, false, &[slots("b", "2")]);
    assert_eq!(said.unwrap(), ["same [2 - 0 -] [2 - 0 -]"]);
    sync(&mut rig, 2, 9);
    assert_eq!(record(&rig, "b"), "2 300000 0 0");
    // A configuration that says the same by now changes nothing of that.
    sync(&mut rig, 3, 2);
    let said = rig.pipe.change(Change::Reset, false, &[id("b")]);
    assert_eq!(said.unwrap(), ["reset [2 - 0 -] [2 - 0 -]"]);
    sync(&mut rig, 4, 5);
    assert_eq!(record(&rig, "b"), "5 300000 0 0");
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn a_limit_that_rises_serves_who_waits_and_one_that_falls_drains() {
    let mut rig = ledgers();
    let held = rig.fill();
    assert_eq!(held.len(), 6);
    let lease = rig.mint();
    rig.pipe.waiting.most = 10;
    let answer = rig.pipe.acquire(lease, JOIN, None);
    assert!(matches!(answer, Ok(Answer::Waits(_))), "{answer:?}");
    rig.pipe
        .change(Change::Set, false, &[slots("a", "2")])
        .unwrap();
    assert_eq!(rig.pipe.owners(&[lease]), ["a"]);
    assert_eq!(rig.ledger.used("a"), 2);
    rig.pipe
        .change(Change::Set, false, &[slots("a", "1")])
        .unwrap();
    assert_eq!((rig.ledger.used("a"), rig.free().as_str()), (2, ""));
    let of_a = held.iter().find(|(_, account)| account == "a").unwrap();
    assert_eq!(rig.pipe.release(&[of_a.0]), Ok(1));
    assert_eq!((rig.ledger.used("a"), rig.free().as_str()), (1, ""));
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    assert_eq!(rig.free(), "a");
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn accounts_of_the_ledger_come_and_go_and_no_sync_takes_them_away() {
    let mut rig = ledgers();
    let all = [slots("d", "4"), terms("e", ["5", "10", "1", "50/60000/10"])];
    let checked = rig.pipe.change(Change::Add, true, &all).unwrap();
    assert_eq!(rig.free(), "a b c");
    let said = rig.pipe.change(Change::Add, false, &all).unwrap();
    assert_eq!(
        said,
        ["added [] [4 1 0 -]", "added [] [5 10 1 50/60000/10]"]
    );
    assert_eq!(checked, said);
    assert_eq!(
        (record(&rig, "d"), record(&rig, "e")),
        ("4 300000 50000 0".into(), "5 300000 500000 1".into())
    );
    assert_eq!(rig.free(), "a b c d");
    let again = rig.pipe.change(Change::Add, false, &all).unwrap();
    assert_eq!(
        again,
        [
            "same [4 1 0 -] [4 1 0 -]",
            "same [5 10 1 50/60000/10] [5 10 1 50/60000/10]"
        ]
    );
    // Syncs, of whatever accounts, change nothing but what is in force.
    assert_eq!(rig.pipe.sync(1, 1, None), Ok(Synced::Current));
    assert_eq!(rig.pipe.sync(2, 2, None), Ok(Synced::Replaced));
    assert_eq!(
        rig.pipe.sync(3, 3, Some(&[account("z", 1)])),
        Ok(Synced::Replaced)
    );
    // Nor is one that a worker does not know taken away.
    let ids = ["d".to_owned()];
    let stray = Part::Stray(&ids);
    let reply = rig.pipe.sync_part("one", (3, 3), stray, &[]);
    assert!(text(&reply).contains("current"), "{}", text(&reply));
    assert_eq!(rig.free(), "a b c d");
    assert_eq!(pass(&mut rig), 0);
    let (lease, held) = (rig.pinned("d"), rig.pinned("d"));
    let said = rig
        .pipe
        .change(Change::Remove, false, &[id("d"), id("d2")])
        .unwrap();
    assert_eq!(said, ["removed [4 1 0 -] []", "missing [] []"]);
    assert_eq!((rig.free().as_str(), rig.ledger.used("d")), ("a b c", 2));
    let again = rig.pipe.change(Change::Remove, false, &[id("d")]).unwrap();
    assert_eq!(again, ["missing [] []"]);
    assert_eq!(rig.pipe.release(&[lease, held]), Ok(2));
    assert_eq!(record(&rig, "d"), "");
    // One that was taken away comes back while its last lease lives.
    let held = rig.pinned("a");
    rig.pipe.change(Change::Remove, false, &[id("a")]).unwrap();
    rig.pipe
        .change(Change::Add, false, &[slots("a", "2")])
        .unwrap();
    assert_eq!((rig.free().as_str(), rig.ledger.used("a")), ("a b c", 1));
    assert_eq!(rig.pipe.release(&[held]), Ok(1));
    assert_eq!(pass(&mut rig), 0);
    // A configuration takes them back, and forgets what operators had set.
    rig.pipe.accounts_are_ledgers = false;
    assert_eq!(
        rig.pipe
            .sync(4, 4, Some(&[account("a", 1), account("e", 7)])),
        Ok(Synced::Replaced)
    );
    assert_eq!(
        (record(&rig, "a"), record(&rig, "e")),
        ("1 300000 0 0".into(), "7 300000 0 0".into())
    );
    let said = rig.pipe.change(Change::Add, false, &[slots("f", "1")]);
    assert_eq!(said, Err(Fault::Unknown));
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn a_pool_may_begin_without_accounts() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.accounts_are_ledgers = true;
    assert_eq!(rig.pipe.sync(1, 1, None), Ok(Synced::Wanted));
    let last = Part::Last(&[]);
    let reply = rig.pipe.sync_part("one", (1, 1), last, &[]);
    assert!(text(&reply).contains("replaced"), "{}", text(&reply));
    assert_eq!(rig.free(), "");
    let lease = rig.mint();
    assert!(matches!(
        rig.pipe.acquire(lease, Mode::Take, None),
        Ok(Answer::Saturated(_))
    ));
    rig.pipe
        .change(Change::Add, false, &[slots("a", "1")])
        .unwrap();
    assert_eq!(rig.pipe.take(lease), "a");
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_changed() {
    let mut rig = ledgers();
    let before = rig.ledger.state().accounts;
    for (change, bad) in [
        (Change::Add, terms("d", ["0", "", "", ""])),
        (Change::Add, terms("d", ["100001", "", "", ""])),
        (Change::Add, terms("d", ["", "", "", ""])),
        (Change::Add, terms("d", ["1.5", "", "", ""])),
        (Change::Add, terms("d", ["1", "11", "", ""])),
        (Change::Add, terms("d", ["1", "-1", "", ""])),
        (Change::Add, terms("d", ["1", "", "2", ""])),
        (Change::Add, terms("d", ["1", "", "", "5"])),
        (Change::Add, terms("d", ["1", "", "", "0/1/1"])),
        (Change::Add, terms("d", ["1", "", "", "5/1000/6"])),
        (Change::Add, terms("d", ["1", "", "", "5/86400001/1"])),
        (Change::Add, terms("d e", ["1", "", "", ""])),
        (Change::Add, terms("#pass", ["1", "", "", ""])),
        (Change::Remove, id("")),
        (Change::Set, slots("a", "x")),
    ] {
        let good = if change == Change::Set {
            slots("b", "9")
        } else {
            slots("y", "9")
        };
        let said = rig.pipe.change(change, false, &[good, bad.clone()]);
        assert_eq!(said, Err(Fault::BadArgument), "{change:?} {bad:?}");
    }
    let missing = rig
        .pipe
        .change(Change::Set, false, &[slots("b", "9"), slots("y", "9")]);
    assert_eq!(missing, Err(Fault::NoAccount));
    let twice = rig
        .pipe
        .change(Change::Set, false, &[slots("b", "9"), slots("b", "8")]);
    assert_eq!(twice, Err(Fault::BadArgument));
    assert_eq!(rig.ledger.state().accounts, before);
    assert_eq!(
        rig.redis.run::<u32>("EXISTS", &[&rig.ledger.key("roster")]),
        0
    );
    // Where an older version put the accounts in force, nobody knows what a priority adds.
    rig.redis
        .run::<u32>("HDEL", &[&rig.ledger.key("accounts"), "#scale"]);
    let said = rig
        .pipe
        .change_raw(Change::Set, false, &[terms("a", ["", "2", "", ""])]);
    assert!(
        text(&said).contains("raise the revision"),
        "{}",
        text(&said)
    );
    assert!(
        rig.pipe
            .change(Change::Set, false, &[slots("a", "2")])
            .is_ok()
    );
    assert_eq!(SCALE.base(3), 150_000);
    // What is no account's record is left to the recount.
    let accounts = rig.ledger.key("accounts");
    rig.redis.run::<u32>("HSET", &[&accounts, "b", "junk"]);
    let all = [slots("a", "3"), slots("b", "3")];
    let said = rig.pipe.change(Change::Set, false, &all);
    assert_eq!(said, Err(Fault::Garbage));
    assert!(record(&rig, "a").starts_with("2 "));
    let control = rig.ledger.key("control");
    rig.redis.run::<String>("SET", &[&control, "x"]);
    let said = rig.pipe.change(Change::Set, false, &all[..1]);
    assert_eq!(said, Err(Fault::Garbage));
    assert!(record(&rig, "a").starts_with("2 "));
    // Nor is there anything to change before a pool is.
    let mut none = Rig::bare(&[]);
    assert_eq!(
        none.pipe.change(Change::Set, false, &[slots("a", "2")]),
        Err(Fault::NoPool)
    );
}

#[test]
fn a_recount_puts_right_what_an_older_version_overwrote_and_what_is_garbage() {
    let mut rig = Rig::new();
    let accounts = rig.ledger.key("accounts");
    let roster = rig.ledger.key("roster");
    rig.pipe
        .change(Change::Set, false, &[slots("b", "7")])
        .unwrap();
    // An older version's sync knows of no roster.
    rig.redis
        .run::<u32>("HSET", &[&accounts, "b", "4 300000 0 0"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(record(&rig, "b"), "7 300000 0 0");
    let back = rig.pipe.change(Change::Reset, false, &[id("b")]);
    assert_eq!(back.unwrap(), ["reset [7 - 0 -] [4 - 0 -]"]);
    for garbage in [
        "",
        "7",
        "7 - - - 1 0 0",
        "x - - - 1 0 0 -",
        "- - - - 0 0 0 -",
        "- - - 1/0/1 1 0 0 -",
    ] {
        rig.redis.run::<u32>("HSET", &[&roster, "a", garbage]);
        assert!(
            rig.pipe
                .change(Change::Set, false, &[slots("c", "3")])
                .is_ok()
        );
        assert_eq!(pass(&mut rig), 1, "{garbage}");
        assert_eq!(rig.redis.run::<u32>("HEXISTS", &[&roster, "a"]), 0);
        rig.pipe.change(Change::Reset, false, &[id("c")]).unwrap();
    }
    // Of another type it is nobody's.
    rig.redis.run::<u32>("DEL", &[&roster]);
    rig.redis.run::<String>("SET", &[&roster, "x"]);
    assert_eq!(
        rig.pipe.change(Change::Set, false, &[slots("a", "2")]),
        Err(Fault::Garbage)
    );
    assert_eq!(
        rig.pipe.sync(2, 2, Some(&[account("a", 1)])),
        Ok(Synced::Replaced)
    );
    assert_eq!(pass(&mut rig), 1);
    assert!(
        rig.pipe
            .change(Change::Set, false, &[slots("a", "2")])
            .is_ok()
    );
    // The ledger's own accounts are put in again when they were lost.
    let mut rig = ledgers();
    rig.pipe
        .change(Change::Add, false, &[slots("d", "4")])
        .unwrap();
    rig.redis
        .run::<u32>("HDEL", &[&rig.ledger.key("accounts"), "d"]);
    rig.redis
        .run::<u32>("ZREM", &[&rig.ledger.key("free"), "d"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(
        (rig.free().as_str(), record(&rig, "d").as_str()),
        ("a b c d", "4 300000 50000 0")
    );
}
