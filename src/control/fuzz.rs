//! Body of the fuzz target of the admin API: the bytes are the body of an `/add`, of an `/rm` and of a `PATCH`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::registry::{
    Answer, Call, Change, Command, Effect, HealthPolicy, Registry, RegistryConfig, Rejection, ReplicaPatch,
    RequestedState, ServiceConfig, Topology,
};
use super::runtime::revisions::Revision;
use super::runtime::{InstanceId, Spec, Started};
use super::wire;
use crate::core::limits::Limits;
use crate::core::ring::RingKind;
use crate::core::snapshot::{Endpoint, KeyPolicy, Mode, ServiceId};
use crate::core::tick::Tick;

const REPLICAS: u64 = 3;
const MAX_REPLICAS: u64 = 8;
/// The longest error message, in bytes.
const MESSAGE_LIMIT: usize = 1_000;
const SERVICE: ServiceId = ServiceId(0);
const NOW: Tick = Tick(1);

/// A body is parsed as JSON has it or refused in one short line. What was parsed changes the balancer exactly so, or not
/// at all.
pub fn admin(bytes: &[u8]) {
    check_patch(bytes);
    let change = match wire::parse_change(bytes) {
        Ok(change) => change,
        Err(why) => return check_refusal(&why),
    };
    check_parse(bytes, &change);
    check_add(&change);
    check_remove(&change);
}

fn check_refusal(why: &str) {
    assert!(why.len() < MESSAGE_LIMIT && !why.contains(['\n', '\r']), "not one short line: {why:?}");
    let answer: Value = serde_json::from_str(&wire::failure(why)).unwrap_or_default();
    assert_eq!(answer["message"], format!("<Error> {why}"), "the answer has the message");
}

/// A lenient parser finds the same in it, and it is parsed back after it was written.
fn check_parse(bytes: &[u8], change: &Change) {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let n = &value["n"];
    assert_eq!(n.as_u64().or_else(|| n.as_f64().map(|n| n as u64)), Some(change.n));
    let names = value.get("hostnames").cloned().unwrap_or(Value::Array(Vec::new()));
    assert_eq!(names, Value::from(change.hostnames.clone()));
    let written = serde_json::json!({"n": change.n, "hostnames": change.hostnames}).to_string();
    assert_eq!(wire::parse_change(written.as_bytes()).as_ref(), Ok(change));
}

fn check_patch(bytes: &[u8]) {
    let (state, weight) = match wire::parse_patch(bytes) {
        Ok(patch) => patch,
        Err(why) => return check_refusal(&why),
    };
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    assert_eq!(value["weight"].as_f64(), weight.map(f64::from));
    let is_drained = state == Some(RequestedState::Drain);
    assert_eq!(value["state"].as_str(), state.map(|_| if is_drained { "drain" } else { "up" }));
    let mut registry = running();
    let name = "server2".to_owned();
    let effects = call(&mut registry, Call::Patch(ReplicaPatch { name, state, weight }));
    assert!(rejection(&effects).is_none(), "{effects:?}");
    let replicas = registry.status(NOW).replicas;
    let patched = replicas.iter().find(|replica| *replica.name == *"server2");
    let expected = Some((weight.unwrap_or(1), is_drained));
    assert_eq!(patched.map(|replica| (replica.weight, replica.drained)), expected);
}

fn check_add(change: &Change) {
    let mut registry = running();
    let effects = call(&mut registry, Call::Add(change.clone()));
    let started: Vec<&str> = effects.iter().filter_map(start).collect();
    let predicted = predict(Call::Add(Change { dry_run: true, ..change.clone() }));
    match rejection(&effects) {
        Some(rejection) => {
            check_refusal(&rejection.message);
            assert!(rejection.status == 400 && started.is_empty() && predicted.is_none(), "{rejection:?} {effects:?}");
        }
        None => {
            assert!(change.n + REPLICAS <= MAX_REPLICAS && started.len() as u64 == change.n, "{change:?}: {started:?}");
            assert!(change.hostnames.iter().zip(&started).all(|(asked, started)| asked == started), "{started:?}");
            assert!(started.iter().all(|name| is_host_name(name)), "{started:?}");
            let all: BTreeSet<&str> = first_names().chain(started).collect();
            assert_eq!(all.len() as u64, REPLICAS + change.n, "every name is one replica's: {all:?}");
            let predicted: BTreeSet<String> = predicted.unwrap_or_default().into_iter().collect();
            assert!(predicted.iter().eq(&all), "the dry run predicted {predicted:?}");
        }
    }
}

