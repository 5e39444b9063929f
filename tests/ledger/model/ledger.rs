//! What the ledger should hold, and what each command should do to it.

use super::adaptive::Limit;
use super::operator::{Own, Set};
use super::pace::Bucket;
use super::queue::{Grant, Waiter, limits_of, tenant};
use super::steps::{ACCOUNTS, Ask, Item, Listed, Way};
use crate::pipe::Answer;
use slotgate::ledger::commands::{Acquired, Order, Renewed, Synced, acquired};
use slotgate::ledger::fault::Fault;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const LOAD: u64 = 300_000;

/// A call whose seed is a multiple of this also reaps, as `acquire.lua` says.
const SHARED_BY: u32 = 4;

/// As in `ledger.lua`.
const BEHIND: u64 = 1 << 52;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub max: u32,
    pub base: u64,
    pub disabled: bool,
    pub drained: bool,
    pub cooling: bool,
    pub removed: bool,
    pub behind: bool,
}

impl Account {
    pub fn base(&self) -> u64 {
        self.base + if self.behind { BEHIND } else { 0 }
    }

    pub fn flags(&self) -> u32 {
        u32::from(self.disabled)
            + 2 * u32::from(self.drained)
            + 4 * u32::from(self.cooling)
            + 8 * u32::from(self.removed)
    }
}

/// What the ledger should hold.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub now_ms: u64,
    /// Revision, digest, epoch.
    pub synced: Option<(u64, u64, u64)>,
    pub accounts: BTreeMap<String, Account>,
    pub leases: BTreeMap<String, (String, u64)>,
    /// By account, `behind:` and the account, or `scope:`, the scope and the account.
    pub cooldown: BTreeMap<String, u64>,
    /// Account → its last probe; empty: none yet.
    pub probes: BTreeMap<String, String>,
    /// Account → what took it out of use, since when, until when (0: no end).
    pub off: BTreeMap<String, (String, u64, u64)>,
    pub scopes: BTreeMap<usize, BTreeMap<String, u64>>,
    /// Account, until when, and whether it came back: then it is written again only when it must be.
    pub sessions: BTreeMap<usize, (String, u64, bool)>,
    pub drained: BTreeSet<String>,
    /// Whether the accounts are the operators'.
    pub ledgers: bool,
    /// What operators have set, and what holds without it.
    pub roster: BTreeMap<String, (Set, Own)>,
    pub paces: BTreeMap<String, Bucket>,
    /// How low limits may fall that adapt; 0: none does.
    pub adaptive: u32,
    pub limits: BTreeMap<String, Limit>,
    pub percent: Option<u16>,
    /// Who runs the reconcile passes, and until when alone.
    pub runner: Option<(bool, u64)>,
    pub waiting: BTreeMap<String, Waiter>,
    /// Where each tenant stands in the queue's order, and where the last one stood that was served.
    pub tags: BTreeMap<String, u64>,
    pub served_tag: u64,
}

impl Model {
    pub fn used(&self, account: &str) -> u32 {
        self.leases
            .values()
            .filter(|(owner, _)| owner == account)
            .count() as u32
    }

    /// Whether it has cooled and its probe, if any, is over.
    pub fn wants_probe(&self, id: &str) -> bool {
        self.accounts.get(id).is_some_and(|a| a.flags() == 4)
            && !self.cooldown.contains_key(id)
            && self.probes.contains_key(id)
            && !self.is_probed(id)
    }

    pub fn is_probed(&self, id: &str) -> bool {
        let probe = self.probes.get(id).and_then(|probe| self.leases.get(probe));
        probe.is_some_and(|(owner, _)| owner == id)
    }

    pub fn free(&self) -> BTreeMap<String, u64> {
        self.accounts
            .iter()
            .filter(|(id, account)| {
                (account.flags() == 0 || self.wants_probe(id)) && self.used(id) < account.max
            })
            .map(|(id, account)| {
                (
                    id.clone(),
                    account.base() + LOAD * u64::from(self.used(id)) / u64::from(account.max),
                )
            })
            .collect()
    }

