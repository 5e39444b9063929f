//! A key of another type than the scripts write.

use super::rig::{Rig, accounts};
use crate::pipe::text;
use slotgate::ledger::commands::Synced;

/// Types that a key can be of, and the command that makes it so.
const TYPES: [(&str, &[&[u8]]); 4] = [
    ("SET", &[b"text"]),
    ("LPUSH", &[b"1"]),
    ("HSET", &[b"x", b"y"]),
    ("ZADD", &[b"1", b"x"]),
];

#[test]
fn a_key_of_another_type() {
    let mut rig = Rig::new();
    for name in [
        "accounts", "free", "used", "leases", "owner", "cooldown", "queue", "tenants", "pass",
    ] {
        for (command, rest) in TYPES {
            let right = if ["free", "leases", "cooldown", "queue"].contains(&name) {
                "ZADD"
            } else {
                "HSET"
            };
            if command == right {
                continue;
            }
            rig.again();
            rig.write("DEL", name, &[]);
            rig.write(command, name, rest);
            let what = format!("{name} by {command}");
            // The command line and the console hear which key it is.
            let named = format!("WRONGTYPE {name} is no ");
            if name != "pass" {
                for reply in [
                    rig.pipe.inspect_raw("0", 10),
                    rig.pipe.control_raw("drain", "a", None),
                ] {
                    assert!(text(&reply).starts_with(&named), "{}", text(&reply));
                }
            }
            let said = rig.check(&what);
            assert!(said.contains(&format!("{name} is no ")), "{what}: {said}");
            if name == "leases" {
                assert_eq!(
                    rig.ledger.live(),
                    1,
                    "its owner is known, so the lease lives"
                );
            }
        }
    }
}

/// What belongs to one request or to an operator is nobody else's trouble; only `control` stays until someone mends it.
#[test]
fn a_key_of_another_type_beside_the_ledger() {
    let mut rig = Rig::new();
    let hash = |byte: &str| byte.repeat(16);
    for name in [
        format!("session:{}", hash("01")),
        format!("cooldown:{}", hash("02")),
        "question".into(),
        "answer".into(),
        "changes".into(),
    ] {
        for (command, rest) in TYPES {
            rig.again();
            rig.write("DEL", &name, &[]);
            rig.write(command, &name, rest);
            rig.check(&format!("{name} by {command}"));
        }
    }
    rig.again();
    rig.pipe.control("drain", "b", None).unwrap();
    rig.write("DEL", "control", &[]);
    rig.write("SET", "control", &[b"x"]);
    let said = rig.ask_everything().join("; ");
    assert!(said.contains("control is no hash"), "{said}");
    rig.mend();
    // What was drained stays so, through a sync too.
    let more = rig.pipe.sync(4, 8, Some(&accounts()));
    assert_eq!(more, Ok(Synced::Replaced));
    assert_eq!(rig.pipe.inspect().unwrap()["b"].1, "drained");
    rig.other_serves();
}
