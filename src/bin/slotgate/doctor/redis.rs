//! Redis itself: whether it keeps what it is given, takes commands, and is quick.

use super::{Harm, Report};
use crate::problem::Problem;
use crate::server::Server;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often Redis is asked for its time, to know how long it takes.
const ASKS: usize = 25;
/// Half of them may take this long: far more than on one network.
const SLOW: Duration = Duration::from_millis(3);
/// By how much two clocks may differ, in ms.
const SKEW_MS: u64 = 2_000;
/// What was refused longer ago says nothing of now, in seconds.
const RECENT_S: f64 = 3_600.0;
/// A program that fills the cache with scripts of its own has more than this.
const SCRIPTS: u64 = 1_000;
/// Of what Redis has a bound for, this share is nearly all.
const NEARLY: f64 = 0.9;

/// Looks at the server.
pub fn look(server: &mut Server, report: &mut Report) -> Result<(), Problem> {
    look_at_times(server, report)?;
    match info(server) {
        Ok(info) => look_at_info(&info, report),
        Err(why) => report
            .unseen
            .push(format!("Redis' own figures (INFO): {why}")),
    }
    match config(server, "*-max-listpack-entries") {
        Ok(sizes) => look_at_sizes(&sizes, report),
        Err(why) => report
            .unseen
            .push(format!("Redis' settings (CONFIG GET): {why}")),
    }
    match denied(server) {
        Ok(denied) => look_at_denied(&denied, report),
        Err(why) => report
            .unseen
            .push(format!("what Redis has refused (ACL LOG): {why}")),
    }
    Ok(())
}

type Words = BTreeMap<String, String>;

fn info(server: &mut Server) -> Result<Words, String> {
    let text: String = server
        .ask(&redis::cmd("INFO"))
        .map_err(|problem| problem.what)?;
    let words = text.lines().filter_map(|line| line.split_once(':'));
    Ok(words
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect())
}

fn config(server: &mut Server, names: &str) -> Result<Words, String> {
    let mut get = redis::cmd("CONFIG");
    let pairs: Vec<String> = server
        .ask(get.arg("GET").arg(names))
        .map_err(|problem| problem.what)?;
    let pairs = pairs.chunks_exact(2);
    Ok(pairs
        .filter_map(|pair| Some((pair.first()?.clone(), pair.last()?.clone())))
        .collect())
}

/// What was refused: `user NAME the command x`, and how often.
fn denied(server: &mut Server) -> Result<BTreeMap<String, u64>, String> {
    let mut log = redis::cmd("ACL");
    let entries: Vec<Vec<redis::Value>> = server
        .ask(log.arg("LOG").arg(50))
        .map_err(|problem| problem.what)?;
    let mut all = BTreeMap::new();
    for entry in entries {
        let word = |name: &str| {
            let named = |pair: &&[redis::Value]| pair.first().is_some_and(|key| text(key) == name);
            let pair = entry.chunks_exact(2).find(named);
            pair.and_then(<[_]>::last).map(text).unwrap_or_default()
        };
        let age_s: f64 = word("age-seconds").parse().unwrap_or(0.0);
        // What this program asks, and may do without.
        let is_own = ["info", "config|get", "acl|log", "scan"].contains(&word("object").as_str());
        if age_s < RECENT_S && !is_own {
            let what = match word("reason").as_str() {
                "auth" => "its login".to_owned(),
                reason => format!("the {reason} {}", word("object")),
            };
            let times: u64 = word("count").parse().unwrap_or(1);
            let user = word("username");
            let sum: &mut u64 = all.entry(format!("user {user} {what}")).or_default();
            *sum = sum.saturating_add(times);
        }
    }
    Ok(all)
}

fn text(value: &redis::Value) -> String {
    redis::from_redis_value_ref(value).unwrap_or_default()
}

/// How long an answer takes, and whether the clocks agree.
fn look_at_times(server: &mut Server, report: &mut Report) -> Result<(), Problem> {
    let mut took = Vec::new();
    let mut skew_ms = 0;
    for _ in 0..ASKS {
        let start = Instant::now();
        let theirs_ms = server.now_ms()?;
        took.push(start.elapsed());
        let ours = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        skew_ms = theirs_ms.abs_diff(ours.as_millis() as u64);
    }
    took.sort();
    let middle = took.get(ASKS / 2).copied().unwrap_or_default();
    let most = took.last().copied().unwrap_or_default();
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1_000.0);
    let times = format!("{} (the longest of {ASKS}: {})", ms(middle), ms(most));
    if middle >= SLOW {
        report.find(
            Harm::Requests,
            "slow",
            format!("Redis takes {times} to answer from here, and every request waits for it"),
            "redis-cli --latency from where Envoy runs; a Redis nearby, and nothing else on it",
        );
    }
    report
        .seen
        .push(format!("Redis at {} answers in {times}", server.name));
    if skew_ms > SKEW_MS {
        report.find(
            Harm::Advice,
            "clock",
            format!(
                "the clocks of Redis and of this machine differ by {:.1} s",
                skew_ms as f64 / 1_000.0
            ),
            "NTP on both; leases use Redis' clock alone, so none is harmed unless that one jumps",
        );
    }
    Ok(())
}

