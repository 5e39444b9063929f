//! What the ledger's scripts cost Redis, beside what others do: `make bench-ledger`.
//!
//! Every row is measured in turn, round after round, on one Redis and one connection; the table holds medians. Calls per
//! second are taken at pipeline 16, microseconds per call from Redis' own `INFO commandstats`. Where other work shares the cores, read the last column: the CPU time of the whole
//! server, reading and answering included, which waiting for a core does not lengthen.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code
)]

#[path = "../ledger/pipe.rs"]
mod pipe;

use pipe::Pipe;
use slotgate::config::TenantLimits;
use slotgate::hash::hash128;
use slotgate::ledger::commands::{Mode, Place, SyncAccount, Terms, Waiting};
use slotgate::ledger::resp::{push_array, push_bulk};
use slotgate::ledger::source::ScriptRef;
use slotgate::request::lease::{LeaseId, LeaseIds};
use std::time::Instant;
use support::{HASHED, Redis, Usage};

const PIPELINE: usize = 16;
/// How long a session is remembered, and how much memory the sessions of a pool may take: the defaults.
const SESSION_MS: u64 = 3_600_000;
/// Leases in one command, about what a busy worker asks for at once.
const TOGETHER: usize = 8;
const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// How many wait for a slot.
const WAITING: [usize; 3] = [10, 1_000, 100_000];
/// What stands for others' work, written from its description; see the comments.
const OTHERS: [usize; 3] = [10, 100, 1_000];

/// All candidates in ARGV as id, priority, limit; one HGET each; score; full sort; the first with room; count and a key per
/// slot. What a scheduler without an index does.
const LINEAR_SCAN: &str = "
math.randomseed(tonumber(ARGV[2]))
local list = {}
for i = 3, #ARGV, 3 do
  local used = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or 0)
  local limit = tonumber(ARGV[i + 2])
  list[#list + 1] = {id = ARGV[i], used = used, limit = limit,
    score = tonumber(ARGV[i + 1]) * 0.5 + used / limit * 0.3 + math.random() * 0.2}
end
table.sort(list, function(a, b) return a.score < b.score end)
for _, one in ipairs(list) do
  if one.used < one.limit then
    redis.call('HINCRBY', KEYS[1], one.id, 1)
    redis.call('SETEX', 'slot:' .. one.id .. ':' .. ARGV[1], 300, '1')
    return one.id
  end
end
return false";
const LINEAR_RELEASE: &str = "
redis.call('HINCRBY', KEYS[1], ARGV[1], -1)
redis.call('DEL', 'slot:' .. ARGV[1] .. ':' .. ARGV[2])
return 1";

/// The same over one ZSET of leases for each account.
const ZSET_SCAN: &str = "
math.randomseed(tonumber(ARGV[2]))
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local best, best_score
for i = 3, #ARGV, 3 do
  local key = 'z:' .. ARGV[i]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local used, limit = redis.call('ZCARD', key), tonumber(ARGV[i + 2])
  if used < limit then
    local score = tonumber(ARGV[i + 1]) * 0.5 + used / limit * 0.3 + math.random() * 0.2
    if not best or score < best_score then best, best_score = key, score end
  end
end
if not best then return false end
redis.call('ZADD', best, now + 300000, ARGV[1])
redis.call('PEXPIRE', best, 300000)
return best";

/// One account's semaphore, which chooses nothing.
const SEMAPHORE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

/// One thing measured: how it is called, and what puts things back afterwards.
struct Row {
    name: String,
    calls: usize,
    /// Work done by one call: 100 for a batch of 100 renewals.
    per_call: usize,
    rounds: Vec<Timed>,
}

/// Calls per second, Redis' µs per call, and the server's CPU µs per call.
type Timed = (f64, f64, f64);

struct Bench {
    redis: Redis,
    pipe: Pipe,
    ids: LeaseIds,
    rows: Vec<Row>,
    random: fastrand::Rng,
}

impl Bench {
    /// Runs these commands at pipeline 16 and notes calls per second and Redis' microseconds per call.
    fn measure(&mut self, name: &str, per_call: usize, commands: &[Vec<u8>]) {
        let round = self.timed(commands);
        self.note(name, per_call, commands.len(), round);
    }

