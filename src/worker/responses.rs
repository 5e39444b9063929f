//! Responses to requests with an account: failures, pushback, and how a probe ended.

use super::command::Command;
use super::context::Context;
use super::counters::Counter;
use super::notice::Notice;
use super::request::{Probe, Request, RequestId};
use super::requests::Requests;
use crate::config::DISABLE_MS;
use crate::ledger::commands::AccountReport;
use crate::pool::state::State;
use crate::request::admission::Event;
use crate::request::headers::Headers;
use crate::upstream::answer::{Meaning, Status, may_mean, meaning};
use crate::upstream::cooldown::{self, Rest};
use crate::upstream::events::StreamError;
use crate::upstream::failing::Source;

impl Requests {
    /// The ledger says that a request probes, or may have said so.
    pub(super) fn may_probe(&mut self, cx: &mut Context, slot: usize) {
        let probe = self.slab.get(slot).map(|request| request.probe);
        let early = matches!(probe, Some(Probe::Early | Probe::Passed));
        let probe = if early { Probe::Passed } else { Probe::Awaits };
        self.set_probe(cx, slot, probe);
    }

    /// Whether a request wants to know more of a response with this status. The usual one it only counts.
    pub(super) fn wants_response(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        status: Status,
    ) -> bool {
        let Some((mut request, pool)) = self.get(id).and_then(|one| Some((one, one.pool?))) else {
            return false;
        };
        if request.tries.is_some() {
            let judged = self.on_last_answer(cx, id, status.judged());
            let Some(same) = self.get(id).filter(|_| !judged) else {
                return false;
            };
            request = same;
        }
        // One that was chosen here may probe before the ledger has said so.
        let probes = request.probe == Probe::Awaits || request.acquire_sent && request.epoch == 0;
        let Some((_, account)) = request.phase.holds() else {
            return false;
        };
        let counts_failures = cx.config.failing.percent > 0;
        let matters = |meaning| match meaning {
            Meaning::Good => false,
            Meaning::Failed => counts_failures,
            Meaning::Nothing | Meaning::Pushback | Meaning::Disabled { .. } => true,
        };
        if probes
            || may_mean(&cx.config, status, &matters)
            || cooldown::is_paced(&cx.config.cooldown, status.judged())
        {
            return true;
        }
        answered(cx, pool, account);
        false
    }

    /// Does what a response to a request with an account brings about: counts a failure, which may put the account behind the
    /// others; cools the account on pushback, or takes it out of use; notes how a probe ended. A status may be a failure and
    /// pushback at once. `now_unix_s` is the wall clock.
    pub(super) fn on_response(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        (source, status): (Source, Status),
        headers: Headers,
        now_unix_s: u64,
    ) {
        let Some((request, pool)) = self.get(id).and_then(|one| Some((one, one.pool?))) else {
            return;
        };
        let (slot, probe) = (id.slot, request.probe);
        let Some((_, account)) = request.phase.holds().filter(|_| source != Source::Envoy) else {
            return;
        };
        let place = (slot, pool);
        if source == Source::NoUpstream {
            if status.is_failure() {
                self.count_failure(cx, place, account);
            } else {
                answered(cx, pool, account);
            }
            return;
        }
        let meaning = meaning(&cx.config, status, headers);
        match meaning {
            Meaning::Good => answered(cx, pool, account),
            Meaning::Failed => self.count_failure(cx, place, account),
            Meaning::Pushback => {
                if status.is_failure() {
                    self.count_failure(cx, place, account);
                } else {
                    answered(cx, pool, account);
                }
                let rest =
                    cooldown::rest(&cx.config.cooldown, status.judged(), headers, now_unix_s);
                let said = rest.said;
                let cooldown_ms = count_malformed(cx, pool, rest);
                let age_ms = cx.now_ms.saturating_sub(request.renewed_ms);
                let adapts = cx.config.adaptive.is_some() && request.scope.is_none();
                if adapts {
                    cx.count_in(pool, Counter::AdaptivePushback);
                    self.report(cx, slot, account, AccountReport::Less(age_ms));
                }
                // Where its limit falls it need not rest as well, unless it says so.
                if said || !adapts {
                    self.step(cx, slot, Event::Pushback { cooldown_ms });
                }
            }
            Meaning::Disabled { for_ms } => self.disable(cx, place, account, (for_ms, status)),
            Meaning::Nothing => {}
        }
        if meaning == Meaning::Good {
            let passed = matches!(probe, Probe::Awaits | Probe::Passed);
            let probe = if passed { Probe::Passed } else { Probe::Early };
            self.set_probe(cx, slot, probe);
        } else {
            self.set_probe(cx, slot, Probe::No);
        }
        let is_paced = cooldown::is_paced(&cx.config.cooldown, status.judged());
        if is_paced && matches!(meaning, Meaning::Good | Meaning::Failed) {
            let rest = cooldown::pace(&cx.config.cooldown, status.judged(), headers, now_unix_s);
            let pause_ms = count_malformed(cx, pool, rest);
            if pause_ms > 0 {
                self.pause(cx, place, account, pause_ms);
            }
        }
    }