fn look_at_info(info: &Words, report: &mut Report) {
    let word = |name: &str| info.get(name).map_or("", String::as_str);
    let number = |name: &str| word(name).parse::<u64>().unwrap_or(0);
    let share = |part: &str, whole: &str| match number(whole) {
        0 => 0.0,
        whole => number(part) as f64 / whole as f64,
    };
    let name = match word("valkey_version") {
        "" => format!("Redis {}", word("redis_version")),
        version => format!("Valkey {version}"),
    };
    report
        .seen
        .push(format!("{name}, {} used", word("used_memory_human")));
    if word("role") != "master" && !word("role").is_empty() {
        let what = "this Redis is a replica: it takes no leases";
        report.find(
            Harm::Requests,
            "replica",
            what,
            "Envoy's cluster for Redis must lead to the primary",
        );
    }
    if word("loading") == "1" {
        report.find(
            Harm::Requests,
            "loading",
            "Redis still reads its data from disk",
            "wait",
        );
    }
    let policy = word("maxmemory_policy");
    if number("evicted_keys") > 0 {
        let what = format!(
            "Redis has evicted {} keys since it began",
            number("evicted_keys")
        );
        // Only sessions have an end of their own, and are what such a policy takes.
        let harm = if policy.starts_with("volatile") {
            Harm::Advice
        } else {
            Harm::Limits
        };
        let hint =
            "maxmemory-policy noeviction, and more maxmemory; CONFIG RESETSTAT once it is mended";
        report.find(harm, "evicted", what, hint);
    }
    if policy.starts_with("allkeys") {
        let harm = if number("maxmemory") > 0 {
            Harm::Limits
        } else {
            Harm::Advice
        };
        let what =
            format!("maxmemory-policy is {policy}: when memory is full, Redis throws leases away");
        report.find(harm, "eviction", what, "maxmemory-policy noeviction");
    } else if policy.starts_with("volatile") {
        let what = format!(
            "maxmemory-policy is {policy}: when memory is full, sessions lose their accounts"
        );
        report.find(
            Harm::Advice,
            "eviction",
            what,
            "maxmemory-policy noeviction",
        );
    }
    if share("used_memory", "maxmemory") > NEARLY {
        let what = format!(
            "Redis uses {} of {}: when it is full it takes no lease",
            word("used_memory_human"),
            word("maxmemory_human")
        );
        report.find(
            Harm::Requests,
            "memory",
            what,
            "more maxmemory, or a lower affinity.max_mb",
        );
    }
    if share("connected_clients", "maxclients") > NEARLY {
        let what = format!(
            "{} of {} clients are connected",
            word("connected_clients"),
            word("maxclients")
        );
        report.find(
            Harm::Requests,
            "clients",
            what,
            "a higher maxclients; each worker needs one or two",
        );
    }
    if word("rdb_last_bgsave_status") == "err" || word("aof_last_write_status") == "err" {
        let what = "Redis could not write to its disk, and may refuse all changes (MISCONF)";
        report.find(
            Harm::Requests,
            "disk",
            what,
            "space on the disk, and Redis' log",
        );
    }
    if number("number_of_cached_scripts") > SCRIPTS {
        let what = format!("{} scripts are cached", number("number_of_cached_scripts"));
        let hint = "someone sends EVAL with texts that differ: each costs memory; SCRIPT FLUSH ASYNC costs each worker one more command";
        report.find(Harm::Advice, "scripts", what, hint);
    }
}

fn look_at_sizes(sizes: &Words, report: &mut Report) {
    let is_set = |name: &str| sizes.get(name).is_some_and(|size| size != "0");
    if is_set("hash-max-listpack-entries") || is_set("zset-max-listpack-entries") {
        let what = "small collections are kept as lists, which Redis searches from their beginning";
        let hint = "hash-max-listpack-entries 0 and zset-max-listpack-entries 0, if it serves slotgate alone: an acquire takes a tenth to a third less CPU";
        report.find(Harm::Advice, "listpack", what, hint);
    }
}

fn look_at_denied(denied: &BTreeMap<String, u64>, report: &mut Report) {
    for (what, times) in denied {
        // Without these no change is noted, and nothing else is missing.
        let notes = ["lpush", "ltrim", "lrange"].map(|command| format!(" the command {command}"));
        let harm = if notes.iter().any(|end| what.ends_with(end)) {
            Harm::Advice
        } else {
            Harm::Requests
        };
        let times = crate::words::count(*times, "time");
        let what = format!("Redis refused {what}, {times} within the last hour");
        report.find(
            harm,
            "denied",
            what,
            "the ACL in docs/ledger.md; ACL LOG RESET once it is mended",
        );
    }
}
