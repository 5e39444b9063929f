//! A request from its headers to its end: granted, saturated, refused, chosen here, or left before it was answered.

use super::rig::{Rig, Sent, granted, passed_on};
use crate::config;
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::{Path, Reason};
use slotgate::request::headers::Headers;
use slotgate::request::lease::LeaseId;
use slotgate::request::verdict::Verdict;
use slotgate::worker::Worker;
use slotgate::worker::counters::Counter;

#[test]
fn granted_held_released() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.acquiring();
    assert_eq!(rig.worker.path(id), None, "it waits");
    rig.reply(&granted("b"));
    let answers = rig.answers();
    let [
        (
            stream,
            Verdict::Forward {
                path: Path::Atomic,
                reason: None,
                pool: Some(0),
                holds: Some((held, 1)),
            },
        ),
    ] = answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!((stream, held.as_str()), (id.stream, lease.as_str()));
    assert_eq!(rig.worker.path(id), Some((Path::Atomic, Some("b"))));
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
    rig.worker.on_end(rig.now_ms, id);
    assert!(rig.commands().is_empty(), "once");
    rig.reply(":1\r\n");
    assert!(rig.worker.is_idle());
    assert_eq!(rig.count(Counter::Released), 2);
}

#[test]
fn saturated_rejected_or_passed_on() {
    let mut rig = Rig::ready(|_| {});
    let (id, _) = rig.acquiring();
    rig.reply("*2\r\n$1\r\n9\r\n:1500\r\n");
    assert_eq!(
        rig.answers(),
        [(
            id.stream,
            Verdict::Saturated {
                pool: Some(0),
                reason: Reason::Saturated,
                retry_after_ms: 1500
            }
        )]
    );
    rig.worker.on_end(rig.now_ms, id);
    assert!(rig.commands().is_empty(), "nothing was taken");

    let mut rig =
        Rig::ready(|json| json["saturated"] = serde_json::json!({"action": "traditional"}));
    let (id, _) = rig.acquiring();
    rig.reply("*2\r\n$1\r\n9\r\n:1500\r\n");
    assert_eq!(
        rig.answers(),
        [(id.stream, passed_on(Reason::Saturated).unwrap())]
    );
}

#[test]
fn a_client_that_leaves_while_acquiring() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.acquiring();
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
    rig.reply(&granted("a"));
    assert!(rig.answers().is_empty());
    assert_eq!(rig.count(Counter::LateGrant), 1);
}

#[test]
fn failure_reject_answers_503() {
    let mut rig = Rig::ready(|json| json["failure"] = serde_json::json!({"action": "reject"}));
    let (id, _) = rig.acquiring();
    rig.wait(50);
    assert_eq!(
        rig.answers(),
        [(
            id.stream,
            Verdict::Unavailable {
                pool: Some(0),
                reason: Reason::TimedOut
            }
        )]
    );
}

#[test]
fn local_choice_is_recorded_and_released() {
    let local = |json: &mut serde_json::Value| {
        json["gray"]["percent"] = 0.into();
        json["traditional"] = serde_json::json!({"mode": "local"});
    };
    let mut rig = Rig::new(local);
    let (id, verdict) = rig.request(&[]);
    let Some(Verdict::Forward {
        path: Path::Local,
        reason: None,
        holds: Some((lease, account)),
        ..
    }) = verdict
    else {
        panic!("{verdict:?}")
    };
    rig.reopen();
    let sent = rig.commands();
    assert_eq!(sent[1].lease(), lease.as_str());
    let account = if account == 0 { "a" } else { "b" };
    assert_eq!(
        (
            sent[1].arguments()[3].as_str(),
            sent[1].arguments()[6].as_str()
        ),
        ("force", account)
    );
    rig.reply(&granted("a"));
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon(), [Sent::release(lease.as_str())]);
    assert_eq!(rig.count(Counter::LocalFor(Reason::OutOfPercentage)), 1);
    assert_eq!(
        rig.count(Counter::Traditional(Reason::OutOfPercentage)),
        0,
        "it has an account"
    );
}

#[test]
fn local_choice_with_redis_down_counts_here_and_is_told_later() {
    let mut rig = Rig::new(|json| json["traditional"] = serde_json::json!({"mode": "local"}));
    rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.answers();
    let verdicts: Vec<_> = (0..6).map(|_| rig.request(&[]).1.unwrap()).collect();
    let local = verdicts
        .iter()
        .filter(|v| {
            matches!(
                v,
                Verdict::Forward {
                    path: Path::Local,
                    ..
                }
            )
        })
        .count();
    assert_eq!(
        local, 5,
        "with the first one all 6 slots are in use: {verdicts:?}"
    );
    assert!(matches!(verdicts[5], Verdict::Saturated { .. }));
    // Why is counted beside how many: each once here and once there.
    let why = |reason| rig.count(Counter::LocalFor(reason));
    assert_eq!(rig.count(Counter::Local), 6);
    assert_eq!(Reason::ALL.map(why).iter().sum::<u64>(), 6);
    assert!(why(Reason::PipeDown) >= 5, "{:?}", Reason::ALL.map(why));
    rig.reopen();
    rig.commands();
    rig.wait(700);
    let sent = rig.commands();
    let renewed: Vec<_> = sent
        .iter()
        .flat_map(|command| command.arguments()[1..].chunks(3))
        .collect();
    assert_eq!(renewed.len(), 6, "all six are told: {sent:?}");
    assert!(
        renewed.iter().all(|lease| lease[2] == "0"),
        "with no epoch of Redis' own"
    );
}

#[test]
fn no_pool_no_part() {
    let mut rig = Rig::new(|json| {
        json["pools"][0]["match"] = serde_json::json!([{"header": "x-model", "exact": "m"}])
    });
    let (id, verdict) = rig.request(&[("x-model", "other")]);
    assert!(matches!(
        verdict,
        Some(Verdict::Forward {
            path: Path::Traditional,
            reason: Some(Reason::NoPool),
            ..
        })
    ));
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.worker.next_wake_ms(), None);
}

#[test]
fn ids_of_two_workers_never_meet() {
    let mut seen = std::collections::HashSet::<LeaseId>::new();
    for seed in 0..50 {
        let mut worker = Worker::new(
            config(|json| json["traditional"] = serde_json::json!({"mode": "local"})),
            seed,
        );
        for stream in 0..3 {
            worker.on_request(0, stream, Headers::new(&[]));
        }
        let text = String::from_utf8_lossy(&worker.wire().bytes).into_owned();
        assert!(text.is_empty());
        worker.on_tick(0);
        worker.on_pipe_closed(0);
        for verdict in std::iter::from_fn(|| worker.next_answer()).map(|answer| answer.verdict) {
            if let Verdict::Forward {
                holds: Some((lease, _)),
                ..
            } = verdict
            {
                assert!(seen.insert(lease));
            }
        }
    }
    assert_eq!(seen.len(), 150);
}
