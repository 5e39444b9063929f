//! Limits the console's load, so that the data path goes on however many clients ask as fast as they can: how soon a scan
//! begins, and when an answer is held back. Measured by `make bench-console`.

use super::api::Response;
use std::collections::VecDeque;

/// The shortest time from one poll's begin to the next one's, in ms. All who ask meanwhile share the next.
const POLL_MS: u64 = 250;
/// How many bytes from Redis make the next scan wait for 1 ms. They cost Envoy's worker and Redis 0.1 ms together.
const READ_PER_MS: usize = 1_000;
/// How many bytes to clients make the next scan wait for 1 ms.
const SENT_PER_MS: usize = 8_000;
/// How long each answer makes the next scan wait, in ms.
const ANSWER_MS: u64 = 16;
/// How many answers an explanation counts for: to judge each account costs more than to read and to send it.
const EXPLAINED: u64 = 4;
/// The longest that all these together make a scan wait, in ms.
const MOST_REST_MS: u64 = 5_000;
/// How much of the budget of answers that need no Redis may be used in advance, in ms. An answer beyond that is held back.
const BURST_MS: u64 = 250;
/// How many answers are held back at most; those beyond are given at once.
const MOST_HELD: usize = 128;

/// The budgets of one console.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// No poll begins before then, in ms.
    pub(super) next_poll_ms: u64,
    /// No scan of any kind begins before then, in ms.
    pub(super) next_scan_ms: u64,
    /// Answers that are held back.
    held: VecDeque<Held>,
    /// Until when the budget for answers is used up, in ms.
    used_until_ms: u64,
}

#[derive(Debug)]
struct Held {
    due_ms: u64,
    stream: u32,
    response: Response,
}

impl Pace {
    /// When an answer that is held back is due, in ms.
    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        self.held.front().map(|held| held.due_ms)
    }

    /// An answer that needed no Redis: returned if it may be given at once, else held back.
    pub(super) fn hold(
        &mut self,
        now_ms: u64,
        stream: u32,
        response: Response,
    ) -> Option<Response> {
        if self.held.len() >= MOST_HELD {
            return Some(response);
        }
        let begin_ms = self.used_until_ms.max(now_ms);
        self.used_until_ms = begin_ms.saturating_add(cost_ms(&response));
        let due_ms = self.used_until_ms.saturating_sub(BURST_MS);
        if due_ms <= now_ms {
            return Some(response);
        }
        self.held.push_back(Held {
            due_ms,
            stream,
            response,
        });
        None
    }

    /// The next answer whose time has come, and its stream.
    pub(super) fn next_due(&mut self, now_ms: u64) -> Option<(u32, Response)> {
        self.held.front().filter(|held| held.due_ms <= now_ms)?;
        let held = self.held.pop_front()?;
        Some((held.stream, held.response))
    }

    /// A client left. The cost of its answer is given back: a client that leaves must not make others wait.
    pub(super) fn forget(&mut self, stream: u32) {
        let mut given_back_ms: u64 = 0;
        self.held.retain(|held| {
            let stays = held.stream != stream;
            if !stays {
                given_back_ms = given_back_ms.saturating_add(cost_ms(&held.response));
            }
            stays
        });
        self.used_until_ms = self.used_until_ms.saturating_sub(given_back_ms);
    }

    /// No scan begins until so much more time has passed.
    fn rest(&mut self, now_ms: u64, rest_ms: u64) {
        let until_ms = self.next_scan_ms.max(now_ms).saturating_add(rest_ms);
        self.next_scan_ms = until_ms.min(now_ms.saturating_add(MOST_REST_MS));
    }

    /// A poll began.
    pub(super) fn polled(&mut self, now_ms: u64) {
        self.next_poll_ms = now_ms.saturating_add(POLL_MS);
    }

    /// Counts bytes that came from Redis.
    pub(super) fn read(&mut self, now_ms: u64, bytes: usize) {
        self.rest(now_ms, ms(bytes, READ_PER_MS).saturating_add(1));
    }

    /// Counts an answer that needed Redis, and the clients that got it.
    pub(super) fn answered(&mut self, now_ms: u64, response: &Response, clients: usize) {
        self.rest(now_ms, cost_ms(response).saturating_mul(clients as u64));
    }

    /// The answer explains: it costs more than others.
    pub(super) fn explained(&mut self, now_ms: u64, response: &Response) {
        let more_ms = cost_ms(response).saturating_mul(EXPLAINED.saturating_sub(1));
        self.rest(now_ms, more_ms);
    }
}

/// How much of the budget an answer costs, in ms.
fn cost_ms(response: &Response) -> u64 {
    ms(response.body.len(), SENT_PER_MS).saturating_add(ANSWER_MS)
}

/// How many ms a number of bytes takes, rounded down.
fn ms(bytes: usize, per_ms: usize) -> u64 {
    bytes.checked_div(per_ms).unwrap_or(0) as u64
}
