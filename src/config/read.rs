//! From argv, the environment and a file to a command to carry out, or a line that says what is wrong.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::file::{self, Setting};
use super::flags::{Cli, Replica, Run, Verb};
use super::{Config, error};
use crate::experiment::{self, Question};
use crate::replica::{Settings, host_name};

/// What the user asked for.
#[derive(Debug)]
pub enum Command {
    Run(Box<Config>),
    /// A configuration file was read and is sound; this says what it amounts to.
    Checked(String),
    Replica(Settings),
    /// A replica is asked for a heartbeat, on the address it would listen on.
    ReplicaCheck(SocketAddr),
    Ring(Question),
    Experiment(experiment::Settings),
}

/// Why there is nothing to carry out.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The user asked for help or the version: this goes to stdout.
    Help(String),
    /// Bad usage or configuration, in one line: what, where, what to do.
    Wrong(String),
}

/// What a file's settings alone amount to.
pub fn settled(command: clap::Command, path: &Path, settings: Vec<Setting>) -> Result<Config, Stop> {
    run_with_settings(command, &["ringway".into(), "run".into(), "--config".into(), path.into()], settings)
}

pub fn read(argv: impl IntoIterator<Item = OsString>) -> Result<Command, Stop> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let command = with_environment(Cli::command());
    match parse(command.clone(), &argv)?.verb {
        Verb::Run(run) => match &run.config {
            None => Ok(Command::Run(settle(*run)?.into())),
            Some(path) => Ok(Command::Run(run_with_file(command, &argv, path)?.into())),
        },
        Verb::Check { config } => {
            let argv = ["ringway".into(), "run".into(), "--config".into(), config.clone().into_os_string()];
            let found = run_with_file(Cli::command(), &argv, &config)?;
            Ok(Command::Checked(format!("{} is sound: {}", config.display(), found.summary())))
        }
        Verb::Replica(replica) => Ok(replica.into()),
        Verb::Ring(ring) => Ok(Command::Ring(ring.settle())),
        Verb::Experiment(experiment) => Ok(Command::Experiment(experiment.settle())),
    }
}

/// What `ringway run` alone amounts to.
pub fn defaults() -> Config {
    let run = parse(Cli::command(), &["ringway".into(), "run".into()]);
    match run.map(|cli| cli.verb) {
        Ok(Verb::Run(run)) => settle(*run).unwrap_or_else(|stop| unreachable!("the defaults are sound: {stop:?}")),
        _ => unreachable!("`ringway run` is complete"),
    }
}

/// Reads the command line again, with the file's settings in the place of the defaults.
fn run_with_file(command: clap::Command, argv: &[OsString], path: &Path) -> Result<Config, Stop> {
    let settings = file::read(path, &command).map_err(Stop::Wrong)?;
    run_with_settings(command, argv, settings)
}

fn run_with_settings(command: clap::Command, argv: &[OsString], settings: Vec<Setting>) -> Result<Config, Stop> {
    let command = command.mut_subcommand("run", |run| file::apply(run, settings));
    match parse(command, argv)?.verb {
        Verb::Run(run) => settle(*run),
        _ => unreachable!("the same argv was `run` before"),
    }
}

fn settle(run: Run) -> Result<Config, Stop> {
    run.settle().map_err(Stop::Wrong)
}

fn parse(command: clap::Command, argv: &[OsString]) -> Result<Cli, Stop> {
    let matches: ArgMatches = command.try_get_matches_from(argv).map_err(stop)?;
    Cli::from_arg_matches(&matches).map_err(stop)
}

fn stop(wrong: clap::Error) -> Stop {
    match wrong.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Help(wrong.render().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Stop::Wrong("no command given: try `ringway run`, or `ringway --help`".into())
        }
        _ => Stop::Wrong(error::one_line(&wrong)),
    }
}

/// Each flag of `run` can be set as `RINGWAY_` and its name.
fn with_environment(command: clap::Command) -> clap::Command {
    command.mut_subcommand("run", |run| {
        run.mut_args(|arg| match arg.get_long() {
            Some(long) => {
                let name = error::variable(long);
                arg.env(name).hide_env(true)
            }
            None => arg,
        })
    })
}

impl From<Replica> for Command {
    fn from(replica: Replica) -> Self {
        let listen = SocketAddr::new(replica.bind.unwrap_or_else(usual_bind), replica.port);
        if replica.check {
            return Command::ReplicaCheck(listen);
        }
        Command::Replica(Settings { id: replica.id.unwrap_or_else(host_name), listen })
    }
}

/// Loopback, so that nothing is served to strangers unasked; but process 1 of a container has a network of
/// its own, on which only its bridge address can be reached.
fn usual_bind() -> IpAddr {
    if std::process::id() == 1 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv4Addr::LOCALHOST.into() }
}
