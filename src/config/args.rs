//! The command line: its subcommands and their flags. The flags of `run` are the fields of [`Config`], whose tables stand
//! in [`settings`](crate::settings). `--help` is made from here.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, Args, Command, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::Config;
use super::ring_args::RingArgs;
use crate::experiment::ExperimentSettings;

/// A load balancer that owns its replicas.
#[derive(Parser)]
#[command(name = "ringway", version, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub subcommand: CliSubcommand,
}

/// The command line, with one sentence for each flag under `-h` and all of them under `--help`.
pub fn command() -> Command {
    Cli::command().mut_subcommands(|subcommand| subcommand.mut_args(with_short_help))
}

fn with_short_help(arg: Arg) -> Arg {
    let Some(help) = arg.get_help().map(ToString::to_string) else { return arg };
    match help.split_once(". ") {
        Some((first, _)) => arg.help(first.to_owned()).long_help(help),
        None => arg,
    }
}

#[derive(Subcommand)]
pub enum CliSubcommand {
    /// Start replicas and balance requests over them
    #[command(after_help = "Use --help for all that there is to say about each.", after_long_help = RUN_NOTES)]
    Run(Box<RunArgs>),
    /// Print every setting with what it is for and its value, as a file that `run` reads
    #[command(after_help = "It takes the flags, the environment and the file of `run`.")]
    Config(Box<RunArgs>),
    /// Read a configuration file and say what is wrong with it, or that nothing is
    Check {
        /// The file, as `ringway run` would read it; -c is not needed
        #[arg(value_name = "FILE", required_unless_present = "config")]
        file: Option<PathBuf>,
        #[arg(short, long, value_name = "FILE", hide = true, conflicts_with = "file")]
        config: Option<PathBuf>,
    },
    /// Serve as a replica: answer /home and /heartbeat, and 404 to anything else
    Replica(ReplicaArgs),
    /// Become a program that ends with the balancer: how `ringway run -- PROGRAM` starts it
    #[command(hide = true)]
    Exec {
        #[arg(required = true, last = true, value_name = "PROGRAM")]
        program: Vec<OsString>,
    },
    /// Describe a ring: shares, explanations, what-ifs, flaws
    Ring(RingArgs),
    /// Measure a running balancer and draw the result beside what the ring predicts
    Experiment(ExperimentSettings),
    /// Print a script that completes these commands in a shell: `source <(ringway completions bash)`
    Completions {
        #[arg(value_enum, value_name = "SHELL")]
        shell: Shell,
    },
    /// Print the manual page of ringway: `ringway man | man -l -`
    Man {
        /// Write it and the pages of all subcommands into this folder instead, as ringway.1, ringway-run.1 and so on
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

const RUN_NOTES: &str = "\
Every flag can also be set in the environment (RINGWAY_LISTEN for --listen), and in a TOML file given with --config: in \
the table that its heading here names, without that table's name in front (--hash-key is `key` in [hash], \
--head-timeout is `head_timeout` in [limits]). A flag beats the environment, which beats the file.\n\n\
The first SIGTERM, SIGINT or SIGQUIT drains and stops, a second one stops at once. A drain ends within \
--drain-timeout, 10 s more for replicas to end (--docker-stop-timeout if that is longer) and 10 s for an engine that \
hangs. Exit status: 0 after a drain; 1 if requests were aborted or containers are left behind, which the log names; 2 for \
bad usage or configuration.\n\n\
SIGHUP reads the file and all certificates again and applies them, whole or not at all. SIGUSR1 opens the file of --access-log again. SIGUSR2 starts \
the program that lies at this one's path now, with the same arguments and all listening sockets; when its replicas answer it \
takes over, and this process finishes the requests that it has. One that fails or is not ready within --upgrade-timeout \
changes nothing.";

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: Config,
    /// A file with settings, in TOML
    #[arg(id = "config", short, long, value_name = "FILE", help_heading = None::<&str>)]
    pub file: Option<PathBuf>,
}

#[derive(Args)]
pub struct ReplicaArgs {
    /// The name it answers with [default: the host's name]
    #[arg(long, env = "SERVER_ID", value_name = "NAME")]
    pub id: Option<String>,
    /// The port it listens on; 0 takes a free one
    #[arg(long, env = "PORT", value_name = "PORT", default_value = "8080")]
    pub port: u16,
    /// The address it listens on [default: 127.0.0.1, but 0.0.0.0 as a container's first process]
    #[arg(long, env = "RINGWAY_BIND", value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Request a heartbeat from the replica on this machine's --port; exit 0 if it answers, 1 if not
    #[arg(long)]
    pub check: bool,
}
