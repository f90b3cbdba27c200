//! Verdicts: evidence of death takes a replica away at once, slowness only as far as the service can spare it, and silence
//! replaces it late, gently and one at a time.

use super::*;
use crate::core::snapshot::ReplicaId;
use crate::core::step::{FaultKind, ReplicaFault};
use crate::shared::events::WorkerEvent;

pub const ALL: [&str; 3] = ["server1", "server2", "server3"];

pub fn suspected(instance: InstanceId) -> Command {
    let kind = FaultKind::Slow { after_ms: 250 };
    Command::WorkerEvent(WorkerEvent::Fault(ReplicaFault { replica: ReplicaId(instance.number()), kind }))
}

pub fn load(world: &World, name: &str) -> Arc<ReplicaLoad> {
    world.service().replicas.iter().find(|replica| *replica.name == *name).expect("a member").load.clone()
}

#[test]
fn evidence_of_death_takes_requests_away_at_once_and_replaces_when_it_is_repeated() {
    let mut world = World::up();
    let dead = world.instance("server1");
    world.tell(probe_failed(dead, ProbeFault::Dead));
    assert!(world.logged(&["server1: cannot connect: refused; it takes no requests until it answers"]));
    assert_eq!(world.state("server1"), Some(State::Up), "the next probe came at once and was answered");
    world.alive.remove(&dead);
    world.pass(500);
    assert_ne!(world.instance("server1"), dead, "two in a row: it is replaced at once");
    assert!(world.logged(&["server1: down: 2 heartbeats failed, the last: cannot connect: refused"]));
    assert!(world.stops.iter().any(|(_, instance, grace_ms)| *instance == dead && *grace_ms == 0), "ended by force");
    assert_eq!(world.up_names(), ALL);
}

#[test]
fn evidence_of_death_shows_the_replica_down_before_it_is_replaced() {
    let mut world = World::up();
    let dead = world.instance("server1");
    let effects = world.registry.apply(probe_failed(dead, ProbeFault::ConnectTimedOut), world.now);
    let published = effects.iter().find_map(|effect| match effect {
        Effect::Publish(snapshot) => Some(snapshot.services[0].replicas[0].state),
        _ => None,
    });
    assert_eq!(published, Some(State::Down), "its requests go elsewhere now");
}

#[test]
fn a_connect_without_an_answer_is_no_evidence_while_responses_come() {
    let mut world = World::up();
    let busy = world.instance("server1");
    world.pass(400);
    for _ in 0..100 {
        world.pass(100);
        load(&world, "server1").receive(0);
        world.tell(probe_failed(busy, ProbeFault::ConnectTimedOut));
        assert_eq!(world.state("server1"), Some(State::Up));
    }
    assert_eq!(world.instance("server1"), busy);
}

/// Also `ringway_ejections_total`.
#[test]
fn a_late_heartbeat_ejects_only_from_new_picks_and_ends_nothing() {
    let mut world = World::up();
    let slow = world.instance("server1");
    world.silent.insert(slow);
    world.pass(500);
    assert_eq!(world.state("server1"), Some(State::Up), "one is no reason");
    world.pass(500);
    assert_eq!(world.state("server1"), Some(State::Ejected));
    assert!(world.logged(&["server1: slow: no answer within 500 ms; new requests go to others until it answers"]));
    assert_eq!(world.registry.status(world.now).services[0].ejections, 1);
    world.pass(25_000);
    assert_eq!((world.state("server1"), world.instance("server1")), (Some(State::Ejected), slow));
    world.silent.clear();
    world.pass(500);
    assert_eq!(world.up_names(), ALL);
    assert!(world.stops.is_empty() && world.logged(&["server1: answers again; it takes requests"]));
}

/// More of them could be ejected.
#[test]
fn one_that_is_slow_for_long_is_ejected_once() {
    let mut world = World::empty(config_with(|service| service.replicas = 5));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    let slow = world.instance("server1");
    world.silent.insert(slow);
    world.pass(10_000);
    assert_eq!(world.state("server1"), Some(State::Ejected));
    assert_eq!(world.registry.status(world.now).services[0].ejections, 1);
}

#[test]
fn a_response_counts_as_life() {
    let mut world = World::up();
    let busy = world.instance("server1");
    let load = load(&world, "server1");
    world.silent.insert(busy);
    for _ in 0..200 {
        // Probes are answered at once here: what a replica sends meanwhile comes between two applies.
        let effects = world.registry.apply(Command::Tick, world.registry.due());
        world.now = world.now.after_ms(250);
        load.receive(0);
        for command in effects.into_iter().flat_map(|effect| world.perform(effect)).collect::<Vec<_>>() {
            world.tell(command);
        }
    }
    assert_eq!((world.state("server1"), world.instance("server1")), (Some(State::Up), busy));
    assert!(world.stops.is_empty());
}

