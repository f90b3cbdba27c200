//! Other services, listeners and routes while requests are served.

use super::*;
use crate::core::snapshot::{Lifecycle, Listener, ListenerId};

const SHOP: ServiceId = ServiceId(0);
const BLOG: ServiceId = ServiceId(1);
const TICKET: u64 = 500;

fn named(name: &str, replicas: usize) -> ServiceConfig {
    ServiceConfig { name: name.into(), replicas, ..service_config() }
}

/// One service of three replicas.
fn shop() -> World {
    let mut world = World::empty(config_of([named("shop", 3)]));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    world
}

fn reconfigure(world: &mut World, topology: Topology) {
    world.replies.remove(&TICKET);
    let change = Reconfiguration { ticket: TICKET, topology, found: Vec::new(), revisions: BTreeMap::new() };
    world.tell(Command::Reconfigure(change.into()));
}

fn names(world: &World, service: ServiceId) -> Vec<String> {
    let service = world.shown.service(service).expect("a service");
    let is_member = |(at, _): &(usize, &crate::core::snapshot::Replica)| *at < service.ring.members();
    service.replicas.iter().enumerate().filter(is_member).map(|(_, replica)| replica.name.to_string()).collect()
}

fn answered(world: &World) -> bool {
    world.replies.get(&TICKET) == Some(&Answer::Reconfigured)
}

#[test]
fn an_unchanged_service_is_shared_with_the_snapshot_before() {
    let mut world = shop();
    let before = world.shown.clone();
    reconfigure(&mut world, Topology::of_services([named("shop", 3)]));
    world.pass(10);
    assert!(answered(&world));
    assert!(world.shown.epoch > before.epoch && Arc::ptr_eq(&before.services[0], &world.shown.services[0]));
}

#[test]
fn limits_and_ring_change_in_place() {
    let mut world = shop();
    let before = world.shown.services[0].clone();
    let limits = Limits { attempts: 7, ..Limits::default() };
    let changed = ServiceConfig { limits: limits.into(), ring: RingKind::Exercise, ..named("shop", 3) };
    reconfigure(&mut world, Topology::of_services([changed]));
    let after = &world.shown.services[0];
    assert_eq!((after.limits.attempts, after.ring.kind()), (7, RingKind::Exercise));
    let ids = |service: &Service| service.replicas.iter().map(|replica| replica.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(after), "the same instances");
}

/// One that is being removed keeps what it is.
#[test]
fn a_listener_that_is_replaced_is_in_the_next_snapshot_unless_it_is_being_removed() {
    let mut world = shop();
    let renewed = |world: &World| {
        let listener = Listener {
            redirect: None,
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..Listener::clone(&world.shown.listeners[0])
        };
        Command::ReplaceListeners(BTreeMap::from([(ListenerId(0), Arc::new(listener))]))
    };
    let (before, replaced) = (world.shown.clone(), renewed(&world));
    world.tell(replaced);
    assert_eq!((world.shown.epoch, world.shown.listeners[0].proxies.len()), (before.epoch + 1, 1));
    assert!(Arc::ptr_eq(&before.services[0], &world.shown.services[0]), "no service changed");
    let replaced = renewed(&world);
    reconfigure(&mut world, Topology { listeners: BTreeMap::new(), ..Topology::of_services([named("shop", 3)]) });
    world.pass(10);
    let epoch = world.shown.epoch;
    world.tell(replaced);
    assert_eq!((world.shown.epoch, world.shown.listeners[0].lifecycle), (epoch, Lifecycle::HandedOver));
}

/// Its runtime was opened so.
#[test]
fn whether_instances_outlive_the_balancer_does_not_change() {
    let mut world = World::empty(config_of([ServiceConfig { keeps_on_exit: true, ..named("shop", 3) }]));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    reconfigure(&mut world, Topology::of_services([named("shop", 3)]));
    world.tell(Command::Stop);
    world.tell(Command::WorkersEnded);
    assert!(world.finished && world.alive.len() == 3);
}

#[test]
fn requests_are_sent_to_a_new_service_when_it_can_take_them() {
    let mut world = shop();
    let mut topology = Topology::of_services([named("shop", 3), named("blog", 2)]);
    let listener = world.shown.listeners[0].clone();
    topology.listeners.insert(ListenerId(0), Arc::new(Listener { service: Some(BLOG), ..Listener::clone(&listener) }));
    world.exhausted = true;
    reconfigure(&mut world, topology);
    world.pass(100);
    assert_eq!(world.shown.listeners[0].service, Some(SHOP), "no replica of it has answered");
    world.exhausted = false;
    world.pass(5_000);
    assert_eq!(world.shown.listeners[0].service, Some(BLOG));
    assert!(answered(&world));
    assert_eq!(names(&world, BLOG), ["server4", "server5"]);
}

