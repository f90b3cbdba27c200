//! The forwarded fields that a replica receives for each setting of trust, and whether ours is in Via, set by flag, environment and file. What each
//! setting does to which field is in `tests/wire/forwarding.txt`; here it goes through our own binary.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use support::{Process, connect, field, origin, read_response};

const CLAIMS: &str = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\n\
                      Forwarded: for=203.0.113.7\r\n";

/// A replica that answers with the head it received.
fn mirror() -> SocketAddr {
    origin::start(|head, stream| {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).is_ok()
    })
}

/// The forwarded fields, as a replica behind this balancer receives them.
fn received(balancer: &Process) -> [Option<String>; 5] {
    let mut client = connect(balancer.address);
    client.write_all(format!("GET /x HTTP/1.1\r\nHost: a\r\n{CLAIMS}\r\n").as_bytes()).expect("it reads");
    let (_, body) = read_response(&mut client);
    let head = String::from_utf8(body).expect("a head is text");
    ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via"]
        .map(|name| field(&head, name).map(str::to_owned))
}

fn received_with(args: &[&str], env: &[(&str, &str)]) -> [Option<String>; 5] {
    let replica = mirror().to_string();
    let mut all = vec!["run", "--listen", "127.0.0.1:0", "--admin", "off", "--replica", &replica];
    all.extend(args);
    let balancer = Process::start(&all, env);
    balancer.await_replicas();
    received(&balancer)
}

#[test]
fn forwarded_fields_follow_the_setting_of_trust() {
    let some = |text: &str| Some(text.to_owned());
    let via = || some("1.1 ringway");
    let appended = [some("203.0.113.7, 127.0.0.1"), some("http"), None, None, via()];
    let replaced = [some("127.0.0.1"), some("http"), None, None, via()];
    let kept = [some("203.0.113.7, 127.0.0.1"), some("https"), some("b"), some("for=203.0.113.7"), via()];
    assert_eq!(received_with(&[], &[]), appended, "by default");
    assert_eq!(received_with(&["--forwarded-trust", "append"], &[]), appended);
    assert_eq!(received_with(&["--forwarded-trust", "replace"], &[]), replaced);
    assert_eq!(received_with(&[], &[("RINGWAY_FORWARDED_TRUST", "keep")]), kept);

    assert_eq!(received_by_file("trust", "keep"), kept);
}

#[test]
fn via_is_added_unless_it_is_off() {
    let via = |received: [Option<String>; 5]| received.into_iter().next_back().flatten();
    assert_eq!(via(received_with(&["--forwarded-via", "on"], &[])).as_deref(), Some("1.1 ringway"));
    assert_eq!(via(received_with(&["--forwarded-via", "off"], &[])), None);
    assert_eq!(via(received_by_file("via", "off")), None);
}

/// The same with one setting of a file.
fn received_by_file(key: &str, value: &str) -> [Option<String>; 5] {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("forwarded-{key}-{}.toml", std::process::id()));
    std::fs::write(&file, format!("[forwarded]\n{key} = \"{value}\"\n")).expect("a writable target folder");
    let received = received_with(&["--config", file.to_str().expect("UTF-8")], &[]);
    std::fs::remove_file(&file).expect("it was written");
    received
}
