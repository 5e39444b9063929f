//! Role `console`: the operator's page and the same as JSON. One for each worker, with a pipe of its own.
//!
//! Pure like [`crate::worker`]: each `on_…` method is an event, `now_ms` the host's monotonic clock, and what must be done
//! is left in [`Output`].

pub mod api;
mod page;

use crate::config::Console as Config;
use crate::json::Json;
use crate::ledger::commands::LedgerCommands;
use crate::ledger::fault::{Fault, garbage};
use crate::ledger::keys::session_account;
use crate::ledger::resp::{self, Value, Values};
use crate::ledger::source::{Script, ScriptRef, Sha, Shas};
use crate::ledger::view::{Pool, Question, explain, text};
use crate::pipe::down::PipeOrder;
use crate::pipe::greeting::{self, Refusal};
use crate::printable::ascii;
use crate::request::gray::hash128;
use crate::request::headers::Headers;
use crate::request::lease::hex;
use api::{
    Ask, MAX_BODY, Recall, Response, Route, admit, ask, changed, crowded, no_body, refused,
    too_long, unavailable,
};
use std::collections::VecDeque;
use std::mem::discriminant;

/// After the pipe was lost, requests are refused for so long before it is opened again, in ms.
const REST_MS: u64 = 250;
/// How long a body may take to arrive, in ms.
const BODY_MS: u64 = 2_000;
/// No more bodies are awaited at once of those who may write, and of the others: the oldest gives way to a new one.
const MOST_BODIES: usize = 8;
/// No more explanations, and no more requests of each other kind, wait for Redis at once.
const MOST_EXPLAINS: usize = 8;
const MOST_JOBS: usize = 16;
/// No more requests wait for the next look at all pools.
const MOST_WAITING: usize = 128;

// What keeps the data path going, however many clients ask as fast as they can: measured by `make bench-console`.

/// The shortest time from one look's begin to the next one's, in ms. All who ask meanwhile share the next.
const LOOK_MS: u64 = 250;
/// After a scan the next one waits for 1 ms for so many bytes from Redis, which cost Envoy's worker and Redis 0.1 ms
/// together, and for 1 ms for so many bytes to clients...
const READ_PER_MS: usize = 1_000;
const SENT_PER_MS: usize = 8_000;
/// ...and for so many ms for each answer...
const ANSWER_MS: u64 = 16;
/// ...of which an explanation counts for so many: to judge each account costs more than to read and to send it...
const EXPLAINED: u64 = 4;
/// ...but no longer than this, in ms.
const MOST_REST_MS: u64 = 5_000;
/// Answers that need no Redis have a budget of their own. So much of it may be used in advance, in ms; an answer beyond that
/// is held back.
const BURST_MS: u64 = 250;
/// No more answers are held back; those beyond are given at once.
const MOST_HELD: usize = 128;
/// Answers in one callback, and their bytes: Envoy carries all of them out after it, one within the other.
const PORTION: (usize, usize) = (32, 256_000);
/// Accounts in one page of `inspect`: Redis does nothing else meanwhile.
const PAGE: u64 = 100;
/// No more accounts of a pool are shown.
const MOST_ACCOUNTS: usize = 5_000;
/// A question about a request is looked after so often, and for so long, in ms: workers look once per `control.poll_ms`.
const RECALL_MS: (u64, u64) = (150, 2_500);
/// The question itself is kept for so long, in ms.
const QUESTION_MS: u64 = 5_000;
/// The scripts it runs.
const SCRIPTS: [Script; 2] = [Script::Inspect, Script::Control];