#[test]
fn a_new_service_whose_replicas_do_not_answer_delays_nothing_for_ever() {
    let mut world = shop();
    world.exhausted = true;
    reconfigure(&mut world, Topology::of_services([named("shop", 3), named("blog", 1)]));
    world.pass(9_000);
    assert!(!answered(&world));
    world.pass(2_000);
    assert!(answered(&world) && world.logged(&["service blog: no replica of it answers yet"]));
}

#[test]
fn replicas_are_added_and_removed_only_where_the_number_changed() {
    let mut world = shop();
    world.tell(Command::Call { ticket: 9, service: SHOP, call: add(1, &["extra"]) });
    world.pass(100);
    reconfigure(&mut world, Topology::of_services([named("shop", 3)]));
    assert_eq!(names(&world, SHOP), ["server1", "server2", "server3", "extra"], "what a call added stays");
    reconfigure(&mut world, Topology::of_services([named("shop", 2)]));
    world.pass(100);
    assert_eq!(names(&world, SHOP), ["server1", "server2"]);
    reconfigure(&mut world, Topology::of_services([named("shop", 4)]));
    world.pass(100);
    assert_eq!(names(&world, SHOP).len(), 4);
    assert!(world.registry.status(world.now).replicas.iter().all(|replica| replica.state == "up"));
}

#[test]
fn a_removed_service_drains_keeps_its_id_and_can_come_back() {
    let mut world = World::empty(config_of([named("shop", 1), named("blog", 2)]));
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    reconfigure(&mut world, Topology::of_services([named("shop", 1)]));
    world.pass(100);
    assert!(world.logged(&["service blog: removed"]));
    let listed = |world: &World| world.shown.services.iter().filter(|service| service.is_listed()).count();
    assert_eq!(listed(&world), 1);
    assert_eq!((names(&world, BLOG).len(), world.alive.len()), (0, 1));
    assert_eq!(&*world.shown.services[1].name, "blog", "its id means no other service");
    world.tell(Command::Call { ticket: 10, service: BLOG, call: add(1, &[]) });
    assert_eq!(rejected(world.replies[&10].clone()).0, 400);
    reconfigure(&mut world, Topology::of_services([named("shop", 1), named("blog", 1)]));
    world.pass(100);
    assert_eq!(names(&world, BLOG).len(), 1);
}

/// Its name is known once: the service before gives it up, sooner or later than the other takes it.
#[test]
fn a_server_that_changes_its_service_joins_when_the_one_before_gave_it_up() {
    let mut world = World::empty(config_of([fixed("shop"), fixed("blog")]));
    let web = server(&mut world, SHOP, 1);
    world.tell(Command::Found(vec![web]));
    world.pass(100);
    assert_eq!(names(&world, SHOP), ["web"]);
    let (spec, started) = server(&mut world, BLOG, 2);
    world.tell(Command::RuntimeEvent(RuntimeEvent::Joined { spec, started, why: "listed".into() }));
    world.pass(100);
    assert_eq!((names(&world, SHOP).len(), names(&world, BLOG).len()), (1, 0));
    let left = RuntimeEvent::Left { instance: InstanceId::Foreign(1), why: "not listed any more".into() };
    world.tell(Command::RuntimeEvent(left));
    world.pass(100);
    assert_eq!((names(&world, SHOP).len(), names(&world, BLOG)), (0, vec!["web".to_owned()]));
    assert!(world.shown.services[1].replicas.iter().all(|replica| replica.state == State::Up));
}

fn fixed(name: &str) -> ServiceConfig {
    ServiceConfig { can_start: false, ..named(name, 0) }
}

/// A server that is listed, which answers; always at the same address.
fn server(world: &mut World, service: ServiceId, number: u64) -> (Spec, Started) {
    let instance = InstanceId::Foreign(number);
    world.alive.insert(instance, "web".into());
    let spec = Spec { service, name: "web".into(), instance, revision: Revision::FIRST, replaces: None };
    (spec, started(InstanceId::Foreign(1)))
}

