//! A name in DNS whose addresses are the servers of a service: A and AAAA records with one port, or SRV records with a port,
//! a weight and a priority each.
//!
//! A name that does not exist and one without records of the kind are empty lists: registries answer one or the other for a
//! service without instances. Like any empty list they are doubted first. All other failures are errors, SERVFAIL and REFUSED
//! among them, and change nothing.
//!
//! hickory-resolver asks: getaddrinfo, which host names of `--replica` are looked up with, tells no time to live and knows no
//! SRV records.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};

use super::follow::{FoundServer, SourceAnswer};
use super::weights;
use crate::control::runtime::{Failure, FailureKind};
use crate::settings::{AddressFamily, SourceSettings};

/// A DNS server that does not answer within this is asked again, or another one is.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

pub struct DnsSource {
    resolver: TokioResolver,
    name: String,
    /// `None`: the name is one of SRV records.
    port: Option<u16>,
    family: AddressFamily,
    ttl_min_ms: u64,
    ttl_max_ms: u64,
}

/// FoundRecords, and how long they may be kept, in seconds.
struct FoundRecords<T> {
    found: Vec<T>,
    ttl_s: u32,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ServiceRecord {
    priority: u16,
    weight: u16,
    port: u16,
    target: String,
}

impl DnsSource {
    pub fn open(settings: &SourceSettings) -> Result<DnsSource, Failure> {
        let SourceSettings { name, family, ttl_min_ms, ttl_max_ms, .. } = settings;
        Ok(DnsSource {
            resolver: resolver(&settings.resolvers)?,
            name: name.clone().unwrap_or_default(),
            port: if settings.is_srv() { None } else { Some(settings.port_number().unwrap_or_default()) },
            family: *family,
            ttl_min_ms: *ttl_min_ms,
            ttl_max_ms: *ttl_max_ms,
        })
    }

    pub async fn ask(&mut self) -> Result<SourceAnswer, String> {
        let FoundRecords { found, ttl_s } = match self.port {
            Some(port) => self.servers_of_addresses(port).await?,
            None => self.servers_of_services().await?,
        };
        let ttl_ms = u64::from(ttl_s) * 1_000;
        Ok(SourceAnswer::whole(found, ttl_ms.clamp(self.ttl_min_ms, self.ttl_max_ms)))
    }

    async fn servers_of_addresses(&self, port: u16) -> Result<FoundRecords<FoundServer>, String> {
        let FoundRecords { found, ttl_s } = self.addresses(&self.name).await?;
        let found = found.into_iter().map(|ip| FoundServer::at(SocketAddr::new(ip, port), 1)).collect();
        Ok(FoundRecords { found, ttl_s })
    }

    async fn servers_of_services(&self) -> Result<FoundRecords<FoundServer>, String> {
        let records = self.look_up(&self.name, RecordType::SRV, |data| match data {
            RData::SRV(srv) => Some(ServiceRecord {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_string(),
            }),
            _ => None,
        });
        let FoundRecords { found, mut ttl_s } = records.await?;
        let mut servers = Vec::new();
        let records = preferred(found);
        let weights: Vec<u64> = records.iter().map(|record| record.weight.into()).collect();
        for (record, weight) in records.iter().zip(weights::on_ring(&weights)) {
            let addresses = self.addresses(&record.target).await?;
            ttl_s = ttl_s.min(addresses.ttl_s);
            servers.extend(
                addresses.found.into_iter().map(|ip| FoundServer::at(SocketAddr::new(ip, record.port), weight)),
            );
        }
        Ok(FoundRecords { found: servers, ttl_s })
    }

    async fn addresses(&self, name: &str) -> Result<FoundRecords<IpAddr>, String> {
        let v4 = self.look_up(name, RecordType::A, |data| match data {
            RData::A(ip) => Some(IpAddr::V4(ip.0)),
            _ => None,
        });
        let v6 = self.look_up(name, RecordType::AAAA, |data| match data {
            RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
            _ => None,
        });
        match self.family {
            AddressFamily::Ipv4 => v4.await,
            AddressFamily::Ipv6 => v6.await,
            AddressFamily::Any => {
                let (v4, v6) = tokio::join!(v4, v6);
                let (mut v4, v6) = (v4?, v6?);
                v4.found.extend(v6.found);
                Ok(FoundRecords { ttl_s: v4.ttl_s.min(v6.ttl_s), ..v4 })
            }
        }
    }

    async fn look_up<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<FoundRecords<T>, String> {
        match self.resolver.lookup(name, kind).await {
            Ok(answer) => {
                let records = answer.answers();
                let found = records.iter().filter_map(|record| read(&record.data)).collect();
                Ok(FoundRecords { found, ttl_s: records.iter().map(|record| record.ttl).min().unwrap_or(u32::MAX) })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                Ok(FoundRecords { found: Vec::new(), ttl_s: none.negative_ttl.unwrap_or(u32::MAX) })
            }
            Err(error) => Err(format!("no {kind} records of {name}: {}", reason(&error))),
        }
    }
}

fn reason(error: &NetError) -> String {
    match error {
        NetError::Timeout => format!("no answer within {} s, {ATTEMPTS} times", TIMEOUT.as_secs()),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the DNS server answered {code}"),
        other => other.to_string(),
    }
}

/// Its own cache is off: when a name is asked again is decided here.
fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, Failure> {
    let failure = |why: NetError| Failure {
        kind: FailureKind::Refused,
        message: format!(
            "/etc/resolv.conf names no DNS servers that can be asked: {why}; say --source-resolver IP:PORT"
        ),
    };
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().map_err(failure)?
    } else {
        let servers = servers.iter().map(|server| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            connections.iter_mut().for_each(|connection| connection.port = server.port());
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    (options.cache_size, options.timeout, options.attempts) = (0, TIMEOUT, ATTEMPTS);
    builder.build().map_err(failure)
}

/// The records of the lowest priority (RFC 2782). The others are for when those cannot be reached, which heartbeats find out.
fn preferred(mut records: Vec<ServiceRecord>) -> Vec<ServiceRecord> {
    records.sort();
    let lowest = records.first().map(|record| record.priority);
    records.retain(|record| Some(record.priority) == lowest);
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16, target: &str) -> ServiceRecord {
        ServiceRecord { priority, weight, port: 80, target: target.into() }
    }

    #[test]
    fn the_lowest_priority_is_used() {
        let records = vec![record(20, 1, "c"), record(10, 1, "b"), record(10, 1, "a")];
        assert_eq!(preferred(records), [record(10, 1, "a"), record(10, 1, "b")]);
        assert_eq!(preferred(Vec::new()), []);
    }
}
