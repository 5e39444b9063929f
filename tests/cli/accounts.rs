//! `slotgate account`: accounts that change while everything runs.

use crate::{Ran, Rig, finish};
use serde_json::{Value, json};
use slotgate::ledger::commands::Synced;
use std::time::Instant;

/// A pool whose accounts are the ledger's: a, b and c.
fn ledgers() -> Rig {
    let mut rig = Rig::empty();
    rig.pipe.accounts_are_ledgers = true;
    let accounts = [("a", 1), ("b", 2), ("c", 3)].map(|(id, max)| crate::account(id, max));
    assert_eq!(rig.pipe.sync(7, 1, Some(&accounts)), Ok(Synced::Replaced));
    rig
}

fn from(rig: &Rig, verb: &str, file: &str, json: bool) -> Ran {
    let mut arguments = vec!["account", verb, "--from", "-"];
    arguments.extend(json.then_some("--json"));
    finish(rig.command(&arguments), file)
}

#[test]
fn what_a_configuration_says_is_overridden_and_shown_as_such_until_reset() {
    let rig = Rig::new();
    assert_eq!(
        rig.run(&[
            "account",
            "set",
            "c",
            "--max-concurrency",
            "30",
            "--disable"
        ])
        .done(),
        "c of pool p: max_concurrency 3 -> 30, enabled -> disabled\n"
    );
    assert_eq!(
        rig.run(&["account", "set", "c", "--enable", "--pace", "50/1m/10"])
            .done(),
        "c of pool p: disabled -> enabled, pace none set -> 50/60000/10\n"
    );
    assert_eq!(
        rig.run(&["account", "set", "c", "--enable"]).done(),
        "c of pool p was so already\n"
    );
    assert_eq!(
        rig.json(&["account", "set", "b", "--priority", "10"]),
        json!({"action": "account_set", "pool": "p", "accounts": [{
            "account": "b", "outcome": "changed", "changed": true,
            "before": {"max_concurrency": 2, "priority": null, "enabled": true, "pace": null},
            "now": {"max_concurrency": 2, "priority": 10, "enabled": true, "pace": null},
        }]})
    );
    let listed = rig.run(&["account", "list"]).done();
    assert_eq!(
        listed,
        "pool p  3 accounts  accounts from the configuration  revision 7\n\
         account  used  state  pace         set by an operator\n\
         a        0/1   free   -            -\n\
         b        0/2   free   -            priority 10\n\
         c        0/30  free   50/60000/10  max_concurrency 30, enabled, pace 50/60000/10\n"
    );
    let status = rig.json(&["status"]);
    let pool = &status["pools"][0];
    assert_eq!(pool["accounts_from"], "config");
    assert_eq!(pool["accounts"][2]["set"]["max_concurrency"], 30);
    assert_eq!(pool["accounts"][0]["set"], json!(null));
    let shown = rig.run(&["status"]).done();
    assert!(shown.contains("free, set by an operator"), "{shown}");
    assert_eq!(
        rig.run(&["account", "reset", "c", "b"]).done(),
        "c of pool p is reset: max_concurrency 30 -> 3, pace 50/60000/10 -> none set\n\
         b of pool p is reset: priority 10 -> none set\n"
    );
    for verb in ["add", "remove"] {
        let mut arguments = vec!["account", verb, "a"];
        arguments.extend((verb == "add").then_some("--max-concurrency=1"));
        let error = rig.run(&arguments).failed(1);
        assert!(
            error.contains("takes its accounts from its configuration"),
            "{error}"
        );
        assert!(error.contains("try: slotgate account set"), "{error}");
    }
    rig.ledger().assert_consistent();
}

#[test]
fn accounts_are_put_in_and_taken_away() {
    let mut rig = ledgers();
    assert_eq!(
        rig.run(&["account", "add", "d", "--max-concurrency", "4"])
            .done(),
        "d of pool p is added, with 4 slots\n"
    );
    let held = rig.take("d");
    assert_eq!(
        rig.run(&["account", "remove", "d", "zz"]).done(),
        "d of pool p is removed: it takes no new leases, and those that live finish\n\
         zz of pool p was not there\n"
    );
    assert_eq!(rig.ledger().used("d"), 1);
    let listed = rig.run(&["account", "list"]).done();
    assert!(listed.contains("accounts from the ledger"), "{listed}");
    assert!(listed.contains("removed"), "{listed}");
    assert!(!held.is_empty());
    rig.ledger().assert_consistent();
}

#[test]
fn ten_thousand_come_from_a_file_and_redis_serves_others_meanwhile() {
    let rig = ledgers();
    let accounts: Vec<Value> = (0..10_000)
        .map(
            |n| json!({"id": format!("key-{n}"), "max_concurrency": 1 + n % 7, "priority": n % 11}),
        )
        .collect();
    let file = json!({ "accounts": accounts }).to_string();
    rig.redis
        .run::<()>("CONFIG", &["SET", "slowlog-log-slower-than", "0"]);
    rig.redis
        .run::<()>("CONFIG", &["SET", "slowlog-max-len", "10000"]);
    rig.redis.run::<()>("SLOWLOG", &["RESET"]);
    let begin = Instant::now();
    assert_eq!(
        from(&rig, "add", &file, false).done(),
        "pool p: 10000 added\n"
    );
    let took = begin.elapsed();
    let slowest: Vec<(u64, u64, u64)> = {
        let log: Vec<(u64, u64, u64, Vec<String>, String, String)> =
            rig.redis.run("SLOWLOG", &["GET", "10000"]);
        log.into_iter()
            .map(|(id, at, us, ..)| (us, id, at))
            .collect()
    };
    let most_us = slowest.iter().max().unwrap().0;
    println!(
        "10,000 accounts in {took:.1?}; the longest that Redis served nobody else: {most_us} us"
    );
    assert_eq!(rig.ledger().state().accounts.len(), 10_003);
    assert_eq!(
        from(&rig, "add", &file, false).done(),
        "pool p: 10000 same\n"
    );
    rig.ledger().assert_consistent();
}

