//! A large pool's accounts, which are put in force and taken away in parts.

use super::rig::accounts;
use super::scripts::swept_all;
use crate::pipe::{Answer, PREFIX, Pipe, account, source};
use slotgate::ledger::commands::{AccountReport, Mode, Part, SyncAccount, Synced, swept, synced};
use slotgate::ledger::fault::Fault;
use slotgate::ledger::keys::{COMMON, key};
use slotgate::ledger::source::Script;
use slotgate::request::lease::LeaseIds;
use support::{Ledger, Redis};

/// Accounts 0..count, in force by parts.
#[test]
fn a_large_pool_is_put_in_force_in_parts() {
    let redis = Redis::start();
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let (mut one, mut two) = (Pipe::open(&redis, "p"), Pipe::open(&redis, "p"));
    let mut ids = LeaseIds::new(8);
    let names: Vec<String> = (0..3_000).map(|n| format!("a{n}")).collect();
    let list: Vec<SyncAccount> = names.iter().map(|id| account(id, 2)).collect();
    let (first, rest) = list.split_at(1_000);
    let ask = |pipe: &mut Pipe, by: &str, set, part, accounts: &[SyncAccount]| {
        synced(&pipe.sync_part(by, set, part, accounts))
    };
    // An empty pool takes leases of what is there so far, under revision 0.
    assert_eq!(
        ask(&mut one, "one", (2, 9), Part::Whole, &[]),
        Ok(Synced::Wanted)
    );
    assert_eq!(
        ask(&mut one, "one", (2, 9), Part::First, first),
        Ok(Synced::Part)
    );
    let early = ids.mint(None);
    assert!(matches!(
        one.acquire(early, Mode::Take, None),
        Ok(Answer::Granted(_))
    ));
    assert_eq!(one.release(&[early]), Ok(1));
    // Another worker waits for it, asks what it asks, and does not disturb it.
    assert_eq!(
        ask(&mut two, "two", (2, 9), Part::Whole, &[]),
        Ok(Synced::Coming)
    );
    assert_eq!(
        ask(&mut two, "two", (1, 9), Part::First, first),
        Ok(Synced::Coming)
    );
    assert_eq!(
        ask(&mut two, "two", (2, 9), Part::More, first),
        Ok(Synced::Coming)
    );
    assert_eq!(
        ask(&mut one, "one", (2, 9), Part::More, rest),
        Ok(Synced::Part)
    );
    assert_eq!(
        synced(&swept_all(&mut one, "one", (2, 9), &list)),
        Ok(Synced::Replaced)
    );
    assert_eq!(
        ask(&mut two, "two", (2, 9), Part::Whole, &[]),
        Ok(Synced::Current)
    );
    let state = ledger.state();
    assert_eq!((state.accounts.len(), state.free.len()), (3_000, 3_000));
    assert!(!state.meta.contains_key("#coming"));

    // A new revision: leases go on, those of accounts that vanish finish, and it serves all the while.
    let (kept, gone) = (&list[..2_000], &list[2_000..]);
    let lease = ids.mint(None);
    two.acquire(lease, Mode::Force(gone[0].id), None).unwrap();
    assert_eq!(
        ask(&mut one, "one", (3, 1), Part::First, &kept[..1_000]),
        Ok(Synced::Part)
    );
    let taken = ids.mint(None);
    two.take(taken);
    // It died; who comes after it begins from the first, and a lower revision never does.
    assert_eq!(
        ask(&mut two, "two", (2, 9), Part::Whole, &[]),
        Ok(Synced::Current)
    );
    redis.run::<()>(
        "HSET",
        &[&ledger.key("accounts"), "#coming", "3 1 one 1 2/9"],
    );
    assert_eq!(
        ask(&mut two, "two", (3, 1), Part::More, &kept[1_000..]),
        Ok(Synced::Wanted)
    );
    assert_eq!(
        ask(&mut two, "two", (3, 1), Part::First, &kept[..1_000]),
        Ok(Synced::Part)
    );
    // Back again: two do it at once, one of them waits.
    assert_eq!(
        ask(&mut one, "one", (3, 1), Part::More, &kept[1_000..]),
        Ok(Synced::Coming)
    );
    assert_eq!(
        ask(&mut two, "two", (3, 1), Part::More, &kept[1_000..]),
        Ok(Synced::Part)
    );
    assert_eq!(
        synced(&swept_all(&mut two, "two", (3, 1), kept)),
        Ok(Synced::Replaced)
    );
    let state = ledger.state();
    assert_eq!(state.accounts.len(), 2_001);
    assert!(state.accounts[gone[0].id].ends_with(" 8"));
    assert_eq!(two.release(&[lease, taken]), Ok(2));
    assert_eq!(ledger.state().accounts.len(), 2_000);
    ledger.assert_consistent();

    // A higher revision takes over at once; whoever was at the lower one hears of it.
    assert_eq!(
        ask(&mut one, "one", (4, 1), Part::First, first),
        Ok(Synced::Part)
    );
    assert_eq!(
        ask(&mut two, "two", (5, 1), Part::First, first),
        Ok(Synced::Part)
    );
    assert_eq!(
        ask(&mut one, "one", (4, 1), Part::More, first),
        Ok(Synced::Coming)
    );
    // Who knows nothing of the parts, as an older filter's scripts, may change what is in force.
    let meta = ledger.key("accounts");
    redis.run::<()>("HSET", &[&meta, "#revision", "4", "#digest", "9"]);
    assert_eq!(
        ask(&mut two, "two", (5, 1), Part::More, first),
        Ok(Synced::Wanted)
    );
    redis.run::<()>("HSET", &[&meta, "#revision", "3", "#digest", "1"]);
    // So does one in a single call, as an older filter sends it, and the parts begin anew, or end.
    assert_eq!(older_sync(&mut one, 4, &accounts()), Ok(Synced::Replaced));
    assert_eq!(
        ask(&mut two, "two", (5, 1), Part::More, first),
        Ok(Synced::Wanted)
    );
    assert_eq!(
        ask(&mut two, "two", (5, 1), Part::First, first),
        Ok(Synced::Part)
    );
    assert_eq!(older_sync(&mut one, 6, &accounts()), Ok(Synced::Replaced));
    let late = two.sync_part("two", (5, 1), Part::Last(&[]), &[]);
    assert_eq!(synced(&late), Ok(Synced::Newer(6)));
    // Those that the broken off parts left are strays of the revision in force.
    let state = ledger.state();
    assert!(
        state.accounts.keys().eq(["a", "b", "c"]),
        "{}",
        state.accounts.len()
    );
}

