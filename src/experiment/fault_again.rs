//! `fault-again`: replicas killed or paused one after another, of few and of many, and how long each took to be replaced.

use std::time::Duration;

use plotters::prelude::*;

use super::load::{LoadPlan, PATIENT, Pace};
use super::output::{self, Report};
use super::picture::{self, Area, Axes, BLUE, Caption, Drawn, Figure, LegendMark, RED, grouped, replica_colour};
use super::progress::Progress;
use super::testbed::{InjectedFault, Recovery, Testbed};
use super::timeline::{Timeline, ms};
use super::trial::Trial;
use super::{ExperimentRuntime, ExperimentSettings, sleep};

/// Faults of one kind, one after another.
#[derive(Clone, Copy)]
struct Series {
    title: &'static str,
    replicas: usize,
    fault: InjectedFault,
    times: u32,
    /// Between a replacement and the next fault: long enough that no replica counts as one that dies at its start.
    pause_between: Duration,
}

const SERIES: [Series; 3] = [
    Series {
        title: "killed, 1 of 3",
        replicas: 3,
        fault: InjectedFault::Kill,
        times: 21,
        pause_between: Duration::from_millis(400),
    },
    Series {
        title: "killed, 1 of 20",
        replicas: 20,
        fault: InjectedFault::Kill,
        times: 20,
        pause_between: Duration::from_millis(150),
    },
    Series {
        title: "paused, 1 of 3",
        replicas: 3,
        fault: InjectedFault::Pause,
        times: 6,
        pause_between: Duration::from_millis(1000),
    },
];
/// A container takes a second or two to start, where a process takes milliseconds.
const DOCKER_FEWER: u32 = 3;
/// Index of the series whose requests are drawn over time.
const DRAWN: usize = 2;
/// Enough that requests go on while some connections wait for a paused replica.
const CONNECTIONS: u32 = 256;
const RATE: f64 = 600.0;
/// A bound only: the load ends with its series.
const REQUESTS: u32 = 200_000;
const BIN_MS: f64 = 100.0;

struct SeriesRun {
    series: Series,
    trial: Trial,
}

pub fn run(settings: &ExperimentSettings, progress: &Progress) -> Result<Report, String> {
    let fewer = if settings.runtime == ExperimentRuntime::Docker { DOCKER_FEWER } else { 1 };
    let series = SERIES.map(|series| Series { times: series.times / fewer, ..series });
    progress.expect(series.iter().map(|series| u64::from(series.times)).sum(), "faults");
    let runs = series.map(|series| perform(series, settings, progress)).into_iter().collect::<Result<Vec<_>, _>>()?;
    let picture = picture::paint(&AgainFigure { runs: &runs })?;
    Ok(Report { name: "fault-again", picture, csv: csv(&runs), text: summary(&runs) })
}

fn perform(series: Series, settings: &ExperimentSettings, progress: &Progress) -> Result<SeriesRun, String> {
    let plan = LoadPlan {
        connections: CONNECTIONS,
        requests: REQUESTS,
        pace: Pace::Even(RATE),
        patience: PATIENT,
        target: |i| format!("/home?request={i}"),
    };
    let trial = Trial::run(settings, series.replicas, plan, |testbed, names| {
        sleep(series.pause_between)?;
        let targets = names.iter().cycle().take(series.times as usize);
        targets.map(|name| inject(testbed, name, series, progress)).collect()
    })?;
    Ok(SeriesRun { series, trial })
}

fn inject(testbed: &Testbed, name: &str, series: Series, progress: &Progress) -> Result<Recovery, String> {
    let recovery = testbed.inject(name, series.fault)?;
    progress.step();
    sleep(series.pause_between)?;
    Ok(recovery)
}

impl SeriesRun {
    fn repairs_ms(&self) -> Vec<f64> {
        self.trial.recoveries.iter().map(|recovery| ms(recovery.injected_at, recovery.replaced_at)).collect()
    }

    fn median_ms(&self) -> f64 {
        let mut repairs_ms = self.repairs_ms();
        repairs_ms.sort_by(f64::total_cmp);
        repairs_ms.get(repairs_ms.len() / 2).copied().unwrap_or(0.0)
    }
}

fn csv(runs: &[SeriesRun]) -> String {
    let rows = runs.iter().flat_map(|run| {
        run.trial.recoveries.iter().map(move |recovery| {
            [
                run.series.title.into(),
                recovery.replica.clone(),
                format!("{:.0}", ms(run.trial.begin, recovery.injected_at)),
                format!("{:.2}", ms(recovery.injected_at, recovery.removed_at)),
                format!("{:.2}", ms(recovery.injected_at, recovery.replaced_at)),
            ]
        })
    });
    output::csv(["series", "replica", "at_ms", "out_of_the_ring_after_ms", "healed_after_ms"], rows)
}

