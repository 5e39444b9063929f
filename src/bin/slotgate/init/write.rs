//! The configuration as text: the fragments of `envoy/fragments/`, with what the plan sets.

use super::plan::{Account, App, Endpoint, Layout, Plan, Pool, Traditional, Upstream};
use std::collections::{BTreeMap, BTreeSet};

/// The header that says which cluster; only slotgate may set it.
pub const ROUTED_BY: &str = "x-upstream";

const INTERNAL_LISTENER: &str = include_str!("../../../../envoy/fragments/internal_listener.yaml");
const STATS: &str = include_str!("../../../../envoy/fragments/stats.yaml");
const HEADER_MUTATION: &str = include_str!("../../../../envoy/fragments/header_mutation.yaml");
const FILTER: &str = include_str!("../../../../envoy/fragments/filter.yaml");
const BRIDGE: &str = include_str!("../../../../envoy/fragments/bridge.yaml");
const PIPE: &str = include_str!("../../../../envoy/fragments/pipe.yaml");
const REDIS: &str = include_str!("../../../../envoy/fragments/redis.yaml");
const ACCESS_LOG: &str = include_str!("../../../../envoy/fragments/access_log.yaml");
const CONSOLE: &str = include_str!("../../../../envoy/console.yaml");

/// What the fragments have where the plan says otherwise.
const WASM: &str = "filename: /etc/envoy/slotgate.wasm";
const CONSOLE_WASM: &str = "filename: target/slotgate.wasm";
const CONSOLE_AT: &str = "address: 127.0.0.1, port_value: 9902";
const CONSOLE_REDIS: &str = "redis: {pipe_cluster: slotgate_pipe}";
const CONSOLE_PERCENT: &str = "gray: {percent: 100}";
const CONSOLE_POOLS: &str = "pools: [demo]";
const CONSOLE_CODE: &str = "# environment_variables: {host_env_keys: [SLOTGATE_CONSOLE_TOKEN]}";
const REDIS_AT: &str = "address: 127.0.0.1, port_value: 6379";
const REDIS_TIMEOUT: &str = "  connect_timeout: 1s\n";
const VALUE: &str = "        value:\n";
const NAME: &str = "name: slotgate\n";
const ROOT_ID: &str = "root_id: slotgate\n";
const CODE: &str = "        code: {local: {filename: /etc/envoy/slotgate.wasm}}\n";

/// Envoy lets no more than this many requests at a time into a cluster by itself.
const ENVOYS_OWN_LIMIT: u64 = 1024;

/// The text of a whole configuration, or of what is to be merged into one.
pub fn text(plan: &Plan, source: &str, fragment: bool) -> String {
    let clusters = Clusters::of(plan);
    match fragment {
        true => to_merge(plan, &clusters, source),
        false => complete(plan, &clusters, source),
    }
}

/// Variables that Envoy's environment must hold.
pub fn variables(plan: &Plan) -> Vec<String> {
    let accounts = plan.pools.iter().flat_map(|pool| &pool.accounts);
    let keys = accounts.filter_map(|account| account.key_env.clone());
    let mut all: Vec<String> = keys.chain(plan.redis.password_env.clone()).collect();
    if let Traditional::To { key_env, .. } = &plan.traditional {
        all.extend(key_env.clone());
    }
    let mut seen = BTreeSet::new();
    all.retain(|name| seen.insert(name.clone()));
    all
}

// --- clusters

/// One cluster for upstreams.
struct Cluster {
    name: String,
    at: Endpoint,
    tls: bool,
    /// The key that the cluster itself puts on.
    key_env: Option<String>,
    limit: u64,
    comment: String,
}

/// The clusters for upstreams, and who uses which.
struct Clusters {
    made: Vec<Cluster>,
    /// By pool and account.
    of_account: BTreeMap<(usize, usize), String>,
    /// For requests without a slot.
    traditional: Option<String>,
}

