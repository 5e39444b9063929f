//! Which accounts of a pool rest, as far as this worker said so, and when that is over. Only for what the log says.

use super::state::State;

/// What this worker said of one account.
#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    /// Until when it cools, in ms.
    cools_until_ms: u64,
    /// The rest that was said, until its end is.
    said: Option<Said>,
}

/// A rest that was said, and whose end was not.
#[derive(Debug, Clone, Copy)]
struct Said {
    /// Until when, in ms, as far as this worker knows. The ledger may know of more, or hear of it late.
    until_ms: u64,
    /// Whether a probe must pass after it.
    probes: bool,
    /// Whether the ledger was seen to have it.
    seen: bool,
}

/// The rests of one pool's accounts, by the account's index.
#[derive(Debug)]
pub struct Rests {
    all: Vec<Rest>,
    /// How many rests were said and are not over.
    under_way: usize,
}

impl Rests {
    /// Of this many accounts, none of which rests.
    #[must_use]
    pub fn new(accounts: usize) -> Self {
        Self {
            all: vec![Rest::default(); accounts],
            under_way: 0,
        }
    }

    /// Adds an account that does not rest.
    pub fn add(&mut self) {
        self.all.push(Rest::default());
    }

    /// Whether the end of any rest is to be said.
    #[must_use]
    pub fn any(&self) -> bool {
        self.under_way > 0
    }

    /// An account cools until then. Returns whether it did not do so already, which is to be said.
    pub fn cools(&mut self, account: u32, now_ms: u64, until_ms: u64, probes: bool) -> bool {
        let Some(rest) = self.all.get_mut(account as usize) else {
            return false;
        };
        let anew = rest.cools_until_ms <= now_ms || rest.said.is_none();
        rest.cools_until_ms = rest.cools_until_ms.max(until_ms);
        self.said(account, until_ms, probes);
        anew
    }

    /// Notes that the log was told of an account's rest until `until_ms`; one that rests already may so for longer. `probes`: a probe must pass
    /// after it.
    pub fn said(&mut self, account: u32, until_ms: u64, probes: bool) {
        let Some(rest) = self.all.get_mut(account as usize) else {
            return;
        };
        if rest.said.is_none() {
            self.under_way = self.under_way.saturating_add(1);
        }
        let before = rest
            .said
            .map_or((0, false), |said| (said.until_ms, said.probes));
        rest.said = Some(Said {
            until_ms: before.0.max(until_ms),
            probes: before.1 || probes,
            seen: false,
        });
    }

    /// Forgets an account's rest, whose end the log has.
    pub fn end(&mut self, account: u32) {
        if let Some(rest) = self.all.get_mut(account as usize)
            && rest.said.take().is_some()
        {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }

    /// Takes the state that the ledger told of an account, asked at `asked_ms`. Returns whether its rest is over. A ledger that may
    /// not have heard of the rest when it was asked says nothing of its end.
    pub fn see(&mut self, account: u32, state: State, asked_ms: u64) -> bool {
        let said = self.all.get_mut(account as usize);
        let Some(said) = said.and_then(|rest| rest.said.as_mut()) else {
            return false;
        };
        let over = match state {
            State::Free => said.seen || asked_ms >= said.until_ms,
            // One that is behind, or waits for its probe, may be full as well.
            State::Full => !said.probes && asked_ms >= said.until_ms,
            State::Behind | State::Probe | State::Probing | State::Disabled | State::Cooling => {
                said.seen = true;
                false
            }
            // These hide whether it rests.
            State::Drained | State::Paced => false,
            State::Removed => {
                self.end(account);
                false
            }
        };
        if over {
            self.end(account);
        }
        over
    }

    /// Where the ledger does not tell the states of accounts: those whose rest has ended by this worker's own clock. One that must
    /// pass a probe is not among them, since the probe alone tells, and is forgotten.
    pub fn over_by_clock(&mut self, now_ms: u64) -> Vec<u32> {
        let mut over = Vec::new();
        for (account, rest) in (0..).zip(&mut self.all) {
            if let Some(said) = rest.said.filter(|said| said.until_ms <= now_ms) {
                rest.said = None;
                self.under_way = self.under_way.saturating_sub(1);
                if !said.probes {
                    over.push(account);
                }
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_over_when_the_ledger_has_had_it_and_has_it_no_more() {
        let mut rests = Rests::new(2);
        assert!(!rests.see(0, State::Free, 0) && !rests.any());
        assert!(rests.cools(0, 1_000, 6_000, true));
        assert!(!rests.cools(0, 2_000, 5_000, true), "it does so already");
        assert!(rests.any());
        // Asked before the ledger heard of it.
        assert!(!rests.see(0, State::Free, 999));
        assert!(
            !rests.see(0, State::Full, 7_000),
            "it may wait for its probe"
        );
        for state in [State::Cooling, State::Probe, State::Probing, State::Drained] {
            assert!(!rests.see(0, state, 2_000));
        }
        assert!(!rests.see(1, State::Free, 2_000), "another account");
        assert!(rests.see(0, State::Free, 2_500), "an operator may end it");
        assert!(!rests.see(0, State::Free, 2_600) && !rests.any(), "once");

        // Again, before the first would have been over; nobody looked meanwhile.
        assert!(rests.cools(0, 3_000, 8_000, true));
        assert!(!rests.see(0, State::Free, 7_999) && rests.see(0, State::Free, 8_000));
        // Longer meanwhile, and it is gone.
        rests.said(1, 9_000, false);
        rests.said(1, 8_500, true);
        assert!(!rests.see(1, State::Free, 8_999));
        assert!(!rests.see(1, State::Removed, 9_000) && !rests.any());
        // Full, with no probe to wait for.
        rests.said(1, 9_000, false);
        assert!(!rests.see(1, State::Full, 8_999) && rests.see(1, State::Full, 9_000));
    }

    #[test]
    fn without_the_ledger_a_probe_alone_tells() {
        let mut rests = Rests::new(0);
        (0..3).for_each(|_| rests.add());
        rests.said(0, 5_000, false);
        rests.said(1, 5_000, true);
        rests.said(2, 5_001, false);
        rests.said(7, 5_000, false);
        assert!(rests.over_by_clock(4_999).is_empty());
        assert_eq!(rests.over_by_clock(5_000), [0]);
        assert_eq!(rests.over_by_clock(5_001), [2]);
        assert!(rests.over_by_clock(9_000).is_empty() && !rests.any());
        rests.said(1, 9_500, true);
        rests.end(1);
        rests.end(1);
        assert!(!rests.any());
    }
}
