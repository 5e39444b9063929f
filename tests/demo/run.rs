use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::table::{Moment, Table};
use super::{Pool, console_token, on_stop, with_console};
use support::{Client, Envoy, EnvoyConfig, Ledger, Redis, Reply, Request, Upstream, poll, spawn};

const REQUESTS: usize = 300;
const SESSIONS: usize = 60;
/// More than there are slots, so that some requests are refused and come again.
const AT_ONCE: usize = 120;
const EVENTS: usize = 20;
const PATH: &str = "/sse?events=20&interval_ms=50";
/// Of the sessions; the others show that the traditional way is left alone.
const GRAY_PERCENT: u32 = 80;
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The load takes about ten seconds on two cores.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What the clients saw.
#[derive(Default)]
struct Seen {
    next: AtomicUsize,
    atomic: AtomicUsize,
    traditional: AtomicUsize,
    refused: AtomicUsize,
    slowest: Mutex<Duration>,
    failures: Mutex<Vec<String>>,
    lanes_done: AtomicUsize,
}

/// What happens to a request that finds no slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    /// It is refused, and its client comes again.
    Refuse,
    /// It waits for its turn.
    Queue,
}

/// How an act went.
struct Summary {
    took: Duration,
    refused: usize,
    /// From a request's first byte to the end of its stream, refusals included.
    slowest: Duration,
}

pub fn run() -> ExitCode {
    let stop = on_stop();
    let mut summaries = Vec::new();
    for act in [Act::Refuse, Act::Queue] {
        match play(act, &stop) {
            Ok(summary) => summaries.push(summary),
            Err(code) => return code,
        }
    }
    if let [refuse, queue] = &summaries[..] {
        println!(
            "OK: {REQUESTS} requests served in {:.1} s, no account above its limit; the slowest took {:.1} s, {} refusals on the way\n\
             OK: with a queue in {:.1} s, the slowest took {:.1} s, none refused",
            refuse.took.as_secs_f64(),
            refuse.slowest.as_secs_f64(),
            refuse.refused,
            queue.took.as_secs_f64(),
            queue.slowest.as_secs_f64(),
        );
    }
    ExitCode::SUCCESS
}

