//! Whole worlds from one number each: real workers and the real registry over a simulated kernel, in virtual time, with
//! clients, replicas and faults drawn from the seed. Oracles watch both sides; a seed that fails replays.
//!
//! `scripts/sim --seeds N` runs as many as wanted, `scripts/sim --replay SEED` prints one world's whole trace.

mod client;
mod control;
mod faults;
mod kernel;
mod ledger;
mod net;
mod random;
mod regressions;
mod replica;
mod script;
mod tunnel;
mod wire;
mod world;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs one world; what fails says which.
fn run(seed: u64) -> Result<world::Ended, u64> {
    catch_unwind(|| world::run(seed, false)).map_err(|_| {
        eprintln!("seed {seed} failed; replay it with: scripts/sim --replay {seed}");
        seed
    })
}

fn run_all(seeds: impl Iterator<Item = u64>) -> Vec<u64> {
    seeds.filter_map(|seed| run(seed).err()).collect()
}

#[test]
fn two_hundred_and_fifty_six_worlds() {
    let failed = run_all(0..256);
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

#[test]
fn worlds_that_once_found_something() {
    let failed = run_all(regressions::OF_ONE_STREAM.iter().copied());
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

#[test]
fn a_seed_is_a_whole_world() {
    for seed in [1, 7, 42] {
        let hashes = [world::run(seed, false).hash, world::run(seed, false).hash];
        assert_eq!(hashes[0], hashes[1], "seed {seed} made two different worlds");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// `scripts/sim` runs this: `SIM_SEEDS` worlds from `SIM_FROM` on, `SIM_THREADS` at a time, or `SIM_REPLAY` alone.
#[test]
#[ignore = "as long as wanted: run by scripts/sim"]
fn as_many_worlds_as_wanted() {
    if let Some(seed) = number("SIM_REPLAY") {
        let ended = world::run(seed, true);
        println!("seed {seed}: {:?}, trace {:016x}", ended.tally, ended.hash);
        return;
    }
    let from = number("SIM_FROM").unwrap_or(0);
    let to = from + number("SIM_SEEDS").unwrap_or(1_000);
    let next = AtomicU64::new(from);
    let work = || {
        let mut failed = Vec::new();
        let mut sum = ledger::Tally::default();
        let mut calm = 0;
        let mut hash = 0u64;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= to {
                return (failed, sum, calm, hash);
            }
            match run(seed) {
                Ok(ended) => {
                    sum.add(&ended.tally);
                    calm += u64::from(ended.calm);
                    // A sum: threads finish worlds in any order.
                    hash = hash.wrapping_add(random::mix(ended.hash ^ seed));
                }
                Err(seed) => failed.push(seed),
            }
        }
    };
    let threads = number("SIM_THREADS").unwrap_or(1);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let hands: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        hands.into_iter().map(|hand| hand.join()).collect()
    });
    let mut failed = Vec::new();
    let mut sum = ledger::Tally::default();
    let mut calm_worlds = 0;
    let mut hash = 0u64;
    for (lost, tally, calm, part) in parts.into_iter().flatten() {
        failed.extend(lost);
        sum.add(&tally);
        calm_worlds += calm;
        hash = hash.wrapping_add(part);
    }
    failed.sort_unstable();
    println!("{} worlds, {calm_worlds} of them calm: {sum:?}, traces {hash:016x}", to - from);
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}
