//! Requests that an account refused: cooldown, release and acquire in this order, another account, and every way out between
//! two tries.

use super::rig::*;
use serde_json::json;
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::{Path, Reason};
use slotgate::request::headers::Headers;
use slotgate::request::verdict::{Refused, Verdict};
use slotgate::upstream::failing::Source;
use slotgate::worker::counters::Counter;
use slotgate::worker::output::Answer;

/// The host's numbers of tries: no stream has one of these.
pub(super) const TRY: u32 = 1_000;

pub(super) fn tries(max_attempts: u32) -> Rig {
    with(max_attempts, |_| {})
}

pub(super) fn with(max_attempts: u32, change: impl FnOnce(&mut serde_json::Value)) -> Rig {
    Rig::ready(|json| {
        json["failover"] = json!({"max_attempts": max_attempts, "budget_ms": 10_000});
        let accounts = json["pools"][0]["accounts"].as_array_mut().unwrap();
        accounts.push(json!({"id": "c", "max_concurrency": 4}));
        change(json);
    })
}

impl Rig {
    /// A request with a slot of `a`, whose first try has gone out.
    pub(super) fn trying(&mut self) -> (Id, String) {
        let (id, lease) = self.holding();
        assert!(self.begins(id, TRY));
        (id, lease)
    }

    /// A try begins. Returns whether it goes out at once.
    pub(super) fn begins(&mut self, id: Id, context: u32) -> bool {
        self.set_clock();
        let goes = self.worker.is_first_try(id) || self.worker.on_try(self.now_ms, id, context);
        self.worker.flush(self.now_ms);
        goes
    }

    fn set_clock(&mut self) {
        self.worker.set_clock_us(self.now_ms * 1_000);
    }

    /// The try under way is answered so. Returns whether Envoy is told to try again.
    pub(super) fn refused(&mut self, id: Id, status: u16) -> bool {
        assert!(self.worker.may_refuse(id, status));
        self.set_clock();
        let bytes = Headers::serialize(&[
            (&b"retry-after"[..], &b"3"[..]),
            (b"content-length", b"9"),
            (b"x-provider", b"p"),
        ]);
        self.worker
            .on_try_answered(self.now_ms, id, status, Headers::new(&bytes), 0)
    }

    /// A try ends without an answer.
    pub(super) fn ends(&mut self, id: Id, context: u32) {
        self.worker.on_try_unanswered(self.now_ms, id, context);
    }

    fn next_answers(&mut self) -> Vec<Answer> {
        std::iter::from_fn(|| self.worker.next_answer()).collect()
    }

    /// The only answer: it goes to this try, and lets it out with this account.
    #[track_caller]
    fn assert_goes_out(&mut self, context: u32, account: u32) -> Answer {
        let answers = self.next_answers();
        let [answer] = &answers[..] else {
            panic!("{answers:?}");
        };
        let later = answer.later.as_deref().expect("a later try");
        assert_eq!(later.context, context);
        assert_eq!(
            answer.verdict.holds().map(|(_, account)| account),
            Some(account)
        );
        assert_eq!(answer.verdict.path(), Some(Path::Atomic));
        answer.clone()
    }

    /// The only answer: it goes to this try, and is the end of it.
    #[track_caller]
    fn assert_exhausted(&mut self, context: u32, reason: Reason) -> Answer {
        let answers = self.next_answers();
        let [answer] = &answers[..] else {
            panic!("{answers:?}");
        };
        assert_eq!(
            answer.later.as_deref().map(|later| later.context),
            Some(context)
        );
        assert!(
            matches!(answer.verdict, Verdict::Exhausted { .. }),
            "{answer:?}"
        );
        assert_eq!(answer.verdict.reason(), Some(reason));
        answer.clone()
    }
}

