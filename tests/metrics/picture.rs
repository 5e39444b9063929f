//! Draws the dashboard's panels from what Prometheus answers, as an SVG.

use std::fmt::Write;

use serde_json::Value;

use crate::prometheus::Series;

const COLUMNS: usize = 3;
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 210.0;
/// The plot within its panel: left, top, width, height.
const PLOT: [f64; 4] = [48.0, 34.0, 340.0, 118.0];
const COLOURS: [&str; 8] = [
    "#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#0a9396", "#b58900", "#7a7a7a",
];

/// A legend as Grafana fills it in.
fn legend(format: &str, labels: &Value) -> String {
    let mut text = format.to_owned();
    for (name, value) in labels.as_object().into_iter().flatten() {
        text = text.replace(
            &format!("{{{{{name}}}}}"),
            value.as_str().unwrap_or_default(),
        );
    }
    text.replace(": {{reason}}", "")
}

/// A number with its unit.
fn label(value: f64, unit: &str) -> String {
    let (value, unit) = match unit {
        "µs" if value >= 1000.0 => (value / 1000.0, " ms"),
        "µs" => (value, " µs"),
        "percent" => (value, " %"),
        "percentunit" => (value * 100.0, " %"),
        _ => (value, ""),
    };
    format!("{}{unit}", (value * 100.0).round() / 100.0)
}

/// A round number not below it.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    let step = steps.iter().find(|step| *step * power >= value * 0.999);
    step.unwrap_or(&10.0) * power
}

/// `range`: from and to, in s.
pub fn draw(panels: &[Value], range: (f64, f64), ask: impl Fn(&Value) -> Vec<Series>) -> String {
    let rows = panels.len().div_ceil(COLUMNS) as f64;
    let (width, height) = (WIDTH * COLUMNS as f64, HEIGHT * rows + 30.0);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10" fill="#333">
<rect width="100%" height="100%" fill="#fff"/>
<text x="10" y="20" font-size="14">The dashboard's queries on a real run: two Envoys, one Redis, drawn from what Prometheus answered (not Grafana)</text>
"##
    );
    for (index, panel) in panels.iter().enumerate() {
        let x = WIDTH * (index % COLUMNS) as f64;
        let y = 30.0 + HEIGHT * (index / COLUMNS) as f64;
        let _ = write!(svg, r#"<g transform="translate({x} {y})">"#);
        let targets = panel["targets"].as_array().into_iter().flatten();
        let lines = targets.flat_map(|target| {
            let format = target["legendFormat"].as_str().unwrap_or_default();
            let named = |series: Series| (legend(format, &series.labels), series.points);
            ask(target).into_iter().map(named).collect::<Vec<_>>()
        });
        self::panel(&mut svg, panel, range, &lines.collect::<Vec<_>>());
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

fn panel(
    svg: &mut String,
    panel: &Value,
    (from, to): (f64, f64),
    lines: &[(String, Vec<(f64, f64)>)],
) {
    let [left, top, width, height] = PLOT;
    let defaults = &panel["fieldConfig"]["defaults"];
    let unit = defaults["unit"].as_str().unwrap_or_default();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let finite = || {
        points()
            .map(|(_, value)| *value)
            .filter(|value| value.is_finite())
    };
    let most = finite().fold(defaults["max"].as_f64().unwrap_or(0.0), f64::max);
    let most = if most > 0.0 { round_up(most) } else { 1.0 };
    let span = to - from;
    let title = panel["title"].as_str().unwrap_or_default();
    let _ = write!(
        svg,
        r##"<rect x="5" y="4" width="{}" height="{}" fill="none" stroke="#ddd"/><text x="12" y="22" font-size="12" font-weight="bold">{title}</text>"##,
        WIDTH - 10.0,
        HEIGHT - 8.0
    );
    for part in [0.0, 0.5, 1.0] {
        let y = top + height * (1.0 - part);
        let _ = write!(
            svg,
            r##"<path d="M{left} {y}h{width}" stroke="#e4e4e4"/><text x="{}" y="{}" text-anchor="end">{}</text>"##,
            left - 4.0,
            y + 3.0,
            label(most * part, unit)
        );
    }
    if lines.is_empty() {
        let _ = write!(svg, r##"<text x="200" y="95" fill="#999">nothing</text>"##);
    }
    // One at the very end would stand outside.
    for seconds in (0..(span as u32).saturating_sub(10)).step_by(60) {
        let x = left + width * f64::from(seconds) / span;
        let _ = write!(
            svg,
            r#"<text x="{x:.0}" y="164">{} min</text>"#,
            seconds / 60
        );
    }
    let (mut x, mut y) = (left, 180.0);
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let mut path = String::new();
        let mut before = f64::NEG_INFINITY;
        for (time, value) in points.iter().filter(|(_, value)| value.is_finite()) {
            let step = if time - before > 1.5 { 'M' } else { 'L' };
            before = *time;
            let (at, up) = ((time - from) / span, value / most);
            let _ = write!(
                path,
                "{step}{:.0} {:.1}",
                left + width * at,
                top + height * (1.0 - up)
            );
        }
        let needed = 16.0 + 5.6 * name.chars().count() as f64;
        if x + needed > WIDTH - 8.0 {
            (x, y) = (left, y + 12.0);
        }
        let _ = write!(
            svg,
            r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/><rect x="{x:.0}" y="{}" width="8" height="3" fill="{colour}"/><text x="{:.0}" y="{y}">{name}</text>"#,
            y - 5.0,
            x + 11.0
        );
        x += needed;
    }
}
