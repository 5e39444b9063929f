//! The commands that change the ledger: `drain`, `undrain`, `cooldown clear`, `percent`, `unbind`; and `lease`, which finds a lease.

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::queue;
use crate::server::Server;
use crate::show::Lines;
use crate::words::{count, name, percent as as_percent, text};
use serde_json::{Value, json};
use slotgate::hash::hash128;
use slotgate::ledger::keys;
use slotgate::ledger::view::{duration, quoted};

/// One of control.lua's verbs on an account.
pub fn account(
    server: &mut Server,
    pool: &Option<String>,
    verb: &'static str,
    account: &str,
) -> Result<Answer, Problem> {
    name("account", account)?;
    let pool = server.one_pool(pool.as_deref())?;
    let (old, new) = server.control(&pool, verb, account, None)?;
    let changed = old != new;
    let place = format!("{account} of pool {pool}");
    let text = match (verb, changed) {
        ("drain", true) => {
            let used = keys::key(&server.prefix, &pool, "used");
            let used = server.ask_of(&pool, redis::cmd("HGET").arg(used).arg(account));
            let used: Option<Vec<u8>> = used.unwrap_or_default();
            // It is drained, whatever stands there.
            let left = match text(&used.unwrap_or_else(|| b"0".to_vec())).parse() {
                Ok(used) => count(used, "lease"),
                Err(_) => "its leases".to_owned(),
            };
            format!("{place} is drained: it takes no new leases; {left} will finish")
        }
        ("drain", false) => format!("{place} was drained already"),
        ("undrain", true) => format!("{place} is no longer drained"),
        ("undrain", false) => format!("{place} was not drained"),
        (_, true) => format!("{place} no longer cools"),
        (_, false) => format!("{place} was not cooling"),
    };
    let action = if verb == "thaw" {
        "cooldown_clear"
    } else {
        verb
    };
    Ok(Answer {
        text: Lines::of(&text),
        json: json!({"action": action, "pool": pool, "account": account, "changed": changed}),
        exit: Exit::Done,
    })
}

/// The percentage, of one pool or of all.
pub fn percent(
    server: &mut Server,
    pool: Option<&str>,
    all: bool,
    basis_points: Option<u16>,
) -> Result<Answer, Problem> {
    let pools = if all {
        server.some_pools(&[])?
    } else {
        vec![server.one_pool(pool)?]
    };
    let subject = basis_points.map(|set| set.to_string()).unwrap_or_default();
    let mut text = Lines::default();
    let mut changes = Vec::new();
    let mut problem = None;
    let alone = pools.len() == 1;
    for pool in pools {
        let old = match server.control(&pool, "percent", &subject, None) {
            Ok((old, _)) => old,
            Err(failed) if alone => return Err(failed),
            // The others follow all the same: it may be an emergency.
            Err(failed) => {
                let error = failed.named(&pool);
                text.line(&error);
                changes.push(json!({"pool": pool, "error": error}));
                problem.get_or_insert(failed);
                continue;
            }
        };
        let old = old.parse().ok().map(as_percent);
        let new = basis_points.map(as_percent);
        let said = |value: Option<f64>| match value {
            Some(value) => format!("{value} %"),
            None => "as configured".to_owned(),
        };
        text.line(&format!(
            "pool {pool}: gray {}, was {}",
            said(new),
            said(old)
        ));
        changes.push(json!({"pool": pool, "old": old, "new": new}));
    }
    let exit = match problem {
        Some(problem) if changes.iter().all(|change| change["error"].is_string()) => {
            return Err(problem);
        }
        Some(_) => Exit::Wrong,
        None => Exit::Done,
    };
    let action = if basis_points.is_some() {
        "percent_set"
    } else {
        "percent_clear"
    };
    Ok(Answer {
        text,
        json: json!({"action": action, "pools": changes}),
        exit,
    })
}

