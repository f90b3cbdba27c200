//! There are always N: what dies or stops answering is replaced, and no other slot changes.

use super::*;
use crate::core::snapshot::ReplicaId;

#[test]
fn a_killed_replica_is_down_at_once_and_its_slot_gets_a_new_instance() {
    let mut world = World::up();
    let (ring, before) = (world.service().ring.clone(), world.instance("server2"));
    world.pass(10_000);
    world.alive.remove(&before);
    let effects = world.registry.apply(exited(before, "killed by signal 9"), world.now);
    let [Effect::Publish(published), Effect::Log(_, line), Effect::Start(spec)] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(published.services[0].replicas[1].state, State::Down);
    assert!(line.starts_with("server2: died after 10.1 s: killed by signal 9; it is replaced at once"), "{line}");
    assert_eq!(&*spec.name, "server2");
    for effect in effects {
        for command in world.perform(effect) {
            world.tell(command);
        }
    }
    world.pass(50);
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    assert_ne!(world.instance("server2"), before);
    assert_eq!(world.service().replicas[1].id, ReplicaId(world.instance("server2").number()));
    assert!(Arc::ptr_eq(&ring, &world.service().ring), "a heal shares the ring");
    assert!(world.logged(&["server2", "healed it in", "3 of 3 live"]));
}

