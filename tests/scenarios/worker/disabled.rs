//! Answers by which an account is out of use, what `upstream.rules` say, and accounts that are out of pace.

use super::rig::{Id, Rig, granted};
use serde_json::{Value, json};
use slotgate::request::verdict::Verdict;
use slotgate::upstream::failing::Source;
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;

fn rules(rules: Value) -> impl FnOnce(&mut Value) {
    move |json| json["upstream"] = json!({"rules": rules})
}

/// What is said of an account's answer, without its id.
fn told(rig: &mut Rig) -> Vec<String> {
    let sent = rig.commands();
    let words = sent.iter().map(|sent| sent.arguments()[1..].join(" "));
    words.collect()
}

fn holding(rig: &mut Rig) -> Id {
    rig.holding().0
}

#[test]
fn a_revoked_key_is_told_and_said_once() {
    let mut rig = Rig::ready(|_| {});
    let ids: Vec<Id> = (0..3).map(|_| holding(&mut rig)).collect();
    for (status, id) in [401, 402, 403].into_iter().zip(&ids) {
        rig.respond(*id, status, &[("retry-after", "7")]);
        assert_eq!(told(&mut rig), [format!("600000 disable {status}")]);
    }
    assert_eq!(rig.count(Counter::Disabled), 0, "the ledger counts them");
    assert!(rig.notices().is_empty());
    // News to the ledger; known already, by another worker's answer; refused again after its time.
    for (reply, counted, said) in [(":1\r\n", 1, 1), (":0\r\n", 1, 0), (":2\r\n", 2, 0)] {
        rig.reply(reply);
        assert_eq!(rig.count(Counter::Disabled), counted);
        let notices = rig.notices();
        assert_eq!(notices.len(), said, "{notices:?}");
        for notice in notices {
            assert!(notice.is_warning());
            let expected = Notice::Disabled {
                pool: "p".into(),
                account: "a".into(),
                status: 401.into(),
                for_ms: 600_000,
            };
            assert_eq!(notice, expected);
            let text = notice.to_string();
            assert!(
                text.starts_with("pool p: account a answered 401 and is out of use for 600000 ms"),
                "{text}"
            );
        }
    }
    // It is neither pushback nor a failure.
    assert_eq!(rig.count(Counter::Cooldown), 0);
    assert_eq!(rig.count(Counter::Behind), 0);
    // Only the upstream's own word.
    for source in [Source::Envoy, Source::NoUpstream] {
        rig.respond_from(source, ids[0], 403, &[]);
    }
    assert!(rig.commands().is_empty());
}

#[test]
fn rules_come_first() {
    let mut rig = Rig::ready(rules(json!([
        {"status": [403], "header": {"x-why": "content"}, "action": "ignore"},
        {"status": [401], "action": "disable", "for_ms": 0},
        {"status": [404], "action": "cooldown"},
        {"status": [503], "action": "ignore"}])));
    let mut told_of = |status, headers: &[(&str, &str)]| {
        let id = holding(&mut rig);
        rig.respond(id, status, headers);
        let told = told(&mut rig);
        if !told.is_empty() {
            rig.reply(":0\r\n");
        }
        told
    };
    assert_eq!(told_of(403, &[("x-why", "content")]), [""; 0]);
    assert_eq!(told_of(403, &[("x-why", "key")]), ["600000 disable 403"]);
    assert_eq!(told_of(401, &[]), ["0 disable 401"]);
    assert_eq!(told_of(404, &[("retry-after", "3")]), ["3000 probe"]);
    assert_eq!(told_of(429, &[]), ["5000 probe"]);
    for _ in 0..100 {
        assert_eq!(told_of(503, &[]), [""; 0], "no failure either");
    }
    assert_eq!(told_of(500, &[]), [""; 0], "one failure");
}

#[test]
fn a_rule_makes_a_failure() {
    let mut rig = Rig::ready(|json| {
        json["failing"] = json!({"consecutive": 3, "behind_ms": 7_000});
        json["upstream"] = json!({"rules": [{"header": {"x-broken": "1"}, "action": "failing"}]});
    });
    for n in 0..3 {
        let id = holding(&mut rig);
        rig.respond(id, 200, &[("x-broken", "1")]);
        let told = told(&mut rig);
        assert_eq!(told.join(" "), if n < 2 { "" } else { "7000 behind" });
    }
}

/// What a probe is answered ends it, but an answer that is ignored: that says nothing, and the next one's turn comes.
#[test]
fn a_probe_that_is_refused() {
    let mut rig = Rig::ready(rules(json!([{"status": [404], "action": "ignore"}])));
    let (id, _) = rig.probing();
    rig.respond(id, 401, &[]);
    assert_eq!(told(&mut rig), ["600000 disable 401"]);
    rig.reply(":2\r\n");
    let (id, _) = rig.probing();
    rig.respond(id, 404, &[]);
    assert!(rig.commands().is_empty());
    let (id, lease) = rig.probing();
    rig.respond(id, 400, &[]);
    assert_eq!(told(&mut rig), [format!("0 passed {lease}")]);
}

