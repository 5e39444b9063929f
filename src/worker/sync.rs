//! Which accounts are in force: each pool's configuration is offered to the ledger, whole or in parts, and its answer is kept.

use super::command::{Command, SYNC_PART, SyncStep};
use super::context::Context;
use super::notice::Notice;
use crate::config::{Config, Pool, PriorityMode, is_name};
use crate::hash::hash128;
use crate::ledger::commands::{self, Synced};
use crate::ledger::fault::Fault;
use crate::pool::Scale;
use crate::units::millionths;

/// How often a sync in parts begins anew when someone else has changed the accounts meanwhile.
const RESTARTS: u8 = 2;

#[derive(Debug)]
struct State {
    digest: u64,
    /// A sync is on its way.
    under_way: bool,
    /// How often this sync has begun anew.
    restarts: u8,
    /// The ledger's epoch as last seen.
    epoch: Option<u64>,
    /// What the last sync answered, so that it is said once.
    answer: Option<Synced>,
}

/// How a sync goes on after a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Done,
    /// It goes on: another part is sent.
    Goes,
    /// This account is in the ledger and in no configuration, while these very accounts are in force.
    Stray(String),
}

/// The syncs of all pools.
#[derive(Debug)]
pub(super) struct Syncs(Vec<State>);

impl Syncs {
    pub(super) fn new(config: &Config) -> Self {
        let pools = config.pools.iter().map(|pool| State {
            digest: digest(pool, config),
            under_way: false,
            restarts: 0,
            epoch: None,
            answer: None,
        });
        Self(pools.collect())
    }

    /// Asks whether the accounts are wanted, unless a sync is on its way.
    pub(super) fn ask(&mut self, cx: &mut Context, pool: usize) {
        self.begin(cx, pool, SyncStep::Ask);
    }

    /// The ledger has no accounts. Of a large pool someone else may have sent parts already. If not, a command that is sent
    /// again comes after the first part, which is enough to take leases.
    pub(super) fn on_no_pool(&mut self, cx: &mut Context, pool: usize) {
        let listed = cx.pool(pool).map_or(0, |pool| pool.listed);
        let step = if listed == 0 || is_large(cx, pool) {
            SyncStep::Ask
        } else {
            SyncStep::Whole
        };
        self.begin(cx, pool, step);
    }

    fn begin(&mut self, cx: &mut Context, pool: usize, step: SyncStep) {
        if let Some(state) = self.0.get_mut(pool)
            && !std::mem::replace(&mut state.under_way, true)
        {
            state.restarts = 0;
            let digest = state.digest;
            cx.commands.push_back(Command::Sync { pool, step, digest });
        }
    }

    /// A sync was answered.
    pub(super) fn on_reply(
        &mut self,
        cx: &mut Context,
        pool: usize,
        step: &SyncStep,
        reply: &[u8],
    ) -> Result<Next, Fault> {
        let answer = commands::synced(reply)?;
        let large = is_large(cx, pool);
        let Some(state) = self.0.get_mut(pool) else {
            return Ok(Next::Done);
        };
        let next = match answer {
            Synced::Part => next_part(cx, pool, step, reply),
            Synced::Wanted if matches!(step, SyncStep::Ask) => Some(if large {
                SyncStep::From(0)
            } else if cx.pool(pool).is_some_and(|pool| pool.listed == 0) {
                // Operators put them in.
                SyncStep::Last { gone: Vec::new() }
            } else {
                SyncStep::Whole
            }),
            // Someone else changed it meanwhile, or began anew: once more from the first.
            Synced::Wanted if state.restarts < RESTARTS => {
                state.restarts = state.restarts.saturating_add(1);
                Some(SyncStep::From(0))
            }
            Synced::Wanted
            | Synced::Replaced
            | Synced::Current
            | Synced::Newer(_)
            | Synced::Differs
            | Synced::Coming => None,
        };
        if let Some(step) = next {
            let digest = state.digest;
            cx.commands.push_back(Command::Sync { pool, step, digest });
            return Ok(Next::Goes);
        }
        state.under_way = false;
        if let SyncStep::Stray(id) = step {
            match answer {
                Synced::Current => {
                    state.answer = Some(answer);
                    return Ok(Next::Stray(id.clone()));
                }
                // Others are about to be in force.
                Synced::Coming => return Ok(Next::Done),
                Synced::Wanted
                | Synced::Replaced
                | Synced::Newer(_)
                | Synced::Differs
                | Synced::Part => {}
            }
        }
        let before = state.answer.replace(answer);
        if let Some(notice) = notice_of(cx, pool, before, answer) {
            cx.notice(notice);
        }
        Ok(Next::Done)
    }

    /// Whether other accounts are in force than this configuration says.
    pub(super) fn is_ignored(&self, pool: usize) -> bool {
        let answer = self.0.get(pool).and_then(|state| state.answer);
        matches!(answer, Some(Synced::Newer(_) | Synced::Differs))
    }

    /// A sync failed, and is not sent again.
    pub(super) fn on_failed(&mut self, pool: usize) {
        if let Some(state) = self.0.get_mut(pool) {
            state.under_way = false;
        }
    }

    /// Syncs under way were lost with the pipe.
    pub(super) fn on_pipe_lost(&mut self) {
        for state in &mut self.0 {
            state.under_way = false;
        }
    }

    /// Another epoch means that Redis lost its data and someone has synced the pool since, maybe with a lower revision.
    pub(super) fn see_epoch(&mut self, cx: &mut Context, pool: usize, epoch: u64) {
        let state = self.0.get_mut(pool);
        let known = state.and_then(|state| state.epoch.replace(epoch));
        if known.is_some_and(|known| known != 0 && known != epoch) {
            self.ask(cx, pool);
        }
    }

