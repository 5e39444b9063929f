//! Metrics, how many series they make, and alerts.

use super::{Document, Names, all_shown, documents, none, read, texts};

/// Names of `slotgate_…` as Prometheus knows them. Those that `host::metrics` writes itself are read from its text, there with or
/// without what `account` puts before; `tests/e2e/metrics.rs` compares with what a real Envoy says.
fn metrics() -> (Names, Vec<[String; 2]>) {
    use slotgate::worker::{counters, output::Gauges};
    let gauges = Gauges::NAMES.map(|name| counters::name_of(&[name]));
    let all = counters::worker_names()
        .into_iter()
        .chain(counters::pool_names("p"))
        .chain(gauges);
    let name = |name: &str| name.split(';').next().unwrap().replace('.', "_");
    let host = texts(&["src/host"]).into_iter().flat_map(|(_, text)| {
        let kinds = text.split("Metric::").skip(1).filter_map(|rest| {
            let (kind, rest) = rest.split_once(", \"")?;
            kind.chars()
                .all(char::is_alphabetic)
                .then(|| rest.split('"').next().map(str::to_owned))?
        });
        kinds
            .map(|found| {
                ["slotgate_", "slotgate_account_"].map(|prefix| prefix.to_owned() + &name(&found))
            })
            .collect::<Vec<_>>()
    });
    (all.map(|found| name(&found)).collect(), host.collect())
}

#[test]
fn metrics_are_those_of_the_table() {
    let (own, of_host) = metrics();
    assert!(of_host.len() >= 6, "{of_host:?}");
    let shown: Names = documents()
        .iter()
        .flat_map(|document| {
            document
                .spans()
                .map(|(_, span)| span.to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let table: Names = read("docs/observability.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `slotgate_")?.split_once('`')?.0))
        .map(|name| format!("slotgate_{name}"))
        .collect();
    all_shown("metric", &own, &table);
    let hidden = of_host
        .iter()
        .filter(|names| !names.iter().any(|name| table.contains(name)));
    none(
        &hidden
            .map(|names| {
                format!(
                    "metric {} is not in docs/observability.md",
                    names.join(" or ")
                )
            })
            .collect::<Vec<_>>(),
    );
    // Other names of this form are clusters, error types and the like.
    let code: String = texts(&["src", "envoy"])
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    let label = |name: &str| {
        own.iter()
            .any(|own| name.starts_with(&format!("{own}_outcome_")))
    };
    let exists = |name: &str| {
        own.contains(name) || label(name) || of_host.iter().flatten().any(|known| known == name)
    };
    let of_table = table.iter().filter(|name| !exists(name));
    let elsewhere = shown.iter().filter(|span| {
        let is_name = span.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_name && span.starts_with("slotgate_") && !exists(span) && !code.contains(span.as_str())
    });
    none(
        &of_table
            .chain(elsewhere)
            .map(|name| format!("{name}: there is no such metric, and nothing else of that name"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn alerts_are_those_of_the_runbook() {
    let alerts = read("envoy/alerts.yaml");
    let alerts: Names = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(str::to_owned)
        .collect();
    let operations = Document::read("docs/operations.md".into());
    let (mut found, mut shown) = (vec![], Names::new());
    for document in documents().iter().chain([&operations]) {
        for (number, span) in document.spans() {
            if span.starts_with("Slotgate") && span.chars().all(char::is_alphanumeric) {
                if !alerts.contains(span) {
                    found.push(format!(
                        "{}: {span}: there is no such alert",
                        document.at(number)
                    ));
                }
                if document.name == operations.name {
                    shown.insert(span.to_owned());
                }
            }
        }
    }
    none(&found);
    all_shown("alert", &alerts, &shown);
}

/// Each alert says where the runbook has it. That the heading is there, `links_lead_somewhere` knows.
#[test]
fn each_alert_names_its_heading_of_the_runbook() {
    let text = read("envoy/alerts.yaml");
    let rules: Vec<&str> = text.split("\n  - ").skip(1).collect();
    let found = rules.iter().filter_map(|rule| {
        let name = rule.strip_prefix("alert: ")?.lines().next()?;
        let (file, heading) = ("operations.md", name.to_lowercase());
        let wanted = format!(
            "      runbook_url: '{{{{ $externalLabels.slotgate_repository }}}}docs/{file}#{heading}'"
        );
        (!rule.lines().any(|line| line == wanted)).then(|| format!("{name}: not said: {wanted}"))
    });
    none(&found.collect::<Vec<_>>());
    assert!(rules.len() > 20, "{}", rules.len());
}
