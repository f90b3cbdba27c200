//! The files of sources, as `ringway check` judges them: lists of replicas, tokens, authorities. A running balancer reads them
//! itself, and goes on with the list before where one is wrong.

use std::path::Path;

use super::{Config, RuntimeKind, error};
use crate::control::runtime::discovery::{file, http};
use crate::settings::SourceSettings;

/// Returns warnings. `Err`: every mistake, a line each.
pub fn check(config: &Config) -> Result<Vec<String>, String> {
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    for service in &config.named.services {
        let (source, name) = (&service.config.source, &service.name);
        let checked = match service.config.runtime() {
            RuntimeKind::File => file_that_lists(source).map(|path| {
                let absent =
                    |path| format!("services.{name}.source.path: {path} does not exist: no replica before it does");
                warnings.extend(path.map(absent).map(|line| error::visible(&line)));
            }),
            kind if kind.source().is_some() => {
                let checked = http::check_files(source.ca.as_deref(), source.token_file.as_deref());
                checked.map_err(|why| format!("services.{name}.source: {why}"))
            }
            _ => Ok(()),
        };
        faults.extend(checked.err().map(|why| error::visible(&why)));
    }
    if faults.is_empty() { Ok(warnings) } else { Err(faults.join("\n")) }
}

/// Its path, where there is no such file.
fn file_that_lists(source: &SourceSettings) -> Result<Option<String>, String> {
    let path = source.path.as_deref().unwrap_or(Path::new(""));
    match file::read(path) {
        Err(_) if !path.exists() => Ok(Some(path.display().to_string())),
        read => read.map(|_| None),
    }
}
