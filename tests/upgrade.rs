//! SIGUSR2: a new process takes over the sockets of the old one, and no client notices. One that does not get ready changes
//! nothing.

mod support;

use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use support::balancer::{Balancer, ask, names};
use support::lineage::{Lineage, Program, is_alive, signal};
use support::{RINGWAY, TIMEOUT, connect, field, read_head, read_response, until};

const GET: &[u8] = b"GET /home HTTP/1.1\r\nHost: a\r\n\r\n";
const GET_ONE: &[u8] = b"GET /home HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Clients that ask without a pause: every second one on a new connection each time. A failure of any kind is a panic.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Load {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = |number: usize| {
            let (stop, answered) = (stop.clone(), answered.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let request = if number.is_multiple_of(2) { GET } else { GET_ONE };
                    use_connection(address, request, &stop, &answered);
                }
            })
        };
        let clients = (0..6).map(client).collect();
        Load { stop, answered, clients }
    }

    /// Waits for so many more answers.
    fn await_answers(&self, more: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        let is_there = || (self.answered.load(Ordering::Relaxed) >= wanted || self.has_failed()).then_some(());
        until(Instant::now() + TIMEOUT, "answers", is_there);
    }

    fn has_failed(&self) -> bool {
        self.clients.iter().any(JoinHandle::is_finished)
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("every request of this client is answered");
        }
    }
}

