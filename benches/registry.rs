//! What the control plane's registry costs with many replicas. Budget at 10,000: 20 us for the answer of a probe, for a
//! tick with few probes due and for a worker's event; at 1,000: 1 s for an `/add` of 100.
//!
//! `cargo bench --bench registry`. Rows of one size share one registry: bringing 10,000 replicas up publishes as many
//! snapshots.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use divan::Bencher;
use ringway::control::registry::{
    Answer, Call, Change, Command, Effect, HealthPolicy, Registry, RegistryConfig, ServiceConfig, Topology,
};
use ringway::control::runtime::{InstanceId, RuntimeEvent, Started};
use ringway::core::limits::Limits;
use ringway::core::ring::RingKind;
use ringway::core::snapshot::{Endpoint, KeyPolicy, Mode, ReplicaId, ServiceId};
use ringway::core::step::{FaultKind, ReplicaFault};
use ringway::core::tick::Tick;
use ringway::shared::events::WorkerEvent;

fn main() {
    divan::main();
}

const REPLICAS: [usize; 3] = [3, 1_000, 10_000];
const INTERVAL_MS: u64 = 10_000;
const SERVICE: ServiceId = ServiceId(0);

thread_local! {
    static RUNNING: RefCell<BTreeMap<usize, Rc<RefCell<Running>>>> = const { RefCell::new(BTreeMap::new()) };
}

/// A registry whose replicas are up, with probes spread evenly over the interval.
struct Running {
    registry: Registry,
    now: Tick,
    step_ms: u64,
    epoch: u64,
    probed: Vec<InstanceId>,
    started: Vec<InstanceId>,
    stopped: Vec<InstanceId>,
    answers: Vec<Answer>,
}

fn running(replicas: usize) -> Rc<RefCell<Running>> {
    RUNNING.with_borrow_mut(|all| all.entry(replicas).or_insert_with(|| Rc::new(RefCell::new(up(replicas)))).clone())
}

fn up(replicas: usize) -> Running {
    let service = ServiceConfig {
        name: "bench".into(),
        mode: Mode::Http,
        policy: Default::default(),
        key: KeyPolicy::Request,
        ring: RingKind::Ketama,
        limits: Arc::new(Limits::default()),
        send_proxy: None,
        tls: None,
        replicas,
        max_replicas: 2 * replicas + 100,
        can_start: true,
        keeps_on_exit: false,
        health: HealthPolicy { interval_ms: INTERVAL_MS, ..HealthPolicy::default() },
    };
    let config = RegistryConfig { topology: Topology::of_services([service]), workers: 2, seed: 7 };
    let step_ms = (INTERVAL_MS / replicas as u64).max(1);
    let (registry, _) = Registry::new(config);
    let (probed, started, stopped, answers) = Default::default();
    let mut running = Running { registry, now: Tick(1), step_ms, epoch: 1, probed, started, stopped, answers };
    running.apply(Command::Found(Vec::new()));
    running.bring_up();
    running
}

impl Running {
    fn apply(&mut self, command: Command) {
        for effect in self.registry.apply(command, self.now) {
            match effect {
                Effect::Publish(snapshot) => self.epoch = snapshot.epoch,
                Effect::Start(spec) => self.started.push(spec.instance),
                Effect::Stop { instance, .. } => self.stopped.push(instance),
                Effect::Probe { instance, .. } => self.probed.push(instance),
                Effect::Reply { answer, .. } => self.answers.push(answer),
                _ => {}
            }
        }
    }

    /// Every instance that was asked for starts and answers its first probe.
    fn bring_up(&mut self) {
        for instance in std::mem::take(&mut self.started) {
            self.apply(Command::Started { instance, started: started(instance) });
            self.pass();
        }
    }

    /// Time for one more probe goes by, and every probe in flight is answered.
    fn pass(&mut self) {
        self.now = self.now.after_ms(self.step_ms);
        self.apply(Command::Tick);
        self.answer_probes();
    }

    fn answer_probes(&mut self) {
        for instance in std::mem::take(&mut self.probed) {
            self.apply(Command::ProbeOk { instance });
        }
    }

    /// The next probe, in flight.
    fn next_probe(&mut self) -> InstanceId {
        loop {
            if let Some(instance) = self.probed.pop() {
                return instance;
            }
            self.now = self.now.after_ms(self.step_ms);
            self.apply(Command::Tick);
        }
    }
}

