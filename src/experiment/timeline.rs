//! Samples over time: requests per second of each replica, in bins, drawn as steps; and failures where there were any.

use std::ops::Range;
use std::time::{Duration, Instant};

use plotters::prelude::*;

use super::load::Sample;
use super::picture::{self, Area, Axes, Chart, RED, grouped, replica_colour};

pub struct Timeline {
    /// The first bin's start, in milliseconds from the axis's zero.
    start_ms: f64,
    bin_ms: f64,
    /// Requests per second: by replica, then by bin.
    rates: Vec<Vec<f64>>,
    failed: Vec<f64>,
}

impl Timeline {
    /// Bins of `bin_ms` over `span_ms`, relative to `zero`, a time since the start of the load. A request counts in the bin
    /// in which its response came.
    pub fn new(samples: &[Sample], names: &[String], zero: Duration, span_ms: Range<f64>, bin_ms: f64) -> Timeline {
        let bins = ((span_ms.end - span_ms.start) / bin_ms).ceil().max(1.0) as usize;
        let mut rates = vec![vec![0.0; bins]; names.len()];
        let mut failed = vec![0.0; bins];
        for sample in samples {
            let bin = ((since(sample.answered(), zero) - span_ms.start) / bin_ms).floor();
            if bin < 0.0 || bin >= bins as f64 {
                continue;
            }
            let replica = sample.server().and_then(|server| names.iter().position(|name| name == server));
            match replica {
                Some(replica) => rates[replica][bin as usize] += 1000.0 / bin_ms,
                None => failed[bin as usize] += 1000.0 / bin_ms,
            }
        }
        Timeline { start_ms: span_ms.start, bin_ms, rates, failed }
    }

    /// `unit_ms` milliseconds are 1 on the axis.
    pub fn draw<'a, B: DrawingBackend>(
        &self,
        area: &'a Area<B>,
        x_title: &str,
        unit_ms: f64,
    ) -> Result<Chart<'a, B>, DrawingAreaErrorKind<B::ErrorType>> {
        let end = self.start_ms + self.bin_ms * self.failed.len() as f64;
        let most = self.rates.iter().flatten().chain(&self.failed).copied().fold(1.0, f64::max);
        let digits = usize::from((end - self.start_ms) / unit_ms < 8.0);
        let axes = Axes {
            title: "",
            x: self.start_ms / unit_ms..end / unit_ms,
            y: 0.0..picture::axis_end(most * 1.3),
            x_title,
            y_title: "requests / s",
            y_label_width: 150,
            x_label: Some(&|x| format!("{x:.digits$}")),
            y_label: &|y| grouped(*y as u64),
            x_labels: 9,
        };
        let mut chart = axes.chart(area)?;
        for (i, rates) in self.rates.iter().enumerate() {
            chart.draw_series(LineSeries::new(self.steps(rates, unit_ms), replica_colour(i).stroke_width(4)))?;
        }
        if self.failed.iter().any(|rate| *rate > 0.0) {
            chart.draw_series(AreaSeries::new(self.steps(&self.failed, unit_ms), 0.0, RED.mix(0.8)))?;
        }
        Ok(chart)
    }

    fn steps(&self, rates: &[f64], unit_ms: f64) -> Vec<(f64, f64)> {
        let edge = |i: usize| (self.start_ms + i as f64 * self.bin_ms) / unit_ms;
        rates.iter().enumerate().flat_map(|(i, rate)| [(edge(i), *rate), (edge(i + 1), *rate)]).collect()
    }
}

/// Milliseconds from `zero` to `at`, negative before it.
pub fn since(at: Duration, zero: Duration) -> f64 {
    (at.as_secs_f64() - zero.as_secs_f64()) * 1000.0
}

/// Milliseconds between two instants; 0 if they are out of order.
pub fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::load::SampleOutcome;
    use super::*;

    fn sample(ms: u64, outcome: SampleOutcome) -> Sample {
        Sample { number: 0, sent: Duration::from_millis(ms), took: Duration::from_millis(1), outcome }
    }

    #[test]
    fn responses_count_in_their_bin_and_those_outside_the_span_are_left_out() {
        let served = |name: &str| SampleOutcome::Served(name.into());
        let samples = [
            sample(90, served("a")),
            sample(100, served("a")),
            sample(108, served("b")),
            sample(110, SampleOutcome::Status(502, None)),
            sample(500, served("a")),
        ];
        let names = ["a".to_string(), "b".to_string()];
        let timeline = Timeline::new(&samples, &names, Duration::from_millis(100), -10.0..20.0, 10.0);
        assert_eq!(timeline.rates, [[100.0, 100.0, 0.0], [0.0, 100.0, 0.0]]);
        assert_eq!(timeline.failed, [0.0, 0.0, 100.0]);
    }
}