/// What is wanted done. The host takes it after every event.
#[derive(Debug, Default)]
pub struct Output {
    /// Bytes for the pipe.
    pub bytes: Vec<u8>,
    /// Answers to requests that waited: stream and answer. The host takes them by [`Output::portion`].
    pub answers: VecDeque<(u32, Response)>,
    /// [`Console::on_counters`] is wanted, before any other event.
    pub counters: bool,
    /// What to do with the pipe itself, before `bytes` are sent.
    pub pipe: Option<PipeOrder>,
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

/// What becomes of a request when its headers are there.
#[derive(Debug, PartialEq)]
pub enum NextStep {
    /// It is answered.
    Answer(Response),
    /// It waits for its body.
    Body,
    /// It waits for Redis.
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pipe {
    /// Not to be opened before then, in ms.
    Closed { until_ms: u64 },
    /// Ordered at the next tick: it must be opened in a root callback.
    Wanted,
    /// Ordered from the host.
    Ordered,
    /// Open, with so many replies of the greeting under way.
    Opening { replies: usize },
    /// Serving.
    Ready,
}

/// A command under way.
#[derive(Debug, Clone, Copy)]
enum Sent {
    /// AUTH or SELECT.
    Login(&'static str),
    SetName,
    Load(Script),
    Version,
    /// A job's.
    Job(Owner),
}

/// Who gets a job's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// All in [`Console::served`].
    Look,
    Stream(u32),
}

/// A request whose body is still to come.
#[derive(Debug)]
struct Body {
    stream: u32,
    route: Route,
    deadline_ms: u64,
}

/// What Redis is asked for.
#[derive(Debug)]
struct Job {
    owner: Owner,
    /// When Redis' answer is late, or a question is looked after again.
    deadline_ms: Option<u64>,
    /// Its command is on its way, or was: Redis may have done it.
    sent: bool,
    /// Its command goes with the script's source.
    again: bool,
    wants: Wants,
    /// A look: the pool that is read; else the one that is asked for.
    pool: usize,
    /// Where its scan goes on, and what it brought so far.
    cursor: String,
    seen: Pool,
    question: Question,
    /// The value of the key that holds the session. Whether the session is over is known with the pool's time.
    sessions: Vec<u8>,
    ask: Option<Ask>,
    /// The answer as far as it is written.
    json: Json,
}

/// What a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// All pools, one after the other.
    Look,
    Explain(Part),
    /// One change.
    Change,
    /// A worker's answer to a question.
    Recall(Step),
}

/// How far an explanation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Another scan is under way, or must not begin yet.
    Turn,
    /// The session's account, the scope's cooldowns, and then all accounts.
    Session,
    Scope,
    Accounts,
}

/// How far a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is put into Redis.
    Put,
    /// The answer's key is read; for the last time when the time is over, in ms.
    Read { until_ms: u64 },
    /// Nothing is under way until the job's deadline.
    Rest { until_ms: u64 },
}

impl Job {
    fn changes(&self) -> bool {
        self.sent && self.wants == Wants::Change
    }

    /// Only one at a time reads accounts.
    fn scans(&self) -> bool {
        match self.wants {
            Wants::Look | Wants::Explain(Part::Session | Part::Scope | Part::Accounts) => true,
            Wants::Explain(Part::Turn) | Wants::Change | Wants::Recall(_) => false,
        }
    }
}

/// One worker's console.
#[derive(Debug)]
pub struct Console {
    config: Config,
    keys: Vec<LedgerCommands>,
    shas: Shas,
    pipe: Pipe,
    /// Why it was lost last.
    lost: String,
    /// What the server last said against the greeting.
    refusal: Option<Refusal>,
    /// Under way, in order.
    pending: Vec<Sent>,
    inbox: Vec<u8>,
    /// Explanations that wait for their turn are in the order they came.
    jobs: VecDeque<Job>,
    /// The oldest first.
    bodies: VecDeque<Body>,
    /// The pipe must be ready by then, in ms.
    ready_by_ms: u64,
    /// Streams that get the next look's answer, and those that get the answer of the one under way.
    waiting: Vec<u32>,
    served: Vec<u32>,
    /// No look, and no scan of any kind, begins before then, in ms.
    next_look_ms: u64,
    next_scan_ms: u64,
    /// The last scan was a look: an explanation goes first.
    looked: bool,
    /// Answers that are held back: when each is due, in ms, its stream and the answer.
    held: VecDeque<(u64, u32, Response)>,
    /// Until when the budget for answers is used up, in ms.
    used_until_ms: u64,
    output: Output,
}

