//! Accounts that fail fast. Such an account is idle all the time, so every choice by load falls on it; it is put behind the
//! others for a while. Each worker judges by the answers that it saw itself.

use crate::config::Failing;

/// What Envoy calls it when it answers because an account's upstream does not, where the name does not begin with
/// `upstream_`. The cluster may be the account's own fault: its headers can choose it.
const NO_UPSTREAM: [&[u8]; 6] = [
    b"no_healthy_upstream",
    b"response_timeout",
    b"cluster_not_found",
    b"no_cluster",
    b"maintenance_mode",
    b"stream_idle_timeout",
];

/// Who answered a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The upstream.
    Upstream,
    /// Envoy, for an upstream that was not there, broke off or gave no answer in time.
    NoUpstream,
    /// Envoy, for reasons of its own: a filter, a route.
    Envoy,
}

impl Source {
    /// From Envoy's `response.code_details`.
    #[must_use]
    pub fn of(code_details: &[u8]) -> Self {
        if code_details == b"via_upstream" {
            Self::Upstream
        } else if code_details.starts_with(b"upstream_") || NO_UPSTREAM.contains(&code_details) {
            Self::NoUpstream
        } else {
            Self::Envoy
        }
    }
}

/// What one worker saw of one account.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    /// When the first failure of this window came, in ms.
    began_ms: u64,
    /// All answers since, failures included.
    answers: u32,
    failed: u32,
    /// Failures since the last answer that is none, from whatever window.
    in_a_row: u32,
    /// The account is behind until then, in ms.
    behind_until_ms: u64,
}

/// What one worker saw of one pool's accounts, by index.
#[derive(Debug)]
pub struct Windows(Vec<Window>);

impl Windows {
    /// Of so many accounts; without memory when nobody wants to know.
    #[must_use]
    pub fn new(accounts: usize, settings: Failing) -> Self {
        let kept = if settings.percent > 0 { accounts } else { 0 };
        Self(vec![Window::default(); kept])
    }

    /// The account gave an answer that is no failure. It needs no clock: a window ends with the failure that is too late.
    pub fn answered(&mut self, account: u32) {
        if let Some(window) = self.0.get_mut(account as usize) {
            window.answers = window.answers.saturating_add(1);
            window.in_a_row = 0;
        }
    }

    /// The account failed. Answers whether it is to be put behind the others now. One that fails in a row, and fails again when
    /// it is back, is put behind at once.
    pub fn failed(&mut self, now_ms: u64, account: u32, settings: Failing) -> bool {
        let Some(window) = self.0.get_mut(account as usize) else {
            return false;
        };
        if window.failed == 0 || now_ms.saturating_sub(window.began_ms) >= settings.window_ms {
            window.began_ms = now_ms;
            window.answers = 0;
            window.failed = 0;
        }
        window.answers = window.answers.saturating_add(1);
        window.failed = window.failed.saturating_add(1);
        window.in_a_row = window.in_a_row.saturating_add(1);
        let share = u64::from(window.failed).saturating_mul(100);
        let most = u64::from(window.answers).saturating_mul(u64::from(settings.percent));
        let over = now_ms >= window.behind_until_ms
            && (window.in_a_row >= settings.consecutive
                || window.answers >= settings.min_requests && share >= most);
        if over {
            window.failed = 0;
            window.behind_until_ms = now_ms.saturating_add(settings.behind_ms);
        }
        over
    }