    /// The same for a stream of events, when its first one has come. An error counts where its headers say nothing else.
    pub(super) fn on_first_event(
        &mut self,
        cx: &mut Context,
        id: RequestId,
        (source, error): (Source, Option<StreamError>),
        headers: Headers,
        now_unix_s: u64,
    ) {
        let status = Status::from(200);
        let is_good = meaning(&cx.config, status, headers) == Meaning::Good;
        let Some(error) = error.filter(|_| is_good && source == Source::Upstream) else {
            if self.wants_response(cx, id, status) {
                self.on_response(cx, id, (source, status), headers, now_unix_s);
            }
            return;
        };
        let judged = self.on_last_answer(cx, id, status.judged());
        let holds = self.get(id).filter(|_| !judged);
        let holds = holds.and_then(|one| Some((one.pool?, one.phase.holds()?)));
        let Some((pool, (_, account))) = holds else {
            return;
        };
        match error {
            StreamError::Pushback => {
                let cooldown_ms = cx.config.cooldown.default_ms;
                self.step(cx, id.slot, Event::Pushback { cooldown_ms });
            }
            StreamError::Failed => self.count_failure(cx, (id.slot, pool), account),
        }
        self.set_probe(cx, id.slot, Probe::No);
    }

    /// Takes an account out of use: for this worker's own choice, and in the ledger for all workers.
    fn disable(
        &self,
        cx: &mut Context,
        (slot, pool): (usize, usize),
        account: u32,
        (for_ms, status): (u64, Status),
    ) {
        if let Some(view) = cx.pools.get_mut(pool) {
            // No operator tells this worker's own choice that it is over, so that tries again after a while.
            let own_ms = if for_ms == 0 { DISABLE_MS } else { for_ms };
            view.table.cool(account, cx.now_ms.saturating_add(own_ms));
        }
        self.report(cx, slot, account, AccountReport::Disable(for_ms, status));
    }

    /// An account is out of pace: it takes no new leases until its next turn, and then as many as it can hold.
    fn pause(&self, cx: &mut Context, (slot, pool): (usize, usize), account: u32, pause_ms: u64) {
        let scope = self.slab.get(slot).and_then(Request::scope);
        if let (Some(view), None) = (cx.pools.get_mut(pool), scope) {
            let until_ms = cx.now_ms.saturating_add(pause_ms);
            // Every answer says it until then; the ledger need hear it once.
            if view.table.cools_until_ms(account).saturating_add(PACE_MS) >= until_ms {
                return;
            }
            view.table.cool(account, until_ms);
        }
        cx.count_in(pool, Counter::OutOfPace);
        self.report(cx, slot, account, AccountReport::Cool(pause_ms, scope));
    }

    /// Counts a failure of an account, which may put it behind the others.
    pub(super) fn count_failure(
        &self,
        cx: &mut Context,
        (slot, pool): (usize, usize),
        account: u32,
    ) {
        let settings = cx.config.failing;
        cx.change_table(pool, |table| table.failed(account));
        if let Some(view) = cx.pools.get_mut(pool)
            && view.windows.failed(cx.now_ms, account, settings)
        {
            let until_ms = cx.now_ms.saturating_add(settings.behind_ms);
            view.rests.said(account, until_ms, false);
            cx.count_in(pool, Counter::Behind);
            cx.say_state(pool, account, State::Behind, settings.behind_ms);
            self.report(cx, slot, account, AccountReport::Behind(settings.behind_ms));
        }
    }

