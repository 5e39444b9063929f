//! So many requests through the pure core: in by its bucket, granted, released, each alone or eight together; or out of the
//! percentage. `guard acquire 1000`, `guard together 1000`, `guard out 1000`.

use slotgate::config::{Role, parse};
use slotgate::request::headers::Headers;
use slotgate::ledger::source::{Script};
use slotgate::worker::Worker;

const GRANTED: &[u8] = b"*2\r\n$10\r\n1234567890\r\n$3\r\na42\r\n";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let Some([way, requests]) = arguments.get(1..) else {
        panic!("guard acquire|together|out REQUESTS")
    };
    let requests: u32 = requests.parse().expect("a number");
    let (percent, at_once) = match way.as_str() {
        "acquire" => (100, 1),
        "together" => (100, 8),
        "out" => (0, 1),
        _ => panic!("acquire, together or out, not {way}"),
    };
    let accounts: Vec<String> = (0..100)
        .map(|n| format!(r#"{{"id": "a{n}", "max_concurrency": 10, "set_headers": {{"x-upstream": "u{n}"}}}}"#))
        .collect();
    let json = format!(
        r#"{{"role": "scheduler", "gray": {{"percent": {percent}}}, "pools": [{{"name": "p", "accounts": [{}]}}]}}"#,
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
    let (slot, _) = worker.on_request(0, 0, Headers::new(&headers));
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
        b"*4\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n",
    );
    if percent > 0 {
        reply(&mut worker, GRANTED);
    }
    worker.on_end(0, (slot, 0));
    let granted = format!(
        "*{}\r\n$10\r\n1234567890\r\n{}",
        at_once + 1,
        "$3\r\na42\r\n".repeat(at_once)
    );
    let streams: Vec<u32> = (1..=requests).collect();
    for streams in streams.chunks(at_once) {
        let mut slots = [0; 8];
        for (slot, stream) in slots.iter_mut().zip(streams) {
            *slot = worker.on_request(1, *stream, Headers::new(&headers)).0;
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
        for (slot, stream) in slots.iter().zip(streams) {
            worker.on_end(1, (*slot, *stream));
            std::hint::black_box(worker.next_wake_ms());
        }
        worker.wire().bytes.clear();
    }
    assert_eq!(worker.counters().total() >= u64::from(requests), true);
}
