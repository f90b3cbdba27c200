//! What we believe of each container, and what an event or a list changes in that belief. Pure: no engine, no clock.
//!
//! Events give speed, lists give truth. Both end here, so that neither can tell of the same death twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::plan::Mark;
use crate::control::runtime::InstanceId;

/// SIGINT, SIGQUIT, SIGKILL, SIGTERM: after one of these a container is on its way out.
const ENDING_SIGNALS: [u32; 4] = [2, 3, 9, 15];

/// Ours by instance number, guests (started by others) by theirs.
#[derive(Debug, Default)]
pub struct InstanceTable {
    ours: BTreeMap<u64, Entry>,
    guests: BTreeMap<u64, Guest>,
    guests_ever: u64,
    /// Ringway ends: no slot will be filled again.
    pub closing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Arc<str>,
    /// Known once the engine has made it.
    pub container: Option<String>,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `start` is under way.
    Starting,
    Running,
    /// Somebody else asked it to stop.
    Stopping,
    /// We are ending it.
    Ending,
    /// Told of as exited, or given up: what is left of it is to be removed.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Guest {
    container: String,
    stopping: bool,
}

/// What an event says about one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Started,
    Killed {
        signal: u32,
    },
    Died {
        status: i64,
    },
    Paused,
    /// From the replicas' network, or from a guest's.
    Disconnected,
}

/// One line of the engine's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub container: String,
    /// Running, and not paused.
    pub serving: bool,
    /// Set for a container of our cluster.
    pub mark: Option<Mark>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An instance of ours ended, or serves no more: tell, and remove what is left of the container.
    Exited {
        instance: u64,
        why: String,
    },
    Stopping {
        instance: InstanceId,
        why: String,
    },
    /// A guest is gone.
    Left {
        instance: u64,
        why: String,
    },
    /// A container that may want to be balanced: look at its labels.
    Look {
        container: String,
    },
    /// The list lacks it: ask the engine about it, since the list may be older than our belief.
    Doubt {
        instance: u64,
        container: String,
    },
    /// A container of ours that nobody needs: remove it.
    Stray {
        container: String,
    },
}

impl InstanceTable {
    pub fn begin(&mut self, instance: u64, name: Arc<str>) {
        self.ours.insert(instance, Entry { name, container: None, phase: Phase::Starting });
    }

    pub fn adopt(&mut self, instance: u64, name: Arc<str>, container: String) {
        self.ours.insert(instance, Entry { name, container: Some(container), phase: Phase::Running });
    }

    pub fn made(&mut self, instance: u64, container: &str) {
        if let Some(entry) = self.ours.get_mut(&instance) {
            entry.container = Some(container.to_owned());
        }
    }

    /// A start came to its end: true if the instance is still wanted and alive.
    pub fn started(&mut self, instance: u64) -> bool {
        match self.ours.get_mut(&instance) {
            Some(entry) if entry.phase == Phase::Starting => {
                entry.phase = Phase::Running;
                true
            }
            _ => false,
        }
    }

    pub fn entry(&self, instance: u64) -> Option<&Entry> {
        self.ours.get(&instance)
    }

    /// We end it from here on. Gives what it was before.
    pub fn end(&mut self, instance: u64) -> Option<Entry> {
        let entry = self.ours.get_mut(&instance)?;
        let before = entry.clone();
        entry.phase = Phase::Ending;
        Some(before)
    }

    /// Could not be removed now: the next list will find it a stray.
    pub fn give_up(&mut self, instance: u64) {
        if let Some(entry) = self.ours.get_mut(&instance) {
            entry.phase = Phase::Gone;
        }
    }

    pub fn forget(&mut self, instance: u64) {
        self.ours.remove(&instance);
    }

    /// Containers of instances before `heir` that may still hold `name`.
    pub fn holders(&self, name: &str, heir: u64) -> Vec<(u64, String)> {
        let held = self.ours.range(..heir).filter(|(_, entry)| &*entry.name == name);
        held.filter_map(|(instance, entry)| Some((*instance, entry.container.clone()?))).collect()
    }

