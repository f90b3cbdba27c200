//! What it costs to find a request's route. Budget: 1 us with 10,000 routes.
//!
//! `cargo bench --bench routes`. The routes are a third exact hosts, a third wildcard hosts, each with a path, and a third
//! paths of any host; every look-up is of another route, so that it is not in the processor's cache by chance.

use std::hint::black_box;

use divan::Bencher;
use httparse::Header;
use ringway::core::head::Request;
use ringway::core::routes::{HostPattern, Route, RouteKey, RouteTarget, Routes};
use ringway::core::snapshot::{ListenerId, ServiceId};

fn main() {
    divan::main();
}

const ROUTES: [usize; 2] = [100, 10_000];
/// Requests that take turns. A prime, so that they do not fall into step with anything.
const REQUESTS: usize = 4_099;

fn table(routes: usize) -> Routes {
    Routes::new((0..routes).map(route))
}

fn route(number: usize) -> Route {
    let (host, path) = match number % 3 {
        0 => (HostPattern::Exact(format!("shop-{number}.example.com")), "/".into()),
        1 => (HostPattern::Below(format!("zone-{number}.example.com")), "/api/v1".into()),
        _ => (HostPattern::Any, format!("/team-{number}/service/v2")),
    };
    let target = RouteTarget::Service(ServiceId(number as u32));
    Route { host, path, methods: Vec::new(), listeners: Vec::new(), target }
}

/// The number of a route of this kind: 0 for exact hosts, 1 for wildcards, 2 for paths.
fn spread(request: usize, kind: usize, routes: usize) -> usize {
    request * 7_919 % (routes / 3) * 3 + kind
}

/// Hosts and targets are made first; what is measured is a look-up of each in turn, which must find a route or not.
fn measure(bencher: Bencher, routes: usize, finds: Finds, request: impl Fn(usize) -> (String, String)) {
    let table = table(routes);
    let requests: Vec<(String, String)> = (0..REQUESTS).map(request).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % REQUESTS;
        let (host, target) = &requests[at];
        let fields = [
            Header { name: "User-Agent", value: b"bench" },
            Header { name: "Accept", value: b"*/*" },
            Header { name: "Host", value: host.as_bytes() },
        ];
        let request = Request { method: "GET", target, minor: 1, fields: &fields };
        let found = table.find(black_box(&RouteKey { listener: ListenerId(0), request: &request }));
        assert_eq!(found.is_some(), finds == Finds::Route);
        black_box(found.is_some())
    });
}

#[derive(PartialEq)]
enum Finds {
    Route,
    Nothing,
}

/// What every request costs where only one service is configured.
#[divan::bench]
fn no_routes(bencher: Bencher) {
    measure(bencher, 0, Finds::Nothing, |_| ("shop.example.com".into(), "/api/v1/items/42".into()));
}

#[divan::bench(args = ROUTES)]
fn exact_host(bencher: Bencher, routes: usize) {
    let request = |n| (format!("shop-{}.example.com", spread(n, 0, routes)), "/api/v1/items/42?page=7".into());
    measure(bencher, routes, Finds::Route, request);
}

#[divan::bench(args = ROUTES)]
fn wildcard_host(bencher: Bencher, routes: usize) {
    let request = |n| (format!("Web.eu.zone-{}.Example.com:8080", spread(n, 1, routes)), "/api/v1/items/42".into());
    measure(bencher, routes, Finds::Route, request);
}

#[divan::bench(args = ROUTES)]
fn path(bencher: Bencher, routes: usize) {
    let request = |n| ("shop.example.org".into(), format!("/team-{}/service/v2/items/42?page=7", spread(n, 2, routes)));
    measure(bencher, routes, Finds::Route, request);
}

/// Every name above the host and every prefix of the path that the table may have is tried, and no route is there.
#[divan::bench(args = ROUTES)]
fn none(bencher: Bencher, routes: usize) {
    let request = |n| (format!("a.b.c.d.e{n}.example.net"), format!("/a/b/c/d/e/f/g/h/{n}"));
    measure(bencher, routes, Finds::Nothing, request);
}
