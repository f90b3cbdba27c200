//! Replicas given by host name, through our own binary. Which address a name leads to is tested in `control/runtime/fixed`.

mod support;

use std::net::TcpStream;

use support::balancer::{Balancer, ask};
use support::origin;

fn answer_ok(_: &str, stream: &mut TcpStream) -> bool {
    std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
}

/// Its server may start later, and others serve meanwhile. RFC 6761 section 6.4: the name exists nowhere.
#[test]
fn a_name_that_cannot_be_looked_up_does_not_end_the_start() {
    let named = format!("localhost:{}", origin::start(answer_ok).port());
    let balancer = Balancer::start(&["--replica", "nowhere.invalid:80", &named]);
    assert_eq!(balancer.replicas(), [named]);
    assert!(ask(balancer.data, "GET", "/x", "").text.ends_with("ok"));
}

#[test]
fn a_file_is_checked_without_looking_names_up() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("names-{}.toml", std::process::id()));
    std::fs::write(&file, "replica = [\"nowhere.invalid:80\"]\n").expect("a writable target folder");
    let output = support::run(&["check", "--config", file.to_str().expect("UTF-8")]);
    std::fs::remove_file(&file).expect("it was written");
    assert!(output.status.success(), "{output:?}");
}