    /// True while something of ours is still to be removed.
    pub fn is_clearing(&self) -> bool {
        self.ours.values().any(|entry| matches!(entry.phase, Phase::Ending | Phase::Gone))
    }

    /// True once a later instance is to fill the slot of `instance`.
    pub fn has_heir(&self, instance: u64) -> bool {
        let Some(old) = self.ours.get(&instance) else { return false };
        self.ours.range(instance + 1..).any(|(_, entry)| entry.name == old.name)
    }

    /// True once another instance runs under the name of `instance`, or none ever will.
    pub fn is_replaced(&self, instance: u64) -> bool {
        if self.closing {
            return true;
        }
        let Some(old) = self.ours.get(&instance) else { return true };
        self.ours.iter().any(|(other, entry)| {
            *other > instance && entry.name == old.name && matches!(entry.phase, Phase::Running | Phase::Stopping)
        })
    }

    /// A guest's instance number, unless it is known already.
    pub fn welcome(&mut self, container: &str) -> Option<u64> {
        if self.guest(container).is_some() {
            return None;
        }
        let instance = self.guests_ever;
        self.guests_ever += 1;
        self.guests.insert(instance, Guest { container: container.to_owned(), stopping: false });
        Some(instance)
    }

    pub fn notice(&mut self, container: &str, notice: Notice) -> Option<Verdict> {
        if let Some((instance, entry)) = self.ours.iter_mut().find(|(_, e)| e.container.as_deref() == Some(container)) {
            return entry.notice(*instance, notice);
        }
        if let Some(instance) = self.guest(container) {
            return self.guest_notice(instance, notice);
        }
        (notice == Notice::Started).then(|| Verdict::Look { container: container.to_owned() })
    }

    /// The engine confirmed that an instance serves no more.
    pub fn confirm_gone(&mut self, instance: u64, why: String) -> Option<Verdict> {
        self.ours.get_mut(&instance)?.exit(instance, why)
    }

    /// Holds a list against our belief.
    pub fn compare(&self, seen: &[Seen], life: &str) -> Vec<Verdict> {
        let serving = |id: &str| seen.iter().any(|s| s.serving && s.container == id);
        let mut verdicts = Vec::new();
        for (instance, entry) in &self.ours {
            if let (Phase::Running | Phase::Stopping, Some(id)) = (entry.phase, &entry.container)
                && !serving(id)
            {
                verdicts.push(Verdict::Doubt { instance: *instance, container: id.clone() });
            }
        }
        for (instance, guest) in &self.guests {
            if !serving(&guest.container) {
                verdicts.push(Verdict::Left { instance: *instance, why: "no longer listed as running".into() });
            }
        }
        verdicts.extend(seen.iter().filter_map(|s| self.unexpected(s, life)));
        verdicts
    }

    pub fn part(&mut self, guest: u64) {
        self.guests.remove(&guest);
    }

    fn unexpected(&self, seen: &Seen, life: &str) -> Option<Verdict> {
        let container = seen.container.clone();
        match &seen.mark {
            None => (seen.serving && self.guest(&container).is_none()).then_some(Verdict::Look { container }),
            // Another Ringway under the same cluster name: hands off.
            Some(mark) if mark.life != life && self.entry_of(&container).is_none() => None,
            Some(mark) => match self.entry_of(&container).or_else(|| self.ours.get(&mark.instance)) {
                Some(entry) if entry.phase != Phase::Gone => None,
                _ => Some(Verdict::Stray { container }),
            },
        }
    }

    fn entry_of(&self, container: &str) -> Option<&Entry> {
        self.ours.values().find(|entry| entry.container.as_deref() == Some(container))
    }

    fn guest(&self, container: &str) -> Option<u64> {
        self.guests.iter().find(|(_, guest)| guest.container == container).map(|(instance, _)| *instance)
    }

