//! `fault`: one replica is killed under load: which replicas served its requests meanwhile, how many requests failed, how
//! long until it was replaced.

use std::time::Duration;

use plotters::prelude::*;

use super::load::{self, LoadPlan, PATIENT, Pace, Sample};
use super::output::{self, Report, percent};
use super::picture::{
    self, Area, Axes, Bar, Caption, Drawn, Figure, LegendMark, RED, TEXT_COLOUR, grouped, replica_colour,
};
use super::progress::Progress;
use super::testbed::{InjectedFault, Recovery};
use super::timeline::{Timeline, ms, since};
use super::trial::Trial;
use super::{ExperimentSettings, sleep};
use crate::core::ring::{Member, Ring, RingKind};

const REPLICAS: usize = 3;
/// Index of the replica that is killed: the middle one.
const TARGET: usize = 1;
const CONNECTIONS: u32 = 24;
/// More than the load sends in its time.
const REQUESTS: u32 = 2_000_000;
/// Load without a fault, before the first kill and after its recovery.
const QUIET_TIME: Duration = Duration::from_millis(1500);
/// Kills in a row after the first. A replica that dies soon after its start is replaced after a growing pause, so that
/// enough requests go to the others to compare their shares with the ring's.
const REPEATS: u32 = 4;
/// Of the timeline.
const BINS: f64 = 48.0;
const LEAST_SPAN_MS: f64 = 60.0;

struct KillRun {
    trial: Trial,
    /// From the first kill: the one that is drawn.
    recovery: Recovery,
}

pub fn run(settings: &ExperimentSettings, progress: &Progress) -> Result<Report, String> {
    progress.expect(3, "steps");
    let kills = KillRun::perform(settings, progress)?;
    let picture = picture::paint(&KillFigure { run: &kills, shares: kills.shares() })?;
    progress.step();
    Ok(Report { name: "fault", picture, csv: kills.csv(), text: kills.summary() })
}

impl KillRun {
    fn perform(settings: &ExperimentSettings, progress: &Progress) -> Result<KillRun, String> {
        let plan = LoadPlan {
            connections: CONNECTIONS,
            requests: REQUESTS,
            pace: Pace::Closed,
            patience: PATIENT,
            target: |_| "/home".into(),
        };
        let trial = Trial::run(settings, REPLICAS, plan, |testbed, names| {
            progress.step();
            sleep(QUIET_TIME)?;
            let first = testbed.inject(&names[TARGET], InjectedFault::Kill)?;
            sleep(QUIET_TIME)?;
            let repeats = (0..REPEATS).map(|_| testbed.inject(&names[TARGET], InjectedFault::Kill));
            std::iter::once(Ok(first)).chain(repeats).collect()
        })?;
        progress.step();
        let recovery = trial.recoveries.first().cloned().ok_or("nothing was killed")?;
        Ok(KillRun { trial, recovery })
    }

    /// Milliseconds from the kill until the replica left the ring, and until it was replaced.
    fn delays_ms(&self) -> (f64, f64) {
        let Recovery { injected_at, removed_at, replaced_at, .. } = self.recovery;
        (ms(injected_at, removed_at), ms(injected_at, replaced_at))
    }

