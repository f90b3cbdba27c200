//! The processes of the balancer in a world, and the oracles of what one leaves to the next: the one that is replaced and
//! its successor share listening sockets, and where instances outlive a process, those too. When one replaces another is
//! decided in `upgrades`.

use std::rc::Rc;
use std::sync::Arc;

use ringway::control::registry::Predecessor;
use ringway::core::snapshot::ServiceId;

use super::balancer::Balancer;
use super::configuration::{HTTP, SECOND};
use super::control::Control;
use super::fleet::{Fleet, ReplicaNumber};
use super::net::{Net, ProcessId, SharedNet, WorkerId};
use super::worker::WorkerSettings;

/// How long a process may take beyond the drain timeout, for its idle clients and for its instances to end.
const END_SLACK_US: u64 = 30_000_000;

pub struct Processes {
    net: SharedNet,
    settings: WorkerSettings,
    /// All but those that were killed, in the order of their starts.
    all: Vec<Balancer>,
    /// The one that an operator, or the service manager, means.
    main: ProcessId,
    /// The members of its services when it told a successor of them.
    lent: [Vec<Arc<str>>; 2],
}

const SERVICES: [ServiceId; 2] = [HTTP, SECOND];

impl Processes {
    /// `first` is the control plane of the first one.
    pub fn new(net: &SharedNet, settings: WorkerSettings, first: Control, seed: u64) -> Processes {
        let main = first.process();
        let mut processes =
            Processes { net: Rc::clone(net), settings, all: Vec::new(), main, lent: Default::default() };
        processes.start(first, seed);
        processes
    }

    pub fn net(&self) -> &SharedNet {
        &self.net
    }

    pub fn workers(&self) -> usize {
        self.settings.count
    }

    pub fn start(&mut self, control: Control, seed: u64) -> ProcessId {
        self.all.push(Balancer::new(&self.net, control, &self.settings, seed));
        self.all.last().map_or(self.main, Balancer::process)
    }

    /// Ends one that has not taken over, by force. Its children end with it.
    ///
    /// Oracle: it has accepted no client.
    pub fn kill(&mut self, process: ProcessId, fleet: &mut Fleet) {
        let Some(place) = self.all.iter().position(|one| one.process() == process) else { return };
        let killed = self.all.remove(place);
        assert_eq!(killed.accepted(), 0, "process {process} accepted before it took over");
        self.net.borrow_mut().history.killed(process);
        killed.control.end_children(&mut self.net.borrow_mut(), fleet);
    }

    pub fn get(&self, process: ProcessId) -> Option<&Balancer> {
        self.all.iter().find(|one| one.process() == process)
    }

    pub fn get_mut(&mut self, process: ProcessId) -> Option<&mut Balancer> {
        self.all.iter_mut().find(|one| one.process() == process)
    }

    pub fn main(&self) -> &Balancer {
        self.get(self.main).expect("the main process is never killed")
    }

    pub fn main_mut(&mut self) -> &mut Balancer {
        self.get_mut(self.main).expect("the main process is never killed")
    }

    pub fn set_main(&mut self, process: ProcessId) {
        self.main = process;
    }

    /// One of those that accept admin calls: a successor does before it takes over.
    pub fn with_admin_socket(&mut self, net: &mut Net) -> &mut Balancer {
        let main = self.main;
        let mut accepting: Vec<&mut Balancer> =
            self.all.iter_mut().filter(|one| one.process() >= main && one.control.is_attached()).collect();
        let place = if accepting.len() > 1 { net.random.upgrades().below(accepting.len() as u64) as usize } else { 0 };
        accepting.swap_remove(place)
    }

    pub fn turn(&mut self, fleet: &mut Fleet, worker: WorkerId, number: u64) {
        self.all.iter_mut().for_each(|one| one.turn(&self.net, fleet, worker, number));
    }

    /// Nothing comes to one that has ended. A world of one process ends soon after it.
    pub fn come(&mut self, net: &mut Net, fleet: &mut Fleet, process: ProcessId, number: u64) {
        let is_alone = self.all.len() == 1;
        if let Some(one) = self.get_mut(process).filter(|one| is_alone || !one.control.has_ended()) {
            one.control.come(net, fleet, number);
        }
    }

    /// After every event.
    pub fn advance(&mut self) {
        let net = &mut *self.net.borrow_mut();
        self.all.iter_mut().for_each(|one| one.advance(net));
    }

    pub fn replica_died(&mut self, net: &mut Net, replica: ReplicaNumber) {
        self.all.iter_mut().for_each(|one| one.control.replica_died(net, replica));
    }

    /// SIGTERM: to this process, and to those before it too or not.
    pub fn stop(&mut self, fleet: &mut Fleet, process: ProcessId, with_earlier: bool) {
        let net = &mut *self.net.borrow_mut();
        for one in &mut self.all {
            if one.process() == process || with_earlier && one.process() < process && !one.control.has_ended() {
                one.control.stop(net, fleet);
            }
        }
    }

    /// The main process gives its clients and sockets up.
    pub fn hand_over(&mut self, fleet: &mut Fleet) {
        let shared = self.net.clone();
        let net = &mut *shared.borrow_mut();
        let main = self.main_mut();
        main.ends_by_us = net.now_us + net.history.drain_ms * 1_000 + END_SLACK_US;
        main.control.hand_over(net, fleet);
    }

    /// One that is to be told that the process which it has replaced has ended; once each.
    pub fn next_without_predecessor(&mut self) -> Option<ProcessId> {
        let has_ended = |process: ProcessId| self.get(process).is_some_and(|one| one.control.has_ended());
        let place = self.all.iter().position(|one| one.replaces.is_some_and(has_ended))?;
        self.all[place].replaces = None;
        Some(self.all[place].process())
    }

    pub fn have_workers(&self) -> bool {
        self.all.iter().any(Balancer::has_workers)
    }

    pub fn have_ended(&self) -> bool {
        self.all.iter().all(|one| one.control.has_ended())
    }

    pub fn check_in_flight(&self) {
        self.all.iter().for_each(|one| one.control.check_in_flight());
    }

    /// Oracle: each ended in order, and nothing that was opened or started is left.
    pub fn check_end(&self, fleet: &Fleet) {
        let net = self.net.borrow();
        self.all.iter().for_each(|one| one.check_end(&net));
        assert!(!net.is_listening(), "a listening socket is still open");
        let alive: Vec<_> = fleet.alive().map(|number| &fleet.get(number).name).collect();
        assert!(alive.is_empty(), "replicas run on: {alive:?}");
    }

    /// What a successor of the main process is told.
    pub fn lend(&mut self) -> Predecessor {
        self.lent = self.members(self.main);
        self.main_mut().control.lend()
    }

    /// The names of each service's members, in the order of its ring.
    fn members(&self, process: ProcessId) -> [Vec<Arc<str>>; 2] {
        let net = self.net.borrow();
        SERVICES.map(|service| net.history.member_names(process, service))
    }

    /// Takes over from the main process.
    ///
    /// Oracle: it has accepted nothing, and has the replicas of the one before, in its order.
    pub fn take_over(&mut self, process: ProcessId) {
        let main = self.main;
        if let Some(successor) = self.get_mut(process) {
            successor.replaces = Some(main);
        }
        assert_eq!(self.get(process).map(Balancer::accepted), Some(0), "process {process} accepted too early");
        assert_eq!(self.lent, self.members(process), "members before and after an upgrade");
    }
}
