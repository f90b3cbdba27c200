//! A server of WebSockets that echoes messages.

use std::io::{Cursor, Read, Write};
use std::net::TcpStream;

use tungstenite::Message;

/// Greets with the request's target, then echoes until the client closes: behind a head, as `origin::start` calls it.
pub fn echo(head: &str, stream: &mut TcpStream) -> bool {
    // The head was read already: the library reads it again, before what follows.
    let replayed = Replay { head: Cursor::new(head.as_bytes().to_vec()), stream };
    let target = head.split(' ').nth(1).unwrap_or_default();
    let mut socket = tungstenite::accept(replayed).expect("a WebSocket client");
    socket.send(Message::text(format!("hello from {target}"))).expect("it reads");
    while let Ok(message) = socket.read() {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).is_err() {
            break;
        }
    }
    false
}

struct Replay<'s> {
    head: Cursor<Vec<u8>>,
    stream: &'s mut TcpStream,
}

impl Read for Replay<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.head.read(buffer)? {
            0 => self.stream.read(buffer),
            n => Ok(n),
        }
    }
}

impl Write for Replay<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}
