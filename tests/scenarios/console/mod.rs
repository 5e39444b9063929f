//! The console by itself: what a worker's pipe brings it, in any order, and what its requests get.

use proptest::strategy::Strategy;
use serde_json::{Value, json};
use slotgate::config::{Role, parse};
use slotgate::console::api::Response;
use slotgate::console::{Console, NextStep};
use slotgate::ledger::source::Script;
use slotgate::pipe::down::PipeOrder;
use slotgate::request::headers::Headers;

mod crowd;
mod hosts;
mod page;

const TOKEN: &str = "0123456789abcdef";
const TIMEOUT_MS: u64 = 1_000;

/// Does what the host does after an event: says what was counted, when a look begins.
struct Host(Console);

impl std::ops::Deref for Host {
    type Target = Console;

    fn deref(&self) -> &Console {
        &self.0
    }
}

impl std::ops::DerefMut for Host {
    fn deref_mut(&mut self) -> &mut Console {
        &mut self.0
    }
}

impl Host {
    fn after<R>(&mut self, result: R) -> R {
        if std::mem::take(&mut self.0.output().counters) {
            self.0.on_counters(r#"{"drift":1}"#);
        }
        result
    }

    fn on_request(&mut self, now_ms: u64, stream: u32, headers: Headers, ends: bool) -> NextStep {
        let heard = self.0.on_request(now_ms, stream, headers, ends);
        self.after(heard)
    }

    fn on_body(&mut self, now_ms: u64, stream: u32, body: &[u8]) -> NextStep {
        let heard = self.0.on_body(now_ms, stream, body);
        self.after(heard)
    }

    fn on_tick(&mut self, now_ms: u64) {
        self.0.on_tick(now_ms);
        self.after(());
    }

    fn on_pipe_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        self.0.on_pipe_bytes(now_ms, bytes);
        self.after(());
    }
}

fn console() -> Host {
    let json = json!({
        "role": "console", "token_env": "TOKEN", "pools": ["p", "q"],
        "redis": {"password_env": "TOKEN", "database": 3}, "gray": {"percent": 12.5},
    });
    let env = |name: &str| (name == "TOKEN").then(|| TOKEN.to_owned());
    match parse(json.to_string().as_bytes(), &env) {
        Ok(Role::Console(config)) => Host(Console::new(*config, 7)),
        other => panic!("{other:?}"),
    }
}

fn ask(
    console: &mut Host,
    now_ms: u64,
    stream: u32,
    method: &str,
    path: &str,
    ends: bool,
) -> NextStep {
    let authorization = format!("Bearer {TOKEN}");
    let headers = Headers::serialize(&[
        (b":authority", b"localhost:9902"),
        (b":method", method.as_bytes()),
        (b":path", path.as_bytes()),
        (b"content-type", b"application/json"),
        (b"authorization", authorization.as_bytes()),
    ]);
    console.on_request(now_ms, stream, Headers::new(&headers), ends)
}

fn status(console: &mut Host, now_ms: u64, stream: u32) -> NextStep {
    ask(console, now_ms, stream, "GET", "/api/status", true)
}

/// A change, its body included.
fn drain(console: &mut Host, now_ms: u64, stream: u32) -> NextStep {
    assert_eq!(
        ask(console, now_ms, stream, "POST", "/api/drain", false),
        NextStep::Body
    );
    console.on_body(now_ms, stream, br#"{"pool": "p", "account": "a"}"#)
}

fn drain_by(console: &mut Host, now_ms: u64, stream: u32, by: &str) -> NextStep {
    ask(console, now_ms, stream, "POST", "/api/drain", false);
    let body = json!({"pool": "p", "account": "a", "by": by}).to_string();
    console.on_body(now_ms, stream, body.as_bytes())
}

fn sent(console: &mut Host) -> String {
    String::from_utf8_lossy(&std::mem::take(&mut console.wire().bytes)).into_owned()
}

fn answers(console: &mut Host) -> Vec<(u32, Response)> {
    console.output().portion()
}

fn only(console: &mut Host) -> (u32, u32, Value) {
    let mut answers = answers(console);
    assert_eq!(answers.len(), 1, "{answers:?}");
    let (stream, response) = answers.remove(0);
    (
        stream,
        response.status,
        serde_json::from_str(&response.body).unwrap(),
    )
}

/// Opens the pipe, and answers the greeting.
fn open(console: &mut Host, now_ms: u64) {
    assert_eq!(console.wire().order, None);
    let wake_ms = console.next_wake_ms().expect("a tick");
    assert!(wake_ms <= now_ms + 1_000, "{wake_ms}");
    console.on_tick(now_ms.max(wake_ms));
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Open));
    console.on_pipe_open(now_ms);
    let greeting = sent(console);
    for word in ["AUTH", TOKEN, "SELECT", "SETNAME"] {
        assert!(greeting.contains(word), "{word} is not in it");
    }
    console.on_pipe_bytes(now_ms, b"+OK\r\n+OK\r\n-NOPERM no\r\n");
    assert!(sent(console).contains("LOAD"), "the scripts");
    let sha = format!("$40\r\n{}\r\n", "a".repeat(40));
    console.on_pipe_bytes(now_ms, format!("{sha}{sha}{sha}").as_bytes());
}