    fn sent(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Sample> {
        self.trial.samples.iter().filter(move |sample| (from..to).contains(&sample.sent))
    }

    /// From when the replica left the ring until its replacement was sent its first request: the replacement is on the
    /// ring a moment before the log says so.
    fn outage(&self, recovery: &Recovery) -> (Duration, Duration) {
        let (removed, replaced) = (self.trial.at(recovery.removed_at), self.trial.at(recovery.replaced_at));
        let served = self.trial.samples.iter().filter(|sample| sample.server() == Some(&recovery.replica));
        let first = served.map(|sample| sample.sent).filter(|sent| *sent > removed).min();
        (removed, first.unwrap_or(Duration::MAX).min(replaced))
    }

    /// Each replica's share while all were up and while one was out, measured and by the ring.
    fn shares(&self) -> Vec<Share> {
        let before: Vec<&Sample> = self.sent(Duration::ZERO, self.trial.at(self.recovery.injected_at)).collect();
        let outages = self.trial.recoveries.iter().map(|recovery| self.outage(recovery));
        let during: Vec<&Sample> = outages.flat_map(|(from, to)| self.sent(from, to)).collect();
        let (before, during) = (load::count(before, &self.trial.names), load::count(during, &self.trial.names));
        let fraction = |counts: &[u32], i: usize| f64::from(counts[i]) / f64::from(counts.iter().sum::<u32>().max(1));
        let members: Vec<Member> = self.trial.names.iter().map(|name| Member::new(name, 1)).collect();
        let left: Vec<Member> = members.iter().filter(|member| member.name != self.recovery.replica).cloned().collect();
        let (all, fewer) =
            (Ring::build(RingKind::Ketama, &members).shares(), Ring::build(RingKind::Ketama, &left).shares());
        let share_without =
            |name: &str| left.iter().position(|member| member.name == name).map_or(0.0, |i| fewer.of(i));
        let share = |(i, name): (usize, &String)| Share {
            name: name.clone(),
            before: fraction(&before, i),
            during: fraction(&during, i),
            ring_before: all.of(i),
            ring_during: share_without(name),
            sent_during: during[i],
        };
        self.trial.names.iter().enumerate().map(share).collect()
    }

    fn timeline(&self) -> Timeline {
        let span = (self.delays_ms().1 * 1.6).max(LEAST_SPAN_MS);
        let bin = (span * 1.5 / BINS).ceil();
        Timeline::new(
            &self.trial.samples,
            &self.trial.names,
            self.trial.at(self.recovery.injected_at),
            -span / 2.0..span,
            bin,
        )
    }

    fn csv(&self) -> String {
        let zero = self.trial.at(self.recovery.injected_at);
        let rows = self.trial.samples.iter().map(|sample| {
            let outcome = sample.server().map_or_else(|| format!("{:?}", sample.outcome), String::from);
            [format!("{:.3}", since(sample.sent, zero)), format!("{:.3}", sample.took.as_secs_f64() * 1000.0), outcome]
        });
        // Requests within a second of the kill: all of them would be too large a file to open.
        let near = rows.filter(|row| row[0].parse().is_ok_and(|at: f64| at.abs() < 1000.0));
        output::csv(["sent_ms_after_kill", "took_ms", "answered_by"], near)
    }

    fn summary(&self) -> String {
        let (failed, first) = self.trial.failures();
        let (removed_ms, replaced_ms) = self.delays_ms();
        let rows = self.shares().into_iter().map(|share| {
            let [a, b, c, d] = [share.before, share.ring_before, share.during, share.ring_during].map(percent);
            [share.name, a, b, c, d]
        });
        format!(
            "{} requests on {CONNECTIONS} connections, each sent as soon as the one before was answered; {} was killed meanwhile, and \
             {REPEATS} times more as soon as it was back, so that it stayed out longer. The first time it was \
             out of the ring after {removed_ms:.1} ms and replaced after {replaced_ms:.1} ms. {failed} requests failed{}; the slowest \
             took {:.0} ms.\n\n{}",
            grouped(self.trial.samples.len() as u64),
            self.recovery.replica,
            first.map(|first| format!(" ({first})")).unwrap_or_default(),
            self.trial.slowest_ms(),
            output::table(["replica", "before", "of the ring", "while it was out", "of the ring without it"], rows)
        )
    }
}

struct Share {
    name: String,
    before: f64,
    during: f64,
    ring_before: f64,
    ring_during: f64,
    sent_during: u32,
}

struct KillFigure<'a> {
    run: &'a KillRun,
    shares: Vec<Share>,
}

impl Figure for KillFigure<'_> {
    fn name(&self) -> &'static str {
        "fault"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 1100)
    }

    fn caption(&self) -> Caption {
        let (failed, _) = self.run.trial.failures();
        let (_, replaced_ms) = self.run.delays_ms();
        let replica = &self.run.recovery.replica;
        let mut legend: Vec<(LegendMark, String)> = self
            .run
            .trial
            .names
            .iter()
            .enumerate()
            .map(|(i, name)| (LegendMark::Line(replica_colour(i)), name.clone()))
            .collect();
        legend.push((LegendMark::Fill(RED), format!("failed: {failed}")));
        legend.push((LegendMark::Line(TEXT_COLOUR), "predicted from the ring".into()));
        Caption {
            title: format!("{replica} is killed under load: {failed} failed, replaced in {replaced_ms:.0} ms"),
            subtitle: format!(
                "{} requests on {CONNECTIONS} connections. Below: which replicas served its share while it was out.",
                grouped(self.run.trial.samples.len() as u64)
            ),
            legend,
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let (top, bottom) = area.split_vertically(480);
        let (removed_ms, replaced_ms) = self.run.delays_ms();
        let mut chart = self.run.timeline().draw(&top, "milliseconds after the kill", 1.0)?;
        picture::event_line(&top, &mut chart, replaced_ms, 2, &format!("replaced: {replaced_ms:.1} ms"))?;
        picture::event_line(&top, &mut chart, removed_ms, 1, &format!("out of the ring: {removed_ms:.1} ms"))?;
        picture::event_line(&top, &mut chart, 0.0, 0, "killed")?;
        let halves = bottom.split_evenly((1, 2));
        let before: Vec<_> =
            self.shares.iter().map(|share| (share.name.clone(), share.before, share.ring_before)).collect();
        let during: Vec<_> =
            self.shares.iter().map(|share| (share.name.clone(), share.during, share.ring_during)).collect();
        let counted: u32 = self.shares.iter().map(|share| share.sent_during).sum();
        shares(&halves[0], "shares before the first kill", &before)?;
        shares(
            &halves[1],
            &format!("while it was out, {} times, {} requests", REPEATS + 1, grouped(counted.into())),
            &during,
        )
    }
}

fn shares<B: DrawingBackend>(area: &Area<B>, title: &str, bars: &[(String, f64, f64)]) -> Drawn<B> {
    let axes = Axes {
        title,
        x: 0.0..bars.len() as f64,
        y: 0.0..0.8,
        x_title: "",
        y_title: "",
        y_label_width: 110,
        x_label: None,
        y_label: &|y| format!("{:.0} %", y * 100.0),
        x_labels: 0,
    };
    let bar = |(i, (name, measured, predicted)): (usize, &(String, f64, f64))| Bar {
        name: name.clone(),
        value: *measured,
        label: percent(*measured),
        colour: replica_colour(i),
        predicted: Some(*predicted),
    };
    picture::bars(area, &axes, &bars.iter().enumerate().map(bar).collect::<Vec<_>>())
}
