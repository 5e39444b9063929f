//! Passes that begin anew, come soon, or meet times that no clock can have meant.

use super::rig::{LONGEST, Rig, START_MS, accounts};
use crate::pipe::{Answer, PREFIX, Pipe, account, text};
use slotgate::ledger::commands::{AccountReport, Longest, Mode, Reconciled, Step, reconciled};
use slotgate::request::lease::LeaseIds;
use support::{Clock, Ledger, Redis};

/// A pass that is past the accounts when such a name comes into them does not hide it: an acquire meets it in `free`, or it
/// is gone from both.
#[test]
fn a_name_that_is_none_comes_in_the_middle_of_a_pass() {
    let mut rig = Rig::new();
    let name = [b'x'; 65];
    for before in 0.. {
        rig.again();
        let steps = (0..before).take_while(|_| rig.step().0).count();
        if steps < before {
            assert!(before > 6, "all stages: {before}");
            return;
        }
        rig.write("HSET", "accounts", &[&name, b"9 0 0 0"]);
        rig.write("HSET", "used", &[&name, b"3"]);
        rig.write("ZADD", "free", &[b"-9000000", &name]);
        rig.recount();
        let left = |rig: &mut Rig, command: &[u8], name_of: &str| {
            let key = rig.key(name_of);
            let reply = rig.pipe.command(&[command, &key, &name]);
            !["$-1\r\n", "_\r\n"].contains(&text(&reply).as_str())
        };
        let met = left(&mut rig, b"ZSCORE", "free");
        for key in ["accounts", "used"] {
            assert_eq!(left(&mut rig, b"HGET", key), met, "{key}, after {before}");
        }
    }
}

/// A pass that goes on over many steps begins anew rather than count wrongly.
#[test]
fn a_pass_under_way_is_not_led_astray() {
    let spread = [
        "--hash-max-listpack-entries",
        "1",
        "--zset-max-listpack-entries",
        "1",
    ];
    let redis = Redis::start_with(&spread);
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut pipe = Pipe::open(&redis, "p");
    let mut ids = LeaseIds::new(9);
    let wide = [account("a", 100), account("b", 100), account("c", 100)];
    pipe.sync(3, 7, Some(&wide)).unwrap();
    for _ in 0..60 {
        pipe.take(ids.mint(None));
    }
    let broken: [(&str, &[&str]); 4] = [
        ("HSET", &["accounts", "#pass", "abc"]),
        ("HSET", &["used", "#a", "abc", "a", "7"]),
        (
            "HSET",
            &["used", "#a", "1.5", "#b", "x", "#c", "", "b", "7"],
        ),
        ("SET", &["used", "text"]),
    ];
    for (command, rest) in broken {
        for at in [1, 5, 10, 20, 30, 40, 50] {
            for _ in 0..at {
                pipe.reconcile("2.one", 90_000, 1).unwrap();
            }
            let key = ledger.key(rest[0]);
            let mut arguments = vec![key.as_str()];
            arguments.extend(&rest[1..]);
            redis.run::<()>(command, &arguments);
            loop {
                let step = pipe.reconcile("2.one", 90_000, 1);
                let step = step.unwrap_or_else(|fault| panic!("{rest:?} at {at}: {fault:?}"));
                if matches!(step, Reconciled::Done(_)) {
                    break;
                }
            }
            ledger.assert_consistent();
            assert_eq!(ledger.state().leases.len(), 60);
        }
    }
}

/// The clock of Redis is set back by an hour, or a replica whose clock is slow takes over.
#[test]
fn nothing_lives_longer_than_it_may_after_the_clock_was_set_back() {
    const HOUR: u64 = 3_600_000;
    let clock = Clock::new(START_MS + HOUR);
    let redis = Redis::start_at(&clock, &[]);
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut pipe = Pipe::open(&redis, "p");
    let mut ids = LeaseIds::new(6);
    pipe.longest = LONGEST;
    pipe.ttl_ms = LONGEST.ttl_ms;
    let scope = [2; 16];
    let latest = |key: &str| ledger_latest(&redis, &ledger.key(key));
    for recounts in [false, true] {
        redis.run::<()>("FLUSHALL", &[]);
        clock.set(START_MS + HOUR);
        pipe.sync(1, 1, Some(&accounts())).unwrap();
        for _ in 0..3 {
            pipe.take(ids.mint(None));
        }
        for id in ["a", "b", "c"] {
            pipe.heard(id, AccountReport::Cool(50_000, None)).unwrap();
        }
        pipe.heard("a", AccountReport::Behind(40_000)).unwrap();
        pipe.cooldown_in("a", 30_000, Some(&scope)).unwrap();
        clock.set(START_MS);
        assert!(
            latest("leases") > START_MS + HOUR,
            "nobody has met it so far"
        );
        // Who only looks shows what it will be.
        let mut shown = slotgate::ledger::view::Pool::default();
        shown.page(&pipe.inspect_raw("0", 100)).unwrap();
        assert!(
            shown
                .accounts
                .iter()
                .all(|one| one.cooling_ms <= LONGEST.cooldown_ms),
            "{shown:?}"
        );
        if recounts {
            while pipe.reconcile("one", 90_000, 10) != Ok(Reconciled::Done(0)) {}
        } else {
            // One that finds no free slot.
            let lease = ids.mint(None);
            let answer = pipe.acquire_in(lease, Mode::Take, None, Some(&scope), 1);
            assert!(matches!(answer, Ok(Answer::Saturated(_))), "{answer:?}");
            let key = format!("cooldown:{}", "02".repeat(16));
            assert_eq!(latest(&key), START_MS + LONGEST.cooldown_ms);
            let left: u64 = redis.run("PTTL", &[&ledger.key(&key)]);
            assert!(left <= LONGEST.cooldown_ms);
        }
        assert_eq!(latest("leases"), START_MS + LONGEST.ttl_ms);
        assert_eq!(latest("cooldown"), START_MS + LONGEST.cooldown_ms);
        let wake: u64 = redis.run("HGET", &[&ledger.key("accounts"), "#wake"]);
        assert!(wake <= START_MS + LONGEST.cooldown_ms);
        ledger.assert_consistent();
        // And then all slots are there again.
        clock.set(START_MS + LONGEST.cooldown_ms + 1);
        let taken = (0..6).filter(|_| {
            pipe.acquire(ids.mint(None), Mode::Take, None)
                .is_ok_and(|answer| matches!(answer, Answer::Granted(_)))
        });
        assert_eq!(taken.count(), 6, "{recounts}");
    }
    // A new cooldown ends in time too, and so does one of a scope.
    redis.run::<()>("FLUSHALL", &[]);
    clock.set(START_MS + HOUR);
    pipe.sync(1, 1, Some(&accounts())).unwrap();
    pipe.cooldown("a", 50_000).unwrap();
    pipe.cooldown_in("a", 50_000, Some(&scope)).unwrap();
    clock.set(START_MS);
    assert_eq!(pipe.cooldown("a", 1_000), Ok(LONGEST.cooldown_ms));
    assert_eq!(
        pipe.cooldown_in("a", 1_000, Some(&scope)),
        Ok(LONGEST.cooldown_ms)
    );
}

