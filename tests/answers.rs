//! What real answers of providers mean for how long an account rests: their own sets of headers through the default table,
//! and tables of one's own. Where each set comes from stands in `src/upstream/cooldown.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs
)]

use serde_json::{Value, json};
use slotgate::config::{Cooldown, Role, parse};
use slotgate::request::headers::Headers;
use slotgate::upstream::cooldown::{is_paced, pace, rest};

const NOW: u64 = 1_785_684_988; // Sun, 02 Aug 2026 15:36:28 GMT
const DAY_MS: u64 = 86_400_000;
/// What holds when no header says anything.
const DEFAULT_MS: u64 = 5_000;

fn cooldown(mut settings: Value) -> Cooldown {
    settings["max_ms"] = json!(DAY_MS);
    let document = json!({
        "role": "scheduler",
        "cooldown": settings,
        "pools": [{"name": "p", "accounts": [{"id": "a", "max_concurrency": 1}]}],
    });
    match parse(document.to_string().as_bytes(), &|_| None) {
        Ok(Role::Scheduler(config)) => config.cooldown,
        other => panic!("{other:?}"),
    }
}

/// How long, in ms, and how many headers could not be read.
fn rested(cooldown: &Cooldown, status: u16, headers: &[(&str, &str)]) -> (u64, u64) {
    let pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect();
    let bytes = Headers::serialize(&pairs);
    let rest = rest(cooldown, status, Headers::new(&bytes), NOW);
    (rest.ms, rest.malformed)
}

