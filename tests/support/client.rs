use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{Error, PATIENCE, spawn, wait};

/// Sends requests to one address, each on a connection of its own.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    addr: SocketAddr,
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Request(hyper::Request<Full<Bytes>>);

/// A whole response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    pub fn get(path: &str) -> Request {
        Request::new("GET", path, Bytes::new())
    }

    pub fn post(path: &str, body: impl Into<Bytes>) -> Request {
        Request::new("POST", path, body.into())
    }

    pub fn new(method: &str, path: &str, body: Bytes) -> Request {
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .body(Full::new(body));
        Request(request.expect("a valid method and path"))
    }

    /// Adds a header; one more of a name that is there already is sent as well. Any bytes that HTTP allows.
    pub fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Request {
        let value = HeaderValue::from_bytes(value.as_ref()).expect("a valid header value");
        self.0.headers_mut().append(name, value);
        self
    }

    fn headers(mut self, headers: &[(&'static str, &str)]) -> Request {
        for (name, value) in headers {
            self = self.header(name, value);
        }
        self
    }
}

impl Reply {
    /// A response header as text; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        text(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON: {error}: {}", self.text()))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// How many of each status; 0 stands for requests that got no whole response.
pub fn count_statuses(replies: &[Result<Reply, Error>]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for reply in replies {
        *counts
            .entry(reply.as_ref().map_or(0, |reply| reply.status))
            .or_default() += 1;
    }
    counts
}

impl Client {
    pub fn new(addr: SocketAddr) -> Client {
        Client { addr }
    }

    #[track_caller]
    pub fn get(&self, path: &str, headers: &[(&'static str, &str)]) -> Reply {
        self.send(Request::get(path).headers(headers))
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    #[track_caller]
    pub fn post(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        self.send(Request::post(path, body).headers(headers))
            .unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Sends a request and waits for the whole response.
    pub fn send(&self, request: Request) -> Result<Reply, Error> {
        wait(self.sending(request))
    }

    /// The same as a future, for `spawn`.
    pub fn sending(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + 'static {
        let addr = self.addr;
        async move {
            let whole = async {
                let (response, _connection) = exchange(addr, request).await?;
                whole(response).await
            };
            tokio::time::timeout(PATIENCE, whole)
                .await
                .unwrap_or_else(|_| Err("no whole response in time".into()))
        }
    }

    /// Sends `total` requests, `at_once` at a time, and waits for all of them. `make` gets each one's number.
    pub fn load(
        &self,
        total: usize,
        at_once: usize,
        make: impl Fn(usize) -> Request + Send + Sync + 'static,
    ) -> Vec<Result<Reply, Error>> {
        let (next, make) = (Arc::new(AtomicUsize::new(0)), Arc::new(make));
        let client = *self;
        let lane = || {
            let (next, make) = (Arc::clone(&next), Arc::clone(&make));
            spawn(async move {
                let mut replies = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return replies;
                    }
                    replies.push((number, client.sending(make(number)).await));
                }
            })
        };
        let lanes: Vec<_> = (0..at_once.min(total)).map(|_| lane()).collect();
        let mut replies = wait(async move {
            let mut replies = Vec::with_capacity(total);
            for lane in lanes {
                replies.extend(lane.await.expect("a lane panicked"));
            }
            replies
        });
        replies.sort_by_key(|(number, _)| *number);
        replies.into_iter().map(|(_, reply)| reply).collect()
    }

    /// Sends `total` requests at the same moment, over connections that were opened before, and waits for all of them.
    /// `make` gets each one's number.
    pub fn burst(
        &self,
        protocol: Protocol,
        total: usize,
        make: impl Fn(usize) -> Request + Send + 'static,
    ) -> Vec<Result<Reply, Error>> {
        let addr = self.addr;
        wait(async move {
            let mut senders = Vec::new();
            match protocol {
                Protocol::Http1 => {
                    for _ in 0..total {
                        senders.push(Sender::Http1(open_http1(addr).await?));
                    }
                }
                Protocol::Http2 { streams } => {
                    for first in (0..total).step_by(streams) {
                        let sender = open_http2(addr).await?;
                        let here = streams.min(total - first);
                        senders.extend((0..here).map(|_| Sender::Http2(sender.clone())));
                    }
                }
            }
            let requests = senders.into_iter().enumerate().map(|(number, sender)| {
                let reply = tokio::time::timeout(PATIENCE, sender.send(make(number)));
                spawn(async {
                    reply
                        .await
                        .unwrap_or_else(|_| Err("no whole response in time".into()))
                })
            });
            let requests: Vec<_> = requests.collect();
            let mut replies = Vec::with_capacity(total);
            for request in requests {
                replies.push(request.await.expect("a request panicked"));
            }
            Ok::<_, Error>(replies)
        })
        .unwrap_or_else(|error| panic!("the connections can't be opened: {error}"))
    }

    /// Waits for the response's headers and leaves the body to be read event by event.
    #[track_caller]
    pub fn open(&self, path: &str, headers: &[(&'static str, &str)]) -> EventStream {
        let (addr, request) = (self.addr, Request::get(path).headers(headers));
        let opened = wait(async move {
            let opened = tokio::time::timeout(PATIENCE, exchange(addr, request));
            opened
                .await
                .unwrap_or_else(|_| Err("no response headers in time".into()))
        });
        let (response, connection) = opened.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        EventStream {
            status,
            headers: head.headers,
            body: Some(body),
            rest: String::new(),
            _connection: connection,
        }
    }

    /// A plain TCP connection, for bytes no client library would send.
    pub fn raw(&self) -> RawConnection {
        let stream =
            std::net::TcpStream::connect(self.addr).expect("the server accepts connections");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket option");
        stream.set_nodelay(true).expect("a socket option");
        RawConnection { stream }
    }

    /// Sends a request and does not wait for anything; dropping the connection abandons the request.
    pub fn start(&self, path: &str, headers: &[(&str, &str)]) -> RawConnection {
        let mut connection = self.raw();
        connection.send(request_bytes(path, headers).as_bytes());
        connection
    }

    /// Asks for a websocket. After status 101 the connection carries raw bytes.
    pub fn websocket(&self, path: &str, headers: &[(&str, &str)]) -> (u16, RawConnection) {
        let upgrade = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut connection = self.start(path, &[&upgrade, headers].concat());
        let head = connection.read_head();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        (
            status.unwrap_or_else(|| panic!("not a status line: {head:?}")),
            connection,
        )
    }
}

fn request_bytes(path: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n")
}

/// Ends the connection's task, and with it the connection, on drop.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a burst's requests are spread over connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Each request has a connection of its own.
    Http1,
    /// Each connection carries this many requests.
    Http2 { streams: usize },
}

type Http1 = (
    hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    Connection,
);
type Http2 = (
    hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    Arc<Connection>,
);

/// One request's share of an open connection.
enum Sender {
    Http1(Http1),
    Http2(Http2),
}

impl Sender {
    async fn send(self, Request(mut request): Request) -> Result<Reply, Error> {
        let (response, _connection) = match self {
            Sender::Http1((mut sender, connection)) => {
                let headers = request.headers_mut();
                headers.insert(HOST, HeaderValue::from_static("test"));
                (sender.send_request(request).await?, Arc::new(connection))
            }
            Sender::Http2((mut sender, connection)) => {
                let uri = format!("http://test{}", request.uri());
                *request.uri_mut() = uri.parse()?;
                (sender.send_request(request).await?, connection)
            }
        };
        whole(response).await
    }
}

async fn open_http1(addr: SocketAddr) -> Result<Http1, Error> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = Connection(spawn(async move {
        // What goes wrong is told to the request as well.
        let _ = connection.await;
    }));
    Ok((sender, connection))
}

async fn open_http2(addr: SocketAddr) -> Result<Http2, Error> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        // Or the first requests wait for the server's own number of streams.
        .initial_max_send_streams(100_000)
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = Connection(spawn(async move {
        let _ = connection.await;
    }));
    Ok((sender, Arc::new(connection)))
}

async fn whole(response: Response<Incoming>) -> Result<Reply, Error> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    })
}

