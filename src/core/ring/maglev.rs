//! The lookup table of Maglev (Eisenbud et al., NSDI 2016, section 3.4): a circle of a prime number of equal arcs, which
//! members take by turns. Nearly equal shares for one multiplication and one read of memory.
//!
//! Each member has an order of preference over all slots, a permutation that two hashes of its name make: it begins at an
//! offset and goes on by a fixed step. In its turn a member takes the first slot of its order that is free. It has its turn
//! number `t` at time `t / weight`, from 0 on: so each member's share of the slots is that of its weight to 1 %, and none is
//! without a slot. At one time heavier members come first, of one weight the lesser name.
//!
//! The price of even shares: when one of 10, 100, 655 or 1,000 members of one weight leaves, 0.22 %, 0.56 %, 0.71 % or 0.32 %
//! of all keys move between members that stay (measured exactly, `tests/ring.rs`); on a ring of ketama, none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::Member;

/// The two sizes of the paper. A table has at least `SLOTS_PER_MEMBER` slots for each member, as long as the larger size has:
/// between them nearly all keys move, so there are no more than two.
const SIZES: [usize; 2] = [65_537, 655_373];
/// With so many slots for each, shares of equal weights differ by 1 % at most.
const SLOTS_PER_MEMBER: usize = 100;

/// `slots[i]` owns the keys from `i * 2^32 / size` on.
#[derive(Debug)]
pub struct MaglevTable {
    slots: TableSlots,
}

/// The member of each slot. A table of two bytes a slot stays in a cache that one of four does not fit in.
#[derive(Debug)]
enum TableSlots {
    Narrow(Box<[u16]>),
    /// Of more than 65,536 members.
    Wide(Box<[u32]>),
}

pub fn table(members: &[Member]) -> MaglevTable {
    let placed = members.iter().filter(|member| member.weight > 0).count();
    let fits = SIZES.iter().find(|size| **size >= placed * SLOTS_PER_MEMBER);
    MaglevTable { slots: TableSlots::new(&filled(members, *fits.unwrap_or(&SIZES[1])), members.len()) }
}

impl MaglevTable {
    pub fn len(&self) -> usize {
        match &self.slots {
            TableSlots::Narrow(slots) => slots.len(),
            TableSlots::Wide(slots) => slots.len(),
        }
    }

    /// The slot of a position.
    #[inline]
    pub fn at(&self, position: u32) -> usize {
        ((u64::from(position) * self.len() as u64) >> u32::BITS) as usize
    }

    /// From a key's slot to its fallbacks: where in the slot the key lies decides, from one slot to all but one. The steps of a
    /// slot's keys reach all others alike, so that the keys of a member that is out go to the others evenly. Neighbours would
    /// not do: the slots of two members are in step with each other.
    pub fn step(&self, position: u32) -> usize {
        let within = (u64::from(position) * self.len() as u64) & u64::from(u32::MAX);
        ((within * (self.len() as u64 - 1)) >> u32::BITS) as usize + 1
    }

    #[inline]
    pub fn member(&self, slot: usize) -> usize {
        match &self.slots {
            TableSlots::Narrow(slots) => slots[slot].into(),
            TableSlots::Wide(slots) => slots[slot] as usize,
        }
    }

    /// The last position of every slot, and its member.
    pub fn iter(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let len = self.len() as u64;
        let last = move |slot: usize| (((slot as u64 + 1) << u32::BITS).div_ceil(len) - 1) as u32;
        (0..self.len()).map(move |slot| (last(slot), self.member(slot)))
    }
}

impl TableSlots {
    fn new(slots: &[u32], members: usize) -> TableSlots {
        match u16::try_from(members.saturating_sub(1)) {
            Ok(_) => TableSlots::Narrow(slots.iter().map(|member| *member as u16).collect()),
            Err(_) => TableSlots::Wide(slots.into()),
        }
    }
}

const FREE: u32 = u32::MAX;

/// A table of `size` slots, which is a prime; empty, if no member has a weight.
fn filled(members: &[Member], size: usize) -> Vec<u32> {
    let mut by_name: Vec<u32> = (0..members.len() as u32).collect();
    by_name.sort_by_key(|member| &members[*member as usize].name);
    let mut equals = BTreeMap::<u32, Vec<Preference>>::new();
    for member in by_name {
        let Member { name, weight } = &members[member as usize];
        equals.entry(*weight).or_default().push(Preference::new(member, name, size));
    }
    equals.remove(&0);
    let mut turns: BinaryHeap<_> = equals.keys().map(|weight| Reverse(MemberTurn::first(*weight))).collect();
    let (mut slots, mut free) = (vec![FREE; size], size);
    while let Some(Reverse(turn)) = turns.pop() {
        for preference in equals.get_mut(&turn.weight.0).into_iter().flatten() {
            if free == 0 {
                return slots;
            }
            preference.take(&mut slots);
            free -= 1;
        }
        turns.push(Reverse(turn.next()));
    }
    Vec::new()
}

/// Of all members of one weight.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct MemberTurn {
    /// `number / weight`, in 2^-32. Two times that differ do so by 1 / `WEIGHT_MAX`^2 at least, so rounding joins none.
    time: u64,
    weight: Reverse<u32>,
    number: u64,
}

impl MemberTurn {
    fn first(weight: u32) -> MemberTurn {
        MemberTurn { time: 0, weight: Reverse(weight), number: 0 }
    }

    fn next(self) -> MemberTurn {
        let number = self.number + 1;
        MemberTurn { time: (number << u32::BITS) / u64::from(self.weight.0), number, ..self }
    }
}

/// The slots in a member's order, from the next one on.
struct Preference {
    member: u32,
    next: u32,
    /// It has no common divisor with the size, so that every slot is reached.
    step: u32,
}

impl Preference {
    fn new(member: u32, name: &str, size: usize) -> Preference {
        let hash = hash(name.as_bytes());
        let below = |limit: usize, hash: u64| ((hash * limit as u64) >> u32::BITS) as u32;
        let (offset, step) = (hash >> u32::BITS, hash & u64::from(u32::MAX));
        Preference { member, next: below(size, offset), step: below(size - 1, step) + 1 }
    }

    /// Takes the first free slot. There is one.
    fn take(&mut self, slots: &mut [u32]) {
        loop {
            let slot = self.next as usize;
            let next = slot + self.step as usize;
            self.next = (if next < slots.len() { next } else { next - slots.len() }) as u32;
            if slots[slot] == FREE {
                slots[slot] = self.member;
                return;
            }
        }
    }
}

/// FNV-1a of 64 bits, then the finalizer of MurmurHash3, so that names which differ in one digit share neither half.
/// It is part of where keys go: the hash of a library, or of the standard library, may change.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    hash ^ hash >> 33
}
