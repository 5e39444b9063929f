//! `envoy/llm.yaml`, with the providers' own Python clients before it and both providers' APIs behind it, by TLS.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value, json};

use crate::world::SOON;
use support::*;

const HOSTS: [(&str, &str); 2] = [
    ("openai", "api.openai.com"),
    ("anthropic", "api.anthropic.com"),
];

/// A Python program that reads orders and writes answers, a line of JSON each, and ends with its input.
struct Python {
    child: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<Value>,
}

impl Python {
    /// The clients are in `.venv/clients`, or where `LLM_CLIENTS` says.
    fn start(script: &str, argument: &Path) -> Python {
        let venv = root().join(".venv");
        let packages = std::env::var_os("LLM_CLIENTS").map_or(venv.join("clients"), PathBuf::from);
        let there = packages.join("openai").exists() && packages.join("anthropic").exists();
        assert!(there, "no clients (make setup installs them)");
        let mut command = Command::new(venv.join("bin/python"));
        command
            .arg(root().join("tests/llm").join(script))
            .arg(argument)
            .env("PYTHONPATH", packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("python runs");
        let orders = child.stdin.take().expect("its input");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let (send, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = send.send(serde_json::from_str(&line).expect("a line of JSON"));
            }
        });
        Python {
            child,
            orders,
            answers,
        }
    }

    #[track_caller]
    fn next(&self) -> Value {
        self.answers.recv_timeout(PATIENCE).expect("an answer")
    }

    #[track_caller]
    fn ask(&mut self, order: Value) -> Value {
        writeln!(self.orders, "{order}").expect("it listens");
        self.next()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Stage {
    clients: Arc<Mutex<Python>>,
    envoy: Envoy,
    upstream: Python,
    redis: Redis,
    dir: Dir,
}

fn key(provider: &str, number: &str) -> String {
    format!("key-of-{provider}-{number}")
}

impl Stage {
    /// Python takes its time to start, so all stages share the clients.
    fn start(clients: &Arc<Mutex<Python>>, change: impl FnMut(&mut Value)) -> Stage {
        let (redis, dir) = (Redis::start(), Dir::temporary());
        let made = HOSTS.map(|(_, host)| Certificate::make(&dir, host));
        let upstream = Python::start("upstream.py", dir.path());
        let ports = upstream.next();
        let mut config = EnvoyConfig::from_file("envoy/llm.yaml")
            .redis(redis.addr())
            .plugin(|plugin| plugin["redis"]["acquire_timeout_ms"] = json!(20_000))
            .plugin(change)
            .host_env(|name| {
                let (provider, number) = name.split_once("_KEY_").expect("a key's name");
                key(&provider.to_lowercase(), &number.to_lowercase())
            });
        for ((provider, _), made) in HOSTS.iter().zip(&made) {
            let port = ports[provider].as_u64().expect("a port");
            let port = u16::try_from(port).expect("a port");
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            config = config
                .cluster(provider, addr)
                .edit_cluster(provider, |cluster| {
                    let tls =
                        &mut cluster["transport_socket"]["typed_config"]["common_tls_context"];
                    tls["validation_context"]["trusted_ca"] = json!({"filename": made.certificate});
                });
        }
        let envoy = Envoy::start(config);
        Stage {
            clients: Arc::clone(clients),
            envoy,
            upstream,
            redis,
            dir,
        }
    }

    #[track_caller]
    fn ask(&self, mut order: Value) -> Value {
        order["base"] = format!("http://{}", self.envoy.addr()).into();
        self.clients.lock().expect("the clients").ask(order)
    }

    fn ledger(&self, pool: &str) -> Ledger {
        Ledger::new(&self.redis, "slotgate", pool)
    }

    /// What the upstream saw of the request that came next.
    #[track_caller]
    fn seen(&self) -> Value {
        self.upstream.next()
    }

    fn let_streams_end(&self) {
        std::fs::write(self.dir.join("go"), "").expect("a file");
    }

    fn nothing_was_sent_on(&self) {
        let seen = self
            .upstream
            .answers
            .recv_timeout(Duration::from_millis(50));
        assert!(seen.is_err(), "{seen:?}");
    }
}

fn model(client: &str) -> &'static str {
    match client {
        "openai" => "gpt-5",
        _ => "claude-opus-5",
    }
}

