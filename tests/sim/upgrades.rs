//! Upgrades of a simulated world: SIGUSR2 now and then, and the messages between the process that is replaced and its
//! successor, each of which takes time, as the control loop exchanges them. Some successors end before they are ready.
//! What the two processes do beside that does not enter here.

use std::collections::BTreeMap;

use ringway::control::registry::Predecessor;

use super::control::Control;
use super::fleet::Fleet;
use super::net::{Event, Net, ProcessId};
use super::operator::Operator;
use super::processes::Processes;
use super::runtime::Hosting;

#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The successor ends so long after it began, unless it is ready by then.
    fails_after_us: Option<u64>,
    /// How long it may take until it is ready, and before that until what is under way has ended.
    limit_us: u64,
    /// So long after it was asked for, a replica dies or hangs; an operator calls; the whole balancer is told to stop.
    strike_after_us: Option<u64>,
    call_after_us: Option<u64>,
    stop_after_us: Option<u64>,
}

/// The number of an upgrade: what arrives of an earlier one is void.
type Attempt = u64;

/// What arrives later, or happens.
#[derive(Debug)]
enum Message {
    /// SIGUSR2.
    Asked(Plan),
    GiveUp(Attempt),
    Stop,
    /// The successor's program runs, and knows what it takes over.
    Begins(Attempt, Predecessor),
    /// Its runtime knows what runs.
    Attached(ProcessId),
    /// It ends of itself.
    Ends(ProcessId),
    /// The old process learns that its successor has ended.
    Failed(Attempt),
    /// At the old process, from its successor.
    Ready(Attempt),
    /// At the successor.
    Go,
    /// The old process knows that its successor was told to go.
    Went,
    /// The successor knows that the process before it has ended.
    PredecessorEnded(ProcessId),
}

#[derive(Debug)]
enum Stage {
    NotWanted,
    Waiting(Plan),
    Starting {
        plan: Plan,
        successor: Option<ProcessId>,
        has_said_ready: bool,
    },
    /// There is no way back.
    Committed {
        successor: ProcessId,
        accepts: bool,
        has_handed_over: bool,
    },
}

pub struct Upgrades {
    hosting: Hosting,
    stage: Stage,
    attempt: Attempt,
    coming: BTreeMap<u64, Message>,
    number: u64,
    wants_stop: bool,
}

impl Upgrades {
    /// One world in four has some.
    pub fn draw(net: &mut Net) -> Upgrades {
        let random = net.random.upgrades();
        let hosting = if random.one_in(2) { Hosting::Containers } else { Hosting::Children };
        let count = if random.one_in(4) { random.range(1, 3) } else { 0 };
        let mut upgrades = Upgrades {
            hosting,
            stage: Stage::NotWanted,
            attempt: 0,
            coming: BTreeMap::new(),
            number: 0,
            wants_stop: false,
        };
        let stop_in = random.range(1, 3 * count.max(1));
        for number in 1..=count {
            let (has_deaths, has_calls) = (net.faults.death > 0, net.faults.calls > 0);
            let random = net.random.upgrades();
            let at_us = random.range(500_000, 9_000_000);
            let plan = Plan {
                fails_after_us: random.one_in(4).then(|| random.size(400_000)),
                limit_us: random.pick(&[300_000, 3_000_000, 30_000_000]),
                strike_after_us: random.one_in(2).then(|| random.size(400_000)).filter(|_| has_deaths),
                call_after_us: random.one_in(2).then(|| random.size(400_000)).filter(|_| has_calls),
                stop_after_us: (number == stop_in).then(|| random.size(2_000_000)),
            };
            upgrades.later(net, at_us, Message::Asked(plan));
        }
        upgrades
    }

    pub fn hosting(&self) -> Hosting {
        self.hosting
    }

    /// The balancer is to stop now.
    pub fn wants_stop(&self) -> bool {
        self.wants_stop
    }

    /// The process that is about to take over: a stop is meant for it.
    pub fn successor(&self) -> Option<ProcessId> {
        match self.stage {
            Stage::Committed { successor, .. } => Some(successor),
            _ => None,
        }
    }

    /// A configuration may be read.
    pub fn may_reload(&self) -> bool {
        matches!(self.stage, Stage::NotWanted)
    }

