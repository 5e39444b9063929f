//! What one Redis carries, and how pools spread over shards: `make bench-scale`.
//!
//! STREAMS leases (1,000,000) in 100 pools of 1,000 accounts on one Redis: memory, what one renewal of them all costs in
//! CPU and in bytes, and acquire and release beside them. Then, on paper: the busiest shard's share, for pools of equal load
//! whose names hash as Redis Cluster hashes them.
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

use std::time::Instant;

use pipe::Pipe;
use slotgate::ledger::commands::{Mode, SyncAccount};
use slotgate::ledger::source::ScriptRef;
use slotgate::request::lease::{LeaseId, LeaseIds};
use support::Redis;

const POOLS: usize = 100;
const ACCOUNTS: usize = 1_000;
const PIPELINE: usize = 16;
/// A worker renews so many at once.
const BATCH: usize = 100;
/// The defaults of `lease`.
const RENEW_INTERVAL_S: f64 = 5.0;

/// What Redis has used so far: CPU seconds, bytes in and out, memory.
#[derive(Clone, Copy)]
struct Used {
    cpu_s: f64,
    received: f64,
    sent: f64,
    memory: f64,
}

fn used(redis: &Redis) -> Used {
    let info: String = redis.run("INFO", &["everything"]);
    let value = |name: &str| -> f64 {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.expect(name).trim().parse().expect(name)
    };
    Used {
        cpu_s: value("used_cpu_user") + value("used_cpu_sys"),
        received: value("total_net_input_bytes"),
        sent: value("total_net_output_bytes"),
        memory: value("used_memory"),
    }
}

