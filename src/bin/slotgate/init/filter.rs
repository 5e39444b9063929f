//! The filter, its configuration, and the routes for requests with an account and without.

use super::clusters::{Clusters, key_from_environment};
use super::plan::{Account, Layout, Plan, Traditional};
use super::text::{Text, body, double, filename, once, scalar};
use std::collections::BTreeSet;

/// The header that says which cluster; only slotgate may set it.
pub const ROUTED_BY: &str = "x-upstream";

pub const FILTER: &str = include_str!("../../../../envoy/fragments/filter.yaml");
pub const UPSTREAM: &str = include_str!("../../../../envoy/fragments/upstream.yaml");
pub const RETRY_POLICY: &str = include_str!("../../../../envoy/fragments/retry_policy.yaml");
pub const ACCOUNTS_LISTENER: &str =
    include_str!("../../../../envoy/fragments/accounts_listener.yaml");
pub const ACCOUNTS_CLUSTER: &str =
    include_str!("../../../../envoy/fragments/accounts_cluster.yaml");

/// Parts of the fragments that the plan may replace.
pub const ACCOUNTS_ROUTE: &str = "              route: {cluster_header: x-upstream, timeout: 0s}\n";
pub const HALF: &str = "      - name: slotgate_upstream\n";
pub const CODEC: &str = "      - name: envoy.filters.http.upstream_codec\n";
pub const WASM: &str = "filename: /etc/envoy/slotgate.wasm";
pub const VALUE: &str = "        value:\n";
pub const NAME: &str = "name: slotgate\n";
pub const ROOT_ID: &str = "root_id: slotgate\n";
pub const NUM_RETRIES: &str = "num_retries: 2\n";
pub const CODE: &str = "        code: {local: {filename: /etc/envoy/slotgate.wasm}}\n";

pub fn filter(out: &mut Text, at: usize, plan: &Plan, clusters: &Clusters) {
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
    let key_of_others = key_of_others(plan);
    if let Some(variable) = key_of_others {
        value.line(
            0,
            "# Requests without a slot (not in the percentage, or Redis is away) have a key of their own.",
        );
        let header = key_header(plan, variable);
        value.line(0, &format!("traditional: {{set_headers: {{{header}}}}}"));
    }
    value.line(
        0,
        "# Clients are told the way and the account (x-slotgate-path, x-slotgate-account). May go.",
    );
    value.line(0, "response_headers: true");
    value.line(0, "access_log: true");
    if plan.tries_others() {
        value.line(
            0,
            "# A request that an account refuses (429, 503, 529) tries others: this many accounts in all. 1: none.",
        );
        value.line(0, &format!("failover: {{max_attempts: {}}}", plan.attempts));
    }
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
    out.put(at, &filter_with(plan, &variables(plan), &value.0));
}

/// The variables that the filter's VM sees.
fn variables(plan: &Plan) -> Vec<String> {
    let mut variables: Vec<String> = Vec::new();
    if plan.layout != Layout::Sidecar {
        let accounts = plan.pools.iter().flat_map(|pool| &pool.accounts);
        variables.extend(accounts.filter_map(|account| account.key_env.clone()));
    }
    variables.extend(key_of_others(plan).map(str::to_owned));
    variables.extend(plan.redis.password_env.clone());
    once(&mut variables);
    variables
}

/// What sees each try of a request, in the filter's VM.
pub fn upstream(plan: &Plan) -> String {
    body(UPSTREAM).replace(CODE, &code(plan, &variables(plan)))
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
        headers.push_str(&format!(", {}", key_header(plan, variable)));
    }
    format!(
        "{{id: {}, max_concurrency: {}, {}set_headers: {{{headers}}}}}",
        scalar(&account.id),
        account.limit,
        priority.unwrap_or_default(),
    )
}

/// The variable of the key that slotgate puts on requests without a slot: in a sidecar it has no key.
fn key_of_others(plan: &Plan) -> Option<&str> {
    match &plan.traditional {
        Traditional::To { key_env, .. } if plan.layout != Layout::Sidecar => key_env.as_deref(),
        Traditional::To { .. } | Traditional::Own | Traditional::Reject => None,
    }
}

/// A key's header, as an element of `set_headers`.
fn key_header(plan: &Plan, variable: &str) -> String {
    let value = double(&format!("{}${{{variable}}}", plan.key.prefix));
    format!("{}: {value}", scalar(&plan.key.header))
}

