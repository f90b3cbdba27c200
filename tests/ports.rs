//! Local ports are exhausted: in a network namespace with sixteen of them, more requests are in flight than there are ports to
//! the replica of their key. They go to the next replica, or wait; none gets an error.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use support::{Log, Process, RINGWAY, TIMEOUT, connect, origin, read_response, until};

const CLIENTS: usize = 60;
/// Addresses of the balancer that clients connect to: for each they have sixteen ports.
const ADDRESSES: usize = 8;

/// Runs the test below in a network namespace, where it may narrow the range of ports.
#[test]
fn exhausted_ports_cause_no_errors() {
    let narrow = "ip link set lo up && echo 40000 40015 > /proc/sys/net/ipv4/ip_local_port_range && exec \"$0\" \"$@\"";
    let unshare = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if !unshare(Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"])) {
        eprintln!("ports: NOT RUN: no network namespace can be made here (unshare -rn, ip)");
        return;
    }
    let output = Command::new("unshare")
        .args(["-rn", "sh", "-c", narrow])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "with_sixteen_ports_every_request_is_answered", "--nocapture"])
        .output()
        .expect("unshare ran before");
    let log = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("1 passed"), "{log}");
}

#[test]
#[ignore = "it needs a network of its own: exhausted_ports_cause_no_errors makes one"]
fn with_sixteen_ports_every_request_is_answered() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let seen: [Arc<AtomicUsize>; 2] = Default::default();
    let replicas = seen.clone().map(|seen| {
        let waits = gate.clone();
        let serve = move |head: &str, stream: &mut TcpStream| {
            if head.starts_with("GET /same ") {
                seen.fetch_add(1, Ordering::SeqCst);
                let (open, opened) = &*waits;
                drop(opened.wait_while(open.lock().expect("no panic"), |open| !*open));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
        };
        origin::start(serve).to_string()
    });
    let log = Log::new("ports");
    let mut command = Command::new(RINGWAY);
    command
        .args(["run", "--listen", "0.0.0.0:0", "--admin", "off", "--workers", "1", "--hash-key", "uri"])
        .args(["--connect-timeout", "30s", "--replica", &replicas[0], "--replica", &replicas[1]])
        .env("RUST_LOG", "info")
        .stderr(log.file());
    let begun = Instant::now();
    let balancer = Process::spawn(command);
    balancer.await_replicas();

    let address =
        |number: usize| SocketAddr::from(([127, 0, 0, 1 + (number % ADDRESSES) as u8], balancer.address.port()));
    let mut clients: Vec<TcpStream> = (0..CLIENTS)
        .map(|number| {
            let mut client = connect(address(number));
            client.write_all(b"GET /same HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
            client
        })
        .collect();
    let deadline = Instant::now() + TIMEOUT;
    until(deadline, "a request at both replicas", || {
        seen.iter().all(|seen| seen.load(Ordering::SeqCst) > 0).then_some(())
    });
    until(deadline, "ports to run out", || {
        (log.read().matches("every local port to it is in use").count() >= 2).then_some(())
    });
    let in_flight: usize = seen.iter().map(|seen| seen.load(Ordering::SeqCst)).sum();
    assert!(in_flight < CLIENTS, "{in_flight} of {CLIENTS} found a port");
    *gate.0.lock().expect("no panic") = true;
    gate.1.notify_all();
    for (number, client) in clients.iter_mut().enumerate() {
        let (head, body) = read_response(client);
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"ok", "client {number}: {head}\n{}", log.read());
    }
    let log = log.read();
    let seconds = begun.elapsed().as_secs() as usize + 1;
    assert!(log.matches("no connection can be opened").count() <= 2 * (1 + seconds), "in {seconds} s:\n{log}");
    assert!(!log.contains("connect failed") && !log.contains("answered 502"), "no replica was ejected:\n{log}");
}
