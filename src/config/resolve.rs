//! From the flags of `run` to a [`Config`]: what depends on other settings is filled in, and settings that contradict each
//! other are refused. Single values are checked by their parsers, not here.

use std::net::{IpAddr, SocketAddr};

use super::args::RunArgs;
use super::sources::Sources;
use super::tables::ListenerSettings;
use super::{Config, RuntimeKind, acme, error, unused};

use crate::core::balance::BalancePolicy;
use crate::core::limits::{Limits, Unit};
use crate::core::snapshot::{KeyPolicy, Mode};
use crate::core::tls::client_auth::ClientAuthMode;
use crate::settings::{AdminListen, AdminSettings, FixedReplica, LimitSettings, SourceKind, TlsSettings, units};

/// A service listens nowhere itself.
const SERVICE_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What the settings outside of `[services.NAME]` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlatService {
    /// The only service.
    Whole,
    /// Defaults of services that have names. Each of those is checked by itself.
    Defaults,
}

impl RunArgs {
    /// What contradicts, and what has no effect, is named with its place.
    pub fn into_config(self, flat: FlatService, sources: &Sources) -> Result<Config, String> {
        if let Some(why) = sources.renamed_variable() {
            return Err(why.into());
        }
        let mut config = self.resolved(flat).map_err(|why| sources.locate(&why))?;
        config.warnings = unused::warnings(&config, &[&config], sources);
        Ok(config)
    }

    /// The settings of one service among others. Each has containers of its own: a cluster of its own, unless it names one.
    pub fn into_service(mut self, sources: &Sources, name: &str) -> Result<Config, String> {
        if !sources.set().iter().any(|setting| setting.long == "docker-cluster") {
            self.config.docker.cluster = format!("{}-{name}", self.config.docker.cluster);
        }
        self.config.listen = SERVICE_LISTEN;
        let mut config = self.resolved(FlatService::Whole)?;
        config.warnings = unused::warnings(&config, &[&config], sources);
        Ok(config)
    }

    fn resolved(self, flat: FlatService) -> Result<Config, String> {
        let RunArgs { mut config, file } = self;
        let token = config.admin.token.take();
        config.admin.token = token.filter(|token| !token.is_empty());
        let embedded = file.is_none() && config.mode == Mode::Http && is_loopback(config.listen.ip());
        // Servers of others may have such paths of their own, and behind a balancer every client seems to be on loopback.
        let alone = config.replicas_are_ours() && config.proxy.accept_proxy_from.is_empty();
        let admin = &mut config.admin;
        admin.on_data_port.get_or_insert(embedded && alone && admin.listen != AdminListen::Off);
        if flat == FlatService::Whole {
            check_replicas(&config)?;
            check_key(&config)?;
            check_policy(&config)?;
            config.upstream.tls()?;
        }
        check_limits(&config.limits.service)?;
        check_tls(&config.tls, config.mode)?;
        acme::resolve(&mut config.tls, &config.acme)?;
        check_admin(&config.admin, config.listen, config.mode)?;
        Ok(config)
    }
}

fn check_replicas(config: &Config) -> Result<(), String> {
    let (replicas, LimitSettings { max_replicas, .. }) = (config.replicas, &config.limits);
    if replicas > *max_replicas {
        return Err(format!("--replicas {replicas} is over --max-replicas {max_replicas}"));
    }
    let fixed = &config.fixed_replicas;
    if !config.program.is_empty() && config.runtime() != RuntimeKind::Process {
        return Err("a program after `--` runs as processes: leave out --replica, or --runtime docker".into());
    }
    let runtime = config.runtime();
    if let (Some(source), true) = (runtime.source(), fixed.is_empty()) {
        return config.source.check(source);
    }
    match (runtime, fixed.is_empty()) {
        (RuntimeKind::Process, true) if replicas == 0 => {
            Err("--replicas 0 needs --runtime docker, where containers of others can join".into())
        }
        (_, true) if runtime != RuntimeKind::Fixed => Ok(()),
        (RuntimeKind::Fixed, false) => check_names(fixed),
        (_, true) => Err("--runtime fixed needs at least one --replica HOST:PORT".into()),
        (_, false) => Err("--replica names servers that run already: leave --runtime out, or say fixed".into()),
    }
}

