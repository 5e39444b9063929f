//! What each script promises, one by one.

use crate::pipe::{Answer, PREFIX, Pipe, account, source, text};
use crate::support::{Ledger, PATIENCE, Redis, eventually};
use slotgate::ledger::commands::{AccountReport, Asked, Mode, SyncAccount};
use slotgate::ledger::commands::{Override, Reconciled, Renewed, Synced, overrides};
use slotgate::ledger::fault::Fault;
use slotgate::ledger::source::Script;
use slotgate::request::lease::{LeaseId, LeaseIds};
use std::collections::BTreeSet;
use std::time::Duration;

struct Rig {
    redis: Redis,
    pipe: Pipe,
    ledger: Ledger,
    ids: LeaseIds,
}

impl Rig {
    /// Accounts a, b, c with 1, 2, 3 slots.
    fn new() -> Self {
        let mut rig = Self::bare(&[]);
        let accounts = [account("a", 1), account("b", 2), account("c", 3)];
        assert_eq!(rig.pipe.sync(1, 1, Some(&accounts)), Ok(Synced::Replaced));
        rig
    }

    /// Without accounts.
    fn bare(arguments: &[&str]) -> Self {
        let redis = Redis::start_with(arguments);
        let pipe = Pipe::open(&redis, "p");
        let ledger = Ledger::new(&redis, PREFIX, "p");
        Self {
            redis,
            pipe,
            ledger,
            ids: LeaseIds::new(1),
        }
    }

    fn mint(&mut self) -> LeaseId {
        self.ids.mint()
    }

    fn take(&mut self) -> (LeaseId, String) {
        let lease = self.mint();
        (lease, self.pipe.take(lease))
    }

    fn pinned(&mut self, account: &str) -> LeaseId {
        let lease = self.mint();
        assert_eq!(
            self.pipe.acquire(lease, Mode::Force(account), None),
            Ok(Answer::Granted(account.into()))
        );
        lease
    }

    fn fill(&mut self) -> Vec<(LeaseId, String)> {
        (0..6).map(|_| self.take()).collect()
    }

    fn free(&self) -> String {
        self.ledger.free().into_iter().collect::<Vec<_>>().join(" ")
    }

    fn set_time_to_live(&mut self, ttl_ms: u64) {
        self.pipe.ttl_ms = ttl_ms;
    }
}

#[test]
fn acquire_fills_every_slot_and_no_more() {
    let mut rig = Rig::new();
    let mut taken: Vec<String> = rig.fill().into_iter().map(|(_, account)| account).collect();
    taken.sort();
    assert_eq!(taken, ["a", "b", "b", "c", "c", "c"]);
    assert_eq!(rig.free(), "");
    let lease = rig.mint();
    let Ok(Answer::Saturated(retry_after_ms)) = rig.pipe.acquire(lease, Mode::Take, None) else {
        panic!()
    };
    assert!((1..=1000).contains(&retry_after_ms), "{retry_after_ms}");
    assert_eq!(rig.ledger.live(), 6);
    rig.ledger.assert_consistent();
}

#[test]
fn acquire_and_release_are_idempotent_by_lease_id() {
    let mut rig = Rig::new();
    let (lease, account) = rig.take();
    for _ in 0..3 {
        assert_eq!(rig.pipe.take(lease), account);
    }
    assert_eq!(rig.ledger.live(), 1);
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    assert_eq!(rig.pipe.release(&[lease]), Ok(0));
    let unknown = rig.mint();
    assert_eq!(rig.pipe.release(&[unknown]), Ok(0));
    assert_eq!(rig.free(), "a b c");
    assert!(
        rig.ledger.state().used.values().all(|used| *used == 0),
        "never below 0"
    );
    rig.ledger.assert_consistent();
}

#[test]
fn a_batch_of_releases() {
    let mut rig = Rig::new();
    let leases: Vec<LeaseId> = rig.fill().into_iter().map(|(lease, _)| lease).collect();
    let unknown = rig.mint();
    assert_eq!(
        rig.pipe
            .release(&[leases[0], unknown, leases[1], leases[0]]),
        Ok(2)
    );
    assert_eq!(rig.ledger.live(), 4);
    rig.ledger.assert_consistent();
}

#[test]
fn expired_leases_are_reaped_by_whoever_comes_next() {
    let mut rig = Rig::new();
    rig.set_time_to_live(1);
    rig.fill();
    rig.set_time_to_live(60_000);
    eventually(Duration::from_secs(5), || {
        let state = rig.ledger.state();
        state.leases.values().all(|expiry| *expiry < state.now_ms)
    });
    // Nobody is refused for a lease that is over.
    let taken: BTreeSet<String> = rig
        .fill()
        .iter()
        .map(|(lease, _)| lease.to_string())
        .collect();
    let state = rig.ledger.state();
    assert_eq!(state.leases.keys().cloned().collect::<BTreeSet<_>>(), taken);
    state.assert_consistent();
}

#[test]
fn a_bounded_number_is_reaped_even_when_nobody_needs_it() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 1000)])).unwrap();
    rig.set_time_to_live(2_000);
    for _ in 0..100 {
        rig.take();
    }
    rig.set_time_to_live(60_000);
    eventually(Duration::from_secs(5), || {
        let state = rig.ledger.state();
        state.leases.values().all(|expiry| *expiry < state.now_ms)
    });
    let (mut left, mut taken) = (rig.ledger.state().leases.len(), 0);
    assert_eq!(left, 100);
    while left > taken {
        rig.take();
        taken += 1;
        let now = rig.ledger.state().leases.len();
        assert!(now + 32 >= left, "{left} to {now} in one call");
        left = now;
        assert!(taken < 100, "they share the work");
    }
    rig.ledger.assert_consistent();
}

#[test]
fn renew_keeps_a_lease_and_says_when_it_is_lost() {
    let mut rig = Rig::new();
    rig.set_time_to_live(60_000);
    let (kept, account) = rig.take();
    let before = rig.ledger.state().leases[kept.as_str()];
    rig.set_time_to_live(120_000);
    let epoch = rig.pipe.epoch;
    assert_eq!(
        rig.pipe.renew(&[(kept, &account, epoch)]),
        Ok(vec![Renewed::Renewed])
    );
    assert!(rig.ledger.state().leases[kept.as_str()] >= before + 60_000.0);
    // Reaped, and its account is full again: the slot is someone else's.
    let gone = rig.mint();
    rig.pinned("a");
    assert_eq!(
        rig.pipe
            .renew(&[(gone, "a", epoch), (kept, &account, epoch)]),
        Ok(vec![Renewed::Lost, Renewed::Renewed])
    );
    // Reaped, and there is room: taken again.
    assert_eq!(
        rig.pipe.renew(&[(gone, "b", epoch)]),
        Ok(vec![Renewed::Readopted])
    );
    assert_eq!(rig.ledger.owner()[gone.as_str()], "b");
    rig.ledger.assert_consistent();
}

