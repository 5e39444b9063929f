//! The root context: configuration, the pipe's stream, ticks; and what it shares with the requests of its worker.

use super::calls::{self, Buffer, Ticker};
use super::clock::random_seed;
use super::console;
use super::logger;
use super::loop_end::LoopEnd;
use super::metrics::Metrics;
use super::stream::grpc_service;
use super::verdict::{respond, respond_later, write_filter_state};
use crate::VERSION;
use crate::config::{Config, Role, parse};
use crate::pipe::connection::Wire;
use crate::pipe::down::PipeOrder;
use crate::worker::Worker;
use crate::worker::notice::Notice;
use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::time::Instant;

/// Counters reach Envoy at most this much later, in ms.
const METRICS_MS: u64 = 250;
/// No more errors of one configuration are logged, each in a line of its own.
const MOST_ERRORS: usize = 100;

/// One configuration of one worker, shared by its root and its requests.
pub struct Shared {
    /// The root context's number.
    pub root_id: u32,
    started: Instant,
    worker: RefCell<Worker>,
    metrics: RefCell<Metrics>,
    /// The open gRPC streams: the pipe, and the one on which grants are heard.
    tokens: Streams,
    ticker: Ticker,
    /// The host wants this root gone as soon as nothing is under way.
    leaving: Cell<bool>,
    /// All that is done to the pipe is done when it calls back: requests that came together go out together, and Envoy does
    /// not work on what it read from the pipe any more, which a send that fails, a cancel, or the root's end would free under
    /// its hands.
    loop_end: LoopEnd,
}

