//! From argv to an exit status. It decides nothing else.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ringway::balancer;
use ringway::config::{self, Config, EarlyExit, Invocation};
use ringway::control::End;
use ringway::experiment::{self, ExperimentError, ExperimentSettings, RingQuery};
use ringway::kernel::inherited::Inherited;
use ringway::kernel::parent;
use ringway::replica::{self, ReplicaError};
use ringway::shared::log_writer::LogWriter;
use ringway::shared::text;

/// Bad usage or configuration, a port in use, a bad address.
const USAGE: u8 = 2;
/// Anything else.
const FAILED: u8 = 1;
/// What a shell returns for a program that it cannot run.
const CANNOT_RUN: u8 = 126;
/// The reader of stdout went away: what a shell shows for a program that SIGPIPE ended.
const PIPE_CLOSED: u8 = 128 + 13;

fn main() -> ExitCode {
    // Before any other descriptor is opened.
    let inherited = Inherited::take();
    match config::read(std::env::args_os()) {
        Ok(Invocation::Shown(text)) => show(text.trim_end()),
        Ok(Invocation::ManPages(folder)) => man_pages(&folder),
        Ok(Invocation::Ring(query)) => ring(&query),
        Ok(Invocation::Experiment(settings)) => experiment(&settings),
        Ok(Invocation::Run(config)) => run(*config, inherited),
        Ok(Invocation::Replica(settings)) => match replica::run(&settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(ReplicaError::Usage(why)) => fail(USAGE, &why),
            Err(ReplicaError::Failed(why)) => fail(FAILED, &why),
        },
        Ok(Invocation::Exec(program)) => fail(CANNOT_RUN, &parent::exec(&program)),
        Ok(Invocation::ReplicaCheck(address)) => match replica::check(address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(FAILED, &why),
        },
        Err(EarlyExit::Help(text)) => show(text.trim_end()),
        Err(EarlyExit::Usage(why)) => fail(USAGE, &why),
    }
}

/// How long the end waits for a reader of the log.
const LOG_LIMIT: Duration = Duration::from_secs(1);

/// A first signal drains and ends with 0, unless something is left behind; a second one aborts what is in flight, which is
/// not success. From here on only
/// the log's own thread writes to stderr: it may be a pipe that is not read.
fn run(config: Config, inherited: Inherited) -> ExitCode {
    let mut log = match start_log() {
        Ok(log) => log,
        Err(why) => return fail(FAILED, &format!("the log cannot start: {why}")),
    };
    let read = balancer::reader(std::env::args_os().collect());
    let end = parent::follow(parent::Signal::TERM).and_then(|()| balancer::run(config, read, inherited));
    let status = match end {
        Ok(End::Drained) => ExitCode::SUCCESS,
        Ok(End::AtOnce | End::LeftBehind) => ExitCode::from(FAILED),
        Err(why) => fail_to(&mut log, USAGE, &why),
    };
    log.finish(LOG_LIMIT);
    status
}

/// Panics are logged too: the default hook would write to stderr itself.
fn start_log() -> io::Result<LogWriter> {
    let stderr = std::fs::File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let writer = LogWriter::start(stderr)?;
    let mut logger = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    logger.target(env_logger::Target::Pipe(Box::new(writer.clone())));
    if wants_colour() {
        logger.write_style(env_logger::WriteStyle::Always);
    }
    logger.format(|line, record| {
        let style = line.default_level_style(record.level());
        let level = format!("{style}{:<5}{style:#}", record.level());
        writeln!(line, "{}", text::log_line(line.timestamp(), level, record.target(), &record.args().to_string()))
    });
    logger.init();
    std::panic::set_hook(Box::new(|panic| {
        let report = format!("{panic}\n{}", std::backtrace::Backtrace::capture());
        report.lines().for_each(|line| log::error!(target: "ringway", "{line}"));
    }));
    Ok(writer)
}

/// What env_logger decides by itself for a stderr that it writes to.
fn wants_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stderr().is_terminal() && !is_set("RUST_LOG_STYLE") && !is_set("NO_COLOR") && !is_dumb
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

fn man_pages(folder: &Path) -> ExitCode {
    match config::write_man_pages(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(USAGE, &format!("--dir: cannot write manual pages into {}: {why}", folder.display())),
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

/// Each mistake is a line of its own.
fn fail(status: u8, why: &str) -> ExitCode {
    fail_to(&mut io::stderr(), status, why)
}

fn fail_to(out: &mut impl Write, status: u8, why: &str) -> ExitCode {
    // Without a stderr the status has to say it.
    let lines: String = why.lines().map(|line| format!("ringway: {}\n", text::visible(line))).collect();
    let _ = out.write_all(lines.as_bytes());
    ExitCode::from(status)
}
