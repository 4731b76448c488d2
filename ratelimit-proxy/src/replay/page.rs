//! The report as a page: one file, nothing from elsewhere, no script.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::prelude::*;

use super::report::{LimitReport, Report, Steps};

const STYLE: &str = "
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --dim: color-mix(in srgb, currentColor 62%, transparent); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
p.sub { color: var(--dim); margin: .25rem 0 1.5rem; }
dl { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0; }
dl div { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1rem; min-width: 7rem; }
dt { color: var(--dim); font-size: .85rem; } dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
dd small { color: var(--dim); font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--dim); font-weight: 500; font-size: .85rem; } .n { text-align: right; white-space: nowrap; }
figure { margin: 0; overflow-x: auto; } svg { width: 100%; height: auto; min-width: 30rem; } svg text { fill: currentColor; opacity: .75; } svg line, svg polyline { stroke: currentColor; }
figcaption { color: var(--dim); font-size: .85rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: .15em; margin: 0 .35em 0 1em; vertical-align: baseline; }
code { font-size: .93em; } ul { padding-left: 1.2rem; }
";

const ALLOWED: RGBColor = RGBColor(94, 139, 180);
const DENIED: RGBColor = RGBColor(214, 84, 62);

/// The page.
pub(crate) fn page(report: &Report) -> String {
    let share = |part: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a tenth of a percent")]
        let percent = 100.0 * part as f64 / report.requests.max(1) as f64;
        format!("{percent:.1} %")
    };
    let numbers = [
        ("allowed", report.allowed, true),
        ("denied", report.denied, true),
        ("too costly", report.too_costly, false),
        ("malformed", report.refused, false),
        ("exempt", report.exempt, false),
        ("met no limit", report.unlimited, false),
    ];
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "What the limits would have said" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "What the limits would have said" }
                p.sub {
                    (grouped(report.requests)) " recorded requests"
                    @if let (Some(from), Some(to)) = (report.from, report.to) { ", " (from) " to " (to) }
                }
                dl {
                    @for (what, count, always) in numbers {
                        @if always || count > 0 {
                            div { dt { (what) } dd { (grouped(count)) " " small { (share(count)) } } }
                        }
                    }
                }
                h2 { "Over time" }
                (over_time(&report.series))
                h2 { "By limit" }
                (limits(&report.limits))
                @if report.limits.iter().any(|limit| !limit.top.is_empty()) {
                    h2 { "Keys denied most, and what they would need" }
                    (keys(&report.limits))
                }
                @if !report.notes.is_empty() {
                    h2 { "Before you believe it" }
                    ul { @for note in &report.notes { li { (note) } } }
                }
            }
        }
    };
    markup.into_string()
}

/// `1 000 000`.
fn grouped(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let first = digits.len() % 3;
    let space = |at: usize| if at > 0 && at % 3 == first { "\u{202f}" } else { "" };
    digits.chars().enumerate().flat_map(|(at, digit)| space(at).chars().chain([digit])).collect()
}

fn limits(limits: &[LimitReport]) -> Markup {
    html! {
        table {
            thead { tr {
                th { "limit" } th { "quota" } th.n { "matched" } th.n { "denied" } th.n { "keys" } th.n { "keys denied" }
            } }
            tbody { @for limit in limits {
                tr {
                    td { code { (limit.limit) } @if limit.mode != crate::policy::RuleMode::Enforce { " (" (word(limit)) ")" } }
                    td { (limit.quota) }
                    td.n { (grouped(limit.matched)) } td.n { (grouped(limit.no())) }
                    td.n { (grouped(limit.keys)) } td.n { (grouped(limit.keys_denied)) }
                }
            } }
        }
    }
}

fn word(limit: &LimitReport) -> &'static str {
    if limit.mode == crate::policy::RuleMode::Shadow { "shadow" } else { "off" }
}

fn keys(limits: &[LimitReport]) -> Markup {
    html! {
        table {
            thead { tr { th { "limit" } th { "key" } th { "would need" } th.n { "requests" } th.n { "denied" } } }
            tbody { @for limit in limits { @for key in &limit.top {
                tr {
                    td { code { (limit.limit) } } td { code { (key.key) } } td { (key.needs) }
                    td.n { (grouped(key.requests)) } td.n { (grouped(key.denied)) }
                }
            } } }
        }
    }
}

fn over_time(series: &Steps) -> Markup {
    let step = match series.seconds {
        1 => "second".to_owned(),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    };
    html! {
        @match plot(series) {
            Ok(svg) if !series.steps.is_empty() => figure {
                (PreEscaped(svg))
                figcaption {
                    "Requests each " (step)
                    span.swatch style="background: rgb(94 139 180)" {} "not denied"
                    span.swatch style="background: rgb(214 84 62)" {} "denied"
                }
            },
            _ => p.sub { "Nothing to show." },
        }
    }
}

/// Bars, one a step: what was not denied, and above it what was.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn plot(series: &Steps) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    let most = series.steps.iter().map(|at| at.step.requests).max().unwrap_or(1).max(1);
    let count = series.steps.len().max(1);
    {
        let area = SVGBackend::with_string(&mut svg, (960, 260)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..count as f64, 0.0..most as f64 * 1.05)?;
        let label = |x: &f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let at = series.steps.get(*x as usize);
            at.map(|at| at.from.strftime("%m-%d %H:%M:%S").to_string()).unwrap_or_default()
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .axis_style(BLACK.mix(0.3))
            .x_labels(7)
            .y_labels(5)
            .x_label_formatter(&label)
            .y_label_formatter(&|y| format!("{y:.0}"))
            .label_style(("system-ui, sans-serif", 12))
            .draw()?;
        let bars = |denied: bool| {
            series.steps.iter().enumerate().filter_map(move |(number, at)| {
                let (left, right) = (number as f64 + 0.08, number as f64 + 0.92);
                let passed = (at.step.requests - at.step.denied) as f64;
                let (low, high) = if denied { (passed, at.step.requests as f64) } else { (0.0, passed) };
                let color = if denied { DENIED } else { ALLOWED };
                (high > low).then(|| Rectangle::new([(left, low), (right, high)], color.filled()))
            })
        };
        chart.draw_series(bars(false))?;
        chart.draw_series(bars(true))?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_groups() {
        let spaced = |number: u64| grouped(number).replace('\u{202f}', " ");
        assert_eq!(
            [0, 999, 1000, 12_345, 1_000_000].map(spaced),
            ["0", "999", "1 000", "12 345", "1 000 000"]
        );
    }
}
