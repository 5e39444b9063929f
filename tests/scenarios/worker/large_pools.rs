//! A large pool's accounts are sent in parts, and other pools are served meanwhile.

use super::rig::{COMING, CURRENT, NOPOOL, REPLACED, Rig, Sent, WANTED, granted, pool_of, said};
use slotgate::request::admission::Path;
use slotgate::request::verdict::Verdict;
use slotgate::worker::counters::Counter;
use slotgate::worker::output::Output;

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
