//! A shadow asks what would be granted and compares it with what is done; no request waits for it.

use super::rig::{Rig, granted, passed_on};
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::{Path, Reason};
use slotgate::request::verdict::Verdict;
use slotgate::worker::counters::Counter;

#[test]
fn shadow_asks_and_never_waits() {
    let mut rig = Rig::new(|json| json["gray"]["mode"] = "shadow".into());
    assert_eq!(rig.request(&[]).1, passed_on(Reason::Shadow));
    rig.reopen();
    let sent = rig.commands();
    assert_eq!(sent[1].arguments()[3], "dry");
    rig.reply(&granted("a"));
    assert_eq!(rig.count(Counter::ShadowGranted), 1);
    rig.request(&[]);
    rig.reply("*2\r\n$1\r\n9\r\n:1\r\n");
    assert_eq!(rig.count(Counter::ShadowSaturated), 1);
    rig.request(&[]);
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(rig.count(Counter::ShadowFailed), 1);
    assert!(rig.commands().is_empty());
    // One that waits for the pipe, which can't be opened again.
    rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(rig.count(Counter::ShadowFailed), 2);
}

/// A shadow with accounts told apart by different headers; `c` sets what `b` does, and `d` nothing.
fn shadow_of(mode: &str) -> Rig {
    let mut rig = Rig::new(|json| {
        json["gray"]["mode"] = "shadow".into();
        json["traditional"] = serde_json::json!({"mode": mode});
        json["score"] = serde_json::json!({"priority": 1, "load": 0, "random": 0});
        json["pools"][0]["accounts"] = serde_json::json!([
            {"id": "a", "max_concurrency": 1, "set_headers": {"x-upstream": "one"}},
            {"id": "b", "max_concurrency": 1, "priority": 2, "set_headers": {"x-upstream": "one", "authorization": "B"}},
            {"id": "c", "max_concurrency": 1, "priority": 3, "set_headers": {"x-upstream": "one", "authorization": "B"}},
            {"id": "d", "max_concurrency": 1, "priority": 4},
        ]);
        if mode == "passthrough" {
            let more = serde_json::json!([
                {"id": "e", "max_concurrency": 1, "set_headers": {"x-a": "1", "x-b": "1"}},
                {"id": "f", "max_concurrency": 1, "set_headers": {"x-a": "1"}},
                {"id": "g", "max_concurrency": 1, "set_headers": {"x-empty": ""}},
            ]);
            let accounts = json["pools"][0]["accounts"].as_array_mut().unwrap();
            accounts.extend(more.as_array().unwrap().iter().cloned());
        }
    });
    rig.request(&[]);
    rig.reopen();
    rig.commands();
    rig.reply("*2\r\n$1\r\n9\r\n:1\r\n");
    rig
}

/// What a shadow counts.
const SHADOW: [Counter; 6] = [
    Counter::ShadowGranted,
    Counter::ShadowSaturated,
    Counter::ShadowFailed,
    Counter::ShadowAgreed,
    Counter::ShadowDiffered,
    Counter::ShadowUnknown,
];

#[test]
fn a_shadow_is_compared_with_the_account_that_the_request_names() {
    let mut rig = shadow_of("passthrough");
    let shadow = |rig: &Rig| SHADOW.map(|counter| rig.count(counter));
    assert_eq!(shadow(&rig), [0, 1, 0, 0, 0, 0]);
    let upstream = ("x-upstream", "one");
    for (headers, would_be, agreed, differed, unknown) in [
        (&[upstream][..], "a", 1, 0, 0),
        (&[upstream], "b", 0, 1, 0),
        (&[upstream], "d", 0, 1, 0),
        // The more it sets, the closer it names.
        (&[upstream, ("authorization", "B")], "b", 1, 0, 0),
        (&[upstream, ("authorization", "B")], "c", 1, 0, 0),
        (&[upstream, ("authorization", "B")], "a", 0, 1, 0),
        // Another key is no account's, but the upstream still is.
        (&[upstream, ("authorization", "X")], "a", 1, 0, 0),
        (&[("authorization", "B")], "b", 0, 0, 1),
        (&[("x-upstream", "two")], "a", 0, 0, 1),
        (
            &[("x-upstream", "on"), ("authorization", "eB")],
            "b",
            0,
            0,
            1,
        ),
        (&[("x-a", "1"), ("x-b", "1")], "e", 1, 0, 0),
        (&[("x-a", "1"), ("x-b", "2")], "f", 1, 0, 0),
        (&[("x-empty", "")], "g", 1, 0, 0),
        (&[], "d", 0, 0, 1),
        (&[upstream], "gone", 0, 0, 1),
    ] {
        let before = shadow(&rig);
        assert_eq!(rig.request(headers).1, passed_on(Reason::Shadow));
        assert_eq!(rig.commands()[0].arguments()[3], "dry");
        rig.reply(&granted(would_be));
        let now = shadow(&rig);
        let more = [0, 3, 4, 5].map(|one| now[one] - before[one]);
        assert_eq!(
            more,
            [1, agreed, differed, unknown],
            "{headers:?} {would_be}"
        );
    }
    assert_eq!(shadow(&rig), [15, 1, 0, 7, 3, 5]);
}

#[test]
fn a_shadow_is_compared_with_the_local_choice_and_does_not_see_it() {
    let mut rig = shadow_of("local");
    rig.reply(&granted("a"));
    // One request of `shadow_of` holds the first account. Each choice goes to the next best.
    for (chosen, would_be) in [("b", "b"), ("c", "b"), ("d", "d")] {
        let (_, verdict) = rig.request(&[]);
        assert_eq!(verdict.unwrap().path(), Some(Path::Local));
        let sent = rig.commands();
        let modes: Vec<_> = sent.iter().map(|one| one.arguments()[3].as_str()).collect();
        assert_eq!(modes, ["dry", "force"], "its own lease comes after it");
        assert_eq!(sent[1].arguments()[6], chosen);
        rig.reply(&granted(would_be));
        rig.reply(&granted(chosen));
    }
    // Full here; it would have been granted something.
    assert!(matches!(
        rig.request(&[]).1,
        Some(Verdict::Saturated { .. })
    ));
    rig.reply(&granted("a"));
    assert_eq!(SHADOW.map(|counter| rig.count(counter)), [4, 1, 0, 2, 1, 1]);
}
