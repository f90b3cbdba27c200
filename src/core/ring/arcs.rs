//! The circle cut into arcs, each of one member: at points that were hashed, or into equal slots.

use super::maglev::MaglevTable;
use super::points::Points;

/// An arc is named by its place in ring order and ends at its point, the last of its positions.
#[derive(Debug)]
pub enum Arcs {
    Points(Points),
    Table(MaglevTable),
}

impl Arcs {
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Arcs::Points(points) => points.len(),
            Arcs::Table(table) => table.len(),
        }
    }

    /// The arc that `position` lies on. `len()`, behind the last one, stands for the first.
    #[inline]
    pub fn at(&self, position: u32) -> usize {
        match self {
            Arcs::Points(points) => points.at_or_after(position),
            Arcs::Table(table) => table.at(position),
        }
    }

    /// From the arc of `position` to that of its next choice, and on, round the circle.
    pub fn step(&self, position: u32) -> usize {
        match self {
            Arcs::Points(_) => 1,
            Arcs::Table(table) => table.step(position),
        }
    }

    #[inline]
    pub fn member(&self, arc: usize) -> usize {
        match self {
            Arcs::Points(points) => points.member(arc),
            Arcs::Table(table) => table.member(arc),
        }
    }

    /// The point and member of every arc, in ring order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let (points, table) = match self {
            Arcs::Points(points) => (Some(points.iter()), None),
            Arcs::Table(table) => (None, Some(table.iter())),
        };
        points.into_iter().flatten().chain(table.into_iter().flatten())
    }

    /// How many of `members` members own an arc.
    pub fn owners(&self, members: usize) -> usize {
        let mut owns = vec![false; members];
        self.iter().for_each(|(_, member)| owns[member] = true);
        owns.into_iter().filter(|owns| *owns).count()
    }
}
