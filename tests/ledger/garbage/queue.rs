//! What cannot be there among those that wait: they are served all the same, at the latest after a recount and one more question
//! of theirs.

use super::rig::{BYTES, Rig};
use crate::pipe::{Answer, account, text};
use slotgate::config::{TenantLimits, TenantName, Tenants};
use slotgate::ledger::commands::{AccountReport, Asked, Mode, Order, Place, Synced, Terms};
use slotgate::ledger::fault::Fault;
use slotgate::request::lease::LeaseId;
use std::collections::BTreeMap;

const SCOPE: [u8; 16] = [2; 16];

/// A full pool in which three wait: one of a tenant, one whose scope cools on an account, and one more.
struct Crowd {
    holders: Vec<LeaseId>,
    waiting: [(LeaseId, Option<Order>); 3],
}

fn gold() -> TenantName {
    Tenants::name(b"gold")
}

fn ask(rig: &mut Rig, lease: LeaseId, order: Option<Order>) -> Result<Answer, Fault> {
    let limits = TenantLimits {
        max_concurrency: 3,
        max_waiting: 0,
        weight: 2,
    };
    let terms = Terms {
        limits,
        cookie: 4,
        place: order.map_or(Place::Last, Place::At),
    };
    let asked = Asked {
        lease,
        mode: Mode::Join(terms),
        session: None,
        scope: Some(&SCOPE),
    };
    let mut answers = rig.pipe.acquire_all(&[asked], 0, 3)?;
    Ok(answers.remove(0))
}

/// Whose each lease is, whatever the rest of the ledger holds.
fn owners(rig: &Rig) -> BTreeMap<String, String> {
    rig.redis.run("HGETALL", &[&rig.ledger.key("owner")])
}

impl Crowd {
    fn new(rig: &mut Rig) -> Self {
        rig.again();
        rig.pipe.waiting.vouched_ms = 14_000;
        let mut holders = vec![rig.lease];
        for at in 0..5 {
            let lease = rig.ids.mint((at == 0).then_some(&gold()));
            assert!(matches!(ask(rig, lease, None), Ok(Answer::Granted(_))));
            holders.push(lease);
        }
        let tenants = [Some(gold()), None, None];
        let waiting = tenants.map(|tenant| {
            let lease = rig.ids.mint(tenant.as_ref());
            if tenant.is_none() {
                rig.pipe.cooldown_in("a", 500, Some(&SCOPE)).unwrap();
            }
            match ask(rig, lease, None) {
                Ok(Answer::Waits(order)) => (lease, Some(order)),
                other => panic!("{other:?}"),
            }
        });
        rig.ledger.assert_consistent();
        Self { holders, waiting }
    }

    /// Nobody else is harmed, and once all is mended each of the three gets its slot. Answers what was named.
    #[track_caller]
    fn check(self, rig: &mut Rig, what: &str) -> String {
        rig.other_serves();
        let said = rig.ask_everything();
        rig.other_serves();
        let named = rig.mend();
        for (verb, id) in [("thaw", "a"), ("thaw", "b"), ("thaw", "c")] {
            let done = rig.pipe.control(verb, id, None);
            done.unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
        }
        for (lease, order) in self.waiting {
            let answer = ask(rig, lease, order);
            assert!(
                matches!(answer, Ok(Answer::Waits(_) | Answer::Granted(_))),
                "{what}: {answer:?}"
            );
        }
        let state = rig.ledger.try_state();
        let state = state.unwrap_or_else(|error| panic!("{what}: {error}"));
        state.assert_consistent();
        rig.pipe.release(&self.holders).unwrap();
        let state = rig.ledger.state();
        for (lease, _) in self.waiting {
            assert!(
                state.owner.contains_key(lease.as_str()),
                "{what}: {state:#?}"
            );
        }
        let all = self.waiting.map(|(lease, _)| lease);
        assert_eq!(rig.pipe.release(&all), Ok(3), "{what}");
        let state = rig.ledger.state();
        assert!(
            state.is_empty() && state.tenants.is_empty(),
            "{what}: {state:#?}"
        );
        assert!(!state.meta.contains_key("#queue"), "{what}");
        state.assert_consistent();
        assert_eq!(rig.recount(), [""; 0], "{what}: nothing is left to mend");
        [said, named].concat().join("; ")
    }
}

