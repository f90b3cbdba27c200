//! The files of sources that list replicas, as `ringway check` judges them. A running balancer reads them itself, and goes on
//! with the list before where one is wrong.

use super::{Config, RuntimeKind, error};
use crate::control::runtime::discovery::file;

/// Returns warnings. `Err`: every mistake, a line each.
pub fn check(config: &Config) -> Result<Vec<String>, String> {
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    for service in &config.named.services {
        let path = service.config.source.path.as_ref().filter(|_| service.config.runtime() == RuntimeKind::File);
        let Some(path) = path else { continue };
        match file::read(path) {
            Err(_) if !path.exists() => {
                warnings.push(error::visible(&format!(
                    "services.{}.source.path: {} does not exist yet: the service begins without a replica",
                    service.name,
                    path.display()
                )));
            }
            Err(why) => faults.push(error::visible(&why)),
            Ok(_) => {}
        }
    }
    if faults.is_empty() { Ok(warnings) } else { Err(faults.join("\n")) }
}
