//! An upstream, HTTP/1.1 or HTTP/2 as the client likes, that counts how many requests each account has at once.
//!
//! | path | does |
//! |---|---|
//! | `/` | 200, `ok` |
//! | `/echo` | JSON: method, path, headers (a repeated one joined by `, `), length of the body |
//! | `/sse?events=N&interval_ms=M` | N server-sent events like a token stream, M ms apart, then `data: [DONE]` |
//! | `/v1/chat/completions` | a chat completion of OpenAI's |
//! | `/sse-error?type=T` | a stream of events whose first one is an error of type T |
//! | `/bytes?length=N` | N bytes |
//! | `/grpc?messages=N&status=S` | N gRPC messages, then the trailer `grpc-status: S`; over HTTP/2 |
//! | `/grpc-only?grpc-status=8` | headers and nothing else, as a gRPC server refuses; each query parameter is one; over HTTP/2 |
//! | `/delay?ms=M&most=N` | 200 after M ms; 429 at once while its account holds more than N |
//! | `/refuse?…` | refuses some, and says of others what it saw: [`super::refuse`] |
//! | `/status/429?retry-after=3` | that status; each query parameter is a response header |
//! | `/reset` | the connection is reset instead of an answer |
//! | `/reset-mid?events=N&interval_ms=M` | as `/sse`, but a reset after N events |
//! | `/ws` | 101, then every byte comes back until the peer closes |
//! | `/hang` | nothing, ever |
//! | `/stats` | the counters as JSON; not counted itself |
//!
//! A request counts from the arrival of its headers until its response body has been given away to its last byte, or
//! dropped: once a client has the whole response, the request counts no more.
//!
//! The greatest number at once must not count a request whose client has left already, or every abort would look like
//! a limit broken. The close of one connection may reach us after a request on another that was sent later, so a new
//! greatest number stands only if those requests are still there a moment later, or were answered in between. The
//! request that would set it waits for that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Sleep};

use super::refuse::{Asked, Owners, Seen};
use super::upstream_io::{Io, Line};
use super::{Error, Ledger, Port, spawn, wait};

/// The server. Dropping it closes everything.
pub struct Upstream {
    addr: SocketAddr,
    _port: Option<Port>,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Requests since the start.
    pub requests: u64,
    /// Requests held now, of all accounts.
    pub now: usize,
    /// By `x-slotgate-account`; `-`: requests without one.
    pub accounts: BTreeMap<String, AccountCount>,
    /// Requests by `x-slotgate-path`; `-`: without one.
    pub paths: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountCount {
    /// Held now.
    pub now: usize,
    /// Greatest number held at once.
    pub most: usize,
    /// Since the start.
    pub total: u64,
}

impl Snapshot {
    /// All 0 for an account never seen.
    pub fn account(&self, id: &str) -> AccountCount {
        self.accounts.get(id).copied().unwrap_or_default()
    }

    pub fn path(&self, path: &str) -> u64 {
        self.paths.get(path).copied().unwrap_or_default()
    }

    pub fn to_json(&self) -> Value {
        let account = |(id, count): (&String, &AccountCount)| {
            (
                id.clone(),
                json!({"now": count.now, "most": count.most, "total": count.total}),
            )
        };
        let accounts: serde_json::Map<_, _> = self.accounts.iter().map(account).collect();
        json!({"requests": self.requests, "now": self.now, "accounts": accounts, "paths": self.paths})
    }
}

impl Upstream {
    pub fn start() -> Upstream {
        Upstream::start_on(Port::free())
    }

    pub fn start_on(port: Port) -> Upstream {
        Upstream::listen(port.addr(), Some(port))
    }

    /// Beside another one: on the same port of another address of this machine, such as 127.0.0.2.
    pub fn start_beside(other: &Upstream, ip: Ipv4Addr) -> Upstream {
        Upstream::listen(SocketAddr::from((ip, other.addr.port())), None)
    }

