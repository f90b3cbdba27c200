//! What the access log says of exchanges that end without a response of a replica, and of tunnels.

use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::settings::{AccessLogFormat, AccessLogSettings, AccessLogTarget, LoggedShare};
use crate::shared::access_log;

const LIMIT: Duration = Duration::from_secs(30);

/// The lines of what happens in `run`.
fn logged(name: &str, run: impl FnOnce(&mut Rig)) -> Vec<Value> {
    let path = std::env::temp_dir().join(format!("ringway-records-{name}-{}", std::process::id()));
    let target = AccessLogTarget::File(path.clone());
    let settings = AccessLogSettings { target, format: AccessLogFormat::Json, sample: LoggedShare(1.0) };
    let (log, mut senders) = access_log::start(&settings, 1).expect("a file").expect("it is on");
    let mut rig = Rig::new(Limits { drain_timeout_ms: 0, ..Limits::DEFAULT });
    rig.worker.access_log = senders.pop();
    rig.worker.cx.records.recording = Recording::All;
    rig.kernel.pass(1_000);
    run(&mut rig);
    rig.stop();
    while rig.turn() {}
    drop(rig);
    log.finish(LIMIT);
    let text = std::fs::read_to_string(&path).expect("it was written");
    let _ = std::fs::remove_file(&path);
    text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

#[test]
fn a_refused_head_has_a_line() {
    let lines = logged("refused", |rig| {
        rig.client("GET /x HTTP/1.1\r\n\r\n");
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&line["method"], &line["target"], &line["status"]), (&"GET".into(), &"/x".into(), &400.into()));
    assert_eq!((&line["service"], &line["end"], &line["attempts"]), (&"service".into(), &"refused".into(), &0.into()));
}

#[test]
fn a_response_of_the_balancer_itself_has_its_status() {
    let lines = logged("local", |rig| {
        rig.publish(|snapshot| Arc::make_mut(&mut snapshot.services[0]).replicas[0].state = State::Down);
        rig.turn();
        rig.client(GET);
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&line["status"], &line["replica"]), (&503.into(), &Value::Null), "{line}");
    assert!(line["bytes_out"].as_u64() > Some(100), "{line}");
}

#[test]
fn a_tunnel_has_a_line_with_its_service_and_the_time_that_it_took() {
    let lines = logged("tunnel", |rig| {
        rig.publish(|snapshot| {
            Arc::make_mut(&mut snapshot.services[0]).mode = Mode::Tcp;
            Arc::make_mut(&mut snapshot.listeners[0]).mode = Mode::Tcp;
        });
        rig.turn();
        let client = rig.client("hello");
        rig.kernel.pass(250);
        rig.says(rig.upstreams()[0], "bye");
        rig.kernel.ends(rig.upstreams()[0]);
        rig.kernel.ends(client);
        rig.run();
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&line["proto"], &line["service"], &line["end"]),
        (&"TCP".into(), &"service".into(), &"complete".into())
    );
    assert_eq!((&line["bytes_in"], &line["bytes_out"], &line["duration_ms"]), (&5.into(), &3.into(), &250.0.into()));
}