async fn exchange(
    addr: SocketAddr,
    mut request: Request,
) -> Result<(Response<Incoming>, Connection), Error> {
    let (mut sender, connection) = open_http1(addr).await?;
    request
        .0
        .headers_mut()
        .entry(HOST)
        .or_insert(HeaderValue::from_static("test"));
    Ok((sender.send_request(request.0).await?, connection))
}

/// A response whose server-sent events are read one at a time. Dropping it closes the connection at once.
pub struct EventStream {
    pub status: u16,
    pub headers: HeaderMap,
    body: Option<Incoming>,
    rest: String,
    _connection: Connection,
}

impl EventStream {
    pub fn header(&self, name: &str) -> &str {
        text(&self.headers, name)
    }

    /// The next event's data; `None` at the end of the stream; an error when it breaks off.
    pub fn next_event(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some((event, rest)) = self.rest.split_once("\n\n") {
                let data = event.strip_prefix("data: ").unwrap_or(event).to_owned();
                self.rest = rest.to_owned();
                return Ok(Some(data));
            }
            let Some(mut body) = self.body.take() else {
                return Ok(None);
            };
            let (frame, body) =
                wait(async move { (tokio::time::timeout(PATIENCE, body.frame()).await, body) });
            match frame {
                Err(_) => return Err("no event in time".into()),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => {
                    if let Ok(bytes) = frame?.into_data() {
                        self.rest.push_str(&String::from_utf8_lossy(&bytes));
                    }
                    self.body = Some(body);
                }
            }
        }
    }

    /// Reads that many events; panics when the stream ends before.
    #[track_caller]
    pub fn events(&mut self, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| {
                self.next_event()
                    .expect("the stream goes on")
                    .expect("another event")
            })
            .collect()
    }
}

/// Bytes in, bytes out. Dropping it closes it.
pub struct RawConnection {
    stream: std::net::TcpStream,
}

impl RawConnection {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .expect("the server still reads");
    }

    /// One read: what is there; empty at the end of the stream. An error when the server has reset it, or sends
    /// nothing for too long.
    pub fn try_read(&mut self) -> std::io::Result<Vec<u8>> {
        let mut buffer = vec![0; 64 * 1024];
        let length = self.stream.read(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// The same, with a reset taken for an end.
    #[track_caller]
    pub fn read(&mut self) -> Vec<u8> {
        match self.try_read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Vec::new(),
            Err(error) => panic!("nothing to read: {error}"),
        }
    }

    /// Status line and headers, with the empty line; shorter if the server closes before.
    pub fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        let mut byte = [0];
        // One byte at a time, so that nothing behind the headers is swallowed.
        while !head.ends_with(b"\r\n\r\n") && matches!(self.stream.read(&mut byte), Ok(1)) {
            head.push(byte[0]);
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    pub fn read_exact(&mut self, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        self.stream
            .read_exact(&mut buffer)
            .expect("that many bytes");
        buffer
    }

    /// Everything until the server closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            match self.read() {
                bytes if bytes.is_empty() => return all,
                bytes => all.extend(bytes),
            }
        }
    }

    pub fn set_read_timeout(&self, timeout: Duration) {
        self.stream
            .set_read_timeout(Some(timeout))
            .expect("a socket option");
    }

    /// Closes with a TCP reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket option");
    }
}
