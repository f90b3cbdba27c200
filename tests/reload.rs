//! A configuration that changes while requests are served: by SIGHUP and by POST /reload, whole or not at all.

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use support::balancer::{admin_address, ask};
use support::slow::{self, Slow};
use support::{Log, Process, RINGWAY, TIMEOUT, connect, field, read_response, try_connect, until};

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
    balancer.await_log("service blog: removed; its replicas drain");
}

/// Where routes are, the only service is no default of a listener that none of them is for.
#[test]
fn a_listener_that_no_route_is_for_leads_nowhere() {
    let (web, other) = (free_address(), free_address());
    let listeners = format!("[listeners.web]\nbind = [\"{web}\"]\n[listeners.other]\nbind = [\"{other}\"]\n");
    let route = "[services.shop]\nreplicas = 1\n[[routes]]\nservice = \"shop\"\nlisteners = [\"web\"]\n";
    let balancer = Reloadable::start("no-route", &format!("{listeners}{route}"));
    balancer.await_log("1 of 1 live");
    let [led, lost] = [web, other].map(|address| answer(&mut connect(address), "shop.test").0);
    assert_eq!((&*led, &*lost), ("HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"));
}

/// Two listeners of HTTP over the same servers; `more` goes.
fn two_listeners(web: SocketAddr, more: &str, slow: &Slow) -> String {
    let services = format!("[services.slow]\nreplica = [\"{}\"]\n", slow.address);
    format!("[listeners.web]\nbind = [\"{web}\"]\nservice = \"slow\"\n{more}{services}")
}

#[test]
fn connections_of_a_removed_listener_end_after_their_next_response() {
    let (web, more, slow) = (free_address(), free_address(), Slow::start());
    let removed = format!("[listeners.more]\nbind = [\"{more}\"]\nservice = \"slow\"\n");
    let balancer = Reloadable::start("listener", &two_listeners(web, &removed, &slow));
    balancer.await_log("1 of 1 live");
    let [mut idle, mut next, mut busy, mut stays] = [more, more, more, web].map(connect);
    let get = |client: &mut std::net::TcpStream| client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    for client in [&mut idle, &mut next, &mut stays] {
        get(client);
        slow::answer(slow.next());
        assert_eq!(field(&read_response(client).0, "connection"), None);
    }
    get(&mut busy);
    let upstream = slow.next();
    balancer.write(&two_listeners(web, "", &slow));
    let (status, body) = balancer.reload("");
    assert!(status == 200 && body.contains("listener more is removed"), "{body}");
    assert!(try_connect(more).is_err(), "the listener is closed");
    slow::answer(upstream);
    get(&mut next);
    slow::answer(slow.next());
    for mut client in [busy, next] {
        let (head, body) = read_response(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"slow", "{head}");
        assert_eq!(field(&head, "connection"), Some("close"));
        assert_eq!(client.read(&mut [0]).expect("a clean end"), 0, "that was its last response");
    }
    assert_eq!(idle.read(&mut [0]).expect("a clean end"), 0, "it sent nothing more");
    get(&mut stays);
    slow::answer(slow.next());
    assert_eq!(field(&read_response(&mut stays).0, "connection"), None, "the other listener is as before");
}