    fn guest_notice(&mut self, instance: u64, notice: Notice) -> Option<Verdict> {
        let left = |why: String| Some(Verdict::Left { instance, why });
        let foreign = InstanceId::Foreign(instance);
        match notice {
            Notice::Started => None,
            Notice::Killed { signal } => {
                let guest = self.guests.get_mut(&instance)?;
                let first = !std::mem::replace(&mut guest.stopping, true);
                (first && ENDING_SIGNALS.contains(&signal))
                    .then(|| Verdict::Stopping { instance: foreign, why: format!("somebody sent it signal {signal}") })
            }
            Notice::Died { status } => left(ending(status)),
            Notice::Paused => left("it was paused".into()),
            Notice::Disconnected => left("it was taken off its network".into()),
        }
    }
}

impl Entry {
    fn notice(&mut self, instance: u64, notice: Notice) -> Option<Verdict> {
        match notice {
            Notice::Started => None,
            Notice::Killed { signal } if self.phase == Phase::Running && ENDING_SIGNALS.contains(&signal) => {
                self.phase = Phase::Stopping;
                let instance = InstanceId::Managed(instance);
                Some(Verdict::Stopping { instance, why: format!("somebody sent it signal {signal}") })
            }
            Notice::Killed { .. } => None,
            Notice::Died { status } => self.exit(instance, ending(status)),
            Notice::Paused => self.exit(instance, "somebody paused it".into()),
            Notice::Disconnected => self.exit(instance, "somebody took it off its network".into()),
        }
    }

    /// Told once. An instance that never came up is told of by its `start`; one that we end, by its `stop`.
    fn exit(&mut self, instance: u64, why: String) -> Option<Verdict> {
        match self.phase {
            Phase::Running | Phase::Stopping => {
                self.phase = Phase::Gone;
                Some(Verdict::Exited { instance, why })
            }
            Phase::Starting => {
                self.phase = Phase::Gone;
                None
            }
            Phase::Ending | Phase::Gone => None,
        }
    }
}

