//! What the worker makes of replies that say that one pool holds what cannot be there, and of a large pool's sync in parts.

use super::*;
use slotgate::worker::output::Output;

const GARBAGE: &str =
    "-GARBAGE accounts #epoch: not a whole number script: 0123, on @user_script:9.\r\n";
const WRONGTYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value script: 0123, on @user_script:9.\r\n";
const LUA: &str =
    "-ERR user_script:7: attempt to compare nil with number script: 0123, on @user_script:7.\r\n";
const STEP: &str = "*5\r\n$7\r\nworking\r\n$1\r\n0\r\n$0\r\n\r\n$1\r\n1\r\n$1\r\n5\r\n";

fn done(found: &str, revision: &str, digest: &str) -> String {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let drift = usize::from(!found.is_empty()).to_string();
    let parts = ["done", &drift, found, revision, digest].map(bulk);
    format!("*5\r\n{}", parts.concat())
}

/// Pools `p` for `x-warm` and `q`, both in force.
fn two_pools() -> Rig {
    let mut rig = Rig::new(|json| {
        let mut second = json["pools"][0].clone();
        second["name"] = "q".into();
        json["pools"][0]["match"] = serde_json::json!([{"header": "x-warm", "present": true}]);
        json["pools"].as_array_mut().unwrap().push(second);
    });
    let (id, _) = rig.request(&[("x-warm", "1")]);
    rig.open();
    rig.reply(&CURRENT.repeat(2));
    rig.reply(&granted("a"));
    rig.answers();
    rig.worker.on_end(rig.now_ms, id);
    rig.commands_soon();
    rig.reply(":1\r\n");
    rig
}

fn said(rig: &mut Rig) -> Vec<String> {
    let notices = rig.notices();
    notices.iter().map(ToString::to_string).collect()
}

fn pool_of(command: &Sent) -> &str {
    command.0[3].split(['{', '}']).nth(1).unwrap()
}

/// Answers everything: acquires so.
fn answer(rig: &mut Rig, error: &str) {
    for command in rig.commands() {
        rig.reply(if command.is_acquire() {
            error
        } else {
            ":1\r\n"
        });
    }
}

/// The same with an error that the second try meets as well.
fn refuse(rig: &mut Rig, error: &str) {
    answer(rig, error);
    answer(rig, error);
}

/// The next reconcile that is sent within this long, in ms, and when.
fn reconcile(rig: &mut Rig, within_ms: u64) -> Option<(u64, Sent)> {
    let begin_ms = rig.now_ms;
    while rig.now_ms < begin_ms + within_ms {
        rig.wait(10);
        for command in rig.commands() {
            if command.is_reconcile() {
                return Some((rig.now_ms - begin_ms, command));
            }
            rig.reply(":1\r\n");
        }
    }
    None
}