fn ledger_latest(redis: &Redis, key: &str) -> u64 {
    let last: Vec<String> = redis.run("ZRANGE", &[key, "-1", "-1", "WITHSCORES"]);
    last.get(1).map_or(0, |score| score.parse().unwrap())
}

/// An Envoy with a shorter time to live, and one that lets cool for less, cut nothing that another one's may last.
#[test]
fn the_longest_times_of_all_envoys_count() {
    let clock = Clock::new(START_MS);
    let redis = Redis::start_at(&clock, &[]);
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut short = Pipe::open(&redis, "p");
    let mut long = Pipe::open(&redis, "p");
    (short.ttl_ms, short.longest) = (
        1_000,
        Longest {
            ttl_ms: 1_000,
            cooldown_ms: 2_000,
        },
    );
    (long.ttl_ms, long.longest) = (
        600_000,
        Longest {
            ttl_ms: 600_000,
            cooldown_ms: 500_000,
        },
    );
    short.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    long.sync(1, 1, None).unwrap();
    short.sync(1, 1, None).unwrap();
    let mut ids = LeaseIds::new(7);
    long.take(ids.mint(None));
    long.cooldown("a", 400_000).unwrap();
    let recount =
        |pipe: &mut Pipe| while pipe.reconcile("one", 90_000, 10) != Ok(Reconciled::Done(0)) {};
    let latest = |name: &str| ledger_latest(&redis, &ledger.key(name));
    for _ in 0..2 {
        recount(&mut short);
        short.acquire(ids.mint(None), Mode::Take, None).unwrap();
        assert_eq!(latest("leases"), START_MS + 600_000);
        assert_eq!(latest("cooldown"), START_MS + 400_000);
    }
    // Set back: the long one's times still count, although it has not said them again.
    clock.set(START_MS - 3_600_000);
    recount(&mut short);
    assert_eq!(latest("leases"), START_MS - 3_600_000 + 600_000);
    assert_eq!(latest("cooldown"), START_MS - 3_600_000 + 500_000);
    // Five minutes after it was last heard of, they do not.
    clock.set(START_MS - 3_600_000 + 300_001);
    short.sync(1, 1, None).unwrap();
    recount(&mut short);
    assert_eq!(latest("leases"), START_MS - 3_600_000 + 301_001);
}

/// Who saw what cannot be there need not wait for its turn, but never disturbs a pass that goes on.
#[test]
fn a_recount_that_is_wanted_soon() {
    let clock = Clock::new(START_MS);
    let redis = Redis::start_at(&clock, &[]);
    let mut pipe = Pipe::open(&redis, "p");
    pipe.sync(1, 1, Some(&accounts())).unwrap();
    let mut ask = |worker: &str, soon: bool| {
        let (silence_ms, count, longest) = (90_000, 500, LONGEST);
        let reply = pipe.reconcile_raw(&Step {
            worker,
            silence_ms,
            count,
            longest,
            soon,
        });
        reconciled(&reply).unwrap().state
    };
    while ask("2.one", false) != Reconciled::Done(0) {}
    assert_eq!(ask("2.two", false), Reconciled::Elsewhere);
    assert_eq!(ask("2.two", true), Reconciled::Working(0));
    assert_eq!(ask("2.one", true), Reconciled::Elsewhere, "it is under way");
    clock.set(START_MS + 5_001);
    assert_eq!(ask("2.one", false), Reconciled::Elsewhere);
    assert_eq!(ask("2.one", true), Reconciled::Working(0), "it was silent");
    // Whoever ran it before the clock was set back is not waited for.
    clock.set(START_MS - 3_600_000);
    assert_eq!(ask("2.two", false), Reconciled::Working(0));
}
