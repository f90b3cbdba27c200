//! Several services in one registry, and instances of both origins.

use super::*;
use crate::core::snapshot::ReplicaId;

const SHOP: ServiceId = ServiceId(0);
const BLOG: ServiceId = ServiceId(1);

/// Two services: three replicas of the first, two of the second.
fn two_services() -> World {
    let blog = ServiceConfig { name: "blog".into(), replicas: 2, ..service_config() };
    let mut world = World::empty(config_of([service_config(), blog]));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    world
}

fn names(world: &World, service: ServiceId) -> Vec<String> {
    let service = world.shown.service(service).expect("a service");
    service.replicas.iter().map(|replica| replica.name.to_string()).collect()
}

#[test]
fn each_service_has_members_and_a_ring_of_its_own_and_names_are_unique_over_all() {
    let world = two_services();
    assert_eq!(names(&world, SHOP), ["server1", "server2", "server3"]);
    assert_eq!(names(&world, BLOG), ["server4", "server5"]);
    let members = |id| world.shown.service(id).map(|service| service.ring.members());
    assert_eq!((members(SHOP), members(BLOG)), (Some(3), Some(2)));
    let services: Vec<ServiceId> = world.starts.iter().map(|(_, spec)| spec.service).collect();
    assert_eq!(services, [SHOP, SHOP, SHOP, BLOG, BLOG]);
}

#[test]
fn a_call_changes_one_service_and_shares_the_other() {
    let mut world = two_services();
    let shop = world.shown.services[0].clone();
    world.tell(Command::Call { ticket: 77, service: BLOG, call: add(1, &["server9"]) });
    world.pass(100);
    assert_eq!(listed(world.replies[&77].clone()), ["server4", "server5", "server9"]);
    assert_eq!(names(&world, BLOG), ["server4", "server5", "server9"]);
    assert!(Arc::ptr_eq(&shop, &world.shown.services[0]), "an unchanged service is not built again");
    world.tell(Command::Call { ticket: 78, service: SHOP, call: remove(1, &["server9"]) });
    assert_eq!(rejected(world.replies[&78].clone()).1, "hostnames[0] is \"server9\": there is no such replica");
    world.tell(Command::Call { ticket: 79, service: SHOP, call: add(1, &["server4"]) });
    assert_eq!(rejected(world.replies[&79].clone()).1, "hostnames[0] is \"server4\": that name is taken");
    world.tell(Command::Call { ticket: 80, service: ServiceId(2), call: add(1, &[]) });
    assert_eq!(rejected(world.replies[&80].clone()).0, 400);
}

#[test]
fn a_death_is_counted_and_healed_in_its_own_service() {
    let mut world = two_services();
    world.kill("server4");
    assert!(world.logged(&["server4: died", "1 of 2 live"]), "{:?}", world.log);
    world.pass(100);
    assert!(world.logged(&["server4", "healed it", "2 of 2 live"]));
    let status = world.registry.status(world.now);
    assert_eq!((status.replicas.len(), status.deaths, status.heals), (5, 1, 1));
}

#[test]
fn a_stop_ends_the_instances_of_every_service_that_does_not_keep_them() {
    let keeps = ServiceConfig { name: "keeps".into(), keeps_on_exit: true, ..service_config() };
    let mut world = World::empty(config_of([keeps, service_config()]));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    // Two that drain, one of each service.
    for (ticket, service, name) in [(7, ServiceId(0), "server2"), (8, ServiceId(1), "server5")] {
        let replicas = world.shown.services[service.0 as usize].replicas.iter();
        replicas.filter(|replica| &*replica.name == name).for_each(|replica| replica.load.start(0));
        world.tell(Command::Call { ticket, service, call: remove(1, &[name]) });
    }
    assert_eq!(world.alive.len(), 6, "they have requests");
    world.tell(Command::Stop);
    world.tell(Command::WorkersEnded);
    assert!(world.finished);
    let alive: Vec<&str> = world.alive.values().map(|name| &**name).collect();
    assert_eq!(alive, ["server1", "server2", "server3"], "those of the first service");
}

#[test]
fn a_foreign_instance_may_have_the_number_of_a_managed_one() {
    let mut world = World::up();
    let same = InstanceId::Foreign(world.instance("server1").number());
    let joined = RuntimeEvent::Joined { spec: spec(same, "web"), started: started(same), why: "its label".into() };
    world.alive.insert(same, "web".into());
    world.tell(Command::RuntimeEvent(joined));
    world.pass(50);
    let ids: BTreeSet<ReplicaId> = world.service().replicas.iter().map(|replica| replica.id).collect();
    assert_eq!((world.up_names().len(), ids.len()), (4, 4), "replicas have ids of their own");
    world.tell(Command::RuntimeEvent(RuntimeEvent::Left { instance: same, why: "removed".into() }));
    assert_eq!(world.up_names(), ["server1", "server2", "server3"]);
    world.kill("server1");
    world.pass(50);
    let numbers: BTreeSet<u64> = world.starts.iter().map(|(_, spec)| spec.instance.number()).collect();
    assert!(!ids.iter().skip(3).any(|id| numbers.contains(&id.0)), "no instance gets the id of a foreign replica");
}

#[test]
fn a_foreign_replica_that_joins_again_with_another_weight_rebuilds_the_ring() {
    let mut world = World::up();
    let joined = |number, weight| {
        let instance = InstanceId::Foreign(number);
        let started = Started { weight, ..started(instance) };
        Command::RuntimeEvent(RuntimeEvent::Joined { spec: spec(instance, "web"), started, why: "its label".into() })
    };
    world.tell(joined(1, 1));
    let ring = world.service().ring.clone();
    world.tell(joined(2, 1));
    assert!(Arc::ptr_eq(&ring, &world.service().ring), "the same weight");
    world.tell(joined(3, 2));
    assert_eq!(world.service().replicas[3].weight, 2);
    assert!(!Arc::ptr_eq(&ring, &world.service().ring));
}
