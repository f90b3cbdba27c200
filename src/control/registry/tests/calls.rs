//! `/rep`, `/add` and `/rm` as the contract has them.

use super::*;

/// Workers that never act on the snapshot hold a stop up until the drain's end, and no longer.
#[test]
fn a_replica_is_stopped_at_the_drain_timeout_though_no_worker_acts() {
    let mut world = World::up();
    world.stuck = true;
    world.call(remove(1, &["server2"]));
    let drain_ms = service_config().limits.drain_timeout_ms;
    world.pass(drain_ms - 1);
    assert!(world.stops.is_empty(), "requests may be in flight");
    world.pass(1);
    assert_eq!(world.stops.len(), 1);
}

/// Where a replica was, another may be later.
#[test]
fn failures_and_addresses_are_those_of_now() {
    let mut world = World::up();
    let first = world.instance("server1");
    let (_, slot) = world.registry.slots.from(SlotId::default()).find(|(_, slot)| &*slot.name == "server1").unwrap();
    let endpoint = slot.endpoint().clone();
    assert_eq!(world.registry.slots.instances_at(&endpoint), [first]);
    world.alive.remove(&first);
    world.tell(exited(first, "killed by signal 9"));
    world.pass(1_000);
    assert!(world.registry.slots.instances_at(&endpoint).is_empty(), "its successor has an address of its own");
    let status = world.registry.status(world.now).replicas;
    assert_eq!(status.iter().find(|replica| &*replica.name == "server1").unwrap().failures, 1);
}

#[test]
fn add_names_first_then_the_lowest_free_numbers() {
    let mut world = World::up();
    let names = listed(world.answer(add(4, &["S5", "server6"])));
    assert_eq!(names, ["server1", "server2", "server3", "S5", "server6", "server4", "server5"]);
    assert_eq!(names, world.up_names());
    assert_eq!(names, world.names());
    listed(world.answer(remove(1, &["server2"])));
    assert_eq!(listed(world.answer(add(1, &[]))).last().unwrap(), "server2", "the lowest that is free");
}

#[test]
fn add_is_answered_when_every_worker_acts_on_it_and_not_before() {
    let mut world = World::up();
    world.stuck = true;
    let ticket = world.call(add(1, &[]));
    world.pass(100);
    assert_eq!(world.up_names().len(), 4);
    assert!(!world.replies.contains_key(&ticket));
    world.tell(Command::Acked(world.epochs - 1));
    assert!(!world.replies.contains_key(&ticket));
    world.tell(Command::Acked(world.epochs));
    assert_eq!(listed(world.replies[&ticket].clone()).len(), 4);
}

#[test]
fn a_call_is_answered_503_when_a_worker_does_not_act_on_it_in_time() {
    let mut world = World::up();
    world.stuck = true;
    let ticket = world.call(remove(1, &["server1"]));
    world.pass(ACK_TIMEOUT_MS);
    let (status, message) = rejected(world.replies[&ticket].clone());
    assert_eq!(status, 503);
    assert!(message.contains("a worker has not taken it up within 5.0 s"), "{message}");
}

#[test]
fn an_add_with_one_failed_start_is_undone_whole() {
    for (kind, status) in [(FailureKind::Unavailable, 503), (FailureKind::Refused, 502), (FailureKind::NameTaken, 400)]
    {
        let mut world = World::up();
        world.broken.insert("bad".into(), kind);
        let ring = world.service().ring.clone();
        let (found, message) = rejected(world.answer(add(2, &["good", "bad"])));
        assert_eq!((found, &*message), (status, "bad could not be started: no such image"));
        assert_eq!(world.names(), ["server1", "server2", "server3"]);
        assert_eq!(world.alive.len(), 3, "the good one is stopped again");
        assert!(Arc::ptr_eq(&ring, &world.service().ring));
        world.broken.clear();
        assert_eq!(listed(world.answer(add(2, &["good", "bad"]))).len(), 5, "and its name is free again");
    }
}

