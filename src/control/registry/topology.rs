//! What a configuration says of services, listeners and routes, and how the registry takes it in: whole, in one snapshot.
//! Nothing is parsed or bound here.
//!
//! A listener that is gone drains with its services. One that only loses an address keeps the connections that came there:
//! they are as good as those of its other addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use log::Level;

use super::Registry;
use super::answer::{Answer, Rejection};
use super::command::{Effect, ServiceConfig};
use super::leaving::NameUse;
use super::slots::SlotId;
use crate::control::runtime::revisions::Revision;
use crate::control::runtime::{Origin, Spec, Started};
use crate::core::challenges::Challenges;
use crate::core::routes::Routes;
use crate::core::snapshot::{Lifecycle, Listener, ListenerId, Service, ServiceId};
use crate::core::tick::Tick;

/// Ids begin at 0 and have no gaps. An id that was given once keeps its meaning for as long as the process runs.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    pub services: BTreeMap<ServiceId, ServiceSource>,
    pub listeners: BTreeMap<ListenerId, Arc<Listener>>,
    pub routes: Arc<Routes>,
}

/// Where the replicas of a service come from.
#[derive(Clone, Debug)]
pub enum ServiceSource {
    /// From a runtime: the registry keeps a slot for each.
    Runtime(ServiceConfig),
    /// They never change: the admin API's listener, say.
    Static(Arc<Service>),
}

impl ServiceSource {
    pub fn name(&self) -> &Arc<str> {
        match self {
            ServiceSource::Runtime(config) => &config.name,
            ServiceSource::Static(service) => &service.name,
        }
    }

    fn is_of_runtime(&self) -> bool {
        matches!(self, ServiceSource::Runtime(_))
    }
}

impl Topology {
    /// These services, and one listener that sends everything to the first.
    pub fn of_services(services: impl IntoIterator<Item = ServiceConfig>) -> Topology {
        let services: Vec<ServiceConfig> = services.into_iter().collect();
        let to = |service: &ServiceConfig| {
            Listener::to(ServiceId(0), service.name.clone(), service.mode, service.limits.clone())
        };
        let listener = services.first().map(to);
        Topology {
            services: (0..).map(ServiceId).zip(services.into_iter().map(ServiceSource::Runtime)).collect(),
            listeners: (0..).map(ListenerId).zip(listener.map(Arc::new)).collect(),
            routes: Arc::default(),
        }
    }
}

/// Another configuration, and what the runtimes of new services have already.
#[derive(Debug)]
pub struct Reconfiguration {
    /// Of the call or signal that asks for it: its answer carries the same.
    pub ticket: u64,
    pub topology: Topology,
    pub found: Vec<(Spec, Started)>,
    /// What instances of services that run are to be started with.
    pub revisions: BTreeMap<ServiceId, Revision>,
}

/// A configuration whose new services start: listeners, routes and removals follow when each of them can take requests.
#[derive(Debug)]
pub struct PendingTopology {
    ticket: u64,
    listeners: BTreeMap<ListenerId, Arc<Listener>>,
    routes: Arc<Routes>,
    gone: Vec<ServiceId>,
    new: Vec<ServiceId>,
    pub deadline: Tick,
}

/// How long a client that sends nothing may stay on a connection whose listener is gone: its next response is the last, and
/// says so. Then it is closed.
pub const IDLE_CLIENTS_MS: u64 = 3_000;
/// New services get so long to take requests; then requests are sent to them all the same.
const NEW_SERVICE_LIMIT_MS: u64 = 10_000;

impl Registry {
    /// Services change or start at once; listeners and routes change, and other services leave, in one snapshot once every
    /// new service can take requests. What is as it was is shared with the snapshot before: an unchanged service keeps its
    /// connections and counters.
    pub(super) fn reconfigure(&mut self, change: Reconfiguration, now: Tick) {
        let Reconfiguration { ticket, topology, found, revisions } = change;
        if self.is_stopping() {
            let rejection = Rejection::unavailable("the balancer is stopping".into());
            return self.emit(Effect::Reply { ticket, answer: Answer::Rejected(rejection) });
        }
        let Topology { services, listeners, routes } = topology;
        self.finish_reconfiguration(now);
        let gone = self.services.keys().filter(|id| !services.contains_key(id)).copied().collect();
        let is_new = |id: &ServiceId| self.services.get(id).is_none_or(|service| service.is_removed);
        let new = services.iter().filter(|(id, source)| source.is_of_runtime() && is_new(id));
        let new = new.map(|(id, _)| *id).collect();
        let resized: Vec<_> =
            services.into_iter().filter_map(|(id, source)| Some((id, self.change_service(id, source)?))).collect();
        revisions.into_iter().for_each(|(id, revision)| self.roll_out(id, revision, now));
        self.insert_found(found, now);
        for (id, target) in resized {
            self.fill_up(id, now);
            self.shrink(id, target, now);
        }
        let deadline = now.after_ms(NEW_SERVICE_LIMIT_MS);
        self.pending_topology = Some(PendingTopology { ticket, listeners, routes, gone, new, deadline });
    }

    /// Requests may be sent to the new services, or have waited for that long enough.
    pub(super) fn advance_reconfiguration(&mut self, now: Tick) {
        let Some(pending) = &self.pending_topology else { return };
        let mut starting = pending.new.iter().filter(|id| !self.can_take_requests(**id, &pending.gone));
        let starting = starting.next().and_then(|id| self.services.get(id));
        match starting.map(|service| service.config.name.clone()) {
            Some(name) if pending.deadline <= now => {
                let line =
                    format!("service {name}: no replica of it answers yet; requests are sent to it all the same");
                self.log(Level::Warn, line);
            }
            Some(_) if !self.is_stopping() => return,
            _ => {}
        }
        self.finish_reconfiguration(now);
    }

