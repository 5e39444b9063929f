//! Role `console`: the operator's page and the same as JSON. One for each worker, with a pipe of its own.
//!
//! Pure like [`crate::worker`]: each `on_…` method is an event, `now_ms` the host's monotonic clock, and what must be done
//! is left in [`Output`].

pub mod api;

use crate::config::Console as Config;
use crate::gray::hash128;
use crate::headers::Headers;
use crate::ledger::greeting;
use crate::ledger::resp::{self, Value, Values};
use crate::ledger::script::{By, Fault, PoolKeys, Script, Sha, Shas};
use crate::ledger::view::{Pool, Question, explain, percent};
use crate::worker::PipeOrder;
use api::{Ask, Change, Response, Route, admit, ask, changed, refused, unavailable};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, VecDeque};

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
    Auth,
    Select,
    SetName,
    Load(Script),
    /// A request's, by its stream.
    Job(u32),
}

/// A request that waits.
#[derive(Debug)]
struct Job {
    deadline_ms: u64,
    /// Its command is on its way, or was: Redis may have done it.
    sent: bool,
    /// Its command was sent with the script's source.
    again: bool,
    task: Task,
}

#[derive(Debug)]
enum Task {
    /// Its body is on the way.
    Body(Route),
    /// Reads pool after pool.
    Status {
        counters: Map<String, Json>,
        done: Vec<Json>,
        page: Page,
    },
    /// Reads session, scope and pool.
    Explain {
        pool: usize,
        question: Question,
        reads: Reads,
        page: Page,
    },
    /// One `control`.
    Change(Change),
}

#[derive(Debug, Clone, Copy)]
enum Reads {
    Session,
    Scope,
    Pool,
}

/// A pool as far as it is read.
#[derive(Debug)]
struct Page {
    cursor: String,
    pool: Pool,
}

impl Page {
    fn first(name: &str) -> Self {
        Self {
            cursor: "0".to_owned(),
            pool: Pool {
                name: name.to_owned(),
                ..Pool::default()
            },
        }
    }

    /// Takes in a reply. Answers whether that was all, and whether there are more accounts than are shown.
    fn take(&mut self, reply: &[u8]) -> Result<Option<bool>, Fault> {
        match self.pool.page(reply)? {
            None => Ok(Some(false)),
            Some(_) if self.pool.accounts.len() >= MOST_ACCOUNTS => Ok(Some(true)),
            Some(cursor) => {
                self.cursor = cursor;
                Ok(None)
            }
        }
    }
}

