//! Ciphertext on its way: what was read and not opened yet, and what was sealed and not sent yet. Each borrows a buffer of
//! the pool while it holds bytes. What a record contains never enters.

use crate::core::buffer::{BufferPool, STORE, Store};

/// Type, version and length of a record (RFC 8446 section 5.1).
const RECORD_HEADER: usize = 5;
/// A record announces at most this many bytes behind its header: those of TLS 1.2 (RFC 5246 section 6.2.3) are the longer
/// ones.
const RECORD_MAX: usize = (1 << 14) + 2048;
/// change_cipher_spec, alert, handshake, application_data.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=23;

/// What came from the peer. The engine has seen the bytes before `fed`, and keeps those of a handshake message that is not
/// whole.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    store: Option<Store>,
    start: usize,
    fed: usize,
    end: usize,
}

/// What goes to the peer.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    store: Option<Store>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// Where the next read goes. Empty: what is here fills a buffer and is no record yet.
    pub fn space(&mut self, pool: &mut BufferPool) -> &mut [u8] {
        let store = self.store.get_or_insert_with(|| pool.take());
        if self.start > 0 {
            store.copy_within(self.start..self.end, 0);
            (self.fed, self.end) = (self.fed - self.start, self.end - self.start);
            self.start = 0;
        }
        store.get_mut(self.end..).unwrap_or_default()
    }

    pub fn commit(&mut self, n: usize) {
        self.end += n.min(STORE - self.end);
    }

    /// What the engine has not seen.
    pub fn unfed(&self) -> &[u8] {
        self.bytes(self.fed)
    }

    /// The next record is here whole, or its header is one that the engine refuses.
    pub fn has_record(&self) -> bool {
        record_len(self.unfed()).is_some_and(|len| len <= self.end - self.fed)
    }

    /// No read can make what is here whole.
    pub fn is_full(&self) -> bool {
        self.end - self.start == STORE
    }

    /// Shows the engine one more record.
    pub fn feed(&mut self) {
        let len = record_len(self.unfed()).unwrap_or_default();
        self.fed += len.min(self.end - self.fed);
    }

    /// What the engine has seen and keeps.
    pub fn fed(&mut self) -> &mut [u8] {
        self.store.as_deref_mut().and_then(|store| store.get_mut(self.start..self.fed)).unwrap_or_default()
    }

    /// The engine keeps the first `n` bytes no more.
    pub fn discard(&mut self, n: usize) {
        self.start += n.min(self.fed - self.start);
    }

    /// Takes `n` bytes that the engine never sees off the front.
    pub fn skip(&mut self, n: usize) {
        self.fed += n.min(self.end - self.fed);
        self.start = self.fed;
    }

    /// Gives the buffer back if it holds nothing.
    pub fn reclaim(&mut self, pool: &mut BufferPool) {
        if self.start == self.end {
            self.release(pool);
        }
    }

    pub fn release(&mut self, pool: &mut BufferPool) {
        if let Some(store) = self.store.take() {
            pool.give(store);
        }
        (self.start, self.fed, self.end) = (0, 0, 0);
    }

    pub fn has_buffer(&self) -> bool {
        self.store.is_some()
    }

    pub fn check(&self) {
        assert!(self.start <= self.fed && self.fed <= self.end && self.end <= STORE, "{self:?}");
        assert!(self.store.is_some() || self.end == 0, "bytes without a buffer");
    }

    fn bytes(&self, from: usize) -> &[u8] {
        self.store.as_deref().and_then(|store| store.get(from..self.end)).unwrap_or_default()
    }
}

impl WriteBuffer {
    pub fn pending(&self) -> &[u8] {
        self.store.as_deref().and_then(|store| store.get(self.start..self.end)).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes fit behind those that are pending.
    pub fn room(&self) -> usize {
        STORE - (self.end - self.start)
    }

    /// Where the engine writes.
    pub fn space(&mut self, pool: &mut BufferPool) -> &mut [u8] {
        let store = self.store.get_or_insert_with(|| pool.take());
        if self.start > 0 {
            store.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        store.get_mut(self.end..).unwrap_or_default()
    }

    pub fn commit(&mut self, n: usize) {
        self.end += n.min(STORE - self.end);
    }

    /// Puts `bytes` in front of what is pending, if they fit.
    pub fn prepend(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        if bytes.is_empty() || self.room() < bytes.len() {
            return;
        }
        let store = self.store.get_or_insert_with(|| pool.take());
        store.copy_within(self.start..self.end, bytes.len());
        if let Some(front) = store.get_mut(..bytes.len()) {
            front.copy_from_slice(bytes);
        }
        (self.start, self.end) = (0, bytes.len() + self.end - self.start);
    }

    /// The socket took `n` bytes.
    pub fn sent(&mut self, n: usize, pool: &mut BufferPool) {
        self.start += n.min(self.end - self.start);
        self.reclaim(pool);
    }

    /// Gives the buffer back if it holds nothing.
    pub fn reclaim(&mut self, pool: &mut BufferPool) {
        if self.is_empty() {
            self.release(pool);
        }
    }

    pub fn release(&mut self, pool: &mut BufferPool) {
        if let Some(store) = self.store.take() {
            pool.give(store);
        }
        (self.start, self.end) = (0, 0);
    }

    pub fn has_buffer(&self) -> bool {
        self.store.is_some()
    }

    pub fn check(&self) {
        assert!(self.start <= self.end && self.end <= STORE, "{self:?}");
        assert!(self.store.is_some() != self.is_empty(), "a buffer without bytes, or bytes without a buffer");
    }
}

/// The length of the record that `bytes` begin with, its header included. The header alone of one that no peer may send: it
/// is enough to refuse it.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let &[kind, _, _, high, low] = bytes.first_chunk::<RECORD_HEADER>()?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    let is_sane = RECORD_TYPES.contains(&kind) && len <= RECORD_MAX;
    Some(if is_sane { RECORD_HEADER + len } else { RECORD_HEADER })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_long_as_its_header_says_and_one_that_is_refused_as_its_header() {
        let cases: [(&[u8], Option<usize>); 5] = [
            (&[22, 3, 1, 0], None),
            (&[22, 3, 1, 0, 7, 9], Some(12)),
            (&[23, 3, 3, 0x48, 0], Some(5 + RECORD_MAX)),
            (&[23, 3, 3, 0x48, 1], Some(5)),
            (&[24, 3, 3, 0, 3], Some(5)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(record_len(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_left_of_the_input_moves_to_the_front_and_an_empty_buffer_is_given_back() {
        let (mut pool, mut input) = (BufferPool::new(1), ReadBuffer::default());
        let records = [23, 3, 3, 0, 1, b'a', 23, 3, 3, 0, 2, b'b'];
        input.space(&mut pool)[..records.len()].copy_from_slice(&records);
        input.commit(records.len());
        assert!(input.has_record());
        input.feed();
        assert_eq!(input.fed(), &records[..6]);
        input.discard(6);
        assert!(!input.has_record(), "a byte is missing");
        assert_eq!(input.space(&mut pool).len(), STORE - 6);
        input.space(&mut pool)[0] = b'c';
        input.commit(1);
        input.check();
        input.feed();
        assert_eq!((input.fed().to_vec(), pool.lent()), (vec![23, 3, 3, 0, 2, b'b', b'c'], 1));
        input.discard(7);
        input.reclaim(&mut pool);
        input.check();
        assert_eq!(pool.lent(), 0);
    }
}
