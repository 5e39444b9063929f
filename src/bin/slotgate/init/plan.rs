//! What `pools.yaml` says, checked: every mistake at once, each with its line and column.

use super::marked::{Name, Node, Place, Value, read};
use crate::words::{basis_points, near, percent, quoted};
use slotgate::printable::ascii;
use std::collections::{BTreeMap, BTreeSet};
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
    fn local(port: u16) -> Self {
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
    pub app: Option<App>,
    pub pools: Vec<Pool>,
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

const BEGIN: Place = Place { line: 1, column: 1 };

/// Reads a file's text. Of a complete configuration and of a fragment, some things are asked that are not of the other.
pub fn plan(text: &str, fragment: bool) -> Result<Plan, Vec<Mistake>> {
    let whole = |(place, problem)| {
        vec![Mistake {
            place,
            path: String::new(),
            problem,
        }]
    };
    let node = read(text).map_err(whole)?;
    let empty = || whole((BEGIN, "nothing in it; it needs `pools` at least".to_owned()));
    let node = node.ok_or_else(empty)?;
    let mut reader = Reader {
        mistakes: Vec::new(),
        fragment,
        keys: BTreeMap::new(),
        ports: BTreeMap::new(),
    };
    let plan = reader.file(&node);
    reader.mistakes.sort_by_key(|mistake| mistake.place);
    match plan {
        Some(plan) if reader.mistakes.is_empty() => Ok(plan),
        _ => Err(reader.mistakes),
    }
}

struct Reader {
    mistakes: Vec<Mistake>,
    fragment: bool,
    /// Whose key each variable is: an account in two pools would have twice its limit.
    keys: BTreeMap<String, String>,
    /// Whose port each is.
    ports: BTreeMap<u16, String>,
}

/// An object's fields, each taken once.
struct Fields<'n> {
    path: String,
    place: Place,
    left: Vec<(&'n Name, &'n Node)>,
    /// What was asked for.
    known: Vec<&'static str>,
}

/// A field.
#[derive(Clone)]
struct Field<'n> {
    path: String,
    node: &'n Node,
}

impl<'n> Fields<'n> {
    fn take(&mut self, name: &'static str) -> Option<Field<'n>> {
        self.known.push(name);
        let at = self.left.iter().position(|(other, _)| other.text == name)?;
        let (_, node) = self.left.remove(at);
        // Written without a value is as good as not written.
        let path = joined(&self.path, name);
        (!matches!(node.value, Value::Nothing)).then_some(Field { path, node })
    }
}

fn joined(path: &str, name: &str) -> String {
    match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    }
}

impl Reader {
    fn mistake(&mut self, place: Place, path: &str, problem: impl Into<String>) {
        self.mistakes.push(Mistake {
            place,
            path: path.to_owned(),
            problem: problem.into(),
        });
    }

