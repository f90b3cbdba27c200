//! The workers of one process: bound here, so that a port in use is an error before anything runs, then one thread each.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::core::net::Net;
use crate::core::snapshot::ServiceId;
use crate::kernel::linux::{self, Linux, SendsFirst};
use crate::shared::connection_limiter::ConnectionLimiter;
use crate::shared::counters::Counters;
use crate::shared::events::EventSender;
use crate::shared::publish::SnapshotPublisher;

use super::{BoundListener, Worker, WorkerInit};

/// An address that workers accept on.
#[derive(Clone, Debug)]
pub struct Listen {
    pub address: SocketAddr,
    /// `None`: HTTP, routed by `Routes`. `Some(n)`: bytes, all to service n of the snapshot.
    pub tunnel_to: Option<ServiceId>,
    /// Balancers that name their client by a PROXY header, and must.
    pub proxies: Vec<Net>,
}

#[derive(Clone, Debug)]
pub struct WorkerSettings {
    pub listen: Vec<Listen>,
    pub workers: usize,
    /// Pin worker i to core i.
    pub pin: bool,
    /// Client connections in all, shared evenly over the workers. 0: no cap.
    pub max_connections: usize,
    /// Client connections of each client address. 0: no cap.
    pub max_connections_per_client: usize,
}

/// The workers of this process, bound and running.
pub struct Workers {
    /// The addresses bound, in the order of `WorkerSettings::listen` (port 0 made real).
    pub bound: Vec<SocketAddr>,
    pub counters: Vec<Arc<Counters>>,
    pub threads: Vec<JoinHandle<()>>,
    /// How many descriptors this process may have open: connections of clients and to replicas, mostly.
    pub descriptors: u64,
}

/// Binds every listener in every worker (so that a port in use is an error here), gives each worker a reader at
/// `publisher`, and starts the threads. They end by themselves once a snapshot says `stopping` and their
/// sessions have finished (or the drain deadline has passed).
pub fn start(
    settings: &WorkerSettings,
    publisher: &mut SnapshotPublisher,
    events: &EventSender,
) -> Result<Workers, String> {
    let descriptors = linux::raise_descriptor_limit();
    let count = settings.workers.max(1);
    let mut bound = Vec::new();
    let mut listeners: Vec<Vec<BoundListener<Linux>>> = (0..count).map(|_| Vec::new()).collect();
    for listen in &settings.listen {
        let (address, sockets) = bind(listen, count)
            .map_err(|error| format!("cannot listen on {}: {error}; choose another --listen", listen.address))?;
        bound.push(address);
        for (own, socket) in listeners.iter_mut().zip(sockets) {
            let (tunnel_to, proxies) = (listen.tunnel_to, listen.proxies.clone());
            own.push(BoundListener { socket, local: address, tunnel_to, proxies });
        }
    }
    let share = share(descriptors, linux::open_descriptors(), count);
    let cap = settings.max_connections_per_client;
    let limiter = (cap > 0).then(|| Arc::new(ConnectionLimiter::new(cap)));
    let mut workers = Workers { bound, counters: Vec::new(), threads: Vec::new(), descriptors };
    for (index, listeners) in listeners.into_iter().enumerate() {
        let counters = Arc::new(Counters::default());
        workers.counters.push(counters.clone());
        let (kernel, wake) = Linux::new().map_err(|error| format!("worker {index} cannot start: {error}"))?;
        let worker = Worker::new(WorkerInit {
            index,
            kernel,
            listeners,
            reader: publisher.reader(wake),
            counters,
            events: events.clone(),
            seed: fastrand::u64(..),
            max_connections: settings.max_connections.div_ceil(count),
            connection_limiter: limiter.clone(),
            descriptors: share,
        });
        let thread = worker.and_then(|worker| spawn(index, settings.pin.then_some(index), worker));
        workers.threads.push(thread.map_err(|error| format!("worker {index} cannot start: {error}"))?);
    }
    Ok(workers)
}

fn bind(listen: &Listen, workers: usize) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    if listen.address.port() != 0 {
        linux::probe_free(listen.address)?;
    }
    let sends_first = if listen.tunnel_to.is_some() { SendsFirst::Either } else { SendsFirst::Client };
    let first = linux::listen(listen.address, sends_first)?;
    let address = linux::local_address(&first)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(linux::listen(address, sends_first)?);
    }
    Ok((address, sockets))
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
