//! Role `console`: the operator's page and the same as JSON. One for each worker, with a pipe of its own.
//!
//! Pure like [`crate::worker`]: each `on_…` method is an event, `now_ms` the host's monotonic clock, and what must be done
//! is left in [`Output`].

pub mod api;

use crate::config::Console as Config;
use crate::gray::hash128;
use crate::headers::Headers;
use crate::json::Json;
use crate::lease::hex;
use crate::ledger::greeting;
use crate::ledger::resp::{self, Value, Values};
use crate::ledger::script::{By, Fault, PoolKeys, Script, Sha, Shas, garbage, printable};
use crate::ledger::view::{Pool, Question, explain, text};
use crate::worker::PipeOrder;
use api::{Ask, Recall, Response, Route, admit, ask, changed, refused, unavailable};

/// After the pipe was lost, requests are refused for so long before it is opened again, in ms.
const REST_MS: u64 = 250;
/// How long a body may take to arrive, in ms.
const BODY_MS: u64 = 5_000;
/// More requests at once are refused.
const MOST_JOBS: usize = 32;
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
    /// Answers to requests that waited: stream and answer.
    pub answers: Vec<(u32, Response)>,
    /// What to do with the pipe itself, before `bytes` are sent.
    pub pipe: Option<PipeOrder>,
}

/// What becomes of a request when its headers are there.
#[derive(Debug, PartialEq)]
pub enum Heard {
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
    /// A request's, by its stream.
    Job(u32),
}

/// A request that waits.
#[derive(Debug)]
struct Job {
    stream: u32,
    deadline_ms: u64,
    /// Its command is on its way, or was: Redis may have done it.
    sent: bool,
    /// Its command goes with the script's source.
    again: bool,
    wants: Wants,
    /// Status: the pool that is read; else the one that is asked for.
    pool: usize,
    /// Where its scan goes on, and what it brought so far.
    cursor: String,
    seen: Pool,
    question: Question,
    ask: Option<Ask>,
    /// The answer as far as it is written.
    json: Json,
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// Its body.
    Body(Route),
    /// All pools, one after the other.
    Status,
    /// The session's account, the scope's cooldowns, and then all accounts.
    Session,
    Scope,
    Accounts,
    /// One change.
    Change,
    /// A worker's answer to a question.
    Recall(Step),
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
}

/// One worker's console.
#[derive(Debug)]
pub struct Console {
    config: Config,
    keys: Vec<PoolKeys>,
    shas: Shas,
    pipe: Pipe,
    /// Why it was lost last.
    lost: String,
    /// Under way, in order.
    pending: Vec<Sent>,
    inbox: Vec<u8>,
    jobs: Vec<Job>,
    output: Output,
}

impl Console {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let keys = config
            .pools
            .iter()
            .map(|pool| PoolKeys::new(&config.redis.key_prefix, pool))
            .collect();
        Self {
            config,
            keys,
            shas: Shas([[b'0'; 40]; Script::ALL.len()]),
            pipe: Pipe::Closed { until_ms: 0 },
            lost: String::new(),
            pending: Vec::new(),
            inbox: Vec::new(),
            jobs: Vec::new(),
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
        if self.pipe == Pipe::Wanted {
            return Some(0);
        }
        self.jobs.iter().map(|job| job.deadline_ms).min()
    }

