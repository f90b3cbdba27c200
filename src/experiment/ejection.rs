//! `ejection`: servers answer 500 under load, one of four and then three of four: when each was ejected, after how many
//! failures, and when it came back by itself.

use std::time::{Duration, Instant};

use plotters::prelude::*;

use super::load::{self, LoadPlan, PATIENT, Pace, Sample};
use super::output::{self, Report};
use super::picture::{
    self, Area, Axes, Caption, Drawn, Figure, LegendMark, MUTED, RED, TEXT_COLOUR, grouped, replica_colour,
};
use super::progress::Progress;
use super::servers::{ServiceTime, TimedServer};
use super::testbed::Testbed;
use super::timeline::{Timeline, since};
use super::{ExperimentSettings, sleep};

const SERVERS: usize = 4;
/// Index of the one that fails alone.
const TARGET: usize = 1;
/// So many of them fail together, the first ones.
const MANY: usize = 3;
/// The default of `--ejection-max-share` allows half of them to be out.
const OUT_MAX: usize = SERVERS / 2;
/// The default of `--ejection-consecutive-failures`.
const FAILURES_MAX: usize = 5;
/// Heartbeats have no part in this, also where this machine is busy.
const FLAGS: [&str; 2] = ["--ejection-count-5xx", "--health-timeout=10s"];
const CONNECTIONS: u32 = 64;
const REQUESTS: u32 = 2_000_000;
/// Per second.
const RATE: f64 = 400.0;
const WORK: ServiceTime = ServiceTime::Exponential { mean: Duration::from_micros(500) };
const BROKEN_TIME: Duration = Duration::from_secs(10);
/// The first ejection lasts this part of the fault, so that the server comes back while it still fails; each further one
/// lasts twice as long.
const BASE_PART: u32 = 5;
/// Load before each fault, and after the last replica is back.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// Of failures, and of the requests above them.
const BIN_MS: f64 = 100.0;
const REQUESTS_BIN_MS: f64 = 250.0;
/// For ejections that end by themselves.
const BACK_TIMEOUT: Duration = Duration::from_secs(60);

/// A time in which a server took no new requests, counted from the start of the load.
#[derive(Clone, Debug, PartialEq)]
struct Ejection {
    server: usize,
    begin: Duration,
    end: Duration,
    /// Requests that it failed in a row, as the balancer counts them.
    in_a_row: usize,
    /// 500s of it since it was last back, those that were under way when it was ejected among them.
    failures: usize,
}

struct EjectionRun {
    names: Vec<String>,
    samples: Vec<Sample>,
    ejections: Vec<Ejection>,
    /// When the target began to fail, when it worked again; when many began to fail, and worked again.
    faults: [Duration; 4],
}

pub fn run(settings: &ExperimentSettings, progress: &Progress) -> Result<Report, String> {
    let run = perform(settings, progress)?;
    let picture = picture::paint(&EjectionFigure { run: &run })?;
    Ok(Report { name: "ejection", picture, csv: run.csv(), text: run.summary() })
}

fn perform(settings: &ExperimentSettings, progress: &Progress) -> Result<EjectionRun, String> {
    progress.expect(4, "steps");
    let time = settings.time_or(BROKEN_TIME);
    let servers = TimedServer::start_all(&[WORK; SERVERS])?;
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let [base, max] = [("base", time / BASE_PART), ("max", time / BASE_PART * 2)]
        .map(|(name, time)| format!("--ejection-{name}={}ms", time.as_millis()));
    let testbed = Testbed::in_front_of(settings, &addresses, &[&FLAGS[..], &[&base, &max]].concat())?;
    let plan = LoadPlan {
        connections: CONNECTIONS,
        requests: REQUESTS,
        pace: Pace::Poisson(RATE),
        patience: PATIENT,
        target: |_| "/home".into(),
    };
    let begin = Instant::now();
    let (samples, faults) = load::during(testbed.data, plan, begin, || {
        sleep(QUIET_TIME)?;
        let one = break_for(&servers[TARGET..=TARGET], time, begin)?;
        progress.step();
        await_all_back(&testbed, &servers)?;
        progress.step();
        sleep(QUIET_TIME)?;
        let many = break_for(&servers[..MANY], time / 2, begin)?;
        progress.step();
        await_all_back(&testbed, &servers)?;
        sleep(QUIET_TIME)?;
        Ok([one.0, one.1, many.0, many.1])
    })?;
    progress.step();
    let spans = spans(&testbed.logged(), &servers, begin);
    let names: Vec<String> = servers.iter().map(|server| server.name.clone()).collect();
    let ejections = counted(spans, &samples, &names);
    Ok(EjectionRun { names, samples, ejections, faults })
}

