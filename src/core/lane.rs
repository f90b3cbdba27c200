//! One direction of traffic: source leg to sink leg, through a prefix, a buffer and a pipe. It is the same object
//! for requests and responses, for HTTP and tunnels, copied and spliced.
//!
//! Invariants, checked by [`Lane::check`]:
//! 1. `start <= released <= scanned <= filled <= capacity`: what was sent, what may be sent, what was looked at,
//!    what was read. Between `released` and `scanned` are bytes that framing dropped.
//! 2. Bytes leave in the order prefix, buffer, pipe.
//! 3. The pipe holds bytes only while prefix and buffer are empty.
//! 4. A splice never asks for more than the body's credit.
//! 5. Splice is offered only above a minimum worth a pipe's cost, and until it was refused once.
//! 6. A source that ended and an empty lane mean exactly one shutdown of the sink.

use bytes::{Buf, Bytes};

use super::body::{Body, FramingError};
use super::buffer::{BufferPool, HEADROOM, STORE, Store, store_for};
use super::head::HeadScan;

/// Bodies of at least this size, in bytes, are spliced. Below, one read and one write cost less than two splices.
pub const SPLICE_MIN: u64 = 64 * 1024;
/// A tunnel stops splicing when two splices in a row moved less than this, in bytes: the end of one long message moves
/// little, and a copied read at the start of the next one would cost more than one splice too many.
pub const SPLICE_LULL: u64 = 8 * 1024;
const LULLS: u8 = 2;
/// Of extra headroom, in bytes.
pub const HEADROOM_STEP: usize = 32;
/// At most this many bytes are asked of one splice: the capacity of a pooled pipe.
pub const SPLICE_MAX: u64 = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A head is expected, or partly here.
    Head,
    /// A body (or a tunnel) is passing.
    Body,
    /// The message was read whole, or none is expected.
    Done,
}

#[derive(Debug)]
pub struct Lane {
    pub phase: Phase,
    pub body: Body,
    pub head: HeadScan,
    /// The source sends no more.
    pub ended: bool,
    /// The sink was shut down for writing.
    pub finished: bool,
    prefix: Bytes,
    store: Option<Store>,
    /// Where the buffer ends.
    end: usize,
    start: usize,
    released: usize,
    scanned: usize,
    filled: usize,
    /// Where the content behind the last head begins; 0 once some of it was spliced.
    content_at: usize,
    piped: u64,
    unspliceable: bool,
    /// No pipe could be had: the next read is copied.
    copies_next_read: bool,
    /// The last read filled the buffer: the socket is likely to hold more.
    full: bool,
    /// Splices in a row that moved little.
    lulls: u8,
    /// What is free in front of the first byte that is read, beside `HEADROOM`: steps of `HEADROOM_STEP` bytes, so that a lane
    /// is not larger for the few that need it.
    wider_by: u8,
}

impl Lane {
    pub fn new(phase: Phase) -> Lane {
        Lane {
            phase,
            body: Body::Empty,
            head: HeadScan::default(),
            ended: false,
            finished: false,
            prefix: Bytes::new(),
            store: None,
            end: STORE,
            start: HEADROOM,
            released: HEADROOM,
            scanned: HEADROOM,
            filled: HEADROOM,
            content_at: HEADROOM,
            piped: 0,
            unspliceable: false,
            copies_next_read: false,
            full: false,
            lulls: 0,
            wider_by: 0,
        }
    }

    /// What is sent to the sink next, apart from the pipe.
    pub fn pending(&self) -> &[u8] {
        if !self.prefix.is_empty() {
            return &self.prefix;
        }
        self.stored(self.start, self.released)
    }

    pub fn has_pending(&self) -> bool {
        self.start < self.released || !self.prefix.is_empty()
    }

    /// Nothing waits to be sent, neither in the buffer nor in the pipe.
    pub fn is_drained(&self) -> bool {
        !self.has_pending() && self.piped == 0
    }

