//! Planning past one machine: the lease protocol with 10, 100 and 1000 replicas, in the simulation of ratelimit-redis' tests
//! (its own files, as they are). Prints the table of docs/planning.md and draws its plots.
//!
//!     cargo run -p benches --bin plan -- docs/pictures
#![allow(missing_docs, clippy::pedantic, reason = "a figure, and the files of a test")]

#[path = "../../../ratelimit-redis/tests/lease_sim/judge.rs"]
mod judge;
#[path = "../../../ratelimit-redis/tests/lease_sim/plan.rs"]
mod plan;
#[path = "../../../ratelimit-redis/tests/lease_sim/scenarios.rs"]
#[allow(dead_code, reason = "those that are not of the plan")]
mod scenarios;
#[path = "../../../ratelimit-redis/tests/lease_sim/share.rs"]
mod share;
#[path = "../../../ratelimit-redis/tests/lease_sim/world.rs"]
#[allow(dead_code, reason = "what other tests ask of it")]
mod world;

use std::collections::HashMap;
use std::path::Path;

use plan::{LOADS, Load, Planned};
use plotters::prelude::*;
use ratelimit_core::Nanos;
use ratelimit_core::algorithm::{Gcra, Op};
use world::{Arrival, Quota};

const REPLICAS: [usize; 3] = [10, 100, 1000];
const SECONDS: f64 = 80.0;
const PARTED: u64 = 60;

/// What one ideal bucket for each key would admit of it.
pub fn ideal(quota: Quota, arrivals: &[Arrival]) -> u64 {
    let bucket = Gcra::new(1, Nanos::new(quota.nanos()), quota.burst, 0).unwrap();
    let mut buckets = HashMap::new();
    let mut admitted = 0;
    for arrival in arrivals {
        let tat = buckets.entry(arrival.key).or_insert(0);
        let (after, outcome) = bucket.step(*tat, Nanos::new(arrival.at), Op::Take(arrival.units));
        *tat = after.unwrap_or(*tat);
        admitted += u64::from(outcome.admitted);
    }
    admitted
}

fn name(load: Load) -> &'static str {
    match load {
        Load::Zipf => "Zipf 1.1, 2000 keys of 100/s, 10 000/s in all",
        Load::Hot => "one key of 5000/s, 6000/s asked anywhere",
        Load::Skewed => "the same, nine of ten on one replica",
        Load::Parted => "Zipf; half of the replicas cut off for 60 s",
    }
}

type Line = (Load, Vec<(usize, Planned)>);

fn plot(file: &Path, title: &str, unit: &str, lines: &[Line], most: f64, value: impl Fn(&Planned) -> f64) {
    let area = SVGBackend::new(file, (720, 400)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((8.0..1250.0_f64).log_scale(), 0.0..most)
        .unwrap();
    chart.configure_mesh().x_desc("replicas").y_desc(unit).light_line_style(WHITE).draw().unwrap();
    for (number, (load, points)) in lines.iter().enumerate() {
        let color = [BLUE, RED, GREEN, MAGENTA][number % 4];
        let points: Vec<(f64, f64)> =
            points.iter().map(|(replicas, planned)| (*replicas as f64, value(planned))).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))
            .unwrap()
            .label(name(*load))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, color.filled()))).unwrap();
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw().unwrap();
    area.present().unwrap();
}

fn main() {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "docs/pictures".to_owned());
    let mut lines = Vec::new();
    println!(
        "| traffic | replicas | store calls a request | quota used | most over the bound, units | allowed |"
    );
    println!("|---|---|---|---|---|---|");
    for load in LOADS {
        let mut points = Vec::new();
        for replicas in REPLICAS {
            let seconds = if load == Load::Parted { SECONDS } else { 20.0 };
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
    let directory = Path::new(&directory);
    plot(
        &directory.join("plan-calls.svg"),
        "Store calls a request",
        "calls a request",
        &lines,
        1.1,
        |planned| planned.calls,
    );
    plot(
        &directory.join("plan-used.svg"),
        "Quota used, of what one ideal bucket admits",
        "%",
        &lines,
        130.0,
        |planned| 100.0 * planned.used,
    );
    let parted: Vec<Line> = lines.into_iter().filter(|(load, _)| *load == Load::Parted).collect();
    plot(
        &directory.join("plan-over.svg"),
        "Most over the bound, of the worst key",
        "units",
        &parted,
        7000.0,
        |planned| planned.over,
    );
}
