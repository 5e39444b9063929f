//! `slotgate init`: what it writes is taken by `slotgate check` and by Envoy, and requests get their slots through it; what it
//! does not write, and why.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Ran, finish, program};
use support::*;

/// What the accounts of these tests have for keys.
const KEYS: [(&str, &str); 3] = [
    ("KEY_ONE", "first-key"),
    ("KEY_TWO", "second-key"),
    ("KEY_OTHERS", "key-of-the-others"),
];

/// A folder to run it in.
struct Desk(Dir);

impl Desk {
    fn new() -> Self {
        Self(Dir::temporary())
    }

    fn with(text: &str) -> Self {
        let desk = Self::new();
        desk.put("pools.yaml", text);
        desk
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn run(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = program();
        command.current_dir(self.0.path()).args(arguments);
        finish(command, input)
    }

    fn init(&self, arguments: &[&str]) -> Ran {
        self.run(&[&["init"], arguments].concat(), "")
    }

    /// A file must pass `slotgate check` without a warning, and Envoy's own validation.
    fn validate(&self, name: &str) {
        let told = self.run(&["check", name], "").done();
        assert!(!told.contains("warning"), "{told}");
        let mut envoy = envoy();
        envoy.current_dir(self.0.path());
        let ran = envoy.args(["--mode", "validate", "-c", name]).output();
        let ran = ran.expect("Envoy runs");
        let log = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{log}");
        assert!(!log.contains("deprecated"), "{log}");
    }

    /// Envoy on a file as it was written.
    fn start(&self, name: &str, admin: &Port) -> Process {
        let log = fs::File::create(self.0.join("envoy.log")).unwrap();
        let out = fs::File::create(self.0.join("envoy.out")).unwrap();
        let mut command = envoy();
        command.current_dir(self.0.path()).args(["-c", name]);
        command.args(["--concurrency", "1", "--disable-hot-restart"]);
        command.stdin(Stdio::null()).stdout(out).stderr(log);
        let process = Process::start(command);
        let admin = Client::new(admin.addr());
        eventually(PATIENCE, || {
            assert_eq!(process.exited(), None, "{}", self.text("envoy.log"));
            let ready = admin.send(Request::get("/ready"));
            ready.is_ok_and(|reply| reply.status == 200)
        });
        process
    }
}

fn envoy() -> Command {
    let program = std::env::var_os("ENVOY").unwrap_or(".venv/envoy".into());
    let mut command = Command::new(root().join(program));
    command.envs(KEYS);
    command
}

fn wasm() -> PathBuf {
    root().join(std::env::var_os("SLOTGATE_WASM").unwrap_or("target/slotgate.wasm".into()))
}

/// Places for an Envoy, and what is behind it.
struct World {
    listen: Port,
    admin: Port,
    redis: Redis,
    upstream: Upstream,
}

impl World {
    fn new() -> Self {
        Self {
            listen: Port::free(),
            admin: Port::free(),
            redis: Redis::start(),
            upstream: Upstream::start(),
        }
    }

    /// The lines that every file of these tests begins with.
    fn top(&self) -> String {
        format!(
            "listen: {}\nadmin: {}\nredis: {}\nwasm: {}\n",
            self.listen.number(),
            self.admin.number(),
            self.redis.addr(),
            wasm().display()
        )
    }

