//! A worker with a clock of its own, what it sends, and what is answered.

use crate::config;
use slotgate::ledger::resp::{Value, Values, reply_length};
use slotgate::pipe::down::PipeOrder;
use slotgate::request::admission::{Path, Reason};
use slotgate::request::headers::Headers;
use slotgate::request::lease::LeaseId;
use slotgate::request::verdict::Verdict;
use slotgate::upstream::failing::Source;
use slotgate::worker::Worker;
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;
use std::collections::VecDeque;

// What a sync answers.
pub const CURRENT: &str = "*3\r\n$7\r\ncurrent\r\n$1\r\n1\r\n$1\r\n9\r\n";
pub const WANTED: &str = "*3\r\n$6\r\nwanted\r\n$1\r\n0\r\n$1\r\n9\r\n";
pub const REPLACED: &str = "*3\r\n$8\r\nreplaced\r\n$1\r\n1\r\n$1\r\n9\r\n";
pub const COMING: &str = "*3\r\n$6\r\ncoming\r\n$1\r\n2\r\n$1\r\n9\r\n";
pub const NEWER: &str = "*3\r\n$5\r\nnewer\r\n$1\r\n2\r\n$1\r\n9\r\n";
// What SCRIPT LOAD answers.
pub const SHA: &str = "$40\r\n0123456789012345678901234567890123456789\r\n";
// Errors of a script.
pub const NOPOOL: &str = "-NOPOOL no accounts are synced for this pool\r\n";
pub const GARBAGE: &str =
    "-GARBAGE accounts #epoch: not a whole number script: 0123, on @user_script:9.\r\n";
pub const WRONGTYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value script: 0123, on @user_script:9.\r\n";
pub const LUA: &str =
    "-ERR user_script:7: attempt to compare nil with number script: 0123, on @user_script:7.\r\n";

/// A worker, its clock, and the commands it has written.
pub struct Rig {
    pub worker: Worker,
    pub now_ms: u64,
    pub next_stream: u32,
    /// For `reply_next`: what `commands` gave since `Rig::ready`.
    pub asked: VecDeque<Sent>,
}

pub use slotgate::worker::RequestId as Id;

impl Rig {
    pub fn new(change: impl FnOnce(&mut serde_json::Value)) -> Self {
        Self {
            worker: Worker::new(config(change), 7),
            now_ms: 1_000,
            next_stream: 1,
            asked: VecDeque::new(),
        }
    }

    /// With the pipe ready and the pool in force.
    pub fn ready(change: impl FnOnce(&mut serde_json::Value)) -> Self {
        let mut rig = Self::new(change);
        rig.request(&[("x-warm", "up")]);
        rig.open();
        rig.reply(CURRENT);
        let commands = rig.commands();
        let lease = commands[1].lease();
        rig.reply(&granted("a"));
        let (stream, _) = rig.answers()[0];
        rig.worker.on_end(rig.now_ms, Id { slot: 0, stream });
        assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
        rig.reply(":1\r\n");
        rig.asked.clear();
        rig
    }

    pub fn respond(&mut self, id: Id, status: u16, headers: &[(&str, &str)]) {
        self.respond_from(Source::Upstream, id, status, headers);
    }

    pub fn respond_from(&mut self, source: Source, id: Id, status: u16, headers: &[(&str, &str)]) {
        let pairs: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
            .collect();
        let bytes = Headers::serialize(&pairs);
        let headers = Headers::new(&bytes);
        if self.worker.wants_response(id, status) {
            let answer = (source, status);
            self.worker.on_response(self.now_ms, id, answer, headers, 0);
        }
    }

    /// The only event of its moment.
    pub fn request(&mut self, headers: &[(&str, &str)]) -> (Id, Option<Verdict>) {
        let request = self.request_among_others(headers);
        self.worker.flush(self.now_ms);
        request
    }

    pub fn request_among_others(&mut self, headers: &[(&str, &str)]) -> (Id, Option<Verdict>) {
        let pairs: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
            .collect();
        let stream = self.next_stream;
        self.next_stream += 1;
        let bytes = Headers::serialize(&pairs);
        self.worker
            .on_request(self.now_ms, stream, Headers::new(&bytes))
    }

