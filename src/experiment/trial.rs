//! A balancer under load while faults are injected into its replicas: every request, and every recovery.

use std::time::{Duration, Instant};

use super::ExperimentSettings;
use super::load::{self, LoadPlan, Sample};
use super::testbed::{Recovery, Testbed};

pub struct Trial {
    /// Of the replicas, in order.
    pub names: Vec<String>,
    /// When the load began.
    pub begin: Instant,
    pub samples: Vec<Sample>,
    /// In the order of the faults.
    pub recoveries: Vec<Recovery>,
}

impl Trial {
    /// The load lasts as long as `inject` takes.
    pub fn run(
        settings: &ExperimentSettings,
        replicas: usize,
        plan: LoadPlan,
        inject: impl FnOnce(&Testbed, &[String]) -> Result<Vec<Recovery>, String>,
    ) -> Result<Trial, String> {
        let testbed = Testbed::start(settings, replicas, &[])?;
        let names = testbed.names()?;
        let begin = Instant::now();
        let (samples, recoveries) = load::during(testbed.data, plan, begin, || inject(&testbed, &names))?;
        Ok(Trial { names, begin, samples, recoveries })
    }

    /// A moment as time since the load began.
    pub fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.begin)
    }

    pub fn slowest_ms(&self) -> f64 {
        self.samples.iter().map(|sample| sample.took.as_secs_f64() * 1000.0).fold(0.0, f64::max)
    }

    pub fn failures(&self) -> (usize, Option<String>) {
        load::failures(&self.samples)
    }
}
