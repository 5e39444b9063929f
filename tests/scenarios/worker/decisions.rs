//! An operator's question about a request is answered from the worker's last decisions.

use super::failover::{TRY, tries, with};
use super::overrides::{POLL_MS, asked, looking, seen, settle};
use super::rig::{Id, Rig, granted};

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
    rig.worker.on_end(rig.now_ms, Id { slot: 0, stream: 1 });
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
        json["saturated"]["refuse_ms"] = 0.into();
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

/// What the worker says now of a request.
fn recalled(rig: &Rig, id: &str) -> serde_json::Value {
    let question = format!("n request {id}");
    let answer = rig.worker.recall(rig.now_ms, question.as_bytes());
    serde_json::from_str(&answer.expect("it is remembered")).expect("JSON")
}

#[test]
fn each_try_is_told_with_its_account_its_status_and_its_time() {
    let mut rig = tries(3);
    let (id, _) = rig.trying();
    rig.worker.identify(ID.as_bytes());
    assert!(
        recalled(&rig, ID).get("tries").is_none(),
        "nothing was refused"
    );
    rig.now_ms += 12;
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    rig.commands();
    for reply in [":3000\r\n", ":1\r\n", &granted("b")] {
        rig.reply(reply);
    }
    assert!(rig.worker.next_answer().is_some());
    // It cannot be reached, which shows when the next try begins.
    rig.now_ms += 5;
    rig.ends(id, TRY + 1);
    assert!(!rig.begins(id, TRY + 2));
    let third = rig.commands().last().expect("an acquire").lease();
    rig.now_ms += 1;
    for reply in [":1\r\n", &granted("c")] {
        rig.reply(reply);
    }
    assert!(rig.worker.next_answer().is_some());
    rig.now_ms += 30;
    let answer = recalled(&rig, ID);
    let expected = serde_json::json!({
        "nonce": "n", "way": "atomic", "reason": null, "pool": "p", "account": "c", "lease": third,
        "bucket": answer["bucket"], "below": 10_000, "waited_ms": 18, "ago_ms": 30,
        "tries": [
            {"account": "a", "status": 429, "ms": 12},
            {"account": "b", "status": 0, "ms": 5},
        ],
    });
    assert_eq!(answer, expected);
    // Another request of the same id is told without them.
    let (other, _) = rig.request(&[]);
    rig.worker.identify(ID.as_bytes());
    assert!(recalled(&rig, ID).get("tries").is_none());
    rig.worker.on_end(rig.now_ms, other);
}

/// The account that it has left is not its account any more.
#[test]
fn a_request_that_waits_for_another_account_is_told_so() {
    let mut rig = tries(3);
    let (id, first) = rig.trying();
    rig.worker.identify(ID.as_bytes());
    assert_eq!(recalled(&rig, ID)["account"], "a");
    rig.now_ms += 7;
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    rig.commands();
    rig.now_ms += 4;
    let answer = recalled(&rig, ID);
    let expected = serde_json::json!({
        "nonce": "n", "way": "undecided", "reason": null, "pool": "p", "account": null, "lease": null,
        "bucket": answer["bucket"], "below": 10_000, "waited_ms": 11, "ago_ms": 0,
        "tries": [{"account": "a", "status": 429, "ms": 7}],
    });
    assert_eq!(answer, expected);
    let of_lease = format!("n lease {first}");
    let of_lease = rig.worker.recall(rig.now_ms, of_lease.as_bytes());
    assert_eq!(of_lease, None, "it holds that no more");

    // The same in the queue.
    let mut rig = with(3, |json| {
        json["saturated"] = serde_json::json!({"action": "queue"});
    });
    let (id, _) = rig.trying();
    rig.worker.identify(ID.as_bytes());
    assert!(rig.refused(id, 503));
    assert!(!rig.begins(id, TRY + 1));
    let second = rig.commands().last().expect("an acquire").lease();
    let waits = "*2\r\n$1\r\n9\r\n$30\r\n~1732999999123456001 4000 5000\r\n";
    for reply in [":3000\r\n", ":1\r\n", waits] {
        rig.reply(reply);
    }
    let answer = recalled(&rig, ID);
    assert_eq!(
        (&answer["way"], &answer["account"], &answer["lease"]),
        (&"waiting".into(), &serde_json::Value::Null, &second.into())
    );
    assert_eq!(answer["tries"][0]["account"], "a");
}

#[test]
fn a_request_that_no_account_served_is_told_with_its_tries() {
    let mut rig = tries(3);
    let (id, _) = rig.trying();
    rig.worker.identify(ID.as_bytes());
    rig.now_ms += 7;
    assert!(rig.refused(id, 503));
    assert!(!rig.begins(id, TRY + 1));
    rig.commands();
    for reply in [":3000\r\n", ":1\r\n", "*2\r\n$1\r\n9\r\n:2500\r\n"] {
        rig.reply(reply);
    }
    let answer = recalled(&rig, ID);
    assert_eq!(
        (&answer["way"], &answer["reason"]),
        (&"rejected".into(), &"saturated".into())
    );
    assert_eq!(
        (&answer["account"], &answer["lease"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(
        answer["tries"],
        serde_json::json!([{"account": "a", "status": 503, "ms": 7}])
    );

    // The last account's answer passed: it is a try as well, and the one that the request holds.
    let mut rig = tries(2);
    let (id, _) = rig.trying();
    rig.worker.identify(ID.as_bytes());
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    rig.commands();
    for reply in [":3000\r\n", ":1\r\n", &granted("b")] {
        rig.reply(reply);
    }
    assert!(rig.worker.next_answer().is_some());
    assert!(!rig.refused(id, 529));
    let answer = recalled(&rig, ID);
    assert_eq!(answer["account"], "b");
    let accounts = answer["tries"].as_array().expect("tries").iter();
    let accounts: Vec<_> = accounts
        .map(|one| (one["account"].clone(), one["status"].clone()))
        .collect();
    assert_eq!(
        accounts,
        [("a".into(), 429.into()), ("b".into(), 529.into())]
    );
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
