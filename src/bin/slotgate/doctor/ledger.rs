//! A pool's ledger: whether its keys fit together, and whether any account can take a lease.

use super::{Harm, Report};
use crate::problem::Problem;
use crate::server::Server;
use crate::words::{count, quoted};
use slotgate::ledger::view::{Pool, duration};
use slotgate::pool::state::State;

/// How many accounts and leases are counted at once: Redis does nothing else for some 50 ms.
const MOST: u64 = 20_000;
/// How many of a pool's faults are told one by one.
const TOLD: usize = 5;

/// Looks at a pool.
pub fn look(server: &mut Server, report: &mut Report, pool: &str) -> Result<(), Problem> {
    match server.audit(pool, MOST) {
        Ok(audit) => look_at_keys(report, pool, &audit),
        Err(problem) if problem.is_of_one_pool() => {
            report.unseen.push(format!("pool {pool}: {}", problem.what));
        }
        Err(problem) => return Err(problem),
    }
    match server.pool(pool) {
        Ok(seen) => look_at_accounts(report, &seen),
        Err(problem) if problem.kind == "garbage" => {
            let hint = "the next recount mends what can be derived; who has write access?";
            report.find_in(pool, Harm::Limits, "garbage", &problem.what, hint);
        }
        Err(problem) if problem.is_of_one_pool() => {
            let hint = problem.hint.unwrap_or_default();
            report.find_in(pool, Harm::Requests, "unreadable", &problem.what, &hint);
        }
        Err(problem) => return Err(problem),
    }
    Ok(())
}

/// What `audit.lua` found.
#[derive(Debug)]
pub struct Audit {
    /// How many leases and accounts; `None`: too many to count at once.
    pub counted: Option<(u64, u64)>,
    /// Key, field, what stands there, and what the other keys say.
    pub findings: Vec<(String, String, String, String)>,
}

fn look_at_keys(report: &mut Report, pool: &str, audit: &Audit) {
    match audit.counted {
        Some((leases, accounts)) => {
            let (leases, accounts) = (count(leases, "lease"), count(accounts, "account"));
            report.seen.push(format!("pool {pool}: {accounts}, {leases} counted"));
        }
        None => report.unseen.push(format!(
            "pool {pool}: it has more than {MOST} accounts or leases; its recounts go through them step by step"
        )),
    }
    for (key, field, found, wanted) in audit.findings.iter().take(TOLD) {
        let place = [key.as_str(), field].join(" ");
        let what = format!("{} is {}, not {wanted}", place.trim_end(), quoted(found));
        let hint =
            "the next recount mends it, within a minute; again: who else writes to these keys?";
        report.find_in(pool, Harm::Limits, "drift", &what, hint);
    }
    if let Some(more) = audit
        .findings
        .len()
        .checked_sub(TOLD)
        .filter(|more| *more > 0)
    {
        let what = format!("{more} or more such entries besides");
        report.find_in(pool, Harm::Limits, "drift", &what, "");
    }
}

fn look_at_accounts(report: &mut Report, pool: &Pool) {
    let name = &pool.name;
    for account in &pool.accounts {
        if let Some(why) = account.out_of_use() {
            let what = format!("{} is {why}", account.id);
            let hint = format!(
                "its key and its credit at the provider; then slotgate cooldown clear {}",
                account.id
            );
            report.find_in(name, Harm::Requests, "disabled", &what, &hint);
        }
    }
    let can = |state: State| match state {
        State::Free
        | State::Behind
        | State::Full
        | State::Probe
        | State::Probing
        | State::Paced => true,
        State::Cooling | State::Disabled | State::Drained | State::Removed => false,
    };
    let rest = pool
        .accounts
        .iter()
        .filter(|account| !can(account.state))
        .count();
    if rest > 0 && rest == pool.accounts.len() {
        let what = "no account takes leases: all cool, are drained, disabled or removed";
        report.find_in(
            name,
            Harm::Requests,
            "no_account",
            what,
            &format!("slotgate status --pool {name}"),
        );
    }
    if pool.accounts.is_empty() {
        let what = "it has no account";
        report.find_in(
            name,
            Harm::Requests,
            "no_account",
            what,
            "slotgate account add, or accounts in the configuration",
        );
    }
    if pool.ignored {
        let what = "the percentage set by hand is none, and is ignored";
        report.find_in(
            name,
            Harm::Requests,
            "percent",
            what,
            "slotgate percent set or slotgate percent clear",
        );
    }
    if pool.waiting > 0 {
        let what = format!(
            "{} waiting, the first for {}",
            count(pool.waiting, "request"),
            duration(pool.longest_wait_ms)
        );
        report.find_in(
            name,
            Harm::Advice,
            "waiting",
            &what,
            "more accounts or slots; docs/queue.md, Which numbers",
        );
    }
}
