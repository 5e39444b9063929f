//! So many requests through the pure core: in by its bucket, granted, released, each alone or eight together; or out of the
//! percentage; or one that waits until it is handed a slot, by the reply to a release or by a message; or refused, by the ledger
//! or by a worker that was just told so; or refused by its account and granted another. `guard acquire 1000`, `guard together
//! 1000`, `guard out 1000`, `guard handed 1000`, `guard heard 1000`, `guard refused 1000`, `guard full 1000`, `guard failover 1000`.

use slotgate::config::{Role, parse};
use slotgate::request::headers::Headers;
use slotgate::ledger::source::{Script};
use slotgate::worker::{RequestId, Worker};

const GRANTED: &[u8] = b"*2\r\n$10\r\n1234567890\r\n$3\r\na42\r\n";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let Some([way, requests]) = arguments.get(1..) else {
        panic!("guard acquire|together|out|handed|heard|refused|full|failover REQUESTS")
    };
    let requests: u32 = requests.parse().expect("a number");
    let (percent, at_once, action) = match way.as_str() {
        "acquire" => (100, 1, "reject"),
        "together" => (100, 8, "reject"),
        "out" => (0, 1, "reject"),
        "handed" | "heard" => (100, 1, "queue"),
        "refused" | "full" | "failover" => (100, 1, "reject"),
        _ => panic!("acquire, together, out, handed, heard, refused, full or failover, not {way}"),
    };
    let accounts: Vec<String> = (0..100)
        .map(|n| format!(r#"{{"id": "a{n}", "max_concurrency": 10, "set_headers": {{"x-upstream": "u{n}"}}}}"#))
        .collect();
    let (refuse_ms, tries) = (if way == "full" { 1_000 } else { 0 }, if way == "failover" { 2 } else { 1 });
    let json = format!(
        r#"{{"role": "scheduler", "failover": {{"max_attempts": {tries}}}, "gray": {{"percent": {percent}}}, "saturated": {{"action": "{action}", "refuse_ms": {refuse_ms}}}, "pools": [{{"name": "p", "accounts": [{}]}}]}}"#,
        accounts.join(",")
    );
    let Ok(Role::Scheduler(config)) = parse(json.as_bytes(), &|_| None) else {
        panic!("a configuration")
    };
    let headers = Headers::serialize(&[
        (b":authority", b"api.example.com"),
        (b":path", b"/v1/messages?beta=true"),
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b"accept", b"application/json"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"client/1.0"),
        (b"x-session-id", b"7e7c1c9e-7a5c-4a5e-9d56-0d1f4c1c1c3b"),
        (b"x-request-id", b"0d6f0f0e-0a4e-4e0c-8f0b-0a7a1d9c5e11"),
    ]);
    let mut worker = Worker::new(*config, 1);
    let reply = |worker: &mut Worker, bytes: &[u8]| worker.on_pipe_bytes(0, bytes);
    let (id, _) = worker.on_request(0, 0, Headers::new(&headers));
    worker.on_tick(0);
    worker.on_pipe_open(0);
    reply(&mut worker, b"+OK\r\n");
    for _ in Script::FILTER {
        reply(
            &mut worker,
            b"$40\r\n0123456789012345678901234567890123456789\r\n",
        );
    }
    reply(
        &mut worker,
        b"*3\r\n$7\r\ncurrent\r\n$1\r\n1\r\n$1\r\n9\r\n",
    );
    // The first look at the operator's overrides: there are none.
    reply(
        &mut worker,
        b"*5\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n:0\r\n",
    );
    // The digits before a lease's number.
    let prefix = prefix_of(&worker.wire().bytes);
    if percent > 0 {
        reply(&mut worker, GRANTED);
    }
    if action == "queue" {
        while worker.next_answer().is_some() {}
        let queue = Queue { worker, headers: Headers::new(&headers), prefix, before: id };
        return queue.serve(requests, way == "heard");
    }
    worker.on_end(0, id);
    if ["refused", "full", "failover"].contains(&way.as_str()) {
        while worker.next_answer().is_some() {}
        worker.on_tick(1);
        reply(&mut worker, b":1\r\n");
        worker.wire().bytes.clear();
        for stream in 1..=requests {
            // None may be the last one's tick.
            match way.as_str() {
                "failover" => fail_over(&mut worker, stream, Headers::new(&headers)),
                _ => refuse(&mut worker, stream, Headers::new(&headers)),
            }
            worker.wire().bytes.clear();
        }
        return;
    }
    let granted = format!(
        "*{}\r\n$10\r\n1234567890\r\n{}",
        at_once + 1,
        "$3\r\na42\r\n".repeat(at_once)
    );
    let streams: Vec<u32> = (1..=requests).collect();
    for streams in streams.chunks(at_once) {
        let mut ids = [id; 8];
        for (id, stream) in ids.iter_mut().zip(streams) {
            *id = worker.on_request(1, *stream, Headers::new(&headers)).0;
            worker.identify(b"0d6f0f0e-0a4e-4e0c-8f0b-0a7a1d9c5e11");
            std::hint::black_box(worker.next_wake_ms());
        }
        if percent > 0 {
            worker.flush(1);
            // The releases of those before ride with their acquires.
            reply(&mut worker, b":1\r\n");
            reply(&mut worker, granted.as_bytes());
            while worker.next_answer().is_some() {}
        }
        for id in ids.iter().take(streams.len()) {
            worker.on_end(1, *id);
            std::hint::black_box(worker.next_wake_ms());
        }
        worker.wire().bytes.clear();
    }
    assert_eq!(worker.counters().total() >= u64::from(requests), true);
}

