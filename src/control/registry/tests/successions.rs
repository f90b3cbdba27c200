//! Outdated instances are replaced one at a time, and each leaves when its successor answers.

use super::*;

fn outdated(world: &mut World, names: &[&str]) {
    for name in names {
        let instance = world.instance(name);
        world.tell(Command::RuntimeEvent(RuntimeEvent::Outdated { instance, why: "has other settings".into() }));
    }
}

fn instances(world: &World) -> Vec<InstanceId> {
    ["server1", "server2", "server3"].map(|name| world.instance(name)).to_vec()
}

#[test]
fn each_is_replaced_when_the_one_before_has_been_and_leaves_when_its_successor_answers() {
    let mut world = World::up();
    let before = instances(&world);
    let ring = world.service().ring.clone();
    world.mute = true;
    outdated(&mut world, &["server1", "server2"]);
    world.pass(1_000);
    assert_eq!(instances(&world), before, "they serve until a successor answers");
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    let (_, first) = world.starts.last().unwrap().clone();
    assert_eq!((&*first.name, first.replaces), ("server1", Some(before[0])));
    assert!(!world.starts.iter().any(|(_, spec)| spec.replaces == Some(before[1])), "one at a time");
    world.mute = false;
    world.silent.clear();
    world.pass(1_000);
    let now = instances(&world);
    assert_eq!(now[0], first.instance);
    assert!(now[1] != before[1] && now[2] == before[2], "{now:?}");
    let stopped: Vec<InstanceId> = world.stops.iter().map(|(_, instance, _)| *instance).collect();
    assert_eq!(stopped, before[..2]);
    assert!(world.stops.iter().all(|(_, _, grace_ms)| *grace_ms > 0), "they end gently");
    assert!(Arc::ptr_eq(&ring, &world.service().ring), "no key moves");
    assert!(world.logged(&["server1:", "replaced", "3 of 3 live"]));
}

#[test]
fn a_successor_that_fails_leaves_all_as_they_are() {
    let breaks: fn(&mut World) = |world| world.broken.extend([("server1".into(), FailureKind::Refused)]);
    let crashes: fn(&mut World) = |world| world.crashing.extend(["server1".into()]);
    for fails in [breaks, crashes] {
        let mut world = World::up();
        let before = instances(&world);
        fails(&mut world);
        outdated(&mut world, &["server1"]);
        world.pass(20_000);
        assert_eq!(instances(&world), before);
        assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
        assert!(world.logged(&["server1: not replaced:", "earlier settings stay"]));
    }
}

#[test]
fn after_a_successor_that_fails_no_other_is_started() {
    let mut world = World::up();
    let before = instances(&world);
    world.mute = true;
    outdated(&mut world, &["server1", "server2"]);
    let successor = world.starts.last().unwrap().1.instance;
    world.alive.remove(&successor);
    world.tell(exited(successor, "exit status 1"));
    world.mute = false;
    world.pass(20_000);
    assert_eq!(instances(&world), before);
}

#[test]
fn one_that_never_answers_is_given_up() {
    let mut world = World::up();
    let before = instances(&world);
    world.mute = true;
    outdated(&mut world, &["server1"]);
    world.pass(100_000);
    assert_eq!(instances(&world), before);
    assert!(world.logged(&["server1: not replaced:"]));
}

#[test]
fn a_member_that_is_removed_or_a_balancer_that_stops_needs_no_successor() {
    let ends: [fn(&mut World); 2] = [
        |world| {
            world.call(remove(1, &["server1"]));
        },
        |world| world.tell(Command::Stop),
    ];
    for end in ends {
        let mut world = World::up();
        world.mute = true;
        outdated(&mut world, &["server1"]);
        let successor = world.starts.last().unwrap().1.instance;
        end(&mut world);
        world.pass(100);
        assert!(!world.alive.contains_key(&successor), "it is stopped");
    }
}

#[test]
fn one_that_dies_while_its_successor_starts_is_replaced_by_either() {
    let mut world = World::up();
    world.mute = true;
    outdated(&mut world, &["server1"]);
    let old = world.instance("server1");
    world.alive.remove(&old);
    world.tell(Command::RuntimeEvent(RuntimeEvent::Exited { instance: old, why: "exit status 1".into() }));
    world.mute = false;
    world.silent.clear();
    world.pass(1_000);
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    assert_eq!(world.alive.len(), 3, "{:?}", world.alive);
}
