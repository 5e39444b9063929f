//! What the scripts do, as far as it matters here.

use super::queue::Waiter;
use super::{PACE_MS, SLOTS, TTL_MS, Without};
use slotgate::ledger::source::Script;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

pub(super) struct Ledger {
    pub(super) without: Without,
    /// Account b takes one lease in `PACE_MS`.
    paced: bool,
    /// When its next turn comes.
    turn_ms: u64,
    synced: bool,
    pub(super) epoch: u64,
    scripts: BTreeSet<usize>,
    /// Account and expiry, in ms.
    pub(super) leases: BTreeMap<Vec<u8>, (usize, u64)>,
    released: BTreeSet<Vec<u8>>,
    /// Leases that a request was granted.
    pub(super) held: BTreeSet<Vec<u8>>,
    /// When each account's cooldown ends, in ms.
    pub(super) cool_ms: [u64; 2],
    /// Cooldowns whose end no script has seen.
    cools: [bool; 2],
    /// The last probe of each account that is probed; empty: none yet.
    pub(super) probes: [Option<Vec<u8>>; 2],
    /// Every probe there was, with its account.
    probed: BTreeSet<(Vec<u8>, usize)>,
    /// By their order.
    pub(super) waiters: Vec<Waiter>,
    pub(super) joins: u64,
    /// Leases whose requests try another account.
    pub(super) given_up: BTreeSet<Vec<u8>>,
    /// Where each that waits or waited was said to stand.
    pub(super) told: BTreeMap<Vec<u8>, String>,
    /// Leases that were handed a slot of which nobody may hear, and where they stood.
    pub(super) untold: BTreeMap<Vec<u8>, String>,
    /// Worker and connection that listen to each channel.
    pub(super) listeners: BTreeMap<String, (usize, u64)>,
    /// Nobody may listen.
    pub(super) refuses_listeners: bool,
    /// What the last script handed on, as it says it; the leases; and on which channel.
    pub(super) grants: Vec<String>,
    pub(super) handed: Vec<Vec<u8>>,
    pub(super) said: Vec<(String, String)>,
    /// Waiters that went because no worker vouched for them.
    pub(super) forgotten: Vec<Vec<u8>>,
    /// Leases that were renewed since the data was lost last.
    pub(super) renewed: BTreeSet<Vec<u8>>,
}

impl Ledger {
    pub(super) fn new(without: Without, paced: bool) -> Self {
        Self {
            without,
            paced,
            turn_ms: 0,
            synced: false,
            epoch: 1,
            scripts: BTreeSet::new(),
            leases: BTreeMap::new(),
            released: BTreeSet::new(),
            held: BTreeSet::new(),
            cool_ms: [0; 2],
            cools: [false; 2],
            probes: [None, None],
            probed: BTreeSet::new(),
            waiters: Vec::new(),
            joins: 0,
            given_up: BTreeSet::new(),
            told: BTreeMap::new(),
            untold: BTreeMap::new(),
            listeners: BTreeMap::new(),
            refuses_listeners: false,
            grants: Vec::new(),
            handed: Vec::new(),
            said: Vec::new(),
            forgotten: Vec::new(),
            renewed: BTreeSet::new(),
        }
    }

    /// It has lost its scripts.
    pub(super) fn forget_scripts(&mut self) {
        self.scripts.clear();
    }

    /// It has lost its data.
    pub(super) fn flush(&mut self) {
        self.synced = false;
        self.epoch += 1;
        self.leases.clear();
        self.cool_ms = [0; 2];
        self.cools = [false; 2];
        self.probes = [None, None];
        self.waiters.clear();
        self.renewed.clear();
    }

    fn is_probed(&self, account: usize) -> bool {
        let probe = self.probes[account].as_ref();
        probe.is_some_and(|lease| self.leases.contains_key(lease))
    }

    fn used(&self, account: usize) -> usize {
        let owners = self.leases.values();
        owners.filter(|(of, _)| *of == account).count()
    }

    /// The account with the fewest leases that can take another one.
    pub(super) fn free_account(&self, now_ms: u64) -> Option<usize> {
        self.free_account_beside(now_ms, "")
    }

    /// The same without those that were tried.
    pub(super) fn free_account_beside(&self, now_ms: u64, tried: &str) -> Option<usize> {
        let is_tried = |account: &usize| is_among(tried, *account);
        (0..2)
            .filter(|account| self.without == Without::Exclusion || !is_tried(account))
            .filter(|account| self.synced && self.used(*account) < SLOTS)
            .filter(|account| now_ms >= self.cool_ms[*account] && !self.cools[*account])
            .filter(|account| !self.is_probed(*account))
            .min_by_key(|account| self.used(*account))
    }

