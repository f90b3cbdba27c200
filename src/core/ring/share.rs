//! What a ring says about itself, exactly: shares, explanations, and which keys move to whom between two rings.

use std::collections::BTreeMap;

use super::{Keys, Ring};

/// Each member's part of the key space, in keys: whole numbers, so that sums and comparisons are exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// By member.
    pub keys: Vec<u64>,
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
    /// Where the key lies.
    pub position: u32,
    /// The first point at or after it.
    pub point: u32,
    /// That point's owner.
    pub member: usize,
    /// Who gets the key when those before are down.
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
    /// Exact: every key counted once. A ring without points has shares of nothing.
    pub fn shares(&self) -> Shares {
        let mut keys = vec![0; self.members];
        for (key, width) in self.cells(self) {
            if let Some(member) = self.walk(key).next() {
                keys[member] += width;
            }
        }
        Shares { keys, whole: self.key_space() }
    }

    /// None when no member owns a point.
    pub fn explain(&self, key: u32) -> Option<Explanation> {
        let position = self.position(key);
        let mut walk = self.walk(key);
        let member = walk.next()?;
        let point = self.points.at_or_after(position) % self.points.len();
        let point = self.points().nth(point)?.0;
        Some(Explanation { key, position, point, member, fallbacks: walk.collect() })
    }

    /// Where every key goes here and there, those that stay included. Members are numbered per ring.
    /// Both rings map keys to positions alike: comparing ketama to the exercise has no meaning.
    pub fn flows(&self, after: &Ring) -> Vec<Flow> {
        let mut flows = BTreeMap::<(usize, usize), u64>::new();
        for (key, width) in self.cells(after) {
            if let (Some(from), Some(to)) = (self.walk(key).next(), after.walk(key).next()) {
                *flows.entry((from, to)).or_default() += width;
            }
        }
        flows.into_iter().map(|((from, to), keys)| Flow { from, to, keys }).collect()
    }

    /// How many different keys there are, as far as they can be told apart.
    fn key_space(&self) -> u64 {
        match self.keys {
            Keys::Whole => 1 << u32::BITS,
            Keys::Slotted(functions) => u64::from(functions.period),
        }
    }

    /// The key space cut where either ring has a point: one key of each piece, and how many it stands for.
    fn cells(&self, other: &Ring) -> Vec<(u32, u64)> {
        match self.keys {
            Keys::Whole => arcs(self, other),
            Keys::Slotted(functions) => (0..functions.period).map(|request| (request, 1)).collect(),
        }
    }
}

/// The arcs that end at the points of either ring, and the last one, which wraps round to the first point.
fn arcs(one: &Ring, other: &Ring) -> Vec<(u32, u64)> {
    let mut ends: Vec<u32> = one.points().chain(other.points()).map(|(position, _)| position).collect();
    ends.push(u32::MAX);
    ends.sort_unstable();
    ends.dedup();
    let starts = std::iter::once(0).chain(ends.iter().map(|end| u64::from(*end) + 1));
    ends.iter().zip(starts).map(|(end, start)| (*end, u64::from(*end) + 1 - start)).collect()
}
