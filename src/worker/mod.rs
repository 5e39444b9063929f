//! One worker: its requests, its pipe to Redis, and everything that has a deadline.
//!
//! Pure like [`crate::request::admission`]: each `on_…` method is an event, `now_ms` is the host's monotonic clock, and what must
//! be done is left in [`Output`].

pub mod breaker;
mod command;
pub mod counters;
pub mod decisions;
pub mod notice;
pub mod output;

use crate::config::{Config, GrayMode, Pool, Traditional};
use crate::ledger::commands::{
    AccountReport, Acquire, Asked, LedgerCommands, Longest, Mode, Part, Step, Sync, SyncAccount,
};
use crate::ledger::fault::Fault;
use crate::ledger::reply::{Acquired, Looked, Override, Reconciled, Renewed, Synced};
use crate::ledger::resp::{self, Value, Values};
use crate::ledger::source::{Script, ScriptRef, Shas};
use crate::ledger::{fault, reply, source};
use crate::pipe::down::{Down, PipeOrder};
use crate::pipe::greeting::{self, Refusal};
use crate::pool::{self, AccountGauges, AccountTable, RoutedAccounts};
use crate::printable;
use crate::request::admission::{Effect, Event, Path, Phase, Policy, Reason};
use crate::request::gray::{self, Bucketer, Choice};
use crate::request::headers::Headers;
use crate::request::lease::{LeaseId, LeaseIds};
use crate::request::verdict::{Logged, Verdict};
use crate::units::millionths;
use crate::upstream::cooldown;
use crate::upstream::failing::{Source, Windows};
use breaker::Breaker;
use command::{AcquireCommand, AcquireKind, Command, LostAcquire, PendingRelease, SyncStep};
use counters::{Counter, Counters};
use decisions::DecisionLog;
use notice::{Ignored, Notice, Said};
use output::{Answer, Gauges, Output};
use slab::Slab;
use std::collections::VecDeque;

/// Renewals are spread over this many steps of each interval.
const SWEEP_STEPS: u64 = 64;
/// After the pipe became ready, one round of steps is this quick, in ms: Redis may have lost what it knew.
const QUICK_STEP_MS: u64 = 10;
/// Leases in one renewal command.
const RENEW_BATCH: usize = 100;
/// First and longest wait before the pipe is opened again, in ms.
const BACKOFF_MS: (u64, u64) = (25, 1000);
/// A reason why the pipe is down is said again when it was not seen for this long, in ms. A server that turns us away may
/// be seen to do so or only to close the connection, by turns.
const SAID_MS: u64 = 10_000;
/// The same of what cannot be there in a pool: longer than from one recount to the next.
const GARBAGE_SAID_MS: u64 = 150_000;
/// A release in doubt is sent again after this long, in ms: the first may have overtaken the acquire.
const AGAIN_MS: u64 = 1000;
/// So many times in a row a pipe may close soon after it became ready and be opened again at once.
const SHORT_LIVED: u32 = 3;
/// Every pool's counts are proven once in this long, in ms.
const RECONCILE_MS: u64 = 60_000;
/// Steps of a pass are this far apart, in ms, and look at about this many entries.
const RECONCILE_STEP: (u64, u64) = (20, 500);
/// Another worker takes the passes over when the one that runs them was silent for this long, in ms; longer than it rests
/// between two passes.
const RECONCILE_SILENCE_MS: u64 = 90_000;
/// A release waits this long for an acquire to go with, in ms.
const LINGER_MS: u64 = 1;
/// A pipe is given up when no reply came for this long after its oldest command was found late, in ms.
const STUCK_MS: u64 = 50;
/// A recount has mended a pool when an acquire was answered as it should be this long after it, in ms.
const MENDED_MS: u64 = 1_000;
/// Leases in one release command.
const RELEASE_BATCH: usize = 100;
/// Leases in one acquire command: Redis does nothing else meanwhile.
const ACQUIRE_BATCH: usize = 32;
/// An answer to someone's question is kept for so long, in ms.
const ANSWER_MS: u64 = 10_000;
/// A pool that holds what cannot be there is recounted after this long, in ms, at first and at most: each time in a row that
/// it is not right afterwards, after twice as long.
const MEND_MS: (u64, u64) = (100, 60_000);
/// Accounts in one sync command: Redis does nothing else for 2 to 6 ms (docs/ledger.md#a-large-pool).
const SYNC_PART: usize = 500;
/// What is said of a reply whose number is none.
const EPOCH: &[u8] = b"accounts #epoch: not a whole number";
const REVISION: &[u8] = b"accounts #revision: not a whole number";
/// Drained accounts that are followed in a pool, and accounts whose use is known; of larger pools none.
const LOOK: (u64, u64) = (1000, 64);
/// Looks on their way at once: those of many pools must not stand before every acquire.
const LOOKS: usize = 8;
/// How many paused requests are told their verdict in one round of Envoy's event loop. Those that Envoy answers itself it
/// settles nested in one another: behind the shipped filters 300 overflow the VM's stack on Envoy 1.40.0, 400 on 1.36.4, and
/// other filters need stack too. With 8, 16, 64 or 256 it serves equally many requests/s.
pub const SETTLED_PER_ROUND: usize = 32;
/// How many acquires of a lost pipe fail, how many deadlines pass, and how many releases are sent again, at a time.
const PORTION: usize = 1024;
/// So many waits are kept until the host takes them: far more than a worker can have in that time.
const MOST_WAITS: usize = 20_000;
/// How often a command is sent again when Redis lacked the script or the pool.
const RETRIES: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PipeState {
    /// Never needed so far.
    Closed,
    /// To be opened at this time, in ms.
    Waiting { until_ms: u64 },
    /// Ordered from the host.
    Ordered,
    /// Open; the replies to AUTH … SCRIPT LOAD, and then to each pool's sync, are on their way.
    Opening,
    /// Serving.
    Ready,
}

/// What a request's answer means for an account that has cooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Nothing, as far as the ledger said.
    No,
    /// Its lease probes, or may do so: what the ledger said of that was lost.
    Awaits,
    /// It was answered well before the ledger said anything.
    Early,
    /// It was answered well, and the ledger has yet to hear it.
    Passed,
}

#[derive(Debug)]
struct Request {
    stream: u32,
    /// In `memory`.
    number: u32,
    pool: usize,
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

#[derive(Debug)]
struct PoolState {
    keys: LedgerCommands,
    counts: AccountTable,
    windows: Windows,
    digest: u64,
    /// A sync is on its way.
    syncing: bool,
    /// The ledger's epoch as last seen; 0: not yet.
    epoch: u64,
    /// What the last sync answered, so that it is said once.
    synced: Option<Synced>,
    /// What cannot be there, as far as it was said.
    garbage: Said<String>,
    /// It is to be recounted soon.
    suspect: bool,
    /// No sooner than then, in ms; and how long after that at least, should it not be right by then.
    mend_ms: (u64, u64),
    /// When an acquire was last answered as it should be, in ms.
    right_ms: u64,
    control: Control,
    /// Which account a request names, where a shadow is compared with that.
    names: Option<RoutedAccounts>,
}

impl PoolState {
    /// Whether the last recount out of turn helped.
    fn was_mended(&self) -> bool {
        let (due_ms, wait_ms) = self.mend_ms;
        let ended_ms = due_ms.saturating_sub(wait_ms);
        self.right_ms >= ended_ms.saturating_add(MENDED_MS)
    }

    /// The next recount out of turn comes no sooner, in ms.
    fn mend_due_ms(&self) -> u64 {
        if self.was_mended() { 0 } else { self.mend_ms.0 }
    }
}

/// The operator's overrides of a pool, as last seen; they stay in force while Redis is away.
#[derive(Debug, Default)]
struct Control {
    /// When it is looked at next, in ms; only after a request came by, and not while a look is on its way.
    look: Look,
    /// In basis points; `None`: as configured.
    percent: Option<u16>,
    /// Ids with a space between.
    drained: String,
    /// What the last look had to ignore, so that it is said once: the percentage, the drains.
    ignored: [Option<Ignored>; 2],
    /// The last question, answered or not ours to answer.
    question: Vec<u8>,
}

/// Whether a pool is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Look {
    /// No request came by.
    #[default]
    Never,
    /// At this time, in ms.
    Due(u64),
    /// The look is on its way.
    Asked,
}

/// One worker's state.
#[derive(Debug)]
pub struct Worker {
    config: Config,
    policy: Policy,
    gate: Bucketer,
    random: fastrand::Rng,
    /// What the ledger knows this worker by when it recounts.
    name: String,
    ids: LeaseIds,
    pools: Vec<PoolState>,
    requests: Slab<Request>,
    /// Deadlines of acquires, oldest first. Entries of requests that moved on are skipped.
    acquire_deadlines: VecDeque<(u64, usize, LeaseId)>,
    state: PipeState,
    /// Failed attempts to open the pipe since it last served.
    failures: u32,
    /// Why the pipe is down, as far as it was said: the reason, the gist of the server's words.
    said: Said<(Down, String)>,
    /// What the server last said against the greeting, or against this connection.
    refusal: Option<Refusal>,
    breaker: Breaker,
    /// How often in a row the pipe was closed soon after it became ready.
    short_lived: u32,
    /// When a tick first found that the oldest command had waited for too long, in ms; `None` after any reply.
    stuck_ms: Option<u64>,
    /// Sent, in order; the time each was sent, in ms.
    pending: VecDeque<(u64, Command)>,
    /// Leases of the acquires among them, beyond one for each.
    acquires_in_batches: usize,
    /// Acquires that wait for [`Worker::flush`], and for the pipe to be ready.
    queue: Vec<AcquireCommand>,
    /// Releases that wait for an acquire to go with.
    release_batch: Vec<PendingRelease>,
    /// No longer than until then, in ms.
    linger_ms: u64,
    retries: VecDeque<PendingRelease>,
    /// How many of them, from the front, are due in any order: they were put there while the pipe was away.
    unordered_retries: usize,
    /// Acquires that a lost pipe took along, until their requests are told.
    lost: VecDeque<LostAcquire>,
    /// Verdicts that were not handed out yet, oldest first.
    answers: VecDeque<(usize, Answer)>,
    /// How many may still be handed out in this round of the event loop.
    may_settle: usize,
    inbox: Vec<u8>,
    shas: Shas,
    sweep_due_ms: u64,
    sweep_step: u64,
    /// Slots of the slab when the round began.
    sweep_slots: usize,
    /// When the pipe last became ready, in ms.
    ready_ms: u64,
    /// When the next reconcile step is due, in ms; the pool it is for; whether one is on its way.
    reconcile: (u64, usize, bool),
    /// The pass that is under way was begun for what cannot be there; `None`: none is under way.
    mends: Option<bool>,
    /// The pass is out of turn; then whose turn it is afterwards, and when.
    out_of_turn: Option<(u64, usize)>,
    /// When the operator's overrides are looked at next, in ms, `u64::MAX` before the first request; how many looks are
    /// on their way.
    look: (u64, usize),
    decisions: DecisionLog,
    counters: Counters,
    /// As the host told it last.
    now_us: u64,
    output: Output,
}

