//! Containers that others started and labelled: which of them are balanced, where, and why the others are not. Pure.
//!
//! An event says that something changed; what it is now, an inspection says. A result counts only if no event came since
//! its inspection was asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::container_event::ContainerEvent;
use super::driver::short;
use super::instance_table::{Action, ListedContainer};
use crate::control::runtime::InstanceId;

#[derive(Debug, Default)]
pub struct ForeignTable {
    balanced: BTreeMap<u64, Balanced>,
    /// Of those that were ever balanced.
    count: u64,
    /// Why a container is not balanced though its label asks for it.
    refused: BTreeMap<String, String>,
    /// Inspections under way, by container.
    inspections: BTreeMap<String, u64>,
    inspection_count: u64,
}

#[derive(Debug)]
struct Balanced {
    candidate: Candidate,
    /// It was signalled to stop.
    stopping: bool,
}

/// A container that may be balanced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub container: String,
    pub name: Arc<str>,
    pub address: SocketAddr,
    /// The network that `address` is on. `None`: a port of the host.
    pub network: Option<String>,
    pub weight: u32,
    /// What `docker stop` sends it.
    pub stop_signal: Option<u32>,
    /// Why it is dialled there.
    pub why: String,
}

/// What an inspection says of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// The engine did not answer: nothing is known. The next list asks again.
    Unanswered,
    /// It does not run, or does not ask to be balanced by this service.
    Uninterested,
    /// It asks, but cannot be: why.
    Unfit(String),
    Fit(Candidate),
}

impl ForeignTable {
    fn instance(&self, container: &str) -> Option<u64> {
        let is_it = |balanced: &Balanced| balanced.candidate.container == container;
        self.balanced.iter().find(|(_, balanced)| is_it(balanced)).map(|(instance, _)| *instance)
    }

    pub fn on_event(&mut self, container: &str, event: &ContainerEvent) -> Vec<Action> {
        let instance = self.instance(container);
        let network = instance.and_then(|instance| self.balanced[&instance].candidate.network.clone());
        if let Some(why) = event.end_reason(network.as_deref()) {
            let is_asked = self.inspections.remove(container).is_some();
            let mut actions = instance.map_or_else(Vec::new, |instance| self.leave(instance, why));
            // It may be in reach on another network.
            if matches!(event, ContainerEvent::Disconnected { .. }) && (is_asked || instance.is_some()) {
                actions.push(self.inspect(container));
            }
            return actions;
        }
        match (event, instance) {
            (ContainerEvent::Started | ContainerEvent::Connected { .. }, _) => vec![self.inspect(container)],
            (_, Some(instance)) => self.signalled(instance, event).into_iter().collect(),
            (_, None) => Vec::new(),
        }
    }

    fn signalled(&mut self, instance: u64, event: &ContainerEvent) -> Option<Action> {
        let balanced = self.balanced.get_mut(&instance)?;
        let why = event.stop_reason(balanced.candidate.stop_signal)?;
        let was_stopping = std::mem::replace(&mut balanced.stopping, true);
        (!was_stopping).then_some(Action::Stopping { instance: InstanceId::Foreign(instance), why })
    }

    /// It still runs, long after it was signalled to stop: it is balanced again if it answers.
    pub fn outlived_its_stop(&mut self, instance: u64, why: String) -> Vec<Action> {
        let Some(container) = self.balanced.get(&instance).map(|balanced| balanced.candidate.container.clone()) else {
            return Vec::new();
        };
        let mut actions = self.leave(instance, why);
        actions.push(self.inspect(&container));
        actions
    }