    /// Writes a lease. Returns whether it probes.
    pub(super) fn take(&mut self, lease: &[u8], account: usize, expires_ms: u64) -> bool {
        let probes = self.probes[account].is_some();
        if probes {
            self.probes[account] = Some(lease.to_vec());
            self.probed.insert((lease.to_vec(), account));
        }
        self.leases.insert(lease.to_vec(), (account, expires_ms));
        if self.paced && account == 1 {
            // Out of turns until the next one comes, and no probe then.
            self.turn_ms = expires_ms - TTL_MS + PACE_MS;
            self.cool_ms[account] = self.cool_ms[account].max(self.turn_ms);
            self.cools[account] = true;
        }
        probes
    }

    /// One command, and its reply.
    pub(super) fn execute(&mut self, now_ms: u64, command: &[Vec<u8>]) -> Result<Vec<u8>, String> {
        let script = match command[0].as_slice() {
            b"SCRIPT" => {
                let place = place_of(&command[2]);
                self.scripts.insert(place);
                return Ok(format!("$40\r\n{place:040}\r\n").into());
            }
            b"EVAL" => {
                self.scripts.insert(place_of(&command[1]));
                place_of(&command[1])
            }
            b"EVALSHA" => text(&command[1]).parse().unwrap(),
            _ => return Ok(b"+OK\r\n".to_vec()),
        };
        if !self.scripts.contains(&script) {
            return Ok(b"-NOSCRIPT No matching script.\r\n".to_vec());
        }
        let arguments = arguments(command);
        if Script::ALL[script] == Script::Overrides {
            // It clears nothing away, so that what was leaked still lies there at the end.
            return Ok(
                b"*5\r\n$5\r\n10000\r\n$0\r\n\r\n$12\r\na 1 3 free b\r\n$0\r\n\r\n:0\r\n".to_vec(),
            );
        }
        let over = |(_, over_ms): &(usize, u64)| *over_ms <= now_ms;
        if self.without != Without::Renewals
            && let Some((lease, _)) = self.leases.iter().find(|(_, lease)| over(lease))
        {
            return Err(format!("leaked until it expired: {}", text(lease)));
        }
        self.leases.retain(|_, lease| !over(lease));
        self.forget(now_ms);
        self.grants.clear();
        let nopool = || b"-NOPOOL no accounts are synced for this pool\r\n".to_vec();
        Ok(match Script::ALL[script] {
            Script::Acquire | Script::Renew if !self.synced => nopool(),
            Script::Acquire => self.acquire(now_ms, arguments)?.into(),
            Script::Release => self.release(now_ms, arguments).into(),
            Script::Renew => self.renew(now_ms, arguments).into(),
            Script::Sync => self.sync(now_ms, arguments).into(),
            Script::Reconcile => b"*2\r\n$9\r\nelsewhere\r\n:0\r\n".to_vec(),
            Script::Cooldown => self.cooldown(now_ms, arguments)?.into(),
            Script::Overrides | Script::Control | Script::Account | Script::Inspect => {
                b":0\r\n".to_vec()
            }
        })
    }

    fn acquire(&mut self, now_ms: u64, arguments: &[Vec<u8>]) -> Result<String, String> {
        for account in 0..2 {
            self.cools[account] &= now_ms < self.cool_ms[account];
        }
        let (leases, terms) = asked(arguments);
        let mut reply = format!("*{}\r\n{}", leases.len() + 1, bulk(&self.epoch.to_string()));
        let mode = text(&arguments[3]);
        if mode.starts_with("join") {
            return Ok(reply + &self.join(now_ms, (mode, leases, terms))?);
        }
        let (_, tried) = mode.split_once(" not ").unwrap_or((mode, ""));
        for lease in leases {
            let known = self.leases.get(lease).map(|(account, _)| *account);
            let probes = match (known, self.free_account_beside(now_ms, tried)) {
                (Some(account), _) => self.probes[account].as_ref() == Some(lease),
                (None, Some(account)) => self.take(lease, account, now_ms + TTL_MS),
                (None, None) => {
                    reply += ":100\r\n";
                    continue;
                }
            };
            reply += &bulk(&granted(self.leases[lease].0, probes));
        }
        Ok(reply)
    }

    fn release(&mut self, now_ms: u64, leases: &[Vec<u8>]) -> String {
        let mut ended = 0;
        for lease in leases {
            let again = !self.released.insert(lease.clone());
            let skipped = match self.without {
                Without::LateReleases => !self.held.contains(lease),
                Without::SecondReleases => again,
                Without::WaiterReleases => self.waits(lease),
                Without::TryReleases => self.given_up.contains(lease),
                Without::Nothing
                | Without::Renewals
                | Without::Owners
                | Without::Verdicts
                | Without::Heartbeats
                | Without::Grants
                | Without::Exclusion
                | Without::Strip
                | Without::LastStrip => false,
            };
            if !skipped {
                ended += u8::from(self.leases.remove(lease).is_some());
                self.waiters.retain(|waiter| waiter.lease != *lease);
            }
        }
        self.hand_off(now_ms);
        if self.grants.is_empty() {
            return format!(":{ended}\r\n");
        }
        let grants: String = self.grants.iter().map(|words| bulk(words)).collect();
        format!("*{}\r\n:{ended}\r\n{grants}", self.grants.len() + 1)
    }

