//! Consistent hashing: a key's first choice among members, then its fallbacks. Health never enters.
//!
//! A ring is a circle of 2^32 positions with points on it, each owned by a member. A key belongs to the
//! first point at or after its position. Everything follows from the members' names and weights alone:
//! no seed, no clock, no insertion order, so every worker, restart and peer balancer agrees.

mod exercise;
mod ketama;
pub mod lint;
mod points;
pub mod report;
mod share;
mod walk;

pub use exercise::{Functions, SLOTS, THE_EXERCISE};
pub use ketama::POINTS_PER_WEIGHT;
pub use share::{Explanation, Flow, Shares};
pub use walk::Walk;

use points::Points;

/// One server on the ring: what is hashed is its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub weight: u32,
}

impl Member {
    pub fn new(name: impl Into<String>, weight: u32) -> Member {
        Member { name: name.into(), weight }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// 160 points per unit of weight, the layout of nginx's `hash ... consistent`.
    #[default]
    Ketama,
    /// The original exercise: 512 slots, K = 9, quadratic hashes, linear probing.
    Exercise,
}

/// An immutable ring over members, numbered in the order given.
#[derive(Debug)]
pub struct Ring {
    points: Points,
    members: usize,
    /// How many members own a point: weight 0 owns none.
    placed: usize,
    keys: Keys,
}

/// How a key becomes a position.
#[derive(Clone, Copy, Debug)]
enum Keys {
    /// The key is the position.
    Whole,
    /// The key is a request's number, which a function maps to one of the slots.
    Slotted(Functions),
}

impl Ring {
    pub fn build(kind: Kind, members: &[Member]) -> Ring {
        match kind {
            Kind::Ketama => Ring::new(ketama::points(members), members.len(), Keys::Whole),
            Kind::Exercise => Ring::slotted(THE_EXERCISE, members),
        }
    }

    /// The exercise's ring with functions of your own.
    pub fn slotted(functions: Functions, members: &[Member]) -> Ring {
        Ring::new(exercise::points(functions, members), members.len(), Keys::Slotted(functions))
    }

    fn new(points: Points, members: usize, keys: Keys) -> Ring {
        let placed = points.owners(members);
        Ring { points, members, placed, keys }
    }

    /// Member indices from `key` on: the first choice, then each other member once, in ring order.
    /// `key` is CRC-32 of the routing key's bytes, or the request's own number. The first choice
    /// costs no allocation. Whoever is second would be first if the first had never been there.
    #[inline]
    pub fn walk(&self, key: u32) -> Walk<'_> {
        Walk::new(self, self.points.at_or_after(self.position(key)))
    }

    /// Where `key` lies on the circle.
    #[inline]
    pub fn position(&self, key: u32) -> u32 {
        match self.keys {
            Keys::Whole => key,
            Keys::Slotted(functions) => functions.position(key),
        }
    }

    /// How many members it was built over, those without a point included.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Every point, in ring order: its position and its member.
    pub fn points(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.points.iter()
    }
}
