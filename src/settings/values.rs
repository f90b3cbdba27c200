//! Parsers of single values: addresses, keys, replicas. An error says what is expected instead.

use std::net::{IpAddr, SocketAddr};

use hyper::Uri;

use super::{
    AccessLogFormat, AccessLogTarget, AdminListen, CertificateSource, ChallengeKind, FixedReplica, HostPort,
    LoggedShare, SourceApi, SourcePort, UpstreamTlsSetting,
};
use crate::core::balance::{BalanceFactor, BalancePolicy};
use crate::core::head;
use crate::core::limits::{AbortOn, RequestIdPolicy, Trust, Via};
use crate::core::net::Net;
use crate::core::proxy::Version;
use crate::core::ring::{self, Member, RingKind};
use crate::core::routes::HostPattern;
use crate::core::snapshot::{KeyPolicy, Mode};
use crate::core::tls::TlsVersion;
use crate::core::tls::client_auth::ClientAuthMode;

pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "want IP:PORT, like 127.0.0.1:8000 or [::1]:8000".into())
}

pub fn admin(text: &str) -> Result<AdminListen, String> {
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(AdminListen::Unix(path.into())),
        Some(_) => Err("a Unix socket's path starts with a slash, like unix:/run/ringway.sock".into()),
        None if text == "off" => Ok(AdminListen::Off),
        None => address(text)
            .map(AdminListen::Tcp)
            .map_err(|_| "want IP:PORT, unix:/PATH or off, like 127.0.0.1:8001".into()),
    }
}

/// A name without port, as it is in a Host field.
pub fn host_name(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    match !text.is_empty() && text.chars().all(is_allowed) {
        true => Ok(text.into()),
        false => Err("want a host name without scheme and port, like balancer.internal".into()),
    }
}

/// A name that an ACME server can check by a handshake or a request (RFC 8555 section 7.1.4, RFC 8738 for addresses).
pub fn acme_name(text: &str) -> Result<String, String> {
    const LABEL_MAX: usize = 63;
    const NAME_MAX: usize = 253;
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.starts_with("*.") {
        return Err("no challenge of ours proves a wildcard: name each host".into());
    }
    if name.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        return Err("an address gets no certificate here: want the name of a host".into());
    }
    if !name.is_ascii() {
        return Err("want the name as DNS has it, each label in ASCII, like xn--mnchen-3ya.example.com".into());
    }
    let is_label = |label: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=LABEL_MAX).contains(&label.len())
            && label.chars().all(is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match name.len() <= NAME_MAX && name.split('.').all(is_label) {
        true => Ok(name),
        false => {
            Err("want the name of a host as DNS has it, like shop.example.com, without scheme, port and path".into())
        }
    }
}

/// The URL of an ACME server's directory.
pub fn acme_directory(text: &str) -> Result<String, String> {
    let url = text.parse::<Uri>().ok().filter(|url| url.scheme_str() == Some("https") && url.host().is_some());
    url.map(|_| text.to_owned())
        .ok_or_else(|| "want a URL with https, like https://acme-v02.api.letsencrypt.org/directory".into())
}

/// It becomes a mailto URI, and the name of a file.
pub fn email(text: &str) -> Result<String, String> {
    const LENGTH_MAX: usize = 200;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "!#$'*+-^_{|}~.=@".contains(c);
    let is_address = text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && acme_name(host).is_ok());
    match is_address && text.chars().all(is_allowed) && text.len() <= LENGTH_MAX {
        true => Ok(text.into()),
        false => Err("want one address, like ops@example.com".into()),
    }
}

pub fn challenge(text: &str) -> Result<ChallengeKind, String> {
    match text {
        "http-01" => Ok(ChallengeKind::Http01),
        "tls-alpn-01" => Ok(ChallengeKind::TlsAlpn01),
        _ => Err("want tls-alpn-01 or http-01; dns-01 is not supported".into()),
    }
}

