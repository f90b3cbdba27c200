//! Servers of a fixed list that an `/rm` took off the ring: an `/add` of their names puts them back. Nothing is started
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log::Level;

use super::Registry;
use super::answer::{Answer, Change, Rejection};
use super::calls::{check_distinct, join, wrong_name};
use super::command::Effect;
use super::slot::Slot;
use crate::control::runtime::{Spec, Started};
use crate::core::snapshot::ServiceId;
use crate::core::tick::Tick;

/// By name: what a server was when it was removed.
pub type RemovedServers = BTreeMap<Arc<str>, (Spec, Started)>;

impl Registry {
    /// A call removed this slot. A server that the runtime cannot start again is kept in mind.
    pub(super) fn remember_removed(&mut self, slot: &Slot) {
        let (Some(instance), Some(service)) = (slot.instance(), self.services.get(&slot.service)) else { return };
        if service.config.can_start || self.delisted.contains_key(&instance) {
            return;
        }
        let spec =
            Spec { service: slot.service, name: slot.name.clone(), instance, revision: slot.revision, replaces: None };
        let (endpoint, handle) = (slot.endpoint().clone(), slot.handle.clone());
        self.removed.insert(slot.name.clone(), (spec, Started { endpoint, handle, weight: slot.configured_weight() }));
    }

    pub(super) fn removed_by_service(&self) -> BTreeMap<Arc<str>, BTreeSet<Arc<str>>> {
        let mut removed: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (name, (spec, _)) in &self.removed {
            if let Some(service) = self.services.get(&spec.service) {
                removed.entry(service.config.name.clone()).or_default().insert(name.clone());
            }
        }
        removed
    }

    /// `/add` where nothing can be started.
    pub(super) fn put_back(
        &mut self,
        ticket: u64,
        service: ServiceId,
        change: &Change,
        now: Tick,
    ) -> Result<(), Rejection> {
        let names = self.names_to_put_back(change)?;
        if change.dry_run {
            let answer = Answer::Replicas(self.member_names(service).chain(names).collect());
            self.emit(Effect::Reply { ticket, answer });
            return Ok(());
        }
        for (spec, started) in names.iter().filter_map(|name| self.removed.remove(name)).collect::<Vec<_>>() {
            self.emit(Effect::Resume { instance: spec.instance });
            self.insert_filled(spec, started, now);
        }
        self.log(Level::Info, format!("add: {} is on the ring again", join(&names)));
        self.reply_when_acked(ticket, service, Default::default(), now);
        Ok(())
    }

    fn names_to_put_back(&self, change: &Change) -> Result<Vec<Arc<str>>, Rejection> {
        let Change { n, hostnames, .. } = change;
        if hostnames.len() as u64 > *n {
            let message = "Length of hostname list is more than newly added instances";
            return Err(Rejection::bad_request(message.into()));
        }
        if *n == 0 || hostnames.len() as u64 != *n {
            return Err(Rejection::bad_request(format!(
                "n is {n}: the replicas are listed (--replica or a source), none can be started; name those that /rm removed"
            )));
        }
        check_distinct(hostnames)?;
        for (at, name) in hostnames.iter().enumerate() {
            if !self.removed.contains_key(name.as_str()) {
                return Err(wrong_name(at, name, "no server of that name was removed from the list"));
            }
            if self.name_taken(name) {
                return Err(wrong_name(at, name, "it still drains"));
            }
        }
        Ok(hostnames.iter().map(|name| name.as_str().into()).collect())
    }
}
