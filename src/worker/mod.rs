//! One worker: its requests, its pipe to Redis, and everything that has a deadline.
//!
//! Pure like [`crate::request::admission`]: each `on_…` method is an event, `now_ms` is the host's monotonic clock, and what must
//! be done is left in [`Output`] and in the pipe's [`Wire`].
//!
//! The work is done by parts, each with a state of its own: [`requests`], `acquires`, `releases`, `renewals`, `sync`,
//! `recount`, `overrides`, `shadow`, [`breaker`]. A part takes an event and leaves commands and tasks in the `Context`; it never
//! calls another part. What stands here only routes: events to the parts, their commands to the pipe, replies back to them.

mod acquires;
pub mod breaker;
mod command;
mod context;
pub mod counters;
pub mod decisions;
pub mod notice;
pub mod output;
mod overrides;
mod recount;
mod releases;
mod renewals;
pub mod requests;
mod shadow;
mod sync;

use crate::config::Config;
use crate::ledger::commands::{self, Acquired};
use crate::ledger::fault::{self, Fault};
use crate::ledger::resp::{Value, Values};
use crate::ledger::source::Script;
use crate::pipe::connection::{Connection, Event as PipeEvent, Sent, Wire};
use crate::pipe::down::Down;
use crate::pipe::greeting::Refusal;
use crate::pool::{self, AccountGauges};
use crate::request::admission::{Event, Path, Policy, Reason};
use crate::request::classify::{classify, is_shadow};
use crate::request::gray::{Bucketer, Choice};
use crate::request::headers::Headers;
use crate::request::verdict::Verdict;
use crate::upstream::failing::Source;
use acquires::{Acquires, LostAcquire, PORTION};
use breaker::Breaker;
use command::{AcquireCommand, AcquireKind, Command};
use context::{Context, Task};
use counters::{Counter, Counters};
use notice::{Notice, Said};
use output::{Answer, Gauges, Output};
use overrides::Overrides;
use recount::Recounts;
use releases::Releases;
use renewals::Renewals;
use requests::{Known, Requests};
use shadow::Shadow;
use sync::{Next, Syncs};

/// How often a command is sent again when Redis lacked the script or the pool.
const RETRIES: u8 = 2;
/// A reason why the pipe is down is said again when it was not seen for this long, in ms. A server that turns us away may
/// be seen to do so or only to close the connection, by turns.
const SAID_MS: u64 = 10_000;
/// What is said of a reply whose number is none.
const EPOCH: &[u8] = b"accounts #epoch: not a whole number";
/// The same of a sync's.
const REVISION: &[u8] = b"accounts #revision: not a whole number";

/// One worker's state.
#[derive(Debug)]
pub struct Worker {
    cx: Context,
    pipe: Connection<Command>,
    /// Why the pipe is down, as far as it was said: the reason, the gist of the server's words.
    said: Said<(Down, String)>,
    breaker: Breaker,
    bucketer: Bucketer,
    requests: Requests,
    acquires: Acquires,
    releases: Releases,
    renewals: Renewals,
    syncs: Syncs,
    recounts: Recounts,
    overrides: Overrides,
    shadow: Shadow,
}