impl Shared {
    fn new(root_id: u32, config: Config) -> Self {
        let seed = random_seed(root_id);
        let mut worker = Worker::new(config, seed);
        for pool in 0..worker.config().pools.len() {
            let seen = overrides_key(worker.config(), pool).map(|key| calls::shared(&key));
            worker.restore_overrides(pool, &seen.unwrap_or_default());
        }
        Self {
            root_id,
            started: Instant::now(),
            metrics: RefCell::new(Metrics::define(&worker)),
            worker: RefCell::new(worker),
            tokens: Streams::default(),
            ticker: Ticker::default(),
            leaving: Cell::new(false),
            loop_end: LoopEnd::new(seed.to_string()),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// `None`, and said aloud, if the host called back where it never does: an event less is better than a trap.
    fn worker(&self) -> Option<RefMut<'_, Worker>> {
        let worker = self.worker.try_borrow_mut().ok();
        if worker.is_none() {
            log::error!("called back in the middle of an event");
        }
        worker
    }

    /// Gives an event to the worker, then does what it wants done. `context` is the one the host is calling.
    pub fn with<R>(&self, context: u32, event: impl FnOnce(&mut Worker, u64) -> R) -> Option<R> {
        let now_us = self.now_us();
        let now_ms = now_us / 1000;
        let mut worker = self.worker()?;
        worker.set_clock_us(now_us);
        let result = event(&mut worker, now_ms);
        self.carry_out(context, now_ms, &mut worker);
        Some(result)
    }

    /// The same for a context of another plugin, in whose name this one can neither want a tick nor the end of the loop.
    pub fn with_other<R>(
        &self,
        context: u32,
        event: impl FnOnce(&mut Worker, u64) -> R,
    ) -> Option<R> {
        let is_root = calls::set_effective_context(self.root_id).is_ok();
        let result = self.with(context, event);
        if is_root {
            let _ = calls::set_effective_context(context);
        }
        result
    }

    /// Does what the worker wants done, or sees to it that it is done.
    #[inline(never)]
    fn carry_out(&self, context: u32, now_ms: u64, worker: &mut Worker) {
        self.publish(worker);
        // An answer of our own to another stream would stop the body of the one that is called.
        if context == self.root_id {
            self.answer(worker);
        }
        let waits = worker.wants_flush() || self.may_leave(worker);
        if waits {
            self.loop_end.request();
        }
        self.arm(now_ms, worker, waits && !self.loop_end.is_requested());
    }

    /// Nothing is under way in Envoy: does what waited for that.
    fn flush(&self) {
        let now_us = self.now_us();
        let now_ms = now_us / 1000;
        if let Some(mut worker) = self.worker() {
            worker.set_clock_us(now_us);
            worker.flush(now_ms);
        }
        self.reset();
        self.send(now_ms);
        let Some(mut worker) = self.worker() else {
            return;
        };
        if self.may_leave(&worker) {
            self.leaving.set(false);
            self.end_metrics(&mut worker);
            calls::done();
        }
        // What a send that failed has brought about.
        self.carry_out(self.root_id, now_ms, &mut worker);
    }

    /// Whether the host waits for this root to be done, and it is.
    fn may_leave(&self, worker: &Worker) -> bool {
        self.leaving.get() && worker.is_idle()
    }

    /// Asks the worker without giving it an event: nothing comes of it that the host must do.
    pub fn ask<R>(&self, question: impl FnOnce(&mut Worker) -> Option<R>) -> Option<R> {
        question(&mut *self.worker()?)
    }

    /// Whether clients are told path and account.
    pub fn response_headers(&self) -> bool {
        self.ask(|worker| Some(worker.config().response_headers)) == Some(true)
    }

    /// Whether the first events of answers are read.
    pub fn reads_events(&self) -> bool {
        self.ask(|worker| Some(worker.config().upstream.sse_errors)) == Some(true)
    }

    fn end_metrics(&self, worker: &mut Worker) {
        if let Ok(mut metrics) = self.metrics.try_borrow_mut() {
            metrics.end(worker);
        }
    }

    /// Drops the streams that the worker wants dropped.
    fn reset(&self) {
        let Some(mut worker) = self.worker() else {
            return;
        };
        for stream in Stream::ALL {
            let order = &mut stream.wire(&mut worker).order;
            if *order == Some(PipeOrder::Reset) {
                *order = None;
                if let Some(token) = self.tokens.of(stream).take() {
                    calls::grpc_cancel(token);
                }
            }
        }
    }

    /// Opens the streams that the worker wants opened, and sends what it wrote.
    fn send(&self, now_ms: u64) {
        for stream in Stream::ALL {
            self.send_on(stream, now_ms);
        }
    }

    fn send_on(&self, stream: Stream, now_ms: u64) {
        let Some(mut worker) = self.worker() else {
            return;
        };
        let wire = stream.wire(&mut worker);
        let order = wire.order.take();
        let mut bytes = std::mem::take(&mut wire.bytes);
        drop(worker);
        if order == Some(PipeOrder::Open) {
            self.open(stream, now_ms);
        }
        if bytes.is_empty() {
            return;
        }
        let token = self.tokens.of(stream).get();
        let sent = token.is_some_and(|token| calls::grpc_send(token, &bytes).is_ok());
        bytes.clear();
        let Some(mut worker) = self.worker() else {
            return;
        };
        if sent {
            // The buffer is used again.
            stream.wire(&mut worker).bytes = bytes;
        } else {
            stream.closed(&mut worker, now_ms);
        }
    }

    /// Opens a stream. Only in a root callback: Envoy calls back the context that it calls now.
    fn open(&self, stream: Stream, now_ms: u64) {
        let Some(mut worker) = self.worker() else {
            return;
        };
        let service = grpc_service(&worker.config().redis.pipe_cluster);
        match (calls::grpc_stream(&service), stream) {
            (Ok(token), _) => {
                self.tokens.of(stream).set(Some(token));
                stream.opened(&mut worker, now_ms);
            }
            (Err(status), Stream::Pipe) => {
                log::debug!("the pipe can't be opened: {status:?}");
                worker.on_pipe_unopened(now_ms);
            }
            (Err(_), Stream::Grants) => worker.on_grants_closed(now_ms),
        }
        let bytes = std::mem::take(&mut stream.wire(&mut worker).bytes);
        drop(worker);
        if let (Some(token), false) = (self.tokens.of(stream).get(), bytes.is_empty()) {
            // A stream that can't be written to is closed too, and says so in a callback of its own.
            let _ = calls::grpc_send(token, &bytes);
        }
    }

    /// Hands notices to the log, and overrides to the next configuration.
    fn publish(&self, worker: &mut Worker) {
        let output = worker.output();
        if output.notices.is_empty() && output.overrides.is_empty() {
            return;
        }
        let polls = std::mem::take(&mut output.overrides);
        for notice in std::mem::take(&mut output.notices) {
            log_notice(&notice);
        }
        for (pool, seen) in polls {
            if let Some(key) = overrides_key(worker.config(), pool) {
                calls::share(&key, &seen);
            }
        }
    }

    /// Hands verdicts to their paused requests, as many as may be settled now.
    fn answer(&self, worker: &mut Worker) {
        let mut elsewhere = false;
        while let Some(answer) = worker.next_answer() {
            elsewhere = true;
            let (config, stream) = (worker.config(), answer.request.stream);
            if calls::set_effective_context(stream).is_err() {
                continue;
            }
            // Ahead of the verdict: an answer of our own ends the stream.
            if let Some(logged) = &answer.log {
                write_filter_state(config, &answer.verdict, logged);
            }
            let goes_on = match &answer.later {
                None => respond(config, stream, &answer.verdict),
                Some(later) => {
                    calls::set_effective_context(later.context).is_ok()
                        && respond_later(config, stream, &answer.verdict, later)
                }
            };
            if goes_on {
                let _ = calls::resume_request();
            }
        }
        if elsewhere {
            let _ = calls::set_effective_context(self.root_id);
        }
    }

    /// Sees to it that a tick comes when the worker wants one, or at once for what the end of the loop does not see to.
    fn arm(&self, now_ms: u64, worker: &mut Worker, kept: bool) {
        let kept_ms = kept.then_some(now_ms);
        let metrics = self.metrics.try_borrow();
        let behind = metrics.is_ok_and(|metrics| metrics.is_behind(worker));
        let metrics_ms = behind.then(|| now_ms.saturating_add(METRICS_MS));
        let wakes = [worker.next_wake_ms(), metrics_ms, kept_ms];
        if let Some(wake_ms) = wakes.into_iter().flatten().min() {
            self.ticker.arm(now_ms, wake_ms);
        }
    }

    fn tick(&self) {
        self.ticker.come(|| {
            self.loop_end.on_tick();
            // Before the worker can want another pipe.
            self.reset();
            if let (Ok(mut metrics), Some(mut worker)) =
                (self.metrics.try_borrow_mut(), self.worker())
            {
                metrics.send(&mut worker);
            }
            let now_us = self.now_us();
            if let Some(mut worker) = self.worker() {
                worker.set_clock_us(now_us);
                worker.on_tick(now_us / 1000);
            }
            // One of both hands verdicts out: they are settled on one stack.
            if self.loop_end.is_requested() {
                self.with(self.root_id, |_, _| ());
            } else {
                self.flush();
            }
        });
    }
}

fn log_notice(notice: &Notice) {
    if notice.is_warning() {
        log::warn!("{notice}");
    } else {
        log::info!("{notice}");
    }
}

/// A gRPC stream of the scheduler.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Pipe,
    Grants,
}

