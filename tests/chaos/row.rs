//! One fault's row: what was seen while it lasted and afterwards.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::faults::{Fault, Toll, VICTIM};
use crate::load::{Load, Outcome, Record};
use crate::world::{ENVOYS, LEASE_TTL_MS, World};
use support::*;

/// So many requests in a row that the ledger decided: it works again.
const IN_A_ROW: usize = 10;
const RECOVERY: Duration = Duration::from_secs(2);
/// What is given besides a lease's time, for a busy machine.
const SLACK: Duration = Duration::from_millis(500);
/// Warnings of one Envoy's workers for one fault: some say that it came, some that it goes on otherwise.
const FEW: usize = 10;

pub struct Row {
    name: &'static str,
    window_ms: u64,
    requests: usize,
    failed: Vec<String>,
    by_cause: usize,
    over: usize,
    over_after: usize,
    leaked: i64,
    detected: Option<Duration>,
    recovered: Option<Duration>,
    traditional: usize,
    warnings: usize,
    counters: BTreeMap<String, u64>,
    expected: &'static [&'static str],
}

pub fn measure(fault: &Fault) -> Row {
    let mut world = World::start(fault.redis, fault.accounts, fault.queue, |config| config);
    let load = Load::start(&world.addrs());
    let began = Instant::now();
    eventually(PATIENCE, || recovered(&load.records(), began).is_some());
    std::thread::sleep(Duration::from_secs(1));
    let before = world.counters();
    let warned = world.warnings();

    let begin = Instant::now();
    (fault.cause)(&mut world);
    let end = Instant::now();

    let recovered_at = poll(PATIENCE, || recovered(&load.records(), end));
    std::thread::sleep(Duration::from_millis(fault.window_ms));
    let over = world.over(fault.accounts);
    world.upstream.forget();
    std::thread::sleep(Duration::from_secs(1));
    let over_after = world.over(fault.accounts);
    let records = load.stop();
    let leaked = leaked(&world);

    let during = records.iter().filter(|record| record.end > begin);
    let mut row = Row {
        name: fault.name,
        window_ms: fault.window_ms,
        requests: 0,
        failed: Vec::new(),
        by_cause: 0,
        over,
        over_after,
        leaked,
        detected: None,
        recovered: recovered_at.map(|at| at - end),
        traditional: 0,
        warnings: world.warnings().saturating_sub(warned),
        counters: moved(&before, &world.counters()),
        expected: fault.counted,
    };
    for record in during {
        row.requests += 1;
        match (&record.outcome, fault.toll, record.envoy) {
            (Outcome::Atomic, ..) => {}
            (Outcome::Saturated, ..) if fault.queue => {
                row.failed.push("refused instead of waiting".into());
            }
            (Outcome::Saturated, ..) => {}
            (Outcome::Traditional, ..) => {
                row.traditional += 1;
                let after = record.end - begin;
                row.detected = Some(row.detected.map_or(after, |first| first.min(after)));
            }
            (Outcome::Refused, Toll::Refused | Toll::Killed, VICTIM)
            | (Outcome::Failed(_), Toll::Killed, VICTIM)
                if record.start < end =>
            {
                row.by_cause += 1;
            }
            (Outcome::Refused, ..) => row.failed.push("connection refused".into()),
            (Outcome::Failed(why), ..) => row.failed.push(why.clone()),
        }
    }
    row
}

/// When every Envoy has had its requests decided by the ledger again, those sent after `since`.
fn recovered(records: &[Record], since: Instant) -> Option<Instant> {
    let mut first = Vec::new();
    for envoy in 0..ENVOYS {
        let mut own: Vec<_> = records
            .iter()
            .filter(|record| record.envoy == envoy && record.start >= since)
            .collect();
        own.sort_by_key(|record| record.end);
        let decided =
            |record: &&Record| matches!(record.outcome, Outcome::Atomic | Outcome::Saturated);
        let run = own
            .windows(IN_A_ROW)
            .find(|window| window.iter().all(decided))?;
        first.push(run[0].end);
    }
    first.into_iter().max()
}