/// What a reply leads to.
enum Turn {
    /// The next command.
    More,
    Answer(Response),
    Fault(Fault),
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
    pending: VecDeque<Sent>,
    inbox: Vec<u8>,
    jobs: BTreeMap<u32, Job>,
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
            pending: VecDeque::new(),
            inbox: Vec::new(),
            jobs: BTreeMap::new(),
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
        self.jobs.values().map(|job| job.deadline_ms).min()
    }

    /// Request headers arrived; `ends`: with nothing behind them. `counters` answers what this Envoy has counted.
    pub fn on_request(
        &mut self,
        now_ms: u64,
        stream: u32,
        headers: Headers,
        ends: bool,
        counters: &dyn Fn() -> Map<String, Json>,
    ) -> Heard {
        let route = match admit(&self.config, headers) {
            Ok(Route::Part(content_type, text)) => {
                return Heard::Answer(Response {
                    status: 200,
                    content_type,
                    header: None,
                    body: text.as_bytes().into(),
                });
            }
            Ok(route) => route,
            Err(refusal) => return Heard::Answer(refusal),
        };
        if self.jobs.len() >= MOST_JOBS {
            return Heard::Answer(unavailable("too many requests at once", false));
        }
        if route == Route::Status {
            let first = self.config.pools.first().map_or("", String::as_str);
            let task = Task::Status {
                counters: counters(),
                done: Vec::new(),
                page: Page::first(first),
            };
            return self.begin(now_ms, stream, task);
        }
        if ends {
            return self.hear(now_ms, stream, route, &[]);
        }
        self.jobs.insert(
            stream,
            Job {
                deadline_ms: now_ms.saturating_add(BODY_MS),
                sent: false,
                again: false,
                task: Task::Body(route),
            },
        );
        Heard::Body
    }

    /// The whole body arrived.
    pub fn on_body(&mut self, now_ms: u64, stream: u32, body: &[u8]) -> Heard {
        match self.jobs.remove(&stream).map(|job| job.task) {
            Some(Task::Body(route)) => self.hear(now_ms, stream, route, body),
            // Answered already.
            Some(Task::Status { .. } | Task::Explain { .. } | Task::Change(_)) | None => {
                Heard::Wait
            }
        }
    }

    fn hear(&mut self, now_ms: u64, stream: u32, route: Route, body: &[u8]) -> Heard {
        let task = match ask(&self.config, route, body) {
            Err(refusal) => return Heard::Answer(refusal),
            Ok(Ask::Change(change)) => Task::Change(change),
            Ok(Ask::Explain {
                pool,
                session,
                scope,
            }) => Task::Explain {
                pool,
                reads: match (&session, &scope) {
                    (Some(_), _) => Reads::Session,
                    (None, Some(_)) => Reads::Scope,
                    (None, None) => Reads::Pool,
                },
                question: Question {
                    session: session.map(|session| (session, None)),
                    scope,
                    scope_until_ms: BTreeMap::new(),
                    random: self.config.random,
                },
                page: Page::first(self.pool_name(pool)),
            },
        };
        self.begin(now_ms, stream, task)
    }

    fn begin(&mut self, now_ms: u64, stream: u32, task: Task) -> Heard {
        match self.pipe {
            Pipe::Closed { until_ms } if now_ms < until_ms => {
                return Heard::Answer(unavailable(&self.lost, false));
            }
            Pipe::Closed { .. } => self.pipe = Pipe::Wanted,
            Pipe::Wanted | Pipe::Ordered | Pipe::Opening { .. } | Pipe::Ready => {}
        }
        let job = Job {
            deadline_ms: self.patience(now_ms),
            sent: false,
            again: false,
            task,
        };
        self.jobs.insert(stream, job);
        if self.pipe == Pipe::Ready {
            self.write(now_ms, stream);
        }
        Heard::Wait
    }

    /// The client is gone, or has its answer.
    pub fn on_end(&mut self, stream: u32) {
        self.jobs.remove(&stream);
    }

    /// Deadlines, and the pipe's opening.
    pub fn on_tick(&mut self, now_ms: u64) {
        let due: Vec<u32> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.deadline_ms <= now_ms)
            .map(|(stream, _)| *stream)
            .collect();
        let mut stuck = false;
        for stream in due {
            if matches!(
                self.jobs.get(&stream),
                Some(Job {
                    task: Task::Body(_),
                    ..
                })
            ) {
                self.jobs.remove(&stream);
                let late = Response::error(
                    408,
                    "no_body",
                    "the body did not arrive",
                    Some("allow_on_headers_stop_iteration: true in the console's PluginConfig"),
                );
                self.output.answers.push((stream, late));
            } else {
                stuck = true;
            }
        }
        if stuck {
            let ms = self.config.redis.command_timeout_ms;
            self.output.pipe = Some(PipeOrder::Reset);
            self.lose(now_ms, &format!("Redis did not answer within {ms} ms"));
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
            self.pending.push_back(Sent::Auth);
        }
        if redis.database != 0 {
            greeting::select(out, redis);
            self.pending.push_back(Sent::Select);
        }
        greeting::set_name(out);
        self.pending.push_back(Sent::SetName);
        for script in SCRIPTS {
            greeting::load(out, script);
            self.pending.push_back(Sent::Load(script));
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
        let Some(sent) = self.pending.pop_front() else {
            return self.confused(now_ms);
        };
        let value = Values::new(reply).value();
        match sent {
            Sent::Job(stream) => return self.on_answer(now_ms, stream, reply),
            // Without the right to it there is no name, no more.
            Sent::SetName => {}
            Sent::Auth | Sent::Select => {
                if value != Some(Value::Simple(b"OK")) {
                    let command = if matches!(sent, Sent::Auth) {
                        "AUTH"
                    } else {
                        "SELECT"
                    };
                    return self.drop_pipe(now_ms, &format!("Redis refused {command}"));
                }
            }
            Sent::Load(script) => match value {
                Some(Value::Bulk(sha)) => {
                    let place = Script::ALL.iter().zip(&mut self.shas.0);
                    for (other, place) in place {
                        if *other == script {
                            *place = Sha::try_from(sha).unwrap_or(*place);
                        }
                    }
                }
                Some(Value::Error(error)) => {
                    let fault = Fault::of(error).as_str();
                    return self.drop_pipe(now_ms, &format!("Redis refused SCRIPT LOAD: {fault}"));
                }
                Some(Value::Simple(_) | Value::Integer(_) | Value::Nil | Value::Array(_))
                | None => return self.confused(now_ms),
            },
        }
        if let Pipe::Opening { replies } = &mut self.pipe {
            *replies = replies.saturating_sub(1);
            if *replies == 0 {
                self.pipe = Pipe::Ready;
                let waiting: Vec<u32> = self.jobs.keys().copied().collect();
                for stream in waiting {
                    self.write(now_ms, stream);
                }
            }
        }
    }

    /// Sends what a request needs next.
    fn write(&mut self, now_ms: u64, stream: u32) {
        let deadline_ms = self.patience(now_ms);
        let Some(job) = self.jobs.get_mut(&stream) else {
            return;
        };
        let by = if job.again {
            By::Source
        } else {
            By::Sha(&self.shas)
        };
        let out = &mut self.output.bytes;
        let keys = |pool: usize| self.keys.get(pool);
        match &job.task {
            Task::Body(_) => return,
            Task::Status { done, page, .. } => {
                let Some(keys) = keys(done.len()) else { return };
                keys.inspect(out, by, &page.cursor, PAGE);
            }
            Task::Explain {
                pool,
                question,
                reads,
                page,
            } => {
                let Some(keys) = keys(*pool) else { return };
                let session = question.session.as_ref();
                match (reads, session, &question.scope) {
                    (Reads::Session, Some((session, _)), _) => {
                        keys.session(out, &hash128(session.as_bytes()));
                    }
                    (Reads::Scope, _, Some(scope)) => keys.scope(out, &hash128(scope.as_bytes())),
                    (Reads::Session | Reads::Scope | Reads::Pool, _, _) => {
                        keys.inspect(out, by, &page.cursor, PAGE);
                    }
                }
            }
            Task::Change(change) => {
                let Some(keys) = keys(change.pool) else {
                    return;
                };
                let session = change.session.as_ref();
                let session = session.map(|session| hash128(session.as_bytes()));
                keys.control(out, by, change.verb, &change.subject, session.as_ref());
            }
        }
        job.sent = true;
        job.deadline_ms = deadline_ms;
        self.pending.push_back(Sent::Job(stream));
    }

    fn on_answer(&mut self, now_ms: u64, stream: u32, reply: &[u8]) {
        let Some(job) = self.jobs.get_mut(&stream) else {
            return;
        };
        match turn(&self.config, &mut job.task, reply) {
            Turn::More => self.write(now_ms, stream),
            Turn::Answer(response) => {
                self.jobs.remove(&stream);
                self.output.answers.push((stream, response));
            }
            Turn::Fault(Fault::Mismatch) => self.confused(now_ms),
            // Someone flushed the scripts; the source loads it again.
            Turn::Fault(Fault::NoScript) if !job.again => {
                job.again = true;
                self.write(now_ms, stream);
            }
            Turn::Fault(fault) => {
                let (pool, change) = match &job.task {
                    Task::Status { done, .. } => (done.len(), None),
                    Task::Explain { pool, .. } => (*pool, None),
                    Task::Change(change) => (change.pool, Some(change)),
                    Task::Body(_) => (0, None),
                };
                let pool = self.config.pools.get(pool).map_or("", String::as_str);
                let response = refused(fault, pool, change);
                self.jobs.remove(&stream);
                self.output.answers.push((stream, response));
                // Another one may be reached anew, and this one must be told the scripts again.
                if fault.is_wrong_server() || fault == Fault::NoScript {
                    self.drop_pipe(now_ms, &format!("Redis refused: {}", fault.as_str()));
                }
            }
        }
    }

    fn patience(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.config.redis.command_timeout_ms)
    }

    fn pool_name(&self, pool: usize) -> &str {
        self.config.pools.get(pool).map_or("", String::as_str)
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
        for (stream, job) in std::mem::take(&mut self.jobs) {
            if matches!(job.task, Task::Body(_)) {
                self.jobs.insert(stream, job);
                continue;
            }
            let in_doubt = job.sent && matches!(job.task, Task::Change(_));
            self.output
                .answers
                .push((stream, unavailable(why, in_doubt)));
        }
    }
}

