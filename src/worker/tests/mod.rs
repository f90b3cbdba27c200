//! One worker over a scripted kernel: a test says what each peer sends and takes, and looks at what the worker did. The
//! simulation finds what no test says; here are the cases that it draws too rarely.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | `Rig`: the worker, its snapshot, its clients and replicas, and what it did; turns until nothing moves |
//! | `kernel` | `ScriptedKernel`, the implementation of the trait `Kernel` for these tests: sockets, listeners and pipes with scripted bytes, errors and limits; which are open, watched, connected |
//! | `pipelining` | several requests in flight on one upstream connection: responses in order, a session that leaves, a hang-up, requests sent again |
//! | `records` | lines of the access log: refused heads, local replies, tunnels |
//! | `resources` | descriptors, pipes and ports that run out: who waits, what is evicted, when it is tried again |
//! | `stop` | the drain and the end of a worker, and of the connections of a removed listener |
//! | `tls` | clients over TLS: requests, full sockets, ends, the deadline and the share of handshakes, plain text, PROXY headers, a stop |
//! | `watch` | which clients are watched, and what is reported while they are connected |

pub(super) mod kernel;
mod pipelining;
mod records;
mod resources;
mod stop;
mod tls;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::core::balance::Ramp;
use crate::core::limits::Limits;
use crate::core::ring::{Member, Ring, RingKind};
use crate::core::snapshot::{Endpoint, KeyPolicy, Mode, Replica, ReplicaId, ReplicaLoad, Service};
use crate::shared::events::{EventReceiver, WorkerEvent, channel};
use crate::shared::publish::SnapshotPublisher;
use kernel::{LISTENING, ScriptedKernel, SocketEnd};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok";
/// TLS handshakes under way at most.
const HANDSHAKES: usize = 64;
/// More turns than any test takes.
const TURNS: usize = 1_000;

struct Rig {
    worker: Worker<ScriptedKernel>,
    kernel: ScriptedKernel,
    publisher: SnapshotPublisher,
    snapshot: Snapshot,
    counters: Arc<Counters>,
    reports: EventReceiver,
}

impl Rig {
    /// One replica.
    fn new(limits: Limits) -> Rig {
        Rig::with_descriptors(limits, 1_000)
    }

    fn with_descriptors(limits: Limits, descriptors: usize) -> Rig {
        let replica = Replica {
            id: ReplicaId(1),
            name: "a".into(),
            endpoint: Endpoint::Tcp(SocketAddr::from(([10, 0, 0, 2], 80))),
            weight: 1,
            state: State::Up,
            ramp: Ramp::WHOLE,
            sticky: None,
            load: Arc::new(ReplicaLoad::new(1)),
        };
        let service = Service {
            name: "service".into(),
            mode: Mode::Http,
            policy: Default::default(),
            key: KeyPolicy::Request,
            limits: Arc::new(limits),
            replicas: vec![replica],
            send_proxy: None,
            tls: None,
            max_5xx_in_a_row: None,
            queue_heads: Arc::default(),
            is_removed: false,
            ring: Arc::new(Ring::build(RingKind::Ketama, &[Member::new("a", 1)])),
        };
        let mut snapshot = Snapshot::of_service(1, service);
        for listener in &mut snapshot.listeners {
            Arc::make_mut(listener).bind = vec![LISTENING];
        }
        let mut publisher = SnapshotPublisher::new(snapshot.clone());
        let (events, reports) = channel(Arc::new(|| {}));
        let (kernel, counters) = (ScriptedKernel::default(), Arc::new(Counters::default()));
        let worker = Worker::new(WorkerInit {
            index: 0,
            kernel: kernel.clone(),
            reader: publisher.reader(Arc::new(|| {})),
            counters: counters.clone(),
            events,
            seed: 1,
            max_connections: 0,
            max_handshakes: HANDSHAKES,
            connection_limiter: None,
            descriptors,
            access_log: None,
            recording: Recording::Numbers,
        });
        Rig { worker, kernel, publisher, snapshot, counters, reports }
    }

    /// False when the worker is done.
    fn turn(&mut self) -> bool {
        let goes_on = self.worker.turn().expect("a scripted wait does not fail");
        self.worker.check();
        goes_on
    }

    /// Turns until only a peer or time can change anything.
    fn run(&mut self) {
        for _ in 0..TURNS {
            if !self.kernel.has_events() && !self.worker.clients.has_runnable() {
                return;
            }
            self.turn();
        }
        panic!("still busy after {TURNS} turns");
    }

    /// A client connects, sends `bytes`, and the worker acts on it.
    fn client(&mut self, bytes: &(impl AsRef<[u8]> + ?Sized)) -> usize {
        let client = self.kernel.client(bytes);
        self.run();
        client
    }

    fn says(&mut self, socket: usize, bytes: &(impl AsRef<[u8]> + ?Sized)) {
        self.kernel.says(socket, bytes);
        self.run();
    }

    /// Connections to the replica that are open, in the order in which they were opened.
    fn upstreams(&self) -> Vec<usize> {
        let dialled = self.kernel.script().dialled.clone();
        dialled.into_iter().filter(|socket| self.kernel.end(*socket).is_none()).collect()
    }

    fn stop(&mut self) {
        self.publish(|snapshot| snapshot.lifecycle = Lifecycle::Stopping);
    }

    fn set_limits(&mut self, limits: Limits) {
        self.publish(|snapshot| Arc::make_mut(&mut snapshot.services[0]).limits = Arc::new(limits));
    }

    fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.epoch += 1;
        change(&mut self.snapshot);
        self.publisher.publish(Arc::new(self.snapshot.clone()));
    }
}
