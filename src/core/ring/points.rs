//! Sorted points and the index that finds one in a step or two. Positions and members are given; nothing is hashed here.

/// The circle is cut into `2^bits` equal parts. A point is one word: its position within its part in the high bits,
/// its member in the low `bits` (there are never fewer parts than members). This takes half the memory of position
/// and member side by side, and so half the cache misses, which dominate the cost of a lookup.
///
/// `index[part]` is the first point of the part, `index[part + 1]` the one behind its last. The last point of the circle
/// is followed by the member of the first one, which closes it.
#[derive(Debug)]
pub struct Points {
    points: Box<[u32]>,
    index: Box<[u32]>,
    len: usize,
    bits: u32,
}

/// Points that are compared at once, without a branch that depends on the key.
const WINDOW: usize = 4;
/// The average number of points per part, at most: a part nearly always fits one window.
const POINTS_PER_PART: usize = 3;

impl Points {
    /// From points in any order, each [`pack`]ed from a position and a rank. Of points at one position the one of
    /// the least rank comes first and owns it; `members` maps a rank to a member.
    pub fn sorted(mut ranked: Vec<u64>, members: &[u32]) -> Points {
        ranked.sort_unstable();
        let parts = (ranked.len() / POINTS_PER_PART).max(members.len()).max(2).next_power_of_two();
        let bits = parts.ilog2();
        let position = |point: &u64| (point >> u32::BITS) as u32;
        let index = index(ranked.iter().map(position), bits);
        let owner = |point: &u64| members[*point as u32 as usize];
        let first = ranked.first().map_or(0, owner);
        let points = ranked.iter().map(|point| position(point) << bits | owner(point));
        let points = points.chain([first; WINDOW]).collect();
        Points { points, index, len: ranked.len(), bits }
    }

    /// The first point at or after `at`. `len()`, behind the last one, stands for the first point.
    #[inline]
    pub fn at_or_after(&self, at: u32) -> usize {
        let part = self.part(at);
        let (mut i, end) = (self.index[part] as usize, self.index[part + 1] as usize);
        let least = at << self.bits;
        loop {
            let before = count_before(&self.points[i..i + WINDOW], least, end - i);
            i += before;
            if before < WINDOW {
                return i;
            }
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn member(&self, i: usize) -> usize {
        (self.points[i] & ((1 << self.bits) - 1)) as usize
    }

    /// The position and member of every point, in ring order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let shift = u32::BITS - self.bits;
        self.index.windows(2).enumerate().flat_map(move |(part, ends)| {
            let position = move |i: u32| (part as u32) << shift | self.points[i as usize] >> self.bits;
            (ends[0]..ends[1]).map(move |i| (position(i), self.member(i as usize)))
        })
    }

    #[inline]
    fn part(&self, at: u32) -> usize {
        (at >> (u32::BITS - self.bits)) as usize
    }
}

/// A point before sorting: its position, and the rank of its member.
pub fn pack(position: u32, rank: u32) -> u64 {
    u64::from(position) << u32::BITS | u64::from(rank)
}

/// How many of the `remaining` points of a part that are in the window lie before `least`.
#[inline]
fn count_before(window: &[u32], least: u32, remaining: usize) -> usize {
    let remaining = remaining as u32;
    (0u32..).zip(window).map(|(i, point)| u32::from(*point < least) & u32::from(i < remaining)).sum::<u32>() as usize
}

fn index(positions: impl Iterator<Item = u32>, bits: u32) -> Box<[u32]> {
    let mut index = vec![0u32; (1 << bits) + 1];
    positions.for_each(|position| index[(position >> (u32::BITS - bits)) as usize + 1] += 1);
    for part in 1..index.len() {
        index[part] += index[part - 1];
    }
    index.into_boxed_slice()
}
