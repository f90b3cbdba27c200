//! Floor 2: what both planes may touch. Snapshots go down, facts come up, counters are read from outside.

pub mod connection_limiter;
pub mod counters;
pub mod events;
pub mod publish;
