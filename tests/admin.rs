//! The admin API's contract, over real sockets of the real binary.

mod support;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::json;
use support::balancer::{Balancer, Response, admin_address, ask, names};
use support::{Log, Process, RINGWAY, TIMEOUT, connect, exchange, field, read_head, read_response, run, until};

#[test]
fn rep_add_and_rm_follow_the_contract() {
    let balancer = Balancer::start(&[]);
    let rep = balancer.get("/rep");
    assert_eq!(rep.text, r#"{"message":{"N":3,"replicas":["server1","server2","server3"]},"status":"successful"}"#);
    assert_eq!(field(&rep.head, "content-type"), Some("application/json"));

    let added = balancer.ask("POST", "/add", r#"{"n":4,"hostnames":["S5","S4"]}"#);
    assert_eq!(added.status, 200);
    assert_eq!(names(&added.json), ["server1", "server2", "server3", "S5", "S4", "server4", "server5"]);
    assert_eq!(balancer.up(), 7, "the answer came when all take requests");
    assert_eq!(balancer.get("/rep").json, added.json);

    let removed = balancer.ask("DELETE", "/rm", r#"{"n":3,"hostnames":["S5"]}"#);
    let left = names(&removed.json);
    assert_eq!((removed.status, left.len()), (200, 4));
    assert!(!left.contains(&"S5".into()));
    assert_eq!(names(&balancer.ask("POST", "/rm", r#"{"n":1}"#).json).len(), 3, "POST is taken too");
}

#[test]
fn no_request_after_the_answer_to_rm_reaches_a_removed_replica() {
    let balancer = Balancer::start(&["--workers", "2"]);
    for round in 0..10 {
        let name = format!("gone{round}");
        let body = json!({"n": 1, "hostnames": [name]}).to_string();
        assert_eq!(balancer.ask("POST", "/add", &body).status, 200);
        assert_eq!(balancer.ask("DELETE", "/rm", &body).status, 200);
        for _ in 0..20 {
            let home = ask(balancer.data, "GET", "/home", "");
            assert_eq!(home.status, 200);
            assert_ne!(field(&home.head, "x-server-id"), Some(&*name));
        }
    }
}

#[test]
fn a_rejected_call_gives_the_reason_and_changes_nothing() {
    let balancer = Balancer::start(&["--max-replicas", "5"]);
    let big = format!(r#"{{"n":1,"hostnames":["{}"]}}"#, "x".repeat(70_000));
    let before = balancer.get("/rep").text;
    for (method, path, body, status, message) in [
        (
            "POST",
            "/add",
            r#"{"n":1,"hostnames":["a1","a2"]}"#,
            400,
            "<Error> Length of hostname list is more than newly added instances",
        ),
        (
            "DELETE",
            "/rm",
            r#"{"n":1,"hostnames":["server1","server2"]}"#,
            400,
            "<Error> Length of hostname list is more than removable instances",
        ),
        (
            "POST",
            "/add",
            r#"{"hostnames":["a1"]}"#,
            400,
            "<Error> n is missing: how many replicas, a whole number from 1",
        ),
        ("POST", "/add", r#"{"n":0}"#, 400, "<Error> n is 0: it must be a whole number from 1"),
        ("POST", "/add", r#"{"n":-3}"#, 400, "<Error> n is -3: it must be a whole number from 1"),
        ("POST", "/add", r#"{"n":"2"}"#, 400, "<Error> n is \"2\": it must be a whole number from 1"),
        ("POST", "/add", r#"{"n":3}"#, 400, "<Error> n is 3: 3 replicas run, and 5 is the most (--max-replicas)"),
        ("DELETE", "/rm", r#"{"n":4}"#, 400, "<Error> n is 4: there are 3 replicas"),
        (
            "POST",
            "/add",
            r#"{"n":1,"hostnames":["server2"]}"#,
            400,
            "<Error> hostnames[0] is \"server2\": that name is taken",
        ),
        (
            "POST",
            "/add",
            r#"{"n":2,"hostnames":["S4","S4"]}"#,
            400,
            "<Error> hostnames[1] is \"S4\": it is named twice",
        ),
        ("POST", "/add", r#"{"n":1,"hostnames":[""]}"#, 400, "<Error> hostnames[0] is \"\": a name is empty"),
        (
            "POST",
            "/add",
            r#"{"n":1,"hostnames":["../etc"]}"#,
            400,
            "<Error> hostnames[0] is \"../etc\": a name begins with a letter or a digit",
        ),
        (
            "DELETE",
            "/rm",
            r#"{"n":1,"hostnames":["server9"]}"#,
            400,
            "<Error> hostnames[0] is \"server9\": there is no such replica",
        ),
        (
            "POST",
            "/add",
            r#"{"n":1,"names":[]}"#,
            400,
            "<Error> names is not a field of this call: it takes n and hostnames",
        ),
        ("POST", "/add", r#"{"n":1,"n":2}"#, 400, "<Error> n is given twice"),
        ("POST", "/add", "", 400, "<Error> the body is empty: send an object such as {\"n\":1}"),
        ("POST", "/add", "n=1", 400, "<Error> the body is not JSON: expected ident at line 1 column 2"),
        (
            "POST",
            "/add?force=1",
            r#"{"n":1}"#,
            400,
            "<Error> \"force\" is no parameter here: it takes dry_run and service",
        ),
        ("POST", "/add", &big, 413, "<Error> the body is larger than 65536 bytes"),
        (
            "GET",
            "/nothing",
            "",
            404,
            "<Error> there is nothing at /nothing: see /, /live, /rep, /add, /rm, /services, /replicas, /replicas/{name}, /reload, /config, /ring, /explain, /what-if, /livez, /readyz, /metrics, /openapi.json",
        ),
    ] {
        let response = balancer.ask(method, path, body);
        assert_eq!(
            (response.status, &response.json),
            (status, &json!({"message": message, "status": "failure"})),
            "{body:.80}"
        );
        assert_eq!(balancer.get("/rep").text, before);
    }
}

#[test]
fn a_wrong_method_is_answered_405_with_the_allowed_ones() {
    let balancer = Balancer::start(&["--replicas", "1"]);
    for (method, path, allow) in [
        ("PUT", "/add", "POST"),
        ("GET", "/rm", "DELETE, POST"),
        ("POST", "/rep", "GET"),
        ("GET", "/replicas/server1", "PATCH"),
    ] {
        let response = balancer.ask(method, path, "");
        assert_eq!((response.status, field(&response.head, "allow")), (405, Some(allow)), "{method} {path}");
        assert_eq!(response.json["status"], "failure");
    }
    assert_eq!(balancer.ask("HEAD", "/rep", "").status, 200);
}

#[test]
fn a_dry_run_predicts_and_changes_nothing() {
    let balancer = Balancer::start(&[]);
    let would = balancer.ask("DELETE", "/rm?dry_run=1", r#"{"n":1}"#);
    assert_eq!((would.status, names(&would.json).len()), (200, 2));
    assert_eq!(names(&balancer.ask("POST", "/add?dry_run=1", r#"{"n":2}"#).json).len(), 5);
    assert_eq!(balancer.replicas().len(), 3);
    assert_eq!(balancer.ask("DELETE", "/rm", r#"{"n":1}"#).json, would.json, "the predicted one is removed");
}

#[test]
fn ring_explain_and_what_if_answer_from_the_ring() {
    let balancer = Balancer::start(&[]);
    let ring = balancer.get("/ring").json;
    let rows = ring["message"]["replicas"].as_array().expect("rows");
    let shares: f64 = rows.iter().map(|row| row["share"].as_f64().expect("a share")).sum();
    assert_eq!(rows.len(), 3);
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    assert_eq!(balancer.get("/explain?key=a%20b").json["message"]["key"], "a b");
    let moved = balancer.get("/what-if?remove=server2").json;
    let flows = moved["message"]["flows"].as_array().expect("flows");
    assert!(flows.iter().all(|flow| flow["from"] == "server2"), "only the keys of server2 move: {moved}");
    for path in ["/explain", "/what-if", "/what-if?remove=server9", "/what-if?add=server1", "/ring?x=1"] {
        assert_eq!(balancer.get(path).status, 400, "{path}");
    }
}

#[test]
fn the_work_of_one_call_is_bounded() {
    let balancer = Balancer::start(&["--replicas", "1"]);
    let what_if = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("a{number}")).collect();
        balancer.get(&format!("/what-if?add={}", names.join(",")))
    };
    assert_eq!(what_if(100).status, 200);
    let refused = what_if(1_300);
    let why = "<Error> remove and add name 1300 replicas: 100 is the most of one question";
    assert_eq!((refused.status, &refused.json["message"]), (400, &json!(why)));
}

#[test]
fn a_live_page_beyond_the_limit_is_refused_until_one_is_closed() {
    let balancer = Balancer::start(&["--replicas", "1"]);
    let open = || {
        let mut page = connect(balancer.admin);
        page.write_all(format!("GET /live HTTP/1.1\r\nHost: {}\r\n\r\n", balancer.admin).as_bytes()).expect("it reads");
        (read_head(&mut page), page)
    };
    let mut pages: Vec<_> = (0..32).map(|_| open()).collect();
    assert!(pages.iter().all(|(head, _)| head.starts_with("HTTP/1.1 200 ")));
    let (refused, _) = open();
    assert!(refused.starts_with("HTTP/1.1 503 ") && field(&refused, "retry-after").is_some(), "{refused}");
    pages.pop();
    until(Instant::now() + TIMEOUT, "a place", || open().0.starts_with("HTTP/1.1 200 ").then_some(()));
}

#[test]
fn the_data_port_answers_admin_calls_unless_that_is_off() {
    let balancer = Balancer::start(&["--replicas", "1"]);
    assert_eq!(names(&ask(balancer.data, "GET", "/rep", "").json), ["server1"]);
    assert_eq!(names(&ask(balancer.data, "POST", "/add", r#"{"n":1}"#).json).len(), 2);
    assert_eq!(names(&ask(balancer.data, "DELETE", "/rm", r#"{"n":1}"#).json).len(), 1);
    let balancer = Balancer::start(&["--replicas", "1", "--admin-on-data-port=false"]);
    let response = ask(balancer.data, "GET", "/rep", "");
    assert_eq!((response.status, field(&response.head, "x-server-id")), (404, Some("server1")), "a replica's answer");
}

/// A front proxy on this machine would let any stranger in.
#[test]
fn a_request_that_a_proxy_forwarded_is_no_admin_call_on_the_data_port() {
    let balancer = Balancer::start(&["--replicas", "1", "--admin-on-data-port"]);
    for field in ["X-Forwarded-For: 192.0.2.7", "forwarded: for=192.0.2.7", "VIA: 1.1 front", "X-Forwarded-Host: a"] {
        let request = format!("DELETE /rm HTTP/1.1\r\nHost: a\r\n{field}\r\nConnection: close\r\n\r\n");
        let answer = exchange(balancer.data, request);
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("server1"), "a replica's answer: {answer}");
    }
    assert_eq!(names(&ask(balancer.data, "GET", "/rep", "").json), ["server1"]);
}

/// They may have such paths of their own.
#[test]
fn in_front_of_servers_of_others_the_data_port_answers_admin_calls_only_where_that_is_asked_for() {
    let replica = Process::replica("theirs");
    let address = replica.address.to_string();
    let balancer = Balancer::start(&["--replica", &address]);
    let response = ask(balancer.data, "GET", "/rep", "");
    assert_eq!((response.status, field(&response.head, "x-server-id")), (404, Some("theirs")), "a replica's answer");
    let balancer = Balancer::start(&["--replica", &address, "--admin-on-data-port"]);
    assert_eq!(names(&ask(balancer.data, "GET", "/rep", "").json), [address]);
}

/// What a name of ours may be is no rule for those.
#[test]
fn rm_takes_every_name_that_rep_lists() {
    let replica = Process::replica("theirs");
    let address = replica.address.to_string();
    let named = ["web:1", "x", "a/b", "ü"];
    let listed = named.map(|name| format!("{name}={address}"));
    let flags: Vec<&str> = ["--replica", &address].into_iter().chain(listed.iter().map(String::as_str)).collect();
    let balancer = Balancer::start(&flags);
    for name in named.into_iter().chain([address.as_str()]) {
        assert!(balancer.replicas().contains(&name.to_string()), "{name}");
        let body = json!({"n": 1, "hostnames": [name]}).to_string();
        let answer = balancer.ask("DELETE", "/rm", &body);
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    assert!(balancer.replicas().is_empty());
}

#[test]
fn a_unix_socket_serves_the_admin_api_to_its_owner_only() {
    let path = std::env::temp_dir().join(format!("ringway-admin-{}.sock", std::process::id()));
    let socket = format!("unix:{}", path.display());
    let mut process = Process::start(&["run", "--listen", "127.0.0.1:0", "--admin", &socket], &[]);
    let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.write_all(b"GET /rep HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("it answers");
    assert!(response.contains(r#""N":3"#), "{response}");
    assert_eq!(names(&ask(process.address, "GET", "/rep", "").json).len(), 3, "through the data port");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    assert!(!path.exists(), "its file is removed at the exit");
}

#[test]
fn a_unix_socket_path_in_use_ends_the_start_with_status_2_and_one_line() {
    let folder = std::env::temp_dir().join(format!("ringway-admin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a writable temporary folder");
    let at = |name: &str| folder.join(name);
    std::fs::write(at("file"), "data").expect("a file");
    std::fs::create_dir(at("directory")).expect("a directory");
    let listener = UnixListener::bind(at("living")).expect("a listener");
    drop(UnixListener::bind(at("dead")).expect("a listener that ends"));
    for (name, what) in [
        ("file", "a regular file is there"),
        ("directory", "a directory is there"),
        ("living", "another process listens on that socket"),
    ] {
        let path = at(name);
        let output = run(&["run", "--listen", "127.0.0.1:0", "--admin", &format!("unix:{}", path.display())]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(path.to_str().expect("UTF-8")) && stderr.contains(what), "{stderr}");
        assert!(stderr.contains("give another path") && stderr.lines().count() == 1, "{stderr}");
        assert!(path.exists(), "{name} was removed");
    }
    assert_eq!(std::fs::read(at("file")).expect("the file"), b"data");
    let socket = format!("unix:{}", at("dead").display());
    let process = Process::start(&["run", "--listen", "127.0.0.1:0", "--admin", &socket], &[]);
    assert!(UnixStream::connect(at("dead")).is_ok(), "a socket on which nothing listened is replaced");
    drop((process, listener));
    std::fs::remove_dir_all(&folder).expect("the folder");
}

#[test]
fn a_page_of_another_origin_is_refused() {
    let balancer = Balancer::start(&["--replicas", "1"]);
    let request = |more: &str| call_with(balancer.admin, more);
    assert!(request("Origin: http://evil.example\r\n").starts_with("HTTP/1.1 403 "));
    assert_eq!(balancer.replicas().len(), 1);
    assert!(request(&format!("Origin: http://{}\r\n", balancer.admin)).starts_with("HTTP/1.1 200 "));
}

/// The page of an attacker whose name resolves to this machine sends that name as Host.
#[test]
fn a_host_that_is_no_name_of_this_balancer_is_refused() {
    let balancer = Balancer::start(&["--replicas", "1", "--admin-host", "balancer.internal"]);
    let get = |address: SocketAddr, path: &str, host: &str| {
        exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    let paths = ["/", "/rep", "/replicas", "/ring", "/explain?key=a", "/metrics", "/live", "/nothing"];
    for path in paths {
        let answer = get(balancer.admin, path, "evil.example");
        assert!(answer.starts_with("HTTP/1.1 421 ") && answer.contains("--admin-host"), "{path}: {answer}");
    }
    for path in ["/rep", "/add", "/rm"] {
        assert!(get(balancer.data, path, "evil.example:8000").starts_with("HTTP/1.1 421 "), "{path} on the data port");
    }
    assert!(get(balancer.data, "/home", "evil.example").starts_with("HTTP/1.1 200 "), "what is balanced has any Host");
    for host in ["localhost", "127.0.0.1:8001", "[::1]", "Balancer.internal:8001"] {
        for address in [balancer.admin, balancer.data] {
            assert!(get(address, "/rep", host).starts_with("HTTP/1.1 200 "), "{host}");
        }
    }
}

#[test]
fn a_configured_token_is_required() {
    let flags = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-token", "s3cret"];
    let process = Process::start(&flags, &[]);
    let admin = admin_address(&process);
    for wrong in ["", "Authorization: Bearer s3cre\r\n", "Authorization: Basic s3cret\r\n"] {
        let response = call_with(admin, wrong);
        assert!(
            response.starts_with("HTTP/1.1 401 ") && field(&response, "www-authenticate") == Some("Bearer"),
            "{response}"
        );
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert!(call_with(admin, &format!("Authorization: {scheme} s3cret\r\n")).starts_with("HTTP/1.1 200 "));
    }
    let get =
        |path: &str| exchange(admin, format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"));
    assert!(get("/").starts_with("HTTP/1.1 200 "), "the page with the form for the token");
    assert!(get("/livez").starts_with("HTTP/1.1 200 "), "probers have no token");
    assert!(get("/readyz").contains("\"status\":"), "nor for this");
    for path in ["/live", "/live?token=s3cret", "/rep", "//", "/metrics"] {
        assert!(get(path).starts_with("HTTP/1.1 401 "), "{path}");
    }
}

/// More than are served at once, each of which sends nothing.
#[test]
fn silent_connections_do_not_keep_the_holder_of_the_token_out() {
    let flags = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-token", "s3cret"];
    let process = Process::start(&flags, &[]);
    let admin = admin_address(&process);
    let held = format!("GET /rep HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer s3cret\r\n\r\n");
    let mut holder = connect(admin);
    holder.write_all(held.as_bytes()).expect("it reads");
    assert!(read_response(&mut holder).0.starts_with("HTTP/1.1 200 "));
    let mut silent: Vec<TcpStream> = (0..300).map(|_| connect(admin)).collect();
    assert!(call_with(admin, "Authorization: Bearer s3cret\r\n").starts_with("HTTP/1.1 200 "), "a new connection");
    let newest = silent.last_mut().expect("300 of them");
    newest.write_all(b"GET /rep HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
    assert!(read_response(newest).0.starts_with("HTTP/1.1 401 "), "the newest was not closed to make room");
    holder.write_all(held.as_bytes()).expect("it is open");
    assert!(read_response(&mut holder).0.starts_with("HTTP/1.1 200 "), "nor was one that had shown the token");
}

fn call_with(admin: SocketAddr, more: &str) -> String {
    let head = format!("POST /add?dry_run=1 HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 7\r\n");
    exchange(admin, format!("{head}{more}Connection: close\r\n\r\n{{\"n\":1}}"))
}

#[test]
fn replicas_tells_who_is_up_and_why_another_is_not() {
    let refusing = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let serving = Process::replica("serving");
    let address = serving.address.to_string();
    let flags = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--replica", &refusing, &address];
    let process = Process::start(&flags, &[]);
    let admin = admin_address(&process);
    let replica = |at: usize| ask(admin, "GET", "/replicas", "").json["message"][at].clone();
    until(Instant::now() + TIMEOUT, "one to be up", || (replica(1)["state"] == "up").then_some(()));
    until(Instant::now() + TIMEOUT, "the other to fail", || replica(0)["why"].is_string().then_some(()));
    let (down, up) = (replica(0), replica(1));
    assert_eq!(down["state"], "starting");
    assert!(down["why"].as_str().is_some_and(|why| why.contains("Connection refused")), "{down}");
    assert!(down["failures"].as_u64() >= Some(1), "{down}");
    let known = ["name", "service", "address", "weight", "why", "requests", "in_flight"].map(|key| up[key].clone());
    assert_eq!(known, [json!(address), json!("default"), json!(address), json!(1), json!(null), json!(0), json!(0)]);
}

#[test]
fn a_server_that_rm_took_from_a_fixed_list_is_put_back_by_add() {
    let (one, two) = (Process::replica("one"), Process::replica("two"));
    let servers = [&one, &two].map(|process| process.address.to_string());
    let flags = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--replica", &servers[0], &servers[1]];
    let process = Process::start(&flags, &[]);
    let admin = admin_address(&process);
    let up = |at: usize| ask(admin, "GET", "/replicas", "").json["message"][at]["state"] == "up";
    until(Instant::now() + TIMEOUT, "both to be up", || (up(0) && up(1)).then_some(()));
    let call = format!(r#"{{"n":1,"hostnames":["{}"]}}"#, servers[0]);
    assert_eq!(names(&ask(admin, "DELETE", "/rm", &call).json), [&*servers[1]]);
    let refused = ask(admin, "POST", "/add", r#"{"n":1,"hostnames":["another:1"]}"#);
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert_eq!(names(&ask(admin, "POST", "/add", &call).json), [&*servers[1], &*servers[0]]);
    until(Instant::now() + TIMEOUT, "it to be up again", || up(1).then_some(()));
}

fn patch(balancer: &Balancer, target: &str, body: &str) -> Response {
    balancer.ask("PATCH", &format!("/replicas/{target}"), body)
}

/// The names that answered requests of ours.
fn reached(balancer: &Balancer, requests: usize) -> BTreeSet<String> {
    let home = |_| ask(balancer.data, "GET", "/home", "");
    let id = |home: Response| field(&home.head, "x-server-id").map(str::to_owned);
    (0..requests).map(home).filter_map(id).collect()
}

#[test]
fn a_drained_replica_takes_no_request_after_the_answer_and_is_not_stopped() {
    let balancer = Balancer::start(&["--workers", "2"]);
    let children = balancer.children();
    for _ in 0..5 {
        let drained = patch(&balancer, "server2", r#"{"state":"drain"}"#);
        assert_eq!(drained.status, 200, "{}", drained.text);
        let message = &drained.json["message"];
        assert_eq!((&message["state"], &message["why"]), (&json!("drained"), &json!("drained by an operator")));
        assert!(!reached(&balancer, 30).contains("server2"));
        assert_eq!(patch(&balancer, "server2", r#"{"state":"up"}"#).json["message"]["state"], "up");
    }
    assert!(reached(&balancer, 200).contains("server2"), "it takes requests again");
    assert_eq!(balancer.children(), children);
}

/// Its response was sent in part when its replica is drained.
#[test]
fn a_request_in_flight_at_a_drained_replica_finishes() {
    let origin = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = origin.local_addr().expect("an address").to_string();
    let balancer = Balancer::start(&["--replica", &format!("slow={address}")]);
    let mut client = connect(balancer.data);
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    let mut upstream = accept_request(&origin);
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").expect("it reads");
    assert!(read_head(&mut client).starts_with("HTTP/1.1 200 "));
    let drained = patch(&balancer, "slow", r#"{"state":"drain"}"#);
    assert_eq!((drained.status, &drained.json["message"]["in_flight"]), (200, &json!(1)));
    let refused = ask(balancer.data, "GET", "/home", "");
    assert_eq!((refused.status, field(&refused.head, "retry-after").is_some()), (503, true), "all are drained");
    upstream.write_all(b"cd").expect("it reads");
    let mut body = [0; 4];
    client.read_exact(&mut body).expect("the whole body");
    assert_eq!(&body, b"abcd");
}

/// Heartbeats connect and send nothing.
fn accept_request(origin: &TcpListener) -> TcpStream {
    loop {
        let (mut stream, _) = origin.accept().expect("it connects");
        if matches!(stream.read(&mut [0; 1024]), Ok(1..)) {
            return stream;
        }
    }
}

#[test]
fn all_drained_is_said_in_the_log_and_the_metrics() {
    let log = Log::new("admin-drained");
    let mut command = Command::new(RINGWAY);
    command.stderr(log.file());
    let balancer = Balancer::start_as(command, &["--replicas", "2"]);
    for name in ["server1", "server2"] {
        assert_eq!(patch(&balancer, name, r#"{"state":"drain"}"#).status, 200);
    }
    assert_eq!(ask(balancer.data, "GET", "/home", "").status, 503);
    assert_eq!((balancer.up(), balancer.metric("ringway_replica_drained")), (0, 2));
    until(Instant::now() + TIMEOUT, "the warning", || {
        let warned = |line: &str| line.contains("WARN") && line.contains("service default: no replica takes requests");
        log.read().lines().any(warned).then_some(())
    });
    assert!(log.read().contains("server1: drained by an operator, it takes no new requests; 0 in flight"));
    assert_eq!(names(&balancer.ask("DELETE", "/rm", r#"{"n":1,"hostnames":["server1"]}"#).json), ["server2"]);
    assert_eq!(patch(&balancer, "server2", r#"{"state":"up"}"#).status, 200);
    assert_eq!(ask(balancer.data, "GET", "/home", "").status, 200);
}

#[test]
fn a_weight_is_the_replicas_share_of_the_ring() {
    let balancer = Balancer::start(&[]);
    let before = balancer.get("/services").json["message"][0]["ring_digest"].clone();
    let both = patch(&balancer, "server1", r#"{"weight":4,"state":"up"}"#);
    assert_eq!((both.status, &both.json["message"]["weight"]), (200, &json!(4)));
    let ring = balancer.get("/ring").json;
    assert_eq!(ring["message"]["replicas"][0]["points"], 640);
    assert_eq!(balancer.get("/replicas").json["message"][0]["weight"], 4);
    assert_ne!(balancer.get("/services").json["message"][0]["ring_digest"], before);
}

#[test]
fn a_patch_that_is_refused_says_why() {
    let balancer = Balancer::start(&["--replicas", "2"]);
    for (target, body, status, message) in [
        (
            "server9",
            r#"{"state":"drain"}"#,
            404,
            "there is no replica \"server9\" in service default: there are server1, server2",
        ),
        ("server1", r#"{"state":"away"}"#, 400, "state is \"away\": it must be \"drain\" or \"up\""),
        (
            "server1",
            r#"{"weight":0}"#,
            400,
            "weight is 0: it must be a whole number from 1 to 1000; {\"state\":\"drain\"} takes a replica out",
        ),
        ("server1", "", 400, "the body is empty: send an object such as {\"state\":\"drain\"}"),
        ("server1?dry_run=1", r#"{"weight":2}"#, 400, "\"dry_run\" is no parameter here: it takes service"),
        (
            "server1?service=shop",
            r#"{"weight":2}"#,
            400,
            "service is \"shop\": there is no such service; there are default",
        ),
    ] {
        let response = patch(&balancer, target, body);
        let expected = json!({"message": format!("<Error> {message}"), "status": "failure"});
        assert_eq!((response.status, response.json), (status, expected), "{target} {body}");
    }
    assert_eq!(patch(&balancer, "%ff", r#"{"weight":2}"#).status, 400);
    assert_eq!(patch(&balancer, "a/b", r#"{"weight":2}"#).status, 404);
    assert_eq!(balancer.up(), 2);
}

#[test]
fn a_drained_replica_that_dies_is_replaced_and_stays_drained() {
    let balancer = Balancer::start(&["--replicas", "1"]);
    patch(&balancer, "server1", r#"{"state":"drain","weight":3}"#);
    let replica = || balancer.get("/replicas").json["message"][0].clone();
    let (before, child) = (replica()["handle"].clone(), balancer.children()[0].to_string());
    assert!(Command::new("kill").args(["-KILL", &child]).status().expect("kill").success());
    until(Instant::now() + TIMEOUT, "its replacement", || {
        let now = replica();
        (now["state"] == "drained" && now["handle"] != before).then_some(())
    });
    assert_eq!(replica()["weight"], 3);
    assert_eq!(ask(balancer.data, "GET", "/home", "").status, 503);
}

#[test]
fn services_are_listed_with_what_leads_to_them() {
    let replica = Process::replica("theirs");
    let file = std::env::temp_dir().join(format!("ringway-services-{}.toml", std::process::id()));
    let text = format!(
        r#"
        [listeners.web]
        bind = ["127.0.0.1:0"]
        service = "shop"
        [services.shop]
        replicas = 2
        hash = {{ key = "cookie:session" }}
        [services.blog]
        replica = ["theirs={}"]
        policy = "least-request"
        hash = {{ ring = "exercise" }}
        [[routes]]
        host = "*.example.com"
        path = "/blog"
        split = {{ blog = 1, shop = 3 }}
        "#,
        replica.address
    );
    std::fs::write(&file, text).expect("a writable temporary folder");
    let mut command = Command::new(RINGWAY);
    command.args(["run", "-c"]).arg(&file).args(["--admin", "127.0.0.1:0"]);
    let process = Process::spawn(command);
    let admin = admin_address(&process);
    let services = until(Instant::now() + TIMEOUT, "all to be up", || {
        let services = ask(admin, "GET", "/services", "").json["message"].clone();
        (services[0]["up"] == 2 && services[1]["up"] == 1).then_some(services)
    });
    assert_eq!(ask(process.address, "GET", "/home", "").status, 200);
    let keys = ["name", "mode", "runtime", "wanted", "drained", "listeners", "policy", "key", "ring"];
    let of = |at: usize| json!(keys.map(|key| services[at][key].clone()));
    assert_eq!(of(0), json!(["shop", "http", "process", 2, 0, ["web"], "hash", "cookie:session", "ketama"]));
    assert_eq!(of(1), json!(["blog", "http", "fixed", 1, 0, [], "least-request", "request", "exercise"]));
    let route = json!([{"host": "*.example.com", "path": "/blog", "methods": [], "listeners": [], "share": 0.25}]);
    assert_eq!(services[1]["routes"], route);
    assert!(services[0]["balance_factor"].is_null());
    let explained = ask(admin, "GET", "/explain?key=a&service=blog", "");
    let why = "no key decides where requests go: service blog has the policy least-request";
    assert!(explained.status == 400 && explained.text.contains(why), "{}", explained.text);
    until(Instant::now() + TIMEOUT, "the request to be counted", || {
        (ask(admin, "GET", "/services", "").json["message"][0]["requests"] == 1).then_some(())
    });

    let listed = |query: &str| ask(admin, "GET", &format!("/replicas{query}"), "");
    assert_eq!(listed("").json["message"].as_array().map(Vec::len), Some(3));
    assert_eq!(listed("?service=blog").json["message"][0]["name"], "theirs");
    assert_eq!(listed("?service=nowhere").status, 400);
    let unclear = ask(admin, "PATCH", "/replicas/theirs", r#"{"weight":2}"#);
    assert_eq!((unclear.status, unclear.text.contains("?service=NAME; there are shop, blog")), (400, true));
    let wrong = ask(admin, "PATCH", "/replicas/theirs?service=shop", r#"{"weight":2}"#);
    assert!(wrong.status == 404 && wrong.text.contains("?service=blog"), "{}", wrong.text);
    assert_eq!(ask(admin, "PATCH", "/replicas/theirs?service=blog", r#"{"weight":2}"#).status, 200);
    std::fs::remove_file(&file).expect("the file");
}

/// A folder for the file of a token, removed when this is dropped.
struct TokenFile(PathBuf);

impl TokenFile {
    fn new(name: &str, token: &str, mode: u32) -> TokenFile {
        let folder = std::env::temp_dir().join(format!("ringway-token-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable temporary folder");
        let file = TokenFile(folder);
        file.write(token, mode);
        file
    }

    fn path(&self) -> PathBuf {
        self.0.join("token")
    }

    fn write(&self, token: &str, mode: u32) {
        std::fs::write(self.path(), token).expect("a file");
        std::fs::set_permissions(self.path(), Permissions::from_mode(mode)).expect("our file");
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_token_in_a_file_is_required_and_read_again_at_a_reload() {
    let file = TokenFile::new("reload", "first\n", 0o600);
    let path = file.path().display().to_string();
    let flags = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-token-file", &path];
    let process = Process::start(&flags, &[]);
    let admin = admin_address(&process);
    let status = |method: &str, path: &str, token: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {admin}\r\nAuthorization: Bearer {token}\r\n");
        exchange(admin, format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n"))[9..].to_owned()
    };
    assert!(status("GET", "/rep", "first").starts_with("200"));
    assert!(status("GET", "/rep", "second").starts_with("401"));
    let shown = status("GET", "/config", "first");
    assert!(shown.contains(&format!("token_file = \"{path}\"")) && !shown.contains("\"first"), "{shown}");

    file.write("second", 0o644);
    let refused = status("POST", "/reload", "first");
    assert!(refused.starts_with("400") && refused.contains("its mode is 0644") && refused.contains("chmod 600"));
    assert!(status("GET", "/rep", "first").starts_with("200"), "the one before stays");
    file.write("second", 0o640);
    let tried = status("POST", "/reload?dry_run=1", "first");
    assert!(tried.contains("who may call the admin API changed"), "{tried}");
    assert!(status("GET", "/rep", "first").starts_with("200"), "nothing was changed");
    assert!(status("POST", "/reload", "first").starts_with("200"));
    assert!(status("GET", "/rep", "first").starts_with("401") && status("GET", "/rep", "second").starts_with("200"));
}

#[test]
fn a_wrong_token_file_ends_the_start_with_status_2_and_one_line() {
    let file = TokenFile::new("wrong", "", 0o600);
    let path = file.path().display().to_string();
    let folder = file.0.display().to_string();
    let refusal = |path: &str, more: &[&str]| {
        let flags = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-token-file", path];
        let output = run(&[&flags, more].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains("--admin-token-file"), "{stderr}");
        stderr
    };
    assert!(refusal(&path, &[]).contains("it is empty"));
    assert!(refusal(&folder, &[]).contains("not a regular file"));
    assert!(refusal(&format!("{path}.gone"), &[]).contains("No such file"));
    file.write("s3cret", 0o602);
    assert!(
        refusal(&path, &[])
            .contains(&format!("its mode is 0602, every user of the machine can read or change it: chmod 600 {path}"))
    );
    file.write("s3cret", 0o600);
    assert!(refusal(&path, &["--admin-token", "other"]).contains("both given"));
    let fifo = file.0.join("pipe").display().to_string();
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    assert!(refusal(&fifo, &[]).contains("not a regular file"), "it is not waited for");
    let checked = run(&["run", "--admin", "0.0.0.0:8001"]);
    assert!(String::from_utf8_lossy(&checked.stderr).contains("--admin-token-file"), "{checked:?}");
}
