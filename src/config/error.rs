//! One line for each mistake: what, where, what to do.

use clap::error::{ContextKind, ContextValue};

/// The variable that sets `--long`.
pub fn variable(long: &str) -> String {
    format!("RINGWAY_{}", long.replace('-', "_").to_ascii_uppercase())
}

/// clap's report without its usage block, joined into one line.
pub fn one_line(wrong: &clap::Error) -> String {
    let report = wrong.render().to_string();
    let said: Vec<&str> = report
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let said = visible(&said.join("; ").replace(":; ", ": ").replace("; tip: ", "; "));
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    match from_environment(wrong) {
        Some(variable) => format!("{said} (from the environment: {variable})"),
        None => format!("{said}; see --help"),
    }
}

/// The variable that a wrong value came from, if it was not the command line.
fn from_environment(wrong: &clap::Error) -> Option<String> {
    let text = |kind| match wrong.get(kind) {
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

/// Why a value was refused, without the flag's name: the file has its own.
pub fn value(wrong: &clap::Error) -> String {
    let said = one_line(wrong);
    let said = said.strip_suffix("; see --help").unwrap_or(&said);
    match (wrong.get(ContextKind::InvalidValue), said.split_once("': ")) {
        (Some(value), Some((_, why))) => format!("`{}` will not do: {why}", visible(&value.to_string())),
        _ => said.into(),
    }
}

/// Control characters as escapes: a name or a value that is repeated can neither break the line nor talk to the terminal.
pub fn visible(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}
