//! `envoy/endpoints.yaml`: each account is a replica, and Envoy's policy `override_host` sends its requests there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{SOON, assert_sound};
use support::*;

const IDS: [(&str, u64); 3] = [("127.0.0.1", 8), ("127.0.0.2", 8), ("127.0.0.3", 16)];

struct Replicas {
    envoy: Envoy,
    redis: Redis,
    ledger: Ledger,
    all: Vec<Upstream>,
}

/// The file, with three replicas of this machine: one port of three addresses.
fn config(redis: &Redis, all: &[Upstream]) -> EnvoyConfig {
    let port = all[0].addr().port();
    EnvoyConfig::from_file("envoy/endpoints.yaml")
        .redis(redis.addr())
        .plugin(|plugin| {
            plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
            let pool = &mut plugin["pools"][0];
            assert_eq!(pool["set_headers"]["x-endpoint"], "${account}:8000");
            pool["set_headers"]["x-endpoint"] = json!(format!("${{account}}:{port}"));
            for (account, (id, slots)) in pool["accounts"]
                .as_array_mut()
                .expect("accounts")
                .iter_mut()
                .zip(IDS)
            {
                assert_eq!(account["max_concurrency"], slots);
                account["id"] = json!(id);
            }
        })
        .edit(|document| {
            let clusters = document["static_resources"]["clusters"].as_array_mut();
            let mut found = 0;
            for cluster in clusters.expect("clusters") {
                let of_replicas = ["replicas", "any_replica"].iter();
                if !of_replicas.clone().any(|name| cluster["name"] == *name) {
                    continue;
                }
                let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
                let endpoints = endpoints.as_array_mut().expect("endpoints");
                for (endpoint, (id, _)) in endpoints.iter_mut().zip(IDS) {
                    endpoint["endpoint"]["address"]["socket_address"] =
                        json!({"address": id, "port_value": port});
                    found += 1;
                }
            }
            assert_eq!(found, 6);
        })
}

