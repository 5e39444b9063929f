//! One worker: its requests, its pipe to Redis, and everything that has a deadline.
//!
//! Pure like [`crate::request::admission`]: each `on_…` method is an event, `now_ms` is the host's monotonic clock, and what must
//! be done is left in [`Output`] and in the pipe's [`Wire`].
//!
//! The work is done by parts, each with a state of its own: `requests`, `acquires`, `releases`, `renewals`, `sync`,
//! `recount`, `overrides`, `shadow`, [`breaker`]. A part takes an event and leaves commands and tasks in the `Context`; it never
//! calls another part. This file gives each event to its parts; `parts` passes their tasks and commands on, and `replies`
//! gives them the replies of Redis.

mod acquires;
mod answers;
pub mod breaker;
mod command;
mod context;
pub mod counters;
pub mod decisions;
mod encode;
mod failover;
mod full;
mod grants;
pub mod notice;
pub mod output;
mod overrides;
mod parts;
pub mod presence;
mod recount;
mod releases;
mod renewals;
mod replies;
mod request;
mod requests;
mod responses;
mod shadow;
mod sync;
mod waiters;

use crate::config::Config;
use crate::ledger::commands::Handed;
use crate::pipe::connection::Wire;
use crate::pipe::down::Down;
use crate::pool::state::State;
use crate::pool::{self, AccountGauges};
use crate::request::admission::{Event, Path, Reason};
use crate::request::classify::{classify, is_shadow};
use crate::request::gray::Choice;
use crate::request::headers::Headers;
use crate::request::verdict::Verdict;
use crate::request::view::View;
use crate::upstream::answer::Status;
use crate::upstream::events::StreamError;
use crate::upstream::failing::Source;
use acquires::PORTION;
pub use answers::SETTLED_PER_ROUND;
use command::{AcquireKind, Command};
use counters::{Counter, Counters};
use output::{Answer, Gauges, Output};
use parts::Parts;
use renewals::Renewals;
pub use request::{LaterTry, RequestId};
pub use sync::digest;

/// One worker.
#[derive(Debug)]
pub struct Worker(Parts);