#[test]
fn after_data_loss_leases_are_readopted_even_above_the_limit() {
    let mut rig = Rig::new();
    let (old, _) = (rig.mint(), ());
    let epoch = rig.pipe.epoch;
    let _: () = rig.redis.run("FLUSHALL", &[]);
    assert_eq!(rig.pipe.renew(&[(old, "a", epoch)]), Err(Fault::NoPool));
    assert_eq!(rig.pipe.acquire(old, Mode::Take, None), Err(Fault::NoPool));
    rig.pipe.seed = 77;
    rig.pipe.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    rig.take();
    assert_eq!(
        rig.pipe.renew(&[(old, "a", epoch)]),
        Ok(vec![Renewed::Readopted])
    );
    assert_eq!(
        rig.ledger.used("a"),
        2,
        "the stream is there, so it is counted"
    );
    assert_eq!(rig.free(), "");
    // Of the new epoch, it would have been lost.
    let other = rig.mint();
    let epoch = rig.pipe.epoch;
    assert_eq!(
        rig.pipe.renew(&[(other, "a", epoch)]),
        Ok(vec![Renewed::Lost])
    );
    rig.ledger.assert_consistent();
}

#[test]
fn a_session_keeps_its_account_and_spills_without_rebinding() {
    let mut rig = Rig::new();
    let session = [7; 16];
    let with = Some((&session, 60_000));
    let bind = |rig: &mut Rig| {
        let lease = rig.mint();
        match rig.pipe.acquire(lease, Mode::Take, with) {
            Ok(Answer::Granted(account)) => (lease, account),
            other => panic!("{other:?}"),
        }
    };
    let (_, bound) = bind(&mut rig);
    let slots = if bound == "a" {
        1
    } else if bound == "b" {
        2
    } else {
        3
    };
    for _ in 1..slots {
        assert_eq!(bind(&mut rig).1, bound);
    }
    let (_, spilled) = bind(&mut rig);
    assert_ne!(spilled, bound);
    assert_eq!(rig.pipe.bound(&session), Some(bound.clone()), "still bound");
    let key = rig.ledger.key("session:0707");
    assert!(rig.redis.run::<i64>("PTTL", &[&key]) > 50_000);
    // Gone from the configuration: bound anew.
    let rest: Vec<SyncAccount> = [account("a", 1), account("b", 2), account("c", 3)]
        .into_iter()
        .filter(|a| a.id != bound)
        .collect();
    rig.pipe.sync(2, 2, Some(&rest)).unwrap();
    let (_, now) = bind(&mut rig);
    assert_ne!(now, bound);
    assert_eq!(rig.pipe.bound(&session), Some(now));
    // Without a session nothing is written.
    let keys = rig.redis.run::<Vec<String>>("KEYS", &["*session*"]);
    rig.take();
    assert_eq!(rig.redis.run::<Vec<String>>("KEYS", &["*session*"]), keys);
}

#[test]
fn dry_writes_nothing() {
    let mut rig = Rig::new();
    rig.set_time_to_live(1);
    rig.take();
    std::thread::sleep(Duration::from_millis(5));
    let dump = |rig: &Rig| {
        let state = rig.ledger.state();
        (
            state.accounts,
            format!(
                "{:?}{:?}{:?}{:?}",
                state.free, state.used, state.leases, state.cooldown
            ),
        )
    };
    let before = dump(&rig);
    let session = [1; 16];
    for with in [None, Some((&session, 1_000))] {
        let lease = rig.mint();
        assert!(matches!(
            rig.pipe.acquire(lease, Mode::Dry, with),
            Ok(Answer::Granted(_))
        ));
    }
    assert_eq!(dump(&rig), before);
    assert!(
        rig.redis
            .run::<Vec<String>>("KEYS", &["*session*"])
            .is_empty()
    );
}

#[test]
fn forced_leases_are_counted_above_the_limit() {
    let mut rig = Rig::new();
    let leases: Vec<LeaseId> = (0..3).map(|_| rig.pinned("a")).collect();
    assert_eq!(rig.ledger.used("a"), 3);
    assert_eq!(rig.free(), "b c");
    rig.pipe.release(&leases[..2]).unwrap();
    assert_eq!(rig.free(), "b c", "drains down");
    rig.pipe.release(&leases[2..]).unwrap();
    assert_eq!(rig.free(), "a b c");
    let lease = rig.mint();
    assert_eq!(
        rig.pipe.acquire(lease, Mode::Force("zz"), None),
        Err(Fault::NoAccount)
    );
    assert!(rig.ledger.is_empty());
    rig.ledger.assert_consistent();
}

#[test]
fn the_best_score_wins() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.random = 0;
    let accounts = [
        SyncAccount {
            base: 500_000,
            ..account("worse", 10)
        },
        account("small", 2),
        account("large", 10),
        SyncAccount {
            enabled: false,
            ..account("off", 10)
        },
    ];
    rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
    let mut taken: Vec<String> = (0..12).map(|_| rig.take().1).collect();
    // By load: the large one takes five for each of the small one's.
    assert_eq!(
        taken[..6]
            .iter()
            .filter(|account| *account == "large")
            .count(),
        5,
        "{taken:?}"
    );
    taken.sort();
    taken.dedup();
    assert_eq!(taken, ["large", "small"], "the worse priority last");
    assert_eq!(rig.take().1, "worse");
    assert_eq!(rig.free(), "worse");
}

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
fn cooldowns_only_ever_extend_and_end() {
    let mut rig = Rig::new();
    let long = rig.pipe.cooldown("a", 60_000).unwrap();
    assert!(long > 59_000, "{long}");
    assert!(
        rig.pipe.cooldown("a", 1_000).unwrap() > 59_000,
        "never shorter"
    );
    assert_eq!(rig.free(), "b c");
    assert_eq!(rig.pipe.cooldown("zz", 1_000), Err(Fault::NoAccount));
    // A lease it had before goes on; a release doesn't free it.
    let lease = rig.pinned("a");
    rig.pipe.release(&[lease]).unwrap();
    assert_eq!(rig.free(), "b c");
    // Kept through a new revision.
    rig.pipe
        .sync(2, 2, Some(&[account("a", 1), account("b", 1)]))
        .unwrap();
    assert_eq!(rig.free(), "b");
    rig.pipe.cooldown("b", 20).unwrap();
    let lease = rig.mint();
    let Ok(Answer::Saturated(retry_after_ms)) = rig.pipe.acquire(lease, Mode::Take, None) else {
        panic!()
    };
    assert!(
        (1..=20).contains(&retry_after_ms),
        "the first cooldown's end: {retry_after_ms}"
    );
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(rig.take().1, "b");
}