    fn client(&self) -> Client {
        Client::new(self.listen.addr())
    }
}

/// What a granted request showed: its account as the client sees it, and the headers as the upstream saw them.
fn granted(client: &Client, session: &str, headers: &[(&'static str, &str)]) -> (String, Value) {
    let mut all = vec![("x-session-id", session)];
    all.extend(headers);
    // The first request opens the pipe.
    let reply = eventually_some(PATIENCE, || {
        let reply = client.get("/echo", &all);
        (reply.header("x-slotgate-path") == "atomic").then_some(reply)
    });
    assert_eq!(reply.status, 200, "{}", reply.text());
    let account = reply.header("x-slotgate-account").to_owned();
    (account, reply.json()["headers"].clone())
}

/// Asks until both accounts have had a request, and shows what each one's looked like.
fn both(client: &Client) -> [Value; 2] {
    let (mut one, mut two) = (None, None);
    for session in 0..200 {
        // A client that would choose for itself.
        let own = [
            ("authorization", "Bearer of-the-client"),
            ("x-upstream", "redis"),
        ];
        let (account, headers) = granted(client, &session.to_string(), &own);
        match account.as_str() {
            "one" => one = Some(headers),
            "two" => two = Some(headers),
            other => panic!("{other}"),
        }
        if let (Some(one), Some(two)) = (&one, &two) {
            return [one.clone(), two.clone()];
        }
    }
    panic!("one account never had a request");
}

/// An upstream learns nothing of the accounts.
fn assert_untold(headers: &Value) {
    let told: Vec<_> = headers
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| name.starts_with("x-slotgate") || *name == "x-upstream")
        .collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn one_host_with_many_keys() {
    let world = World::new();
    let desk = Desk::with(&format!(
        "layout: one-host\n{}upstream: http://{}\ntraditional: {{key_env: KEY_OTHERS}}\npools:\n- name: main\n  accounts:\n  \
         - {{id: one, limit: 2, key_env: KEY_ONE}}\n  - {{id: two, limit: 3, key_env: KEY_TWO}}\n",
        world.top(),
        world.upstream.addr()
    ));
    let told = desk.init(&["pools.yaml"]).done();
    let expected = "envoy.yaml: written, layout one-host\n  Envoy's environment must hold: KEY_ONE, KEY_TWO, KEY_OTHERS\n  \
                    next: envoy -c envoy.yaml\n";
    assert_eq!(told, expected);
    desk.validate("envoy.yaml");
    let _envoy = desk.start("envoy.yaml", &world.admin);
    let client = world.client();
    let [one, two] = both(&client);
    assert_eq!(one["authorization"], "Bearer first-key");
    assert_eq!(two["authorization"], "Bearer second-key");
    assert_eq!(one["host"], world.upstream.addr().to_string());
    assert_untold(&one);
    // Every slot, and one more.
    let held: Vec<_> = (0..5)
        .map(|_| client.open("/sse?events=100000", &[]))
        .collect();
    let ledger = Ledger::new(&world.redis, "slotgate", "main");
    assert_eq!((ledger.used("one"), ledger.used("two")), (2, 3));
    assert_eq!(client.get("/", &[]).status, 429);
    drop(held);
    // Without Redis: the key of the others.
    world.redis.kill();
    // A client that says where to does not get there.
    let own = [
        ("authorization", "Bearer of-the-client"),
        ("x-upstream", "redis"),
    ];
    let reply = client.get("/echo", &own);
    assert_eq!(reply.header("x-slotgate-path"), "traditional");
    let headers = &reply.json()["headers"];
    assert_eq!(headers["authorization"], "Bearer key-of-the-others");
    assert_untold(headers);
}

/// Another key serves what one is refused for, unless `failover` says not.
#[test]
fn a_refused_request_is_served_by_the_other_key() {
    for (failover, attempts) in [("", 3), ("failover: {max_attempts: 1}\n", 1)] {
        let world = World::new();
        let desk = Desk::with(&format!(
            "{}{failover}upstream: http://{}\npools:\n- name: main\n  accounts:\n  \
             - {{id: one, limit: 2, key_env: KEY_ONE}}\n  - {{id: two, limit: 3, key_env: KEY_TWO}}\n",
            world.top(),
            world.upstream.addr()
        ));
        desk.init(&["pools.yaml"]).done();
        desk.validate("envoy.yaml");
        let written = desk.text("envoy.yaml");
        for part in [
            "failover: {max_attempts: 3}",
            "role: upstream",
            "retry_policy:",
        ] {
            assert_eq!(written.contains(part), attempts > 1, "{part}");
        }
        // A busy machine may be late for Redis' answer.
        let redis = "{pipe_cluster: slotgate_pipe";
        let patient = format!("{redis}, acquire_timeout_ms: 20000");
        desk.put("envoy.yaml", &written.replace(redis, &patient));
        let _envoy = desk.start("envoy.yaml", &world.admin);
        let client = world.client();
        granted(&client, "first", &[]);
        let mut number = 0;
        let reply = eventually_some(PATIENCE, || {
            number += 1;
            let session = number.to_string();
            let before = world.upstream.snapshot().requests;
            let reply = client.get("/refuse?key=first-key", &[("x-session-id", &session)]);
            let tries = world.upstream.snapshot().requests - before;
            (tries > 1 || reply.status != 200).then_some(reply)
        });
        if attempts == 1 {
            assert_eq!(reply.status, 429);
            continue;
        }
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-slotgate-account"), "two");
        let headers = &reply.json()["headers"];
        assert_eq!(headers["authorization"], "Bearer second-key");
        assert_untold(headers);
        // The access log says so.
        eventually(PATIENCE, || desk.text("envoy.out").contains("\"tries\":"));
    }
}

/// Where each account has its own cluster it is asked for; where the cluster is the operator's, it is theirs to do.
#[test]
fn other_accounts_are_tried_by_themselves_only_behind_one_cluster() {
    const ACCOUNTS: &str = "pools:\n- name: main\n  accounts:\n  - {id: one, limit: 2, key_env: KEY_ONE}\n  \
                            - {id: two, limit: 3, key_env: KEY_TWO}\n";
    for (top, arguments) in [
        (
            "layout: cluster-per-account\nupstream: http://a\n",
            &["pools.yaml"][..],
        ),
        ("layout: sidecar\nupstream: http://a\n", &["pools.yaml"]),
        (
            "layout: cluster-per-account\nupstream: http://a\n",
            &["pools.yaml", "--fragment"],
        ),
    ] {
        let desk = Desk::with(&format!("{top}{ACCOUNTS}"));
        desk.init(&[arguments, &["--output", "out.yaml"]].concat())
            .done();
        assert!(!desk.text("out.yaml").contains("role: upstream"), "{top}");
        let asked = format!("{top}failover: {{max_attempts: 2}}\n{ACCOUNTS}");
        desk.put("pools.yaml", &asked);
        desk.init(&[arguments, &["--output", "out.yaml", "--force"]].concat())
            .done();
        let written = desk.text("out.yaml");
        for part in [
            "role: upstream",
            "cluster: slotgate_accounts",
            "num_retries: 1",
            "server_listener_name: slotgate_accounts",
        ] {
            assert!(written.contains(part), "{top}: {part}");
        }
        let told = desk.run(&["check", "out.yaml", "--strict"], "").done();
        assert!(!told.contains("note:"), "{told}");
    }
    let own = "above 1 needs clusters that are made here, from https://host or http://host:port: one that you have needs role upstream in its filters";
    let top = "upstream: {cluster: api}\n";
    let desk = Desk::with(&format!("{top}{ACCOUNTS}"));
    let asked = format!("{top}failover: {{max_attempts: 2}}\n{ACCOUNTS}");
    desk.put("pools.yaml", &asked);
    let told = desk
        .init(&["pools.yaml", "--fragment", "--force"])
        .failed(1);
    let expected = format!("pools.yaml:2:26: failover.max_attempts: {own}\n");
    assert!(told.starts_with(&expected), "{told}");
    // One account has no other.
    let desk = Desk::with(SMALL);
    desk.init(&["pools.yaml"]).done();
    assert!(!desk.text("envoy.yaml").contains("failover"));
    for (wrong, problem) in [
        (
            "{max_attempts: 0}",
            "failover.max_attempts: \"0\" is not a whole number in 1..=10",
        ),
        (
            "{max_attempts: 11}",
            "failover.max_attempts: \"11\" is not a whole number in 1..=10",
        ),
        ("{}", "failover.max_attempts: is required"),
        (
            "{max_attempts: 2, budget_ms: 5}",
            "failover.budget_ms: unknown field",
        ),
    ] {
        desk.put("pools.yaml", &format!("failover: {wrong}\n{SMALL}"));
        let told = desk.init(&["pools.yaml", "--force"]).failed(1);
        assert!(told.contains(problem), "{told}");
    }
    // Pieces for an Envoy that is there have it all, where the cluster is made here.
    let desk = Desk::with(&format!(
        "failover: {{max_attempts: 5}}\nupstream: http://a\n{ACCOUNTS}"
    ));
    desk.init(&["pools.yaml", "--fragment"]).done();
    let told = desk.run(&["check", "fragment.yaml", "--strict"], "").done();
    assert!(!told.contains("note:"), "{told}");
    let fragment = desk.text("fragment.yaml");
    for part in [
        "max_attempts: 5",
        "num_retries: 4",
        "role: upstream",
        "max_retries: 1024",
    ] {
        assert!(fragment.contains(part), "{part}");
    }
}

#[test]
fn a_cluster_for_each_account() {
    let world = World::new();
    let other = Upstream::start();
    let desk = Desk::with(&format!(
        "layout: cluster-per-account\n{}key: {{header: x-api-key}}\nconsole: {}\npools:\n- name: main\n  accounts:\n  \
         - {{id: one, limit: 2, key_env: KEY_ONE, upstream: \"http://{}\"}}\n  \
         - {{id: two, limit: 3, upstream: \"http://{}\"}}\n",
        world.top(),
        Port::free().number(),
        world.upstream.addr(),
        other.addr()
    ));
    desk.init(&["pools.yaml"]).done();
    desk.validate("envoy.yaml");
    let _envoy = desk.start("envoy.yaml", &world.admin);
    let client = world.client();
    let [one, two] = both(&client);
    assert_eq!(one["x-api-key"], "first-key");
    assert_eq!(one["host"], world.upstream.addr().to_string());
    assert_eq!(two["host"], other.addr().to_string());
    assert_eq!(two.get("x-api-key"), None);
    assert!(world.upstream.snapshot().requests > 0 && other.snapshot().requests > 0);
    // There is no other way.
    world.redis.kill();
    assert_eq!(client.get("/", &[]).status, 503);
}

#[test]
fn a_refused_request_is_served_by_the_other_cluster() {
    let world = World::new();
    let other = Upstream::start();
    let desk = Desk::with(&format!(
        "layout: cluster-per-account\n{}failover: {{max_attempts: 2}}\npools:\n- name: main\n  accounts:\n  \
         - {{id: one, limit: 2, key_env: KEY_ONE, upstream: \"http://{}\"}}\n  \
         - {{id: two, limit: 3, key_env: KEY_TWO, upstream: \"http://{}\"}}\n",
        world.top(),
        world.upstream.addr(),
        other.addr()
    ));
    desk.init(&["pools.yaml"]).done();
    desk.validate("envoy.yaml");
    let _envoy = desk.start("envoy.yaml", &world.admin);
    let client = world.client();
    granted(&client, "first", &[]);
    let mut number = 0;
    let reply = eventually_some(PATIENCE, || {
        number += 1;
        let session = number.to_string();
        let before = world.upstream.snapshot().requests;
        let reply = client.get("/refuse?key=first-key", &[("x-session-id", &session)]);
        let tries = world.upstream.snapshot().requests - before;
        (tries > 0 || reply.status != 200).then_some(reply)
    });
    let seen = reply.json();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(seen["headers"]["authorization"], "Bearer second-key");
    assert_eq!(seen["headers"]["host"], other.addr().to_string());
    assert_untold(&seen["headers"]);
}

/// An Envoy before the upstream that only talks TLS.
fn behind_tls(upstream: &Upstream, made: &Certificate) -> Envoy {
    Envoy::start(EnvoyConfig::plain(upstream.addr()).edit(|document| {
        document["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"tls_certificates": [{
                    "certificate_chain": {"filename": made.certificate},
                    "private_key": {"filename": made.key},
                }]},
            },
        });
    }))
}

