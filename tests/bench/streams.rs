//! What streams in flight cost: `make bench-streams` prints a table and writes target/bench-streams.json.
//!
//! One worker with more and more streams that never end, each with its lease. For every step: what Envoy and Redis spend
//! on renewals, what the streams weigh, and how long other requests take meanwhile.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use slotgate::config::{Role, parse};
use slotgate::ledger::source::Script;
use slotgate::request::headers::Headers;
use slotgate::worker::Worker;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::time::{Duration, Instant};
use support::{Envoy, EnvoyConfig, Ledger, Redis, Upstream, Usage, eventually, spawn, wait};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const STREAMS: [usize; 6] = [0, 1_000, 2_000, 5_000, 10_000, 20_000];
/// Four rounds of renewals.
const WINDOW: Duration = Duration::from_secs(20);
/// Other requests come this far apart.
const PROBE: Duration = Duration::from_millis(10);
/// Streams on one connection.
const TOGETHER: usize = 100;
const PATIENCE: Duration = Duration::from_secs(120);

/// CPU time so far, in seconds, and resident memory, in bytes.
fn usage(pid: u32) -> (f64, f64) {
    let usage = Usage::of(pid);
    (usage.cpu_s, usage.resident)
}

/// AccountTable what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's own, and a counter.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised to us.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What the pure core keeps of a stream that holds a lease, in bytes on this machine.
fn weight_in_the_core() -> usize {
    let streams = *STREAMS.last().unwrap();
    let pools = json!([{"name": "p", "accounts": [{"id": "a", "max_concurrency": 100_000}]}]);
    let json = json!({"role": "scheduler", "redis": {"max_pending": 1_000_000}, "gray": {"percent": 100}, "pools": pools});
    let Ok(Role::Scheduler(config)) = parse(json.to_string().as_bytes(), &|_| None) else {
        panic!("a configuration")
    };
    let mut worker = Worker::new(*config, 1);
    worker.on_request(0, 0, Headers::new(&Headers::serialize(&[])));
    worker.on_tick(0);
    worker.on_pipe_open(0);
    worker.on_pipe_bytes(0, b"+OK\r\n");
    for _ in Script::FILTER {
        worker.on_pipe_bytes(0, b"$40\r\n0123456789012345678901234567890123456789\r\n");
    }
    worker.on_pipe_bytes(0, b"*3\r\n$7\r\ncurrent\r\n$1\r\n1\r\n$1\r\n9\r\n");
    // The first look at the operator's overrides: there are none.
    worker.on_pipe_bytes(0, b"*5\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n:0\r\n");
    worker.on_pipe_bytes(0, b"*2\r\n$1\r\n9\r\n$1\r\na\r\n");
    let before = ALLOCATED.load(Ordering::Relaxed);
    for stream in 1..=streams {
        worker.on_request(0, stream as u32, Headers::new(&Headers::serialize(&[])));
        worker.flush(0);
        worker.on_pipe_bytes(0, b"*2\r\n$1\r\n9\r\n$1\r\na\r\n");
        while worker.next_answer().is_some() {}
        worker.wire().bytes.clear();
    }
    (ALLOCATED.load(Ordering::Relaxed) - before) / streams
}

/// Requests that carry `x-hold` stop behind the filter, for ever.
fn config(redis: &Redis, upstream: &Upstream, with_filter: bool) -> EnvoyConfig {
    let config = EnvoyConfig::from_example().without_access_log().plugin(|plugin| {
        plugin["pools"][0]["accounts"] = (0..100)
            .map(|n| json!({"id": format!("a{n}"), "max_concurrency": 1_000, "set_headers": {"x-upstream": "acct_1"}}))
            .collect();
    });
    let config = if with_filter {
        config
    } else {
        config.without_wasm()
    };
    config
        .redis(redis.addr())
        .upstream(upstream.addr())
        .log_levels("warning", "wasm:warning")
        .manager(|manager| {
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            filters.insert(filters.len() - 1, json!({
                "name": "envoy.filters.http.fault",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                    "delay": {"fixed_delay": "86400s", "percentage": {"numerator": 100}},
                    "headers": [{"name": "x-hold", "present_match": true}],
                },
            }));
        })
}

struct World {
    envoy: Envoy,
    redis: Redis,
    upstream: Upstream,
    held: JoinSet<()>,
}

impl World {
    fn start(with_filter: bool) -> Self {
        let (redis, upstream) = (Redis::start(), Upstream::start());
        let envoy = Envoy::start(config(&redis, &upstream, with_filter));
        Self {
            envoy,
            redis,
            upstream,
            held: JoinSet::new(),
        }
    }