    /// An account that this configuration does not have, while its very accounts are in force, is nobody's: it is taken out.
    /// Whether they still are, Redis says: another revision may just have come. Returns whether the id is none.
    #[inline(never)]
    pub(super) fn see_stray(&mut self, cx: &mut Context, pool: usize, account: &[u8]) -> bool {
        let answer = self.0.get(pool).and_then(|state| state.answer);
        // Accounts of the ledger are nobody's to take away but an operator's.
        let is_ledgers = cx.pool(pool).is_none_or(|pool| pool.accounts_are_ledgers);
        if is_ledgers || !matches!(answer, Some(Synced::Current | Synced::Replaced)) {
            return false;
        }
        match std::str::from_utf8(account) {
            Ok(id) if is_name(id) => {
                self.begin(cx, pool, SyncStep::Stray(id.to_owned()));
                false
            }
            Ok(_) | Err(_) => true,
        }
    }

    /// A recount says what is in force: a revision, and its digest. Unless that is what the last sync answered, the pool is
    /// asked for anew.
    pub(super) fn see_in_force(
        &mut self,
        cx: &mut Context,
        pool: usize,
        (held, digest): (u64, Option<u64>),
    ) {
        let revision = cx.pool(pool).map_or(0, |pool| pool.revision);
        let Some(state) = self.0.get(pool) else {
            return;
        };
        let ours = held == revision && digest == Some(state.digest);
        let known = match state.answer {
            Some(Synced::Current | Synced::Replaced) => ours,
            Some(Synced::Newer(newer)) => held == newer,
            Some(Synced::Differs) => held == revision && digest.is_some() && !ours,
            Some(Synced::Wanted | Synced::Coming | Synced::Part) | None => false,
        };
        if !known {
            self.ask(cx, pool);
        }
    }
}

/// The notice about a sync's reply, if an operator should read one.
fn notice_of(cx: &Context, pool: usize, before: Option<Synced>, answer: Synced) -> Option<Notice> {
    let revision = cx.pool(pool).map_or(0, |pool| pool.revision);
    let pool = cx.pool_name(pool);
    match answer {
        // Said already.
        Synced::Newer(_) | Synced::Differs if before == Some(answer) => None,
        // The next recount that it hears of says whether it still is.
        Synced::Wanted | Synced::Coming | Synced::Part | Synced::Current => None,
        Synced::Replaced => Some(Notice::Replaced { pool, revision }),
        Synced::Newer(in_force) => Some(Notice::Newer {
            pool,
            revision,
            in_force,
        }),
        Synced::Differs => Some(Notice::Differs { pool, revision }),
    }
}

/// Whether a pool's accounts go in parts.
pub(super) fn is_large(cx: &Context, pool: usize) -> bool {
    let pool = cx.pool(pool);
    pool.is_some_and(|pool| pool.listed > SYNC_PART)
}

/// A part of a large pool has arrived: what comes after it.
fn next_part(cx: &Context, pool: usize, step: &SyncStep, reply: &[u8]) -> Option<SyncStep> {
    match step {
        SyncStep::From(from) => {
            let next = from.saturating_add(SYNC_PART);
            let pool = cx.pool(pool)?;
            Some(if next < pool.listed {
                SyncStep::From(next)
            } else if pool.accounts_are_ledgers {
                SyncStep::Last { gone: Vec::new() }
            } else {
                SyncStep::Sweep {
                    cursor: "0".to_owned(),
                    gone: Vec::new(),
                }
            })
        }
        SyncStep::Sweep { .. } => {
            let (cursor, ids) = commands::swept(reply);
            let gone = ids.filter(|id| cx.account_index(pool, id.as_bytes()).is_none());
            let gone = gone.map(str::to_owned).collect();
            Some(match cursor {
                "0" => SyncStep::Last { gone },
                cursor => SyncStep::Sweep {
                    cursor: cursor.to_owned(),
                    gone,
                },
            })
        }
        SyncStep::Ask | SyncStep::Whole | SyncStep::Last { .. } | SyncStep::Stray(_) => None,
    }
}

/// Tells apart two sets of accounts, as the ledger sees them, under one revision.
#[must_use]
pub fn digest(pool: &Pool, config: &Config) -> u64 {
    let mut text = millionths(config.score.load).to_string();
    let scale = Scale::of(pool, config.score, config.priority_mode);
    if let Some(least) = config.adaptive {
        text.push_str(&format!("\nadaptive {least}"));
    }
    if pool.accounts_are_ledgers {
        // Those that an empty pool begins with may differ.
        text.push_str(&format!("\nledger {scale:?}"));
    } else {
        if pool.priority_range.is_some() {
            text.push_str(&format!("\n{scale:?}"));
        }
        let mut tiers: Vec<u32> = pool.accounts.iter().map(|one| one.priority).collect();
        tiers.sort_unstable();
        tiers.dedup();
        for account in &pool.accounts {
            let base = match config.priority_mode {
                PriorityMode::Weighted => scale.base(account.priority),
                // As older versions did: one step for each better priority that is there.
                PriorityMode::Strict => {
                    let tier = tiers.partition_point(|other| *other < account.priority);
                    (tier as u64).saturating_mul(scale.weight)
                }
            };
            let (id, max) = (&account.id, account.max_concurrency);
            text.push_str(&format!("\n{id} {max} {base} {}", account.enabled));
            if let Some(pace) = account.pace {
                text.push_str(&format!(" {pace}"));
            }
        }
    }
    let [a, b, c, d, e, f, g, h, ..] = hash128(text.as_bytes());
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
