//! One process of the balancer: its control plane and its workers. A world has one, and two during an upgrade.

use std::sync::Arc;

use ringway::shared::counters::Counters;

use super::control::Control;
use super::fleet::Fleet;
use super::net::{Net, ProcessId, SharedNet, WorkerId};
use super::worker::{SimWorker, WorkerSettings};

pub struct Balancer {
    pub control: Control,
    /// Those that have not ended.
    workers: Vec<SimWorker>,
    counters: Vec<Arc<Counters>>,
    /// The process that it has replaced, until it knows that this has ended.
    pub replaces: Option<ProcessId>,
    /// When it must have ended (us).
    pub ends_by_us: u64,
}

impl Balancer {
    pub fn new(net: &SharedNet, mut control: Control, settings: &WorkerSettings, seed: u64) -> Balancer {
        let counters: Vec<_> = (0..settings.count).map(|_| Arc::new(Counters::default())).collect();
        let worker = |(place, counters): (usize, &Arc<Counters>)| {
            SimWorker::new(net, &mut control, place, counters.clone(), settings, seed)
        };
        let workers = counters.iter().enumerate().map(worker).collect();
        Balancer { control, workers, counters, replaces: None, ends_by_us: u64::MAX }
    }

    pub fn process(&self) -> ProcessId {
        self.control.process()
    }

    pub fn has_workers(&self) -> bool {
        !self.workers.is_empty()
    }

    /// A turn of this worker, if it is one of its own and the turn is not void.
    pub fn turn(&mut self, net: &SharedNet, fleet: &mut Fleet, worker: WorkerId, number: u64) {
        let Some(place) = self.workers.iter().position(|own| own.id == worker && own.awaits_turn(number)) else {
            return;
        };
        if !self.workers[place].turn(net) {
            // Dropped after the borrow of the network, which closing its sockets needs.
            let _ended = self.workers.remove(place);
            self.control.worker_ended(&mut net.borrow_mut(), fleet);
        }
        self.control.check_pressure(&net.borrow());
    }

    /// Clients that it has accepted.
    pub fn accepted(&self) -> u64 {
        self.counters.iter().map(|counters| counters.accepted.value()).sum()
    }

    /// After every event.
    ///
    /// Oracle: one that was replaced ends in time.
    pub fn advance(&mut self, net: &mut Net) {
        assert!(net.now_us < self.ends_by_us || self.control.has_ended(), "a replaced process does not end");
        self.control.listen(net);
        self.workers.iter_mut().for_each(|worker| worker.wake_if_ready(net));
    }

    /// Oracle: it ended in order, and everything that it opened is closed.
    pub fn check_end(&self, net: &Net) {
        self.control.check_end();
        for counters in &self.counters {
            assert_eq!(counters.accepted.value(), counters.closed.value(), "clients accepted and closed");
        }
        let (process, resources) = (self.process(), net.resources[self.process()]);
        let open = net.worker_sockets(process);
        assert_eq!(resources.sockets_opened, resources.sockets_closed, "sockets of process {process}: {open:?}");
        assert_eq!(resources.pipes_opened, resources.pipes_closed, "pipes of process {process}");
    }
}
