//! Replicas that a source lists: each source is followed through change, failure, emptiness and restart under requests, none
//! of which may fail.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use support::balancer::ask;
use support::followed::{CONFIRM, Followed, Replica, TestFile};
use support::{TIMEOUT, run, until};

fn lines(replicas: &[&Replica]) -> String {
    replicas.iter().map(|replica| format!("{}\n", replica.address())).collect()
}

#[test]
fn a_file_is_followed_and_its_faults_cost_no_request() {
    let [a, b, c] = [(); 3].map(|()| Replica::start());
    let file = TestFile::new("list");
    file.write(&lines(&[&a, &b]));
    let followed = Followed::start("source-file", &["--runtime", "file", "--source-path", file.path()]);
    followed.await_replicas(&[&a, &b]);
    followed.under_load(|| {
        file.replace(&lines(&[&b, &c]));
        followed.await_replicas(&[&b, &c]);
        file.write(&format!("{}\n{}", c.address(), "127.0.0.1:8"));
        followed.await_log(":2: the last line has no end");
        assert_eq!(followed.source()["state"], "lost");
        followed.await_replicas(&[&b, &c]);
        std::fs::remove_file(file.path()).expect("removed");
        until(Instant::now() + TIMEOUT, "the error", || {
            followed.source()["last_error"].as_str()?.contains("cannot be read").then_some(())
        });
        followed.await_replicas(&[&b, &c]);
        // Everything at once: those before serve until the new one answers.
        file.replace(&format!("[{{\"address\": \"{}\", \"name\": \"web\", \"weight\": 3}}]", a.address()));
        followed.await_names(&["web"]);
        followed.await_log("it answers again, after");
    });
    let log = followed.log.read();
    assert_eq!(log.matches("stays until it answers").count(), 1, "a failure is told once:\n{log}");
    assert_eq!(followed.replica("web")["weight"], 3);
    assert_eq!(followed.source()["state"], "following");
    assert!(followed.balancer.metric("ringway_source_errors_total") > 0);
    assert_eq!(followed.balancer.metric("ringway_source_up"), 1);
    assert!(followed.balancer.get("/metrics").text.contains("ringway_source_age_seconds{service=\"default\"} "));
}

#[test]
fn an_empty_file_is_believed_when_it_stays_empty() {
    let [a, b] = [(); 2].map(|()| Replica::start());
    let file = TestFile::new("empty");
    file.write(&lines(&[&a, &b]));
    let followed = Followed::start("source-empty", &["--runtime", "file", "--source-path", file.path()]);
    followed.await_replicas(&[&a, &b]);
    followed.under_load(|| {
        file.replace("[]");
        followed.await_log("it lists nothing, and had 2 servers");
        file.replace(&lines(&[&a]));
        followed.await_log("its empty answer was not believed");
        followed.await_replicas(&[&a]);
    });
    file.replace("[]");
    followed.await_replicas(&[]);
    followed.await_log("it listed nothing");
    assert_eq!(ask(followed.balancer.data, "GET", "/home", "").status, 503);
    file.replace(&lines(&[&b]));
    followed.await_replicas(&[&b]);
}

/// What an operator decided about a replica holds while it is listed.
#[test]
fn a_removed_replica_stays_away_until_it_is_put_back() {
    let [a, b, c] = [(); 3].map(|()| Replica::start());
    let file = TestFile::new("removed");
    file.write(&lines(&[&a, &b]));
    let followed = Followed::start("source-removed", &["--runtime", "file", "--source-path", file.path()]);
    followed.await_replicas(&[&a, &b]);
    let named = format!("{{\"n\":1,\"hostnames\":[\"{}\"]}}", a.address());
    assert_eq!(followed.balancer.ask("DELETE", "/rm", &named).status, 200);
    followed.await_replicas(&[&b]);
    file.replace(&format!("{}@2\n{}\n{}\n", a.address(), b.address(), c.address()));
    followed.await_replicas(&[&b, &c]);
    let answer = followed.balancer.ask("POST", "/add", &named);
    assert_eq!(answer.status, 200, "{}", answer.text);
    followed.await_replicas(&[&a, &b, &c]);
    until(Instant::now() + TIMEOUT, "its weight as it is listed", || {
        (followed.replica(&a.name())["weight"] == 2).then_some(())
    });
}

/// A port that no connection gets by itself, so that a server finds it free at each restart.
fn port_that_stays_free() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 200) as u16 * 100;
    let is_free = |port: &u16| {
        TcpListener::bind(("127.0.0.1", *port)).is_ok() && std::net::UdpSocket::bind(("127.0.0.1", *port)).is_ok()
    };
    let mut ports = std::iter::repeat_with(|| first + TAKEN.fetch_add(1, Ordering::Relaxed)).take(100);
    ports.find(is_free).expect("a free port below those of connections")
}

/// A server under Debian's dnsmasq, which reads its records from a file when it is started.
struct Dns {
    hosts: TestFile,
    port: u16,
    process: Option<Child>,
    more: Vec<String>,
}

impl Dns {
    fn start(name: &str, records: &str, more: &[&str]) -> Dns {
        let port = port_that_stays_free();
        let more = more.iter().map(|flag| (*flag).into()).collect();
        let mut dns = Dns { hosts: TestFile::new(name), port, process: None, more };
        dns.restart(records);
        dns
    }

