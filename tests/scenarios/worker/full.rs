//! A worker that was told that a pool is full refuses by itself for a moment, and no longer.

use super::rig::{Rig, granted};
use slotgate::request::admission::Reason;
use slotgate::request::verdict::Verdict;
use slotgate::worker::counters::Counter;

/// A pool without a free slot, come back in two seconds.
const FULL: &str = "*2\r\n$1\r\n7\r\n:2000\r\n";

fn refused(verdict: Option<Verdict>) -> bool {
    let expected = Verdict::Saturated {
        pool: Some(0),
        reason: Reason::Saturated,
        retry_after_ms: 2_000,
    };
    verdict == Some(expected)
}

/// A worker with one request that holds a slot, which was just told that no other is free.
fn told(change: impl FnOnce(&mut serde_json::Value)) -> (Rig, super::rig::Id) {
    let mut rig = Rig::ready(change);
    let (holder, _) = rig.holding();
    rig.request(&[]);
    rig.commands();
    rig.reply(FULL);
    assert_eq!(rig.answers().len(), 1);
    (rig, holder)
}

#[test]
fn it_refuses_without_asking_for_as_long_as_configured() {
    let (mut rig, _) = told(|json| json["saturated"] = serde_json::json!({"refuse_ms": 5}));
    for _ in 0..1_000 {
        assert!(refused(rig.request(&[]).1));
    }
    assert!(rig.commands().is_empty());
    assert_eq!(rig.count(Counter::Rejected(Reason::Saturated)), 1_001);
    rig.wait(4);
    assert!(refused(rig.request(&[]).1));
    rig.wait(1);
    assert_eq!(rig.request(&[]).1, None, "it asks again");
    assert!(rig.commands_soon().iter().any(super::rig::Sent::is_acquire));
}

#[test]
fn whoever_gives_a_slot_back_asks_at_once() {
    let (mut rig, holder) = told(|_| {});
    assert!(refused(rig.request(&[]).1));
    rig.worker.on_end(rig.now_ms, holder);
    assert_eq!(rig.request(&[]).1, None);
    let sent = rig.commands();
    assert!(sent[0].is_release() && sent[1].is_acquire());
    rig.reply(":1\r\n");
    rig.reply(&granted("a"));
}

/// The acquire went out before the slot was given back, so its answer says nothing of that slot.
#[test]
fn an_answer_that_is_older_than_an_own_release_tells_nothing() {
    let mut rig = Rig::ready(|json| json["saturated"]["refuse_ms"] = 1_000.into());
    let (holder, _) = rig.holding();
    rig.request(&[]);
    rig.commands();
    rig.wait(1);
    rig.worker.on_end(rig.now_ms, holder);
    rig.reply(FULL);
    assert_eq!(rig.request(&[]).1, None, "it is asked for");
    rig.commands();
    rig.wait(1);
    rig.reply(":1\r\n");
    rig.reply(FULL);
    assert_eq!(
        rig.request(&[]).1,
        None,
        "that one was asked in the same ms"
    );
    rig.commands();
    rig.reply(FULL);
    assert!(refused(rig.request(&[]).1));
}

/// Nobody is refused for longer than the ledger said.
#[test]
fn it_asks_again_when_the_client_was_told_to() {
    let mut rig = Rig::ready(|json| json["saturated"]["refuse_ms"] = 1_000.into());
    rig.request(&[]);
    rig.commands();
    rig.reply("*2\r\n$1\r\n7\r\n:3\r\n");
    assert!(rig.request(&[]).1.is_some());
    rig.wait(3);
    assert_eq!(rig.request(&[]).1, None);
}

/// What was said over a pipe that is gone is worth nothing.
#[test]
fn a_lost_pipe_ends_it() {
    let (mut rig, _) = told(|json| json["saturated"]["refuse_ms"] = 1_000.into());
    rig.worker.on_pipe_closed(rig.now_ms);
    let verdict = rig.request(&[]).1;
    assert_ne!(verdict.and_then(Verdict::reason), Some(Reason::Saturated));
}

#[test]
fn it_may_be_off_and_is_with_a_queue() {
    for saturated in [
        serde_json::json!({"refuse_ms": 0}),
        serde_json::json!({"action": "queue"}),
    ] {
        let (mut rig, _) = told(|json| json["saturated"] = saturated);
        assert_eq!(rig.request(&[]).1, None);
    }
}

/// With `saturated.action: traditional` they go that way.
#[test]
fn it_sends_on_where_full_pools_are_left_alone() {
    let (mut rig, _) =
        told(|json| json["saturated"] = serde_json::json!({"action": "traditional"}));
    let verdict = rig.request(&[]).1;
    assert_eq!(verdict.and_then(Verdict::reason), Some(Reason::Saturated));
    assert!(verdict.is_some_and(|verdict| verdict.path().is_some()));
}

/// A tenant at its cap gets another answer than one that finds the pool full, and the ledger alone knows.
#[test]
fn tenants_with_caps_are_asked_for() {
    let (mut rig, _) = told(|json| {
        let source = serde_json::json!([{"header": "x-tenant"}]);
        json["tenant"] = serde_json::json!({"source": source, "max_concurrency": 1});
    });
    assert!(refused(rig.request(&[]).1));
    assert_eq!(rig.request(&[("x-tenant", "gold")]).1, None);
}

/// What was refused beside a scope's cooling accounts says nothing of the others.
#[test]
fn a_scope_is_not_the_pool() {
    let mut rig = Rig::ready(|json| {
        json["cooldown"] = serde_json::json!({"scope": {"header": "x-model"}});
    });
    rig.request(&[("x-model", "large")]);
    rig.commands();
    rig.reply(FULL);
    assert_eq!(rig.request(&[]).1, None);
}
