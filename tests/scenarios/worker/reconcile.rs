//! Recounts: one pool after the other, and soon for a pool that holds what cannot be there.

use super::rig::{
    CURRENT, GARBAGE, REPLACED, Rig, WANTED, done, granted, pool_of, reconcile, refuse, said,
    two_pools,
};
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;

#[test]
fn passes_prove_the_counts_one_pool_after_the_other() {
    let mut rig = Rig::new(|json| {
        let mut second = json["pools"][0].clone();
        second["name"] = "q".into();
        json["pools"][0]["match"] = serde_json::json!([{"header": "x-warm", "present": true}]);
        json["pools"].as_array_mut().unwrap().push(second);
    });
    let (id, _) = rig.request(&[]);
    rig.open();
    rig.commands();
    rig.reply(
        "*3\r\n$7\r\ncurrent\r\n$1\r\n1\r\n$1\r\n9\r\n"
            .repeat(2)
            .as_str(),
    );
    assert_eq!(rig.commands().len(), 1);
    rig.reply(&granted("a"));
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon().len(), 1);
    rig.reply(":1\r\n");
    let mut steps = Vec::new();
    for _ in 0..13_000 {
        rig.wait(10);
        for command in rig.commands() {
            assert!(command.is_reconcile(), "{command:?}");
            let pool = command.0[3].clone();
            let answer = match steps.len() {
                0 => "*2\r\n$7\r\nworking\r\n:0\r\n",
                1 => "*2\r\n$4\r\ndone\r\n:2\r\n",
                _ => "*2\r\n$9\r\nelsewhere\r\n:0\r\n",
            };
            steps.push((rig.now_ms, pool));
            rig.reply(answer);
        }
    }
    let pools: Vec<&str> = steps.iter().map(|(_, key)| key.as_str()).collect();
    let [p, q] = ["slotgate:{p}:accounts", "slotgate:{q}:accounts"];
    assert_eq!(pools[..5], [p, p, q, p, q]);
    assert!(
        steps[1].0 - steps[0].0 <= 40,
        "a pass under way goes on at once: {steps:?}"
    );
    assert!(
        (29_000..=31_000).contains(&(steps[2].0 - steps[1].0)),
        "each pool once a minute: {steps:?}"
    );
    assert_eq!(
        rig.notices(),
        [Notice::Drift {
            pool: "p".into(),
            entries: 2
        }]
    );
    assert_eq!(rig.count(Counter::Drift), 2);
}

const STEP: &str = "*5\r\n$7\r\nworking\r\n$1\r\n0\r\n$0\r\n\r\n$1\r\n1\r\n$1\r\n5\r\n";

#[test]
fn what_is_not_mended_is_recounted_less_and_less_often() {
    let mut rig = two_pools();
    let mut times = Vec::new();
    let end_ms = rig.now_ms + 180_000;
    while rig.now_ms < end_ms {
        rig.request(&[("x-warm", "1")]);
        rig.wait(50);
        for command in rig.commands() {
            if command.is_reconcile() {
                if command.arguments().len() == 6 {
                    times.push(rig.now_ms);
                }
                rig.reply("*2\r\n$4\r\ndone\r\n:0\r\n");
            } else if command.is_acquire() && pool_of(&command) == "p" {
                rig.reply(GARBAGE);
            } else {
                rig.reply(":1\r\n");
            }
        }
        rig.answers();
        let said = said(&mut rig);
        assert_eq!(rig.worker.wire().order, None, "{times:?} {said:?}");
    }
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((6..=14).contains(&times.len()), "no storm: {gaps:?}");
    assert!(gaps[0] < 1_000, "{gaps:?}");
    assert!(gaps.last().unwrap() > &20_000, "{gaps:?}");
}

#[test]
fn a_recount_names_what_it_found_and_what_is_missing_is_synced() {
    let mut rig = two_pools();
    rig.request(&[("x-warm", "1")]);
    refuse(&mut rig, GARBAGE);
    rig.notices();
    reconcile(&mut rig, 1_000).expect("soon");
    rig.reply(STEP);
    let (after_ms, _) = reconcile(&mut rig, 1_000).expect("the next step");
    assert!(after_ms <= 30, "{after_ms}");
    rig.reply(&done("accounts a: not an account with a record", "1", ""));
    let said = said(&mut rig);
    assert!(
        said.iter()
            .any(|one| one.contains("accounts a: not an account")),
        "{said:?}"
    );
    let sync = rig.commands();
    assert_eq!(
        (sync.len(), pool_of(&sync[0]), sync[0].part()),
        (1, "p", "whole")
    );
    assert!(sync[0].listed().is_empty(), "only asked");
    let own = sync[0].arguments()[1].clone();
    rig.reply(WANTED);
    assert_eq!(rig.commands()[0].listed()[0], "a");
    rig.reply(REPLACED);
    // The others' turn comes as ever, and what is in force is not synced again.
    let (after_ms, step) = reconcile(&mut rig, 61_000).expect("the usual one");
    assert!(after_ms > 0);
    assert_eq!(step.arguments().len(), 5);
    for (revision, digest, asks) in [
        ("1", own.as_str(), false),
        ("1", "5", true),
        ("2", "", true),
        ("", "", true),
        ("1", "", true),
    ] {
        rig.reply(&done("", revision, digest));
        let sent = rig.commands();
        assert_eq!(!sent.is_empty(), asks, "{revision} {digest}");
        if asks {
            rig.reply(CURRENT);
        }
        reconcile(&mut rig, 61_000).expect("the usual one");
    }
}