#[test]
fn one_bad_line_among_a_thousand_changes_nothing_and_is_named() {
    let rig = ledgers();
    let before = rig.ledger().state().accounts;
    let lines = |bad: &str| {
        let mut file = "accounts:\n".to_owned();
        for n in 0..1_000 {
            let line = if n == 500 {
                bad.to_owned()
            } else {
                format!("{{id: key-{n}, max_concurrency: 2}}")
            };
            file.push_str(&format!("- {line}\n"));
        }
        file
    };
    for (bad, problem) in [
        (
            "{id: x, max_concurrency: 0}",
            "accounts[500].max_concurrency: \"0\" is not a whole number in 1..100000",
        ),
        (
            "{id: x y, max_concurrency: 1}",
            "accounts[500].id: \"x y\" is not [A-Za-z0-9._-]{1,64}",
        ),
        ("{max_concurrency: 1}", "accounts[500]: has no id"),
        (
            "{id: key-7, max_concurrency: 1}",
            "accounts[500]: \"key-7\" is in line 9 already",
        ),
        (
            "{id: x, max_concurrency: 1, max: 2}",
            "accounts[500].max: is no field of an account: id, max_concurrency, priority, enabled, pace",
        ),
        (
            "{id: x, max_concurrency: 1, enabled: maybe}",
            "accounts[500].enabled: \"maybe\" is neither true nor false",
        ),
        (
            "{id: x, max_concurrency: 1, pace: {requests: 5}}",
            "accounts[500].pace: needs requests and per_ms",
        ),
        (
            "{id: x, max_concurrency: 1, pace: {requests: 5, per_ms: 1, burst: 6}}",
            "accounts[500].pace: a burst of 6 is more than the 5 requests",
        ),
        (
            "{id: x, max_concurrency: 1, pace: 5/0s}",
            "accounts[500].pace: 0 ms is not in 1..=86400000 ms",
        ),
        ("x", "accounts[500]: a single value, not an object"),
    ] {
        let error = from(&rig, "add", &lines(bad), false).failed(1);
        let problem = problem.replace("1..100000", "1..=100000");
        assert!(error.contains("standard input:502:"), "{error}");
        assert!(error.contains(&problem), "{error}\n{problem}");
        assert!(
            error.contains("error: standard input has 1 mistake; nothing was changed"),
            "{error}"
        );
    }
    // What only the pool knows is found before anything is changed, too.
    let error = from(
        &rig,
        "add",
        &lines("{id: x, max_concurrency: 1, priority: 11}"),
        false,
    )
    .failed(1);
    assert!(
        error.contains("x priority: not in 0..10, the range of this pool"),
        "{error}"
    );
    for (file, problem) in [
        ("", "has no accounts"),
        ("accounts: []", "has no accounts"),
        ("accounts: 5", "accounts: a single value, not a list"),
        (
            "account: []",
            "\"account\" is no field here; it is `accounts`",
        ),
        ("accounts: [", "standard input:2:1: not YAML"),
    ] {
        let error = from(&rig, "add", file, false).failed(1);
        assert!(error.contains(problem), "{file}: {error}");
    }
    assert_eq!(rig.ledger().state().accounts, before);
}

#[test]
fn bad_arguments_are_told_apart() {
    let rig = ledgers();
    for (arguments, code, problem) in [
        (vec!["add", "d"], 2, "a new account needs --max-concurrency"),
        (vec!["set", "a"], 2, "nothing to set"),
        (
            vec!["add", "d", "--max-concurrency", "0"],
            2,
            "--max-concurrency \"0\" is not a whole number in 1..=100000",
        ),
        (
            vec!["add", "d", "--max-concurrency", "-1"],
            2,
            "--max-concurrency \"-1\"",
        ),
        (vec!["set", "a", "--priority", "x"], 2, "--priority \"x\""),
        (
            vec!["set", "a", "--priority", "11"],
            1,
            "not in 0..10, the range of this pool",
        ),
        (
            vec!["set", "a", "--pace", "5"],
            2,
            "--pace \"5\" is not requests/time",
        ),
        (vec!["set", "a", "--pace", "5/1w"], 2, "--pace \"5/1w\""),
        (vec!["set", "a", "--pace", "5/1s/6"], 2, "a burst of 6"),
        (
            vec!["set", "a", "--enable", "--disable"],
            2,
            "cannot be used with",
        ),
        (vec!["set", "a", "--from", "x"], 2, "cannot be used with"),
        (vec!["set", "zz", "--enable"], 1, "pool p has no account zz"),
        (vec!["set", "a b", "--enable"], 2, "a b"),
        (
            vec!["set", "a", "--enable", "--pool", "nope"],
            1,
            "there is no pool nope",
        ),
        (vec!["remove"], 2, "required"),
        (vec!["add", "--from", "/nowhere"], 2, "can't be read"),
    ] {
        let mut all = vec!["account"];
        all.extend(arguments.iter().copied());
        let error = rig.run(&all).failed(code);
        assert!(error.contains(problem), "{arguments:?}: {error}");
    }
}
