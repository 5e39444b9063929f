//! The ledger written down a second time, plainly and without Redis, and random commands that compare the two after every
//! step: answers, and the whole state.

use crate::pipe::{Answer, PREFIX, Pipe};
use crate::support::{Clock, Ledger, Redis};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use slotgate::ledger::commands::{AccountReport, Asked, Mode, SyncAccount};
use slotgate::ledger::commands::{Reconciled, Renewed, Synced};
use slotgate::ledger::fault::Fault;
use slotgate::request::lease::{LeaseId, LeaseIds};
use std::collections::{BTreeMap, BTreeSet};

const ACCOUNTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const LEASES: usize = 20;
const SESSIONS: usize = 3;
const LOAD: u64 = 300_000;
/// A call whose seed is a multiple of this also reaps, as `acquire.lua` says.
const SHARED_BY: u32 = 4;
const START_MS: u64 = 1_700_000_000_000;
/// As in `ledger.lua`.
const BEHIND: u64 = 1 << 52;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Take,
    Dry,
    Force,
}

/// One lease of an acquire, by index: its session, its scope and, to be forced, its account.
#[derive(Debug, Clone, Copy)]
struct Item {
    lease: usize,
    session: usize,
    scope: usize,
    account: usize,
}

/// An acquire's arguments.
#[derive(Debug, Clone)]
struct Ask {
    items: Vec<Item>,
    way: Way,
    sessions: bool,
    scopes: bool,
    ttl_ms: u64,
    seed: u32,
}

/// One command, or time passing.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Acquire(Ask),
    Release(Vec<usize>),
    /// Leases with the account they claim and whether their epoch is the present one.
    Renew {
        leases: Vec<(usize, usize, bool)>,
        ttl_ms: u64,
    },
    /// The revision against the one in force; each account's slots (0: not in it), base and whether it is enabled.
    Sync {
        revision: i64,
        accounts: Vec<(u32, u64, bool)>,
    },
    Cooldown {
        account: usize,
        length_ms: u64,
        scope: Option<usize>,
    },
    CoolThenProbe(usize, u64),
    Behind(usize, u64),
    /// The account's last probe passes, or another lease pretends to be it.
    Passed(usize, Option<usize>),
    Drain(usize),
    Undrain(usize),
    Thaw(usize),
    Unbind(usize),
    Percent(Option<u16>),
    Reconcile {
        by: bool,
        count: u64,
    },
    Inspect,
    Flush,
}

