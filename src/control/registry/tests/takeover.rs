//! A process that replaces another: what it adopts and starts, when it may take over, and what it leaves alone as long as
//! the process before it runs.

use super::successions::revisions;
use super::*;

/// What a world of three replicas says to the process that replaces it; and that process, with other settings, and what it
/// finds: the instances 101 to 103.
fn successor(config: RegistryConfig, revision: Revision) -> (World, Vec<(Spec, Started)>) {
    let predecessor = World::up().registry.for_successor();
    let (registry, shown) = Registry::starting(config, predecessor);
    let mut world = World { registry, shown: Arc::new(shown), ..World::up() };
    world.alive.clear();
    world.starts.clear();
    let found = (101..).zip(["server1", "server2", "server3"]).map(|(number, name)| {
        let instance = InstanceId::Managed(number);
        world.alive.insert(instance, name.into());
        (Spec { service: SERVICE, name: name.into(), instance, revision, replaces: None }, started(instance))
    });
    let found = found.collect();
    world.epochs = 1;
    (world, found)
}

/// As at a reload.
#[test]
fn a_successor_has_as_many_replicas_as_its_configuration_asks_for_if_that_changed() {
    let resized = |replicas: usize| config_with(|service| service.replicas = replicas);
    for (replicas, expected) in [(2, vec!["server1", "server2"]), (4, vec!["server1", "server2", "server3", "server4"])]
    {
        let (mut world, _) = successor(resized(replicas), Revision::FIRST);
        world.tell(Command::Found(Vec::new()));
        world.pass(1_000);
        assert_eq!(world.up_names(), expected, "they are started");
        let (mut world, found) = successor(resized(replicas), Revision::FIRST);
        world.tell(Command::Found(found));
        world.pass(1_000);
        assert!(world.stops.is_empty(), "they are the other process's: {:?}", world.stops);
        world.tell(Command::Enter(Lifecycle::Serving));
        world.pass(1_000);
        assert_eq!(world.up_names(), expected, "they are adopted");
    }
}

/// Servers that a call removed from the list stay removed; those that the list did not have are no such servers.
#[test]
fn a_successor_takes_in_a_longer_list_and_keeps_out_what_a_call_removed() {
    let fixed = || config_with(|service| service.can_start = false);
    let found = |names: &[&str]| -> Vec<(Spec, Started)> {
        let servers = (1..).map(InstanceId::Foreign).zip(names);
        servers.map(|(instance, name)| (spec(instance, name), started(instance))).collect()
    };
    let mut before = World::empty(fixed());
    before.tell(Command::Found(found(&["a:1", "b:2"])));
    before.answer(remove(1, &["b:2"]));
    let text = serde_json::to_string(&before.registry.for_successor()).expect("it is written");
    let (registry, _) = Registry::starting(fixed(), serde_json::from_str(&text).expect("and read"));
    let mut world = World { registry, ..World::empty(fixed()) };
    world.tell(Command::Found(found(&["a:1", "b:2", "c:3"])));
    assert_eq!(world.names(), ["a:1", "c:3"]);
    world.tell(Command::Enter(Lifecycle::Serving));
    assert_eq!(listed(world.answer(dry(add(1, &["b:2"])))), ["a:1", "c:3", "b:2"]);
}

/// They are counted by the process before, which no registry sees.
#[test]
fn an_adopted_instance_is_not_stopped_while_the_process_before_may_have_requests() {
    let (mut world, found) = successor(config(), Revision::FIRST);
    world.tell(Command::Found(found));
    world.pass(100);
    world.tell(Command::Enter(Lifecycle::Serving));
    world.tell(Command::Call { ticket: 77, service: SERVICE, call: remove(1, &["server2"]) });
    world.pass(IDLE_CLIENTS_MS + service_config().limits.drain_timeout_ms);
    assert!(world.up_names() == ["server1", "server3"] && world.stops.is_empty());
    world.pass(2_000);
    assert_eq!(stopped(&world), [InstanceId::Managed(102)]);
}

#[test]
fn what_waits_for_the_process_before_goes_on_when_that_has_ended() {
    let (mut world, found) = successor(config(), Revision::UNKNOWN);
    world.tell(Command::Found(found));
    world.pass(100);
    world.tell(Command::Enter(Lifecycle::Serving));
    world.tell(Command::Call { ticket: 77, service: SERVICE, call: remove(1, &["server2"]) });
    world.pass(100);
    assert!(world.stops.is_empty() && world.starts.is_empty());
    world.tell(Command::PredecessorEnded);
    world.pass(2_000);
    assert_eq!(stopped(&world), [102, 101, 103].map(InstanceId::Managed), "the others are replaced");
    assert_eq!(world.up_names(), ["server1", "server3"]);
}

