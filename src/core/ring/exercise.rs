//! The original exercise's ring: 512 slots, K = 9 per unit of weight, quadratic functions, linear probing.
//!
//! Kept to reproduce the exercise and to show its flaw. A server's number is the trailing digits of its name
//! (`server3` is 3), or the CRC-32 of a name without digits, so that the order in which members are
//! given does not matter. Servers are placed by rising number; a point whose slot is taken goes to the next
//! free slot, and is dropped when all are taken (57 servers and more).

use super::Member;
use super::points::{Points, pack};

/// Slots on the circle.
pub const SLOTS: u32 = 512;
/// Points per unit of weight.
const K: u32 = 9;
/// Shifts a slot to its position: slots are evenly spaced on the circle.
const SLOT_SHIFT: u32 = u32::BITS - SLOTS.ilog2();

/// The hash functions of the exercise, before `modulo 512`.
#[derive(Clone, Copy, Debug)]
pub struct Functions {
    /// H, of the number of a request.
    pub request: fn(u64) -> u64,
    /// The period of H modulo 512, in request numbers. One period has every key equally often.
    pub period: u32,
    /// Phi, of the number of a server and that of its copy.
    pub server: fn(u64, u64) -> u64,
}

/// H(i) = i^2 + 2i + 17, Phi(i, j) = i^2 + j^2 + 2j + 25. H is (i+1)^2 + 16, and squares reach only
/// 87 of the residues modulo 512: most slots are the first choice of no request.
pub const THE_EXERCISE: Functions = Functions { request: h, period: SLOTS, server: phi };

impl Functions {
    /// The slot of a request.
    pub fn slot(&self, request: u32) -> u32 {
        ((self.request)(u64::from(request)) % u64::from(SLOTS)) as u32
    }

    pub fn position(&self, request: u32) -> u32 {
        self.slot(request) << SLOT_SHIFT
    }
}

pub(super) fn slot_of(position: u32) -> u32 {
    position >> SLOT_SHIFT
}

fn h(i: u64) -> u64 {
    i.wrapping_mul(i).wrapping_add(2 * i).wrapping_add(17)
}

fn phi(i: u64, j: u64) -> u64 {
    i.wrapping_mul(i).wrapping_add(j * j + 2 * j + 25)
}

pub fn points(functions: Functions, members: &[Member]) -> Points {
    let order = by_number(members);
    let mut ranked = Vec::new();
    place(functions, members, &order, |rank, _, slot| ranked.push(pack(slot << SLOT_SHIFT, rank)));
    Points::sorted(ranked, &order)
}

/// How many copies found their slot taken, and how many have a slot.
pub fn displaced(functions: Functions, members: &[Member]) -> (usize, usize) {
    let (mut displaced, mut copies) = (0, 0);
    place(functions, members, &by_number(members), |_, home, slot| {
        displaced += usize::from(home != slot);
        copies += 1;
    });
    (displaced, copies)
}

fn by_number(members: &[Member]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..members.len() as u32).collect();
    order.sort_by_key(|member| (number(&members[*member as usize].name), &members[*member as usize].name));
    order
}

/// Calls `placed` for each copy that gets a slot: the rank of its server, the slot of its hash, the slot it got.
fn place(functions: Functions, members: &[Member], order: &[u32], mut placed: impl FnMut(u32, u32, u32)) {
    let mut taken = [false; SLOTS as usize];
    for (rank, member) in (0..).zip(order) {
        let member = &members[*member as usize];
        for copy in 0..K * member.weight.min(SLOTS) {
            let home = ((functions.server)(number(&member.name), u64::from(copy)) % u64::from(SLOTS)) as u32;
            if let Some(slot) = probe(&mut taken, home) {
                placed(rank, home, slot);
            }
        }
    }
}

/// Takes the first free slot from `home` on.
fn probe(taken: &mut [bool; SLOTS as usize], home: u32) -> Option<u32> {
    let slot = (0..SLOTS).map(|step| (home + step) % SLOTS).find(|slot| !taken[*slot as usize])?;
    taken[slot as usize] = true;
    Some(slot)
}

/// The number of a server: the trailing digits of its name, else the CRC-32 of its name.
fn number(name: &str) -> u64 {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    match name[name.len() - digits..].parse() {
        Ok(number) => number,
        Err(_) => u64::from(crc32fast::hash(name.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ring, RingKind};
    use super::*;

    #[test]
    fn the_number_of_a_server_is_the_trailing_digits_of_its_name() {
        assert_eq!(number("server12"), 12);
        assert_eq!(number("7"), 7);
        assert_eq!(number("127.0.0.1:9001"), 9001);
        assert_eq!(number("alpha"), u64::from(crc32fast::hash(b"alpha")));
    }

    #[test]
    fn a_point_whose_slot_is_taken_goes_to_the_next_free_slot() {
        let mut taken = [false; SLOTS as usize];
        assert_eq!(probe(&mut taken, 511), Some(511));
        assert_eq!(probe(&mut taken, 511), Some(0));
        assert_eq!(probe(&mut taken, 0), Some(1));
        taken.fill(true);
        assert_eq!(probe(&mut taken, 5), None);
    }

    #[test]
    fn h_reaches_87_of_512_slots() {
        let mut reached: Vec<u32> = (0..SLOTS).map(|i| THE_EXERCISE.slot(i)).collect();
        reached.sort_unstable();
        reached.dedup();
        assert_eq!(reached.len(), 87);
    }

    /// The known flaw: of the servers 1 to 3, one gets 84.4 % of the requests.
    #[test]
    fn one_of_three_servers_gets_five_sixths_of_the_requests() {
        let members: Vec<Member> = (1..=3).map(|i| Member::new(format!("server{i}"), 1)).collect();
        let shares = Ring::build(RingKind::Exercise, &members).shares();
        let largest = (0..3).map(|member| shares.of(member)).fold(0.0, f64::max);
        assert_eq!(format!("{:.1}", largest * 100.0), "84.4");
    }

    /// Phi(1, j) of `a1` takes the slots 26, 29, 34, 41, 50, 61, 74, 89 and 106, which `b1` finds taken.
    #[test]
    fn of_two_servers_with_one_number_every_copy_of_the_second_is_displaced() {
        let members = ["a1", "b1"].map(|name| Member::new(name, 1));
        assert_eq!(displaced(THE_EXERCISE, &members[..1]), (0, 9));
        assert_eq!(displaced(THE_EXERCISE, &members), (9, 18));
    }

    #[test]
    fn of_64_servers_the_last_7_have_no_point() {
        let members: Vec<Member> = (1..=64).map(|i| Member::new(format!("server{i}"), 1)).collect();
        let ring = Ring::build(RingKind::Exercise, &members);
        assert_eq!(ring.points().count(), SLOTS as usize);
        assert_eq!(ring.walk(1).count(), 57);
    }
}
