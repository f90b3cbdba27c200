//! More clients than descriptors: what is under way goes on unharmed, those that come later are served, and the log
//! stays readable.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use support::{PATIENCE, Process, RINGWAY, connect, origin, read_head, read_response, until};

/// Descriptors of the balancer, its loops, listeners and pipes included.
const DESCRIPTORS: u64 = 100;
const FLOOD: usize = 300;
const LARGE: usize = 32 << 20;

#[test]
fn accepting_pauses_and_resumes_when_descriptors_run_out() {
    let server = origin::start(|head, stream| {
        let size = if head.starts_with("GET /large ") { LARGE } else { 2 };
        let sent = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes());
        sent.and_then(|()| stream.write_all(&vec![b'x'; size])).is_ok()
    });
    let log = Log::new();
    let balancer = limited(&server.to_string(), &log);
    balancer.await_replicas();

    // A download that is half way when the flood comes, and is read on only after it.
    let mut download = connect(balancer.address);
    download.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    assert!(read_head(&mut download).starts_with("HTTP/1.1 200 "));
    download.read_exact(&mut vec![0; LARGE / 2]).expect("half of it");

    // The balancer takes what it can; the kernel keeps the others waiting.
    let flood: Vec<TcpStream> = (0..FLOOD).map(|_| connect(balancer.address)).collect();
    until(Instant::now() + PATIENCE, "accepting to pause", || log.read().contains("accepting paused").then_some(()));

    let mut rest = vec![0; LARGE - LARGE / 2];
    download.read_exact(&mut rest).expect("the other half");
    assert!(rest.iter().all(|byte| *byte == b'x'));
    drop(flood);
    let mut client = connect(balancer.address);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    assert_eq!(read_response(&mut client).1, b"xx");

    until(Instant::now() + PATIENCE, "accepting to resume", || log.read().contains("accepting resumed").then_some(()));
    let log = log.read();
    assert!(log.contains(&format!("only {DESCRIPTORS} files may be open here")), "{log}");
    assert!(log.lines().count() < 40, "{log}");
}

fn limited(replica: &str, log: &Log) -> Process {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\""), RINGWAY])
        .args(["run", "--listen", "127.0.0.1:0", "--admin", "off", "--workers", "1", "--replica", replica])
        .env("RUST_LOG", "info")
        .stderr(std::fs::File::create(&log.0).expect("a writable target folder"));
    Process::begin(command)
}

struct Log(PathBuf);

impl Log {
    fn new() -> Log {
        Log(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("descriptors-{}.log", std::process::id())))
    }

    fn read(&self) -> String {
        std::fs::read_to_string(&self.0).expect("a log")
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