    /// A replica of it does, or a server that answers as another's which is removed.
    fn can_take_requests(&self, id: ServiceId, gone: &[ServiceId]) -> bool {
        let is_up = |(spec, _): &(Spec, Started)| {
            spec.service == id
                && self.slots.holder(&spec.name).is_some_and(|slot| gone.contains(&slot.service) && slot.is_up())
        };
        self.services.get(&id).is_none_or(|service| service.routable() > 0) || self.moving.iter().any(is_up)
    }

    /// Servers of it are to be another's.
    fn has_moving(&self, id: ServiceId) -> bool {
        self.moving.iter().any(|(spec, _)| self.slots.holder(&spec.name).is_some_and(|slot| slot.service == id))
    }

    fn finish_reconfiguration(&mut self, now: Tick) {
        let Some(pending) = self.pending_topology.take() else { return };
        let PendingTopology { ticket, listeners, routes, gone, .. } = pending;
        let closed_at = now.after_ms(IDLE_CLIENTS_MS);
        self.closing_listeners.retain(|id, _| !listeners.contains_key(id));
        for (id, listener) in &mut self.listeners {
            if !listeners.contains_key(id) && listener.lifecycle == Lifecycle::Serving {
                *listener = Arc::new(listener.removed(Lifecycle::HandedOver));
                self.closing_listeners.insert(*id, closed_at);
            }
        }
        for id in gone {
            if self.closing_listeners.values().any(|at| *at == closed_at) && !self.has_moving(id) {
                self.closing_services.entry(id).or_insert(closed_at);
            } else {
                self.remove_service(id, now);
            }
        }
        self.listeners.extend(listeners);
        self.routes = routes;
        self.publication.mark_changed();
        self.defer_reply(ticket, Answer::Reconfigured, BTreeSet::new(), now);
    }

    /// Those that are served: one that is being removed keeps what it offered.
    pub(super) fn replace_listeners(&mut self, listeners: BTreeMap<ListenerId, Arc<Listener>>) {
        for (id, listener) in listeners {
            let served = self.listeners.get_mut(&id).filter(|served| served.lifecycle == Lifecycle::Serving);
            if let Some(served) = served {
                *served = listener;
                self.publication.mark_changed();
            }
        }
    }

    pub(super) fn replace_challenges(&mut self, ticket: u64, challenges: Option<Arc<Challenges>>, now: Tick) {
        self.challenges = challenges;
        self.publication.mark_changed();
        self.defer_reply(ticket, Answer::Reconfigured, BTreeSet::new(), now);
    }

    /// Idle clients of removed listeners had their time, and services that only they lead to may go.
    pub(super) fn stop_listeners(&mut self, now: Tick) {
        let due: Vec<ListenerId> =
            self.closing_listeners.extract_if(.., |_, at| *at <= now).map(|(id, _)| id).collect();
        let services = self.closing_services.extract_if(.., |_, at| *at <= now);
        for id in services.map(|(id, _)| id).collect::<Vec<_>>() {
            self.remove_service(id, now);
        }
        for id in due {
            if let Some(listener) = self.listeners.get_mut(&id) {
                *listener = Arc::new(listener.removed(Lifecycle::Stopping));
                self.publication.mark_changed();
            }
        }
    }

    /// How many replicas it is to have, if that is another number than before. What calls added or removed stays where the
    /// configuration asks for as many as before.
    fn change_service(&mut self, id: ServiceId, source: ServiceSource) -> Option<usize> {
        let ServiceSource::Runtime(config) = source else {
            self.insert_service(id, source);
            return None;
        };
        self.closing_services.remove(&id);
        let target = config.replicas;
        let Some(service) = self.services.get_mut(&id) else {
            self.insert_service(id, ServiceSource::Runtime(config));
            return Some(target);
        };
        let is_resized = service.is_removed || service.config.replicas != target;
        service.reconfigure(config);
        self.readmit_excess(id);
        is_resized.then_some(target)
    }

    /// Its replicas drain. Its id stays, and means it again if it comes back.
    fn remove_service(&mut self, id: ServiceId, now: Tick) {
        let Some(service) = self.services.get_mut(&id).filter(|service| !service.is_removed) else { return };
        service.set_removed();
        let name = service.config.name.clone();
        self.log(Level::Info, format!("service {name}: removed; its replicas drain"));
        let why = Rejection::bad_request(format!("there is no service {name} any more"));
        self.undo_addition_of(id, why, now);
        let members = self.services.get(&id).map(|service| service.members().to_vec()).unwrap_or_default();
        self.drain_members(members, now);
        self.removed.retain(|_, (spec, _)| spec.service != id);
        self.emit(Effect::GiveUp { service: id });
    }

    /// The newest members above `target` drain.
    pub(super) fn shrink(&mut self, id: ServiceId, target: usize, now: Tick) {
        let Some(service) = self.services.get(&id).filter(|service| service.config.can_start) else { return };
        let excess = service.managed().saturating_sub(target);
        let is_managed = |id: &&SlotId| self.slots.slot(**id).is_some_and(|slot| slot.origin == Origin::Managed);
        let newest = service.members().iter().rev().filter(is_managed).take(excess).copied().collect();
        self.drain_members(newest, now);
    }

    fn drain_members(&mut self, members: Vec<SlotId>, now: Tick) {
        for slot in members.into_iter().filter_map(|id| self.remove(id)).collect::<Vec<_>>() {
            match slot.origin {
                Origin::Managed => self.begin_drain(slot, NameUse::Held, now),
                Origin::Foreign => {
                    self.join_moved(&slot, now);
                    self.begin_drain(slot, NameUse::Replaced, now);
                }
            }
        }
        self.end_orphaned_succession();
    }
}