fn ask(client: &str, more: Value) -> Value {
    let mut order = json!({"client": client, "do": "ask", "model": model(client)});
    let order_fields = order.as_object_mut().expect("an object");
    order_fields.extend(more.as_object().expect("an object").clone());
    order
}

#[test]
fn every_kind_of_request_of_real_clients() {
    let clients = Python::start("clients.py", Path::new(""));
    let versions = clients.next();
    assert!(versions["openai"].is_string(), "{versions}");
    let clients = Arc::new(Mutex::new(clients));
    let stage = Stage::start(&clients, |_| {});
    the_model_picks_the_provider_and_a_slot_its_key(&stage);
    a_slot_is_held_to_the_streams_end(&stage);
    a_refused_key_costs_the_client_nothing(&stage);
    what_names_no_model(&stage);
    the_access_log_has_the_model(&stage);
    let log = stage.envoy.log();
    assert!(!log.contains("key-of-"), "a key is in the log");
    let redis: Vec<String> = stage.redis.run("KEYS", &["*"]);
    assert!(redis.iter().all(|name| !name.contains("key-of-")));

    stage.redis.kill();
    every_client_is_served_by(&stage, "traditional");
    let out = Stage::start(&clients, |plugin| plugin["gray"]["percent"] = json!(0));
    every_client_is_served_by(&out, "traditional");
    // A client that names the provider itself goes nowhere, and without a pool there is no key.
    let headers = json!({"x-provider": "openai"});
    let unknown = json!({"client": "openai", "do": "ask", "model": "llama-9", "headers": headers});
    assert_eq!(out.ask(unknown)["status"], 400);
    out.nothing_was_sent_on();
}

fn the_model_picks_the_provider_and_a_slot_its_key(stage: &Stage) {
    for (client, host) in HOSTS {
        // Whatever the client says of itself, the provider sees one of its own keys and nothing else of the gateway's.
        let headers = json!({"x-provider": "openai", "x-slotgate-account": "anthropic-1"});
        let got = stage.ask(ask(client, json!({"headers": headers})));
        assert_eq!(got, json!({"text": "hello from upstream"}), "{client}");
        let seen = stage.seen();
        assert_eq!(seen["provider"], client);
        let keys = [key(client, "1"), key(client, "2")];
        assert!(keys.iter().any(|key| seen["key"] == **key), "{seen}");
        assert_eq!(seen["headers"]["host"], host);
        let text = seen["headers"].to_string();
        for hidden in ["of-the-client", "x-slotgate", "x-provider"] {
            assert!(!text.contains(hidden), "{hidden} in {text}");
        }
    }

    // The session is in the body: the same user, the same key, while others get both.
    for (client, _) in HOSTS {
        let of_user = |user: String| {
            let got = stage.ask(ask(client, json!({"user": user})));
            assert_eq!(got["text"], "hello from upstream", "{got}");
            stage.seen()["key"].as_str().expect("a key").to_owned()
        };
        let alice: BTreeSet<_> = (0..6).map(|_| of_user("alice".into())).collect();
        assert_eq!(alice.len(), 1, "{client}: {alice:?}");
        let (mut others, mut number) = (BTreeSet::new(), 0);
        eventually(SOON, || {
            number += 1;
            others.insert(of_user(format!("user-{number}")));
            others.len() == 2
        });
    }

    // A body of 5 MB with an image.
    for (client, _) in HOSTS {
        let got = stage.ask(ask(client, json!({"image": 5_000_000 * 3 / 4})));
        assert_eq!(got["text"], "hello from upstream", "{client}: {got}");
        let seen = stage.seen();
        assert_eq!(seen["images"], 5_000_000, "{client}");
    }
}

