//! The access log, through our own binary: what a line says of each kind of exchange, the file that is opened again, and
//! files and readers that take no lines.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;
use support::balancer::{Balancer, admin_address};
use support::{Log, Process, RINGWAY, TIMEOUT, connect, field, origin, read_head, read_response, try_connect, until};

/// An access log in a file that is removed when this is dropped.
struct AccessFile(PathBuf);

impl AccessFile {
    fn new(name: &str) -> AccessFile {
        let name = format!("access-{name}-{}.log", std::process::id());
        AccessFile(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn flag(&self) -> String {
        format!("--access-log={}", self.0.display())
    }

    /// Its lines, without those of requests that only wait for the balancer.
    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.0).expect("an access log");
        assert!(text.is_empty() || text.ends_with('\n'), "a line in part: {text}");
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")));
        lines.filter(|line: &Value| line["target"] != "/heartbeat").collect()
    }
}

impl Drop for AccessFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A replica whose answer depends on the path.
fn replica() -> SocketAddr {
    let closes = Arc::new(AtomicBool::new(true));
    origin::start(move |head, stream| match head.split(' ').nth(1).expect("a target") {
        "/closed" if closes.swap(false, Ordering::Relaxed) => false,
        "/truncated" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
            false
        }
        "/long" => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
            stream.write_all(head).is_ok() && (0..100_000).all(|_| stream.write_all(&[b'x'; 1000]).is_ok())
        }
        "/upgrade" => {
            let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.write_all(head).expect("it reads");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("the client ends");
            let _ = stream.write_all(&bytes);
            false
        }
        "/mirror" => answer("200 OK", head, stream),
        "/500" => answer("500 X", "", stream),
        _ => {
            let len = field(head, "content-length").map_or(0, |len| len.parse().expect("a number"));
            let mut body = vec![0; len];
            stream.read_exact(&mut body).expect("a whole body");
            answer("200 OK", "ok", stream)
        }
    })
}

fn answer(status: &str, body: &str, stream: &mut TcpStream) -> bool {
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).is_ok()
}

fn balancer(replica: SocketAddr, flags: &[&str]) -> Process {
    let mut all = vec!["--workers", "1"];
    all.extend(flags);
    Process::balancer(&[replica], &all)
}

/// Sends a request; the bytes of its response.
fn ask(client: &mut TcpStream, request: &str) -> usize {
    client.write_all(request.as_bytes()).expect("it reads");
    let (head, body) = read_response(client);
    head.len() + body.len()
}

fn stop(balancer: &mut Process) {
    balancer.signal("TERM");
    assert_eq!(balancer.wait().code(), Some(0));
}

/// Compares the members of `expected` with those of `line`.
fn assert_line(line: &Value, expected: &[(&str, Value)]) {
    for (name, value) in expected {
        assert_eq!(line[name], *value, "{name} in {line}");
    }
}