    fn renew(&mut self, now_ms: u64, arguments: &[Vec<u8>]) -> String {
        let mut letters = String::new();
        let held_until = |account| (account, now_ms + TTL_MS);
        for lease in arguments[1..].chunks(3) {
            let account = usize::from(lease[1] == b"b");
            if self.without == Without::Renewals {
                letters.push('r');
                continue;
            }
            self.renewed.insert(lease[0].clone());
            let known = self.leases.get(&lease[0]).map(|(account, _)| *account);
            let is_right = match self.without {
                Without::Owners => known.is_some() || self.waits(&lease[0]),
                _ => known == Some(account),
            };
            if is_right {
                if let Some((_, expires_ms)) = self.leases.get_mut(&lease[0]) {
                    *expires_ms = now_ms + TTL_MS;
                }
                letters.push('r');
                continue;
            }
            // It waits, or has a slot of the other account, since Redis lost its data.
            self.leases.remove(&lease[0]);
            self.waiters.retain(|waiter| waiter.lease != lease[0]);
            let readopted = number(&lease[2]) != self.epoch || self.used(account) < SLOTS;
            letters.push(if readopted { 'a' } else { 'l' });
            if readopted {
                self.leases.insert(lease[0].clone(), held_until(account));
            }
        }
        self.hand_off(now_ms);
        format!("*2\r\n{}{}", bulk(&self.epoch.to_string()), bulk(&letters))
    }

    fn sync(&mut self, now_ms: u64, arguments: &[Vec<u8>]) -> String {
        let full = arguments.len() > 4;
        let answer = if self.synced {
            "current"
        } else if full {
            "replaced"
        } else {
            "wanted"
        };
        self.synced |= full;
        self.hand_off(now_ms);
        let words = [answer, "1", &self.epoch.to_string()].map(bulk);
        format!("*3\r\n{}", words.concat())
    }

    fn cooldown(&mut self, now_ms: u64, arguments: &[Vec<u8>]) -> Result<&'static str, String> {
        let account = usize::from(arguments[0] == b"b");
        match arguments.get(2).map(|what| text(what)) {
            Some("passed") => {
                let lease = &arguments[3];
                if !self.probed.contains(&(lease.clone(), account)) {
                    return Err(format!("{} was no probe", text(lease)));
                }
                let current = self.probes[account].as_ref() == Some(lease);
                // The probe may have taken the last turn.
                let is_paced = account == 1 && self.cool_ms[account] == self.turn_ms;
                let cooled = is_paced || now_ms >= self.cool_ms[account] && !self.cools[account];
                if current && cooled && self.without != Without::Verdicts {
                    self.probes[account] = None;
                    self.hand_off(now_ms);
                    return Ok(":1\r\n");
                }
            }
            // Out of use for a time: the same to whoever takes a slot.
            Some("probe" | "disable") => {
                let ends_ms = now_ms + number(&arguments[1]);
                self.cool_ms[account] = self.cool_ms[account].max(ends_ms);
                self.cools[account] = true;
                self.probes[account] = Some(Vec::new());
            }
            Some("behind") => {}
            other => return Err(format!("a cooldown of {other:?}")),
        }
        Ok(":0\r\n")
    }
}

/// A script's arguments.
pub(super) fn arguments(command: &[Vec<u8>]) -> &[Vec<u8>] {
    let keys: usize = text(&command[2]).parse().unwrap();
    &command[3 + keys..]
}

/// The leases of an acquire, and the terms of those that may wait.
pub(super) fn asked(arguments: &[Vec<u8>]) -> (&[Vec<u8>], &[Vec<u8>]) {
    let rest = &arguments[5..];
    // With sessions, there are how many bytes their keys may hold, and a tag for each.
    let tags = usize::from(arguments[4] != b"0");
    let words = if arguments[3].starts_with(b"join") {
        2
    } else {
        1
    };
    let leases = (rest.len() - tags) / (words + tags);
    let (leases, rest) = rest.split_at(leases);
    (leases, rest.get(..leases.len()).unwrap_or_default())
}

/// Whether an account is one of these.
pub(super) fn is_among(names: &str, account: usize) -> bool {
    names.split(' ').any(|id| id == ["a", "b"][account])
}

/// An account as an acquire names it.
pub(super) fn granted(account: usize, probes: bool) -> String {
    let id = ["a", "b"][account];
    if probes {
        format!("{id}:probe")
    } else {
        id.to_owned()
    }
}

pub(super) fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

pub(super) fn number(argument: &[u8]) -> u64 {
    text(argument).parse().unwrap()
}

fn place_of(source: &[u8]) -> usize {
    static SOURCES: LazyLock<Vec<String>> =
        LazyLock::new(|| Script::ALL.map(Script::source).into());
    let same = |own: &String| own.as_bytes() == source;
    SOURCES.iter().position(same).unwrap()
}
