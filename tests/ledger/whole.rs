//! Who changes an account is told an error before anything is written, or has it done: never half of it. And what nobody has
//! counted opens no account.

use crate::pipe::{Answer, PREFIX, Pipe, account, text};
use crate::support::{Ledger, Redis};
use slotgate::lease::{LeaseId, LeaseIds};
use slotgate::ledger::keys::COMMON;
use slotgate::ledger::script::{Fault, Heard, Mode, Reconciled};

/// A pool with accounts `a` and `b`.
struct Rig {
    redis: Redis,
    pipe: Pipe,
    ledger: Ledger,
    ids: LeaseIds,
}

impl Rig {
    fn new(max_concurrency: u32) -> Self {
        let redis = Redis::start();
        let mut pipe = Pipe::open(&redis, "p");
        let accounts = ["a", "b"].map(|id| account(id, max_concurrency));
        pipe.sync(1, 1, Some(&accounts)).unwrap();
        Self {
            ledger: Ledger::new(&redis, PREFIX, "p"),
            ids: LeaseIds::new(3),
            redis,
            pipe,
        }
    }

    fn run(&self, command: &str, name: &str, rest: &[&str]) {
        let key = self.ledger.key(name);
        let mut arguments = vec![key.as_str()];
        arguments.extend(rest);
        self.redis.run::<()>(command, &arguments);
    }

    fn dump(&self) -> Vec<Option<Vec<u8>>> {
        let names = COMMON.iter().chain(&["control"]);
        let keys = names.map(|name| self.ledger.key(name));
        keys.map(|key| self.redis.run("DUMP", &[&key])).collect()
    }

    fn forced(&mut self, id: &str) -> LeaseId {
        let lease = self.ids.mint();
        self.pipe.acquire(lease, Mode::Force(id), None).unwrap();
        lease
    }

    fn recount(&mut self) {
        while !matches!(
            self.pipe.reconcile("one", 90_000, 100),
            Ok(Reconciled::Done(_))
        ) {}
    }
}

/// What an upstream or an operator says of an account.
#[derive(Debug, Clone, Copy)]
enum Said {
    Heard(Heard),
    Passed,
    Control(&'static str),
}

#[test]
fn an_error_comes_before_the_first_write() {
    let said = [
        Said::Heard(Heard::Cool(60_000, None)),
        Said::Heard(Heard::CoolThenProbe(60_000)),
        Said::Heard(Heard::Behind(60_000)),
        Said::Passed,
        Said::Control("drain"),
        Said::Control("undrain"),
        Said::Control("thaw"),
    ];
    for name in ["used", "free", "cooldown"] {
        for said in said {
            let mut rig = Rig::new(5);
            let mut lease = rig.forced("a");
            // So that there is something to change.
            match said {
                Said::Control("undrain") => drop(rig.pipe.control("drain", "a", None)),
                Said::Control("thaw") => {
                    rig.pipe.heard("a", Heard::Behind(60_000)).unwrap();
                    rig.pipe.heard("a", Heard::Cool(60_000, None)).unwrap();
                }
                Said::Passed => {
                    rig.pipe.heard("a", Heard::CoolThenProbe(1)).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(3));
                    lease = rig.ids.mint();
                    rig.forced("b");
                    rig.pipe.acquire(lease, Mode::Force("a"), None).unwrap();
                    assert!(rig.pipe.probes);
                }
                Said::Heard(_) | Said::Control(_) => {}
            }
            if name == "used" {
                rig.run("HSET", name, &["a", "many"]);
            } else {
                rig.run("SET", name, &["text"]);
            }
            let before = rig.dump();
            let reply = match said {
                Said::Heard(heard) => rig.pipe.heard_raw("a", heard),
                Said::Passed => rig.pipe.heard_raw("a", Heard::Passed(lease)),
                Said::Control(verb) => rig.pipe.control_raw(verb, "a", None),
            };
            let what = format!("{name} {said:?}: {}", text(&reply));
            assert_eq!(Fault::of(&reply[1..]), Fault::Garbage, "{what}");
            assert_eq!(rig.dump(), before, "{what}");
        }
    }
}

/// Nobody can tell whether a probe is under way, but all is noted.
#[test]
fn an_account_cools_although_the_owners_are_of_another_type() {
    let mut rig = Rig::new(5);
    rig.pipe.heard("a", Heard::CoolThenProbe(60_000)).unwrap();
    rig.run("SET", "owner", &["text"]);
    rig.pipe.heard("a", Heard::Behind(60_000)).unwrap();
    rig.pipe.heard("a", Heard::CoolThenProbe(90_000)).unwrap();
    let state = rig.ledger.try_state();
    assert!(state.is_err(), "{state:?}");
    rig.run("DEL", "owner", &[]);
    rig.ledger.assert_consistent();
}

/// A cooldown that ends under a count that is none costs no request anything, and the account waits for the recount.
#[test]
fn a_bad_count_stops_no_end_of_a_cooldown_half_way() {
    let mut rig = Rig::new(5);
    for heard in [Heard::Cool(1, None), Heard::Behind(1)] {
        rig.forced("a");
        rig.pipe.heard("a", heard).unwrap();
        rig.run("HSET", "used", &["a", "many"]);
        std::thread::sleep(std::time::Duration::from_millis(3));
        let lease = rig.ids.mint();
        let answer = rig.pipe.acquire(lease, Mode::Take, None);
        assert_eq!(answer, Ok(Answer::Granted("b".into())), "{heard:?}");
        rig.run("HDEL", "used", &["a"]);
        let state = rig.ledger.state();
        assert!(!state.meta.contains_key("#wake"), "{heard:?}");
        assert!(state.cooldown.is_empty(), "{heard:?}");
        assert!(
            state.accounts["a"].ends_with(" 0 0"),
            "{heard:?}: {state:?}"
        );
        assert!(!state.free.contains_key("a"), "{heard:?}");
        rig.recount();
        rig.ledger.assert_consistent();
        assert!(rig.ledger.free().contains("a"), "{heard:?}");
    }
}
