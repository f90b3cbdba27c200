//! Outdated instances are replaced one at a time, and each leaves when its successor answers.

use super::*;

const OLD: Revision = Revision::FIRST;
const NEW: Revision = Revision(2);

/// A configuration that differs in what instances are started with.
pub fn roll_out(world: &mut World, revision: Revision) {
    roll_out_with(world, revision, service_config().replicas);
}

fn roll_out_with(world: &mut World, revision: Revision, replicas: usize) {
    let topology = Topology::of_services([ServiceConfig { replicas, ..service_config() }]);
    let revisions = BTreeMap::from([(SERVICE, revision)]);
    world.next_ticket += 1;
    let change = Reconfiguration { ticket: world.next_ticket, topology, found: Vec::new(), revisions };
    world.tell(Command::Reconfigure(change.into()));
}

fn address_of(endpoint: Endpoint) -> String {
    let Endpoint::Tcp(address) = endpoint else { panic!("{endpoint:?}") };
    address.to_string()
}

fn last_start(world: &World) -> Spec {
    world.starts.last().unwrap().1.clone()
}

/// What the instances of all members were started with.
pub fn revisions(world: &World) -> Vec<Revision> {
    let of = |instance: InstanceId| world.starts.iter().find(|(_, spec)| spec.instance == instance).unwrap().1.revision;
    instances(world).into_iter().map(of).collect()
}

fn instances(world: &World) -> Vec<InstanceId> {
    ["server1", "server2", "server3"].map(|name| world.instance(name)).to_vec()
}

#[test]
fn each_is_replaced_when_the_one_before_has_been_and_leaves_when_its_successor_answers() {
    let mut world = World::up();
    let before = instances(&world);
    let ring = world.service().ring.clone();
    let load = world.service().replicas[0].load.clone();
    load.start(0);
    load.finish(0);
    world.mute = true;
    roll_out(&mut world, NEW);
    world.pass(1_000);
    assert_eq!(instances(&world), before, "they serve until a successor answers");
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    let first = last_start(&world);
    assert_eq!((&*first.name, first.replaces, first.revision), ("server1", Some(before[0]), NEW));
    assert!(!world.starts.iter().any(|(_, spec)| spec.replaces == Some(before[1])), "one at a time");
    let status = world.registry.status(world.now).replicas;
    let why = |at: usize| status[at].why.as_deref();
    assert_eq!(why(0), Some("it has earlier settings: its replacement starts"));
    assert_eq!(why(1), Some("it has earlier settings"));
    world.mute = false;
    world.silent.clear();
    world.pass(1_000);
    assert_eq!(instances(&world)[0], first.instance);
    assert_eq!((revisions(&world), world.settled), (vec![NEW; 3], Some(NEW)));
    let stopped: Vec<InstanceId> = world.stops.iter().map(|(_, instance, _)| *instance).collect();
    assert_eq!(stopped, before);
    assert!(world.stops.iter().all(|(_, _, grace_ms)| *grace_ms > 0), "they end gently");
    assert!(Arc::ptr_eq(&ring, &world.service().ring), "no key moves");
    assert!(world.logged(&["server1:", "replaced", "1 replaced, 2 to go", "3 of 3 live"]));
    assert!(world.logged(&["rolling replacement done: 3 replicas replaced"]));
    let replica = &world.registry.status(world.now).replicas[0];
    assert_eq!((&*replica.name, replica.requests, replica.in_flight), ("server1", 1, 0), "counts go on");
    assert_eq!(replica.address, Some(address_of(started(first.instance).endpoint)));
    assert!(world.registry.status(world.now).replicas.iter().all(|replica| replica.why.is_none()));
}

#[test]
fn two_successors_in_a_row_that_do_not_come_up_end_it_and_those_before_them_go_back() {
    let mut world = World::up();
    let before = instances(&world);
    world.crashing.extend(["server2".into(), "server3".into()]);
    roll_out(&mut world, NEW);
    assert_eq!(revisions(&world), [NEW, OLD, OLD]);
    world.crashing.clear();
    world.broken_revisions.insert(NEW);
    world.pass(20_000);
    assert_eq!((revisions(&world), world.settled), (vec![OLD; 3], Some(OLD)));
    assert_eq!(instances(&world)[1..], before[1..], "these were never replaced");
    let refused = |world: &World| world.registry.status(world.now).services[0].refused.is_some();
    assert!(
        refused(&world)
            && world.registry.rolls_out(SERVICE, Some(NEW))
            && !world.registry.rolls_out(SERVICE, Some(OLD))
    );
    let tried: Vec<_> =
        world.starts.iter().filter(|(_, spec)| spec.revision == NEW).map(|(_, spec)| &*spec.name).collect();
    assert_eq!(tried, ["server1", "server2", "server3"], "the next one is tried after the first failure");
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    assert!(world.logged(&["server2: not replaced:", "the next attempt"]));
    assert!(world.logged(&["stopped", "two in a row", "go back to the settings before", "replaced were: server1"]));
    world.broken_revisions.clear();
    roll_out(&mut world, Revision(3));
    world.pass(1_000);
    assert_eq!(revisions(&world), [Revision(3); 3], "the next configuration is tried anew");
    assert!(!refused(&world));
}

