//! TLS of clients, as they use it: curl, OpenSSL's s_client, Python, Node.js, Java and wrk against our binary; certificates by
//! name and kind of key, resumption, reloads, renewals, certificates of clients, and what is said of files that cannot be used.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use support::balancer::Balancer;
use support::lineage::Lineage;
use support::pki::{self, Authority, Folder, Issued, Kind};
use support::{Log, Process, RINGWAY, TIMEOUT, connect, exchange, origin, run, until, websocket};
use tungstenite::Message;

const SHOP: &str = "shop.example.com";
const MIB: usize = 1024 * 1024;

/// A balancer whose clients speak TLS, over one server that answers a request with its head and its content, and echoes the
/// messages of a WebSocket.
struct Server {
    balancer: Balancer,
    authority: Authority,
    certs: Folder,
    log: Log,
}

impl Server {
    /// With one certificate, for `SHOP`.
    fn start(name: &str, flags: &[&str]) -> Server {
        Server::with(name, flags, |authority| vec![("shop", authority.issue(&[SHOP], Kind::Ecdsa, 90))])
    }

    fn with(name: &str, flags: &[&str], issue: impl FnOnce(&Authority) -> Vec<(&'static str, Issued)>) -> Server {
        let (authority, certs, log) = (Authority::new(), Folder::new(name), Log::new(&format!("tls-{name}")));
        issue(&authority).iter().for_each(|(name, issued)| certs.add(name, issued));
        std::fs::write(certs.file("ca.cert"), &authority.pem).expect("written");
        let mut command = Command::new(RINGWAY);
        command.stderr(log.file());
        let origin = origin::start(echo).to_string();
        let flags: Vec<&str> = ["--tls", certs.path(), "--replica", &origin].iter().chain(flags).copied().collect();
        let balancer = Balancer::start_as(command, &flags);
        Server { balancer, authority, certs, log }
    }

    fn port(&self) -> u16 {
        self.balancer.data.port()
    }

    fn ca(&self) -> String {
        self.certs.file("ca.cert").display().to_string()
    }

    /// curl's exit status and output, for a path of `SHOP`.
    fn curl(&self, flags: &[&str], path: &str) -> Output {
        let (url, resolve) =
            (format!("https://{SHOP}:{}{path}", self.port()), format!("{SHOP}:{}:127.0.0.1", self.port()));
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--cacert", &self.ca(), "--resolve", &resolve]).args(flags).arg(url);
        command.output().expect("curl")
    }

    fn s_client(&self, flags: &[&str]) -> String {
        s_client(self.balancer.data, &self.ca(), flags)
    }

    fn subject(&self, flags: &[&str]) -> String {
        subject(&self.s_client(flags))
    }

    fn reload(&self) -> (u16, String) {
        let response = self.balancer.ask("POST", "/reload", "");
        (response.status, response.text)
    }

    fn await_log(&self, line: &str) {
        until(Instant::now() + TIMEOUT, line, || self.log.read().contains(line).then_some(()));
    }

    /// The end of a script that uses the port and the authority's file.
    fn run_script(&self, program: &str, args: &[&str]) -> Output {
        Command::new(program)
            .args(args)
            .args([&self.port().to_string(), &self.ca()])
            .output()
            .expect("it was there before")
    }
}

/// What `openssl s_client` says of a connection on which it asks for a page.
fn s_client(address: SocketAddr, ca: &str, flags: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-CAfile", ca, "-ign_eof"]).args(flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl");
    let request = b"GET /home HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // One that failed to shake hands reads nothing.
    let _ = child.stdin.take().expect("piped").write_all(request);
    let output = child.wait_with_output().expect("openssl ends");
    text(&output.stdout) + &text(&output.stderr)
}

/// Of the certificate that such a client got.
fn subject(said: &str) -> String {
    let subject = said.lines().find_map(|line| line.strip_prefix("subject=")).map(|line| line.replace(' ', ""));
    subject.unwrap_or_else(|| panic!("no certificate: {said}"))
}