/// What tells one script's command from another's.
fn kinds(sent: &[Sent]) -> Vec<String> {
    let kind = |sent: &Sent| match sent.arguments() {
        [account, _, what, ..] if what == "probe" || what == "cool" => format!("cool {account}"),
        [account, _, what, ..] if what == "behind" => format!("behind {account}"),
        [account, _, what, ..] if what == "disable" => format!("disable {account}"),
        arguments if sent.is_release() => format!("release {}", arguments.len()),
        arguments if arguments.len() > 5 => format!("acquire, {}", arguments[3]),
        arguments => panic!("{arguments:?}"),
    };
    sent.iter().map(kind).collect()
}

/// A key that was revoked: out of use, and another account's turn. One that a header makes no refusal goes to the client.
#[test]
fn a_revoked_key_is_a_refusal() {
    let mut rig = Rig::ready(|json| {
        json["failover"] = serde_json::json!({"max_attempts": 3});
        json["upstream"] = serde_json::json!({"rules": [
            {"status": [403], "header": {"x-provider": "p"}, "action": "ignore"}]});
    });
    let (id, _) = rig.trying();
    assert!(rig.refused(id, 401));
    assert!(!rig.begins(id, TRY + 1));
    let sent = rig.commands();
    assert_eq!(
        kinds(&sent),
        ["disable a", "release 1", "acquire, take not a"]
    );
    rig.reply(":1\r\n");
    rig.reply(":1\r\n");
    rig.reply(&granted("b"));
    rig.assert_goes_out(TRY + 1, 1);
    assert!(!rig.refused(id, 403), "its header says otherwise");
    rig.respond(id, 403, &[("x-provider", "p")]);
    assert!(rig.commands().is_empty());
    let (other, _) = rig.trying();
    assert!(!rig.worker.may_refuse(other, 404));
}

#[test]
fn cooldown_then_release_then_acquire() {
    let mut rig = tries(3);
    let (id, first) = rig.trying();
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    let sent = rig.commands();
    assert_eq!(kinds(&sent), ["cool a", "release 1", "acquire, take not a"]);
    assert!(sent[1].is_release_of(&first));
    let second = sent[2].lease();
    assert_ne!(first, second);
    rig.reply(":3000\r\n");
    rig.reply(":1\r\n");
    rig.reply(&granted("b"));
    let answer = rig.assert_goes_out(TRY + 1, 1);
    let later = answer.later.unwrap();
    assert_eq!((answer.request, later.before), (id, Some(0)));
    let kept = [(&b"retry-after"[..], &b"3"[..]), (b"x-provider", b"p")];
    let kept = Headers::serialize(&kept);
    let refused = Refused {
        status: 429,
        grpc_status: None,
        headers: kept,
    };
    assert_eq!(later.refused, Some(refused));

    // The second is refused too, and the third serves.
    assert!(rig.refused(id, 529));
    assert!(!rig.begins(id, TRY + 2));
    let sent = rig.commands();
    assert_eq!(
        kinds(&sent),
        ["cool b", "release 1", "acquire, take not a b"]
    );
    assert!(sent[1].is_release_of(&second));
    for reply in [":3000\r\n", ":1\r\n", &granted("c")] {
        rig.reply(reply);
    }
    let answer = rig.assert_goes_out(TRY + 2, 2);
    assert_eq!(answer.later.unwrap().before, Some(1));
    rig.respond(id, 200, &[]);
    assert_eq!(rig.count(Counter::FailoverServed), 1);
    assert_eq!(
        rig.count(Counter::Atomic),
        2,
        "that of `ready` and this one"
    );
    assert_eq!(rig.worker.tries(id), 3);
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(kinds(&rig.commands_soon()), ["release 1"]);
    rig.reply(":1\r\n");
    assert!(rig.worker.is_idle());
}

#[test]
fn the_last_refusal_passes() {
    let mut rig = tries(2);
    let (id, _) = rig.trying();
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    rig.commands();
    for reply in [":3000\r\n", ":1\r\n", &granted("b")] {
        rig.reply(reply);
    }
    rig.assert_goes_out(TRY + 1, 1);
    assert!(!rig.refused(id, 429), "two tries in all");
    // The downstream half sees it too, and does nothing twice.
    rig.respond(id, 429, &[]);
    assert_eq!(kinds(&rig.commands()), ["cool b"]);
    assert_eq!(rig.count(Counter::FailoverExhausted), 1);
    assert_eq!(rig.count(Counter::FailoverServed), 0);
    assert_eq!(rig.count(Counter::Cooldown), 2);
}