fn steps() -> impl Strategy<Value = Step> {
    let account = 0..ACCOUNTS.len();
    let lease = 0..LEASES;
    let ttl = prop_oneof![4 => 1_000_u64..20_000, 1 => 1_u64..50];
    let way = prop_oneof![
        8 => Just(Way::Take),
        2 => Just(Way::Dry),
        2 => Just(Way::Force),
    ];
    // Mostly one lease, as when requests come one at a time.
    let items = (
        prop_oneof![3 => 1..2_usize, 2 => 2..7_usize],
        Just((0..LEASES).collect::<Vec<_>>()).prop_shuffle(),
        proptest::collection::vec((0..SESSIONS, 0..2_usize, 0..ACCOUNTS.len()), 6),
    )
        .prop_map(|(count, leases, rest)| {
            let items = leases.into_iter().zip(rest).take(count);
            items
                .map(|(lease, (session, scope, account))| Item {
                    lease,
                    session,
                    scope,
                    account,
                })
                .collect::<Vec<_>>()
        });
    let accounts = proptest::collection::vec(
        (
            prop_oneof![1 => Just(0_u32), 6 => 1_u32..4],
            prop_oneof![Just(0_u64), Just(250_000), Just(3_000_000)],
            proptest::bool::weighted(0.9),
        ),
        ACCOUNTS.len(),
    );
    let scope = proptest::option::weighted(0.2, 0..2_usize);
    prop_oneof![
        6 => prop_oneof![1_u64..100, 100_u64..3_000, 3_000_u64..30_000].prop_map(Step::Wait),
        30 => (items, way, proptest::bool::weighted(0.4), proptest::bool::weighted(0.2), ttl.clone(), any::<u32>())
            .prop_map(|(items, way, sessions, scopes, ttl_ms, seed)| Step::Acquire(Ask { items, way, sessions, scopes, ttl_ms, seed })),
        16 => proptest::collection::vec(lease.clone(), 1..4).prop_map(Step::Release),
        8 => (proptest::collection::vec((lease, account.clone(), proptest::bool::weighted(0.8)), 1..6), ttl)
            .prop_map(|(leases, ttl_ms)| Step::Renew { leases, ttl_ms }),
        4 => (-1_i64..3, accounts).prop_map(|(revision, accounts)| Step::Sync { revision, accounts }),
        4 => (account.clone(), 1_u64..20_000, scope).prop_map(|(account, length_ms, scope)| {
            Step::Cooldown { account, length_ms, scope }
        }),
        6 => (account.clone(), 1_u64..10_000).prop_map(|(account, ms)| Step::CoolThenProbe(account, ms)),
        3 => (account.clone(), 1_u64..20_000).prop_map(|(account, ms)| Step::Behind(account, ms)),
        3 => (account.clone(), proptest::option::weighted(0.3, 0..LEASES))
            .prop_map(|(account, lease)| Step::Passed(account, lease)),
        1 => account.clone().prop_map(Step::Drain),
        1 => account.clone().prop_map(Step::Undrain),
        1 => account.prop_map(Step::Thaw),
        1 => (0..SESSIONS).prop_map(Step::Unbind),
        1 => proptest::option::of(0_u16..=10_000).prop_map(Step::Percent),
        8 => (proptest::bool::weighted(0.9), 1_u64..20).prop_map(|(by, count)| Step::Reconcile { by, count }),
        2 => Just(Step::Inspect),
        1 => proptest::bool::weighted(0.15).prop_map(|flush| if flush { Step::Flush } else { Step::Wait(1) }),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    max: u32,
    base: u64,
    disabled: bool,
    drained: bool,
    cooling: bool,
    removed: bool,
    behind: bool,
}

impl Account {
    fn base(&self) -> u64 {
        self.base + if self.behind { BEHIND } else { 0 }
    }

    fn flags(&self) -> u32 {
        u32::from(self.disabled)
            + 2 * u32::from(self.drained)
            + 4 * u32::from(self.cooling)
            + 8 * u32::from(self.removed)
    }
}

/// What the ledger should hold.
#[derive(Debug, Clone, Default)]
struct Model {
    now_ms: u64,
    /// Revision, digest, epoch.
    synced: Option<(u64, u64, u64)>,
    accounts: BTreeMap<String, Account>,
    leases: BTreeMap<String, (String, u64)>,
    /// By account, or `behind:` and the account.
    cooldown: BTreeMap<String, u64>,
    /// Account → its last probe; empty: none yet.
    probes: BTreeMap<String, String>,
    scopes: BTreeMap<usize, BTreeMap<String, u64>>,
    /// Account, until when, and whether it came back: then it is written again only when it must be.
    sessions: BTreeMap<usize, (String, u64, bool)>,
    drained: BTreeSet<String>,
    percent: Option<u16>,
    /// Who runs the reconcile passes, and until when alone.
    runner: Option<(bool, u64)>,
}

impl Model {
    fn used(&self, account: &str) -> u32 {
        self.leases
            .values()
            .filter(|(owner, _)| owner == account)
            .count() as u32
    }

    /// Whether it has cooled and its probe, if any, is over.
    fn wants_probe(&self, id: &str) -> bool {
        self.accounts.get(id).is_some_and(|a| a.flags() == 4)
            && !self.cooldown.contains_key(id)
            && self.probes.contains_key(id)
            && !self.is_probed(id)
    }

    fn is_probed(&self, id: &str) -> bool {
        let probe = self.probes.get(id).and_then(|probe| self.leases.get(probe));
        probe.is_some_and(|(owner, _)| owner == id)
    }

    fn free(&self) -> BTreeMap<String, u64> {
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

    fn shut(&self, scope: Option<usize>) -> BTreeSet<String> {
        let cooling = scope
            .and_then(|scope| self.scopes.get(&scope))
            .into_iter()
            .flatten();
        cooling
            .filter(|(_, until)| **until > self.now_ms)
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn drop_lease(&mut self, lease: &str) -> bool {
        let Some((account, _)) = self.leases.remove(lease) else {
            return false;
        };
        if self.accounts.get(&account).is_some_and(|a| a.removed) && self.used(&account) == 0 {
            self.accounts.remove(&account);
        }
        true
    }

    fn reap(&mut self) {
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

    fn thaw(&mut self) {
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

    fn is_behind(&self, id: &str) -> bool {
        self.accounts.get(id).is_some_and(|account| account.behind)
    }

    /// Those that a choice may fall on: one that is behind only when all are.
    fn best(&self, open: BTreeSet<String>) -> BTreeSet<String> {
        let (behind, before): (BTreeSet<_>, BTreeSet<_>) =
            open.into_iter().partition(|id| self.is_behind(id));
        if before.is_empty() { behind } else { before }
    }

    fn open(&self, shut: &BTreeSet<String>) -> BTreeSet<String> {
        self.free()
            .into_keys()
            .filter(|id| !shut.contains(id))
            .collect()
    }

    /// Those that an item's choice may fall on, and whether its session is bound to what is chosen.
    fn candidates(&self, ask: &Ask, item: Item) -> (BTreeSet<String>, bool) {
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
    fn take(&mut self, lease: &str, ttl_ms: u64, answer: &Answer) -> Result<String, String> {
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
    fn acquire(
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

    fn renew(
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

    fn sync(
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

    fn cool(&mut self, account: &str, length_ms: u64, scope: Option<usize>) -> Result<u64, Fault> {
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

    fn cool_then_probe(&mut self, account: &str, length_ms: u64) -> Result<u64, Fault> {
        let left_ms = self.cool(account, length_ms, None)?;
        if !self.accounts[account].removed {
            self.probes.insert(account.into(), String::new());
        }
        Ok(left_ms)
    }

    fn put_behind(&mut self, account: &str, length_ms: u64) -> Result<u64, Fault> {
        let record = self.accounts.get_mut(account).ok_or(Fault::NoAccount)?;
        record.behind = true;
        let until = self
            .cooldown
            .entry(format!("behind:{account}"))
            .or_insert(0);
        *until = (*until).max(self.now_ms + length_ms);
        Ok(*until - self.now_ms)
    }

    fn passed(&mut self, account: &str, lease: &str) -> Result<u64, Fault> {
        let record = self.accounts.get_mut(account).ok_or(Fault::NoAccount)?;
        let is_probe = self.probes.get(account).is_some_and(|probe| probe == lease);
        if !is_probe || self.cooldown.contains_key(account) {
            return Ok(0);
        }
        self.probes.remove(account);
        record.cooling = false;
        Ok(1)
    }

    fn operate(&mut self, verb: &str, account: &str) -> Result<(String, String), Fault> {
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

const SESSION_MS: u64 = 60_000;

fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?} instead of {expected:?}"))
    }
}

/// A Redis on a clock of ours, and the model beside it.
struct Pair {
    clock: Clock,
    redis: Redis,
    pipe: Pipe,
    model: Model,
    ids: Vec<LeaseId>,
    checks: u64,
}

impl Pair {
    fn new() -> Self {
        let clock = Clock::new(START_MS);
        // Small collections answer a scan whole, whatever is asked for: none may be small, or no cursor is ever seen.
        let spread = [
            "--hash-max-listpack-entries",
            "1",
            "--zset-max-listpack-entries",
            "1",
        ];
        let redis = Redis::start_at(&clock, &spread);
        let pipe = Pipe::open(&redis, "p");
        let mut ids = LeaseIds::new(0xabc);
        let ids = (0..LEASES).map(|_| ids.mint()).collect();
        Self {
            clock,
            redis,
            pipe,
            model: Model::default(),
            ids,
            checks: 0,
        }
    }

    /// Both empty, the clock a day on: nothing of the last sequence is left.
    fn reset(&mut self) {
        let now_ms = self.model.now_ms.max(START_MS) + 86_400_000;
        self.pipe.command(&[b"FLUSHALL"]);
        self.model = Model {
            now_ms,
            ..Model::default()
        };
        self.clock.set(now_ms);
        self.pipe.random = 200_000;
    }

    fn apply(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Wait(ms) => {
                self.model.now_ms += ms;
                self.clock.set(self.model.now_ms);
            }
            Step::Acquire(ask) => {
                let sessions = [[1; 16], [2; 16], [3; 16]];
                let scopes = [[8; 16], [9; 16]];
                let asked: Vec<Asked> = ask
                    .items
                    .iter()
                    .map(|item| Asked {
                        lease: self.ids[item.lease],
                        mode: match ask.way {
                            Way::Take => Mode::Take,
                            Way::Dry => Mode::Dry,
                            Way::Force => Mode::Force(ACCOUNTS[item.account]),
                        },
                        session: ask.sessions.then_some(&sessions[item.session]),
                        scope: ask.scopes.then_some(&scopes[item.scope]),
                    })
                    .collect();
                self.pipe.ttl_ms = ask.ttl_ms;
                let answers = self.pipe.acquire_all(&asked, SESSION_MS, ask.seed);
                let leases: Vec<String> =
                    asked.iter().map(|asked| asked.lease.to_string()).collect();
                self.model.acquire(&leases, ask, &answers)?;
            }
            Step::Release(leases) => {
                let ids: Vec<LeaseId> = leases.iter().map(|lease| self.ids[*lease]).collect();
                let answer = self.pipe.release(&ids);
                let ended = ids
                    .iter()
                    .filter(|lease| self.model.drop_lease(lease.as_str()))
                    .count();
                same(&answer, &Ok(ended as u64))?;
            }
            Step::Renew { leases, ttl_ms } => {
                let now = self.model.synced.map_or(0, |(_, _, epoch)| epoch);
                let claims: Vec<(LeaseId, &str, u64)> = leases
                    .iter()
                    .map(|(lease, account, present)| {
                        // A worker claims the account that it was granted; one that it made up is for those that are gone.
                        let held = self
                            .model
                            .leases
                            .get(self.ids[*lease].as_str())
                            .map(|(owner, _)| owner.as_str());
                        let account = ACCOUNTS
                            .iter()
                            .find(|id| Some(**id) == held)
                            .unwrap_or(&ACCOUNTS[*account]);
                        (
                            self.ids[*lease],
                            *account,
                            if *present { now } else { now + 1 },
                        )
                    })
                    .collect();
                self.pipe.ttl_ms = *ttl_ms;
                let answer = self.pipe.renew(&claims);
                let claims: Vec<_> = claims
                    .iter()
                    .map(|(l, a, e)| (l.to_string(), (*a).to_string(), *e))
                    .collect();
                same(&answer, &self.model.renew(&claims, *ttl_ms))?;
            }
            Step::Sync { revision, accounts } => {
                let in_force = self.model.synced.map_or(1, |(revision, ..)| revision);
                let revision = in_force.saturating_add_signed(*revision).max(1);
                let digest = accounts.iter().fold(7, |d, (m, b, e)| {
                    d * 31 + u64::from(*m) * 7 + b / 1000 + u64::from(*e)
                });
                let list: Vec<SyncAccount> = ACCOUNTS
                    .iter()
                    .zip(accounts)
                    .filter(|(_, (max, ..))| *max > 0)
                    .map(|(id, (max, base, enabled))| SyncAccount {
                        id,
                        max_concurrency: *max,
                        base: *base,
                        enabled: *enabled,
                    })
                    .collect();
                self.pipe.seed = self.pipe.seed.wrapping_add(1);
                let answer = self.pipe.sync(revision, digest, Some(&list));
                same(
                    &answer,
                    &Ok(self
                        .model
                        .sync(revision, digest, u64::from(self.pipe.seed), accounts)),
                )?;
            }
            Step::Cooldown {
                account,
                length_ms,
                scope,
            } => {
                let scopes = [[8; 16], [9; 16]];
                let answer = self.pipe.cooldown_in(
                    ACCOUNTS[*account],
                    *length_ms,
                    scope.map(|scope| &scopes[scope]),
                );
                // What is over in a scope may be cleared away by now, so only what counts is compared.
                if let Some(scope) = scope {
                    let now_ms = self.model.now_ms;
                    self.model
                        .scopes
                        .entry(*scope)
                        .or_default()
                        .retain(|_, until| *until > now_ms);
                }
                same(
                    &answer,
                    &self.model.cool(ACCOUNTS[*account], *length_ms, *scope),
                )?;
            }
            Step::CoolThenProbe(account, length_ms) => {
                let id = ACCOUNTS[*account];
                let answer = self
                    .pipe
                    .heard(id, AccountReport::CoolThenProbe(*length_ms));
                same(&answer, &self.model.cool_then_probe(id, *length_ms))?;
            }
            Step::Behind(account, length_ms) => {
                let id = ACCOUNTS[*account];
                let answer = self.pipe.heard(id, AccountReport::Behind(*length_ms));
                same(&answer, &self.model.put_behind(id, *length_ms))?;
            }
            Step::Passed(account, lease) => {
                let id = ACCOUNTS[*account];
                let probe = self.model.probes.get(id);
                let probe = probe.and_then(|probe| self.ids.iter().find(|id| id.as_str() == probe));
                if let Some(lease) = lease.map(|at| &self.ids[at]).or(probe) {
                    let answer = self.pipe.heard(id, AccountReport::Passed(*lease));
                    same(&answer, &self.model.passed(id, lease.as_str()))?;
                }
            }
            Step::Drain(account) => self.operate("drain", *account)?,
            Step::Undrain(account) => self.operate("undrain", *account)?,
            Step::Thaw(account) => self.operate("thaw", *account)?,
            Step::Unbind(session) => {
                let answer = self
                    .pipe
                    .control("unbind", "", Some(&[*session as u8 + 1; 16]));
                let now_ms = self.model.now_ms;
                let old = self
                    .model
                    .sessions
                    .remove(session)
                    .filter(|(_, until, _)| *until > now_ms);
                same(
                    &answer,
                    &Ok((old.map_or(String::new(), |(id, ..)| id), String::new())),
                )?;
            }
            Step::Percent(percent) => {
                let word = |percent: Option<u16>| percent.map_or(String::new(), |p| p.to_string());
                let answer = self.pipe.control("percent", &word(*percent), None);
                let old = std::mem::replace(&mut self.model.percent, *percent);
                same(&answer, &Ok((word(old), word(*percent))))?;
            }
            Step::Reconcile { by, count } => {
                let worker = if *by { "one" } else { "two" };
                let answer = self.pipe.reconcile(worker, 5_000, *count);
                let elsewhere = self
                    .model
                    .runner
                    .is_some_and(|(runner, until)| runner != *by && until > self.model.now_ms);
                if elsewhere {
                    same(&answer, &Ok(Reconciled::Elsewhere))?;
                } else {
                    // Nobody broke anything, so a pass must find nothing, whatever went on while it ran.
                    if !matches!(answer, Ok(Reconciled::Working(0) | Reconciled::Done(0))) {
                        return Err(format!("a pass found {answer:?}"));
                    }
                    self.model.runner = Some((*by, self.model.now_ms + 5_000));
                }
            }
            Step::Inspect => self.inspect()?,
            Step::Flush => {
                self.pipe.command(&[b"FLUSHALL"]);
                self.model = Model {
                    now_ms: self.model.now_ms,
                    ..Model::default()
                };
            }
        }
        self.compare()
    }

    fn operate(&mut self, verb: &str, account: usize) -> Result<(), String> {
        let answer = self.pipe.control(verb, ACCOUNTS[account], None);
        same(&answer, &self.model.operate(verb, ACCOUNTS[account]))
    }

    fn inspect(&mut self) -> Result<(), String> {
        let found = self.pipe.inspect();
        let Ok(rows) = found else {
            return same(&found.is_err(), &self.model.synced.is_none());
        };
        let expected: BTreeMap<String, (u32, String)> = self
            .model
            .accounts
            .iter()
            .map(|(id, account)| {
                let used = self.model.used(id);
                let lasts = |member: &str| {
                    let until = self.model.cooldown.get(member);
                    until.is_some_and(|until| *until > self.model.now_ms)
                };
                let cooling = lasts(id);
                let behind = account.behind && lasts(&format!("behind:{id}"));
                let probing = account.cooling && self.model.probes.contains_key(id);
                let state = if account.removed {
                    "removed"
                } else if cooling {
                    "cooling"
                } else if account.drained {
                    "drained"
                } else if account.disabled {
                    "disabled"
                } else if probing && self.model.is_probed(id) {
                    "probing"
                } else if used < account.max && behind {
                    "behind"
                } else if probing && used < account.max {
                    "probe"
                } else if used < account.max {
                    "free"
                } else {
                    "full"
                };
                (id.clone(), (used, state.to_string()))
            })
            .collect();
        same(&rows, &expected)
    }

    /// Properties 1 to 4, key by key.
    fn compare(&mut self) -> Result<(), String> {
        self.checks += 1;
        let found = self.pipe.state();
        let model = &self.model;
        let records: BTreeMap<String, String> = model
            .accounts
            .iter()
            .map(|(id, account)| {
                (
                    id.clone(),
                    format!(
                        "{} {LOAD} {} {}",
                        account.max,
                        account.base(),
                        account.flags()
                    ),
                )
            })
            .collect();
        same(&found.accounts, &records)?;
        same(
            &found.free,
            &model
                .free()
                .into_iter()
                .map(|(id, score)| (id, score as f64))
                .collect(),
        )?;
        let used: BTreeMap<String, i64> = found
            .used
            .into_iter()
            .filter(|(_, used)| *used != 0)
            .collect();
        let mut expected = BTreeMap::new();
        for (owner, _) in model.leases.values() {
            *expected.entry(owner.clone()).or_insert(0) += 1;
        }
        same(&used, &expected)?;
        same(
            &found.leases,
            &model
                .leases
                .iter()
                .map(|(id, (_, expiry))| (id.clone(), *expiry as f64))
                .collect(),
        )?;
        same(
            &found.owner,
            &model
                .leases
                .iter()
                .map(|(id, (owner, _))| (id.clone(), owner.clone()))
                .collect(),
        )?;
        same(
            &found.cooldown,
            &model
                .cooldown
                .iter()
                .map(|(id, until)| (id.clone(), *until as f64))
                .collect(),
        )?;
        let probes = found.meta.iter().filter_map(|(name, lease)| {
            Some((name.strip_prefix("#probe:")?.to_string(), lease.clone()))
        });
        same(&probes.collect(), &model.probes)?;
        let wake = model.cooldown.values().min().map(u64::to_string);
        same(&found.meta.get("#wake").cloned(), &wake)?;
        let synced = ["#revision", "#digest", "#epoch"].map(|name| found.meta.get(name).cloned());
        let expected = model
            .synced
            .map(|(revision, digest, epoch)| [revision, digest, epoch].map(|n| n.to_string()));
        same(
            &synced,
            &expected.map_or([None, None, None], |all| all.map(Some)),
        )?;
        for session in 0..SESSIONS {
            let bound = model
                .sessions
                .get(&session)
                .filter(|(_, until, _)| *until > model.now_ms)
                .map(|(id, ..)| id.clone());
            same(&found.sessions[session], &bound)?;
        }
        Ok(())
    }
}

/// Runs sequences of 100 random steps each, and shrinks one that fails.
fn run(sequences: u32) -> u64 {
    let seed = std::env::var("MODEL_SEED").ok().map_or_else(
        || {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
        },
        |text| text.parse().expect("MODEL_SEED is a number"),
    );
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: sequences,
        failure_persistence: None,
        max_shrink_iters: std::env::var("LUA").map_or(500, |_| 0),
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let pair = std::cell::RefCell::new(Pair::new());
    let sequence = proptest::collection::vec(steps(), 100);
    let result = runner.run(&sequence, |steps| {
        let mut pair = pair.borrow_mut();
        pair.reset();
        // Most sequences should begin with accounts.
        let accounts = vec![
            (2, 0, true),
            (1, 0, true),
            (3, 250_000, true),
            (1, 0, false),
            (0, 0, true),
        ];
        let first = Step::Sync {
            revision: 0,
            accounts,
        };
        for (at, step) in std::iter::once(&first).chain(&steps).enumerate() {
            if let Err(error) = pair.apply(step) {
                let model = &pair.model;
                return Err(TestCaseError::fail(format!(
                    "step {at}, {step:?}: {error}\n{model:?}"
                )));
            }
        }
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => {
            let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
            panic!(
                "MODEL_SEED={seed}\n{why}\nafter the shortest such steps:\n{}",
                steps.join("\n")
            );
        }
        Err(error) => panic!("MODEL_SEED={seed}\n{error}"),
    }
    pair.into_inner().checks
}

#[test]
fn the_ledger_does_what_the_model_does() {
    let sequences =
        std::env::var("MODEL_SEQUENCES").map_or(500, |text| text.parse().expect("a number"));
    let checks = run(sequences);
    println!("{checks} states compared");
    assert!(checks >= u64::from(sequences) * 100);
}

proptest! {
    #![proptest_config(Config { cases: 60, failure_persistence: None, ..Config::default() })]

    /// What anyone may break by hand, one pass puts right, and counts; while it runs, life goes on.
    #[test]
    fn reconcile_mends_what_was_broken(
        taken in 3_usize..12,
        broken in proptest::collection::vec((0_usize..9, 0_usize..4, 1_u32..5), 1..5),
        count in 1_u64..6,
    ) {
        let mut pair = Pair::new();
        pair.reset();
        let accounts = [("a", 3), ("b", 4), ("c", 5)];
        let list: Vec<SyncAccount> =
            accounts.iter().map(|(id, max)| SyncAccount { id, max_concurrency: *max, base: 0, enabled: true }).collect();
        pair.pipe.sync(1, 1, Some(&list)).unwrap();
        pair.pipe.ttl_ms = 60_000;
        let ids = pair.ids.clone();
        for lease in &ids[..taken] {
            pair.pipe.acquire_in(*lease, Mode::Take, None, None, 2).unwrap();
        }
        let ledger = Ledger::new(&pair.redis, PREFIX, "p");
        let key = |name: &str| ledger.key(name);
        for (how, which, by) in broken {
            let account = accounts[which % 3].0;
            let lease = ids[which].to_string();
            let by = by.to_string();
            let command: Vec<&str> = match how {
                0 => vec!["HINCRBY", "used", account, &by],
                1 => vec!["HINCRBY", "used", account, "-2"],
                2 => vec!["HDEL", "used", account],
                3 => vec!["ZADD", "leases", "1900000000000", "stray"],
                4 => vec!["HSET", "owner", "stray2", account],
                5 => vec!["ZREM", "free", account],
                6 => vec!["ZADD", "free", "0", "nobody"],
                7 => vec!["HDEL", "owner", &lease],
                _ => vec!["HSET", "used", "nobody", &by],
            };
            let mut arguments = vec![command[0].as_bytes().to_vec(), key(command[1]).into_bytes()];
            arguments.extend(command[2..].iter().map(|part| part.as_bytes().to_vec()));
            let parts: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            pair.pipe.command(&parts);
        }
        let mut drift = None;
        for step in 0..10_000 {
            match pair.pipe.reconcile("one", 5_000, count).unwrap() {
                Reconciled::Done(found) => {
                    drift = Some(found);
                    break;
                }
                other => prop_assert!(matches!(other, Reconciled::Working(_)), "{other:?}"),
            }
            let lease = ids[12 + step % 8];
            let answer = pair.pipe.acquire_in(lease, Mode::Take, None, None, 2);
            // What was put into `free` by hand is no account.
            prop_assert!(matches!(answer, Ok(_) | Err(Fault::Garbage)), "{answer:?}");
            pair.pipe.release(&[lease]).unwrap();
        }
        prop_assert!(drift.is_some(), "the pass never ended");
        let state = pair.pipe.state();
        let mut owned: BTreeMap<String, i64> = BTreeMap::new();
        for owner in state.owner.values() {
            *owned.entry(owner.clone()).or_insert(0) += 1;
        }
        prop_assert_eq!(state.leases.keys().collect::<Vec<_>>(), state.owner.keys().collect::<Vec<_>>());
        let used: BTreeMap<String, i64> = state.used.into_iter().filter(|(_, used)| *used != 0).collect();
        prop_assert_eq!(&used, &owned);
        let free: BTreeMap<String, f64> = accounts
            .iter()
            .map(|(id, max)| (*id, *max, owned.get(*id).copied().unwrap_or(0)))
            .filter(|(_, max, used)| *used < i64::from(*max))
            .map(|(id, max, used)| (id.to_string(), (LOAD as i64 * used / i64::from(max)) as f64))
            .collect();
        prop_assert_eq!(state.free, free);
    }
}
