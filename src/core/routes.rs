//! Which service a request goes to: listeners, hosts, path prefixes, methods, splits and redirects. A table is built once
//! for each configuration; a look-up costs one hash for each label of the host and each segment of the path at most, and
//! nothing where there are no routes. Replicas and rings are not known here.
//!
//! Hosts and paths are compared as they came: a percent-encoded byte is not the byte that it stands for, and dot segments
//! are not resolved. A route directs traffic; it protects nothing.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;

use super::head::{self, Request};
use super::key;
use super::request;
use super::snapshot::{ListenerId, ServiceId};

/// One route, as it is configured. An empty list or text matches everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub host: HostPattern,
    /// A prefix of the path by whole segments: `/api` matches `/api` and `/api/x`, and not `/apis`.
    pub path: String,
    pub methods: Vec<String>,
    pub listeners: Vec<ListenerId>,
    pub target: RouteTarget,
}

/// The hosts of a route. Names are compared without case, port and a dot at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostPattern {
    #[default]
    Any,
    Exact(String),
    /// `*.example.com`, kept as `example.com`: every name below it, at any depth.
    Below(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    Service(ServiceId),
    Split(Split),
    Redirect(Redirect),
}

/// Services that share a route's requests by weight, each request by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Each with the sum of the weights up to and including its own.
    shares: Vec<(u64, ServiceId)>,
}

/// A response that sends the client to another URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The URL. `{uri}` in it stands for the request's path and query, `{host}` for its host without a port.
    pub location: String,
}

/// What decides a request's route.
#[derive(Clone, Copy)]
pub struct RouteKey<'a> {
    pub listener: ListenerId,
    pub request: &'a Request<'a>,
}

/// All routes of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    direct: Vec<(String, ServiceId)>,
    /// As they are configured.
    all: Vec<Route>,
    table: Option<Box<Table>>,
}

/// Fixed keys: a look-up depends on nothing but the configuration and the request.
type Map<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<DefaultHasher>>;

#[derive(Clone, Debug, Default)]
struct Table {
    exact: Map<PathTable>,
    below: Map<PathTable>,
    /// The most labels that a name in `below` has.
    labels: usize,
    any: PathTable,
}

/// The routes of one host, by path prefix without a slash at the end.
#[derive(Clone, Debug, Default)]
struct PathTable {
    prefixes: Map<Vec<PathEntry>>,
    /// The most segments that a prefix has.
    depth: usize,
}

#[derive(Clone, Debug)]
struct PathEntry {
    methods: Vec<String>,
    listeners: Vec<ListenerId>,
    target: RouteTarget,
}

/// What a host name may have, in bytes (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;

impl Split {
    /// `None`: no weight is above zero.
    pub fn new(weights: &[(ServiceId, u32)]) -> Option<Split> {
        let mut sum = 0;
        let shares = weights.iter().filter(|(_, weight)| *weight > 0).map(|(service, weight)| {
            sum += u64::from(*weight);
            (sum, *service)
        });
        let shares: Vec<_> = shares.collect();
        (!shares.is_empty()).then_some(Split { shares })
    }

    /// Its part of the requests, if it has any.
    pub fn share_of(&self, service: ServiceId) -> Option<f64> {
        let total = self.shares.last()?.0;
        let before = [0].into_iter().chain(self.shares.iter().map(|(sum, _)| *sum));
        let own = self.shares.iter().zip(before).filter(|((_, owner), _)| *owner == service);
        let weight: u64 = own.map(|((sum, _), before)| sum - before).sum();
        (weight > 0).then(|| weight as f64 / total as f64)
    }

    /// The service that `random`, even over all u32, falls to.
    pub fn choose(&self, random: u32) -> Option<ServiceId> {
        let total = self.shares.last()?.0;
        let at = (u64::from(random) * total) >> 32;
        self.shares.iter().find(|(sum, _)| at < *sum).map(|(_, service)| *service)
    }
}

impl Redirect {
    /// The `Location` for a request.
    pub fn location_of(&self, request: &RouteKey) -> String {
        let host = String::from_utf8_lossy(bare_host(request.host()));
        self.location.replace("{host}", &host).replace("{uri}", request.target())
    }
}

