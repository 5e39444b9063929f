//! Fields, members and counts that are none, in every key of a pool.

use super::rig::{BYTES, IN_FORCE, Rig};
use crate::pipe::{PREFIX, text};
use slotgate::ledger::commands::{Mode, Part, Synced, synced};
use slotgate::ledger::fault::Fault;
use slotgate::ledger::keys::{session_digits, session_prefix, session_tag};
use slotgate::request::lease::LeaseId;

#[test]
fn fields_of_the_accounts() {
    let mut rig = Rig::new();
    for (field, named) in [
        ("#revision", true),
        ("#digest", true),
        ("#epoch", true),
        // Put right by who meets it, or never a trouble.
        ("#wake", false),
        ("#ttl", false),
        ("#rest", false),
        ("#coming", false),
        ("#pass", false),
        ("#queue", false),
        ("#probe:a", false),
        ("#probe:nobody", false),
        ("#off:a", false),
        ("#off:nobody", false),
        ("#table", false),
        ("#", false),
    ] {
        for value in [
            &b"abc"[..],
            b"",
            b"-1",
            b"1e300",
            b"99999999999999999999999",
            b"401 x 0",
            BYTES,
        ] {
            // Nobody reads these.
            if value == BYTES && ["#", "#table"].contains(&field) {
                continue;
            }
            rig.again();
            rig.write("HSET", "accounts", &[field.as_bytes(), value]);
            let what = format!("{field} = {value:?}");
            let said = rig.check(&what);
            assert!(!named || said.contains(field), "{what}: {said}");
        }
    }
    for missing in ["#epoch", "#revision", "#digest"] {
        rig.again();
        rig.write("HDEL", "accounts", &[missing.as_bytes()]);
        rig.check(&format!("no {missing}"));
    }
}

#[test]
fn records() {
    let mut rig = Rig::new();
    for value in [
        &b""[..],
        b"x",
        b"1 2 3",
        b"1 2 3 4 5",
        b"-1 0 0 0",
        b"0 0 0 0",
        b"1.5 0 0 0",
        b"100001 0 0 0",
        b"1 0 0 16",
        b"1 9999999999999999999999 0 0",
        b"1 0 9999999999999999999999 0",
        b"99999999999999999999999999 0 0 0",
        BYTES,
    ] {
        for field in ["a", "b", "c", "extra"] {
            rig.again();
            rig.write("HSET", "accounts", &[field.as_bytes(), value]);
            rig.write("ZADD", "free", &[b"-1000000", field.as_bytes()]);
            let what = format!("{field} = {:?}", String::from_utf8_lossy(value));
            let said = rig.check(&what);
            assert!(
                said.contains(&format!("accounts {field}: not an account")),
                "{what}: {said}"
            );
        }
    }
    // Right in itself, under a name that is none.
    for field in [
        &b""[..],
        b"a b",
        b"behind:a",
        b"a:probe",
        BYTES,
        &[b'x'; 65],
        // 32 of these in one reply, or one of those, are more than the filter takes.
        &[b'x'; 33_000],
        &[b'x'; LONG],
    ] {
        rig.again();
        rig.write("HSET", "accounts", &[field, b"1 0 0 0"]);
        rig.write("ZADD", "free", &[b"-1000000", field]);
        let named = String::from_utf8_lossy(&field[..field.len().min(65)]).into_owned();
        let said = rig.check(&named);
        assert!(said.contains("accounts "), "{named:?}: {said}");
    }
}

/// Longer than any reply may be.
const LONG: usize = 1_100_000;

