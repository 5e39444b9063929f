//! Accounts that refuse, by 40 clients: requests go from one account to the next while clients leave, Redis stands still
//! and Envoy is killed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::faults::VICTIM;
use crate::row::{leaked, moved};
use crate::world::{Accounts, World};
use support::*;

pub const NAME: &str = "accounts that refuse, clients that leave, Redis frozen, Envoy killed";

const CLIENTS: usize = 40;
/// As many slots as clients.
const ACCOUNTS: Accounts = &[
    ("a", 4),
    ("b", 4),
    ("c", 4),
    ("d", 4),
    ("e", 4),
    ("f", 4),
    ("g", 4),
    ("h", 4),
    ("i", 4),
    ("j", 4),
];
const ACQUIRE_TIMEOUT_MS: u64 = 400;
/// How long Redis stands still, by turns: some acquires are only late, or none is in time.
const STALLS: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(700)];

/// Three tries, keys that tell whose they are, and rests that are over soon.
fn refusing(config: EnvoyConfig) -> EnvoyConfig {
    let config = config.plugin(|plugin| {
        plugin["cooldown"] = json!({"max_ms": 5, "default_ms": 5});
        plugin["failing"] = json!({"percent": 0});
        plugin["redis"]["acquire_timeout_ms"] = json!(ACQUIRE_TIMEOUT_MS);
        let accounts = plugin["pools"][0]["accounts"].as_array_mut();
        for account in accounts.expect("accounts") {
            let id = account["id"].as_str().expect("an id").to_owned();
            account["set_headers"]["authorization"] = json!(format!("Bearer key-of-{id}"));
        }
    });
    let config = config.manager(|manager| {
        let host = &mut manager["route_config"]["virtual_hosts"][0];
        host["include_request_attempt_count"] = json!(true);
    });
    config.failover(3)
}

struct Record {
    envoy: usize,
    start: Instant,
    end: Instant,
    is_traditional: bool,
    /// Why it counts as not served, if it does.
    failed: Option<String>,
}

/// One client, until the end.
fn client(addrs: &[SocketAddr], lane: usize, end: Instant, records: &Mutex<Vec<Record>>) {
    let mut random = fastrand::Rng::with_seed(lane as u64);
    while Instant::now() < end {
        let envoy = random.usize(..addrs.len());
        let client = Client::new(addrs[envoy]);
        // Most are refused by nobody, some once, few by all.
        let refused = match random.u8(..20) {
            0..=11 => "",
            12..=15 => "tries=1",
            16..=17 => "tries=2",
            18 => "tries=3",
            _ => "accounts=a,b,c,d,e",
        };
        let status = random.choice([429, 503, 529]).unwrap_or(429);
        let how = if random.u8(..100) < 5 { "reset" } else { "" };
        let (early, delay_ms) = (random.u8(..2), random.u64(..10));
        let path = format!(
            "/refuse?{refused}&status={status}&how={how}&early={early}&delay_ms={delay_ms}"
        );
        let start = Instant::now();
        if random.u8(..100) < 20 {
            leave(addrs[envoy], &path, &mut random);
            continue;
        }
        let make = {
            let length = random.choice([0, 0, 1_000, 300_000]).unwrap_or_default();
            move |_| Request::post(&path, vec![b'x'; length])
        };
        let replies = match random.u8(..10) {
            // Nobody may be there to open a connection to.
            0 if std::net::TcpStream::connect(addrs[envoy]).is_ok() && envoy != VICTIM => {
                client.burst(Protocol::Http2 { streams: 4 }, 4, make)
            }
            _ => vec![client.send(make(0))],
        };
        let end = Instant::now();
        if replies.iter().any(Result::is_err) {
            sleep(Duration::from_millis(20));
        }
        let mut records = records.lock().unwrap();
        for reply in replies {
            let mut is_traditional = false;
            let failed = match reply {
                Err(error) => Some(error.to_string()),
                Ok(reply) => {
                    is_traditional = reply.header("x-slotgate-path") == "traditional";
                    let asked = reply.status == status || how == "reset" && reply.status == 503;
                    let full = reply.status == 429 && reply.text().contains("slotgate_saturated");
                    (reply.status != 200 && !asked && !full)
                        .then(|| format!("{} {}", reply.status, reply.text()))
                }
            };
            records.push(Record {
                envoy,
                start,
                end,
                is_traditional,
                failed,
            });
        }
    }
}

/// At any moment, with a whole request or a part of one.
fn leave(addr: SocketAddr, path: &str, random: &mut fastrand::Rng) {
    let Ok(mut connection) = std::net::TcpStream::connect(addr) else {
        return;
    };
    let head = match random.u8(..3) {
        0 => format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"),
        1 => format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\nhello"),
        _ => format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        ),
    };
    let _ = std::io::Write::write_all(&mut connection, head.as_bytes());
    sleep(Duration::from_millis(random.u64(..12)));
    if random.bool() {
        let _ = socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO));
    }
}

/// The keys and the leases that the upstream saw.
#[derive(Default)]
struct Keys {
    accounts: BTreeMap<String, String>,
    judged: usize,
    wrong: Vec<Seen>,
}

