//! What the tests over real sockets share: our binary as a child process that never outlives its test, and raw clients. No
//! assertions about behaviour.
#![allow(dead_code)] // each test binary uses its own part

pub mod acme;
pub mod balancer;
pub mod exposition;
pub mod followed;
pub mod lineage;
pub mod origin;
pub mod pki;
pub mod slow;
pub mod websocket;

use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than any wait takes on a busy machine; only a defect reaches it.
pub const TIMEOUT: Duration = Duration::from_secs(30);

pub const RINGWAY: &str = env!("CARGO_BIN_EXE_ringway");

/// A running `ringway`, killed when dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    /// What it printed until it listened.
    pub banner: String,
}

impl Process {
    /// Starts `ringway ARGS` and waits for the line that says where it listens.
    pub fn start(args: &[&str], env: &[(&str, &str)]) -> Process {
        let mut command = Command::new(RINGWAY);
        command.args(args).envs(env.iter().copied());
        Process::spawn(command)
    }

    /// Starts a command that the test has set up, and waits likewise.
    pub fn spawn(command: Command) -> Process {
        let (process, lines) = Process::spawn_unread(command);
        // Its later output is read, so that it never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        process
    }

    /// The same, with the rest of its output, which the test reads or leaves unread.
    pub fn spawn_unread(mut command: Command) -> (Process, Lines<BufReader<ChildStdout>>) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("our own binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut banner = String::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                let status = child.wait();
                panic!("{command:?} ended ({status:?}) before it listened: {banner}");
            };
            banner.push_str(&line);
            banner.push('\n');
            if let Some(address) = address_in(&line) {
                break address;
            }
        };
        (Process { child, address, banner }, lines)
    }

    pub fn replica(id: &str) -> Process {
        Process::start(&["replica", "--port", "0"], &[("SERVER_ID", id)])
    }

    /// A balancer over `replicas` without an admin API, once they are up.
    pub fn balancer(replicas: &[SocketAddr], flags: &[&str]) -> Process {
        let replicas: Vec<String> = replicas.iter().map(SocketAddr::to_string).collect();
        let mut args = vec!["run", "--listen", "127.0.0.1:0", "--admin", "off"];
        replicas.iter().for_each(|replica| args.extend(["--replica", replica]));
        args.extend(flags);
        let balancer = Process::start(&args, &[]);
        balancer.await_replicas();
        balancer
    }

    /// Waits until a request through this balancer reaches a replica.
    pub fn await_replicas(&self) {
        until(Instant::now() + TIMEOUT, "a replica to be up", || {
            let answer = try_exchange(self.address, "GET /heartbeat HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")).then_some(())
        });
    }

    /// A figure of `/proc/PID/status`, in KiB: `VmHWM` is the most memory it ever had resident.
    pub fn memory_kib(&self, figure: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix(figure)).expect("a known figure");
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Memory that is not a file's, in KiB. `VmRSS` of `/proc/PID/status` may be off by some hundred (proc(5)).
    pub fn anonymous_kib(&self) -> u64 {
        let sums = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id())).expect("a living process");
        let line = sums.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a known figure");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + TIMEOUT;
        until(deadline, "the process to end", || self.child.try_wait().expect("our child"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The stderr of a process, in a file that is removed when this is dropped.
pub struct Log(PathBuf);

impl Log {
    pub fn new(name: &str) -> Log {
        Log(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.log", std::process::id())))
    }

    pub fn file(&self) -> File {
        File::create(&self.0).expect("a writable target folder")
    }

    pub fn read(&self) -> String {
        std::fs::read_to_string(&self.0).expect("a log")
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The address in a line that says where a process listens, like `ringway: balancing http://127.0.0.1:8000`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let is_banner = line.contains("listens on ") || line.contains("balancing ");
    let bare = |word: &str| word.rsplit("//").next().and_then(|word| word.trim_end_matches('/').parse().ok());
    line.split([' ', ',', ';']).find_map(bare).filter(|_| is_banner)
}

/// Calls `condition` until it returns a value. No pause decides.
pub fn until<T>(deadline: Instant, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::yield_now();
    }
}

/// Runs `ringway ARGS` to its end.
pub fn run(args: &[&str]) -> Output {
    Command::new(RINGWAY).args(args).env_clear().output().expect("our own binary starts")
}

pub fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).expect("it listens")
}

/// A client that is reset as soon as it was accepted may get that error here.
pub fn try_connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `bytes` and reads until the server closes.
pub fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    try_exchange(address, bytes).expect("it reads, answers and closes")
}

pub fn try_exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> std::io::Result<String> {
    let mut stream = try_connect(address)?;
    stream.write_all(bytes.as_ref())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Reads exactly one head, its empty line included.
pub fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head is text")
}

/// Reads one response that has a `Content-Length`.
pub fn read_response(stream: &mut impl Read) -> (String, Vec<u8>) {
    let head = read_head(stream);
    let length = field(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a whole body");
    (head, body)
}

pub fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
