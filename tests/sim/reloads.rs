//! Reloads of a simulated world: now and then an operator gives the registry another configuration. The HTTP service
//! changes its number of replicas, ring and limits, and what they are started with, which does not always work; a second one
//! comes and goes, and shares the requests by a route.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway::control::registry::{Command, Reconfiguration, ServiceConfig, ServiceSource, Topology};
use ringway::control::runtime::revisions::Revision;
use ringway::core::limits::Limits;
use ringway::core::ring::RingKind;
use ringway::core::routes::{HostPattern, Route, RouteTarget, Routes, Split};
use ringway::core::snapshot::ServiceId;

use super::random::Random;

/// The service of HTTP that is always there, and the one that comes and goes.
pub const HTTP: ServiceId = ServiceId(0);
pub const SECOND: ServiceId = ServiceId(2);

/// No replica starts with these settings.
pub const BROKEN: Revision = Revision(4);

/// What the next configuration is made from.
pub struct Reloads {
    first: Topology,
    http: ServiceConfig,
    /// Of 1000 looks, so many are reloads; 0 in worlds without.
    per_mille: u32,
}

impl Reloads {
    /// `None`: the world has none.
    pub fn draw(first: &Topology, random: &mut Random) -> Option<Reloads> {
        let Some(ServiceSource::Runtime(http)) = first.services.get(&HTTP) else { return None };
        let has_reloads = random.one_in(4);
        has_reloads.then(|| Reloads {
            first: first.clone(),
            http: http.clone(),
            per_mille: random.range(100, 800) as u32,
        })
    }

    /// Now, if it is to be now.
    pub fn next(&self, ticket: u64, random: &mut Random) -> Option<Command> {
        if !random.per_mille(self.per_mille) {
            return None;
        }
        let mut services = self.first.services.clone();
        services.insert(HTTP, ServiceSource::Runtime(self.changed(random)));
        let mut routes = Routes::default();
        if random.one_in(2) {
            // Of the same name, which is the Host of a request of HTTP/1.0 that has none.
            let second = ServiceConfig { replicas: random.range(1, 2) as usize, ..self.http.clone() };
            services.insert(SECOND, ServiceSource::Runtime(second));
            routes = shared_by(&[(HTTP, 1), (SECOND, 1)]);
        }
        let topology = Topology { services, listeners: self.first.listeners.clone(), routes: Arc::new(routes) };
        let is_rolled_out = random.one_in(2);
        let revision = Revision(random.range(Revision::FIRST.0, BROKEN.0));
        let revisions = is_rolled_out.then_some((HTTP, revision)).into_iter().collect();
        Some(Command::Reconfigure(Reconfiguration { ticket, topology, found: Vec::new(), revisions }.into()))
    }

    fn changed(&self, random: &mut Random) -> ServiceConfig {
        let limits = Limits { attempts: random.range(1, 5) as u32, ..Limits::clone(&self.http.limits) };
        ServiceConfig {
            replicas: random.range(1, 5) as usize,
            ring: if random.one_in(4) { RingKind::Exercise } else { self.http.ring },
            limits: if random.one_in(2) { self.http.limits.clone() } else { limits.into() },
            ..self.http.clone()
        }
    }
}

fn shared_by(weights: &[(ServiceId, u32)]) -> Routes {
    let target = Split::new(weights).map(RouteTarget::Split);
    let (methods, listeners) = Default::default();
    Routes::new(target.map(|target| Route { host: HostPattern::Any, path: String::new(), methods, listeners, target }))
}

/// The services of a snapshot that a request may go to which was sent to `service`.
pub fn candidates<S>(service: usize, services: &[S]) -> BTreeMap<usize, &S> {
    let is_http = service == HTTP.0 as usize;
    let second = services.get(SECOND.0 as usize).filter(|_| is_http).map(|second| (SECOND.0 as usize, second));
    services.get(service).map(|own| (service, own)).into_iter().chain(second).collect()
}