    fn timed(&mut self, commands: &[Vec<u8>]) -> Timed {
        let _: String = self.redis.run("CONFIG", &["RESETSTAT"]);
        let cpu_s = |redis: &Redis| Usage::of(redis.pid()).cpu_s;
        let (began, cpu_began_s) = (Instant::now(), cpu_s(&self.redis));
        self.send(commands);
        let calls_per_s = commands.len() as f64 / began.elapsed().as_secs_f64();
        let cpu_us = (cpu_s(&self.redis) - cpu_began_s) * 1e6 / commands.len() as f64;
        let info: String = self.redis.run("INFO", &["commandstats"]);
        let line = info
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"))
            .unwrap_or_default();
        let us = line
            .split("usec_per_call=")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .unwrap_or("0");
        (calls_per_s, us.parse::<f64>().unwrap(), cpu_us)
    }

    fn note(&mut self, name: &str, per_call: usize, calls: usize, round: Timed) {
        let row = match self.rows.iter_mut().position(|row| row.name == name) {
            Some(at) => &mut self.rows[at],
            None => {
                self.rows.push(Row {
                    name: name.into(),
                    calls,
                    per_call,
                    rounds: Vec::new(),
                });
                self.rows.last_mut().unwrap()
            }
        };
        row.rounds.push(round);
    }

    fn load(&mut self, script: &str) -> Vec<u8> {
        let reply = self.pipe.command(&[b"SCRIPT", b"LOAD", script.as_bytes()]);
        reply[5..45].to_vec()
    }

    /// Acquire and release on a pool of this many accounts, three of ten slots in use.
    fn ledger(&mut self, accounts: usize, calls: usize) {
        let mut pipe = Pipe::open(&self.redis, &format!("n{accounts}"));
        let leases: Vec<LeaseId> = (0..calls).map(|_| self.ids.mint(None)).collect();
        let acquires: Vec<Vec<u8>> = leases
            .iter()
            .map(|lease| {
                let mut out = Vec::new();
                pipe.encode_acquire(&mut out, *lease, Mode::Take, self.random.u32(..));
                out
            })
            .collect();
        self.measure(&format!("acquire {accounts}"), 1, &acquires);
        let more: Vec<LeaseId> = (0..calls).map(|_| self.ids.mint(None)).collect();
        let (mut together, mut releases) = (Vec::new(), Vec::new());
        for leases in more.chunks(TOGETHER) {
            let (mut out, mut release) = (Vec::new(), Vec::new());
            pipe.encode_acquires(&mut out, leases, Mode::Take, self.random.u32(..));
            together.push(out);
            pipe.encode(&mut release, |keys, out, by: ScriptRef| {
                keys.release(out, by, leases.iter().copied())
            });
            releases.push(release);
        }
        let name = |verb: &str| format!("{verb} {accounts}, {TOGETHER} together");
        self.measure(&name("acquire"), TOGETHER, &together);
        self.measure(&name("release"), TOGETHER, &releases);
        let owners = pipe.owners(&leases);
        let epoch = pipe.meta_epoch();
        let renews: Vec<Vec<u8>> = leases
            .chunks(100)
            .zip(owners.chunks(100))
            .map(|(leases, owners)| {
                let each: Vec<_> = leases
                    .iter()
                    .zip(owners)
                    .map(|(lease, owner)| (*lease, owner.as_str(), epoch))
                    .collect();
                let mut out = Vec::new();
                pipe.encode(&mut out, |keys, out, by: ScriptRef| {
                    keys.renew(out, by, 60_000, each.iter().copied())
                });
                out
            })
            .collect();
        self.measure(&format!("renew {accounts}, batch of 100"), 100, &renews);
        let releases = single_releases(&pipe, &leases);
        self.measure(&format!("release {accounts}"), 1, &releases);
    }

