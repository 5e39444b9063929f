//! The configuration as text: the fragments of `envoy/fragments/`, with what the plan sets.

use super::clusters::{Clusters, breakers};
use super::filter::{
    NAME, ROOT_ID, WASM, accounts_cluster, accounts_listener, filter, filter_with, redis, routes,
};
use super::plan::{App, Endpoint, Layout, Plan, Traditional};
use super::text::{Text, body, filename, once, pair, scalar, socket};

const INTERNAL_LISTENER: &str = include_str!("../../../../envoy/fragments/internal_listener.yaml");
const STATS: &str = include_str!("../../../../envoy/fragments/stats.yaml");
const HEADER_MUTATION: &str = include_str!("../../../../envoy/fragments/header_mutation.yaml");
const BRIDGE: &str = include_str!("../../../../envoy/fragments/bridge.yaml");
const PIPE: &str = include_str!("../../../../envoy/fragments/pipe.yaml");
const REDIS: &str = include_str!("../../../../envoy/fragments/redis.yaml");
const ACCESS_LOG: &str = include_str!("../../../../envoy/fragments/access_log.yaml");
const CONSOLE: &str = include_str!("../../../../envoy/console.yaml");

/// Parts of the fragments that the plan may replace.
const CONSOLE_WASM: &str = "filename: target/slotgate.wasm";
const CONSOLE_AT: &str = "address: 127.0.0.1, port_value: 9902";
const CONSOLE_REDIS: &str = "redis: {pipe_cluster: slotgate_pipe}";
const CONSOLE_PERCENT: &str = "gray: {percent: 100}";
const CONSOLE_POOLS: &str = "pools: [demo]";
const CONSOLE_CODE: &str = "# environment_variables: {host_env_keys: [SLOTGATE_CONSOLE_TOKEN]}";
const REDIS_AT: &str = "address: 127.0.0.1, port_value: 6379";
const REDIS_TIMEOUT: &str = "  connect_timeout: 1s\n";

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
    once(&mut all);
    all
}

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
    inner(&mut out, plan, clusters);
    if let Some(app) = &plan.app {
        out.line(0, "");
        out.line(2, "# The application.");
        out.line(2, "- name: app");
        if app.at.is_name() {
            out.line(2, "  type: STRICT_DNS");
        }
        breakers(&mut out, 4, app.limit, false);
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
    inner(&mut out, plan, clusters);
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
fn inner(out: &mut Text, plan: &Plan, clusters: &Clusters) {
    bridge(out, plan);
    if plan.chooses_for_each_try() {
        out.line(0, "");
        out.line(2, "# Sends each try of a request to its account's own cluster. Nobody but cluster slotgate_accounts reaches it.");
        out.put(2, &accounts_listener(clusters));
    }
    if let Some(at) = &plan.console {
        out.line(0, "");
        console(out, plan, at);
    }
    out.line(0, "");
    out.line(2, "clusters:");
    inner_clusters(out, plan);
    if plan.chooses_for_each_try() {
        out.line(0, "");
        out.line(2, "# To that listener. slotgate_upstream sees each try: it marks a refusal, and holds the next try until it has another account's");
        out.line(2, "# slot. Its vm_config must stay the very same as that of the filter slotgate: the two work together in one VM.");
        out.put(2, &accounts_cluster(plan));
    }
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
fn manager(out: &mut Text, plan: &Plan, name: &str, at: &Endpoint) {
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
    if plan.tries_others() {
        out.line(18, "# Only where it was more than one.");
        out.line(18, "tries: \"%FILTER_STATE(wasm.slotgate.tries:PLAIN)%\"");
    }
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
    manager(
        out,
        plan,
        if sidecar { "outbound" } else { "http" },
        &plan.listen,
    );
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
    manager(out, plan, "inbound", &app.listen);
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

#[cfg(test)]
mod tests {
    use super::super::filter::{
        ACCOUNTS_CLUSTER, ACCOUNTS_LISTENER, ACCOUNTS_ROUTE, CODE, CODEC, FILTER, HALF,
        NUM_RETRIES, RETRY_POLICY, ROUTED_BY, UPSTREAM, VALUE,
    };
    use super::*;

    /// Each text that is to be replaced is in its fragment.
    #[test]
    fn fragments_have_what_is_set() {
        for (fragment, parts) in [
            (BRIDGE, &[WASM][..]),
            (REDIS, &[REDIS_AT, REDIS_TIMEOUT]),
            (FILTER, &[CODE, VALUE, NAME, ROOT_ID]),
            (UPSTREAM, &[CODE]),
            (RETRY_POLICY, &[NUM_RETRIES]),
            (ACCOUNTS_LISTENER, &[ACCOUNTS_ROUTE]),
            (ACCOUNTS_CLUSTER, &[HALF, CODEC, "100000"]),
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
}
