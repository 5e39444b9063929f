//! What holds for any bytes whatever, besides that nothing panics: the fuzz targets here, and `tests/fuzz.rs`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use slotgate::config::structpb;
use slotgate::config::{Config, MatchValue, Role, WaitForm, parse};
use slotgate::ledger::commands::{self, Acquired, Handed};
use slotgate::ledger::fault::Fault;
use slotgate::ledger::resp::{self, Value, Values};
use slotgate::ledger::source::Script;
use slotgate::pipe::down::PipeOrder;
use slotgate::pipe::frames::{Deframer, HEADER, MAX_FRAME, frame_header};
use slotgate::pool;
use slotgate::request::gray::{self, BUCKETS, Bucketer};
use slotgate::request::headers::Headers;
use slotgate::upstream::cooldown::{self, http_date, rfc3339, wait_ms};
use slotgate::upstream::failing::Source;
use slotgate::worker::{RequestId, Worker};

/// A target's name, which is its file's and its corpus', and its property.
pub type Property = (&'static str, fn(&[u8]));

pub const ALL: [Property; 9] = [
    ("resp", resp),
    ("replies", replies),
    ("frames", frames),
    ("config", config),
    ("structpb", structpb),
    ("headers", headers),
    ("retry_after", retry_after),
    ("worker", worker),
    ("waiters", waiters),
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
        commands::released(data).err(),
    ];
    let expected = match Values::new(data).value() {
        Some(Value::Error(error)) => {
            assert!(faults.iter().all(Option::is_some));
            Fault::of(error)
        }
        Some(_) | None => Fault::Mismatch,
    };
    let garbage = |fault| expected == Fault::Mismatch && fault == Fault::Garbage;
    // An error within an array, which no server sends, may be taken for that.
    let mut values = Values::new(data);
    let within: Vec<_> = std::iter::from_fn(|| values.value())
        .filter_map(|value| match value {
            Value::Error(error) => Some(Fault::of(error)),
            _ => None,
        })
        .collect();
    let mut faults = faults.into_iter().flatten();
    let known = |fault| fault == expected || garbage(fault) || within.contains(&fault);
    assert!(faults.all(known), "{expected:?}");
    if let Ok((_, answers)) = commands::renewed(data, 3) {
        assert_eq!(answers.count(), 3);
    }
    if let Ok((_, answers)) = commands::acquired(data, 1) {
        for answer in answers {
            if let Acquired::Waits { order, .. } = answer {
                assert_eq!(order.as_bytes().len(), 19);
                assert!(order.as_bytes().iter().all(u8::is_ascii_digit));
            }
        }
    }
    if let Ok((_, handed)) = commands::released(data) {
        handed.for_each(|grant| said_again(&grant));
    }
    if let Some(grant) = Handed::read(data) {
        said_again(&grant);
    }
}