#[test]
fn beside_an_application() {
    let world = World::new();
    let (app, inbound) = (Upstream::start(), Port::free());
    let certificates = Dir::temporary();
    let made = Certificate::make(&certificates, "localhost");
    let outside = behind_tls(&world.upstream, &made);
    let port = outside.addr().port();
    let desk = Desk::with(&format!(
        "layout: sidecar\n{}ca: {}\napp: {{listen: \"127.0.0.1:{}\", address: \"{}\", limit: 4}}\npools:\n- name: main\n  accounts:\n  \
         - {{id: one, limit: 2, key_env: KEY_ONE, upstream: \"https://localhost:{port}\"}}\n  \
         - {{id: two, limit: 3, key_env: KEY_TWO, upstream: \"https://localhost:{port}\"}}\n",
        world.top(),
        made.certificate.display(),
        inbound.number(),
        app.addr(),
    ));
    desk.init(&["pools.yaml"]).done();
    let written = desk.text("envoy.yaml");
    // Neither the application nor the filter has a key.
    assert!(!written.contains("host_env_keys"), "{written}");
    desk.validate("envoy.yaml");
    let _envoy = desk.start("envoy.yaml", &world.admin);
    let [one, two] = both(&world.client());
    assert_eq!(one["authorization"], "Bearer first-key");
    assert_eq!(two["authorization"], "Bearer second-key");
    assert_eq!(one["host"], format!("localhost:{port}"));
    assert_untold(&one);
    // Inbound: the application's own limit.
    let inbound = Client::new(inbound.addr());
    let ledger = Ledger::new(&world.redis, "slotgate", "app");
    // The first of them may be too early for its pipe.
    let mut held = Vec::new();
    eventually(PATIENCE, || {
        held.push(inbound.open("/sse?events=100000", &[]));
        ledger.used("app") == 4
    });
    assert_eq!(inbound.get("/", &[]).status, 429);
    drop(held);
}