#[test]
fn no_try_begins_later_than_the_budget_says() {
    let mut rig = tries(3);
    rig.set_clock();
    let (id, _) = rig.trying();
    rig.now_ms += 10_000;
    assert!(!rig.refused(id, 429));
    assert_eq!(rig.count(Counter::FailoverOverBudget), 1);
}

/// Envoy does not know of the budget when nothing answered: the same account gets it again.
#[test]
fn a_try_without_an_answer_after_the_budget_goes_to_the_same_account_and_is_counted() {
    let mut rig = with(3, |json| json["failing"] = json!({"consecutive": 2}));
    rig.set_clock();
    let (id, lease) = rig.trying();
    rig.now_ms += 10_000;
    rig.ends(id, TRY);
    assert!(rig.begins(id, TRY + 1));
    assert_eq!(rig.count(Counter::FailoverOverBudget), 1);
    assert_eq!(rig.worker.accounts(0).0[0].refused, 1);
    // Each is a failure, and the request counts once.
    rig.ends(id, TRY + 1);
    assert!(rig.begins(id, TRY + 2));
    assert_eq!(rig.count(Counter::Behind), 1);
    assert_eq!(rig.count(Counter::FailoverOverBudget), 1);
    // Its answer is judged as any other, and is another account's no more than before.
    rig.respond(id, 200, &[]);
    assert_eq!(rig.count(Counter::FailoverServed), 0);
    assert_eq!(rig.count(Counter::FailoverExhausted), 0);
    rig.worker.on_end(rig.now_ms, id);
    let sent = rig.commands_soon();
    assert!(
        sent.iter().any(|sent| sent.is_release_of(&lease)),
        "{sent:?}"
    );

    // So does a refusal of it.
    let mut rig = with(3, |_| {});
    rig.set_clock();
    let (id, _) = rig.trying();
    rig.now_ms += 10_000;
    rig.ends(id, TRY);
    assert!(rig.begins(id, TRY + 1));
    assert!(!rig.refused(id, 429));
    assert_eq!(rig.count(Counter::FailoverOverBudget), 1);
    assert_eq!(rig.count(Counter::Cooldown), 1);
    assert_eq!(rig.worker.accounts(0).0[0].refused, 2);
}

#[test]
fn without_another_account_it_is_exhausted() {
    let mut rig = tries(3);
    let (id, first) = rig.trying();
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    rig.commands();
    for reply in [":3000\r\n", ":1\r\n", "*2\r\n$1\r\n9\r\n:2500\r\n"] {
        rig.reply(reply);
    }
    let answer = rig.assert_exhausted(TRY + 1, Reason::Saturated);
    let Verdict::Exhausted { retry_after_ms, .. } = answer.verdict else {
        panic!("{answer:?}");
    };
    assert_eq!(retry_after_ms, Some(2_500));
    assert_eq!(rig.count(Counter::FailoverNoOther), 1);
    // Whatever the retry policy does: what has no slot does not go out.
    assert!(!rig.begins(id, TRY + 2));
    rig.assert_exhausted(TRY + 2, Reason::Saturated);
    rig.worker.on_end(rig.now_ms, id);
    let sent = rig.commands_soon();
    assert!(
        !sent.iter().any(|sent| sent.is_release_of(&first)),
        "{sent:?}"
    );
    assert!(rig.worker.is_idle());
}

