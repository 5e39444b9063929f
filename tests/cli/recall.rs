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

/// A request's id, and what `explain` says of it as text and as JSON.
fn explained(run: impl Fn(&[&str]) -> crate::Ran, id: &str) -> (String, Value) {
    let text = run(&["explain", "--request", id]).done();
    let json = run(&["explain", "--json", "--request", id]).done();
    (text, serde_json::from_str(&json).expect("JSON"))
}

/// Accounts and statuses of the tries as they must be, and the text's first line and a line for each of them.
#[track_caller]
fn assert_tries(text: &str, json: &Value, first: &str, expected: &[(&str, u64)]) {
    let tries = json["tries"].as_array().expect("tries");
    let mut lines = format!("{first}\n");
    let mut seen = Vec::new();
    for one in tries {
        let (account, status) = (
            one["account"].as_str().unwrap(),
            one["status"].as_u64().unwrap(),
        );
        seen.push((account, status));
        lines += &format!(
            "{account} refused it with {status} after {} ms\n",
            one["ms"]
        );
    }
    assert_eq!(seen, expected);
    assert!(text.starts_with(&lines), "{text}\n{lines}");
}

#[test]
fn each_try_of_a_refused_request_is_named() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let config = EnvoyConfig::from_example().plugin(|plugin| {
        plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
        plugin["gray"]["percent"] = json!(100);
        plugin["response_headers"] = json!(true);
        // Each request finds all accounts rested.
        plugin["cooldown"] = json!({"max_ms": 1, "probe": false});
        plugin["priority_mode"] = json!("strict");
        let account = |(id, priority)| {
            json!({"id": id, "max_concurrency": 5, "priority": priority, "set_headers": {"x-upstream": "acct_1"}})
        };
        plugin["pools"][0]["accounts"] = [("a", 1), ("b", 2)].into_iter().map(account).collect();
    });
    let keep_ids = |manager: &mut Value| manager["preserve_external_request_id"] = json!(true);
    let config = config.failover(3).manager(keep_ids);
    let envoy = Envoy::start(config.redis(redis.addr()).upstream(upstream.addr()));
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments);
        command.arg("--redis").arg(redis.addr().to_string());
        finish(command, "")
    };
    let send = |path: &str, id: &str| {
        let request = Request::get(path).header("x-request-id", id);
        envoy.client().send(request).expect("a reply")
    };
    // The first request of the worker opens the pipe.
    support::eventually(support::PATIENCE, || {
        send("/refuse?accounts=", "warm").header("x-slotgate-path") == "atomic"
    });

    // Served after a refusal: the account that served comes first, and alone has the lease.
    let reply = send("/refuse?accounts=a&status=529", "served");
    assert_eq!(
        (reply.status, reply.header("x-slotgate-account")),
        (200, "b")
    );
    let (text, json) = explained(run, "served");
    let first = "request \"served\" took a slot of b of pool demo";
    assert_tries(&text, &json, first, &[("a", 529)]);
    assert_eq!(
        (&json["way"], &json["account"]),
        (&json!("atomic"), &json!("b"))
    );
    print!("{text}");

    // All refuse it.
    let reply = send("/refuse?accounts=a,b", "refused");
    assert_eq!(reply.json()["error"]["type"], "slotgate_exhausted");
    let (text, json) = explained(run, "refused");
    let first =
        "request \"refused\" was answered here of pool demo: no other account had a free slot";
    let mut tries = [("a", 429), ("b", 429)];
    if json["tries"][0]["account"] == "b" {
        tries.reverse();
    }
    assert_tries(&text, &json, first, &tries);
    print!("{text}");

    // Nobody is there. How far the tries get is Envoy's to say: it may give up while the second one waits for its slot.
    upstream.refuse();
    assert_eq!(send("/refuse?accounts=", "gone").status, 503);
    let (text, json) = explained(run, "gone");
    let first = &json["tries"][0];
    assert_eq!(first["status"], 0);
    // Which of the two is first depends on which one refused later.
    let account = first["account"].as_str().expect("an account");
    let line = format!(
        "{account} gave no answer; the next try began after {} ms\n",
        first["ms"]
    );
    assert!(text.contains(&line), "{text}");
    print!("{text}");
    upstream.accept_again();

    // Nothing is said of tries where there was one.
    let (text, json) = explained(run, "warm");
    assert!(
        json.get("tries").is_none() && !text.contains("refused it"),
        "{text}"
    );
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
