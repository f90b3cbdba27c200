//! Settings of which the name ended with a unit before their values had one. The old spelling is refused with the new one.
//! No value is read here.

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};

use super::error;

/// The name without its unit.
pub fn bare(old: &str) -> Option<&str> {
    ["-ms", "-mib", "_ms", "_mib"].iter().find_map(|unit| old.strip_suffix(unit))
}

/// A value of `arg`, where that has a unit.
pub fn example(arg: &Arg) -> Option<&'static str> {
    match arg.get_value_names()?.first()?.as_str() {
        "DURATION" => Some("500ms"),
        "SIZE" => Some("64MiB"),
        _ => None,
    }
}

/// What to write instead of the flag that clap does not know.
pub fn flag(unknown: &clap::Error, command: &Command) -> Option<String> {
    let Some(ContextValue::String(old)) = unknown.get(ContextKind::InvalidArg) else { return None };
    let (long, example) = new_long(old.strip_prefix("--")?, command.find_subcommand("run")?)?;
    Some(format!("{} is --{long} now, with a unit: {example}", error::visible(old)))
}

/// What to write instead of a variable of the environment.
pub fn variable(old: &str, run: &Command) -> Option<String> {
    let name = old.strip_prefix("RINGWAY_")?.to_ascii_lowercase().replace('_', "-");
    let (long, example) = new_long(&name, run)?;
    Some(format!("{old} is {} now, with a unit: {example}", error::variable(long)))
}

fn new_long<'c>(old: &str, run: &'c Command) -> Option<(&'c str, &'static str)> {
    let bare = bare(old)?;
    let arg = run.get_arguments().find(|arg| arg.get_long() == Some(bare))?;
    Some((arg.get_long()?, example(arg)?))
}
