//! A server inside the test: one thread for each connection, and a function that answers its requests. Heartbeats are
//! answered here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::{TIMEOUT, field, read_head};

/// Listens on a free port for the rest of the test. Heartbeats are answered here; on any other request `serve` gets
/// its head and the connection just behind it, and returns whether the connection is kept for another one.
pub fn start(serve: impl Fn(&str, &mut TcpStream) -> bool + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, stream) = (serve.clone(), stream.expect("a client"));
            std::thread::spawn(move || answer_all(stream, serve));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream, serve: impl Fn(&str, &mut TcpStream) -> bool) {
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket option");
    // A connection may end between two requests.
    while matches!(stream.peek(&mut [0]), Ok(1)) {
        let head = read_head(&mut stream);
        let keep_alive = if head.starts_with("GET /heartbeat ") {
            let answered = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok();
            answered && field(&head, "connection") != Some("close")
        } else {
            serve(&head, &mut stream)
        };
        if !keep_alive {
            return;
        }
    }
}

/// Sends a request back as it came, head and body, with these lines in the head of the response.
pub fn echo(head: &str, own: &str, stream: &mut TcpStream) -> bool {
    let length = field(head, "content-length").map_or(0, |length| length.parse().expect("a number"));
    let mut content = vec![0; length];
    let answer = stream.read_exact(&mut content).and_then(|()| {
        let length = head.len() + content.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{own}\r\n{head}")
            .and_then(|()| stream.write_all(&content))
    });
    answer.is_ok()
}