#[test]
fn an_added_replica_that_ends_or_never_answers_undoes_the_add() {
    let mut world = World::up();
    world.crashing.insert("S4".into());
    let (status, message) = rejected(world.answer(add(1, &["S4"])));
    assert_eq!((status, &*message), (502, "S4 was started and ended: exit status 1"));
    world.crashing.clear();
    world.silent.extend((4..20).map(managed));
    let ticket = world.call(add(1, &["S4"]));
    world.pass(59_000);
    assert!(!world.replies.contains_key(&ticket));
    world.pass(2_000);
    let (status, message) = rejected(world.replies[&ticket].clone());
    let why = "S4 was started, but no heartbeat answered within 60.0 s, the last failure: no answer within 500 ms";
    assert_eq!((status, &*message), (502, why));
    assert_eq!(world.alive.len(), 3);
}

#[test]
fn calls_are_served_one_at_a_time_in_order() {
    let mut world = World::up();
    world.silent.insert(managed(4));
    let first = world.call(add(1, &["S4"]));
    let second = world.call(remove(1, &["S4"]));
    let list = world.call(Call::List);
    assert_eq!(listed(world.replies[&list].clone()).len(), 3, "a list does not wait");
    world.pass(1_000);
    assert!(!world.replies.contains_key(&first) && !world.replies.contains_key(&second));
    world.silent.clear();
    world.pass(1_000);
    assert_eq!(listed(world.replies[&first].clone()).len(), 4);
    assert_eq!(listed(world.replies[&second].clone()).len(), 3);
}

#[test]
fn rm_removes_the_named_ones_and_then_others_at_random() {
    let mut world = World::up();
    listed(world.answer(add(3, &[])));
    let left = listed(world.answer(remove(3, &["server2"])));
    assert_eq!(left.len(), 3);
    assert!(!left.contains(&"server2".to_string()));
    let taken = |seed| {
        let mut world = World::empty(RegistryConfig { seed, ..config() });
        world.tell(Command::Found(Vec::new()));
        world.pass(100);
        listed(world.answer(remove(1, &[])))
    };
    let choices: BTreeSet<Vec<String>> = (0..32).map(taken).collect();
    assert_eq!(choices.len(), 3, "each replica is chosen by some seed");
}

#[test]
fn a_removed_replica_leaves_the_ring_at_once_and_stops_when_its_requests_have_ended() {
    let mut world = World::up();
    let leaving = world.instance("server2");
    let load = world.service().replicas[1].load.clone();
    load.start(0);
    let names = listed(world.answer(remove(1, &["server2"])));
    assert_eq!(names, ["server1", "server3"]);
    let replicas = &world.service().replicas;
    assert_eq!(world.service().ring.members(), 2);
    assert_eq!((&*replicas[2].name, replicas[2].state), ("server2", State::Draining), "after the ring's members");
    world.pass(5_000);
    assert!(world.alive.contains_key(&leaving), "a request is under way");
    load.finish(0);
    world.pass(20);
    assert!(!world.alive.contains_key(&leaving));
    assert_eq!(world.state("server2"), None);
}

#[test]
fn the_answer_to_rm_waits_for_the_stop_but_not_for_a_long_drain() {
    let mut world = World::up();
    let load = world.service().replicas[1].load.clone();
    load.start(0);
    let ticket = world.call(remove(1, &["server2"]));
    world.pass(1_900);
    assert!(!world.replies.contains_key(&ticket), "a request is under way");
    load.finish(0);
    world.pass(20);
    assert!(world.replies.contains_key(&ticket));
    world.service().replicas[1].load.start(0);
    let ticket = world.call(remove(1, &["server3"]));
    world.pass(2_000);
    assert!(world.replies.contains_key(&ticket));
    assert_eq!(world.alive.len(), 2, "it drains still");
}

#[test]
fn a_foreign_replica_that_drained_is_not_said_to_be_stopped() {
    let mut world = World::up();
    let foreign = InstanceId::Foreign(0);
    world.alive.insert(foreign, "web".into());
    let (spec, started) = (spec(foreign, "web"), started(foreign));
    world.tell(Command::RuntimeEvent(RuntimeEvent::Joined { spec, started, why: "its label".into() }));
    world.pass(50);
    listed(world.answer(remove(1, &["web"])));
    assert!(world.logged(&["web: drained in", "; it runs on"]), "{:?}", world.log);
    listed(world.answer(remove(1, &["server1"])));
    assert!(world.logged(&["server1: drained in", "; it is stopped"]), "{:?}", world.log);
}

