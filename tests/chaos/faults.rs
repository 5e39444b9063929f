//! The faults: each begins, lasts and ends under load.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::world::{Accounts, ENVOYS, LEASE_TTL_MS, RENEW_INTERVAL_MS, World};
use support::*;

/// The Envoy that is hit when only one is.
pub const VICTIM: usize = 0;
/// How long most faults last.
const LASTS: Duration = Duration::from_secs(2);
/// A stream's length in the load, and some.
const STREAM_MS: u64 = 1_000;
const CROWD: usize = 10_000;
const HOUR_MS: i64 = 3_600_000;

/// Fewer slots than clients, so that every slot that is free is taken at once.
const ACCOUNTS: Accounts = &[("a", 8), ("b", 8), ("c", 8)];
const MANY: Accounts = &[("a", 4_000), ("b", 4_000), ("c", 4_000)];
const APPEND_ONLY: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

pub struct Fault {
    pub name: &'static str,
    pub redis: &'static [&'static str],
    pub accounts: Accounts,
    /// Whether requests wait for a slot instead of being refused.
    pub queue: bool,
    /// Begins, waits and ends.
    pub cause: fn(&mut World),
    /// What the cause itself does to requests.
    pub toll: Toll,
    /// Counters that tell of it.
    pub counted: &'static [&'static str],
    /// For so long after the cause, in ms, an account may be used above its limit: Redis lost the leases of streams that
    /// live on, until they are renewed, or end.
    pub window_ms: u64,
}

/// Requests that the cause itself fails, so that nothing in Envoy could serve them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toll {
    None,
    /// Nobody listens on the victim's port for a while.
    Refused,
    /// The victim dies with its requests.
    Killed,
}

const LOST_LEASES_MS: u64 = RENEW_INTERVAL_MS + STREAM_MS;

const fn fault(
    name: &'static str,
    counted: &'static [&'static str],
    cause: fn(&mut World),
) -> Fault {
    Fault {
        name,
        redis: &[],
        accounts: ACCOUNTS,
        queue: false,
        cause,
        counted,
        toll: Toll::None,
        window_ms: 0,
    }
}

const fn forgetful(
    name: &'static str,
    counted: &'static [&'static str],
    cause: fn(&mut World),
) -> Fault {
    Fault {
        window_ms: LOST_LEASES_MS,
        ..fault(name, counted, cause)
    }
}

/// The same where requests wait for a slot.
const fn queued(fault: Fault) -> Fault {
    Fault {
        queue: true,
        ..fault
    }
}

