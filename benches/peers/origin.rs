//! The upstream server of `scripts/bench`, as cheap as possible.
//!
//! `origin PORT COUNT` listens on COUNT loopback ports from PORT on, all in one loop. The path's last number is the
//! size of the answer: /s128 answers 128 bytes. It trusts its clients: it is for measurements only.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

const BODY: usize = 1 << 20;
const LISTENER: u64 = 1 << 32;

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    head: Vec<u8>,
    written: usize,
    body_left: usize,
}

fn main() -> io::Result<()> {
    let numbers: Vec<u16> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [port, count] = numbers[..] else {
        eprintln!("usage: origin PORT COUNT");
        std::process::exit(2);
    };
    let listeners = (port..port + count).map(listen).collect::<io::Result<Vec<_>>>()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (at, listener) in listeners.iter().enumerate() {
        epoll::add(&epoll, listener, EventData::new_u64(LISTENER + at as u64), EventFlags::IN)?;
    }
    let body = vec![b'x'; BODY];
    let mut buffer = vec![0; 64 * 1024];
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut events = Vec::with_capacity(512);
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let id = event.data.u64();
            if id >= LISTENER {
                accept(&listeners[(id - LISTENER) as usize], &epoll, &mut clients);
            } else if let Some(place) = clients.get_mut(id as usize)
                && place.as_mut().is_some_and(|client| client.serve(&mut buffer, &body).is_err())
            {
                *place = None;
            }
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener, epoll: &impl std::os::fd::AsFd, clients: &mut Vec<Option<Client>>) {
    while let Ok((stream, _)) = listener.accept() {
        let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        let place = clients.iter().position(Option::is_none).unwrap_or(clients.len());
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if ready.is_err() || epoll::add(epoll, &stream, EventData::new_u64(place as u64), flags).is_err() {
            continue;
        }
        if place == clients.len() {
            clients.push(None);
        }
        clients[place] = Some(Client { stream, input: Vec::new(), head: Vec::new(), written: 0, body_left: 0 });
    }
}

impl Client {
    /// Writes the pending response, then reads and answers until the socket is empty. An error ends the connection.
    fn serve(&mut self, buffer: &mut [u8], body: &[u8]) -> io::Result<()> {
        loop {
            if !self.flush(body)? {
                return Ok(());
            }
            if let Some(end) = memchr::memmem::find(&self.input, b"\r\n\r\n") {
                let size = size_asked(&self.input[..end]);
                self.input.drain(..end + 4);
                self.head.clear();
                write!(self.head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n")?;
                (self.written, self.body_left) = (0, size);
                continue;
            }
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) => return Err(why),
            }
        }
    }

    fn flush(&mut self, body: &[u8]) -> io::Result<bool> {
        while self.written < self.head.len() || self.body_left > 0 {
            let parts =
                [IoSlice::new(&self.head[self.written..]), IoSlice::new(&body[..self.body_left.min(body.len())])];
            match self.stream.write_vectored(&parts) {
                Ok(n) => {
                    let of_head = n.min(self.head.len() - self.written);
                    self.written += of_head;
                    self.body_left -= n - of_head;
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(why) => return Err(why),
            }
        }
        Ok(true)
    }
}

/// The number at the end of the request target.
fn size_asked(head: &[u8]) -> usize {
    let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let digits = target.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = &target[target.len() - digits..];
    digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
}
