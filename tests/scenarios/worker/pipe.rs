//! The connection: opened when first needed, ready when the scripts answer, given up when it is stuck or says what was not asked,
//! and opened again with a backoff.

use super::greeting;
use super::rig::{CURRENT, Rig, SHA, granted, passed_on};
use slotgate::ledger::fault::Fault;
use slotgate::ledger::source::Script;
use slotgate::pipe::down::{Down, PipeOrder};
use slotgate::request::admission::Reason;
use slotgate::request::verdict::Verdict;
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;

#[test]
fn opened_on_first_need_greeted_then_served() {
    let mut rig = Rig::new(|json| {
        json["redis"] =
            serde_json::json!({"username": "u", "password_env": "TOKEN", "database": 3});
    });
    assert_eq!(rig.worker.next_wake_ms(), None, "idle: no tick, no pipe");
    let (_, verdict) = rig.request(&[]);
    assert_eq!(verdict, None, "the first request waits for the pipe");
    assert_eq!(rig.worker.next_wake_ms(), Some(rig.now_ms), "at once");
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_open(rig.now_ms);
    let greetings = rig.commands();
    let first: Vec<_> = greetings
        .iter()
        .map(|command| command.0[..2].join(" "))
        .collect();
    assert_eq!(first, ["AUTH u", "SELECT 3", "CLIENT SETNAME"]);
    assert_eq!(greetings[0].0[2], "t0k");
    rig.reply("+OK\r\n+OK\r\n");
    assert!(
        rig.commands().is_empty(),
        "no script before it is known who we are"
    );
    // Whoever stands in between may not know CLIENT SETNAME.
    rig.reply("-ERR unknown command\r\n");
    let loads = rig.commands();
    assert_eq!(loads.len(), Script::FILTER.len());
    for load in loads {
        assert_eq!(load.0[..2], ["SCRIPT", "LOAD"]);
        rig.reply(SHA);
    }
    let sent = rig.commands();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(
        sent[0].arguments()[0],
        "1",
        "asks whether revision 1 is wanted"
    );
    assert_eq!(rig.count(Counter::PipeReady), 0);
    rig.reply(CURRENT);
    let sent = rig.commands();
    assert!(sent.len() == 1 && sent[0].is_acquire(), "{sent:?}");
    assert_eq!(rig.count(Counter::PipeReady), 1);
}

/// A pipe is ready when the scripts answer, not when it is open: a replica takes the greeting too.
#[test]
fn a_server_that_takes_no_script_is_said_once_and_left_alone() {
    for (reply, down) in [
        (
            "-READONLY You can't write against a read only replica.\r\n",
            Down::WrongServer(Fault::ReadOnly),
        ),
        ("+PONG\r\n", Down::Mismatch),
    ] {
        let mut rig = Rig::new(|_| {});
        rig.request(&[]);
        let began_ms = rig.now_ms;
        for attempt in 0..10 {
            rig.open();
            rig.commands();
            rig.reply(reply);
            assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
            rig.worker.wire().order = None;
            let said: Vec<_> = rig.notices().iter().map(greeting::down).collect();
            assert_eq!(said, [down][..usize::from(attempt == 0)], "{attempt}");
            assert_eq!(rig.request(&[]).1, passed_on(Reason::PipeDown));
        }
        assert!(rig.now_ms - began_ms > 3_000, "opened again and again");
        assert_eq!(rig.count(Counter::PipeReady), 0);
        rig.reopen();
        assert_eq!(rig.notices(), [Notice::PipeReady]);
    }
}