#[test]
fn without_redis_it_is_exhausted_and_never_traditional() {
    for at_once in [true, false] {
        let mut rig = tries(3);
        let (id, _) = rig.trying();
        assert!(rig.refused(id, 429));
        if at_once {
            rig.worker.on_pipe_closed(rig.now_ms);
            assert!(!rig.begins(id, TRY + 1));
        } else {
            assert!(!rig.begins(id, TRY + 1));
            rig.worker.on_pipe_closed(rig.now_ms);
        }
        // No pipe opens any more.
        let mut answers = rig.next_answers();
        while answers.is_empty() {
            rig.wait(100);
            if rig.worker.wire().order.take() == Some(PipeOrder::Open) {
                rig.worker.on_pipe_closed(rig.now_ms);
            }
            answers = rig.next_answers();
        }
        let verdicts: Vec<_> = answers.iter().map(|answer| answer.verdict).collect();
        assert!(
            matches!(verdicts[..], [Verdict::Exhausted { .. }]),
            "{verdicts:?}"
        );
    }
}

#[test]
fn a_client_that_leaves_between_two_tries_leaves_nothing() {
    // Refused, and the next try has not begun.
    let mut rig = tries(3);
    let (id, first) = rig.trying();
    assert!(rig.refused(id, 429));
    rig.worker.on_end(rig.now_ms, id);
    let sent = rig.commands_soon();
    assert_eq!(kinds(&sent), ["cool a", "release 1"]);
    assert!(sent[1].is_release_of(&first));

    // Begun, and its acquire not answered: the first is over, the second in doubt.
    let mut rig = tries(3);
    let (id, _) = rig.trying();
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    let second = rig.commands()[2].lease();
    rig.worker.on_end(rig.now_ms, id);
    rig.ends(id, TRY + 1);
    let sent = rig.commands_soon();
    assert_eq!(kinds(&sent), ["release 1"]);
    assert!(sent[0].is_release_of(&second));
    assert_eq!(rig.count(Counter::InDoubt), 1);
    for reply in [":3000\r\n", ":1\r\n", &granted("b"), ":1\r\n"] {
        rig.reply(reply);
    }
    assert!(rig.next_answers().is_empty());

    // In the same round: Redis never hears of the second.
    let mut rig = tries(3);
    let (id, first) = rig.trying();
    assert!(rig.refused(id, 429));
    rig.set_clock();
    assert!(!rig.worker.on_try(rig.now_ms, id, TRY + 1));
    rig.worker.on_end(rig.now_ms, id);
    rig.worker.flush(rig.now_ms);
    let sent = rig.commands_soon();
    assert_eq!(kinds(&sent), ["cool a", "release 1"]);
    assert!(sent[1].is_release_of(&first));
}

#[test]
fn a_try_that_comes_while_it_acquires_waits_for_the_same_answer() {
    let mut rig = tries(3);
    let (id, _) = rig.trying();
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    assert_eq!(rig.commands().len(), 3);
    // Its time is over, and the next one comes.
    rig.ends(id, TRY + 1);
    assert!(!rig.begins(id, TRY + 2));
    assert!(rig.commands().is_empty());
    for reply in [":3000\r\n", ":1\r\n", &granted("b")] {
        rig.reply(reply);
    }
    rig.assert_goes_out(TRY + 2, 1);

    // Granted while no try is there: the next one gets it, once.
    let mut rig = tries(3);
    let (id, _) = rig.trying();
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    rig.commands();
    rig.ends(id, TRY + 1);
    for reply in [":3000\r\n", ":1\r\n", &granted("b")] {
        rig.reply(reply);
    }
    assert!(rig.next_answers().is_empty());
    assert!(!rig.begins(id, TRY + 2));
    rig.assert_goes_out(TRY + 2, 1);
    assert!(rig.next_answers().is_empty());
    // One that Envoy's own policy adds shares the slot.
    assert!(rig.begins(id, TRY + 3));
}

#[test]
fn envoys_own_answer_between_two_tries_is_their_end() {
    let mut rig = tries(3);
    let (id, _) = rig.trying();
    rig.worker.on_answer_between(id);
    assert!(rig.refused(id, 429));
    rig.worker.on_answer_between(id);
    assert_eq!(
        rig.count(Counter::FailoverExhausted),
        0,
        "it has an account"
    );
    assert!(!rig.begins(id, TRY + 1));
    rig.worker.on_answer_between(id);
    assert_eq!(rig.count(Counter::FailoverExhausted), 1);
}

