//! The live page's server-sent events. Pure: a snapshot and counters in, text out.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::control::registry::{ReplicaStatus, Status};
use crate::core::balance::BalanceFactor;
use crate::core::ring::Ring;
use crate::core::snapshot::{Service, Snapshot, State};
use crate::shared::counters::{Counter, Counters};
use crate::shared::histogram::Durations;
use crate::shared::service_metrics::CLASSES;

/// The place of 5xx in `CLASSES`.
const CLASS_5XX: usize = 4;

/// More points than these differ by less than a pixel.
const DRAWN_MAX: u64 = 4096;

/// The ring to draw: each point with the index of its member. Of very many points, those at so many even distances.
#[derive(Serialize)]
struct RingEvent<'a> {
    size: u64,
    names: Vec<&'a str>,
    points: Vec<(u32, usize)>,
}

/// Everything is counted since the start, but for latencies: those of the last period.
#[derive(Serialize)]
struct TotalsEvent<'a> {
    /// When it was made, in milliseconds of a clock that all pages share.
    t: u64,
    requests: u64,
    clients: u64,
    retried: u64,
    refused: u64,
    deaths: u64,
    heals: u64,
    services: Vec<ServiceEvent<'a>>,
}

#[derive(Serialize)]
struct ServiceEvent<'a> {
    name: &'a str,
    mode: &'static str,
    policy: &'static str,
    /// The bound of a replica's load, as a multiple of its share. `null`: there is none.
    balance_factor: Option<f64>,
    up: usize,
    wanted: usize,
    /// Requests, or connections in TCP mode, that have ended; and those whose final status was 5xx.
    ended: u64,
    errors: u64,
    in_flight: u64,
    /// `null`: none ended.
    p50_us: Option<u64>,
    p99_us: Option<u64>,
}

#[derive(Serialize)]
struct ReplicasEvent<'a> {
    service: &'a str,
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

pub fn ring(service: &Service) -> String {
    let kind = service.ring.kind();
    let members = service.replicas.iter().take(service.ring.members());
    let names = members.map(|replica| &*replica.name).collect();
    let exact = || service.ring.points().map(|(position, member)| (kind.place(position), member));
    let is_drawn_exactly = exact().nth(DRAWN_MAX as usize).is_none();
    let points = if is_drawn_exactly { exact().collect() } else { evenly(&service.ring).collect() };
    event("ring", &RingEvent { size: kind.size(), names, points })
}

/// Of a ring on which a key is its position.
fn evenly(ring: &Ring) -> impl Iterator<Item = (u32, usize)> {
    let end = |part: u64| ((part + 1) * ring.kind().size() / DRAWN_MAX - 1) as u32;
    (0..DRAWN_MAX).filter_map(move |part| Some((end(part), ring.walk(end(part)).next()?)))
}

/// A log line with its time in milliseconds since the Unix epoch.
pub fn line(line: &(u64, String)) -> String {
    event("line", line)
}