    fn listen(addr: SocketAddr, port: Option<Port>) -> Upstream {
        let upstream = Upstream {
            addr,
            _port: port,
            shared: Arc::default(),
            accepting: Mutex::default(),
        };
        upstream.accept_again();
        upstream
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// From here on every request is noted, with the account that this ledger says its lease is of.
    pub fn watch(&self, ledger: &Ledger) {
        *self.shared.owners.lock().unwrap() = Some(Arc::new(Owners::new(ledger)));
    }

    /// What was noted since the last call, in the order in which it came.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }

    /// How many requests are noted now.
    pub fn seen(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// Headers of the last request that counted.
    pub fn last_headers(&self) -> HeaderMap {
        self.shared.counts().last_headers.clone()
    }

    /// Forgets totals and greatest numbers; what is held stays held.
    pub fn forget(&self) {
        let mut counts = self.shared.counts();
        counts.requests = 0;
        counts.paths.clear();
        counts
            .accounts
            .retain(|_, account| !account.held.is_empty());
        for account in counts.accounts.values_mut() {
            account.total = 0;
            account.most = account.held.len();
        }
    }

    /// Refuses connections from here on, and drops those there are.
    pub fn refuse(&self) {
        let Some(accepting) = self.accepting.lock().unwrap().take() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        wait(async move {
            accepting.abort();
            let _ = accepting.await;
            let mut connections = std::mem::take(&mut *shared.connections());
            connections.shutdown().await;
        });
    }

    /// Ends a `refuse`, on the same port.
    pub fn accept_again(&self) {
        let mut accepting = self.accepting.lock().unwrap();
        if accepting.is_none() {
            let addr = self.addr();
            let bound = wait(async move { TcpListener::bind(addr).await });
            let listener = bound.unwrap_or_else(|error| panic!("can't listen on {addr}: {error}"));
            *accepting = Some(spawn(accept(listener, Arc::clone(&self.shared))));
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.refuse();
    }
}

#[derive(Default)]
struct Shared {
    counts: Mutex<AccountTable>,
    /// Every connection's task, and every upgraded one's.
    connections: Mutex<JoinSet<()>>,
    owners: Mutex<Option<Arc<Owners>>>,
    seen: Mutex<Vec<Seen>>,
}

#[derive(Default)]
struct AccountTable {
    requests: u64,
    accounts: BTreeMap<String, Account>,
    paths: BTreeMap<String, u64>,
    last_headers: HeaderMap,
}

#[derive(Default)]
struct Account {
    /// By the request's number.
    held: BTreeMap<u64, Arc<Held>>,
    most: usize,
    total: u64,
    /// The next request's number.
    next: u64,
}

/// What becomes of a request held.
struct Held {
    line: Arc<Line>,
    /// Its client was there to the end.
    answered: AtomicBool,
}

impl Held {
    fn is_real(&self) -> bool {
        self.answered.load(Ordering::Relaxed) || !self.line.peer_closed()
    }
}

/// Longer than the kernel lets one CPU's packets wait while another's go through.
const MOMENT: Duration = Duration::from_millis(20);

impl Shared {
    fn counts(&self) -> MutexGuard<'_, AccountTable> {
        self.counts.lock().unwrap()
    }

    fn connections(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.connections.lock().unwrap()
    }

    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut connections = self.connections();
        while connections.try_join_next().is_some() {}
        connections.spawn(task);
    }

    /// Where it is watched.
    async fn note(&self, path: &str, version: Version, headers: &HeaderMap) {
        let owners = self.owners.lock().unwrap().clone();
        if let Some(owners) = owners {
            let seen = owners.look(path, version, headers).await;
            self.seen.lock().unwrap().push(seen);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let counts = self.counts();
        let count = |(id, account): (&String, &Account)| {
            (
                id.clone(),
                AccountCount {
                    now: account.held.len(),
                    most: account.most,
                    total: account.total,
                },
            )
        };
        Snapshot {
            requests: counts.requests,
            now: counts
                .accounts
                .values()
                .map(|account| account.held.len())
                .sum(),
            accounts: counts.accounts.iter().map(count).collect(),
            paths: counts.paths.clone(),
        }
    }
}

/// One request that counts; it counts until this is dropped.
pub(super) struct Hold {
    shared: Arc<Shared>,
    account: String,
    number: u64,
    held: Arc<Held>,
}

impl Hold {
    /// Whether its account holds more than this.
    fn is_above(&self, most: u64) -> bool {
        let counts = self.shared.counts();
        let account = counts.accounts.get(&self.account);
        account.is_some_and(|account| account.held.len() as u64 > most)
    }

    async fn new(shared: &Arc<Shared>, line: &Arc<Line>, headers: &HeaderMap) -> Hold {
        let text = |name: &str| {
            headers.get(name).map_or("-".into(), |value| {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            })
        };
        let id = text("x-slotgate-account");
        let held = Arc::new(Held {
            line: Arc::clone(line),
            answered: AtomicBool::new(false),
        });
        let (hold, beside) = {
            let mut counts = shared.counts();
            counts.requests += 1;
            counts.last_headers = headers.clone();
            *counts.paths.entry(text("x-slotgate-path")).or_default() += 1;
            let account = counts.accounts.entry(id.clone()).or_default();
            let number = account.next;
            account.next += 1;
            account.total += 1;
            account.held.insert(number, Arc::clone(&held));
            account.most = account.most.max(1);
            let beside = (account.held.len() > account.most).then(|| {
                let real = account.held.values().filter(|held| held.is_real());
                real.cloned().collect::<Vec<_>>()
            });
            let beside = beside.filter(|beside| beside.len() > account.most);
            (
                Hold {
                    shared: Arc::clone(shared),
                    account: id,
                    number,
                    held,
                },
                beside,
            )
        };
        if let Some(beside) = beside {
            tokio::time::sleep(MOMENT).await;
            let real = beside.iter().filter(|held| held.is_real()).count();
            if let Some(account) = shared.counts().accounts.get_mut(&hold.account) {
                account.most = account.most.max(real);
            }
        }
        hold
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held
            .answered
            .store(!self.held.line.peer_closed(), Ordering::Relaxed);
        if let Some(account) = self.shared.counts().accounts.get_mut(&self.account) {
            account.held.remove(&self.number);
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // An error here is a connection that went away again, or too many open files for a moment.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        shared.run(serve(stream, Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let is_http2 = starts_as_http2(&stream).await;
    let (io, line) = Io::new(stream);
    let service = hyper::service::service_fn(move |request| {
        answer(Arc::clone(&shared), Arc::clone(&line), request)
    });
    // Errors are clients that left, or resets that were asked for.
    if is_http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(io), service)
            .await;
        return;
    }
    let _ = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(10_000)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
}

/// RFC 9113, 3.4: no HTTP/1.1 request begins with this method.
async fn starts_as_http2(stream: &TcpStream) -> bool {
    let mut preface = [0; 4];
    matches!(stream.peek(&mut preface).await, Ok(1..)) && preface.starts_with(b"PRI")
}

async fn answer(
    shared: Arc<Shared>,
    line: Arc<Line>,
    mut request: Request<Incoming>,
) -> Result<Response<Counted>, Error> {
    let mut path = request.uri().path().to_owned();
    let query = parse_query(request.uri().query().unwrap_or_default());
    if path == "/stats" {
        return Ok(whole(
            StatusCode::OK,
            shared.snapshot().to_json().to_string(),
            None,
        ));
    }
    let hold = Hold::new(&shared, &line, request.headers()).await;
    shared
        .note(&path, request.version(), request.headers())
        .await;
    let number = |name: &str, default: u64| {
        query
            .iter()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(default)
    };
    let delay = Duration::from_millis(number("delay_ms", 0));
    let asked = (path == "/refuse").then(|| Asked::of(&query, request.headers()));
    if let Some(asked) = &asked {
        if asked.is_early() {
            tokio::time::sleep(delay).await;
            // Left unread, what is still to come would reset the connection under the answer.
            let (head, body) = request.into_parts();
            shared.run(async { drop(body.collect().await) });
            return asked.answer(&head, 0, &line, hold).await;
        }
        if let Some(then) = asked.then() {
            path = then;
        }
    }
    if path == "/ws" {
        let upgrade = hyper::upgrade::on(&mut request);
        shared.run(echo_bytes(upgrade, hold));
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        return Ok(response.body(Counted {
            kind: Kind::Whole(None),
            _hold: None,
        })?);
    }
    let (head, body) = request.into_parts();
    let body_length = body.collect().await?.to_bytes().len();
    let interval = Duration::from_millis(number("interval_ms", 10));
    Ok(match path.as_str() {
        "/" => whole(StatusCode::OK, "ok\n".into(), Some(hold)),
        "/echo" => {
            let seen = json!({
                "method": head.method.as_str(),
                "path": head.uri.to_string(),
                "headers": headers_json(&head.headers),
                "body_length": body_length,
            });
            whole(StatusCode::OK, seen.to_string(), Some(hold))
        }
        "/v1/chat/completions" => {
            let choice = json!({"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"});
            let completion = json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "bench", "choices": [choice],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            });
            let mut response = whole(StatusCode::OK, completion.to_string(), Some(hold));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert("content-type", json);
            response
        }
        "/sse" => events(number("events", 10), interval, None, hold)?,
        "/sse-error" => {
            let kind = query.iter().find(|(key, _)| key == "type");
            let kind = kind.map_or("api_error", |(_, kind)| kind.as_str());
            let error = json!({"type": "error", "error": {"type": kind, "message": "no"}});
            let text = format!(": wait\n\nevent: error\ndata: {error}\n\n");
            let mut response = whole(StatusCode::OK, text, Some(hold));
            let stream = HeaderValue::from_static("text/event-stream; charset=utf-8");
            response.headers_mut().insert("content-type", stream);
            response
        }
        "/bytes" => {
            let left = number("length", 1 << 20);
            Response::new(Counted {
                kind: Kind::Bytes { left },
                _hold: Some(hold),
            })
        }
        "/grpc" => Response::builder()
            .header("content-type", "application/grpc")
            .body(Counted {
                kind: Kind::Grpc {
                    messages: number("messages", 1),
                    status: Some(number("status", 0)),
                },
                _hold: Some(hold),
            })?,
        "/grpc-only" => {
            let mut response = Response::new(Counted {
                kind: Kind::Whole(None),
                _hold: Some(hold),
            });
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            for (name, value) in &query {
                headers.insert(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
            }
            response
        }
        "/refuse" => {
            tokio::time::sleep(delay).await;
            match asked {
                Some(asked) => asked.answer(&head, body_length, &line, hold).await?,
                None => whole(StatusCode::NOT_FOUND, String::new(), Some(hold)),
            }
        }
        "/reset-mid" => events(number("events", 3), interval, Some(line), hold)?,
        // An account that takes so many at a time refuses more at once.
        "/delay" if hold.is_above(number("most", u64::MAX)) => whole(
            StatusCode::TOO_MANY_REQUESTS,
            "too many\n".into(),
            Some(hold),
        ),
        "/delay" => {
            tokio::time::sleep(Duration::from_millis(number("ms", 100))).await;
            whole(StatusCode::OK, "ok\n".into(), Some(hold))
        }
        "/reset" => {
            line.reset_on_close();
            return Err("reset as asked".into());
        }
        "/hang" => match std::future::pending::<Infallible>().await {},
        other => match other
            .strip_prefix("/status/")
            .and_then(|status| status.parse().ok())
        {
            Some(status) => {
                let mut response = whole(status, format!("{status}\n"), Some(hold));
                for (name, value) in &query {
                    response
                        .headers_mut()
                        .insert(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
                }
                response
            }
            None => whole(StatusCode::NOT_FOUND, "no such path\n".into(), Some(hold)),
        },
    })
}

pub(super) fn whole(status: StatusCode, text: String, hold: Option<Hold>) -> Response<Counted> {
    let mut response = Response::new(Counted {
        kind: Kind::Whole(Some(text.into())),
        _hold: hold,
    });
    *response.status_mut() = status;
    response
}

fn events(
    count: u64,
    interval: Duration,
    reset: Option<Arc<Line>>,
    hold: Hold,
) -> Result<Response<Counted>, hyper::http::Error> {
    let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
    let kind = Kind::Events {
        next: 0,
        count,
        interval,
        sleep,
        reset,
    };
    let response = Response::builder()
        .header("content-type", "text/event-stream")
        .header("cache-control", "no-cache");
    response.body(Counted {
        kind,
        _hold: Some(hold),
    })
}

async fn echo_bytes(upgrade: hyper::upgrade::OnUpgrade, hold: Hold) {
    if let Ok(upgraded) = upgrade.await {
        let mut io = TokioIo::new(upgraded);
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = io.read(&mut buffer).await {
            if io.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    }
    drop(hold);
}

/// A response body that keeps its request counted; hyper drops it before it flushes the last byte.
pub(super) struct Counted {
    kind: Kind,
    _hold: Option<Hold>,
}

enum Kind {
    Whole(Option<Bytes>),
    Bytes {
        left: u64,
    },
    Grpc {
        messages: u64,
        status: Option<u64>,
    },
    Events {
        next: u64,
        count: u64,
        interval: Duration,
        sleep: Pin<Box<Sleep>>,
        /// Reset this connection after the last event, instead of ending well.
        reset: Option<Arc<Line>>,
    },
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.kind {
            Kind::Whole(bytes) => bytes.take(),
            Kind::Bytes { left: 0 } => None,
            Kind::Bytes { left } => {
                let part = (*left).min(64 << 10);
                *left -= part;
                Some(vec![7; part as usize].into())
            }
            Kind::Grpc {
                messages: 0,
                status,
            } => {
                let trailers = status.take().map(|status| {
                    let value = HeaderValue::from(status);
                    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), value)])
                });
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            Kind::Grpc { messages, .. } => {
                *messages -= 1;
                // Not compressed, five bytes.
                Some(Bytes::from_static(b"\0\0\0\0\x05hello"))
            }
            Kind::Events {
                next,
                count,
                interval,
                sleep,
                reset,
            } => {
                ready!(sleep.as_mut().poll(cx));
                let index = *next;
                *next += 1;
                sleep.as_mut().reset(Instant::now() + *interval);
                if index < *count {
                    Some(format!("data: {{\"index\":{index},\"delta\":\"token \"}}\n\n").into())
                } else if let Some(line) = reset {
                    line.reset_on_close();
                    return Poll::Ready(Some(Err("reset as asked".into())));
                } else if index == *count {
                    Some("data: [DONE]\n\n".into())
                } else {
                    None
                }
            }
        };
        Poll::Ready(frame.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Bytes { left } => *left == 0,
            Kind::Grpc { messages, status } => *messages == 0 && status.is_none(),
            Kind::Events {
                next, count, reset, ..
            } => reset.is_none() && next > count,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => {
                hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Kind::Bytes { left } => hyper::body::SizeHint::with_exact(*left),
            Kind::Grpc { .. } | Kind::Events { .. } => hyper::body::SizeHint::default(),
        }
    }
}

pub(super) fn headers_json(headers: &HeaderMap) -> Value {
    let value = |name: &HeaderName| {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        Value::String(values.join(", "))
    };
    headers
        .keys()
        .map(|name| (name.to_string(), value(name)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (key.to_owned(), value.to_owned())
    };
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(pair)
        .collect()
}