/// It answers once, and ends soon.
#[test]
fn no_other_is_replaced_while_one_that_was_is_not_up_and_two_deaths_send_all_back() {
    let mut world = World::up();
    let before = instances(&world);
    roll_out_slowly(&mut world, NEW);
    let first = world.instance("server1");
    assert_ne!(first, before[0]);
    for _ in 0..2 {
        world.mute = true;
        let instance = world.instance("server1");
        world.alive.remove(&instance);
        world.tell(exited(instance, "exit status 1"));
        world.pass(500);
        assert_eq!(instances(&world)[1..], before[1..], "they serve");
        world.mute = false;
        world.silent.clear();
        world.pass(200);
    }
    assert!(world.logged(&["rolling replacement stopped", "exit status 1"]), "{:?}", world.log);
    world.pass(20_000);
    assert_eq!((revisions(&world), world.settled), (vec![OLD; 3], Some(OLD)));
    assert_eq!(instances(&world)[1..], before[1..]);
}

/// The first is replaced; the second starts and does not answer yet.
fn roll_out_slowly(world: &mut World, revision: Revision) {
    world.crashing.extend(["server2".into(), "server3".into()]);
    roll_out(world, revision);
    world.crashing.clear();
}

#[test]
fn settings_with_which_none_came_up_are_taken_back_though_no_other_instance_is_left() {
    let mut world = World::empty(config_with(|service| service.replicas = 1));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    world.broken_revisions.insert(NEW);
    roll_out_with(&mut world, NEW, 1);
    let last = world.instance("server1");
    world.alive.remove(&last);
    world.tell(exited(last, "killed by signal 9"));
    world.pass(20_000);
    assert!(world.logged(&["rolling replacement stopped", "two in a row"]), "{:?}", world.log);
    assert_eq!((world.up_names(), last_start(&world).revision), (vec!["server1".to_owned()], OLD));
}

#[test]
fn a_failure_between_two_successes_stops_nothing() {
    let mut world = World::up();
    world.broken.insert("server2".into(), FailureKind::Refused);
    roll_out(&mut world, NEW);
    world.broken.clear();
    world.pass(5_000);
    assert_eq!((revisions(&world), world.settled), (vec![NEW; 3], Some(NEW)));
}

#[test]
fn an_engine_that_cannot_be_reached_is_waited_for() {
    let mut world = World::up();
    let all = ["server1", "server2", "server3"];
    world.broken.extend(all.map(|name| (name.to_owned(), FailureKind::Unavailable)));
    roll_out(&mut world, NEW);
    world.pass(60_000);
    assert_eq!((revisions(&world), world.settled), (vec![OLD; 3], None));
    world.broken.clear();
    world.pass(20_000);
    assert_eq!(revisions(&world), [NEW; 3]);
}

#[test]
fn the_way_back_is_not_given_up() {
    let mut world = World::up();
    world.crashing.extend(["server2".into(), "server3".into()]);
    roll_out(&mut world, NEW);
    world.crashing.clear();
    world.broken_revisions.extend([OLD, NEW]);
    world.pass(60_000);
    assert_eq!(revisions(&world), [NEW, OLD, OLD]);
    world.broken_revisions.clear();
    world.pass(20_000);
    assert_eq!((revisions(&world), world.settled), (vec![OLD; 3], Some(OLD)));
}

#[test]
fn the_newest_configuration_wins_and_goes_back_to_what_all_had() {
    let mut world = World::up();
    world.mute = true;
    roll_out(&mut world, NEW);
    let given_up = last_start(&world).instance;
    world.mute = false;
    roll_out(&mut world, Revision(3));
    world.pass(1_000);
    assert!(!world.alive.contains_key(&given_up), "it is stopped");
    assert_eq!((revisions(&world), world.settled), (vec![Revision(3); 3], Some(Revision(3))));
    world.mute = true;
    roll_out(&mut world, Revision(4));
    world.mute = false;
    world.broken_revisions.insert(Revision(5));
    roll_out(&mut world, Revision(5));
    world.pass(20_000);
    assert_eq!((revisions(&world), world.settled), (vec![Revision(3); 3], Some(Revision(3))));
}

