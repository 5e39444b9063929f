//! Why the pipe is down, and what is to be done with it.

use crate::ledger::fault::Fault;

/// What to do with the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeOrder {
    /// Open it, then tell the owner that it is open or closed.
    Open,
    /// Drop it without a word.
    Reset,
}

/// Why the pipe is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// Redis, or something on the way to it, closed the connection or refused it.
    Closed,
    /// Envoy opens no stream: it has no such cluster, or the cluster no host.
    Unopened,
    /// The oldest command waited longer than `command_timeout_ms`.
    Stuck,
    /// Redis sent a reply that does not fit the command.
    Mismatch,
    /// Redis refused AUTH.
    Auth,
    /// Redis refused SELECT.
    Select,
    /// Redis would not load the scripts.
    Load,
    /// This Redis can't serve us now.
    WrongServer(Fault),
    /// Redis wanted no connection at all.
    Refused,
}

impl Down {
    /// The reasons as metrics name them.
    pub const NAMES: [&str; 9] = [
        "closed",
        "unopened",
        "stuck",
        "mismatch",
        "auth",
        "select",
        "load",
        "wrong_server",
        "refused",
    ];

    /// The index of this reason in [`Down::NAMES`].
    #[must_use]
    pub fn place(self) -> usize {
        match self {
            Self::Closed => 0,
            Self::Unopened => 1,
            Self::Stuck => 2,
            Self::Mismatch => 3,
            Self::Auth => 4,
            Self::Select => 5,
            Self::Load => 6,
            Self::WrongServer(_) => 7,
            Self::Refused => 8,
        }
    }
}