fn started(instance: InstanceId) -> Started {
    let number = instance.number() as u32;
    let address = SocketAddr::from((Ipv4Addr::from(0x0A00_0000 + number / 1_000), 10_000 + (number % 1_000) as u16));
    Started { endpoint: Endpoint::Tcp(address), handle: format!("process {number}"), weight: 1 }
}

#[divan::bench(args = REPLICAS)]
fn probe_answer(bencher: Bencher, replicas: usize) {
    let running = running(replicas);
    bencher
        .with_inputs(|| running.borrow_mut().next_probe())
        .bench_local_values(|instance| running.borrow_mut().apply(Command::ProbeOk { instance }));
}

/// One probe is due, or none.
#[divan::bench(args = REPLICAS)]
fn tick(bencher: Bencher, replicas: usize) {
    let running = running(replicas);
    let next = || {
        let mut running = running.borrow_mut();
        running.answer_probes();
        running.now = running.now.after_ms(running.step_ms);
    };
    bencher.with_inputs(next).bench_local_values(|()| running.borrow_mut().apply(Command::Tick));
}

/// It brings a probe forward.
#[divan::bench(args = REPLICAS)]
fn worker_event(bencher: Bencher, replicas: usize) {
    let running = running(replicas);
    let next = || {
        let mut running = running.borrow_mut();
        running.answer_probes();
        let instance = running.next_probe();
        running.apply(Command::ProbeOk { instance });
        running.now = running.now.after_ms(50);
        running.apply(Command::Tick);
        running.answer_probes();
        let event = WorkerEvent::Fault(ReplicaFault {
            replica: ReplicaId(instance.number()),
            kind: FaultKind::ConnectionClosed,
        });
        Command::WorkerEvent(event)
    };
    bencher.with_inputs(next).bench_local_values(|event| running.borrow_mut().apply(event));
}

/// A death and its publication: this one is in proportion to the number of replicas, since a snapshot lists them all.
#[divan::bench(args = REPLICAS, sample_count = 50, sample_size = 1)]
fn death(bencher: Bencher, replicas: usize) {
    let running = running(replicas);
    let next = || {
        let mut running = running.borrow_mut();
        running.bring_up();
        let instance = running.next_probe();
        running.apply(Command::ProbeOk { instance });
        Command::RuntimeEvent(RuntimeEvent::Exited { instance, why: "killed by signal 9".into() })
    };
    bencher.with_inputs(next).bench_local_values(|event| running.borrow_mut().apply(event));
    running.borrow_mut().bring_up();
}

/// From the call to its answer: 100 starts, 100 answers, a new ring, the acknowledgement.
#[divan::bench(args = [1_000], sample_count = 20, sample_size = 1)]
fn add_100(bencher: Bencher, replicas: usize) {
    let running = running(replicas);
    let restore = || {
        let mut running = running.borrow_mut();
        if let Some(Answer::Replicas(names)) = running.answers.pop() {
            let hostnames: Vec<String> = names[replicas..].iter().map(|name| name.to_string()).collect();
            let change = Change { n: hostnames.len() as u64, hostnames, dry_run: false };
            running.call(Call::Remove(change));
            running.finish_removal();
        }
    };
    bencher.with_inputs(restore).bench_local_values(|()| {
        let mut running = running.borrow_mut();
        running.call(Call::Add(Change { n: 100, hostnames: Vec::new(), dry_run: false }));
        for instance in std::mem::take(&mut running.started) {
            running.apply(Command::Started { instance, started: started(instance) });
        }
        running.apply(Command::Tick);
        running.answer_probes();
        let epoch = running.epoch;
        running.apply(Command::Acked(epoch));
        assert!(matches!(running.answers.last(), Some(Answer::Replicas(names)) if names.len() == replicas + 100));
    });
}

impl Running {
    fn call(&mut self, call: Call) {
        self.answers.clear();
        self.apply(Command::Call { ticket: 1, service: SERVICE, call });
    }

    /// The workers act on it, the drains end at once and the runtime has stopped them.
    fn finish_removal(&mut self) {
        self.apply(Command::Acked(self.epoch));
        for instance in std::mem::take(&mut self.stopped) {
            self.apply(Command::Stopped { instance, result: Ok(()) });
        }
        self.answers.clear();
    }
}