fn echo(head: &str, stream: &mut TcpStream) -> bool {
    if support::field(head, "upgrade").is_some() {
        return websocket::echo(head, stream);
    }
    let own = if head.contains("/own-hsts ") { "strict-transport-security: max-age=0\r\n" } else { "" };
    origin::echo(head, own, stream)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has(program: &str, flag: &str) -> bool {
    let ran = Command::new(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = ran.is_ok();
    if !is_there {
        eprintln!("no {program} here: NOT TESTED");
    }
    is_there
}

#[test]
fn curl_gets_pages_and_posts_a_body_in_both_versions() {
    let server = Server::start("curl", &[]);
    let body: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
    std::fs::write(server.certs.file("body"), &body).expect("written");
    let posted = format!("@{}", server.certs.file("body").display());
    for version in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let page = server.curl(version, "/page");
        let head = text(&page.stdout);
        assert!(page.status.success() && head.starts_with("GET /page HTTP/1.1\r\n"), "{version:?}: {page:?}");
        for field in ["X-Forwarded-Proto: https\r\n", "X-Forwarded-For: 127.0.0.1\r\n"] {
            assert!(head.contains(field), "{field} is missing from {head}");
        }
        let post = server.curl(&[version, &["-H", "Expect:", "--data-binary", &posted]].concat(), "/");
        assert!(post.status.success() && post.stdout.ends_with(&body), "{version:?}: {:?}", text(&post.stderr));
    }
}

#[test]
fn curl_keeps_its_connection() {
    let server = Server::start("keep", &[]);
    let again = format!("https://{SHOP}:{}/2", server.port());
    let flags = ["-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} %{http_version} %{http_code}\n", &again];
    assert_eq!(text(&server.curl(&flags, "/1").stdout), "1 1.1 200\n0 1.1 200\n");
}

#[test]
fn browsers_are_told_to_stay_with_https_unless_the_replica_says_it() {
    let server = Server::start("hsts", &["--tls-hsts", "8760h"]);
    for (path, expected) in [("/", "max-age=31536000"), ("/own-hsts", "max-age=0")] {
        let head = text(&server.curl(&["-D", "-", "-o", "/dev/null"], path).stdout);
        let field = "strict-transport-security";
        assert_eq!(support::field(&head, field), Some(expected), "{head}");
        assert_eq!(head.to_ascii_lowercase().matches(field).count(), 1, "{head}");
    }
}

/// RFC 6797 sections 7.1 and 7.2.
#[test]
fn responses_of_our_own_tell_it_too_unless_they_are_in_plain_text() {
    let server = Server::start("own-hsts", &["--tls-hsts", "8760h"]);
    let field = |head: &str| support::field(head, "strict-transport-security").map(str::to_owned);
    let own = ["-D", "-", "-o", "/dev/null", "-X", "OPTIONS", "-H", "Max-Forwards: 0"];
    let secure = text(&server.curl(&own, "/").stdout);
    assert!(secure.starts_with("HTTP/1.1 200 ") && secure.contains("Allow: "), "{secure}");
    assert_eq!(field(&secure).as_deref(), Some("max-age=31536000"), "{secure}");
    let refused = text(&server.curl(&["-D", "-", "-o", "/dev/null", "-H", "Host: a b"], "/").stdout);
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    assert_eq!(field(&refused).as_deref(), Some("max-age=31536000"), "{refused}");
    let plain = exchange(server.balancer.data, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(plain.starts_with("HTTP/1.1 400 ") && plain.contains("this port speaks TLS"), "{plain}");
    assert_eq!(field(&plain), None, "{plain}");
}

#[test]
fn an_older_version_than_is_allowed_is_refused() {
    let server = Server::start("min", &["--tls-min-version", "1.3"]);
    let refused = server.curl(&["--tls-max", "1.2"], "/");
    assert!(!refused.status.success() && text(&refused.stderr).contains("protocol version"), "{refused:?}");
    assert!(server.curl(&[], "/").status.success());
}

#[test]
fn the_name_and_the_kind_of_key_that_a_client_asks_for_decide_its_certificate() {
    let server = Server::with("names", &["--tls-default", "other"], |authority| {
        vec![
            ("exact", authority.issue(&[SHOP], Kind::Ecdsa, 90)),
            ("exact-rsa", authority.issue(&["rsa.test", SHOP], Kind::Rsa, 90)),
            ("other", authority.issue(&["other.test"], Kind::Ecdsa, 90)),
            ("wild", authority.issue(&["*.example.com"], Kind::Ecdsa, 90)),
        ]
    });
    let rsa = ["-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"];
    let cases: [(&[&str], &str); 6] = [
        (&["-servername", SHOP], "CN=shop.example.com"),
        (&["-servername", "SHOP.example.com", "-tls1_2"], "CN=shop.example.com"),
        (&["-servername", "blog.example.com"], "CN=*.example.com"),
        (&["-servername", "a.blog.example.com"], "CN=other.test"),
        (&["-noservername"], "CN=other.test"),
        (&["-servername", SHOP, rsa[0], rsa[1]], "CN=rsa.test"),
    ];
    for (flags, subject) in cases {
        assert_eq!(server.subject(flags), subject, "{flags:?}");
    }
    let verified = server.s_client(&["-servername", SHOP, "-verify_return_error", "-verify_hostname", SHOP]);
    assert!(verified.contains("Verify return code: 0 (ok)"), "{verified}");
}

#[test]
fn a_session_resumes_at_every_worker_and_after_a_reload() {
    let server = Server::start("resume", &["--workers", "2"]);
    let session = server.certs.file("session").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let first = server.s_client(&[version, "-sess_out", &session]);
        assert!(first.contains("New, TLS"), "{first}");
        let resumes = || {
            let said = server.s_client(&[version, "-sess_in", &session]);
            assert!(said.contains("Reused, TLS"), "{version}: {said}");
        };
        // The kernel chooses the worker of each connection.
        let accepted = |worker: usize| {
            let page = server.balancer.get("/metrics").text;
            let name = format!("ringway_worker_accepted_total{{worker=\"{worker}\"}} ");
            let value = page.lines().find_map(|line| line.strip_prefix(&name)).expect("it is exported");
            value.parse::<u64>().expect("a whole number")
        };
        let before = [accepted(0), accepted(1)];
        until(Instant::now() + TIMEOUT, "a session resumed at both workers", || {
            resumes();
            (accepted(0) > before[0] && accepted(1) > before[1]).then_some(())
        });
        server.certs.add("shop", &server.authority.issue(&[SHOP], Kind::Ecdsa, 80));
        assert_eq!(server.reload().0, 200);
        resumes();
        resumes();
    }
}

/// Sends a request, then close_notify and nothing more; the response comes all the same. Then a client that ends without
/// close_notify, between two requests: that is no fault of anyone.
const PYTHON: &str = "
import socket, ssl, sys
port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
request = b'GET /half HTTP/1.1\\r\\nHost: shop.example.com\\r\\n\\r\\n'
raw = socket.create_connection(('127.0.0.1', port))
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname='shop.example.com')
def drive(action):
    while True:
        try:
            result = action()
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            data = raw.recv(65536)
            incoming.write(data) if data else incoming.write_eof()
            continue
        raw.sendall(outgoing.read())
        return result
drive(tls.do_handshake)
drive(lambda: tls.write(request))
try:
    tls.unwrap()
except ssl.SSLWantReadError:
    raw.sendall(outgoing.read())
answer = b''
while b'GET /half HTTP/1.1' not in answer:
    answer += drive(lambda: tls.read(65536))
with socket.create_connection(('127.0.0.1', port)) as raw:
    tls = context.wrap_socket(raw, server_hostname='shop.example.com')
    tls.sendall(request)
    assert b'200 OK' in tls.recv(65536)
    socket.socket(fileno=tls.detach()).close()
print('done')
";

