//! `envoy/clusters.yaml`: a later try goes to the cluster of its own account.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{SOON, assert_sound, way};
use support::*;

const ACCOUNTS: [(&str, &str, u64); 3] = [
    ("acct-1", "acct_1", 5),
    ("acct-2", "acct_2", 10),
    ("acct-3", "acct_3", 20),
];

/// An upstream for each account.
struct Clusters {
    envoy: Envoy,
    redis: Redis,
    ledger: Ledger,
    hosts: Vec<Upstream>,
}

fn start(change: impl Fn(EnvoyConfig) -> EnvoyConfig) -> Clusters {
    let redis = Redis::start();
    let hosts: Vec<Upstream> = ACCOUNTS.iter().map(|_| Upstream::start()).collect();
    let config = EnvoyConfig::from_file("envoy/clusters.yaml")
        .redis(redis.addr())
        .plugin(|plugin| {
            plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
            plugin["lease"] = json!({"ttl_ms": 60_000, "renew_interval_ms": 20_000});
            for account in plugin["pools"][0]["accounts"]
                .as_array_mut()
                .expect("accounts")
            {
                let id = account["id"].as_str().expect("an id").to_owned();
                account["set_headers"]["authorization"] = json!(format!("Bearer key-of-{id}"));
                account["set_headers"][format!("x-only-{id}")] = json!("1");
            }
        });
    let config = ACCOUNTS
        .iter()
        .zip(&hosts)
        .fold(config, |config, (account, host)| {
            config.cluster(account.1, host.addr())
        });
    Clusters {
        envoy: Envoy::start(change(config)),
        ledger: Ledger::new(&redis, "slotgate", "demo"),
        redis,
        hosts,
    }
}

/// With rests that are over at once.
fn short_rests(config: EnvoyConfig) -> EnvoyConfig {
    config.plugin(|plugin| plugin["cooldown"] = json!({"max_ms": 50, "default_ms": 50}))
}

impl Clusters {
    fn client(&self) -> Client {
        self.envoy.client()
    }

    /// No host has seen another account than its own, nor more at once than it takes.
    #[track_caller]
    fn assert_own(&self) {
        for (host, (id, _, slots)) in self.hosts.iter().zip(ACCOUNTS) {
            let snapshot = host.snapshot();
            let others: Vec<&String> = snapshot
                .accounts
                .keys()
                .filter(|name| *name != id)
                .collect();
            assert!(others.is_empty(), "{id}: {snapshot:?}");
            assert!(
                snapshot.account(id).most as u64 <= slots,
                "{id}: {snapshot:?}"
            );
        }
    }

    fn requests(&self) -> u64 {
        self.hosts.iter().map(|host| host.snapshot().requests).sum()
    }

    #[track_caller]
    fn assert_settled(&self) {
        eventually(SOON, || self.ledger.live() == 0);
        self.ledger.assert_consistent();
        self.assert_own();
        assert_sound(&self.envoy);
    }

    fn counter(&self, name: &str) -> u64 {
        self.envoy.filter_stat(name).unwrap_or_default()
    }
}

/// Its own key and no other account's.
#[track_caller]
fn assert_own_headers(seen: &Value) {
    let id = seen["account"].as_str().expect("an account");
    let headers = &seen["headers"];
    assert_eq!(headers["authorization"], format!("Bearer key-of-{id}"));
    for (other, cluster, _) in ACCOUNTS {
        assert_eq!(headers[format!("x-only-{other}")].is_null(), other != id);
        if other == id {
            assert_eq!(headers["x-upstream"], cluster);
        }
    }
    assert!(headers["x-slotgate-retry"].is_null(), "{seen}");
}