    fn fields<'n>(&mut self, node: &'n Node, path: &str) -> Option<Fields<'n>> {
        let Value::Map(all) = &node.value else {
            let problem = format!("{} where an object is expected", node.value.kind());
            self.mistake(node.place, path, problem);
            return None;
        };
        let mut left: Vec<(&Name, &Node)> = Vec::new();
        for (name, value) in all {
            if left.iter().any(|(other, _)| other.text == name.text) {
                let path = joined(path, &shown(&name.text));
                self.mistake(name.place, &path, "is there twice");
                continue;
            }
            left.push((name, value));
        }
        Some(Fields {
            path: path.to_owned(),
            place: node.place,
            left,
            known: Vec::new(),
        })
    }

    /// What nobody asked for.
    fn end(&mut self, fields: Fields<'_>) {
        for (name, _) in &fields.left {
            let hint = near(&name.text, fields.known.iter().copied());
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            let path = joined(&fields.path, &shown(&name.text));
            self.mistake(name.place, &path, format!("unknown field{hint}"));
        }
    }

    fn required<'n>(&mut self, fields: &mut Fields<'n>, name: &'static str) -> Option<Field<'n>> {
        let field = fields.take(name);
        if field.is_none() {
            let path = joined(&fields.path, name);
            self.mistake(fields.place, &path, "is required");
        }
        field
    }

    /// What a rule makes of a field's text.
    fn value<T>(
        &mut self,
        field: &Field<'_>,
        rule: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let result = match &field.node.value {
            Value::Scalar(text) => rule(text),
            other => Err(format!("{} where a single value is expected", other.kind())),
        };
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.mistake(field.node.place, &field.path, problem);
                None
            }
        }
    }

    fn optional<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        rule: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let field = fields.take(name)?;
        self.value(&field, rule)
    }

    fn list<'n>(&mut self, field: &Field<'n>) -> Vec<Field<'n>> {
        let Value::List(nodes) = &field.node.value else {
            let problem = format!("{} where a list is expected", field.node.value.kind());
            self.mistake(field.node.place, &field.path, problem);
            return Vec::new();
        };
        if nodes.is_empty() {
            self.mistake(field.node.place, &field.path, "is empty");
        }
        let of = |(index, node)| Field {
            path: format!("{}[{index}]", field.path),
            node,
        };
        nodes.iter().enumerate().map(of).collect()
    }

    fn file(&mut self, node: &Node) -> Option<Plan> {
        let mut fields = self.fields(node, "")?;
        let layout = self.optional(&mut fields, "layout", layout);
        let layout = layout.unwrap_or(Layout::OneHost);
        let port = if layout == Layout::Sidecar {
            10001
        } else {
            10000
        };
        let listen = self.listener(&mut fields, "listen", Some(Endpoint::local(port)));
        let admin = self.listener(&mut fields, "admin", Some(Endpoint::local(9901)));
        let console = self.listener(&mut fields, "console", None);
        let wasm = self.optional(&mut fields, "wasm", file);
        let ca = self.optional(&mut fields, "ca", file);
        let redis = match fields.take("redis") {
            Some(field) => self.redis(&field),
            None => None,
        };
        let percent_field = fields.take("percent");
        let percent_at = percent_field.as_ref().map(|field| field.node.place);
        let share = percent_field.and_then(|field| self.value(&field, percentage));
        let share = share.unwrap_or(10_000);
        let session_header = self.optional(&mut fields, "session_header", header);
        let key = match fields.take("key") {
            Some(field) => self.key(&field),
            None => None,
        };
        let upstream_field = fields.take("upstream");
        let upstream = upstream_field.map(|field| self.upstream_or_any(&field));
        let traditional = match fields.take("traditional") {
            Some(field) => self.traditional(&field, upstream.as_ref()),
            None => match &upstream {
                _ if self.fragment => Some(Traditional::Own),
                Some(upstream) => Some(Traditional::To {
                    upstream: upstream.clone(),
                    key_env: None,
                }),
                None => Some(Traditional::Reject),
            },
        };
        if traditional == Some(Traditional::Reject) && share < 10_000 {
            let problem = "is below 100, and there is no way for the other requests: say `upstream`, or `traditional: {upstream: …}`";
            self.mistake(percent_at.unwrap_or(BEGIN), "percent", problem);
        }
        let app = match fields.take("app") {
            Some(field) => self.app(&field, layout),
            None => None,
        };
        let pools_field = self.required(&mut fields, "pools");
        let pools = match pools_field {
            Some(field) => self.pools(&field, layout, upstream.as_ref(), app.is_some()),
            None => Vec::new(),
        };
        self.end(fields);
        Some(Plan {
            layout,
            listen: listen?,
            admin: admin?,
            console,
            wasm: wasm.unwrap_or_else(|| "/etc/envoy/slotgate.wasm".into()),
            ca: ca.unwrap_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into()),
            redis: redis.unwrap_or_else(|| Redis {
                at: Endpoint::local(6379),
                username: None,
                password_env: None,
            }),
            percent: percent(share).to_string(),
            session_header: session_header.unwrap_or_else(|| "x-session-id".into()),
            key: key.unwrap_or_else(|| Key {
                header: "authorization".into(),
                prefix: "Bearer ".into(),
            }),
            traditional: traditional.unwrap_or(Traditional::Reject),
            app,
            pools,
        })
    }

    /// A listener's place, and its port beside the others': one twice is an Envoy that does not start.
    fn listener(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        usual: Option<Endpoint>,
    ) -> Option<Endpoint> {
        let field = fields.take(name);
        let place = field
            .as_ref()
            .map_or(fields.place, |field| field.node.place);
        let at = match field {
            Some(field) => self.value(&field, self::listen),
            None => usual,
        }?;
        let path = joined(&fields.path, name);
        if let Some(other) = self.ports.insert(at.port, path.clone()) {
            let problem = format!("port {} is that of {other} as well", at.port);
            self.mistake(place, &path, problem);
        }
        Some(at)
    }

    fn redis(&mut self, field: &Field<'_>) -> Option<Redis> {
        if matches!(field.node.value, Value::Scalar(_)) {
            let at = self.value(field, |text| endpoint(text, Some(6379)))?;
            return Some(Redis {
                at,
                username: None,
                password_env: None,
            });
        }
        let mut fields = self.fields(field.node, &field.path)?;
        let at = self.optional(&mut fields, "address", |text| endpoint(text, Some(6379)));
        let username = self.optional(&mut fields, "username", login);
        let password_env = self.optional(&mut fields, "password_env", variable);
        if username.is_some() && password_env.is_none() {
            let path = joined(&field.path, "username");
            self.mistake(fields.place, &path, "needs `password_env`");
        }
        self.end(fields);
        Some(Redis {
            at: at.unwrap_or_else(|| Endpoint::local(6379)),
            username,
            password_env,
        })
    }

    fn key(&mut self, field: &Field<'_>) -> Option<Key> {
        let mut fields = self.fields(field.node, &field.path)?;
        let header = self.required(&mut fields, "header");
        let header = header.and_then(|field| self.value(&field, key_header));
        let prefix = self.optional(&mut fields, "prefix", key_prefix);
        self.end(fields);
        Some(Key {
            header: header?,
            prefix: prefix.unwrap_or_default(),
        })
    }

    /// One mistake is said once: whoever needs the upstream gets another.
    fn upstream_or_any(&mut self, field: &Field<'_>) -> Upstream {
        let any = || Upstream::Cluster(String::new());
        self.upstream(field).unwrap_or_else(any)
    }

    fn upstream(&mut self, field: &Field<'_>) -> Option<Upstream> {
        if matches!(field.node.value, Value::Scalar(_)) {
            return self.value(field, upstream);
        }
        let mut fields = self.fields(field.node, &field.path)?;
        let cluster = self.required(&mut fields, "cluster");
        let cluster = cluster.and_then(|field| self.value(&field, cluster_name));
        self.end(fields);
        if !self.fragment {
            let problem = "names a cluster that you have: only with --fragment; a complete configuration needs https://host or http://host:port";
            self.mistake(field.node.place, &field.path, problem);
        }
        Some(Upstream::Cluster(cluster?))
    }

    fn traditional(&mut self, field: &Field<'_>, usual: Option<&Upstream>) -> Option<Traditional> {
        if matches!(field.node.value, Value::Scalar(_)) {
            return self.value(field, |text| match text {
                "reject" => Ok(Traditional::Reject),
                _ => Err(format!(
                    "{} is neither `reject` nor an object with `upstream` and `key_env`",
                    quoted(text)
                )),
            });
        }
        let mut fields = self.fields(field.node, &field.path)?;
        let upstream = fields.take("upstream");
        let own = upstream.is_some();
        let upstream = upstream.and_then(|field| self.upstream(&field));
        let key_env = self.optional(&mut fields, "key_env", variable);
        self.end(fields);
        let upstream = match (upstream, own) {
            (Some(upstream), _) => upstream,
            (None, true) => return None,
            (None, false) => match usual {
                Some(usual) => usual.clone(),
                None => {
                    let path = joined(&field.path, "upstream");
                    self.mistake(
                        field.node.place,
                        &path,
                        "is required, for there is no `upstream` for all",
                    );
                    return None;
                }
            },
        };
        Some(Traditional::To { upstream, key_env })
    }

    fn app(&mut self, field: &Field<'_>, layout: Layout) -> Option<App> {
        if layout != Layout::Sidecar {
            let problem = "is for `layout: sidecar` alone";
            self.mistake(field.node.place, &field.path, problem);
            return None;
        }
        let mut fields = self.fields(field.node, &field.path)?;
        let usual = Endpoint {
            host: Ipv4Addr::UNSPECIFIED.to_string(),
            port: 10000,
        };
        let listen = self.listener(&mut fields, "listen", Some(usual));
        let at = self.required(&mut fields, "address");
        let at = at.and_then(|field| self.value(&field, |text| endpoint(text, None)));
        let limit = self.required(&mut fields, "limit");
        let limit = limit.and_then(|field| self.value(&field, self::limit));
        self.end(fields);
        Some(App {
            listen: listen?,
            at: at?,
            limit: limit?,
        })
    }

    fn pools(
        &mut self,
        field: &Field<'_>,
        layout: Layout,
        usual: Option<&Upstream>,
        with_app: bool,
    ) -> Vec<Pool> {
        let items = self.list(field);
        let last = items.len().saturating_sub(1);
        let mut pools: Vec<Pool> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(mut fields) = self.fields(item.node, &item.path) else {
                continue;
            };
            let name_field = self.required(&mut fields, "name");
            let name = name_field
                .as_ref()
                .and_then(|field| self.value(field, self::name));
            if let (Some(name), Some(field)) = (&name, &name_field) {
                if pools.iter().any(|pool| pool.name == *name) {
                    self.mistake(
                        field.node.place,
                        &field.path,
                        format!("{} is there twice", quoted(name)),
                    );
                }
                if with_app && name == "app" {
                    let problem = "is the name of the application's own pool";
                    self.mistake(field.node.place, &field.path, problem);
                }
            }
            let revision = self.optional(&mut fields, "revision", |text| {
                whole(text, 1, 9_007_199_254_740_991)
            });
            let matches = fields.take("match");
            if matches.is_none() && index != last {
                let path = joined(&item.path, "match");
                self.mistake(
                    item.node.place,
                    &path,
                    "is required: without one a pool takes all that is left, so only the last may",
                );
            }
            let matches = matches.and_then(|field| self.matches(&field));
            let own = fields.take("upstream");
            let own = own.map(|field| self.upstream_or_any(&field));
            let accounts = self.required(&mut fields, "accounts");
            let upstream = own.as_ref().or(usual);
            let accounts = match accounts {
                Some(field) => self.accounts(&field, layout, upstream, name.as_deref()),
                None => Vec::new(),
            };
            self.end(fields);
            pools.push(Pool {
                name: name.unwrap_or_default(),
                revision: revision.unwrap_or(1),
                matches,
                accounts,
            });
        }
        pools
    }

    fn matches(&mut self, field: &Field<'_>) -> Option<Match> {
        let mut fields = self.fields(field.node, &field.path)?;
        let header = self.required(&mut fields, "header");
        let header = header.and_then(|field| self.value(&field, self::header));
        let mut found = Vec::new();
        for kind in ["exact", "prefix", "suffix"] {
            if let Some(text) = self.optional(&mut fields, kind, printable) {
                found.push((kind, text));
            }
        }
        let place = fields.place;
        self.end(fields);
        if found.len() != 1 {
            self.mistake(
                place,
                &field.path,
                "needs one of `exact`, `prefix`, `suffix`",
            );
        }
        let (kind, text) = found.pop()?;
        Some(Match {
            header: header?,
            kind,
            text,
        })
    }

    fn accounts(
        &mut self,
        field: &Field<'_>,
        layout: Layout,
        usual: Option<&Upstream>,
        pool: Option<&str>,
    ) -> Vec<Account> {
        let mut accounts: Vec<Account> = Vec::new();
        let mut ids: BTreeSet<String> = BTreeSet::new();
        let items = self.list(field);
        for item in &items {
            let Some(mut fields) = self.fields(item.node, &item.path) else {
                continue;
            };
            let id_field = self.required(&mut fields, "id");
            let id = id_field.as_ref().and_then(|field| self.value(field, name));
            if let (Some(id), Some(field)) = (&id, &id_field)
                && !ids.insert(id.clone())
            {
                let problem = format!("{} is there twice", quoted(id));
                self.mistake(field.node.place, &field.path, problem);
            }
            let limit = self.required(&mut fields, "limit");
            let limit = limit.and_then(|field| self.value(&field, self::limit));
            let priority = self.optional(&mut fields, "priority", |text| whole(text, 0, 1_000_000));
            let key_field = fields.take("key_env");
            let key_env = key_field
                .as_ref()
                .and_then(|field| self.value(field, variable));
            if let (Some(variable), Some(field)) = (&key_env, &key_field) {
                let this = format!("{}/{}", pool.unwrap_or("?"), id.as_deref().unwrap_or("?"));
                if let Some(other) = self.keys.insert(variable.clone(), this) {
                    let problem = format!(
                        "{variable} is the key of {other} as well: its limit would count twice"
                    );
                    self.mistake(field.node.place, &field.path, problem);
                }
            }
            let own_field = fields.take("upstream");
            let own = own_field.as_ref().and_then(|field| self.upstream(field));
            if let (Layout::OneHost, Some(field)) = (layout, &own_field) {
                let problem = "one-host has one host for all accounts of a pool; `layout: cluster-per-account` has one for each";
                self.mistake(field.node.place, &field.path, problem);
            }
            if own_field.is_none() && usual.is_none() {
                let path = joined(&item.path, "upstream");
                let problem = "is required, for neither the pool nor the file has one: https://host, or http://host:port";
                self.mistake(item.node.place, &path, problem);
            }
            let place = fields.place;
            if key_field.is_none() && layout == Layout::OneHost && items.len() > 1 {
                let path = joined(&item.path, "key_env");
                let problem = "is required: accounts of one host differ by nothing but their keys";
                self.mistake(place, &path, problem);
            }
            self.end(fields);
            let upstream = own.or_else(|| usual.cloned());
            let is_cluster = matches!(upstream, Some(Upstream::Cluster(_)));
            if layout == Layout::Sidecar && key_env.is_some() && is_cluster {
                let path = joined(&item.path, "key_env");
                let problem = "is put on by the account's cluster, so that must be made here: https://host, or http://host:port";
                self.mistake(place, &path, problem);
            }
            accounts.push(Account {
                id: id.unwrap_or_default(),
                limit: limit.unwrap_or(1),
                priority,
                key_env,
                upstream: upstream.unwrap_or_else(|| Upstream::Cluster(String::new())),
            });
        }
        accounts
    }
}

