//! The ledger's scripts: their sources, typed arguments in, typed replies out.

use super::keys;
use super::resp::{
    Value, Values, push_array, push_bulk, push_bulk_of, push_bulks, push_command, push_number,
    whole,
};
use crate::request::lease::LeaseId;

/// One Lua file of `lua/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Choose an account and take a lease.
    Acquire,
    /// End leases.
    Release,
    /// Keep leases alive.
    Renew,
    /// Put a pool's accounts in force.
    Sync,
    /// Stop new leases of an account for a while.
    Cooldown,
    /// Prove and mend the counts, one step of a pass.
    Reconcile,
    /// See the operator's overrides.
    Look,
    /// An operator's change.
    Control,
    /// Show every account.
    Inspect,
}

/// A file of `lua/` without what is only for readers: comments, empty lines, indentation. That happens when it is compiled,
/// so the filter does not carry it.
macro_rules! code_of {
    ($file:literal) => {{
        const FILE: &[u8] = include_str!(concat!("../../lua/", $file)).as_bytes();
        const CODE: [u8; code(FILE, &mut [])] = {
            let mut code_bytes = [0; code(FILE, &mut [])];
            code(FILE, &mut code_bytes);
            code_bytes
        };
        const TEXT: &str = match str::from_utf8(&CODE) {
            Ok(text) => text,
            Err(_) => panic!("not UTF-8"),
        };
        TEXT
    }};
}

/// Copies the lines that are code, and answers how long they are; with an empty `into` it only answers.
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "it runs while this is compiled, and would stop that"
)]
const fn code(file: &[u8], into: &mut [u8]) -> usize {
    let (mut at, mut length) = (0, 0);
    while at < file.len() {
        while at < file.len() && file[at] == b' ' {
            at += 1;
        }
        let comment = at + 1 < file.len() && file[at] == b'-' && file[at + 1] == b'-';
        let skipped = comment || at < file.len() && file[at] == b'\n';
        loop {
            let end = at >= file.len() || file[at] == b'\n';
            if !skipped {
                if !into.is_empty() {
                    into[length] = if end { b'\n' } else { file[at] };
                }
                length += 1;
            }
            at += 1;
            if end {
                break;
            }
        }
    }
    length
}

/// What Redis needs for a session key beside its name and its value: an entry in each of two tables, which may just have
/// doubled, an object, the last digits of the name. Measured, rounded up: `tests/ledger/sessions.rs` proves the sum.
const SESSION_KEY_BYTES: u64 = 160;

/// What stands in front of every script.
const LEDGER: &str = code_of!("ledger.lua");

impl Script {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Acquire,
        Self::Release,
        Self::Renew,
        Self::Sync,
        Self::Cooldown,
        Self::Reconcile,
        Self::Look,
        Self::Control,
        Self::Inspect,
    ];

    /// Those that the filter itself runs, in the order they are loaded.
    pub const FILTER: [Self; 7] = [
        Self::Acquire,
        Self::Release,
        Self::Renew,
        Self::Sync,
        Self::Cooldown,
        Self::Reconcile,
        Self::Look,
    ];

    /// Its flags, and its code. What frees or keeps a slot must run when memory is full.
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Acquire => ("", code_of!("acquire.lua")),
            Self::Release => (" flags=allow-oom", code_of!("release.lua")),
            Self::Renew => (" flags=allow-oom", code_of!("renew.lua")),
            Self::Sync => ("", code_of!("sync.lua")),
            Self::Cooldown => (" flags=allow-oom", code_of!("cooldown.lua")),
            Self::Reconcile => (" flags=allow-oom", code_of!("reconcile.lua")),
            Self::Look => (" flags=no-writes", code_of!("look.lua")),
            Self::Control => (" flags=allow-oom", code_of!("control.lua")),
            Self::Inspect => (" flags=no-writes", code_of!("inspect.lua")),
        }
    }

    /// What is sent to Redis: the `#!lua` line, `ledger.lua` and the file, without what is only for readers.
    #[must_use]
    pub fn source(self) -> String {
        let (flags, own) = self.parts();
        ["#!lua", flags, "\n", LEDGER, own].concat()
    }
}

/// The SHA-1 of a script in hex, as `SCRIPT LOAD` answers it.
pub type Sha = [u8; 40];

/// The SHA of each script, in the order of [`Script::ALL`].
#[derive(Debug, Clone)]
pub struct Shas(pub [Sha; Script::ALL.len()]);