/// `example.com`, or `*.example.com` for every name below it.
pub fn host_pattern(text: &str) -> Result<HostPattern, String> {
    let (name, is_below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
    let is_name = host_name(name).is_ok() && !name.starts_with('.') && !name.ends_with('.');
    match (is_name || head::host_is_valid(name.as_bytes()) && name.starts_with('['), is_below) {
        (true, true) if !name.starts_with('[') => Ok(HostPattern::Below(name.to_ascii_lowercase())),
        (true, false) => Ok(HostPattern::Exact(name.to_ascii_lowercase())),
        _ => Err("want a host without scheme and port, like example.com or *.example.com".into()),
    }
}

/// The beginning of a path, without query.
pub fn path_prefix(text: &str) -> Result<String, String> {
    const SEGMENTS_MAX: usize = 32;
    let is_path = path(text).is_ok() && !text.contains('?');
    match is_path && text.matches('/').count() <= SEGMENTS_MAX {
        true => Ok(text.into()),
        false => Err("want the beginning of a path, like /api, with at most 32 segments and no query".into()),
    }
}

/// The name of a replica that a source found, or what stands before it: a place on the ring, a label, a part of a path.
pub fn found_name(text: &str) -> Result<String, String> {
    const NAME_MAX: usize = 253;
    match (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.into()),
        false => Err(format!("a name has 1 to {NAME_MAX} visible characters of ASCII, and no space")),
    }
}

pub fn name_prefix(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { found_name(text) }
}

pub fn source_api(text: &str) -> Result<SourceApi, String> {
    text.parse().map_err(|()| "want http://HOST:PORT, https://HOST:PORT or unix:/PATH".into())
}

pub fn source_port(text: &str) -> Result<SourcePort, String> {
    let is_name = || {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !text.is_empty() && text.bytes().all(is_allowed) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
    };
    match text.parse::<u16>() {
        Ok(number @ 1..) => Ok(SourcePort::Number(number)),
        Err(_) if is_name() => Ok(SourcePort::Name(text.into())),
        _ => Err("want a number from 1 to 65535, or the name of a port".into()),
    }
}

pub fn method_name(text: &str) -> Result<String, String> {
    match head::is_token(text.as_bytes()) && text.bytes().all(|byte| !byte.is_ascii_lowercase()) {
        true => Ok(text.into()),
        false => Err("want a method in upper case, like GET".into()),
    }
}

/// `NAME=WEIGHT`, as a table of names and numbers is read.
pub fn share_of_split(text: &str) -> Result<(String, u32), String> {
    const WEIGHT_MAX: u32 = 1_000_000;
    let parsed = text.split_once('=').and_then(|(name, weight)| Some((name.to_owned(), weight.parse().ok()?)));
    parsed
        .filter(|(_, weight)| *weight <= WEIGHT_MAX)
        .ok_or_else(|| "want services with weights from 0 to 1000000, as { a = 95, b = 5 }".into())
}

/// A URL or a path; it is written into a `Location` unchanged but for its placeholders.
pub fn location(text: &str) -> Result<String, String> {
    const LENGTH_MAX: usize = 256;
    let bare = text.replacen("{host}", "", 1).replacen("{uri}", "", 1);
    let is_url = text.starts_with('/') || text.starts_with("http://") || text.starts_with("https://");
    let is_safe = bare.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}\"<>\\^`|".contains(&byte));
    match is_url && is_safe && text.len() <= LENGTH_MAX {
        true => Ok(text.into()),
        false => {
            Err("want a URL or a path of at most 256 characters, like https://{host}{uri}; {host} and {uri} stand \
                      for the request's, each once at most"
                .into())
        }
    }
}

pub fn redirect_status(text: &str) -> Result<u16, String> {
    let status = text.parse().ok().filter(|status| [301, 302, 303, 307, 308].contains(status));
    status.ok_or_else(|| "want 301, 302, 303, 307 or 308".into())
}

pub fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "http" => Ok(Mode::Http),
        "tcp" => Ok(Mode::Tcp),
        "tls-passthrough" => Ok(Mode::TlsPassthrough),
        _ => Err("want http, tcp or tls-passthrough".into()),
    }
}

pub fn net(text: &str) -> Result<Net, String> {
    text.parse().map_err(|_| "want an address or a range, like 10.0.0.0/8, 192.0.2.7 or ::1".into())
}

