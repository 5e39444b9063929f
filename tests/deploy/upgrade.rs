//! The previous release's filter and this one, each in an Envoy of its own, on one ledger: as during any upgrade.

use std::path::PathBuf;
use std::time::Duration;

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

#[test]
#[ignore = "needs the previous release's wasm: make test-upgrade"]
fn the_previous_release_and_this_one_side_by_side() {
    let previous = PathBuf::from(std::env::var_os("PREVIOUS_WASM").expect("make test-upgrade"));
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
    let snapshot = world.upstream.snapshot();
    for (account, slots) in ACCOUNTS {
        let most = snapshot.account(account).most;
        assert!(most <= slots as usize, "{account}: {most} of {slots}");
    }
    world.assert_all_free();
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
    let started = std::time::Instant::now();
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