impl Clusters {
    fn of(plan: &Plan) -> Self {
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
    fn text(&self, plan: &Plan) -> String {
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
        // As many again go the traditional way in the worst case.
        let needed = self.limit.saturating_mul(2);
        if needed > ENVOYS_OWN_LIMIT {
            out.line(
                2,
                "# slotgate bounds the requests; Envoy's own bound of 1,024 is below the limits.",
            );
            out.line(2, "circuit_breakers:");
            out.line(2, "  thresholds:");
            let all = format!(
                "  - {{max_connections: {needed}, max_pending_requests: {needed}, max_requests: {needed}}}"
            );
            out.line(2, &all);
        }
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
        out.0
    }
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
    out.line(4, "- name: envoy.filters.http.upstream_codec");
    out.line(4, "  typed_config:");
    out.line(4, "    \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec");
    out.0
}

/// A header that Envoy itself fills.
fn key_from_environment(plan: &Plan, variable: &str) -> String {
    let value = double(&format!("{}%ENVIRONMENT({variable})%", plan.key.prefix));
    format!("{{key: {}, value: {value}}}", scalar(&plan.key.header))
}

// --- the whole

/// How far in the manager's fields are, and its routes, in a file indented as Envoy's own examples.
const AT_MANAGER: usize = 10;
const AT_ROUTES: usize = 14;

fn complete(plan: &Plan, clusters: &Clusters, source: &str) -> String {
    let mut out = Text::default();
    out.line(
        0,
        &format!(
            "# slotgate on Envoy, layout {}. Made by `slotgate init {source}`:",
            plan.layout.name()
        ),
    );
    out.line(0, "# change that file and run it again with --force, or go on from here by hand. `slotgate check` says what is wrong.");
    environment(&mut out, plan);
    out.line(0, "");
    out.line(
        0,
        "# The admin interface can stop Envoy: keep it where only you can reach it.",
    );
    out.line(0, "admin:");
    out.line(
        0,
        &format!("  address: {{socket_address: {}}}", socket(&plan.admin)),
    );
    out.line(0, "");
    bootstrap(&mut out);
    out.line(0, "");
    out.line(0, "static_resources:");
    out.line(2, "listeners:");
    if let Some(app) = &plan.app {
        inbound(&mut out, plan, app);
        out.line(0, "");
    }
    outbound(&mut out, plan, clusters);
    out.line(0, "");
    inner(&mut out, plan);
    if let Some(app) = &plan.app {
        out.line(0, "");
        out.line(2, "# The application.");
        out.line(2, "- name: app");
        if app.at.is_name() {
            out.line(2, "  type: STRICT_DNS");
        }
        out.line(2, "  load_assignment:");
        out.line(6, "cluster_name: app");
        out.line(6, "endpoints:");
        out.line(6, "- lb_endpoints:");
        out.line(
            6,
            &format!(
                "  - endpoint: {{address: {{socket_address: {}}}}}",
                socket(&app.at)
            ),
        );
    }
    upstream_clusters(&mut out, plan, clusters);
    out.0
}

fn to_merge(plan: &Plan, clusters: &Clusters, source: &str) -> String {
    let mut out = Text::default();
    out.line(0, &format!("# slotgate's pieces for an Envoy that you have. Made by `slotgate init --fragment {source}`."));
    environment(&mut out, plan);
    out.line(0, "#");
    out.line(0, "# 1. Beside what you have at the top of your file: add these elements to the lists that are there already.");
    out.line(0, "");
    bootstrap(&mut out);
    out.line(0, "");
    out.line(0, "static_resources:");
    out.line(2, "listeners:");
    inner(&mut out, plan);
    upstream_clusters(&mut out, plan, clusters);
    out.line(0, "---");
    out.line(
        AT_MANAGER,
        "# 2. Into the typed_config of your HTTP connection manager, indented as there in most files.",
    );
    out.line(0, "");
    idle(&mut out, AT_MANAGER);
    mutation(&mut out, AT_MANAGER);
    out.line(AT_MANAGER, "http_filters: # before your router");
    filter(&mut out, AT_MANAGER, plan, clusters);
    out.line(AT_MANAGER, "route_config:");
    out.line(AT_MANAGER, "  virtual_hosts:");
    out.line(
        AT_MANAGER,
        "  - routes: # the first of them; your own stay, for requests without a slot",
    );
    routes(&mut out, AT_ROUTES, plan, clusters);
    out.0
}

fn environment(out: &mut Text, plan: &Plan) {
    let names = variables(plan);
    if !names.is_empty() {
        out.line(
            0,
            &format!("# Envoy's environment must hold: {}.", names.join(", ")),
        );
    }
}

fn bootstrap(out: &mut Text) {
    out.line(0, "# Labels for slotgate's metrics, which carry them in their names. May go, then they stay in the names.");
    out.line(0, "stats_config:");
    out.put(2, body(STATS));
    out.line(0, "");
    out.line(
        0,
        "# The pipe to Redis goes through a listener inside this Envoy.",
    );
    out.line(0, "bootstrap_extensions:");
    out.put(0, body(INTERNAL_LISTENER));
}

/// The listeners and clusters that slotgate itself needs; the list of clusters stays open for others.
fn inner(out: &mut Text, plan: &Plan) {
    bridge(out, plan);
    if let Some(at) = &plan.console {
        out.line(0, "");
        console(out, plan, at);
    }
    out.line(0, "");
    out.line(2, "clusters:");
    inner_clusters(out, plan);
}

fn bridge(out: &mut Text, plan: &Plan) {
    out.line(2, "# The bridge: takes the gRPC frames off what goes to Redis and puts them on what comes back. Nothing to change.");
    out.put(2, &body(BRIDGE).replace(WASM, &filename(plan)));
}

fn console(out: &mut Text, plan: &Plan, at: &Endpoint) {
    out.line(2, "# The operator's console, for reading; with a token it may change things: take the two comments about it away.");
    let names: Vec<String> = plan.pools.iter().map(|pool| scalar(&pool.name)).collect();
    let mut text = body(CONSOLE)
        .replace(CONSOLE_WASM, &filename(plan))
        .replace(CONSOLE_AT, &pair(at))
        .replace(CONSOLE_REDIS, &format!("redis: {}", redis(plan)))
        .replace(
            CONSOLE_PERCENT,
            &format!("gray: {{percent: {}}}", plan.percent),
        )
        .replace(CONSOLE_POOLS, &format!("pools: [{}]", names.join(", ")));
    if let Some(variable) = &plan.redis.password_env {
        let with = format!(
            "environment_variables: {{host_env_keys: [{variable}]}} # and SLOTGATE_CONSOLE_TOKEN"
        );
        text = text.replace(CONSOLE_CODE, &with);
    }
    out.put(2, &text);
}

fn inner_clusters(out: &mut Text, plan: &Plan) {
    out.line(
        2,
        "# A gRPC stream to this cluster arrives as plain bytes at the bridge. Nothing to change.",
    );
    out.put(2, body(PIPE));
    out.line(0, "");
    out.line(
        2,
        "# Redis. Behind TLS, Sentinel or Cluster: envoy/redis/ has the cluster for each.",
    );
    let mut text = body(REDIS).replace(REDIS_AT, &pair(&plan.redis.at));
    if plan.redis.at.is_name() {
        let with = format!("{REDIS_TIMEOUT}  type: STRICT_DNS\n");
        text = text.replace(REDIS_TIMEOUT, &with);
    }
    out.put(2, &text);
}

fn upstream_clusters(out: &mut Text, plan: &Plan, clusters: &Clusters) {
    for cluster in &clusters.made {
        out.line(0, "");
        out.put(2, &cluster.text(plan));
    }
}

fn idle(out: &mut Text, at: usize) {
    out.line(at, "# A stream may be silent for as long as it likes. Envoy's own 5 minutes would cut it, whatever the route's timeout is.");
    out.line(at, "stream_idle_timeout: 0s");
}

fn mutation(out: &mut Text, at: usize) {
    out.line(
        at,
        "# Only slotgate may say where a request goes: a client that could would need no slot.",
    );
    out.line(at, "early_header_mutation_extensions:");
    out.put(at, body(HEADER_MUTATION));
}

/// The beginning of a listener, as far as the manager's own fields.
fn manager(out: &mut Text, name: &str, at: &Endpoint) {
    out.line(2, &format!("- name: {name}"));
    out.line(2, &format!("  address: {{socket_address: {}}}", socket(at)));
    out.line(4, "filter_chains:");
    out.line(4, "- filters:");
    out.line(4, "  - name: envoy.filters.network.http_connection_manager");
    out.line(8, "typed_config:");
    out.line(10, "\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager");
    out.line(10, &format!("stat_prefix: {name}"));
    idle(out, 10);
    out.line(10, "# One line of JSON for each request; slotgate.* is there with access_log: true below. May go.");
    out.line(10, "access_log:");
    out.put(10, body(ACCESS_LOG));
}

fn router(out: &mut Text) {
    out.line(10, "- name: envoy.filters.http.router");
    out.line(10, "  typed_config:");
    out.line(
        14,
        "\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    );
}

fn outbound(out: &mut Text, plan: &Plan, clusters: &Clusters) {
    let sidecar = plan.layout == Layout::Sidecar;
    if sidecar {
        out.line(2, "# What the application calls in the upstream's place.");
    } else {
        out.line(
            2,
            "# What clients call. 0.0.0.0 lets others than this machine in.",
        );
    }
    manager(out, if sidecar { "outbound" } else { "http" }, &plan.listen);
    out.line(10, "upgrade_configs:");
    out.line(10, "- upgrade_type: websocket");
    mutation(out, 10);
    out.line(10, "http_filters:");
    filter(out, 10, plan, clusters);
    router(out);
    out.line(10, "route_config:");
    out.line(12, "virtual_hosts:");
    out.line(12, "- name: all");
    out.line(12, "  domains: [\"*\"]");
    out.line(14, "routes:");
    routes(out, 14, plan, clusters);
}

/// The application's own limit.
fn inbound(out: &mut Text, plan: &Plan, app: &App) {
    out.line(2, "# What others call: all replicas of the application together take so many requests at a time as the pool says.");
    manager(out, "inbound", &app.listen);
    out.line(10, "http_filters:");
    let mut value = Text::default();
    value.line(0, "role: scheduler");
    value.line(0, &format!("redis: {}", redis(plan)));
    value.line(0, "gray: {percent: 100}");
    value.line(0, "access_log: true");
    value.line(0, "pools:");
    value.line(0, "- name: app");
    value.line(0, "  revision: 1 # raise it when the limit changes");
    value.line(0, "  accounts:");
    value.line(
        0,
        &format!("  - {{id: app, max_concurrency: {}}}", app.limit),
    );
    let variables: Vec<String> = plan.redis.password_env.iter().cloned().collect();
    let text = filter_with(plan, &variables, &value.0)
        .replace(NAME, "name: slotgate_inbound\n")
        .replace(ROOT_ID, "root_id: slotgate_inbound\n");
    out.put(10, &text);
    router(out);
    out.line(10, "route_config:");
    out.line(12, "virtual_hosts:");
    out.line(12, "- name: app");
    out.line(12, "  domains: [\"*\"]");
    out.line(14, "routes:");
    out.line(14, "- match: {prefix: /}");
    out.line(14, "  route: {cluster: app, timeout: 0s}");
}

fn filter(out: &mut Text, at: usize, plan: &Plan, clusters: &Clusters) {
    let mut value = Text::default();
    value.line(0, "role: scheduler");
    value.line(0, &format!("redis: {}", redis(plan)));
    value.line(0, "# The share of the sessions that take slots, in per cent, and where a session's name is. May change at any time;");
    value.line(0, "# `slotgate percent set` changes it without this file.");
    value.line(0, "gray:");
    value.line(0, &format!("  percent: {}", plan.percent));
    value.line(
        0,
        &format!("  session: [{{header: {}}}]", scalar(&plan.session_header)),
    );
    if plan.traditional == Traditional::Reject {
        value.line(0, "# There is no way for requests without a slot: 503.");
        value.line(0, "failure: {action: reject}");
    }
    value.line(
        0,
        "# Clients are told the way and the account (x-slotgate-path, x-slotgate-account). May go.",
    );
    value.line(0, "response_headers: true");
    value.line(0, "access_log: true");
    value.line(0, "pools:");
    for (p, pool) in plan.pools.iter().enumerate() {
        value.line(0, &format!("- name: {}", scalar(&pool.name)));
        if let Some(rule) = &pool.matches {
            let header = scalar(&rule.header);
            let text = scalar(&rule.text);
            value.line(
                0,
                &format!("  match: [{{header: {header}, {}: {text}}}]", rule.kind),
            );
        }
        value.line(
            0,
            &format!(
                "  revision: {} # raise it when accounts or limits change",
                pool.revision
            ),
        );
        value.line(0, "  accounts:");
        for (a, account) in pool.accounts.iter().enumerate() {
            let cluster = clusters.of_account.get(&(p, a));
            let cluster = cluster.map(String::as_str).unwrap_or_default();
            value.line(0, &format!("  - {}", account_line(plan, account, cluster)));
        }
    }
    let mut variables: Vec<String> = Vec::new();
    if plan.layout != Layout::Sidecar {
        let accounts = plan.pools.iter().flat_map(|pool| &pool.accounts);
        variables.extend(accounts.filter_map(|account| account.key_env.clone()));
    }
    variables.extend(plan.redis.password_env.clone());
    out.put(at, &filter_with(plan, &variables, &value.0));
}

fn account_line(plan: &Plan, account: &Account, cluster: &str) -> String {
    let priority = account
        .priority
        .map(|priority| format!("priority: {priority}, "));
    let mut headers = format!("{ROUTED_BY}: {}", scalar(cluster));
    if let Some(variable) = account
        .key_env
        .as_ref()
        .filter(|_| plan.layout != Layout::Sidecar)
    {
        let value = double(&format!("{}${{{variable}}}", plan.key.prefix));
        headers.push_str(&format!(", {}: {value}", scalar(&plan.key.header)));
    }
    format!(
        "{{id: {}, max_concurrency: {}, {}set_headers: {{{headers}}}}}",
        scalar(&account.id),
        account.limit,
        priority.unwrap_or_default(),
    )
}

/// The filter's fragment with another configuration.
fn filter_with(plan: &Plan, variables: &[String], value: &str) -> String {
    let (before, _) = body(FILTER).split_once(VALUE).unwrap_or((FILTER, ""));
    let mut code = CODE.replace(WASM, &filename(plan));
    if !variables.is_empty() {
        code.push_str(
            "        # From Envoy's own environment; without this the VM sees none of it.\n",
        );
        let names = variables.join(", ");
        code.push_str(&format!(
            "        environment_variables: {{host_env_keys: [{names}]}}\n"
        ));
    }
    let mut out = Text(format!("{}{VALUE}", before.replace(CODE, &code)));
    out.put(10, value);
    out.0
}

fn routes(out: &mut Text, at: usize, plan: &Plan, clusters: &Clusters) {
    let names: BTreeSet<&String> = clusters.made.iter().map(|made| &made.name).collect();
    let made = |name: &String| names.contains(name);
    // A cluster that the operator has may know no host's name.
    let all_made = clusters.of_account.values().all(made);
    let rewrite = |rewrite: bool| {
        if rewrite {
            ", auto_host_rewrite: true"
        } else {
            ""
        }
    };
    out.line(
        at,
        "# With a slot: where the account says. No timeout, for a stream may last for hours.",
    );
    out.line(
        at,
        &format!("- match: {{prefix: /, headers: [{{name: {ROUTED_BY}, present_match: true}}]}}"),
    );
    out.line(
        at,
        &format!(
            "  route: {{cluster_header: {ROUTED_BY}, timeout: 0s{}}}",
            rewrite(all_made)
        ),
    );
    out.line(
        at,
        "  # The upstream need not learn which account of how many this is.",
    );
    out.line(at, &format!("  request_headers_to_remove: [{ROUTED_BY}, x-slotgate-account, x-slotgate-lease, x-slotgate-path]"));
    match (&plan.traditional, &clusters.traditional) {
        (Traditional::Own, _) => {
            out.line(at, "  # Whatever else your own route does (rewrites, retries, headers) belongs here as well.");
        }
        (Traditional::To { key_env, .. }, Some(name)) => {
            match key_env {
                Some(_) => out.line(at, "# Without one (not in the percentage, or Redis is away): with a key of its own."),
                None => out.line(at, "# Without one (not in the percentage, or Redis is away): as the client sent it, so with the client's own key."),
            }
            out.line(at, "- match: {prefix: /}");
            let cluster = scalar(name);
            out.line(
                at,
                &format!(
                    "  route: {{cluster: {cluster}, timeout: 0s{}}}",
                    rewrite(made(name))
                ),
            );
            out.line(at, "  request_headers_to_remove: [x-slotgate-path]");
            if let Some(variable) = key_env {
                out.line(at, "  request_headers_to_add:");
                out.line(
                    at,
                    &format!("  - header: {}", key_from_environment(plan, variable)),
                );
                out.line(at, "    append_action: OVERWRITE_IF_EXISTS_OR_ADD");
            }
        }
        (Traditional::Reject, _) => {
            out.line(at, "# Without one there is no way.");
            out.line(at, "- match: {prefix: /}");
            out.line(
                at,
                "  direct_response: {status: 503, body: {inline_string: \"no account\\n\"}}",
            );
        }
        (Traditional::To { .. }, None) => {}
    }
}

fn redis(plan: &Plan) -> String {
    let mut text = "{pipe_cluster: slotgate_pipe".to_owned();
    if let Some(username) = &plan.redis.username {
        text.push_str(&format!(", username: {}", scalar(username)));
    }
    if let Some(variable) = &plan.redis.password_env {
        text.push_str(&format!(", password_env: {variable}"));
    }
    text + "}"
}

// --- text

/// Lines, each with its indentation.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, at: usize, text: &str) {
        if !text.is_empty() {
            self.0.push_str(&" ".repeat(at));
            self.0.push_str(text);
        }
        self.0.push('\n');
    }

