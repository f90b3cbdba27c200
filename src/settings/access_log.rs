//! The table `[access_log]`: where one line for each exchange goes, its form, and which exchanges get one.

use std::path::PathBuf;

use clap::Args;

use super::values;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    Off,
    Stdout,
    File(PathBuf),
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    Json,
    /// The Common Log Format of NCSA and Apache.
    Common,
    /// The same with referer and user agent.
    Combined,
}

/// The share of exchanges that get a line, from 0 to 1. Those that are errors always do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoggedShare(pub f64);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access log")]
pub struct AccessLogSettings {
    /// Where a line for each request, and for each tunnel at its end, goes: `off`, `stdout`, or a file that is appended to.
    /// SIGUSR1 opens the file again, for logrotate. Lines are written by a thread of their own: where the disk is too slow,
    /// lines are dropped and counted, and no request waits
    #[arg(id = "access-log", long, alias = "access-log-path", value_name = "WHERE", default_value = "off",
        value_parser = values::access_log_target)]
    pub target: AccessLogTarget,
    /// The form of a line: `json`, `common` or `combined` (as Apache and nginx write them)
    #[arg(id = "access-log-format", long, value_name = "FORMAT", default_value = "json",
        value_parser = values::access_log_format)]
    pub format: AccessLogFormat,
    /// Which requests get a line: `all`, `errors`, or a share of them like 0.01. Errors always do: a status of 500 or more,
    /// a request that was refused, retried, aborted, or answered in part
    #[arg(id = "access-log-sample", long, value_name = "SHARE", default_value = "all",
        value_parser = values::logged_share)]
    pub sample: LoggedShare,
}
