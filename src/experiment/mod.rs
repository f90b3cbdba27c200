//! `ringway experiment` and `ringway ring`: what a ring promises, exactly, and what a running balancer does, measured.
//!
//! Nothing here is on the path of a request: experiments drive a balancer from outside, as a child process.

mod client;
mod endpoints;
mod fault;
mod fault_again;
mod hashes;
mod lab;
mod load;
mod output;
mod picture;
mod progress;
mod ring;
mod scale;
mod spread;
mod timeline;
mod trial;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use output::Report;
use progress::Progress;

pub use ring::{Answer, Ask, Question, answer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    Spread,
    Scale,
    Fault,
    FaultAgain,
    Hashes,
    Endpoints,
    All,
}

/// What runs the replicas of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RuntimeChoice {
    Process,
    Docker,
}

/// What `ringway experiment` is told.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: Name,
    pub out: PathBuf,
    pub runtime: RuntimeChoice,
    pub docker_image: String,
    /// Of spread, and of each step of scale.
    pub requests: u32,
    /// The largest number of replicas in scale.
    pub to: usize,
}

/// Err: one line on what went wrong. Experiments that were finished before it have left their files.
pub fn run(settings: &Settings) -> Result<(), String> {
    output::prepare(&settings.out)?;
    heed_signals()?;
    for name in chosen(settings.name) {
        let progress = Progress::new(name);
        let report = perform(name, settings, &progress)?;
        interrupted()?;
        output::write(&settings.out, &report)?;
        progress.done(&settings.out);
    }
    Ok(())
}

fn chosen(name: Name) -> Vec<Name> {
    match name {
        Name::All => vec![Name::Spread, Name::Scale, Name::Fault, Name::FaultAgain, Name::Hashes, Name::Endpoints],
        one => vec![one],
    }
}

fn perform(name: Name, settings: &Settings, progress: &Progress) -> Result<Report, String> {
    match name {
        Name::Spread => spread::run(settings, progress),
        Name::Scale => scale::run(settings, progress),
        Name::Fault => fault::run(settings, progress),
        Name::FaultAgain => fault_again::run(settings, progress),
        Name::Endpoints => endpoints::run(settings, progress),
        Name::Hashes | Name::All => hashes::run(),
    }
}

/// Set by SIGINT or SIGTERM: what is under way ends in order, and so do the balancer and its replicas.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn heed_signals() -> Result<(), String> {
    let stop = STOP.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|why| format!("cannot heed signals: {why}"))?;
    }
    Ok(())
}

fn stop() -> &'static AtomicBool {
    STOP.get_or_init(Arc::default)
}

/// True once the user wants it to end.
pub fn is_interrupted() -> bool {
    stop().load(Ordering::Relaxed)
}

fn interrupted() -> Result<(), String> {
    if is_interrupted() { Err("interrupted: nothing of this experiment was written".into()) } else { Ok(()) }
}

/// Waits, but not for somebody who wants it to end.
fn rest(time: Duration) -> Result<(), String> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        interrupted()?;
        std::thread::sleep(Duration::from_millis(20).min(time));
    }
    Ok(())
}
