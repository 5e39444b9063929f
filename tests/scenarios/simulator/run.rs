//! What happens in one run, and when.

use super::ledger::{Ledger, asked};
use super::network::{Line, Way, faults};
use super::queue::Terms;
use super::{
    ACQUIRE_TIMEOUT_MS, BUDGET_MS, END_MS, LATE_MS, MAX_WAIT_MS, MAX_WAITING, MOST_SPINS,
    RENEW_INTERVAL_MS, ROUNDS_MS, SLOTS, STREAMS_MS, TENANT_SLOTS, TRAFFIC_MS, TTL_MS, WORKERS,
    Without,
};
use crate::config;
use fastrand::Rng;
use slotgate::config::Config;
use slotgate::request::admission::Reason;
use slotgate::request::headers::Headers;
use slotgate::request::verdict::Verdict;
use slotgate::upstream::failing::Source;
use slotgate::worker::counters::Counter;
use slotgate::worker::{RequestId, SETTLED_PER_ROUND, Worker};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// No try has this number.
const NOBODY: u32 = 1_000_000;

pub(super) enum Event {
    Arrive(usize),
    Leave(usize, u32),
    /// The upstream answers with this status.
    Respond(usize, u32, u16),
    /// The host tries once more.
    Try(usize, u32),
    /// This try of a request ends while it waits, and another one follows.
    TryGone(usize, u32, u32),
    /// It must have its verdict by now, or wait.
    Overdue(usize, u32),
    /// It can have waited no longer than until now.
    WaitedLongest(usize, u32),
    /// It was handed a slot a while ago, at this time in ms.
    MustKnow(usize, u32, Vec<u8>, u64),
    /// It has left, or went on without a slot.
    MustBeGone(usize, Vec<u8>, u64),
    Open(usize, Way, u64),
    ToRedis(usize, Way, u64, Vec<Vec<u8>>),
    ToWorker(usize, Way, u64, Vec<u8>),
    /// The worker's event loop has done all it woke up for.
    LoopDone(usize),
    Reset(usize, Way),
    /// From now on nothing gets through to hear of grants, and neither end knows.
    Mute(usize),
    /// Redis cannot be reached until then, in ms.
    Away(u64),
    Forget,
    Flush,
}

pub(super) struct Stream {
    pub(super) id: RequestId,
    pub(super) decided: bool,
    /// Its lease, once the ledger was asked for it; only with a queue.
    pub(super) lease: Option<Vec<u8>>,
    pub(super) tenant: Option<usize>,
    pub(super) holds: Option<u32>,
    /// Its lease and account, when it was answered well.
    passed: Option<(Vec<u8>, usize)>,
    /// When it must have its verdict, or wait, in ms.
    pub(super) overdue_ms: u64,
    /// The lease that it was told of last.
    told: Option<Vec<u8>>,
    /// The account that it has tried.
    tried: Option<u32>,
    /// Which try of it waits for its verdict, if that is not the first.
    waits: Option<u32>,
    /// How often Envoy has a reason to try it again.
    reasons: u32,
    pub(super) came_ms: u64,
    /// When it asked for another account, in ms.
    pub(super) asked_ms: Option<u64>,
}

impl Stream {
    /// It has tried an account, and no try of it is under way.
    pub(super) fn is_between_tries(&self) -> bool {
        self.tried.is_some() && self.waits.is_none()
    }
}

pub(super) struct Host {
    pub(super) worker: Worker,
    pub(super) lines: [Line; 2],
    /// Since when no pipe could be opened, in ms.
    pub(super) away_ms: Option<u64>,
    /// Its event loop will be done.
    pub(super) rung: bool,
    /// How many requests were told in this round of the event loop.
    pub(super) settled: usize,
    pub(super) streams: HashMap<u32, Stream>,
}

/// How waits ended, as the workers counted them.
#[derive(Default, Debug)]
pub(super) struct Ends {
    granted: u64,
    timed_out: u64,
    left: u64,
    failed: u64,
    refused: u64,
    /// Requests that another account served, and those that none did.
    served: u64,
    no_other: u64,
}

impl Ends {
    pub(super) fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.timed_out += other.timed_out;
        self.left += other.left;
        self.failed += other.failed;
        self.refused += other.refused;
        self.served += other.served;
        self.no_other += other.no_other;
    }

    pub(super) fn all_were_seen(&self) -> bool {
        let all = [self.granted, self.timed_out, self.left, self.failed];
        let tries = [self.refused, self.served, self.no_other];
        all.iter().chain(&tries).all(|count| *count > 0)
    }
}

