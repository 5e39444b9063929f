//! A Redis with the scripts and the model beside it: each step is done to both, and both are compared.

use super::ledger::{LOAD, Model, SESSION_MS, same};
use super::queue::{Grant, limits_of, tenant};
use super::steps::{ACCOUNTS, LEASES, SESSIONS, Step, TENANTS, Way, tenant_of};
use crate::pipe::{Answer, Pipe, State};
use slotgate::config::{Pace, Tenants};
use slotgate::ledger::commands::{
    AccountReport, AccountTerms, Asked, Handed, Mode, Place, Reconciled, SyncAccount, Synced,
    Terms, Waiting,
};
use slotgate::request::lease::{LeaseId, LeaseIds};
use std::collections::{BTreeMap, VecDeque};
use support::{Clock, Redis};

/// Where those listen that wait.
pub const CHANNELS: [&str; 2] = ["slotgate:one", "slotgate:two"];

const START_MS: u64 = 1_700_000_000_000;

/// A Redis on a clock of ours, and the model beside it.
pub struct Pair {
    pub clock: Clock,
    pub redis: Redis,
    pub pipe: Pipe,
    pub model: Model,
    pub ids: Vec<LeaseId>,
    pub checks: u64,
    subscriber: Pipe,
    /// The order that each lease was told last.
    orders: BTreeMap<String, u64>,
    /// What the step published, and what Redis holds after it.
    grants: VecDeque<Grant>,
    pub said: String,
    found: Option<State>,
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
        let mut pipe = Pipe::open(&redis, "p");
        // As an Envoy says it; without that, a pace alone would say what the longest cooldown is.
        pipe.longest.cooldown_ms = 86_400_000;
        let mut ids = LeaseIds::new(0xabc);
        let ids = (0..LEASES)
            .map(|at| {
                let name = tenant_of(at).map(|at| Tenants::name(TENANTS[at].1.as_bytes()));
                ids.mint(name.as_ref())
            })
            .collect();
        let mut subscriber = Pipe::open(&redis, "p");
        for channel in CHANNELS {
            subscriber.command(&[b"SUBSCRIBE", channel.as_bytes()]);
        }
        Self {
            subscriber,
            orders: BTreeMap::new(),
            grants: VecDeque::new(),
            said: String::new(),
            found: None,
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
        self.orders.clear();
    }

    /// After a step's command: what it handed on, and what Redis holds now.
    fn observe(&mut self) -> Result<(), String> {
        self.grants = self
            .subscriber
            .published()
            .into_iter()
            .map(|(channel, message)| {
                let said = Handed::read(&message)
                    .ok_or_else(|| format!("no grant: {}", String::from_utf8_lossy(&message)))?;
                let own = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
                Ok(Grant {
                    channel: usize::from(channel == CHANNELS[1]),
                    cookie: said.cookie,
                    lease: own(said.lease),
                    account: own(said.account),
                    probes: said.probes,
                    epoch: said.epoch,
                })
            })
            .collect::<Result<_, String>>()?;
        let found = self.pipe.state();
        self.said = format!(
            "{:?}\nfound {found:?}\nbefore {:?}",
            self.grants, self.model
        );
        self.found = Some(found);
        Ok(())
    }

    fn serve(&mut self) -> Result<(), String> {
        self.model.serve(&mut self.grants, true).map(drop)
    }

    pub fn apply(&mut self, step: &Step) -> Result<(), String> {
        self.found = None;
        self.grants.clear();
        self.apply_to_both(step)?;
        if self.found.is_none() {
            self.observe()?;
        }
        if let Some(grant) = self.grants.front() {
            return Err(format!("a hand-off too many: {grant:?}"));
        }
        self.compare()
    }

