//! A master and its replica under Sentinel, by `envoy/redis/sentinel.yaml`: only the master gets commands.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::{Load, Outcome};
use crate::world::{config, way};
use support::*;

/// How long Sentinel waits before it takes a silent master for dead.
const DOWN_AFTER: Duration = Duration::from_secs(1);
/// How long requests go without a slot at most: Sentinel's own time, one round of health checks, and one attempt of the
/// pipe's, with room for a busy machine.
const WINDOW: Duration = Duration::from_secs(10);

fn sentinel(dir: &Dir, port: &Port, master: &Redis) -> Process {
    let file = dir.join("sentinel.conf");
    let lines = format!(
        "port {}\ndir {}\n\
         sentinel monitor main 127.0.0.1 {} 1\n\
         sentinel down-after-milliseconds main {}\n\
         sentinel failover-timeout main 10000\n",
        port.number(),
        dir.path().display(),
        master.port(),
        DOWN_AFTER.as_millis(),
    );
    std::fs::write(&file, lines).expect("a file");
    let mut command = Command::new(redis_program());
    command.arg(&file).arg("--sentinel");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Process::start(command)
}

fn ask(port: &Port, words: &[&str]) -> redis::RedisResult<redis::Value> {
    let client = redis::Client::open(format!("redis://{}/", port.addr()))?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    redis::cmd("SENTINEL").arg(words).query(&mut connection)
}

fn is_replica_in_step(redis: &Redis) -> bool {
    let info: String = redis.run("INFO", &["replication"]);
    info.contains("role:slave") && info.contains("master_link_status:up")
}

#[test]
fn only_the_master_gets_commands() {
    let (first, second) = (Redis::start(), Redis::start());
    second.run::<()>("REPLICAOF", &["127.0.0.1", &first.port().to_string()]);
    eventually(PATIENCE, || is_replica_in_step(&second));
    let (dir, port) = (Dir::temporary(), Port::free());
    let _sentinel = sentinel(&dir, &port, &first);
    // It finds the replica by asking the master.
    eventually(PATIENCE, || {
        ask(&port, &["replicas", "main"]).is_ok_and(|reply| {
            reply
                .as_sequence()
                .is_some_and(|replicas| replicas.len() == 1)
        })
    });

    let upstream = Upstream::start();
    let envoy = Envoy::start(
        config(&[("a", 50)])
            .plugin(|plugin| {
                plugin["redis"] = json!({"acquire_timeout_ms": 500});
                plugin["lease"] = json!({"ttl_ms": 5_000, "renew_interval_ms": 1_500});
            })
            .redis_as("envoy/redis/sentinel.yaml")
            // The replica first: to be taken for healthy would show.
            .redis_nodes(&[second.addr(), first.addr()])
            .log_levels("warning", "wasm:warning")
            .upstream(upstream.addr()),
    );
    let serves = || way(&envoy.client().get("/", &[])) == (200, "atomic");
    eventually(PATIENCE, serves);
    for _ in 0..20 {
        assert!(serves());
    }
    let counter = |name: &str| envoy.filter_stat(name);
    assert_eq!(counter("redis_error;reason=read_only"), Some(0));

    // Sentinel is told to change roles: the old master stays one for some 10 s more, and Envoy with it, until Sentinel
    // makes a replica of it. Then the new master dies.
    let told = failover(&envoy, [&first, &second], || {
        ask(&port, &["failover", "main"]).expect("a failover begins");
    });
    eventually(PATIENCE, || is_replica_in_step(&first));
    let died = failover(&envoy, [&second, &first], || second.kill());
    println!(
        "Sentinel: no slots for {told:?} when told to fail over, {died:?} when the master died \
         (down-after {DOWN_AFTER:?})"
    );
}

/// Under load, with streams that last. For how long no slot was given.
#[track_caller]
fn failover(envoy: &Envoy, [old, next]: [&Redis; 2], change: impl FnOnce()) -> Duration {
    let held: Vec<_> = (0..5)
        .map(|_| {
            let stream = envoy.client().open("/sse?events=1000000", &[]);
            assert_eq!(stream.header("x-slotgate-path"), "atomic");
            stream
        })
        .collect();
    let load = Load::start(&[envoy.addr()]);
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    change();
    let leases = Ledger::new(next, "slotgate", "demo");
    // Sentinel breaks every connection when it changes a role.
    let is_master = |redis: &Redis| {
        let role = redis.try_connect().and_then(|mut connection| {
            redis::cmd("ROLE").query::<Vec<redis::Value>>(&mut connection)
        });
        role.is_ok_and(|role| role.len() == 3)
    };
    let live = || leases.try_state().map_or(0, |state| state.live());
    eventually(PATIENCE, || {
        let since = |record: &crate::load::Record| {
            record.outcome == Outcome::Atomic && record.start > start
        };
        is_master(next)
            && !is_master(old)
            && live() >= held.len()
            && load
                .records()
                .iter()
                .rev()
                .take(20)
                .filter(|record| since(record))
                .count()
                == 20
    });
    let records = load.stop();
    let failed: Vec<_> = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Atomic | Outcome::Traditional))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let without = || {
        records
            .iter()
            .filter(|record| record.outcome == Outcome::Traditional)
    };
    let begin = without().map(|record| record.start).min();
    let end = without().map(|record| record.end).max();
    let window = begin
        .zip(end)
        .map_or(Duration::ZERO, |(begin, end)| end - begin);
    assert!(window <= WINDOW, "{window:?}");
    // Streams that went on through it give back what they hold, on the new master. What was released on the old one after
    // the new one had its data ends by itself, and is cleared away by the next requests.
    drop(held);
    eventually(PATIENCE, || {
        envoy.client().get("/", &[]);
        leases.is_empty()
    });
    leases.assert_consistent();
    window
}
