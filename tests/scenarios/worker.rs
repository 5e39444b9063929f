//! The worker's transition table: what each event does in each state of the pipe, and every deadline.

use crate::config;
use slotgate::ledger::fault::Fault;
use slotgate::ledger::resp::{Value, Values, reply_length};
use slotgate::ledger::source::Script;
use slotgate::pipe::down::{Down, PipeOrder};
use slotgate::request::admission::{Path, Reason};
use slotgate::request::headers::Headers;
use slotgate::request::lease::LeaseId;
use slotgate::request::verdict::Verdict;
use slotgate::upstream::failing::Source;
use slotgate::worker::Worker;
use slotgate::worker::counters::Counter;
use slotgate::worker::notice::Notice;
use std::collections::{BTreeMap, VecDeque};

#[path = "control.rs"]
mod control;
#[path = "garbage.rs"]
mod garbage;
#[path = "greeting.rs"]
mod greeting;
#[path = "metrics.rs"]
mod metrics;
#[path = "storm.rs"]
mod storm;
#[path = "together.rs"]
mod together;

const CURRENT: &str = "*3\r\n$7\r\ncurrent\r\n$1\r\n1\r\n$1\r\n9\r\n";
const SHA: &str = "$40\r\n0123456789012345678901234567890123456789\r\n";

/// A worker, its clock, and the commands it has written.
struct Rig {
    worker: Worker,
    now_ms: u64,
    next_stream: u32,
    /// For `reply_next`: what `commands` gave since `Rig::ready`.
    asked: VecDeque<Sent>,
}

/// One request as the host knows it.
type Id = (usize, u32);

impl Rig {
    fn new(change: impl FnOnce(&mut serde_json::Value)) -> Self {
        Self {
            worker: Worker::new(config(change), 7),
            now_ms: 1_000,
            next_stream: 1,
            asked: VecDeque::new(),
        }
    }

    /// With the pipe ready and the pool in force.
    fn ready(change: impl FnOnce(&mut serde_json::Value)) -> Self {
        let mut rig = Self::new(change);
        rig.request(&[("x-warm", "up")]);
        rig.open();
        rig.reply(CURRENT);
        let commands = rig.commands();
        let lease = commands[1].lease();
        rig.reply(&granted("a"));
        let (stream, _) = rig.answers()[0];
        rig.worker.on_end(rig.now_ms, (0, stream));
        assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
        rig.reply(":1\r\n");
        rig.asked.clear();
        rig
    }

    fn respond(&mut self, id: Id, status: u16, headers: &[(&str, &str)]) {
        self.respond_from(Source::Upstream, id, status, headers);
    }