/// Sends these in parts of `PIPELINE`, and says what each of `units` cost.
fn measure(name: &str, units: usize, redis: &Redis, pipe: &mut Pipe, commands: &[Vec<u8>]) -> f64 {
    let (before, began) = (used(redis), Instant::now());
    for part in commands.chunks(PIPELINE) {
        pipe.exchange_many(&part.concat(), part.len(), |reply| {
            assert!(!reply.starts_with(b"-"), "{}", pipe::text(reply));
        });
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = used(redis);
    let each = |value: f64| value / units as f64;
    let cpu_us = each(after.cpu_s - before.cpu_s) * 1e6;
    println!(
        "{name:<34} {:>9.0}/s {cpu_us:>7.2} us of Redis' CPU {:>6.0} bytes in {:>5.0} bytes out",
        units as f64 / seconds,
        each(after.received - before.received),
        each(after.sent - before.sent),
    );
    cpu_us
}

fn main() {
    assert_eq!(slot(b"123456789"), 12_739);
    let streams: usize =
        std::env::var("STREAMS").map_or(1_000_000, |text| text.parse().expect("STREAMS"));
    let redis = Redis::start();
    let mut ids = LeaseIds::new(1);
    let mut random = fastrand::Rng::with_seed(1);
    let names: Vec<String> = (0..ACCOUNTS)
        .map(|number| format!("acct-{number}"))
        .collect();
    // A third of the slots stays free.
    let slots = (streams * 3 / 2).div_ceil(POOLS * ACCOUNTS) as u32;
    let accounts: Vec<SyncAccount> = names.iter().map(|id| pipe::account(id, slots)).collect();
    let mut pools: Vec<Pipe> = (0..POOLS)
        .map(|number| {
            let mut pipe = Pipe::open(&redis, &format!("pool-{number}"));
            pipe.ttl_ms = 3_600_000;
            pipe.sync(1, 1, Some(&accounts)).expect("a sync");
            pipe
        })
        .collect();
    let before = used(&redis);
    let each = streams / POOLS;
    let mut leases: Vec<Vec<LeaseId>> = Vec::new();
    for pipe in &mut pools {
        let own: Vec<LeaseId> = (0..each).map(|_| ids.mint(None)).collect();
        let commands = acquires(pipe, &own, &mut random);
        for part in commands.chunks(PIPELINE) {
            pipe.exchange_many(&part.concat(), part.len(), |_| {});
        }
        leases.push(own);
    }
    let held = each * POOLS;
    let after = used(&redis);
    println!(
        "{held} leases in {POOLS} pools of {ACCOUNTS} accounts: {:.0} MB, {:.0} bytes per lease",
        after.memory / 1e6,
        (after.memory - before.memory) / held as f64
    );

    let renews: Vec<Vec<u8>> = pools
        .iter_mut()
        .zip(&leases)
        .flat_map(|(pipe, own)| {
            let (owners, epoch) = (pipe.owners(own), pipe.meta_epoch());
            let batch = |(leases, owners): (&[LeaseId], &[String])| {
                let all: Vec<_> = leases
                    .iter()
                    .zip(owners)
                    .map(|(lease, owner)| (*lease, owner.as_str(), epoch))
                    .collect();
                let mut out = Vec::new();
                pipe.encode(&mut out, |keys, out, by: ScriptRef| {
                    keys.renew(out, by, 3_600_000, all.iter().copied())
                });
                out
            };
            own.chunks(BATCH)
                .zip(owners.chunks(BATCH))
                .map(batch)
                .collect::<Vec<_>>()
        })
        .collect();
    let (mut one, count) = (Pipe::open(&redis, "pool-0"), 20_000);
    let renewal = measure("renewal of one lease", held, &redis, &mut one, &renews);
    let fresh: Vec<LeaseId> = (0..count).map(|_| ids.mint(None)).collect();
    let commands = acquires(&pools[0], &fresh, &mut random);
    let acquire = measure("acquire beside them", count, &redis, &mut one, &commands);
    let commands: Vec<Vec<u8>> = fresh
        .iter()
        .map(|lease| {
            let mut out = Vec::new();
            pools[0].encode(&mut out, |keys, out, by: ScriptRef| {
                keys.release(out, by, [*lease].into_iter())
            });
            out
        })
        .collect();
    let release = measure("release beside them", count, &redis, &mut one, &commands);

    let renewing = held as f64 / RENEW_INTERVAL_S * renewal / 1e6;
    println!(
        "renewing them all each {RENEW_INTERVAL_S} s: {:.0} % of a core; what is left of it: {:.0} requests/s",
        renewing * 100.0,
        (1.0 - renewing).max(0.0) * 1e6 / (acquire + release)
    );
    println!("\nbusiest shard's load, a shard's mean = 1; median (worst) of 200 sets of names");
    print!("{:<12}", "pools");
    let shards = [3, 6, 12, 24];
    for count in shards {
        print!("{:>18}", format!("{count} shards"));
    }
    println!();
    for pools in [10, 30, 100, 300, 1_000] {
        print!("{pools:<12}");
        for count in shards {
            let (median, worst) = busiest(pools, count, &mut random);
            print!("{:>18}", format!("{median:.2} ({worst:.2})"));
        }
        println!();
    }
}

fn acquires(pipe: &Pipe, leases: &[LeaseId], random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let one = |lease: &LeaseId| {
        let mut out = Vec::new();
        pipe.encode_acquire(&mut out, *lease, Mode::Take, random.u32(..));
        out
    };
    leases.iter().map(one).collect()
}

/// Pools of equal load, named at random, on shards with equal shares of the 16,384 slots.
fn busiest(pools: usize, shards: usize, random: &mut fastrand::Rng) -> (f64, f64) {
    let mut all: Vec<f64> = (0..200)
        .map(|_| {
            let mut load = vec![0_usize; shards];
            for _ in 0..pools {
                let name = format!("pool-{}", random.u32(..));
                load[slot(name.as_bytes()) * shards / 16_384] += 1;
            }
            *load.iter().max().expect("shards") as f64 * shards as f64 / pools as f64
        })
        .collect();
    all.sort_by(f64::total_cmp);
    (all[100], all[199])
}

/// Redis Cluster's hash: CRC-16/XMODEM, mod 16384. `123456789` has 12739, as its specification says.
fn slot(tag: &[u8]) -> usize {
    let mut crc = 0_u16;
    for byte in tag {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x1021
            };
        }
    }
    usize::from(crc) % 16_384
}
