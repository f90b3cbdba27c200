//! What a configuration says of services, listeners and routes, and how the registry takes it in: whole, in one snapshot.
//! Nothing is parsed or bound here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ServiceConfig;
use crate::core::routes::Routes;
use crate::core::snapshot::{Listener, ListenerId, Service, ServiceId};

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

impl Topology {
    /// These services, and one listener that sends everything to the first.
    pub fn of_services(services: impl IntoIterator<Item = ServiceConfig>) -> Topology {
        let services: Vec<ServiceConfig> = services.into_iter().collect();
        let listener = services.first().map(|service| Listener {
            name: service.name.clone(),
            bind: Vec::new(),
            mode: service.mode,
            service: Some(ServiceId(0)),
            redirect: None,
            proxies: Vec::new(),
            limits: service.limits.clone(),
        });
        Topology {
            services: (0..).map(ServiceId).zip(services.into_iter().map(ServiceSource::Runtime)).collect(),
            listeners: (0..).map(ListenerId).zip(listener.map(Arc::new)).collect(),
            routes: Arc::default(),
        }
    }
}