/// Redis has not answered by then, nor a little later: replies may have lain unread.
fn be_silent(console: &mut Host, late_ms: u64) {
    console.on_tick(late_ms);
    assert_eq!(console.wire().order, None);
    console.on_tick(console.next_wake_ms().expect("a last tick"));
}

/// One page of `inspect.lua`.
fn page(cursor: &str, ids: &[&str]) -> String {
    let mut reply = format!(
        "*11\r\n${}\r\n{cursor}\r\n$4\r\n9000\r\n$1\r\n7\r\n$2\r\n42\r\n:3\r\n:1\r\n$4\r\n1250\r\n*{}\r\n",
        cursor.len(),
        ids.len()
    );
    for id in ids {
        reply.push_str(&format!("*12\r\n${}\r\n{id}\r\n:4\r\n:2\r\n$1\r\n0\r\n:150000\r\n$7\r\ncooling\r\n$5\r\n12000\r\n:4\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n$0\r\n\r\n", id.len()));
    }
    let changed = "8000\tanna\tpercent\t\t\t1250";
    reply
        + &format!(
            "$6\r\nconfig\r\n*0\r\n*1\r\n${}\r\n{changed}\r\n",
            changed.len()
        )
}

#[test]
fn it_opens_a_pipe_only_in_a_tick_and_reads_every_page_of_every_pool() {
    let mut console = console();
    assert_eq!(console.next_wake_ms(), None);
    assert_eq!(status(&mut console, 0, 5), NextStep::Wait);
    open(&mut console, 1);
    assert!(sent(&mut console).contains("slotgate:{p}:changes\r\n$1\r\n0\r\n"));
    // Cut anywhere, and one account twice.
    let first = page("17", &["a", "b"]);
    let (one, two) = first.split_at(50);
    console.on_pipe_bytes(2, one.as_bytes());
    assert_eq!(sent(&mut console), "");
    console.on_pipe_bytes(2, two.as_bytes());
    assert!(sent(&mut console).contains("$2\r\n17\r\n"));
    console.on_pipe_bytes(3, page("0", &["b", "c"]).as_bytes());
    assert!(sent(&mut console).contains("slotgate:{q}:control"));
    console.on_pipe_bytes(4, b"-NOPOOL no accounts\r\n");
    let (stream, code, said) = only(&mut console);
    assert_eq!((stream, code), (5, 200));
    let (p, q) = (&said["pools"][0], &said["pools"][1]);
    let ids: Vec<_> = p["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(
        p["accounts"][0],
        json!({"id": "a", "state": "cooling", "used": 2, "max_concurrency": 4, "cooling_ms": 3_000, "out_of_use": null, "pace": null, "adapts_up_to": null, "set": null})
    );
    // From the next poll on the counters of these are shown.
    let shown = ["a", "b", "c"].map(|id| (0, id.to_owned()));
    assert_eq!(console.output().shown.take(), Some(shown.to_vec()));
    assert_eq!(p["leases"], json!({"live": 2, "expired": 1}));
    assert_eq!(
        p["changes"],
        json!([{"at_ms": 8_000, "by": "anna", "what": "percent", "subject": null, "text": "gray share 12.5 %, was as configured"}])
    );
    assert_eq!(
        (&p["percent_override"], &said["percent_configured"]),
        (&json!(12.5), &json!(12.5))
    );
    assert_eq!((&q["pool"], &q["revision"]), (&json!("q"), &json!(0)));
    assert_eq!(said["version"], json!(slotgate::VERSION));
    assert_eq!(
        (&said["writable"], &said["counters"]),
        (&json!(true), &json!({"drift": 1}))
    );
    assert_eq!(console.next_wake_ms(), None);
}