    /// Lines that are indented already, further in.
    fn put(&mut self, at: usize, lines: &str) {
        for line in lines.lines() {
            self.line(at, line);
        }
    }
}

/// A fragment without the comment at its top, which says where it goes.
fn body(fragment: &str) -> &str {
    let mut rest = fragment;
    while let Some((line, after)) = rest.split_once('\n')
        && (line.starts_with('#') || line.is_empty())
    {
        rest = after;
    }
    rest
}

fn filename(plan: &Plan) -> String {
    format!("filename: {}", scalar(&plan.wasm))
}

/// `{address: …, port_value: …}`
fn socket(at: &Endpoint) -> String {
    format!("{{{}}}", pair(at))
}

fn pair(at: &Endpoint) -> String {
    format!("address: {}, port_value: {}", scalar(&at.host), at.port)
}

/// Text as YAML reads it back: plain where nothing else can be read into it.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let begins = text.starts_with(|char: char| char.is_ascii_alphabetic() || char == '/');
    let plain = text
        .chars()
        .all(|char| char.is_ascii_alphanumeric() || "._-/".contains(char));
    let address = text.parse::<std::net::Ipv4Addr>().is_ok();
    let word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    match address || (begins && plain && !word) {
        true => text.to_owned(),
        false => double(text),
    }
}

