//! The cost of the ring: a lookup, a fallback, a build, shares. Budget at 1,000 replicas: 20 ns a lookup, 10 ms a build.
//!
//! divan rather than criterion: four crates more rather than dozens, and its table is what a commit message quotes.
//! `cargo bench --bench ring`. One iteration of a lookup is `KEYS` lookups; the second line has the rate.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ringway::core::ring::{Member, Ring, RingKind};

fn main() {
    divan::main();
}

const REPLICAS: [usize; 4] = [3, 100, 1_000, 10_000];
/// Lookups per iteration: too many different keys for a branch predictor to learn.
const KEYS: u32 = 1 << 16;

fn ring(replicas: usize) -> Ring {
    Ring::build(RingKind::Ketama, &members(replicas))
}

fn members(count: usize) -> Vec<Member> {
    (1..=count).map(|i| Member::new(format!("server{i}"), 1)).collect()
}

fn keys() -> Vec<u32> {
    (0..KEYS).map(|i| crc32fast::hash(&i.to_le_bytes())).collect()
}

#[divan::bench(args = REPLICAS)]
fn first_choice(bencher: Bencher, replicas: usize) {
    let (ring, keys) = (ring(replicas), keys());
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| keys.iter().map(|key| ring.walk(*key).next().unwrap_or(0)).sum::<usize>());
}

/// Each lookup depends on the one before, so that its cache misses are not hidden.
#[divan::bench(args = REPLICAS)]
fn first_choice_dependent(bencher: Bencher, replicas: usize) {
    let (ring, keys) = (ring(replicas), keys());
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| keys.iter().fold(0, |last, key| ring.walk(*key ^ (last as u32 & 1)).next().unwrap_or(0)));
}

#[divan::bench(args = REPLICAS)]
fn first_fallback(bencher: Bencher, replicas: usize) {
    let (ring, keys) = (ring(replicas), keys());
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| keys.iter().map(|key| ring.walk(*key).nth(1).unwrap_or(0)).sum::<usize>());
}

#[divan::bench]
fn first_choice_exercise(bencher: Bencher) {
    let ring = Ring::build(RingKind::Exercise, &members(3));
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| (0..KEYS).map(|request| ring.walk(request).next().unwrap_or(0)).sum::<usize>());
}

#[divan::bench(args = REPLICAS, sample_count = 20)]
fn build(bencher: Bencher, replicas: usize) {
    let members = members(replicas);
    bencher.bench_local(|| Ring::build(RingKind::Ketama, black_box(&members)));
}

#[divan::bench(args = REPLICAS, sample_count = 10)]
fn shares(bencher: Bencher, replicas: usize) {
    let ring = ring(replicas);
    bencher.bench_local(|| black_box(&ring).shares());
}

#[divan::bench]
fn hash_of_a_short_uri(bencher: Bencher) {
    bencher.bench_local(|| crc32fast::hash(black_box(&b"/api/v1/items/1234567?page=2"[..])));
}
