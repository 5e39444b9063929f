//! What the ledger should hold, and what each command should do to it.

use super::steps::{ACCOUNTS, Ask, Item, Way};
use crate::pipe::Answer;
use slotgate::ledger::commands::{Renewed, Synced};
use slotgate::ledger::fault::Fault;
use std::collections::{BTreeMap, BTreeSet};

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
    /// By account, or `behind:` and the account.
    pub cooldown: BTreeMap<String, u64>,
    /// Account → its last probe; empty: none yet.
    pub probes: BTreeMap<String, String>,
    pub scopes: BTreeMap<usize, BTreeMap<String, u64>>,
    /// Account, until when, and whether it came back: then it is written again only when it must be.
    pub sessions: BTreeMap<usize, (String, u64, bool)>,
    pub drained: BTreeSet<String>,
    pub percent: Option<u16>,
    /// Who runs the reconcile passes, and until when alone.
    pub runner: Option<(bool, u64)>,
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

    pub fn drop_lease(&mut self, lease: &str) -> bool {
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
        for lease in over {
            self.drop_lease(&lease);
        }
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
        let shut = self.shut(ask.scopes.then_some(item.scope));
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
        Ok(account.clone())
    }

    /// Checks an acquire's answers and takes them over: which of several accounts is Redis' choice.
    pub fn acquire(
        &mut self,
        leases: &[String],
        ask: &Ask,
        answers: &Result<Vec<Answer>, Fault>,
    ) -> Result<(), String> {
        // Sessions that this call has bound already.
        let mut written = BTreeSet::new();
        let dry = ask.way == Way::Dry;
        if !dry && ((ask.seed >> 1) % SHARED_BY) < leases.len() as u32 {
            self.reap();
        }
        if self.synced.is_none() {
            return same(answers, &Err(Fault::NoPool));
        }
        let Ok(answers) = answers else {
            return Err(format!("{answers:?}"));
        };
        if ask.way == Way::Force {
            self.thaw();
        }
        let mut undecided: BTreeSet<usize> = (0..leases.len()).collect();
        let mut held = BTreeMap::new();
        for again in [false, true] {
            if again {
                if dry {
                    break;
                }
                self.thaw();
                if undecided.is_empty() {
                    break;
                }
                self.reap();
                undecided.extend(held.keys().copied());
                held.clear();
            }
            let before = self.leases.clone();
            for (i, item) in ask.items.iter().enumerate() {
                if !undecided.contains(&i) {
                    continue;
                }
                let (lease, answer) = (&leases[i], &answers[i]);
                if let Some((owner, _)) = before.get(lease).filter(|_| !dry) {
                    held.insert(i, owner.clone());
                    undecided.remove(&i);
                } else if ask.way == Way::Force {
                    let account = ACCOUNTS[item.account];
                    undecided.remove(&i);
                    if !self.accounts.contains_key(account) {
                        same(answer, &Answer::NoAccount)?;
                    } else {
                        let taken = self.take(lease, ask.ttl_ms, answer)?;
                        same(&taken.as_str(), &account)?;
                    }
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
                    undecided.remove(&i);
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
                    if rebind && !dry {
                        let until = self.now_ms + SESSION_MS + SESSION_MS / 16;
                        let old = self.sessions.get(&item.session);
                        let old = old.filter(|(_, until, _)| *until > self.now_ms);
                        let lasts = |(id, until, back): &(String, u64, bool)| {
                            let long = *back && *until >= self.now_ms + SESSION_MS;
                            *id == account && (long || written.contains(&item.session))
                        };
                        if !old.is_some_and(lasts) {
                            let back = old.is_some();
                            self.sessions.insert(item.session, (account, until, back));
                        }
                        written.insert(item.session);
                    }
                }
            }
        }
        for i in undecided {
            let Answer::Saturated(1..=60_000) = answers[i] else {
                return Err(format!("{i}: {:?}, nothing was open", answers[i]));
            };
        }
        for (i, owner) in held {
            let probes = self.probes.get(&owner) == Some(&leases[i]);
            let answer = if probes {
                Answer::Probes
            } else {
                Answer::Granted
            };
            same(&answers[i], &answer(owner))?;
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
        let there: Vec<bool> = leases
            .iter()
            .map(|(lease, ..)| self.leases.contains_key(lease))
            .collect();
        let expiry = self.now_ms + ttl_ms;
        let mut answers = Vec::new();
        for ((lease, account, claimed), there) in leases.iter().zip(there) {
            if there {
                answers.push(Renewed::Renewed);
            } else if self.leases.contains_key(lease) {
                answers.push(Renewed::Readopted);
            } else if self.accounts.contains_key(account)
                && (*claimed != epoch || self.used(account) < self.accounts[account].max)
            {
                self.leases.insert(lease.clone(), (account.clone(), expiry));
                answers.push(Renewed::Readopted);
            } else {
                answers.push(Renewed::Lost);
            }
        }
        for ((lease, ..), answer) in leases.iter().zip(&answers) {
            if *answer == Renewed::Renewed {
                self.leases.get_mut(lease).unwrap().1 = expiry;
            }
        }
        Ok(answers)
    }

    pub fn sync(
        &mut self,
        revision: u64,
        digest: u64,
        epoch: u64,
        accounts: &[(u32, u64, bool)],
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
        if accounts.iter().all(|(max, ..)| *max == 0) {
            return Synced::Wanted;
        }
        let mut old = std::mem::take(&mut self.accounts);
        for (id, (max, base, enabled)) in ACCOUNTS.iter().zip(accounts) {
            if *max > 0 {
                old.remove(*id);
                let account = Account {
                    max: *max,
                    base: *base,
                    disabled: !enabled,
                    drained: self.drained.contains(*id),
                    cooling: self.cooldown.contains_key(*id) || self.probes.contains_key(*id),
                    removed: false,
                    behind: self.cooldown.contains_key(&format!("behind:{id}")),
                };
                self.accounts.insert((*id).into(), account);
            }
        }
        for (id, account) in old {
            self.cooldown.remove(&id);
            self.cooldown.remove(&format!("behind:{id}"));
            self.probes.remove(&id);
            if self.used(&id) > 0 {
                let gone = Account {
                    disabled: false,
                    drained: false,
                    cooling: false,
                    removed: true,
                    ..account
                };
                self.accounts.insert(id, gone);
            }
        }
        let epoch = self.synced.map_or(epoch, |(_, _, epoch)| epoch);
        self.synced = Some((revision, digest, epoch));
        Synced::Replaced
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
        Ok(*until - now_ms)
    }

    pub fn cool_then_probe(&mut self, account: &str, length_ms: u64) -> Result<u64, Fault> {
        let left_ms = self.cool(account, length_ms, None)?;
        if !self.accounts[account].removed {
            self.probes.insert(account.into(), String::new());
        }
        Ok(left_ms)
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
        let record = self.accounts.get_mut(account).ok_or(Fault::NoAccount)?;
        let is_probe = self.probes.get(account).is_some_and(|probe| probe == lease);
        if !is_probe || self.cooldown.contains_key(account) {
            return Ok(0);
        }
        self.probes.remove(account);
        record.cooling = false;
        Ok(1)
    }

    pub fn operate(&mut self, verb: &str, account: &str) -> Result<(String, String), Fault> {
        let drained = self.drained.contains(account);
        let known = self.accounts.contains_key(account) || verb == "undrain" && drained;
        if !known {
            return Err(Fault::NoAccount);
        }
        let word = |on: bool| if on { "1".to_string() } else { String::new() };
        let record = self.accounts.get_mut(account);
        match verb {
            "thaw" => {
                let cooled = self.cooldown.remove(account);
                let behind = self.cooldown.remove(&format!("behind:{account}"));
                let probed = self.probes.remove(account).map(|_| 0);
                if let Some(record) = record {
                    record.cooling = false;
                    record.behind = false;
                }
                let old = cooled.or(behind).or(probed);
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

pub const SESSION_MS: u64 = 60_000;

pub fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?} instead of {expected:?}"))
    }
}
