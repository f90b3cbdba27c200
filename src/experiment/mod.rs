//! `ringway experiment` measures a running balancer; `ringway ring` computes what a ring does, exactly.
//!
//! Nothing here is on the path of a request: experiments drive a balancer from outside, as a child process.
//!
//! | file | what it does |
//! |---|---|
//! | `mod.rs` | flags of `ringway experiment`, the order of experiments, signals that interrupt it |
//! | `ring` | `ringway ring`: queries (show, explain, what-if, lint) and their output as text or JSON |
//! | `spread` | measures how many of many requests each of three replicas got, beside the ring's exact share and random noise |
//! | `scale` | measures mean, deviation and maximum of requests for each replica over rising numbers of replicas, up to 64; expected deviation by the ring, panels of the figure |
//! | `fault` | kills one replica under load: who served meanwhile, failed requests, time to detection and repair; timeline and bars; each replica's share before, during and after |
//! | `fault_again` | kills or pauses replicas one after another, in several series: median and histogram of the repair times |
//! | `ejection` | servers answer 500 under load: when each was ejected, after how many failures, when it came back; how many were out at a time; timeline of requests, failures and ejections |
//! | `policies` (folder) | the balancing policies over servers of known capacity, one slow, of heavy-tailed service times, or overloaded: quantiles, failures, goodput beside what queueing theory predicts |
//! | `hashes` | computes shares and moved keys of the exercise's hash functions, better ones, ketama and maglev; starts nothing; layouts, slots reached, ideal share, bars |
//! | `endpoints` | calls every endpoint and error of the API, on the data port and the admin port, and compares status and body with the contract; the row of each call: expected and actual, verdict |
//! | `testbed` | the balancer under test: its argv with lists of replicas, spawned, its log read and awaited line by line, admin calls, signals or engine calls to kill and pause a replica, `Recovery`; words in log lines, stderr, child processes found by parent |
//! | `servers` | `TimedServer`: a server in this process that works on one request at a time for a drawn time (exponential, log-normal), or answers 500 |
//! | `queueing` | the model: time in the system by the mean-field equations of one and two choices, of unequal replicas, from empty queues on; the mean of M/G/1; distributions, quantiles, tails |
//! | `trial` | one run: load on a testbed while a given function injects faults; samples, recoveries, slowest request; moments since its beginning |
//! | `load` | requests on many connections and threads by a plan (number, time), in a closed loop or an open one (even, Poisson): `Sample`, outcome, counts for each server; scoped threads, when a request began and was answered, failures named |
//! | `client` | one blocking HTTP/1.1 connection over any stream: request, head, length or chunked body, timeouts |
//! | `picture` | drawing with plotters: `Figure`, caption, legend, axes, labels, colours, sizes, font; SVG and PNG |
//! | `timeline` | requests per second of each replica in bins, and failures, drawn over time |
//! | `output` | the folder's files: CSV and text tables, percentages, each written whole; `Report` of an experiment, staged and renamed |
//! | `progress` | the progress bar of an experiment |

mod client;
mod ejection;
mod endpoints;
mod fault;
mod fault_again;
mod hashes;
mod load;
mod output;
mod picture;
mod policies;
mod progress;
mod queueing;
mod ring;
mod scale;
mod servers;
mod spread;
mod testbed;
mod timeline;
mod trial;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::builder::RangedU64ValueParser as Number;
use clap::{Args, ValueEnum};
use output::Report;
use progress::Progress;

use crate::core::limits::Unit;
use crate::settings::units;

pub use ring::{OutputFormat, QueryKind, RingOutput, RingQuery, run_query};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExperimentName {
    Spread,
    Scale,
    Fault,
    FaultAgain,
    Ejection,
    Policies,
    Hashes,
    Endpoints,
    All,
}

/// What runs the replicas of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExperimentRuntime {
    Process,
    Docker,
}

