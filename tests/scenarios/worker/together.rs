//! Requests that come together, and what one command answers for all of them.

use super::rig::{CURRENT, Id, NOPOOL, Rig, Sent, granted, passed_on};
use slotgate::ledger::fault::Fault;
use slotgate::pipe::down::Down;
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::Path;
use slotgate::request::admission::Reason;
use slotgate::worker::counters::Counter;

/// So many requests of one moment, then what they ask.
fn together(rig: &mut Rig, requests: usize) -> (Vec<Id>, Vec<Sent>) {
    let ids = (0..requests)
        .map(|_| {
            let (id, verdict) = rig.request_among_others(&[]);
            assert_eq!(verdict, None);
            id
        })
        .collect();
    assert!(rig.commands().is_empty(), "not before all have been told");
    assert!(rig.worker.wants_flush());
    rig.worker.flush(rig.now_ms);
    let sent = rig.commands();
    assert!(!rig.worker.wants_flush());
    (ids, sent)
}

/// A reply to an acquire, an answer for each lease.
fn reply(answers: &[&str]) -> String {
    let words = answers.iter().map(|answer| match answer.parse::<u64>() {
        Ok(wait_ms) => format!(":{wait_ms}\r\n"),
        Err(_) if answer.is_empty() => "$-1\r\n".into(),
        Err(_) => format!("${}\r\n{answer}\r\n", answer.len()),
    });
    let words: String = words.collect();
    format!("*{}\r\n$1\r\n9\r\n{words}", answers.len() + 1)
}

fn leases(sent: &Sent) -> &[String] {
    let arguments = &sent.arguments()[5..];
    // With sessions, one number and as many tags follow.
    match sent.arguments()[4].as_str() {
        "0" => arguments,
        _ => &arguments[..arguments.len() / 2],
    }
}

/// Account of each stream that was answered.
fn accounts(rig: &mut Rig) -> Vec<(u32, Option<u32>)> {
    let answers = rig.answers().into_iter();
    answers
        .map(|(stream, verdict)| (stream, verdict.holds().map(|(_, account)| account)))
        .collect()
}

#[test]
fn one_command_for_all_and_an_answer_for_each() {
    let mut rig = Rig::ready(|_| {});
    let (before, lease) = rig.holding();
    rig.worker.on_end(rig.now_ms, before);
    let (ids, sent) = together(&mut rig, 4);
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!(sent[0], Sent::release(&lease), "ahead of them");
    assert_eq!(leases(&sent[1]).len(), 4);
    assert!(leases(&sent[1]).is_sorted(), "in order");
    rig.reply(":1\r\n");
    rig.reply(&reply(&["b", "1500", "a:probe", "zz"]));
    let streams: Vec<_> = ids.iter().map(|id| id.stream).collect();
    assert_eq!(
        accounts(&mut rig),
        [
            (streams[0], Some(1)),
            (streams[1], None),
            (streams[2], Some(0)),
            (streams[3], None)
        ]
    );
    assert_eq!(rig.count(Counter::Probe), 1);
    assert_eq!(rig.count(Counter::Rejected(Reason::Saturated)), 1);
    assert_eq!(
        rig.count(Counter::Traditional(Reason::UnknownAccount)),
        1,
        "zz"
    );
    let held = [&leases(&sent[1])[0], &leases(&sent[1])[2]];
    let released = rig.commands_soon();
    assert_eq!(released[0].part(), "stray");
    assert_eq!(released[1..], [Sent::release(&leases(&sent[1])[3])], "zz's");
    for at in [0, 2] {
        rig.worker.on_end(rig.now_ms, ids[at]);
    }
    let released = rig.commands_soon();
    assert_eq!(released[0].arguments(), held.map(String::as_str));
}

#[test]
fn no_command_is_longer_than_redis_may_stand_still() {
    let mut rig = Rig::ready(|_| {});
    let (_, sent) = together(&mut rig, 70);
    let lengths: Vec<_> = sent.iter().map(|one| leases(one).len()).collect();
    assert_eq!(lengths, [32, 32, 6]);
}

