//! The replicas of a service that a request may go to. Which of them it goes to is decided elsewhere.

use super::members;
use crate::core::exchange::Attempts;
use crate::core::snapshot::{Replica, ReplicaId, Service, State};

/// Ring members that a walk considers at most.
const WALK_LIMIT: usize = 4096;

pub struct Candidates<'s, 'p> {
    pub service: &'s Service,
    /// Those that are up, or those that are ejected.
    pub state: State,
    /// Replicas that this request was tried on, and others that it was not sent to.
    pub tried: &'p Attempts,
    pub passed: &'p [ReplicaId],
}

impl<'s> Candidates<'s, '_> {
    /// Whose key it is. One that starts slowly takes some of its keys; if none of the others is left, all.
    #[inline]
    pub fn first(&self, key: u32) -> Option<(usize, &'s Replica)> {
        let first = self.from(key).next()?;
        if first.1.ramp.is_whole() { Some(first) } else { self.first_that_takes(key).or(Some(first)) }
    }

    #[cold]
    fn first_that_takes(&self, key: u32) -> Option<(usize, &'s Replica)> {
        self.from(key).find(|(_, replica)| replica.ramp.takes(key, replica.id))
    }

    /// In ring order from a key on.
    #[inline]
    pub fn from(&self, key: u32) -> impl Iterator<Item = (usize, &'s Replica)> {
        let replicas = &self.service.replicas;
        let walk = self.service.ring.walk(key).take(WALK_LIMIT);
        walk.map(|member| (member, &replicas[member])).filter(|(_, replica)| self.has(replica))
    }

    /// One of them has as many requests as it may have: a request waits for it.
    #[cold]
    pub fn has_full(&self) -> bool {
        let is_full = |replica: &&Replica| self.is_meant(replica) && self.service.is_full(replica);
        self.service.replicas.iter().any(|replica| is_full(&replica))
    }

    /// In the order in which they are listed. One without a weight has no place on a ring, and none here.
    pub fn all(&self) -> impl Iterator<Item = (usize, &'s Replica)> {
        members(self.service).filter(|(_, replica)| replica.weight > 0 && self.has(replica))
    }

    #[inline]
    fn has(&self, replica: &Replica) -> bool {
        self.is_meant(replica) && !self.service.is_full(replica)
    }

    #[inline]
    fn is_meant(&self, replica: &Replica) -> bool {
        replica.state == self.state && !self.tried.contains(replica.id) && !self.passed.contains(&replica.id)
    }
}
