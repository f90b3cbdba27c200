//! `ringway config`: every setting with what it is for and its value, as a file that `ringway run -c` reads. It is made
//! from the same definitions as the flags.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::file;

/// Of a line, in characters.
const WIDTH: usize = 100;

/// `command` has the flags of `run`, those of a table beside each other, and `matches` are its.
pub fn effective(command: &Command, matches: &ArgMatches) -> String {
    let settings: Vec<&Arg> = command.get_arguments().filter(|arg| file::is_setting(arg)).collect();
    let mut tables: Vec<Option<&str>> = settings.iter().map(|arg| arg.get_help_heading()).collect();
    // Keys without a table come first in TOML.
    tables.sort_by_key(Option::is_some);
    tables.dedup();
    tables.into_iter().map(|table| section(table, &settings, matches)).collect()
}

fn section(table: Option<&str>, settings: &[&Arg], matches: &ArgMatches) -> String {
    let settings = settings.iter().filter(|arg| arg.get_help_heading() == table);
    header(table) + &settings.map(|arg| entry(arg, matches)).collect::<String>()
}

fn header(table: Option<&str>) -> String {
    let Some(table) = table.map(str::to_ascii_lowercase) else { return String::new() };
    if table.contains(' ') { format!("[{table:?}]\n\n") } else { format!("[{table}]\n\n") }
}

fn entry(arg: &Arg, matches: &ArgMatches) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let key = file::key_of(arg);
    let assigned = match value(arg, matches) {
        Some(_) if arg.is_hide_env_values_set() => format!("# {key} is set, and not shown"),
        Some(value) => format!("{key} = {value}"),
        None => format!("# {key} is not set"),
    };
    format!("{}{assigned}\n\n", comment(&help))
}

fn value(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    let values: Vec<String> =
        matches.get_raw(arg.get_id().as_str())?.map(|raw| literal(&raw.to_string_lossy())).collect();
    match arg.get_action() {
        ArgAction::Append => Some(format!("[{}]", values.join(", "))),
        _ => values.into_iter().next(),
    }
}

/// A number or a truth value as it is, anything else in quotation marks.
fn literal(text: &str) -> String {
    let is_whole = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    let is_fraction = text.contains('.') && text.parse::<f64>().is_ok_and(|number| number.to_string() == text);
    let is_bare = is_whole || is_fraction || text.parse::<bool>().is_ok();
    if is_bare { text.into() } else { toml::Value::from(text).to_string() }
}

fn comment(help: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in help.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + word.len() >= WIDTH) {
            lines.push("#".into());
        }
        if let Some(line) = lines.last_mut() {
            line.extend([" ", word]);
        }
    }
    lines.join("\n") + "\n"
}
