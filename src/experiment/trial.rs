//! A balancer with its replicas, under load while they are harmed: what was asked, and what became of each wound.

use std::time::{Duration, Instant};

use super::Settings;
use super::lab::{Lab, Wound};
use super::load::{self, Plan, Sample};

pub struct Trial {
    /// Of the replicas, in order.
    pub names: Vec<String>,
    /// When the load began.
    pub begin: Instant,
    pub samples: Vec<Sample>,
    /// In the order in which they were done.
    pub wounds: Vec<Wound>,
}

impl Trial {
    /// The load lasts for as long as `harm` takes.
    pub fn run(
        settings: &Settings,
        replicas: usize,
        plan: Plan,
        harm: impl FnOnce(&Lab, &[String]) -> Result<Vec<Wound>, String>,
    ) -> Result<Trial, String> {
        let lab = Lab::start(settings, replicas, &[])?;
        let names = lab.names()?;
        let begin = Instant::now();
        let (samples, wounds) = load::during(lab.data, plan, begin, || harm(&lab, &names))?;
        Ok(Trial { names, begin, samples, wounds })
    }

    /// Since the load began.
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
