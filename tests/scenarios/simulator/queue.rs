//! Who waits in the simulated ledger, and how slots are handed on: first in, first out, but for tenants at their cap.

use super::Without;
use super::ledger::{Ledger, bulk, is_among, number, text};
use super::{MAX_WAITING, TTL_MS};
use slotgate::request::lease::LeaseId;
use std::collections::BTreeMap;

/// One that waits.
pub(super) struct Waiter {
    /// Where it stands: the lower the earlier.
    pub(super) order: String,
    pub(super) lease: Vec<u8>,
    terms: Terms,
    channel: String,
    /// Until when its worker vouches for it, in ms.
    pub(super) until_ms: u64,
}

/// What an acquire says of a lease that may have to wait.
#[derive(Clone)]
pub(super) struct Terms {
    cap: usize,
    most: usize,
    pub(super) cookie: usize,
    order: Option<String>,
}

impl Terms {
    pub(super) fn read(words: &[u8]) -> Self {
        let words: Vec<_> = text(words).split(' ').collect();
        let [cap, most, weight, cookie, order] = words[..] else {
            panic!("no terms: {words:?}")
        };
        assert!(weight.parse::<u32>().unwrap() > 0);
        Self {
            cap: cap.parse().unwrap(),
            most: most.parse().unwrap(),
            cookie: cookie.parse().unwrap(),
            order: (order != "-").then(|| order.into()),
        }
    }
}

fn tenant(lease: &[u8]) -> Option<&[u8]> {
    lease.get(LeaseId::LEN + 1..)
}

impl Ledger {
    fn has_room(&self, lease: &[u8], cap: usize) -> bool {
        let Some(tenant) = tenant(lease) else {
            return true;
        };
        let of_tenant = |other: &&Vec<u8>| self::tenant(other) == Some(tenant);
        cap == 0 || self.leases.keys().filter(of_tenant).count() < cap
    }

    pub(super) fn waits(&self, lease: &[u8]) -> bool {
        self.waiters.iter().any(|waiter| waiter.lease == lease)
    }

    /// Gives what is free to those who wait for it.
    pub(super) fn hand_off(&mut self, now_ms: u64) {
        while let Some(account) = self.free_account(now_ms) {
            let can = |waiter: &Waiter| self.has_room(&waiter.lease, waiter.terms.cap);
            let Some(first) = self.waiters.iter().position(can) else {
                return;
            };
            let waiter = self.waiters.remove(first);
            let probes = self.take(&waiter.lease, account, now_ms + TTL_MS);
            self.handed.push(waiter.lease.clone());
            if self.without == Without::Grants {
                self.untold.insert(waiter.lease, waiter.order);
                continue;
            }
            let (lease, cookie) = (text(&waiter.lease), waiter.terms.cookie);
            let word = super::ledger::granted(account, probes);
            let words = format!("{cookie} {lease} {word} {}", self.epoch);
            self.grants.push(words.clone());
            self.said.push((waiter.channel, words));
        }
    }

    /// Those that no worker has vouched for in time go.
    pub(super) fn forget(&mut self, now_ms: u64) {
        let over = |waiter: &mut Waiter| waiter.until_ms <= now_ms;
        let over = self.waiters.extract_if(.., over);
        self.forgotten.extend(over.map(|waiter| waiter.lease));
    }