    /// The sink took `n` bytes of `pending`.
    pub fn sent(&mut self, n: usize) {
        if self.prefix.is_empty() {
            self.start += n.min(self.released - self.start);
        } else {
            self.prefix.advance(n.min(self.prefix.len()));
        }
    }

    /// Where the next read goes. Reading takes a buffer from the pool if the lane has none.
    #[inline(always)]
    pub fn space(&mut self, pool: &mut BufferPool) -> &mut [u8] {
        self.close_gap();
        if self.start == self.filled {
            self.rewind();
        } else if self.filled == self.end {
            self.compact();
        }
        let store = self.store.get_or_insert_with(|| pool.take());
        store.get_mut(self.filled..).unwrap_or_default()
    }

    pub fn has_buffer(&self) -> bool {
        self.store.is_some()
    }

    /// How many bytes `space` offers now.
    pub fn room(&self) -> usize {
        if self.start == self.filled { self.end - self.base() } else { self.end - self.filled + self.slack() }
    }

    /// Each head grows by up to `n` bytes beside what `HEADROOM` is for. The lane holds no buffer.
    pub fn widen_headroom(&mut self, n: usize) {
        debug_assert!(self.store.is_none());
        self.wider_by = u8::try_from(n.div_ceil(HEADROOM_STEP)).unwrap_or(u8::MAX);
        self.rewind();
    }

    fn extra_headroom(&self) -> usize {
        usize::from(self.wider_by) * HEADROOM_STEP
    }

    /// Where bytes are read to first.
    fn base(&self) -> usize {
        HEADROOM + self.extra_headroom()
    }

    /// A head of up to `limit` bytes that fills the buffer goes on in a larger one.
    pub fn make_room(&mut self, limit: usize, pool: &mut BufferPool) {
        let len = store_for(limit + self.extra_headroom());
        if self.room() == 0
            && len > self.end
            && let Some(store) = self.store.take()
        {
            self.store = Some(pool.exchange(store, len));
            self.end = len;
        }
    }

    /// `n` bytes were read into `space`; true if that was all it had room for, so that more may be waiting.
    pub fn commit_read(&mut self, n: usize) -> bool {
        let room = self.end - self.filled;
        self.full = n >= room;
        self.copies_next_read = false;
        self.filled += n.min(room);
        self.full
    }

    /// Bytes read that no framing has looked at.
    pub fn unscanned(&self) -> &[u8] {
        self.stored(self.scanned, self.filled)
    }

    pub fn has_unscanned(&self) -> bool {
        self.scanned < self.filled
    }

    /// Drops all unscanned bytes.
    pub fn skip_all(&mut self) {
        self.skip(usize::MAX);
    }

    /// Releases the next `n` unscanned bytes to the sink.
    pub fn release(&mut self, n: usize) {
        let n = n.min(self.filled - self.scanned);
        if self.released != self.scanned
            && let Some(store) = &mut self.store
        {
            store.copy_within(self.scanned..self.scanned + n, self.released);
        }
        self.released += n;
        self.scanned += n;
    }

    /// Drops the next `n` unscanned bytes.
    pub fn skip(&mut self, n: usize) {
        self.scanned += n.min(self.filled - self.scanned);
        self.close_gap();
    }

    /// The next `len` unscanned bytes are a head: `rewrite` writes its new form so that it ends where the old one did, and
    /// returns where it begins. Nothing may be pending.
    pub fn rewrite_head(&mut self, len: usize, rewrite: impl FnOnce(&mut [u8], usize, usize) -> usize) {
        debug_assert!(!self.has_pending());
        let end = self.scanned + len.min(self.filled - self.scanned);
        if let Some(store) = &mut self.store {
            self.start = rewrite(store, self.scanned, end);
            (self.released, self.scanned) = (self.start, self.start);
        }
    }

