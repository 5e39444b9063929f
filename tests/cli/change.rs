//! What changes something: what it says, what it did, and that nothing is changed when it fails.

use crate::Rig;
use crate::pipe::{Pipe, account};
use serde_json::{Value, json};
use slotgate::hash::hash128;
use slotgate::ledger::commands::{Mode, SyncAccount};
use support::Redis;

fn percent(redis: &Redis, pool: &str) -> Option<String> {
    redis.run(
        "HGET",
        &[&format!("slotgate:{{{pool}}}:control"), "percent"],
    )
}

#[test]
fn drain_and_undrain() {
    let mut rig = Rig::new();
    rig.take("c");
    assert_eq!(
        rig.run(&["drain", "c"]).done(),
        "c of pool p is drained: it takes no new leases; 1 lease will finish\n"
    );
    assert_eq!(
        rig.ledger().free().into_iter().collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(
        rig.run(&["drain", "c"]).done(),
        "c of pool p was drained already\n"
    );
    assert_eq!(
        rig.json(&["undrain", "c", "--pool", "p"]),
        json!({"action": "undrain", "pool": "p", "account": "c", "changed": true})
    );
    assert_eq!(rig.ledger().free().len(), 3);
    assert_eq!(
        rig.run(&["undrain", "c"]).done(),
        "c of pool p was not drained\n"
    );
    assert_eq!(
        rig.json(&["drain", "b"]),
        json!({"action": "drain", "pool": "p", "account": "b", "changed": true})
    );
    // It outlives the account's place in the configuration, and can be taken back without it.
    rig.pipe.sync(8, 2, Some(&[account("a", 1)])).unwrap();
    assert_eq!(
        rig.run(&["undrain", "b"]).done(),
        "b of pool p is no longer drained\n"
    );
    rig.ledger().assert_consistent();
}

#[test]
fn cooldown_clear() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.run(&["cooldown", "clear", "a"]).done(),
        "a of pool p was not cooling\n"
    );
    rig.pipe.cooldown("a", 60_000).unwrap();
    assert_eq!(rig.ledger().free().len(), 2);
    assert_eq!(
        rig.run(&["cooldown", "clear", "a"]).done(),
        "a of pool p no longer cools\n"
    );
    assert_eq!(rig.ledger().free().len(), 3);
    rig.pipe.cooldown("a", 60_000).unwrap();
    assert_eq!(
        rig.json(&["cooldown", "clear", "a"]),
        json!({"action": "cooldown_clear", "pool": "p", "account": "a", "changed": true})
    );
}

#[test]
fn percent_is_set_and_cleared() {
    let rig = Rig::new();
    assert_eq!(
        rig.run(&["percent", "set", "12.5"]).done(),
        "pool p: gray 12.5 %, was as configured\n"
    );
    assert_eq!(percent(&rig.redis, "p").as_deref(), Some("1250"));
    assert_eq!(
        rig.run(&["percent", "set", "0"]).done(),
        "pool p: gray 0 %, was 12.5 %\n"
    );
    assert_eq!(percent(&rig.redis, "p").as_deref(), Some("0"));
    assert_eq!(
        rig.json(&["percent", "set", "100"]),
        json!({"action": "percent_set", "pools": [{"pool": "p", "old": 0.0, "new": 100.0}]})
    );
    assert_eq!(
        rig.run(&["percent", "clear"]).done(),
        "pool p: gray as configured, was 100 %\n"
    );
    assert_eq!(percent(&rig.redis, "p"), None);
    assert_eq!(
        rig.json(&["percent", "clear"]),
        json!({"action": "percent_clear", "pools": [{"pool": "p", "old": null, "new": null}]})
    );
}

#[test]
fn a_percentage_that_someone_wrote_by_hand_is_shown_and_can_be_replaced() {
    let rig = Rig::new();
    for by_hand in ["ten", "10001", "-1"] {
        rig.redis
            .run::<()>("HSET", &["slotgate:{p}:control", "percent", by_hand]);
        let shown = rig.run(&["status"]).done();
        assert!(
            shown.contains("gray by no override: Redis holds one that is no percentage"),
            "{shown}"
        );
        assert_eq!(
            rig.json(&["status"])["pools"][0]["percent_override"],
            json!(null)
        );
    }
    assert_eq!(
        rig.run(&["percent", "set", "5"]).done(),
        "pool p: gray 5 %, was as configured\n"
    );
    assert!(rig.run(&["status"]).done().contains("gray 5 % by override"));
}

