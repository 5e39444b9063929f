//! How many commands of Redis a call costs.

use super::rig::{Rig, plain};
use crate::pipe::{Answer, account};
use slotgate::config::{TenantLimits, Tenants};
use slotgate::ledger::commands::{Mode, Place, Renewed, SyncAccount, Synced, Terms};

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

/// Commands of Redis that `act` takes.
fn counted(rig: &mut Rig, act: &mut dyn FnMut(&mut Rig)) -> u64 {
    rig.redis.run::<()>("CONFIG", &["RESETSTAT"]);
    act(rig);
    let stats: String = rig.redis.run("INFO", &["commandstats"]);
    let calls = stats.lines().filter_map(|line| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let own = !["info", "config|resetstat", "hello", "client|setinfo"].contains(&name);
        own.then(|| figures.split(',').next()?.parse::<u64>().ok())?
    });
    calls.sum()
}

/// Whoever frees a slot looks at the first that wait, not at all of them; and a renewal that finds all as it must be looks at
/// nothing else.
#[test]
fn a_hand_off_costs_the_same_however_many_wait() {
    let costs: Vec<[u64; 3]> = [10, 1_000]
        .map(|waiting| {
            let mut rig = Rig::bare(&[]);
            let list = [account("a", 1), account("b", 1)];
            assert_eq!(rig.pipe.sync(1, 1, Some(&list)), Ok(Synced::Replaced));
            let (first, second) = (rig.take().0, rig.take().0);
            let gold = Tenants::name(b"gold");
            for cookie in 0..waiting {
                let tenant = (cookie % 2 == 0).then_some(&gold);
                let lease = rig.ids.mint(tenant);
                let limits = TenantLimits::NONE;
                let mode = Mode::Join(Terms {
                    limits,
                    cookie,
                    place: Place::Last,
                });
                let answer = rig.pipe.acquire(lease, mode, None);
                assert!(matches!(answer, Ok(Answer::Waits(_))), "{answer:?}");
            }
            let epoch = rig.pipe.epoch;
            let account = rig.ledger.owner()[second.as_str()].clone();
            let one = counted(&mut rig, &mut |rig| {
                assert_eq!(rig.pipe.release(&[first]), Ok(1));
                assert_eq!(rig.pipe.handed.len(), 1);
            });
            let renewed = counted(&mut rig, &mut |rig| {
                let answer = rig.pipe.renew(&[(second, &account, epoch)]);
                assert_eq!(answer, Ok(vec![Renewed::Renewed]));
            });
            let another = counted(&mut rig, &mut |rig| {
                assert_eq!(rig.pipe.release(&[second]), Ok(1));
                assert_eq!(rig.pipe.handed.len(), 1);
            });
            [one, renewed, another]
        })
        .into();
    assert_eq!(costs[0], costs[1]);
    // The script, and its five.
    assert_eq!(costs[0][1], 6);
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
    (3, [1025, 17, 8, 8, 7]),
    (10, [1219, 40, 8, 8, 7]),
    (1_000, [1325, 22, 8, 8, 6]),
];

/// What each way of a request costs Redis in a pool of 100 accounts, commands with those of the scripts, and bytes out and
/// back. All are exact, since seeds are given, and keys and ids are as long as they are.
#[test]
fn commands_and_bytes_of_each_way() {
    let mut rig = Rig::bare(&[]);
    let ids: Vec<String> = (0..100).map(|n| format!("a{n:02}")).collect();
    let list: Vec<_> = ids.iter().map(|id| account(id, 100)).collect();
    assert_eq!(rig.pipe.sync(1, 1, Some(&list)), Ok(Synced::Replaced));
    let mut costs = Vec::new();
    let mut way = |rig: &mut Rig, name: &'static str, act: &mut dyn FnMut(&mut Rig)| {
        let before = rig.pipe.bytes;
        let commands = counted(rig, act);
        costs.push((name, commands, rig.pipe.bytes - before));
    };
    let lease = rig.mint();
    way(&mut rig, "acquire", &mut |rig| {
        rig.pipe.take(lease);
    });
    way(&mut rig, "release", &mut |rig| {
        assert_eq!(rig.pipe.release(&[lease]), Ok(1));
    });
    let eight: Vec<_> = (0..8).map(|_| rig.mint()).collect();
    way(&mut rig, "acquire, 8 together", &mut |rig| {
        let asked: Vec<_> = eight.iter().map(|lease| plain(*lease)).collect();
        let answers = rig.pipe.acquire_all(&asked, 0, 1).unwrap();
        assert!(answers.iter().all(|one| matches!(one, Answer::Granted(_))));
    });
    way(&mut rig, "release, 8 together", &mut |rig| {
        assert_eq!(rig.pipe.release(&eight), Ok(8));
    });
    rig.pipe.tried = vec!["a00"];
    way(&mut rig, "acquire of a later try", &mut |rig| {
        rig.take();
    });
    rig.pipe.tried.clear();
    let list = [account("a00", 1)];
    assert_eq!(rig.pipe.sync(2, 2, Some(&list)), Ok(Synced::Replaced));
    let holder = rig.take().0;
    way(&mut rig, "refused", &mut |rig| {
        let lease = rig.mint();
        let answer = rig.pipe.acquire(lease, Mode::Take, None);
        assert!(matches!(answer, Ok(Answer::Saturated(_))), "{answer:?}");
    });
    let eight: Vec<_> = (0..8).map(|_| plain(rig.mint())).collect();
    way(&mut rig, "refused, 8 together", &mut |rig| {
        let answers = rig.pipe.acquire_all(&eight, 0, 1).unwrap();
        assert!(
            answers
                .iter()
                .all(|one| matches!(one, Answer::Saturated(_)))
        );
    });
    let terms = Terms {
        limits: TenantLimits::NONE,
        cookie: 7,
        place: Place::Last,
    };
    way(&mut rig, "waits", &mut |rig| {
        let lease = rig.mint();
        let answer = rig.pipe.acquire(lease, Mode::Join(terms), None);
        assert!(matches!(answer, Ok(Answer::Waits(_))), "{answer:?}");
    });
    way(&mut rig, "release and hand on", &mut |rig| {
        assert_eq!(rig.pipe.release(&[holder]), Ok(1));
        assert_eq!(rig.pipe.handed.len(), 1);
    });
    assert_eq!(costs, COSTS);
}

/// The way, commands, bytes.
const COSTS: [(&str, u64, usize); 9] = [
    ("acquire", 12, 387),
    ("release", 8, 314),
    ("acquire, 8 together", 16, 657),
    ("release, 8 together", 8, 531),
    ("acquire of a later try", 12, 394),
    ("refused", 16, 385),
    ("refused, 8 together", 17, 641),
    ("waits", 28, 454),
    ("release and hand on", 28, 357),
];
