//! Carries what a worker counted to Envoy's stats, in batches. Envoy has one metric of each name for all workers: each adds
//! the difference to what it added before, so a gauge is the sum of theirs.

use super::calls::{self, Metric};
use crate::VERSION;
use crate::pool::state::State;
use crate::worker::Worker;
use crate::worker::counters::{self, OTHER, name_of};
use crate::worker::output::Gauges;

/// Envoy's metrics, defined once per configuration, and what they hold of this worker so far.
#[derive(Debug)]
pub struct Metrics {
    counters: Vec<Series>,
    gauges: [Series; Gauges::NAMES.len()],
    /// As the worker's counters: the last one is the others'.
    pools: Vec<Pool>,
    /// 1, with the version as its label. Set by every worker.
    build: Series,
    sent: (u64, Gauges),
}

#[derive(Debug)]
struct Pool {
    counters: Vec<Series>,
    waited_us: Option<u32>,
    queued_us: Option<u32>,
    /// How many requests wait in the pool's queue.
    waiting: Series,
    /// What every worker sets, rather than adds to.
    asked_basis_points: Series,
    ignored: Series,
    overridden: Series,
    /// In the order of `State::ALL`.
    states: Vec<Series>,
    accounts: Vec<Account>,
    /// How often the worker had seen them in the ledger.
    seen: u64,
}

#[derive(Debug)]
struct Account {
    requests: Series,
    refused: Series,
    failed: Series,
    cooldown: Series,
    held: Series,
    used: Series,
    limit: Series,
    state: Series,
}

/// One metric, and what it holds of this worker.
#[derive(Debug)]
struct Series {
    id: Option<u32>,
    sent: u64,
}

impl Series {
    #[inline(never)]
    fn define(kind: Metric, name: &str) -> Self {
        let id = calls::define_metric(kind, name).ok();
        Self { id, sent: 0 }
    }

    fn counters(names: &[String]) -> Vec<Self> {
        let define = |name: &String| Self::define(Metric::Counter, name);
        names.iter().map(define).collect()
    }

    /// Adds what it lacks.
    #[inline(never)]
    fn add_up_to(&mut self, now: u64) {
        let more = now.wrapping_sub(self.sent).cast_signed();
        self.sent = now;
        // Envoy refuses an increment of 0.
        if let (Some(id), true) = (self.id, more != 0) {
            calls::increment(id, more);
        }
    }

    /// Sets it, for all workers.
    #[inline(never)]
    fn set(&mut self, now: u64, again: bool) {
        if again || self.sent != now {
            self.sent = now;
            self.set_again();
        }
    }

    fn set_again(&self) {
        if let Some(id) = self.id {
            calls::record(id, self.sent);
        }
    }
}

impl Metrics {
    /// Defines them, and shows what is known of the pools.
    pub fn define(worker: &Worker) -> Self {
        let config = worker.config();
        let most = config.metrics;
        let mut pools = Vec::new();
        for pool in config.pools.iter().take(most.max_pools) {
            let mut accounts = Vec::new();
            for account in pool.accounts.iter().take(most.max_accounts) {
                accounts.push(Account::define(&pool.name, &account.id));
            }
            if pool.accounts.len() > most.max_accounts {
                accounts.push(Account::define(&pool.name, OTHER));
            }
            pools.push(Pool::define(&pool.name, accounts));
        }
        let takes_the_rest = config
            .pools
            .last()
            .is_some_and(|pool| pool.rules.is_empty());
        if config.pools.len() > most.max_pools || !takes_the_rest {
            pools.push(Pool::define(OTHER, Vec::new()));
        }
        let labelled = |kind, name| Series::define(kind, &name_of(&[name, VERSION]));
        let mut metrics = Self {
            counters: Series::counters(&counters::worker_names()),
            gauges: Gauges::NAMES.map(|name| Series::define(Metric::Gauge, &name_of(&[name]))),
            pools,
            build: labelled(Metric::Gauge, "build_info;version="),
            sent: Default::default(),
        };
        metrics.show(worker);
        metrics
    }

    /// Whether there is something to send.
    pub fn is_behind(&self, worker: &Worker) -> bool {
        self.sent != (worker.counters().total(), worker.gauges())
    }

    fn record(&self, times_us: Vec<(Option<usize>, u64)>, id: impl Fn(&Pool) -> Option<u32>) {
        let last = self.pools.len().saturating_sub(1);
        for (pool, us) in times_us {
            let pool = self.pools.get(pool.map_or(last, |pool| pool.min(last)));
            if let Some(id) = pool.and_then(&id) {
                calls::record(id, us);
            }
        }
    }

    /// Sends what was counted since the last time.
    pub fn send(&mut self, worker: &mut Worker) {
        let output = worker.output();
        self.record(std::mem::take(&mut output.waited_us), |pool| pool.waited_us);
        self.record(std::mem::take(&mut output.queued_us), |pool| pool.queued_us);
        let counters = worker.counters();
        self.sent = (counters.total(), worker.gauges());
        add_up_to(&mut self.counters, &counters.worker);
        add_up_to(&mut self.gauges, &self.sent.1.0);
        for (pool, now) in self.pools.iter_mut().zip(&counters.waiting) {
            pool.waiting.add_up_to(*now);
        }
        for (index, (pool, counts)) in self.pools.iter_mut().zip(&counters.pools).enumerate() {
            add_up_to(&mut pool.counters, counts);
            pool.define_named(worker, index);
            let (accounts, _) = worker.accounts(index);
            for (account, now) in pool.accounts.iter_mut().zip(accounts) {
                account.requests.add_up_to(now.requests);
                account.refused.add_up_to(now.refused);
                account.failed.add_up_to(now.failed);
                account.cooldown.add_up_to(now.cooldowns);
                account.held.add_up_to(now.held);
            }
        }
        self.show(worker);
    }

