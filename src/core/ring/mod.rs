//! Consistent hashing: a key's first choice among members, then its fallbacks. Health is not known here.
//!
//! A ring is a circle of 2^32 positions with points on it, each owned by a member. A key belongs to the
//! first point at or after its position. Points are hashes of names, or cut the circle into equal parts. A ring is a function of the members' names and weights:
//! no seed, no clock, no insertion order, so that workers, restarts and other balancers agree.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`Ring`], [`Member`] (name and weight), [`RingKind`]; building a ring, the position of a key, the slots of the exercise's key space (`KeySpace`: whole, slotted) |
//! | `arcs` | what a ring is made of: the arc of a position, its member, in one of two forms (points, table) |
//! | `exercise` | where the original exercise's ring puts the points of each member's name and weight: 512 slots, quadratic functions `h` and `phi`, linear probing of taken slots; the number in a name, displaced points |
//! | `ketama` | where nginx's `hash ... consistent` puts the points of each member's name and weight: a chain of CRC-32 over host and port, 160 for each unit of weight |
//! | [`lint`] | findings on a ring, from a report on it: slots without keys, members without keys, collisions, skew; `ringway ring lint`; level (flaw, note) and rule of each |
//! | `maglev` | Google's lookup table: 65,537 or 655,373 equal slots, which members take by turns in proportion to their weights, each in an order (permutation) made of two hashes of its name |
//! | `points` | sorted positions with their members, packed, and the index that finds the point at or after a position; names never enter |
//! | [`report`] | shares, explanations of one key and changes (what-if), with names and percentages, as text and JSON; the ideal share that a weight entitles to, the least that must move, tables |
//! | `share` | exact shares of the circle, and what moves between two rings, by member index: arcs, cells, flows |
//! | `walk` | iterator over the members in ring order from a point on, each once: first choice and fallbacks |

mod arcs;
mod exercise;
mod ketama;
pub mod lint;
mod maglev;
mod points;
pub mod report;
mod share;
mod walk;

pub use exercise::{Functions, SLOTS, THE_EXERCISE};
pub use ketama::POINTS_PER_WEIGHT;
pub use share::{Explanation, Flow, Shares};
pub use walk::Walk;

use arcs::Arcs;

/// The highest weight of a member: with 160 points for each unit a ring of heavier ones is only slow to build.
pub const WEIGHT_MAX: u32 = 1000;

/// One server on the ring. Its name is hashed.
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
pub enum RingKind {
    /// 160 points per unit of weight, the layout of nginx's `hash ... consistent`.
    #[default]
    Ketama,
    /// The lookup table of Maglev: equal shares, and when a member leaves, a few keys of others move.
    Maglev,
    /// The original exercise: 512 slots, K = 9, quadratic hashes, linear probing.
    Exercise,
}

/// An immutable ring. Members are numbered in the order given to `build`.
#[derive(Debug)]
pub struct Ring {
    arcs: Arcs,
    members: usize,
    /// Members that own an arc. A member of weight 0 owns none.
    placed: usize,
    key_space: KeySpace,
}

/// How a key becomes a position.
#[derive(Clone, Copy, Debug)]
enum KeySpace {
    /// The key is the position.
    Whole,
    /// The key is the number of a request, which a function maps to a slot.
    Slotted(Functions),
}

impl RingKind {
    /// How many places there are on the circle.
    pub fn size(self) -> u64 {
        match self {
            RingKind::Ketama | RingKind::Maglev => 1 << u32::BITS,
            RingKind::Exercise => SLOTS.into(),
        }
    }

    /// The place of a position: of the ring of the exercise, a slot.
    pub fn place(self, position: u32) -> u32 {
        match self {
            RingKind::Ketama | RingKind::Maglev => position,
            RingKind::Exercise => exercise::slot_of(position),
        }
    }
}

impl Ring {
    pub fn build(kind: RingKind, members: &[Member]) -> Ring {
        match kind {
            RingKind::Ketama => Ring::new(Arcs::Points(ketama::points(members)), members.len(), KeySpace::Whole),
            RingKind::Maglev => Ring::new(Arcs::Table(maglev::table(members)), members.len(), KeySpace::Whole),
            RingKind::Exercise => Ring::slotted(THE_EXERCISE, members),
        }
    }

    /// The ring of the exercise with other hash functions.
    pub fn slotted(functions: Functions, members: &[Member]) -> Ring {
        Ring::new(Arcs::Points(exercise::points(functions, members)), members.len(), KeySpace::Slotted(functions))
    }

    fn new(arcs: Arcs, members: usize, key_space: KeySpace) -> Ring {
        let placed = arcs.owners(members);
        Ring { arcs, members, placed, key_space }
    }

    /// Member indices from `key` on: the first choice, then each other member once, in ring order.
    /// `key` is the CRC-32 of the routing key's bytes, or the number of a request. The first choice
    /// does not allocate. The second is what the first would be without the first member, but for a table.
    #[inline]
    pub fn walk(&self, key: u32) -> Walk<'_> {
        Walk::new(self, self.position(key))
    }

    /// The position of `key` on the circle.
    #[inline]
    pub fn position(&self, key: u32) -> u32 {
        match self.key_space {
            KeySpace::Whole => key,
            KeySpace::Slotted(functions) => functions.position(key),
        }
    }

    pub fn kind(&self) -> RingKind {
        match (self.key_space, &self.arcs) {
            (KeySpace::Whole, Arcs::Points(_)) => RingKind::Ketama,
            (KeySpace::Whole, Arcs::Table(_)) => RingKind::Maglev,
            (KeySpace::Slotted(_), _) => RingKind::Exercise,
        }
    }

    /// The number of members, those without an arc included.
    pub fn members(&self) -> usize {
        self.members
    }

    /// The position and member of every point, in ring order.
    pub fn points(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        self.arcs.iter()
    }
}