#[test]
fn a_configuration_that_asks_for_the_settings_before_ends_it() {
    let mut world = World::up();
    let before = instances(&world);
    world.crashing.insert("server2".into());
    roll_out(&mut world, NEW);
    roll_out(&mut world, OLD);
    world.crashing.clear();
    world.pass(5_000);
    assert_eq!((revisions(&world), world.settled), (vec![OLD; 3], Some(OLD)));
    assert_eq!(instances(&world)[1..], before[1..]);
}

#[test]
fn instances_of_an_earlier_process_are_replaced_and_stay_where_that_fails() {
    for is_broken in [false, true] {
        let mut world = World::empty(config());
        world.broken_revisions.extend(is_broken.then_some(OLD));
        let names = ["server1", "server2", "server3"];
        world.alive.extend(names.iter().zip(1..).map(|(name, number)| (managed(number), (*name).into())));
        let found = names.iter().zip(1..).map(|(name, number)| {
            (Spec { revision: Revision::UNKNOWN, ..spec(managed(number), name) }, started(managed(number)))
        });
        let found = found.collect();
        world.tell(Command::Found(found));
        world.pass(20_000);
        let numbers: Vec<u64> = instances(&world).into_iter().map(InstanceId::number).collect();
        assert_eq!(numbers.iter().all(|number| *number > 3), !is_broken, "{numbers:?}");
        assert_eq!(world.logged(&["stopped", "replicas with earlier settings stay"]), is_broken);
        assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    }
}

#[test]
fn one_that_never_answers_is_given_up() {
    let mut world = World::up();
    let before = instances(&world);
    world.mute = true;
    roll_out(&mut world, NEW);
    world.pass(200_000);
    assert_eq!((instances(&world), world.settled), (before, Some(OLD)));
    assert!(world.logged(&["server1: not replaced:"]));
}

#[test]
fn what_dies_meanwhile_and_what_is_added_gets_the_new_settings() {
    let mut world = World::up();
    world.mute = true;
    roll_out(&mut world, NEW);
    world.mute = false;
    let ticket = world.call(add(1, &["extra"]));
    world.kill("server2");
    world.silent.clear();
    world.pass(1_000);
    assert!(world.replies.contains_key(&ticket));
    assert_eq!(revisions(&world), [NEW; 3]);
    let starts = |name: &str| world.starts.iter().filter(|(_, spec)| *spec.name == *name).count();
    assert_eq!((starts("server2"), starts("extra")), (2, 1), "neither is replaced again");
}

#[test]
fn an_addition_under_way_follows_the_way_back() {
    let mut world = World::up();
    world.crashing.extend(["server1".into(), "server2".into()]);
    roll_out(&mut world, NEW);
    world.crashing.clear();
    world.mute = true;
    let ticket = world.call(add(1, &["extra"]));
    world.mute = false;
    world.broken_revisions.insert(NEW);
    world.pass(2_000);
    assert_eq!(world.settled, None, "one with the new settings may still join");
    world.silent.clear();
    world.pass(5_000);
    assert!(world.replies.contains_key(&ticket));
    assert_eq!((world.settled, last_start(&world).revision, &*last_start(&world).name), (Some(OLD), OLD, "extra"));
}

#[test]
fn a_service_that_shrinks_or_a_balancer_that_is_held_replaces_no_more_than_it_must() {
    let mut world = World::up();
    world.tell(Command::Hold("not now"));
    roll_out_with(&mut world, NEW, 2);
    world.pass(5_000);
    assert!(world.starts.iter().all(|(_, spec)| spec.revision == OLD));
    world.tell(Command::Release);
    world.pass(1_000);
    assert_eq!(world.up_names(), ["server1", "server2"]);
    assert_eq!((world.starts.len(), world.settled), (5, Some(NEW)));
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
        roll_out(&mut world, NEW);
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
    roll_out(&mut world, NEW);
    let old = world.instance("server1");
    world.alive.remove(&old);
    world.tell(Command::RuntimeEvent(RuntimeEvent::Exited { instance: old, why: "exit status 1".into() }));
    world.mute = false;
    world.silent.clear();
    world.pass(1_000);
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    assert_eq!(world.alive.len(), 3, "{:?}", world.alive);
}