pub(super) struct Simulation {
    pub(super) random: Rng,
    /// Requests wait for a slot.
    pub(super) queues: bool,
    pub(super) now_ms: u64,
    pub(super) events: BTreeMap<(u64, u64), Event>,
    count: u64,
    pub(super) hosts: Vec<Host>,
    pub(super) ledger: Ledger,
    /// Whose each lease is: worker and stream; only with a queue.
    pub(super) leases: BTreeMap<Vec<u8>, (usize, u32)>,
    /// Leases that were told to a request.
    pub(super) granted: BTreeSet<Vec<u8>>,
    /// When Redis last lost its data, in ms.
    pub(super) flushed_ms: Option<u64>,
    /// Redis cannot be reached until then, in ms.
    away_until_ms: u64,
    pub(super) connections: u64,
    streams: u32,
    /// What a verdict broke.
    pub(super) failed: Option<String>,
    /// How many tries began that were not the first.
    pub(super) tries: u32,
    steps: u64,
    /// How often in a row a worker woke up without the clock going on.
    spins: u32,
}

/// How often Redis loses its data, if that was asked for.
fn flushes_given() -> Option<u64> {
    let text = std::env::var("FLUSHES").ok()?;
    Some(text.parse().expect("FLUSHES is a number"))
}

fn settings(queues: bool, tries: bool) -> Config {
    config(|json| {
        if tries {
            json["failover"] = serde_json::json!({"max_attempts": 2, "budget_ms": BUDGET_MS});
        }
        json["redis"] = serde_json::json!({"acquire_timeout_ms": ACQUIRE_TIMEOUT_MS, "command_timeout_ms": 400});
        json["lease"] =
            serde_json::json!({"ttl_ms": TTL_MS, "renew_interval_ms": RENEW_INTERVAL_MS});
        json["control"] = serde_json::json!({"poll_ms": 3_000});
        json["cooldown"] = serde_json::json!({"default_ms": 100});
        json["upstream"] = serde_json::json!({"rules": [
            {"status": [401], "action": "disable", "for_ms": 100}]});
        json["pools"][0]["accounts"] = serde_json::json!([
            {"id": "a", "max_concurrency": SLOTS}, {"id": "b", "max_concurrency": SLOTS}]);
        if queues {
            json["saturated"] = serde_json::json!({"action": "queue",
                "queue": {"max_wait_ms": MAX_WAIT_MS, "max_waiting": MAX_WAITING.0}});
            json["tenant"] = serde_json::json!({"source": [{"header": "x-tenant"}],
                "max_concurrency": TENANT_SLOTS.0, "max_waiting": MAX_WAITING.1,
                "overrides": [{"tenant": "t1", "max_concurrency": TENANT_SLOTS.1, "weight": 4}]});
        }
    })
}

impl Simulation {
    pub(super) fn new(seed: u64, without: Without) -> Self {
        let mut random = Rng::with_seed(seed);
        let queues = seed % 2 == 1;
        let host = |n| Host {
            worker: Worker::new(settings(queues, seed % 4 >= 2), seed * 10 + n),
            lines: Default::default(),
            away_ms: None,
            rung: false,
            settled: 0,
            streams: HashMap::new(),
        };
        let hosts = (0..WORKERS as u64).map(host).collect();
        let mut simulation = Self {
            queues,
            now_ms: 0,
            events: BTreeMap::new(),
            count: 0,
            hosts,
            ledger: Ledger::new(without, seed % 8 >= 4),
            leases: BTreeMap::new(),
            granted: BTreeSet::new(),
            flushed_ms: None,
            away_until_ms: 0,
            connections: 0,
            streams: 0,
            failed: None,
            tries: 0,
            steps: 0,
            spins: 0,
            random: random.fork(),
        };
        for _ in 0..random.u64(20..150) {
            let place = random.usize(..WORKERS);
            simulation.at(random.u64(..TRAFFIC_MS), Event::Arrive(place));
        }
        // Now and then so many at once that they are not all told in one round of the event loop.
        if random.u8(..4) == 0 {
            let (at_ms, place) = (random.u64(..TRAFFIC_MS), random.usize(..WORKERS));
            for _ in 0..random.usize(..3 * SETTLED_PER_ROUND) {
                simulation.at(at_ms, Event::Arrive(place));
            }
        }
        for (at_ms, fault) in faults(&mut random, TRAFFIC_MS, queues) {
            simulation.at(at_ms, fault);
        }
        if random.u8(..4) == 0 {
            simulation.at(random.u64(..TRAFFIC_MS), Event::Forget);
        }
        let given = (without == Without::Owners).then_some(12);
        let flushes = given
            .or_else(flushes_given)
            .unwrap_or_else(|| match random.u8(..16) {
                0 => random.u64(2..40),
                1..4 => 1,
                _ => 0,
            });
        for _ in 0..flushes {
            simulation.at(random.u64(..TRAFFIC_MS), Event::Flush);
        }
        simulation.ledger.refuses_listeners = random.u8(..8) == 0;
        if queues && random.u8(..8) == 0 {
            let from_ms = random.u64(..TRAFFIC_MS);
            let away = Event::Away(from_ms + random.u64(..8_000));
            simulation.at(from_ms, away);
        }
        simulation
    }

