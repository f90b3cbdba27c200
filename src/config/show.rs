//! `ringway config`: every setting with what it is for and its value, as a file that `ringway run -c` reads. It is made
//! from the same definitions as the flags.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::file::{self, FileSettings, NamedSettings, Setting};
use super::{args, tables};

/// Of a line, in characters.
const WIDTH: usize = 100;

/// Settings that may hold passwords: they are for those who can read the file.
const CONFIDENTIAL: [&str; 2] = ["docker-env", "health-header"];

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Who started the balancer: only the token is left out.
    Operator,
    /// Clients of the admin API.
    AdminApi,
}

impl Audience {
    fn may_see(self, arg: &Arg) -> bool {
        let is_hidden = match self {
            Audience::Operator => false,
            Audience::AdminApi => CONFIDENTIAL.contains(&arg.get_id().as_str()),
        };
        !is_hidden && !arg.is_hide_env_values_set()
    }
}

/// `command` has the flags of `run`, those of a table beside each other, and `matches` are its.
pub fn effective(command: &Command, matches: &ArgMatches, file: &FileSettings, audience: Audience) -> String {
    // Beside listeners that are named there is no other.
    let has_effect = |arg: &&Arg| file.listeners.is_empty() || arg.get_id() != "listen";
    let settings = command.get_arguments().filter(|arg| file::is_setting(arg)).filter(has_effect);
    let settings: Vec<&Arg> = settings.collect();
    let mut tables: Vec<Option<&str>> = settings.iter().map(|arg| arg.get_help_heading()).collect();
    // Keys without a table come first in TOML.
    tables.sort_by_key(Option::is_some);
    tables.dedup();
    tables.into_iter().map(|table| section(table, &settings, matches, audience)).collect()
}

fn section(table: Option<&str>, settings: &[&Arg], matches: &ArgMatches, audience: Audience) -> String {
    let settings = settings.iter().filter(|arg| arg.get_help_heading() == table);
    header(settings.clone().next()) + &settings.map(|arg| entry(arg, matches, audience)).collect::<String>()
}

fn header(first: Option<&&Arg>) -> String {
    first.and_then(|arg| file::table_of(arg)).map_or_else(String::new, |table| format!("[{table}]\n\n"))
}

fn entry(arg: &Arg, matches: &ArgMatches, audience: Audience) -> String {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let key = file::key_of(arg);
    let assigned = match value(arg, matches) {
        Some(_) if !audience.may_see(arg) => format!("# {key} is set, and not shown"),
        Some(value) => format!("{key} = {value}"),
        None => format!("# {key} is not set"),
    };
    format!("{}{assigned}\n\n", comment(&help))
}

fn value(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    let raw = matches.get_raw(arg.get_id().as_str())?;
    let values: Vec<String> = raw.map(|raw| raw.to_string_lossy().into_owned()).collect();
    Some(assigned(arg, &values))
}

/// A number or a truth value as it is, anything else in quotation marks.
fn literal(text: &str) -> String {
    let is_whole = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
    let is_fraction = text.contains('.') && text.parse::<f64>().is_ok_and(|number| number.to_string() == text);
    let is_bare = is_whole || is_fraction || text.parse::<bool>().is_ok();
    if is_bare { text.into() } else { toml::Value::from(text).to_string() }
}

