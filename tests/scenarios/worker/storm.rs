//! Thousands of requests that fall due together: each event settles a bounded number of them, in order, and the rounds of
//! Envoy's event loop that follow settle the rest.

use super::rig::{CURRENT, Id, Rig};
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::Reason;
use slotgate::worker::SETTLED_PER_ROUND;
use slotgate::worker::counters::Counter;

const CROWD: usize = 5_000;
/// No event may do more than this many requests' work, whatever falls due in it.
const MOST_IN_ONE_EVENT: usize = 1_024;

/// A worker whose acquires wait for a long time, unless the change says otherwise.
fn rig(change: impl FnOnce(&mut serde_json::Value)) -> Rig {
    Rig::ready(|json| {
        json["redis"] = serde_json::json!({"acquire_timeout_ms": 10_000, "command_timeout_ms": 60_000, "max_pending": 100_000});
        change(json);
    })
}

/// So many requests of one moment whose acquires are on their way.
fn crowd(rig: &mut Rig) -> Vec<u32> {
    rig.worker.output().waited_us.clear();
    let streams = (0..CROWD)
        .map(|_| rig.request_among_others(&[]).0.stream)
        .collect();
    rig.worker.flush(rig.now_ms);
    streams
}

/// How many requests have their outcome, handed out or not.
fn decided(rig: &mut Rig) -> usize {
    rig.worker.output().waited_us.len()
}

/// What the host does in each round of its event loop, until nothing is left; each round's streams.
fn rounds(rig: &mut Rig) -> Vec<Vec<u32>> {
    let mut rounds = Vec::new();
    loop {
        let answers = rig.answers();
        rounds.push(answers.into_iter().map(|(stream, _)| stream).collect());
        if !rig.worker.wants_flush() {
            return rounds;
        }
        rig.worker.flush(rig.now_ms);
        rig.commands();
        rig.worker.wire().order = None;
        if rig
            .worker
            .next_wake_ms()
            .is_some_and(|wake_ms| wake_ms <= rig.now_ms)
        {
            rig.worker.on_tick(rig.now_ms);
        }
    }
}

/// Everyone was told once, in order, at most so many in a round, and no round was wasted.
#[track_caller]
fn assert_settled(rig: &mut Rig, streams: &[u32]) {
    let rounds = rounds(rig);
    assert!(rounds.iter().all(|round| round.len() <= SETTLED_PER_ROUND));
    let full = rounds
        .iter()
        .filter(|round| round.len() == SETTLED_PER_ROUND);
    assert_eq!(full.count(), CROWD / SETTLED_PER_ROUND);
    assert!(
        rounds.len() <= CROWD / SETTLED_PER_ROUND + 2,
        "{} rounds",
        rounds.len()
    );
    assert_eq!(rounds.concat(), streams);
}

#[test]
fn deadlines_that_are_over_together() {
    let mut rig = rig(|_| {});
    let streams = crowd(&mut rig);
    rig.now_ms += 10_000;
    rig.worker.on_tick(rig.now_ms);
    let decided = decided(&mut rig);
    assert!((1..=MOST_IN_ONE_EVENT).contains(&decided), "{decided}");
    assert_settled(&mut rig, &streams);
}

#[test]
fn a_pipe_that_is_lost_with_acquires_under_way() {
    for action in ["traditional", "reject"] {
        let mut rig = rig(|json| json["failure"] = serde_json::json!({"action": action}));
        let streams = crowd(&mut rig);
        rig.worker.on_pipe_closed(rig.now_ms);
        assert_eq!(decided(&mut rig), MOST_IN_ONE_EVENT);
        assert_settled(&mut rig, &streams);
        let told = rig.count(Counter::Traditional(Reason::PipeLost))
            + rig.count(Counter::Rejected(Reason::PipeLost));
        assert_eq!(told, CROWD as u64);
    }
}

#[test]
fn a_pipe_that_does_not_open_for_those_who_wait() {
    let mut rig = Rig::new(|json| {
        json["redis"] = serde_json::json!({"acquire_timeout_ms": 10_000, "max_pending": 100_000});
    });
    let streams: Vec<_> = (0..CROWD)
        .map(|_| rig.request_among_others(&[]).0.stream)
        .collect();
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_unopened(rig.now_ms);
    assert_eq!(decided(&mut rig), MOST_IN_ONE_EVENT);
    assert_settled(&mut rig, &streams);
}