/// Whatever a field holds, a reply that carries it is short: a long one would end the pipe, which all pools share.
#[test]
fn no_reply_carries_a_long_field() {
    let mut rig = Rig::new();
    let long = vec![b'7'; LONG];
    let with = |before: &str, after: &str| [before.as_bytes(), &long, after.as_bytes()].concat();
    // A record whose limit is long.
    rig.write("HSET", "accounts", &[b"b", &with("", " 0 0 0")]);
    rig.check("a record");
    // The revision of a sync in parts.
    rig.again();
    let now_ms = rig.ledger.state().now_ms;
    let after = format!(" 1 two {:.0} 3/7", now_ms + 9_000.0);
    rig.write("HSET", "accounts", &[b"#coming", &with("", &after)]);
    let asked = rig.pipe.sync_part("one", (4, 1), Part::Whole, &[]);
    assert_eq!(synced(&asked), Ok(Synced::Wanted));
    rig.check("#coming");
    // Whose a lease is, to the one that asks again, and to the one that ends it.
    let owner = |rig: &mut Rig, lease: LeaseId| {
        rig.write("HSET", "owner", &[lease.as_bytes(), &long]);
        rig.write("HSET", "used", &[&long, b"many"]);
    };
    rig.again();
    let lease = rig.lease;
    owner(&mut rig, lease);
    for mode in [Mode::Take, Mode::Force("a")] {
        let reply = rig.pipe.acquire_raw(lease, mode, None, None, 1);
        let said = text(&reply);
        assert!(said.contains(": not an account"), "{said:.200}");
    }
    let reply = rig.pipe.release_raw(&[lease]);
    assert!(text(&reply).contains("GARBAGE used 777"));
    assert!(reply.len() < 300, "{}", reply.len());
    rig.check("owner");
    // What an operator's key held before.
    rig.again();
    rig.write("HSET", "control", &[b"drain:b", &long, b"percent", &long]);
    let old = |rig: &mut Rig, verb, subject| rig.pipe.control(verb, subject, None).unwrap().0;
    assert_eq!(old(&mut rig, "undrain", "b"), "?");
    assert_eq!(old(&mut rig, "percent", "100"), "?");
    assert_eq!(old(&mut rig, "percent", ""), "100");
    // The account of a session.
    rig.again();
    let session = [1; 16];
    let tag = String::from_utf8(session_tag(&session).to_vec()).unwrap();
    let mut name = session_prefix(PREFIX, "p").into_bytes();
    name.extend(session_digits(&session));
    let value = with(&format!("={tag},"), " 9999999999999");
    rig.pipe.command(&[b"SET", &name, &value]);
    let was = rig.pipe.control("unbind", "", Some(&session));
    assert_eq!(was, Ok((String::new(), String::new())));
    rig.other_serves();
}

#[test]
fn members_of_free() {
    let mut rig = Rig::new();
    for member in [&b"ghost"[..], b"", b"#epoch", b"#table", b"a:1", BYTES] {
        for score in [&b"-inf"[..], b"-1e300", b"0", b"inf"] {
            rig.again();
            rig.write("ZADD", "free", &[score, member]);
            let what = format!("{member:?} at {score:?}");
            let said = rig.check(&what);
            // One that is never chosen is found by the recount alone.
            assert!(said.contains("not an account"), "{what}: {said}");
        }
    }
    for score in [&b"-inf"[..], b"inf", b"1e300", b"-5"] {
        rig.again();
        for member in [&b"a"[..], b"b", b"c"] {
            rig.write("ZADD", "free", &[score, member]);
        }
        rig.check(&format!("all at {score:?}"));
    }
    // Each costs one request, which says so; the next is right.
    rig.again();
    rig.write("ZADD", "free", &[b"-1e300", b"ghost"]);
    let lease = rig.ids.mint(None);
    assert_eq!(
        rig.pipe.acquire(lease, Mode::Take, None),
        Err(Fault::Garbage)
    );
    assert!(rig.pipe.acquire(lease, Mode::Take, None).is_ok());
}

#[test]
fn counts() {
    let mut rig = Rig::new();
    for value in [
        &b"abc"[..],
        b"",
        b"-3",
        b"1.5",
        b"nan",
        b"inf",
        b"1e300",
        b"99999999999999999999",
        BYTES,
    ] {
        for field in [&b"a"[..], b"b", b"c", b"#a", b"#b", b"ghost", b"", BYTES] {
            rig.again();
            rig.write("HSET", "used", &[field, value]);
            rig.check(&format!("used {field:?} = {value:?}"));
        }
    }
}

#[test]
fn leases_and_owners() {
    let mut rig = Rig::new();
    for score in [&b"-inf"[..], b"-1", b"9e17", b"inf"] {
        for member in [&b"stray"[..], b"", BYTES] {
            rig.again();
            rig.write("ZADD", "leases", &[score, member]);
            rig.check(&format!("leases {member:?} at {score:?}"));
        }
    }
    for value in [
        &b"nobody"[..],
        b"",
        b":",
        b":1",
        b"#epoch",
        b"a:b:c",
        b"a b",
        BYTES,
    ] {
        for owned in [true, false] {
            rig.again();
            let expiry = (rig.ledger.state().now_ms as u64 + 10).to_string();
            rig.write("HSET", "owner", &[b"stray", value]);
            if owned {
                rig.write("ZADD", "leases", &[expiry.as_bytes(), b"stray"]);
            }
            let held = rig.lease;
            rig.write("HSET", "owner", &[held.as_bytes(), value]);
            std::thread::sleep(std::time::Duration::from_millis(12));
            rig.check(&format!("owner = {value:?}, {owned}"));
        }
    }
}

