//! Clusters for upstreams: which account has which, and their text.

use super::filter::upstream;
use super::plan::{Account, Endpoint, Layout, Plan, Pool, Traditional, Upstream};
use super::text::{Text, double, scalar, socket};
use std::collections::BTreeMap;

/// Envoy lets no more than this many requests at a time into a cluster by itself.
const ENVOYS_OWN_LIMIT: u64 = 1024;
/// One cluster for upstreams.
pub struct Cluster {
    pub name: String,
    at: Endpoint,
    tls: bool,
    /// The key that the cluster itself puts on.
    key_env: Option<String>,
    limit: u64,
    /// Whether a request that is refused here is tried again.
    tries_again: bool,
    comment: String,
}

/// The clusters for upstreams, and who uses which.
pub struct Clusters {
    pub made: Vec<Cluster>,
    /// By pool and account.
    pub of_account: BTreeMap<(usize, usize), String>,
    /// For requests without a slot.
    pub traditional: Option<String>,
}

impl Clusters {
    pub fn of(plan: &Plan) -> Self {
        let mut clusters = Self {
            made: Vec::new(),
            of_account: BTreeMap::new(),
            traditional: None,
        };
        for (p, pool) in plan.pools.iter().enumerate() {
            for (a, account) in pool.accounts.iter().enumerate() {
                let name = clusters.of_one(plan, pool, account);
                clusters.of_account.insert((p, a), name);
            }
        }
        if let Traditional::To { upstream, .. } = &plan.traditional {
            let name = match (upstream, clusters.at(plan, upstream)) {
                (Upstream::Cluster(name), _) => name.clone(),
                (Upstream::Host { .. }, Some(known)) => known,
                (Upstream::Host { at, tls }, None) => {
                    clusters.made.push(Cluster {
                        name: "traditional".into(),
                        at: at.clone(),
                        tls: *tls,
                        key_env: None,
                        limit: 0,
                        tries_again: false,
                        comment: "For requests without a slot.".into(),
                    });
                    "traditional".into()
                }
            };
            clusters.traditional = Some(name);
        }
        clusters
    }

    /// One for each account or for each host. Its name.
    fn of_one(&mut self, plan: &Plan, pool: &Pool, account: &Account) -> String {
        let (at, tls) = match &account.upstream {
            Upstream::Cluster(name) => return name.clone(),
            Upstream::Host { at, tls } => (at, *tls),
        };
        if plan.layout != Layout::OneHost {
            let name = match plan.pools.len() {
                1 => format!("account_{}", account.id),
                _ => format!("account_{}/{}", pool.name, account.id),
            };
            let sidecar = plan.layout == Layout::Sidecar;
            self.made.push(Cluster {
                name: name.clone(),
                at: at.clone(),
                tls,
                key_env: account.key_env.clone().filter(|_| sidecar),
                limit: account.limit,
                tries_again: false,
                comment: format!("Account {} of pool {}.", account.id, pool.name),
            });
            return name;
        }
        let same = |made: &&mut Cluster| made.at == *at && made.tls == tls;
        if let Some(known) = self.made.iter_mut().find(same) {
            known.limit = known.limit.saturating_add(account.limit);
            return known.name.clone();
        }
        let name = match self.made.len() {
            0 => "upstream".to_owned(),
            others => format!("upstream_{}", others.saturating_add(1)),
        };
        self.made.push(Cluster {
            name: name.clone(),
            at: at.clone(),
            tls,
            key_env: None,
            limit: account.limit,
            tries_again: plan.tries_others(),
            comment: "The one host of its accounts, each of which has a key for it.".into(),
        });
        name
    }

    /// A host's cluster, where one may be shared: an account's own cluster puts a key on, or counts as the account.
    fn at(&self, plan: &Plan, upstream: &Upstream) -> Option<String> {
        let shared = plan.layout == Layout::OneHost;
        let is = |made: &&Cluster| {
            *upstream
                == Upstream::Host {
                    at: made.at.clone(),
                    tls: made.tls,
                }
        };
        let found = self.made.iter().filter(|_| shared).find(is);
        found.map(|made| made.name.clone())
    }
}

