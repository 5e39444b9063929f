//! Reads `pools.yaml` and checks it: every mistake at once, each with its line and column.

use super::fields::{Field, Fields, Reader, joined};
use super::marked::{Node, Place, Value, read};
use super::plan::{App, Endpoint, Key, Layout, Mistake, Plan, Pool, Redis, Traditional, Upstream};
use super::rules;
use crate::words::{percent, quoted};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How many accounts a request tries where nothing is said and there are several.
const ATTEMPTS: u64 = 3;

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

impl Reader {
    fn file(&mut self, node: &Node) -> Option<Plan> {
        let mut fields = self.fields(node, "")?;
        let layout = self.optional(&mut fields, "layout", rules::layout);
        let layout = layout.unwrap_or(Layout::OneHost);
        let port = if layout == Layout::Sidecar {
            10001
        } else {
            10000
        };
        let listen = self.listener(&mut fields, "listen", Some(Endpoint::local(port)));
        let admin = self.listener(&mut fields, "admin", Some(Endpoint::local(9901)));
        let console = self.listener(&mut fields, "console", None);
        let wasm = self.optional(&mut fields, "wasm", rules::file);
        let ca = self.optional(&mut fields, "ca", rules::file);
        let redis = match fields.take("redis") {
            Some(field) => self.redis(&field),
            None => None,
        };
        let percent_field = fields.take("percent");
        let percent_at = percent_field.as_ref().map(|field| field.node.place);
        let share = percent_field.and_then(|field| self.value(&field, rules::percentage));
        let share = share.unwrap_or(10_000);
        let session_header = self.optional(&mut fields, "session_header", rules::header);
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
        let failover = fields.take("failover");
        let attempts = failover.and_then(|field| self.failover(&field));
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
        let attempts = self.attempts(attempts, layout, &pools);
        Some(Plan {
            layout,
            attempts,
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

    /// `failover.max_attempts`, and where it is.
    fn failover(&mut self, field: &Field<'_>) -> Option<(u64, Place, String)> {
        let mut fields = self.fields(field.node, &field.path)?;
        let attempts = self.required(&mut fields, "max_attempts");
        self.end(fields);
        let field = attempts?;
        let attempts = self.value(&field, |text| rules::whole(text, 1, 10))?;
        Some((attempts, field.node.place, field.path))
    }

    /// How many accounts a request tries. With one host all are behind one cluster, which is made here; else a listener inside
    /// Envoy chooses the cluster for each try, which costs each request something, so it is asked for.
    fn attempts(
        &mut self,
        asked: Option<(u64, Place, String)>,
        layout: Layout,
        pools: &[Pool],
    ) -> u64 {
        let mut accounts = pools.iter().flat_map(|pool| &pool.accounts);
        let all_made = accounts.all(|account| matches!(account.upstream, Upstream::Host { .. }));
        let problem = match (layout, all_made) {
            (Layout::OneHost, true) | (Layout::ClusterPerAccount | Layout::Sidecar, _) => None,
            (Layout::OneHost, false) => Some(
                "above 1 needs clusters that are made here, from https://host or http://host:port: one that you have needs role upstream in its filters",
            ),
        };
        match (asked, problem) {
            (Some((attempts, place, path)), Some(problem)) if attempts > 1 => {
                self.mistake(place, &path, problem);
                1
            }
            (Some((attempts, ..)), _) => attempts,
            (None, None)
                if layout == Layout::OneHost
                    && pools.iter().any(|pool| pool.accounts.len() > 1) =>
            {
                ATTEMPTS
            }
            (None, _) => 1,
        }
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
            Some(field) => self.value(&field, rules::listen),
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
            let at = self.value(field, |text| rules::endpoint(text, Some(6379)))?;
            return Some(Redis {
                at,
                username: None,
                password_env: None,
            });
        }
        let mut fields = self.fields(field.node, &field.path)?;
        let at = self.optional(&mut fields, "address", |text| {
            rules::endpoint(text, Some(6379))
        });
        let username = self.optional(&mut fields, "username", rules::login);
        let password_env = self.optional(&mut fields, "password_env", rules::variable);
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
        let header = header.and_then(|field| self.value(&field, rules::key_header));
        let prefix = self.optional(&mut fields, "prefix", rules::key_prefix);
        self.end(fields);
        Some(Key {
            header: header?,
            prefix: prefix.unwrap_or_default(),
        })
    }

    /// One mistake is said once: whoever needs the upstream gets another.
    pub fn upstream_or_any(&mut self, field: &Field<'_>) -> Upstream {
        let any = || Upstream::Cluster(String::new());
        self.upstream(field).unwrap_or_else(any)
    }

    pub fn upstream(&mut self, field: &Field<'_>) -> Option<Upstream> {
        if matches!(field.node.value, Value::Scalar(_)) {
            return self.value(field, rules::upstream);
        }
        let mut fields = self.fields(field.node, &field.path)?;
        let cluster = self.required(&mut fields, "cluster");
        let cluster = cluster.and_then(|field| self.value(&field, rules::cluster_name));
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
        let key_env = self.optional(&mut fields, "key_env", rules::variable);
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
        let at = at.and_then(|field| self.value(&field, |text| rules::endpoint(text, None)));
        let limit = self.required(&mut fields, "limit");
        let limit = limit.and_then(|field| self.value(&field, rules::limit));
        self.end(fields);
        Some(App {
            listen: listen?,
            at: at?,
            limit: limit?,
        })
    }
}
