//! The rows: which Envoy, in front of what, and how many connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::Instant;

use serde_json::{Value, json};
use slotgate::ledger::commands::SyncAccount;
use slotgate::ledger::keys;
use slotgate::ledger::source::Script;

use crate::peers;
use crate::pipe::Pipe;
use support::*;

/// Slots of each account: nobody is ever refused.
const SLOTS: u32 = 1_000;
const ACCOUNTS: u32 = 100;
const POOL: &str = "demo";

/// What stands in the filter's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    NoFilter,
    Nothing,
    /// What any filter pays Envoy for a part of what slotgate does.
    Floor(Floor),
    Slotgate(&'static str),
    /// Slotgate, and something in the upstream filters too.
    Upstream(Half),
    /// Its own Redis stands still.
    Frozen,
    RedisProxy,
    /// Envoy's Lua filter with HTTP calls, to webdis or straight to Redis.
    HttpCalls(Calls),
    /// Envoy's filter for a rate-limit service, before `tests/bench/limitador` with this storage.
    RateLimit(&'static str),
    /// No Envoy: LiteLLM's proxy, whose keys may have so many requests at once, or any number without a Redis.
    LiteLlm(Option<u32>),
}

/// What a filter that decides nothing does; see floor.wat.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Floor {
    /// It reads all headers of the request.
    headers: bool,
    /// The request waits until the event loop has done all it woke up for.
    pause: bool,
    /// So many headers are set.
    set: u32,
    /// It asks for the status of the answer.
    status: bool,
}

const HEADERS: Floor = Floor {
    headers: true,
    pause: false,
    set: 0,
    status: false,
};
const SET: Floor = Floor { set: 1, ..HEADERS };
const STATUS: Floor = Floor {
    status: true,
    ..SET
};
const PAUSE: Floor = Floor {
    headers: false,
    pause: true,
    ..HEADERS
};
/// All that slotgate cannot do without.
const FLOOR: Floor = Floor {
    headers: true,
    pause: true,
    set: 4,
    status: true,
};

/// What stands in the upstream filters, beside a route that tries again what is marked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    /// A filter that does nothing, and no failover.
    Nothing,
    /// Slotgate's.
    Kept,
    /// The same, and the first account refuses each request.
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    Webdis,
    Redis,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Setup {
    way: Way,
    workers: u32,
    accounts: u32,
    /// Behind Envoy: a server that answers `ok`, or Envoy answers by itself.
    upstream: bool,
}

pub struct Row {
    pub name: &'static str,
    setup: Setup,
    pub connections: u32,
    /// What is sent, in the words of `wrk.lua`.
    pub request: &'static str,
    /// Latency at a fixed rate is measured too.
    pub paced: bool,
    /// Each request is answered 429.
    pub refused: bool,
    /// A round is so many times as long as others, where few requests come through.
    pub long: u64,
    /// The same without a decision.
    pub beside: Option<&'static str>,
}

const fn row(name: &'static str, way: Way) -> Row {
    Row {
        name,
        setup: Setup {
            way,
            workers: 1,
            accounts: ACCOUNTS,
            upstream: false,
        },
        connections: 32,
        request: "plain",
        paced: false,
        refused: false,
        long: 1,
        beside: None,
    }
}

impl Row {
    const fn refused(mut self) -> Row {
        self.refused = true;
        self
    }

    const fn connections(mut self, connections: u32) -> Row {
        self.connections = connections;
        self
    }

    const fn workers(mut self, workers: u32) -> Row {
        self.setup.workers = workers;
        self
    }

    const fn accounts(mut self, accounts: u32) -> Row {
        self.setup.accounts = accounts;
        self
    }

    const fn upstream(mut self) -> Row {
        self.setup.upstream = true;
        self
    }

    const fn paced(mut self) -> Row {
        self.paced = true;
        self
    }

    const fn request(mut self, request: &'static str) -> Row {
        self.request = request;
        self
    }

