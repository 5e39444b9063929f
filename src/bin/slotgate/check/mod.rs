//! `slotgate check`: every slotgate configuration in files, through the filter's own parser, and the Envoy around it.

mod breakers;
mod bridge;
mod documents;
mod endpoints;
mod failover;
mod finding;
mod ledger;
mod order;
mod pipe;
mod plugin;
mod pools;
mod report;
mod routes;
mod setup;

use crate::Answer;
use crate::problem::{Exit, Problem};
use crate::show::Lines;
use crate::words::count;
use documents::Document;
use finding::{Finding, Severity};
pub use ledger::{Difference, Ledger, Scheduler, differences};
use plugin::{Plugin, look_at};
use report::{Report, describe, document};
use serde_json::{Value, json};
use setup::{Setup, is_bootstrap, is_of_manager};
use slotgate::config::{Config, GrayMode, Role};

/// The part of a configuration that `slotgate bucket` uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gray {
    pub basis_points: u16,
    pub salt: String,
    pub mode: GrayMode,
}

/// The options of `slotgate check`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A variable that is not set here is an error.
    pub require_env: bool,
    /// A warning is an error.
    pub strict: bool,
}

/// A file's name and text.
pub type File = (String, String);

pub fn run(files: &[File], options: Options, ledger: Option<Ledger>) -> Result<Answer, Problem> {
    let mut reports = reports(files, options.require_env)?;
    if let Some(ledger) = ledger {
        beside_redis(ledger, &mut reports)?;
    }
    let mut out = Lines::default();
    let mut documents = Vec::new();
    let mut ok = true;
    for ((name, _), report) in files.iter().zip(&mut reports) {
        report.findings.dedup();
        let warnings = report.of(Severity::Warning).count();
        let fine = report.errors() == 0 && (warnings == 0 || !options.strict);
        ok &= fine;
        describe(&mut out, name, report);
        documents.push(document(name, report, fine));
    }
    let exit = if ok { Exit::Done } else { Exit::Wrong };
    let json = match documents.as_mut_slice() {
        [only] => only.take(),
        _ => json!({"ok": ok, "files": documents}),
    };
    Ok(Answer {
        text: out,
        json,
        exit,
    })
}

/// Compares the pools with what is in force.
fn beside_redis(ledger: Ledger, reports: &mut [Report]) -> Result<(), Problem> {
    let plugins = reports.iter().flat_map(|report| &report.plugins);
    let schedulers = ledger::schedulers(plugins.map(|(plugin, _)| plugin));
    for (file, difference) in ledger::compare(ledger, &schedulers)? {
        let Some(report) = reports.get_mut(file) else {
            continue;
        };
        if difference.is_kept_out() {
            report.findings.push(Finding::new(
                Severity::Error,
                file,
                difference.at.clone(),
                difference.text(),
            ));
        }
        report.pools.push(difference);
    }
    Ok(())
}

/// The schedulers of a file.
pub fn schedulers(file: &str, text: &str) -> Result<Vec<Scheduler>, Problem> {
    let plugins = plugins(file, text)?;
    let schedulers = ledger::schedulers(plugins.iter());
    if schedulers.is_empty() {
        return Err(Problem::new(
            Exit::Wrong,
            "configuration",
            format!("{file} has no scheduler without errors"),
        )
        .hint(format!("slotgate check {file}")));
    }
    Ok(schedulers)
}

/// A report on each file.
fn reports(files: &[File], require_env: bool) -> Result<Vec<Report>, Problem> {
    let documents = read(files)?;
    let mut reports: Vec<Report> = files.iter().map(|_| Report::default()).collect();
    for mut setup in setups(&documents) {
        let mut found = Vec::new();
        found.extend(setup.fragment.take());
        pipe::look(&setup, &mut found);
        order::look(&setup, &mut found);
        routes::look(&setup, &mut found);
        pools::look(&setup, &mut found);
        breakers::look(&setup, &mut found);
        endpoints::look(&setup, &mut found);
        failover::look(&setup, &mut found);
        for finding in found {
            if let Some(report) = reports.get_mut(finding.file) {
                report.findings.push(finding);
            }
        }
        for plugin in setup.plugins.drain(..) {
            let (verdict, _) = look_at(&plugin, require_env);
            if let Some(report) = reports.get_mut(plugin.file) {
                report.plugins.push((plugin, verdict));
            }
        }
    }
    Ok(reports)
}

