use std::collections::{BTreeMap, BTreeSet};

use redis::{Client, Connection, Pipeline, RedisResult};

use super::Redis;

/// Reads one pool's state in Redis, past the filter and its scripts.
#[derive(Clone, Debug)]
pub struct Ledger {
    client: Client,
    prefix: String,
    pool: String,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct LedgerState {
    /// Account id → its record as stored.
    pub accounts: BTreeMap<String, String>,
    /// `#revision` and the like, from the same hash.
    pub meta: BTreeMap<String, String>,
    /// Accounts that can take a lease, with their score.
    pub free: BTreeMap<String, f64>,
    /// Number of leases as counted; without what a reconcile pass has recounted so far.
    pub used: BTreeMap<String, i64>,
    /// Lease id → expiry, ms of Redis TIME.
    pub leases: BTreeMap<String, f64>,
    /// Lease id → account id, without a reconcile pass's mark.
    pub owner: BTreeMap<String, String>,
    /// Account id → until, ms of Redis TIME.
    pub cooldown: BTreeMap<String, f64>,
    /// Redis TIME of this reading, ms.
    pub now_ms: f64,
}

impl Ledger {
    pub fn new(redis: &Redis, prefix: &str, pool: &str) -> Ledger {
        Ledger::at(redis.client(), prefix, pool)
    }

    /// In a Redis that someone else has started.
    pub fn at(client: Client, prefix: &str, pool: &str) -> Ledger {
        Ledger {
            client,
            prefix: prefix.into(),
            pool: pool.into(),
        }
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}:{{{}}}:{name}", self.prefix, self.pool)
    }

    fn connect(&self) -> RedisResult<Connection> {
        let timeout = std::time::Duration::from_secs(10);
        let connection = self.client.get_connection_with_timeout(timeout)?;
        connection.set_read_timeout(Some(timeout))?;
        Ok(connection)
    }

    /// In one transaction, on a connection of its own: Redis may have been restarted since the last one.
    pub fn try_state(&self) -> RedisResult<LedgerState> {
        let mut all = Pipeline::new();
        all.atomic()
            .hgetall(self.key("accounts"))
            .zrange_withscores(self.key("free"), 0, -1);
        all.hgetall(self.key("used"))
            .zrange_withscores(self.key("leases"), 0, -1)
            .hgetall(self.key("owner"));
        all.zrange_withscores(self.key("cooldown"), 0, -1)
            .cmd("TIME");
        type Hash = BTreeMap<String, String>;
        type Scores = Vec<(String, f64)>;
        type Raw = (
            Hash,
            Scores,
            BTreeMap<String, i64>,
            Scores,
            Hash,
            Scores,
            (f64, f64),
        );
        let (accounts, free, used, leases, owner, cooldown, time): Raw =
            all.query(&mut self.connect()?)?;
        let (meta, accounts) = accounts
            .into_iter()
            .partition(|(field, _)| field.starts_with('#'));
        // A reconcile pass keeps its own counts beside, and marks the leases it has counted.
        let used = used
            .into_iter()
            .filter(|(field, _)| !field.starts_with('#'));
        let unmarked = |owner: String| owner.split(':').next().unwrap_or_default().to_owned();
        Ok(LedgerState {
            accounts,
            meta,
            free: free.into_iter().collect(),
            used: used.collect(),
            leases: leases.into_iter().collect(),
            owner: owner
                .into_iter()
                .map(|(lease, account)| (lease, unmarked(account)))
                .collect(),
            cooldown: cooldown.into_iter().collect(),
            now_ms: time.0 * 1000.0 + (time.1 / 1000.0).floor(),
        })
    }

    #[track_caller]
    pub fn state(&self) -> LedgerState {
        self.try_state()
            .unwrap_or_else(|error| panic!("the ledger can't be read: {error}"))
    }

    /// Leases that have not expired.
    #[track_caller]
    pub fn live(&self) -> usize {
        self.state().live()
    }

    #[track_caller]
    pub fn used(&self, account: &str) -> i64 {
        self.state().used.get(account).copied().unwrap_or_default()
    }

    #[track_caller]
    pub fn free(&self) -> BTreeSet<String> {
        self.state().free.into_keys().collect()
    }

    #[track_caller]
    pub fn owner(&self) -> BTreeMap<String, String> {
        self.state().owner
    }

    /// No lease, expired or not, and no count above 0. False while Redis doesn't answer.
    pub fn is_empty(&self) -> bool {
        self.try_state().is_ok_and(|state| state.is_empty())
    }

    #[track_caller]
    pub fn assert_consistent(&self) {
        self.state().assert_consistent();
    }
}

impl LedgerState {
    pub fn live(&self) -> usize {
        self.leases
            .values()
            .filter(|expiry| **expiry > self.now_ms)
            .count()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.owner.is_empty() && self.used.values().all(|used| *used == 0)
    }

    /// `used` counts exactly what is owned, and `leases` and `owner` have the same members.
    #[track_caller]
    pub fn assert_consistent(&self) {
        let mut owned = BTreeMap::<&str, i64>::new();
        for account in self.owner.values() {
            *owned.entry(account).or_default() += 1;
        }
        let used: BTreeMap<&str, i64> = self
            .used
            .iter()
            .filter(|(_, used)| **used != 0)
            .map(|(id, used)| (id.as_str(), *used))
            .collect();
        assert_eq!(
            used, owned,
            "used (left) is not the number of leases owned (right): {self:#?}"
        );
        assert!(
            self.leases.keys().eq(self.owner.keys()),
            "leases and owner have different members: {self:#?}"
        );
    }
}
