//! A worker's turn, as its sessions see it: time, the snapshot, choices, and what they borrow and give back.

use std::sync::Arc;

use super::buffer::Pool;
use super::rewrite::Edits;
use super::snapshot::Snapshot;
use super::tick::Tick;

#[derive(Debug)]
pub struct Turn {
    pub now: Tick,
    pub snapshot: Arc<Snapshot>,
    pub pool: Pool,
    pub edits: Edits,
    pub choices: Choices,
    /// `Date`, as it stands in a head in this second (RFC 9110 section 6.6.1), with its CRLF.
    pub date_line: String,
}

impl Turn {
    pub fn new(now: Tick, snapshot: Arc<Snapshot>, pool: Pool, seed: u64) -> Turn {
        Turn { now, snapshot, pool, edits: Edits::default(), choices: Choices::new(seed), date_line: String::new() }
    }
}

/// Choices come in from outside as one seed; equal seeds make equal choices (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    pub fn new(seed: u64) -> Choices {
        Choices(seed | 1)
    }

    pub fn draw(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }
}
