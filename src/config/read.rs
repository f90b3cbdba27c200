//! From argv, the environment and a file to an [`Invocation`], or to one line that says what is wrong.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, FromArgMatches};

use super::args::{self, Cli, CliSubcommand, ReplicaArgs, RunArgs};
use super::file::{self, FileSettings};
use super::named::NamedResolver;
use super::resolve::FlatService;
use super::show::Audience;
use super::sources::Sources;
use super::{Config, Named, acme, certificates, error, man, renamed, show, source_files, unused, upstream_files};
use crate::experiment::{ExperimentSettings, RingQuery};
use crate::replica::{ReplicaSettings, host_name};

/// The address that listeners of this machine or container bind unless they are told; the Dockerfile sets it.
pub const BIND: &str = "RINGWAY_BIND";
/// Of the data listener, by default.
const PORT: u16 = 8000;

/// A command line that was understood.
#[derive(Debug)]
pub enum Invocation {
    Run(Box<Config>),
    /// A file's summary, the effective settings, a shell's script, or a manual page: it is printed.
    Shown(String),
    /// The manual pages are written into this folder.
    ManPages(PathBuf),
    Replica(ReplicaSettings),
    /// One heartbeat is requested of a replica, on the address it would listen on.
    ReplicaCheck(SocketAddr),
    /// Becomes this program.
    Exec(Vec<OsString>),
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
    let listen = default_listen(std::env::var(BIND).ok());
    let with_listen = |run: Command| run.mut_arg("listen", |arg| arg.default_value(listen.clone()));
    let command = configurable(args::command(), |run| with_environment(with_listen(run)));
    let matches = parse(command.clone(), &argv)?;
    match cli(&matches)?.subcommand {
        CliSubcommand::Run(run) => Ok(Invocation::Run(configure(command, &argv, matches, *run)?.into_config().into())),
        CliSubcommand::Config(run) => {
            Ok(Invocation::Shown(configure(command, &argv, matches, *run)?.shown(Audience::Operator)))
        }
        CliSubcommand::Check { file, config } => Ok(Invocation::Shown(check(&file.or(config).unwrap_or_default())?)),
        CliSubcommand::Replica(replica) => Ok(replica.into()),
        CliSubcommand::Exec { program } => Ok(Invocation::Exec(program)),
        CliSubcommand::Ring(ring) => Ok(Invocation::Ring(ring.into_query())),
        CliSubcommand::Experiment(experiment) => Ok(Invocation::Experiment(experiment)),
        CliSubcommand::Completions { shell } => Ok(Invocation::Shown(completions(shell))),
        CliSubcommand::Man { dir: None } => Ok(Invocation::Shown(man::page())),
        CliSubcommand::Man { dir: Some(folder) } => Ok(Invocation::ManPages(folder)),
    }
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "ringway", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Neither flags nor the environment take part: the file is judged by itself.
fn check(path: &Path) -> Result<String, EarlyExit> {
    let command = args::command();
    let settings = file::read(path, &command).map_err(EarlyExit::Usage)?;
    let config = config_of_file(command, path, &settings)?;
    let of_certificates = certificates::check(&config).map_err(EarlyExit::Usage)?;
    upstream_files::check(&config).map_err(EarlyExit::Usage)?;
    acme::roots(&config).map_err(EarlyExit::Usage)?;
    let of_sources = source_files::check(&config).map_err(EarlyExit::Usage)?;
    let warnings = config.warnings.iter().chain(&of_certificates).chain(&of_sources);
    let warnings: String = warnings.map(|warning| format!("\nwarning: {warning}")).collect();
    Ok(format!("{} is valid: {}{warnings}", path.display(), config.summary()))
}

/// The configuration that a file's settings make by themselves.
pub fn config_of_file(command: Command, path: &Path, settings: &FileSettings) -> Result<Config, EarlyExit> {
    let argv = ["ringway".into(), "run".into(), "--config".into(), path.into()];
    Ok(configure_with_settings(command, &argv, path, settings)?.config)
}

/// A configuration, and the flags that it was read from.
struct Configured {
    config: Config,
    matches: ArgMatches,
    /// Empty where there is none.
    file: FileSettings,
}

impl Configured {
    fn into_config(self) -> Config {
        let shown = self.shown(Audience::AdminApi);
        Config { shown, ..self.config }
    }