/// `null` where none was found.
fn the_access_log_has_the_model(stage: &Stage) {
    let logged = |pool: &str, model: Value| {
        eventually(SOON, || {
            let lines = stage.envoy.stdout();
            let mut lines = lines
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            lines.any(|line: Value| line["pool"] == pool && line["model"] == model)
        });
    };
    logged("openai", json!("gpt-5"));
    logged("openai", Value::Null);
    logged("anthropic", json!("claude-opus-5"));
}

fn what_names_no_model(stage: &Stage) {
    // Requests that name no model in JSON have their provider by what else they say.
    for (client, _) in HOSTS {
        let got = stage.ask(json!({"client": client, "do": "models"}));
        assert_eq!(got, json!({"models": 0}));
        assert_eq!(stage.seen()["provider"], client);
    }
    let got = stage.ask(json!({"client": "openai", "do": "transcribe"}));
    assert_eq!(got["text"], "hello from upstream", "{got}");
    let seen = stage.seen();
    assert_eq!(
        (&seen["provider"], &seen["path"]),
        (&json!("openai"), &json!("/v1/audio/transcriptions"))
    );

    // An unknown model and none, no JSON and a broken one: an error that the client can read, and nothing leaves.
    let unknown = json!({"client": "openai", "do": "ask", "model": "llama-9"});
    let got = stage.ask(unknown);
    assert_eq!(
        (&got["error"], &got["status"]),
        (&json!("BadRequestError"), &json!(400))
    );
    assert_eq!(got["body"]["type"], "invalid_request_error", "{got}");
    let post = |kind: &str, body: &str| {
        let request = Request::post("/v1/chat/completions", body.to_owned());
        let reply = stage
            .envoy
            .client()
            .send(request.header("content-type", kind));
        let reply = reply.expect("a reply");
        (reply.status, reply.json()["error"]["code"].clone())
    };
    for (kind, body) in [
        ("application/json", "{\"messages\": []}"),
        ("application/json", "{\"model\": \"gpt-5\""),
        ("application/json", "{\"model\": {\"gpt-\": 1}}"),
        ("application/json", "{\"model\": 7}"),
        ("application/json", "[\"gpt-5\"]"),
        ("application/json", "\"gpt-5\""),
        ("application/json", ""),
        ("text/plain", "{\"model\": \"gpt-5\"}"),
    ] {
        assert_eq!(post(kind, body), (400, json!("model_not_found")), "{body}");
    }
    stage.nothing_was_sent_on();
    // Nearly the most that is taken, by HTTP/1.1 and HTTP/2, and more than that.
    let sized = |length: usize| {
        let body = json!({"model": "gpt-5", "user": "x".repeat(length)}).to_string();
        Request::post("/v1/chat/completions", body).header("content-type", "application/json")
    };
    for protocol in [Protocol::Http1, Protocol::Http2 { streams: 1 }] {
        let replies = stage
            .envoy
            .client()
            .burst(protocol, 1, move |_| sized(30_000_000));
        assert_eq!(replies[0].as_ref().expect("a reply").status, 200);
        assert!(stage.seen()["length"].as_u64() > Some(30_000_000));
    }
    let refused = stage.envoy.client().send(sized(40_000_000));
    assert!(refused.is_err() || refused.is_ok_and(|reply| reply.status == 413));
    stage.nothing_was_sent_on();
    // Words behind the type don't matter.
    let request = Request::post("/v1/chat/completions", "{\"model\": \"gpt-5\"}");
    let request = request.header("content-type", "application/json; charset=utf-8");
    assert_eq!(
        stage.envoy.client().send(request).expect("a reply").status,
        200
    );
    assert_eq!(stage.seen()["provider"], "openai");

    for (pool, _) in HOSTS {
        let ledger = stage.ledger(pool);
        eventually(SOON, || ledger.is_empty());
    }
}