#[test]
fn only_what_is_alike_stands_in_one_command() {
    let mut rig = Rig::new(|json| {
        json["affinity"] = serde_json::json!({"ttl_ms": 60000});
        json["cooldown"] = serde_json::json!({"scope": {"header": "x-model"}});
        json["pools"] = serde_json::json!([
            {"name": "p", "match": [{"header": "x-pool", "exact": "p"}], "accounts": [{"id": "a", "max_concurrency": 9}]},
            json["pools"][0],
        ]);
        json["pools"][1]["name"] = "q".into();
    });
    rig.request(&[]);
    rig.reopen();
    rig.reply(CURRENT);
    rig.commands();
    let (session, model, pool) = (("x-session-id", "s"), ("x-model", "m"), ("x-pool", "p"));
    for headers in [
        &[][..],
        &[session],
        &[model],
        &[session, model],
        &[pool],
        &[session],
        &[],
    ] {
        assert_eq!(rig.request_among_others(headers).1, None);
    }
    rig.worker.flush(rig.now_ms);
    let sent = rig.commands();
    let mut shapes: Vec<_> = sent
        .iter()
        .map(|one| {
            (
                one.0[2].clone(),
                leases(one).len(),
                one.arguments()[4].clone(),
            )
        })
        .collect();
    shapes.sort();
    let shape = |keys: &str, leases, ttl_ms: &str| (keys.to_owned(), leases, ttl_ms.to_owned());
    assert_eq!(
        shapes,
        [
            shape("10", 1, "60000"),
            shape("10", 2, "60000"),
            shape("8", 1, "0"),
            shape("8", 2, "0"),
            shape("9", 1, "0"),
        ]
    );
}

#[test]
fn who_leaves_before_it_is_asked_for_took_nothing() {
    let mut rig = Rig::ready(|_| {});
    let (left, _) = rig.request_among_others(&[]);
    let (stays, _) = rig.request_among_others(&[]);
    rig.worker.on_end(rig.now_ms, left);
    rig.worker.flush(rig.now_ms);
    let sent = rig.commands();
    assert_eq!((sent.len(), leases(&sent[0]).len()), (1, 1));
    rig.reply(&granted("a"));
    assert_eq!(accounts(&mut rig), [(stays.stream, Some(0))]);
    assert!(rig.commands_soon().is_empty(), "and has no release");
    let (alone, _) = rig.request_among_others(&[]);
    rig.worker.on_end(rig.now_ms, alone);
    rig.worker.flush(rig.now_ms);
    assert!(rig.commands_soon().is_empty());
}

/// The event loop stood still.
#[test]
fn what_never_left_says_nothing_of_redis() {
    let mut rig = Rig::ready(|json| {
        json["redis"] = serde_json::json!({"breaker": {"failures": 1}});
    });
    rig.request_among_others(&[]);
    rig.now_ms += 60;
    rig.worker.on_tick(rig.now_ms);
    assert_eq!(rig.count(Counter::Traditional(Reason::TimedOut)), 1);
    assert_eq!(rig.count(Counter::InDoubt), 0);
    assert_eq!(rig.request(&[]).1, None, "the breaker is closed");
    assert_eq!(leases(&rig.commands()[0]).len(), 1, "only this one's");
}

#[test]
fn who_leaves_before_the_answer_is_released_alone() {
    let mut rig = Rig::ready(|_| {});
    let (ids, sent) = together(&mut rig, 3);
    rig.worker.on_end(rig.now_ms, ids[1]);
    let gone = leases(&sent[0])[1].clone();
    assert_eq!(rig.commands_soon(), [Sent::release(&gone)]);
    rig.reply(&reply(&["a", "a", "b"]));
    rig.reply(":1\r\n");
    assert_eq!(
        accounts(&mut rig),
        [(ids[0].stream, Some(0)), (ids[2].stream, Some(1))]
    );
    assert_eq!(rig.count(Counter::LateGrant), 1);
}