    fn shown(&self, audience: Audience) -> String {
        // Changing an argument moves it: these are in the order of their definition.
        let definitions = args::command();
        let used = subcommand(&definitions, &self.matches);
        let flat =
            used.map_or_else(String::new, |(command, matches)| show::effective(command, matches, &self.file, audience));
        flat + &show::named(&self.file, audience)
    }
}

/// Where there is a file, the command line is parsed again, with its settings in place of the defaults.
fn configure(command: Command, argv: &[OsString], matches: ArgMatches, run: RunArgs) -> Result<Configured, EarlyExit> {
    if let Some(path) = run.file.clone() {
        let settings = file::read(&path, &command).map_err(EarlyExit::Usage)?;
        return configure_with_settings(command, argv, &path, &settings);
    }
    let sources = sources(&command, &matches, None);
    let mut config = into_config(run, FlatService::Whole, &sources)?;
    config.named = Named::of_flat(&config, &sources);
    // What contradicts in one listener and one service was found before.
    let _ = config.named.complete();
    config.warnings.extend(acme::warnings(&config));
    Ok(Configured { config, matches, file: FileSettings::default() })
}

fn configure_with_settings(
    command: Command,
    argv: &[OsString],
    path: &Path,
    settings: &FileSettings,
) -> Result<Configured, EarlyExit> {
    let command = configurable(command, |run| file::apply(run, &settings.flat));
    let matches = parse(command.clone(), argv)?;
    match cli(&matches)?.subcommand {
        CliSubcommand::Run(run) | CliSubcommand::Config(run) => {
            let sources = sources(&command, &matches, Some((path, &settings.flat)));
            let flat = if settings.services.is_empty() { FlatService::Whole } else { FlatService::Defaults };
            let mut config = into_config(*run, flat, &sources)?;
            let used = matches.subcommand().map_or(&matches, |(_, used)| used);
            let (errors, warnings) = (Vec::new(), Vec::new());
            let mut resolver = NamedResolver {
                path,
                file: settings,
                config: &config,
                sources: &sources,
                matches: used,
                errors,
                warnings,
            };
            let named = resolver.named();
            let NamedResolver { errors, warnings, .. } = resolver;
            if !errors.is_empty() {
                return Err(EarlyExit::Usage(errors.join("\n")));
            }
            config.named = named;
            // Outside of any table a setting is a default of every service.
            let services: Vec<&Config> = config.named.services.iter().map(|service| &*service.config).collect();
            config.warnings = unused::warnings(&config, &services, &sources);
            config.warnings.extend(warnings);
            config.warnings.extend(acme::warnings(&config));
            Ok(Configured { config, matches, file: settings.clone() })
        }
        _ => unreachable!("the same argv had these flags before"),
    }
}

/// Changes the subcommands that have the flags of `run`.
fn configurable(command: Command, change: impl Fn(Command) -> Command) -> Command {
    ["run", "config"].into_iter().fold(command, |command, name| command.mut_subcommand(name, &change))
}

/// The one that was given.
fn subcommand<'a>(command: &'a Command, matches: &'a ArgMatches) -> Option<(&'a Command, &'a ArgMatches)> {
    let (name, matches) = matches.subcommand()?;
    Some((command.find_subcommand(name)?, matches))
}

fn into_config(run: RunArgs, flat: FlatService, sources: &Sources) -> Result<Config, EarlyExit> {
    run.into_config(flat, sources).map_err(EarlyExit::Usage)
}

fn sources(command: &Command, matches: &ArgMatches, file: Option<(&Path, &[file::Setting])>) -> Sources {
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let used = subcommand(command, matches);
    used.map_or_else(Sources::default, |(run, matches)| Sources::read(run, matches, variables, file))
}

fn parse(command: Command, argv: &[OsString]) -> Result<ArgMatches, EarlyExit> {
    command.try_get_matches_from(argv).map_err(early_exit)
}

fn cli(matches: &ArgMatches) -> Result<Cli, EarlyExit> {
    Cli::from_arg_matches(matches).map_err(early_exit)
}

fn early_exit(error: clap::Error) -> EarlyExit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => EarlyExit::Help(error.render().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            EarlyExit::Usage("no command given: try `ringway run`, or `ringway --help`".into())
        }
        _ => {
            let renamed = renamed::flag(&error, &args::command());
            EarlyExit::Usage(renamed.unwrap_or_else(|| error::one_line(&error)))
        }
    }
}

/// Each flag of `run` can be set as `RINGWAY_` and its name.
fn with_environment(run: Command) -> Command {
    run.mut_args(|arg| match arg.get_long() {
        Some(long) => {
            let name = error::variable(long);
            arg.env(name).hide_env(true)
        }
        None => arg,
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

/// The default of `--listen`. What is wrong in `bind` is said when the default is parsed.
fn default_listen(bind: Option<String>) -> String {
    let bind = bind.filter(|text| !text.is_empty()).unwrap_or_else(|| default_bind().to_string());
    match bind.parse() {
        Ok(ip) => SocketAddr::new(ip, PORT).to_string(),
        Err(_) => format!("{bind}:{PORT}"),
    }
}

/// Loopback: other machines reach a listener only where that was asked for. Process 1 of a container has a network
/// of its own, on which only its bridge address can be reached.
fn default_bind() -> IpAddr {
    if std::process::id() == 1 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv4Addr::LOCALHOST.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_listener_is_on_loopback_unless_the_environment_says_otherwise() {
        let listen = |bind: &str| default_listen(Some(bind.into()));
        assert_eq!((default_listen(None), listen("")), ("127.0.0.1:8000".into(), "127.0.0.1:8000".into()));
        assert_eq!((listen("0.0.0.0"), listen("::")), ("0.0.0.0:8000".into(), "[::]:8000".into()));
        assert_eq!(listen("nonsense"), "nonsense:8000", "which is refused like any wrong --listen");
    }
}
