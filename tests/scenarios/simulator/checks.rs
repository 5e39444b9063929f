//! The promises, and when they are looked at.

use super::ledger::text;
use super::run::{Event, Simulation, Stream};
use super::{
    ACQUIRE_TIMEOUT_MS, BUDGET_MS, END_MS, LATE_MS, MAX_WAIT_MS, RENEW_INTERVAL_MS, ROUNDS_MS,
    SLOTS, TENANT_SLOTS,
};

/// So long after it was handed a slot a request knows of it, while its pipe serves: the next heartbeat, two commands and their
/// replies on a slow network, in ms.
const KNOWN_MS: u64 = 3_500;
/// So long after a request left nothing of it is in the ledger, while its pipe serves: its release is sent, and once more
/// if that may have overtaken something, in ms.
const GONE_MS: u64 = 2_500;
/// A pipe that was open for so long serves, and carries nothing of the one before it, in ms.
const SETTLED_MS: u64 = 2_000;
/// The same, and the ledger has heard of all who wait.
const VOUCHED_MS: u64 = 6_500;
/// A lease is renewed at the latest so long after it was renewed last, while its pipe serves: one that is younger than half of an
/// interval at its turn waits for the next one. And how long that is on its way.
const RENEWED_MS: u64 = RENEW_INTERVAL_MS + RENEW_INTERVAL_MS / 2 + 500;
/// When Redis was away for so long nobody waits for it any more, in ms.
const LOST_MS: u64 = 6_200;
/// Which of a worker's gauges is how many wait.
const WAITING: usize = 4;

