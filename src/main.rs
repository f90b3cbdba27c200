//! argv to a running balancer.

use std::process::ExitCode;

use ringway::balancer;
use ringway::config::{self, Command, Stop};
use ringway::control::End;
use ringway::experiment::{self, Question};
use ringway::kernel::parent;
use ringway::replica::{self, Failure};

/// Bad usage or configuration, a port in use, a bad address.
const USAGE: u8 = 2;
/// Anything else.
const BROKEN: u8 = 1;

fn main() -> ExitCode {
    match config::read(std::env::args_os()) {
        Ok(Command::Checked(report)) => show(&report),
        Ok(Command::Ring(question)) => ring(&question),
        Ok(Command::Experiment(settings)) => experiment(&settings),
        Ok(Command::Run(config)) => run(*config),
        Ok(Command::Replica(settings)) => match replica::run(&settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Usage(why)) => fail(USAGE, &why),
            Err(Failure::Broken(why)) => fail(BROKEN, &why),
        },
        Ok(Command::ReplicaCheck(address)) => match replica::check(address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(BROKEN, &why),
        },
        Err(Stop::Help(text)) => show(text.trim_end()),
        Err(Stop::Wrong(why)) => fail(USAGE, &why),
    }
}

/// A first signal drains and ends with 0; a second one cuts what is under way, which is not success.
fn run(config: config::Config) -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    if let Err(why) = parent::follow(parent::Signal::TERM) {
        return fail(USAGE, &why);
    }
    match balancer::run(config) {
        Ok(End::Drained) => ExitCode::SUCCESS,
        Ok(End::AtOnce) => ExitCode::from(BROKEN),
        Err(why) => fail(USAGE, &why),
    }
}

/// A lint that finds a flaw says so in the exit status too.
fn ring(question: &Question) -> ExitCode {
    match experiment::answer(question) {
        Ok(answer) if answer.flawed => {
            println!("{}", answer.text);
            ExitCode::FAILURE
        }
        Ok(answer) => show(&answer.text),
        Err(why) => fail(USAGE, &why),
    }
}

/// What keeps an experiment from its end is where it was told to run: a folder, an image, an engine. But not a signal.
fn experiment(settings: &experiment::Settings) -> ExitCode {
    match experiment::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) if experiment::is_interrupted() => fail(BROKEN, &why),
        Err(why) => fail(USAGE, &why),
    }
}

fn show(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

fn fail(status: u8, why: &str) -> ExitCode {
    eprintln!("ringway: {why}");
    ExitCode::from(status)
}
