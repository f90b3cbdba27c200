//! From argv to an exit status. It decides nothing else.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use ringway::balancer;
use ringway::config::{self, Config, EarlyExit, Invocation};
use ringway::control::End;
use ringway::experiment::{self, ExperimentError, ExperimentSettings, RingQuery};
use ringway::kernel::parent;
use ringway::replica::{self, ReplicaError};

/// Bad usage or configuration, a port in use, a bad address.
const USAGE: u8 = 2;
/// Anything else.
const FAILED: u8 = 1;
/// The reader of stdout went away: what a shell shows for a program that SIGPIPE ended.
const PIPE_CLOSED: u8 = 128 + 13;

fn main() -> ExitCode {
    match config::read(std::env::args_os()) {
        Ok(Invocation::Checked(report)) => show(&report),
        Ok(Invocation::Ring(query)) => ring(&query),
        Ok(Invocation::Experiment(settings)) => experiment(&settings),
        Ok(Invocation::Run(config)) => run(*config),
        Ok(Invocation::Replica(settings)) => match replica::run(&settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(ReplicaError::Usage(why)) => fail(USAGE, &why),
            Err(ReplicaError::Failed(why)) => fail(FAILED, &why),
        },
        Ok(Invocation::ReplicaCheck(address)) => match replica::check(address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(FAILED, &why),
        },
        Err(EarlyExit::Help(text)) => show(text.trim_end()),
        Err(EarlyExit::Usage(why)) => fail(USAGE, &why),
    }
}

/// A first signal drains and ends with 0; a second one aborts what is in flight, which is not success.
fn run(config: Config) -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    if let Err(why) = parent::follow(parent::Signal::TERM) {
        return fail(USAGE, &why);
    }
    match balancer::run(config) {
        Ok(End::Drained) => ExitCode::SUCCESS,
        Ok(End::AtOnce) => ExitCode::from(FAILED),
        Err(why) => fail(USAGE, &why),
    }
}

/// A flaw that lint finds is an exit status of 1.
fn ring(query: &RingQuery) -> ExitCode {
    match experiment::run_query(query) {
        Ok(output) => match writeln!(io::stdout(), "{}", output.text) {
            Ok(()) => ExitCode::from(if output.has_flaws { FAILED } else { 0 }),
            Err(why) => unwritable(&why),
        },
        Err(why) => fail(USAGE, &why),
    }
}

/// An experiment fails for its folder, image or engine, which is bad usage; or for a signal or stdout, which is not.
fn experiment(settings: &ExperimentSettings) -> ExitCode {
    match experiment::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ExperimentError::Stdout(why)) => unwritable(&why),
        Err(ExperimentError::Failed(why)) if experiment::is_interrupted() => fail(FAILED, &why),
        Err(ExperimentError::Failed(why)) => fail(USAGE, &why),
    }
}

fn show(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => unwritable(&why),
    }
}

/// A reader that has read enough, like `head`, is no failure to report.
fn unwritable(why: &io::Error) -> ExitCode {
    match why.kind() {
        ErrorKind::BrokenPipe => ExitCode::from(PIPE_CLOSED),
        _ => fail(FAILED, &format!("cannot write to stdout: {why}")),
    }
}

fn fail(status: u8, why: &str) -> ExitCode {
    // Without a stderr the status has to say it.
    let _ = writeln!(io::stderr(), "ringway: {why}");
    ExitCode::from(status)
}
