//! What an operator sets in Redis reaches the worker by its looks, and nothing else does.

use super::rig::{CURRENT, Rig, Sent, granted};
use slotgate::ledger::fault::Fault;
use slotgate::pipe::down::{Down, PipeOrder};
use slotgate::request::verdict::Verdict;
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::{Ignored, Notice};

pub const POLL_MS: u64 = 1_000;

/// A reply to a look.
pub fn seen(percent: &str, drained: &str, used: &str) -> String {
    asked(percent, drained, used, "")
}

/// The same with someone's question.
pub fn asked(percent: &str, drained: &str, used: &str, question: &str) -> String {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let all = [percent, drained, used, question].map(bulk).concat();
    format!("*5\r\n{all}:0\r\n")
}

/// With the pipe ready, the first look answered so, and nothing else under way.
pub fn looking(change: impl FnOnce(&mut serde_json::Value), first: &str) -> Rig {
    let mut rig = Rig::new(|json| {
        json["control"]["poll_ms"] = POLL_MS.into();
        json["gray"]["percent"] = 0.into();
        change(json);
    });
    rig.request(&[]);
    rig.open();
    rig.reply(CURRENT);
    let sent = rig.commands();
    assert!(sent[1].is_look(), "ahead of what waits: {sent:?}");
    rig.reply(first);
    rig
}

/// Answers all that was asked: looks so, acquires by a grant.
pub fn settle(rig: &mut Rig, answer: &str) -> usize {
    let mut looks = 0;
    loop {
        let sent = rig.commands_soon();
        if sent.is_empty() {
            return looks;
        }
        for command in sent {
            looks += usize::from(command.is_look());
            rig.reply(&match command.is_look() {
                true => answer.to_owned(),
                false if command.is_acquire() => granted("a"),
                false => ":1\r\n".to_owned(),
            });
        }
    }
}

/// The next look, when it is due, answered so. How long that took.
fn look(rig: &mut Rig, answer: &str) -> u64 {
    let start_ms = rig.now_ms;
    rig.until(|worker| !worker.wire().bytes.is_empty());
    let took_ms = rig.now_ms - start_ms;
    assert_eq!(settle(rig, answer), 1);
    took_ms
}

/// Whether a request takes a slot; it ends at once.
fn lets_in(rig: &mut Rig, answer: &str) -> bool {
    let (id, verdict) = rig.request(&[]);
    settle(rig, answer);
    rig.worker.on_end(rig.now_ms, id);
    settle(rig, answer);
    verdict.is_none()
}

fn percent(old: Option<u16>, new: Option<u16>) -> Notice {
    Notice::Percent {
        pool: "p".into(),
        old,
        new,
        configured: 0,
    }
}

#[test]
fn the_percentage_in_redis_replaces_the_configured_one_until_it_is_removed() {
    let set = |points: &str| seen(points, "", "");
    let mut rig = looking(|_| {}, &set(""));
    assert!(!lets_in(&mut rig, &set("")) && rig.notices().is_empty());
    let mut old = None;
    for (points, is_in) in [("10000", true), ("0", false), ("10000", true), ("", false)] {
        let took_ms = look(&mut rig, &set(points));
        assert!((POLL_MS - 10..=POLL_MS).contains(&took_ms), "{took_ms}");
        let new = points.parse().ok();
        assert_eq!(rig.notices(), [percent(old, new)]);
        assert_eq!(rig.worker.basis_points(0), new.unwrap_or(0));
        assert_eq!(lets_in(&mut rig, &set(points)), is_in, "{points:?}");
        look(&mut rig, &set(points));
        assert!(rig.notices().is_empty(), "said once");
        old = new;
    }
    assert_eq!(
        percent(None, Some(10_000)).to_string(),
        "pool p: gray percentage 0.00 % (configured) => 100.00 % (override)"
    );
    // One that is slow to be answered is not followed by another.
    rig.wait(POLL_MS);
    assert_eq!(rig.commands().len(), 1);
    rig.now_ms += POLL_MS;
    rig.worker.on_tick(rig.now_ms);
    assert!(rig.commands().is_empty());
}

#[test]
fn the_configured_value_may_be_the_higher_one() {
    let mut rig = looking(
        |json| json["gray"]["percent"] = 12.5.into(),
        &seen("0", "", ""),
    );
    let notice = Notice::Percent {
        pool: "p".into(),
        old: None,
        new: Some(0),
        configured: 1_250,
    };
    assert_eq!(
        notice.to_string(),
        "pool p: gray percentage 12.50 % (configured) => 0.00 % (override)"
    );
    assert!(!notice.is_warning());
    assert_eq!(rig.notices(), [notice]);
    assert_eq!(rig.worker.basis_points(0), 0);
    look(&mut rig, &seen("", "", ""));
    assert_eq!(rig.worker.basis_points(0), 1_250);
}

