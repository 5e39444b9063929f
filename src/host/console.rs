//! Role `console`: host callbacks → events of the console, and its effects → host calls.

use super::calls::{self, Buffer, Map, Metric, Ticker};
use super::clock::random_seed;
use super::stream::grpc_service;
use crate::config;
use crate::console::api::{MAX_BODY, Response};
use crate::console::{Console, NextStep};
use crate::json::Json;
use crate::pipe::down::PipeOrder;
use crate::request::headers::Headers;
use crate::worker::counters::{name_of, pool_names, worker_names};
use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::time::Instant;

/// Of how many accounts' counters the numbers are kept, four for each: accounts that come and go leave theirs behind.
const MOST_OF_ACCOUNTS: usize = 4_096;

/// A counter of Envoy's: its name without what all have before it, and its id.
type Counter = (String, u32);

/// These counters, defined by whoever comes first.
fn defined(names: impl Iterator<Item = String>) -> Vec<Counter> {
    let define = |name: String| {
        let id = calls::define_metric(Metric::Counter, &name).ok()?;
        Some((name.strip_prefix("slotgate.")?.to_owned(), id))
    };
    names.filter_map(define).collect()
}

/// One console of one worker, shared by its root and its requests.
pub struct Shared {
    root_id: u32,
    started: Instant,
    console: RefCell<Console>,
    /// What this Envoy counts, by the counters' names.
    metrics: Vec<Counter>,
    /// What it counts of the accounts that are shown.
    of_accounts: RefCell<Vec<Counter>>,
    /// The open gRPC stream.
    token: Cell<Option<u32>>,
    ticker: Ticker,
    /// Envoy still works on what it read from the pipe. A send that fails then, or a cancel, would free that under its hands,
    /// so they wait until an event of another kind shows that Envoy is done, a tick at the latest.
    reading: Cell<bool>,
}

impl Shared {
    /// Opens nothing yet.
    pub fn new(root_id: u32, config: config::Console) -> Self {
        let pools = config.pools.iter().flat_map(|pool| pool_names(pool));
        let metrics = defined(worker_names().into_iter().chain(pools));
        Self {
            root_id,
            started: Instant::now(),
            console: RefCell::new(Console::new(config, random_seed(root_id))),
            metrics,
            of_accounts: RefCell::default(),
            token: Cell::new(None),
            ticker: Ticker::default(),
            reading: Cell::new(false),
        }
    }

