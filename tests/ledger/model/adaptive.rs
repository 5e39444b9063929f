//! Limits that adapt to what an upstream takes.

use super::ledger::Model;
use slotgate::ledger::fault::Fault;

/// How an account's limit adapts.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub most: u32,
    /// How many leases were taken while it was full, since it changed last.
    pub credit: u32,
    pub lowered_ms: u64,
}

impl Model {
    /// The limit in force of an account that may have so many slots at most.
    pub fn put_limit_in(&mut self, id: &str, most: u32) -> u32 {
        if self.adaptive == 0 {
            self.limits.remove(id);
            return most;
        }
        let before = self.accounts.get(id).map(|account| account.max);
        match self.limits.get_mut(id) {
            Some(limit) => {
                limit.most = most;
                before.map_or(most, |before| before.min(most))
            }
            None => {
                self.limits.insert(id.into(), Limit::new(most));
                most
            }
        }
    }

    /// Limits adapt no longer: this account has what it may have at most.
    pub fn end_limit(&mut self, id: &str) {
        if let (Some(limit), Some(account)) = (self.limits.remove(id), self.accounts.get_mut(id)) {
            account.max = limit.most;
        }
    }

    pub fn is_lowered(&self, id: &str) -> bool {
        let limit = self.limits.get(id).zip(self.accounts.get(id));
        limit.is_some_and(|(limit, account)| limit.most != account.max)
    }

    /// After it has taken leases in one script: it rises by one when as many as it says were taken while it was full.
    pub fn raise(&mut self, id: &str, leases: u32) {
        let used = self.used(id);
        if let (Some(limit), Some(account)) = (self.limits.get_mut(id), self.accounts.get_mut(id))
            && used >= account.max
            && account.max < limit.most
        {
            limit.credit += leases;
            if limit.credit >= account.max {
                limit.credit = 0;
                account.max += 1;
            }
        }
    }

    /// An answer to a lease of this age says that the account takes fewer. Its limit now.
    pub fn less(&mut self, id: &str, age_ms: u64) -> Result<u64, Fault> {
        let account = self.accounts.get_mut(id).ok_or(Fault::NoAccount)?;
        if self.adaptive == 0 || account.removed {
            return Ok(account.max.into());
        }
        let held = self.limits.get(id).copied();
        let limit = held.unwrap_or(Limit::new(account.max));
        if self.now_ms - age_ms < limit.lowered_ms {
            return Ok(account.max.into());
        }
        let least = self.adaptive.min(account.max);
        account.max = least.max(account.max * 7 / 10);
        let lowered = Limit {
            lowered_ms: self.now_ms,
            ..Limit::new(limit.most)
        };
        self.limits.insert(id.into(), lowered);
        Ok(account.max.into())
    }
}

impl Limit {
    fn new(most: u32) -> Self {
        Self {
            most,
            credit: 0,
            lowered_ms: 0,
        }
    }
}
