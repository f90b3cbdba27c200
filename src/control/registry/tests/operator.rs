//! `PATCH /replicas/NAME`: an operator's drain and weight, and what they outlast.

use super::successions::roll_out;
use super::*;

fn patch(name: &str, state: Option<RequestedState>, weight: Option<u32>) -> Call {
    Call::Patch(ReplicaPatch { name: name.into(), state, weight })
}

fn drain(name: &str) -> Call {
    patch(name, Some(RequestedState::Drain), None)
}

fn up(name: &str) -> Call {
    patch(name, Some(RequestedState::Up), None)
}

fn weight(name: &str, weight: u32) -> Call {
    patch(name, None, Some(weight))
}

fn patched(answer: Answer) -> ReplicaStatus {
    match answer {
        Answer::Replica(status) => *status,
        other => panic!("not a replica: {other:?}"),
    }
}

fn status(world: &World, name: &str) -> ReplicaStatus {
    let status = world.registry.status(world.now);
    status.replicas.into_iter().find(|replica| *replica.name == *name).expect("it is there")
}

#[test]
fn a_drained_replica_keeps_its_place_and_takes_nothing_until_it_is_put_back() {
    let mut world = World::up();
    let (ring, instance) = (world.service().ring.clone(), world.instance("server2"));
    let answer = patched(world.answer(drain("server2")));
    assert_eq!(
        (&*answer.name, answer.state, answer.why.as_deref()),
        ("server2", "drained", Some("drained by an operator"))
    );
    assert_eq!(world.up_names(), ["server1", "server3"]);
    assert_eq!(world.state("server2"), Some(State::Draining));
    assert!(Arc::ptr_eq(&ring, &world.service().ring), "the ring is the same");
    assert_eq!(world.names().len(), 3, "it counts");
    world.pass(600_000);
    assert_eq!((world.instance("server2"), world.stops.len()), (instance, 0), "it is neither stopped nor replaced");
    assert!(world.logged(&["server2", "drained by an operator", "0 in flight", "3 of 3 live, 1 drained"]));
    assert_eq!(patched(world.answer(up("server2"))).state, "up");
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
}

#[test]
fn a_patch_is_answered_when_the_workers_act_on_it() {
    let mut world = World::up();
    world.stuck = true;
    let ticket = world.call(drain("server1"));
    assert_eq!(world.state("server1"), Some(State::Draining));
    assert!(world.replies.is_empty(), "no worker acts on it yet");
    world.stuck = false;
    world.tell(Command::Acked(world.epochs));
    assert_eq!(patched(world.replies.remove(&ticket).unwrap()).state, "drained");
}

/// No epoch follows on such a call: it must not wait for one.
#[test]
fn a_patch_that_changes_nothing_is_answered_at_once() {
    let mut world = World::up();
    world.answer(drain("server1"));
    let epochs = world.epochs;
    for call in [drain("server1"), up("server2"), weight("server3", 1)] {
        let ticket = world.call(call);
        assert!(world.replies.contains_key(&ticket));
    }
    assert_eq!(world.epochs, epochs);
}

#[test]
fn a_weight_changes_the_ring_and_both_fields_are_taken_together() {
    let mut world = World::up();
    let answer = patched(world.answer(patch("server2", Some(RequestedState::Drain), Some(3))));
    assert_eq!((answer.weight, answer.state), (3, "drained"));
    let points = |world: &World, at: usize| world.service().ring.points().filter(|(_, member)| *member == at).count();
    assert_eq!((points(&world, 0), points(&world, 1)), (160, 480));
    assert_eq!(world.service().replicas[1].weight, 3);
    world.answer(weight("server2", 1));
    assert_eq!(points(&world, 1), 160);
}

#[test]
fn a_drained_replica_that_dies_is_healed_and_stays_drained() {
    let mut world = World::up();
    world.answer(patch("server2", Some(RequestedState::Drain), Some(2)));
    let before = world.instance("server2");
    world.mute = true;
    world.kill("server2");
    let starting = status(&world, "server2");
    assert_eq!((starting.state, starting.drained), ("starting", true));
    assert_eq!(starting.why.as_deref(), Some("drained by an operator; no answer within 500 ms"));
    world.silent.clear();
    world.pass(5_000);
    assert_ne!(world.instance("server2"), before);
    assert_eq!((world.state("server2"), status(&world, "server2").weight), (Some(State::Draining), 2));
    world.answer(up("server2"));
    assert_eq!(world.up_names().len(), 3);
}

#[test]
fn rm_takes_a_drained_replica_and_its_name_begins_anew() {
    let mut world = World::up();
    world.answer(drain("server2"));
    assert_eq!(listed(world.answer(remove(1, &["server2"]))), ["server1", "server3"]);
    world.pass(1_000);
    assert_eq!(listed(world.answer(add(1, &["server2"]))).len(), 3);
    assert_eq!(world.state("server2"), Some(State::Up));
}

