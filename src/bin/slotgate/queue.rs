//! A pool's queue in words: who waits, and the place of one of them.

use crate::problem::Problem;
use crate::server::Server;
use crate::show::{Cell, Lines};
use crate::words::{count, quoted, text as as_text};
use slotgate::config::Tenants;
use slotgate::ledger::keys;
use slotgate::ledger::view::{Pool, Tenant, duration};

/// How many tenants a table shows at most.
const MOST_TENANTS: usize = 10;
/// Of how many lines of a tenant the waiters are counted at most; it has one for each scope that cools.
const MOST_LINES: usize = 64;
/// Whoever has no tenant, as the keys have it.
const NOBODY: &str = "-";

/// `12 waiting, the first for 3.4 s`
fn waiting(number: u64, longest_wait_ms: u64) -> String {
    match number {
        0 => "none waiting".to_owned(),
        _ => format!(
            "{number} waiting, the first for {}",
            duration(longest_wait_ms)
        ),
    }
}

/// What `status` says of a pool's queue before it shows the accounts.
pub fn head(text: &mut Lines, pool: &Pool) {
    if pool.waiting > 0 {
        text.line(&waiting(pool.waiting, pool.longest_wait_ms));
    }
}

/// What it says behind them: a line for each tenant, at most `rows`; or a line about the one that was asked for.
pub fn tenants(text: &mut Lines, pool: &Pool, rows: Option<usize>, asked: Option<&str>) {
    if let (Some(value), [tenant]) = (asked, pool.tenants.as_slice()) {
        let what = waiting(tenant.waiting, tenant.longest_wait_ms);
        let leases = count(tenant.leases, "lease");
        let value = quoted(value);
        return text.line(&format!(
            "tenant {value} is {}: {leases}, {what}",
            tenant.name
        ));
    }
    if pool.tenants.is_empty() {
        return;
    }
    let mut lines = vec![
        ["tenant", "leases", "waiting", "the first for"]
            .map(Cell::from)
            .to_vec(),
    ];
    let most = rows.unwrap_or(MOST_TENANTS).min(MOST_TENANTS);
    for tenant in pool.tenants.iter().take(most) {
        let longest = match tenant.waiting {
            0 => String::new(),
            _ => duration(tenant.longest_wait_ms),
        };
        let numbers = [tenant.leases, tenant.waiting].map(|number| number.to_string());
        let [leases, waiting] = numbers.map(Cell::from);
        lines.push(vec![
            Cell::from(&tenant.name),
            leases,
            waiting,
            longest.into(),
        ]);
    }
    text.table(&lines);
    let rest = pool.tenants.len().saturating_sub(most);
    if rest > 0 {
        text.line(&format!("… and {rest} more"));
    }
}

/// Leaves of a pool's tenants only the one of this value, whether it is among those that are shown or not.
pub fn only(server: &mut Server, pool: &mut Pool, value: &str) -> Result<(), Problem> {
    let name = as_text(&Tenants::name(value.as_bytes()));
    let key = keys::key(&server.prefix, &pool.name, "tenants");
    let leases: Option<Vec<u8>> =
        server.ask_of(&pool.name, redis::cmd("HGET").arg(key).arg(&name))?;
    let leases = leases.and_then(|leases| as_text(&leases).parse().ok());
    let mut row = Tenant {
        name: name.clone(),
        leases: leases.unwrap_or(0),
        waiting: 0,
        longest_wait_ms: 0,
    };
    for (line, order) in lines(server, &pool.name, &name)? {
        let key = format!("w:{name}:{line}");
        let all = members(server, &pool.name, &format!("{key}:"), &format!("{key};"))?;
        row.waiting = row.waiting.saturating_add(all);
        row.longest_wait_ms = row.longest_wait_ms.max(waited_ms(pool.now_ms, &order));
    }
    pool.tenants = vec![row];
    Ok(())
}

/// For how long someone has waited. The order is when it came, in ns.
fn waited_ms(now_ms: u64, order: &str) -> u64 {
    let came_ns: u64 = order.parse().unwrap_or(u64::MAX);
    now_ms.saturating_sub(came_ns / 1_000_000)
}

/// The place of a request that waits.
#[derive(Debug)]
pub struct Place {
    /// How many of its tenant, or of all without one, came before it.
    pub ahead: u64,
    /// Its tenant.
    pub tenant: Option<String>,
    /// How many wait in the pool.
    pub waiting: u64,
}

impl Place {
    /// `12 ahead of it, 40 waiting in the pool`
    pub fn words(&self) -> String {
        let Self {
            ahead,
            tenant,
            waiting,
        } = self;
        let of = match tenant {
            Some(tenant) => format!(" of its tenant {tenant}"),
            None => String::new(),
        };
        format!("{ahead}{of} ahead of it, {waiting} waiting in the pool")
    }
}

/// The place of a lease that waits; `None`: it does not.
pub fn place(server: &mut Server, pool: &str, lease: &str) -> Result<Option<Place>, Problem> {
    let key = keys::key(&server.prefix, pool, "owner");
    let owner: Option<Vec<u8>> = server.ask_of(pool, redis::cmd("HGET").arg(key).arg(lease))?;
    let owner = owner.map(|owner| as_text(&owner)).unwrap_or_default();
    // `~<order> <line> …`, see `lua/queue.lua`.
    let order = owner
        .strip_prefix('~')
        .and_then(|rest| rest.split(' ').next());
    let Some(order) = order else {
        return Ok(None);
    };
    let tenant = lease.split_once('.').map(|(_, tenant)| tenant.to_owned());
    let name = tenant.as_deref().unwrap_or(NOBODY);
    let mut ahead = 0_u64;
    for (line, _) in lines(server, pool, name)? {
        let key = format!("w:{name}:{line}:");
        let before = members(server, pool, &key, &format!("{key}{order}:"))?;
        ahead = ahead.saturating_add(before);
    }
    let waiting = members(server, pool, "w:", "w;")?;
    Ok(Some(Place {
        ahead,
        tenant,
        waiting,
    }))
}

/// How many members of the queue stand between two others.
fn members(server: &mut Server, pool: &str, from: &str, to: &str) -> Result<u64, Problem> {
    let mut count = redis::cmd("ZLEXCOUNT");
    count.arg(keys::key(&server.prefix, pool, "queue"));
    count.arg(format!("[{from}")).arg(format!("({to}"));
    server.ask_of(pool, &count)
}

/// The lines of a tenant, and the order of the first waiter of each.
fn lines(server: &mut Server, pool: &str, tenant: &str) -> Result<Vec<(String, String)>, Problem> {
    let (mut from, to) = (format!("[w:{tenant}:"), format!("(w:{tenant};"));
    let mut found = Vec::new();
    while found.len() < MOST_LINES {
        let mut range = redis::cmd("ZRANGEBYLEX");
        range.arg(keys::key(&server.prefix, pool, "queue"));
        range.arg(&from).arg(&to).arg("LIMIT").arg(0).arg(1);
        let first: Vec<Vec<u8>> = server.ask_of(pool, &range)?;
        let Some(member) = first.first().map(|member| as_text(member)) else {
            break;
        };
        let mut parts = member.split(':').skip(2).map(str::to_owned);
        let (line, order) = (parts.next(), parts.next());
        let (line, order) = (line.unwrap_or_default(), order.unwrap_or_default());
        from = format!("[w:{tenant}:{line};");
        found.push((line, order));
    }
    Ok(found)
}
