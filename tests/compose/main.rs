//! `envoy/docker-compose.yaml` in a real Docker engine: its tester's verdict, and an Envoy cut off from Redis.
//!
//! Ignored unless asked for, since it needs an engine and images: `make test-compose` looks for both.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use support::*;

const FILE: &str = "envoy/docker-compose.yaml";
const PASSWORD: &str = "of-the-test";
const TOKEN: &str = "a token of enough bytes";
/// The example's `lease.ttl_ms`.
const TTL: Duration = Duration::from_secs(15);
/// From the network's return to the first answer from the ledger: the name is asked for every 5 s, the pipe then opened
/// within one.
const RECOVERY: Duration = Duration::from_secs(7);
/// Slots of all accounts.
const SLOTS: usize = 35;
const STREAM: &str = "/sse?events=1000000&interval_ms=100";

/// One running project, taken down on drop.
struct Compose {
    project: String,
    ports: Vec<(&'static str, Port)>,
}

impl Compose {
    fn new() -> Compose {
        let names = [
            "ENVOY",
            "ADMIN",
            "ENVOY_2",
            "ADMIN_2",
            "REDIS",
            "CONSOLE",
            "PROMETHEUS",
        ];
        Compose {
            project: format!("slotgate-test-{}", std::process::id()),
            ports: names.map(|name| (name, Port::free())).into(),
        }
    }

    fn port(&self, name: &str) -> std::net::SocketAddr {
        let port = self.ports.iter().find(|(other, _)| *other == name);
        port.expect("a port of that name").1.addr()
    }

    /// Compose 2, or 1.29 where that is what there is.
    fn command(&self, args: &[&str]) -> Command {
        let has_plugin = run(Command::new("docker").args(["compose", "version"]))
            .status
            .success();
        let mut command = if has_plugin {
            let mut docker = Command::new("docker");
            docker.arg("compose");
            docker
        } else {
            Command::new("docker-compose")
        };
        command.args(["--file", FILE, "--project-name", &self.project]);
        command.args(args).current_dir(root());
        for (name, port) in &self.ports {
            command.env(format!("SLOTGATE_{name}_PORT"), port.number().to_string());
        }
        command.env("SLOTGATE_REDIS_PASSWORD", PASSWORD);
        command.env("SLOTGATE_CONSOLE_TOKEN", TOKEN);
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        checked(&mut self.command(args))
    }

    /// Takes a service off the network that leads to Redis, or puts it back.
    #[track_caller]
    fn network(&self, verb: &str, service: &str) {
        let container = self.run(&["ps", "--quiet", service]);
        let network = format!("{}_ledger", self.project);
        checked(Command::new("docker").args(["network", verb, &network, container.trim()]));
    }

    fn ledger(&self) -> Ledger {
        let url = format!("redis://:{PASSWORD}@{}/", self.port("REDIS"));
        Ledger::at(
            redis::Client::open(url).expect("an address"),
            "slotgate",
            "demo",
        )
    }

