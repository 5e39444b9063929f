//! Who waits in the model, and which hand-offs are right.

use super::ledger::{Model, SCOPES};
use super::steps::TENANTS;
use slotgate::config::{TenantLimits, Tenants};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What being served costs a tenant of weight 1, as in `queue.lua`.
const TURN: u64 = 100_000;

#[derive(Debug, Clone)]
pub struct Waiter {
    pub order: u64,
    pub scope: Option<usize>,
    pub bound: Option<String>,
    pub ttl_ms: u64,
    pub until_ms: u64,
    pub cookie: u64,
    pub channel: usize,
}

/// What was published.
#[derive(Debug, Clone)]
pub struct Grant {
    pub channel: usize,
    pub cookie: u64,
    pub lease: String,
    pub account: String,
    pub probes: bool,
    pub epoch: u64,
}

/// The tenant of a lease; -: none.
pub fn tenant(lease: &str) -> &str {
    lease.split_once('.').map_or("-", |(_, tenant)| tenant)
}

pub fn limits_of(tenant: &str) -> TenantLimits {
    let named = TENANTS
        .iter()
        .find(|(_, name, ..)| Tenants::name(name.as_bytes())[..] == *tenant.as_bytes());
    let (_, _, max_concurrency, max_waiting, weight) = *named.unwrap_or(&(0, "", 0, 0, 1));
    TenantLimits {
        max_concurrency,
        max_waiting,
        weight,
    }
}

/// What being served costs this tenant.
pub fn cost_of(tenant: &str) -> u64 {
    TURN / u64::from(limits_of(tenant).weight)
}

impl Model {
    pub fn held(&self, name: &str) -> u32 {
        self.leases
            .keys()
            .filter(|lease| tenant(lease) == name)
            .count() as u32
    }

    pub fn is_at_cap(&self, name: &str) -> bool {
        let cap = limits_of(name).max_concurrency;
        cap > 0 && self.held(name) >= cap
    }

    /// What a waiter could take now. `surely`: without what cools in its scope no longer, but was not cleared away.
    fn usable(&self, lease: &str, waiter: &Waiter, surely: bool) -> BTreeSet<String> {
        if waiter.until_ms <= self.now_ms || self.is_at_cap(tenant(lease)) {
            return BTreeSet::new();
        }
        let closed = |account: &String| {
            let member = waiter
                .scope
                .map(|scope| format!("scope:{}:{account}", SCOPES[scope]));
            let until = member.and_then(|member| self.cooldown.get(&member));
            until.is_some_and(|until| surely || *until > self.now_ms)
        };
        let free = self.free().into_keys();
        free.filter(|account| !closed(account)).collect()
    }

    /// Whether a slot is free that a waiter could take.
    fn owes(&self) -> bool {
        self.waiting
            .iter()
            .any(|(lease, waiter)| !self.usable(lease, waiter, true).is_empty())
    }

    fn place(&self, lease: &str, waiter: &Waiter) -> (u64, u64) {
        let tag = self.tags.get(tenant(lease)).copied().unwrap_or(0);
        (tag, waiter.order)
    }

    fn check(&self, grant: &Grant) -> Result<(), String> {
        let wrong = |what: String| Err(format!("{grant:?}: {what}"));
        let Some(waiter) = self.waiting.get(&grant.lease) else {
            return wrong("it does not wait".into());
        };
        let (_, _, epoch) = self.synced.ok_or("no pool")?;
        let said = (grant.channel, grant.cookie, grant.epoch);
        if said != (waiter.channel, waiter.cookie, epoch) {
            return wrong(format!("not for {waiter:?}"));
        }
        let open = self.usable(&grant.lease, waiter, false);
        let own = waiter.bound.iter();
        let mut own = own.filter(|bound| open.contains(*bound) && !self.is_behind(bound));
        let best = match own.next_back() {
            Some(bound) => [bound.clone()].into(),
            None => self.best(open),
        };
        if !best.contains(&grant.account) {
            return wrong(format!("it could use {best:?}"));
        }
        if grant.probes != self.wants_probe(&grant.account) {
            return wrong("that is no probe, or one".into());
        }
        let place = self.place(&grant.lease, waiter);
        for (lease, other) in &self.waiting {
            if self.place(lease, other) < place && !self.usable(lease, other, true).is_empty() {
                return wrong(format!("{lease} comes first: {other:?}"));
            }
            let own_line = tenant(lease) == tenant(&grant.lease) && lease != &grant.lease;
            if own_line && other.order < waiter.order && !self.usable(lease, other, true).is_empty()
            {
                return wrong(format!("{lease} comes first in its line: {other:?}"));
            }
        }
        Ok(())
    }