#[test]
fn a_try_without_an_answer_counts_as_a_failure_and_is_followed_by_another_account() {
    let mut rig = with(3, |json| json["failing"] = json!({"consecutive": 1}));
    let (id, _) = rig.trying();
    rig.ends(id, TRY);
    assert!(!rig.begins(id, TRY + 1));
    let sent = rig.commands();
    assert_eq!(
        kinds(&sent),
        ["behind a", "release 1", "acquire, take not a"]
    );
    for reply in [":30000\r\n", ":1\r\n", &granted("b")] {
        rig.reply(reply);
    }
    rig.assert_goes_out(TRY + 1, 1);
    assert_eq!(rig.count(Counter::Behind), 1);
    assert_eq!(rig.count(Counter::Cooldown), 0);
    // The last one fails as well: that is Envoy's own 503.
    rig.ends(id, TRY + 1);
    rig.respond_from(Source::NoUpstream, id, 503, &[]);
    assert_eq!(rig.count(Counter::FailoverExhausted), 1);
    assert_eq!(rig.count(Counter::Behind), 2);
}

#[test]
fn where_envoy_does_not_try_again_it_is_said_once() {
    let mut rig = tries(3);
    for _ in 0..3 {
        let (id, _) = rig.trying();
        assert!(rig.refused(id, 429));
        rig.respond(id, 429, &[]);
        rig.worker.on_end(rig.now_ms, id);
        for _ in rig.commands_soon() {
            rig.reply(":1\r\n");
        }
    }
    let said = said(&mut rig);
    let same = |line: &&String| line.contains("pool p: Envoy did not try a refused request again");
    assert_eq!(said.iter().filter(same).count(), 1, "{said:?}");
    assert_eq!(rig.count(Counter::FailoverNotRetried), 3);
    assert_eq!(rig.count(Counter::Cooldown), 3);
}

#[test]
fn a_later_try_waits_in_the_queue_within_its_budget() {
    let waits = "*2\r\n$1\r\n9\r\n$30\r\n~1732999999123456001 4000 5000\r\n";
    let mut rig = with(3, |json| {
        json["saturated"] = json!({"action": "queue", "queue": {"max_wait_ms": 60_000}});
    });
    rig.set_clock();
    let (id, _) = rig.trying();
    rig.now_ms += 4_000;
    assert!(rig.refused(id, 429));
    assert!(!rig.begins(id, TRY + 1));
    let sent = rig.commands();
    let acquire = sent[2].arguments();
    assert!(
        acquire[3].starts_with("join ") && acquire[3].ends_with(" not a"),
        "{acquire:?}"
    );
    assert!(
        acquire[6].ends_with(" +4000"),
        "as if since it came: {acquire:?}"
    );
    for reply in [":3000\r\n", ":1\r\n", waits] {
        rig.reply(reply);
    }
    assert!(rig.next_answers().is_empty());
    let began_ms = rig.now_ms;
    for _ in 0..1_000 {
        rig.wait(100);
        for _ in rig.commands() {
            rig.reply(waits);
        }
        if rig.count(Counter::FailoverNoOther) > 0 {
            break;
        }
    }
    let waited_ms = rig.now_ms - began_ms;
    assert!((5_900..=6_300).contains(&waited_ms), "{waited_ms}");
    rig.assert_exhausted(TRY + 1, Reason::QueueTimeout);
}

#[test]
fn with_one_attempt_nothing_is_a_refusal() {
    let mut rig = tries(1);
    let (id, _) = rig.trying();
    assert!(!rig.worker.may_refuse(id, 429));
    rig.ends(id, TRY);
    assert!(rig.begins(id, TRY + 1));
    rig.respond(id, 429, &[]);
    assert_eq!(kinds(&rig.commands()), ["cool a"]);
}