    /// Whether the account is behind the others.
    #[must_use]
    pub fn is_behind(&self, now_ms: u64, account: u32) -> bool {
        let window = self.0.get(account as usize);
        window.is_some_and(|window| now_ms < window.behind_until_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Failing = Failing {
        percent: 50,
        window_ms: 1_000,
        min_requests: 4,
        consecutive: 100,
        behind_ms: 5_000,
    };

    #[test]
    fn a_share_of_enough_answers_within_the_window() {
        let mut windows = Windows::new(2, SETTINGS);
        // What came before the first failure does not count: it may be long ago.
        (0..100).for_each(|_| windows.answered(0));
        let fail = |windows: &mut Windows, now_ms| windows.failed(now_ms, 0, SETTINGS);
        assert_eq!([0, 10, 20].map(|ms| fail(&mut windows, ms)), [false; 3]);
        assert!(!windows.is_behind(20, 0));
        assert!(fail(&mut windows, 999));
        assert!(windows.is_behind(5_998, 0) && !windows.is_behind(5_999, 0));
        assert!(!windows.is_behind(999, 1), "another account");
        // What fails meanwhile changes nothing; then it begins again.
        assert!((1_000..5_999).all(|ms| !fail(&mut windows, ms)));
        windows.answered(0);
        assert_eq!(
            [7_000, 7_001, 7_002, 7_003].map(|ms| fail(&mut windows, ms)),
            [false, false, false, true]
        );
        assert!(windows.is_behind(12_002, 0));
    }

    #[test]
    fn so_many_in_a_row_however_slowly() {
        let settings = Failing {
            consecutive: 3,
            ..SETTINGS
        };
        let hour_ms = 3_600_000;
        let mut windows = Windows::new(1, settings);
        let fail = |windows: &mut Windows, hour: u64| windows.failed(hour * hour_ms, 0, settings);
        assert_eq!([1, 2].map(|hour| fail(&mut windows, hour)), [false; 2]);
        windows.answered(0);
        assert_eq!(
            [3, 4, 5].map(|hour| fail(&mut windows, hour)),
            [false, false, true]
        );
        // Back, and failing still: no new count.
        assert!(fail(&mut windows, 6));
        windows.answered(0);
        assert!(!fail(&mut windows, 7));
    }

    #[test]
    fn too_few_too_rare_or_too_slow() {
        // Half of the answers, exactly.
        let mut windows = Windows::new(1, SETTINGS);
        assert!(!windows.failed(0, 0, SETTINGS));
        windows.answered(0);
        windows.answered(0);
        assert!(windows.failed(1, 0, SETTINGS), "2 of 4");
        // Less than half.
        let mut windows = Windows::new(1, SETTINGS);
        assert!(!windows.failed(0, 0, SETTINGS));
        (0..3).for_each(|_| windows.answered(0));
        assert!(!windows.failed(1, 0, SETTINGS), "2 of 5");
        // One a second never makes four in a window.
        let mut windows = Windows::new(1, SETTINGS);
        assert!((0..90).all(|n| !windows.failed(n * 1_000, 0, SETTINGS)));
    }

    #[test]
    fn off_keeps_nothing() {
        let off = Failing {
            percent: 0,
            ..SETTINGS
        };
        let mut windows = Windows::new(100_000, off);
        assert!(windows.0.is_empty());
        windows.answered(7);
        assert!((0..100).all(|_| !windows.failed(0, 7, off)));
        assert!(!windows.is_behind(0, 7));
    }

    #[test]
    fn who_answered() {
        for (details, source) in [
            ("via_upstream", Source::Upstream),
            (
                "upstream_reset_before_response_started{connection_termination}",
                Source::NoUpstream,
            ),
            ("upstream_response_timeout", Source::NoUpstream),
            ("response_timeout", Source::NoUpstream),
            ("no_healthy_upstream", Source::NoUpstream),
            ("cluster_not_found", Source::NoUpstream),
            ("no_cluster", Source::NoUpstream),
            ("maintenance_mode", Source::NoUpstream),
            ("stream_idle_timeout", Source::NoUpstream),
            ("route_not_found", Source::Envoy),
            ("direct_response", Source::Envoy),
            ("rbac_access_denied_matched_policy[p]", Source::Envoy),
            ("", Source::Envoy),
        ] {
            assert_eq!(Source::of(details.as_bytes()), source, "{details}");
        }
    }
}