    fn respond_from(&mut self, source: Source, id: Id, status: u16, headers: &[(&str, &str)]) {
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
    fn request(&mut self, headers: &[(&str, &str)]) -> (Id, Option<Verdict>) {
        let request = self.request_among_others(headers);
        self.worker.flush(self.now_ms);
        request
    }

    fn request_among_others(&mut self, headers: &[(&str, &str)]) -> (Id, Option<Verdict>) {
        let pairs: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
            .collect();
        let stream = self.next_stream;
        self.next_stream += 1;
        let bytes = Headers::serialize(&pairs);
        let (slot, verdict) = self
            .worker
            .on_request(self.now_ms, stream, Headers::new(&bytes));
        ((slot, stream), verdict)
    }

    /// A request that got as far as sending its acquire.
    fn acquiring(&mut self) -> (Id, String) {
        let (id, verdict) = self.request(&[]);
        assert_eq!(verdict, None);
        let sent = self.commands();
        assert_eq!(sent.len(), 1, "{sent:?}");
        (id, sent[0].lease())
    }

    fn holding(&mut self) -> (Id, String) {
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
    fn probing(&mut self) -> (Id, String) {
        let (id, lease) = self.acquiring();
        self.reply(&granted("a:probe"));
        self.answers();
        (id, lease)
    }

    /// Opens the pipe that the worker asked for and answers its greetings.
    fn open(&mut self) {
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
    fn reopen(&mut self) {
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
    fn until(&mut self, mut condition: impl FnMut(&mut Worker) -> bool) {
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

    fn wait(&mut self, ms: u64) {
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

    fn reply(&mut self, bytes: &str) {
        self.worker.on_pipe_bytes(self.now_ms, bytes.as_bytes());
    }

    /// Answers the oldest command of those no `reply` has answered.
    fn reply_next(&mut self) {
        self.commands();
        let command = self.asked.pop_front().expect("a command");
        self.reply(&match command.arguments().len() {
            1 => ":1\r\n".into(),
            _ if command.is_acquire() => granted("a"),
            _ => panic!("{command:?}"),
        });
    }

    fn answers(&mut self) -> Vec<(u32, Verdict)> {
        let answers = std::iter::from_fn(|| self.worker.next_answer());
        answers
            .map(|answer| (answer.stream, answer.verdict))
            .collect()
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.worker.output().notices)
    }

    /// What was sent a moment later: a release waits as long for something to go with.
    fn commands_soon(&mut self) -> Vec<Sent> {
        self.wait(1);
        self.commands()
    }

    fn commands(&mut self) -> Vec<Sent> {
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

    fn count(&self, counter: Counter) -> u64 {
        self.worker.counters().get(counter)
    }
}

/// The arguments of one command.
#[derive(Debug, Clone)]
struct Sent(Vec<String>);

/// Of a script: its own arguments say which one it is.
impl Sent {
    fn release(lease: &str) -> Self {
        Self(vec![lease.into()])
    }

    fn arguments(&self) -> &[String] {
        assert!(self.0[0].starts_with("EVAL"), "{self:?}");
        &self.0[3 + self.0[2].parse::<usize>().unwrap()..]
    }

    fn lease(&self) -> String {
        self.arguments()[if self.is_acquire() { 5 } else { 0 }].clone()
    }

    fn is_acquire(&self) -> bool {
        let arguments = self.arguments();
        arguments.len() > 5 && ["take", "dry", "force"].contains(&arguments[3].as_str())
    }

    fn is_reconcile(&self) -> bool {
        self.arguments()[0].starts_with("2.")
    }

    /// Of a sync: which part it is.
    fn part(&self) -> &str {
        &self.arguments()[8]
    }

    /// Of a sync: what it carries.
    fn listed(&self) -> &[String] {
        &self.arguments()[9..]
    }

    fn is_release(&self) -> bool {
        let arguments = self.arguments();
        arguments.iter().all(|one| one.len() == LeaseId::LEN)
    }

    fn is_release_of(&self, lease: &str) -> bool {
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

fn granted(account: &str) -> String {
    format!("*2\r\n$1\r\n9\r\n${}\r\n{account}\r\n", account.len())
}

fn passed_on(reason: Reason) -> Option<Verdict> {
    Some(Verdict::Forward {
        path: Path::Traditional,
        reason: Some(reason),
        pool: 0,
        holds: None,
    })
}

#[test]
fn opened_on_first_need_greeted_then_served() {
    let mut rig = Rig::new(|json| {
        json["redis"] =
            serde_json::json!({"username": "u", "password_env": "TOKEN", "database": 3});
    });
    assert_eq!(rig.worker.next_wake_ms(), None, "idle: no tick, no pipe");
    let (_, verdict) = rig.request(&[]);
    assert_eq!(verdict, None, "the first request waits for the pipe");
    assert_eq!(rig.worker.next_wake_ms(), Some(rig.now_ms), "at once");
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_open(rig.now_ms);
    let greetings = rig.commands();
    let first: Vec<_> = greetings
        .iter()
        .map(|command| command.0[..2].join(" "))
        .collect();
    assert_eq!(first, ["AUTH u", "SELECT 3", "CLIENT SETNAME"]);
    assert_eq!(greetings[0].0[2], "t0k");
    rig.reply("+OK\r\n+OK\r\n");
    assert!(
        rig.commands().is_empty(),
        "no script before it is known who we are"
    );
    // Whoever stands in between may not know CLIENT SETNAME.
    rig.reply("-ERR unknown command\r\n");
    let loads = rig.commands();
    assert_eq!(loads.len(), Script::FILTER.len());
    for load in loads {
        assert_eq!(load.0[..2], ["SCRIPT", "LOAD"]);
        rig.reply(SHA);
    }
    let sent = rig.commands();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(
        sent[0].arguments()[0],
        "1",
        "asks whether revision 1 is wanted"
    );
    assert_eq!(rig.count(Counter::PipeReady), 0);
    rig.reply(CURRENT);
    let sent = rig.commands();
    assert!(sent.len() == 1 && sent[0].is_acquire(), "{sent:?}");
    assert_eq!(rig.count(Counter::PipeReady), 1);
}

const WANTED: &str = "*3\r\n$6\r\nwanted\r\n$1\r\n0\r\n$1\r\n9\r\n";
const REPLACED: &str = "*3\r\n$8\r\nreplaced\r\n$1\r\n1\r\n$1\r\n9\r\n";
const NOPOOL: &str = "-NOPOOL no accounts are synced for this pool\r\n";

/// No acquire goes ahead of its own accounts: it would be granted one that this configuration doesn't have.
#[test]
fn accounts_are_sent_when_wanted() {
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.open();
    rig.commands();
    rig.reply(WANTED);
    let sync = rig.commands();
    assert_eq!(sync.len(), 1);
    assert_eq!(sync[0].listed(), ["a", "2", "0", "0", "b", "4", "0", "0"]);
    assert_eq!(rig.request(&[]).1, None, "waits as well");
    assert!(rig.commands().is_empty());
    rig.reply(REPLACED);
    let sent = rig.commands();
    assert!(
        sent.len() == 1 && sent[0].is_acquire() && sent[0].arguments().len() == 7,
        "both in one: {sent:?}"
    );
    assert_eq!(
        rig.notices(),
        [Notice::Replaced {
            pool: "p".into(),
            revision: 1
        }]
    );
}

#[test]
fn accounts_that_redis_forgot_are_sent_once() {
    let mut rig = Rig::ready(|_| {});
    let leases = [rig.acquiring().1, rig.acquiring().1];
    rig.reply(NOPOOL);
    rig.reply(NOPOOL);
    let sent = rig.commands();
    assert_eq!(sent[0].listed()[0], "a", "the accounts first: {sent:?}");
    assert_eq!(
        sent[1..].iter().map(Sent::lease).collect::<Vec<_>>(),
        leases
    );
    rig.reply(REPLACED);
    rig.reply(&granted("b").repeat(2));
    assert_eq!(rig.answers().len(), 2);
}

/// A pipe is ready when the scripts answer, not when it is open: a replica takes the greeting too.
#[test]
fn a_server_that_takes_no_script_is_said_once_and_left_alone() {
    for (reply, down) in [
        (
            "-READONLY You can't write against a read only replica.\r\n",
            Down::WrongServer(Fault::ReadOnly),
        ),
        ("+PONG\r\n", Down::Mismatch),
    ] {
        let mut rig = Rig::new(|_| {});
        rig.request(&[]);
        let began_ms = rig.now_ms;
        for attempt in 0..10 {
            rig.open();
            rig.commands();
            rig.reply(reply);
            assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
            rig.worker.wire().order = None;
            let said: Vec<_> = rig.notices().iter().map(greeting::down).collect();
            assert_eq!(said, [down][..usize::from(attempt == 0)], "{attempt}");
            assert_eq!(rig.request(&[]).1, passed_on(Reason::PipeDown));
        }
        assert!(rig.now_ms - began_ms > 3_000, "opened again and again");
        assert_eq!(rig.count(Counter::PipeReady), 0);
        rig.reopen();
        assert_eq!(rig.notices(), [Notice::PipeReady]);
    }
}

/// The same for one that denies only a later command: a pipe counts as recovered once it has lasted.
#[test]
fn a_pipe_that_breaks_as_soon_as_it_serves_backs_off() {
    let mut rig = Rig::ready(|_| {});
    let denied = |rig: &mut Rig, reply: &str| {
        let (id, _) = rig.request(&[]);
        rig.reply(reply);
        assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
        rig.worker.wire().order = None;
        rig.worker.on_end(rig.now_ms, id);
        let broke_ms = rig.now_ms;
        rig.reopen();
        rig.commands();
        rig.now_ms - broke_ms
    };
    let noperm = "-NOPERM this user has no permissions to run the 'zadd' command\r\n";
    let waits: Vec<_> = (0..8).map(|_| denied(&mut rig, noperm)).collect();
    assert!(waits[0] <= 50, "{waits:?}");
    assert!(waits[6..].iter().all(|wait| *wait >= 500), "{waits:?}");
    rig.wait(5_000);
    let readonly = "-READONLY You can't write against a read only replica.\r\n";
    assert!(
        denied(&mut rig, readonly) <= 50,
        "a failover is no flapping"
    );
}

#[test]
fn another_revision_in_force_is_said() {
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.open();
    rig.reply("*3\r\n$5\r\nnewer\r\n$1\r\n7\r\n$1\r\n9\r\n");
    assert_eq!(
        rig.notices(),
        [Notice::Newer {
            pool: "p".into(),
            revision: 1,
            in_force: 7
        }]
    );
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.open();
    rig.reply("*3\r\n$7\r\ndiffers\r\n$1\r\n1\r\n$1\r\n9\r\n");
    assert_eq!(
        rig.notices(),
        [Notice::Differs {
            pool: "p".into(),
            revision: 1
        }]
    );
}

#[test]
fn granted_held_released() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.acquiring();
    assert!(rig.worker.is_acquiring(id));
    rig.reply(&granted("b"));
    let answers = rig.answers();
    let [
        (
            stream,
            Verdict::Forward {
                path: Path::Atomic,
                reason: None,
                pool: 0,
                holds: Some((held, 1)),
            },
        ),
    ] = answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!((stream, held.as_str()), (id.1, lease.as_str()));
    assert_eq!(rig.worker.path(id), Some((Path::Atomic, Some("b"))));
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
    rig.worker.on_end(rig.now_ms, id);
    assert!(rig.commands().is_empty(), "once");
    rig.reply(":1\r\n");
    assert!(rig.worker.is_idle());
    assert_eq!(rig.count(Counter::Released), 2);
}

#[test]
fn replies_cut_at_every_byte() {
    let mut rig = Rig::ready(|_| {});
    let (_, first) = rig.acquiring();
    let (_, second) = rig.acquiring();
    for byte in (granted("a") + &granted("b")).bytes() {
        rig.worker.on_pipe_bytes(rig.now_ms, &[byte]);
    }
    let held: Vec<String> = rig
        .answers()
        .iter()
        .map(|(_, verdict)| match verdict {
            Verdict::Forward {
                holds: Some((lease, _)),
                ..
            } => lease.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(held, [first, second]);
}

#[test]
fn saturated_rejected_or_passed_on() {
    let mut rig = Rig::ready(|_| {});
    let (id, _) = rig.acquiring();
    rig.reply("*2\r\n$1\r\n9\r\n:1500\r\n");
    assert_eq!(
        rig.answers(),
        [(
            id.1,
            Verdict::Saturated {
                pool: 0,
                retry_after_ms: 1500
            }
        )]
    );
    rig.worker.on_end(rig.now_ms, id);
    assert!(rig.commands().is_empty(), "nothing was taken");

    let mut rig =
        Rig::ready(|json| json["saturated"] = serde_json::json!({"action": "traditional"}));
    let (id, _) = rig.acquiring();
    rig.reply("*2\r\n$1\r\n9\r\n:1500\r\n");
    assert_eq!(
        rig.answers(),
        [(id.1, passed_on(Reason::Saturated).unwrap())]
    );
}

#[test]
fn late_replies_are_answered_by_a_release() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.acquiring();
    rig.wait(49);
    assert!(rig.answers().is_empty());
    rig.wait(1);
    assert_eq!(
        rig.answers(),
        [(id.1, passed_on(Reason::TimedOut).unwrap())]
    );
    assert_eq!(
        rig.commands_soon(),
        [Sent::release(&lease)],
        "behind the acquire, on the same connection"
    );
    rig.reply(&granted("a"));
    assert!(rig.answers().is_empty());
    assert_eq!(rig.count(Counter::LateGrant), 1);
    rig.reply(":1\r\n");
    rig.wait(1000);
    assert_eq!(
        rig.commands_soon(),
        [Sent::release(&lease)],
        "and once more a second later"
    );
    rig.reply(":0\r\n");
    rig.worker.on_end(rig.now_ms, id);
    assert!(rig.worker.is_idle());
}

#[test]
fn a_client_that_leaves_while_acquiring() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.acquiring();
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon(), [Sent::release(&lease)]);
    rig.reply(&granted("a"));
    assert!(rig.answers().is_empty());
    assert_eq!(rig.count(Counter::LateGrant), 1);
}

/// A request whose acquire goes unanswered until its deadline.
fn times_out(rig: &mut Rig) {
    let (id, lease) = rig.acquiring();
    rig.wait(50);
    let verdict = passed_on(Reason::TimedOut).unwrap();
    assert_eq!(rig.answers(), [(id.1, verdict)]);
    assert!(rig.commands().contains(&Sent::release(&lease)));
}

/// The breaker after three failures, for about a second.
fn breaker(json: &mut serde_json::Value) {
    json["redis"] = serde_json::json!({"breaker": {"failures": 3, "open_ms": 1_000}, "command_timeout_ms": 60_000});
}

#[test]
fn the_breaker_opens_and_a_probe_that_is_answered_closes_it() {
    let mut rig = Rig::ready(breaker);
    for _ in 0..2 {
        times_out(&mut rig);
        assert!(rig.notices().is_empty());
    }
    times_out(&mut rig);
    let opened = Notice::BreakerOpened(Reason::TimedOut, None);
    assert!(opened.is_warning() && opened.to_string().contains("(timed_out)"));
    assert_eq!(rig.notices(), [opened]);
    assert_eq!(
        rig.request(&[]).1,
        passed_on(Reason::BreakerOpen),
        "at once"
    );
    rig.wait(499);
    rig.commands();
    assert_eq!(rig.request(&[]).1, passed_on(Reason::BreakerOpen));
    // The probe fails too, and is the only one.
    rig.wait(501);
    rig.commands();
    let (probe, _) = rig.acquiring();
    assert_eq!(rig.request(&[]).1, passed_on(Reason::BreakerOpen));
    rig.wait(50);
    assert_eq!(rig.answers().len(), 1, "{probe:?}");
    rig.wait(449);
    assert_eq!(rig.request(&[]).1, passed_on(Reason::BreakerOpen));
    assert!(rig.notices().is_empty(), "said once");
    rig.wait(501);
    rig.commands();
    let (probe, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    // Everything unanswered so far comes late, and proves nothing; the probe's own reply does.
    while rig.worker.is_acquiring(probe) {
        assert_eq!(rig.count(Counter::BreakerClosed), 0);
        rig.reply_next();
    }
    assert_eq!(rig.notices(), [Notice::BreakerClosed]);
    assert_eq!(
        (
            rig.count(Counter::BreakerOpened),
            rig.count(Counter::BreakerClosed)
        ),
        (1, 1)
    );
    assert_eq!(rig.request(&[]).1, None, "open to all");
}

#[test]
fn a_hiccup_that_fails_many_at_once_is_one_failure() {
    let mut rig = Rig::ready(breaker);
    let many: Vec<_> = (0..30).map(|_| rig.acquiring()).collect();
    rig.wait(50);
    assert_eq!(rig.answers().len(), many.len());
    assert!(rig.notices().is_empty());
    assert_eq!(rig.request(&[]).1, None, "still closed");
}

#[test]
fn an_answer_in_time_starts_the_breakers_count_again() {
    let mut rig = Rig::ready(breaker);
    for _ in 0..4 {
        for _ in 0..2 {
            times_out(&mut rig);
        }
        let (id, _) = rig.request(&[]);
        while rig.worker.is_acquiring(id) {
            rig.reply_next();
        }
        rig.answers();
    }
    assert!(rig.notices().is_empty());
}

#[test]
fn error_replies_open_the_breaker_and_a_pipe_that_serves_again_closes_it() {
    let mut rig = Rig::ready(breaker);
    for _ in 0..3 {
        rig.acquiring();
        rig.reply("-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        rig.answers();
        rig.now_ms += 50;
    }
    let opened = Notice::BreakerOpened(Reason::Refused, Some(Fault::OutOfMemory));
    assert_eq!(rig.notices(), [opened]);
    assert_eq!(rig.count(Counter::RedisError(Fault::OutOfMemory)), 3);
    assert_eq!(rig.request(&[]).1, passed_on(Reason::BreakerOpen));
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.reopen();
    assert_eq!(rig.notices(), [Notice::BreakerClosed]);
}

#[test]
fn acquires_that_wait_for_the_pipe_do_not_open_the_breaker() {
    let mut rig = Rig::new(breaker);
    for _ in 0..4 {
        let (id, verdict) = rig.request(&[]);
        assert_eq!(verdict, None);
        rig.wait(0);
        rig.worker.wire().order = None; // ordered, and slow to come
        rig.wait(50);
        assert_eq!(
            rig.answers(),
            [(id.1, passed_on(Reason::TimedOut).unwrap())]
        );
    }
    assert!(rig.notices().is_empty());
}

#[test]
fn failure_reject_answers_503() {
    let mut rig = Rig::ready(|json| json["failure"] = serde_json::json!({"action": "reject"}));
    let (id, _) = rig.acquiring();
    rig.wait(50);
    assert_eq!(
        rig.answers(),
        [(
            id.1,
            Verdict::Unavailable {
                pool: 0,
                reason: Reason::TimedOut
            }
        )]
    );
}

#[test]
fn error_replies() {
    // reply, whether the lease is in doubt, whether the pipe is dropped
    for (reply, in_doubt, dropped) in [
        (
            "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
            false,
            false,
        ),
        ("-BUSY Redis is busy running a script.\r\n", false, false),
        (
            "-MISCONF Redis is configured to save RDB snapshots\r\n",
            false,
            false,
        ),
        (
            "-ERR user_script:12: something script: 0123\r\n",
            true,
            false,
        ),
        (
            "-READONLY You can't write against a read only replica.\r\n",
            false,
            true,
        ),
        (
            "-LOADING Redis is loading the dataset in memory\r\n",
            false,
            true,
        ),
        ("-NOAUTH Authentication required.\r\n", false, true),
        ("-MOVED 1 127.0.0.1:7001\r\n", false, true),
    ] {
        let mut rig = Rig::ready(|_| {});
        let (id, lease) = rig.acquiring();
        rig.reply(reply);
        // What it reads is not there a second time, if it can be helped.
        if !rig.commands().is_empty() {
            rig.reply(reply);
        }
        assert_eq!(
            rig.answers(),
            [(id.1, passed_on(Reason::Refused).unwrap())],
            "{reply}"
        );
        let released = rig
            .commands_soon()
            .iter()
            .any(|command| command.is_release_of(&lease));
        assert_eq!(released, in_doubt, "{reply}");
        assert_eq!(
            rig.worker.wire().order == Some(PipeOrder::Reset),
            dropped,
            "{reply}"
        );
    }
}

#[test]
fn what_was_not_asked_for_resets_the_pipe() {
    for reply in [
        "+OK\r\n",
        ":1\r\n",
        "$-1\r\n",
        "*1\r\n$7\r\ngranted\r\n",
        "*2\r\n$4\r\nmaybe\r\n:1\r\n",
        "garbage\r\n",
    ] {
        let mut rig = Rig::ready(|_| {});
        let (first, lease) = rig.acquiring();
        let (second, other) = rig.acquiring();
        rig.reply(reply);
        let lost = passed_on(Reason::PipeLost).unwrap();
        assert_eq!(
            rig.answers(),
            [(first.1, lost), (second.1, lost)],
            "{reply:?}"
        );
        assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
        assert_eq!(rig.count(Counter::PipeLost(Down::Mismatch)), 1);
        assert_eq!(rig.notices(), [Notice::PipeDown(Down::Mismatch)]);
        assert!(rig.commands().is_empty(), "nothing for a pipe that is gone");
        rig.reopen();
        let sent = rig.commands();
        for lease in [lease, other] {
            assert!(
                sent.iter().any(|command| command.is_release_of(&lease)),
                "in doubt: {sent:?}"
            );
        }
        assert_eq!(rig.notices(), [Notice::PipeReady]);
    }
}

#[test]
fn a_reply_to_nothing_resets_the_pipe() {
    let mut rig = Rig::ready(|_| {});
    rig.reply(":1\r\n");
    assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
}

#[test]
fn an_account_unknown_here_is_given_back() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.acquiring();
    rig.reply(&granted("zz"));
    assert_eq!(
        rig.answers(),
        [(id.1, passed_on(Reason::UnknownAccount).unwrap())]
    );
    let sent = rig.commands_soon();
    // These very accounts are in force, so it is nobody's.
    assert_eq!(
        (sent[0].part(), sent[0].listed()),
        ("stray", &["zz".to_owned()][..])
    );
    assert_eq!(sent[1..], [Sent::release(&lease)]);
}

#[test]
fn a_missing_script_is_sent_once() {
    let mut rig = Rig::ready(|_| {});
    let (_, lease) = rig.acquiring();
    rig.reply("-NOSCRIPT No matching script.\r\n");
    let again = rig.commands();
    assert_eq!(
        (again.len(), again[0].0[0].as_str(), again[0].lease()),
        (1, "EVAL", lease)
    );
    assert!(again[0].0[1].starts_with("#!lua\n"));
    rig.reply(&granted("a"));
    assert_eq!(rig.answers().len(), 1);
    // A request that left meanwhile is not acquired for again: its release has gone ahead.
    let (id, lease) = rig.acquiring();
    rig.worker.on_end(rig.now_ms, id);
    rig.reply("-NOSCRIPT No matching script.\r\n");
    let sent = rig.commands();
    assert!(
        sent.iter().all(|command| command.is_release_of(&lease)),
        "{sent:?}"
    );
}

#[test]
fn a_server_that_never_takes_the_script_is_not_asked_for_ever() {
    let mut rig = Rig::ready(|_| {});
    let (id, _) = rig.acquiring();
    for _ in 0..3 {
        rig.reply("-NOSCRIPT No matching script.\r\n");
    }
    assert_eq!(rig.answers(), [(id.1, passed_on(Reason::Refused).unwrap())]);
}

#[test]
fn the_pipe_breaks_while_serving() {
    let mut rig = Rig::ready(|_| {});
    let (holder, held) = rig.holding();
    let (waiter, lease) = rig.acquiring();
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(
        rig.answers(),
        [(waiter.1, passed_on(Reason::PipeLost).unwrap())]
    );
    // A new request waits for the pipe, which opens again within the first backoff.
    let (next, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    rig.worker.on_end(rig.now_ms, holder);
    assert!(rig.commands().is_empty());
    let broke_ms = rig.now_ms;
    rig.reopen();
    assert!(rig.now_ms - broke_ms <= 25, "{}", rig.now_ms - broke_ms);
    let sent = rig.commands();
    assert!(
        sent[1].is_release_of(&lease) && sent[1].is_release_of(&held),
        "{sent:?}"
    );
    assert!(sent[2].is_acquire());
    rig.reply(":2\r\n");
    rig.reply(&granted("a"));
    assert_eq!(rig.answers().len(), 1);
    assert!(rig.worker.is_acquiring(next) || rig.worker.path(next).is_some());
    assert!(
        rig.notices().is_empty(),
        "a pipe that comes right back is nobody's business"
    );
}

#[test]
fn a_pipe_that_cannot_be_opened() {
    let mut rig = Rig::new(|_| {});
    let (first, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    let mut waits = Vec::new();
    for attempt in 0..9 {
        let began_ms = rig.now_ms;
        rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
        rig.worker.wire().order = None;
        waits.push(rig.now_ms - began_ms);
        if attempt % 2 == 0 {
            rig.worker.on_pipe_open(rig.now_ms);
        }
        rig.worker.on_pipe_closed(rig.now_ms);
        if attempt == 0 {
            assert_eq!(
                rig.answers(),
                [(first.1, passed_on(Reason::PipeDown).unwrap())],
                "took nothing, needs nothing"
            );
        }
        let (_, verdict) = rig.request(&[]);
        assert_eq!(verdict, passed_on(Reason::PipeDown), "at once");
    }
    assert_eq!(waits[0], 0);
    assert!((25..=50).contains(&waits[1]), "{waits:?}");
    assert!((50..=100).contains(&waits[2]), "{waits:?}");
    assert!(
        waits[7..].iter().all(|wait| (500..=1000).contains(wait)),
        "{waits:?}"
    );
    assert_eq!(rig.notices(), [Notice::PipeDown(Down::Closed)], "said once");
    rig.worker.wire().bytes.clear();
    rig.reopen();
    assert_eq!(rig.notices(), [Notice::PipeReady]);
    assert_eq!(rig.request(&[]).1, None);
}

/// Envoy was stopped, or so busy that its own clock ran ahead of what it had read.
#[test]
fn a_worker_that_stood_still_reads_before_it_gives_the_pipe_up() {
    let mut rig = Rig::ready(|_| {});
    rig.acquiring();
    rig.now_ms += 5_000;
    rig.worker.on_tick(rig.now_ms);
    assert_eq!(rig.worker.wire().order, None);
    rig.reply(&granted("a"));
    rig.wait(1);
    assert_eq!(rig.worker.wire().order, None);
    assert_eq!(rig.count(Counter::LateGrant), 1);
    assert_eq!(rig.count(Counter::PipeLost(Down::Stuck)), 0);
}

#[test]
fn a_stuck_head_resets_the_pipe() {
    let mut rig = Rig::ready(|_| {});
    let (_, lease) = rig.acquiring();
    // Replies may lie unread for a few rounds of the event loop.
    rig.wait(1_049);
    assert_eq!(rig.worker.wire().order, None);
    rig.wait(1);
    assert_eq!(rig.worker.wire().order, Some(PipeOrder::Reset));
    assert_eq!(rig.notices(), [Notice::PipeDown(Down::Stuck)]);
    rig.worker.wire().order = None;
    rig.reopen();
    assert!(
        rig.commands()
            .iter()
            .any(|command| command.is_release_of(&lease))
    );
}

#[test]
fn a_stuck_opening_fails_fast() {
    let mut rig = Rig::new(|_| {});
    rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_open(rig.now_ms);
    rig.wait(50);
    assert_eq!(rig.answers().len(), 1, "timed out");
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Reset));
    assert_eq!(rig.request(&[]).1, passed_on(Reason::PipeDown));
}

#[test]
fn the_queue_is_bounded() {
    let mut rig = Rig::ready(|json| json["redis"] = serde_json::json!({"max_pending": 16}));
    for _ in 0..16 {
        assert_eq!(rig.request(&[]).1, None);
    }
    assert_eq!(rig.request(&[]).1, passed_on(Reason::QueueFull));
    rig.reply(&granted("a"));
    assert_eq!(rig.request(&[]).1, None);
}

#[test]
fn leases_are_renewed_for_as_long_as_the_stream_lives() {
    let mut rig = Rig::ready(|_| {});
    let holders: Vec<_> = (0..250).map(|_| rig.holding()).collect();
    let mut last_ms = vec![rig.now_ms; holders.len()];
    let mut largest = 0;
    for _ in 0..4_000 {
        let before_ms = rig.now_ms;
        rig.wait(10);
        for command in rig.commands() {
            if command.is_reconcile() {
                rig.reply("*2\r\n$9\r\nelsewhere\r\n:0\r\n");
                continue;
            }
            let leases: Vec<_> = command.arguments()[1..]
                .chunks(3)
                .map(|lease| lease[0].clone())
                .collect();
            largest = largest.max(leases.len());
            for lease in &leases {
                let holder = holders.iter().position(|(_, held)| held == lease).unwrap();
                assert!(
                    rig.now_ms - last_ms[holder] <= 7_500 + 10,
                    "well within the time to live of 15 s"
                );
                last_ms[holder] = before_ms;
            }
            rig.reply(&format!(
                "*2\r\n$1\r\n9\r\n${}\r\n{}\r\n",
                leases.len(),
                "r".repeat(leases.len())
            ));
        }
    }
    assert!(
        last_ms.iter().all(|last_ms| rig.now_ms - last_ms <= 7_510),
        "none forgotten"
    );
    assert!(largest <= 100);
    for (id, _) in &holders {
        rig.worker.on_end(rig.now_ms, *id);
    }
    let sent = rig.commands_soon();
    for (_, lease) in &holders {
        let releases = sent.iter().filter(|command| command.is_release_of(lease));
        assert_eq!(releases.count(), 1);
    }
    let sizes: Vec<_> = sent
        .iter()
        .map(|command| command.arguments().len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
    for size in sizes {
        rig.reply(&format!(":{size}\r\n"));
    }
    assert_eq!(rig.count(Counter::Released), 251);
    rig.wait(10_000);
    assert!(rig.commands().is_empty(), "nothing is renewed for the dead");
}

/// Answers every command, and notes when each lease had its last renewal.
fn renew(rig: &mut Rig, last_ms: &mut BTreeMap<String, u64>, longest_ms: &mut u64) {
    for command in rig.commands() {
        if command.is_reconcile() {
            rig.reply("*2\r\n$9\r\nelsewhere\r\n:0\r\n"); // a reconcile
            continue;
        }
        let leases: Vec<_> = command.arguments()[1..].chunks(3).collect();
        for lease in &leases {
            let last_ms = last_ms.insert(lease[0].clone(), rig.now_ms).unwrap();
            *longest_ms = (*longest_ms).max(rig.now_ms - last_ms);
        }
        rig.reply(&format!(
            "*2\r\n$1\r\n9\r\n${}\r\n{}\r\n",
            leases.len(),
            "r".repeat(leases.len())
        ));
    }
}

#[test]
fn renewals_keep_their_pace_when_every_tick_is_late() {
    let mut rig = Rig::ready(|json| {
        json["lease"] = serde_json::json!({"ttl_ms": 1_000, "renew_interval_ms": 400});
    });
    let (_, lease) = rig.holding();
    let mut last_ms = [(lease, rig.now_ms)].into();
    let mut longest_ms = 0;
    while rig.now_ms < 100_000 {
        rig.now_ms = rig.worker.next_wake_ms().unwrap().max(rig.now_ms) + 25;
        rig.worker.on_tick(rig.now_ms);
        renew(&mut rig, &mut last_ms, &mut longest_ms);
    }
    assert!(longest_ms <= 650, "{longest_ms}");
}

#[test]
fn no_renewal_is_left_out_while_requests_grow_more() {
    let mut rig = Rig::ready(|json| {
        json["lease"] = serde_json::json!({"ttl_ms": 10_000, "renew_interval_ms": 5_000});
    });
    let mut last_ms = BTreeMap::new();
    let mut longest_ms = 0;
    while last_ms.len() < 600 {
        let (_, lease) = rig.acquiring();
        last_ms.insert(lease, rig.now_ms);
        rig.reply(&granted("a"));
        rig.answers();
        let end_ms = rig.now_ms + 57;
        while rig.worker.next_wake_ms().unwrap() <= end_ms {
            rig.now_ms = rig.worker.next_wake_ms().unwrap().max(rig.now_ms);
            rig.worker.on_tick(rig.now_ms);
            renew(&mut rig, &mut last_ms, &mut longest_ms);
        }
        rig.now_ms = end_ms;
    }
    assert!(longest_ms <= 7_600, "{longest_ms}");
}

#[test]
fn renewal_answers() {
    let mut rig = Rig::ready(|_| {});
    let leases = [rig.holding().1, rig.holding().1, rig.holding().1];
    // The first is renewed, the second was forgotten and is taken up again, the third is lost.
    let mut epochs = vec![Vec::new(); 3];
    let mut asked = 0;
    for _ in 0..1_300 {
        rig.wait(10);
        for command in rig.commands() {
            if command.arguments()[0] == "1" {
                // The epoch is another: are the accounts wanted again?
                asked += 1;
                rig.reply(CURRENT);
                continue;
            }
            let mut letters = String::new();
            for lease in command.arguments()[1..].chunks(3) {
                let which = leases.iter().position(|held| *held == lease[0]).unwrap();
                letters.push(['r', 'a', 'l'][which]);
                epochs[which].push(lease[2].clone());
            }
            rig.reply(&format!(
                "*2\r\n$2\r\n10\r\n${}\r\n{letters}\r\n",
                letters.len()
            ));
        }
    }
    // Each renewal names the epoch that the last one answered; the lost one is asked for again as it was granted.
    assert_eq!(epochs, [["9", "10"], ["9", "10"], ["9", "9"]]);
    assert_eq!(rig.count(Counter::Renewed), 2);
    assert_eq!(rig.count(Counter::Readopted), 2);
    assert_eq!(rig.count(Counter::Lost), 1, "counted and said once");
    assert_eq!(asked, 1);
    assert_eq!(
        rig.notices(),
        [Notice::Lost {
            pool: "p".into(),
            leases: 1
        }]
    );
}

#[test]
fn a_pool_redis_forgot_is_synced_and_the_leases_taken_up_again() {
    let mut rig = Rig::ready(|_| {});
    let (_, lease) = rig.holding();
    rig.wait(7_500);
    assert_eq!(rig.commands()[0].arguments()[1], lease);
    rig.reply("-NOPOOL no accounts are synced for this pool\r\n");
    let sent = rig.commands();
    assert_eq!(sent[0].listed()[0], "a", "the accounts first: {sent:?}");
    assert_eq!(sent[1].arguments()[1..], [lease, "a".into(), "9".into()]);
}

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
    rig.respond((id.0, id.1 + 1), 429, &[("retry-after", "soon")]);
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
    let order: Vec<u32> = (0..6).map(|_| choose(&mut rig).1).collect();
    assert_eq!(order, [1, 1, 1, 1, 0, 0]);
    for slot in 0..6 {
        let stream = rig.next_stream - 6 + slot;
        rig.worker.on_end(rig.now_ms, (slot as usize, stream));
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

/// A worker that is to go waits for its releases, but not for ever for a Redis that never comes back.
#[test]
fn releases_are_kept_until_their_leases_are_over_anyway() {
    let mut rig = Rig::ready(|_| {});
    let (holder, _) = rig.holding();
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.worker.on_end(rig.now_ms, holder);
    let ended_ms = rig.now_ms;
    while !rig.worker.is_idle() {
        rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
        rig.worker.wire().order = None;
        rig.worker.on_pipe_closed(rig.now_ms);
    }
    let kept_ms = rig.now_ms - ended_ms;
    assert!((15_000..16_100).contains(&kept_ms), "{kept_ms}");
}

#[test]
fn shadow_asks_and_never_waits() {
    let mut rig = Rig::new(|json| json["gray"]["mode"] = "shadow".into());
    assert_eq!(rig.request(&[]).1, passed_on(Reason::Shadow));
    rig.reopen();
    let sent = rig.commands();
    assert_eq!(sent[1].arguments()[3], "dry");
    rig.reply(&granted("a"));
    assert_eq!(rig.count(Counter::ShadowGranted), 1);
    rig.request(&[]);
    rig.reply("*2\r\n$1\r\n9\r\n:1\r\n");
    assert_eq!(rig.count(Counter::ShadowSaturated), 1);
    rig.request(&[]);
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(rig.count(Counter::ShadowFailed), 1);
    assert!(rig.commands().is_empty());
    // One that waits for the pipe, which can't be opened again.
    rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.on_pipe_closed(rig.now_ms);
    assert_eq!(rig.count(Counter::ShadowFailed), 2);
}

/// A shadow with accounts told apart by different headers; `c` sets what `b` does, and `d` nothing.
fn shadow_of(mode: &str) -> Rig {
    let mut rig = Rig::new(|json| {
        json["gray"]["mode"] = "shadow".into();
        json["traditional"] = serde_json::json!({"mode": mode});
        json["score"] = serde_json::json!({"priority": 1, "load": 0, "random": 0});
        json["pools"][0]["accounts"] = serde_json::json!([
            {"id": "a", "max_concurrency": 1, "set_headers": {"x-upstream": "one"}},
            {"id": "b", "max_concurrency": 1, "priority": 2, "set_headers": {"x-upstream": "one", "authorization": "B"}},
            {"id": "c", "max_concurrency": 1, "priority": 3, "set_headers": {"x-upstream": "one", "authorization": "B"}},
            {"id": "d", "max_concurrency": 1, "priority": 4},
        ]);
        if mode == "passthrough" {
            let more = serde_json::json!([
                {"id": "e", "max_concurrency": 1, "set_headers": {"x-a": "1", "x-b": "1"}},
                {"id": "f", "max_concurrency": 1, "set_headers": {"x-a": "1"}},
                {"id": "g", "max_concurrency": 1, "set_headers": {"x-empty": ""}},
            ]);
            let accounts = json["pools"][0]["accounts"].as_array_mut().unwrap();
            accounts.extend(more.as_array().unwrap().iter().cloned());
        }
    });
    rig.request(&[]);
    rig.reopen();
    rig.commands();
    rig.reply("*2\r\n$1\r\n9\r\n:1\r\n");
    rig
}

/// What a shadow counts.
const SHADOW: [Counter; 6] = [
    Counter::ShadowGranted,
    Counter::ShadowSaturated,
    Counter::ShadowFailed,
    Counter::ShadowAgreed,
    Counter::ShadowDiffered,
    Counter::ShadowUnknown,
];

#[test]
fn a_shadow_is_compared_with_the_account_that_the_request_names() {
    let mut rig = shadow_of("passthrough");
    let shadow = |rig: &Rig| SHADOW.map(|counter| rig.count(counter));
    assert_eq!(shadow(&rig), [0, 1, 0, 0, 0, 0]);
    let upstream = ("x-upstream", "one");
    for (headers, would_be, agreed, differed, unknown) in [
        (&[upstream][..], "a", 1, 0, 0),
        (&[upstream], "b", 0, 1, 0),
        (&[upstream], "d", 0, 1, 0),
        // The more it sets, the closer it names.
        (&[upstream, ("authorization", "B")], "b", 1, 0, 0),
        (&[upstream, ("authorization", "B")], "c", 1, 0, 0),
        (&[upstream, ("authorization", "B")], "a", 0, 1, 0),
        // Another key is no account's, but the upstream still is.
        (&[upstream, ("authorization", "X")], "a", 1, 0, 0),
        (&[("authorization", "B")], "b", 0, 0, 1),
        (&[("x-upstream", "two")], "a", 0, 0, 1),
        (
            &[("x-upstream", "on"), ("authorization", "eB")],
            "b",
            0,
            0,
            1,
        ),
        (&[("x-a", "1"), ("x-b", "1")], "e", 1, 0, 0),
        (&[("x-a", "1"), ("x-b", "2")], "f", 1, 0, 0),
        (&[("x-empty", "")], "g", 1, 0, 0),
        (&[], "d", 0, 0, 1),
        (&[upstream], "gone", 0, 0, 1),
    ] {
        let before = shadow(&rig);
        assert_eq!(rig.request(headers).1, passed_on(Reason::Shadow));
        assert_eq!(rig.commands()[0].arguments()[3], "dry");
        rig.reply(&granted(would_be));
        let now = shadow(&rig);
        let more = [0, 3, 4, 5].map(|one| now[one] - before[one]);
        assert_eq!(
            more,
            [1, agreed, differed, unknown],
            "{headers:?} {would_be}"
        );
    }
    assert_eq!(shadow(&rig), [15, 1, 0, 7, 3, 5]);
}

#[test]
fn a_shadow_is_compared_with_the_local_choice_and_does_not_see_it() {
    let mut rig = shadow_of("local");
    rig.reply(&granted("a"));
    // One request of `shadow_of` holds the first account. Each choice goes to the next best.
    for (chosen, would_be) in [("b", "b"), ("c", "b"), ("d", "d")] {
        let (_, verdict) = rig.request(&[]);
        assert_eq!(verdict.unwrap().path(), Some(Path::Local));
        let sent = rig.commands();
        let modes: Vec<_> = sent.iter().map(|one| one.arguments()[3].as_str()).collect();
        assert_eq!(modes, ["dry", "force"], "its own lease comes after it");
        assert_eq!(sent[1].arguments()[6], chosen);
        rig.reply(&granted(would_be));
        rig.reply(&granted(chosen));
    }
    // Full here; it would have been granted something.
    assert!(matches!(
        rig.request(&[]).1,
        Some(Verdict::Saturated { .. })
    ));
    rig.reply(&granted("a"));
    assert_eq!(SHADOW.map(|counter| rig.count(counter)), [4, 1, 0, 2, 1, 1]);
}

#[test]
fn local_choice_is_recorded_and_released() {
    let local = |json: &mut serde_json::Value| {
        json["gray"]["percent"] = 0.into();
        json["traditional"] = serde_json::json!({"mode": "local"});
    };
    let mut rig = Rig::new(local);
    let (id, verdict) = rig.request(&[]);
    let Some(Verdict::Forward {
        path: Path::Local,
        reason: None,
        holds: Some((lease, account)),
        ..
    }) = verdict
    else {
        panic!("{verdict:?}")
    };
    rig.reopen();
    let sent = rig.commands();
    assert_eq!(sent[1].lease(), lease.as_str());
    let account = if account == 0 { "a" } else { "b" };
    assert_eq!(
        (
            sent[1].arguments()[3].as_str(),
            sent[1].arguments()[6].as_str()
        ),
        ("force", account)
    );
    rig.reply(&granted("a"));
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon(), [Sent::release(lease.as_str())]);
}

#[test]
fn local_choice_with_redis_down_counts_here_and_is_told_later() {
    let mut rig = Rig::new(|json| json["traditional"] = serde_json::json!({"mode": "local"}));
    rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_closed(rig.now_ms);
    rig.answers();
    let verdicts: Vec<_> = (0..6).map(|_| rig.request(&[]).1.unwrap()).collect();
    let local = verdicts
        .iter()
        .filter(|v| {
            matches!(
                v,
                Verdict::Forward {
                    path: Path::Local,
                    ..
                }
            )
        })
        .count();
    assert_eq!(
        local, 5,
        "with the first one all 6 slots are in use: {verdicts:?}"
    );
    assert!(matches!(verdicts[5], Verdict::Saturated { .. }));
    rig.reopen();
    rig.commands();
    rig.wait(700);
    let sent = rig.commands();
    let renewed: Vec<_> = sent
        .iter()
        .flat_map(|command| command.arguments()[1..].chunks(3))
        .collect();
    assert_eq!(renewed.len(), 6, "all six are told: {sent:?}");
    assert!(
        renewed.iter().all(|lease| lease[2] == "0"),
        "with no epoch of Redis' own"
    );
}

#[test]
fn no_pool_no_part() {
    let mut rig = Rig::new(|json| {
        json["pools"][0]["match"] = serde_json::json!([{"header": "x-model", "exact": "m"}])
    });
    let (id, verdict) = rig.request(&[("x-model", "other")]);
    assert!(matches!(
        verdict,
        Some(Verdict::Forward {
            path: Path::Traditional,
            reason: Some(Reason::NoPool),
            ..
        })
    ));
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.worker.next_wake_ms(), None);
}

/// A release goes ahead of the next acquire, or by itself a moment later.
#[test]
fn releases_ride_with_the_next_acquire() {
    let mut rig = Rig::ready(|_| {});
    let (first, one) = rig.holding();
    let (second, other) = rig.holding();
    rig.worker.on_end(rig.now_ms, first);
    rig.worker.on_end(rig.now_ms, second);
    assert!(rig.commands().is_empty());
    let (_, verdict) = rig.request(&[]);
    assert_eq!(verdict, None);
    let sent = rig.commands();
    assert_eq!(sent[0], Sent(vec![one, other]));
    assert!(sent[1].is_acquire());
    assert_eq!(sent.len(), 2);
    rig.reply(":2\r\n");
    rig.reply(&granted("a"));
    assert_eq!(rig.count(Counter::Released), 3);
    rig.wait(1);
    assert!(rig.commands().is_empty(), "none goes twice");
}

/// What waits to ride when the pipe breaks is sent when it is back.
#[test]
fn riding_releases_survive_the_pipe() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.holding();
    rig.worker.on_end(rig.now_ms, id);
    rig.worker.on_pipe_closed(rig.now_ms);
    assert!(!rig.worker.is_idle());
    rig.reopen();
    assert!(
        rig.commands()
            .iter()
            .any(|command| command.is_release_of(&lease))
    );
}

#[test]
fn ids_of_two_workers_never_meet() {
    let mut seen = std::collections::HashSet::<LeaseId>::new();
    for seed in 0..50 {
        let mut worker = Worker::new(
            config(|json| json["traditional"] = serde_json::json!({"mode": "local"})),
            seed,
        );
        for stream in 0..3 {
            worker.on_request(0, stream, Headers::new(&[]));
        }
        let text = String::from_utf8_lossy(&worker.wire().bytes).into_owned();
        assert!(text.is_empty());
        worker.on_tick(0);
        worker.on_pipe_closed(0);
        for verdict in std::iter::from_fn(|| worker.next_answer()).map(|answer| answer.verdict) {
            if let Verdict::Forward {
                holds: Some((lease, _)),
                ..
            } = verdict
            {
                assert!(seen.insert(lease));
            }
        }
    }
    assert_eq!(seen.len(), 150);
}

#[test]
fn passes_prove_the_counts_one_pool_after_the_other() {
    let mut rig = Rig::new(|json| {
        let mut second = json["pools"][0].clone();
        second["name"] = "q".into();
        json["pools"][0]["match"] = serde_json::json!([{"header": "x-warm", "present": true}]);
        json["pools"].as_array_mut().unwrap().push(second);
    });
    let (id, _) = rig.request(&[]);
    rig.open();
    rig.commands();
    rig.reply(
        "*3\r\n$7\r\ncurrent\r\n$1\r\n1\r\n$1\r\n9\r\n"
            .repeat(2)
            .as_str(),
    );
    assert_eq!(rig.commands().len(), 1);
    rig.reply(&granted("a"));
    rig.worker.on_end(rig.now_ms, id);
    assert_eq!(rig.commands_soon().len(), 1);
    rig.reply(":1\r\n");
    let mut steps = Vec::new();
    for _ in 0..13_000 {
        rig.wait(10);
        for command in rig.commands() {
            assert!(command.is_reconcile(), "{command:?}");
            let pool = command.0[3].clone();
            let answer = match steps.len() {
                0 => "*2\r\n$7\r\nworking\r\n:0\r\n",
                1 => "*2\r\n$4\r\ndone\r\n:2\r\n",
                _ => "*2\r\n$9\r\nelsewhere\r\n:0\r\n",
            };
            steps.push((rig.now_ms, pool));
            rig.reply(answer);
        }
    }
    let pools: Vec<&str> = steps.iter().map(|(_, key)| key.as_str()).collect();
    let [p, q] = ["slotgate:{p}:accounts", "slotgate:{q}:accounts"];
    assert_eq!(pools[..5], [p, p, q, p, q]);
    assert!(
        steps[1].0 - steps[0].0 <= 40,
        "a pass under way goes on at once: {steps:?}"
    );
    assert!(
        (29_000..=31_000).contains(&(steps[2].0 - steps[1].0)),
        "each pool once a minute: {steps:?}"
    );
    assert_eq!(
        rig.notices(),
        [Notice::Drift {
            pool: "p".into(),
            entries: 2
        }]
    );
    assert_eq!(rig.count(Counter::Drift), 2);
}

/// Redis lost its data, and another worker synced the pool first, maybe with an older configuration.
#[test]
fn another_epoch_in_a_grant_asks_for_the_revision() {
    let mut rig = Rig::ready(|_| {});
    rig.acquiring();
    rig.reply("*2\r\n$2\r\n77\r\n$1\r\na\r\n");
    let sent = rig.commands();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        sent[0].arguments()[0],
        "1",
        "is revision 1 wanted? {sent:?}"
    );
    rig.reply(WANTED);
    assert_eq!(rig.commands()[0].listed()[0], "a");
}

#[test]
fn a_release_that_redis_refuses_is_given_up_when_its_lease_is_over() {
    let mut rig = Rig::ready(|_| {});
    let (id, lease) = rig.holding();
    rig.worker.on_end(rig.now_ms, id);
    let mut tries = 0;
    for _ in 0..4_000 {
        for command in rig.commands() {
            if command.is_reconcile() {
                rig.reply("*2\r\n$9\r\nelsewhere\r\n:0\r\n");
                continue;
            }
            assert!(command.is_release_of(&lease));
            tries += 1;
            rig.reply("-MISCONF Redis is configured to save RDB snapshots\r\n");
        }
        rig.wait(10);
    }
    assert!(
        (10..=16).contains(&tries),
        "once a second for 15 s: {tries}"
    );
    assert!(rig.worker.is_idle());
}

#[test]
fn a_pipe_that_closes_as_soon_as_it_serves_backs_off_and_forgets_nothing() {
    let mut rig = Rig::ready(|_| {});
    let holders: Vec<_> = (0..20).map(|_| rig.holding()).collect();
    for (id, _) in &holders {
        rig.worker.on_end(rig.now_ms, *id);
    }
    let began_ms = rig.now_ms;
    let mut reopened = 0;
    while rig.now_ms - began_ms < 10_000 {
        rig.worker.on_pipe_closed(rig.now_ms);
        rig.open();
        rig.reply(CURRENT);
        let sent = rig.commands().len();
        assert!(sent <= 42, "each release once or twice: {sent}");
        reopened += 1;
    }
    assert!(reopened < 30, "{reopened} times in 10 s");
    assert_eq!(rig.count(Counter::Dropped), 0);
}

#[test]
fn what_redis_was_never_told_needs_no_release() {
    let mut rig = Rig::new(|json| json["traditional"] = serde_json::json!({"mode": "local"}));
    let (first, _) = rig.request(&[]);
    rig.until(|worker| worker.wire().order == Some(PipeOrder::Open));
    rig.worker.wire().order = None;
    rig.worker.on_pipe_closed(rig.now_ms);
    let (second, verdict) = rig.request(&[]);
    assert!(matches!(
        verdict,
        Some(Verdict::Forward {
            path: Path::Local,
            ..
        })
    ));
    for id in [first, second] {
        rig.worker.on_end(rig.now_ms, id);
    }
    assert!(rig.worker.is_idle(), "nothing is kept for the pipe");
}
