//! `GET /metrics`: what a scraper gets, summed and computed at each request. Nothing is counted here.
//!
//! Labels are bounded: services and replicas are those of the snapshot, reasons are texts of the program, and nothing that
//! a client sends becomes a label.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | each family with name, help and labels: workers, services, replicas, rings, refusals by reason, certificates, drops; sums over the workers' counters and histograms (`ScrapeSources`, `DropCounts`); build info |
//! | `exposition` | the two text formats: `# HELP`, `# TYPE`, samples, label values escaped, buckets of a histogram, `# EOF`; which one `Accept` prefers (`Format`, quality values) |
//! | `rings` | `RingWatch`: share of each member, digest, and the ratio of keys that the last change moved; each ring computed once, outside the admin thread's turns |
//! | `process` | `process_*` from `/proc/self`: CPU seconds, memory, open and most descriptors, threads, start time |

pub mod exposition;
pub mod process;
pub mod rings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::operations::OperationCounters;
use super::registry::{ServiceStatus, Status};
use crate::core::snapshot::{Lifecycle, Replica, Service, Snapshot, State};
use crate::shared::counters::{Counters, Gauge, Gauges};
use crate::shared::histogram::{Durations, Histogram};
use crate::shared::reasons::{Reason, ReasonTable};
use crate::shared::service_metrics::{CLASSES, ServiceMetrics};
use exposition::{Exposition, Format, Labels, MetricKind};
use process::ProcessFacts;
use rings::RingFacts;

/// The commit that the binary was built from, where the build says it.
const COMMIT: &str = match option_env!("RINGWAY_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// What was dropped because no reader took it in time.
#[derive(Clone, Copy, Debug, Default)]
pub struct DropCounts {
    pub worker_events: u64,
    pub log_lines: u64,
    pub access_log_lines: u64,
}

/// What the page is made from.
pub struct ScrapeSources<'a> {
    pub snapshot: &'a Snapshot,
    pub counters: &'a [Arc<Counters>],
    pub status: &'a Status,
    pub dropped: DropCounts,
    pub operations: &'a OperationCounters,
    /// By service of the snapshot.
    pub rings: &'a [Arc<RingFacts>],
    pub process: ProcessFacts,
}

/// The whole page.
pub fn page(sources: &ScrapeSources, format: Format) -> String {
    let mut page = Exposition::new(format);
    sources.totals(&mut page);
    sources.reasons(&mut page);
    sources.workers(&mut page);
    sources.services(&mut page);
    sources.replicas(&mut page);
    sources.rings(&mut page);
    sources.dropped(&mut page);
    sources.operations(&mut page);
    sources.certificates(&mut page);
    let info = Labels::new().with("version", env!("CARGO_PKG_VERSION")).with("commit", COMMIT);
    page.family(MetricKind::Info, "ringway_build", "version and commit of the binary", [(info, 1)]);
    sources.process.write(&mut page);
    page.finish()
}