    pub(super) fn at(&mut self, at_ms: u64, event: Event) {
        self.count += 1;
        self.events.insert((at_ms, self.count), event);
    }

    pub(super) fn run(mut self) -> Result<(u64, Ends), String> {
        while self.now_ms < END_MS || !self.is_idle() && self.now_ms < 2 * END_MS {
            self.steps += 1;
            let horizon_ms = if self.now_ms < END_MS {
                END_MS
            } else {
                2 * END_MS
            };
            let event = self.events.first_key_value();
            let event_ms = event.map_or(horizon_ms, |((at_ms, _), _)| *at_ms);
            let tick = (0..WORKERS)
                .filter_map(|place| Some((self.hosts[place].worker.next_wake_ms()?, place)))
                .min();
            match tick {
                Some((tick_ms, place)) if tick_ms < event_ms => {
                    let late_ms = self.random.u64(..LATE_MS);
                    let next_ms = self.now_ms.max((tick_ms + late_ms).min(event_ms));
                    self.spins = if next_ms > self.now_ms {
                        0
                    } else {
                        self.spins + 1
                    };
                    if self.spins > MOST_SPINS {
                        return Err("a worker wakes up again and again for nothing".into());
                    }
                    self.now_ms = next_ms;
                    self.set_clocks();
                    // It may come before the event loop is done.
                    self.reset(place);
                    self.hosts[place].worker.on_tick(self.now_ms);
                    self.carry_out(place);
                }
                _ => {
                    self.now_ms = event_ms;
                    self.set_clocks();
                    if let Some((_, event)) = self.events.pop_first() {
                        self.happen(event)?;
                    }
                }
            }
            self.check_limits()?;
        }
        self.check_end()?;
        Ok((self.steps, self.ends()))
    }

    /// The finer clock, which says how old a request is.
    fn set_clocks(&mut self) {
        for host in &mut self.hosts {
            host.worker.set_clock_us(self.now_ms * 1_000);
        }
    }

