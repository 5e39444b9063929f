//! What an operator changes and asks, and how a worker hears of it.

use super::rig::Rig;
use crate::pipe::{Pipe, account, text};
use slotgate::ledger::commands::{Override, Synced, overrides};
use slotgate::ledger::fault::Fault;
use support::{PATIENCE, Redis, eventually};

#[test]
fn inspect_runs_on_a_replica() {
    let mut rig = Rig::new();
    let (_, account) = rig.take();
    let port = rig.redis.port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
    let mut pipe = Pipe::open(&replica, "p");
    eventually(PATIENCE, || {
        pipe.inspect().is_ok_and(|seen| seen[&account].0 == 1)
    });
    assert_eq!(pipe.inspect(), rig.pipe.inspect());
    assert_eq!(pipe.release(&[rig.ids.mint(None)]), Err(Fault::ReadOnly));
}

#[test]
fn an_operators_changes_are_checked_and_tell_old_and_new() {
    let mut rig = Rig::new();
    let pair = |old: &str, new: &str| Ok((old.to_string(), new.to_string()));
    assert_eq!(rig.pipe.control("drain", "a", None), pair("", "1"));
    assert_eq!(rig.free(), "b c");
    assert_eq!(rig.pipe.control("drain", "a", None), pair("1", "1"));
    assert_eq!(rig.pipe.control("undrain", "a", None), pair("1", ""));
    assert_eq!(rig.free(), "a b c");
    assert_eq!(rig.pipe.control("percent", "250", None), pair("", "250"));
    assert_eq!(rig.pipe.control("percent", "", None), pair("250", ""));
    for (verb, subject) in [
        ("percent", "10001"),
        ("percent", "-1"),
        ("percent", "1.5"),
        ("percent", "all"),
        ("drain", "a b"),
        ("explode", "a"),
        ("unbind", ""),
    ] {
        assert_eq!(
            rig.pipe.control(verb, subject, None),
            Err(Fault::BadArgument),
            "{verb} {subject}"
        );
    }
    for verb in ["drain", "undrain", "thaw"] {
        assert_eq!(
            rig.pipe.control(verb, "zz", None),
            Err(Fault::NoAccount),
            "{verb}"
        );
    }
    assert_eq!(rig.free(), "a b c");
    assert!(
        rig.redis
            .run::<Vec<String>>("KEYS", &["*control*"])
            .is_empty()
    );
    rig.pipe.cooldown("b", 60_000).unwrap();
    let (until, now) = rig.pipe.control("thaw", "b", None).unwrap();
    assert!(until.parse::<f64>().unwrap() > 1.6e12 && now.is_empty());
    assert_eq!(rig.free(), "a b c");
}

#[test]
fn look_tells_what_an_operator_set_and_how_full_the_accounts_are() {
    let mut rig = Rig::new();
    let told = |percent, drained: &str, used: &str| Ok((percent, drained.into(), used.into()));
    let idle = "a 0/1 b 0/2 c 0/3";
    assert_eq!(rig.pipe.look(10, 10), told(Override::Absent, "", idle));
    rig.pipe.control("percent", "0", None).unwrap();
    for account in ["c", "a"] {
        rig.pipe.control("drain", account, None).unwrap();
    }
    let (lease, taken) = rig.take();
    assert_eq!(taken, "b");
    rig.pipe.cooldown("b", 60_000).unwrap();
    let set = Override::BasisPoints(0);
    let busy = "a 0/1 b 1/2 c 0/3";
    assert_eq!(rig.pipe.look(2, 3), told(set, "a c", busy));
    // Beyond a bound it says so, and never a part.
    assert_eq!(rig.pipe.look(1, 3), told(set, "-", busy));
    assert_eq!(rig.pipe.look(2, 2), told(set, "a c", ""));
    assert_eq!(rig.pipe.look(2, 0), told(set, "a c", ""));
    rig.pipe.control("percent", "", None).unwrap();
    assert_eq!(rig.pipe.look(2, 3), told(Override::Absent, "a c", busy));
    assert_eq!(rig.pipe.look(1, 3), told(Override::Absent, "-", busy));
    // Removed accounts are told no more, their drains are until they are taken back.
    let two = [account("b", 2), account("d", 1)];
    assert_eq!(rig.pipe.sync(2, 2, Some(&two)), Ok(Synced::Replaced));
    assert_eq!(
        rig.pipe.look(2, 3),
        told(Override::Absent, "a c", "b 1/2 d 0/1")
    );
    rig.pipe.control("undrain", "a", None).unwrap();
    rig.pipe.control("undrain", "c", None).unwrap();
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    assert_eq!(
        rig.pipe.look(2, 3),
        told(Override::Absent, "", "b 0/2 d 0/1")
    );
}

