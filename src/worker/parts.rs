//! The parts of one worker, and the work that needs several of them.

use super::acquires::{Acquires, LostAcquire, PORTION};
use super::breaker::Breaker;
use super::command::{AcquireCommand, AcquireKind, Command};
use super::context::{Context, Task};
use super::counters::Counter;
use super::encode;
use super::full::FullPools;
use super::grants::Grants;
use super::notice::{Notice, Said};
use super::overrides::Overrides;
use super::recount::Recounts;
use super::releases::{PipeState, Releases};
use super::renewals::Renewals;
use super::requests::Requests;
use super::shadow::Shadow;
use super::sync::Syncs;
use super::waiters::{Waiter, Waiters};
use crate::config::{Config, TenantLimits};
use crate::ledger::commands::{Acquired, Handed, Place};
use crate::ledger::fault::Fault;
use crate::ledger::source::Script;
use crate::pipe::connection::{Connection, Sent};
use crate::pipe::down::Down;
use crate::pipe::greeting::Refusal;
use crate::request::admission::{Event, Policy, Reason};
use crate::request::gray::Bucketer;
use crate::request::verdict::Verdict;

/// A reason why the pipe is down is said again when it was not seen for this long, in ms. A server that turns us away may
/// be seen to do so or only to close the connection, by turns.
const SAID_MS: u64 = 10_000;

/// All parts. None of them knows another one: events, tasks and commands pass between them here.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) cx: Context,
    pub(super) pipe: Connection<Command>,
    /// Why the pipe is down, as far as it was said: the reason, the gist of the server's words.
    pub(super) said: Said<(Down, String)>,
    pub(super) breaker: Breaker,
    pub(super) bucketer: Bucketer,
    pub(super) requests: Requests,
    pub(super) full: FullPools,
    pub(super) acquires: Acquires,
    pub(super) releases: Releases,
    pub(super) renewals: Renewals,
    pub(super) syncs: Syncs,
    pub(super) recounts: Recounts,
    pub(super) overrides: Overrides,
    pub(super) shadow: Shadow,
    pub(super) waiters: Waiters,
    pub(super) grants: Grants,
}

impl Parts {
    /// `seed` must be random.
    pub(super) fn new(config: Config, seed: u64) -> Self {
        let pools = config.pools.len();
        let policy = Policy {
            saturated: config.saturated,
            failure: config.failure,
            traditional: config.traditional,
        };
        let bucketer = Bucketer::new(&config.gray.salt);
        let (syncs, shadow) = (Syncs::new(&config), Shadow::new(&config));
        let (cx, worker) = Context::new(config, fastrand::Rng::with_seed(seed));
        let channel = cx.channel.clone();
        Self {
            cx,
            pipe: Connection::new(&Script::FILTER, true),
            said: Said::default(),
            breaker: Breaker::default(),
            bucketer,
            requests: Requests::new(policy, worker),
            full: FullPools::new(pools),
            acquires: Acquires::default(),
            releases: Releases::default(),
            renewals: Renewals::default(),
            syncs,
            recounts: Recounts::new(pools),
            overrides: Overrides::new(pools),
            shadow,
            waiters: Waiters::new(pools),
            grants: Grants::new(channel),
        }
    }

    /// How many commands wait for Redis' reply or for the pipe, an acquire as many as it has leases.
    pub(super) fn waiting(&self) -> usize {
        let waiting = self.acquires.waiting();
        self.pipe.under_way().saturating_add(waiting)
    }

