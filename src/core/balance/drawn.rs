//! Choices by random numbers: one replica by weight, or the less loaded of two.

use super::candidates::Candidates;
use crate::core::context::Prng;
use crate::core::snapshot::Replica;

pub fn random<'s>(candidates: &Candidates<'s, '_>, prng: &mut Prng) -> Option<(usize, &'s Replica)> {
    let weight = |(_, replica): &(usize, &Replica)| replica.ramp.of(replica.weight);
    let mut left = prng.below(candidates.all().map(|candidate| weight(&candidate)).sum());
    candidates.all().find(|candidate| {
        let is_drawn = left < weight(candidate);
        left = left.saturating_sub(weight(candidate));
        is_drawn
    })
}

/// Two different ones are drawn, each as likely as any other: weights count in the comparison. Power of two choices
/// (Mitzenmacher 2001): loads are nearly as even as with the least loaded of all, and workers that know each other's loads a
/// moment late do not all choose the same. Of equal ones it is the first drawn. One that starts slowly is idle at first, and
/// would win each comparison: it declines a part of them.
pub fn least_request<'s>(candidates: &Candidates<'s, '_>, prng: &mut Prng) -> Option<(usize, &'s Replica)> {
    let count = candidates.all().count();
    let at = prng.below(count as u64) as usize;
    let first = candidates.all().nth(at)?;
    let other = prng.below(count as u64 - 1) as usize;
    let Some(second) = candidates.all().nth(other + usize::from(other >= at)) else { return Some(first) };
    let load = |(_, replica): (usize, &Replica)| u128::from(replica.load.in_flight()) + 1;
    let weight = |(_, replica): (usize, &Replica)| u128::from(replica.weight);
    let is_first_less_loaded = load(first) * weight(second) <= load(second) * weight(first);
    let (chosen, other) = if is_first_less_loaded { (first, second) } else { (second, first) };
    let declines = !chosen.1.ramp.is_whole() && !chosen.1.ramp.takes(prng.next_u32(), chosen.1.id);
    Some(if declines { other } else { chosen })
}
