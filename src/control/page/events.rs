//! The live page's server-sent events. Pure: a snapshot and counters in, text out.

use std::time::Duration;

use serde::Serialize;

use crate::control::admin::AdminState;
use crate::control::registry::Status;
use crate::core::snapshot::Snapshot;
use crate::shared::counters::{Counter, Counters};

/// The ring to draw: each point with the index of its member.
#[derive(Serialize)]
struct RingEvent<'a> {
    size: u64,
    names: Vec<&'a str>,
    points: Vec<(u32, usize)>,
}

#[derive(Serialize)]
struct NowEvent<'a> {
    /// Milliseconds since the page was opened.
    t: u64,
    requests: u64,
    clients: u64,
    retried: u64,
    refused: u64,
    deaths: u64,
    heals: u64,
    replicas: Vec<ReplicaEvent<'a>>,
}

#[derive(Serialize)]
struct ReplicaEvent<'a> {
    name: &'a str,
    state: &'a str,
    /// Why it is not up.
    why: &'a str,
    handle: &'a str,
    weight: u32,
    requests: u64,
    in_flight: u64,
    /// Of all keys, from 0 to 1, exactly.
    share: f64,
}

pub fn ring(snapshot: &Snapshot) -> String {
    let Some(service) = snapshot.services.first() else { return String::new() };
    let kind = service.ring.kind();
    let members = service.replicas.iter().take(service.ring.members());
    let points = service.ring.points().map(|(position, member)| (kind.place(position), member));
    let names = members.map(|replica| &*replica.name).collect();
    event("ring", &RingEvent { size: kind.size(), names, points: points.collect() })
}

/// A log line with its time in milliseconds since the Unix epoch.
pub fn line(line: &(u64, String)) -> String {
    event("line", line)
}

pub fn now(snapshot: &Snapshot, state: &AdminState, status: &Status, since: Duration) -> String {
    let sum = |counter: fn(&Counters) -> &Counter| state.counters.iter().map(|worker| counter(worker).value()).sum();
    let shares = snapshot.services.first().map(|service| service.ring.shares());
    let replicas = snapshot.services.iter().take(1).flat_map(|service| &service.replicas).enumerate();
    let replicas = replicas.map(|(at, replica)| {
        let known = status.replicas.iter().find(|known| known.name == replica.name);
        ReplicaEvent {
            name: &replica.name,
            state: known.map_or("down", |known| known.state),
            why: known.and_then(|known| known.why.as_deref()).unwrap_or_default(),
            handle: known.map_or("", |known| &known.handle),
            weight: replica.weight,
            requests: replica.load.total(),
            in_flight: replica.load.in_flight(),
            share: shares.as_ref().filter(|shares| at < shares.keys.len()).map_or(0.0, |shares| shares.of(at)),
        }
    });
    let accepted: u64 = sum(|counters| &counters.accepted);
    let event_now = NowEvent {
        t: since.as_millis() as u64,
        requests: sum(|counters| &counters.requests),
        clients: accepted.saturating_sub(sum(|counters| &counters.closed)),
        retried: sum(|counters| &counters.retried),
        refused: sum(|counters| &counters.refused),
        deaths: status.deaths,
        heals: status.heals,
        replicas: replicas.collect(),
    };
    event("now", &event_now)
}

/// JSON has no line break of its own, so one data line holds it.
fn event(name: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n")
}