pub fn trust(text: &str) -> Result<Trust, String> {
    match text {
        "append" => Ok(Trust::Append),
        "replace" => Ok(Trust::Replace),
        "keep" => Ok(Trust::Keep),
        _ => Err("want append, replace or keep".into()),
    }
}

pub fn via(text: &str) -> Result<Via, String> {
    match text {
        "on" => Ok(Via::On),
        "off" => Ok(Via::Off),
        _ => Err("want on or off".into()),
    }
}

pub fn request_id(text: &str) -> Result<RequestIdPolicy, String> {
    match text {
        "off" => Ok(RequestIdPolicy::Off),
        "pass" => Ok(RequestIdPolicy::Pass),
        "make" => Ok(RequestIdPolicy::Make),
        _ => Err("want off, pass or make".into()),
    }
}

/// A word without a slash is more likely a mistake than a file in the working directory.
pub fn access_log_target(text: &str) -> Result<AccessLogTarget, String> {
    match text {
        "off" => Ok(AccessLogTarget::Off),
        "stdout" => Ok(AccessLogTarget::Stdout),
        path if path.contains('/') => Ok(AccessLogTarget::File(path.into())),
        _ => Err("want off, stdout or a path with a slash, like /var/log/ringway/access.log or ./access.log".into()),
    }
}

pub fn access_log_format(text: &str) -> Result<AccessLogFormat, String> {
    match text {
        "json" => Ok(AccessLogFormat::Json),
        "common" => Ok(AccessLogFormat::Common),
        "combined" => Ok(AccessLogFormat::Combined),
        _ => Err("want json, common or combined".into()),
    }
}

/// `all`, `errors`, or a share from 0 to 1.
pub fn logged_share(text: &str) -> Result<LoggedShare, String> {
    match text {
        "all" => Ok(LoggedShare(1.0)),
        "errors" => Ok(LoggedShare(0.0)),
        _ => {
            let share = text.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
            share.map(LoggedShare).ok_or_else(|| "want all, errors, or a share from 0 to 1, like 0.01".into())
        }
    }
}

/// `self-signed`, a path, or `cert=FILE,key=FILE`.
pub fn certificates(text: &str) -> Result<CertificateSource, String> {
    let pair = |files: &str| {
        let (cert, key) = files.split_once(",key=").filter(|(cert, key)| !cert.is_empty() && !key.is_empty())?;
        Some(CertificateSource::Pair { cert: cert.into(), key: key.into() })
    };
    let source = match (text, text.strip_prefix("cert=")) {
        ("self-signed", _) => Some(CertificateSource::SelfSigned),
        (_, Some(files)) => pair(files),
        (path, None) => (!path.is_empty() && !path.starts_with("key=")).then(|| CertificateSource::Path(path.into())),
    };
    source.ok_or_else(|| {
        "want a folder of NAME.crt and NAME.key, a NAME.pem with both, cert=FILE,key=FILE or self-signed; in a file { cert \
         = \"FILE\", key = \"FILE\" } too"
            .into()
    })
}

/// `true`, or KEY=VALUE.
pub fn upstream_tls(text: &str) -> Result<UpstreamTlsSetting, String> {
    let switch = |value: &str| value.parse::<bool>().ok();
    let setting = match text.split_once('=') {
        None => switch(text).map(UpstreamTlsSetting::On),
        Some((_, "")) => None,
        Some(("verify", value)) => switch(value).map(UpstreamTlsSetting::Verify),
        Some(("name", name)) => name.parse().ok().map(UpstreamTlsSetting::Name),
        Some(("ca", path)) => Some(UpstreamTlsSetting::Ca(path.into())),
        Some(("cert", path)) => Some(UpstreamTlsSetting::Cert(path.into())),
        Some(("key", path)) => Some(UpstreamTlsSetting::Key(path.into())),
        Some(_) => None,
    };
    setting.ok_or_else(|| {
        "want true or false, name=NAME (a host name or an address), ca=FILE, cert=FILE, key=FILE, verify=true or verify=false"
            .into()
    })
}

