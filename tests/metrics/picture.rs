//! Draws the dashboard's rows and panels from what Prometheus answers, as an SVG, each where Grafana has it.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use crate::prometheus::Series;

/// A unit of Grafana's grid, of which there are 24 side by side.
const UNIT: [f64; 2] = [50.0, 26.25];
/// The plot within its panel: left, top, height, and how much narrower it is.
const PLOT: [f64; 4] = [48.0, 34.0, 118.0, 60.0];
const COLOURS: [&str; 8] = [
    "#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#0a9396", "#b58900", "#7a7a7a",
];

/// Its name, and its points: time in s and value.
type Line = (String, Vec<(f64, f64)>);

/// Left, top, width and height of a panel.
fn place(panel: &Value) -> [f64; 4] {
    let of = |name: &str| panel["gridPos"][name].as_f64().expect("a place");
    [
        of("x") * UNIT[0],
        of("y") * UNIT[1],
        of("w") * UNIT[0],
        of("h") * UNIT[1],
    ]
}

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
    let bottom = |panel: &Value| {
        let [_, y, _, height] = place(panel);
        y + height
    };
    let width = UNIT[0] * 24.0;
    let height = panels.iter().map(bottom).fold(0.0, f64::max) + 30.0;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10" fill="#333">
<rect width="100%" height="100%" fill="#fff"/>
<text x="10" y="20" font-size="14">The dashboard's queries on a real run: two Envoys, one Redis, drawn from what Prometheus answered (not Grafana)</text>
"##
    );
    for panel in panels {
        let [x, y, width, height] = place(panel);
        let _ = write!(svg, r#"<g transform="translate({x} {})">"#, y + 30.0);
        if panel["type"] == "row" {
            let title = panel["title"].as_str().unwrap_or_default();
            let _ = writeln!(
                svg,
                r##"<rect x="5" y="3" width="{}" height="{}" fill="#eee"/><text x="12" y="18" font-size="13" font-weight="bold">{title}</text></g>"##,
                width - 10.0,
                height - 5.0
            );
            continue;
        }
        let targets = panel["targets"].as_array().into_iter().flatten();
        let lines = targets.flat_map(|target| {
            let format = target["legendFormat"].as_str().unwrap_or_default();
            let named = |series: Series| (legend(format, &series.labels), series.points);
            ask(target).into_iter().map(named).collect::<Vec<_>>()
        });
        let lines: Vec<Line> = lines.collect();
        frame(&mut svg, panel, range, lines.is_empty());
        match panel["type"].as_str() {
            Some("state-timeline") => timeline(&mut svg, panel, range, &lines),
            _ => graph(&mut svg, panel, range, &lines),
        }
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

/// Its title, and the minutes below it.
fn frame(svg: &mut String, panel: &Value, (from, to): (f64, f64), empty: bool) {
    let [left, _, _, narrower] = PLOT;
    let [_, _, width, height] = place(panel);
    let title = panel["title"].as_str().unwrap_or_default();
    let _ = write!(
        svg,
        r##"<rect x="5" y="4" width="{}" height="{}" fill="none" stroke="#ddd"/><text x="12" y="22" font-size="12" font-weight="bold">{title}</text>"##,
        width - 10.0,
        height - 8.0
    );
    if empty {
        let _ = write!(
            svg,
            r##"<text x="{}" y="95" fill="#999">nothing</text>"##,
            width / 2.0
        );
    }
    let span = to - from;
    // One at the very end would stand outside.
    for seconds in (0..(span as u32).saturating_sub(10)).step_by(60) {
        let x = left + (width - narrower) * f64::from(seconds) / span;
        let _ = write!(
            svg,
            r#"<text x="{x:.0}" y="164">{} min</text>"#,
            seconds / 60
        );
    }
}

/// One bar for each line, in the colours that the panel gives its values.
fn timeline(svg: &mut String, panel: &Value, (from, to): (f64, f64), lines: &[Line]) {
    let [left, top, height, narrower] = PLOT;
    let width = place(panel)[2] - narrower;
    let mappings = &panel["fieldConfig"]["defaults"]["mappings"][0]["options"];
    let mut seen = BTreeSet::new();
    let each = height / lines.len().max(1) as f64;
    for (index, (name, points)) in lines.iter().enumerate() {
        let y = top + each * index as f64;
        let bar = (each * 0.7).min(26.0);
        for same in points.chunk_by(|one, next| one.1 == next.1 && next.0 - one.0 < 1.5) {
            let (Some(first), Some(last)) = (same.first(), same.last()) else {
                continue;
            };
            let value = first.1 as u32;
            seen.insert(value);
            let at = |time: f64| left + width * (time - from) / (to - from);
            let colour = &mappings[value.to_string()]["color"];
            let _ = write!(
                svg,
                r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{bar:.1}" fill="{}"/>"#,
                at(first.0),
                y + 10.0,
                at((last.0 + 1.0).min(to)) - at(first.0),
                colour.as_str().unwrap_or("#000")
            );
        }
        let _ = write!(svg, r#"<text x="{left}" y="{:.1}">{name}</text>"#, y + 8.0);
    }
    let state = |value: u32| {
        let text = |of: &str| mappings[value.to_string()][of].as_str().unwrap_or_default();
        (text("text").to_owned(), text("color").to_owned())
    };
    keys(svg, place(panel)[2], seen.into_iter().map(state));
}

/// What each colour means, below the plot.
fn keys(svg: &mut String, width: f64, keys: impl Iterator<Item = (String, String)>) {
    let left = PLOT[0];
    let (mut x, mut y) = (left, 175.0);
    for (name, colour) in keys {
        let needed = 16.0 + 5.6 * name.chars().count() as f64;
        if x + needed > width - 8.0 {
            (x, y) = (left, y + 10.0);
        }
        let _ = write!(
            svg,
            r#"<rect x="{x:.0}" y="{}" width="8" height="3" fill="{colour}"/><text x="{:.0}" y="{y}">{name}</text>"#,
            y - 5.0,
            x + 11.0
        );
        x += needed;
    }
}

fn graph(svg: &mut String, panel: &Value, (from, to): (f64, f64), lines: &[Line]) {
    let [left, top, height, narrower] = PLOT;
    let width = place(panel)[2] - narrower;
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
    for ((_, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
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
        let _ = write!(
            svg,
            r#"<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>"#
        );
    }
    let names = lines.iter().map(|(name, _)| name.clone());
    let colours = COLOURS.iter().cycle().map(|colour| (*colour).to_owned());
    keys(svg, place(panel)[2], names.zip(colours));
}
