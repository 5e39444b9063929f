//! What was changed is noted, with who did it.

use super::rig::Rig;
use crate::pipe::{Answer, WHO, account};
use slotgate::ledger::changes::Changed;
use slotgate::ledger::commands::{AccountTerms, Change, Mode, SyncAccount, Synced};
use slotgate::ledger::view::Pool;

/// What is noted, the newest first: `who: what`.
fn noted(rig: &Rig) -> Vec<String> {
    let key = rig.ledger.key("changes");
    let lines: Vec<Vec<u8>> = rig.redis.run("LRANGE", &[&key, "0", "-1"]);
    let read = |line: &Vec<u8>| {
        let change = Changed::read(line).unwrap();
        format!("{}: {}", change.by, change.text())
    };
    lines.iter().map(read).collect()
}

fn slots(id: &str, max_concurrency: &str) -> AccountTerms {
    AccountTerms {
        id: id.to_owned(),
        max_concurrency: max_concurrency.to_owned(),
        ..AccountTerms::default()
    }
}

#[test]
fn each_change_is_one_line_and_what_changes_nothing_is_none() {
    let mut rig = Rig::new();
    assert_eq!(noted(&rig), [": revision 1"]);
    for _ in 0..2 {
        rig.pipe.control("drain", "a", None).unwrap();
        rig.pipe.control("percent", "1250", None).unwrap();
        rig.pipe.control("thaw", "b", None).unwrap();
    }
    rig.pipe.control("percent", "", None).unwrap();
    rig.pipe.control("undrain", "a", None).unwrap();
    rig.pipe.cooldown("b", 60_000).unwrap();
    rig.pipe.control("thaw", "b", None).unwrap();
    let change = |rig: &mut Rig, change, terms: AccountTerms| {
        rig.pipe
            .change(change, true, std::slice::from_ref(&terms))
            .unwrap();
        for _ in 0..2 {
            rig.pipe
                .change(change, false, std::slice::from_ref(&terms))
                .unwrap();
        }
    };
    change(&mut rig, Change::Set, slots("b", "7"));
    change(&mut rig, Change::Reset, slots("b", ""));
    let accounts = [account("a", 1)];
    assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Current));
    assert_eq!(rig.pipe.sync(2, 2, Some(&accounts)), Ok(Synced::Replaced));
    let by = |what: &str| format!("{WHO}: {what}");
    assert_eq!(
        noted(&rig),
        [
            ": revision 2, was 1".to_owned(),
            by("b reset"),
            by("b: max_concurrency 7, enabled, was max_concurrency 2, enabled"),
            by("cooldown of b ended"),
            by("a takes requests again"),
            by("gray share as configured, was 12.5 %"),
            by("gray share 12.5 %, was as configured"),
            by("a drained"),
            ": revision 1".to_owned(),
        ]
    );
    // The console hears the last ten with who waits.
    let mut pool = Pool::default();
    pool.page(&rig.pipe.inspect_raw("0", 10)).unwrap();
    assert_eq!(pool.changes.len(), 9);
    assert_eq!(pool.changes[1].text(), "b reset");
    assert!(pool.now_ms - pool.changes[8].at_ms < 600_000);
}

#[test]
fn a_session_that_is_unbound_is_not_named() {
    let mut rig = Rig::new();
    let session = [7; 16];
    let lease = rig.mint();
    let taken = rig
        .pipe
        .acquire(lease, Mode::Take, Some((&session, 60_000)));
    let Ok(Answer::Granted(bound)) = taken else {
        panic!("{taken:?}")
    };
    rig.pipe.control("unbind", "", Some(&session)).unwrap();
    rig.pipe.control("unbind", "", Some(&session)).unwrap();
    assert_eq!(
        noted(&rig),
        [
            format!("{WHO}: a session of {bound} unbound"),
            ": revision 1".to_owned()
        ]
    );
}

/// Sessions share keys: what is forgotten of one is nobody else's.
#[test]
fn a_session_that_is_unbound_leaves_the_others_of_its_key() {
    let mut rig = Rig::new();
    let (one, other) = (
        [7; 16],
        std::array::from_fn(|at| if at < 2 { 7 } else { 9 }),
    );
    for session in [&one, &other] {
        let lease = rig.mint();
        rig.pipe
            .acquire(lease, Mode::Take, Some((session, 60_000)))
            .unwrap();
    }
    let keys = |rig: &Rig| rig.redis.run::<Vec<String>>("KEYS", &["*:session:*"]).len();
    rig.pipe.control("unbind", "", Some(&one)).unwrap();
    assert_eq!(rig.pipe.bound(&one), None);
    assert!(rig.pipe.bound(&other).is_some());
    assert_eq!(keys(&rig), 1);
    rig.pipe.control("unbind", "", Some(&other)).unwrap();
    assert_eq!(keys(&rig), 0, "nothing is left");
}

