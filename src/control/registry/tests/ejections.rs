//! Replicas that fail requests: in a row, more than others; and the slow start of those that are back.

use super::verdicts::{ALL, load, suspected};
use super::*;
use crate::core::snapshot::ReplicaId;
use crate::core::step::{FaultKind, ReplicaFault};
use crate::shared::events::WorkerEvent;

fn failed(instance: InstanceId) -> Command {
    let kind = FaultKind::ConnectionClosed;
    Command::WorkerEvent(WorkerEvent::Fault(ReplicaFault { replica: ReplicaId(instance.number()), kind }))
}

fn fail(world: &mut World, name: &str, times: usize) {
    let instance = world.instance(name);
    (0..times).for_each(|_| world.tell(failed(instance)));
}

#[test]
fn requests_failed_in_a_row_eject_for_a_time_that_grows() {
    let mut world = World::up();
    fail(&mut world, "server1", 4);
    world.pass(1_000);
    assert_eq!(world.state("server1"), Some(State::Up));
    fail(&mut world, "server1", 1);
    assert_eq!(world.state("server1"), Some(State::Ejected));
    assert!(world.logged(&["server1: failing: 5 requests in a row failed; new requests go to others for 10.0 s"]));
    let status = world.registry.status(world.now);
    assert_eq!((status.services[0].ejections, status.replicas[0].state), (1, "failing"));
    world.pass(9_999);
    assert_eq!(world.state("server1"), Some(State::Ejected), "heartbeats that are answered change nothing");
    world.pass(1);
    assert_eq!(world.up_names(), ALL);
    assert!(world.logged(&["server1: its ejection is over; it takes requests"]));
    fail(&mut world, "server1", 5);
    world.pass(19_999);
    assert_eq!(world.state("server1"), Some(State::Ejected), "twice as long");
    world.pass(1);
    assert_eq!(world.up_names(), ALL);
    assert!(world.stops.is_empty(), "none is replaced");
}

#[test]
fn a_request_that_succeeds_ends_the_run_and_one_that_waits_is_no_failure() {
    let mut world = World::up();
    (0..9).for_each(|_| world.tell(suspected(world.instance("server1"))));
    fail(&mut world, "server1", 4);
    load(&world, "server1").failures.end();
    fail(&mut world, "server1", 4);
    world.pass(1_000);
    assert_eq!(world.up_names(), ALL);
}

#[test]
fn replicas_that_fail_are_ejected_as_far_as_others_can_be_spared_and_later_than_that_with_a_heartbeat() {
    let mut world = World::up();
    ALL.into_iter().for_each(|name| fail(&mut world, name, 9));
    assert_eq!(world.up_names(), ["server2", "server3"], "half of 3, rounded down");
    world.pass(11_000);
    let ejected: Vec<&str> = ALL.into_iter().filter(|name| world.state(name) == Some(State::Ejected)).collect();
    assert_eq!(ejected.len(), 1, "the next one");
    assert_ne!(ejected, ["server1"]);
}

#[test]
fn without_a_limit_no_failure_ejects() {
    let mut world = World::empty(config_with(|service| service.health.ejection.consecutive_failures = 0));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    fail(&mut world, "server1", 100);
    world.pass(1_000);
    assert_eq!(world.up_names(), ALL);
}

/// A reload that changes nothing else, too.
#[test]
fn responses_with_a_5xx_status_are_reported_where_they_count() {
    let mut world = World::up();
    assert_eq!(world.service().max_5xx_in_a_row, None);
    let mut changed = service_config();
    changed.health.ejection.counts_5xx = true;
    let topology = Topology::of_services([changed]);
    let change = Reconfiguration { ticket: 1, topology, found: Vec::new(), revisions: BTreeMap::new() };
    world.tell(Command::Reconfigure(change.into()));
    assert_eq!(world.service().max_5xx_in_a_row, Some(5));
    let replica = ReplicaId(world.instance("server2").number());
    let run: Vec<u32> = (0..5).map(|_| load(&world, "server2").failures.fail()).collect();
    assert_eq!(run, [1, 2, 3, 4, 5]);
    world.tell(Command::WorkerEvent(WorkerEvent::FailuresInARow { replica, failures: 5 }));
    assert_eq!(world.state("server2"), Some(State::Ejected));
}

/// `counts` are requests of each replica, and how many of them fail.
fn serve(world: &mut World, counts: [(u64, usize); 3]) {
    for (name, (requests, failures)) in ALL.into_iter().zip(counts) {
        (0..requests).for_each(|_| load(world, name).start(0));
        (0..failures).for_each(|_| {
            load(world, name).failures.end();
            fail(world, name, 1);
        });
    }
}

