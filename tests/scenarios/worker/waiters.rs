//! Requests that wait in the ledger's queue: asked for again, granted by what is heard, ended in every way.

use super::rig::*;
use serde_json::json;
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::Reason;
use slotgate::request::verdict::Verdict;
use slotgate::worker::counters::Counter;

const ORDER: &str = "1732999999123456001";

fn queued(change: impl FnOnce(&mut serde_json::Value)) -> Rig {
    Rig::ready(|json| {
        json["saturated"] = json!({"action": "queue", "queue": {"max_wait_ms": 30_000}});
        change(json);
    })
}

/// Those that wait in each pool, whatever ends it. Pools without metrics of their own are counted together.
#[test]
fn who_waits_is_counted_by_pool() {
    let mut rig = Rig::new(|json| {
        let mut pools = vec![json["pools"][0].clone(); 3];
        for (pool, name) in pools.iter_mut().zip(["p", "q", "r"]) {
            pool["name"] = name.into();
            pool["match"] = json!([{"header": "x-pool", "exact": name}]);
        }
        json["pools"] = pools.into();
        json["metrics"] = json!({"max_pools": 1});
        json["saturated"] = json!({"action": "queue", "queue": {"max_wait_ms": 30_000}});
    });
    let (id, _) = rig.request(&[("x-pool", "p")]);
    rig.open();
    rig.reply(&CURRENT.repeat(3));
    rig.reply(&granted("a"));
    rig.answers();
    rig.worker.on_end(rig.now_ms, id);
    rig.commands_soon();
    rig.reply(":1\r\n");
    let begin = |rig: &mut Rig, pool: &str| {
        let (id, _) = rig.request(&[("x-pool", pool)]);
        rig.reply(&waits(0));
        id
    };
    assert_eq!(rig.worker.counters().waiting, [0, 0]);
    let ids = ["p", "p", "q", "r"].map(|pool| begin(&mut rig, pool));
    assert_eq!(rig.worker.counters().waiting, [2, 2]);
    assert_eq!(rig.worker.gauges().0[4], 4, "all of them");
    rig.commands();
    rig.worker.on_end(rig.now_ms, ids[0]);
    rig.worker.on_end(rig.now_ms, ids[2]);
    assert_eq!(rig.worker.counters().waiting, [1, 1]);
    rig.worker.on_end(rig.now_ms, ids[2]);
    // The others are asked for again, and given a slot.
    rig.asked_within(300, &granted("a")).expect("both");
    assert_eq!(rig.answers().len(), 2);
    assert_eq!(rig.worker.counters().waiting, [0, 0]);
    assert_eq!(rig.worker.gauges().0[4], 0);
}

/// The answer to one lease that waits.
fn waits(wake_ms: u64) -> String {
    let text = format!("~{ORDER} 4000 {wake_ms}");
    format!("*2\r\n$1\r\n9\r\n${}\r\n{text}\r\n", text.len())
}

fn refused(text: &str) -> String {
    format!("*2\r\n$1\r\n9\r\n${}\r\n{text}\r\n", text.len())
}

fn message(text: &str) -> String {
    let channel = "slotgate:grants:0";
    format!(
        "*3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n{text}\r\n",
        channel.len(),
        text.len()
    )
}

impl Rig {
    /// A request that stands in the queue.
    fn waiting(&mut self) -> (Id, String) {
        let (id, lease) = self.acquiring();
        self.reply(&waits(0));
        assert!(self.answers().is_empty());
        (id, lease)
    }

