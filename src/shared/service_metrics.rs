//! What one worker measured of the exchanges of each service: durations, final statuses, retries. One writer, relaxed,
//! without a lock. Who measures, and what an exchange is, never enters.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::counters::Counter;
use super::histogram::Histogram;
use super::reasons::ReasonTable;
use crate::core::exchange::ExchangeKind;
use crate::core::exchange_record::ExchangeRecord;
use crate::core::snapshot::{Service, ServiceId, Snapshot};

/// Final statuses by class: 1xx (a tunnel's 101) first, then those without any.
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ServiceMetrics {
    pub name: Arc<str>,
    pub exchanges: [Counter; CLASSES.len()],
    pub total: Histogram,
    pub queue: Histogram,
    pub connect: Histogram,
    pub first_byte: Histogram,
    /// Retries by reason; they have no status.
    pub retries: ReasonTable,
}

impl ServiceMetrics {
    fn new(name: Arc<str>) -> ServiceMetrics {
        ServiceMetrics { name, ..ServiceMetrics::default() }
    }

    /// Counts an exchange that has ended. How long a tunnel lasts is up to its peers: it counts as no request's duration.
    #[inline]
    pub fn record(&self, exchange: &ExchangeRecord) {
        let class = exchange.status.map_or(0, |status| usize::from(status / 100)).wrapping_sub(1);
        if let Some(exchanges) = self.exchanges.get(class.min(CLASSES.len() - 1)) {
            exchanges.count();
        }
        let total_us = (exchange.kind == ExchangeKind::Http).then(|| exchange.total_us());
        for (histogram, us) in [
            (&self.total, total_us),
            (&self.queue, exchange.queue_us()),
            (&self.connect, exchange.connect_us()),
            (&self.first_byte, exchange.first_byte_us()),
        ] {
            if let Some(us) = us {
                histogram.record(us);
            }
        }
        if exchange.retries.count() > 0 {
            exchange.retries.reasons().for_each(|reason| self.retries.count(0, reason.name()));
        }
    }
}

/// The services of one worker, by their ids. The worker writes what it holds, without looking here; the table is for readers.
#[derive(Debug, Default)]
pub struct ServiceTable(ArcSwap<Vec<Arc<ServiceMetrics>>>);

impl ServiceTable {
    /// Arranges the services as in `snapshot`. One that stays keeps its counts.
    pub fn follow(&self, snapshot: &Snapshot) -> Arc<Vec<Arc<ServiceMetrics>>> {
        let before = self.0.load_full();
        let is_same = |(kept, service): (&Arc<ServiceMetrics>, &Arc<_>)| is_of(kept, service);
        if before.len() == snapshot.services.len() && before.iter().zip(&snapshot.services).all(is_same) {
            return before;
        }
        let services = snapshot.services.iter().enumerate().map(|(at, service)| {
            let kept = before.get(at).filter(|kept| is_of(kept, service));
            kept.cloned().unwrap_or_else(|| Arc::new(ServiceMetrics::new(service.name.clone())))
        });
        let services = Arc::new(services.collect::<Vec<_>>());
        self.0.store(services.clone());
        services
    }

    pub fn service(&self, id: ServiceId) -> Option<Arc<ServiceMetrics>> {
        self.0.load().get(id.0 as usize).cloned()
    }
}

fn is_of(metrics: &ServiceMetrics, service: &Service) -> bool {
    metrics.name == service.name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::exchange_record::RetryReason;
    use crate::core::snapshot::ReplicaId;
    use crate::core::tick::Stamp;
    use crate::shared::histogram::Durations;

    fn counts(metrics: &ServiceMetrics) -> [u64; 4] {
        let histograms = [&metrics.total, &metrics.queue, &metrics.connect, &metrics.first_byte];
        histograms.map(|histogram| Durations::of([histogram]).count())
    }

    #[test]
    fn an_exchange_is_counted_by_class_and_by_the_phases_that_it_had() {
        let metrics = ServiceMetrics::default();
        let mut exchange = ExchangeRecord { status: Some(204), ..ExchangeRecord::default() };
        metrics.record(&exchange);
        assert_eq!(counts(&metrics), [1, 0, 0, 0], "a local reply");
        exchange.attempt(ReplicaId(1), Stamp(30));
        exchange.times.established = Some(Stamp(40));
        exchange.times.first_byte = Some(Stamp(50));
        exchange.retries.add(RetryReason::StaleConnection);
        metrics.record(&exchange);
        assert_eq!(counts(&metrics), [2, 1, 1, 1]);
        exchange.kind = ExchangeKind::Tunnel;
        exchange.status = None;
        metrics.record(&exchange);
        exchange.status = Some(999);
        metrics.record(&exchange);
        assert_eq!(counts(&metrics), [2, 3, 3, 3], "a tunnel is no request that takes long");
        assert_eq!(metrics.exchanges.each_ref().map(Counter::value), [0, 2, 0, 0, 0, 2]);
        assert_eq!(metrics.retries.each().collect::<Vec<_>>(), [((0, RetryReason::StaleConnection.name()), 3)]);
    }
}
