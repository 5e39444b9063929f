//! `bucket`, `status`, `watch`, `lease`.

use crate::pipe::account;
use crate::{Rig, run};
use serde_json::{Value, json};
use slotgate::ledger::commands::SyncAccount;
use slotgate::request::gray::Bucketer;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

#[test]
fn bucket_says_in_or_out_and_why() {
    assert_eq!(
        run(&["bucket", "--session", "alice", "--percent", "50"]).done(),
        "in: session \"alice\" with no salt has bucket 605 of 10000, and 50 % lets those below 5000 in\n"
    );
    assert_eq!(
        run(&["bucket", "--session", "alice", "--percent", "6.05"]).done(),
        "out: session \"alice\" with no salt has bucket 605 of 10000, and 6.05 % lets those below 605 in\n"
    );
    assert!(
        run(&["bucket", "--session", "alice", "--percent", "6.06"])
            .done()
            .starts_with("in:")
    );
    for session in ["", "x", "日本", "a b\n"] {
        let out = run(&[
            "bucket",
            "--session",
            session,
            "--percent",
            "30",
            "--salt",
            "pepper",
            "--json",
        ]);
        let answer: Value = serde_json::from_str(&out.done()).unwrap();
        let bucket = Bucketer::new("pepper").bucket(session.as_bytes());
        if session.is_empty() {
            assert_eq!(
                (&answer["in"], &answer["bucket"]),
                (&Value::Null, &Value::Null)
            );
        } else {
            assert_eq!(answer["bucket"], bucket);
            assert_eq!(answer["in"], bucket < 3_000);
        }
        assert_eq!(answer["percent"], 30.0);
    }
}

#[test]
fn bucket_reads_a_configuration() {
    let full = "tests/config/good/full.json";
    let answer: Value = serde_json::from_str(
        &run(&["bucket", "--session", "bob", "--config", full, "--json"]).done(),
    )
    .unwrap();
    assert_eq!(answer["bucket"], Bucketer::new("pepper").bucket(b"bob"));
    assert_eq!(
        (&answer["percent"], &answer["shadow"]),
        (&json!(33.33), &json!(true))
    );
    // What is given counts more.
    let out = run(&[
        "bucket",
        "--session",
        "bob",
        "--config",
        full,
        "--percent",
        "100",
        "--salt",
        "",
    ])
    .done();
    assert!(
        out.starts_with("in, but only as a shadow: no slot is taken: session \"bob\" with no salt"),
        "{out}"
    );
    let bad = "tests/config/bad/percent.json";
    assert_eq!(
        run(&["bucket", "--session", "bob", "--config", bad]).failed(1),
        format!("error: {bad} has 1 error\n  try: slotgate check {bad}\n")
    );
    let bridge = "tests/config/good/bridge.json";
    assert!(
        run(&["bucket", "--session", "bob", "--config", bridge])
            .failed(1)
            .starts_with(&format!("error: {bridge} has no scheduler\n"))
    );
}

/// Every state an account can be in.
pub fn every_state() -> Rig {
    let mut rig = Rig::empty();
    let off = SyncAccount {
        enabled: false,
        ..account("off", 4)
    };
    let worse = SyncAccount {
        base: 100_000,
        ..account("worse", 4)
    };
    let first = [
        account("free", 4),
        worse,
        account("gone", 4),
        account("full", 2),
        off,
        account("cold", 4),
        account("dry", 4),
    ];
    rig.pipe.sync(7, 1, Some(&first)).unwrap();
    for account in ["gone", "full", "full", "worse", "dry", "free"] {
        rig.take(account);
    }
    let rest: Vec<SyncAccount> = first
        .into_iter()
        .filter(|account| account.id != "gone")
        .collect();
    rig.pipe.sync(8, 2, Some(&rest)).unwrap();
    rig.pipe.cooldown("cold", 59_000).unwrap();
    rig.pipe.control("drain", "dry", None).unwrap();
    rig
}

