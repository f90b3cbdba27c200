//! What is known of each container, and what an event or a list of the engine changes in it. Pure: no engine, no clock.
//!
//! Events bring news fast, lists make up for missed events. Both end here, so that an end is reported once.

use std::collections::BTreeMap;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;

use super::container_event::ContainerEvent;
use super::plan::ManagedLabels;
use crate::control::runtime::{InstanceId, Spec};

/// Managed instances (started by us) and foreign containers (started by others), each by its number among those.
#[derive(Debug, Default)]
pub struct InstanceTable {
    managed: BTreeMap<u64, ManagedInstance>,
    foreign: BTreeMap<u64, ForeignContainer>,
    foreign_count: u64,
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

#[derive(Clone, Debug, PartialEq, Eq)]
struct ForeignContainer {
    container: String,
    stopping: bool,
}

/// One container of the engine's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedContainer {
    pub container: String,
    /// Running, and not paused.
    pub serving: bool,
    /// Set for a container of our cluster.
    pub labels: Option<ManagedLabels>,
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
    /// A container we do not know is running: read its discovery labels.
    Inspect { container: String },
    /// A running instance is not in the list: ask the engine about it, since the list may be older than the instance.
    Confirm { instance: u64, container: String },
    /// A container of this run that no instance needs.
    Remove { container: String },
}

impl InstanceTable {
    pub fn begin(&mut self, spec: &Spec) -> InitialName {
        // Instance numbers rise, so that the chain of replaced instances ends.
        let instance = spec.instance.number();
        let replaces = spec.replaces.map(InstanceId::number).filter(|replaced| *replaced < instance);
        let phase = InstancePhase::Starting;
        let managed = ManagedInstance { name: spec.name.clone(), container: None, phase, replaces };
        self.managed.insert(instance, managed);
        match self.replaced_containers(instance).is_empty() {
            true => InitialName::Slot,
            false => InitialName::Temporary,
        }
    }

    pub fn adopt(&mut self, spec: &Spec, container: &str) {
        let (container, phase) = (Some(container.to_owned()), InstancePhase::Running);
        let managed = ManagedInstance { name: spec.name.clone(), container, phase, replaces: None };
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
                StopPlan::StopAndRemove { name: managed.name.clone(), container: container.clone() }
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

    /// The instance number of a foreign container, or `None` if it has one already.
    pub fn add_foreign(&mut self, container: &str) -> Option<u64> {
        if self.foreign_instance(container).is_some() {
            return None;
        }
        let instance = self.foreign_count;
        self.foreign_count += 1;
        self.foreign.insert(instance, ForeignContainer { container: container.to_owned(), stopping: false });
        Some(instance)
    }

    pub fn on_event(&mut self, container: &str, event: ContainerEvent) -> Option<Action> {
        let is_it = |managed: &ManagedInstance| managed.container.as_deref() == Some(container);
        if let Some((instance, managed)) = self.managed.iter_mut().find(|(_, managed)| is_it(managed)) {
            return managed.on_event(*instance, event);
        }
        if let Some(instance) = self.foreign_instance(container) {
            return self.on_foreign_event(instance, event);
        }
        (event == ContainerEvent::Started).then(|| Action::Inspect { container: container.to_owned() })
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
        for (instance, _) in self.foreign.extract_if(.., |_, foreign| !serving(&foreign.container)) {
            actions.push(Action::Left { instance, why: "no longer listed as running".into() });
        }
        actions.extend(list.iter().filter_map(|listed| self.unexpected(listed, run_id)));
        actions
    }

    fn unexpected(&self, listed: &ListedContainer, run_id: &str) -> Option<Action> {
        let container = listed.container.clone();
        let known = self.managed_container(&container);
        match &listed.labels {
            None => {
                let is_new = listed.serving && self.foreign_instance(&container).is_none();
                is_new.then_some(Action::Inspect { container })
            }
            // It belongs to another Ringway with the same cluster name.
            Some(labels) if labels.run_id != run_id && known.is_none() => None,
            // By instance too: the engine lists a container before its id is known here.
            Some(labels) => match known.or_else(|| self.managed.get(&labels.instance)) {
                Some(managed) if managed.phase != InstancePhase::Gone => None,
                _ => Some(Action::Remove { container }),
            },
        }
    }

    fn managed_container(&self, container: &str) -> Option<&ManagedInstance> {
        self.managed.values().find(|managed| managed.container.as_deref() == Some(container))
    }

    fn foreign_instance(&self, container: &str) -> Option<u64> {
        self.foreign.iter().find(|(_, foreign)| foreign.container == container).map(|(instance, _)| *instance)
    }

    fn on_foreign_event(&mut self, instance: u64, event: ContainerEvent) -> Option<Action> {
        if let Some(why) = event.end_reason() {
            self.foreign.remove(&instance);
            return Some(Action::Left { instance, why });
        }
        let why = event.stop_reason()?;
        let foreign = self.foreign.get_mut(&instance)?;
        let was_stopping = std::mem::replace(&mut foreign.stopping, true);
        (!was_stopping).then_some(Action::Stopping { instance: InstanceId::Foreign(instance), why })
    }
}

impl ManagedInstance {
    fn has_ended(&self) -> bool {
        matches!(self.phase, InstancePhase::Ending | InstancePhase::Gone)
    }

    fn on_event(&mut self, instance: u64, event: ContainerEvent) -> Option<Action> {
        if let Some(why) = event.end_reason() {
            return self.exit(instance, why);
        }
        let why = event.stop_reason()?;
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