    /// One of an Envoy's counters, by the port of its admin interface; 0 while there is none.
    fn counter(&self, admin: &str, name: &str) -> u64 {
        let stats = Client::new(self.port(admin)).get("/stats", &[]).text();
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(&format!("wasmcustom.slotgate.{name}: ")));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = run(&mut self.command(&["logs", "--tail", "40"]));
            eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        let profiles = ["--profile", "test", "--profile", "observe"];
        let down = ["down", "--volumes", "--timeout", "1"];
        run(&mut self.command(&[&profiles[..], &down].concat()));
    }
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[track_caller]
fn checked(command: &mut Command) -> String {
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn path(client: Client) -> String {
    let reply = client.get("/", &[]);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("x-slotgate-path").to_owned()
}

/// Until each worker has opened its pipe. There are two, and which one gets a connection is chance.
#[track_caller]
fn all_atomic(client: Client) {
    let mut row = 0;
    eventually(PATIENCE, || {
        row = if path(client) == "atomic" { row + 1 } else { 0 };
        row == 20
    });
}

/// Asked for again where one went without: on a busy machine the ledger's answer may take more than its 50 ms.
#[track_caller]
fn streams(client: Client, count: usize) -> Vec<EventStream> {
    let open = |_| {
        eventually_some(PATIENCE, || {
            let stream = client.open(STREAM, &[]);
            assert_eq!(stream.status, 200);
            (stream.header("x-slotgate-path") == "atomic").then_some(stream)
        })
    };
    (0..count).map(open).collect()
}

#[test]
#[ignore = "needs a Docker engine: make test-compose"]
fn the_tester_and_a_partition() {
    let compose = Compose::new();
    // As in the file's own comment: up, with a verdict.
    let verdict = compose.run(&["--profile", "test", "up", "--exit-code-from", "tester"]);
    assert!(verdict.contains("35 streams hold every slot"), "{verdict}");

    compose.run(&["up", "--detach", "envoy", "envoy-2"]);
    let (one, two) = (
        Client::new(compose.port("ENVOY")),
        Client::new(compose.port("ENVOY_2")),
    );
    let ledger = compose.ledger();
    what_is_pasted(&compose);
    for (client, admin) in [(one, "ADMIN"), (two, "ADMIN_2")] {
        eventually(PATIENCE, || {
            let ready = Client::new(compose.port(admin)).send(Request::get("/ready"));
            ready.is_ok_and(|reply| reply.status == 200)
        });
        all_atomic(client);
    }
    a_scrape(&compose);

    eventually(PATIENCE, || ledger.live() == 0);
    let kept = streams(one, 2);
    let mut cut_off = streams(two, 8);
    assert_eq!(ledger.live(), 10);

    compose.network("disconnect", "envoy-2");
    let cut = Instant::now();
    // Nobody waits for long, nobody sees an error, and the streams go on.
    let (mut slowest, mut atomic) = (Duration::ZERO, 0);
    for _ in 0..50 {
        let start = Instant::now();
        assert_eq!(path(two), "traditional");
        slowest = slowest.max(start.elapsed());
        atomic += usize::from(path(one) == "atomic");
    }
    assert!(
        atomic >= 40,
        "the other one is not concerned: {atomic} of 50"
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    for stream in &mut cut_off {
        stream.events(3);
    }

    // The leases of the one that can't renew them end, and the other one gives the slots away.
    eventually(PATIENCE, || ledger.live() == 2);
    let expired = cut.elapsed();
    assert!(expired <= TTL + Duration::from_secs(1), "{expired:?}");
    let taken = streams(one, SLOTS - 2);
    eventually(PATIENCE, || one.get("/", &[]).status == 429);
    ledger.assert_consistent();
    assert_eq!(path(two), "traditional");
    for stream in &mut cut_off {
        stream.events(3);
    }

    compose.network("connect", "envoy-2");
    let healed = Instant::now();
    // It sees a full ledger, which is not a failure.
    eventually(PATIENCE, || two.get("/", &[]).status == 429);
    let recovered = healed.elapsed();
    assert!(recovered <= RECOVERY, "{recovered:?}");
    // Its streams have lost their slots, and are told of once.
    eventually(PATIENCE, || {
        compose.counter("ADMIN_2", "lease.lost;pool=demo") == 8
    });
    assert_eq!(
        ledger.live(),
        SLOTS,
        "none of theirs came back above the limit"
    );

    drop((kept, taken, cut_off));
    eventually(PATIENCE, || ledger.is_empty());
    ledger.assert_consistent();
    all_atomic(two);
    println!(
        "cut off: slowest request {slowest:?}, leases gone after {expired:?}; back {recovered:?} after the network"
    );
}

/// When all are healthy, which is what `up --wait` waits for, the first request has its answer; and the console is there.
#[track_caller]
fn what_is_pasted(compose: &Compose) {
    let healthy = |service: &str| {
        let container = compose.run(&["ps", "--quiet", service]);
        let format = ["inspect", "--format", "{{.State.Health.Status}}"];
        checked(Command::new("docker").args(format).arg(container.trim())).trim() == "healthy"
    };
    for service in ["redis", "upstream", "envoy", "envoy-2"] {
        eventually(PATIENCE, || healthy(service));
    }
    for envoy in ["ENVOY", "ENVOY_2"] {
        let echo = Client::new(compose.port(envoy)).get("/echo", &[("x-session-id", "alice")]);
        assert_eq!(echo.status, 200, "{}", echo.text());
        assert!(echo.json().is_object());
    }
    let console = Client::new(compose.port("CONSOLE"));
    let host = format!("localhost:{}", compose.port("CONSOLE").port());
    let ask = |request: Request| {
        console
            .send(request.header("host", &host))
            .expect("a reply")
    };
    assert!(
        ask(Request::get("/"))
            .text()
            .contains("<title>slotgate</title>")
    );
    eventually(PATIENCE, || ask(Request::get("/api/status")).status == 200);
    let status = ask(Request::get("/api/status")).json();
    assert_eq!(
        status["pools"][0]["accounts"].as_array().map(Vec::len),
        Some(3)
    );
    let unbind = |token: &str| {
        let body = r#"{"pool": "demo", "session": "nobody's"}"#;
        ask(Request::post("/api/unbind", body)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}")))
        .status
    };
    assert_eq!(
        (unbind(TOKEN), unbind("another token of that length")),
        (200, 401)
    );
}

/// No port that it publishes by itself is one that `make up` takes.
#[test]
fn its_ports_are_not_the_demos() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("it is there");
    let compose = read(FILE);
    let ports = compose
        .split(":-")
        .skip(1)
        .filter_map(|rest| rest.split('}').next()?.parse::<u16>().ok());
    let ports: Vec<_> = ports.collect();
    assert!(ports.len() >= 8, "{ports:?}");
    let demo = read("tests/demo/up.rs").replace('_', "");
    let free = |port: &&u16| !demo.contains(&format!(", {port}, "));
    assert_eq!(ports.iter().filter(free).count(), ports.len(), "{ports:?}");
    let once: std::collections::BTreeSet<_> = ports.iter().collect();
    assert_eq!(once.len(), ports.len(), "{ports:?}");
}

/// Prometheus finds both Envoys and reads the filter's counters.
#[track_caller]
fn a_scrape(compose: &Compose) {
    compose.run(&["--profile", "observe", "up", "--detach", "prometheus"]);
    let prometheus = Client::new(compose.port("PROMETHEUS"));
    eventually(PATIENCE, || {
        // slotgate_requests{outcome="atomic"}
        let query = "/api/v1/query?query=slotgate_requests%7Boutcome%3D%22atomic%22%7D";
        let Ok(reply) = prometheus.send(Request::get(query)) else {
            return false;
        };
        let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let counted = answer["data"]["result"].as_array();
        counted.is_some_and(|rows| rows.len() == 2)
    });
}
