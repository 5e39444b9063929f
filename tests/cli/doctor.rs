//! `slotgate doctor`: what is wrong, the most harmful first. What workers answer is in `tests/e2e/doctor.rs`.

use crate::pipe::{Pipe, account};
use crate::{Ran, Rig};
use serde_json::{Value, json};
use slotgate::ledger::commands::AccountReport;
use support::Redis;

fn doctor(rig: &Rig, arguments: &[&str]) -> Ran {
    rig.run(&[&["doctor", "--wait", "0.2"], arguments].concat())
}

/// Each finding: `harm kind`, and its text.
fn found(rig: &Rig) -> Vec<(String, String)> {
    let ran = doctor(rig, &["--json"]);
    let said: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}", ran.err));
    let findings = said["findings"].as_array().unwrap();
    let wrong = findings
        .iter()
        .filter(|one| one["harm"] != "advice")
        .count();
    assert_eq!(
        (ran.code, &said["ok"]),
        (i32::from(wrong > 0), &json!(wrong == 0)),
        "{said}"
    );
    let word = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let told = |one: &Value| {
        (
            format!("{} {}", word(one, "harm"), word(one, "kind")),
            word(one, "text"),
        )
    };
    findings.iter().map(told).collect()
}

/// The texts of one kind.
fn of_kind(all: &[(String, String)], kind: &str) -> Vec<String> {
    let found = all.iter().filter(|(one, _)| one == kind);
    found.map(|(_, text)| text.clone()).collect()
}

#[test]
fn a_ledger_that_is_well_is_said_to_be() {
    let mut rig = Rig::new();
    rig.take("c");
    for name in ["hash", "zset"] {
        let setting = format!("{name}-max-listpack-entries");
        rig.redis.run::<()>("CONFIG", &["SET", &setting, "0"]);
    }
    rig.redis
        .run::<()>("CONFIG", &["SET", "maxmemory-policy", "noeviction"]);
    assert_eq!(
        of_kind(&found(&rig), "advice no_worker"),
        ["pool p: no worker answered within 0.2 s"]
    );
    let said = doctor(&rig, &[]).done();
    assert!(said.ends_with("nothing is wrong\n"), "{said}");
    assert!(
        said.contains("pool p: 3 accounts, 1 lease counted\n"),
        "{said}"
    );
    // It leaves nothing behind but the question, which ends by itself.
    let keys: Vec<String> = rig.redis.run("KEYS", &["*answer*"]);
    assert!(keys.is_empty(), "{keys:?}");
    assert!(
        rig.run(&["doctor", "--wait", "0"])
            .failed(2)
            .contains("--wait")
    );
}