#[test]
fn a_lost_pipe_answers_everyone_and_says_what_may_have_been_done() {
    let mut console = console();
    status(&mut console, 0, 1);
    open(&mut console, 1);
    drain(&mut console, 1, 2);
    // Never sent: its body is still to come.
    assert_eq!(
        ask(&mut console, 1, 3, "POST", "/api/drain", false),
        NextStep::Body
    );
    console.on_pipe_closed(2);
    let told: Vec<_> = answers(&mut console)
        .into_iter()
        .map(|(stream, response)| (stream, response.status, response.body.contains("in_doubt")))
        .collect();
    assert_eq!(told, [(1, 503, false), (2, 503, true)]);
    // It served, so the next request waits for another one, which can't be opened.
    assert_eq!(status(&mut console, 3, 4), NextStep::Wait);
    let wake_ms = console.next_wake_ms().expect("a tick");
    console.on_tick(wake_ms);
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Open));
    console.on_pipe_closed(wake_ms);
    assert_eq!(only(&mut console).1, 503);
    // For a moment nobody waits for what is known to be gone.
    let body = br#"{"pool": "p", "account": "a"}"#;
    assert!(matches!(
        console.on_body(wake_ms, 3, body),
        NextStep::Answer(Response { status: 503, .. })
    ));
    assert_eq!(drain(&mut console, 300, 6), NextStep::Wait);
    open(&mut console, 301);
    assert!(sent(&mut console).contains("$5\r\ndrain\r\n$1\r\na\r\n"));
    console.on_pipe_bytes(302, b"*2\r\n$0\r\n\r\n$1\r\n1\r\n");
    assert_eq!(
        only(&mut console),
        (
            6,
            200,
            json!({"action": "drain", "pool": "p", "account": "a", "changed": true})
        )
    );
}

#[test]
fn silence_resets_the_pipe() {
    let mut console = console();
    status(&mut console, 0, 1);
    open(&mut console, 0);
    let late = console.next_wake_ms().unwrap();
    assert_eq!(late, TIMEOUT_MS);
    console.on_tick(late - 1);
    assert!(answers(&mut console).is_empty());
    be_silent(&mut console, late);
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Reset));
    let (stream, code, said) = only(&mut console);
    assert_eq!((stream, code), (1, 503));
    assert_eq!(
        said["error"]["message"],
        "Redis did not answer within 1000 ms"
    );
    // A body has a patience of its own, and needs no pipe.
    ask(&mut console, late, 2, "POST", "/api/drain", false);
    let late = console.next_wake_ms().unwrap();
    console.on_tick(late);
    assert_eq!(only(&mut console).1, 408);
    assert_eq!(console.wire().order, None);
}

/// The page tries a token when it is entered; no Redis is asked.
#[test]
fn a_token_can_be_tried() {
    let mut console = console();
    let right = ask(&mut console, 0, 1, "POST", "/api/token", true);
    let NextStep::Answer(said) = right else {
        panic!("{right:?}")
    };
    assert_eq!((said.status, &*said.body), (200, r#"{"action":"token"}"#));
    let headers = Headers::serialize(&[
        (b":authority", b"localhost:9902"),
        (b":method", b"POST"),
        (b":path", b"/api/token"),
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer wrong"),
    ]);
    let wrong = console.on_request(0, 2, Headers::new(&headers), true);
    assert!(
        matches!(wrong, NextStep::Answer(Response { status: 401, .. })),
        "{wrong:?}"
    );
    assert_eq!(console.next_wake_ms(), None, "no pipe is wanted");
}

/// What this Envoy counted needs no Redis, and says what is wrong with it.
#[test]
fn this_envoy_is_shown_without_redis() {
    let mut console = console();
    let watch = |console: &mut Host, now_ms, stream| {
        let asked = ask(console, now_ms, stream, "GET", "/api/envoy", true);
        assert_eq!(asked, NextStep::Wait);
        let (who, code, said) = only(console);
        assert_eq!((who, code), (stream, 200));
        assert_eq!(said["counters"], json!({"drift": 1}));
        said["redis"].clone()
    };
    assert_eq!(watch(&mut console, 0, 1), Value::Null);
    assert_eq!(console.next_wake_ms(), None, "no pipe is wanted");
    status(&mut console, 1, 2);
    open(&mut console, 1);
    assert_eq!(watch(&mut console, 2, 3), Value::Null);
    console.on_pipe_closed(3);
    answers(&mut console);
    let lost = watch(&mut console, 4, 4);
    assert_eq!(lost, "Redis can't be reached, or closed the connection");
    // Each who left is forgotten.
    for stream in 0..1_000 {
        ask(&mut console, 5, stream, "GET", "/api/envoy", true);
        console.on_end(stream);
    }
    assert!(answers(&mut console).is_empty());
}

/// Each change may say who makes it.
#[test]
fn a_change_says_who_makes_it() {
    let mut console = console();
    assert_eq!(drain_by(&mut console, 0, 1, "anna"), NextStep::Wait);
    open(&mut console, 1);
    assert!(sent(&mut console).contains("drain\r\n$1\r\na\r\n$4\r\nanna\r\n"));
    let refused = drain_by(&mut console, 2, 2, &"x".repeat(65));
    assert!(
        matches!(refused, NextStep::Answer(Response { status: 400, .. })),
        "{refused:?}"
    );
}

/// While Envoy works on what it read, a stream is not dropped; it still must be before another one is opened.
#[test]
fn no_pipe_is_opened_before_the_last_one_is_dropped() {
    let mut console = console();
    assert_eq!(status(&mut console, 0, 5), NextStep::Wait);
    open(&mut console, 1);
    console.on_pipe_bytes(5_000, b"?\r\n");
    assert_eq!(console.wire().order, Some(PipeOrder::Reset));
    assert_eq!(drain(&mut console, 5_001, 7), NextStep::Wait);
    console.on_tick(6_500);
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Reset));
    console.on_tick(6_501);
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Open));
}

