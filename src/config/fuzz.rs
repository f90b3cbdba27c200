//! Body of the fuzz target for the configuration file: the bytes are the file.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use super::{Config, EarlyExit, RuntimeKind, args, file, read};
use crate::core::snapshot::Mode;
use crate::settings::AdminListen;

/// What a message adds to the value that it repeats, in bytes.
const MESSAGE_LIMIT: usize = 2_000;

/// A file is a valid configuration, or refused with a line for each mistake that begins with its name; always in the same
/// way.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let first = parse(text);
    match &first {
        Ok(config) => check(config),
        Err(why) => {
            let lines = why.split('\n');
            assert!(!why.contains('\r') && lines.clone().all(|line| line.starts_with("fuzz.toml")), "{why:?}");
            // Each mistake repeats what it is about, and nothing else.
            assert!(lines.clone().all(|line| line.len() <= text.len() * 8 + MESSAGE_LIMIT), "too long: {why:?}");
        }
    }
    // A byte order mark is one at the front only.
    let commented = format!("# the same, a line lower\n{}", text.strip_prefix('\u{feff}').unwrap_or(text));
    let second = parse(&commented);
    assert_eq!(first.is_ok(), second.is_ok(), "{first:?} and {second:?}");
    if let (Ok(first), Ok(second)) = (first, second) {
        assert_eq!(format!("{first:?}"), format!("{second:?}"), "a comment changed the configuration");
    }
}

/// Built once, since that takes longer than checking a value by it. A built command must not be changed: clap finds its
/// arguments by position.
static BUILT: LazyLock<clap::Command> = LazyLock::new(|| {
    let mut command = args::command();
    command.build();
    command
});

fn parse(text: &str) -> Result<Config, String> {
    let path = Path::new("fuzz.toml");
    let settings = file::parse_as(path, text, &BUILT)?;
    match read::config_of_file(args::command(), path, &settings) {
        // A warning names a line.
        Ok(config) => Ok(Config { warnings: Vec::new(), ..config }),
        Err(EarlyExit::Usage(why)) => Err(why),
        Err(EarlyExit::Help(text)) => panic!("a file requested help: {text}"),
    }
}

/// The invariants of a configuration, for any file.
fn check(config: &Config) {
    let Config { limits, admin, .. } = config;
    let fits = limits.service.line_limit <= limits.service.head_limit;
    assert!(config.replicas <= limits.max_replicas && fits, "{config:?}");
    let exposed = match admin.listen {
        AdminListen::Tcp(address) => !address.ip().to_canonical().is_loopback(),
        AdminListen::Unix(_) | AdminListen::Off => false,
    };
    let http = config.named.listeners.iter().filter(|listener| listener.settings.mode == Mode::Http);
    let mut addresses = http.flat_map(|listener| &listener.settings.bind);
    let is_reachable = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let on_data = admin.is_on_data_port() && addresses.any(is_reachable);
    let has_token = admin.token_file.is_some() || admin.token.as_ref().is_some_and(|token| !token.is_empty());
    assert!(has_token || !(exposed || on_data), "the admin API is exposed without a token: {config:?}");
    if config.runtime() == RuntimeKind::Fixed {
        let replicas = &config.fixed_replicas;
        assert!(!replicas.is_empty() && replicas.iter().all(|replica| replica.weight > 0), "{config:?}");
    }
    assert!(!config.summary().contains(['\n', '\r']), "{:?}", config.summary());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body must see valid configurations, not only errors.
    #[test]
    fn a_valid_file_is_a_configuration_here_too() {
        let config = parse("mode = \"tcp\"\nreplica = [\"a=127.0.0.1:9000@3\"]").unwrap();
        assert_eq!((config.runtime(), config.fixed_replicas.len()), (RuntimeKind::Fixed, 1));
    }
}