    /// The result of an inspection. `is_managed` says whether a replica of ours has a name.
    pub fn on_inspected(
        &mut self,
        container: &str,
        inspection: u64,
        found: Inspected,
        is_managed: impl Fn(&str) -> bool,
    ) -> Vec<Action> {
        if self.inspections.get(container) != Some(&inspection) {
            return Vec::new();
        }
        self.inspections.remove(container);
        let found = match found {
            Inspected::Fit(candidate) => self.with_free_name(candidate, is_managed),
            other => other,
        };
        match (self.instance(container), found) {
            (Some(instance), Inspected::Fit(candidate)) if self.balanced[&instance].candidate == candidate => {
                Vec::new()
            }
            (_, Inspected::Unanswered) => Vec::new(),
            (Some(instance), found) => {
                let mut actions = self.leave(instance, "it is not where it was".into());
                actions.extend(self.admit(container, found));
                actions
            }
            (None, found) => self.admit(container, found).into_iter().collect(),
        }
    }

    /// The first container of a name keeps it.
    fn with_free_name(&self, candidate: Candidate, is_managed: impl Fn(&str) -> bool) -> Inspected {
        let name = &candidate.name;
        let has_it =
            |other: &&Balanced| other.candidate.name == *name && other.candidate.container != candidate.container;
        match self.balanced.values().find(has_it) {
            Some(other) => {
                let first = short(&other.candidate.container);
                Inspected::Unfit(format!("{first} has the name {name}; it joins when that one leaves"))
            }
            None if is_managed(name) => Inspected::Unfit(format!("a replica of ours has the name {name}")),
            None => Inspected::Fit(candidate),
        }
    }

    fn admit(&mut self, container: &str, found: Inspected) -> Option<Action> {
        match found {
            Inspected::Fit(candidate) => {
                self.refused.remove(container);
                let instance = self.count;
                self.count += 1;
                self.balanced.insert(instance, Balanced { candidate: candidate.clone(), stopping: false });
                Some(Action::Join { instance, candidate })
            }
            Inspected::Unfit(why) => {
                let before = self.refused.insert(container.to_owned(), why.clone());
                (before.as_ref() != Some(&why)).then(|| Action::Refuse { container: container.to_owned(), why })
            }
            Inspected::Uninterested | Inspected::Unanswered => {
                self.refused.remove(container);
                None
            }
        }
    }

    /// It is balanced no more. Those that were refused are looked at again: one of them may wait for its name.
    fn leave(&mut self, instance: u64, why: String) -> Vec<Action> {
        self.balanced.remove(&instance);
        let waiting: Vec<String> = self.refused.keys().cloned().collect();
        let again = waiting.into_iter().map(|container| self.inspect(&container));
        [Action::Left { instance, why }].into_iter().chain(again).collect()
    }

    /// Supersedes an inspection of it under way.
    fn inspect(&mut self, container: &str) -> Action {
        self.inspection_count += 1;
        self.inspections.insert(container.to_owned(), self.inspection_count);
        Action::Inspect { container: container.to_owned(), inspection: self.inspection_count }
    }

    /// Compares the engine's list with the table.
    pub fn compare(&mut self, list: &[ListedContainer]) -> Vec<Action> {
        let serving = |id: &str| list.iter().find(|listed| listed.serving && listed.container == id);
        self.refused.retain(|container, _| serving(container).is_some());
        let gone = self.balanced.iter().filter(|(_, balanced)| serving(&balanced.candidate.container).is_none());
        let gone: Vec<u64> = gone.map(|(instance, _)| *instance).collect();
        let mut actions: Vec<Action> =
            gone.into_iter().flat_map(|instance| self.leave(instance, "no longer listed as running".into())).collect();
        for listed in list.iter().filter(|listed| listed.serving && listed.labels.is_none()) {
            let known = self.instance(&listed.container).map(|instance| &self.balanced[&instance].candidate);
            let is_there = known.is_some_and(|candidate| candidate.is_listed_at(listed));
            if !is_there && !self.inspections.contains_key(&listed.container) {
                actions.push(self.inspect(&listed.container));
            }
        }
        actions
    }
}

