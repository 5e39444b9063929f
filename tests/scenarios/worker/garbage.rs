//! What the worker makes of replies that say that one pool holds what cannot be there.

use super::rig::{
    COMING, CURRENT, GARBAGE, LUA, NEWER, Rig, Sent, WRONGTYPE, answer, granted, passed_on,
    pool_of, reconcile, refuse, said, stray, two_pools,
};
use slotgate::ledger::fault::Fault;
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::{Path, Reason};
use slotgate::request::verdict::Verdict;
use slotgate::worker::counters::Counter;

/// It was said once, counted so often, and the pool's recount comes soon.
fn assert_is_named(rig: &mut Rig, count: u64, what: &str) {
    let said = said(rig).concat();
    assert!(said.contains(what), "{said}");
    assert_eq!(rig.count(Counter::Garbage), count, "{what}");
    let (_, step) = reconcile(rig, 1_000).expect("soon");
    assert_eq!(pool_of(&step), "p");
}

#[test]
fn garbage_is_named_once_counted_and_recounted_soon_and_the_pipe_stays() {
    for error in [GARBAGE, WRONGTYPE, LUA] {
        let mut rig = two_pools();
        for _ in 0..3 {
            let (id, _) = rig.request(&[("x-warm", "1")]);
            refuse(&mut rig, error);
            assert_eq!(
                rig.answers(),
                [(id.stream, passed_on(Reason::Refused).unwrap())]
            );
        }
        let said = said(&mut rig);
        assert_eq!(said.len(), 1, "once: {said:?}");
        assert!(
            said[0].starts_with("pool p: Redis holds what cannot be there: "),
            "{said:?}"
        );
        assert!(!said[0].contains("@user_script"), "{said:?}");
        assert_eq!(rig.count(Counter::Garbage), 6);
        assert_eq!(rig.count(Counter::RedisError(Fault::Garbage)), 6);
        // The other pool is served, whatever comes of this one.
        rig.request(&[]);
        answer(&mut rig, &granted("a"));
        assert!(matches!(
            rig.answers()[..],
            [(
                _,
                Verdict::Forward {
                    path: Path::Atomic,
                    ..
                }
            )]
        ));
        assert_eq!(rig.worker.wire().order, None);
        rig.commands();
        let (after_ms, step) = reconcile(&mut rig, 1_000).expect("soon");
        assert_eq!(
            (pool_of(&step), step.arguments()[5].as_str()),
            ("p", "soon")
        );
        assert!(after_ms <= 300, "{after_ms}");
    }
}

/// A value of the right shape with something else in it is the pool's fault; another shape is nobody's answer.
#[test]
fn values_that_are_none_are_no_mismatch() {
    for reply in [
        "*2\r\n$3\r\nabc\r\n$1\r\na\r\n",
        "*2\r\n$0\r\n\r\n$1\r\na\r\n",
        "*2\r\n:-4\r\n$1\r\na\r\n",
    ] {
        let mut rig = two_pools();
        rig.request(&[("x-warm", "1")]);
        refuse(&mut rig, reply);
        assert_eq!(rig.worker.wire().order, None, "{reply:?}");
        assert_eq!(
            rig.count(Counter::RedisError(Fault::Garbage)),
            2,
            "{reply:?}"
        );
        assert_is_named(&mut rig, 2, "accounts #epoch: not a whole number");
    }
    for reply in [
        "*3\r\n$1\r\n9\r\n$1\r\na\r\n$1\r\na\r\n",
        "+OK\r\n",
        "*2\r\n*0\r\n$1\r\na\r\n",
        "*2\r\n$-1\r\n$1\r\na\r\n",
    ] {
        let mut rig = two_pools();
        rig.request(&[("x-warm", "1")]);
        rig.reply(reply);
        assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset), "{reply:?}");
    }
}

/// While it connects, a pool's garbage keeps nobody waiting.
#[test]
fn a_pipe_becomes_ready_past_garbage() {
    for error in [
        GARBAGE,
        WRONGTYPE,
        LUA,
        "*3\r\n$7\r\ncurrent\r\n$3\r\nabc\r\n$1\r\n9\r\n",
    ] {
        let mut rig = Rig::new(|json| {
            let mut second = json["pools"][0].clone();
            second["name"] = "q".into();
            json["pools"][0]["match"] = serde_json::json!([{"header": "x-warm", "present": true}]);
            json["pools"].as_array_mut().unwrap().push(second);
        });
        rig.request(&[]);
        rig.open();
        rig.commands();
        rig.reply(error);
        rig.reply(CURRENT);
        assert_eq!(rig.count(Counter::PipeReady), 1, "{error}");
        assert!(rig.commands().iter().any(|sent| sent.is_acquire()));
        rig.reply(&granted("a"));
        assert!(matches!(
            rig.answers()[..],
            [(
                _,
                Verdict::Forward {
                    path: Path::Atomic,
                    ..
                }
            )]
        ));
        let (_, step) = reconcile(&mut rig, 1_000).expect("soon");
        assert_eq!(pool_of(&step), "p");
    }
}

