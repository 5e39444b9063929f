//! The states of accounts: a worker hears the same that an operator is shown.

use super::rig::Rig;
use crate::pipe::account;
use slotgate::config::Pace;
use slotgate::ledger::commands::{AccountReport, SyncAccount};
use slotgate::ledger::view::Pool;
use slotgate::pool::state::State;
use std::collections::BTreeMap;

/// As an operator is shown them.
fn shown(rig: &mut Rig) -> BTreeMap<String, String> {
    let seen = rig.pipe.inspect().unwrap().into_iter();
    seen.map(|(id, (_, state))| (id, state)).collect()
}

#[test]
fn every_state_is_told_alike() {
    let mut rig = Rig::bare(&[]);
    let ids = [
        "behind", "cooling", "disabled", "drained", "free", "full", "off", "paced", "probe",
        "probing",
    ];
    let accounts = ids.map(|id| SyncAccount {
        enabled: id != "disabled",
        pace: (id == "paced").then_some(Pace {
            requests: 1,
            per_ms: 60_000,
            burst: 1,
        }),
        ..account(id, 1)
    });
    rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
    rig.pinned("full");
    let paced = rig.pinned("paced");
    rig.pipe.release(&[paced]).unwrap();
    rig.pipe.control("drain", "drained", None).unwrap();
    rig.pipe
        .heard("behind", AccountReport::Behind(60_000))
        .unwrap();
    rig.pipe
        .heard("off", AccountReport::Disable(0, 401.into()))
        .unwrap();
    for id in ["probe", "probing"] {
        rig.pipe.heard(id, AccountReport::CoolThenProbe(1)).unwrap();
    }
    rig.pipe.cooldown("cooling", 60_000).unwrap();
    support::eventually(support::PATIENCE, || shown(&mut rig)["probing"] == "probe");
    // The only two that are free.
    rig.pinned("free");
    let (_, first) = rig.take();
    rig.redis.run::<()>(
        "HSET",
        &[&rig.ledger.key("accounts"), "free", "2 300000 0 0"],
    );
    let other = if first == "probe" { "probing" } else { "probe" };
    let told = rig.pipe.states();
    assert_eq!(told, shown(&mut rig));
    assert_eq!(
        (told[first.as_str()].as_str(), told[other].as_str()),
        ("probing", "probe")
    );
    for (id, state) in &told {
        let expected = match id.as_str() {
            "off" => "disabled",
            "probe" | "probing" => continue,
            id => id,
        };
        assert_eq!(state, expected, "{id}");
    }
}

/// What stands in other keys keeps a state from being told, and nothing else from being heard.
#[test]
fn what_cannot_be_there_hides_one_state() {
    let mut rig = Rig::new();
    rig.pipe.cooldown("a", 60_000).unwrap();
    let cooldown = rig.ledger.key("cooldown");
    rig.redis.run::<()>("DEL", &[&cooldown]);
    rig.redis.run::<()>("SET", &[&cooldown, "x"]);
    rig.pipe.look(10, 10).unwrap();
    let told = rig.pipe.states();
    assert_eq!(
        told.values().map(String::as_str).collect::<Vec<_>>(),
        ["?", "free", "free"]
    );
}

/// One that is behind shows what it costs by itself; once its time is over it counts as free, cleared away or not.
#[test]
fn being_behind_is_no_part_of_the_score_that_is_shown() {
    let mut rig = Rig::bare(&[]);
    let accounts = [SyncAccount {
        base: 5,
        ..account("a", 1)
    }];
    rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
    let seen = |rig: &mut Rig| {
        let mut pool = Pool::default();
        pool.page(&rig.pipe.inspect_raw("0", 10)).unwrap();
        (pool.accounts[0].priority_part, pool.accounts[0].state)
    };
    rig.pipe.heard("a", AccountReport::Behind(60_000)).unwrap();
    assert_eq!(seen(&mut rig), (5, State::Behind));
    rig.pipe.control("thaw", "a", None).unwrap();
    rig.pipe.heard("a", AccountReport::Behind(1)).unwrap();
    support::eventually(support::PATIENCE, || seen(&mut rig) == (5, State::Free));
    assert_eq!(rig.pipe.states()["a"], "free");
}