impl<'a> RouteKey<'a> {
    /// Of the request target, or else of `Host` (RFC 9112 section 3.2.2); empty where there is neither.
    fn host(&self) -> &'a [u8] {
        let authority = head::authority(self.request.target);
        authority.map_or_else(|| head::value(self.request.fields, "host"), str::as_bytes)
    }

    /// In origin-form.
    fn target(&self) -> &'a str {
        head::origin_form(self.request.target)
    }

    fn path(&self) -> &'a [u8] {
        key::path(self.target().as_bytes())
    }
}

impl Routes {
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Routes {
        let mut table = Table::default();
        let all: Vec<Route> = routes.into_iter().collect();
        all.iter().cloned().for_each(|route| table.insert(route));
        Routes { direct: Vec::new(), table: (!all.is_empty()).then(|| Box::new(table)), all }
    }

    /// In the configured order.
    pub fn all(&self) -> &[Route] {
        &self.all
    }

    /// Before any route: services of exact paths, for requests that came from their client without a proxy.
    pub fn with_direct(self, direct: Vec<(String, ServiceId)>) -> Routes {
        Routes { direct, ..self }
    }

    /// The service of a request by its exact path, whatever its host.
    pub fn direct(&self, request: &RouteKey) -> Option<ServiceId> {
        if self.direct.is_empty() {
            return None;
        }
        let path = request.path();
        let (_, service) = self.direct.iter().find(|(direct, _)| direct.as_bytes() == path)?;
        (!request::is_forwarded(request.request.fields)).then_some(*service)
    }

    /// The most specific route: an exact host before a wildcard before none, then the longer path, then the listed order.
    pub fn find(&self, request: &RouteKey) -> Option<&RouteTarget> {
        let table = self.table.as_deref()?;
        let mut lower = [0; NAME_MAX];
        let host = bare_host(request.host());
        let name = lower.get_mut(..host.len());
        let host = name.map_or(&[][..], |name| {
            name.copy_from_slice(host);
            name.make_ascii_lowercase();
            name
        });
        table.find(host, request)
    }
}

impl Table {
    fn insert(&mut self, route: Route) {
        let Route { host, path, methods, listeners, target } = route;
        let paths = match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(name) => self.exact.entry(host_key(&name)).or_default(),
            HostPattern::Below(name) => {
                self.labels = self.labels.max(1 + count(name.as_bytes(), b'.'));
                self.below.entry(host_key(&name)).or_default()
            }
        };
        paths.insert(&path, PathEntry { methods, listeners, target });
    }

    fn find(&self, host: &[u8], request: &RouteKey) -> Option<&RouteTarget> {
        let exact = self.exact.get(host).and_then(|paths| paths.find(request));
        exact.or_else(|| self.find_below(host, request)).or_else(|| self.any.find(request))
    }

    /// The longest name that the host stands below.
    fn find_below(&self, host: &[u8], request: &RouteKey) -> Option<&RouteTarget> {
        if self.below.is_empty() {
            return None;
        }
        let skipped = (1 + count(host, b'.')).saturating_sub(self.labels + 1);
        let mut parents = host.iter().enumerate().filter(|(_, byte)| **byte == b'.').skip(skipped);
        parents.find_map(|(dot, _)| self.below.get(host.get(dot + 1..)?)?.find(request))
    }
}

impl PathTable {
    fn insert(&mut self, path: &str, entry: PathEntry) {
        let prefix = path.trim_end_matches('/').as_bytes();
        self.depth = self.depth.max(count(prefix, b'/'));
        self.prefixes.entry(prefix.into()).or_default().push(entry);
    }

    fn find(&self, request: &RouteKey) -> Option<&RouteTarget> {
        let mut prefix = first_segments(request.path(), self.depth);
        loop {
            let entries = self.prefixes.get(prefix).into_iter().flatten();
            if let Some(entry) = entries.into_iter().find(|entry| entry.is_for(request)) {
                return Some(&entry.target);
            }
            if prefix.is_empty() {
                return None;
            }
            prefix = prefix.get(..memchr::memrchr(b'/', prefix).unwrap_or(0))?;
        }
    }
}

