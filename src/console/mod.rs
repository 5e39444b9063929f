//! Role `console`: the operator's page and its API in JSON. One for each worker, with a pipe of its own.
//!
//! Pure like [`crate::worker`]: each `on_…` method is an event, `now_ms` the host's monotonic clock, and what must be done
//! is left in [`Output`].

pub mod api;
mod job;
mod pace;
mod page;

use crate::VERSION;
use crate::config::Console as Config;
use crate::hash::{hash128, hex};
use crate::json::Json;
use crate::ledger::commands::LedgerCommands;
use crate::ledger::fault::Fault;
use crate::ledger::source::Script;
use crate::ledger::view::text;
use crate::pipe::connection::{Connection, Event, Sent, Wire};
use crate::pipe::down::Down;
use crate::pipe::greeting;
use crate::request::headers::Headers;
use api::{
    MAX_BODY, Response, Route, admit, ask, crowded, no_body, refused, token_is_right, too_long,
    unavailable,
};
use fastrand::Rng;
use job::{Job, Owner, Part, Step, Wants, what_stands};
use pace::Pace;
use std::collections::VecDeque;
use std::mem::discriminant;

/// How long a body may take to arrive, in ms.
const BODY_MS: u64 = 2_000;
/// How many bodies are awaited at once, of requests that change something and again of all others: the oldest gives way to a
/// new one.
const MOST_BODIES: usize = 8;
/// How many explanations wait for Redis at once.
const MOST_EXPLAINS: usize = 8;
/// How many requests of each other kind wait for Redis at once.
const MOST_JOBS: usize = 16;
/// How many requests wait for the next poll of all pools.
const MOST_WAITING: usize = 128;

/// Answers in one callback, and their bytes: Envoy carries all of them out after it, one within the other.
const PORTION: (usize, usize) = (32, 256_000);
/// The scripts it runs.
const SCRIPTS: [Script; 3] = [Script::Inspect, Script::Control, Script::Account];

/// The effects of an event. The host carries them out after each one.
#[derive(Debug, Default)]
pub struct Output {
    /// Answers to requests that waited: stream and answer. The host takes them by [`Output::portion`].
    pub answers: VecDeque<(u32, Response)>,
    /// [`Console::on_counters`] is wanted, before any other event.
    pub counters: bool,
    /// These accounts' counters are shown from now on, by the index of their pool; `None`: the same as before.
    pub shown: Option<Vec<(usize, String)>>,
}

impl Output {
    /// The answers that one callback may give. When more are left, the host comes again by a tick.
    #[must_use]
    pub fn portion(&mut self) -> Vec<(u32, Response)> {
        let (most, most_bytes) = PORTION;
        let (mut portion, mut bytes) = (Vec::new(), 0_usize);
        while portion.len() < most && bytes < most_bytes {
            let Some(answer) = self.answers.pop_front() else {
                break;
            };
            bytes = bytes.saturating_add(answer.1.body.len());
            portion.push(answer);
        }
        portion
    }
}

/// How a request goes on when its headers or its body are there.
#[derive(Debug, PartialEq)]
pub enum NextStep {
    /// It is answered.
    Answer(Response),
    /// It waits for its body.
    Body,
    /// It waits for Redis.
    Wait,
}

/// A request whose body is still to come.
#[derive(Debug)]
struct Body {
    stream: u32,
    route: Route,
    deadline_ms: u64,
}

/// One worker's console.
#[derive(Debug)]
pub struct Console {
    config: Config,
    keys: Vec<LedgerCommands>,
    pipe: Connection<Owner>,
    random: Rng,
    /// Why the pipe was lost last.
    lost: String,
    /// Explanations that wait for their turn are in the order they came.
    jobs: VecDeque<Job>,
    /// The oldest first.
    bodies: VecDeque<Body>,
    /// Streams that get the next poll's answer, and those that get the answer of the one under way.
    waiting: Vec<u32>,
    served: Vec<u32>,
    /// Streams that get what this Envoy knows without Redis.
    watching: Vec<u32>,
    /// The accounts whose counters are shown, by the index of their pool.
    shown: Vec<(usize, String)>,
    /// The last scan was a poll: an explanation goes first.
    last_polled: bool,
    pace: Pace,
    output: Output,
}

