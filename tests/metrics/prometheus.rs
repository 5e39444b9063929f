use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use support::*;

/// From `make setup`, or on PATH.
pub fn program(name: &str) -> PathBuf {
    let own = root().join(".venv/prometheus/usr/bin").join(name);
    if own.exists() { own } else { name.into() }
}

/// A real Prometheus with `envoy/prometheus.yaml` and `envoy/alerts.yaml`, but for the targets and the intervals, which
/// are 1 s.
pub struct Prometheus {
    _process: Process,
    client: Client,
    _dir: Dir,
}

/// One line of a graph.
pub struct Series {
    pub labels: Value,
    /// Time in s and value.
    pub points: Vec<(f64, f64)>,
}

/// A target's query as Grafana would send it, all Envoys and all pools chosen; `$__rate_interval` is four times the scrape interval, and
/// longer here, for the sake of histograms, which Envoy brings up to date every 5 s.
pub fn query_of(target: &Value) -> String {
    let expr = target["expr"].as_str().expect("a query");
    let expr = expr
        .replace("$__rate_interval", "10s")
        .replace("$instance", ".*")
        .replace("$pool", ".*");
    assert!(!expr.contains('$'), "another variable: {expr}");
    expr
}

impl Prometheus {
    pub fn start(envoys: &[&Envoy]) -> Prometheus {
        let dir = Dir::temporary();
        let text = std::fs::read_to_string(root().join("envoy/prometheus.yaml"));
        let mut config: serde_yaml_ng::Value =
            serde_yaml_ng::from_str(&text.expect("the file")).expect("YAML");
        let targets: Vec<String> = envoys
            .iter()
            .map(|one| one.admin_addr().to_string())
            .collect();
        config["scrape_configs"][0]["static_configs"][0]["targets"] =
            serde_yaml_ng::to_value(targets).expect("a list");
        for interval in ["scrape_interval", "evaluation_interval"] {
            config["global"][interval] = "1s".into();
        }
        let write = |name: &str, text: String| {
            std::fs::write(dir.join(name), text).expect("a file");
        };
        write(
            "prometheus.yaml",
            serde_yaml_ng::to_string(&config).expect("YAML"),
        );
        let alerts = root().join("envoy/alerts.yaml");
        write(
            "alerts.yaml",
            std::fs::read_to_string(alerts).expect("the file"),
        );
        let port = Port::free();
        let mut command = Command::new(program("prometheus"));
        command.args([
            format!("--config.file={}", dir.join("prometheus.yaml").display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            format!("--web.listen-address={}", port.addr()),
        ]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::start(command);
        let client = Client::new(port.addr());
        let ready = || {
            assert!(process.exited().is_none(), "Prometheus ended at once");
            let reply = client.send(Request::get("/-/ready"));
            reply.is_ok_and(|reply| reply.status == 200)
        };
        eventually(PATIENCE, ready);
        Prometheus {
            _process: process,
            client,
            _dir: dir,
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let reply = self.client.get(path, &[]).json();
        assert_eq!(reply["status"], "success", "{path}: {reply}");
        reply
    }

    /// The one value of an instant query.
    #[track_caller]
    pub fn value(&self, expr: &str) -> Option<f64> {
        let reply = self.get(&format!("/api/v1/query?query={}", encoded(expr)));
        let results = reply["data"]["result"].as_array().expect("results");
        assert!(results.len() < 2, "{expr}: {results:?}");
        number(&results.first()?["value"][1])
    }

    /// A query over a range, in s, a point each second.
    #[track_caller]
    pub fn range(&self, expr: &str, (from, to): (f64, f64)) -> Vec<Series> {
        let query = encoded(expr);
        let path = format!("/api/v1/query_range?query={query}&start={from}&end={to}&step=1");
        let reply = self.get(&path);
        let results = reply["data"]["result"].as_array().expect("results");
        let series = results.iter().map(|result| Series {
            labels: result["metric"].clone(),
            points: result["values"]
                .as_array()
                .expect("values")
                .iter()
                .filter_map(|point| Some((point[0].as_f64()?, number(&point[1])?)))
                .collect(),
        });
        series.collect()
    }
}

fn number(text: &Value) -> Option<f64> {
    text.as_str()?.parse().ok()
}

fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
