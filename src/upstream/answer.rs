//! What an answer means for its account: what the first rule of `upstream.rules` that fits says, else what is usual.

use crate::config::{Action, AnswerRule, Config, DISABLE_MS};
use crate::pool;
use crate::request::headers::Headers;

/// How an answer ended, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Its `:status`.
    pub http: u16,
    /// The `grpc-status` of a gRPC request's 200 that is trailers-only.
    pub grpc: Option<u16>,
}

impl From<u16> for Status {
    fn from(http: u16) -> Self {
        Self { http, grpc: None }
    }
}

impl Status {
    /// `grpc_status` is called only for a gRPC request's 200; it returns nothing unless the answer is trailers-only. `None`
    /// when `:status` is no number.
    #[must_use]
    pub fn read(
        status: &[u8],
        is_grpc: bool,
        grpc_status: impl FnOnce() -> Vec<u8>,
    ) -> Option<Self> {
        let http = std::str::from_utf8(status).ok()?.parse().ok()?;
        let grpc = if http == 200 && is_grpc {
            grpc_number(&grpc_status())
        } else {
            None
        };
        Some(Self { http, grpc })
    }

    /// The HTTP status whose meaning the answer has. `grpc-status` 8 (`RESOURCE_EXHAUSTED`) is pushback. 14 (`UNAVAILABLE`) is a
    /// failure, but asks for no rest: a gRPC client tries again at once.
    #[must_use]
    pub fn judged(self) -> u16 {
        match self.grpc {
            Some(8) => 429,
            Some(14) => FAILED,
            Some(_) | None => self.http,
        }
    }

    /// What the ledger and the log call it, in two parts: `401`, or `grpc-16`.
    #[must_use]
    pub fn said(self) -> (&'static str, u16) {
        match self.grpc {
            Some(number) => ("grpc-", number),
            None => ("", self.http),
        }
    }

    /// Whether it says that the account failed.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self.judged() >= 500
    }
}

/// The status that stands for an answer which failed and is no pushback: above all that `cooldown.statuses` may name.
const FAILED: u16 = 600;

/// A `grpc-status` as gRPC writes it: one or two digits, no zero in front.
fn grpc_number(text: &[u8]) -> Option<u16> {
    match text {
        [digit @ b'0'..=b'9'] => Some(u16::from(digit & 15)),
        [b'1', digit @ b'0'..=b'9'] => Some(u16::from(digit & 15).saturating_add(10)),
        _ => None,
    }
}

/// What an answer of the upstream means for its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// All is well, or it is not the account's doing.
    Good,
    /// It says nothing of the account.
    Nothing,
    /// The account failed.
    Failed,
    /// The account asks for a rest.
    Pushback,
    /// The account is of no use to anyone: its key was revoked, say.
    Disabled {
        /// For how long, in ms; 0: until an operator says otherwise.
        for_ms: u64,
    },
}

impl Meaning {
    /// Whether another account may serve a request that was answered so.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        match self {
            Self::Pushback | Self::Disabled { .. } => true,
            Self::Good | Self::Nothing | Self::Failed => false,
        }
    }
}

/// Whether some answers of this status may mean something: else none of their headers need be read. It may say so of one that
/// turns out not to, since a rule asks for a header.
#[must_use]
pub fn may_mean(config: &Config, status: Status, wanted: &dyn Fn(Meaning) -> bool) -> bool {
    let rules = config.upstream.rules.iter();
    let mut rules = rules.filter(|rule| is_of(rule, status));
    // The first without a header's condition ends the search.
    for rule in &mut rules {
        if wanted(by(rule)) {
            return true;
        }
        if rule.headers.is_empty() {
            return false;
        }
    }
    wanted(usual(config, status))
}

/// What an answer means.
#[must_use]
pub fn meaning(config: &Config, status: Status, headers: Headers) -> Meaning {
    let mut rules = config.upstream.rules.iter();
    let rule = rules.find(|rule| {
        let mut wanted = rule.headers.iter();
        is_of(rule, status) && wanted.all(|wanted| pool::fits(wanted, headers))
    });
    rule.map_or_else(|| usual(config, status), by)
}

fn is_of(rule: &AnswerRule, status: Status) -> bool {
    let is_grpc = |grpc| rule.grpc_status.contains(&grpc);
    (rule.status.is_empty() || rule.status.contains(&status.http))
        && (rule.grpc_status.is_empty() || status.grpc.is_some_and(is_grpc))
}

fn by(rule: &AnswerRule) -> Meaning {
    match rule.action {
        Action::Disable { for_ms } => Meaning::Disabled { for_ms },
        Action::Cooldown => Meaning::Pushback,
        Action::Failing => Meaning::Failed,
        Action::Ignore => Meaning::Nothing,
    }
}