#[test]
fn unbind_forgets_a_session() {
    let mut rig = Rig::new();
    assert_eq!(
        rig.run(&["unbind", "--session", "alice"]).done(),
        "session \"alice\" was not bound in pool p\n"
    );
    let hash = hash128(b"alice");
    let bind = |rig: &mut Rig| {
        let lease = rig.ids.mint(None);
        rig.pipe
            .acquire(lease, Mode::Take, Some((&hash, 60_000)))
            .unwrap();
        rig.pipe.bound(&hash).expect("it is bound")
    };
    let account = bind(&mut rig);
    assert_eq!(
        rig.run(&["unbind", "--session", "alice"]).done(),
        format!(
            "session \"alice\" is no longer bound to {account} of pool p: its next lease binds it anew\n"
        )
    );
    assert!(
        rig.redis
            .run::<Vec<String>>("KEYS", &["*session*"])
            .is_empty()
    );
    let account = bind(&mut rig);
    assert_eq!(
        rig.json(&["unbind", "--session", "alice"]),
        json!({"action": "unbind", "pool": "p", "changed": true, "was": account})
    );
}

#[test]
fn an_unknown_account_lists_those_near_and_changes_nothing() {
    let mut rig = Rig::new();
    let before = rig.dump();
    for command in [&["drain"][..], &["undrain"], &["cooldown", "clear"]] {
        let told = rig.run(&[command, &["d"]].concat()).failed(1);
        assert_eq!(
            told,
            "error: pool p has no account d\n  try: one of: a, b, c\n"
        );
        // A field of the hash that is no account.
        let told = rig.run(&[command, &["#epoch"]].concat()).failed(2);
        assert_eq!(
            told,
            "error: account \"#epoch\" is not [A-Za-z0-9._-]{1,64}\n"
        );
    }
    assert_eq!(rig.dump(), before);
    let ids: Vec<String> = (0..40).map(|n| format!("acct-{n}")).collect();
    let accounts: Vec<SyncAccount> = ids.iter().map(|id| account(id, 1)).collect();
    rig.pipe.sync(8, 2, Some(&accounts)).unwrap();
    assert_eq!(
        rig.run(&["drain", "Act-17"]).failed(1),
        "error: pool p has no account Act-17\n  try: did you mean acct-17, acct-1, acct-10, acct-11, acct-12?\n"
    );
    let told = rig.run(&["drain", "claude", "--json"]).failed(1);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        told,
        json!({"error": {
            "kind": "no_account",
            "message": "pool p has no account claude",
            "try": "slotgate status --pool p lists all 40",
        }})
    );
}

#[test]
fn a_percentage_out_of_range_changes_nothing() {
    let rig = Rig::new();
    rig.run(&["percent", "set", "20"]).done();
    let before = rig.dump();
    for (wrong, rule) in [
        ("101", "is not in 0..=100"),
        ("-1", "is not in 0..=100"),
        ("100.01", "is not in 0..=100"),
        ("1.234", "has more than two decimals"),
        ("ten", "is not a number such as 12.5"),
        ("1e1", "is not a number such as 12.5"),
        ("NaN", "is not a number such as 12.5"),
        ("", "is not a number such as 12.5"),
    ] {
        assert_eq!(
            rig.run(&["percent", "set", wrong]).failed(2),
            format!("error: percent {wrong:?} {rule}\n")
        );
    }
    assert_eq!(rig.dump(), before);
}

