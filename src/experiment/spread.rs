//! `spread`: many requests over three replicas, beside the ring's exact shares and the noise of chance.

use std::time::Instant;

use plotters::prelude::*;

use super::lab::Lab;
use super::load::{self, Plan};
use super::output::{self, Report, percent};
use super::picture::{self, Area, Axes, Drawn, Figure, Head, INK, Mark, QUIET, grouped, replica_colour};
use super::progress::Progress;
use super::{Settings, interrupted, stop};
use crate::core::ring::{Member, Ring, RingKind};

const REPLICAS: usize = 3;
const CONNECTIONS: u32 = 16;

/// One replica: what it should have got, and what it got.
pub struct Row {
    pub name: String,
    pub requests: u32,
    /// Fraction of the ring.
    pub share: f64,
}

/// What one load came to.
pub struct Count {
    pub rows: Vec<Row>,
    pub total: u32,
    pub failed: usize,
}

pub fn run(settings: &Settings, progress: &Progress) -> Result<Report, String> {
    let count = count(settings, REPLICAS, progress)?;
    let picture = picture::paint(&Spread { count: &count })?;
    Ok(Report { name: "spread", picture, csv: csv(&count), text: words(&count) })
}

/// `settings.requests` requests over so many replicas.
pub fn count(settings: &Settings, replicas: usize, progress: &Progress) -> Result<Count, String> {
    progress.expect(settings.requests.into(), "requests");
    let lab = Lab::start(settings, replicas, &[])?;
    let names = lab.names()?;
    let plan = Plan { connections: CONNECTIONS, requests: settings.requests, rate: None, target: |_| "/home".into() };
    let samples = load::run(lab.data, plan, Instant::now(), stop(), |_| progress.step())?;
    interrupted()?;
    let shares =
        Ring::build(RingKind::Ketama, &names.iter().map(|name| Member::new(name, 1)).collect::<Vec<_>>()).shares();
    let counts = load::count(&samples, &names);
    let row = |(i, name): (usize, &String)| Row { name: name.clone(), requests: counts[i], share: shares.of(i) };
    let (failed, first) = load::failures(&samples);
    if let Some(first) = first.filter(|_| failed as u32 * 10 > settings.requests) {
        return Err(format!("{failed} of {} requests failed; {first}", settings.requests));
    }
    Ok(Count { rows: names.iter().enumerate().map(row).collect(), total: settings.requests, failed })
}

impl Count {
    pub fn expected(&self, row: &Row) -> f64 {
        row.share * f64::from(self.total)
    }

    /// Standard deviation of what chance gives a replica of this share.
    pub fn noise(&self, row: &Row) -> f64 {
        (f64::from(self.total) * row.share * (1.0 - row.share)).sqrt()
    }
}

fn csv(count: &Count) -> String {
    let rows = count.rows.iter().map(|row| {
        let share = format!("{:.6}", row.share);
        let (expected, noise) = (format!("{:.1}", count.expected(row)), format!("{:.1}", count.noise(row)));
        [row.name.clone(), row.requests.to_string(), share, expected, noise]
    });
    output::csv(["replica", "requests", "ring_share", "expected_requests", "standard_deviation"], rows)
}

fn words(count: &Count) -> String {
    let rows = count.rows.iter().map(|row| {
        let off = (f64::from(row.requests) - count.expected(row)) / count.noise(row);
        let got = f64::from(row.requests) / f64::from(count.total);
        [row.name.clone(), grouped(row.requests.into()), percent(got), percent(row.share), format!("{off:+.1}")]
    });
    let head = ["replica", "requests", "measured", "share of the ring", "off by (standard deviations)"];
    format!(
        "{} requests for /home over {} replicas, each with a number of its own (`--hash-key request`); {} failed. A \
         replica's share of the ring is exact; even perfect routing by chance leaves the standard deviation \
         sqrt(n p (1-p)).\n\n{}",
        grouped(count.total.into()),
        count.rows.len(),
        count.failed,
        output::table(head, rows)
    )
}

struct Spread<'a> {
    count: &'a Count,
}

impl Figure for Spread<'_> {
    fn name(&self) -> &'static str {
        "spread"
    }

    fn head(&self) -> Head {
        let Count { rows, total, failed } = self.count;
        Head {
            title: format!("{} requests over {} replicas", grouped((*total).into()), rows.len()),
            says: format!("Measured through a running balancer; {failed} failed."),
            legend: vec![
                (Mark::Fill(replica_colour(0)), "requests answered".into()),
                (Mark::Line(INK), "exact share of the ring".into()),
                (Mark::Band(QUIET), "two standard deviations of chance".into()),
            ],
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let most =
            self.count.rows.iter().map(|row| f64::from(row.requests).max(self.count.expected(row))).fold(0.0, f64::max);
        let axes = Axes {
            title: "",
            x: 0.0..self.count.rows.len() as f64,
            y: 0.0..picture::ceiling(most * 1.1),
            x_says: "",
            y_says: "requests",
            y_room: 150,
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
            chart.draw_series([Rectangle::new(band, QUIET.mix(0.35).filled())])?;
            chart.draw_series([PathElement::new([(at(0.1), expected), (at(0.9), expected)], INK.stroke_width(4))])?;
            let got = f64::from(row.requests) / f64::from(self.count.total);
            let says = format!("{} ({})", grouped(row.requests.into()), percent(got));
            let top = f64::from(row.requests).max(expected + 2.0 * noise);
            picture::above(area, &chart, (at(0.5), top), &says)?;
            picture::below(area, &chart, at(0.5), &format!("{}: {} of the ring", row.name, percent(row.share)))?;
        }
        Ok(())
    }
}