    /// Request headers arrived; `ends`: with nothing behind them. `counters` answers, as JSON, what this Envoy has counted.
    pub fn on_request(
        &mut self,
        now_ms: u64,
        stream: u32,
        headers: Headers,
        ends: bool,
        counters: &dyn Fn() -> String,
    ) -> Heard {
        let route = match admit(&self.config, headers) {
            Ok(Route::Part(content_type, text)) => {
                return Heard::Answer(Response::text(content_type, text.to_owned()));
            }
            Ok(route) => route,
            Err(refusal) => return Heard::Answer(refusal),
        };
        if self.jobs.len() >= MOST_JOBS {
            return Heard::Answer(unavailable("too many requests at once", false));
        }
        let mut job = Job {
            stream,
            deadline_ms: now_ms.saturating_add(BODY_MS),
            sent: false,
            again: false,
            wants: Wants::Body(route),
            pool: 0,
            cursor: String::new(),
            seen: Pool::default(),
            question: Question::default(),
            ask: None,
            json: Json::default(),
        };
        if route == Route::Status {
            job.wants = Wants::Status;
            let json = &mut job.json;
            json.raw("{").name("writable");
            json.flag(self.config.token.is_some());
            json.name("percent_configured").percent(self.config.gray);
            json.name("counters").raw(&counters());
            json.name("pools").raw("[");
            return self.begin(now_ms, job);
        }
        self.jobs.push(job);
        if ends {
            self.on_body(now_ms, stream, &[])
        } else {
            Heard::Body
        }
    }

