//! The effects that a worker leaves for the host, and its gauges.

use super::notice::Notice;
use super::request::{LaterTry, RequestId};
use crate::request::verdict::{Logged, Verdict};

/// The effects of an event. The host carries them out after each one.
#[derive(Debug, Default)]
pub struct Output {
    /// Polls that changed something, by pool: for [`super::Worker::restore_overrides`] of the next configuration.
    pub overrides: Vec<(usize, Vec<u8>)>,
    /// What an operator should read.
    pub notices: Vec<Notice>,
    /// How long requests waited in the queue until they were granted a slot: pool and µs.
    pub queued_us: Vec<(Option<usize>, u64)>,
    /// How long requests waited for their acquire's outcome, those that waited in the queue left out: pool and µs.
    pub waited_us: Vec<(Option<usize>, u64)>,
    /// What the access log is to say of the request whose verdict was returned, with `access_log` only.
    pub log: Option<Logged>,
}

/// A paused request's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The request.
    pub request: RequestId,
    /// The verdict on the request.
    pub verdict: Verdict,
    /// What the access log is to say of it, with `access_log` only.
    pub log: Option<Logged>,
    /// With a later try of the request: where that is paused.
    pub later: Option<Box<LaterTry>>,
}

/// The gauges of one worker, in the order of their names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Gauges(pub [u64; Gauges::NAMES.len()]);

impl Gauges {
    /// The names of the gauges in metrics.
    pub const NAMES: [&str; 6] = [
        "breaker.open",
        "pipe.workers_ready",
        "pipe.workers_down",
        "queue.commands",
        "queue.waiting",
        "queue.workers_listening",
    ];
}
