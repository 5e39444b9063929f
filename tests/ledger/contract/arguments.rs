//! Arguments that are none, and the arity that each file's header promises.

use super::rig::Rig;
use crate::pipe::{source, text};
use slotgate::ledger::fault::Fault;
use slotgate::ledger::source::Script;
use std::collections::BTreeSet;

#[test]
fn malformed_arguments_are_named_and_write_nothing() {
    let mut rig = Rig::new();
    let keys: Vec<String> = [
        "accounts",
        "free",
        "used",
        "leases",
        "owner",
        "cooldown",
        "queue",
        "tenants",
        "control",
        "pass",
        "session:0000",
    ]
    .map(|k| rig.ledger.key(k))
    .into();
    let before = format!("{:?}", rig.ledger.state().accounts);
    let mut eval = |script: Script, arguments: &[&str]| {
        let source = source(script);
        let extra = match script {
            // The key that holds a session, where a tag is given.
            Script::Control if arguments.len() == 3 => 3,
            Script::Sync | Script::Control => 1,
            Script::Reconcile | Script::Overrides | Script::Account => 2,
            _ => 0,
        };
        let mut command: Vec<&[u8]> = vec![
            b"EVAL",
            source.as_bytes(),
            [&b"8"[..], b"9", b"10", b"11"][extra],
        ];
        command.extend(keys.iter().take(8 + extra).map(|key| key.as_bytes()));
        command.extend(arguments.iter().map(|argument| argument.as_bytes()));
        text(&rig.pipe.command(&command))
    };
    for (script, arguments, error) in [
        (Script::Account, &["drop", "a"][..], "BADARG verb"),
        (Script::Account, &["c-remove", "a"], "BADARG verb"),
        (Script::Account, &["remove"], "BADARG accounts"),
        (Script::Account, &["set", "a", "1"], "BADARG accounts"),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "0", ""][..],
            "BADARG lease",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "0", "l", "a b"],
            "BADARG lease",
        ),
        (
            Script::Acquire,
            &["0", "1", "0", "take", "0", "l"],
            "BADARG ttl_ms",
        ),
        (
            Script::Acquire,
            &["x", "1", "0", "take", "0", "l"],
            "BADARG ttl_ms",
        ),
        (
            Script::Acquire,
            &["1.5", "1", "0", "take", "0", "l"],
            "BADARG ttl_ms",
        ),
        (
            Script::Acquire,
            &["1000", "-1", "0", "take", "0", "l"],
            "BADARG seed",
        ),
        (
            Script::Acquire,
            &["1000", "1", "nan", "take", "0", "l"],
            "BADARG random",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "grab", "0", "l"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "-1", "l"],
            "BADARG session_ttl_ms",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "0", "l", "k", "l"],
            "BADARG mode, leases, sessions or keys",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "0"],
            "BADARG mode, leases, sessions or keys",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take", "5", "l"],
            "BADARG session bytes",
        ),
        (
            Script::Acquire,
            &[
                "1000",
                "1",
                "0",
                "take",
                "5",
                "l",
                "171",
                "0123456789abcdef",
            ],
            "BADARG mode, leases, sessions or keys",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "force", "0", "l"],
            "BADARG mode, leases, sessions or keys",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take not", "0", "l"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take not ", "0", "l"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take not a b c d e f g h i j", "0", "l"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "take not a\r\n", "0", "l"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "dry not a", "0", "l"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "force not a", "0", "l", "a"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", "grab not a", "0", "l"],
            "BADARG mode",
        ),
        (
            Script::Acquire,
            &["1000", "1", "0", " not a", "0", "l"],
            "BADARG mode",
        ),
        (Script::Acquire, &["1000", "1"], "BADARG random"),
        (Script::Acquire, &[], "BADARG ttl_ms"),
        (Script::Release, &[], "BADARG leases"),
        (Script::Release, &["ok", "not ok"], "BADARG lease"),
        (Script::Renew, &["1000"], "BADARG leases"),
        (Script::Renew, &["1000", "l", "a"], "BADARG leases"),
        (Script::Renew, &["1", "l l", "a", "1"], "BADARG lease"),
        (Script::Renew, &["", "l", "a", "1"], "BADARG ttl_ms"),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "1", "0"],
            "BADARG accounts",
        ),
        (
            Script::Sync,
            &["0", "d", "1", "0", "a", "1", "0", "0"],
            "BADARG revision",
        ),
        (
            Script::Sync,
            &["2", "d", "x", "0", "a", "1", "0", "0"],
            "BADARG epoch",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "-1", "a", "1", "0", "0"],
            "BADARG load",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "#x", "1", "0", "0"],
            "BADARG account",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "0", "0", "0"],
            "BADARG max_concurrency",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "1", "-1", "0"],
            "BADARG base",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "1", "0", "2"],
            "BADARG disabled",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0 1 1 0 9 mine 0", "a", "1", "0", "0"],
            "BADARG from",
        ),
        (
            Script::Sync,
            &["2", "d", "1", "0", "a", "1", "0", "0 9/0/1"],
            "BADARG pace",
        ),
        (
            Script::Sync,
            &[
                "2", "d", "1", "0", "@", "1", "1", "w", "some", "a", "1", "0", "0",
            ],
            "BADARG part",
        ),
        (
            Script::Control,
            &["unbind", "0123456789abcdef"],
            "BADARG session: its key",
        ),
        (
            Script::Control,
            &["unbind", "0123456789abcdeg", ""],
            "BADARG session: its tag",
        ),
        (
            Script::Control,
            &["unbind", "0123456789abcde", ""],
            "BADARG session: its tag",
        ),
        (Script::Reconcile, &["a b", "1000", "10"], "BADARG by"),
        (Script::Reconcile, &["w", "0", "10"], "BADARG silence_ms"),
        (Script::Reconcile, &["w", "1000", "0"], "BADARG count"),
        (Script::Overrides, &["0", "1"], "BADARG drained"),
        (Script::Overrides, &["1001", "1"], "BADARG drained"),
        (Script::Overrides, &["1", "1001"], "BADARG used"),
        (Script::Overrides, &["1"], "BADARG used"),
        (Script::Cooldown, &["a", "0"], "BADARG cooldown_ms"),
        (Script::Cooldown, &["a", "1", "rest"], "BADARG what"),
        (
            Script::Cooldown,
            &["a", "0", "passed", "le ase"],
            "BADARG lease",
        ),
        (Script::Cooldown, &["a", "0", "passed"], "BADARG lease"),
        (
            Script::Cooldown,
            &["a", "0", "behind"],
            "BADARG cooldown_ms",
        ),
        (
            Script::Cooldown,
            &["a", "-1", "disable", "401"],
            "BADARG cooldown_ms",
        ),
        (
            Script::Cooldown,
            &["a", "86400001", "disable", "401"],
            "BADARG cooldown_ms",
        ),
        (Script::Cooldown, &["a", "0", "disable"], "BADARG why"),
        (
            Script::Cooldown,
            &["a", "0", "disable", "4 1"],
            "BADARG why",
        ),
        (Script::Cooldown, &["zz", "1"], "NOACCOUNT zz"),
    ] {
        let answer = eval(script, arguments);
        assert!(
            answer.starts_with(error),
            "{script:?} {arguments:?}: {answer}"
        );
    }
    assert_eq!(format!("{:?}", rig.ledger.state().accounts), before);
    assert!(rig.ledger.is_empty());
}