fn a_slot_is_held_to_the_streams_end(stage: &Stage) {
    for (client, _) in HOSTS {
        let got = stage.ask(ask(client, json!({"stream": true})));
        assert_eq!(got["first"], "hello ", "{client}: {got}");
        let seen = stage.seen();
        let owners: Vec<_> = stage.ledger(client).owner().into_values().collect();
        assert_eq!(owners.len(), 1);
        let number = owners[0].rsplit('-').next().expect("a number");
        assert_eq!(seen["key"], key(client, number));
    }
    stage.let_streams_end();
    for (client, _) in HOSTS {
        let got = stage.ask(json!({"do": "rest"}));
        assert_eq!(got, json!({"rest": "from upstream"}), "{client}");
        let ledger = stage.ledger(client);
        eventually(SOON, || ledger.is_empty());
        ledger.assert_consistent();
    }
}

/// A request that one key is refused for goes out again with the other: without a retry of the client's own, a stream or not.
fn a_refused_key_costs_the_client_nothing(stage: &Stage) {
    for (client, host) in HOSTS {
        let (refused, other) = (key(client, "1"), key(client, "2"));
        let refuses = stage.dir.join(&format!("refuse-{refused}"));
        std::fs::write(&refuses, "").expect("a file");
        for stream in [false, true] {
            // A key that was refused for one model serves another.
            let model = format!("{}-stream-{stream}", model(client));
            let tried_twice = (0..40).any(|number| {
                let user = format!("{model}-{number}");
                let image = 5_000_000 * 3 / 4;
                let more = json!({"model": model, "user": user, "stream": stream, "image": image});
                let got = stage.ask(ask(client, more));
                if stream {
                    assert_eq!(got["first"], "hello ", "{client}: {got}");
                    let rest = stage.ask(json!({"do": "rest"}));
                    assert_eq!(rest, json!({"rest": "from upstream"}), "{client}");
                } else {
                    assert_eq!(got["text"], "hello from upstream", "{client}: {got}");
                }
                let seen = stage.seen();
                if seen["key"] == *other {
                    return false;
                }
                assert_eq!(seen["key"], *refused);
                let again = stage.seen();
                assert_eq!(again["key"], *other, "{client}");
                // All of the request, and nothing of the gateway's.
                assert_eq!(again["images"], 5_000_000, "{client}");
                assert_eq!(again["length"], seen["length"]);
                assert_eq!(again["headers"]["host"], host);
                let text = again["headers"].to_string();
                for hidden in ["of-the-client", "x-slotgate", "x-provider", &refused] {
                    assert!(!text.contains(hidden), "{hidden} in {text}");
                }
                true
            });
            assert!(tried_twice, "{client}: the key was never used");
        }
        std::fs::remove_file(refuses).expect("the file");
        let ledger = stage.ledger(client);
        eventually(SOON, || ledger.is_empty());
        ledger.assert_consistent();
    }
    let tries = || {
        let lines = stage.envoy.stdout();
        let lines = lines.lines().map(serde_json::from_str::<Value>);
        let tries = lines.flatten().map(|line| line["tries"].to_string());
        tries.collect::<BTreeSet<_>>()
    };
    eventually(SOON, || tries().len() == 2);
    assert!(tries().contains("null") && tries().iter().any(|tries| tries.contains('2')));
    let exhausted = stage.envoy.filter_stat("failover;outcome=exhausted");
    assert_eq!(exhausted.unwrap_or(0), 0);
}

fn every_client_is_served_by(stage: &Stage, number: &str) {
    for (client, _) in HOSTS {
        let got = stage.ask(ask(client, json!({})));
        assert_eq!(got["text"], "hello from upstream", "{client}: {got}");
        assert_eq!(stage.seen()["key"], key(client, number));
    }
}

