//! A small HTTP/1.1 client for experiments: one connection, one request at a time, every wait bounded. It judges nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any deadline of the balancer that an experiment waits for.
pub const IO_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FIELDS_MAX: usize = 64;
/// No response in an experiment is larger, in bytes.
const RESPONSE_LIMIT: usize = 4 << 20;

pub struct HttpClient<S> {
    stream: S,
    host: String,
    /// Received and not yet consumed.
    buffer_in: Vec<u8>,
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    /// `X-Server-ID`: the replica that responded.
    pub server: Option<String>,
    pub body: Vec<u8>,
}

impl HttpResponse {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl HttpClient<TcpStream> {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        Ok(HttpClient::over(stream, address.to_string()))
    }

    /// Of each wait from now on.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))
    }
}

impl<S: Read + Write> HttpClient<S> {
    pub fn over(stream: S, host: String) -> Self {
        HttpClient { stream, host, buffer_in: Vec::new(), open: true }
    }

    /// False when the server will close, or an error left the connection in the middle of a response.
    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn get(&mut self, target: &str) -> io::Result<HttpResponse> {
        self.request("GET", target, &[], b"")
    }

    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<HttpResponse> {
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
        let (response, keep_alive) = self.response(method)?;
        self.open = keep_alive;
        Ok(response)
    }

    fn response(&mut self, method: &str) -> io::Result<(HttpResponse, bool)> {
        loop {
            let head = self.head()?;
            if head.status >= 200 {
                let has_no_body = method == "HEAD" || matches!(head.status, 204 | 304);
                let body = if has_no_body { Vec::new() } else { self.body(head.framing)? };
                let keep_alive = head.keep_alive && (has_no_body || !matches!(head.framing, BodyFraming::UntilClose));
                return Ok((HttpResponse { status: head.status, server: head.server, body }, keep_alive));
            }
        }
    }

    fn head(&mut self) -> io::Result<ResponseHead> {
        loop {
            if let Some((length, head)) = ResponseHead::parse(&self.buffer_in)? {
                self.buffer_in.drain(..length);
                return Ok(head);
            }
            self.fill()?;
        }
    }

    fn body(&mut self, framing: BodyFraming) -> io::Result<Vec<u8>> {
        match framing {
            BodyFraming::Length(length) => self.take(length),
            BodyFraming::Chunked => self.chunks(),
            BodyFraming::UntilClose => {
                while self.fill().is_ok() {}
                Ok(std::mem::take(&mut self.buffer_in))
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| invalid("a chunk size that is not a number"))?;
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
            if let Some(end) = memchr::memmem::find(&self.buffer_in, b"\r\n") {
                let line: Vec<u8> = self.buffer_in.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill()?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > RESPONSE_LIMIT {
            return Err(invalid("a body larger than any experiment requests"));
        }
        while self.buffer_in.len() < length {
            self.fill()?;
        }
        Ok(self.buffer_in.drain(..length).collect())
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.buffer_in.len() > RESPONSE_LIMIT {
            return Err(invalid("a response without an end"));
        }
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                self.buffer_in.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }
}

struct ResponseHead {
    status: u16,
    server: Option<String>,
    framing: BodyFraming,
    keep_alive: bool,
}

#[derive(Clone, Copy)]
enum BodyFraming {
    Length(usize),
    Chunked,
    UntilClose,
}

impl ResponseHead {
    /// The head and its length in bytes; `None` while it is incomplete.
    fn parse(bytes: &[u8]) -> io::Result<Option<(usize, ResponseHead)>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(bytes).map_err(|why| invalid(&why.to_string()))? {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(length) => length,
        };
        let field = |name: &str| {
            let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            found.map(|field| String::from_utf8_lossy(field.value).into_owned())
        };
        let framing = match (field("transfer-encoding"), field("content-length")) {
            (Some(_), _) => BodyFraming::Chunked,
            (None, Some(length)) => BodyFraming::Length(length.parse().map_err(|_| invalid("a bad Content-Length"))?),
            (None, None) => BodyFraming::UntilClose,
        };
        let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let head = ResponseHead {
            status: response.code.unwrap_or(0),
            server: field("x-server-id"),
            framing,
            keep_alive: !close && response.version == Some(1),
        };
        Ok(Some((length, head)))
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that yields the given responses, a few bytes at a time.
    struct Script {
        responses: Vec<u8>,
        sent: Vec<u8>,
        at: usize,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let left = &self.responses[self.at..];
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

    fn client(responses: &str) -> HttpClient<Script> {
        HttpClient::over(Script { responses: responses.into(), sent: Vec::new(), at: 0 }, "h".into())
    }

    #[test]
    fn responses_of_each_framing_are_read_in_sequence() {
        let mut client = client(concat!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Server-ID: server1\r\nContent-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nT: 1\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 503 Gone\r\nConnection: close\r\n\r\nthe rest",
        ));
        let first = client.get("/a").unwrap();
        assert_eq!((first.status, first.server.as_deref(), first.text().as_str()), (200, Some("server1"), "hi"));
        assert_eq!(client.get("/b").unwrap().text(), "abcd");
        assert_eq!(client.request("POST", "/c", &[], b"{}").unwrap().status, 204);
        assert!(client.is_open());
        assert_eq!(client.get("/d").unwrap().text(), "the rest");
        assert!(!client.is_open());
        assert!(client.stream.sent.starts_with(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"));
    }

    #[test]
    fn a_truncated_response_is_an_error() {
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
