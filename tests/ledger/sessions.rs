//! How sessions keep their account, and what they may take of Redis' memory.

use crate::pipe::{Answer, PREFIX, Pipe, account, source, text};
use slotgate::ledger::commands::{Asked, Mode, SyncAccount};
use slotgate::ledger::keys::{COMMON, SESSION_KEYS};
use slotgate::ledger::source::Script;
use slotgate::request::lease::LeaseIds;
use support::{Clock, Ledger, Redis};

const NOW_MS: u64 = 1_700_000_000_000;
const TTL_MS: u64 = 160_000;
/// What is written lives a sixteenth longer.
const LIFE_MS: u64 = 170_000;

struct Rig {
    clock: Clock,
    redis: Redis,
    pipe: Pipe,
    ids: LeaseIds,
}

/// A session whose key is 0000, and whose tag ends in this number.
fn hash(number: u64) -> [u8; 16] {
    let mut hash = [0; 16];
    hash[8..].copy_from_slice(&number.to_be_bytes());
    hash
}

impl Rig {
    /// Accounts with slots for everyone; a session key has room for five sessions with an account of one letter.
    fn new(accounts: &[&str]) -> Self {
        let clock = Clock::new(NOW_MS);
        let redis = Redis::start_at(&clock, &[]);
        let mut pipe = Pipe::open(&redis, "p");
        pipe.session_mb = 6;
        let accounts: Vec<SyncAccount> = accounts.iter().map(|id| account(id, 100_000)).collect();
        pipe.sync(1, 1, Some(&accounts)).unwrap();
        Self {
            clock,
            redis,
            pipe,
            ids: LeaseIds::new(1),
        }
    }

    /// One lease of this session: its account.
    fn lease(&mut self, session: u64) -> String {
        let lease = self.ids.mint(None);
        let granted = self
            .pipe
            .acquire(lease, Mode::Take, Some((&hash(session), TTL_MS)));
        let Ok(Answer::Granted(account)) = granted else {
            panic!("{granted:?}")
        };
        self.pipe.release(&[lease]).unwrap();
        account
    }

    fn key(&self) -> String {
        format!("{PREFIX}:{{p}}:session:0000")
    }

    fn value(&self) -> String {
        self.redis
            .run::<Option<String>>("GET", &[&self.key()])
            .unwrap_or_default()
    }

    /// The sessions of the key in order, each with its mark.
    fn order(&self) -> Vec<(char, u64)> {
        let value = self.value();
        let sessions = value.split('=').skip(1);
        sessions
            .map(|one| {
                (
                    one.as_bytes()[16] as char,
                    u64::from_str_radix(&one[..16], 16).unwrap(),
                )
            })
            .collect()
    }
}

#[test]
fn a_session_is_new_at_its_first_lease_and_kept_from_its_second_on() {
    let mut rig = Rig::new(&["a"]);
    rig.lease(1);
    let written = |mark: char, at: u64| format!("=0000000000000001{mark}a {}", at + LIFE_MS);
    assert_eq!(rig.value(), written(',', NOW_MS));
    assert_eq!(rig.redis.run::<i64>("PTTL", &[&rig.key()]), LIFE_MS as i64);
    rig.clock.set(NOW_MS + 1);
    rig.lease(1);
    assert_eq!(rig.value(), written(';', NOW_MS + 1));
    // As long as it lives for the whole time, nothing is written.
    rig.clock.set(NOW_MS + 1 + LIFE_MS - TTL_MS);
    rig.lease(1);
    assert_eq!(rig.value(), written(';', NOW_MS + 1));
    let later = NOW_MS + 2 + LIFE_MS - TTL_MS;
    rig.clock.set(later);
    rig.lease(1);
    assert_eq!(rig.value(), written(';', later));
    assert_eq!(rig.redis.run::<i64>("PTTL", &[&rig.key()]), LIFE_MS as i64);
    // Together with another one that is new.
    rig.lease(2);
    assert_eq!(rig.order(), [(',', 2), (';', 1)]);
    // Of several leases in one command, the first is the first.
    let session = hash(3);
    let asked = [(); 3].map(|()| Asked {
        lease: rig.ids.mint(None),
        mode: Mode::Take,
        session: Some(&session),
        scope: None,
    });
    rig.pipe.acquire_all(&asked, TTL_MS, 1).unwrap();
    assert_eq!(rig.order(), [(',', 2), (',', 3), (';', 1)]);
}

