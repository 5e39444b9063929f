//! The operator's console: every path, what it changes in Redis, and everything it refuses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::world::{SOON, World, config, way};
use support::*;

mod crowd;
mod escapes;

const TOKEN: &str = "a token of enough bytes";

/// Accounts `a` and `b`, a console that may change them, and its address.
struct Rig {
    world: World,
    console: SocketAddr,
}

impl Rig {
    fn start() -> Rig {
        Rig::with(
            |plugin| plugin["token_env"] = json!("CONSOLE_TOKEN"),
            |config| config,
        )
    }

    fn with(
        plugin: impl FnMut(&mut Value),
        change: impl FnOnce(EnvoyConfig) -> EnvoyConfig,
    ) -> Rig {
        let config = config(&[("a", 5), ("b", 10)])
            .console(plugin)
            .env("CONSOLE_TOKEN", TOKEN);
        let world = World::start(change(config));
        let console = world.envoy.addrs()[1];
        let rig = Rig { world, console };
        // The filter creates the pool. Its release must not get between two dumps.
        rig.world.assert_serves();
        rig.world.assert_all_free();
        rig
    }

    fn get(&self, path: &str) -> Reply {
        self.send(get(path))
    }

    fn status(&self) -> Value {
        let reply = self.get("/api/status");
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    fn account(&self, id: &str) -> Value {
        let status = self.status();
        let accounts = status["pools"][0]["accounts"].as_array().unwrap();
        accounts.iter().find(|one| one["id"] == id).unwrap().clone()
    }

    fn send(&self, request: Request) -> Reply {
        Client::new(self.console).send(request).unwrap()
    }

    /// As the page sends it.
    fn post(&self, action: &str, body: &Value) -> Reply {
        self.send(signed(action, body.to_string()))
    }

    fn done(&self, action: &str, body: &Value) -> Value {
        let reply = self.post(action, body);
        assert_eq!(reply.status, 200, "{action}: {}", reply.text());
        reply.json()
    }

    /// All that a change could touch.
    /// What an operator's change may touch, but for what a recount or a sync notes for itself.
    fn dump(&self) -> BTreeMap<String, String> {
        let key = |name: &str| self.world.ledger.key(name);
        let mut dump = BTreeMap::new();
        for name in ["control", "accounts"] {
            let fields: Vec<(String, String)> = self.world.redis.run("HGETALL", &[&key(name)]);
            let own = fields
                .into_iter()
                .filter(|(field, _)| !field.starts_with('#'));
            dump.extend(own.map(|(field, value)| (format!("{name} {field}"), value)));
        }
        for name in ["cooldown", "free"] {
            let range = [&key(name), "0", "-1", "WITHSCORES"];
            let members: Vec<(String, String)> = self.world.redis.run("ZRANGE", &range);
            dump.extend(
                members
                    .into_iter()
                    .map(|(id, at)| (format!("{name} {id}"), at)),
            );
        }
        dump
    }
}

fn here(request: Request) -> Request {
    request.header("host", "localhost:9902")
}

fn get(path: &str) -> Request {
    here(Request::get(path))
}

fn post(action: &str, body: impl Into<Bytes>) -> Request {
    here(Request::post(&format!("/api/{action}"), body)).header("content-type", "application/json")
}

fn signed(action: &str, body: impl Into<Bytes>) -> Request {
    post(action, body).header("authorization", format!("Bearer {TOKEN}"))
}

fn kind(reply: &Reply) -> (u16, String) {
    let error = reply.json()["error"].take();
    assert!(!error["message"].as_str().unwrap().is_empty());
    (reply.status, error["kind"].as_str().unwrap().to_owned())
}

#[test]
fn the_page_and_its_parts() {
    let rig = Rig::start();
    for (path, media_type, part) in [
        ("/", "text/html", "<title>slotgate</title>"),
        ("/style.css", "text/css", ":focus-visible"),
        ("/main.js", "text/javascript", "/api/status"),
        ("/?from=a+link", "text/html", "<title>slotgate</title>"),
    ] {
        let reply = rig.get(path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.header("content-type").starts_with(media_type));
        assert!(reply.text().contains(part), "{path}");
        assert_eq!(reply.header("cache-control"), "no-store");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        let policy = reply.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
        assert!(policy.contains("frame-ancestors 'none'"));
    }
    let page = rig.get("/").text();
    assert!(!page.contains("http"), "something from elsewhere: {page}");
    let head = rig.send(here(Request::new("HEAD", "/", Bytes::new())));
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn status_follows_what_happens() {
    let rig = Rig::start();
    let streams: Vec<_> = (0..4)
        .map(|_| {
            rig.world
                .client()
                .open("/sse?events=600&interval_ms=100", &[])
        })
        .collect();
    eventually(SOON, || rig.status()["pools"][0]["leases"]["live"] == 4);
    let status = rig.status();
    assert_eq!(status["writable"], true);
    assert_eq!(status["percent_configured"], 100.0);
    let pool = &status["pools"][0];
    assert_eq!(pool["pool"], "demo");
    assert_eq!(pool["revision"], 1);
    assert_eq!(pool["percent_override"], Value::Null);
    let accounts = pool["accounts"].as_array().unwrap();
    let used: u64 = accounts
        .iter()
        .map(|one| one["used"].as_u64().unwrap())
        .sum();
    assert_eq!((accounts.len(), used), (2, 4));
    assert!(accounts.iter().all(|one| one["state"] == "free"));
    // Metrics of the other VM, a moment later.
    eventually(SOON, || {
        rig.status()["counters"]["requests;outcome=atomic;pool=demo"] == 5
    });
    let counted = |counters: &Value, id: &str| {
        let name = format!("account.requests;pool=demo;account={id}");
        counters[&name].as_u64().unwrap_or(0)
    };
    eventually(SOON, || {
        let counters = rig.status()["counters"].take();
        counted(&counters, "a") + counted(&counters, "b") == 5
    });
    let alone = rig.get("/api/envoy").json();
    assert_eq!(
        (&alone["writable"], &alone["redis"]),
        (&Value::Bool(true), &Value::Null)
    );
    assert!(counted(&alone["counters"], "a") > 0, "{alone}");
    drop(streams);
    eventually(SOON, || rig.status()["pools"][0]["leases"]["live"] == 0);
}

#[test]
fn drain_cooldown_percent_and_unbind() {
    let rig = Rig::start();
    let account = json!({"pool": "demo", "account": "a"});
    assert_eq!(
        rig.done("drain", &account),
        json!({"action": "drain", "pool": "demo", "account": "a", "changed": true})
    );
    assert_eq!(rig.done("drain", &account)["changed"], false);
    assert_eq!(rig.account("a")["state"], "drained");
    for _ in 0..8 {
        assert_eq!(rig.world.get("/").header("x-slotgate-account"), "b");
    }
    // The only pool needs no name.
    assert_eq!(
        rig.done("undrain", &json!({"account": "a"}))["changed"],
        true
    );
    assert_eq!(rig.account("a")["state"], "free");

    rig.world
        .client()
        .get("/status/429", &[("x-session-id", "s")]);
    let cooling = || {
        let ids = ["a", "b"].into_iter();
        ids.filter(|id| rig.account(id)["state"] == "cooling")
            .collect::<Vec<_>>()
    };
    eventually(SOON, || cooling().len() == 1);
    let cold = cooling()[0];
    assert!(rig.account(cold)["cooling_ms"].as_u64().unwrap() > 0);
    let cleared = rig.done("cooldown_clear", &json!({"account": cold}));
    assert_eq!(
        (&cleared["action"], &cleared["changed"]),
        (&json!("cooldown_clear"), &json!(true))
    );
    assert_eq!(rig.account(cold)["state"], "free");

    let set = rig.done("percent", &json!({"pool": "demo", "percent": 12.5}));
    assert_eq!(
        set,
        json!({"action": "percent_set", "pools": [{"pool": "demo", "old": null, "new": 12.5}]})
    );
    assert_eq!(rig.status()["pools"][0]["percent_override"], 12.5);
    let control = rig.world.ledger.key("control");
    assert_eq!(
        rig.world
            .redis
            .run::<String>("HGET", &[&control, "percent"]),
        "1250"
    );
    let cleared = rig.done("percent", &json!({"percent": null}));
    assert_eq!(
        cleared["pools"][0],
        json!({"pool": "demo", "old": 12.5, "new": null})
    );
    assert_eq!(rig.status()["pools"][0]["percent_override"], Value::Null);

    let session = json!({"session": "s"});
    let unbound = rig.done("unbind", &session);
    assert_eq!(
        (&unbound["changed"], &unbound["was"]),
        (&json!(true), &json!(cold))
    );
    assert_eq!(rig.done("unbind", &session)["was"], Value::Null);
}

#[test]
fn explain_says_what_the_command_line_says() {
    let rig = Rig::start();
    let bound = rig.world.client().get("/", &[("x-session-id", "s")]);
    let bound = bound.header("x-slotgate-account").to_owned();
    rig.done("drain", &json!({"account": bound}));
    for question in [
        json!({}),
        json!({"session": "s"}),
        json!({"session": "s", "scope": "m"}),
    ] {
        // No token is needed to look.
        let reply = rig.send(post("explain", question.to_string()));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let said = reply.json();
        assert_eq!(said["next"]["outcome"], "score");
        let accounts = said["accounts"].as_array().unwrap();
        let one = accounts.iter().find(|one| one["id"] == *bound).unwrap();
        assert_eq!(one["against"], json!(["drained by an operator"]));
        assert_eq!(one["bound"], question.get("session").is_some());
        compare_with_command_line(&rig, &question, said);
    }
}

fn compare_with_command_line(rig: &Rig, question: &Value, mut said: Value) {
    let Some(mut other) = command_line(rig, question, &["session", "scope"]) else {
        return;
    };
    for said in [&mut said, &mut other] {
        said["redis_time_ms"] = Value::Null;
        let accounts = said["accounts"].as_array_mut().unwrap();
        accounts.sort_by_key(|one| one["id"].to_string());
    }
    assert_eq!(said, other);
}

/// What `slotgate explain` says; `None`: it was not built.
#[cfg(feature = "cli")]
fn command_line(rig: &Rig, question: &Value, names: &[&str]) -> Option<Value> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_slotgate"));
    command.args([
        "--json",
        "--redis",
        &rig.world.redis.addr().to_string(),
        "explain",
    ]);
    for name in names {
        if let Some(value) = question[name].as_str() {
            command.arg(format!("--{name}")).arg(value);
        }
    }
    let output = command.output().unwrap();
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[cfg(not(feature = "cli"))]
fn command_line(_: &Rig, _: &Value, _: &[&str]) -> Option<Value> {
    None
}

#[test]
fn which_way_a_request_went_is_told_by_its_worker() {
    let rig = Rig::start();
    let before = rig.dump();
    let recall = |body: &Value| rig.send(post("recall", body.to_string()));
    let seen = rig.world.client().get("/echo", &[("x-session-id", "s")]);
    let seen = seen.json()["headers"].take();
    for (kind, header) in [("request", "x-request-id"), ("lease", "x-slotgate-lease")] {
        let question = json!({"pool": "demo", kind: seen[header]});
        // No token is needed to look.
        let start = Instant::now();
        let reply = recall(&question);
        println!("{kind}: {:?} {}", start.elapsed(), reply.text());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let mut said = reply.json();
        assert_eq!(said["asked"], json!({kind: seen[header]}));
        assert_eq!(
            (&said["way"], &said["account"], &said["lease"]),
            (
                &json!("atomic"),
                &seen["x-slotgate-account"],
                &seen["x-slotgate-lease"]
            )
        );
        let mut other = command_line(&rig, &question, &["request", "lease"]);
        if let Some(other) = &mut other {
            // It was asked later.
            let ago = |said: &mut Value| said["ago_ms"].take().as_u64().unwrap();
            assert!(ago(other) >= ago(&mut said));
            assert_eq!(said, *other);
        }
    }
    let start = Instant::now();
    let reply = recall(&json!({"request": "nobody's"}));
    println!("nobody's: {:?} {}", start.elapsed(), reply.text());
    assert_eq!(kind(&reply), (404, "not_remembered".to_owned()));
    assert!(start.elapsed() < Duration::from_secs(3));
    let other_site = post("recall", r#"{"request": "a"}"#).header("sec-fetch-site", "cross-site");
    assert_eq!(kind(&rig.send(other_site)), (403, "cross_site".to_owned()));
    assert_eq!(rig.dump(), before);
}

#[test]
fn what_is_refused_changes_nothing() {
    let rig = Rig::start();
    let before = rig.dump();
    let drain = || r#"{"account": "a"}"#;
    let refusals = [
        (post("drain", drain()), 401, "token"),
        (
            post("drain", drain()).header("authorization", "Bearer wrong"),
            401,
            "token",
        ),
        (
            post("drain", drain()).header("authorization", format!("Bearer {TOKEN}x")),
            401,
            "token",
        ),
        (
            post("drain", drain()).header("authorization", TOKEN),
            401,
            "token",
        ),
        (signed("drain", r#"{"account": "zz"}"#), 404, "no_account"),
        (signed("drain", r#"{"account": "\u0000 \n"}"#), 400, "field"),
        (
            signed("cooldown_clear", r#"{"account": "zz"}"#),
            404,
            "no_account",
        ),
        (
            signed("drain", r#"{"account": "a", "pool": "other"}"#),
            404,
            "no_pool",
        ),
        (signed("drain", "{}"), 400, "field"),
        (signed("drain", r#"{"account": 1}"#), 400, "field"),
        (
            signed("drain", r#"{"account": "a", "acount": "b"}"#),
            400,
            "field",
        ),
        (signed("drain", "[]"), 400, "field"),
        (signed("drain", "account=a"), 400, "json"),
        (signed("drain", ""), 400, "json"),
        (signed("drain", &b"\xff\xfe"[..]), 400, "json"),
        (signed("percent", r#"{"percent": 100.01}"#), 422, "percent"),
        (signed("percent", r#"{"percent": -1}"#), 422, "percent"),
        (signed("percent", r#"{"percent": 1.234}"#), 422, "percent"),
        (signed("percent", r#"{"percent": "10"}"#), 400, "field"),
        (signed("percent", "{}"), 400, "field"),
        (signed("unbind", "{}"), 400, "field"),
        (
            signed(
                "drain",
                format!("{{\"account\": \"{}\"}}", "a".repeat(5_000)),
            ),
            413,
            "too_long",
        ),
        (signed("nothing", drain()), 404, "no_path"),
        (get("/favicon.ico"), 404, "no_path"),
        (get("/api/drain"), 405, "method"),
        (here(Request::post("/api/status", "{}")), 405, "method"),
        (
            here(Request::new("DELETE", "/", Bytes::new())),
            405,
            "method",
        ),
        (
            here(Request::post("/api/drain", drain())).header("content-type", "text/plain"),
            415,
            "media_type",
        ),
        (
            here(Request::post("/api/drain", drain())),
            415,
            "media_type",
        ),
        (
            signed("drain", drain()).header("origin", "https://evil.example"),
            403,
            "cross_site",
        ),
        (
            signed("drain", drain()).header("origin", "null"),
            403,
            "cross_site",
        ),
        (
            signed("drain", drain()).header("sec-fetch-site", "same-site"),
            403,
            "cross_site",
        ),
        (
            Request::post("/api/drain", drain()).header("host", "evil.example"),
            403,
            "host",
        ),
        (
            Request::get("/api/status").header("host", "evil.example:9902"),
            403,
            "host",
        ),
        (
            Request::get("/").header("host", "127.0.0.1.evil.example"),
            403,
            "host",
        ),
    ];
    for (request, status, what) in refusals {
        let said = format!("{request:?}");
        let reply = rig.send(request);
        assert_eq!(
            kind(&reply),
            (status, what.to_owned()),
            "{said}: {}",
            reply.text()
        );
        assert_eq!(reply.header("cache-control"), "no-store");
        assert!(!reply.text().contains(TOKEN));
        match status {
            405 => assert!(["POST", "GET, HEAD"].contains(&reply.header("allow"))),
            401 => assert_eq!(reply.header("www-authenticate"), "Bearer"),
            _ => {}
        }
    }
    assert_eq!(rig.dump(), before);
    // And what only differs in what may differ is taken.
    let own = "http://localhost:9902";
    let request = signed("drain", drain())
        .header("origin", own)
        .header("sec-fetch-site", "same-origin");
    assert_eq!(rig.send(request).status, 200);
    assert_ne!(rig.dump(), before);
}

#[test]
fn without_a_token_it_only_shows() {
    let rig = Rig::with(
        |plugin| plugin["hosts"] = json!(["console.example"]),
        |config| config,
    );
    let before = rig.dump();
    assert_eq!(rig.status()["writable"], false);
    let reply = rig.post("drain", &json!({"account": "a"}));
    assert_eq!(kind(&reply), (403, "read_only".to_owned()));
    assert_eq!(rig.dump(), before);
    // By a name of its own, with a port or without.
    for host in [
        "console.example",
        "Console.Example:9902",
        "localhost:1",
        "[::1]:9902",
    ] {
        let reply = rig.send(Request::get("/api/status").header("host", host));
        assert_eq!(reply.status, 200, "{host}");
    }
}

#[test]
fn a_body_may_come_in_pieces() {
    let rig = Rig::start();
    let head = |length: &str| {
        format!(
            "POST /api/drain HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nauthorization: Bearer {TOKEN}\r\n{length}\r\n\r\n",
            rig.console
        )
    };
    let mut raw = Client::new(rig.console).raw();
    let body = br#"{"account": "a"}"#;
    raw.send(head("content-length: 16").as_bytes());
    for byte in body {
        raw.send(&[*byte]);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(raw.read_head().contains("200 OK"));
    assert_eq!(rig.account("a")["state"], "drained");
    // Too long, without saying so beforehand.
    let mut raw = Client::new(rig.console).raw();
    raw.send(head("transfer-encoding: chunked").as_bytes());
    for _ in 0..5 {
        raw.send(format!("400\r\n{}\r\n", " ".repeat(1_024)).as_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = raw.read_head();
    assert!(said.contains(" 413 "), "{said}");
}

#[test]
fn a_body_that_never_comes_is_not_waited_for() {
    let forgotten = |config: EnvoyConfig| {
        config.manager(|manager| {
            for filter in manager["http_filters"].as_array_mut().unwrap() {
                if let Some(config) = filter["typed_config"].get_mut("config") {
                    config["allow_on_headers_stop_iteration"] = json!(false);
                }
            }
        })
    };
    let rig = Rig::with(
        |plugin| plugin["token_env"] = json!("CONSOLE_TOKEN"),
        forgotten,
    );
    let reply = rig.post("drain", &json!({"account": "a"}));
    assert_eq!(kind(&reply), (408, "no_body".to_owned()));
    assert!(reply.text().contains("allow_on_headers_stop_iteration"));
    assert_eq!(rig.account("a")["state"], "free");
}

#[test]
fn without_redis_it_says_so_and_comes_back() {
    let rig = Rig::start();
    // Silent: what was sent may be done once it goes on.
    rig.world.redis.pause(Duration::from_millis(2_500));
    let reply = rig.post("drain", &json!({"account": "a"}));
    assert_eq!(kind(&reply).0, 503);
    assert!(
        reply.text().contains("did not answer within 1000 ms"),
        "{}",
        reply.text()
    );
    let reply = rig.get("/api/status");
    assert_eq!(kind(&reply), (503, "redis".to_owned()));
    eventually(SOON, || rig.get("/api/status").status == 200);
    // Gone.
    rig.world.redis.kill();
    eventually(SOON, || rig.get("/api/status").status == 503);
    let reply = rig.post("drain", &json!({"account": "a"}));
    assert_eq!(kind(&reply), (503, "redis".to_owned()));
    assert_eq!(rig.get("/").status, 200, "the page itself needs no Redis");
    rig.world.redis.start_again();
    eventually(SOON, || rig.get("/api/status").status == 200);
    // Back and empty: the pool is there again with the first request.
    eventually(SOON, || way(&rig.world.get("/")) == (200, "atomic"));
    assert_eq!(rig.done("drain", &json!({"account": "a"}))["changed"], true);
    // Flushed scripts go unnoticed.
    rig.world.redis.run::<()>("SCRIPT", &["FLUSH"]);
    assert_eq!(rig.account("a")["state"], "drained");
    rig.world.redis.run::<()>("SCRIPT", &["FLUSH"]);
    assert_eq!(
        rig.done("undrain", &json!({"account": "a"}))["changed"],
        true
    );
}

#[test]
fn clients_that_leave_and_many_at_once_do_no_harm() {
    let rig = Rig::start();
    rig.world.redis.pause(Duration::from_millis(600));
    for _ in 0..20 {
        let mut raw = Client::new(rig.console).raw();
        raw.send(format!("GET /api/status HTTP/1.1\r\nhost: {}\r\n\r\n", rig.console).as_bytes());
    }
    let client = Client::new(rig.console);
    let many: Vec<_> = (0..100)
        .map(|_| spawn(client.sending(get("/api/status"))))
        .collect();
    for one in many {
        let reply = wait(async { one.await.unwrap() }).unwrap();
        assert!([200, 503].contains(&reply.status), "{}", reply.text());
    }
    eventually(SOON, || rig.get("/api/status").status == 200);
    rig.world.assert_serves();
}

#[test]
fn a_login_and_the_readmes_acl_are_enough() {
    let redis = Redis::start();
    let mut rules = vec!["SETUSER".to_owned(), "slotgate".to_owned()];
    rules.extend(acl_rules());
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    redis.run::<()>("ACL", &rules);
    let login = |plugin: &mut Value| {
        plugin["redis"]["username"] = json!("slotgate");
        plugin["redis"]["password_env"] = json!("REDIS_PASSWORD");
    };
    let console = |plugin: &mut Value| {
        login(plugin);
        plugin["token_env"] = json!("CONSOLE_TOKEN");
    };
    let config = config(&[("a", 5)])
        .plugin(login)
        .console(console)
        .env("CONSOLE_TOKEN", TOKEN)
        .env("REDIS_PASSWORD", "secret");
    let world = World::with_redis(redis, config);
    let rig = Rig {
        console: world.envoy.addrs()[1],
        world,
    };
    rig.world.assert_serves();
    assert_eq!(rig.done("drain", &json!({"account": "a"}))["changed"], true);
    assert_eq!(rig.account("a")["state"], "drained");
    let question = json!({"session": "s", "scope": "m"}).to_string();
    let reply = rig.send(post("explain", question));
    assert_eq!(reply.json()["next"]["outcome"], "saturated");
    let reply = rig.send(post("recall", r#"{"request": "nobody's"}"#));
    assert_eq!(kind(&reply), (404, "not_remembered".to_owned()));
}