    fn console(&self) -> Option<RefMut<'_, Console>> {
        let console = self.console.try_borrow_mut().ok();
        if console.is_none() {
            log::error!("called back in the middle of an event");
        }
        console
    }

    /// What was counted since Envoy began, without what never happened, as JSON.
    fn counters(&self) -> String {
        let mut json = Json::default();
        json.raw("{");
        let of_accounts = self.of_accounts.try_borrow();
        let of_accounts = of_accounts.iter().flat_map(|counters| counters.iter());
        for (name, id) in self.metrics.iter().chain(of_accounts) {
            let count = calls::metric(*id);
            if count > 0 {
                json.name(name).number(count);
            }
        }
        json.raw("}");
        json.into_text()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Gives an event to the console, then does what it wants done. `context` is the one the host is calling.
    fn with<R>(&self, context: u32, event: impl FnOnce(&mut Console, u64) -> R) -> Option<R> {
        let now_ms = self.now_ms();
        let result = event(&mut *self.console()?, now_ms);
        self.act(context, now_ms);
        Some(result)
    }

    #[inline(never)]
    fn act(&self, context: u32, now_ms: u64) {
        let begins = self
            .console()
            .is_some_and(|mut console| std::mem::take(&mut console.output().counters));
        if begins {
            let counters = self.counters();
            if let Some(mut console) = self.console() {
                console.on_counters(&counters);
            }
        }
        self.show_accounts();
        if !self.reading.get() {
            self.send(now_ms);
        }
        // An answer to one stream stops what another's callback would let go on, the arrival of its body too. So they are
        // given in the root's callbacks alone, at the latest in the next tick.
        let answers = (context == self.root_id)
            .then(|| self.console())
            .flatten()
            .map(|mut console| console.output().portion());
        for (stream, response) in answers.iter().flatten() {
            if calls::set_effective_context(*stream).is_ok() {
                respond(response);
            }
            let _ = calls::set_effective_context(context);
        }
        self.arm(now_ms);
    }

    /// Defines the counters of the accounts that are shown now.
    fn show_accounts(&self) {
        let Some(mut console) = self.console() else {
            return;
        };
        let Some(shown) = console.output().shown.take() else {
            return;
        };
        let pools = &console.config().pools;
        let names = shown.iter().flat_map(|(pool, account)| {
            let pool = pools.get(*pool).map_or("", String::as_str);
            let name = |what| name_of(&["account.", what, ";pool=", pool, ";account=", account]);
            ["requests", "refused", "failed", "cooldown"].map(name)
        });
        let Ok(mut of_accounts) = self.of_accounts.try_borrow_mut() else {
            return;
        };
        // Envoy gives a name that is defined again another number.
        for name in names {
            let is_known = |(known, _): &Counter| name.ends_with(known.as_str());
            if of_accounts.len() < MOST_OF_ACCOUNTS && !of_accounts.iter().any(is_known) {
                of_accounts.extend(defined(std::iter::once(name)));
            }
        }
    }

    /// Carries out what the console wants of the pipe. Envoy may call back meanwhile, so nothing is borrowed then.
    fn send(&self, now_ms: u64) {
        let Some((order, bytes)) = self.console().map(|mut console| {
            let wire = std::mem::take(console.wire());
            (wire.order, wire.bytes)
        }) else {
            return;
        };
        match order {
            Some(PipeOrder::Reset) => {
                if let Some(token) = self.token.take() {
                    calls::grpc_cancel(token);
                }
            }
            Some(PipeOrder::Open) => return self.open(now_ms),
            None => {}
        }
        let sent = bytes.is_empty()
            || self
                .token
                .get()
                .is_some_and(|token| calls::grpc_send(token, &bytes).is_ok());
        if let (false, Some(mut console)) = (sent, self.console()) {
            console.on_pipe_closed(now_ms);
        }
    }

    /// Opens the stream. Only in a root callback: Envoy calls back the context that it calls now.
    fn open(&self, now_ms: u64) {
        let cluster = self
            .console()
            .map(|console| grpc_service(&console.config().redis.pipe_cluster));
        let opened = calls::grpc_stream(&cluster.unwrap_or_default());
        self.token.set(opened.ok());
        let Some(mut console) = self.console() else {
            return;
        };
        if opened.is_err() {
            return console.on_pipe_closed(now_ms);
        }
        console.on_pipe_open(now_ms);
        drop(console);
        self.send(now_ms);
    }

    /// Sees to it that a tick comes when the console wants one.
    fn arm(&self, now_ms: u64) {
        let wake_ms = self.console().and_then(|console| {
            if console.wants_flush() {
                Some(now_ms)
            } else {
                console.next_wake_ms()
            }
        });
        if let Some(wake_ms) = wake_ms {
            self.ticker.arm(now_ms, wake_ms);
        }
    }

    /// The time asked for has passed.
    pub fn tick(&self) {
        self.ticker.come(|| {
            self.reading.set(false);
            self.with(self.root_id, Console::on_tick);
        });
    }

    /// Bytes from Redis.
    pub fn on_pipe_message(&self, token: u32, size: usize) {
        if self.token.get() == Some(token) {
            let bytes = calls::buffer(Buffer::Grpc, size);
            self.reading.set(true);
            self.with(self.root_id, |console, now_ms| {
                console.on_pipe_bytes(now_ms, &bytes)
            });
        }
    }

    /// The pipe is closed, or could not be opened.
    pub fn on_pipe_close(&self, token: u32) {
        if self.token.get() == Some(token) {
            self.token.set(None);
            self.with(self.root_id, |console, now_ms| {
                console.on_pipe_closed(now_ms)
            });
        }
    }
}

/// Answers the request of the effective context.
fn respond(response: &Response) {
    calls::respond(
        response.status,
        &response.headers(),
        response.body.as_bytes(),
        "slotgate_console",
        -1,
    );
}

/// One request to the console.
pub struct Request {
    id: u32,
    shared: Rc<Shared>,
    /// It has its answer, or its body.
    heard: Cell<bool>,
}

impl Request {
    /// Before its headers.
    pub fn new(id: u32, shared: Rc<Shared>) -> Self {
        Self {
            id,
            shared,
            heard: Cell::new(false),
        }
    }

    /// Returns whether it waits for its body.
    pub fn on_request_headers(&self, ends: bool) -> bool {
        let serialized = calls::headers(Map::Request);
        self.shared.reading.set(false);
        let heard = self.shared.with(self.id, |console, now_ms| {
            let headers = Headers::new(&serialized);
            console.on_request(now_ms, self.id, headers, ends)
        });
        self.heard(heard)
    }

    /// A part of the body; `size` counts all that was kept so far. Returns whether it is to be kept.
    pub fn on_request_body(&self, size: usize, ends: bool) -> bool {
        if self.heard.get() {
            return false;
        }
        let most = MAX_BODY.saturating_add(1);
        if !ends && size < most {
            return true;
        }
        let body = calls::buffer(Buffer::RequestBody, size.min(most));
        let heard = self.shared.with(self.id, |console, now_ms| {
            console.on_body(now_ms, self.id, &body)
        });
        self.heard(heard)
    }

    fn heard(&self, heard: Option<NextStep>) -> bool {
        let waits = heard == Some(NextStep::Body);
        self.heard.set(!waits);
        if let Some(NextStep::Answer(response)) = &heard {
            respond(response);
        }
        waits
    }

    /// The stream is over, however it ended.
    pub fn on_done(&self) {
        if let Some(mut console) = self.shared.console() {
            console.on_end(self.id);
        }
    }
}
