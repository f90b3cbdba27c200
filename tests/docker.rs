//! The Docker runtime on a real engine: each fault under load, and what clients notice of it.
//! scripts/test_docker runs these tests by name; it builds the image and removes all that they create.

#[path = "docker/balancer.rs"]
mod balancer;
#[path = "docker/calls.rs"]
mod calls;
#[path = "docker/engines.rs"]
mod engines;
#[path = "docker/faults.rs"]
mod faults;
#[path = "docker/foreign.rs"]
mod foreign;
#[path = "docker/images.rs"]
mod images;
#[path = "docker/lab.rs"]
mod lab;
#[path = "docker/load.rs"]
mod load;
#[path = "docker/rolling.rs"]
mod rolling;
#[path = "docker/runtime.rs"]
mod runtime;
#[path = "docker/slow_engine.rs"]
mod slow_engine;
#[path = "docker/swarm.rs"]
mod swarm;