/// A name is a place on the ring.
fn check_names(fixed: &[FixedReplica]) -> Result<(), String> {
    let mut names: Vec<&str> = fixed.iter().map(|replica| replica.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("--replica {} is given twice: give one of them a name, NAME=HOST:PORT", pair[0])),
        None => Ok(()),
    }
}

/// A tcp connection has no request to take a key from.
fn check_key(config: &Config) -> Result<(), String> {
    match (config.mode, &config.hash.key) {
        (Mode::Http, KeyPolicy::Sni) => {
            Err("--hash-key sni needs --mode tls-passthrough: take header:Host for the host of a request".into())
        }
        (Mode::Http, _) | (_, KeyPolicy::Request | KeyPolicy::ClientIp | KeyPolicy::Sni) => Ok(()),
        (Mode::Tcp | Mode::TlsPassthrough, _) => {
            Err("--hash-key needs --mode http here: a tcp connection has request, client-ip or sni only".into())
        }
    }
}

fn check_policy(config: &Config) -> Result<(), String> {
    match (config.policy(), config.hash.balance_factor) {
        (BalancePolicy::Hash | BalancePolicy::BoundedHash(_), _) | (_, None) => Ok(()),
        (other, Some(factor)) => Err(format!(
            "--balance-factor {} needs --policy hash: it bounds the loads of the ring's choices, and --policy is {}",
            factor.value(),
            other.name()
        )),
    }
}

pub fn check_limits(limits: &Limits) -> Result<(), String> {
    let Limits { line_limit, head_limit, .. } = limits;
    if line_limit > head_limit {
        let [line_limit, head_limit] = [line_limit, head_limit].map(|size| units::show(Unit::Size, *size as u64));
        return Err(format!("--line-limit {line_limit} is over --head-limit {head_limit}, which holds the line too"));
    }
    Ok(())
}

/// A certificate of our own is for trying things out: it stands beside no other.
pub fn check_tls(tls: &TlsSettings, mode: Mode) -> Result<(), String> {
    if tls.is_on() && mode == Mode::TlsPassthrough {
        let flag = if tls.certificates.is_empty() { "--tls-acme" } else { "--tls" };
        return Err(format!(
            "{flag} has no place beside --mode tls-passthrough, where the replicas have the certificates"
        ));
    }
    let is_self_signed = tls.is_self_signed();
    if is_self_signed && tls.certificates.len() > 1 {
        return Err("--tls self-signed stands beside other certificates: leave it or them out".into());
    }
    check_client_auth(tls)?;
    match &tls.default {
        Some(name) if is_self_signed => {
            Err(format!("--tls-default {name} names a pair of files, and --tls is self-signed"))
        }
        _ => Ok(()),
    }
}

fn check_client_auth(tls: &TlsSettings) -> Result<(), String> {
    match (tls.client_auth, &tls.client_ca, &tls.crl) {
        (ClientAuthMode::Off, Some(_), _) => Err("--tls-client-ca needs --tls-client-auth optional or required".into()),
        (ClientAuthMode::Off, None, Some(_)) => Err("--tls-crl needs --tls-client-auth optional or required".into()),
        (ClientAuthMode::Optional | ClientAuthMode::Required, None, _) => {
            Err("--tls-client-auth needs --tls-client-ca, which has the authorities of the clients' certificates"
                .into())
        }
        _ => Ok(()),
    }
}