    const fn long(mut self, long: u64) -> Row {
        self.long = long;
        self
    }

    const fn beside(mut self, name: &'static str) -> Row {
        self.beside = Some(name);
        self
    }
}

const ALL_IN: Way = Way::Slotgate("{}");

pub const ROWS: &[Row] = &[
    row("no filter", Way::NoFilter).paced(),
    row("a filter that does nothing", Way::Nothing).paced(),
    row("a filter that does nothing, 1 connection", Way::Nothing).connections(1),
    row("a filter that does nothing, 256 connections", Way::Nothing).connections(256),
    row("a filter that does nothing, 2 workers", Way::Nothing).workers(2),
    row("headers: it reads them", Way::Floor(HEADERS)),
    row("set: and sets one", Way::Floor(SET)),
    row("status: and asks for the status", Way::Floor(STATUS)),
    row("pause: it does nothing else", Way::Floor(PAUSE)),
    row("pause, 1 connection", Way::Floor(PAUSE)).connections(1),
    row("floor: headers, pause, four set, status", Way::Floor(FLOOR)),
    row("floor, 1 connection", Way::Floor(FLOOR)).connections(1),
    row(
        "slotgate, out of the percentage",
        Way::Slotgate(r#"{"gray": {"percent": 0}}"#),
    )
    .paced(),
    row(
        "slotgate, out of the percentage, no path_header",
        Way::Slotgate(
            r#"{"gray": {"percent": 0}, "traditional": {"path_header": false}}"#,
        ),
    ),
    row(
        "slotgate, a full pool, each request asked for",
        Way::Slotgate(r#"{"pools": [{"name": "demo", "accounts": [{"id": "a", "max_concurrency": 1, "enabled": false}]}], "saturated": {"refuse_ms": 0}}"#),
    )
    .refused(),
    row(
        "slotgate, a full pool",
        Way::Slotgate(r#"{"pools": [{"name": "demo", "accounts": [{"id": "a", "max_concurrency": 1, "enabled": false}]}]}"#),
    )
    .refused(),
    row("slotgate", ALL_IN).paced(),
    row("slotgate, 1 connection", ALL_IN).connections(1),
    row("slotgate, 256 connections", ALL_IN).connections(256),
    row("slotgate, 2 workers", ALL_IN).workers(2),
    row("slotgate, 2 workers, 256 connections", ALL_IN)
        .workers(2)
        .connections(256),
    row("a filter that does nothing, real upstream", Way::Nothing).upstream(),
    row("slotgate, real upstream", ALL_IN).upstream().paced(),
    row(
        "slotgate, real upstream, an upstream filter that does nothing",
        Way::Upstream(Half::Nothing),
    )
    .upstream()
    .paced(),
    row(
        "slotgate, real upstream, failover, none refused",
        Way::Upstream(Half::Kept),
    )
    .upstream()
    .paced(),
    row(
        "slotgate, real upstream, failover, none refused, 1 connection",
        Way::Upstream(Half::Kept),
    )
    .upstream()
    .connections(1),
    row(
        "slotgate, real upstream, failover, each refused once",
        Way::Upstream(Half::Refused),
    )
    .upstream(),
    row(
        "slotgate, real upstream, failover, each refused once, 1 connection",
        Way::Upstream(Half::Refused),
    )
    .upstream()
    .connections(1),
    row("slotgate, affinity", ALL_IN).request("session"),
    row(
        "slotgate, access_log",
        Way::Slotgate(r#"{"access_log": true}"#),
    ),
    row(
        "slotgate, shadow",
        Way::Slotgate(r#"{"gray": {"percent": 100, "mode": "shadow"}}"#),
    ),
    // Not answered by Envoy itself: a request that is over in the same moment is never recorded.
    row(
        "slotgate, traditional.mode local, real upstream",
        Way::Slotgate(r#"{"gray": {"percent": 0}, "traditional": {"mode": "local"}}"#),
    )
    .upstream(),
    row("slotgate, Redis frozen, breaker open", Way::Frozen),
    row("slotgate through redis_proxy", Way::RedisProxy),
    row("HTTP calls to webdis", Way::HttpCalls(Calls::Webdis)),
    row(
        "a connection for each acquire, no release",
        Way::HttpCalls(Calls::Redis),
    ),
    row("slotgate, 10 accounts", ALL_IN).accounts(10),
    row("slotgate, 1000 accounts", ALL_IN).accounts(1_000),
    row("slotgate, 10000 accounts", ALL_IN).accounts(10_000),
    row("slotgate, 100000 accounts", ALL_IN).accounts(100_000),
];

/// `make bench-peers`: a decision beside those of others, all before a real upstream.
pub const PEERS: &[Row] = &[
    peer(ENVOY_ALONE, Way::NoFilter),
    peer("a filter that does nothing", Way::Nothing).beside(ENVOY_ALONE),
    peer("slotgate", ALL_IN).beside(ENVOY_ALONE),
    peer("ratelimit, Limitador in memory", Way::RateLimit("memory")).beside(ENVOY_ALONE),
    peer(
        "ratelimit, Limitador, Redis with a cache",
        Way::RateLimit("cached"),
    )
    .beside(ENVOY_ALONE),
    peer("ratelimit, Limitador, Redis", Way::RateLimit("redis")).beside(ENVOY_ALONE),
    peer("HTTP calls to webdis", Way::HttpCalls(Calls::Webdis)).beside(ENVOY_ALONE),
    peer(LITELLM_ALONE, Way::LiteLlm(None))
        .request("chat")
        .long(3),
    peer(
        "LiteLLM, max_parallel_requests in Redis",
        Way::LiteLlm(Some(SLOTS)),
    )
    .request("chat")
    .long(3)
    .beside(LITELLM_ALONE),
];

const ENVOY_ALONE: &str = "Envoy alone";
const LITELLM_ALONE: &str = "LiteLLM without limits";

const fn peer(name: &'static str, way: Way) -> Row {
    row(name, way).upstream()
}

/// The servers of one set-up; rows with the same one share them.
pub struct Running {
    setup: Setup,
    pub addr: SocketAddr,
    pub envoy: Option<Envoy>,
    /// From the start of what answers until it serves.
    pub start_ms: f64,
    pub redis: Redis,
    /// What decides beside Envoy, or in its place.
    beside: Option<(Port, Process)>,
    upstream: Option<Upstream>,
}

pub fn start(rows: &[&Row]) -> Vec<Rc<Running>> {
    let mut all: Vec<Rc<Running>> = Vec::new();
    for row in rows {
        let same = all.iter().find(|running| running.setup == row.setup);
        let running = same
            .cloned()
            .unwrap_or_else(|| Rc::new(Running::start(row.setup)));
        all.push(running);
    }
    all
}

impl Running {
    fn start(setup: Setup) -> Running {
        let redis = Redis::start_with(&HASHED);
        let upstream = setup.upstream.then(Upstream::start);
        let beside = match setup.way {
            Way::HttpCalls(Calls::Webdis) => Some(start_webdis(&redis)),
            Way::RateLimit(storage) => Some(peers::start_limitador(&redis, storage)),
            _ => None,
        };
        let began = Instant::now();
        let (addr, envoy, beside) = match setup.way {
            Way::LiteLlm(limit) => {
                let upstream = upstream.as_ref().expect("an upstream");
                let (port, process) = peers::start_litellm(&redis, upstream, limit);
                (port.addr(), None, Some((port, process)))
            }
            _ => {
                let beside_addr = beside.as_ref().map(|(port, _)| port.addr());
                let envoy = Envoy::start(config(setup, &redis, upstream.as_ref(), beside_addr));
                (envoy.addr(), Some(envoy), beside)
            }
        };
        let start_ms = began.elapsed().as_secs_f64() * 1e3;
        let running = Running {
            setup,
            addr,
            envoy,
            start_ms,
            redis,
            beside,
            upstream,
        };
        let answers = || Client::new(addr).get("/", &[]).status == 200;
        if setup.way == Way::Frozen {
            assert!(answers());
            running.redis.sigstop();
        }
        if setup.way == Way::Upstream(Half::Refused) {
            // Before the pipe is open a request has no account that another one could follow.
            eventually(PATIENCE, answers);
        }
        running
    }

    /// Whether webdis stands between Envoy and Redis.
    pub fn is_webdis(&self) -> bool {
        self.setup.way == Way::HttpCalls(Calls::Webdis)
    }

    /// The Redis that can be asked.
    pub fn answering_redis(&self) -> Option<&Redis> {
        (self.setup.way != Way::Frozen).then_some(&self.redis)
    }

    /// CPU time so far, in seconds: Envoy's, Redis', and that of what decides beside Envoy.
    pub fn cpu_s(&self) -> [f64; 3] {
        let of = |pid: Option<u32>| pid.map_or(0.0, |pid| Usage::of(pid).cpu_s);
        let beside = self.beside.as_ref().map(|(_, process)| process.pid());
        [
            of(self.envoy.as_ref().map(Envoy::pid)),
            of(Some(self.redis.pid())),
            of(beside),
        ]
    }

    /// That the row did what its name says.
    pub fn check(&self, row: &Row) {
        let envoy = self.envoy.as_ref();
        let upstream = self.upstream.as_ref();
        let stat = |name: &str| envoy.and_then(|envoy| envoy.filter_stat(name));
        let sent = match envoy {
            Some(envoy) => envoy.stat("http.http.downstream_rq_completed"),
            None => upstream.map(|upstream| upstream.snapshot().requests),
        };
        let sent = sent.unwrap_or_default();
        let most = |counted: Option<u64>| {
            let counted = counted.unwrap_or_default();
            assert!(
                counted * 10 >= sent * 9,
                "{}: {counted} of {sent}",
                row.name
            );
        };
        let scripts_run = || {
            let stats: String = self.redis.run("INFO", &["commandstats"]);
            let line = stats
                .lines()
                .find(|line| line.starts_with("cmdstat_evalsha:calls="));
            line.and_then(|line| line.split(['=', ',']).nth(1)?.parse::<u64>().ok())
        };
        match self.setup.way {
            Way::NoFilter | Way::Nothing | Way::Floor(_) | Way::LiteLlm(None) => {}
            Way::Slotgate("{}") | Way::RedisProxy | Way::Upstream(Half::Nothing | Half::Kept) => {
                most(stat("requests;outcome=atomic"));
            }
            Way::Upstream(Half::Refused) => most(stat("failover;outcome=served")),
            Way::Slotgate(_) => {
                let ways = [
                    "requests;outcome=traditional;reason=out_of_percentage",
                    "shadow.granted",
                    "requests;outcome=local",
                    "requests;outcome=atomic",
                    "requests;outcome=rejected;reason=saturated",
                ];
                most(Some(ways.iter().filter_map(|name| stat(name)).sum()));
            }
            Way::Frozen => most(Some(
                stat("requests;outcome=traditional;reason=breaker_open").unwrap_or_default()
                    + stat("requests;outcome=traditional;reason=pipe_down").unwrap_or_default(),
            )),
            // Not that nothing is left: this way leaks what clients leave behind.
            Way::HttpCalls(Calls::Webdis) => most(scripts_run().map(|count| count / 2)),
            Way::HttpCalls(Calls::Redis) => most(scripts_run()),
            Way::RateLimit(storage) => {
                let asked = "cluster.traditional.ratelimit.ok";
                most(envoy.and_then(|envoy| envoy.stat(asked)));
                if storage == "redis" {
                    most(scripts_run().map(|count| count / 2));
                }
            }
            Way::LiteLlm(Some(_)) => most(scripts_run()),
        }
    }
}

/// Envoy's configuration; `beside`: what it asks for a decision.
fn config(
    setup: Setup,
    redis: &Redis,
    upstream: Option<&Upstream>,
    beside: Option<SocketAddr>,
) -> EnvoyConfig {
    let mut config = EnvoyConfig::from_example()
        .without_access_log()
        .plugin(|plugin| {
            let account = |n| json!({"id": format!("a{n}"), "max_concurrency": SLOTS, "set_headers": {"x-upstream": "acct_1"}});
            plugin["response_headers"] = json!(false);
            plugin["pools"][0]["accounts"] = (0..setup.accounts).map(account).collect();
        })
        .redis(redis.addr())
        .workers(setup.workers)
        .log_levels("warning", "wasm:warning");
    config = match upstream {
        Some(upstream) => config.upstream(upstream.addr()),
        None => config.manager(|manager| {
            manager["route_config"]["virtual_hosts"][0]["routes"] =
                json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]);
        }),
    };
    let beside = || beside.expect("it runs");
    match setup.way {
        Way::NoFilter => config.without_wasm(),
        Way::Nothing => config.wasm(&write_nothing()),
        Way::Floor(floor) => config.wasm(&write_floor(floor)),
        Way::Upstream(half) => with_half(config, half),
        Way::Slotgate(changes) => {
            let changes: Value = serde_json::from_str(changes).expect("JSON");
            config.plugin(|plugin| {
                for (name, value) in changes.as_object().expect("an object") {
                    plugin[name] = value.clone();
                }
            })
        }
        Way::Frozen => config,
        Way::RedisProxy => config.redis_proxy(),
        Way::HttpCalls(calls) => {
            let addr = match calls {
                Calls::Redis => redis.addr(),
                Calls::Webdis => beside(),
            };
            http_calls(config.without_wasm(), calls, addr, &prepare(redis))
        }
        Way::RateLimit(_) => peers::rate_limit(config.without_wasm(), beside()),
        Way::LiteLlm(_) => panic!("it has no Envoy"),
    }
}

/// Commands and bytes in and out of Redis so far.
pub fn traffic(redis: &Redis) -> (f64, f64) {
    let info: String = redis.run("INFO", &["stats"]);
    let figure = |name: &str| {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|text| text.trim().parse::<f64>().ok())
            .unwrap_or_else(|| panic!("{name}"))
    };
    (
        figure("total_commands_processed"),
        figure("total_net_input_bytes") + figure("total_net_output_bytes"),
    )
}

/// The filter that does nothing.
fn write_nothing() -> PathBuf {
    let bytes = wat::parse_str(include_str!("../nothing.wat")).expect("nothing.wat");
    let path = root().join("target/nothing.wasm");
    std::fs::write(&path, bytes).expect("target can be written");
    path
}

/// The filter that does this, and decides nothing.
fn write_floor(floor: Floor) -> PathBuf {
    let numbers = [
        ("HEADERS", u32::from(floor.headers)),
        ("SET", floor.set),
        ("STATUS", u32::from(floor.status)),
        ("PAUSE", u32::from(floor.pause)),
    ];
    let mut text = include_str!("../floor.wat").to_owned();
    let mut name = String::from("target/floor");
    for (part, number) in numbers {
        text = text.replace(
            &format!("i32.const {part})"),
            &format!("i32.const {number})"),
        );
        name += &format!("-{number}");
    }
    let bytes = wat::parse_str(text).expect("floor.wat");
    let path = root().join(name + ".wasm");
    std::fs::write(&path, bytes).expect("target can be written");
    path
}

fn with_half(config: EnvoyConfig, half: Half) -> EnvoyConfig {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let config = config.failover(3).manager(|manager| {
        let host = &mut manager["route_config"]["virtual_hosts"][0];
        if half == Half::Refused {
            host["include_request_attempt_count"] = json!(true);
            for route in host["routes"].as_array_mut().expect("routes") {
                let path = "/refuse?tries=1&then=bytes&length=3";
                route["route"]["prefix_rewrite"] = json!(path);
            }
        }
    });
    match half {
        Half::Kept => config,
        Half::Refused => config.plugin(|plugin| {
            // They rest for as short as can be: the others must be enough.
            plugin["cooldown"] = json!({"default_ms": 1, "max_ms": 1});
            // One that goes the traditional way has no other account to go to.
            plugin["redis"]["acquire_timeout_ms"] = json!(10_000);
        }),
        Half::Nothing => config
            .plugin(|plugin| plugin["failover"] = json!({"max_attempts": 1}))
            .edit(|document| {
                let clusters = document["static_resources"]["clusters"].as_array_mut();
                for cluster in clusters.expect("clusters") {
                    let options = cluster.get_mut("typed_extension_protocol_options");
                    let options = options.and_then(|all| all.get_mut(OPTIONS));
                    if let Some(filters) = options.and_then(|one| one.get_mut("http_filters")) {
                        let vm = &mut filters[0]["typed_config"]["config"]["vm_config"];
                        vm["vm_id"] = json!("nothing");
                        vm["code"] = json!({"local": {"filename": write_nothing()}});
                    }
                }
            }),
    }
}

/// Loads the scripts, puts the accounts in force, and answers the SHA of acquire and of release.
fn prepare(redis: &Redis) -> [String; 2] {
    let mut pipe = Pipe::open(redis, POOL);
    let ids: Vec<String> = (0..ACCOUNTS).map(|n| format!("a{n}")).collect();
    let accounts: Vec<_> = ids
        .iter()
        .map(|id| SyncAccount {
            id,
            max_concurrency: SLOTS,
            base: 0,
            enabled: true,
            pace: None,
        })
        .collect();
    pipe.sync(1, 1, Some(&accounts)).expect("accounts in force");
    [Script::Acquire, Script::Release]
        .map(|script| redis.run("SCRIPT", &["LOAD", &script.source()]))
}

fn start_webdis(redis: &Redis) -> (Port, Process) {
    let port = Port::free();
    let dir = Dir::temporary();
    let path = dir.join("webdis.json");
    let config = json!({
        "redis_host": "127.0.0.1", "redis_port": redis.port(), "http_host": "127.0.0.1", "http_port": port.number(),
        "threads": 2, "pool_size": 10, "daemonize": false, "websockets": false, "verbosity": 0, "logfile": "/dev/null",
        "acl": [{"disabled": []}],
    });
    std::fs::write(&path, config.to_string()).expect("a file");
    let mut command = Command::new(root().join(".venv/webdis/usr/bin/webdis"));
    command.arg(&path);
    peers::started(command, port)
}

/// Envoy's Lua filter in slotgate's place, running the same two scripts.
fn http_calls(
    config: EnvoyConfig,
    calls: Calls,
    addr: SocketAddr,
    shas: &[String; 2],
) -> EnvoyConfig {
    let how = match calls {
        Calls::Webdis => "webdis",
        Calls::Redis => "redis",
    };
    let keys = keys::COMMON.map(|name| format!("'{}'", keys::key("slotgate", POOL, name)));
    let code = include_str!("calls.lua")
        .replace("HOW", how)
        .replace("ACQUIRE_SHA", &shas[0])
        .replace("RELEASE_SHA", &shas[1])
        .replace("POOL_KEYS", &keys.join(", "));
    config
        .manager(|manager| {
            let filters = manager["http_filters"].as_array_mut().expect("filters");
            filters.insert(0, json!({
                "name": "envoy.filters.http.lua",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": code},
                },
            }));
        })
        .edit(|document| {
            let mut cluster = json!({
                "name": "calls",
                "load_assignment": {"cluster_name": "calls", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                    {"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}}}}]}]},
            });
            if calls == Calls::Redis {
                cluster["upstream_config"] = json!({
                    "name": "envoy.filters.connection_pools.http.tcp",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.tcp.v3.TcpConnectionPoolProto"},
                });
            }
            document["static_resources"]["clusters"].as_array_mut().expect("clusters").push(cluster);
        })
}