// --- rules: text in, a value or what is wrong out

/// A name from the file for a message: nobody's control characters.
fn shown(text: &str) -> String {
    ascii(text.as_bytes())
}

fn holds(text: &str, most: usize, punctuation: &str) -> bool {
    let fits = |char: char| char.is_ascii_alphanumeric() || punctuation.contains(char);
    (1..=most).contains(&text.len()) && text.chars().all(fits)
}

pub fn layout(text: &str) -> Result<Layout, String> {
    let found = Layout::ALL.iter().find(|(name, _)| *name == text);
    let found = found.map(|(_, layout)| *layout);
    found.ok_or_else(|| {
        let names = Layout::ALL.map(|(name, _)| name).join(", ");
        format!("{} is none of {names}", quoted(text))
    })
}

pub fn name(text: &str) -> Result<String, String> {
    match holds(text, 64, "._-") {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is not [A-Za-z0-9._-]{{1,64}}", quoted(text))),
    }
}

/// A cluster's name: a header's value, so it may not be empty or hold anything odd.
fn cluster_name(text: &str) -> Result<String, String> {
    match holds(text, 256, "._-|:/") {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not [A-Za-z0-9._|:/-]{{1,256}}",
            quoted(text)
        )),
    }
}

pub fn variable(text: &str) -> Result<String, String> {
    let begins = text.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
    match begins && holds(text, 256, "_") {
        true => Ok(text.to_owned()),
        // Someone may have written the key itself: it is not said again.
        false => Err("is not the name of a variable, [A-Za-z_][A-Za-z0-9_]*; the key itself is never written here".into()),
    }
}

