//! `GET /metrics`: counters and gauges in Prometheus' text format, summed at each request.

use std::fmt::{Display, Write};
use std::sync::Arc;

use super::registry::Status;
use crate::core::snapshot::{Snapshot, State};
use crate::shared::counters::Counters;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What was dropped because no reader took it in time.
#[derive(Clone, Copy, Debug, Default)]
pub struct DropCounts {
    pub worker_events: u64,
    pub log_lines: u64,
    pub access_log_lines: u64,
}

/// The whole page.
pub fn page(snapshot: &Snapshot, counters: &[Arc<Counters>], status: &Status, dropped: DropCounts) -> String {
    let mut page = String::new();
    for (name, help, total) in totals(counters) {
        let name = format!("ringway_{name}_total");
        family(&mut page, &name, "counter", help, [(String::new(), total)]);
    }
    replicas(&mut page, snapshot);
    let plain = |value: u64| [(String::new(), value)];
    family(
        &mut page,
        "ringway_deaths_total",
        "counter",
        "replicas that ended or stopped answering",
        plain(status.deaths),
    );
    family(
        &mut page,
        "ringway_heals_total",
        "counter",
        "replicas that were replaced or came back",
        plain(status.heals),
    );
    family(
        &mut page,
        "ringway_worker_events_dropped_total",
        "counter",
        "worker events dropped because the channel was full",
        plain(dropped.worker_events),
    );
    family(
        &mut page,
        "ringway_log_lines_dropped_total",
        "counter",
        "log lines dropped because stderr did not take them",
        plain(dropped.log_lines),
    );
    family(
        &mut page,
        "ringway_access_log_unwritten_total",
        "counter",
        "lines of the access log dropped because they could not be written",
        plain(dropped.access_log_lines),
    );
    family(&mut page, "ringway_epoch", "gauge", "number of the snapshot in force", plain(snapshot.epoch));
    family(&mut page, "ringway_workers", "gauge", "worker threads", plain(counters.len() as u64));
    page
}

fn replicas(page: &mut String, snapshot: &Snapshot) {
    let replicas = || snapshot.services.first().into_iter().flat_map(|service| &service.replicas);
    let label = |name: &str| format!("{{replica=\"{}\"}}", escape(name));
    let requests = replicas().map(|r| (label(&r.name), r.load.total()));
    family(page, "ringway_replica_requests_total", "counter", "requests for which a replica was chosen", requests);
    let in_flight = replicas().map(|r| (label(&r.name), r.load.in_flight()));
    family(page, "ringway_replica_requests_in_flight", "gauge", "requests in flight at a replica", in_flight);
    let up = replicas().map(|r| (label(&r.name), u64::from(r.state == State::Up)));
    family(page, "ringway_replica_up", "gauge", "1 if the replica takes requests", up);
}

/// Each counter over all workers.
fn totals(counters: &[Arc<Counters>]) -> Vec<(&'static str, &'static str, u64)> {
    let mut totals = Counters::default().each();
    for worker in counters {
        for (total, (_, _, value)) in totals.iter_mut().zip(worker.each()) {
            total.2 = total.2.wrapping_add(value);
        }
    }
    totals
}

fn family(
    page: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (String, impl Display)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} {kind}", help.trim());
    for (labels, value) in samples {
        let _ = writeln!(page, "{name}{labels} {value}");
    }
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed_and_every_family_is_described_once() {
        let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        counters[0].requests.add(3);
        counters[1].requests.add(4);
        let snapshot = Snapshot::empty(9);
        let page = page(&snapshot, &counters, &Status::default(), DropCounts::default());
        assert!(page.contains("\nringway_requests_total 7\n"), "{page}");
        assert!(page.contains("\nringway_epoch 9\n"));
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split([' ', '{']).next().unwrap();
            assert_eq!(page.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escape("a\"b\\c\n"), "a\\\"b\\\\c\\n");
    }
}
