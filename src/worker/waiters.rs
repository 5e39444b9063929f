//! Requests that wait for a slot in the ledger's queue: until when, and when the ledger hears of them again.
//!
//! The ledger keeps a waiter for [`VOUCHED_MS`] after it last heard of it. So each is asked for again, well before: if it was
//! granted a slot meanwhile and that was not heard (see `grants`), the answer says so.

use super::command::AcquireCommand;
use super::context::Context;
use crate::ledger::commands::Order;
use crate::request::lease::LeaseId;
use std::collections::VecDeque;

/// How long a waiter stays in the ledger's queue after it was last asked for, in ms.
pub(super) const VOUCHED_MS: u64 = 6_000;
/// How often each waiter is asked for: when grants are heard, and when they are not, in ms.
const HEARTBEAT_MS: (u64, u64) = (2_000, 250);
/// The asks of one heartbeat are spread over about this many steps, so that they do not delay other commands.
const STEPS: usize = 10;
/// How far apart two steps are, in ms.
const STEP_MS: u64 = 10;
/// How few waiters a step asks for at least, and how many at most.
const STEP: (usize, usize) = (32, 512);
/// How many waiters end at a time when their time is up.
const PORTION: usize = 1024;

/// One request that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) pool: usize,
    pub(super) slot: usize,
    pub(super) lease: LeaseId,
    pub(super) order: Order,
    /// When it gives up, in ms.
    until_ms: u64,
}

/// The waiting requests of one worker.
#[derive(Debug)]
pub(super) struct Waiters {
    /// Those that have waited longest first. Entries of requests that moved on are skipped.
    list: VecDeque<Waiter>,
    /// Those of them that give up sooner than the order of the list says, in no order.
    hurried: Vec<Waiter>,
    /// When the next step of a heartbeat is due, in ms; `None`: nobody waits.
    due_ms: Option<u64>,
    /// How many of the list the heartbeat under way has asked for.
    asked: usize,
    /// When the heartbeat under way began, in ms.
    began_ms: u64,
    /// Since when the pipe is away, in ms.
    away_ms: Option<u64>,
    /// What the ledger last said about when to come back, by pool, in ms.
    retry_after_ms: Vec<u64>,
}

impl Waiters {
    pub(super) fn new(pools: usize) -> Self {
        Self {
            list: VecDeque::new(),
            hurried: Vec::new(),
            due_ms: None,
            asked: 0,
            began_ms: 0,
            away_ms: None,
            retry_after_ms: vec![1_000; pools],
        }
    }

