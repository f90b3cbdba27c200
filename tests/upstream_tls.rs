//! TLS towards replicas: which certificate is taken, what a failed handshake means, and that connections are kept.

mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use support::balancer::Balancer;
use support::pki::{Authority, Folder, Kind};
use support::{Log, RINGWAY, TIMEOUT, exchange, origin, try_exchange, until};

const NAME: &str = "pay.internal";
const MIB: usize = 1024 * 1024;

/// An authority, what it issued, and replicas that speak TLS.
struct Site {
    authority: Authority,
    folder: Folder,
    log: Log,
}

impl Site {
    fn new(name: &str) -> Site {
        let (authority, folder) = (Authority::new(), Folder::new(&format!("up-{name}")));
        std::fs::write(folder.file("ca.cert"), &authority.pem).expect("written");
        Site { authority, folder, log: Log::new(&format!("up-{name}")) }
    }

    /// The flag of a certificate for this name, and its key.
    fn pair(&self, name: &str) -> String {
        self.folder.add(name, &self.authority.issue(&[name], Kind::Ecdsa, 90));
        let (cert, key) = (self.folder.file(&format!("{name}.crt")), self.folder.file(&format!("{name}.key")));
        format!("cert={},key={}", cert.display(), key.display())
    }

    /// One of ours, which answers with the head and content that it gets.
    fn replica(&self, name: &str) -> Balancer {
        Balancer::start(&["--tls", &self.pair(name), "--replica", &origin::start(echo).to_string()])
    }

    /// A balancer in front of `replicas`, with more settings of its TLS towards them.
    fn balancer(&self, replicas: &[SocketAddr], tls: &str, flags: &[&str]) -> Balancer {
        let ca = self.folder.file("ca.cert");
        let tls = if tls.contains("verify=false") { tls.into() } else { format!("ca={},{tls}", ca.display()) };
        let replicas: Vec<String> = replicas.iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(RINGWAY);
        command.stderr(self.log.file());
        let mut all = vec!["--upstream-tls", tls.trim_end_matches(','), "--replica"];
        all.extend(replicas.iter().map(String::as_str));
        all.extend(flags);
        Balancer::start_as(command, &all)
    }

    fn await_log(&self, line: &str) {
        until(Instant::now() + TIMEOUT, line, || self.log.read().contains(line).then_some(()));
    }
}

fn echo(head: &str, stream: &mut TcpStream) -> bool {
    origin::echo(head, "", stream)
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"))
}

#[test]
fn requests_and_bodies_pass_and_connections_are_kept() {
    let site = Site::new("pass");
    let replica = site.replica(NAME);
    let balancer = site.balancer(&[replica.data], &format!("name={NAME}"), &["--workers", "1"]);
    for _ in 0..5 {
        let page = get(balancer.data, "/page");
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("GET /page HTTP/1.1\r\n"), "{page}");
    }
    let body = "x".repeat(MIB);
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {MIB}\r\n\r\n");
    let answer = exchange(balancer.data, head + &body);
    assert!(answer.ends_with(&body), "{} bytes", answer.len());
    let (opened, reused) = (balancer.metric("ringway_dialled_total"), balancer.metric("ringway_reused_total"));
    assert_eq!((opened, reused), (1, 5), "tickets on an idle connection do not end it");
}

#[test]
fn a_certificate_that_is_not_the_replicas_is_a_failed_connect_with_its_reason() {
    let site = Site::new("wrong");
    let (right, wrong) = (site.replica(NAME), site.replica("other.internal"));
    let balancer = site.balancer(&[right.data, wrong.data], &format!("name={NAME}"), &[]);
    for at in 0..20 {
        assert!(get(balancer.data, &format!("/{at}")).starts_with("HTTP/1.1 200 "), "{}", site.log.read());
    }
    site.await_log(&format!("{}: TLS handshake failed: ", wrong.data));
    site.await_log("certificate not valid for name \"pay.internal\"");
    site.await_log(&format!("{}: connect failed: ", wrong.data));
    let alone = site.balancer(&[wrong.data], &format!("name={NAME}"), &[]);
    assert!(get(alone.data, "/").starts_with("HTTP/1.1 502 "));
}

#[test]
fn the_address_is_the_name_where_none_is_given_and_verification_can_be_left_out() {
    let site = Site::new("address");
    let (by_address, by_name) = (site.replica("127.0.0.1"), site.replica(NAME));
    let verified = site.balancer(&[by_address.data], "", &[]);
    assert!(get(verified.data, "/").starts_with("HTTP/1.1 200 "), "{}", site.log.read());
    let refused = site.balancer(&[by_name.data], "", &[]);
    assert!(get(refused.data, "/").starts_with("HTTP/1.1 502 "));
    let unverified = site.balancer(&[by_name.data], "verify=false", &[]);
    assert!(get(unverified.data, "/").starts_with("HTTP/1.1 200 "), "{}", site.log.read());
}

#[test]
fn a_heartbeat_with_a_path_speaks_tls_too() {
    let site = Site::new("health");
    let replica = site.replica(NAME);
    let balancer = site.balancer(&[replica.data], &format!("name={NAME}"), &["--health-path", "/ok"]);
    assert!(get(balancer.data, "/").starts_with("HTTP/1.1 200 "));
    assert_eq!(balancer.up(), 1, "Balancer::start waits for it");
}

