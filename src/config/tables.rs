//! What the tables `[listeners.NAME]`, `[services.NAME]` and `[[routes]]` may hold: their keys as flags of clap, one by one.
//! What their values mean together is judged elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use clap::{Arg, Args, Command};
use toml::Spanned;
use toml::de::DeValue;

use super::file;
use crate::core::limits::Limits;
use crate::core::routes::{HostPattern, Redirect};
use crate::core::snapshot::Mode;
use crate::settings::{ForwardedSettings, ProxySettings, TlsSettings, values};

/// The heading whose settings stand outside of any table in a service or listener.
pub const PROXY: &str = "proxy_protocol";
/// Limits of a listener: those of heads and of clients that have not sent a request yet.
const LISTENER_LIMITS: [&str; 6] =
    ["handshake_timeout", "head_timeout", "idle_timeout", "line_limit", "head_limit", "field_limit"];

/// What the command of a listener's settings is called.
pub const LISTENER: &str = "listener";
/// The setting that makes a listener speak TLS.
pub const CERTIFICATES: &str = "tls";
/// Limits of the whole balancer.
const OF_THE_PROCESS: [&str; 5] =
    ["max_connections", "max_connections_per_client", "tls_max_handshakes", "shutdown_delay", "upgrade_timeout"];

/// One table `[listeners.NAME]`.
#[derive(Args, Clone, Debug)]
pub struct ListenerSettings {
    /// Addresses that clients connect to, each as IP:PORT
    #[arg(long, value_name = "IP:PORT", value_parser = values::address)]
    pub bind: Vec<SocketAddr>,
    /// What comes in: `http` requests, `tcp` connections, or TLS connections that pass through as they are
    /// (`tls-passthrough`), by routes for the host that their clients ask for
    #[arg(long, value_name = "MODE", default_value = "http", value_parser = values::mode)]
    pub mode: Mode,
    /// The service of all connections in tcp mode, and of requests and connections that no route is for in the other modes
    /// [default: the only service of that mode, where there are no routes]
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Send every client to the same URL with https instead
    #[arg(long, value_name = "BOOL", default_value = "false", action = clap::ArgAction::Set)]
    pub redirect_to_https: bool,
    #[command(flatten)]
    pub tls: TlsSettings,
    #[command(flatten)]
    pub proxy: ProxySettings,
    #[command(flatten)]
    pub forwarded: ForwardedSettings,
    #[command(flatten)]
    pub limits: Limits,
}

/// One table `[[routes]]`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = None::<&str>)]
pub struct RouteSettings {
    /// The host of the request, or the one that a TLS client asks for: a name, or `*.example.com` for every name below it. Without it the route is for all hosts
    #[arg(long, value_name = "HOST", value_parser = values::host_pattern)]
    pub host: Option<HostPattern>,
    /// A prefix of the path by whole segments: /api is for /api and /api/x, and not for /apis
    #[arg(long, value_name = "PATH", value_parser = values::path_prefix)]
    pub path: Option<String>,
    /// Methods, in upper case; without it all
    #[arg(long, value_name = "METHOD", value_parser = values::method_name)]
    pub methods: Vec<String>,
    /// Listeners by name; without it all
    #[arg(long, value_name = "NAME")]
    pub listeners: Vec<String>,
    /// The service that the requests go to
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Services that share the requests by weight: { a = 95, b = 5 }
    #[arg(long, value_name = "NAME=WEIGHT", value_parser = values::share_of_split)]
    pub split: Vec<(String, u32)>,
    /// A URL that clients are sent to instead; {host} and {uri} in it stand for the request's
    #[arg(long, value_name = "URL", value_parser = values::location)]
    pub redirect: Option<String>,
    /// The status of `redirect`: 301, 302, 303, 307 or 308
    #[arg(long, value_name = "CODE", default_value = "308", value_parser = values::redirect_status)]
    pub status: u16,
}

/// Where the requests of a route go, by name.
#[derive(Clone, Debug)]
pub enum NamedTarget<'a> {
    Service(&'a str),
    Split(&'a [(String, u32)]),
    Redirect(Redirect),
}

impl<'a> NamedTarget<'a> {
    pub fn services(self) -> Vec<&'a str> {
        match self {
            NamedTarget::Service(name) => vec![name],
            NamedTarget::Split(split) => split.iter().map(|(name, _)| name.as_str()).collect(),
            NamedTarget::Redirect(_) => Vec::new(),
        }
    }
}

