//! Large bodies, both ways at once through one connection: every byte arrives, and the balancer's memory stays flat.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use support::{Process, connect, field, origin, read_head};

const GIB: u64 = 1 << 30;
/// Between the first request and the most memory there ever was. What is resident before is nearly all program text: of
/// 31 MiB of a debug build 3.4 MiB are anonymous. Bodies of a GiB grew it by 32 to 148 KiB.
const GROWTH_LIMIT_KIB: u64 = 2 * 1024;
/// Sizes of writes, none a power of two, so that their boundaries fall everywhere in the buffers on the path.
const WRITES: [usize; 4] = [100_003, 65_521, 7, 250_007];

#[test]
fn a_gib_each_way_with_content_length_arrives_in_bounded_memory() {
    let pattern = Pattern::new();
    let balancer = Process::balancer(&[server(pattern.clone())], &["--workers", "1"]);
    let before = balancer.memory_kib("VmHWM");
    let mut stream = connect(balancer.address);
    let head = format!("POST /body HTTP/1.1\r\nHost: a\r\nX-Size: {GIB}\r\nContent-Length: {GIB}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    let up = spawn_sender(&stream, pattern.clone(), Plain);
    let head = read_head(&mut stream);
    assert_eq!(field(&head, "content-length"), Some(GIB.to_string().as_str()), "{head}");
    pattern.expect(&mut stream, GIB);
    up.join().expect("all was sent");
    let grown = balancer.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < GROWTH_LIMIT_KIB, "{grown} KiB");
}

#[test]
fn chunked_bodies_each_way_arrive_in_bounded_memory() {
    let pattern = Pattern::new();
    let size = GIB / 4;
    let balancer = Process::balancer(&[server(pattern.clone())], &["--workers", "1"]);
    let before = balancer.memory_kib("VmHWM");
    let mut stream = connect(balancer.address);
    let head = format!("POST /body HTTP/1.1\r\nHost: a\r\nX-Size: {size}\r\nTransfer-Encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    let up = spawn_sender(&stream, pattern.clone(), Chunked { size });
    let head = read_head(&mut stream);
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    pattern.expect(&mut Unchunk::new(&mut stream), size);
    up.join().expect("all was sent");
    let grown = balancer.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < GROWTH_LIMIT_KIB, "{grown} KiB");
}

#[test]
fn a_gib_each_way_through_a_tunnel_arrives_in_bounded_memory() {
    let pattern = Pattern::new();
    let balancer = Process::balancer(&[server(pattern.clone())], &["--workers", "1", "--mode", "tcp"]);
    let before = balancer.memory_kib("VmHWM");
    let mut stream = connect(balancer.address);
    let head = format!("POST /body HTTP/1.1\r\nHost: a\r\nX-Size: {GIB}\r\nContent-Length: {GIB}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it reads");
    let up = spawn_sender(&stream, pattern.clone(), Plain);
    read_head(&mut stream);
    pattern.expect(&mut stream, GIB);
    up.join().expect("all was sent");
    let grown = balancer.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < GROWTH_LIMIT_KIB, "{grown} KiB");
}

/// Back-pressure reaches the replica of a client that does not read.
#[test]
fn clients_that_do_not_read_do_not_grow_memory() {
    let pattern = Pattern::new();
    let balancer = Process::balancer(&[server(pattern)], &["--workers", "1"]);
    let before = balancer.memory_kib("VmHWM");
    let unread: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = connect(balancer.address);
            stream
                .write_all(format!("GET /body HTTP/1.1\r\nHost: a\r\nX-Size: {GIB}\r\n\r\n").as_bytes())
                .expect("it reads");
            assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
            stream
        })
        .collect();
    // 64 MiB for another client give the unread bodies time to accumulate, if they could.
    let pattern = Pattern::new();
    let mut reader = connect(balancer.address);
    reader.write_all(b"GET /body HTTP/1.1\r\nHost: a\r\nX-Size: 67108864\r\n\r\n").expect("it reads");
    read_head(&mut reader);
    pattern.expect(&mut reader, 64 << 20);
    let grown = balancer.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < GROWTH_LIMIT_KIB, "{grown} KiB for {} clients that do not read", unread.len());
}

/// Answers at once with X-Size bytes, as the request is framed, while it reads the request's own body.
fn server(pattern: Arc<Pattern>) -> SocketAddr {
    origin::start(move |head, stream| {
        let size: u64 = field(head, "x-size").expect("a size").parse().expect("a number");
        let chunked = field(head, "transfer-encoding").is_some();
        let framing = if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {size}") };
        // A client may leave early.
        if stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes()).is_err() {
            return false;
        }
        let mut out = stream.try_clone().expect("a second handle");
        let sent = pattern.clone();
        let down = std::thread::spawn(move || match chunked {
            true => Chunked { size }.send(&sent, &mut out),
            false => sent.send(&mut out, size),
        });
        match field(head, "content-length") {
            _ if chunked => pattern.expect(&mut Unchunk::new(stream), size),
            Some(length) => pattern.expect(stream, length.parse().expect("a number")),
            None => {}
        }
        down.join().expect("no panic").is_ok()
    })
}

