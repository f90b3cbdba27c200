//! `scale`: the same load over more and more replicas: the mean, which is always total/N, and what it hides.

use plotters::prelude::*;

use super::Settings;
use super::output::{self, Report};
use super::picture::{self, Area, Axes, BLUE, Drawn, Figure, Head, Mark, ORANGE, grouped};
use super::progress::Progress;
use super::spread::{self, Count};

/// Every number of replicas up to here, then some.
const EACH: usize = 8;
const SOME: [usize; 6] = [12, 16, 24, 32, 48, 64];

/// What one number of replicas came to, and what the ring predicts for it.
struct Step {
    replicas: usize,
    mean: f64,
    measured: Spread,
    predicted: Spread,
    failed: usize,
}

struct Spread {
    /// Of the replicas' loads.
    deviation: f64,
    max_over_mean: f64,
}

pub fn run(settings: &Settings, progress: &Progress) -> Result<Report, String> {
    let steps = steps(settings.to).map(|n| Ok(Step::new(&spread::count(settings, n, progress)?)));
    let steps: Vec<Step> = steps.collect::<Result<_, String>>()?;
    let picture = picture::paint(&Scale { steps: &steps, requests: settings.requests })?;
    Ok(Report { name: "scale", picture, csv: csv(&steps), text: words(&steps, settings.requests) })
}

fn steps(to: usize) -> impl Iterator<Item = usize> {
    (2..=EACH).chain(SOME).filter(move |n| *n < to).chain([to])
}

impl Step {
    fn new(count: &Count) -> Step {
        let replicas = count.rows.len();
        let mean = f64::from(count.total) / replicas as f64;
        let loads: Vec<f64> = count.rows.iter().map(|row| f64::from(row.requests)).collect();
        let most = loads.iter().copied().fold(0.0, f64::max);
        let off = loads.iter().map(|load| (load - mean).powi(2)).sum::<f64>();
        // The ring's own unevenness, and that of chance on top of it.
        let expected =
            count.rows.iter().map(|row| (count.expected(row) - mean).powi(2) + count.noise(row).powi(2)).sum::<f64>();
        let share = count.rows.iter().map(|row| row.share).fold(0.0, f64::max);
        let deviation = |squares: f64| (squares / replicas as f64).sqrt();
        Step {
            replicas,
            mean,
            measured: Spread { deviation: deviation(off), max_over_mean: most / mean },
            predicted: Spread { deviation: deviation(expected), max_over_mean: share * replicas as f64 },
            failed: count.failed,
        }
    }

    fn fields(&self) -> [String; 6] {
        let Step { measured, predicted, .. } = self;
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

fn csv(steps: &[Step]) -> String {
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

fn words(steps: &[Step], requests: u32) -> String {
    let head = ["replicas", "mean load", "standard deviation", "expected", "max/mean", "of the ring alone"];
    let failed: usize = steps.iter().map(|step| step.failed).sum();
    format!(
        "{} requests at each number of replicas; {failed} failed. The mean is total/N whatever the routing does, so it \
         says nothing; the standard deviation and max/mean do. Expected: the ring's exact shares, and chance on top of \
         them for the standard deviation.\n\n{}",
        grouped(requests.into()),
        output::table(head, steps.iter().map(Step::fields))
    )
}

struct Scale<'a> {
    steps: &'a [Step],
    requests: u32,
}

impl Figure for Scale<'_> {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 760)
    }

    fn head(&self) -> Head {
        let (least, most) = (self.steps.first().map_or(0, |s| s.replicas), self.steps.last().map_or(0, |s| s.replicas));
        Head {
            title: format!("{} requests over {least} to {most} replicas", grouped(self.requests.into())),
            says: "The mean is total/N whatever the routing does; deviation and max/mean show how even it is.".into(),
            legend: vec![
                (Mark::Line(ORANGE), "expected from the ring's exact shares".into()),
                (Mark::Fill(BLUE), "measured".into()),
            ],
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let cells = area.split_evenly((1, 3));
        let ratio = |y: &f64| format!("{y:.2}");
        let whole = |y: &f64| grouped(*y as u64);
        panel(&cells[0], "mean requests per replica", self.steps, 0.0, &whole, |s| (s.mean, s.mean))?;
        let deviation = |s: &Step| (s.measured.deviation, s.predicted.deviation);
        panel(&cells[1], "standard deviation, requests", self.steps, 0.0, &whole, deviation)?;
        let max = |s: &Step| (s.measured.max_over_mean, s.predicted.max_over_mean);
        panel(&cells[2], "max / mean (1 is even)", self.steps, 1.0, &ratio, max)
    }
}

/// `value` gives measured and expected.
fn panel<B: DrawingBackend>(
    area: &Area<B>,
    title: &str,
    steps: &[Step],
    floor: f64,
    y_label: &dyn Fn(&f64) -> String,
    value: impl Fn(&Step) -> (f64, f64),
) -> Drawn<B> {
    let values: Vec<(f64, f64, f64)> =
        steps.iter().map(|step| (step.replicas as f64, value(step).0, value(step).1)).collect();
    let most = values.iter().map(|(_, measured, expected)| measured.max(*expected)).fold(0.0, f64::max);
    let (first, last) = (values.first().map_or(0.0, |v| v.0), values.last().map_or(1.0, |v| v.0));
    let axes = Axes {
        title,
        x: first - 0.4..last + 0.4,
        y: floor..floor + picture::ceiling((most - floor) * 1.05),
        x_says: "replicas",
        y_says: "",
        y_room: 104,
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
    use crate::experiment::spread::Row;

    #[test]
    fn steps_end_where_they_were_told_to() {
        assert_eq!(steps(6).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert_eq!(steps(2).collect::<Vec<_>>(), [2]);
        assert_eq!(steps(20).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 12, 16, 20]);
        assert_eq!(steps(64).last(), Some(64));
    }

    #[test]
    fn a_ring_without_unevenness_expects_the_noise_of_chance() {
        let row = |requests| Row { name: String::new(), requests, share: 0.5 };
        let step = Step::new(&Count { rows: vec![row(4900), row(5100)], total: 10_000, failed: 0 });
        assert_eq!(step.fields(), ["2", "5000.0", "100.0", "50.0", "1.020", "1.000"]);
    }
}