/// Slots still counted although nobody uses them, one lease's time after the last request.
pub fn leaked(world: &World) -> i64 {
    eventually(PATIENCE, || world.upstream.snapshot().now == 0);
    let patience = Duration::from_millis(LEASE_TTL_MS) + SLACK;
    if poll(patience, || world.ledger.is_empty().then_some(())).is_none() {
        // What has expired is reaped by whoever acquires.
        for addr in world.addrs() {
            for _ in 0..8 {
                let _ = Client::new(addr).send(Request::get("/"));
            }
        }
        let _ = poll(SLACK, || world.ledger.is_empty().then_some(()));
    }
    let queue = world.ledger.key("queue");
    let waits = || world.redis.run::<u64>("ZCARD", &[&queue]);
    assert!(
        poll(patience, || (waits() == 0).then_some(())).is_some(),
        "{} still stand in the queue",
        waits()
    );
    let state = world.ledger.state();
    state.assert_consistent();
    state.used.values().sum()
}

/// What was counted, but for what every request counts.
pub fn moved(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    const USUAL: [&str; 9] = [
        "requests;outcome=atomic",
        "requests;outcome=rejected;reason=saturated",
        "lease.released",
        "lease.renewed",
        "breaker.open",
        "account.",
        "gray.",
        "pipe.workers_",
        "queue.",
    ];
    // A name, or the beginning of several.
    let is_usual = |name: &str| {
        let fits = |usual: &&str| match usual.ends_with(['.', '_']) {
            true => name.starts_with(usual),
            false => name == *usual,
        };
        USUAL.iter().any(fits)
    };
    let more = |(name, count): (&String, &u64)| {
        let more = count.saturating_sub(before.get(name).copied().unwrap_or_default());
        (more > 0 && !is_usual(name)).then(|| (name.clone(), more))
    };
    after.iter().filter_map(more).collect()
}

impl Row {
    pub const HEAD: &str = concat!(
        "| fault | requests | failed | over limit | after it | slots leaked | first other way | recovered | traditional | warnings | counted |\n",
        "|---|---|---|---|---|---|---|---|---|---|---|"
    );
    pub const FOOT: &str = concat!(
        "Failed: not served, or not in time; in brackets those that the cause itself cut off. Over limit: the most requests an\n",
        "account had at once, above its limit, as the upstream saw it, and again from then on. Leaked: slots still counted one\n",
        "lease's time after the last request. First other way: from the cause's begin; recovered: from its end, until every\n",
        "Envoy had ten requests in a row decided by the ledger. Warnings: of the Envoy that has most."
    );

    pub fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut expect = |kept: bool, promise: String| {
            if !kept {
                broken.push(format!("{}: {promise}", self.name));
            }
        };
        let failed = &self.failed[..self.failed.len().min(5)];
        expect(failed.is_empty(), format!("failed: {failed:?}"));
        expect(
            self.over == 0 || self.window_ms > 0,
            format!("{} over the limit", self.over),
        );
        expect(
            self.over_after == 0,
            format!("{} over the limit afterwards", self.over_after),
        );
        expect(self.leaked == 0, format!("{} slots leaked", self.leaked));
        expect(
            self.recovered
                .is_some_and(|recovered| recovered <= RECOVERY),
            format!("recovered after {:?}", self.recovered),
        );
        expect(self.warnings <= FEW, format!("{} warnings", self.warnings));
        for name in self.expected {
            expect(
                self.counters.contains_key(*name),
                format!("{name} does not tell of it"),
            );
        }
        broken
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Option<Duration>| {
            time.map_or("–".into(), |time| format!("{} ms", time.as_millis()))
        };
        let by_cause = match self.by_cause {
            0 => String::new(),
            some => format!(" ({some})"),
        };
        let window = match self.window_ms {
            0 => String::new(),
            window => format!(" ({window} ms)"),
        };
        let counters: Vec<_> = self
            .counters
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        write!(
            f,
            "| {} | {} | {}{by_cause} | {}{window} | {} | {} | {} | {} | {} | {} | {} |",
            self.name,
            self.requests,
            self.failed.len(),
            self.over,
            self.over_after,
            self.leaked,
            ms(self.detected),
            ms(self.recovered),
            self.traditional,
            self.warnings,
            counters.join(", "),
        )
    }
}