impl Cluster {
    pub fn text(&self, plan: &Plan) -> String {
        let mut out = Text::default();
        let name = scalar(&self.name);
        let authority = Upstream::authority(&self.at, self.tls);
        out.line(0, &format!("# {}", self.comment));
        out.line(0, &format!("- name: {name}"));
        out.line(2, "connect_timeout: 5s");
        if self.at.is_name() {
            out.line(2, "type: STRICT_DNS");
            out.line(2, "dns_lookup_family: V4_PREFERRED");
        }
        breakers(&mut out, 2, self.limit, self.tries_again);
        out.line(2, "load_assignment:");
        out.line(4, &format!("cluster_name: {name}"));
        out.line(4, "endpoints:");
        out.line(4, "- lb_endpoints:");
        out.line(4, "  - endpoint:");
        out.line(
            10,
            &format!("address: {{socket_address: {}}}", socket(&self.at)),
        );
        out.line(
            10,
            &format!(
                "hostname: {} # what auto_host_rewrite puts into the host header",
                scalar(&authority)
            ),
        );
        if self.tls {
            let host = scalar(&self.at.host);
            out.line(2, "transport_socket:");
            out.line(4, "name: envoy.transport_sockets.tls");
            out.line(4, "typed_config:");
            out.line(6, "\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext");
            let kind = match self.at.is_name() {
                true => {
                    out.line(6, &format!("sni: {host}"));
                    "DNS"
                }
                false => "IP_ADDRESS",
            };
            out.line(6, "common_tls_context:");
            out.line(6, "  validation_context:");
            out.line(
                10,
                &format!("trusted_ca: {{filename: {}}}", scalar(&plan.ca)),
            );
            out.line(10, "match_typed_subject_alt_names:");
            out.line(
                10,
                &format!("- {{san_type: {kind}, matcher: {{exact: {host}}}}}"),
            );
        }
        if let Some(variable) = &self.key_env {
            out.put(2, &key_in_cluster(plan, variable));
        }
        if self.tries_again {
            out.put(2, &each_try(plan));
        }
        out.0
    }
}

/// A cluster's bounds, where Envoy's own are too low for this many slots, or for as many that try again.
pub fn breakers(out: &mut Text, at: usize, slots: u64, tries_again: bool) {
    // As many again go the traditional way in the worst case.
    let needed = slots.saturating_mul(2);
    let mut bounds = Vec::new();
    if needed > ENVOYS_OWN_LIMIT {
        out.line(
            at,
            "# slotgate bounds the requests; Envoy's own bound of 1,024 is below the limits.",
        );
        bounds.extend(
            ["max_connections", "max_pending_requests", "max_requests"]
                .map(|name| format!("{name}: {needed}")),
        );
    }
    if tries_again {
        out.line(
            at,
            "# Envoy's own bound is 3 retries at a time: of more refusals at once the others would reach clients.",
        );
        bounds.push(format!("max_retries: {}", slots.max(ENVOYS_OWN_LIMIT)));
    }
    if bounds.is_empty() {
        return;
    }
    out.line(at, "circuit_breakers:");
    out.line(at, "  thresholds:");
    out.line(at, &format!("  - {{{}}}", bounds.join(", ")));
}

/// What sees each try of a request, in the scheduler's VM.
fn each_try(plan: &Plan) -> String {
    let mut out = Text::default();
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    out.line(0, "# Sees each try: marks a refusal, and holds the next try until it has another account's slot. Its vm_config must stay the");
    out.line(
        0,
        "# very same as that of the filter slotgate: the two work together in one VM.",
    );
    out.line(0, "typed_extension_protocol_options:");
    out.line(2, &format!("{options}:"));
    out.line(4, &format!("\"@type\": type.googleapis.com/{options}"));
    out.line(4, "explicit_http_config: {http_protocol_options: {}}");
    out.line(4, "http_filters:");
    out.put(4, &upstream(plan));
    codec(&mut out, 4);
    out.0
}

/// The last of a cluster's filters.
fn codec(out: &mut Text, at: usize) {
    out.line(at, "- name: envoy.filters.http.upstream_codec");
    out.line(at, "  typed_config:");
    out.line(at, "    \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec");
}

/// The key is put on behind the filter: neither the application nor slotgate sees it.
fn key_in_cluster(plan: &Plan, variable: &str) -> String {
    let mut out = Text::default();
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    out.line(0, "# The key, whatever the application sent. One that changes while Envoy runs: credential_injector, as in");
    out.line(0, "# envoy/sidecar.yaml.");
    out.line(0, "typed_extension_protocol_options:");
    out.line(2, &format!("{options}:"));
    out.line(4, &format!("\"@type\": type.googleapis.com/{options}"));
    out.line(4, "explicit_http_config: {http_protocol_options: {}}");
    out.line(4, "http_filters:");
    out.line(4, "- name: envoy.filters.http.header_mutation");
    out.line(4, "  typed_config:");
    out.line(8, "\"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation");
    out.line(8, "mutations:");
    out.line(8, "  request_mutations:");
    out.line(8, "  - append:");
    out.line(
        14,
        &format!("header: {}", key_from_environment(plan, variable)),
    );
    out.line(14, "append_action: OVERWRITE_IF_EXISTS_OR_ADD");
    codec(&mut out, 4);
    out.0
}

/// A header that Envoy itself fills.
pub fn key_from_environment(plan: &Plan, variable: &str) -> String {
    let value = double(&format!("{}%ENVIRONMENT({variable})%", plan.key.prefix));
    format!("{{key: {}, value: {value}}}", scalar(&plan.key.header))
}