    /// The whole body arrived.
    pub fn on_body(&mut self, now_ms: u64, stream: u32, body: &[u8]) -> Heard {
        let Some(mut job) = self.take(stream) else {
            return Heard::Wait;
        };
        let Wants::Body(route) = job.wants else {
            return Heard::Wait;
        };
        let mut ask = match ask(&self.config, route, body) {
            Err(refusal) => return Heard::Answer(refusal),
            Ok(ask) => ask,
        };
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
            job.wants = Wants::Session;
            job.question.random = self.config.random;
            job.question.scope = ask.scope.take();
            job.question.session = ask.session.take().map(|session| (session, None));
        } else {
            job.wants = Wants::Change;
        }
        job.ask = Some(ask);
        self.begin(now_ms, job)
    }

    fn begin(&mut self, now_ms: u64, mut job: Job) -> Heard {
        match self.pipe {
            Pipe::Closed { until_ms } if now_ms < until_ms => {
                return Heard::Answer(unavailable(&self.lost, false));
            }
            Pipe::Closed { .. } => self.pipe = Pipe::Wanted,
            Pipe::Wanted | Pipe::Ordered | Pipe::Opening { .. } | Pipe::Ready => {}
        }
        let stream = job.stream;
        job.deadline_ms = self.patience(now_ms);
        self.jobs.push(job);
        if self.pipe == Pipe::Ready {
            self.write(now_ms, stream);
        }
        Heard::Wait
    }

    #[inline(never)]
    fn take(&mut self, stream: u32) -> Option<Job> {
        let place = self.jobs.iter().position(|job| job.stream == stream)?;
        // Their order means nothing.
        let last = self.jobs.pop()?;
        match self.jobs.get_mut(place) {
            Some(job) => Some(std::mem::replace(job, last)),
            None => Some(last),
        }
    }

    /// The client is gone, or has its answer.
    pub fn on_end(&mut self, stream: u32) {
        self.take(stream);
    }

    /// Deadlines, and the pipe's opening.
    pub fn on_tick(&mut self, now_ms: u64) {
        let late = |job: &Job| job.deadline_ms <= now_ms;
        let waits = |job: &Job| matches!(job.wants, Wants::Body(_));
        while let Some(stream) = self
            .jobs
            .iter()
            .find(|job| late(job) && waits(job))
            .map(|job| job.stream)
        {
            self.take(stream);
            let hint = "allow_on_headers_stop_iteration: true in the console's PluginConfig";
            let answer = Response::error(408, "no_body", &["the body did not arrive"], hint);
            self.output.answers.push((stream, answer));
        }
        let rests = |job: &Job| matches!(job.wants, Wants::Recall(Step::Rest { .. }));
        if self.jobs.iter().any(|job| late(job) && !rests(job)) {
            let ms = self.config.redis.command_timeout_ms.to_string();
            let why = ["Redis did not answer within ", &ms, " ms"].concat();
            self.drop_pipe(now_ms, &why);
        }
        for place in 0..self.jobs.len() {
            if let Some(job) = self.jobs.get(place)
                && late(job)
                && rests(job)
            {
                self.write(now_ms, job.stream);
            }
        }
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
            self.pending.push(Sent::Login("AUTH"));
        }
        if redis.database != 0 {
            greeting::select(out, redis);
            self.pending.push(Sent::Login("SELECT"));
        }
        greeting::set_name(out);
        self.pending.push(Sent::SetName);
        for script in SCRIPTS {
            greeting::load(out, script);
            self.pending.push(Sent::Load(script));
        }
        self.pipe = Pipe::Opening {
            replies: self.pending.len(),
        };
    }

    /// The pipe was closed from the other side, or could not be opened.
    pub fn on_pipe_closed(&mut self, now_ms: u64) {
        match self.pipe {
            Pipe::Closed { .. } | Pipe::Wanted => {}
            // Nobody was hurt: the next request opens it.
            Pipe::Ready if self.jobs.is_empty() => {
                self.pending.clear();
                self.inbox.clear();
                self.pipe = Pipe::Closed { until_ms: now_ms };
            }
            Pipe::Ordered | Pipe::Opening { .. } | Pipe::Ready => {
                self.lose(now_ms, "Redis can't be reached, or closed the connection");
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
        match (sent, value) {
            (Some(Sent::Job(stream)), _) => return self.on_answer(now_ms, stream, reply),
            // Without the right to it there is no name, no more.
            (Some(Sent::SetName) | None, _) => {}
            (Some(Sent::Login(_)), Some(Value::Simple(b"OK"))) => {}
            (Some(Sent::Login(command)), _) => {
                return self.drop_pipe(now_ms, &["Redis refused ", command].concat());
            }
            (Some(Sent::Load(script)), Some(Value::Bulk(sha))) => {
                for (other, place) in Script::ALL.iter().zip(&mut self.shas.0) {
                    if *other == script {
                        *place = Sha::try_from(sha).unwrap_or(*place);
                    }
                }
            }
            (Some(Sent::Load(_)), value) => {
                let fault = Fault::in_place_of(value).as_str();
                return self.drop_pipe(now_ms, &["Redis refused SCRIPT LOAD: ", fault].concat());
            }
        }
        if let Pipe::Opening { replies } = &mut self.pipe {
            *replies = replies.saturating_sub(1);
            if *replies == 0 {
                self.pipe = Pipe::Ready;
                let waiting: Vec<u32> = self.jobs.iter().map(|job| job.stream).collect();
                for stream in waiting {
                    self.write(now_ms, stream);
                }
            }
        }
    }

    /// Sends what a request needs next.
    fn write(&mut self, now_ms: u64, stream: u32) {
        let deadline_ms = self.patience(now_ms);
        let Some(job) = self.jobs.iter_mut().find(|job| job.stream == stream) else {
            return;
        };
        let Some(keys) = self.keys.get(job.pool) else {
            return;
        };
        let by = if job.again {
            By::Source
        } else {
            By::Sha(&self.shas)
        };
        let out = &mut self.output.bytes;
        if job.wants == Wants::Session && job.question.session.is_none() {
            job.wants = Wants::Scope;
        }
        if job.wants == Wants::Scope && job.question.scope.is_none() {
            job.wants = Wants::Accounts;
        }
        if let Wants::Recall(Step::Rest { until_ms }) = job.wants {
            job.wants = Wants::Recall(Step::Read { until_ms });
        }
        let hash = |text: Option<&str>| text.map(|text| hash128(text.as_bytes()));
        let question = &job.question;
        match (job.wants, &job.ask) {
            (Wants::Body(_), _) | (Wants::Change, None) => return,
            (Wants::Recall(Step::Put), ask) => {
                let recall = ask.as_ref().and_then(|ask| ask.recall.as_ref());
                let question = recall.map(Recall::question).unwrap_or_default();
                keys.put_question(out, &question, QUESTION_MS);
            }
            (Wants::Recall(Step::Read { .. } | Step::Rest { .. }), _) => keys.read_answer(out),
            (Wants::Session, _) => {
                let session = question.session.as_ref();
                let hash = hash(session.map(|(session, _)| session.as_str()));
                keys.session(out, &hash.unwrap_or_default());
            }
            (Wants::Scope, _) => {
                let hash = hash(question.scope.as_deref());
                keys.scope(out, &hash.unwrap_or_default());
            }
            (Wants::Status | Wants::Accounts, _) => {
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
        job.deadline_ms = deadline_ms;
        self.pending.push(Sent::Job(stream));
    }

    fn on_answer(&mut self, now_ms: u64, stream: u32, reply: &[u8]) {
        // Whoever left needs no answer.
        let Some(mut job) = self.take(stream) else {
            return;
        };
        let pool = self.config.pools.get(job.pool).map_or("", String::as_str);
        let answer = match job.hear(now_ms, pool, self.config.pools.len(), reply) {
            Ok(answer) => answer,
            Err(Fault::Mismatch) => {
                self.jobs.push(job);
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
        match answer {
            Some(answer) => self.output.answers.push((stream, answer)),
            None => {
                let rests = matches!(job.wants, Wants::Recall(Step::Rest { .. }));
                self.jobs.push(job);
                if !rests {
                    self.write(now_ms, stream);
                }
            }
        }
    }

    fn patience(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.config.redis.command_timeout_ms)
    }

    fn confused(&mut self, now_ms: u64) {
        self.drop_pipe(now_ms, "Redis did not answer what was asked");
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
        self.pending.clear();
        self.inbox.clear();
        self.output.bytes.clear();
        for job in std::mem::take(&mut self.jobs) {
            if matches!(job.wants, Wants::Body(_)) {
                self.jobs.push(job);
            } else {
                let answer = unavailable(why, job.changes());
                self.output.answers.push((job.stream, answer));
            }
        }
    }
}

/// What an error says cannot be there.
fn what_stands(reply: &[u8]) -> String {
    let said = match Values::new(reply).value() {
        Some(Value::Error(error)) => garbage(error),
        Some(_) | None => None,
    };
    printable(said.unwrap_or(b"a value of another kind"))
}

impl Job {
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
            Wants::Body(_) => return Err(Fault::Mismatch),
            Wants::Session => {
                let bound = match values.value() {
                    Some(Value::Bulk(account)) => text(account),
                    Some(Value::Nil) => None,
                    other => return Err(Fault::in_place_of(other)),
                };
                if let Some((_, place)) = &mut self.question.session {
                    *place = bound;
                }
                self.wants = Wants::Scope;
                return Ok(None);
            }
            Wants::Scope => {
                match values.value() {
                    Some(Value::Array(_)) => {}
                    other => return Err(Fault::in_place_of(other)),
                }
                while let Some(account) = values.bulk() {
                    let until_ms = values.number().unwrap_or(0);
                    let account = text(account).unwrap_or_default();
                    self.question.scope_until_ms.push((account, until_ms));
                }
                self.wants = Wants::Accounts;
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
            Wants::Status | Wants::Accounts => {}
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
            Err(Fault::NoPool) if self.wants == Wants::Status => {}
            // The others are shown all the same.
            Err(Fault::Garbage) if self.wants == Wants::Status => {
                self.seen = Pool::default();
                self.seen.error = Some(what_stands(reply));
            }
            Err(fault) => return Err(fault),
        }
        let mut seen = std::mem::take(&mut self.seen);
        pool.clone_into(&mut seen.name);
        self.cursor.clear();
        if self.wants == Wants::Accounts {
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
        self.deadline_ms = now_ms.saturating_add(rest_ms);
        Ok(None)
    }
}
