//! The client and the server of a WebSocket library talk through the balancer, in http and in tcp mode; and an upgrade of a
//! request with content, as of `docker exec`.

mod support;

use std::io::{Cursor, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use support::{Process, connect, origin, websocket};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Message, WebSocket, client, handshake::derive_accept_key};

/// Larger than any buffer on the path, in bytes.
const LARGE: usize = 3 * 1024 * 1024;

#[test]
fn messages_pass_both_ways_in_http_mode() {
    let balancer = Process::balancer(&[echo_server()], &[]);
    converse(balancer.address);
}

#[test]
fn messages_pass_both_ways_in_tcp_mode() {
    let balancer = Process::balancer(&[echo_server()], &["--mode", "tcp"]);
    converse(balancer.address);
}

#[test]
fn concurrent_websockets_get_their_own_messages() {
    let balancer = Process::balancer(&[echo_server(), echo_server()], &[]);
    let mut sockets: Vec<_> = (0..50).map(|_| open(balancer.address)).collect();
    for socket in &mut sockets {
        assert_eq!(socket.read().expect("a greeting"), Message::text("hello from /chat?room=1"));
    }
    for round in 0..5 {
        for (i, socket) in sockets.iter_mut().enumerate() {
            socket.send(Message::text(format!("{round} from {i}"))).expect("sent");
        }
        for (i, socket) in sockets.iter_mut().enumerate() {
            assert_eq!(socket.read().expect("an echo"), Message::text(format!("{round} from {i}")));
        }
    }
}

fn converse(balancer: SocketAddr) {
    let mut socket = open(balancer);
    assert_eq!(socket.read().expect("the server speaks first"), Message::text("hello from /chat?room=1"));
    for text in ["", "a", "ringway"] {
        socket.send(Message::text(text)).expect("sent");
        assert_eq!(socket.read().expect("an echo"), Message::text(text));
    }
    let large: Vec<u8> = (0..LARGE).map(|i| (i % 251) as u8).collect();
    socket.send(Message::binary(large.clone())).expect("sent");
    assert_eq!(socket.read().expect("an echo").into_data(), large);
    socket.send(Message::Ping("p".into())).expect("sent");
    assert_eq!(socket.read().expect("a pong"), Message::Pong("p".into()));
    let bye = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    socket.close(Some(bye.clone())).expect("sent");
    assert_eq!(socket.read().expect("its close"), Message::Close(Some(bye)));
    assert!(socket.read().is_err(), "the connection ends after the close");
}

fn open(balancer: SocketAddr) -> WebSocket<TcpStream> {
    let url = format!("ws://{balancer}/chat?room=1");
    let (socket, response) = client(url, connect(balancer)).expect("the upgrade is granted");
    assert_eq!(response.status(), 101);
    socket
}

/// Greets with the request's target, then echoes.
fn echo_server() -> SocketAddr {
    origin::start(websocket::echo)
}

/// The client sends its first message in the same write as its upgrade.
#[test]
fn frames_sent_with_the_upgrade_reach_the_server() {
    let balancer = Process::balancer(&[echo_server()], &[]);
    let mut stream = connect(balancer.address);
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let mut bytes = format!(
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    .into_bytes();
    let mut frames =
        WebSocket::from_raw_socket(Cursor::new(Vec::new()), Role::Client, Some(WebSocketConfig::default()));
    frames.send(Message::text("early")).expect("a vector takes all");
    bytes.extend_from_slice(frames.get_ref().get_ref());
    stream.write_all(&bytes).expect("it reads");
    let head = support::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(support::field(&head, "sec-websocket-accept"), Some(derive_accept_key(key.as_bytes()).as_str()));
    let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
    assert_eq!(socket.read().expect("a greeting"), Message::text("hello from /chat"));
    assert_eq!(socket.read().expect("an echo"), Message::text("early"));
}

/// The server switches as soon as it has the head, and the client sends its tunnel's first bytes behind the content.
#[test]
fn a_request_with_content_switches_behind_it() {
    let content = LARGE.to_string();
    let exec = origin::start(|_, stream| {
        stream.write_all(SWITCHED.as_bytes()).expect("it reads");
        let content = std::io::copy(&mut stream.take(LARGE as u64), &mut std::io::sink()).expect("the content");
        assert_eq!(content, LARGE as u64);
        let mut writer = stream.try_clone().expect("a second handle");
        std::io::copy(stream, &mut writer).expect("an echo until the end");
        false
    });
    let balancer = Process::balancer(&[exec], &[]);
    let mut stream = connect(balancer.address);
    let head = format!(
        "POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {content}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), &vec![b'c'; LARGE], b"GET / in the tunnel"].concat()).expect("it reads");
    let head = support::read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).expect("an echo");
    assert_eq!(echoed, "GET / in the tunnel");
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
