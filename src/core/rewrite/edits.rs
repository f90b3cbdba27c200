//! The changes to a head as a list of cuts and insertions, applied in place: bytes that stay are moved, not serialised
//! again, and the new head ends where the old one did, in front of its body. What is changed is decided elsewhere.

/// Changes to one head, in order of position. The worker reuses it for every head, so that it allocates only to grow.
#[derive(Debug, Default)]
pub struct Edits {
    list: Vec<Edit>,
    text: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Edit {
    at: usize,
    cut: usize,
    text_at: usize,
    text_len: usize,
}

impl Edits {
    pub fn clear(&mut self) {
        self.list.clear();
        self.text.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Removes `len` bytes at `at`.
    pub fn cut(&mut self, at: usize, len: usize) {
        self.replace(at, len, &[]);
    }

    /// Replaces `len` bytes at `at` with the concatenated parts. Edits may be given in any order; the ranges that they
    /// replace must not overlap. Insertions at one position keep the order in which they are given.
    pub fn replace(&mut self, at: usize, len: usize, parts: &[&[u8]]) {
        let text_at = self.text.len();
        for part in parts {
            self.text.extend_from_slice(part);
        }
        let edit = Edit { at, cut: len, text_at, text_len: self.text.len() - text_at };
        if self.list.last().is_none_or(|last| last.at <= at) {
            return self.list.push(edit);
        }
        let index = self.list.iter().rposition(|e| e.at <= at).map_or(0, |i| i + 1);
        self.list.insert(index, edit);
    }

    /// Bytes of all insertions: the space that `apply` needs before the head.
    pub fn inserted(&self) -> usize {
        self.text.len()
    }

    /// Rewrites `store[head..end]` and returns where the new head begins; it ends at `end`. `inserted()` bytes before
    /// `head` must be free.
    pub fn apply(&self, store: &mut [u8], head: usize, end: usize) -> usize {
        let shift = self.inserted();
        if self.list.is_empty() || shift > head {
            return head;
        }
        // All bytes move left by the length of the insertions; then, from the end, each piece moves right to its place.
        // The bytes behind the last edit, mostly the empty line, do not move.
        let tail = self.list.last().map_or(0, |e| e.at + e.cut);
        store.copy_within(head..head + tail, head - shift);
        let old = head - shift;
        let mut to = head + tail;
        let mut from = tail;
        debug_assert!(to <= end);
        for edit in self.list.iter().rev() {
            let piece = from - (edit.at + edit.cut);
            to -= piece;
            if piece > 0 {
                store.copy_within(old + from - piece..old + from, to);
            }
            let text = self.text.get(edit.text_at..edit.text_at + edit.text_len).unwrap_or_default();
            to -= text.len();
            if let Some(target) = store.get_mut(to..to + text.len()) {
                target.copy_from_slice(text);
            }
            from = edit.at;
        }
        to -= from;
        if to != old {
            store.copy_within(old..old + from, to);
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::Edits;

    fn applied(head: &[u8], edits: &Edits) -> Vec<u8> {
        let mut store = vec![b'.'; 64];
        store.extend_from_slice(head);
        store.extend_from_slice(b"body");
        let end = 64 + head.len();
        let start = edits.apply(&mut store, 64, end);
        assert_eq!(&store[end..], b"body");
        store[start..end].to_vec()
    }

    #[test]
    fn edits_in_place_equal_edits_of_a_copy() {
        let head = b"0123456789abcdef";
        let mut random = 7u32;
        let mut draw = |n: usize| {
            random = random.wrapping_mul(1664525).wrapping_add(1013904223);
            (random >> 8) as usize % n
        };
        for _ in 0..5000 {
            let mut edits = Edits::default();
            let (mut expected, mut at, mut done) = (Vec::new(), 0, 0);
            while at < head.len() && draw(4) > 0 {
                at += draw(4);
                let cut = draw(4).min(head.len().saturating_sub(at));
                if at > head.len() {
                    break;
                }
                let text = &b"XYZW"[..draw(5)];
                edits.replace(at, cut, &[text]);
                expected.extend_from_slice(&head[done..at]);
                expected.extend_from_slice(text);
                at += cut;
                done = at;
                at += 1;
            }
            expected.extend_from_slice(&head[done..]);
            assert_eq!(applied(head, &edits), expected, "{edits:?}");
        }
    }
}