#[test]
fn a_session_keeps_its_account_for_its_time_after_each_lease() {
    let mut rig = Rig::new(&["a", "b", "c", "d"]);
    let mut now_ms = NOW_MS;
    let sessions = [1, 2, 3, 4];
    let own = sessions.map(|session| rig.lease(session));
    for _ in 0..20 {
        now_ms += TTL_MS - 1;
        rig.clock.set(now_ms);
        assert_eq!(sessions.map(|session| rig.lease(session)), own);
    }
    // Nothing is left when nobody comes back.
    rig.clock.set(now_ms + LIFE_MS + 1);
    assert_eq!(rig.pipe.state().sessions, [None, None, None]);
    assert_eq!(rig.redis.run::<i64>("EXISTS", &[&rig.key()]), 0);
    // A session that comes back too late, beside others that keep the key alive, is a new one.
    rig.lease(1);
    rig.lease(1);
    rig.clock.set(now_ms + LIFE_MS + 1 + TTL_MS);
    rig.lease(2);
    rig.clock.set(now_ms + 2 * LIFE_MS + 1);
    rig.lease(1);
    assert_eq!(rig.order(), [(',', 2), (',', 1)]);
    // Nor does its old account mean anything to it: this one would keep it if it were bound.
    rig.clock.set(now_ms + 4 * LIFE_MS);
    let old = rig.lease(1);
    rig.clock.set(now_ms + 4 * LIFE_MS + TTL_MS);
    rig.lease(2);
    rig.clock.set(now_ms + 5 * LIFE_MS);
    rig.pipe.cooldown(&old, 60_000).unwrap();
    let account = rig.lease(1);
    assert_ne!(account, old);
    assert_eq!(rig.pipe.bound(&hash(1)), Some(account));
}

#[test]
fn sessions_that_came_back_outlive_a_flood_of_new_ones() {
    let mut rig = Rig::new(&["a"]);
    for session in [1, 2, 3, 1, 2, 3] {
        rig.lease(session);
    }
    assert_eq!(rig.order(), [(';', 1), (';', 2), (';', 3)]);
    for session in 10..200 {
        rig.lease(session);
        if session > 10 {
            // Five at most, the newest of the new ones before those that came back.
            let expected = [
                (',', session - 1),
                (',', session),
                (';', 1),
                (';', 2),
                (';', 3),
            ];
            assert_eq!(rig.order(), expected);
        }
    }
}

#[test]
fn when_too_many_come_back_the_one_unused_for_the_longest_counts_as_new() {
    let mut rig = Rig::new(&["a"]);
    for session in [1, 2, 3, 4, 1, 2, 3, 4, 5, 5] {
        rig.lease(session);
    }
    let kept = |new: u64, kept: [u64; 4]| {
        let kept = kept.into_iter().map(|session| (';', session));
        [(',', new)].into_iter().chain(kept).collect::<Vec<_>>()
    };
    assert_eq!(rig.order(), kept(1, [2, 3, 4, 5]));
    rig.lease(1);
    assert_eq!(rig.order(), kept(2, [3, 4, 5, 1]));
    for session in [6, 7] {
        rig.lease(session);
        assert_eq!(rig.order(), kept(session, [3, 4, 5, 1]));
    }
}

