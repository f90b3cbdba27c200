//! What is known of each container, and what an event or a list of the engine changes in it. Pure: no engine, no clock.
//!
//! Events bring news fast, lists make up for missed events. Both end here, so that an end is reported once.

use std::collections::BTreeMap;
use std::iter::successors;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::container_event::ContainerEvent;
use super::driver::short;
use super::foreign_table::{Candidate, ForeignTable, Inspected};
use super::plan::{Launch, ManagedLabels};
use crate::control::runtime::{InstanceId, Spec};
use crate::settings::OnExit;

/// Managed instances (started by us) by their number, and foreign containers (started by others).
#[derive(Debug)]
pub struct InstanceTable {
    /// The managed instances' network.
    network: String,
    managed: BTreeMap<u64, ManagedInstance>,
    foreign: ForeignTable,
    /// Ringway ends: no instance will be replaced any more.
    closing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedInstance {
    pub name: Arc<str>,
    /// Known once the engine has created it.
    pub container: Option<String>,
    phase: InstancePhase,
    /// The instance before it in its slot.
    replaces: Option<u64>,
    /// What `docker stop` sends it, and how long it may take to end then.
    stop_signal: Option<u32>,
    stop_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InstancePhase {
    /// `start` is under way.
    Starting,
    Running,
    /// It was signalled to stop, not by us.
    Stopping,
    /// We are stopping it.
    Ending,
    /// Its end was reported, or it could not be removed: the container is still to be removed.
    Gone,
}

/// One container of the engine's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedContainer {
    pub container: String,
    /// Running, and not paused.
    pub serving: bool,
    /// Set for a container of our cluster.
    pub labels: Option<ManagedLabels>,
    /// By network.
    pub addresses: BTreeMap<String, IpAddr>,
}

/// Under which name a container is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialName {
    Slot,
    /// A container that it replaces may still have the slot's name.
    Temporary,
}

/// How an instance is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopPlan {
    /// It is not managed here, or has been removed.
    Nothing,
    /// Its start is under way, finds that it is no longer wanted, and removes what it created.
    AwaitStart,
    /// By removing its container once its replacement runs.
    RemoveLater,
    StopAndRemove {
        name: Arc<str>,
        container: String,
        timeout: Duration,
    },
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A managed instance ended or no longer serves: report it, and remove its container.
    Exited { instance: u64, why: String },
    /// Report that the instance was signalled to stop.
    Stopping { instance: InstanceId, why: String },
    /// Report that a foreign container is gone.
    Left { instance: u64, why: String },
    /// Read what a foreign container is now: its state, labels and addresses.
    Inspect { container: String, inspection: u64 },
    /// Report that a foreign container is balanced.
    Join { instance: u64, candidate: Candidate },
    /// Tell the operator why a container is not balanced.
    Refuse { container: String, why: String },
    /// A running instance is not in the list: ask the engine about it, since the list may be older than the instance.
    Confirm { instance: u64, container: String },
    /// A container of this run that no instance needs.
    Remove { container: String },
}

impl InstanceTable {
    pub fn new(network: &str) -> InstanceTable {
        let (managed, foreign) = Default::default();
        InstanceTable { network: network.to_owned(), managed, foreign, closing: false }
    }

    pub fn begin(&mut self, spec: &Spec, launch: &Launch) -> InitialName {
        // Instance numbers rise, so that the chain of replaced instances ends.
        let instance = spec.instance.number();
        let replaces = spec.replaces.map(InstanceId::number).filter(|replaced| *replaced < instance);
        let managed = ManagedInstance { replaces, ..ManagedInstance::new(spec, InstancePhase::Starting, launch) };
        self.managed.insert(instance, managed);
        match self.replaced_containers(instance).is_empty() {
            true => InitialName::Slot,
            false => InitialName::Temporary,
        }
    }

    pub fn adopt(&mut self, spec: &Spec, launch: &Launch, container: &str) {
        let container = Some(container.to_owned());
        let managed = ManagedInstance { container, ..ManagedInstance::new(spec, InstancePhase::Running, launch) };
        self.managed.insert(spec.instance.number(), managed);
    }

    pub fn created(&mut self, instance: u64, container: &str) {
        if let Some(managed) = self.managed.get_mut(&instance) {
            managed.container = Some(container.to_owned());
        }
    }

    /// The engine started it: true if it is still wanted and has not ended.
    pub fn started(&mut self, instance: u64) -> bool {
        match self.managed.get_mut(&instance) {
            Some(managed) if managed.phase == InstancePhase::Starting => {
                managed.phase = InstancePhase::Running;
                true
            }
            _ => false,
        }
    }