impl Console {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let keys = config
            .pools
            .iter()
            .map(|pool| LedgerCommands::new(&config.redis.key_prefix, pool))
            .collect();
        Self {
            config,
            keys,
            shas: Shas([[b'0'; 40]; Script::ALL.len()]),
            pipe: Pipe::Closed { until_ms: 0 },
            lost: String::new(),
            refusal: None,
            pending: Vec::new(),
            inbox: Vec::new(),
            jobs: VecDeque::new(),
            bodies: VecDeque::new(),
            ready_by_ms: 0,
            waiting: Vec::new(),
            served: Vec::new(),
            next_look_ms: 0,
            next_scan_ms: 0,
            looked: false,
            held: VecDeque::new(),
            used_until_ms: 0,
            output: Output::default(),
        }
    }

    /// The configuration it runs on.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What must be done now.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// When [`Console::on_tick`] is wanted next, in ms; 0: at once.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        let pipe_ms = match self.pipe {
            Pipe::Wanted => Some(0),
            Pipe::Ordered | Pipe::Opening { .. } => Some(self.ready_by_ms),
            Pipe::Ready => self.next_turn_ms(),
            Pipe::Closed { .. } => None,
        };
        let jobs_ms = self.jobs.iter().filter_map(|job| job.deadline_ms).min();
        let body_ms = self.bodies.front().map(|body| body.deadline_ms);
        let held_ms = self.held.front().map(|(due_ms, ..)| *due_ms);
        let wakes = [pipe_ms, jobs_ms, body_ms, held_ms];
        wakes.into_iter().flatten().min()
    }

    /// When the next scan may begin, if one is wanted and none is under way.
    fn next_turn_ms(&self) -> Option<u64> {
        if self.jobs.iter().any(Job::scans) {
            return None;
        }
        let look_ms = (!self.waiting.is_empty()).then_some(self.next_look_ms);
        let explain_ms = self.next_explain().map(|_| 0);
        let begin_ms = look_ms.into_iter().chain(explain_ms).min()?;
        Some(begin_ms.max(self.next_scan_ms))
    }

    fn next_explain(&self) -> Option<Owner> {
        let turn = |job: &&Job| job.wants == Wants::Explain(Part::Turn);
        self.jobs.iter().find(turn).map(|job| job.owner)
    }

    /// Request headers arrived; `ends`: with nothing behind them.
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
            Ok(Route::Status) => self.wait_for_look(now_ms, stream),
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

    fn wait_for_look(&mut self, now_ms: u64, stream: u32) -> NextStep {
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
            Wants::Look | Wants::Change | Wants::Recall(_) => MOST_JOBS,
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
        } else if self.pipe == Pipe::Ready {
            self.write(now_ms, owner);
        }
        NextStep::Wait
    }

    /// The answer that refuses it, while the pipe is known to be gone.
    fn want_pipe(&mut self, now_ms: u64) -> Result<(), Response> {
        match self.pipe {
            Pipe::Closed { until_ms } if now_ms < until_ms => {
                return Err(unavailable(&self.lost, false));
            }
            Pipe::Closed { .. } => {
                self.pipe = Pipe::Wanted;
                self.ready_by_ms = self.patience(now_ms);
            }
            Pipe::Wanted | Pipe::Ordered | Pipe::Opening { .. } | Pipe::Ready => {}
        }
        Ok(())
    }

    /// Holds an answer back when too many are asked for.
    fn paced(&mut self, now_ms: u64, stream: u32, heard: NextStep) -> NextStep {
        let NextStep::Answer(response) = heard else {
            return heard;
        };
        match self.hold(now_ms, stream, response) {
            Some(response) => NextStep::Answer(response),
            None => NextStep::Wait,
        }
    }

    /// The same for a request that waited already.
    fn give(&mut self, now_ms: u64, stream: u32, response: Response) {
        if let Some(response) = self.hold(now_ms, stream, response) {
            self.output.answers.push_back((stream, response));
        }
    }

    /// The answer, if it may be given at once.
    fn hold(&mut self, now_ms: u64, stream: u32, response: Response) -> Option<Response> {
        if self.held.len() >= MOST_HELD {
            return Some(response);
        }
        let begin_ms = self.used_until_ms.max(now_ms);
        self.used_until_ms = begin_ms.saturating_add(cost_ms(&response));
        let due_ms = self.used_until_ms.saturating_sub(BURST_MS);
        if due_ms <= now_ms {
            return Some(response);
        }
        self.held.push_back((due_ms, stream, response));
        None
    }

    /// Begins the next scan, if it is time: a look, or one explanation.
    fn take_turn(&mut self, now_ms: u64) {
        let is_time = self.next_turn_ms().is_some_and(|turn_ms| turn_ms <= now_ms);
        if self.pipe != Pipe::Ready || !is_time {
            return;
        }
        let look = !self.waiting.is_empty() && self.next_look_ms <= now_ms;
        let explain = self.next_explain();
        let owner = match explain {
            Some(owner) if !look || self.looked => owner,
            _ => {
                self.served = std::mem::take(&mut self.waiting);
                self.next_look_ms = now_ms.saturating_add(LOOK_MS);
                self.output.counters = true;
                self.jobs.push_back(Job::new(Owner::Look, Wants::Look));
                Owner::Look
            }
        };
        self.looked = owner == Owner::Look;
        if let Some(job) = self.jobs.iter_mut().find(|job| job.owner == owner)
            && job.wants == Wants::Explain(Part::Turn)
        {
            job.wants = Wants::Explain(Part::Session);
        }
        self.write(now_ms, owner);
    }

    /// No scan begins until so much more time has passed.
    fn rest(&mut self, now_ms: u64, rest_ms: u64) {
        let until_ms = self.next_scan_ms.max(now_ms).saturating_add(rest_ms);
        self.next_scan_ms = until_ms.min(now_ms.saturating_add(MOST_REST_MS));
    }

    /// What this Envoy has counted, as JSON: a look begins with it.
    pub fn on_counters(&mut self, counters: &str) {
        let writable = self.config.token.is_some();
        let percent = self.config.gray;
        if let Some(look) = self.jobs.iter_mut().find(|job| job.owner == Owner::Look) {
            let json = &mut look.json;
            json.raw("{").name("writable").flag(writable);
            json.name("percent_configured").percent(percent);
            json.name("counters").raw(counters);
            json.name("pools").raw("[");
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
        // What it would have cost is nobody's: who leaves must not make others wait.
        let mut given_back_ms: u64 = 0;
        self.held.retain(|(_, other, response)| {
            let stays = *other != stream;
            if !stays {
                given_back_ms = given_back_ms.saturating_add(cost_ms(response));
            }
            stays
        });
        self.used_until_ms = self.used_until_ms.saturating_sub(given_back_ms);
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
        while self
            .held
            .front()
            .is_some_and(|(due_ms, ..)| *due_ms <= now_ms)
            && let Some((_, stream, response)) = self.held.pop_front()
        {
            self.output.answers.push_back((stream, response));
        }
        let late = |job: &Job| job.deadline_ms.is_some_and(|late_ms| late_ms <= now_ms);
        let rests = |job: &Job| matches!(job.wants, Wants::Recall(Step::Rest { .. }));
        let opens = matches!(self.pipe, Pipe::Ordered | Pipe::Opening { .. });
        if opens && self.ready_by_ms <= now_ms
            || self.jobs.iter().any(|job| late(job) && !rests(job))
        {
            let ms = self.config.redis.command_timeout_ms.to_string();
            let why = ["Redis did not answer within ", &ms, " ms"].concat();
            self.drop_pipe(now_ms, &why);
        }
        for place in 0..self.jobs.len() {
            if let Some(job) = self.jobs.get(place)
                && late(job)
                && rests(job)
            {
                self.write(now_ms, job.owner);
            }
        }
        self.take_turn(now_ms);
        if self.pipe == Pipe::Wanted {
            self.pipe = Pipe::Ordered;
            self.output.pipe = Some(PipeOrder::Open);
        }
    }

    /// The host opened the pipe.
    pub fn on_pipe_open(&mut self) {
        let redis = &self.config.redis;
        let out = &mut self.output.bytes;
        if !redis.password.0.is_empty() {
            greeting::auth(out, redis);
            self.pending.push(Sent::Login(greeting::AUTH));
        }
        if redis.database != 0 {
            greeting::select(out, redis);
            self.pending.push(Sent::Login(greeting::SELECT));
        }
        greeting::set_name(out);
        self.pending.push(Sent::SetName);
        for script in SCRIPTS {
            greeting::load(out, script);
            self.pending.push(Sent::Load(script));
        }
        self.refusal = None;
        self.pipe = Pipe::Opening {
            replies: self.pending.len(),
        };
    }

    /// The pipe was closed from the other side, or could not be opened.
    pub fn on_pipe_closed(&mut self, now_ms: u64) {
        match self.pipe {
            Pipe::Closed { .. } | Pipe::Wanted => {}
            // Nobody was hurt: the next request opens it.
            Pipe::Ready if self.jobs.is_empty() && self.waiting.is_empty() => {
                self.pending.clear();
                self.inbox.clear();
                self.pipe = Pipe::Closed { until_ms: now_ms };
            }
            Pipe::Ordered | Pipe::Opening { .. } | Pipe::Ready => {
                let why = match self.refusal.take() {
                    Some(mut refusal) => {
                        refusal.set_closed();
                        refusal.to_string()
                    }
                    None => "Redis can't be reached, or closed the connection".to_owned(),
                };
                self.lose(now_ms, &why);
            }
        }
    }

    /// Bytes from Redis, cut anywhere.
    pub fn on_pipe_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.extend_from_slice(bytes);
        let mut rest = inbox.as_slice();
        while matches!(self.pipe, Pipe::Opening { .. } | Pipe::Ready) {
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
                Ok(None) | Err(_) => self.confused(now_ms),
            }
        }
    }

    fn on_reply(&mut self, now_ms: u64, reply: &[u8]) {
        if self.pending.is_empty() {
            return self.confused(now_ms);
        }
        let mut pending = std::mem::take(&mut self.pending).into_iter();
        let sent = pending.next();
        self.pending = pending.collect();
        let value = Values::new(reply).value();
        let asked = match sent {
            Some(Sent::Job(owner)) => return self.on_answer(now_ms, owner, reply),
            Some(Sent::Version) => {
                if let Some(refusal) = &mut self.refusal {
                    refusal.set_version(reply);
                }
                return self.drop_refused(now_ms, "");
            }
            Some(Sent::Login(command)) => command,
            Some(Sent::SetName) | None => greeting::SET_NAME,
            Some(Sent::Load(_)) => greeting::LOAD,
        };
        self.refusal = match value {
            Some(Value::Error(error)) => {
                Some(Refusal::new(asked, error, &self.config.redis.password.0))
            }
            Some(_) | None => None,
        };
        let refusal = self.refusal.as_ref();
        match (sent, value) {
            _ if refusal.is_some_and(Refusal::turned_away) => {
                return self.drop_refused(now_ms, asked);
            }
            _ if refusal.is_some_and(Refusal::is_too_old) => {
                let version = |sent: &Sent| matches!(sent, Sent::Version);
                if !self.pending.iter().any(version) {
                    greeting::version(&mut self.output.bytes);
                    self.pending.push(Sent::Version);
                }
                return;
            }
            // Without the right to it there is no name, no more.
            (Some(Sent::SetName | Sent::Version | Sent::Job(_)) | None, _) => {}
            (Some(Sent::Login(_)), Some(Value::Simple(b"OK"))) => {}
            (Some(Sent::Login(command)), _) => return self.drop_refused(now_ms, command),
            (Some(Sent::Load(script)), Some(Value::Bulk(sha))) => {
                for (other, place) in Script::ALL.iter().zip(&mut self.shas.0) {
                    if *other == script {
                        *place = Sha::try_from(sha).unwrap_or(*place);
                    }
                }
            }
            (Some(Sent::Load(_)), _) => return self.drop_refused(now_ms, asked),
        }
        if let Pipe::Opening { replies } = &mut self.pipe {
            *replies = replies.saturating_sub(1);
            if *replies == 0 {
                self.pipe = Pipe::Ready;
                self.refusal = None;
                let owners: Vec<Owner> = self.jobs.iter().map(|job| job.owner).collect();
                for owner in owners {
                    self.write(now_ms, owner);
                }
                self.take_turn(now_ms);
            }
        }
    }

    /// Sends what a job needs next.
    fn write(&mut self, now_ms: u64, owner: Owner) {
        let deadline_ms = self.patience(now_ms);
        let Some(job) = self.jobs.iter_mut().find(|job| job.owner == owner) else {
            return;
        };
        let Some(keys) = self.keys.get(job.pool) else {
            return;
        };
        let by = if job.again {
            ScriptRef::Source
        } else {
            ScriptRef::Sha(&self.shas)
        };
        let out = &mut self.output.bytes;
        if job.wants == Wants::Explain(Part::Session) && job.question.session.is_none() {
            job.wants = Wants::Explain(Part::Scope);
        }
        if job.wants == Wants::Explain(Part::Scope) && job.question.scope.is_none() {
            job.wants = Wants::Explain(Part::Accounts);
        }
        if let Wants::Recall(Step::Rest { until_ms }) = job.wants {
            job.wants = Wants::Recall(Step::Read { until_ms });
        }
        let hash = |text: Option<&str>| text.map(|text| hash128(text.as_bytes()));
        let question = &job.question;
        match (job.wants, &job.ask) {
            (Wants::Explain(Part::Turn), _) | (Wants::Change, None) => return,
            (Wants::Recall(Step::Put), ask) => {
                let recall = ask.as_ref().and_then(|ask| ask.recall.as_ref());
                let question = recall.map(Recall::question).unwrap_or_default();
                keys.put_question(out, &question, QUESTION_MS);
            }
            (Wants::Recall(Step::Read { .. } | Step::Rest { .. }), _) => keys.read_answer(out),
            (Wants::Explain(Part::Session), _) => {
                let session = question.session.as_ref();
                let hash = hash(session.map(|(session, _)| session.as_str()));
                keys.session(out, &hash.unwrap_or_default());
            }
            (Wants::Explain(Part::Scope), _) => {
                let hash = hash(question.scope.as_deref());
                keys.scope(out, &hash.unwrap_or_default());
            }
            (Wants::Look | Wants::Explain(Part::Accounts), _) => {
                let cursor = match job.cursor.as_str() {
                    "" => "0",
                    cursor => cursor,
                };
                keys.inspect(out, by, cursor, PAGE);
            }
            (Wants::Change, Some(ask)) => {
                let session = hash(ask.session.as_deref());
                keys.control(out, by, ask.action.1, &ask.subject, session.as_ref());
            }
        }
        job.sent = true;
        job.deadline_ms = Some(deadline_ms);
        self.pending.push(Sent::Job(owner));
    }

    fn on_answer(&mut self, now_ms: u64, owner: Owner, reply: &[u8]) {
        self.rest(now_ms, ms(reply.len(), READ_PER_MS).saturating_add(1));
        // Whoever left needs no answer.
        if let Some(job) = self.take(owner) {
            self.go_on(now_ms, job, reply);
        }
        self.take_turn(now_ms);
    }

    /// What a reply to a job brings about.
    fn go_on(&mut self, now_ms: u64, mut job: Job, reply: &[u8]) {
        let pool = self.config.pools.get(job.pool).map_or("", String::as_str);
        let answer = match job.hear(now_ms, pool, self.config.pools.len(), reply) {
            Ok(answer) => answer,
            Err(Fault::Mismatch) => {
                self.jobs.push_back(job);
                return self.confused(now_ms);
            }
            // Someone flushed the scripts; the source loads it again.
            Err(Fault::NoScript) if !job.again => {
                job.again = true;
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
                    let why = ["Redis refused: ", fault.as_str()].concat();
                    self.drop_pipe(now_ms, &why);
                }
                Some(response)
            }
        };
        let owner = job.owner;
        match answer {
            Some(response) => {
                if matches!(job.wants, Wants::Explain(_)) {
                    let more_ms = cost_ms(&response).saturating_mul(EXPLAINED.saturating_sub(1));
                    self.rest(now_ms, more_ms);
                }
                self.answer(now_ms, owner, response);
            }
            None => {
                let rests = matches!(job.wants, Wants::Recall(Step::Rest { .. }));
                self.jobs.push_back(job);
                if !rests {
                    self.write(now_ms, owner);
                }
            }
        }
    }

    fn answer(&mut self, now_ms: u64, owner: Owner, response: Response) {
        let streams = match owner {
            Owner::Look => std::mem::take(&mut self.served),
            Owner::Stream(stream) => vec![stream],
        };
        let cost_ms = cost_ms(&response).saturating_mul(streams.len() as u64);
        self.rest(now_ms, cost_ms);
        for stream in streams {
            self.output.answers.push_back((stream, response.clone()));
        }
    }

    fn patience(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.config.redis.command_timeout_ms)
    }

    fn confused(&mut self, now_ms: u64) {
        self.drop_pipe(now_ms, "Redis did not answer what was asked");
    }

    /// The server refused a part of the greeting; without words of its own it answered something else.
    fn drop_refused(&mut self, now_ms: u64, asked: &str) {
        let why = match self.refusal.take() {
            Some(refusal) => refusal.to_string(),
            None => ["Redis did not answer ", asked, " as expected"].concat(),
        };
        self.drop_pipe(now_ms, &why);
    }

    fn drop_pipe(&mut self, now_ms: u64, why: &str) {
        self.output.pipe = Some(PipeOrder::Reset);
        self.lose(now_ms, why);
    }

    /// Everyone who waits for Redis is told.
    fn lose(&mut self, now_ms: u64, why: &str) {
        self.pipe = Pipe::Closed {
            until_ms: now_ms.saturating_add(REST_MS),
        };
        why.clone_into(&mut self.lost);
        self.refusal = None;
        self.pending.clear();
        self.inbox.clear();
        self.output.bytes.clear();
        for job in std::mem::take(&mut self.jobs) {
            self.answer(now_ms, job.owner, unavailable(why, job.changes()));
        }
        for stream in std::mem::take(&mut self.waiting) {
            let answer = unavailable(why, false);
            self.output.answers.push_back((stream, answer));
        }
    }
}