#[test]
fn a_removed_service_of_listed_servers_serves_until_the_new_one_can() {
    let mut world = World::empty(config_of([fixed("shop")]));
    let web = server(&mut world, SHOP, 1);
    world.tell(Command::Found(vec![web]));
    world.pass(100);
    world.exhausted = true;
    let mut topology = Topology::of_services([fixed("shop"), named("blog", 1)]);
    topology.services.remove(&SHOP);
    reconfigure(&mut world, topology);
    world.pass(1_000);
    assert_eq!((names(&world, SHOP), &world.given_up[..]), (vec!["web".to_owned()], &[][..]));
    world.exhausted = false;
    world.pass(5_000);
    assert!(answered(&world) && names(&world, SHOP).is_empty() && names(&world, BLOG) == ["server1"]);
    assert_eq!(world.given_up, [SHOP]);
}

/// Requests find it in every snapshot.
#[test]
fn a_server_of_a_renamed_service_takes_requests_without_a_pause() {
    let mut world = World::empty(config_of([fixed("shop")]));
    let web = server(&mut world, SHOP, 1);
    world.tell(Command::Found(vec![web]));
    world.pass(100);
    let found = vec![server(&mut world, BLOG, 2)];
    let mut topology = Topology::of_services([fixed("shop"), fixed("blog")]);
    topology.services.remove(&SHOP);
    let change = Reconfiguration { ticket: TICKET, topology, found, revisions: BTreeMap::new() };
    world.exhausted = true;
    world.tell(Command::Reconfigure(change.into()));
    assert!(answered(&world) && !world.shown.services[0].is_listed());
    assert!(world.shown.services[1].replicas.iter().any(|replica| replica.state == State::Up), "it answered before");
}

/// The next response on a connection of the listener is its last, and comes from the service.
#[test]
fn a_service_that_is_removed_with_a_listener_serves_its_last_requests() {
    let listener = |service: ServiceId, name: &str| {
        Arc::new(Listener::to(service, name.into(), Mode::Http, Arc::new(Limits::DEFAULT)))
    };
    let mut both = Topology::of_services([named("shop", 1), named("blog", 1)]);
    both.listeners = BTreeMap::from([(ListenerId(0), listener(SERVICE, "a")), (ListenerId(1), listener(BLOG, "b"))]);
    let mut world = World::empty(RegistryConfig { topology: both, ..config() });
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    let mut one = Topology::of_services([named("shop", 1)]);
    one.listeners = BTreeMap::from([(ListenerId(0), listener(SERVICE, "a"))]);
    reconfigure(&mut world, one);
    world.pass(IDLE_CLIENTS_MS - 1);
    assert!(world.shown.services[1].replicas.iter().any(|replica| replica.state == State::Up));
    world.pass(100);
    assert!(world.logged(&["service blog: removed"]) && !world.shown.services[1].is_listed());
}

#[test]
fn a_removed_listener_stays_in_the_snapshot_without_addresses() {
    let bound = |address: &str| {
        let listener = Topology::of_services([named("shop", 1)]).listeners[&ListenerId(0)].clone();
        Arc::new(Listener { bind: vec![address.parse().expect("an address")], ..Listener::clone(&listener) })
    };
    let mut topology = Topology::of_services([named("shop", 1)]);
    topology.listeners = [(ListenerId(0), bound("127.0.0.1:80")), (ListenerId(1), bound("127.0.0.1:81"))].into();
    let mut world = World::empty(RegistryConfig { topology: topology.clone(), ..config() });
    world.tell(Command::Found(Vec::new()));
    world.pass(100);
    topology.listeners.remove(&ListenerId(0));
    reconfigure(&mut world, topology.clone());
    let shown = |world: &World| -> Vec<_> {
        world.shown.listeners.iter().map(|listener| (listener.bind.len(), listener.lifecycle)).collect()
    };
    assert_eq!(shown(&world), [(0, Lifecycle::HandedOver), (1, Lifecycle::Serving)]);
    world.pass(IDLE_CLIENTS_MS);
    assert_eq!(shown(&world), [(0, Lifecycle::Stopping), (1, Lifecycle::Serving)]);
    topology.listeners.insert(ListenerId(0), bound("127.0.0.1:82"));
    reconfigure(&mut world, topology);
    assert_eq!(shown(&world), [(1, Lifecycle::Serving); 2], "it came back under its id");
    world.pass(IDLE_CLIENTS_MS);
    assert_eq!(shown(&world), [(1, Lifecycle::Serving); 2], "and stays");
}

#[test]
fn a_reload_of_a_balancer_that_stops_is_refused() {
    let mut world = shop();
    world.tell(Command::Stop);
    reconfigure(&mut world, Topology::of_services([named("shop", 1)]));
    assert!(matches!(&world.replies[&TICKET], Answer::Rejected(rejection) if rejection.status == 503));
}
