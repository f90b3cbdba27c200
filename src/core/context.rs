//! What a session is lent for one call: the time, the snapshot, buffers, records, pseudo-random numbers and the `Date` line.

use std::sync::Arc;

use super::buffer::BufferPool;
use super::exchange_record::Records;
use super::rewrite::Edits;
use super::snapshot::Snapshot;
use super::tick::Tick;

#[derive(Debug)]
pub struct Context {
    pub now: Tick,
    pub snapshot: Arc<Snapshot>,
    pub pool: BufferPool,
    pub edits: Edits,
    pub prng: Prng,
    pub tally: Tally,
    pub records: Records,
    /// `Date`, as it stands in a head in this second (RFC 9110 section 6.6.1), with its CRLF.
    pub date_line: String,
}

impl Context {
    pub fn new(now: Tick, snapshot: Arc<Snapshot>, pool: BufferPool, seed: u64) -> Context {
        Context {
            now,
            snapshot,
            pool,
            edits: Edits::default(),
            prng: Prng::new(seed),
            tally: Tally::default(),
            records: Records::default(),
            date_line: String::new(),
        }
    }
}

/// What sessions counted since their worker last took it over into its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests whose head was read whole, and tunnels.
    pub requests: u64,
    /// Responses of replicas whose head was read whole, interim ones included, by class: 1xx first.
    pub responses: [u64; 5],
    counted: bool,
}

impl Tally {
    /// Something was counted since the worker last took the tally over.
    pub fn is_counted(&self) -> bool {
        self.counted
    }

    pub fn count_request(&mut self) {
        self.counted = true;
        self.requests += 1;
    }

    pub fn count_response(&mut self, status: u16) {
        self.counted = true;
        if let Some(class) = self.responses.get_mut(usize::from(status / 100).wrapping_sub(1)) {
            *class += 1;
        }
    }
}

/// Pseudo-random numbers from one seed; equal seeds give equal numbers (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    pub fn new(seed: u64) -> Prng {
        Prng(seed | 1)
    }

    pub fn next_u32(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// From 0 to `limit` - 1, each as likely as any other to `limit` / 2^32. 0, if there is none.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next_u32()) * u128::from(limit)) >> u32::BITS) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_requests_and_the_classes_of_responses() {
        let mut tally = Tally::default();
        assert!(!tally.is_counted());
        tally.count_request();
        tally.count_request();
        [100, 204, 299, 500, 999, 0].into_iter().for_each(|status| tally.count_response(status));
        assert_eq!((tally.requests, tally.responses, tally.is_counted()), (2, [1, 2, 0, 0, 1], true));
    }

    /// Computed with another implementation of xorshift64*.
    #[test]
    fn numbers_are_those_of_xorshift64_star() {
        let mut prng = Prng::new(42);
        assert_eq!([(); 4].map(|()| prng.next_u32()), [2662537474, 1947308540, 489662251, 2335330766]);
    }
}
