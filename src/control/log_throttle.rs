//! Turns workers' events into log lines, few enough to read: the first of a kind at once, and then once a second how many
//! more there were. Pure: events and the time go in, lines come out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log::Level;

use super::registry::readable;
use crate::core::snapshot::{ReplicaId, Snapshot};
use crate::core::step::{FaultKind, ReplicaFault};
use crate::core::tick::Tick;
use crate::shared::events::{Cap, Resource, WorkerEvent};

const WINDOW_MS: u64 = 1_000;
/// So many names of instances that are gone are kept, for events that come late.
const FORMER_NAMES_LIMIT: usize = 1024;
/// Kinds of lines that are counted apart in one window. Lines beyond them are dropped.
const KINDS_LIMIT: usize = 1024;

#[derive(Default)]
pub struct LogThrottle {
    names: BTreeMap<ReplicaId, Arc<str>>,
    open: BTreeMap<Kind, Window>,
}

/// What is counted together: the same event at the same replica.
type Kind = (&'static str, ReplicaId);

struct Window {
    ends: Tick,
    more: u64,
    level: Level,
    line: String,
}

impl LogThrottle {
    /// Learns the names of the replicas that events will be about.
    pub fn learn(&mut self, snapshot: &Snapshot) {
        let replicas = || snapshot.services.iter().flat_map(|service| &service.replicas);
        for replica in replicas() {
            self.names.entry(replica.id).or_insert_with(|| replica.name.clone());
        }
        let excess = self.names.len().saturating_sub(replicas().count() + FORMER_NAMES_LIMIT);
        if excess > 0 {
            let shown: BTreeSet<ReplicaId> = replicas().map(|replica| replica.id).collect();
            let former = self.names.keys().filter(|id| !shown.contains(id));
            let oldest: Vec<ReplicaId> = former.copied().take(excess).collect();
            oldest.iter().for_each(|id| drop(self.names.remove(id)));
        }
    }

    /// The line to write now, if the event is the first of its kind in this window.
    pub fn note(&mut self, event: &WorkerEvent, now: Tick) -> Option<(Level, String)> {
        let (kind, level) = kind_of(event);
        let line = self.line(event);
        if let Some(window) = self.open.get_mut(&kind) {
            window.more += 1;
            window.line = line;
            return None;
        }
        if self.open.len() >= KINDS_LIMIT {
            return None;
        }
        let window = Window { ends: now.after_ms(WINDOW_MS), more: 0, level, line: line.clone() };
        self.open.insert(kind, window);
        Some((level, line))
    }

    /// Lines of the windows that ended: the last of each, and how many it stands for.
    pub fn flush(&mut self, now: Tick) -> Vec<(Level, String)> {
        let mut lines = Vec::new();
        self.open.retain(|_, window| {
            if window.ends > now {
                return true;
            }
            match window.more {
                0 => return false,
                1 => lines.push((window.level, window.line.clone())),
                n => lines.push((window.level, format!("{} (and {} more in the last second)", window.line, n - 1))),
            }
            window.more = 0;
            window.ends = now.after_ms(WINDOW_MS);
            true
        });
        lines
    }

    /// When `flush` has lines next.
    pub fn due(&self) -> Tick {
        self.open.values().map(|window| window.ends).min().unwrap_or(Tick::NEVER)
    }

    fn name(&self, id: ReplicaId) -> &str {
        self.names.get(&id).map_or("a former replica", |name| name)
    }

    fn line(&self, event: &WorkerEvent) -> String {
        match event {
            WorkerEvent::Fault(fault) => format!("{}: {}", self.name(fault.replica), description(fault.kind)),
            WorkerEvent::FailuresInARow { replica, failures } => {
                format!("{}: {failures} responses in a row have a 5xx status", self.name(*replica))
            }
            WorkerEvent::Retried { from, to } if from == to => {
                format!("{}: a request was retried on a new connection", self.name(*from))
            }
            WorkerEvent::Retried { from, to } => {
                format!("{}: a request was retried on {}", self.name(*from), self.name(*to))
            }
            WorkerEvent::Refused { client, status, why } => format!("{client}: answered {status}: {why}"),
            WorkerEvent::Reset { client, why, .. } => format!("{client}: connection reset: {why}"),
            WorkerEvent::Capped { client, cap: Cap::All } => format!("{client}: refused: --max-connections are open"),
            WorkerEvent::Capped { client, cap: Cap::PerClient } => {
                format!("{client}: refused: --max-connections-per-client of this client are open")
            }
            WorkerEvent::HandshakeFailed { client, why } => format!("{client}: TLS handshake failed: {why}"),
            WorkerEvent::UpstreamHandshakeFailed { replica, why } => {
                format!("{}: TLS handshake failed: {why}", self.name(*replica))
            }
            WorkerEvent::Exhausted { replica, resource } => {
                format!("{}: no connection can be opened: {}; requests wait", self.name(*replica), shortage(*resource))
            }
            WorkerEvent::AcceptPaused { worker, resource } => {
                format!("worker {worker}: accepting paused: {}", shortage(*resource))
            }
            WorkerEvent::AcceptResumed { worker, after_ms } => {
                format!("worker {worker}: accepting resumed after {}", readable(*after_ms))
            }
        }
    }
}

fn description(kind: FaultKind) -> String {
    match kind {
        FaultKind::ConnectFailed(why) => format!("connect failed: {why}"),
        FaultKind::ConnectTimedOut { after_ms } => format!("connect timed out after {}", readable(after_ms)),
        FaultKind::Slow { after_ms } => format!("a request waits for its answer since {}", readable(after_ms)),
        FaultKind::ResponseTimedOut { after_ms } => format!("no answer to a request within {}", readable(after_ms)),
        FaultKind::ConnectionClosed => "closed a connection before it answered".into(),
        FaultKind::BadResponse(why) => format!("bad response: {why}"),
    }
}

/// Faults that are counted together.
fn group(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::ConnectFailed(_) => "connect failed",
        FaultKind::ConnectTimedOut { .. } => "connect timed out",
        FaultKind::Slow { .. } => "silent",
        FaultKind::ResponseTimedOut { .. } => "response timed out",
        FaultKind::ConnectionClosed => "hung up",
        FaultKind::BadResponse(why) => why,
    }
}