#[test]
fn what_someone_wrote_by_hand_and_is_no_percentage_changes_nothing() {
    let mut rig = looking(|_| {}, &seen("2500", "", ""));
    rig.notices();
    let ignored = |what| Notice::Ignored {
        pool: "p".into(),
        what,
    };
    for (count, wrong) in (1..).zip(["10001", "65537", "-1", "1.5", "ten", " 1", "1 "]) {
        look(&mut rig, &seen(wrong, "", ""));
        let said = if count == 1 {
            vec![ignored(Ignored::Percent)]
        } else {
            vec![]
        };
        assert_eq!(rig.notices(), said, "{wrong:?}: once");
        assert_eq!(rig.count(Counter::ControlIgnored), count);
        assert_eq!(rig.worker.basis_points(0), 2_500, "{wrong:?}");
    }
    assert_eq!(
        ignored(Ignored::Percent).to_string(),
        "pool p: ignored in the key control: percent, not a whole number of basis points in 0..=10000"
    );
    look(&mut rig, &seen("2500", "", ""));
    look(&mut rig, &seen("x", "", ""));
    assert_eq!(rig.notices(), [ignored(Ignored::Percent)], "and anew");
    // A key of another type, and more drains than can be followed.
    look(&mut rig, "-WRONGTYPE Operation against a key\r\n");
    assert_eq!(rig.notices(), [ignored(Ignored::All)]);
    assert_eq!(rig.count(Counter::RedisError(Fault::Garbage)), 1);
    let count = rig.count(Counter::ControlIgnored);
    look(&mut rig, "-BUSY Redis is busy running a script\r\n");
    assert!(rig.notices().is_empty(), "that passes");
    assert_eq!(rig.count(Counter::ControlIgnored), count);
    assert_eq!(rig.worker.basis_points(0), 2_500);
    look(
        &mut rig,
        "*5\r\n$0\r\n\r\n$-1\r\n$0\r\n\r\n$0\r\n\r\n:0\r\n",
    );
    assert_eq!(
        rig.notices(),
        [ignored(Ignored::Drained), percent(Some(2_500), None)]
    );
    assert!(ignored(Ignored::Drained).is_warning());
}

#[test]
fn replies_that_are_none_reset_the_pipe() {
    for wrong in [
        ":1\r\n",
        "*3\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n",
        "*5\r\n$-1\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n:0\r\n",
        "*5\r\n$0\r\n\r\n:1\r\n$0\r\n\r\n$0\r\n\r\n:0\r\n",
        "*5\r\n$0\r\n\r\n$0\r\n\r\n:1\r\n$0\r\n\r\n:0\r\n",
        "*5\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n:1\r\n:0\r\n",
    ] {
        let rig = &mut looking(|_| {}, wrong);
        assert_eq!(rig.count(Counter::PipeLost(Down::Mismatch)), 1, "{wrong:?}");
        rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
        rig.reopen();
        let sent = rig.commands();
        assert!(sent.iter().any(Sent::is_look), "{sent:?}");
    }
}

#[test]
fn while_redis_is_away_the_last_override_holds_and_a_new_pipe_looks_at_once() {
    let mut rig = looking(|_| {}, &seen("10000", "a", "a 1 2 b 3 4"));
    rig.notices();
    rig.until(|worker| !worker.wire().bytes.is_empty());
    rig.commands();
    // Even with a look under way.
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(rig.worker.basis_points(0), 10_000);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.open();
    rig.commands();
    rig.reply(CURRENT);
    let sent = rig.commands();
    assert!(sent.len() == 1 && sent[0].is_look(), "{sent:?}");
    rig.reply(&seen("", "", ""));
    assert_eq!(rig.worker.basis_points(0), 0);
    assert_eq!(rig.notices().len(), 2);
}

#[test]
fn a_look_whose_script_redis_forgot_is_sent_again() {
    let mut rig = looking(|_| {}, "-NOSCRIPT No matching script.\r\n");
    let sent = rig.commands();
    assert!(sent[0].0[0] == "EVAL" && sent[0].is_look(), "{sent:?}");
    rig.reply(&seen("1", "", ""));
    assert_eq!(rig.worker.basis_points(0), 1);
    assert!(look(&mut rig, &seen("", "", "")) <= POLL_MS, "and goes on");
}

