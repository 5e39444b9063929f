//! The requests of a worker: each one's phase, its verdict, what its response says, and the lease it holds.

use super::command::{AcquireCommand, AcquireKind, Command, HeldLease};
use super::context::{Context, Task};
use super::counters::{Counter, NO_POOL};
use super::decisions::DecisionLog;
use super::output::Answer;
use crate::config::Traditional;
use crate::ledger::commands::AccountReport;
use crate::ledger::commands::{Acquired, Renewed};
use crate::ledger::fault::Fault;
use crate::request::admission::{Effect, Event, Path, Phase, Policy, Reason};
use crate::request::classify::Class;
use crate::request::headers::Headers;
use crate::request::lease::{LeaseId, LeaseIds};
use crate::request::verdict::{Logged, Verdict};
use crate::upstream::cooldown;
use crate::upstream::failing::Source;
use slab::Slab;
use std::collections::VecDeque;
use std::ops::Range;

/// How many paused requests are told their verdict in one round of Envoy's event loop. Those that Envoy answers itself it
/// settles nested in one another: behind the shipped filters 300 overflow the VM's stack on Envoy 1.40.0, 400 on 1.36.4, and
/// other filters need stack too. With 8, 16, 64 or 256 it serves equally many requests/s.
pub const SETTLED_PER_ROUND: usize = 32;
/// How many waits are kept until the host takes them: far more than a worker can have in that time.
const MOST_WAITS: usize = 20_000;

/// What a response means for an account that has cooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Nothing, as far as the ledger said.
    No,
    /// The request's lease probes, or may do so: what the ledger said of that was lost.
    Awaits,
    /// The response was good before the ledger said anything.
    Early,
    /// The response was good, and the ledger has yet to hear it.
    Passed,
}

#[derive(Debug)]
struct Request {
    stream: u32,
    /// In the decision log.
    number: u32,
    /// `None`: no pool's rules fit it.
    pool: Option<usize>,
    phase: Phase,
    session: Option<[u8; 16]>,
    /// In what it cools an account down; rarely there, so it takes little room.
    scope: Option<Box<[u8; 16]>>,
    /// The ledger's epoch at the grant; 0 when the lease isn't known to be recorded.
    epoch: u64,
    /// When the lease was last known to be good for a whole time to live, in ms.
    renewed_ms: u64,
    /// Whether Redis was ever told of the lease.
    acquire_sent: bool,
    /// Whether it was said already that the lease is lost.
    lost: bool,
    probe: Probe,
    /// Its bucket, if that decided.
    bucket: Option<u16>,
    /// When it came, in µs.
    came_us: u64,
}

/// Whether the account that an acquire was granted is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// An account that is configured here, or none.
    Yes,
    /// An account that is not.
    No,
    /// A request that does not wait for it any more.
    Late,
}

/// All requests that wait for their verdict or hold a lease, and what is said of them.
#[derive(Debug)]
pub(super) struct Requests {
    policy: Policy,
    ids: LeaseIds,
    slab: Slab<Request>,
    decisions: DecisionLog,
    /// Verdicts that were not handed out yet, oldest first.
    answers: VecDeque<(usize, Answer)>,
    /// How many may still be handed out in this round of the event loop.
    may_settle: usize,
}

