//! Redis Cluster by `envoy/redis/cluster.yaml`: a pool's slot moves to another shard, and a master dies, under load.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::{Load, Outcome, Record};
use crate::world::{SOON, config, way};
use support::*;

const KEY: &str = "slotgate:{demo}:accounts";
const PASSWORD: &str = "5ecret";
/// From the master's death to slots by the replica: the nodes' own time (`cluster-node-timeout` is 2 s, then a vote), the
/// new map (asked for each second), one attempt of the pipe's, with room for a busy machine.
const WINDOW: Duration = Duration::from_secs(12);

#[test]
fn resharding_and_failover() {
    let mut cluster = RedisCluster::start(3);
    let upstream = Upstream::start();
    let config = config(&[("a", 20), ("b", 20), ("c", 20)])
        .plugin(|plugin| plugin["redis"] = json!({"acquire_timeout_ms": 500}))
        .log_levels("warning", "wasm:warning");
    let envoy = by_way_of(&cluster, config.upstream(upstream.addr()));
    let serves = || way(&envoy.client().get("/", &[])) == (200, "atomic");
    if envoy.version().starts_with("1.36.") {
        // Its redis_proxy does not know SCRIPT LOAD.
        let refused = || {
            envoy.client().get("/", &[]);
            envoy.log_contains("SCRIPT LOAD was refused")
        };
        eventually(SOON, refused);
        assert_eq!(way(&envoy.client().get("/", &[])), (200, "traditional"));
        println!("no Redis Cluster by way of Envoy {}", envoy.version());
        return;
    }
    eventually(PATIENCE, serves);
    for _ in 0..20 {
        assert!(serves());
    }

    let from = cluster.owner(KEY);
    let to = (from + 1) % 3;
    let moved = under(&envoy, &cluster.nodes[to], || {
        cluster.move_slot(KEY, from, to)
    });
    assert_eq!(cluster.owner(KEY), to);

    let replica = cluster.add_replica(to);
    allow(&cluster.nodes[replica]);
    let died = under(&envoy, &cluster.nodes[replica], || cluster.nodes[to].kill());
    println!(
        "Redis Cluster: {moved:?} until slots again when the pool's slot moved, {died:?} when its master died"
    );
}

/// `redis_proxy` knows no channels: what is handed on is found by asking, four times a second.
#[test]
fn requests_wait_without_being_told() {
    let cluster = RedisCluster::start(3);
    let upstream = Upstream::start();
    let config = config(&[("a", 1)]).plugin(|plugin| {
        plugin["redis"] = json!({"acquire_timeout_ms": 2_000});
        plugin["saturated"] = json!({"action": "queue"});
    });
    let envoy = by_way_of(&cluster, config.upstream(upstream.addr()));
    if envoy.version().starts_with("1.36.") {
        return;
    }
    let client = envoy.client();
    eventually(PATIENCE, || way(&client.get("/", &[])) == (200, "atomic"));
    // Each of them waits for the one before it.
    let begin = Instant::now();
    let replies = client.load(12, 12, |_| Request::get("/delay?ms=50"));
    for reply in &replies {
        let reply = reply.as_ref().expect("an answer");
        assert_eq!(way(reply), (200, "atomic"));
    }
    assert_eq!(upstream.snapshot().account("a").most, 1);
    assert!(envoy.filter_stat("queue.requests;outcome=granted") >= Some(10));
    println!(
        "12 requests of 50 ms for one slot, by redis_proxy: {:?}",
        begin.elapsed()
    );
}

/// An Envoy whose pipe leads through the example's `redis_proxy` to these nodes, each of which knows its user.
fn by_way_of(cluster: &RedisCluster, config: EnvoyConfig) -> Envoy {
    for node in &cluster.nodes {
        allow(node);
    }
    let config = config
        .redis_as("envoy/redis/cluster.yaml")
        .redis(cluster.nodes[0].addr());
    Envoy::start(config.edit_cluster("redis", |redis| {
        let options =
            &mut redis["typed_extension_protocol_options"]["envoy.filters.network.redis_proxy"];
        options["auth_password"] = json!({"inline_string": PASSWORD});
    }))
}

/// The example's user.
fn allow(node: &Redis) {
    let password = format!(">{PASSWORD}");
    let user = ["SETUSER", "slotgate", "on", &password, "~*", "+@all"];
    node.run::<()>("ACL", &user);
}

/// A change under load, with streams that last: no request fails, no slot is lost. How long until no request goes
/// without a slot any more.
#[track_caller]
fn under(envoy: &Envoy, next: &Redis, change: impl FnOnce()) -> Duration {
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
    let ledger = Ledger::new(next, "slotgate", "demo");
    let live = || ledger.try_state().map_or(0, |state| state.live());
    let since = |record: &&Record| record.outcome == Outcome::Atomic && record.start > start;
    eventually(WINDOW, || {
        let records = load.records();
        live() >= held.len() && records.iter().rev().take(50).filter(since).count() == 50
    });
    let records = load.stop();
    let failed: Vec<_> = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Atomic | Outcome::Traditional))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let without = records
        .iter()
        .filter(|record| record.outcome == Outcome::Traditional)
        .map(|record| record.end)
        .max();
    drop(held);
    eventually(SOON, || ledger.is_empty());
    ledger.assert_consistent();
    without.map_or(Duration::ZERO, |end| end.saturating_duration_since(start))
}
