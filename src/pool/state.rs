//! The states that an account may be in, as `lua/state.lua` tells them.

/// The state of an account. As a metric it is its place in [`State::ALL`], from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The account takes leases.
    Free,
    /// The account takes leases only when no other does: it failed too often.
    Behind,
    /// All its slots are used.
    Full,
    /// The account has cooled, and takes one lease as a probe.
    Probe,
    /// The probe is under way.
    Probing,
    /// Not enabled in the configuration, or an answer took it out of use.
    Disabled,
    /// An operator drained it.
    Drained,
    /// It has had as many requests as it may for now.
    Paced,
    /// After upstream pushback.
    Cooling,
    /// No longer configured; its last leases finish.
    Removed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Free,
        Self::Behind,
        Self::Full,
        Self::Probe,
        Self::Probing,
        Self::Disabled,
        Self::Drained,
        Self::Paced,
        Self::Cooling,
        Self::Removed,
    ];

    /// As `inspect.lua` says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Behind => "behind",
            Self::Full => "full",
            Self::Probe => "probe",
            Self::Probing => "probing",
            Self::Disabled => "disabled",
            Self::Drained => "drained",
            Self::Paced => "paced",
            Self::Cooling => "cooling",
            Self::Removed => "removed",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str().as_bytes() == name)
    }
}