impl Requests {
    /// `worker` must be random: it keeps the lease ids of two workers apart.
    pub(super) fn new(policy: Policy, worker: u64) -> Self {
        Self {
            policy,
            ids: LeaseIds::new(worker),
            slab: Slab::new(),
            decisions: DecisionLog::default(),
            answers: VecDeque::new(),
            may_settle: SETTLED_PER_ROUND,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// How many slots there are, taken or free.
    pub(super) fn slots(&self) -> usize {
        self.slab.capacity()
    }

    fn get(&self, (slot, stream): (usize, u32)) -> Option<&Request> {
        let request = self.slab.get(slot);
        request.filter(|request| request.stream == stream)
    }

    /// Whether a slot's request is this stream's.
    pub(super) fn is_there(&self, id: (usize, u32)) -> bool {
        self.get(id).is_some()
    }

    /// A new lease id.
    pub(super) fn mint(&mut self) -> LeaseId {
        self.ids.mint()
    }

    /// A request came. Returns its slot.
    pub(super) fn open(&mut self, cx: &Context, stream: u32, pool: Option<usize>) -> usize {
        self.slab.insert(Request {
            stream,
            number: 0,
            pool,
            phase: Phase::Idle,
            session: None,
            scope: None,
            epoch: 0,
            renewed_ms: cx.now_ms,
            acquire_sent: false,
            lost: false,
            probe: Probe::No,
            bucket: None,
            came_us: cx.now_us,
        })
    }

    /// Keeps what the headers said; `share` is what its bucket was compared with.
    pub(super) fn classified(&mut self, cx: &Context, slot: usize, class: Class, share: u16) {
        let number = self.decisions.open(cx.now_ms, class.bucket, share);
        if let Some(request) = self.slab.get_mut(slot) {
            request.number = number;
            request.bucket = class.bucket;
            request.session = class.session;
            request.scope = class.scope;
        }
    }

    /// Keeps a request that fits no pool.
    pub(super) fn unclassified(&mut self, cx: &Context, slot: usize) {
        let number = self.decisions.open(cx.now_ms, None, 0);
        if let Some(request) = self.slab.get_mut(slot) {
            request.number = number;
        }
    }

    /// Forgets a request to which nothing can happen any more.
    pub(super) fn close(&mut self, slot: usize) {
        self.slab.try_remove(slot);
    }

    /// The acquire that asks the ledger for a request's account.
    pub(super) fn acquire(
        &self,
        pool: usize,
        slot: usize,
        lease: LeaseId,
        kind: AcquireKind,
    ) -> AcquireCommand {
        let request = self.slab.get(slot);
        AcquireCommand {
            pool,
            slot,
            lease,
            kind,
            session: request.and_then(|request| request.session),
            scope: request.and_then(|request| request.scope.as_deref().copied()),
        }
    }

    /// The `x-request-id` of the request that arrived last.
    pub(super) fn identify(&mut self, id: &[u8]) {
        self.decisions.identify(id);
    }

    /// Answers a question about a request from the decision log; see [`DecisionLog::answer`].
    pub(super) fn recall(&self, cx: &Context, now_ms: u64, question: &[u8]) -> Option<String> {
        self.decisions.answer(now_ms, question, &cx.config)
    }

    // ---- steps ----

    /// Takes one step of a request. What it asks of other parts is left in the context's tasks.
    pub(super) fn step(&mut self, cx: &mut Context, slot: usize, event: Event) -> Option<Verdict> {
        let request = self.slab.get_mut(slot)?;
        let (phase, effects) = request.phase.step(event, &self.policy);
        request.phase = phase;
        let (pool, number) = (request.pool.unwrap_or(NO_POOL), request.number);
        let acquire_sent = request.acquire_sent;
        let mut verdict = None;
        for effect in effects {
            match effect {
                Effect::Forward { path, holds } => {
                    let reason = phase.reason();
                    cx.count_in(pool, forwarded(path, reason));
                    verdict = Some(Verdict::Forward {
                        path,
                        reason,
                        pool,
                        holds,
                    });
                }
                Effect::RejectSaturated { retry_after_ms } => {
                    cx.count_in(pool, Counter::Rejected(Reason::Saturated));
                    verdict = Some(Verdict::Saturated {
                        pool,
                        retry_after_ms,
                    });
                }
                Effect::RejectUnavailable => {
                    let reason = phase.reason().unwrap_or(Reason::Refused);
                    cx.count_in(pool, Counter::Rejected(reason));
                    verdict = Some(Verdict::Unavailable { pool, reason });
                }
                Effect::ChooseLocally => {
                    let event = self.choose_locally(cx, pool);
                    // Ahead of the lease that is recorded: the shadow must not see its own request.
                    if phase.reason() == Some(Reason::Shadow) {
                        let account = event.account_chosen_locally();
                        cx.tasks.push_back(Task::Shadow {
                            slot,
                            pool,
                            account,
                        });
                    }
                    return self.step(cx, slot, event);
                }
                Effect::CountUp { account } => cx.change_table(pool, |table| table.up(account)),
                Effect::CountDown { account } => cx.change_table(pool, |table| table.down(account)),
                Effect::Record { lease, account } => {
                    if let Some(request) = self.slab.get_mut(slot) {
                        request.renewed_ms = cx.now_ms;
                    }
                    cx.tasks.push_back(Task::Record {
                        slot,
                        pool,
                        lease,
                        account,
                    });
                }
                Effect::Cool {
                    account,
                    cooldown_ms,
                } => self.cool(cx, slot, pool, account, cooldown_ms),
                Effect::Release { lease, in_doubt } if acquire_sent => {
                    cx.tasks.push_back(Task::Release {
                        pool,
                        lease,
                        in_doubt,
                    });
                }
                // Redis never heard of it.
                Effect::Release { .. } => {}
            }
        }
        if phase == Phase::Done {
            self.close(slot);
        }
        if let Some(verdict) = verdict {
            self.decisions.close(cx.now_ms, number, verdict);
        }
        verdict
    }

    /// Steps a request that waits for its verdict, and keeps the verdict until it may be handed out.
    pub(super) fn settle(&mut self, cx: &mut Context, slot: usize, event: Event) {
        let Some(request) = self.slab.get(slot) else {
            return;
        };
        let (stream, pool) = (request.stream, request.pool.unwrap_or(NO_POOL));
        let waited_us = cx.now_us.saturating_sub(request.came_us);
        if let Some(verdict) = self.step(cx, slot, event) {
            if cx.output.waited_us.len() < MOST_WAITS {
                cx.output.waited_us.push((pool, waited_us));
            }
            let log = self.logged(cx, slot, Some(waited_us));
            let answer = Answer {
                stream,
                verdict,
                log,
            };
            self.answers.push_back((slot, answer));
        }
    }

    /// Whether verdicts wait to be handed out.
    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// A round of the event loop is over: more verdicts may be handed out.
    pub(super) fn refill(&mut self) {
        self.may_settle = SETTLED_PER_ROUND;
    }

    /// The next verdict to be handed out, if one may be.
    pub(super) fn next_answer(&mut self) -> Option<Answer> {
        let may_settle = self.may_settle.checked_sub(1)?;
        loop {
            let (slot, answer) = self.answers.pop_front()?;
            // Its client may have left meanwhile.
            if self.is_there((slot, answer.stream)) {
                self.may_settle = may_settle;
                return Some(answer);
            }
        }
    }

    /// What the access log shows of a request; `None` without `access_log`.
    pub(super) fn logged(
        &self,
        cx: &Context,
        slot: usize,
        acquire_us: Option<u64>,
    ) -> Option<Logged> {
        let request = self.slab.get(slot).filter(|_| cx.config.access_log)?;
        Some(Logged {
            bucket: request.bucket,
            acquire_us,
        })
    }

    fn choose_locally(&mut self, cx: &mut Context, pool: usize) -> Event {
        let share = match cx.config.traditional {
            Traditional::Local { share } => share,
            Traditional::Passthrough => 1,
        };
        let (now_ms, score) = (cx.now_ms, cx.config.score);
        let of_pool = cx.config.pools.get(pool).zip(cx.pools.get(pool));
        let account = of_pool.and_then(|(pool, view)| {
            let behind = |account| view.windows.is_behind(now_ms, account);
            let random = &mut cx.random;
            view.table
                .choose(now_ms, pool, score, share, random, behind)
        });
        match account {
            Some(account) => Event::ChosenLocally {
                lease: self.ids.mint(),
                account,
            },
            None => Event::FullLocally,
        }
    }

    // ---- acquires ----

    /// Redis may know of the lease from now on.
    pub(super) fn mark_sent(&mut self, slot: usize, lease: LeaseId) {
        if let Some(request) = self.slab.get_mut(slot)
            && (request.phase == Phase::Acquiring { lease } || holds(request, lease))
        {
            request.acquire_sent = true;
        }
    }

    /// Whether a request waits for this very lease, and if so, whether Redis was told of it.
    pub(super) fn awaits(&self, slot: usize, lease: LeaseId) -> Option<bool> {
        let request = self.slab.get(slot)?;
        (request.phase == Phase::Acquiring { lease }).then_some(request.acquire_sent)
    }

    /// Whether an acquire's request still is where it was when it was sent.
    pub(super) fn wants(&self, acquire: &AcquireCommand) -> bool {
        match acquire.kind {
            AcquireKind::Take => self.awaits(acquire.slot, acquire.lease).is_some(),
            AcquireKind::Dry | AcquireKind::DryBeside(_) => true,
            AcquireKind::Record(account) => self.slab.get(acquire.slot).is_some_and(|request| {
                request.phase
                    == Phase::Holding {
                        lease: acquire.lease,
                        account,
                        path: Path::Local,
                    }
            }),
        }
    }

    /// The ledger answered an acquire that takes or records a lease. It was asked at `sent_ms`.
    pub(super) fn on_acquired(
        &mut self,
        cx: &mut Context,
        acquire: &AcquireCommand,
        answer: Acquired,
        epoch: u64,
        sent_ms: u64,
    ) -> Known {
        let (pool, slot) = (acquire.pool, acquire.slot);
        let wanted = self.wants(acquire);
        if acquire.kind == AcquireKind::Take && !wanted {
            if matches!(answer, Acquired::Granted { .. }) {
                // Its release is on the way since the request left.
                cx.count_in(pool, Counter::LateGrant);
            }
            return Known::Late;
        }
        match answer {
            Acquired::Granted { probes, .. } if wanted => {
                if let Some(request) = self.slab.get_mut(slot) {
                    request.epoch = epoch;
                    request.renewed_ms = sent_ms;
                }
                if probes {
                    cx.count_in(pool, Counter::Probe);
                    self.may_probe(cx, slot);
                }
            }
            Acquired::NoAccount => cx.counters.add(Counter::RedisError(Fault::NoAccount)),
            Acquired::Granted { .. } | Acquired::Saturated { .. } => {}
        }
        if acquire.kind != AcquireKind::Take {
            return Known::Yes;
        }
        let event = outcome(cx, pool, answer);
        self.settle(cx, slot, event);
        match event {
            Event::Failed {
                reason: Reason::UnknownAccount,
                ..
            } => Known::No,
            _ => Known::Yes,
        }
    }

    /// The ledger says that a request probes, or may have said so.
    pub(super) fn may_probe(&mut self, cx: &mut Context, slot: usize) {
        let probe = self.slab.get(slot).map(|request| request.probe);
        let early = matches!(probe, Some(Probe::Early | Probe::Passed));
        let probe = if early { Probe::Passed } else { Probe::Awaits };
        self.set_probe(cx, slot, probe);
    }

    // ---- responses ----

    /// Whether a request wants to know more of a response with this status. The usual one it only counts.
    pub(super) fn wants_response(
        &mut self,
        cx: &mut Context,
        id: (usize, u32),
        status: u16,
    ) -> bool {
        let Some((request, pool)) = self.get(id).and_then(|one| Some((one, one.pool?))) else {
            return false;
        };
        // One that was chosen here may probe before the ledger has said so.
        let probes = request.probe == Probe::Awaits || request.acquire_sent && request.epoch == 0;
        let Some((_, account)) = request.phase.holds() else {
            return false;
        };
        let pushback = cx.config.cooldown.statuses.contains(&status);
        let failed = status >= 500 && cx.config.failing.percent > 0;
        if pushback || failed || probes {
            return true;
        }
        answered(cx, pool, account);
        false
    }

    /// Does what a response to a request with an account brings about: counts a failure, which may put the account behind the
    /// others; cools the account on pushback; notes how a probe ended. A status may be a failure and pushback at once.
    /// `now_unix_s` is the wall clock; the headers are read only for pushback.
    pub(super) fn on_response(
        &mut self,
        cx: &mut Context,
        id: (usize, u32),
        (source, status): (Source, u16),
        headers: Headers,
        now_unix_s: u64,
    ) {
        let Some((request, pool)) = self.get(id).and_then(|one| Some((one, one.pool?))) else {
            return;
        };
        let (slot, probe) = (id.0, request.probe);
        let Some((_, account)) = request.phase.holds().filter(|_| source != Source::Envoy) else {
            return;
        };
        if status >= 500 {
            let settings = cx.config.failing;
            let view = cx.pools.get_mut(pool);
            if view.is_some_and(|view| view.windows.failed(cx.now_ms, account, settings)) {
                cx.count_in(pool, Counter::Behind);
                self.report(cx, slot, account, AccountReport::Behind(settings.behind_ms));
            }
        } else {
            answered(cx, pool, account);
        }
        if source == Source::NoUpstream {
            return;
        }
        if let Some(rest) = cooldown::rest(&cx.config.cooldown, status, headers, now_unix_s) {
            cx.counters
                .add_in(pool, Counter::CooldownMalformed, rest.malformed);
            let cooldown_ms = rest.ms;
            self.step(cx, slot, Event::Pushback { cooldown_ms });
        } else if status < 500 {
            let passed = matches!(probe, Probe::Awaits | Probe::Passed);
            let probe = if passed { Probe::Passed } else { Probe::Early };
            return self.set_probe(cx, slot, probe);
        }
        self.set_probe(cx, slot, Probe::No);
    }

    /// Cools an account after pushback: for this worker's own choice, unless it is for a scope alone, and in the ledger.
    fn cool(&self, cx: &mut Context, slot: usize, pool: usize, account: u32, cooldown_ms: u64) {
        cx.count_in(pool, Counter::Cooldown);
        let request = self.slab.get(slot);
        let scope = request.and_then(|request| request.scope.as_deref().copied());
        if let Some(view) = cx.pools.get_mut(pool)
            && scope.is_none()
        {
            let until_ms = cx.now_ms.saturating_add(cooldown_ms);
            view.table.cool(account, until_ms);
        }
        let report = if scope.is_none() && cx.config.cooldown.probe {
            AccountReport::CoolThenProbe(cooldown_ms)
        } else {
            AccountReport::Cool(cooldown_ms, scope)
        };
        self.report(cx, slot, account, report);
    }

    /// Notes how far a request's probe is. One that has passed is reported now if the pipe is ready, and with each of its renewals
    /// until the ledger has replied.
    #[inline(never)]
    fn set_probe(&mut self, cx: &mut Context, slot: usize, probe: Probe) {
        if let Some(request) = self.slab.get_mut(slot) {
            request.probe = probe;
            if let Some((lease, account)) = request.phase.holds().filter(|_| probe == Probe::Passed)
            {
                self.report(cx, slot, account, AccountReport::Passed(lease));
            }
        }
    }

    /// Tells the ledger what a response says of its account; if the pipe is not ready, nothing is sent, now or later.
    #[inline(never)]
    fn report(&self, cx: &mut Context, slot: usize, account: u32, report: AccountReport) {
        let pool = self.slab.get(slot).and_then(|request| request.pool);
        if let (Some(pool), true) = (pool, cx.is_ready) {
            cx.commands.push_back(Command::Report {
                slot,
                pool,
                account,
                report,
            });
        }
    }

    /// The ledger heard a report; `ended`: how many probes that ended.
    pub(super) fn on_reported(
        &mut self,
        cx: &mut Context,
        (slot, pool): (usize, usize),
        report: AccountReport,
        ended: u64,
    ) {
        if let AccountReport::Passed(lease) = report {
            cx.counters.add_in(pool, Counter::ProbePassed, ended.min(1));
            let request = self.slab.get_mut(slot);
            if let Some(request) = request.filter(|request| holds(request, lease)) {
                request.probe = Probe::No;
            }
        }
    }

    // ---- renewals ----

    /// The leases in these slots whose renewal is due, by pool. `young_ms`: how old a lease must be for that; `ready_ms`: when
    /// the pipe last became ready.
    pub(super) fn due_for_renewal(
        &mut self,
        cx: &mut Context,
        slots: Range<usize>,
        young_ms: u64,
        ready_ms: u64,
    ) -> Vec<Vec<HeldLease>> {
        let mut batches = vec![Vec::new(); cx.config.pools.len()];
        for slot in slots {
            let Some(request) = self.slab.get(slot) else {
                continue;
            };
            let Some((lease, account)) = request.phase.holds() else {
                continue;
            };
            let age_ms = cx.now_ms.saturating_sub(request.renewed_ms);
            let due = request.renewed_ms < ready_ms || age_ms >= young_ms;
            let batch = request.pool.and_then(|pool| batches.get_mut(pool));
            if let (Some(batch), true) = (batch, due) {
                let epoch = request.epoch;
                batch.push(HeldLease {
                    slot,
                    lease,
                    account,
                    epoch,
                });
            }
            if request.probe == Probe::Passed {
                self.set_probe(cx, slot, Probe::Passed);
            }
        }
        batches
    }

    /// Whether a lease is still held by its request.
    pub(super) fn still_holds(&self, held: &HeldLease) -> bool {
        let request = self.slab.get(held.slot);
        request.is_some_and(|request| holds(request, held.lease))
    }

    /// The ledger answered a renewal that was sent at `sent_ms`. Returns whether the lease was found lost for the first time.
    pub(super) fn on_renewed(
        &mut self,
        cx: &mut Context,
        pool: usize,
        held: &HeldLease,
        answer: Renewed,
        (epoch, sent_ms): (u64, u64),
    ) -> bool {
        let request = self.slab.get_mut(held.slot);
        let Some(request) = request.filter(|request| holds(request, held.lease)) else {
            return false;
        };
        match answer {
            Renewed::Renewed => cx.counters.add_in(pool, Counter::Renewed, 1),
            Renewed::Readopted => cx.counters.add_in(pool, Counter::Readopted, 1),
            Renewed::Lost => {
                // Asked for again at every renewal, should there be room; said once.
                let news = !std::mem::replace(&mut request.lost, true);
                cx.counters.add_in(pool, Counter::Lost, news.into());
                return news;
            }
        }
        request.renewed_ms = sent_ms;
        request.epoch = epoch;
        request.lost = false;
        false
    }

    // ---- ends ----

    /// The stream is over, however it ended. Asking twice, or for a request that held nothing, does nothing.
    pub(super) fn on_end(&mut self, cx: &mut Context, id: (usize, u32)) {
        if self.is_there(id) {
            self.step(cx, id.0, Event::Ended);
        }
    }

    /// Which way a request was sent on, and its account by pool and index; `None` when it was not sent on.
    pub(super) fn path(&self, id: (usize, u32)) -> Option<(Path, Option<(usize, u32)>)> {
        let request = self.get(id)?;
        let holds = request.phase.holds();
        let account = request.pool.zip(holds.map(|(_, account)| account));
        Some((request.phase.path()?, account))
    }

    /// Whether the request still waits for its verdict.
    pub(super) fn is_acquiring(&self, id: (usize, u32)) -> bool {
        let request = self.get(id);
        request.is_some_and(|request| matches!(request.phase, Phase::Acquiring { .. }))
    }
}

fn holds(request: &Request, lease: LeaseId) -> bool {
    let held = request.phase.holds();
    held.is_some_and(|(held, _)| held == lease)
}

/// Counts an answer that is no failure.
fn answered(cx: &mut Context, pool: usize, account: u32) {
    if let Some(view) = cx.pools.get_mut(pool) {
        view.windows.answered(account);
    }
}

fn forwarded(path: Path, reason: Option<Reason>) -> Counter {
    match (reason, path) {
        (Some(reason), _) => Counter::Traditional(reason),
        (None, Path::Local) => Counter::Local,
        (None, Path::Atomic | Path::Traditional) => Counter::Atomic,
    }
}

/// The event that an acquire's reply is for the request that waits for it.
fn outcome(cx: &Context, pool: usize, answer: Acquired) -> Event {
    match answer {
        Acquired::Granted { account, .. } => match cx.account_index(pool, account) {
            Some(account) => Event::Granted { account },
            None => Event::Failed {
                reason: Reason::UnknownAccount,
                in_doubt: true,
            },
        },
        Acquired::Saturated { retry_after_ms } => Event::Saturated { retry_after_ms },
        Acquired::NoAccount => Event::Failed {
            reason: Reason::Refused,
            in_doubt: false,
        },
    }
}
