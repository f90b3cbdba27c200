//! Kills, hangs, failing starts, calls, stuck workers and other settings, drawn from a seed. Afterwards every replica is up
//! again, with the same settings.

use super::successions::roll_out;
use super::*;

const SEEDS: u64 = 40;
const STEPS: usize = 150;

#[test]
fn after_random_faults_all_members_are_up_and_every_call_was_answered_once() {
    for seed in 0..SEEDS {
        let mut world = World::empty(RegistryConfig { seed, ..config() });
        let mut random = fastrand::Rng::with_seed(seed);
        // Of its own, so that the other draws are as they were.
        let mut operator = fastrand::Rng::with_seed(seed ^ 0xD2A1);
        world.tell(Command::Found(Vec::new()));
        for _ in 0..STEPS {
            strike(&mut world, &mut random);
            patch(&mut world, &mut operator);
            whole(&world, seed);
            let pause = random.u64(0..400);
            world.pass(pause);
        }
        calm(&mut world);
        world.pass(200_000);
        put_back(&mut world);
        world.pass(10_000);
        let names = world.names();
        assert_eq!(world.up_names(), names, "seed {seed}: {:?}", world.log);
        assert_eq!(world.alive.len(), names.len(), "seed {seed}: nothing is left over");
        let wanted = world.registry.services[&SERVICE].revision;
        let started = world.starts.iter().filter(|(_, spec)| world.alive.contains_key(&spec.instance));
        assert!(started.clone().all(|(_, spec)| spec.revision == wanted), "seed {seed}: {:?}", world.log);
        assert!(!world.registry.successions.is_under_way(), "seed {seed}");
        assert_eq!(world.replies.len() as u64, world.next_ticket, "seed {seed}: every call is answered");
    }
}

fn strike(world: &mut World, random: &mut fastrand::Rng) {
    let victim = random.choice(world.alive.clone());
    match random.u8(0..15) {
        0..3 => {
            if let Some((instance, _)) = victim {
                world.alive.remove(&instance);
                world.tell(exited(instance, "killed by signal 9"));
            }
        }
        3..5 => world.silent.extend(victim.map(|(instance, _)| instance)),
        5 => drop(world.broken.insert(format!("server{}", random.u8(1..9)), FailureKind::Refused)),
        6 => drop(world.crashing.insert(format!("server{}", random.u8(1..9)))),
        7 => world.stuck = random.bool(),
        8..10 => drop(world.call(add(random.u64(1..4), &[]))),
        10 => drop(world.call(remove(random.u64(1..4), &[]))),
        11 => roll_out(world, Revision(random.u64(1..6))),
        12 => drop(world.broken_revisions.insert(Revision(random.u64(2..6)))),
        13 => world.tell(if random.bool() { Command::Hold("not now") } else { Command::Release }),
        _ => calm(world),
    }
}

/// An operator drains, puts back and weighs.
fn patch(world: &mut World, random: &mut fastrand::Rng) {
    if random.u8(0..4) > 0 {
        return;
    }
    let name = format!("server{}", random.u8(1..9));
    let state = [Some(RequestedState::Drain), Some(RequestedState::Up), None][random.usize(0..3)];
    let weight = random.bool().then(|| random.u32(1..5));
    world.call(Call::Patch(ReplicaPatch { name, state, weight }));
}

fn put_back(world: &mut World) {
    for name in world.names() {
        world.answer(Call::Patch(ReplicaPatch { name, state: Some(RequestedState::Up), weight: None }));
    }
}

fn calm(world: &mut World) {
    world.silent.clear();
    world.broken.clear();
    world.crashing.clear();
    world.broken_revisions.clear();
    world.tell(Command::Release);
    world.stuck = false;
    world.tell(Command::Tick);
}

/// What workers may rely on in every snapshot.
fn whole(world: &World, seed: u64) {
    let service = world.service();
    let members = service.ring.members();
    assert!(members <= service.replicas.len(), "seed {seed}");
    let (ring, beside) = service.replicas.split_at(members);
    assert!(beside.iter().all(|replica| replica.state == State::Draining), "seed {seed}");
    let names: BTreeSet<&str> = ring.iter().map(|replica| &*replica.name).collect();
    assert_eq!(names.len(), members, "seed {seed}: names are unique");
    let up = service.replicas.iter().filter(|replica| replica.state != State::Down);
    let ids: Vec<u64> = up.map(|replica| replica.id.0).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "seed {seed}: an instance is shown twice");
}