    /// The same, and the new form is released whole.
    pub fn release_head(&mut self, len: usize, rewrite: impl FnOnce(&mut [u8], usize, usize) -> usize) {
        let end = self.scanned + len.min(self.filled - self.scanned);
        self.rewrite_head(len, rewrite);
        (self.released, self.scanned, self.content_at) = (end, end, end);
    }

    /// The sink took some of the content behind the last head. Asked after a send or a splice, until it is true.
    pub fn has_sent_content(&self) -> bool {
        self.start > self.content_at
    }

    /// Bytes by which the head that comes next can grow when it is rewritten.
    pub fn headroom(&self) -> usize {
        self.scanned
    }

    /// Releases what the body's framing allows of the unscanned bytes. At the end of the body the phase becomes `Done`.
    pub fn advance_body(&mut self) -> Result<(), FramingError> {
        while self.phase == Phase::Body && !self.body.is_done() {
            if !self.has_unscanned() {
                return Ok(());
            }
            let credit = self.body.credit();
            if credit > 0 {
                let n = credit.min((self.filled - self.scanned) as u64);
                self.body.pass(n);
                self.release(n as usize);
                continue;
            }
            let step = {
                let unscanned = self.store.as_deref().and_then(|store| store.get(self.scanned..self.filled));
                self.body.scan(unscanned.unwrap_or_default())?
            };
            if step.keep {
                self.release(step.read);
            } else {
                self.skip(step.read);
            }
            if step.read == 0 {
                return Ok(());
            }
        }
        if self.phase == Phase::Body {
            self.phase = Phase::Done;
        }
        Ok(())
    }

    /// How many bytes to splice, if a splice is worth it now. Where the framing promises no more than the buffer holds,
    /// only a read that filled the buffer shows that more is waiting.
    pub fn splice_len(&self) -> Option<u64> {
        if self.full || !self.body.is_open_ended() { self.spliceable() } else { None }
    }

    /// The same where some of the body may be elsewhere than in the socket: a read that filled the buffer has to show that
    /// the socket holds more.
    pub fn splice_len_after_full_read(&self) -> Option<u64> {
        if self.full { self.spliceable() } else { None }
    }

    fn spliceable(&self) -> Option<u64> {
        let credit = if self.phase == Phase::Body { self.body.credit() } else { 0 };
        (credit >= SPLICE_MIN
            && !self.unspliceable
            && !self.copies_next_read
            && self.start == self.filled
            && self.prefix.is_empty())
        .then_some(credit.min(SPLICE_MAX))
    }

    /// `n` bytes went from the source into the pipe.
    pub fn spliced_in(&mut self, n: u64) {
        self.piped += n;
        self.body.pass(n);
        self.lulls = if n < SPLICE_LULL { self.lulls.saturating_add(1) } else { 0 };
        self.full = self.lulls < LULLS;
        if self.body.is_done() {
            self.phase = Phase::Done;
        }
    }

    /// `n` bytes went from the pipe into the sink.
    pub fn spliced_out(&mut self, n: u64) {
        self.piped = self.piped.saturating_sub(n);
        self.content_at = 0;
    }

    pub fn piped(&self) -> u64 {
        self.piped
    }

    /// The pipe was destroyed with what it held.
    pub fn piped_lost(&mut self) {
        self.piped = 0;
    }

    /// No pipe could be had: the next read is copied, then a splice is offered again.
    pub fn copy_next_read(&mut self) {
        self.copies_next_read = true;
    }

    /// The kernel does not splice from the source.
    pub fn refuse_splice(&mut self) {
        self.unspliceable = true;
    }

    /// The lane can take another read: it never reads while bytes wait for the sink.
    pub fn wants_read(&self) -> bool {
        self.phase != Phase::Done && !self.ended && self.is_drained() && self.room() > 0
    }

    /// Puts `bytes` before the prefix.
    pub fn prepend(&mut self, bytes: &[u8]) {
        self.prefix = [bytes, &self.prefix].concat().into();
    }