#[test]
fn replies_that_come_together() {
    for answer in [":1000\r\n", "$1\r\na\r\n"] {
        let mut rig =
            rig(|json| json["pools"][0]["accounts"][0]["max_concurrency"] = 100_000.into());
        let streams = crowd(&mut rig);
        let replies: Vec<_> = rig
            .commands()
            .iter()
            .map(|command| command.arguments().len() - 5)
            .map(|leases| format!("*{}\r\n$1\r\n9\r\n{}", leases + 1, answer.repeat(leases)))
            .collect();
        rig.reply(&replies.concat());
        assert_settled(&mut rig, &streams);
    }
}

#[test]
fn replies_that_are_errors_and_open_the_breaker() {
    let mut rig = rig(|json| json["redis"]["breaker"] = serde_json::json!({"failures": 1}));
    let streams = crowd(&mut rig);
    let commands = rig.commands().len();
    rig.reply(&"-OOM command not allowed\r\n".repeat(commands));
    assert_eq!(rig.count(Counter::BreakerOpened), 1);
    assert_settled(&mut rig, &streams);
}

/// Releases that could not be sent while the pipe was away go in portions too, each of them.
#[test]
fn releases_that_waited_for_the_pipe() {
    let mut rig = rig(|json| json["pools"][0]["accounts"][0]["max_concurrency"] = 100_000.into());
    let streams = crowd(&mut rig);
    rig.worker.on_pipe_closed(rig.now_ms);
    let _ = rounds(&mut rig);
    rig.open();
    rig.reply(CURRENT);
    let mut released = std::collections::HashSet::new();
    loop {
        let commands = rig.commands();
        let releases = commands.iter().filter(|command| command.is_release());
        let leases: Vec<_> = releases
            .flat_map(|command| command.arguments().to_vec())
            .collect();
        assert!(leases.len() <= MOST_IN_ONE_EVENT, "{}", leases.len());
        released.extend(leases);
        if released.len() == streams.len() {
            break;
        }
        let wake_ms = rig.worker.next_wake_ms().expect("releases are due");
        assert!(wake_ms <= rig.now_ms, "the rest is due at once");
        rig.worker.on_tick(rig.now_ms);
    }
}

/// A verdict that waits for its round is nobody's when its client leaves first; the slot is free at once.
#[test]
fn clients_that_leave_before_their_round() {
    let mut rig = rig(|json| json["pools"][0]["accounts"][0]["max_concurrency"] = 100_000.into());
    let first = rig.request_among_others(&[]).0;
    let mut ids = vec![first];
    ids.extend((1..200).map(|_| rig.request_among_others(&[]).0));
    rig.worker.flush(rig.now_ms);
    for command in rig.commands() {
        let leases = command.arguments().len() - 5;
        rig.reply(&format!(
            "*{}\r\n$1\r\n9\r\n{}",
            leases + 1,
            "$1\r\na\r\n".repeat(leases)
        ));
    }
    let told = rig.answers();
    assert_eq!(told.len(), SETTLED_PER_ROUND);
    for id in &ids[SETTLED_PER_ROUND..] {
        rig.worker.on_end(rig.now_ms, *id);
    }
    rig.worker.flush(rig.now_ms);
    assert_eq!(rig.answers(), []);
    let released: usize = rig
        .commands_soon()
        .iter()
        .map(|command| command.arguments().len())
        .sum();
    assert_eq!(released, 200 - SETTLED_PER_ROUND);
}

/// A configuration that ends has not ended while anyone waits for a verdict.
#[test]
fn a_configuration_that_ends_settles_everyone() {
    let mut rig = rig(|json| json["saturated"] = serde_json::json!({"action": "reject"}));
    let streams = crowd(&mut rig);
    for command in rig.commands() {
        let leases = command.arguments().len() - 5;
        rig.reply(&format!(
            "*{}\r\n$1\r\n9\r\n{}",
            leases + 1,
            ":1000\r\n".repeat(leases)
        ));
    }
    let mut told = 0;
    while told < streams.len() {
        assert!(!rig.worker.is_idle(), "{told}");
        let answers = rig.answers();
        told += answers.len();
        for (stream, _) in answers {
            // The slab's first slot is free when the crowd comes, so that slots and streams go up together.
            let slot = stream as usize - streams[0] as usize;
            rig.worker.on_end(rig.now_ms, Id { slot, stream });
        }
        rig.worker.flush(rig.now_ms);
    }
    assert!(rig.worker.is_idle());
}
