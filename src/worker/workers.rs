//! The workers of one process: one thread each. Their listening sockets are bound before.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::core::exchange_record::Recording;
use crate::kernel::linux::{self, Linux};
use crate::kernel::listening::ListeningSockets;
use crate::shared::access_log::AccessLogSender;
use crate::shared::connection_limiter::ConnectionLimiter;
use crate::shared::counters::Counters;
use crate::shared::events::EventSender;
use crate::shared::publish::SnapshotPublisher;

use super::{Worker, WorkerInit};

#[derive(Clone, Debug)]
pub struct WorkerSettings {
    pub workers: usize,
    /// Pin worker i to core i.
    pub pin: bool,
    /// Client connections in all, shared evenly over the workers. 0: no cap.
    pub max_connections: usize,
    /// TLS handshakes of clients under way, shared likewise. 0: no cap.
    pub max_handshakes: usize,
    /// Client connections of each client address. 0: no cap.
    pub max_connections_per_client: usize,
    /// What is recorded of each exchange where there is no access log.
    pub recording: Recording,
}

/// The workers of this process, bound and running.
pub struct Workers {
    pub counters: Vec<Arc<Counters>>,
    pub threads: Vec<JoinHandle<()>>,
    /// How many descriptors this process may have open: connections of clients and to replicas, mostly.
    pub descriptors: u64,
}

/// Gives each worker a reader at `publisher` and its share of `sockets`, and starts the threads. They end by themselves once
/// a snapshot says `stopping` and their sessions have finished (or the drain deadline has passed). `access_log` has one
/// sender for each worker, or none.
pub fn start(
    settings: &WorkerSettings,
    sockets: &Arc<ListeningSockets>,
    publisher: &mut SnapshotPublisher,
    events: &EventSender,
    access_log: Vec<AccessLogSender>,
) -> Result<Workers, String> {
    let descriptors = linux::raise_descriptor_limit();
    let count = settings.workers.max(1);
    let share = share(descriptors, linux::open_descriptors(), count);
    let cap = settings.max_connections_per_client;
    let limiter = (cap > 0).then(|| Arc::new(ConnectionLimiter::new(cap)));
    let mut access_log = access_log.into_iter();
    let mut workers = Workers { counters: Vec::new(), threads: Vec::new(), descriptors };
    for index in 0..count {
        let counters = Arc::new(Counters::default());
        workers.counters.push(counters.clone());
        let cannot_start = |error: io::Error| format!("worker {index} cannot start: {error}");
        let (kernel, wake) = Linux::new(sockets.clone(), index).map_err(cannot_start)?;
        let worker = Worker::new(WorkerInit {
            index,
            kernel,
            reader: publisher.reader(wake),
            counters,
            events: events.clone(),
            seed: fastrand::u64(..),
            max_connections: settings.max_connections.div_ceil(count),
            max_handshakes: settings.max_handshakes.div_ceil(count),
            connection_limiter: limiter.clone(),
            access_log: access_log.next(),
            descriptors: share,
            recording: settings.recording,
        });
        let thread = spawn(index, settings.pin.then_some(index), worker);
        workers.threads.push(thread.map_err(cannot_start)?);
    }
    Ok(workers)
}

/// Each worker's share of the process's descriptors: not for connections are those that are `open` by now, those of the
/// event loops, and what heartbeats, admin calls and the runtime may need.
fn share(descriptors: u64, open: usize, workers: usize) -> usize {
    const OTHERS: usize = 256;
    const LOOP: usize = 2;
    /// A worker cannot serve with fewer than this.
    const LEAST: usize = 16;
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let others = open + LOOP * (workers + 1) + OTHERS.min(descriptors / 8);
    (descriptors.saturating_sub(others) / workers).max(LEAST)
}

fn spawn(index: usize, core: Option<usize>, worker: Worker<Linux>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        if let Some(core) = core
            && let Err(error) = linux::pin_to(core)
        {
            log::warn!("worker {index} cannot be pinned to core {core}: {error}");
        }
        if let Err(error) = worker.run() {
            log::error!("worker {index} ended: {error}");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_what_nothing_else_needs() {
        assert_eq!(share(10_000, 20, 2), (10_000 - 20 - 2 * 3 - 256) / 2);
        assert_eq!(share(1_024, 20, 4), (1_024 - 20 - 2 * 5 - 128) / 4);
        assert_eq!(share(64, 60, 8), 16, "with fewer a worker cannot serve");
    }
}
