//! The configuration file: TOML whose keys are flags of `run`. A key that is no flag's is refused. A table is the heading
//! that its flags stand under in the help.

use std::path::Path;

use clap::{Arg, ArgAction, Command};
use toml::de::{DeTable, DeValue};

use super::error;

/// One flag, as the file sets it.
pub struct Setting {
    /// Of the flag.
    pub id: String,
    pub line: usize,
    values: Vec<String>,
}

/// Reads the file, checking each setting by itself against the flags of `command`'s `run`.
pub fn read(path: &Path, command: &Command) -> Result<Vec<Setting>, String> {
    let text = std::fs::read_to_string(path).map_err(|why| format!("{}: cannot be read: {why}", path.display()))?;
    parse_as(path, &text, command)
}

/// Parses `text`, the contents of `path`. An error begins with path and line.
pub fn parse_as(path: &Path, text: &str, command: &Command) -> Result<Vec<Setting>, String> {
    parse(text, command).map_err(|error| {
        let line = format!("{}:{}: {}", path.display(), line_of(text, error.offset), error.message);
        error::visible(&line)
    })
}

/// The file's settings take the place of the flags' defaults.
pub fn apply(run: Command, settings: &[Setting]) -> Command {
    settings.iter().fold(run, |run, setting| run.mut_arg(&setting.id, |arg| arg.default_values(setting.values.clone())))
}

struct FileError {
    offset: usize,
    message: String,
}

fn parse(text: &str, command: &Command) -> Result<Vec<Setting>, FileError> {
    let root = DeTable::parse(text).map_err(|error| FileError {
        offset: error.span().map_or(0, |span| span.start),
        message: error.message().replace('\n', ": "),
    })?;
    let mut settings = Vec::new();
    for (name, value) in root.get_ref() {
        match value.get_ref() {
            DeValue::Table(inner) => {
                for (inner_name, value) in inner {
                    let table = Some(name.get_ref().as_ref());
                    let key = FileKey { table, name: inner_name.get_ref(), offset: inner_name.span().start };
                    settings.push(setting(&key, value.get_ref(), command, text)?);
                }
            }
            value => {
                let key = FileKey { table: None, name: name.get_ref(), offset: name.span().start };
                settings.push(setting(&key, value, command, text)?);
            }
        }
    }
    Ok(settings)
}

/// A key of the file, and where it stands.
struct FileKey<'t> {
    table: Option<&'t str>,
    name: &'t str,
    offset: usize,
}

impl FileKey<'_> {
    fn error(&self, why: impl std::fmt::Display) -> FileError {
        let table = self.table.map(|table| format!("{table}.")).unwrap_or_default();
        FileError { offset: self.offset, message: format!("{table}{}: {why}", self.name) }
    }

    /// In table `[hash]`, `key` is `--hash-key` and `ring` is `--ring`, since that stands under the heading Hash.
    fn is_flag(&self, arg: &Arg) -> bool {
        let bare = self.name.replace('_', "-");
        let full = self.table.map(|table| format!("{table}-{bare}"));
        let is_prefixed = self.table.is_some_and(|table| bare.starts_with(&format!("{table}-")));
        let heading = arg.get_help_heading().map(str::to_ascii_lowercase);
        let mut names = arg.get_long_and_visible_aliases().unwrap_or_default();
        names.extend(arg.get_all_aliases().unwrap_or_default());
        // The program behind `--`.
        names.extend(arg.is_positional().then_some(arg.get_id().as_str()));
        heading.as_deref() == self.table
            && !self.name.contains('-')
            && names.into_iter().any(|name| full.as_deref() == Some(name) || (name == bare && !is_prefixed))
    }
}

pub fn is_setting(arg: &Arg) -> bool {
    !["config", "help"].contains(&arg.get_id().as_str())
}

/// How a file calls a flag, in its table; the program behind `--` goes by its id.
pub fn key_of(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or(arg.get_id().as_str());
    let prefix = arg.get_help_heading().map(|table| format!("{}-", table.to_ascii_lowercase()));
    let in_table = |name: &str| name.strip_prefix(prefix.as_deref()?).map(str::to_owned);
    let aliases = arg.get_all_aliases().unwrap_or_default();
    let bare = in_table(long).or_else(|| aliases.into_iter().find_map(in_table));
    bare.unwrap_or_else(|| long.into()).replace('-', "_")
}

fn setting(key: &FileKey, value: &DeValue, command: &Command, text: &str) -> Result<Setting, FileError> {
    let run = command.find_subcommand("run").ok_or_else(|| key.error("there are no flags to compare with"))?;
    let arg = run
        .get_arguments()
        .filter(|arg| is_setting(arg))
        .find(|arg| key.is_flag(arg))
        .ok_or_else(|| key.error("no such setting; `ringway run --help` lists them under their tables"))?;
    let values = match value {
        DeValue::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
            values.iter().map(|value| scalar(value.get_ref())).collect::<Option<Vec<_>>>()
        }
        value => scalar(value).map(|value| vec![value]),
    };
    let values = values.ok_or_else(|| key.error("want one text, number, true or false here"))?;
    check(arg, &values, command).map_err(|why| key.error(why))?;
    Ok(Setting { id: arg.get_id().to_string(), line: line_of(text, key.offset), values })
}

fn scalar(value: &DeValue) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string()),
        DeValue::Float(number) => Some(number.as_str().into()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// The flag's own parser judges the values: what is allowed is stated in one place.
fn check(arg: &Arg, values: &[String], command: &Command) -> Result<(), String> {
    let flags: Vec<String> = match arg.get_long() {
        Some(long) => values.iter().map(|value| format!("--{long}={value}")).collect(),
        None => std::iter::once("--".into()).chain(values.iter().cloned()).collect(),
    };
    let argv = ["ringway".to_string(), "run".into()].into_iter().chain(flags);
    command.clone().try_get_matches_from(argv).map(drop).map_err(|error| error::value(&error))
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