/// Until the balancer says that it closes the connection.
fn use_connection(address: SocketAddr, request: &[u8], stop: &AtomicBool, answered: &AtomicUsize) {
    let mut stream = connect(address);
    loop {
        stream.write_all(request).expect("the connection is open");
        let (head, body) = read_response(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(body.starts_with(b"Server ID: "), "{body:?}");
        answered.fetch_add(1, Ordering::Relaxed);
        if field(&head, "connection") == Some("close") || stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// What listens on a port, by the inodes of its sockets.
fn listening(port: u16) -> HashSet<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of sockets");
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = fields.filter(|fields| fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "0A");
    own.map(|fields| format!("socket:[{}]", fields[9])).collect()
}

fn descriptors(process: u32) -> HashSet<String> {
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).expect("our process");
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

fn children(process: u32) -> Vec<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    listed.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
}

#[test]
fn sessions_stay_where_they_began_over_an_upgrade() {
    let mut lineage = Lineage::start("upgrade-sticky", Path::new(RINGWAY), &["--sticky-cookie", "sid"]);
    let address = lineage.first.data;
    let get = |cookie: &str| {
        let request = format!("GET /home HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
        let mut stream = connect(address);
        stream.write_all(request.as_bytes()).expect("the connection is open");
        read_response(&mut stream).0
    };
    let sessions: Vec<(String, String)> = (0..10)
        .map(|_| {
            let head = get("");
            let cookie = field(&head, "set-cookie").and_then(|set| set.split(';').next()).expect("a new session");
            (cookie.to_owned(), field(&head, "x-server-id").expect("its replica").to_owned())
        })
        .collect();
    lineage.upgrade();
    for (cookie, replica) in sessions {
        let head = get(&cookie);
        assert_eq!((field(&head, "x-server-id"), field(&head, "set-cookie")), (Some(&*replica), None), "{head}");
    }
}

#[test]
fn what_an_operator_drained_and_weighted_is_so_after_an_upgrade() {
    let mut lineage = Lineage::start("upgrade-drained", Path::new(RINGWAY), &[]);
    let admin = lineage.first.admin;
    for name in ["server1", "server2", "server3"] {
        let drained = ask(admin, "PATCH", &format!("/replicas/{name}"), r#"{"state":"drain","weight":3}"#);
        assert_eq!(drained.status, 200, "{}", drained.text);
    }
    lineage.upgrade();
    let replicas = ask(admin, "GET", "/replicas", "").json["message"].clone();
    let known = |at: usize| (replicas[at]["state"].clone(), replicas[at]["weight"].clone());
    assert!((0..3).all(|at| known(at) == ("drained".into(), 3.into())), "{replicas}");
    assert_eq!(ask(admin, "PATCH", "/replicas/server2", r#"{"state":"up"}"#).status, 200);
    assert_eq!(field(&ask(lineage.first.data, "GET", "/home", "").head, "x-server-id"), Some("server2"));
}

#[test]
fn five_upgrades_under_load_fail_no_request() {
    let mut lineage = Lineage::start("upgrade-five", Path::new(RINGWAY), &["--workers", "2"]);
    let (data, admin) = (lineage.first.data, lineage.first.admin);
    let added = ask(admin, "POST", "/add", r#"{"n":1,"hostnames":["extra"]}"#);
    assert_eq!(added.status, 200, "{}", added.text);
    let load = Load::start(data);
    load.await_answers(100);
    let sockets = listening(data.port());
    for _ in 0..5 {
        lineage.upgrade();
        load.await_answers(100);
    }
    load.end();
    assert_eq!(listening(data.port()), sockets, "the same sockets are listened on");
    assert_eq!(names(&ask(admin, "GET", "/rep", "").json), ["server1", "server2", "server3", "extra"]);
    assert_eq!(lineage.first.process.wait().code(), Some(0), "the first drained");
    for replica in children(lineage.current) {
        let inherited: Vec<_> = descriptors(replica).intersection(&sockets).cloned().collect();
        assert!(inherited.is_empty(), "a replica has a listener: {inherited:?}");
    }
    assert!(lineage.log.read().lines().all(|line| !line.contains("ERROR")), "{}", lineage.log.read());
}

#[test]
fn an_upgrade_may_change_the_number_of_workers() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("upgrade-workers-{}.toml", std::process::id()));
    std::fs::write(&file, "workers = 2\n").expect("a writable folder");
    let mut lineage =
        Lineage::start("upgrade-workers", Path::new(RINGWAY), &["--config", file.to_str().expect("a plain path")]);
    let data = lineage.first.data;
    let load = Load::start(data);
    for (workers, sockets) in [(1, 2), (4, 4), (2, 4)] {
        std::fs::write(&file, format!("workers = {workers}\n")).expect("a writable folder");
        lineage.upgrade();
        load.await_answers(200);
        assert_eq!(listening(data.port()).len(), sockets, "with {workers} workers");
    }
    load.end();
    let _ = std::fs::remove_file(file);
}

/// What calls changed stays where the file says what it said before.
#[test]
fn an_upgrade_takes_in_another_number_of_replicas_and_another_runtime() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("upgrade-replicas-{}.toml", std::process::id()));
    let write = |text: &str| std::fs::write(&file, text).expect("a writable folder");
    write("replicas = 2\n");
    let path = file.to_str().expect("a plain path");
    let mut lineage = Lineage::start("upgrade-replicas", Path::new(RINGWAY), &["--config", path]);
    let (admin, load) = (lineage.first.admin, Load::start(lineage.first.data));
    assert_eq!(ask(admin, "POST", "/add", r#"{"n":1,"hostnames":["extra"]}"#).status, 200);
    let listed = support::origin::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nServer ID: all").is_ok()
    });
    let named = listed.to_string();
    for (text, expected) in [
        ("replicas = 2\n", vec!["server1", "server2", "extra"]),
        ("replicas = 4\n", vec!["server1", "server2", "extra", "server3"]),
        ("replicas = 1\n", vec!["server1"]),
        (&format!("replica = [\"{named}\"]\n"), vec![&*named]),
    ] {
        write(text);
        lineage.upgrade();
        load.await_answers(100);
        assert_eq!(names(&ask(admin, "GET", "/rep", "").json), expected, "{text}");
    }
    load.end();
    let _ = std::fs::remove_file(file);
}

#[test]
fn a_program_that_fails_to_start_leaves_the_old_one_serving() {
    let program = Program::new("upgrade-broken");
    let lineage = Lineage::start("upgrade-broken", &program.0, &[]);
    program.replace_by_script("exit 1");
    let load = Load::start(lineage.first.data);
    lineage.signal("USR2");
    lineage.await_line("ended before it was ready: exit status: 1");
    load.await_answers(100);
    load.end();
    std::fs::remove_file(&program.0).expect("our file");
    lineage.signal("USR2");
    lineage.await_line("the upgrade failed, this process serves on: it cannot be started");
    assert_eq!(lineage.first.metric("ringway_upgrades_failed_total"), 2);
    let added = lineage.first.ask("POST", "/add", r#"{"n":1}"#);
    assert_eq!(added.status, 200, "calls are taken again: {}", added.text);
}

#[test]
fn a_program_that_hangs_is_ended_and_the_next_upgrade_succeeds() {
    let program = Program::new("upgrade-hangs");
    let mut lineage = Lineage::start("upgrade-hangs", &program.0, &["--upgrade-timeout", "2s"]);
    // What it starts has the sockets too.
    program.replace_by_script("sleep 1000; exit");
    lineage.signal("USR2");
    let hung = until(Instant::now() + TIMEOUT, "the new process", || {
        let log = lineage.log.read();
        log.split("SIGUSR2: process ").nth(1)?.split(' ').next()?.parse::<u32>().ok()
    });
    let started = until(Instant::now() + TIMEOUT, "its child", || children(hung).first().copied());
    lineage.signal("USR2");
    lineage.await_line("SIGUSR2: no upgrade: an upgrade is under way already");
    let refused = lineage.first.ask("POST", "/add", r#"{"n":1}"#);
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.text.contains("an upgrade is under way"), "{}", refused.text);
    lineage.await_line("it was not ready within 2000 ms");
    assert!(!is_alive(hung), "it was ended");
    until(Instant::now() + TIMEOUT, "the end of its child", || (!is_alive(started)).then_some(()));
    std::fs::remove_file(&program.0).expect("our file");
    std::fs::hard_link(RINGWAY, &program.0).expect("a link beside our binary");
    lineage.upgrade();
}

#[test]
fn a_signal_to_stop_ends_the_old_process_and_the_new_one_that_is_not_ready() {
    let program = Program::new("upgrade-stopped");
    let mut lineage = Lineage::start("upgrade-stopped", &program.0, &[]);
    program.replace_by_script("exec sleep 1000");
    lineage.signal("USR2");
    lineage.await_line("SIGUSR2: process ");
    let before = children(lineage.current);
    assert_eq!(before.len(), 4, "three replicas and the new process");
    lineage.signal("TERM");
    assert_eq!(lineage.first.process.wait().code(), Some(0), "{}", lineage.log.read());
    until(Instant::now() + TIMEOUT, "every child to end", || {
        (!before.iter().any(|child| is_alive(*child))).then_some(())
    });
}

#[test]
fn a_balancer_that_drains_does_not_upgrade() {
    let lineage = Lineage::start("upgrade-drains", Path::new(RINGWAY), &["--shutdown-delay", "10m"]);
    lineage.signal("TERM");
    lineage.await_line("SIGTERM: draining in");
    lineage.signal("USR2");
    lineage.await_line("SIGUSR2: no upgrade: this balancer is stopping");
}

#[test]
fn a_request_under_way_is_finished_by_the_process_that_took_it() {
    let (sender, held) = std::sync::mpsc::channel();
    let origin = support::origin::start(move |_, stream| {
        let _ = sender.send(stream.try_clone().expect("a descriptor"));
        true
    });
    let origin = origin.to_string();
    let mut lineage = Lineage::start("upgrade-held", Path::new(RINGWAY), &["--replica", &origin]);
    let mut client = connect(lineage.first.data);
    client.write_all(GET).expect("it reads");
    let mut upstream = held.recv_timeout(TIMEOUT).expect("the request came");
    lineage.upgrade();
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("the old process waits");
    let (head, body) = read_response(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"ok", "{head}");
    assert_eq!(field(&head, "connection"), Some("close"), "{head}");
    assert_eq!(lineage.first.process.wait().code(), Some(0));
}

#[test]
fn the_admin_socket_and_its_file_are_passed_on() {
    use std::os::unix::net::UnixStream;
    let path = std::env::temp_dir().join(format!("ringway-upgrade-{}.sock", std::process::id()));
    let log = support::Log::new("upgrade-admin");
    let mut command = std::process::Command::new(RINGWAY);
    let admin = format!("unix:{}", path.display());
    command.args(["run", "--listen", "127.0.0.1:0", "--admin", &admin]).stderr(log.file());
    let process = support::Process::spawn(command);
    process.await_replicas();
    let data = process.address;
    let mut lineage = Lineage::of(Balancer { process, data, admin: data }, log);
    lineage.upgrade();
    assert_eq!(lineage.first.process.wait().code(), Some(0));
    let mut stream = UnixStream::connect(&path).expect("the file is still there");
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is served");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    lineage.signal("TERM");
    until(Instant::now() + TIMEOUT, "the file to be removed", || (!path.exists()).then_some(()));
}

#[test]
fn a_successor_whose_predecessor_is_killed_serves() {
    let program = Program::new("upgrade-orphan");
    let mut lineage = Lineage::start("upgrade-orphan", &program.0, &[]);
    let data = lineage.first.data;
    // It waits for a line on a pipe before it becomes a balancer, so that its predecessor is gone by then.
    let gate = program.0.with_extension("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status().expect("mkfifo");
    assert!(made.success());
    program.replace_by_script(&format!("read line < {}; exec {RINGWAY} \"$@\"", gate.display()));
    lineage.signal("USR2");
    lineage.await_line("SIGUSR2: process ");
    let log = lineage.log.read();
    let new = log.split("SIGUSR2: process ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    signal(lineage.current, "KILL");
    lineage.current = new.expect("a process id");
    lineage.first.process.wait();
    std::fs::write(&gate, "go\n").expect("it reads");
    lineage.await_line("taken over from process");
    let mut stream = connect(data);
    stream.write_all(GET_ONE).expect("it listens");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    let _ = std::fs::remove_file(gate);
}

/// What it adopts before it fails is still the old one's.
#[test]
fn a_successor_that_fails_leaves_the_admin_sockets_file() {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("ringway-upgrade-fails-{}.sock", std::process::id()));
    let file = folder.join(format!("ringway-upgrade-fails-{}.toml", std::process::id()));
    let admin = format!("[admin]\nadmin = \"unix:{}\"\n", path.display());
    std::fs::write(&file, &admin).expect("a writable folder");
    let log = support::Log::new("upgrade-fails");
    let mut command = std::process::Command::new(RINGWAY);
    command.args(["run", "--listen", "127.0.0.1:0", "--config"]).arg(&file).stderr(log.file());
    let process = support::Process::spawn(command);
    process.await_replicas();
    let data = process.address;
    let mut lineage = Lineage::of(Balancer { process, data, admin: data }, log);
    // The next one adopts the admin socket, and then reaches no engine.
    let docker = format!("runtime = \"docker\"\n[docker]\nhost = \"unix:///nowhere\"\n{admin}");
    std::fs::write(&file, docker).expect("a writable folder");
    lineage.signal("USR2");
    lineage.await_line("ended before it was ready: exit status: 2");
    assert!(path.exists(), "{}", lineage.log.read());
    lineage.signal("TERM");
    assert_eq!(lineage.first.process.wait().code(), Some(0));
    assert!(!path.exists());
    let _ = std::fs::remove_file(file);
}