    pub fn shut(&self, scope: Option<usize>) -> BTreeSet<String> {
        let cooling = scope
            .and_then(|scope| self.scopes.get(&scope))
            .into_iter()
            .flatten();
        cooling
            .filter(|(_, until)| **until > self.now_ms)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Ends these leases, whoever asks. How many of them held a slot.
    pub fn end<'a>(&mut self, leases: impl Iterator<Item = &'a str> + Clone) -> u64 {
        let mut tenants: BTreeSet<&str> = leases.clone().map(tenant).collect();
        tenants.retain(|name| self.is_at_cap(name));
        let ended = leases.filter(|lease| self.drop_lease(lease)).count();
        for name in tenants {
            if !self.is_at_cap(name) {
                self.begin(name);
            }
        }
        ended as u64
    }

    /// Whether it held a slot.
    fn drop_lease(&mut self, lease: &str) -> bool {
        self.waiting.remove(lease);
        let Some((account, _)) = self.leases.remove(lease) else {
            return false;
        };
        if self.accounts.get(&account).is_some_and(|a| a.removed) && self.used(&account) == 0 {
            self.accounts.remove(&account);
        }
        true
    }

    pub fn reap(&mut self) {
        let over: Vec<String> = self
            .leases
            .iter()
            .filter(|(_, (_, expiry))| *expiry <= self.now_ms)
            .map(|(id, _)| id.clone())
            .collect();
        let now_ms = self.now_ms;
        self.waiting.retain(|_, waiter| waiter.until_ms > now_ms);
        self.end(over.iter().map(String::as_str));
    }

