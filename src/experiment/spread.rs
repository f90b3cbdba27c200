//! `spread`: many requests over three replicas, compared with the ring's exact shares and with random variation.

use std::time::Instant;

use plotters::prelude::*;

use super::load::{self, LoadPlan, PATIENT, Pace};
use super::output::{self, Report, percent};
use super::picture::{
    self, Area, Axes, Caption, Drawn, Figure, LegendMark, MUTED, TEXT_COLOUR, grouped, replica_colour,
};
use super::progress::Progress;
use super::testbed::Testbed;
use super::{ExperimentSettings, check_interrupted, stop};
use crate::core::ring::{Member, Ring, RingKind};

const REPLICAS: usize = 3;
const CONNECTIONS: u32 = 16;

/// One replica: the requests it served, and its share of the ring.
pub struct ReplicaCount {
    pub name: String,
    pub requests: u32,
    /// Fraction of the ring.
    pub share: f64,
}

/// The requests of one load, by replica.
pub struct LoadCount {
    pub rows: Vec<ReplicaCount>,
    pub total: u32,
    pub failed: usize,
}

pub fn run(settings: &ExperimentSettings, progress: &Progress) -> Result<Report, String> {
    let count = count(settings, REPLICAS, progress)?;
    let picture = picture::paint(&SpreadFigure { count: &count })?;
    Ok(Report { name: "spread", picture, csv: csv(&count), text: summary(&count) })
}

/// Sends `settings.requests` requests over `replicas` replicas.
pub fn count(settings: &ExperimentSettings, replicas: usize, progress: &Progress) -> Result<LoadCount, String> {
    progress.expect(settings.requests.into(), "requests");
    let testbed = Testbed::start(settings, replicas, &[])?;
    let names = testbed.names()?;
    let plan = LoadPlan {
        connections: CONNECTIONS,
        requests: settings.requests,
        pace: Pace::Closed,
        patience: PATIENT,
        target: |_| "/home".into(),
    };
    let samples = load::run(testbed.data, plan, Instant::now(), stop(), |_| progress.step())?;
    check_interrupted()?;
    let shares =
        Ring::build(RingKind::Ketama, &names.iter().map(|name| Member::new(name, 1)).collect::<Vec<_>>()).shares();
    let counts = load::count(&samples, &names);
    let row =
        |(i, name): (usize, &String)| ReplicaCount { name: name.clone(), requests: counts[i], share: shares.of(i) };
    let (failed, first) = load::failures(&samples);
    if let Some(first) = first.filter(|_| failed as u32 * 10 > settings.requests) {
        return Err(format!("{failed} of {} requests failed; {first}", settings.requests));
    }
    Ok(LoadCount { rows: names.iter().enumerate().map(row).collect(), total: settings.requests, failed })
}

impl LoadCount {
    pub fn expected(&self, row: &ReplicaCount) -> f64 {
        row.share * f64::from(self.total)
    }

    /// Standard deviation of the requests that random keys give a replica of this share.
    pub fn noise(&self, row: &ReplicaCount) -> f64 {
        (f64::from(self.total) * row.share * (1.0 - row.share)).sqrt()
    }
}

fn csv(count: &LoadCount) -> String {
    let rows = count.rows.iter().map(|row| {
        let share = format!("{:.6}", row.share);
        let (expected, noise) = (format!("{:.1}", count.expected(row)), format!("{:.1}", count.noise(row)));
        [row.name.clone(), row.requests.to_string(), share, expected, noise]
    });
    output::csv(["replica", "requests", "ring_share", "expected_requests", "standard_deviation"], rows)
}

fn summary(count: &LoadCount) -> String {
    let rows = count.rows.iter().map(|row| {
        let off = (f64::from(row.requests) - count.expected(row)) / count.noise(row);
        let got = f64::from(row.requests) / f64::from(count.total);
        [row.name.clone(), grouped(row.requests.into()), percent(got), percent(row.share), format!("{off:+.1}")]
    });
    let head = ["replica", "requests", "measured", "share of the ring", "off by (standard deviations)"];
    format!(
        "{} requests for /home over {} replicas, each with a random key (`--hash-key request`); {} failed. A \
         replica's share of the ring is exact; random keys leave a standard deviation of \
         sqrt(n p (1-p)).\n\n{}",
        grouped(count.total.into()),
        count.rows.len(),
        count.failed,
        output::table(head, rows)
    )
}

struct SpreadFigure<'a> {
    count: &'a LoadCount,
}

impl Figure for SpreadFigure<'_> {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn caption(&self) -> Caption {
        let LoadCount { rows, total, failed } = self.count;
        Caption {
            title: format!("{} requests over {} replicas", grouped((*total).into()), rows.len()),
            subtitle: format!("Measured through a running balancer; {failed} failed."),
            legend: vec![
                (LegendMark::Fill(replica_colour(0)), "requests answered".into()),
                (LegendMark::Line(TEXT_COLOUR), "exact share of the ring".into()),
                (LegendMark::Band(MUTED), "two standard deviations of random keys".into()),
            ],
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let most =
            self.count.rows.iter().map(|row| f64::from(row.requests).max(self.count.expected(row))).fold(0.0, f64::max);
        let axes = Axes {
            title: "",
            x: 0.0..self.count.rows.len() as f64,
            y: 0.0..picture::axis_end(most * 1.1),
            x_title: "",
            y_title: "requests",
            y_label_width: 150,
            x_label: None,
            y_label: &|y| grouped(*y as u64),
            x_labels: 0,
        };
        let mut chart = axes.chart(area)?;
        for (i, row) in self.count.rows.iter().enumerate() {
            let at = |offset: f64| i as f64 + offset;
            let (expected, noise) = (self.count.expected(row), self.count.noise(row));
            let bar = [(at(0.2), 0.0), (at(0.8), f64::from(row.requests))];
            chart.draw_series([Rectangle::new(bar, replica_colour(i).filled())])?;
            let band = [(at(0.1), expected - 2.0 * noise), (at(0.9), expected + 2.0 * noise)];
            chart.draw_series([Rectangle::new(band, MUTED.mix(0.35).filled())])?;
            chart.draw_series([PathElement::new(
                [(at(0.1), expected), (at(0.9), expected)],
                TEXT_COLOUR.stroke_width(4),
            )])?;
            let got = f64::from(row.requests) / f64::from(self.count.total);
            let label = format!("{} ({})", grouped(row.requests.into()), percent(got));
            let top = f64::from(row.requests).max(expected + 2.0 * noise);
            picture::label_above(area, &chart, (at(0.5), top), &label)?;
            picture::label_below(area, &chart, at(0.5), &format!("{}: {} of the ring", row.name, percent(row.share)))?;
        }
        Ok(())
    }
}
