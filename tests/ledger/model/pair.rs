//! A Redis with the scripts and the model beside it: each step is done to both, and both are compared.

use super::ledger::{LOAD, Model, SESSION_MS, same};
use super::steps::{ACCOUNTS, LEASES, SESSIONS, Step, Way};
use crate::pipe::Pipe;
use slotgate::ledger::commands::{AccountReport, Asked, Mode, Reconciled, SyncAccount};
use slotgate::request::lease::{LeaseId, LeaseIds};
use std::collections::BTreeMap;
use support::{Clock, Redis};

const START_MS: u64 = 1_700_000_000_000;

/// A Redis on a clock of ours, and the model beside it.
pub struct Pair {
    pub clock: Clock,
    pub redis: Redis,
    pub pipe: Pipe,
    pub model: Model,
    pub ids: Vec<LeaseId>,
    pub checks: u64,
}

impl Pair {
    pub fn new() -> Self {
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
    pub fn reset(&mut self) {
        let now_ms = self.model.now_ms.max(START_MS) + 86_400_000;
        self.pipe.command(&[b"FLUSHALL"]);
        self.model = Model {
            now_ms,
            ..Model::default()
        };
        self.clock.set(now_ms);
        self.pipe.random = 200_000;
    }

    pub fn apply(&mut self, step: &Step) -> Result<(), String> {
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

    pub fn operate(&mut self, verb: &str, account: usize) -> Result<(), String> {
        let answer = self.pipe.control(verb, ACCOUNTS[account], None);
        same(&answer, &self.model.operate(verb, ACCOUNTS[account]))
    }

    pub fn inspect(&mut self) -> Result<(), String> {
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
    pub fn compare(&mut self) -> Result<(), String> {
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
