//! Redis away, slow, or of another mind.

use crate::pipe::{Pipe, account};
use crate::{Rig, finish, program, run};
use serde_json::Value;
use std::time::{Duration, Instant};
use support::{PATIENCE, Port, Redis, eventually};

const SECRET: &str = "5ecret";

#[test]
fn nothing_listens() {
    let port = Port::free();
    let addr = port.addr().to_string();
    for command in [
        &["status"][..],
        &["explain"],
        &["drain", "a"],
        &["percent", "set", "1"],
        &["lease", "x"],
    ] {
        assert_eq!(
            run(&[command, &["--redis", &addr]].concat()).failed(3),
            format!(
                "error: nothing listens at {addr}\n  \
                try: is Redis up? Is it --redis URL, or the variable SLOTGATE_REDIS?\n"
            )
        );
    }
    let told = run(&["status", "--json", "--redis", &addr]).failed(3);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["error"]["kind"], "unreachable");
}

#[test]
fn no_such_host_and_no_such_url() {
    let told = run(&["status", "--redis", "redis://no-such-host.invalid:6379"]).failed(3);
    assert!(
        told.starts_with("error: Redis at no-such-host.invalid:6379 can't be reached: "),
        "{told}"
    );
    for url in [
        format!("http://:{SECRET}@x"),
        format!("redis://:{SECRET}@x:y"),
        format!("redis://:{SECRET}@x/db"),
    ] {
        assert_eq!(
            run(&["status", "--redis", &url]).failed(2),
            "error: --redis (or SLOTGATE_REDIS) is not a URL of Redis\n  \
            try: redis://host:6379, redis://user@host:6379/1 or host:6379\n"
        );
    }
    let told = run(&["status", "--redis", "rediss://x"]).failed(2);
    assert!(
        told.starts_with("error: --redis: TLS is not built into this program\n  try: "),
        "{told}"
    );
    let told = run(&["status", "--redis", "redis://app@127.0.0.1:1"]).failed(2);
    assert_eq!(
        told,
        "error: --redis names a user, but there is no password\n  \
        try: put it into the variable SLOTGATE_REDIS_PASSWORD\n"
    );
}

