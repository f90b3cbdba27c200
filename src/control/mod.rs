//! The control plane: one admin thread on a current-thread tokio runtime. It owns desired state and publishes snapshots.
//!
//! The registry decides and does nothing; what stands around it carries effects out and feeds commands back. No request of
//! a client passes here.
//!
//! | file | holds |
//! |---|---|
//! | `registry` | which replicas there are and what state they are in: a pure reducer of commands to effects |
//! | `control_core` | publication, stops, worker ends and tickets around the registry: pure; the loop and the simulation drive it, and it returns actions (effects and log lines) |
//! | `control_loop` | the admin thread: clock, tasks, channels, signals |
//! | `orphans` | what process 1 waits for beside its replicas |
//! | `signals` | which signals are handled, and what they ask for |
//! | `log_throttle` | workers' events as log lines, few enough to read: pure |
//! | `probe` | one health check of one replica |
//! | `runtime` | what starts and stops replicas: child processes, Docker containers, a fixed list |
//! | `admin_listener` | the socket of the admin API |
//! | `admin_seats` | which of its connections are served: it knows no HTTP |
//! | `write_deadline` | a stream whose peer must read |
//! | `admin` | the admin API over HTTP |
//! | `admin_access` | who may call it: pure |
//! | `wire` | its JSON |
//! | `questions` | what it answers about the ring: pure |
//! | `metrics` | its page for Prometheus: pure |
//! | `page` | its live page |
//! | `fuzz` | the body of the fuzz target for the admin API |

pub mod admin;
pub mod admin_access;
pub mod admin_listener;
pub mod control_core;
pub mod fuzz;
pub mod log_throttle;
pub mod metrics;
pub mod page;
pub mod probe;
pub mod questions;
pub mod registry;
pub mod runtime;
pub mod wire;

mod admin_seats;
mod control_loop;
mod orphans;
mod signals;
mod socket_file;
mod write_deadline;

pub use control_core::{ControlCore, End};
pub use control_loop::{ControlInit, Wakeup, serve};
