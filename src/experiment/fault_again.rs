//! `fault-again`: kills in a row, pauses instead of kills, one of many: and how long each took to heal.

use std::time::Duration;

use plotters::prelude::*;

use super::lab::{Fault, Lab, Wound};
use super::load::Plan;
use super::output::{self, Report};
use super::picture::{self, Area, Axes, BLUE, Drawn, Figure, Head, Mark, RED, grouped, replica_colour};
use super::progress::Progress;
use super::timeline::{Timeline, ms};
use super::trial::Trial;
use super::{RuntimeChoice, Settings, rest};

/// One way to go on harming.
#[derive(Clone, Copy)]
struct Series {
    title: &'static str,
    replicas: usize,
    fault: Fault,
    times: u32,
    /// Between a heal and the next harm: each lives long enough not to count as dying in a loop.
    calm: Duration,
}

const SERIES: [Series; 3] = [
    Series { title: "killed, 1 of 3", replicas: 3, fault: Fault::Kill, times: 21, calm: Duration::from_millis(400) },
    Series { title: "killed, 1 of 20", replicas: 20, fault: Fault::Kill, times: 20, calm: Duration::from_millis(150) },
    Series { title: "paused, 1 of 3", replicas: 3, fault: Fault::Pause, times: 6, calm: Duration::from_millis(1000) },
];
/// A container takes a second or two to start, where a process takes milliseconds.
const DOCKER_FEWER: u32 = 3;
/// The one whose requests are drawn over time.
const DRAWN: usize = 2;
/// Enough that those which wait for a silent replica leave others to go on.
const CONNECTIONS: u32 = 256;
const RATE: f64 = 600.0;
/// The load ends with its series; this only bounds it.
const REQUESTS: u32 = 200_000;
const BIN_MS: f64 = 100.0;

struct Run {
    series: Series,
    trial: Trial,
}

pub fn run(settings: &Settings, progress: &Progress) -> Result<Report, String> {
    let fewer = if settings.runtime == RuntimeChoice::Docker { DOCKER_FEWER } else { 1 };
    let series = SERIES.map(|series| Series { times: series.times / fewer, ..series });
    progress.expect(series.iter().map(|series| u64::from(series.times)).sum(), "faults");
    let runs = series.map(|series| perform(series, settings, progress)).into_iter().collect::<Result<Vec<_>, _>>()?;
    let picture = picture::paint(&Again { runs: &runs })?;
    Ok(Report { name: "fault-again", picture, csv: csv(&runs), text: words(&runs) })
}

fn perform(series: Series, settings: &Settings, progress: &Progress) -> Result<Run, String> {
    let plan = Plan {
        connections: CONNECTIONS,
        requests: REQUESTS,
        rate: Some(RATE),
        target: |i| format!("/home?request={i}"),
    };
    let trial = Trial::run(settings, series.replicas, plan, |lab, names| {
        rest(series.calm)?;
        let victims = names.iter().cycle().take(series.times as usize);
        victims.map(|name| wound(lab, name, series, progress)).collect()
    })?;
    Ok(Run { series, trial })
}

fn wound(lab: &Lab, name: &str, series: Series, progress: &Progress) -> Result<Wound, String> {
    let wound = lab.wound(name, series.fault)?;
    progress.step();
    rest(series.calm)?;
    Ok(wound)
}

impl Run {
    fn heals(&self) -> Vec<f64> {
        self.trial.wounds.iter().map(|wound| ms(wound.harmed, wound.healed)).collect()
    }

    fn median(&self) -> f64 {
        let mut heals = self.heals();
        heals.sort_by(f64::total_cmp);
        heals.get(heals.len() / 2).copied().unwrap_or(0.0)
    }
}

fn csv(runs: &[Run]) -> String {
    let rows = runs.iter().flat_map(|run| {
        run.trial.wounds.iter().map(move |wound| {
            [
                run.series.title.into(),
                wound.name.clone(),
                format!("{:.0}", ms(run.trial.begin, wound.harmed)),
                format!("{:.2}", ms(wound.harmed, wound.noticed)),
                format!("{:.2}", ms(wound.harmed, wound.healed)),
            ]
        })
    });
    output::csv(["series", "replica", "at_ms", "out_of_the_ring_after_ms", "healed_after_ms"], rows)
}

