//! A server whose requests a test answers when it likes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::{TIMEOUT, read_head};

/// A server that answers heartbeats itself and hands every other request to the test.
pub struct Slow {
    pub address: SocketAddr,
    waiting: std::sync::mpsc::Receiver<TcpStream>,
}

impl Slow {
    pub fn start() -> Slow {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, waiting) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, sender) = (stream.expect("a connection"), sender.clone());
                std::thread::spawn(move || {
                    let head = read_head(&mut stream);
                    if head.starts_with("GET /heartbeat ") {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                        let _ = stream.read(&mut [0]);
                    } else {
                        let _ = sender.send(stream);
                    }
                });
            }
        });
        Slow { address, waiting }
    }

    /// The connection of the next request, which the test answers.
    pub fn next(&self) -> TcpStream {
        self.waiting.recv_timeout(TIMEOUT).expect("a request came")
    }
}

pub fn answer(mut upstream: TcpStream) {
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").expect("the balancer still waits");
}
