//! What every page shows: the totals and one line for each service. It is made at most twice a second, however many
//! pages are open, and not at all while there is none. Rings and replicas of one service never enter.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::events;
use crate::control::admin::AdminState;
use crate::control::registry::{ServiceStatus, Status};
use crate::core::snapshot::Snapshot;
use crate::shared::counters::Counters;
use crate::shared::histogram::Durations;

/// Pages that ask within this time get the same. Below the pages' period: no page gets the same twice.
const FRESH: Duration = Duration::from_millis(500);
/// Latencies since an overview older than this are those of another time.
const STALE: Duration = Duration::from_secs(3);

pub struct Overview {
    pub snapshot: Arc<Snapshot>,
    pub status: Status,
    /// The event that says it.
    pub event: String,
}

pub struct OverviewCache {
    began: Instant,
    last: Mutex<Option<Last>>,
}

struct Last {
    at: Instant,
    overview: Arc<Overview>,
    /// By service, since the start.
    durations: Vec<(Arc<str>, Durations)>,
}

impl Default for OverviewCache {
    fn default() -> Self {
        OverviewCache { began: Instant::now(), last: Mutex::default() }
    }
}

impl OverviewCache {
    /// `None`: the balancer has ended.
    pub async fn current(&self, state: &AdminState) -> Option<Arc<Overview>> {
        let mut last = self.last.lock().await;
        if let Some(fresh) = last.as_ref().filter(|last| last.at.elapsed() < FRESH) {
            return Some(fresh.overview.clone());
        }
        let (status, snapshot, at) = (state.status().await.ok()?, state.snapshots.current(), Instant::now());
        let durations: Vec<_> = status.services.iter().map(|service| measured(service, &state.counters)).collect();
        let before = last.as_ref().filter(|last| last.at.elapsed() < STALE);
        let lately = |name: &Arc<str>, now: &Durations| {
            let (_, before) = before?.durations.iter().find(|(known, _)| known == name)?;
            Some(now.since(before))
        };
        let latencies: Vec<_> = durations.iter().map(|(name, now)| lately(name, now)).collect();
        let t = at.duration_since(self.began).as_millis() as u64;
        let event = events::totals(t, &snapshot, &state.counters, &status, &latencies);
        let overview = Arc::new(Overview { snapshot, status, event });
        *last = Some(Last { at, overview: overview.clone(), durations });
        Some(overview)
    }
}

fn measured(service: &ServiceStatus, counters: &[Arc<Counters>]) -> (Arc<str>, Durations) {
    let workers: Vec<_> = counters.iter().filter_map(|worker| worker.services.service(service.id)).collect();
    (service.name.clone(), Durations::of(workers.iter().map(|worker| &worker.total)))
}