/// The header of each file says how many KEYS and ARGV it takes; the encoders must agree.
#[test]
fn headers_tell_the_arity() {
    for script in Script::ALL {
        assert!(script.source().starts_with("#!lua"), "{script:?}");
        let name = format!("{script:?}").to_lowercase();
        let body = std::fs::read_to_string(format!("lua/{name}.lua")).unwrap();
        let title = format!("-- {name}:");
        assert!(
            body.starts_with(&title),
            "{script:?} is named in its header"
        );
        for part in ["-- KEYS ", "-- ARGV ", "-- Returns ", "-- Cost "] {
            assert!(body.contains(part), "{script:?} lacks {part:?}");
        }
        let code: String = body
            .lines()
            .filter(|line| !line.starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n");
        let header: String = body
            .lines()
            .take_while(|line| line.starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n");
        let numbers: BTreeSet<usize> = (1..=9)
            .filter(|n| code.contains(&format!("ARGV[{n}]")))
            .collect();
        for number in numbers {
            let told = header.lines().any(|line| {
                let words: Vec<&str> = line.trim_start_matches("--").split_whitespace().collect();
                words
                    .iter()
                    .take(2)
                    .any(|word| word.trim_end_matches('.') == number.to_string())
            });
            assert!(told, "{script:?}: ARGV[{number}] is not in the header");
        }
        assert_eq!(
            code.contains("KEYS[9]"),
            header.contains("9 "),
            "{script:?}: KEYS[9]"
        );
    }
}

#[test]
fn inspect_checks_its_arguments_and_needs_a_pool() {
    let mut rig = Rig::new();
    for (cursor, count) in [("x", 10), ("-1", 10), ("", 10), ("0", 0), ("0", 1001)] {
        let answer = rig.pipe.inspect_raw(cursor, count);
        assert!(
            text(&answer).starts_with("BADARG"),
            "{cursor:?} {count}: {}",
            text(&answer)
        );
    }
    let _: i64 = rig.redis.run("DEL", &[&rig.ledger.key("accounts")]);
    assert_eq!(rig.pipe.inspect(), Err(Fault::NoPool));
}
