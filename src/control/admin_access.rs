//! Who may call the admin API: a request's Host, token and Origin are judged here. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};

/// The document of the live page. It contains no data and needs no token.
pub const PAGE: &str = "/";
/// For probers, which have no token: they learn whether this process is there, and whether it serves.
pub const LIVEZ: &str = "/livez";
pub const READYZ: &str = "/readyz";

const BEARER: &[u8] = b"Bearer ";

/// In force now: a reload replaces it.
pub type SharedAccess = Arc<ArcSwap<AdminAccess>>;

/// What a call must show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminAccess {
    /// Required as `Authorization: Bearer TOKEN`, if set.
    pub token: Option<String>,
    /// Names of this listener, beside `localhost` and IP addresses.
    pub hosts: Vec<String>,
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    UnknownHost,
    NoToken,
    ForeignPage,
}

impl Denial {
    pub const ALL: [Denial; 3] = [Denial::UnknownHost, Denial::NoToken, Denial::ForeignPage];

    /// As a label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Denial::UnknownHost => "host",
            Denial::NoToken => "token",
            Denial::ForeignPage => "origin",
        }
    }
}

impl AdminAccess {
    /// A page of another origin may not call (`Origin`, which browsers send), nor one whose name an attacker points at this
    /// address (DNS rebinding): its origin is its own, but its name is in Host. A Unix socket is no exception: the data port
    /// forwards admin paths to it.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Denial> {
        // RFC 9112, 3.2.2: an authority in the target replaces Host.
        let target = uri.authority().map(|authority| authority.as_str().as_bytes());
        let mut hosts = target.into_iter().chain(headers.get_all(HOST).iter().map(|host| host.as_bytes()));
        if !hosts.all(|host| self.is_own(host)) {
            return Err(Denial::UnknownHost);
        }
        if !is_open(uri) && !self.has_token(headers) {
            return Err(Denial::NoToken);
        }
        if is_foreign_page(headers) { Err(Denial::ForeignPage) } else { Ok(()) }
    }

    /// A call that passes has shown a token, or that none is required.
    pub fn proves_itself(&self, uri: &Uri) -> bool {
        self.token.is_none() || !is_open(uri)
    }

    fn is_own(&self, host: &[u8]) -> bool {
        let Ok(host) = Authority::try_from(host) else { return false };
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        let is_named = |own: &str| own.eq_ignore_ascii_case(name.strip_suffix('.').unwrap_or(name));
        is_named("localhost") || name.parse::<IpAddr>().is_ok() || self.hosts.iter().any(|own| is_named(own))
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(BEARER.len()));
        // RFC 9110, 11.1: the scheme's name has no case.
        given.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(BEARER) && is_equal(given, token.as_bytes()))
    }
}

/// Without a token.
fn is_open(uri: &Uri) -> bool {
    [PAGE, LIVEZ, READYZ].contains(&uri.path())
}

/// In constant time for inputs of one length.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn is_foreign_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let host = headers.get(HOST).map_or(&b""[..], |host| host.as_bytes());
    let authority = origin.as_bytes().splitn(3, |byte| *byte == b'/').nth(2).unwrap_or_default();
    authority != host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(access: &AdminAccess, target: &str, fields: &[(&'static str, &str)]) -> Result<(), Denial> {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let headers = fields.collect::<Vec<_>>().into_iter().fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append::<axum::http::HeaderName>(name, value);
            headers
        });
        access.check(&target.parse().unwrap(), &headers)
    }

    #[test]
    fn only_pages_of_this_listener_may_call() {
        let page = |origin, host| check(&AdminAccess::default(), "/add", &[("origin", origin), ("host", host)]);
        assert_eq!(check(&AdminAccess::default(), "/add", &[]), Ok(()), "no browser sends a request without Host");
        assert_eq!(page("http://127.0.0.1:8001", "127.0.0.1:8001"), Ok(()));
        assert_eq!(page("http://localhost:8001", "localhost:8001"), Ok(()));
        assert_eq!(page("http://[::1]:8001", "[::1]:8001"), Ok(()));
        assert_eq!(page("http://evil.example", "127.0.0.1:8001"), Err(Denial::ForeignPage));
        assert_eq!(page("http://127.0.0.1:9000", "127.0.0.1:8001"), Err(Denial::ForeignPage));
        assert_eq!(page("null", "127.0.0.1:8001"), Err(Denial::ForeignPage));
        assert_eq!(page("http://evil.example:8001", "evil.example:8001"), Err(Denial::UnknownHost), "DNS rebinding");
    }

    #[test]
    fn a_host_is_an_address_localhost_or_a_configured_name() {
        let access = AdminAccess { hosts: vec!["Balancer".into()], ..AdminAccess::default() };
        for own in ["127.0.0.1", "192.0.2.7:8001", "[::1]", "LOCALHOST:8001", "localhost.", "balancer:8001"] {
            assert_eq!(check(&access, "/rep", &[("host", own)]), Ok(()), "{own}");
        }
        for other in ["", "evil.example", "evil.example:8001", "localhost.evil.example", "localhost@evil", "a balancer"]
        {
            assert_eq!(check(&access, "/rep", &[("host", other)]), Err(Denial::UnknownHost), "{other:?}");
        }
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check(&access, "/rep", &twice), Err(Denial::UnknownHost));
        let target = "http://evil.example/rep";
        assert_eq!(check(&access, target, &[("host", "localhost")]), Err(Denial::UnknownHost));
    }
}