/// Someone writes a bad value again and again, each time after the pool was right: each time it is mended soon.
#[test]
fn what_was_mended_and_breaks_again_is_recounted_soon_each_time() {
    let mut rig = two_pools();
    for round in 0..10 {
        rig.request(&[("x-warm", "1")]);
        refuse(&mut rig, GARBAGE);
        let (after_ms, _) = reconcile(&mut rig, 5_000).expect("a recount");
        assert!(after_ms <= 500, "{round}: {after_ms}");
        rig.reply("*2\r\n$4\r\ndone\r\n:0\r\n");
        // The pool serves for two seconds.
        for _ in 0..2 {
            rig.wait(1_000);
            for command in rig.commands() {
                assert!(!command.is_acquire());
                rig.reply(match command.is_reconcile() {
                    true => "*2\r\n$4\r\ndone\r\n:0\r\n",
                    false => ":1\r\n",
                });
            }
        }
        let (id, _) = rig.request(&[("x-warm", "1")]);
        for command in rig.commands() {
            rig.reply(match command.is_acquire() {
                true => "*2\r\n$1\r\n9\r\n$1\r\na\r\n",
                false => ":1\r\n",
            });
        }
        rig.answers();
        rig.worker.on_end(rig.now_ms, id);
        for _ in rig.commands_soon() {
            rig.reply(":1\r\n");
        }
        rig.notices();
    }
}

/// A pass looks at each entry once: what is seen while it is under way may lie where it has been already.
#[test]
fn what_is_seen_during_a_pass_gets_another_pass() {
    let mut rig = two_pools();
    rig.request(&[("x-warm", "1")]);
    refuse(&mut rig, GARBAGE);
    reconcile(&mut rig, 1_000).expect("soon");
    rig.reply(STEP);
    rig.request(&[("x-warm", "1")]);
    refuse(&mut rig, GARBAGE);
    reconcile(&mut rig, 1_000).expect("the next step");
    rig.reply(&done("", "1", "5"));
    rig.commands();
    let (after_ms, step) = reconcile(&mut rig, 2_000).expect("another pass");
    assert_eq!(
        (pool_of(&step), step.arguments()[5].as_str()),
        ("p", "soon"),
        "{after_ms}"
    );
}

/// So it is when the pipe is lost during the pass.
#[test]
fn a_pass_that_a_lost_pipe_ended_begins_anew() {
    let mut rig = two_pools();
    rig.request(&[("x-warm", "1")]);
    refuse(&mut rig, GARBAGE);
    reconcile(&mut rig, 1_000).expect("soon");
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.wait(1_000);
    rig.open();
    rig.reply(&CURRENT.repeat(2));
    rig.commands();
    let (_, step) = reconcile(&mut rig, 2_000).expect("another pass");
    assert_eq!(
        (pool_of(&step), step.arguments()[5].as_str()),
        ("p", "soon")
    );
}

/// The pass of another worker may be past it, and that worker may have died in it.
#[test]
fn what_another_workers_pass_may_miss_is_asked_for_again() {
    let mut rig = two_pools();
    rig.request(&[("x-warm", "1")]);
    refuse(&mut rig, GARBAGE);
    let mut waits_ms = Vec::new();
    for _ in 0..5 {
        let (after_ms, step) = reconcile(&mut rig, 10_000).expect("again");
        assert_eq!(
            (pool_of(&step), step.arguments()[5].as_str()),
            ("p", "soon")
        );
        waits_ms.push(after_ms);
        rig.reply("*2\r\n$9\r\nelsewhere\r\n:0\r\n");
    }
    assert!(
        waits_ms.iter().sum::<u64>() < 5_000 && waits_ms[4] >= 1_000,
        "less and less often: {waits_ms:?}"
    );
}

/// So it is when a step of the pass fails: nobody may meet again what an acquire took out of `free`.
#[test]
fn a_pass_that_an_error_ended_begins_anew() {
    let failures = [
        "-BUSY Redis is busy running a script.\r\n",
        GARBAGE,
        "-READONLY You can't write against a read only replica.\r\n",
    ];
    for error in failures {
        let mut rig = two_pools();
        rig.request(&[("x-warm", "1")]);
        refuse(&mut rig, GARBAGE);
        reconcile(&mut rig, 1_000).expect("soon");
        rig.reply(error);
        rig.commands();
        if rig.worker.wire().order.is_some() {
            rig.wait(1_000);
            rig.open();
            rig.reply(&CURRENT.repeat(2));
            rig.commands();
        }
        let (_, step) = reconcile(&mut rig, 2_000).expect("another pass");
        assert_eq!(
            (pool_of(&step), step.arguments()[5].as_str()),
            ("p", "soon"),
            "{error}"
        );
    }
}
