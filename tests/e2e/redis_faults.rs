//! Redis in every kind of trouble: requests go the failure's way, slots stay right, and it recovers by itself.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{SOON, World, best_within, config, way};
use support::*;

/// From Redis' being back to the first request that takes a slot.
const RECOVERY: Duration = Duration::from_secs(2);

/// Acquires that time out soon; still enough for a busy machine that answers.
fn hasty(accounts: &[(&str, u32)]) -> EnvoyConfig {
    config(accounts).plugin(|plugin| {
        plugin["redis"]["acquire_timeout_ms"] = json!(400);
        plugin["redis"]["command_timeout_ms"] = json!(800);
    })
}

/// How long until a request takes a slot again.
#[track_caller]
fn time_until_atomic(world: &World) -> Duration {
    let start = Instant::now();
    loop {
        let reply = world.get("/");
        assert_eq!(reply.status, 200, "{}", reply.text());
        if reply.header("x-slotgate-path") == "atomic" {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "it never recovers");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Trouble {
    name: &'static str,
    begin: fn(&Redis),
    end: fn(&Redis),
    /// Whether its keys are still there afterwards.
    keeps_data: bool,
}

fn config_set(redis: &Redis, name: &str, value: &str) {
    redis.run::<()>("CONFIG", &["SET", name, value]);
}

const TROUBLES: [Trouble; 5] = [
    Trouble {
        name: "refusing",
        begin: Redis::kill,
        end: Redis::start_again,
        keeps_data: false,
    },
    Trouble {
        name: "hanging",
        begin: Redis::sigstop,
        end: Redis::sigcont,
        keeps_data: true,
    },
    Trouble {
        name: "read-only",
        begin: |redis| redis.run::<()>("REPLICAOF", &["127.0.0.1", "1"]),
        end: |redis| redis.run::<()>("REPLICAOF", &["NO", "ONE"]),
        keeps_data: true,
    },
    Trouble {
        name: "out of memory",
        begin: |redis| config_set(redis, "maxmemory", "1"),
        end: |redis| config_set(redis, "maxmemory", "0"),
        keeps_data: true,
    },
    Trouble {
        name: "busy with a script",
        begin: |redis| {
            config_set(redis, "busy-reply-threshold", "10");
            let mut connection = redis.connect();
            connection
                .set_read_timeout(Some(Duration::from_millis(100)))
                .expect("a socket option");
            let _ = redis::cmd("EVAL")
                .arg("while true do end")
                .arg(0)
                .exec(&mut connection);
        },
        end: |redis| redis.run::<()>("SCRIPT", &["KILL"]),
        keeps_data: true,
    },
];

#[test]
fn requests_go_the_traditional_way_while_redis_is_in_trouble() {
    for trouble in &TROUBLES {
        let name = trouble.name;
        let world = World::start(hasty(&[("a", 50)]));
        time_until_atomic(&world);
        let mut stream = world
            .client()
            .open("/sse?events=1000000&interval_ms=20", &[]);
        stream.events(1);
        let lease = world.ledger.owner();
        let other = world
            .client()
            .open("/sse?events=1000000&interval_ms=20", &[]);
        (trouble.begin)(&world.redis);
        for _ in 0..10 {
            let start = Instant::now();
            assert_eq!(way(&world.get("/")), (200, "traditional"), "{name}");
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{name}: {:?}",
                start.elapsed()
            );
        }
        // It ends while nobody can be told.
        drop(other);
        // Long enough for many attempts to reach it.
        std::thread::sleep(Duration::from_millis(700));
        let log = world.envoy.log();
        // The bridge has one of its own, about who is silent.
        let warnings = log.lines().filter(|line| line.contains("[warning][wasm]"));
        let warnings = warnings.filter(|line| !line.contains(": bridge: "));
        let warnings = warnings.count();
        assert!(warnings <= 1, "{name}: warned {warnings} times, {log}");
        (trouble.end)(&world.redis);
        let recovered = time_until_atomic(&world);
        assert!(recovered <= RECOVERY, "{name}: {recovered:?}");
        stream.events(3);
        // The one that goes on has its lease, by the same id; all others are gone.
        eventually(SOON, || world.ledger.owner() == lease);
        world.ledger.assert_consistent();
        if !trouble.keeps_data {
            world.eventually_counts("lease.readopted", 1);
        }
        drop(stream);
        world.assert_all_free();
    }
}

/// A Redis that is full takes no new lease, but keeps the ones there are and frees those that end.
#[test]
fn a_full_redis_still_renews_and_frees() {
    let world = World::start(hasty(&[("a", 50)]).plugin(|plugin| {
        plugin["lease"] = json!({"ttl_ms": 1_000, "renew_interval_ms": 300});
    }));
    time_until_atomic(&world);
    let open = || world.client().open("/sse?events=1000000", &[]);
    let (kept, ended) = (open(), open());
    assert_eq!(world.ledger.live(), 2);
    config_set(&world.redis, "maxmemory", "1");
    assert_eq!(way(&world.get("/")), (200, "traditional"));
    drop(ended);
    // One by one: a full Redis runs no transaction.
    let (leases, mut connection) = (world.ledger.key("leases"), world.redis.connect());
    let mut count = |from: &str| -> usize {
        let mut command = redis::cmd("ZCOUNT");
        command.arg(&leases).arg(from).arg("+inf");
        command.query(&mut connection).expect("ZCOUNT")
    };
    eventually(SOON, || count("-inf") == 1);
    let full = Instant::now();
    while full.elapsed() < Duration::from_secs(2) {
        let now_us = world.redis.run::<(u64, u64)>("TIME", &[]);
        let now_ms = now_us.0 * 1_000 + now_us.1 / 1_000;
        assert_eq!(count(&now_ms.to_string()), 1, "after {:?}", full.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(kept);
    eventually(SOON, || count("-inf") == 0);
    assert_eq!(world.counters("pipe.lost"), 0);
    config_set(&world.redis, "maxmemory", "0");
    world.assert_serves();
    world.assert_all_free();
}

/// Nobody waits longer than the acquire's timeout and one tick.
#[test]
fn a_hanging_redis_costs_the_acquire_timeout() {
    let world = World::start(config(&[("a", 50)]).plugin(|plugin| {
        plugin["redis"] = json!({"acquire_timeout_ms": 50, "command_timeout_ms": 60_000});
    }));
    time_until_atomic(&world);
    world.redis.sigstop();
    best_within(Duration::from_millis(80), || {
        let start = Instant::now();
        assert_eq!(way(&world.get("/")), (200, "traditional"));
        start.elapsed()
    });
    world.eventually_counts("requests;outcome=traditional;reason=timed_out", 1);
    world.redis.sigcont();
    assert!(time_until_atomic(&world) <= RECOVERY);
    world.assert_all_free();
}

/// Once it hangs nobody waits but for a probe now and then, and the first answer ends that.
#[test]
fn the_breaker_spares_the_wait() {
    let world = World::start(config(&[("a", 50)]).plugin(|plugin| {
        plugin["redis"] = json!({"acquire_timeout_ms": 50, "command_timeout_ms": 60_000,
            "breaker": {"failures": 3, "open_ms": 1_000}});
    }));
    time_until_atomic(&world);
    // The first ones may have waited too long for the pipe.
    let timed_out = world.counter("requests;outcome=traditional;reason=timed_out");
    assert_eq!(world.counter("breaker.open"), 0);
    world.redis.sigstop();
    eventually(SOON, || {
        assert_eq!(way(&world.get("/")), (200, "traditional"));
        world.counter("breaker.open") == 1
    });
    let log = world.envoy.log();
    assert_eq!(
        log.matches("breaker is open: acquires fail (timed_out)")
            .count(),
        1,
        "{log}"
    );
    // Not one in ten of these waits: there is a probe in half a second at most.
    for _ in 0..100 {
        assert_eq!(way(&world.get("/")), (200, "traditional"));
    }
    world.eventually_counts("requests;outcome=traditional;reason=breaker_open", 90);
    assert!(world.counter("requests;outcome=traditional;reason=timed_out") <= timed_out + 13);
    world.redis.sigcont();
    assert!(time_until_atomic(&world) <= RECOVERY);
    eventually(SOON, || world.counter("breaker.open") == 0);
    assert_eq!(world.counter("breaker.opened"), 1);
    assert!(world.envoy.log().contains("breaker is closed"));
    assert_eq!(world.counters("pipe.lost"), 0);
    world.assert_all_free();
}

fn behind_proxy(config: EnvoyConfig) -> (World, FaultProxy) {
    let redis = Redis::start();
    let proxy = FaultProxy::start(redis.addr());
    let upstream = Upstream::start();
    let envoy = Envoy::start(config.redis(proxy.addr()).upstream(upstream.addr()));
    let ledger = Ledger::new(&redis, "slotgate", "demo");
    let world = World {
        envoy,
        redis,
        upstream,
        ledger,
    };
    (world, proxy)
}

/// Replies that are not the answers to what was asked: the slot that Redis did give is given back.
#[test]
fn garbage_in_place_of_replies() {
    let (world, proxy) = behind_proxy(hasty(&[("a", 5)]));
    time_until_atomic(&world);
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\0\xff\x16\x03\x01",
        b"\r\n",
        b"+OK\r\n",
        b":7\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*3\r\n$7\r\ngranted\r\n$1\r\na\r\n",
        b"*3\r\n$7\r\ngranted\r\n$1\r\na\r\n$3\r\nabc\r\n",
        b"*2\r\n$9\r\nsaturated\r\n:-1\r\n",
        b"*1000000000\r\n",
        b"$99999999999999999999\r\n",
        b"-\xff\xfe\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        &[b'*'; 100_000],
    ] {
        let text = String::from_utf8_lossy(&garbage[..garbage.len().min(40)]).into_owned();
        let noticed = || world.counters("pipe.lost") + world.counters("redis_error");
        let before = noticed();
        proxy.set(Way::Instead(garbage));
        for _ in 0..5 {
            let start = Instant::now();
            let reply = world.get("/");
            assert_eq!(way(&reply), (200, "traditional"), "{text:?}");
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{text:?}: {:?}",
                start.elapsed()
            );
        }
        proxy.set(Way::Through);
        let recovered = time_until_atomic(&world);
        assert!(recovered <= RECOVERY, "{text:?}: {recovered:?}");
        world.assert_all_free();
        eventually(SOON, || noticed() > before);
    }
    world.eventually_counts("pipe.lost;reason=mismatch", 10);
}

/// The connection stays up while every reply after its greeting is wrong: no flood of reconnects and warnings.
#[test]
fn garbage_for_as_long_as_it_lasts() {
    let (world, proxy) = behind_proxy(hasty(&[("a", 5)]));
    proxy.set(Way::Instead(b"nobody here speaks RESP\r\n"));
    let until = Instant::now() + Duration::from_secs(2);
    let mut requests = 0;
    while Instant::now() < until {
        assert_eq!(way(&world.get("/")), (200, "traditional"));
        requests += 1;
    }
    assert!(requests > 20, "{requests}");
    world.eventually_counts("pipe.lost;reason=mismatch", 1);
    let opened = world.counters("pipe.lost");
    assert!(opened <= 20, "opened {opened} times in 2 s");
    let warnings = world.envoy.log().matches("pipe to Redis is down").count();
    assert!(warnings <= 2, "{warnings}: {}", world.envoy.log_tail(40));
    proxy.set(Way::Through);
    assert!(time_until_atomic(&world) <= RECOVERY);
    world.assert_all_free();
}

/// Redis' last reply and the end of its connection reach Envoy as one. What the reply asks for, another command or
/// another connection, must wait: Envoy 1.36 crashes if the stream changes while it still works on its end.
#[test]
fn a_reply_that_is_the_last_one() {
    let (world, proxy) = behind_proxy(hasty(&[("a", 50)]));
    time_until_atomic(&world);
    for words in [
        &b"-NOSCRIPT No matching script. Please use EVAL.\r\n"[..],
        b"-NOPOOL no accounts are synced for this pool\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-ERR\r\n",
        b"garbage\r\n",
        b"*3\r\n$7\r\ngranted\r\n$4\r\nnone\r\n$1\r\n9\r\n",
    ] {
        for _ in 0..5 {
            proxy.set(Way::LastWords(words));
            let replies = world.client().load(4, 4, |_| Request::get("/"));
            for reply in replies {
                assert_eq!(way(&reply.expect("a response")), (200, "traditional"));
            }
            proxy.set(Way::Through);
            let recovered = time_until_atomic(&world);
            let text = String::from_utf8_lossy(words);
            assert!(recovered <= RECOVERY, "{text:?}: {recovered:?}");
        }
        world.assert_all_free();
    }
}

/// As when a host on the way was taken away without a word: only its age tells that the connection is dead.
#[test]
fn a_connection_that_went_dead() {
    let (world, proxy) = behind_proxy(hasty(&[("a", 5)]));
    time_until_atomic(&world);
    proxy.set(Way::Never);
    assert_eq!(way(&world.get("/")), (200, "traditional"));
    proxy.set(Way::Through);
    assert!(time_until_atomic(&world) <= RECOVERY);
    assert!(
        world
            .envoy
            .log_contains("no reply within redis.command_timeout_ms")
    );
    world.assert_all_free();
}

#[test]
fn replies_byte_by_byte() {
    let (world, proxy) = behind_proxy(config(&[("a", 50)]));
    proxy.set(Way::ByteByByte);
    let replies = world
        .client()
        .load(100, 10, |_| Request::get("/delay?ms=1"));
    for reply in replies {
        assert_eq!(way(&reply.expect("a response")), (200, "atomic"));
    }
    assert_eq!(world.counters("pipe.lost"), 0);
    world.assert_all_free();
}

fn with_password(config: EnvoyConfig, password: &str) -> EnvoyConfig {
    config
        .env("REDIS_PASSWORD", password)
        .plugin(|plugin| plugin["redis"]["password_env"] = json!("REDIS_PASSWORD"))
}

#[test]
fn a_password_from_the_environment() {
    let protected = || Redis::start_with(&["--requirepass", "5ecret"]);
    let world = World::with_redis(protected(), with_password(config(&[("a", 5)]), "5ecret"));
    for _ in 0..3 {
        world.assert_serves();
    }
    world.assert_all_free();
    assert!(!world.envoy.log_contains("5ecret"));

    // A wrong one, and none at all: said once, and clearly; requests go the failure's way.
    let wrong = with_password(hasty(&[("a", 5)]), "wr0ng");
    let none = hasty(&[("a", 5)]);
    for (config, password) in [(wrong, "wr0ng"), (none, "")] {
        let world = World::with_redis(protected(), config);
        let mut operator = world.redis.connect();
        let until = Instant::now() + Duration::from_millis(1_500);
        while Instant::now() < until {
            assert_eq!(way(&world.get("/")), (200, "traditional"));
        }
        let log = world.envoy.log();
        let warning = if password.is_empty() {
            "CLIENT SETNAME was refused with \"NOAUTH Authentication required.\": see redis.username and redis.password_env"
        } else {
            "AUTH was refused with \"WRONGPASS invalid username-password pair or user is disabled.\": see redis.username and redis.password_env"
        };
        assert_eq!(log.matches(warning).count(), 1, "{log}");
        assert_eq!(log.matches("[warning][wasm]").count(), 1, "{log}");
        assert!(!log.contains("wr0ng"));
        // The operator puts it right.
        redis::cmd("CONFIG")
            .arg(&["SET", "requirepass", password])
            .exec(&mut operator)
            .expect("OK");
        assert!(time_until_atomic(&world) <= RECOVERY);
    }
}

/// The least rights that do, under a user of its own: no EVAL, no keys but its own.
#[test]
fn an_acl_user_with_the_least_rights() {
    let redis = Redis::start();
    let rules = "on >5ecret ~slotgate:* -@all +@hash +@sortedset +get +set +del +pexpire +pexpireat +time +client|setname \
                 +script|load +evalsha +select";
    let words: Vec<_> = ["SETUSER", "app"]
        .into_iter()
        .chain(rules.split_whitespace())
        .collect();
    redis.run::<()>("ACL", &words);
    let config = with_password(config(&[("a", 5)]), "5ecret")
        .plugin(|plugin| plugin["redis"]["username"] = json!("app"));
    let world = World::with_redis(redis, config);
    let client = world.client();
    let session = || way_of(client.get("/", &[("x-session-id", "s")]));
    assert_eq!(session(), (200, "atomic".into()));
    world.assert_all_free();
    // The scripts are gone, and EVAL is denied: they are loaded again.
    world.redis.run::<()>("SCRIPT", &["FLUSH"]);
    eventually(RECOVERY, || session() == (200, "atomic".into()));
    world.assert_all_free();
}

fn way_of(reply: Reply) -> (u16, String) {
    (reply.status, reply.header("x-slotgate-path").to_owned())
}
