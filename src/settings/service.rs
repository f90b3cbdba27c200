//! The tables of one service: how a request finds its replica, what a connection says of its client; and the replicas that
//! are servers given by address.

use std::net::SocketAddr;

use clap::Args;

use super::values;
use crate::core::balance::BalanceFactor;
use crate::core::limits::{RequestIdPolicy, Trust, Via};
use crate::core::net::Net;
use crate::core::proxy::Version;
use crate::core::ring::RingKind;
use crate::core::snapshot::KeyPolicy;

/// A server that this balancer did not start: `--replica NAME=HOST:PORT@WEIGHT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedReplica {
    /// Its identity on the ring: `HOST:PORT` as it was written, unless a name was given.
    pub name: String,
    pub address: HostPort,
    pub weight: u32,
}

/// Where a server is. Names are looked up by the runtime, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPort {
    Address(SocketAddr),
    Name { host: String, port: u16 },
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Hash")]
pub struct HashSettings {
    /// The part of a request that decides its replica: request (a new number each time: spreads evenly), uri, path,
    /// header:NAME, cookie:NAME, query:NAME, client-ip, or sni (the host that a TLS client asks for, with tls-passthrough).
    /// A request without it is routed like `request`
    #[arg(id = "hash-key", long, value_name = "KEY", default_value = "request", value_parser = values::key)]
    pub key: KeyPolicy,
    /// How replicas are laid out: `ketama` (160 points per weight, as nginx does: a replica that leaves moves no other's keys),
    /// `maglev` (a table of equal slots: shares differ by 1 % at most, and some keys of others move), or `exercise` (512 slots)
    #[arg(long, value_name = "RING", default_value = "ketama", value_parser = values::ring)]
    pub ring: RingKind,
    /// A replica gets no more requests than this multiple of its weighted share of those in flight, and others go on to the
    /// next on the ring (consistent hashing with bounded loads): a number from 1 to 1000, like 1.25. Without it there is no
    /// bound
    #[arg(long, value_name = "FACTOR", value_parser = values::balance_factor)]
    pub balance_factor: Option<BalanceFactor>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Proxy protocol")]
pub struct ProxySettings {
    /// Addresses or ranges of the balancers in front of this one. Each connection from them must begin with a PROXY header
    /// (version 1 or 2) that names its client. Repeat it, or give several separated by commas
    #[arg(long, value_name = "NET", value_delimiter = ',', value_parser = values::net)]
    pub accept_proxy_from: Vec<Net>,
    /// Begin each connection to a replica with a PROXY header that names the client: v1 or v2. In http mode such
    /// connections serve one client each
    #[arg(long, value_name = "VERSION", value_parser = values::proxy_version)]
    pub send_proxy: Option<Version>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Forwarded")]
pub struct ForwardedSettings {
    /// What becomes of X-Forwarded-* and Forwarded that a client sent: `append` (any client may have sent them: the client's
    /// address is added to X-Forwarded-For, the others are removed), `replace` (none of them is passed on), or `keep` (only
    /// where every client is a proxy of yours: they are passed on, and its address is added to X-Forwarded-For)
    #[arg(id = "forwarded-trust", long, value_name = "TRUST", default_value = "append", value_parser = values::trust)]
    pub trust: Trust,
    /// Whether `Via: 1.1 ringway` is added to requests: `on` or `off`. RFC 9110 section 7.6.3 asks it of a gateway, so that
    /// loops can be seen. Some servers answer a request with Via otherwise: nginx does not compress for it
    #[arg(id = "forwarded-via", long, value_name = "VIA", default_value = "on", value_parser = values::via)]
    pub via: Via,
    /// What becomes of X-Request-Id, by which one request is found in the logs of several servers: `pass` (a valid one, of
    /// 1 to 128 visible characters, is passed on and stands in the access log; any other is removed), `make` (the same, and
    /// a request without one gets 32 random hexadecimal digits), or `off` (it is a field like any other)
    #[arg(id = "forwarded-request-id", long, value_name = "WHAT", default_value = "pass",
        value_parser = values::request_id)]
    pub request_id: RequestIdPolicy,
}