pub const FAULTS: &[Fault] = &[
    forgetful(
        "Redis restarted empty",
        &["pipe.lost;reason=closed"],
        killed,
    ),
    Fault {
        redis: APPEND_ONLY,
        ..fault(
            "Redis restarted with its data",
            &["pipe.lost;reason=closed"],
            killed,
        )
    },
    fault(
        "Redis frozen",
        &[
            "requests;outcome=traditional;reason=timed_out",
            "breaker.opened",
        ],
        |world| {
            world.redis.sigstop();
            sleep(LASTS);
            world.redis.sigcont();
        },
    ),
    fault(
        "SCRIPT FLUSH, ten times",
        &["redis_error;reason=no_script"],
        |world| {
            again(world, 10, 200, |redis| redis.run("SCRIPT", &["FLUSH"]));
        },
    ),
    forgetful(
        "FLUSHALL, ten times",
        &["redis_error;reason=no_pool", "lease.readopted"],
        flushed,
    ),
    fault(
        "connections killed at 20 Hz",
        &["pipe.lost;reason=closed"],
        |world| {
            again(world, 40, 50, |redis| {
                redis.run::<u64>("CLIENT", &["KILL", "TYPE", "normal"]);
            });
        },
    ),
    fault(
        "CLIENT PAUSE",
        &[
            "requests;outcome=traditional;reason=timed_out",
            "breaker.opened",
        ],
        |world| {
            world.redis.pause(LASTS);
            sleep(LASTS);
        },
    ),
    fault(
        "out of memory",
        &["redis_error;reason=out_of_memory", "breaker.opened"],
        |world| {
            world.redis.run::<()>("CONFIG", &["SET", "maxmemory", "1"]);
            sleep(LASTS);
            world.redis.run::<()>("CONFIG", &["SET", "maxmemory", "0"]);
        },
    ),
    fault(
        "a script that runs too long",
        &["redis_error;reason=busy", "breaker.opened"],
        busy,
    ),
    forgetful(
        "made a replica of an empty one",
        &[
            "redis_error;reason=read_only",
            "pipe.lost;reason=wrong_server",
        ],
        made_a_replica,
    ),
    fault(
        "50 ms late",
        &[
            "requests;outcome=traditional;reason=timed_out",
            "breaker.opened",
        ],
        |world| {
            broken(world, Way::Late(Duration::from_millis(50)));
        },
    ),
    fault(
        "500 ms late",
        &[
            "requests;outcome=traditional;reason=timed_out",
            "breaker.opened",
        ],
        |world| {
            broken(world, Way::Late(Duration::from_millis(500)));
        },
    ),
    fault(
        "replies cut by a reset",
        &["pipe.lost;reason=closed"],
        |world| {
            broken(world, Way::ResetMidway(20));
        },
    ),
    fault(
        "garbage for replies",
        &["pipe.lost;reason=mismatch"],
        |world| {
            broken(world, Way::Instead(b"nobody here speaks RESP\r\n"));
        },
    ),
    fault(
        "replies that never come",
        &["pipe.lost;reason=stuck", "breaker.opened"],
        |world| {
            broken(world, Way::Never);
        },
    ),
    Fault {
        toll: Toll::Killed,
        ..fault("Envoy killed", &[], envoy_killed)
    },
    Fault {
        // Its leases expire while the upstream still serves its streams.
        window_ms: LOST_LEASES_MS,
        ..fault("Envoy stopped for longer than a lease", &[], |world| {
            world.envoy(VICTIM).signal(libc::SIGSTOP);
            sleep(Duration::from_millis(LEASE_TTL_MS + 1_000));
            world.envoy(VICTIM).signal(libc::SIGCONT);
        })
    },
    Fault {
        toll: Toll::Refused,
        ..fault("Envoy drained and replaced", &[], envoy_drained)
    },
    fault(
        "reconfigured, one after the other",
        &[
            "requests;outcome=traditional;reason=out_of_percentage",
            "requests;outcome=traditional;reason=unknown_account",
        ],
        reconfigured,
    ),
    fault(
        "clients that leave at every phase",
        &["lease.in_doubt", "lease.late_grant"],
        leaving,
    ),
    Fault {
        accounts: MANY,
        ..fault(
            "ten thousand clients leave at once",
            &["lease.in_doubt", "lease.late_grant"],
            crowd,
        )
    },
    fault(
        "garbage in the ledger, ten times",
        &["garbage", "redis_error;reason=garbage"],
        |world| {
            const GARBAGE: [[&str; 2]; 5] = [
                ["#epoch", "abc"],
                ["#wake", "\u{1b}[2J"],
                ["#revision", ""],
                ["a", "4 x"],
                ["nobody", "9 9 9 0"],
            ];
            for [field, value] in GARBAGE.iter().cycle().take(10) {
                world
                    .redis
                    .run::<u64>("HSET", &["slotgate:{demo}:accounts", field, value]);
                sleep(Duration::from_millis(200));
            }
        },
    ),
    forgetful(
        "keys of another type",
        &["garbage", "redis_error;reason=garbage"],
        |world| {
            for key in ["free", "used", "accounts", "owner", "leases"] {
                let key = format!("slotgate:{{demo}}:{key}");
                world.redis.run::<()>("SET", &[&key, "garbage"]);
                sleep(Duration::from_millis(400));
            }
        },
    ),
    Fault {
        toll: Toll::Killed,
        ..fault(
            "Envoy killed, and Redis' clock set back by an hour",
            &[],
            |world| {
                world.envoy(VICTIM).kill();
                world.clock.shift(-HOUR_MS);
                sleep(LASTS);
                world.start_envoy(VICTIM);
            },
        )
    },
    forgetful(
        "Redis' clock set forward by an hour",
        &["lease.readopted"],
        |world| {
            world.clock.shift(HOUR_MS);
            sleep(LASTS);
        },
    ),
    fault("5,000 accounts more, in parts", &[], large),
    fault("ten thousand new sessions at once", &[], |world| {
        storm_of(world, |number| {
            Request::get("/storm").header("x-session-id", format!("session-{number}"))
        });
    }),
    fault("ten thousand requests at once", &[], storm),
    fault(
        "the same while Redis stands still",
        &["requests;outcome=traditional;reason=timed_out"],
        |world| {
            world.redis.sigstop();
            storm(world);
            world.redis.sigcont();
        },
    ),
    queued(fault("a queue, and nothing breaks", &[], |_| sleep(LASTS))),
    queued(forgetful(
        "a queue, and Redis restarted empty",
        &["pipe.lost;reason=closed"],
        killed,
    )),
    queued(fault(
        "a queue, and Redis frozen for three seconds",
        &["requests;outcome=traditional;reason=timed_out"],
        |world| {
            world.redis.sigstop();
            sleep(Duration::from_secs(3));
            world.redis.sigcont();
        },
    )),
    queued(forgetful(
        "a queue, and FLUSHALL, ten times",
        &["redis_error;reason=no_pool", "lease.readopted"],
        flushed,
    )),
    queued(fault(
        "a queue, and its ears killed at 20 Hz",
        &[],
        |world| {
            again(world, 40, 50, |redis| {
                redis.run::<u64>("CLIENT", &["KILL", "TYPE", "pubsub"]);
            });
        },
    )),
    queued(fault(
        "a queue, and all connections killed at 20 Hz",
        &["pipe.lost;reason=closed"],
        |world| {
            again(world, 40, 50, |redis| {
                redis.run::<u64>("CLIENT", &["KILL", "TYPE", "pubsub"]);
                redis.run::<u64>("CLIENT", &["KILL", "TYPE", "normal"]);
            });
        },
    )),
    queued(Fault {
        toll: Toll::Killed,
        ..fault("a queue, and Envoy killed", &[], envoy_killed)
    }),
    queued(Fault {
        window_ms: LOST_LEASES_MS,
        ..fault(
            "a queue, and Envoy stopped for longer than it is vouched for",
            &[],
            |world| {
                world.envoy(VICTIM).signal(libc::SIGSTOP);
                sleep(Duration::from_secs(7));
                world.envoy(VICTIM).signal(libc::SIGCONT);
            },
        )
    }),
    queued(forgetful(
        "a queue, and made a replica of an empty one",
        &["pipe.lost;reason=wrong_server"],
        made_a_replica,
    )),
    queued(Fault {
        toll: Toll::Refused,
        ..fault(
            "a queue, and Envoy drained and replaced",
            &[],
            envoy_drained,
        )
    }),
    queued(fault(
        "a queue, and reconfigured, one after the other",
        &["requests;outcome=traditional;reason=out_of_percentage"],
        reconfigured,
    )),
    queued(fault(
        "a queue, and clients that leave at every phase",
        &["lease.in_doubt"],
        leaving,
    )),
    queued(fault(
        "a queue, and garbage in it, ten times",
        &["garbage"],
        |world| {
            for round in 0..10 {
                let key = |name: &str| format!("slotgate:{{demo}}:{name}");
                let (queue, tenants) = (key("queue"), key("tenants"));
                let run = |command, args: &[&str]| {
                    // It may be of another type just then.
                    let mut command = redis::cmd(command);
                    let _ = command.arg(args).query::<()>(&mut world.redis.connect());
                };
                match round % 4 {
                    0 => run("SET", &[&queue, "garbage"]),
                    1 => run("ZADD", &[&queue, "0", "w:-:-:0:x", "0", "t:-:x"]),
                    2 => run("SET", &[&tenants, "garbage"]),
                    _ => run("HSET", &[&tenants, "@now", "x", "@-", "\u{1b}"]),
                }
                sleep(Duration::from_millis(300));
            }
        },
    )),
    queued(fault(
        "a queue, and five thousand wait at once",
        &[],
        |world| {
            let seen = crowd_of(world, 5_000, |_| Request::get("/delay?ms=20"));
            assert_eq!(seen.get(&200), Some(&(5_000 / ENVOYS * ENVOYS)), "{seen:?}");
        },
    )),
    queued(fault(
        "a queue, and ten thousand requests at once",
        &[],
        storm,
    )),
];

