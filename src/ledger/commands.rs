//! The scripts' commands: typed arguments in, bytes for the pipe out.

use super::keys;
use super::resp::{push_array, push_bulk, push_bulk_of, push_bulks, push_command, push_number};
use super::source::{Script, ScriptRef};
use crate::request::lease::LeaseId;

/// What Redis needs for a session key beside its name and its value: an entry in each of two tables, which may just have
/// doubled, an object, the last digits of the name. Measured, rounded up: `tests/ledger/sessions.rs` proves the sum.
const SESSION_KEY_BYTES: u64 = 160;

/// What an acquire should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode<'a> {
    /// Choose and take.
    Take,
    /// Choose, write nothing.
    Dry,
    /// Record a lease of this account whatever its count.
    Force(&'a str),
}

/// Arguments of `acquire.lua`, beside the leases.
#[derive(Debug)]
pub struct Acquire {
    /// The leases' time to live, in ms.
    pub ttl_ms: u64,
    /// Fresh random bits, 31 of them used.
    pub seed: u32,
    /// Weight of the random part, in millionths.
    pub random: u64,
    /// How long sessions are remembered, in ms.
    pub session_ttl_ms: u64,
    /// How much of Redis' memory a pool's sessions may take, in MB of 2^20 bytes.
    pub session_mb: u64,
}

/// One lease of an acquire. Those of one command have the same mode, and all of them a session or none, a scope or none.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The lease to take.
    pub lease: LeaseId,
    /// What to do.
    pub mode: Mode<'a>,
    /// The session's hash.
    pub session: Option<&'a [u8; 16]>,
    /// The hash of the scope, a model say, whose own cooldowns count too.
    pub scope: Option<&'a [u8; 16]>,
}

/// What `cooldown.lua` is told of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountReport {
    /// It takes no new leases for so long, in ms; with a scope's hash, not in that scope.
    Cool(u64, Option<[u8; 16]>),
    /// The same, and afterwards one lease at a time until one has passed.
    CoolThenProbe(u64),
    /// It takes leases only when no other account can, for so long, in ms.
    Behind(u64),
    /// This lease has passed: no more probes, if it was the one.
    Passed(LeaseId),
}

/// Arguments of `sync.lua`.
#[derive(Debug)]
pub struct Sync<'a> {
    /// The configuration's revision.
    pub revision: u64,
    /// Tells apart two configurations with one revision.
    pub digest: u64,
    /// The epoch to begin with when Redis holds none, below 2^53.
    pub epoch: u64,
    /// Full weight of the load, in millionths.
    pub load: u64,
    /// The accounts; `None` only asks whether they are wanted.
    pub accounts: Option<&'a [SyncAccount<'a>]>,
    /// Who asks, and how much of it this is.
    pub part: Part<'a>,
    /// How long this Envoy's leases and cooldowns last at most.
    pub longest: Longest,
    /// The worker's name.
    pub by: &'a str,
}

/// How much a sync carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// All accounts, or none.
    Whole,
    /// The first of them.
    First,
    /// Some more.
    More,
    /// All have been sent: takes these ids away, and shows what else is there, from this cursor on.
    Sweep(&'a str, &'a [String]),
    /// Takes these ids away, and puts the rest in force.
    Last(&'a [String]),
    /// Takes these ids away, which nobody configured, from the accounts in force.
    Stray(&'a [String]),
}

/// How long leases and cooldowns of one Envoy last at most, in ms; 0: it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Longest {
    /// A lease, without renewal.
    pub ttl_ms: u64,
    /// A cooldown, or a time behind the others.
    pub cooldown_ms: u64,
}

/// Arguments of `reconcile.lua`.
#[derive(Debug)]
pub struct Step<'a> {
    /// Who asks.
    pub worker: &'a str,
    /// How long it may be silent, in ms.
    pub silence_ms: u64,
    /// About how many entries to look at.
    pub count: u64,
    /// How long this Envoy's leases and cooldowns last at most.
    pub longest: Longest,
    /// Whether the pool holds what cannot be there.
    pub soon: bool,
}

/// One account of a sync.
#[derive(Debug, Clone, Copy)]
pub struct SyncAccount<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its slots.
    pub max_concurrency: u32,
    /// The priority's part of its score, in millionths.
    pub base: u64,
    /// Whether it takes leases.
    pub enabled: bool,
}

