//! Servers that a source lists, and lists no more.

use super::*;

/// A service of listed servers, of which `names` are up, each at the address of its number.
fn listed_world(names: &[&str]) -> World {
    let mut world = World::empty(config_with(|service| service.can_start = false));
    world.tell(Command::Found(Vec::new()));
    for (number, name) in (1..).zip(names) {
        world.alive.insert(foreign(number), (*name).into());
        world.tell(joins(foreign(number), name, started(foreign(number))));
    }
    world.pass(100);
    assert_eq!(world.up_names(), names);
    world
}

fn foreign(number: u64) -> InstanceId {
    InstanceId::Foreign(number)
}

fn joins(instance: InstanceId, name: &str, started: Started) -> Command {
    Command::RuntimeEvent(RuntimeEvent::Joined { spec: spec(instance, name), started, why: "listed".into() })
}

fn delisted(instance: InstanceId) -> Command {
    Command::RuntimeEvent(RuntimeEvent::Delisted { instance, why: "not listed any more".into() })
}

#[test]
fn a_server_that_is_listed_no_more_drains() {
    let mut world = listed_world(&["a", "b"]);
    let replica = world.service().replicas[0].clone();
    replica.load.start(0);
    world.tell(delisted(foreign(1)));
    assert_eq!((world.state("a"), world.up_names()), (Some(State::Draining), vec!["b".to_owned()]));
    replica.load.finish(0);
    world.pass(100);
    assert_eq!(world.state("a"), None);
    assert!(world.logged(&["a: process foreign 1 left: not listed any more; 1 of 1 live"]), "{:?}", world.log);
    assert_eq!(world.alive.len(), 1, "its runtime was told that the drain is over");
}

#[test]
fn the_last_one_stays_until_one_that_is_new_answers() {
    let mut world = listed_world(&["a"]);
    world.alive.insert(foreign(2), "b".into());
    world.silent.insert(foreign(2));
    world.tell(joins(foreign(2), "b", started(foreign(2))));
    world.tell(delisted(foreign(1)));
    world.pass(500);
    assert_eq!(world.up_names(), ["a"]);
    world.silent.clear();
    world.pass(1_500);
    assert_eq!(world.up_names(), ["b"]);
    assert_eq!(world.state("a"), None);
}

#[test]
fn the_last_one_does_not_wait_for_one_that_does_not_start() {
    let mut world = listed_world(&["a"]);
    world.alive.insert(foreign(2), "b".into());
    world.silent.insert(foreign(2));
    world.tell(joins(foreign(2), "b", started(foreign(2))));
    world.tell(delisted(foreign(1)));
    world.pass(HealthPolicy::default().start_timeout_ms + 100);
    assert_eq!((world.state("a"), world.state("b")), (None, Some(State::Down)));
}

#[test]
fn the_last_one_leaves_where_none_is_new() {
    let mut world = listed_world(&["a"]);
    world.tell(delisted(foreign(1)));
    world.pass(100);
    assert_eq!(world.state("a"), None);
}

#[test]
fn a_server_that_is_listed_again_before_it_left_takes_requests_on() {
    let mut world = listed_world(&["a"]);
    world.alive.insert(foreign(2), "b".into());
    world.silent.insert(foreign(2));
    world.tell(joins(foreign(2), "b", started(foreign(2))));
    world.tell(delisted(foreign(1)));
    let replica = world.service().replicas[0].id;
    world.alive.insert(foreign(3), "a".into());
    world.tell(joins(foreign(3), "a", Started { endpoint: started(foreign(1)).endpoint, ..started(foreign(3)) }));
    assert_eq!((world.up_names(), world.service().replicas[0].id), (vec!["a".to_owned()], replica));
    world.tell(delisted(foreign(2)));
    world.alive.remove(&foreign(1));
    world.pass(5_000);
    assert_eq!(world.up_names(), ["a"], "it is probed under its new number");
}

