//! Servers given by address (`--replica HOST:PORT`). They are probed, and never started or stopped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::{Failure, FailureKind, InstanceId, Runtime, RuntimeEvent, Spec, Started};
use crate::core::snapshot::{Endpoint, ServiceId};
use crate::settings::FixedReplica;

pub struct Fixed {
    replicas: Vec<FixedReplica>,
}

impl Fixed {
    pub fn new(replicas: Vec<FixedReplica>) -> Fixed {
        Fixed { replicas }
    }
}

impl Runtime for Fixed {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        let message = format!("{} cannot be started: the replicas are a fixed list (--replica)", spec.name);
        Err(Failure { kind: FailureKind::Refused, message })
    }

    async fn stop(&self, _instance: InstanceId, _grace: Duration) -> Result<(), Failure> {
        Ok(())
    }

    async fn attach(&self, _events: UnboundedSender<RuntimeEvent>) -> Result<Vec<(Spec, Started)>, Failure> {
        Ok(self.replicas.iter().zip(1..).map(|(replica, number)| found(replica, number)).collect())
    }

    fn can_start(&self) -> bool {
        false
    }
}

fn found(replica: &FixedReplica, number: u64) -> (Spec, Started) {
    let (service, instance) = (ServiceId::default(), InstanceId::Foreign(number));
    let spec = Spec { service, name: Arc::from(replica.name.as_str()), instance, replaces: None };
    let endpoint = Endpoint::Tcp(replica.address);
    (spec, Started { endpoint, handle: "a foreign server".into(), weight: replica.weight })
}
