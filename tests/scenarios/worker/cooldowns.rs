//! What an upstream's answers say of its account: it rests, it fails, or its probe passed.

use super::overrides::{POLL_MS, looking, seen, settle};
use super::rig::{Id, Rig, Sent, granted, said};
use slotgate::pool::state::State;
use slotgate::request::verdict::Verdict;
use slotgate::upstream::failing::Source;
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;

#[test]
fn pushback_cools_the_account_down() {
    let mut rig = Rig::ready(|_| {});
    let (id, _) = rig.holding();
    rig.respond(id, 200, &[]);
    assert!(rig.commands().is_empty());
    rig.respond(id, 429, &[("retry-after", "7")]);
    assert_eq!(rig.commands()[0].arguments(), ["a", "7000", "probe"]);
    assert_eq!(rig.count(Counter::CooldownMalformed), 0);
    rig.respond(id, 529, &[("retry-after", "soon")]);
    assert_eq!(rig.commands()[0].arguments(), ["a", "5000", "probe"]);
    assert_eq!(rig.count(Counter::CooldownMalformed), 1);
    // Of a status that is no pushback, and of a stream that is over, no header is judged.
    rig.respond(id, 200, &[("retry-after", "soon")]);
    let stranger = Id {
        stream: id.stream + 1,
        ..id
    };
    rig.respond(stranger, 429, &[("retry-after", "soon")]);
    assert!(rig.commands().is_empty());
    assert_eq!(rig.count(Counter::CooldownMalformed), 1);
}

/// Only a lease that the ledger calls a probe, and only the upstream's own word; said once.
#[test]
fn a_probe_that_passes_is_told() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.probing();
    assert_eq!(rig.count(Counter::Probe), 1);
    // A failure is no verdict, and neither is an answer of Envoy's.
    rig.respond_from(Source::Envoy, id, 200, &[]);
    rig.respond_from(Source::NoUpstream, id, 503, &[]);
    assert!(rig.commands().is_empty());
    rig.respond(id, 404, &[]);
    assert_eq!(rig.commands()[0].arguments(), ["a", "0", "passed", &lease]);
    rig.reply(":1\r\n");
    rig.respond(id, 200, &[]);
    assert!(rig.commands().is_empty());
    assert_eq!(rig.count(Counter::ProbePassed), 1);

    let (id, _) = rig.probing();
    rig.respond(id, 500, &[]);
    assert!(rig.commands().is_empty());

    let (id, _) = rig.probing();
    rig.respond(id, 429, &[]);
    assert_eq!(rig.commands()[0].arguments(), ["a", "5000", "probe"]);
    rig.reply(":1\r\n");

    let (id, _) = rig.holding();
    rig.respond(id, 200, &[]);
    assert!(rig.commands().is_empty(), "no probe");
    assert_eq!(rig.count(Counter::ProbePassed), 1);
}

/// One line in the log for each change of state, however many requests meet it.
#[test]
fn a_change_of_state_is_said_once() {
    let mut rig = Rig::ready(failing);
    rig.notices();
    let account = |state: State, for_ms| Notice::Account {
        pool: "p".into(),
        account: "a".into(),
        state,
        for_ms,
    };
    for _ in 0..3 {
        let (id, _) = rig.holding();
        rig.respond(id, 429, &[]);
        rig.commands();
        rig.reply(":1\r\n");
    }
    let said = rig.notices();
    assert_eq!(said, [account(State::Cooling, 5_000)]);
    assert!(!said[0].is_warning());
    assert_eq!(
        said[0].to_string(),
        "pool p: account a is cooling for 5000 ms"
    );
    rig.now_ms += 5_000;
    let (id, _) = rig.probing();
    rig.respond(id, 200, &[]);
    rig.commands();
    assert!(
        rig.notices().is_empty(),
        "only the ledger knows whether it passed"
    );
    rig.reply(":1\r\n");
    let said = rig.notices();
    assert_eq!(said, [account(State::Free, 0)]);
    assert_eq!(said[0].to_string(), "pool p: account a is free");
    let (id, _) = rig.holding();
    rig.respond(id, 429, &[("retry-after", "2")]);
    assert_eq!(rig.notices(), [account(State::Cooling, 2_000)]);
}