/// What a reply means to the request that waits for it.
fn turn(config: &Config, task: &mut Task, reply: &[u8]) -> Turn {
    match task {
        Task::Body(_) => Turn::Fault(Fault::Mismatch),
        Task::Status {
            counters,
            done,
            page,
        } => {
            let shown = match page.take(reply) {
                Ok(None) => return Turn::More,
                Ok(Some(more)) => {
                    let mut shown = page.pool.to_json();
                    if let Json::Object(fields) = &mut shown {
                        fields.insert("more".to_owned(), more.into());
                    }
                    shown
                }
                // No filter has created it so far.
                Err(Fault::NoPool) => json!({"pool": page.pool.name, "absent": true}),
                Err(fault) => return Turn::Fault(fault),
            };
            done.push(shown);
            if let Some(name) = config.pools.get(done.len()) {
                *page = Page::first(name);
                return Turn::More;
            }
            Turn::Answer(Response::json(&json!({
                "writable": config.token.is_some(),
                "percent_configured": config.gray.map(percent),
                "counters": std::mem::take(counters),
                "pools": std::mem::take(done),
            })))
        }
        Task::Explain {
            question,
            reads,
            page,
            ..
        } => match reads {
            Reads::Session => match Values::new(reply).value() {
                Some(Value::Bulk(account)) => {
                    if let Some((_, bound)) = &mut question.session {
                        *bound = Some(String::from_utf8_lossy(account).into_owned());
                    }
                    *reads = after_session(question);
                    Turn::More
                }
                Some(Value::Nil) => {
                    *reads = after_session(question);
                    Turn::More
                }
                other => Turn::Fault(fault_of(other)),
            },
            Reads::Scope => {
                let mut values = Values::new(reply);
                match values.value() {
                    Some(Value::Array(length)) => {
                        for _ in 0..length / 2 {
                            if let Some((account, until_ms)) = values.bulk().zip(values.number()) {
                                let account = String::from_utf8_lossy(account).into_owned();
                                question.scope_until_ms.insert(account, until_ms);
                            }
                        }
                        *reads = Reads::Pool;
                        Turn::More
                    }
                    other => Turn::Fault(fault_of(other)),
                }
            }
            Reads::Pool => match page.take(reply) {
                Ok(None) => Turn::More,
                Ok(Some(_)) => {
                    Turn::Answer(Response::json(&explain(&page.pool, question).to_json()))
                }
                Err(fault) => Turn::Fault(fault),
            },
        },
        Task::Change(change) => {
            let pool = config.pools.get(change.pool).map_or("", String::as_str);
            let mut values = Values::new(reply);
            match values.value() {
                Some(Value::Array(2)) => {
                    let text = |bytes| std::str::from_utf8(bytes).ok();
                    let old = values.bulk().and_then(text);
                    match old.zip(values.bulk().and_then(text)) {
                        Some((old, new)) => Turn::Answer(changed(change, pool, old, new)),
                        None => Turn::Fault(Fault::Mismatch),
                    }
                }
                other => Turn::Fault(fault_of(other)),
            }
        }
    }
}

fn after_session(question: &Question) -> Reads {
    if question.scope.is_some() {
        Reads::Scope
    } else {
        Reads::Pool
    }
}

/// What stands in a reply's place.
fn fault_of(value: Option<Value>) -> Fault {
    match value {
        Some(Value::Error(error)) => Fault::of(error),
        Some(
            Value::Simple(_) | Value::Integer(_) | Value::Bulk(_) | Value::Nil | Value::Array(_),
        )
        | None => Fault::Mismatch,
    }
}
