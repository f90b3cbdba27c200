//! Body of the fuzz target for the configuration file: the bytes are the file.

use std::path::Path;
use std::sync::LazyLock;

use clap::CommandFactory;

use super::flags::Cli;
use super::{AdminListen, Config, Runtime, Stop, file, read, values};

/// What a message adds to the value that it repeats.
const MESSAGE_LIMIT: usize = 2_000;

/// A file is a sound configuration, or refused in one line that begins with its name; always in the same way.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let found = understood(text);
    match &found {
        Ok(config) => sound(config),
        Err(why) => {
            assert!(!why.contains(['\n', '\r']), "more than a line: {why:?}");
            assert!(why.len() <= text.len() * 8 + MESSAGE_LIMIT, "a long story: {why:?}");
        }
    }
    // A byte order mark is one at the front only.
    let commented = format!("# the same, a line lower\n{}", text.strip_prefix('\u{feff}').unwrap_or(text));
    let again = understood(&commented);
    assert_eq!(found.is_ok(), again.is_ok(), "{found:?} and {again:?}");
    if let (Ok(found), Ok(again)) = (found, again) {
        assert_eq!(format!("{found:?}"), format!("{again:?}"), "a comment changed something");
    }
}

/// Built once: that takes longer than reading a file by it. No fuzzer asks the network for names.
static COMMAND: LazyLock<clap::Command> = LazyLock::new(|| {
    let mut command = Cli::command()
        .mut_subcommand("run", |run| run.mut_arg("replica", |arg| arg.value_parser(values::replica_by_address)));
    command.build();
    command
});

fn understood(text: &str) -> Result<Config, String> {
    let path = Path::new("fuzz.toml");
    let settings = file::parse_as(path, text, &COMMAND)?;
    match read::settled(COMMAND.clone(), path, settings) {
        Ok(config) => Ok(config),
        Err(Stop::Wrong(why)) => Err(why),
        Err(Stop::Help(text)) => panic!("a file asked for help: {text}"),
    }
}

/// What settings promise each other, whatever the file said.
fn sound(config: &Config) {
    let Config { limits, admin, .. } = config;
    assert!(config.replicas <= config.max_replicas && limits.line_limit <= limits.head_limit, "{config:?}");
    let exposed = match admin.listen {
        AdminListen::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        AdminListen::Unix(_) | AdminListen::Off => false,
    };
    let on_data = admin.on_data_port && !config.listen.ip().to_canonical().is_loopback();
    let guarded = admin.token.as_ref().is_some_and(|token| !token.is_empty());
    assert!(guarded || !(exposed || on_data), "strangers may start containers: {config:?}");
    if let Runtime::Fixed(replicas) = &config.runtime {
        assert!(!replicas.is_empty() && replicas.iter().all(|replica| replica.weight > 0), "{config:?}");
    }
    assert!(!config.summary().contains(['\n', '\r']), "{:?}", config.summary());
}
