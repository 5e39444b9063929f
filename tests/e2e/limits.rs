//! No account is ever used above its limit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::Insistent;
use crate::world::{World, accounts_json, assert_sound, config, way};
use support::*;

const LIMITS: [(&str, u32); 3] = [("a", 5), ("b", 10), ("c", 20)];

/// Envoys that ask for each request, so that no slot is free for long enough to be missed at the peak.
fn asking(workers: u32) -> EnvoyConfig {
    config(&LIMITS)
        .plugin(|plugin| plugin["saturated"] = json!({"action": "reject", "refuse_ms": 0}))
        .workers(workers)
}

/// While they run, the ledger adds up and counts no account above its limit.
#[track_caller]
fn watch(world: &World, loads: &[Insistent]) {
    let deadline = Instant::now() + PATIENCE;
    while !loads.iter().all(Insistent::is_finished) {
        assert!(Instant::now() < deadline, "the clients are never done");
        let state = world.ledger.state();
        state.assert_consistent();
        for (id, limit) in LIMITS {
            let used = state.used.get(id).copied().unwrap_or_default();
            assert!(used <= i64::from(limit), "{id}: {used}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All were served, all slots were fought for, and none was used twice.
#[track_caller]
fn assert_limits_held(world: &World, statuses: &BTreeMap<u16, usize>, served: usize) {
    assert_eq!(statuses.get(&200), Some(&served), "{statuses:?}");
    assert!(statuses.get(&429) > Some(&0), "never full: {statuses:?}");
    assert_eq!(statuses.len(), 2, "{statuses:?}");
    let seen = world.upstream.snapshot();
    assert_eq!(
        seen.paths,
        BTreeMap::from([("atomic".into(), served as u64)])
    );
    for (id, limit) in LIMITS {
        assert_eq!(
            seen.account(id).most,
            limit as usize,
            "{id}: greatest number at once, {seen:?}"
        );
    }
    world.assert_all_free();
}

#[test]
fn two_hundred_clients_and_four_workers_never_exceed_a_limit() {
    let world = World::start(asking(4));
    let load = [Insistent::start(world.client(), 200, 3, "/delay?ms=30")];
    watch(&world, &load);
    let [load] = load;
    assert_limits_held(&world, &load.finish(), 600);
}

#[test]
fn limits_hold_across_two_envoys() {
    let world = World::start(asking(2));
    let other = world.another(asking(2));
    let loads = [world.client(), other.client()]
        .map(|client| Insistent::start(client, 60, 4, "/delay?ms=30"));
    watch(&world, &loads);
    let mut statuses = BTreeMap::new();
    for load in loads {
        for (status, count) in load.finish() {
            *statuses.entry(status).or_default() += count;
        }
    }
    assert_limits_held(&world, &statuses, 480);
    assert_sound(&other);
}

fn short_leases(accounts: &[(&str, u32)]) -> EnvoyConfig {
    config(accounts)
        .plugin(|plugin| plugin["lease"] = json!({"ttl_ms": 1_000, "renew_interval_ms": 400}))
}

/// A stream that outlives four leases keeps its slot all the time.
#[test]
fn a_stream_longer_than_its_lease_keeps_the_slot() {
    let world = World::start(short_leases(&[("a", 1)]).workers(2));
    let mut stream = world.client().open("/sse?events=100000", &[]);
    let opened = Instant::now();
    while opened.elapsed() < Duration::from_secs(4) {
        let at = opened.elapsed();
        let refused = world.get("/");
        assert_eq!(refused.status, 429, "after {at:?}: {:?}", leases(&world));
        // The lease may expire in less than a second; what is told is whole seconds, and never 0.
        assert_eq!(refused.header("retry-after"), "1");
        std::thread::sleep(Duration::from_millis(20));
    }
    stream.events(3);
    drop(stream);
    assert_eq!(world.upstream.snapshot().account("a").most, 1);
    world.eventually_counts("lease.renewed", 4);
    let [_, readopted, lost] = leases(&world);
    assert_eq!((readopted, lost), (0, 0));
    world.assert_all_free();
    world.assert_serves();
}

/// Renewed, re-adopted, lost.
fn leases(world: &World) -> [u64; 3] {
    ["renewed", "readopted", "lost"].map(|name| world.counter(&format!("lease.{name}")))
}

/// The leases of a process that is gone end by expiry, and only those.
#[test]
fn leases_of_a_killed_envoy_are_gone_after_their_time_to_live() {
    // SIGTERM's: at the end of its life nothing the VM sends arrives any more.
    for how in [Envoy::kill, Envoy::terminate] {
        let world = World::start(short_leases(&[("a", 4)]));
        let dying = world.another(short_leases(&[("a", 4)]));
        let own = world.client().open("/sse?events=100000", &[]);
        let held: Vec<_> = (0..3)
            .map(|_| dying.client().open("/sse?events=100000", &[]))
            .collect();
        assert_eq!(
            held.iter().map(|stream| stream.status).collect::<Vec<_>>(),
            [200; 3]
        );
        assert_eq!(world.get("/").status, 429);

        how(&dying);
        dying.wait_exit(PATIENCE).expect("it ends");
        let died = Instant::now();
        let served = eventually_some(PATIENCE, || {
            (0..3)
                .map(|_| world.client().open("/sse?events=100000", &[]))
                .map(|stream| (stream.status == 200).then_some(stream))
                .collect::<Option<Vec<_>>>()
        });
        assert!(
            died.elapsed() < Duration::from_millis(2_500),
            "only after {:?}",
            died.elapsed()
        );
        assert_eq!(world.get("/").status, 429, "four slots, four streams");
        drop((own, served));
        world.assert_all_free();
    }
}

/// Two configurations with different revisions at once: the higher one counts for both.
#[test]
fn the_higher_revision_wins_and_nothing_flaps() {
    let revision = |revision: u32, slots: u32| {
        config(&[("a", slots)]).plugin(move |plugin| {
            plugin["pools"][0]["revision"] = json!(revision);
            plugin["pools"][0]["accounts"] = accounts_json(&[("a", slots)]);
        })
    };
    let old = World::start(revision(1, 5));
    old.assert_serves();
    assert_eq!(old.ledger.state().meta["#revision"], "1");
    let new = old.another(revision(2, 2));
    assert_eq!(way(&new.client().get("/", &[])), (200, "atomic"));
    assert_eq!(old.ledger.state().meta["#revision"], "2");
    old.time_until_free();

    let held: Vec<_> = (0..2)
        .map(|_| old.client().open("/sse?events=100000", &[]))
        .collect();
    for client in [old.client(), new.client()] {
        for _ in 0..5 {
            assert_eq!(client.get("/", &[]).status, 429);
        }
    }
    // An Envoy of the lower revision that comes late says so, and changes nothing.
    let late = old.another(revision(1, 5));
    assert_eq!(late.client().get("/", &[]).status, 429);
    eventually(PATIENCE, || {
        late.log_contains("revision 1 is ignored, Redis holds revision 2")
    });
    assert_eq!(old.ledger.state().meta["#revision"], "2");
    drop(held);
    old.assert_all_free();
}
