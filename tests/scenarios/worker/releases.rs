//! A release goes with the next acquire or a moment later, and is sent again until Redis has taken it or its lease is over.

use super::rig::{Rig, Sent, granted};
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::Path;
use slotgate::request::verdict::Verdict;
use slotgate::worker::counters::Counter;

/// A worker that is to go waits for its releases, but not for ever for a Redis that never comes back.
#[test]
fn releases_are_kept_until_their_leases_are_over_anyway() {
    let mut rig = Rig::ready(|_| {});
    let (holder, _) = rig.holding();
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.worker.on_end(rig.now_ms, holder);
    let ended_ms = rig.now_ms;
    while !rig.worker.is_idle() {
        rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
        rig.worker.wire().order = None;
        rig.worker.on_pipe_closed(rig.now_ms);
    }
    let kept_ms = rig.now_ms - ended_ms;
    assert!((15_000..16_100).contains(&kept_ms), "{kept_ms}");
}

/// A release goes ahead of the next acquire, or by itself a moment later.
#[test]
fn releases_ride_with_the_next_acquire() {
    let mut rig = Rig::ready(|_| {});
    let (first, one) = rig.holding();
    let (second, other) = rig.holding();
    rig.worker.on_end(rig.now_ms, first);
    rig.worker.on_end(rig.now_ms, second);
    assert!(rig.commands().is_empty());
    let (_, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    let sent = rig.commands();
    assert_eq!(sent[0], Sent(vec![one, other]));
    assert!(sent[1].is_acquire());
    assert_eq!(sent.len(), 2);
    rig.reply(":2\r\n");
    rig.reply(&granted("a"));
    assert_eq!(rig.count(Counter::Released), 3);
    rig.wait(1);
    assert!(rig.commands().is_empty(), "none goes twice");
}

/// What waits to ride when the pipe breaks is sent when it is back.
#[test]
fn riding_releases_survive_the_pipe() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.holding();
    rig.worker.on_end(rig.now_ms, id);
    rig.worker.on_pipe_closed(rig.now_ms);
    assert!(!rig.worker.is_idle());
    rig.reopen();
    assert!(
        rig.commands()
            .iter()
            .any(|command| command.is_release_of(&lease))
    );
}

#[test]
fn a_release_that_redis_refuses_is_given_up_when_its_lease_is_over() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.holding();
    rig.worker.on_end(rig.now_ms, id);
    let mut tries = 0;
    for _ in 0..4_000 {
        for command in rig.commands() {
            if command.is_reconcile() {
                rig.reply("*2\r\n$9\r\nelsewhere\r\n:0\r\n");
                continue;
            }
            assert!(command.is_release_of(&lease));
            tries += 1;
            rig.reply("-MISCONF Redis is configured to save RDB snapshots\r\n");
        }
        rig.wait(10);
    }
    assert!(
        (10..=16).contains(&tries),
        "once a second for 15 s: {tries}"
    );
    assert!(rig.worker.is_idle());
}

#[test]
fn what_redis_was_never_told_needs_no_release() {
    let mut rig = Rig::new(|json| json["traditional"] = serde_json::json!({"mode": "local"}));
    let (first, _) = rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_closed(rig.now_ms);
    let (second, verdict) = rig.request(&[]);
    assert!(matches!(
        verdict,
        Some(Verdict::Forward {
            path: Path::Local,
            ..
        })
    ));
    for id in [first, second] {
        rig.worker.on_end(rig.now_ms, id);
    }
    assert!(rig.worker.is_idle(), "nothing is kept for the pipe");
}
