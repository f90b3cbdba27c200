//! Reloads of a simulated world: now and then an operator gives the balancer another configuration. The HTTP service
//! changes its number of replicas, ring and limits, and what they are started with, which does not always work; a second one
//! comes and goes, and shares the requests by a route.

use ringway::control::registry::ServiceConfig;
use ringway::core::limits::Limits;
use ringway::core::ring::RingKind;
use ringway::core::routes::{HostPattern, Route, RouteTarget, Split};
use ringway::core::snapshot::ServiceId;

use super::configuration::{Configuration, HTTP, HTTP_LISTENER, InstanceSettings, SECOND, SECOND_NAME};
use super::random::Random;

/// What the next configuration is made from.
pub struct Reloads {
    first: Configuration,
    /// Of 1000 looks, so many are reloads.
    per_mille: u32,
}

/// Another configuration.
pub struct Reload {
    pub configuration: Configuration,
    /// What instances are started with changes, and those that run are replaced.
    pub is_rolled_out: bool,
}

impl Reloads {
    /// `None`: the world has none.
    pub fn draw(first: &Configuration, random: &mut Random) -> Option<Reloads> {
        let has_reloads = random.one_in(4);
        has_reloads.then(|| Reloads { first: first.clone(), per_mille: random.range(100, 800) as u32 })
    }

    /// Now, if it is to be now. `settings` are those that instances get now.
    pub fn next(&self, settings: InstanceSettings, random: &mut Random) -> Option<Reload> {
        if !random.per_mille(self.per_mille) {
            return None;
        }
        let first = &self.first;
        let mut configuration = first.clone();
        configuration.http = self.changed(random);
        if random.one_in(2) {
            let replicas = random.range(1, 2) as usize;
            let second = ServiceConfig { name: SECOND_NAME.into(), replicas, ..first.http.clone() };
            configuration.second = Some(second);
            configuration.routes = shared_by(&[(HTTP, 1), (SECOND, 1)]);
        }
        if configuration.http.tls.is_some() && random.one_in(2) {
            configuration.renew_replica_tls();
            configuration.second.iter_mut().for_each(|second| second.tls = configuration.http.tls.clone());
        }
        let is_rolled_out = random.one_in(2);
        let drawn = random.range(InstanceSettings::FIRST.0, InstanceSettings::BROKEN.0);
        configuration.instance_settings = if is_rolled_out { InstanceSettings(drawn) } else { settings };
        Some(Reload { configuration, is_rolled_out })
    }

    fn changed(&self, random: &mut Random) -> ServiceConfig {
        let http = &self.first.http;
        let limits = Limits { attempts: random.range(1, 5) as u32, ..Limits::clone(&http.limits) };
        ServiceConfig {
            replicas: random.range(1, 5) as usize,
            ring: if random.one_in(4) { RingKind::Exercise } else { http.ring },
            limits: if random.one_in(2) { http.limits.clone() } else { limits.into() },
            ..http.clone()
        }
    }
}

fn shared_by(weights: &[(ServiceId, u32)]) -> Vec<Route> {
    let target = Split::new(weights).map(RouteTarget::Split);
    let (methods, listeners) = (Vec::new(), vec![HTTP_LISTENER]);
    let route = target.map(|target| Route { host: HostPattern::Any, path: String::new(), methods, listeners, target });
    route.into_iter().collect()
}