impl Candidate {
    fn is_listed_at(&self, listed: &ListedContainer) -> bool {
        let on_network = |network: &String| listed.addresses.get(network) == Some(&self.address.ip());
        self.network.as_ref().is_none_or(on_network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(container: &str, name: &str, host: u8) -> Candidate {
        let address = SocketAddr::from(([10, 0, 0, host], 80));
        let (network, why) = (Some("net".into()), String::new());
        Candidate {
            container: container.into(),
            name: name.into(),
            address,
            network,
            weight: 1,
            stop_signal: Some(28),
            why,
        }
    }

    /// What follows from an event that asks for an inspection, and from its result.
    fn inspected(table: &mut ForeignTable, event: &ContainerEvent, candidate: Candidate) -> Vec<Action> {
        let asked = table.on_event(&candidate.container, event);
        let Some(Action::Inspect { container, inspection }) = asked.last() else { panic!("{asked:?}") };
        table.on_inspected(container, *inspection, Inspected::Fit(candidate), |_| false)
    }

    fn joined(table: &mut ForeignTable, candidate: Candidate) -> u64 {
        let actions = inspected(table, &ContainerEvent::Started, candidate);
        let [Action::Join { instance, .. }] = actions[..] else { panic!("{actions:?}") };
        instance
    }

    fn listed(container: &str, host: u8) -> ListedContainer {
        let addresses = BTreeMap::from([("net".into(), [10, 0, 0, host].into())]);
        ListedContainer { container: container.into(), serving: true, labels: None, addresses }
    }

    fn left(instance: u64, why: &str) -> Action {
        Action::Left { instance, why: why.into() }
    }

    fn disconnected(network: &str) -> ContainerEvent {
        ContainerEvent::Disconnected { network: network.into() }
    }

    fn connected(network: &str) -> ContainerEvent {
        ContainerEvent::Connected { network: network.into() }
    }

    const TERM: ContainerEvent = ContainerEvent::Killed { signal: 15 };
    const DIED: ContainerEvent = ContainerEvent::Died { status: 0 };

    #[test]
    fn a_container_gets_a_new_number_each_time_it_joins_and_leaves_once() {
        let mut table = ForeignTable::default();
        assert_eq!(table.on_event("a", &DIED), []);
        let first = joined(&mut table, candidate("a", "s", 2));
        assert_eq!(table.on_event("a", &DIED), [left(first, "exit status 0")]);
        assert_eq!(table.on_event("a", &DIED), []);
        let second = joined(&mut table, candidate("a", "s", 2));
        assert_ne!(second, first);
        let stopped = table.on_event("a", &ContainerEvent::Killed { signal: 19 });
        assert_eq!(stopped, [left(second, "it was stopped by SIGSTOP")]);
    }

    #[test]
    fn a_stop_is_noticed_after_a_signal_that_is_none_and_has_a_way_back() {
        let mut table = ForeignTable::default();
        let first = joined(&mut table, candidate("a", "s", 2));
        assert_eq!(table.on_event("a", &ContainerEvent::Killed { signal: 1 }), []);
        let stopping = Action::Stopping { instance: InstanceId::Foreign(first), why: "it was sent signal 15".into() };
        assert_eq!(table.on_event("a", &TERM), [stopping]);
        assert_eq!(table.on_event("a", &ContainerEvent::Killed { signal: 28 }), [], "its own, and told already");
        let actions = table.outlived_its_stop(first, "it runs on".into());
        let [Action::Left { .. }, Action::Inspect { inspection, .. }] = actions[..] else { panic!("{actions:?}") };
        let again = table.on_inspected("a", inspection, Inspected::Fit(candidate("a", "s", 2)), |_| false);
        assert!(matches!(again[..], [Action::Join { .. }]), "{again:?}");
        assert_eq!(table.outlived_its_stop(first, String::new()), []);
    }

    #[test]
    fn a_container_is_dialled_where_it_is_now() {
        let mut table = ForeignTable::default();
        let first = joined(&mut table, candidate("a", "s", 2));
        let gone = table.on_event("a", &disconnected("net"));
        assert_eq!(gone[0], left(first, "it was disconnected from its network"));
        let second = joined_after(&mut table, &connected("net"), candidate("a", "s", 7));
        assert_eq!(table.on_event("a", &disconnected("another")), [], "it is not dialled there");
        assert_eq!(inspected(&mut table, &connected("another"), candidate("a", "s", 7)), []);
        let moved = inspected(&mut table, &connected("net"), candidate("a", "s", 9));
        assert!(matches!(&moved[..], [Action::Left { instance, .. }, Action::Join { .. }] if *instance == second));
    }

    fn joined_after(table: &mut ForeignTable, event: &ContainerEvent, candidate: Candidate) -> u64 {
        let actions = inspected(table, event, candidate);
        let [Action::Join { instance, .. }] = actions[..] else { panic!("{actions:?}") };
        instance
    }

    #[test]
    fn the_list_shows_an_address_that_no_event_told() {
        let mut table = ForeignTable::default();
        let first = joined(&mut table, candidate("a", "s", 2));
        assert_eq!(table.compare(&[listed("a", 2)]), []);
        assert!(matches!(table.compare(&[listed("a", 3)])[..], [Action::Inspect { .. }]));
        assert_eq!(table.compare(&[listed("a", 3)]), [], "asked already");
        assert_eq!(table.compare(&[]), [left(first, "no longer listed as running")]);
    }

    #[test]
    fn an_inspection_that_an_event_overtook_says_nothing() {
        let mut table = ForeignTable::default();
        let old = table.on_event("a", &ContainerEvent::Started);
        let [Action::Inspect { inspection, .. }] = old[..] else { panic!("{old:?}") };
        table.on_event("a", &DIED);
        assert_eq!(table.on_inspected("a", inspection, Inspected::Fit(candidate("a", "s", 2)), |_| false), []);
        table.on_event("a", &ContainerEvent::Started);
        assert_eq!(table.on_inspected("a", inspection, Inspected::Fit(candidate("a", "s", 2)), |_| false), []);
    }

    #[test]
    fn the_first_of_a_name_keeps_it_and_the_second_joins_when_it_leaves() {
        let mut table = ForeignTable::default();
        let first = joined(&mut table, candidate("a", "s", 2));
        let why = "a has the name s; it joins when that one leaves".to_owned();
        let refused = inspected(&mut table, &ContainerEvent::Started, candidate("b", "s", 3));
        assert_eq!(refused, [Action::Refuse { container: "b".into(), why }]);
        let again = table.compare(&[listed("a", 2), listed("b", 3)]);
        let [Action::Inspect { inspection, .. }] = again[..] else { panic!("{again:?}") };
        let fit = || Inspected::Fit(candidate("b", "s", 3));
        assert_eq!(table.on_inspected("b", inspection, fit(), |_| false), [], "said once");
        let actions = table.on_event("a", &DIED);
        assert_eq!(actions[0], left(first, "exit status 0"));
        let Action::Inspect { inspection, .. } = actions[1] else { panic!("{actions:?}") };
        assert!(matches!(table.on_inspected("b", inspection, fit(), |_| false)[..], [Action::Join { .. }]));
    }

    #[test]
    fn a_container_may_not_have_the_name_of_a_managed_replica() {
        let mut table = ForeignTable::default();
        let asked = table.on_event("a", &ContainerEvent::Started);
        let [Action::Inspect { inspection, .. }] = asked[..] else { panic!("{asked:?}") };
        let actions = table.on_inspected("a", inspection, Inspected::Fit(candidate("a", "s", 2)), |name| name == "s");
        assert!(matches!(actions[..], [Action::Refuse { .. }]), "{actions:?}");
    }

    #[test]
    fn one_that_no_longer_asks_leaves() {
        let mut table = ForeignTable::default();
        let first = joined(&mut table, candidate("a", "s", 2));
        let asked = table.on_event("a", &ContainerEvent::Started);
        let [Action::Inspect { inspection, .. }] = asked[..] else { panic!("{asked:?}") };
        let actions = table.on_inspected("a", inspection, Inspected::Uninterested, |_| false);
        assert!(matches!(actions[..], [Action::Left { instance, .. }] if instance == first), "{actions:?}");
    }
}
