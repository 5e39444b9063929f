//! What holds for any bytes whatever, besides that nothing panics: the fuzz targets here, and `tests/fuzz.rs`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use slotgate::config::structpb;
use slotgate::config::{Config, MatchValue, Role, WaitForm, parse};
use slotgate::ledger::commands;
use slotgate::ledger::fault::Fault;
use slotgate::ledger::resp::{self, Value, Values};
use slotgate::pipe::down::PipeOrder;
use slotgate::pipe::frames::{Deframer, HEADER, MAX_FRAME, frame_header};
use slotgate::pool;
use slotgate::request::gray::{self, BUCKETS, Bucketer};
use slotgate::request::headers::Headers;
use slotgate::upstream::cooldown::{self, http_date, rfc3339, wait_ms};
use slotgate::upstream::failing::Source;
use slotgate::worker::Worker;

/// A target's name, which is its file's and its corpus', and its property.
pub type Property = (&'static str, fn(&[u8]));

pub const ALL: [Property; 8] = [
    ("resp", resp),
    ("replies", replies),
    ("frames", frames),
    ("config", config),
    ("structpb", structpb),
    ("headers", headers),
    ("retry_after", retry_after),
    ("worker", worker),
];

/// A reply's length is the same however many bytes are there behind it, and is not known before they are.
pub fn resp(data: &[u8]) {
    match resp::reply_length(data) {
        Ok(Some(length)) => {
            assert!(length <= data.len());
            let reply = &data[..length];
            assert_eq!(resp::reply_length(reply), Ok(Some(length)));
            for cut in [0, length / 2, length.saturating_sub(1)] {
                assert_eq!(resp::reply_length(&data[..cut]), Ok(None));
            }
            let mut values = Values::new(reply);
            let mut left = 1;
            while left > 0 {
                left -= 1;
                if let Value::Array(more) = values.value().expect("a whole reply") {
                    left += more;
                }
            }
            assert_eq!(values.value(), None);
        }
        Ok(None) => {
            for cut in [data.len() / 2, data.len().saturating_sub(1)] {
                assert_eq!(resp::reply_length(&data[..cut]), Ok(None));
            }
        }
        Err(_) => {
            let mut more = data.to_vec();
            more.extend_from_slice(b"\r\n");
            assert!(resp::reply_length(&more).is_err(), "no bytes mend it");
        }
    }
}

/// An error reply is that error to everyone who reads it. Anything else that one of them can't read is a mismatch, or of the right
/// shape with another value in it.
pub fn replies(data: &[u8]) {
    let faults = [
        commands::acquired(data, 2).err(),
        commands::number(data).err(),
        commands::renewed(data, 3).err(),
        commands::synced(data).err(),
        commands::reconciled(data).err(),
    ];
    let expected = match Values::new(data).value() {
        Some(Value::Error(error)) => {
            assert!(faults.iter().all(Option::is_some));
            Fault::of(error)
        }
        Some(_) | None => Fault::Mismatch,
    };
    let garbage = |fault| expected == Fault::Mismatch && fault == Fault::Garbage;
    let mut faults = faults.into_iter().flatten();
    assert!(faults.all(|fault| fault == expected || garbage(fault)));
    if let Ok((_, answers)) = commands::renewed(data, 3) {
        assert_eq!(answers.count(), 3);
    }
}

/// Cut anywhere, the payload is the same; framed again, it comes out as it went in.
pub fn frames(data: &[u8]) {
    let strip = |parts: &[&[u8]]| {
        let (mut deframer, mut out) = (Deframer::default(), Vec::new());
        let stripped: Result<(), _> = parts
            .iter()
            .try_for_each(|part| deframer.strip(part, &mut out));
        (stripped, out)
    };
    let whole = strip(&[data]);
    let middle = data.len() / 2;
    assert_eq!(whole, strip(&[&data[..middle], &data[middle..]]));
    assert_eq!(whole, strip(&data.chunks(1).collect::<Vec<_>>()));
    assert!(whole.1.len() <= data.len());
    let header: [u8; HEADER] = frame_header(data.len()).expect("shorter than the longest");
    assert_eq!(strip(&[&header, data]), (Ok(()), data.to_vec()));
    assert_eq!(frame_header(MAX_FRAME as usize + 1), None);
}

/// A configuration is refused with a path and a rule for each error, or a worker can run on it.
pub fn config(data: &[u8]) {
    match parse(data, &|_| Some("secret".into())) {
        Ok(Role::Scheduler(config)) => {
            let mut worker = Worker::new(*config, 1);
            let headers = Headers::serialize(&[(b"x-session-id", b"s"), (b":path", b"/?a=b")]);
            worker.on_request(0, 1, Headers::new(&headers));
            worker.on_tick(0);
            worker.on_end(0, (0, 1));
        }
        Ok(_) => {}
        Err(errors) => {
            let text = errors.to_string();
            assert!(!text.is_empty());
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

/// A Struct's bytes are JSON's values, and what they hold is checked as JSON is.
pub fn structpb(data: &[u8]) {
    if let Some(value) = structpb::decode(data) {
        config(value.to_string().as_bytes());
    }
}

/// Any serialized map: each value lies within it, and what is read of one header agrees with what is read of all.
pub fn headers(data: &[u8]) {
    let headers = Headers::new(data);
    let pairs: Vec<_> = headers.iter().collect();
    let within = |part: &[u8]| data.as_ptr_range().contains(&part.as_ptr()) || part.is_empty();
    assert!(
        pairs
            .iter()
            .all(|(name, value)| within(name) && within(value))
    );
    let again = Headers::serialize(&pairs);
    assert!(Headers::new(&again).iter().eq(headers.iter()));
    let config = &*PLAIN;
    let first = pairs.iter().find(|(name, _)| *name == b"x-session-id");
    let session = gray::session(&config.gray.session, headers);
    if let Some((_, value)) = first
        && !value.is_empty()
    {
        assert_eq!(session, Some(*value));
    }
    let gate = Bucketer::new("salt");
    let key = session.unwrap_or(data);
    assert!(u64::from(gate.bucket(key)) < BUCKETS.get());
    assert_eq!(gate.bucket(key), Bucketer::new("salt").bucket(key));
    let choose = || {
        gate.choose(&config.gray, config.gray.basis_points, headers, session, 7)
            .0
    };
    assert_eq!(choose(), choose());
    assert!(pool::select(&config.pools, headers).is_none_or(|pool| pool < config.pools.len()));
}

/// Whatever stands in whichever header: never more than allowed, never 0, and for a status that is pushback always
/// something. What is read of a date or a duration does not depend on the clock, but for a year of two digits.
pub fn retry_after(data: &[u8]) {
    let config = &PLAIN.cooldown;
    // Every header of the default table, with every condition fulfilled.
    let rules = config.headers.iter().flat_map(|step| &step.headers);
    let mut all: Vec<(&[u8], &[u8])> = vec![(b"date", data)];
    for rule in rules.clone() {
        all.push((rule.name.as_bytes(), data));
        match rule.when.as_ref().map(|when| (&when.header, &when.value)) {
            Some((header, MatchValue::Exact(text) | MatchValue::Prefix(text))) => {
                all.push((header.as_bytes(), text.as_bytes()));
            }
            Some((_, MatchValue::Suffix(_) | MatchValue::Present(_))) | None => {}
        }
    }
    for now_unix_s in [0, 784_111_777, u64::MAX] {
        let now = |form| wait_ms(form, data, now_unix_s);
        // A moment that is said in two ways is the same.
        let date = http_date(data, now_unix_s);
        if let Some(instant) = date {
            let left = instant.saturating_sub(now_unix_s).saturating_mul(1000);
            assert_eq!(now(WaitForm::SecondsOrDate), Some(left));
        }
        if let Some(instant) = rfc3339(data) {
            let left = instant.saturating_sub(now_unix_s).saturating_mul(1000);
            assert_eq!(now(WaitForm::UnixS), Some(left));
            assert_eq!(now(WaitForm::Rfc3339), Some(left));
            assert!(now(WaitForm::Duration).is_none() && date.is_none());
        }
        // A bare number means the same to all who wait for seconds.
        if let Some(ms) = now(WaitForm::Seconds) {
            assert_eq!(now(WaitForm::Duration), Some(ms));
            assert_eq!(now(WaitForm::SecondsOrDate), Some(ms));
        }
        // All at once, and one of them alone.
        let one = all.iter().skip(data.len() % all.len()).take(1);
        let one: Vec<_> = one.copied().collect();
        for pairs in [&all, &one] {
            let bytes = Headers::serialize(pairs);
            let headers = Headers::new(&bytes);
            let rest = cooldown::rest(config, 429, headers, now_unix_s).expect("it is pushback");
            assert!((1..=config.max_ms).contains(&rest.ms));
            assert!(rest.malformed <= pairs.len() as u64);
            assert_eq!(cooldown::rest(config, 200, headers, now_unix_s), None);
        }
    }
}

static PLAIN: LazyLock<Config> = LazyLock::new(|| scheduler(0));

/// The ways a worker may be configured that lead its requests elsewhere.
fn scheduler(variant: u8) -> Config {
    let mut json = serde_json::json!({
        "role": "scheduler",
        "redis": {"max_pending": 16, "password_env": "P", "database": 1, "breaker": {"failures": 2}},
        "gray": {"percent": 90, "session": [{"header": "x-session-id"}, {"cookie": "s"}, {"query": "s"}]},
        "lease": {"ttl_ms": 1000, "renew_interval_ms": 200},
        "pools": [
            {"name": "p", "match": [{"header": "x-pool", "exact": "p"}], "accounts": [{"id": "a", "max_concurrency": 2}]},
            {"name": "q", "accounts": [{"id": "a", "max_concurrency": 1}, {"id": "b", "max_concurrency": 3}]},
        ],
    });
    if variant & 1 > 0 {
        json["gray"]["mode"] = "shadow".into();
    }
    if variant & 2 > 0 {
        json["traditional"] = serde_json::json!({"mode": "local"});
    }
    if variant & 4 > 0 {
        json["failure"] = serde_json::json!({"action": "reject"});
    }
    match parse(json.to_string().as_bytes(), &|_| Some("pw".into())) {
        Ok(Role::Scheduler(config)) => *config,
        other => panic!("{other:?}"),
    }
}

const REPLIES: [&str; 25] = [
    "+OK\r\n",
    "$40\r\n0123456789012345678901234567890123456789\r\n",
    "*3\r\n$7\r\ncurrent\r\n$1\r\n1\r\n$1\r\n9\r\n",
    "*3\r\n$6\r\nwanted\r\n$1\r\n1\r\n$1\r\n9\r\n",
    "*3\r\n$5\r\nnewer\r\n$1\r\n7\r\n$1\r\n9\r\n",
    "*3\r\n$8\r\nreplaced\r\n$1\r\n1\r\n$1\r\n9\r\n",
    "*2\r\n$1\r\n9\r\n$1\r\na\r\n",
    "*3\r\n$1\r\n8\r\n$1\r\nb\r\n:7\r\n",
    "*2\r\n$1\r\n9\r\n$7\r\nb:probe\r\n",
    "*3\r\n$1\r\n9\r\n$1\r\nz\r\n$-1\r\n",
    "*2\r\n$1\r\n9\r\n:50\r\n",
    "*2\r\n$1\r\n9\r\n$1\r\nr\r\n",
    "*2\r\n$1\r\n9\r\n$1\r\nl\r\n",
    "*2\r\n$1\r\n9\r\n$2\r\nra\r\n",
    "*2\r\n$4\r\ndone\r\n$1\r\n2\r\n",
    "*2\r\n$7\r\nworking\r\n$1\r\n0\r\n",
    ":0\r\n",
    ":1\r\n",
    "-NOSCRIPT x\r\n",
    "-NOPOOL x\r\n",
    "-READONLY x\r\n",
    "-OOM x\r\n",
    "-ERR x\r\n",
    "-NOACCOUNT x\r\n",
    "$-1\r\n",
];

/// Whatever happens in whatever order: at most one verdict for each request, none later than `acquire_timeout_ms`, and
/// nothing that grows without bound.
pub fn worker(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let config = scheduler(bytes.next().unwrap_or(0));
    let deadline_ms = config.redis.acquire_timeout_ms;
    let mut worker = Worker::new(config, 1);
    let (mut now_ms, mut ordered) = (0, false);
    // Stream → its slot, when it came, and whether it has its verdict.
    let mut requests = BTreeMap::<u32, (usize, u64, bool)>::new();
    let mut streams = 0_u32;
    while let Some(step) = bytes.next() {
        let operand = bytes.next().unwrap_or(0);
        let some = |requests: &BTreeMap<u32, (usize, u64, bool)>| {
            let at = usize::from(operand) % requests.len().max(1);
            let (stream, (slot, ..)) = requests.iter().nth(at)?;
            Some((*slot, *stream))
        };
        match step % 10 {
            0 | 1 => {
                streams += 1;
                let session = [b'a' + operand % 8];
                let name: &[u8] = if operand & 16 > 0 {
                    b"x-pool"
                } else {
                    b"x-session-id"
                };
                let value: &[u8] = if operand & 16 > 0 { b"p" } else { &session };
                let headers = Headers::serialize(&[(name, value)]);
                let (slot, verdict) = worker.on_request(now_ms, streams, Headers::new(&headers));
                requests.insert(streams, (slot, now_ms, verdict.is_some()));
            }
            2 => {
                if let Some(id) = some(&requests) {
                    worker.on_end(now_ms, id);
                    assert!(!worker.is_acquiring(id));
                    requests.remove(&id.1);
                }
            }
            3 => {
                if let Some(id) = some(&requests) {
                    let status = [429, 200, 500, 503][usize::from(operand) % 4];
                    let after = Headers::serialize(&[(b"retry-after", b"3")]);
                    let source = [Source::Upstream, Source::NoUpstream, Source::Envoy]
                        [usize::from(operand >> 6) % 3];
                    worker.wants_response(id, status);
                    let answer = (source, status);
                    worker.on_response(now_ms, id, answer, Headers::new(&after), 784_111_777);
                }
            }
            4 => now_ms += u64::from(operand),
            5 => worker.on_tick(now_ms),
            6 if ordered => {
                ordered = false;
                worker.on_pipe_open(now_ms);
            }
            6 => worker.on_pipe_closed(now_ms),
            7 => {
                let raw: Vec<u8> = bytes.by_ref().take(usize::from(operand % 32)).collect();
                worker.on_pipe_bytes(now_ms, &raw);
            }
            _ => {
                let reply = REPLIES[usize::from(operand) % REPLIES.len()];
                worker.on_pipe_bytes(now_ms, reply.as_bytes());
            }
        }
        let mut settle = |worker: &mut Worker, requests: &mut BTreeMap<u32, (usize, u64, bool)>| {
            ordered |= worker.wire().order.take() == Some(PipeOrder::Open);
            worker.wire().bytes.clear();
            worker.output().notices.clear();
            while let Some(answer) = worker.next_answer() {
                if let Some((_, _, answered)) = requests.get_mut(&answer.stream) {
                    assert!(!std::mem::replace(answered, true), "a second verdict");
                }
            }
        };
        // Half of the events are not the last of their moment.
        if step < 128 {
            worker.flush(now_ms);
        }
        settle(&mut worker, &mut requests);
        if step % 10 == 5 {
            for (stream, (slot, since_ms, answered)) in &requests {
                let acquiring = worker.is_acquiring((*slot, *stream));
                assert!(acquiring != *answered || worker.wants_flush());
                assert!(!acquiring || now_ms - since_ms < deadline_ms, "it hangs");
            }
        }
    }
    for (stream, (slot, ..)) in requests {
        worker.on_end(now_ms, (slot, stream));
    }
    assert!(worker.wire().bytes.len() < 1 << 16);
}
