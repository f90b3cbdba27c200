//! The PROXY protocol over real sockets: accepted from trusted addresses only, and sent to replicas where configured.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};
use support::{Process, TIMEOUT, connect, exchange, field, origin, read_response};

/// A replica that answers with the head it received.
fn mirror() -> SocketAddr {
    origin::start(|head, stream| {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).is_ok() && field(head, "connection") != Some("close")
    })
}

/// A client whose address is `source`.
fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source: SocketAddr = source.parse().expect("an address");
    socket.bind(&source.into()).expect("a loopback address");
    socket.connect(&to.into()).expect("it listens");
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket option");
    stream
}

fn seen_with(balancer: SocketAddr, header: &[u8]) -> String {
    let mut stream = connect_from("127.0.0.2:0", balancer);
    stream.write_all(&[header, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).expect("it reads");
    let (_, body) = read_response(&mut stream);
    String::from_utf8(body).expect("a head is text")
}

#[test]
fn a_trusted_balancer_must_name_the_client() {
    let balancer = Process::balancer(&[mirror()], &["--accept-proxy-from", "127.0.0.2"]);
    let v1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 5555 80\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x08\xc6\x33\x64\x01\x15\xb3\0\x50";
    assert!(seen_with(balancer.address, v1).contains("X-Forwarded-For: 203.0.113.7\r\n"));
    assert!(seen_with(balancer.address, v2).contains("X-Forwarded-For: 203.0.113.8\r\n"));
    assert!(seen_with(balancer.address, b"PROXY UNKNOWN\r\n").contains("X-Forwarded-For: 127.0.0.2\r\n"));

    let mut silent = connect_from("127.0.0.2:0", balancer.address);
    silent.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    let mut answer = Vec::new();
    // The connection is closed or reset, without a response.
    let _ = silent.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_proxy_header_from_another_address_is_refused() {
    let balancer = Process::balancer(&[mirror()], &["--accept-proxy-from", "127.0.0.2"]);
    let forged = "PROXY TCP4 203.0.113.7 198.51.100.1 5555 80\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(exchange(balancer.address, forged).starts_with("HTTP/1.1 400 "));
}

#[test]
fn each_connection_to_a_replica_names_its_client() {
    let balancer = Process::balancer(&[mirror()], &["--send-proxy", "v1"]);
    let mut ports = Vec::new();
    for _ in 0..2 {
        let mut client = connect(balancer.address);
        client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
        let (_, body) = read_response(&mut client);
        let port = client.local_addr().expect("connected").port();
        let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\nGET /x ", balancer.address.port());
        let body = String::from_utf8(body).expect("a head is text");
        assert!(body.starts_with(&line), "{body}");
        ports.push(port);
    }
    assert_ne!(ports[0], ports[1]);
}

#[test]
fn a_tunnel_to_a_replica_names_its_client() {
    let balancer = Process::balancer(&[mirror()], &["--mode", "tcp", "--send-proxy", "v1"]);
    let mut client = connect(balancer.address);
    client.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    let (_, body) = read_response(&mut client);
    let port = client.local_addr().expect("connected").port();
    let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\nGET /x ", balancer.address.port());
    assert!(String::from_utf8(body).expect("a head is text").starts_with(&line));
}