/// How a script is named in a command.
#[derive(Debug, Clone, Copy)]
pub enum ScriptRef<'a> {
    /// `EVALSHA`
    Sha(&'a Shas),
    /// `EVAL`, which also loads it: the answer to NOSCRIPT.
    Source,
}

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

/// Why a command has no answer of its own. The questions to ask of it: [`Fault::may_have_run`], [`Fault::is_wrong_server`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server has no such script: send its source.
    NoScript,
    /// The pool has no accounts: sync, then ask again.
    NoPool,
    /// The account is not in the pool.
    NoAccount,
    /// A replica.
    ReadOnly,
    /// A replica that may not answer while it has no master.
    MasterDown,
    /// It still reads its data.
    Loading,
    /// Another node of the cluster has the pool, or none.
    Moved,
    /// The user may not run it.
    Denied,
    /// `maxmemory` is reached.
    OutOfMemory,
    /// A script has been running for too long.
    Busy,
    /// It can't write its data to disk.
    Disk,
    /// Too few replicas are in step.
    NoReplicas,
    /// The cluster is moving the pool's keys.
    TryAgain,
    /// The script would not take an argument.
    BadArgument,
    /// An error from within the script, or one nobody expects.
    Unknown,
    /// Not the answer to what was asked: replies and commands no longer match.
    Mismatch,
    /// The pool holds what cannot be there: a value that is none, a key of another type. It is this pool's fault alone.
    Garbage,
}

impl Fault {
    /// What an unexpected value means: the error it is, or else a reply that is none to what was asked.
    #[must_use]
    pub fn in_place_of(value: Option<Value>) -> Self {
        match value {
            Some(Value::Error(error)) => Self::of(error),
            Some(
                Value::Simple(_)
                | Value::Integer(_)
                | Value::Bulk(_)
                | Value::Nil
                | Value::Array(_),
            )
            | None => Self::Mismatch,
        }
    }

    /// All of them, in order.
    pub const ALL: [Self; 17] = [
        Self::NoScript,
        Self::NoPool,
        Self::NoAccount,
        Self::ReadOnly,
        Self::MasterDown,
        Self::Loading,
        Self::Moved,
        Self::Denied,
        Self::OutOfMemory,
        Self::Busy,
        Self::Disk,
        Self::NoReplicas,
        Self::TryAgain,
        Self::BadArgument,
        Self::Unknown,
        Self::Mismatch,
        Self::Garbage,
    ];

    /// Sorts an error reply by its first word.
    #[must_use]
    pub fn of(error: &[u8]) -> Self {
        match error.split(|byte| *byte == b' ').next().unwrap_or_default() {
            b"NOSCRIPT" => Self::NoScript,
            b"NOPOOL" => Self::NoPool,
            b"NOACCOUNT" => Self::NoAccount,
            b"READONLY" => Self::ReadOnly,
            b"MASTERDOWN" => Self::MasterDown,
            b"LOADING" => Self::Loading,
            b"MOVED" | b"ASK" | b"CLUSTERDOWN" => Self::Moved,
            b"NOAUTH" | b"WRONGPASS" | b"NOPERM" => Self::Denied,
            b"OOM" => Self::OutOfMemory,
            b"BUSY" => Self::Busy,
            b"MISCONF" => Self::Disk,
            b"NOREPLICAS" => Self::NoReplicas,
            b"TRYAGAIN" => Self::TryAgain,
            b"BADARG" => Self::BadArgument,
            b"GARBAGE" | b"WRONGTYPE" => Self::Garbage,
            // Our scripts fail by themselves only at what they read.
            b"ERR"
                if contains(error, b"user_script")
                    && !NO_GARBAGE.iter().any(|words| contains(error, words)) =>
            {
                Self::Garbage
            }
            _ => Self::Unknown,
        }
    }