/// Also one that has not answered yet: the other process may know better.
#[test]
fn a_stop_ends_adopted_instances_when_the_process_before_has_ended() {
    let (mut world, found) = successor(config(), Revision::FIRST);
    world.silent.insert(InstanceId::Managed(103));
    world.tell(Command::Found(found));
    world.pass(2_000);
    world.tell(Command::Enter(Lifecycle::Serving));
    world.tell(Command::Call { ticket: 77, service: SERVICE, call: remove(1, &["server3"]) });
    world.tell(Command::Stop);
    world.tell(Command::WorkersEnded);
    world.pass(1_000);
    assert!(world.stops.is_empty() && !world.finished);
    world.tell(Command::PredecessorEnded);
    world.pass(0);
    assert_eq!(stopped(&world).len(), 3);
    assert!(world.finished);
}

#[test]
fn a_process_before_that_hangs_is_not_waited_for_longer_than_its_drain_may_take() {
    let config = || config_with(|service| service.can_start = false);
    let (mut world, _) = successor(config(), Revision::FIRST);
    world.tell(Command::Found(Vec::new()));
    world.tell(Command::Enter(Lifecycle::Serving));
    world.tell(Command::Stop);
    world.tell(Command::WorkersEnded);
    world.pass(IDLE_CLIENTS_MS + service_config().limits.drain_timeout_ms);
    assert!(!world.finished);
    world.pass(2_000);
    assert!(world.finished);
}

#[test]
fn an_adopted_instance_that_hangs_keeps_no_successor_waiting() {
    let (mut world, found) = successor(config(), Revision::FIRST);
    world.silent.insert(InstanceId::Managed(103));
    world.tell(Command::Found(found));
    world.pass(10);
    assert!(!world.registry.is_settled(), "it may only be late");
    world.pass(2_000);
    assert!(world.registry.is_settled() && world.registry.can_serve());
    world.tell(Command::Enter(Lifecycle::Serving));
    world.pass(service_config().health.start_timeout_ms + service_config().limits.drain_timeout_ms + 10_000);
    assert_eq!(stopped(&world), [InstanceId::Managed(103)], "it is replaced in the end");
    assert_eq!(world.up_names().len(), 3);
}

fn stopped(world: &World) -> Vec<InstanceId> {
    world.stops.iter().map(|(_, instance, _)| *instance).collect()
}

#[test]
fn a_process_that_stands_by_ends_and_replaces_nothing_that_it_has_adopted() {
    let (mut world, found) = successor(config(), Revision::UNKNOWN);
    world.unhealthy.extend(found.iter().map(|(spec, _)| spec.instance));
    world.tell(Command::Found(found));
    world.pass(120_000);
    assert!(world.stops.is_empty() && world.starts.is_empty(), "they are another process's: {:?}", world.log);
    assert!(!world.registry.can_serve(), "it may not take over");
    world.unhealthy.clear();
    world.pass(2_000);
    assert!(world.registry.can_serve() && world.stops.is_empty() && world.starts.is_empty());
    world.tell(Command::Enter(Lifecycle::Serving));
    let drain_ms = IDLE_CLIENTS_MS + service_config().limits.drain_timeout_ms;
    world.pass(drain_ms);
    assert!(world.stops.is_empty() && world.starts.is_empty(), "requests of the process before may be in flight");
    world.pass(5_000);
    assert_eq!(revisions(&world), [Revision::FIRST; 3]);
}

#[test]
fn a_successor_takes_over_when_each_service_that_was_served_is() {
    const BLOG: ServiceId = ServiceId(1);
    let config = || {
        let blog = ServiceConfig { name: "blog".into(), replicas: 1, ..service_config() };
        config_of([ServiceConfig { replicas: 1, ..service_config() }, blog])
    };
    let mut before = World::empty(config());
    before.tell(Command::Found(Vec::new()));
    before.pass(100);
    assert_eq!(before.up_names().len(), 1);
    let (registry, _) = Registry::starting(config(), before.registry.for_successor());
    let mut world = World { registry, ..World::empty(config()) };
    let name = before.shown.services[BLOG.0 as usize].replicas[0].name.to_string();
    world.broken.insert(name, FailureKind::Refused);
    world.tell(Command::Found(Vec::new()));
    world.pass(1_000);
    assert!(world.registry.is_settled() && !world.registry.can_serve(), "blog would be lost");
    world.broken.clear();
    world.pass(20_000);
    assert!(world.registry.can_serve());
}