#[test]
fn a_drain_ends_at_its_timeout() {
    let mut world = World::up();
    world.service().replicas[0].load.start(0);
    listed(world.answer(remove(1, &["server1"])));
    world.pass(Limits::default().drain_timeout_ms);
    assert!(world.logged(&["server1: drained in 10.0 s, 1 requests still open"]), "{:?}", world.log);
    assert_eq!(world.alive.len(), 2);
}

#[test]
fn no_replica_is_stopped_while_a_worker_may_still_choose_it() {
    let mut world = World::up();
    world.stuck = true;
    world.call(remove(1, &["server1"]));
    world.pass(1_000);
    assert!(world.stops.is_empty());
    world.tell(Command::Acked(world.epochs));
    world.pass(20);
    assert_eq!(world.stops.len(), 1);
}

#[test]
fn an_add_under_a_name_that_drains_waits_until_it_is_free() {
    let mut world = World::up();
    let load = world.service().replicas[0].load.clone();
    load.start(0);
    listed(world.answer(remove(1, &["server1"])));
    let again = world.call(add(1, &["server1"]));
    world.pass(1_000);
    assert!(!world.replies.contains_key(&again));
    load.finish(0);
    world.pass(100);
    assert_eq!(listed(world.replies[&again].clone()), ["server2", "server3", "server1"]);
}

#[test]
fn all_can_be_removed_and_added_again() {
    let mut world = World::up();
    assert!(listed(world.answer(remove(3, &[]))).is_empty());
    assert_eq!(world.service().ring.members(), 0);
    assert_eq!(listed(world.answer(add(2, &[]))), ["server1", "server2"]);
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let mut world = World::up();
    let epoch = world.epochs;
    let would = listed(world.answer(dry(remove(2, &[]))));
    let would_add = listed(world.answer(dry(add(2, &["S9"]))));
    assert_eq!(would_add, ["server1", "server2", "server3", "S9", "server4"]);
    assert_eq!((world.epochs, world.alive.len()), (epoch, 3));
    assert_eq!(listed(world.answer(remove(2, &[]))), would, "the same call takes the same ones");
}

#[test]
fn a_bad_call_names_the_field_and_changes_nothing() {
    let mut world = World::up();
    let epoch = world.epochs;
    let long = "x".repeat(64);
    for (call, message) in [
        (add(1, &["a1", "a2"]), "Length of hostname list is more than newly added instances"),
        (remove(1, &["server1", "server2"]), "Length of hostname list is more than removable instances"),
        (remove(4, &[]), "n is 4: there are 3 replicas"),
        (remove(4, &["server1"]), "n is 4: there are 3 replicas"),
        (add(6, &[]), "n is 6: 3 replicas run, and 8 is the most (--max-replicas)"),
        (add(u64::MAX, &[]), "n is 18446744073709551615: 3 replicas run, and 8 is the most (--max-replicas)"),
        (add(1, &["server1"]), "hostnames[0] is \"server1\": that name is taken"),
        (add(2, &["S4", "S4"]), "hostnames[1] is \"S4\": it is named twice"),
        (add(1, &[""]), "hostnames[0] is \"\": a name is empty"),
        (add(1, &["x"]), "hostnames[0] is \"x\": a name has 2 to 63 characters"),
        (add(1, &["-a"]), "hostnames[0] is \"-a\": a name begins with a letter or a digit"),
        (add(1, &["a b"]), "hostnames[0] is \"a b\": a name has letters, digits, '_', '.' and '-' only"),
        (add(1, &["a/../b"]), "hostnames[0] is \"a/../b\": a name has letters, digits, '_', '.' and '-' only"),
        (add(1, &["caf\u{e9}"]), "hostnames[0] is \"caf\u{e9}\": a name has letters, digits, '_', '.' and '-' only"),
        (add(1, &[&long]), &format!("hostnames[0] is {long:?}: a name has 2 to 63 characters")),
        (remove(1, &["server9"]), "hostnames[0] is \"server9\": there is no such replica"),
        (remove(2, &["server1", "server1"]), "hostnames[1] is \"server1\": it is named twice"),
    ] {
        for call in [dry(call.clone()), call] {
            assert_eq!(rejected(world.answer(call)), (400, message.to_string()));
        }
    }
    assert_eq!(world.names(), ["server1", "server2", "server3"]);
    assert_eq!((world.epochs, world.alive.len()), (epoch, 3));
}