/// What workers answer when they are there is in `tests/e2e/doctor.rs`.
#[test]
fn fewer_workers_than_there_are_is_told() {
    let rig = Rig::new();
    let ran = doctor(&rig, &["--workers", "2"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.out
            .contains("Requests fall back, are refused or wait:\n")
            && ran.out.contains("  0 of 2 workers answered within 0.2 s\n"),
        "{}",
        ran.out
    );
    for wrong in ["0", "1001", "-1", "many"] {
        let said = doctor(&rig, &["--workers", wrong]).failed(2);
        assert!(
            said.contains("--workers") || said.contains("'-1'"),
            "{said}"
        );
    }
}

#[test]
fn every_key_that_does_not_fit_is_named() {
    let mut rig = Rig::new();
    let lease = rig.take("c");
    let tenants = "0123456789abcdef";
    for (command, key, rest) in [
        ("HINCRBY", "used", vec!["a", "1"]),
        ("HSET", "used", vec!["ghost", "2"]),
        ("HSET", "accounts", vec!["odd", "not a record"]),
        ("HSET", "owner", vec!["lost", "b"]),
        ("ZADD", "leases", vec!["1", "alone"]),
        ("ZREM", "free", vec!["b"]),
        ("ZADD", "free", vec!["5", "nobody"]),
        ("HSET", "tenants", vec![tenants, "4"]),
    ] {
        let key = rig.ledger().key(key);
        let words: Vec<&str> = std::iter::once(key.as_str()).chain(rest).collect();
        rig.redis.run::<i64>(command, &words);
    }
    let ran = doctor(&rig, &["--json"]);
    assert_eq!(ran.code, 1);
    let all = of_kind(&found(&rig), "limits drift");
    assert_eq!(all.len(), 6, "five, and how many more: {all:?}");
    assert!(all[5].contains("more such entries"), "{all:?}");
    // All of them, as the script tells them.
    let said = rig.pipe.audit();
    for expected in [
        "used a: 1, not 0",
        "used ghost: 2, not 0",
        "used b: nothing, not 1",
        "accounts odd: not a record, not an account with a record",
        "owner lost: b, not a lease",
        "leases alone: a lease, not no owner",
        "free b: not free, not free",
        "free nobody: free, not no account",
        &format!("tenants {tenants}: 4, not 0"),
    ] {
        assert!(
            said.iter().any(|one| one == expected),
            "{expected}: {said:?}"
        );
    }
    assert!(said.iter().all(|one| !one.contains(&lease)), "{said:?}");
    // What the recount mends is no longer found.
    while !matches!(
        rig.pipe.reconcile("1.x", 60_000, 100),
        Ok(slotgate::ledger::commands::Reconciled::Done(_))
    ) {}
    assert_eq!(of_kind(&found(&rig), "limits drift"), [""; 0]);
}

/// Bytes that are no text hide nothing, and an account that nobody would let go is told.
#[test]
fn whatever_bytes_stand_there_the_rest_is_told() {
    let mut rig = Rig::new();
    let ledger = rig.ledger();
    let key = |name: &str| ledger.key(name);
    let mut connection = rig.redis.connect();
    let huge = [&b"\xff\x1b["[..], &[b'x'; 100_000]].concat();
    let mut put = |command: &str, key: &str, rest: &[&[u8]]| {
        let mut command = redis::cmd(command);
        command.arg(key);
        rest.iter().for_each(|word| {
            command.arg(*word);
        });
        let _: redis::Value = command.query(&mut connection).unwrap();
    };
    put("HSET", &key("owner"), &[b"\xff", &huge]);
    put("HSET", &key("used"), &[b"ghost\xfe", &huge]);
    put("HSET", &key("accounts"), &[b"a", b"1 300000 0 4"]);
    put("ZREM", &key("free"), &[b"a"]);
    put("ZADD", &key("queue"), &[b"0", b"w:-:-:1:nobody"]);
    let all = found(&rig);
    assert!(of_kind(&all, "limits drift").len() >= 4, "{all:?}");
    let said = rig.pipe.audit();
    assert!(
        said.iter().all(|line| line.len() < 300 && line.is_ascii()),
        "{said:?}"
    );
    for expected in [
        "accounts a: cooling, not a cooldown",
        "queue w:-:-:1:nobody: who waits, not no owner",
    ] {
        assert!(
            said.iter().any(|line| line == expected),
            "{expected}: {said:?}"
        );
    }
}

#[test]
fn a_pool_whose_key_is_of_another_type_hides_no_other() {
    let rig = Rig::new();
    let mut other = Pipe::open(&rig.redis, "q");
    other.sync(1, 1, Some(&[account("z", 1)])).unwrap();
    let key = rig.ledger().key("used");
    rig.redis.run::<()>("DEL", &[&key]);
    rig.redis.run::<()>("SET", &[&key, "x"]);
    let all = found(&rig);
    assert!(
        of_kind(&all, "limits drift")[0].starts_with("pool p: used is"),
        "{all:?}"
    );
    assert_eq!(of_kind(&all, "limits garbage").len(), 1, "{all:?}");
    let said = doctor(&rig, &[]).out;
    assert!(
        said.contains("pool q: 1 account, 0 leases counted"),
        "{said}"
    );
}

#[test]
fn accounts_that_take_nothing_are_told() {
    let mut rig = Rig::new();
    for id in ["a", "b"] {
        rig.pipe.cooldown(id, 60_000).unwrap();
    }
    assert_eq!(of_kind(&found(&rig), "requests no_account"), [""; 0]);
    rig.pipe
        .heard("c", AccountReport::Disable(0, 401.into()))
        .unwrap();
    let all = found(&rig);
    let disabled = of_kind(&all, "requests disabled");
    assert_eq!(
        disabled,
        ["pool p: c is disabled after 401, until an operator ends it"]
    );
    assert_eq!(of_kind(&all, "requests no_account").len(), 1, "{all:?}");
    rig.run(&["cooldown", "clear", "c"]).done();
    assert_eq!(of_kind(&found(&rig), "requests disabled"), [""; 0]);
    rig.redis
        .run::<()>("HSET", &[&rig.ledger().key("control"), "percent", "many"]);
    assert_eq!(of_kind(&found(&rig), "requests percent").len(), 1);
}

#[test]
fn redis_that_throws_away_or_refuses_is_told() {
    let rig = Rig::new();
    let set = |name: &str, value: &str| rig.redis.run::<()>("CONFIG", &["SET", name, value]);
    set("maxmemory-policy", "allkeys-lru");
    assert_eq!(
        of_kind(&found(&rig), "advice eviction").len(),
        1,
        "without maxmemory"
    );
    set("maxmemory", "1gb");
    assert_eq!(of_kind(&found(&rig), "limits eviction").len(), 1);
    set("maxmemory-policy", "volatile-ttl");
    assert_eq!(of_kind(&found(&rig), "advice eviction").len(), 1);
    set("maxmemory-policy", "noeviction");
    let used: String = rig.redis.run("INFO", &["memory"]);
    let used = used
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .unwrap()
        .to_owned();
    set("maxmemory", &used);
    assert_eq!(of_kind(&found(&rig), "requests memory").len(), 1);
    set("maxmemory", "0");
    // A right that is missing: to this program, and to others within the hour.
    rig.redis.run::<()>(
        "ACL",
        &[
            "SETUSER", "poor", "on", ">x", "~*", "+@all", "-hset", "-info", "-config",
        ],
    );
    let mut poor = rig.redis.connect();
    let _: () = redis::cmd("AUTH")
        .arg("poor")
        .arg("x")
        .query(&mut poor)
        .unwrap();
    for _ in 0..3 {
        let refused = redis::cmd("HSET")
            .arg("k")
            .arg("f")
            .arg("v")
            .query::<()>(&mut poor);
        assert!(refused.is_err());
    }
    let denied = of_kind(&found(&rig), "requests denied");
    assert_eq!(
        denied,
        ["Redis refused user poor the command hset, 3 times within the last hour"]
    );
    // What only keeps changes from being noted costs no request.
    rig.redis.run::<()>("ACL", &["LOG", "RESET"]);
    rig.redis.run::<()>("ACL", &["SETUSER", "poor", "-lpush"]);
    let refused = redis::cmd("LPUSH").arg("k").arg("v").query::<()>(&mut poor);
    assert!(refused.is_err());
    assert_eq!(of_kind(&found(&rig), "requests denied"), [""; 0]);
    assert_eq!(of_kind(&found(&rig), "advice denied").len(), 1);
    let address = format!("redis://poor:x@{}", rig.redis.addr());
    let ran = doctor(&rig, &["--redis", &address]);
    // What this program itself was refused is no fault, neither now nor at the next look.
    assert_eq!(of_kind(&found(&rig), "requests denied"), [""; 0]);
    assert!(
        ran.out
            .contains("not looked at: Redis' own figures (INFO): "),
        "{}{}",
        ran.out,
        ran.err
    );
    assert!(
        ran.out
            .contains("not looked at: Redis' settings (CONFIG GET): "),
        "{}",
        ran.out
    );
}

#[test]
fn a_replica_and_an_empty_redis_are_told() {
    let rig = Rig::new();
    let port = rig.redis.port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
    let there = || -> bool { replica.run::<u32>("EXISTS", &["slotgate:{p}:accounts"]) == 1 };
    support::eventually(support::PATIENCE, there);
    let ran = doctor(&rig, &["--redis", &replica.addr().to_string()]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.out.contains("this Redis is a replica"), "{}", ran.out);
    assert!(
        ran.out.contains("not looked at: the workers of pool p"),
        "{}",
        ran.out
    );
    rig.redis.run::<()>("FLUSHALL", &[]);
    assert_eq!(of_kind(&found(&rig), "requests no_pool").len(), 1);
    assert!(
        doctor(&rig, &["--pool", "x"])
            .failed(1)
            .contains("no pool x")
    );
    let gone = doctor(&rig, &["--redis", "127.0.0.1:1"]).failed(3);
    assert!(gone.contains("nothing listens"), "{gone}");
}