    /// As it stands in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoScript => "no_script",
            Self::NoPool => "no_pool",
            Self::NoAccount => "no_account",
            Self::ReadOnly => "read_only",
            Self::MasterDown => "master_down",
            Self::Loading => "loading",
            Self::Moved => "moved",
            Self::Denied => "denied",
            Self::OutOfMemory => "out_of_memory",
            Self::Busy => "busy",
            Self::Disk => "disk",
            Self::NoReplicas => "no_replicas",
            Self::TryAgain => "try_again",
            Self::BadArgument => "bad_argument",
            Self::Unknown => "unknown",
            Self::Mismatch => "mismatch",
            Self::Garbage => "garbage",
        }
    }

    /// Whether this server, or this connection, can't serve us now and another one may: reopen the pipe.
    #[must_use]
    pub fn is_wrong_server(self) -> bool {
        match self {
            Self::ReadOnly | Self::MasterDown | Self::Loading | Self::Moved | Self::Denied => true,
            Self::NoScript
            | Self::NoPool
            | Self::NoAccount
            | Self::OutOfMemory
            | Self::Busy
            | Self::Disk
            | Self::NoReplicas
            | Self::TryAgain
            | Self::BadArgument
            | Self::Unknown
            | Self::Garbage
            | Self::Mismatch => false,
        }
    }

    /// Whether Redis may have done what was asked nevertheless.
    #[must_use]
    pub fn may_have_run(self) -> bool {
        match self {
            Self::NoScript
            | Self::NoPool
            | Self::NoAccount
            | Self::OutOfMemory
            | Self::Busy
            | Self::Disk
            | Self::NoReplicas
            | Self::TryAgain
            | Self::BadArgument => false,
            // Newer servers use the same words for a command denied in the middle of a script.
            Self::ReadOnly
            | Self::MasterDown
            | Self::Loading
            | Self::Moved
            | Self::Denied
            | Self::Unknown
            | Self::Garbage
            | Self::Mismatch => true,
        }
    }
}

/// What `acquire.lua` says of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired<'a> {
    /// It holds a slot of this account.
    Granted {
        /// The account's id.
        account: &'a [u8],
        /// Whether the account has cooled, and wants to know whether this lease passes.
        probes: bool,
    },
    /// No account can take a lease.
    Saturated {
        /// When to come back, in ms.
        retry_after_ms: u64,
    },
    /// The account named is not in the pool.
    NoAccount,
}

/// What `renew.lua` says of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It lives on.
    Renewed,
    /// It was gone and is counted again.
    Readopted,
    /// Its slot is someone else's.
    Lost,
}

/// What `sync.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    /// The accounts are wanted.
    Wanted,
    /// They are in force now.
    Replaced,
    /// They were in force already.
    Current,
    /// A higher revision is in force.
    Newer(u64),
    /// Other accounts are in force under the same revision.
    Differs,
    /// The next part is wanted.
    Part,
    /// Someone else puts these in force just now, or a higher revision's.
    Coming,
}

/// Reads the reply to an acquire of `leases` leases: the ledger's epoch at that moment, and one answer each.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn acquired(
    reply: &[u8],
    leases: usize,
) -> Result<(u64, impl Iterator<Item = Acquired<'_>> + Clone), Fault> {
    let mut values = Values::new(reply);
    let length = leases.saturating_add(1);
    array(&mut values, length..=length)?;
    let epoch = number_in(&mut values)?;
    let answers = std::iter::from_fn(move || values.value()).map_while(|value| match value {
        Value::Bulk(text) => {
            let account = text.strip_suffix(b":probe");
            Some(Acquired::Granted {
                account: account.unwrap_or(text),
                probes: account.is_some(),
            })
        }
        Value::Integer(wait_ms) => Some(Acquired::Saturated {
            retry_after_ms: u64::try_from(wait_ms).unwrap_or(1),
        }),
        Value::Nil => Some(Acquired::NoAccount),
        Value::Simple(_) | Value::Error(_) | Value::Array(_) => None,
    });
    if answers.clone().count() != leases {
        return Err(Fault::Mismatch);
    }
    Ok((epoch, answers))
}

/// Reads the reply to a release, or to a cooldown: a number.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn number(reply: &[u8]) -> Result<u64, Fault> {
    match Values::new(reply).value() {
        Some(Value::Integer(number)) => u64::try_from(number).map_err(|_| Fault::Garbage),
        other => Err(Fault::in_place_of(other)),
    }
}

/// Reads the reply to a renew of `leases` leases: the epoch, and one answer each.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn renewed(reply: &[u8], leases: usize) -> Result<(u64, impl Iterator<Item = Renewed>), Fault> {
    let mut values = Values::new(reply);
    array(&mut values, 2..=2)?;
    let epoch = number_in(&mut values)?;
    let letters = values.bulk().ok_or(Fault::Mismatch)?;
    if letters.len() != leases || !letters.iter().all(|letter| b"ral".contains(letter)) {
        return Err(Fault::Mismatch);
    }
    let answers = letters.iter().map(|letter| match letter {
        b'r' => Renewed::Renewed,
        b'a' => Renewed::Readopted,
        _ => Renewed::Lost,
    });
    Ok((epoch, answers))
}

