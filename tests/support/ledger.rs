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
    /// Lease id → what `owner` says of one that waits, and until when its worker vouches for it.
    pub waiting: BTreeMap<String, (String, f64)>,
    /// Tenant → number of its leases as counted.
    pub tenants: BTreeMap<String, i64>,
    /// The queue's members.
    pub queue: BTreeSet<String>,
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

    pub(super) fn client(&self) -> Client {
        self.client.clone()
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
            .zrange(self.key("queue"), 0, -1)
            .hgetall(self.key("tenants"))
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
            BTreeSet<String>,
            Hash,
            (f64, f64),
        );
        let (accounts, free, used, mut leases, owner, cooldown, queue, tenants, time): Raw =
            all.query(&mut self.connect()?)?;
        let (meta, accounts) = accounts
            .into_iter()
            .partition(|(field, _)| field.starts_with('#'));
        // A reconcile pass keeps its own counts beside, and marks the leases it has counted.
        let used = used
            .into_iter()
            .filter(|(field, _)| !field.starts_with('#'));
        let unmarked = |owner: String| owner.split(':').next().unwrap_or_default().to_owned();
        let (waiting, owner): (Hash, Hash) = owner
            .into_iter()
            .partition(|(_, owner)| owner.starts_with('~'));
        let until = |lease: &str| {
            let entry = leases.iter().find(|(id, _)| id == lease);
            entry.map_or(0.0, |(_, until)| *until)
        };
        let waiting: BTreeMap<_, _> = waiting
            .into_iter()
            .map(|(lease, text)| (lease.clone(), (text, until(&lease))))
            .collect();
        leases.retain(|(lease, _)| !waiting.contains_key(lease));
        let tenants = tenants
            .into_iter()
            .filter(|(field, _)| !field.starts_with(['#', '@']));
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
            waiting,
            tenants: tenants
                .map(|(tenant, count)| (tenant, count.parse().unwrap_or(-1)))
                .collect(),
            queue,
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

    /// No lease, expired or not, no count above 0, and nobody waits. False while Redis doesn't answer.
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
        self.leases.is_empty()
            && self.owner.is_empty()
            && self.waiting.is_empty()
            && self.used.values().all(|used| *used == 0)
    }

    /// `used` counts exactly what is owned, `tenants` what each tenant owns, `leases` and `owner` have the same members, and
    /// all that wait stand in the queue.
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
        let mut held = BTreeMap::<String, i64>::new();
        for tenant in self.owner.keys().filter_map(|lease| tenant_of(lease)) {
            *held.entry(tenant.into()).or_default() += 1;
        }
        assert_eq!(
            self.tenants, held,
            "tenants (left) is not the number of their leases (right): {self:#?}"
        );
        let waiting: BTreeSet<String> = self
            .waiting
            .iter()
            .map(|(lease, (text, _))| {
                let mut words = text.trim_start_matches('~').split(' ');
                let (order, line) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
                let tenant = tenant_of(lease).unwrap_or("-");
                format!("w:{tenant}:{line}:{order}:{lease}")
            })
            .collect();
        let queue: BTreeSet<String> = self
            .queue
            .iter()
            .filter(|member| member.starts_with("w:"))
            .cloned()
            .collect();
        assert_eq!(
            queue, waiting,
            "queue (left) is not who waits (right): {self:#?}"
        );
    }
}

/// The tenant that a lease's id names.
fn tenant_of(lease: &str) -> Option<&str> {
    lease.split_once('.').map(|(_, tenant)| tenant)
}