fn killed(world: &mut World) {
    world.redis.kill();
    sleep(LASTS);
    world.redis.start_again();
}

fn flushed(world: &mut World) {
    again(world, 10, 200, |redis| redis.run("FLUSHALL", &[]));
}

fn made_a_replica(world: &mut World) {
    let empty = Redis::start();
    let port = empty.port().to_string();
    world.redis.run::<()>("REPLICAOF", &["127.0.0.1", &port]);
    sleep(LASTS);
    world.redis.run::<()>("REPLICAOF", &["NO", "ONE"]);
}

fn envoy_killed(world: &mut World) {
    world.envoy(VICTIM).kill();
    sleep(LASTS);
    world.start_envoy(VICTIM);
}

fn envoy_drained(world: &mut World) {
    world.envoy(VICTIM).admin_post("/drain_listeners?graceful");
    // Until the drain time is over it takes requests, and one that waits then is still served.
    let addr = world.addrs()[VICTIM];
    let is_closed = || std::net::TcpStream::connect(addr).is_err();
    let active = || world.envoy(VICTIM).stat("http.http.downstream_rq_active");
    eventually(PATIENCE, || is_closed() && active() == Some(0));
    world.envoy(VICTIM).terminate();
    let ended = world.envoy(VICTIM).wait_exit(PATIENCE);
    assert!(ended.is_some(), "Envoy does not end");
    world.start_envoy(VICTIM);
}