#[test]
fn a_renewal_and_a_sync_name_a_number_that_is_none() {
    let mut rig = Rig::ready(|_| {});
    rig.holding();
    let is_renewal = |sent: &Sent| sent.arguments().get(2).is_some_and(|id| id == "a");
    while !rig.commands().iter().any(is_renewal) {
        assert!(rig.now_ms < 60_000);
        rig.wait(10);
    }
    rig.reply("*2\r\n$3\r\n1e3\r\n$1\r\nr\r\n");
    assert_eq!(rig.worker.wire().order, None);
    assert_eq!(rig.count(Counter::Garbage), 1);
    let mut rig = Rig::new(|_| {});
    let (id, _) = rig.request(&[]);
    rig.open();
    rig.reply("*3\r\n$7\r\ncurrent\r\n$3\r\n1e3\r\n$1\r\n9\r\n");
    rig.reply(&granted("a"));
    rig.worker.on_end(rig.now_ms, id);
    rig.commands_soon();
    rig.reply(":1\r\n");
    assert_is_named(&mut rig, 1, "accounts #revision: not a whole number");
}

#[test]
fn what_is_said_of_garbage_can_be_printed_and_is_short() {
    let mut rig = two_pools();
    rig.request(&[("x-warm", "1")]);
    let long = "x".repeat(5_000);
    rig.reply(&format!(
        "-GARBAGE accounts \u{1b}[31m\u{7}\u{202e}{long}\r\n"
    ));
    let said = said(&mut rig);
    assert!(
        said[0].len() < 400 && said[0].bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        "{said:?}"
    );
}

#[test]
fn a_stray_account_is_garbage_only_when_these_accounts_are_in_force() {
    for (answer, counted) in [(CURRENT, 1), (COMING, 0), (NEWER, 0)] {
        let mut rig = Rig::ready(|_| {});
        let sent = stray(&mut rig);
        assert_eq!((sent.len(), sent[0].part()), (1, "stray"), "once");
        assert_eq!(sent[0].listed(), ["zz"]);
        assert_eq!(rig.count(Counter::Garbage), 0, "nobody knows yet");
        assert!(!said(&mut rig).concat().contains("zz"));
        rig.reply(answer);
        assert_eq!(rig.count(Counter::Garbage), counted, "{answer}");
        let said = said(&mut rig).concat();
        assert_eq!(
            said.contains("accounts zz: not configured"),
            counted == 1,
            "{said}"
        );
        // With a newer one in force it is theirs.
        let again = stray(&mut rig).len();
        assert_eq!(again, usize::from(answer != NEWER), "{answer}");
    }
}

/// How often garbage was said, with these errors one after the other, so long apart, and every pass another worker's.
fn times_said(errors: &[&str], apart_ms: u64) -> usize {
    let mut rig = two_pools();
    let mut times = 0;
    for error in errors {
        rig.request(&[("x-warm", "1")]);
        refuse(&mut rig, error);
        let end_ms = rig.now_ms + apart_ms;
        while rig.now_ms < end_ms {
            rig.wait(10);
            for command in rig.commands() {
                rig.reply(match command.is_reconcile() {
                    true => "*2\r\n$9\r\nelsewhere\r\n:0\r\n",
                    false => ":1\r\n",
                });
            }
        }
        rig.answers();
        assert_eq!(rig.worker.wire().order, None);
        let said = said(&mut rig);
        times += said
            .iter()
            .filter(|one| one.contains("cannot be there"))
            .count();
    }
    times
}

#[test]
fn garbage_is_said_again_when_it_comes_back_and_not_while_it_goes_on() {
    assert_eq!(times_said(&[GARBAGE; 3], 60_000), 1);
    assert_eq!(times_said(&[GARBAGE; 3], 200_000), 3);
    // Two kinds by turns are two, and ever new ones are bounded.
    let turns = [GARBAGE, WRONGTYPE, GARBAGE, WRONGTYPE, GARBAGE];
    assert_eq!(times_said(&turns, 100), 2);
    let fields: Vec<String> = (0..30)
        .map(|n| format!("-GARBAGE accounts a{n}: not an account with a record\r\n"))
        .collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    assert_eq!(times_said(&fields, 100), 8);
}
