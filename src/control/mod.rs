//! The control plane: one admin thread on a current-thread tokio runtime. It owns desired state and publishes snapshots.
//!
//! The registry decides and does nothing; everything here carries its effects out and feeds commands back.

pub mod admin;
pub mod admin_listener;
pub mod fuzz;
pub mod log_throttle;
pub mod metrics;
pub mod page;
pub mod probe;
pub mod questions;
pub mod registry;
pub mod runtime;
pub mod wire;

mod control_loop;

pub use control_loop::{ControlInit, End, Wakeup, serve};
