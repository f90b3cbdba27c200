//! The configuration file: TOML whose keys are flags. Flat keys and tables are flags of `run`; a table is the heading that
//! its flags stand under in the help: the heading "Access log" is the table `[access_log]`. `[services.NAME]` and `[listeners.NAME]` hold the same keys and tables for one service
//! or listener, `[[routes]]` the keys of a route. A key that is none of these is refused. What contradicts is found elsewhere.

use std::path::Path;

use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::{error, named, renamed, tables};

/// One flag, as the file sets it.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Of the flag.
    pub id: String,
    pub place: Place,
    pub values: Vec<String>,
}

/// Where something stands in the file, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// A table with a name, or a route.
#[derive(Clone, Debug)]
pub struct NamedSettings {
    /// `services.shop`, `routes[0]`.
    pub title: String,
    /// `shop`; empty for a route.
    pub name: String,
    pub place: Place,
    pub settings: Vec<Setting>,
}

/// All that a file sets.
#[derive(Clone, Debug, Default)]
pub struct FileSettings {
    pub flat: Vec<Setting>,
    pub listeners: Vec<NamedSettings>,
    pub services: Vec<NamedSettings>,
    pub routes: Vec<NamedSettings>,
}

/// Reads the file, checking each setting by itself against the flags of `command`'s `run`.
pub fn read(path: &Path, command: &Command) -> Result<FileSettings, String> {
    let text = std::fs::read_to_string(path).map_err(|why| format!("{}: cannot be read: {why}", path.display()))?;
    parse_as(path, &text, command)
}

/// Parses `text`, the contents of `path`. An error has a line for each mistake, which begins with path, line and column.
pub fn parse_as(path: &Path, text: &str, command: &Command) -> Result<FileSettings, String> {
    let mut reader = FileReader { text, command, errors: Vec::new() };
    let settings = reader.read();
    if !reader.errors.is_empty() {
        // Without a mistake it is told by all that the names are used for.
        reader.errors.extend(unknown_names(&settings));
    }
    reader.errors.sort_by_key(|error| error.place);
    let lines = reader.errors.iter().map(|error| {
        let Place { line, column } = error.place;
        error::visible(&format!("{}:{line}:{column}: {}", path.display(), error.message))
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { Ok(settings) } else { Err(lines.join("\n")) }
}

/// The file's settings take the place of the flags' defaults.
pub fn apply<'a>(run: Command, settings: impl IntoIterator<Item = &'a Setting>) -> Command {
    settings
        .into_iter()
        .fold(run, |run, setting| run.mut_arg(&setting.id, |arg| arg.default_values(setting.values.clone())))
}

struct FileError {
    place: Place,
    message: String,
}

type TomlKey<'t> = Spanned<std::borrow::Cow<'t, str>>;

/// Which keys a table may hold.
#[derive(Clone, Copy)]
struct TableKeys<'c> {
    /// Its arguments are the keys.
    command: &'c Command,
    is_allowed: fn(&Arg) -> bool,
    /// A key outside of any table may be a flag under this heading too.
    heading: Option<&'static str>,
}

impl TableKeys<'_> {
    fn has_table(&self, name: &str) -> bool {
        let mut all = self.command.get_arguments().filter(|arg| (self.is_allowed)(arg));
        all.any(|arg| table_of(arg).is_some_and(|table| table == name))
    }
}

/// Names of services and listeners that the file does not have. They are found beside other mistakes: what else is wrong in
/// a table does not matter.
fn unknown_names(file: &FileSettings) -> Vec<FileError> {
    let tables = file.listeners.iter().chain(&file.routes);
    let settings = tables.flat_map(|table| table.settings.iter().map(move |setting| (table, setting)));
    let fault = |(table, setting): (&NamedSettings, &Setting)| {
        let (kind, known) = match setting.id.as_str() {
            "service" | "split" => ("service", &file.services),
            "listeners" => ("listener", &file.listeners),
            _ => return None,
        };
        let mut known: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
        if known.is_empty() {
            known.push(named::DEFAULT);
        }
        let mut names = setting.values.iter().map(|value| value.split_once('=').map_or(&**value, |(name, _)| name));
        let name = names.find(|name| !known.contains(name))?;
        let message =
            format!("{}.{}: there is no {kind} {name}; there are {}", table.title, setting.id, known.join(", "));
        Some(FileError { place: setting.place, message })
    };
    settings.filter_map(fault).collect()
}

struct FileReader<'t> {
    text: &'t str,
    command: &'t Command,
    errors: Vec<FileError>,
}