fn again(world: &World, times: u32, every_ms: u64, act: fn(&Redis)) {
    for _ in 0..times {
        act(&world.redis);
        sleep(Duration::from_millis(every_ms));
    }
}

fn broken(world: &World, way: Way) {
    world.proxy.set(way);
    sleep(LASTS);
    world.proxy.set(Way::Through);
}

/// Redis answers BUSY after a while, and the script can be killed.
fn busy(world: &mut World) {
    world
        .redis
        .run::<()>("CONFIG", &["SET", "busy-reply-threshold", "200"]);
    let mut other = world.redis.connect();
    let endless = std::thread::spawn(move || {
        let ended = redis::cmd("EVAL")
            .arg("while true do end")
            .arg(0)
            .query::<()>(&mut other);
        assert!(ended.is_err(), "it was killed");
    });
    sleep(LASTS);
    world.redis.run::<()>("SCRIPT", &["KILL"]);
    endless.join().expect("the script was killed");
}

/// An account goes, another comes, one gets fewer slots, the percentage changes: one Envoy after the other, as rolled out.
fn reconfigured(world: &mut World) {
    const FEWER: Accounts = &[("a", 4), ("b", 8), ("d", 8)];
    for (revision, percent, accounts) in [(2, 100, FEWER), (3, 50, FEWER), (4, 100, ACCOUNTS)] {
        for node in 0..ENVOYS {
            let config = world.config(revision, percent, accounts);
            let pushed = world.envoy(node).reconfigure(config);
            pushed.unwrap_or_else(|log| panic!("revision {revision} was refused: {log}"));
            sleep(Duration::from_millis(200));
        }
    }
}