/// Accounts with ids of all lengths, few sessions and many, and a setting that is lowered.
#[test]
fn no_key_is_longer_than_its_share() {
    let names: Vec<String> = (1..=64).map(|length| "x".repeat(length)).collect();
    let mut rig = Rig::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut random = fastrand::Rng::with_seed(7);
    for (megabytes, room) in [(256, 14_330), (6, 186)] {
        rig.pipe.session_mb = megabytes;
        let mut longest = 0;
        for _ in 0..2_000 {
            let most = if random.bool() { 6 } else { 1_000 };
            rig.lease(random.u64(..most));
            let size = rig.value().len();
            assert!(size <= room, "{size} bytes with {megabytes} MB");
            longest = longest.max(size);
            let order = rig.order();
            let marks: String = order.iter().map(|(mark, _)| *mark).collect();
            assert!(!marks.contains(";,"), "{order:?}");
            let again: usize = (rig.value().split('=').skip(1))
                .filter(|one| one.as_bytes()[16] == b';')
                .map(|one| one.len() + 1)
                .sum();
            assert!(again <= room * 3 / 4, "{again} bytes of {room}");
        }
        assert!(longest > room * 9 / 10, "{longest} of {room} used");
    }
}

#[test]
fn sessions_that_get_accounts_with_longer_ids_stay_within_their_share() {
    let mut rig = Rig::new(&["a"]);
    for session in 1..=5 {
        rig.lease(session);
    }
    let long = "y".repeat(64);
    rig.pipe.sync(2, 2, Some(&[account(&long, 100)])).unwrap();
    for session in [1, 2, 3, 4, 5, 5] {
        assert_eq!(rig.lease(session), long);
        assert!(rig.value().len() <= 186, "{}", rig.value());
        assert_eq!(rig.pipe.bound(&hash(session)).as_ref(), Some(&long));
    }
}

#[test]
fn malformed_arguments_of_sessions_are_named_and_write_nothing() {
    let mut rig = Rig::new(&["a"]);
    let tag = "0123456789abcdef";
    for (script, arguments, error) in [
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "5", "l", "99", tag][..],
            "BADARG session bytes",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "5", "l", "32769", tag],
            "BADARG session bytes",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "5", "l", "100.5", tag],
            "BADARG session bytes",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "5", "l", "x", tag],
            "BADARG session bytes",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "5", "l", "100", "0123456789abcde"],
            "BADARG mode, leases, sessions",
        ),
        (
            Script::Acquire,
            &[
                "1000",
                "1",
                "0",
                "take",
                "5",
                "l",
                "100",
                "0123456789abcde=",
            ],
            "BADARG mode, leases, sessions",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "5", "l", "100"],
            "BADARG session bytes",
        ),
        (Script::Control, &["unbind", ""], "BADARG session"),
        (
            Script::Control,
            &["unbind", "0123456789abcde="],
            "BADARG session",
        ),
        (
            Script::Control,
            &["unbind", "0123456789abcdef0"],
            "BADARG session",
        ),
    ] {
        let mut names = COMMON.to_vec();
        if script == Script::Control {
            names.push("control");
        }
        names.push("session:0000");
        let (source, count) = (source(script), names.len().to_string());
        let keys = names.iter().map(|name| format!("{PREFIX}:{{p}}:{name}"));
        let keys: Vec<String> = keys.collect();
        let mut command: Vec<&[u8]> = vec![b"EVAL", source.as_bytes(), count.as_bytes()];
        command.extend(keys.iter().map(String::as_bytes));
        command.extend(arguments.iter().map(|argument| argument.as_bytes()));
        let told = text(&rig.pipe.command(&command));
        assert!(told.starts_with(error), "{arguments:?}: {told}");
    }
    assert!(Ledger::new(&rig.redis, PREFIX, "p").is_empty());
    assert_eq!(rig.value(), "");
}