#[test]
fn who_is_refused_is_told_when_a_cooldown_ends_not_when_one_is_behind_no_more() {
    let mut rig = Rig::new();
    for account in ["a", "b", "c"] {
        rig.pipe.cooldown(account, 40_000).unwrap();
    }
    rig.pipe.heard("b", AccountReport::Behind(5_000)).unwrap();
    let lease = rig.mint();
    let answer = rig.pipe.acquire(lease, Mode::Take, None);
    assert!(
        matches!(answer, Ok(Answer::Saturated(39_000..=40_000))),
        "{answer:?}"
    );
}

/// However many are behind: those that take no lease for another reason too.
#[test]
fn who_is_refused_is_told_when_a_cooldown_ends_among_many_that_are_behind() {
    let mut rig = Rig::bare(&[]);
    let ids: Vec<String> = (0..40).map(|number| format!("a{number}")).collect();
    let accounts: Vec<_> = ids.iter().map(|id| account(id, 1)).collect();
    rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
    for id in &ids {
        rig.pipe.heard(id, AccountReport::Behind(20_000)).unwrap();
        rig.pipe.cooldown(id, 40_000).unwrap();
    }
    let lease = rig.mint();
    let answer = rig.pipe.acquire(lease, Mode::Take, None);
    assert!(
        matches!(answer, Ok(Answer::Saturated(38_000..=40_000))),
        "{answer:?}"
    );
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
fn malformed_arguments_are_named_and_write_nothing() {
    let mut rig = Rig::new();
    let keys: Vec<String> = [
        "accounts", "free", "used", "leases", "owner", "cooldown", "control", "pass",
    ]
    .map(|k| rig.ledger.key(k))
    .into();
    let before = format!("{:?}", rig.ledger.state().accounts);
    let mut eval = |script: Script, arguments: &[&str]| {
        let source = source(script);
        let extra = match script {
            Script::Sync | Script::Control => 1,
            Script::Reconcile | Script::Overrides => 2,
            _ => 0,
        };
        let mut command: Vec<&[u8]> = vec![b"EVAL", source.as_bytes(), [b"6", b"7", b"8"][extra]];
        command.extend(keys.iter().take(6 + extra).map(|key| key.as_bytes()));
        command.extend(arguments.iter().map(|argument| argument.as_bytes()));
        text(&rig.pipe.command(&command))
    };
    for (script, arguments, error) in [
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "0", ""][..],
            "BADARG lease",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "0", "l", "a b"],
            "BADARG lease",
        ),
        (
            Script::Acquire,
            &["0", "1", "0", "take", "0", "l"],
            "BADARG ttl_ms",
        ),
        (
            Script::Acquire,
            &["x", "1", "0", "take", "0", "l"],
            "BADARG ttl_ms",
        ),
        (
            Script::Acquire,
            &["1.5", "1", "0", "take", "0", "l"],
            "BADARG ttl_ms",
        ),
        (
            Script::Acquire,
            &["1000", "-1", "0", "take", "0", "l"],
            "BADARG seed",
        ),
        (
            Script::Acquire,
            &["1000", "1", "nan", "take", "0", "l"],
            "BADARG random",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "grab", "0", "l"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "-1", "l"],
            "BADARG session_ttl_ms",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "0", "l", "k", "l"],
            "BADARG mode, leases, sessions or keys",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "0"],
            "BADARG mode, leases, sessions or keys",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "5", "l"],
            "BADARG session bytes",
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
                "171",
                "0123456789abcdef",
            ],
            "BADARG mode, leases, sessions or keys",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "force", "0", "l"],
            "BADARG mode, leases, sessions or keys",
        ),
        (Script::Acquire, &["1000", "1"], "BADARG random"),
        (Script::Acquire, &[], "BADARG ttl_ms"),
        (Script::Release, &[], "BADARG leases"),
        (Script::Release, &["ok", "not ok"], "BADARG lease"),
        (Script::Renew, &["1000"], "BADARG leases"),
        (Script::Renew, &["1000", "l", "a"], "BADARG leases"),
        (Script::Renew, &["1", "l l", "a", "1"], "BADARG lease"),
        (Script::Renew, &["", "l", "a", "1"], "BADARG ttl_ms"),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "1", "0"],
            "BADARG accounts",
        ),
        (
            Script::Sync,
            &["0", "d", "1", "0", "a", "1", "0", "0"],
            "BADARG revision",
        ),
        (
            Script::Sync,
            &["2", "d", "x", "0", "a", "1", "0", "0"],
            "BADARG epoch",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "-1", "a", "1", "0", "0"],
            "BADARG load",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "#x", "1", "0", "0"],
            "BADARG account",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "0", "0", "0"],
            "BADARG max_concurrency",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "1", "-1", "0"],
            "BADARG base",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "1", "0", "2"],
            "BADARG disabled",
        ),
        (Script::Reconcile, &["a b", "1000", "10"], "BADARG by"),
        (Script::Reconcile, &["w", "0", "10"], "BADARG silence_ms"),
        (Script::Reconcile, &["w", "1000", "0"], "BADARG count"),
        (Script::Overrides, &["0", "1"], "BADARG drained"),
        (Script::Overrides, &["1001", "1"], "BADARG drained"),
        (Script::Overrides, &["1", "1001"], "BADARG used"),
        (Script::Overrides, &["1"], "BADARG used"),
        (Script::Cooldown, &["a", "0"], "BADARG cooldown_ms"),
        (Script::Cooldown, &["a", "1", "rest"], "BADARG what"),
        (
            Script::Cooldown,
            &["a", "0", "passed", "le ase"],
            "BADARG lease",
        ),
        (Script::Cooldown, &["a", "0", "passed"], "BADARG lease"),
        (
            Script::Cooldown,
            &["a", "0", "behind"],
            "BADARG cooldown_ms",
        ),
        (Script::Cooldown, &["zz", "1"], "NOACCOUNT zz"),
    ] {
        let answer = eval(script, arguments);
        assert!(
            answer.starts_with(error),
            "{script:?} {arguments:?}: {answer}"
        );
    }
    assert_eq!(format!("{:?}", rig.ledger.state().accounts), before);
    assert!(rig.ledger.is_empty());
}