impl Worker {
    /// `seed` must be random: it keeps the lease ids of two workers apart.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Self(Parts::new(config, seed))
    }

    /// The configuration it runs on.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.cx.config
    }

    /// The counters of this worker.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.cx.counters
    }

    /// The percentage of a pool's sessions that is in, in basis points: the override, else as configured.
    #[must_use]
    pub fn basis_points(&self, pool: usize) -> u16 {
        let set = self.0.overrides.percent(pool);
        set.unwrap_or(self.0.cx.config.gray.basis_points)
    }

    /// Whether other accounts of a pool are in force than its configuration says, and of how many an operator says otherwise.
    #[must_use]
    pub fn drift(&self, pool: usize) -> (bool, u64) {
        let set = self.0.overrides.accounts_set(pool);
        (self.0.syncs.is_ignored(pool), set)
    }

    /// The gauges of a pool's accounts, and how often they were read from the ledger.
    #[must_use]
    pub fn accounts(&self, pool: usize) -> (&[AccountGauges], u64) {
        let view = self.0.cx.pools.get(pool);
        view.map_or((&[], 0), |view| view.table.shown())
    }

    /// How many of a pool's accounts are in each state, in the order of [`State::ALL`].
    #[must_use]
    pub fn states(&self, pool: usize) -> Option<&[u64; State::ALL.len()]> {
        Some(self.0.cx.pools.get(pool)?.table.states())
    }

    /// The gauges of this worker.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        Gauges([
            self.0.breaker.is_open().into(),
            self.0.pipe.is_ready().into(),
            self.0.pipe.is_down().into(),
            self.0.waiting() as u64,
            self.0.cx.counters.waiting_in_all,
            self.0.grants.listens().into(),
        ])
    }

    /// The host's clock in µs, finer than that of the events: only for measuring.
    pub fn set_clock_us(&mut self, now_us: u64) {
        self.0.cx.now_us = now_us;
    }

    /// The effects that the host must carry out now.
    pub fn output(&mut self) -> &mut Output {
        &mut self.0.cx.output
    }

    /// What the host must open, drop or send on the connection on which grants are heard.
    pub fn grants_wire(&mut self) -> &mut Wire {
        self.0.grants.wire()
    }

    /// What the host must open, drop or send.
    pub fn wire(&mut self) -> &mut Wire {
        self.0.pipe.wire()
    }

    /// Whether the worker may end: no request acquires or holds a slot, no release waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let poll = |command: &Command| matches!(command, Command::Poll { .. });
        self.0.requests.is_empty() && self.0.releases.is_empty() && self.0.pipe.is_quiet(poll)
    }

    /// When [`Worker::on_tick`] is wanted next, in ms.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        let ready = self.0.pipe.is_ready();
        let sweeps = ready && !self.0.requests.is_empty();
        // Asked after every event: no list is made of them.
        let mut first_ms = u64::MAX;
        let mut see = |wake_ms: Option<u64>| first_ms = first_ms.min(wake_ms.unwrap_or(u64::MAX));
        see(self.0.acquires.next_wake_ms());
        see(self.0.pipe.next_wake_ms(&self.0.cx.config.redis));
        see(self.0.releases.next_wake_ms(ready));
        if sweeps {
            see(Some(self.0.renewals.due_ms()));
        }
        if ready {
            see(self.0.recounts.next_wake_ms());
            see(self.0.overrides.next_wake_ms());
        }
        if self.0.cx.config.saturated.queue().is_some() {
            see(self.0.waiters.next_wake_ms());
            see(self.0.grants.next_wake_ms(&self.0.cx.config.redis));
        }
        (first_ms < u64::MAX).then_some(first_ms)
    }

    /// A request arrived. Returns its name in later events. Without a verdict it is paused, and its verdict comes with
    /// [`Worker::next_answer`].
    pub fn on_request<'a>(
        &mut self,
        now_ms: u64,
        stream: u32,
        request: impl Into<View<'a>>,
    ) -> (RequestId, Option<Verdict>) {
        let request = request.into();
        self.0.cx.now_ms = now_ms;
        if self.0.requests.is_empty() {
            self.0.renewals.begin(&self.0.cx);
        }
        let pool = pool::select(&self.0.cx.config.pools, request);
        let id = self.0.requests.open(&self.0.cx, stream, pool);
        let slot = id.slot;
        let event = match pool {
            Some(pool) => self.admit(pool, slot, request),
            None => {
                self.0.requests.unclassified(&self.0.cx, slot);
                Event::Out(Reason::NoPool)
            }
        };
        let verdict = self.0.step(slot, event);
        if let (Some(pool), Event::Out(Reason::Shadow)) = (pool, event)
            && self.0.shadow.asks_for_all()
        {
            let routed = self.0.shadow.routed_to(pool, request.headers());
            self.0.ask_shadow(pool, slot, routed);
        }
        self.0.cx.output.log = verdict.and_then(|_| self.0.requests.logged(&self.0.cx, slot, None));
        if verdict.is_some_and(|verdict| verdict.holds().is_none()) {
            // Nothing can happen to it any more.
            self.0.requests.close(slot);
        }
        (id, verdict)
    }

    /// Decides on a request that has a pool; its acquire goes out if one can.
    fn admit(&mut self, pool: usize, slot: usize, request: View) -> Event {
        if self.0.overrides.begin(&self.0.cx, pool) {
            self.0.pipe.want(self.0.cx.now_ms);
        }
        let share = self.basis_points(pool);
        let random = self.0.cx.random.u64(..);
        let class = classify(&self.0.cx.config, &self.0.bucketer, request, share, random);
        let choice = class.choice;
        self.0.requests.classified(&self.0.cx, slot, class, share);
        if choice == Choice::Out {
            self.0.cx.counters.add_in(pool, Counter::Out, 1);
            return Event::Out(Reason::OutOfPercentage);
        }
        self.0.cx.count_in(pool, Counter::In);
        if is_shadow(&self.0.cx.config) {
            return Event::Out(Reason::Shadow);
        }
        let limits = self.0.requests.limits(slot);
        if let Some(retry_after_ms) = self.0.full.refuses(&self.0.cx, pool, limits) {
            let reason = Reason::Saturated;
            return Event::Saturated {
                reason,
                retry_after_ms,
            };
        }
        if let Err(reason) = self.0.available() {
            return Event::Unavailable(reason);
        }
        let lease = self.0.requests.mint_for(slot);
        let acquire = self
            .0
            .requests
            .acquire(&self.0.cx, pool, slot, lease, AcquireKind::Take);
        self.0.acquires.push_with_deadline(&self.0.cx, acquire);
        Event::In(lease)
    }

    /// Answers a question about a request from the decision log; see [`decisions::DecisionLog::answer`].
    #[must_use]
    pub fn recall(&self, now_ms: u64, question: &[u8]) -> Option<String> {
        self.0.requests.recall(&self.0.cx, now_ms, question)
    }

    /// The `x-request-id` of the request that arrived last.
    pub fn identify(&mut self, id: &[u8]) {
        self.0.requests.identify(id);
    }

    /// Whether a request with an account wants to know more of a response of this status: who gave it, its headers, and the
    /// time, for [`Worker::on_response`]. Of the usual one it does not, and only counts it.
    pub fn wants_response(&mut self, id: RequestId, status: impl Into<Status>) -> bool {
        let status = status.into();
        self.0.requests.wants_response(&mut self.0.cx, id, status)
    }

    /// Envoy itself has answered a request that has no account. Between two tries that is the end of them.
    pub fn on_answer_between(&mut self, id: RequestId) {
        self.0.requests.on_answer_between(&mut self.0.cx, id);
    }

    /// A request with an account has its response. `now_unix_s` is the wall clock.
    pub fn on_response(
        &mut self,
        now_ms: u64,
        id: RequestId,
        (source, status): (Source, impl Into<Status>),
        headers: Headers,
        now_unix_s: u64,
    ) {
        self.0.cx.now_ms = now_ms;
        let requests = &mut self.0.requests;
        let answer = (source, status.into());
        requests.on_response(&mut self.0.cx, id, answer, headers, now_unix_s);
        self.0.send_commands();
    }

    /// A request with an account has a 200 that is a stream of events, and its first event, with the error that this is. As
    /// [`Worker::wants_response`] and [`Worker::on_response`] together.
    pub fn on_first_event(
        &mut self,
        now_ms: u64,
        id: RequestId,
        (source, error): (Source, Option<StreamError>),
        headers: Headers,
        now_unix_s: u64,
    ) {
        self.0.cx.now_ms = now_ms;
        let (cx, requests) = (&mut self.0.cx, &mut self.0.requests);
        let answer = (source, error);
        requests.on_first_event(cx, id, answer, headers, now_unix_s);
        self.0.send_commands();
    }

    /// Whether a try of a request goes out without more ado: no account has refused the request, or failed it.
    #[must_use]
    pub fn is_first_try(&self, id: RequestId) -> bool {
        let request = self.0.requests.get(id);
        request.is_none_or(|request| request.tries.is_none())
    }

    /// A try of a request begins; `context` is the host's number of it. Returns whether it goes out at once; else it is paused,
    /// and its verdict comes with [`Worker::next_answer`].
    pub fn on_try(&mut self, now_ms: u64, id: RequestId, context: u32) -> bool {
        self.0.cx.now_ms = now_ms;
        self.0.on_try(id, context)
    }

    /// Whether a response of this status to a try may be a refusal, for [`Worker::on_try_answered`].
    #[must_use]
    pub fn may_refuse(&self, id: RequestId, status: impl Into<Status>) -> bool {
        self.0.requests.may_refuse(&self.0.cx, id, status.into())
    }

    /// A try was answered. Returns whether the account refused it, and the host should try again. `now_unix_s` is the wall
    /// clock.
    pub fn on_try_answered(
        &mut self,
        now_ms: u64,
        id: RequestId,
        status: impl Into<Status>,
        headers: Headers,
        now_unix_s: u64,
    ) -> bool {
        self.0.cx.now_ms = now_ms;
        self.0
            .on_try_answered(id, status.into(), headers, now_unix_s)
    }

    /// A try is over without an answer.
    pub fn on_try_unanswered(&mut self, now_ms: u64, id: RequestId, context: u32) {
        self.0.cx.now_ms = now_ms;
        self.0.requests.on_try_unanswered(&self.0.cx, id, context);
    }

    /// How many accounts a request has tried, the one that it holds among them.
    #[must_use]
    pub fn tries(&self, id: RequestId) -> usize {
        self.0.requests.tried(id.slot).len().saturating_add(1)
    }

    /// The stream is over, however it ended. Asking twice, or for a request that held nothing, does nothing.
    pub fn on_end(&mut self, now_ms: u64, id: RequestId) {
        self.0.cx.now_ms = now_ms;
        self.0.requests.on_end(&mut self.0.cx, id);
        self.0.do_tasks();
    }

    /// Which way a request that waited or holds an account was sent on, and that account; `None` when it was not sent on.
    #[must_use]
    pub fn path(&self, id: RequestId) -> Option<(Path, Option<&str>)> {
        let (path, account) = self.0.requests.path(id)?;
        let account =
            account.and_then(|(pool, account)| self.0.cx.config.account_id(pool, account));
        Some((path, account))
    }

    /// The next verdict to be handed out to its paused request; `None` when there is none, or no more may be handed out
    /// before [`Worker::flush`].
    pub fn next_answer(&mut self) -> Option<Answer> {
        self.0.requests.next_answer()
    }

    /// Whether [`Worker::flush`], or the host, has something to do for the pipe.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        let tells = self.0.requests.has_answers() || self.0.acquires.has_lost();
        self.0.asks() || tells || self.0.pipe.has_work() || self.0.grants.has_work()
    }

    /// All events of this round have come: sends what they ask for, in as few commands as possible, and lets more verdicts be
    /// handed out.
    pub fn flush(&mut self, now_ms: u64) {
        self.0.cx.now_ms = now_ms;
        self.0.requests.refill();
        self.0.tell_lost();
        self.0.send_acquires();
    }

    /// Does everything that is due: deadlines of acquires, the pipe, releases in doubt, renewals, recounts, polls.
    pub fn on_tick(&mut self, now_ms: u64) {
        self.0.cx.now_ms = now_ms;
        self.0.tell_lost();
        for _ in 0..PORTION {
            let Some(deadline) = self.0.acquires.next_due(now_ms) else {
                break;
            };
            if let Some(in_doubt) = self.0.requests.acquires(deadline.slot, deadline.lease) {
                // One that never left the queue took nothing.
                if in_doubt {
                    self.0.acquires_fail(Reason::TimedOut, None);
                }
                let reason = Reason::TimedOut;
                self.0
                    .settle(deadline.slot, Event::Failed { reason, in_doubt });
            }
        }
        if let Some(down) = self.0.pipe.on_tick(now_ms, &self.0.cx.config.redis) {
            self.0.lose_pipe(down);
        }
        let cx = &mut self.0.cx;
        self.0
            .grants
            .on_tick(now_ms, &cx.config.redis, &mut cx.random);
        self.0.tend_waiters();
        if !self.0.pipe.is_ready() {
            return;
        }
        self.0.releases.on_tick(&mut self.0.cx);
        for _ in 0..Renewals::steps_in_a_tick() {
            self.sweep();
        }
        self.0.renewals.catch_up(&self.0.cx);
        self.0.recounts.on_tick(&mut self.0.cx);
        self.0.overrides.on_tick(&mut self.0.cx);
        self.0.send_commands();
    }

    /// Renews the leases in one part of the slots, if that is due.
    fn sweep(&mut self) {
        if self.0.requests.is_empty() {
            return;
        }
        let (slots, ready_ms) = (self.0.requests.slots(), self.0.pipe.ready_ms());
        if let Some(step) = self.0.renewals.next_step(&self.0.cx, slots, ready_ms) {
            let young_ms = self.0.renewals.young_ms(&self.0.cx);
            let requests = &mut self.0.requests;
            let due = requests.due_for_renewal(&mut self.0.cx, step, young_ms, ready_ms);
            self.0.renewals.send(&mut self.0.cx, due);
        }
    }

    /// The host opened the pipe.
    pub fn on_pipe_open(&mut self, now_ms: u64) {
        self.0.pipe.on_open(now_ms, &self.0.cx.config.redis);
    }

    /// The pipe was closed from the other side, or could not be opened.
    pub fn on_pipe_closed(&mut self, now_ms: u64) {
        self.on_pipe_gone(now_ms, Down::Closed);
    }

    /// Envoy has nothing that a pipe could be opened through.
    pub fn on_pipe_unopened(&mut self, now_ms: u64) {
        self.on_pipe_gone(now_ms, Down::Unopened);
    }

    /// The host opened the connection on which grants are heard.
    pub fn on_grants_open(&mut self, now_ms: u64) {
        self.0.grants.on_open(now_ms, &self.0.cx.config.redis);
    }

    /// That connection is gone, or could not be opened.
    pub fn on_grants_closed(&mut self, now_ms: u64) {
        let random = &mut self.0.cx.random;
        self.0.grants.on_closed(now_ms, Down::Closed, random);
    }

    /// Bytes that came on it, cut anywhere.
    pub fn on_grants_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        self.0.cx.now_ms = now_ms;
        let mut heard = Vec::new();
        let cx = &mut self.0.cx;
        let with = (&cx.config.redis, &mut cx.random);
        self.0
            .grants
            .on_bytes(now_ms, with, bytes, |text| heard.push(text.to_vec()));
        for text in &heard {
            if let Some(handed) = Handed::read(text) {
                self.0.on_handed(handed);
            }
        }
        self.0.do_tasks();
    }

    fn on_pipe_gone(&mut self, now_ms: u64, why: Down) {
        self.0.cx.now_ms = now_ms;
        if self.0.pipe.can_close() {
            self.0.lose_pipe(why);
        }
    }

    /// Before the first request: the last poll of any worker of this pool, so that a new configuration does not begin
    /// without the operator's overrides.
    pub fn restore_overrides(&mut self, pool: usize, seen: &[u8]) {
        self.0.overrides.restore(&mut self.0.cx, pool, seen);
    }

    /// Bytes from Redis, cut anywhere.
    pub fn on_pipe_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        self.0.cx.now_ms = now_ms;
        self.0.on_pipe_bytes(bytes);
    }
}