#[test]
fn what_others_put_into_a_session_key_refuses_nobody_and_is_replaced() {
    let long = "x".repeat(100_000);
    let separators = "=;, ".repeat(10_000);
    let begins_well = format!("=0000000000000001,a 1;{separators}");
    for junk in [
        "x",
        "",
        "=",
        ";;;",
        "=0000000000000001",
        "=0000000000000001;",
        "=0000000000000001;a",
        "=0000000000000001;a x",
        &long,
        &separators,
        &begins_well,
    ] {
        let mut rig = Rig::new(&["a", "b"]);
        rig.redis.run::<()>("SET", &[&rig.key(), junk]);
        rig.lease(1);
        if junk != begins_well {
            assert_eq!(rig.order(), [(',', 1)], "{junk:.20}");
        }
        for session in [2, 1, 2, 3, 4, 5, 6, 7] {
            rig.lease(session);
            assert!(rig.value().len() <= 186, "{junk:.20}");
        }
        rig.lease(7);
        assert!(
            rig.value().contains("=0000000000000007;"),
            "{junk:.20}: {}",
            rig.value()
        );
    }
    let mut rig = Rig::new(&["a"]);
    rig.redis.run::<i64>("RPUSH", &[&rig.key(), "mine"]);
    rig.lease(1);
    assert_eq!(rig.order(), [(',', 1)]);
}

#[test]
fn a_clock_that_is_set_back_leaves_no_session_that_lives_longer() {
    let mut rig = Rig::new(&["a"]);
    rig.lease(1);
    rig.lease(1);
    rig.clock.set(NOW_MS - 3_600_000);
    rig.lease(1);
    let now = format!(";a {}", NOW_MS - 3_600_000 + LIFE_MS);
    assert!(rig.value().ends_with(&now), "{}", rig.value());
}

#[test]
fn a_session_that_cannot_be_written_or_read_takes_no_grant_away() {
    for denied in ["-set", "-get"] {
        let mut rig = Rig::new(&["a", "b"]);
        let user: [&[u8]; 8] = [
            b"ACL",
            b"SETUSER",
            b"u",
            b"on",
            b">pw",
            b"~*",
            b"+@all",
            denied.as_bytes(),
        ];
        assert_eq!(text(&rig.pipe.command(&user)), "+OK\r\n");
        assert_eq!(text(&rig.pipe.command(&[b"AUTH", b"u", b"pw"])), "+OK\r\n");
        rig.lease(1);
        let lease = rig.ids.mint(None);
        let granted = rig
            .pipe
            .acquire(lease, Mode::Take, Some((&hash(1), TTL_MS)));
        assert!(
            matches!(granted, Ok(Answer::Granted(_))),
            "{denied}: {granted:?}"
        );
        let ledger = Ledger::new(&rig.redis, PREFIX, "p");
        assert_eq!(ledger.live(), 1, "{denied}");
        ledger.assert_consistent();
    }
}

#[test]
fn unbind_takes_one_session_out_of_its_key() {
    let mut rig = Rig::new(&["a"]);
    for session in [1, 2, 3] {
        rig.lease(session);
    }
    let unbind = |rig: &mut Rig, session| rig.pipe.control("unbind", "", Some(&hash(session)));
    let old = |account: &str| Ok((account.to_owned(), String::new()));
    rig.clock.set(NOW_MS + 1_000);
    assert_eq!(unbind(&mut rig, 2), old("a"));
    assert_eq!(rig.order(), [(',', 1), (',', 3)]);
    let left_ms: i64 = rig.redis.run("PTTL", &[&rig.key()]);
    assert_eq!(left_ms, LIFE_MS as i64 - 1_000);
    assert_eq!(unbind(&mut rig, 2), old(""));
    assert_eq!(unbind(&mut rig, 3), old("a"));
    assert_eq!(unbind(&mut rig, 1), old("a"));
    assert_eq!(rig.redis.run::<i64>("EXISTS", &[&rig.key()]), 0);
    // One whose time is over was not bound.
    rig.lease(1);
    rig.clock.set(NOW_MS + 1_000 + TTL_MS);
    rig.lease(2);
    rig.clock.set(NOW_MS + 1_000 + LIFE_MS);
    assert_eq!(unbind(&mut rig, 1), old(""));
    assert_eq!(rig.order(), [(',', 2)]);
}