    /// A request that got as far as sending its acquire.
    pub fn acquiring(&mut self) -> (Id, String) {
        let (id, verdict) = self.request(&[]);
        assert_eq!(verdict, None);
        let sent = self.commands();
        assert_eq!(sent.len(), 1, "{sent:?}");
        (id, sent[0].lease())
    }

    pub fn holding(&mut self) -> (Id, String) {
        let (id, lease) = self.acquiring();
        self.reply(&granted("a"));
        assert!(matches!(
            self.answers()[..],
            [(
                _,
                Verdict::Forward {
                    path: Path::Atomic,
                    ..
                }
            )]
        ));
        (id, lease)
    }

    /// Granted an account that has cooled.
    pub fn probing(&mut self) -> (Id, String) {
        let (id, lease) = self.acquiring();
        self.reply(&granted("a:probe"));
        self.answers();
        (id, lease)
    }

    /// Opens the pipe that the worker asked for and answers its greetings.
    pub fn open(&mut self) {
        self.until(|worker| worker.wire().order == Some(PipeOrder::Open));
        self.worker.wire().order = None;
        self.worker.on_pipe_open(self.now_ms);
        loop {
            let commands = self.commands();
            for command in &commands {
                self.reply(match command.0[0].as_str() {
                    "SCRIPT" => SHA,
                    _ => "+OK\r\n",
                });
            }
            // The scripts wait for the first reply.
            if commands.iter().any(|command| command.0[0] == "SCRIPT") {
                return;
            }
        }
    }

    /// The same up to a pipe that serves.
    pub fn reopen(&mut self) {
        self.open();
        self.reply(CURRENT);
    }

    /// As the host does ahead of each tick.
    fn drop_pipe(&mut self) {
        self.worker
            .wire()
            .order
            .take_if(|order| *order == PipeOrder::Reset);
    }

    /// Ticks whenever the worker wants to, until the condition holds.
    pub fn until(&mut self, mut condition: impl FnMut(&mut Worker) -> bool) {
        for _ in 0..10_000 {
            if condition(&mut self.worker) {
                return;
            }
            self.now_ms = self
                .worker
                .next_wake_ms()
                .expect("it has nothing to wait for")
                .max(self.now_ms);
            self.drop_pipe();
            self.worker.on_tick(self.now_ms);
        }
        panic!("never");
    }

    pub fn wait(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while let Some(wake_ms) = self
            .worker
            .next_wake_ms()
            .filter(|wake_ms| *wake_ms <= end_ms)
        {
            self.now_ms = wake_ms.max(self.now_ms);
            self.worker.on_tick(self.now_ms);
            if self.worker.wire().order.is_some() {
                return;
            }
        }
        self.now_ms = end_ms;
    }

    pub fn reply(&mut self, bytes: &str) {
        self.worker.on_pipe_bytes(self.now_ms, bytes.as_bytes());
    }

    /// Answers the oldest command of those no `reply` has answered.
    pub fn reply_next(&mut self) {
        self.commands();
        let command = self.asked.pop_front().expect("a command");
        self.reply(&match command.arguments().len() {
            1 => ":1\r\n".into(),
            _ if command.is_acquire() => granted("a"),
            _ => panic!("{command:?}"),
        });
    }

    pub fn answers(&mut self) -> Vec<(u32, Verdict)> {
        let answers = std::iter::from_fn(|| self.worker.next_answer());
        answers
            .map(|answer| (answer.request.stream, answer.verdict))
            .collect()
    }

    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.worker.output().notices)
    }

    /// What was sent a moment later: a release waits as long for something to go with.
    pub fn commands_soon(&mut self) -> Vec<Sent> {
        self.wait(1);
        self.commands()
    }

    pub fn commands(&mut self) -> Vec<Sent> {
        let bytes = std::mem::take(&mut self.worker.wire().bytes);
        let mut rest = bytes.as_slice();
        let mut commands = Vec::new();
        while let Some(length) = reply_length(rest).unwrap() {
            let mut values = Values::new(&rest[..length]);
            let Some(Value::Array(count)) = values.value() else {
                panic!("no command")
            };
            commands.push(Sent(
                (0..count)
                    .map(|_| String::from_utf8_lossy(values.bulk().unwrap()).into())
                    .collect(),
            ));
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "half a command");
        self.asked.extend(commands.iter().cloned());
        commands
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.worker.counters().get(counter)
    }
}

