//! Samples over time: requests a second per replica, in bins, as steps; and failures where there were any.

use std::time::{Duration, Instant};

use plotters::prelude::*;

use super::load::Sample;
use super::picture::{self, Area, Axes, Chart, RED, grouped, replica_colour};

pub struct Timeline {
    /// Edges, in milliseconds from the moment that is 0 on the axis.
    from: f64,
    bin: f64,
    /// Requests a second: by replica, then by bin.
    rates: Vec<Vec<f64>>,
    failed: Vec<f64>,
}

impl Timeline {
    /// Bins of `bin` ms around `zero`, which counts from the load's begin; a request counts where its answer came.
    pub fn new(samples: &[Sample], names: &[String], zero: Duration, span: std::ops::Range<f64>, bin: f64) -> Timeline {
        let bins = ((span.end - span.start) / bin).ceil().max(1.0) as usize;
        let mut rates = vec![vec![0.0; bins]; names.len()];
        let mut failed = vec![0.0; bins];
        for sample in samples {
            let at = ((since(sample.answered(), zero) - span.start) / bin).floor();
            if at < 0.0 || at >= bins as f64 {
                continue;
            }
            let who = sample.server().and_then(|server| names.iter().position(|name| name == server));
            match who {
                Some(replica) => rates[replica][at as usize] += 1000.0 / bin,
                None => failed[at as usize] += 1000.0 / bin,
            }
        }
        Timeline { from: span.start, bin, rates, failed }
    }

    /// `unit` milliseconds are one on the axis.
    pub fn draw<'a, B: DrawingBackend>(
        &self,
        area: &'a Area<B>,
        x_says: &str,
        unit: f64,
    ) -> Result<Chart<'a, B>, DrawingAreaErrorKind<B::ErrorType>> {
        let end = self.from + self.bin * self.failed.len() as f64;
        let most = self.rates.iter().flatten().chain(&self.failed).copied().fold(1.0, f64::max);
        let digits = usize::from((end - self.from) / unit < 8.0);
        let axes = Axes {
            title: "",
            x: self.from / unit..end / unit,
            y: 0.0..picture::ceiling(most * 1.3),
            x_says,
            y_says: "requests / s",
            y_room: 150,
            x_label: Some(&|x| format!("{x:.digits$}")),
            y_label: &|y| grouped(*y as u64),
            x_labels: 9,
        };
        let mut chart = axes.chart(area)?;
        for (i, rates) in self.rates.iter().enumerate() {
            chart.draw_series(LineSeries::new(self.steps(rates, unit), replica_colour(i).stroke_width(4)))?;
        }
        if self.failed.iter().any(|rate| *rate > 0.0) {
            chart.draw_series(AreaSeries::new(self.steps(&self.failed, unit), 0.0, RED.mix(0.8)))?;
        }
        Ok(chart)
    }

    fn steps(&self, rates: &[f64], unit: f64) -> Vec<(f64, f64)> {
        let edge = |i: usize| (self.from + i as f64 * self.bin) / unit;
        rates.iter().enumerate().flat_map(|(i, rate)| [(edge(i), *rate), (edge(i + 1), *rate)]).collect()
    }
}

/// Milliseconds from `zero` to `at`, negative before it.
pub fn since(at: Duration, zero: Duration) -> f64 {
    (at.as_secs_f64() - zero.as_secs_f64()) * 1000.0
}

pub fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::load::Outcome;
    use super::*;

    fn sample(ms: u64, outcome: Outcome) -> Sample {
        Sample { number: 0, sent: Duration::from_millis(ms), took: Duration::from_millis(1), outcome }
    }

    #[test]
    fn answers_fall_into_bins_and_what_lies_outside_is_left_out() {
        let served = |name: &str| Outcome::Served(name.into());
        let samples = [
            sample(90, served("a")),
            sample(100, served("a")),
            sample(108, served("b")),
            sample(110, Outcome::Status(502)),
            sample(500, served("a")),
        ];
        let names = ["a".to_string(), "b".to_string()];
        let timeline = Timeline::new(&samples, &names, Duration::from_millis(100), -10.0..20.0, 10.0);
        assert_eq!(timeline.rates, [[100.0, 100.0, 0.0], [0.0, 100.0, 0.0]]);
        assert_eq!(timeline.failed, [0.0, 0.0, 100.0]);
    }
}