    /// Takes over hand-offs until nobody waits for what is free. `all`: also those that need not be, but may.
    pub fn serve(&mut self, grants: &mut VecDeque<Grant>, all: bool) -> Result<usize, String> {
        let mut served = 0;
        loop {
            let owes = self.owes();
            let Some(grant) = grants.front() else {
                return if owes {
                    Err("a slot is free, and someone waits for it".into())
                } else {
                    Ok(served)
                };
            };
            match self.check(grant) {
                Ok(()) if owes || all => {}
                Err(why) if owes => return Err(why),
                _ => return Ok(served),
            }
            let grant = grants.pop_front().expect("it was there");
            let waiter = self.waiting.remove(&grant.lease).expect("it waited");
            let name = tenant(&grant.lease);
            let tag = self.tags.entry(name.into()).or_insert(0);
            self.served_tag = self.served_tag.max(*tag);
            *tag += cost_of(name);
            if grant.probes {
                self.probes
                    .insert(grant.account.clone(), grant.lease.clone());
            }
            let expires_ms = self.now_ms + waiter.ttl_ms;
            let account = grant.account.clone();
            self.leases.insert(grant.lease, (grant.account, expires_ms));
            self.raise(&account, 1);
            self.meter(&account)?;
            served += 1;
        }
    }

    /// A tenant that begins to wait has no lower tag than the one that was served last.
    pub fn begin(&mut self, name: &str) {
        let tag = self.tags.entry(name.into()).or_insert(0);
        *tag = (*tag).max(self.served_tag);
    }

    /// Compares with who waits in Redis, how and in which turns. Those that are dead may be gone.
    pub fn compare_waiting(&mut self, found: &crate::pipe::State) -> Result<(), String> {
        let now_ms = self.now_ms;
        self.waiting
            .retain(|lease, waiter| waiter.until_ms > now_ms || found.waiting.contains_key(lease));
        super::ledger::same(
            &found.waiting.keys().collect::<Vec<_>>(),
            &self.waiting.keys().collect(),
        )?;
        let mut places = BTreeSet::new();
        let mut lines: BTreeMap<(String, String), (u64, String)> = BTreeMap::new();
        for (lease, (text, until_ms)) in &found.waiting {
            let waiter = &self.waiting[lease];
            let words: Vec<&str> = text.split(' ').collect();
            let scope = waiter.scope.map_or("-", |scope| SCOPES[scope]);
            let limits = limits_of(tenant(lease));
            let line = words.get(1).copied().unwrap_or("");
            if line != "-" && line != scope {
                return Err(format!(
                    "{lease} stands in line {line}, its scope is {scope}"
                ));
            }
            let expected = format!(
                "~{} {line} {scope} {} {} {} {} 200000 {} {}",
                waiter.order,
                waiter.bound.as_deref().unwrap_or("~"),
                limits.max_concurrency,
                limits.weight,
                waiter.ttl_ms,
                waiter.cookie,
                super::pair::CHANNELS[waiter.channel],
            );
            super::ledger::same(text, &expected)?;
            super::ledger::same(until_ms, &(waiter.until_ms as f64))?;
            let name = tenant(lease);
            places.insert(format!("w:{name}:{line}:{}:{lease}", waiter.order));
            let first = lines
                .entry((name.into(), line.into()))
                .or_insert((waiter.order, lease.clone()));
            let own = (waiter.order, lease.clone());
            if own < *first {
                *first = own;
            }
        }
        // All lines of a tenant have their turn, or none because it is at its cap.
        for ((name, line), (order, _)) in &lines {
            let tag = self.tags.get(name).copied().unwrap_or(0);
            let turn = format!("t:{line}:{tag:016}:{order}:{name}");
            if found.queue.contains(&turn) {
                places.insert(turn);
            } else if !self.is_at_cap(name) {
                return Err(format!("no turn {turn} in {:?}", found.queue));
            }
        }
        for name in lines.keys().map(|(name, _)| name) {
            let own = |prefix: &str| {
                places
                    .iter()
                    .filter(|place| {
                        place.starts_with(prefix) && place.ends_with(&format!(":{name}"))
                    })
                    .count()
            };
            let all = lines.keys().filter(|(other, _)| other == name).count();
            let turns = own("t:");
            if turns != 0 && turns != all {
                return Err(format!("{turns} of {all} turns of {name}"));
            }
        }
        super::ledger::same(
            &found.queue.iter().cloned().collect::<BTreeSet<_>>(),
            &places,
        )?;
        for name in lines.keys().map(|(name, _)| name) {
            let tag = found.tags.get(&format!("@{name}"));
            super::ledger::same(
                &tag.map_or("0", String::as_str),
                &self
                    .tags
                    .get(name)
                    .copied()
                    .unwrap_or(0)
                    .to_string()
                    .as_str(),
            )?;
        }
        let mark = found.meta.get("#queue").map(String::as_str);
        super::ledger::same(&mark, &(!places.is_empty()).then_some("1"))?;
        let mut held = BTreeMap::new();
        for lease in self.leases.keys().filter(|lease| tenant(lease) != "-") {
            *held.entry(tenant(lease).to_owned()).or_insert(0) += 1;
        }
        let held: BTreeMap<String, String> = held
            .into_iter()
            .map(|(name, count): (String, i32)| (name, count.to_string()))
            .collect();
        super::ledger::same(
            &(&found.tenants, found.owner.keys().collect::<Vec<_>>()),
            &(&held, self.leases.keys().collect()),
        )
    }
}
