//! Certificates from an ACME server, over real sockets: pebble issues them, curl and OpenSSL use them. Both challenges, several
//! names, restarts, renewals, a server that is away or refuses, upgrades, and what is said of settings that contradict.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use ringway::settings::AcmeSettings;
use support::acme::AcmeServer;
use support::balancer::{Balancer, admin_address};
use support::lineage::Lineage;
use support::pki::{Authority, Folder, Kind};
use support::{Log, Process, RINGWAY, TIMEOUT, exchange, origin, run, until};

const SHOP: &str = "shop.example.com";
const WWW: &str = "www.example.com";
const ISSUED: &str = "ACME: certificate shop.example.com is issued";

/// A balancer whose certificates are from an ACME server.
struct Served {
    balancer: Balancer,
    log: Log,
}

impl Served {
    /// `listeners` are tables of the file.
    fn start(name: &str, acme: &AcmeServer, listeners: &str) -> Served {
        write(acme, listeners);
        let log = Log::new(&format!("acme-{name}"));
        let mut command = Command::new(RINGWAY);
        command.arg("run").arg("-c").arg(acme.folder.file("ringway.toml")).args(["--admin", "127.0.0.1:0"]);
        let process = Process::spawn({
            command.stderr(log.file());
            command
        });
        let balancer = Balancer { data: process.address, admin: admin_address(&process), process };
        until(Instant::now() + TIMEOUT, "the replica", || (balancer.metric("ringway_replica_up") == 1).then_some(()));
        Served { balancer, log }
    }

    fn await_log(&self, line: &str) {
        until(Instant::now() + TIMEOUT, line, || self.log.read().contains(line).then_some(()));
    }

    fn reload(&self) {
        let response = self.balancer.ask("POST", "/reload", "");
        assert_eq!(response.status, 200, "{}", response.text);
    }

    /// Orders that brought a certificate, and those that failed.
    fn orders(&self) -> [u64; 2] {
        ["issued", "failed"].map(|result| {
            let page = self.balancer.get("/metrics").text;
            let line = format!("ringway_acme_orders_total{{result=\"{result}\"}} ");
            let value = page.lines().find_map(|one| one.strip_prefix(&line)).expect("it is exported");
            value.parse().expect("a number")
        })
    }

    fn stop(mut self) {
        self.balancer.process.signal("TERM");
        self.balancer.process.wait();
    }
}

/// The file of the balancer.
fn write(acme: &AcmeServer, listeners: &str) {
    let origin = origin::start(|_, stream| {
        use std::io::Write;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nshop").is_ok()
    });
    acme.folder.write("ringway.toml", &format!("replica = [\"{origin}\"]\n{}{listeners}", acme.table()));
}

/// A listener with TLS, where the ACME server looks, and its names.
fn listener(acme: &AcmeServer, names: &[&str], more: &str) -> String {
    format!("[listeners.secure]\nbind = [\"{}\"]\n[listeners.secure.tls]\nacme = {names:?}\n{more}", acme.tls)
}

/// A listener that sends all clients to the other one.
fn redirect(acme: &AcmeServer) -> String {
    format!("\n[listeners.plain]\nbind = [\"{}\"]\nredirect_to_https = true\n", acme.http)
}

/// A page, as a client gets it that takes certificates of this authority alone.
fn curl(acme: &AcmeServer, name: &str, authority: &str) -> Output {
    let port = acme.tls.port();
    let resolve = format!("{name}:{port}:127.0.0.1");
    let mut command = Command::new("curl");
    command.args(["-sSf", "--noproxy", "*", "--cacert", authority, "--resolve", &resolve]);
    command.arg(format!("https://{name}:{port}/home")).output().expect("curl")
}

fn is_served(acme: &AcmeServer, name: &str, authority: &str) -> bool {
    let page = curl(acme, name, authority);
    page.status.success() && page.stdout == b"shop"
}

/// Certificates are taken in within seconds after they were issued.
fn await_page(acme: &AcmeServer, name: &str) {
    let root = acme.root();
    until(Instant::now() + TIMEOUT, name, || is_served(acme, name, &root).then_some(()));
}

