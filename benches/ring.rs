//! The cost of ring and table: a lookup, a fallback, a build, shares. Budget at 1,000 replicas: 20 ns a lookup, 10 ms a build
//! of the ring.
//!
//! divan rather than criterion: four crates more rather than dozens, and its table is what a commit message quotes.
//! `cargo bench --bench ring`. One iteration of a lookup is `KEYS` lookups; the second line has the rate.

use std::fmt::{Display, Formatter, Result};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ringway::core::ring::{Member, Ring, RingKind, report};

fn main() {
    divan::main();
}

const REPLICAS: [usize; 4] = [3, 100, 1_000, 10_000];
/// Lookups per iteration: too many different keys for a branch predictor to learn.
const KEYS: u32 = 1 << 16;

const KINDS: [RingKind; 2] = [RingKind::Ketama, RingKind::Maglev];

fn args() -> impl Iterator<Item = Args> {
    KINDS.into_iter().flat_map(|kind| REPLICAS.map(|replicas| Args { kind, replicas }))
}

/// What a benchmark is run with.
struct Args {
    kind: RingKind,
    replicas: usize,
}

impl Display for Args {
    fn fmt(&self, f: &mut Formatter) -> Result {
        write!(f, "{} {}", report::name(self.kind), self.replicas)
    }
}

fn ring(args: &Args) -> Ring {
    Ring::build(args.kind, &members(args.replicas))
}

fn members(count: usize) -> Vec<Member> {
    (1..=count).map(|i| Member::new(format!("server{i}"), 1)).collect()
}

fn keys() -> Vec<u32> {
    (0..KEYS).map(|i| crc32fast::hash(&i.to_le_bytes())).collect()
}

#[divan::bench(args = args())]
fn first_choice(bencher: Bencher, args: &Args) {
    let (ring, keys) = (ring(args), keys());
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| keys.iter().map(|key| ring.walk(*key).next().unwrap_or(0)).sum::<usize>());
}

/// Each lookup depends on the one before, so that its cache misses are not hidden.
#[divan::bench(args = args())]
fn first_choice_dependent(bencher: Bencher, args: &Args) {
    let (ring, keys) = (ring(args), keys());
    bencher
        .counter(ItemsCount::new(KEYS))
        .bench_local(|| keys.iter().fold(0, |last, key| ring.walk(*key ^ (last as u32 & 1)).next().unwrap_or(0)));
}

#[divan::bench(args = args())]
fn first_fallback(bencher: Bencher, args: &Args) {
    let (ring, keys) = (ring(args), keys());
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

#[divan::bench(args = args(), sample_count = 20)]
fn build(bencher: Bencher, args: &Args) {
    let members = members(args.replicas);
    bencher.bench_local(|| Ring::build(args.kind, black_box(&members)));
}

#[divan::bench(args = args(), sample_count = 10)]
fn shares(bencher: Bencher, args: &Args) {
    let ring = ring(args);
    bencher.bench_local(|| black_box(&ring).shares());
}

#[divan::bench]
fn hash_of_a_short_uri(bencher: Bencher) {
    bencher.bench_local(|| crc32fast::hash(black_box(&b"/api/v1/items/1234567?page=2"[..])));
}