    fn ends(&self) -> Ends {
        let count = |counter| {
            let hosts = self.hosts.iter();
            hosts.map(|host| host.worker.counters().get(counter)).sum()
        };
        Ends {
            granted: count(Counter::QueueGranted),
            timed_out: count(Counter::QueueTimedOut),
            left: count(Counter::QueueLeft),
            failed: count(Counter::QueueFailed),
            refused: count(Counter::QueueRefused),
            served: count(Counter::FailoverServed),
            no_other: count(Counter::FailoverNoOther),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.hosts.iter().all(|host| host.worker.is_idle())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let now_ms = self.now_ms;
        match event {
            Event::Arrive(place) => self.arrive(place)?,
            Event::Leave(place, stream) => self.leave(place, stream)?,
            Event::Respond(place, stream, status) => {
                let host = &mut self.hosts[place];
                if let Some(one) = host.streams.get_mut(&stream) {
                    let id = one.id;
                    let bytes = Headers::serialize(&[]);
                    let headers = Headers::new(&bytes);
                    let tries = host.worker.config().failover.is_on();
                    // An upstream may send the mark as well, and the half takes it off.
                    let of_upstream = tries && self.random.u8(..16) == 0;
                    let mut marked = of_upstream && self.ledger.without == Without::Strip;
                    if host.worker.may_refuse(id, status)
                        && host.worker.on_try_answered(now_ms, id, status, headers, 0)
                    {
                        marked = true;
                        one.reasons += 1;
                    }
                    // Envoy does not always do as it is told.
                    if marked && self.random.u8(..8) > 0 {
                        let at_ms = now_ms + self.random.u64(..3);
                        self.at(at_ms, Event::Try(place, stream));
                        self.carry_out(place);
                        return Ok(());
                    }
                    if marked && self.ledger.without == Without::LastStrip {
                        return Err(format!("stream {stream}: its client gets the mark"));
                    }
                    if host.worker.wants_response(id, status) {
                        let (answer, bytes) = ((Source::Upstream, status), Headers::serialize(&[]));
                        host.worker
                            .on_response(now_ms, id, answer, Headers::new(&bytes), 0);
                    }
                    self.carry_out(place);
                }
            }
            Event::Try(place, stream) => self.try_again(place, stream)?,
            Event::TryGone(place, stream, context) => {
                let host = &mut self.hosts[place];
                if let Some(one) = host.streams.get_mut(&stream)
                    && one.waits == Some(context)
                {
                    one.waits = None;
                    one.reasons += 1;
                    host.worker.on_try_unanswered(now_ms, one.id, context);
                    self.at(now_ms + 1, Event::Try(place, stream));
                }
            }
            Event::Overdue(place, stream) => self.check_told(place, stream)?,
            Event::WaitedLongest(place, stream) => self.check_waited(place, stream)?,
            Event::MustKnow(place, stream, lease, since_ms) => {
                self.check_knows((place, stream), &lease, since_ms)?;
            }
            Event::MustBeGone(place, lease, since_ms) => {
                self.check_gone(place, lease, since_ms)?;
            }
            Event::Open(place, way, connection)
                if connection == self.line(place, way).connection =>
            {
                if self.random.u8(..5) == 0 || now_ms < self.away_until_ms {
                    self.note_away(place, way);
                    self.line(place, way).connection = 0;
                    way.close(&mut self.hosts[place].worker, now_ms);
                } else {
                    if way == Way::Pipe {
                        self.hosts[place].away_ms = None;
                    }
                    way.open(&mut self.hosts[place].worker, now_ms);
                }
                self.carry_out(place);
            }
            Event::ToRedis(place, Way::Grants, connection, command) => {
                let line = self.line(place, Way::Grants);
                if connection == line.connection && !line.is_mute {
                    self.on_listener(place, connection, &command);
                }
            }
            Event::ToRedis(place, Way::Pipe, connection, command) => {
                let reply = self.ledger.execute(now_ms, &command)?;
                self.reply(place, Way::Pipe, connection, &reply);
                self.publish();
                self.note_handed()?;
            }
            Event::ToWorker(place, way, connection, bytes)
                if connection == self.line(place, way).connection =>
            {
                if !self.line(place, way).is_mute {
                    way.bytes(&mut self.hosts[place].worker, now_ms, &bytes);
                    self.carry_out(place);
                }
            }
            Event::Reset(place, way) => self.cut(place, way),
            Event::Away(until_ms) => {
                self.away_until_ms = until_ms;
                for place in 0..WORKERS {
                    Way::ALL.into_iter().for_each(|way| self.cut(place, way));
                }
            }
            Event::Mute(place) => self.line(place, Way::Grants).is_mute = true,
            Event::LoopDone(place) => self.flush(place),
            Event::Forget => self.ledger.forget_scripts(),
            Event::Flush => {
                self.flushed_ms = Some(now_ms);
                self.ledger.flush();
            }
            // Of a connection that is no more.
            Event::Open(..) | Event::ToWorker(..) => {}
        }
        Ok(())
    }

    fn arrive(&mut self, place: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        self.streams += 1;
        let stream = self.streams;
        let tenant = Some(self.random.usize(..4)).filter(|tenant| self.queues && *tenant < 3);
        let name = tenant.map(|tenant| format!("t{tenant}"));
        let mut headers: Vec<(&[u8], &[u8])> = Vec::new();
        if let Some(name) = &name {
            headers.push((b"x-tenant", name.as_bytes()));
        }
        if self.queues && self.random.bool() {
            headers.push((b"x-session-id", [&b"s"[..], b"r"][self.random.usize(..2)]));
        }
        let headers = Headers::serialize(&headers);
        let host = &mut self.hosts[place];
        let (id, verdict) = host
            .worker
            .on_request(now_ms, stream, Headers::new(&headers));
        let one = Stream {
            id,
            decided: false,
            lease: None,
            tenant,
            holds: None,
            passed: None,
            overdue_ms: now_ms + ACQUIRE_TIMEOUT_MS + LATE_MS + ROUNDS_MS,
            told: None,
            tried: None,
            waits: None,
            reasons: 0,
            came_ms: now_ms,
            asked_ms: None,
        };
        let overdue_ms = one.overdue_ms;
        host.streams.insert(stream, one);
        self.at(overdue_ms, Event::Overdue(place, stream));
        // Some clients leave while their acquire is on its way.
        if self.random.u8(..5) == 0 {
            let leaves_ms = now_ms + self.random.u64(..60);
            self.at(leaves_ms, Event::Leave(place, stream));
        } else if self.queues && self.random.u8(..5) == 0 {
            let leaves_ms = now_ms + self.random.u64(..MAX_WAIT_MS);
            self.at(leaves_ms, Event::Leave(place, stream));
        }
        // Or the pipe breaks under it.
        if self.random.u8(..if self.queues { 60 } else { 12 }) == 0 {
            let breaks_ms = now_ms + self.random.u64(..4);
            self.at(breaks_ms, Event::Reset(place, Way::Pipe));
        }
        if let Some(verdict) = verdict {
            self.decide(place, stream, verdict)?;
        }
        self.carry_out(place);
        Ok(())
    }

    /// The next try of a request begins.
    fn try_again(&mut self, place: usize, stream: u32) -> Result<(), String> {
        let now_ms = self.now_ms;
        let host = &mut self.hosts[place];
        let Some(one) = host.streams.get_mut(&stream) else {
            return Ok(());
        };
        let Some(reasons) = one.reasons.checked_sub(1) else {
            return Err(format!(
                "stream {stream} is tried again, as nobody but the upstream said"
            ));
        };
        one.reasons = reasons;
        let mut left = None;
        self.tries += 1;
        let context = NOBODY + self.tries;
        if host.worker.is_first_try(one.id) || host.worker.on_try(now_ms, one.id, context) {
            self.at(now_ms + 1, Event::Respond(place, stream, 200));
        } else {
            let overdue_ms = now_ms + ACQUIRE_TIMEOUT_MS + LATE_MS + ROUNDS_MS;
            if let Some(account) = one.holds.take() {
                one.tried = Some(account);
                one.overdue_ms = overdue_ms;
                one.asked_ms = Some(now_ms);
                left = one.lease.take();
                self.ledger.given_up.extend(one.told.take());
            }
            one.decided = false;
            one.waits = Some(context);
            self.at(overdue_ms, Event::Overdue(place, stream));
            if self.random.u8(..6) == 0 {
                let gone_ms = now_ms + self.random.u64(..20);
                self.at(gone_ms, Event::TryGone(place, stream, context));
            }
        }
        if let Some(lease) = left {
            self.expect_gone(place, lease);
        }
        self.carry_out(place);
        Ok(())
    }

    fn leave(&mut self, place: usize, stream: u32) -> Result<(), String> {
        let now_ms = self.now_ms;
        let host = &mut self.hosts[place];
        let Some(gone) = host.streams.remove(&stream) else {
            return Ok(());
        };
        // Nothing has broken any more for longer than renewals take.
        if let Some((lease, account)) = gone.passed
            && now_ms > TRAFFIC_MS + 10_000
            && self.ledger.probes[account].as_ref() == Some(&lease)
            && self.ledger.leases.contains_key(&lease)
        {
            return Err(format!("stream {stream} probes although it was answered"));
        }
        host.worker.on_end(now_ms, gone.id);
        if let Some(lease) = gone.lease {
            self.expect_gone(place, lease);
        }
        self.carry_out(place);
        Ok(())
    }

    /// Hands out a worker's verdicts; what it wants of its connections is done when its event loop is.
    pub(super) fn carry_out(&mut self, place: usize) {
        let host = &mut self.hosts[place];
        let answers: Vec<_> = std::iter::from_fn(|| host.worker.next_answer()).collect();
        host.settled += answers.len();
        assert!(host.settled <= SETTLED_PER_ROUND, "too deep a stack");
        if host.worker.wants_flush() && !std::mem::replace(&mut host.rung, true) {
            let done_ms = self.now_ms + self.random.u64(..=1);
            self.at(done_ms, Event::LoopDone(place));
        }
        for answer in answers {
            let stream = answer.request.stream;
            let context = answer.later.map(|later| later.context);
            if let Some(one) = self.hosts[place].streams.get_mut(&stream) {
                assert_eq!(one.waits.take(), context, "stream {stream}: another try");
            }
            if let Err(why) = self.decide(place, stream, answer.verdict) {
                self.failed.get_or_insert(why);
            }
        }
    }

    /// Whose the leases are that a command asks for.
    pub(super) fn note_leases(&mut self, place: usize, command: &[Vec<u8>]) {
        let is_script = command[0].starts_with(b"EVAL");
        let arguments = is_script.then(|| super::ledger::arguments(command));
        let joins = |arguments: &&[Vec<u8>]| {
            let mode = arguments.get(3);
            mode.is_some_and(|mode| mode.starts_with(b"join "))
        };
        let Some(arguments) = arguments.filter(joins) else {
            return;
        };
        let (leases, terms) = asked(arguments);
        for (lease, terms) in leases.iter().zip(terms) {
            if self.leases.contains_key(lease) {
                continue;
            }
            let cookie = Terms::read(terms).cookie;
            let streams = self.hosts[place].streams.iter_mut();
            let own = |one: &Stream| one.id.slot == cookie && !one.decided;
            // It may have left by now.
            if let Some((stream, one)) =
                streams.filter(|(_, one)| own(one)).max_by_key(|(n, _)| **n)
            {
                one.lease = Some(lease.clone());
                self.leases.insert(lease.clone(), (place, *stream));
            }
        }
    }

    fn decide(&mut self, place: usize, stream: u32, verdict: Verdict) -> Result<(), String> {
        let now_ms = self.now_ms;
        let streams = &mut self.hosts[place].streams;
        let one = streams.get_mut(&stream).ok_or("a verdict for nobody")?;
        if std::mem::replace(&mut one.decided, true) {
            return Err(format!("stream {stream}: a second verdict"));
        }
        let own = one.lease.clone();
        if let Verdict::Forward {
            holds: Some((lease, account)),
            ..
        } = verdict
        {
            let lease = lease.as_bytes().to_vec();
            // Who waits may be given it once it rests no more.
            let waited = self.ledger.told.contains_key(&lease);
            if one.tried == Some(account) && !waited {
                return Err(format!("stream {stream}: the account that it tried"));
            }
            one.holds = Some(account);
            one.told = Some(lease.clone());
            // Some tries end without an answer.
            let fails = self.random.u8(..8) == 0;
            if fails && self.hosts[place].worker.config().failover.is_on() {
                let id = self.hosts[place].streams[&stream].id;
                self.hosts[place]
                    .worker
                    .on_try_unanswered(now_ms, id, NOBODY);
                let one = self.hosts[place].streams.get_mut(&stream);
                one.ok_or("a verdict for nobody")?.reasons += 1;
                self.at(now_ms + 1, Event::Try(place, stream));
            }
            let streams = &mut self.hosts[place].streams;
            let one = streams.get_mut(&stream).ok_or("a verdict for nobody")?;
            let status = [200, 200, 200, 200, 200, 200, 429, 500][self.random.usize(..8)];
            // The account `b` refuses by being out of use.
            let status = if status == 429 && account == 1 {
                401
            } else {
                status
            };
            if status == 200 {
                one.passed = Some((lease.clone(), account as usize));
            }
            self.ledger.held.insert(lease.clone());
            if !self.granted.insert(lease.clone()) {
                return Err(format!("stream {stream}: a slot that was another's"));
            }
            let answers_ms = now_ms + self.random.u64(..300);
            self.at(answers_ms, Event::Respond(place, stream, status));
        } else if let Some(lease) = own {
            self.expect_gone(place, lease);
        }
        if verdict.reason() == Some(Reason::QueueTimeout) {
            self.check_waited_enough(place, stream)?;
        }
        // Half of them outlive their lease's first time to live; with a queue fewer, or nobody's turn would come.
        let longest_ms = match (self.queues, self.random.u8(..4)) {
            (true, 1..) => 3_000,
            (true, 0) | (false, _) => STREAMS_MS - now_ms,
        };
        let length_ms = if self.random.bool() {
            self.random.u64(..500)
        } else {
            self.random.u64(..longest_ms)
        };
        self.at(now_ms + length_ms, Event::Leave(place, stream));
        Ok(())
    }
}