/// The keys of one pool, ready to be copied into commands.
#[derive(Debug)]
pub struct LedgerCommands {
    common: Vec<u8>,
    control: String,
    session_prefix: String,
    scope_prefix: String,
    pass: String,
    question: String,
    answer: String,
}

impl LedgerCommands {
    /// Formats them once.
    #[must_use]
    pub fn new(prefix: &str, pool: &str) -> Self {
        let mut common = Vec::new();
        for name in keys::COMMON {
            push_bulk(&mut common, keys::key(prefix, pool, name).as_bytes());
        }
        Self {
            common,
            control: keys::control(prefix, pool),
            session_prefix: keys::session_prefix(prefix, pool),
            scope_prefix: keys::scope_prefix(prefix, pool),
            pass: keys::pass(prefix, pool),
            question: keys::question(prefix, pool),
            answer: keys::answer(prefix, pool),
        }
    }

    fn head(
        &self,
        out: &mut Vec<u8>,
        script: Script,
        by: ScriptRef,
        extra_keys: usize,
        arguments: usize,
    ) {
        let all_keys = keys::COMMON.len().saturating_add(extra_keys);
        push_array(out, all_keys.saturating_add(arguments).saturating_add(3));
        match by {
            ScriptRef::Sha(shas) => {
                push_bulk(out, b"EVALSHA");
                let sha = Script::ALL
                    .iter()
                    .zip(&shas.0)
                    .find(|(other, _)| **other == script);
                push_bulk(out, sha.map_or(&[][..], |(_, sha)| sha));
            }
            ScriptRef::Source => {
                push_bulk(out, b"EVAL");
                push_bulk(out, script.source().as_bytes());
            }
        }
        push_number(out, all_keys as u64);
        out.extend_from_slice(&self.common);
    }