/// What `openssl s_client` says of a handshake.
fn s_client(acme: &AcmeServer, flags: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &acme.tls.to_string()]).args(flags).stdin(Stdio::null());
    let output = command.output().expect("openssl");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn the_first_certificate_comes_by_tls_alpn_from_a_server_that_was_away() {
    let Some(mut acme) = AcmeServer::new("alpn") else { return };
    let served = Served::start("alpn", &acme, &listener(&acme, &[SHOP], ""));
    served.await_log("ACME: certificate shop.example.com: client error (Connect)");
    assert!(served.log.read().contains("the next attempt comes in 6") || served.log.read().contains("comes in 7"));
    assert!(s_client(&acme, &["-servername", SHOP]).contains("CN = ringway placeholder"), "clients get one of our own");
    assert_eq!(served.balancer.get("/readyz").status, 200);
    acme.start(0);
    served.reload();
    await_page(&acme, SHOP);
    assert_eq!(served.orders(), [1, 1]);
    let refused = s_client(&acme, &["-servername", SHOP, "-alpn", "acme-tls/1"]);
    assert!(refused.contains("no peer certificate available"), "no challenge is pending: {refused}");
    let mode = |name: &str| std::fs::metadata(acme.own_storage().join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!(["shop.example.com.pem", "account-ops@example.com.json"].map(mode), [0o600; 2]);
    assert_eq!(mode(""), 0o700);
}

#[test]
fn a_certificate_for_two_names_comes_by_http_in_front_of_a_redirection_over_refused_nonces() {
    let Some(mut acme) = AcmeServer::new("http") else { return };
    acme.start(25);
    let names = listener(&acme, &[SHOP, WWW], "challenge = \"http-01\"\n");
    let served = Served::start("http", &acme, &(names + &redirect(&acme)));
    await_page(&acme, SHOP);
    await_page(&acme, WWW);
    assert_eq!(served.orders(), [1, 0]);
    let other = exchange(
        acme.http,
        format!("GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: {SHOP}\r\nConnection: close\r\n\r\n"),
    );
    assert!(other.starts_with("HTTP/1.1 308 "), "a token that is not pending is a path like any: {other}");
}

#[test]
fn a_restart_serves_what_is_stored_and_asks_for_nothing() {
    let Some(mut acme) = AcmeServer::new("restart") else { return };
    acme.start(0);
    let file = listener(&acme, &[SHOP], "");
    let served = Served::start("restart", &acme, &file);
    await_page(&acme, SHOP);
    served.stop();
    acme.stop();
    let served = Served::start("restarted", &acme, &file);
    assert!(is_served(&acme, SHOP, &acme.root()), "from the first connection on");
    served.reload();
    assert_eq!(served.orders(), [0, 0]);
    let log = served.log.read();
    assert!(!log.contains("ACME:"), "{log}");
}

#[test]
fn a_certificate_past_two_thirds_of_its_time_is_renewed_and_stays_until_then() {
    let Some(mut acme) = AcmeServer::new("renewal") else { return };
    let (authority, old) = (Authority::new(), acme.folder.file("old.pem").display().to_string());
    std::fs::write(&old, &authority.pem).expect("written");
    std::fs::create_dir_all(acme.own_storage()).expect("a folder");
    let issued = authority.issue(&[SHOP], Kind::Ecdsa, 60);
    std::fs::write(acme.own_storage().join(format!("{SHOP}.pem")), issued.cert + &issued.key).expect("written");
    let served = Served::start("renewal", &acme, &listener(&acme, &[SHOP], ""));
    served.await_log("the next attempt comes in");
    assert!(is_served(&acme, SHOP, &old), "a failure changes nothing");
    let before = served.balancer.metric("ringway_tls_certificate_expiry_timestamp_seconds");
    acme.start(0);
    served.reload();
    await_page(&acme, SHOP);
    assert_eq!(served.orders(), [1, 1]);
    assert!(served.balancer.metric("ringway_tls_certificate_expiry_timestamp_seconds") > before);
}

#[test]
fn a_validation_that_fails_is_said_with_its_reason_and_succeeds_when_it_can() {
    let Some(mut acme) = AcmeServer::new("validation") else { return };
    acme.start(0);
    acme.set_address(WWW, "127.0.0.9");
    let served = Served::start("validation", &acme, &listener(&acme, &[SHOP, WWW], ""));
    served.await_log("ACME: certificate shop.example.com: www.example.com: ");
    let log = served.log.read();
    let line = log.lines().find(|line| line.contains("the next attempt")).expect("it is there");
    assert!(line.contains("Failed to connect to 127.0.0.9:"), "{line}");
    assert_eq!(served.orders(), [0, 1]);
    acme.set_address(WWW, "127.0.0.1");
    served.reload();
    await_page(&acme, WWW);
    assert_eq!(served.orders(), [1, 1]);
}

#[test]
fn names_that_a_reload_adds_are_asked_for_and_the_certificate_before_stays_until_then() {
    let Some(mut acme) = AcmeServer::new("reload") else { return };
    acme.start(0);
    let served = Served::start("reload", &acme, &listener(&acme, &[SHOP], ""));
    await_page(&acme, SHOP);
    write(&acme, &listener(&acme, &[WWW, SHOP], ""));
    served.reload();
    assert!(is_served(&acme, SHOP, &acme.root()), "by the certificate before");
    await_page(&acme, WWW);
    assert!(is_served(&acme, SHOP, &acme.root()));
    assert_eq!(served.orders(), [2, 0]);
}

/// The server has forgotten the account.
#[test]
fn an_account_that_the_server_does_not_know_is_made_anew() {
    let Some(mut acme) = AcmeServer::new("account") else { return };
    acme.start(0);
    let served = Served::start("account", &acme, &listener(&acme, &[SHOP], ""));
    await_page(&acme, SHOP);
    acme.stop();
    acme.start(0);
    write(&acme, &listener(&acme, &[SHOP, WWW], ""));
    served.reload();
    await_page(&acme, WWW);
    assert!(served.log.read().contains("does not know our account"));
}

#[test]
fn the_process_that_takes_over_asks_from_then_on_and_for_nothing_twice() {
    let Some(mut acme) = AcmeServer::new("upgrade") else { return };
    acme.start(0);
    let Served { balancer, log } = Served::start("upgrade", &acme, &listener(&acme, &[SHOP], ""));
    await_page(&acme, SHOP);
    let mut lineage = Lineage::of(balancer, log);
    lineage.upgrade();
    assert!(is_served(&acme, SHOP, &acme.root()));
    write(&acme, &listener(&acme, &[SHOP, WWW], ""));
    lineage.signal("HUP");
    await_page(&acme, WWW);
    assert_eq!(lineage.log.read().matches(ISSUED).count(), 2);
}

#[test]
fn of_two_processes_with_one_folder_the_second_asks_when_the_first_has_ended() {
    let Some(mut acme) = AcmeServer::new("two") else { return };
    acme.start(0);
    let first = Served::start("two-first", &acme, &listener(&acme, &[SHOP], ""));
    await_page(&acme, SHOP);
    // Not where the server looks: its order fails.
    let elsewhere =
        "[listeners.secure]\nbind = [\"127.0.0.1:0\"]\n[listeners.secure.tls]\nacme = [\"www.example.com\"]\n";
    let second = Served::start("two-second", &acme, elsewhere);
    second.await_log("another process has it");
    second.reload();
    assert!(!second.log.read().contains("ACME: asking"), "{}", second.log.read());
    first.stop();
    second.await_log("ACME: certificate www.example.com: ");
    assert_eq!(second.orders(), [0, 1]);
}

#[test]
fn settings_that_contradict_are_named() {
    let folder = Folder::new("acme-settings");
    let check = |text: &str| {
        let file = folder.file("ringway.toml");
        std::fs::write(&file, format!("replica = [\"127.0.0.1:9000\"]\n{text}")).expect("written");
        let output = run(&["check", file.to_str().expect("a path")]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let secure = |tls: &str| {
        format!("[acme]\nstorage = \"/nowhere\"\n[listeners.a]\nbind = [\"127.0.0.1:443\"]\n[listeners.a.tls]\n{tls}\n")
    };
    let cases = [
        (
            "acme = [\"*.example.com\"]",
            "acme: `*.example.com` is not allowed: no challenge of ours proves a wildcard: name each host",
        ),
        ("acme = [\"192.0.2.7\"]", "acme: `192.0.2.7` is not allowed: an address gets no certificate here"),
        ("acme = [\"::1\"]", "an address gets no certificate here"),
        ("acme = [\"münchen.example\"]", "want the name as DNS has it, each label in ASCII"),
        ("acme = [\"a b\"]", "want the name of a host as DNS has it"),
        ("acme = [\"https://a.example\"]", "want the name of a host as DNS has it"),
        ("acme = [\"a.example\", \"A.example\"]", "--tls-acme a.example is given twice"),
        ("acme = []", "certificates is missing"),
        ("acme = [\"a.example\"]\ncertificates = \"self-signed\"", "--tls self-signed stands beside --tls-acme"),
        ("acme = [\"a.example\"]\nchallenge = \"dns-01\"", "want tls-alpn-01 or http-01; dns-01 is not supported"),
        (
            "acme = [\"a.example\"]\nchallenge = \"http-01\"",
            "warning: listener a has no listener of http at port 80, where an ACME server checks its names (http-01)",
        ),
        (
            "acme = [\"a.example\"]\n[listeners.b]\nbind = [\"127.0.0.1:1443\"]\n[listeners.b.tls]\nacme = [\"b.example\"]",
            "warning: listener b is not bound to port 443, where an ACME server checks its names (tls-alpn-01)",
        ),
        (
            "acme = [\"a.example\"]\n[listeners.b]\nbind = [\"127.0.0.1:1443\"]\n[listeners.b.tls]\nacme = [\"a.example\", \"b.example\"]",
            "a.example is the first name in listeners.a.tls.acme too",
        ),
    ];
    for (tls, why) in cases {
        let said = check(&secure(tls));
        assert!(said.contains(why), "{tls}: {said}");
    }
    let said = check(&secure("acme = [\"a.example\"]"));
    assert!(said.contains(" is valid: ") && !said.contains("warning"), "{said}");
    let acme = AcmeSettings {
        directory: "https://ca.example/dir".into(),
        email: None,
        storage: Some(folder.file("storage")),
        ca: None,
    };
    let broken = acme.folder().expect("a folder is set");
    std::fs::create_dir_all(&broken).expect("a folder");
    std::fs::write(broken.join("a.example.pem"), "").expect("written");
    let storage = folder.file("storage").display().to_string();
    let said = check(&format!(
        "[acme]\nstorage = \"{storage}\"\ndirectory = \"https://ca.example/dir\"\n[tls]\nacme = [\"a.example\"]\n"
    ));
    assert!(said.contains("a.example.pem: no private key is in it; remove it, and another is asked for"), "{said}");
    for (text, why) in [
        (
            "[listeners.a]\nbind = [\"127.0.0.1:443\"]\n[listeners.a.tls]\nacme = [\"a.example\"]\n",
            "--tls-acme needs --acme-storage",
        ),
        ("[tls]\nacme = [\"a.example\"]\n", "--tls-acme needs --acme-storage"),
        ("[acme]\nstorage = \"/nowhere\"\ndirectory = \"http://ca.example\"\n", "want a URL with https"),
        ("[acme]\nemail = \"ops\"\n", "want one address, like ops@example.com"),
        ("[acme]\nemail = \"../a@b.example\"\n", "want one address"),
        ("[acme]\nstorage = \"/nowhere\"\n", "--acme-storage has no effect without --tls-acme"),
        (
            "[acme]\nstorage = \"/nowhere\"\nca = \"/nowhere.pem\"\n[tls]\nacme = [\"a.example\"]\n",
            "acme.ca: /nowhere.pem: it cannot be read",
        ),
    ] {
        let said = check(text);
        assert!(said.contains(why), "{text}: {said}");
    }
    let output =
        run(&["run", "--tls-acme", "a.example", "--acme-storage", "/proc/nowhere", "--replica", "127.0.0.1:9"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--acme-storage: /proc/nowhere/"), "{said}");
}