impl Worker {
    /// `seed` must be random: it keeps the lease ids of two workers apart.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let worker = random.u64(..);
        let pools = config
            .pools
            .iter()
            .map(|pool| PoolState {
                keys: LedgerCommands::new(&config.redis.key_prefix, &pool.name),
                counts: AccountTable::new(pool, &config),
                windows: Windows::new(pool.accounts.len(), config.failing),
                digest: digest(pool, &config),
                syncing: false,
                epoch: 0,
                synced: None,
                garbage: Said::default(),
                suspect: false,
                mend_ms: (0, MEND_MS.0),
                right_ms: 0,
                control: Control::default(),
                names: (config.gray.mode == GrayMode::Shadow
                    && config.traditional == Traditional::Passthrough)
                    .then(|| RoutedAccounts::new(pool)),
            })
            .collect();
        Self {
            policy: Policy {
                saturated: config.saturated,
                failure: config.failure,
                traditional: config.traditional,
            },
            gate: Bucketer::new(&config.gray.salt),
            ids: LeaseIds::new(worker),
            // The number is explained in `reconcile.lua`; 2: it knows what cannot be there.
            name: format!("2.{worker:016x}"),
            random,
            pools,
            requests: Slab::new(),
            acquire_deadlines: VecDeque::new(),
            state: PipeState::Closed,
            failures: 0,
            said: Said::default(),
            refusal: None,
            breaker: Breaker::default(),
            short_lived: 0,
            stuck_ms: None,
            pending: VecDeque::new(),
            acquires_in_batches: 0,
            queue: Vec::new(),
            release_batch: Vec::new(),
            linger_ms: 0,
            retries: VecDeque::new(),
            unordered_retries: 0,
            lost: VecDeque::new(),
            answers: VecDeque::new(),
            may_settle: SETTLED_PER_ROUND,
            inbox: Vec::new(),
            shas: Shas([[b'0'; 40]; Script::ALL.len()]),
            sweep_due_ms: 0,
            sweep_step: 0,
            sweep_slots: 0,
            ready_ms: 0,
            reconcile: (0, 0, false),
            mends: None,
            out_of_turn: None,
            look: (u64::MAX, 0),
            decisions: DecisionLog::default(),
            counters: Counters::new(config.pools.len().min(config.metrics.max_pools)),
            now_us: 0,
            output: Output::default(),
            config,
        }
    }

    /// The configuration it runs on.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The share of a pool's sessions that is in, in basis points: by override, else as configured.
    #[must_use]
    pub fn basis_points(&self, pool: usize) -> u16 {
        let set = self.pools.get(pool).and_then(|state| state.control.percent);
        set.unwrap_or(self.config.gray.basis_points)
    }

    /// What is shown of a pool's accounts, and how often that was seen in the ledger.
    #[must_use]
    pub fn accounts(&self, pool: usize) -> (&[AccountGauges], u64) {
        let state = self.pools.get(pool);
        state.map_or((&[], 0), |state| state.counts.shown())
    }

    /// What goes up and down.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let ready = self.state == PipeState::Ready;
        let down = !ready && self.state != PipeState::Closed;
        Gauges([
            self.breaker.is_open().into(),
            ready.into(),
            down.into(),
            self.commands() as u64,
        ])
    }

    /// Those that wait for Redis' reply or for the pipe, an acquire as many as it has leases.
    fn commands(&self) -> usize {
        let sent = self.pending.len().saturating_add(self.acquires_in_batches);
        sent.saturating_add(self.queue.len())
    }

    /// The host's clock in µs, finer than that of the events: only for measuring.
    pub fn set_clock_us(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// What must be done now.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whether requests of this worker still acquire or hold a slot, or releases still wait.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
            && self.release_batch.is_empty()
            && self.retries.is_empty()
            && self
                .pending
                .iter()
                .all(|(_, command)| matches!(command, Command::Look { .. }))
    }

    /// When [`Worker::on_tick`] is wanted next, in ms.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        let acquire = self
            .acquire_deadlines
            .front()
            .map(|(deadline_ms, ..)| *deadline_ms);
        let head = self
            .pending
            .front()
            .map(|(sent_ms, _)| sent_ms.saturating_add(self.config.redis.command_timeout_ms));
        let head = match self.stuck_ms {
            Some(since_ms) => Some(since_ms.saturating_add(STUCK_MS)),
            None => head,
        };
        let open = match self.state {
            PipeState::Waiting { until_ms } => Some(until_ms),
            PipeState::Closed | PipeState::Ordered | PipeState::Opening | PipeState::Ready => None,
        };
        let ready = self.state == PipeState::Ready;
        let release = self
            .retries
            .front()
            .map(|release| match self.unordered_retries {
                0 => release.due_ms,
                _ => 0,
            })
            .filter(|_| ready);
        let ride = (!self.release_batch.is_empty()).then_some(self.linger_ms);
        let sweep = (ready && !self.requests.is_empty()).then_some(self.sweep_due_ms);
        let (due_ms, _, under_way) = self.reconcile;
        let reconcile = (ready && !under_way).then_some(due_ms);
        let (due_ms, looks) = self.look;
        let look = (ready && looks < LOOKS && due_ms < u64::MAX).then_some(due_ms);
        [acquire, head, open, ride, release, sweep, reconcile, look]
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
        let pool = pool::select(&self.config.pools, headers);
        let session = gray::session(&self.config.gray.session, headers);
        if self.requests.is_empty() {
            self.sweep_due_ms = now_ms;
        }
        let slot = self.requests.insert(Request {
            stream,
            number: 0,
            pool: pool.unwrap_or(usize::MAX),
            phase: Phase::Idle,
            session: None,
            scope: None,
            epoch: 0,
            renewed_ms: now_ms,
            acquire_sent: false,
            lost: false,
            probe: Probe::No,
            bucket: None,
            came_us: self.now_us,
        });
        let mut shadowed = None;
        let event = match pool {
            None => {
                self.remember(now_ms, slot, None, 0);
                Event::Out(Reason::NoPool)
            }
            Some(pool) => {
                let random = self.random.u64(..);
                let share = self.share(now_ms, pool);
                let local = self.config.traditional != Traditional::Passthrough;
                let (choice, bucket) =
                    self.gate
                        .choose(&self.config.gray, share, headers, session, random);
                self.remember(now_ms, slot, bucket, share);
                if let Some(request) = self.requests.get_mut(slot) {
                    request.bucket = bucket;
                    // Who is out needs no affinity, and its hash costs more than the decision.
                    if let (Choice::In, Some(session)) = (choice, session)
                        && self.config.affinity.ttl_ms > 0
                    {
                        request.session = Some(gray::hash128(session));
                    }
                    // Nor does who gets no account here cool one.
                    if choice == Choice::In || local {
                        request.scope = scope(&self.config, headers);
                    }
                }
                match choice {
                    Choice::Out => {
                        self.counters.add_in(pool, Counter::Out, 1);
                        Event::Out(Reason::OutOfPercentage)
                    }
                    Choice::In => {
                        self.count_in(pool, Counter::In);
                        if self.config.gray.mode == GrayMode::Shadow {
                            shadowed = Some(pool);
                            Event::Out(Reason::Shadow)
                        } else {
                            self.admit(now_ms, pool, slot)
                        }
                    }
                }
            }
        };
        let verdict = self.step_request(now_ms, slot, event);
        if let Some(pool) = shadowed
            && self.config.traditional == Traditional::Passthrough
        {
            let names = self.pools.get(pool).and_then(|state| state.names.as_ref());
            let named = names.and_then(|names| names.named(headers));
            self.ask_shadow(now_ms, pool, slot, named);
        }
        self.output.log = verdict.and_then(|_| self.logged(slot, None));
        if verdict.is_some_and(|verdict| verdict.holds().is_none()) {
            // Nothing can happen to it any more.
            self.requests.try_remove(slot);
        }
        (slot, verdict)
    }

    fn remember(&mut self, now_ms: u64, slot: usize, bucket: Option<u16>, share: u16) {
        if let Some(request) = self.requests.get_mut(slot) {
            request.number = self.decisions.open(now_ms, bucket, share);
        }
    }

    /// What is remembered of the request that a question is about; see [`DecisionLog::answer`].
    #[must_use]
    pub fn recall(&self, now_ms: u64, question: &[u8]) -> Option<String> {
        self.decisions.answer(now_ms, question, &self.config)
    }

    /// The `x-request-id` of the request that arrived last.
    pub fn identify(&mut self, id: &[u8]) {
        self.decisions.identify(id);
    }

    /// Whether a request with an account wants to know more of an answer of this status: who gave it, its headers, and the
    /// time, for [`Worker::on_response`]. Of the usual one it does not, and only counts it.
    pub fn wants_response(&mut self, (slot, stream): (usize, u32), status: u16) -> bool {
        let Some(request) = self.request(slot, stream) else {
            return false;
        };
        let pool = request.pool;
        // One that was chosen here may probe before the ledger has said so.
        let probes = request.probe == Probe::Awaits || request.acquire_sent && request.epoch == 0;
        let Some((_, account)) = request.phase.holds() else {
            return false;
        };
        let pushback = self.config.cooldown.statuses.contains(&status);
        let failed = status >= 500 && self.config.failing.percent > 0;
        if !pushback && !failed && !probes {
            self.answered(pool, account);
            return false;
        }
        true
    }

    fn answered(&mut self, pool: usize, account: u32) {
        if let Some(state) = self.pools.get_mut(pool) {
            state.windows.answered(account);
        }
    }

    /// A request with an account was answered. `now_unix_s` is the wall clock; the headers are read only for a status that
    /// is pushback.
    pub fn on_response(
        &mut self,
        now_ms: u64,
        (slot, stream): (usize, u32),
        (source, status): (Source, u16),
        headers: Headers,
        now_unix_s: u64,
    ) {
        let Some(request) = self.request(slot, stream) else {
            return;
        };
        let (pool, probe) = (request.pool, request.probe);
        let Some((_, account)) = request.phase.holds().filter(|_| source != Source::Envoy) else {
            return;
        };
        if status >= 500 {
            let settings = self.config.failing;
            let state = self.pools.get_mut(pool);
            if state.is_some_and(|state| state.windows.failed(now_ms, account, settings)) {
                self.count_in(pool, Counter::Behind);
                self.tell_of(
                    now_ms,
                    slot,
                    account,
                    AccountReport::Behind(settings.behind_ms),
                );
            }
        } else {
            self.answered(pool, account);
        }
        if source == Source::NoUpstream {
            return;
        }
        if let Some(rest) = cooldown::rest(&self.config.cooldown, status, headers, now_unix_s) {
            self.counters
                .add_in(pool, Counter::CooldownMalformed, rest.malformed);
            let cooldown_ms = rest.ms;
            self.step_request(now_ms, slot, Event::Pushback { cooldown_ms });
        } else if status < 500 {
            let passed = matches!(probe, Probe::Awaits | Probe::Passed);
            let probe = if passed { Probe::Passed } else { Probe::Early };
            return self.set_probe(now_ms, slot, probe);
        }
        self.set_probe(now_ms, slot, Probe::No);
    }

    /// The ledger says that a request probes, or may have said so.
    fn may_probe(&mut self, now_ms: u64, slot: usize) {
        let probe = self.requests.get(slot).map(|request| request.probe);
        let early = matches!(probe, Some(Probe::Early | Probe::Passed));
        let probe = if early { Probe::Passed } else { Probe::Awaits };
        self.set_probe(now_ms, slot, probe);
    }

    /// One that has passed is told now if the ledger can hear, and with each of its renewals until it has heard.
    #[inline(never)]
    fn set_probe(&mut self, now_ms: u64, slot: usize, probe: Probe) {
        if let Some(request) = self.requests.get_mut(slot) {
            request.probe = probe;
            if let Some((lease, account)) = request.phase.holds().filter(|_| probe == Probe::Passed)
            {
                self.tell_of(now_ms, slot, account, AccountReport::Passed(lease));
            }
        }
    }

    fn on_told(&mut self, slot: usize, pool: usize, heard: AccountReport, ended: u64) {
        if let AccountReport::Passed(lease) = heard {
            self.counters
                .add_in(pool, Counter::ProbePassed, ended.min(1));
            let request = self.requests.get_mut(slot).filter(|request| {
                let held = request.phase.holds();
                held.is_some_and(|(held, _)| held == lease)
            });
            if let Some(request) = request {
                request.probe = Probe::No;
            }
        }
    }

    /// Tells the ledger what an answer says of its account; if it can't hear now, it is not told.
    #[inline(never)]
    fn tell_of(&mut self, now_ms: u64, slot: usize, account: u32, heard: AccountReport) {
        if let Some(request) = self.requests.get(slot)
            && self.state == PipeState::Ready
        {
            let pool = request.pool;
            self.write(
                now_ms,
                Command::Cooldown {
                    slot,
                    pool,
                    account,
                    heard,
                    tries: 0,
                },
                false,
            );
        }
    }

    /// The stream is over, however it ended. Asking twice, or for a request that held nothing, does nothing.
    pub fn on_end(&mut self, now_ms: u64, (slot, stream): (usize, u32)) {
        if self.request(slot, stream).is_some() {
            self.step_request(now_ms, slot, Event::Ended);
        }
    }

    /// Whether the request still waits for its verdict.
    #[must_use]
    pub fn is_acquiring(&self, (slot, stream): (usize, u32)) -> bool {
        self.request(slot, stream)
            .is_some_and(|request| matches!(request.phase, Phase::Acquiring { .. }))
    }

    /// Which way a request that waited or holds an account was sent on, and that account; `None` when it was not sent on.
    #[must_use]
    pub fn path(&self, (slot, stream): (usize, u32)) -> Option<(Path, Option<&str>)> {
        let request = self.request(slot, stream)?;
        let account = request
            .phase
            .holds()
            .and_then(|(_, account)| account_id(&self.config, request.pool, account));
        Some((request.phase.path()?, account))
    }

    fn request(&self, slot: usize, stream: u32) -> Option<&Request> {
        self.requests
            .get(slot)
            .filter(|request| request.stream == stream)
    }

    /// In the percentage: send the acquire if it can be sent.
    fn admit(&mut self, now_ms: u64, pool: usize, slot: usize) -> Event {
        if let Err(reason) = self.available(now_ms) {
            return Event::Unavailable(reason);
        }
        let lease = self.ids.mint();
        self.ask(pool, slot, lease, AcquireKind::Take);
        let deadline_ms = now_ms.saturating_add(self.config.redis.acquire_timeout_ms);
        self.acquire_deadlines.push_back((deadline_ms, slot, lease));
        Event::In(lease)
    }

    fn ask(&mut self, pool: usize, slot: usize, lease: LeaseId, kind: AcquireKind) {
        let request = self.requests.get(slot);
        let session = request.and_then(|request| request.session);
        let scope = request.and_then(|request| request.scope.as_deref().copied());
        self.queue.push(AcquireCommand {
            pool,
            slot,
            lease,
            kind,
            session,
            scope,
        });
    }

    /// Asks what a request would get that goes the traditional way, by this account if that is known.
    fn ask_shadow(&mut self, now_ms: u64, pool: usize, slot: usize, account: Option<u32>) {
        if self.available(now_ms).is_ok() {
            let lease = self.ids.mint();
            let kind = account.map_or(AcquireKind::Dry, AcquireKind::DryBeside);
            self.ask(pool, slot, lease, kind);
        } else {
            self.shadow_failed(pool);
        }
    }

    #[inline(never)]
    fn count_in(&mut self, pool: usize, counter: Counter) {
        self.counters.add_in(pool, counter, 1);
    }

    #[inline(never)]
    fn shadow_failed(&mut self, pool: usize) {
        self.count_in(pool, Counter::ShadowFailed);
    }

    fn shadow_granted(&mut self, pool: usize, would_be: &[u8], traditional: Option<u32>) {
        self.count_in(pool, Counter::ShadowGranted);
        let compared = self.pools.get(pool).and_then(|state| {
            let (would_be, traditional) = (state.counts.index(would_be)?, traditional?);
            Some(match &state.names {
                Some(names) => names.is(would_be, traditional),
                None => would_be == traditional,
            })
        });
        match compared {
            Some(true) => self.count_in(pool, Counter::ShadowAgreed),
            Some(false) => self.count_in(pool, Counter::ShadowDiffered),
            None => self.count_in(pool, Counter::ShadowUnknown),
        }
    }

    /// Steps one request and carries out the effects that are the worker's.
    fn step_request(&mut self, now_ms: u64, slot: usize, event: Event) -> Option<Verdict> {
        let request = self.requests.get_mut(slot)?;
        let (phase, effects) = request.phase.step(event, &self.policy);
        request.phase = phase;
        let (pool, number) = (request.pool, request.number);
        let mut verdict = None;
        for effect in effects {
            match effect {
                Effect::Forward { path, holds } => {
                    let reason = phase.reason();
                    let counter = match (reason, path) {
                        (Some(reason), _) => Counter::Traditional(reason),
                        (None, Path::Local) => Counter::Local,
                        (None, Path::Atomic | Path::Traditional) => Counter::Atomic,
                    };
                    self.count_in(pool, counter);
                    verdict = Some(Verdict::Forward {
                        path,
                        reason,
                        pool,
                        holds,
                    });
                }
                Effect::RejectSaturated { retry_after_ms } => {
                    self.count_in(pool, Counter::Rejected(Reason::Saturated));
                    verdict = Some(Verdict::Saturated {
                        pool,
                        retry_after_ms,
                    });
                }
                Effect::RejectUnavailable => {
                    let reason = phase.reason().unwrap_or(Reason::Refused);
                    self.count_in(pool, Counter::Rejected(reason));
                    verdict = Some(Verdict::Unavailable { pool, reason });
                }
                Effect::ChooseLocally => {
                    let event = self.choose_locally(now_ms, pool);
                    // Ahead of the lease that is recorded: the shadow must not see its own request.
                    if phase.reason() == Some(Reason::Shadow) {
                        let account = if let Event::ChosenLocally { account, .. } = event {
                            Some(account)
                        } else {
                            None
                        };
                        self.ask_shadow(now_ms, pool, slot, account);
                    }
                    return self.step_request(now_ms, slot, event);
                }
                Effect::CountUp { account } => self.count(pool, |counts| counts.up(account)),
                Effect::CountDown { account } => self.count(pool, |counts| counts.down(account)),
                Effect::Record { lease, account } => {
                    self.record(now_ms, pool, slot, lease, account)
                }
                Effect::Cool {
                    account,
                    cooldown_ms,
                } => {
                    self.count_in(pool, Counter::Cooldown);
                    let request = self.requests.get(slot);
                    let scope = request.and_then(|request| request.scope.as_deref().copied());
                    if let Some(state) = self.pools.get_mut(pool)
                        && scope.is_none()
                    {
                        let until_ms = now_ms.saturating_add(cooldown_ms);
                        state.counts.cool(account, until_ms);
                    }
                    let heard = if scope.is_none() && self.config.cooldown.probe {
                        AccountReport::CoolThenProbe(cooldown_ms)
                    } else {
                        AccountReport::Cool(cooldown_ms, scope)
                    };
                    self.tell_of(now_ms, slot, account, heard);
                }
                Effect::Release { lease, in_doubt } => {
                    if self
                        .requests
                        .get(slot)
                        .is_some_and(|request| request.acquire_sent)
                    {
                        self.release(now_ms, pool, lease, in_doubt);
                    }
                }
            }
        }
        if phase == Phase::Done {
            self.requests.try_remove(slot);
        }
        if let Some(verdict) = verdict {
            self.decisions.close(now_ms, number, verdict);
        }
        verdict
    }

    /// Steps a request that waits for its verdict, and hands the verdict out.
    fn answer(&mut self, now_ms: u64, slot: usize, event: Event) {
        let Some(request) = self.requests.get(slot) else {
            return;
        };
        let (stream, pool) = (request.stream, request.pool);
        let waited_us = self.now_us.saturating_sub(request.came_us);
        if let Some(verdict) = self.step_request(now_ms, slot, event) {
            if self.output.waited_us.len() < MOST_WAITS {
                self.output.waited_us.push((pool, waited_us));
            }
            let log = self.logged(slot, Some(waited_us));
            let answer = Answer {
                stream,
                verdict,
                log,
            };
            self.answers.push_back((slot, answer));
        }
    }

    /// The next verdict to be handed out to its paused request; `None` when there is none, or no more may be handed out
    /// before [`Worker::flush`].
    pub fn next_answer(&mut self) -> Option<Answer> {
        let may_settle = self.may_settle.checked_sub(1)?;
        loop {
            let (slot, answer) = self.answers.pop_front()?;
            // Its client may have left meanwhile.
            if self.request(slot, answer.stream).is_some() {
                self.may_settle = may_settle;
                return Some(answer);
            }
        }
    }

    fn logged(&self, slot: usize, acquire_us: Option<u64>) -> Option<Logged> {
        let request = self.requests.get(slot).filter(|_| self.config.access_log)?;
        Some(Logged {
            bucket: request.bucket,
            acquire_us,
        })
    }

    fn count(&mut self, pool: usize, change: impl FnOnce(&mut AccountTable)) {
        self.counters.touch();
        if let Some(state) = self.pools.get_mut(pool) {
            change(&mut state.counts);
        }
    }

    fn choose_locally(&mut self, now_ms: u64, pool: usize) -> Event {
        let share = match self.config.traditional {
            Traditional::Local { share } => share,
            Traditional::Passthrough => 1,
        };
        let account = self
            .config
            .pools
            .get(pool)
            .zip(self.pools.get(pool))
            .and_then(|(pool, state)| {
                let behind = |account| state.windows.is_behind(now_ms, account);
                let (score, random) = (self.config.score, &mut self.random);
                let counts = &state.counts;
                counts.choose(now_ms, pool, score, share, random, behind)
            });
        match account {
            Some(account) => Event::ChosenLocally {
                lease: self.ids.mint(),
                account,
            },
            None => Event::FullLocally,
        }
    }

    /// Puts a locally chosen account's lease into the ledger. What can't be sent now is taken up by the next renewal.
    fn record(&mut self, now_ms: u64, pool: usize, slot: usize, lease: LeaseId, account: u32) {
        if let Some(request) = self.requests.get_mut(slot) {
            request.renewed_ms = now_ms;
        }
        if self.available(now_ms).is_ok() {
            self.queue.push(AcquireCommand {
                pool,
                slot,
                lease,
                kind: AcquireKind::Record(account),
                session: None,
                scope: None,
            });
        }
    }

    /// Sends the release, or keeps it until the pipe is ready. A lease that was never asked for needs none.
    fn release(&mut self, now_ms: u64, pool: usize, lease: LeaseId, in_doubt: bool) {
        if in_doubt {
            self.count_in(pool, Counter::InDoubt);
        }
        // Behind the acquire on the same connection nothing is in doubt, but what an older connection still carries is.
        let reopened = self.counters.get(Counter::PipeReady) > 1
            && now_ms.saturating_sub(self.ready_ms) < AGAIN_MS;
        let over_ms = now_ms.saturating_add(self.config.lease.ttl_ms);
        let release = PendingRelease {
            due_ms: now_ms,
            pool,
            lease,
            over_ms,
            sent: false,
        };
        if self.state == PipeState::Ready {
            self.send_release(now_ms, release, in_doubt || reopened);
        } else {
            self.keep_release(release);
        }
    }

    /// Sends the release of a release, with others if it can; `again`: it is due once more later.
    fn send_release(&mut self, now_ms: u64, release: PendingRelease, again: bool) {
        let again = again && !release.sent;
        let sent = PendingRelease {
            due_ms: now_ms.saturating_add(AGAIN_MS),
            sent: again || release.sent,
            ..release
        };
        if self.release_batch.is_empty() {
            self.linger_ms = now_ms.saturating_add(LINGER_MS);
        }
        self.release_batch.push(sent);
        if again {
            self.keep_release(sent);
        }
        if self.release_batch.len() >= RELEASE_BATCH {
            self.send_release_batch(now_ms);
        }
    }

    /// Sends the releases that wait, one command for each pool.
    fn send_release_batch(&mut self, now_ms: u64) {
        while let Some(pool) = self.release_batch.first().map(|release| release.pool) {
            let release_batch = std::mem::take(&mut self.release_batch);
            let (releases, others) = if release_batch.iter().all(|release| release.pool == pool) {
                (release_batch, Vec::new())
            } else {
                release_batch
                    .into_iter()
                    .partition(|release| release.pool == pool)
            };
            self.release_batch = others;
            let tries = 0;
            self.write(
                now_ms,
                Command::Release {
                    pool,
                    releases,
                    tries,
                },
                false,
            );
        }
    }

    #[inline(never)]
    fn keep_release(&mut self, release: PendingRelease) {
        if self.retries.len() < self.config.redis.max_pending.saturating_mul(4) {
            self.retries.push_back(release);
        } else if !release.sent {
            self.count_in(release.pool, Counter::Dropped);
        }
    }

    // ---- the pipe ----

    /// What a request of this pool is let in by, in basis points.
    fn share(&mut self, now_ms: u64, pool: usize) -> u16 {
        let Some(state) = self.pools.get_mut(pool) else {
            return 0;
        };
        let share = state.control.percent;
        if state.control.look == Look::Never && self.config.poll_ms > 0 {
            // From now on the pool is looked at, which needs the pipe.
            state.control.look = Look::Due(now_ms);
            self.look.0 = now_ms;
            self.need_pipe(now_ms);
        }
        share.unwrap_or(self.config.gray.basis_points)
    }

    fn need_pipe(&mut self, now_ms: u64) {
        if self.state == PipeState::Closed {
            self.state = PipeState::Waiting { until_ms: now_ms };
        }
    }

    /// Whether an acquire can be sent, or may wait for the pipe to open. Opens it on first need.
    fn available(&mut self, now_ms: u64) -> Result<(), Reason> {
        self.need_pipe(now_ms);
        if self.state != PipeState::Ready && self.failures > 0 {
            return Err(Reason::PipeDown);
        }
        if self.commands() >= self.config.redis.max_pending {
            return Err(Reason::QueueFull);
        }
        let settings = self.config.redis.breaker;
        if !self.breaker.admits(now_ms, settings, &mut self.random) {
            return Err(Reason::BreakerOpen);
        }
        Ok(())
    }

    /// Redis answered an acquire in time, or a whole greeting.
    fn acquires_work(&mut self) {
        if self.breaker.succeeded() {
            self.counters.add(Counter::BreakerClosed);
            self.output.notices.push(Notice::BreakerClosed);
        }
    }

    #[inline(never)]
    fn acquires_fail(&mut self, now_ms: u64, reason: Reason, fault: Option<Fault>) {
        let redis = &self.config.redis;
        if self.breaker.failed(
            now_ms,
            redis.acquire_timeout_ms,
            redis.breaker,
            &mut self.random,
        ) {
            self.counters.add(Counter::BreakerOpened);
            let notice = Notice::BreakerOpened(reason, fault);
            self.output.notices.push(notice);
        }
    }

    /// Whether [`Worker::flush`], or the host, has something to do for the pipe.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        let asks = self.state == PipeState::Ready && !self.queue.is_empty();
        let tells = !self.answers.is_empty() || !self.lost.is_empty();
        asks || tells || !self.output.bytes.is_empty() || self.output.pipe.is_some()
    }

    /// All events that came at once have been told: what they ask goes out, in as few commands as it can, and more verdicts
    /// may be handed out.
    pub fn flush(&mut self, now_ms: u64) {
        self.may_settle = SETTLED_PER_ROUND;
        self.fail_lost(now_ms);
        self.send_queue(now_ms);
    }

    fn send_queue(&mut self, now_ms: u64) {
        if self.state != PipeState::Ready || self.queue.is_empty() {
            return;
        }
        // Ahead of them: the slots they free may be just what is needed.
        self.send_release_batch(now_ms);
        let mut queue = std::mem::take(&mut self.queue);
        // Who left meanwhile took nothing and needs nothing.
        queue.retain(|acquire| self.is_wanted(acquire));
        while let Some(shape) = queue.iter().map(AcquireCommand::shape).min() {
            let alike = |acquire: &mut AcquireCommand| acquire.shape() == shape;
            let alike: Vec<_> = queue.extract_if(.., alike).collect();
            for leases in alike.chunks(ACQUIRE_BATCH) {
                let (leases, tries) = (leases.to_vec(), 0);
                self.write(now_ms, Command::Acquire { leases, tries }, false);
            }
        }
        self.queue = queue;
    }

    fn write(&mut self, now_ms: u64, command: Command, with_source: bool) {
        match &command {
            Command::Acquire { leases, .. } => {
                self.acquires_in_batches = self
                    .acquires_in_batches
                    .saturating_add(leases.len().saturating_sub(1));
                for acquire in leases {
                    self.mark_sent(acquire.slot, acquire.lease);
                }
            }
            Command::Renew { leases, .. } => {
                for (slot, lease) in leases {
                    self.mark_sent(*slot, *lease);
                }
            }
            Command::Auth
            | Command::Select
            | Command::SetName
            | Command::Load(_)
            | Command::Version
            | Command::Release { .. }
            | Command::Sync { .. }
            | Command::Reconcile { .. }
            | Command::Look { .. }
            | Command::Answer { .. }
            | Command::Cooldown { .. } => {}
        }
        let by = if with_source {
            ScriptRef::Source
        } else {
            ScriptRef::Sha(&self.shas)
        };
        let config = &self.config;
        let out = &mut self.output.bytes;
        match &command {
            Command::Auth => greeting::auth(out, &config.redis),
            Command::Select => greeting::select(out, &config.redis),
            Command::SetName => greeting::set_name(out),
            Command::Load(script) => greeting::load(out, *script),
            Command::Version => greeting::version(out),
            Command::Acquire { leases, .. } => {
                let pool = leases.first().map(|acquire| acquire.pool);
                let Some(state) = pool.and_then(|pool| self.pools.get(pool)) else {
                    return;
                };
                let arguments = Acquire {
                    ttl_ms: config.lease.ttl_ms,
                    seed: self.random.u32(..),
                    random: millionths(config.score.random),
                    session_ttl_ms: config.affinity.ttl_ms,
                    session_mb: config.affinity.max_mb,
                };
                let leases = leases.iter().map(|acquire| Asked {
                    lease: acquire.lease,
                    mode: match acquire.kind {
                        AcquireKind::Take => Mode::Take,
                        AcquireKind::Dry | AcquireKind::DryBeside(_) => Mode::Dry,
                        AcquireKind::Record(account) => Mode::Force(
                            account_id(config, acquire.pool, account).unwrap_or_default(),
                        ),
                    },
                    session: acquire.session.as_ref(),
                    scope: acquire.scope.as_ref(),
                });
                state.keys.acquire(out, by, &arguments, leases);
            }
            Command::Release { pool, releases, .. } => {
                let Some(state) = self.pools.get(*pool) else {
                    return;
                };
                let leases = releases.iter().map(|release| release.lease);
                state.keys.release(out, by, leases);
            }
            Command::Renew { pool, leases, .. } => {
                let Some(state) = self.pools.get(*pool) else {
                    return;
                };
                // One that ended meanwhile has its release behind this command: whatever is said of it now is undone.
                let arguments = leases.iter().map(|(slot, lease)| {
                    let request = self.requests.get(*slot);
                    let held = request
                        .and_then(|request| request.phase.holds())
                        .filter(|(held, _)| held == lease);
                    let account = held.and_then(|(_, account)| account_id(config, *pool, account));
                    (
                        *lease,
                        account.unwrap_or_default(),
                        request.map_or(0, |request| request.epoch),
                    )
                });
                state.keys.renew(out, by, config.lease.ttl_ms, arguments);
            }
            Command::Sync { pool, step, .. } => {
                let Some((state, pool)) = self.pools.get(*pool).zip(config.pools.get(*pool)) else {
                    return;
                };
                let (part, range) = match step {
                    SyncStep::Ask => (Part::Whole, None),
                    SyncStep::Whole => (Part::Whole, Some((0, usize::MAX))),
                    SyncStep::From(0) => (Part::First, Some((0, SYNC_PART))),
                    SyncStep::From(from) => (Part::More, Some((*from, SYNC_PART))),
                    SyncStep::Sweep { cursor, gone } => (Part::Sweep(cursor, gone), None),
                    SyncStep::Last { gone } => (Part::Last(gone), None),
                    SyncStep::Stray(id) => (Part::Stray(std::slice::from_ref(id)), None),
                };
                let accounts =
                    range.map(|(from, most)| sync_accounts(pool, &state.counts, from, most));
                let arguments = Sync {
                    revision: pool.revision,
                    digest: state.digest,
                    epoch: u64::from(self.random.u32(1..)),
                    load: millionths(config.score.load),
                    accounts: accounts.as_deref(),
                    part,
                    longest: longest(config),
                    by: &self.name,
                };
                state.keys.sync(out, by, &arguments);
            }
            Command::Reconcile { pool, .. } => {
                let Some(state) = self.pools.get(*pool) else {
                    return;
                };
                let (_, count) = RECONCILE_STEP;
                let step = Step {
                    worker: &self.name,
                    silence_ms: RECONCILE_SILENCE_MS,
                    count,
                    longest: longest(config),
                    soon: self.out_of_turn.is_some(),
                };
                state.keys.reconcile(out, by, &step);
            }
            Command::Look { pool, .. } => {
                let Some(state) = self.pools.get(*pool) else {
                    return;
                };
                let (drained, used) = LOOK;
                state.keys.overrides(out, by, drained, used);
            }
            Command::Answer { pool, text } => {
                let Some(state) = self.pools.get(*pool) else {
                    return;
                };
                state.keys.answer(out, text, ANSWER_MS);
            }
            Command::Cooldown {
                pool,
                account,
                heard,
                ..
            } => {
                let Some(state) = self.pools.get(*pool) else {
                    return;
                };
                let account = account_id(config, *pool, *account).unwrap_or_default();
                state.keys.cooldown(out, by, account, *heard);
            }
        }
        self.pending.push_back((now_ms, command));
    }

    /// Redis may know of the lease from now on.
    fn mark_sent(&mut self, slot: usize, lease: LeaseId) {
        if let Some(request) = self.requests.get_mut(slot)
            && (request.phase == Phase::Acquiring { lease }
                || request.phase.holds().is_some_and(|(held, _)| held == lease))
        {
            request.acquire_sent = true;
        }
    }

    /// The host opened the pipe.
    pub fn on_pipe_open(&mut self, now_ms: u64) {
        self.state = PipeState::Opening;
        self.refusal = None;
        if !self.config.redis.password.0.is_empty() {
            self.write(now_ms, Command::Auth, false);
        }
        if self.config.redis.database != 0 {
            self.write(now_ms, Command::Select, false);
        }
        self.write(now_ms, Command::SetName, false);
    }

    /// The pipe was closed from the other side, or could not be opened.
    pub fn on_pipe_closed(&mut self, now_ms: u64) {
        self.pipe_gone(now_ms, Down::Closed);
    }

    /// Envoy has nothing that a pipe could be opened through.
    pub fn on_pipe_unopened(&mut self, now_ms: u64) {
        self.pipe_gone(now_ms, Down::Unopened);
    }

    fn pipe_gone(&mut self, now_ms: u64, why: Down) {
        match self.state {
            PipeState::Closed | PipeState::Waiting { .. } => {}
            PipeState::Ordered | PipeState::Opening | PipeState::Ready => {
                self.lose_pipe(now_ms, why)
            }
        }
    }

    /// Bytes from Redis, cut anywhere.
    pub fn on_pipe_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        let mut inbox = std::mem::take(&mut self.inbox);
        // The usual case, whole replies and nothing left over from before, is read where it lies.
        let source = if inbox.is_empty() {
            bytes
        } else {
            inbox.extend_from_slice(bytes);
            inbox.as_slice()
        };
        let mut rest = source;
        while self.is_open() {
            match resp::reply_length(rest) {
                Ok(Some(length)) => {
                    let (reply, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                    rest = behind;
                    self.on_reply(now_ms, reply);
                }
                Ok(None) if rest.len() <= resp::MAX_REPLY => {
                    self.inbox = rest.to_vec();
                    return;
                }
                Ok(None) | Err(_) => self.mismatch(now_ms),
            }
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, PipeState::Opening | PipeState::Ready)
    }

    /// Deadlines: acquires, the pipe, releases in doubt, renewals.
    pub fn on_tick(&mut self, now_ms: u64) {
        self.fail_lost(now_ms);
        for _ in 0..PORTION {
            let front = self.acquire_deadlines.front().copied();
            let Some((_, slot, lease)) = front.filter(|(deadline_ms, ..)| *deadline_ms <= now_ms)
            else {
                break;
            };
            self.acquire_deadlines.pop_front();
            if self.awaits(slot, lease) {
                // One that never left the queue took nothing.
                let in_doubt = self.requests.get(slot).is_some_and(|one| one.acquire_sent);
                if in_doubt {
                    self.acquires_fail(now_ms, Reason::TimedOut, None);
                }
                self.answer(
                    now_ms,
                    slot,
                    Event::Failed {
                        reason: Reason::TimedOut,
                        in_doubt,
                    },
                );
            }
        }
        let stuck = self.is_open()
            && self.pending.front().is_some_and(|(sent_ms, _)| {
                now_ms.saturating_sub(*sent_ms) >= self.config.redis.command_timeout_ms
            });
        // After this worker stood still itself, replies may lie unread: they take a few rounds of the event loop to get in.
        self.stuck_ms = match self.stuck_ms {
            Some(since_ms) if stuck && now_ms.saturating_sub(since_ms) >= STUCK_MS => {
                self.lose_pipe(now_ms, Down::Stuck);
                None
            }
            since_ms => stuck.then(|| since_ms.unwrap_or(now_ms)),
        };
        match self.state {
            PipeState::Waiting { until_ms } if until_ms <= now_ms => {
                self.state = PipeState::Ordered;
                self.output.pipe = Some(PipeOrder::Open);
            }
            PipeState::Ready => {
                self.send_retries(now_ms);
                self.send_release_batch(now_ms);
                // Ticks come late on a busy machine: as many steps as are due, or every round would be longer.
                for _ in 0..SWEEP_STEPS {
                    if self.sweep_due_ms <= now_ms && !self.requests.is_empty() {
                        self.sweep(now_ms);
                    }
                }
                self.sweep_due_ms = self.sweep_due_ms.max(now_ms);
                self.reconcile(now_ms);
                self.look(now_ms);
            }
            PipeState::Closed
            | PipeState::Waiting { .. }
            | PipeState::Ordered
            | PipeState::Opening => {}
        }
    }

    fn awaits(&self, slot: usize, lease: LeaseId) -> bool {
        self.requests
            .get(slot)
            .is_some_and(|request| request.phase == Phase::Acquiring { lease })
    }

    /// Sends a portion of the releases that are due. They are due in order, but for those that were put in front before the
    /// pipe broke.
    fn send_retries(&mut self, now_ms: u64) {
        for _ in 0..self.retries.len().min(PORTION) {
            let Some(release) = self.retries.pop_front() else {
                break;
            };
            let unordered = self.unordered_retries > 0;
            self.unordered_retries = self.unordered_retries.saturating_sub(1);
            if release.over_ms <= now_ms {
                continue;
            }
            if release.due_ms > now_ms && unordered {
                self.retries.push_back(release);
                continue;
            }
            if release.due_ms > now_ms {
                self.retries.push_front(release);
                break;
            }
            self.send_release(now_ms, release, true);
        }
    }

    /// Renews the leases in one part of the slab; each part's turn comes once in an interval.
    fn sweep(&mut self, now_ms: u64) {
        let quick =
            now_ms.saturating_sub(self.ready_ms) < QUICK_STEP_MS.saturating_mul(SWEEP_STEPS);
        let step_ms = (self.config.lease.renew_interval_ms / SWEEP_STEPS).max(1);
        let step_ms = if quick {
            step_ms.min(QUICK_STEP_MS)
        } else {
            step_ms
        };
        self.sweep_due_ms = self.sweep_due_ms.saturating_add(step_ms);
        // Slots that a growing slab got since the round began are looked at in its last step.
        let slots = self.requests.capacity();
        if self.sweep_step == 0 {
            self.sweep_slots = slots;
        }
        let part = |step: u64| {
            usize::try_from(step.saturating_mul(self.sweep_slots as u64) / SWEEP_STEPS).unwrap_or(0)
        };
        let next = self.sweep_step.saturating_add(1);
        let end = if next < SWEEP_STEPS {
            part(next)
        } else {
            slots
        };
        let range = part(self.sweep_step)..end;
        self.sweep_step = next % SWEEP_STEPS;
        let young_ms = self.config.lease.renew_interval_ms / 2;
        let mut batches: Vec<Vec<(usize, LeaseId)>> = vec![Vec::new(); self.pools.len()];
        for slot in range {
            let Some(request) = self.requests.get(slot) else {
                continue;
            };
            let Some((lease, _)) = request.phase.holds() else {
                continue;
            };
            let due = request.renewed_ms < self.ready_ms
                || now_ms.saturating_sub(request.renewed_ms) >= young_ms;
            if due && let Some(batch) = batches.get_mut(request.pool) {
                batch.push((slot, lease));
            }
            if request.probe == Probe::Passed {
                self.set_probe(now_ms, slot, Probe::Passed);
            }
        }
        for (pool, batch) in batches.into_iter().enumerate() {
            for leases in batch.chunks(RENEW_BATCH) {
                self.write(
                    now_ms,
                    Command::Renew {
                        pool,
                        leases: leases.to_vec(),
                        tries: 0,
                    },
                    false,
                );
            }
        }
    }

    fn on_reply(&mut self, now_ms: u64, reply: &[u8]) {
        self.stuck_ms = None;
        let Some((sent_ms, command)) = self.pending.pop_front() else {
            return self.mismatch(now_ms);
        };
        if let Command::Acquire { leases, .. } = &command {
            self.acquires_in_batches = self
                .acquires_in_batches
                .saturating_sub(leases.len().saturating_sub(1));
        }
        if let Some(pool) = command.pool()
            && let Some(Value::Error(error)) = Values::new(reply).value()
            && let Some(what) = fault::garbage(error)
            // An operator's key is told of where it is read.
            && !matches!(command, Command::Look { .. })
        {
            self.see_garbage(now_ms, pool, what);
        }
        if self.state == PipeState::Opening || reply.first() == Some(&b'-') {
            self.hear_refusal(&command, reply);
        }
        let refusal = self.refusal.as_ref();
        match command {
            Command::Auth => self.on_greeting_reply(now_ms, is_ok(reply), Down::Auth),
            Command::Select => self.on_greeting_reply(now_ms, is_ok(reply), Down::Select),
            Command::SetName if refusal.is_some_and(Refusal::turned_away) => {
                self.lose_pipe(now_ms, Down::Refused);
            }
            Command::SetName if refusal.is_some_and(Refusal::wants_login) => {
                self.lose_pipe(now_ms, Down::Auth);
            }
            // Redis drops who sends more than 16 kB before it has logged in, and with it its own error. So the scripts wait
            // for the first reply. What the name itself comes to does not matter: what stands between us and Redis may not
            // know the command.
            Command::SetName => {
                for script in Script::FILTER {
                    self.write(now_ms, Command::Load(script), false);
                }
            }
            Command::Load(_) if refusal.is_some_and(Refusal::is_too_old) => {
                let asked = |(_, command): &(u64, Command)| matches!(command, Command::Version);
                if !self.pending.iter().any(asked) {
                    self.write(now_ms, Command::Version, false);
                }
            }
            Command::Version => {
                if let Some(refusal) = &mut self.refusal {
                    refusal.set_version(reply);
                }
                self.lose_pipe(now_ms, Down::Load);
            }
            Command::Load(script) => {
                let sha = Values::new(reply)
                    .bulk()
                    .and_then(|sha| source::Sha::try_from(sha).ok());
                let place = Script::ALL
                    .iter()
                    .zip(&mut self.shas.0)
                    .find(|(other, _)| **other == script);
                if let (Some(sha), Some((_, place))) = (sha, place) {
                    *place = sha;
                }
                let down = match Values::new(reply).value() {
                    Some(Value::Error(error)) if Fault::of(error).is_wrong_server() => {
                        Down::WrongServer(Fault::of(error))
                    }
                    Some(_) | None => Down::Load,
                };
                self.on_greeting_reply(now_ms, sha.is_some(), down);
            }
            Command::Acquire { leases, tries } => {
                self.on_acquired(now_ms, sent_ms, leases, tries, reply)
            }
            Command::Release {
                pool,
                releases,
                tries,
            } => self.on_released(now_ms, pool, releases, tries, reply),
            Command::Renew {
                pool,
                leases,
                tries,
            } => self.on_renewed(now_ms, sent_ms, pool, leases, tries, reply),
            Command::Reconcile { pool, tries } => self.on_reconciled(now_ms, pool, tries, reply),
            Command::Look { pool, tries } => self.on_looked(now_ms, sent_ms, pool, tries, reply),
            // Who asked will ask again.
            Command::Answer { pool, .. } => {
                if let Some(Value::Error(error)) = Values::new(reply).value() {
                    self.recover(now_ms, Fault::of(error), pool, None);
                }
            }
            Command::Sync { pool, step, tries } => self.on_synced(now_ms, pool, step, tries, reply),
            Command::Cooldown {
                slot,
                pool,
                account,
                heard,
                tries,
            } => match reply::number(reply) {
                Ok(ended) => self.on_told(slot, pool, heard, ended),
                Err(fault) => {
                    let retry = Command::Cooldown {
                        slot,
                        pool,
                        account,
                        heard,
                        tries: tries.saturating_add(1),
                    };
                    self.recover(now_ms, fault, pool, (tries < RETRIES).then_some(retry));
                }
            },
        }
    }

    /// Keeps the server's words until its next reply.
    #[inline(never)]
    fn hear_refusal(&mut self, command: &Command, reply: &[u8]) {
        let asked = match command {
            Command::Auth => greeting::AUTH,
            Command::Select => greeting::SELECT,
            Command::SetName => greeting::SET_NAME,
            Command::Load(_) => greeting::LOAD,
            // It belongs to the refusal before it.
            Command::Version => return,
            Command::Acquire { .. }
            | Command::Release { .. }
            | Command::Renew { .. }
            | Command::Sync { .. }
            | Command::Reconcile { .. }
            | Command::Look { .. }
            | Command::Answer { .. }
            | Command::Cooldown { .. } => "a command",
        };
        let opening = self.state == PipeState::Opening;
        self.refusal = match Values::new(reply).value() {
            // Any other is an error of the moment.
            Some(Value::Error(error)) if opening || Fault::of(error).is_wrong_server() => {
                Some(Refusal::new(asked, error, &self.config.redis.password.0))
            }
            Some(_) | None => None,
        };
    }

    /// One reply of the greeting. Behind the last one every pool is synced: no acquire goes ahead of its own accounts.
    fn on_greeting_reply(&mut self, now_ms: u64, ok: bool, else_down: Down) {
        if !ok {
            let refusal = self.refusal.as_ref();
            let down = if refusal.is_some_and(Refusal::turned_away) {
                Down::Refused
            } else if refusal.is_some_and(Refusal::wants_login) {
                Down::Auth
            } else {
                else_down
            };
            return self.lose_pipe(now_ms, down);
        }
        if self.pending.is_empty() {
            for pool in 0..self.pools.len() {
                self.ask_sync(now_ms, pool);
            }
        }
    }

    fn ask_sync(&mut self, now_ms: u64, pool: usize) {
        self.sync(now_ms, pool, SyncStep::Ask);
    }

    /// The pipe is ready: what waited for it is sent.
    fn on_ready(&mut self, now_ms: u64) {
        self.state = PipeState::Ready;
        self.ready_ms = now_ms;
        self.counters.add(Counter::PipeReady);
        self.acquires_work();
        self.refusal = None;
        if !std::mem::take(&mut self.said).0.is_empty() {
            self.output.notices.push(Notice::PipeReady);
        }
        self.unordered_retries = self.retries.len();
        self.send_retries(now_ms);
        self.send_release_batch(now_ms);
        self.sweep_due_ms = now_ms;
        self.sweep_step = 0;
        // Not all at once: the workers of a fleet become ready together when Redis comes back.
        let first_ms = now_ms.saturating_add(self.random.u64(..RECONCILE_MS));
        if self.mends.take() == Some(true)
            && let Some(state) = self.pools.get_mut(self.reconcile.1)
        {
            state.suspect = true;
        }
        self.reconcile = (first_ms, 0, false);
        self.out_of_turn = None;
        self.mend_next(now_ms);
        for state in &mut self.pools {
            if state.control.look != Look::Never {
                state.control.look = Look::Due(now_ms);
            }
        }
        self.look = (now_ms, 0);
        // Ahead of what waits, so that the next request goes by it already.
        self.look(now_ms);
        self.send_queue(now_ms);
    }

    /// Whether an acquire's request still is where it was when it was sent.
    fn is_wanted(&self, acquire: &AcquireCommand) -> bool {
        match acquire.kind {
            AcquireKind::Take => self.awaits(acquire.slot, acquire.lease),
            AcquireKind::Dry | AcquireKind::DryBeside(_) => true,
            AcquireKind::Record(account) => {
                self.requests.get(acquire.slot).is_some_and(|request| {
                    request.phase
                        == Phase::Holding {
                            lease: acquire.lease,
                            account,
                            path: Path::Local,
                        }
                })
            }
        }
    }

    fn on_acquired(
        &mut self,
        now_ms: u64,
        sent_ms: u64,
        leases: Vec<AcquireCommand>,
        tries: u8,
        reply: &[u8],
    ) {
        let recorded = leases
            .first()
            .is_some_and(|acquire| matches!(acquire.kind, AcquireKind::Record(_)));
        let answers = reply::acquired(reply, leases.len()).and_then(|(epoch, answers)| {
            // `force` never answers it.
            let refused = |answer| matches!(answer, Acquired::Saturated { .. });
            if recorded && answers.clone().any(refused) {
                return Err(Fault::Mismatch);
            }
            Ok((epoch, answers))
        });
        let (epoch, answers) = match answers {
            Ok(answers) => answers,
            Err(fault) => {
                let pool = leases.first().map_or(0, |acquire| acquire.pool);
                self.see_number(now_ms, pool, reply, fault, EPOCH);
                return self.on_acquire_fault(now_ms, sent_ms, leases, tries, fault);
            }
        };
        // One that came too late helps nobody, and must not keep the breaker closed.
        if now_ms.saturating_sub(sent_ms) < self.config.redis.acquire_timeout_ms {
            self.acquires_work();
        }
        for (acquire, answer) in leases.into_iter().zip(answers) {
            let (pool, slot) = (acquire.pool, acquire.slot);
            let wanted = self.is_wanted(&acquire);
            match acquire.kind {
                AcquireKind::Dry => self.on_shadowed(pool, None, answer),
                AcquireKind::DryBeside(account) => self.on_shadowed(pool, Some(account), answer),
                AcquireKind::Take if !wanted => {
                    if matches!(answer, Acquired::Granted { .. }) {
                        self.count_in(pool, Counter::LateGrant);
                    }
                }
                AcquireKind::Take | AcquireKind::Record(_) => {
                    match answer {
                        Acquired::Granted { probes, .. } => {
                            if let Some(state) = self.pools.get_mut(pool) {
                                state.right_ms = now_ms;
                            }
                            if let Some(request) = self.requests.get_mut(slot).filter(|_| wanted) {
                                request.epoch = epoch;
                                request.renewed_ms = sent_ms;
                                if probes {
                                    self.count_in(pool, Counter::Probe);
                                    self.may_probe(now_ms, slot);
                                }
                            }
                            self.see_epoch(now_ms, pool, epoch);
                        }
                        Acquired::NoAccount => {
                            self.counters.add(Counter::RedisError(Fault::NoAccount));
                        }
                        Acquired::Saturated { .. } => {}
                    }
                    if acquire.kind == AcquireKind::Take {
                        let event = self.outcome(pool, answer);
                        if let Event::Failed {
                            reason: Reason::UnknownAccount,
                            ..
                        } = event
                            && let Acquired::Granted { account, .. } = answer
                        {
                            self.see_stray(now_ms, pool, account);
                        }
                        self.answer(now_ms, slot, event);
                    }
                }
            }
        }
    }

    /// An account that this configuration does not have, while its very accounts are in force, is nobody's: it is taken out.
    /// Whether they still are, Redis says: another revision may just have come.
    #[inline(never)]
    fn see_stray(&mut self, now_ms: u64, pool: usize, account: &[u8]) {
        let synced = self.pools.get(pool).and_then(|state| state.synced);
        if !matches!(synced, Some(Synced::Current | Synced::Replaced)) {
            return;
        }
        match std::str::from_utf8(account) {
            Ok(id) if crate::config::is_name(id) => {
                self.sync(now_ms, pool, SyncStep::Stray(id.to_owned()));
            }
            Ok(_) | Err(_) => self.see_garbage(now_ms, pool, &not_configured(account)),
        }
    }

    /// What an acquire's answer is to the request that waits for it.
    fn outcome(&self, pool: usize, answer: Acquired) -> Event {
        match answer {
            Acquired::Granted { account, .. } => {
                let state = self.pools.get(pool);
                match state.and_then(|state| state.counts.index(account)) {
                    Some(account) => Event::Granted { account },
                    None => Event::Failed {
                        reason: Reason::UnknownAccount,
                        in_doubt: true,
                    },
                }
            }
            Acquired::Saturated { retry_after_ms } => Event::Saturated { retry_after_ms },
            Acquired::NoAccount => Event::Failed {
                reason: Reason::Refused,
                in_doubt: false,
            },
        }
    }

    fn on_shadowed(&mut self, pool: usize, traditional: Option<u32>, answer: Acquired) {
        match answer {
            Acquired::Granted { account, .. } => self.shadow_granted(pool, account, traditional),
            Acquired::Saturated { .. } => self.count_in(pool, Counter::ShadowSaturated),
            Acquired::NoAccount => self.shadow_failed(pool),
        }
    }

    #[inline(never)]
    fn on_acquire_fault(
        &mut self,
        now_ms: u64,
        sent_ms: u64,
        mut leases: Vec<AcquireCommand>,
        tries: u8,
        fault: Fault,
    ) {
        if fault == Fault::Mismatch {
            let command = Command::Acquire { leases, tries };
            self.pending.push_front((sent_ms, command));
            return self.mismatch(now_ms);
        }
        let pool = leases.first().map_or(0, |acquire| acquire.pool);
        leases.retain(|acquire| self.is_wanted(acquire));
        // The script takes out of `free` whom it could not give a lease, so once more may be all that the others need.
        let next = if fault == Fault::Garbage {
            RETRIES
        } else {
            tries.saturating_add(1)
        };
        let retry = (tries < RETRIES && !leases.is_empty()).then(|| Command::Acquire {
            leases: leases.clone(),
            tries: next,
        });
        if self.recover(now_ms, fault, pool, retry) {
            return;
        }
        // One pool's fault says nothing of the others.
        if self.is_open() && !matches!(fault, Fault::Garbage | Fault::NoPool) {
            self.acquires_fail(now_ms, Reason::Refused, Some(fault));
        }
        for acquire in leases {
            self.lose_acquire(now_ms, acquire, Reason::Refused, fault.may_have_run());
        }
    }

    fn on_released(
        &mut self,
        now_ms: u64,
        pool: usize,
        mut releases: Vec<PendingRelease>,
        tries: u8,
        reply: &[u8],
    ) {
        let fault = match reply::number(reply) {
            Ok(ended) => {
                // A reply that is not ours to believe must not count more than was asked.
                let most = releases.len() as u64;
                return self
                    .counters
                    .add_in(pool, Counter::Released, ended.min(most));
            }
            Err(fault) => fault,
        };
        releases.retain(|release| release.over_ms > now_ms);
        let retry = (tries < RETRIES && !releases.is_empty()).then(|| Command::Release {
            pool,
            releases: releases.clone(),
            tries: tries.saturating_add(1),
        });
        if !self.recover(now_ms, fault, pool, retry) {
            for release in releases {
                self.keep_release(PendingRelease {
                    due_ms: now_ms.saturating_add(AGAIN_MS),
                    sent: true,
                    ..release
                });
            }
        }
    }

    fn on_renewed(
        &mut self,
        now_ms: u64,
        sent_ms: u64,
        pool: usize,
        leases: Vec<(usize, LeaseId)>,
        tries: u8,
        reply: &[u8],
    ) {
        let (epoch, answers) = match reply::renewed(reply, leases.len()) {
            Ok(renewed) => renewed,
            Err(fault) => {
                self.see_number(now_ms, pool, reply, fault, EPOCH);
                let retry = (tries < RETRIES).then_some(Command::Renew {
                    pool,
                    leases,
                    tries: tries.saturating_add(1),
                });
                self.recover(now_ms, fault, pool, retry);
                return;
            }
        };
        let mut lost: usize = 0;
        for (answer, (slot, lease)) in answers.zip(leases) {
            let Some(request) = self.requests.get_mut(slot) else {
                continue;
            };
            if request.phase.holds().is_none_or(|(held, _)| held != lease) {
                continue;
            }
            match answer {
                Renewed::Renewed => self.counters.add_in(pool, Counter::Renewed, 1),
                Renewed::Readopted => self.counters.add_in(pool, Counter::Readopted, 1),
                Renewed::Lost => {
                    // Asked for again at every renewal, should there be room; said once.
                    if !request.lost {
                        request.lost = true;
                        self.counters.add_in(pool, Counter::Lost, 1);
                        lost = lost.saturating_add(1);
                    }
                    continue;
                }
            }
            request.renewed_ms = sent_ms;
            request.epoch = epoch;
            request.lost = false;
        }
        self.see_epoch(now_ms, pool, epoch);
        if lost > 0 {
            let pool = self.pool_name(pool);
            self.output
                .notices
                .push(Notice::Lost { pool, leases: lost });
        }
    }

    fn on_synced(&mut self, now_ms: u64, pool: usize, step: SyncStep, tries: u8, reply: &[u8]) {
        let result = reply::synced(reply);
        let next = match result {
            Ok(Synced::Part) => self.next_part(pool, &step, reply),
            Ok(Synced::Wanted) if matches!(step, SyncStep::Ask) && !self.is_large(pool) => {
                Some(SyncStep::Whole)
            }
            // Or someone else changed it meanwhile, or began anew: once more from the first.
            Ok(Synced::Wanted) if tries < RETRIES => Some(SyncStep::From(0)),
            Ok(_) | Err(_) => None,
        };
        if let Some(next) = next {
            let again = result == Ok(Synced::Wanted) && !matches!(step, SyncStep::Ask);
            let tries = tries.saturating_add(u8::from(again));
            self.write(
                now_ms,
                Command::Sync {
                    pool,
                    step: next,
                    tries,
                },
                false,
            );
            return self.serve_once_synced(now_ms);
        }
        if let Some(state) = self.pools.get_mut(pool) {
            state.syncing = false;
        }
        if let (SyncStep::Stray(id), Ok(answer)) = (&step, result) {
            match answer {
                Synced::Current => {
                    self.count_in(pool, Counter::Garbage);
                    self.say_garbage(now_ms, pool, &not_configured(id.as_bytes()));
                }
                // Others are about to be in force.
                Synced::Coming => return self.serve_once_synced(now_ms),
                Synced::Wanted
                | Synced::Replaced
                | Synced::Newer(_)
                | Synced::Differs
                | Synced::Part => {}
            }
        }
        let revision = self.config.pools.get(pool).map_or(0, |pool| pool.revision);
        let name = self.pool_name(pool);
        let before = match (&result, self.pools.get_mut(pool)) {
            (Ok(answer), Some(state)) => state.synced.replace(*answer),
            (Ok(_) | Err(_), _) => None,
        };
        match result {
            // Said already.
            Ok(answer @ (Synced::Newer(_) | Synced::Differs)) if before == Some(answer) => {}
            // The next recount that it hears of says whether it still is.
            Ok(Synced::Wanted | Synced::Coming | Synced::Part) => {}
            Ok(Synced::Current) => {}
            Ok(Synced::Replaced) => self.output.notices.push(Notice::Replaced {
                pool: name,
                revision,
            }),
            Ok(Synced::Newer(in_force)) => {
                self.output.notices.push(Notice::Newer {
                    pool: name,
                    revision,
                    in_force,
                });
            }
            Ok(Synced::Differs) => self.output.notices.push(Notice::Differs {
                pool: name,
                revision,
            }),
            Err(fault) => {
                self.see_number(now_ms, pool, reply, fault, REVISION);
                let retry = (tries < RETRIES).then_some(Command::Sync {
                    pool,
                    step,
                    tries: tries.saturating_add(1),
                });
                // A pipe that went down for it says why; so does what cannot be there.
                if self.recover(now_ms, fault, pool, retry) {
                    if let Some(state) = self.pools.get_mut(pool) {
                        state.syncing = true;
                    }
                } else if self.is_open() && fault != Fault::Garbage {
                    self.output
                        .notices
                        .push(Notice::SyncFailed { pool: name, fault });
                }
            }
        }
        self.serve_once_synced(now_ms);
    }

    /// Every pool's sync is answered. Those that go in parts go on while the others are served.
    fn serve_once_synced(&mut self, now_ms: u64) {
        if self.state == PipeState::Opening && self.pending.iter().all(|(_, sent)| sent.is_part()) {
            self.on_ready(now_ms);
        }
    }

    /// Another epoch means that Redis lost its data and someone has synced the pool since, maybe with a lower revision.
    fn see_epoch(&mut self, now_ms: u64, pool: usize, epoch: u64) {
        let Some(state) = self.pools.get_mut(pool) else {
            return;
        };
        let known = std::mem::replace(&mut state.epoch, epoch);
        if known != 0 && known != epoch {
            self.ask_sync(now_ms, pool);
        }
    }

    /// Sends a sync of a pool, unless one is on its way.
    fn sync(&mut self, now_ms: u64, pool: usize, step: SyncStep) {
        let Some(state) = self.pools.get_mut(pool) else {
            return;
        };
        if !std::mem::replace(&mut state.syncing, true) {
            let tries = 0;
            self.write(now_ms, Command::Sync { pool, step, tries }, false);
        }
    }

    /// Whether a pool's accounts go in parts.
    fn is_large(&self, pool: usize) -> bool {
        let pool = self.config.pools.get(pool);
        pool.is_some_and(|pool| pool.accounts.len() > SYNC_PART)
    }

    /// A part of a large pool has arrived: what comes after it.
    fn next_part(&self, pool: usize, step: &SyncStep, reply: &[u8]) -> Option<SyncStep> {
        match step {
            SyncStep::From(from) => {
                let next = from.saturating_add(SYNC_PART);
                let accounts = &self.config.pools.get(pool)?.accounts;
                Some(if next < accounts.len() {
                    SyncStep::From(next)
                } else {
                    SyncStep::Sweep {
                        cursor: "0".to_owned(),
                        gone: Vec::new(),
                    }
                })
            }
            SyncStep::Sweep { .. } => {
                let counts = &self.pools.get(pool)?.counts;
                let (cursor, ids) = reply::swept(reply);
                let gone = ids.filter(|id| counts.index(id.as_bytes()).is_none());
                let gone = gone.map(str::to_owned).collect();
                Some(match cursor {
                    "0" => SyncStep::Last { gone },
                    cursor => SyncStep::Sweep {
                        cursor: cursor.to_owned(),
                        gone,
                    },
                })
            }
            SyncStep::Ask | SyncStep::Whole | SyncStep::Last { .. } | SyncStep::Stray(_) => None,
        }
    }

    /// Sends the next step of a reconcile pass when it is due.
    fn reconcile(&mut self, now_ms: u64) {
        let (due_ms, pool, under_way) = self.reconcile;
        if !under_way && due_ms <= now_ms {
            self.reconcile.2 = true;
            if let (None, Some(state)) = (self.mends, self.pools.get_mut(pool)) {
                // What is seen from now on may lie where the pass has been already, and needs another one.
                self.mends = Some(std::mem::take(&mut state.suspect));
            }
            self.write(now_ms, Command::Reconcile { pool, tries: 0 }, false);
        }
    }

    /// A pool holds what cannot be there: said once, counted, and its recount comes soon; less soon each time that it was
    /// in vain.
    #[inline(never)]
    fn see_garbage(&mut self, now_ms: u64, pool: usize, what: &[u8]) {
        self.count_in(pool, Counter::Garbage);
        self.say_garbage(now_ms, pool, what);
        if let Some(state) = self.pools.get_mut(pool) {
            state.suspect = true;
        }
        self.mend_next(now_ms);
    }

    /// The same where the reply is no error, but holds something else than the number that stands in this field.
    fn see_number(&mut self, now_ms: u64, pool: usize, reply: &[u8], fault: Fault, what: &[u8]) {
        if fault == Fault::Garbage && reply.first() != Some(&b'-') {
            self.see_garbage(now_ms, pool, what);
        }
    }

    fn say_garbage(&mut self, now_ms: u64, pool: usize, what: &[u8]) {
        let name = self.pool_name(pool);
        let what = printable::ascii(what);
        if let Some(state) = self.pools.get_mut(pool)
            && state.garbage.is_news(now_ms, GARBAGE_SAID_MS, &what)
        {
            self.output
                .notices
                .push(Notice::Garbage { pool: name, what });
        }
    }

    /// Between two passes, a pool that holds what cannot be there has its turn.
    fn mend_next(&mut self, now_ms: u64) {
        let (due_ms, turn, under_way) = self.reconcile;
        if self.out_of_turn.is_some() || under_way {
            return;
        }
        let suspects = self.pools.iter().enumerate();
        let first = suspects
            .filter(|(_, state)| state.suspect)
            .min_by_key(|(_, state)| state.mend_due_ms());
        if let Some((pool, state)) = first {
            // Not all workers at once.
            let soon_ms = now_ms.saturating_add(self.random.u64(..MEND_MS.0));
            let soon_ms = soon_ms.max(state.mend_due_ms());
            if soon_ms < due_ms {
                self.out_of_turn = Some((due_ms, turn));
                self.reconcile = (soon_ms, pool, false);
            }
        }
    }

    fn on_reconciled(&mut self, now_ms: u64, pool: usize, tries: u8, reply: &[u8]) {
        let step = reply::reconciled(reply);
        if let Err(fault) = step {
            let retry = (tries < RETRIES).then_some(Command::Reconcile {
                pool,
                tries: tries.saturating_add(1),
            });
            if self.recover(now_ms, fault, pool, retry) {
                return;
            }
        }
        let state = step.map(|step| step.state);
        if let Ok(step) = step {
            if !step.found.is_empty() {
                self.count_in(pool, Counter::Garbage);
                self.say_garbage(now_ms, pool, step.found);
            }
        }
        if let Ok(Reconciled::Done(entries)) = state {
            if entries > 0 {
                self.counters.add_in(pool, Counter::Drift, entries);
                let pool = self.pool_name(pool);
                self.output.notices.push(Notice::Drift { pool, entries });
            } else if let Some(state) = self.pools.get_mut(pool) {
                state.garbage = Said::default();
            }
        }
        if let Ok(Reconciled::Working(_)) = state {
            let due_ms = now_ms.saturating_add(RECONCILE_STEP.0);
            self.reconcile = (due_ms, pool, false);
            return;
        }
        let mends = self.mends.take() == Some(true);
        // Another worker's pass may be past it, or that worker may be gone.
        if mends
            && state == Ok(Reconciled::Elsewhere)
            && let Some(state) = self.pools.get_mut(pool)
        {
            state.suspect = true;
        }
        self.learn_in_force(now_ms, pool, step.ok().and_then(|step| step.in_force));
        let pools = self.pools.len().max(1) as u64;
        let every_ms = RECONCILE_MS.checked_div(pools).unwrap_or(RECONCILE_MS);
        self.reconcile = match self.out_of_turn.take() {
            Some((due_ms, turn)) => {
                if let Some(state) = self.pools.get_mut(pool) {
                    let (before_ms, wait_ms) = state.mend_ms;
                    let long_ago = now_ms.saturating_sub(before_ms) > MEND_MS.1;
                    let anew = long_ago || state.was_mended();
                    let wait_ms = if anew { MEND_MS.0 } else { wait_ms };
                    let twice_ms = wait_ms.saturating_mul(2).min(MEND_MS.1);
                    state.mend_ms = (now_ms.saturating_add(twice_ms), twice_ms);
                }
                (due_ms.max(now_ms), turn, false)
            }
            // One pool after the other, so that each has its turn once in the interval.
            None => {
                let next = pool.saturating_add(1);
                let next = if next < self.pools.len() { next } else { 0 };
                (now_ms.saturating_add(every_ms), next, false)
            }
        };
        self.mend_next(now_ms);
    }

    /// A recount says what is in force. Unless that is what the last sync answered, the pool is asked for anew.
    fn learn_in_force(&mut self, now_ms: u64, pool: usize, in_force: Option<(u64, Option<u64>)>) {
        let revision = self.config.pools.get(pool).map_or(0, |pool| pool.revision);
        let Some((state, (held, digest))) = self.pools.get(pool).zip(in_force) else {
            return;
        };
        let ours = held == revision && digest == Some(state.digest);
        let known = match state.synced {
            Some(Synced::Current | Synced::Replaced) => ours,
            Some(Synced::Newer(newer)) => held == newer,
            Some(Synced::Differs) => held == revision && digest.is_some() && !ours,
            Some(Synced::Wanted | Synced::Coming | Synced::Part) | None => false,
        };
        if !known {
            self.ask_sync(now_ms, pool);
        }
    }

    /// Looks at the operator's overrides when that is due, in every pool that has had a request.
    fn look(&mut self, now_ms: u64) {
        if self.look.0 > now_ms {
            return;
        }
        self.look.0 = u64::MAX;
        for pool in 0..self.pools.len() {
            let Some(state) = self.pools.get_mut(pool) else {
                return;
            };
            match state.control.look {
                Look::Due(due_ms) if due_ms <= now_ms && self.look.1 < LOOKS => {
                    state.control.look = Look::Asked;
                    self.look.1 = self.look.1.saturating_add(1);
                    self.write(now_ms, Command::Look { pool, tries: 0 }, false);
                }
                Look::Due(due_ms) => self.look.0 = self.look.0.min(due_ms),
                Look::Never | Look::Asked => {}
            }
        }
    }

    fn on_looked(&mut self, now_ms: u64, sent_ms: u64, pool: usize, tries: u8, reply: &[u8]) {
        let looked = reply::looked(reply);
        if let Err(fault) = looked {
            let retry = (tries < RETRIES).then_some(Command::Look {
                pool,
                tries: tries.saturating_add(1),
            });
            // Without the right to look, a worker can still do all else.
            // An operator's key of another type is mended by an operator.
            if fault == Fault::Garbage {
                self.counters.add(Counter::RedisError(fault));
            } else if fault != Fault::Denied && self.recover(now_ms, fault, pool, retry) {
                return;
            }
        }
        // A pipe that went down for it says why.
        if !self.is_open() {
            return;
        }
        self.look.1 = self.look.1.saturating_sub(1);
        let due_ms = now_ms.max(sent_ms.saturating_add(self.config.poll_ms));
        let name = self.pool_name(pool);
        let Some(state) = self.pools.get_mut(pool) else {
            return;
        };
        state.control.look = Look::Due(due_ms);
        self.look.0 = self.look.0.min(due_ms);
        let ignored = match looked {
            // An error from within the script.
            Err(Fault::Unknown | Fault::Garbage | Fault::Denied) => [Some(Ignored::All), None],
            // Of the moment, and counted.
            Err(_) => return,
            Ok(looked) => [
                (looked.percent == Override::Malformed).then_some(Ignored::Percent),
                looked.drained.is_none().then_some(Ignored::Drained),
            ],
        };
        let before = std::mem::replace(&mut state.control.ignored, ignored);
        for (what, before) in ignored.into_iter().zip(before) {
            let Some(what) = what else { continue };
            self.counters.add_in(pool, Counter::ControlIgnored, 1);
            if before != Some(what) {
                let pool = name.clone();
                self.output.notices.push(Notice::Ignored { pool, what });
            }
        }
        let Ok(looked) = looked else {
            return;
        };
        let said = self.output.notices.len();
        self.apply_overrides(pool, &looked);
        if self.output.notices.len() > said {
            self.output.looks.push((pool, reply.to_vec()));
        }
        let Some(state) = self.pools.get_mut(pool) else {
            return;
        };
        let (counts, control) = (&mut state.counts, &mut state.control);
        counts.see(looked.used());
        self.counters.touch();
        if looked.question != control.question.as_slice() {
            control.question = looked.question.to_vec();
            if let Some(text) = self.recall(now_ms, looked.question) {
                self.write(now_ms, Command::Answer { pool, text }, false);
            }
        }
    }

    /// Puts the overrides in force, and says what that changed.
    fn apply_overrides(&mut self, pool: usize, looked: &Looked) {
        let configured = self.config.gray.basis_points;
        let name = self.pool_name(pool);
        let Some(state) = self.pools.get_mut(pool) else {
            return;
        };
        let (control, notices) = (&mut state.control, &mut self.output.notices);
        let old = control.percent;
        let new = match looked.percent {
            Override::Absent => None,
            Override::BasisPoints(points) => Some(points),
            Override::Malformed => old,
        };
        if new != old {
            control.percent = new;
            notices.push(Notice::Percent {
                pool: name.clone(),
                old,
                new,
                configured,
            });
        }
        if let Some(drained) = looked.drained
            && drained != control.drained.as_bytes()
        {
            state.counts.drain(drained);
            let new = String::from_utf8(drained.to_vec()).unwrap_or_default();
            let old = std::mem::replace(&mut control.drained, new.clone());
            notices.push(Notice::Drained {
                pool: name,
                old,
                new,
            });
        }
    }

    /// Before the first request: the last look of any worker at this pool, so that a new configuration does not begin
    /// without the operator's overrides. It was said when it was new.
    pub fn recall_look(&mut self, pool: usize, look: &[u8]) {
        if let Ok(looked) = reply::looked(look) {
            let said = self.output.notices.len();
            self.apply_overrides(pool, &looked);
            self.output.notices.truncate(said);
        }
    }

    /// What any command's fault asks for. Answers whether the command is on its way again.
    fn recover(&mut self, now_ms: u64, fault: Fault, pool: usize, retry: Option<Command>) -> bool {
        if fault == Fault::Mismatch {
            self.mismatch(now_ms);
            return false;
        }
        self.counters.add(Counter::RedisError(fault));
        if fault.is_wrong_server() {
            self.lose_pipe(now_ms, Down::WrongServer(fault));
            return false;
        }
        match (fault, retry) {
            (Fault::NoScript, Some(command)) => {
                self.write(now_ms, command, true);
                true
            }
            (Fault::NoPool, Some(command)) => {
                // Of a large one someone else may have sent parts already. If not, the second try comes behind the first part,
                // which is enough to take leases. It would not know most of the leases that are renewed.
                let large = self.is_large(pool);
                let step = if large {
                    SyncStep::Ask
                } else {
                    SyncStep::Whole
                };
                self.sync(now_ms, pool, step);
                let again = !(large && matches!(command, Command::Renew { .. }));
                if again {
                    self.write(now_ms, command, false);
                }
                again
            }
            (Fault::Garbage, Some(command @ Command::Acquire { .. })) => {
                self.write(now_ms, command, false);
                true
            }
            (_, _) => false,
        }
    }

    fn mismatch(&mut self, now_ms: u64) {
        self.lose_pipe(now_ms, Down::Mismatch);
    }

    /// The reason in the light of what the server last said, and its words where they are the reason.
    fn refusal_for(&mut self, why: Down) -> (Down, Option<Refusal>) {
        let opening = self.state == PipeState::Opening;
        match (why, self.refusal.take()) {
            // It did not say its version.
            (Down::Closed | Down::Stuck, Some(refusal)) if refusal.is_too_old() => {
                (Down::Load, Some(refusal))
            }
            (Down::Closed, Some(mut refusal)) if opening => {
                refusal.set_closed();
                (Down::Refused, Some(refusal))
            }
            (Down::Closed | Down::Unopened | Down::Stuck | Down::Mismatch, _) => (why, None),
            (
                Down::Auth | Down::Select | Down::Load | Down::WrongServer(_) | Down::Refused,
                refusal,
            ) => (why, refusal),
        }
    }

    /// Everything under way is answered or put in doubt; the pipe opens again after a while.
    fn lose_pipe(&mut self, now_ms: u64, why: Down) {
        let gone = matches!(why, Down::Closed | Down::Unopened);
        if !gone {
            self.output.pipe = Some(PipeOrder::Reset);
        }
        let (first_ms, longest_ms) = BACKOFF_MS;
        let served = self.state == PipeState::Ready;
        let (why, refusal) = self.refusal_for(why);
        // One that a reply took down as soon as it served has not recovered.
        let lasted = now_ms.saturating_sub(self.ready_ms) >= longest_ms;
        if served && lasted {
            self.failures = u32::from(matches!(why, Down::WrongServer(_)));
            self.short_lived = 0;
        } else if served && why == Down::Closed {
            // A few times in a row is bad luck, and worth waiting for; then it is a server that does not want us.
            self.short_lived = self.short_lived.saturating_add(1);
            self.failures = self.short_lived.saturating_sub(SHORT_LIVED);
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        let wait_ms = first_ms
            .saturating_mul(1 << self.failures.min(6))
            .min(longest_ms);
        let until_ms = now_ms.saturating_add(self.random.u64(wait_ms / 2..=wait_ms));
        self.state = PipeState::Waiting { until_ms };
        self.counters.add(Counter::PipeLost(why));
        let gist = refusal.as_ref().map(Refusal::gist).unwrap_or_default();
        if !(served && why == Down::Closed) && self.said.is_news(now_ms, SAID_MS, &(why, gist)) {
            self.output.notices.push(match (why, refusal) {
                (Down::Unopened, _) => Notice::PipeUnopened {
                    cluster: self.config.redis.pipe_cluster.clone(),
                },
                (why, Some(refusal)) => Notice::PipeRefused(why, refusal),
                (why, None) => Notice::PipeDown(why),
            });
        }
        self.inbox.clear();
        self.output.bytes.clear();
        for state in &mut self.pools {
            state.syncing = false;
        }
        self.acquires_in_batches = 0;
        self.retries.retain(|release| release.over_ms > now_ms);
        // Sent again as soon as the pipe is back; where it was to be sent a second time, that one stays as it is.
        let mut lost = std::mem::take(&mut self.release_batch);
        for (_, command) in std::mem::take(&mut self.pending) {
            match command {
                Command::Acquire { leases, .. } => {
                    self.lost
                        .extend(leases.into_iter().map(|acquire| LostAcquire {
                            acquire,
                            reason: Reason::PipeLost,
                            in_doubt: true,
                        }));
                }
                Command::Release { releases, .. } => lost.extend(releases),
                // A lease renewed in vain is taken up by the next renewal; one whose request left has its release in this
                // very list.
                Command::Auth
                | Command::Select
                | Command::SetName
                | Command::Load(_)
                | Command::Version
                | Command::Renew { .. }
                | Command::Sync { .. }
                | Command::Reconcile { .. }
                | Command::Look { .. }
                | Command::Answer { .. }
                | Command::Cooldown { .. } => {}
            }
        }
        for release in lost {
            let due_ms = now_ms;
            self.keep_release(PendingRelease { due_ms, ..release });
        }
        if self.failures > 0 {
            let queue = std::mem::take(&mut self.queue);
            self.lost
                .extend(queue.into_iter().map(|acquire| LostAcquire {
                    acquire,
                    reason: Reason::PipeDown,
                    in_doubt: false,
                }));
        }
        self.fail_lost(now_ms);
    }

    /// Tells a portion of the requests whose acquires a lost pipe took along.
    fn fail_lost(&mut self, now_ms: u64) {
        for _ in 0..PORTION {
            let Some(lost) = self.lost.pop_front() else {
                break;
            };
            self.lose_acquire(now_ms, lost.acquire, lost.reason, lost.in_doubt);
        }
    }

    /// An acquire has no answer, and will have none. A lease recorded in vain is taken up by the next renewal.
    #[inline(never)]
    fn lose_acquire(
        &mut self,
        now_ms: u64,
        acquire: AcquireCommand,
        reason: Reason,
        in_doubt: bool,
    ) {
        match acquire.kind {
            AcquireKind::Dry | AcquireKind::DryBeside(_) => self.shadow_failed(acquire.pool),
            AcquireKind::Take | AcquireKind::Record(_) if !self.is_wanted(&acquire) => {}
            AcquireKind::Take => {
                self.answer(now_ms, acquire.slot, Event::Failed { reason, in_doubt });
            }
            AcquireKind::Record(_) if in_doubt => self.may_probe(now_ms, acquire.slot),
            AcquireKind::Record(_) => {}
        }
    }

    #[inline(never)]
    fn pool_name(&self, pool: usize) -> String {
        self.config
            .pools
            .get(pool)
            .map(|pool| pool.name.clone())
            .unwrap_or_default()
    }
}