#[test]
fn whoever_left_gets_no_answer_and_moves_no_other() {
    let mut console = console();
    for stream in 1..=3 {
        status(&mut console, 0, stream);
    }
    open(&mut console, 0);
    console.on_end(2);
    // Three replies come, in order.
    for _ in 0..3 {
        console.on_pipe_bytes(1, page("0", &["a"]).as_bytes());
    }
    for _ in 0..2 {
        console.on_pipe_bytes(2, b"-NOPOOL none\r\n");
    }
    let streams: Vec<_> = answers(&mut console)
        .iter()
        .map(|(stream, _)| *stream)
        .collect();
    assert_eq!(streams, [1, 3]);
    // One reply more than was asked for.
    console.on_pipe_bytes(3, b":1\r\n");
    assert_eq!(console.wire().order, Some(PipeOrder::Reset));
}

#[test]
fn a_refused_greeting_is_told() {
    for (reply, said) in [
        (
            "-WRONGPASS invalid\r\n",
            "AUTH was refused with \"WRONGPASS invalid\": see redis.username and redis.password_env",
        ),
        (
            "-ERR max number of clients reached\r\n",
            "the connection was refused with \"ERR max number of clients reached\": see maxclients of Redis",
        ),
        (
            "-ERR unknown command 'AUTH', with args beginning with: 't0k'\r\n",
            "AUTH was refused with \"ERR unknown command 'AUTH'\"",
        ),
        ("+OK\r\n:1\r\n", "Redis did not answer SELECT as expected"),
        (
            "+OK\r\n-ERR index\r\n",
            "SELECT was refused with \"ERR index\": see redis.database",
        ),
        (
            "+OK\r\n+OK\r\n+OK\r\n-NOPERM no\r\n",
            "SCRIPT LOAD was refused with \"NOPERM no\": see the rights of this user",
        ),
        (
            concat!(
                "+OK\r\n+OK\r\n+OK\r\n",
                "-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'\r\n",
                "-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'\r\n",
                "-ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'\r\n",
                "*2\r\n$7\r\nversion\r\n$5\r\n6.2.5\r\n",
            ),
            "Redis 7 or later is needed, this server is 6.2.5",
        ),
        ("?", "Redis did not answer what was asked"),
    ] {
        let mut console = console();
        status(&mut console, 0, 1);
        console.on_tick(0);
        console.on_pipe_open(0);
        console.on_pipe_bytes(1, reply.as_bytes());
        assert_eq!(only(&mut console).2["error"]["message"], said);
        assert_eq!(console.wire().order, Some(PipeOrder::Reset));
        assert_eq!(sent(&mut console), "");
    }
    // A server that is full says so, and closes.
    let mut console = console();
    status(&mut console, 0, 1);
    console.on_tick(0);
    console.on_pipe_open(0);
    console.on_pipe_bytes(1, b"-ERR no room\r\n");
    assert_eq!(
        only(&mut console).2["error"]["message"],
        "AUTH was refused with \"ERR no room\""
    );
}