/// In double quotes. The text is printable ASCII.
fn double(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is replaced is there.
    #[test]
    fn fragments_have_what_is_set() {
        for (fragment, parts) in [
            (BRIDGE, &[WASM][..]),
            (REDIS, &[REDIS_AT, REDIS_TIMEOUT]),
            (FILTER, &[CODE, VALUE, NAME, ROOT_ID]),
            (
                CONSOLE,
                &[
                    CONSOLE_WASM,
                    CONSOLE_AT,
                    CONSOLE_REDIS,
                    CONSOLE_PERCENT,
                    CONSOLE_POOLS,
                    CONSOLE_CODE,
                ],
            ),
        ] {
            for part in parts {
                assert!(
                    body(fragment).contains(part),
                    "{part} is not in\n{fragment}"
                );
            }
        }
        assert!(HEADER_MUTATION.contains(&format!("- remove: {ROUTED_BY}\n")));
    }

    #[test]
    fn scalars_stay_text() {
        for text in [
            "one",
            "1",
            "1e3",
            "true",
            "No",
            "~",
            "null",
            "0x1f",
            "a.b-c",
            ".nan",
            "-",
            "a: b",
            "x#y",
            "",
            "10.0.0.1",
            "::1",
            "a\"b\\c",
            "account_p/1",
            "/etc/x",
        ] {
            let read: Result<serde_json::Value, _> = serde_yaml_ng::from_str(&scalar(text));
            assert_eq!(read.ok(), Some(serde_json::json!(text)), "{text}");
        }
    }
}
