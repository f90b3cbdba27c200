//! A service of a Consul registry: its instances that pass their health checks, followed by blocking queries. The rules of the
//! index are those of Consul's documentation ("Blocking queries"): one that goes back, or is 0, says that the registry was
//! restored or restarted, and the list is asked for anew.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::header::HeaderName;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Deserialize;

use super::follow::{Cursor, FoundServer, SourceAnswer};
use super::http::{ApiClient, ApiToken, CALL_TIMEOUT, HttpFault};
use super::weights;
use crate::control::runtime::Failure;
use crate::settings::{AddressFamily, SourceApi, SourceSettings};

/// How long a query waits for a change. Consul adds a random sixteenth of it.
const WAIT: Duration = Duration::from_secs(60);
const WAIT_LIMIT: Duration = Duration::from_secs(75);
/// Between two changes that are asked for: a list that changes all the time must not take all the time.
const PAUSE_MS: u64 = 100;
/// The agent on this machine.
const AGENT: &str = "http://127.0.0.1:8500";
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-consul-token");

pub struct ConsulSource {
    client: ApiClient,
    path: String,
    family: AddressFamily,
}

/// One instance with its node, of `/v1/health/service`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthEntry {
    node: ConsulNode,
    service: ConsulService,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulNode {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulService {
    #[serde(rename = "ID", default)]
    id: String,
    /// Empty: that of its node.
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u16,
    weights: Option<ConsulWeights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConsulWeights {
    passing: u64,
}

impl ConsulSource {
    pub fn open(settings: &SourceSettings) -> Result<ConsulSource, Failure> {
        let agent = || AGENT.parse().unwrap_or_else(|_| SourceApi::Unix("/".into()));
        let api = settings.api.clone().unwrap_or_else(agent);
        let token = settings.token_file.clone().map(|file| ApiToken { file, header: TOKEN_HEADER, scheme: "" });
        let name = settings.name.clone().unwrap_or_default();
        let tag = settings.tag.as_ref().map_or_else(String::new, |tag| format!("&tag={}", escaped(tag)));
        Ok(ConsulSource {
            client: ApiClient::open(&api, settings.ca.as_deref(), token)?,
            path: format!("/v1/health/service/{}?passing=1{tag}", escaped(&name)),
            family: settings.family,
        })
    }

    pub async fn ask(&mut self, cursor: Option<&Cursor>) -> Result<SourceAnswer, String> {
        self.query(cursor).await.map_err(HttpFault::text)
    }

    async fn query(&self, cursor: Option<&Cursor>) -> Result<SourceAnswer, HttpFault> {
        let index = cursor.and_then(|cursor| cursor.0.parse::<u64>().ok());
        let (path, limit) = match index {
            Some(index) => (format!("{}&index={index}&wait={}s", self.path, WAIT.as_secs()), WAIT_LIMIT),
            None => (self.path.clone(), CALL_TIMEOUT),
        };
        let answer = self.client.get(&path, limit).await?;
        // Without a leader an agent may answer from what it has not heard of yet.
        if answer.header("x-consul-knownleader") == Some("false") {
            return Err(HttpFault::Other("its servers have no leader: the answer may be anything".into()));
        }
        let new_index = answer.header("x-consul-index").and_then(|index| index.parse().ok());
        let entries: Vec<HealthEntry> = answer.json(CALL_TIMEOUT).await?;
        let (servers, note) = servers(entries, self.family);
        let cursor = next_index(index, new_index).map(|index| Cursor(index.to_string()));
        // An index that cannot be waited on would be asked for in a loop.
        let again_ms = if cursor.is_none() { 1_000 } else { PAUSE_MS };
        Ok(SourceAnswer { cursor, note, ..SourceAnswer::whole(servers, again_ms) })
    }
}

/// What to wait on next. `None`: the list is asked for anew.
fn next_index(asked: Option<u64>, answered: Option<u64>) -> Option<u64> {
    answered.filter(|index| *index > 0 && asked.is_none_or(|asked| *index >= asked))
}

/// Also what cannot be used of the answer.
fn servers(entries: Vec<HealthEntry>, family: AddressFamily) -> (Vec<FoundServer>, Option<String>) {
    let passing = |entry: &HealthEntry| entry.service.weights.as_ref().map_or(1, |weights| weights.passing);
    let (mut found, mut note) = (Vec::new(), None);
    for entry in entries {
        let HealthEntry { node, service } = &entry;
        let text = if service.address.is_empty() { &node.address } else { &service.address };
        match text.parse::<IpAddr>() {
            Ok(ip) if family.takes(ip) && service.port != 0 => {
                found.push((SocketAddr::new(ip, service.port), passing(&entry)));
            }
            Ok(ip) if family.takes(ip) => note = Some(format!("instance {:?} has no port", service.id)),
            Ok(_) => {}
            Err(_) => note = Some(format!("instance {:?} has the address {text:?}: want an IP address", service.id)),
        }
    }
    let weights = weights::on_ring(&found.iter().map(|(_, weight)| *weight).collect::<Vec<_>>());
    let servers = found.into_iter().zip(weights).map(|((address, _), weight)| FoundServer::at(address, weight));
    (servers.collect(), note)
}

/// As a part of a path or of a query string (RFC 3986 section 2.3).
fn escaped(text: &str) -> PercentEncode<'_> {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_goes_back_or_is_zero_is_not_waited_on() {
        assert_eq!(next_index(None, Some(7)), Some(7));
        assert_eq!(next_index(Some(7), Some(7)), Some(7));
        assert_eq!(next_index(Some(7), Some(9)), Some(9));
        assert_eq!(next_index(Some(7), Some(6)), None);
        assert_eq!((next_index(Some(7), Some(0)), next_index(Some(7), None)), (None, None));
    }

    #[test]
    fn an_instance_has_its_own_address_or_its_nodes() {
        let text = r#"[
            {"Node":{"Node":"n1","Address":"10.0.0.1"},"Service":{"ID":"a","Address":"","Port":80,"Weights":{"Passing":4,"Warning":1}}},
            {"Node":{"Node":"n2","Address":"10.0.0.2"},"Service":{"ID":"b","Address":"10.9.0.2","Port":81,"Weights":{"Passing":2,"Warning":1}}},
            {"Node":{"Node":"n3","Address":"fd00::3"},"Service":{"ID":"c","Port":82,"Weights":{"Passing":2,"Warning":1}}},
            {"Node":{"Node":"n4","Address":"10.0.0.4"},"Service":{"ID":"d","Address":"web.internal","Port":83}}
        ]"#;
        let read = |family| servers(serde_json::from_str(text).unwrap(), family);
        let (found, note) = read(AddressFamily::Any);
        let found: Vec<(&str, u32)> = found.iter().map(|server| (&*server.name, server.weight)).collect();
        assert_eq!(found, [("10.0.0.1:80", 2), ("10.9.0.2:81", 1), ("[fd00::3]:82", 1)]);
        assert!(note.is_some_and(|note| note.contains("\"d\"") && note.contains("web.internal")));
        assert_eq!(read(AddressFamily::Ipv6).0.len(), 1);
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert_eq!(escaped("shop-1.a_b").to_string(), "shop-1.a_b");
        assert_eq!(escaped("../x?y=ü").to_string(), "..%2Fx%3Fy%3D%C3%BC");
    }
}
