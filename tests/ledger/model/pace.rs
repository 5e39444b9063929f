//! How many leases an account may take in a time.

use super::ledger::Model;

/// Requests, in how many ms, and how many of them at once.
pub type Rate = [u64; 3];

/// As the ledger writes it.
pub fn rate(rate: Rate) -> String {
    rate.map(|part| part.to_string()).join("/")
}

/// An account's turns.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub rate: Rate,
    /// When all turns are there again, µs.
    pub full_us: u64,
    /// When its leases were taken, ms, since it was last given more than its turns.
    taken_ms: Vec<u64>,
}

impl Bucket {
    fn every_us(&self) -> u64 {
        let [requests, per_ms, _] = self.rate;
        per_ms * 1_000 / requests
    }

    fn burst(&self) -> u64 {
        self.rate[2]
    }

    /// When it has its next turn, if it has none, ms.
    fn next_ms(&self) -> u64 {
        let ahead_us = (self.burst() - 1) * self.every_us();
        self.full_us.saturating_sub(ahead_us).div_ceil(1_000)
    }
}

impl Model {
    /// A pace that holds from now on; its turns go on where they were.
    pub fn put_pace_in(&mut self, id: &str, pace: Option<Rate>) {
        let Some(rate) = pace else {
            self.paces.remove(id);
            return;
        };
        let bucket = self.paces.entry(id.into()).or_insert_with(|| Bucket {
            rate,
            full_us: 0,
            taken_ms: Vec::new(),
        });
        if bucket.rate != rate {
            bucket.rate = rate;
            bucket.taken_ms.clear();
        }
    }

    /// Whether it cools until it has its next turn.
    pub fn is_out_of_pace(&self, id: &str) -> bool {
        let until = self.cooldown.get(id).copied();
        let next = self.paces.get(id).map(Bucket::next_ms);
        until
            .zip(next)
            .is_some_and(|(until, next)| until.abs_diff(next) <= 1)
    }

    /// After it has taken a lease. One out of pace cools until its next turn.
    pub fn meter(&mut self, id: &str) -> Result<(), String> {
        let now_us = self.now_ms * 1_000;
        let Some(bucket) = self.paces.get_mut(id) else {
            return Ok(());
        };
        let every_us = bucket.every_us();
        // Those that were taken without asking shut it for one turn more.
        bucket.full_us =
            (bucket.full_us.max(now_us) + every_us).min(now_us + (bucket.burst() + 1) * every_us);
        bucket.taken_ms.push(self.now_ms);
        let [requests, per_ms, burst] = bucket.rate;
        let since_ms = self.now_ms - per_ms;
        let taken = bucket.taken_ms.iter().filter(|at| **at > since_ms).count() as u64;
        if taken > requests + burst - 1 {
            return Err(format!("{id} has got {taken} leases in {per_ms} ms"));
        }
        if bucket.full_us + every_us > now_us + bucket.burst() * every_us {
            let next_ms = bucket.next_ms();
            let until_ms = self.cooldown.entry(id.into()).or_insert(0);
            *until_ms = (*until_ms).max(next_ms);
            if let Some(account) = self.accounts.get_mut(id) {
                account.cooling = true;
            }
        }
        Ok(())
    }

    /// It has got, or may get, more than its turns.
    pub fn excuse(&mut self, id: &str) {
        if let Some(bucket) = self.paces.get_mut(id) {
            bucket.taken_ms.clear();
        }
    }

    /// Ends its cooldown, also that of its pace.
    pub fn let_go(&mut self, id: &str) -> Option<u64> {
        self.excuse(id);
        self.cooldown.remove(id)
    }
}