impl Stream {
    const ALL: [Self; 2] = [Self::Pipe, Self::Grants];

    fn wire(self, worker: &mut Worker) -> &mut Wire {
        match self {
            Self::Pipe => worker.wire(),
            Self::Grants => worker.grants_wire(),
        }
    }

    fn opened(self, worker: &mut Worker, now_ms: u64) {
        match self {
            Self::Pipe => worker.on_pipe_open(now_ms),
            Self::Grants => worker.on_grants_open(now_ms),
        }
    }

    fn closed(self, worker: &mut Worker, now_ms: u64) {
        match self {
            Self::Pipe => worker.on_pipe_closed(now_ms),
            Self::Grants => worker.on_grants_closed(now_ms),
        }
    }
}

/// The token of each open stream.
#[derive(Debug, Default)]
struct Streams {
    pipe: Cell<Option<u32>>,
    grants: Cell<Option<u32>>,
}

impl Streams {
    fn of(&self, stream: Stream) -> &Cell<Option<u32>> {
        match stream {
            Stream::Pipe => &self.pipe,
            Stream::Grants => &self.grants,
        }
    }
}

/// The key under which workers share the overrides that they saw last in a pool: one key for one ledger.
fn overrides_key(config: &Config, pool: usize) -> Option<String> {
    let pool = &config.pools.get(pool)?.name;
    let redis = &config.redis;
    Some(format!(
        "look {} {} {}:{{{pool}}}",
        redis.pipe_cluster, redis.database, redis.key_prefix
    ))
}

/// The role of a root context.
#[derive(Clone)]
pub enum RootRole {
    /// Not configured.
    Nothing,
    /// Role `bridge`.
    Bridge,
    /// Role `upstream`.
    Upstream,
    /// Role `scheduler`.
    Scheduler(Rc<Shared>),
    /// Role `console`.
    Console(Rc<console::Shared>),
}

/// The root context of one plugin configuration.
pub struct Root {
    id: u32,
    role: RefCell<RootRole>,
}

impl Root {
    /// Before its configuration.
    pub fn new(id: u32) -> Self {
        Self {
            id,
            role: RefCell::new(RootRole::Nothing),
        }
    }

    /// The role that its configuration gave it.
    pub fn role(&self) -> RootRole {
        let told = self.role.try_borrow();
        told.map_or(RootRole::Nothing, |told| told.clone())
    }

