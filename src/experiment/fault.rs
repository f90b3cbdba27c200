//! `fault`: one replica is killed under load: who took its requests, what failed, how long until another stood there.

use std::time::Duration;

use plotters::prelude::*;

use super::lab::{Fault, Wound};
use super::load::{self, Plan, Sample};
use super::output::{self, Report, percent};
use super::picture::{self, Area, Axes, Drawn, Figure, Head, INK, Mark, RED, grouped, replica_colour};
use super::progress::Progress;
use super::timeline::{Timeline, ms, since};
use super::trial::Trial;
use super::{Settings, rest};
use crate::core::ring::{Member, Ring, RingKind};

const REPLICAS: usize = 3;
/// The one in the middle.
const VICTIM: usize = 1;
const CONNECTIONS: u32 = 24;
/// More than the load reaches in its time.
const REQUESTS: u32 = 2_000_000;
/// Before the kill, and after the heal.
const CALM: Duration = Duration::from_millis(1500);
/// Kills in a row after the first: a replica that dies young is replaced after a growing pause, and what goes to
/// the others meanwhile is enough to compare with the ring.
const AGAIN: u32 = 4;
/// Bins of the picture.
const BINS: f64 = 48.0;
const LEAST_SPAN_MS: f64 = 60.0;

struct Episode {
    trial: Trial,
    /// The one that is drawn.
    wound: Wound,
}

pub fn run(settings: &Settings, progress: &Progress) -> Result<Report, String> {
    progress.expect(3, "steps");
    let episode = Episode::perform(settings, progress)?;
    let picture = picture::paint(&Kill { episode: &episode, shares: episode.shares() })?;
    progress.step();
    Ok(Report { name: "fault", picture, csv: episode.csv(), text: episode.words() })
}

impl Episode {
    fn perform(settings: &Settings, progress: &Progress) -> Result<Episode, String> {
        let plan = Plan { connections: CONNECTIONS, requests: REQUESTS, rate: None, target: |_| "/home".into() };
        let trial = Trial::run(settings, REPLICAS, plan, |lab, names| {
            progress.step();
            rest(CALM)?;
            let wound = lab.wound(&names[VICTIM], Fault::Kill)?;
            rest(CALM)?;
            let again = (0..AGAIN).map(|_| lab.wound(&names[VICTIM], Fault::Kill));
            std::iter::once(Ok(wound)).chain(again).collect()
        })?;
        progress.step();
        let wound = trial.wounds.first().cloned().ok_or("nothing was killed")?;
        Ok(Episode { trial, wound })
    }

    /// From the kill until it left the ring, and until another stood in its place.
    fn delays(&self) -> (f64, f64) {
        (ms(self.wound.harmed, self.wound.noticed), ms(self.wound.harmed, self.wound.healed))
    }

    fn sent(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Sample> {
        self.trial.samples.iter().filter(move |sample| (from..to).contains(&sample.sent))
    }

    /// From a replica's leaving the ring until its replacement was sent its first request: the ring has it a moment
    /// before the log says so.
    fn out(&self, wound: &Wound) -> (Duration, Duration) {
        let (noticed, healed) = (self.trial.at(wound.noticed), self.trial.at(wound.healed));
        let its_own = self.trial.samples.iter().filter(|sample| sample.server() == Some(&wound.name));
        let first = its_own.map(|sample| sample.sent).filter(|sent| *sent > noticed).min();
        (noticed, first.unwrap_or(Duration::MAX).min(healed))
    }

    /// Who got what while all lived, while one was out, and what the ring says for both.
    fn shares(&self) -> Vec<Share> {
        let before: Vec<&Sample> = self.sent(Duration::ZERO, self.trial.at(self.wound.harmed)).collect();
        let outs = self.trial.wounds.iter().map(|wound| self.out(wound));
        let during: Vec<&Sample> = outs.flat_map(|(from, to)| self.sent(from, to)).collect();
        let (before, during) = (load::count(before, &self.trial.names), load::count(during, &self.trial.names));
        let fraction = |counts: &[u32], i: usize| f64::from(counts[i]) / f64::from(counts.iter().sum::<u32>().max(1));
        let members: Vec<Member> = self.trial.names.iter().map(|name| Member::new(name, 1)).collect();
        let left: Vec<Member> = members.iter().filter(|member| member.name != self.wound.name).cloned().collect();
        let (all, fewer) =
            (Ring::build(RingKind::Ketama, &members).shares(), Ring::build(RingKind::Ketama, &left).shares());
        let out = |name: &str| left.iter().position(|member| member.name == name).map_or(0.0, |i| fewer.of(i));
        let share = |(i, name): (usize, &String)| Share {
            name: name.clone(),
            before: fraction(&before, i),
            during: fraction(&during, i),
            ring_before: all.of(i),
            ring_during: out(name),
            sent_during: during[i],
        };
        self.trial.names.iter().enumerate().map(share).collect()
    }

    fn timeline(&self) -> Timeline {
        let span = (self.delays().1 * 1.6).max(LEAST_SPAN_MS);
        let bin = (span * 1.5 / BINS).ceil();
        Timeline::new(&self.trial.samples, &self.trial.names, self.trial.at(self.wound.harmed), -span / 2.0..span, bin)
    }

    fn csv(&self) -> String {
        let zero = self.trial.at(self.wound.harmed);
        let rows = self.trial.samples.iter().map(|sample| {
            let outcome = sample.server().map_or_else(|| format!("{:?}", sample.outcome), String::from);
            [format!("{:.3}", since(sample.sent, zero)), format!("{:.3}", sample.took.as_secs_f64() * 1000.0), outcome]
        });
        // Every request within a second of the kill: more would be a file nobody opens.
        let near = rows.filter(|row| row[0].parse().is_ok_and(|at: f64| at.abs() < 1000.0));
        output::csv(["sent_ms_after_kill", "took_ms", "answered_by"], near)
    }

    fn words(&self) -> String {
        let (failed, first) = self.trial.failures();
        let (noticed, healed) = self.delays();
        let rows = self.shares().into_iter().map(|share| {
            let [a, b, c, d] = [share.before, share.ring_before, share.during, share.ring_during].map(percent);
            [share.name, a, b, c, d]
        });
        format!(
            "{} requests on {CONNECTIONS} connections, each as fast as its answers came; {} was killed under them, and {AGAIN} \
             times more as soon as it was back, so that it stayed out longer. The first time it was \
             out of the ring after {noticed:.1} ms and replaced after {healed:.1} ms. {failed} requests failed{}; the slowest \
             took {:.0} ms.\n\n{}",
            grouped(self.trial.samples.len() as u64),
            self.wound.name,
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

struct Kill<'a> {
    episode: &'a Episode,
    shares: Vec<Share>,
}

impl Figure for Kill<'_> {
    fn name(&self) -> &'static str {
        "fault"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 1100)
    }