fn play(act: Act, stop: &AtomicBool) -> Result<Summary, ExitCode> {
    let config = EnvoyConfig::from_example().plugin(|plugin| {
        plugin["gray"]["percent"] = GRAY_PERCENT.into();
        if act == Act::Queue {
            plugin["saturated"]["action"] = "queue".into();
        }
    });
    let pool = Pool::of(&config);
    let slots: usize = pool.accounts.iter().map(|(_, slots)| slots).sum();

    println!("starting Redis, an upstream and Envoy with 2 workers");
    let redis = Redis::start();
    let upstream = Upstream::start();
    let envoy = Envoy::start(
        with_console(config, &console_token())
            .redis(redis.addr())
            .upstream(upstream.addr())
            .workers(2),
    );
    let ledger = Ledger::new(&redis, &pool.key_prefix, &pool.name);

    println!("the console: http://{}/", envoy.addrs()[1]);
    println!(
        "{REQUESTS} streams of {} s by {SESSIONS} sessions, {AT_ONCE} at a time, over {slots} slots; \
         {GRAY_PERCENT} % of the sessions are in the gray release{}\n",
        EVENTS * 50 / 1000,
        match act {
            Act::Refuse => "",
            Act::Queue => "; who finds no slot waits for one",
        }
    );
    let begin = Instant::now();
    let seen = Arc::new(Seen::default());
    for _ in 0..AT_ONCE {
        spawn(lane(envoy.client(), Arc::clone(&seen), begin));
    }

    let mut table = Table::new(&pool);
    let ended = loop {
        let upstream = upstream.snapshot();
        let state = ledger.try_state().unwrap_or_default();
        let done = seen.lanes_done.load(Ordering::Relaxed) == AT_ONCE
            && upstream.now == 0
            && state.is_empty();
        let late = begin.elapsed() > GIVE_UP + Duration::from_secs(5);
        let stopped = stop.load(Ordering::Relaxed);
        table.show(
            &Moment {
                elapsed: begin.elapsed(),
                used: &state.used,
                upstream: &upstream,
                refused: seen.refused.load(Ordering::Relaxed),
                waiting: state.waiting.len(),
                atomic: seen.atomic.load(Ordering::Relaxed),
                traditional: seen.traditional.load(Ordering::Relaxed),
            },
            done || late || stopped,
        );
        if stopped {
            println!("\nstopped");
            return Err(ExitCode::from(130));
        }
        if done || late {
            break begin.elapsed();
        }
        std::thread::sleep(Duration::from_millis(200));
    };

    let failures = verdict(act, &pool, &seen, &upstream, &ledger);
    if failures.is_empty() {
        return Ok(Summary {
            took: ended,
            refused: seen.refused.load(Ordering::Relaxed),
            slowest: *seen.slowest.lock().unwrap(),
        });
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    println!("\nEnvoy's log ends with:\n{}", envoy.log_tail(40));
    Err(ExitCode::FAILURE)
}

/// One client after another.
async fn lane(client: Client, seen: Arc<Seen>, begin: Instant) {
    loop {
        let number = seen.next.fetch_add(1, Ordering::Relaxed);
        if number >= REQUESTS {
            break;
        }
        let came = Instant::now();
        let served = serve_one(client, &seen, number, begin).await;
        let mut slowest = seen.slowest.lock().unwrap();
        *slowest = came.elapsed().max(*slowest);
        drop(slowest);
        if let Err(failure) = served {
            seen.failures
                .lock()
                .unwrap()
                .push(format!("request {number}: {failure}"));
        }
    }
    seen.lanes_done.fetch_add(1, Ordering::Relaxed);
}

/// Tries until the request is served. A refusal is an answer too, but not the last one.
async fn serve_one(
    client: Client,
    seen: &Seen,
    number: usize,
    begin: Instant,
) -> Result<(), String> {
    let session = format!("session-{}", number % SESSIONS);
    loop {
        let request = Request::get(PATH).header("x-session-id", &session);
        let reply = client
            .sending(request)
            .await
            .map_err(|error| error.to_string())?;
        match reply.status {
            200 => return whole_stream(&reply, seen),
            429 if begin.elapsed() < GIVE_UP => {
                seen.refused.fetch_add(1, Ordering::Relaxed);
                // A client would wait for the `retry-after`; the demo is in a hurry.
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            429 => return Err("refused to the end".into()),
            status => return Err(format!("status {status}: {}", reply.text().trim())),
        }
    }
}

fn whole_stream(reply: &Reply, seen: &Seen) -> Result<(), String> {
    match reply.header("x-slotgate-path") {
        "atomic" => seen.atomic.fetch_add(1, Ordering::Relaxed),
        "traditional" => seen.traditional.fetch_add(1, Ordering::Relaxed),
        other => return Err(format!("x-slotgate-path is {other:?}")),
    };
    let text = reply.text();
    let events = text.matches("\"delta\"").count();
    if events != EVENTS || !text.ends_with("data: [DONE]\n\n") {
        return Err(format!(
            "the stream ended after {events} of {EVENTS} events"
        ));
    }
    Ok(())
}

/// Prints what the upstream and Redis say, and returns what is not as promised.
fn verdict(
    act: Act,
    pool: &Pool,
    seen: &Seen,
    upstream: &Upstream,
    ledger: &Ledger,
) -> Vec<String> {
    let mut failures = std::mem::take(&mut *seen.failures.lock().unwrap());
    failures.truncate(10);
    let mut expect = |kept: bool, failure: String| {
        if !kept {
            failures.push(failure);
        }
    };
    let (atomic, traditional) = (
        seen.atomic.load(Ordering::Relaxed),
        seen.traditional.load(Ordering::Relaxed),
    );
    let served = atomic + traditional;
    expect(
        served == REQUESTS,
        format!("{served} of {REQUESTS} requests were served"),
    );
    expect(atomic > 0, "no request took a slot".into());
    let refused = seen.refused.load(Ordering::Relaxed);
    expect(
        act == Act::Refuse || refused == 0,
        format!("{refused} were refused instead of waiting"),
    );

    println!("\nwhat the upstream itself saw");
    let snapshot = upstream.snapshot();
    let mut granted = 0;
    for (id, slots) in &pool.accounts {
        let count = snapshot.account(id);
        granted += count.total;
        println!(
            "  {id:<12} greatest number at once {:>3}, limit {slots:>3}",
            count.most
        );
        expect(
            count.most <= *slots,
            format!(
                "{id} was used {} times at once, its limit is {slots}",
                count.most
            ),
        );
        expect(
            count.now == 0,
            format!("{id} is still used {} times", count.now),
        );
    }
    let counted =
        format!("the upstream saw {granted} requests with an account, the clients {atomic}");
    expect(granted == atomic as u64, counted);
    let strangers = snapshot
        .accounts
        .keys()
        .filter(|id| *id != "-" && !pool.accounts.iter().any(|(own, _)| own == *id));
    let strangers: Vec<_> = strangers.collect();
    expect(
        strangers.is_empty(),
        format!("accounts outside the pool were used: {strangers:?}"),
    );

    match poll(Duration::from_secs(5), || {
        ledger.try_state().ok().filter(|state| state.is_empty())
    }) {
        Some(state) => {
            println!(
                "what Redis says\n  no lease, every count 0, {} accounts free",
                state.free.len()
            );
            let free = state.free.keys().eq(state.accounts.keys());
            expect(
                free && state.free.len() == pool.accounts.len(),
                format!("free: {:?}", state.free),
            );
        }
        None => expect(
            false,
            format!("slots are not free again: {:?}", ledger.try_state()),
        ),
    }
    println!();
    failures
}