impl Worker {
    /// `seed` must be random: it keeps the lease ids of two workers apart.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let pools = config.pools.len();
        let policy = Policy {
            saturated: config.saturated,
            failure: config.failure,
            traditional: config.traditional,
        };
        let bucketer = Bucketer::new(&config.gray.salt);
        let (syncs, shadow) = (Syncs::new(&config), Shadow::new(&config));
        let (cx, worker) = Context::new(config, fastrand::Rng::with_seed(seed));
        Self {
            cx,
            pipe: Connection::new(&Script::FILTER, true),
            said: Said::default(),
            breaker: Breaker::default(),
            bucketer,
            requests: Requests::new(policy, worker),
            acquires: Acquires::default(),
            releases: Releases::default(),
            renewals: Renewals::default(),
            syncs,
            recounts: Recounts::new(pools),
            overrides: Overrides::new(pools),
            shadow,
        }
    }

    // ---- what it shows ----

    /// The configuration it runs on.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.cx.config
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.cx.counters
    }

    /// The share of a pool's sessions that is in, in basis points: by override, else as configured.
    #[must_use]
    pub fn basis_points(&self, pool: usize) -> u16 {
        let set = self.overrides.percent(pool);
        set.unwrap_or(self.cx.config.gray.basis_points)
    }

    /// What is shown of a pool's accounts, and how often that was seen in the ledger.
    #[must_use]
    pub fn accounts(&self, pool: usize) -> (&[AccountGauges], u64) {
        let view = self.cx.pools.get(pool);
        view.map_or((&[], 0), |view| view.table.shown())
    }

    /// What goes up and down.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        Gauges([
            self.breaker.is_open().into(),
            self.pipe.is_ready().into(),
            self.pipe.is_down().into(),
            self.waiting() as u64,
        ])
    }

    /// How many commands wait for Redis' reply or for the pipe, an acquire as many as it has leases.
    fn waiting(&self) -> usize {
        let waiting = self.acquires.waiting();
        self.pipe.under_way().saturating_add(waiting)
    }

    /// The host's clock in µs, finer than that of the events: only for measuring.
    pub fn set_clock_us(&mut self, now_us: u64) {
        self.cx.now_us = now_us;
    }

    /// What must be done now.
    pub fn output(&mut self) -> &mut Output {
        &mut self.cx.output
    }

    /// What must be done with the pipe.
    pub fn wire(&mut self) -> &mut Wire {
        self.pipe.wire()
    }

    /// Whether nothing is left that must end well: no request acquires or holds a slot, no release waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let poll = |command: &Command| matches!(command, Command::Poll { .. });
        self.requests.is_empty() && self.releases.is_empty() && self.pipe.is_quiet(poll)
    }

    /// When [`Worker::on_tick`] is wanted next, in ms.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        let ready = self.pipe.is_ready();
        let sweeps = ready && !self.requests.is_empty();
        [
            self.acquires.next_wake_ms(),
            self.pipe.next_wake_ms(&self.cx.config.redis),
            self.releases.next_wake_ms(ready),
            sweeps.then(|| self.renewals.due_ms()),
            self.recounts.next_wake_ms().filter(|_| ready),
            self.overrides.next_wake_ms().filter(|_| ready),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // ---- requests ----

    /// Request headers arrived. The slot number is the request's name in later events; without a verdict it is paused,
    /// and its verdict comes with [`Worker::next_answer`].
    pub fn on_request(
        &mut self,
        now_ms: u64,
        stream: u32,
        headers: Headers,
    ) -> (usize, Option<Verdict>) {
        self.cx.now_ms = now_ms;
        if self.requests.is_empty() {
            self.renewals.begin(&self.cx);
        }
        let pool = pool::select(&self.cx.config.pools, headers);
        let slot = self.requests.open(&self.cx, stream, pool);
        let event = match pool {
            Some(pool) => self.admit(pool, slot, headers),
            None => {
                self.requests.unclassified(&self.cx, slot);
                Event::Out(Reason::NoPool)
            }
        };
        let verdict = self.step(slot, event);
        if let (Some(pool), Event::Out(Reason::Shadow)) = (pool, event)
            && self.shadow.asks_for_all()
        {
            let routed = self.shadow.routed_to(pool, headers);
            self.ask_shadow(pool, slot, routed);
        }
        self.cx.output.log = verdict.and_then(|_| self.requests.logged(&self.cx, slot, None));
        if verdict.is_some_and(|verdict| verdict.holds().is_none()) {
            // Nothing can happen to it any more.
            self.requests.close(slot);
        }
        (slot, verdict)
    }

    /// Decides on a request that has a pool; its acquire goes out if one can.
    fn admit(&mut self, pool: usize, slot: usize, headers: Headers) -> Event {
        if self.overrides.begin(&self.cx, pool) {
            self.pipe.want(self.cx.now_ms);
        }
        let share = self.basis_points(pool);
        let random = self.cx.random.u64(..);
        let class = classify(&self.cx.config, &self.bucketer, headers, share, random);
        let choice = class.choice;
        self.requests.classified(&self.cx, slot, class, share);
        if choice == Choice::Out {
            self.cx.counters.add_in(pool, Counter::Out, 1);
            return Event::Out(Reason::OutOfPercentage);
        }
        self.cx.count_in(pool, Counter::In);
        if is_shadow(&self.cx.config) {
            return Event::Out(Reason::Shadow);
        }
        if let Err(reason) = self.available() {
            return Event::Unavailable(reason);
        }
        let lease = self.requests.mint();
        let acquire = self.requests.acquire(pool, slot, lease, AcquireKind::Take);
        self.acquires.push_with_deadline(&self.cx, acquire);
        Event::In(lease)
    }

    /// Whether an acquire can be sent, or may wait for the pipe to open. Opens it on first need.
    fn available(&mut self) -> Result<(), Reason> {
        let now_ms = self.cx.now_ms;
        self.pipe.want(now_ms);
        if !self.pipe.is_ready() && self.pipe.failures() > 0 {
            return Err(Reason::PipeDown);
        }
        let redis = &self.cx.config.redis;
        if self.waiting() >= redis.max_pending {
            return Err(Reason::QueueFull);
        }
        if !self
            .breaker
            .admits(now_ms, redis.breaker, &mut self.cx.random)
        {
            return Err(Reason::BreakerOpen);
        }
        Ok(())
    }

    /// Steps one request, and does what that asks of other parts.
    fn step(&mut self, slot: usize, event: Event) -> Option<Verdict> {
        let verdict = self.requests.step(&mut self.cx, slot, event);
        self.do_tasks();
        verdict
    }

    /// The same for one that waits for its verdict.
    fn settle(&mut self, slot: usize, event: Event) {
        self.requests.settle(&mut self.cx, slot, event);
        self.do_tasks();
    }

    /// Does what a step asks of other parts.
    #[inline(always)]
    fn do_tasks(&mut self) {
        if !self.cx.tasks.is_empty() {
            self.do_all_tasks();
        }
    }

    #[inline(never)]
    fn do_all_tasks(&mut self) {
        while let Some(task) = self.cx.tasks.pop_front() {
            match task {
                Task::Record {
                    slot,
                    pool,
                    lease,
                    account,
                } => {
                    // What can't be sent now is taken up by the next renewal.
                    if self.available().is_ok() {
                        self.acquires.push(AcquireCommand {
                            pool,
                            slot,
                            lease,
                            kind: AcquireKind::Record(account),
                            session: None,
                            scope: None,
                        });
                    }
                }
                Task::Shadow {
                    slot,
                    pool,
                    account,
                } => self.ask_shadow(pool, slot, account),
                Task::Release {
                    pool,
                    lease,
                    in_doubt,
                } => {
                    let reopened_ms = self.pipe.is_reopened().then(|| self.pipe.ready_ms());
                    let releases = &mut self.releases;
                    releases.end(&mut self.cx, pool, lease, in_doubt, reopened_ms);
                    self.send_commands();
                }
            }
        }
    }

    /// Asks what a request would get that goes the traditional way, by this account if that is known.
    fn ask_shadow(&mut self, pool: usize, slot: usize, account: Option<u32>) {
        if self.available().is_ok() {
            let lease = self.requests.mint();
            let kind = account.map_or(AcquireKind::Dry, AcquireKind::DryBeside);
            let acquire = self.requests.acquire(pool, slot, lease, kind);
            self.acquires.push(acquire);
        } else {
            self.shadow.failed(&mut self.cx, pool);
        }
    }

    /// What is remembered of the request that a question is about; see [`decisions::DecisionLog::answer`].
    #[must_use]
    pub fn recall(&self, now_ms: u64, question: &[u8]) -> Option<String> {
        self.requests.recall(&self.cx, now_ms, question)
    }

    /// The `x-request-id` of the request that arrived last.
    pub fn identify(&mut self, id: &[u8]) {
        self.requests.identify(id);
    }

    /// Whether a request with an account wants to know more of a response of this status: who gave it, its headers, and the
    /// time, for [`Worker::on_response`]. Of the usual one it does not, and only counts it.
    pub fn wants_response(&mut self, id: (usize, u32), status: u16) -> bool {
        self.requests.wants_response(&mut self.cx, id, status)
    }

    /// A request with an account has its response. `now_unix_s` is the wall clock; the headers are read only for a status
    /// that is pushback.
    pub fn on_response(
        &mut self,
        now_ms: u64,
        id: (usize, u32),
        answer: (Source, u16),
        headers: Headers,
        now_unix_s: u64,
    ) {
        self.cx.now_ms = now_ms;
        let requests = &mut self.requests;
        requests.on_response(&mut self.cx, id, answer, headers, now_unix_s);
        self.send_commands();
    }

    /// The stream is over, however it ended. Asking twice, or for a request that held nothing, does nothing.
    pub fn on_end(&mut self, now_ms: u64, id: (usize, u32)) {
        self.cx.now_ms = now_ms;
        self.requests.on_end(&mut self.cx, id);
        self.do_tasks();
    }

    /// Whether the request still waits for its verdict.
    #[must_use]
    pub fn is_acquiring(&self, id: (usize, u32)) -> bool {
        self.requests.is_acquiring(id)
    }

    /// Which way a request that waited or holds an account was sent on, and that account; `None` when it was not sent on.
    #[must_use]
    pub fn path(&self, id: (usize, u32)) -> Option<(Path, Option<&str>)> {
        let (path, account) = self.requests.path(id)?;
        let account = account.and_then(|(pool, account)| self.cx.account_id(pool, account));
        Some((path, account))
    }

    /// The next verdict to be handed out to its paused request; `None` when there is none, or no more may be handed out
    /// before [`Worker::flush`].
    pub fn next_answer(&mut self) -> Option<Answer> {
        self.requests.next_answer()
    }

    // ---- rounds of the event loop ----

    /// Whether [`Worker::flush`], or the host, has something to do for the pipe.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        let asks = self.pipe.is_ready() && self.acquires.has_queue();
        let tells = self.requests.has_answers() || self.acquires.has_lost();
        asks || tells || self.pipe.has_work()
    }

    /// All events that came at once have been told: what they ask goes out, in as few commands as it can, and more verdicts
    /// may be handed out.
    pub fn flush(&mut self, now_ms: u64) {
        self.cx.now_ms = now_ms;
        self.requests.refill();
        self.tell_lost();
        self.send_acquires();
    }

    /// Deadlines: acquires, the pipe, releases in doubt, renewals.
    pub fn on_tick(&mut self, now_ms: u64) {
        self.cx.now_ms = now_ms;
        self.tell_lost();
        for _ in 0..PORTION {
            let Some(deadline) = self.acquires.next_due(now_ms) else {
                break;
            };
            if let Some(in_doubt) = self.requests.awaits(deadline.slot, deadline.lease) {
                // One that never left the queue took nothing.
                if in_doubt {
                    self.acquires_fail(Reason::TimedOut, None);
                }
                let reason = Reason::TimedOut;
                self.settle(deadline.slot, Event::Failed { reason, in_doubt });
            }
        }
        if let Some(down) = self.pipe.on_tick(now_ms, &self.cx.config.redis) {
            self.lose_pipe(down);
        }
        if !self.pipe.is_ready() {
            return;
        }
        self.releases.on_tick(&mut self.cx);
        for _ in 0..Renewals::steps_in_a_tick() {
            self.sweep();
        }
        self.renewals.catch_up(&self.cx);
        self.recounts.on_tick(&mut self.cx);
        self.overrides.on_tick(&mut self.cx);
        self.send_commands();
    }

    /// Renews the leases in one part of the slots, if that is due.
    fn sweep(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let (slots, ready_ms) = (self.requests.slots(), self.pipe.ready_ms());
        if let Some(step) = self.renewals.next_step(&self.cx, slots, ready_ms) {
            let young_ms = self.renewals.young_ms(&self.cx);
            let requests = &mut self.requests;
            let due = requests.due_for_renewal(&mut self.cx, step, young_ms, ready_ms);
            self.renewals.send(&mut self.cx, due);
        }
    }

    /// Sends the acquires that wait.
    fn send_acquires(&mut self) {
        if self.pipe.is_ready() && self.acquires.has_queue() {
            // Ahead of them: the slots they free may be just what is needed.
            self.releases.send_batch(&mut self.cx);
            let wanted = |acquire: &AcquireCommand| self.requests.wants(acquire);
            self.acquires.send(&mut self.cx, wanted);
            self.send_commands();
        }
    }

    // ---- the pipe ----

    /// Sends what the parts have left.
    fn send_commands(&mut self) {
        while let Some(command) = self.cx.commands.pop_front() {
            self.send(command, 0, false);
        }
    }

    fn send(&mut self, command: Command, tries: u8, with_source: bool) {
        match &command {
            Command::Acquire(leases) => {
                self.acquires.on_sent(leases.len());
                for acquire in leases {
                    self.requests.mark_sent(acquire.slot, acquire.lease);
                }
            }
            Command::Renew { leases, .. } => {
                for held in leases {
                    self.requests.mark_sent(held.slot, held.lease);
                }
            }
            Command::Release { .. }
            | Command::Sync { .. }
            | Command::Recount { .. }
            | Command::Poll { .. }
            | Command::Answer { .. }
            | Command::Report { .. } => {}
        }
        let sent = Sent {
            command,
            sent_ms: self.cx.now_ms,
            tries,
        };
        let cx = &mut self.cx;
        self.pipe.send(sent, with_source, |command, out, script| {
            command::write(cx, command, out, script);
        });
    }

    /// The host opened the pipe.
    pub fn on_pipe_open(&mut self, now_ms: u64) {
        self.pipe.on_open(now_ms, &self.cx.config.redis);
    }

    /// The pipe was closed from the other side, or could not be opened.
    pub fn on_pipe_closed(&mut self, now_ms: u64) {
        self.on_pipe_gone(now_ms, Down::Closed);
    }

    /// Envoy has nothing that a pipe could be opened through.
    pub fn on_pipe_unopened(&mut self, now_ms: u64) {
        self.on_pipe_gone(now_ms, Down::Unopened);
    }

    fn on_pipe_gone(&mut self, now_ms: u64, why: Down) {
        self.cx.now_ms = now_ms;
        if self.pipe.can_close() {
            self.lose_pipe(why);
        }
    }

    /// Bytes from Redis, cut anywhere.
    pub fn on_pipe_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        self.cx.now_ms = now_ms;
        let mut reader = self.pipe.reader(bytes);
        while let Some(event) = self.pipe.read(now_ms, &self.cx.config.redis, &mut reader) {
            match event {
                // No acquire goes ahead of its own accounts.
                PipeEvent::Greeted => {
                    for pool in 0..self.cx.config.pools.len() {
                        self.syncs.ask(&mut self.cx, pool);
                    }
                    self.send_commands();
                }
                PipeEvent::Reply(sent) => self.on_reply(sent, reader.reply()),
                PipeEvent::Broken(why) => self.lose_pipe(why),
            }
        }
    }

    /// Every pool's sync is answered. Those that go in parts go on while the others are served.
    fn serve_once_synced(&mut self) {
        if self.pipe.is_greeted() && self.pipe.commands().all(Command::is_part) {
            self.on_ready();
        }
    }

    /// The pipe is ready: what waited for it is sent.
    fn on_ready(&mut self) {
        self.pipe.serve(self.cx.now_ms);
        self.cx.is_ready = true;
        self.cx.counters.add(Counter::PipeReady);
        self.acquires_work();
        if !std::mem::take(&mut self.said).is_empty() {
            self.cx.notice(Notice::PipeReady);
        }
        self.releases.on_ready(&mut self.cx);
        self.renewals.on_ready(&self.cx);
        self.recounts.on_ready(&mut self.cx);
        // Ahead of what waits, so that the next request goes by it already.
        self.overrides.on_ready(&mut self.cx);
        self.send_commands();
        self.send_acquires();
    }

    /// Redis answered an acquire in time, or a whole greeting.
    fn acquires_work(&mut self) {
        if self.breaker.succeeded() {
            self.cx.counters.add(Counter::BreakerClosed);
            self.cx.notice(Notice::BreakerClosed);
        }
    }

    #[inline(never)]
    fn acquires_fail(&mut self, reason: Reason, fault: Option<Fault>) {
        let redis = &self.cx.config.redis;
        let (together_ms, settings) = (redis.acquire_timeout_ms, redis.breaker);
        let (now_ms, random) = (self.cx.now_ms, &mut self.cx.random);
        if self.breaker.failed(now_ms, together_ms, settings, random) {
            self.cx.counters.add(Counter::BreakerOpened);
            self.cx.notice(Notice::BreakerOpened(reason, fault));
        }
    }

    // ---- replies ----

    fn on_reply(&mut self, mut sent: Sent<Command>, reply: &[u8]) {
        let pool = sent.command.pool();
        if reply.first() == Some(&b'-')
            && let Some(Value::Error(error)) = Values::new(reply).value()
            && let Some(what) = fault::garbage(error)
            // An operator's key is told of where it is read.
            && !matches!(sent.command, Command::Poll { .. })
        {
            self.recounts.see_garbage(&mut self.cx, pool, what);
        }
        if let Command::Acquire(leases) = &sent.command {
            self.acquires.on_answered(leases.len());
        }
        if let Err(fault) = self.on_answer(&mut sent, reply) {
            self.on_fault(sent, fault, reply);
        }
        self.send_commands();
    }

    /// Gives a reply to the part that its command came from.
    fn on_answer(&mut self, sent: &mut Sent<Command>, reply: &[u8]) -> Result<(), Fault> {
        let (cx, sent_ms) = (&mut self.cx, sent.sent_ms);
        match &mut sent.command {
            Command::Acquire(leases) => return self.on_acquired(leases, sent_ms, reply),
            Command::Release { pool, releases } => {
                self.releases.on_reply(cx, *pool, releases.len(), reply)?;
            }
            Command::Renew { pool, leases } => {
                let (epoch, answers) = renewals::read(leases, reply)?;
                let pool = *pool;
                let mut lost: usize = 0;
                for (answer, held) in answers.zip(leases.iter()) {
                    let at = (epoch, sent_ms);
                    let news = self.requests.on_renewed(cx, pool, held, answer, at);
                    lost = lost.saturating_add(usize::from(news));
                }
                if lost > 0 {
                    let pool = cx.pool_name(pool);
                    cx.notice(Notice::Lost { pool, leases: lost });
                }
                self.syncs.see_epoch(cx, pool, epoch);
            }
            Command::Sync { pool, step, .. } => {
                if let Next::Stray(id) = self.syncs.on_reply(cx, *pool, step, reply)? {
                    let what = not_configured(id.as_bytes());
                    self.recounts.note_garbage(cx, *pool, &what);
                }
                self.send_commands();
                self.serve_once_synced();
            }
            Command::Recount { pool, .. } => {
                if let Some(in_force) = self.recounts.on_reply(cx, *pool, reply)? {
                    self.syncs.see_in_force(cx, *pool, in_force);
                }
            }
            Command::Poll { pool } => {
                let question = self.overrides.on_reply(cx, *pool, sent_ms, reply)?;
                let pool = *pool;
                let answer = question.and_then(|question| {
                    let now_ms = self.cx.now_ms;
                    self.requests.recall(&self.cx, now_ms, &question)
                });
                if let Some(text) = answer {
                    self.cx.commands.push_back(Command::Answer { pool, text });
                }
            }
            Command::Answer { .. } => {
                if let Some(Value::Error(error)) = Values::new(reply).value() {
                    return Err(Fault::of(error));
                }
            }
            Command::Report {
                slot, pool, report, ..
            } => {
                let ended = commands::number(reply)?;
                let request = (*slot, *pool);
                self.requests.on_reported(cx, request, *report, ended);
            }
        }
        Ok(())
    }

    fn on_acquired(
        &mut self,
        leases: &mut Vec<AcquireCommand>,
        sent_ms: u64,
        reply: &[u8],
    ) -> Result<(), Fault> {
        let (epoch, answers) = acquires::read(leases, reply)?;
        // One that came too late helps nobody, and must not keep the breaker closed.
        let took_ms = self.cx.now_ms.saturating_sub(sent_ms);
        if took_ms < self.cx.config.redis.acquire_timeout_ms {
            self.acquires_work();
        }
        for (acquire, answer) in std::mem::take(leases).into_iter().zip(answers) {
            let pool = acquire.pool;
            let traditional = match acquire.kind {
                AcquireKind::Dry => None,
                AcquireKind::DryBeside(account) => Some(account),
                AcquireKind::Take | AcquireKind::Record(_) => {
                    self.on_granted(&acquire, answer, epoch, sent_ms);
                    continue;
                }
            };
            self.shadow
                .on_answer(&mut self.cx, pool, traditional, answer);
        }
        Ok(())
    }

    /// The ledger answered an acquire that takes or records a lease.
    fn on_granted(&mut self, acquire: &AcquireCommand, answer: Acquired, epoch: u64, sent_ms: u64) {
        let (cx, pool) = (&mut self.cx, acquire.pool);
        let known = self
            .requests
            .on_acquired(cx, acquire, answer, epoch, sent_ms);
        if let Acquired::Granted { account, .. } = answer {
            if known != Known::Late {
                self.recounts.see_right(cx, pool);
                self.syncs.see_epoch(cx, pool, epoch);
            }
            if known == Known::No && self.syncs.see_stray(cx, pool, account) {
                let what = not_configured(account);
                self.recounts.see_garbage(cx, pool, &what);
            }
        }
        self.do_tasks();
    }

    /// What any command's fault asks for: the command goes out again, or its part is told that it failed.
    fn on_fault(&mut self, sent: Sent<Command>, fault: Fault, reply: &[u8]) {
        let (pool, tries) = (sent.command.pool(), sent.tries);
        if fault == Fault::Garbage
            && reply.first() != Some(&b'-')
            && let Some(what) = number_of(&sent.command)
        {
            self.recounts.see_garbage(&mut self.cx, pool, what);
        }
        if fault == Fault::Mismatch {
            self.pipe.put_back(sent);
            return self.lose_pipe(Down::Mismatch);
        }
        // Without the right to poll, a worker can still do all else.
        let polls = matches!(sent.command, Command::Poll { .. });
        if !(polls && fault == Fault::Denied) {
            self.cx.counters.add(Counter::RedisError(fault));
        }
        if fault.is_wrong_server() && !(polls && fault == Fault::Denied) {
            self.lose_pipe(Down::WrongServer(fault));
            return self.on_failed(sent.command, sent.sent_ms, fault);
        }
        let command = sent.command;
        let retry = if tries < RETRIES && repeats(fault, &command) {
            self.wanted(command)
        } else {
            Err(command)
        };
        let failed = match (fault, retry) {
            (Fault::NoScript, Ok(command)) => {
                self.send(command, tries.saturating_add(1), true);
                return;
            }
            (Fault::NoPool, Ok(command)) => {
                self.syncs.on_no_pool(&mut self.cx, pool);
                self.send_commands();
                // The first part of a large pool does not know most of the leases that are renewed.
                let renews = matches!(command, Command::Renew { .. });
                if !(renews && sync::is_large(&self.cx, pool)) {
                    self.send(command, tries.saturating_add(1), false);
                    return;
                }
                command
            }
            // The script takes out of `free` whom it could not give a lease, so once more may be all that the others need.
            (_, Ok(command)) => {
                self.send(command, RETRIES, false);
                return;
            }
            (_, Err(command)) => command,
        };
        self.on_failed(failed, sent.sent_ms, fault);
    }

    /// What of a command is still wanted; `Err`: nothing.
    fn wanted(&self, mut command: Command) -> Result<Command, Command> {
        let left = match &mut command {
            Command::Acquire(leases) => {
                leases.retain(|acquire| self.requests.wants(acquire));
                leases.len()
            }
            Command::Release { releases, .. } => {
                releases.retain(|release| release.over_ms > self.cx.now_ms);
                releases.len()
            }
            Command::Renew { leases, .. } => {
                leases.retain(|held| self.requests.still_holds(held));
                leases.len()
            }
            Command::Sync { .. }
            | Command::Recount { .. }
            | Command::Poll { .. }
            | Command::Answer { .. }
            | Command::Report { .. } => 1,
        };
        if left > 0 { Ok(command) } else { Err(command) }
    }

    /// A command has no answer, and is not sent again now.
    fn on_failed(&mut self, command: Command, sent_ms: u64, fault: Fault) {
        let is_open = self.pipe.is_open();
        match command {
            Command::Acquire(leases) => {
                // One pool's fault says nothing of the others.
                if is_open && !matches!(fault, Fault::Garbage | Fault::NoPool) {
                    self.acquires_fail(Reason::Refused, Some(fault));
                }
                for acquire in leases {
                    self.lose_acquire(LostAcquire {
                        acquire,
                        reason: Reason::Refused,
                        in_doubt: fault.may_have_run(),
                    });
                }
            }
            Command::Release { mut releases, .. } => {
                releases.retain(|release| release.over_ms > self.cx.now_ms);
                self.releases.on_failed(&mut self.cx, releases);
            }
            Command::Sync { pool, .. } => {
                self.syncs.on_failed(pool);
                // A pipe that went down for it says why; so does what cannot be there.
                if is_open && fault != Fault::Garbage {
                    let pool = self.cx.pool_name(pool);
                    self.cx.notice(Notice::SyncFailed { pool, fault });
                }
                self.serve_once_synced();
            }
            Command::Recount { pool, .. } => self.recounts.on_failed(&mut self.cx, pool),
            Command::Poll { pool } if is_open => {
                self.overrides.on_failed(&mut self.cx, pool, sent_ms, fault);
            }
            // A lease renewed in vain is taken up by the next renewal; whoever asked for an answer asks again.
            Command::Poll { .. }
            | Command::Renew { .. }
            | Command::Answer { .. }
            | Command::Report { .. } => {}
        }
    }

    /// Everything under way is answered or put in doubt; the pipe opens again after a while.
    fn lose_pipe(&mut self, why: Down) {
        // What was to be sent is lost with the rest.
        self.send_commands();
        let now_ms = self.cx.now_ms;
        let loss = self.pipe.lose(now_ms, why, &mut self.cx.random);
        self.cx.is_ready = false;
        self.cx.counters.add(Counter::PipeLost(loss.why));
        if !(loss.served && loss.why == Down::Closed) {
            self.say_lost(loss.why, loss.refusal);
        }
        let (mut acquires, mut releases) = (Vec::new(), Vec::new());
        for sent in loss.sent {
            match sent.command {
                Command::Acquire(leases) => acquires.extend(leases),
                Command::Release { releases: sent, .. } => releases.extend(sent),
                // A lease renewed in vain is taken up by the next renewal; one whose request left has its release in this
                // very list.
                Command::Renew { .. }
                | Command::Sync { .. }
                | Command::Recount { .. }
                | Command::Poll { .. }
                | Command::Answer { .. }
                | Command::Report { .. } => {}
            }
        }
        self.syncs.on_pipe_lost();
        self.releases.on_pipe_lost(&mut self.cx, releases);
        let fails = self.pipe.failures() > 0;
        self.acquires.on_pipe_lost(acquires, fails);
        self.tell_lost();
    }

    fn say_lost(&mut self, why: Down, refusal: Option<Refusal>) {
        let gist = refusal.as_ref().map(Refusal::gist).unwrap_or_default();
        if self.said.is_news(self.cx.now_ms, SAID_MS, &(why, gist)) {
            self.cx.notice(match (why, refusal) {
                (Down::Unopened, _) => Notice::PipeUnopened {
                    cluster: self.cx.config.redis.pipe_cluster.clone(),
                },
                (why, Some(refusal)) => Notice::PipeRefused(why, refusal),
                (why, None) => Notice::PipeDown(why),
            });
        }
    }

    /// Tells a portion of the requests whose acquires a lost pipe took along.
    fn tell_lost(&mut self) {
        for _ in 0..PORTION {
            let Some(lost) = self.acquires.next_lost() else {
                break;
            };
            self.lose_acquire(lost);
        }
        self.send_commands();
    }

    /// An acquire has no answer, and will have none.
    #[inline(never)]
    fn lose_acquire(&mut self, lost: LostAcquire) {
        let LostAcquire {
            acquire,
            reason,
            in_doubt,
        } = lost;
        match acquire.kind {
            AcquireKind::Dry | AcquireKind::DryBeside(_) => {
                self.shadow.failed(&mut self.cx, acquire.pool);
            }
            AcquireKind::Take | AcquireKind::Record(_) if !self.requests.wants(&acquire) => {}
            AcquireKind::Take => self.settle(acquire.slot, Event::Failed { reason, in_doubt }),
            // A lease recorded in vain is taken up by the next renewal.
            AcquireKind::Record(_) if in_doubt => {
                self.requests.may_probe(&mut self.cx, acquire.slot);
            }
            AcquireKind::Record(_) => {}
        }
    }

    /// Before the first request: the last poll of any worker of this pool, so that a new configuration does not begin
    /// without the operator's overrides.
    pub fn restore_overrides(&mut self, pool: usize, seen: &[u8]) {
        self.overrides.restore(&mut self.cx, pool, seen);
    }
}

/// Whether a command that failed so goes out again.
fn repeats(fault: Fault, command: &Command) -> bool {
    match fault {
        Fault::NoScript | Fault::NoPool => !matches!(command, Command::Answer { .. }),
        Fault::Garbage => matches!(command, Command::Acquire(_)),
        _ => false,
    }
}

/// What a reply to this command holds instead of the number that belongs there.
fn number_of(command: &Command) -> Option<&'static [u8]> {
    match command {
        Command::Acquire(_) | Command::Renew { .. } => Some(EPOCH),
        Command::Sync { .. } => Some(REVISION),
        Command::Release { .. }
        | Command::Recount { .. }
        | Command::Poll { .. }
        | Command::Answer { .. }
        | Command::Report { .. } => None,
    }
}

/// What is said of an account that is in the ledger and in no configuration.
fn not_configured(account: &[u8]) -> Vec<u8> {
    [b"accounts ", account, b": not configured"].concat()
}