    fn head(&self) -> Head {
        let (failed, _) = self.episode.trial.failures();
        let (_, healed) = self.episode.delays();
        let victim = &self.episode.wound.name;
        let mut legend: Vec<(Mark, String)> = self
            .episode
            .trial
            .names
            .iter()
            .enumerate()
            .map(|(i, name)| (Mark::Line(replica_colour(i)), name.clone()))
            .collect();
        legend.push((Mark::Fill(RED), format!("failed: {failed}")));
        legend.push((Mark::Line(INK), "predicted from the ring".into()));
        Head {
            title: format!("{victim} is killed under load: {failed} failed, replaced in {healed:.0} ms"),
            says: format!(
                "{} requests on {CONNECTIONS} connections. Below: where its share went while it was out.",
                grouped(self.episode.trial.samples.len() as u64)
            ),
            legend,
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let (above, below) = area.split_vertically(480);
        let (noticed, healed) = self.episode.delays();
        let mut chart = self.episode.timeline().draw(&above, "milliseconds after the kill", 1.0)?;
        picture::event(&above, &mut chart, healed, 2, &format!("replaced: {healed:.1} ms"))?;
        picture::event(&above, &mut chart, noticed, 1, &format!("out of the ring: {noticed:.1} ms"))?;
        picture::event(&above, &mut chart, 0.0, 0, "killed")?;
        let halves = below.split_evenly((1, 2));
        let before: Vec<_> =
            self.shares.iter().map(|share| (share.name.clone(), share.before, share.ring_before)).collect();
        let during: Vec<_> =
            self.shares.iter().map(|share| (share.name.clone(), share.during, share.ring_during)).collect();
        let counted: u32 = self.shares.iter().map(|share| share.sent_during).sum();
        shares(&halves[0], "shares before the first kill", &before)?;
        shares(
            &halves[1],
            &format!("while it was out, {} times, {} requests", AGAIN + 1, grouped(counted.into())),
            &during,
        )
    }
}

fn shares<B: DrawingBackend>(area: &Area<B>, title: &str, bars: &[(String, f64, f64)]) -> Drawn<B> {
    let axes = Axes {
        title,
        x: 0.0..bars.len() as f64,
        y: 0.0..0.8,
        x_says: "",
        y_says: "",
        y_room: 110,
        x_label: None,
        y_label: &|y| format!("{:.0} %", y * 100.0),
        x_labels: 0,
    };
    let mut chart = axes.chart(area)?;
    for (i, (name, measured, predicted)) in bars.iter().enumerate() {
        let at = |offset: f64| i as f64 + offset;
        chart.draw_series([Rectangle::new([(at(0.2), 0.0), (at(0.8), *measured)], replica_colour(i).filled())])?;
        let line = [(at(0.1), *predicted), (at(0.9), *predicted)];
        chart.draw_series([PathElement::new(line, INK.stroke_width(4))])?;
        picture::above(area, &chart, (at(0.5), measured.max(*predicted)), &percent(*measured))?;
        picture::below(area, &chart, at(0.5), name)?;
    }
    Ok(())
}