impl Keys {
    fn judge(&mut self, seen: Vec<Seen>) {
        for one in seen.into_iter().filter(|one| !one.lease.is_empty()) {
            let before = self.accounts.insert(one.lease.clone(), one.account.clone());
            // A lease is for one try.
            let is_first = before.is_none();
            let own_key = one.key == format!("Bearer key-of-{}", one.account);
            let own_lease = one.owner.as_ref().is_none_or(|owner| *owner == one.account);
            self.judged += usize::from(one.owner.is_some());
            if !(is_first && own_key && own_lease) {
                self.wrong.push(one);
            }
        }
    }
}

/// The row of it, and what was not kept.
pub fn storm(length: Duration) -> (String, Vec<String>) {
    let mut world = World::start(&[], ACCOUNTS, false, refusing);
    world.upstream.watch(&world.ledger);
    let before = world.counters();
    let mut counted = BTreeMap::new();
    let mut add = |counters: BTreeMap<String, u64>| {
        for (name, count) in counters {
            *counted.entry(name).or_insert(0) += count;
        }
    };
    let (begin, records) = (Instant::now(), Arc::<Mutex<Vec<Record>>>::default());
    let end = begin + length;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|lane| {
            let (addrs, records) = (world.addrs(), Arc::clone(&records));
            std::thread::spawn(move || client(&addrs, lane, end, &records))
        })
        .collect();
    let (mut keys, mut killed, mut unsound) = (Keys::default(), Vec::new(), Vec::new());
    let every = length.min(Duration::from_secs(15)) / 3;
    for stall in STALLS.into_iter().cycle() {
        if Instant::now() + every > end {
            break;
        }
        sleep(every / 2);
        world.redis.sigstop();
        sleep(stall);
        world.redis.sigcont();
        sleep(every / 2);
        if killed.len() * 3 < (begin.elapsed().as_secs_f64() / every.as_secs_f64()) as usize {
            unsound.extend(sign_of_a_crash(world.envoy(VICTIM)));
            add(world.envoy(VICTIM).filter_stats());
            let from = Instant::now();
            world.envoy(VICTIM).kill();
            sleep(Duration::from_millis(500));
            world.start_envoy(VICTIM);
            killed.push((from, Instant::now()));
        }
        keys.judge(world.upstream.take_seen());
    }
    for client in clients {
        client.join().expect("no client panics");
    }
    let over = world.over(ACCOUNTS);
    let leaked = leaked(&world);
    keys.judge(world.upstream.take_seen());
    for node in &world.nodes {
        unsound.extend(node.envoy.as_ref().and_then(sign_of_a_crash));
    }
    add(world.counters());
    let counters = moved(&before, &counted);

    let records = std::mem::take(&mut *records.lock().unwrap());
    let (mut failed, mut by_cause, mut traditional) = (Vec::new(), 0, 0);
    for record in &records {
        traditional += usize::from(record.is_traditional);
        let cut = killed
            .iter()
            .any(|(from, to)| record.start < *to && record.end > *from);
        match &record.failed {
            Some(_) if record.envoy == VICTIM && cut => by_cause += 1,
            Some(why) => failed.push(why.clone()),
            None => {}
        }
    }
    let of = |name: &str| counters.get(name).copied().unwrap_or_default();
    let outcomes = ["served", "exhausted", "no_other", "not_retried"]
        .map(|outcome| format!("{outcome} {}", of(&format!("failover;outcome={outcome}"))));
    let row = format!(
        "| {NAME} | {} | {} ({by_cause}) | {over} | – | {leaked} | – | – | {traditional} | {} | {}, tries judged {} |",
        records.len(),
        failed.len(),
        world.warnings(),
        outcomes.join(", "),
        keys.judged,
    );
    let mut broken = Vec::new();
    let mut expect = |kept: bool, promise: String| {
        if !kept {
            broken.push(promise);
        }
    };
    let some = |all: &[String]| all.iter().take(5).cloned().collect::<Vec<_>>();
    expect(failed.is_empty(), format!("failed: {:?}", some(&failed)));
    expect(over == 0, format!("{over} over the limit"));
    expect(leaked == 0, format!("{leaked} slots leaked"));
    expect(unsound.is_empty(), format!("crashed: {unsound:?}"));
    let wrong = &keys.wrong[..keys.wrong.len().min(5)];
    expect(wrong.is_empty(), format!("with another's lease: {wrong:?}"));
    expect(!killed.is_empty(), "no Envoy was killed".into());
    let served = of("failover;outcome=served");
    expect(served > 0, "no other account served".into());
    expect(keys.judged > 0, "no key was judged".into());
    (row, broken)
}

fn sign_of_a_crash(envoy: &Envoy) -> Option<String> {
    if !envoy.is_running() {
        return Some(envoy.log_tail(30));
    }
    let log = envoy.log();
    let signs = ["panicked", "Uncaught", "Function: proxy_", "Caught "];
    let line = log
        .lines()
        .find(|line| signs.iter().any(|sign| line.contains(sign)));
    line.map(str::to_owned)
}