#[test]
fn a_replica_that_fails_more_than_the_others_is_ejected_at_the_end_of_an_interval() {
    let mut world = World::up();
    serve(&mut world, [(1_000, 30), (1_000, 520), (1_000, 10)]);
    assert_eq!(world.up_names(), ALL, "never two in a row");
    world.pass(10_500);
    assert_eq!(world.state("server2"), Some(State::Ejected));
    let why = "server2: failing: 52 % of 1000 requests failed, 2 % at the others; new requests go to others for 10.0 s";
    assert!(world.logged(&[why]), "{:?}", world.log);
    world.pass(10_500);
    assert_eq!(world.up_names(), ALL, "what failed before the interval counts no more");
    serve(&mut world, [(1_000, 900), (1_000, 900), (1_000, 900)]);
    world.pass(10_500);
    assert_eq!(world.up_names(), ALL, "all fail alike");
}

#[test]
fn failures_of_an_instance_are_not_held_against_its_replacement() {
    let mut world = World::up();
    serve(&mut world, [(1_000, 800), (1_000, 0), (1_000, 0)]);
    world.kill("server1");
    world.pass(1_000);
    serve(&mut world, [(1_000, 0); 3]);
    world.pass(10_500);
    assert_eq!(
        (world.up_names(), world.registry.status(world.now).services[0].ejections),
        (ALL.map(String::from).to_vec(), 0)
    );
}

fn ramps(world: &World) -> Vec<u16> {
    world.service().replicas.iter().map(|replica| replica.ramp.per_mille()).collect()
}

fn slowly_started() -> World {
    let mut world = World::empty(config_with(|service| service.health.slow_start_ms = 10_000));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    world
}

#[test]
fn a_replica_that_is_back_takes_its_share_in_steps_and_a_service_that_starts_does_not() {
    let mut world = slowly_started();
    assert_eq!(ramps(&world), [1000; 3]);
    world.pass(20_000);
    world.kill("server1");
    world.pass(50);
    assert_eq!(ramps(&world), [100, 1000, 1000]);
    assert!(world.logged(&["healed it in", ", its share grows for 10.0 s; 3 of 3 live"]), "{:?}", world.log);
    world.pass(5_000);
    assert_eq!(ramps(&world), [550, 1000, 1000]);
    let (name, service) = ("server1".to_owned(), SERVICE);
    let status = world.registry.status(world.now).replicas.into_iter().find(|one| *one.name == *name);
    assert_eq!(status.map(|one| one.weight_percent), Some(55), "{service:?}");
    let digest = Arc::as_ptr(&world.service().ring);
    world.pass(5_000);
    assert_eq!((ramps(&world), Arc::as_ptr(&world.service().ring)), (vec![1000; 3], digest), "the ring is the same");
    assert!(world.logged(&["server1: its slow start is over; it takes its whole share"]));
}

/// It was said that it took its whole share, while it took none.
#[test]
fn a_slow_start_that_an_ejection_ends_is_not_said_to_be_over() {
    let mut world = slowly_started();
    world.kill("server1");
    world.pass(2_050);
    assert_eq!(ramps(&world)[0], 280);
    fail(&mut world, "server1", 5);
    world.pass(9_000);
    assert_eq!((world.state("server1"), ramps(&world)[0]), (Some(State::Ejected), 1000));
    assert!(!world.logged(&["server1: its slow start is over"]), "{:?}", world.log);
    world.pass(1_000);
    assert_eq!(ramps(&world)[0], 100, "it begins anew");
}

#[test]
fn an_ejected_replica_and_one_that_joins_start_slowly_and_the_last_one_does_not() {
    let mut world = slowly_started();
    fail(&mut world, "server2", 5);
    world.pass(10_000);
    assert_eq!(ramps(&world), [1000, 100, 1000]);
    assert!(world.logged(&["server2: its ejection is over; it takes requests, its share grows for 10.0 s"]));
    world.pass(10_000);
    let answer = world.answer(add(1, &["dd"]));
    assert_eq!((listed(answer).len(), ramps(&world)), (4, vec![1000, 1000, 1000, 100]));
    let mut world = World::empty(config_with(|service| {
        (service.replicas, service.health.slow_start_ms) = (1, 10_000);
    }));
    world.tell(Command::Found(Vec::new()));
    world.pass(20_000);
    world.kill("server1");
    world.pass(100);
    assert_eq!((world.up_names().len(), ramps(&world)), (1, vec![1000]), "no other is there to take the rest");
}
