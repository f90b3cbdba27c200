//! From the flags of `run` to a `Config`: what settings ask of each other is checked here, once.

use std::net::{IpAddr, SocketAddr};

use super::flags::{Admin, Run, RuntimeKind};
use super::{AdminListen, Config, FixedReplica, Heartbeat, Runtime, error};
use crate::core::limits::Limits;
use crate::core::snapshot::Mode;

impl Run {
    pub fn settle(self) -> Result<Config, String> {
        if self.replicas > self.caps.max_replicas {
            return Err(format!("--replicas {} is over --max-replicas {}", self.replicas, self.caps.max_replicas));
        }
        let from_file = self.config.is_some();
        let runtime = runtime(self.runtime, self.replica, self.docker)?;
        if self.replicas == 0 && matches!(runtime, Runtime::Process) {
            return Err("--replicas 0 needs --runtime docker, where containers of others can join".into());
        }
        let limits = Limits { trust: self.forwarded.forwarded_trust, ..self.limits.settle() };
        if limits.line_limit > limits.head_limit {
            let (line, head) = (limits.line_limit, limits.head_limit);
            return Err(format!("--line-limit {line} is over --head-limit {head}, which holds the line too"));
        }
        Ok(Config {
            listen: self.listen,
            mode: self.mode,
            key: self.hash.hash_key,
            ring: self.hash.ring,
            limits,
            workers: self.workers,
            pin: self.pin,
            max_connections: self.caps.max_connections,
            max_connections_per_client: self.caps.max_connections_per_client,
            replicas: self.replicas,
            max_replicas: self.caps.max_replicas,
            runtime,
            heartbeat: Heartbeat {
                path: self.health.health_path,
                interval_ms: self.health.health_interval_ms,
                misses: self.health.health_misses,
                send_proxy: self.proxy.send_proxy,
            },
            accept_proxy_from: self.proxy.accept_proxy_from,
            send_proxy: self.proxy.send_proxy,
            admin: admin(self.admin, self.listen, self.mode, from_file)?,
        })
    }
}

fn runtime(
    asked: Option<RuntimeKind>,
    fixed: Vec<FixedReplica>,
    docker: super::flags::Docker,
) -> Result<Runtime, String> {
    match (asked, fixed.is_empty()) {
        (None | Some(RuntimeKind::Process), true) => Ok(Runtime::Process),
        (Some(RuntimeKind::Docker), true) => Ok(Runtime::Docker(docker.settle())),
        (None | Some(RuntimeKind::Fixed), false) => unique(fixed).map(Runtime::Fixed),
        (Some(RuntimeKind::Fixed), true) => Err("--runtime fixed needs at least one --replica HOST:PORT".into()),
        (Some(_), false) => Err("--replica names servers that run already: leave --runtime out, or say fixed".into()),
    }
}

/// A name is a place on the ring.
fn unique(fixed: Vec<FixedReplica>) -> Result<Vec<FixedReplica>, String> {
    let mut names: Vec<&str> = fixed.iter().map(|replica| replica.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("--replica {} is given twice: give one of them a name, NAME=HOST:PORT", pair[0])),
        None => Ok(fixed),
    }
}

fn admin(admin: Admin, data: SocketAddr, mode: Mode, from_file: bool) -> Result<super::Admin, String> {
    let guarded = admin.admin_token.as_deref().is_some_and(|token| !token.is_empty());
    let usual = !from_file && is_loopback(data.ip()) && mode == Mode::Http && admin.admin != AdminListen::Off;
    let on_data_port = admin.admin_on_data_port.unwrap_or(usual);
    if on_data_port && mode == Mode::Tcp {
        return Err("--admin-on-data-port needs --mode http: a tcp port has no paths".into());
    }
    if on_data_port && !is_loopback(data.ip()) && !guarded {
        return Err(format!("--admin-on-data-port on {data}, which others can reach, needs --admin-token"));
    }
    match admin.admin {
        AdminListen::Tcp(address) if !is_loopback(address.ip()) && !guarded => {
            Err(format!("--admin {address} can be reached by others, who could start replicas: set --admin-token"))
        }
        AdminListen::Tcp(address) if address == data && address.port() != 0 => {
            Err(format!("--admin and --listen are both {address}: give one of them another port"))
        }
        listen => Ok(super::Admin { listen, on_data_port, token: admin.admin_token.filter(|token| !token.is_empty()) }),
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl Config {
    /// What matters most, in one line.
    pub fn summary(&self) -> String {
        let replicas = match &self.runtime {
            Runtime::Process => format!("{} replicas as processes", self.replicas),
            Runtime::Docker(docker) => format!("{} replicas of image {}", self.replicas, docker.image),
            Runtime::Fixed(fixed) => format!("{} fixed replicas", fixed.len()),
        };
        let admin = match &self.admin.listen {
            AdminListen::Tcp(address) => format!("admin on {address}"),
            AdminListen::Unix(path) => format!("admin on {}", path.display()),
            AdminListen::Off => "no admin".into(),
        };
        let mode = if self.mode == Mode::Http { "http" } else { "tcp" };
        error::visible(&format!("{mode} on {}, {replicas}, {admin}", self.listen))
    }
}
