//! An engine that takes long to start a container: a proxy in front of the machine's engine that holds such requests back.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use crate::balancer::Balancer;
use crate::lab::{Lab, PREFIX};

const ENGINE: &str = "/var/run/docker.sock";

/// How long a start is held back. Longer than a replica may take to answer, as the test sets that.
const DELAY: Duration = Duration::from_secs(12);
const START_TIMEOUT: &str = "5s";

struct SlowEngine(PathBuf);

impl SlowEngine {
    fn start(name: &str) -> SlowEngine {
        let path = std::env::temp_dir().join(format!("{PREFIX}-{name}.sock"));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        // Ends with the test's process.
        std::thread::spawn(move || listener.incoming().flatten().for_each(relay));
        SlowEngine(path)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.0.display())
    }
}

impl Drop for SlowEngine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn relay(client: UnixStream) {
    let engine = UnixStream::connect(ENGINE).unwrap();
    let (answers, to_client) = (engine.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || copy(answers, to_client, |_| false));
    std::thread::spawn(move || copy(client, engine, is_start));
}

fn is_start(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    line.starts_with(b"POST ") && line.windows(7).any(|part| part == b"/start ")
}

fn copy(mut from: UnixStream, mut to: UnixStream, is_held_back: impl Fn(&[u8]) -> bool) {
    // Nothing is ever sent: waiting for it takes the delay.
    let (_sender, never) = mpsc::channel::<()>();
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if is_held_back(&bytes[..n]) {
            let _ = never.recv_timeout(DELAY);
        }
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The limit of a start counts from when the container runs: counted from when the engine was asked, it would be over
/// before, and each container would be ended as soon as it ran.
#[test]
#[ignore = "needs a Docker engine: scripts/test_docker"]
fn a_container_that_an_engine_starts_slowly_is_given_its_time_to_answer() {
    let engine = SlowEngine::start("slow");
    let lab = Lab::new("slow");
    let host = engine.host();
    let flags = ["--docker-host", &host, "--health-start-timeout", START_TIMEOUT];
    let mut balancer = Balancer::start(&lab, 2, &flags);
    assert!(!balancer.log().contains("it is ended and replaced"), "{}", balancer.log());
    assert_eq!(balancer.stop(), Some(0));
    assert!(lab.containers().is_empty());
}
