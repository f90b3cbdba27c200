//! Four panels: the policies with a slow replica and with heavy-tailed times, goodput and latency under overload.

use std::time::Duration;

use plotters::prelude::*;

use super::super::output::percent;
use super::super::picture::{
    self, Area, Axes, BLUE, Bar, Caption, Drawn, Figure, LegendMark, MUTED, ORANGE, TEXT_COLOUR, grouped,
};
use super::{
    HEAVY_LOAD, PATIENCE, POLICIES, PolicyLoad, PolicyRuns, QUEUE_DEADLINE, SERVERS, SLOW_FACTOR, SLOW_LOAD, mean,
    quantile, served,
};

pub struct PoliciesFigure<'a> {
    pub runs: &'a PolicyRuns,
}

impl Figure for PoliciesFigure<'_> {
    fn name(&self) -> &'static str {
        "policies"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 1300)
    }

    fn caption(&self) -> Caption {
        Caption {
            title: "Balancing policies, and a queue under overload".into(),
            subtitle: format!(
                "{SERVERS} servers of known capacity, an open loop of independent requests; a client waits {} s.",
                PATIENCE.as_secs()
            ),
            legend: vec![
                (LegendMark::Fill(BLUE), "measured".into()),
                (LegendMark::Line(TEXT_COLOUR), "predicted by queueing theory".into()),
                (LegendMark::Line(ORANGE), "goal".into()),
            ],
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let (top, bottom) = area.split_vertically(560);
        let (above, below) = top.split_vertically(280);
        let slow = format!("p99 in ms, one replica {SLOW_FACTOR} times slower, load {:.0} %", SLOW_LOAD * 100.0);
        policy_bars(&above, &slow, &self.runs.slow, |load| {
            let p99 = quantile(load.samples.iter(), 0.99);
            (p99, load.predicted.p99)
        })?;
        let heavy = format!("mean in ms, heavy-tailed service times, load {:.0} %", HEAVY_LOAD * 100.0);
        policy_bars(&below, &heavy, &self.runs.heavy, |load| (mean(served(load.steady())), load.predicted.mean))?;
        let halves = bottom.split_evenly((1, 2));
        self.goodput(&halves[0])?;
        self.latency(&halves[1])
    }
}

impl PoliciesFigure<'_> {
    fn goodput<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let axes = overload_axes("goodput, of the capacity", 0.0..1.2, &|y| format!("{:.0} %", y * 100.0));
        let mut chart = axes.chart(area)?;
        chart.draw_series(LineSeries::new([(0.0, 0.0), (1.0, 1.0), (2.2, 1.0)], TEXT_COLOUR.stroke_width(4)))?;
        chart.draw_series(LineSeries::new([(1.85, 0.9), (2.15, 0.9)], ORANGE.stroke_width(5)))?;
        for load in &self.runs.overload {
            let goodput = load.goodput();
            chart.draw_series([Circle::new((load.load, goodput), 10, BLUE.filled())])?;
            // Beside the line that rises to the capacity.
            let x = if load.load < 1.0 { load.load - 0.2 } else { load.load };
            picture::label_above(area, &chart, (x, goodput + 0.04), &percent(goodput))?;
        }
        Ok(())
    }

    fn latency<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let deadline = ms(QUEUE_DEADLINE);
        let axes = overload_axes("p99 of what is served, ms", 0.0..deadline * 2.5, &|y| grouped(*y as u64));
        let mut chart = axes.chart(area)?;
        chart.draw_series(LineSeries::new([(1.85, 2.0 * deadline), (2.15, 2.0 * deadline)], ORANGE.stroke_width(5)))?;
        for load in &self.runs.overload {
            let p99 = ms(quantile(served(load.steady()), 0.99).unwrap_or(PATIENCE));
            if let Some(predicted) = load.predicted.p99.map(ms) {
                let line = [(load.load - 0.15, predicted), (load.load + 0.15, predicted)];
                chart.draw_series([PathElement::new(line, TEXT_COLOUR.stroke_width(4))])?;
            }
            chart.draw_series([Circle::new((load.load, p99), 10, BLUE.filled())])?;
            picture::label_above(area, &chart, (load.load - 0.22, p99), &format!("{p99:.0}"))?;
        }
        Ok(())
    }
}

fn overload_axes<'a>(title: &'a str, y: std::ops::Range<f64>, y_label: &'a dyn Fn(&f64) -> String) -> Axes<'a> {
    Axes {
        title,
        x: 0.0..2.3,
        y,
        x_title: "load, of the capacity (least-request, with a queue)",
        y_title: "",
        y_label_width: 110,
        x_label: Some(&|x| format!("{:.0} %", x * 100.0)),
        y_label,
        x_labels: 5,
    }
}

/// What was not served in time has no bar that is long enough: it ends at the patience.
fn policy_bars<B: DrawingBackend>(
    area: &Area<B>,
    title: &str,
    loads: &[PolicyLoad],
    value: impl Fn(&PolicyLoad) -> (Option<Duration>, Option<Duration>),
) -> Drawn<B> {
    let limit = ms(PATIENCE);
    let bar = |load: &PolicyLoad| {
        let (measured, predicted) = value(load);
        Bar {
            name: load.name.into(),
            value: measured.map_or(limit, ms),
            label: super::shown(measured),
            colour: if measured.is_some() { BLUE } else { MUTED },
            predicted: predicted.map(|time| ms(time).min(limit)),
        }
    };
    let bars: Vec<Bar> = loads.iter().map(bar).collect();
    let most = bars.iter().map(|bar| bar.value.max(bar.predicted.unwrap_or(0.0))).fold(1.0, f64::max);
    let axes = Axes {
        title,
        x: 0.0..POLICIES.len() as f64,
        y: 0.0..picture::axis_end(most * 1.25),
        x_title: "",
        y_title: "",
        y_label_width: 110,
        x_label: None,
        y_label: &|y| grouped(*y as u64),
        x_labels: 0,
    };
    picture::bars(area, &axes, &bars)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