/// Many more new sessions than there is room for, from clients that never come back, while some sessions are in use.
/// `SESSIONS=1000000 MB=8` is the run of `docs/ledger.md`.
#[test]
fn a_flood_of_new_sessions_stays_within_its_memory() {
    const TOGETHER: usize = 32;
    const IN_USE: u64 = 5_000;
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (sessions, megabytes) = (number("SESSIONS", 150_000), number("MB", 7));
    let redis = Redis::start();
    let ledger = Ledger::new(&redis, PREFIX, "p");
    let mut pipe = Pipe::open(&redis, "p");
    pipe.session_mb = megabytes;
    let names: Vec<String> = (0..10).map(|number| format!("acct-{number}")).collect();
    let accounts: Vec<SyncAccount> = names.iter().map(|name| account(name, 50)).collect();
    pipe.sync(1, 1, Some(&accounts)).unwrap();
    let mut ids = LeaseIds::new(1);
    pipe.ttl_ms = 3_600_000;
    let held: Vec<_> = (0..100).map(|_| ids.mint(None)).collect();
    for lease in &held {
        pipe.take(*lease);
    }
    // Each of these gets one lease.
    let mut lease_each = |pipe: &mut Pipe, names: std::ops::Range<u64>, prefix: &str| {
        let mut granted = Vec::new();
        let hashes: Vec<_> = names
            .map(|number| slotgate::hash::hash128(format!("{prefix}{number}").as_bytes()))
            .collect();
        for part in hashes.chunks(TOGETHER) {
            let asked: Vec<_> = part
                .iter()
                .map(|hash| Asked {
                    lease: ids.mint(None),
                    mode: Mode::Take,
                    session: Some(hash),
                    scope: None,
                })
                .collect();
            let seed = pipe.seed;
            pipe.seed += 1;
            for answer in pipe.acquire_all(&asked, 3_600_000, seed).unwrap() {
                let Answer::Granted(account) = answer else {
                    panic!("{answer:?}")
                };
                granted.push(account);
            }
            let leases: Vec<_> = asked.iter().map(|one| one.lease).collect();
            assert_eq!(pipe.release(&leases), Ok(leases.len() as u64));
        }
        granted
    };
    let memory = |redis: &Redis| {
        let info: String = redis.run("INFO", &["memory"]);
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = memory(&redis);
    let own = lease_each(&mut pipe, 0..IN_USE, "in-use-");
    assert_eq!(lease_each(&mut pipe, 0..IN_USE, "in-use-"), own);
    lease_each(&mut pipe, 0..sessions, "flood-");
    let keys: i64 = redis.run("DBSIZE", &[]);
    let taken = memory(&redis) - before;
    let after = lease_each(&mut pipe, 0..IN_USE, "in-use-");
    let stayed = own
        .iter()
        .zip(&after)
        .filter(|(own, after)| own == after)
        .count();
    println!(
        "{sessions} new sessions: {} keys, {taken} bytes of {}; {stayed} of {IN_USE} sessions in use kept their account",
        keys - 5,
        megabytes << 20,
    );
    assert!(taken <= megabytes << 20, "{taken}");
    assert!(keys <= 5 + i64::from(SESSION_KEYS), "{keys}");
    assert!(stayed as u64 * 1000 >= IN_USE * 995, "{stayed}");
    ledger.assert_consistent();
    let state = ledger.state();
    assert_eq!((state.live(), state.free.len()), (100, 10));
    assert_eq!(pipe.release(&held), Ok(100));
    assert!(ledger.is_empty());
}
