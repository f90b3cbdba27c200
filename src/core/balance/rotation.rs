//! Smooth weighted round-robin, as nginx does it: over as many picks as the weights sum up to, each replica is picked as
//! often as its weight says, and a heavy one not always in a row.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::candidates::Candidates;
use super::members;
use crate::core::snapshot::{Replica, Service};

/// Where one worker is in the turns of one service.
#[derive(Debug, Default)]
pub struct Rotation {
    epoch: u64,
    /// By member.
    weights: Vec<CurrentWeight>,
}

/// It grows by the replica's weight with each pick that the replica takes part in. The largest is picked.
#[derive(Debug)]
struct CurrentWeight {
    name: Arc<str>,
    value: i64,
}

impl Rotation {
    /// The members of this snapshot. Those that stay keep their turn, whatever instance is in their slot. A new rotation
    /// begins at another place in each worker, so that they do not all pick the same at once.
    pub fn follow(&mut self, epoch: u64, service: &Service, worker: usize) {
        if self.epoch == epoch {
            return;
        }
        self.epoch = epoch;
        let is_new = self.weights.is_empty();
        let names = || members(service).map(|(_, replica)| &replica.name);
        if !self.weights.iter().map(|weight| &weight.name).eq(names()) {
            let known: BTreeMap<_, _> = self.weights.drain(..).map(|weight| (weight.name, weight.value)).collect();
            let current = |name: &Arc<str>| known.get(name).copied().unwrap_or(0);
            self.weights = names().map(|name| CurrentWeight { name: name.clone(), value: current(name) }).collect();
        }
        if is_new {
            for _ in 0..worker % self.weights.len().max(1) {
                self.advance(members(service).filter(|(_, replica)| replica.weight > 0));
            }
        }
    }

    pub fn pick<'s>(&mut self, candidates: &Candidates<'s, '_>) -> Option<(usize, &'s Replica)> {
        self.advance(candidates.all())
    }

    /// Each candidate's current weight grows; that of the chosen one falls by the sum. Of equal ones the first is chosen.
    fn advance<'s>(&mut self, candidates: impl Iterator<Item = (usize, &'s Replica)>) -> Option<(usize, &'s Replica)> {
        let (mut largest, mut total) = (None::<(i64, usize, &Replica)>, 0);
        for (member, replica) in candidates {
            let current = self.weights.get_mut(member)?;
            let weight = replica.ramp.of(replica.weight) as i64;
            current.value += weight;
            total += weight;
            if largest.is_none_or(|(value, ..)| current.value > value) {
                largest = Some((current.value, member, replica));
            }
        }
        let (_, member, replica) = largest?;
        self.weights.get_mut(member)?.value -= total;
        Some((member, replica))
    }
}
