//! Sticky sessions over the real binary: where a cookie leads, and what it outlives.

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use support::balancer::Balancer;
use support::{RINGWAY, TIMEOUT, connect, exchange, field, origin, read_response, until};

/// The replica that answered, and the cookie that it set.
fn get(balancer: &Balancer, cookie: Option<&str>) -> (String, Option<String>) {
    let cookie = cookie.map_or(String::new(), |cookie| format!("Cookie: a=b; {cookie}; c=d\r\n"));
    let page =
        exchange(balancer.data, format!("GET /home HTTP/1.1\r\nHost: shop.test\r\n{cookie}Connection: close\r\n\r\n"));
    let (head, body) = page.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{page}");
    (body.to_owned(), field(head, "set-cookie").map(str::to_owned))
}

/// `NAME=VALUE` of a Set-Cookie field.
fn pair(set: &str) -> &str {
    set.split(';').next().expect("a first part")
}

#[test]
fn a_session_stays_where_it_began_over_connections_and_workers() {
    let balancer = Balancer::start(&["--sticky-cookie", "sid", "--workers", "2", "--replicas", "4"]);
    let mut cookies = BTreeSet::new();
    for _ in 0..20 {
        let (replica, set) = get(&balancer, None);
        let set = set.expect("a new session");
        assert!(set.starts_with("sid=") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        assert!(!replica.contains(&pair(&set)["sid=".len()..]), "{set}");
        for _ in 0..5 {
            assert_eq!(get(&balancer, Some(pair(&set))), (replica.clone(), None), "{set}");
        }
        cookies.insert(set);
    }
    assert!(cookies.len() > 1, "sessions begin at several replicas: {cookies:?}");
    for forged in ["sid=", "sid=AAAAAAAAAAAAAAAAAAAAAA", "sid=server1", "other=1", "sid=\"", "sid"] {
        assert!(get(&balancer, Some(forged)).1.is_some(), "{forged}");
    }
}

#[test]
fn a_session_moves_once_when_its_replica_is_drained_and_is_kept_over_a_reload() {
    let folder = support::pki::Folder::new("sticky");
    let file = folder.file("ringway.toml");
    let write = |more: &str| {
        std::fs::write(&file, format!("sticky_cookie = \"sid\"\nreplicas = 3\n{more}")).expect("written");
    };
    write("");
    let balancer =
        Balancer::start_as(Command::new(RINGWAY), &["--config", file.to_str().expect("text"), "--health-fall", "1"]);
    let (replica, set) = get(&balancer, None);
    let set = set.expect("a new session");
    let cookie = pair(&set);
    write("[limits]\nhead_timeout = \"7s\"\n");
    assert_eq!(balancer.ask("POST", "/reload", "").status, 200);
    assert_eq!(get(&balancer, Some(cookie)), (replica.clone(), None));
    let name = replica_name(&balancer, &replica);
    let drained = balancer.ask("PATCH", &format!("/replicas/{name}"), "{\"state\":\"drain\"}");
    assert_eq!(drained.status, 200, "{}", drained.text);
    let (next, moved) = get(&balancer, Some(cookie));
    let moved = moved.expect("a session that moves is told so");
    assert_ne!(next, replica);
    assert_eq!(get(&balancer, Some(pair(&moved))), (next, None), "once");
    assert_eq!(balancer.ask("PATCH", &format!("/replicas/{name}"), "{\"state\":\"up\"}").status, 200);
    until(Instant::now() + TIMEOUT, "the first cookie leads back", || {
        (get(&balancer, Some(cookie)) == (replica.clone(), None)).then_some(())
    });
}

/// Of the replica whose answer this is.
fn replica_name(balancer: &Balancer, answer: &str) -> String {
    let names = balancer.replicas();
    names.into_iter().find(|name| answer.contains(name)).expect("the answer names its replica")
}

/// A server whose requests to `/hold` are answered once it is released.
fn holding(name: &'static str) -> (SocketAddr, Arc<AtomicBool>) {
    let released = Arc::new(AtomicBool::new(false));
    let gate = released.clone();
    let address = origin::start(move |head, stream| {
        if head.starts_with("GET /hold ") {
            until(Instant::now() + TIMEOUT, "the release", || gate.load(Ordering::SeqCst).then_some(()));
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()).is_ok()
    });
    (address, released)
}

/// In the queue of its service it would stand before requests that another replica has room for.
#[test]
fn a_session_whose_replica_has_no_room_moves() {
    let (servers, releases): (Vec<SocketAddr>, Vec<_>) = [holding("first"), holding("second")].into_iter().unzip();
    let listed = servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
    let balancer = Balancer::start(&[
        "--replica",
        &listed,
        "--sticky-cookie",
        "sid",
        "--upstream-max-connections",
        "1",
        "--upstream-queue-timeout",
        "1m",
    ]);
    let (replica, set) = get(&balancer, None);
    let set = set.expect("a new session");
    let mut held = connect(balancer.data);
    write!(held, "GET /hold HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", pair(&set)).expect("it is open");
    let in_flight = || balancer.metric("ringway_replica_requests_in_flight");
    until(Instant::now() + TIMEOUT, "the request at its replica", || (in_flight() == 1).then_some(()));
    let (next, moved) = get(&balancer, Some(pair(&set)));
    assert!(next != replica && moved.is_some(), "{next} {moved:?}");
    releases.iter().for_each(|released| released.store(true, Ordering::SeqCst));
    assert_eq!(read_response(&mut held).1, replica.as_bytes());
}