    /// What is shared with its requests, if it is a scheduler.
    pub fn shared(&self) -> Option<Rc<Shared>> {
        match self.role() {
            RootRole::Scheduler(shared) => Some(shared),
            RootRole::Nothing | RootRole::Bridge | RootRole::Upstream | RootRole::Console(_) => {
                None
            }
        }
    }

    fn console(&self) -> Option<Rc<console::Shared>> {
        match self.role() {
            RootRole::Console(shared) => Some(shared),
            RootRole::Nothing | RootRole::Bridge | RootRole::Upstream | RootRole::Scheduler(_) => {
                None
            }
        }
    }

    /// Returns whether the configuration is accepted.
    pub fn on_configure(&self, size: usize) -> bool {
        logger::start();
        let json = calls::buffer(Buffer::Configuration, size);
        let role = match parse(&json, &|name| std::env::var(name).ok()) {
            Ok(Role::Bridge) => RootRole::Bridge,
            Ok(Role::Upstream) => RootRole::Upstream,
            Ok(Role::Scheduler(config)) => {
                RootRole::Scheduler(Rc::new(Shared::new(self.id, *config)))
            }
            Ok(Role::Console(config)) => {
                RootRole::Console(Rc::new(console::Shared::new(self.id, *config)))
            }
            Err(errors) => {
                for error in errors.0.iter().take(MOST_ERRORS) {
                    log::error!("configuration: {error}");
                }
                let more = errors.0.len().saturating_sub(MOST_ERRORS);
                if more > 0 {
                    log::error!("configuration: and {more} errors more");
                }
                return false;
            }
        };
        let name = match &role {
            RootRole::Nothing => "nothing",
            RootRole::Bridge => "bridge",
            RootRole::Upstream => "upstream",
            RootRole::Scheduler(_) => "scheduler",
            RootRole::Console(_) => "console",
        };
        log::info!("slotgate {VERSION}, role {name}");
        let place = self.role.try_borrow_mut();
        place.map(|mut place| *place = role).is_ok()
    }

    /// The time asked for has passed.
    pub fn on_tick(&self) {
        if let Some(shared) = self.shared() {
            shared.tick();
        } else if let Some(console) = self.console() {
            console.tick();
        }
    }

    /// Envoy's event loop has done all it woke up for.
    pub fn on_queue_ready(&self, queue: u32) {
        if let Some(shared) = self.shared() {
            shared.loop_end.answered(queue);
            shared.flush();
        }
    }

    /// Bytes from Redis.
    pub fn on_pipe_message(&self, token: u32, size: usize) {
        if let Some((shared, stream)) = self.stream(token) {
            let bytes = calls::buffer(Buffer::Grpc, size);
            shared.with(self.id, |worker, now_ms| match stream {
                Stream::Pipe => worker.on_pipe_bytes(now_ms, &bytes),
                Stream::Grants => worker.on_grants_bytes(now_ms, &bytes),
            });
        } else if let Some(console) = self.console() {
            console.on_pipe_message(token, size);
        }
    }

    /// A stream is closed, or could not be opened.
    pub fn on_pipe_close(&self, token: u32, status: u32) {
        calls::grpc_cancel(token);
        if let Some((shared, stream)) = self.stream(token) {
            log::debug!("the {stream:?} stream was closed, gRPC status {status}");
            shared.tokens.of(stream).set(None);
            shared.with(self.id, |worker, now_ms| stream.closed(worker, now_ms));
        } else if let Some(console) = self.console() {
            console.on_pipe_close(token);
        }
    }

    /// Which of the scheduler's streams has this token.
    fn stream(&self, token: u32) -> Option<(Rc<Shared>, Stream)> {
        let shared = self.shared()?;
        let has = |stream: &Stream| shared.tokens.of(*stream).get() == Some(token);
        let stream = Stream::ALL.into_iter().find(has)?;
        Some((shared, stream))
    }

    /// Another configuration of this worker is gone, and has set what is shown of its own to 0.
    pub fn set_metrics_again(&self) {
        if let Some(shared) = self.shared()
            && let Ok(mut metrics) = shared.metrics.try_borrow_mut()
        {
            metrics.set_again();
        }
    }

    /// The host wants it gone. Returns whether it may go at once.
    pub fn on_done(&self) -> bool {
        let Some(shared) = self.shared() else {
            return true;
        };
        let idle = shared.worker().map(|mut worker| {
            let idle = worker.is_idle();
            if idle {
                shared.end_metrics(&mut worker);
            }
            idle
        });
        shared.leaving.set(idle != Some(true));
        idle == Some(true)
    }
}
