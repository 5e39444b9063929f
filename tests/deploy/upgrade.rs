//! The previous release's filter and this one, each in an Envoy of its own, on one ledger: as during any upgrade.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{SOON, World, config, way};
use support::*;

const ACCOUNTS: [(&str, u32); 3] = [("a", 2), ("b", 3), ("c", 5)];
const SLOTS: usize = 10;

fn revision(revision: u32, accounts: &[(&str, u32)]) -> EnvoyConfig {
    config(accounts).plugin(|plugin| {
        // The previous one does not know it yet.
        plugin.as_object_mut().expect("fields").remove("access_log");
        plugin["pools"][0]["revision"] = json!(revision);
        plugin["lease"] = json!({"ttl_ms": 3_000, "renew_interval_ms": 1_000});
    })
}

fn previous() -> PathBuf {
    PathBuf::from(std::env::var_os("PREVIOUS_WASM").expect("make test-upgrade"))
}

/// No account was ever used above its limit, and every slot is free again.
#[track_caller]
fn assert_limits_held(world: &World) {
    let snapshot = world.upstream.snapshot();
    for (account, slots) in ACCOUNTS {
        let most = snapshot.account(account).most;
        assert!(most <= slots as usize, "{account}: {most} of {slots}");
    }
    world.assert_all_free();
}

#[test]
#[ignore = "needs the previous release's wasm: make test-upgrade"]
fn the_previous_release_and_this_one_side_by_side() {
    let previous = previous();
    // The new one first meets a ledger that the old one made, then the other way round.
    for old_first in [true, false] {
        // What only the new one knows: it puts accounts behind soon.
        let new = revision(1, &ACCOUNTS).plugin(|plugin| {
            plugin["failing"] = json!({"min_requests": 2, "behind_ms": 2_000});
        });
        let old = revision(1, &ACCOUNTS).wasm(&previous);
        let (first, second) = if old_first { (old, new) } else { (new, old) };
        let world = World::start(first);
        eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
        let other = world.another(second);
        eventually(SOON, || {
            way(&other.client().get("/", &[])) == (200, "atomic")
        });
        side_by_side(&world, &other);
        pushback(&world, &other);
        crate::world::assert_sound(&other);
    }
}

fn side_by_side(world: &World, other: &Envoy) {
    let clients = [world.client(), other.client()];
    let ledger = &world.ledger;

    // A session has one account, or one of each: they remember sessions in different keys.
    let account = |client: &Client| {
        let reply = client.get("/", &[("x-session-id", "alice")]);
        reply.header("x-slotgate-account").to_owned()
    };
    let seen: Vec<String> = (0..10)
        .map(|number| account(&clients[number % 2]))
        .collect();
    for (number, one) in seen.iter().enumerate() {
        assert_eq!(*one, seen[number % 2], "{seen:?}");
    }

    // Slots are shared, kept for longer than a lease lives, and given back by whoever took them.
    eventually(SOON, || ledger.is_empty());
    let mut held: Vec<_> = (0..SLOTS)
        .map(|number| clients[number % 2].open("/sse?events=1000000&interval_ms=50", &[]))
        .collect();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(ledger.live(), SLOTS);
    for client in &clients {
        assert_eq!(client.get("/", &[]).status, 429);
    }
    held.drain(..4);
    eventually(SOON, || ledger.live() == SLOTS - 4);
    ledger.assert_consistent();

    // A Redis that has forgotten everything is filled by either.
    world.redis.run::<()>("FLUSHALL", &[]);
    eventually(SOON, || {
        clients.iter().for_each(|client| drop(client.get("/", &[])));
        ledger.live() >= held.len()
    });
    drop(held);
    eventually(SOON, || ledger.is_empty());

    // Under load no account is used above its limit.
    world.upstream.forget();
    let loads = clients.map(|client| {
        std::thread::spawn(move || client.load(300, 12, |_| Request::get("/delay?ms=20")))
    });
    for load in loads {
        for reply in load.join().expect("no panic") {
            let (status, path) = {
                let reply = reply.expect("a response");
                (reply.status, reply.header("x-slotgate-path").to_owned())
            };
            assert!(
                status == 429 || (status, path.as_str()) == (200, "atomic"),
                "{status} {path}"
            );
        }
    }
    assert_limits_held(world);
}

/// Accounts that cool, are probed and are behind: the old one knows the first only. What it does not know costs at most the
/// time until a recount puts it right, whichever of the two runs it.
fn pushback(world: &World, other: &Envoy) {
    const RECOUNTED: Duration = Duration::from_secs(150);
    let clients = [world.client(), other.client()];
    let ledger = &world.ledger;
    for _ in 0..4 {
        for client in &clients {
            client.get("/status/500", &[]);
        }
    }
    for client in &clients {
        client.get("/status/429?retry-after=1", &[]);
    }
    world.upstream.forget();
    let started = Instant::now();
    let mut behind = false;
    let recovered = poll(RECOUNTED, || {
        for client in &clients {
            let status = client.get("/", &[]).status;
            assert!(status == 200 || status == 429, "{status}");
        }
        let state = ledger.state();
        behind |= state.cooldown.keys().any(|one| one.starts_with("behind:"));
        let as_ever = ACCOUNTS.iter().all(|(id, slots)| {
            state.accounts.get(*id) == Some(&format!("{slots} 300000 0 0"))
                && state.free.contains_key(*id)
        });
        (state.cooldown.is_empty() && as_ever).then_some(())
    });
    assert!(recovered.is_some(), "{:#?}", ledger.state());
    assert!(behind, "the new one puts an account behind");
    println!("all accounts as ever after {:?}", started.elapsed());
    let snapshot = world.upstream.snapshot();
    for (account, slots) in ACCOUNTS {
        assert!(snapshot.account(account).most <= slots as usize);
    }
    world.assert_all_free();
}