#[test]
fn a_wrong_type_at_a_key_is_an_error_and_writes_nothing() {
    for (name, free_after) in [("leases", "a b c"), ("owner", "a b c"), ("used", "a b c")] {
        let mut rig = Rig::new();
        let key = rig.ledger.key(name);
        let _: i64 = rig.redis.run("DEL", &[&key]);
        let _: String = rig.redis.run("SET", &[&key, "not a collection"]);
        let lease = rig.mint();
        let answer = text(&rig.pipe.acquire_raw(lease, Mode::Take, None, None, 1));
        assert!(answer.starts_with("WRONGTYPE"), "{name}: {answer}");
        let _: i64 = rig.redis.run("DEL", &[&key]);
        assert_eq!(rig.free(), free_after, "{name}");
        let state = rig.ledger.state();
        assert!(
            state.leases.is_empty() && state.owner.is_empty(),
            "{name}: {state:?}"
        );
        assert!(
            state.used.values().all(|used| *used == 0),
            "{name}: {state:?}"
        );
    }
}

#[test]
fn someones_own_key_in_place_of_a_session_or_a_scope_refuses_nobody() {
    let mut rig = Rig::new();
    let hashes = [[1; 16], [2; 16], [3; 16]];
    for (name, digits) in [("session", 4), ("cooldown", 32)] {
        let digits = &"02".repeat(16)[..digits];
        let key = rig.ledger.key(&format!("{name}:{digits}"));
        rig.redis.run::<i64>("RPUSH", &[&key, "mine"]);
        let asked: Vec<_> = hashes
            .iter()
            .map(|hash| Asked {
                session: (name == "session").then_some(hash),
                scope: (name == "cooldown").then_some(hash),
                ..plain(rig.mint())
            })
            .collect();
        let answers = rig.pipe.acquire_all(&asked, 60_000, 1).unwrap();
        assert!(
            answers.iter().all(|one| matches!(one, Answer::Granted(_))),
            "{name}: {answers:?}"
        );
        let leases: Vec<_> = asked.iter().map(|one| one.lease).collect();
        assert_eq!(rig.pipe.release(&leases), Ok(3));
    }
}

#[test]
fn a_wrong_type_at_a_key_loses_no_lease_that_is_to_be_freed_or_renewed() {
    for name in ["leases", "owner", "used", "accounts"] {
        let mut rig = Rig::new();
        let (lease, account) = rig.take();
        let (key, kept) = (rig.ledger.key(name), "kept");
        let others = |rig: &Rig| {
            let all = ["accounts", "free", "used", "leases", "owner"];
            all.map(|other| match other == name {
                true => Vec::new(),
                false => rig.redis.run::<Vec<u8>>("DUMP", &[&rig.ledger.key(other)]),
            })
        };
        let before = others(&rig);
        rig.redis.run::<()>("RENAME", &[&key, kept]);
        rig.redis.run::<()>("SET", &[&key, "not a collection"]);
        assert_eq!(rig.pipe.release(&[lease]), Err(Fault::Garbage), "{name}");
        assert_eq!(others(&rig), before, "{name}");
        // Of another epoch, so that it would be taken up again.
        let lost = rig.mint();
        for renewed in [lease, lost] {
            let answer = rig.pipe.renew(&[(renewed, &account, 1)]);
            // A live lease needs neither its owner nor the counts.
            let untouched = renewed == lease && ["owner", "used"].contains(&name);
            assert_eq!(answer.is_ok(), untouched, "{name}: {answer:?}");
            assert!(untouched || others(&rig) == before, "{name}");
            if untouched {
                break;
            }
        }
        rig.redis.run::<()>("RENAME", &[kept, &key]);
        assert_eq!(rig.pipe.release(&[lease]), Ok(1), "{name}");
        assert!(rig.ledger.is_empty(), "{name}");
        rig.ledger.assert_consistent();
    }
}

/// A release ends all its leases, though nobody can tell then whether an account cools.
#[test]
fn a_wrong_type_at_the_cooldowns_stops_no_release_half_way() {
    let mut rig = Rig::new();
    let leases = rig.fill();
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(60_000))
        .unwrap();
    let (key, kept) = (rig.ledger.key("cooldown"), "kept");
    rig.redis.run::<()>("RENAME", &[&key, kept]);
    rig.redis.run::<()>("SET", &[&key, "not a collection"]);
    let leases: Vec<_> = leases.into_iter().map(|(lease, _)| lease).collect();
    assert_eq!(rig.pipe.release(&leases), Ok(6));
    rig.redis.run::<()>("RENAME", &[kept, &key]);
    assert_eq!(rig.free(), "b c");
    rig.ledger.assert_consistent();
}

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
    assert_eq!(pipe.release(&[rig.ids.mint()]), Err(Fault::ReadOnly));
}

#[test]
fn freeing_works_when_memory_is_full_and_acquire_is_refused() {
    let mut rig = Rig::new();
    let (lease, account) = rig.take();
    let epoch = rig.pipe.epoch;
    let _: String = rig.redis.run("CONFIG", &["SET", "maxmemory", "1"]);
    let other = rig.mint();
    assert_eq!(
        rig.pipe.acquire(other, Mode::Take, None),
        Err(Fault::OutOfMemory)
    );
    assert_eq!(
        rig.pipe.renew(&[(lease, &account, epoch)]),
        Ok(vec![Renewed::Renewed])
    );
    assert!(rig.pipe.cooldown("c", 1000).is_ok());
    assert!(rig.pipe.control("drain", "b", None).is_ok());
    let mut steps = 0;
    while let Reconciled::Working(_) = rig.pipe.reconcile("one", 1000, 10).expect("a step") {
        steps += 1;
    }
    assert!(steps > 3, "a whole pass");
    assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    let _: String = rig.redis.run("CONFIG", &["SET", "maxmemory", "0"]);
    assert!(rig.ledger.is_empty());
    rig.ledger.assert_consistent();
}