    pub fn thaw(&mut self) {
        let over: Vec<String> = self
            .cooldown
            .iter()
            .filter(|(_, until)| **until <= self.now_ms)
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.cooldown.remove(&id);
            if let Some(behind) = id.strip_prefix("behind:") {
                if let Some(account) = self.accounts.get_mut(behind) {
                    account.behind = false;
                }
            } else if let Some(account) = self.accounts.get_mut(&id) {
                account.cooling = self.probes.contains_key(&id);
            }
        }
    }

    pub fn is_behind(&self, id: &str) -> bool {
        self.accounts.get(id).is_some_and(|account| account.behind)
    }

    /// Those that a choice may fall on: one that is behind only when all are.
    pub fn best(&self, open: BTreeSet<String>) -> BTreeSet<String> {
        let (behind, before): (BTreeSet<_>, BTreeSet<_>) =
            open.into_iter().partition(|id| self.is_behind(id));
        if before.is_empty() { behind } else { before }
    }

    pub fn open(&self, shut: &BTreeSet<String>) -> BTreeSet<String> {
        self.free()
            .into_keys()
            .filter(|id| !shut.contains(id))
            .collect()
    }

    /// Those that an item's choice may fall on, and whether its session is bound to what is chosen.
    pub fn candidates(&self, ask: &Ask, item: Item) -> (BTreeSet<String>, bool) {
        let mut shut = self.shut(ask.scopes.then_some(item.scope));
        shut.extend(ask.tried.iter().map(|at| ACCOUNTS[*at].to_owned()));
        let open = self.open(&shut);
        let bound = self
            .sessions
            .get(&item.session)
            .filter(|(_, until, _)| ask.sessions && *until > self.now_ms);
        let mut rebind = ask.sessions;
        if let Some((bound, ..)) = bound {
            let others = open.iter().any(|id| !self.is_behind(id));
            if open.contains(bound) && !(self.is_behind(bound) && others) {
                return ([bound.clone()].into(), rebind);
            }
            let stays = |account: &Account| matches!(account.flags(), 0 | 4);
            if self.free().contains_key(bound) || self.accounts.get(bound).is_some_and(stays) {
                rebind = false;
            }
        }
        (self.best(open), rebind)
    }

    /// Takes over the choice that an answer tells, if it may be so.
    pub fn take(&mut self, lease: &str, ttl_ms: u64, answer: &Answer) -> Result<String, String> {
        let (account, probes) = match answer {
            Answer::Granted(account) => (account, false),
            Answer::Probes(account) => (account, true),
            other => return Err(format!("{other:?}")),
        };
        same(&probes, &self.wants_probe(account))?;
        if probes {
            self.probes.insert(account.clone(), lease.into());
        }
        let expires_ms = self.now_ms + ttl_ms;
        self.leases
            .insert(lease.into(), (account.clone(), expires_ms));
        self.meter(account)?;
        Ok(account.clone())
    }

    /// Checks an acquire's answers and takes them over: which of several accounts is Redis' choice.
    pub fn acquire(
        &mut self,
        leases: &[String],
        ask: &Ask,
        answers: &Result<Vec<Answer>, Fault>,
        grants: &mut VecDeque<Grant>,
        orders: &BTreeMap<String, u64>,
    ) -> Result<(), String> {
        // A hand-off that may but need not be was made before the choice or after it. One that the end of a cooldown brings
        // about reaps, which only the second of these does, so that comes first.
        let (before, all) = (self.clone(), grants.clone());
        let result = self.acquire_as(leases, ask, answers, grants, orders, false);
        let left = std::mem::replace(grants, all);
        if result.is_ok() && left.is_empty() || grants.is_empty() {
            *grants = left;
            return result;
        }
        *self = before;
        match self.acquire_as(leases, ask, answers, grants, orders, true) {
            Err(other) => Err(match result {
                Err(first) => format!("{first}; or {other}"),
                Ok(()) => other,
            }),
            Ok(()) => Ok(()),
        }
    }

    fn acquire_as(
        &mut self,
        leases: &[String],
        ask: &Ask,
        answers: &Result<Vec<Answer>, Fault>,
        grants: &mut VecDeque<Grant>,
        orders: &BTreeMap<String, u64>,
        eager: bool,
    ) -> Result<(), String> {
        let (dry, join) = (ask.way == Way::Dry, ask.way == Way::Join);
        let asks_again = join && leases.iter().any(|lease| self.waiting.contains_key(lease));
        if join {
            for lease in leases {
                if let Some(waiter) = self.waiting.get_mut(lease) {
                    waiter.until_ms = self.now_ms + ask.wait.vouched_ms;
                }
            }
        }
        if !dry {
            if asks_again || ((ask.seed >> 1) % SHARED_BY) < leases.len() as u32 {
                self.reap();
            }
            self.serve(grants, eager || asks_again)?;
        }
        if self.synced.is_none() {
            return same(answers, &Err(Fault::NoPool));
        }
        let Ok(answers) = answers else {
            return Err(format!("{answers:?}"));
        };
        let mut call = Call {
            leases,
            ask,
            answers,
            undecided: (0..leases.len()).collect(),
            held: BTreeMap::new(),
            waits: BTreeSet::new(),
            capped: BTreeSet::new(),
            written: BTreeMap::new(),
            taken: BTreeMap::new(),
        };
        let sessions_before = self.sessions.clone();
        if ask.way == Way::Force {
            self.thaw();
            if self.serve(grants, true)? > 0 {
                self.reap();
                self.serve(grants, true)?;
            }
        } else if !dry {
            let (mut later, mut more) = (self.clone(), grants.clone());
            later.thaw();
            if later.serve(&mut more, true)? > 0 {
                // All choose anew.
                (*self, *grants) = (later, more);
                self.reap();
                self.serve(grants, true)?;
            }
        }
        let before = self.clone();
        let first = self.choose(&mut call);
        if !dry {
            self.thaw();
        }
        if !dry && (first.is_err() || !call.undecided.is_empty()) {
            let (mut anew, mut more) = (before, grants.clone());
            anew.thaw();
            anew.reap();
            if anew.serve(&mut more, true)? > 0 {
                // Whatever was chosen, all choose anew.
                (*self, *grants) = (anew, more);
                call.undecided = (0..leases.len()).collect();
                call.written.clear();
                call.taken.clear();
            } else {
                first?;
                self.reap();
                call.undecided.extend(call.held.keys().copied());
                call.undecided.append(&mut call.waits);
            }
            call.held.clear();
            call.waits.clear();
            call.capped.clear();
            self.choose(&mut call)?;
        } else {
            first?;
        }
        for (id, leases) in &call.taken {
            self.raise(id, *leases);
        }
        if !call.taken.is_empty() {
            self.serve(grants, true)?;
        }
        if join {
            self.join(&call, &sessions_before, grants, orders)?;
        } else {
            for i in &call.waits {
                same(&answers[*i], &Answer::Saturated(1_000))?;
            }
            for i in &call.undecided {
                let Answer::Saturated(1..=60_000) = answers[*i] else {
                    return Err(format!("{i}: {:?}, nothing was open", answers[*i]));
                };
            }
        }
        for (i, owner) in &call.held {
            let probes = self.probes.get(owner) == Some(&leases[*i]);
            let answer = if probes {
                Answer::Probes
            } else {
                Answer::Granted
            };
            same(&answers[*i], &answer(owner.clone()))?;
            if join && ask.sessions {
                self.bind(
                    owner,
                    ask.items[*i].session,
                    &sessions_before,
                    &mut call.written,
                );
            }
        }
        Ok(())
    }

    /// One try of those that are undecided.
    fn choose(&mut self, call: &mut Call) -> Result<(), String> {
        let ask = call.ask;
        let (dry, join) = (ask.way == Way::Dry, ask.way == Way::Join);
        let before = self.leases.clone();
        for (i, item) in ask.items.iter().enumerate() {
            if !call.undecided.contains(&i) {
                continue;
            }
            let (lease, answer) = (&call.leases[i], &call.answers[i]);
            if let Some((owner, _)) = before.get(lease).filter(|_| !dry) {
                call.held.insert(i, owner.clone());
                call.undecided.remove(&i);
            } else if !dry && self.waiting.contains_key(lease) {
                call.waits.insert(i);
                call.undecided.remove(&i);
            } else if ask.way == Way::Force {
                let account = ACCOUNTS[item.account];
                call.undecided.remove(&i);
                // Whatever its pace.
                self.excuse(account);
                if !self.accounts.contains_key(account) {
                    same(answer, &Answer::NoAccount)?;
                } else {
                    let taken = self.take(lease, ask.ttl_ms, answer)?;
                    same(&taken.as_str(), &account)?;
                    *call.taken.entry(taken).or_insert(0) += 1;
                    self.excuse(account);
                }
            } else if join && self.is_at_cap(tenant(lease)) {
                call.capped.insert(i);
            } else {
                let (mut open, rebind) = self.candidates(ask, *item);
                if dry && open.is_empty() {
                    let mut later = self.clone();
                    later.reap();
                    later.thaw();
                    open = later.open(&self.shut(ask.scopes.then_some(item.scope)));
                }
                if open.is_empty() {
                    continue;
                }
                call.undecided.remove(&i);
                let account = if dry {
                    let Answer::Granted(account) = answer else {
                        return Err(format!("{answer:?}, open were {open:?}"));
                    };
                    account.clone()
                } else {
                    self.take(lease, ask.ttl_ms, answer)
                        .map_err(|error| format!("{i}: {error}, open were {open:?}"))?
                };
                if !open.contains(&account) {
                    return Err(format!("{i}: {account}, open were {open:?}"));
                }
                if !dry {
                    *call.taken.entry(account.clone()).or_insert(0) += 1;
                }
                if rebind && !dry {
                    self.remember(account, item.session, &mut call.written);
                }
            }
        }
        Ok(())
    }

    /// A session's account is written, unless what stands there does as well.
    fn remember(&mut self, account: String, session: usize, written: &mut BTreeMap<usize, String>) {
        let until = self.now_ms + SESSION_MS + SESSION_MS / 16;
        let old = self.sessions.get(&session);
        let old = old.filter(|(_, until, _)| *until > self.now_ms);
        let lasts = |(id, until, back): &(String, u64, bool)| {
            let long = *back && *until >= self.now_ms + SESSION_MS;
            *id == account && (long || written.contains_key(&session))
        };
        if !old.is_some_and(lasts) {
            let back = old.is_some();
            self.sessions
                .insert(session, (account.clone(), until, back));
        }
        written.insert(session, account);
    }

    /// What becomes of the session of a lease that is held, when it asks once more.
    fn bind(
        &mut self,
        account: &str,
        session: usize,
        before: &BTreeMap<usize, (String, u64, bool)>,
        written: &mut BTreeMap<usize, String>,
    ) {
        let bound = before.get(&session);
        let bound = bound.filter(|(_, until, _)| *until > self.now_ms);
        let bound = written
            .get(&session)
            .or(bound.map(|(bound, ..)| bound))
            .cloned();
        let stays = |id: &String| {
            let flags = self.accounts.get(id).map(Account::flags);
            *id != account && matches!(flags, Some(0 | 4))
        };
        if !bound.as_ref().is_some_and(stays) {
            self.remember(account.into(), session, written);
        }
    }

    /// Those that got no slot wait, if they may.
    fn join(
        &mut self,
        call: &Call,
        sessions: &BTreeMap<usize, (String, u64, bool)>,
        grants: &mut VecDeque<Grant>,
        orders: &BTreeMap<String, u64>,
    ) -> Result<(), String> {
        let (ask, wait) = (call.ask, call.ask.wait);
        for i in &call.waits {
            let order = self.waiting[&call.leases[*i]].order;
            same(&call.answers[*i], &waits(order)?)?;
        }
        let mut joined = BTreeSet::new();
        let free = self.free();
        for i in &call.undecided {
            let (lease, answer, item) = (&call.leases[*i], &call.answers[*i], ask.items[*i]);
            let name = tenant(lease);
            let own = self.waiting.keys().filter(|lease| tenant(lease) == name);
            let (most, own) = (limits_of(name).max_waiting, own.count());
            let place = orders.get(lease).copied().filter(|_| wait.in_order);
            let full = self.waiting.len() >= wait.most as usize
                || name != "-" && most > 0 && own >= most as usize;
            let may_be_given_tried = ask.tried.iter().any(|at| free.contains_key(ACCOUNTS[*at]));
            let refused = if wait.most == 0 || may_be_given_tried {
                Some(call.capped.contains(i))
            } else {
                (place.is_none() && full).then_some(false)
            };
            if let Some(capped) = refused {
                let right = match answer {
                    Answer::TenantFull(1..=300_000) => capped,
                    Answer::Saturated(1..=300_000) => {
                        (wait.most == 0 || may_be_given_tried) && !capped
                    }
                    Answer::QueueFull(1..=300_000) => wait.most > 0 && !may_be_given_tried,
                    _ => false,
                };
                if !right {
                    return Err(format!("{i}: {answer:?}, capped {capped}"));
                }
                continue;
            }
            let bound = sessions
                .get(&item.session)
                .filter(|(_, until, _)| ask.sessions && *until > self.now_ms)
                .map(|(bound, ..)| bound.clone());
            let waiter = Waiter {
                order: place.unwrap_or(self.now_ms * 1_000_000 + *i as u64),
                scope: ask.scopes.then_some(item.scope),
                bound,
                ttl_ms: ask.ttl_ms,
                until_ms: self.now_ms + wait.vouched_ms,
                cookie: item.lease as u64,
                channel: wait.channel,
            };
            if !self.waiting.keys().any(|lease| tenant(lease) == name) {
                self.begin(name);
            }
            self.waiting.insert(lease.clone(), waiter);
            joined.insert(*i);
        }
        if joined.is_empty() {
            return Ok(());
        }
        let orders: Vec<(usize, u64)> = joined
            .into_iter()
            .map(|i| (i, self.waiting[&call.leases[i]].order))
            .collect();
        self.serve(grants, true)?;
        for (i, order) in orders {
            let (lease, answer) = (&call.leases[i], &call.answers[i]);
            let expected = match self.leases.get(lease) {
                Some((account, _)) if self.probes.get(account) == Some(lease) => {
                    Answer::Probes(account.clone())
                }
                Some((account, _)) => Answer::Granted(account.clone()),
                None => waits(order)?,
            };
            same(answer, &expected)?;
        }
        Ok(())
    }

    pub fn renew(
        &mut self,
        leases: &[(String, String, u64)],
        ttl_ms: u64,
    ) -> Result<Vec<Renewed>, Fault> {
        let Some((_, _, epoch)) = self.synced else {
            return Err(Fault::NoPool);
        };
        let owner = |model: &Self, lease: &str| {
            let held = model.leases.get(lease).map(|(owner, _)| owner.clone());
            held.or(model.waiting.get(lease).map(|_| "~".into()))
        };
        let right: Vec<bool> = leases
            .iter()
            .map(|(lease, account, _)| owner(self, lease).as_ref() == Some(account))
            .collect();
        let expiry = self.now_ms + ttl_ms;
        let (mut answers, mut lost) = (Vec::new(), Vec::new());
        for ((lease, account, claimed), right) in leases.iter().zip(right) {
            if right {
                self.leases.get_mut(lease).unwrap().1 = expiry;
                answers.push(Renewed::Renewed);
            } else if lost.contains(lease) {
                answers.push(Renewed::Lost);
            } else if owner(self, lease).as_ref() == Some(account) {
                answers.push(Renewed::Readopted);
            } else if self.accounts.contains_key(account)
                && (*claimed != epoch || self.used(account) < self.accounts[account].max)
            {
                // Wherever it was.
                let before = self.leases.get(lease).map(|(before, _)| before.clone());
                self.waiting.remove(lease);
                self.leases.insert(lease.clone(), (account.clone(), expiry));
                let is_removed = |id: &String| self.accounts.get(id).is_some_and(|a| a.removed);
                if let Some(before) = before.filter(is_removed)
                    && self.used(&before) == 0
                {
                    self.accounts.remove(&before);
                }
                answers.push(Renewed::Readopted);
            } else {
                // One that is gone may still be taken up when it stands twice in one batch.
                lost.extend(owner(self, lease).map(|_| lease.clone()));
                answers.push(Renewed::Lost);
            }
        }
        self.end(lost.iter().map(String::as_str));
        Ok(answers)
    }

    pub fn sync(
        &mut self,
        revision: u64,
        digest: u64,
        epoch: u64,
        accounts: &[Listed],
        (ledgers, adaptive): (bool, u32),
    ) -> Synced {
        if let Some((in_force, held, _)) = self.synced {
            if in_force > revision {
                return Synced::Newer(in_force);
            }
            if in_force == revision {
                return if held == digest {
                    Synced::Current
                } else {
                    Synced::Differs
                };
            }
        }
        // What is there stays, where the accounts are the operators'.
        if !ledgers || self.synced.is_none() {
            if accounts.iter().all(|listed| listed.max == 0) {
                return Synced::Wanted;
            }
            self.adaptive = adaptive;
            self.put_all_in(accounts);
        }
        self.adaptive = adaptive;
        self.ledgers = ledgers;
        let epoch = self.synced.map_or(epoch, |(_, _, epoch)| epoch);
        self.synced = Some((revision, digest, epoch));
        Synced::Replaced
    }

    fn put_all_in(&mut self, accounts: &[Listed]) {
        if self.ledgers {
            self.roster.clear();
        }
        let old: Vec<String> = self.accounts.keys().cloned().collect();
        let mut put = BTreeSet::new();
        for (id, listed) in ACCOUNTS.iter().zip(accounts) {
            if listed.max > 0 {
                let own = Own {
                    max: listed.max,
                    base: listed.base,
                    disabled: !listed.enabled,
                    pace: listed.pace,
                };
                put.insert(*id);
                self.put_in(id, own);
            }
        }
        for id in old.iter().filter(|id| !put.contains(id.as_str())) {
            self.take_away(id);
        }
    }

    pub fn cool(
        &mut self,
        account: &str,
        length_ms: u64,
        scope: Option<usize>,
    ) -> Result<u64, Fault> {
        let Some(record) = self.accounts.get_mut(account) else {
            return Err(Fault::NoAccount);
        };
        let now_ms = self.now_ms;
        let cooling = match scope {
            None => {
                record.cooling = true;
                &mut self.cooldown
            }
            Some(scope) => self.scopes.entry(scope).or_default(),
        };
        let until = cooling.entry(account.into()).or_insert(0);
        *until = (*until).max(now_ms + length_ms);
        let until = *until;
        if let Some(scope) = scope {
            self.cooldown
                .insert(format!("scope:{}:{account}", SCOPES[scope]), until);
        }
        Ok(until - now_ms)
    }

    pub fn cool_then_probe(&mut self, account: &str, length_ms: u64) -> Result<u64, Fault> {
        let left_ms = self.cool(account, length_ms, None)?;
        if !self.accounts[account].removed {
            self.probes.insert(account.into(), String::new());
        }
        Ok(left_ms)
    }

    pub fn is_off_for_good(&self, account: &str) -> bool {
        let off = self.off.get(account);
        off.is_some_and(|(_, _, until)| *until == 0)
    }

    pub fn disable(&mut self, account: &str, length_ms: u64, why: &str) -> Result<u64, Fault> {
        let now_ms = self.now_ms;
        let cools = self.cooldown.contains_key(account) && !self.is_out_of_pace(account);
        let record = self.accounts.get_mut(account).ok_or(Fault::NoAccount)?;
        if record.removed || record.disabled {
            return Ok(0);
        }
        let held = self.off.get(account).map(|(_, since, _)| *since);
        let changed = match held {
            None => 1,
            Some(_) if length_ms == 0 || !cools => 2,
            Some(_) => 0,
        };
        record.disabled = length_ms == 0;
        let until = if length_ms == 0 {
            0
        } else {
            now_ms + length_ms
        };
        let off = (why.to_owned(), held.unwrap_or(now_ms), until);
        self.off.insert(account.into(), off);
        if length_ms > 0 {
            self.cool_then_probe(account, length_ms)?;
        }
        Ok(changed)
    }

    pub fn put_behind(&mut self, account: &str, length_ms: u64) -> Result<u64, Fault> {
        let record = self.accounts.get_mut(account).ok_or(Fault::NoAccount)?;
        record.behind = true;
        let until = self
            .cooldown
            .entry(format!("behind:{account}"))
            .or_insert(0);
        *until = (*until).max(self.now_ms + length_ms);
        Ok(*until - self.now_ms)
    }

    pub fn passed(&mut self, account: &str, lease: &str) -> Result<u64, Fault> {
        let is_paced = self.is_out_of_pace(account);
        let record = self.accounts.get_mut(account).ok_or(Fault::NoAccount)?;
        let is_probe = self.probes.get(account).is_some_and(|probe| probe == lease);
        if !is_probe || self.cooldown.contains_key(account) && !is_paced {
            return Ok(0);
        }
        self.probes.remove(account);
        record.cooling = is_paced;
        if !self.is_off_for_good(account) {
            self.off.remove(account);
        }
        Ok(1)
    }

    pub fn operate(&mut self, verb: &str, account: &str) -> Result<(String, String), Fault> {
        let drained = self.drained.contains(account);
        let known = self.accounts.contains_key(account) || verb == "undrain" && drained;
        if !known {
            return Err(Fault::NoAccount);
        }
        let word = |on: bool| if on { "1".to_string() } else { String::new() };
        let cooled = (verb == "thaw").then(|| self.let_go(account)).flatten();
        let record = self.accounts.get_mut(account);
        match verb {
            "thaw" => {
                let behind = self.cooldown.remove(&format!("behind:{account}"));
                let off = self.off.remove(account);
                let probed = self.probes.remove(account).map(|_| 0);
                if let Some(record) = record {
                    record.disabled &= off.as_ref().is_none_or(|(_, _, until)| *until > 0);
                    record.cooling = false;
                    record.behind = false;
                }
                let old = cooled.or(behind).or(probed).or(off.map(|_| 0));
                Ok((
                    old.map_or(String::new(), |until| until.to_string()),
                    String::new(),
                ))
            }
            _ => {
                let on = verb == "drain";
                if on {
                    self.drained.insert(account.into());
                } else {
                    self.drained.remove(account);
                }
                if let Some(record) = record {
                    record.drained = on;
                }
                Ok((word(drained), word(on)))
            }
        }
    }
}

