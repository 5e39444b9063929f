//! `bucket`, `status`, `watch`, `explain`, `lease`.

use crate::pipe::account;
use crate::{Rig, run};
use serde_json::{Value, json};
use slotgate::ledger::commands::{AccountReport, Mode, SyncAccount};
use slotgate::ledger::commands::{Acquired, acquired};
use slotgate::ledger::keys::{session_digits, session_tag};
use slotgate::request::gray::{Bucketer, hash128};
use std::collections::BTreeMap;
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
fn every_state() -> Rig {
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
        json!({"id": "full", "state": "full", "used": 2, "max_concurrency": 2, "cooling_ms": 0})
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
            "next: saturated, so saturated.action: 429, or on without a slot\n\
            1 expired lease not cleared away yet: the next request does that first, and may find a slot\n"
        ),
        "{out}"
    );
    // As it says: the next one does find it.
    assert_eq!(
        rig.pipe
            .take(slotgate::request::lease::LeaseIds::new(9).mint()),
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
    let lease = rig.ids.mint();
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
    let lease = rig.ids.mint();
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
    let lease = rig.ids.mint();
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
            .encode_acquire(&mut out, rig.ids.mint(), Mode::Dry, random.u32(..));
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
