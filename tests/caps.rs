//! Client connections over a cap: refused at accept, counted and told, and the others are served all the same.

mod support;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use support::balancer::Balancer;
use support::{PATIENCE, origin, read_response, until};

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

fn polite() -> String {
    origin::start(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()).to_string()
}

/// A client at another address than the tests' usual one.
fn connect_from(source: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    let source: SocketAddr = source.parse().expect("an address");
    socket.bind(&source.into()).expect("a loopback address");
    socket.connect(&to.into())?;
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A client that was let in and answered; `None`: it was refused. An answer of the balancer is neither.
fn inside(source: &str, to: SocketAddr, first: &[u8]) -> Option<TcpStream> {
    let mut client = connect_from(source, to).ok()?;
    client.write_all(&[first, GET].concat()).ok()?;
    match client.peek(&mut [0]) {
        Ok(0) => return None,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            return None;
        }
        Ok(_) => {}
    }
    let (head, _) = read_response(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Some(client)
}

#[test]
fn each_client_has_its_own_cap_whatever_worker_it_comes_to() {
    let balancer = Balancer::start(&["--workers", "4", "--max-connections-per-client", "5", "--replica", &polite()]);
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..5 {
        crowd.push(inside("127.0.0.2:0", balancer.data, b"").expect("within the cap"));
    }
    for _ in 0..20 {
        assert!(inside("127.0.0.2:0", balancer.data, b"").is_none(), "over the cap");
    }
    assert_eq!(balancer.metric("ringway_capped_per_client_total"), 20);
    assert_eq!(balancer.metric("ringway_capped_total"), 0);
    assert!(inside("127.0.0.3:0", balancer.data, b"").is_some(), "another client");
    crowd.iter_mut().for_each(|client| {
        client.write_all(GET).expect("it reads");
        assert!(read_response(client).0.starts_with("HTTP/1.1 200 "), "those inside are not harmed");
    });
    crowd.pop();
    until(Instant::now() + PATIENCE, "a place to be free again", || inside("127.0.0.2:0", balancer.data, b""));
}

/// The balancer in front is not the client: whom it names is.
#[test]
fn behind_another_balancer_its_clients_are_counted() {
    let balancer = Balancer::start(&[
        "--max-connections-per-client",
        "2",
        "--accept-proxy-from",
        "127.0.0.2",
        "--replica",
        &polite(),
    ]);
    let named = |client: u8| {
        let line = format!("PROXY TCP4 203.0.113.{client} 198.51.100.1 5555 80\r\n");
        inside("127.0.0.2:0", balancer.data, line.as_bytes())
    };
    let held: Vec<Option<TcpStream>> = (0..6).map(|number| named(number / 2)).collect();
    assert!(held.iter().all(Option::is_some), "two of each of three clients, all from one balancer");
    assert!(named(0).is_none() && named(2).is_none(), "the third of one client");
    assert_eq!(balancer.metric("ringway_capped_per_client_total"), 2);
    let own: Vec<_> = (0..3).map(|_| inside("127.0.0.2:0", balancer.data, b"PROXY UNKNOWN\r\n")).collect();
    assert!(own.iter().all(Option::is_some), "a balancer that speaks for itself is no client");
    drop(held);
    until(Instant::now() + PATIENCE, "a place to be free again", || named(0));
}