/// A grant that was understood is understood again as it would be said.
fn said_again(grant: &Handed) {
    let mark: &[u8] = if grant.probes { b":probe" } else { b"" };
    let mut text = grant.cookie.to_string().into_bytes();
    text.push(b' ');
    text.extend_from_slice(grant.lease);
    text.push(b' ');
    text.extend_from_slice(grant.account);
    text.extend_from_slice(mark);
    text.extend_from_slice(format!(" {}", grant.epoch).as_bytes());
    assert_eq!(Handed::read(&text), Some(*grant));
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
            let (id, _) = worker.on_request(0, 1, Headers::new(&headers));
            worker.on_tick(0);
            worker.on_end(0, id);
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
            let rest = cooldown::rest(config, 429, headers, now_unix_s);
            assert!((1..=config.max_ms).contains(&rest.ms));
            assert!(rest.malformed <= pairs.len() as u64);
            assert!(cooldown::pace(config, 200, headers, now_unix_s).ms <= config.max_ms);
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
    // Stream → its name in the worker, when it came, and whether it has its verdict.
    let mut requests = BTreeMap::<u32, (RequestId, u64, bool)>::new();
    let mut streams = 0_u32;
    while let Some(step) = bytes.next() {
        let operand = bytes.next().unwrap_or(0);
        let some = |requests: &BTreeMap<u32, (RequestId, u64, bool)>| {
            let at = usize::from(operand) % requests.len().max(1);
            let (_, (id, ..)) = requests.iter().nth(at)?;
            Some(*id)
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
                let (id, verdict) = worker.on_request(now_ms, streams, Headers::new(&headers));
                requests.insert(streams, (id, now_ms, verdict.is_some()));
            }
            2 => {
                if let Some(id) = some(&requests) {
                    worker.on_end(now_ms, id);
                    assert_eq!(worker.path(id), None);
                    requests.remove(&id.stream);
                }
            }
            3 => {
                if let Some(id) = some(&requests) {
                    let status = [429, 200, 500, 401][usize::from(operand) % 4];
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
        let mut settle =
            |worker: &mut Worker, requests: &mut BTreeMap<u32, (RequestId, u64, bool)>| {
                ordered |= worker.wire().order.take() == Some(PipeOrder::Open);
                worker.wire().bytes.clear();
                worker.output().notices.clear();
                while let Some(answer) = worker.next_answer() {
                    if let Some((_, _, answered)) = requests.get_mut(&answer.request.stream) {
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
            let overdue = |requests: &BTreeMap<u32, (RequestId, u64, bool)>| {
                let mut all = requests.values();
                all.any(|(_, since_ms, answered)| !answered && now_ms - since_ms >= deadline_ms)
            };
            // Of many verdicts only some are handed out in one round.
            for _ in 0..requests.len() {
                if overdue(&requests) {
                    worker.flush(now_ms);
                    settle(&mut worker, &mut requests);
                }
            }
            assert!(!overdue(&requests), "it hangs");
        }
    }
    for (id, ..) in requests.into_values() {
        worker.on_end(now_ms, id);
    }
    assert!(worker.wire().bytes.len() < 1 << 16);
}

/// With a queue, or with tenants alone.
fn queued(variant: u8) -> Config {
    let mut json = serde_json::json!({
        "role": "scheduler",
        "redis": {"max_pending": 16},
        "gray": {"percent": 100, "session": [{"header": "x-session-id"}]},
        "lease": {"ttl_ms": 1000, "renew_interval_ms": 200},
        "control": {"poll_ms": 0},
        "saturated": {"action": "queue", "queue": {"max_wait_ms": MAX_WAIT_MS}},
        "tenant": {"source": [{"header": "x-tenant"}], "max_concurrency": 2, "max_waiting": 3},
        "pools": [{"name": "q", "accounts": [{"id": "a", "max_concurrency": 1}, {"id": "b", "max_concurrency": 3}]}],
    });
    if variant & 1 > 0 {
        json["saturated"]["queue"]["otherwise"] = "traditional".into();
    }
    if variant & 2 > 0 {
        json["saturated"] = serde_json::json!({"action": "reject"});
    }
    match parse(json.to_string().as_bytes(), &|_| None) {
        Ok(Role::Scheduler(config)) => *config,
        other => panic!("{other:?}"),
    }
}

const MAX_WAIT_MS: u64 = 700;

const OF_WAITERS: [&str; 14] = [
    "*2\r\n$1\r\n9\r\n$27\r\n~1732999999123456001 4000 0\r\n",
    "*2\r\n$1\r\n9\r\n$29\r\n~1732999999123456002 4000 120\r\n",
    "*3\r\n$1\r\n9\r\n$27\r\n~1732999999123456003 4000 0\r\n$27\r\n~1732999999123456004 4000 0\r\n",
    "*2\r\n$1\r\n9\r\n$10\r\n!full 4000\r\n",
    "*2\r\n$1\r\n9\r\n$12\r\n!tenant 4000\r\n",
    "*2\r\n$1\r\n9\r\n$6\r\n~1 2 3\r\n",
    "*2\r\n:1\r\n$9\r\n0 l a 900\r\n",
    "*2\r\n:1\r\n$1\r\nx\r\n",
    "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$9\r\n0 l a 900\r\n",
    "*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
    "*2\r\n$4\r\npong\r\n$0\r\n\r\n",
    "-NOPERM x\r\n",
    "-GARBAGE owner l: not an account\r\n",
];

/// Whatever comes on either connection, requests that wait have one verdict each, in time, and none is counted that waits no
/// longer.
pub fn waiters(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let variant = bytes.next().unwrap_or(0);
    let config = queued(variant);
    let longest_ms = config.redis.acquire_timeout_ms + MAX_WAIT_MS + 2 * u64::from(u8::MAX);
    let mut worker = Worker::new(config, 1);
    let (mut now_ms, mut streams) = (0, 0_u32);
    let mut ordered = [false; 2];
    let mut leases = Vec::<Vec<u8>>::new();
    // Stream → its name in the worker, when it came, and whether it has its verdict.
    let mut requests = BTreeMap::<u32, (RequestId, u64, bool)>::new();
    if variant & 4 > 0 {
        serve(&mut worker);
        now_ms = 2;
    }
    while let Some(step) = bytes.next() {
        let operand = bytes.next().unwrap_or(0);
        match step % 12 {
            0 | 1 => {
                streams += 1;
                let (tenant, session) = ([b'a' + operand % 3], [b'a' + operand % 4]);
                let mut pairs: Vec<(&[u8], &[u8])> = Vec::new();
                if operand & 16 > 0 {
                    pairs.push((b"x-tenant", &tenant));
                }
                if operand & 32 > 0 {
                    pairs.push((b"x-session-id", &session));
                }
                let headers = Headers::serialize(&pairs);
                let (id, verdict) = worker.on_request(now_ms, streams, Headers::new(&headers));
                requests.insert(streams, (id, now_ms, verdict.is_some()));
            }
            2 => {
                let at = usize::from(operand) % requests.len().max(1);
                if let Some((stream, (id, ..))) = requests.iter().nth(at) {
                    let (stream, id) = (*stream, *id);
                    worker.on_end(now_ms, id);
                    requests.remove(&stream);
                }
            }
            3 => {
                now_ms += u64::from(operand);
                worker.on_tick(now_ms);
            }
            4 if std::mem::take(&mut ordered[0]) => worker.on_pipe_open(now_ms),
            4 => worker.on_pipe_closed(now_ms),
            5 if std::mem::take(&mut ordered[1]) => worker.on_grants_open(now_ms),
            5 => worker.on_grants_closed(now_ms),
            6 | 7 => {
                let raw: Vec<u8> = bytes.by_ref().take(usize::from(operand % 48)).collect();
                if step % 12 == 6 {
                    worker.on_pipe_bytes(now_ms, &raw);
                } else {
                    worker.on_grants_bytes(now_ms, &raw);
                }
            }
            8 => {
                let all = REPLIES.iter().chain(&OF_WAITERS);
                if let Some(reply) = all.cycle().nth(operand.into()) {
                    worker.on_pipe_bytes(now_ms, reply.as_bytes());
                }
            }
            9 => {
                let all = OF_WAITERS.iter().chain(&REPLIES);
                if let Some(reply) = all.cycle().nth(operand.into()) {
                    worker.on_grants_bytes(now_ms, reply.as_bytes());
                }
            }
            // A slot is handed on to a lease of ours, at the reply to a release or by a message.
            _ => {
                let lease = leases.iter().rev().nth(usize::from(operand >> 3));
                let lease = lease.map_or("l".into(), |lease| String::from_utf8_lossy(lease));
                let text = format!(
                    "{} {lease} {} 9",
                    operand & 3,
                    ["a", "b:probe"][usize::from(operand >> 2 & 1)]
                );
                let text = format!("${}\r\n{text}\r\n", text.len());
                if step % 12 == 10 {
                    let reply = format!("*2\r\n:1\r\n{text}");
                    worker.on_pipe_bytes(now_ms, reply.as_bytes());
                } else {
                    let message = format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n{text}");
                    worker.on_grants_bytes(now_ms, message.as_bytes());
                }
            }
        }
        let mut undecided = requests.len();
        // Of many verdicts only some are handed out in one round.
        for _ in 0..=requests.len() {
            // Half of the events are not the last of their moment.
            if step < 128 {
                worker.flush(now_ms);
            }
            ordered[0] |= worker.wire().order.take() == Some(PipeOrder::Open);
            ordered[1] |= worker.grants_wire().order.take() == Some(PipeOrder::Open);
            leases.extend(leases_in(&std::mem::take(&mut worker.wire().bytes)));
            worker.grants_wire().bytes.clear();
            worker.output().notices.clear();
            while let Some(answer) = worker.next_answer() {
                if let Some((_, _, answered)) = requests.get_mut(&answer.request.stream) {
                    assert!(!std::mem::replace(answered, true), "a second verdict");
                }
            }
            undecided = requests.values().filter(|(.., answered)| !answered).count();
            if undecided == 0 || step >= 128 {
                break;
            }
        }
        let waiting = worker.gauges().0[4];
        assert!(waiting <= undecided as u64, "{waiting} wait of {undecided}");
        if step % 12 == 3 && step < 128 {
            let mut all = requests.values();
            let hangs =
                all.any(|(_, since_ms, answered)| !answered && now_ms - since_ms > longest_ms);
            assert!(!hangs, "it hangs");
        }
    }
    for (id, ..) in requests.into_values() {
        worker.on_end(now_ms, id);
    }
    assert_eq!(worker.gauges().0[4], 0);
    assert!(worker.wire().bytes.len() < 1 << 16);
}

/// The pipe is open, and the pool in force.
fn serve(worker: &mut Worker) {
    let headers = Headers::serialize(&[]);
    let (id, _) = worker.on_request(0, 0, Headers::new(&headers));
    worker.on_tick(0);
    worker.wire().order = None;
    worker.on_pipe_open(0);
    worker.on_pipe_bytes(0, b"+OK\r\n");
    for _ in Script::FILTER {
        worker.on_pipe_bytes(0, REPLIES[1].as_bytes());
    }
    worker.on_pipe_bytes(0, REPLIES[2].as_bytes());
    worker.flush(0);
    worker.on_pipe_bytes(0, REPLIES[6].as_bytes());
    worker.next_answer();
    worker.on_end(0, id);
    worker.on_tick(2);
    worker.on_pipe_bytes(2, b":1\r\n");
    worker.wire().bytes.clear();
}

/// The ids of leases in a worker's commands.
fn leases_in(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for (head, length) in [(&b"$24\r\n"[..], 24), (b"$41\r\n", 41)] {
        for at in 0..bytes.len() {
            let rest = bytes.get(at..).and_then(|rest| rest.strip_prefix(head));
            if let Some(lease) = rest.and_then(|rest| rest.get(..length)) {
                found.push(lease.to_vec());
            }
        }
    }
    found
}