/// An acquire that is being checked.
struct Call<'a> {
    leases: &'a [String],
    ask: &'a Ask,
    answers: &'a [Answer],
    undecided: BTreeSet<usize>,
    held: BTreeMap<usize, String>,
    /// Those that waited before.
    waits: BTreeSet<usize>,
    /// Those whose tenant was at its cap.
    capped: BTreeSet<usize>,
    /// What this call has bound sessions to.
    written: BTreeMap<usize, String>,
    /// How many leases of each account it has taken.
    taken: BTreeMap<String, u32>,
}

fn waits(order: u64) -> Result<Answer, String> {
    Ok(Answer::Waits(order_of(order)?))
}

/// As the ledger says it.
pub fn order_of(order: u64) -> Result<Order, String> {
    let reply = format!("*2\r\n:1\r\n$24\r\n~{order} 1 0\r\n");
    let (_, mut answers) = acquired(reply.as_bytes(), 1).map_err(|fault| format!("{fault:?}"))?;
    match answers.next() {
        Some(Acquired::Waits { order, .. }) => Ok(order),
        other => Err(format!("{other:?}")),
    }
}

pub const SESSION_MS: u64 = 60_000;

/// The hashes of the scopes, in hex.
pub const SCOPES: [&str; 2] = [
    "08080808080808080808080808080808",
    "09090909090909090909090909090909",
];

pub fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?} instead of {expected:?}"))
    }
}