    /// What was written on the connection on which grants are heard.
    fn said(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.worker.grants_wire().bytes)).unwrap()
    }

    fn hear(&mut self, bytes: &str) {
        self.worker.on_grants_bytes(self.now_ms, bytes.as_bytes());
        self.worker.flush(self.now_ms);
    }

    /// Opens the connection on which grants are heard.
    fn listen(&mut self) {
        self.until(|worker| worker.grants_wire().order == Some(PipeOrder::Open));
        self.worker.grants_wire().order = None;
        self.worker.on_grants_open(self.now_ms);
        assert!(self.said().contains("SETNAME"));
        self.hear("+OK\r\n");
        let said = self.said();
        assert!(
            said.contains("SUBSCRIBE\r\n$32\r\nslotgate:grants:"),
            "{said}"
        );
        self.hear("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    }

    /// The next acquire within this long, in ms, and after how long. It is answered so; what else was sent is, too.
    fn asked_within(&mut self, ms: u64, answer: &str) -> Option<(u64, Sent)> {
        let begin_ms = self.now_ms;
        let mut found = None;
        while self.now_ms < begin_ms + ms && found.is_none() {
            self.wait(10);
            self.worker.flush(self.now_ms);
            // As the host does.
            let order = &mut self.worker.grants_wire().order;
            order.take_if(|order| *order == PipeOrder::Reset);
            for command in self.commands() {
                if command.is_acquire() {
                    self.reply(answer);
                    found = Some((self.now_ms - begin_ms, command));
                } else {
                    self.reply(if command.is_reconcile() {
                        "*2\r\n$9\r\nelsewhere\r\n:0\r\n"
                    } else if command.is_release() {
                        ":0\r\n"
                    } else {
                        // A renewal.
                        "*2\r\n$1\r\n9\r\n$1\r\nr\r\n"
                    });
                }
            }
            assert!(self.worker.wire().order.is_none(), "the pipe is lost");
        }
        found
    }
}

fn rejected(verdict: &Verdict) -> (Option<Reason>, u64) {
    match verdict {
        Verdict::Saturated { retry_after_ms, .. } => (verdict.reason(), *retry_after_ms),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_acquire_says_how_it_would_wait() {
    let mut rig = queued(|json| {
        json["tenant"] = json!({"source": [{"header": "x-tenant"}], "max_concurrency": 7, "max_waiting": 5, "weight": 3});
    });
    rig.request(&[]);
    let sent = rig.commands();
    let arguments = sent[0].arguments();
    let channel = arguments[3]
        .strip_prefix("join 1000 6000 slotgate:grants:")
        .unwrap();
    assert_eq!(channel.len(), 16);
    assert_eq!(arguments[6], "0 0 1 0 -");
    rig.reply(&granted("a"));
    rig.request(&[("x-tenant", "t")]);
    let sent = rig.commands();
    let arguments = sent[0].arguments();
    assert_eq!(arguments[5].len(), 41, "{arguments:?}");
    assert_eq!(arguments[6], "7 5 3 1 -");
}

#[test]
fn it_is_asked_for_again_and_less_often_once_grants_are_heard() {
    let mut rig = queued(|_| {});
    let (_, lease) = rig.waiting();
    let (after_ms, asked) = rig.asked_within(1_000, &waits(0)).expect("it is asked for");
    assert!((240..=270).contains(&after_ms), "{after_ms}");
    assert_eq!(asked.lease(), lease);
    assert_eq!(asked.arguments()[6], format!("0 0 1 0 {ORDER}"));
    rig.listen();
    rig.asked_within(1_000, &waits(0));
    let said = rig.said();
    assert!(
        said.contains("SUBSCRIBE"),
        "is the connection alive? {said}"
    );
    rig.hear("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    let (after_ms, _) = rig
        .asked_within(5_000, &granted("a"))
        .expect("it is asked for");
    assert!((1_900..=2_100).contains(&after_ms), "{after_ms}");
    assert_eq!(rig.answers().len(), 1);
    assert_eq!(rig.count(Counter::QueueGranted), 1);
    assert!(rig.asked_within(5_000, "").is_none(), "nobody waits");
}

#[test]
fn what_is_heard_grants_it_at_once() {
    let mut rig = queued(|json| json["affinity"] = json!({"ttl_ms": 60_000}));
    let (id, verdict) = rig.request(&[("x-session-id", "s")]);
    assert_eq!(verdict, None);
    let lease = rig.commands()[0].lease();
    rig.reply(&waits(0));
    rig.listen();
    // Not its own, no grant, cut in two.
    rig.hear(&message("0 0123456789abcdef00000000 a 9"));
    rig.hear(&message("7 0123456789abcdef00000000 a 9"));
    rig.hear(&message("18446744073709551616 x a 9"));
    rig.hear(&message("garbage"));
    assert!(rig.answers().is_empty());
    let said = message(&format!("{} {lease} a 9", id.slot));
    let (first, rest) = said.split_at(30);
    rig.hear(first);
    rig.hear(rest);
    let answers = rig.answers();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1.holds().map(|(_, account)| account), Some(0));
    // Its session is bound by asking for it once more; the answer changes nothing.
    let sent = rig.commands();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (sent[0].is_acquire(), sent[0].lease()),
        (true, lease.clone())
    );
    rig.reply(&granted("a"));
    assert!(rig.answers().is_empty());
    // Heard twice.
    rig.hear(&said);
    assert!(rig.answers().is_empty());
    assert_eq!(rig.count(Counter::LateGrant), 0);
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
}

#[test]
fn a_release_says_what_it_handed_on() {
    let mut rig = queued(|_| {});
    let (holder, _) = rig.holding();
    let (id, lease) = rig.waiting();
    rig.worker.on_end(rig.now_ms, holder);
    rig.commands_soon();
    let text = format!("{} {lease} a:probe 9", id.slot);
    rig.reply(&format!("*2\r\n:1\r\n${}\r\n{text}\r\n", text.len()));
    assert_eq!(rig.answers().len(), 1);
    // The rig's own first request released one before.
    let counts = (rig.count(Counter::Released), rig.count(Counter::Probe));
    assert_eq!(counts, (2, 1));
    // The heartbeat's answer came later than what was heard.
    assert_eq!(rig.count(Counter::LateGrant), 0);
}

#[test]
fn it_waits_no_longer_than_it_may() {
    let mut rig = queued(|json| json["saturated"]["queue"]["max_wait_ms"] = json!(1_500));
    let (_, lease) = rig.waiting();
    let begin_ms = rig.now_ms;
    rig.until(|worker| worker.counters().get(Counter::QueueTimedOut) > 0);
    assert_eq!(rig.now_ms - begin_ms, 1_500);
    let answers = rig.answers();
    assert_eq!(rejected(&answers[0].1), (Some(Reason::QueueTimeout), 4_000));
    let released = |sent: &Sent| sent.0[0].starts_with("EVAL") && sent.is_release_of(&lease);
    assert!(rig.commands_soon().iter().any(released));
    assert_eq!(rig.count(Counter::InDoubt), 0);
}

#[test]
fn it_leaves_the_queue_with_its_client() {
    let mut rig = queued(|_| {});
    let (id, lease) = rig.waiting();
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
    rig.reply(":0\r\n");
    assert_eq!(
        (rig.count(Counter::QueueLeft), rig.count(Counter::InDoubt)),
        (1, 0)
    );
    assert!(rig.asked_within(5_000, "").is_none());
    assert!(rig.worker.is_idle());
}

#[test]
fn refusals_have_their_reasons() {
    for (text, reason) in [
        ("!full 7000", Reason::WaitingFull),
        ("!tenant 7000", Reason::TenantLimit),
    ] {
        let mut rig = queued(|json| {
            json["saturated"]["queue"]["otherwise"] = json!("traditional");
            json["tenant"] = json!({"source": [{"header": "x-tenant"}], "max_concurrency": 1});
        });
        rig.acquiring();
        rig.reply(&refused(text));
        let answers = rig.answers();
        match reason {
            Reason::TenantLimit => assert_eq!(rejected(&answers[0].1), (Some(reason), 7_000)),
            _ => assert_eq!(answers[0].1, passed_on(reason).unwrap()),
        }
    }
}

#[test]
fn it_outlives_a_short_loss_of_the_pipe_and_is_asked_for_at_once() {
    let mut rig = queued(|_| {});
    let (_, lease) = rig.waiting();
    rig.worker.on_pipe_closed(rig.now_ms);
    assert!(rig.answers().is_empty());
    rig.reopen();
    // That of the sync, answered already.
    rig.commands();
    let (after_ms, asked) = rig
        .asked_within(100, &granted("a"))
        .expect("it is asked for");
    assert!(after_ms <= 20, "{after_ms}");
    assert_eq!(asked.lease(), lease);
    assert!(asked.arguments()[6].ends_with(ORDER), "it keeps its place");
    assert_eq!(rig.answers().len(), 1);
}

#[test]
fn its_place_is_lost_when_the_pipe_is_away_for_too_long() {
    let mut rig = queued(|_| {});
    rig.waiting();
    rig.worker.on_pipe_closed(rig.now_ms);
    let begin_ms = rig.now_ms;
    while rig.count(Counter::QueueFailed) == 0 {
        rig.wait(10);
        if rig.worker.wire().order.take() == Some(PipeOrder::Open) {
            rig.worker.on_pipe_closed(rig.now_ms);
        }
        assert!(rig.now_ms < begin_ms + 10_000);
    }
    let after_ms = rig.now_ms - begin_ms;
    assert!((6_000..6_100).contains(&after_ms), "{after_ms}");
    let answers = rig.answers();
    assert_eq!(answers[0].1, passed_on(Reason::PipeDown).unwrap());
}

#[test]
fn an_error_of_the_moment_does_not_end_its_wait() {
    let mut rig = queued(|_| {});
    rig.waiting();
    rig.asked_within(1_000, LUA).expect("it is asked for");
    assert!(rig.answers().is_empty());
    rig.asked_within(1_000, &granted("a"))
        .expect("it is asked for again");
    assert_eq!(rig.answers().len(), 1);
}

/// Without a queue nothing would ever end its wait.
#[test]
fn nobody_waits_where_there_is_no_queue() {
    let mut rig = Rig::ready(|json| {
        json["tenant"] = json!({"source": [{"header": "x-tenant"}], "max_concurrency": 1});
    });
    let (_, lease) = rig.acquiring();
    rig.reply(&waits(0));
    let answers = rig.answers();
    assert_eq!(answers[0].1, passed_on(Reason::Refused).unwrap());
    assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
}

#[test]
fn the_end_of_a_cooldown_is_not_slept_through() {
    let mut rig = queued(|_| {});
    rig.waiting();
    rig.listen();
    rig.asked_within(3_000, &waits(700))
        .expect("it is asked for");
    let (after_ms, _) = rig.asked_within(3_000, &waits(0)).expect("it is asked for");
    assert!((700..=720).contains(&after_ms), "{after_ms}");
}

#[test]
fn a_server_that_lets_nobody_listen_is_left_alone_for_a_while() {
    let mut rig = queued(|json| json["saturated"]["queue"]["max_wait_ms"] = json!(200_000));
    rig.waiting();
    rig.until(|worker| worker.grants_wire().order == Some(PipeOrder::Open));
    rig.worker.grants_wire().order = None;
    rig.worker.on_grants_open(rig.now_ms);
    rig.hear("+OK\r\n");
    rig.hear("-NOPERM No permissions to access a channel\r\n");
    let begin_ms = rig.now_ms;
    for _ in 0..400 {
        if rig.worker.grants_wire().order == Some(PipeOrder::Open) {
            break;
        }
        rig.worker.grants_wire().order = None;
        assert!(rig.now_ms < begin_ms + 100_000, "never asked again");
        rig.asked_within(300, &waits(0))
            .expect("every 250 ms, since nothing is heard");
    }
    let after_ms = rig.now_ms - begin_ms;
    assert!(after_ms >= 60_000, "{after_ms}");
}

/// Thousands that wait are asked for in steps, and within the time that the ledger keeps them.
#[test]
fn thousands_are_asked_for_in_steps() {
    let mut rig = queued(|json| json["redis"]["max_pending"] = json!(10_000));
    for _ in 0..3_000 {
        rig.request_among_others(&[]);
    }
    rig.worker.flush(rig.now_ms);
    let leases = |sent: &Sent| {
        sent.arguments()[5..]
            .iter()
            .filter(|one| one.len() == 24)
            .count()
    };
    let answer = |rig: &mut Rig| {
        let sent = rig.commands();
        let mut asked = 0;
        for one in &sent {
            let count = if one.is_acquire() { leases(one) } else { 0 };
            asked += count;
            let each = format!("$28\r\n~{ORDER} 4000 0\r\n")
                .replace("$28", &format!("${}", ORDER.len() + 8));
            rig.reply(&if count > 0 {
                format!("*{}\r\n$1\r\n9\r\n{}", count + 1, each.repeat(count))
            } else {
                ":0\r\n".into()
            });
        }
        asked
    };
    assert_eq!(answer(&mut rig), 3_000);
    let begin_ms = rig.now_ms;
    let mut asked = 0;
    while asked < 3_000 {
        rig.wait(10);
        rig.worker.flush(rig.now_ms);
        let now = answer(&mut rig);
        assert!(now <= 700, "{now} at once");
        asked += now;
        assert!(rig.now_ms < begin_ms + 1_000, "{asked}");
    }
}

#[test]
fn whoever_asks_about_it_is_told_that_it_waits() {
    let mut rig = queued(|_| {});
    rig.request(&[]);
    rig.worker.identify(b"first");
    rig.commands();
    rig.reply(&granted("a"));
    rig.answers();
    let (_, lease) = rig.acquiring();
    rig.worker.identify(b"mine");
    let told = |rig: &Rig, question: &str| -> serde_json::Value {
        let answer = rig.worker.recall(rig.now_ms, question.as_bytes());
        serde_json::from_str(&answer.unwrap()).unwrap()
    };
    assert_eq!(told(&rig, "n request mine")["way"], "undecided");
    rig.reply(&waits(0));
    rig.now_ms += 1_234;
    for question in ["n request mine".to_owned(), format!("n lease {lease}")] {
        let expected = json!({
            "nonce": "n", "way": "waiting", "reason": null, "pool": "p", "account": null, "lease": lease,
            "bucket": told(&rig, &question)["bucket"], "below": 10_000, "waited_ms": 1_234, "ago_ms": 0,
        });
        assert_eq!(told(&rig, &question), expected);
    }
    assert_eq!(told(&rig, "n request first")["way"], "atomic");
    assert_eq!(rig.worker.recall(rig.now_ms, b"n lease other"), None);
    rig.listen();
    rig.asked_within(3_000, &granted("b"));
    rig.answers();
    for question in ["n request mine".to_owned(), format!("n lease {lease}")] {
        assert_eq!(told(&rig, &question)["way"], "atomic");
        assert_eq!(told(&rig, &question)["account"], "b");
    }
}

/// Redis lost its data after it had granted the slot, and the acquire came after that.
#[test]
fn a_slot_that_the_ledger_has_elsewhere_is_put_right_at_once() {
    for (answer, right) in [
        (granted("b"), false),
        (waits(0), false),
        (granted("a"), true),
    ] {
        for binds in [true, false] {
            let mut rig = queued(|json| json["affinity"] = json!({"ttl_ms": 60_000}));
            let session: &[_] = if binds { &[("x-session-id", "s")] } else { &[] };
            let (id, verdict) = rig.request(session);
            assert_eq!(verdict, None);
            let lease = rig.commands()[0].lease();
            rig.reply(&waits(0));
            rig.listen();
            if !binds {
                let mut asked = false;
                for _ in 0..300 {
                    rig.wait(10);
                    rig.worker.flush(rig.now_ms);
                    asked = rig.commands().iter().any(Sent::is_acquire);
                    if asked {
                        break;
                    }
                }
                assert!(asked, "a heartbeat");
            }
            rig.hear(&message(&format!("{} {lease} a 9", id.slot)));
            assert_eq!(rig.answers().len(), 1);
            assert_eq!(rig.commands().len(), usize::from(binds));
            rig.reply(&answer);
            rig.worker.flush(rig.now_ms);
            let sent = rig.commands();
            assert_eq!(sent.len(), usize::from(!right), "{answer} {binds}");
            if let [renewal] = &sent[..] {
                assert_eq!(renewal.arguments()[1..], [lease.as_str(), "a", "9"]);
            }
        }
    }
}
