//! `log`: what was changed lately, and by whom.

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::server::Server;
use crate::show::{Cell, Lines};
use crate::words::document;
use slotgate::ledger::changes::Changed;
use slotgate::ledger::keys;
use slotgate::ledger::view::duration;
use std::time::{Duration, UNIX_EPOCH};

/// How many changes of a pool are kept.
const MOST: i64 = 100;

/// The changes of these pools or of all, the newest first.
pub fn run(server: &mut Server, named: &[String]) -> Result<Answer, Problem> {
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    let pools = server.some_pools(named)?;
    let alone = pools.len() == 1;
    for pool in pools {
        let key = keys::changes(&server.prefix, &pool);
        let lines = server.ask_of(
            &pool,
            redis::cmd("LRANGE")
                .arg(key)
                .arg(0)
                .arg(MOST.saturating_sub(1)),
        );
        let lines: Vec<Vec<u8>> = match lines {
            Ok(lines) => lines,
            Err(problem) if problem.is_of_one_pool() && !alone => {
                failed.push((pool.clone(), problem.named(&pool)));
                continue;
            }
            Err(problem) => return Err(problem),
        };
        for change in lines.iter().filter_map(|line| Changed::read(line)) {
            all.push((pool.clone(), change));
        }
    }
    all.sort_by_key(|(_, change)| std::cmp::Reverse(change.at_ms));
    let now_ms = server.now_ms()?;
    let mut text = table(&all, now_ms);
    for (_, error) in &failed {
        text.line(error);
    }
    Ok(Answer {
        text,
        json: document(|json| {
            json.raw("[");
            for (pool, change) in &all {
                json.raw("{").name("pool").text(pool).name("change");
                change.write(json);
                json.raw("}");
            }
            for (pool, error) in &failed {
                json.raw("{").name("pool").text(pool).name("error");
                json.text(error).raw("}");
            }
            json.raw("]");
        }),
        exit: if failed.is_empty() {
            Exit::Done
        } else {
            Exit::Wrong
        },
    })
}

fn table(all: &[(String, Changed)], now_ms: u64) -> Lines {
    if all.is_empty() {
        return Lines::of("nothing was changed so far, or only by an older version");
    }
    let mut lines = vec![
        ["when", "ago", "pool", "by", "what"]
            .map(Cell::from)
            .to_vec(),
    ];
    for (pool, change) in all {
        let when = UNIX_EPOCH.checked_add(Duration::from_millis(change.at_ms));
        let when = when.map(|when| humantime::format_rfc3339_seconds(when).to_string());
        let by = match change.by.as_str() {
            "" if change.what == "revision" => "a configuration",
            "" => "-",
            by => by,
        };
        lines.push(vec![
            Cell::from(&when.unwrap_or_default()),
            duration(now_ms.saturating_sub(change.at_ms)).into(),
            pool.as_str().into(),
            by.into(),
            change.text().into(),
        ]);
    }
    let mut text = Lines::default();
    text.table(&lines);
    text
}