/// The replica reads who the client is, then TLS; so does its health check, which names no client.
#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let site = Site::new("proxy");
    let origin = origin::start(echo).to_string();
    let replica =
        Balancer::start(&["--tls", &site.pair(NAME), "--replica", &origin, "--accept-proxy-from", "127.0.0.1"]);
    let named = "PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\n";
    for flags in [&["--send-proxy", "v1", "--health-path", "/ok"][..], &["--send-proxy", "v2", "--mode", "tcp"]] {
        let flags = [flags, &["--accept-proxy-from", "127.0.0.1"]].concat();
        let balancer = site.balancer(&[replica.data], &format!("name={NAME}"), &flags);
        let page =
            exchange(balancer.data, format!("{named}GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"));
        let client = support::field(page.split_once("\r\n\r\n").expect("a head").1, "x-forwarded-for");
        let is_named = client.is_some_and(|client| client.ends_with("192.0.2.7"));
        assert!(is_named, "{flags:?}: {page} {}", site.log.read());
    }
}

/// No connection of before is used where a reload changed what the certificate must be; one of an unchanged service is.
#[test]
fn a_reload_that_changes_the_name_is_for_idle_connections_too() {
    let site = Site::new("reload");
    let replica = site.replica(NAME);
    let (file, ca) = (site.folder.file("ringway.toml"), site.folder.file("ca.cert"));
    let write = |name: &str, more: &str| {
        let tls = format!("tls = {{ name = \"{name}\", ca = \"{}\" }}", ca.display());
        let text = format!("replica = [\"{}\"]\n[upstream]\n{tls}\n{more}", replica.data);
        std::fs::write(&file, text).expect("written");
    };
    write(NAME, "");
    let mut command = Command::new(RINGWAY);
    command.stderr(site.log.file());
    let balancer = Balancer::start_as(command, &["--workers", "1", "--config", file.to_str().expect("text")]);
    let reload = || assert_eq!(balancer.ask("POST", "/reload", "").status, 200, "{}", site.log.read());
    assert!(get(balancer.data, "/").starts_with("HTTP/1.1 200 "));
    write(NAME, "[limits]\nhead_timeout = \"7s\"\n");
    reload();
    assert!(get(balancer.data, "/").starts_with("HTTP/1.1 200 "));
    assert_eq!((balancer.metric("ringway_dialled_total"), balancer.metric("ringway_reused_total")), (1, 1));
    // Nothing else changes.
    write("other.internal", "[limits]\nhead_timeout = \"7s\"\n");
    reload();
    assert!(get(balancer.data, "/").starts_with("HTTP/1.1 502 "));
}

/// A server of a script that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A TLS server in Python on a free port: its context is changed by `set_up`, and requests are answered by `answer`.
fn python(site: &Site, set_up: &str, answer: &str) -> (Server, SocketAddr) {
    let script = format!(
        r"import socket, ssl, sys
folder = sys.argv[1]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f'{{folder}}/{NAME}.crt', f'{{folder}}/{NAME}.key')
{set_up}
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True:
    raw, _ = listener.accept()
    try:
        stream = context.wrap_socket(raw, server_side=True)
        request = b''
        while not request.endswith(b'\r\n\r\n'):
            request += stream.recv(65536) or exit()
        {answer}
        stream.close()
    except OSError as error:
        print(error, file=sys.stderr)
"
    );
    site.pair(NAME);
    let mut command = Command::new("python3");
    command.args(["-c", &script, site.folder.path()]).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says its port");
    let port: u16 = line.trim().parse().expect("a port");
    (Server(child), SocketAddr::from(([127, 0, 0, 1], port)))
}

#[test]
fn a_replica_that_asks_for_a_certificate_gets_ours() {
    let site = Site::new("own");
    let ask = "context.verify_mode = ssl.CERT_REQUIRED; context.load_verify_locations(f'{folder}/ca.cert')";
    let answer = r"body = str(stream.getpeercert()['subject']).encode(); stream.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n' % len(body) + body)";
    let (_server, address) = python(&site, ask, answer);
    let own = site.pair("ringway.internal");
    let balancer = site.balancer(&[address], &format!("name={NAME},{own}"), &[]);
    let page = get(balancer.data, "/");
    assert!(page.contains("ringway.internal"), "{page} {}", site.log.read());
}

/// RFC 9112 section 9.8.
#[test]
fn a_body_without_a_length_is_whole_only_with_a_close_notify() {
    let site = Site::new("cut");
    let body = r"stream.sendall(b'HTTP/1.1 200 OK\r\n\r\npart')";
    let (_cut, address) = python(&site, "", body);
    let balancer = site.balancer(&[address], &format!("name={NAME}"), &[]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let cut = try_exchange(balancer.data, request);
    assert!(cut.is_err(), "it looks whole: {cut:?}");
    let (_whole, address) = python(&site, "", &format!("{body}; stream = stream.unwrap()"));
    let balancer = site.balancer(&[address], &format!("name={NAME}"), &[]);
    let whole = try_exchange(balancer.data, request);
    assert!(whole.as_ref().is_ok_and(|page| page.ends_with("\r\n\r\npart")), "it looks cut: {whole:?}");
}