/// What `json_to_metadata` finds in a body is there for the filter behind it, each type in its own bytes.
#[test]
fn properties_of_any_type() {
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let rule = |name: &str| {
        json!({
            "selectors": [{"key": name}],
            "on_present": {"metadata_namespace": "envoy.lb", "key": name},
        })
    };
    let filter = json!({
        "name": "envoy.filters.http.json_to_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
            "request_rules": {"rules": [rule("value"), rule("other")]},
        },
    });
    let pool = |name: &str, rules: Value| {
        json!({
            "name": name,
            "match": rules,
            "set_headers": {"x-upstream": "acct_1", "x-seen": "${account}"},
            "accounts": [{"id": name, "max_concurrency": 5}],
        })
    };
    let value = json!(["metadata", "filter_metadata", "envoy.lb", "value"]);
    let other = json!(["metadata", "filter_metadata", "envoy.lb", "other"]);
    let config = EnvoyConfig::from_example()
        .redis(redis.addr())
        .upstream(upstream.addr())
        .manager(|manager| {
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            filters.insert(0, filter.clone());
        })
        .plugin(|plugin| {
            plugin["redis"]["acquire_timeout_ms"] = json!(20_000);
            plugin["gray"]["session"] = json!([{"property": value}]);
            plugin["cooldown"] = json!({"scope": {"property": value}});
            plugin["traditional"] = json!({"set_headers": {"x-seen": "traditional"}});
            plugin["pools"] = json!([
                pool("text", json!([{"property": value, "exact": "gpt-\u{e9}"}])),
                // 42 is a double in eight bytes, the last two of which are an E and an @.
                pool("number", json!([{"property": value, "suffix": "E@"}])),
                pool("other", json!([{"property": other, "present": true}])),
                pool(
                    "route",
                    json!([{"property": "xds.route_name", "exact": "named"}])
                ),
                pool(
                    "method",
                    json!([{"property": "request.method", "exact": "PUT"}])
                ),
                pool("any", json!([{"property": value, "present": true}])),
            ]);
        });
    let envoy = Envoy::start(config);
    let seen = |method: &str, body: &str| {
        let request = Request::new(method, "/echo", body.to_owned().into());
        let reply = envoy
            .client()
            .send(request.header("content-type", "application/json"));
        let reply = reply.expect("a reply");
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        reply.json()["headers"]["x-seen"]
            .as_str()
            .unwrap_or("")
            .to_owned()
    };
    let long = |length: usize| json!({"value": "x".repeat(length)}).to_string();
    for (body, expected) in [
        ("{\"value\": \"gpt-\u{e9}\"}", "text"),
        ("{\"value\": 42}", "number"),
        ("{\"value\": 42.0}", "number"),
        ("{\"other\": true}", "other"),
        ("{\"value\": \"\"}", "traditional"),
        ("{\"value\": null}", "traditional"),
        ("{}", "traditional"),
        ("{\"value\": true}", "any"),
        (&long(8 * 1024), "any"),
        (&long(8 * 1024 + 1), "traditional"),
        (&long(2_000_000 / 3), "traditional"),
    ] {
        let shown = &body[..body.len().min(40)];
        assert_eq!(seen("POST", body), expected, "{shown}");
    }
    // Lists and objects: whatever Envoy makes of them, the request is served.
    for body in [
        "{\"value\": [1, \"a\"]}",
        "{\"value\": {\"a\": {\"b\": 1}}}",
        "{\"value\": -1e300}",
    ] {
        let seen = seen("POST", body);
        assert!(["any", "traditional"].contains(&&*seen), "{body}: {seen}");
    }
    assert_eq!(seen("PUT", "{}"), "method");
    assert!(!envoy.log_contains("wasm trap"), "{}", envoy.log());
}