/// All accounts in one call, as filters before 0.2 send them.
fn older_sync(pipe: &mut Pipe, revision: u64, list: &[SyncAccount]) -> Result<Synced, Fault> {
    let mut words = vec!["EVAL".to_owned(), source(Script::Sync), "9".to_owned()];
    let names = COMMON.iter().chain(&["control"]);
    words.extend(names.map(|name| key(PREFIX, "p", name)));
    words.extend([revision, 1, 5, 300_000].map(|number| number.to_string()));
    for one in list {
        let (max, base) = (one.max_concurrency, one.base);
        words.extend([
            one.id.to_owned(),
            max.to_string(),
            base.to_string(),
            "0".to_owned(),
        ]);
    }
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    synced(&pipe.command(&words))
}

/// A few accounts in place of many: what vanishes is taken away in parts too, whatever the new configuration's size.
#[test]
fn a_pool_that_shrinks_goes_in_parts() {
    let redis = Redis::start();
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut pipe = Pipe::open(&redis, "p");
    let names: Vec<String> = (0..2_000).map(|n| format!("a{n}")).collect();
    let list: Vec<SyncAccount> = names.iter().map(|id| account(id, 2)).collect();
    assert_eq!(pipe.sync(1, 1, Some(&list)), Ok(Synced::Replaced));
    let few = accounts();
    assert_eq!(pipe.sync(2, 1, Some(&few)), Ok(Synced::Wanted));
    assert_eq!(ledger.state().accounts.len(), 2_000, "nothing changed");
    let first = pipe.sync_part("one", (2, 1), Part::First, &few);
    assert_eq!(synced(&first), Ok(Synced::Part));
    let last = swept_all(&mut pipe, "one", (2, 1), &few);
    assert_eq!(synced(&last), Ok(Synced::Replaced));
    assert!(ledger.state().accounts.keys().eq(["a", "b", "c"]));
    ledger.assert_consistent();
    // As many as go in one call, each out of use and with its probe, still do.
    let (small, others) = list[..1_000].split_at(500);
    assert_eq!(pipe.sync(3, 1, Some(small)), Ok(Synced::Replaced));
    for one in small {
        let report = AccountReport::Disable(60_000, 401.into());
        pipe.heard(one.id, report).unwrap();
    }
    assert_eq!(pipe.sync(4, 1, Some(others)), Ok(Synced::Replaced));
    assert_eq!(ledger.state().accounts.len(), 500);
}