impl ScrapeSources<'_> {
    /// Each plain counter over all workers. Those of one family stand behind each other.
    fn totals(&self, page: &mut Exposition) {
        let mut totals = Counters::default().each();
        for worker in self.counters {
            for (total, counted) in totals.iter_mut().zip(worker.each()) {
                total.value = total.value.wrapping_add(counted.value);
            }
        }
        for family in totals.chunk_by(|one, next| one.family == next.family) {
            let Some(first) = family.first() else { continue };
            let labels =
                |labels: &[(&str, &str)]| labels.iter().fold(Labels::new(), |all, (name, value)| all.with(name, value));
            let samples = family.iter().map(|counted| (labels(counted.labels), counted.value));
            page.family(MetricKind::Counter, &format!("ringway_{}", first.family), first.help, samples);
        }
    }

    fn reasons(&self, page: &mut Exposition) {
        let rows = |table: fn(&Counters) -> &ReasonTable| {
            let rows = summed(self.counters.iter().flat_map(move |worker| table(worker).each()));
            rows.into_iter()
                .map(|((code, reason), count)| (Labels::new().with("code", code).with("reason", reason), count))
        };
        let replies = rows(|counters| &counters.replies);
        page.family(MetricKind::Counter, "ringway_local_replies", "responses of the balancer itself", replies);
        let help = "connections that the balancer reset, since it could not say this status";
        page.family(MetricKind::Counter, "ringway_local_resets", help, rows(|counters| &counters.resets));
    }

    fn workers(&self, page: &mut Exposition) {
        let counters = self.counters;
        let gauge =
            |gauge: fn(&Gauges) -> &Gauge| counters.iter().map(|worker| gauge(&worker.gauges).value()).sum::<u64>();
        page.value(MetricKind::Gauge, "ringway_connections", "client connections that are open", gauge(|g| &g.clients));
        let help = "TLS handshakes of clients that are under way";
        page.value(MetricKind::Gauge, "ringway_tls_handshakes_under_way", help, gauge(|g| &g.handshakes));
        let in_use = gauge(|g| &g.upstreams_in_use);
        let idle = gauge(|g| &g.upstreams).saturating_sub(in_use);
        let connections =
            [("in_use", in_use), ("idle", idle)].map(|(state, n)| (Labels::new().with("state", state), n));
        page.family(
            MetricKind::Gauge,
            "ringway_upstream_connections",
            "connections to replicas that are open",
            connections,
        );
        let queued = gauge(|g| &g.queued);
        page.value(MetricKind::Gauge, "ringway_queued", "requests that wait for a replica with room", queued);
        page.value(MetricKind::Gauge, "ringway_buffers", "buffers that hold bytes in transit", gauge(|g| &g.buffers));
        page.value(MetricKind::Gauge, "ringway_pipes", "pipes that are open for splicing", gauge(|g| &g.pipes));
        page.value(MetricKind::Gauge, "ringway_workers", "worker threads", counters.len());
        let of = |value: fn(&Counters) -> u64| {
            counters.iter().enumerate().map(move |(i, worker)| (Labels::new().with("worker", i), value(worker)))
        };
        let accepted = of(|worker| worker.accepted.value());
        page.family(
            MetricKind::Counter,
            "ringway_worker_accepted",
            "client connections accepted by each worker",
            accepted,
        );
        let turns = counters.iter().map(|worker| Durations::of([&worker.turns])).enumerate();
        let busy = turns.map(|(i, turns)| (Labels::new().with("worker", i), turns.sum_seconds()));
        page.family(MetricKind::Counter, "ringway_worker_busy_seconds", "time that each worker was busy", busy);
        let turns = Durations::of(counters.iter().map(|worker| &worker.turns));
        let help = "busy time of the turns of all workers, from the end of a wait to the begin of the next";
        page.histogram("ringway_turn_duration_seconds", help, [(Labels::new(), turns)]);
    }

    /// A service with what the snapshot says of it. Those that the registry does not own are not shown: the admin API.
    fn each_service(&self) -> impl Iterator<Item = (&ServiceStatus, &Service)> {
        self.listed().filter_map(|status| Some((status, self.snapshot.service(status.id)?)))
    }

    /// Those that a configuration names.
    fn listed(&self) -> impl Iterator<Item = &ServiceStatus> {
        self.status.services.iter().filter(|service| !service.is_removed)
    }

    fn services(&self, page: &mut Exposition) {
        let counted = |value: fn(&ServiceStatus) -> u64| {
            self.listed().map(move |service| (of_service(&service.name), value(service)))
        };
        let help = "replicas that ended or stopped answering";
        page.family(MetricKind::Counter, "ringway_deaths", help, counted(|service| service.deaths));
        let help = "replicas that were replaced or came back";
        page.family(MetricKind::Counter, "ringway_heals", help, counted(|service| service.heals.count()));
        let help = "times that a slow replica was ejected";
        page.family(MetricKind::Counter, "ringway_ejections", help, counted(|service| service.ejections));
        let help = "replicas that a rolling replacement is still to reach";
        page.family(MetricKind::Gauge, "ringway_outdated_replicas", help, counted(|service| service.outdated as u64));
        let help = "1 if the newest settings of a service's replicas did not work: those before are in force";
        let refused = counted(|service| u64::from(service.refused.is_some()));
        page.family(MetricKind::Gauge, "ringway_settings_refused", help, refused);
        let heals = self.listed().map(|service| (of_service(&service.name), service.heals.clone()));
        let help = "from the loss of a replica until its replacement answered";
        page.histogram("ringway_heal_duration_seconds", help, heals);
        self.sources(page);
        self.exchanges(page);
    }

    fn sources(&self, page: &mut Exposition) {
        let sources =
            || self.listed().filter_map(|service| Some((of_service(&service.name), service.source.as_ref()?)));
        let up = sources().map(|(labels, source)| (labels, u64::from(source.state != "lost")));
        let help = "0 while the source that lists a service's replicas fails";
        page.family(MetricKind::Gauge, "ringway_source_up", help, up);
        let ages = sources().filter_map(|(labels, source)| Some((labels, source.age_ms? as f64 / 1_000.0)));
        let help = "age of the last answer that was believed of the source that lists a service's replicas";
        page.family(MetricKind::Gauge, "ringway_source_age_seconds", help, ages);
        let errors = sources().map(|(labels, source)| (labels, source.errors));
        let help = "questions to the source that lists a service's replicas that failed";
        page.family(MetricKind::Counter, "ringway_source_errors", help, errors);
    }

    /// What the workers measured of each service.
    fn measured(&self) -> Vec<(Labels, Vec<Arc<ServiceMetrics>>)> {
        let of_workers =
            |status: &ServiceStatus| self.counters.iter().filter_map(|w| w.services.service(status.id)).collect();
        self.each_service().map(|(status, _)| (of_service(&status.name), of_workers(status))).collect()
    }

    fn exchanges(&self, page: &mut Exposition) {
        let measured = self.measured();
        let ended = measured.iter().flat_map(|(labels, workers)| {
            CLASSES.iter().enumerate().map(move |(class, code)| {
                let count: u64 = workers.iter().map(|worker| worker.exchanges[class].value()).sum();
                (labels.clone().with("code", code), count)
            })
        });
        let help = "requests that ended, by class of the final response";
        page.family(MetricKind::Counter, "ringway_service_requests", help, ended);
        let retries = measured.iter().flat_map(|(labels, workers)| {
            let rows = summed(workers.iter().flat_map(|worker| worker.retries.each()));
            rows.into_iter().map(|((_, reason), count)| (labels.clone().with("reason", reason), count))
        });
        page.family(
            MetricKind::Counter,
            "ringway_service_retries",
            "requests that were sent again, by reason",
            retries,
        );
        let mut histogram = |name: &str, help: &str, of: fn(&ServiceMetrics) -> &Histogram| {
            let durations = |workers: &[Arc<ServiceMetrics>]| Durations::of(workers.iter().map(|worker| of(worker)));
            let samples = measured.iter().map(|(labels, workers)| (labels.clone(), durations(workers)));
            page.histogram(&format!("ringway_{name}_duration_seconds"), help, samples);
        };
        let help = "from the first byte of a request to the last of its response";
        histogram("request", help, |service| &service.total);
        histogram("queue", "until a connection to a replica was had", |service| &service.queue);
        histogram("upstream_connect", "until a new connection to a replica was established", |s| &s.connect);
        let help = "from the end of a request to the replica's first byte";
        histogram("upstream_first_byte", help, |service| &service.first_byte);
    }

    /// Each replica that is shown, with its labels: one for each name. An instance that drains has the name of the one that
    /// took its place.
    fn each_replica(&self) -> impl Iterator<Item = (Labels, &Replica)> {
        self.each_service().flat_map(|(status, service)| {
            let mut names = BTreeSet::new();
            let first = service.replicas.iter().filter(move |replica| names.insert(&replica.name));
            first.map(|replica| (of_service(&status.name).with("replica", &replica.name), replica))
        })
    }

    /// Requests in flight by replica, at instances that drain too.
    fn in_flight(&self) -> impl Iterator<Item = (Labels, u64)> {
        self.each_service().flat_map(|(status, service)| {
            let mut by_name = BTreeMap::new();
            for replica in &service.replicas {
                *by_name.entry(&replica.name).or_default() += replica.load.in_flight();
            }
            by_name.into_iter().map(|(name, count)| (of_service(&status.name).with("replica", name), count))
        })
    }

    /// Of each replica on a ring.
    fn drained(&self) -> impl Iterator<Item = (Labels, u64)> {
        let drained = self.status.replicas.iter().filter(|replica| replica.drained);
        let drained: BTreeSet<(&str, &str)> = drained.map(|replica| (&*replica.service, &*replica.name)).collect();
        self.each_service().flat_map(move |(status, service)| {
            let on_ring = service.replicas.iter().take(service.ring.members());
            let is_drained = |replica: &Replica| u64::from(drained.contains(&(&*status.name, &*replica.name)));
            let sample =
                |replica: &Replica| (of_service(&status.name).with("replica", &replica.name), is_drained(replica));
            on_ring.map(sample).collect::<Vec<_>>()
        })
    }

    fn replicas(&self, page: &mut Exposition) {
        let each = |value: fn(&Replica) -> u64| self.each_replica().map(move |(labels, r)| (labels, value(r)));
        let help = "requests for which a replica was chosen";
        page.family(MetricKind::Counter, "ringway_replica_requests", help, each(|r| r.load.total()));
        let help = "requests in flight at a replica";
        page.family(MetricKind::Gauge, "ringway_replica_requests_in_flight", help, self.in_flight());
        let help = "1 if the replica takes requests";
        page.family(MetricKind::Gauge, "ringway_replica_up", help, each(|r| u64::from(r.state == State::Up)));
        let help = "the part of its weight that the replica takes: less than 1 while it starts slowly";
        let ramps = self.each_replica().map(|(labels, r)| (labels, f64::from(r.ramp.per_mille()) / 1000.0));
        page.family(MetricKind::Gauge, "ringway_replica_ramp_ratio", help, ramps);
        let help = "1 if an operator drained the replica";
        page.family(MetricKind::Gauge, "ringway_replica_drained", help, self.drained());
        let responses = self.each_replica().flat_map(|(labels, replica)| {
            let classes = CLASSES.iter().zip(replica.load.responses());
            classes.map(move |(code, count)| (labels.clone().with("code", code), count)).collect::<Vec<_>>()
        });
        let help = "responses of a replica by class, informational ones included";
        page.family(MetricKind::Counter, "ringway_replica_responses", help, responses);
    }

    fn rings(&self, page: &mut Exposition) {
        let rings: Vec<(Labels, &Service, &RingFacts)> = self
            .each_service()
            .filter_map(|(status, service)| {
                Some((of_service(&status.name), service, &**self.rings.get(status.id.0 as usize)?))
            })
            .collect();
        let digests =
            rings.iter().map(|(labels, _, ring)| (labels.clone().with("digest", format!("{:08x}", ring.digest)), 1));
        let help = "CRC-32 of names, weights and points: equal where equal keys go to equal replicas";
        page.family(MetricKind::Info, "ringway_ring", help, digests);
        let changes = rings.iter().map(|(labels, _, ring)| (labels.clone(), ring.changes));
        page.family(MetricKind::Counter, "ringway_ring_changes", "changes of the ring's members or weights", changes);
        let moved = rings.iter().map(|(labels, _, ring)| (labels.clone(), ring.moved));
        let help = "part of all keys that the last change of the ring moved to another replica";
        page.family(MetricKind::Gauge, "ringway_ring_moved_ratio", help, moved);
        let shares = rings.iter().flat_map(|(labels, service, ring)| {
            let named = service.replicas.iter().zip(&ring.shares);
            named.map(|(replica, share)| (labels.clone().with("replica", &replica.name), *share))
        });
        page.family(
            MetricKind::Gauge,
            "ringway_replica_share_ratio",
            "part of all keys that the ring gives a replica",
            shares,
        );
        let ideals = rings.iter().flat_map(|(labels, service, ring)| {
            let members = service.replicas.iter().take(ring.shares.len());
            let weights: u64 = members.clone().map(|replica| u64::from(replica.weight)).sum();
            let ideal = move |replica: &Replica| f64::from(replica.weight) / weights.max(1) as f64;
            members.map(move |replica| (labels.clone().with("replica", &replica.name), ideal(replica)))
        });
        let help = "weight of a replica over the weights of all";
        page.family(MetricKind::Gauge, "ringway_replica_ideal_share_ratio", help, ideals);
        page.value(MetricKind::Gauge, "ringway_epoch", "number of the snapshot in force", self.snapshot.epoch);
    }

    fn operations(&self, page: &mut Exposition) {
        let reloads = ["taken", "refused"].into_iter().zip(self.operations.reloads());
        let reloads = reloads.map(|(result, count)| (Labels::new().with("result", result), count));
        page.family(MetricKind::Counter, "ringway_reloads", "reloads of the configuration by result", reloads);
        let help = "0 if the last reload was refused: the file is not in force";
        let is_in_force = u64::from(!self.operations.is_last_reload_refused());
        page.value(MetricKind::Gauge, "ringway_last_reload_successful", help, is_in_force);
        let help = "upgrades whose new process did not get ready";
        page.value(MetricKind::Counter, "ringway_upgrades_failed", help, self.operations.failed_upgrades());
        let denied = self.operations.denied();
        let denied = denied.map(|(why, count)| (Labels::new().with("reason", why.as_str()), count));
        page.family(MetricKind::Counter, "ringway_admin_denied", "admin calls denied by what was wrong", denied);
    }

    fn certificates(&self, page: &mut Exposition) {
        let serving = self.snapshot.listeners.iter().filter(|listener| listener.lifecycle == Lifecycle::Serving);
        let offered = serving.filter_map(|listener| Some((&listener.name, listener.tls.as_ref()?)));
        let expiries = offered.flat_map(|(listener, policy)| {
            policy.certificates().iter().map(move |certificate| {
                let labels = Labels::new().with("listener", listener).with("certificate", &certificate.pair);
                (labels, certificate.expires)
            })
        });
        let help = "when a certificate in force expires, in seconds since 1970";
        page.family(MetricKind::Gauge, "ringway_tls_certificate_expiry_timestamp_seconds", help, expiries);
        let help = "files of certificates and keys that cannot be used: those before are in force";
        let refused = self.operations.refused_certificates();
        page.value(MetricKind::Gauge, "ringway_tls_certificates_refused", help, refused);
        let orders = ["issued", "failed"].into_iter().zip(self.operations.orders());
        let orders = orders.map(|(result, count)| (Labels::new().with("result", result), count));
        let help = "orders of certificates at an ACME server by result";
        page.family(MetricKind::Counter, "ringway_acme_orders", help, orders);
    }

    fn dropped(&self, page: &mut Exposition) {
        let DropCounts { worker_events, log_lines, access_log_lines } = self.dropped;
        let help = "worker events dropped because the channel was full";
        page.value(MetricKind::Counter, "ringway_worker_events_dropped", help, worker_events);
        let help = "log lines dropped because stderr did not take them";
        page.value(MetricKind::Counter, "ringway_log_lines_dropped", help, log_lines);
        let help = "lines of the access log dropped because they could not be written";
        page.value(MetricKind::Counter, "ringway_access_log_unwritten", help, access_log_lines);
    }
}