    /// When something is due, in ms.
    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        let first = self.list.front()?;
        let asks_ms = match self.away_ms {
            Some(away_ms) => Some(away_ms.saturating_add(VOUCHED_MS)),
            None => self.due_ms,
        };
        let hurried_ms = self.hurried.iter().map(|waiter| waiter.until_ms);
        let wakes = asks_ms.into_iter().chain(hurried_ms);
        wakes.chain([first.until_ms]).min()
    }

    /// A request begins to wait.
    /// `hurried_ms`: when it gives up, if that is sooner than others who come now.
    pub(super) fn join(
        &mut self,
        cx: &Context,
        acquire: &AcquireCommand,
        order: Order,
        hurried_ms: Option<u64>,
    ) {
        let Some(queue) = cx.config.saturated.queue() else {
            return;
        };
        let waiter = Waiter {
            pool: acquire.pool,
            slot: acquire.slot,
            lease: acquire.lease,
            order,
            until_ms: cx.now_ms.saturating_add(queue.max_wait_ms),
        };
        self.list.push_back(waiter);
        if let Some(hurried_ms) = hurried_ms.filter(|until_ms| *until_ms < waiter.until_ms) {
            let until_ms = hurried_ms;
            self.hurried.push(Waiter { until_ms, ..waiter });
        }
        if self.due_ms.is_none() {
            self.due_ms = Some(cx.now_ms.saturating_add(HEARTBEAT_MS.1));
        }
    }

    /// The ledger said of a pool when to come back, and when its next cooldown ends (0: none is under way), both in ms from now.
    pub(super) fn see(&mut self, cx: &Context, pool: usize, retry_after_ms: u64, wake_ms: u64) {
        if let Some(held) = self.retry_after_ms.get_mut(pool) {
            *held = retry_after_ms;
        }
        if wake_ms > 0 && self.asked == 0 {
            let wake_ms = cx.now_ms.saturating_add(wake_ms.max(STEP_MS));
            self.due_ms = self.due_ms.map(|due_ms| due_ms.min(wake_ms));
        }
    }

    /// When to come back to a pool, in ms.
    pub(super) fn retry_after_ms(&self, pool: usize) -> u64 {
        self.retry_after_ms.get(pool).copied().unwrap_or(1_000)
    }

    /// The waiters that the ledger must hear of now. `listens`: whether grants are heard; `waits`: whether a request, by its
    /// slot and its lease, still waits.
    pub(super) fn next_asks(
        &mut self,
        cx: &Context,
        listens: bool,
        waits: impl Fn(usize, LeaseId) -> bool,
    ) -> Vec<Waiter> {
        if self.due_ms.is_none_or(|due_ms| due_ms > cx.now_ms) {
            return Vec::new();
        }
        if self.asked == 0 {
            self.began_ms = cx.now_ms;
            self.list.retain(|waiter| waits(waiter.slot, waiter.lease));
            self.hurried
                .retain(|waiter| waits(waiter.slot, waiter.lease));
        }
        let step = self.list.len().checked_div(STEPS).unwrap_or(0);
        let step = step.clamp(STEP.0, STEP.1);
        let asks = self.list.iter().skip(self.asked).take(step).copied();
        let asks: Vec<_> = asks
            .filter(|waiter| waits(waiter.slot, waiter.lease))
            .collect();
        self.asked = self.asked.saturating_add(step);
        let interval_ms = if listens {
            HEARTBEAT_MS.0
        } else {
            HEARTBEAT_MS.1
        };
        self.due_ms = if self.asked < self.list.len() {
            Some(cx.now_ms.saturating_add(STEP_MS))
        } else {
            self.asked = 0;
            let next_ms = self.began_ms.saturating_add(interval_ms);
            let next_ms = next_ms.max(cx.now_ms.saturating_add(STEP_MS));
            (!self.list.is_empty()).then_some(next_ms)
        };
        asks
    }

    /// The next waiter that has waited for as long as it may.
    pub(super) fn next_over(&mut self, now_ms: u64) -> Option<Waiter> {
        let is_over = |waiter: &mut Waiter| waiter.until_ms <= now_ms;
        if let Some(hurried) = self.hurried.extract_if(.., is_over).next() {
            return Some(hurried);
        }
        self.list.front().filter(|first| first.until_ms <= now_ms)?;
        self.asked = self.asked.saturating_sub(1);
        self.list.pop_front()
    }

    /// Those whose place is lost, a portion at a time: the pipe is away for as long as the ledger keeps them.
    pub(super) fn next_lost(&mut self, now_ms: u64) -> Vec<Waiter> {
        let over = |away_ms| now_ms.saturating_sub(away_ms) >= VOUCHED_MS;
        if !self.away_ms.is_some_and(over) {
            return Vec::new();
        }
        self.asked = 0;
        let portion = self.list.len().min(PORTION);
        self.list.drain(..portion).collect()
    }

    /// The pipe was lost.
    pub(super) fn on_pipe_lost(&mut self, now_ms: u64) {
        self.away_ms.get_or_insert(now_ms);
    }

    /// The pipe is ready: the ledger hears of all at once, should it have lost them.
    pub(super) fn on_ready(&mut self, now_ms: u64) {
        self.away_ms = None;
        self.asked = 0;
        self.due_ms = (!self.list.is_empty()).then_some(now_ms);
    }
}
