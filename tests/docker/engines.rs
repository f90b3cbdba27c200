//! An engine that ends and starts again: a second dockerd, with a socket, data and state of its own. The machine's engine
//! is not touched.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::balancer::{Balancer, TIMEOUT, call};
use crate::lab::{Lab, PREFIX, docker, run};
use crate::load::{SteadyClient, Wrk, failures};

/// The second engine's own default bridge. With `--bridge none` it would delete the machine's docker0.
const BRIDGE: &str = "rwtest0";

struct Engine {
    child: Child,
    folder: PathBuf,
    flags: Vec<String>,
}

impl Engine {
    fn start(name: &str, flags: &[&str]) -> Engine {
        let folder = PathBuf::from(format!("/var/tmp/{PREFIX}-{name}"));
        std::fs::create_dir_all(&folder).unwrap();
        // Not the settings of the machine's engine.
        std::fs::write(folder.join("daemon.json"), "{}").unwrap();
        run("ip", &["link", "add", BRIDGE, "type", "bridge"]);
        run("ip", &["address", "add", "10.231.255.1/24", "dev", BRIDGE]);
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let child = daemon(&folder, &flags);
        let mut engine = Engine { child, folder, flags };
        engine.wait();
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}/docker.sock", self.folder.display())
    }

    fn restart(&mut self) {
        self.child = daemon(&self.folder, &self.flags);
        self.wait();
    }

    /// `signal` is "-TERM", as a service manager sends it, or "-KILL".
    fn end(&mut self, signal: &str) {
        run("kill", &[signal, &self.child.id().to_string()]);
        self.child.wait().unwrap();
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while !Command::new("docker")
            .args(["-H", &self.host(), "version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < TIMEOUT, "the second dockerd does not come up:\n{log}");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Under live-restore they would run on, and their networks with them.
            let host = self.host();
            let remove = "docker -H $0 rm -fv $(docker -H $0 ps -aq); docker -H $0 network prune -f";
            run("sh", &["-c", remove, &host]);
            self.end("-TERM");
        }
        run("ip", &["link", "delete", BRIDGE]);
        for mount in mounts_below(&self.folder) {
            run("umount", &["-l", &mount]);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn daemon(folder: &Path, flags: &[String]) -> Child {
    let path = |name: &str| folder.join(name).display().to_string();
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    Command::new("dockerd")
        .args(["--host", &format!("unix://{}", path("docker.sock")), "--data-root", &path("data")])
        .args(["--exec-root", &path("exec"), "--pidfile", &path("pid"), "--config-file", &path("daemon.json")])
        // Its own bridges, and no change of the machine's firewall: host to container needs no rule.
        .args(["--bridge", BRIDGE, "--iptables=false", "--ip-masq=false"])
        .args(flags)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("dockerd is installed")
}

fn mounts_below(folder: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below = |line: &str| line.split(' ').nth(1).filter(|at| Path::new(at).starts_with(folder)).map(str::to_owned);
    table.lines().rev().filter_map(below).collect()
}

/// A lab whose containers run on `engine`; the image is copied from the machine's engine.
fn lab_on(engine: &Engine, topic: &str) -> Lab {
    let mut lab = Lab::new(topic);
    let copy = format!("docker save {} | docker -H {} load -q", lab.image, engine.host());
    assert!(run("sh", &["-c", &copy]), "{copy}");
    lab.host = Some(engine.host());
    lab
}

/// With live-restore containers run on without the daemon.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn no_request_fails_while_the_engine_restarts() {
    let mut engine = Engine::start("live", &["--live-restore"]);
    let lab = lab_on(&engine, "live");
    let mut balancer = Balancer::start(&lab, 3, &[]);
    let before = lab.identities();
    let (wrk, client) = (Wrk::start(balancer.data, 10), SteadyClient::start(balancer.data));
    let begun = Instant::now();
    engine.end("-TERM");
    let answer = balancer.admin("POST", "/add", r#"{"n":1}"#);
    assert_eq!(answer.status, 503, "{}", answer.body);
    engine.restart();
    balancer.wait("the connection to the engine", || balancer.log().contains("the engine is back"));
    let away = begun.elapsed();
    let (tally, samples) = (wrk.finish(), client.finish());
    let failed = tally.failed + failures(&samples) as u64;
    println!(
        "| engine restart, live-restore | {} | {failed} | {:.0} ms | away {:.1} s |",
        tally.sent,
        tally.slowest_ms,
        away.as_secs_f64()
    );
    assert_eq!(failed, 0, "{}", balancer.log());
    assert_eq!(lab.identities(), before, "the same containers");
    // Its events are followed again.
    let victim = balancer.names().remove(0);
    docker(&["-H", &engine.host(), "kill", &victim]);
    balancer.wait("the dead one's replacement", || lab.identities().len() == 3 && lab.identities() != before);
    assert_eq!(balancer.stop(), Some(0));
    assert!(lab.containers().is_empty());
}

/// What scripts/compose.yml mounts, of another engine: a mount of the socket itself would show a dead one.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_balancer_in_a_container_finds_its_engine_again_after_a_restart() {
    let mut engine = Engine::start("folder", &["--live-restore"]);
    let lab = lab_on(&engine, "folder");
    let compose = std::fs::read_to_string("scripts/compose.yml").unwrap();
    let item = |start: &str| compose.lines().find_map(|line| line.trim().strip_prefix("- ")?.strip_prefix(start));
    let mount = format!("{}{}", engine.folder.display(), item("/var/run").expect("the mount"));
    let host = item("--docker-host=").unwrap_or("unix:///var/run/docker.sock");
    let [data, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let (name, owner) = (lab.name(9), format!("{PREFIX}={}", lab.cluster));
    docker(
        &[
            &[
                "run",
                "-d",
                "--name",
                &name,
                "--label",
                &owner,
                "--network",
                "host",
                "--user",
                "0:0",
                "--cap-drop",
                "ALL",
            ][..],
            &["-v", &mount, &lab.image, "run", "--listen", &data.to_string(), "--admin", &admin.to_string()],
            &["--runtime", "docker", "--docker-host", host, "--docker-image", &lab.image, "--replicas", "2"],
            &["--docker-network", &lab.network, "--docker-subnet", &lab.subnet, "--docker-cluster", &lab.cluster],
        ]
        .concat(),
    );
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !condition() {
            let log = docker(&["logs", &name]);
            assert!(begun.elapsed() < TIMEOUT, "waited too long for {what}\n{log}");
        }
    };
    let answers = || call(data, "GET", "/home", "").is_some_and(|answer| answer.status == 200);
    until("the replicas", &|| answers() && lab.identities().len() == 2);
    engine.end("-TERM");
    engine.restart();
    let before = lab.identities();
    docker(&["-H", &engine.host(), "kill", &before[0]]);
    until("the dead one's replacement", &|| lab.identities().len() == 2 && lab.identities() != before);
    docker(&["stop", "-t", "30", &name]);
    assert!(lab.containers().is_empty());
}

/// Without live-restore, an engine that was killed ends its containers when it starts again.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn replicas_of_a_killed_engine_serve_until_it_is_back_and_are_then_replaced() {
    let mut engine = Engine::start("dies", &[]);
    let lab = lab_on(&engine, "dies");
    let mut balancer = Balancer::start(&lab, 3, &[]);
    let before = lab.identities();
    engine.end("-KILL");
    let (wrk, client) = (Wrk::start(balancer.data, 3), SteadyClient::start(balancer.data));
    let (tally, samples) = (wrk.finish(), client.finish());
    let failed = tally.failed + failures(&samples) as u64;
    println!("| engine killed | {} | {failed} | {:.0} ms | - |", tally.sent, tally.slowest_ms);
    assert_eq!(failed, 0, "{}", balancer.log());
    engine.restart();
    let begun = Instant::now();
    balancer.wait("three new ones", || {
        let now = lab.identities();
        now.len() == 3 && now.iter().all(|id| !before.contains(id)) && balancer.replicas_answering(3)
    });
    println!(
        "| engine back after a kill, its containers ended by it | - | - | - | {:.1} s |",
        begun.elapsed().as_secs_f64()
    );
    // An engine that was killed may fail to remove what it left: "unable to remove filesystem", status 500. That is named.
    let (status, left) = (balancer.stop(), lab.containers());
    let is_engines_fault = balancer.log().contains("unable to remove filesystem");
    match (status, is_engines_fault) {
        (Some(1), true) => assert!(balancer.log().contains("left behind, to be removed by hand"), "{left:?}"),
        (status, _) => assert_eq!((status, left), (Some(0), Vec::new()), "{}", balancer.log()),
    }
}

/// `DOCKER_HOST=tcp://...` with client certificates. Without one the start fails, with one line.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_remote_engine_is_reached_with_client_certificates() {
    let certificates = Certificates::make("tls");
    let at = |name: &str| format!("{}/{name}", certificates.0.display());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("tcp://127.0.0.1:{port}");
    let (ca, cert, key) = (at("ca.pem"), at("server-cert.pem"), at("server-key.pem"));
    let tls = ["--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key, "--host", &host];
    let engine = Engine::start("tls", &tls);
    let lab = lab_on(&engine, "tls");
    let folder = certificates.0.display().to_string();
    let given = [("DOCKER_HOST", host.as_str()), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", folder.as_str())];
    let balancer = Balancer::with_environment(&lab, &given);
    balancer.wait("replicas over TLS", || balancer.replicas_answering(3));
    assert!(balancer.log().contains(&host), "{}", balancer.log());
    drop(balancer);
    assert!(lab.containers().is_empty());
    let (status, log) = Balancer::with_environment(&lab, &given[..1]).fails();
    assert_eq!(status, Some(2), "{log}");
    assert!(log.lines().last().is_some_and(|line| line.contains(&host)), "{log}");
    let nowhere = [given[0], given[1], ("DOCKER_CERT_PATH", "/nonexistent")];
    let (status, log) = Balancer::with_environment(&lab, &nowhere).fails();
    assert_eq!(status, Some(2), "{log}");
    assert!(log.contains("/nonexistent/key.pem"), "{log}");
}

/// An authority, a server's and a client's certificate, in files named as the docker command has them.
struct Certificates(PathBuf);

impl Certificates {
    fn make(name: &str) -> Certificates {
        let made = Certificates(PathBuf::from(format!("/var/tmp/{PREFIX}-{name}-certificates")));
        std::fs::create_dir_all(&made.0).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        made.openssl(&format!("req -x509 {key} -keyout ca-key.pem -out ca.pem -subj /CN=ca -days 2"));
        for (who, prefix, extension) in [
            ("server", "server-", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth"),
            ("client", "", "extendedKeyUsage=clientAuth"),
        ] {
            std::fs::write(made.0.join("extension"), extension).unwrap();
            made.openssl(&format!("req {key} -keyout {prefix}key.pem -out request.pem -subj /CN={who}"));
            let signed = "-CA ca.pem -CAkey ca-key.pem -CAcreateserial -extfile extension -days 2";
            made.openssl(&format!("x509 -req -in request.pem {signed} -out {prefix}cert.pem"));
        }
        made
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An engine that hangs removes nothing: the end is bounded, fails, and names what stays.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn the_end_does_not_wait_for_an_engine_that_hangs() {
    let engine = Engine::start("hang", &[]);
    let lab = lab_on(&engine, "hang");
    let mut balancer = Balancer::start(&lab, 2, &[]);
    let daemon = engine.child.id().to_string();
    assert!(run("kill", &["-STOP", &daemon]));
    let (begun, status) = (Instant::now(), balancer.stop());
    let (took, log) = (begun.elapsed(), balancer.log());
    assert!(run("kill", &["-CONT", &daemon]));
    println!("the end with a hung engine: {:.1} s", took.as_secs_f64());
    assert_eq!(status, Some(1), "{log}");
    for name in lab.containers() {
        assert!(log.lines().any(|line| line.contains("left behind") && line.contains(&name)), "{name}: {log}");
    }
    for id in docker(&["-H", &engine.host(), "ps", "-aq"]).lines() {
        docker(&["-H", &engine.host(), "rm", "-f", "-v", id]);
    }
}