impl PathEntry {
    fn is_for(&self, request: &RouteKey) -> bool {
        let has_method = self.methods.is_empty() || self.methods.iter().any(|method| method == request.request.method);
        has_method && (self.listeners.is_empty() || self.listeners.contains(&request.listener))
    }
}

/// Of `path`, at most so many segments.
fn first_segments(path: &[u8], depth: usize) -> &[u8] {
    let end = memchr::memchr_iter(b'/', path).nth(depth).unwrap_or(path.len());
    path.get(..end).unwrap_or(path)
}

/// Without the port and the dot at the end of a name that is fully qualified.
fn bare_host(host: &[u8]) -> &[u8] {
    let end = match host.first() {
        Some(b'[') => memchr::memchr(b']', host).map_or(host.len(), |end| end + 1),
        _ => memchr::memchr(b':', host).unwrap_or(host.len()),
    };
    let host = host.get(..end).unwrap_or(host);
    host.strip_suffix(b".").unwrap_or(host)
}

fn host_key(name: &str) -> Box<[u8]> {
    bare_host(name.as_bytes()).to_ascii_lowercase().into()
}

fn count(bytes: &[u8], byte: u8) -> usize {
    memchr::memchr_iter(byte, bytes).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, path: &str, service: u32) -> Route {
        let host = match host.strip_prefix("*.") {
            _ if host.is_empty() => HostPattern::Any,
            Some(parent) => HostPattern::Below(parent.into()),
            None => HostPattern::Exact(host.into()),
        };
        let target = RouteTarget::Service(ServiceId(service));
        Route { host, path: path.into(), methods: Vec::new(), listeners: Vec::new(), target }
    }

    /// What `looked_up` says of a request.
    fn ask<R>(method: &str, host: &str, target: &str, listener: u32, looked_up: impl FnOnce(&RouteKey) -> R) -> R {
        let fields = [httparse::Header { name: "Host", value: host.as_bytes() }];
        let request = Request { method, target, minor: 1, fields: &fields };
        looked_up(&RouteKey { listener: ListenerId(listener), request: &request })
    }

    fn found(routes: &Routes, host: &str, target: &str) -> Option<u32> {
        match ask("GET", host, target, 0, |key| routes.find(key).cloned())? {
            RouteTarget::Service(service) => Some(service.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_exact_host_is_before_a_wildcard_before_none() {
        let routes = Routes::new([
            route("", "", 0),
            route("*.example.com", "", 1),
            route("*.b.example.com", "", 2),
            route("a.b.example.com", "", 3),
        ]);
        let hosts = [
            ("a.b.example.com", 3),
            ("A.B.Example.COM:8080", 3),
            ("a.b.example.com.", 3),
            ("c.b.example.com", 2),
            ("x.y.b.example.com", 2),
            ("b.example.com", 1),
            ("x.y.z.example.com", 1),
            ("example.com", 0),
            ("notexample.com", 0),
            ("", 0),
            ("[::1]:80", 0),
        ];
        hosts.into_iter().for_each(|(host, service)| assert_eq!(found(&routes, host, "/"), Some(service), "{host}"));
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let routes = Routes::new([route("", "/", 0), route("", "/api", 1), route("", "/api/v2/", 2)]);
        let paths = [
            ("/", 0),
            ("/apis", 0),
            ("/API", 0),
            ("*", 0),
            ("/api", 1),
            ("/api/", 1),
            ("/api?q=/api/v2", 1),
            ("/api/v1/x", 1),
            ("/api/v2", 2),
            ("/api/v2/x/y/z", 2),
            ("/api//v2", 1),
        ];
        paths.into_iter().for_each(|(path, service)| assert_eq!(found(&routes, "h", path), Some(service), "{path}"));
    }

    /// Gateways of others fall through like this too: a host's routes need not name every path.
    #[test]
    fn a_path_that_a_host_does_not_have_falls_to_the_next_pattern() {
        let routes = Routes::new([route("a.org", "/x", 1), route("*.org", "/y", 2), route("", "/z", 3)]);
        let at = |path| found(&routes, "a.org", path);
        assert_eq!((at("/x"), at("/y"), at("/z"), at("/")), (Some(1), Some(2), Some(3), None));
    }

    #[test]
    fn methods_and_listeners_restrict_a_route_and_the_first_listed_wins() {
        let mut post = route("", "/", 1);
        post.methods = vec!["POST".into(), "PUT".into()];
        let mut inner = route("", "/", 2);
        inner.listeners = vec![ListenerId(7)];
        let routes = Routes::new([post, inner, route("", "/", 3), route("", "/", 4)]);
        let find = |method, listener| ask(method, "h", "/x", listener, |key| routes.find(key).cloned());
        let service = |number| Some(RouteTarget::Service(ServiceId(number)));
        assert_eq!(find("PUT", 0), service(1));
        assert_eq!(find("post", 0), service(3), "methods are case-sensitive");
        assert_eq!(find("GET", 7), service(2));
    }

    #[test]
    fn a_split_divides_all_numbers_by_weight() {
        let split = Split::new(&[(ServiceId(1), 95), (ServiceId(2), 0), (ServiceId(3), 5)]).unwrap();
        let all = 1u64 << 32;
        let boundary = all * 95 / 100;
        assert_eq!(split.choose(0), Some(ServiceId(1)));
        assert_eq!(split.choose((boundary - 1) as u32), Some(ServiceId(1)));
        assert_eq!(split.choose((boundary + 1) as u32), Some(ServiceId(3)));
        assert_eq!(split.choose(u32::MAX), Some(ServiceId(3)));
        assert_eq!([1, 2, 3].map(|id| split.share_of(ServiceId(id))), [Some(0.95), None, Some(0.05)]);
        assert_eq!(Split::new(&[(ServiceId(1), 0)]), None);
    }

    #[test]
    fn a_redirect_fills_in_host_and_uri() {
        let redirect = Redirect { status: 308, location: "https://{host}/new{uri}".into() };
        let location = |host, target| ask("GET", host, target, 0, |key| redirect.location_of(key));
        assert_eq!(location("a.org:80", "/x?y=1"), "https://a.org/new/x?y=1");
        assert_eq!(location("b.org", "http://a.org:80?y=1"), "https://a.org/new?y=1");
    }

    /// A look-up is as long as the longest prefix that is configured, not as the path that a client sends.
    #[test]
    fn a_deep_path_is_cut_to_the_depth_of_the_table() {
        let deep = "/a".repeat(4_000);
        assert_eq!(first_segments(deep.as_bytes(), 2), b"/a/a");
        let routes = Routes::new([route("", "/a/a", 1)]);
        assert_eq!(found(&routes, "", &deep), Some(1));
    }

    #[test]
    fn a_host_that_is_too_long_has_no_routes_of_its_own() {
        let routes = Routes::new([route("*.org", "", 1), route("", "", 2)]);
        let long = format!("{}.org", "a.".repeat(200));
        assert_eq!(found(&routes, &long, "/"), Some(2));
    }

    #[test]
    fn without_routes_nothing_is_found() {
        let routes = Routes::new([]);
        assert_eq!(found(&routes, "h", "/"), None);
    }

    #[test]
    fn the_authority_of_the_target_is_before_host() {
        let routes = Routes::new([route("a.org", "", 1), route("b.org", "", 2)]);
        assert_eq!(found(&routes, "a.org", "http://b.org/"), Some(2));
    }

    #[test]
    fn direct_paths_are_exact_and_only_for_clients_without_a_proxy() {
        let routes = Routes::default().with_direct(vec![("/rep".into(), ServiceId(1))]);
        let direct = |target| ask("GET", "h", target, 0, |key| routes.direct(key));
        assert_eq!((direct("/rep?x"), direct("/rep/x")), (Some(ServiceId(1)), None));
        let fields = [httparse::Header { name: "Via", value: b"1.1 p" }];
        let request = Request { method: "GET", target: "/rep", minor: 1, fields: &fields };
        assert_eq!(routes.direct(&RouteKey { listener: ListenerId(0), request: &request }), None);
    }

    #[test]
    fn a_host_is_compared_without_its_port() {
        let bare = |host: &'static str| std::str::from_utf8(bare_host(host.as_bytes())).unwrap();
        for (host, without) in [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("[::1", "[::1"), ("a.test:80", "a.test")] {
            assert_eq!(bare(host), without);
        }
    }
}
