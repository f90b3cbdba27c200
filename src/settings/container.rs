//! What each container of `[docker]` runs and may do. A default that depends on the image is `None` here: Ringway's own
//! image needs next to nothing, and of another one nothing is known.

use clap::Args;

use super::{units, unset, values};
use crate::core::limits::Unit;

#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Docker")]
pub struct ContainerSettings {
    /// The command in each container, word by word: repeat it for each word [default: the image's]
    #[arg(id = "docker-command", long, value_name = "WORD", allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// The user in each container, as USER or USER:GROUP [default: the image's]
    #[arg(id = "docker-user", long, value_name = "USER")]
    pub user: Option<String>,
    /// Whether the root file system is read-only [default: true for Ringway's own image, else false]
    #[arg(id = "docker-read-only", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub read_only: Option<bool>,
    /// A writable directory in memory, as PATH or PATH:OPTIONS like /tmp:size=64m; repeat it for several
    #[arg(id = "docker-tmpfs", long, value_name = "PATH", value_parser = values::tmpfs)]
    pub tmpfs: Vec<(String, String)>,
    /// A volume or a directory of the engine's machine, as SOURCE:PATH or SOURCE:PATH:ro; repeat it for several
    #[arg(id = "docker-volume", long, value_name = "SOURCE:PATH", value_parser = values::volume)]
    pub volumes: Vec<String>,
    /// A file of the engine's machine, read-only at /run/secrets/NAME, as NAME=FILE; repeat it for several
    #[arg(id = "docker-secret", long, value_name = "NAME=FILE", value_parser = values::secret)]
    pub secrets: Vec<(String, String)>,
    /// A capability that is taken away, or ALL; repeat it for several [default: ALL for Ringway's own image, else none]
    #[arg(id = "docker-cap-drop", long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// A capability that is given; repeat it for several
    #[arg(id = "docker-cap-add", long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Whether a program may gain privileges (setuid) [default: false for Ringway's own image, else true]
    #[arg(id = "docker-new-privileges", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub new_privileges: Option<bool>,
    /// Memory of each container; 0 is no limit [default: 256MiB for Ringway's own image, else 0]
    #[arg(id = "docker-memory", long, value_name = "SIZE", value_parser = units::parser(Unit::Size, 0..=1 << 46))]
    pub memory_bytes: Option<u64>,
    /// Processes and threads of each container; 0 is no limit [default: 512 for Ringway's own image, else 0]
    #[arg(id = "docker-pids", long, value_name = "N")]
    pub pids: Option<u32>,
    /// How long a container may take to end after its stop signal [default: 2s for Ringway's own image, else 10s]
    #[arg(id = "docker-stop-timeout", long, value_name = "DURATION",
        value_parser = units::parser(Unit::Duration, 0..=86_400_000))]
    pub stop_timeout_ms: Option<u64>,
}

impl Default for ContainerSettings {
    fn default() -> Self {
        unset()
    }
}
