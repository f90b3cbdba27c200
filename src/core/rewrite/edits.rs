//! A head's changes as a list of cuts and insertions, carried out in place: the bytes that stay are moved, not
//! serialised again, and the new head ends exactly where the old one did, against its body.

/// Changes to one head, in order of position. Kept by the worker and used again, so it allocates only to grow.
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

    /// Leaves out `len` bytes at `at`.
    pub fn cut(&mut self, at: usize, len: usize) {
        self.replace(at, len, &[]);
    }

    /// Puts the parts, one after the other, in the place of `len` bytes at `at`. Positions may come in any order
    /// but may not overlap.
    pub fn replace(&mut self, at: usize, len: usize, parts: &[&[u8]]) {
        let text_at = self.text.len();
        for part in parts {
            self.text.extend_from_slice(part);
        }
        let edit = Edit { at, cut: len, text_at, text_len: self.text.len() - text_at };
        if self.list.last().is_none_or(|last| last.at <= at) {
            return self.list.push(edit);
        }
        let place = self.list.iter().rposition(|e| e.at <= at).map_or(0, |i| i + 1);
        self.list.insert(place, edit);
    }

    /// Bytes that the insertions need in front of the head.
    pub fn inserted(&self) -> usize {
        self.text.len()
    }

    /// Rewrites `store[head..end]` and returns where the new head begins; it ends at `end`. The caller guarantees
    /// `inserted()` free bytes before `head`.
    pub fn apply(&self, store: &mut [u8], head: usize, end: usize) -> usize {
        let shift = self.inserted();
        if self.list.is_empty() || shift > head {
            return head;
        }
        // Everything goes left by all that will be inserted; then, from the end, each piece moves right to its place.
        // The bytes behind the last edit (the empty line, mostly) are in place already.
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
            if let Some(place) = store.get_mut(to..to + text.len()) {
                place.copy_from_slice(text);
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
    fn cuts_and_insertions_anywhere_give_what_splicing_a_vector_gives() {
        let head = b"0123456789abcdef";
        let mut random = 7u32;
        let mut draw = |n: usize| {
            random = random.wrapping_mul(1664525).wrapping_add(1013904223);
            (random >> 8) as usize % n
        };
        for _ in 0..5000 {
            let mut edits = Edits::default();
            let (mut want, mut at, mut done) = (Vec::new(), 0, 0);
            while at < head.len() && draw(4) > 0 {
                at += draw(4);
                let cut = draw(4).min(head.len().saturating_sub(at));
                if at > head.len() {
                    break;
                }
                let text = &b"XYZW"[..draw(5)];
                edits.replace(at, cut, &[text]);
                want.extend_from_slice(&head[done..at]);
                want.extend_from_slice(text);
                at += cut;
                done = at;
                at += 1;
            }
            want.extend_from_slice(&head[done..]);
            assert_eq!(applied(head, &edits), want, "{edits:?}");
        }
    }
}