#[test]
fn python_half_closes_and_leaves_without_a_word() {
    let server = Server::start("python", &[]);
    if !has("python3", "--version") {
        return;
    }
    let output = server.run_script("python3", &["-c", PYTHON]);
    assert!(text(&output.stdout).starts_with("done"), "{output:?}");
    assert_eq!(server.balancer.metric("ringway_tls_truncated_total"), 0, "it was no tunnel");
}

const NODE: &str = "
const [port, ca] = process.argv.slice(-2);
const https = require('https');
const options = {host: '127.0.0.1', port, path: '/node', servername: 'shop.example.com', ca: require('fs').readFileSync(ca),
  agent: new https.Agent({keepAlive: true}), headers: {Host: 'shop.example.com'}};
const get = (left) => https.get(options, (response) => {
  let body = '';
  response.on('data', (data) => body += data);
  response.on('end', () => {
    if (!body.startsWith('GET /node HTTP/1.1')) process.exit(1);
    if (left > 1) get(left - 1); else { console.log('done'); process.exit(0); }
  });
}).on('error', (error) => { console.error(error); process.exit(1); });
get(3);
";

#[test]
fn node_is_served() {
    let server = Server::start("node", &[]);
    if has("node", "--version") {
        let output = server.run_script("node", &["-e", NODE, "--"]);
        assert_eq!(text(&output.stdout), "done\n", "{output:?}");
    }
}

const JAVA: &str = r#"
import java.io.FileInputStream;
import java.net.*;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.*;

class Client {
    public static void main(String[] args) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(new FileInputStream(args[1])));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        Socket raw = new Socket("127.0.0.1", Integer.parseInt(args[0]));
        SSLSocket tls = (SSLSocket) context.getSocketFactory().createSocket(raw, "shop.example.com", raw.getPort(), true);
        SSLParameters parameters = tls.getSSLParameters();
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        tls.setSSLParameters(parameters);
        tls.getOutputStream().write("GET /java HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n".getBytes());
        String answer = new String(tls.getInputStream().readAllBytes());
        System.out.println(answer.contains("GET /java HTTP/1.1") ? "done" : answer);
    }
}
"#;

#[test]
fn java_is_served() {
    let server = Server::start("java", &[]);
    if has("java", "-version") {
        std::fs::write(server.certs.file("Client.java"), JAVA).expect("written");
        let output = server.run_script("java", &[&server.certs.file("Client.java").display().to_string()]);
        assert_eq!(text(&output.stdout), "done\n", "{output:?}");
    }
}

