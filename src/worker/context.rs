//! Shared by all parts of a worker: the configuration, the accounts, the random numbers, and where results go.

use super::command::Command;
use super::counters::{Counter, Counters};
use super::notice::Notice;
use super::output::Output;
use crate::config::{Account, Config, MOST_ACCOUNTS, Pool, is_name};
use crate::ledger::commands::LedgerCommands;
use crate::ledger::keys;
use crate::pool::AccountTable;
use crate::pool::rests::Rests;
use crate::pool::state::State;
use crate::request::lease::LeaseId;
use crate::upstream::failing::Windows;
use fastrand::Rng;
use std::collections::VecDeque;

/// One pool as a worker knows it, whichever part learned it.
#[derive(Debug)]
pub(super) struct PoolView {
    pub(super) keys: LedgerCommands,
    pub(super) table: AccountTable,
    pub(super) windows: Windows,
    pub(super) rests: Rests,
}

/// A task that a request's step leaves for other parts.
#[derive(Debug)]
pub(super) enum Task {
    /// Tell the ledger of a lease that was chosen here.
    Record {
        slot: usize,
        pool: usize,
        lease: LeaseId,
        account: u32,
    },
    /// Ask what the ledger would have chosen beside this account, if one is known.
    Shadow {
        slot: usize,
        pool: usize,
        account: Option<u32>,
    },
    /// End a lease.
    Release {
        pool: usize,
        lease: LeaseId,
        in_doubt: bool,
    },
}

/// Lent to a part while it handles an event.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    /// The name of this worker in recounts.
    pub(super) name: String,
    /// Where scripts say what is granted to this worker's requests that wait.
    pub(super) channel: String,
    pub(super) pools: Vec<PoolView>,
    pub(super) random: Rng,
    pub(super) counters: Counters,
    pub(super) output: Output,
    /// To be sent, in order.
    pub(super) commands: VecDeque<Command>,
    /// To be done by other parts, in order.
    pub(super) tasks: VecDeque<Task>,
    /// When the event came, in ms.
    pub(super) now_ms: u64,
    /// When the event came, in µs: only for measuring.
    pub(super) now_us: u64,
}

impl Context {
    pub(super) fn new(config: Config, mut random: Rng) -> (Self, u64) {
        let worker = random.u64(..);
        let pools = config.pools.iter().map(|pool| PoolView {
            keys: LedgerCommands::new(&config.redis.key_prefix, &pool.name),
            table: AccountTable::new(pool, &config),
            windows: Windows::new(pool.accounts.len(), config.failing),
            rests: Rests::new(pool.accounts.len()),
        });
        let context = Self {
            // The number is explained in `reconcile.lua`; 2: it knows what cannot be there; 3: and who waits.
            name: format!("3.{worker:016x}"),
            channel: keys::channel(&config.redis.key_prefix, worker),
            pools: pools.collect(),
            random,
            counters: Counters::new(config.pools.len().min(config.metrics.max_pools)),
            output: Output::default(),
            commands: VecDeque::new(),
            tasks: VecDeque::new(),
            now_ms: 0,
            now_us: 0,
            config,
        };
        (context, worker)
    }

    /// Counts one more for a pool, or for a request of none.
    pub(super) fn count_in(&mut self, pool: impl Into<Option<usize>>, counter: Counter) {
        self.counters.add_in(pool, counter, 1);
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.output.notices.push(notice);
    }

    /// Says that an account's state has changed.
    #[inline(never)]
    pub(super) fn say_state(&mut self, pool: usize, account: u32, state: State, for_ms: u64) {
        self.notice(Notice::Account {
            pool: self.pool_name(pool),
            account: self.account_name(pool, account),
            state,
            for_ms,
        });
    }

    pub(super) fn pool(&self, pool: usize) -> Option<&Pool> {
        self.config.pools.get(pool)
    }

    #[inline(never)]
    pub(super) fn pool_name(&self, pool: usize) -> String {
        let pool = self.pool(pool);
        pool.map(|pool| pool.name.clone()).unwrap_or_default()
    }

    #[inline(never)]
    pub(super) fn account_name(&self, pool: usize, account: u32) -> String {
        let id = self.config.account_id(pool, account);
        id.map(str::to_owned).unwrap_or_default()
    }

    /// The index of an account that Redis named.
    pub(super) fn account_index(&self, pool: usize, id: &[u8]) -> Option<u32> {
        self.pools.get(pool)?.table.index(id)
    }

    /// The index of an account that was granted. One that this configuration does not list is added where the accounts are the
    /// ledger's; `None`: it is nobody's.
    pub(super) fn find_account(&mut self, pool: usize, id: &[u8]) -> Option<u32> {
        self.account_index(pool, id)
            .or_else(|| self.add_account(pool, id))
    }

    #[inline(never)]
    fn add_account(&mut self, pool: usize, id: &[u8]) -> Option<u32> {
        let most = self.config.metrics.max_accounts.saturating_add(1);
        let configured = self.config.pools.get_mut(pool)?;
        let id = std::str::from_utf8(id).ok().filter(|id| is_name(id))?;
        if !configured.accounts_are_ledgers || configured.accounts.len() >= MOST_ACCOUNTS {
            return None;
        }
        let view = self.pools.get_mut(pool)?;
        configured.accounts.push(Account::named(id.to_owned()));
        view.windows.add(self.config.failing);
        view.rests.add();
        self.counters.touch();
        Some(view.table.add(id, most))
    }

    /// Changes this worker's own counts of a pool.
    pub(super) fn change_table(&mut self, pool: usize, change: impl FnOnce(&mut AccountTable)) {
        self.counters.touch();
        if let Some(pool) = self.pools.get_mut(pool) {
            change(&mut pool.table);
        }
    }
}