/// When they began to fail and when they worked again, from `begin`.
fn break_for(servers: &[TimedServer], time: Duration, begin: Instant) -> Result<(Duration, Duration), String> {
    servers.iter().for_each(|server| server.break_down());
    let from = begin.elapsed();
    let slept = sleep(time);
    servers.iter().for_each(|server| server.recover());
    slept.map(|()| (from, begin.elapsed()))
}

fn await_all_back(testbed: &Testbed, servers: &[TimedServer]) -> Result<(), String> {
    let begin = Instant::now();
    while !spans(&testbed.logged(), servers, begin).iter().all(|span| span.end.is_some()) {
        if begin.elapsed() > BACK_TIMEOUT {
            return Err(format!("a replica did not come back within {} s", BACK_TIMEOUT.as_secs()));
        }
        sleep(Duration::from_millis(50))?;
    }
    Ok(())
}

/// A time out of new picks that may not be over.
#[derive(Clone, Debug, PartialEq)]
struct OutSpan {
    server: usize,
    begin: Duration,
    end: Option<Duration>,
    in_a_row: usize,
}

/// By the balancer's log.
fn spans(log: &[(Instant, String)], servers: &[TimedServer], begin: Instant) -> Vec<OutSpan> {
    let mut spans: Vec<OutSpan> = Vec::new();
    for (at, line) in log {
        let named = |server: &TimedServer| line.contains(&format!(" {}: ", server.address));
        let Some(server) = servers.iter().position(named) else { continue };
        let at = at.saturating_duration_since(begin);
        let open = spans.iter_mut().find(|span| span.server == server && span.end.is_none());
        match open {
            None if line.contains("new requests go to others") => {
                // "10.0.0.1:80: failing: 5 requests in a row failed; ..."
                let in_a_row = line.split(": ").filter_map(|part| part.split(' ').next()?.parse().ok()).next();
                spans.push(OutSpan { server, begin: at, end: None, in_a_row: in_a_row.unwrap_or(0) });
            }
            Some(span) if line.contains("it takes requests") => span.end = Some(at),
            _ => {}
        }
    }
    spans
}

/// Each span with the failures that led to it: those since the server was last back.
fn counted(spans: Vec<OutSpan>, samples: &[Sample], names: &[String]) -> Vec<Ejection> {
    let mut back = vec![Duration::ZERO; names.len()];
    let count = |span: OutSpan| {
        let OutSpan { server, begin, end, in_a_row } = span;
        let end = end.unwrap_or(Duration::MAX);
        let from = std::mem::replace(&mut back[server], end);
        let failed = samples.iter().filter(|sample| sample.failed_at() == Some(&names[server]));
        let failures = failed.filter(|sample| (from..end).contains(&sample.answered())).count();
        Ejection { server, begin, end, in_a_row, failures }
    };
    spans.into_iter().map(count).collect()
}

impl EjectionRun {
    /// Those of the server that failed alone, until many failed.
    fn of_target(&self) -> impl Iterator<Item = &Ejection> {
        self.ejections.iter().filter(|ejection| ejection.server == TARGET && ejection.begin < self.faults[2])
    }

    /// At a time.
    fn most_out(&self) -> usize {
        let out = |at: Duration| self.ejections.iter().filter(|other| (other.begin..other.end).contains(&at)).count();
        self.ejections.iter().map(|ejection| out(ejection.begin)).max().unwrap_or(0)
    }

    /// Of the server that failed alone, as the balancer counted.
    fn most_in_a_row(&self) -> usize {
        self.of_target().map(|ejection| ejection.in_a_row).max().unwrap_or(0)
    }

    fn failed(&self) -> usize {
        load::failures(&self.samples).0
    }