pub fn tls_version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "1.2" => Ok(TlsVersion::Tls12),
        "1.3" => Ok(TlsVersion::Tls13),
        _ => Err("want 1.2 or 1.3".into()),
    }
}

pub fn client_auth(text: &str) -> Result<ClientAuthMode, String> {
    match text {
        "off" => Ok(ClientAuthMode::Off),
        "optional" => Ok(ClientAuthMode::Optional),
        "required" => Ok(ClientAuthMode::Required),
        _ => Err("want off, optional or required".into()),
    }
}

pub fn abort_on(text: &str) -> Result<AbortOn, String> {
    match text {
        "reset" => Ok(AbortOn::Reset),
        "close" => Ok(AbortOn::Close),
        "off" => Ok(AbortOn::Nothing),
        _ => Err("want reset, close or off".into()),
    }
}

pub fn proxy_version(text: &str) -> Result<Version, String> {
    match text {
        "v1" => Ok(Version::V1),
        "v2" => Ok(Version::V2),
        _ => Err("want v1 or v2".into()),
    }
}

pub fn ring(text: &str) -> Result<RingKind, String> {
    match text {
        "ketama" => Ok(RingKind::Ketama),
        "maglev" => Ok(RingKind::Maglev),
        "exercise" => Ok(RingKind::Exercise),
        _ => Err("want ketama, maglev or exercise".into()),
    }
}

/// A token (RFC 6265 section 4.1.1), and not long: each response of a session's start holds it.
pub fn cookie_name(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_name = (1..=64).contains(&text.len()) && text.bytes().all(is_token);
    if is_name { Ok(text.into()) } else { Err("want a cookie's name: 1 to 64 letters, digits and -._~".into()) }
}

pub fn policy(text: &str) -> Result<BalancePolicy, String> {
    let policies = [BalancePolicy::Hash, BalancePolicy::LeastRequest, BalancePolicy::RoundRobin, BalancePolicy::Random];
    let policy = policies.into_iter().find(|policy| policy.name() == text);
    policy.ok_or_else(|| "want hash, least-request, round-robin or random".into())
}

pub fn balance_factor(text: &str) -> Result<BalanceFactor, String> {
    let factor = text.parse().ok().and_then(BalanceFactor::new);
    factor.ok_or_else(|| "want a number from 1 to 1000, like 1.25: a multiple of the mean load".into())
}

pub fn key(text: &str) -> Result<KeyPolicy, String> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let named = !name.is_empty();
    match kind {
        "request" if !named => Ok(KeyPolicy::Request),
        "uri" if !named => Ok(KeyPolicy::Uri),
        "path" if !named => Ok(KeyPolicy::Path),
        "client-ip" if !named => Ok(KeyPolicy::ClientIp),
        "sni" if !named => Ok(KeyPolicy::Sni),
        "header" if named => Ok(KeyPolicy::Header(name.into())),
        "cookie" if named => Ok(KeyPolicy::Cookie(name.into())),
        "query" if named => Ok(KeyPolicy::Query(name.into())),
        _ => Err("want request, uri, path, header:NAME, cookie:NAME, query:NAME, client-ip or sni".into()),
    }
}

/// An origin-form path: it is written into a request line unchanged.
pub fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && head::target_is_safe(text) {
        Ok(text.into())
    } else {
        Err("want a path, like /heartbeat".into())
    }
}

/// `HOST:PORT`, or `NAME=HOST:PORT@WEIGHT`, name and weight optional.
pub fn replica(text: &str) -> Result<FixedReplica, String> {
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) => (Some(name), rest),
        None => (None, text),
    };
    let (host, weight) = match rest.split_once('@') {
        Some((host, weight)) => (host, weight.parse().ok().filter(|w| (1..=WEIGHT_LIMIT).contains(w))),
        None => (rest, Some(1)),
    };
    let weight = weight.ok_or_else(|| format!("a weight is a whole number from 1 to {WEIGHT_LIMIT}"))?;
    let name = name.unwrap_or(host);
    if name.is_empty() {
        return Err("the name before `=` is empty".into());
    }
    if name.chars().any(char::is_control) {
        return Err("a name has no control characters in it".into());
    }
    Ok(FixedReplica { name: name.into(), address: host_port(host)?, weight })
}