#[test]
fn status_shows_every_state() {
    let rig = every_state();
    let out = rig.run(&["status"]).done();
    assert_eq!(
        rig.masked(&out),
        "\
pool p  6/26 slots  6 leases live  revision 8  gray as configured
account  used                        state
cold     0/4   ····················  cooling, TIME left
dry      1/4   █████···············  drained
free     1/4   █████···············  free
full     2/2   ████████████████████  full
gone     1/4   █████···············  removed
off      0/4   ····················  disabled
worse    1/4   █████···············  free
"
    );
    rig.run(&["percent", "set", "12.5"]).done();
    let out = rig.run(&["status", "--rows", "2", "--pool", "p"]).done();
    assert_eq!(
        rig.masked(&out),
        "\
pool p  6/26 slots  6 leases live  revision 8  gray 12.5 % by override
account  used                        state
full     2/2   ████████████████████  full
dry      1/4   █████···············  drained
… and 5 more
"
    );
}

#[test]
fn status_as_json() {
    let rig = every_state();
    let answer = rig.json(&["status"]);
    let pool = &answer["pools"][0];
    assert_eq!(
        (
            &pool["pool"],
            &pool["revision"],
            &pool["percent_override"],
            &pool["leases"]
        ),
        (
            &json!("p"),
            &json!(8),
            &Value::Null,
            &json!({"live": 6, "expired": 0})
        )
    );
    let now = rig.ledger().state().now_ms;
    assert!((now - pool["redis_time_ms"].as_f64().unwrap()).abs() < 60_000.0);
    let accounts = pool["accounts"].as_array().unwrap();
    let states: Vec<(&str, &str)> = accounts
        .iter()
        .map(|account| {
            (
                account["id"].as_str().unwrap(),
                account["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("cold", "cooling"),
            ("dry", "drained"),
            ("free", "free"),
            ("full", "full"),
            ("gone", "removed"),
            ("off", "disabled"),
            ("worse", "free")
        ]
    );
    assert!((1..=59_000).contains(&accounts[0]["cooling_ms"].as_u64().unwrap()));
    assert_eq!(
        accounts[3],
        json!({"id": "full", "state": "full", "used": 2, "max_concurrency": 2, "cooling_ms": 0,
            "out_of_use": null, "pace": null, "adapts_up_to": null, "set": null})
    );
}

#[test]
fn a_pool_of_many_pages_is_shown_whole() {
    let mut rig = Rig::empty();
    let ids: Vec<String> = (0..2_500).map(|n| format!("acct-{n:04}")).collect();
    let accounts: Vec<SyncAccount> = ids.iter().map(|id| account(id, 1)).collect();
    rig.pipe.sync(1, 1, Some(&accounts)).unwrap();
    let answer = rig.json(&["status"]);
    let seen: Vec<&str> = answer["pools"][0]["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|account| account["id"].as_str().unwrap())
        .collect();
    assert_eq!(seen, ids);
    // All are alike, so each is as likely.
    let explained = rig.json(&["explain"]);
    for account in explained["accounts"].as_array().unwrap() {
        assert!(
            (account["chance"].as_f64().unwrap() * 2_500.0 - 1.0).abs() < 1e-6,
            "{account}"
        );
    }
}

#[test]
fn expired_leases_are_told_apart() {
    let mut rig = Rig::new();
    for account in ["b", "b", "c", "c", "c"] {
        rig.take(account);
    }
    // Last: any other acquire might clear it away.
    rig.pipe.ttl_ms = 1;
    rig.take("a");
    std::thread::sleep(Duration::from_millis(5));
    let out = rig.run(&["status"]).done();
    assert!(
        out.starts_with("pool p  6/6 slots  5 leases live, 1 expired  revision 7"),
        "{out}"
    );
    let out = rig.run(&["explain"]).done();
    assert!(
        out.ends_with(
            "next: saturated, so saturated.action: 429, on without a slot, or it waits\n\
            1 expired lease not cleared away yet: the next request does that first, and may find a slot\n"
        ),
        "{out}"
    );
    // As it says: the next one does find it.
    assert_eq!(
        rig.pipe
            .take(slotgate::request::lease::LeaseIds::new(9).mint(None)),
        "a"
    );
}

#[test]
fn watch_looks_again_and_again() {
    let mut rig = Rig::new();
    rig.take("c");
    let out = rig
        .run(&["watch", "--count", "2", "--interval", "0.1"])
        .done();
    let look = "\
CLOCK UTC  REDIS
pool p  1/6 slots  1 lease live  revision 7  gray as configured
account  used                        state
a        0/1   ····················  free
b        0/2   ····················  free
c        1/3   ███████·············  free

";
    assert_eq!(rig.masked(&out), look.repeat(2));
    // One document a line.
    let out = rig
        .run(&["watch", "--count", "3", "--interval", "0.1", "--json"])
        .done();
    let uses: Vec<Value> = out
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["pools"][0]["accounts"][2]["used"].clone()
        })
        .collect();
    assert_eq!(uses, [1, 1, 1]);
}

/// A program that would go on for ever, were the test to fail.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn watch_outlives_redis_and_lost_scripts_and_ends_with_its_reader() {
    let mut rig = Rig::new();
    let mut command = rig.command(&["watch", "--interval", "0.1"]);
    let mut child = Watching(
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let Watching(process) = &mut child;
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut errors = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut used = |wanted: &str| {
        let line = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.starts_with("c ") && line.contains(wanted));
        assert!(line.is_some(), "it ended before {wanted}");
    };
    used("0/3");
    rig.redis.run::<()>("SCRIPT", &["FLUSH"]);
    for _ in 0..5 {
        used("0/3");
    }
    rig.redis.kill();
    let error = errors.next().unwrap().unwrap();
    assert!(
        error.starts_with("error: ")
            && error.contains(&rig.redis.addr().to_string())
            && !error.contains("NOSCRIPT"),
        "{error}"
    );
    rig.redis.start_again();
    rig.pipe = crate::pipe::Pipe::open(&rig.redis, "p");
    rig.pipe.sync(1, 1, Some(&[account("c", 3)])).unwrap();
    rig.take("c");
    used("1/3");
    drop(lines);
    let ended = support::poll(support::PATIENCE, || process.try_wait().unwrap());
    assert_eq!(ended.expect("it ends").code(), Some(0));
}

