//! The console when many ask at once, as fast as they can, or without ever ending what they began.

use super::*;

/// A console with a ready pipe, which has just read nothing.
fn ready() -> Host {
    let mut console = console();
    status(&mut console, 0, 1);
    open(&mut console, 0);
    console.on_end(1);
    finish_look(&mut console, 0);
    assert_eq!(answers(&mut console).len(), 0);
    sent(&mut console);
    console
}

/// Redis knows neither pool.
fn finish_look(console: &mut Host, now_ms: u64) {
    for _ in 0..2 {
        console.on_pipe_bytes(now_ms, b"-NOPOOL none\r\n");
    }
}

/// All that is ready to go, by portions.
fn all(console: &mut Host) -> Vec<(u32, Response)> {
    let mut all = Vec::new();
    loop {
        let portion = answers(console);
        assert!(portion.len() <= 32);
        if portion.is_empty() {
            return all;
        }
        all.extend(portion);
    }
}

fn commands(console: &mut Host) -> usize {
    sent(console).matches("EVALSHA").count()
}

fn page_part(console: &mut Host, now_ms: u64, stream: u32) -> NextStep {
    ask(console, now_ms, stream, "GET", "/style.css", true)
}

fn explain(console: &mut Host, now_ms: u64, stream: u32) -> NextStep {
    assert_eq!(
        ask(console, now_ms, stream, "POST", "/api/explain", false),
        NextStep::Body
    );
    console.on_body(now_ms, stream, br#"{"pool": "p"}"#)
}

#[test]
fn one_look_serves_all_who_asked_before_it_began() {
    let mut console = ready();
    for stream in 1..=100 {
        assert_eq!(status(&mut console, 300, stream), NextStep::Wait);
    }
    // The first found nobody under way; the others share the next.
    assert_eq!(commands(&mut console), 1);
    finish_look(&mut console, 301);
    assert_eq!(all(&mut console).len(), 1);
    assert_eq!(commands(&mut console), 1);
    // It can be asked for at any time, but begins only when it is time.
    assert_eq!(console.next_wake_ms(), Some(550));
    console.on_tick(549);
    assert_eq!(commands(&mut console), 0);
    console.on_tick(550);
    assert_eq!(commands(&mut console), 1);
    // Someone leaves, someone comes while it is under way: what this one did before must be in its answer.
    console.on_end(50);
    status(&mut console, 551, 101);
    finish_look(&mut console, 552);
    let streams: Vec<u32> = all(&mut console)
        .iter()
        .map(|(stream, _)| *stream)
        .collect();
    let expected: Vec<u32> = (2..=100).filter(|stream| *stream != 50).collect();
    assert_eq!(streams, expected);
    console.on_tick(console.next_wake_ms().unwrap());
    finish_look(&mut console, 900);
    assert_eq!(only(&mut console).0, 101);
    assert_eq!(console.next_wake_ms(), None);
}

#[test]
fn clients_that_ask_again_at_once_get_two_looks_a_second() {
    let mut console = ready();
    let (mut looks, mut given) = (0, 0);
    for stream in 1..=32 {
        status(&mut console, 1_000, stream);
    }
    for now_ms in 1_000..6_000 {
        if console
            .next_wake_ms()
            .is_some_and(|wake_ms| wake_ms <= now_ms)
        {
            console.on_tick(now_ms);
        }
        if commands(&mut console) > 0 {
            looks += 1;
            finish_look(&mut console, now_ms);
            sent(&mut console);
            for (stream, response) in all(&mut console) {
                assert_eq!(response.status, 200);
                given += 1;
                console.on_end(stream);
                status(&mut console, now_ms, stream);
            }
        }
    }
    // The more they are, the longer each waits: 16 ms for each of them.
    assert_eq!((looks, given), (11, 1 + 10 * 32));
}

#[test]
fn a_lone_console_waits_for_nobody() {
    let mut console = ready();
    for turn in 1..=10 {
        let now_ms = turn * 1_000;
        assert_eq!(status(&mut console, now_ms, 1), NextStep::Wait);
        assert_eq!(commands(&mut console), 1);
        finish_look(&mut console, now_ms);
        assert_eq!(only(&mut console).1, 200);
        sent(&mut console);
    }
}

#[test]
fn the_larger_the_answers_the_rarer_the_looks() {
    let ids: Vec<String> = (0..100).map(|n| format!("account-{n:03}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut rests = Vec::new();
    for clients in [1, 32] {
        let mut console = ready();
        status(&mut console, 1_000, 100);
        for stream in 1..=clients {
            status(&mut console, 1_000, stream);
        }
        finish_look(&mut console, 1_000);
        console.on_tick(1_250);
        for _ in 0..49 {
            console.on_pipe_bytes(1_250, page("7", &ids).as_bytes());
        }
        console.on_pipe_bytes(1_250, page("0", &ids).as_bytes());
        console.on_pipe_bytes(1_250, b"-NOPOOL none\r\n");
        all(&mut console);
        status(&mut console, 1_250, 100);
        rests.push(console.next_wake_ms().unwrap() - 1_250);
    }
    // The same accounts were read, but the answers are 9 kB each.
    assert!((250..700).contains(&rests[0]), "{rests:?}");
    assert!(rests[1] >= rests[0] + 30, "{rests:?}");
}

#[test]
fn explanations_are_made_one_at_a_time_and_in_turn_with_looks() {
    let mut console = ready();
    let waiting = (1..=23).filter(|stream| match explain(&mut console, 1_000, *stream) {
        NextStep::Wait => true,
        NextStep::Answer(response) => {
            assert_eq!(response.status, 503);
            false
        }
        NextStep::Body => panic!("its body is there"),
    });
    assert_eq!(waiting.count(), 8);
    status(&mut console, 1_000, 50);
    // A change takes no turn.
    assert_eq!(drain(&mut console, 1_000, 60), NextStep::Wait);
    assert_eq!(commands(&mut console), 2);
    console.on_pipe_bytes(1_000, page("0", &["a"]).as_bytes());
    console.on_pipe_bytes(1_000, b"*2\r\n$0\r\n\r\n$1\r\n1\r\n");
    let mut order: Vec<u32> = all(&mut console)
        .iter()
        .map(|(stream, _)| *stream)
        .collect();
    while let Some(now_ms) = console.next_wake_ms() {
        console.on_tick(now_ms);
        assert!(commands(&mut console) <= 1);
        if order.len() == 2 {
            // The look's first pool.
            console.on_pipe_bytes(now_ms, b"-NOPOOL none\r\n");
            assert_eq!(commands(&mut console), 1);
            console.on_pipe_bytes(now_ms, b"-NOPOOL none\r\n");
        } else {
            console.on_pipe_bytes(now_ms, page("0", &["a"]).as_bytes());
        }
        order.extend(all(&mut console).iter().map(|(stream, _)| *stream));
    }
    let expected: Vec<u32> = [1, 60, 50].into_iter().chain(2..=8).collect();
    assert_eq!(order, expected);
}

#[test]
fn each_kind_has_places_of_its_own() {
    let mut console = ready();
    let waits = |heard| heard == NextStep::Wait;
    // All at once, before Redis has answered any.
    for stream in 1..=500 {
        status(&mut console, 1_000, stream);
    }
    for stream in 501..=600 {
        explain(&mut console, 1_000, stream);
    }
    let changes = (601..=700).filter(|stream| waits(drain(&mut console, 1_000, *stream)));
    assert_eq!(changes.count(), 16);
    console.on_pipe_closed(1_001);
    // The look's one, those that wait for the next, and the jobs.
    assert_eq!(all(&mut console).len(), 1 + 128 + 8 + 16);
}

#[test]
fn slow_bodies_give_way_to_new_ones_and_never_take_a_writers_place() {
    let mut console = ready();
    let begin = |console: &mut Host, now_ms, stream, path| {
        assert_eq!(
            ask(console, now_ms, stream, "POST", path, false),
            NextStep::Body
        );
    };
    begin(&mut console, 1_000, 900, "/api/drain");
    for stream in 1..=20 {
        let now_ms = 1_000 + u64::from(stream);
        begin(&mut console, now_ms, stream, "/api/explain");
    }
    // The oldest were told so.
    let told: Vec<(u32, u32)> = all(&mut console)
        .iter()
        .map(|(stream, response)| (*stream, response.status))
        .collect();
    assert_eq!(
        told,
        (1..=12).map(|stream| (stream, 408)).collect::<Vec<_>>()
    );
    // An honest one comes together with its body.
    assert_eq!(explain(&mut console, 1_100, 33), NextStep::Wait);
    assert_eq!(only_stream(&mut console), 13);
    let body = br#"{"pool": "p", "account": "a"}"#;
    assert_eq!(console.on_body(1_100, 900, body), NextStep::Wait);
    assert_eq!(commands(&mut console), 2);
    // What came too late finds nothing to do.
    assert_eq!(console.on_body(1_100, 1, body), NextStep::Wait);
    assert_eq!(console.on_body(1_100, 13, body), NextStep::Wait);
    assert_eq!(commands(&mut console), 0);
    // The others are given up in the end.
    console.on_tick(3_032);
    assert_eq!(
        all(&mut console)
            .iter()
            .filter(|(_, response)| response.status == 408)
            .count(),
        7
    );
}

#[test]
fn answers_that_need_no_redis_are_held_back_beyond_a_budget() {
    let mut console = ready();
    let mut at_once = 0;
    for stream in 1..=300 {
        match page_part(&mut console, 1_000, stream) {
            NextStep::Answer(response) => {
                assert_eq!(response.status, 200);
                at_once += 1;
            }
            NextStep::Wait => {}
            NextStep::Body => panic!("it has none"),
        }
    }
    // A page's parts a few times over, and those for whom there is no place.
    assert_eq!(at_once, 15 + (300 - 15 - 128));
    assert_eq!(answers(&mut console), []);
    // Whoever leaves is forgotten.
    let first = console.next_wake_ms().unwrap();
    assert!((1_001..=1_020).contains(&first), "{first}");
    console.on_tick(first);
    let stream = only_stream(&mut console);
    console.on_end(stream + 1);
    let mut given = 1;
    while let Some(now_ms) = console.next_wake_ms() {
        console.on_tick(now_ms);
        given += all(&mut console).len();
    }
    assert_eq!(given, 127);
    // And the budget is whole again after a while.
    for stream in 1..=10 {
        assert!(matches!(
            page_part(&mut console, 5_000, stream),
            NextStep::Answer(_)
        ));
    }
}

fn only_stream(console: &mut Host) -> u32 {
    let answers = answers(console);
    assert_eq!(answers.len(), 1);
    answers[0].0
}

#[test]
fn a_pipe_that_never_becomes_ready_is_told_to_those_who_wait_for_a_turn() {
    let mut console = console();
    status(&mut console, 0, 1);
    explain(&mut console, 10, 2);
    console.on_tick(10);
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Open));
    console.on_pipe_open(10);
    sent(&mut console);
    assert_eq!(console.next_wake_ms(), Some(10 + TIMEOUT_MS));
    be_silent(&mut console, 10 + TIMEOUT_MS);
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Reset));
    let told = all(&mut console);
    assert_eq!(told.len(), 2);
    for (_, response) in told {
        assert!(response.body.contains("did not answer within 1000 ms"));
    }
    assert_eq!(console.next_wake_ms(), None);
}

#[test]
fn large_answers_leave_one_by_one() {
    let mut console = ready();
    for stream in 1..=4 {
        let body = "x".repeat(200_000).into();
        let answer = Response {
            body,
            ..Response::default()
        };
        console.output().answers.push_back((stream, answer));
    }
    assert_eq!(answers(&mut console).len(), 2);
    assert_eq!(answers(&mut console).len(), 2);
}

/// Who asks and leaves before the answer is given takes nobody's time.
#[test]
fn who_leaves_before_the_answer_makes_nobody_wait() {
    let mut console = ready();
    for round in 0..50 {
        let streams = 1_000 * round..1_000 * round + 100;
        for stream in streams.clone() {
            page_part(&mut console, 1_000, stream);
        }
        streams.for_each(|stream| console.on_end(stream));
    }
    all(&mut console);
    if page_part(&mut console, 1_000, 1) == NextStep::Wait {
        let wake_ms = console.next_wake_ms().expect("it is due");
        assert!(wake_ms <= 1_500, "{wake_ms}");
    }
}