fn check_remove(change: &Change) {
    let mut registry = running();
    let effects = call(&mut registry, Call::Remove(change.clone()));
    let predicted = predict(Call::Remove(Change { dry_run: true, ..change.clone() }));
    let left = members(&mut registry);
    match rejection(&effects) {
        Some(rejection) => {
            check_refusal(&rejection.message);
            assert!(rejection.status == 400 && predicted.is_none(), "{rejection:?}");
            assert!(left.iter().map(String::as_str).eq(first_names()), "nothing changed: {left:?}");
        }
        None => {
            assert_eq!(left.len() as u64 + change.n, REPLICAS, "{change:?}");
            assert!(!left.iter().any(|name| change.hostnames.contains(name)), "{change:?}: {left:?}");
            assert_eq!(predicted.as_ref(), Some(&left), "the dry run predicted it");
        }
    }
}

/// A registry with three running replicas.
fn running() -> Registry {
    let service = ServiceConfig {
        name: "fuzz".into(),
        mode: Mode::Http,
        policy: Default::default(),
        key: KeyPolicy::Request,
        ring: RingKind::Exercise,
        limits: Arc::new(Limits::default()),
        send_proxy: None,
        tls: None,
        replicas: REPLICAS as usize,
        max_replicas: MAX_REPLICAS as usize,
        can_start: true,
        keeps_on_exit: false,
        health: HealthPolicy::default(),
    };
    let config = RegistryConfig { topology: Topology::of_services([service]), workers: 1, seed: 7 };
    let (mut registry, _) = Registry::new(config);
    let found = first_names().zip(1..).map(|(name, instance)| {
        let endpoint = Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 9000 + instance as u16)));
        let spec = Spec {
            service: SERVICE,
            name: name.into(),
            instance: InstanceId::Managed(instance),
            revision: Revision::FIRST,
            replaces: None,
        };
        (spec, Started { endpoint, handle: name.into(), weight: 1 })
    });
    registry.apply(Command::Found(found.collect()), NOW);
    registry
}

fn first_names<'a>() -> impl Iterator<Item = &'a str> {
    ["server1", "server2", "server3"].into_iter()
}

fn call(registry: &mut Registry, call: Call) -> Vec<Effect> {
    registry.apply(Command::Call { ticket: 1, service: SERVICE, call }, NOW)
}

/// The members after a call, as a dry run predicts them.
fn predict(dry: Call) -> Option<Vec<String>> {
    replica_names(&call(&mut running(), dry))
}

fn members(registry: &mut Registry) -> Vec<String> {
    replica_names(&call(registry, Call::List)).unwrap_or_default()
}

fn replica_names(effects: &[Effect]) -> Option<Vec<String>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Replicas(names), .. } => Some(names.iter().map(|n| n.to_string()).collect()),
        _ => None,
    })
}

fn rejection(effects: &[Effect]) -> Option<&Rejection> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Rejected(rejection), .. } => Some(rejection),
        _ => None,
    })
}

fn start(effect: &Effect) -> Option<&str> {
    match effect {
        Effect::Start(spec) => Some(&spec.name),
        _ => None,
    }
}

/// Whether an engine accepts it as a container's name.
fn is_host_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    (2..=63).contains(&name.len())
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_what_its_body_says() {
        for body in [r#"{"state":"drain"}"#, r#"{"weight":2.0,"state":"up"}"#, r#"{"weight":1000}"#, r#"{"n":1}"#, "{}"]
        {
            admin(body.as_bytes());
        }
    }
}