    fn later(&mut self, net: &mut Net, us: u64, message: Message) {
        self.number += 1;
        self.coming.insert(self.number, message);
        net.after(us, Event::Upgrade(self.number));
    }

    /// Mostly a moment, at times as long as a process that has to wait for the processor.
    fn latency_us(net: &mut Net) -> u64 {
        net.random.upgrades().size(200_000)
    }

    pub fn come(&mut self, number: u64, processes: &mut Processes, fleet: &mut Fleet, operator: &Operator) {
        let Some(message) = self.coming.remove(&number) else { return };
        processes.net().borrow().log(|| format!("upgrade: {message:?}, {:?}", self.stage));
        match message {
            Message::Asked(plan) => self.asked(plan, processes, fleet),
            Message::Stop => self.wants_stop = true,
            Message::GiveUp(attempt)
            | Message::Begins(attempt, _)
            | Message::Failed(attempt)
            | Message::Ready(attempt)
                if attempt != self.attempt => {}
            // What was under way has not ended, or the successor is not ready in time.
            Message::GiveUp(_) | Message::Failed(_) => self.fail(processes, fleet),
            Message::Begins(_, predecessor) => self.begins(predecessor, processes, operator),
            Message::Attached(process) => self.attached(process, processes, fleet),
            Message::Ends(process) => self.ends(process, processes, fleet),
            Message::Ready(_) => self.ready(processes),
            Message::Go => self.go(processes, fleet),
            Message::Went => self.went(processes, fleet),
            Message::PredecessorEnded(process) => {
                let net = processes.net().clone();
                if let Some(successor) = processes.get_mut(process) {
                    successor.control.predecessor_ended(&mut net.borrow_mut(), fleet);
                }
            }
        }
    }

    fn asked(&mut self, plan: Plan, processes: &mut Processes, fleet: &mut Fleet) {
        if !self.may_reload() || processes.main().control.is_stopping() {
            return;
        }
        let shared = processes.net().clone();
        let (net, main) = (&mut *shared.borrow_mut(), processes.main_mut());
        net.note("u.asked", main.process() as u64, 0, 0);
        main.control.hold(net, fleet);
        self.stage = Stage::Waiting(plan);
        self.attempt += 1;
        self.later(net, plan.limit_us, Message::GiveUp(self.attempt));
        for (us, event) in [(plan.strike_after_us, Event::Strike), (plan.call_after_us, Event::Call)] {
            us.into_iter().for_each(|us| net.after(us, event));
        }
        if let Some(us) = plan.stop_after_us {
            self.later(net, us, Message::Stop);
        }
    }

    /// After every event.
    pub fn advance(&mut self, processes: &mut Processes) {
        self.tell_of_ends(processes);
        match self.stage {
            Stage::Waiting(plan) if processes.main().control.is_quiet() => self.start(plan, processes),
            Stage::Starting { successor: Some(successor), has_said_ready: false, .. }
                if processes.get(successor).is_some_and(|successor| successor.control.can_take_over()) =>
            {
                self.say_ready(successor, processes)
            }
            _ => {}
        }
    }

    /// A process that has ended leaves the connection to its successor.
    fn tell_of_ends(&mut self, processes: &mut Processes) {
        while let Some(successor) = processes.next_without_predecessor() {
            let net = &mut *processes.net().borrow_mut();
            let us = Upgrades::latency_us(net);
            self.later(net, us, Message::PredecessorEnded(successor));
        }
    }

    fn start(&mut self, plan: Plan, processes: &mut Processes) {
        // It is passed on as text.
        let text = serde_json::to_string(&processes.lend()).expect("it can be written");
        let net = &mut *processes.net().borrow_mut();
        let predecessor = serde_json::from_str(&text).expect("what was written can be read");
        self.stage = Stage::Starting { plan, successor: None, has_said_ready: false };
        let us = net.random.upgrades().range(1_000, 100_000);
        self.later(net, us, Message::Begins(self.attempt, predecessor));
    }