/// The arguments of one command.
#[derive(Debug, Clone)]
pub struct Sent(pub Vec<String>);

/// Of a script: its own arguments say which one it is.
impl Sent {
    pub fn release(lease: &str) -> Self {
        Self(vec![lease.into()])
    }

    pub fn arguments(&self) -> &[String] {
        assert!(self.0[0].starts_with("EVAL"), "{self:?}");
        &self.0[3 + self.0[2].parse::<usize>().unwrap()..]
    }

    pub fn lease(&self) -> String {
        self.arguments()[if self.is_acquire() { 5 } else { 0 }].clone()
    }

    pub fn is_acquire(&self) -> bool {
        let arguments = self.arguments();
        let modes = ["take", "dry", "force"];
        arguments.len() > 5
            && (modes.contains(&arguments[3].split(' ').next().unwrap())
                || arguments[3].starts_with("join "))
    }

    pub fn is_reconcile(&self) -> bool {
        self.arguments()[0].starts_with("3.")
    }

    /// Of an operator's overrides.
    pub fn is_look(&self) -> bool {
        self.0[0].starts_with("EVAL") && self.arguments() == ["1000", "64"]
    }

    /// Of a sync: which part it is.
    pub fn part(&self) -> &str {
        &self.arguments()[8]
    }

    /// Of a sync: what it carries.
    pub fn listed(&self) -> &[String] {
        &self.arguments()[9..]
    }

    pub fn is_release(&self) -> bool {
        let arguments = self.arguments();
        let lengths = [LeaseId::LEN, LeaseId::LEN_WITH_TENANT];
        arguments.iter().all(|one| lengths.contains(&one.len()))
    }

    pub fn is_release_of(&self, lease: &str) -> bool {
        self.is_release() && self.arguments().iter().any(|one| one == lease)
    }
}

impl PartialEq for Sent {
    fn eq(&self, other: &Self) -> bool {
        let own = |sent: &Self| {
            if sent.0[0].starts_with("EVAL") {
                sent.arguments().to_vec()
            } else {
                sent.0.clone()
            }
        };
        own(self) == own(other)
    }
}

pub fn granted(account: &str) -> String {
    format!("*2\r\n$1\r\n9\r\n${}\r\n{account}\r\n", account.len())
}

pub fn passed_on(reason: Reason) -> Option<Verdict> {
    Some(Verdict::Forward {
        path: Path::Traditional,
        reason: Some(reason),
        pool: Some(0),
        holds: None,
    })
}

/// A reply to the last step of a recount.
pub fn done(found: &str, revision: &str, digest: &str) -> String {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let drift = usize::from(!found.is_empty()).to_string();
    let parts = ["done", &drift, found, revision, digest].map(bulk);
    format!("*5\r\n{}", parts.concat())
}

/// Pools `p` for `x-warm` and `q`, both in force.
pub fn two_pools() -> Rig {
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

pub fn said(rig: &mut Rig) -> Vec<String> {
    let notices = rig.notices();
    notices.iter().map(ToString::to_string).collect()
}

pub fn pool_of(command: &Sent) -> &str {
    command.0[3].split(['{', '}']).nth(1).unwrap()
}

/// Answers everything: acquires with this.
pub fn answer(rig: &mut Rig, error: &str) {
    for command in rig.commands() {
        rig.reply(if command.is_acquire() {
            error
        } else {
            ":1\r\n"
        });
    }
}

/// The same with an error that the second try meets as well.
pub fn refuse(rig: &mut Rig, error: &str) {
    answer(rig, error);
    answer(rig, error);
}

/// The next reconcile that is sent within this long, in ms, and when.
pub fn reconcile(rig: &mut Rig, within_ms: u64) -> Option<(u64, Sent)> {
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

/// Grants an account that is not configured, twice: what is sent for that.
pub fn stray(rig: &mut Rig) -> Vec<Sent> {
    rig.request(&[]);
    rig.request(&[]);
    answer(rig, &granted("zz"));
    rig.answers();
    let sent = rig.commands();
    sent.into_iter().filter(|sent| !sent.is_release()).collect()
}