impl RouteSettings {
    pub fn is_for_the_same_as(&self, other: &RouteSettings) -> bool {
        (&self.host, &self.path, &self.methods, &self.listeners)
            == (&other.host, &other.path, &other.methods, &other.listeners)
    }

    /// Of the listeners that it is for, as the modes of its services tell.
    pub fn mode(&self, modes: &BTreeMap<String, Mode>) -> Mode {
        let services = self.target().map(NamedTarget::services).unwrap_or_default();
        let mut own = services.iter().filter_map(|name| modes.get(*name));
        match own.next() {
            Some(Mode::Tcp | Mode::TlsPassthrough) => Mode::TlsPassthrough,
            Some(Mode::Http) | None => Mode::Http,
        }
    }

    /// It is for this listener, which has this mode.
    pub fn is_for(&self, listener: &str, mode: Mode, modes: &BTreeMap<String, Mode>) -> bool {
        let is_named = self.listeners.is_empty() || self.listeners.iter().any(|name| name == listener);
        is_named && self.mode(modes) == mode
    }

    pub fn is_by_host_alone(&self) -> bool {
        self.path.is_none() && self.methods.is_empty()
    }

    /// `None`: not exactly one of service, split and redirect is given.
    pub fn target(&self) -> Option<NamedTarget<'_>> {
        match (&self.service, &self.split[..], &self.redirect) {
            (Some(service), [], None) => Some(NamedTarget::Service(service)),
            (None, split @ [_, ..], None) => Some(NamedTarget::Split(split)),
            (None, [], Some(location)) => {
                Some(NamedTarget::Redirect(Redirect { status: self.status, location: location.clone() }))
            }
            _ => None,
        }
    }
}

pub fn is_of_service(arg: &Arg) -> bool {
    let id = arg.get_id().as_str();
    match arg.get_help_heading() {
        None => {
            ["mode", "runtime", "replicas", "policy", "slow-start", "sticky_cookie", "replica", "program"].contains(&id)
        }
        Some("Upstream" | "Hash" | "Health" | "Ejection" | "Docker" | "Source") => true,
        Some("Limits") => !OF_THE_PROCESS.contains(&id),
        Some("Proxy protocol") => id == "send_proxy",
        Some(_) => false,
    }
}

pub fn is_of_listener(arg: &Arg) -> bool {
    let id = arg.get_id().as_str();
    match arg.get_help_heading() {
        Some("Limits") => LISTENER_LIMITS.contains(&id),
        Some("Proxy protocol") => id == "accept_proxy_from",
        _ => file::is_setting(arg),
    }
}

/// A table `[tls]` without certificates is no default of a listener, and a listener with one would speak in plain text.
pub fn table_fault(command: &Command, table: &str, certificates: Option<&Spanned<DeValue>>) -> Option<&'static str> {
    let is_empty = |value: &Spanned<DeValue>| matches!(value.get_ref(), DeValue::Array(values) if values.is_empty());
    let is_missing = certificates.map_or(command.get_name() == LISTENER, is_empty);
    (table == "tls" && is_missing).then_some(
        "certificates is missing: want a folder of NAME.crt and NAME.key, a list of { cert = \"FILE\", key = \"FILE\" }, or \
         self-signed; or acme, with the names that an ACME server is asked for",
    )
}

/// A list that may hold tables, each of which stands for one value: `{ a = "x", b = "y" }` is `a=x,b=y`.
pub fn is_list_of_tables(arg: &Arg) -> bool {
    arg.get_id() == CERTIFICATES
}

/// A table of names and numbers.
pub fn is_map(arg: &Arg) -> bool {
    arg.get_id() == "split"
}

pub fn listener_command() -> Command {
    ListenerSettings::augment_args(Command::new(LISTENER))
}

pub fn route_command() -> Command {
    RouteSettings::augment_args(Command::new("route"))
}

/// What keeps a name from standing in labels, metrics and container names.
pub fn name_fault(name: &str) -> Option<&'static str> {
    const NAME_MAX: usize = 63;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > NAME_MAX {
        Some("a name has 1 to 63 characters")
    } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(is_allowed) {
        Some("a name has letters, digits, '_' and '-' only, and begins with a letter or a digit")
    } else {
        None
    }
}