/// `cert=FILE,key=FILE` as a table.
fn file_pair(value: &str) -> Option<String> {
    let (cert, key) = value.strip_prefix("cert=")?.split_once(",key=")?;
    Some(format!("{{ cert = {}, key = {} }}", literal(cert), literal(key)))
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

/// `[listeners.NAME]`, `[services.NAME]` and `[[routes]]`: those of a file, or else what can stand in them, as comments.
pub fn named(file: &FileSettings, audience: Audience) -> String {
    let FileSettings { listeners, services, routes, .. } = file;
    let (listener, route) = (tables::listener_command(), tables::route_command());
    let run = args::command();
    let run = run.find_subcommand("run");
    let table = |kind: &'static str| move |settings: &NamedSettings| format!("{kind}.{}", settings.name);
    let listeners: String = if listeners.is_empty() {
        reference("[listeners.NAME]", LISTENERS, &listener, tables::is_of_listener)
    } else {
        listeners
            .iter()
            .map(|settings| named_table(&table("listeners")(settings), settings, &listener, audience))
            .collect()
    };
    let services: String = if services.is_empty() {
        commented(SERVICES)
    } else {
        let run = |settings| Some(named_table(&table("services")(settings), settings, run?, audience));
        services.iter().filter_map(run).collect()
    };
    let routes: String = if routes.is_empty() {
        reference("[[routes]]", ROUTES, &route, |_| true)
    } else {
        routes
            .iter()
            .map(|settings| format!("[[routes]]\n\n{}", assignments(settings, &route, None, audience)))
            .collect()
    };
    listeners + &services + &routes
}

const LISTENERS: &str = "A listener. Without any, --listen is the only one. [listeners.NAME.tls] holds the keys of [tls]; \
without certificates there a listener speaks in plain text, whatever [tls] says. What it does not set otherwise of [tls], of \
[forwarded] and of the limits of heads, handshakes and idle clients is as above.";
const SERVICES: &str = "A service, as [services.NAME]. Without any, the settings above describe the only one, called default. \
It may hold mode, runtime, replicas, policy, slow_start, sticky_cookie, replica, program and send_proxy, and the tables hash, health, ejection, limits, \
docker and source (as [services.NAME.hash]). What it does not set is as above.";
const ROUTES: &str = "A route. The most specific one that is for a request decides: an exact host before a wildcard before \
none, then the longer path, then the order here. A request that no route is for goes to the listener's service, or is \
answered 404.";

/// Every key of a table with what it is for, all as comments.
fn reference(header: &str, about: &str, command: &Command, is_allowed: fn(&Arg) -> bool) -> String {
    let keys = command.get_arguments().filter(|arg| is_allowed(arg) && arg.get_help_heading().is_none());
    let entries = keys.map(|arg| {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        format!("{}#   {} =\n", comment(&help), file::key_of(arg))
    });
    format!("{}# {header}\n{}\n", comment(about), entries.collect::<String>())
}

fn commented(about: &str) -> String {
    comment(about) + "\n"
}

/// The settings of a table, and of the tables in it.
fn named_table(title: &str, settings: &NamedSettings, command: &Command, audience: Audience) -> String {
    let mut headings: Vec<Option<String>> = settings.settings.iter().map(|setting| heading(setting, command)).collect();
    headings.sort();
    headings.dedup();
    headings.insert(0, None);
    headings.dedup();
    let section = |heading: Option<String>| {
        let title = heading.as_ref().map_or_else(|| title.to_owned(), |heading| format!("{title}.{heading}"));
        format!("[{title}]\n\n{}", assignments(settings, command, Some(heading), audience))
    };
    headings.into_iter().map(section).collect()
}

/// The table within a named table that a setting stands in.
fn heading(setting: &Setting, command: &Command) -> Option<String> {
    let arg = command.get_arguments().find(|arg| arg.get_id() == setting.id.as_str())?;
    file::table_of(arg).filter(|heading| heading != tables::PROXY)
}

/// Those under one heading, or all.
fn assignments(
    settings: &NamedSettings,
    command: &Command,
    only: Option<Option<String>>,
    audience: Audience,
) -> String {
    let is_shown = |setting: &&Setting| only.as_ref().is_none_or(|only| heading(setting, command) == *only);
    let entry = |setting: &Setting| {
        let arg = command.get_arguments().find(|arg| arg.get_id() == setting.id.as_str())?;
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let key = file::key_of(arg);
        let line = match audience.may_see(arg) {
            true => format!("{key} = {}", assigned(arg, &setting.values)),
            false => format!("# {key} is set, and not shown"),
        };
        Some(format!("{}{line}\n\n", comment(&help)))
    };
    settings.settings.iter().filter(is_shown).filter_map(entry).collect()
}

fn assigned(arg: &Arg, values: &[String]) -> String {
    if tables::is_map(arg) {
        let pair = |value: &String| value.replacen('=', " = ", 1);
        return format!("{{ {} }}", values.iter().map(pair).collect::<Vec<_>>().join(", "));
    }
    let pair = |value: &str| tables::is_list_of_tables(arg).then(|| file_pair(value)).flatten();
    let literals: Vec<String> = values.iter().map(|value| pair(value).unwrap_or_else(|| literal(value))).collect();
    match arg.get_action() {
        ArgAction::Append => format!("[{}]", literals.join(", ")),
        _ => literals.into_iter().next().unwrap_or_default(),
    }
}
