//! `slotgate explain`: why an account is taken or not, for a session, for a scope, and with which chance.

use crate::Rig;
use crate::pipe::account;
use crate::show::every_state;
use serde_json::{Value, json};
use slotgate::hash::hash128;
use slotgate::ledger::commands::{AccountReport, Mode, SyncAccount};
use slotgate::ledger::commands::{Acquired, acquired};
use slotgate::ledger::keys::{session_digits, session_tag};
use std::collections::BTreeMap;
use std::time::Duration;

#[test]
fn explain_gives_every_reason() {
    let mut rig = every_state();
    rig.pipe.cooldown("off", 59_000).unwrap();
    rig.pipe.control("drain", "off", None).unwrap();
    rig.take("off");
    let out = rig.run(&["explain"]).done();
    assert_eq!(
        rig.masked(&out),
        "\
pool p, revision 8
account  state    used  priority  load     random    chance  now
cold     cooling  0/4   0.000     + 0.000  + 0..0.2  –       no: cooling for TIME more
dry      drained  1/4   0.000     + 0.075  + 0..0.2  –       no: drained by an operator
free     free     1/4   0.000     + 0.075  + 0..0.2  87.5 %  if its sum is the lowest
full     full     2/2   0.000     + 0.300  + 0..0.2  –       no: 2 of 2 slots used
gone     removed  1/4   0.000     + 0.075  + 0..0.2  –       no: no longer configured, its last leases finish
off      cooling  1/4   0.000     + 0.075  + 0..0.2  –       no: disabled in the configuration; drained by an operator; cooling for TIME more
worse    free     1/4   0.100     + 0.075  + 0..0.2  12.5 %  if its sum is the lowest
next: the lowest sum wins
"
    );
    let answer = rig.json(&["explain", "--random", "0.05"]);
    assert_eq!(answer["next"], json!({"outcome": "score", "account": null}));
    let worse = &answer["accounts"][6];
    assert_eq!(
        (&worse["score"], &worse["can_take"], &worse["chance"]),
        (
            &json!({"priority": 0.1, "load": 0.075, "random": [0.0, 0.05], "sum": [0.175, 0.225]}),
            &json!(true),
            &json!(0.0)
        )
    );
    let out = rig.run(&["explain", "--random", "0.05"]).done();
    assert!(
        out.contains("100.0 %  yes: no other's sum can be lower\n"),
        "{out}"
    );
    assert_eq!(answer["accounts"][2]["chance"], 1.0);
    assert_eq!(
        answer["accounts"][1]["against"],
        json!(["drained by an operator"])
    );
    // The weight may come from a configuration: 0 there.
    let out = rig
        .run(&["explain", "--config", "tests/config/good/full.json"])
        .done();
    assert!(
        out.contains("0.100     + 0.075  + 0..0  0.0 %    no: another's sum is always lower"),
        "{out}"
    );
}

/// Accounts that have cooled, and one that fails.
/// That it is behind decides over that it is to be probed, and not for longer than it lasts.
#[test]
fn an_account_behind_that_is_to_be_probed_is_shown_as_behind() {
    let mut rig = Rig::empty();
    let accounts = ["a", "both", "over"].map(|id| account(id, 4));
    rig.pipe.sync(7, 1, Some(&accounts)).unwrap();
    rig.pipe
        .heard("both", AccountReport::CoolThenProbe(1))
        .unwrap();
    rig.pipe
        .heard("both", AccountReport::Behind(59_000))
        .unwrap();
    rig.pipe.heard("over", AccountReport::Behind(1)).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let explained = rig.json(&["explain", "--random", "0.2"]);
    let accounts = explained["accounts"].as_array().unwrap();
    let seen: Vec<_> = accounts
        .iter()
        .map(|account| (&account["state"], account["chance"].as_f64().unwrap() > 0.0))
        .collect();
    let expected = [("free", true), ("behind", false), ("free", true)];
    assert!(
        seen.iter()
            .zip(expected)
            .all(|(seen, expected)| *seen.0 == expected.0 && seen.1 == expected.1),
        "{seen:?}"
    );
}

