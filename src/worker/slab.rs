//! A slab with typed keys: vacant entries are used last in first out, and each has a generation, so that an event of a
//! closed connection never reaches the one that follows it at the same key.

use std::marker::PhantomData;

/// A key of one slab, which no other slab takes.
pub trait Key: Copy + Eq {
    fn from_index(index: u32) -> Self;
    fn index(self) -> u32;
}

/// Defines a key type.
macro_rules! key {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(u32);

        impl Key for $name {
            fn from_index(index: u32) -> $name {
                $name(index)
            }

            fn index(self) -> u32 {
                self.0
            }
        }
    };
}

key! {
    /// A client connection and its session.
    SessionId
}

key! {
    /// An upstream connection.
    UpstreamId
}

#[derive(Debug)]
pub struct Slab<K, T> {
    entries: Vec<Entry<T>>,
    vacant: Vec<u32>,
    key: PhantomData<K>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Generations wrap where tokens wrap.
const GENERATION_MASK: u32 = (1 << 30) - 1;

impl<K: Key, T> Slab<K, T> {
    pub fn new() -> Slab<K, T> {
        Slab { entries: Vec::new(), vacant: Vec::new(), key: PhantomData }
    }

    /// The key and generation that the next `insert` will use.
    pub fn next_key(&self) -> (K, u32) {
        let index = self.vacant.last().copied().unwrap_or(self.entries.len() as u32);
        (K::from_index(index), self.entries.get(index as usize).map_or(0, |entry| entry.generation))
    }

    pub fn insert(&mut self, value: T) -> K {
        let index = self.vacant.pop().unwrap_or(self.entries.len() as u32);
        match self.entries.get_mut(index as usize) {
            Some(entry) => entry.value = Some(value),
            None => self.entries.push(Entry { generation: 0, value: Some(value) }),
        }
        K::from_index(index)
    }

    pub fn generation(&self, key: K) -> Option<u32> {
        self.entries.get(key.index() as usize).map(|entry| entry.generation)
    }

    pub fn remove(&mut self, key: K) -> Option<T> {
        let entry = self.entries.get_mut(key.index() as usize)?;
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.vacant.push(key.index());
        Some(value)
    }

    pub fn get(&self, key: K) -> Option<&T> {
        self.entries.get(key.index() as usize)?.value.as_ref()
    }

    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.entries.get_mut(key.index() as usize)?.value.as_mut()
    }

    /// The key of the entry at `index`, if it is still of this generation.
    pub fn key_of(&self, index: u32, generation: u32) -> Option<K> {
        let entry = self.entries.get(index as usize)?;
        (entry.generation == generation && entry.value.is_some()).then(|| K::from_index(index))
    }

    pub fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    /// Keys in use, lowest first.
    pub fn keys(&self) -> impl Iterator<Item = K> + '_ {
        let used = self.entries.iter().enumerate().filter(|(_, entry)| entry.value.is_some());
        used.map(|(index, _)| K::from_index(index as u32))
    }

    pub fn values(&self) -> impl Iterator<Item = &T> + '_ {
        self.entries.iter().filter_map(|entry| entry.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_used_again_under_another_generation() {
        let mut slab: Slab<SessionId, &str> = Slab::new();
        let (first, second) = (slab.insert("a"), slab.insert("b"));
        assert_eq!((slab.len(), slab.generation(first)), (2, Some(0)));
        assert_eq!((slab.remove(first), slab.remove(first), slab.len()), (Some("a"), None, 1));
        assert_eq!(slab.key_of(first.index(), 0), None);
        assert_eq!(slab.next_key(), (first, 1));
        assert_eq!(slab.insert("c"), first);
        assert_eq!((slab.key_of(first.index(), 1), slab.get(first), slab.len()), (Some(first), Some(&"c"), 2));
        assert_eq!(slab.keys().collect::<Vec<_>>(), [first, second]);
        assert_eq!(slab.values().copied().collect::<Vec<_>>(), ["c", "b"]);
    }

    #[test]
    fn generations_wrap_where_tokens_do() {
        let mut slab: Slab<SessionId, ()> = Slab::new();
        let key = slab.insert(());
        slab.entries[0].generation = GENERATION_MASK;
        assert_eq!(GENERATION_MASK, 0x3fff_ffff, "30 bits");
        slab.remove(key);
        assert_eq!(slab.next_key(), (key, 0));
    }
}
