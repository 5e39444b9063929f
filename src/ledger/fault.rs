//! Why a command has no answer of its own.

use super::resp::Value;

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
    /// The server still loads its data.
    Loading,
    /// Another node of the cluster has the pool, or none.
    Moved,
    /// The user may not run it.
    Denied,
    /// `maxmemory` is reached.
    OutOfMemory,
    /// A script has been running for too long.
    Busy,
    /// The server can't write its data to disk.
    Disk,
    /// Too few replicas are in step.
    NoReplicas,
    /// The cluster is moving the pool's keys.
    TryAgain,
    /// The script would not take an argument.
    BadArgument,
    /// An error from within the script, or one nobody expects.
    Unknown,
    /// The reply does not fit the command: replies and commands no longer match.
    Mismatch,
    /// The pool holds what cannot be there: a value that is none, a key of another type. It is this pool's fault alone.
    Garbage,
    /// The user may run the script, but not all of its commands, or not on these keys.
    Forbidden,
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
    pub const ALL: [Self; 18] = [
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
        Self::Forbidden,
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
            b"ERR" if FORBIDDEN.iter().any(|words| contains(error, words)) => Self::Forbidden,
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

    /// The name of the fault in metrics and logs.
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
            Self::Forbidden => "forbidden",
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
            | Self::Forbidden
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
            | Self::Forbidden
            | Self::Mismatch => true,
        }
    }
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

/// How Redis 7.0 and later versions say that a script's user lacks a right.
const FORBIDDEN: [&[u8]; 2] = [b"ACL failure", b"user executing the script can't"];
/// What ends a script and is no fault of what it reads: a command that this server lacks, an operator's SCRIPT KILL.
const NO_GARBAGE: [&[u8]; 4] = [
    b"command called from script",
    b"command from script",
    b"not allowed from",
    b"killed by user",
];

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
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
                Fault::Forbidden,
            ),
            (
                "ERR The user executing the script can't run this command or subcommand",
                Fault::Forbidden,
            ),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments",
                Fault::Forbidden,
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
}