    pub fn managed(&self, instance: u64) -> Option<&ManagedInstance> {
        self.managed.get(&instance)
    }

    /// We stop it from here on: its end is not reported as an event.
    pub fn begin_stop(&mut self, instance: u64, grace: Duration) -> StopPlan {
        let Some(managed) = self.managed.get_mut(&instance) else { return StopPlan::Nothing };
        let before = std::mem::replace(&mut managed.phase, InstancePhase::Ending);
        match &managed.container {
            Some(_) if before != InstancePhase::Starting && grace.is_zero() => StopPlan::RemoveLater,
            Some(container) if before != InstancePhase::Starting => {
                let (name, container) = (managed.name.clone(), container.clone());
                StopPlan::StopAndRemove { name, container, timeout: managed.stop_timeout }
            }
            _ => StopPlan::AwaitStart,
        }
    }

    /// True unless a start of it, or what the start created, is still under way.
    pub fn is_start_cleaned_up(&self, instance: u64) -> bool {
        self.managed.get(&instance).is_none_or(|managed| managed.phase == InstancePhase::Gone)
    }

    /// Its container could not be removed; the next list finds it, and it is tried again.
    pub fn removal_failed(&mut self, instance: u64) {
        if let Some(managed) = self.managed.get_mut(&instance) {
            managed.phase = InstancePhase::Gone;
        }
    }

    /// Its container does not exist any more. Its replacement now follows the instance before it.
    pub fn removed(&mut self, instance: u64) {
        let Some(removed) = self.managed.remove(&instance) else { return };
        for managed in self.managed.values_mut().filter(|managed| managed.replaces == Some(instance)) {
            managed.replaces = removed.replaces;
        }
    }

    /// No instance will be replaced any more.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// True while a container of a managed instance is to be removed.
    pub fn has_removals(&self) -> bool {
        self.managed.values().any(ManagedInstance::has_ended)
    }

    /// Names and containers that exist still, of instances that should not run on when Ringway ends.
    pub fn left_behind(&self, on_exit: OnExit) -> Vec<String> {
        let stays = |managed: &&ManagedInstance| on_exit == OnExit::Remove || managed.has_ended();
        let named = |managed: &ManagedInstance| {
            let container = managed.container.as_deref()?;
            Some(format!("{} (container {})", managed.name, short(container)))
        };
        self.managed.values().filter(stays).filter_map(named).collect()
    }

    /// The containers that `instance` replaces, one after another, each with its instance: one of them may have the name.
    pub fn replaced_containers(&self, instance: u64) -> Vec<(u64, String)> {
        let container = |earlier: u64| Some((earlier, self.managed.get(&earlier)?.container.clone()?));
        self.replaced_by(instance).filter_map(container).collect()
    }

    /// True once an instance that replaces `instance` has begun to start, or none ever will.
    pub fn has_replacement(&self, instance: u64) -> bool {
        self.closing || self.replacements(instance).next().is_some()
    }

    /// True once an instance that replaces `instance` runs, or none ever will.
    pub fn is_replaced(&self, instance: u64) -> bool {
        let runs =
            |managed: &ManagedInstance| matches!(managed.phase, InstancePhase::Running | InstancePhase::Stopping);
        self.closing || !self.managed.contains_key(&instance) || self.replacements(instance).any(runs)
    }

    /// True once the instances before `instance` have ended, so that their containers may lose the slot's name, or it has
    /// ended itself.
    pub fn may_take_name(&self, instance: u64) -> bool {
        let has_ended = |instance: u64| self.managed.get(&instance).is_none_or(ManagedInstance::has_ended);
        has_ended(instance) || self.replaced_by(instance).all(has_ended)
    }

    /// Whether a container that has a slot's name may lose it: an ended instance of this run left it.
    pub fn is_left_over(&self, container: &str, labels: &ManagedLabels, run_id: &str) -> bool {
        match self.managed_container(container) {
            Some(managed) => managed.has_ended(),
            None => {
                let managed = self.managed.get(&labels.instance);
                labels.run_id == run_id && managed.is_none_or(ManagedInstance::has_ended)
            }
        }
    }

    /// The instances before `instance` in its slot, the last first.
    fn replaced_by(&self, instance: u64) -> impl Iterator<Item = u64> {
        let before = |instance: &u64| self.managed.get(instance)?.replaces;
        successors(before(&instance), before)
    }