/// A member of a ring: `NAME`, or `NAME@WEIGHT`.
pub fn member(text: &str) -> Result<Member, String> {
    let (name, weight) = match text.rsplit_once('@') {
        Some((name, weight)) => (name, weight.parse().ok().filter(|weight| *weight <= WEIGHT_LIMIT)),
        None => (text, Some(1)),
    };
    match weight {
        None => Err(format!("a weight is a whole number from 0 to {WEIGHT_LIMIT}")),
        Some(_) if name.is_empty() => Err("want NAME or NAME@WEIGHT".into()),
        Some(weight) => Ok(Member::new(name, weight)),
    }
}

const WEIGHT_LIMIT: u32 = ring::WEIGHT_MAX;

fn host_port(text: &str) -> Result<HostPort, String> {
    if let Ok(address) = text.parse() {
        return Ok(HostPort::Address(address));
    }
    let is_in_names = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let name = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && host.bytes().all(is_in_names));
    match name.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => Ok(HostPort::Name { host: host.into(), port }),
        None => Err("want HOST:PORT, NAME=HOST:PORT or HOST:PORT@WEIGHT; an IPv6 address is written [::1]:80".into()),
    }
}

/// `NAME=VALUE`: a label, say.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("want NAME=VALUE".into()),
    }
}

/// `NAME=VALUE` in a container's environment, but not what each container is told by us.
pub fn variable(text: &str) -> Result<(String, String), String> {
    match pair(text)? {
        (name, _) if name == "PORT" => Err("PORT is what --docker-port says".into()),
        (name, _) if name == "SERVER_ID" => Err("SERVER_ID is the replica's name".into()),
        pair => Ok(pair),
    }
}

/// `A.B.C.D/BITS`, or the same in IPv6.
pub fn subnet(text: &str) -> Result<String, String> {
    let is_subnet = text.split_once('/').is_some_and(|(address, bits)| {
        let bits_max = if address.contains(':') { 128 } else { 32 };
        address.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
    });
    if is_subnet { Ok(text.into()) } else { Err("want ADDRESS/BITS, like 10.87.0.0/24".into()) }
}

/// A number of processors, in thousandths.
pub fn cpus(text: &str) -> Result<u32, String> {
    let cpus = text.parse().ok().filter(|cpus: &f64| (0.0..=1024.0).contains(cpus));
    cpus.map(|cpus| (cpus * 1000.0) as u32).ok_or_else(|| "want a number of processors, like 0.5; 0 is no limit".into())
}

/// `PATH` or `PATH:OPTIONS`: a tmpfs of a container.
pub fn tmpfs(text: &str) -> Result<(String, String), String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    match path.starts_with('/') {
        true => Ok((path.into(), options.into())),
        false => Err("want PATH or PATH:OPTIONS with an absolute path, like /tmp:size=64m".into()),
    }
}