    /// Cools an account after pushback: for this worker's own choice, unless it is for a scope alone, and in the ledger.
    pub(super) fn cool(
        &self,
        cx: &mut Context,
        slot: usize,
        pool: usize,
        account: u32,
        cooldown_ms: u64,
    ) {
        cx.count_in(pool, Counter::Cooldown);
        cx.change_table(pool, |table| table.cooled(account));
        let request = self.slab.get(slot);
        let scope = request.and_then(Request::scope);
        if let Some(view) = cx.pools.get_mut(pool)
            && scope.is_none()
        {
            let until_ms = cx.now_ms.saturating_add(cooldown_ms);
            view.table.cool(account, until_ms);
            let probes = cx.config.cooldown.probe;
            // Each request under way may be refused so.
            if view.rests.cools(account, cx.now_ms, until_ms, probes) {
                cx.say_state(pool, account, State::Cooling, cooldown_ms);
            }
        }
        let report = if scope.is_none() && cx.config.cooldown.probe {
            AccountReport::CoolThenProbe(cooldown_ms)
        } else {
            AccountReport::Cool(cooldown_ms, scope)
        };
        self.report(cx, slot, account, report);
    }

    /// Notes how far a request's probe is. One that has passed is reported now if the pipe is ready, and with each of its renewals
    /// until the ledger has replied.
    #[inline(never)]
    pub(super) fn set_probe(&mut self, cx: &mut Context, slot: usize, probe: Probe) {
        if let Some(request) = self.slab.get_mut(slot) {
            request.probe = probe;
            if let Some((lease, account)) = request.phase.holds().filter(|_| probe == Probe::Passed)
            {
                self.report(cx, slot, account, AccountReport::Passed(lease));
            }
        }
    }

    /// Tells the ledger what a response says of its account.
    #[inline(never)]
    fn report(&self, cx: &mut Context, slot: usize, account: u32, report: AccountReport) {
        let pool = self.slab.get(slot).and_then(|request| request.pool);
        if let Some(pool) = pool {
            cx.commands.push_back(Command::Report {
                slot,
                pool,
                account,
                report,
            });
        }
    }

    /// The ledger heard a report; `changed`: what that changed there, in its own number for each report.
    pub(super) fn on_reported(
        &mut self,
        cx: &mut Context,
        (slot, pool): (usize, usize),
        account: u32,
        report: AccountReport,
        changed: u64,
    ) {
        match report {
            AccountReport::Passed(lease) => {
                cx.counters
                    .add_in(pool, Counter::ProbePassed, changed.min(1));
                if changed > 0 {
                    if let Some(view) = cx.pools.get_mut(pool) {
                        view.rests.end(account);
                    }
                    cx.say_state(pool, account, State::Free, 0);
                }
                let request = self.slab.get_mut(slot);
                if let Some(request) = request.filter(|request| request.holds(lease)) {
                    request.probe = Probe::No;
                }
            }
            // Others have said the same meanwhile: then it is no news.
            AccountReport::Disable(for_ms, status) if changed > 0 => {
                cx.count_in(pool, Counter::Disabled);
                if changed == 1 {
                    if let Some(view) = cx.pools.get_mut(pool) {
                        // Without an end of its own it is over when the ledger says so.
                        let until_ms = cx.now_ms.saturating_add(for_ms);
                        view.rests.said(account, until_ms, true);
                    }
                    cx.notice(Notice::Disabled {
                        pool: cx.pool_name(pool),
                        account: cx.account_name(pool, account),
                        status,
                        for_ms,
                    });
                }
            }
            AccountReport::Disable(..)
            | AccountReport::Cool(..)
            | AccountReport::CoolThenProbe(_)
            | AccountReport::Less(_)
            | AccountReport::Behind(_) => {}
        }
    }
}

/// How much later an account must be out of pace for the ledger to hear it again, in ms.
const PACE_MS: u64 = 100;

/// Counts what headers say in no form known. Returns how long an account should rest, in ms.
fn count_malformed(cx: &mut Context, pool: usize, rest: Rest) -> u64 {
    cx.counters
        .add_in(pool, Counter::CooldownMalformed, rest.malformed);
    rest.ms
}

/// Counts an answer that is no failure.
fn answered(cx: &mut Context, pool: usize, account: u32) {
    if let Some(view) = cx.pools.get_mut(pool) {
        view.windows.answered(account);
    }
}