/// The flags of `ringway experiment`.
#[derive(Args, Clone, Debug)]
pub struct ExperimentSettings {
    /// Which one: spread, scale, fault, fault-again, ejection, policies, hashes, endpoints, or all of them
    #[arg(value_name = "NAME", value_enum, hide_possible_values = true)]
    name: ExperimentName,
    /// The folder for the pictures, tables and texts
    #[arg(long, value_name = "DIR", default_value = "target/experiments")]
    out: PathBuf,
    /// What runs the replicas: `process` or `docker`. Ejection and policies have servers of their own
    #[arg(long, value_enum, value_name = "RUNTIME", default_value = "process", hide_possible_values = true)]
    runtime: ExperimentRuntime,
    /// The image of each replica, with --runtime docker
    #[arg(long, value_name = "IMAGE", default_value = "ringway")]
    docker_image: String,
    /// Requests of spread, and of each step of scale
    #[arg(long, value_name = "N", default_value = "10000",
        value_parser = Number::<u32>::new().range(100..=1_000_000))]
    requests: u32,
    /// The largest number of replicas in scale
    #[arg(long = "to", value_name = "N", default_value = "6", value_parser = Number::<usize>::new().range(2..=64))]
    replicas_max: usize,
    /// How long each load of policies lasts, of which there are 14, and how long a replica fails in ejection
    /// [default: 4s, and 10s in ejection]
    #[arg(long = "time", value_name = "DURATION", value_parser = units::parser(Unit::Duration, 500..=600_000))]
    time_ms: Option<u64>,
}

impl ExperimentSettings {
    /// `--time`, or else this.
    fn time_or(&self, default: Duration) -> Duration {
        self.time_ms.map_or(default, Duration::from_millis)
    }
}

/// Why an experiment ended early. Those that finished before it have left their files.
pub enum ExperimentError {
    /// One line.
    Failed(String),
    /// The line about a finished experiment could not be written.
    Stdout(io::Error),
}

impl From<String> for ExperimentError {
    fn from(why: String) -> Self {
        ExperimentError::Failed(why)
    }
}

pub fn run(settings: &ExperimentSettings) -> Result<(), ExperimentError> {
    output::prepare(&settings.out)?;
    register_signals()?;
    for name in chosen(settings.name) {
        let progress = Progress::new(name);
        let report = perform(name, settings, &progress)?;
        check_interrupted()?;
        output::write(&settings.out, &report)?;
        progress.done(&settings.out).map_err(ExperimentError::Stdout)?;
    }
    Ok(())
}

fn chosen(name: ExperimentName) -> Vec<ExperimentName> {
    match name {
        ExperimentName::All => vec![
            ExperimentName::Spread,
            ExperimentName::Scale,
            ExperimentName::Fault,
            ExperimentName::FaultAgain,
            ExperimentName::Ejection,
            ExperimentName::Policies,
            ExperimentName::Hashes,
            ExperimentName::Endpoints,
        ],
        one => vec![one],
    }
}

fn perform(name: ExperimentName, settings: &ExperimentSettings, progress: &Progress) -> Result<Report, String> {
    match name {
        ExperimentName::Spread => spread::run(settings, progress),
        ExperimentName::Scale => scale::run(settings, progress),
        ExperimentName::Fault => fault::run(settings, progress),
        ExperimentName::FaultAgain => fault_again::run(settings, progress),
        ExperimentName::Ejection => ejection::run(settings, progress),
        ExperimentName::Policies => policies::run(settings, progress),
        ExperimentName::Endpoints => endpoints::run(settings, progress),
        ExperimentName::Hashes | ExperimentName::All => hashes::run(),
    }
}

/// Set by SIGINT or SIGTERM: the running experiment ends in order, and so do the balancer and its replicas.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn register_signals() -> Result<(), String> {
    let stop = STOP.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())
            .map_err(|why| format!("cannot register for signals: {why}"))?;
    }
    Ok(())
}

fn stop() -> &'static AtomicBool {
    STOP.get_or_init(Arc::default)
}

/// Whether SIGINT or SIGTERM came.
pub fn is_interrupted() -> bool {
    stop().load(Ordering::Relaxed)
}

fn check_interrupted() -> Result<(), String> {
    if is_interrupted() { Err("interrupted: nothing of this experiment was written".into()) } else { Ok(()) }
}

/// Sleeps for `time`, or until it is interrupted.
fn sleep(time: Duration) -> Result<(), String> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        check_interrupted()?;
        std::thread::sleep(Duration::from_millis(20).min(time));
    }
    Ok(())
}