    /// 500s of a server in a bin.
    fn failures_in(&self, server: usize) -> Vec<u32> {
        let bins = self.samples.iter().map(bin).max().map_or(0, |last| last + 1);
        let mut counts = vec![0; bins];
        let failed = self.samples.iter().filter(|sample| sample.failed_at() == Some(&self.names[server]));
        failed.for_each(|sample| counts[bin(sample)] += 1);
        counts
    }

    fn csv(&self) -> String {
        let events = self.ejections.iter().flat_map(|ejection| {
            let row = move |at: Duration, event: &str, count: String| {
                [format!("{:.0}", at.as_secs_f64() * 1000.0), self.names[ejection.server].clone(), event.into(), count]
            };
            [row(ejection.begin, "ejected", ejection.in_a_row.to_string()), row(ejection.end, "back", String::new())]
        });
        let failures = (0..self.names.len()).flat_map(|server| {
            let bins = self.failures_in(server).into_iter().enumerate().filter(|(_, count)| *count > 0);
            bins.map(move |(bin, count)| {
                let at = format!("{:.0}", bin as f64 * BIN_MS);
                [at, self.names[server].clone(), "failures".into(), count.to_string()]
            })
        });
        output::csv(["at_ms", "replica", "event", "failures"], events.chain(failures))
    }

    fn summary(&self) -> String {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let rows = self.ejections.iter().map(|ejection| {
            let fault = if ejection.begin < self.faults[2] { self.faults[0] } else { self.faults[2] };
            [
                self.names[ejection.server].clone(),
                seconds(ejection.begin.saturating_sub(fault)),
                ejection.in_a_row.to_string(),
                ejection.failures.to_string(),
                seconds(ejection.end.saturating_sub(ejection.begin)),
            ]
        });
        let [one, worked, many, worked_again] = self.faults;
        let head =
            ["replica", "ejected, from the fault's begin", "failures in a row", "failed for clients", "back after"];
        format!(
            "{} requests at {RATE} per second over {SERVERS} replicas, with `--ejection-count-5xx`. {} answered 500 for \
             {:.1} s, then {MANY} of {SERVERS} for {:.1} s; their heartbeats were answered all the time. {} requests failed. The \
             first ejection lasts a {BASE_PART}th of the fault, further ones twice as long. The one that failed alone was ejected \
             after {} failures in a row at most (goal: {FAILURES_MAX}); clients get those too that are under way then. At most {} \
             of {SERVERS} were out at a time (goal: {OUT_MAX}): one more that fails stays in, since with most of them out the \
             others would have more than they can do.\n\n{}",
            grouped(self.samples.len() as u64),
            self.names[TARGET],
            (worked - one).as_secs_f64(),
            (worked_again - many).as_secs_f64(),
            grouped(self.failed() as u64),
            self.most_in_a_row(),
            self.most_out(),
            output::table(head, rows)
        )
    }
}

fn bin(sample: &Sample) -> usize {
    (sample.answered().as_secs_f64() * 1000.0 / BIN_MS) as usize
}

struct EjectionFigure<'a> {
    run: &'a EjectionRun,
}

impl Figure for EjectionFigure<'_> {
    fn name(&self) -> &'static str {
        "ejection"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 1100)
    }

    fn caption(&self) -> Caption {
        let names = self.run.names.iter().enumerate();
        let mut legend: Vec<_> = names.map(|(i, name)| (LegendMark::Line(replica_colour(i)), name.clone())).collect();
        legend.push((LegendMark::Fill(RED), format!("failed: {}", self.run.failed())));
        legend.push((LegendMark::Band(MUTED), "ejected".into()));
        Caption {
            title: format!(
                "A replica that fails is ejected after {} failures in a row; {} of {SERVERS} are out at most",
                self.run.most_in_a_row(),
                self.run.most_out()
            ),
            subtitle: format!("Below: failures in each {BIN_MS:.0} ms by replica, and when it was ejected."),
            legend,
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let (top, bottom) = area.split_vertically(440);
        let end = self.run.samples.iter().map(|sample| since(sample.answered(), Duration::ZERO)).fold(0.0, f64::max);
        let end = (end / REQUESTS_BIN_MS).floor() * REQUESTS_BIN_MS;
        let timeline = Timeline::new(&self.run.samples, &self.run.names, Duration::ZERO, 0.0..end, REQUESTS_BIN_MS);
        let mut chart = timeline.draw(&top, "seconds", 1000.0)?;
        let one = format!("{} fails", self.run.names[TARGET]);
        let labels = [one, "works again".into(), format!("{MANY} fail"), "work again".into()];
        // The first one last: a label is drawn over the line behind it.
        for (row, (at, label)) in self.run.faults.iter().zip(labels).enumerate().rev() {
            picture::event_line(&top, &mut chart, at.as_secs_f64(), (row % 2) as i32, &label)?;
        }
        self.rows(&bottom, end / 1000.0)
    }
}