#[test]
fn look_takes_whatever_someone_wrote_by_hand() {
    let mut rig = Rig::new();
    let control = rig.ledger.key("control");
    for (by_hand, seen) in [
        ("10000", Override::BasisPoints(10_000)),
        ("007", Override::BasisPoints(7)),
        ("10001", Override::Malformed),
        ("-1", Override::Malformed),
        ("12.5", Override::Malformed),
        ("\r\n:1\r\n", Override::Malformed),
        ("", Override::Absent),
    ] {
        rig.redis.run::<()>("HSET", &[&control, "percent", by_hand]);
        let (percent, drained, _) = rig.pipe.look(10, 0).unwrap();
        assert_eq!((percent, drained.as_str()), (seen, ""), "{by_hand:?}");
    }
    rig.redis.run::<()>(
        "HSET",
        &[
            &control,
            "drain:a b",
            "1",
            "drain:",
            "1",
            "note",
            "x",
            "drain:b",
            "0",
        ],
    );
    let (_, drained, _) = rig.pipe.look(10, 0).unwrap();
    assert_eq!(drained, "b");
    // A reply of such a size would be none that the filter reads.
    let huge = "x".repeat(2_000_000);
    rig.redis.run::<()>(
        "HSET",
        &[&control, "percent", &huge, &format!("drain:{huge}"), "1"],
    );
    let (percent, drained, _) = rig.pipe.look(10, 0).unwrap();
    assert_eq!((percent, drained.as_str()), (Override::Malformed, "b"));
    assert!(rig.pipe.look_raw(10, 10).len() < 200);
    rig.redis.run::<()>("DEL", &[&control]);
    for (written, kept) in [("1e3", "1000"), ("0x64", "100"), (" 5 ", "5")] {
        rig.pipe.control("percent", written, None).unwrap();
        assert_eq!(
            rig.redis.run::<String>("HGET", &[&control, "percent"]),
            kept,
            "{written:?}"
        );
    }
    rig.redis.run::<()>("DEL", &[&control]);
    rig.redis.run::<()>("SET", &[&control, "10"]);
    assert_eq!(rig.pipe.look(10, 10), Err(Fault::Garbage));
    rig.redis.run::<()>("DEL", &[&control]);
    // A pool that nobody has synced yet can be set all the same.
    rig.redis.run::<()>("FLUSHALL", &[]);
    rig.pipe.control("percent", "1", None).unwrap();
    assert_eq!(
        rig.pipe.look(10, 10),
        Ok((Override::BasisPoints(1), String::new(), String::new()))
    );
}

#[test]
fn a_question_is_shown_until_it_is_over_and_answered_beside() {
    let mut rig = Rig::new();
    let question = rig.ledger.key("question");
    let shown = |rig: &mut Rig| {
        let reply = rig.pipe.look_raw(10, 10);
        String::from_utf8_lossy(overrides(&reply).unwrap().question).into_owned()
    };
    assert_eq!(shown(&mut rig), "");
    let longest = format!("n request {}", "x".repeat(502));
    for (text, seen) in [
        ("n request \"\r\n", "n request \"\r\n"),
        (&longest, &longest),
        (&format!("{longest}x"), ""),
    ] {
        rig.redis.run::<()>("SET", &[&question, text]);
        assert_eq!(shown(&mut rig), *seen);
    }
    rig.redis.run::<()>("SET", &[&question, "n", "PX", "50"]);
    eventually(PATIENCE, || shown(&mut rig).is_empty());
    assert_eq!(text(&rig.pipe.answer("{\"a\":1}", 60_000)), "+OK\r\n");
    let answer = rig.ledger.key("answer");
    assert_eq!(rig.redis.run::<String>("GET", &[&answer]), "{\"a\":1}");
    let left_ms: u64 = rig.redis.run("PTTL", &[&answer]);
    assert!((1..=60_000).contains(&left_ms), "{left_ms}");
    // A key of another type costs no override.
    rig.redis.run::<()>("LPUSH", &[&question, "x"]);
    assert_eq!(shown(&mut rig), "");
}

/// However large the pool and however much is drained: a look reads little, answers little, and runs on a replica.
#[test]
fn a_look_is_bounded() {
    let mut rig = Rig::bare(&[]);
    let ids: Vec<String> = (0..5_000).map(|n| format!("account-{n:04}")).collect();
    let list: Vec<_> = ids.iter().map(|id| account(id, 10)).collect();
    assert_eq!(rig.pipe.sync(1, 1, Some(&list)), Ok(Synced::Replaced));
    let port = rig.redis.port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
    let mut read = Pipe::open(&replica, "p");
    let mut drained = 0;
    for (until, told) in [(1_000, true), (1_001, false), (5_000, false)] {
        for id in &ids[drained..until] {
            rig.pipe.control("drain", id, None).unwrap();
        }
        drained = until;
        let reply = rig.pipe.look_raw(1_000, 64);
        assert_eq!(
            overrides(&reply).unwrap().drained.is_some(),
            told,
            "{until}"
        );
        assert!(reply.len() < 70_000, "{} bytes", reply.len());
        assert_eq!(overrides(&reply).unwrap().seen().count(), 0);
    }
    eventually(PATIENCE, || {
        read.look(1_000, 64)
            .is_ok_and(|(_, drained, _)| drained == "-")
    });
    rig.redis.run::<()>("CONFIG", &["RESETSTAT"]);
    for _ in 0..100 {
        rig.pipe.look(1_000, 64).unwrap();
    }
    let cost: String = rig.redis.run("INFO", &["commandstats"]);
    let cost = cost
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha:"));
    println!("5,000 accounts, all drained: {}", cost.unwrap());
}