#[test]
fn a_response_between_two_probes_counts_as_life() {
    let mut world = World::empty(config_with(|service| service.replicas = 1));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    let (busy, load) = (world.instance("server1"), load(&world, "server1"));
    world.silent.insert(busy);
    for _ in 0..100 {
        world.pass(1_250);
        load.receive(0);
    }
    assert_eq!(world.instance("server1"), busy);
    assert!(world.stops.is_empty(), "{:?}", world.log);
}

#[test]
fn never_more_than_half_of_a_service_is_ejected() {
    let mut world = World::empty(config_with(|service| service.replicas = 5));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    for number in 1..=5 {
        world.silent.insert(managed(number));
    }
    world.pass(5_000);
    assert_eq!(world.up_names().len(), 3, "{:?}", world.log);
    assert_eq!(listed(world.answer(remove(2, &["server4", "server5"]))).len(), 3);
    let ejected = world.service().replicas.iter().filter(|replica| replica.state == State::Ejected).count();
    assert!(ejected <= 1, "{ejected} of 3");
}

#[test]
fn a_single_replica_is_never_ejected() {
    let mut world = World::empty(config_with(|service| service.replicas = 1));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    world.silent.insert(managed(1));
    world.pass(20_000);
    assert_eq!(world.up_names(), ["server1"]);
}

#[test]
fn the_last_replica_that_is_up_is_not_ejected() {
    let mut world = World::up();
    world.broken.extend(["server2", "server3"].map(|name| (name.to_string(), FailureKind::Refused)));
    world.kill("server2");
    world.kill("server3");
    world.silent.insert(world.instance("server1"));
    world.pass(10_000);
    assert_eq!(world.up_names(), ["server1"]);
}

#[test]
fn a_suspected_replica_is_ejected_after_one_short_probe() {
    let mut world = World::up();
    let slow = world.instance("server1");
    world.silent.insert(slow);
    world.pass(60);
    let effects = world.registry.apply(suspected(slow), world.now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Probe { timeout_ms: 250, .. })), "{effects:?}");
    for command in effects.into_iter().flat_map(|effect| world.perform(effect)).collect::<Vec<_>>() {
        world.tell(command);
    }
    assert_eq!((world.state("server1"), world.up_names().len()), (Some(State::Ejected), 2));
    world.tell(Command::ProbeOk { instance: slow });
    assert_eq!((world.state("server1"), world.instance("server1")), (Some(State::Up), slow));
}

#[test]
fn a_workers_fault_brings_the_next_probe_forward_and_judges_nothing() {
    let mut world = World::up();
    world.pass(60);
    let suspect = world.instance("server3");
    let before = world.registry.due();
    world.tell(suspected(suspect));
    assert_eq!(world.state("server3"), Some(State::Up));
    assert!(world.registry.due() <= before);
    world.alive.remove(&suspect);
    world.tell(suspected(suspect));
    world.pass(50);
    assert!(world.logged(&["server3: down"]), "two failed in 50 ms: {:?}", world.log);
    world.pass(50);
    assert_eq!(world.up_names(), ALL);
}

#[test]
fn silence_replaces_after_its_time_gently_and_one_at_a_time() {
    let mut world = World::up();
    let silent = ALL.map(|name| world.instance(name));
    let finished = load(&world, "server1");
    finished.start(0);
    world.silent.extend(silent);
    world.pass(29_000);
    assert!(world.stops.is_empty(), "{:?}", world.log);
    world.pass(2_500);
    assert!(world.logged(&["server1: no answer for", "it is stopped and replaced; 2 of 3 live"]), "{:?}", world.log);
    assert_eq!(world.shown.services[0].replicas.len(), 4, "its request goes on beside the ring");
    assert_eq!(world.state("server1"), Some(State::Down), "its slot has no instance");
    assert!(world.stops.is_empty());
    finished.finish(0);
    world.pass(2_000);
    let gentle = world.stops.iter().all(|(_, _, grace_ms)| *grace_ms == STOP_GRACE_MS);
    assert!(gentle && world.stops[0].1 == silent[0], "{:?}", world.stops);
    world.pass(5_000);
    assert_eq!(world.up_names().len(), 3, "{:?}", world.log);
    let tally = "it is stopped and replaced; 2 of 3 live in test";
    assert_eq!(world.log.iter().filter(|line| line.ends_with(tally)).count(), 3, "one at a time: {:?}", world.log);
    assert!(silent.iter().all(|instance| !world.alive.contains_key(instance)));
}

