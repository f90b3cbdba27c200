//! A small HTTP/1.1 client for experiments: one connection, one request at a time, every wait bounded.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any deadline of the balancer that an experiment waits through.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FIELDS: usize = 64;
/// No answer in an experiment is larger.
const REPLY_LIMIT: usize = 4 << 20;

pub struct Client<S> {
    stream: S,
    host: String,
    /// Read and not yet used.
    ahead: Vec<u8>,
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// `X-Server-ID`: who answered.
    pub server: Option<String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client<TcpStream> {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client::over(stream, address.to_string()))
    }
}

impl<S: Read + Write> Client<S> {
    pub fn over(stream: S, host: String) -> Self {
        Client { stream, host, ahead: Vec::new(), open: true }
    }

    /// False when the other side will close, or an error left the connection between two answers.
    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn get(&mut self, target: &str) -> io::Result<Reply> {
        self.ask("GET", target, &[], b"")
    }

    pub fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> io::Result<Reply> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let sent = [head.as_bytes(), body].concat();
        self.open = false;
        self.stream.write_all(&sent)?;
        let (reply, keep) = self.reply(method)?;
        self.open = keep;
        Ok(reply)
    }

    fn reply(&mut self, method: &str) -> io::Result<(Reply, bool)> {
        loop {
            let head = self.head()?;
            if head.status >= 200 {
                let none = method == "HEAD" || matches!(head.status, 204 | 304);
                let body = if none { Vec::new() } else { self.body(head.framing)? };
                let keep = head.keep && (none || !matches!(head.framing, Framing::UntilClose));
                return Ok((Reply { status: head.status, server: head.server, body }, keep));
            }
        }
    }

    fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some((length, head)) = Head::parse(&self.ahead)? {
                self.ahead.drain(..length);
                return Ok(head);
            }
            self.more()?;
        }
    }

    fn body(&mut self, framing: Framing) -> io::Result<Vec<u8>> {
        match framing {
            Framing::Length(length) => self.take(length),
            Framing::Chunked => self.chunks(),
            Framing::UntilClose => {
                while self.more().is_ok() {}
                Ok(std::mem::take(&mut self.ahead))
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| wrong("a chunk size that is no number"))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            self.line()?;
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.ahead, b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more()?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > REPLY_LIMIT {
            return Err(wrong("a body larger than any experiment asks for"));
        }
        while self.ahead.len() < length {
            self.more()?;
        }
        Ok(self.ahead.drain(..length).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        if self.ahead.len() > REPLY_LIMIT {
            return Err(wrong("an answer without an end"));
        }
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                self.ahead.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }
}

struct Head {
    status: u16,
    server: Option<String>,
    framing: Framing,
    keep: bool,
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Head {
    /// None: not whole yet. Else how many bytes it takes.
    fn parse(bytes: &[u8]) -> io::Result<Option<(usize, Head)>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(bytes).map_err(|why| wrong(&why.to_string()))? {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(length) => length,
        };
        let field = |name: &str| {
            let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            found.map(|field| String::from_utf8_lossy(field.value).into_owned())
        };
        let framing = match (field("transfer-encoding"), field("content-length")) {
            (Some(_), _) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse().map_err(|_| wrong("a bad Content-Length"))?),
            (None, None) => Framing::UntilClose,
        };
        let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let head = Head {
            status: response.code.unwrap_or(0),
            server: field("x-server-id"),
            framing,
            keep: !close && response.version == Some(1),
        };
        Ok(Some((length, head)))
    }
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that answers with what it was given, a few bytes at a time.
    struct Script {
        answers: Vec<u8>,
        sent: Vec<u8>,
        at: usize,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let left = &self.answers[self.at..];
            let n = left.len().min(3).min(buffer.len());
            buffer[..n].copy_from_slice(&left[..n]);
            self.at += n;
            Ok(n)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.sent.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn client(answers: &str) -> Client<Script> {
        Client::over(Script { answers: answers.into(), sent: Vec::new(), at: 0 }, "h".into())
    }

    #[test]
    fn answers_of_each_framing_follow_one_another() {
        let mut client = client(concat!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Server-ID: server1\r\nContent-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nT: 1\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 503 Gone\r\nConnection: close\r\n\r\nthe rest",
        ));
        let first = client.get("/a").unwrap();
        assert_eq!((first.status, first.server.as_deref(), first.text().as_str()), (200, Some("server1"), "hi"));
        assert_eq!(client.get("/b").unwrap().text(), "abcd");
        assert_eq!(client.ask("POST", "/c", &[], b"{}").unwrap().status, 204);
        assert!(client.is_open());
        assert_eq!(client.get("/d").unwrap().text(), "the rest");
        assert!(!client.is_open());
        assert!(client.stream.sent.starts_with(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"));
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        for cut in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
        ] {
            let mut client = client(cut);
            assert!(client.get("/").is_err(), "{cut}");
            assert!(!client.is_open());
        }
    }
}