/// The header of each file says how many KEYS and ARGV it takes; the encoders must agree.
#[test]
fn headers_tell_the_arity() {
    for script in Script::ALL {
        assert!(script.source().starts_with("#!lua"), "{script:?}");
        let name = format!("{script:?}").to_lowercase();
        let body = std::fs::read_to_string(format!("lua/{name}.lua")).unwrap();
        let title = format!("-- {name}:");
        assert!(
            body.starts_with(&title),
            "{script:?} is named in its header"
        );
        for part in ["-- KEYS ", "-- ARGV ", "-- Returns ", "-- Cost "] {
            assert!(body.contains(part), "{script:?} lacks {part:?}");
        }
        let code: String = body
            .lines()
            .filter(|line| !line.starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n");
        let header: String = body
            .lines()
            .take_while(|line| line.starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n");
        let numbers: BTreeSet<usize> = (1..=9)
            .filter(|n| code.contains(&format!("ARGV[{n}]")))
            .collect();
        for number in numbers {
            let told = header.lines().any(|line| {
                let words: Vec<&str> = line.trim_start_matches("--").split_whitespace().collect();
                words
                    .iter()
                    .take(2)
                    .any(|word| word.trim_end_matches('.') == number.to_string())
            });
            assert!(told, "{script:?}: ARGV[{number}] is not in the header");
        }
        assert_eq!(
            code.contains("KEYS[7]"),
            header.contains("7 "),
            "{script:?}: KEYS[7]"
        );
    }
}

/// How many commands of a kind the last acquires cost, each.
fn commands(rig: &Rig, kind: &str, calls: u32) -> f64 {
    let info: String = rig.redis.run("INFO", &["commandstats"]);
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{kind}:calls=")));
    let count: f64 = line.map_or(0.0, |rest| rest.split(',').next().unwrap().parse().unwrap());
    count / f64::from(calls)
}

/// The draw must not read its way through the pool, whatever its shape.
#[test]
fn a_choice_takes_a_few_reads_in_a_pool_of_any_size() {
    const CALLS: u32 = 2_000;
    let spread = |accounts: usize, step: u64| -> Vec<(String, u64)> {
        (0..accounts)
            .map(|n| (format!("a{n}"), step * n as u64))
            .collect()
    };
    // accounts, distance of their scores, reads of `free` at most: ZRANGE, ZCOUNT
    for (accounts, step, ranges, counts) in [
        (3, 0, 1.0, 0.0),
        (3, 1_000_000, 1.0, 0.0),
        (5, 1_000_000, 1.0, 0.0),
        (1_000, 0, 2.4, 1.7),
        (10_000, 0, 2.4, 1.7),
        (1_000, 100, 6.0, 2.8),
        (10_000, 10, 6.0, 2.8),
        (100, 20_000, 2.0, 1.3),
    ] {
        let mut rig = Rig::bare(&[]);
        let names = spread(accounts, step);
        let list: Vec<SyncAccount> = names
            .iter()
            .map(|(id, base)| SyncAccount {
                base: *base,
                ..account(id, 10)
            })
            .collect();
        rig.pipe.sync(1, 1, Some(&list)).unwrap();
        let _: String = rig.redis.run("CONFIG", &["RESETSTAT"]);
        for _ in 0..CALLS {
            let lease = rig.mint();
            assert!(matches!(
                rig.pipe.acquire(lease, Mode::Dry, None),
                Ok(Answer::Granted(_))
            ));
        }
        let (range, count) = (
            commands(&rig, "zrange", CALLS),
            commands(&rig, "zcount", CALLS),
        );
        println!("{accounts} accounts {step} apart: {range:.2} ZRANGE, {count:.2} ZCOUNT");
        assert!(
            range <= ranges && count <= counts,
            "{accounts} accounts {step} apart: {range} ZRANGE, {count} ZCOUNT"
        );
    }
}

#[test]
fn a_lease_without_owner_is_cleared_away_when_it_is_over() {
    let mut rig = Rig::new();
    let _: i64 = rig
        .redis
        .run("ZADD", &[&rig.ledger.key("leases"), "1", "stray"]);
    rig.fill();
    let lease = rig.mint();
    assert!(matches!(
        rig.pipe.acquire(lease, Mode::Take, None),
        Ok(Answer::Saturated(_))
    ));
    assert!(!rig.ledger.state().leases.contains_key("stray"));
    rig.ledger.assert_consistent();
}

#[test]
fn an_account_that_cools_in_one_scope_serves_the_others() {
    let mut rig = Rig::new();
    let (scope, session) = ([5; 16], [6; 16]);
    let with = Some((&session, 60_000));
    let bound = rig.mint();
    assert_eq!(
        rig.pipe
            .acquire_in(bound, Mode::Take, with, Some(&scope), 1),
        rig.pipe.acquire_in(bound, Mode::Take, None, None, 1),
        "asked again it has the same"
    );
    let account = rig.ledger.owner()[bound.as_str()].clone();
    rig.pipe.release(&[bound]).unwrap();
    assert!(
        rig.pipe
            .cooldown_in(&account, 60_000, Some(&scope))
            .unwrap()
            > 59_000
    );
    assert_eq!(rig.free(), "a b c", "for the others it is free");
    for _ in 0..20 {
        let lease = rig.mint();
        let Ok(Answer::Granted(other)) =
            rig.pipe
                .acquire_in(lease, Mode::Take, with, Some(&scope), 1)
        else {
            panic!("two accounts are left")
        };
        assert_ne!(
            other, account,
            "neither by choice nor by the session's binding"
        );
        rig.pipe.release(&[lease]).unwrap();
    }
    let lease = rig.mint();
    assert_eq!(
        rig.pipe.acquire_in(lease, Mode::Take, with, None, 1),
        Ok(Answer::Granted(account.clone())),
        "outside the scope the session still has it"
    );
    rig.pipe.release(&[lease]).unwrap();
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
        assert_eq!(overrides(&reply).unwrap().used().count(), 0);
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

#[test]
fn inspect_checks_its_arguments_and_needs_a_pool() {
    let mut rig = Rig::new();
    for (cursor, count) in [("x", 10), ("-1", 10), ("", 10), ("0", 0), ("0", 1001)] {
        let answer = rig.pipe.inspect_raw(cursor, count);
        assert!(
            text(&answer).starts_with("BADARG"),
            "{cursor:?} {count}: {}",
            text(&answer)
        );
    }
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("accounts")]);
    assert_eq!(rig.pipe.inspect(), Err(Fault::NoPool));
}

#[test]
fn counts_of_accounts_that_are_gone_leave_nothing_behind() {
    let mut rig = Rig::new();
    let lease = rig.pinned("a");
    // The records are lost, the leases are not: a new revision knows nothing of `a`.
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("accounts")]);
    rig.pipe.sync(2, 2, Some(&[account("b", 1)])).unwrap();
    assert_eq!(rig.ledger.used("a"), 1);
    rig.pipe.release(&[lease]).unwrap();
    assert!(!rig.ledger.state().used.contains_key("a"));
}

#[test]
fn a_pass_whose_pool_was_lost_begins_again() {
    let mut rig = Rig::new();
    let leases = rig.fill();
    for _ in 0..2 {
        assert_eq!(
            rig.pipe.reconcile("one", 60_000, 1),
            Ok(Reconciled::Working(0))
        );
    }
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("accounts")]);
    rig.pipe
        .sync(
            2,
            2,
            Some(&[account("a", 1), account("b", 2), account("c", 3)]),
        )
        .unwrap();
    // Nobody told the old pass of this one.
    rig.pipe.release(&[leases[0].0]).unwrap();
    let end = (0..1000)
        .map(|_| rig.pipe.reconcile("one", 60_000, 10))
        .find(|step| !matches!(step, Ok(Reconciled::Working(_))));
    assert_eq!(end, Some(Ok(Reconciled::Done(0))));
    assert_eq!(
        rig.pipe.reconcile("two", 60_000, 10),
        Ok(Reconciled::Elsewhere),
        "between two passes as well"
    );
    rig.ledger.assert_consistent();
    assert_eq!(rig.ledger.live(), 5);
}