#[test]
fn lost_scripts_are_sent_once_and_a_replica_is_left() {
    let mut console = console();
    drain(&mut console, 0, 1);
    open(&mut console, 0);
    sent(&mut console);
    console.on_pipe_bytes(1, b"-NOSCRIPT No matching script\r\n");
    let again = sent(&mut console);
    assert!(again.contains("$4\r\nEVAL\r\n") && again.contains(&Script::Control.source()));
    console.on_pipe_bytes(2, b"-READONLY You can't write\r\n");
    let (_, code, said) = only(&mut console);
    assert_eq!((code, &said["error"]["kind"]), (503, &json!("in_doubt")));
    assert_eq!(console.wire().order, Some(PipeOrder::Reset));
}

const ID: &str = r#"{"pool": "q", "request": "a b"}"#;

/// Asks about a request; answers the nonce that stands in the question.
fn recall(console: &mut Host, now_ms: u64, stream: u32) -> String {
    ask(console, now_ms, stream, "POST", "/api/recall", false);
    assert_eq!(
        console.on_body(now_ms, stream, ID.as_bytes()),
        NextStep::Wait
    );
    if console.wire().bytes.is_empty() {
        open(console, now_ms);
    }
    let question = sent(console);
    let (_, rest) = question.split_once("slotgate:{q}:question").expect("a SET");
    assert!(
        rest.ends_with(" request a b\r\n$2\r\nPX\r\n$4\r\n5000\r\n"),
        "{rest:?}"
    );
    rest.split_whitespace().nth(1).unwrap().to_owned()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[test]
fn a_question_is_put_and_its_answer_looked_for_without_holding_others_up() {
    let mut console = console();
    let nonce = recall(&mut console, 0, 1);
    console.on_pipe_bytes(10, b"+OK\r\n");
    assert_eq!(
        (sent(&mut console).as_str(), console.next_wake_ms()),
        ("", Some(160))
    );
    // Nothing is under way, so nothing can be late; another request goes first.
    status(&mut console, 20, 2);
    assert!(sent(&mut console).contains("{p}:control"));
    console.on_tick(160);
    assert!(sent(&mut console).contains("slotgate:{q}:answer"));
    console.on_pipe_bytes(161, b"-NOPOOL none\r\n");
    let answer = |nonce: &str| {
        bulk(&format!(
            r#"{{"nonce":"{nonce}","way":"rejected","reason":"saturated","pool":"q","account":null,"lease":null,"bucket":7,"below":1250,"waited_ms":3,"ago_ms":900,"more":1}}"#
        ))
    };
    // Someone else's, then what is no answer at all.
    console.on_pipe_bytes(162, answer("0123").as_bytes());
    console.on_tick(312);
    // The other request's second pool was asked for before.
    console.on_pipe_bytes(313, format!("-NOPOOL none\r\n{}", bulk("{")).as_bytes());
    assert_eq!(only(&mut console).0, 2);
    console.on_tick(463);
    console.on_pipe_bytes(464, answer(&nonce).as_bytes());
    let (stream, code, said) = only(&mut console);
    assert_eq!((stream, code), (1, 200));
    assert_eq!(
        said,
        json!({"asked": {"request": "a b"}, "way": "rejected", "reason": "saturated", "pool": "q", "account": null,
            "lease": null, "bucket": 7, "percent": 12.5, "waited_ms": 3, "ago_ms": 900})
    );
    assert_eq!(
        (console.next_wake_ms(), &console.wire().order),
        (None, &None)
    );
    // The same question again is another one.
    assert_ne!(recall(&mut console, 500, 1), nonce);
}

#[test]
fn a_request_that_nobody_remembers_is_given_up() {
    let mut console = console();
    recall(&mut console, 0, 1);
    console.on_pipe_bytes(0, b"+OK\r\n");
    let mut looks = 0;
    let mut now_ms = 0;
    while let Some(wake_ms) = console.next_wake_ms() {
        now_ms = wake_ms;
        console.on_tick(now_ms);
        assert!(sent(&mut console).contains("GET"));
        console.on_pipe_bytes(now_ms, b"$-1\r\n");
        looks += 1;
    }
    assert_eq!((looks, now_ms), (17, 2_550));
    let (stream, code, said) = only(&mut console);
    assert_eq!((stream, code), (1, 404));
    assert_eq!(said["error"]["kind"], "not_remembered");
    assert_eq!(
        said["error"]["message"],
        "no worker remembers request \"a b\""
    );
    assert_eq!(console.wire().order, None);
}

#[test]
fn a_question_ends_with_its_client_with_the_pipe_or_with_redis_silence() {
    // The client leaves: no look more.
    let mut console = console();
    recall(&mut console, 0, 1);
    console.on_pipe_bytes(0, b"+OK\r\n");
    console.on_end(1);
    assert_eq!(console.next_wake_ms(), None);
    console.on_tick(150);
    assert_eq!(sent(&mut console), "");
    // While its answer comes.
    recall(&mut console, 200, 2);
    console.on_end(2);
    console.on_pipe_bytes(200, b"+OK\r\n");
    assert_eq!(
        (console.next_wake_ms(), answers(&mut console).len()),
        (None, 0)
    );
    // The pipe is lost while it rests: nothing was changed.
    recall(&mut console, 300, 3);
    console.on_pipe_bytes(300, b"+OK\r\n");
    console.on_pipe_closed(310);
    let (stream, code, said) = only(&mut console);
    assert_eq!(
        (stream, code, &said["error"]["kind"]),
        (3, 503, &json!("redis"))
    );
    // A look that is not answered resets the pipe.
    recall(&mut console, 1_000, 4);
    console.on_pipe_bytes(1_000, b"+OK\r\n");
    console.on_tick(1_150);
    be_silent(&mut console, 1_150 + TIMEOUT_MS);
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Reset));
    assert_eq!(only(&mut console).1, 503);
    // A replica is left.
    recall(&mut console, 3_000, 5);
    console.on_pipe_bytes(3_000, b"-READONLY You can't write\r\n");
    assert_eq!(console.wire().order.take(), Some(PipeOrder::Reset));
    assert_eq!(only(&mut console).1, 503);
}

