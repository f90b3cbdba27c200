//! A real ACME server, pebble, with a DNS server of its own in which every name is this machine: both are ended with this.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::pki::{Authority, Folder, Kind};
use super::{TIMEOUT, exchange, until};

pub struct AcmeServer {
    /// Its configuration, and room for a test.
    pub folder: Folder,
    /// Where it connects to when it checks a name.
    pub http: SocketAddr,
    pub tls: SocketAddr,
    api: SocketAddr,
    management: SocketAddr,
    dns: SocketAddr,
    dns_management: SocketAddr,
    servers: Vec<Child>,
}

impl AcmeServer {
    /// Not started yet. `None`: it is not installed.
    pub fn new(name: &str) -> Option<AcmeServer> {
        let has = |program: &&str| {
            Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        if let Some(missing) = ["pebble", "pebble-challtestsrv"].iter().find(|program| !has(program)) {
            eprintln!("no {missing} here: NOT TESTED");
            return None;
        }
        let (folder, authority) = (Folder::new(&format!("acme-{name}")), Authority::new());
        folder.add("server", &authority.issue(&["localhost", "127.0.0.1"], Kind::Ecdsa, 30));
        folder.write("ca.pem", &authority.pem);
        let [http, tls, api, management, dns, dns_management] = free_addresses();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": api.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": folder.file("server.crt"),
            "privateKey": folder.file("server.key"),
            "httpPort": http.port(),
            "tlsPort": tls.port(),
        }});
        folder.write("pebble.json", &config.to_string());
        let mut server = AcmeServer { folder, http, tls, api, management, dns, dns_management, servers: Vec::new() };
        server.start_dns();
        Some(server)
    }

    fn start_dns(&mut self) {
        let (dns, management) = (self.dns.to_string(), self.dns_management.to_string());
        let mut command = Command::new("pebble-challtestsrv");
        command.args(["-dns01", &dns, "-management", &management, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        self.spawn(&mut command, &[self.dns, self.dns_management]);
    }

    /// So many of a hundred nonces are refused. It has no memory of a server before it.
    pub fn start(&mut self, refused_nonces: u32) {
        let mut command = Command::new("pebble");
        command.arg("-config").arg(self.folder.file("pebble.json")).args(["-dnsserver", &self.dns.to_string()]);
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", refused_nonces.to_string());
        // Each order is validated.
        command.env("PEBBLE_AUTHZREUSE", "0");
        self.spawn(&mut command, &[self.api, self.management]);
        let (management, root) = (self.management, self.root());
        let curl = || {
            let url = format!("https://{management}/roots/0");
            let got = Command::new("curl").args(["-sSfk", "--noproxy", "*", "-o", &root, &url]).status();
            got.expect("curl").success().then_some(())
        };
        until(Instant::now() + TIMEOUT, "its root", curl);
    }

    fn spawn(&mut self, command: &mut Command, addresses: &[SocketAddr]) {
        self.servers.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed"));
        for address in addresses {
            until(Instant::now() + TIMEOUT, "it listens", || TcpStream::connect(address).ok());
        }
    }

    /// The ACME server; names are still looked up.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.servers.get(1).is_some().then(|| self.servers.remove(1)) {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// The authority of what it issues since it was started last, for curl.
    pub fn root(&self) -> String {
        self.folder.file("root.pem").display().to_string()
    }

    pub fn storage(&self) -> String {
        self.folder.file("storage").display().to_string()
    }

    /// The part of the storage that is for this server.
    pub fn own_storage(&self) -> std::path::PathBuf {
        self.folder.file("storage").join(format!("{}-dir", self.api.to_string().replace(':', "-")))
    }

    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.api)
    }

    /// The table `[acme]`.
    pub fn table(&self) -> String {
        format!(
            "[acme]\ndirectory = \"{}\"\nstorage = \"{}\"\nca = \"{}\"\nemail = \"ops@example.com\"\n",
            self.directory(),
            self.storage(),
            self.folder.file("ca.pem").display()
        )
    }

    /// Where the name leads to, from now on.
    pub fn set_address(&self, name: &str, address: &str) {
        self.tell_dns("clear-a", &format!("{{\"host\":\"{name}.\"}}"));
        self.tell_dns("add-a", &format!("{{\"host\":\"{name}.\",\"addresses\":[\"{address}\"]}}"));
    }

    fn tell_dns(&self, call: &str, body: &str) {
        let head = format!("POST /{call} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nConnection: close", body.len());
        let answer = exchange(self.dns_management, format!("{head}\r\n\r\n{body}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{call}: {answer}");
    }
}

impl Drop for AcmeServer {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// All at once, so that they differ.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("bound"))
}