/// Anyone who reaches `/add` can start replicas: beyond loopback that takes a token.
fn check_admin(admin: &AdminSettings, data: SocketAddr, mode: Mode) -> Result<(), String> {
    let has_token = admin.needs_token();
    if admin.token.is_some() && admin.token_file.is_some() {
        return Err("--admin-token and --admin-token-file are both given: leave one out".into());
    }
    if admin.is_on_data_port() && mode != Mode::Http {
        return Err("--admin-on-data-port needs --mode http: a tcp port has no paths".into());
    }
    if admin.is_on_data_port() && !is_loopback(data.ip()) && !has_token {
        return Err(exposed(data));
    }
    match admin.listen {
        AdminListen::Tcp(address) if !is_loopback(address.ip()) && !has_token => Err(format!(
            "--admin {address} can be reached by others, who could start replicas: set --admin-token-file or --admin-token"
        )),
        AdminListen::Tcp(address) if address == data && address.port() != 0 => {
            Err(format!("--admin and --listen are both {address}: give one of them another port"))
        }
        _ => Ok(()),
    }
}

/// The admin API answers on every http listener: each beyond loopback needs the token.
pub fn check_admin_on(admin: &AdminSettings, listener: &ListenerSettings) -> Result<(), String> {
    if let AdminListen::Tcp(address) = admin.listen
        && address.port() != 0
        && listener.bind.contains(&address)
    {
        return Err(format!("bind: --admin is {address} too: give one of them another port"));
    }
    let is_open = admin.is_on_data_port() && !admin.needs_token() && listener.mode == Mode::Http;
    let reachable = listener.bind.iter().find(|address| is_open && !is_loopback(address.ip()));
    reachable.map_or(Ok(()), |address| Err(exposed(*address)))
}

fn exposed(data: SocketAddr) -> String {
    format!("--admin-on-data-port on {data}, which others can reach, needs --admin-token-file or --admin-token")
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl Config {
    /// `--runtime`, or what the other settings make of it.
    pub fn runtime(&self) -> RuntimeKind {
        let default = if self.fixed_replicas.is_empty() { RuntimeKind::Process } else { RuntimeKind::Fixed };
        self.runtime.unwrap_or(default)
    }

    /// `--policy`, with its bound.
    pub fn policy(&self) -> BalancePolicy {
        match (self.policy, self.hash.balance_factor) {
            (BalancePolicy::Hash, Some(factor)) => BalancePolicy::BoundedHash(factor),
            (policy, _) => policy,
        }
    }

    /// Our own program or image, which answers our heartbeat and has no admin paths of its own.
    pub fn replicas_are_ours(&self) -> bool {
        self.runtime().starts_replicas() && self.program.is_empty()
    }

    /// Listener, replicas and admin API, in one line.
    pub fn summary(&self) -> String {
        let replicas = match self.runtime() {
            RuntimeKind::Process => match self.program.first() {
                Some(program) => format!("{} replicas of {}", self.replicas, program.display()),
                None => format!("{} replicas as processes", self.replicas),
            },
            RuntimeKind::Docker => format!("{} replicas of image {}", self.replicas, self.docker.image),
            RuntimeKind::Fixed => format!("{} fixed replicas", self.fixed_replicas.len()),
            RuntimeKind::File => {
                let path = self.source.path.as_ref().map(|path| path.display().to_string());
                format!("replicas listed in {}", path.unwrap_or_default())
            }
            RuntimeKind::Dns | RuntimeKind::Consul | RuntimeKind::Kubernetes | RuntimeKind::Swarm => {
                let word = self.runtime().source().map_or("", SourceKind::word);
                format!("replicas of {} in {word}", self.source.name.clone().unwrap_or_default())
            }
        };
        let admin = match &self.admin.listen {
            AdminListen::Tcp(address) => format!("admin on {address}"),
            AdminListen::Unix(path) => format!("admin on {}", path.display()),
            AdminListen::Off => "no admin".into(),
        };
        let mode = match (self.mode, self.tls.is_on()) {
            (Mode::Http, true) => "https",
            (Mode::Tcp, true) => "tcp over TLS",
            (mode, _) => mode.name(),
        };
        let text = match self.named.is_flat() {
            true => format!("{mode} on {}, {replicas}, {admin}", self.listen),
            false => format!("{}, {admin}", self.named.summary()),
        };
        error::visible(&text)
    }
}
