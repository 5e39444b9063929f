//! What an operator sets in Redis reaches the worker by its looks, and nothing else does.

use super::*;
use slotgate::worker::notice::Ignored;

const POLL_MS: u64 = 1_000;

impl Sent {
    fn is_look(&self) -> bool {
        self.0[0].starts_with("EVAL") && self.arguments() == ["1000", "64"]
    }
}

/// A reply to a look.
fn seen(percent: &str, drained: &str, used: &str) -> String {
    asked(percent, drained, used, "")
}

/// The same with someone's question.
fn asked(percent: &str, drained: &str, used: &str, question: &str) -> String {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let all = [percent, drained, used, question].map(bulk).concat();
    format!("*4\r\n{all}")
}

/// With the pipe ready, the first look answered so, and nothing else under way.
fn looking(change: impl FnOnce(&mut serde_json::Value), first: &str) -> Rig {
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
fn settle(rig: &mut Rig, answer: &str) -> usize {
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
    look(&mut rig, "*4\r\n$0\r\n\r\n$-1\r\n$0\r\n\r\n$0\r\n\r\n");
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
        "*4\r\n$-1\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n",
        "*4\r\n$0\r\n\r\n:1\r\n$0\r\n\r\n$0\r\n\r\n",
        "*4\r\n$0\r\n\r\n$0\r\n\r\n:1\r\n$0\r\n\r\n",
        "*4\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n:1\r\n",
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
    let mut rig = looking(|_| {}, &seen("", "", "b 5 4 zz 1 1 a 0 3"));
    let shown = |rig: &Rig| {
        let (shown, seen) = rig.worker.accounts(0);
        let shown: Vec<_> = shown
            .iter()
            .map(|one| (one.used, one.max_concurrency))
            .collect();
        (shown, seen)
    };
    assert_eq!(shown(&rig), (vec![(0, 3), (5, 4)], 1));
    look(&mut rig, &seen("", "", "b 1 4"));
    assert_eq!(shown(&rig), (vec![(0, 0), (1, 4)], 2), "a is gone");
    look(&mut rig, &seen("", "", ""));
    assert_eq!(shown(&rig), (vec![(0, 0), (1, 4)], 3));
    assert_eq!(rig.worker.accounts(7), (&[][..], 0));
}

/// What the worker answers to a question at its next look; `None`: nothing.
fn answered(rig: &mut Rig, question: &str) -> Option<serde_json::Value> {
    let mut looked = false;
    while !looked {
        rig.until(|worker| !worker.wire().bytes.is_empty());
        for command in rig.commands() {
            looked |= command.is_look();
            rig.reply(&match command.is_look() {
                true => asked("", "", "", question),
                false if command.is_reconcile() => "*2\r\n$9\r\nelsewhere\r\n:0\r\n".to_owned(),
                false => ":1\r\n".to_owned(),
            });
        }
    }
    let sent = rig.commands();
    let answer = sent.first()?;
    assert_eq!(sent.len(), 1);
    assert_eq!(answer.0[..2], ["SET", "slotgate:{p}:answer"]);
    assert_eq!(answer.0[3..], ["PX", "10000"]);
    rig.reply("+OK\r\n");
    Some(serde_json::from_str(&answer.0[2]).unwrap())
}

const ID: &str = "0d6f0f0e-0a4e-4e0c-8f0b-0a7a1d9c5e11";

#[test]
fn a_worker_tells_which_way_a_request_went() {
    let full = |json: &mut serde_json::Value| {
        json["gray"]["percent"] = 100.into();
        json["gray"]["override"] = serde_json::json!({"token_env": "TOKEN"});
    };
    let mut rig = looking(full, &seen("", "", ""));
    rig.reply(&granted("a"));
    rig.worker.on_end(rig.now_ms, (0, 1));
    settle(&mut rig, &seen("", "", ""));
    let (id, _) = rig.request(&[("x-session-id", "session-1")]);
    rig.worker.identify(ID.as_bytes());
    let undecided = answered_early(&mut rig);
    assert_eq!(undecided["way"], "undecided");
    rig.now_ms += 7;
    let lease = rig.asked.back().unwrap().lease();
    rig.reply(&granted("b"));
    rig.worker.on_end(rig.now_ms, id);
    let answer = answered(&mut rig, &format!("n1 request {ID}")).unwrap();
    let mut expected = serde_json::json!({
        "nonce": "n1", "way": "atomic", "reason": null, "pool": "p", "account": "b", "lease": lease,
        "bucket": 8289, "below": 10_000, "waited_ms": 7, "ago_ms": answer["ago_ms"],
    });
    assert_eq!(answer, expected);
    assert!(
        (1..=POLL_MS + 10).contains(&answer["ago_ms"].as_u64().unwrap()),
        "{answer}"
    );
    // The same question again is not answered again, another nonce is; by its lease it is found as well.
    assert_eq!(answered(&mut rig, &format!("n1 request {ID}")), None);
    let answer = answered(&mut rig, &format!("n2 lease {lease}")).unwrap();
    expected["nonce"] = "n2".into();
    expected["ago_ms"] = answer["ago_ms"].clone();
    assert_eq!(answer, expected);
    for nobodys in [
        "n3 request other",
        "n3 request 0d6f0f0e-0a4e-4e0c-8f0b-0a7a1d9c5e11-and-more",
        "n3 request ",
        "n3 lease 0",
        "n3 lease ",
        "n3 any x",
        "n3",
        "n\"3 request x",
        " request x",
    ] {
        assert_eq!(answered(&mut rig, nobodys), None, "{nobodys:?}");
    }
    // An override decides without a bucket. Ids of any length; the last request of that name is meant.
    for (name, token) in [
        ("short", "t0k:off"),
        ("short", "t0k:off"),
        (&"l".repeat(200), "t0k:off"),
    ] {
        rig.request(&[("x-slotgate-gray", token)]);
        rig.worker.identify(name.as_bytes());
        let answer = answered(&mut rig, &format!("n4 request {name}")).unwrap();
        assert_eq!(
            (&answer["way"], &answer["reason"], &answer["bucket"]),
            (
                &"traditional".into(),
                &"out_of_percentage".into(),
                &serde_json::Value::Null
            )
        );
        assert!(answer["ago_ms"].as_u64().unwrap() <= POLL_MS);
        answered(&mut rig, "");
    }
}

/// A question that comes while the request still waits.
fn answered_early(rig: &mut Rig) -> serde_json::Value {
    let (at_ms, acquire) = (rig.now_ms, rig.commands());
    assert!(acquire.len() == 1 && acquire[0].is_acquire(), "{acquire:?}");
    let question = format!("n0 request {ID}");
    let memory = rig.worker.recall(at_ms, question.as_bytes());
    serde_json::from_str(&memory.unwrap()).unwrap()
}

#[test]
fn rejections_are_told_with_their_reason() {
    let reject = |json: &mut serde_json::Value| {
        json["gray"]["percent"] = 100.into();
        json["failure"]["action"] = "reject".into();
    };
    let mut rig = looking(reject, &seen("", "", ""));
    rig.reply(&granted("a"));
    rig.request(&[]);
    rig.worker.identify(b"full");
    rig.commands();
    rig.reply("*2\r\n$1\r\n9\r\n:1\r\n");
    rig.request(&[]);
    rig.worker.identify(b"refused");
    rig.commands();
    rig.reply("-OOM command not allowed\r\n");
    for (id, reason) in [("full", "saturated"), ("refused", "refused")] {
        let answer = answered(&mut rig, &format!("n request {id}")).unwrap();
        let told = (
            &answer["way"],
            &answer["reason"],
            &answer["account"],
            &answer["pool"],
        );
        assert_eq!(
            told,
            (
                &"rejected".into(),
                &reason.into(),
                &serde_json::Value::Null,
                &"p".into()
            )
        );
    }
}

#[test]
fn the_last_decisions_are_remembered_and_no_more() {
    let mut rig = looking(|_| {}, &seen("", "", ""));
    let last = slotgate::worker::decisions::REMEMBERED + 10;
    for number in 0..last {
        rig.request(&[("x-session-id", "s")]);
        rig.worker.identify(format!("r{number}").as_bytes());
    }
    let known = |number: u32| {
        let question = format!("n{number} request r{number}");
        rig.worker.recall(rig.now_ms, question.as_bytes()).is_some()
    };
    assert!(known(last - 1) && known(10), "the last ones");
    assert!(!known(9) && !known(0), "their places are taken");
    // A request decided long after its place was taken writes nothing into it.
    let mut rig = looking(
        |json| json["gray"]["percent"] = 100.into(),
        &seen("", "", ""),
    );
    rig.reply(&granted("a"));
    rig.answers();
    rig.request(&[]);
    rig.worker.identify(b"slow");
    for number in 0..slotgate::worker::decisions::REMEMBERED {
        rig.request(&[("x-session-id", "s")]);
        rig.worker.identify(format!("r{number}").as_bytes());
    }
    rig.reply(&granted("a"));
    assert_eq!(rig.answers().len(), 1);
    assert_eq!(rig.worker.recall(rig.now_ms, b"n request slow"), None);
    let newest = slotgate::worker::decisions::REMEMBERED - 1;
    let answer = rig
        .worker
        .recall(rig.now_ms, format!("n request r{newest}").as_bytes());
    assert!(answer.unwrap().contains("undecided"));
}