#[test]
fn a_script_that_redis_lacks_is_sent_again_for_those_that_still_wait() {
    for error in ["-NOSCRIPT No matching script.\r\n", NOPOOL] {
        let mut rig = Rig::ready(|_| {});
        let (ids, sent) = together(&mut rig, 3);
        rig.worker.on_end(rig.now_ms, ids[0]);
        rig.commands_soon();
        rig.reply(error);
        let again = rig.commands().pop().unwrap();
        assert!(again.is_acquire());
        assert_eq!(leases(&again), &leases(&sent[0])[1..]);
        assert!(rig.answers().is_empty());
    }
}

#[test]
fn an_error_is_everyones() {
    let mut rig = Rig::ready(|json| {
        json["redis"] = serde_json::json!({"breaker": {"failures": 2}});
    });
    let (_, sent) = together(&mut rig, 3);
    rig.reply("-ERR of some kind\r\n");
    assert_eq!(accounts(&mut rig).len(), 3);
    assert_eq!(rig.count(Counter::Traditional(Reason::Refused)), 3);
    assert_eq!(rig.count(Counter::RedisError(Fault::Unknown)), 1);
    let released = rig.commands_soon();
    assert_eq!(released[0].arguments(), leases(&sent[0]), "all in doubt");
    assert_eq!(rig.request(&[]).1, None, "for the breaker one failure");
}

#[test]
fn a_reply_of_another_length_belongs_to_another_command() {
    for answers in [&["a"][..], &["a", "a", "b"], &["a", "-"], &[]] {
        let mut rig = Rig::ready(|_| {});
        let (_, sent) = together(&mut rig, 2);
        let answer = reply(answers).replace("$1\r\n-", "+-");
        rig.reply(&answer);
        assert_eq!(
            rig.count(Counter::PipeLost(Down::Mismatch)),
            1,
            "{answers:?}"
        );
        assert_eq!(rig.count(Counter::Traditional(Reason::PipeLost)), 2);
        rig.until(|worker| worker.wire().order == Some(PipeOrder::Reset));
        rig.worker.wire().order = None;
        rig.reopen();
        rig.wait(2);
        let released = rig.commands();
        let all: Vec<_> = released.iter().flat_map(|one| one.0.clone()).collect();
        for lease in leases(&sent[0]) {
            assert!(all.contains(lease), "{lease} of {all:?}");
        }
    }
}

#[test]
fn what_waits_is_bounded_by_leases() {
    let mut rig = Rig::ready(|json| json["redis"] = serde_json::json!({"max_pending": 16}));
    for _ in 0..16 {
        assert_eq!(rig.request_among_others(&[]).1, None);
    }
    assert_eq!(
        rig.request_among_others(&[]).1,
        passed_on(Reason::QueueFull)
    );
    rig.worker.flush(rig.now_ms);
    assert_eq!(rig.commands().len(), 1);
    assert_eq!(rig.worker.gauges().0[3], 16);
    assert_eq!(rig.request(&[]).1, passed_on(Reason::QueueFull));
    rig.reply(&reply(&["a"; 16]));
    assert_eq!(rig.worker.gauges().0[3], 0);
    assert_eq!(rig.request(&[]).1, None);
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(rig.worker.gauges().0[3], 0);
}

#[test]
fn a_lease_that_is_recorded_may_name_an_account_that_is_gone() {
    let mut rig = Rig::ready(|json| {
        json["gray"]["percent"] = 100.into();
        json["traditional"] = serde_json::json!({"mode": "local"});
        json["gray"]["mode"] = "enforce".into();
        json["redis"] = serde_json::json!({"breaker": {"failures": 1}});
    });
    let (_, sent) = together(&mut rig, 2);
    assert_eq!(leases(&sent[0]).len(), 2);
    rig.reply(&reply(&["", "b"]));
    let answers = rig.answers();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0].1.path(), Some(Path::Local), "chosen here");
    assert_eq!(answers[1].1.path(), Some(Path::Atomic));
    rig.worker.flush(rig.now_ms);
    let recorded = rig.commands();
    assert_eq!(recorded[0].arguments()[3], "force");
    rig.reply(&reply(&[""]));
    assert_eq!(rig.count(Counter::RedisError(Fault::NoAccount)), 2);
    assert_eq!(rig.request(&[]).1, None, "no reason to think Redis is down");
}
