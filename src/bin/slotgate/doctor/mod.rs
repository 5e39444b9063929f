//! `doctor`: looks at Redis, at every pool's ledger and at the workers, and says what is wrong, the most harmful first.

mod ledger;
mod redis;
mod workers;

pub use ledger::Audit;
pub use workers::MOST_WORKERS;

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::server::Server;
use crate::show::Lines;
use crate::words::count;
use serde_json::{Value, json};
use std::time::Duration;

/// What a finding may cost, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    /// An account may be used above its limit, or slots that are free are given to nobody.
    Limits,
    /// Requests fall back, are refused, or wait longer than they must.
    Requests,
    /// Nothing so far.
    Advice,
}

impl Harm {
    const ALL: [Self; 3] = [Self::Limits, Self::Requests, Self::Advice];

    fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Requests => "requests",
            Self::Advice => "advice",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Limits => "Limits may not hold, or slots are lost:",
            Self::Requests => "Requests fall back, are refused or wait:",
            Self::Advice => "Worth to know:",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug)]
struct Finding {
    harm: Harm,
    /// One word for programs.
    kind: &'static str,
    pool: Option<String>,
    what: String,
    /// What to try.
    hint: String,
}

/// All that was found.
#[derive(Debug, Default)]
struct Report {
    findings: Vec<Finding>,
    /// What was looked at, in words.
    seen: Vec<String>,
    /// What could not be looked at, and why.
    unseen: Vec<String>,
    workers: Vec<Value>,
}

impl Report {
    fn find(&mut self, harm: Harm, kind: &'static str, what: impl Into<String>, hint: &str) {
        self.findings.push(Finding {
            harm,
            kind,
            pool: None,
            what: what.into(),
            hint: hint.to_owned(),
        });
    }

    fn find_in(&mut self, pool: &str, harm: Harm, kind: &'static str, what: &str, hint: &str) {
        self.find(harm, kind, format!("pool {pool}: {what}"), hint);
        if let Some(finding) = self.findings.last_mut() {
            finding.pool = Some(pool.to_owned());
        }
    }
}

/// What `--workers` comes to when there is no pool to ask in.
const WORKERS_UNASKED: &str = "how many workers answer: there is no pool to ask them in";

/// Looks at everything; `wait` is how long workers may take to answer, `expected` how many there are, where that was said.
pub fn run(
    server: &mut Server,
    named: &[String],
    wait: Duration,
    expected: Option<usize>,
) -> Result<Answer, Problem> {
    let mut report = Report::default();
    redis::look(server, &mut report)?;
    let unasked = expected.map(|_| WORKERS_UNASKED.to_owned());
    match server.some_pools(named) {
        Ok(pools) => {
            for pool in &pools {
                ledger::look(server, &mut report, pool)?;
            }
            workers::look(server, &mut report, &pools, (wait, expected))?;
        }
        // What is wrong with Redis may be why.
        Err(problem) if problem.kind == "no_pool" && named.is_empty() => {
            let hint = problem.hint.clone().unwrap_or_default();
            report.find(Harm::Requests, "no_pool", problem.what, &hint);
            report.unseen.extend(unasked);
        }
        // What was found of Redis says more.
        Err(problem) if !report.findings.is_empty() && named.is_empty() => {
            report.unseen.push(problem.what);
            report.unseen.extend(unasked);
        }
        Err(problem) => return Err(problem),
    }
    report.findings.sort_by_key(|finding| finding.harm);
    let is_wrong = report.findings.iter().any(|one| one.harm != Harm::Advice);
    Ok(Answer {
        text: text(&report),
        json: document(&report, !is_wrong),
        exit: if is_wrong { Exit::Wrong } else { Exit::Done },
    })
}

fn text(report: &Report) -> Lines {
    let mut lines = Lines::default();
    for harm in Harm::ALL {
        let mut findings = report.findings.iter().filter(|one| one.harm == harm);
        let first = findings.next();
        if first.is_some() {
            lines.line(harm.title());
        }
        for finding in first.into_iter().chain(findings) {
            lines.line(&format!("  {}", finding.what));
            if !finding.hint.is_empty() {
                lines.line(&format!("    try: {}", finding.hint));
            }
        }
    }
    for unseen in &report.unseen {
        lines.line(&format!("not looked at: {unseen}"));
    }
    for seen in &report.seen {
        lines.line(seen);
    }
    let wrong = report
        .findings
        .iter()
        .filter(|one| one.harm != Harm::Advice);
    lines.line(&match wrong.count() {
        0 => "nothing is wrong".to_owned(),
        wrong => format!("{} wrong", count(wrong as u64, "thing")),
    });
    lines
}

fn document(report: &Report, ok: bool) -> Value {
    let findings = report.findings.iter().map(|one| {
        json!({
            "harm": one.harm.name(), "kind": one.kind, "pool": one.pool, "text": one.what, "try": one.hint,
        })
    });
    json!({
        "ok": ok, "findings": findings.collect::<Vec<_>>(), "seen": report.seen, "not_seen": report.unseen,
        "workers": report.workers,
    })
}