#[test]
fn a_line_says_what_an_exchange_was() {
    let (file, replica) = (AccessFile::new("fields"), replica());
    let mut balancer = balancer(replica, &[&file.flag()]);
    let requests = [
        "GET /ok?a=\"b\" HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: test \"1\" \u{9b}\r\nReferer: http://a/\r\n\
         X-Request-Id: id-1\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET /closed HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /500 HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ];
    let mut client = connect(balancer.address);
    let mut answers: Vec<usize> = requests[..4].iter().map(|request| ask(&mut client, request)).collect();
    answers.push(ask(&mut connect(balancer.address), requests[4]));
    stop(&mut balancer);
    let lines = file.lines();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    for (line, (request, answer)) in lines.iter().zip(requests.iter().zip(answers)) {
        let (sent, received) = (Value::from(request.len()), Value::from(answer));
        assert_line(line, &[("bytes_in", sent), ("bytes_out", received), ("client", "127.0.0.1".into())]);
        assert!(line["duration_ms"].is_number() && line["head_ms"].is_number(), "{line}");
        let time = line["time"].as_str().expect("a time");
        assert!(time.len() == "2026-01-02T03:04:05.678Z".len() && time.ends_with('Z'), "{time}");
        assert!(line["epoch"].as_u64().is_some_and(|epoch| epoch > 0), "{line}");
    }
    let name = Value::from(replica.to_string());
    let complete = |line: &Value, status: u16, attempts: u32| {
        let forwarded = [("service", "default".into()), ("replica", name.clone()), ("end", "complete".into())];
        assert_line(line, &forwarded);
        assert_line(line, &[("status", status.into()), ("attempts", attempts.into()), ("why", Value::Null)]);
        assert!(line["first_byte_ms"].is_number() && line["queue_ms"].is_number(), "{line}");
    };
    complete(&lines[0], 200, 1);
    let text = [("method", "GET"), ("target", "/ok?a=\"b\""), ("host", "shop.example"), ("proto", "HTTP/1.1")];
    assert_line(&lines[0], &text.map(|(name, value)| (name, value.into())));
    let text = [("user_agent", "test \"1\" \u{9b}"), ("referer", "http://a/"), ("request_id", "id-1")];
    assert_line(&lines[0], &text.map(|(name, value)| (name, value.into())));
    let raw = std::fs::read_to_string(&file.0).expect("an access log");
    assert!(!raw.contains('\u{9b}') && raw.contains("\\u009b"), "{raw}");
    complete(&lines[1], 200, 1);
    assert_line(&lines[1], &[("method", "POST".into()), ("user_agent", Value::Null), ("connect_ms", Value::Null)]);
    complete(&lines[2], 200, 2);
    assert_line(&lines[2], &[("retries", ["stale_connection"].as_slice().into())]);
    assert!(lines[2]["connect_ms"].is_number(), "a new connection: {}", lines[2]);
    complete(&lines[3], 500, 1);
    assert_line(&lines[3], &[("proto", "HTTP/1.0".into()), ("retries", Value::Array(Vec::new()))]);
    let refused =
        [("status", 400.into()), ("end", "refused".into()), ("why", "no Host".into()), ("attempts", 0.into())];
    assert_line(&lines[4], &refused);
    assert_line(&lines[4], &[("method", "GET".into()), ("target", "/".into()), ("replica", Value::Null)]);
}

#[test]
fn a_line_says_how_an_exchange_broke_off() {
    let (file, replica) = (AccessFile::new("ends"), replica());
    let mut balancer = balancer(replica, &[&file.flag()]);
    let mut client = connect(balancer.address);
    client.write_all(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    read_head(&mut client);
    // Bytes that were not read make the close a reset.
    drop(client);
    until(Instant::now() + TIMEOUT, "the line", || (file.lines().len() == 1).then_some(()));
    let mut client = connect(balancer.address);
    client.write_all(b"GET /truncated HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
    let mut received = Vec::new();
    let _ = client.read_to_end(&mut received);
    let mut client = connect(balancer.address);
    client.write_all(b"POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").expect("it reads");
    client.shutdown(Shutdown::Write).expect("it is connected");
    let _ = client.read_to_end(&mut received);
    let mut client = connect(balancer.address);
    client.write_all(b"\x16\x03\x01 is no HTTP\r\n\r\n").expect("it reads");
    let _ = client.read_to_end(&mut received);
    stop(&mut balancer);
    let lines = file.lines();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_line(&lines[0], &[("end", "client_abort".into()), ("status", 200.into()), ("target", "/long".into())]);
    assert!(lines[0]["bytes_out"].as_u64().is_some_and(|bytes| bytes < 100_000_000), "{}", lines[0]);
    assert_line(&lines[1], &[("end", "truncated".into()), ("status", 200.into())]);
    assert_line(&lines[2], &[("end", "client_abort".into()), ("target", "/cut".into())]);
    assert_line(&lines[3], &[("end", "refused".into()), ("status", 400.into()), ("method", "\u{16}\u{3}\u{1}".into())]);
}

#[test]
fn a_tunnel_has_one_line_at_its_end() {
    let (file, replica) = (AccessFile::new("tunnel"), replica());
    let mut balancer = balancer(replica, &[&file.flag()]);
    let request = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut client = connect(balancer.address);
    client.write_all(request.as_bytes()).expect("it reads");
    let head = read_head(&mut client);
    client.write_all(&[b'x'; 1000]).expect("it reads");
    client.shutdown(Shutdown::Write).expect("it is connected");
    let mut echo = Vec::new();
    client.read_to_end(&mut echo).expect("the replica ends");
    stop(&mut balancer);
    let line = &file.lines()[0];
    assert_line(line, &[("status", 101.into()), ("end", "complete".into()), ("proto", "HTTP/1.1".into())]);
    assert_line(line, &[("bytes_in", (request.len() + 1000).into()), ("bytes_out", (head.len() + 1000).into())]);

    let file = AccessFile::new("tcp");
    let replica = replica.to_string();
    let args = ["run", "--listen=127.0.0.1:0", "--admin=off", "--mode=tcp", "--replica", &replica, &file.flag()];
    let mut balancer = Process::start(&args, &[]);
    let request = "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n";
    let received = until(Instant::now() + TIMEOUT, "the replica to be up", || {
        let mut client = try_connect(balancer.address).ok()?;
        client.write_all(request.as_bytes()).ok()?;
        client.shutdown(Shutdown::Write).ok()?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer.len())
    });
    stop(&mut balancer);
    let lines = file.lines();
    let line = lines.iter().find(|line| line["end"] == "complete").unwrap_or_else(|| panic!("{lines:#?}"));
    assert_line(line, &[("proto", "TCP".into()), ("status", Value::Null), ("method", Value::Null)]);
    assert_line(
        line,
        &[("bytes_in", request.len().into()), ("bytes_out", received.into()), ("replica", replica.into())],
    );
}

#[test]
fn a_file_that_was_moved_is_opened_again_and_no_line_is_lost() {
    let (file, moved, log) = (AccessFile::new("reopen"), AccessFile::new("moved"), Log::new("reopen-stderr"));
    let mut command = Command::new(RINGWAY);
    let replica = replica().to_string();
    command.args(["run", "--listen=127.0.0.1:0", "--admin=off", "--replica", &replica, &file.flag()]);
    command.stderr(log.file());
    let mut balancer = Process::spawn(command);
    balancer.await_replicas();
    let mut client = connect(balancer.address);
    let mut asked = 0;
    let mut ask_some = |client: &mut TcpStream| {
        for _ in 0..50 {
            ask(client, &format!("GET /{asked} HTTP/1.1\r\nHost: a\r\n\r\n"));
            asked += 1;
        }
    };
    ask_some(&mut client);
    std::fs::rename(&file.0, &moved.0).expect("it is there");
    ask_some(&mut client);
    balancer.signal("USR1");
    until(Instant::now() + TIMEOUT, "the file to be opened", || log.read().contains("is opened again").then_some(()));
    ask_some(&mut client);
    stop(&mut balancer);
    let targets: Vec<Value> =
        [&moved, &file].iter().flat_map(|file| file.lines()).map(|line| line["target"].clone()).collect();
    let expected: Vec<Value> = (0..150).map(|number| format!("/{number}").into()).collect();
    assert_eq!(targets, expected);
    assert!(file.lines().len() >= 50, "{} lines in the new file", file.lines().len());
    let mode = std::fs::metadata(&file.0).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}: others can read it");
}

#[test]
fn a_full_disk_is_one_line_in_the_log_and_a_counter() {
    let log = Log::new("full-stderr");
    let mut command = Command::new(RINGWAY);
    command.stderr(log.file());
    let replica = replica().to_string();
    let balancer = Balancer::start_as(command, &["--workers=1", "--replica", &replica, "--access-log=/dev/full"]);
    let mut client = connect(balancer.data);
    for round in 1..=3 {
        ask(&mut client, "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n");
        let counted = || (balancer.metric("ringway_access_log_unwritten_total") == round).then_some(());
        until(Instant::now() + TIMEOUT, "the line to be counted", counted);
    }
    assert_eq!(balancer.metric("ringway_access_log_records_total"), 3);
    assert_eq!(log.read().matches("cannot be written to").count(), 1, "{}", log.read());
}

#[test]
fn a_reader_of_stdout_that_stops_costs_lines_and_nothing_else() {
    let mut command = Command::new(RINGWAY);
    let replica = replica().to_string();
    command.args(["run", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--workers=1", "--replica", &replica]);
    command.arg("--access-log=stdout");
    let (process, unread) = Process::spawn_unread(command);
    let mut balancer = Balancer { data: process.address, admin: admin_address(&process), process };
    balancer.await_replicas();
    let mut client = connect(balancer.data);
    // Some thousand requests, which a busy machine serves slowly.
    until(Instant::now() + 4 * TIMEOUT, "a line to be dropped", || {
        let requests = "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n".repeat(400);
        client.write_all(requests.as_bytes()).expect("it reads");
        (0..400).for_each(|_| assert!(read_response(&mut client).0.starts_with("HTTP/1.1 200 ")));
        (balancer.metric("ringway_access_log_dropped_total") > 0).then_some(())
    });
    drop(client);
    stop(&mut balancer.process);
    drop(unread);
}

#[test]
fn errors_have_a_line_where_no_other_request_has() {
    let file = AccessFile::new("errors");
    let mut balancer = balancer(replica(), &[&file.flag(), "--access-log-sample=errors", "--access-log-format=json"]);
    let mut client = connect(balancer.address);
    for target in ["/ok", "/500", "/ok"] {
        ask(&mut client, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    stop(&mut balancer);
    let targets: Vec<Value> = file.lines().iter().map(|line| line["target"].clone()).collect();
    assert_eq!(targets, ["/500"]);
}

#[test]
fn a_request_id_is_passed_on_or_made() {
    let file = AccessFile::new("ids");
    let id_behind = |flag: &str, fields: &str| {
        let mut balancer = balancer(replica(), &[&file.flag(), flag]);
        let mut client = connect(balancer.address);
        let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
        let request = format!("GET /mirror HTTP/1.1\r\nHost: a\r\n{trace}{fields}\r\n");
        client.write_all(request.as_bytes()).expect("it reads");
        let head = String::from_utf8(read_response(&mut client).1).expect("a head is text");
        assert!(head.contains(trace), "{head}");
        assert!(head.to_ascii_lowercase().matches("x-request-id").count() < 2, "{head}");
        stop(&mut balancer);
        let id = field(&head, "x-request-id").map(str::to_owned);
        let logged = file.lines().pop().expect("a line")["request_id"].as_str().map(str::to_owned);
        (id, logged)
    };
    let long = format!("X-Request-Id: {}\r\n", "x".repeat(129));
    let longest = "y".repeat(128);
    let some = |id: &str| Some(id.to_string());
    let pass = "--forwarded-request-id=pass";
    assert_eq!(id_behind(pass, ""), (None, None));
    assert_eq!(id_behind(pass, &format!("{long}x-request-id: {longest}\r\n")), (some(&longest), some(&longest)));
    assert_eq!(id_behind(pass, "X-Request-Id: a b\r\n"), (None, None), "a blank");
    assert_eq!(id_behind("--forwarded-request-id=off", "X-Request-Id: a b\r\n"), (some("a b"), None));
    let make = "--forwarded-request-id=make";
    assert_eq!(id_behind(make, "X-Request-Id: given\r\n"), (some("given"), some("given")));
    let (made, logged) = id_behind(make, &long);
    let made = made.expect("one was made");
    assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
    assert_eq!(logged.as_deref(), Some(made.as_str()));
}
