//! A real worker on the simulated kernel, and when its next turn is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringway::core::exchange_record::Recording;
use ringway::kernel::Wake;
use ringway::shared::counters::Counters;
use ringway::worker::{Worker, WorkerInit};

use super::control::Control;
use super::kernel::{SimKernel, WaitDeadline, would_wait};
use super::net::{Event, Net, SharedNet, WorkerId};

/// A worker spins if so many turns in a row move nothing, ...
const IDLE_TURNS_MAX: u64 = 500;
/// ... each less than this after the one before.
const IDLE_TURN_GAP_US: u64 = 2_000;

/// What all workers of a world are started with.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    pub count: usize,
    pub max_connections: usize,
    pub max_handshakes: usize,
    pub descriptors: usize,
}

pub struct SimWorker {
    worker: Worker<SimKernel>,
    pub id: WorkerId,
    wait_until_us: WaitDeadline,
    wake: Arc<AtomicBool>,
    /// The number of the last turn scheduled; events of earlier numbers are void.
    scheduled: u64,
    /// It waits for an edge, a wake-up or its deadline.
    blocked: bool,
    last_turn_us: u64,
    idle_turns: u64,
    last_progress: u64,
}

impl SimWorker {
    /// The one at this place of the process that `control` is of.
    pub fn new(
        net: &SharedNet,
        control: &mut Control,
        place: usize,
        counters: Arc<Counters>,
        settings: &WorkerSettings,
        seed: u64,
    ) -> SimWorker {
        let wake = Arc::new(AtomicBool::new(false));
        let flag = wake.clone();
        let wake_reader: Wake = Arc::new(move || flag.store(true, Ordering::Relaxed));
        let wait_until_us = WaitDeadline::default();
        let kernel = SimKernel::new(net.clone(), control.process(), place, wait_until_us.clone(), wake.clone());
        let id = kernel.worker();
        let init = WorkerInit {
            index: place,
            kernel,
            reader: control.reader(wake_reader),
            counters,
            events: control.events(),
            seed: seed + place as u64,
            max_connections: settings.max_connections,
            max_handshakes: settings.max_handshakes,
            connection_limiter: None,
            access_log: None,
            recording: Recording::Numbers,
            descriptors: settings.descriptors,
        };
        let worker = Worker::new(init);
        net.borrow_mut().after(1, Event::Turn(id, 0));
        let (scheduled, last_turn_us, idle_turns, last_progress) = (0, 0, 0, 0);
        SimWorker { worker, id, wait_until_us, wake, scheduled, blocked: true, last_turn_us, idle_turns, last_progress }
    }

    /// This number is that of its next turn.
    pub fn awaits_turn(&self, number: u64) -> bool {
        self.scheduled == number
    }

    /// One turn. `false`: it has ended.
    pub fn turn(&mut self, net: &SharedNet) -> bool {
        let result = self.worker.turn();
        let net = &mut *net.borrow_mut();
        match result {
            Ok(true) => {
                self.worker.check();
                self.check_progress(net);
                let delayed = net.random.schedule().per_mille(net.faults.delayed_turn);
                let (min_us, max_us) = if delayed { (1_000, 60_000) } else { (2, 60) };
                let us = net.random.schedule().range(min_us, max_us);
                self.schedule(net, net.now_us + us);
            }
            Ok(false) => {
                net.note("w.over", self.id as u64, 0, 0);
                return false;
            }
            Err(error) if would_wait(&error) => self.block(net),
            Err(error) => panic!("worker {}: {error}", self.id),
        }
        true
    }

    /// Ends its wait if it was woken or has edges.
    pub fn wake_if_ready(&mut self, net: &mut Net) {
        if self.blocked && (self.wake.load(Ordering::Relaxed) || net.has_edges(self.id)) {
            let us = net.random.schedule().range(1, 30);
            self.schedule(net, net.now_us + us);
        }
    }

    fn schedule(&mut self, net: &mut Net, us: u64) {
        self.blocked = false;
        self.scheduled += 1;
        net.at(us, Event::Turn(self.id, self.scheduled));
    }

    fn block(&mut self, net: &mut Net) {
        let until = self.wait_until_us.borrow().unwrap_or(u64::MAX);
        if until < u64::MAX {
            self.schedule(net, until);
        }
        self.blocked = true;
    }

    /// Oracle: a worker does not spin.
    fn check_progress(&mut self, net: &Net) {
        let idle = net.now_us - self.last_turn_us < IDLE_TURN_GAP_US && net.progress == self.last_progress;
        self.idle_turns = if idle { self.idle_turns + 1 } else { 0 };
        (self.last_turn_us, self.last_progress) = (net.now_us, net.progress);
        assert!(self.idle_turns < IDLE_TURNS_MAX, "worker {} spins", self.id);
    }
}