/// An exit status in an operator's words.
pub fn ending(status: i64) -> String {
    match status {
        129..=159 => format!("killed by signal {}", status - 128),
        other => format!("exit status {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: &str = "now";

    fn running() -> InstanceTable {
        let mut table = InstanceTable::default();
        table.begin(1, "server1".into());
        table.made(1, "aaa");
        assert!(table.started(1));
        table
    }

    fn mark(instance: u64, life: &str) -> Option<Mark> {
        Some(Mark { slot: "server1".into(), instance, life: life.into(), plan: String::new() })
    }

    fn seen(container: &str, serving: bool, mark: Option<Mark>) -> Seen {
        Seen { container: container.into(), serving, mark }
    }

    #[test]
    fn a_death_is_told_once() {
        let mut table = running();
        let why = "killed by signal 9".to_owned();
        assert_eq!(table.notice("aaa", Notice::Died { status: 137 }), Some(Verdict::Exited { instance: 1, why }));
        assert_eq!(table.notice("aaa", Notice::Disconnected), None);
        assert_eq!(table.confirm_gone(1, "gone".into()), None);
        assert_eq!(table.compare(&[], LIFE), []);
    }

    #[test]
    fn a_stop_by_somebody_else_drains_first_and_our_own_does_not() {
        let mut table = running();
        let why = "somebody sent it signal 15".to_owned();
        assert_eq!(table.notice("aaa", Notice::Killed { signal: 1 }), None);
        assert_eq!(
            table.notice("aaa", Notice::Killed { signal: 15 }),
            Some(Verdict::Stopping { instance: InstanceId::Managed(1), why })
        );
        assert_eq!(table.notice("aaa", Notice::Killed { signal: 9 }), None);
        assert!(matches!(table.notice("aaa", Notice::Died { status: 0 }), Some(Verdict::Exited { .. })));
        let mut table = running();
        assert_eq!(table.end(1).unwrap().phase, Phase::Running);
        assert_eq!(table.notice("aaa", Notice::Killed { signal: 15 }), None);
        assert_eq!(table.notice("aaa", Notice::Died { status: 0 }), None);
    }

    #[test]
    fn silence_by_pause_or_disconnect_counts_as_an_end() {
        for notice in [Notice::Paused, Notice::Disconnected] {
            assert!(matches!(running().notice("aaa", notice), Some(Verdict::Exited { instance: 1, .. })));
        }
    }

    #[test]
    fn one_that_dies_while_it_starts_fails_its_start() {
        let mut table = InstanceTable::default();
        table.begin(1, "server1".into());
        table.made(1, "aaa");
        assert_eq!(table.notice("aaa", Notice::Died { status: 1 }), None);
        assert!(!table.started(1));
    }

    #[test]
    fn a_list_casts_doubt_on_what_it_lacks_and_finds_strays() {
        let mut table = running();
        let doubt = [Verdict::Doubt { instance: 1, container: "aaa".into() }];
        assert_eq!(table.compare(&[seen("aaa", true, mark(1, LIFE))], LIFE), []);
        assert_eq!(table.compare(&[seen("aaa", false, mark(1, LIFE))], LIFE), doubt);
        assert_eq!(table.compare(&[], LIFE), doubt);
        let stray = Verdict::Stray { container: "bbb".into() };
        let list =
            [seen("aaa", true, mark(1, LIFE)), seen("bbb", true, mark(9, LIFE)), seen("ccc", true, mark(9, "other"))];
        assert_eq!(table.compare(&list, LIFE), [stray]);
        table.begin(9, "server9".into());
        assert_eq!(table.compare(&list, LIFE), [], "made a moment ago, its id not yet known to us");
        table.end(1);
        table.give_up(1);
        assert_eq!(table.compare(&list[..1], LIFE), [Verdict::Stray { container: "aaa".into() }]);
    }

    #[test]
    fn adopted_ones_are_ours_whatever_life_made_them() {
        let mut table = InstanceTable::default();
        table.adopt(4, "server1".into(), "aaa".into());
        assert_eq!(table.compare(&[seen("aaa", true, mark(4, "earlier"))], LIFE), []);
        assert!(matches!(table.notice("aaa", Notice::Died { status: 1 }), Some(Verdict::Exited { instance: 4, .. })));
    }

    #[test]
    fn guests_come_and_go_under_numbers_of_their_own() {
        let mut table = InstanceTable::default();
        let look = Verdict::Look { container: "zzz".into() };
        assert_eq!(table.notice("zzz", Notice::Died { status: 0 }), None);
        assert_eq!(table.notice("zzz", Notice::Started), Some(look.clone()));
        assert_eq!(table.compare(&[seen("zzz", true, None)], LIFE), [look]);
        let first = table.welcome("zzz").unwrap();
        assert_eq!(table.welcome("zzz"), None);
        assert!(matches!(table.notice("zzz", Notice::Killed { signal: 15 }), Some(Verdict::Stopping { .. })));
        let why = "exit status 0".to_owned();
        assert_eq!(table.notice("zzz", Notice::Died { status: 0 }), Some(Verdict::Left { instance: first, why }));
        table.part(first);
        assert_ne!(table.welcome("zzz"), Some(first), "a number is never used twice");
    }

    #[test]
    fn a_name_is_handed_over_when_the_next_instance_runs() {
        let mut table = running();
        table.notice("aaa", Notice::Paused);
        table.begin(2, "server1".into());
        assert_eq!(table.holders("server1", 2), [(1, "aaa".to_owned())]);
        assert_eq!(table.holders("server1", 1), [], "nobody takes it from one that came later");
        assert!(table.has_heir(1) && !table.has_heir(2));
        assert!(!table.is_replaced(1));
        table.made(2, "bbb");
        assert!(table.started(2));
        assert!(table.is_replaced(1));
    }
}
