//! Whom a replica is told that a request came from, for each setting of trust, as a flag, in the environment and in a
//! file. What each setting does to which field is in `tests/wire/forwarding.txt`; here it goes through our own binary.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use support::{Process, connect, field, origin, read_response};

const CLAIMS: &str = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\n\
                      Forwarded: for=203.0.113.7\r\n";

/// A replica that answers with the head it was sent.
fn mirror() -> SocketAddr {
    origin::start(|head, stream| {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).is_ok()
    })
}

/// The fields named here, as a replica behind this balancer sees them.
fn told(balancer: &Process) -> [Option<String>; 4] {
    let mut client = connect(balancer.address);
    client.write_all(format!("GET /x HTTP/1.1\r\nHost: a\r\n{CLAIMS}\r\n").as_bytes()).expect("it reads");
    let (_, body) = read_response(&mut client);
    let head = String::from_utf8(body).expect("a head is text");
    ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"]
        .map(|name| field(&head, name).map(str::to_owned))
}

fn with(args: &[&str], env: &[(&str, &str)]) -> [Option<String>; 4] {
    let replica = mirror().to_string();
    let mut all = vec!["run", "--listen", "127.0.0.1:0", "--admin", "off", "--replica", &replica];
    all.extend(args);
    let balancer = Process::start(&all, env);
    balancer.await_replicas();
    told(&balancer)
}

#[test]
fn a_client_is_believed_as_far_as_the_configuration_says() {
    let some = |text: &str| Some(text.to_owned());
    let appended = [some("203.0.113.7, 127.0.0.1"), some("http"), None, None];
    let replaced = [some("127.0.0.1"), some("http"), None, None];
    let kept = [some("203.0.113.7, 127.0.0.1"), some("https"), some("b"), some("for=203.0.113.7")];
    assert_eq!(with(&[], &[]), appended, "by default");
    assert_eq!(with(&["--forwarded-trust", "append"], &[]), appended);
    assert_eq!(with(&["--forwarded-trust", "replace"], &[]), replaced);
    assert_eq!(with(&[], &[("RINGWAY_FORWARDED_TRUST", "keep")]), kept);

    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("forwarded-{}.toml", std::process::id()));
    std::fs::write(&file, "[forwarded]\ntrust = \"keep\"\n").expect("a writable target folder");
    let by_file = with(&["--config", file.to_str().expect("UTF-8")], &[]);
    std::fs::remove_file(&file).expect("it was written");
    assert_eq!(by_file, kept);
}