#[test]
fn each_try_goes_to_its_own_cluster() {
    let world = start(short_rests);
    let mut number = 0;
    for refused in ["acct-1,acct-2", "acct-2,acct-3", "acct-1,acct-3"] {
        let serves = ACCOUNTS.iter().find(|account| !refused.contains(account.0));
        let serves = serves.expect("one").0;
        for (status, body) in [(429, 0), (503, 1_000), (529, 300_000), (429, 7_000_000)] {
            let path = format!("/refuse?accounts={refused}&status={status}");
            let reply = world.client().send(Request::post(&path, vec![b'x'; body]));
            let reply = reply.expect("an answer");
            assert_eq!(way(&reply), (200, "atomic"), "{}", reply.text());
            assert_eq!(reply.header("x-slotgate-account"), serves);
            assert_eq!(reply.header("x-slotgate-retry"), "");
            let seen = reply.json();
            assert_eq!(seen["body_length"], body);
            assert_own_headers(&seen);
            number += 1;
            // Until none rests.
            std::thread::sleep(Duration::from_millis(80));
        }
    }
    assert!(number == 12 && world.requests() > 12);
    assert!(world.hosts.iter().all(|host| host.snapshot().requests > 0));
    world.assert_settled();
    let served = world.counter("failover;outcome=served");
    assert_eq!(world.counter("failover;outcome=no_other"), 0);
    assert!(served > 0);
}

#[test]
fn where_all_refuse_the_last_answer_passes() {
    let world = start(|config| config);
    let reply = world
        .client()
        .get("/refuse?accounts=acct-1,acct-2,acct-3", &[]);
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (429, "{\"error\": \"busy\"}")
    );
    assert_eq!(reply.header("retry-after"), "7");
    assert_eq!(world.requests(), 3);
    world.assert_settled();
    for (id, ..) in ACCOUNTS {
        let refused = format!("account.refused;account={id}");
        eventually(SOON, || world.counter(&refused) == 1);
    }
}

/// The upstream sends the mark with each answer.
#[test]
fn an_upstream_has_no_say_in_whether_it_is_tried_again() {
    let world = start(|config| config);
    for number in 1..=3 {
        let reply = world.client().get("/refuse?accounts=", &[]);
        assert_eq!((reply.status, world.requests()), (200, number));
    }
    world.assert_settled();
}

/// Envoy was told to try again, and is not set up to.
#[test]
fn the_mark_reaches_no_client() {
    let world = start(|config| {
        config.manager(|manager| {
            if manager["stat_prefix"] == "http" {
                let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0];
                let route = route["route"].as_object_mut().expect("a route");
                route.remove("retry_policy");
            }
        })
    });
    let reply = world
        .client()
        .get("/refuse?accounts=acct-1,acct-2,acct-3", &[]);
    assert_eq!((reply.status, world.requests()), (429, 1));
    assert_eq!(reply.header("x-slotgate-retry"), "");
    world.assert_settled();
}

#[test]
fn an_account_whose_host_is_down_costs_nobody_a_request() {
    let world = start(|config| config);
    world.hosts[0].refuse();
    world.hosts[2].refuse();
    for _ in 0..20 {
        let reply = world.client().get("/refuse?accounts=", &[]);
        assert_eq!(way(&reply), (200, "atomic"), "{}", reply.text());
        assert_own_headers(&reply.json());
    }
    world.assert_settled();
}

#[test]
fn what_an_account_may_have_done_is_not_done_twice() {
    let world = start(|config| config);
    let reply = world
        .client()
        .get("/refuse?accounts=acct-1,acct-2,acct-3&how=reset", &[]);
    assert_eq!((reply.status, world.requests()), (502, 1));
    world.assert_settled();
}

#[test]
fn a_stream_passes_as_it_comes() {
    let world = start(|config| config);
    let mut stream = world.client().open("/sse?events=1000&interval_ms=20", &[]);
    let begin = Instant::now();
    assert_eq!(stream.events(5).len(), 5);
    assert!(begin.elapsed() < Duration::from_secs(2));
    drop(stream);
    eventually(SOON, || {
        world.hosts.iter().all(|host| host.snapshot().now == 0)
    });
    world.assert_settled();
}

#[test]
fn grpc_and_websockets_pass() {
    let world = start(short_rests);
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let client = world.client();
    let reply = client.post(
        "/refuse?grpc=8&accounts=acct-1,acct-2",
        &headers,
        vec![0; 5],
    );
    let said = (reply.header("grpc-status"), reply.header("x-told"));
    assert_eq!(said, ("0", "acct-3"));

    let (status, mut socket) = world.client().websocket("/ws", &[]);
    assert_eq!((status, world.ledger.live()), (101, 1));
    socket.send(b"ping");
    assert_eq!(socket.read_exact(4), b"ping");
    drop(socket);
    world.assert_settled();
}