impl EjectionFigure<'_> {
    /// One row for each replica, the first on top: failures as bars of up to the row's height.
    fn rows<B: DrawingBackend>(&self, area: &Area<B>, end: f64) -> Drawn<B> {
        let axes = Axes {
            title: "",
            x: 0.0..end,
            y: 0.0..SERVERS as f64,
            x_title: "seconds",
            y_title: "",
            y_label_width: 150,
            x_label: Some(&|x| format!("{x:.0}")),
            y_label: &|_| String::new(),
            x_labels: 9,
        };
        let mut chart = axes.chart(area)?;
        let counts: Vec<Vec<u32>> = (0..SERVERS).map(|server| self.run.failures_in(server)).collect();
        let most = f64::from(counts.iter().flatten().copied().max().unwrap_or(1).max(1));
        for (server, counts) in counts.iter().enumerate() {
            let base = (SERVERS - 1 - server) as f64;
            let ejected = self.run.ejections.iter().filter(|ejection| ejection.server == server);
            chart.draw_series(ejected.map(|ejection| {
                let band =
                    [(ejection.begin.as_secs_f64(), base + 0.08), (ejection.end.as_secs_f64().min(end), base + 0.92)];
                Rectangle::new(band, MUTED.mix(0.25).filled())
            }))?;
            chart.draw_series(counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, count)| {
                let (from, to) = (bin as f64 * BIN_MS / 1000.0, (bin + 1) as f64 * BIN_MS / 1000.0);
                let height = 0.1 + 0.75 * f64::from(*count) / most;
                Rectangle::new([(from, base + 0.08), (to, base + 0.08 + height)], RED.filled())
            }))?;
            picture::label_left(area, &chart, base + 0.5, &self.run.names[server])?;
            let rule = [(0.0, base), (end, base)];
            chart.draw_series([PathElement::new(rule, TEXT_COLOUR.stroke_width(1))])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::SampleOutcome;
    use super::*;

    /// The words of the balancer, with those of its other lines between them.
    #[test]
    fn ejections_are_read_from_the_log() {
        let servers = TimedServer::start_all(&[WORK; 2]).unwrap();
        let [a, b] = [servers[0].address, servers[1].address];
        let begin = Instant::now();
        let lines = [
            format!("[WARN ringway] {b}: failing: 5 requests in a row failed; new requests go to others for 2s"),
            format!("[DEBUG ringway] {a}: heartbeat missed, 1 in a row: no answer"),
            format!("[INFO ringway] {b}: its ejection is over; it takes requests"),
            format!("[WARN ringway] {a}: slow: no answer within 500ms; new requests go to others until it answers"),
        ];
        let log: Vec<_> = lines.into_iter().map(|line| (begin, line)).collect();
        let found = spans(&log, &servers, begin);
        let found: Vec<_> = found.iter().map(|span| (span.server, span.end.is_some(), span.in_a_row)).collect();
        assert_eq!(found, [(1, true, 5), (0, false, 0)]);
    }

    #[test]
    fn failures_count_for_the_ejection_that_they_lead_to() {
        let ms = Duration::from_millis;
        let names = ["a".to_string(), "b".to_string()];
        let failed = |at: u64, name: &str| Sample {
            number: 0,
            sent: ms(at),
            took: ms(1),
            outcome: SampleOutcome::Status(500, Some(name.into())),
        };
        let samples = [failed(1, "a"), failed(2, "a"), failed(3, "b"), failed(11, "a"), failed(60, "a")];
        let span = |begin: u64, end: u64| OutSpan { server: 0, begin: ms(begin), end: Some(ms(end)), in_a_row: 5 };
        let ejections = counted(vec![span(10, 50), span(70, 90)], &samples, &names);
        assert_eq!(ejections.iter().map(|ejection| ejection.failures).collect::<Vec<_>>(), [3, 1]);
    }
}