#[test]
fn a_lease_is_looked_up() {
    let mut rig = Rig::new();
    rig.pipe.ttl_ms = 50_000;
    let id = rig.take("b");
    let out = rig.run(&["lease", &id]).done();
    assert_eq!(
        rig.masked(&out),
        format!(
            "lease {id} holds a slot of b of pool p; it expires in TIME unless it is renewed\n"
        )
    );
    let answer = rig.json(&["lease", &id, "--pool", "p"]);
    assert_eq!(
        (&answer["account"], &answer["pool"]),
        (&json!("b"), &json!("p"))
    );
    assert_eq!(
        answer["expires_ms"].as_f64(),
        Some(rig.ledger().state().leases[&id])
    );
    assert!((1..=50_000).contains(&answer["left_ms"].as_u64().unwrap()));
    // With the mark of a recount, too.
    let owner = rig.ledger().key("owner");
    rig.redis.run::<()>("HSET", &[&owner, &id, "b:7"]);
    assert_eq!(rig.json(&["lease", &id])["account"], "b");
    rig.pipe.ttl_ms = 1;
    let over = rig.take("a");
    std::thread::sleep(Duration::from_millis(5));
    let out = rig.run(&["lease", &over]).done();
    assert!(
        out.ends_with("; it has expired and is cleared away next\n"),
        "{out}"
    );
    assert_eq!(
        rig.run(&["lease", "nope"]).failed(1),
        "error: no lease nope in pool p\n  \
        try: its request may be over, or it was never granted: Envoy's log at wasm:debug tells\n"
    );
    assert_eq!(
        rig.run(&["lease", "no pe"]).failed(2),
        "error: lease \"no pe\" is not [A-Za-z0-9._-]{1,64}\n"
    );
}