#[test]
fn a_lease_taken_during_a_pass_and_broken_by_hand_is_not_counted() {
    let mut rig = Rig::new();
    rig.fill();
    let leases: Vec<String> = rig.ledger.owner().into_keys().collect();
    assert_eq!(
        rig.pipe.reconcile("one", 60_000, 1),
        Ok(Reconciled::Working(0))
    );
    let lease = rig.pinned("c"); // marked from the start: the pass is under way
    let _: i64 = rig
        .redis
        .run("ZREM", &[&rig.ledger.key("leases"), lease.as_str()]);
    let end = (0..1000)
        .map(|_| rig.pipe.reconcile("one", 60_000, 10))
        .find(|step| !matches!(step, Ok(Reconciled::Working(_))));
    assert!(matches!(end, Some(Ok(Reconciled::Done(1..)))), "{end:?}");
    rig.ledger.assert_consistent();
    assert_eq!(rig.ledger.owner().into_keys().collect::<Vec<_>>(), leases);
}

/// A pool far beyond what a scan answers at once, busy while the pass runs.
#[test]
fn a_pass_over_a_large_busy_pool_finds_nothing() {
    const ACCOUNTS: usize = 1_500;
    let mut rig = Rig::bare(&[]);
    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("a{n}")).collect();
    let list: Vec<SyncAccount> = names.iter().map(|id| account(id, 1)).collect();
    rig.pipe.sync(1, 1, Some(&list)).unwrap();
    rig.set_time_to_live(600_000);
    let mut held: std::collections::VecDeque<LeaseId> = (0..1_000).map(|_| rig.take().0).collect();
    let mut steps = 0;
    let end = loop {
        match rig.pipe.reconcile("one", 60_000, 100).unwrap() {
            Reconciled::Working(0) => steps += 1,
            other => break other,
        }
        for _ in 0..20 {
            held.push_back(rig.take().0);
            let over = held.pop_front().unwrap();
            rig.pipe.release(&[over]).unwrap();
        }
    };
    assert_eq!(end, Reconciled::Done(0));
    assert!(steps > 50, "in bounded steps: {steps}");
    rig.ledger.assert_consistent();
    assert!(
        rig.ledger.state().used.values().all(|used| *used <= 1),
        "never above a limit"
    );
}

/// One whole pass: how many entries it mended.
fn pass(rig: &mut Rig) -> u64 {
    for _ in 0..1000 {
        match rig.pipe.reconcile("one", 60_000, 10) {
            Ok(Reconciled::Working(_)) => {}
            Ok(Reconciled::Done(entries)) => return entries,
            other => panic!("{other:?}"),
        }
    }
    panic!("it never ends")
}

#[test]
fn a_pass_counts_what_it_mends_of_accounts_that_are_gone() {
    let mut rig = Rig::new();
    let lease = rig.pinned("a");
    let (used, free) = (rig.ledger.key("used"), rig.ledger.key("free"));
    rig.redis
        .run::<()>("HDEL", &[&rig.ledger.key("accounts"), "a"]);
    rig.redis.run::<()>("ZREM", &[&free, "a"]);
    assert_eq!(pass(&mut rig), 0, "one lease, one counted");
    assert_eq!(rig.ledger.used("a"), 1);
    rig.redis.run::<()>("HSET", &[&used, "a", "5"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(rig.ledger.used("a"), 1);
    rig.pipe.release(&[lease]).unwrap();
    assert!(!rig.ledger.state().used.contains_key("a"));
}

#[test]
fn a_pass_counts_what_it_mends_of_the_free_accounts() {
    let mut rig = Rig::new();
    let free = rig.ledger.key("free");
    rig.redis.run::<()>("ZREM", &[&free, "b"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(rig.free(), "a b c");
    rig.redis.run::<()>("ZADD", &[&free, "7", "b"]);
    assert_eq!(pass(&mut rig), 1);
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn cooldowns_of_a_scope_that_are_over_leave_nothing_behind() {
    let mut rig = Rig::new();
    let scope = [5; 16];
    rig.pipe.cooldown_in("a", 60_000, Some(&scope)).unwrap();
    rig.pipe.cooldown_in("b", 60_000, Some(&scope)).unwrap();
    let keys: Vec<String> = rig.redis.run("KEYS", &["*cooldown:*"]);
    // It ends, and the next one takes it away.
    rig.redis.run::<()>("ZADD", &[&keys[0], "1", "a"]);
    rig.pipe.cooldown_in("c", 60_000, Some(&scope)).unwrap();
    let cooling: Vec<String> = rig.redis.run("ZRANGE", &[&keys[0], "0", "-1"]);
    assert_eq!(cooling, ["b", "c"]);
}

#[test]
fn a_pass_mends_flags_that_say_what_is_not_so() {
    let mut rig = Rig::new();
    rig.pipe.cooldown("a", 60_000).unwrap();
    rig.pipe.control("drain", "b", None).unwrap();
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("cooldown")]);
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("control")]);
    assert_eq!(rig.free(), "c");
    assert_eq!(pass(&mut rig), 2);
    assert_eq!(rig.free(), "a b c");
    assert!(!rig.ledger.state().meta.contains_key("#wake"));
    assert_eq!(pass(&mut rig), 0);
}

#[test]
fn a_lease_that_lost_its_expiry_gets_a_new_one() {
    let mut rig = Rig::new();
    let (lease, account) = rig.take();
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("leases")]);
    let epoch = rig.pipe.epoch;
    assert_eq!(
        rig.pipe.renew(&[(lease, &account, epoch)]),
        Ok(vec![Renewed::Readopted])
    );
    assert_eq!(rig.ledger.live(), 1);
    rig.ledger.assert_consistent();
}

#[test]
fn a_running_stream_is_counted_even_on_an_account_that_takes_no_more() {
    let mut rig = Rig::new();
    rig.pipe.control("drain", "b", None).unwrap();
    let lease = rig.mint();
    let epoch = rig
        .pipe
        .sync(1, 1, None)
        .map(|_| rig.ledger.state().meta["#epoch"].parse().unwrap())
        .unwrap();
    assert_eq!(
        rig.pipe.renew(&[(lease, "b", epoch)]),
        Ok(vec![Renewed::Readopted])
    );
    assert_eq!((rig.ledger.used("b"), rig.free().as_str()), (1, "a c"));
}

#[test]
fn a_lost_pool_leaves_no_ghosts_behind() {
    let mut rig = Rig::new();
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("accounts")]);
    rig.pipe.sync(1, 1, Some(&[account("b", 2)])).unwrap();
    assert_eq!(rig.free(), "b");
}

