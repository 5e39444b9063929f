//! The command line, run as its users run it, against a real Redis: what it prints, its exit code, and what changed.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs
)]

mod accounts;
mod beside;
mod change;
mod check;
mod corpus;
mod doctor;
mod escapes;
mod explain;
mod faults;
mod generate;
mod help;
mod init;
mod ledger;
mod log;
#[path = "../ledger/pipe.rs"]
mod pipe;
mod queue;
mod recall;
mod show;
mod warnings;

use pipe::{PREFIX, Pipe, account};
use serde_json::Value;
use slotgate::ledger::commands::Synced;
use slotgate::ledger::commands::{Mode, SyncAccount};
use slotgate::request::lease::LeaseIds;
use std::io::Write;
use std::process::{Command, Stdio};
use support::{Ledger, Redis};

/// How a run of the program ended.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// The program with no setting of its own in the environment.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slotgate"));
    for variable in [
        "SLOTGATE_REDIS",
        "SLOTGATE_REDIS_PASSWORD",
        "SLOTGATE_PREFIX",
        "NO_COLOR",
    ] {
        command.env_remove(variable);
    }
    command
}

fn finish(mut command: Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that doesn't read may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().expect("no signal ended it"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(arguments: &[&str]) -> Ran {
    let mut command = program();
    command.args(arguments);
    finish(command, "")
}

impl Ran {
    /// What it printed, which must be all it had to say.
    #[track_caller]
    fn done(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    /// The message of a run that must fail, and print nothing else.
    #[track_caller]
    fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        self.err
    }
}

/// A Redis with pool `p`: accounts a, b, c with 1, 2, 3 slots, b of a worse priority.
struct Rig {
    redis: Redis,
    pipe: Pipe,
    ids: LeaseIds,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self::empty();
        let accounts = [
            account("a", 1),
            SyncAccount {
                base: 100_000,
                ..account("b", 2)
            },
            account("c", 3),
        ];
        assert_eq!(rig.pipe.sync(7, 1, Some(&accounts)), Ok(Synced::Replaced));
        rig
    }

    fn empty() -> Self {
        let redis = Redis::start();
        let mut pipe = Pipe::open(&redis, "p");
        // Long enough for the slowest machine.
        pipe.ttl_ms = 600_000;
        Self {
            redis,
            pipe,
            ids: LeaseIds::new(1),
        }
    }

    /// A lease of this account; its id.
    fn take(&mut self, account: &str) -> String {
        let lease = self.ids.mint(None);
        self.pipe
            .acquire(lease, Mode::Force(account), None)
            .unwrap();
        lease.to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .env("SLOTGATE_REDIS", self.redis.addr().to_string())
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments), "")
    }

    /// With `--json`.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.run(&[arguments, &["--json"]].concat()).done();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// The program's output with what differs from run to run masked: this Redis, and lengths of time in seconds.
    fn masked(&self, text: &str) -> String {
        mask_times(&text.replace(&self.redis.addr().to_string(), "REDIS"))
    }

    fn ledger(&self) -> Ledger {
        Ledger::new(&self.redis, PREFIX, "p")
    }

    /// All that is in Redis.
    fn dump(&self) -> Vec<(String, Vec<u8>)> {
        let mut connection = self.redis.connect();
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        keys.sort();
        keys.into_iter()
            .map(|key| {
                let dump = redis::cmd("DUMP").arg(&key).query(&mut connection).unwrap();
                (key, dump)
            })
            .collect()
    }
}

/// `4.2 s` → `TIME`, `13:04:05 UTC` → `CLOCK UTC`.
fn mask_times(text: &str) -> String {
    let mut out = String::new();
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let words: Vec<&str> = line.split(' ').collect();
        let masked: Vec<&str> = words
            .iter()
            .enumerate()
            .filter_map(|(at, word)| {
                let next = words.get(at + 1).copied().unwrap_or_default();
                let before = at.checked_sub(1).map_or("", |at| words[at]);
                let is_time = |word: &str| word.contains('.') && word.parse::<f64>().is_ok();
                let is_seconds = |word: &str| word.trim_end_matches([';', ',']) == "s";
                if is_time(word) && is_seconds(next) {
                    Some("TIME")
                } else if is_seconds(word) && is_time(before) {
                    None
                } else if next == "UTC" {
                    Some("CLOCK")
                } else {
                    Some(*word)
                }
            })
            .collect();
        out.push_str(&masked.join(" "));
    }
    out
}