/// The percentage that an operator has set, of these pools or of all.
pub fn percent_set(server: &mut Server, named: &[String]) -> Result<Answer, Problem> {
    let mut text = Lines::default();
    let mut pools = Vec::new();
    let mut problem = None;
    for pool in server.some_pools(named)? {
        let control = keys::key(&server.prefix, &pool, "control");
        let asked = server.ask_of(&pool, redis::cmd("HGET").arg(control).arg("percent"));
        let set: Option<Vec<u8>> = match asked {
            Ok(set) => set,
            Err(failed) if failed.is_of_one_pool() => {
                let error = failed.named(&pool);
                text.line(&error);
                pools.push(json!({"pool": pool, "error": error}));
                problem.get_or_insert(failed);
                continue;
            }
            Err(failed) => return Err(failed),
        };
        let mut seen = slotgate::ledger::view::Pool::default();
        seen.set_percent(&set.unwrap_or_default());
        let percent = seen.percent.map(as_percent);
        text.line(&format!(
            "pool {pool}: gray {}",
            match percent {
                Some(percent) => format!("{percent} % by override"),
                None if seen.ignored =>
                    "by no override: Redis holds one that is no percentage".to_owned(),
                None => "as configured".to_owned(),
            }
        ));
        pools.push(json!({"pool": pool, "percent": percent}));
    }
    let exit = match problem {
        Some(problem) if pools.iter().all(|pool| pool["error"].is_string()) => return Err(problem),
        Some(_) => Exit::Wrong,
        None => Exit::Done,
    };
    Ok(Answer {
        text,
        json: json!({"action": "percent_get", "pools": pools}),
        exit,
    })
}

pub fn unbind(server: &mut Server, pool: Option<&str>, session: &str) -> Result<Answer, Problem> {
    let pool = server.one_pool(pool)?;
    let hash = hash128(session.as_bytes());
    let (old, _) = server.control(&pool, "unbind", "", Some(&hash))?;
    let bound = (!old.is_empty()).then_some(old);
    let session = quoted(session);
    let text = match &bound {
        Some(account) => format!(
            "session {session} is no longer bound to {account} of pool {pool}: its next lease binds it anew"
        ),
        None => format!("session {session} was not bound in pool {pool}"),
    };
    Ok(Answer {
        text: Lines::of(&text),
        json: json!({"action": "unbind", "pool": pool, "changed": bound.is_some(), "was": bound}),
        exit: Exit::Done,
    })
}

/// Which account a lease holds.
pub fn lease(server: &mut Server, pool: Option<&str>, id: &str) -> Result<Answer, Problem> {
    name("lease", id)?;
    let named: Vec<String> = pool.map(str::to_owned).into_iter().collect();
    let pools = server.some_pools(&named)?;
    let mut problem = None;
    for pool in &pools {
        let owner = keys::key(&server.prefix, pool, "owner");
        let owner: Option<Vec<u8>> =
            match server.ask_of(pool, redis::cmd("HGET").arg(owner).arg(id)) {
                Ok(owner) => owner,
                // Another pool may have it.
                Err(other) if other.is_of_one_pool() => {
                    problem.get_or_insert(other);
                    continue;
                }
                Err(other) => return Err(other),
            };
        let Some(owner) = owner else { continue };
        let place = queue::place(server, pool, id)?;
        let leases = keys::key(&server.prefix, pool, "leases");
        let expiry = server.ask_of(pool, redis::cmd("ZSCORE").arg(leases).arg(id));
        let expiry: Option<f64> = match expiry {
            Err(other) if !other.is_of_one_pool() => return Err(other),
            expiry => expiry.unwrap_or_default(),
        };
        let now_ms = server.now_ms()?;
        // Behind a colon stands a mark of the recount under way.
        let account = text(owner.split(|byte| *byte == b':').next().unwrap_or_default());
        let left_ms = expiry.map(|expiry| (expiry as u64).saturating_sub(now_ms));
        let when = match left_ms {
            Some(0) => "it has expired and is cleared away next".to_owned(),
            Some(left) => format!("it expires in {} unless it is renewed", duration(left)),
            None => "its expiry is lost; the next recount mends that".to_owned(),
        };
        let mut json = json!({
            "lease": id, "pool": pool, "account": account,
            "expires_ms": expiry.map_or(Value::Null, |expiry| json!(expiry as u64)),
            "left_ms": left_ms,
        });
        let text = match (&place, json.as_object_mut()) {
            (Some(place), Some(fields)) => {
                fields.insert("account".to_owned(), Value::Null);
                fields.insert("ahead".to_owned(), json!(place.ahead));
                let words = place.words();
                format!("lease {id} waits for a slot of pool {pool}: {words}")
            }
            (_, _) => format!("lease {id} holds a slot of {account} of pool {pool}; {when}"),
        };
        return Ok(Answer {
            text: Lines::of(&text),
            json,
            exit: Exit::Done,
        });
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    let place = if pools.len() == 1 { "pool" } else { "pools" };
    Err(Problem::new(
        Exit::Wrong,
        "no_lease",
        format!("no lease {id} in {place} {}", pools.join(", ")),
    )
    .hint("its request may be over, or it was never granted: Envoy's log at wasm:debug tells"))
}
