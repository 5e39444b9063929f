//! What an operator changes of the accounts.

use super::ledger::{Account, Model};
use super::pace::{Rate, rate};
use super::steps::ACCOUNTS;
use slotgate::ledger::commands::{AccountTerms, Change};
use slotgate::ledger::fault::Fault;

/// What an operator has set of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    pub max: Option<u32>,
    pub priority: Option<u32>,
    pub disabled: Option<bool>,
    /// A pace, or that there is none.
    pub pace: Option<Option<Rate>>,
}

/// What holds of an account without that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub max: u32,
    pub base: u64,
    pub disabled: bool,
    pub pace: Option<Rate>,
}

fn word<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// What a priority adds to a score (`SCALE` of the pipe).
fn base_of(priority: u32) -> u64 {
    u64::from(priority) * 50_000
}

impl Set {
    pub fn terms(&self, id: &str) -> AccountTerms {
        let text = |word: Option<String>| word.unwrap_or_default();
        AccountTerms {
            id: id.to_owned(),
            max_concurrency: text(self.max.map(|max| max.to_string())),
            priority: text(self.priority.map(|priority| priority.to_string())),
            disabled: text(self.disabled.map(|on| u32::from(on).to_string())),
            pace: text(self.pace.map(|pace| pace.map_or("none".to_owned(), rate))),
        }
    }

    fn in_force(&self, own: &Own) -> Own {
        Own {
            max: self.max.unwrap_or(own.max),
            base: self.priority.map_or(own.base, base_of),
            disabled: self.disabled.unwrap_or(own.disabled),
            pace: self.pace.unwrap_or(own.pace),
        }
    }

    /// As the answers of `account.lua` show it.
    fn shown(&self, own: &Own) -> String {
        let held = self.in_force(own);
        let (max, priority, pace) = (held.max, word(self.priority), word(held.pace.map(rate)));
        format!("{max} {priority} {} {pace}", u32::from(held.disabled))
    }

    /// As it is kept.
    pub fn entry(&self, own: &Own) -> String {
        let pace = self.pace.map(|pace| pace.map_or("none".to_owned(), rate));
        let disabled = word(self.disabled.map(u32::from));
        let set = [word(self.max), word(self.priority), disabled, word(pace)].join(" ");
        let own_disabled = u32::from(own.disabled);
        let own_pace = word(own.pace.map(rate));
        format!("{set} {} {} {own_disabled} {own_pace}", own.max, own.base)
    }

    /// What is set of this, and of what was set before.
    fn or(self, before: &Self) -> Self {
        Self {
            max: self.max.or(before.max),
            priority: self.priority.or(before.priority),
            disabled: self.disabled.or(before.disabled),
            pace: self.pace.or(before.pace),
        }
    }
}

impl Model {
    /// Puts an account in, or what holds of it from now on.
    pub fn put_in(&mut self, id: &str, own: Own) {
        let held = match self.roster.get_mut(id) {
            Some((set, kept)) => {
                let held = set.in_force(&own);
                *kept = own;
                held
            }
            None => own,
        };
        let mut for_good = self.is_off_for_good(id);
        if for_good && held.disabled {
            self.off.remove(id);
            for_good = false;
        }
        self.put_pace_in(id, held.pace);
        let account = Account {
            max: self.put_limit_in(id, held.max),
            base: held.base,
            disabled: held.disabled || for_good,
            drained: self.drained.contains(id),
            cooling: self.cooldown.contains_key(id) || self.probes.contains_key(id),
            removed: false,
            behind: self.cooldown.contains_key(&format!("behind:{id}")),
        };
        self.accounts.insert(id.into(), account);
    }

    /// Takes an account away; its leases finish.
    pub fn take_away(&mut self, id: &str) {
        self.cooldown.remove(id);
        self.cooldown.remove(&format!("behind:{id}"));
        self.probes.remove(id);
        self.off.remove(id);
        self.roster.remove(id);
        self.paces.remove(id);
        self.limits.remove(id);
        let lives = self.used(id) > 0;
        match self.accounts.get_mut(id) {
            Some(account) if lives => {
                account.disabled = false;
                account.drained = false;
                account.cooling = false;
                account.removed = true;
            }
            _ => {
                self.accounts.remove(id);
            }
        }
    }

    /// What is set of an account that is there, and what holds without it.
    fn terms_of(&self, id: &str) -> Option<(Set, Own)> {
        let account = self.accounts.get(id).filter(|account| !account.removed)?;
        Some(self.roster.get(id).cloned().unwrap_or_else(|| {
            let own = Own {
                max: self.limits.get(id).map_or(account.max, |limit| limit.most),
                base: account.base,
                disabled: account.disabled && !self.is_off_for_good(id),
                pace: self.paces.get(id).map(|bucket| bucket.rate),
            };
            (Set::default(), own)
        }))
    }

    /// Each account's answer, or why nothing is changed.
    pub fn change(
        &mut self,
        change: Change,
        only_check: bool,
        accounts: &[(usize, Set)],
    ) -> Result<Vec<String>, Fault> {
        if self.synced.is_none() {
            return Err(Fault::NoPool);
        }
        if !self.ledgers && matches!(change, Change::Add | Change::Remove) {
            return Err(Fault::Unknown);
        }
        let (before, mut said) = (self.clone(), Vec::new());
        for (at, set) in accounts {
            match self.change_one(change, ACCOUNTS[*at], set.clone()) {
                Ok(answer) => said.push(answer),
                Err(fault) => {
                    *self = before;
                    return Err(fault);
                }
            }
        }
        if only_check {
            *self = before;
        }
        Ok(said)
    }

    fn change_one(&mut self, change: Change, id: &str, set: Set) -> Result<String, Fault> {
        let held = self.terms_of(id);
        let was = held.as_ref().map(|(set, own)| set.shown(own));
        let (old, own) = match (held, change) {
            (None, Change::Set | Change::Reset) => return Err(Fault::NoAccount),
            (None, Change::Remove) => return Ok("missing [] []".into()),
            (Some(_), Change::Remove) => {
                self.take_away(id);
                return Ok(format!("removed [{}] []", was.unwrap_or_default()));
            }
            (Some(held), _) => held,
            (None, Change::Add) => {
                let priority = set.priority.unwrap_or(1);
                let own = Own {
                    max: set.max.ok_or(Fault::BadArgument)?,
                    base: base_of(priority),
                    disabled: false,
                    pace: None,
                };
                let own_priority = Set {
                    priority: Some(priority),
                    ..Set::default()
                };
                (own_priority, own)
            }
        };
        let resets = change == Change::Reset;
        let lets_go = resets || set.disabled == Some(false);
        let now = if resets { Set::default() } else { set.or(&old) };
        let is = now.shown(&own);
        let was_off = lets_go && self.off.contains_key(id);
        let was_lowered = resets && self.is_lowered(id);
        let what = if was.is_none() {
            "added"
        } else if resets && (self.roster.contains_key(id) || was_off || was_lowered) {
            "reset"
        } else if resets || was.as_ref() == Some(&is) && !was_off {
            "same"
        } else {
            "changed"
        };
        // What is set holds, also when it says what is so already.
        let enables = !resets && lets_go;
        if what != "same" || !resets && now != old || enables {
            if resets {
                self.roster.remove(id);
                self.limits.remove(id);
            } else {
                self.roster.insert(id.into(), (now, own.clone()));
            }
            if was_off {
                self.off.remove(id);
                self.probes.remove(id);
                self.let_go(id);
            }
            self.put_in(id, own);
        }
        Ok(format!("{what} [{}] [{is}]", was.unwrap_or_default()))
    }
}