#[test]
fn nothing_broken_is_nothing_mended() {
    let mut rig = Rig::new();
    let crowd = Crowd::new(&mut rig);
    assert_eq!(rig.recount(), [""; 0]);
    let said = crowd.check(&mut rig, "nothing");
    assert_eq!(said, "");
}

#[test]
fn members_of_the_queue() {
    let mut rig = Rig::new();
    let tenant = String::from_utf8(gold().to_vec()).unwrap();
    let first = "1500000000000000000";
    let long = vec![b'w'; 1_100_000];
    let mut members: Vec<Vec<u8>> = [
        "",
        "x",
        "w:",
        "w:-",
        "t:",
        "w:-:-",
        "w:-:-:",
        "w:-:-:x",
        "w:-:-:5:",
        "t:-:5",
        "t:-:x:5:-",
        "w:-;",
        "t:-;",
        "t:-:99999999999999999999:5:-",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    members.push(format!("w:-:-:{first}:ghost").into_bytes());
    members.push(format!("w:{tenant}:-:{first}:ghost").into_bytes());
    members.push(format!("w:nobody:-:{first}:ghost").into_bytes());
    members.push(format!("w:-:zz:{first}:ghost").into_bytes());
    members.push(format!("t:-:0000000000000000:{first}:-").into_bytes());
    members.push(format!("t:-:0000000000000000:{first}:nobody").into_bytes());
    members.push(format!("t:zz:0000000000000000:{first}:{tenant}").into_bytes());
    members.push([b"w:-:-:", BYTES].concat());
    members.push([b"t:-:", BYTES].concat());
    members.push(BYTES.to_vec());
    members.push(long.clone());
    members.push([b"w:-:-:".to_vec(), long].concat());
    for member in members {
        for score in [&b"0"[..], b"5", b"-inf", b"inf"] {
            let crowd = Crowd::new(&mut rig);
            rig.write("ZADD", "queue", &[score, &member]);
            let shown = String::from_utf8_lossy(&member[..member.len().min(70)]);
            crowd.check(&mut rig, &format!("{shown:?} at {score:?}"));
        }
    }
    // Those that wait, at another place, or gone.
    for score in [None, Some("5"), Some("-inf")] {
        for at in 0..5 {
            let crowd = Crowd::new(&mut rig);
            let queue: Vec<String> = rig.ledger.state().queue.into_iter().collect();
            assert_eq!(queue.len(), 5, "{queue:?}");
            match score {
                Some(score) => {
                    rig.write("ZADD", "queue", &[score.as_bytes(), queue[at].as_bytes()])
                }
                None => rig.write("ZREM", "queue", &[queue[at].as_bytes()]),
            }
            crowd.check(&mut rig, &format!("{} at {score:?}", queue[at]));
        }
    }
    let crowd = Crowd::new(&mut rig);
    rig.write("DEL", "queue", &[]);
    crowd.check(&mut rig, "no queue");
}

/// The recount names what can be nobody's.
#[test]
fn the_recount_names_what_cannot_be_there() {
    let mut rig = Rig::new();
    for (name, command, words) in [
        ("queue ghost", "ZADD", &["queue", "0", "ghost"][..]),
        ("queue w:a", "ZADD", &["queue", "0", "w:a"]),
        ("queue t:-:1:2:-", "ZADD", &["queue", "7", "t:-:1:2:-"]),
        ("tenants ghost", "HSET", &["tenants", "ghost", "1"]),
        ("tenants ?ghost", "HSET", &["tenants", "@ghost", "1"]),
        ("tenants ?now", "HSET", &["tenants", "@now", "x"]),
        ("tenants ?pace", "HSET", &["tenants", "@pace", "1"]),
        (
            "tenants 3edd7542db01823a",
            "HSET",
            &["tenants", "3edd7542db01823a", "x"],
        ),
    ] {
        let crowd = Crowd::new(&mut rig);
        let rest: Vec<&[u8]> = words[1..].iter().map(|word| word.as_bytes()).collect();
        rig.write(command, words[0], &rest);
        let named = rig.recount().join("; ");
        assert!(named.contains(&format!("{name}: not a")), "{name}: {named}");
        assert_eq!(rig.recount(), [""; 0], "{name}");
        crowd.check(&mut rig, name);
    }
}

#[test]
fn fields_of_the_tenants() {
    let mut rig = Rig::new();
    let tenant = String::from_utf8(gold().to_vec()).unwrap();
    let own = |prefix: &str| format!("{prefix}{tenant}").into_bytes();
    for field in [
        own(""),
        own("#"),
        own("@"),
        b"@-".to_vec(),
        b"@now".to_vec(),
        b"@pace".to_vec(),
        b"@".to_vec(),
        b"".to_vec(),
        b"0123456789abcdef".to_vec(),
        BYTES.to_vec(),
    ] {
        for value in [
            &b"abc"[..],
            b"",
            b"-1",
            b"3",
            b"1e300",
            b"nan",
            b"900000000000000",
            b"99999999999999999999999",
            BYTES,
        ] {
            let crowd = Crowd::new(&mut rig);
            rig.write("HSET", "tenants", &[&field, value]);
            crowd.check(&mut rig, &format!("{field:?} = {value:?}"));
        }
    }
    let crowd = Crowd::new(&mut rig);
    rig.write("DEL", "tenants", &[]);
    crowd.check(&mut rig, "no tenants");
}

#[test]
fn what_a_waiter_says_of_itself() {
    let mut rig = Rig::new();
    let long = vec![b'7'; 1_100_000];
    let order = "1500000000000000000";
    let mut texts: Vec<Vec<u8>> = [
        "~".to_owned(),
        "~1".into(),
        format!("~{order}"),
        format!("~{order} - - ~ 0 1 1"),
        format!("~{order} - - ~ x 1 1 1 1 c"),
        format!("~{order} - - ~ 0 0 0 0 0 c"),
        format!("~{order} - - ~ 99999999999999999999 99999999999999999999 9 9 9 c"),
        "~5 - - ~ 0 1 9000 0 1 c".into(),
        format!("~{order} zz - ~ 0 1 9000 0 1 c"),
        "~1 2:3".into(),
        "a".into(),
        "nobody".into(),
    ]
    .map(String::into_bytes)
    .into();
    texts.push([b"~", BYTES].concat());
    texts.push([b"~", &long[..]].concat());
    texts.push([b"~1500000000000000000 - - ~ 0 1 1 1 ", &long[..], b" c"].concat());
    for at in 0..3 {
        for text in &texts {
            let crowd = Crowd::new(&mut rig);
            let lease = crowd.waiting[at].0;
            rig.write("HSET", "owner", &[lease.as_bytes(), text]);
            let shown = String::from_utf8_lossy(&text[..text.len().min(70)]);
            crowd.check(&mut rig, &format!("{at}: {shown:?}"));
        }
        // Gone, with or without its expiry; and someone else's.
        for (command, name) in [("HDEL", "owner"), ("ZREM", "leases")] {
            let crowd = Crowd::new(&mut rig);
            let lease = crowd.waiting[at].0;
            rig.write(command, name, &[lease.as_bytes()]);
            crowd.check(&mut rig, &format!("{at}: {command} {name}"));
        }
        let crowd = Crowd::new(&mut rig);
        rig.write(
            "HSET",
            "owner",
            &[b"ghost", b"~1500000000000000000 - - ~ 0 1 9000 0 1 c"],
        );
        rig.write("HDEL", "accounts", &[b"#queue"]);
        crowd.check(&mut rig, "a ghost");
    }
}

/// With a key of another type nothing is handed on, and everything else goes on; whoever would wait hears of it.
#[test]
fn a_key_of_another_type_ends_no_script_half_way() {
    let mut rig = Rig::new();
    for name in ["queue", "tenants"] {
        let crowd = Crowd::new(&mut rig);
        rig.write("DEL", name, &[]);
        rig.write("SET", name, &[b"text"]);
        // A waiter leaves.
        let leaver = rig.ids.mint(None);
        let text = b"~1500000000000000000 - - ~ 0 1 9000 0 1 c";
        rig.write("HSET", "owner", &[leaver.as_bytes(), text]);
        assert_eq!(rig.pipe.release(&[leaver]), Ok(0), "{name}");
        // A release ends its lease. Nobody is handed its slot, which a newcomer takes.
        assert_eq!(rig.pipe.release(&crowd.holders[..2]), Ok(2));
        assert!(rig.pipe.handed.is_empty());
        let state = |rig: &mut Rig| {
            let read = |key, command, rest: &[&str]| {
                let key = rig.ledger.key(key);
                let mut words = vec![key.as_str()];
                words.extend(rest);
                rig.redis.run::<Vec<String>>(command, &words)
            };
            let all = ["0", "-1", "WITHSCORES"];
            let mut maps = [read("owner", "HGETALL", &[]), read("used", "HGETALL", &[])];
            maps.iter_mut().for_each(|map| map.sort());
            (
                maps,
                read("leases", "ZRANGE", &all),
                read("free", "ZRANGE", &all),
            )
        };
        let before = state(&mut rig);
        let newcomers = [rig.ids.mint(None), rig.ids.mint(Some(&gold()))];
        rig.pipe.take(newcomers[0]);
        assert_eq!(rig.pipe.release(&newcomers[..1]), Ok(1));
        assert_eq!(state(&mut rig), before, "{name}");
        // Cooldowns end, probes pass, operators act where they are told of it before anything is written.
        rig.pipe.cooldown("b", 1).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(3));
        rig.pipe.take(newcomers[0]);
        assert_eq!(rig.pipe.release(&newcomers[..1]), Ok(1));
        // All slots are taken again.
        let rest = [rig.ids.mint(None), rig.ids.mint(None)];
        for lease in rest {
            rig.pipe.take(lease);
        }
        let before = state(&mut rig);
        for lease in [newcomers[1], crowd.waiting[1].0, newcomers[0]] {
            let answer = ask(&mut rig, lease, None);
            assert_eq!(answer, Err(Fault::Garbage), "{name}");
        }
        assert_eq!(state(&mut rig), before, "{name}: it writes nothing");
        let named = rig.recount().join("; ");
        assert!(named.contains(&format!("{name} is no ")), "{named}");
        rig.pipe.release(&rest).unwrap();
        crowd.check(&mut rig, name);
    }
}