#[test]
fn a_silent_replica_of_others_is_not_ended() {
    let fixed = InstanceId::Foreign(1);
    let mut world = World::empty(config_with(|service| service.can_start = false));
    world.alive.insert(fixed, "a:1".into());
    world.tell(Command::Found(vec![(spec(fixed, "a:1"), started(fixed))]));
    world.pass(100);
    world.silent.insert(fixed);
    world.pass(100_000);
    assert_eq!(world.up_names(), ["a:1"], "it is the only one");
    assert!(world.stops.is_empty());
}

#[test]
fn heartbeats_that_are_far_apart_still_need_fall_failures() {
    let fixed = InstanceId::Foreign;
    let mut world = World::empty(config_with(|service| {
        service.can_start = false;
        service.health.interval_ms = 40_000;
    }));
    let found = |number: u64, name: &str| (spec(fixed(number), name), started(fixed(number)));
    world.alive.extend([(fixed(1), "a:1".into()), (fixed(2), "b:2".into()), (fixed(3), "c:3".into())]);
    world.tell(Command::Found(vec![found(1, "a:1"), found(2, "b:2"), found(3, "c:3")]));
    world.pass(100);
    world.unhealthy.insert(fixed(1));
    world.silent.insert(fixed(2));
    world.pass(40_000);
    assert_eq!(world.up_names().len(), 3, "one failure is no verdict");
    world.pass(40_000);
    assert_eq!((world.state("a:1"), world.state("b:2")), (Some(State::Draining), Some(State::Ejected)));
    assert!(world.stops.is_empty());
}

#[test]
fn an_unhealthy_answer_takes_new_requests_away_and_replaces_late() {
    let mut world = World::up();
    let unhealthy = world.instance("server2");
    world.unhealthy.insert(unhealthy);
    world.pass(500);
    assert_eq!(world.state("server2"), Some(State::Up));
    world.pass(500);
    assert_eq!(world.state("server2"), Some(State::Draining), "what it has, it finishes");
    assert!(world.logged(&["server2: it answered 500; it takes no new requests until it is healthy"]));
    world.pass(28_000);
    assert_eq!(world.instance("server2"), unhealthy);
    world.pass(3_000);
    assert_eq!((world.state("server2"), world.up_names().len()), (Some(State::Up), 3), "{:?}", world.log);
    assert_ne!(world.instance("server2"), unhealthy);
}

#[test]
fn a_replica_takes_requests_again_after_rise_answers() {
    let mut world = World::empty(config_with(|service| service.health.rise = 3));
    world.tell(Command::Found(Vec::new()));
    world.pass(30);
    assert!(world.up_names().is_empty(), "two answers");
    world.pass(20);
    assert_eq!(world.up_names(), ALL);
    let unhealthy = world.instance("server2");
    world.unhealthy.insert(unhealthy);
    world.pass(1_000);
    world.unhealthy.clear();
    world.pass(1_000);
    assert_eq!(world.state("server2"), Some(State::Draining));
    world.pass(500);
    assert_eq!(world.state("server2"), Some(State::Up));
}

#[test]
fn skipped_probes_count_neither_for_nor_against_a_replica() {
    let mut world = World::up();
    world.exhausted = true;
    world.pass(10_000);
    assert_eq!(world.up_names().len(), 3);
    assert!(world.stops.is_empty());
    let logged = world.log.iter().filter(|line| line.starts_with("heartbeats cannot be asked for")).count();
    assert!((5..=11).contains(&logged), "once a second: {logged}");
    world.exhausted = false;
    let dead = world.instance("server1");
    world.alive.remove(&dead);
    world.pass(1_000);
    assert_ne!(world.instance("server1"), dead, "and then they are again");
}

#[test]
fn intervals_differ_by_the_jitter() {
    let mut world = World::empty(config_with(|service| {
        service.health.interval_ms = 1_000;
        service.health.jitter_percent = 20;
    }));
    world.tell(Command::Found(Vec::new()));
    world.pass(2_000);
    let mut pauses = Vec::new();
    for _ in 0..100 {
        let begun = world.now;
        world.pass(world.registry.due().ms_since(world.now));
        pauses.push(world.now.ms_since(begun));
    }
    // Three replicas, each asked once in 800 to 1,200 ms.
    let whole: u64 = pauses.iter().sum();
    assert!((26_600..=40_000).contains(&whole), "{whole}");
    pauses.sort_unstable();
    pauses.dedup();
    assert!(pauses.len() > 20, "{pauses:?}");
}
