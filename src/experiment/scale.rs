//! `scale`: the same load over more and more replicas. The mean is always total/N; deviation and maximum are not.

use plotters::prelude::*;

use super::ExperimentSettings;
use super::output::{self, Report};
use super::picture::{self, Area, Axes, BLUE, Caption, Drawn, Figure, LegendMark, ORANGE, grouped};
use super::progress::Progress;
use super::spread::{self, LoadCount};

/// Every number of replicas up to this one, then those of `THEN`.
const EVERY_UP_TO: usize = 8;
const THEN: [usize; 6] = [12, 16, 24, 32, 48, 64];

/// The load over one number of replicas, measured and predicted from the ring.
struct ScaleStep {
    replicas: usize,
    mean: f64,
    measured: Dispersion,
    predicted: Dispersion,
    failed: usize,
}

struct Dispersion {
    /// Standard deviation of the replicas' loads, in requests.
    deviation: f64,
    max_over_mean: f64,
}

pub fn run(settings: &ExperimentSettings, progress: &Progress) -> Result<Report, String> {
    let steps = steps(settings.replicas_max).map(|n| Ok(ScaleStep::new(&spread::count(settings, n, progress)?)));
    let steps: Vec<ScaleStep> = steps.collect::<Result<_, String>>()?;
    let picture = picture::paint(&ScaleFigure { steps: &steps, requests: settings.requests })?;
    Ok(Report { name: "scale", picture, csv: csv(&steps), text: summary(&steps, settings.requests) })
}

fn steps(replicas_max: usize) -> impl Iterator<Item = usize> {
    (2..=EVERY_UP_TO).chain(THEN).filter(move |n| *n < replicas_max).chain([replicas_max])
}

impl ScaleStep {
    fn new(count: &LoadCount) -> ScaleStep {
        let replicas = count.rows.len();
        let mean = f64::from(count.total) / replicas as f64;
        let loads: Vec<f64> = count.rows.iter().map(|row| f64::from(row.requests)).collect();
        let most = loads.iter().copied().fold(0.0, f64::max);
        let off = loads.iter().map(|load| (load - mean).powi(2)).sum::<f64>();
        // The ring's own unevenness, plus that of random keys.
        let expected =
            count.rows.iter().map(|row| (count.expected(row) - mean).powi(2) + count.noise(row).powi(2)).sum::<f64>();
        let share = count.rows.iter().map(|row| row.share).fold(0.0, f64::max);
        let deviation = |squares: f64| (squares / replicas as f64).sqrt();
        ScaleStep {
            replicas,
            mean,
            measured: Dispersion { deviation: deviation(off), max_over_mean: most / mean },
            predicted: Dispersion { deviation: deviation(expected), max_over_mean: share * replicas as f64 },
            failed: count.failed,
        }
    }

    fn fields(&self) -> [String; 6] {
        let ScaleStep { measured, predicted, .. } = self;
        [
            self.replicas.to_string(),
            format!("{:.1}", self.mean),
            format!("{:.1}", measured.deviation),
            format!("{:.1}", predicted.deviation),
            format!("{:.3}", measured.max_over_mean),
            format!("{:.3}", predicted.max_over_mean),
        ]
    }
}

fn csv(steps: &[ScaleStep]) -> String {
    let head = [
        "replicas",
        "mean_requests",
        "deviation_measured",
        "deviation_expected",
        "max_over_mean_measured",
        "max_over_mean_of_the_ring",
        "failed",
    ];
    let rows = steps.iter().map(|step| {
        let [a, b, c, d, e, f] = step.fields();
        [a, b, c, d, e, f, step.failed.to_string()]
    });
    output::csv(head, rows)
}