/// A request that gets no slot, by the ledger's word or by what it said before.
fn refuse(worker: &mut Worker, stream: u32, headers: Headers) {
    let (id, verdict) = worker.on_request(1, stream, headers);
    worker.identify(b"0d6f0f0e-0a4e-4e0c-8f0b-0a7a1d9c5e11");
    std::hint::black_box(worker.next_wake_ms());
    if verdict.is_none() {
        worker.flush(1);
        worker.on_pipe_bytes(1, b"*2\r\n$10\r\n1234567890\r\n:2000\r\n");
        assert!(worker.next_answer().is_some(), "it is refused");
        worker.on_end(1, id);
    }
}

/// A request that its account refuses, and another one serves.
fn fail_over(worker: &mut Worker, stream: u32, headers: Headers) {
    let now_ms = 1;
    worker.set_clock_us(1_000);
    let (id, _) = worker.on_request(now_ms, stream, headers);
    worker.identify(b"0d6f0f0e-0a4e-4e0c-8f0b-0a7a1d9c5e11");
    worker.flush(now_ms);
    worker.on_pipe_bytes(now_ms, GRANTED);
    assert!(worker.next_answer().is_some(), "it has its slot");
    let answer = Headers::serialize(&[(b":status", b"429"), (b"retry-after", b"1")]);
    assert!(worker.on_try_answered(now_ms, id, 429_u16, Headers::new(&answer), 0), "it may try again");
    assert!(!worker.on_try(now_ms, id, u32::MAX), "it waits for its slot");
    worker.flush(now_ms);
    // The rest of the account, the end of its lease, and the second acquire.
    worker.on_pipe_bytes(now_ms, b":1\r\n:1\r\n*2\r\n$10\r\n1234567890\r\n$3\r\na43\r\n");
    assert!(worker.next_answer().is_some(), "it has another slot");
    worker.on_end(now_ms, id);
    worker.on_tick(now_ms);
    worker.on_pipe_bytes(now_ms, b":1\r\n");
}

/// The first 16 digits of the leases in a worker's commands.
fn prefix_of(commands: &[u8]) -> String {
    let head = b"$24\r\n";
    let at = commands.windows(head.len()).position(|window| window == head);
    let lease = at.and_then(|at| commands.get(at + head.len()..)).and_then(|rest| rest.get(..16));
    String::from_utf8_lossy(lease.unwrap_or_default()).into_owned()
}

/// Requests that find no slot, one after the other.
struct Queue<'a> {
    worker: Worker,
    headers: Headers<'a>,
    prefix: String,
    /// The one that holds the slot.
    before: RequestId,
}

impl Queue<'_> {
    fn serve(mut self, requests: u32, heard: bool) {
        if heard {
            self.listen();
        }
        for stream in 1..=requests {
            let (id, _) = self.worker.on_request(1, stream, self.headers);
            self.worker.identify(b"0d6f0f0e-0a4e-4e0c-8f0b-0a7a1d9c5e11");
            self.worker.flush(1);
            self.reply(b"*2\r\n$10\r\n1234567890\r\n$27\r\n~1732999999123456001 4000 0\r\n");
            // The one before it ends, and its release hands the slot on.
            self.worker.on_end(1, self.before);
            self.worker.on_tick(1);
            let number = stream + u32::from(heard);
            let grant = format!("{} {}{number:08x} a42 1234567890", id.slot, self.prefix);
            let grant = format!("${}\r\n{grant}\r\n", grant.len());
            if heard {
                self.reply(b":1\r\n");
                let message = format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n{grant}");
                self.worker.on_grants_bytes(1, message.as_bytes());
            } else {
                self.reply(format!("*2\r\n:1\r\n{grant}").as_bytes());
            }
            assert!(self.worker.next_answer().is_some(), "it has its slot");
            // Its session is bound.
            self.worker.flush(1);
            self.reply(GRANTED);
            std::hint::black_box(self.worker.next_wake_ms());
            self.worker.wire().bytes.clear();
            self.before = id;
        }
    }

    fn reply(&mut self, bytes: &[u8]) {
        self.worker.on_pipe_bytes(1, bytes);
    }

    /// The first that waits opens the connection on which grants are heard, and is granted by its heartbeat.
    fn listen(&mut self) {
        let (id, _) = self.worker.on_request(0, u32::MAX, self.headers);
        self.worker.flush(0);
        self.reply(b"*2\r\n$10\r\n1234567890\r\n$27\r\n~1732999999123456001 4000 0\r\n");
        self.worker.on_tick(0);
        self.worker.on_grants_open(0);
        self.worker.on_grants_bytes(0, b"+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
        self.worker.grants_wire().bytes.clear();
        self.worker.on_end(0, id);
        self.worker.on_tick(0);
        self.reply(b":0\r\n");
        self.worker.wire().bytes.clear();
    }
}
