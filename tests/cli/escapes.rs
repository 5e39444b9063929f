//! Whatever Redis, a file or an argument holds, nothing that is printed commands the terminal, forges a line, or hides or
//! turns round a part of one.

use crate::{Rig, finish, program, run};
use serde_json::Value;
use slotgate::printable::is_harmful;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

/// A title for the window, colours by C0 and C1, a line of its own, right to left, and what ends no width.
const HOSTILE: &str =
    "x\x1b]0;y\x07\u{9b}31m\r\nforged\u{202e}\u{2066}\u{200b}\u{2028}\x7f\t\u{feff}z";
const SHOWN: &str =
    r"x\u{1b}]0;y\u{7}\u{9b}31m\r\nforged\u{202e}\u{2066}\u{200b}\u{2028}\u{7f}\t\u{feff}z";

/// The text, which holds that many lines and nothing harmful beside their ends.
#[track_caller]
fn harmless(text: String, lines: usize) -> String {
    let harmful = text.chars().find(|char| *char != '\n' && is_harmful(*char));
    assert_eq!(harmful, None, "{text:?}");
    assert_eq!(text.matches('\n').count(), lines, "{text}");
    text
}

/// A pool whose accounts and leases were put there by hand.
fn hostile() -> Rig {
    let rig = Rig::new();
    let put = |command: &str, key: &str, arguments: &[&str]| {
        let key = format!("slotgate:{{p}}:{key}");
        rig.redis
            .run::<redis::Value>(command, &[&[key.as_str()], arguments].concat());
    };
    let accounts = "slotgate:{p}:accounts";
    let record: String = rig.redis.run("HGET", &[accounts, "b"]);
    put("HSET", "accounts", &[HOSTILE, &record]);
    put("HSET", "control", &["percent", "\x1b[2J"]);
    put("HSET", "owner", &["1234", HOSTILE]);
    put("HSET", "used", &[HOSTILE, "1"]);
    put("ZADD", "leases", &["9999999999999", "1234"]);
    rig
}

/// What is wrong in a pool is named in words of the scripts', which hold no such character.
const NAMED: &str = "accounts x??0?y???31m??forged";

#[test]
fn what_stands_in_redis() {
    let rig = hostile();
    let told = harmless(rig.run(&["lease", "1234"]).done(), 1);
    assert!(
        told.contains(&format!("a slot of {SHOWN} of pool p")),
        "{told}"
    );
    for arguments in [
        &["status"][..],
        &["watch", "--count", "1"],
        &["explain", "--session", "s", "--scope", HOSTILE],
    ] {
        let told = harmless(rig.run(arguments).failed(3), 2);
        assert!(told.contains(NAMED), "{told}");
    }
}

#[test]
fn json_says_the_same_and_holds_no_such_character() {
    let rig = hostile();
    let told = harmless(rig.run(&["status", "--json"]).failed(3), 1);
    let told: Value = serde_json::from_str(&told).unwrap();
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.contains(NAMED), "{told}");
    let told = harmless(rig.run(&["lease", "1234", "--json"]).done(), 7);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["account"], HOSTILE);
    let told = harmless(rig.run(&["drain", HOSTILE, "--json"]).failed(2), 1);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["error"]["kind"], "argument");
}

/// Something that answers everything with an error.
fn refuser() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            while matches!(stream.read(&mut asked), Ok(1..)) {
                let _ = stream.write_all("-ODD x\x1b]0;y\x07\u{9b}\u{202e}\rz\r\n".as_bytes());
            }
        }
    });
    addr
}

#[test]
fn what_a_server_says() {
    let addr = refuser().to_string();
    for pool in [&[][..], &["--pool", "p"]] {
        let arguments = [&["status", "--redis", &addr], pool].concat();
        let told = harmless(run(&arguments).failed(3), 1);
        let said = r"ODD x\x1b]0;y\x07\xc2\x9b\xe2\x80\xae\rz";
        assert!(told.contains(said), "{told}");
        let told = harmless(run(&[&arguments[..], &["--json"]].concat()).failed(3), 1);
        let told: Value = serde_json::from_str(&told).unwrap();
        let message = told["error"]["message"].as_str().unwrap();
        assert!(message.ends_with(said), "{message:?}");
    }
}

#[test]
fn what_stands_in_a_file() {
    let configuration = serde_json::json!({
        "name": HOSTILE,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": HOSTILE,
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.Struct",
                    "value": {
                        "role": "scheduler",
                        HOSTILE: 1,
                        "gray": {"mode": HOSTILE, "salt": HOSTILE},
                        "redis": {"pipe_cluster": HOSTILE, "password_env": HOSTILE},
                        "pools": [{"name": HOSTILE, "accounts": [{"id": HOSTILE, "set_headers": {HOSTILE: HOSTILE}}]}],
                    },
                },
            },
        },
    });
    let checked = |name: &str, text: &str| {
        let mut command = program();
        command.args(["check", name]);
        let ran = finish(command, text);
        assert_eq!(ran.err, "");
        assert_ne!(ran.code, 0);
        ran.out
    };
    let text = serde_json::json!({ HOSTILE: [configuration] }).to_string();
    let told = checked("-", &text);
    let lines = told.matches('\n').count();
    let told = harmless(told, lines);
    // Each line begins as the program's own do.
    for line in told.lines().skip(1) {
        assert!(line.starts_with("  "), "{told}");
    }
    assert!(
        told.contains(&format!("  at {SHOWN}[0].typed_config")),
        "{told}"
    );
    // What is no configuration at all, and a file that is not there.
    for (name, text) in [("-", "\u{1}: {"), ("-", "[\"\x1b[2J\", }"), (HOSTILE, "")] {
        let mut command = program();
        command.args(["check", name]);
        let ran = finish(command, text);
        harmless(ran.err, 1);
        assert_eq!(ran.out, "");
    }
}

#[test]
fn what_an_argument_holds() {
    for arguments in [
        &["drain", HOSTILE][..],
        &["status", "--pool", HOSTILE],
        &["lease", HOSTILE],
        &["percent", "set", HOSTILE],
        &["status", "--prefix", HOSTILE],
        &[
            "bucket",
            "--session",
            HOSTILE,
            "--percent",
            "1",
            "--salt",
            HOSTILE,
        ],
        // clap's own words.
        &["\x1b]0;y\x07"],
        &["status", "--rows", "\x1b]0;y\x07\u{202e}"],
    ] {
        let ran = run(arguments);
        let both = ran.out + &ran.err;
        let lines = both.matches('\n').count();
        harmless(both, lines);
    }
}
