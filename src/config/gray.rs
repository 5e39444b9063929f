//! `gray`: who is in the gray release.

use super::Secret;
use super::fields::Fields;
use super::rules::ANY;
use super::value_source::{self, ValueSource};
use serde::Deserialize;

/// `gray`: who is in.
#[derive(Debug)]
pub struct Gray {
    /// Share of sessions that are in, in basis points 0..=10000.
    pub basis_points: u16,
    /// Enforce or shadow.
    pub mode: GrayMode,
    /// Keys the bucket's hash.
    pub salt: String,
    /// Where the session comes from; the first non-empty one wins.
    pub session: Vec<ValueSource>,
    /// The header that forces a request in or out; `None` when no token is set.
    pub gray_override: Option<GrayOverride>,
}

/// `gray.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrayMode {
    /// Requests in the percentage take slots.
    Enforce,
    /// Requests in the percentage ask what would happen, take nothing and never wait.
    Shadow,
}

/// `gray.override` with its token resolved.
#[derive(Debug)]
pub struct GrayOverride {
    /// Header name, lower case.
    pub header: String,
    /// What must stand before `:on` or `:off`.
    pub token: Secret,
}

pub(super) fn read(mut f: Fields<'_, '_>) -> Gray {
    let gray = Gray {
        basis_points: f
            .at("percent")
            .and_then(|mut at| at.basis_points())
            .unwrap_or(0),
        mode: f.word("mode", GrayMode::Enforce),
        salt: f.text("salt", "", ANY),
        session: value_source::list(&mut f, "session", 0)
            .unwrap_or_else(|| vec![ValueSource::Header("x-session-id".into())]),
        gray_override: gray_override(f.object("override")),
    };
    f.reject_unknown();
    gray
}

fn gray_override(mut f: Fields<'_, '_>) -> Option<GrayOverride> {
    let header = f
        .at("header")
        .and_then(|mut at| at.header())
        .unwrap_or_else(|| "x-slotgate-gray".into());
    // It is taken off every request, which can't do without these.
    if header.starts_with(':') {
        f.error("header", format!("{header:?} is a pseudo header"));
    }
    let token = f.secret("token_env");
    f.reject_unknown();
    token.map(|token| GrayOverride { header, token })
}
