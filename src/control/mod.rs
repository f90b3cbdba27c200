//! The control plane: one admin thread on a current-thread tokio runtime. It owns desired state and publishes snapshots.
//!
//! The registry decides and does nothing; everything here carries its effects out and feeds commands back.

pub mod admin;
pub mod door;
pub mod fuzz;
pub mod journal;
pub mod metrics;
pub mod page;
pub mod probe;
pub mod questions;
pub mod registry;
pub mod runtime;
pub mod wire;

mod plane;

pub use plane::{Bell, Boot, End, serve};