fn of_service(name: &str) -> Labels {
    Labels::new().with("service", name)
}

/// Rows of several workers with one of each reason, in order.
fn summed(rows: impl Iterator<Item = (Reason, u64)>) -> BTreeMap<Reason, u64> {
    let mut sums = BTreeMap::new();
    rows.for_each(|(reason, count)| *sums.entry(reason).or_default() += count);
    sums
}

#[cfg(test)]
mod tests {
    use super::rings::tests::{service, snapshot};
    use super::*;
    use crate::core::snapshot::ServiceId;

    fn written(counters: &[Arc<Counters>], snapshot: &Snapshot) -> String {
        let registered = ServiceStatus { id: ServiceId(0), name: "shop".into(), ..ServiceStatus::default() };
        let status = Status { services: vec![registered], ..Status::default() };
        let rings = [Arc::new(RingFacts { digest: 0xab, shares: vec![0.25, 0.75], moved: 0.5, changes: 3 })];
        let (dropped, process) = (DropCounts::default(), ProcessFacts::default());
        page(
            &ScrapeSources {
                snapshot,
                counters,
                status: &status,
                dropped,
                operations: &OperationCounters::default(),
                rings: &rings,
                process,
            },
            Format::Prometheus,
        )
    }

    /// Also `ringway_local_resets_total`, whose resets take long to bring about over a real socket.
    #[test]
    fn workers_are_summed_and_every_family_is_described_once() {
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        let snapshot = snapshot(vec![service("shop", &["a", "b"]), service("admin", &["c"])]);
        for (worker, n) in counters.iter().zip([3, 4]) {
            worker.requests.add(n);
            worker.replies.count(503, "none");
            worker.turns.record(2_000_000);
            worker.gauges.upstreams.set(5);
            worker.gauges.upstreams_in_use.set(2);
            worker.gauges.queued.set(3);
            worker.services.follow(&snapshot)[0].exchanges[1].add(n);
        }
        counters[1].resets.count(504, "none");
        let page = written(&counters, &snapshot);
        for line in [
            "ringway_requests_total 7",
            "ringway_queued 6",
            "ringway_local_replies_total{code=\"503\",reason=\"none\"} 2",
            "ringway_local_resets_total{code=\"504\",reason=\"none\"} 1",
            "ringway_upstream_connections{state=\"idle\"} 6",
            "ringway_worker_busy_seconds_total{worker=\"1\"} 2",
            "ringway_turn_duration_seconds_count 2",
            "ringway_service_requests_total{service=\"shop\",code=\"2xx\"} 7",
            "ringway_replica_up{service=\"shop\",replica=\"b\"} 1",
            "ringway_replica_drained{service=\"shop\",replica=\"b\"} 0",
            "ringway_replica_share_ratio{service=\"shop\",replica=\"b\"} 0.75",
            "ringway_replica_ideal_share_ratio{service=\"shop\",replica=\"b\"} 0.5",
            "ringway_ring_info{service=\"shop\",digest=\"000000ab\"} 1",
            "ringway_ring_moved_ratio{service=\"shop\"} 0.5",
            "ringway_epoch 9",
        ] {
            assert!(page.lines().any(|written| written == line), "{line} is missing\n{page}");
        }
        assert!(!page.contains("service=\"admin\""), "a service that the registry does not own");
        let described: Vec<&str> = page.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        for family in &described {
            assert_eq!(described.iter().filter(|other| other == &family).count(), 1, "{family}");
        }
    }