/// `latencies`: by service of `status`, of the last period.
pub fn totals(
    t: u64,
    snapshot: &Snapshot,
    counters: &[Arc<Counters>],
    status: &Status,
    latencies: &[Option<Durations>],
) -> String {
    let sum = |counter: fn(&Counters) -> &Counter| counters.iter().map(|worker| counter(worker).value()).sum::<u64>();
    let services = status.services.iter().zip(latencies).filter(|(known, _)| !known.is_removed);
    let services = services.filter_map(|(known, latency)| {
        let service = snapshot.service(known.id)?;
        let workers: Vec<_> = counters.iter().filter_map(|worker| worker.services.service(known.id)).collect();
        let ended = |class: usize| workers.iter().map(|worker| worker.exchanges[class].value()).sum::<u64>();
        let members = service.replicas.iter().take(service.ring.members());
        let quantile = |share| latency.as_ref().and_then(|latency| latency.quantile(share));
        Some(ServiceEvent {
            name: &known.name,
            mode: service.mode.name(),
            policy: service.policy.name(),
            balance_factor: service.policy.balance_factor().map(BalanceFactor::value),
            up: members.filter(|replica| replica.state == State::Up).count(),
            wanted: service.ring.members(),
            ended: (0..CLASSES.len()).map(ended).sum(),
            errors: ended(CLASS_5XX),
            in_flight: service.replicas.iter().map(|replica| replica.load.in_flight()).sum(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
        })
    });
    let totals = TotalsEvent {
        t,
        requests: sum(|counters| &counters.requests),
        clients: sum(|counters| &counters.accepted).saturating_sub(sum(|counters| &counters.closed)),
        retried: sum(|counters| &counters.retried),
        refused: sum(|counters| &counters.refused),
        deaths: status.deaths,
        heals: status.heals,
        services: services.collect(),
    };
    event("totals", &totals)
}

/// `shares`: by member, of the ring as it is or was a moment ago.
pub fn replicas(service: &Service, status: &Status, shares: &[f64]) -> String {
    let of_service = status.replicas.iter().filter(|replica| replica.service == service.name);
    let known: HashMap<&str, &ReplicaStatus> = of_service.map(|replica| (&*replica.name, replica)).collect();
    let replicas = service.replicas.iter().enumerate().map(|(at, replica)| {
        let known = known.get(&*replica.name);
        ReplicaEvent {
            name: &replica.name,
            state: known.map_or("down", |known| known.state),
            why: known.and_then(|known| known.why.as_deref()).unwrap_or_default(),
            handle: known.map_or("", |known| &known.handle),
            weight: replica.weight,
            requests: replica.load.total(),
            in_flight: replica.load.in_flight(),
            share: shares.get(at).copied().unwrap_or_default(),
        }
    });
    event("replicas", &ReplicasEvent { service: &service.name, replicas: replicas.collect() })
}

/// JSON has no line break of its own, so one data line holds it.
fn event(name: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::metrics::rings::tests::{service, snapshot};
    use crate::control::registry::ServiceStatus;
    use crate::core::snapshot::{INTERNAL_SERVICE, ServiceId};

    fn data(event: &str) -> serde_json::Value {
        let (_, data) = event.split_once("\ndata: ").expect("data");
        serde_json::from_str(data).expect("JSON")
    }

    #[test]
    fn each_service_of_the_registry_is_one_line_of_the_totals() {
        let snapshot =
            snapshot(vec![service("shop", &["a", "b"]), service("blog", &[]), service(INTERNAL_SERVICE, &["c"])]);
        let registered =
            |id, name: &str| ServiceStatus { id: ServiceId(id), name: name.into(), ..ServiceStatus::default() };
        let removed = ServiceStatus { is_removed: true, ..registered(1, "blog") };
        let services = vec![registered(0, "shop"), registered(1, "blog"), removed];
        let status = Status { services, deaths: 2, ..Status::default() };
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        for worker in &counters {
            let measured = worker.services.follow(&snapshot);
            measured[0].exchanges[1].add(9);
            measured[0].exchanges[CLASS_5XX].count();
        }
        let mut lately = Durations::default();
        (0..98).for_each(|_| lately.record(100));
        (0..2).for_each(|_| lately.record(5_000));
        let event = totals(7, &snapshot, &counters, &status, &[Some(lately), None, None]);
        let totals = data(&event);
        assert_eq!((&totals["t"], &totals["deaths"]), (&7.into(), &2.into()));
        let expected = serde_json::json!([
            {"name": "shop", "mode": "http", "policy": "hash", "balance_factor": null, "up": 2, "wanted": 2, "ended": 20, "errors": 2, "in_flight": 0,
             "p50_us": 100, "p99_us": 5_000},
            {"name": "blog", "mode": "http", "policy": "hash", "balance_factor": null, "up": 0, "wanted": 0, "ended": 0, "errors": 0, "in_flight": 0,
             "p50_us": null, "p99_us": null},
        ]);
        assert_eq!(totals["services"], expected);
        assert_eq!(CLASSES[CLASS_5XX], "5xx");
    }

    /// 30 replicas have 4,800 points.
    #[test]
    fn of_very_many_points_those_at_even_distances_are_drawn() {
        let names: Vec<String> = (1..=30).map(|n| format!("server{n}")).collect();
        let service = |count| service("shop", &names[..count].iter().map(String::as_str).collect::<Vec<_>>());
        let points = |count| data(&ring(&service(count)))["points"].as_array().expect("a list").clone();
        assert_eq!(points(20).len(), 3_200);
        let drawn = points(30);
        assert_eq!(drawn.len(), DRAWN_MAX as usize);
        let ring = &service(30).ring;
        for (at, point) in (1..).zip(&drawn) {
            let position = (at * (1u64 << 32) / DRAWN_MAX - 1) as u32;
            assert_eq!(*point, serde_json::json!([position, ring.walk(position).next()]));
        }
    }

    /// Replicas of two services may have one name.
    #[test]
    fn replicas_are_those_of_their_service() {
        let of = |service: &str, state| ReplicaStatus {
            name: "a".into(),
            service: service.into(),
            address: None,
            weight: 1,
            state,
            weight_percent: 100,
            drained: false,
            why: None,
            state_ms: 0,
            requests: 0,
            in_flight: 0,
            failures: 0,
            handle: String::new(),
        };
        let status = Status { replicas: vec![of("blog", "up"), of("shop", "slow")], ..Status::default() };
        let shop = data(&replicas(&service("shop", &["a", "b"]), &status, &[0.75]));
        assert_eq!(shop["service"], "shop");
        let replicas = shop["replicas"].as_array().expect("a list");
        let shown: Vec<_> = replicas.iter().map(|replica| (&replica["state"], &replica["share"])).collect();
        assert_eq!(shown, [(&"slow".into(), &0.75.into()), (&"down".into(), &0.0.into())]);
    }
}
