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

/// Each release that Redis refused and that there is no room to keep is counted as given up, once.
#[test]
fn refused_releases_without_room_are_counted() {
    let mut rig = Rig::ready(|json| json["redis"]["max_pending"] = 16.into());
    let holders: Vec<_> = (0..66).map(|_| rig.holding().0).collect();
    for holder in holders {
        rig.worker.on_end(rig.now_ms, holder);
    }
    rig.wait(1);
    let sent = rig.commands();
    assert_eq!((sent.len(), sent[0].arguments().len()), (1, 66), "{sent:?}");
    assert_eq!(rig.count(Counter::Dropped), 0);
    rig.reply("-MISCONF Redis is configured to save RDB snapshots\r\n");
    assert_eq!(rig.count(Counter::Dropped), 2, "there is room for 64");
    // What was kept goes out again.
    rig.wait(1_000);
    let again = rig.commands();
    assert_eq!(again[0].arguments().len(), 64, "{again:?}");
    rig.reply(":64\r\n");
    assert_eq!(rig.count(Counter::Dropped), 2);
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

/// Somebody waits for what it frees, as the last replies said: it goes at the end of this round, together with the others of
/// the round. Ten seconds after nobody was heard to wait it lingers again.
#[test]
fn a_release_that_somebody_waits_for_does_not_linger() {
    let mut rig = Rig::ready(|json| json["saturated"] = serde_json::json!({"action": "queue"}));
    let held: Vec<_> = (0..4).map(|_| rig.holding()).collect();
    let end = |rig: &mut Rig, which: usize| {
        rig.worker.on_end(rig.now_ms, held[which].0);
        assert!(rig.commands().is_empty(), "its round goes on");
        let urgent = rig.worker.wants_flush();
        rig.worker.flush(rig.now_ms);
        urgent
    };
    assert!(!end(&mut rig, 0), "nobody waits");
    assert_eq!(rig.commands_soon(), [Sent::release(&held[0].1)]);
    // It went to a request of another worker.
    rig.reply("*2\r\n:1\r\n$13\r\n9 lease a 123\r\n");
    rig.worker.on_end(rig.now_ms, held[1].0);
    assert!(end(&mut rig, 2));
    let both = vec![held[1].1.clone(), held[2].1.clone()];
    assert_eq!(rig.commands(), [Sent(both)]);
    rig.reply(":2\r\n");
    rig.now_ms += 10_000;
    assert!(!end(&mut rig, 3), "nobody was heard to wait for long");
}

/// The same after a request of this worker's own had to wait.
#[test]
fn a_release_that_an_own_request_waits_for_does_not_linger() {
    let mut rig = Rig::ready(|json| json["saturated"] = serde_json::json!({"action": "queue"}));
    let (holder, lease) = rig.holding();
    let (_, _) = rig.acquiring();
    let waits = "~1732999999123456001 4000 0";
    rig.reply(&format!("*2\r\n$1\r\n9\r\n${}\r\n{waits}\r\n", waits.len()));
    rig.worker.flush(rig.now_ms);
    rig.commands();
    rig.worker.on_end(rig.now_ms, holder);
    assert!(rig.worker.wants_flush());
    rig.worker.flush(rig.now_ms);
    assert_eq!(rig.commands(), [Sent::release(&lease)]);
}
