//! Sorted points and the index that finds one in a step or two. It knows positions and owners, not hashes.

/// The circle is cut into `2^bits` equal parts. A point is one word: its place within its part above,
/// its owner in the low `bits` below (there are never fewer parts than members). Half the memory of position
/// and owner side by side means half the cache misses, which are what a lookup costs.
///
/// `index[part]` is the part's first point, and `index[part + 1]` the one behind its last. Behind the last
/// point of all stands the first one's owner again: the circle's closing.
#[derive(Debug)]
pub struct Points {
    points: Box<[u32]>,
    index: Box<[u32]>,
    len: usize,
    bits: u32,
}

/// Points compared at once, without a branch that depends on the key.
const WINDOW: usize = 4;
/// Points per part on average, at most: one window nearly always holds a part.
const POINTS_PER_PART: usize = 3;

impl Points {
    /// From points in any order, made by [`pack`] of a position and a rank. Of points at one position the
    /// lesser rank comes first, and so wins; `members` turns a rank into a member.
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

    /// The first point at or after `at`. `len()` stands for the first point, behind the circle's end.
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

    /// Every point in ring order: its position and its member.
    pub fn iter(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let shift = u32::BITS - self.bits;
        self.index.windows(2).enumerate().flat_map(move |(part, ends)| {
            let place = move |i: u32| (part as u32) << shift | self.points[i as usize] >> self.bits;
            (ends[0]..ends[1]).map(move |i| (place(i), self.member(i as usize)))
        })
    }

    /// How many of `members` own at least one point.
    pub fn owners(&self, members: usize) -> usize {
        let mut owns = vec![false; members];
        self.iter().for_each(|(_, member)| owns[member] = true);
        owns.into_iter().filter(|owns| *owns).count()
    }

    #[inline]
    fn part(&self, at: u32) -> usize {
        (at >> (u32::BITS - self.bits)) as usize
    }
}

/// One point before it is sorted: where it is, and the rank of whose it is.
pub fn pack(position: u32, rank: u32) -> u64 {
    u64::from(position) << u32::BITS | u64::from(rank)
}

/// How many of a part's `left` points, as far as the window shows them, lie before `least`.
#[inline]
fn count_before(window: &[u32], least: u32, left: usize) -> usize {
    let left = left as u32;
    (0u32..).zip(window).map(|(i, point)| u32::from(*point < least) & u32::from(i < left)).sum::<u32>() as usize
}

fn index(positions: impl Iterator<Item = u32>, bits: u32) -> Box<[u32]> {
    let mut index = vec![0u32; (1 << bits) + 1];
    positions.for_each(|position| index[(position >> (u32::BITS - bits)) as usize + 1] += 1);
    for part in 1..index.len() {
        index[part] += index[part - 1];
    }
    index.into_boxed_slice()
}