    fn replacements(&self, instance: u64) -> impl Iterator<Item = &ManagedInstance> {
        let later = self.managed.range(instance + 1..);
        later.filter(move |(later, _)| self.replaced_by(**later).any(|earlier| earlier == instance)).map(|(_, m)| m)
    }

    pub fn on_event(&mut self, container: &str, event: &ContainerEvent) -> Vec<Action> {
        let is_it = |managed: &ManagedInstance| managed.container.as_deref() == Some(container);
        match self.managed.iter_mut().find(|(_, managed)| is_it(managed)) {
            Some((instance, managed)) => {
                let action = match event.end_reason(Some(&self.network)) {
                    Some(why) => managed.exit(*instance, why),
                    None => event.stop_reason(managed.stop_signal).and_then(|why| managed.signalled(*instance, why)),
                };
                action.into_iter().collect()
            }
            None => self.foreign.on_event(container, event),
        }
    }

    /// It still runs, long after it was signalled to stop.
    pub fn outlived_its_stop(&mut self, instance: InstanceId, why: String) -> Vec<Action> {
        match instance {
            InstanceId::Managed(instance) => self.confirm_gone(instance, why).into_iter().collect(),
            InstanceId::Foreign(instance) => self.foreign.outlived_its_stop(instance, why),
        }
    }

    /// What an inspection that was asked for says of a foreign container.
    pub fn on_inspected(&mut self, container: &str, inspection: u64, found: Inspected) -> Vec<Action> {
        let is_managed = |name: &str| self.managed.values().any(|managed| *managed.name == *name);
        self.foreign.on_inspected(container, inspection, found, is_managed)
    }

    /// The engine confirmed that an instance no longer serves.
    pub fn confirm_gone(&mut self, instance: u64, why: String) -> Option<Action> {
        self.managed.get_mut(&instance)?.exit(instance, why)
    }

    /// Compares the engine's list with the table. `run_id` is that of this process.
    pub fn compare(&mut self, list: &[ListedContainer], run_id: &str) -> Vec<Action> {
        let serving = |id: &str| list.iter().any(|listed| listed.serving && listed.container == id);
        let mut actions = Vec::new();
        for (instance, managed) in &self.managed {
            if let (InstancePhase::Running | InstancePhase::Stopping, Some(id)) = (managed.phase, &managed.container)
                && !serving(id)
            {
                actions.push(Action::Confirm { instance: *instance, container: id.clone() });
            }
        }
        actions.extend(self.foreign.compare(list));
        actions.extend(list.iter().filter_map(|listed| self.unexpected(listed, run_id)));
        actions
    }

    fn unexpected(&self, listed: &ListedContainer, run_id: &str) -> Option<Action> {
        let container = listed.container.clone();
        let labels = listed.labels.as_ref()?;
        let known = self.managed_container(&container);
        // It belongs to another Ringway with the same cluster name.
        if labels.run_id != run_id && known.is_none() {
            return None;
        }
        // By instance too: the engine lists a container before its id is known here.
        match known.or_else(|| self.managed.get(&labels.instance)) {
            Some(managed) if managed.phase != InstancePhase::Gone => None,
            _ => Some(Action::Remove { container }),
        }
    }

    fn managed_container(&self, container: &str) -> Option<&ManagedInstance> {
        self.managed.values().find(|managed| managed.container.as_deref() == Some(container))
    }
}

impl ManagedInstance {
    fn new(spec: &Spec, phase: InstancePhase, launch: &Launch) -> ManagedInstance {
        let (stop_signal, stop_timeout) = (launch.stop_signal, launch.stop_timeout);
        ManagedInstance { name: spec.name.clone(), container: None, phase, replaces: None, stop_signal, stop_timeout }
    }

    fn has_ended(&self) -> bool {
        matches!(self.phase, InstancePhase::Ending | InstancePhase::Gone)
    }

    fn signalled(&mut self, instance: u64, why: String) -> Option<Action> {
        let was_running = self.phase == InstancePhase::Running;
        was_running.then(|| {
            self.phase = InstancePhase::Stopping;
            Action::Stopping { instance: InstanceId::Managed(instance), why }
        })
    }

    /// Reported once. The end of one that is starting is reported by `start`, of one that we stop by `stop`.
    fn exit(&mut self, instance: u64, why: String) -> Option<Action> {
        match self.phase {
            InstancePhase::Running | InstancePhase::Stopping => {
                self.phase = InstancePhase::Gone;
                Some(Action::Exited { instance, why })
            }
            InstancePhase::Starting => {
                self.phase = InstancePhase::Gone;
                None
            }
            InstancePhase::Ending | InstancePhase::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests;