#[test]
fn cooldowns_and_control() {
    let mut rig = Rig::new();
    for member in [&b"nobody"[..], b"behind:nobody", b"behind:", b"", BYTES] {
        for score in [&b"-inf"[..], b"-5", b"1.5", b"9e17", b"inf"] {
            rig.again();
            rig.write("ZADD", "cooldown", &[score, member]);
            rig.check(&format!("cooldown {member:?} at {score:?}"));
        }
    }
    for (field, value) in [
        (&b"percent"[..], BYTES),
        (b"percent", b"999999999"),
        (b"drain:", b"1"),
        (b"drain:\xff", b"1"),
        (BYTES, BYTES),
    ] {
        rig.again();
        rig.write("HSET", "control", &[field, value]);
        rig.check(&format!("control {field:?}"));
    }
}

#[test]
fn the_pass() {
    let mut rig = Rig::new();
    for field in ["by", "until", "stage", "cursor", "drift", "last", "revive"] {
        for value in [
            &b"abc"[..],
            b"",
            b"-1",
            b"1e300",
            b"99999999999999999999999",
            b"count",
            b"free",
            BYTES,
        ] {
            for begun in [false, true] {
                rig.again();
                if begun {
                    rig.pipe.reconcile("2.one", 90_000, 1).unwrap();
                    rig.pipe.reconcile("2.one", 90_000, 1).unwrap();
                }
                rig.write("HSET", "pass", &[field.as_bytes(), value]);
                rig.check(&format!("pass {field} = {value:?}, {begun}"));
            }
        }
    }
    // What someone writes for it while it runs makes it begin anew, not count wrongly.
    for (name, field) in [("accounts", "#pass"), ("used", "#a"), ("used", "#c")] {
        for at in 1..12 {
            rig.again();
            for _ in 0..at {
                rig.pipe.reconcile("2.one", 90_000, 1).unwrap();
            }
            rig.write("HSET", name, &[field.as_bytes(), b"abc"]);
            rig.check(&format!("{name} {field} at step {at}"));
        }
    }
}

/// Anything at all, in any key, several at once.
#[test]
fn whatever_bytes_there_are() {
    let mut rig = Rig::new();
    let mut random = fastrand::Rng::with_seed(17);
    for round in 0..150 {
        rig.again();
        let mut written = Vec::new();
        for _ in 0..random.usize(1..6) {
            let mut word = |fields: &[&str]| -> Vec<u8> {
                match random.u8(0..3) {
                    0 => (0..random.usize(0..40)).map(|_| random.u8(..)).collect(),
                    1 => random.u64(..).to_string().into_bytes(),
                    _ => fields[random.usize(..fields.len())].into(),
                }
            };
            let fields = [
                "a",
                "b",
                "#epoch",
                "#revision",
                "#digest",
                "#wake",
                "#pass",
                "#probe:b",
                "behind:c",
                "1 2 3 4",
                "#queue",
                "@-",
                "@now",
                "w:-:-:1700000000000000000:l",
                "t:-:0000000000000000:1700000000000000000:-",
                "~1700000000000000000 - - ~ 0 1 9 9 1 c",
            ];
            let (field, value) = (word(&fields), word(&fields));
            let score = ["-inf", "inf", "0", "-7", "1e300", "1700000000000"][random.usize(..6)];
            let name = [
                "accounts", "free", "used", "leases", "owner", "cooldown", "queue", "tenants",
                "pass",
            ][random.usize(..9)];
            if ["free", "leases", "cooldown", "queue"].contains(&name) {
                rig.write("ZADD", name, &[score.as_bytes(), &field]);
            } else {
                rig.write("HSET", name, &[&field, &value]);
            }
            written.push((name, field, value, score));
        }
        // An account of this pool's configuration cannot be told from another's: a stray that is right in itself is the sync's.
        rig.mend();
        let extra: Vec<String> = rig
            .ledger
            .state()
            .accounts
            .into_keys()
            .filter(|id| !["a", "b", "c"].contains(&id.as_str()))
            .collect();
        rig.pipe
            .sync_part("one", IN_FORCE, Part::Stray(&extra), &[]);
        rig.check(&format!("round {round}: {written:?}"));
    }
}