impl Simulation {
    /// While Redis keeps its data no account is used by more streams than it has slots, and by no tenant more than it may. And
    /// no request has a place in the queue beside its slot.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        let (mut used, mut of_tenant) = ([0; 2], [0; 3]);
        for (place, host) in self.hosts.iter().enumerate() {
            let waiting = host.worker.gauges().0[WAITING];
            let undecided = host.streams.values().filter(|one| !one.decided).count();
            // Of some the verdict is known to the worker alone.
            if waiting > undecided as u64 {
                return Err(format!("{waiting} wait of {undecided}"));
            }
            let lost = |at_ms| self.now_ms > at_ms + LOST_MS;
            let is_lost = host.away_ms.is_some_and(lost);
            for one in host.streams.values() {
                if is_lost && !one.decided && self.was_told(one) {
                    return Err(format!("{:?} waits although Redis is away", one.lease));
                }
                let Some(account) = one.holds else { continue };
                used[account as usize] += 1;
                if let Some(tenant) = one.tenant {
                    of_tenant[tenant] += 1;
                }
                if let Some(lease) = &one.lease {
                    self.check_owner(place, lease, account as usize)?;
                }
            }
        }
        if self.flushed_ms.is_some() {
            return Ok(());
        }
        let caps = [TENANT_SLOTS.0, TENANT_SLOTS.1, TENANT_SLOTS.0];
        let within = of_tenant.iter().zip(caps).all(|(used, cap)| *used <= cap);
        match (used.iter().all(|used| *used <= SLOTS), within) {
            (true, true) => Ok(()),
            (false, _) => Err(format!(
                "{used:?} streams use {SLOTS} slots, at {} ms",
                self.now_ms
            )),
            (true, false) => Err(format!("{of_tenant:?} of {caps:?} for the tenants")),
        }
    }

    /// At the end nothing is left.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let leases = self.ledger.leases.keys();
        let waiters = self.ledger.waiters.iter().map(|waiter| &waiter.lease);
        let left: Vec<_> = leases.chain(waiters).map(|lease| text(lease)).collect();
        if !left.is_empty() {
            return Err(format!("leaked: {left:?}"));
        }
        if !self.is_idle() {
            return Err("a worker still has something to do".into());
        }
        for host in &self.hosts {
            let waiting = host.worker.gauges().0[WAITING];
            if waiting > 0 || host.streams.values().any(|one| !one.decided) {
                return Err(format!("{waiting} still wait"));
            }
        }
        Ok(())
    }

    /// A request that has no verdict in time was told to wait.
    pub(super) fn check_told(&mut self, place: usize, stream: u32) -> Result<(), String> {
        let streams = &self.hosts[place].streams;
        let Some(one) = streams.get(&stream).filter(|one| !one.decided) else {
            return Ok(());
        };
        if one.is_between_tries() || self.now_ms < one.overdue_ms {
            return Ok(());
        }
        if !self.was_told(one) {
            return Err(format!("stream {stream} hangs"));
        }
        let longest_ms = self.now_ms + MAX_WAIT_MS + LATE_MS + ROUNDS_MS;
        self.at(longest_ms, Event::WaitedLongest(place, stream));
        Ok(())
    }

    fn was_told(&self, one: &Stream) -> bool {
        let lease = one.lease.as_ref();
        lease.is_some_and(|lease| self.ledger.told.contains_key(lease))
    }

    pub(super) fn check_waited(&self, place: usize, stream: u32) -> Result<(), String> {
        match self.hosts[place].streams.get(&stream) {
            // It waits once more, for another account.
            Some(one) if self.now_ms < one.overdue_ms + MAX_WAIT_MS => Ok(()),
            Some(one) if !one.decided => Err(format!("stream {stream} hangs in the queue")),
            Some(_) | None => Ok(()),
        }
    }

    /// No request is told that it has waited for long enough before it has.
    pub(super) fn check_waited_enough(&self, place: usize, stream: u32) -> Result<(), String> {
        // It began to wait no earlier than it was told where it stands.
        let one = &self.hosts[place].streams[&stream];
        let order = one
            .lease
            .as_ref()
            .and_then(|lease| self.ledger.told.get(lease));
        let began_ms = order.and_then(|order| order.get(..10)?.parse::<u64>().ok());
        let slack_ms = ACQUIRE_TIMEOUT_MS + LATE_MS + ROUNDS_MS;
        // One that tries another account stands where it would stand had it waited since it came.
        let until_ms = match one.asked_ms {
            Some(asked_ms) => Some((asked_ms + MAX_WAIT_MS).min(one.came_ms + BUDGET_MS)),
            None => began_ms.map(|began_ms| began_ms + MAX_WAIT_MS),
        };
        match until_ms {
            Some(until_ms) if (until_ms..=until_ms + slack_ms).contains(&self.now_ms) => Ok(()),
            _ => Err(format!(
                "stream {stream} waited from {began_ms:?} to {} ms",
                self.now_ms
            )),
        }
    }

    /// Whoever has a slot does not wait, and has the account that the ledger says. What was on its way when Redis lost its data
    /// may give its lease another place. Redis cannot know that until the worker's next renewal.
    fn check_owner(&self, place: usize, lease: &Vec<u8>, account: usize) -> Result<(), String> {
        if let Some(at_ms) = self.flushed_ms
            && !self.ledger.renewed.contains(lease)
        {
            let serves_ms = self.serves_since(place);
            let is_due = serves_ms.is_some_and(|ms| self.now_ms > ms.max(at_ms) + RENEWED_MS);
            if !is_due {
                return Ok(());
            }
        }
        if self.ledger.waits(lease) {
            return Err(format!("{} has a slot, and waits", text(lease)));
        }
        match self.ledger.leases.get(lease) {
            Some((own, _)) if *own != account => Err(format!(
                "{} has account {account}, not {own} as in the ledger",
                text(lease)
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// A script has run: those that were handed a slot must know soon. And whoever lost its place had nobody to vouch for it.
    pub(super) fn note_handed(&mut self) -> Result<(), String> {
        for lease in std::mem::take(&mut self.ledger.handed) {
            if let Some((place, stream)) = self.leases.get(&lease).copied() {
                let event = Event::MustKnow(place, stream, lease, self.now_ms);
                self.at(self.now_ms + KNOWN_MS, event);
            }
        }
        for lease in std::mem::take(&mut self.ledger.forgotten) {
            let Some(&(place, stream)) = self.leases.get(&lease) else {
                continue;
            };
            let since_ms = self.now_ms.saturating_sub(VOUCHED_MS);
            let waits = self.is_undecided(place, stream, &lease);
            if waits && self.is_pipe_since(place, since_ms) {
                return Err(format!(
                    "stream {stream} waits, and the ledger has forgotten it"
                ));
            }
        }
        Ok(())
    }

    /// Whether a request has no verdict on this lease.
    fn is_undecided(&self, place: usize, stream: u32, lease: &Vec<u8>) -> bool {
        let one = self.hosts[place].streams.get(&stream);
        one.is_some_and(|one| !one.decided && one.lease.as_ref() == Some(lease))
    }

    pub(super) fn check_knows(
        &self,
        (place, stream): (usize, u32),
        lease: &Vec<u8>,
        since_ms: u64,
    ) -> Result<(), String> {
        let has_slot = self.ledger.leases.contains_key(lease);
        let serves = self.is_pipe_since(place, since_ms.saturating_sub(SETTLED_MS));
        let flushed = self.flushed_ms.is_some_and(|at_ms| at_ms >= since_ms);
        if has_slot && serves && !flushed && self.is_undecided(place, stream, lease) {
            return Err(format!("stream {stream} has a slot, and does not know"));
        }
        Ok(())
    }

    /// A request has left, or goes on without a slot.
    pub(super) fn expect_gone(&mut self, place: usize, lease: Vec<u8>) {
        let event = Event::MustBeGone(place, lease, self.now_ms);
        self.at(self.now_ms + GONE_MS, event);
    }

    pub(super) fn check_gone(
        &mut self,
        place: usize,
        lease: Vec<u8>,
        since_ms: u64,
    ) -> Result<(), String> {
        let has_slot = self.ledger.leases.contains_key(&lease);
        if !has_slot && !self.ledger.waits(&lease) {
            return Ok(());
        }
        if self.is_pipe_since(place, since_ms.saturating_sub(SETTLED_MS)) {
            let what = if has_slot { "slot" } else { "place" };
            return Err(format!(
                "{} left, and its {what} is still there",
                text(&lease)
            ));
        }
        // The pipe was away: what is left of it goes once that is back.
        if self.now_ms < END_MS {
            let event = Event::MustBeGone(place, lease, self.now_ms);
            self.at(self.now_ms + GONE_MS, event);
        }
        Ok(())
    }
}
