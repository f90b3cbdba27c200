//! clap's errors as one line each: what, where, what to do.

use clap::error::{ContextKind, ContextValue};

pub use crate::shared::text::visible;

/// What Rust says of a text that is no number.
const NOT_A_NUMBER: &str = "invalid digit found in string";

/// The environment variable that sets `--long`.
pub fn variable(long: &str) -> String {
    format!("RINGWAY_{}", long.replace('-', "_").to_ascii_uppercase())
}

/// clap's report without its usage block, joined into one line.
pub fn one_line(error: &clap::Error) -> String {
    let report = error.render().to_string();
    let lines: Vec<&str> = report
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = visible(&lines.join("; ").replace(":; ", ": ").replace("; tip: ", "; "));
    let line = line.strip_prefix("error: ").unwrap_or(&line).replace(NOT_A_NUMBER, "want a whole number");
    match from_environment(error) {
        Some(variable) => format!("{line} (from the environment: {variable})"),
        None => format!("{line}; see --help"),
    }
}

/// The environment variable that an invalid value came from, if it was not the command line.
fn from_environment(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?;
    let value = text(ContextKind::InvalidValue)?;
    let long = flag.split([' ', '=', '[']).next()?.trim_start_matches("--");
    let name = variable(long);
    let in_environment = std::env::var(&name).is_ok_and(|set| set.contains(&value));
    let on_command_line = std::env::args().any(|arg| arg.contains(&value));
    (in_environment && !on_command_line).then_some(name)
}

/// Why a value was refused, without the flag's name: the file's key is named instead.
pub fn value(error: &clap::Error) -> String {
    let line = one_line(error);
    let line = line.strip_suffix("; see --help").unwrap_or(&line);
    match (error.get(ContextKind::InvalidValue), line.split_once("': ")) {
        (Some(value), Some((_, why))) => format!("`{}` is not allowed: {why}", visible(&value.to_string())),
        _ => line.into(),
    }
}
