//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): a replica has at most `factor` times its
//! weighted share of the requests in flight, so that a popular key does not overload one.

use super::candidates::Candidates;
use super::members;
use crate::core::snapshot::Replica;

/// The bound of a replica's load as a multiple of its share, in thousandths; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceFactor(pub(super) u32);

impl BalanceFactor {
    /// Where a bound is so high, no load reaches it but that of a single replica.
    const MAX: f64 = 1000.0;

    /// Rounded to thousandths. `None`: it is not from 1 to 1000.
    pub fn new(factor: f64) -> Option<BalanceFactor> {
        (1.0..=BalanceFactor::MAX).contains(&factor).then(|| BalanceFactor((factor * 1000.0).round() as u32))
    }

    pub fn value(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

/// The first on the walk whose load is below its bound; if the bounds of all are reached, which takes replicas that were tried
/// or that other workers send to meanwhile, the first.
pub fn pick<'s>(candidates: &Candidates<'s, '_>, key: u32, factor: BalanceFactor) -> Option<(usize, &'s Replica)> {
    let bounds = Bounds::new(candidates, factor);
    let takes = |replica: &Replica| bounds.has_room(replica) && replica.ramp.takes(key, replica.id);
    candidates.from(key).find(|(_, replica)| takes(replica)).or_else(|| candidates.first(key))
}

struct Bounds {
    /// Requests in flight at all replicas of the state, with this one, times the factor.
    load: u128,
    /// Of all of them, times the unit of the factor.
    weight: u128,
}

impl Bounds {
    fn new(candidates: &Candidates, factor: BalanceFactor) -> Bounds {
        let of_state = members(candidates.service).filter(|(_, replica)| replica.state == candidates.state);
        let (load, weight) = of_state.fold((1, 0), |(load, weight), (_, replica)| {
            (load + u128::from(replica.load.in_flight()), weight + u128::from(replica.weight))
        });
        Bounds { load: load * u128::from(factor.0), weight: weight * 1000 }
    }

    /// With one request more its load is at most its bound rounded up: before, it is less than its bound.
    fn has_room(&self, replica: &Replica) -> bool {
        u128::from(replica.load.in_flight()) * self.weight < self.load * u128::from(replica.weight)
    }
}
