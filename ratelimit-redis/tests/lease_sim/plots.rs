//! The table and the plots of docs/planning.md.

use std::path::Path;

use plotters::prelude::*;

use crate::plan::{self, LOADS, Load, Planned};

const REPLICAS: [usize; 3] = [10, 100, 1000];
/// Seconds that are simulated, and of them the partition's.
const SECONDS: f64 = 20.0;
const WITH_PARTITION: f64 = 80.0;
const PARTED: u64 = 60;

fn name(load: Load) -> &'static str {
    match load {
        Load::Zipf => "2000 keys of 100/s, Zipf 1.1, 10 000/s in all",
        Load::Hot => "one key of 5000/s, 6000/s asked anywhere",
        Load::Skewed => "the same, nine of ten on one replica",
        Load::Parted => "2000 keys; half of the replicas cut off for 60 s",
    }
}

type Line = (Load, Vec<(usize, Planned)>);

fn plot(
    file: &Path,
    title: &str,
    unit: &str,
    lines: &[Line],
    most: f64,
    value: impl Fn(&Planned) -> f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::new(file, (720, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((8.0..1250.0_f64).log_scale(), 0.0..most)?;
    chart.configure_mesh().x_desc("replicas").y_desc(unit).light_line_style(WHITE).draw()?;
    for ((load, points), color) in lines.iter().zip([BLUE, RED, GREEN, MAGENTA]) {
        let points: Vec<(f64, f64)> =
            points.iter().map(|(replicas, planned)| (*replicas as f64, value(planned))).collect();
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(4))?
            .label(name(*load))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

#[test]
#[ignore = "half a minute; draws docs/pictures/plan-*.svg and prints the table of docs/planning.md"]
fn plans() {
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures");
    let mut lines = Vec::new();
    println!(
        "| traffic | replicas | store calls a request | quota used | most over the bound, units | the README's row |"
    );
    println!("|---|---|---|---|---|---|");
    for load in LOADS {
        let mut points = Vec::new();
        for replicas in REPLICAS {
            let seconds = if load == Load::Parted { WITH_PARTITION } else { SECONDS };
            let planned = plan::run(load, replicas, seconds, PARTED, 1);
            println!(
                "| {} | {replicas} | {:.4} | {:.1} % | {:.0} | {:.0} |",
                name(load),
                planned.calls,
                100.0 * planned.used,
                planned.over.ceil(),
                planned.allowed
            );
            points.push((replicas, planned));
        }
        lines.push((load, points));
    }
    plot(
        &pictures.join("plan-calls.svg"),
        "Store calls a request",
        "calls a request",
        &lines,
        1.2,
        |planned| planned.calls,
    )
    .unwrap();
    let used = |planned: &Planned| 100.0 * planned.used;
    plot(
        &pictures.join("plan-used.svg"),
        "Quota used, of what one ideal bucket admits",
        "%",
        &lines,
        130.0,
        used,
    )
    .unwrap();
    lines.retain(|(load, _)| *load == Load::Parted);
    plot(
        &pictures.join("plan-over.svg"),
        "Over the bound, the worst key",
        "units",
        &lines,
        8000.0,
        |planned| planned.over,
    )
    .unwrap();
}