    /// Whether an acquire can be sent, or may wait for the pipe to open. Opens it on first need.
    pub(super) fn available(&mut self) -> Result<(), Reason> {
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

    /// Steps one request, and does the tasks that this leaves for other parts.
    pub(super) fn step(&mut self, slot: usize, event: Event) -> Option<Verdict> {
        let verdict = self.requests.step(&mut self.cx, slot, event);
        self.do_tasks();
        verdict
    }

    /// Steps a request that waits for its verdict, and does the tasks that this leaves for other parts.
    pub(super) fn settle(&mut self, slot: usize, event: Event) {
        self.requests.settle(&mut self.cx, slot, event);
        self.do_tasks();
    }

    /// Does the tasks that a step has left for other parts.
    #[inline(always)]
    pub(super) fn do_tasks(&mut self) {
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
                            limits: TenantLimits::NONE,
                            place: Place::Last,
                            again: false,
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
                    let pipe = self.pipe_state();
                    self.full.forget(pool, self.cx.now_ms);
                    self.releases.end(&mut self.cx, pool, lease, in_doubt, pipe);
                    self.send_commands();
                }
            }
        }
    }

    fn pipe_state(&self) -> PipeState {
        match (self.pipe.is_ready(), self.pipe.is_reopened()) {
            (false, _) => PipeState::Away,
            (true, false) => PipeState::Ready,
            (true, true) => PipeState::Reopened {
                ready_ms: self.pipe.ready_ms(),
            },
        }
    }

    /// Asks which account the ledger would choose for a request that goes the traditional way; `account`: the one it goes to,
    /// if that is known.
    pub(super) fn ask_shadow(&mut self, pool: usize, slot: usize, account: Option<u32>) {
        if self.available().is_ok() {
            let lease = self.requests.mint();
            let kind = account.map_or(AcquireKind::Dry, AcquireKind::DryBeside);
            let acquire = self.requests.acquire(&self.cx, pool, slot, lease, kind);
            self.acquires.push(acquire);
        } else {
            self.shadow.failed(&mut self.cx, pool);
        }
    }

    /// Asks for those that wait in the queue, when that is due, and ends the wait of those that have waited for too long.
    pub(super) fn tend_waiters(&mut self) {
        let now_ms = self.cx.now_ms;
        for _ in 0..PORTION {
            let Some(waiter) = self.waiters.next_over(now_ms) else {
                break;
            };
            if self.requests.is_waiting(waiter.slot, waiter.lease) {
                let retry_after_ms = self.waiters.retry_after_ms(waiter.pool);
                self.settle(waiter.slot, Event::WaitedTooLong { retry_after_ms });
            }
        }
        if !self.pipe.is_ready() {
            for waiter in self.waiters.next_lost(now_ms) {
                if self.requests.is_waiting(waiter.slot, waiter.lease) {
                    let (reason, in_doubt) = (Reason::PipeDown, true);
                    self.settle(waiter.slot, Event::Failed { reason, in_doubt });
                }
            }
            return;
        }
        let listens = self.grants.listens();
        let waits = |slot, lease| self.requests.is_waiting(slot, lease);
        let asks = self.waiters.next_asks(&self.cx, listens, waits);
        if !asks.is_empty() {
            self.grants.want(now_ms);
        }
        for Waiter {
            pool,
            slot,
            lease,
            order,
            ..
        } in asks
        {
            let acquire = self
                .requests
                .acquire(&self.cx, pool, slot, lease, AcquireKind::Take);
            self.acquires.push(AcquireCommand {
                place: Place::At(order),
                ..acquire
            });
        }
    }

    /// A script handed a slot on to a lease, maybe one of this worker's that waits.
    pub(super) fn on_handed(&mut self, handed: Handed) {
        let slot = usize::try_from(handed.cookie).unwrap_or(usize::MAX);
        let Some((pool, lease)) = self.requests.awaited(slot) else {
            return;
        };
        if lease.as_bytes() != handed.lease {
            return;
        }
        let acquire = self
            .requests
            .acquire(&self.cx, pool, slot, lease, AcquireKind::Bind);
        let answer = Acquired::Granted {
            account: handed.account,
            probes: handed.probes,
        };
        let take = AcquireCommand {
            kind: AcquireKind::Take,
            ..acquire
        };
        let now_ms = self.cx.now_ms;
        self.on_granted(&take, answer, handed.epoch, now_ms);
        // The script that handed it on knows nothing of sessions.
        if acquire.session.is_some() && self.requests.wants(&acquire) {
            self.acquires.push(acquire);
        }
    }

    /// Whether acquires or releases are to go at the end of this round.
    pub(super) fn asks(&self) -> bool {
        self.pipe.is_ready() && (self.acquires.has_queue() || self.releases.is_urgent())
    }

    /// Sends the acquires that wait, and the releases.
    pub(super) fn send_acquires(&mut self) {
        if self.asks() {
            // Ahead of them: the slots they free may be just what is needed.
            self.releases.send_batch(&mut self.cx);
            let wanted = |acquire: &AcquireCommand| self.requests.wants(acquire);
            self.acquires.send(&mut self.cx, wanted);
            self.send_commands();
        }
    }

    /// Sends the commands that the parts have left.
    pub(super) fn send_commands(&mut self) {
        while let Some(command) = self.cx.commands.pop_front() {
            // What a response says of its account waits for no pipe.
            if self.pipe.is_ready() || !matches!(command, Command::Report { .. }) {
                self.send(command, 0, false);
            }
        }
    }

    pub(super) fn send(&mut self, command: Command, tries: u8, with_source: bool) {
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
        let (cx, requests) = (&mut self.cx, &self.requests);
        self.pipe.send(sent, with_source, |command, out, script| {
            encode::write(cx, command, |slot| requests.tried(slot), out, script);
        });
    }

    /// Makes the pipe ready once every pool's sync is answered. A sync in parts may go on meanwhile.
    pub(super) fn serve_once_synced(&mut self) {
        if self.pipe.is_greeted() && self.pipe.commands().all(Command::is_part) {
            self.on_ready();
        }
    }

    /// The pipe is ready: sends everything that waited for it.
    pub(super) fn on_ready(&mut self) {
        self.pipe.serve(self.cx.now_ms);
        self.cx.counters.add(Counter::PipeReady);
        self.acquires_work();
        if !std::mem::take(&mut self.said).is_empty() {
            self.cx.notice(Notice::PipeReady);
        }
        self.releases.on_ready(&mut self.cx);
        self.renewals.on_ready(&self.cx);
        self.waiters.on_ready(self.cx.now_ms);
        self.recounts.on_ready(&mut self.cx);
        // Ahead of what waits, so that the next request goes by it already.
        self.overrides.on_ready(&mut self.cx);
        self.send_commands();
        self.send_acquires();
    }

    /// Closes the breaker: Redis answered an acquire in time, or a whole greeting.
    pub(super) fn acquires_work(&mut self) {
        if self.breaker.succeeded() {
            self.cx.counters.add(Counter::BreakerClosed);
            self.cx.notice(Notice::BreakerClosed);
        }
    }

    #[inline(never)]
    pub(super) fn acquires_fail(&mut self, reason: Reason, fault: Option<Fault>) {
        let redis = &self.cx.config.redis;
        let (together_ms, settings) = (redis.acquire_timeout_ms, redis.breaker);
        let (now_ms, random) = (self.cx.now_ms, &mut self.cx.random);
        if self.breaker.failed(now_ms, together_ms, settings, random) {
            self.cx.counters.add(Counter::BreakerOpened);
            self.cx.notice(Notice::BreakerOpened(reason, fault));
        }
    }

    /// Gives the pipe up. Everything under way fails or is put in doubt; the pipe opens again after a while.
    pub(super) fn lose_pipe(&mut self, why: Down) {
        // What was to be sent is lost with the rest.
        self.send_commands();
        let now_ms = self.cx.now_ms;
        let loss = self.pipe.lose(now_ms, why, &mut self.cx.random);
        self.cx.counters.add(Counter::PipeLost(loss.why));
        if !(loss.served && loss.why == Down::Closed) {
            self.say_lost(loss.why, loss.refusal, loss.never_served);
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
        self.full.forget_all();
        self.waiters.on_pipe_lost(now_ms);
        self.releases.on_pipe_lost(&mut self.cx, releases);
        let fails = self.pipe.failures() > 0;
        self.acquires.on_pipe_lost(acquires, fails);
        self.tell_lost();
    }

    fn say_lost(&mut self, why: Down, refusal: Option<Refusal>, never_served: bool) {
        let gist = refusal.as_ref().map(Refusal::gist).unwrap_or_default();
        if self.said.is_news(self.cx.now_ms, SAID_MS, &(why, gist)) {
            let cluster = || self.cx.config.redis.pipe_cluster.clone();
            self.cx.notice(match (why, refusal) {
                (Down::Unopened, _) => Notice::PipeUnopened { cluster: cluster() },
                (why, Some(refusal)) => Notice::PipeRefused(why, refusal),
                (why @ (Down::Closed | Down::Stuck | Down::Mismatch), None) if never_served => {
                    Notice::PipeNeverServed {
                        why,
                        cluster: cluster(),
                    }
                }
                (why, None) => Notice::PipeDown(why),
            });
        }
    }

    /// Tells a portion of the requests whose acquires a lost pipe took along.
    pub(super) fn tell_lost(&mut self) {
        for _ in 0..PORTION {
            let Some(lost) = self.acquires.next_lost() else {
                break;
            };
            self.lose_acquire(lost);
        }
        self.send_commands();
    }

    /// Fails an acquire that will get no reply.
    #[inline(never)]
    pub(super) fn lose_acquire(&mut self, lost: LostAcquire) {
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
            // One that waits in the queue is asked for again soon.
            AcquireKind::Take if self.requests.is_waiting(acquire.slot, acquire.lease) => {}
            AcquireKind::Take => self.settle(acquire.slot, Event::Failed { reason, in_doubt }),
            // Its session stays where it was.
            AcquireKind::Bind => {}
            // A lease recorded in vain is taken up by the next renewal.
            AcquireKind::Record(_) if in_doubt => {
                self.requests.may_probe(&mut self.cx, acquire.slot);
            }
            AcquireKind::Record(_) => {}
        }
    }
}