/// What the worker says of a rest of `a` while its looks show these states, one after the other.
fn said_while(rig: &mut Rig, states: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for state in states {
        let look = seen("10000", "", &format!("a 0 3 {state} b 0 4 free"));
        let mut looked = false;
        while !looked {
            rig.until(|worker| !worker.wire().bytes.is_empty());
            for command in rig.commands() {
                looked |= command.is_look();
                rig.reply(match command.is_look() {
                    true => &look,
                    false => "*2\r\n$9\r\nelsewhere\r\n:0\r\n",
                });
            }
        }
        all.extend(said(rig));
    }
    all
}

/// Whoever said that it rests says when that is over: by the ledger's word, once, however it came about.
#[test]
fn the_end_of_a_rest_is_said_once() {
    let free = ["pool p: account a is free"];
    let mut rig = looking(
        |json| {
            failing(json);
            json["lease"] = serde_json::json!({"ttl_ms": 600_000, "renew_interval_ms": 200_000});
        },
        &seen("10000", "", ""),
    );
    settle(&mut rig, &seen("10000", "", ""));
    rig.answers();
    rig.notices();
    let (id, _) = rig.holding();
    // Nothing was said of it here.
    assert!(said_while(&mut rig, &["cooling", "free"]).is_empty());
    for status in [429, 401] {
        rig.respond(id, status, &[("retry-after", "60")]);
        settle(&mut rig, &seen("10000", "", "a 0 3 free"));
        assert_eq!(rig.notices().len(), 1);
        // An operator may end it long before its time.
        let states = ["disabled", "drained", "cooling", "probe", "probing", "?"];
        assert_eq!(said_while(&mut rig, &states), [""; 0]);
        assert_eq!(
            said_while(&mut rig, &["full", "free", "full", "free"]),
            free
        );
    }
    // Short enough that no look sees it.
    rig.respond(id, 429, &[("retry-after-ms", "100")]);
    settle(&mut rig, &seen("10000", "", ""));
    rig.notices();
    assert_eq!(said_while(&mut rig, &["free", "free"]), free);
    // Behind the others.
    for _ in 0..4 {
        rig.respond(id, 500, &[]);
    }
    settle(&mut rig, &seen("10000", "", ""));
    let said = said(&mut rig);
    assert_eq!(said, ["pool p: account a is behind for 7000 ms"]);
    assert_eq!(said_while(&mut rig, &["behind"; 7]), [""; 0]);
    assert_eq!(said_while(&mut rig, &["free", "free"]), free);
}

/// The looks of a large pool do not tell accounts, and there may be none: then a rest that ends without a probe ends by the worker's clock.
#[test]
fn without_the_ledgers_word_the_clock_tells_the_end_of_a_rest() {
    for (poll_ms, probe) in [(0, false), (0, true), (POLL_MS, false), (POLL_MS, true)] {
        let change = |json: &mut serde_json::Value| {
            json["cooldown"] = serde_json::json!({"probe": probe});
        };
        let look = seen("10000", "", "");
        let mut rig = if poll_ms > 0 {
            looking(change, &look)
        } else {
            Rig::ready(change)
        };
        settle(&mut rig, &look);
        rig.answers();
        let (id, _) = rig.holding();
        rig.respond(id, 429, &[("retry-after", "3")]);
        rig.worker.on_end(rig.now_ms, id);
        settle(&mut rig, &look);
        rig.notices();
        let start_ms = rig.now_ms;
        let mut ended_ms = Vec::new();
        while rig.now_ms < start_ms + 5_000 {
            rig.wait(100);
            // Whoever comes and goes makes it tick.
            let (id, _) = rig.request(&[]);
            settle(&mut rig, &look);
            rig.answers();
            rig.worker.on_end(rig.now_ms, id);
            settle(&mut rig, &look);
            for line in said(&mut rig) {
                assert_eq!(line, "pool p: account a is free");
                ended_ms.push(rig.now_ms - start_ms);
            }
        }
        assert_eq!(ended_ms.len(), usize::from(!probe), "{poll_ms} {probe}");
        let in_time = 2_990..=3_200 + poll_ms;
        assert!(
            ended_ms.iter().all(|ms| in_time.contains(ms)),
            "{ended_ms:?}"
        );
    }
}

/// What the worker says when every probe of it is answered, apart from renewals and the like.
fn verdicts(rig: &mut Rig) -> Vec<String> {
    let sent = rig.commands();
    let told = |sent: &Sent| {
        let arguments = sent.arguments();
        (arguments.get(2).map(String::as_str) == Some("passed")).then(|| arguments[3].clone())
    };
    sent.iter().filter_map(told).collect()
}

