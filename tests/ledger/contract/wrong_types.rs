//! Keys of another type than the scripts write.

use super::rig::{Rig, plain};
use crate::pipe::{Answer, text};
use slotgate::ledger::commands::{AccountReport, Asked, Mode};
use slotgate::ledger::fault::Fault;

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