#[test]
fn garbage_is_named_once_counted_and_recounted_soon_and_the_pipe_stays() {
    for error in [GARBAGE, WRONGTYPE, LUA] {
        let mut rig = two_pools();
        for _ in 0..3 {
            let (id, _) = rig.request(&[("x-warm", "1")]);
            refuse(&mut rig, error);
            assert_eq!(rig.answers(), [(id.1, passed_on(Reason::Refused).unwrap())]);
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

/// So many failures in another pool would open the breaker for all.
#[test]
fn the_breaker_is_not_opened_by_one_pools_garbage() {
    for error in [GARBAGE, "-NOPOOL no accounts are synced for this pool\r\n"] {
        let mut rig = two_pools();
        for _ in 0..50 {
            rig.request(&[("x-warm", "1")]);
            for _ in 0..100 {
                let commands = rig.commands();
                let none = commands.is_empty();
                for command in commands {
                    let sync = command.arguments().iter().any(|word| word == "@");
                    rig.reply(if sync { REPLACED } else { error });
                }
                if none {
                    break;
                }
            }
            rig.answers();
        }
        assert_eq!(rig.count(Counter::BreakerOpened), 0, "{error}");
        let (id, verdict) = rig.request(&[]);
        assert_eq!(verdict, None);
        rig.reply(&granted("a"));
        assert!(rig.answers().iter().any(|(stream, _)| *stream == id.1));
    }
}

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

/// Who once heard another answer than that its accounts are in force hears what came of it, and is told once.
#[test]
fn what_a_sync_answered_is_asked_for_again_when_something_else_is_in_force() {
    const DIFFERS: &str = "*3\r\n$7\r\ndiffers\r\n$1\r\n1\r\n$1\r\n9\r\n";
    let mut rig = Rig::new(|_| {});
    let (id, _) = rig.request(&[]);
    rig.open();
    let own = rig.commands()[0].arguments()[1].clone();
    rig.reply(COMING);
    rig.reply(&granted("a"));
    rig.worker.on_end(rig.now_ms, id);
    rig.commands_soon();
    rig.reply(":1\r\n");
    let mut said = Vec::new();
    for (revision, digest, answer) in [
        ("1", "5", Some(COMING)),
        ("1", "5", Some(DIFFERS)),
        ("1", "5", None),
        ("2", "5", Some(NEWER)),
        ("2", "6", None),
        ("1", own.as_str(), Some(CURRENT)),
        ("1", own.as_str(), None),
        ("1", "5", Some(DIFFERS)),
    ] {
        reconcile(&mut rig, 121_000).expect("a pass");
        rig.reply(&done("", revision, digest));
        let sent = rig.commands();
        let asks = sent.len() == 1 && sent[0].listed().is_empty();
        assert_eq!(asks, answer.is_some(), "{revision} {digest} {sent:?}");
        rig.reply(answer.unwrap_or_default());
        said.extend(self::said(&mut rig));
    }
    said.retain(|one| one.contains("holds"));
    assert_eq!(said.len(), 3, "{said:?}");
    // It may act on what only who is in force may act on.
    reconcile(&mut rig, 121_000).expect("a pass");
    rig.reply(&done("", "1", &own));
    rig.reply(CURRENT);
    rig.commands();
    assert_eq!(stray(&mut rig)[0].part(), "stray");
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

/// It was said once, counted so often, and the pool's recount comes soon.
fn assert_is_named(rig: &mut Rig, count: u64, what: &str) {
    let said = said(rig).concat();
    assert!(said.contains(what), "{said}");
    assert_eq!(rig.count(Counter::Garbage), count, "{what}");
    let (_, step) = reconcile(rig, 1_000).expect("soon");
    assert_eq!(pool_of(&step), "p");
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

fn large(accounts: usize) -> Rig {
    Rig::new(|json| {
        let list =
            (0..accounts).map(|n| serde_json::json!({"id": format!("a{n}"), "max_concurrency": 1}));
        let large = serde_json::json!({"name": "large", "accounts": list.collect::<Vec<_>>()});
        let small = &mut json["pools"][0];
        small["match"] = serde_json::json!([{"header": "x-warm", "present": true}]);
        json["pools"].as_array_mut().unwrap().push(large);
    })
}

const PART: &str = "*3\r\n$4\r\npart\r\n$1\r\n0\r\n$1\r\n9\r\n";

fn page(cursor: &str, ids: &str) -> String {
    format!(
        "*3\r\n$4\r\npart\r\n${}\r\n{cursor}\r\n${}\r\n{ids}\r\n",
        cursor.len(),
        ids.len()
    )
}

/// What it sends and how it is answered, until a large pool is in force; requests of the other one are served all the while.
#[test]
fn a_large_pool_goes_in_parts_and_the_other_is_served_meanwhile() {
    let mut rig = large(1_200);
    rig.request(&[("x-warm", "1")]);
    rig.open();
    rig.commands();
    rig.reply(CURRENT);
    assert_eq!(
        rig.count(Counter::PipeReady),
        0,
        "the large one has yet to say whether it is wanted"
    );
    rig.reply(WANTED);
    let mut seen = Vec::new();
    let mut first = true;
    let mut answers = vec![
        page("77", "a0 old"),
        page("0", "a1199 older"),
        REPLACED.to_owned(),
    ];
    while let Some(sync) = {
        let sent = rig.commands();
        assert_eq!(
            rig.count(Counter::PipeReady),
            1,
            "it serves while the parts go on"
        );
        assert_eq!(
            sent.len(),
            if first { 2 } else { 1 },
            "one part at a time: {sent:?}"
        );
        first = false;
        for acquire in sent.iter().filter(|sent| sent.is_acquire()) {
            assert_eq!(pool_of(acquire), "p");
        }
        sent.into_iter().find(|sent| !sent.is_acquire())
    } {
        seen.push((sync.part().to_owned(), sync.listed().to_vec()));
        let answer = match sync.part() {
            "first" | "more" => PART.to_owned(),
            _ => answers.remove(0),
        };
        rig.reply(&answer);
        if seen.len() == 1 {
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
        }
        if answers.is_empty() {
            break;
        }
    }
    let parts: Vec<(&str, usize)> = seen
        .iter()
        .map(|(part, list)| (part.as_str(), list.len()))
        .collect();
    assert_eq!(
        parts,
        [
            ("first", 2_000),
            ("more", 2_000),
            ("more", 800),
            ("sweep", 1),
            ("sweep", 2),
            ("last", 1)
        ]
    );
    assert_eq!(seen[4].1, ["77", "old"]);
    assert_eq!(seen[5].1, ["older"]);
    let said = said(&mut rig);
    assert!(
        said.iter()
            .any(|one| one.contains("pool large: accounts of revision 1 are in force")),
        "{said:?}"
    );
}

#[test]
fn a_sync_in_parts_that_someone_else_does_or_changes() {
    // Someone else is at it: nothing more is sent.
    let mut rig = large(600);
    rig.request(&[("x-warm", "1")]);
    rig.open();
    rig.reply(CURRENT);
    rig.commands();
    rig.reply(COMING);
    assert_eq!(rig.count(Counter::PipeReady), 1);
    assert!(rig.commands().iter().all(Sent::is_acquire));
    // It changed meanwhile: from the first once more, and not for ever.
    let mut rig = large(600);
    rig.request(&[("x-warm", "1")]);
    rig.open();
    rig.reply(CURRENT);
    rig.commands();
    rig.reply(WANTED);
    let mut parts = Vec::new();
    for _ in 0..10 {
        for sent in rig.commands() {
            if sent.is_acquire() {
                rig.reply(&granted("a"));
            } else {
                parts.push(sent.part().to_owned());
                rig.reply(if sent.part() == "first" { PART } else { WANTED });
            }
        }
    }
    assert_eq!(parts, ["first", "more", "first", "more", "first", "more"]);
    assert_eq!(rig.worker.wire().order, None);
    // Lost half way: the next connection asks anew.
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.open();
    rig.commands();
    rig.reply(CURRENT);
    rig.reply(WANTED);
    let sent = rig.commands();
    assert!(
        sent.iter()
            .any(|sent| !sent.is_acquire() && sent.part() == "first"),
        "{sent:?}"
    );
    let _: &Output = rig.worker.output();
}

/// With requests of the large pool, in a Redis that has forgotten it.
fn forgotten(requests: usize) -> Rig {
    let mut rig = large(600);
    rig.request(&[("x-warm", "1")]);
    rig.open();
    rig.reply(&CURRENT.repeat(2));
    rig.reply(&granted("a"));
    rig.answers();
    rig.commands();
    for _ in 0..requests {
        rig.request(&[]);
    }
    assert_eq!(rig.commands().len(), requests);
    for _ in 0..requests {
        rig.reply(NOPOOL);
    }
    rig
}

/// Which parts of a sync were sent, and how many acquires.
fn parts(rig: &mut Rig) -> (Vec<String>, usize) {
    let (acquires, syncs): (Vec<Sent>, Vec<Sent>) =
        rig.commands().into_iter().partition(Sent::is_acquire);
    let parts = syncs.iter().map(|sync| match sync.listed().len() {
        0 => "asks".to_owned(),
        _ => sync.part().to_owned(),
    });
    (parts.collect(), acquires.len())
}

#[test]
fn a_large_pool_that_redis_forgot_takes_leases_behind_its_first_part() {
    let mut rig = forgotten(2);
    assert_eq!(parts(&mut rig), (vec!["asks".into()], 2));
    rig.reply(WANTED);
    rig.reply(&NOPOOL.repeat(2));
    assert_eq!(parts(&mut rig), (vec!["first".into()], 2));
    rig.reply(PART);
    rig.reply(&granted("a1").repeat(2));
    let atomic = |(_, verdict): (u32, Verdict)| verdict.path() == Some(Path::Atomic);
    assert!(rig.answers().into_iter().all(atomic), "unnoticed");
    assert_eq!(rig.count(Counter::Atomic), 3);
    assert_eq!(parts(&mut rig), (vec!["more".into()], 0));
}

#[test]
fn a_large_pool_that_someone_else_puts_in_is_not_sent_for_each_request() {
    let mut rig = forgotten(20);
    assert_eq!(parts(&mut rig), (vec!["asks".into()], 20));
    rig.reply(COMING);
    rig.reply(&NOPOOL.repeat(20));
    assert_eq!(parts(&mut rig), (vec!["asks".into()], 20));
    rig.reply(COMING);
    rig.reply(&granted("a1").repeat(20));
    assert_eq!(rig.answers().len(), 20);
    assert_eq!(rig.count(Counter::Atomic), 21);
}

/// Nobody answers for accounts that are not there yet.
#[test]
fn leases_of_a_large_pool_are_not_renewed_behind_its_first_part() {
    let mut rig = forgotten(0);
    let (_, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    rig.commands();
    rig.reply(&granted("a599"));
    rig.answers();
    let renewal = |rig: &mut Rig| {
        rig.wait(10);
        rig.commands()
            .into_iter()
            .find(|sent| sent.arguments().get(2).is_some_and(|id| id == "a599"))
    };
    while renewal(&mut rig).is_none() {
        assert!(rig.now_ms < 60_000);
    }
    rig.reply(NOPOOL);
    assert_eq!(parts(&mut rig), (vec!["asks".into()], 0));
}

/// Grants an account that is not configured, twice: what is sent for that.
fn stray(rig: &mut Rig) -> Vec<Sent> {
    rig.request(&[]);
    rig.request(&[]);
    answer(rig, &granted("zz"));
    rig.answers();
    let sent = rig.commands();
    sent.into_iter().filter(|sent| !sent.is_release()).collect()
}

const COMING: &str = "*3\r\n$6\r\ncoming\r\n$1\r\n2\r\n$1\r\n9\r\n";
const NEWER: &str = "*3\r\n$5\r\nnewer\r\n$1\r\n2\r\n$1\r\n9\r\n";

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

/// What the first try met is taken out by the script itself.
#[test]
fn an_acquire_is_repeated_once_after_garbage() {
    for error in [GARBAGE, WRONGTYPE, LUA] {
        let mut rig = Rig::ready(|_| {});
        let ids: Vec<Id> = (0..3).map(|_| rig.request_among_others(&[]).0).collect();
        rig.worker.flush(rig.now_ms);
        let first = rig.commands();
        rig.worker.on_end(rig.now_ms, ids[0]);
        rig.reply(error);
        let second = rig.commands();
        assert_eq!(second.len(), 1, "{error}");
        assert_eq!(
            second[0].arguments()[5..],
            first[0].arguments()[6..],
            "who left is not asked for again"
        );
        assert!(rig.answers().is_empty());
        rig.reply("*3\r\n$1\r\n9\r\n$1\r\na\r\n$1\r\na\r\n");
        assert_eq!(rig.answers().len(), 2);
        assert_eq!(rig.count(Counter::Atomic), 3, "with the first of all");
        // Not for ever, whatever else was tried before.
        let mut rig = Rig::ready(|_| {});
        let (id, _) = rig.request(&[]);
        rig.commands();
        for error in ["-NOSCRIPT No matching script.\r\n", error] {
            rig.reply(error);
            assert!(rig.commands().iter().any(Sent::is_acquire), "{error}");
        }
        rig.reply(error);
        assert!(!rig.commands().iter().any(Sent::is_acquire));
        assert_eq!(rig.answers(), [(id.1, passed_on(Reason::Refused).unwrap())]);
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

/// Redis drops who sends more than 16 kB before it has logged in: what it has to say must be heard first.
#[test]
fn who_is_not_logged_in_sends_no_script() {
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_open(rig.now_ms);
    let sent = rig.worker.wire().bytes.len();
    assert!(sent < 1_000, "{sent}");
    rig.commands();
    rig.reply("-NOAUTH Authentication required.\r\n");
    assert_eq!(rig.count(Counter::PipeLost(Down::Auth)), 1);
    assert!(rig.commands().is_empty());
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