fn words(runs: &[Run]) -> String {
    let rows = runs.iter().map(|run| {
        let heals = run.heals();
        let longest = heals.iter().copied().fold(0.0, f64::max);
        let (failed, _) = run.trial.failures();
        [
            format!("{}, {} times", run.series.title, run.series.times),
            grouped(run.trial.samples.len() as u64),
            failed.to_string(),
            format!("{:.0} ms", run.trial.slowest_ms()),
            format!("{:.0} ms", run.median()),
            format!("{longest:.0} ms"),
        ]
    });
    let first = runs.iter().find_map(|run| run.trial.failures().1);
    format!(
        "{RATE} requests a second on {CONNECTIONS} connections while replicas are harmed one after another. A killed \
         process or container is noticed at its end. A paused one holds its connections and never answers: the engine tells \
         of a container's pause, a process's shows only in heartbeats missed.{}\n\n{}",
        first.map(|first| format!(" The first failure: {first}.")).unwrap_or_default(),
        output::table(["what", "requests", "failed", "slowest", "median heal", "longest heal"], rows)
    )
}

struct Again<'a> {
    runs: &'a [Run],
}

impl Figure for Again<'_> {
    fn name(&self) -> &'static str {
        "fault-again"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 1100)
    }

    fn head(&self) -> Head {
        let faults: usize = self.runs.iter().map(|run| run.trial.wounds.len()).sum();
        let requests: usize = self.runs.iter().map(|run| run.trial.samples.len()).sum();
        let failed: usize = self.runs.iter().map(|run| run.trial.failures().0).sum();
        let mut legend: Vec<(Mark, String)> = self.runs[DRAWN]
            .trial
            .names
            .iter()
            .enumerate()
            .map(|(i, name)| (Mark::Line(replica_colour(i)), name.clone()))
            .collect();
        legend.push((Mark::Fill(RED), format!("failed: {failed}")));
        legend.push((Mark::Fill(BLUE), "heals, by the time they took".into()));
        Head {
            title: format!("{faults} faults in a row: {failed} of {} requests failed", grouped(requests as u64)),
            says: "Above: replicas paused one after another, still there but silent. Below: how long heals took."
                .into(),
            legend,
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let (above, below) = area.split_vertically(470);
        let drawn = &self.runs[DRAWN].trial;
        let end = drawn.samples.iter().map(|sample| sample.answered().as_secs_f64() * 1000.0).fold(0.0, f64::max);
        let end = (end / BIN_MS).floor() * BIN_MS;
        let timeline = Timeline::new(&drawn.samples, &drawn.names, Duration::ZERO, 0.0..end, BIN_MS);
        let mut chart = timeline.draw(&above, "seconds", 1000.0)?;
        for wound in &drawn.wounds {
            let replica = drawn.names.iter().position(|name| *name == wound.name).unwrap_or(0);
            let (from, to) = (ms(drawn.begin, wound.harmed) / 1000.0, ms(drawn.begin, wound.healed) / 1000.0);
            let band = [(from, 0.0), (to, chart.y_range().end)];
            chart.draw_series([Rectangle::new(band, replica_colour(replica).mix(0.15).filled())])?;
        }
        for (cell, run) in below.split_evenly((1, self.runs.len())).iter().zip(self.runs) {
            histogram(cell, run)?;
        }
        Ok(())
    }
}

const BARS: usize = 12;

fn histogram<B: DrawingBackend>(area: &Area<B>, run: &Run) -> Drawn<B> {
    let heals = run.heals();
    let end = picture::ceiling(heals.iter().copied().fold(1.0, f64::max) * 1.05);
    let width = end / BARS as f64;
    let mut counts = [0u32; BARS];
    heals.iter().for_each(|heal| counts[((heal / width) as usize).min(BARS - 1)] += 1);
    let most = f64::from(counts.iter().copied().max().unwrap_or(1).max(1));
    let title = format!("{}: median {:.0} ms", run.series.title, run.median());
    let axes = Axes {
        title: &title,
        x: 0.0..end,
        y: 0.0..picture::ceiling(most),
        x_says: "milliseconds to heal",
        y_says: "",
        y_room: 70,
        x_label: Some(&|x| grouped(*x as u64)),
        y_label: &|y| if y.fract() == 0.0 { format!("{y:.0}") } else { String::new() },
        x_labels: 5,
    };
    let mut chart = axes.chart(area)?;
    let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(i, count)| {
        let (left, right) = (i as f64 * width, (i + 1) as f64 * width);
        Rectangle::new([(left + width * 0.06, 0.0), (right - width * 0.06, f64::from(*count))], BLUE.filled())
    });
    chart.draw_series(bars)?;
    Ok(())
}