/// The documents of a YAML file.
fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    documents.collect::<Result<_, _>>().unwrap()
}

/// As someone does by hand: objects are entered, elements of lists go before those that are there.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                match into.get_mut(&name) {
                    // Of the one virtual host.
                    Some(Value::Array(hosts)) if name == "virtual_hosts" => {
                        merge(&mut hosts[0], value[0].clone());
                    }
                    Some(there) => merge(there, value),
                    None => _ = into.insert(name, value),
                }
            }
        }
        (Value::Array(into), Value::Array(mut from)) => {
            from.append(into);
            *into = from;
        }
        (into, from) => *into = from,
    }
}

/// An Envoy that knows nothing of slotgate.
fn own_envoy(listen: SocketAddr, admin: SocketAddr, upstream: SocketAddr) -> Value {
    let mut own = EnvoyConfig::plain(upstream).document;
    let address = |at: SocketAddr| json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}});
    own["static_resources"]["listeners"][0]["address"] = address(listen);
    own["admin"] = json!({"address": address(admin)});
    own
}

fn merged(world: &World, fragment: &str) -> Value {
    let mut own = own_envoy(
        world.listen.addr(),
        world.admin.addr(),
        world.upstream.addr(),
    );
    let [bootstrap, manager] = documents(fragment).try_into().expect("two parts");
    let http = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    merge(own.pointer_mut(http).unwrap(), manager);
    merge(&mut own, bootstrap);
    own
}

#[test]
fn a_fragment_merged_into_an_envoy_that_is_there() {
    let world = World::new();
    let desk = Desk::with(&format!(
        "{}upstream: {{cluster: upstream}}\npercent: 50\npools:\n- name: main\n  accounts:\n  \
         - {{id: one, limit: 2, key_env: KEY_ONE}}\n  - {{id: two, limit: 3, key_env: KEY_TWO}}\n",
        world.top()
    ));
    let told = desk.init(&["pools.yaml", "--fragment"]).done();
    assert!(
        told.starts_with("fragment.yaml: written, layout one-host\n"),
        "{told}"
    );
    let own = merged(&world, &desk.text("fragment.yaml"));
    desk.put("mine.json", &own.to_string());
    desk.validate("mine.json");
    let _envoy = desk.start("mine.json", &world.admin);
    let client = world.client();
    // Half of the sessions are in; the others go where all went before, as they came.
    let (mut in_it, mut out) = (0, 0);
    for session in 0..60 {
        let session = format!("session-{session}");
        let headers = [
            ("x-session-id", session.as_str()),
            ("authorization", "Bearer mine"),
            ("x-upstream", "redis"),
        ];
        let reply = client.get("/echo", &headers);
        let seen = reply.json()["headers"].clone();
        match reply.header("x-slotgate-path") {
            "atomic" => {
                in_it += 1;
                let key = seen["authorization"].as_str().unwrap().to_owned();
                assert!(
                    ["Bearer first-key", "Bearer second-key"].contains(&key.as_str()),
                    "{key}"
                );
                assert_untold(&seen);
            }
            _ => {
                out += 1;
                assert_eq!(seen["authorization"], "Bearer mine");
            }
        }
    }
    assert!(in_it > 10 && out > 10, "{in_it} {out}");
}

/// A fragment is said to be one. Its pieces are checked, and nothing is missing that is in what it is merged into.
#[test]
fn a_fragment_can_be_checked_by_itself() {
    let desk = Desk::with(
        "upstream: {cluster: api}\npools:\n- name: main\n  accounts:\n  - {id: one, limit: 2, key_env: KEY_ONE}\n",
    );
    desk.init(&["pools.yaml", "--fragment"]).done();
    let whole = "fragment.yaml: network filter \"slotgate_bridge\", role bridge: OK\n\
                 fragment.yaml: http filter \"slotgate\", role scheduler: OK\n  not set here, so not checked: KEY_ONE\n";
    let rest = "fragment.yaml: not here, so not checked: what this fragment is merged into; check that as well\n";
    let check = ["check", "fragment.yaml", "--strict"];
    assert_eq!(desk.run(&check, "").done(), format!("{whole}{rest}"));
    let json = desk.run(&["check", "fragment.yaml", "--json"], "").done();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["ok"], &json["warnings"]), (&json!(true), &json!([])));
    let fragment = desk.text("fragment.yaml");
    for (from, to, code, said) in [
        // In the first part.
        (
            "cluster: redis\n",
            "cluster: reddis\n",
            0,
            "not here, so not checked: cluster reddis, where Redis is",
        ),
        (
            "- name: envoy.bootstrap.internal_listener\n  typed_config:",
            "- name: mine\n  other:",
            1,
            "error: [0].bootstrap_extensions: no extension envoy.bootstrap.internal_listener",
        ),
        // In the second.
        (
            "max_concurrency: 2",
            "max_concurrency: 0",
            1,
            "  pools[0].accounts[0].max_concurrency: 0 is not in",
        ),
        (
            "timeout: 0s}",
            "idle_timeout: 60s, timeout: 0s}",
            0,
            "warning: [1].route_config.virtual_hosts[0].routes[0].route.idle_timeout: cuts a stream",
        ),
        (
            "- remove: x-upstream",
            "- remove: x-other",
            0,
            "warning: [1].early_header_mutation_extensions: does not take x-upstream off requests",
        ),
        // From one to the other.
        (
            "redis: {pipe_cluster: slotgate_pipe}",
            "redis: {pipe_cluster: pipe}",
            1,
            "error: [1].http_filters[0].typed_config.config.configuration.value.redis.pipe_cluster: there is no cluster pipe; the one that leads to an internal listener is slotgate_pipe",
        ),
    ] {
        let broken = fragment.replacen(from, to, 1);
        assert_ne!(broken, fragment, "{from}");
        desk.put("fragment.yaml", &broken);
        let ran = desk.run(&["check", "fragment.yaml"], "");
        assert_eq!((ran.code, ran.err.as_str()), (code, ""), "{}", ran.out);
        assert!(ran.out.contains(said), "{said} is not in\n{}", ran.out);
        assert!(ran.out.contains(rest), "{}", ran.out);
    }
}

