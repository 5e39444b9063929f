//! The workers of all Envoys: who answers, and whether they agree.

use super::{Harm, Report};
use crate::problem::Problem;
use crate::server::Server;
use crate::words::count;
use serde_json::Value;
use slotgate::ledger::keys;
use slotgate::worker::presence::ASKED;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(100);
/// How many answers of one pool are read.
pub const MOST_WORKERS: usize = 1_000;

/// Asks the workers by way of every pool: each answers once for each pool that it has had a request of.
pub fn look(
    server: &mut Server,
    report: &mut Report,
    pools: &[String],
    (wait, expected): (Duration, Option<usize>),
) -> Result<(), Problem> {
    let nonce = format!("{:016x}", RandomState::new().hash_one(wait));
    let keep_ms = u64::try_from(wait.as_millis())
        .unwrap_or(u64::MAX)
        .saturating_add(1_000);
    let mut asked = Vec::new();
    for pool in pools {
        let answers = keys::answers(&server.prefix, pool);
        let mut set = redis::cmd("SET");
        set.arg(keys::question(&server.prefix, pool));
        set.arg(format!("{nonce} {ASKED} *")).arg("PX").arg(keep_ms);
        let put = server.ask_of::<i64>(pool, redis::cmd("DEL").arg(&answers));
        match put.and_then(|_| server.ask_of::<()>(pool, &set)) {
            Ok(()) => asked.push((pool, answers)),
            Err(problem) => report
                .unseen
                .push(format!("the workers of pool {pool}: {}", problem.what)),
        }
    }
    let start = Instant::now();
    let mut said = BTreeMap::new();
    while start.elapsed() < wait && !asked.is_empty() {
        std::thread::sleep(STEP.min(wait.saturating_sub(start.elapsed())));
        for (pool, answers) in &asked {
            let mut range = redis::cmd("LRANGE");
            let lines = server.ask_of(pool, range.arg(answers).arg(0).arg(MOST_WORKERS));
            let lines: Vec<Vec<u8>> = lines.unwrap_or_default();
            for answer in lines
                .iter()
                .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
            {
                if word(&answer, "nonce") == nonce {
                    let worker = word(&answer, "worker");
                    said.insert(((*pool).clone(), worker), answer);
                }
            }
        }
    }
    for (pool, answers) in &asked {
        // What is left of it would be in nobody's way.
        let _ = server.ask_of::<i64>(pool, redis::cmd("DEL").arg(answers));
    }
    judge(report, pools, &said, (wait, expected));
    Ok(())
}

/// By pool and worker.
type Said = BTreeMap<(String, String), Value>;

fn judge(
    report: &mut Report,
    pools: &[String],
    said: &Said,
    (wait, expected): (Duration, Option<usize>),
) {
    for pool in pools {
        let of_pool: Vec<&Value> = said
            .iter()
            .filter(|((of, _), _)| of == pool)
            .map(|(_, answer)| answer)
            .collect();
        if of_pool.is_empty() {
            let what = format!("no worker answered within {:.1} s", wait.as_secs_f64());
            let hint = "is an Envoy up, has it had a request of this pool, and is its control.poll_ms shorter? --wait says how long";
            report.find_in(pool, Harm::Advice, "no_worker", &what, hint);
            continue;
        }
        let ignored = of_pool
            .iter()
            .filter(|answer| word(answer, "follows") == "false")
            .count();
        if ignored > 0 {
            let what = format!(
                "other accounts are in force than the configuration of {} says",
                count(ignored as u64, "worker")
            );
            let hint = "a higher revision, where that configuration is the right one; slotgate status --config FILE compares";
            report.find_in(pool, Harm::Limits, "ignored", &what, hint);
        }
        let revisions = distinct(&of_pool, "revision");
        if revisions.len() > 1 {
            let what = format!(
                "workers are configured with revisions {}",
                listed(&revisions)
            );
            report.find_in(
                pool,
                Harm::Advice,
                "revisions",
                &what,
                "the highest is in force; the others' Envoys follow their configuration",
            );
        }
    }
    let by_worker: BTreeMap<&str, &Value> = said
        .iter()
        .map(|((_, worker), answer)| (worker.as_str(), answer))
        .collect();
    let workers: Vec<&Value> = by_worker.values().copied().collect();
    if let Some(expected) = expected.filter(|expected| workers.len() < *expected) {
        let what = format!(
            "{} of {} answered within {:.1} s",
            workers.len(),
            count(expected as u64, "worker"),
            wait.as_secs_f64()
        );
        let hint = "which Envoy is down, stands still or is cut off from Redis? a worker that has had no request so far, or looks less often than --wait (control.poll_ms), does not answer either";
        report.find(Harm::Requests, "few_workers", what, hint);
    }
    if workers.is_empty() {
        return;
    }
    let versions = distinct(&workers, "version");
    let configurations = distinct(&workers, "configuration");
    for (kind, what, names) in [
        ("versions", "versions run", &versions),
        ("configurations", "configurations run", &configurations),
    ] {
        if names.len() > 1 {
            let what = format!("{} {what}: {}", names.len(), listed(names));
            report.find(
                Harm::Advice,
                kind,
                what,
                "a rollout that is under way, or an Envoy that it has left out",
            );
        }
    }
    report.seen.push(format!(
        "{} answered: version {}",
        count(workers.len() as u64, "worker"),
        listed(&versions)
    ));
    report.workers = workers
        .into_iter()
        .map(|worker| {
            let mut worker = worker.clone();
            if let Some(fields) = worker.as_object_mut() {
                fields.retain(|name, _| {
                    ["worker", "version", "configuration"].contains(&name.as_str())
                });
            }
            worker
        })
        .collect();
}

/// A field of an answer, as text.
fn word(answer: &Value, field: &str) -> String {
    match answer.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// Each value, and how many answers have it.
fn distinct(answers: &[&Value], field: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for answer in answers {
        let times: &mut usize = all.entry(word(answer, field)).or_default();
        *times = times.saturating_add(1);
    }
    all
}

fn listed(names: &BTreeMap<String, usize>) -> String {
    let one = |(name, times): (&String, &usize)| match names.len() {
        1 => name.clone(),
        _ => format!("{name} ({})", count(*times as u64, "worker")),
    };
    let all: BTreeSet<String> = names.iter().map(one).collect();
    all.into_iter().collect::<Vec<_>>().join(", ")
}
