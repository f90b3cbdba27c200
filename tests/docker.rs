//! Replicas as containers on a real engine: each fault under load, and what clients saw of it.
//! Run by name through scripts/test_docker, which builds the image and leaves nothing behind.

#[path = "docker/balancer.rs"]
mod balancer;
#[path = "docker/calls.rs"]
mod calls;
#[path = "docker/engines.rs"]
mod engines;
#[path = "docker/faults.rs"]
mod faults;
#[path = "docker/lab.rs"]
mod lab;
#[path = "docker/load.rs"]
mod load;
#[path = "docker/runtime.rs"]
mod runtime;