const PHASES: [&str; 6] = [
    "",
    "GET /hang HTTP/1.1\r\nhost: te",
    "GET /hang HTTP/1.1\r\nhost: test\r\n\r\n",
    "POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\nonly the beginning",
    "POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "GET /sse?events=100000 HTTP/1.1\r\nhost: test\r\n\r\n",
];

fn leaving(world: &mut World) {
    let clients: Vec<_> = world.addrs().into_iter().map(Client::new).collect();
    let until = Instant::now() + LASTS;
    let mut round = 0;
    while Instant::now() < until {
        let mut connections = Vec::new();
        for (number, phase) in PHASES.iter().enumerate() {
            let mut connection = clients[(round + number) % clients.len()].raw();
            connection.send(phase.as_bytes());
            connections.push(connection);
        }
        // 0 to 24 ms later: before, while and after the slot is taken.
        sleep(Duration::from_micros((round as u64 * 1_511) % 24_000));
        for (number, connection) in connections.into_iter().enumerate() {
            if number % 2 == 0 {
                connection.reset();
            }
        }
        round += 1;
    }
}

/// Some still acquire when all of them leave, most hold a slot, some never got one.
fn crowd(world: &mut World) {
    let addrs = world.addrs();
    let mut connections = Vec::with_capacity(CROWD);
    for number in 0..CROWD {
        connections.push(Client::new(addrs[number % addrs.len()]).start("/hang", &[]));
    }
    connections.into_iter().for_each(RawConnection::reset);
}

/// An Envoy gets 5,000 accounts more for a while, which go to Redis in parts.
fn large(world: &mut World) {
    let few = world.config(3, 100, ACCOUNTS);
    let many = |revision: u32| {
        world.config(revision, 100, ACCOUNTS).plugin(|plugin| {
            let accounts = plugin["pools"][0]["accounts"].as_array_mut();
            let more = (0..5_000).map(|n| serde_json::json!({"id": format!("more-{n}"), "max_concurrency": 1, "enabled": false}));
            accounts.expect("accounts").extend(more);
        })
    };
    for config in [many(2), few] {
        let pushed = world.envoy(VICTIM).reconfigure(config);
        pushed.unwrap_or_else(|log| panic!("refused: {log}"));
        sleep(LASTS);
    }
}

/// Everyone is answered, over a few connections to each Envoy: by a 429, or by Envoy itself, for so many connections at
/// once would be too many for the upstream.
fn storm(world: &mut World) {
    storm_of(world, |_| Request::get("/storm"));
}

fn storm_of(world: &World, make: fn(usize) -> Request) {
    let seen = crowd_of(world, CROWD, make);
    let answered = |status: &u16| seen.get(status).copied().unwrap_or_default();
    let all = CROWD / ENVOYS * ENVOYS;
    assert_eq!(answered(&204) + answered(&429), all, "{seen:?}");
}

/// So many at once, over a few connections to each Envoy: how many had which status.
fn crowd_of(world: &World, all: usize, make: fn(usize) -> Request) -> BTreeMap<u16, usize> {
    let each = all / ENVOYS;
    let mut seen = BTreeMap::new();
    let storms: Vec<_> = world
        .addrs()
        .into_iter()
        .map(|addr| {
            std::thread::spawn(move || {
                let protocol = Protocol::Http2 { streams: 1_000 };
                Client::new(addr).burst(protocol, each, make)
            })
        })
        .collect();
    for storm in storms {
        for (status, count) in count_statuses(&storm.join().expect("the storm passes")) {
            *seen.entry(status).or_default() += count;
        }
    }
    seen
}