#[test]
fn redis_stands_still() {
    let rig = Rig::new();
    rig.redis.sigstop();
    let begin = Instant::now();
    let told = rig.run(&["status"]).failed(3);
    rig.redis.sigcont();
    let addr = rig.redis.addr();
    assert!(
        told.starts_with(&format!(
            "error: Redis at {addr} did not answer within 5 s\n  try: "
        )),
        "{told}"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_password() {
    let redis = Redis::start_with(&["--requirepass", SECRET]);
    let addr = redis.addr();
    let login = "  try: the user in --redis redis://user@host, the password in the variable SLOTGATE_REDIS_PASSWORD\n";
    let told = run(&["status", "--redis", &addr.to_string()]).failed(3);
    assert_eq!(
        told,
        format!("error: Redis at {addr} refused: NOAUTH Authentication required.\n{login}")
    );
    let no_pool = format!("error: there is no pool under the prefix slotgate at {addr}\n");
    let with = |variable: &str, password: &str, arguments: &[&str]| {
        let mut command = program();
        command
            .env(variable, password)
            .args(arguments)
            .args(["--redis", &addr.to_string()]);
        finish(command, "")
    };
    let wrong = with("SLOTGATE_REDIS_PASSWORD", "5ecret-wrong", &["status"]).failed(3);
    assert_eq!(
        wrong,
        format!(
            "error: Redis at {addr} refused: WRONGPASS invalid username-password pair or user is disabled.\n{login}"
        )
    );
    assert!(
        with("SLOTGATE_REDIS_PASSWORD", SECRET, &["status"])
            .failed(1)
            .starts_with(&no_pool)
    );
    assert!(
        with(
            "ELSEWHERE",
            SECRET,
            &["status", "--password-env", "ELSEWHERE"]
        )
        .failed(1)
        .starts_with(&no_pool)
    );
    let in_url = format!("redis://:{SECRET}@{addr}/");
    assert!(
        run(&["status", "--redis", &in_url])
            .failed(1)
            .starts_with(&no_pool)
    );
    // Wherever the password comes from, it is never shown.
    let mut shown = wrong;
    for arguments in [
        &["status"][..],
        &["--help"],
        &["status", "--help"],
        &["status", "--rows", "x"],
        &["drain", "a", "--json"],
    ] {
        let mut command = program();
        command
            .env("SLOTGATE_REDIS", &in_url)
            .env("SLOTGATE_REDIS_PASSWORD", SECRET)
            .args(arguments);
        let ran = finish(command, "");
        shown += &(ran.out + &ran.err);
    }
    assert!(
        shown.contains("SLOTGATE_REDIS") && !shown.contains(SECRET),
        "{shown}"
    );
}

/// What docs/ledger.md gives a worker is enough, as long as the pool is named.
#[test]
fn the_workers_acl() {
    let mut rig = Rig::new();
    let page = std::fs::read_to_string(support::root().join("docs/ledger.md")).unwrap();
    let (_, acl) = page.split_once("redis-cli ACL SETUSER ").unwrap();
    let (acl, _) = acl.split_once("```").unwrap();
    let acl = acl.replace(['\'', '\\'], "");
    let words: Vec<&str> = ["SETUSER"]
        .into_iter()
        .chain(acl.split_whitespace())
        .collect();
    rig.redis.run::<()>("ACL", &words);
    let addr = rig.redis.addr();
    let as_worker = |arguments: &[&str]| {
        let mut command = program();
        command
            .env("SLOTGATE_REDIS", format!("redis://slotgate@{addr}"))
            .env("SLOTGATE_REDIS_PASSWORD", "secret")
            .args(arguments);
        finish(command, "")
    };
    rig.redis.run::<()>("SCRIPT", &["FLUSH"]);
    let before = rig.dump();
    let told = as_worker(&["status"]).failed(3);
    assert!(
        told.starts_with(&format!("error: Redis at {addr} refused: NOPERM "))
            && told.contains("scan"),
        "{told}"
    );
    assert!(
        told.ends_with(
            "  try: a user who may do what the ACL in docs/ledger.md allows, and SCAN, unless --pool names the pool\n"
        ),
        "{told}"
    );
    assert!(
        as_worker(&["drain", "zz", "--pool", "p"])
            .failed(1)
            .starts_with("error: pool p has no account zz\n")
    );
    assert_eq!(rig.dump(), before);
    let lease = {
        rig.pipe = crate::pipe::Pipe::open(&rig.redis, "p");
        rig.take("a")
    };
    for command in [
        &["status"][..],
        &["explain", "--session", "s", "--scope", "x"],
        &["drain", "a"],
        &["explain"],
        &["undrain", "a"],
        &["percent", "set", "5"],
        &["percent", "clear"],
        &["cooldown", "clear", "a"],
        &["unbind", "--session", "s"],
        &["lease", &lease],
    ] {
        as_worker(&[command, &["--pool", "p"]].concat()).done();
    }
    // Another prefix is none of this user's business.
    let told = as_worker(&["status", "--pool", "p", "--prefix", "other"]).failed(3);
    assert!(told.contains(" refused: NOPERM "), "{told}");
}

#[test]
fn a_replica_may_only_be_looked_at() {
    let rig = Rig::new();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &rig.redis.port().to_string()]);
    let addr = replica.addr().to_string();
    let at = |arguments: &[&str]| run(&[arguments, &["--redis", &addr]].concat());
    eventually(PATIENCE, || at(&["status"]).code == 0);
    assert_eq!(
        rig.masked(&at(&["explain"]).done()),
        rig.masked(&rig.run(&["explain"]).done())
    );
    let before = rig.dump();
    let told = at(&["drain", "a"]).failed(3);
    assert!(
        told.contains(" refused: READONLY ")
            && told
                .ends_with("  try: the primary: this is a replica, which may only be looked at\n"),
        "{told}"
    );
    assert_eq!(rig.dump(), before);
}

#[test]
fn a_cluster_that_does_not_serve_the_pool() {
    let bus = Port::free();
    let bus_port = bus.number().to_string();
    let redis = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus_port]);
    let addr = redis.addr().to_string();
    let told = run(&["status", "--pool", "p", "--redis", &addr]).failed(3);
    assert!(
        told.starts_with(&format!("error: Redis at {addr} refused: CLUSTERDOWN "))
            && told.ends_with("  try: the same again in a moment\n"),
        "{told}"
    );
}

#[test]
fn what_is_not_the_ledgers() {
    let mut rig = Rig::new();
    rig.redis.run::<()>("DEL", &["slotgate:{p}:leases"]);
    rig.redis.run::<()>("SET", &["slotgate:{p}:leases", "x"]);
    for command in [&["status"][..], &["explain"], &["drain", "a"]] {
        let told = rig.run(command).failed(3);
        assert!(
            told.contains("pool p: ") && told.contains("WRONGTYPE leases is no sorted set"),
            "{told}"
        );
    }
    // Another pool is shown all the same, and served.
    let mut other = Pipe::open(&rig.redis, "other");
    other.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    let shown = rig.run(&["status"]);
    assert_eq!((shown.code, shown.err.as_str()), (1, ""));
    assert!(shown.out.contains("pool other  0/1 slots"), "{}", shown.out);
    assert!(shown.out.contains("WRONGTYPE leases"), "{}", shown.out);
    let shown = rig.run(&["status", "--json"]);
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert!(shown["pools"][0]["error"].is_null());
    let error = shown["pools"][1]["error"].as_str().unwrap();
    assert!(error.contains("WRONGTYPE leases"), "{error}");
    rig.run(&["drain", "a", "--pool", "other"]).done();
    let epoch = ["slotgate:{p}:accounts", "#epoch", "\u{1b}[31m"];
    rig.redis.run::<()>("DEL", &["slotgate:{p}:leases"]);
    rig.redis.run::<()>("HSET", &epoch);
    let told = rig.run(&["status", "--pool", "p"]).failed(3);
    assert!(
        told.contains("accounts #epoch: not a whole number"),
        "{told}"
    );
    rig.redis.run::<()>("DEL", &["slotgate:{p}:accounts"]);
    rig.redis.run::<()>("SET", &["slotgate:{p}:accounts", "x"]);
    let told = rig.run(&["status", "--pool", "p"]).failed(3);
    assert!(told.contains("WRONGTYPE accounts is no hash"), "{told}");
    rig.redis.run::<()>("FLUSHALL", &[]);
    rig.pipe.sync(1, 1, Some(&[account("a", 1)])).unwrap();
    rig.redis
        .run::<()>("HSET", &["slotgate:{p}:accounts", "a", "nonsense"]);
    rig.run(&["status"]).failed(3);
}