#[test]
fn several_pools() {
    let rig = Rig::new();
    let accounts = [account("x", 1)];
    Pipe::open(&rig.redis, "q.2")
        .sync(1, 1, Some(&accounts))
        .unwrap();
    // None of these is one of this prefix.
    rig.redis
        .run::<()>("HSET", &["other:{r}:accounts", "#epoch", "1"]);
    rig.redis
        .run::<()>("HSET", &["slotgate:{r}:accounts:x", "#epoch", "1"]);
    rig.redis
        .run::<()>("HSET", &["slotgate:{a}:{b}:accounts", "#epoch", "1"]);
    let before = rig.dump();
    let addr = rig.redis.addr();
    for command in [
        &["drain", "x"][..],
        &["percent", "set", "5"],
        &["explain"],
        &["unbind", "--session", "s"],
    ] {
        assert_eq!(
            rig.run(command).failed(2),
            format!("error: {addr} has 2 pools\n  try: --pool with one of: p, q.2\n")
        );
    }
    let near = "  try: one of: p, q.2\n";
    for command in [
        &["drain", "x"][..],
        &["percent", "set", "5"],
        &["explain"],
        &["status"],
        &["watch"],
        &["lease", "x"],
    ] {
        // `watch` would go on past what may pass.
        let once: &[&str] = if command == ["watch"] {
            &["--count", "1"]
        } else {
            &[]
        };
        assert_eq!(
            rig.run(&[command, once, &["--pool", "q"]].concat())
                .failed(1),
            format!("error: there is no pool q under the prefix slotgate at {addr}\n{near}")
        );
    }
    assert_eq!(
        rig.run(&["drain", "x", "--pool", "q{"]).failed(2),
        "error: pool \"q{\" is not [A-Za-z0-9._-]{1,64}\n"
    );
    assert_eq!(rig.dump(), before);
    let pools = rig.json(&["status"]);
    let names: Vec<&Value> = pools["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pool| &pool["pool"])
        .collect();
    assert_eq!(names, ["p", "q.2"]);
    assert_eq!(
        rig.run(&["percent", "set", "0", "--all-pools"]).done(),
        "pool p: gray 0 %, was as configured\npool q.2: gray 0 %, was as configured\n"
    );
    assert_eq!(percent(&rig.redis, "q.2").as_deref(), Some("0"));
    assert_eq!(
        rig.json(&["percent", "clear", "--pool", "q.2"])["pools"],
        json!([{"pool": "q.2", "old": 0.0, "new": null}])
    );
    assert_eq!(percent(&rig.redis, "p").as_deref(), Some("0"));
}

#[test]
fn no_pool_at_all() {
    let rig = Rig::new();
    let before = rig.dump();
    let addr = rig.redis.addr();
    for command in [
        &["status"][..],
        &["explain"],
        &["drain", "a"],
        &["percent", "set", "5"],
        &["percent", "clear", "--all-pools"],
        &["lease", "x"],
    ] {
        let told = rig
            .run(&[command, &["--prefix", "sg:v2"]].concat())
            .failed(1);
        assert!(
            told.starts_with(&format!(
                "error: there is no pool under the prefix sg:v2 at {addr}\n  try: "
            )),
            "{told}"
        );
    }
    assert_eq!(
        rig.run(&["status", "--prefix", "s*"]).failed(2),
        "error: prefix \"s*\" is not [A-Za-z0-9._:-]{1,64}\n"
    );
    // The pool is in database 0.
    let told = rig
        .run(&["status", "--redis", &format!("redis://{addr}/1")])
        .failed(1);
    assert!(told.starts_with("error: there is no pool"), "{told}");
    assert_eq!(rig.dump(), before);
}

/// The kill switch needs nothing of a pool but its overrides, and no pool keeps it from another.
#[test]
fn the_percentage_of_all_pools_is_set_past_one_that_cannot_be() {
    let mut rig = Rig::new();
    for name in ["o", "q"] {
        let mut pipe = Pipe::open(&rig.redis, name);
        pipe.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    }
    rig.take("a");
    for key in ["leases", "used", "free", "owner", "cooldown", "accounts"] {
        let key = format!("slotgate:{{p}}:{key}");
        rig.redis.run::<()>("DEL", &[&key]);
        rig.redis.run::<()>("SET", &[&key, "x"]);
    }
    rig.run(&["percent", "set", "0", "--all-pools"]).done();
    assert_eq!(percent(&rig.redis, "p").as_deref(), Some("0"));
    rig.run(&["percent", "set", "1", "--pool", "p"]).done();
    let control = "slotgate:{p}:control";
    rig.redis.run::<()>("DEL", &[control]);
    rig.redis.run::<()>("SET", &[control, "x"]);
    let ran = rig.run(&["percent", "set", "5", "--all-pools"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], "pool o: gray 5 %, was 0 %");
    assert!(
        lines[1].starts_with("pool p: Redis at ")
            && lines[1].ends_with("WRONGTYPE control is no hash"),
        "{lines:?}"
    );
    assert_eq!(lines[2], "pool q: gray 5 %, was 0 %");
    let ran = rig.run(&["percent", "clear", "--all-pools", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    let error = told["pools"][1]["error"].as_str().unwrap();
    assert!(error.contains("WRONGTYPE control"), "{error}");
    assert_eq!(
        told["pools"][2],
        json!({"pool": "q", "old": 5.0, "new": null})
    );
    for name in ["o", "q"] {
        assert_eq!(percent(&rig.redis, name), None);
    }
    // With no other there is nothing else to say.
    let told = rig.run(&["percent", "clear", "--pool", "p"]).failed(3);
    assert!(told.contains("WRONGTYPE control is no hash"), "{told}");
}