/// The upstream is told the same as by a route straight to the account's cluster.
#[test]
fn headers_are_those_of_a_straight_route() {
    let only_one = |config: EnvoyConfig| {
        config.plugin(|plugin| {
            let accounts = plugin["pools"][0]["accounts"].as_array_mut();
            accounts.expect("accounts").truncate(1);
        })
    };
    let straight = |config: EnvoyConfig| {
        only_one(config).manager(|manager| {
            if manager["stat_prefix"] == "http" {
                let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0];
                route["route"] = json!({"cluster_header": "x-upstream", "timeout": "0s"});
            }
        })
    };
    let ask = |world: &Clusters| {
        let headers = [
            ("x-request-id", "of-the-client"),
            ("x-forwarded-for", "192.0.2.7"),
            ("accept-encoding", "br"),
            ("host", "api.example.com"),
        ];
        let reply = world.client().get("/echo?a=b", &headers);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let mut seen = reply.json();
        seen["headers"]["x-slotgate-lease"] = json!("");
        let answer: BTreeSet<String> = reply.headers.keys().map(ToString::to_string).collect();
        (seen, answer)
    };
    let (by_listener, straight) = (start(only_one), start(straight));
    assert_eq!(ask(&by_listener), ask(&straight));
}

/// Refusals, aborts, a host that goes away, a Redis that stalls.
#[test]
fn a_storm_leaves_nothing_and_breaks_no_limit() {
    let world = start(|config| {
        config.workers(2).plugin(|plugin| {
            plugin["cooldown"] = json!({"max_ms": 5, "default_ms": 5});
            plugin["failing"] = json!({"percent": 0});
            plugin["redis"]["acquire_timeout_ms"] = json!(500);
            plugin["failure"] = json!({"action": "reject"});
        })
    });
    let end = Instant::now() + Duration::from_secs(8);
    let clients: Vec<_> = (0..40_u64)
        .map(|number| {
            let client = world.client();
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(number);
                let mut statuses = BTreeMap::new();
                while Instant::now() < end {
                    let accounts = ["", "", "acct-1", "acct-2", "acct-3", "acct-2,acct-3"];
                    let accounts = random.choice(accounts).unwrap();
                    let how = if random.u8(..) < 10 { "reset" } else { "" };
                    let path = format!(
                        "/refuse?accounts={accounts}&how={how}&delay_ms={}",
                        random.u64(0..10)
                    );
                    if random.u8(..) < 40 {
                        let connection = client.start(&path, &[]);
                        std::thread::sleep(Duration::from_millis(random.u64(0..8)));
                        connection.reset();
                        continue;
                    }
                    let body = random.choice([0, 0, 1_000, 300_000]).unwrap();
                    let reply = client.send(Request::post(&path, vec![b'x'; body]));
                    let status = reply.map_or(0, |reply| reply.status);
                    *statuses.entry(status).or_insert(0_u32) += 1;
                }
                statuses
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(1_500));
    world.redis.sigstop();
    std::thread::sleep(Duration::from_millis(300));
    world.redis.sigcont();
    std::thread::sleep(Duration::from_millis(1_000));
    world.hosts[1].refuse();
    std::thread::sleep(Duration::from_millis(1_500));
    world.hosts[1].accept_again();
    let mut statuses = BTreeMap::new();
    for client in clients {
        for (status, count) in client.join().expect("no client panics") {
            *statuses.entry(status).or_insert(0) += count;
        }
    }
    println!("{statuses:?}");
    assert!(statuses[&200] > 100, "{statuses:?}");
    for status in statuses.keys() {
        assert!([200, 429, 502, 503].contains(status), "{statuses:?}");
    }
    world.assert_settled();
    assert!(world.ledger.state().used.values().all(|used| *used == 0));
    assert!(world.counter("failover;outcome=served") > 0);
}