    /// Puts `bytes` before the buffer, in the place of an earlier prefix.
    pub fn set_prefix(&mut self, bytes: Bytes) {
        self.prefix = bytes;
    }

    /// Drops what was not sent yet.
    pub fn drop_pending(&mut self) {
        self.prefix = Bytes::new();
        self.start = self.scanned;
        self.released = self.scanned;
    }

    /// Drops all bytes.
    pub fn drop_all(&mut self) {
        self.scanned = self.filled;
        self.drop_pending();
    }

    /// The position of the next byte to send, for `resend_from`.
    pub fn mark(&self) -> usize {
        self.start
    }

    /// Sends again from `mark`: valid until the buffer is rewound by the next read.
    pub fn resend_from(&mut self, mark: usize) {
        if self.store.is_some() && mark <= self.released {
            self.start = mark;
        }
    }

    /// The bytes between `mark` and what was sent.
    pub fn sent_since(&self, mark: usize) -> &[u8] {
        self.stored(mark, self.start)
    }

    /// Gives the buffer back if it is empty.
    pub fn reclaim(&mut self, pool: &mut BufferPool) {
        if self.store.is_none() || self.has_pending() {
            return;
        }
        self.close_gap();
        if self.start == self.filled
            && let Some(store) = self.store.take()
        {
            self.rewind();
            self.end = STORE;
            pool.give(store);
        }
    }

    /// Ready for the next message on the same source.
    pub fn restart(&mut self, phase: Phase) {
        self.phase = phase;
        self.body = Body::Empty;
        self.head.reset();
        self.full = false;
    }

    /// Memory held for bytes in transit, in bytes. The content of pipes is the kernel's.
    pub fn held(&self) -> usize {
        self.prefix.len() + self.store.as_ref().map_or(0, |store| store.len())
    }

    /// Panics where an invariant is broken; tests and the simulation call it after every step.
    pub fn check(&self) {
        assert!(self.start <= self.released && self.released <= self.scanned, "invariant 1: {self:?}");
        assert!(self.scanned <= self.filled && self.filled <= self.end, "invariant 1: {self:?}");
        assert!(self.store.as_ref().is_none_or(|store| store.len() == self.end), "another buffer: {self:?}");
        assert!(self.piped == 0 || !self.has_pending(), "invariant 3: {self:?}");
        assert!(self.store.is_some() || self.start == self.filled, "bytes without a buffer: {self:?}");
        assert!(!self.finished || self.is_drained(), "invariant 6: {self:?}");
    }

    fn stored(&self, from: usize, to: usize) -> &[u8] {
        self.store.as_deref().and_then(|store| store.get(from..to)).unwrap_or_default()
    }

    /// With nothing to send, the space of bytes that framing dropped is free.
    fn close_gap(&mut self) {
        if self.start == self.released {
            (self.start, self.released) = (self.scanned, self.scanned);
        }
    }

    fn rewind(&mut self) {
        let base = self.base();
        (self.start, self.released, self.scanned, self.filled) = (base, base, base, base);
        self.content_at = base;
    }

    /// Bytes at the front that `compact` would free.
    fn slack(&self) -> usize {
        if self.filled == self.end { self.start.saturating_sub(self.base()) } else { 0 }
    }

