//! Accounts that fail fast. Such an account is idle all the time, so every choice by load falls on it; it is put behind the
//! others for a while: it takes requests only when no other account can. Each worker judges by the answers that it saw itself.

use crate::config::Failing;

/// What Envoy (1.40) calls it when it answers because an account's upstream gave no answer, where the name does not begin
/// with `upstream_`; details in braces may follow. From `envoy/stream_info/stream_info.h`, the router, the dynamic forward
/// proxy and `docs/…/response_code_details.rst`.
///
/// The cluster may be the account's own fault: its headers can choose it. So the names of clusters that are missing, shut
/// or overloaded are here too.
///
/// Envoy uses the last two of the first group for a client that stalls in its request as well, but answers it with 408, which is
/// no failure, and a silent upstream with 504. A stream that has begun to answer is cut by them without another answer,
/// so it never comes here.
///
/// Not here, because it is the client's doing: `request_overall_timeout`, `request_header_timeout` (the request did not
/// come in time), `request_payload_too_large`, `request_payload_exceeded_retry_buffer_limit`, `empty_host_header`,
/// `downstream_…`, `http1.…`, `http2.…`. Or the operator's: `duration_timeout` (`max_connection_duration`), `overload`
/// (the overload manager), `response_payload_too_large`, `direct_response`, `route_…`, `filter_…`, `internal_redirect`,
/// and what other filters say.
const NO_UPSTREAM: [&[u8]; 15] = [
    b"no_healthy_upstream",
    b"response_timeout",
    b"max_duration_timeout",
    b"stream_idle_timeout",
    b"cluster_not_found",
    b"no_cluster",
    b"maintenance_mode",
    b"drop_overload",
    b"unconditional_drop_overload",
    b"dns_resolution_failure",
    b"dns_cache_overflow",
    b"dynamic_forward_proxy_pending_request_overflow",
    b"dynamic_forward_proxy_cluster_is_gone",
    b"sub_cluster_overflow",
    b"sub_cluster_warming_timeout",
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
        let name = code_details.split(|byte| *byte == b'{').next();
        let name = name.unwrap_or_default();
        if name == b"via_upstream" {
            Self::Upstream
        } else if name.starts_with(b"upstream_") || NO_UPSTREAM.contains(&name) {
            Self::NoUpstream
        } else {
            Self::Envoy
        }
    }
}

/// The responses of one account that one worker saw.
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

/// The responses of one pool's accounts that one worker saw, by the account's index.
#[derive(Debug)]
pub struct Windows(Vec<Window>);

impl Windows {
    /// Windows for this many accounts; for none when `failing` is off.
    #[must_use]
    pub fn new(accounts: usize, settings: Failing) -> Self {
        let kept = if settings.percent > 0 { accounts } else { 0 };
        Self(vec![Window::default(); kept])
    }

    /// A window for one account more; for none when `failing` is off.
    pub fn add(&mut self, settings: Failing) {
        if settings.percent > 0 {
            self.0.push(Window::default());
        }
    }

    /// The account gave an answer that is no failure. It needs no clock: a window ends with the failure that is too late.
    pub fn answered(&mut self, account: u32) {
        if let Some(window) = self.0.get_mut(account as usize) {
            window.answers = window.answers.saturating_add(1);
            window.in_a_row = 0;
        }
    }

    /// The account failed. Returns whether it is to be put behind the others now. An account that failed in a row, and fails
    /// again when it is back, is put behind at once.
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
            ("max_duration_timeout", Source::NoUpstream),
            ("upstream_max_stream_duration_reached", Source::NoUpstream),
            ("upstream_per_try_timeout", Source::NoUpstream),
            ("upstream_per_try_idle_timeout", Source::NoUpstream),
            (
                "dns_resolution_failure{cares_norecords:Domain_name_not_found}",
                Source::NoUpstream,
            ),
            ("dns_resolution_failure", Source::NoUpstream),
            ("no_healthy_upstream{panic}", Source::NoUpstream),
            ("dns_cache_overflow", Source::NoUpstream),
            (
                "dynamic_forward_proxy_pending_request_overflow",
                Source::NoUpstream,
            ),
            ("sub_cluster_warming_timeout", Source::NoUpstream),
            ("drop_overload", Source::NoUpstream),
            ("unconditional_drop_overload", Source::NoUpstream),
            // Only in braces, and not the beginning of another name.
            ("no_cluster_of_mine", Source::Envoy),
            ("{no_cluster}", Source::Envoy),
            // The client's doing.
            ("request_overall_timeout", Source::Envoy),
            ("request_header_timeout", Source::Envoy),
            ("request_payload_too_large", Source::Envoy),
            ("request_payload_exceeded_retry_buffer_limit", Source::Envoy),
            ("empty_host_header", Source::Envoy),
            ("downstream_remote_disconnect", Source::Envoy),
            ("http1.codec_error", Source::Envoy),
            // The operator's.
            ("duration_timeout", Source::Envoy),
            ("overload", Source::Envoy),
            ("response_payload_too_large", Source::Envoy),
            ("internal_redirect", Source::Envoy),
            ("route_not_found", Source::Envoy),
            ("direct_response", Source::Envoy),
            ("rbac_access_denied_matched_policy[p]", Source::Envoy),
            ("", Source::Envoy),
        ] {
            assert_eq!(Source::of(details.as_bytes()), source, "{details}");
        }
    }
}