    /// Sets what every worker sees alike.
    fn show(&mut self, worker: &Worker) {
        let mut again_in_any = false;
        for (index, pool) in self.pools.iter_mut().enumerate() {
            let (accounts, seen) = worker.accounts(index);
            // Another worker may have set something older meanwhile.
            let again = pool.seen != seen;
            pool.seen = seen;
            again_in_any |= again;
            let asked = worker.basis_points(index).into();
            pool.asked_basis_points.set(asked, again);
            let (ignored, overridden) = worker.drift(index);
            pool.ignored.set(ignored.into(), again);
            pool.overridden.set(overridden, again);
            pool.define_named(worker, index);
            let states = worker.states(index).into_iter().flatten();
            for (series, now) in pool.states.iter_mut().zip(states) {
                series.set(*now, again);
            }
            for (account, now) in pool.accounts.iter_mut().zip(accounts) {
                account.used.set(now.used, again);
                account.limit.set(now.max_concurrency, again);
                account.state.set(now.state, again);
            }
        }
        self.build.set(1, again_in_any);
    }

    /// Sends the last of it; a worker that is no more has no part in a gauge. It holds nothing when it ends.
    pub fn end(&mut self, worker: &mut Worker) {
        self.send(worker);
        let of_pools = self.pools.iter_mut().map(|pool| &mut pool.waiting);
        for gauge in self.gauges.iter_mut().chain(of_pools) {
            gauge.add_up_to(0);
        }
        self.build.set(0, false);
        for series in self.pools.iter_mut().flat_map(Pool::set_by_all) {
            series.set(0, false);
        }
    }

    /// Sets again what a configuration that ended may have set to 0.
    pub fn set_again(&mut self) {
        self.build.set_again();
        for series in self.pools.iter_mut().flat_map(Pool::set_by_all) {
            series.set_again();
        }
    }
}

impl Pool {
    fn define(pool: &str, accounts: Vec<Account>) -> Self {
        let series = |kind, name| Series::define(kind, &name_of(&[name, ";pool=", pool]));
        // Those that share the last place have none.
        let of_one = |define: &dyn Fn() -> Series| match pool {
            OTHER => Series { id: None, sent: 0 },
            _ => define(),
        };
        let of_state = |state: State| {
            let name = |kind, name| {
                Series::define(kind, &name_of(&[name, state.as_str(), ";pool=", pool]))
            };
            name(Metric::Gauge, "accounts;state=")
        };
        Self {
            counters: Series::counters(&counters::pool_names(pool)),
            waited_us: series(Metric::Histogram, "acquire_us").id,
            queued_us: series(Metric::Histogram, "queue.wait_us").id,
            waiting: series(Metric::Gauge, "queue.pool_waiting"),
            asked_basis_points: of_one(&|| series(Metric::Gauge, "gray.asked_basis_points")),
            ignored: of_one(&|| series(Metric::Gauge, "accounts.ignored")),
            overridden: of_one(&|| series(Metric::Gauge, "accounts.overridden")),
            states: match pool {
                OTHER => Vec::new(),
                _ => State::ALL.map(of_state).into(),
            },
            accounts,
            seen: 0,
        }
    }
}

impl Pool {
    /// What every worker sets, rather than adds to.
    fn set_by_all(&mut self) -> impl Iterator<Item = &mut Series> {
        let own = [
            &mut self.asked_basis_points,
            &mut self.ignored,
            &mut self.overridden,
        ];
        let of_accounts = self.accounts.iter_mut();
        let of_accounts =
            of_accounts.flat_map(|one| [&mut one.used, &mut one.limit, &mut one.state]);
        own.into_iter().chain(&mut self.states).chain(of_accounts)
    }

    /// Defines the metrics of accounts that the ledger has named since.
    fn define_named(&mut self, worker: &Worker, index: usize) {
        let count = worker.accounts(index).0.len();
        let configured = worker.config().pools.get(index);
        // Those that share the last place have none of their own.
        let Some(configured) = configured.filter(|_| index < worker.config().metrics.max_pools)
        else {
            return;
        };
        while self.accounts.len() < count
            && let Some(account) = configured.accounts.get(self.accounts.len())
        {
            let is_last = self.accounts.len() >= worker.config().metrics.max_accounts;
            let id = if is_last { OTHER } else { &account.id };
            self.accounts.push(Account::define(&configured.name, id));
        }
    }
}

impl Account {
    fn define(pool: &str, id: &str) -> Self {
        let series = |kind, name| {
            let parts = ["account.", name, ";pool=", pool, ";account=", id];
            Series::define(kind, &name_of(&parts))
        };
        Self {
            requests: series(Metric::Counter, "requests"),
            refused: series(Metric::Counter, "refused"),
            failed: series(Metric::Counter, "failed"),
            cooldown: series(Metric::Counter, "cooldown"),
            held: series(Metric::Gauge, "held"),
            used: series(Metric::Gauge, "used"),
            limit: series(Metric::Gauge, "limit"),
            // Those that share the last place have none.
            state: match id {
                OTHER => Series { id: None, sent: 0 },
                _ => series(Metric::Gauge, "state"),
            },
        }
    }
}

fn add_up_to(series: &mut [Series], now: &[u64]) {
    for (series, now) in series.iter_mut().zip(now) {
        series.add_up_to(*now);
    }
}