/// An error names the lease, not its text.
#[test]
fn a_waiter_that_is_none_is_named() {
    let mut rig = Rig::new();
    let crowd = Crowd::new(&mut rig);
    let (lease, order) = crowd.waiting[0];
    rig.write("HSET", "owner", &[lease.as_bytes(), b"~\xff\r\n"]);
    let terms = Terms {
        limits: TenantLimits {
            max_concurrency: 0,
            max_waiting: 0,
            weight: 1,
        },
        cookie: 1,
        place: order.map_or(Place::Last, Place::At),
    };
    let reply = rig
        .pipe
        .acquire_raw(lease, Mode::Join(terms), None, None, 1);
    let said = text(&reply);
    assert!(
        said.starts_with(&format!("GARBAGE owner {lease}: not an account")),
        "{said}"
    );
    crowd.check(&mut rig, "a waiter");
}

/// An account in `free` that is none keeps nobody from those that are.
#[test]
fn what_is_no_account_is_passed_over() {
    let mut rig = Rig::new();
    for (member, record) in [
        (&b"ghost"[..], None),
        (b"ghost", Some(&b"x"[..])),
        (b"ghost", Some(b"0 0 0 0")),
        (b"ghost", Some(b"9 0 0 1")),
        (b"ghost", Some(b"9 0 0 4")),
        (BYTES, Some(b"9 0 0 0")),
        (&[b'x'; 65], Some(b"9 0 0 0")),
    ] {
        for (score, count) in [(&b"-9000000"[..], None), (b"0", Some(&b"abc"[..]))] {
            let crowd = Crowd::new(&mut rig);
            if let Some(record) = record {
                rig.write("HSET", "accounts", &[member, record]);
            }
            if let Some(count) = count {
                rig.write("HSET", "used", &[member, count]);
            }
            rig.write("ZADD", "free", &[score, member]);
            let what = format!("{member:?} {record:?} {score:?}");
            assert_eq!(rig.pipe.release(&crowd.holders), Ok(6), "{what}");
            let owner = owners(&rig);
            for (lease, _) in crowd.waiting {
                let account = &owner[lease.as_str()];
                assert!(["a", "b", "c"].contains(&account.as_str()), "{what}");
            }
            // Nobody has hidden it: the recount names what is no account.
            let named = rig.recount().join("; ");
            let is_account = record.is_some_and(|record| record.starts_with(b"9 0 0 "));
            let is_account = is_account && member == b"ghost";
            assert!(
                is_account || named.contains("not an account"),
                "{what}: {named}"
            );
        }
    }
    // One whose count is none, or lost, is not given away; a session's own account neither.
    let crowd = Crowd::new(&mut rig);
    rig.write("HSET", "used", &[b"c", b"abc"]);
    rig.write("ZADD", "free", &[b"-9000000", b"c"]);
    let holders: Vec<LeaseId> = crowd.holders.clone();
    let owner = owners(&rig);
    let of_b: Vec<LeaseId> = holders
        .into_iter()
        .filter(|lease| owner[lease.as_str()] == "b")
        .collect();
    assert_eq!(rig.pipe.release(&of_b), Ok(2));
    let owner = owners(&rig);
    let served = crowd.waiting.iter().filter(|(lease, _)| {
        owner
            .get(lease.as_str())
            .is_some_and(|account| account == "b")
    });
    assert_eq!(served.count(), 2);
}

