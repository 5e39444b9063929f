//! `slotgate bucket`: in or out.

use crate::problem::Exit;
use crate::show::Lines;
use crate::words::{percent, quoted};
use crate::{Answer, check};
use serde_json::json;
use slotgate::config::GrayMode;
use slotgate::request::gray::{BUCKETS, Bucketer};

/// Shows the bucket of a session. Arguments override the configuration.
pub fn run(
    session: &str,
    basis_points: Option<u16>,
    salt: Option<String>,
    configured: Option<check::Gray>,
) -> Answer {
    let threshold = basis_points
        .or(configured.as_ref().map(|gray| gray.basis_points))
        .unwrap_or(0);
    let salt = salt
        .or(configured.as_ref().map(|gray| gray.salt.clone()))
        .unwrap_or_default();
    let shadow = configured.is_some_and(|gray| gray.mode == GrayMode::Shadow);
    let bucket = Bucketer::new(&salt).bucket(session.as_bytes());
    let is_in = bucket < threshold;
    let why = if session.is_empty() {
        "an empty session counts as none: the filter takes the request id instead, or chance"
            .to_owned()
    } else {
        format!(
            "session {} with {} has bucket {bucket} of {BUCKETS}, and {} % lets those below {threshold} in",
            quoted(session),
            if salt.is_empty() {
                "no salt".to_owned()
            } else {
                format!("salt {}", quoted(&salt))
            },
            percent(threshold),
        )
    };
    let word = match (session.is_empty(), is_in, shadow) {
        (true, _, _) => "neither",
        (false, false, _) => "out",
        (false, true, false) => "in",
        (false, true, true) => "in, but only as a shadow: no slot is taken",
    };
    Answer {
        text: Lines::of(&format!("{word}: {why}")),
        json: json!({
            "in": (!session.is_empty()).then_some(is_in),
            "bucket": (!session.is_empty()).then_some(bucket),
            "below": threshold,
            "percent": percent(threshold),
            "salt": salt,
            "shadow": shadow,
            "why": why,
        }),
        exit: Exit::Done,
    }
}
