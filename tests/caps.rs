//! Client connections over a cap are refused at accept and counted; the others are served.

mod support;

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use support::balancer::Balancer;
use support::{TIMEOUT, origin, read_response, until};

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

fn ok_server() -> String {
    origin::start(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()).to_string()
}

/// A client whose address is `source`.
fn connect_from(source: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    let source: SocketAddr = source.parse().expect("an address");
    socket.bind(&source.into()).expect("a loopback address");
    socket.connect(&to.into())?;
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A client that was accepted and answered by a replica; `None` if it was refused. An error response fails the test.
fn accepted(source: &str, to: SocketAddr, first: &[u8]) -> Option<TcpStream> {
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
fn the_cap_per_client_holds_over_all_workers() {
    let balancer = Balancer::start(&["--workers", "4", "--max-connections-per-client", "5", "--replica", &ok_server()]);
    let mut clients: Vec<TcpStream> = Vec::new();
    for _ in 0..5 {
        clients.push(accepted("127.0.0.2:0", balancer.data, b"").expect("within the cap"));
    }
    for _ in 0..20 {
        assert!(accepted("127.0.0.2:0", balancer.data, b"").is_none(), "over the cap");
    }
    assert_eq!(balancer.metric("ringway_capped_per_client_total"), 20);
    assert_eq!(balancer.metric("ringway_capped_total"), 0);
    assert!(accepted("127.0.0.3:0", balancer.data, b"").is_some(), "another client");
    clients.iter_mut().for_each(|client| {
        client.write_all(GET).expect("it reads");
        assert!(read_response(client).0.starts_with("HTTP/1.1 200 "), "accepted clients are served");
    });
    clients.pop();
    until(Instant::now() + TIMEOUT, "a connection under the cap", || accepted("127.0.0.2:0", balancer.data, b""));
}

/// The client is the one that the PROXY header names, not the balancer in front.
#[test]
fn behind_another_balancer_the_named_clients_are_counted() {
    let balancer = Balancer::start(&[
        "--max-connections-per-client",
        "2",
        "--accept-proxy-from",
        "127.0.0.2",
        "--replica",
        &ok_server(),
    ]);
    let named = |client: u8| {
        let line = format!("PROXY TCP4 203.0.113.{client} 198.51.100.1 5555 80\r\n");
        accepted("127.0.0.2:0", balancer.data, line.as_bytes())
    };
    let held: Vec<Option<TcpStream>> = (0..6).map(|number| named(number / 2)).collect();
    assert!(held.iter().all(Option::is_some), "two of each of three clients, all from one balancer");
    assert!(named(0).is_none() && named(2).is_none(), "the third of one client");
    assert_eq!(balancer.metric("ringway_capped_per_client_total"), 2);
    let own: Vec<_> = (0..3).map(|_| accepted("127.0.0.2:0", balancer.data, b"PROXY UNKNOWN\r\n")).collect();
    assert!(own.iter().all(Option::is_some), "a balancer that names no client is not counted as one");
    drop(held);
    until(Instant::now() + TIMEOUT, "a connection under the cap", || named(0));
}