/// A probe that passes hands slots on, or does nothing where it cannot tell to whom.
#[test]
fn leases_of_another_type_end_no_hand_off_half_way() {
    let mut rig = Rig::new();
    for name in ["leases", "owner"] {
        let crowd = Crowd::new(&mut rig);
        let owner = rig.ledger.owner();
        let holder = crowd
            .holders
            .iter()
            .find(|lease| owner[lease.as_str()] == "b")
            .copied()
            .unwrap();
        // It probes, so that its success opens the account's other slots.
        rig.pipe
            .heard("b", AccountReport::CoolThenProbe(60_000))
            .unwrap();
        rig.write("ZREM", "cooldown", &[b"b"]);
        rig.write("HSET", "accounts", &[b"#probe:b", holder.as_bytes()]);
        let list = [account("a", 1), account("b", 4), account("c", 3)];
        assert_eq!(rig.pipe.sync(4, 8, Some(&list)), Ok(Synced::Replaced));
        let (key, kept) = (rig.ledger.key(name), "kept");
        rig.redis.run::<()>("RENAME", &[&key, kept]);
        rig.redis.run::<()>("SET", &[&key, "text"]);
        let passed = rig.pipe.heard("b", AccountReport::Passed(holder));
        assert_eq!(passed, Ok(1), "{name}");
        rig.redis.run::<()>("RENAME", &[kept, &key]);
        let waiting = rig.ledger.state().waiting.len();
        assert_eq!(waiting, 3, "{name}");
        rig.ledger.assert_consistent();
        // Whoever asks next is served.
        let (lease, order) = crowd.waiting[1];
        let answer = ask(&mut rig, lease, order);
        assert!(
            matches!(answer, Ok(Answer::Granted(_))),
            "{name}: {answer:?}"
        );
        rig.redis.run::<()>("DEL", &[kept]);
    }
}