/// Requests wait at the new one, and the previous one knows of no queue: it frees slots without handing them on, takes some ahead
/// of those who wait, and recounts. No limit is broken, and nobody waits for longer than to the next heartbeat.
#[test]
#[ignore = "needs the previous release's wasm: make test-upgrade"]
fn requests_wait_beside_the_previous_release() {
    for old_first in [true, false] {
        let new = revision(1, &ACCOUNTS).plugin(|plugin| {
            plugin["saturated"] = json!({"action": "queue", "queue": {"max_wait_ms": 300_000}});
        });
        let old = revision(1, &ACCOUNTS).wasm(&previous());
        let (first, second) = if old_first { (old, new) } else { (new, old) };
        let world = World::start(first);
        eventually(SOON, || way(&world.get("/")) == (200, "atomic"));
        let other = world.another(second);
        eventually(SOON, || {
            way(&other.client().get("/", &[])) == (200, "atomic")
        });
        let (old, new) = if old_first {
            (world.client(), other.client())
        } else {
            (other.client(), world.client())
        };
        kept_and_served(&world, old, new);
        both_under_load(&world, old, new);
        crate::world::assert_sound(&other);
    }
}

/// The previous release recounts, whole, with its own script.
fn recount_as_before(world: &World) {
    let wasm = previous();
    let lua = wasm.ancestors().nth(2).expect("its folder").join("lua");
    let read = |name: &str| std::fs::read_to_string(lua.join(name)).unwrap_or_default();
    let parts = ["ledger.lua", "queue.lua", "reconcile.lua"].map(read);
    // From the queue on there are eight keys that all scripts have.
    let common = if parts[0].contains("KEYS[8]") { 8 } else { 6 };
    let names = [
        "accounts", "free", "used", "leases", "owner", "cooldown", "queue", "tenants",
    ];
    let keys = names.iter().take(common).chain(&["pass", "control"]);
    let keys: Vec<_> = keys.map(|name| world.ledger.key(name)).collect();
    world.redis.run::<()>("DEL", &[&world.ledger.key("pass")]);
    let (script, count) = (parts.concat(), keys.len().to_string());
    let mut words = vec![script.as_str(), &count];
    words.extend(keys.iter().map(String::as_str));
    words.extend(["0123456789abcdef", "90000", "500"]);
    let done = (0..100).any(|_| {
        let reply: Vec<String> = world.redis.run("EVAL", &words);
        reply[0] == "done"
    });
    assert!(done, "it does not come to an end");
}

/// How many wait, as the ledger has it, each with its place in the queue.
fn waiting(world: &World) -> usize {
    let state = world.ledger.state();
    let places = state.queue.iter().filter(|one| one.starts_with("w:"));
    state.waiting.len().min(places.count())
}

fn kept_and_served(world: &World, old: Client, new: Client) {
    const WAITERS: usize = 15;
    let ledger = &world.ledger;
    eventually(SOON, || ledger.is_empty());
    world.upstream.forget();
    let held: Vec<_> = (0..SLOTS)
        .map(|_| old.open("/sse?events=1000000&interval_ms=50", &[]))
        .collect();
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| new.start("/delay?ms=50", &[]))
        .collect();
    eventually(SOON, || waiting(world) == WAITERS);
    // Whoever knows no queue is refused.
    assert_eq!(old.get("/", &[]).status, 429);

    // Its recount throws nobody out; from then on the new one recounts, which knows more.
    recount_as_before(world);
    assert_eq!((waiting(world), ledger.live()), (WAITERS, SLOTS));
    let pass = ledger.key("pass");
    let by = || world.redis.run::<Option<String>>("HGET", &[&pass, "by"]);
    let started = Instant::now();
    let takes_over = poll(Duration::from_secs(150), || {
        assert_eq!(waiting(world), WAITERS);
        by().is_some_and(|by| by.starts_with("3.")).then_some(())
    });
    assert!(takes_over.is_some(), "{:?} recounts", by());
    println!("the new one recounts after {:?}", started.elapsed());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((waiting(world), ledger.live()), (WAITERS, SLOTS));
    ledger.assert_consistent();

    // The old one frees all slots at once and hands none on.
    drop(held);
    let freed = Instant::now();
    for mut waiter in waiters {
        waiter.set_read_timeout(SOON);
        let head = waiter.read_head();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
    let took = freed.elapsed();
    println!("all who waited were served within {took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    world.assert_all_free();
}

/// Both at their limits: what the old one frees, whoever waits gets at the next heartbeat at the latest.
fn both_under_load(world: &World, old: Client, new: Client) {
    world.upstream.forget();
    let load = |client: Client| {
        std::thread::spawn(move || client.load(300, 15, |_| Request::get("/delay?ms=20")))
    };
    let (old, new) = (load(old), load(new));
    let statuses = |load: std::thread::JoinHandle<Vec<Result<Reply, Error>>>| {
        count_statuses(&load.join().expect("no panic"))
    };
    let (old, new) = (statuses(old), statuses(new));
    println!("the old one answers {old:?}, the new one {new:?}");
    assert_eq!(new.into_iter().collect::<Vec<_>>(), [(200, 300)]);
    assert!(
        old.keys().all(|status| [200, 429].contains(status)),
        "{old:?}"
    );
    assert_limits_held(world);
}