/// Words that are no answer to AUTH: the password is not blamed for them, nor repeated.
#[test]
fn a_login_that_is_refused_for_another_reason() {
    let with_password = |addr: &str, arguments: &[&str]| {
        let mut command = program();
        command
            .env("SLOTGATE_REDIS_PASSWORD", SECRET)
            .args(arguments)
            .args(["--redis", addr]);
        finish(command, "")
    };
    let redis = Redis::start_with(&["--maxclients", "1"]);
    let taken = redis.connect();
    let addr = redis.addr().to_string();
    let full = format!(
        "error: Redis at {addr} refused: ERR max number of clients reached\n  \
        try: fewer clients, or a higher maxclients of Redis\n"
    );
    assert_eq!(with_password(&addr, &["status"]).failed(3), full);
    assert_eq!(run(&["status", "--redis", &addr]).failed(3), full);
    drop(taken);

    let redis = Redis::start_with(&["--protected-mode", "yes"]);
    if !redis.is_valkey() {
        let elsewhere = elsewhere(redis.addr());
        for told in [
            with_password(&elsewhere, &["status"]).failed(3),
            run(&["status", "--redis", &elsewhere]).failed(3),
        ] {
            assert!(
                told.starts_with(&format!("error: Redis at {elsewhere} refused: DENIED "))
                    && told.contains("unning in protected mode because")
                    && told.ends_with(
                        "...\n  try: a password for Redis, or its settings protected-mode and bind\n"
                    ),
                "{told}"
            );
        }
    }

    // No password is wanted, no such database, and no AUTH at all.
    let redis = Redis::start_with(&["--databases", "1"]);
    let addr = redis.addr().to_string();
    let told = with_password(&addr, &["status"]).failed(3);
    assert!(
        told.contains(" refused: ERR AUTH <password> called without any password configured "),
        "{told}"
    );
    let told = run(&["status", "--redis", &format!("redis://{addr}/1")]).failed(3);
    assert_eq!(
        told,
        format!("error: Redis at {addr} refused: ERR DB index is out of range\n")
    );
    let redis = Redis::start_with(&["--rename-command", "AUTH", "\"\""]);
    let addr = redis.addr().to_string();
    for url in [addr.clone(), format!("redis://someone@{addr}")] {
        let told = with_password(&url, &["status"]).failed(3);
        assert_eq!(
            told,
            format!("error: Redis at {addr} refused: ERR unknown command 'AUTH'\n")
        );
    }
}

#[test]
fn a_redis_below_7() {
    let redis = Redis::start_old();
    redis.run::<()>("SET", &["key", "value"]);
    let addr = redis.addr().to_string();
    let version: String = redis.run("INFO", &["server"]);
    let (_, version) = version.split_once("redis_version:").unwrap();
    let version = version.lines().next().unwrap();
    assert!(version.starts_with("6.2."), "{version}");
    for arguments in [
        &["status"][..],
        &["status", "--pool", "p"],
        &["explain"],
        &["drain", "a", "--pool", "p"],
    ] {
        assert_eq!(
            run(&[arguments, &["--redis", &addr]].concat()).failed(3),
            format!(
                "error: Redis 7 or later is needed, this server is {version} ({addr})\n  \
                try: --redis URL with a newer server\n"
            )
        );
    }
    let told = run(&["status", "--json", "--redis", &addr]).failed(3);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["error"]["kind"], "version");
    assert_eq!(redis.run::<u64>("DBSIZE", &[]), 1);
}

/// A way to a server that does not begin at 127.0.0.1, as if from another host.
fn elsewhere(to: std::net::SocketAddr) -> String {
    use socket2::{Domain, Socket, Type};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let server = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let from: std::net::SocketAddr = "127.0.0.2:0".parse().unwrap();
            server.bind(&from.into()).unwrap();
            server.connect(&to.into()).unwrap();
            let mut server: std::net::TcpStream = server.into();
            let (mut sent, mut to_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut sent, &mut to_server));
            let _ = std::io::copy(&mut server, &mut client);
            let _ = client.shutdown(std::net::Shutdown::Write);
        }
    });
    addr.to_string()
}
