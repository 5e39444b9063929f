//! `explain --request` and `--lease`: two Envoys of two workers, and whoever decided on the request tells.

use crate::{finish, program};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{Envoy, EnvoyConfig, Redis, Request, Upstream};

struct World {
    envoys: [Envoy; 2],
    redis: Redis,
    _upstream: Upstream,
}

impl World {
    fn start() -> World {
        let (redis, upstream) = (Redis::start(), Upstream::start());
        let envoy = || {
            let config = EnvoyConfig::from_example().workers(2).plugin(|plugin| {
                plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
                plugin["gray"]["percent"] = json!(60);
            });
            Envoy::start(config.redis(redis.addr()).upstream(upstream.addr()))
        };
        World {
            envoys: [envoy(), envoy()],
            redis,
            _upstream: upstream,
        }
    }

    fn run(&self, arguments: &[&str]) -> crate::Ran {
        let mut command = program();
        command.args(arguments);
        command.arg("--redis").arg(self.redis.addr().to_string());
        finish(command, "")
    }
}

#[test]
fn a_request_is_explained_by_whoever_decided_on_it() {
    let world = World::start();
    // Each of them on a connection of its own, so that all four workers have some.
    let mut decided = Vec::new();
    for number in 0..40 {
        let session = format!("session-{number}");
        let request = Request::get("/echo").header("x-session-id", &session);
        let reply = world.envoys[number % 2]
            .client()
            .send(request)
            .expect("a reply");
        let seen = reply.json()["headers"].clone();
        decided.push((session, seen));
    }
    let mut slowest = Duration::ZERO;
    let mut ways = std::collections::BTreeMap::<String, u32>::new();
    for (session, seen) in decided.iter().step_by(4) {
        let header = |name: &str| seen[name].as_str().unwrap_or_default();
        let start = Instant::now();
        let told = world.run(&["explain", "--json", "--request", header("x-request-id")]);
        slowest = slowest.max(start.elapsed());
        let told: Value = serde_json::from_str(&told.done()).expect("JSON");
        let bucket = slotgate::request::gray::Bucketer::new("").bucket(session.as_bytes());
        let is_in = bucket < 6_000;
        let mut expected = json!({
            "asked": {"request": header("x-request-id")}, "way": header("x-slotgate-path"),
            "pool": "demo", "bucket": bucket, "percent": 60.0, "reason": null,
            "account": null, "lease": null, "waited_ms": told["waited_ms"], "ago_ms": told["ago_ms"],
        });
        if is_in {
            expected["account"] = header("x-slotgate-account").into();
            expected["lease"] = header("x-slotgate-lease").into();
        } else {
            expected["reason"] = "out_of_percentage".into();
        }
        assert_eq!(told, expected);
        *ways.entry(header("x-slotgate-path").into()).or_default() += 1;
        if is_in {
            let told = world
                .run(&[
                    "explain",
                    "--lease",
                    header("x-slotgate-lease"),
                    "--pool",
                    "demo",
                ])
                .done();
            let first = format!(
                "lease {:?} took a slot of {} of pool demo\n",
                header("x-slotgate-lease"),
                header("x-slotgate-account")
            );
            let second = format!("bucket {bucket}: in at 60 %; decided after ");
            assert!(told.starts_with(&(first + &second)), "{told}");
            print!("{told}");
        } else {
            let told = world
                .run(&["explain", "--request", header("x-request-id")])
                .done();
            let expected = format!(
                "request {:?} went the traditional way of pool demo: it is out of the percentage, or an override says so\nbucket {bucket}: out at 60 %; ",
                header("x-request-id")
            );
            assert!(told.starts_with(&expected), "{told}");
        }
    }
    println!("{ways:?} explained, the slowest answer took {slowest:?}");
    assert!(
        ways.values().all(|count| *count > 1) && ways.len() == 2,
        "{ways:?}"
    );
    let log = world.envoys.each_ref().map(Envoy::log).concat();
    assert!(!log.contains("panicked"));
}

#[test]
fn what_nobody_remembers_is_said_so() {
    let world = World::start();
    // A pool that is in Redis: not every request is in the gray release.
    for number in 0..20 {
        let session = format!("session-{number}");
        world.envoys[0]
            .client()
            .get("/", &[("x-session-id", &session)]);
    }
    let start = Instant::now();
    let message = world.run(&["explain", "--request", "nobody's"]).failed(1);
    assert!(
        (2..10).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    assert!(
        message.starts_with("error: no worker remembers request \"nobody's\"\n  try: each worker remembers its last 1024 decisions"),
        "{message}"
    );
    let message = world.run(&["explain", "--lease", ""]).failed(2);
    assert!(
        message.contains("--lease is not 1..=256 bytes"),
        "{message}"
    );
    let message = world
        .run(&["explain", "--request", "a", "--session", "b"])
        .failed(2);
    assert!(message.contains("cannot be used with"), "{message}");
    // It changed nothing that lasts.
    let left: Vec<String> = world.redis.run("KEYS", &["*:answer"]);
    assert!(left.is_empty(), "{left:?}");
}
