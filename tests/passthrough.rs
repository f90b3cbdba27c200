//! TLS connections that pass through as they are, to the service that the name in their ClientHello leads to.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use rustls::{ClientConnection, StreamOwned};
use support::balancer::{Balancer, admin_address};
use support::pki::{self, Authority, Folder, Kind};
use support::{Log, Process, RINGWAY, TIMEOUT, connect, exchange, origin, until};

/// A service of its own for each name, behind a listener that TLS passes through.
struct Sites {
    process: Process,
    authority: Authority,
    folder: Folder,
    log: Log,
    _servers: [Balancer; 2],
}

const NAMES: [&str; 2] = ["shop.test", "a.blog.test"];

impl Sites {
    /// `listener` and `service` are settings that each of them gets.
    fn start(name: &str, listener: &str, service: &str, server: &[&str]) -> Sites {
        let (authority, folder, log) = (Authority::new(), Folder::new(name), Log::new(&format!("pass-{name}")));
        std::fs::write(folder.file("ca.cert"), &authority.pem).expect("written");
        let servers = NAMES.map(|name| {
            folder.add(name, &authority.issue(&[name], Kind::Ecdsa, 90));
            let (cert, key) = (folder.file(&format!("{name}.crt")), folder.file(&format!("{name}.key")));
            let pair = format!("cert={},key={}", cert.display(), key.display());
            let origin = origin::start(head_and_much_more).to_string();
            Balancer::start(&[&["--tls", &pair, "--replica", &origin], server].concat())
        });
        let [shop, blog] = [&servers[0], &servers[1]].map(|server| server.data);
        let file = folder.file("ringway.toml");
        let text = format!(
            "[listeners.pass]\nbind = [\"127.0.0.1:0\"]\nmode = \"tls-passthrough\"\n{listener}\n\
             [services.shop]\nmode = \"tcp\"\nreplica = [\"shop={shop}\"]\n{service}\n\
             [services.blog]\nmode = \"tcp\"\nreplica = [\"blog={blog}\"]\n{service}\n\
             [[routes]]\nhost = \"shop.test\"\nservice = \"shop\"\n\
             [[routes]]\nhost = \"*.blog.test\"\nservice = \"blog\"\n"
        );
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(RINGWAY);
        command.args(["run", "--admin", "127.0.0.1:0", "--config"]).arg(&file).stderr(log.file());
        let process = Process::spawn(command);
        let sites = Sites { process, authority, folder, log, _servers: servers };
        for site in ["shop", "blog"] {
            sites.await_log(&format!("1 of 1 live in {site}"));
        }
        sites
    }

    fn await_log(&self, line: &str) {
        until(Instant::now() + TIMEOUT, line, || self.log.read().contains(line).then_some(()));
    }

    /// A handshake with what the certificate must be for, over a connection of one's own.
    fn shake_hands(&self, name: &'static str, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
        let mut client = pki::connect(self.authority.client_config(), name, stream);
        client.conn.complete_io(&mut client.sock).expect("a handshake");
        client
    }

    /// Bytes to clients that were not copied.
    fn spliced(&self) -> usize {
        let page = support::balancer::ask(admin_address(&self.process), "GET", "/metrics", "").text;
        let of_it = |line: &&str| {
            line.starts_with("ringway_forwarded_bytes_total{") && line.contains("down") && line.contains("splice")
        };
        page.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
    }
}

const MUCH: usize = 1 << 20;

/// Answers with the request's head, and much behind it.
fn head_and_much_more(head: &str, stream: &mut TcpStream) -> bool {
    let length = head.len() + MUCH;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}");
    stream.write_all(&[answer.as_bytes(), &[b'.'; MUCH]].concat()).is_ok()
}

fn page(stream: &mut (impl Read + Write), name: &str) -> String {
    write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a page, and a close_notify");
    String::from_utf8(answer).expect("text")
}

#[test]
fn the_name_leads_to_a_service_and_its_certificate_comes_through() {
    let sites = Sites::start("names", "", "", &[]);
    let port = sites.process.address.port();
    let ca = sites.folder.file("ca.cert");
    for name in NAMES {
        let (resolve, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/page"));
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--resolve", &resolve, "--cacert"]).arg(&ca).arg(url);
        let output = command.output().expect("curl");
        let page = String::from_utf8_lossy(&output.stdout);
        let host = format!("Host: {name}:{port}\r\n");
        assert!(output.status.success() && page.contains(&host) && page.len() > MUCH, "{name}: {output:?}");
    }
    assert!(sites.spliced() > MUCH, "it is copied");
}

#[test]
fn a_client_hello_may_come_byte_by_byte() {
    let sites = Sites::start("bytes", "", "", &[]);
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (relay, to) = (slow.local_addr().expect("an address"), sites.process.address);
    let relaying = std::thread::spawn(move || {
        let (mut client, _) = slow.accept().expect("the client");
        let mut server = connect(to);
        server.set_nodelay(true).expect("a socket");
        let mut hello = [0; 4096];
        let n = client.read(&mut hello).expect("a ClientHello");
        hello[..n].iter().for_each(|byte| server.write_all(&[*byte]).expect("it is read"));
        let mut back = (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
        let answers = std::thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
        let _ = std::io::copy(&mut client, &mut server);
        let _ = answers.join();
    });
    let mut stream = sites.shake_hands("shop.test", connect(relay));
    assert!(page(&mut stream, "shop.test").contains("Host: shop.test\r\n"));
    drop(stream);
    relaying.join().expect("it relays");
}

#[test]
fn what_no_route_is_for_is_closed_and_logged() {
    let sites = Sites::start("refused", "", "", &[]);
    let answer = exchange(sites.process.address, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this port speaks TLS"), "{answer}");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-servername", "other.test", "-connect", &sites.process.address.to_string()]);
    let output = command.stdin(std::process::Stdio::null()).output().expect("openssl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("unrecognized name"), "{output:?}");
    sites.await_log("no route leads from the name in the ClientHello to a service");
}

/// A balancer before names the client, and the replica learns of it, before a byte of TLS.
#[test]
fn proxy_headers_come_before_tls_on_both_sides() {
    let sites = Sites::start(
        "proxy",
        "accept_proxy_from = [\"127.0.0.1\"]",
        "send_proxy = \"v2\"",
        &["--accept-proxy-from", "127.0.0.1"],
    );
    let mut stream = connect(sites.process.address);
    stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n").expect("it is read");
    let page = page(&mut sites.shake_hands("a.blog.test", stream), "a.blog.test");
    assert!(page.contains("X-Forwarded-For: 192.0.2.7\r\n"), "{}", &page[..500]);
}
