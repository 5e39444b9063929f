//! The plan: a checked `pools.yaml` as values.

use super::marked::Place;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How the accounts are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The accounts of a pool are keys for one host.
    OneHost,
    /// Each account has a cluster, with a host of its own or the pool's.
    ClusterPerAccount,
    /// The same on the loopback interface, with the keys put on behind the filter; and the application's own limit.
    Sidecar,
}

impl Layout {
    pub const ALL: [(&'static str, Self); 3] = [
        ("one-host", Layout::OneHost),
        ("cluster-per-account", Layout::ClusterPerAccount),
        ("sidecar", Layout::Sidecar),
    ];

    pub fn name(self) -> &'static str {
        let of = |(_, layout): &&(&str, Self)| *layout == self;
        Self::ALL.iter().find(of).map_or("", |(name, _)| *name)
    }
}

/// An address and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn local(port: u16) -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port,
        }
    }

    /// Whether Envoy must ask for its address.
    pub fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(_) => write!(f, "[{}]:{}", self.host, self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where requests are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// A host, with TLS or without.
    Host { at: Endpoint, tls: bool },
    /// A cluster that the operator has, by its name.
    Cluster(String),
}

impl Upstream {
    /// As it stands in a `host` header.
    pub fn authority(at: &Endpoint, tls: bool) -> String {
        let usual = if tls { 443 } else { 80 };
        let whole = at.to_string();
        match at.port == usual {
            true => whole
                .rsplit_once(':')
                .map_or("", |(host, _)| host)
                .to_owned(),
            false => whole,
        }
    }
}

/// Requests without a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traditional {
    /// 503.
    Reject,
    /// Sent here, with this key if there is one, and as they came otherwise.
    To {
        upstream: Upstream,
        key_env: Option<String>,
    },
    /// By the routes that the operator has: only in a fragment.
    Own,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    pub at: Endpoint,
    pub username: Option<String>,
    pub password_env: Option<String>,
}

/// The header that carries the key, and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub header: String,
    pub prefix: String,
}

/// The application behind a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    pub listen: Endpoint,
    pub at: Endpoint,
    pub limit: u64,
}

/// Which requests a pool takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub header: String,
    /// `exact`, `prefix` or `suffix`.
    pub kind: &'static str,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: String,
    pub limit: u64,
    pub priority: Option<u64>,
    pub key_env: Option<String>,
    pub upstream: Upstream,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub revision: u64,
    pub matches: Option<Match>,
    pub accounts: Vec<Account>,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub layout: Layout,
    pub listen: Endpoint,
    pub admin: Endpoint,
    pub console: Option<Endpoint>,
    pub wasm: String,
    pub ca: String,
    pub redis: Redis,
    /// As text, without trailing zeros.
    pub percent: String,
    pub session_header: String,
    pub key: Key,
    pub traditional: Traditional,
    /// How many accounts a request tries in all: 1 is no failover.
    pub attempts: u64,
    pub app: Option<App>,
    pub pools: Vec<Pool>,
}

impl Plan {
    /// Whether a request that an account refuses tries another one.
    pub fn tries_others(&self) -> bool {
        self.attempts > 1
    }

    /// Whether a listener inside Envoy chooses the cluster for each try.
    pub fn chooses_for_each_try(&self) -> bool {
        self.tries_others() && self.layout != Layout::OneHost
    }
}

/// A mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub place: Place,
    /// `pools[0].accounts[1].limit`; empty: the file.
    pub path: String,
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => write!(f, "{}: {}", self.place, self.problem),
            false => write!(f, "{}: {}: {}", self.place, self.path, self.problem),
        }
    }
}