#[test]
fn another_weight_changes_the_ring_and_nothing_else() {
    let mut world = listed_world(&["a", "b"]);
    let replica = world.service().replicas[0].id;
    world.tell(joins(foreign(1), "a", Started { weight: 5, ..started(foreign(1)) }));
    let shown = &world.service().replicas[0];
    assert_eq!((shown.id, shown.weight, shown.state), (replica, 5, State::Up));
    world.pass(5_000);
    assert_eq!(world.up_names(), ["a", "b"]);
}

/// Where others list the servers, nothing says that an address is one service's alone.
#[test]
fn two_services_may_list_one_address_under_two_names() {
    let service = |name: &str| ServiceConfig { name: name.into(), can_start: false, ..service_config() };
    let mut world = World::empty(config_of([service("shop"), service("canary")]));
    world.tell(Command::Found(Vec::new()));
    for (number, (name, service)) in (1..).zip([("a", SERVICE), ("canary-a", ServiceId(1))]) {
        world.alive.insert(foreign(number), name.into());
        let started = Started { endpoint: started(foreign(1)).endpoint, ..started(foreign(number)) };
        let spec = Spec { service, ..spec(foreign(number), name) };
        world.tell(Command::RuntimeEvent(RuntimeEvent::Joined { spec, started, why: "listed".into() }));
    }
    world.pass(100);
    assert!(!world.logged(&["another instance has its address now"]), "{:?}", world.log);
    assert!(world.shown.services.iter().all(|service| service.replicas[0].state == State::Up));
}

#[test]
fn a_server_that_moves_alone_takes_requests_at_its_new_address_at_once() {
    let mut world = listed_world(&["a"]);
    world.alive.insert(foreign(2), "a".into());
    world.silent.insert(foreign(2));
    world.tell(joins(foreign(2), "a", started(foreign(2))));
    assert_eq!(
        (world.up_names(), &world.service().replicas[0].endpoint),
        (vec!["a".to_owned()], &started(foreign(2)).endpoint)
    );
    let mut world = listed_world(&["a", "b"]);
    world.alive.insert(foreign(3), "a".into());
    world.silent.insert(foreign(3));
    world.tell(joins(foreign(3), "a", started(foreign(3))));
    assert_eq!(world.up_names(), ["b"], "another takes them until it answers");
}

#[test]
fn a_removed_server_is_put_back_as_it_is_listed_by_then() {
    let mut world = listed_world(&["a", "b"]);
    assert_eq!(listed(world.answer(remove(1, &["a"]))), ["b"]);
    world.alive.insert(foreign(3), "a".into());
    world.tell(joins(foreign(3), "a", Started { weight: 4, ..started(foreign(3)) }));
    assert_eq!(world.names(), ["b"], "it stays away");
    assert_eq!(listed(world.answer(add(1, &["a"]))), ["b", "a"]);
    let back = world.service().replicas.iter().find(|replica| &*replica.name == "a").unwrap();
    assert_eq!((&back.endpoint, back.weight), (&started(foreign(3)).endpoint, 4));
    assert_eq!(listed(world.answer(remove(1, &["a"]))), ["b"]);
    world.tell(delisted(foreign(3)));
    assert_eq!(rejected(world.answer(add(1, &["a"]))).0, 400, "there is no such server any more");
}

#[test]
fn a_server_that_gets_another_name_takes_requests_on() {
    let mut world = listed_world(&["a"]);
    world.alive.insert(foreign(2), "b".into());
    world.silent.insert(foreign(2));
    world.tell(joins(foreign(2), "b", Started { endpoint: started(foreign(1)).endpoint, ..started(foreign(2)) }));
    world.tell(delisted(foreign(1)));
    assert_eq!(world.up_names(), ["a"]);
    world.silent.clear();
    world.pass(1_500);
    assert_eq!(world.up_names(), ["b"]);
}
