//! Floor 2: what both planes may touch. Snapshots go down, facts come up, counters are read from outside.

pub mod counters;
pub mod crowd;
pub mod report;
pub mod view;
