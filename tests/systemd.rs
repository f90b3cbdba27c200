//! What a service manager and the balancer say to each other: `sd_notify(3)` messages, and sockets that it was started
//! with (`sd_listen_fds(3)`). The test is the service manager.

mod support;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};
use socket2::{Domain, Socket, Type};

use support::balancer::Balancer;
use support::lineage::{Lineage, signal};
use support::{Log, Process, RINGWAY, TIMEOUT, connect, read_head};

const GET: &[u8] = b"GET /home HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// The socket that services send to.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &str) -> Manager {
        let path = std::env::temp_dir().join(format!("ringway-notify-{name}-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).expect("a free path");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a socket option");
        Manager { socket, path }
    }

    /// Reads messages up to one that has `line`, and returns that one.
    fn await_line(&self, line: &str) -> String {
        loop {
            let mut message = [0; 4096];
            let len = self.socket.recv(&mut message).unwrap_or_else(|error| panic!("no {line}: {error}"));
            let message = String::from_utf8_lossy(&message[..len]).into_owned();
            if message.lines().any(|found| found.starts_with(line)) {
                return message;
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a socket option");
        self.socket.recv(&mut [0; 4096]).is_err()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn the_manager_learns_of_start_life_upgrade_and_end() {
    let manager = Manager::new("life");
    let log = Log::new("systemd-life");
    let mut command = Command::new(RINGWAY);
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "200000").stderr(log.file());
    let mut lineage = Lineage::of(Balancer::start_as(command, &[]), log);
    let first = lineage.first.process.id();
    let ready = manager.await_line("READY=1");
    assert!(ready.contains("STATUS=serving: 3 of 3 live\n"), "{ready}");
    for _ in 0..3 {
        manager.await_line("WATCHDOG=1");
    }
    lineage.signal("HUP");
    let reloading = manager.await_line("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.await_line("READY=1");
    lineage.upgrade();
    manager.await_line(&format!("MAINPID={}", lineage.current));
    let ready = manager.await_line("READY=1");
    assert!(ready.contains(&format!("MAINPID={}\n", lineage.current)), "{ready}");
    assert_eq!(lineage.first.process.wait().code(), Some(0));
    manager.await_line("WATCHDOG=1");
    assert_ne!(first, lineage.current);
    lineage.signal("TERM");
    manager.await_line("STOPPING=1");
}

/// A replica whose program waits for the test does not let the balancer be ready.
#[test]
fn it_is_ready_only_when_each_replica_answers_or_has_failed() {
    let manager = Manager::new("slow");
    let gate = manager.path.with_extension("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().expect("mkfifo").success());
    let mut command = Command::new(RINGWAY);
    command.env("NOTIFY_SOCKET", &manager.path);
    let script = format!("read line < {}; exec {RINGWAY} replica", gate.display());
    command.args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--replicas", "1"]);
    command.args(["--", "sh", "-c", &script]);
    let _process = Process::spawn(command);
    let status = manager.await_line("STATUS=");
    assert_eq!(status, "STATUS=starting: 0 of 1 live\n");
    std::fs::write(&gate, "go\n").expect("it reads");
    let ready = manager.await_line("READY=1");
    assert!(ready.contains("STATUS=serving: 1 of 1 live\n"), "{ready}");
    assert!(manager.is_silent(), "a watchdog was not asked for");
    let _ = std::fs::remove_file(gate);
}

/// A balancer that is started with `sockets`, as systemd starts it.
fn activated(sockets: Vec<(&str, OwnedFd)>, flags: &[&str], log: &Log) -> Process {
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    let mut command = Command::new("sh");
    // LISTEN_PID is that of the process which execs the service.
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\"", RINGWAY, "run"]).args(flags);
    command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":")).stderr(log.file());
    let mappings = (3..).zip(sockets).map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd });
    command.fd_mappings(mappings.collect()).expect("different descriptors");
    Process::spawn(command)
}

fn answer(mut client: std::net::TcpStream) -> String {
    client.write_all(GET).expect("it listens");
    read_head(&mut client)
}

#[test]
fn two_workers_share_one_socket_that_others_cannot_be_bound_beside() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    // It waits in the queue before there is a balancer.
    let early = connect(address);
    let log = Log::new("systemd-one");
    let flags = ["--listen", &address.to_string(), "--admin", "127.0.0.1:0", "--workers", "2"];
    let balancer = activated(vec![("ringway.socket", listener.into())], &flags, &log);
    assert_eq!(balancer.address, address);
    assert!(answer(early).starts_with("HTTP/1.1 200 "), "{}", log.read());
    for _ in 0..20 {
        assert!(answer(connect(address)).starts_with("HTTP/1.1 200 "));
    }
    assert!(log.read().contains("2 workers share 1 sockets"), "{}", log.read());
}

fn reusable(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("a socket option");
    socket.bind(&address.into()).expect("a free port");
    socket.listen(16).expect("bound");
    socket
}

#[test]
fn each_worker_takes_one_of_two_sockets_and_what_no_listener_wants_is_closed() {
    let first = reusable(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let address = first.local_addr().expect("bound").as_socket().expect("an IP address");
    let second = reusable(address);
    let unwanted = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let unwanted_address = unwanted.local_addr().expect("bound");
    let early: Vec<_> = (0..16).map(|_| connect(address)).collect();
    let log = Log::new("systemd-two");
    let sockets = vec![("web", first.into()), ("other", unwanted.into()), ("web", second.into()), ("pipe", pipe())];
    let flags = ["--listen", &address.to_string(), "--admin", "127.0.0.1:0", "--workers", "2"];
    let _balancer = activated(sockets, &flags, &log);
    for client in early {
        assert!(answer(client).starts_with("HTTP/1.1 200 "), "{}", log.read());
    }
    let text = log.read();
    assert!(text.contains(&format!("the socket {unwanted_address} (other), and no listener is configured")), "{text}");
    assert!(text.contains("the socket pipe, which is no stream socket, and no listener is configured"), "{text}");
    assert!(std::net::TcpStream::connect(unwanted_address).is_err(), "nothing listens there any more");
}

fn pipe() -> OwnedFd {
    std::io::pipe().expect("two descriptors").0.into()
}

#[test]
fn an_admin_socket_of_the_manager_stays_when_the_balancer_ends() {
    let path = std::env::temp_dir().join(format!("ringway-activated-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).expect("a free path");
    let kept = listener.try_clone().expect("a descriptor");
    let log = Log::new("systemd-admin");
    let admin = format!("unix:{}", path.display());
    let flags = ["--listen", "127.0.0.1:0", "--admin", &admin];
    let process = activated(vec![("admin.socket", listener.into())], &flags, &log);
    let (data, first) = (process.address, process.id());
    let mut lineage = Lineage::of(Balancer { process, data, admin: data }, log);
    lineage.upgrade();
    let mut stream = UnixStream::connect(&path).expect("the file is there");
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it is served");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    signal(lineage.current, "TERM");
    lineage.first.process.wait();
    assert_ne!(lineage.current, first);
    lineage.await_end();
    assert!(Path::new(&path).exists(), "the manager removes it");
    drop(kept);
    let _ = std::fs::remove_file(path);
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let mut command = Command::new(RINGWAY);
    command.args(["run", "--listen", &address, "--admin", "off"]).env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    command.fd_mappings(vec![FdMapping { parent_fd: listener.into(), child_fd: 3 }]).expect("one descriptor");
    let output = command.output().expect("our own binary starts");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}