/// How much of the budget an answer costs, in ms.
fn cost_ms(response: &Response) -> u64 {
    ms(response.body.len(), SENT_PER_MS).saturating_add(ANSWER_MS)
}

/// How many ms so many bytes take, rounded down.
fn ms(bytes: usize, per_ms: usize) -> u64 {
    bytes.checked_div(per_ms).unwrap_or(0) as u64
}

/// What an error says cannot be there.
fn what_stands(reply: &[u8]) -> String {
    let said = match Values::new(reply).value() {
        Some(Value::Error(error)) => garbage(error),
        Some(_) | None => None,
    };
    ascii(said.unwrap_or(b"a value of another kind"))
}

impl Job {
    fn new(owner: Owner, wants: Wants) -> Self {
        Self {
            owner,
            deadline_ms: None,
            sent: false,
            again: false,
            wants,
            pool: 0,
            cursor: String::new(),
            seen: Pool::default(),
            question: Question::default(),
            sessions: Vec::new(),
            ask: None,
            json: Json::default(),
        }
    }

    /// What a reply means to it: an answer, or `None` when it needs more. `pool` is the name of the pool it is at.
    fn hear(
        &mut self,
        now_ms: u64,
        pool: &str,
        pools: usize,
        reply: &[u8],
    ) -> Result<Option<Response>, Fault> {
        let mut values = Values::new(reply);
        match self.wants {
            Wants::Explain(Part::Turn) => return Err(Fault::Mismatch),
            Wants::Explain(Part::Session) => {
                match values.value() {
                    Some(Value::Bulk(sessions)) => self.sessions = sessions.to_vec(),
                    Some(Value::Nil) => {}
                    other => return Err(Fault::in_place_of(other)),
                }
                self.wants = Wants::Explain(Part::Scope);
                return Ok(None);
            }
            Wants::Explain(Part::Scope) => {
                match values.value() {
                    Some(Value::Array(_)) => {}
                    other => return Err(Fault::in_place_of(other)),
                }
                while let Some(account) = values.bulk() {
                    let until_ms = values.number().unwrap_or(0);
                    let account = text(account).unwrap_or_default();
                    self.question.scope_until_ms.push((account, until_ms));
                }
                self.wants = Wants::Explain(Part::Accounts);
                return Ok(None);
            }
            Wants::Change => {
                match values.value() {
                    Some(Value::Array(2)) => {}
                    other => return Err(Fault::in_place_of(other)),
                }
                // What stood there before may be anything.
                let mut word = || Some(String::from_utf8_lossy(values.bulk()?).into_owned());
                let both = word().zip(word()).zip(self.ask.as_ref());
                let ((old, new), ask) = both.ok_or(Fault::Mismatch)?;
                return Ok(Some(changed(ask, pool, &old, &new)));
            }
            Wants::Recall(step) => return self.recall(now_ms, step, values.value()),
            Wants::Look | Wants::Explain(Part::Accounts) => {}
        }
        let mut more = false;
        match self.seen.page(reply) {
            Ok(None) => {}
            Ok(Some(_)) if self.seen.accounts.len() >= MOST_ACCOUNTS => more = true,
            Ok(Some(cursor)) => {
                self.cursor = cursor;
                return Ok(None);
            }
            // No filter has created it so far.
            Err(Fault::NoPool) if self.wants == Wants::Look => {}
            // The others are shown all the same.
            Err(Fault::Garbage) if self.wants == Wants::Look => {
                self.seen = Pool::default();
                self.seen.error = Some(what_stands(reply));
            }
            Err(fault) => return Err(fault),
        }
        let mut seen = std::mem::take(&mut self.seen);
        pool.clone_into(&mut seen.name);
        self.cursor.clear();
        if self.wants != Wants::Look {
            if let Some((session, bound)) = &mut self.question.session {
                let hash = hash128(session.as_bytes());
                *bound = session_account(&self.sessions, &hash, seen.now_ms).and_then(text);
            }
            explain(&seen, &self.question).write(&mut self.json);
        } else {
            seen.write(&mut self.json, more);
            self.pool = self.pool.saturating_add(1);
            if self.pool < pools {
                return Ok(None);
            }
            self.json.raw("]").raw("}");
        }
        Ok(Some(Response::json(std::mem::take(&mut self.json))))
    }

    fn recall(
        &mut self,
        now_ms: u64,
        step: Step,
        value: Option<Value>,
    ) -> Result<Option<Response>, Fault> {
        let (rest_ms, most_ms) = RECALL_MS;
        let ask = self.ask.as_ref();
        let recall = ask.and_then(|ask| ask.recall.as_ref());
        let (recall, until_ms) = match (step, value, recall) {
            (Step::Put, Some(Value::Simple(b"OK")), Some(recall)) => {
                (recall, now_ms.saturating_add(most_ms))
            }
            (Step::Read { until_ms }, Some(Value::Nil), Some(recall)) => (recall, until_ms),
            (Step::Read { until_ms }, Some(Value::Bulk(answer)), Some(recall)) => {
                if let Some(told) = recall.told(answer) {
                    return Ok(Some(told));
                }
                (recall, until_ms)
            }
            (_, other, _) => return Err(Fault::in_place_of(other)),
        };
        if now_ms >= until_ms {
            return Ok(Some(recall.forgotten()));
        }
        self.wants = Wants::Recall(Step::Rest { until_ms });
        self.deadline_ms = Some(now_ms.saturating_add(rest_ms));
        Ok(None)
    }
}