#[test]
fn probes_and_accounts_behind_are_shown() {
    let mut rig = Rig::empty();
    let accounts = ["a", "late", "once", "wait"].map(|id| account(id, 4));
    rig.pipe.sync(7, 1, Some(&accounts)).unwrap();
    rig.pipe
        .heard("late", AccountReport::Behind(59_000))
        .unwrap();
    for account in ["once", "wait"] {
        rig.pipe
            .heard(account, AccountReport::CoolThenProbe(1))
            .unwrap();
    }
    std::thread::sleep(Duration::from_millis(5));
    // The first one that comes ends what is over.
    rig.take("a");
    rig.take("wait");
    let out = rig.run(&["status"]).done();
    assert_eq!(
        rig.masked(&out).lines().skip(1).collect::<Vec<_>>(),
        [
            "account  used                        state",
            "a        1/4   █████···············  free",
            "late     0/4   ····················  free, behind the others",
            "once     0/4   ····················  free for one probe",
            "wait     1/4   █████···············  a probe is under way",
        ]
    );
    let states: Vec<Value> = rig.json(&["status"])["pools"][0]["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|account| account["state"].clone())
        .collect();
    assert_eq!(states, ["free", "behind", "probe", "probing"]);
    let explained = |rig: &Rig| {
        let out = rig.run(&["explain", "--random", "0"]).done();
        rig.masked(&out)
            .lines()
            .skip(2)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        explained(&rig),
        [
            "a free 1/4 0.000 + 0.075 + 0..0 0.0 % no: another's sum is always lower",
            "late behind 0/4 0.000 + 0.000 + 0..0 0.0 % no: it failed too often, and others can take it",
            "once probe 0/4 0.000 + 0.000 + 0..0 100.0 % yes: no other's sum can be lower",
            "wait probing 1/4 0.000 + 0.075 + 0..0 – no: it has cooled, and a probe is under way",
            "next: the lowest sum wins",
        ]
    );
    // A session of the one behind is served by another, and stays its own; unless there is no other.
    let hash = hash128(b"alice");
    let text = |digits: &[u8]| String::from_utf8(digits.to_vec()).unwrap();
    let key = format!(
        "{}{}",
        rig.ledger().key("session:"),
        text(&session_digits(&hash))
    );
    let sessions = format!("={},late 9999999999999", text(&session_tag(&hash)));
    rig.redis.run::<()>("SET", &[&key, &sessions]);
    let told = |rig: &Rig| rig.run(&["explain", "--session", "alice"]).done();
    assert!(
        told(&rig).contains("which is behind the others: another serves this request"),
        "{}",
        told(&rig)
    );
    for account in ["a", "once"] {
        rig.pipe.control("drain", account, None).unwrap();
    }
    assert!(told(&rig).contains("next: late, the session's own"));
    // One word ends all of it.
    for account in ["late", "once", "wait"] {
        let answer = rig.json(&["cooldown", "clear", account]);
        assert_eq!(answer["changed"], true, "{account}");
    }
    rig.pipe.control("undrain", "once", None).unwrap();
    let state = rig.ledger().state();
    assert_eq!(
        state.free.into_keys().collect::<Vec<_>>(),
        ["late", "once", "wait"]
    );
    assert!(state.cooldown.is_empty() && !state.meta.keys().any(|name| name.contains("probe")));
}

#[test]
fn explain_follows_a_session() {
    let mut rig = Rig::new();
    let hash = hash128(b"alice");
    let lines = |rig: &Rig| {
        let out = rig.run(&["explain", "--session", "alice"]).done();
        let masked = rig.masked(&out);
        masked
            .lines()
            .skip(5)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        lines(&rig),
        [
            "session \"alice\" is bound to no account",
            "next: the lowest sum wins"
        ]
    );
    let lease = rig.ids.mint(None);
    let Ok(crate::pipe::Answer::Granted(bound)) =
        rig.pipe.acquire(lease, Mode::Take, Some((&hash, 60_000)))
    else {
        panic!()
    };
    rig.pipe.release(&[lease]).unwrap();
    assert_eq!(
        lines(&rig),
        [
            format!("session \"alice\" is bound to {bound}"),
            format!("next: {bound}, the session's own")
        ]
    );
    let answer = rig.json(&["explain", "--session", "alice"]);
    for account in answer["accounts"].as_array().unwrap() {
        let own = account["id"] == bound.as_str();
        assert_eq!(
            (&account["bound"], account["chance"].as_f64()),
            (&json!(own), Some(f64::from(u8::from(own))))
        );
    }
    // What it says of each state is what the next acquire does.
    rig.pipe.cooldown(&bound, 60_000).unwrap();
    assert_eq!(
        lines(&rig)[0],
        format!(
            "session \"alice\" is bound to {bound}, which can't take it now: another serves this request, and the session stays bound"
        )
    );
    assert_eq!(
        rig.json(&["explain", "--session", "alice"])["session"],
        json!({"bound_to": bound, "stays_bound": true})
    );
    let lease = rig.ids.mint(None);
    rig.pipe
        .acquire(lease, Mode::Take, Some((&hash, 60_000)))
        .unwrap();
    assert_eq!(rig.pipe.bound(&hash).as_ref(), Some(&bound));
    // Cooling and drained, then only drained.
    for verb in ["drain", "thaw"] {
        rig.pipe.control(verb, &bound, None).unwrap();
        assert_eq!(
            lines(&rig)[0],
            format!(
                "session \"alice\" is bound to {bound}, which takes no leases: the next lease binds it anew"
            )
        );
    }
    let lease = rig.ids.mint(None);
    rig.pipe
        .acquire(lease, Mode::Take, Some((&hash, 60_000)))
        .unwrap();
    assert_ne!(rig.pipe.bound(&hash), Some(bound));
}

#[test]
fn explain_follows_a_scope() {
    let mut rig = Rig::new();
    let scope = hash128(b"claude-x");
    rig.pipe.cooldown_in("a", 50_000, Some(&scope)).unwrap();
    // Over, but not cleared away.
    rig.pipe.cooldown_in("c", 1, Some(&scope)).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let out = rig.run(&["explain", "--scope", "claude-x"]).done();
    let line = rig.masked(&out);
    let told = "no: cooling for TIME more in scope \"claude-x\"\n";
    assert_eq!(line.matches(told).count(), 1, "{line}");
    assert_eq!(
        rig.json(&["explain", "--scope", "claude-x"])["accounts"][0]["can_take"],
        false
    );
    assert_eq!(
        rig.json(&["explain", "--scope", "other"])["accounts"][0]["can_take"],
        true
    );
    assert_eq!(rig.json(&["explain"])["accounts"][0]["can_take"], true);
}

/// The chances it names are how often acquires do choose each account.
#[test]
fn explains_chances_are_what_acquires_do() {
    let mut rig = Rig::empty();
    let ids: Vec<String> = (0..12).map(|n| format!("acct-{n:02}")).collect();
    let accounts: Vec<SyncAccount> = (0_u64..)
        .zip(&ids)
        .map(|(n, id)| SyncAccount {
            base: n % 3 * 60_000,
            ..account(id, 10)
        })
        .collect();
    rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
    for (number, id) in ids.iter().enumerate() {
        for _ in 0..number % 5 {
            rig.take(id);
        }
    }
    const DRAWS: usize = 20_000;
    let mut out = Vec::new();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..DRAWS {
        rig.pipe
            .encode_acquire(&mut out, rig.ids.mint(None), Mode::Dry, random.u32(..));
    }
    let mut chosen: BTreeMap<String, f64> = BTreeMap::new();
    rig.pipe.exchange_many(&out, DRAWS, |reply| {
        match acquired(reply, 1).unwrap().1.next() {
            Some(Acquired::Granted { account, .. }) => {
                *chosen
                    .entry(String::from_utf8(account.to_vec()).unwrap())
                    .or_default() += 1.0 / DRAWS as f64;
            }
            other => panic!("{other:?}"),
        }
    });
    let answer = rig.json(&["explain"]);
    let distance: f64 = answer["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|account| {
            let chosen = chosen
                .get(account["id"].as_str().unwrap())
                .copied()
                .unwrap_or(0.0);
            (account["chance"].as_f64().unwrap() - chosen).abs() / 2.0
        })
        .sum();
    assert!(distance < 0.02, "total variation distance {distance}");
}