trait Framing: Send + 'static {
    fn send(&self, pattern: &Pattern, out: &mut TcpStream) -> std::io::Result<()>;
}

struct Plain;
struct Chunked {
    size: u64,
}

impl Framing for Plain {
    fn send(&self, pattern: &Pattern, out: &mut TcpStream) -> std::io::Result<()> {
        pattern.send(out, GIB)
    }
}

impl Framing for Chunked {
    fn send(&self, pattern: &Pattern, out: &mut TcpStream) -> std::io::Result<()> {
        let mut at = 0;
        for size in WRITES.iter().cycle() {
            let n = (*size as u64).min(self.size - at);
            if n == 0 {
                break;
            }
            out.write_all(format!("{n:x}\r\n").as_bytes())?;
            pattern.pieces(at, n).try_for_each(|piece| out.write_all(piece))?;
            out.write_all(b"\r\n")?;
            at += n;
        }
        out.write_all(b"0\r\n\r\n")
    }
}

fn spawn_sender(stream: &TcpStream, pattern: Arc<Pattern>, framing: impl Framing) -> std::thread::JoinHandle<()> {
    let mut out = stream.try_clone().expect("a second handle");
    std::thread::spawn(move || framing.send(&pattern, &mut out).expect("it reads"))
}

/// Bytes whose position can be checked: a block of random bytes, repeated, whose length shares no factor with any buffer's.
struct Pattern {
    block: Vec<u8>,
}

impl Pattern {
    fn new() -> Arc<Pattern> {
        let mut noise = fastrand::Rng::with_seed(7);
        Arc::new(Pattern { block: std::iter::repeat_with(|| noise.u8(..)).take(1_048_573).collect() })
    }

    /// Bytes `at..at + n` as slices of the block.
    fn pieces(&self, at: u64, n: u64) -> impl Iterator<Item = &[u8]> {
        let (mut at, end) = (at, at + n);
        std::iter::from_fn(move || {
            let from = (at % self.block.len() as u64) as usize;
            let piece = &self.block[from..];
            let piece = &piece[..piece.len().min((end - at) as usize)];
            at += piece.len() as u64;
            (!piece.is_empty()).then_some(piece)
        })
    }

    fn send(&self, out: &mut TcpStream, size: u64) -> std::io::Result<()> {
        let mut at = 0;
        for write in WRITES.iter().cycle() {
            let n = (*write as u64).min(size - at);
            if n == 0 {
                break;
            }
            self.pieces(at, n).try_for_each(|piece| out.write_all(piece))?;
            at += n;
        }
        Ok(())
    }

    /// Reads exactly `size` bytes and compares each.
    fn expect(&self, from: &mut impl Read, size: u64) {
        let mut buffer = vec![0; 256 * 1024];
        let mut at = 0;
        while at < size {
            let limit = buffer.len().min((size - at) as usize);
            let n = from.read(&mut buffer[..limit]).expect("more of the body");
            assert!(n > 0, "cut off after {at} of {size} bytes");
            let mut seen = 0;
            for piece in self.pieces(at, n as u64) {
                assert!(buffer[seen..seen + piece.len()] == *piece, "a wrong byte within {n} after {at}");
                seen += piece.len();
            }
            at += n as u64;
        }
    }
}

/// The data of a chunked body. Reads up to and including its end, and not a byte more.
struct Unchunk<'s> {
    stream: &'s mut TcpStream,
    left: u64,
    begun: bool,
}

impl Unchunk<'_> {
    fn new(stream: &mut TcpStream) -> Unchunk<'_> {
        Unchunk { stream, left: 0, begun: false }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().into())
    }
}

impl Read for Unchunk<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            if std::mem::replace(&mut self.begun, true) {
                assert_eq!(self.line()?, "", "a chunk ends with CRLF");
            }
            let size = self.line()?;
            self.left = u64::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("{size:?} is no chunk size"));
        }
        let limit = buffer.len().min(self.left as usize);
        let n = self.stream.read(&mut buffer[..limit])?;
        self.left -= n as u64;
        Ok(n)
    }
}

impl Drop for Unchunk<'_> {
    /// Reads the last chunk, which `expect` does not read.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.line().expect("the last chunk's end"), "");
            assert_eq!(self.line().expect("the last chunk"), "0");
            assert_eq!(self.line().expect("no trailers"), "");
        }
    }
}