fn whole(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits && (least..=most).contains(&number) => Ok(number),
        _ => Err(format!(
            "{} is not a whole number in {least}..={most}",
            quoted(text)
        )),
    }
}

pub fn limit(text: &str) -> Result<u64, String> {
    whole(text, 1, 100_000)
}

pub fn percentage(text: &str) -> Result<u16, String> {
    basis_points(text).map_err(|problem| {
        let what = problem.what;
        what.strip_prefix("percent ").unwrap_or(&what).to_owned()
    })
}

fn header(text: &str) -> Result<String, String> {
    match holds(text, 128, "-_") && !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not a header's name in lower case",
            quoted(text)
        )),
    }
}

fn key_header(text: &str) -> Result<String, String> {
    /// What Envoy or HTTP itself goes by.
    const OTHERS: [&str; 8] = [
        "connection",
        "content-length",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
        super::write::ROUTED_BY,
    ];
    let name = header(text)?;
    match OTHERS.contains(&text) || name.starts_with("x-slotgate-") {
        true => Err(format!("{} is not for a key", quoted(text))),
        false => Ok(name),
    }
}

/// What stands before a key. Envoy and the filter each read something into a percent sign and a dollar.
fn key_prefix(text: &str) -> Result<String, String> {
    let fits = |byte: u8| (b' '..=b'~').contains(&byte) && !b"%$\"\\".contains(&byte);
    match text.len() <= 128 && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not printable ASCII without % $ \" and \\",
            quoted(text)
        )),
    }
}