/// The filter's fragment with another configuration.
pub fn filter_with(plan: &Plan, variables: &[String], value: &str) -> String {
    let (before, _) = body(FILTER).split_once(VALUE).unwrap_or((FILTER, ""));
    let code = code(plan, variables);
    let mut out = Text(format!("{}{VALUE}", before.replace(CODE, &code)));
    out.put(10, value);
    out.0
}

/// The end of `vm_config`.
fn code(plan: &Plan, variables: &[String]) -> String {
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
    code
}

pub fn routes(out: &mut Text, at: usize, plan: &Plan, clusters: &Clusters) {
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
    let action = if plan.chooses_for_each_try() {
        "cluster: slotgate_accounts, timeout: 0s".to_owned()
    } else {
        format!(
            "cluster_header: {ROUTED_BY}, timeout: 0s{}",
            rewrite(all_made)
        )
    };
    if plan.tries_others() {
        out.line(at, "  # How much of a body is kept, to be sent again: of a larger one the client gets the refusal. Up to 1.37 Envoy counts a");
        out.line(at, "  # body twice.");
        out.line(at, "  request_body_buffer_limit: 33554432");
        out.line(at, "  route:");
        for part in action.split(", ") {
            out.line(at, &format!("    {part}"));
        }
        out.line(at, "    # slotgate marks a refusal; by its mark, and where nothing could be sent, Envoy tries again.");
        out.line(at, "    retry_policy:");
        let retries = plan.attempts.saturating_sub(1);
        let retries = format!("num_retries: {retries}\n");
        let text = body(RETRY_POLICY).replace(NUM_RETRIES, &retries);
        out.put(at.saturating_add(6), &text);
    } else {
        out.line(at, &format!("  route: {{{action}}}"));
    }
    if !plan.chooses_for_each_try() {
        not_for_upstreams(out, at.saturating_add(2));
    }
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
            let by_slotgate = key_of_others(plan).is_some();
            if let Some(variable) = key_env.as_ref().filter(|_| !by_slotgate) {
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

/// Takes the account off the headers.
fn not_for_upstreams(out: &mut Text, at: usize) {
    out.line(
        at,
        "# The upstream need not learn which account of how many this is.",
    );
    out.line(at, &format!("request_headers_to_remove: [{ROUTED_BY}, x-slotgate-account, x-slotgate-lease, x-slotgate-path]"));
}

/// The listener that sends each try to its account's cluster.
pub fn accounts_listener(clusters: &Clusters) -> String {
    let names: BTreeSet<&String> = clusters.made.iter().map(|made| &made.name).collect();
    // A cluster that the operator has may know no host's name.
    let all_made = clusters
        .of_account
        .values()
        .all(|name| names.contains(name));
    let mut with = String::from(ACCOUNTS_ROUTE);
    if all_made {
        with = with.replace("timeout: 0s", "timeout: 0s, auto_host_rewrite: true");
    }
    let mut removed = Text::default();
    not_for_upstreams(&mut removed, 14);
    with.push_str(&removed.0);
    body(ACCOUNTS_LISTENER).replace(ACCOUNTS_ROUTE, &with)
}

/// The cluster that leads there, past what sees each try.
pub fn accounts_cluster(plan: &Plan) -> String {
    let accounts = plan.pools.iter().flat_map(|pool| &pool.accounts);
    let slots = accounts.fold(0, |all: u64, account| all.saturating_add(account.limit));
    let most = slots.max(100_000).to_string();
    let text = body(ACCOUNTS_CLUSTER).replace("100000", &most);
    let parts = text.split_once(HALF);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(CODEC)?.1)));
    let Some((before, after)) = parts else {
        return text;
    };
    let mut out = Text(before.to_owned());
    out.put(6, &upstream(plan));
    out.0.push_str(CODEC);
    out.0.push_str(after);
    out.0
}

pub fn redis(plan: &Plan) -> String {
    let mut text = "{pipe_cluster: slotgate_pipe".to_owned();
    if let Some(username) = &plan.redis.username {
        text.push_str(&format!(", username: {}", scalar(username)));
    }
    if let Some(variable) = &plan.redis.password_env {
        text.push_str(&format!(", password_env: {variable}"));
    }
    text + "}"
}