/// The same for one that denies only a later command: a pipe counts as recovered once it has lasted.
#[test]
fn a_pipe_that_breaks_as_soon_as_it_serves_backs_off() {
    let mut rig = Rig::ready(|_| {});
    let denied = |rig: &mut Rig, reply: &str| {
        let (id, _) = rig.request(&[]);
        rig.reply(reply);
        assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
        rig.worker.wire().order = None;
        rig.worker.on_end(rig.now_ms, id);
        let broke_ms = rig.now_ms;
        rig.reopen();
        rig.commands();
        rig.now_ms - broke_ms
    };
    let noperm = "-NOPERM this user has no permissions to run the 'zadd' command\r\n";
    let waits: Vec<_> = (0..8).map(|_| denied(&mut rig, noperm)).collect();
    assert!(waits[0] <= 50, "{waits:?}");
    assert!(waits[6..].iter().all(|wait| *wait >= 500), "{waits:?}");
    rig.wait(5_000);
    let readonly = "-READONLY You can't write against a read only replica.\r\n";
    assert!(
        denied(&mut rig, readonly) <= 50,
        "a failover is no flapping"
    );
}

#[test]
fn replies_cut_at_every_byte() {
    let mut rig = Rig::ready(|_| {});
    let (_, first) = rig.acquiring();
    let (_, second) = rig.acquiring();
    for byte in (granted("a") + &granted("b")).bytes() {
        rig.worker.on_pipe_bytes(rig.now_ms, &[byte]);
    }
    let held: Vec<String> = rig
        .answers()
        .iter()
        .map(|(_, verdict)| match verdict {
            Verdict::Forward {
                holds: Some((lease, _)),
                ..
            } => lease.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(held, [first, second]);
}

#[test]
fn what_was_not_asked_for_resets_the_pipe() {
    for reply in [
        "+OK\r\n",
        ":1\r\n",
        "$-1\r\n",
        "*1\r\n$7\r\ngranted\r\n",
        "*2\r\n$4\r\nmaybe\r\n:1\r\n",
        "garbage\r\n",
    ] {
        let mut rig = Rig::ready(|_| {});
        let (first, lease) = rig.acquiring();
        let (second, other) = rig.acquiring();
        rig.reply(reply);
        let lost = passed_on(Reason::PipeLost).unwrap();
        assert_eq!(
            rig.answers(),
            [(first.stream, lost), (second.stream, lost)],
            "{reply:?}"
        );
        assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
        assert_eq!(rig.count(Counter::PipeLost(Down::Mismatch)), 1);
        assert_eq!(rig.notices(), [Notice::PipeDown(Down::Mismatch)]);
        assert!(rig.commands().is_empty(), "nothing for a pipe that is gone");
        rig.reopen();
        let sent = rig.commands();
        for lease in [lease, other] {
            assert!(
                sent.iter().any(|command| command.is_release_of(&lease)),
                "in doubt: {sent:?}"
            );
        }
        assert_eq!(rig.notices(), [Notice::PipeReady]);
    }
}

#[test]
fn a_reply_to_nothing_resets_the_pipe() {
    let mut rig = Rig::ready(|_| {});
    rig.reply(":1\r\n");
    assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
}

#[test]
fn the_pipe_breaks_while_serving() {
    let mut rig = Rig::ready(|_| {});
    let (holder, held) = rig.holding();
    let (waiter, lease) = rig.acquiring();
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(
        rig.answers(),
        [(waiter.stream, passed_on(Reason::PipeLost).unwrap())]
    );
    // A new request waits for the pipe, which opens again within the first backoff.
    let (next, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    rig.worker.on_end(rig.now_ms, holder);
    assert!(rig.commands().is_empty());
    let broke_ms = rig.now_ms;
    rig.reopen();
    assert!(rig.now_ms - broke_ms <= 25, "{}", rig.now_ms - broke_ms);
    let sent = rig.commands();
    assert!(
        sent[1].is_release_of(&lease) && sent[1].is_release_of(&held),
        "{sent:?}"
    );
    assert!(sent[2].is_acquire());
    rig.reply(":2\r\n");
    rig.reply(&granted("a"));
    assert_eq!(rig.answers().len(), 1);
    assert!(rig.worker.path(next).is_some());
    assert!(
        rig.notices().is_empty(),
        "a pipe that comes right back is nobody's business"
    );
}

#[test]
fn a_pipe_that_cannot_be_opened() {
    let mut rig = Rig::new(|_| {});
    let (first, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    let mut waits = Vec::new();
    for attempt in 0..9 {
        let began_ms = rig.now_ms;
        rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
        rig.worker.wire().order = None;
        waits.push(rig.now_ms - began_ms);
        if attempt % 2 == 0 {
            rig.worker.on_pipe_open(rig.now_ms);
        }
        rig.worker.on_pipe_closed(rig.now_ms);
        if attempt == 0 {
            assert_eq!(
                rig.answers(),
                [(first.stream, passed_on(Reason::PipeDown).unwrap())],
                "took nothing, needs nothing"
            );
        }
        let (_, verdict) = rig.request(&[]);
        assert_eq!(verdict, passed_on(Reason::PipeDown), "at once");
    }
    assert_eq!(waits[0], 0);
    assert!((25..=50).contains(&waits[1]), "{waits:?}");
    assert!((50..=100).contains(&waits[2]), "{waits:?}");
    assert!(
        waits[7..].iter().all(|wait| (500..=1000).contains(wait)),
        "{waits:?}"
    );
    assert_eq!(
        rig.notices(),
        [super::greeting::never_served(Down::Closed)],
        "said once"
    );
    rig.worker.wire().bytes.clear();
    rig.reopen();
    assert_eq!(rig.notices(), [Notice::PipeReady]);
    assert_eq!(rig.request(&[]).1, None);
}

/// Envoy was stopped, or so busy that its own clock ran ahead of what it had read.
#[test]
fn a_worker_that_stood_still_reads_before_it_gives_the_pipe_up() {
    let mut rig = Rig::ready(|_| {});
    rig.acquiring();
    rig.now_ms += 5_000;
    rig.worker.on_tick(rig.now_ms);
    assert_eq!(rig.worker.wire().order, None);
    rig.reply(&granted("a"));
    rig.wait(1);
    assert_eq!(rig.worker.wire().order, None);
    assert_eq!(rig.count(Counter::LateGrant), 1);
    assert_eq!(rig.count(Counter::PipeLost(Down::Stuck)), 0);
}

#[test]
fn a_stuck_head_resets_the_pipe() {
    let mut rig = Rig::ready(|_| {});
    let (_, lease) = rig.acquiring();
    // Replies may lie unread for a few rounds of the event loop.
    rig.wait(1_049);
    assert_eq!(rig.worker.wire().order, None);
    rig.wait(1);
    assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
    assert_eq!(rig.notices(), [Notice::PipeDown(Down::Stuck)]);
    rig.worker.wire().order = None;
    rig.reopen();
    assert!(
        rig.commands()
            .iter()
            .any(|command| command.is_release_of(&lease))
    );
}

#[test]
fn a_stuck_opening_fails_fast() {
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_open(rig.now_ms);
    rig.wait(50);
    assert_eq!(rig.answers().len(), 1, "timed out");
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Reset));
    assert_eq!(rig.request(&[]).1, passed_on(Reason::PipeDown));
}

#[test]
fn a_pipe_that_closes_as_soon_as_it_serves_backs_off_and_forgets_nothing() {
    let mut rig = Rig::ready(|_| {});
    let holders: Vec<_> = (0..20).map(|_| rig.holding()).collect();
    for (id, _) in &holders {
        rig.worker.on_end(rig.now_ms, *id);
    }
    let began_ms = rig.now_ms;
    let mut reopened = 0;
    while rig.now_ms - began_ms < 10_000 {
        rig.worker.on_pipe_closed(rig.now_ms);
        rig.open();
        rig.reply(CURRENT);
        let sent = rig.commands().len();
        assert!(sent <= 42, "each release once or twice: {sent}");
        reopened += 1;
    }
    assert!(reopened < 30, "{reopened} times in 10 s");
    assert_eq!(rig.count(Counter::Dropped), 0);
}