    fn apply_to_both(&mut self, step: &Step) -> Result<(), String> {
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
                            Way::Join => {
                                let lease = self.ids[item.lease];
                                let order = self.orders.get(lease.as_str());
                                Mode::Join(Terms {
                                    limits: limits_of(tenant(lease.as_str())),
                                    cookie: item.lease as u64,
                                    place: order.filter(|_| ask.wait.in_order).map_or(
                                        Place::Last,
                                        |order| {
                                            let order = super::ledger::order_of(*order);
                                            Place::At(order.expect("an order"))
                                        },
                                    ),
                                })
                            }
                        },
                        session: ask.sessions.then_some(&sessions[item.session]),
                        scope: ask.scopes.then_some(&scopes[item.scope]),
                    })
                    .collect();
                self.pipe.ttl_ms = ask.ttl_ms;
                self.pipe.waiting = Waiting {
                    most: ask.wait.most,
                    vouched_ms: ask.wait.vouched_ms,
                    channel: CHANNELS[ask.wait.channel],
                };
                self.pipe.tried = ask.tried.iter().map(|at| ACCOUNTS[*at]).collect();
                let answers = self.pipe.acquire_all(&asked, SESSION_MS, ask.seed);
                self.pipe.tried.clear();
                let leases: Vec<String> =
                    asked.iter().map(|asked| asked.lease.to_string()).collect();
                self.observe()?;
                self.model
                    .acquire(&leases, ask, &answers, &mut self.grants, &self.orders)?;
                for (lease, answer) in leases.iter().zip(answers.iter().flatten()) {
                    if let Answer::Waits(order) = answer {
                        let order = std::str::from_utf8(order.as_bytes()).unwrap();
                        self.orders.insert(lease.clone(), order.parse().unwrap());
                    }
                }
            }
            Step::Release(leases) => {
                let ids: Vec<LeaseId> = leases.iter().map(|lease| self.ids[*lease]).collect();
                let answer = self.pipe.release(&ids);
                self.observe()?;
                let said: Vec<_> = self
                    .grants
                    .iter()
                    .map(|grant| (grant.cookie, grant.lease.clone(), grant.account.clone()))
                    .collect();
                same(&self.pipe.handed, &said)?;
                let ended = self.model.end(ids.iter().map(LeaseId::as_str));
                same(&answer, &Ok(ended))?;
                self.serve()?;
            }
            Step::Renew { leases, ttl_ms } => {
                let now = self.model.synced.map_or(0, |(_, _, epoch)| epoch);
                let claims: Vec<(LeaseId, &str, u64)> = leases
                    .iter()
                    .map(|(lease, account, present, right)| {
                        // A worker claims the account that it was granted, whatever became of the lease since.
                        let held = self
                            .model
                            .leases
                            .get(self.ids[*lease].as_str())
                            .map(|(owner, _)| owner.as_str());
                        let account = ACCOUNTS
                            .iter()
                            .find(|id| *right && Some(**id) == held)
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
                self.observe()?;
                let claims: Vec<_> = claims
                    .iter()
                    .map(|(l, a, e)| (l.to_string(), (*a).to_string(), *e))
                    .collect();
                same(&answer, &self.model.renew(&claims, *ttl_ms))?;
                self.serve()?;
            }
            Step::Sync {
                revision,
                accounts,
                ledgers,
                adaptive,
            } => {
                let in_force = self.model.synced.map_or(1, |(revision, ..)| revision);
                let revision = in_force.saturating_add_signed(*revision).max(1);
                let digest = accounts.iter().fold(7_u64, |digest, listed| {
                    let own = u64::from(listed.max) * 7 + listed.base / 1000;
                    let pace = listed.pace.map_or(0, |[requests, ..]| requests);
                    digest * 31 + own + u64::from(listed.enabled) + 1_000 * pace
                });
                let list: Vec<SyncAccount> = ACCOUNTS
                    .iter()
                    .zip(accounts)
                    .filter(|(_, listed)| listed.max > 0)
                    .map(|(id, listed)| SyncAccount {
                        id,
                        max_concurrency: listed.max,
                        base: listed.base,
                        enabled: listed.enabled,
                        pace: listed.pace.map(|[requests, per_ms, burst]| Pace {
                            requests: requests as u32,
                            per_ms,
                            burst: burst as u32,
                        }),
                    })
                    .collect();
                self.pipe.seed = self.pipe.seed.wrapping_add(1);
                self.pipe.accounts_are_ledgers = *ledgers;
                self.pipe.adaptive = *adaptive;
                let answer = self.pipe.sync(revision, digest, Some(&list));
                self.observe()?;
                let epoch = u64::from(self.pipe.seed);
                let synced =
                    self.model
                        .sync(revision, digest, epoch, accounts, (*ledgers, *adaptive));
                same(&answer, &Ok(synced))?;
                if synced == Synced::Replaced {
                    self.serve()?;
                }
            }
            Step::Change {
                change,
                only_check,
                accounts,
            } => {
                let terms: Vec<AccountTerms> = accounts
                    .iter()
                    .map(|(at, set)| set.terms(ACCOUNTS[*at]))
                    .collect();
                let answer = self.pipe.change(*change, *only_check, &terms);
                self.observe()?;
                let expected = self.model.change(*change, *only_check, accounts);
                same(&answer, &expected)?;
                if expected.is_ok() && !only_check {
                    self.serve()?;
                }
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
            Step::Less(account, age_ms) => {
                let id = ACCOUNTS[*account];
                let answer = self.pipe.heard(id, AccountReport::Less(*age_ms));
                same(&answer, &self.model.less(id, *age_ms))?;
            }
            Step::Disable(account, length_ms) => {
                let id = ACCOUNTS[*account];
                let status = 401 + (*length_ms % 3) as u16;
                let report = AccountReport::Disable(*length_ms, status.into());
                let answer = self.pipe.heard(id, report);
                let why = status.to_string();
                same(&answer, &self.model.disable(id, *length_ms, &why))?;
            }
            Step::Passed(account, lease) => {
                let id = ACCOUNTS[*account];
                let probe = self.model.probes.get(id);
                let probe = probe.and_then(|probe| self.ids.iter().find(|id| id.as_str() == probe));
                if let Some(lease) = lease.map(|at| &self.ids[at]).or(probe) {
                    let lease = *lease;
                    let answer = self.pipe.heard(id, AccountReport::Passed(lease));
                    self.observe()?;
                    same(&answer, &self.model.passed(id, lease.as_str()))?;
                    if answer == Ok(1) {
                        self.serve()?;
                    }
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
                self.observe()?;
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
                    // It ends limits, page by page, where none adapts any longer.
                    let found = self.found.as_ref().expect("it was read");
                    let mut ended: Vec<String> = self.model.limits.keys().cloned().collect();
                    ended.retain(|id| !found.meta.contains_key(&format!("#limit:{id}")));
                    if self.model.adaptive == 0 {
                        for id in ended {
                            self.model.end_limit(&id);
                        }
                    }
                    self.serve()?;
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
        Ok(())
    }

    pub fn operate(&mut self, verb: &str, account: usize) -> Result<(), String> {
        let answer = self.pipe.control(verb, ACCOUNTS[account], None);
        self.observe()?;
        let expected = self.model.operate(verb, ACCOUNTS[account]);
        same(&answer, &expected)?;
        if expected.is_ok() {
            self.serve()?;
        }
        Ok(())
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
                let off = self.model.off.contains_key(id);
                let state = if account.removed {
                    "removed"
                } else if cooling && off {
                    "disabled"
                } else if cooling && self.model.is_out_of_pace(id) {
                    "paced"
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
        let found = self.found.take().expect("it was read");
        self.model.compare_waiting(&found)?;
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
        let entries = model.roster.iter();
        let entries = entries.map(|(id, (set, own))| (id.clone(), set.entry(own)));
        same(&found.roster, &entries.collect())?;
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
        let off = found
            .meta
            .iter()
            .filter_map(|(name, off)| Some((name.strip_prefix("#off:")?.to_string(), off.clone())));
        let expected = model
            .off
            .iter()
            .map(|(id, (why, since, until))| (id.clone(), format!("{why} {since} {until}")));
        same(
            &off.collect::<BTreeMap<_, _>>(),
            &expected.collect::<BTreeMap<_, _>>(),
        )?;
        let paces = found.meta.iter().filter_map(|(name, pace)| {
            Some((name.strip_prefix("#pace:")?.to_string(), pace.clone()))
        });
        let expected = model.paces.iter().map(|(id, bucket)| {
            let said = format!("{} {}", super::pace::rate(bucket.rate), bucket.full_us);
            (id.clone(), said)
        });
        same(
            &paces.collect::<BTreeMap<_, _>>(),
            &expected.collect::<BTreeMap<_, _>>(),
        )?;
        let limits = found.meta.iter().filter_map(|(name, limit)| {
            Some((name.strip_prefix("#limit:")?.to_string(), limit.clone()))
        });
        let expected = model.limits.iter().map(|(id, limit)| {
            let said = format!("{} {} {}", limit.most, limit.credit, limit.lowered_ms);
            (id.clone(), said)
        });
        same(
            &limits.collect::<BTreeMap<_, _>>(),
            &expected.collect::<BTreeMap<_, _>>(),
        )?;
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
