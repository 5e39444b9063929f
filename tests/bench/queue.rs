//! What waiting costs and gives: `make bench-queue` prints two tables.
//!
//! Hand-off: one slot; a stream over one Envoy holds it, a request over another waits for it. From the end of the stream,
//! as its client sees it, to the answer of the one that waited. Beside it: a request that finds the slot free, in between. Use: as many clients as can wait for a few slots, who
//! queue, or come back when they are refused.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::*;

const ROUNDS: usize = 300;
const SLOTS: usize = 4;
const CLIENTS: usize = 40;
const SERVICE: &str = "/delay?ms=100";
const LASTS: Duration = Duration::from_secs(15);

/// What a client does that finds no slot.
#[derive(Clone, Copy)]
enum Way {
    Queue,
    /// It comes back after so long.
    Retry(Duration),
}

struct World {
    envoys: [Envoy; 2],
    redis: Redis,
    _upstream: Upstream,
}

impl World {
    fn start(slots: usize, way: Way) -> Self {
        let (redis, upstream) = (Redis::start(), Upstream::start());
        let saturated = match way {
            Way::Queue => json!({"action": "queue", "queue": {"max_wait_ms": 60_000}}),
            Way::Retry(_) => json!({"action": "reject"}),
        };
        let config = || {
            let account: Value = json!({"id": "a", "max_concurrency": slots, "set_headers": {"x-upstream": "acct_1"}});
            let saturated = saturated.clone();
            EnvoyConfig::from_example()
                .plugin(move |plugin| {
                    plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
                    plugin["saturated"] = saturated.clone();
                    plugin["pools"][0]["accounts"] = json!([account]);
                })
                .without_access_log()
                .redis(redis.addr())
                .upstream(upstream.addr())
        };
        let envoys = [Envoy::start(config()), Envoy::start(config())];
        Self {
            envoys,
            redis,
            _upstream: upstream,
        }
    }

    fn waiting(&self) -> usize {
        let queue = ["slotgate:{demo}:queue", "[w:", "(w;"];
        self.redis.run("ZLEXCOUNT", &queue)
    }
}

/// Sends until it is served.
async fn served(client: Client, path: &'static str, way: Way) -> Duration {
    let begin = Instant::now();
    loop {
        let reply = client.sending(Request::get(path)).await.expect("an answer");
        match (reply.status, way) {
            (200, _) => return begin.elapsed(),
            (429, Way::Retry(after)) => tokio::time::sleep(after).await,
            (status, _) => panic!("status {status}"),
        }
    }
}

/// How long each hand-off took, and each request in between that found the slot free.
fn hand_offs(way: Way) -> (Vec<Duration>, Vec<Duration>) {
    let world = World::start(1, way);
    let [holder, waiter] = world.envoys.each_ref().map(Envoy::client);
    let (mut took, mut alone) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let leases = || {
            world
                .redis
                .run::<usize>("ZCARD", &["slotgate:{demo}:leases"])
        };
        eventually(PATIENCE, || leases() == 0);
        let free = wait(async move { served(waiter, "/", way).await });
        eventually(PATIENCE, || leases() == 0);
        let mut stream = holder.open("/sse?events=3&interval_ms=20", &[]);
        assert_eq!(stream.status, 200);
        let answered = Arc::new(Mutex::new(None));
        let at = Arc::clone(&answered);
        let waits = spawn(async move {
            served(waiter, "/", way).await;
            *at.lock().unwrap() = Some(Instant::now());
        });
        while stream.next_event().is_ok_and(|event| event.is_some()) {}
        let ended = Instant::now();
        drop(stream);
        wait(async move { waits.await.expect("it is served") });
        let answered = answered.lock().unwrap().expect("it was");
        // The first one opens connections.
        if round > 0 {
            took.push(answered.saturating_duration_since(ended));
            alone.push(free);
        }
    }
    assert_eq!(world.waiting(), 0);
    took.sort();
    alone.sort();
    (took, alone)
}

/// The share of time that slots were busy, and how long each request took beyond its service.
fn used(way: Way) -> (f64, Vec<Duration>) {
    let world = World::start(SLOTS, way);
    let clients = world.envoys.each_ref().map(Envoy::client);
    for client in clients {
        wait(async move { served(client, "/", way).await });
    }
    let begin = Instant::now();
    let lanes: Vec<_> = (0..CLIENTS)
        .map(|lane| {
            let client = clients[lane % 2];
            spawn(async move {
                let mut took = Vec::new();
                while begin.elapsed() < LASTS {
                    took.push(served(client, SERVICE, way).await);
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = wait(async {
        let mut all = Vec::new();
        for lane in lanes {
            all.extend(lane.await.expect("a lane panicked"));
        }
        all
    });
    let busy = took.len() as f64 * 0.1 / (SLOTS as f64 * begin.elapsed().as_secs_f64());
    took.sort();
    (busy, took)
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[index].as_secs_f64() * 1000.0
}

fn main() {
    let ways = [
        ("queue", Way::Queue),
        (
            "429, asked again every 50 ms",
            Way::Retry(Duration::from_millis(50)),
        ),
        (
            "429, asked again every 250 ms",
            Way::Retry(Duration::from_millis(250)),
        ),
    ];
    println!("| hand-off to another Envoy | p50 ms | p99 ms |\n|---|---|---|");
    let show = |name: &str, took: &[Duration]| {
        println!("| {name} | {:.2} | {:.2} |", at(took, 0.5), at(took, 0.99));
    };
    for (name, way) in ways {
        let (took, alone) = hand_offs(way);
        show(name, &took);
        if matches!(way, Way::Queue) {
            show("a request that finds the slot free, in between", &alone);
        }
    }
    println!(
        "\n| {CLIENTS} clients, {SLOTS} slots, 100 ms each | slots busy | p50 ms | p99 ms | longest ms |\n|---|---|---|---|---|"
    );
    for (name, way) in ways {
        let (busy, took) = used(way);
        println!(
            "| {name} | {:.1} % | {:.0} | {:.0} | {:.0} |",
            busy * 100.0,
            at(&took, 0.5),
            at(&took, 0.99),
            at(&took, 1.0)
        );
    }
}