impl Console {
    /// Nothing is opened yet. `seed` must be random: it keeps consoles from opening their pipes all at once.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let keys = config
            .pools
            .iter()
            .map(|pool| LedgerCommands::new(&config.redis.key_prefix, pool))
            .collect();
        Self {
            config,
            keys,
            pipe: Connection::new(&SCRIPTS, false),
            random: Rng::with_seed(seed),
            lost: String::new(),
            jobs: VecDeque::new(),
            bodies: VecDeque::new(),
            waiting: Vec::new(),
            served: Vec::new(),
            watching: Vec::new(),
            shown: Vec::new(),
            last_polled: false,
            pace: Pace::default(),
            output: Output::default(),
        }
    }

    /// The configuration it runs on.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The effects that the host must carry out now.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// What the host must open, drop or send.
    pub fn wire(&mut self) -> &mut Wire {
        self.pipe.wire()
    }

    /// Whether the host has something to do: for the pipe, or answers to hand out.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.pipe.has_work() || !self.output.answers.is_empty()
    }

    /// When [`Console::on_tick`] is wanted next, in ms.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        let pipe_ms = self.pipe.next_wake_ms(&self.config.redis);
        let turn_ms = self.next_turn_ms().filter(|_| self.pipe.is_ready());
        let jobs_ms = self.jobs.iter().filter_map(|job| job.deadline_ms).min();
        let body_ms = self.bodies.front().map(|body| body.deadline_ms);
        let held_ms = self.pace.next_wake_ms();
        let wakes = [pipe_ms, turn_ms, jobs_ms, body_ms, held_ms];
        wakes.into_iter().flatten().min()
    }

    /// When the next scan may begin, if one is wanted and none is under way.
    fn next_turn_ms(&self) -> Option<u64> {
        if self.jobs.iter().any(Job::scans) {
            return None;
        }
        let poll_ms = (!self.waiting.is_empty()).then_some(self.pace.next_poll_ms);
        let explain_ms = self.next_explain().map(|_| 0);
        let begin_ms = poll_ms.into_iter().chain(explain_ms).min()?;
        Some(begin_ms.max(self.pace.next_scan_ms))
    }

    fn next_explain(&self) -> Option<Owner> {
        let turn = |job: &&Job| job.wants == Wants::Explain(Part::Turn);
        self.jobs.iter().find(turn).map(|job| job.owner)
    }

    /// Request headers arrived; `ends`: no body follows.
    pub fn on_request(
        &mut self,
        now_ms: u64,
        stream: u32,
        headers: Headers,
        ends: bool,
    ) -> NextStep {
        let heard = match admit(&self.config, headers) {
            Ok(Route::Part(content_type, text)) => {
                NextStep::Answer(Response::text(content_type, text.into()))
            }
            Ok(Route::Status) => self.wait_for_poll(now_ms, stream),
            Ok(Route::Envoy) => self.wait_for_counters(stream),
            Ok(Route::Token) => NextStep::Answer(token_is_right()),
            Ok(route) if ends => self.follow(now_ms, stream, route, &[]),
            Ok(route) => self.wait_for_body(now_ms, stream, route),
            Err(refusal) => NextStep::Answer(refusal),
        };
        self.paced(now_ms, stream, heard)
    }

    /// The whole body arrived, or more than [`MAX_BODY`] bytes of it.
    pub fn on_body(&mut self, now_ms: u64, stream: u32, body: &[u8]) -> NextStep {
        let place = self.bodies.iter().position(|body| body.stream == stream);
        let Some(Body { route, .. }) = place.and_then(|place| self.bodies.remove(place)) else {
            return NextStep::Wait;
        };
        let heard = self.follow(now_ms, stream, route, body);
        self.paced(now_ms, stream, heard)
    }

    fn wait_for_counters(&mut self, stream: u32) -> NextStep {
        if self.watching.len() >= MOST_WAITING {
            return NextStep::Answer(crowded());
        }
        self.watching.push(stream);
        self.output.counters = true;
        NextStep::Wait
    }

    fn wait_for_poll(&mut self, now_ms: u64, stream: u32) -> NextStep {
        if self.waiting.len() >= MOST_WAITING {
            return NextStep::Answer(crowded());
        }
        if let Err(refusal) = self.want_pipe(now_ms) {
            return NextStep::Answer(refusal);
        }
        self.waiting.push(stream);
        self.take_turn(now_ms);
        NextStep::Wait
    }

    /// A body that comes together with its headers needs its place for no time at all, so that slow ones keep nobody out.
    fn wait_for_body(&mut self, now_ms: u64, stream: u32, route: Route) -> NextStep {
        let writes = route.changes();
        let same = |body: &&Body| body.route.changes() == writes;
        if self.bodies.iter().filter(same).count() >= MOST_BODIES {
            let oldest = self.bodies.iter().position(|body| same(&body));
            if let Some(oldest) = oldest.and_then(|place| self.bodies.remove(place)) {
                self.give(now_ms, oldest.stream, no_body());
            }
        }
        self.bodies.push_back(Body {
            stream,
            route,
            deadline_ms: now_ms.saturating_add(BODY_MS),
        });
        NextStep::Body
    }

    /// Does what a request asks for.
    fn follow(&mut self, now_ms: u64, stream: u32, route: Route, body: &[u8]) -> NextStep {
        if body.len() > MAX_BODY {
            return NextStep::Answer(too_long());
        }
        let mut ask = match ask(&self.config, route, body) {
            Err(refusal) => return NextStep::Answer(refusal),
            Ok(ask) => ask,
        };
        let mut job = Job::new(Owner::Stream(stream), Wants::Change);
        job.pool = ask.pool;
        if let Some(recall) = &mut ask.recall {
            job.wants = Wants::Recall(Step::Put);
            // Who asks the same in the same ms may well get the same answer.
            let mut asked = recall.question().into_bytes();
            asked.extend_from_slice(&now_ms.to_le_bytes());
            asked.extend_from_slice(&stream.to_le_bytes());
            let mut digits = [0; 16];
            hex(u128::from_le_bytes(hash128(&asked)) as u64, &mut digits);
            recall.nonce = text(&digits).unwrap_or_default();
        } else if ask.action.0.is_empty() {
            job.wants = Wants::Explain(Part::Turn);
            job.question.random = self.config.random;
            job.question.scope = ask.scope.take();
            job.question.session = ask.session.take().map(|session| (session, None));
        }
        job.ask = Some(ask);
        let kind = discriminant(&job.wants);
        let same = |job: &&Job| discriminant(&job.wants) == kind;
        let most = match job.wants {
            Wants::Explain(_) => MOST_EXPLAINS,
            Wants::Poll | Wants::Change | Wants::Recall(_) => MOST_JOBS,
        };
        if self.jobs.iter().filter(same).count() >= most {
            return NextStep::Answer(crowded());
        }
        if let Err(refusal) = self.want_pipe(now_ms) {
            return NextStep::Answer(refusal);
        }
        let (owner, wants) = (job.owner, job.wants);
        self.jobs.push_back(job);
        if wants == Wants::Explain(Part::Turn) {
            self.take_turn(now_ms);
        } else if self.pipe.is_ready() {
            self.write(now_ms, owner, 0);
        }
        NextStep::Wait
    }

    /// Opens the pipe if needed. While it is known to be gone, the error is the response that refuses the request.
    fn want_pipe(&mut self, now_ms: u64) -> Result<(), Response> {
        if self.pipe.want(now_ms) {
            Ok(())
        } else {
            Err(unavailable(&self.lost, false))
        }
    }

    /// Holds an answer back when too many are asked for.
    fn paced(&mut self, now_ms: u64, stream: u32, heard: NextStep) -> NextStep {
        let NextStep::Answer(response) = heard else {
            return heard;
        };
        match self.pace.hold(now_ms, stream, response) {
            Some(response) => NextStep::Answer(response),
            None => NextStep::Wait,
        }
    }

    /// The same for a request that waited already.
    fn give(&mut self, now_ms: u64, stream: u32, response: Response) {
        if let Some(response) = self.pace.hold(now_ms, stream, response) {
            self.output.answers.push_back((stream, response));
        }
    }

    /// Begins the next scan, if it is time: a poll, or one explanation.
    fn take_turn(&mut self, now_ms: u64) {
        let is_time = self.next_turn_ms().is_some_and(|turn_ms| turn_ms <= now_ms);
        if !self.pipe.is_ready() || !is_time {
            return;
        }
        let poll = !self.waiting.is_empty() && self.pace.next_poll_ms <= now_ms;
        let explain = self.next_explain();
        let owner = match explain {
            Some(owner) if !poll || self.last_polled => owner,
            _ => {
                self.served = std::mem::take(&mut self.waiting);
                self.pace.polled(now_ms);
                self.output.counters = true;
                self.jobs.push_back(Job::new(Owner::Poll, Wants::Poll));
                Owner::Poll
            }
        };
        self.last_polled = owner == Owner::Poll;
        if let Some(job) = self.jobs.iter_mut().find(|job| job.owner == owner)
            && job.wants == Wants::Explain(Part::Turn)
        {
            job.wants = Wants::Explain(Part::Session);
        }
        self.write(now_ms, owner, 0);
    }

    /// Takes the counters of this Envoy, as JSON: a poll begins with them, and who asks for nothing else gets them.
    pub fn on_counters(&mut self, counters: &str) {
        let writable = self.config.token.is_some();
        let percent = self.config.gray;
        if let Some(poll) = self.jobs.iter_mut().find(|job| job.owner == Owner::Poll) {
            let json = &mut poll.json;
            json.raw("{").name("version").text(VERSION);
            json.name("writable").flag(writable);
            json.name("percent_configured").percent(percent);
            json.name("counters").raw(counters);
            json.name("pools").raw("[");
        }
        if self.watching.is_empty() {
            return;
        }
        let lost = Some(self.lost.as_str());
        let lost = lost.filter(|lost| !lost.is_empty() && !self.pipe.is_ready());
        let mut json = Json::default();
        json.raw("{").name("version").text(VERSION);
        json.name("writable").flag(writable);
        json.name("counters").raw(counters);
        json.name("redis").text_or_null(lost).raw("}");
        let response = Response::json(json);
        for stream in std::mem::take(&mut self.watching) {
            self.output.answers.push_back((stream, response.clone()));
        }
    }

    #[inline(never)]
    fn take(&mut self, owner: Owner) -> Option<Job> {
        let place = self.jobs.iter().position(|job| job.owner == owner)?;
        self.jobs.remove(place)
    }

    /// The client is gone, or has its answer.
    pub fn on_end(&mut self, stream: u32) {
        self.take(Owner::Stream(stream));
        self.bodies.retain(|body| body.stream != stream);
        self.waiting.retain(|other| *other != stream);
        self.served.retain(|other| *other != stream);
        self.watching.retain(|other| *other != stream);
        self.pace.forget(stream);
        self.output.answers.retain(|(other, _)| *other != stream);
    }

    /// Deadlines, and the pipe's opening.
    pub fn on_tick(&mut self, now_ms: u64) {
        while self
            .bodies
            .front()
            .is_some_and(|body| body.deadline_ms <= now_ms)
            && let Some(body) = self.bodies.pop_front()
        {
            self.give(now_ms, body.stream, no_body());
        }
        while let Some(answer) = self.pace.next_due(now_ms) {
            self.output.answers.push_back(answer);
        }
        if let Some(why) = self.pipe.on_tick(now_ms, &self.config.redis) {
            self.lose_pipe(now_ms, why);
        }
        // Questions whose answer is read again.
        let late = |job: &Job| job.deadline_ms.is_some_and(|late_ms| late_ms <= now_ms);
        for place in 0..self.jobs.len() {
            if let Some(job) = self.jobs.get(place)
                && late(job)
            {
                self.write(now_ms, job.owner, 0);
            }
        }
        self.take_turn(now_ms);
    }

    /// The host opened the pipe.
    pub fn on_pipe_open(&mut self, now_ms: u64) {
        self.pipe.on_open(now_ms, &self.config.redis);
    }

    /// The pipe was closed from the other side, or could not be opened.
    pub fn on_pipe_closed(&mut self, now_ms: u64) {
        if self.pipe.can_close() {
            self.lose_pipe(now_ms, Down::Closed);
        }
    }

    /// Bytes from Redis, cut anywhere.
    pub fn on_pipe_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        let mut reader = self.pipe.reader(bytes);
        while let Some(event) = self.pipe.read(now_ms, &self.config.redis, &mut reader) {
            match event {
                // It listens to no channel.
                Event::Message => {}
                Event::Greeted => {
                    self.pipe.serve(now_ms);
                    let owners: Vec<Owner> = self.jobs.iter().map(|job| job.owner).collect();
                    for owner in owners {
                        self.write(now_ms, owner, 0);
                    }
                    self.take_turn(now_ms);
                }
                Event::Reply(sent) => self.on_answer(now_ms, &sent, reader.reply()),
                Event::Broken(why) => self.lose_pipe(now_ms, why),
            }
        }
    }

    /// Sends what a job needs next.
    fn write(&mut self, now_ms: u64, owner: Owner, tries: u8) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.owner == owner) else {
            return;
        };
        let Some(keys) = self.keys.get(job.pool) else {
            return;
        };
        if !job.needs_redis() {
            return;
        }
        job.sent = true;
        job.deadline_ms = None;
        let sent = Sent {
            command: owner,
            sent_ms: now_ms,
            tries,
        };
        self.pipe.send(sent, tries > 0, |_, out, script| {
            job.write(keys, out, script)
        });
    }

    fn on_answer(&mut self, now_ms: u64, sent: &Sent<Owner>, reply: &[u8]) {
        self.pace.read(now_ms, reply.len());
        // Whoever left needs no answer.
        if let Some(job) = self.take(sent.command) {
            self.go_on(now_ms, job, sent.tries, reply);
        }
        self.take_turn(now_ms);
    }

    /// Handles the reply to a job: an answer for its clients, or the job's next step.
    fn go_on(&mut self, now_ms: u64, mut job: Job, tries: u8, reply: &[u8]) {
        let pool = self.config.pools.get(job.pool).map_or("", String::as_str);
        let mut next_tries = 0;
        let answer = match job.hear(now_ms, pool, self.config.pools.len(), reply) {
            Ok(answer) => answer,
            Err(Fault::Mismatch) => {
                self.jobs.push_back(job);
                return self.lose_pipe(now_ms, Down::Mismatch);
            }
            // Someone flushed the scripts; the source loads it again.
            Err(Fault::NoScript) if tries == 0 => {
                next_tries = 1;
                None
            }
            Err(Fault::Garbage) => {
                let what = what_stands(reply);
                let message = ["pool ", pool, ": Redis holds what cannot be there: ", &what];
                let hint = "the next recount mends what can be derived";
                Some(Response::error(503, "garbage", &message, hint))
            }
            Err(fault) => {
                let response = refused(fault, pool, job.ask.as_ref());
                // Another one may be reached anew, and this one must be told the scripts again.
                if fault.is_wrong_server() || fault == Fault::NoScript {
                    self.lose_pipe(now_ms, Down::WrongServer(fault));
                }
                Some(response)
            }
        };
        let owner = job.owner;
        match answer {
            Some(response) => {
                if owner == Owner::Poll && job.shown != self.shown {
                    self.shown.clone_from(&job.shown);
                    self.output.shown = Some(std::mem::take(&mut job.shown));
                }
                if matches!(job.wants, Wants::Explain(_)) {
                    self.pace.explained(now_ms, &response);
                }
                self.answer(now_ms, owner, response);
            }
            None => {
                let rests = matches!(job.wants, Wants::Recall(Step::Rest { .. }));
                self.jobs.push_back(job);
                if !rests {
                    self.write(now_ms, owner, next_tries);
                }
            }
        }
    }

    fn answer(&mut self, now_ms: u64, owner: Owner, response: Response) {
        let streams = match owner {
            Owner::Poll => std::mem::take(&mut self.served),
            Owner::Stream(stream) => vec![stream],
        };
        self.pace.answered(now_ms, &response, streams.len());
        for stream in streams {
            self.output.answers.push_back((stream, response.clone()));
        }
    }

    /// Gives the pipe up, and tells every request that waits for Redis.
    fn lose_pipe(&mut self, now_ms: u64, why: Down) {
        let loss = self.pipe.lose(now_ms, why, &mut self.random);
        let timeout_ms = self.config.redis.command_timeout_ms;
        let why = loss.refusal.map(|refusal| refusal.to_string());
        let why = why.unwrap_or_else(|| reason(loss.why, timeout_ms));
        for job in std::mem::take(&mut self.jobs) {
            self.answer(now_ms, job.owner, unavailable(&why, job.changes()));
        }
        for stream in std::mem::take(&mut self.waiting) {
            let answer = unavailable(&why, false);
            self.output.answers.push_back((stream, answer));
        }
        self.lost = why;
    }
}

/// Why the pipe was lost, where the server said nothing.
fn reason(why: Down, timeout_ms: u64) -> String {
    let asked = match why {
        Down::Closed | Down::Unopened => {
            return "Redis can't be reached, or closed the connection".to_owned();
        }
        Down::Stuck => return format!("Redis did not answer within {timeout_ms} ms"),
        Down::Mismatch => return "Redis did not answer what was asked".to_owned(),
        Down::WrongServer(fault) => return ["Redis refused: ", fault.as_str()].concat(),
        Down::Auth => greeting::AUTH,
        Down::Select => greeting::SELECT,
        Down::Load => greeting::LOAD,
        Down::Refused => greeting::CONNECTION,
    };
    ["Redis did not answer ", asked, " as expected"].concat()
}