    /// The answers to leases that wait if they must.
    pub(super) fn join(
        &mut self,
        now_ms: u64,
        (mode, leases, terms): (&str, &[Vec<u8>], &[Vec<u8>]),
    ) -> Result<String, String> {
        let (mode, tried) = mode.split_once(" not ").unwrap_or((mode, ""));
        let words: Vec<_> = mode.split(' ').collect();
        let ["join", most, vouched_ms, channel] = words[..] else {
            panic!("{mode}")
        };
        assert_eq!(most, MAX_WAITING.0.to_string());
        let until_ms = now_ms + number(vouched_ms.as_bytes());
        for waiter in &mut self.waiters {
            if leases.contains(&waiter.lease) && self.without != Without::Heartbeats {
                waiter.until_ms = until_ms;
            }
        }
        // Ahead of those that come now.
        self.hand_off(now_ms);
        let mut refused = BTreeMap::new();
        for (index, lease) in leases.iter().enumerate() {
            let mut terms = Terms::read(&terms[index]);
            // How long ago a request came that has tried an account.
            let age = terms.order.take_if(|order| order.starts_with('+'));
            let age_ms = age.map(|age| age[1..].parse::<u64>().unwrap());
            if let Some(order) = &terms.order
                && self.told.get(lease) != Some(order)
            {
                return Err(format!("{} asks for another's place", text(lease)));
            }
            if self.leases.contains_key(lease) || self.waits(lease) {
                continue;
            }
            let free = self.free_account_beside(now_ms, tried);
            let has_room = self.has_room(lease, terms.cap);
            if let (Some(account), true) = (free, has_room) {
                self.take(lease, account, now_ms + TTL_MS);
                continue;
            }
            // It would be handed the account that it tried.
            let others = self.free_account(now_ms);
            if others.is_some_and(|account| is_among(tried, account)) {
                let why = if has_room {
                    ":700\r\n".into()
                } else {
                    bulk("!tenant 700")
                };
                refused.insert(lease.clone(), why);
                continue;
            }
            let of_tenant = |waiter: &&Waiter| tenant(&waiter.lease) == tenant(lease);
            let own = self.waiters.iter().filter(of_tenant).count();
            let own_full = tenant(lease).is_some() && terms.most > 0 && own >= terms.most;
            let is_full = self.waiters.len() >= MAX_WAITING.0 || own_full;
            if terms.order.is_none() && age_ms.is_none() && is_full {
                refused.insert(lease.clone(), bulk("!full 700"));
                continue;
            }
            if terms.order.is_some() && self.without == Without::Heartbeats {
                continue;
            }
            self.joins += 1;
            let order = terms.order.clone();
            let came_ms = now_ms - age_ms.unwrap_or(0);
            let order = order.unwrap_or_else(|| format!("{came_ms:010}{:06}000", self.joins));
            let waiter = Waiter {
                order,
                lease: lease.clone(),
                terms,
                channel: channel.to_owned(),
                until_ms,
            };
            let behind = |other: &Waiter| other.order <= waiter.order;
            let place = self.waiters.partition_point(behind);
            self.waiters.insert(place, waiter);
        }
        self.hand_off(now_ms);
        let answers = leases
            .iter()
            .map(|lease| self.answer(now_ms, lease, &refused));
        Ok(answers.collect::<Vec<_>>().concat())
    }

    fn answer(
        &mut self,
        now_ms: u64,
        lease: &Vec<u8>,
        refused: &BTreeMap<Vec<u8>, String>,
    ) -> String {
        if let Some(why) = refused.get(lease) {
            return why.clone();
        }
        let waiter = self.waiters.iter().find(|waiter| waiter.lease == *lease);
        let order = waiter.map(|waiter| waiter.order.clone());
        let order = order.or_else(|| self.untold.get(lease).cloned());
        let order = match (order, self.leases.get(lease)) {
            (Some(order), _) => order,
            (None, Some((account, _))) => {
                let probes = self.probes[*account].as_ref() == Some(lease);
                return bulk(&super::ledger::granted(*account, probes));
            }
            // Not put in again: one that was taken out of the heartbeat's work.
            (None, None) => self.told[lease].clone(),
        };
        self.told.insert(lease.clone(), order.clone());
        let ends = self.cool_ms.iter().filter(|ends_ms| **ends_ms > now_ms);
        let wake_ms = ends.min().map_or(0, |ends_ms| ends_ms - now_ms);
        bulk(&format!("~{order} 900 {wake_ms}"))
    }
}