/// What a command costs Redis is above all how many commands its script runs. Seeds are given, so these are exact; if one
/// grows, it was worth it or it is a mistake.
#[test]
fn commands_per_call_stay_what_they_are() {
    for (accounts, expected) in COMMANDS {
        let mut rig = Rig::bare(&[]);
        let ids: Vec<String> = (0..accounts).map(|n| format!("a{n}")).collect();
        let list: Vec<_> = ids.iter().map(|id| account(id, 100)).collect();
        assert_eq!(rig.pipe.sync(1, 1, Some(&list)), Ok(Synced::Replaced));
        let counted = |rig: &mut Rig, act: &mut dyn FnMut(&mut Rig)| {
            rig.redis.run::<()>("CONFIG", &["RESETSTAT"]);
            act(rig);
            let stats: String = rig.redis.run("INFO", &["commandstats"]);
            let calls = stats.lines().filter_map(|line| {
                let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                let own = !["info", "config|resetstat", "hello", "client|setinfo"].contains(&name);
                own.then(|| figures.split(',').next()?.parse::<u64>().ok())?
            });
            calls.sum::<u64>()
        };
        let mut leases = Vec::new();
        let acquired = counted(&mut rig, &mut |rig| {
            leases = (0..100).map(|_| rig.take().0).collect();
        });
        let released = counted(&mut rig, &mut |rig| {
            assert_eq!(rig.pipe.release(&leases[..50]), Ok(50));
        });
        let one = counted(&mut rig, &mut |rig| {
            assert_eq!(rig.pipe.release(&leases[50..51]), Ok(1));
        });
        let together = counted(&mut rig, &mut |rig| {
            let asked: Vec<_> = (0..32).map(|_| plain(rig.mint())).collect();
            let answers = rig.pipe.acquire_all(&asked, 0, 1).unwrap();
            assert!(answers.iter().all(|one| matches!(one, Answer::Granted(_))));
        });
        let overrides = counted(&mut rig, &mut |rig| {
            rig.pipe.look(1_000, 64).unwrap();
        });
        assert_eq!(
            [acquired, together, released, one, overrides],
            expected,
            "{accounts} accounts"
        );
    }
}

/// Accounts; commands of 100 acquires, and of one of 32 leases; of one release of 50 leases, and of one; of a look.
const COMMANDS: [(u32, [u64; 5]); 3] = [
    (3, [1025, 17, 8, 8, 6]),
    (10, [1219, 62, 8, 8, 6]),
    (1_000, [1325, 92, 8, 8, 5]),
];

/// A lease without session or scope.
fn plain(lease: LeaseId) -> Asked<'static> {
    Asked {
        lease,
        mode: Mode::Take,
        session: None,
        scope: None,
    }
}

/// Many ask at the same moment, on connections of their own: one of them probes.
#[test]
fn of_many_that_race_for_a_probe_one_gets_it() {
    const RACERS: u64 = 12;
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 50)])).unwrap();
    let mut ids = LeaseIds::new(77);
    for _ in 0..10 {
        rig.pipe
            .heard("a", AccountReport::CoolThenProbe(1))
            .unwrap();
        std::thread::sleep(Duration::from_millis(3));
        let barrier = std::sync::Barrier::new(RACERS as usize);
        let racers: Vec<(Pipe, LeaseId)> = (0..RACERS)
            .map(|_| (Pipe::open(&rig.redis, "p"), ids.mint()))
            .collect();
        let won: Vec<(LeaseId, bool)> = std::thread::scope(|scope| {
            let race = |(mut pipe, lease): (Pipe, LeaseId)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let answer = pipe.acquire(lease, Mode::Take, None);
                    (lease, matches!(answer, Ok(Answer::Granted(_))), pipe.probes)
                })
            };
            let threads: Vec<_> = racers.into_iter().map(race).collect();
            let answers = threads.into_iter().map(|thread| thread.join().unwrap());
            answers
                .filter(|(_, granted, _)| *granted)
                .map(|(lease, _, probes)| (lease, probes))
                .collect()
        });
        let [(probe, true)] = won[..] else {
            panic!("{won:?}")
        };
        assert_eq!(rig.ledger.live(), 1);
        rig.ledger.assert_consistent();
        rig.pipe.release(&[probe]).unwrap();
    }
}

#[test]
fn a_probe_goes_on_until_one_passes() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 3)])).unwrap();
    let saturated = |rig: &mut Rig| {
        let lease = rig.mint();
        matches!(
            rig.pipe.acquire(lease, Mode::Take, None),
            Ok(Answer::Saturated(_))
        )
    };
    // One that holds from before goes on beside the probe, and its end lets no second one in.
    let (before, _) = rig.take();
    let (other, _) = rig.take();
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(5))
        .unwrap();
    assert!(saturated(&mut rig), "it cools");
    std::thread::sleep(Duration::from_millis(8));
    let (probe, _) = rig.take();
    assert!(rig.pipe.probes);
    rig.pipe.release(&[before, other]).unwrap();
    assert!(saturated(&mut rig));
    // Released without a word: the next one's turn. A verdict of the first comes too late.
    rig.pipe.release(&[probe]).unwrap();
    let (second, _) = rig.take();
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(probe)), Ok(0));
    // Whoever asks again is told again, in whatever way it asks.
    for mode in [Mode::Take, Mode::Force("a")] {
        let again = rig.pipe.acquire(second, mode, None);
        assert_eq!(again, Ok(Answer::Granted("a".into())));
        assert!(rig.pipe.probes);
    }
    assert!(saturated(&mut rig));
    // Pushed back: it cools again, for at least as long, and the old probe's success means nothing.
    assert!(
        rig.pipe
            .heard("a", AccountReport::CoolThenProbe(20))
            .unwrap()
            <= 20
    );
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(second)), Ok(0));
    std::thread::sleep(Duration::from_millis(25));
    // One that is never released expires.
    rig.set_time_to_live(20);
    rig.take();
    assert!(rig.pipe.probes);
    rig.set_time_to_live(10_000);
    assert!(saturated(&mut rig));
    std::thread::sleep(Duration::from_millis(25));
    let (third, _) = rig.take();
    assert!(rig.pipe.probes);
    // A new revision changes nothing about it, and no pass finds anything wrong.
    rig.pipe.sync(2, 2, Some(&[account("a", 4)])).unwrap();
    assert!(saturated(&mut rig));
    assert_eq!(pass(&mut rig), 0);
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(third)), Ok(1));
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(third)), Ok(0));
    // Beside the second and the third.
    for _ in 0..2 {
        rig.take();
        assert!(!rig.pipe.probes);
    }
    // Data lost: nothing is left of it.
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(1))
        .unwrap();
    rig.redis.run::<()>("FLUSHALL", &[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 4)])).unwrap();
    rig.take();
    assert!(!rig.pipe.probes);
    rig.take();
}