/// Reads the reply to a sync: what came of it, and the epoch.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn synced(reply: &[u8]) -> Result<Synced, Fault> {
    let mut values = Values::new(reply);
    array(&mut values, 3..=3)?;
    let answer = values.bulk().ok_or(Fault::Mismatch)?;
    let revision = number_in(&mut values)?;
    match answer {
        b"wanted" => Ok(Synced::Wanted),
        b"replaced" => Ok(Synced::Replaced),
        b"current" => Ok(Synced::Current),
        b"newer" => Ok(Synced::Newer(revision)),
        b"differs" => Ok(Synced::Differs),
        b"part" => Ok(Synced::Part),
        b"coming" => Ok(Synced::Coming),
        _ => Err(Fault::Mismatch),
    }
}

/// Where a sweep goes on, 0: it is over; and the ids that it has shown. For the reply that [`synced`] reads as a part's.
pub fn swept(reply: &[u8]) -> (&str, impl Iterator<Item = &str>) {
    let mut values = Values::new(reply);
    let _ = (values.value(), values.value());
    let mut word = || std::str::from_utf8(values.bulk().unwrap_or_default()).unwrap_or_default();
    let (cursor, ids) = (word(), word());
    (cursor, ids.split(' ').filter(|id| !id.is_empty()))
}

/// What `reconcile.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconciled {
    /// Another worker runs the passes.
    Elsewhere,
    /// The pass goes on; the drift found so far.
    Working(u64),
    /// The pass is over; the drift found and mended.
    Done(u64),
}

/// One step of a recount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recount<'a> {
    /// How far it is.
    pub state: Reconciled,
    /// What it found that cannot be there, with keys and fields; empty: nothing.
    pub found: &'a [u8],
    /// The revision in force, 0: none, and its digest; `None`: it was not said.
    pub in_force: Option<(u64, Option<u64>)>,
}

/// Reads the reply to a reconcile.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn reconciled(reply: &[u8]) -> Result<Recount<'_>, Fault> {
    let mut values = Values::new(reply);
    let length = array(&mut values, 2..=5)?;
    let state = values.bulk().ok_or(Fault::Mismatch)?;
    let drift = number_in(&mut values)?;
    let state = match state {
        b"elsewhere" => Reconciled::Elsewhere,
        b"working" => Reconciled::Working(drift),
        b"done" => Reconciled::Done(drift),
        _ => return Err(Fault::Mismatch),
    };
    let (mut found, mut in_force) = (&[][..], None);
    if length == 5 {
        found = values.bulk().ok_or(Fault::Mismatch)?;
        let (revision, digest) = values.bulk().zip(values.bulk()).ok_or(Fault::Mismatch)?;
        in_force = Some((whole(revision).unwrap_or(0), whole(digest)));
    }
    Ok(Recount {
        state,
        found,
        in_force,
    })
}

/// What an error says of a pool's keys, for people: without what Redis adds to it. `None`: it says nothing of them.
#[must_use]
pub fn garbage(error: &[u8]) -> Option<&[u8]> {
    if Fault::of(error) != Fault::Garbage {
        return None;
    }
    let error = error.strip_prefix(b"GARBAGE ").unwrap_or(error);
    let end = error.windows(9).position(|part| part == b" script: ");
    Some(error.get(..end.unwrap_or(error.len())).unwrap_or(error))
}