    /// A scraper refuses a page that has a series twice.
    #[test]
    fn an_instance_that_drains_and_the_one_in_its_place_are_one_series() {
        let mut shown = Service::clone(&service("shop", &["a", "b"]));
        let before = shown.replicas[1].clone();
        shown.replicas[1].load = Arc::new(before.load.successor());
        before.load.start(0);
        before.load.respond(0, [0, 3, 0, 0, 0]);
        shown.replicas[1].load.start(0);
        shown.replicas.push(Replica { state: State::Draining, ..before });
        let page = written(&[], &snapshot(vec![Arc::new(shown)]));
        for line in [
            "ringway_replica_requests_total{service=\"shop\",replica=\"b\"} 2",
            "ringway_replica_requests_in_flight{service=\"shop\",replica=\"b\"} 2",
            "ringway_replica_up{service=\"shop\",replica=\"b\"} 1",
            "ringway_replica_responses_total{service=\"shop\",replica=\"b\",code=\"2xx\"} 3",
        ] {
            assert!(page.lines().any(|written| written == line), "{line} is missing\n{page}");
        }
        let series: Vec<&str> = page.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect();
        for name in series.iter().filter(|name| name.starts_with("ringway_replica")) {
            assert_eq!(series.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_service_that_stays_keeps_its_counts_and_another_one_begins_with_none() {
        let counters = Arc::new(Counters::default());
        let count = |services: &[&str]| {
            let services = services.iter().map(|name| service(name, &["a"])).collect();
            let snapshot = snapshot(services);
            counters.services.follow(&snapshot)[0].exchanges[1].count();
            let page = written(std::slice::from_ref(&counters), &snapshot);
            let line =
                page.lines().find(|line| line.starts_with("ringway_service_requests_total") && line.contains("2xx"));
            line.and_then(|line| line.rsplit(' ').next()).map(String::from)
        };
        assert_eq!(count(&["shop"]).as_deref(), Some("1"));
        assert_eq!(count(&["shop", "other"]).as_deref(), Some("2"));
        assert_eq!(count(&["renamed", "other"]).as_deref(), Some("1"));
    }
}
