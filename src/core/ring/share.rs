//! Exact answers about a ring by member index: shares, explanations, and the keys that move between two rings.

use std::collections::BTreeMap;

use super::{KeySpace, Ring};

/// The keys of each member. Whole numbers, so that sums and comparisons are exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// By member.
    pub keys: Vec<u64>,
    /// All keys.
    pub whole: u64,
}

impl Shares {
    /// A member's fraction of the key space.
    pub fn of(&self, member: usize) -> f64 {
        self.keys[member] as f64 / self.whole as f64
    }
}

/// Why a key goes where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub key: u32,
    /// The position of the key.
    pub position: u32,
    /// The first point at or after it.
    pub point: u32,
    /// That point's owner.
    pub member: usize,
    /// The members that get the key, in this order, while those before are down.
    pub fallbacks: Vec<usize>,
}

/// Keys that one ring gives to `from` and another to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub from: usize,
    pub to: usize,
    pub keys: u64,
}

impl Ring {
    /// Every key counts once. Without points all shares are 0.
    pub fn shares(&self) -> Shares {
        let mut keys = vec![0; self.members];
        for (key, width) in self.cells(self) {
            if let Some(member) = self.walk(key).next() {
                keys[member] += width;
            }
        }
        Shares { keys, whole: self.key_count() }
    }

    /// None when no member owns a point.
    pub fn explain(&self, key: u32) -> Option<Explanation> {
        let position = self.position(key);
        let mut walk = self.walk(key);
        let member = walk.next()?;
        let point = self.arcs.at(position) % self.arcs.len();
        let point = self.points().nth(point)?.0;
        Some(Explanation { key, position, point, member, fallbacks: walk.collect() })
    }

    /// How many keys go from each member of this ring to each member of `after`, keys that stay included. Members are
    /// numbered per ring. Both rings must be of one kind: the same key must have the same position.
    pub fn flows(&self, after: &Ring) -> Vec<Flow> {
        let mut flows = BTreeMap::<(usize, usize), u64>::new();
        for (key, width) in self.cells(after) {
            if let (Some(from), Some(to)) = (self.walk(key).next(), after.walk(key).next()) {
                *flows.entry((from, to)).or_default() += width;
            }
        }
        flows.into_iter().map(|((from, to), keys)| Flow { from, to, keys }).collect()
    }

    /// The number of keys that can be distinguished.
    fn key_count(&self) -> u64 {
        match self.key_space {
            KeySpace::Whole => 1 << u32::BITS,
            KeySpace::Slotted(functions) => u64::from(functions.period),
        }
    }

    /// The key space cut at the points of both rings: one key of each piece, and how many keys the piece has.
    fn cells(&self, other: &Ring) -> Vec<(u32, u64)> {
        match self.key_space {
            KeySpace::Whole => arcs(self, other),
            KeySpace::Slotted(functions) => (0..functions.period).map(|request| (request, 1)).collect(),
        }
    }
}

/// The arcs that end at the points of both rings, and the last one, which wraps round to the first point.
fn arcs(one: &Ring, other: &Ring) -> Vec<(u32, u64)> {
    let mut ends: Vec<u32> = one.points().chain(other.points()).map(|(position, _)| position).collect();
    ends.push(u32::MAX);
    ends.sort_unstable();
    ends.dedup();
    let starts = std::iter::once(0).chain(ends.iter().map(|end| u64::from(*end) + 1));
    ends.iter().zip(starts).map(|(end, start)| (*end, u64::from(*end) + 1 - start)).collect()
}