#[test]
fn only_pools_that_had_a_request_are_looked_at() {
    let mut rig = Rig::new(|json| {
        json["control"]["poll_ms"] = POLL_MS.into();
        json["gray"]["percent"] = 0.into();
        let accounts = json["pools"][0]["accounts"].clone();
        json["pools"] = serde_json::json!([
                {"name": "other", "match": [{"header": "x-model", "exact": "m"}], "accounts": accounts},
                {"name": "p", "accounts": accounts}]);
    });
    rig.request(&[]);
    rig.open();
    rig.reply(CURRENT);
    rig.reply(CURRENT);
    let sent = rig.commands();
    assert!(sent.len() == 3 && sent[2].is_look(), "{sent:?}");
    assert!(
        sent[2].0.contains(&"slotgate:{p}:control".into()),
        "{sent:?}"
    );
    rig.reply(&seen("20", "", ""));
    rig.request(&[("x-model", "m")]);
    rig.wait(2);
    let sent = rig.commands();
    assert!(
        sent.len() == 1 && sent[0].0.contains(&"slotgate:{other}:control".into()),
        "the new one at once, and no other: {sent:?}"
    );
    rig.reply(&seen("10", "", ""));
    assert_eq!(
        (rig.worker.basis_points(0), rig.worker.basis_points(1)),
        (10, 20)
    );
}

/// Their looks neither come all at once nor keep an acquire from being sent.
#[test]
fn many_pools_are_looked_at_a_few_at_a_time() {
    const POOLS: usize = 50;
    let mut rig = Rig::new(|json| {
        json["control"]["poll_ms"] = POLL_MS.into();
        json["redis"]["max_pending"] = 16.into();
        let accounts = json["pools"][0]["accounts"].clone();
        json["pools"] = (0..POOLS)
            .map(|n| {
                let model = serde_json::json!([{"header": "x-model", "exact": n.to_string()}]);
                serde_json::json!({"name": format!("p{n}"), "match": model, "accounts": accounts})
            })
            .collect();
        json["gray"]["percent"] = 0.into();
    });
    for n in 0..POOLS {
        rig.request(&[("x-model", &n.to_string())]);
    }
    rig.open();
    for _ in rig.commands() {
        rig.reply(CURRENT);
    }
    for round in 0..3 {
        let mut looked = 0;
        while looked < POOLS {
            let sent = rig.commands();
            let looks = sent.iter().filter(|one| one.is_look()).count();
            assert!((1..=8).contains(&looks), "{looks} in round {round}");
            looked += looks;
            for command in sent {
                rig.reply(&match command.is_look() {
                    true => seen("", "", ""),
                    false => "*2\r\n$9\r\nelsewhere\r\n:0\r\n".to_owned(),
                });
            }
            rig.until(|worker| !worker.wire().bytes.is_empty());
        }
        assert_eq!(looked, POOLS, "each once");
    }
}

#[test]
fn a_new_configuration_begins_with_the_last_look() {
    let mut rig = looking(|_| {}, &seen("", "", ""));
    assert!(
        rig.worker.output().overrides.is_empty(),
        "nothing was changed"
    );
    look(&mut rig, &seen("10000", "a", ""));
    let looks = std::mem::take(&mut rig.worker.output().overrides);
    assert_eq!(looks.len(), 1);
    look(&mut rig, &seen("10000", "a", ""));
    assert!(rig.worker.output().overrides.is_empty(), "as before");

    let mut next = Rig::new(|json| {
        json["control"]["poll_ms"] = POLL_MS.into();
        json["gray"]["percent"] = 0.into();
    });
    for (pool, look) in &looks {
        next.worker.restore_overrides(*pool, look);
    }
    for nothing in [&b""[..], b"+OK\r\n", b"*4\r\n$1\r\n"] {
        next.worker.restore_overrides(0, nothing);
    }
    next.worker.restore_overrides(7, &looks[0].1);
    assert_eq!(next.worker.basis_points(0), 10_000);
    assert!(next.notices().is_empty(), "it was said before");
    assert_eq!(next.request(&[]).1, None, "in, and waits for the pipe");
    next.open();
    next.reply(CURRENT);
    next.commands();
    next.reply(&seen("", "", ""));
    assert_eq!(next.worker.basis_points(0), 0);
    assert_eq!(next.notices().len(), 2);
}

/// Else a slow Redis would keep an old configuration for ever.
#[test]
fn a_look_on_its_way_keeps_nobody_here() {
    let mut rig = looking(|_| {}, &seen("", "", ""));
    rig.until(|worker| !worker.wire().bytes.is_empty());
    assert!(rig.worker.is_idle());
}