    /// Acquires of a session each: of sessions that came back before, of ones that nobody has seen, and of these for the
    /// second time. The pool's sessions have all the memory that they may take.
    fn sessions(&mut self, accounts: usize, calls: usize) {
        let pipe = Pipe::open(&self.redis, &format!("n{accounts}"));
        let hashes = |kind: &str| -> Vec<[u8; 16]> {
            (0..calls)
                .map(|number| hash128(format!("{kind} {number}").as_bytes()))
                .collect()
        };
        let round = self.rows.iter().map(|row| row.rounds.len()).max();
        let new = hashes(&format!("new {round:?}"));
        let old = hashes("old");
        if round == Some(1) {
            let flood = hashes("flood");
            for _ in 0..2 {
                self.with_sessions(&pipe, None, 1, &old);
            }
            for part in 0..16_u8 {
                let mut flood = flood.clone();
                flood.iter_mut().for_each(|hash| hash[15] ^= part);
                self.with_sessions(&pipe, None, TOGETHER, &flood);
            }
        }
        let rows = [("known", &old), ("new", &new), ("second lease", &new)];
        for together in [1, TOGETHER] {
            for (kind, hashes) in rows {
                let mut hashes = hashes.clone();
                if together > 1 && kind != "known" {
                    hashes.iter_mut().for_each(|hash| hash[14] ^= 0xff);
                }
                let mut name = format!("acquire {accounts}, session: {kind}");
                if together > 1 {
                    name += &format!(", {together} together");
                }
                self.with_sessions(&pipe, Some(&name), together, &hashes);
            }
        }
    }

    fn with_sessions(
        &mut self,
        pipe: &Pipe,
        name: Option<&str>,
        together: usize,
        hashes: &[[u8; 16]],
    ) {
        let (mut acquires, mut releases) = (Vec::new(), Vec::new());
        for part in hashes.chunks(together) {
            let leases: Vec<LeaseId> = part.iter().map(|_| self.ids.mint(None)).collect();
            let (mut acquire, mut release) = (Vec::new(), Vec::new());
            pipe.encode_with_sessions(&mut acquire, &leases, part, SESSION_MS, self.random.u32(..));
            pipe.encode(&mut release, |keys, out, by: ScriptRef| {
                keys.release(out, by, leases.iter().copied())
            });
            acquires.push(acquire);
            releases.push(release);
        }
        match name {
            Some(name) => self.measure(name, together, &acquires),
            None => self.send(&acquires),
        }
        self.send(&releases);
    }

    /// In a full pool in which so many wait: joins, and releases that hand their slot on. As many join as are served.
    fn queue(&mut self, waiting: usize, calls: usize) {
        const SLOTS: usize = 1_000;
        let mut pipe = Pipe::open(&self.redis, &format!("q{waiting}"));
        pipe.ttl_ms = 3_600_000;
        pipe.waiting = Waiting {
            most: 1_000_000,
            vouched_ms: 3_600_000,
            channel: "slotgate:bench",
        };
        let names: Vec<String> = (0..100).map(|n| format!("acct-{n}")).collect();
        let accounts: Vec<SyncAccount> = names
            .iter()
            .map(|id| pipe::account(id, SLOTS as u32 / 100))
            .collect();
        pipe.sync(1, 1, Some(&accounts)).unwrap();
        let terms = Terms {
            limits: TenantLimits {
                max_concurrency: 0,
                max_waiting: 0,
                weight: 1,
            },
            cookie: 7,
            place: Place::Last,
        };
        let ids = &mut self.ids;
        let random = &mut self.random;
        let mut joins = |count: usize, together: usize| {
            let leases: Vec<LeaseId> = (0..count).map(|_| ids.mint(None)).collect();
            let commands: Vec<Vec<u8>> = leases
                .chunks(together)
                .map(|part| {
                    let mut out = Vec::new();
                    pipe.encode_acquires(&mut out, part, Mode::Join(terms), random.u32(..));
                    out
                })
                .collect();
            (leases, commands)
        };
        let (mut holders, filling) = joins(SLOTS, 100);
        let (mut line, lining) = joins(waiting, 100);
        // What the measured calls send, in blocks that change little about how many wait.
        let block = waiting.min(500);
        let rounds = calls.div_ceil(block);
        let blocks: Vec<_> = (0..rounds).map(|_| joins(block, 1)).collect();
        let before = pipe.memory();
        for commands in [filling, lining] {
            self.send(&commands);
        }
        let memory = (pipe.memory() - before) as f64 / (SLOTS + waiting) as f64;
        if self
            .rows
            .iter()
            .all(|row| row.name != format!("join, {waiting} wait"))
        {
            println!(
                "memory with {waiting} waiting: {memory:.0} bytes for each lease and each waiter"
            );
        }
        for (leases, commands) in blocks {
            let releases = single_releases(&pipe, &holders[..block.min(SLOTS)]);
            self.measure(&format!("join, {waiting} wait"), 1, &commands);
            self.measure(
                &format!("release and hand on, {waiting} wait"),
                1,
                &releases,
            );
            line.extend(leases);
            holders.drain(..releases.len());
            holders.extend(line.drain(..releases.len()));
        }
        assert_eq!(
            pipe.owners(&holders[..1])[0].as_bytes()[0],
            b'a',
            "it was handed on"
        );
        self.redis.run::<()>("FLUSHALL", &[]);
    }

