//! An acquire and its answers: late ones, errors, scripts and accounts that one side does not know, and what waits in the queue.

use super::rig::{GARBAGE, Id, LUA, Rig, Sent, WRONGTYPE, granted, passed_on};
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::Reason;
use slotgate::worker::counters::Counter;

#[test]
fn late_replies_are_answered_by_a_release() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.acquiring();
    rig.wait(49);
    assert!(rig.answers().is_empty());
    rig.wait(1);
    assert_eq!(
        rig.answers(),
        [(id.stream, passed_on(Reason::TimedOut).unwrap())]
    );
    assert_eq!(
        rig.commands_soon(),
        [Sent::release(&lease)],
        "behind the acquire, on the same connection"
    );
    rig.reply(&granted("a"));
    assert!(rig.answers().is_empty());
    assert_eq!(rig.count(Counter::LateGrant), 1);
    rig.reply(":1\r\n");
    rig.wait(1000);
    assert_eq!(
        rig.commands_soon(),
        [Sent::release(&lease)],
        "and once more a second later"
    );
    rig.reply(":0\r\n");
    rig.worker.on_end(rig.now_ms, id);
    assert!(rig.worker.is_idle());
}

#[test]
fn error_replies() {
    // reply, whether the lease is in doubt, whether the pipe is dropped
    for (reply, in_doubt, dropped) in [
        (
            "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
            false,
            false,
        ),
        ("-BUSY Redis is busy running a script.\r\n", false, false),
        (
            "-MISCONF Redis is configured to save RDB snapshots\r\n",
            false,
            false,
        ),
        (
            "-ERR user_script:12: something script: 0123\r\n",
            true,
            false,
        ),
        (
            "-READONLY You can't write against a read only replica.\r\n",
            false,
            true,
        ),
        (
            "-LOADING Redis is loading the dataset in memory\r\n",
            false,
            true,
        ),
        ("-NOAUTH Authentication required.\r\n", false, true),
        ("-MOVED 1 127.0.0.1:7001\r\n", false, true),
    ] {
        let mut rig = Rig::ready(|_| {});
        let (id, lease) = rig.acquiring();
        rig.reply(reply);
        // What it reads is not there a second time, if it can be helped.
        if !rig.commands().is_empty() {
            rig.reply(reply);
        }
        assert_eq!(
            rig.answers(),
            [(id.stream, passed_on(Reason::Refused).unwrap())],
            "{reply}"
        );
        let released = rig
            .commands_soon()
            .iter()
            .any(|command| command.is_release_of(&lease));
        assert_eq!(released, in_doubt, "{reply}");
        assert_eq!(
            rig.worker.wire().order == Some(PipeOrder::Reset),
            dropped,
            "{reply}"
        );
    }
}

#[test]
fn an_account_unknown_here_is_given_back() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.acquiring();
    rig.reply(&granted("zz"));
    assert_eq!(
        rig.answers(),
        [(id.stream, passed_on(Reason::UnknownAccount).unwrap())]
    );
    let sent = rig.commands_soon();
    // These very accounts are in force, so it is nobody's.
    assert_eq!(
        (sent[0].part(), sent[0].listed()),
        ("stray", &["zz".to_owned()][..])
    );
    assert_eq!(sent[1..], [Sent::release(&lease)]);
}

#[test]
fn a_missing_script_is_sent_once() {
    let mut rig = Rig::ready(|_| {});
    let (_, lease) = rig.acquiring();
    rig.reply("-NOSCRIPT No matching script.\r\n");
    let again = rig.commands();
    assert_eq!(
        (again.len(), again[0].0[0].as_str(), again[0].lease()),
        (1, "EVAL", lease)
    );
    assert!(again[0].0[1].starts_with("#!lua\n"));
    rig.reply(&granted("a"));
    assert_eq!(rig.answers().len(), 1);
    // A request that left meanwhile is not acquired for again: its release has gone ahead.
    let (id, lease) = rig.acquiring();
    rig.worker.on_end(rig.now_ms, id);
    rig.reply("-NOSCRIPT No matching script.\r\n");
    let sent = rig.commands();
    assert!(
        sent.iter().all(|command| command.is_release_of(&lease)),
        "{sent:?}"
    );
}

#[test]
fn a_server_that_never_takes_the_script_is_not_asked_for_ever() {
    let mut rig = Rig::ready(|_| {});
    let (id, _) = rig.acquiring();
    for _ in 0..3 {
        rig.reply("-NOSCRIPT No matching script.\r\n");
    }
    assert_eq!(
        rig.answers(),
        [(id.stream, passed_on(Reason::Refused).unwrap())]
    );
}

#[test]
fn the_queue_is_bounded() {
    let mut rig = Rig::ready(|json| json["redis"] = serde_json::json!({"max_pending": 16}));
    for _ in 0..16 {
        assert_eq!(rig.request(&[]).1, None);
    }
    assert_eq!(rig.request(&[]).1, passed_on(Reason::QueueFull));
    rig.reply(&granted("a"));
    assert_eq!(rig.request(&[]).1, None);
}

/// What the first try met is taken out by the script itself.
#[test]
fn an_acquire_is_repeated_once_after_garbage() {
    for error in [GARBAGE, WRONGTYPE, LUA] {
        let mut rig = Rig::ready(|_| {});
        let ids: Vec<Id> = (0..3).map(|_| rig.request_among_others(&[]).0).collect();
        rig.worker.flush(rig.now_ms);
        let first = rig.commands();
        rig.worker.on_end(rig.now_ms, ids[0]);
        rig.reply(error);
        let second = rig.commands();
        assert_eq!(second.len(), 1, "{error}");
        assert_eq!(
            second[0].arguments()[5..],
            first[0].arguments()[6..],
            "who left is not asked for again"
        );
        assert!(rig.answers().is_empty());
        rig.reply("*3\r\n$1\r\n9\r\n$1\r\na\r\n$1\r\na\r\n");
        assert_eq!(rig.answers().len(), 2);
        assert_eq!(rig.count(Counter::Atomic), 3, "with the first of all");
        // Not for ever, whatever else was tried before.
        let mut rig = Rig::ready(|_| {});
        let (id, _) = rig.request(&[]);
        rig.commands();
        for error in ["-NOSCRIPT No matching script.\r\n", error] {
            rig.reply(error);
            assert!(rig.commands().iter().any(Sent::is_acquire), "{error}");
        }
        rig.reply(error);
        assert!(!rig.commands().iter().any(Sent::is_acquire));
        assert_eq!(
            rig.answers(),
            [(id.stream, passed_on(Reason::Refused).unwrap())]
        );
    }
}