    /// Moves the content to the front.
    fn compact(&mut self) {
        let base = self.base();
        let by = self.start.saturating_sub(base);
        if by > 0
            && let Some(store) = &mut self.store
        {
            store.copy_within(self.start..self.filled, base);
            (self.start, self.released) = (self.start - by, self.released - by);
            (self.scanned, self.filled) = (self.scanned - by, self.filled - by);
            self.content_at = self.content_at.saturating_sub(by).max(base);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::buffer::CAPACITY;

    #[test]
    fn a_lack_of_pipes_copies_one_read_and_a_refusal_copies_all() {
        let mut pool = BufferPool::new(1);
        let mut lane = Lane::new(Phase::Body);
        lane.body = Body::Tunnel;
        let mut read_full = |lane: &mut Lane| {
            let room = lane.space(&mut pool).len();
            lane.commit_read(room);
            lane.advance_body().unwrap();
            lane.sent(room);
        };
        read_full(&mut lane);
        assert!(lane.splice_len().is_some(), "a read that filled the buffer");
        lane.copy_next_read();
        assert!(lane.splice_len().is_none(), "no pipe: this read is copied");
        read_full(&mut lane);
        assert!(lane.splice_len().is_some(), "and a splice is offered again");
        lane.refuse_splice();
        read_full(&mut lane);
        assert!(lane.splice_len().is_none(), "the kernel does not splice here");
    }

    /// Two splices in a row below 8 KiB end the splicing of a tunnel, until a read fills the buffer.
    #[test]
    fn a_tunnel_stops_splicing_after_two_small_splices_in_a_row() {
        let spliceable_after = |splices: &[u64]| {
            let mut lane = Lane::new(Phase::Body);
            lane.body = Body::Tunnel;
            splices.iter().for_each(|n| lane.spliced_in(*n));
            assert_eq!(lane.piped(), splices.iter().sum::<u64>());
            lane.splice_len().is_some()
        };
        let (small, large) = (8 * 1024 - 1, 8 * 1024);
        assert!(spliceable_after(&[small]));
        assert!(!spliceable_after(&[small, small]));
        assert!(spliceable_after(&[large, large, large]));
        assert!(spliceable_after(&[small, large, small]));
        assert!(!spliceable_after(&[small, large, small, small, small]));
    }

    #[test]
    fn a_wider_headroom_is_there_for_each_head_and_the_longest_head_fits_behind_it() {
        let (mut pool, mut lane) = (BufferPool::new(1), Lane::new(Phase::Head));
        lane.widen_headroom(3_000);
        for _ in 0..2 {
            assert_eq!((lane.room(), lane.space(&mut pool).len()), (CAPACITY - 3_008, CAPACITY - 3_008));
            assert_eq!(lane.headroom(), HEADROOM + 3_008);
            lane.commit_read(CAPACITY - 3_008);
            lane.make_room(CAPACITY - 1, &mut pool);
            assert_eq!(lane.room(), 3_008, "a head of that length, and a byte");
            lane.release_head(CAPACITY - 3_008, |_, from, _| from - HEADROOM - 3_008);
            assert_eq!(lane.pending().len(), HEADROOM + CAPACITY);
            lane.sent(HEADROOM + CAPACITY);
            lane.reclaim(&mut pool);
            lane.check();
        }
        assert_eq!(pool.lent(), 0);
    }

    #[test]
    fn the_room_of_a_lane_is_what_the_next_read_can_take() {
        let mut pool = BufferPool::new(1);
        let mut lane = Lane::new(Phase::Head);
        let mut room = |lane: &mut Lane| {
            let room = lane.room();
            assert_eq!(lane.space(&mut pool).len(), room, "{lane:?}");
            room
        };
        assert_eq!(room(&mut lane), CAPACITY);
        lane.commit_read(100);
        assert_eq!(room(&mut lane), CAPACITY - 100);
        lane.release(60);
        lane.sent(40);
        assert_eq!(room(&mut lane), CAPACITY - 100, "what was sent is not free while the buffer has room");
        lane.commit_read(CAPACITY - 100);
        assert_eq!((lane.room(), lane.wants_read()), (40, false), "20 bytes wait to be sent");
        lane.sent(20);
        assert_eq!((room(&mut lane), lane.wants_read()), (60, true));
        lane.commit_read(60);
        assert_eq!((lane.room(), lane.wants_read()), (0, false), "a buffer full of a head");
        lane.make_room(2 * CAPACITY, &mut pool);
        assert_eq!(lane.room(), CAPACITY + 1, "a larger buffer");
    }
}