/// The hash of what the request cools an account for, if not for all.
#[inline(never)]
fn scope(config: &Config, headers: Headers) -> Option<Box<[u8; 16]>> {
    let value = headers.filled(config.cooldown.scope.as_ref()?)?;
    Some(Box::new(gray::hash128(value)))
}

/// What is said of an account that is in the ledger and in no configuration.
fn not_configured(account: &[u8]) -> Vec<u8> {
    [b"accounts ", account, b": not configured"].concat()
}

fn is_ok(reply: &[u8]) -> bool {
    Values::new(reply).value() == Some(Value::Simple(b"OK"))
}

fn account_id(config: &Config, pool: usize, account: u32) -> Option<&str> {
    config
        .pools
        .get(pool)?
        .accounts
        .get(account as usize)
        .map(|account| account.id.as_str())
}

fn sync_accounts<'a>(
    pool: &'a Pool,
    counts: &AccountTable,
    from: usize,
    most: usize,
) -> Vec<SyncAccount<'a>> {
    pool.accounts
        .iter()
        .zip(counts.bases())
        .skip(from)
        .take(most)
        .map(|(account, base)| SyncAccount {
            id: &account.id,
            max_concurrency: account.max_concurrency,
            base: *base,
            enabled: account.enabled,
        })
        .collect()
}

fn longest(config: &Config) -> Longest {
    let behind_ms = match config.failing.percent {
        0 => 0,
        _ => config.failing.behind_ms,
    };
    Longest {
        ttl_ms: config.lease.ttl_ms,
        cooldown_ms: config.cooldown.max_ms.max(behind_ms),
    }
}

/// Tells apart two sets of accounts, as the ledger sees them, under one revision.
fn digest(pool: &Pool, config: &Config) -> u64 {
    let mut text = millionths(config.score.load).to_string();
    for (account, base) in pool.accounts.iter().zip(pool::bases(
        &pool.accounts,
        config.score,
        config.priority_mode,
    )) {
        text.push_str(&format!(
            "\n{} {} {base} {}",
            account.id, account.max_concurrency, account.enabled
        ));
    }
    let [a, b, c, d, e, f, g, h, ..] = gray::hash128(text.as_bytes());
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
