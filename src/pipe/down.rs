//! Why the pipe is down, and what is to be done with it.

use crate::ledger::fault::Fault;

/// What to do with the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeOrder {
    /// Open it; answered by [`Worker::on_pipe_open`] or [`Worker::on_pipe_closed`].
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
    /// A reply was not the answer to what was asked.
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
    /// As they stand in metrics.
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

    /// Its place among the names.
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