/// All documents of all files; each file has something to do with slotgate.
fn read(files: &[File]) -> Result<Vec<Document>, Problem> {
    let mut all = Vec::new();
    for (place, (name, text)) in files.iter().enumerate() {
        all.extend(documents::read(place, name, text)?);
    }
    for (place, (name, _)) in files.iter().enumerate() {
        let own = || all.iter().filter(|document| document.file == place);
        let mut setup = Setup::default();
        own().for_each(|document| setup.add(document));
        // A part of Envoy's configuration goes with another file's.
        if !setup.plugins.is_empty() || setup.is_envoy() && files.len() > 1 {
            continue;
        }
        let of_envoy = setup.is_envoy()
            || own().any(|document| {
                is_bootstrap(&document.value)
                    || ["resources", "@type"]
                        .iter()
                        .any(|name| document.value.get(name).is_some())
            });
        let problem =
            |what: &str| Problem::new(Exit::Wrong, "configuration", format!("{name} {what}"));
        if of_envoy {
            return Err(problem("is a configuration of Envoy without a slotgate filter")
                .hint("slotgate is a filter of type envoy.extensions.filters.http.wasm.v3.Wasm whose configuration has a role"));
        }
        if own().count() > 1 || !own().all(|document| may_be_alone(&document.value)) {
            return Err(problem("has nothing of slotgate in it")
                .hint("a configuration of Envoy with a slotgate filter, or the filter's own, which has a role"));
        }
    }
    Ok(all)
}

/// Whether a document may be meant as a plugin's own configuration: the filter's parser says what is wrong with it.
fn may_be_alone(value: &Value) -> bool {
    const OURS: [&str; 9] = [
        "role",
        "redis",
        "gray",
        "pools",
        "lease",
        "score",
        "affinity",
        "cooldown",
        "token_env",
    ];
    match value {
        Value::Object(map) => map.is_empty() || OURS.iter().any(|name| map.contains_key(*name)),
        Value::Array(values) => !values.iter().any(Value::is_object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// Each bootstrap is an Envoy of its own; all that is none belongs together.
fn setups(documents: &[Document]) -> Vec<Setup<'_>> {
    let mut all = Vec::new();
    let mut parts = Setup::default();
    // The second parts of fragments.
    let mut taken = Vec::new();
    for document in documents {
        if is_bootstrap(&document.value) {
            let mut setup = Setup::default();
            setup.add(document);
            let beside = |other: &&Document| other.file == document.file && is_of_manager(other);
            if setup.has_only_inner_managers()
                && let Some(of_manager) = documents.iter().find(beside)
            {
                setup.add_of_manager(of_manager);
                taken.push((of_manager.file, of_manager.at.as_str()));
            }
            all.push(setup);
        } else if !taken.contains(&(document.file, document.at.as_str())) {
            let before = parts.plugins.len();
            parts.add(document);
            let alone = parts.plugins.len() == before
                && may_be_alone(&document.value)
                && !document.is_kubernetes()
                && document.at.is_empty()
                && !document.value.as_object().is_some_and(|map| {
                    ["clusters", "listeners", "filters"]
                        .iter()
                        .any(|name| map.contains_key(*name))
                });
            if alone {
                let plugin = Plugin::alone(document.file, &document.value);
                parts.plugins.push(plugin);
            }
        }
    }
    all.push(parts);
    all
}

/// `gray` of the file's scheduler.
pub fn gray(file: &str, text: &str) -> Result<Gray, Problem> {
    let of = |config: &Config| Gray {
        basis_points: config.gray.basis_points,
        salt: config.gray.salt.clone(),
        mode: config.gray.mode,
    };
    one(file, text, &of, "gray")
}

/// `score.random` of the file's scheduler.
pub fn random_weight(file: &str, text: &str) -> Result<f64, Problem> {
    one(file, text, &|config| config.score.random, "score.random")
}

/// All plugins of a file.
fn plugins(file: &str, text: &str) -> Result<Vec<Plugin>, Problem> {
    let documents = read(&[(file.to_owned(), text.to_owned())])?;
    let setups = setups(&documents);
    Ok(setups.into_iter().flat_map(|setup| setup.plugins).collect())
}

/// The value on which all schedulers of a file agree; a problem if they do not.
fn one<T: PartialEq>(
    file: &str,
    text: &str,
    of: &dyn Fn(&Config) -> T,
    what: &str,
) -> Result<T, Problem> {
    let mut found: Option<T> = None;
    for plugin in plugins(file, text)? {
        let (verdict, role) = look_at(&plugin, false);
        match role {
            Some(Role::Scheduler(config)) => {
                let this = of(&config);
                if found.as_ref().is_some_and(|other| *other != this) {
                    return Err(Problem::usage(format!(
                        "{file} has schedulers with different {what}"
                    ))
                    .hint("a file with the one that is meant"));
                }
                found = Some(this);
            }
            Some(Role::Bridge | Role::Upstream | Role::Console(_)) => {}
            None => {
                return Err(Problem::new(
                    Exit::Wrong,
                    "configuration",
                    format!("{file} has {}", count(verdict.errors.len() as u64, "error")),
                )
                .hint(format!("slotgate check {file}")));
            }
        }
    }
    found.ok_or_else(|| {
        Problem::new(
            Exit::Wrong,
            "configuration",
            format!("{file} has no scheduler"),
        )
        .hint("the file with the HTTP filter's configuration")
    })
}
