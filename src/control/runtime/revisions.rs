//! The settings that a service's instances are started with, of each configuration that is still needed. Which of them an
//! instance gets is the registry's decision.

use std::collections::BTreeMap;

/// Settings of one service's runtime: the later a configuration brought them, the higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Those of an earlier process that this one does not have: an adopted instance was started with them.
    pub const UNKNOWN: Revision = Revision(0);
    /// Those that the runtime was opened with.
    pub const FIRST: Revision = Revision(1);
}

#[derive(Debug)]
pub struct Revisions<T> {
    known: BTreeMap<Revision, T>,
    next: u64,
}

impl<T: Clone + PartialEq> Revisions<T> {
    pub fn new(first: T) -> Revisions<T> {
        Revisions { known: BTreeMap::from([(Revision::FIRST, first)]), next: Revision::FIRST.0 + 1 }
    }

    /// The newest of those.
    pub fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<Revision> {
        self.known.iter().rev().find(|(_, known)| is_it(known)).map(|(revision, _)| *revision)
    }

    /// The settings of a configuration: those that are known keep their revision.
    pub fn take(&mut self, settings: T) -> Revision {
        if let Some(revision) = self.find(|known| *known == settings) {
            return revision;
        }
        let revision = Revision(self.next);
        self.next += 1;
        self.known.insert(revision, settings);
        revision
    }

    pub fn get(&self, revision: Revision) -> Option<&T> {
        self.known.get(&revision)
    }

    /// `None`: there are none of this revision.
    pub fn update(&mut self, revision: Revision, settings: T) -> Option<T> {
        self.known.get_mut(&revision).map(|known| std::mem::replace(known, settings))
    }

    /// Of the newest configuration.
    pub fn newest(&self) -> Option<&T> {
        self.known.last_key_value().map(|(_, settings)| settings)
    }

    pub fn all(&self) -> impl Iterator<Item = (Revision, &T)> {
        self.known.iter().map(|(revision, settings)| (*revision, settings))
    }

    /// All instances run with these, and no other settings will be asked for.
    pub fn settle(&mut self, revision: Revision) {
        if self.known.contains_key(&revision) {
            self.known.retain(|known, _| *known == revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_one_revision_until_others_are_settled() {
        let mut revisions = Revisions::new("a");
        assert_eq!(revisions.take("a"), Revision::FIRST);
        let second = revisions.take("b");
        assert_eq!((second, revisions.take("a"), revisions.take("b")), (Revision(2), Revision::FIRST, second));
        assert_eq!((revisions.get(Revision::FIRST), revisions.get(Revision::UNKNOWN)), (Some(&"a"), None));
        revisions.settle(Revision::FIRST);
        assert_eq!((revisions.get(second), revisions.newest()), (None, Some(&"a")));
        assert_eq!(revisions.take("b"), Revision(3), "a revision is never used again");
        revisions.settle(Revision(9));
        assert_eq!(revisions.get(Revision(3)), Some(&"b"), "what is not known settles nothing");
    }
}