    /// `acquire.lua`
    pub fn acquire<'a>(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        acquire: &Acquire,
        leases: impl ExactSizeIterator<Item = Asked<'a>> + Clone,
    ) {
        let Some(first) = leases.clone().next() else {
            return;
        };
        let (mode, words) = match first.mode {
            Mode::Take => ("take", 1),
            Mode::Dry => ("dry", 1),
            Mode::Force(_) => ("force", 2),
        };
        let sessions = usize::from(first.session.is_some());
        let keys = usize::from(first.scope.is_some()).saturating_add(sessions);
        let tags = leases.len().saturating_add(1).saturating_mul(sessions);
        self.head(
            out,
            Script::Acquire,
            by,
            leases.len().saturating_mul(keys),
            leases
                .len()
                .saturating_mul(words)
                .saturating_add(tags)
                .saturating_add(5),
        );
        for scope in leases.clone().filter_map(|asked| asked.scope) {
            push_hashed(out, &self.scope_prefix, scope);
        }
        for session in leases.clone().filter_map(|asked| asked.session) {
            push_bulk_of(
                out,
                self.session_prefix.as_bytes(),
                &keys::session_digits(session),
            );
        }
        push_number(out, acquire.ttl_ms);
        push_number(out, u64::from(acquire.seed >> 1));
        push_number(out, acquire.random);
        push_bulk(out, mode.as_bytes());
        push_number(out, acquire.session_ttl_ms.saturating_mul(sessions as u64));
        for asked in leases.clone() {
            push_bulk(out, asked.lease.as_bytes());
        }
        for asked in leases.clone() {
            if let Mode::Force(account) = asked.mode {
                push_bulk(out, account.as_bytes());
            }
        }
        if sessions > 0 {
            push_number(out, self.session_bytes(acquire.session_mb));
        }
        for session in leases.filter_map(|asked| asked.session) {
            push_bulk(out, &keys::session_tag(session));
        }
    }

    /// How long the value of one session key may be, so that all of them together take no more memory than this.
    fn session_bytes(&self, session_mb: u64) -> u64 {
        // A MB is 2^20 bytes, and there are 2^14 keys.
        let share = session_mb.saturating_mul(1 << 6);
        let key = self.session_prefix.len() as u64;
        let left = share.saturating_sub(SESSION_KEY_BYTES.saturating_add(key));
        // The allocator rounds up to one of four sizes for each power of two. A string has six bytes beside its text.
        let fine = left.checked_ilog2().unwrap_or(0).saturating_sub(2);
        let size = left >> fine << fine;
        size.saturating_sub(6).clamp(100, 32_768)
    }

    /// `release.lua`
    pub fn release(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        leases: impl ExactSizeIterator<Item = LeaseId>,
    ) {
        self.head(out, Script::Release, by, 0, leases.len());
        for lease in leases {
            push_bulk(out, lease.as_bytes());
        }
    }

    /// `renew.lua`; each lease with its account's id and its epoch.
    pub fn renew<'a>(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        ttl_ms: u64,
        leases: impl ExactSizeIterator<Item = (LeaseId, &'a str, u64)>,
    ) {
        self.head(
            out,
            Script::Renew,
            by,
            0,
            leases.len().saturating_mul(3).saturating_add(1),
        );
        push_number(out, ttl_ms);
        for (lease, account, epoch) in leases {
            push_bulk(out, lease.as_bytes());
            push_bulk(out, account.as_bytes());
            push_number(out, epoch);
        }
    }

    /// `sync.lua`
    pub fn sync(&self, out: &mut Vec<u8>, by: ScriptRef, sync: &Sync) {
        let accounts = sync.accounts.unwrap_or_default();
        let (part, cursor, ids) = match sync.part {
            Part::Whole => ("whole", None, &[][..]),
            Part::First => ("first", None, &[][..]),
            Part::More => ("more", None, &[][..]),
            Part::Sweep(cursor, ids) => ("sweep", Some(cursor), ids),
            Part::Last(ids) => ("last", None, ids),
            Part::Stray(ids) => ("stray", None, ids),
        };
        let arguments = accounts.len().saturating_mul(4).saturating_add(ids.len());
        let head = 9_usize.saturating_add(usize::from(cursor.is_some()));
        self.head(out, Script::Sync, by, 1, arguments.saturating_add(head));
        push_bulk(out, self.control.as_bytes());
        push_number(out, sync.revision);
        push_number(out, sync.digest);
        push_number(out, sync.epoch);
        push_number(out, sync.load);
        push_bulk(out, b"@");
        push_number(out, sync.longest.ttl_ms);
        push_number(out, sync.longest.cooldown_ms);
        push_bulks(out, &[sync.by.as_bytes(), part.as_bytes()]);
        if let Some(cursor) = cursor {
            push_bulk(out, cursor.as_bytes());
        }
        for account in accounts {
            push_bulk(out, account.id.as_bytes());
            push_number(out, u64::from(account.max_concurrency));
            push_number(out, account.base);
            push_number(out, u64::from(!account.enabled));
        }
        for id in ids {
            push_bulk(out, id.as_bytes());
        }
    }

    /// `cooldown.lua`
    pub fn cooldown(&self, out: &mut Vec<u8>, by: ScriptRef, account: &str, heard: AccountReport) {
        let (length_ms, what, scope, lease) = match heard {
            AccountReport::Cool(length_ms, scope) => (length_ms, None, scope, None),
            AccountReport::CoolThenProbe(length_ms) => (length_ms, Some("probe"), None, None),
            AccountReport::Behind(length_ms) => (length_ms, Some("behind"), None, None),
            AccountReport::Passed(lease) => (0, Some("passed"), None, Some(lease)),
        };
        let words = usize::from(what.is_some()).saturating_add(usize::from(lease.is_some()));
        let arguments = words.saturating_add(2);
        let scope_keys = usize::from(scope.is_some());
        self.head(out, Script::Cooldown, by, scope_keys, arguments);
        if let Some(scope) = scope {
            push_hashed(out, &self.scope_prefix, &scope);
        }
        push_bulk(out, account.as_bytes());
        push_number(out, length_ms);
        if let Some(what) = what {
            push_bulk(out, what.as_bytes());
        }
        if let Some(lease) = lease {
            push_bulk(out, lease.as_bytes());
        }
    }

    /// `reconcile.lua`
    pub fn reconcile(&self, out: &mut Vec<u8>, by: ScriptRef, step: &Step) {
        let soon = usize::from(step.soon);
        self.head(out, Script::Reconcile, by, 2, soon.saturating_add(5));
        push_bulk(out, self.pass.as_bytes());
        push_bulk(out, self.control.as_bytes());
        push_bulk(out, step.worker.as_bytes());
        push_number(out, step.silence_ms);
        push_number(out, step.count);
        push_number(out, step.longest.ttl_ms);
        push_number(out, step.longest.cooldown_ms);
        if step.soon {
            push_bulk(out, b"soon");
        }
    }

    /// `look.lua`; at most so many drained accounts, and the use of so many.
    pub fn look(&self, out: &mut Vec<u8>, by: ScriptRef, drained: u64, used: u64) {
        self.head(out, Script::Look, by, 2, 2);
        push_bulk(out, self.control.as_bytes());
        push_bulk(out, self.question.as_bytes());
        push_number(out, drained);
        push_number(out, used);
    }

    /// A plain SET for a while: what a worker answers to a question that a look showed.
    pub fn answer(&self, out: &mut Vec<u8>, text: &str, keep_ms: u64) {
        set_for(out, &self.answer, text, keep_ms);
    }

    /// The same of a question to the workers.
    pub fn put_question(&self, out: &mut Vec<u8>, text: &str, keep_ms: u64) {
        set_for(out, &self.question, text, keep_ms);
    }

    /// `GET` of what a worker answered.
    pub fn read_answer(&self, out: &mut Vec<u8>) {
        push_command(out, &[b"GET", self.answer.as_bytes()]);
    }

    /// `control.lua`; `session` is the session's hash, for `unbind`, which has no other subject.
    pub fn control(
        &self,
        out: &mut Vec<u8>,
        by: ScriptRef,
        verb: &str,
        subject: &str,
        session: Option<&[u8; 16]>,
    ) {
        let extra_keys = usize::from(session.is_some()).saturating_add(1);
        self.head(out, Script::Control, by, extra_keys, 2);
        push_bulk(out, self.control.as_bytes());
        let tag = session.map(keys::session_tag);
        if let Some(session) = session {
            push_bulk_of(
                out,
                self.session_prefix.as_bytes(),
                &keys::session_digits(session),
            );
        }
        let subject = tag.as_ref().map_or(subject.as_bytes(), |tag| tag);
        push_bulks(out, &[verb.as_bytes(), subject]);
    }

    /// `inspect.lua`
    pub fn inspect(&self, out: &mut Vec<u8>, by: ScriptRef, cursor: &str, count: u64) {
        self.head(out, Script::Inspect, by, 1, 2);
        let count = count.to_string();
        let arguments = [&self.control, cursor, &count];
        push_bulks(out, &arguments.map(str::as_bytes));
    }
}