#[test]
fn the_pause_before_a_start_doubles_with_each_failure_in_a_row() {
    let mut world = World::up();
    world.crashing.insert("server2".into());
    world.pass(1_000);
    let from = world.starts.len();
    world.kill("server2");
    world.pass(60_000);
    let times: Vec<u64> = world.starts[from..].iter().map(|(at, _)| at.0).collect();
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps[..9], [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
    world.crashing.clear();
    world.pass(10_000);
    assert_eq!(world.up_names().len(), 3);
    world.pass(1_000);
    let from = world.starts.len();
    world.kill("server2");
    assert_eq!(world.starts.len(), from, "one that lived less than ten pauses is no proof");
    world.pass(10_000);
    assert_eq!((world.starts.len(), world.up_names().len()), (from + 1, 3));
    world.pass(100_000);
    let from = world.starts.len();
    world.kill("server2");
    assert_eq!(world.starts.len(), from + 1, "one that lived is replaced at once");
}

#[test]
fn all_are_up_within_a_second_when_one_is_killed_each_two_seconds() {
    let mut world = World::up();
    for round in 0..20 {
        world.pass(2_000);
        assert_eq!(world.up_names().len(), 3, "round {round}");
        world.kill("server1");
    }
}

#[test]
fn an_instance_that_never_answers_is_replaced_after_the_start_timeout() {
    let mut world = World::up();
    for number in 4..10 {
        world.silent.insert(managed(number));
    }
    world.kill("server1");
    world.pass(1_000);
    assert!(world.logged(&["server1: not ready after 500 ms: no answer within 500 ms"]), "{:?}", world.log);
    world.pass(58_000);
    assert!(!world.logged(&["server1: down: no heartbeat"]));
    world.pass(1_000);
    let why = "server1: down: no heartbeat answered within 60.0 s, the last failure: no answer within 500 ms";
    assert!(world.logged(&[why]), "{:?}", world.log);
    world.silent.clear();
    world.pass(1_000);
    assert_eq!(world.up_names().len(), 3);
}

#[test]
fn a_failed_start_is_logged_and_tried_again() {
    let mut world = World::up();
    world.broken.insert("server1".into(), FailureKind::Unavailable);
    world.kill("server1");
    world.pass(2_000);
    assert!(world.logged(&["server1: cannot start: no such image; next try in"]));
    assert_eq!(world.names().len(), 3, "desired state stays");
    world.broken.clear();
    world.pass(10_000);
    assert_eq!(world.up_names().len(), 3);
}

#[test]
fn the_first_start_that_fails_is_tried_again_at_once() {
    let mut world = World::empty(config());
    world.broken.insert("server1".into(), FailureKind::Unavailable);
    world.tell(Command::Found(Vec::new()));
    assert!(world.logged(&["server1: cannot start: no such image; next try at once"]), "{:?}", world.log);
    world.pass(1_000);
    assert!(!world.logged(&["try in 0 ms"]), "{:?}", world.log);
}

#[test]
fn an_instance_stopped_from_outside_drains_and_is_replaced_when_it_has_exited() {
    let mut world = World::up();
    let instance = world.instance("server2");
    world.tell(Command::RuntimeEvent(RuntimeEvent::Stopping { instance, why: "docker stop".into() }));
    assert_eq!(world.state("server2"), Some(State::Draining));
    world.kill("server2");
    world.pass(50);
    assert_eq!(world.state("server2"), Some(State::Up));
}

#[test]
fn a_fixed_replica_that_stops_answering_stays_a_member_and_comes_back() {
    let mut world = World::empty(config_with(|service| service.can_start = false));
    let fixed = InstanceId::Foreign;
    let found = |number: u64, name: &str| (spec(fixed(number), name), started(fixed(number)));
    world.alive.insert(fixed(1), "a:1".into());
    world.alive.insert(fixed(2), "b:2".into());
    world.tell(Command::Found(vec![found(1, "a:1"), found(2, "b:2")]));
    world.pass(100);
    assert_eq!(world.up_names(), ["a:1", "b:2"]);
    world.alive.remove(&fixed(1));
    world.pass(1_500);
    assert_eq!(world.state("a:1"), Some(State::Down));
    assert_eq!(world.names(), ["a:1", "b:2"]);
    world.alive.insert(fixed(1), "a:1".into());
    world.pass(600);
    assert_eq!(world.state("a:1"), Some(State::Up));
    assert!(world.starts.is_empty() && world.stops.is_empty(), "they are foreign");
    assert_eq!(rejected(world.answer(add(1, &[]))).0, 400);
}

#[test]
fn a_fixed_replica_that_was_removed_is_put_back_by_its_name() {
    let mut world = World::empty(config_with(|service| service.can_start = false));
    let fixed = InstanceId::Foreign;
    let found = |number: u64, name: &str| (spec(fixed(number), name), started(fixed(number)));
    let alive = [(fixed(1), Arc::from("a:1")), (fixed(2), Arc::from("b:2"))];
    world.alive.extend(alive.clone());
    world.tell(Command::Found(vec![found(1, "a:1"), found(2, "b:2")]));
    world.pass(100);
    assert!(rejected(world.answer(add(1, &["a:1"]))).1.contains("no server of that name was removed"));
    assert_eq!(listed(world.answer(remove(1, &["a:1"]))), ["b:2"]);
    world.pass(5_000);
    assert_eq!(rejected(world.answer(add(1, &[]))).0, 400, "it has to be named");
    assert_eq!(listed(world.answer(dry(add(1, &["a:1"])))), ["b:2", "a:1"]);
    assert_eq!(world.names(), ["b:2"]);
    world.alive.extend(alive);
    assert_eq!(listed(world.answer(add(1, &["a:1"]))), ["b:2", "a:1"]);
    world.pass(100);
    assert_eq!((world.up_names(), &world.resumed[..]), (vec!["b:2".into(), "a:1".into()], &[fixed(1)][..]));
}

#[test]
fn a_fixed_replica_that_answers_late_comes_up() {
    let only = InstanceId::Foreign(1);
    let mut world = World::empty(config_with(|service| service.can_start = false));
    world.tell(Command::Found(vec![(spec(only, "a:1"), started(only))]));
    world.pass(60_000);
    assert_eq!(world.state("a:1"), Some(State::Down));
    world.alive.insert(only, "a:1".into());
    world.pass(600);
    assert_eq!(world.state("a:1"), Some(State::Up));
}

#[test]
fn an_adopted_instance_fills_its_slot_and_its_number_is_not_used_again() {
    let mut world = World::empty(config());
    world.alive.insert(managed(41), "server2".into());
    world.tell(Command::Found(vec![(spec(managed(41), "server2"), started(managed(41)))]));
    world.pass(100);
    assert_eq!(world.up_names(), ["server2", "server1", "server3"]);
    let numbers: Vec<u64> = world.starts.iter().map(|(_, spec)| spec.instance.number()).collect();
    assert_eq!(numbers, [42, 43]);
}

#[test]
fn a_start_names_the_last_instance_of_its_slot_that_had_an_address() {
    let mut world = World::empty(config());
    world.alive.insert(managed(41), "server2".into());
    world.tell(Command::Found(vec![(spec(managed(41), "server2"), started(managed(41)))]));
    world.pass(100);
    assert!(world.starts.iter().all(|(_, spec)| spec.replaces.is_none()), "{:?}", world.starts);
    world.broken.insert("server2".into(), FailureKind::Refused);
    world.kill("server2");
    world.broken.clear();
    world.pass(1_000);
    let later: Vec<_> = world.starts.iter().skip(2).map(|(_, spec)| (&*spec.name, spec.replaces)).collect();
    let last = Some(managed(41));
    assert_eq!(later, [("server2", last), ("server2", last)], "the start that failed had no address");
    let replaced = world.instance("server2");
    world.alive.remove(&replaced);
    world.pass(2_000);
    assert_eq!(world.starts.last().expect("a start").1.replaces, Some(replaced));
}

#[test]
fn a_foreign_replica_joins_and_leaves_by_itself() {
    let mut world = World::up();
    let foreign = InstanceId::Foreign(0);
    let joined = |instance, name: &str| {
        Command::RuntimeEvent(RuntimeEvent::Joined {
            spec: spec(instance, name),
            started: started(instance),
            why: "its label".into(),
        })
    };
    world.alive.insert(foreign, "its-own-name".into());
    let lines = world.log_at_info.len();
    world.tell(joined(foreign, "web"));
    world.pass(50);
    assert_eq!(world.log_at_info.len(), lines + 1, "one line: {:?}", world.log_at_info);
    assert_eq!(world.up_names(), ["server1", "server2", "server3", "web"]);
    world.tell(joined(InstanceId::Foreign(1), "server1"));
    assert!(world.logged(&["server1", "cannot join: that name is taken"]));
    world.alive.remove(&foreign);
    world.pass(1_100);
    assert_eq!(world.state("web"), Some(State::Down));
    assert!(world.stops.is_empty(), "a foreign instance is not stopped");
    world.tell(Command::RuntimeEvent(RuntimeEvent::Left { instance: foreign, why: "removed".into() }));
    assert_eq!(world.state("web"), None);
    assert!(world.logged(&["web", "left: removed; 3 of 3 live"]), "{:?}", world.log.last());
    assert_eq!(world.names().len(), 3);
}

/// What the runtime says of an instance that it did not find by itself, or that is none.
#[test]
fn only_a_foreign_replica_can_leave() {
    let mut world = World::up();
    for instance in [world.instance("server1"), InstanceId::Foreign(9)] {
        world.tell(Command::RuntimeEvent(RuntimeEvent::Left { instance, why: "removed".into() }));
    }
    world.pass(50);
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    assert!(!world.logged(&["left"]), "{:?}", world.log);
}

/// Several are due in one tick where the registry is late: they start in the order of the ring.
#[test]
fn replicas_that_are_due_together_start_in_the_order_of_the_ring() {
    let mut world = World::up();
    world.broken = ["server1", "server2"].map(|name| (name.into(), FailureKind::Refused)).into();
    world.kill("server2");
    world.pass(10);
    world.kill("server1");
    let starts = world.starts.len();
    world.broken.clear();
    world.now = world.now.after_ms(10_000);
    world.tell(Command::Tick);
    let started: Vec<&str> = world.starts[starts..].iter().map(|(_, spec)| &*spec.name).collect();
    assert_eq!(started, ["server1", "server2"]);
}

#[test]
fn a_stop_ends_every_instance_and_then_finishes() {
    let mut world = World::up();
    let slow = world.call(Call::Add(change(1, &[])));
    world.tell(Command::Stop);
    assert!(world.shown.lifecycle.is_stopping());
    assert!(world.replies.contains_key(&slow));
    assert_eq!(rejected(world.answer(add(1, &[]))).0, 503);
    world.kill("server1");
    world.pass(60_000);
    assert!(!world.alive.values().any(|name| **name == *"server1"), "nothing is healed any more");
    assert!(!world.finished);
    world.tell(Command::WorkersEnded);
    assert!(world.finished);
    assert!(world.alive.is_empty());
}

#[test]
fn replicas_kept_on_exit_are_not_stopped() {
    let mut world = World::empty(config_with(|service| service.keeps_on_exit = true));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    world.tell(Command::Stop);
    world.tell(Command::WorkersEnded);
    assert!(world.finished);
    assert_eq!(world.alive.len(), 3);
}

#[test]
fn an_instance_whose_address_another_got_is_marked_down() {
    let mut world = World::up();
    let (silent, killed) = (world.instance("server1"), world.instance("server2"));
    world.alive.remove(&silent);
    world.alive.remove(&killed);
    let effects = world.registry.apply(exited(killed, "killed by signal 9"), world.now);
    let mut replacement = None;
    for effect in effects {
        match effect {
            Effect::Start(spec) => replacement = Some(spec.instance),
            other => drop(world.perform(other)),
        }
    }
    let replacement = replacement.expect("server2 is replaced");
    world.alive.insert(replacement, "server2".into());
    world.tell(Command::Started { instance: replacement, started: started(silent) });
    assert_eq!(world.service().replicas[1].state, State::Up, "server2 answers at the address");
    assert_ne!(world.service().replicas[0].id, ReplicaId(silent.number()), "server1 is another by now");
    assert!(world.logged(&["server1: down: another instance has its address now"]));
    assert!(world.stops.iter().any(|(_, instance, _)| *instance == silent));
    world.pass(50);
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
}
