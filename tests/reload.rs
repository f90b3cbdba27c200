//! A configuration that changes while requests are served: by SIGHUP and by POST /reload, whole or not at all.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use support::balancer::{admin_address, ask};
use support::{Log, Process, RINGWAY, TIMEOUT, connect, read_response, try_connect, until};

/// A running balancer and its file.
struct Reloadable {
    file: PathBuf,
    admin: SocketAddr,
    process: Process,
    log: Log,
}

impl Reloadable {
    fn start(name: &str, text: &str) -> Reloadable {
        let file =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("reload-{}-{name}.toml", std::process::id()));
        std::fs::write(&file, text).expect("the folder of this test can be written");
        let log = Log::new(name);
        let mut command = Command::new(RINGWAY);
        command.args(["run", "-c"]).arg(&file).args(["--admin", "127.0.0.1:0"]).stderr(log.file());
        let process = Process::spawn(command);
        Reloadable { file, admin: admin_address(&process), process, log }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.file, text).expect("the file can be written");
    }

    /// Status and body.
    fn reload(&self, query: &str) -> (u16, String) {
        let response = ask(self.admin, "POST", &format!("/reload{query}"), "");
        (response.status, response.text)
    }

    fn await_log(&self, line: &str) {
        until(Instant::now() + TIMEOUT, line, || self.log.read().contains(line).then_some(()));
    }
}

impl Drop for Reloadable {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

/// The name of the replica that answers on this connection.
fn answer(stream: &mut std::net::TcpStream, host: &str) -> (String, String) {
    write!(stream, "GET /home HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("written");
    let (head, body) = read_response(stream);
    (head.lines().next().unwrap_or_default().to_owned(), String::from_utf8_lossy(&body).into_owned())
}

fn config(web: SocketAddr, rest: &str) -> String {
    format!("[listeners.web]\nbind = [\"{web}\"]\nservice = \"shop\"\n[services.shop]\nreplicas = 1\n{rest}")
}

#[test]
fn services_routes_and_listeners_change_under_a_connection_that_stays() {
    let (web, more) = (free_address(), free_address());
    let balancer = Reloadable::start("live", &config(web, ""));
    balancer.await_log("1 of 1 live");
    let mut client = connect(web);
    assert_eq!(answer(&mut client, "shop.test").1, "Server ID: server1");
    let blog = format!(
        "[services.blog]\nreplicas = 1\n[[routes]]\nhost = \"blog.test\"\nservice = \"blog\"\n[listeners.more]\nbind = [\"{more}\"]\nservice = \"blog\"\n"
    );
    balancer.write(&config(web, &blog));
    let (status, body) = balancer.reload("?dry_run=1");
    assert!(status == 200 && body.contains("service blog is new"), "{body}");
    assert!(try_connect(more).is_err(), "nothing was done");
    let (status, body) = balancer.reload("");
    assert!(status == 200 && body.contains("listener more is new"), "{body}");
    assert_eq!(answer(&mut client, "blog.test").1, "Server ID: server2", "on the same connection");
    assert_eq!(answer(&mut client, "shop.test").1, "Server ID: server1");
    assert_eq!(answer(&mut connect(more), "any.test").1, "Server ID: server2");
    balancer.write(&config(web, ""));
    balancer.process.signal("HUP");
    balancer.await_log("service blog is removed");
    assert_eq!(answer(&mut client, "blog.test").1, "Server ID: server1", "the connection is still the same");
    until(Instant::now() + TIMEOUT, "the listener is closed", || try_connect(more).is_err().then_some(()));
    assert!(balancer.log.read().contains("service blog: removed; its replicas drain"));
}

#[test]
fn a_wrong_configuration_is_refused_with_every_mistake_and_changes_nothing() {
    let web = free_address();
    let balancer = Reloadable::start("wrong", &config(web, ""));
    balancer.await_log("1 of 1 live");
    balancer.write(&config(web, "colour = 1\n[health]\ninterval = \"fast\"\n"));
    let (status, body) = balancer.reload("");
    assert!(status == 400 && body.contains("colour") && body.contains("health.interval"), "{body}");
    balancer.process.signal("HUP");
    balancer.await_log("reload: refused; the configuration in force stays");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let in_use = taken.local_addr().expect("bound");
    balancer.write(&config(web, &format!("[listeners.more]\nbind = [\"{in_use}\"]\n")));
    let (status, body) = balancer.reload("");
    assert!(status == 400 && body.contains(&in_use.to_string()), "{body}");
    balancer.write(&config(web, "[services.other]\nprogram = [\"/nowhere/app\"]\n"));
    let (status, body) = balancer.reload("");
    assert!(status == 503 && body.contains("/nowhere/app"), "{body}");
    assert_eq!(answer(&mut connect(web), "any.test").1, "Server ID: server1");
}

#[test]
fn what_cannot_change_while_it_runs_is_named() {
    let web = free_address();
    let balancer = Reloadable::start("later", &config(web, ""));
    balancer.await_log("1 of 1 live");
    balancer.write(&format!("workers = 1\n{}", config(web, "limits = { attempts = 2 }\n")));
    let (status, body) = balancer.reload("");
    assert!(
        status == 200 && body.contains("\"needs_restart\":[\"workers\"]") && body.contains("service shop changed"),
        "{body}"
    );
}

#[test]
fn the_configuration_is_shown_without_secrets() {
    let secrets = "[docker]\nenv = [\"PASSWORD=hunter2\"]\n[health]\nheader = [\"Authorization: Bearer hunter2\"]\n";
    let balancer = Reloadable::start("shown", &config(free_address(), secrets));
    let shown = ask(balancer.admin, "GET", "/config", "").text;
    assert!(shown.contains("# env is set, and not shown") && shown.contains("[services.shop]"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