/// The stream may last for hours, and until the ledger has heard its account takes nobody else.
#[test]
fn a_probe_that_passes_is_told_until_the_ledger_has_heard() {
    // While the pipe is away.
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.probing();
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.respond(id, 200, &[]);
    assert_eq!(rig.count(Counter::ProbePassed), 0);
    rig.reopen();
    rig.wait(700);
    assert_eq!(verdicts(&mut rig), [&*lease]);

    // Under way when the pipe breaks; and then Redis will not hear it at first.
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.probing();
    rig.respond(id, 200, &[]);
    assert_eq!(verdicts(&mut rig), [&*lease]);
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.reopen();
    rig.commands();
    let (mut renewals, mut heard) = (0, 0);
    while rig.now_ms < 30_000 {
        for command in rig.commands() {
            let told = command.arguments().get(2).map(String::as_str) == Some("passed");
            heard += u32::from(told);
            renewals += u32::from(command.arguments().len() == 4 && !told);
            rig.reply(match command.arguments().len() {
                4 if told && heard < 3 => "-BUSY a script is running\r\n",
                4 if told => ":1\r\n",
                4 => "*2\r\n$1\r\n9\r\n$1\r\nr\r\n",
                _ => "*2\r\n$9\r\nelsewhere\r\n:0\r\n",
            });
        }
        rig.wait(100);
    }
    assert_eq!(heard, 3, "with each renewal until it was heard");
    assert!(renewals > heard, "renewals go on");
    assert_eq!(rig.count(Counter::ProbePassed), 1);
}

/// Its lease is recorded beside the request, whose answer may come first.
#[test]
fn a_probe_chosen_here_is_told_whichever_answer_comes_first() {
    let local = |json: &mut serde_json::Value| {
        json["gray"]["percent"] = 0.into();
        json["traditional"] = serde_json::json!({"mode": "local"});
    };
    let ready = || {
        let mut rig = Rig::new(local);
        let (id, _) = rig.request(&[]);
        rig.worker.on_end(rig.now_ms, id);
        rig.reopen();
        rig.commands();
        rig
    };
    let probe = |rig: &mut Rig| {
        let (id, verdict) = rig.request(&[]);
        let lease = verdict.and_then(Verdict::holds).expect("an account").0;
        rig.commands();
        (id, lease.as_str().to_owned())
    };
    let recorded = "*2\r\n$1\r\n9\r\n$7\r\na:probe\r\n";

    let mut rig = ready();
    let (id, lease) = probe(&mut rig);
    rig.respond(id, 200, &[]);
    assert_eq!(verdicts(&mut rig), [""; 0]);
    rig.reply(recorded);
    assert_eq!(verdicts(&mut rig), [lease]);

    // Answered by Envoy, or badly: that is no verdict.
    for (source, status) in [(Source::Envoy, 200), (Source::Upstream, 500)] {
        let mut rig = ready();
        let (id, _) = probe(&mut rig);
        rig.respond_from(source, id, status, &[]);
        rig.reply(recorded);
        assert_eq!(verdicts(&mut rig), [""; 0]);
    }

    // What the ledger said is lost: it may probe.
    for early in [true, false] {
        let mut rig = ready();
        let (id, lease) = probe(&mut rig);
        if early {
            rig.respond(id, 200, &[]);
        }
        rig.worker.on_pipe_closed(rig.now_ms);
        if !early {
            rig.respond(id, 200, &[]);
        }
        rig.reopen();
        rig.wait(700);
        assert_eq!(verdicts(&mut rig), [lease]);
    }
}

/// Another worker may have asked for it, or this one with an earlier configuration.
#[test]
fn a_probe_is_told_even_where_none_are_asked_for() {
    let mut rig = Rig::ready(|json| json["cooldown"] = serde_json::json!({"probe": false}));
    let (id, lease) = rig.probing();
    rig.respond(id, 200, &[]);
    // Answered as if the script were gone: it is sent again.
    assert_eq!(rig.commands()[0].arguments(), ["a", "0", "passed", &lease]);
    rig.reply("-NOSCRIPT x\r\n");
    assert_eq!(rig.commands()[0].arguments(), ["a", "0", "passed", &lease]);
    rig.reply(":1\r\n");
    let (id, _) = rig.holding();
    rig.respond(id, 429, &[]);
    assert_eq!(rig.commands()[0].arguments(), ["a", "5000"]);
}