/// A cluster is given what its slots need, the application's too.
#[test]
fn more_than_envoys_own_bound() {
    let desk = Desk::with(&format!(
        "layout: sidecar\nwasm: {}\napp: {{address: \"127.0.0.1:1\", limit: 2000}}\npools:\n- name: main\n  accounts:\n  \
         - {{id: one, limit: 1500, upstream: \"http://127.0.0.1:2\"}}\n",
        wasm().display()
    ));
    desk.init(&["pools.yaml"]).done();
    let written = desk.text("envoy.yaml");
    for bound in ["max_requests: 4000", "max_requests: 3000"] {
        assert!(written.contains(bound), "{written}");
    }
    desk.validate("envoy.yaml");
    // Without these lines it is said.
    let kept = written.lines().filter(|line| {
        let breakers = ["circuit_breakers:", "  thresholds:", "- {max_connections"];
        !breakers.iter().any(|part| line.contains(part))
    });
    desk.put("envoy.yaml", &kept.collect::<Vec<_>>().join("\n"));
    let told = desk.run(&["check", "envoy.yaml"], "").done();
    for part in [
        "here have 2000 slots, and Envoy's own bound is 1024 (max_connections, max_pending_requests, max_requests)",
        "here have 1500 slots",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

/// Names that YAML could take for something else, many pools, hosts with TLS, a login, more than Envoy's own limit.
#[test]
fn whatever_is_written_is_valid() {
    let odd = "layout: LAYOUT\nlisten: 0.0.0.0:18080\nadmin: \"[::1]:9901\"\nconsole: 9902\nca: CA\npercent: 12.5\nwasm: WASM\n\
        session_header: x-user\nkey: {header: x-api-key, prefix: \"a 'b': #\"}\n\
        redis: {address: redis.example.com, username: gate, password_env: KEY_OTHERS}\nupstream: https://api.example.com\n\
        traditional: {upstream: \"https://10.0.0.1:8443/\", key_env: KEY_OTHERS}\n\
        pools:\n- name: \"1\"\n  revision: 7\n  match: {header: x-model, prefix: \"a: #'\\\"b\"}\n  upstream: http://127.0.0.1:80\n  accounts:\n  \
        - {id: \"true\", limit: 100000, key_env: KEY_ONE, priority: 0}\n\
        - name: \"~\"\n  accounts: [{id: \"0x1\", limit: 1, key_env: KEY_TWO}]\n";
    for layout in ["one-host", "cluster-per-account", "sidecar"] {
        let dir = Dir::temporary();
        let made = Certificate::make(&dir, "ca");
        let text = odd
            .replace("LAYOUT", layout)
            .replace("~", "n")
            .replace("WASM", wasm().to_str().unwrap())
            .replace("CA", made.certificate.to_str().unwrap());
        let desk = Desk::with(&text);
        desk.init(&["pools.yaml"]).done();
        desk.validate("envoy.yaml");
        let written = documents(&desk.text("envoy.yaml")).remove(0);
        let text = written.to_string();
        for part in [
            r#""percent":12.5"#,
            r#""id":"true""#,
            r#""id":"0x1""#,
            r#""prefix":"a: #'\"b""#,
            r#""max_requests":200000"#,
            r#""password_env":"KEY_OTHERS""#,
            r#""exact":"10.0.0.1""#,
        ] {
            assert!(text.contains(part), "{layout}: {part} is not in {text}");
        }
        desk.init(&["pools.yaml", "--fragment"]).done();
        assert_eq!(documents(&desk.text("fragment.yaml")).len(), 2);
    }
}

/// One key may also be that of requests without a slot, or of Redis: Envoy takes no variable's name twice.
#[test]
fn one_variable_for_several_things() {
    let desk = Desk::with(&format!(
        "wasm: {}\nredis: {{address: 127.0.0.1, password_env: KEY_TWO}}\nupstream: http://127.0.0.1:1\n\
         traditional: {{key_env: KEY_ONE}}\npools:\n- name: main\n  accounts:\n  - {{id: one, limit: 2, key_env: KEY_ONE}}\n  \
         - {{id: two, limit: 3, key_env: KEY_TWO}}\n",
        wasm().display()
    ));
    desk.init(&["pools.yaml"]).done();
    desk.validate("envoy.yaml");
}

/// What the filter itself would refuse, in whichever way it was not foreseen.
#[test]
fn what_the_filter_refuses_is_not_written() {
    let mut text = "layout: cluster-per-account\nupstream: http://a\npools:\n".to_owned();
    for n in 0..1_001 {
        text.push_str(&format!(
            "- name: p{n}\n  match: {{header: h, exact: a}}\n  accounts: [{{id: a, limit: 1}}]\n"
        ));
    }
    for fragment in [&[][..], &["--fragment"]] {
        let desk = Desk::with(&text);
        let told = desk.init(&[&["pools.yaml"], fragment].concat()).failed(1);
        assert!(told.starts_with("pools: has 1001 entries"), "{told}");
        let end = "error: what pools.yaml makes is refused; nothing was written\n";
        assert!(told.ends_with(end), "{told}");
        assert_eq!(desk.names(), ["pools.yaml"]);
    }
}

#[test]
fn ten_thousand_accounts() {
    let mut text = "layout: cluster-per-account\nupstream: https://a.example.com\npools:\n- name: p\n  accounts:\n".to_owned();
    for n in 0..10_000 {
        text.push_str(&format!("  - {{id: a{n}, limit: 1, key_env: K{n}}}\n"));
    }
    let desk = Desk::with(&text);
    desk.init(&["pools.yaml"]).done();
    let written = desk.text("envoy.yaml");
    assert_eq!(written.matches("max_concurrency: 1,").count(), 10_000);
}

const SMALL: &str = "upstream: https://api.example.com\npools:\n- name: main\n  accounts:\n  - {id: one, limit: 5}\n";

#[test]
fn the_same_file_gives_the_same_text_and_nothing_is_overwritten() {
    let desk = Desk::with(SMALL);
    desk.init(&["pools.yaml"]).done();
    let first = desk.text("envoy.yaml");
    assert_eq!(desk.init(&["pools.yaml", "--output", "-"]).done(), first);
    assert_eq!(
        desk.run(&["init", "-", "--output", "-"], SMALL).done(),
        first
    );
    desk.put("envoy.yaml", "mine\n");
    let told = desk.init(&["pools.yaml"]).failed(2);
    let expected = "error: envoy.yaml is there already; nothing was written\n  try: --output with another name, or --force\n";
    assert_eq!(told, expected);
    assert_eq!(desk.text("envoy.yaml"), "mine\n");
    desk.init(&["pools.yaml", "--force"]).done();
    assert_eq!(desk.text("envoy.yaml"), first);
    // The folder that the file lies in is not part of what is written.
    let elsewhere = desk.0.join("pools.yaml");
    let elsewhere = elsewhere.to_str().unwrap();
    assert_eq!(desk.init(&[elsewhere, "--output", "-"]).done(), first);
    let told = desk
        .init(&["pools.yaml", "--output", "no/such/folder"])
        .failed(2);
    assert!(
        told.starts_with("error: no/such/folder can't be written: "),
        "{told}"
    );
}

#[test]
fn a_full_disk_is_said() {
    let desk = Desk::with(SMALL);
    let told = desk
        .init(&["pools.yaml", "--output", "/dev/full", "--force"])
        .failed(2);
    assert!(
        told.starts_with("error: /dev/full can't be written: "),
        "{told}"
    );
}

#[test]
fn check_says_where_the_file_differs() {
    let desk = Desk::with(SMALL);
    let told = desk.init(&["pools.yaml", "--check"]).failed(2);
    assert!(told.contains("envoy.yaml can't be read"), "{told}");
    desk.init(&["pools.yaml"]).done();
    let told = desk.init(&["pools.yaml", "--check"]).done();
    assert_eq!(told, "envoy.yaml: as pools.yaml says\n");
    desk.put("pools.yaml", &SMALL.replace("limit: 5", "limit: 6"));
    let ran = desk.init(&["pools.yaml", "--check"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    assert!(
        ran.out.contains(": differs from what pools.yaml gives\n"),
        "{}",
        ran.out
    );
    assert!(
        ran.out
            .contains("  there:    - {id: one, max_concurrency: 5,"),
        "{}",
        ran.out
    );
    assert!(
        ran.out
            .contains("  expected: - {id: one, max_concurrency: 6,"),
        "{}",
        ran.out
    );
    let told = desk.init(&["pools.yaml", "--check", "--json"]).out;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["same"], false);
    // It wrote nothing.
    assert!(desk.text("envoy.yaml").contains("max_concurrency: 5"));
    for arguments in [
        &["--check"][..],
        &["pools.yaml", "--check", "--output", "-"],
        &["pools.yaml", "--check", "--force"],
    ] {
        desk.init(arguments).failed(2);
    }
}

#[test]
fn every_mistake_at_once_with_its_place_and_nothing_is_written() {
    let desk = Desk::with(
        "layout: one_host\nupstrem: http://x\npercent: 101\nlisten: 0\nadmin: api:1\nredis: {address: \"x y:1\", username: u}\n\
         key: {header: X-Key, prefix: \"a$b\"}\ntraditional: no\napp: {}\nconsole: 10000\npools:\n- name: \"a b\"\n  accounts:\n  \
         - {id: one, limit: 0, key_env: sk-123}\n  - {id: one, limit: 5, id: two, upstream: https://u/v1}\n\
         - name: b\n  match: {header: h, exact: a, prefix: b}\n  upstream: {cluster: mine}\n  accounts: []\n\
         - 5\n- name: b\n  upstream: https://user@host\n  accounts:\n  - {id: \"\\e[31m\", limit: 5.5, key_env: K}\n  - {id: c, key_env: K}\n  \
         - {id: d, limit: [1], \"bad\\nname\": 1}\n",
    );
    let ran = desk.init(&["pools.yaml"]);
    let expected = "\
pools.yaml:1:9: layout: \"one_host\" is none of one-host, cluster-per-account, sidecar
pools.yaml:2:1: upstrem: unknown field; did you mean upstream?
pools.yaml:3:10: percent: \"101\" is not in 0..=100
pools.yaml:4:9: listen: port \"0\" is not in 1..=65535
pools.yaml:5:8: admin: \"api:1\" is not a port, or an address and a port
pools.yaml:6:8: redis.username: needs `password_env`
";
    assert_eq!(ran.code, 1);
    assert_eq!(ran.out, "");
    assert!(ran.err.starts_with(expected), "{}", ran.err);
    for line in [
        "6:18: redis.address: \"x y:1\" does not begin with a host's name or address",
        "7:15: key.header: \"X-Key\" is not a header's name in lower case",
        "7:30: key.prefix: \"a$b\" is not printable ASCII without % $ \" and \\",
        "8:14: traditional: \"no\" is neither `reject` nor an object with `upstream` and `key_env`",
        "9:6: app: is for `layout: sidecar` alone",
        "12:3: pools[0].match: is required: without one a pool takes all that is left, so only the last may",
        "12:9: pools[0].name: \"a b\" is not [A-Za-z0-9._-]{1,64}",
        "14:22: pools[0].accounts[0].limit: \"0\" is not a whole number in 1..=100000",
        "14:34: pools[0].accounts[0].key_env: is not the name of a variable, [A-Za-z_][A-Za-z0-9_]*; the key itself is never written here",
        "15:25: pools[0].accounts[1].id: is there twice",
        "15:44: pools[0].accounts[1].upstream: \"https://u/v1\" has a path: clients send it, so leave it out",
        "17:10: pools[1].match: needs one of `exact`, `prefix`, `suffix`",
        "18:13: pools[1].upstream: names a cluster that you have: only with --fragment; a complete configuration needs https://host or http://host:port",
        "19:13: pools[1].accounts: is empty",
        "20:3: pools[2]: a single value where an object is expected",
        "21:9: pools[3].name: \"b\" is there twice",
        "22:13: pools[3].upstream: has a login in it: keys come from `key_env`",
        "25:5: pools[3].accounts[1].limit: is required",
        "25:22: pools[3].accounts[1].key_env: K is the key of b/? as well: its limit would count twice",
        "26:20: pools[3].accounts[2].limit: a list where a single value is expected",
        "26:25: pools[3].accounts[2].bad\\nname: unknown field",
    ] {
        let line = format!("pools.yaml:{line}");
        assert!(ran.err.contains(&line), "no {line} in\n{}", ran.err);
    }
    assert!(!ran.err.contains("sk-123"), "a key is shown: {}", ran.err);
    assert!(!ran.err.contains('\u{1b}'), "{:?}", ran.err);
    let count = ran.err.lines().count() - 1;
    let end = format!("error: pools.yaml has {count} errors; nothing was written\n");
    assert!(ran.err.ends_with(&end), "{}", ran.err);
    // What only follows from another mistake is not said.
    assert!(
        !ran.err
            .contains("pools[3].accounts[0].upstream: is required"),
        "{}",
        ran.err
    );
    assert_eq!(desk.names(), ["pools.yaml"]);
    // In order, and the same for programs.
    let told: Value = serde_json::from_str(&desk.init(&["pools.yaml", "--json"]).err).unwrap();
    let errors = told["error"]["errors"].as_array().unwrap();
    assert_eq!(errors.len(), count);
    let places: Vec<_> = errors
        .iter()
        .map(|error| (error["line"].as_u64(), error["column"].as_u64()))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn mistakes_that_only_the_whole_shows() {
    for (text, expected) in [
        ("", "1:1: nothing in it; it needs `pools` at least"),
        ("a: [1", "not YAML: "),
        ("- 1\n", "1:1: a list where an object is expected"),
        ("layout: sidecar\n", "pools: is required"),
        (
            "percent: 10\npools:\n- name: p\n  upstream: http://a\n  accounts: [{id: a, limit: 1}]\n",
            "1:10: percent: is below 100, and there is no way for the other requests: say `upstream`, or `traditional: {upstream: …}`",
        ),
        (
            "pools:\n- name: p\n  accounts: [{id: a, limit: 1}]\n",
            "3:14: pools[0].accounts[0].upstream: is required, for neither the pool nor the file has one: https://host, or http://host:port",
        ),
        (
            "upstream: http://a\npools:\n- name: p\n  accounts: [{id: a, limit: 1}, {id: b, limit: 1}]\n",
            "4:14: pools[0].accounts[0].key_env: is required: accounts of one host differ by nothing but their keys",
        ),
        (
            "upstream: http://a\nadmin: 10000\npools:\n- name: p\n  accounts: [{id: a, limit: 1}]\n",
            "2:8: admin: port 10000 is that of listen as well",
        ),
        (
            "traditional: {key_env: K}\npools:\n- name: p\n  upstream: http://a\n  accounts: [{id: a, limit: 1}]\n",
            "1:14: traditional.upstream: is required, for there is no `upstream` for all",
        ),
        (
            "layout: sidecar\nupstream: http://a\napp: {address: 127.0.0.1:1, limit: 1}\npools:\n- name: app\n  accounts: [{id: a, limit: 1}]\n",
            "5:9: pools[0].name: is the name of the application's own pool",
        ),
        (
            "upstream: http://a\nkey: {header: content-length}\npools:\n- name: p\n  accounts: [{id: a, limit: 1}]\n",
            "2:15: key.header: \"content-length\" is not for a key",
        ),
    ] {
        let desk = Desk::with(text);
        let told = desk.init(&["pools.yaml"]).failed(1);
        assert!(told.contains(expected), "{text}: {told}");
        assert_eq!(desk.names(), ["pools.yaml"]);
    }
    let told = Desk::new().init(&["pools.yaml"]).failed(2);
    assert!(told.contains("pools.yaml can't be read"), "{told}");
}

/// Answers of the wizard, with wrong ones among them.
const ANSWERS: &str = "\nhttp//x\nhttps://api.example.com\n\n0\n18080\n\none\n0\n5\nsk-secret\nKEY_ONE\ntwo\n10\nKEY_TWO\n\n101\n\n";

#[test]
fn without_a_file_it_asks() {
    let desk = Desk::new();
    let ran = desk.run(&["init"], ANSWERS);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for question in [
        "Layout: ",
        "Upstream: ",
        "Redis: host:port [127.0.0.1:6379]: ",
        "Name of the pool [main]: ",
    ] {
        assert!(ran.err.contains(question), "{question}: {}", ran.err);
    }
    for wrong in [
        "\"http//x\" is not https://host",
        "port \"0\" is not in",
        "is not the name of a variable",
        "\"101\" is not in",
    ] {
        assert_eq!(ran.err.matches(wrong).count(), 1, "{wrong}: {}", ran.err);
    }
    assert!(!ran.err.contains("sk-secret"), "{}", ran.err);
    assert!(ran.out.starts_with("pools.yaml: written; "), "{}", ran.out);
    let expected = "\
layout: one-host
upstream: https://api.example.com
redis: \"127.0.0.1:6379\"
listen: \"18080\"
percent: 100
pools:
- name: main
  revision: 1 # raise it when accounts or limits change
  accounts:
  - {id: one, limit: 5, key_env: KEY_ONE}
  - {id: two, limit: 10, key_env: KEY_TWO}
";
    assert_eq!(desk.text("pools.yaml"), expected);
    desk.init(&["pools.yaml", "--check"]).done();
    // What is there is seen before anything is asked.
    let told = desk.run(&["init"], ANSWERS).failed(2);
    assert!(
        told.starts_with("error: pools.yaml is there already"),
        "{told}"
    );
}

#[test]
fn the_wizard_knows_the_other_layouts() {
    for layout in ["cluster-per-account", "sidecar"] {
        let desk = Desk::new();
        let answers = format!(
            "{layout}\n\n\n\n1\n3\n\nhttp://127.0.0.1:8080\ntwo\n4\nK\nhttps://b.example.com\n\n"
        );
        let ran = desk.run(&["init"], &answers);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(desk.text("envoy.yaml").contains("account_two"));
        desk.init(&["pools.yaml", "--check"]).done();
    }
}

#[test]
fn answers_that_end_too_soon_write_nothing() {
    for (end, _) in ANSWERS
        .match_indices('\n')
        .filter(|(end, _)| *end + 1 < ANSWERS.len())
    {
        let desk = Desk::new();
        let ran = desk.run(&["init"], &ANSWERS[..=end]);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{}", ran.err);
        assert!(ran.err.contains("nothing was written"), "{}", ran.err);
        assert_eq!(desk.names(), [""; 0]);
    }
}

/// The README's file and what it shows of the fragment that is made of it.
#[test]
fn the_readme_shows_what_is_written() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("## Add it to your Envoy").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    assert!(
        section.lines().count() <= 60,
        "{} lines",
        section.lines().count()
    );
    let blocks: Vec<&str> = section
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let [pools, shown] = blocks[..] else {
        panic!("{blocks:?}")
    };
    let world = World::new();
    let desk = Desk::with(pools);
    desk.init(&["pools.yaml", "--fragment"]).done();
    let written = desk.text("fragment.yaml");
    // As far in as it is in the file.
    let first = shown.lines().next().unwrap();
    let line = written.lines().find(|line| line.trim_start() == first);
    let margin = " ".repeat(line.expect("its first line").len() - first.len());
    let shown: String = shown
        .lines()
        .map(|line| format!("{margin}{line}\n"))
        .collect();
    assert!(
        written.contains(&shown),
        "this is not in the fragment:\n{shown}\n{written}"
    );
    // And it runs, in an Envoy with a cluster of that name, at places of this test's own.
    let kept = pools.lines().filter(|line| !line.starts_with("redis:"));
    let text: String = kept.map(|line| format!("{line}\n")).collect();
    desk.put("pools.yaml", &(world.top() + &text));
    desk.init(&["pools.yaml", "--fragment", "--force"]).done();
    let text = merged(&world, &desk.text("fragment.yaml")).to_string();
    let text = text.replace(r#":"upstream""#, r#":"api""#);
    desk.put("mine.json", &text);
    desk.validate("mine.json");
    let _envoy = desk.start("mine.json", &world.admin);
    let (account, seen) = granted(&world.client(), "alice", &[]);
    let key = seen["authorization"].as_str().unwrap();
    assert!(
        ["one", "two"].contains(&account.as_str()) && key.starts_with("Bearer "),
        "{account} {key}"
    );
}

/// Paths in the texts are those of the repository.
#[test]
fn files_that_the_written_text_names_exist() {
    let desk = Desk::with(&SMALL.replace("upstream:", "layout: sidecar\nupstream:"));
    let told = desk.init(&["pools.yaml", "--output", "-"]).done();
    for rest in told.split("envoy/").skip(1) {
        let end = rest.find(|char: char| !char.is_ascii_alphanumeric() && !"/._-".contains(char));
        let name = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
        let is_path = name.ends_with('/') || name.ends_with(".yaml");
        let own = name.starts_with("slotgate.wasm");
        assert!(
            own || !is_path || Path::new(&root()).join("envoy").join(name).exists(),
            "{name}"
        );
    }
}