impl FileReader<'_> {
    fn read(&mut self) -> FileSettings {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        self.errors.extend(errors.iter().map(|error| FileError {
            place: place(self.text, error.span().map_or(0, |span| span.start)),
            message: error.message().replace('\n', ": "),
        }));
        let mut settings = FileSettings::default();
        if !errors.is_empty() {
            // What it means is not known.
            return settings;
        }
        let Some(run) = self.command.find_subcommand("run") else { return settings };
        let flat = TableKeys { command: run, is_allowed: is_setting, heading: None };
        let service = TableKeys { is_allowed: tables::is_of_service, heading: Some(tables::PROXY), ..flat };
        let (listener_keys, route_keys) = (tables::listener_command(), tables::route_command());
        let listener = TableKeys { command: &listener_keys, is_allowed: tables::is_of_listener, ..service };
        let route = TableKeys { command: &route_keys, is_allowed: is_setting, heading: None };
        let mut rest = DeTable::new();
        for (key, value) in root.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("services", DeValue::Table(tables)) => settings.services = self.named("services", tables, service),
                ("listeners", DeValue::Table(tables)) => settings.listeners = self.named("listeners", tables, listener),
                ("routes", DeValue::Array(routes)) => settings.routes = self.routes(routes, route),
                ("services" | "listeners", _) => self.error(key, "", "want tables here, as [services.NAME]"),
                ("routes", _) => self.error(key, "", "want a list of tables here, each as [[routes]]"),
                _ => drop(rest.insert(key.clone(), value.clone())),
            }
        }
        settings.flat = self.table("", &rest, flat);
        settings
    }

    fn named(&mut self, kind: &str, tables: &DeTable, keys: TableKeys) -> Vec<NamedSettings> {
        let mut named = Vec::new();
        for (key, value) in tables {
            let (name, title) = (key.get_ref().to_string(), format!("{kind}.{}", key.get_ref()));
            if let Some(fault) = tables::name_fault(&name) {
                self.error(key, &format!("{kind}."), fault);
            }
            let DeValue::Table(table) = value.get_ref() else {
                self.error(key, &format!("{kind}."), "want a table here, as [services.NAME]");
                continue;
            };
            let settings = self.table(&format!("{title}."), table, keys);
            named.push(NamedSettings { title, name, place: place(self.text, key.span().start), settings });
        }
        named.sort_by_key(|named| (named.place.line, named.place.column));
        named
    }

    fn routes(&mut self, routes: &DeArray, keys: TableKeys) -> Vec<NamedSettings> {
        let mut read = Vec::new();
        for (number, value) in routes.iter().enumerate() {
            let title = format!("routes[{number}]");
            let place = place(self.text, value.span().start);
            match value.get_ref() {
                DeValue::Table(table) => {
                    let settings = self.table(&format!("{title}."), table, keys);
                    read.push(NamedSettings { title, name: String::new(), place, settings });
                }
                _ => {
                    self.errors.push(FileError { place, message: format!("{title}: want a table here, as [[routes]]") })
                }
            }
        }
        read
    }

    /// The settings of one table and of the tables in it. `prefix` names it in messages.
    fn table(&mut self, prefix: &str, table: &DeTable, keys: TableKeys) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (key, value) in table {
            let is_list = is_map(keys.command, key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) if !is_list => {
                    let outer = key.get_ref().as_ref();
                    if inner.is_empty() && !keys.has_table(outer) {
                        self.error(key, prefix, "there is no such table; `ringway config` prints all of them");
                    }
                    let certificates = ["certificates", "acme"].into_iter().find_map(|key| inner.get(key));
                    if let Some(why) = tables::table_fault(keys.command, outer, certificates) {
                        self.error(key, prefix, why);
                    }
                    let prefix = format!("{prefix}{outer}.");
                    let inner = inner.iter().map(|(key, value)| (key, value.get_ref()));
                    inner
                        .for_each(|(key, value)| settings.extend(self.setting(&prefix, Some(outer), key, value, keys)));
                }
                value => settings.extend(self.setting(prefix, None, key, value, keys)),
            }
        }
        settings
    }

    fn setting(
        &mut self,
        prefix: &str,
        table: Option<&str>,
        key: &TomlKey,
        value: &DeValue,
        keys: TableKeys,
    ) -> Option<Setting> {
        let mut all = keys.command.get_arguments().filter(|arg| (keys.is_allowed)(arg));
        let Some(arg) = all.find(|arg| is_flag(arg, table, key.get_ref(), keys.heading)) else {
            let why = unknown(table, key.get_ref(), keys);
            self.error(key, prefix, &why);
            return None;
        };
        let values = match value {
            DeValue::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
                values.iter().map(|value| element(arg, value.get_ref())).collect::<Option<Vec<_>>>()
            }
            DeValue::Table(table) if tables::is_list_of_tables(arg) => pairs(table).map(|pairs| vec![pairs.join(",")]),
            DeValue::Table(table) => pairs(table),
            value => scalar(value).map(|value| vec![value]),
        };
        let Some(values) = values else {
            self.error(key, prefix, "want one text, number, true or false here");
            return None;
        };
        if let Err(why) = check(arg, &values, keys.command) {
            self.error(key, prefix, &why);
            return None;
        }
        Some(Setting { id: arg.get_id().to_string(), place: place(self.text, key.span().start), values })
    }

    fn error(&mut self, key: &TomlKey, prefix: &str, why: &str) {
        let message = format!("{prefix}{}: {why}", key.get_ref());
        self.errors.push(FileError { place: place(self.text, key.span().start), message });
    }
}

