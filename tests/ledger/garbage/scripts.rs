//! What the scripts themselves do about it, and a worker that knows the accounts.

use super::rig::{IN_FORCE, LONGEST, Rig, accounts};
use crate::pipe::{Answer, Pipe, account, text};
use slotgate::ledger::commands::{Mode, Part, Reconciled, SyncAccount, Synced, swept, synced};
use slotgate::ledger::fault::Fault;

/// An account that nobody configured, and whose record is right, is taken out when a worker meets it.
#[test]
fn a_stray_account_is_taken_out_by_who_knows_the_accounts() {
    let mut rig = Rig::new();
    rig.write("HSET", "accounts", &[b"ghost", b"5 0 0 0"]);
    rig.write("ZADD", "free", &[b"-1000000", b"ghost"]);
    let lease = rig.ids.mint(None);
    assert_eq!(rig.pipe.take(lease), "ghost");
    let ghost = ["ghost".to_owned()];
    for other in [(2, 7), (3, 8), (4, 7)] {
        rig.pipe.sync_part("one", other, Part::Stray(&ghost), &[]);
        let record = rig.ledger.state().accounts["ghost"].clone();
        assert_eq!(record, "5 0 0 0", "{other:?}");
    }
    // While others come in parts, it may be one of those.
    let new = ["new".to_owned()];
    rig.pipe
        .sync_part("two", (4, 1), Part::First, &[account("new", 1)]);
    for answer in [Synced::Coming, Synced::Current] {
        let reply = rig.pipe.sync_part("one", IN_FORCE, Part::Stray(&new), &[]);
        assert_eq!(synced(&reply), Ok(answer));
        let is_there = rig.ledger.state().accounts.contains_key("new");
        assert_eq!(is_there, answer == Synced::Coming);
        rig.redis
            .run::<()>("HDEL", &[&rig.ledger.key("accounts"), "#coming"]);
    }
    let reply = rig
        .pipe
        .sync_part("one", IN_FORCE, Part::Stray(&ghost), &[]);
    assert_eq!(synced(&reply), Ok(Synced::Current));
    assert_eq!(
        rig.ledger.state().accounts["ghost"],
        "5 0 0 8",
        "its lease finishes"
    );
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    rig.assert_right("ghost");
}

/// What the scripts themselves do about it, before anyone recounts.
#[test]
fn each_script_fails_before_it_writes_or_puts_it_right() {
    let mut rig = Rig::new();
    // No lease is taken whose epoch nobody could tell.
    for epoch in [
        &b"abc"[..],
        b"",
        b"-1",
        b"1e3",
        b"0x10",
        b" 7",
        b"1.5",
        b"12345678901234567890123",
    ] {
        rig.write("HSET", "accounts", &[b"#epoch", epoch]);
        for mode in [Mode::Take, Mode::Force("a"), Mode::Dry] {
            let lease = rig.ids.mint(None);
            let reply = rig.pipe.acquire_raw(lease, mode, None, None, 1);
            let named = "GARBAGE accounts #epoch: not a whole number";
            assert!(text(&reply).starts_with(named), "{}", text(&reply));
        }
        assert_eq!(rig.ledger.live(), 1, "{epoch:?}");
    }
    // What is there is renewed, and nothing is taken up above a limit.
    rig.again();
    let a = [rig.ids.mint(None), rig.ids.mint(None)];
    rig.pipe.acquire(a[0], Mode::Force("a"), None).unwrap();
    rig.write("HSET", "accounts", &[b"#epoch", b"abc"]);
    rig.pipe.ttl_ms = 60_000;
    let before = rig.ledger.state().leases[a[0].as_str()];
    let renewed = rig.pipe.renew(&[(a[1], "a", 1), (a[0], "a", 1)]);
    assert_eq!(renewed, Err(Fault::Garbage));
    let state = rig.ledger.state();
    assert!(!state.leases.contains_key(a[1].as_str()));
    assert!(state.leases[a[0].as_str()] > before + 30_000.0);
    rig.pipe.ttl_ms = LONGEST.ttl_ms;
    // The time of the next wake: an acquire ends what has cooled, and writes it anew.
    for wake in [&b"abc"[..], b"nan", b"9999999999999999"] {
        rig.again();
        rig.pipe.cooldown("a", 1).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(3));
        rig.write("HSET", "accounts", &[b"#wake", wake]);
        let lease = rig.ids.mint(None);
        rig.pipe.take(lease);
        assert!(!rig.ledger.state().meta.contains_key("#wake"), "{wake:?}");
        assert_ne!(rig.pipe.inspect().unwrap()["a"].1, "cooling");
    }
    // A count of the pass under way: who takes and who ends leases goes on.
    rig.again();
    for field in ["#a", "#b", "#c"] {
        rig.write("HSET", "used", &[field.as_bytes(), b"abc"]);
    }
    rig.write("HSET", "accounts", &[b"#pass", b"1"]);
    let lease = rig.ids.mint(None);
    rig.pipe.take(lease);
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    rig.write("HDEL", "used", &[b"#a", b"#b", b"#c"]);
    rig.ledger.assert_consistent();
    // A sync takes what cannot be there for what is not there.
    for (field, value) in [
        ("#revision", "1e300"),
        ("#revision", "abc"),
        ("#epoch", "abc"),
        ("#epoch", "1e3"),
        ("#digest", "abc"),
    ] {
        rig.again();
        rig.write("HSET", "accounts", &[field.as_bytes(), value.as_bytes()]);
        let (revision, digest) = IN_FORCE;
        assert_eq!(rig.pipe.sync(revision, digest, None), Ok(Synced::Wanted));
        let put = rig.pipe.sync(revision, digest, Some(&accounts()));
        assert_eq!(put, Ok(Synced::Replaced), "{field} {value}");
        rig.assert_right(field);
    }
    // While the counts are made anew, nobody takes a slot that may be in use.
    rig.again();
    rig.write("DEL", "used", &[]);
    rig.write("SET", "used", &[b"text"]);
    assert!(matches!(
        rig.pipe.reconcile("2.one", 90_000, 1),
        Ok(Reconciled::Working(1))
    ));
    let lease = rig.ids.mint(None);
    let answer = rig.pipe.acquire(lease, Mode::Take, None);
    assert!(matches!(answer, Ok(Answer::Saturated(_))), "{answer:?}");
    rig.recount();
    rig.assert_right("used");
    // And a recount by itself gives the pool an epoch.
    rig.again();
    rig.write("HSET", "accounts", &[b"#epoch", b"abc"]);
    rig.recount();
    rig.assert_right("#epoch");
}

pub fn swept_all(pipe: &mut Pipe, by: &str, set: (u64, u64), known: &[SyncAccount]) -> Vec<u8> {
    let (mut cursor, mut gone) = ("0".to_owned(), Vec::new());
    loop {
        let reply = pipe.sync_part(by, set, Part::Sweep(&cursor, &gone), &[]);
        if synced(&reply) != Ok(Synced::Part) {
            return reply;
        }
        let (next, ids) = swept(&reply);
        gone = ids
            .filter(|id| known.iter().all(|one| one.id != *id))
            .map(str::to_owned)
            .collect();
        next.clone_into(&mut cursor);
        if cursor == "0" {
            return pipe.sync_part(by, set, Part::Last(&gone), &[]);
        }
    }
}
