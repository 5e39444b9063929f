//! `slotgate explain --request` and `--lease`: which way a request went. The worker that decided on it is asked, by way of
//! Redis: the question is put beside each pool's overrides, where every worker looks, and the answer stands in another key.

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::queue::{Place, place};
use crate::server::Server;
use crate::show::Lines;
use crate::words::{percent, quoted};
use serde_json::{Value, json};
use slotgate::ledger::keys;
use slotgate::ledger::view::duration;
use slotgate::worker::decisions::FORGETS;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Workers look once per `control.poll_ms`, 1 s by default.
const PATIENCE: Duration = Duration::from_millis(2_500);
const STEP: Duration = Duration::from_millis(50);
/// Longer than every worker needs to see it, in ms.
const QUESTION_MS: u64 = 5_000;

/// The id by which a request is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// Its `x-request-id`.
    Request(&'a str),
    /// Its `x-slotgate-lease`.
    Lease(&'a str),
}

impl Asked<'_> {
    fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Request(id) => ("request", id),
            Self::Lease(id) => ("lease", id),
        }
    }
}

pub fn run(server: &mut Server, pool: Option<&str>, asked: Asked) -> Result<Answer, Problem> {
    let (kind, id) = asked.words();
    if !(1..=256).contains(&id.len()) {
        return Err(Problem::usage(format!("--{kind} is not 1..=256 bytes")));
    }
    let named: Vec<String> = pool.map(str::to_owned).into_iter().collect();
    let pools = server.some_pools(&named)?;
    // Two who ask at once must not take each other's answer.
    let nonce = format!("{:016x}", RandomState::new().hash_one(id));
    let mut problem = None;
    let mut asked = Vec::new();
    for pool in &pools {
        let mut set = redis::cmd("SET");
        set.arg(keys::question(&server.prefix, pool));
        set.arg(format!("{nonce} {kind} {id}"));
        set.arg("PX").arg(QUESTION_MS);
        match server.ask_of::<()>(pool, &set) {
            Ok(()) => asked.push(keys::answer(&server.prefix, pool)),
            // Another pool may know it.
            Err(other) if other.is_of_one_pool() => problem = problem.or(Some(other)),
            Err(other) => return Err(other),
        }
    }
    let start = Instant::now();
    while start.elapsed() < PATIENCE && !asked.is_empty() {
        std::thread::sleep(STEP);
        for key in &asked {
            let answer: Option<Vec<u8>> = match server.ask(redis::cmd("GET").arg(key)) {
                Ok(answer) => answer,
                // The answer takes the place of what stands there.
                Err(other) if other.is_of_one_pool() => continue,
                Err(other) => return Err(other),
            };
            let answer: Option<Value> = answer.and_then(|text| serde_json::from_slice(&text).ok());
            if let Some(answer) = answer.filter(|answer| answer["nonce"] == nonce.as_str()) {
                let place = waiting_place(server, &answer)?;
                return Ok(told(kind, id, &answer, place.as_ref()));
            }
        }
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    Err(Problem::new(
        Exit::Wrong,
        "not_remembered",
        format!("no worker remembers {kind} {}", quoted(id)),
    )
    .hint(FORGETS))
}

/// The place of a request that waits.
fn waiting_place(server: &mut Server, answer: &Value) -> Result<Option<Place>, Problem> {
    let word = |name: &str| answer[name].as_str();
    match (word("way"), word("pool"), word("lease")) {
        (Some("waiting"), Some(pool), Some(lease)) => place(server, pool, lease),
        (_, _, _) => Ok(None),
    }
}

fn told(kind: &str, id: &str, answer: &Value, place: Option<&Place>) -> Answer {
    let word = |name: &str| answer[name].as_str();
    let number = |name: &str| answer[name].as_u64().unwrap_or(0);
    let of_pool = word("pool").map_or(String::new(), |pool| format!(" of pool {pool}"));
    let account = word("account").unwrap_or("no account");
    let tries = answer["tries"].as_array().map_or(&[][..], Vec::as_slice);
    let because = |reason| because(reason, !tries.is_empty());
    let way = match (word("way"), word("reason")) {
        (Some("atomic"), _) => format!("took a slot of {account}{of_pool}"),
        (Some("local"), _) => format!("was sent to {account}{of_pool}, which its worker chose"),
        (Some("traditional"), reason) => {
            format!("went the traditional way{of_pool}: {}", because(reason))
        }
        (Some("rejected"), reason) => format!("was answered here{of_pool}: {}", because(reason)),
        (Some("waiting"), _) => match place {
            Some(place) => format!("waits for a slot{of_pool}: {}", place.words()),
            None => format!("waits for a slot{of_pool}"),
        },
        (_, _) if !tries.is_empty() => {
            format!("still waits for the answer to its acquire of another account{of_pool}")
        }
        (_, _) => "still waits for the answer to its acquire".to_owned(),
    };
    let share = |points: u64| percent(u16::try_from(points).unwrap_or(u16::MAX));
    let bucket = match answer["bucket"].as_u64() {
        Some(bucket) => {
            let below = number("below");
            let place = if bucket < below { "in" } else { "out" };
            format!("bucket {bucket}: {place} at {} %", share(below))
        }
        None => "by no bucket".to_owned(),
    };
    let mut text = Lines::of(&format!("{kind} {} {way}", quoted(id)));
    for one in tries {
        text.line(&refused(one));
    }
    if let Some(lease) = word("lease").filter(|_| kind != "lease") {
        text.line(&format!("lease {lease}"));
    }
    text.line(&match word("way") {
        Some("waiting" | "undecided") => {
            format!("{bucket}; it came {} ago", duration(number("waited_ms")))
        }
        _ => format!(
            "{bucket}; decided after {} ms, {} ago",
            number("waited_ms"),
            duration(number("ago_ms"))
        ),
    });
    let mut json = answer.clone();
    if let Some(fields) = json.as_object_mut() {
        fields.remove("nonce");
        fields.remove("below");
        fields.insert("percent".to_owned(), json!(share(number("below"))));
        if let Some(place) = place {
            fields.insert("ahead".to_owned(), json!(place.ahead));
        }
        fields.insert("asked".to_owned(), json!({kind: id}));
    }
    Answer {
        text,
        json,
        exit: Exit::Done,
    }
}

/// A try that an account refused, or that got no answer from it. The time is that since the request came, or since the try before.
fn refused(one: &Value) -> String {
    let account = one["account"].as_str().unwrap_or("an account");
    let after_ms = one["ms"].as_u64().unwrap_or(0);
    match one["status"].as_u64().filter(|status| *status > 0) {
        Some(status) => format!("{account} refused it with {status} after {after_ms} ms"),
        None => format!("{account} gave no answer; the next try began after {after_ms} ms"),
    }
}

/// The reasons of `admission.rs`, as a person would say them. `is_later`: an account was tried before.
fn because(reason: Option<&str>, is_later: bool) -> &str {
    match reason {
        Some("saturated") if is_later => "no other account had a free slot",
        Some("queue_timeout") if is_later => "no other account came free in time",
        Some("out_of_percentage") => "it is out of the percentage, or an override says so",
        Some("no_pool") => "no pool's rules fit it",
        Some("shadow") => "gray.mode is shadow",
        Some("pipe_down") => "the pipe to Redis was down",
        Some("breaker_open") => "the breaker was open",
        Some("queue_full") => "redis.max_pending commands were under way",
        Some("timed_out") => "no reply within redis.acquire_timeout_ms",
        Some("pipe_lost") => "the pipe broke before the reply",
        Some("refused") => "Redis answered with an error",
        Some("unknown_account") => "Redis named an account that the configuration does not have",
        Some("saturated") => "no account had a free slot",
        Some("queue_timeout") => "it waited for a slot for saturated.queue.max_wait_ms",
        Some("waiting_full") => {
            "as many requests waited already as saturated.queue.max_waiting, or its tenant's max_waiting, says"
        }
        Some("tenant_limit") => "its tenant had as many leases as it may",
        Some(other) => other,
        None => "no reason is known",
    }
}