#[test]
fn tunnels_of_a_removed_listener_end_at_the_drain_timeout() {
    let (web, raw, slow) = (free_address(), free_address(), Slow::start());
    let tunnel = format!(
        "[listeners.raw]\nbind = [\"{raw}\"]\nmode = \"tcp\"\nservice = \"raw\"\n[services.raw]\nmode = \"tcp\"\nreplica = [\"raw={}\"]\n",
        slow.address
    );
    let limits = "[limits]\ndrain_timeout = \"300ms\"\n";
    let balancer = Reloadable::start("tunnel", &format!("{}{limits}", two_listeners(web, &tunnel, &slow)));
    balancer.await_log("1 of 1 live in raw");
    let mut client = connect(raw);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut server = slow.next();
    balancer.write(&format!("{}{limits}", two_listeners(web, "", &slow)));
    assert_eq!(balancer.reload("").0, 200);
    server.write_all(b"x").expect("the tunnel is still there");
    let mut byte = [0];
    client.read_exact(&mut byte).expect("bytes pass until the drain timeout");
    let end = client.read(&mut byte).expect_err("what is cut off must not look complete");
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_wrong_configuration_is_refused_with_every_mistake_and_changes_nothing() {
    let web = free_address();
    let balancer = Reloadable::start("wrong", &config(web, ""));
    balancer.await_log("1 of 1 live");
    balancer.write(&config(web, "colour = 1\n[health]\ninterval = \"fast\"\n"));
    let (status, body) = balancer.reload("");
    assert!(status == 400 && body.contains("colour") && body.contains("health.interval"), "{body}");
    let line = "reload: refused; the configuration in force stays";
    let last = |value: u8| {
        let metrics = ask(balancer.admin, "GET", "/metrics", "").text;
        metrics.contains(&format!("ringway_last_reload_successful {value}\n"))
    };
    let before = balancer.logged(line);
    balancer.process.signal("HUP");
    // Until then another reload would find this one under way.
    until(Instant::now() + TIMEOUT, line, || (balancer.logged(line) > before).then_some(()));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let in_use = taken.local_addr().expect("bound");
    balancer.write(&config(web, &format!("[listeners.more]\nbind = [\"{in_use}\"]\n")));
    let (status, body) = balancer.reload("");
    assert!(status == 400 && body.contains(&in_use.to_string()), "{body}");
    balancer.write(&config(web, "[services.other]\nprogram = [\"/nowhere/app\"]\n"));
    let (status, body) = balancer.reload("");
    assert!(status == 503 && body.contains("/nowhere/app"), "{body}");
    assert_eq!(answer(&mut connect(web), "any.test").1, "Server ID: server1");
    assert!(last(0));
    balancer.write(&config(web, ""));
    assert!(balancer.reload("").0 == 200 && last(1));
}

#[test]
fn what_cannot_change_while_it_runs_is_named() {
    let web = free_address();
    let balancer = Reloadable::start("later", &config(web, ""));
    balancer.await_log("1 of 1 live");
    let kept = "[limits]\nshutdown_delay = \"9s\"\n[access_log]\npath = \"/nowhere/access.log\"\n";
    balancer.write(&format!("workers = 1\n{kept}{}", config(web, "limits = { attempts = 2 }\n")));
    let (status, body) = balancer.reload("");
    let named = "\"needs_restart\":[\"workers\",\"access_log\",\"limits.shutdown_delay\"]";
    assert!(status == 200 && body.contains(named) && body.contains("service shop changed"), "{body}");
}

#[test]
fn a_service_that_is_to_have_another_runtime_is_named_and_nothing_changes() {
    let (web, more) = (free_address(), free_address());
    let balancer = Reloadable::start("runtime", &config(web, ""));
    balancer.await_log("1 of 1 live");
    let listed = config(web, &format!("[listeners.more]\nbind = [\"{more}\"]\n"))
        .replace("replicas = 1", "replica = [\"127.0.0.1:1\"]");
    balancer.write(&listed);
    for query in ["?dry_run=1", ""] {
        let (status, body) = balancer.reload(query);
        assert!(status == 400 && body.contains("service shop: its runtime is process and is to be fixed"), "{body}");
    }
    assert!(try_connect(more).is_err());
    assert_eq!(answer(&mut connect(web), "shop.test").1, "Server ID: server1");
}

#[test]
fn the_configuration_is_shown_without_secrets() {
    let secrets = "[docker]\nenv = [\"PASSWORD=hunter2\"]\n[health]\nheader = [\"Authorization: Bearer hunter2\"]\n";
    let balancer = Reloadable::start("shown", &config(free_address(), secrets));
    let shown = ask(balancer.admin, "GET", "/config", "").text;
    assert!(shown.contains("# env is set, and not shown") && shown.contains("[services.shop]"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// Requests one after another until it is dropped; each of them must be answered 200.
struct Trickle {
    stop: Arc<AtomicBool>,
    requests: Option<JoinHandle<usize>>,
}

impl Trickle {
    fn start(address: SocketAddr) -> Trickle {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let requests = std::thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                let answer = ask(address, "GET", "/home", "");
                assert_eq!(answer.status, 200, "request {count}: {}", answer.text);
                count += 1;
            }
            count
        });
        Trickle { stop, requests: Some(requests) }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.requests.take().map(|requests| requests.join().expect("no request was lost"));
        assert!(count > Some(0), "requests were sent");
    }
}

/// Three replicas that `sh` starts with `script`; `replica` in it is our own.
fn scripted(web: SocketAddr, script: &str) -> String {
    let script = script.replace("replica", &format!("{RINGWAY} replica"));
    let service = format!("[services.shop]\nreplicas = 3\nprogram = [\"/bin/sh\", \"-c\", '{script}']\n");
    format!("[listeners.web]\nbind = [\"{web}\"]\nservice = \"shop\"\n{service}")
}

impl Reloadable {
    /// Names and process ids of the replicas that are no longer or not yet on their way out.
    fn replicas(&self) -> Vec<(String, String)> {
        let all = ask(self.admin, "GET", "/replicas", "").json;
        let all = all["message"].as_array().expect("a list");
        let text = |replica: &serde_json::Value, key: &str| replica[key].as_str().unwrap_or_default().to_owned();
        let on_ring = all.iter().filter(|replica| replica["state"] != "draining");
        on_ring.map(|replica| (text(replica, "name"), text(replica, "handle"))).collect()
    }

    fn logged(&self, line: &str) -> usize {
        self.log.read().matches(line).count()
    }
}

#[test]
fn replicas_of_a_changed_program_are_replaced_one_at_a_time_and_no_request_is_lost() {
    let web = free_address();
    let balancer = Reloadable::start("rolling", &scripted(web, "exec replica"));
    balancer.await_log("3 of 3 live");
    let (before, trickle) = (balancer.replicas(), Trickle::start(web));
    balancer.write(&scripted(web, "exec replica # another"));
    let (status, body) = balancer.reload("?dry_run=1");
    assert!(status == 200 && body.contains("\"rolling\":[\"shop\"]"), "{body}");
    let (status, body) = balancer.reload("");
    assert!(status == 200 && body.contains("\"rolling\":[\"shop\"]"), "{body}");
    balancer.await_log("service shop: rolling replacement done: 3 replicas replaced");
    trickle.end();
    let after = balancer.replicas();
    assert_eq!(after.len(), 3, "{after:?}");
    assert!(before.iter().zip(&after).all(|(old, new)| old.0 == new.0 && old.1 != new.1), "{before:?} {after:?}");
    let (status, body) = balancer.reload("");
    assert!(status == 200 && body.contains("\"rolling\":[]"), "{body}");
    assert_eq!(balancer.replicas(), after, "nothing changed");
}

#[test]
fn a_program_that_does_not_come_up_twice_in_a_row_is_taken_back() {
    let web = free_address();
    let balancer = Reloadable::start("back", &scripted(web, "exec replica"));
    balancer.await_log("3 of 3 live");
    let (before, trickle) = (balancer.replicas(), Trickle::start(web));
    // It comes up once.
    let once = std::env::temp_dir().join(format!("ringway-reload-once-{}", std::process::id()));
    let script = format!("mkdir {} && exec replica; exit 3", once.display());
    balancer.write(&scripted(web, &script));
    assert_eq!(balancer.reload("").0, 200);
    balancer.await_log("rolling replacement stopped, two in a row did not come up");
    balancer.await_log("rolling replacement done: 1 replicas replaced");
    let _ = std::fs::remove_dir(&once);
    trickle.end();
    let log = balancer.log.read();
    let line = log.lines().find(|line| line.contains("rolling replacement stopped")).expect("it was logged");
    assert!(
        line.contains("ERROR") && line.contains("exit status 3") && line.contains("replaced were: server1"),
        "{line}"
    );
    let after = balancer.replicas();
    let same: Vec<bool> = before.iter().zip(&after).map(|(old, new)| old == new).collect();
    assert_eq!(same, [false, true, true], "{before:?} {after:?}");
    let refused = || ask(balancer.admin, "GET", "/services", "").json["message"][0]["refused"].clone();
    assert!(refused().as_str().is_some_and(|why| why.contains("exit status 3")), "{}", refused());
    let text = |path: &str| ask(balancer.admin, "GET", path, "").text;
    let comment = "# service shop: its replicas run with the settings before these: server";
    assert!(text("/config").contains(comment), "{}", text("/config"));
    assert!(text("/metrics").contains("ringway_settings_refused{service=\"shop\"} 1"));
    assert!(balancer.reload("?dry_run=1").1.contains("\"rolling\":[\"shop\"]"), "the file has them still");
    balancer.write(&scripted(web, "exec replica"));
    let (status, body) = balancer.reload("");
    assert!(status == 200 && body.contains("\"rolling\":[]"), "what runs is what the file says: {body}");
    assert!(refused().is_null() && !text("/config").contains(comment));
}

#[test]
fn replicas_are_asked_as_before_while_a_rolling_replacement_changes_their_heartbeat() {
    let web = free_address();
    let balancer = Reloadable::start("heartbeat", &scripted(web, "exec replica"));
    balancer.await_log("3 of 3 live");
    let (before, trickle) = (balancer.replicas(), Trickle::start(web));
    let health = "health = { path = \"/nowhere\", start_timeout = \"1s\" }\n";
    balancer.write(&(scripted(web, "exec replica # another") + health));
    assert_eq!(balancer.reload("").0, 200);
    balancer.await_log("rolling replacement stopped, two in a row did not come up");
    trickle.end();
    assert_eq!(balancer.replicas(), before);
    let all = ask(balancer.admin, "GET", "/replicas", "").json;
    let up = |replica: &serde_json::Value| replica["state"] == "up" || replica["state"] == "draining";
    assert!(all["message"].as_array().expect("a list").iter().all(up), "{all}");
}

#[test]
fn a_reload_during_a_rolling_replacement_wins() {
    let web = free_address();
    let balancer = Reloadable::start("newest", &scripted(web, "exec replica"));
    balancer.await_log("3 of 3 live");
    let trickle = Trickle::start(web);
    balancer.write(&scripted(web, "exec sleep 1000"));
    assert_eq!(balancer.reload("").0, 200);
    balancer.await_log("has other settings than it would get now: it is replaced");
    let metrics = ask(balancer.admin, "GET", "/metrics", "").text;
    assert!(metrics.contains("ringway_outdated_replicas{service=\"shop\"} 3"), "{metrics}");
    balancer.write(&scripted(web, "exec replica # the newest"));
    assert_eq!(balancer.reload("").0, 200);
    balancer.await_log("not replaced: there is a newer configuration");
    balancer.await_log("rolling replacement done: 3 replicas replaced");
    trickle.end();
    assert_eq!(balancer.logged("rolling replacement stopped"), 0);
    assert_eq!(balancer.replicas().len(), 3);
}

#[test]
fn what_an_operator_drained_stays_so() {
    let web = free_address();
    let balancer = Reloadable::start("drained", &config(web, ""));
    balancer.await_log("1 of 1 live");
    let patch = |body: &str| ask(balancer.admin, "PATCH", "/replicas/server1", body);
    let replica = || ask(balancer.admin, "GET", "/replicas", "").json["message"][0].clone();
    until(Instant::now() + TIMEOUT, "it to be up", || (replica()["state"] == "up").then_some(()));
    assert_eq!(patch(r#"{"state":"drain","weight":3}"#).status, 200);
    balancer.write(&config(web, "hash = { key = \"uri\" }\n"));
    assert!(balancer.reload("").1.contains("service shop changed"));
    let replica = replica();
    assert_eq!((&replica["state"], &replica["weight"]), (&"drained".into(), &3.into()), "{replica}");
    assert_eq!(ask(web, "GET", "/home", "").status, 503);
    assert_eq!(patch(r#"{"state":"up"}"#).status, 200);
    assert_eq!(ask(web, "GET", "/home", "").status, 200);
}

/// The policies of one service follow each other, and no request fails.
#[test]
fn the_policy_of_a_service_changes_under_load() {
    let web = free_address();
    let with = |settings: &str| config(web, settings).replacen("replicas = 1", "replicas = 3", 1);
    let balancer = Reloadable::start("policy", &with(""));
    balancer.await_log("3 of 3 live");
    let served = || {
        let replicas = ask(balancer.admin, "GET", "/replicas", "").json["message"].clone();
        [0, 1, 2].map(|at| replicas[at]["requests"].as_u64().expect("a number"))
    };
    let shown = || ask(balancer.admin, "GET", "/services", "").json["message"][0].clone();
    let load = Trickle::start(web);
    for (settings, policy, factor) in [
        ("policy = \"round-robin\"", "round-robin", None),
        ("policy = \"least-request\"", "least-request", None),
        ("hash = { key = \"uri\", ring = \"maglev\", balance_factor = 1.25 }", "hash", Some(1.25)),
        ("policy = \"random\"", "random", None),
        ("hash = { key = \"uri\" }", "hash", None),
        ("policy = \"round-robin\"", "round-robin", None),
    ] {
        balancer.write(&with(settings));
        let (status, body) = balancer.reload("");
        assert!(status == 200 && body.contains("service shop changed"), "{settings}: {body}");
        assert_eq!((&shown()["policy"], shown()["balance_factor"].as_f64()), (&policy.into(), factor));
        let before: u64 = served().iter().sum();
        until(Instant::now() + TIMEOUT, "requests by it", || {
            (served().iter().sum::<u64>() > before + 20).then_some(())
        });
    }
    load.end();
    let before = served();
    let mut client = connect(web);
    (0..30).for_each(|_| drop(answer(&mut client, "shop.test")));
    let after = served();
    assert_eq!(
        [0, 1, 2].map(|at| after[at] - before[at]),
        [10; 3],
        "a connection has one worker, whose turns are exact"
    );
    balancer.write(&with("policy = \"random\"\nhash = { balance_factor = 2 }\n"));
    let (status, body) = balancer.reload("");
    assert!(status == 400 && body.contains("needs --policy hash"), "{body}");
    assert_eq!(shown()["policy"], "round-robin");
}
