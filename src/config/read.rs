//! From argv, the environment and a file to an [`Invocation`], or to one line that says what is wrong.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::args::{Cli, CliSubcommand, ReplicaArgs, RunArgs};
use super::file::{self, Setting};
use super::{Config, error};
use crate::experiment::{ExperimentSettings, RingQuery};
use crate::replica::{ReplicaSettings, host_name};

/// A command line that was understood.
#[derive(Debug)]
pub enum Invocation {
    Run(Box<Config>),
    /// A configuration file was read and is valid; this is its summary.
    Checked(String),
    Replica(ReplicaSettings),
    /// One heartbeat is requested of a replica, on the address it would listen on.
    ReplicaCheck(SocketAddr),
    Ring(RingQuery),
    Experiment(ExperimentSettings),
}

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
pub enum EarlyExit {
    /// Help or the version was requested: this goes to stdout.
    Help(String),
    /// Bad usage or configuration, in one line: what, where, what to do.
    Usage(String),
}

pub fn read(argv: impl IntoIterator<Item = OsString>) -> Result<Invocation, EarlyExit> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let command = with_environment(Cli::command());
    match parse(command.clone(), &argv)?.subcommand {
        CliSubcommand::Run(run) => match &run.file {
            None => Ok(Invocation::Run(into_config(*run)?.into())),
            Some(path) => Ok(Invocation::Run(run_with_file(command, &argv, path)?.into())),
        },
        CliSubcommand::Check { config } => Ok(Invocation::Checked(check(&config)?)),
        CliSubcommand::Replica(replica) => Ok(replica.into()),
        CliSubcommand::Ring(ring) => Ok(Invocation::Ring(ring.into_query())),
        CliSubcommand::Experiment(experiment) => Ok(Invocation::Experiment(experiment)),
    }
}

/// Neither flags nor the environment take part: the file is judged by itself.
fn check(path: &Path) -> Result<String, EarlyExit> {
    let command = Cli::command();
    let settings = file::read(path, &command).map_err(EarlyExit::Usage)?;
    let config = config_of_file(command, path, settings)?;
    Ok(format!("{} is valid: {}", path.display(), config.summary()))
}

/// The configuration that a file's settings make by themselves.
pub fn config_of_file(command: clap::Command, path: &Path, settings: Vec<Setting>) -> Result<Config, EarlyExit> {
    run_with_settings(command, &["ringway".into(), "run".into(), "--config".into(), path.into()], settings)
}

/// Parses the command line again, with the file's settings in place of the defaults.
fn run_with_file(command: clap::Command, argv: &[OsString], path: &Path) -> Result<Config, EarlyExit> {
    let settings = file::read(path, &command).map_err(EarlyExit::Usage)?;
    run_with_settings(command, argv, settings)
}

fn run_with_settings(command: clap::Command, argv: &[OsString], settings: Vec<Setting>) -> Result<Config, EarlyExit> {
    let command = command.mut_subcommand("run", |run| file::apply(run, settings));
    match parse(command, argv)?.subcommand {
        CliSubcommand::Run(run) => into_config(*run),
        _ => unreachable!("the same argv was `run` before"),
    }
}

fn into_config(run: RunArgs) -> Result<Config, EarlyExit> {
    run.into_config().map_err(EarlyExit::Usage)
}

fn parse(command: clap::Command, argv: &[OsString]) -> Result<Cli, EarlyExit> {
    let matches: ArgMatches = command.try_get_matches_from(argv).map_err(early_exit)?;
    Cli::from_arg_matches(&matches).map_err(early_exit)
}

fn early_exit(error: clap::Error) -> EarlyExit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => EarlyExit::Help(error.render().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            EarlyExit::Usage("no command given: try `ringway run`, or `ringway --help`".into())
        }
        _ => EarlyExit::Usage(error::one_line(&error)),
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

impl From<ReplicaArgs> for Invocation {
    fn from(replica: ReplicaArgs) -> Self {
        let listen = SocketAddr::new(replica.bind.unwrap_or_else(default_bind), replica.port);
        if replica.check {
            return Invocation::ReplicaCheck(listen);
        }
        Invocation::Replica(ReplicaSettings { id: replica.id.unwrap_or_else(host_name), listen })
    }
}

/// Loopback: other machines reach a replica only where that was asked for. Process 1 of a container has a network
/// of its own, on which only its bridge address can be reached.
fn default_bind() -> IpAddr {
    if std::process::id() == 1 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv4Addr::LOCALHOST.into() }
}