/// What an answer means where no rule fits it. A status that the operator has put into `cooldown.statuses` is pushback, whatever
/// it would mean by itself.
fn usual(config: &Config, status: Status) -> Meaning {
    let status = status.judged();
    if config.cooldown.statuses.contains(&status) {
        return Meaning::Pushback;
    }
    match status {
        401..=403 => Meaning::Disabled { for_ms: DISABLE_MS },
        500.. => Meaning::Failed,
        _ => Meaning::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Role, parse};

    fn config(upstream: &str) -> Config {
        let json = format!(
            r#"{{"role": "scheduler", "redis": {{"pipe_cluster": "c"}}, "upstream": {upstream},
                "pools": [{{"name": "p", "accounts": [{{"id": "a", "max_concurrency": 1}}]}}]}}"#
        );
        match parse(json.as_bytes(), &|_| None) {
            Ok(Role::Scheduler(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn means(config: &Config, status: impl Into<Status>, headers: &[(&str, &str)]) -> Meaning {
        let status = status.into();
        let pairs: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        let bytes = Headers::serialize(&pairs);
        let meaning = meaning(config, status, Headers::new(&bytes));
        assert!(may_mean(config, status, &|may| may == meaning));
        meaning
    }

    #[test]
    fn without_rules() {
        let config = config("{}");
        for (status, meaning) in [
            (200, Meaning::Good),
            (400, Meaning::Good),
            (401, Meaning::Disabled { for_ms: 600_000 }),
            (402, Meaning::Disabled { for_ms: 600_000 }),
            (403, Meaning::Disabled { for_ms: 600_000 }),
            (404, Meaning::Good),
            (429, Meaning::Pushback),
            (500, Meaning::Failed),
            (503, Meaning::Pushback),
            (529, Meaning::Pushback),
        ] {
            assert_eq!(means(&config, status, &[]), meaning, "{status}");
        }
        assert!(!may_mean(&config, 200.into(), &|one| one != Meaning::Good));
    }

    #[test]
    fn the_first_rule_that_fits() {
        let config = config(
            r#"{"rules": [
                {"status": [404], "header": {"X-Should-Retry": "false"}, "action": "ignore"},
                {"status": [403, 404], "header": {"x-why": {"prefix": "key_"}, "x-soft": {"present": false}},
                 "action": "disable", "for_ms": 0},
                {"status": [403], "action": "ignore"},
                {"header": {"x-state": {"suffix": "down"}}, "action": "failing"},
                {"status": [404], "action": "cooldown"}]}"#,
        );
        type Case<'c> = (u16, &'c [(&'c str, &'c str)], Meaning);
        let cases: [Case; 9] = [
            (404, &[("x-should-retry", "false")], Meaning::Nothing),
            (404, &[("x-should-retry", "true")], Meaning::Pushback),
            (
                404,
                &[("x-why", "key_old")],
                Meaning::Disabled { for_ms: 0 },
            ),
            (
                404,
                &[("x-why", "key_old"), ("x-soft", "")],
                Meaning::Pushback,
            ),
            (
                403,
                &[("x-why", "key_old")],
                Meaning::Disabled { for_ms: 0 },
            ),
            (403, &[("x-why", "your key_")], Meaning::Nothing),
            (200, &[("x-state", "is down")], Meaning::Failed),
            (200, &[("x-state", "down again")], Meaning::Good),
            (401, &[], Meaning::Disabled { for_ms: 600_000 }),
        ];
        for (status, headers, meaning) in cases {
            assert_eq!(
                means(&config, status, headers),
                meaning,
                "{status} {headers:?}"
            );
        }
        // A rule without headers ends the search: a 403 can't be what is usual.
        assert!(!may_mean(&config, 403.into(), &|one| one.is_refusal()
            && one != Meaning::Disabled { for_ms: 0 }));
    }

    #[test]
    fn grpc() {
        let config = config(
            r#"{"rules": [{"grpc_status": [7, 16], "action": "disable", "for_ms": 5},
                {"status": [200], "grpc_status": [14], "action": "ignore"}]}"#,
        );
        let grpc = |grpc| Status {
            http: 200,
            grpc: Some(grpc),
        };
        assert_eq!(
            means(&config, grpc(16), &[]),
            Meaning::Disabled { for_ms: 5 }
        );
        assert_eq!(means(&config, grpc(14), &[]), Meaning::Nothing);
        assert_eq!(means(&config, grpc(8), &[]), Meaning::Pushback);
        assert_eq!(means(&config, grpc(13), &[]), Meaning::Good);
        assert_eq!(means(&config, 200, &[]), Meaning::Good);
        assert_eq!(means(&self::config("{}"), grpc(14), &[]), Meaning::Failed);
    }

    #[test]
    fn pushback_by_setting_is_pushback() {
        let mut config = config("{}");
        config.cooldown.statuses = vec![401];
        assert_eq!(means(&config, 401, &[]), Meaning::Pushback);
        assert_eq!(means(&config, 503, &[]), Meaning::Failed);
    }

    #[test]
    fn what_grpc_says() {
        for (text, number) in [
            ("8", Some(8)),
            ("14", Some(14)),
            ("0", Some(0)),
            ("16", Some(16)),
            ("08", None),
            ("20", None),
            ("+8", None),
            ("", None),
        ] {
            assert_eq!(grpc_number(text.as_bytes()), number, "{text}");
        }
    }

    #[test]
    fn only_a_grpc_requests_200_is_judged_by_its_grpc_status() {
        let judged = |status: &str, is_grpc, grpc_status: &str| {
            Status::read(status.as_bytes(), is_grpc, || grpc_status.into()).map(Status::judged)
        };
        assert_eq!(judged("200", true, "8"), Some(429));
        assert_eq!(judged("200", true, "14"), Some(FAILED));
        assert_eq!(judged("200", true, "4"), Some(200));
        assert_eq!(judged("200", true, ""), Some(200));
        assert_eq!(judged("503", true, "8"), Some(503), "no gRPC answer");
        assert_eq!(judged("200", false, "8"), Some(200));
        for none in ["", "two hundred", "99999"] {
            assert_eq!(judged(none, true, "8"), None, "{none}");
        }
    }
}