#[test]
fn local_choice_leaves_it_out() {
    for for_ms in [4_000, 0] {
        let mut rig = Rig::new(|json| {
            json["gray"]["percent"] = 0.into();
            json["traditional"] = json!({"mode": "local"});
            json["upstream"] =
                json!({"rules": [{"status": [401], "action": "disable", "for_ms": for_ms}]});
        });
        let choose = |rig: &mut Rig| {
            let (id, verdict) = rig.request(&[]);
            (id, verdict.and_then(Verdict::holds).expect("an account").1)
        };
        let mut answer = |status, other| {
            for _ in 0..100 {
                let (id, account) = choose(&mut rig);
                rig.respond(id, if account == 0 { status } else { other }, &[]);
                rig.worker.on_end(rig.now_ms, id);
                if account == 0 {
                    rig.now_ms += if for_ms == 0 { 599_999 } else { for_ms - 1 };
                    return true;
                }
            }
            false
        };
        assert!(answer(401, 200));
        assert!(!answer(200, 200));
        rig.now_ms += 1;
        let again = (0..100).any(|_| {
            let (id, account) = choose(&mut rig);
            rig.worker.on_end(rig.now_ms, id);
            account == 0
        });
        assert!(again);
    }
}

/// A 200 whose first event is an error: pushback or a failure, and no success, of a probe either.
#[test]
fn a_stream_that_begins_with_an_error() {
    use slotgate::request::headers::Headers;
    use slotgate::upstream::events::StreamError;
    let mut rig = Rig::ready(|json| {
        json["failing"] = json!({"consecutive": 3, "behind_ms": 7_000});
        json["upstream"] = json!({"sse_errors": true,
            "rules": [{"header": {"x-fine": {"present": true}}, "action": "ignore"}]});
    });
    let event = |rig: &mut Rig, id, source, error, name: &str| {
        let bytes = Headers::serialize(&[(name.as_bytes(), b"9")]);
        let answer = (source, error);
        rig.worker
            .on_first_event(rig.now_ms, id, answer, Headers::new(&bytes), 0);
        told(rig).join(" ")
    };
    let (pushback, failed) = (Some(StreamError::Pushback), Some(StreamError::Failed));
    let id = holding(&mut rig);
    let from = Source::Upstream;
    // For as long as no header says otherwise: this answer's were those of a 200.
    assert_eq!(
        event(&mut rig, id, from, pushback, "retry-after"),
        "5000 probe"
    );
    rig.reply(":5000\r\n");
    assert_eq!(event(&mut rig, id, from, pushback, "x-fine"), "");
    assert_eq!(event(&mut rig, id, Source::Envoy, pushback, "x"), "");
    for n in 0..3 {
        let id = holding(&mut rig);
        let told = event(&mut rig, id, from, failed, "x");
        assert_eq!(told, if n < 2 { "" } else { "7000 behind" });
    }
    rig.reply(":7000\r\n");
    let (id, _) = rig.probing();
    assert_eq!(event(&mut rig, id, from, failed, "x"), "", "behind already");
    let (id, lease) = rig.probing();
    assert_eq!(
        event(&mut rig, id, from, None, "x"),
        format!("0 passed {lease}")
    );
}

fn paced(json: &mut Value) {
    json["cooldown"] = json!({"headers": [
        {"name": "retry-after", "form": "seconds"},
        {"name": "x-reset", "form": "duration", "when": {"header": "x-left", "exact": "0"}, "always": true}]});
}

const SPENT: [(&str, &str); 2] = [("x-left", "0"), ("x-reset", "1.5s")];

/// It rests without a word of pushback: no probe, no failure, and each worker says it once.
#[test]
fn an_account_out_of_pace_takes_no_leases_until_its_next_turn() {
    let mut rig = Rig::ready(paced);
    let id = holding(&mut rig);
    rig.respond(
        id,
        200,
        &[("x-left", "1"), ("x-reset", "1.5s"), ("retry-after", "9")],
    );
    assert!(rig.commands().is_empty());
    rig.respond(id, 200, &SPENT);
    assert_eq!(told(&mut rig), ["1500"]);
    rig.reply(":1500\r\n");
    let counted = |rig: &Rig| {
        [Counter::OutOfPace, Counter::Cooldown, Counter::Behind].map(|counter| rig.count(counter))
    };
    assert_eq!(counted(&rig), [1, 0, 0]);
    // Those under way say the same.
    rig.now_ms += 20;
    rig.respond(id, 404, &SPENT);
    assert!(rig.commands().is_empty());
    rig.now_ms += 1_500;
    rig.respond(id, 500, &SPENT);
    assert_eq!(told(&mut rig), ["1500"]);
    rig.reply(":1500\r\n");
    assert_eq!(counted(&rig), [2, 0, 0]);
    // Pushback is that, and asks its own header first.
    rig.respond(id, 429, &[SPENT[0], SPENT[1], ("retry-after", "9")]);
    assert_eq!(told(&mut rig), ["9000 probe"]);
    rig.reply(":9000\r\n");
    assert_eq!(counted(&rig), [2, 1, 0]);
}

/// The ledger hears first that the probe has passed: while an account cools nothing passes.
#[test]
fn a_probe_that_passes_and_is_out_of_pace() {
    let mut rig = Rig::ready(paced);
    let (id, lease) = rig.probing();
    rig.respond(id, 200, &SPENT);
    assert_eq!(told(&mut rig), [format!("0 passed {lease}"), "1500".into()]);
}

/// A scope is out of pace alone, as it cools alone.
#[test]
fn a_scope_out_of_pace() {
    let mut rig = Rig::ready(|json| {
        paced(json);
        json["cooldown"]["scope"] = json!({"header": "x-model"});
    });
    let (id, _) = rig.request(&[("x-model", "opus")]);
    rig.commands();
    rig.reply(&granted("a"));
    rig.respond(id, 200, &SPENT);
    let sent = rig.commands();
    assert_eq!(sent[0].arguments(), ["a", "1500"]);
    assert!(
        sent[0]
            .0
            .iter()
            .any(|key| key.starts_with("slotgate:{p}:cooldown:"))
    );
}