#[test]
fn a_request_in_plain_text_is_answered_in_plain_text() {
    let server = Server::start("plain", &[]);
    let answer = exchange(server.balancer.data, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this port speaks TLS"), "{answer}");
}

#[test]
fn bytes_of_a_tcp_listener_are_passed_on() {
    let server = Server::start("tcp", &["--mode", "tcp"]);
    let said = server.s_client(&["-servername", SHOP]);
    assert!(said.contains("GET /home HTTP/1.1"), "{said}");
}

#[test]
fn clients_are_sent_to_the_port_that_speaks_tls() {
    let (authority, certs) = (Authority::new(), Folder::new("redirect"));
    certs.add("shop", &authority.issue(&[SHOP], Kind::Ecdsa, 90));
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let file = certs.file("ringway.toml");
    let text = format!(
        "[listeners.a]\nbind = [\"127.0.0.1:0\"]\nredirect_to_https = true\n[listeners.b]\nbind = [\"{free}\"]\n\
         [listeners.b.tls]\ncertificates = \"{}\"\n[services.x]\nreplicas = 1\n",
        certs.path()
    );
    std::fs::write(&file, text).expect("written");
    let process = Process::start(&["run", "--admin", "off", "-c", file.to_str().expect("a path")], &[]);
    let answer = exchange(process.address, "GET /x?y HTTP/1.1\r\nHost: shop.example.com:80\r\n\r\n");
    let expected = format!("Location: https://shop.example.com:{}/x?y\r\n", free.port());
    assert!(answer.starts_with("HTTP/1.1 308 ") && answer.contains(&expected), "{answer}");
}

#[test]
fn a_certificate_of_our_own_serves_the_curl_line_that_is_printed() {
    let mut command = Command::new(RINGWAY);
    command.args(["run", "--tls", "--listen", "127.0.0.1:0", "--admin", "off", "--replicas", "1"]);
    let (mut process, mut lines) = Process::spawn_unread(command);
    let line = lines.next().expect("a second line").expect("text");
    let (_, curl) = line.split_once("curl ").unwrap_or_else(|| panic!("no curl line: {line}"));
    let curl: Vec<&str> = curl.split(' ').collect();
    let page = until(Instant::now() + TIMEOUT, "a replica", || {
        let output = Command::new("curl").args(["-sSf", "--noproxy", "*"]).args(&curl).output().expect("curl");
        output.status.success().then(|| text(&output.stdout))
    });
    assert_eq!(page, "Server ID: server1");
    let file = curl.get(1).expect("--cacert FILE");
    assert!(Path::new(file).exists(), "{file}");
    process.signal("TERM");
    process.wait();
    assert!(!Path::new(file).exists(), "{file} is left");
}

/// What an authority's responder says of a certificate, made by OpenSSL's.
fn ocsp_response(server: &Server, status: &str) {
    let Server { certs, authority, .. } = server;
    let cert = certs.file("shop.crt").display().to_string();
    let serial = Command::new("openssl").args(["x509", "-noout", "-serial", "-in", &cert]).output().expect("openssl");
    let serial = text(&serial.stdout).trim().replace("serial=", "");
    let revoked = if status == "R" { "250101000000Z" } else { "" };
    certs.write("index", &format!("{status}\t390101000000Z\t{revoked}\t{serial}\tunknown\t/CN=shop\n"));
    certs.write("ca.secret", &authority.key);
    let [index, key, new] = ["index", "ca.secret", ".ocsp"].map(|name| certs.file(name).display().to_string());
    let ca = server.ca();
    let mut openssl = Command::new("openssl");
    openssl
        .args(["ocsp", "-index", &index, "-rsigner", &ca, "-rkey", &key, "-CA", &ca, "-issuer", &ca, "-cert", &cert]);
    let made = openssl.args(["-respout", &new, "-ndays", "7"]).output().expect("openssl");
    std::fs::rename(&new, certs.file("shop.ocsp")).unwrap_or_else(|_| panic!("no response: {made:?}"));
}

#[test]
fn a_response_of_ocsp_is_stapled_where_it_is_for_the_certificate() {
    let server = Server::start("ocsp", &[]);
    assert!(server.s_client(&["-status"]).contains("OCSP response: no response sent"));
    ocsp_response(&server, "V");
    server.await_log("listener default: certificate shop changed");
    for version in ["-tls1_2", "-tls1_3"] {
        let said = server.s_client(&["-status", version]);
        assert!(said.contains("Cert Status: good") && said.contains("Verify return code: 0 (ok)"), "{said}");
    }
    ocsp_response(&server, "R");
    server.await_log("shop.ocsp: it does not say that the certificate is good; it is not stapled");
    assert!(server.s_client(&["-status"]).contains("OCSP response: no response sent"));
}

/// A connection of OpenSSL's client that stays open: a page at each call.
struct Session {
    child: std::process::Child,
}

impl Session {
    fn open(address: SocketAddr) -> Session {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", &address.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Session { child: command.spawn().expect("openssl") }
    }

    fn get(&mut self) -> String {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(b"GET /kept HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is still there");
        support::read_response(self.child.stdout.as_mut().expect("piped")).0
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reload_takes_new_certificates_and_keeps_connections() {
    let server = Server::start("reload", &[]);
    let mut session = Session::open(server.balancer.data);
    assert!(session.get().starts_with("HTTP/1.1 200 "));
    server.certs.add("shop", &server.authority.issue(&["new.test", SHOP], Kind::Ecdsa, 30));
    server.certs.add("blog", &server.authority.issue(&["blog.test"], Kind::Ecdsa, 30));
    let (status, body) = server.reload();
    assert_eq!(status, 200, "{body}");
    for line in
        ["listener default: certificate shop changed, valid until 20", "certificate blog is new, valid until 20"]
    {
        assert!(body.contains(line), "{line} is missing from {body}");
    }
    assert_eq!(server.subject(&["-servername", SHOP]), "CN=new.test");
    assert_eq!(server.subject(&["-servername", "blog.test"]), "CN=blog.test");
    assert!(session.get().starts_with("HTTP/1.1 200 "), "the connection is still the same");
    let page = server.balancer.get("/metrics").text;
    let gauge = "ringway_tls_certificate_expiry_timestamp_seconds{listener=\"default\",certificate=\"blog\"} 1";
    assert!(page.contains(gauge), "{page}");
    server.await_log("listener default: certificate shop expires in 29 days");
}

#[test]
fn a_reload_with_a_pair_that_cannot_be_used_changes_nothing() {
    let server = Server::start("refused", &[]);
    let other = server.authority.issue(&[SHOP], Kind::Ecdsa, 30);
    server.certs.write("shop.key", &other.key);
    let (status, body) = server.reload();
    let why = "shop.key: it is not the key of the certificate";
    assert!(status == 400 && body.contains("--tls: ") && body.contains(why), "{body}");
    server.await_log("reload: refused; the configuration in force stays");
    server.certs.add("shop", &server.authority.issue(&["late.test", SHOP], Kind::Ecdsa, -1));
    let (status, body) = server.reload();
    assert!(status == 400 && body.contains("shop.crt: it has expired, and the one in force has not"), "{body}");
    assert_eq!(server.subject(&["-servername", SHOP]), "CN=shop.example.com");
}

#[test]
fn files_that_change_are_taken_in_pair_by_pair_without_a_reload() {
    let server = Server::start("watch", &[]);
    server.certs.write("shop.key", "nothing");
    server.certs.add("blog", &server.authority.issue(&["blog.test"], Kind::Ecdsa, 90));
    server.await_log("shop.key: no private key is in it; the certificate before stays in force");
    assert_eq!(server.balancer.metric("ringway_tls_certificates_refused"), 1);
    server.await_log("listener default: certificate blog is new");
    assert_eq!(server.subject(&["-servername", "blog.test"]), "CN=blog.test");
    assert_eq!(server.subject(&["-servername", SHOP]), "CN=shop.example.com");
    server.certs.add("shop", &server.authority.issue(&["new.test", SHOP], Kind::Ecdsa, 90));
    server.await_log("listener default: certificate shop changed");
    assert_eq!(server.subject(&["-servername", SHOP]), "CN=new.test");
    until(Instant::now() + TIMEOUT, "nothing to be refused", || {
        (server.balancer.metric("ringway_tls_certificates_refused") == 0).then_some(())
    });
    assert_eq!(server.log.read().matches("shop.key: no private key").count(), 1, "it is said once");
}

/// Each message is echoed, until `ends`. Returns how many were.
fn converse(server: &Server, ends: Arc<AtomicBool>) -> JoinHandle<usize> {
    let stream = pki::connect(server.authority.client_config(), SHOP, connect(server.balancer.data));
    let (mut socket, _) = tungstenite::client(format!("wss://{SHOP}/chat"), stream).expect("the upgrade is granted");
    std::thread::spawn(move || {
        assert_eq!(socket.read().expect("a greeting"), Message::text("hello from /chat"));
        for sent in 0.. {
            if ends.load(Ordering::Relaxed) {
                socket.close(None).expect("sent");
                assert!(matches!(socket.read(), Ok(Message::Close(_))), "the end is answered");
                return sent;
            }
            socket.send(Message::text(format!("message {sent}"))).expect("sent");
            assert_eq!(socket.read().expect("an echo"), Message::text(format!("message {sent}")));
        }
        unreachable!("it ends when it is told to")
    })
}

/// A hundred times, by SIGHUP or because the files were looked at: the last certificate is the one that is served.
#[test]
fn certificates_that_change_under_load_disturb_no_request_and_no_websocket() {
    const ROUNDS: usize = 100;
    const WEBSOCKETS: usize = 4;
    // Files are looked at every two seconds.
    const WATCHED: [usize; 2] = [ROUNDS / 2, ROUNDS - 1];
    let server = Server::start("load", &["--workers", "2"]);
    if !has("wrk", "-v") {
        return;
    }
    let ends = Arc::new(AtomicBool::new(false));
    let websockets: Vec<_> = (0..WEBSOCKETS).map(|_| converse(&server, ends.clone())).collect();
    let url = format!("https://{}/", server.balancer.data);
    let mut wrk = Command::new("wrk");
    let mut wrk = wrk.args(["-t1", "-c16", "-d10m", &url]).stdout(Stdio::piped()).spawn().expect("wrk");
    let look = || {
        let names =
            ["ringway_tls_certificate_expiry_timestamp_seconds", "ringway_reloads_total", "ringway_requests_total"];
        server.balancer.metrics(names)
    };
    let mut before = look();
    for (round, days) in (0..ROUNDS).zip(100..) {
        let name = format!("round-{round}.test");
        server.certs.add("shop", &server.authority.issue(&[&name, SHOP], Kind::Ecdsa, days));
        let is_reload = !WATCHED.contains(&round);
        if is_reload {
            server.balancer.process.signal("HUP");
        }
        before = until(Instant::now() + TIMEOUT, &format!("the certificate of round {round}, and requests"), || {
            let [valid_until, reloads, requests] = look();
            let is_in_force = valid_until > before[0] && reloads == before[1] + u64::from(is_reload);
            (is_in_force && requests > before[2]).then_some([valid_until, reloads, requests])
        });
    }
    ends.store(true, Ordering::Relaxed);
    let echoed: Vec<usize> = websockets.into_iter().map(|one| one.join().expect("no message is lost")).collect();
    assert!(echoed.iter().all(|echoed| *echoed > 0), "{echoed:?}");
    assert!(wrk.try_wait().expect("our child").is_none(), "the load ended before the reloads");
    // It ends with its report.
    let interrupted = Command::new("kill").args(["-INT", &wrk.id().to_string()]).status();
    assert!(interrupted.expect("kill").success());
    let output = wrk.wait_with_output().expect("wrk ends");
    let report = text(&output.stdout);
    assert!(
        report.contains("requests in") && !report.contains("Socket errors") && !report.contains("Non-2xx"),
        "{report}"
    );
    let page = server.balancer.get("/metrics").text;
    let handshakes = format!("ringway_tls_handshakes_total{{result=\"full\"}} {}\n", 16 + WEBSOCKETS);
    assert!(page.contains(&handshakes), "a connection ended: {page}");
    assert_eq!(server.subject(&["-servername", SHOP]), format!("CN=round-{}.test", ROUNDS - 1));
}

#[test]
fn a_process_that_takes_over_reads_the_files_itself() {
    let (authority, certs) = (Authority::new(), Folder::new("upgrade"));
    std::fs::write(certs.file("ca.cert"), &authority.pem).expect("written");
    let shop = authority.issue(&[SHOP], Kind::Ecdsa, 90);
    certs.add("shop", &shop);
    let flags = ["--tls", certs.path(), "--replicas", "1"];
    let mut lineage = Lineage::start("tls-upgrade", Path::new(RINGWAY), &flags);
    let ca = certs.file("ca.cert").display().to_string();
    let address = lineage.first.data;
    let answer = || s_client(address, &ca, &["-servername", SHOP]);
    certs.write("shop.key", &authority.issue(&[SHOP], Kind::Ecdsa, 90).key);
    lineage.signal("USR2");
    lineage.await_line("ringway: --tls: ");
    lineage.await_line("shop.key: it is not the key of the certificate");
    assert_eq!(subject(&answer()), "CN=shop.example.com", "the process before serves on");
    certs.add("shop", &authority.issue(&["new.test", SHOP], Kind::Ecdsa, 90));
    until(Instant::now() + TIMEOUT, "the failed upgrade to end", || {
        (lineage.first.metric("ringway_upgrades_failed_total") == 1).then_some(())
    });
    lineage.upgrade();
    let said = answer();
    assert!(subject(&said) == "CN=new.test" && said.contains("Server ID: server1"), "{said}");
}

/// Clients of a listener that asks for certificates: one that it takes, one that its authority revokes, one of another authority.
struct Clients {
    server: Server,
    known: Issued,
    revoked: Issued,
}

impl Clients {
    /// `tls`: the table's keys beside its certificates; DIR stands for the folder.
    fn start(name: &str, tls: &str) -> Clients {
        let (authority, certs, log) = (Authority::new(), Folder::new(name), Log::new(&format!("tls-{name}")));
        let issue = |name: &str, authority: &Authority| {
            let issued = authority.issue(&[name], Kind::Ecdsa, 90);
            certs.add(name, &issued);
            issued
        };
        issue(SHOP, &authority);
        let [known, revoked] = ["known", "revoked"].map(|name| issue(name, &authority));
        let other = Authority::new();
        issue("foreign", &other);
        certs.write("ca.cert", &authority.pem);
        certs.write("both.cert", &(authority.pem.clone() + &other.pem));
        certs.write("crl", &authority.revocation_list(&[&revoked], 30));
        Clients::configure(&certs, tls);
        let mut command = Command::new(RINGWAY);
        command.stderr(log.file());
        let (origin, file) = (origin::start(echo).to_string(), certs.file("ringway.toml"));
        let flags = ["--replica", &origin, "-c", file.to_str().expect("a path"), "--workers", "1"];
        let balancer = Balancer::start_as(command, &flags);
        Clients { server: Server { balancer, authority, certs, log }, known, revoked }
    }

    fn configure(certs: &Folder, tls: &str) {
        let pair = format!("certificates = {{ cert = \"DIR/{SHOP}.crt\", key = \"DIR/{SHOP}.key\" }}");
        certs.write("ringway.toml", &format!("[tls]\n{pair}\n{tls}\n").replace("DIR", certs.path()));
    }

    fn reload(&self, tls: &str) -> String {
        Clients::configure(&self.server.certs, tls);
        let (status, body) = self.server.reload();
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Flags of OpenSSL's client; of curl's with two dashes.
    fn credentials(&self, name: &str, dashes: &str) -> Vec<String> {
        let file = |ending: &str| self.server.certs.file(&format!("{name}.{ending}")).display().to_string();
        vec![format!("{dashes}cert"), file("crt"), format!("{dashes}key"), file("key")]
    }

    /// Of the client with this name; `None`: of one without a certificate.
    fn curl(&self, client: Option<&str>, flags: &[&str]) -> Output {
        let own = client.map_or_else(Vec::new, |name| self.credentials(name, "--"));
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        self.server.curl(&flags, "/home")
    }

    fn is_served(&self, client: Option<&str>) -> bool {
        let served = ["1.2", "1.3"].map(|version| {
            let output = self.curl(client, &["--tlsv1.2", "--tls-max", version]);
            assert_eq!(output.status.success(), !output.stdout.is_empty(), "{output:?}");
            output.status.success()
        });
        assert_eq!(served[0], served[1], "{client:?}: the versions of TLS differ");
        served[0]
    }

    /// What OpenSSL's client says, which the listener takes.
    fn s_client(&self, version: &str, flags: &[&str]) -> String {
        let own = self.credentials("known", "-");
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let said = self.server.s_client(&[&[version], &flags[..]].concat());
        assert!(said.contains("GET /home HTTP/1.1"), "{version}: {said}");
        said
    }
}

const REQUIRED: &str = "client_auth = \"required\"\nclient_ca = \"DIR/ca.cert\"";
const OPTIONAL: &str = "client_auth = \"optional\"\nclient_ca = \"DIR/ca.cert\"";
const LISTED: &str = "client_auth = \"required\"\nclient_ca = \"DIR/ca.cert\"\ncrl = \"DIR/crl\"";

#[test]
fn a_certificate_is_required_or_optional_and_never_one_of_another_authority() {
    let clients = Clients::start("client-auth", REQUIRED);
    assert!(!clients.is_served(None));
    clients.server.await_log("127.0.0.1: TLS handshake failed: peer sent no certificates");
    let served = |clients: &Clients| [Some("known"), None, Some("foreign")].map(|client| clients.is_served(client));
    assert_eq!(served(&clients), [true, false, false]);
    let said = clients.server.s_client(&["-tls1_3"]);
    assert!(said.contains("certificate required") && !said.contains("GET /home"), "{said}");
    let optional = Clients::start("client-auth-optional", OPTIONAL);
    assert!(!optional.is_served(Some("foreign")));
    // Both authorities have the same name.
    optional.server.await_log("127.0.0.1: TLS handshake failed: invalid peer certificate: BadSignature");
    assert_eq!(served(&optional), [true, true, false]);
}

/// Lines of a head that say something of a certificate.
fn cert_lines(head: &[u8]) -> Vec<String> {
    let head = text(head);
    let is_of_certificate = |line: &&str| line.to_ascii_lowercase().replace('_', "-").starts_with("client-cert");
    head.lines().filter(is_of_certificate).map(str::to_owned).collect()
}

#[test]
fn replicas_are_told_of_the_certificate_and_never_of_one_that_a_client_made_up() {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let clients = Clients::start("client-cert", OPTIONAL);
    let Clients { server, known, .. } = &clients;
    let line = |issued: &Issued| format!("Client-Cert: :{}:", BASE64_STANDARD.encode(issued.der()));
    let names: Vec<String> = (0..80).map(|n| format!("{n:03}.clients-of-a-long-name.example.com")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let long = server.authority.issue(&names, Kind::Ecdsa, 90);
    assert!((3_000..4_096).contains(&long.der().len()), "{} bytes", long.der().len());
    server.certs.add("long", &long);
    let forged = ["-H", "Client-Cert: :AAAA:", "-H", "client_cert: x", "-H", "Client-Cert-Chain: :AAAA:"];
    // Most of what a head may have, and a body that fills the buffer behind it.
    let cookie = format!("Cookie: {}", "c".repeat(12 * 1024));
    let body = "b".repeat(100 * 1024);
    let large = ["-H", &cookie, "-H", "Expect:", "--data-binary", &body];
    for (client, expected) in [(Some("known"), Some(line(known))), (Some("long"), Some(line(&long))), (None, None)] {
        for flags in [&[][..], &forged, &large] {
            let output = clients.curl(client, flags);
            assert!(output.status.success(), "{client:?}: {}", text(&output.stderr));
            let head = text(&output.stdout);
            assert!(head.contains(" /home HTTP/1.1\r\n"), "{head}");
            assert_eq!(cert_lines(head.as_bytes()), expected.iter().cloned().collect::<Vec<_>>(), "{client:?}");
            assert_eq!(head.ends_with(&body), flags == large, "{client:?}");
        }
    }
    let again = format!("https://{SHOP}:{}/2", server.port());
    let kept = clients.curl(Some("known"), &[&again, "-w", "\n%{num_connects}\n"]);
    assert_eq!(cert_lines(&kept.stdout), vec![line(known); 2], "each request of a connection");
    assert!(text(&kept.stdout).contains("\n0\n"), "it was one connection: {}", text(&kept.stdout));
    // A trusted proxy in front of us, which is asked for a certificate of its own, says nothing of its clients'.
    let tls = format!("{OPTIONAL}\n[forwarded]\ntrust = \"keep\"");
    clients.reload(&tls);
    assert_eq!(cert_lines(&clients.curl(None, &forged).stdout), Vec::<String>::new());
    clients.reload("[forwarded]\ntrust = \"keep\"");
    assert_eq!(cert_lines(&clients.curl(None, &forged).stdout).len(), 3, "no certificate is asked for");
}

#[test]
fn a_certificate_is_refused_once_a_list_says_that_it_is_revoked() {
    let clients = Clients::start("revoked", LISTED);
    assert!(!clients.is_served(Some("revoked")));
    clients.server.await_log("127.0.0.1: TLS handshake failed: invalid peer certificate: Revoked");
    assert!(clients.is_served(Some("known")));
    // A new list is taken in without a reload, and one that cannot be read leaves it in force.
    let Clients { server, known, revoked } = &clients;
    server.certs.write("crl", &server.authority.revocation_list(&[known, revoked], 30));
    server.await_log("listener default: which certificates of clients are taken changed");
    assert!(!clients.is_served(Some("known")));
    server.certs.write("crl", "nothing");
    server.await_log("no revocation list (X509 CRL) is in it; what was read before stays in force");
    assert!(!clients.is_served(Some("known")));
    let (status, body) = server.reload();
    let file = server.certs.file("crl");
    let why = format!("--tls-crl: {}: no revocation list (X509 CRL) is in it", file.display());
    assert!(status == 400 && body.contains(&why), "{body}");
    assert!(!clients.is_served(Some("known")));
}

#[test]
fn no_session_is_resumed_behind_a_change_of_what_clients_are_asked() {
    let clients = Clients::start("client-tickets", REQUIRED);
    let session = clients.server.certs.file("session").display().to_string();
    let both = "client_auth = \"required\"\nclient_ca = \"DIR/both.cert\"";
    for version in ["-tls1_2", "-tls1_3"] {
        for (before, after) in
            [(REQUIRED, OPTIONAL), (OPTIONAL, REQUIRED), (REQUIRED, both), (REQUIRED, LISTED), (OPTIONAL, "")]
        {
            clients.reload(before);
            clients.s_client(version, &["-sess_out", &session]);
            clients.reload(before);
            let resumed = clients.s_client(version, &["-sess_in", &session]);
            assert!(resumed.contains("Reused, TLS"), "{version}: {resumed}");
            assert_eq!(
                cert_lines(resumed.as_bytes()).len(),
                1,
                "{version}: it is told of a resumed session too: {resumed}"
            );
            let changed = clients.reload(after);
            assert!(changed.contains("listener default: which certificates of clients are taken changed"), "{changed}");
            let fresh = clients.s_client(version, &["-sess_in", &session]);
            assert!(fresh.contains("New, TLS"), "{version}: {before} to {after}: {fresh}");
        }
    }
}

#[test]
fn a_session_of_an_open_listener_does_not_pass_for_a_certificate_at_another() {
    let (authority, certs) = (Authority::new(), Folder::new("two-policies"));
    certs.add("shop", &authority.issue(&[SHOP], Kind::Ecdsa, 90));
    certs.write("ca.cert", &authority.pem);
    let free = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [open, closed] = free.map(|free| free.local_addr().expect("bound"));
    let (folder, session) = (certs.path(), certs.file("session").display().to_string());
    let file = certs.file("ringway.toml");
    let auth = format!("client_auth = \"required\", client_ca = \"{folder}/ca.cert\"");
    let text = format!(
        "[listeners.open]\nbind = [\"{open}\"]\ntls = {{ certificates = \"{folder}\" }}\n[listeners.closed]\n\
         bind = [\"{closed}\"]\ntls = {{ certificates = \"{folder}\", {auth} }}\n[services.x]\nreplicas = 1\n"
    );
    std::fs::write(&file, text).expect("written");
    let process = Process::start(&["run", "--admin", "off", "-c", file.to_str().expect("a path")], &[]);
    let ca = certs.file("ca.cert").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let said = s_client(open, &ca, &[version, "-sess_out", &session]);
        assert!(said.contains("HTTP/1.1 "), "{said}");
        let again = s_client(open, &ca, &[version, "-sess_in", &session]);
        assert!(again.contains("Reused, TLS"), "{version}: {again}");
        let refused = s_client(closed, &ca, &[version, "-sess_in", &session]);
        assert!(!refused.contains("Reused, TLS") && !refused.contains("HTTP/1.1 "), "{version}: {refused}");
    }
    drop(process);
}

#[test]
fn every_mistake_about_clients_is_named() {
    let (authority, certs) = (Authority::new(), Folder::new("client-mistakes"));
    certs.write("ca", &authority.pem);
    certs.write("crl", &authority.revocation_list(&[], 30));
    certs.write("torn", &authority.revocation_list(&[], 30).replacen("MI", "AA", 1));
    certs.write("empty", "");
    let required = "client_auth = \"required\"\n";
    let cases = [
        (required.to_owned(), "--tls-client-auth needs --tls-client-ca"),
        ("client_ca = \"DIR/ca\"\n".into(), "--tls-client-ca needs --tls-client-auth optional or required"),
        ("client_auth = \"off\"\ncrl = \"DIR/crl\"\n".into(), "--tls-crl needs --tls-client-auth optional or required"),
        ("client_auth = \"yes\"\n".into(), "want off, optional or required"),
        (format!("{required}client_ca = \"DIR/no\"\n"), "client_ca: DIR/no: it cannot be read: No such file"),
        (format!("{required}client_ca = \"DIR/crl\"\n"), "client_ca: DIR/crl: no certificate is in it"),
        (
            format!("{required}client_ca = \"DIR/ca\"\ncrl = \"DIR/no\"\n"),
            "crl: DIR/no: it cannot be read: No such file",
        ),
        (
            format!("{required}client_ca = \"DIR/ca\"\ncrl = \"DIR/empty\"\n"),
            "crl: DIR/empty: no revocation list (X509 CRL)",
        ),
        (format!("{required}client_ca = \"DIR/ca\"\ncrl = \"DIR/torn\"\n"), "crl: DIR/torn: list 1 cannot be parsed: "),
    ];
    let here = |text: &str| text.replace("DIR", certs.path());
    for (tls, why) in cases {
        let lines = mistakes(&certs, &format!("certificates = \"self-signed\"\n{}", here(&tls)));
        assert!(lines.len() == 1 && lines[0].contains(&here(why)), "{tls}: {lines:#?}");
    }
    let good = format!("certificates = \"self-signed\"\n{required}client_ca = \"DIR/ca\"\ncrl = \"DIR/crl\"\n");
    assert!(mistakes(&certs, &here(&good)).is_empty());
}

/// Each pair that cannot be used is named with its file, the place of the setting, and the reason.
#[test]
fn every_mistake_in_certificates_is_named() {
    let (authority, certs) = (Authority::new(), Folder::new("mistakes"));
    let shop = authority.issue(&[SHOP], Kind::Ecdsa, 90);
    let other = authority.issue(&["other.test"], Kind::Ecdsa, 90);
    certs.add("good", &shop);
    certs.add("mismatch", &Issued { cert: shop.cert.clone(), key: other.key.clone() });
    certs.write("alone.crt", &shop.cert);
    certs.write("nocert.key", &shop.key);
    certs.add("empty", &Issued { cert: String::new(), key: shop.key.clone() });
    certs.add("keyless", &Issued { cert: shop.cert.clone(), key: shop.cert.clone() });
    certs.add("chain", &Issued { cert: shop.cert.clone() + &other.cert, key: shop.key.clone() });
    certs.add("torn", &Issued { cert: shop.cert[..shop.cert.len() / 2].into(), key: shop.key.clone() });
    certs.write("pem.pem", &shop.cert);
    certs.write("both.pem", &format!("{}{}", other.cert, other.key));
    std::fs::create_dir(certs.file("folder.crt")).expect("made");
    let lines = mistakes(&certs, &format!("certificates = \"{}\"\n", certs.path()));
    let expected = [
        ("alone.key", "it cannot be read: No such file"),
        ("chain.crt", "its chain is incomplete: behind certificate 1 comes not its issuer, CN=test authority"),
        ("empty.crt", "no certificate is in it"),
        ("folder.crt", "it is not a regular file"),
        ("keyless.key", "no private key is in it"),
        ("mismatch.key", "it is not the key of the certificate"),
        ("nocert.crt", "it cannot be read: No such file"),
        ("pem.pem", "no private key is in it"),
        ("torn.crt", "this is not PEM"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (file, why)) in lines.iter().zip(expected) {
        let begin = format!("ringway.toml:4:1: listeners.secure.tls.certificates: {}", certs.file(file).display());
        assert!(line.contains(&begin) && line.contains(why), "{line}: not {file}: {why}");
    }
}

#[test]
fn a_key_that_every_user_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let (authority, certs) = (Authority::new(), Folder::new("exposed"));
    certs.add("good", &authority.issue(&[SHOP], Kind::Ecdsa, 90));
    let file = certs.file("ringway.toml");
    let text =
        format!("[listeners.secure]\nbind = [\"127.0.0.1:1443\"]\ntls = {{ certificates = \"{}\" }}\n", certs.path());
    std::fs::write(&file, text).expect("written");
    let warnings = |mode: u32| {
        std::fs::set_permissions(certs.file("good.key"), PermissionsExt::from_mode(mode)).expect("our file");
        let printed = self::text(&run(&["check", file.to_str().expect("a path")]).stdout);
        printed.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(warnings(0o640).is_empty());
    let [exposed] = &warnings(0o644)[..] else { panic!("one warning") };
    assert!(
        exposed.contains("good.key: its mode is 0644, every user of the machine can read or change it"),
        "{exposed}"
    );
}

#[test]
fn a_default_or_a_folder_without_certificates_is_named() {
    let (authority, certs, none) = (Authority::new(), Folder::new("default"), Folder::new("none"));
    certs.add("good", &authority.issue(&[SHOP], Kind::Ecdsa, 90));
    certs.add("nameless", &authority.issue(&[], Kind::Ecdsa, 90));
    let folder = format!("certificates = \"{}\"\n", certs.path());
    let cases = [
        (format!("{folder}default = \"shop\"\n"), "default: there is no pair shop; there are good, nameless"),
        (folder, "nameless: no DNS name is in its certificate"),
        (format!("certificates = \"{}\"\n", none.path()), "no NAME.crt with a NAME.key is in it"),
        ("certificates = \"/nowhere\"\n".into(), "/nowhere: it cannot be read: No such file"),
        ("certificates = []\n".into(), "certificates is missing"),
        ("min_version = \"1.3\"\n".into(), "certificates is missing"),
        ("certificates = [{ cert = \"a\" }]\n".into(), "want a folder of NAME.crt and NAME.key"),
        ("certificates = \"self-signed\"\nmin_version = \"1.1\"\n".into(), "want 1.2 or 1.3"),
        ("certificates = [\"self-signed\", \"/x\"]\n".into(), "self-signed stands beside other certificates"),
    ];
    for (tls, why) in cases {
        let lines = mistakes(&none, &tls);
        assert!(lines.len() == 1 && lines[0].contains(why), "{tls}: {lines:#?}");
    }
    let list = format!(
        "certificates = [{{ cert = \"{0}/good.crt\", key = \"{0}/good.key\" }}, \"{0}/nameless.pem\"]\ndefault = \"nameless\"\n",
        certs.path()
    );
    let pem =
        [".crt", ".key"].map(|ending| std::fs::read_to_string(certs.file(&format!("nameless{ending}"))).expect("PEM"));
    std::fs::write(certs.file("nameless.pem"), pem.concat()).expect("written");
    assert!(mistakes(&none, &list).is_empty());
}

/// What `ringway check` says of a listener with this table.
fn mistakes(folder: &Folder, tls: &str) -> Vec<String> {
    let file = folder.file("ringway.toml");
    std::fs::write(&file, format!("[listeners.secure]\nbind = [\"127.0.0.1:1443\"]\n[listeners.secure.tls]\n{tls}"))
        .expect("written");
    let output = run(&["check", file.to_str().expect("a path")]);
    assert_eq!(output.status.success(), output.stderr.is_empty(), "{output:?}");
    text(&output.stderr).lines().map(str::to_owned).collect()
}