fn summary(runs: &[SeriesRun]) -> String {
    let rows = runs.iter().map(|run| {
        let repairs_ms = run.repairs_ms();
        let longest = repairs_ms.iter().copied().fold(0.0, f64::max);
        let (failed, _) = run.trial.failures();
        [
            format!("{}, {} times", run.series.title, run.series.times),
            grouped(run.trial.samples.len() as u64),
            failed.to_string(),
            format!("{:.0} ms", run.trial.slowest_ms()),
            format!("{:.0} ms", run.median_ms()),
            format!("{longest:.0} ms"),
        ]
    });
    let first = runs.iter().find_map(|run| run.trial.failures().1);
    format!(
        "{RATE} requests per second on {CONNECTIONS} connections while faults are injected one after another. A killed \
         process or container is removed when it ends. A paused one keeps its connections and never answers: the engine \
         reports a container's pause, a process's shows only in missed heartbeats.{}\n\n{}",
        first.map(|first| format!(" The first failure: {first}.")).unwrap_or_default(),
        output::table(["what", "requests", "failed", "slowest", "median replacement", "longest replacement"], rows)
    )
}

struct AgainFigure<'a> {
    runs: &'a [SeriesRun],
}

impl Figure for AgainFigure<'_> {
    fn name(&self) -> &'static str {
        "fault-again"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 1100)
    }

    fn caption(&self) -> Caption {
        let faults: usize = self.runs.iter().map(|run| run.trial.recoveries.len()).sum();
        let requests: usize = self.runs.iter().map(|run| run.trial.samples.len()).sum();
        let failed: usize = self.runs.iter().map(|run| run.trial.failures().0).sum();
        let mut legend: Vec<(LegendMark, String)> = self.runs[DRAWN]
            .trial
            .names
            .iter()
            .enumerate()
            .map(|(i, name)| (LegendMark::Line(replica_colour(i)), name.clone()))
            .collect();
        legend.push((LegendMark::Fill(RED), format!("failed: {failed}")));
        legend.push((LegendMark::Fill(BLUE), "replacements, by the time they took".into()));
        Caption {
            title: format!("{faults} faults in a row: {failed} of {} requests failed", grouped(requests as u64)),
            subtitle: "Above: replicas paused one after another. Below: how long replacements took.".into(),
            legend,
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let (top, bottom) = area.split_vertically(470);
        let drawn = &self.runs[DRAWN].trial;
        let end = drawn.samples.iter().map(|sample| sample.answered().as_secs_f64() * 1000.0).fold(0.0, f64::max);
        let end = (end / BIN_MS).floor() * BIN_MS;
        let timeline = Timeline::new(&drawn.samples, &drawn.names, Duration::ZERO, 0.0..end, BIN_MS);
        let mut chart = timeline.draw(&top, "seconds", 1000.0)?;
        for recovery in &drawn.recoveries {
            let replica = drawn.names.iter().position(|name| *name == recovery.replica).unwrap_or(0);
            let (from, to) =
                (ms(drawn.begin, recovery.injected_at) / 1000.0, ms(drawn.begin, recovery.replaced_at) / 1000.0);
            let band = [(from, 0.0), (to, chart.y_range().end)];
            chart.draw_series([Rectangle::new(band, replica_colour(replica).mix(0.15).filled())])?;
        }
        for (cell, run) in bottom.split_evenly((1, self.runs.len())).iter().zip(self.runs) {
            histogram(cell, run)?;
        }
        Ok(())
    }
}

const BARS: usize = 12;

fn histogram<B: DrawingBackend>(area: &Area<B>, run: &SeriesRun) -> Drawn<B> {
    let repairs_ms = run.repairs_ms();
    let end = picture::axis_end(repairs_ms.iter().copied().fold(1.0, f64::max) * 1.05);
    let width = end / BARS as f64;
    let mut counts = [0u32; BARS];
    repairs_ms.iter().for_each(|repair_ms| counts[((repair_ms / width) as usize).min(BARS - 1)] += 1);
    let most = f64::from(counts.iter().copied().max().unwrap_or(1).max(1));
    let title = format!("{}: median {:.0} ms", run.series.title, run.median_ms());
    let axes = Axes {
        title: &title,
        x: 0.0..end,
        y: 0.0..picture::axis_end(most),
        x_title: "milliseconds to replacement",
        y_title: "",
        y_label_width: 70,
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