#[test]
fn what_providers_send_with_a_429() {
    let cooldown = cooldown(json!({}));
    let unified = |five: &'static str, seven: &'static str| {
        [
            ("anthropic-ratelimit-unified-5h-status", five),
            ("anthropic-ratelimit-unified-5h-reset", "1785685288"),
            ("anthropic-ratelimit-unified-5h-utilization", "1.08"),
            ("anthropic-ratelimit-unified-7d-status", seven),
            ("anthropic-ratelimit-unified-7d-reset", "1785692188"),
            ("anthropic-ratelimit-unified-7d-utilization", "0.42"),
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-reset", "1785685588"),
        ]
    };
    let buckets = |requests: &'static str, tokens: &'static str, input: &'static str| {
        [
            ("anthropic-ratelimit-requests-limit", "1000"),
            ("anthropic-ratelimit-requests-remaining", requests),
            ("anthropic-ratelimit-requests-reset", "2026-08-02T15:36:31Z"),
            ("anthropic-ratelimit-tokens-remaining", tokens),
            ("anthropic-ratelimit-tokens-reset", "2026-08-02T15:37:08Z"),
            ("anthropic-ratelimit-input-tokens-remaining", input),
            (
                "anthropic-ratelimit-input-tokens-reset",
                "2026-08-02T15:36:58Z",
            ),
            ("anthropic-ratelimit-output-tokens-remaining", "16000"),
            (
                "anthropic-ratelimit-output-tokens-reset",
                "2026-08-02T16:36:28Z",
            ),
        ]
    };
    let codex = |primary: &'static str, secondary: &'static str| {
        [
            ("x-codex-plan-type", "plus"),
            ("x-codex-primary-used-percent", primary),
            ("x-codex-primary-window-minutes", "300"),
            ("x-codex-primary-reset-after-seconds", "55"),
            ("x-codex-secondary-used-percent", secondary),
            ("x-codex-secondary-window-minutes", "10080"),
            ("x-codex-secondary-reset-after-seconds", "4000"),
        ]
    };
    let cerebras = |requests_day: &'static str| {
        [
            ("x-ratelimit-limit-requests-day", "10000"),
            ("x-ratelimit-remaining-requests-day", requests_day),
            ("x-ratelimit-reset-requests-day", "33011.382867"),
            ("x-ratelimit-remaining-tokens-minute", "195000"),
            ("x-ratelimit-reset-tokens-minute", "11.38"),
        ]
    };
    let epoch = |remaining: &'static str, reset: &'static str| {
        [
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", reset),
        ]
    };
    for (who, headers, ms) in [
        // Whoever says it plainly.
        ("seconds", &[("retry-after", "30")][..], 30_000),
        ("decimals", &[("retry-after", "299.997")], 299_997),
        (
            "a date",
            &[("retry-after", "Sun, 02 Aug 2026 15:37:28 GMT")],
            60_000,
        ),
        ("a joined list", &[("retry-after", "3, 7, 5")], 7_000),
        (
            "several lines",
            &[
                ("retry-after", "3"),
                ("retry-after", "7"),
                ("retry-after", "5"),
            ],
            7_000,
        ),
        ("zero", &[("retry-after", "0")], DEFAULT_MS),
        // OpenAI; Azure, which sends bare numbers, and −1 where there is no limit.
        (
            "OpenAI",
            &[
                ("x-ratelimit-limit-requests", "5000"),
                ("x-ratelimit-remaining-requests", "4999"),
                ("x-ratelimit-reset-requests", "12ms"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ],
            360_000,
        ),
        (
            "OpenAI",
            &[
                ("retry-after-ms", "1500"),
                ("retry-after", "2"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ],
            1_500,
        ),
        (
            "Azure",
            &[
                ("x-ratelimit-reset-requests", "10"),
                ("x-ratelimit-reset-tokens", "55"),
            ],
            55_000,
        ),
        (
            "Azure, no limit",
            &[
                ("x-ratelimit-remaining-tokens", "-1"),
                ("x-ratelimit-reset-tokens", "0"),
            ],
            DEFAULT_MS,
        ),
        (
            "Groq",
            &[
                ("x-ratelimit-reset-requests", "2m59.56s"),
                ("x-ratelimit-reset-tokens", "7.66s"),
            ],
            179_560,
        ),
        (
            "days",
            &[("x-ratelimit-reset-requests", "1d2h")],
            DAY_MS, // max_ms
        ),
        // Anthropic's subscriptions: the windows that say `rejected`, else the one that speaks for all.
        ("5 h", &unified("rejected", "allowed"), 300_000),
        ("7 d", &unified("allowed", "rejected"), 7_200_000),
        ("both", &unified("rejected", "rejected"), 7_200_000),
        ("neither", &unified("allowed", "allowed_warning"), 600_000),
        // Anthropic's API: the buckets that are empty.
        ("requests", &buckets("0", "96000", "80000"), 3_000),
        ("tokens", &buckets("999", "0", "80000"), 40_000),
        ("two", &buckets("0", "96000", "0"), 30_000),
        ("none is empty", &buckets("1", "2", "3"), DEFAULT_MS),
        // Codex: the windows that are used up.
        ("primary", &codex("100", "42.5"), 55_000),
        ("secondary", &codex("99.9", "100.0"), 4_000_000),
        ("neither", &codex("10", "0"), DEFAULT_MS),
        (
            "a moment instead",
            &[
                ("x-codex-primary-used-percent", "100"),
                ("x-codex-primary-reset-at", "1785685048"),
            ],
            60_000,
        ),
        // Cerebras says on every answer when the day ends.
        ("Cerebras, the minute", &cerebras("9500"), 11_380),
        ("Cerebras, the day", &cerebras("0"), 33_011_383),
        (
            "SambaNova",
            &[
                ("x-ratelimit-remaining-requests-day", "0"),
                ("x-ratelimit-reset-requests-day", "4h17m"),
            ],
            15_420_000,
        ),
        (
            "Mistral",
            &[
                ("x-ratelimit-remaining-req-minute", "0"),
                ("x-ratelimit-reset-req-minute", "25"),
            ],
            25_000,
        ),
        (
            "Mistral, formerly",
            &[
                ("ratelimitbysize-limit", "500000"),
                ("ratelimitbysize-remaining", "12"),
                ("ratelimitbysize-reset", "28"),
            ],
            28_000,
        ),
        // GitHub counts in seconds since 1970, OpenRouter in ms.
        ("GitHub", &epoch("0", "1785685048"), 60_000),
        (
            "GitHub, the secondary limit",
            &epoch("4990", "1785688588"),
            DEFAULT_MS,
        ),
        ("OpenRouter", &epoch("0", "1785685048250"), 60_250),
        (
            "the moment alone",
            &[("x-ratelimit-reset", "1785685048")],
            60_000,
        ),
        (
            "a moment that is over",
            &epoch("0", "1785684000"),
            DEFAULT_MS,
        ),
        // The drafts of the IETF.
        (
            "the sixth draft",
            &[("ratelimit-remaining", "0"), ("ratelimit-reset", "50")],
            50_000,
        ),
        (
            "not this limit",
            &[("ratelimit-remaining", "7"), ("ratelimit-reset", "50")],
            DEFAULT_MS,
        ),
        (
            "ratelimit-reset alone",
            &[("ratelimit-reset", "50")],
            50_000,
        ),
        (
            "the seventh",
            &[("ratelimit", "limit=20, remaining=0, reset=9")],
            9_000,
        ),
        (
            "the tenth",
            &[("ratelimit", r#""burst";r=0;t=5, "day";r=999;t=86400"#)],
            5_000,
        ),
        ("gRPC", &[("grpc-retry-pushback-ms", "250")], 250),
    ] {
        assert_eq!(
            rested(&cooldown, 429, headers),
            (ms, 0),
            "{who} {headers:?}"
        );
        // What tells of a window says nothing of an overload.
        let (name, _) = headers[0];
        let ms = if name.contains("retry") {
            ms
        } else {
            DEFAULT_MS
        };
        assert_eq!(
            rested(&cooldown, 503, headers),
            (ms, 0),
            "{who} {headers:?}"
        );
    }
}

#[test]
fn the_first_entry_that_says_anything_wins() {
    let cooldown = cooldown(json!({}));
    let ms = ("retry-after-ms", "1500.2");
    let after = ("retry-after", "3");
    let unified = ("anthropic-ratelimit-unified-reset", "1785684998");
    let requests = ("x-ratelimit-reset-requests", "20ms");
    let tokens = ("x-ratelimit-reset-tokens", "6.5s");
    for (status, headers, expected) in [
        (429, &[][..], (5_000, 0)),
        (429, &[tokens, requests, unified, after, ms], (1_501, 0)),
        (429, &[tokens, requests, unified, after], (3_000, 0)),
        (429, &[tokens, requests, unified], (10_000, 0)),
        (429, &[tokens, requests], (6_500, 0)),
        (429, &[requests], (20, 0)),
        (429, &[(after.0, "999999999999")], (DAY_MS, 0)),
        // Of an overload the windows say nothing.
        (529, &[tokens, requests, unified], (5_000, 0)),
        (529, &[tokens, after], (3_000, 0)),
        // Zero, and what is over: nothing said, nothing wrong.
        (429, &[(ms.0, "0"), after], (3_000, 0)),
        (429, &[(unified.0, "1")], (5_000, 0)),
        // Malformed: passed over and counted, once for each line.
        (429, &[(ms.0, "soon"), after], (3_000, 1)),
        (429, &[(ms.0, "-5"), (after.0, "1e3"), unified], (10_000, 2)),
        (429, &[(ms.0, ""), (requests.0, "1h-"), tokens], (6_500, 2)),
        (429, &[(after.0, "soon")], (5_000, 1)),
        (429, &[(after.0, "soon, 3"), (after.0, "x, y")], (3_000, 2)),
        // One that is not looked at is not judged.
        (429, &[after, (unified.0, "soon")], (3_000, 0)),
        (
            429,
            &[("ratelimit-remaining", "5"), ("ratelimit-reset", "soon")],
            (5_000, 0),
        ),
    ] {
        assert_eq!(
            rested(&cooldown, status, headers),
            expected,
            "{status} {headers:?}"
        );
    }
}

/// Entries that are read of every answer: those alone, and of their statuses alone.
#[test]
fn out_of_pace() {
    let cooldown = cooldown(json!({"headers": [
        {"name": "retry-after", "form": "seconds"},
        {"name": "x-reset", "form": "duration", "always": true, "when": {"header": "x-left", "exact": "0"}},
        {"name": "x-created", "form": "seconds", "always": true, "only": [201, 429]}]}));
    let paced = |status: u16, headers: &[(&str, &str)]| {
        let pairs: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        let bytes = Headers::serialize(&pairs);
        let pace = pace(&cooldown, status, Headers::new(&bytes), NOW);
        (pace.ms, pace.malformed)
    };
    let spent = [("x-reset", "1.2s"), ("x-left", "0"), ("retry-after", "9")];
    assert_eq!(paced(200, &spent), (1_200, 0));
    assert_eq!(paced(404, &spent), (1_200, 0));
    assert_eq!(paced(200, &[("x-reset", "1.2s"), ("x-left", "1")]), (0, 0));
    assert_eq!(paced(200, &[("x-reset", "soon"), ("x-left", "0")]), (0, 1));
    assert_eq!(
        paced(200, &[("x-reset", "9999d"), ("x-left", "0")]),
        (DAY_MS, 0)
    );
    assert_eq!(paced(200, &[("x-created", "5")]), (0, 0));
    assert_eq!(paced(201, &[("x-created", "5")]), (5_000, 0));
    // Of pushback all are asked, in their order.
    assert_eq!(rested(&cooldown, 429, &spent), (9_000, 0));
    assert_eq!(rested(&cooldown, 429, &[("x-created", "5")]), (5_000, 0));
    let statuses = [200, 201].map(|status| is_paced(&cooldown, status));
    assert_eq!(statuses, [true; 2]);
    let usual = self::cooldown(json!({}));
    assert!(![200, 429].iter().any(|status| is_paced(&usual, *status)));
}

#[test]
fn a_date_is_compared_with_the_upstreams_own_clock() {
    let cooldown = cooldown(json!({}));
    let after = ("retry-after", "Sun, 02 Aug 2026 15:37:28 GMT");
    let date = |text| ("date", text);
    // 50 s ahead of us; an hour behind; without a clock that can be read ours counts.
    let ahead = date("Sun, 02 Aug 2026 15:37:18 GMT");
    assert_eq!(rested(&cooldown, 429, &[ahead, after]), (10_000, 0));
    let behind = date("Sun, 02 Aug 2026 14:36:28 GMT");
    assert_eq!(rested(&cooldown, 429, &[behind, after]), (3_660_000, 0));
    assert_eq!(rested(&cooldown, 429, &[date("noon"), after]), (60_000, 1));
    for (name, value) in [
        ("anthropic-ratelimit-unified-reset", "1785685058"),
        ("x-ratelimit-reset", "1785685058000"),
        ("ratelimit-reset", "1785685058"),
    ] {
        assert_eq!(rested(&cooldown, 429, &[ahead, (name, value)]), (20_000, 0));
    }
}

/// The next provider needs no release.
#[test]
fn a_table_of_ones_own() {
    let cooldown = cooldown(json!({
        "statuses": [420, 429, 503],
        "headers": [
            {"name": "X-Wait", "form": "seconds", "only": [420, 503]},
            {"longest_of": [
                {"name": "x-a", "form": "unix_ms"},
                {"name": "x-b", "form": "duration", "when": {"header": "X-B-Left", "exact": "0"}},
                {"name": "x-c", "form": "ms", "when": {"header": "x-c-left", "present": false}},
            ], "only": [429]},
            {"name": "x-wait", "form": "rfc3339"},
        ],
    }));
    for (status, headers, ms) in [
        (420, &[("x-wait", "7")][..], 7_000),
        (503, &[("x-wait", "7")], 7_000),
        // The same header, read in another way for another status.
        (429, &[("x-wait", "2026-08-02T15:36:30Z")], 2_000),
        (429, &[("x-a", "1785684989000"), ("x-c", "300")], 1_000),
        (429, &[("x-a", "1785684989000"), ("x-b", "9s")], 1_000),
        (
            429,
            &[("x-b-left", "0"), ("x-a", "1785684989000"), ("x-b", "9s")],
            9_000,
        ),
        (429, &[("x-c-left", ""), ("x-c", "300")], DEFAULT_MS),
        (420, &[("x-a", "1785684989000")], DEFAULT_MS),
        // The default table is gone.
        (429, &[("retry-after", "9")], DEFAULT_MS),
    ] {
        assert_eq!(rested(&cooldown, status, headers).0, ms, "{headers:?}");
    }
}

/// What the documents print is what is in force.
#[test]
fn the_default_table_is_a_configuration_like_any_other() {
    let text = std::fs::read_to_string("src/upstream/cooldown_headers.json").unwrap();
    let table: Value = serde_json::from_str(&text).unwrap();
    let built_in = cooldown(json!({}));
    assert_eq!(cooldown(table).headers, built_in.headers);
    let rules = || built_in.headers.iter().flat_map(|step| &step.headers);
    assert!(rules().count() >= 29, "{}", rules().count());
    let page = std::fs::read_to_string("docs/configuration.md").unwrap();
    for rule in rules() {
        assert!(page.contains(&rule.name), "{} is not documented", rule.name);
    }
    let document = json!({
        "role": "scheduler",
        "cooldown": {"headers": [{"name": "x", "form": "?"}]},
        "pools": [{"name": "p", "accounts": [{"id": "a", "max_concurrency": 1}]}],
    });
    let refused = parse(document.to_string().as_bytes(), &|_| None).unwrap_err();
    let (_, forms) = refused.0[0].problem.split_once("one of ").unwrap();
    assert_eq!(forms.split(", ").count(), 8, "{forms}");
    for form in forms.split(", ") {
        assert!(page.contains(&format!("| `{form}` |")), "{form}");
    }
}