    fn restart(&mut self, records: &str) {
        self.stop();
        self.hosts.write(records);
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
            "--local=/internal/",
        ]);
        command.args([
            "--user=root",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--local-ttl=1",
            "--pid-file=",
        ]);
        command
            .arg(format!("--port={}", self.port))
            .arg(format!("--addn-hosts={}", self.hosts.path()))
            .args(&self.more);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.process = Some(child.expect("dnsmasq is installed by .ci/run (dnsmasq-base)"));
        until(Instant::now() + TIMEOUT, "dnsmasq to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok().then_some(())
        });
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn resolver(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Replicas at these loopback addresses, all with one port.
fn replicas_with_one_port<const N: usize>(addresses: [&str; N]) -> ([Replica; N], u16) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let at = |ip: &str| Replica::at(SocketAddr::new(ip.parse().expect("an address"), free));
    (addresses.map(at), free)
}

fn hosts(ips: &[&str]) -> String {
    ips.iter().map(|ip| format!("{ip} shop.internal\n")).collect()
}

#[test]
fn addresses_of_a_name_are_followed_and_faults_of_dns_cost_no_request() {
    let ([a, b, c], port) = replicas_with_one_port(["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let mut dns = Dns::start("hosts", &hosts(&["127.0.0.2", "127.0.0.3"]), &[]);
    let (resolver, port) = (dns.resolver(), port.to_string());
    let source = ["--runtime", "dns", "--source-name", "shop.internal", "--source-port", &port];
    let followed = Followed::start("source-dns", &[&source[..], &["--source-resolver", &resolver]].concat());
    followed.await_replicas(&[&a, &b]);
    followed.under_load(|| {
        dns.restart(&hosts(&["127.0.0.3", "127.0.0.4"]));
        followed.await_replicas(&[&b, &c]);
        // No answer, then an answer that there is no such name, then everything at once.
        dns.stop();
        followed.await_state("lost");
        followed.await_replicas(&[&b, &c]);
        dns.restart("");
        followed.await_log("it lists nothing, and had 2 servers");
        dns.restart(&hosts(&["127.0.0.2"]));
        followed.await_replicas(&[&a]);
    });
    dns.restart("");
    followed.await_replicas(&[]);
}

#[test]
fn srv_records_bring_port_weight_and_priority() {
    let [a, b, backup] = [(); 3].map(|()| Replica::start());
    let record = |replica: &Replica, priority: u32, weight: u32| {
        format!("--srv-host=_http._tcp.shop.internal,one.internal,{},{priority},{weight}", replica.address().port())
    };
    let records = [record(&a, 10, 60), record(&b, 10, 20), record(&backup, 20, 1)];
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let dns = Dns::start("srv", "127.0.0.1 one.internal\n", &records);
    let resolver = dns.resolver();
    let source = ["--runtime", "dns", "--source-name", "_http._tcp.shop.internal"];
    let followed = Followed::start("source-srv", &[&source[..], &["--source-resolver", &resolver]].concat());
    followed.await_replicas(&[&a, &b]);
    let weight = |replica: &Replica| followed.replica(&replica.name())["weight"].as_u64();
    assert_eq!((weight(&a), weight(&b)), (Some(3), Some(1)));
}

#[test]
fn a_reload_changes_the_source_and_keeps_what_both_list() {
    let [a, b, c] = [(); 3].map(|()| Replica::start());
    let (one, two, config) = (TestFile::new("one"), TestFile::new("two"), TestFile::new("reload.toml"));
    one.write(&lines(&[&a, &b]));
    two.write(&lines(&[&b, &c]));
    let text = |path: &str| format!("runtime = \"file\"\n[source]\npath = \"{path}\"\nconfirm_empty = \"{CONFIRM}\"\n");
    config.write(&text(one.path()));
    let followed = Followed::start("source-reload", &["-c", config.path()]);
    followed.await_replicas(&[&a, &b]);
    let requests = || followed.replica(&b.name())["requests"].as_u64().unwrap_or_default();
    followed.under_load(|| {
        until(Instant::now() + TIMEOUT, "requests", || (requests() > 0).then_some(()));
        let before = requests();
        config.write(&text(two.path()));
        let answer = followed.balancer.ask("POST", "/reload", "");
        assert_eq!(answer.status, 200, "{}", answer.text);
        followed.await_replicas(&[&b, &c]);
        assert!(requests() >= before, "the same slot as before");
        config.write(&text("/nonexistent"));
        assert_eq!(followed.balancer.ask("POST", "/reload", "").status, 200);
        followed.await_state("lost");
        followed.await_replicas(&[&b, &c]);
    });
}

#[test]
fn what_is_wrong_about_a_source_is_named() {
    let file = TestFile::new("wrong.toml");
    for (text, wrong) in [
        ("runtime = \"file\"\n", "--source-path"),
        ("runtime = \"dns\"\n[source]\nname = \"shop.internal\"\n", "--source-port"),
        ("[services.shop]\nruntime = \"dns\"\n[services.shop.source]\nname = \"a..b\"\nport = 80\n", "services.shop"),
        ("runtime = \"dns\"\n[source]\nname = \"shop\"\nport = 80\nttl_min = \"5\"\n", "ttl_min"),
        ("runtime = \"file\"\nreplica = [\"10.0.0.1:80\"]\n[source]\npath = \"/a\"\n", "--replica"),
    ] {
        file.expect_refused(text, wrong);
    }
    let list = TestFile::new("wrong-list");
    list.write("10.0.0.1:80\n10.0.0.2\n");
    let one = format!("runtime = \"file\"\nsource = {{ path = \"{}\" }}\n", list.path());
    file.write(&one);
    let said = run(&["check", "-c", file.path()]);
    assert!(String::from_utf8_lossy(&said.stderr).contains(&format!("{}:2: ", list.path())), "{said:?}");
    file.write(&format!("[services.a]\n{one}[services.b]\n{one}"));
    let said = run(&["check", "-c", file.path()]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("name_prefix"), "{said:?}");
}
