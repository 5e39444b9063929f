//! `tenant`: whose request it is, and what each of them may take.

use super::error::{Path, quoted};
use super::fields::{Cursor, Fields};
use super::rules::MATCH_VALUE;
use super::value_source::{self, ValueSource};
use crate::hash;

/// What a tenant is called wherever its own value has no business: half of the value's hash, 16 lower-case hex digits.
pub type TenantName = [u8; 16];

/// `tenant`.
#[derive(Debug)]
pub struct Tenants {
    /// Where the tenant comes from, at least one; the first non-empty one wins.
    pub source: Vec<ValueSource>,
    /// What a tenant may take that no override names.
    pub limits: TenantLimits,
    /// Those that may take something else, in any order.
    pub overrides: Vec<(TenantName, TenantLimits)>,
}

impl Tenants {
    /// The name of the tenant of this value.
    #[must_use]
    pub fn name(value: &[u8]) -> TenantName {
        hash::tag(&hash::hash128(value))
    }

    /// What the tenant of this name may take.
    #[must_use]
    pub fn limits_of(&self, name: &TenantName) -> TenantLimits {
        let own = self.overrides.iter().find(|(own, _)| own == name);
        own.map_or(self.limits, |(_, limits)| *limits)
    }
}

/// What one tenant may take in one pool, over all Envoys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantLimits {
    /// Leases at once, 0..=100000; 0: no cap.
    pub max_concurrency: u32,
    /// Requests that wait at once, 0..=100000; 0: no cap of its own.
    pub max_waiting: u32,
    /// Its share of freed slots beside the other tenants that wait, 1..=1000.
    pub weight: u32,
}

impl TenantLimits {
    /// No caps, and the share of one.
    pub const NONE: Self = Self {
        max_concurrency: 0,
        max_waiting: 0,
        weight: 1,
    };
}

/// `None` where the configuration has no `tenant`.
pub(super) fn read(f: &mut Fields<'_, '_>) -> Option<Tenants> {
    let is_there = f.map.is_some_and(|map| map.contains_key("tenant"));
    let mut f = f.object("tenant");
    if !is_there {
        return None;
    }
    f.needs(&["source"]);
    let source = value_source::list(&mut f, "source", 1);
    let limits = limits(&mut f, TenantLimits::NONE);
    let mut seen = vec![];
    let overrides = f.list("overrides", 0..=1_000, |at| {
        one_override(at, limits, &mut seen)
    });
    f.reject_unknown();
    Some(Tenants {
        source: source.unwrap_or_default(),
        limits,
        overrides: overrides.unwrap_or_default(),
    })
}

/// One override; `seen` has the tenants of those before it, with their places.
fn one_override<'d>(
    at: Cursor<'_, 'd>,
    of_all: TenantLimits,
    seen: &mut Vec<(usize, &'d str)>,
) -> Option<(TenantName, TenantLimits)> {
    let mut f = at.fields();
    f.needs(&["tenant"]);
    let tenant = f.at("tenant").and_then(|mut at| {
        at.text(MATCH_VALUE)?;
        at.value.as_str()
    });
    if let (Some(tenant), Path::Index(list, index)) = (tenant, &f.path) {
        let mut before = seen.iter();
        if let Some((first, _)) = before.find(|(_, other)| *other == tenant) {
            let first = Path::Index(list, *first);
            let what = format!("{} is already used by {first}", quoted(tenant));
            f.error("tenant", what);
        } else {
            seen.push((*index, tenant));
        }
    }
    let limits = limits(&mut f, of_all);
    f.reject_unknown();
    Some((Tenants::name(tenant?.as_bytes()), limits))
}

#[inline(never)]
fn limits(f: &mut Fields<'_, '_>, default: TenantLimits) -> TenantLimits {
    TenantLimits {
        max_concurrency: f.int("max_concurrency", default.max_concurrency, 0..=100_000),
        max_waiting: f.int("max_waiting", default.max_waiting, 0..=100_000),
        weight: f.int("weight", default.weight, 1..=1_000),
    }
}
