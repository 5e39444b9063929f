//! The requests of a worker: each one's phase, its verdict, what its response says, and the lease it holds.

use super::answers::Answers;
use super::command::{AcquireCommand, AcquireKind, Command, HeldLease};
use super::context::{Context, Task};
use super::counters::Counter;
use super::decisions::{DecisionLog, Sought, Waits};
use super::notice::Said;
use super::output::Answer;
use super::request::{Probe, Request, RequestId};
use crate::config::{TenantLimits, Traditional};
use crate::ledger::commands::{Acquired, Place, Renewed};
use crate::ledger::fault::Fault;
use crate::request::admission::{Effect, Event, Path, Phase, Policy, Reason};
use crate::request::classify::Class;
use crate::request::lease::{LeaseId, LeaseIds};
use crate::request::verdict::{Logged, Verdict};
use slab::Slab;
use std::ops::Range;

/// How many waits are kept until the host takes them: far more than a worker can have in that time.
const MOST_WAITS: usize = 20_000;

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
    pub(super) slab: Slab<Request>,
    pub(super) decisions: DecisionLog,
    answers: Answers,
    /// The pools of which it was said that Envoy does not try again.
    pub(super) not_retried: Said<usize>,
}

impl Requests {
    /// `worker` must be random: it keeps the lease ids of two workers apart.
    pub(super) fn new(policy: Policy, worker: u64) -> Self {
        Self {
            policy,
            ids: LeaseIds::new(worker),
            slab: Slab::new(),
            decisions: DecisionLog::default(),
            answers: Answers::default(),
            not_retried: Said::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// How many slots there are, taken or free.
    pub(super) fn slots(&self) -> usize {
        self.slab.capacity()
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Request> {
        let request = self.slab.get(id.slot);
        request.filter(|request| request.stream == id.stream)
    }

    /// Whether a slot's request is this stream's.
    pub(super) fn is_there(&self, id: RequestId) -> bool {
        self.get(id).is_some()
    }

    /// A new lease id that is nobody's.
    pub(super) fn mint(&mut self) -> LeaseId {
        self.ids.mint(None)
    }

    /// A new lease id for a request, which tells its tenant.
    pub(super) fn mint_for(&mut self, slot: usize) -> LeaseId {
        let request = self.slab.get(slot);
        self.ids.mint(request.and_then(Request::tenant))
    }

    /// A request came.
    pub(super) fn open(&mut self, cx: &Context, stream: u32, pool: Option<usize>) -> RequestId {
        let slot = self.slab.insert(Request {
            stream,
            number: 0,
            pool,
            phase: Phase::Idle,
            session: None,
            tenant: None,
            scope: None,
            epoch: 0,
            renewed_ms: cx.now_ms,
            acquire_sent: false,
            lost: false,
            probe: Probe::No,
            bucket: None,
            came_us: cx.now_us,
            tries: None,
        });
        RequestId { slot, stream }
    }

    /// Keeps what the headers said; `share` is what its bucket was compared with.
    pub(super) fn classified(&mut self, cx: &Context, slot: usize, class: Class, share: u16) {
        let number = self.decisions.open(cx.now_ms, class.bucket, share);
        if let Some(request) = self.slab.get_mut(slot) {
            request.number = number;
            request.bucket = class.bucket;
            request.session = class.session;
            request.scope = class.scope;
            request.tenant = class.tenant;
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

    /// What a request's tenant may take.
    pub(super) fn limits(&self, slot: usize) -> TenantLimits {
        let request = self.slab.get(slot);
        request.map_or(TenantLimits::NONE, Request::limits)
    }

    /// The acquire that asks the ledger for a request's account.
    pub(super) fn acquire(
        &self,
        cx: &Context,
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
            scope: request.and_then(Request::scope),
            limits: self.limits(slot),
            place: request.map_or(Place::Last, |request| request.place(cx.now_us)),
            again: request.is_some_and(Request::is_later_try),
        }
    }

    /// The `x-request-id` of the request that arrived last.
    pub(super) fn identify(&mut self, id: &[u8]) {
        self.decisions.identify(id);
    }

    /// Answers a question about a request from the decision log; see [`DecisionLog::answer`].
    pub(super) fn recall(&self, cx: &Context, now_ms: u64, question: &[u8]) -> Option<String> {
        let waiting = |sought: Sought| {
            let mut all = self.slab.iter();
            all.find_map(|(_, request)| match request.phase {
                Phase::Waiting { lease } => {
                    let (number, pool) = (request.number, request.pool);
                    let waits = Waits {
                        number,
                        pool,
                        lease,
                    };
                    sought.is(&waits).then_some(waits)
                }
                _ => None,
            })
        };
        self.decisions
            .answer(now_ms, question, &cx.config, &waiting)
    }

    // ---- steps ----

    /// Takes one step of a request. What it asks of other parts is left in the context's tasks.
    pub(super) fn step(&mut self, cx: &mut Context, slot: usize, event: Event) -> Option<Verdict> {
        let request = self.slab.get_mut(slot)?;
        let before = request.phase;
        // Counted when it was sent on for the first time; what became of its tries is counted as such.
        let is_later = request.is_later_try() || matches!(event, Event::TriesNoMore(_));
        let (phase, effects) = if is_later {
            before.step(event, &self.policy.of_later_try())
        } else {
            before.step(event, &self.policy)
        };
        request.phase = phase;
        let waited = matches!(before, Phase::Waiting { .. });
        if waited != matches!(phase, Phase::Waiting { .. }) {
            let (pool, came_us) = (request.pool, request.came_us);
            Self::note_waiting(cx, pool, event, (came_us, is_later));
        }
        let request = self.slab.get(slot)?;
        let (pool, number) = (request.pool, request.number);
        let acquire_sent = request.acquire_sent;
        let mut verdict = None;
        for effect in effects {
            match (effect, pool) {
                (Effect::Forward { path, holds }, _) => {
                    let reason = phase.reason();
                    if !is_later {
                        cx.count_in(pool, forwarded(path, reason));
                        if let (Path::Local, Some(why)) = (path, before.reason()) {
                            cx.count_in(pool, Counter::LocalFor(why));
                        }
                    }
                    verdict = Some(Verdict::Forward {
                        path,
                        reason,
                        pool,
                        holds,
                    });
                }
                (Effect::RejectSaturated { retry_after_ms }, _) => {
                    let reason = phase.reason().unwrap_or(Reason::Saturated);
                    cx.count_in(pool, rejected(reason, is_later));
                    verdict = Some(Verdict::Saturated {
                        pool,
                        reason,
                        retry_after_ms,
                    });
                }
                (Effect::RejectUnavailable, _) => {
                    let reason = phase.reason().unwrap_or(Reason::Refused);
                    cx.count_in(pool, rejected(reason, is_later));
                    verdict = Some(Verdict::Unavailable { pool, reason });
                }
                (Effect::ChooseLocally, _) => {
                    let event = self.choose_locally(cx, slot, pool);
                    // Ahead of the lease that is recorded: the shadow must not see its own request.
                    if let (Some(pool), Some(Reason::Shadow)) = (pool, phase.reason()) {
                        let account = event.account_chosen_locally();
                        cx.tasks.push_back(Task::Shadow {
                            slot,
                            pool,
                            account,
                        });
                    }
                    return self.step(cx, slot, event);
                }
                // Without a pool there is no account either.
                (
                    Effect::CountUp { .. }
                    | Effect::CountDown { .. }
                    | Effect::Record { .. }
                    | Effect::Cool { .. }
                    | Effect::Release { .. },
                    None,
                ) => {}
                (Effect::CountUp { account }, Some(pool)) => {
                    cx.change_table(pool, |table| table.up(account));
                }
                (Effect::CountDown { account }, Some(pool)) => {
                    cx.change_table(pool, |table| table.down(account));
                }
                (Effect::Record { lease, account }, Some(pool)) => {
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
                (
                    Effect::Cool {
                        account,
                        cooldown_ms,
                    },
                    Some(pool),
                ) => self.cool(cx, slot, pool, account, cooldown_ms),
                // Else Redis never heard of it.
                (Effect::Release { lease, in_doubt }, Some(pool)) if acquire_sent => {
                    cx.tasks.push_back(Task::Release {
                        pool,
                        lease,
                        in_doubt,
                    });
                }
                (Effect::Release { .. }, Some(_)) => {}
            }
        }
        if phase == Phase::Done {
            self.close(slot);
        }
        if is_later {
            verdict = verdict.map(Verdict::of_later_try);
        }
        if let Some(verdict) = verdict {
            self.decisions.close(cx.now_ms, number, verdict);
        }
        verdict
    }

    /// A request begins to wait in the queue, or this event ends its wait.
    #[inline(never)]
    fn note_waiting(
        cx: &mut Context,
        pool: Option<usize>,
        event: Event,
        (came_us, is_later): (u64, bool),
    ) {
        let ended = match event {
            Event::Waits => {
                cx.counters.wait(pool, 1);
                return;
            }
            Event::Granted { .. } => Counter::QueueGranted,
            Event::WaitedTooLong { .. } => Counter::QueueTimedOut,
            Event::Ended => Counter::QueueLeft,
            _ => Counter::QueueFailed,
        };
        cx.counters.wait(pool, -1);
        cx.count_in(pool, ended);
        if ended == Counter::QueueGranted && !is_later && cx.output.queued_us.len() < MOST_WAITS {
            let waited_us = cx.now_us.saturating_sub(came_us);
            cx.output.queued_us.push((pool, waited_us));
        }
    }

    /// Steps a request that waits for its verdict, and keeps the verdict until it may be handed out.
    pub(super) fn settle(&mut self, cx: &mut Context, slot: usize, event: Event) {
        let Some(request) = self.slab.get(slot) else {
            return;
        };
        let (stream, pool) = (request.stream, request.pool);
        // The time of a later try is not that of an acquire.
        let queued = matches!(request.phase, Phase::Waiting { .. }) || request.tries.is_some();
        let waited_us = cx.now_us.saturating_sub(request.came_us);
        if let Some(verdict) = self.step(cx, slot, event) {
            if !queued && cx.output.waited_us.len() < MOST_WAITS {
                cx.output.waited_us.push((pool, waited_us));
            }
            let log = self.logged(cx, slot, Some(waited_us));
            let id = RequestId { slot, stream };
            self.answers.push(id, verdict, log);
        }
    }

    /// Keeps a verdict for a request until it may be handed out.
    pub(super) fn answer(&mut self, id: RequestId, verdict: Verdict) {
        self.answers.push(id, verdict, None);
    }

    /// Whether verdicts wait to be handed out.
    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// A round of the event loop is over: more verdicts may be handed out.
    pub(super) fn refill(&mut self) {
        self.answers.refill();
    }

    /// The next verdict to be handed out, if one may be.
    pub(super) fn next_answer(&mut self) -> Option<Answer> {
        let slab = &mut self.slab;
        self.answers.next(|id| {
            let request = slab.get_mut(id.slot)?;
            if request.stream != id.stream {
                return None;
            }
            match &mut request.tries {
                None => Some(None),
                Some(tries) => tries.hand_out(request.phase).map(Some),
            }
        })
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

    fn choose_locally(&mut self, cx: &mut Context, slot: usize, pool: Option<usize>) -> Event {
        let tenant = self.slab.get(slot).and_then(Request::tenant).copied();
        let share = match cx.config.traditional {
            Traditional::Local { share } => share,
            Traditional::Passthrough => 1,
        };
        let (now_ms, score) = (cx.now_ms, cx.config.score);
        let of_pool = pool.and_then(|pool| cx.config.pools.get(pool).zip(cx.pools.get(pool)));
        let account = of_pool.and_then(|(pool, view)| {
            let behind = |account| view.windows.is_behind(now_ms, account);
            let random = &mut cx.random;
            view.table
                .choose(now_ms, pool, score, share, random, behind)
        });
        match account {
            Some(account) => Event::ChosenLocally {
                lease: self.ids.mint(tenant.as_ref()),
                account,
            },
            None => Event::FullLocally,
        }
    }

    // ---- acquires ----

    /// Redis may know of the lease from now on.
    pub(super) fn mark_sent(&mut self, slot: usize, lease: LeaseId) {
        if let Some(request) = self.slab.get_mut(slot)
            && (request.phase.awaits() == Some(lease) || request.holds(lease))
        {
            request.acquire_sent = true;
        }
    }

    /// Whether the first answer about this very lease is still to come, and if so, whether Redis was told of it.
    pub(super) fn acquires(&self, slot: usize, lease: LeaseId) -> Option<bool> {
        let request = self.slab.get(slot)?;
        (request.phase == Phase::Acquiring { lease }).then_some(request.acquire_sent)
    }

    /// Whether a request waits in the queue for this very lease.
    pub(super) fn is_waiting(&self, slot: usize, lease: LeaseId) -> bool {
        let request = self.slab.get(slot);
        request.is_some_and(|request| request.phase == Phase::Waiting { lease })
    }

    /// The pool and the lease of a request that has not been given a slot so far.
    pub(super) fn awaited(&self, slot: usize) -> Option<(usize, LeaseId)> {
        let request = self.slab.get(slot)?;
        request.pool.zip(request.phase.awaits())
    }

    /// Whether an acquire's request still is where it was when it was sent.
    pub(super) fn wants(&self, acquire: &AcquireCommand) -> bool {
        match acquire.kind {
            AcquireKind::Take => {
                let request = self.slab.get(acquire.slot);
                request.is_some_and(|request| request.phase.awaits() == Some(acquire.lease))
            }
            AcquireKind::Bind => {
                let request = self.slab.get(acquire.slot);
                request.is_some_and(|request| request.holds(acquire.lease))
            }
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
            let heard = self.put_right(cx, acquire, answer);
            if matches!(answer, Acquired::Granted { .. }) && !heard {
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
            Acquired::QueueFull { .. } => cx.count_in(pool, Counter::QueueRefused),
            Acquired::Granted { .. }
            | Acquired::Saturated { .. }
            | Acquired::Waits { .. }
            | Acquired::TenantFull { .. } => {}
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

    /// The ledger answered an acquire whose request may hold a slot already. If it has the lease elsewhere, it lost its data
    /// before that acquire came: a renewal tells it at once. Returns whether the request holds this lease.
    pub(super) fn put_right(
        &self,
        cx: &mut Context,
        acquire: &AcquireCommand,
        answer: Acquired,
    ) -> bool {
        let (pool, slot, lease) = (acquire.pool, acquire.slot, acquire.lease);
        let request = self.slab.get(slot).filter(|request| request.holds(lease));
        let Some((request, (_, account))) =
            request.and_then(|request| Some((request, request.phase.holds()?)))
        else {
            return false;
        };
        let is_right = matches!(answer, Acquired::Granted { account: said, .. }
            if cx.account_index(pool, said) == Some(account));
        if !is_right {
            let epoch = request.epoch;
            let held = HeldLease {
                slot,
                lease,
                account,
                epoch,
            };
            let leases = vec![held];
            cx.commands.push_back(Command::Renew { pool, leases });
        }
        true
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
        request.is_some_and(|request| request.holds(held.lease))
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
        let Some(request) = request.filter(|request| request.holds(held.lease)) else {
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
    pub(super) fn on_end(&mut self, cx: &mut Context, id: RequestId) {
        if self.is_there(id) {
            self.step(cx, id.slot, Event::Ended);
        }
    }

    /// Which way a request was sent on, and its account by pool and index; `None` when it was not sent on.
    pub(super) fn path(&self, id: RequestId) -> Option<(Path, Option<(usize, u32)>)> {
        let request = self.get(id)?;
        let holds = request.phase.holds();
        let account = request.pool.zip(holds.map(|(_, account)| account));
        Some((request.phase.path()?, account))
    }
}

fn rejected(reason: Reason, is_later: bool) -> Counter {
    if is_later {
        Counter::FailoverNoOther
    } else {
        Counter::Rejected(reason)
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
fn outcome(cx: &mut Context, pool: usize, answer: Acquired) -> Event {
    let refused = |reason, retry_after_ms| Event::Saturated {
        reason,
        retry_after_ms,
    };
    match answer {
        Acquired::Granted { account, .. } => match cx.find_account(pool, account) {
            Some(account) => Event::Granted { account },
            None => Event::Failed {
                reason: Reason::UnknownAccount,
                in_doubt: true,
            },
        },
        Acquired::Saturated { retry_after_ms } => refused(Reason::Saturated, retry_after_ms),
        Acquired::QueueFull { retry_after_ms } => refused(Reason::WaitingFull, retry_after_ms),
        Acquired::TenantFull { retry_after_ms } => refused(Reason::TenantLimit, retry_after_ms),
        Acquired::Waits { .. } if cx.config.saturated.queue().is_some() => Event::Waits,
        // Without a queue nothing would end its wait.
        Acquired::Waits { .. } => Event::Failed {
            reason: Reason::Refused,
            in_doubt: true,
        },
        Acquired::NoAccount => Event::Failed {
            reason: Reason::Refused,
            in_doubt: false,
        },
    }
}
