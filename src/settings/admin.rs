//! The table `[admin]`: where the admin API answers, and who may call it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::values;

/// Where the admin API answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Off,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admin")]
pub struct AdminSettings {
    /// Where the admin API answers: IP:PORT, unix:/PATH or off
    #[arg(id = "admin", long, alias = "admin-listen", value_name = "WHERE", default_value = "127.0.0.1:8001",
        value_parser = values::admin)]
    pub listen: AdminListen,
    /// Whether /rep, /add and /rm answer on the data port too. A request with X-Forwarded-*, Forwarded or Via goes to a
    /// replica in any case [default: true when that is a loopback address, and no file, no --replica and no
    /// --accept-proxy-from is given]
    #[arg(id = "admin-on-data-port", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub on_data_port: Option<bool>,
    /// A host name by which the admin API is called. A request whose Host is neither one of these nor localhost nor an IP
    /// address is refused: a page of the web could point its own name here. Several are separated by commas
    #[arg(id = "admin-host", long, value_name = "NAME", value_delimiter = ',', value_parser = values::host_name)]
    pub hosts: Vec<String>,
    /// Required of every admin call, as `Authorization: Bearer TOKEN`. Needed where the admin API is not on loopback.
    /// Better given in the environment: every user of the machine can read a command line
    #[arg(id = "admin-token", long, value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds this token, instead of --admin-token: one line, readable by its owner and group only. It is read
    /// again at each reload
    #[arg(id = "admin-token-file", long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
}

impl AdminSettings {
    /// Calls need a token. That of a file is not read here.
    pub fn needs_token(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }

    pub fn is_on_data_port(&self) -> bool {
        self.on_data_port == Some(true)
    }
}