    fn send(&mut self, commands: &[Vec<u8>]) {
        for part in commands.chunks(PIPELINE) {
            self.pipe.exchange_many(&part.concat(), part.len(), |_| {});
        }
    }

    fn others(&mut self, calls: usize) {
        let one = self.load("return 1");
        self.measure("return 1", 1, &vec![evalsha(&one, &[], &[]); calls]);
        let semaphore = self.load(SEMAPHORE);
        let commands: Vec<_> = (0..calls)
            .map(|_| {
                let lease = self.ids.mint(None);
                evalsha(
                    &semaphore,
                    &[b"sem"],
                    &[lease.as_bytes(), b"1000000", b"60000"],
                )
            })
            .collect();
        self.measure("one account's ZSET semaphore, no choice", 1, &commands);
        let _: i64 = self.redis.run("DEL", &["sem"]);
        let (scan, undo, zset) = (
            self.load(LINEAR_SCAN),
            self.load(LINEAR_RELEASE),
            self.load(ZSET_SCAN),
        );
        for accounts in OTHERS {
            let calls = calls / accounts.max(10) * 10;
            let candidates: Vec<String> = (0..accounts)
                .flat_map(|n| [format!("acct-{n}"), "1".into(), "1000".into()])
                .collect();
            let call = |sha: &[u8], keys: &[&[u8]], lease: LeaseId, seed: u32| {
                let seed = seed.to_string();
                let mut arguments: Vec<&[u8]> = vec![lease.as_bytes(), seed.as_bytes()];
                arguments.extend(candidates.iter().map(|text| text.as_bytes()));
                evalsha(sha, keys, &arguments)
            };
            let commands: Vec<_> = (0..calls)
                .map(|_| {
                    call(
                        &scan,
                        &[b"counts"],
                        self.ids.mint(None),
                        self.random.u32(..1 << 30),
                    )
                })
                .collect();
            self.measure(&format!("linear scan {accounts}"), 1, &commands);
            let commands: Vec<_> = (0..calls)
                .map(|_| evalsha(&undo, &[b"counts"], &[b"acct-1", b"x"]))
                .collect();
            self.measure(&format!("linear scan's release {accounts}"), 1, &commands);
            let commands: Vec<_> = (0..calls)
                .map(|_| call(&zset, &[], self.ids.mint(None), self.random.u32(..1 << 30)))
                .collect();
            self.measure(&format!("scan over ZSETs {accounts}"), 1, &commands);
        }
        for key in self.redis.run::<Vec<String>>("KEYS", &["z:*"]) {
            let _: i64 = self.redis.run("DEL", &[&key]);
        }
        for key in self.redis.run::<Vec<String>>("KEYS", &["slot:*"]) {
            let _: i64 = self.redis.run("DEL", &[&key]);
        }
        let _: i64 = self.redis.run("DEL", &["counts"]);
    }

    fn median(&self, name: &str) -> Timed {
        let row = self
            .rows
            .iter()
            .find(|row| row.name == name)
            .unwrap_or_else(|| panic!("no row {name}"));
        middle(&row.rounds)
    }
}

/// The medians.
fn middle(rounds: &[Timed]) -> Timed {
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    (
        median(rounds.iter().map(|round| round.0).collect()),
        median(rounds.iter().map(|round| round.1).collect()),
        median(rounds.iter().map(|round| round.2).collect()),
    )
}

/// A release of each lease by itself.
fn single_releases(pipe: &Pipe, leases: &[LeaseId]) -> Vec<Vec<u8>> {
    let release = |lease: &LeaseId| {
        let mut out = Vec::new();
        pipe.encode(&mut out, |keys, out, by: ScriptRef| {
            keys.release(out, by, [*lease].into_iter());
        });
        out
    };
    leases.iter().map(release).collect()
}

fn evalsha(sha: &[u8], keys: &[&[u8]], arguments: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    push_array(&mut out, 3 + keys.len() + arguments.len());
    push_bulk(&mut out, b"EVALSHA");
    push_bulk(&mut out, sha);
    push_bulk(&mut out, keys.len().to_string().as_bytes());
    for part in keys.iter().chain(arguments) {
        push_bulk(&mut out, part);
    }
    out
}