/// In table `[hash]`, `key` is `--hash-key` and `ring` is `--ring`, since that stands under the heading Hash.
fn is_flag(arg: &Arg, table: Option<&str>, name: &str, other_heading: Option<&str>) -> bool {
    let bare = name.replace('_', "-");
    let table = table.map(|table| table.replace([' ', '_'], "-"));
    let full = table.as_ref().map(|table| format!("{table}-{bare}"));
    let is_prefixed = table.as_ref().is_some_and(|table| bare.starts_with(&format!("{table}-")));
    let heading = table_of(arg).map(|heading| heading.replace('_', "-"));
    let mut names = arg.get_long_and_visible_aliases().unwrap_or_default();
    names.extend(arg.get_all_aliases().unwrap_or_default());
    // The program behind `--`.
    names.extend(arg.is_positional().then_some(arg.get_id().as_str()));
    let has_heading =
        heading == table || (table.is_none() && heading == other_heading.map(|heading| heading.replace('_', "-")));
    has_heading
        && !name.contains('-')
        && names.into_iter().any(|name| full.as_deref() == Some(name) || (name == bare && !is_prefixed))
}

/// Its value is a table of names and numbers.
fn is_map(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_id() == name && tables::is_map(arg))
}

pub fn is_setting(arg: &Arg) -> bool {
    !["config", "help"].contains(&arg.get_id().as_str())
}

/// The table that a flag stands in.
pub fn table_of(arg: &Arg) -> Option<String> {
    arg.get_help_heading().map(|heading| heading.to_ascii_lowercase().replace(' ', "_"))
}

/// How a file calls a flag, in its table; the program behind `--` goes by its id.
pub fn key_of(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or(arg.get_id().as_str());
    let prefix = table_of(arg).map(|table| format!("{}-", table.replace('_', "-")));
    let in_table = |name: &str| name.strip_prefix(prefix.as_deref()?).map(str::to_owned);
    let aliases = arg.get_all_aliases().unwrap_or_default();
    let bare = in_table(long).or_else(|| aliases.into_iter().find_map(in_table));
    bare.unwrap_or_else(|| long.into()).replace('-', "_")
}

/// Why a key is refused that is no setting.
fn unknown(table: Option<&str>, name: &str, keys: TableKeys) -> String {
    let allowed = |arg: &&Arg| (keys.is_allowed)(arg);
    let new = renamed::bare(name).and_then(|new| {
        keys.command.get_arguments().filter(allowed).find(|arg| is_flag(arg, table, new, keys.heading))
    });
    match new.and_then(|arg| Some((key_of(arg), renamed::example(arg)?))) {
        Some((name, example)) => format!("it is {name} now, with a unit: {name} = \"{example}\""),
        None => "no such setting here; `ringway config` prints all of them in their tables".into(),
    }
}

/// One of a list.
fn element(arg: &Arg, value: &DeValue) -> Option<String> {
    match value {
        DeValue::Table(table) if tables::is_list_of_tables(arg) => Some(pairs(table)?.join(",")),
        value => scalar(value),
    }
}

/// Each as `NAME=VALUE`, in the order of their names.
fn pairs(table: &DeTable) -> Option<Vec<String>> {
    let pair =
        |(name, value): (&TomlKey, &Spanned<DeValue>)| Some(format!("{}={}", name.get_ref(), scalar(value.get_ref())?));
    let mut pairs = table.iter().map(pair).collect::<Option<Vec<_>>>()?;
    pairs.sort();
    Some(pairs)
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
    let argv = std::iter::once(command.get_name().to_owned()).chain(flags);
    command.clone().try_get_matches_from(argv).map(drop).map_err(|error| error::value(&error))
}

fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
    Place { line, column: 1 + before.get(line_start..).unwrap_or_default().chars().count() }
}