#[test]
fn what_asks_about_no_request_is_refused() {
    let long = format!(r#"{{"pool": "p", "lease": "{}"}}"#, "a".repeat(257));
    for (body, code) in [
        (r#"{"pool": "p"}"#, 400),
        (r#"{"pool": "p", "request": ""}"#, 400),
        (r#"{"pool": "p", "request": "a", "lease": "b"}"#, 400),
        (r#"{"pool": "p", "request": 1}"#, 400),
        (r#"{"pool": "p", "request": "a\nb"}"#, 400),
        (r#"{"pool": "p", "request": "a", "session": "b"}"#, 400),
        (r#"{"request": "a"}"#, 400),
        (r#"{"pool": "other", "request": "a"}"#, 404),
        (long.as_str(), 400),
    ] {
        let mut console = console();
        ask(&mut console, 0, 1, "POST", "/api/recall", false);
        match console.on_body(0, 1, body.as_bytes()) {
            NextStep::Answer(response) => assert_eq!(response.status, code, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
        assert_eq!(console.next_wake_ms(), None);
    }
}

proptest::proptest! {
    /// Whatever Redis, or what stands in its place, sends: no panic, and every request is answered in the end.
    #[test]
    fn any_replies(parts in proptest::collection::vec(proptest::prop_oneof![
        proptest::sample::select(vec!["+OK\r\n", "$-1\r\n", "*2\r\n$0\r\n\r\n$1\r\n1\r\n", "-NOPOOL x\r\n", "-NOSCRIPT x\r\n", "-BUSY x\r\n", "*0\r\n"])
            .prop_map(str::to_owned),
        proptest::prelude::Just(page("0", &["a", "b"])),
        proptest::prelude::Just(page("3", &["a"])),
        "[+\\-:$*0-9a\r\n]{0,12}",
    ], 0..40)) {
        let mut console = console();
        let mut open_streams: std::collections::BTreeSet<u32> = [1, 2, 3, 4].into();
        status(&mut console, 0, 1);
        drain(&mut console, 0, 2);
        ask(&mut console, 0, 3, "POST", "/api/explain", false);
        console.on_body(0, 3, br#"{"pool": "q", "session": "s", "scope": "m"}"#);
        ask(&mut console, 0, 4, "POST", "/api/recall", false);
        console.on_body(0, 4, ID.as_bytes());
        open(&mut console, 0);
        for part in parts {
            console.on_pipe_bytes(1, part.as_bytes());
        }
        // The first wakes a question that rests, the second finds a command late, the third finds that no reply has come since.
        for late in [10, 20, 30] {
            console.on_tick(late * TIMEOUT_MS);
        }
        for (stream, response) in answers(&mut console) {
            assert!(open_streams.remove(&stream), "answered twice");
            let _: Value = serde_json::from_str(&response.body).unwrap();
        }
        assert!(open_streams.is_empty());
    }
}