    /// Opens streams until there are so many.
    fn hold(&mut self, streams: usize) {
        let addr = self.envoy.addr();
        while self.held.len() < streams {
            let sender = wait(async move {
                let tcp = TcpStream::connect(addr).await.expect("a connection");
                let executor = TokioExecutor::new();
                let handshake = hyper::client::conn::http2::handshake(executor, TokioIo::new(tcp));
                let (sender, connection) = handshake.await.expect("HTTP/2");
                spawn(connection);
                sender
            });
            for _ in 0..TOGETHER {
                let mut sender = sender.clone();
                let request = hyper::Request::get(format!("http://{addr}/"))
                    .header("x-hold", "1")
                    .body(Empty::<Bytes>::new())
                    .expect("a request");
                // It ends with its connection, unanswered.
                let task = async move { assert!(sender.send_request(request).await.is_err()) };
                self.held.spawn_on(task, &support::runtime());
            }
            // No faster than the filter decides: none of them should go without a lease.
            let all = self.held.len() as u64;
            eventually(PATIENCE, || {
                self.envoy.stat("http.http.downstream_rq_active") == Some(all)
            });
        }
    }

    /// Sends other requests for a while; their latencies in ms, sorted.
    fn probe(&self) -> Vec<f64> {
        let client = self.envoy.client();
        let began = Instant::now();
        let mut times = Vec::new();
        while began.elapsed() < WINDOW {
            let start = Instant::now();
            assert_eq!(client.get("/", &[]).status, 200);
            times.push(start.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(PROBE.saturating_sub(start.elapsed()));
        }
        times.sort_by(f64::total_cmp);
        times
    }
}

fn main() {
    println!(
        "the core keeps {} bytes for each stream",
        weight_in_the_core()
    );
    let mut bare = World::start(false);
    let mut world = World::start(true);
    let ledger = Ledger::new(&world.redis, "slotgate", "demo");
    println!(
        "{:>7} {:>12} {:>12} {:>14} {:>9} {:>9} {:>9}  renewed/s",
        "streams", "Envoy % core", "Redis % core", "bytes/stream", "p50 ms", "p99 ms", "max ms"
    );
    let (mut first, mut weights, mut steps) = (None, Vec::new(), Vec::new());
    for streams in STREAMS {
        bare.hold(streams);
        world.hold(streams);
        let counter = |name: &str| world.envoy.filter_stat(name).unwrap_or_default();
        // One that fell back while the pipe opened holds no lease.
        let held = ledger.live();
        assert!(held + 600 >= streams, "{held} leases of {streams} streams");
        let (envoy, redis, renewed) = (
            usage(world.envoy.pid()),
            usage(world.redis.pid()),
            counter("lease.renewed"),
        );
        let began = Instant::now();
        let times = world.probe();
        let seconds = began.elapsed().as_secs_f64();
        let share = |after: f64, before: f64| 100.0 * (after - before) / seconds;
        let now = (
            share(usage(world.envoy.pid()).0, envoy.0),
            share(usage(world.redis.pid()).0, redis.0),
        );
        let first = *first.get_or_insert(now);
        let weight = usage(world.envoy.pid()).1 - usage(bare.envoy.pid()).1;
        weights.push(weight);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{streams:>7} {:>12.2} {:>12.2} {:>14.0} {:>9.2} {:>9.2} {:>9.2}  {:.0}",
            now.0 - first.0,
            now.1 - first.1,
            (weight - weights[0]) / streams.max(1) as f64,
            at(0.5),
            at(0.99),
            at(1.0),
            (counter("lease.renewed") - renewed) as f64 / seconds,
        );
        steps.push(json!({
            "streams": streams,
            "Envoy % core": now.0 - first.0,
            "Redis % core": now.1 - first.1,
            "bytes/stream": (weight - weights[0]) / streams.max(1) as f64,
            "p50 ms": at(0.5),
            "p99 ms": at(0.99),
        }));
        assert_eq!(counter("lease.lost"), 0);
    }
    let path = support::root().join("target/bench-streams.json");
    std::fs::write(path, json!({"steps": steps}).to_string()).expect("target can be written");
    println!(
        "% core: more than without streams. bytes/stream: resident memory of Envoy, more than the same streams without the filter."
    );
    println!(
        "Other requests: {} in {} s each, upstream on loopback.",
        WINDOW.as_millis() / PROBE.as_millis(),
        WINDOW.as_secs()
    );
    let streams = world.held.len();
    world.held.abort_all();
    eventually(PATIENCE, || ledger.is_empty());
    println!(
        "{streams} streams ended: no lease is left; {} requests reached the upstream",
        world.upstream.snapshot().requests
    );
}