/// `SOURCE:PATH`, or `SOURCE:PATH:OPTIONS`: a volume's name or an absolute path, and where it is in the container.
pub fn volume(text: &str) -> Result<String, String> {
    let mut parts = text.split(':');
    let (source, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_source = source.starts_with('/') || (!source.is_empty() && !source.contains('/'));
    match is_source && path.starts_with('/') && parts.count() < 2 {
        true => Ok(text.into()),
        false => Err("want SOURCE:PATH or SOURCE:PATH:ro, like /srv/data:/data:ro".into()),
    }
}

/// `NAME=FILE`: a secret of a container.
pub fn secret(text: &str) -> Result<(String, String), String> {
    match pair(text) {
        Ok((name, file)) if !name.contains('/') && file.starts_with('/') => Ok((name, file)),
        _ => Err("want NAME=FILE with an absolute path, like key=/etc/shop/key".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_an_address_and_may_have_a_name_and_a_weight() {
        let plain = replica("127.0.0.1:9000").unwrap();
        assert_eq!((plain.name.as_str(), plain.weight), ("127.0.0.1:9000", 1));
        let full = replica("big=127.0.0.1:9000@3").unwrap();
        let address = HostPort::Address("127.0.0.1:9000".parse().unwrap());
        assert_eq!((full.name.as_str(), full.weight, full.address), ("big", 3, address));
        let named = replica("web-1.example:80").unwrap();
        let address = HostPort::Name { host: "web-1.example".into(), port: 80 };
        assert_eq!((named.name.as_str(), named.address), ("web-1.example:80", address));
        assert!(matches!(replica("[::1]:80").unwrap().address, HostPort::Address(_)));
        for wrong in [
            "",
            "127.0.0.1",
            "127.0.0.1:",
            ":80",
            "a=",
            "=127.0.0.1:1",
            "127.0.0.1:1@0",
            "127.0.0.1:70000",
            "a\n=127.0.0.1:1",
            "::1:80",
            "a b:80",
        ] {
            assert!(replica(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_names_its_field_where_it_needs_one() {
        assert_eq!(key("header:X-User"), Ok(KeyPolicy::Header("X-User".into())));
        assert_eq!(key("client-ip"), Ok(KeyPolicy::ClientIp));
        for wrong in ["", "header", "header:", "uri:x", "URI"] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_admin_api_listens_on_an_address_a_socket_or_nowhere() {
        assert_eq!(admin("off"), Ok(AdminListen::Off));
        assert_eq!(admin("unix:/run/r.sock"), Ok(AdminListen::Unix("/run/r.sock".into())));
        assert!(admin("unix:r.sock").is_err());
        assert!(admin("localhost:1").is_err());
    }

    #[test]
    fn what_a_container_mounts_has_absolute_paths() {
        assert_eq!(tmpfs("/tmp"), Ok(("/tmp".into(), String::new())));
        assert_eq!(tmpfs("/tmp:size=64m,mode=1777"), Ok(("/tmp".into(), "size=64m,mode=1777".into())));
        assert_eq!(secret("key=/etc/key"), Ok(("key".into(), "/etc/key".into())));
        assert!(volume("data:/data").is_ok() && volume("/srv/data:/data:ro").is_ok());
        assert!(tmpfs("tmp").is_err());
        for wrong in ["data", ":/data", "data:data", "./data:/data", "/a:/b:ro:x"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
        for wrong in ["key", "key=etc/key", "../key=/etc/key", "=/etc/key"] {
            assert!(secret(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn certificates_come_from_a_path_or_a_pair_of_files() {
        let pair = CertificateSource::Pair { cert: "/a,b.crt".into(), key: "/k=1.key".into() };
        assert_eq!(certificates("cert=/a,b.crt,key=/k=1.key"), Ok(pair));
        assert_eq!(certificates("certs"), Ok(CertificateSource::Path("certs".into())));
        assert_eq!(certificates("self-signed"), Ok(CertificateSource::SelfSigned));
        for wrong in ["", "cert=/a.crt", "cert=,key=/a.key", "cert=/a.crt,key=", "key=/a.key,cert=/a.crt"] {
            assert!(certificates(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_access_log_goes_nowhere_to_stdout_or_to_a_path() {
        assert_eq!(access_log_target("off"), Ok(AccessLogTarget::Off));
        assert_eq!(access_log_target("./a.log"), Ok(AccessLogTarget::File("./a.log".into())));
        for wrong in ["", "on", "stderr", "access.log"] {
            assert!(access_log_target(wrong).is_err(), "{wrong}");
        }
        let shares = ["all", "errors", "0.25", "0", "1"].map(logged_share);
        assert_eq!(shares, [1.0, 0.0, 0.25, 0.0, 1.0].map(|share| Ok(LoggedShare(share))));
        for wrong in ["", "none", "1.1", "-0.1", "NaN", "5%"] {
            assert!(logged_share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_subnet_has_a_prefix_length_that_fits() {
        assert!(subnet("10.87.0.0/24").is_ok() && subnet("fd00::/64").is_ok());
        assert!(subnet("10.87.0.0").is_err() && subnet("10.87.0.0/33").is_err());
    }
}
