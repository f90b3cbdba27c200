//! The configuration file: TOML that sets flags by their names. What no flag is called is refused.

use std::path::Path;

use clap::{Arg, ArgAction, Command};
use toml::de::{DeTable, DeValue};

use super::error;

/// One flag, as the file sets it.
pub struct Setting {
    id: String,
    values: Vec<String>,
}

/// Reads the file, checking each setting by itself against the flags of `command`'s `run`.
pub fn read(path: &Path, command: &Command) -> Result<Vec<Setting>, String> {
    let text = std::fs::read_to_string(path).map_err(|why| format!("{}: cannot be read: {why}", path.display()))?;
    parse_as(path, &text, command)
}

/// The same, of a file that was read.
pub fn parse_as(path: &Path, text: &str, command: &Command) -> Result<Vec<Setting>, String> {
    parse(text, command).map_err(|wrong| {
        let said = format!("{}:{}: {}", path.display(), line(text, wrong.at), wrong.what);
        error::visible(&said)
    })
}

/// The file's settings take the place of the flags' defaults.
pub fn apply(run: Command, settings: Vec<Setting>) -> Command {
    settings.into_iter().fold(run, |run, setting| run.mut_arg(setting.id, |arg| arg.default_values(setting.values)))
}

struct Wrong {
    at: usize,
    what: String,
}

fn parse(text: &str, command: &Command) -> Result<Vec<Setting>, Wrong> {
    let table = DeTable::parse(text).map_err(|wrong| Wrong {
        at: wrong.span().map_or(0, |span| span.start),
        what: wrong.message().replace('\n', ": "),
    })?;
    let mut settings = Vec::new();
    for (key, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(inner) => {
                for (name, value) in inner {
                    let name = Name { table: Some(key.get_ref()), key: name.get_ref(), at: name.span().start };
                    settings.push(setting(&name, value.get_ref(), command)?);
                }
            }
            value => {
                let name = Name { table: None, key: key.get_ref(), at: key.span().start };
                settings.push(setting(&name, value, command)?);
            }
        }
    }
    Ok(settings)
}

/// A key of the file, and where it stands.
struct Name<'t> {
    table: Option<&'t str>,
    key: &'t str,
    at: usize,
}

impl Name<'_> {
    fn wrong(&self, what: impl std::fmt::Display) -> Wrong {
        let table = self.table.map(|table| format!("{table}.")).unwrap_or_default();
        Wrong { at: self.at, what: format!("{table}{}: {what}", self.key) }
    }

    /// In table `[hash]`, `key` is `--hash-key` and `ring` is `--ring`, since that stands under the heading Hash.
    fn means(&self, arg: &Arg) -> bool {
        let bare = self.key.replace('_', "-");
        let full = self.table.map(|table| format!("{table}-{bare}"));
        let prefixed = self.table.is_some_and(|table| bare.starts_with(&format!("{table}-")));
        let heading = arg.get_help_heading().map(str::to_ascii_lowercase);
        let mut names = arg.get_long_and_visible_aliases().unwrap_or_default();
        names.extend(arg.get_all_aliases().unwrap_or_default());
        heading.as_deref() == self.table
            && !self.key.contains('-')
            && names.into_iter().any(|name| full.as_deref() == Some(name) || (name == bare && !prefixed))
    }
}

fn setting(name: &Name, value: &DeValue, command: &Command) -> Result<Setting, Wrong> {
    let run = command.find_subcommand("run").ok_or_else(|| name.wrong("no flags to compare with"))?;
    let arg = run
        .get_arguments()
        .filter(|arg| !["config", "help"].contains(&arg.get_id().as_str()))
        .find(|arg| name.means(arg))
        .ok_or_else(|| name.wrong("no such setting; `ringway run --help` lists them under their tables"))?;
    let values = match value {
        DeValue::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
            values.iter().map(|value| scalar(value.get_ref())).collect::<Option<Vec<_>>>()
        }
        value => scalar(value).map(|value| vec![value]),
    };
    let values = values.ok_or_else(|| name.wrong("want one text, number, true or false here"))?;
    check(arg, &values, command).map_err(|wrong| name.wrong(wrong))?;
    Ok(Setting { id: arg.get_id().to_string(), values })
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

/// Lets the flag itself judge the values: one place says what is allowed.
fn check(arg: &Arg, values: &[String], command: &Command) -> Result<(), String> {
    let long = arg.get_long().unwrap_or_default();
    let flags = values.iter().map(|value| format!("--{long}={value}"));
    let argv = ["ringway".to_string(), "run".into()].into_iter().chain(flags);
    command.clone().try_get_matches_from(argv).map(drop).map_err(|wrong| error::value(&wrong))
}

fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}