#[test]
fn a_scope_cools_alone() {
    let mut rig = Rig::ready(|json| {
        json["cooldown"] = serde_json::json!({"scope": {"header": "X-Model"}});
    });
    let scope_of = |sent: &Sent| {
        let keys = &sent.0[3..3 + sent.0[2].parse::<usize>().unwrap()];
        let of_scope = |key: &&String| key.starts_with("slotgate:{p}:cooldown:");
        keys.iter().find(of_scope).cloned()
    };
    let ask = |rig: &mut Rig, headers: &[(&str, &str)]| {
        let (id, _) = rig.request(headers);
        let sent = rig.commands();
        rig.reply(&granted("a"));
        (id, scope_of(&sent[0]))
    };
    let (opus, scope) = ask(&mut rig, &[("x-model", "opus")]);
    let scope = scope.expect("its scope");
    assert_eq!(
        ask(&mut rig, &[("x-model", "opus")]).1.as_ref(),
        Some(&scope)
    );
    assert_ne!(
        ask(&mut rig, &[("x-model", "haiku")]).1.as_ref(),
        Some(&scope)
    );
    let twice = [("x-model", ""), ("x-model", "opus")];
    assert_eq!(ask(&mut rig, &twice).1.as_ref(), Some(&scope));
    let (plain, none) = ask(&mut rig, &[("x-model", "")]);
    assert_eq!(none, None);
    rig.respond(opus, 429, &[]);
    let cooled = &rig.commands()[0];
    assert_eq!(cooled.arguments(), ["a", "5000"], "no probe in a scope");
    assert_eq!(scope_of(cooled).as_ref(), Some(&scope));
    rig.reply(":5000\r\n");
    rig.respond(plain, 429, &[]);
    let cooled = &rig.commands()[0];
    assert_eq!(cooled.arguments(), ["a", "5000", "probe"]);
    assert_eq!(scope_of(cooled), None);
}

fn failing(json: &mut serde_json::Value) {
    json["failing"] = serde_json::json!(
        {"percent": 50, "window_ms": 1_000, "min_requests": 4, "behind_ms": 7_000});
}

#[test]
fn an_account_that_fails_fast_is_put_behind() {
    let mut rig = Rig::ready(failing);
    let mut respond = |source, status| {
        let (id, _) = rig.holding();
        rig.respond_from(source, id, status, &[]);
        rig.worker.on_end(rig.now_ms, id);
        let sent = rig.commands_soon();
        rig.reply(":1\r\n");
        if sent.len() > 1 {
            rig.reply(":1\r\n");
        }
        let told = sent.iter().find(|sent| sent.arguments()[0] == "a").cloned();
        told.map(|told| told.arguments()[1..].join(" "))
    };
    // Its own failures and those of the way to it count, not what Envoy says for itself.
    assert_eq!(respond(Source::Upstream, 500), None);
    assert_eq!(respond(Source::Envoy, 503), None);
    assert_eq!(respond(Source::Upstream, 200), None);
    assert_eq!(respond(Source::Upstream, 200), None);
    assert_eq!(respond(Source::Envoy, 503), None);
    let told = respond(Source::NoUpstream, 503);
    assert_eq!(told.as_deref(), Some("7000 behind"), "2 of 4");
    assert_eq!(rig.count(Counter::Behind), 1);
    assert_eq!(rig.count(Counter::Cooldown), 0);
    let behind = |notice: &Notice| notice.to_string() == "pool p: account a is behind for 7000 ms";
    assert_eq!(
        rig.notices().iter().filter(|notice| behind(notice)).count(),
        1
    );

    let mut off = Rig::ready(|json| json["failing"] = serde_json::json!({"percent": 0}));
    for _ in 0..50 {
        let (id, _) = off.holding();
        assert!(
            !off.worker.wants_response(id, 500),
            "nothing is asked of the host"
        );
        off.respond(id, 500, &[]);
        assert!(off.commands().is_empty());
    }
    assert_eq!(off.count(Counter::Behind), 0);
}