#[test]
fn accounts_of_the_ledger_come_and_go_and_many_at_once_are_one_line() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.accounts_are_ledgers = true;
    rig.pipe.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    rig.pipe
        .change(Change::Add, false, &[slots("b", "3")])
        .unwrap();
    rig.pipe
        .change(Change::Remove, false, &[slots("b", ""), slots("x", "")])
        .unwrap();
    let many: Vec<_> = (0..11).map(|n| slots(&format!("m{n}"), "1")).collect();
    rig.pipe.change(Change::Add, false, &many).unwrap();
    rig.pipe.change(Change::Remove, false, &many).unwrap();
    assert_eq!(
        noted(&rig),
        [
            format!("{WHO}: 11 accounts removed"),
            format!("{WHO}: 11 accounts added"),
            format!("{WHO}: b removed, was max_concurrency 3, priority 1, enabled"),
            format!("{WHO}: b: max_concurrency 3, priority 1, enabled"),
            ": revision 1".to_owned(),
        ]
    );
}

#[test]
fn no_more_than_a_hundred_are_kept() {
    let mut rig = Rig::new();
    for points in 1..=130 {
        rig.pipe
            .control("percent", &points.to_string(), None)
            .unwrap();
    }
    let noted = noted(&rig);
    assert_eq!(noted.len(), 100);
    assert_eq!(noted[0], format!("{WHO}: gray share 1.3 %, was 1.29 %"));
    assert_eq!(noted[99], format!("{WHO}: gray share 0.31 %, was 0.3 %"));
}

/// Neither a key of another type, nor what others write, nor a user who lacks the right keeps a change from being made.
#[test]
fn what_cannot_be_noted_is_done_all_the_same() {
    let mut rig = Rig::new();
    let key = rig.ledger.key("changes");
    rig.redis.run::<()>("SET", &[&key, "x"]);
    rig.pipe.control("drain", "a", None).unwrap();
    assert_eq!(rig.free(), "b c");
    let more: [SyncAccount; 1] = [account("a", 2)];
    assert_eq!(rig.pipe.sync(2, 2, Some(&more)), Ok(Synced::Replaced));
    assert_eq!(
        rig.pipe
            .change(Change::Set, false, &[slots("a", "3")])
            .map(|said| said.len()),
        Ok(1)
    );
    assert_eq!(rig.redis.run::<String>("GET", &[&key]), "x");
    let mut pool = Pool::default();
    assert_eq!(pool.page(&rig.pipe.inspect_raw("0", 10)), Ok(None));
    assert!(pool.changes.is_empty());
    rig.redis.run::<()>("DEL", &[&key]);
    let long = "9".repeat(2_000_000);
    for line in [
        "",
        "x\ty",
        "1\ta\tb\tc\td",
        &long,
        "253402300800000\t\tdrain\ta\t\t",
        "1\t\u{1b}[31m\tdrain\ta\t\t",
    ] {
        rig.redis.run::<()>("LPUSH", &[&key, line]);
    }
    rig.pipe.control("undrain", "a", None).unwrap();
    let reply = rig.pipe.inspect_raw("0", 10);
    assert!(reply.len() < 10_000, "{}", reply.len());
    let mut pool = Pool::default();
    assert_eq!(pool.page(&reply), Ok(None));
    let said: Vec<_> = pool
        .changes
        .iter()
        .map(|one| (one.by.as_str(), one.text()))
        .collect();
    assert_eq!(
        said,
        [
            (WHO, "a takes requests again".to_owned()),
            ("[31m", "a drained".to_owned())
        ]
    );
    rig.redis
        .run::<()>("ACL", &["SETUSER", "default", "-lpush", "-lrange"]);
    rig.pipe.control("drain", "a", None).unwrap();
    assert_eq!(rig.pipe.states()["a"], "drained");
    let mut pool = Pool::default();
    assert_eq!(pool.page(&rig.pipe.inspect_raw("0", 10)), Ok(None));
    assert!(pool.changes.is_empty());
}