fn replicas(change: impl FnOnce(EnvoyConfig) -> EnvoyConfig) -> Replicas {
    let redis = Redis::start();
    let first = Upstream::start();
    let ips = [2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let others = ips.map(|ip| Upstream::start_beside(&first, ip));
    let all: Vec<Upstream> = std::iter::once(first).chain(others).collect();
    let envoy = Envoy::start(change(config(&redis, &all)));
    let ledger = Ledger::new(&redis, "slotgate", "replicas");
    Replicas {
        envoy,
        redis,
        ledger,
        all,
    }
}

impl Replicas {
    /// Every request that a replica has seen was its own account's, and never more at once than it takes.
    #[track_caller]
    fn assert_own(&self) -> u64 {
        let mut total = 0;
        for (replica, (id, slots)) in self.all.iter().zip(IDS) {
            let snapshot = replica.snapshot();
            let accounts: Vec<&String> = snapshot.accounts.keys().collect();
            assert!(
                accounts.iter().all(|name| *name == id),
                "{id}: {snapshot:?}"
            );
            let seen = snapshot.account(id);
            assert!(seen.most as u64 <= slots, "{id}: {snapshot:?}");
            total += seen.total;
        }
        total
    }
}

#[test]
fn each_request_reaches_its_own_replica() {
    let world = replicas(|config| config.workers(2));
    // The client's own header chooses nothing.
    let headers = [("x-endpoint", "127.0.0.3:1")];
    let reply = world.envoy.client().get("/", &headers);
    assert_eq!(reply.status, 200, "{}", reply.text());

    // More clients than slots, so every replica is full at times.
    let end = Instant::now() + Duration::from_secs(3);
    let clients: Vec<_> = (0..48)
        .map(|_| {
            let client = world.envoy.client();
            std::thread::spawn(move || {
                let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
                while Instant::now() < end {
                    let reply = client.get("/sse?events=3&interval_ms=2", &[]);
                    *statuses.entry(reply.status).or_default() += 1;
                }
                statuses
            })
        })
        .collect();
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    for client in clients {
        for (status, count) in client.join().expect("no client panics") {
            *statuses.entry(status).or_default() += count;
        }
    }
    let total = world.assert_own();
    println!(
        "{statuses:?}, {:?}",
        world.all.iter().map(Upstream::snapshot).collect::<Vec<_>>()
    );
    assert!(
        statuses.keys().all(|status| [200, 429].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(total, statuses[&200] + 1);
    // Each had as many at once as it takes.
    for (replica, (id, slots)) in world.all.iter().zip(IDS) {
        assert_eq!(replica.snapshot().account(id).most as u64, slots, "{id}");
    }
    eventually(SOON, || world.ledger.is_empty());
    assert_sound(&world.envoy);
}

#[test]
fn a_replica_that_is_down_stands_behind_the_others() {
    let world =
        replicas(|config| config.plugin(|plugin| plugin["failing"] = json!({"consecutive": 3})));
    world.all[1].refuse();
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    for _ in 0..60 {
        let reply = world.envoy.client().get("/", &[]);
        *statuses.entry(reply.status).or_default() += 1;
    }
    println!("{statuses:?}");
    // Three failures in a row are enough, whoever they fall to.
    assert_eq!(statuses.get(&503), Some(&3), "{statuses:?}");
    assert_eq!(statuses.get(&200), Some(&57), "{statuses:?}");
    let seen = |index: usize| world.all[index].snapshot().account(IDS[index].0).total;
    assert_eq!((seen(0) + seen(2), seen(1)), (57, 0));
    world.assert_own();
    eventually(SOON, || world.ledger.is_empty());
}

#[test]
fn an_address_that_is_no_endpoint_gets_no_other_replica() {
    // As when EDS has taken a replica away that the configuration still has.
    let world = replicas(|config| {
        config.edit_cluster("replicas", |cluster| {
            let endpoints = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
            let endpoints = endpoints.as_array_mut().expect("endpoints");
            endpoints
                .retain(|one| one["endpoint"]["address"]["socket_address"]["address"] != IDS[2].0);
        })
    });
    let held: Vec<_> = (0..32)
        .map(|_| world.envoy.client().start("/sse?events=100000", &[]))
        .collect();
    eventually(SOON, || {
        world.all[0].snapshot().now + world.all[1].snapshot().now == 16
    });
    drop(held);
    world.assert_own();
    eventually(SOON, || world.ledger.is_empty());

    // Without a slot a request goes to any.
    world.redis.kill();
    for _ in 0..9 {
        assert_eq!(world.envoy.client().get("/", &[]).status, 200);
    }
    let without = world
        .all
        .iter()
        .map(|one| one.snapshot().path("traditional"));
    assert_eq!(without.sum::<u64>(), 9);
}

/// Behind a listener inside Envoy, as in `envoy/clusters.yaml`, a later try reaches its own replica.
#[test]
fn with_failover_each_try_reaches_its_own_replica() {
    let redis = Redis::start();
    let first = Upstream::start();
    let ips = [2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let others = ips.map(|ip| Upstream::start_beside(&first, ip));
    let all: Vec<Upstream> = std::iter::once(first).chain(others).collect();
    let mut by_endpoint = config(&redis, &all).document;
    let clusters = by_endpoint["static_resources"]["clusters"].as_array_mut();
    let replicas = clusters.expect("clusters").iter_mut();
    let replicas = replicas.filter(|cluster| cluster["name"] == "replicas");
    let replicas: Vec<Value> = replicas.map(|cluster| cluster.take()).collect();
    let port = all[0].addr().port();
    let config = EnvoyConfig::from_file("envoy/clusters.yaml")
        .redis(redis.addr())
        .plugin(|plugin| {
            plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
            plugin["cooldown"] = json!({"max_ms": 50, "default_ms": 50});
            let pool = &mut plugin["pools"][0];
            let endpoint = format!("${{account}}:{port}");
            pool["set_headers"] = json!({"x-upstream": "replicas", "x-endpoint": endpoint});
            let accounts = IDS.map(|(id, slots)| json!({"id": id, "max_concurrency": slots}));
            pool["accounts"] = json!(accounts);
        })
        .edit(|document| {
            let clusters = document["static_resources"]["clusters"].as_array_mut();
            clusters.expect("clusters").extend(replicas);
        });
    let envoy = Envoy::start(config);
    for number in 0..12 {
        let (serves, _) = IDS[number % 3];
        let refuse: Vec<&str> = IDS
            .map(|(id, _)| id)
            .into_iter()
            .filter(|id| *id != serves)
            .collect();
        let path = format!("/refuse?accounts={}", refuse.join(","));
        let reply = envoy.client().get(&path, &[]);
        assert_eq!(
            (reply.status, reply.header("x-slotgate-account")),
            (200, serves),
            "{}",
            reply.text()
        );
        std::thread::sleep(Duration::from_millis(80));
    }
    for (replica, (id, _)) in all.iter().zip(IDS) {
        let snapshot = replica.snapshot();
        assert!(snapshot.requests > 3, "{id}: {snapshot:?}");
        assert_eq!(
            snapshot.requests,
            snapshot.account(id).total,
            "{id}: {snapshot:?}"
        );
    }
    let ledger = Ledger::new(&redis, "slotgate", "demo");
    eventually(SOON, || ledger.is_empty());
    assert_sound(&envoy);
}