fn shortage(resource: Resource) -> String {
    match resource {
        Resource::Descriptors => "no file descriptor is left (see ulimit -n)".into(),
        Resource::Memory => "the system has no memory left for sockets".into(),
        Resource::Ports => "every local port to it is in use (see net.ipv4.ip_local_port_range)".into(),
        Resource::Handshakes => "as many TLS handshakes are under way as may be (see --tls-max-handshakes)".into(),
        Resource::Other(why) => why.to_string(),
    }
}

/// Of events that are about no replica.
const NO_REPLICA: ReplicaId = ReplicaId(0);

fn kind_of(event: &WorkerEvent) -> (Kind, Level) {
    match event {
        // A request may take long: a heartbeat that is late too says whether its replica does.
        WorkerEvent::Fault(fault @ ReplicaFault { kind: FaultKind::Slow { .. }, .. }) => {
            ((group(fault.kind), fault.replica), Level::Debug)
        }
        WorkerEvent::Fault(fault) => ((group(fault.kind), fault.replica), Level::Warn),
        WorkerEvent::FailuresInARow { replica, .. } => (("5xx in a row", *replica), Level::Warn),
        WorkerEvent::Retried { from, .. } => (("retried", *from), Level::Info),
        WorkerEvent::Refused { status: 500.., why, .. } | WorkerEvent::Reset { status: 500.., why, .. } => {
            ((why, NO_REPLICA), Level::Warn)
        }
        WorkerEvent::Refused { why, .. } | WorkerEvent::Reset { why, .. } => ((why, NO_REPLICA), Level::Info),
        WorkerEvent::Capped { cap: Cap::All, .. } => (("capped", NO_REPLICA), Level::Warn),
        WorkerEvent::Capped { cap: Cap::PerClient, .. } => (("capped per client", NO_REPLICA), Level::Warn),
        WorkerEvent::HandshakeFailed { .. } => (("handshake failed", NO_REPLICA), Level::Info),
        WorkerEvent::UpstreamHandshakeFailed { replica, .. } => (("handshake failed", *replica), Level::Warn),
        WorkerEvent::Exhausted { replica, .. } => (("short", *replica), Level::Warn),
        WorkerEvent::AcceptPaused { .. } => (("accept paused", NO_REPLICA), Level::Warn),
        WorkerEvent::AcceptResumed { .. } => (("accept resumed", NO_REPLICA), Level::Info),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::balance::Ramp;
    use crate::core::limits::Limits;
    use crate::core::ring::{Ring, RingKind};
    use crate::core::snapshot::{Endpoint, KeyPolicy, Mode, Replica, ReplicaLoad, Service, State};

    fn hungup(n: u64) -> WorkerEvent {
        WorkerEvent::Fault(ReplicaFault { replica: ReplicaId(n), kind: FaultKind::ConnectionClosed })
    }

    #[test]
    fn a_lack_of_descriptors_is_logged_with_its_remedy() {
        let event = WorkerEvent::AcceptPaused { worker: 0, resource: Resource::Descriptors };
        let (_, line) = LogThrottle::default().note(&event, Tick(0)).unwrap();
        assert_eq!(line, "worker 0: accepting paused: no file descriptor is left (see ulimit -n)");
    }

    #[test]
    fn names_of_replicas_shown_are_kept_and_of_former_ones_the_newest() {
        let replica = |id: u64| Replica {
            id: ReplicaId(id),
            name: format!("server{id}").into(),
            endpoint: Endpoint::Tcp(([127, 0, 0, 1], 80).into()),
            weight: 1,
            state: State::Up,
            ramp: Ramp::WHOLE,
            sticky: None,
            load: Arc::new(ReplicaLoad::new(1)),
        };
        let mut log_throttle = LogThrottle::default();
        let last = FORMER_NAMES_LIMIT as u64 + 10;
        for id in 2..=last {
            let ring = Arc::new(Ring::build(RingKind::Ketama, &[]));
            let service = Service {
                name: "test".into(),
                mode: Mode::Http,
                policy: Default::default(),
                key: KeyPolicy::Request,
                limits: Arc::new(Limits::DEFAULT),
                send_proxy: None,
                tls: None,
                max_5xx_in_a_row: None,
                queue_heads: Arc::default(),
                is_removed: false,
                replicas: vec![replica(1), replica(id)],
                ring,
            };
            log_throttle.learn(&Snapshot::of_service(id, service));
        }
        assert_eq!(log_throttle.names.len(), FORMER_NAMES_LIMIT + 2);
        assert_eq!(log_throttle.name(ReplicaId(1)), "server1", "the oldest, but shown");
        assert_eq!(log_throttle.name(ReplicaId(2)), "a former replica");
        assert_eq!(log_throttle.name(ReplicaId(last - 1)), format!("server{}", last - 1));
    }

    #[test]
    fn the_first_of_a_kind_is_a_line_at_once_and_the_rest_is_counted() {
        let mut log_throttle = LogThrottle::default();
        assert!(log_throttle.note(&hungup(1), Tick(0)).is_some());
        assert!(log_throttle.note(&hungup(2), Tick(1)).is_some(), "another replica is another kind");
        for at in 2..60 {
            assert!(log_throttle.note(&hungup(1), Tick(at)).is_none());
        }
        assert!(log_throttle.flush(Tick(999)).is_empty());
        assert_eq!(log_throttle.due(), Tick(1_000));
        let lines = log_throttle.flush(Tick(1_001));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].1.ends_with("(and 57 more in the last second)"), "{}", lines[0].1);
        assert!(log_throttle.note(&hungup(1), Tick(1_500)).is_none(), "a flood stays at one line a second");
        assert_eq!(log_throttle.flush(Tick(2_001)).len(), 1);
        assert!(log_throttle.flush(Tick(3_001)).is_empty());
        assert_eq!(log_throttle.due(), Tick::NEVER);
    }
}