fn main() {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().map_or(default, |text| {
            text.parse().unwrap_or_else(|_| panic!("{name}: {text:?}"))
        })
    };
    let (rounds, calls) = (number("ROUNDS", 5), number("CALLS", 8_000));
    let largest = number("ACCOUNTS", 100_000);
    let sizes: Vec<usize> = SIZES.into_iter().filter(|size| *size <= largest).collect();
    let redis = Redis::start_with(&HASHED);
    let pipe = Pipe::open(&redis, "none");
    let mut bench = Bench {
        redis,
        pipe,
        ids: LeaseIds::new(1),
        rows: Vec::new(),
        random: fastrand::Rng::with_seed(1),
    };
    for waiting in WAITING {
        bench.queue(waiting, calls.min(2_000));
    }
    let mut memory = Vec::new();
    for size in &sizes {
        let ids: Vec<String> = (0..*size).map(|n| format!("acct-{n}")).collect();
        // Enough slots for every call of a round, three tenths of them in use.
        let slots = u32::try_from((calls * 4 / size).max(10)).unwrap();
        let accounts: Vec<SyncAccount> = ids
            .iter()
            .map(|id| SyncAccount {
                id,
                max_concurrency: slots,
                base: 0,
                enabled: true,
                pace: None,
            })
            .collect();
        let mut pipe = Pipe::open(&bench.redis, &format!("n{size}"));
        pipe.ttl_ms = 3_600_000;
        pipe.sync(1, 1, Some(&accounts)).unwrap();
        let empty = pipe.memory();
        let in_use = size * slots as usize * 3 / 10;
        let leases: Vec<LeaseId> = (0..in_use).map(|_| bench.ids.mint(None)).collect();
        for part in leases.chunks(PIPELINE) {
            let mut out = Vec::new();
            for lease in part {
                pipe.encode_acquire(&mut out, *lease, Mode::Take, bench.random.u32(..));
            }
            pipe.exchange_many(&out, part.len(), |_| {});
        }
        memory.push((
            *size,
            empty as f64 / *size as f64,
            (pipe.memory() - empty) as f64 / in_use as f64,
        ));
    }
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        bench.others(calls);
        for size in &sizes {
            bench.ledger(*size, calls);
            if *size == 100 {
                bench.sessions(*size, calls);
            }
        }
    }
    println!(
        "{:<42} {:>10} {:>12} {:>14} {:>16}",
        "pipeline 16", "calls/s", "us per call", "us per lease", "CPU us per call"
    );
    for row in &bench.rows {
        let (calls_per_s, us, cpu_us) = bench.median(&row.name);
        println!(
            "{:<42} {calls_per_s:>10.0} {us:>12.2} {:>14.2} {cpu_us:>16.2}",
            row.name,
            us / row.per_call as f64
        );
    }
    for (size, account, lease) in memory {
        println!(
            "memory at {size} accounts: {account:.0} bytes per account, {lease:.0} bytes per lease"
        );
    }
    let rate = |name: &str| bench.median(name).0;
    let few = rate("acquire 10");
    let most = sizes.last().unwrap();
    let ratios = [
        (
            format!("acquire {most} / acquire 10"),
            rate(&format!("acquire {most}")) / few,
            0.67,
        ),
        (
            "acquire 1000 / return 1".into(),
            rate("acquire 1000") / rate("return 1"),
            1.0 / 8.0,
        ),
        (
            "release 1000 / return 1".into(),
            rate("release 1000") / rate("return 1"),
            1.0 / 5.0,
        ),
        (
            "acquire 1000 / semaphore".into(),
            rate("acquire 1000") / rate("one account's ZSET semaphore, no choice"),
            0.5,
        ),
        (
            "acquire 1000 / linear scan 1000".into(),
            rate("acquire 1000") / rate("linear scan 1000"),
            150.0,
        ),
    ];
    for (name, ratio, target) in ratios {
        let verdict = if ratio >= target { "met" } else { "MISSED" };
        println!("{name}: {ratio:.3} (target {target:.3}: {verdict})");
    }
    let renewal = bench.median("renew 1000, batch of 100").1 / 100.0;
    println!(
        "renewal: {renewal:.2} us per lease (target 2.00: {})",
        if renewal <= 2.0 { "met" } else { "MISSED" }
    );
}