    fn begins(&mut self, predecessor: Predecessor, processes: &mut Processes, operator: &Operator) {
        let Stage::Starting { plan, successor: successor @ None, .. } = &mut self.stage else { return };
        let net = processes.net().clone();
        let workers = processes.workers();
        let (control, seed) = {
            let net = &mut *net.borrow_mut();
            let control = Control::successor(net, &operator.configuration, workers, self.hosting, predecessor);
            (control, net.random.upgrades().draw() >> 1)
        };
        let process = processes.start(control, seed);
        *successor = Some(process);
        let fails_after_us = plan.fails_after_us;
        let net = &mut *net.borrow_mut();
        net.note("u.begins", process as u64, 0, 0);
        let us = net.random.upgrades().range(1_000, 200_000);
        self.later(net, us, Message::Attached(process));
        if let Some(us) = fails_after_us {
            self.later(net, us, Message::Ends(process));
        }
    }

    fn attached(&mut self, process: ProcessId, processes: &mut Processes, fleet: &mut Fleet) {
        let found = processes.main().control.instances(fleet);
        let net = processes.net().clone();
        if let Some(successor) = processes.get_mut(process) {
            successor.control.attach(&mut net.borrow_mut(), fleet, found);
        }
    }

    /// It is told to the old process once.
    fn say_ready(&mut self, successor: ProcessId, processes: &mut Processes) {
        if let Some(successor) = processes.get_mut(successor) {
            successor.control.say_ready();
        }
        if let Stage::Starting { has_said_ready, .. } = &mut self.stage {
            *has_said_ready = true;
        }
        let net = &mut *processes.net().borrow_mut();
        let us = Upgrades::latency_us(net);
        self.later(net, us, Message::Ready(self.attempt));
    }

    /// A successor that is ready does not end.
    fn ends(&mut self, process: ProcessId, processes: &mut Processes, fleet: &mut Fleet) {
        let Stage::Starting { successor: Some(successor), has_said_ready: false, .. } = self.stage else { return };
        if successor == process {
            processes.kill(process, fleet);
            let net = &mut *processes.net().borrow_mut();
            let us = Upgrades::latency_us(net);
            self.later(net, us, Message::Failed(self.attempt));
        }
    }

    /// The successor is ended if it is not ready; all is as before.
    pub fn fail(&mut self, processes: &mut Processes, fleet: &mut Fleet) {
        let successor = match std::mem::replace(&mut self.stage, Stage::NotWanted) {
            Stage::NotWanted => return,
            committed @ Stage::Committed { .. } => return self.stage = committed,
            Stage::Waiting(_) => None,
            Stage::Starting { successor, .. } => successor,
        };
        if let Some(successor) = successor {
            processes.kill(successor, fleet);
        }
        let shared = processes.net().clone();
        let (net, main) = (&mut *shared.borrow_mut(), processes.main_mut());
        net.note("u.failed", main.process() as u64, 0, 0);
        net.history.totals.failed_upgrades += 1;
        main.control.take_back(net, fleet);
    }

    fn ready(&mut self, processes: &mut Processes) {
        let Stage::Starting { successor: Some(successor), has_said_ready: true, .. } = self.stage else { return };
        self.stage = Stage::Committed { successor, accepts: false, has_handed_over: false };
        let net = &mut *processes.net().borrow_mut();
        for message in [Message::Go, Message::Went] {
            let us = Upgrades::latency_us(net);
            self.later(net, us, message);
        }
    }

    fn go(&mut self, processes: &mut Processes, fleet: &mut Fleet) {
        let Stage::Committed { successor, accepts, .. } = &mut self.stage else { return };
        *accepts = true;
        processes.take_over(*successor);
        let net = processes.net().clone();
        if let Some(successor) = processes.get_mut(*successor) {
            successor.control.serve(&mut net.borrow_mut(), fleet);
        }
        self.finish(processes);
    }

    fn went(&mut self, processes: &mut Processes, fleet: &mut Fleet) {
        let Stage::Committed { has_handed_over, .. } = &mut self.stage else { return };
        *has_handed_over = true;
        processes.hand_over(fleet);
        self.finish(processes);
    }

    fn finish(&mut self, processes: &mut Processes) {
        if let Stage::Committed { successor, accepts: true, has_handed_over: true } = self.stage {
            self.stage = Stage::NotWanted;
            processes.set_main(successor);
            let net = &mut *processes.net().borrow_mut();
            net.note("u.done", successor as u64, 0, 0);
            net.history.totals.upgrades += 1;
        }
    }
}