#[test]
fn when_an_operator_drained_all_a_warning_says_so_once() {
    let mut world = World::up();
    let said = |world: &World| world.log.iter().filter(|line| line.contains("they are answered 503")).count();
    for (at, name) in ["server1", "server2", "server3"].into_iter().enumerate() {
        assert_eq!(said(&world), 0, "{at} drained");
        world.answer(drain(name));
    }
    assert!(world.logged(&["service test", "no replica takes requests", "an operator drained them", "3 drained"]));
    world.answer(weight("server1", 2));
    assert_eq!(said(&world), 1);
    world.answer(up("server1"));
    world.answer(drain("server1"));
    assert_eq!(said(&world), 2, "it is so again");
}

#[test]
fn a_drained_replica_that_is_slow_is_not_ejected_and_one_that_is_ejected_can_be_drained() {
    let mut world = World::up();
    world.answer(drain("server1"));
    world.silent.extend([world.instance("server1"), world.instance("server2")]);
    world.pass(4_000);
    assert_eq!((world.state("server1"), world.state("server2")), (Some(State::Draining), Some(State::Ejected)));
    world.answer(drain("server2"));
    assert_eq!(world.state("server2"), Some(State::Draining));
    world.answer(up("server2"));
    assert_eq!(world.state("server2"), Some(State::Ejected), "it is as slow as before");
}

#[test]
fn an_unknown_replica_is_answered_404_with_names_near_it() {
    let mut world = World::up();
    let (code, message) = rejected(world.answer(drain("sever2")));
    assert_eq!(code, 404);
    assert_eq!(message, "there is no replica \"sever2\" in service test: there are server2, server1, server3");
    let (_, message) = rejected(world.answer(drain(&"x".repeat(1_000))));
    assert!(message.len() < 300, "{message}");
    world.stuck = true;
    world.call(add(1, &["new"]));
    let late = world.call(drain("server1"));
    world.stuck = false;
    world.pass(1_000);
    assert_eq!(patched(world.replies.remove(&late).unwrap()).state, "drained", "it waited for the call before it");
}

#[test]
fn a_replica_of_another_service_is_named_with_it() {
    let blog = ServiceConfig { name: "blog".into(), replicas: 2, ..service_config() };
    let mut world = World::empty(config_of([service_config(), blog]));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    let (_, message) = rejected(world.answer(drain("server4")));
    assert_eq!(
        message,
        "there is no replica \"server4\" in service test: it is one of service blog: ask with ?service=blog"
    );
}

fn foreign_of(world: &mut World, number: u64, name: &str, weight: u32) {
    let instance = InstanceId::Foreign(number);
    world.alive.insert(instance, name.into());
    let started = Started { weight, ..started(instance) };
    world.tell(Command::RuntimeEvent(RuntimeEvent::Joined { spec: spec(instance, name), started, why: "test".into() }));
    world.pass(100);
}

#[test]
fn a_foreign_replica_that_leaves_and_returns_is_still_drained() {
    let mut world = World::up();
    foreign_of(&mut world, 1, "web", 2);
    world.answer(patch("web", Some(RequestedState::Drain), Some(5)));
    world.tell(Command::RuntimeEvent(RuntimeEvent::Left { instance: InstanceId::Foreign(1), why: "restart".into() }));
    assert_eq!(world.state("web"), None);
    foreign_of(&mut world, 2, "web", 2);
    assert_eq!((world.state("web"), status(&world, "web").weight), (Some(State::Draining), 5));
    // A label that changes is the newer word.
    foreign_of(&mut world, 3, "web", 4);
    assert_eq!((world.state("web"), status(&world, "web").weight), (Some(State::Draining), 4));
}

#[test]
fn decisions_outlast_an_upgrade_and_a_drained_successor_may_take_over() {
    let mut world = World::up();
    world.answer(patch("server2", Some(RequestedState::Drain), Some(3)));
    for name in ["server1", "server3"] {
        world.answer(drain(name));
    }
    let text = serde_json::to_string(&world.registry.for_successor()).unwrap();
    let (registry, _) = Registry::starting(config(), serde_json::from_str(&text).unwrap());
    let mut next = World { registry, ..World::empty(config()) };
    next.tell(Command::Found(Vec::new()));
    next.pass(100);
    assert_eq!((next.state("server2"), status(&next, "server2").weight), (Some(State::Draining), 3));
    assert!(next.registry.can_serve(), "all are drained, as an operator wants it");
    assert_eq!(serde_json::to_string(&next.registry.for_successor()).unwrap(), text);
    next.tell(Command::Enter(Lifecycle::Serving));
    next.answer(up("server2"));
    assert_eq!(next.up_names(), ["server2"]);
}

#[test]
fn decisions_outlast_the_replacement_of_an_outdated_instance() {
    let mut world = World::up();
    world.answer(patch("server2", Some(RequestedState::Drain), Some(3)));
    let before = world.instance("server2");
    roll_out(&mut world, Revision(2));
    world.pass(5_000);
    assert_ne!(world.instance("server2"), before);
    let replica = world.service().replicas.iter().find(|replica| *replica.name == *"server2").unwrap();
    assert_eq!((replica.state, replica.weight), (State::Draining, 3));
}
