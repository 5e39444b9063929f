//! The effects that a worker leaves for the host, and its gauges.

use super::notice::Notice;
use crate::request::verdict::{Logged, Verdict};

/// The effects of an event. The host carries them out after each one.
#[derive(Debug, Default)]
pub struct Output {
    /// Polls that changed something, by pool: for [`super::Worker::restore_overrides`] of the next configuration.
    pub overrides: Vec<(usize, Vec<u8>)>,
    /// What an operator should read.
    pub notices: Vec<Notice>,
    /// How long requests waited for their acquire's outcome: pool and µs.
    pub waited_us: Vec<(usize, u64)>,
    /// What the access log is to say of the request whose verdict was returned, with `access_log` only.
    pub log: Option<Logged>,
}

/// A paused request's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The request's stream.
    pub stream: u32,
    /// The verdict on the request.
    pub verdict: Verdict,
    /// What the access log is to say of it, with `access_log` only.
    pub log: Option<Logged>,
}

/// The gauges of one worker, in the order of their names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Gauges(pub [u64; Gauges::NAMES.len()]);

impl Gauges {
    /// The names of the gauges in metrics.
    pub const NAMES: [&str; 4] = [
        "breaker.open",
        "pipe.workers_ready",
        "pipe.workers_down",
        "queue.commands",
    ];
}