impl LedgerCommands {
    /// `GET` of the key that holds a session ([`keys::session_account`] reads it).
    pub fn session(&self, out: &mut Vec<u8>, session: &[u8; 16]) {
        push_array(out, 2);
        push_bulk(out, b"GET");
        push_bulk_of(
            out,
            self.session_prefix.as_bytes(),
            &keys::session_digits(session),
        );
    }

    /// `ZRANGE` of a scope's cooldowns.
    pub fn scope(&self, out: &mut Vec<u8>, scope: &[u8; 16]) {
        let key = hashed(&self.scope_prefix, scope);
        push_command(out, &[b"ZRANGE", &key, b"0", b"-1", b"WITHSCORES"]);
    }
}

fn set_for(out: &mut Vec<u8>, key: &str, text: &str, keep_ms: u64) {
    push_array(out, 5);
    push_bulks(out, &[b"SET", key.as_bytes(), text.as_bytes(), b"PX"]);
    push_number(out, keep_ms);
}

/// What [`push_hashed`] writes, by itself.
fn hashed(prefix: &str, hash: &[u8; 16]) -> Vec<u8> {
    let mut key = prefix.as_bytes().to_vec();
    for byte in hash {
        let mut pair = [0; 2];
        crate::request::lease::hex(u64::from(*byte), &mut pair);
        key.extend_from_slice(&pair);
    }
    key
}

/// A key that ends in a hash: nobody's own text stands in Redis.
fn push_hashed(out: &mut Vec<u8>, prefix: &str, hash: &[u8; 16]) {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hash) {
        crate::request::lease::hex(u64::from(*byte), pair);
    }
    push_bulk_of(out, prefix.as_bytes(), &digits);
}