fn summary(steps: &[ScaleStep], requests: u32) -> String {
    let head = ["replicas", "mean load", "standard deviation", "expected", "max/mean", "of the ring alone"];
    let failed: usize = steps.iter().map(|step| step.failed).sum();
    format!(
        "{} requests at each number of replicas; {failed} failed. The mean is total/N whatever the routing does, so it \
         says nothing; the standard deviation and max/mean do. Expected: the ring's exact shares, plus random variation \
         for the standard deviation.\n\n{}",
        grouped(requests.into()),
        output::table(head, steps.iter().map(ScaleStep::fields))
    )
}

struct ScaleFigure<'a> {
    steps: &'a [ScaleStep],
    requests: u32,
}

impl Figure for ScaleFigure<'_> {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 760)
    }

    fn caption(&self) -> Caption {
        let (least, most) = (self.steps.first().map_or(0, |s| s.replicas), self.steps.last().map_or(0, |s| s.replicas));
        Caption {
            title: format!("{} requests over {least} to {most} replicas", grouped(self.requests.into())),
            subtitle: "The mean is total/N whatever the routing does; deviation and max/mean show how even it is."
                .into(),
            legend: vec![
                (LegendMark::Line(ORANGE), "expected from the ring's exact shares".into()),
                (LegendMark::Fill(BLUE), "measured".into()),
            ],
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let cells = area.split_evenly((1, 3));
        let ratio = |y: &f64| format!("{y:.2}");
        let whole = |y: &f64| grouped(*y as u64);
        panel(&cells[0], "mean requests per replica", self.steps, 0.0, &whole, |s| (s.mean, s.mean))?;
        let deviation = |s: &ScaleStep| (s.measured.deviation, s.predicted.deviation);
        panel(&cells[1], "standard deviation, requests", self.steps, 0.0, &whole, deviation)?;
        let max = |s: &ScaleStep| (s.measured.max_over_mean, s.predicted.max_over_mean);
        panel(&cells[2], "max / mean (1 is even)", self.steps, 1.0, &ratio, max)
    }
}

/// `value` returns measured and expected.
fn panel<B: DrawingBackend>(
    area: &Area<B>,
    title: &str,
    steps: &[ScaleStep],
    y_min: f64,
    y_label: &dyn Fn(&f64) -> String,
    value: impl Fn(&ScaleStep) -> (f64, f64),
) -> Drawn<B> {
    let values: Vec<(f64, f64, f64)> =
        steps.iter().map(|step| (step.replicas as f64, value(step).0, value(step).1)).collect();
    let most = values.iter().map(|(_, measured, expected)| measured.max(*expected)).fold(0.0, f64::max);
    let (first, last) = (values.first().map_or(0.0, |v| v.0), values.last().map_or(1.0, |v| v.0));
    let axes = Axes {
        title,
        x: first - 0.4..last + 0.4,
        y: y_min..y_min + picture::axis_end((most - y_min) * 1.05),
        x_title: "replicas",
        y_title: "",
        y_label_width: 104,
        x_label: Some(&|x| format!("{x:.0}")),
        y_label,
        x_labels: steps.len().min(8),
    };
    let mut chart = axes.chart(area)?;
    chart
        .draw_series(LineSeries::new(values.iter().map(|(x, _, expected)| (*x, *expected)), ORANGE.stroke_width(6)))?;
    chart.draw_series(values.iter().map(|(x, measured, _)| Circle::new((*x, *measured), 10, BLUE.filled())))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::spread::ReplicaCount;

    #[test]
    fn the_last_step_has_the_requested_number_of_replicas() {
        assert_eq!(steps(6).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert_eq!(steps(2).collect::<Vec<_>>(), [2]);
        assert_eq!(steps(20).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 12, 16, 20]);
        assert_eq!(steps(64).last(), Some(64));
    }

    #[test]
    fn an_even_ring_predicts_the_deviation_of_random_keys() {
        let row = |requests| ReplicaCount { name: String::new(), requests, share: 0.5 };
        let step = ScaleStep::new(&LoadCount { rows: vec![row(4900), row(5100)], total: 10_000, failed: 0 });
        assert_eq!(step.fields(), ["2", "5000.0", "100.0", "50.0", "1.020", "1.000"]);
    }
}