fn printable(text: &str) -> Result<String, String> {
    let fits = |byte: u8| (b' '..=b'~').contains(&byte);
    match (1..=256).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not 1 to 256 bytes of printable ASCII",
            quoted(text)
        )),
    }
}

fn login(text: &str) -> Result<String, String> {
    match printable(text)?.contains(' ') {
        true => Err(format!("{} has a space", quoted(text))),
        false => Ok(text.to_owned()),
    }
}

fn file(text: &str) -> Result<String, String> {
    let fits = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte);
    match (1..=1024).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is not a path of printable ASCII", quoted(text))),
    }
}

fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(format!("port {} is not in 1..=65535", quoted(text))),
    }
}

/// `host:port`, `[::1]:port`; without a port where one is usual.
pub fn endpoint(text: &str, usual: Option<u16>) -> Result<Endpoint, String> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => (host, rest),
            _ => {
                return Err(format!(
                    "{} is not an address of IPv6 in brackets",
                    quoted(text)
                ));
            }
        },
        None => match text.find(':') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        },
    };
    let in_brackets = text.starts_with('[');
    if !in_brackets && (!holds(host, 253, ".-_") || host.starts_with('-')) {
        return Err(format!(
            "{} does not begin with a host's name or address",
            quoted(text)
        ));
    }
    let port = match (rest.strip_prefix(':'), usual) {
        (Some(digits), _) => port(digits)?,
        (None, Some(usual)) if rest.is_empty() => usual,
        (None, _) if rest.is_empty() => return Err(format!("{} has no port", quoted(text))),
        (None, _) => return Err(format!("{} is not host:port", quoted(text))),
    };
    let host = host.to_owned();
    Ok(Endpoint { host, port })
}

/// A listener's: a port on the loopback interface, or an address and a port.
pub fn listen(text: &str) -> Result<Endpoint, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return port(text).map(Endpoint::local);
    }
    let at = endpoint(text, None)?;
    match at.is_name() {
        true => Err(format!(
            "{} is not a port, or an address and a port",
            quoted(text)
        )),
        false => Ok(at),
    }
}

/// `https://host`, `http://host:port`.
pub fn upstream(text: &str) -> Result<Upstream, String> {
    let form = || {
        format!(
            "{} is not https://host, https://host:port or http://host:port",
            quoted(text)
        )
    };
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(form()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return Err(format!(
            "{} has a path: clients send it, so leave it out",
            quoted(text)
        ));
    }
    if rest.contains('@') {
        return Err("has a login in it: keys come from `key_env`".into());
    }
    let usual = if tls { 443 } else { 80 };
    let at = endpoint(rest, Some(usual)).map_err(|_| form())?;
    Ok(Upstream::Host { at, tls })
}
