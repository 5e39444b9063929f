//! Shadow mode: what the ledger would have chosen, compared with what the traditional way takes.

use super::context::Context;
use super::counters::Counter;
use crate::config::{Config, Traditional};
use crate::ledger::commands::Acquired;
use crate::pool::RoutedAccounts;
use crate::request::classify::is_shadow;
use crate::request::headers::Headers;

/// What is known of the traditional way's choice.
#[derive(Debug)]
pub(super) struct Shadow {
    /// By pool: which account a request names by its own headers. Empty where nobody asks.
    routed: Vec<RoutedAccounts>,
}

impl Shadow {
    pub(super) fn new(config: &Config) -> Self {
        let asks = is_shadow(config) && config.traditional == Traditional::Passthrough;
        let pools = config.pools.iter().filter(|_| asks);
        Self {
            routed: pools.map(RoutedAccounts::new).collect(),
        }
    }

    /// Whether every shadowed request is asked for, beside the account that its own headers name.
    pub(super) fn asks_for_all(&self) -> bool {
        !self.routed.is_empty()
    }

    /// The account that a request of this pool names by its own headers.
    pub(super) fn routed_to(&self, pool: usize, headers: Headers) -> Option<u32> {
        self.routed.get(pool)?.routed_to(headers)
    }

    /// The ledger said what it would have done; `traditional` is the account that the traditional way takes, if known.
    pub(super) fn on_answer(
        &self,
        cx: &mut Context,
        pool: usize,
        traditional: Option<u32>,
        answer: Acquired,
    ) {
        match answer {
            Acquired::Granted { account, .. } => {
                cx.count_in(pool, Counter::ShadowGranted);
                let would_be = cx.find_account(pool, account);
                let agrees = would_be.zip(traditional).map(|(would_be, traditional)| {
                    match self.routed.get(pool) {
                        Some(routed) => routed.same_headers(would_be, traditional),
                        None => would_be == traditional,
                    }
                });
                cx.count_in(
                    pool,
                    match agrees {
                        Some(true) => Counter::ShadowAgreed,
                        Some(false) => Counter::ShadowDiffered,
                        None => Counter::ShadowUnknown,
                    },
                );
            }
            // `dry` refuses in one way only.
            Acquired::Saturated { .. }
            | Acquired::Waits { .. }
            | Acquired::QueueFull { .. }
            | Acquired::TenantFull { .. } => cx.count_in(pool, Counter::ShadowSaturated),
            Acquired::NoAccount => self.failed(cx, pool),
        }
    }

    /// The ledger had no answer.
    #[inline(never)]
    pub(super) fn failed(&self, cx: &mut Context, pool: usize) {
        cx.count_in(pool, Counter::ShadowFailed);
    }
}
