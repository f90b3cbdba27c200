//! What the worker lends a session for one turn: time, choices, and the parts of the snapshot that protocols need.

use std::sync::Arc;

use super::buffer::Pool;
use super::limits::Limits;
use super::rewrite::Edits;
use super::snapshot::{Routes, Service};
use super::tick::Tick;

pub struct Turn<'a> {
    pub now: Tick,
    pub services: &'a [Arc<Service>],
    pub routes: &'a Routes,
    /// Every answer is a connection's last.
    pub stopping: bool,
    pub pool: &'a mut Pool,
    pub edits: &'a mut Edits,
    pub choices: &'a mut Choices,
    /// IMF-fixdate of this second (RFC 9110 section 5.6.7).
    pub date: &'a [u8],
}

impl<'a> Turn<'a> {
    pub fn service(&self, index: usize) -> Option<&'a Service> {
        self.services.get(index).map(|service| &**service)
    }

    /// A service that left the snapshot while it was in use leaves the defaults behind.
    pub fn limits(&self, service: usize) -> &'a Limits {
        self.service(service).map_or(&Limits::DEFAULT, |service| &service.limits)
    }
}

/// Choices come in from outside as one seed; equal seeds make equal choices (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    pub fn new(seed: u64) -> Choices {
        Choices(seed | 1)
    }

    pub fn draw(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }
}
