//! Where each setting of `run` comes from: a flag, the environment, or a line of the file. A message names that place.

use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::file::{Place, Setting};
use super::{error, renamed};

/// The settings that are not left at their defaults.
#[derive(Default)]
pub struct Sources {
    set: Vec<SourcedSetting>,
    /// Variables that look like settings and are none.
    unknown: Vec<String>,
    /// What to write instead of the first that was a setting by an older name.
    renamed: Option<String>,
}

pub struct SourcedSetting {
    /// The flag, without its dashes.
    pub long: String,
    /// The heading of its table.
    pub table: String,
    source: Source,
}

enum Source {
    Flag,
    /// The variable's name.
    Environment(String),
    /// Its path, line and column.
    File(String),
}

impl Sources {
    /// `variables` are the names of the environment; `file` is the path and what was read from it.
    pub fn read(
        run: &Command,
        matches: &ArgMatches,
        variables: impl Iterator<Item = String>,
        file: Option<(&Path, &[Setting])>,
    ) -> Sources {
        let set = run.get_arguments().filter_map(|arg| SourcedSetting::read(arg, matches, file));
        let known = |name: &str| {
            run.get_arguments().any(|arg| arg.get_env().is_some_and(|variable| variable == name))
                || super::read::BIND == name
        };
        // A file can also be judged by itself, without the environment.
        let reads_variables = run.get_arguments().any(|arg| arg.get_env().is_some());
        let unknown = variables.filter(|name| reads_variables && name.starts_with("RINGWAY_") && !known(name));
        let unknown: Vec<String> = unknown.collect();
        let renamed = unknown.iter().find_map(|name| renamed::variable(name, run));
        Sources { set: set.collect(), unknown, renamed }
    }

    pub fn set(&self) -> &[SourcedSetting] {
        &self.set
    }

    /// `--long`, with the place where that is not the command line.
    pub fn name_of(&self, long: &str) -> String {
        let setting = self.set.iter().find(|setting| setting.long == long);
        setting.map_or_else(|| format!("--{long}"), SourcedSetting::name)
    }

    pub fn unknown_variables(&self) -> &[String] {
        &self.unknown
    }

    pub fn renamed_variable(&self) -> Option<&str> {
        self.renamed.as_deref()
    }

    /// A message about settings that contradict each other, with the place of the first that is not on the command line.
    pub fn locate(&self, message: &str) -> String {
        let longs =
            message.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter_map(|w| w.strip_prefix("--"));
        let mut named = longs.filter_map(|long| self.set.iter().find(|setting| setting.long == long));
        match named.find_map(SourcedSetting::place) {
            Some(place) => error::visible(&format!("{place}: {message}")),
            None => message.into(),
        }
    }
}

impl SourcedSetting {
    fn read(arg: &Arg, matches: &ArgMatches, file: Option<(&Path, &[Setting])>) -> Option<SourcedSetting> {
        let (id, long) = (arg.get_id().as_str(), arg.get_long()?);
        let source = match matches.value_source(id)? {
            ValueSource::CommandLine => Source::Flag,
            ValueSource::EnvVariable => Source::Environment(error::variable(long)),
            _ => {
                let (path, settings) = file?;
                let setting = settings.iter().find(|setting| setting.id == id)?;
                let Place { line, column } = setting.place;
                Source::File(format!("{}:{line}:{column}", path.display()))
            }
        };
        Some(SourcedSetting { long: long.into(), table: arg.get_help_heading().unwrap_or_default().into(), source })
    }

    fn place(&self) -> Option<&str> {
        match &self.source {
            Source::Flag => None,
            Source::Environment(place) | Source::File(place) => Some(place),
        }
    }

    /// `--docker-image`, with the place where that is not the command line.
    pub fn name(&self) -> String {
        let place = self.place().map(|place| format!("{place}: ")).unwrap_or_default();
        error::visible(&format!("{place}--{}", self.long))
    }
}