/// What ends a script and is no fault of what it reads: a command that this server denies or lacks, an operator's SCRIPT KILL.
const NO_GARBAGE: [&[u8]; 5] = [
    b"ACL failure",
    b"command called from script",
    b"command from script",
    b"not allowed from",
    b"killed by user",
];

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What `look.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked<'a> {
    /// The share of the gray release by override.
    pub percent: Override,
    /// Ids of the drained accounts, a space between; `None`: too many.
    pub drained: Option<&'a [u8]>,
    used: &'a [u8],
    /// What someone asks about a request; empty: nothing.
    pub question: &'a [u8],
}

/// An override as Redis has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Not set: what is configured holds.
    Absent,
    /// In basis points, 0..=10000.
    BasisPoints(u16),
    /// Someone wrote something else there.
    Malformed,
}

impl Override {
    /// Reads it; empty is none.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        match whole(text).and_then(|points| u16::try_from(points).ok()) {
            Some(points) if points <= 10_000 => Self::BasisPoints(points),
            Some(_) | None if text.is_empty() => Self::Absent,
            Some(_) | None => Self::Malformed,
        }
    }
}

impl<'a> Looked<'a> {
    /// Each account's id, how many of its slots are used, and how many it has; of none in a large pool.
    pub fn used(&self) -> impl Iterator<Item = (&'a [u8], u64, u64)> {
        let mut words = self.used.split(|byte| *byte == b' ');
        std::iter::from_fn(move || {
            Some((words.next()?, whole(words.next()?)?, whole(words.next()?)?))
        })
    }
}

/// Reads the reply to a look.
///
/// # Errors
/// The [`Fault`] that stands in its place.
pub fn looked(reply: &[u8]) -> Result<Looked<'_>, Fault> {
    let mut values = Values::new(reply);
    array(&mut values, 4..=4)?;
    let percent = Override::of(values.bulk().ok_or(Fault::Mismatch)?);
    let drained = match values.value() {
        Some(Value::Bulk(ids)) => Some(ids),
        Some(Value::Nil) => None,
        Some(Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Array(_)) | None => {
            return Err(Fault::Mismatch);
        }
    };
    let (used, question) = values.bulk().zip(values.bulk()).ok_or(Fault::Mismatch)?;
    Ok(Looked {
        percent,
        drained,
        used,
        question,
    })
}

/// A number where the ledger's own stand. One of the right shape with something else in it is the pool's fault.
fn number_in(values: &mut Values) -> Result<u64, Fault> {
    match values.value() {
        Some(Value::Bulk(text)) => whole(text).ok_or(Fault::Garbage),
        Some(Value::Integer(number)) => u64::try_from(number).map_err(|_| Fault::Garbage),
        other => Err(Fault::in_place_of(other)),
    }
}

fn array(values: &mut Values, length: std::ops::RangeInclusive<usize>) -> Result<usize, Fault> {
    match values.value() {
        Some(Value::Array(found)) if length.contains(&found) => Ok(found),
        other => Err(Fault::in_place_of(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Redis 7.0.15 says it.
    #[test]
    fn only_what_a_script_reads_is_garbage() {
        let end = " script: dec7952a674c9e70b116ec72c2267a0b537a1463, on @user_script:2.";
        for (error, fault) in [
            (
                "ERR Unknown Redis command called from script",
                Fault::Unknown,
            ),
            (
                "ERR Wrong number of args calling Redis command from script",
                Fault::Unknown,
            ),
            (
                "ERR This Redis command is not allowed from script",
                Fault::Unknown,
            ),
            (
                "ERR Write commands are not allowed from read-only scripts.",
                Fault::Unknown,
            ),
            (
                "ERR Script killed by user with SCRIPT KILL...",
                Fault::Unknown,
            ),
            (
                "ERR ACL failure in script: User slotgate has no permissions to run the 'hget' command",
                Fault::Unknown,
            ),
            (
                "ERR user_script:2: attempt to compare number with nil",
                Fault::Garbage,
            ),
            (
                "ERR value is not an integer or out of range",
                Fault::Garbage,
            ),
            ("ERR hash value is not an integer", Fault::Garbage),
            ("ERR value is not a valid float", Fault::Garbage),
        ] {
            assert_eq!(
                Fault::of((error.to_owned() + end).as_bytes()),
                fault,
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_sent_is_the_files_code() {
        for script in Script::ALL {
            let name = format!("{script:?}").to_lowercase();
            let read = |name: &str| std::fs::read_to_string(format!("lua/{name}.lua")).unwrap();
            let files = read("ledger") + &read(&name);
            let code = files
                .lines()
                .map(|line| line.trim_start_matches(' '))
                .filter(|line| !line.is_empty() && !line.starts_with("--"));
            let source = script.source();
            let mut lines = source.lines();
            assert!(lines.next().unwrap().starts_with("#!lua"));
            assert!(lines.eq(code), "{name}");
        }
        let mut into = [0; 5];
        assert_eq!(code(b" -- c\n\n  a = 1 -- d", &mut []), 11);
        assert_eq!(code(b"--\nab\n  c", &mut into), 5);
        assert_eq!(&into, b"ab\nc\n");
    }
}
