//! Words for a slot: whether it is on the ring, and what an operator is shown of its state. Which they are, the slot says.

/// What an operator is shown of a slot's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It has no instance that has answered.
    Starting,
    Up,
    /// It gets new requests only where no other replica can.
    Slow,
    /// It answers that it is not healthy, and gets no new requests.
    Unhealthy,
    /// It failed requests in a row: for a time it gets new ones only where no other replica can.
    Failing,
    /// It is asked to stop, or left the ring: it finishes its requests.
    Draining,
    /// An operator drained it: it finishes its requests, and stays.
    Drained,
    Down,
}

impl Condition {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Starting => "starting",
            Condition::Up => "up",
            Condition::Slow => "slow",
            Condition::Unhealthy => "unhealthy",
            Condition::Failing => "failing",
            Condition::Draining => "draining",
            Condition::Drained => "drained",
            Condition::Down => "down",
        }
    }
}

/// Whether the slot is on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Member,
    /// Part of an `/add` under way.
    Joining,
    /// It is to fill the slot of a member, which has the name.
    Successor,
}
