//! Which replica of a service a request goes to: a pure function of snapshot, key, random numbers and the worker's own state.
//! What is balanced does not enter, nor does a connection.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`BalancePolicy`] of a service, [`Balancer`] of a worker: the only place where a replica is picked; by the ring, without a bound |
//! | `candidates` | the replicas that a request may go to (state, not tried, a weight), in ring order from a key on or as listed |
//! | `bounded` | by the ring, past replicas whose load is at a multiple of the mean: [`BalanceFactor`], consistent hashing with bounded loads |
//! | `drawn` | at random by weight; the less loaded of two random ones (least requests, power of two choices) |
//! | `ramp` | [`Ramp`] of a replica that starts slowly: which keys it takes already, what its weight counts |
//! | `rotation` | smooth weighted round-robin, whose turns outlive the snapshot |
//! | `tests` | all policies over one service: which states they pick by, their spread, their bounds |
//!
//! There is no panic threshold, below which Envoy sends requests to hosts that it holds unhealthy. A replica that is ejected
//! still answers something, so at most `max_share` of a service is ejected at a time, half by default, and where no other is
//! up those get the requests. What is left are replicas with evidence of death, where a request could only fail.

mod bounded;
mod candidates;
mod drawn;
mod ramp;
mod rotation;
#[cfg(test)]
mod tests;

pub use bounded::BalanceFactor;
pub use ramp::Ramp;

use super::context::Prng;
use super::snapshot::{Replica, ReplicaId, Service, Snapshot, State};
use super::step::Pick;
use candidates::Candidates;
use rotation::Rotation;

/// How a service chooses among its replicas. Whether a replica may be chosen is the same for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalancePolicy {
    /// The first on the ring's walk from the request's key.
    #[default]
    Hash,
    /// The same, past replicas that are loaded beyond their bound.
    BoundedHash(BalanceFactor),
    /// Of two drawn at random the one with fewer requests in flight for its weight.
    LeastRequest,
    /// Each in its turn, in proportion to the weights.
    RoundRobin,
    /// Drawn in proportion to the weights.
    Random,
}

impl BalancePolicy {
    /// As it is written in a configuration, where the bound is a setting of its own.
    pub fn name(self) -> &'static str {
        match self {
            BalancePolicy::Hash | BalancePolicy::BoundedHash(_) => "hash",
            BalancePolicy::LeastRequest => "least-request",
            BalancePolicy::RoundRobin => "round-robin",
            BalancePolicy::Random => "random",
        }
    }

    pub fn balance_factor(self) -> Option<BalanceFactor> {
        match self {
            BalancePolicy::BoundedHash(factor) => Some(factor),
            _ => None,
        }
    }
}

/// What one worker keeps to choose by.
#[derive(Debug)]
pub struct Balancer {
    worker: usize,
    /// By service.
    rotations: Vec<Rotation>,
}

impl Balancer {
    pub fn new(worker: usize) -> Balancer {
        Balancer { worker, rotations: Vec::new() }
    }

    /// A replica that is up and was neither tried nor passed over, by the service's policy; if there is none, one that is
    /// ejected, by the same policy. `None`: there is no such replica either, and the request is answered 503, since a replica
    /// that is known to be down is not connected to; or one that is up has no room, and the request waits for it.
    #[inline]
    pub fn pick<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        pick: &Pick,
        passed: &[ReplicaId],
        prng: &mut Prng,
    ) -> Option<(usize, &'s Replica)> {
        let service = snapshot.service(pick.service)?;
        let of = |state| Candidates { service, state, tried: &pick.tried, passed };
        match service.policy {
            BalancePolicy::Hash => of(State::Up)
                .first(pick.key)
                .or_else(|| if of(State::Up).has_full() { None } else { of(State::Ejected).first(pick.key) }),
            _ => {
                let up = self.choose(snapshot, pick, &of(State::Up), prng);
                match up {
                    None if !of(State::Up).has_full() => self.choose(snapshot, pick, &of(State::Ejected), prng),
                    up => up,
                }
            }
        }
    }

    #[inline(never)]
    fn choose<'s>(
        &mut self,
        snapshot: &Snapshot,
        pick: &Pick,
        candidates: &Candidates<'s, '_>,
        prng: &mut Prng,
    ) -> Option<(usize, &'s Replica)> {
        match candidates.service.policy {
            BalancePolicy::Hash => candidates.first(pick.key),
            BalancePolicy::BoundedHash(factor) => bounded::pick(candidates, pick.key, factor),
            BalancePolicy::LeastRequest => drawn::least_request(candidates, prng),
            BalancePolicy::Random => drawn::random(candidates, prng),
            BalancePolicy::RoundRobin => {
                let at = pick.service.0 as usize;
                let len = self.rotations.len().max(at + 1);
                self.rotations.resize_with(len, Rotation::default);
                let rotation = self.rotations.get_mut(at)?;
                rotation.follow(snapshot.epoch, candidates.service, self.worker);
                rotation.pick(candidates)
            }
        }
    }
}

/// The members of a service's ring with their places.
fn members(service: &Service) -> impl Iterator<Item = (usize, &Replica)> {
    service.replicas.iter().take(service.ring.members()).enumerate()
}