/// Eight workers that see one request in eight seconds each, as it is where a request takes minutes.
#[test]
fn an_account_that_fails_slowly_is_put_behind_by_any_of_many_workers() {
    let mut rigs: Vec<_> = (0..8).map(|_| Rig::ready(|_| {})).collect();
    let mut failures = 0;
    // Answers for how long the worker says that the account is to be behind.
    let mut fail = |rig: &mut Rig| {
        failures += 1;
        rig.now_ms += 8_000;
        let (id, _) = rig.holding();
        rig.respond_from(Source::NoUpstream, id, 503, &[]);
        let sent = rig.commands();
        sent.first().map(|sent| sent.arguments()[1..].join(" "))
    };
    let put_behind = (0..).find(|number| fail(&mut rigs[number % 8]).is_some());
    assert_eq!(put_behind, Some(4 * 8), "four at each, and one");
    // That worker knows: when the account is back, its first failure is enough.
    let rig = &mut rigs[0];
    rig.reply(":30000\r\n");
    rig.now_ms += 30_000;
    assert_eq!(fail(rig).as_deref(), Some("30000 behind"));
    assert_eq!(failures, 34);
    assert_eq!(rig.count(Counter::Behind), 2);
}

#[test]
fn local_choice_puts_it_behind_too() {
    let mut rig = Rig::new(|json| {
        failing(json);
        json["gray"]["percent"] = 0.into();
        json["traditional"] = serde_json::json!({"mode": "local"});
    });
    let choose = |rig: &mut Rig| {
        let (id, verdict) = rig.request(&[]);
        (id, verdict.and_then(Verdict::holds).expect("an account").1)
    };
    let mut failed = 0;
    while failed < 4 {
        let (id, account) = choose(&mut rig);
        let status = if account == 0 { 500 } else { 200 };
        failed += u32::from(account == 0);
        rig.respond(id, status, &[]);
        rig.worker.on_end(rig.now_ms, id);
    }
    // The other first, to its last slot; then it all the same.
    let (ids, order): (Vec<_>, Vec<_>) = (0..6).map(|_| choose(&mut rig)).unzip();
    assert_eq!(order, [1, 1, 1, 1, 0, 0]);
    for id in ids {
        rig.worker.on_end(rig.now_ms, id);
    }
    rig.now_ms += 7_000;
    assert!((0..50).any(|_| {
        let (id, account) = choose(&mut rig);
        rig.worker.on_end(rig.now_ms, id);
        account == 0
    }));
}

/// As by the ledger: whoever finds all others full is refused.
#[test]
fn local_choice_leaves_out_what_cools() {
    let mut rig = Rig::new(|json| {
        json["gray"]["percent"] = 0.into();
        json["traditional"] = serde_json::json!({"mode": "local"});
        json["cooldown"] = serde_json::json!({"scope": {"header": "x-model"}});
    });
    let account_of = |(id, verdict): (Id, Option<Verdict>)| {
        let account = verdict.and_then(Verdict::holds).map(|(_, account)| account);
        (id, account)
    };
    let pushed_back = |rig: &mut Rig, headers: &[(&str, &str)], retry_after: &str| {
        for _ in 0..100 {
            let (id, account) = account_of(rig.request(headers));
            if account == Some(0) {
                rig.respond(id, 429, &[("retry-after", retry_after)]);
            }
            rig.worker.on_end(rig.now_ms, id);
            if account == Some(0) {
                return;
            }
        }
        panic!("it is never chosen");
    };
    let fill = |rig: &mut Rig| -> Vec<Option<u32>> {
        let all: Vec<_> = (0..7).map(|_| account_of(rig.request(&[]))).collect();
        for (id, account) in &all {
            if account.is_some() {
                rig.worker.on_end(rig.now_ms, *id);
            }
        }
        all.into_iter().map(|(_, account)| account).collect()
    };
    let of = |all: &[Option<u32>], account| all.iter().filter(|one| **one == account).count();
    // For one model alone: the others go on.
    pushed_back(&mut rig, &[("x-model", "opus")], "9");
    assert_eq!(of(&fill(&mut rig), Some(0)), 2);
    pushed_back(&mut rig, &[], "7");
    rig.now_ms += 6_999;
    let all = fill(&mut rig);
    assert_eq!((of(&all, Some(1)), of(&all, None)), (4, 3));
    rig.now_ms += 1;
    let all = fill(&mut rig);
    assert_eq!((of(&all, Some(0)), of(&all, None)), (2, 1));
}
