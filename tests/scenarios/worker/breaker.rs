//! What opens the breaker, what does not, and what closes it.

use super::rig::{GARBAGE, REPLACED, Rig, Sent, granted, passed_on, two_pools};
use slotgate::ledger::fault::Fault;
use slotgate::request::admission::Reason;
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;

/// A request whose acquire goes unanswered until its deadline.
fn times_out(rig: &mut Rig) {
    let (id, lease) = rig.acquiring();
    rig.wait(50);
    let verdict = passed_on(Reason::TimedOut).unwrap();
    assert_eq!(rig.answers(), [(id.stream, verdict)]);
    assert!(rig.commands().contains(&Sent::release(&lease)));
}

/// The breaker after three failures, for about a second.
fn breaker(json: &mut serde_json::Value) {
    json["redis"] = serde_json::json!({"breaker": {"failures": 3, "open_ms": 1_000}, "command_timeout_ms": 60_000});
}

#[test]
fn the_breaker_opens_and_a_probe_that_is_answered_closes_it() {
    let mut rig = Rig::ready(breaker);
    for _ in 0..2 {
        times_out(&mut rig);
        assert!(rig.notices().is_empty());
    }
    times_out(&mut rig);
    let opened = Notice::BreakerOpened(Reason::TimedOut, None);
    assert!(opened.is_warning() && opened.to_string().contains("(timed_out)"));
    assert_eq!(rig.notices(), [opened]);
    assert_eq!(
        rig.request(&[]).1,
        passed_on(Reason::BreakerOpen),
        "at once"
    );
    rig.wait(499);
    rig.commands();
    assert_eq!(rig.request(&[]).1, passed_on(Reason::BreakerOpen));
    // The probe fails too, and is the only one.
    rig.wait(501);
    rig.commands();
    let (probe, _) = rig.acquiring();
    assert_eq!(rig.request(&[]).1, passed_on(Reason::BreakerOpen));
    rig.wait(50);
    assert_eq!(rig.answers().len(), 1, "{probe:?}");
    rig.wait(449);
    assert_eq!(rig.request(&[]).1, passed_on(Reason::BreakerOpen));
    assert!(rig.notices().is_empty(), "said once");
    rig.wait(501);
    rig.commands();
    let (probe, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    // Everything unanswered so far comes late, and proves nothing; the probe's own reply does.
    while rig.worker.path(probe).is_none() {
        assert_eq!(rig.count(Counter::BreakerClosed), 0);
        rig.reply_next();
    }
    assert_eq!(rig.notices(), [Notice::BreakerClosed]);
    assert_eq!(
        (
            rig.count(Counter::BreakerOpened),
            rig.count(Counter::BreakerClosed)
        ),
        (1, 1)
    );
    assert_eq!(rig.request(&[]).1, None, "open to all");
}

#[test]
fn a_hiccup_that_fails_many_at_once_is_one_failure() {
    let mut rig = Rig::ready(breaker);
    let many: Vec<_> = (0..30).map(|_| rig.acquiring()).collect();
    rig.wait(50);
    assert_eq!(rig.answers().len(), many.len());
    assert!(rig.notices().is_empty());
    assert_eq!(rig.request(&[]).1, None, "still closed");
}

#[test]
fn an_answer_in_time_starts_the_breakers_count_again() {
    let mut rig = Rig::ready(breaker);
    for _ in 0..4 {
        for _ in 0..2 {
            times_out(&mut rig);
        }
        let (id, _) = rig.request(&[]);
        while rig.worker.path(id).is_none() {
            rig.reply_next();
        }
        rig.answers();
    }
    assert!(rig.notices().is_empty());
}

#[test]
fn error_replies_open_the_breaker_and_a_pipe_that_serves_again_closes_it() {
    let mut rig = Rig::ready(breaker);
    for _ in 0..3 {
        rig.acquiring();
        rig.reply("-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        rig.answers();
        rig.now_ms += 50;
    }
    let opened = Notice::BreakerOpened(Reason::Refused, Some(Fault::OutOfMemory));
    assert_eq!(rig.notices(), [opened]);
    assert_eq!(rig.count(Counter::RedisError(Fault::OutOfMemory)), 3);
    assert_eq!(rig.request(&[]).1, passed_on(Reason::BreakerOpen));
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.reopen();
    assert_eq!(rig.notices(), [Notice::BreakerClosed]);
}

#[test]
fn acquires_that_wait_for_the_pipe_do_not_open_the_breaker() {
    let mut rig = Rig::new(breaker);
    for _ in 0..4 {
        let (id, verdict) = rig.request(&[]);
        assert_eq!(verdict, None);
        rig.wait(0);
        rig.worker.wire().order = None; // ordered, and slow to come
        rig.wait(50);
        assert_eq!(
            rig.answers(),
            [(id.stream, passed_on(Reason::TimedOut).unwrap())]
        );
    }
    assert!(rig.notices().is_empty());
}

/// So many failures in another pool would open the breaker for all.
#[test]
fn the_breaker_is_not_opened_by_one_pools_garbage() {
    for error in [GARBAGE, "-NOPOOL no accounts are synced for this pool\r\n"] {
        let mut rig = two_pools();
        for _ in 0..50 {
            rig.request(&[("x-warm", "1")]);
            for _ in 0..100 {
                let commands = rig.commands();
                let none = commands.is_empty();
                for command in commands {
                    let sync = command.arguments().iter().any(|word| word == "@");
                    rig.reply(if sync { REPLACED } else { error });
                }
                if none {
                    break;
                }
            }
            rig.answers();
        }
        assert_eq!(rig.count(Counter::BreakerOpened), 0, "{error}");
        let (id, verdict) = rig.request(&[]);
        assert_eq!(verdict, None);
        rig.reply(&granted("a"));
        assert!(rig.answers().iter().any(|(stream, _)| *stream == id.stream));
    }
}