/// How long Redis stands still for others while 100,000 accounts are put in force: in one call, and in parts as the worker
/// sends them. Run by hand: `cargo test --release --test ledger large_sync -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_long_a_large_sync_keeps_others_waiting() {
    const ACCOUNTS: usize = 100_000;
    const PART: usize = 500;
    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("acct-{n}")).collect();
    let list: Vec<SyncAccount> = names.iter().map(|id| account(id, 10)).collect();
    let redis = Redis::start_with(&["--slowlog-log-slower-than", "2000"]);
    let measure = |what: &str, act: &mut dyn FnMut()| {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let began = std::time::Instant::now();
        let (longest, took) = std::thread::scope(|scope| {
            let pings = scope.spawn(|| {
                let mut connection = redis.connect();
                let mut longest = std::time::Duration::ZERO;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let sent = std::time::Instant::now();
                    redis::cmd("PING").query::<()>(&mut connection).unwrap();
                    longest = longest.max(sent.elapsed());
                }
                longest
            });
            act();
            let took = began.elapsed();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            (pings.join().unwrap(), took)
        });
        // Each: id, time, µs, arguments.
        let slow: Vec<Vec<redis::Value>> = redis.run("SLOWLOG", &["GET", "500"]);
        redis.run::<()>("SLOWLOG", &["RESET"]);
        let us = slow.iter().map(|entry| match entry[2] {
            redis::Value::Int(us) => us,
            _ => 0,
        });
        let (count, most) = (slow.len(), us.max().unwrap_or(0));
        println!(
            "{what}: longest PING {longest:?}, in all {took:?}; {count} commands above 2 ms, the longest {most} us"
        );
    };
    let mut pipe = Pipe::open(&redis, "whole");
    measure("one call", &mut || {
        assert_eq!(pipe.sync(1, 1, Some(&list)), Ok(Synced::Replaced));
    });
    let mut pipe = Pipe::open(&redis, "parts");
    for (revision, what) in [(1, "parts, empty"), (2, "parts, a new revision")] {
        measure(what, &mut || {
            for (at, part) in list.chunks(PART).enumerate() {
                let kind = if at == 0 { Part::First } else { Part::More };
                let reply = pipe.sync_part("one", (revision, 1), kind, part);
                assert_eq!(synced(&reply), Ok(Synced::Part));
            }
            let mut cursor = "0".to_owned();
            loop {
                let reply = pipe.sync_part("one", (revision, 1), Part::Sweep(&cursor, &[]), &[]);
                swept(&reply).0.clone_into(&mut cursor);
                if cursor == "0" {
                    break;
                }
            }
            let last = pipe.sync_part("one", (revision, 1), Part::Last(&[]), &[]);
            assert_eq!(synced(&last), Ok(Synced::Replaced));
        });
    }
}