#[test]
fn without_the_right_to_look_all_else_goes_on() {
    let mut rig = looking(|_| {}, "-NOPERM this user has no permissions\r\n");
    assert_eq!(rig.worker.wire().order, None);
    assert_eq!(
        rig.notices()
            .iter()
            .map(|one| one.to_string())
            .collect::<Vec<_>>(),
        ["pool p: ignored in the key control: everything, it is no hash or may not be read"]
    );
    look(&mut rig, "-NOPERM this user has no permissions\r\n");
    assert!(rig.notices().is_empty() && rig.worker.wire().order.is_none());
}

#[test]
fn without_looks_there_is_no_pipe_at_0_percent() {
    let mut rig = Rig::new(|json| json["gray"]["percent"] = 0.into());
    rig.request(&[]);
    assert_eq!(rig.worker.next_wake_ms(), None);
    let mut rig = Rig::ready(|_| {});
    rig.wait(5_000);
    assert!(rig.commands().is_empty());
}

#[test]
fn a_local_choice_leaves_drained_accounts_out() {
    let local = |json: &mut serde_json::Value| {
        json["traditional"] = serde_json::json!({"mode": "local"});
        json["saturated"]["action"] = "traditional".into();
    };
    let mut rig = looking(local, &seen("", "b x-unknown", ""));
    let drained = |old: &str, new: &str| Notice::Drained {
        pool: "p".into(),
        old: old.into(),
        new: new.into(),
    };
    assert_eq!(rig.notices(), [drained("", "b x-unknown")]);
    assert_eq!(
        drained("", "b c").to_string(),
        "pool p: drained accounts none => b, c"
    );
    let account = |rig: &mut Rig| match rig.request(&[]).1 {
        Some(Verdict::Forward { holds, .. }) => holds.map(|(_, account)| account),
        other => panic!("{other:?}"),
    };
    // One request of `looking` holds a slot of one of them already, of 2 and 4.
    let chosen: Vec<_> = (0..6).map(|_| account(&mut rig)).collect();
    assert!(chosen.iter().all(|one| *one != Some(1)), "{chosen:?}");
    assert!(
        chosen.contains(&Some(0)) && chosen.contains(&None),
        "{chosen:?}"
    );
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(account(&mut rig), None, "holds while Redis is away");
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.open();
    rig.reply(CURRENT);
    rig.reply(&seen("", "", ""));
    assert_eq!(rig.notices(), [drained("b x-unknown", "")]);
    assert_eq!(account(&mut rig), Some(1), "it has room again");
}

#[test]
fn many_drained_accounts_are_said_in_one_line() {
    let ids: Vec<_> = (0..13).map(|n| format!("d{n}")).collect();
    let mut rig = looking(|_| {}, &seen("", &ids.join(" "), ""));
    assert_eq!(
        rig.notices()[0].to_string(),
        "pool p: drained accounts none => d0, d1, d2, d3, d4, d5, d6, d7, d8, d9 and 3 more"
    );
    // What changed comes first.
    look(
        &mut rig,
        &seen("", &ids.join(" ").replace("d12", "d99"), ""),
    );
    assert_eq!(
        rig.notices()[0].to_string(),
        "pool p: drained accounts d12, d0, d1, d2, d3, d4, d5, d6, d7, d8 and 3 more \
         => d99, d0, d1, d2, d3, d4, d5, d6, d7, d8 and 3 more"
    );
}

#[test]
fn the_use_of_accounts_is_shown_as_last_seen() {
    let mut rig = looking(|_| {}, &seen("", "", "b 5 4 full zz 1 1 full a 0 3 ?"));
    let shown = |rig: &Rig| {
        let (shown, seen) = rig.worker.accounts(0);
        let shown: Vec<_> = shown
            .iter()
            .map(|one| (one.used, one.max_concurrency))
            .collect();
        (shown, seen)
    };
    assert_eq!(shown(&rig), (vec![(0, 3), (5, 4)], 1));
    look(&mut rig, &seen("", "", "b 1 4 cooling"));
    assert_eq!(shown(&rig), (vec![(0, 0), (1, 4)], 2), "a is gone");
    let states = rig.worker.accounts(0).0.iter().map(|one| one.state);
    assert_eq!(states.collect::<Vec<_>>(), [0, 9]);
    assert_eq!(rig.worker.states(0).map(|all| all[8]), Some(1));
    look(&mut rig, &seen("", "", ""));
    assert_eq!(shown(&rig), (vec![(0, 0), (1, 4)], 3));
    assert_eq!(rig.worker.accounts(7), (&[][..], 0));
}