#[test]
fn a_pass_mends_probes_and_accounts_behind() {
    let mut rig = Rig::new();
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(1))
        .unwrap();
    rig.pipe.heard("b", AccountReport::Behind(60_000)).unwrap();
    std::thread::sleep(Duration::from_millis(3));
    let (lease, taken) = rig.take();
    assert_ne!(taken, "b");
    let (accounts, free) = (rig.ledger.key("accounts"), rig.ledger.key("free"));
    let other = rig.pinned("c");
    rig.pipe.release(&[other]).unwrap();
    if taken == "a" {
        assert_eq!(pass(&mut rig), 0, "its probe is under way");
        rig.pipe.release(&[lease]).unwrap();
    }
    assert_eq!(pass(&mut rig), 0, "it waits for a probe");
    // As an older version's release leaves it: it waits no longer.
    rig.redis.run::<()>("ZREM", &[&free, "a"]);
    assert_eq!(pass(&mut rig), 1);
    assert!(!rig.ledger.state().meta.contains_key("#probe:a"));
    assert_eq!(rig.ledger.state().accounts["a"], "1 300000 0 0");
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(60_000))
        .unwrap();
    rig.redis
        .run::<()>("ZREM", &[&rig.ledger.key("cooldown"), "a"]);
    rig.redis.run::<()>("HDEL", &[&accounts, "#probe:a"]);
    assert_eq!(pass(&mut rig), 1, "it does not cool");
    rig.redis
        .run::<()>("ZREM", &[&rig.ledger.key("cooldown"), "behind:b"]);
    assert_eq!(pass(&mut rig), 1, "it is not behind");
    assert_eq!(rig.ledger.state().free["b"], 0.0);
    assert_eq!(pass(&mut rig), 0);
}

/// What only an older version's scripts leave: they know no probes.
#[test]
fn a_pass_clears_away_probes_of_accounts_that_are_gone() {
    let mut rig = Rig::new();
    let accounts = rig.ledger.key("accounts");
    rig.redis
        .run::<()>("HSET", &[&accounts, "#probe:gone", "x", "#probe:b", ""]);
    rig.redis.run::<()>("HDEL", &[&accounts, "b"]);
    assert_eq!(
        pass(&mut rig),
        1,
        "b is still in free, the rest is no count"
    );
    let meta = rig.ledger.state().meta;
    assert!(
        !meta.keys().any(|name| name.starts_with("#probe:")),
        "{meta:?}"
    );
}

/// An older version's recount takes the flag of an account that probes for wrong, and counts it: this one only puts it back.
#[test]
fn a_pass_that_ends_what_an_older_one_did_to_a_probe_finds_no_drift() {
    let mut rig = Rig::bare(&[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 3)])).unwrap();
    rig.pipe
        .heard("a", AccountReport::CoolThenProbe(1))
        .unwrap();
    std::thread::sleep(Duration::from_millis(3));
    let (probe, _) = rig.take();
    let accounts = rig.ledger.key("accounts");
    let record = |rig: &Rig| rig.redis.run::<String>("HGET", &[&accounts, "a"]);
    let probing = record(&rig);
    let old = probing.replacen(" 4", " 0", 1);
    assert_ne!(old, probing);
    for _ in 0..2 {
        rig.redis.run::<()>("HSET", &[&accounts, "a", &old]);
        rig.redis
            .run::<()>("ZADD", &[&rig.ledger.key("free"), "100000", "a"]);
        assert_eq!(pass(&mut rig), 0);
        assert_eq!(record(&rig), probing);
        assert_eq!(rig.free(), "");
    }
    assert_eq!(rig.pipe.heard("a", AccountReport::Passed(probe)), Ok(1));
    // Without a probe it is wrong as ever.
    rig.redis.run::<()>("HSET", &[&accounts, "a", &probing]);
    assert_eq!(pass(&mut rig), 1);
}

#[test]
fn an_account_behind_is_taken_when_no_other_can_be() {
    let mut rig = Rig::new();
    let hash = [1; 16];
    let lease = rig.mint();
    let Ok(Answer::Granted(own)) = rig.pipe.acquire(lease, Mode::Take, Some((&hash, 60_000)))
    else {
        panic!()
    };
    rig.pipe.release(&[lease]).unwrap();
    rig.pipe.heard(&own, AccountReport::Behind(60_000)).unwrap();
    assert!(rig.pipe.heard(&own, AccountReport::Behind(1_000)).unwrap() > 59_000);
    let slots = |id: &str| ["a", "b", "c"].iter().position(|one| *one == id).unwrap() + 1;
    let mut last = Vec::new();
    for n in 0..6 {
        let lease = rig.mint();
        let Ok(Answer::Granted(account)) =
            rig.pipe.acquire(lease, Mode::Take, Some((&hash, 60_000)))
        else {
            panic!()
        };
        // Its own session spills, and is not bound anew.
        assert_eq!(account == own, n >= 6 - slots(&own), "{n}: {account}");
        last.push(lease);
    }
    rig.pipe.release(&last).unwrap();
    for account in ["a", "b", "c"] {
        rig.pipe.heard(account, AccountReport::Behind(30)).unwrap();
    }
    // All are: as if none were.
    let lease = rig.mint();
    assert_eq!(
        rig.pipe.acquire(lease, Mode::Take, Some((&hash, 60_000))),
        Ok(Answer::Granted(own.clone()))
    );
    rig.pipe.release(&[lease]).unwrap();
    assert_eq!(rig.pipe.control("thaw", &own, None).unwrap().1, "");
    std::thread::sleep(Duration::from_millis(35));
    rig.take();
    let state = rig.ledger.state();
    assert!(state.cooldown.is_empty(), "{state:?}");
    assert!(state.free.values().all(|score| *score < 1e9), "{state:?}");
}

/// During an upgrade the older version takes no part: it would mend what it does not know.
#[test]
fn who_knows_more_of_the_ledger_takes_the_passes_over() {
    let mut rig = Rig::new();
    let mut ask = |by: &str| rig.pipe.reconcile(by, 60_000, 1).unwrap() != Reconciled::Elsewhere;
    let asked = [
        "0ld", "1.new", "0ld", "1.other", "2.newer", "1.new", "2.newer",
    ]
    .map(&mut ask);
    assert_eq!(asked, [true, true, false, false, true, false, true]);
    // It ends although it was begun by another.
    let ended = (0..1_000).any(|_| {
        matches!(
            rig.pipe.reconcile("2.newer", 60_000, 100),
            Ok(Reconciled::Done(0))
        )
    });
    assert!(ended);
}
